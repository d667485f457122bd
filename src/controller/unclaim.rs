//! Claims that are being deleted (C6).

use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::{PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim};
use crate::cluster::{self, UsedPod};
use crate::plan::debounce::DEBOUNCE;
use crate::plan::unclaim::{Seen, Step, left, next};
use crate::plan::{bind, kept, persistent_volume};

use super::context::Context;
use super::stores::CLAIM;
use super::volume_users::{counted, read_elsewhere};
use super::{Again, Error};

/// Reconciles a claim that is being deleted.
///
/// 1. Gather: the object and its PersistentVolumeClaim by live reads, and the pods that use the claim.
/// 2. Decide: [`next`].
/// 3. Apply: one step. Every step before the last is followed by another decision.
pub(super) async fn reconcile(
    api: &Api<VolumeClaim>,
    claim: &VolumeClaim,
    ctx: &Context,
) -> Result<Again, Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let mut seen = gather(api, claim, ctx).await?;
    let mut failed = None;
    loop {
        match next(claim, &seen) {
            Step::DeletePvc => {
                if let Some(pvc) = &mut seen.pvc {
                    let pvcs: Api<PersistentVolumeClaim> =
                        cluster::namespaced(&ctx.client, &claim.namespace().unwrap_or_default());
                    match cluster::delete(&pvcs, &claim.name_any(), pvc.uid()).await {
                        Ok(()) => pvc.metadata.deletion_timestamp = Some(Time(seen.now)),
                        Err(error) => {
                            seen.refused = Some(error.refusal().ok_or_else(|| error.clone())?);
                            failed = Some(error);
                        }
                    }
                }
            }
            Step::LookForEnded => seen.ended = Some(ended(claim, ctx).await?),
            Step::Report(status, again) => {
                ctx.commit(api, claim, &status).await?;
                // The work queue repeats a failure with growing pauses.
                return failed.map_or(Ok(again), Err);
            }
            Step::Debounce => return Ok(Some(DEBOUNCE)),
            Step::Leave => {
                let pvs: Api<PersistentVolume> = Api::all(ctx.client.clone());
                let pv = cluster::get(&pvs, &persistent_volume::name(claim)).await?;
                if let Some(pv) = pv.filter(|pv| pv.metadata.deletion_timestamp.is_none()) {
                    cluster::delete(&pvs, &pv.name_any(), pv.uid()).await?;
                }
                let after = Mutex::new(SharedPersistentVolumeStatus::default());
                if let Some(volume) = &seen.volume {
                    let leave = |volume: &SharedPersistentVolume| {
                        let (gone, elsewhere) = (ctx.is_disk_gone(volume), read_elsewhere(volume, ctx));
                        let status = counted(volume, left(claim, volume, gone, &elsewhere), ctx);
                        after.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&status);
                        Ok::<_, ()>(Some(status))
                    };
                    let _ = ctx.batchers.volumes.update(&volumes, volume, leave).await?;
                }
                let left = after.into_inner().unwrap_or_else(PoisonError::into_inner);
                seen.holder_pods = ctx.holder_pods(&left).await?;
                seen.left = Some(left);
            }
            Step::End => return cluster::set_finalizer(api, claim, false).await.map(|()| None),
            Step::Rest => return Ok(None),
        }
    }
}

async fn gather(api: &Api<VolumeClaim>, claim: &VolumeClaim, ctx: &Context) -> Result<Seen, Error> {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let now = cluster::get_same(api, claim).await?;
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
    let pvc = cluster::get(&pvcs, &name).await?.filter(|pvc| persistent_volume::is_of_claim(pvc, claim));
    let volume = volume(claim, ctx).await?;
    let bound = volume.as_ref().and_then(|name| ctx.stores.volumes.get(name));
    let bound = bound.filter(|volume| bind::is_bound(volume, claim));
    Ok(Seen {
        guarded: now.is_some_and(|now| cluster::finalizer_present(&now)),
        pvc,
        users: ctx.stores.pods.users(&namespace, &name),
        ended: None,
        refused: None,
        fate: bound.and_then(|volume| kept::fate(&volume)),
        volume,
        left: None,
        holder_pods: vec![],
        now: (ctx.now)(),
    })
}

/// The ended pods that name the claim's PersistentVolumeClaim and that nobody has deleted, by a live read: the cache has
/// none of them.
async fn ended(claim: &VolumeClaim, ctx: &Context) -> Result<Vec<PodRef>, Error> {
    let key = (claim.namespace().unwrap_or_default(), claim.name_any());
    let pods: Api<UsedPod> = cluster::namespaced(&ctx.client, &key.0);
    let all = cluster::list(&pods, &ListParams::default()).await?;
    let names_it = |pod: &&UsedPod| pod.is_left() && pod.claims().contains(&key);
    Ok(all.iter().filter(names_it).map(UsedPod::pod_ref).collect())
}

/// The name of the volume that lists the claim, by the cache, the claim's status or its spec. A claim with a selector
/// may have been bound and deleted before any cache had the binding. Then all volumes are read live.
async fn volume(claim: &VolumeClaim, ctx: &Context) -> Result<Option<String>, Error> {
    let cached = ctx.stores.volumes.by(CLAIM, &bind::binding(claim).to_string());
    let cached = cached.iter().find(|v| bind::is_bound(v, claim)).map(|v| v.name_any());
    let noted = claim.status.as_ref().and_then(|s| s.volume.as_ref()).map(|volume| volume.name.clone());
    if let Some(name) = cached.or(noted).or(claim.spec.volume.clone()) {
        return Ok(Some(name));
    }
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let all = cluster::list(&volumes, &ListParams::default()).await?;
    Ok(all.iter().find(|v| bind::is_bound(v, claim)).map(ResourceExt::name_any))
}
