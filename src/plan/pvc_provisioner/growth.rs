//! The growth of the volume of a bound PersistentVolumeClaim, and its report in the status (P3, F1).
//!
//! The report is that of Kubernetes' RecoverVolumeExpansionFailure (KEP-1790), as external-resizer writes it. A
//! ResourceQuota counts the larger of the request and `status.allocatedResources`, so no volume may have more than that
//! number. A growth is written to the PersistentVolumeClaim, then to the volume, and a smaller request in the reverse
//! order. A controller reads the volume before it reads the PersistentVolumeClaim. Before `allocatedResources` becomes
//! smaller, the volume is written once more, with the resourceVersion of the PersistentVolumeClaim in an annotation.
//! After that write, a controller that would raise the size for an older request fails at its compare-and-swap.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::condition::{self, RESIZED, reason};
use crate::api::{ANNOTATION_DECIDED_BY, SharedPersistentVolume, Size};
use crate::plan::resize::size_now;
use crate::plan::seal;

use super::class;

/// Annotation of a PersistentVolumeClaim by which the kubelet leaves the file system of a grown volume alone.
const NO_NODE_EXPANSION: &str = "volume.kubernetes.io/node-expansion-not-required";

// The types of conditions, and the values of `allocatedResourceStatuses`. The values for nodes are never used: the kubelet
// would call NodeExpandVolume, which the driver does not have, since the agent grows volumes by itself.
const RESIZING: &str = "Resizing";
const CONTROLLER_ERROR: &str = "ControllerResizeError";
const NODE_ERROR: &str = "NodeResizeError";
const CONDITIONS: [&str; 4] = [RESIZING, CONTROLLER_ERROR, NODE_ERROR, "FileSystemResizePending"];
const IN_PROGRESS: &str = "ControllerResizeInProgress";
const INFEASIBLE: &str = "ControllerResizeInfeasible";

/// The cached fields of a bound PersistentVolumeClaim. Sizes are in bytes, rounded up; `None`: absent or unreadable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cached {
    /// The request.
    pub requested: Option<u64>,
    /// The capacity in the status.
    pub capacity: Option<u64>,
    /// `status.allocatedResources`.
    pub allocated: Option<u64>,
    /// True if the status reports a growth.
    pub resizing: bool,
    /// True if the PersistentVolumeClaim names a VolumeAttributesClass.
    pub attributes_class: bool,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// If the API server would accept that size of the volume, write the report, and decide again with the same volume.
    Allocate(Size, Box<Report>),
    /// Write that size and the annotation [`ANNOTATION_DECIDED_BY`] to the volume that was read.
    Resize(Size),
    /// Write the report.
    Report(Box<Report>),
    /// Publish the refusal, without a report.
    Refuse(String),
    /// Nothing.
    Rest,
}

/// The report of a PersistentVolumeClaim about its volume.
#[derive(Debug, PartialEq)]
pub struct Report {
    /// The new capacity, which the PersistentVolume gets first: the last write is that of the PersistentVolumeClaim.
    pub capacity: Option<Size>,
    /// A merge patch of the PersistentVolumeClaim's status.
    pub patch: Value,
    /// The event, if it is not published yet.
    pub event: Option<Event>,
}

/// An event of the PersistentVolumeClaim, with a reason of external-resizer.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// False for a warning.
    pub ok: bool,
    /// The reason.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

