//! Volumes: from CREATE to Ready, resizes and retirement (V1, V6, V7, X5).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::condition::{self, READY};
use crate::api::{
    BackingState, CONTROLLER_MANAGER, ClaimBinding, DiskReservation, LABEL_CLAIM_NAMESPACE,
    SharedPersistentVolume, SharedPersistentVolumeStatus, UidRef, volume_for_pvc,
};
use crate::cluster;
use crate::plan::debounce::DEBOUNCE;
use crate::plan::holder::held_by_volume;
use crate::plan::kept::left_unplaced;
use crate::plan::own_pvc::{self, Gone, Own, pvc_of};
use crate::plan::postponed::{AFTER, COUNTING};
use crate::plan::volume::{EntryFate, Seen, Step, Waiting, fate_of_entry, has_data_of, is_recount, next};
use crate::plan::{self, bind, birth, create, namesake, persistent_volume, pv_binding, refs};

use super::claim::offers;
use super::context::Context;
use super::ledger_entries::{change, end_entry, has_heir, release_entry};
use super::stores::{QUEUE, VOLUME, VOLUME_UID, queue_of};
use super::volume_users::{delete_lost, is_pvc_there, lost_claims, read_elsewhere, tell_waiting, users};
use super::{Again, Error, copies, destroy, kept, pvc_provisioner, replace_pods};

/// The most claims that are bound by the write that reports their volume as Ready. Others are bound one by one.
const MOST_WAITING: usize = 64;

/// Reconciles a volume that is not being deleted; see [`destroy::reconcile`] for the others.
///
/// 1. Gather: reservations, disks, claims and users from the caches. An object that no cache has is read live.
/// 2. Decide: [`next`].
/// 3. Apply: one step. Every step before the last is followed by another decision.
pub(super) async fn reconcile(volume: Arc<SharedPersistentVolume>, ctx: &Context) -> Result<Again, Error> {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    if volume.metadata.deletion_timestamp.is_some() {
        return destroy::reconcile(&api, &volume, ctx).await;
    }
    let uid = volume.uid().unwrap_or_default();
    let (mut seen, mut again, mut taken) = (gather(&volume, ctx).await?, None, false);
    loop {
        match next(&volume, &seen) {
            Step::MakeRoom(reservation, wanted) => {
                kept::make_room(&reservation, wanted, ctx).await?;
                seen.room_made = true;
                continue;
            }
            Step::Guard => cluster::set_finalizer(&api, &*volume, true).await?,
            Step::Await(status) => {
                if taken {
                    end_unused_entry(&api, &volume, &status, ctx).await?;
                }
                again = Some(DEBOUNCE);
            }
            Step::Release(event) => pvc_provisioner::release(&volume, &event, ctx).await?,
            Step::TakeEntry(name) => {
                take_entry(&volume, &name, &mut seen, ctx).await?;
                taken = true;
                continue;
            }
            Step::Place(status) => {
                let placed = ctx.commit(&api, &*volume, &status).await;
                if placed.is_err() {
                    end_unused_entry(&api, &volume, &status, ctx).await?;
                }
                placed?;
                if let Some(why) = namesake::orphaned(&volume, &refs(&seen.disks)) {
                    ctx.events.publish(&*volume, None, false, "Create", "OldDataOrphaned", &why).await;
                }
                if let Some(why) = namesake::kept_beside(&volume, &refs(&seen.reservations)) {
                    ctx.events.publish(&*volume, None, false, "Create", "OldDataKept", &why).await;
                }
            }
            Step::ReleaseEntry(name) => {
                release_entry(&name, &uid, ctx).await?;
                seen.reservations.retain(|r| r.name_any() != name);
                continue;
            }
            Step::RestoreEntry(name, entry) => {
                let now = cluster::get_same(&api, &*volume).await?;
                if now.is_some_and(|now| now.metadata.deletion_timestamp.is_none()) {
                    let restore = |reservation: &DiskReservation| {
                        Ok::<_, ()>(create::restore_entry(&entry, reservation))
                    };
                    change::<DiskReservation, SharedPersistentVolume, _>(&name, ctx, restore).await?;
                }
                seen.restored = true;
                continue;
            }
            Step::LookToResize(name) => {
                let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
                let reservation = cluster::get(&reservations, &name).await?;
                let now = cluster::get_same(&api, &*volume).await?;
                seen.live = Some((reservation, now.and_then(|now| now.status)));
                continue;
            }
            Step::ResizeEntry(bytes) => {
                if let Some((Some(read), _)) = &mut seen.live {
                    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
                    let status = create::resize_entry(&uid, bytes, read);
                    let written =
                        cluster::write_status(&reservations, read, &status, CONTROLLER_MANAGER).await?;
                    if let Some(written) = written {
                        *read = written;
                        continue;
                    }
                }
            }
            Step::Report(status) => {
                let name = volume.name_any();
                if is_recount(&volume, &status) {
                    again = ctx.recounts().left(&name, COUNTING, seen.now);
                } else if plan::copies::is_recount(&volume, &status) {
                    again = ctx.recounts().note(&name, AFTER, seen.now);
                }
                if again.is_none() {
                    report(&api, &volume, &status, &seen, ctx).await?;
                }
            }
            step @ (Step::Retire | Step::Unretire) => {
                let retire = step == Step::Retire;
                cluster::merge_seen(&api, &*volume, json!({ "spec": { "retire": retire } })).await?;
            }
            Step::Delete => match (cluster::delete_seen(&api, &*volume).await, &mut seen.own) {
                (Err(error), Some(Own::Gone(gone))) if error.refusal().is_some() && !gone.is_refused => {
                    gone.is_refused = true;
                    continue;
                }
                (deleted, _) => deleted?,
            },
        }
        copies::make(&seen.copies.missing, ctx).await?;
        replace_pods::reconcile(&volume, ctx).await?;
        tell_waiting(&volume, ctx).await?;
        return Ok(seen.room_made.then_some(kept::WHILE_ROOM_IS_MADE).or(again));
    }
}

