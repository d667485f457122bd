//! Events about objects without conditions of Reservoir.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use super::target::Target;
use crate::api::condition::reason::NEARLY_FULL;
use crate::plugin::kind::Kind;
use crate::plugin::snapshot::Snapshot;

/// The last event of an object, or the last warning.
pub(super) fn last_event<'a>(
    snapshot: &'a Snapshot,
    kind: &Kind,
    target: &Target,
    warning: bool,
) -> Option<&'a Event> {
    let of = |event: &&Event| {
        let object = &event.involved_object;
        object.kind.as_deref() == Some(kind.name)
            && object.name.as_deref() == Some(&target.name)
            && object.namespace == target.namespace
            && (!warning || event.type_.as_deref() == Some("Warning"))
            // No pod waits for that.
            && event.reason.as_deref() != Some(NEARLY_FULL)
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
