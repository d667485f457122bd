//! Data of an earlier PersistentVolumeClaim, while the present one of its name waits for a new volume (F5).

use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;

use super::advice::About;
use super::events::message_of;
use super::owners::pod_of;
use super::target::Target;
use super::workloads::pods_of_workload;
use crate::api::condition::reason::NAME_TAKEN;
use crate::api::{ANNOTATION_MADE_FOR, SharedPersistentVolume};
use crate::cluster;
use crate::plan::advice;
use crate::plan::own_pvc::pvc_of;
use crate::plugin::kind::{CLAIM, DISK, POD, PVC, RESERVATION, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// The events about such data, and the step that brings it to the PersistentVolumeClaim, the pod or the workload.
pub(super) fn look(snapshot: &Snapshot, target: &Target) -> (Vec<String>, Option<String>) {
    let claims = claims(snapshot, target);
    let step = claims.iter().find_map(|(namespace, name)| of(snapshot, namespace, name));
    // One with its volume waits for something else.
    let is_waiting = |(namespace, name): &(String, String)| {
        let spec = snapshot.pvc(Some(namespace), name).and_then(|pvc| pvc.spec.as_ref());
        spec.is_none_or(|spec| spec.volume_name.is_none())
    };
    let waits = claims.iter().any(is_waiting);
    let pvcs = claims.into_iter().map(|(namespace, name)| Target::new(&PVC, Some(namespace), name));
    let events: Vec<String> = pvcs.filter_map(|pvc| event(snapshot, &pvc)).collect();
    let step = step.or_else(|| (waits && !events.is_empty()).then(advice::follow_event_of_old_data));
    (events, step)
}

/// The event about data of an earlier PersistentVolumeClaim of the name (F5), if that data is there, and is not what this one
/// has by now.
pub(super) fn event(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let uid = target.find_pvc(snapshot).and_then(|pvc| pvc.metadata.uid.as_ref());
    let of = |event: &&Event| {
        let object = &event.involved_object;
        let is_of_another = object.uid.as_ref().is_some_and(|of| uid.is_some_and(|uid| uid != of));
        ["OldDataKept", "OldDataOrphaned"].iter().any(|reason| event.reason.as_deref() == Some(reason))
            && object.name.as_deref() == Some(&target.name)
            && object.namespace == target.namespace
            && !is_of_another
    };
    let said = snapshot.events.iter().rfind(of).map(message_of)?;
    if !snapshot.sees(&VOLUME) || !snapshot.sees(&DISK) || !snapshot.sees(&RESERVATION) {
        return Some(said);
    }
    let own = snapshot.volume_of(target.namespace.as_deref().unwrap_or_default(), &target.name);
    let others = snapshot.volumes.iter().filter(|v| own.is_none_or(|own| own.metadata.uid != v.metadata.uid));
    let orphans = snapshot.disks.iter().flat_map(|disk| &disk.status).flat_map(|status| &status.orphans);
    let kept = snapshot.reservations.iter().flat_map(|r| &r.status).flat_map(|status| &status.volumes);
    let kept =
        kept.filter(|entry| entry.kept.is_some()).flat_map(|entry| [entry.name.clone(), entry.uid.clone()]);
    let names = others.map(ResourceExt::name_any);
    let names = names.chain(orphans.flat_map(|orphan| [orphan.name.clone(), orphan.uid.clone()])).chain(kept);
    names.into_iter().any(|name| !name.is_empty() && said.contains(&name)).then_some(said)
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
    let left = left_volume(snapshot, namespace, name)?;
    Some(match snapshot.claim(Some(namespace), name) {
        Some(_) => advice::ask_why(claim.argument()),
        None if pod_of(pvc).is_some() => {
            advice::claim_data_of_ephemeral(left.name_any(), &left.spec.role, namespace)
        }
        None => advice::claim_old_data(name, &left.spec.role, left.name_any(), namespace),
    })
}

/// The volume of an earlier PersistentVolumeClaim of the name, which nobody has.
pub(super) fn left_volume<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    name: &str,
) -> Option<&'a SharedPersistentVolume> {
    let made_for = format!("{namespace}/{name}");
    let is_left = |volume: &&SharedPersistentVolume| {
        volume.annotations().get(ANNOTATION_MADE_FOR) == Some(&made_for)
            && pvc_of(*volume).is_none()
            && volume.metadata.deletion_timestamp.is_none()
            && volume.status.iter().all(|status| status.claims.is_empty())
    };
    snapshot.volumes.iter().find(is_left)
}
