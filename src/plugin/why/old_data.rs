//! Data of an earlier PersistentVolumeClaim, while the present one of its name waits for a new volume (F5).

use kube::ResourceExt;

use super::advice::About;
use super::pvcs;
use super::target::Target;
use super::workloads::pods_of_workload;
use crate::api::condition::reason::NAME_TAKEN;
use crate::api::{ANNOTATION_MADE_FOR, SharedPersistentVolume};
use crate::cluster;
use crate::plan::advice;
use crate::plan::own_pvc::pvc_of;
use crate::plugin::kind::{CLAIM, POD, PVC};
use crate::plugin::snapshot::Snapshot;

/// The events about such data, and the step that brings it to the PersistentVolumeClaim, the pod or the workload.
pub(super) fn look(snapshot: &Snapshot, target: &Target) -> (Vec<String>, Option<String>) {
    let claims = claims(snapshot, target);
    let step = claims.iter().find_map(|(namespace, name)| of(snapshot, namespace, name));
    let pvcs = claims.into_iter().map(|(namespace, name)| Target::new(&PVC, Some(namespace), name));
    let events: Vec<String> = pvcs.filter_map(|pvc| pvcs::old_data(snapshot, &pvc)).collect();
    let step = step.or_else(|| (!events.is_empty()).then(advice::follow_event_of_old_data));
    (events, step)
}

/// The PersistentVolumeClaims of a target, by namespace and name.
fn claims(snapshot: &Snapshot, target: &Target) -> Vec<(String, String)> {
    match (target.kind, &target.namespace) {
        (kind, Some(namespace)) if kind == &PVC => vec![(namespace.clone(), target.name.clone())],
        (kind, _) if kind == &POD => target.find_pod(snapshot).map(cluster::claims_of).unwrap_or_default(),
        (kind, _) if kind.workload => {
            pods_of_workload(snapshot, target).into_iter().flat_map(cluster::claims_of).collect()
        }
        _ => vec![],
    }
}

/// The step for one PersistentVolumeClaim. A VolumeClaim of its name may wait for the data already.
fn of(snapshot: &Snapshot, namespace: &str, name: &str) -> Option<String> {
    let pvc = snapshot.pvc(Some(namespace), name)?;
    let has_volume = pvc.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
    if pvc.metadata.deletion_timestamp.is_some() || has_volume || snapshot.made_for(pvc).is_some() {
        return None;
    }
    let claim = Target::new(&CLAIM, Some(namespace.to_owned()), name.to_owned());
    let about = About::new(snapshot, &claim);
    if about.is_after_old_data() {
        return about.step(NAME_TAKEN);
    }
    let made_for = format!("{namespace}/{name}");
    let is_left = |volume: &&SharedPersistentVolume| {
        volume.annotations().get(ANNOTATION_MADE_FOR) == Some(&made_for)
            && pvc_of(*volume).is_none()
            && volume.metadata.deletion_timestamp.is_none()
            && volume.status.iter().all(|status| status.claims.is_empty())
    };
    let left = snapshot.volumes.iter().find(is_left)?;
    Some(match snapshot.claim(Some(namespace), name) {
        Some(_) => advice::ask_why(claim.argument()),
        None => advice::claim_old_data(name, &left.spec.role, left.name_any(), namespace),
    })
}
