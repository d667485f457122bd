//! Claims: ACCEPT and its end (C1–C7).
//!
//! The list of claims in the volume's status decides who is bound, by compare-and-swap on the volume. A binding is
//! written once and by UID; it is never moved to another volume.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{Verdict, reason};
use crate::api::{
    CONTROLLER_MANAGER, ClaimPhase, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, UidRef,
    VolumeClaim, VolumeClaimStatus,
};
use crate::cluster;
use crate::plan::moment::{self, MOMENT};
use crate::plan::plain::pvc_of;
use crate::plan::{LISTED_PODS, bind, release};

use super::context::{CLAIM, Context, WAITING, ready, refs};
use super::{Again, Error, persistent};

pub(super) async fn reconcile(claim: Arc<VolumeClaim>, ctx: &Context) -> Result<Again, Error> {
    let namespace = claim.namespace().unwrap_or_default();
    let api: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
    if claim.metadata.deletion_timestamp.is_some() {
        return unclaim(&api, &claim, ctx).await;
    }
    if !cluster::finalizer_present(&*claim) {
        return Ok(cluster::set_finalizer(&api, &*claim, true).await.map(|()| None)?);
    }
    if pvc_of(&*claim).is_some() && !persistent::is_there(&claim, ctx).await? {
        // It goes with its PersistentVolumeClaim (P4).
        return Ok(cluster::delete(&api, &claim.name_any(), claim.uid()).await.map(|()| None)?);
    }
    let mut status = claim.status.clone().unwrap_or_default();
    let mut again = None;
    let verdict = match bound(&api, &claim, ctx).await? {
        Ok(volume) => {
            let uid = volume.uid().unwrap_or_default();
            status.phase = ClaimPhase::Bound;
            status.volume = Some(UidRef { name: volume.name_any(), uid });
            let node = volume.status.as_ref().and_then(|s| s.node_name.clone());
            let moved = status.node_name.is_some() && status.node_name != node;
            if !moved {
                status.node_name.clone_from(&node);
            }
            match persistent::ensure(&claim, &volume, moved, ctx).await? {
                Ok(name) => {
                    status.node_name = node;
                    status.persistent_volume = Some(name);
                    persistent::standing(&claim, ctx)
                }
                Err(why) => {
                    // What is in the way is not ours, so nobody tells us when it goes.
                    again = Some(Duration::from_secs(5));
                    why
                }
            }
        }
        Err(why) => why,
    };
    let binding = verdict.reason == reason::BINDING;
    if binding {
        // PersistentVolumes are not watched: that one goes, or is bound to another claim, brings no event.
        again = Some(Duration::from_secs(5));
    }
    if binding && moment::is_passing(claim.metadata.creation_timestamp.as_ref(), Timestamp::now()) {
        return Ok(Some(MOMENT));
    }
    status.conditions = ready(&status.conditions, verdict, claim.metadata.generation);
    ctx.commit(&api, &*claim, &status).await?;
    Ok(again)
}

/// The volume whose list has the claim, on which this puts it if it may be bound now.
///
/// A claim that selects writes down first which volume it means, so that whoever dies or looks at an old cache in
/// between goes on with that one: a claim is never on the lists of two volumes (S8).
async fn bound(
    api: &Api<VolumeClaim>,
    claim: &VolumeClaim,
    ctx: &Context,
) -> Result<Result<Arc<SharedPersistentVolume>, Verdict>, Error> {
    let before = claim.status.clone().unwrap_or_default();
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let meant = before.volume.clone();
    let lost = before.phase == ClaimPhase::Bound;
    // On the list of the one that it names, and that was not told yet.
    let named_one = claim.spec.volume.as_ref().filter(|_| meant.is_none());
    if let Some(volume) = named_one.and_then(|name| ctx.stores.volumes.get(name))
        && bind::is_bound(&volume, claim)
    {
        return Ok(Ok(volume));
    }
    if let Some(meant) = &meant {
        let cached = ctx.stores.volumes.get(&meant.name);
        if let Some(volume) =
            cached.filter(|v| v.uid().as_ref() == Some(&meant.uid) && bind::is_bound(v, claim))
        {
            return Ok(Ok(volume));
        }
        // The cache may be behind, the volume itself is not.
        let volume =
            cluster::get(&volumes, &meant.name).await?.filter(|v| v.uid().as_ref() == Some(&meant.uid));
        match volume {
            Some(volume) if bind::is_bound(&volume, claim) => return Ok(Ok(Arc::new(volume))),
            _ if lost => {
                return Ok(Err(Verdict::no(
                    reason::VOLUME_LOST,
                    format!(
                        "the volume {} that it was bound to is gone; delete this claim and make another one",
                        meant.name
                    ),
                )));
            }
            _ => {}
        }
    }
    let subscriptions = ctx.subscriptions_in(&claim.namespace().unwrap_or_default());
    let subscriptions = refs(&subscriptions);
    // Only who names a volume has a place in its line.
    let cached = candidates(claim, ctx);
    let contested = cached.iter().filter(|v| v.spec.shared.is_none());
    let claims: Vec<_> = contested.flat_map(|v| ctx.stores.claims.by(WAITING, &v.name_any())).collect();
    let theirs: Vec<_> =
        claims.iter().map(|c| ctx.subscriptions_in(&c.namespace().unwrap_or_default())).collect();
    let rivals: Vec<bind::Rival> = claims
        .iter()
        .zip(&theirs)
        .map(|(claim, theirs)| bind::Rival { claim, subscriptions: refs(theirs) })
        .collect();
    let chosen = match bind::choose(claim, &subscriptions, &refs(&cached), &rivals) {
        Ok(volume) => UidRef { name: volume.name_any(), uid: volume.uid().unwrap_or_default() },
        Err(why) => return Ok(Err(why)),
    };
    if claim.spec.volume.is_none() && meant.as_ref() != Some(&chosen) {
        let status = VolumeClaimStatus { volume: Some(chosen), ..before };
        cluster::write_status(api, claim, &status, CONTROLLER_MANAGER).await?;
        // This is an old copy now; the new one comes by itself.
        return Err(cluster::Error::Conflict(format!("VolumeClaim {}", claim.name_any())).into());
    }
    let name = chosen.name;
    let decide = |volume: &SharedPersistentVolume| {
        // Decided again on what is there now: the cache may be old.
        let mut status = volume.status.clone().unwrap_or_default();
        if !bind::is_bound(volume, claim) {
            bind::choose(claim, &subscriptions, &[volume], &rivals)?;
            status.claims.push(bind::binding(claim));
        }
        Ok(Some(counted(status, ctx)))
    };
    let bound = ctx.batchers.volumes.update(&volumes, &name, decide).await?;
    let gone = || {
        Verdict::no(
            reason::NO_SUCH_VOLUME,
            format!("volume {name} has just gone; the claim waits for another one"),
        )
    };
    Ok(match bound {
        // Another volume may have the name by now.
        Some(Ok(())) => {
            let now = cluster::get(&volumes, &name).await?.filter(|v| bind::is_bound(v, claim));
            now.map(Arc::new).ok_or_else(gone)
        }
        Some(Err(why)) => Err(why),
        None => Err(gone()),
    })
}