/// Writes the status of a volume that has a place or waits for one.
async fn report(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    status: &SharedPersistentVolumeStatus,
    seen: &Seen,
    ctx: &Context,
) -> Result<(), Error> {
    ctx.recounts().forget(&volume.name_any());
    delete_lost(&seen.lost_claims, volume, ctx).await?;
    ctx.commit(api, volume, status).await?;
    if let Some((binding, node)) = own_pvc::listed(volume).zip(seen.moved_to.as_deref()) {
        let event = pv_binding::moved(&binding.name, node, volume);
        let pvc = pvc_provisioner::regarding(binding);
        ctx.events.publish(&pvc, None, false, "Move", "VolumeMoved", &event).await;
    }
    Ok(())
}

async fn gather(volume: &SharedPersistentVolume, ctx: &Context) -> Result<Seen, Error> {
    let (stores, status) = (&ctx.stores, volume.status.clone().unwrap_or_default());
    let with_entry = stores.reservations.by(VOLUME_UID, &volume.uid().unwrap_or_default());
    let lost_claims = lost_claims(volume, &[], ctx).await?;
    // The pods of a PersistentVolumeClaim that is gone count until its entry goes.
    let (is_gone, mut uncounted) = (ctx.is_disk_gone(volume), lost_claims.clone());
    uncounted.retain(|binding| is_gone || binding.pvc_uid.is_none());
    let mut seen = Seen {
        guarded: cluster::finalizer_present(volume),
        reservations: with_entry,
        disks: status.node_disk.iter().filter_map(|name| stores.disks.get(name)).collect(),
        entry: None,
        owner: None,
        restored: false,
        own: own(volume, &lost_claims, ctx).await?,
        waiting: waiting(volume, ctx),
        copies: copies::around(volume, ctx),
        family: copies::family(volume, ctx),
        room_made: false,
        live: None,
        moved_to: ctx.node_moved(status.node_disk.as_deref(), status.node_name.as_deref()).await?,
        users: users(volume, &uncounted, ctx),
        read_elsewhere: read_elsewhere(volume, ctx),
        lost_claims,
        now: (ctx.now)(),
    };
    if let Some(own) = &status.reservation {
        seen.reservations.extend(lineage(own, ctx));
    } else {
        let live = live_if_recovering(volume, ctx).await?;
        let with_entry = live.as_ref().map_or(&seen.reservations, |live| live);
        seen.entry = entry(volume, with_entry, ctx).await?.map(Ok);
        seen.owner = owner(volume, ctx).await?;
        seen.reservations = live.unwrap_or_else(|| stores.reservations.all());
        seen.disks = stores.disks.all();
    }
    Ok(seen)
}

