//! A person who asks: the functions of `kubectl reservoir` itself, against the API server in memory (T4).

use std::sync::Arc;

use bytes::Bytes;
use kube::Client;
use kube::client::Body;
use reservoir::plugin;
use serde_json::{Value, json};

use crate::by_hand;
use crate::kubernetes::{self, AGENTS, text};
use crate::random::Random;
use crate::server::{self, Object, Server, Shared, lock};
use crate::users::NAMESPACES;
use crate::world::World;

/// Short and plural name of the kinds that people ask about.
pub const KINDS: [(&str, &str); 9] = [
    ("nd", "nodedisks"),
    ("dr", "diskreservations"),
    ("spv", "sharedpersistentvolumes"),
    ("vrole", "volumeroles"),
    ("vclaim", "volumeclaims"),
    ("rsub", "rolesubscriptions"),
    ("offer", "volumeoffers"),
    ("pod", "pods"),
    ("pvc", "persistentvolumeclaims"),
];

/// The name of the person in the story.
const WHO: &str = "operator";

/// A client for `kubectl reservoir`. By the network a request takes time, and fails as those of others do. Otherwise it is
/// answered at once, so that all answers are of one state.
pub fn client(server: &Shared, by_network: bool) -> Client {
    let server = server.clone();
    let network = by_network.then(|| server::client(&server, WHO));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (server, network) = (server.clone(), network.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            if let Some((code, answer)) = installation(&head, &body) {
                return Ok(response(code, answer.to_string().into()));
            }
            if let Some(network) = network {
                return network.send(http::Request::from_parts(head, Body::from(body))).await;
            }
            let request = server::parse(&head, &body).expect("another kind is of the installation");
            let (code, answer) = lock(&server).answer(WHO, &request);
            Ok(response(code, answer.json()))
        }
    });
    Client::new(service, "default")
}

fn response(code: u16, body: Bytes) -> http::Response<Body> {
    let answer = http::Response::builder().status(code).header("content-type", "application/json");
    answer.body(Body::from(body)).expect("the status code is valid")
}

/// The answer about what the simulation does not have: the version, the rights of the person, who may do everything, and kinds
/// without an object.
fn installation(head: &http::request::Parts, body: &[u8]) -> Option<(u16, Value)> {
    let path = head.uri.path();
    Some(match path.rsplit('/').next()? {
        "version" => {
            let mut version = json!({"major": "1", "minor": "36"});
            for field in
                ["buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "platform"]
            {
                version[field] = json!("");
            }
            (200, version)
        }
        "selfsubjectreviews" => (201, json!({"metadata": {}, "status": {"userInfo": {"username": WHO}}})),
        "selfsubjectaccessreviews" => (201, json!({"metadata": {}, "spec": {}, "status": {"allowed": true}})),
        _ if path == "/apis/admissionregistration.k8s.io/v1" => {
            let policy = json!({"name": "mutatingadmissionpolicies", "singularName": "mutatingadmissionpolicy",
                "namespaced": false, "kind": "MutatingAdmissionPolicy", "verbs": []});
            (200, json!({"groupVersion": "admissionregistration.k8s.io/v1", "resources": [policy]}))
        }
        _ if server::parse(head, body).is_none() => {
            (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []}))
        }
        _ => return None,
    })
}

/// The words of a question about an object: `spv/v1`, or `vclaim/c1 -n blue`.
pub fn words(short: &str, object: &Value) -> Vec<String> {
    let metadata = &object["metadata"];
    let mut words = vec![format!("{short}/{}", text(&metadata["name"]))];
    if let Some(namespace) = metadata["namespace"].as_str() {
        words.extend(["-n".to_owned(), namespace.to_owned()]);
    }
    words
}

/// All objects that people ask about, with the short names of their kinds.
pub fn objects(server: &Server) -> Vec<(&'static str, Arc<Object>)> {
    let of = |(short, plural): (&'static str, &'static str)| {
        kubernetes::objects(server, plural).into_iter().map(move |object| (short, object))
    };
    let is_asked_about = |(_, object): &(&str, Arc<Object>)| object["metadata"]["namespace"] != AGENTS;
    KINDS.into_iter().flat_map(of).filter(is_asked_about).collect()
}

/// Runs a command. A panic is an error.
pub async fn ask(client: &Client, words: &[&str]) -> Result<String, String> {
    let (client, words): (_, Vec<String>) =
        (client.clone(), words.iter().map(|&word| word.to_owned()).collect());
    let asked = tokio::spawn(async move {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        plugin::ask(&client, &words).await
    });
    match asked.await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(died) => Err(format!("{PANIC}: {died}")),
    }
}

/// The begin of the error of a command that panicked.
const PANIC: &str = "a panic";

/// Errors of views while the network fails, kinds are deleted and objects go.
const EXCUSED: [&str; 6] = [
    "the cluster does not answer",
    "this cluster does not have Reservoir's kinds",
    "there is no ",
    "was destroyed, and its data is kept",
    "try again",
    "could not find the requested resource",
];

