//! The end of a PersistentVolumeClaim under running pods, or the growth for which it waits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::ending_pvc;
use super::events::{last_event, message_with_age};
use super::report::{Report, TERMINATING};
use super::target::Target;
use super::workloads::pods_of_workload;
use crate::api::Size;
use crate::cluster;
use crate::plugin::kind::{POD, PVC};
use crate::plugin::snapshot::Snapshot;

/// The reason of a growth that nobody has reported about.
pub(super) const RESIZING: &str = "Resizing";

/// The end of the types of Kubernetes' conditions for a growth that failed.
const FAILED: &str = "ResizeError";

/// True for the reason of a growth that failed.
pub(super) fn has_failed(reason: &str) -> bool {
    reason.ends_with(FAILED)
}

/// The size that a PersistentVolumeClaim has.
pub(super) fn capacity(pvc: &PersistentVolumeClaim) -> Option<Size> {
    storage(pvc.status.as_ref()?.capacity.as_ref())
}

fn storage(quantities: Option<&BTreeMap<String, Quantity>>) -> Option<Size> {
    Some(Size::written(quantities?.get("storage")?.0.clone())).filter(|size| size.bytes().is_ok())
}

/// Reason and message of a PersistentVolumeClaim that has less than it requests (P3). Kubernetes' conditions come first.
pub(in crate::plugin) fn growth(pvc: &PersistentVolumeClaim) -> Option<(String, String)> {
    let requested = storage(pvc.spec.as_ref()?.resources.as_ref()?.requests.as_ref())?;
    let status = pvc.status.as_ref()?;
    let capacity = capacity(pvc)?;
    if requested.bytes_or_zero() <= capacity.bytes_or_zero() {
        return None;
    }
    let failed = status.conditions.iter().flatten().find(|c| has_failed(&c.type_));
    Some(match failed {
        Some(failed) => (failed.type_.clone(), failed.message.clone().unwrap_or_default()),
        None => (RESIZING.into(), format!("{requested} requested, and its volume has {capacity} now")),
    })
}

/// The report of a PersistentVolumeClaim of Reservoir that is being deleted, or has less than it requests. One that is being
/// deleted does not grow any more: its data goes when its pods end.
pub(super) fn coming(snapshot: &Snapshot, target: &Target) -> Option<Report> {
    let pvc = target.find_pvc(snapshot).filter(|pvc| snapshot.is_ours(pvc))?;
    if pvc.metadata.deletion_timestamp.is_some() {
        return Some(Report::of(target.title(), TERMINATING, ending_pvc::explain(snapshot, pvc).0, true));
    }
    let (reason, message) = growth(pvc)?;
    let message = refusal(snapshot, target).unwrap_or(message);
    Some(Report::of(target.title(), &reason, message, true))
}

/// The message of the event about a refused growth.
pub(super) fn refusal(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let failed = |event: &&Event| event.reason.as_deref() == Some("VolumeResizeFailed");
    last_event(snapshot, &PVC, target, true).filter(failed).map(message_with_age)
}

/// The PersistentVolumeClaim itself, or the first one of a pod or of the pods of a workload, that ends or waits to grow.
pub(super) fn of_users(snapshot: &Snapshot, target: &Target) -> Option<(Target, Report)> {
    if target.kind == &PVC {
        return coming(snapshot, target).map(|report| (target.clone(), report));
    }
    let pods: Vec<&Pod> = match target.kind.workload {
        true => pods_of_workload(snapshot, target),
        false => target.find_pod(snapshot).filter(|_| target.kind == &POD).into_iter().collect(),
    };
    pods.into_iter().flat_map(cluster::claims_of).find_map(|(namespace, name)| {
        let pvc = Target::new(&PVC, Some(namespace), name);
        let report = coming(snapshot, &pvc)?;
        Some((pvc, report))
    })
}