/// The reservation whose ledger lists the volume, found in the cache and read live. The cache may lack a recent entry.
/// Then the volume takes a second entry, and releases one of the two after its placement. The entry of a volume that is born in
/// its place stays until that place is written, so its ledger is not read again.
async fn entry(
    volume: &SharedPersistentVolume,
    cached: &[Arc<DiskReservation>],
    ctx: &Context,
) -> Result<Option<Arc<DiskReservation>>, Error> {
    let uid = volume.uid().unwrap_or_default();
    let with_entry = |r: &&Arc<DiskReservation>| held_by_volume(r, &uid).is_some();
    let Some(cached) = cached.iter().find(with_entry) else { return Ok(None) };
    if birth::has_entry(volume, cached) {
        return Ok(Some(cached.clone()));
    }
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let found = cluster::get(&reservations, &cached.name_any()).await?;
    Ok(found.filter(|r| held_by_volume(r, &uid).is_some()).map(Arc::new))
}

/// All reservations, by a live read, for a volume that recovers data. Its deletion before its placement ends its entry,
/// and an entry that the cache lacks would be that of the data.
async fn live_if_recovering(
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<Option<Vec<Arc<DiskReservation>>>, Error> {
    if volume.spec.recover.is_none() {
        return Ok(None);
    }
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let all = cluster::list(&reservations, &ListParams::default()).await?;
    Ok(Some(all.into_iter().map(Arc::new).collect()))
}

/// The name of another volume that has, or has recovered, the data that this volume is to recover, by a live read (X6).
async fn owner(volume: &SharedPersistentVolume, ctx: &Context) -> Result<Option<String>, Error> {
    let Some(recover) = &volume.spec.recover else { return Ok(None) };
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let all = cluster::list(&volumes, &ListParams::default()).await?;
    Ok(all.iter().find(|other| has_data_of(other, &recover.uid)).map(ResourceExt::name_any))
}

/// The claims that wait for the volume by its name, if its node has made it and it is not Ready yet. One write then has the
/// volume's condition, the bindings and their pods.
fn waiting(volume: &SharedPersistentVolume, ctx: &Context) -> Vec<Waiting> {
    let status = volume.status.clone().unwrap_or_default();
    let is_made = status.node.is_some_and(|node| node.backing == BackingState::Made);
    if !is_made || condition::is_true(&status.conditions, READY) {
        return vec![];
    }
    let names = ctx.stores.claims.names_from(QUEUE, &queue_of(&volume.name_any()));
    let there = names.iter().filter_map(|name| ctx.stores.claims.get(name));
    let guarded = there.filter(|claim| cluster::finalizer_present(&**claim) && pvc_of(&**claim).is_none());
    let waiting = guarded.take(MOST_WAITING).map(|claim| Waiting {
        offers: offers(&claim, ctx),
        users: ctx.users(&[bind::binding(&claim)]),
        claim,
    });
    waiting.collect()
}

/// The reservation and its ancestors, as far as the cache has them.
fn lineage(own: &UidRef, ctx: &Context) -> Vec<Arc<DiskReservation>> {
    let find = |UidRef { name, uid }: &UidRef| {
        ctx.stores.reservations.get(name).filter(|r| r.metadata.uid.as_ref() == Some(uid))
    };
    let parent = |r: &Arc<DiskReservation>| find(r.status.as_ref()?.parent.as_ref()?);
    std::iter::successors(find(own), parent).collect()
}

/// The PersistentVolumeClaim that the volume was made for; `None`: there is none, or the volume lists it and it is there. The
/// annotation with its name decides nothing, since others may write it.
async fn own(
    volume: &SharedPersistentVolume,
    lost: &[ClaimBinding],
    ctx: &Context,
) -> Result<Option<Own>, Error> {
    let (Some(uid), Some(namespace)) = (pvc_of(volume), volume.labels().get(LABEL_CLAIM_NAMESPACE)) else {
        return Ok(None);
    };
    // The VolumeClaim of an earlier version hands its entry over first.
    let claims = ctx.stores.claims.by(VOLUME, &volume.name_any());
    if claims.iter().any(|claim| pvc_of(&**claim) == Some(uid)) {
        return Ok(None);
    }
    let listed = own_pvc::listed(volume);
    let there = match listed {
        Some(binding) if !binding.ending && lost.contains(binding) => None,
        Some(binding) => is_pvc_there(binding, uid, ctx).await?.then(|| binding.clone()),
        None => find(volume, namespace, uid, ctx).await?,
    };
    if let Some(binding) = there {
        let users = || ctx.users(std::slice::from_ref(&binding));
        return Ok(listed.is_none().then(|| Own::There(binding.clone(), users())));
    }
    let name = persistent_volume::name_for(listed.map_or(uid, |binding| &binding.uid));
    let pv: Option<PersistentVolume> = cluster::get(&Api::all(ctx.client.clone()), &name).await?;
    Ok(Some(Own::Gone(Gone {
        policy: pv.and_then(|pv| pv.spec?.persistent_volume_reclaim_policy),
        users: listed.map(|binding| ctx.users(std::slice::from_ref(binding))).unwrap_or_default(),
        is_refused: false,
    })))
}

/// The entry for the PersistentVolumeClaim of that UID, for a volume that does not list it. The cache says that it is there
/// until the volume is made; its binding is decided on a live read.
async fn find(
    volume: &SharedPersistentVolume,
    namespace: &str,
    uid: &str,
    ctx: &Context,
) -> Result<Option<ClaimBinding>, Error> {
    let node = volume.status.as_ref().and_then(|status| status.node.as_ref());
    let is_made = node.is_some_and(|node| node.backing == BackingState::Made);
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, namespace);
    for name in ctx.stores.pvcs.names_for(&volume_for_pvc(uid)) {
        let name = name.split_once('/').map_or("", |(_, name)| name);
        let is_it = |pvc: PersistentVolumeClaim| pvc.metadata.uid.as_deref() == Some(uid);
        if !is_made || cluster::get(&pvcs, name).await?.is_some_and(is_it) {
            return Ok(Some(own_pvc::binding(namespace, name, uid)));
        }
    }
    let all = cluster::list_metadata(&pvcs, &ListParams::default()).await?;
    let found = all.iter().find(|pvc| pvc.metadata.uid.as_deref() == Some(uid));
    Ok(found.map(|pvc| own_pvc::binding(namespace, &pvc.name_any(), uid)))
}

