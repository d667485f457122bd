//! Volumes: CREATE, and how they stand (V1, V6, X1).

use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{self, RESIZED, RETIRING, Verdict, reason};
use crate::api::{
    DiskReservation, Reserved, SharedPersistentVolume, SharedPersistentVolumeStatus, Size, UidRef,
    VolumeClaim, VolumePhase,
};
use crate::cluster;
use crate::plan::holder::{Holder, held_by_volume};
use crate::plan::{LISTED_PODS, bind, create, retire, undivided, usage};

use super::context::{Context, VOLUME_UID, ready, refs};
use super::ledger_entries::{self, change};
use super::{Again, Error};
use super::{destroy, persistent, resize};

pub(super) async fn reconcile(volume: Arc<SharedPersistentVolume>, ctx: &Context) -> Result<Again, Error> {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    if volume.metadata.deletion_timestamp.is_some() {
        return destroy::reconcile(&api, &volume, ctx).await;
    }
    if !cluster::finalizer_present(&*volume) {
        return Ok(cluster::set_finalizer(&api, &*volume, true).await.map(|()| None)?);
    }
    if persistent::release_lost(&volume, ctx).await? {
        return Ok(None);
    }
    let mut status = volume.status.clone().unwrap_or_default();
    status.access = Some(if volume.spec.shared.is_some() { "Shared" } else { "Exclusive" }.to_owned());
    if status.reservation.is_none() {
        let verdict = match take(&volume, ctx).await? {
            Ok((reservation, size)) => {
                let held = reservation.status.clone().unwrap_or_default();
                status.phase = VolumePhase::Creating;
                status.size =
                    Some(Size::from_bytes(undivided::of_reservation(&reservation, size.bytes_or_zero())));
                status.disk_kind = held.disk_kind;
                status.node_name = held.node_name;
                status.node_disk = held.node_disk;
                status.reservation =
                    Some(UidRef { name: reservation.name_any(), uid: reservation.uid().unwrap_or_default() });
                status.reserved = reserved(&status, ctx).unwrap_or_default();
                let placed = SharedPersistentVolume { status: Some(status.clone()), ..(*volume).clone() };
                standing(&placed, ctx).1
            }
            Err(why) => {
                status.phase = VolumePhase::Pending;
                why
            }
        };
        status.conditions = ready(&status.conditions, verdict, volume.metadata.generation);
        let committed = ctx.commit(&api, &*volume, &status).await;
        if let (Err(_), Some(home)) = (&committed, &status.reservation) {
            give_back(&api, &volume, home, ctx).await?;
        }
        return Ok(committed.map(|()| None)?);
    }
    let uid = volume.uid().unwrap_or_default();
    for held in
        ctx.stores.reservations.by(VOLUME_UID, &uid).iter().filter(|r| held_by_volume(r, &uid).is_some())
    {
        // Of two controllers that put it into two reservations, one finds that out here and takes its line back.
        if status.reservation.as_ref().is_some_and(|home| Some(&home.uid) != held.metadata.uid.as_ref()) {
            release(&held.name_any(), &uid, ctx).await?;
        }
    }
    restore(&volume, &status, ctx).await?;
    follow_disk(&mut status, ctx).await?;
    if let Some(reserved) = reserved(&status, ctx) {
        status.reserved = reserved;
    }
    forget_lost_claims(&volume, &mut status, ctx).await?;
    count_users(&mut status, ctx);
    let (phase, verdict) = standing(&volume, ctx);
    status.phase = phase;
    status.conditions = ready(&status.conditions, verdict, volume.metadata.generation);
    let sized = resize::reconcile(&volume, &mut status, ctx).await?;
    let retired = retire::next(&volume, &status);
    let said = match &retired {
        retire::Step::Nothing => None,
        retire::Step::Say(verdict) | retire::Step::Delete(verdict) => Some(verdict.clone()),
    };
    for (type_, verdict) in [(RESIZED, sized), (RETIRING, said)] {
        if let Some(verdict) = verdict {
            let generation = volume.metadata.generation;
            condition::set(&mut status.conditions, type_, verdict, generation, Timestamp::now());
        }
    }
    ctx.commit(&api, &*volume, &status).await?;
    if matches!(retired, retire::Step::Delete(_)) && volume.status.as_ref() == Some(&status) {
        // The very object on which nobody was seen: a claim that is bound or a wish that is withdrawn first wins.
        cluster::delete_seen(&api, &*volume).await?;
    }
    Ok(None)
}

