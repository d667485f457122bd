//! Kubernetes Events on transitions (T2).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use crate::api::condition::reason;
use crate::api::{Size, stable_hash};

/// The name of the controller in its events.
pub const CONTROLLER: &str = "reservoir-controller";

/// Publishes events. No decision depends on an event, so a failed publication is logged and not retried.
pub struct Events {
    publisher: Arc<Publisher>,
    /// Events that wait for publication in the background.
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

struct Publisher {
    client: Client,
    reporter: Reporter,
    recorders: Mutex<HashMap<Series, Recorder>>,
    /// The warnings that wait, by the UID of their object and by topic. They are lost with the process.
    waiting: Mutex<HashMap<String, BTreeMap<&'static str, Waiting>>>,
    /// The warnings that were published and have not ended, by the UID of their object.
    published: Mutex<HashMap<String, Vec<Published>>>,
}

/// A warning that was published.
struct Published {
    topic: &'static str,
    /// The hash of the message without its sizes.
    words: u64,
    /// The hash of the message.
    text: u64,
    at: Instant,
}

/// A warning that is published when it is due.
struct Waiting {
    due: Instant,
    event: Event,
    about: ObjectReference,
}

/// The most events in the queue. A reconcile with a further event waits for space.
const QUEUED: usize = 1000;
/// The time after which a warning that lasts is published again: the API server keeps an event for an hour by default.
const REPEAT: Duration = Duration::from_secs(45 * 60);
/// The time after which a warning is published again with other sizes. Of many objects that wait, each change of free space
/// would else be a write for each.
const NEW_SIZES: Duration = Duration::from_secs(5 * 60);
/// The most objects whose published warnings are in memory. At this number, all are dropped.
const WARNED: usize = 10_000;
/// The most events that are published at once.
const AT_ONCE: usize = 8;

/// The events that Kubernetes counts as one series: the same object, related object, reason and message. kube's
/// recorder ignores the message, so a new message would only raise the count of the old event.
type Series = (Option<String>, Option<String>, String, Option<String>);

/// The most recorders in memory. A recorder keeps its events for minutes; at this number, all recorders are dropped.
const REMEMBERED: usize = 200;

/// The longest name of an object about which kube's recorder can publish: the event's name has 17 characters more, and the
/// name of an API object has 253 at most.
const LONGEST_NAME: usize = 236;

impl Events {
    /// Events of the component `controller`, from the pod or node `instance`.
    pub fn new(client: Client, controller: &str, instance: &str) -> Self {
        let reporter = Reporter { controller: controller.to_owned(), instance: Some(instance.to_owned()) };
        let publisher = Arc::new(Publisher {
            client,
            reporter,
            recorders: Mutex::default(),
            waiting: Mutex::default(),
            published: Mutex::default(),
        });
        let (queue, queued) = mpsc::channel::<(Event, ObjectReference)>(QUEUED);
        let published_by = publisher.clone();
        let publish = move |(event, object)| {
            let publisher = published_by.clone();
            async move { publisher.publish(&event, &object).await }
        };
        // The task ends when the sender is dropped.
        tokio::spawn(ReceiverStream::new(queued).for_each_concurrent(AT_ONCE, publish));
        Self { publisher, queue }
    }
}

fn series(event: &Event, object: &ObjectReference) -> Series {
    let related = event.secondary.as_ref().and_then(|related| related.uid.clone());
    (object.uid.clone(), related, event.reason.clone(), event.note.clone())
}

impl Publisher {
    fn recorders(&self) -> MutexGuard<'_, HashMap<Series, Recorder>> {
        self.recorders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<&'static str, Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the warning that waits, if it is the one that is due then.
    fn take_due(&self, uid: &str, topic: &str, due: Instant) -> Option<Waiting> {
        let mut waiting = self.waiting();
        let topics = waiting.get_mut(uid)?;
        if topics.get(topic)?.due != due {
            return None;
        }
        let taken = topics.remove(topic);
        if topics.is_empty() {
            waiting.remove(uid);
        }
        taken
    }

    fn published(&self) -> MutexGuard<'_, HashMap<String, Vec<Published>>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the warning was published recently, or with other sizes a moment ago.
    fn has_published(&self, uid: &str, topic: &str, warning: &Event) -> bool {
        let (words, text) = (words(warning), text(warning));
        let is_same = |old: &Published| {
            let lasts = if old.text == text { REPEAT } else { NEW_SIZES };
            old.topic == topic && old.words == words && old.at.elapsed() < lasts
        };
        self.published().get(uid).is_some_and(|all| all.iter().any(is_same))
    }

    fn note(&self, uid: &str, topic: &'static str, warning: &Event) {
        let mut published = self.published();
        if published.len() >= WARNED && !published.contains_key(uid) {
            published.clear();
        }
        let all = published.entry(uid.to_owned()).or_default();
        let (words, text) = (words(warning), text(warning));
        // Of the messages that differ in their sizes, the last one counts.
        all.retain(|old| old.at.elapsed() < REPEAT && (old.topic != topic || old.words != words));
        all.push(Published { topic, words, text, at: Instant::now() });
    }

