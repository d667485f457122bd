//! The claims in the volume's list, and the pods that use the volume through these claims (X1).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::reason::VOLUME_HELD;
use crate::api::{
    ClaimBinding, LABEL_VOLUME_UID, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim,
};
use crate::cluster;
use crate::plan::own_pvc::{is_over, is_own, pvc_of};
use crate::plan::transition::LASTING;
use crate::plan::{bind, held_by, node_lifetime, persistent_volume, volume};

use super::Error;
use super::context::Context;

/// The listed claims that are gone, or bound to another volume. The cause is a finalizer removed by hand, or two
/// leaders that chose a volume at once. A lost claim would hold the volume for ever. A claim that pods still name is
/// not lost, unless the disk has gone with its node (D7). A PersistentVolumeClaim of a class ends so, too, when it is gone.
/// Claims in `over` are not looked for.
pub(super) async fn lost_claims(
    volume: &SharedPersistentVolume,
    over: &[ClaimBinding],
    ctx: &Context,
) -> Result<Vec<ClaimBinding>, Error> {
    let mut lost = node_lifetime::ended_claims(volume, ctx.disk_of(volume).as_deref());
    lost.retain(|binding| !over.contains(binding));
    let is_living = volume.metadata.deletion_timestamp.is_none();
    for binding in volume.status.iter().flat_map(|s| &s.claims).filter(|binding| !over.contains(binding)) {
        if lost.contains(binding) {
            continue;
        }
        let has_users = !ctx.users(std::slice::from_ref(binding)).is_empty();
        let is_lost = match &binding.pvc_uid {
            // The node is asked for its mounts, whatever pods there are (C6). An earlier version, which does not know such an
            // entry, may have marked it, and it is written anew after its end.
            Some(uid) if is_living => binding.ending || !is_pvc_there(binding, uid, ctx).await?,
            Some(uid) => !has_users && !is_pvc_there(binding, uid, ctx).await?,
            None => !has_users && !is_claim_there(binding, volume, ctx).await?,
        };
        if is_lost {
            lost.push(binding.clone());
        }
    }
    Ok(lost)
}

async fn is_claim_there(
    binding: &ClaimBinding,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<bool, Error> {
    let cached = ctx.stores.claims.get_in(&binding.namespace, &binding.name);
    if cached.is_some_and(|claim| bind::is_of(binding, &claim, volume)) {
        return Ok(true);
    }
    let claims: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &binding.namespace);
    Ok(cluster::get(&claims, &binding.name).await?.is_some_and(|c| bind::is_of(binding, &c, volume)))
}

/// True if the PersistentVolumeClaim of that UID is there, by the cache or else by a live read.
pub(super) async fn is_pvc_there(binding: &ClaimBinding, uid: &str, ctx: &Context) -> Result<bool, Error> {
    if ctx.stores.pvcs.has(&binding.namespace, &binding.name, uid) {
        return Ok(true);
    }
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &binding.namespace);
    Ok(cluster::get(&pvcs, &binding.name).await?.is_some_and(|pvc| pvc.metadata.uid.as_deref() == Some(uid)))
}

/// The bindings of a volume that is being destroyed that are over, by live reads (P4). The volume's own PersistentVolumeClaim
/// is not read while the cache has it: its end enqueues the volume. If `to_end` is false, nothing is decided yet that ends its
/// binding, and the cache is enough.
pub(super) async fn over(
    volume: &SharedPersistentVolume,
    to_end: bool,
    ctx: &Context,
) -> Result<Vec<ClaimBinding>, Error> {
    let mut over = Vec::new();
    let Some(pvc_uid) = pvc_of(volume) else { return Ok(over) };
    for binding in volume.status.iter().flat_map(|status| &status.claims) {
        let is_own = is_own(binding, volume);
        if is_own && ctx.stores.pvcs.has(&binding.namespace, &binding.name, pvc_uid) {
            continue;
        }
        if is_own && !to_end {
            over.push(binding.clone());
            continue;
        }
        let claims: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &binding.namespace);
        let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &binding.namespace);
        let claim = if is_own { None } else { cluster::get(&claims, &binding.name).await? };
        let pvc = cluster::get(&pvcs, &binding.name).await?;
        if is_over(binding, volume, claim.as_ref(), pvc.as_ref()) {
            over.push(binding.clone());
        }
    }
    Ok(over)
}

/// The running and pending pods of the listed claims that are not lost, and the readers of a copy, by the cache.
pub(super) fn users(volume: &SharedPersistentVolume, lost: &[ClaimBinding], ctx: &Context) -> Vec<PodRef> {
    let claims = volume.status.iter().flat_map(|s| &s.claims).filter(|claim| !lost.contains(claim));
    [ctx.users(&claims.cloned().collect::<Vec<_>>()), readers(volume, ctx)].concat()
}