/// Goes with its disk into a node of another name (D3).
pub(super) async fn follow_disk(
    status: &mut SharedPersistentVolumeStatus,
    ctx: &Context,
) -> Result<(), Error> {
    if let Some(node) = ctx.node_moved(status.node_disk.as_deref(), status.node_name.as_deref()).await? {
        status.node_name = Some(node);
    }
    Ok(())
}

/// The reservation that the volume lives in and those which it was carved out of, if the caches have them all (X6).
fn reserved(status: &SharedPersistentVolumeStatus, ctx: &Context) -> Option<Vec<Reserved>> {
    let mut found = Vec::new();
    let mut next = status.reservation.clone();
    while let Some(home) = next {
        let there =
            ctx.stores.reservations.get(&home.name).filter(|r| r.uid().as_ref() == Some(&home.uid))?;
        let held = there.status.clone().unwrap_or_default();
        found.push(Reserved {
            name: home.name,
            role: there.spec.role.clone(),
            size: held.size.unwrap_or_else(|| there.spec.size.clone()),
            labels: there.labels().clone(),
        });
        next = held.parent;
    }
    Some(found)
}

/// How a volume stands that is in a reservation.
fn standing(volume: &SharedPersistentVolume, ctx: &Context) -> (VolumePhase, Verdict) {
    let name = volume.status.as_ref().and_then(|s| s.node_disk.as_deref());
    let disk = name.and_then(|name| ctx.stores.disks.get(name));
    let conditions = disk.as_ref().and_then(|d| d.status.as_ref()).map(|s| &s.conditions[..]);
    create::standing(volume, conditions)
}

/// Takes claims off the list that are not its own any more: their object is gone without our having seen it go,
/// because somebody took the finalizer off by hand, or it is bound to another volume, because two leaders chose at
/// once. Else the volume could never be destroyed. A claim that pods still use stays.
pub(super) async fn forget_lost_claims(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    ctx: &Context,
) -> Result<(), Error> {
    let mut kept = Vec::new();
    for binding in std::mem::take(&mut status.claims) {
        let api: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &binding.namespace);
        let there = ctx
            .stores
            .claims
            .get_in(&binding.namespace, &binding.name)
            .is_some_and(|claim| bind::is_of(&binding, &claim, volume))
            || cluster::get(&api, &binding.name)
                .await?
                .is_some_and(|claim| bind::is_of(&binding, &claim, volume))
            || !ctx.users(std::slice::from_ref(&binding)).is_empty();
        if there {
            kept.push(binding);
        } else {
            persistent::forget(&binding.uid, &volume.uid().unwrap_or_default(), ctx).await?;
        }
    }
    status.claims = kept;
    Ok(())
}

/// Puts the volume's line back into the ledger of its reservation, if that object was made anew without it.
async fn restore(
    volume: &SharedPersistentVolume,
    status: &SharedPersistentVolumeStatus,
    ctx: &Context,
) -> Result<(), Error> {
    let (Some(home), Ok(mut entry)) = (&status.reservation, create::entry(volume)) else { return Ok(()) };
    // What it was granted, not what it wishes.
    entry.size = status.size.clone().unwrap_or(entry.size);
    let missing = ctx
        .stores
        .reservations
        .get(&home.name)
        .is_some_and(|r| r.uid().as_ref() == Some(&home.uid) && held_by_volume(&r, &entry.uid).is_none());
    if !missing {
        return Ok(());
    }
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let now = cluster::get_same(&volumes, volume).await?;
    if now.is_some_and(|v| v.metadata.deletion_timestamp.is_none()) {
        let (name, size) = (&home.name, entry.size.bytes_or_zero());
        change::<DiskReservation, SharedPersistentVolume, ()>(name, ctx, |reservation| {
            let ledger = Holder::<SharedPersistentVolume>::ledger(reservation);
            Ok(ledger.set_within(entry.clone(), size, u64::MAX).into_entries())
        })
        .await?;
    }
    Ok(())
}