impl World {
    /// Now and then somebody asks, changes something with a command, or does by hand what nobody expects.
    pub fn act_by_hand(&mut self) {
        let may_recover = has_orphans(&lock(&self.server));
        match self.random.below(1000) {
            0..100 if may_recover => drop(tokio::spawn(apply_recovered(self.server.clone()))),
            0..4 => act(&self.server, &mut self.random),
            4..11 => by_hand::act(&mut lock(&self.server), &mut self.random),
            _ => {}
        }
    }
}

/// True while a disk has data without an object.
fn has_orphans(server: &Server) -> bool {
    let mut disks = server.store.list("nodedisks", "");
    disks.any(|(_, disk)| disk["status"]["orphans"].as_array().is_some_and(|all| !all.is_empty()))
}

fn act(server: &Shared, random: &mut Random) {
    let is_look = random.in_a_thousand(600);
    let line = match is_look {
        true => look(&lock(server), random),
        false => change(&lock(server), random),
    };
    let Some(line) = line else { return };
    let (server, client) = (server.clone(), client(server, true));
    tokio::spawn(async move {
        lock(&server).tell(|| format!("{WHO} asks: {line}"));
        let words: Vec<&str> = line.split(' ').collect();
        let Err(error) = ask(&client, &words).await else { return };
        lock(&server).tell(|| format!("{WHO} reads: {error}"));
        // Changes are refused for many reasons.
        let is_excused = !is_look || EXCUSED.iter().any(|excused| error.contains(excused));
        if error.starts_with(PANIC) || !is_excused {
            lock(&server).violations.push(format!("T4: kubectl reservoir {line}: {error}"));
        }
    });
}

fn look(server: &Server, random: &mut Random) -> Option<String> {
    let format = *random.pick(&["", " -o json", " -o yaml"])?;
    let line = match random.below(16) {
        0 => "status".into(),
        1 => "tree".into(),
        2 => format!("tree --role {}", random.pick(&["eng", "eng/ml", "enf"])?),
        3 => format!("status -n {}", random.pick(&NAMESPACES)?),
        4 => "doctor".into(),
        5 => "orphans".into(),
        6 => "kept".into(),
        7 => "recover".into(),
        8 => "disks --discover".into(),
        9 => format!("who-can use {}", random.pick(&["eng", "ops"])?),
        // Names that are seldom there.
        10 => {
            let kind = random.pick(&KINDS)?.0;
            format!(
                "why {kind}/{}{} -n blue",
                random.pick(&["v", "c", "r", "d", "n1.default"])?,
                random.below(12)
            )
        }
        _ => {
            let all = objects(server);
            let (short, object) = random.pick(&all)?;
            format!("why {}", words(short, object).join(" "))
        }
    };
    Some(line + format)
}

/// A command that changes something. The objects exist more often than not.
fn change(server: &Server, random: &mut Random) -> Option<String> {
    let size = format!("{}Gi", 1 + random.below(30));
    let mut name = |plural| {
        let all = kubernetes::objects(server, plural);
        random
            .pick(&all)
            .map(|object| (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"])))
    };
    let (volume, reservation) = (name("sharedpersistentvolumes")?.1, name("diskreservations")?.1);
    let claim = name("volumeclaims");
    let kept = server.all::<Value>("diskreservations").iter().find_map(|of| {
        let entries = of["status"]["volumes"].as_array()?;
        entries.iter().find(|entry| entry["kept"].is_object()).map(|entry| text(&entry["uid"]))
    });
    let namespace = *random.pick(&NAMESPACES)?;
    Some(match random.below(12) {
        0 => format!("resize spv/{volume} {size}"),
        1 => format!("resize dr/{reservation} {size}"),
        2 => format!("retire {volume}"),
        3 | 4 => format!("unretire {volume}"),
        5 => format!("subscribe eng ops -n {namespace}"),
        6 => format!("unsubscribe ops -n {namespace}"),
        7 => format!("delete spv/{volume}"),
        8 => format!("delete dr/{reservation}"),
        9 => {
            let (namespace, claim) = claim?;
            format!("unclaim {claim} -n {namespace}")
        }
        10 => format!("undelete {} --name v{}", kept?, random.below(8)),
        _ => format!("claim c{} --role eng --volume {volume} -n {namespace}", random.below(6)),
    })
}

/// Applies what `recover` prints, as a person does after the loss of etcd.
async fn apply_recovered(server: Shared) {
    let client = client(&server, true);
    let Ok(printed) = ask(&client, &["recover", "-o", "json"]).await else { return };
    let list: Value = serde_json::from_str(&printed).unwrap_or_default();
    for object in list["items"].as_array().into_iter().flatten() {
        let plural = match object["kind"].as_str() {
            Some("DiskReservation") => "diskreservations",
            _ => "sharedpersistentvolumes",
        };
        let request =
            server::Request { method: "POST".into(), plural, body: object.clone(), ..Default::default() };
        lock(&server).answer(WHO, &request);
    }
}
