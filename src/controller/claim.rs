//! Claims: ACCEPT and its end (C1–C7).
//!
//! The list of claims in the volume's status decides who is bound, by compare-and-swap on the volume. A binding is
//! written once and by UID; it is never moved to another volume.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{Verdict, reason};
use crate::api::{
    CONTROLLER_MANAGER, ClaimPhase, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, UidRef,
    VolumeClaim, VolumeClaimStatus,
};
use crate::cluster::{self, claims_of, is_terminal, pod_ref};
use crate::plan::{LISTED_PODS, bind, release};

use super::context::{Context, ready, refs};
use super::{Error, persistent};

pub(super) async fn reconcile(claim: Arc<VolumeClaim>, ctx: &Context) -> Result<(), Error> {
    let namespace = claim.namespace().unwrap_or_default();
    let api: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
    if claim.metadata.deletion_timestamp.is_some() {
        return unclaim(&api, &claim, ctx).await;
    }
    if !cluster::finalizer_present(&*claim) {
        return Ok(cluster::set_finalizer(&api, &*claim, true).await?);
    }
    let mut status = claim.status.clone().unwrap_or_default();
    let verdict = match bound(&claim, &status, ctx).await? {
        Ok(volume) => {
            let uid = volume.uid().unwrap_or_default();
            status.phase = ClaimPhase::Bound;
            status.volume = Some(UidRef { name: volume.name_any(), uid });
            status.node_name = volume.status.as_ref().and_then(|s| s.node_name.clone());
            match persistent::ensure(&claim, &volume, ctx).await? {
                Ok(name) => {
                    status.persistent_volume = Some(name);
                    persistent::standing(&claim, ctx)
                }
                Err(why) => why,
            }
        }
        Err(why) => why,
    };
    status.conditions = ready(&status.conditions, verdict, claim.metadata.generation);
    Ok(ctx.commit(&api, &*claim, &status).await?)
}

/// The volume whose list has the claim, on which this puts it if it may be bound now.
async fn bound(
    claim: &VolumeClaim,
    status: &VolumeClaimStatus,
    ctx: &Context,
) -> Result<Result<Arc<SharedPersistentVolume>, Verdict>, Error> {
    let volumes = ctx.stores.volumes.state();
    if let Some(volume) = volumes.iter().find(|v| bind::is_bound(v, claim)) {
        return Ok(Ok(volume.clone()));
    }
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    if let Some(was) = &status.volume {
        // Bound once: the cache may be behind, the volume itself is not.
        let volume = cluster::get(&api, &was.name).await?;
        return Ok(volume.filter(|v| bind::is_bound(v, claim)).map(Arc::new).ok_or_else(|| {
            Verdict::no(
                reason::VOLUME_LOST,
                format!(
                    "the volume {} that it was bound to is gone; delete this claim and make another one",
                    was.name
                ),
            )
        }));
    }
    let namespace = claim.namespace().unwrap_or_default();
    let subscriptions = ctx.subscriptions_in(&namespace);
    let subscriptions = refs(&subscriptions);
    let claims = ctx.stores.claims.state();
    let waiting: Vec<&VolumeClaim> = claims
        .iter()
        .map(AsRef::as_ref)
        .filter(|c| c.status.as_ref().is_none_or(|s| s.volume.is_none()))
        .collect();
    let name = match bind::choose(claim, &subscriptions, &refs(&volumes), &waiting) {
        Ok(volume) => volume.name_any(),
        Err(why) => return Ok(Err(why)),
    };
    let bound = cluster::update(&api, &name, CONTROLLER_MANAGER, |volume| {
        // Decided again on what is there now: the cache may be old.
        let mut status = volume.status.clone().unwrap_or_default();
        if !bind::is_bound(volume, claim) {
            bind::choose(claim, &subscriptions, &[volume], &waiting)?;
            status.claims.push(bind::binding(claim));
        }
        Ok(Some(counted(status, ctx)))
    })
    .await?;
    Ok(match bound {
        Some(Ok(())) => cluster::get(&api, &name).await?.map(Arc::new).ok_or_else(|| gone(&name)),
        Some(Err(why)) => Err(why),
        None => Err(gone(&name)),
    })
}