/// Writes who uses the volume into its status: what admission looks at when somebody deletes it (X1).
pub(super) fn count_users(status: &mut SharedPersistentVolumeStatus, ctx: &Context) {
    let mut users = ctx.users(&status.claims);
    users.sort();
    users.dedup();
    status.claim_count = status.claims.len() as u32;
    status.user_count = users.len() as u32;
    status.namespaces = usage::by_namespace(&status.claims, &users);
    users.truncate(LISTED_PODS);
    status.users = users;
}

/// The reservation whose ledger has the volume, which this puts there if none has it yet, and what its line says.
async fn take(
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<Result<(Arc<DiskReservation>, Size), Verdict>, Error> {
    let reservations = ctx.stores.reservations.all();
    let disks = ctx.stores.disks.all();
    let uid = volume.uid().unwrap_or_default();
    let api: Api<DiskReservation> = Api::all(ctx.client.clone());
    // A line that no cache has seen yet may be missed. Then there are two, and the volume takes back the one that is not
    // its home's.
    if let Some(cached) = ctx.stores.reservations.by(VOLUME_UID, &uid).first()
        && let Some(found) =
            cluster::get(&api, &cached.name_any()).await?.filter(|r| held_by_volume(r, &uid).is_some())
    {
        let size = Size::from_bytes(held_by_volume(&found, &uid).unwrap_or_default());
        return Ok(Ok((Arc::new(found), size)));
    }
    let entry = match create::entry(volume) {
        Ok(entry) => entry,
        Err(why) => return Ok(Err(why)),
    };
    if let Some(owner) = owner_of_what_it_recovers(volume, ctx).await? {
        return Ok(Err(Verdict::no(
            reason::NO_ORPHAN,
            format!(
                "the data that it is to recover is that of volume {owner}, which is there: claim that one"
            ),
        )));
    }
    let name = match create::choose(volume, &refs(&reservations), &refs(&disks)) {
        Ok(reservation) => reservation.name_any(),
        Err(why) => return Ok(Err(why)),
    };
    // Decided again on what is there now: the cache may be old.
    let taken = change::<DiskReservation, SharedPersistentVolume, _>(&name, ctx, |reservation| {
        create::take(volume, reservation, &refs(&disks))
    })
    .await?;
    Ok(match taken {
        Some(Ok(home)) => Ok((Arc::new(home), entry.size)),
        Some(Err(why)) => Err(why),
        None => Err(gone()),
    })
}

/// The volume that has the data which this one is to recover, by quorum: then it is no orphan, and its line in the ledger
/// nobody else's (X6).
async fn owner_of_what_it_recovers(
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<Option<String>, Error> {
    let Some(recover) = &volume.spec.recover else { return Ok(None) };
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let all = cluster::list(&api, &ListParams::default()).await?;
    let owner = all.iter().find(|owner| owner.metadata.uid.as_ref() == Some(&recover.uid));
    Ok(owner.map(ResourceExt::name_any))
}

fn gone() -> Verdict {
    Verdict::no(reason::NO_RESERVATION, "the reservation has just gone; another is looked for")
}

/// Takes the line in `taken` back if the volume went meanwhile or lives in another reservation: whoever let it go may
/// not have seen the line.
async fn give_back(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    taken: &UidRef,
    ctx: &Context,
) -> Result<(), Error> {
    let now = cluster::get_same(api, volume).await?;
    let wanted = now.is_some_and(|now| match now.status.and_then(|s| s.reservation) {
        Some(home) => home.uid == taken.uid,
        None => now.metadata.deletion_timestamp.is_none(),
    });
    match wanted {
        true => Ok(()),
        false => release(&taken.name, &volume.uid().unwrap_or_default(), ctx).await,
    }
}

/// Takes the volume out of the reservation's ledger.
pub(super) async fn release(reservation: &str, uid: &str, ctx: &Context) -> Result<(), Error> {
    ledger_entries::release::<DiskReservation, SharedPersistentVolume>(reservation, uid, ctx).await.map(drop)
}