/// The state of a growth.
enum Growth {
    Done,
    Working,
    /// With the type of the condition, and true if another request is needed.
    Failed(&'static str, bool, String),
}

/// True if the PersistentVolumeClaim reports its volume as it is, and requests nothing else.
pub fn is_settled(pvc: Cached, volume: &SharedPersistentVolume) -> bool {
    let has = size_now(volume).bytes_or_zero();
    let Some(requested) = pvc.requested.filter(|bytes| *bytes <= has) else { return false };
    !pvc.attributes_class
        && !pvc.resizing
        && volume.spec.size.bytes_or_zero() <= has
        && pvc.capacity.is_none_or(|bytes| bytes == has)
        && pvc.allocated.is_none_or(|bytes| bytes <= requested.max(most(volume)))
}

/// The most bytes that the volume has or gets without another write of its spec.
fn most(volume: &SharedPersistentVolume) -> u64 {
    let status = volume.status.as_ref();
    let node = status.and_then(|s| s.node.as_ref());
    let sizes = [
        Some(&volume.spec.size),
        status.and_then(|s| s.size.as_ref()),
        node.and_then(|node| node.size.as_ref()),
        node.and_then(|node| node.growing.as_ref()),
    ];
    sizes.into_iter().flatten().map(Size::bytes_or_zero).max().unwrap_or(0)
}

/// The bytes of a growth that the node has begun, and that has not failed. Such a growth ends first.
fn begun(volume: &SharedPersistentVolume) -> u64 {
    let node = volume.status.as_ref().and_then(|s| s.node.as_ref());
    let begun = node.filter(|node| node.resize_failed.is_none()).and_then(|node| node.growing.as_ref());
    begun.map_or(0, Size::bytes_or_zero)
}

fn storage(quantities: Option<&BTreeMap<String, Quantity>>) -> Option<u64> {
    Size::written(&quantities?.get("storage")?.0).bytes().ok()
}

/// The next step. `refused` is the API server's refusal of the last write of the volume.
pub fn next(
    pvc: &PersistentVolumeClaim,
    volume: &SharedPersistentVolume,
    refused: Option<&str>,
    now: Timestamp,
) -> Step {
    let has = size_now(volume).bytes_or_zero();
    let failed = |why: &str| {
        let growth = Growth::Failed(CONTROLLER_ERROR, true, why.to_owned());
        report(pvc, volume, growth, None, now).map_or(Step::Rest, |report| Step::Report(Box::new(report)))
    };
    let requested = match class::requested(pvc) {
        Ok(requested) => requested,
        Err(why) => return failed(&why),
    };
    if let Some(why) = refused {
        return if requested > has { failed(why) } else { Step::Refuse(why.to_owned()) };
    }
    let status = pvc.status.as_ref();
    let allocated = storage(status.and_then(|s| s.allocated_resources.as_ref()));
    let wished = volume.spec.size.bytes_or_zero();
    if let Some(sealed) = seal::closed(volume).filter(|_| requested > has) {
        // The volume is not asked for more, and what it was asked for before is taken back.
        let kept = has.max(begun(volume));
        return match wished > kept {
            true => Step::Resize(Size::from_bytes(kept)),
            false => failed(&keeps_size(volume, sealed)),
        };
    }
    if requested > wished.max(has) {
        let size = Size::from_bytes(requested);
        if allocated >= Some(requested) {
            return Step::Resize(size);
        }
        let report = report(pvc, volume, Growth::Working, Some(requested), now);
        return report.map_or(Step::Rest, |report| Step::Allocate(size, Box::new(report)));
    }
    let kept = requested.max(has).max(begun(volume));
    if wished > kept {
        return Step::Resize(Size::from_bytes(kept));
    }
    let most = requested.max(most(volume));
    let lowered = allocated.filter(|bytes| *bytes > most).map(|_| most);
    if lowered.is_some()
        && volume.annotations().get(ANNOTATION_DECIDED_BY) != pvc.metadata.resource_version.as_ref()
    {
        return Step::Resize(volume.spec.size.clone());
    }
    let report = growth(requested, volume).and_then(|growth| report(pvc, volume, growth, lowered, now));
    if let Some(report) = report {
        return Step::Report(Box::new(report));
    }
    class::attributes_refused(pvc, "the volume stays as it is").map_or(Step::Rest, Step::Refuse)
}

/// Why a volume that is `sealed` does not grow. Kubernetes refuses to take a request back to the present size.
fn keeps_size(volume: &SharedPersistentVolume, sealed: &str) -> String {
    let size = size_now(volume);
    format!(
        "the volume is {sealed} and keeps its {size}; its pods read on, and nothing more comes of the larger request"
    )
}

/// The state of the growth; `None`: the volume's condition is about an earlier spec.
fn growth(requested: u64, volume: &SharedPersistentVolume) -> Option<Growth> {
    if requested <= size_now(volume).bytes_or_zero() {
        return Some(Growth::Done);
    }
    let conditions = volume.status.as_ref().map_or(&[][..], |s| &s.conditions);
    let Some(resized) = condition::get(conditions, RESIZED) else { return Some(Growth::Working) };
    if resized.observed_generation != volume.metadata.generation {
        return None;
    }
    let failed = |type_, infeasible| Growth::Failed(type_, infeasible, resized.message.clone());
    Some(match resized.reason.as_str() {
        reason::RESERVATION_FULL => failed(CONTROLLER_ERROR, true),
        reason::RESIZE_FAILED => failed(NODE_ERROR, false),
        _ => Growth::Working,
    })
}

/// The report, unless the PersistentVolumeClaim has it already. `allocated` is the new `allocatedResources`, if any.
fn report(
    pvc: &PersistentVolumeClaim,
    volume: &SharedPersistentVolume,
    growth: Growth,
    allocated: Option<u64>,
    now: Timestamp,
) -> Option<Report> {
    let status = pvc.status.clone().unwrap_or_default();
    let has = size_now(volume).bytes_or_zero();
    let before = status.conditions.unwrap_or_default();
    let phase_before = status.allocated_resource_statuses.and_then(|all| all.get("storage").cloned());
    let (phase, texts) = match &growth {
        Growth::Done => (None, vec![]),
        Growth::Working => (Some(IN_PROGRESS), vec![(RESIZING, None)]),
        Growth::Failed(type_, infeasible, why) => {
            let phase = if *infeasible { INFEASIBLE } else { IN_PROGRESS };
            (Some(phase), vec![(RESIZING, None), (*type_, Some(why.as_str()))])
        }
    };
    let mut conditions = before.clone();
    conditions.retain(|c| !CONDITIONS.contains(&c.type_.as_str()));
    conditions.extend(texts.iter().map(|(type_, message)| {
        let same = before.iter().find(|c| c.type_ == *type_).cloned();
        let new = || PersistentVolumeClaimCondition {
            type_: (*type_).to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(condition::stored(now)),
            ..Default::default()
        };
        PersistentVolumeClaimCondition { message: message.map(str::to_owned), ..same.unwrap_or_else(new) }
    }));
    // Kubernetes writes the first capacity when it binds. A growth may end while a larger one is wished already.
    let differs = storage(status.capacity.as_ref()).is_some_and(|bytes| bytes != has);
    let capacity = differs.then(|| Size::from_bytes(has));
    if capacity.is_none() && allocated.is_none() && phase == phase_before.as_deref() && conditions == before {
        return None;
    }
    let event = match growth {
        Growth::Failed(type_, _, message) => {
            let words =
                |message: Option<&String>| message.map(|m| m.replace(|c: char| c.is_ascii_digit(), ""));
            let published = before.iter().find(|c| c.type_ == type_).map(|c| words(c.message.as_ref()));
            let is_new = published != Some(words(Some(&message)));
            is_new.then_some(Event { ok: false, reason: "VolumeResizeFailed", message })
        }
        Growth::Done if capacity.is_some() && phase_before.is_some() => {
            let message = format!("volume {} has {} now", volume.name_any(), size_now(volume));
            Some(Event { ok: true, reason: "VolumeResizeSuccessful", message })
        }
        Growth::Done | Growth::Working => None,
    };
    let mut patch = json!({
        "metadata": { "annotations": { NO_NODE_EXPANSION: phase.is_none().then_some("true") } },
        "status": { "allocatedResourceStatuses": { "storage": phase }, "conditions": conditions },
    });
    for (field, size) in
        [("capacity", capacity.clone()), ("allocatedResources", allocated.map(Size::from_bytes))]
    {
        if let Some(size) = size {
            patch["status"][field] = json!({ "storage": size });
        }
    }
    Some(Report { capacity, patch, event })
}

#[cfg(test)]
mod tests;
