//! A PersistentVolumeClaim whose PersistentVolume is gone: it never has another one (P4).

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim};
use kube::ResourceExt;

use super::advice::{About, UNNAMED, anew, claim_after_lost};
use super::events::{last_event, message_of};
use super::named_volume;
use super::report::{LOST, PROVISIONING_FAILED, Report};
use super::target::Target;
use crate::api::ClaimBinding;
use crate::plan::advice;
use crate::plugin::kind::{PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// Reason of the event about a PersistentVolumeClaim whose PersistentVolume is that of a claim that is gone.
const LEFT: &str = "PersistentVolumeLeft";

/// True if the PersistentVolumeClaim of Reservoir is bound, and no volume lists it or was made for it: somebody removed the volume by
/// force, or bound another PersistentVolumeClaim to the PersistentVolume.
pub(super) fn has_no_volume(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> bool {
    let uid = pvc.metadata.uid.as_ref();
    let mut listed = snapshot.volumes.iter().flat_map(|volume| &volume.status).flat_map(|s| &s.claims);
    let is_its = |of: &ClaimBinding| of.pvc_uid.as_ref() == uid || Some(&of.uid) == uid;
    let is_claims = snapshot.claim(pvc.metadata.namespace.as_deref(), &pvc.name_any()).is_some();
    uid.is_some() && !is_claims && snapshot.is_ours(pvc) && snapshot.sees(&VOLUME) && !listed.any(is_its)
}

/// The report of such a PersistentVolumeClaim without a volume, as one of a backup. `None`: nothing is known of its volume.
pub(super) fn report(snapshot: &Snapshot, target: &Target, pvc: &PersistentVolumeClaim) -> Option<Report> {
    let by_numbers = || {
        let pv = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let is_known = snapshot.is_ours(pvc) && snapshot.sees(&VOLUME);
        let phase = pvc.status.as_ref().and_then(|status| status.phase.as_deref());
        is_known.then(|| match phase {
            Some(LOST) => format!(
                "spec.volumeName is {pv}, and there is neither this PersistentVolume nor a volume of it: no other one is ever bound"
            ),
            _ => format!("the volume of PersistentVolume {pv} is gone, so no pod can mount it"),
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
        return match About::new(snapshot, target).lower_members() {
            Some((set, replicas)) => {
                let (role, volume) = (&volume.spec.role, volume.name_any());
                advice::claim_after_lost_of_set(set, namespace, replicas, name, role, volume)
            }
            None => claim_after_lost(snapshot, name, namespace, volume),
        };
    }
    let told = told(snapshot, target);
    if told.is_some_and(|told| told.reason.as_deref() == Some(LEFT)) {
        return advice::follow_event();
    }
    let is_told = told.is_some() || snapshot.sees(&VOLUME);
    if let Some(step) = pvc.and_then(|pvc| named_volume::step(snapshot, pvc)) {
        return step;
    }
    match pvc.filter(|_| is_told) {
        Some(pvc) if snapshot.is_ours(pvc) => anew(snapshot, name, namespace, UNNAMED),
        Some(_) => advice::read_foreign_events(name, namespace),
        None => advice::have_administrator_ask(target.argument()),
    }
}

/// Reservoir's event about it.
fn told<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a Event> {
    let is_it = |event: &&Event| [Some(PROVISIONING_FAILED), Some(LEFT)].contains(&event.reason.as_deref());
    last_event(snapshot, &PVC, target, true).filter(is_it)
}
