//! Events about objects without conditions of Reservoir.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use super::target::Target;
use crate::api::condition::reason::{COPY_DIFFERS, NEARLY_FULL};
use crate::plugin::kind::{Kind, POD};
use crate::plugin::snapshot::Snapshot;

/// The last event of an object, or the last warning. An earlier object of the name has its own, and a pod that was placed waits
/// for no scheduler.
pub(super) fn last_event<'a>(
    snapshot: &'a Snapshot,
    kind: &Kind,
    target: &Target,
    warning: bool,
) -> Option<&'a Event> {
    let uid = target.uid(snapshot);
    let is_placed =
        target.find_pod(snapshot).is_some_and(|pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()));
    let of = |event: &&Event| {
        let object = &event.involved_object;
        let is_of_another = object.uid.as_deref().is_some_and(|of| uid.is_some_and(|uid| uid != of));
        object.kind.as_deref() == Some(kind.name)
            && object.name.as_deref() == Some(&target.name)
            && object.namespace == target.namespace
            && (!warning || event.type_.as_deref() == Some("Warning"))
            && !is_of_another
            && (!is_placed || kind != &POD || event.reason.as_deref() != Some("FailedScheduling"))
            // No pod waits for that.
            && ![Some(NEARLY_FULL), Some(COPY_DIFFERS)].contains(&event.reason.as_deref())
    };
    snapshot.events.iter().filter(of).max_by_key(|event| time_of(event))
}

/// The time at which an event was published last.
pub(super) fn time_of(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
    series.max(event.last_timestamp.as_ref().map(|t| t.0)).max(event.event_time.as_ref().map(|t| t.0))
}

pub(super) fn message_of(event: &Event) -> String {
    event.message.clone().unwrap_or_default()
}

/// The command in the message about a missing right.
pub(super) const GRANT: &str = "kubectl reservoir grant ";

/// The message of an event, with its age if it names a missing right, which may have been granted since.
pub(super) fn message_with_age(event: &Event) -> String {
    let said = message_of(event);
    let age = time_of(event).map(|at| Timestamp::now().duration_since(at).as_secs());
    match age.filter(|age| *age > 0 && said.contains(GRANT)) {
        Some(age) if age < 120 => format!("{age} s ago: {said}"),
        Some(age) => format!("{} min ago: {said}", age / 60),
        None => said,
    }
}