    fn recorder(&self, event: &Event, object: &ObjectReference) -> Recorder {
        let (series, mut recorders) = (series(event, object), self.recorders());
        if recorders.len() == REMEMBERED && !recorders.contains_key(&series) {
            recorders.clear();
        }
        let new = || Recorder::new(self.client.clone(), self.reporter.clone());
        recorders.entry(series).or_insert_with(new).clone()
    }

    async fn publish(&self, event: &Event, object: &ObjectReference) {
        // The recorder is made for either kind of name: it remembers that the event was published.
        let recorder = self.recorder(event, object);
        let published = match object.name.as_ref().is_some_and(|name| name.len() > LONGEST_NAME) {
            true => self.publish_about_a_long_name(event, object).await,
            false => recorder.publish(event, object).await,
        };
        if let Err(error) = published {
            let (kind, name, reason) = (object.kind.as_deref(), object.name.as_deref(), &event.reason);
            tracing::warn!(kind, object = name, reason, %error, "failed to publish an event");
        }
    }

    /// Publishes without a series: kube's recorder, which counts series, makes the names of the events itself.
    async fn publish_about_a_long_name(
        &self,
        event: &Event,
        object: &ObjectReference,
    ) -> Result<(), kube::Error> {
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let created = ApiEvent {
            metadata: ObjectMeta {
                // The API server appends five random characters.
                generate_name: object.name.as_ref().map(|name| format!("{}-", &name[..LONGEST_NAME])),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(event.action.clone()),
            event_time: Some(MicroTime(Timestamp::now())),
            note: event.note.clone(),
            reason: Some(event.reason.clone()),
            regarding: Some(object.clone()),
            related: event.secondary.clone(),
            reporting_controller: Some(self.reporter.controller.clone()),
            reporting_instance: self.reporter.instance.clone(),
            type_: Some(if event.type_ == EventType::Normal { "Normal" } else { "Warning" }.to_owned()),
            ..ApiEvent::default()
        };
        let api: Api<ApiEvent> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &created).await.map(drop)
    }
}

/// The hash of the message of an event.
fn text(event: &Event) -> u64 {
    stable_hash(event.note.as_deref().unwrap_or_default())
}

/// The hash of the message of an event without its sizes and counts, which change while the reason stays the same.
fn words(event: &Event) -> u64 {
    let is_size = |word: &&str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        Size::written(bare).bytes().is_ok() || bare == "0"
    };
    let note = event.note.as_deref().unwrap_or_default();
    let words: Vec<&str> = note.split(' ').filter(|word| !is_size(word)).collect();
    stable_hash(&words.join(" "))
}

fn event(ok: bool, action: &str, reason: &str, message: &str, related: Option<ObjectReference>) -> Event {
    Event {
        type_: if ok { EventType::Normal } else { EventType::Warning },
        reason: reason.to_owned(),
        note: Some(message.chars().take(1000).collect()),
        action: action.to_owned(),
        secondary: related,
    }
}