fn gone(name: &str) -> Verdict {
    Verdict::no(
        reason::NO_SUCH_VOLUME,
        format!("volume {name} has just gone; the claim waits for another one"),
    )
}

/// The numbers that admission looks at change together with the list.
fn counted(mut status: SharedPersistentVolumeStatus, ctx: &Context) -> SharedPersistentVolumeStatus {
    super::volume::count_users(&mut status, ctx);
    status
}

/// The end of a claim: pods first, then its PersistentVolumeClaim and PersistentVolume, then its place on the volume.
async fn unclaim(api: &Api<VolumeClaim>, claim: &VolumeClaim, ctx: &Context) -> Result<(), Error> {
    if !cluster::finalizer_present(claim) {
        return Ok(());
    }
    let namespace = claim.namespace().unwrap_or_default();
    let before = claim.status.clone().unwrap_or_default();
    let mut users = ctx.stores.pods.users(&namespace, &claim.name_any());
    if users.is_empty() && before.volume.is_some() {
        users = pods_by_quorum(claim, ctx).await?;
    }
    if persistent::is_ours(claim, ctx).await?
        && let Some(why) = release::claim_held(&users)
    {
        users.truncate(LISTED_PODS);
        return commit_releasing(api, claim, users, why, ctx).await;
    }
    if !persistent::remove(claim, ctx).await? {
        let why = Verdict::no(
            reason::RELEASING,
            "its PersistentVolumeClaim and PersistentVolume are being removed",
        );
        return commit_releasing(api, claim, vec![], why, ctx).await;
    }
    let uid = claim.uid().unwrap_or_default();
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let cached =
        ctx.stores.volumes.state().into_iter().find(|v| bind::is_bound(v, claim)).map(|v| v.name_any());
    let bound = match cached.or(before.volume.map(|v| v.name)).or(claim.spec.volume.clone()) {
        Some(name) => Some(name),
        // Selected, bound, and deleted before any cache saw it: the volumes themselves know.
        None => {
            let all = cluster::list(&volumes, &ListParams::default()).await?;
            all.iter().find(|v| bind::is_bound(v, claim)).map(ResourceExt::name_any)
        }
    };
    if let Some(name) = bound {
        let _ = cluster::update(&volumes, &name, CONTROLLER_MANAGER, |volume| {
            let mut status = volume.status.clone().unwrap_or_default();
            status.claims.retain(|b| b.uid != uid);
            Ok::<_, ()>(Some(counted(status, ctx)))
        })
        .await?;
    }
    Ok(cluster::set_finalizer(api, claim, false).await?)
}

async fn commit_releasing(
    api: &Api<VolumeClaim>,
    claim: &VolumeClaim,
    users: Vec<PodRef>,
    why: Verdict,
    ctx: &Context,
) -> Result<(), Error> {
    let before = claim.status.clone().unwrap_or_default();
    let conditions = ready(&before.conditions, why, claim.metadata.generation);
    let status = VolumeClaimStatus { phase: ClaimPhase::Releasing, users, conditions, ..before };
    Ok(ctx.commit(api, claim, &status).await?)
}

async fn pods_by_quorum(claim: &VolumeClaim, ctx: &Context) -> Result<Vec<PodRef>, Error> {
    let key = (claim.namespace().unwrap_or_default(), claim.name_any());
    let pods: Api<Pod> = cluster::namespaced(&ctx.client, &key.0);
    let list = cluster::list(&pods, &ListParams::default()).await?;
    Ok(list.iter().filter(|p| !is_terminal(p) && claims_of(p).contains(&key)).map(pod_ref).collect())
}
