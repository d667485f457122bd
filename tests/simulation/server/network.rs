//! The way between a client and the API server: it takes time, and everything may go wrong on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep_until;

use super::kinds::KINDS;
use super::object::{Body as Answered, Object};
use super::requests::{Answer, Request, as_partial, unavailable};
use super::select::Selector;
use super::strike;
use super::{Shared, lock};
use crate::clock;

/// How often what goes wrong, in a thousand requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The request never arrives.
    pub lost: u64,
    /// The request is carried out, and the answer never arrives.
    pub unanswered: u64,
    /// 429 or 503.
    pub refused: u64,
    /// A watch ends, or begins with an old state, or is too old to go on (410).
    pub broken_watch: u64,
    /// So many revisions old are the lists with which watches begin; 0: none is.
    pub old: u64,
    /// Longest time on the way, in milliseconds.
    pub slow: u64,
    /// True while no request is answered.
    pub away: bool,
}

type Streamed = std::pin::Pin<Box<dyn http_body::Body<Data = Bytes, Error = std::io::Error> + Send>>;

/// A client of the simulated API server. `who` is its name in the story.
pub fn client(server: &Shared, who: &str) -> Client {
    let (server, who): (Shared, Arc<str>) = (server.clone(), who.into());
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (server, who) = (server.clone(), who.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
            if head.uri.path().ends_with("/selfsubjectreviews") {
                let user = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                    "status": {"userInfo": {"username": &*who}}});
                return Ok(response(201, whole(user)));
            }
            let Some(request) = parse(&head, &body) else {
                let answer = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "reason": "NotFound", "code": 404, "message": "no such kind"});
                return Ok(response(404, whole(answer)));
            };
            if request.is_watch() {
                return watch(server, who, request).await;
            }
            let (sender, answer) = oneshot::channel();
            // The API server carries out a request also after its client has died.
            tokio::spawn(carry_out(server.clone(), who.clone(), request, sender));
            let (code, body) = answer.await.map_err(|_| std::io::Error::other("the connection was reset"))?;
            Ok::<_, std::io::Error>(response(code, whole(body)))
        }
    });
    Client::new(service, "default")
}

/// Waits for a moment of its own.
async fn slot(server: &Shared, longest: u64) {
    let at = {
        let mut server = lock(server);
        let now = clock::elapsed().as_millis() as u64;
        let mut at = now + 1 + server.random.below(longest);
        while !server.slots.insert(at) {
            at += 1;
        }
        while server.slots.first().is_some_and(|slot| *slot < now) {
            server.slots.pop_first();
        }
        at
    };
    sleep_until(clock::start() + Duration::from_millis(at)).await;
}

