//! A PersistentVolumeClaim whose PersistentVolume is gone: it never has another one (P4).

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim};
use kube::ResourceExt;

use super::advice::{About, UNNAMED, anew};
use super::events::{last_event, message_of};
use super::report::{PROVISIONING_FAILED, Report};
use super::target::Target;
use crate::plan::advice;
use crate::plugin::kind::{PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// The phase of a PersistentVolumeClaim whose PersistentVolume is gone, as Kubernetes calls it.
pub(super) const LOST: &str = "Lost";

/// The report of such a PersistentVolumeClaim without a volume, as one of a backup. `None`: nothing is known of its volume.
pub(super) fn report(snapshot: &Snapshot, target: &Target, pvc: &PersistentVolumeClaim) -> Option<Report> {
    let by_numbers = || {
        let pv = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let is_known = snapshot.is_ours(pvc) && snapshot.sees(&VOLUME);
        is_known.then(|| {
            format!(
                "spec.volumeName is {pv}, and there is neither this PersistentVolume nor a volume of it: no other one is ever bound"
            )
        })
    };
    let said = told(snapshot, target).map(message_of).or_else(by_numbers)?;
    Some(Report::of(target.title(), LOST, said, true))
}

/// The step for a PersistentVolumeClaim whose PersistentVolume is gone: to its volume, if that is there.
pub(super) fn step(snapshot: &Snapshot, target: &Target, name: &str, namespace: &str) -> String {
    let pvc = target.find_pvc(snapshot);
    if let Some(volume) = pvc.and_then(|pvc| snapshot.made_for(pvc)) {
        // The deletion of the PersistentVolumeClaim would be the volume's last use.
        let is_deleted = volume.metadata.deletion_timestamp.is_some();
        if volume.spec.retire && !is_deleted {
            return advice::keep_volume_of_pvc(volume.name_any(), name, namespace);
        }
        if is_deleted {
            return advice::ask_why(format!("spv/{}", volume.name_any()));
        }
        let (role, volume) = (&volume.spec.role, volume.name_any());
        return match About::new(snapshot, target).lower_members() {
            Some((set, replicas)) => {
                advice::claim_after_lost_of_set(set, namespace, replicas, name, role, volume)
            }
            None => advice::claim_after_lost(name, namespace, role, volume),
        };
    }
    let is_told = told(snapshot, target).is_some() || snapshot.sees(&VOLUME);
    match pvc.filter(|_| is_told) {
        Some(pvc) if snapshot.is_ours(pvc) => anew(snapshot, name, namespace, UNNAMED),
        Some(_) => advice::read_foreign_events(name, namespace),
        None => advice::have_administrator_ask(target.argument()),
    }
}

/// Reservoir's event about it.
fn told<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a Event> {
    let is_it = |event: &&Event| event.reason.as_deref() == Some(PROVISIONING_FAILED);
    last_event(snapshot, &PVC, target, true).filter(is_it)
}