/// The claims in the list of a sealed volume with pods on other nodes than its own, by UID and by the cache: these pods read a
/// copy, of which the volume's node knows nothing (E3).
pub(super) fn read_elsewhere(volume: &SharedPersistentVolume, ctx: &Context) -> Vec<String> {
    let Some(status) = volume.status.as_ref().filter(|status| status.digest.is_some()) else { return vec![] };
    let node = status.node_name.as_deref().unwrap_or_default();
    let is_read = |claim: &&ClaimBinding| {
        let (namespace, name) = (&claim.namespace, &claim.name);
        let placed =
            ctx.stores.pods.users_with_node(namespace, name).iter().filter(|(_, placed)| *placed).count();
        placed > ctx.stores.pods.users_on(node, namespace, name).len()
    };
    status.claims.iter().filter(is_read).map(|claim| claim.uid.clone()).collect()
}

/// The status of a volume with its users by the cache, to be committed together with a change of the list.
pub(super) fn counted(
    volume: &SharedPersistentVolume,
    status: SharedPersistentVolumeStatus,
    ctx: &Context,
) -> SharedPersistentVolumeStatus {
    let users = [ctx.users(&status.claims), readers(volume, ctx)].concat();
    volume::count_users(status, users)
}

/// The pods on the node of a copy that read it through a claim of its original (E3), by the cache.
fn readers(copy: &SharedPersistentVolume, ctx: &Context) -> Vec<PodRef> {
    let of =
        copy.spec.copy_of.as_ref().zip(copy.status.as_ref().and_then(|status| status.node_name.as_ref()));
    let Some((of, node)) = of else { return vec![] };
    let original =
        ctx.stores.volumes.get(&of.name).filter(|found| found.metadata.uid.as_ref() == Some(&of.uid));
    let claims = original.iter().filter_map(|original| original.status.as_ref()).flat_map(|s| &s.claims);
    claims.flat_map(|claim| ctx.stores.pods.users_on(node, &claim.namespace, &claim.name)).collect()
}

/// Tells the pods that no scheduler places which pod has their volume of one pod (M2).
pub(super) async fn tell_waiting(volume: &SharedPersistentVolume, ctx: &Context) -> Result<(), Error> {
    let claims = volume.status.iter().flat_map(|s| &s.claims).filter(|_| volume.spec.shared.is_none());
    for claim in claims {
        let users = ctx.stores.pods.users_with_node(&claim.namespace, &claim.name);
        let (placed, waiting): (Vec<_>, Vec<_>) = users.iter().partition(|(_, has_node)| *has_node);
        placed.iter().for_each(|(pod, _)| ctx.events.settle(&cluster::pod_of(pod), VOLUME_HELD));
        let Some((holder, _)) = placed.first().filter(|_| !waiting.is_empty()) else { continue };
        let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &claim.namespace);
        let pvc = cluster::get(&pvcs, &claim.name).await?;
        let modes = pvc.and_then(|pvc| pvc.spec?.access_modes).unwrap_or_default();
        if modes == [persistent_volume::ONE_POD] {
            let message = held_by::by_pod(&volume.name_any(), holder);
            for (pod, _) in waiting {
                let warning = ("Schedule", VOLUME_HELD, message.as_str());
                ctx.events.warn_if_it_lasts(&cluster::pod_of(pod), VOLUME_HELD, warning, LASTING);
            }
        }
    }
    Ok(())
}

/// Deletes the PersistentVolumes of lost claims. This comes before the end of the binding, which is the last reference
/// to these PersistentVolumes.
pub(super) async fn delete_lost(
    lost: &[ClaimBinding],
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<(), Error> {
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    for claim in lost {
        let name = persistent_volume::name_for(&claim.uid);
        let found = cluster::get(&volumes, &name).await?;
        if let Some(pv) = found.filter(|pv| pv.labels().get(LABEL_VOLUME_UID) == volume.uid().as_ref()) {
            cluster::delete(&volumes, &name, pv.uid()).await?;
        }
    }
    Ok(())
}

/// The pods that use the PersistentVolume of any claim to this volume, and the readers of a copy on its node, by live reads.
pub(super) async fn live_users(volume: &SharedPersistentVolume, ctx: &Context) -> Result<Vec<PodRef>, Error> {
    let mut users = live_users_of(&volume.uid().unwrap_or_default(), None, ctx).await?;
    let node = volume.status.as_ref().and_then(|status| status.node_name.as_deref());
    if let Some((of, node)) = volume.spec.copy_of.as_ref().zip(node) {
        users.extend(live_users_of(&of.uid, Some(node), ctx).await?);
    }
    Ok(users)
}

async fn live_users_of(uid: &str, on: Option<&str>, ctx: &Context) -> Result<Vec<PodRef>, Error> {
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let selector = format!("{LABEL_VOLUME_UID}={uid}");
    let mut claims = BTreeSet::new();
    for pv in cluster::list(&volumes, &ListParams::default().labels(&selector)).await? {
        let Some(claim) = pv.spec.as_ref().and_then(|spec| spec.claim_ref.clone()) else { continue };
        let (namespace, name) = (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default());
        // Only a PersistentVolumeClaim that is bound to exactly this PersistentVolume brings a pod to the volume.
        let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
        let pvc = cluster::get(&pvcs, &name).await?;
        if pvc.and_then(|pvc| pvc.spec?.volume_name) == pv.metadata.name {
            claims.insert((namespace, name));
        }
    }
    ctx.live_users(&claims, on).await
}
