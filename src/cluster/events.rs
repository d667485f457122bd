//! Events on transitions (T2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::condition::{self, READY, RESIZED, RETIRING, reason};

/// Publishes events; one that cannot be published is logged and forgotten, for it decides nothing.
pub struct Events {
    publisher: Arc<Publisher>,
    /// Those that nobody waits for.
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

struct Publisher {
    client: Client,
    reporter: Reporter,
    recorders: Mutex<HashMap<Told, Recorder>>,
}

/// How many may wait to be published; whoever comes on top of that waits, too.
const QUEUED: usize = 1000;
/// How many are published at once.
const AT_ONCE: usize = 8;

/// What is counted as told again: the object, a related one, the reason, and the sentence. A recorder by itself does not look at
/// the sentence, and what is new would never be read.
type Told = (Option<String>, Option<String>, String, Option<String>);

/// A recorder keeps its event whole for minutes. After so many all are forgotten, so that this stays small whatever happens
/// at once.
const REMEMBERED: usize = 200;

/// Stations on the way that the conditions tell well enough.
const QUIET: [&str; 5] =
    [reason::CREATING, reason::BINDING, reason::RELEASING, reason::AGENT_SILENT, reason::RESIZING];

impl Events {
    /// Events in the name of `controller`, from the instance (pod or node) `instance`.
    pub fn new(client: Client, controller: &str, instance: &str) -> Self {
        let reporter = Reporter { controller: controller.to_owned(), instance: Some(instance.to_owned()) };
        let publisher = Arc::new(Publisher { client, reporter, recorders: Mutex::default() });
        let (queue, queued) = mpsc::channel::<(Event, ObjectReference)>(QUEUED);
        let published_by = publisher.clone();
        let publish = move |(event, object)| {
            let publisher = published_by.clone();
            async move { publisher.publish(&event, &object).await }
        };
        // Ends with the sender.
        tokio::spawn(ReceiverStream::new(queued).for_each_concurrent(AT_ONCE, publish));
        Self { publisher, queue }
    }
}

impl Publisher {
    fn recorder(&self, event: &Event, object: &ObjectReference) -> Recorder {
        let related = event.secondary.as_ref().and_then(|related| related.uid.clone());
        let told = (object.uid.clone(), related, event.reason.clone(), event.note.clone());
        let mut recorders = self.recorders.lock().unwrap_or_else(|e| e.into_inner());
        if recorders.len() == REMEMBERED && !recorders.contains_key(&told) {
            recorders.clear();
        }
        let new = || Recorder::new(self.client.clone(), self.reporter.clone());
        recorders.entry(told).or_insert_with(new).clone()
    }

    async fn publish(&self, event: &Event, object: &ObjectReference) {
        if let Err(error) = self.recorder(event, object).publish(event, object).await {
            let (kind, reason) = (object.kind.as_deref(), &event.reason);
            tracing::warn!(kind, reason, %error, "failed to publish an event");
        }
    }
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
    /// One event about `object`, before this returns; of the same about different `related` objects each is kept.
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

    /// An event for each of these that says something else than before: another status or another reason. It is
    /// published by the way.
    pub async fn on_transition<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        before: &[Condition],
        after: &[Condition],
    ) {
        for type_ in [READY, RESIZED, RETIRING] {
            let Some(is) = condition::get(after, type_) else { continue };
            let was = condition::get(before, type_);
            let same = was.is_some_and(|was| was.status == is.status && was.reason == is.reason);
            if same {
                continue;
            }
            // One line for each decision, the stations on its way too.
            let about = object.object_ref(&());
            tracing::info!(
                kind = about.kind,
                namespace = about.namespace,
                object = about.name,
                condition = type_,
                status = is.status,
                reason = is.reason,
                "{}",
                is.message
            );
            if !QUIET.contains(&is.reason.as_str()) {
                // That a retired volume waits is no trouble.
                let ok = is.status == "True" || is.reason == reason::RETIRE_WITHDRAWN;
                let event = event(ok, "Reconcile", &is.reason, &is.message, None);
                // It is received for as long as there is a sender.
                let _ = self.queue.send((event, about)).await;
            }
        }
    }
}