async fn carry_out(server: Shared, who: Arc<str>, request: Request, sender: oneshot::Sender<Answer>) {
    let fate = strike::fate(&server, &who, &request).await;
    let (is_lost, is_unanswered, refused, longest, epoch) = {
        let mut server = lock(&server);
        let faults = server.faults;
        let code = if server.random.in_a_thousand(500) { 429 } else { 503 };
        let refused = server.random.in_a_thousand(faults.refused).then_some(code).or(fate.refused);
        let is_lost = faults.away || server.random.in_a_thousand(faults.lost) || fate.is_lost;
        let is_unanswered = server.random.in_a_thousand(faults.unanswered) || fate.is_unanswered;
        (is_lost, is_unanswered, refused, faults.slow.max(5), server.epoch)
    };
    let sender = match fate.is_late {
        false => Some(sender),
        true => {
            tokio::time::sleep(strike::PATIENCE).await;
            drop(sender);
            tokio::time::sleep(strike::LATE).await;
            None
        }
    };
    slot(&server, longest).await;
    if is_lost || lock(&server).epoch != epoch {
        // The client learns that when its time is over.
        tokio::time::sleep(Duration::from_secs(5)).await;
        lock(&server).tell(|| format!("{who}: {} is lost on the way", request.describe()));
        return;
    }
    let answer = {
        let mut server = lock(&server);
        let answer = match refused {
            Some(code) => unavailable(code),
            None => server.answer(&who, &request),
        };
        server.requests += 1;
        // Names and times of events are those of the wall clock.
        let (text, heard) = match request.plural {
            _ if server.story.is_none() => Default::default(),
            "events" => {
                (format!("event {} {}", request.body["regarding"], request.body["note"]), Bytes::new())
            }
            _ => {
                let text = format!("{} {} {}", request.describe(), request.body, answer.0);
                (text, answer.1.json())
            }
        };
        server.hear(&who, text.as_bytes());
        server.hear("answer", &heard);
        if answer.0 >= 400 && answer.0 != 404 {
            let why = answer.1.value()["message"].as_str().unwrap_or_default().to_owned();
            server.tell(|| format!("{who}: {} is refused with {}: {why}", request.describe(), answer.0));
        }
        if request.plural == "events" {
            let note = request.body["note"].as_str().unwrap_or_default().to_owned();
            server.tell(|| format!("{who}: event: {note}"));
        }
        answer
    };
    if is_unanswered {
        lock(&server)
            .tell(|| format!("{who}: {} is carried out, and its answer is lost", request.describe()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        return;
    }
    slot(&server, longest).await;
    if let Some(sender) = sender {
        let _ = sender.send(answer);
    }
}

impl Request {
    pub fn describe(&self) -> String {
        let sub = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        // Names of events are those of the wall clock.
        let name = if self.plural == "events" { "" } else { &*self.name };
        format!("{} {} {}/{name}{sub}", self.method, self.plural, self.namespace)
    }
}

fn response(code: u16, body: Streamed) -> http::Response<Streamed> {
    let answer = http::Response::builder().status(code).header("content-type", "application/json");
    answer.body(body).expect("the status code is valid")
}

fn whole(body: impl Into<Answered>) -> Streamed {
    bytes(body.into().json())
}

fn bytes(bytes: impl Into<Bytes>) -> Streamed {
    Box::pin(StreamBody::new(stream::iter([Ok(Frame::data(bytes.into()))])))
}

/// The request for an object of a known kind.
pub fn parse(head: &http::request::Parts, body: &[u8]) -> Option<Request> {
    let parts: Vec<&str> = head.uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let mut parts = match parts.as_slice() {
        ["api", _version, rest @ ..] | ["apis", _, _version, rest @ ..] => rest,
        _ => return None,
    };
    let mut namespace = String::new();
    if let ["namespaces", name, rest @ ..] = parts
        && !rest.is_empty()
    {
        (namespace, parts) = ((*name).to_owned(), rest);
    }
    let (plural, rest) = parts.split_first()?;
    let plural = *KINDS.get_key_value(*plural)?.0;
    let query = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Some(Request {
        method: head.method.to_string(),
        plural,
        namespace,
        name: rest.first().copied().unwrap_or_default().to_owned(),
        subresource: rest.get(1).copied().unwrap_or_default().to_owned(),
        query: query.map(|(key, value)| (key.to_owned(), decoded(value))).collect(),
        content_type: header("content-type").to_owned(),
        partial: header("accept").contains("as=PartialObjectMetadata"),
        body: serde_json::from_slice(body).unwrap_or(Value::Null),
    })
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (b'+', _) => {
                decoded.push(b' ');
                at += 1;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A watch: what it is of, and how far it is.
struct Watch {
    server: Shared,
    who: Arc<str>,
    request: Request,
    selector: Selector,
    news: Arc<Notify>,
    /// The events of the first list that are still to come.
    first: std::collections::VecDeque<Vec<u8>>,
    /// The next revision in the log.
    next: usize,
    ends: tokio::time::Instant,
    /// [`Server::epoch`] when the watch began.
    epoch: (u64, u64, Option<u64>),
    /// True after an error.
    is_over: bool,
}

/// The last event of a watch whose next revisions are no longer known.
fn too_old() -> Vec<u8> {
    error_event(410, "Expired", "too old resource version")
}

fn error_event(code: u16, reason: &str, message: &str) -> Vec<u8> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "code": code, "message": message});
    event_line("ERROR", &Object::from(status))
}

/// The line of an event, as a watch has it.
fn event_line(kind: &str, object: &Object) -> Vec<u8> {
    let json = object.json();
    let mut line = Vec::with_capacity(json.len() + 40);
    for part in [b"{\"type\":\"", kind.as_bytes(), b"\",\"object\":", json, b"}\n"] {
        line.extend_from_slice(part);
    }
    line
}

fn event_of(kind: &str, object: &Object, is_partial: bool) -> Vec<u8> {
    match is_partial {
        true => event_line(kind, &as_partial(object).into()),
        false => event_line(kind, object),
    }
}

async fn watch(
    server: Shared,
    who: Arc<str>,
    request: Request,
) -> Result<http::Response<Streamed>, std::io::Error> {
    let longest = lock(&server).faults.slow.max(5);
    slot(&server, longest).await;
    let refused = {
        let mut server = lock(&server);
        if server.faults.away {
            return Err(std::io::Error::other("the API server is away"));
        }
        let often = server.faults.refused;
        let is_gone = server.gone_kinds.contains(request.plural);
        match server.random.in_a_thousand(often) {
            true => Some(if server.random.in_a_thousand(500) { 429 } else { 503 }),
            false => is_gone.then_some(404),
        }
    };
    if let Some(code) = refused {
        return Ok(response(code, whole(unavailable(code).1)));
    }
    let (first, next, news, epoch) = {
        let mut locked = lock(&server);
        let server = &mut *locked;
        let newest = server.store.version;
        let asked: u64 = request.query("resourceVersion").parse().unwrap_or(0);
        let is_list = request.query("sendInitialEvents") == "true";
        if !is_list && asked < server.compacted {
            // A real server says so in an event. kube's watcher lists again after that event, and never after a status 410.
            server.tell(|| format!("{who}: watch {} from {asked} is too old", request.describe()));
            return Ok(response(200, bytes(too_old())));
        }
        // Version 0 means any state: an API server that lags behind answers with an old one.
        let faults = server.faults;
        let is_old = server.random.in_a_thousand(faults.broken_watch);
        let back = match faults.old {
            0 if is_old => server.random.below(30),
            old => old,
        };
        let back = back.min(newest - server.compacted);
        let from = if is_list { newest - back } else { asked };
        let mut first = std::collections::VecDeque::new();
        if is_list {
            let selector = request.selector();
            for object in server.store.list_at(request.plural, &request.namespace, from) {
                if selector.fits(&object) {
                    first.push_back(event_of("ADDED", &object, request.partial));
                }
            }
            let kind = &KINDS[request.plural];
            let end = json!({
                "kind": kind.kind, "apiVersion": kind.api_version(),
                "metadata": {"resourceVersion": from.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
            });
            first.push_back(event_line("BOOKMARK", &end.into()));
        }
        let next = server.store.log.partition_point(|revision| revision.version <= from);
        let news = Arc::new(Notify::new());
        server.watchers.entry(request.plural).or_default().push(Arc::downgrade(&news));
        server.hear(&who, format!("watch {} from {from}", request.describe()).as_bytes());
        (first, next, news, server.epoch(request.plural))
    };
    let selector = request.selector();
    let longest = request.query("timeoutSeconds").parse().unwrap_or(290);
    let ends = tokio::time::Instant::now() + Duration::from_secs(longest);
    let watch = Watch { server, who, request, selector, news, first, next, ends, epoch, is_over: false };
    let events = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok(Frame::data(Bytes::from(line))), watch))
    });
    Ok(response(200, Box::pin(StreamBody::new(events))))
}