/// Takes an entry in the ledger of the reservation of that name, and stores that reservation or its refusal in `seen`.
async fn take_entry(
    volume: &SharedPersistentVolume,
    name: &str,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<(), Error> {
    let take = |reservation: &DiskReservation| create::take_entry(volume, reservation, &refs(&seen.disks));
    let taken = change::<DiskReservation, SharedPersistentVolume, _>(name, ctx, take).await?;
    seen.entry = Some(taken.unwrap_or_else(|| Err(create::reservation_gone())).map(Arc::new));
    Ok(())
}

/// The pauses before further tries to end an unused entry, in seconds.
const TRIES: [u64; 8] = [1, 1, 2, 4, 8, 16, 32, 64];

/// Ends the entry of a volume whose place is not written, unless the volume still needs the entry. A volume that is being
/// deleted may have been born in its place: then the place is written, and its end waits for its node. The volume may be
/// gone, and then no later reconcile looks at its entry (L5). So a request that fails is tried again here.
async fn end_unused_entry(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    placed: &SharedPersistentVolumeStatus,
    ctx: &Context,
) -> Result<(), Error> {
    for pause in TRIES {
        match try_to_end_entry(api, volume, placed, ctx).await {
            // Somebody else has written the volume, or it is gone.
            Err(error) if ["Conflict", "NotFound"].contains(&error.label()) => {}
            Err(error) if error.refusal().is_none() => tokio::time::sleep(Duration::from_secs(pause)).await,
            ended => return ended,
        }
    }
    try_to_end_entry(api, volume, placed, ctx).await
}

async fn try_to_end_entry(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    placed: &SharedPersistentVolumeStatus,
    ctx: &Context,
) -> Result<(), Error> {
    let Some(reservation) = &placed.reservation else { return Ok(()) };
    let now = cluster::get_same(api, volume).await?;
    match (fate_of_entry(now.as_ref(), placed), now) {
        (EntryFate::Keep, _) => Ok(()),
        (EntryFate::Place(status), Some(now)) => ctx.commit(api, &now, &status).await,
        (EntryFate::End | EntryFate::Place(_), now) => {
            let is_placed =
                now.is_some_and(|now| now.status.is_some_and(|status| status.reservation.is_some()));
            let has_heir = is_placed || has_heir(volume, ctx).await?;
            let left = left_unplaced(volume, has_heir, (ctx.now)());
            let uid = volume.uid().unwrap_or_default();
            end_entry(&reservation.name, &uid, left.as_ref(), ctx).await
        }
    }
}
