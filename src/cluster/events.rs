//! Kubernetes Events on transitions (T2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::condition::{self, READY, RESIZED, RETIRING, reason};

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
}

/// The most events in the queue. A reconcile with a further event waits for space.
const QUEUED: usize = 1000;
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

/// Reasons of intermediate steps, which appear only as conditions and not as events.
const QUIET: [&str; 5] =
    [reason::CREATING, reason::BINDING, reason::RELEASING, reason::AGENT_SILENT, reason::RESIZING];

impl Events {
    /// Events of the component `controller`, from the pod or node `instance`.
    pub fn new(client: Client, controller: &str, instance: &str) -> Self {
        let reporter = Reporter { controller: controller.to_owned(), instance: Some(instance.to_owned()) };
        let publisher = Arc::new(Publisher { client, reporter, recorders: Mutex::default() });
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

    fn remembers(&self, event: &Event, object: &ObjectReference) -> bool {
        self.recorders().contains_key(&series(event, object))
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

    /// Publishes a warning about `object`, unless the same warning was published recently.
    pub async fn publish_once<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        action: &str,
        reason: &str,
        message: &str,
    ) {
        let warning = event(false, action, reason, message, None);
        if !self.publisher.remembers(&warning, &object.object_ref(&())) {
            self.publish(object, None, false, action, reason, message).await;
        }
    }

    /// Queues an event for each condition whose status or reason has changed.
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
            // Transitions without an event appear in the log only.
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
                // Waiting for the users of a retired volume is normal, so the event is no warning.
                let ok = is.status == "True" || is.reason == reason::RETIRE_WITHDRAWN;
                let event = event(ok, "Reconcile", &is.reason, &is.message, None);
                // The send cannot fail: the receiver lives as long as this sender.
                let _ = self.queue.send((event, about)).await;
            }
        }
    }
}