impl Events {
    /// Publishes an event about `object`, and waits for the write. Events with different `related` objects are separate
    /// series.
    pub async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        related: Option<ObjectReference>,
        ok: bool,
        action: &str,
        reason: &str,
        message: &str,
    ) {
        let about = object.object_ref(&());
        tracing::info!(kind = about.kind, object = about.name, reason, "{message}");
        let event = event(ok, action, reason, message, related);
        self.publisher.publish(&event, &about).await;
    }

    /// Publishes a warning about `object` after that time, unless [`Self::settle`] is called before. A further warning of
    /// the topic replaces the one that waits, and does not begin the time anew. A warning that was published and has not
    /// ended is published again when its event expires, or after five minutes if its message has other sizes by then.
    pub fn warn_if_it_lasts<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        topic: &'static str,
        (action, reason, message): (&str, &str, &str),
        after: Duration,
    ) {
        let warning = event(false, action, reason, message, None);
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        if !self.publisher.has_published(uid, topic, &warning) {
            self.wait(object, topic, warning, after);
        }
    }

    /// True if a warning of the topic waits, or was published and has not ended.
    pub fn has_warning<K: Resource<DynamicType = ()>>(&self, object: &K, topic: &str) -> bool {
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        let waits = self.publisher.waiting().get(uid).is_some_and(|topics| topics.contains_key(topic));
        let is_it = |old: &Published| old.topic == topic;
        waits || self.publisher.published().get(uid).is_some_and(|all| all.iter().any(is_it))
    }

    /// Drops the warning of the topic that waits: its cause is over.
    pub fn settle<K: Resource<DynamicType = ()>>(&self, object: &K, topic: &str) {
        self.settle_published(object, topic);
    }

    /// The same; returns true if a warning of the topic was published.
    pub fn settle_published<K: Resource<DynamicType = ()>>(&self, object: &K, topic: &str) -> bool {
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        let mut published = self.publisher.published();
        let mut was_published = false;
        if let Some(all) = published.get_mut(uid) {
            was_published = all.iter().any(|old| old.topic == topic);
            all.retain(|old| old.topic != topic);
            if all.is_empty() {
                published.remove(uid);
            }
        }
        drop(published);
        let mut waiting = self.publisher.waiting();
        if let Some(topics) = waiting.get_mut(uid) {
            topics.remove(topic);
            if topics.is_empty() {
                waiting.remove(uid);
            }
        }
        was_published
    }

    /// Drops all warnings that wait about an object that is gone.
    pub fn forget<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        self.publisher.waiting().remove(uid);
        self.publisher.published().remove(uid);
    }

    fn wait<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        topic: &'static str,
        event: Event,
        after: Duration,
    ) {
        let (about, uid) = (object.object_ref(&()), object.meta().uid.clone().unwrap_or_default());
        let due = Instant::now() + after;
        match self.publisher.waiting().entry(uid.clone()).or_default().entry(topic) {
            Entry::Occupied(mut waits) => return waits.get_mut().event = event,
            Entry::Vacant(none) => drop(none.insert(Waiting { due, event, about })),
        }
        // A controller that has ended says nothing any more.
        let (publisher, queue) = (Arc::downgrade(&self.publisher), self.queue.downgrade());
        tokio::spawn(async move {
            sleep_until(due).await;
            let waited = publisher.upgrade().and_then(|publisher| {
                let waited = publisher.take_due(&uid, topic, due)?;
                publisher.note(&uid, topic, &waited.event);
                Some(waited)
            });
            if let (Some(Waiting { event, about, .. }), Some(queue)) = (waited, queue.upgrade()) {
                let _ = queue.send((event, about)).await;
            }
        });
    }

    /// Logs a transition of a condition of `object`.
    pub fn log_transition<K: Resource<DynamicType = ()>>(&self, object: &K, is: &Condition) {
        let about = object.object_ref(&());
        tracing::info!(
            kind = about.kind,
            namespace = about.namespace,
            object = about.name,
            condition = is.type_,
            status = is.status,
            reason = is.reason,
            "{}",
            is.message
        );
    }

    /// Queues an event of a condition.
    pub async fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, is: &Condition) {
        let ok = is.status == "True" || is.reason == reason::RETIRE_WITHDRAWN;
        // The send cannot fail: the receiver lives as long as this sender.
        let _ = self.queue.send((of_condition(is, ok), object.object_ref(&()))).await;
    }

    /// Gives a warning that waits the message of its condition.
    pub fn reword<K: Resource<DynamicType = ()>>(&self, object: &K, topic: &str, is: &Condition) {
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        if let Some(waits) = self.publisher.waiting().get_mut(uid).and_then(|topics| topics.get_mut(topic)) {
            waits.event = of_condition(is, false);
        }
    }

    /// Queues a warning of a condition after that time, unless [`Self::settle`] is called for its type before.
    pub fn tell_if_it_lasts<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        topic: &'static str,
        is: &Condition,
        after: Duration,
    ) {
        self.wait(object, topic, of_condition(is, false), after);
    }
}

fn of_condition(is: &Condition, ok: bool) -> Event {
    event(ok, "Reconcile", &is.reason, &is.message, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F2: numbers of five minutes ago are told anew, and others less often than each change of free space.
    #[tokio::test(start_paused = true)]
    async fn f2_a_warning_is_published_again_with_new_sizes() {
        let no_answer = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("there is no API server"))
        });
        let events = Events::new(Client::new(no_answer, "default"), "test", "n1");
        let of = |size: &str| event(false, "Provision", "F", &format!("eng has {size} left"), None);
        let has = |size: &str| events.publisher.has_published("u", "F", &of(size));
        assert!(!has("0"));
        events.publisher.note("u", "F", &of("0"));
        assert!(has("0") && has("1Gi"));
        tokio::time::advance(NEW_SIZES).await;
        assert!(has("0") && !has("1Gi"), "the event says 0");
        events.publisher.note("u", "F", &of("1Gi"));
        assert!(has("1Gi") && has("0"));
        tokio::time::advance(REPEAT).await;
        assert!(!has("1Gi"));
    }

    /// F2: free space changes with each volume of others.
    #[test]
    fn f2_a_warning_with_other_sizes_is_the_same() {
        let of = |message: &str| words(&event(false, "Provision", "ProvisioningFailed", message, None));
        let first =
            of("on node n1: 3Gi asked for, r has 2Gi left and s-2 has 0 left; another node is looked for");
        for (message, same) in [
            (
                "on node n1: 3Gi asked for, r has 1536Mi left and s-2 has 17 left; another node is looked for",
                true,
            ),
            (
                "on node n2: 3Gi asked for, r has 2Gi left and s-2 has 0 left; another node is looked for",
                false,
            ),
            (
                "on node n1: 3Gi asked for, r has 2Gi left and s-3 has 0 left; another node is looked for",
                false,
            ),
        ] {
            assert_eq!(of(message) == first, same, "{message}");
        }
    }
}