impl Watch {
    /// The line of the next event.
    async fn next(&mut self) -> Option<Vec<u8>> {
        if self.is_over || lock(&self.server).epoch(self.request.plural) != self.epoch {
            return None;
        }
        if let Some(event) = self.first.pop_front() {
            if self.first.is_empty() {
                slot(&self.server, 5).await;
            }
            return Some(event);
        }
        loop {
            let (event, longest) = {
                let server = lock(&self.server);
                if server.epoch(self.request.plural) != self.epoch {
                    return None;
                }
                let (plural, namespace) = (self.request.plural, self.request.namespace.as_str());
                let (next, event) = server.store.next_event(self.next, plural, namespace, &self.selector);
                self.next = next;
                (event, server.faults.slow.max(5))
            };
            if let Some((kind, object)) = event {
                slot(&self.server, longest).await;
                let mut server = lock(&self.server);
                let faults = server.faults;
                if faults.away || server.random.in_a_thousand(faults.broken_watch) {
                    // The client resumes, or lists again.
                    match server.random.below(4) {
                        0 | 1 => server.compacted = server.store.version,
                        2 => {}
                        _ => return None,
                    }
                    self.is_over = true;
                    return Some(match server.compacted == server.store.version {
                        true => too_old(),
                        false => error_event(500, "InternalError", "etcdserver: leader changed"),
                    });
                }
                if server.story.is_some() {
                    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                    let text = format!("{kind} {} {version}", self.request.plural);
                    server.hear(&self.who, text.as_bytes());
                }
                return Some(event_of(kind, &object, self.request.partial));
            }
            let news = tokio::time::timeout_at(self.ends, self.news.notified());
            if news.await.is_err() {
                return None;
            }
        }
    }
}
