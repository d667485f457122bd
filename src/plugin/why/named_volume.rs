//! A PersistentVolumeClaim that names a volume, or the PersistentVolume of another claim: nothing is ever bound to it (C5).

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use super::advice::deletion;
use crate::api::{SharedPersistentVolume, VolumeClaim};
use crate::plan::advice;
use crate::plugin::snapshot::Snapshot;

/// The volume that somebody means who names it, or the PersistentVolume of another claim to it, in a PersistentVolumeClaim of their
/// own.
pub(super) fn volume<'a>(
    snapshot: &'a Snapshot,
    pvc: &PersistentVolumeClaim,
) -> Option<&'a SharedPersistentVolume> {
    let pv = pvc.spec.as_ref()?.volume_name.as_deref()?;
    let has_it = |claim: &&VolumeClaim| {
        claim.status.as_ref().is_some_and(|status| status.persistent_volume.as_deref() == Some(pv))
    };
    let claimed = snapshot.claims.iter().find(has_it);
    let claimed = claimed.and_then(|claim| claim.status.as_ref()?.volume.as_ref());
    let name = claimed.map_or(pv, |volume| volume.name.as_str());
    snapshot.volumes.iter().find(|volume| volume.name_any() == name && !volume.is_ending())
}

/// The step for a PersistentVolumeClaim that names such a volume.
pub(super) fn step(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> Option<String> {
    let volume = volume(snapshot, pvc)?;
    let (name, namespace) = (pvc.name_any(), pvc.namespace().unwrap_or_default());
    let (delete, _) = deletion(snapshot, &name, &namespace);
    Some(advice::claim_by_name(delete, name, namespace, &volume.spec.role, volume.name_any()))
}