/// The volumes that the claim may be bound to, and those that have it already.
fn candidates(claim: &VolumeClaim, ctx: &Context) -> Vec<Arc<SharedPersistentVolume>> {
    let mut volumes = match &claim.spec.volume {
        Some(name) => Vec::from_iter(ctx.stores.volumes.get(name)),
        None => ctx.stores.volumes_for(&claim.spec.role),
    };
    volumes.extend(ctx.stores.volumes.by(CLAIM, &bind::binding(claim).to_string()));
    volumes
}

/// The numbers that admission looks at change together with the list.
fn counted(mut status: SharedPersistentVolumeStatus, ctx: &Context) -> SharedPersistentVolumeStatus {
    super::volume::count_users(&mut status, ctx);
    status
}

/// The end of a claim: pods first, then its PersistentVolumeClaim and PersistentVolume, then its place on the volume.
async fn unclaim(api: &Api<VolumeClaim>, claim: &VolumeClaim, ctx: &Context) -> Result<Again, Error> {
    // The cache may have one that has just gone.
    let now = cluster::get_same(api, claim).await?;
    if !now.is_some_and(|now| cluster::finalizer_present(&now)) {
        return Ok(None);
    }
    let namespace = claim.namespace().unwrap_or_default();
    if pvc_of(claim).is_some() {
        if persistent::is_ours(claim, ctx).await? {
            let name = claim.name_any();
            let said =
                format!("it is that of PersistentVolumeClaim {name} and goes with it: delete that one");
            return commit_releasing(api, claim, vec![], Verdict::no(reason::IN_USE, said), ctx).await;
        }
        persistent::let_go(claim, ctx).await?;
    } else if persistent::is_ours(claim, ctx).await? {
        let mut users = ctx.stores.pods.users(&namespace, &claim.name_any());
        if users.is_empty() {
            users = ctx.users_by_quorum(&[(namespace, claim.name_any())].into()).await?;
        }
        if let Some(why) = release::claim_held(&users) {
            users.truncate(LISTED_PODS);
            return commit_releasing(api, claim, users, why, ctx).await;
        }
    }
    if !persistent::remove(claim, ctx).await? {
        if moment::is_passing(claim.metadata.deletion_timestamp.as_ref(), Timestamp::now()) {
            return Ok(Some(MOMENT));
        }
        let why = Verdict::no(
            reason::RELEASING,
            "its PersistentVolumeClaim and PersistentVolume are being removed",
        );
        return commit_releasing(api, claim, vec![], why, ctx).await;
    }
    let before = claim.status.clone().unwrap_or_default();
    let uid = claim.uid().unwrap_or_default();
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let cached = candidates(claim, ctx).into_iter().find(|v| bind::is_bound(v, claim)).map(|v| v.name_any());
    let bound = match cached.or(before.volume.map(|v| v.name)).or(claim.spec.volume.clone()) {
        Some(name) => Some(name),
        // Selected, bound, and deleted before any cache saw it: the volumes themselves know.
        None => {
            let all = cluster::list(&volumes, &ListParams::default()).await?;
            all.iter().find(|v| bind::is_bound(v, claim)).map(ResourceExt::name_any)
        }
    };
    if let Some(name) = bound {
        let leave = |volume: &SharedPersistentVolume| {
            let mut status = volume.status.clone().unwrap_or_default();
            status.claims.retain(|b| b.uid != uid);
            Ok::<_, ()>(Some(counted(status, ctx)))
        };
        let _ = ctx.batchers.volumes.update(&volumes, &name, leave).await?;
    }
    cluster::set_finalizer(api, claim, false).await?;
    Ok(None)
}

async fn commit_releasing(
    api: &Api<VolumeClaim>,
    claim: &VolumeClaim,
    users: Vec<PodRef>,
    why: Verdict,
    ctx: &Context,
) -> Result<Again, Error> {
    let before = claim.status.clone().unwrap_or_default();
    let conditions = ready(&before.conditions, why, claim.metadata.generation);
    let status = VolumeClaimStatus { phase: ClaimPhase::Releasing, users, conditions, ..before };
    ctx.commit(api, claim, &status).await?;
    Ok(None)
}
