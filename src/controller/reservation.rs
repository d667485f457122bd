//! Reservations: RESERVE, UNRESERVE, and what lies between (R1, R4, R6).
//!
//! A ledger decides: that of the `NodeDisk`, or of the reservation that it is carved out of, and before that those of the
//! VolumeRoles with a quota. The lines there are written before the reservation says that it has the bytes; see
//! [`super::lines`]. Where the reservation is, its own status decides, once: of two controllers that put it on two disks,
//! one finds that out and takes its line back.

use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{self, RESIZED, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, NodeDisk, ReservationPhase, Size, UidRef, VolumeRole,
};
use crate::cluster;
use crate::plan::{ledger, release, reserve};

use super::context::{Context, ready};
use super::lines::{Holder, credit, holds, mend, parent, sweep};
use super::take::{Taken, take};
use super::{Error, volume_entry};

pub(super) async fn reconcile(reservation: Arc<DiskReservation>, ctx: &Context) -> Result<(), Error> {
    let api: Api<DiskReservation> = Api::all(ctx.client.clone());
    if reservation.metadata.deletion_timestamp.is_some() {
        return unreserve(&api, &reservation, ctx).await;
    }
    if !cluster::finalizer_present(&*reservation) {
        return Ok(cluster::set_finalizer(&api, &*reservation, true).await?);
    }
    sweep(&*reservation, ctx).await?;
    let mut status = reservation.status.clone().unwrap_or_default();
    let stands = match status.node_disk {
        Some(_) => keep(&reservation, ctx).await?,
        None => match take(&reservation, ctx).await? {
            Taken::Later => return Ok(()),
            Taken::Wait(why) => Err(why),
            Taken::From(home) => {
                (status.node_disk, status.node_name, status.parent) =
                    (Some(home.node_disk), Some(home.node_name), home.parent);
                status.disk_kind = home.disk_kind;
                status.size = Some(Size::from_bytes(home.size));
                Ok(())
            }
        },
    };
    let disk = status.node_disk.as_deref().and_then(|name| ctx.stores.disks.get(name));
    let stands = match disk.and_then(|disk| reserve::gone(&disk)) {
        Some(why) => stands.and(Err(why)),
        None => stands,
    };
    if let Some(node) = ctx.node_moved(status.node_disk.as_deref(), status.node_name.as_deref()).await? {
        status.node_name = Some(node);
    }
    let placed = reservation.status.as_ref().is_some_and(|s| s.node_disk.is_some());
    if placed && stands.is_ok() {
        resize(&reservation, &mut status, ctx).await?;
    }
    let verdict = match stands {
        Ok(()) => {
            status.phase = ReservationPhase::Reserved;
            Verdict::yes(reason::READY, has(&status))
        }
        Err(why) => {
            status.phase = ReservationPhase::Pending;
            why
        }
    };
    if status.node_disk.is_some() {
        status = volume_entry::with_ledger(status);
    }
    status.conditions = ready(&status.conditions, verdict, reservation.metadata.generation);
    let committed = ctx.commit(&api, &*reservation, &status).await;
    if committed.is_err() {
        give_back(&reservation, &status, ctx).await?;
    }
    Ok(committed?)
}

fn has(status: &DiskReservationStatus) -> String {
    let size = Size::from_bytes(reserve::size(status));
    let disk = status.node_disk.as_deref().unwrap_or("?");
    match &status.parent {
        Some(parent) => format!("{size} of reservation {} on {disk} are the role's", parent.name),
        None => format!("{size} of {disk} are the role's"),
    }
}

/// A reservation that stands is never moved, whatever becomes of its disk. If its line is too small, because the disk's
/// object was made anew, it is put back, room or not: the bytes were promised. If it is too large, it has shrunk.
async fn keep(reservation: &DiskReservation, ctx: &Context) -> Result<Result<(), Verdict>, Error> {
    let status = reservation.status.clone().unwrap_or_default();
    if let Some(home) = &status.parent {
        return Ok(match parent(reservation, ctx).await? {
            Some(parent) => Ok(fit(&*parent, reservation, ctx).await?),
            None => Err(Verdict::no(
                reason::NO_PARENT,
                format!(
                    "DiskReservation {}, which it was carved out of, is not there any more; what lives in it stays",
                    home.name
                ),
            )),
        });
    }
    let (uid, name) = (reservation.uid().unwrap_or_default(), status.node_disk.unwrap_or_default());
    let disks = ctx.stores.disks.all();
    for elsewhere in disks.iter().filter(|disk| disk.name_any() != name && holds(&***disk, &uid)) {
        mend(&**elsewhere, &reserve::line(reservation, 0), ctx).await?;
    }
    Ok(match disks.iter().find(|disk| disk.name_any() == name) {
        Some(disk) => Ok(fit(&**disk, reservation, ctx).await?),
        None => Err(Verdict::no(
            reason::NO_SUCH_DISK,
            format!("NodeDisk {name} is not there any more; what is on the disk stays on it"),
        )),
    })
}

/// Mends the line of the reservation in the ledger that it takes from, if the cache has it too small or too large.
async fn fit<K: Holder>(holder: &K, reservation: &DiskReservation, ctx: &Context) -> Result<(), Error> {
    let (low, high) = reserve::bounds(reservation);
    let line = ledger::held(holder.lines(), &reservation.uid().unwrap_or_default()).unwrap_or(0);
    match (low..=high).contains(&line) {
        true => Ok(()),
        false => mend(holder, &reserve::line(reservation, low), ctx).await,
    }
}

/// R6: growing takes the room first and says so afterwards; shrinking says so first, on the very object whose ledger has
/// what lives in it, and gives the room back afterwards.
async fn resize(
    reservation: &DiskReservation,
    status: &mut DiskReservationStatus,
    ctx: &Context,
) -> Result<(), Error> {
    let has = reserve::size(status);
    let wanted = match reserve::entry(reservation) {
        Ok(entry) => entry.size.bytes_or_zero(),
        Err(why) => {
            resized(reservation, status, Err(why));
            return Ok(());
        }
    };
    let done = match wanted.cmp(&has) {
        std::cmp::Ordering::Equal if condition::get(&status.conditions, RESIZED).is_none() => return Ok(()),
        std::cmp::Ordering::Equal => Ok(has),
        std::cmp::Ordering::Less => reserve::shrink(status, wanted).map(|()| wanted),
        std::cmp::Ordering::Greater => match take(reservation, ctx).await? {
            Taken::Later => return Ok(()),
            Taken::Wait(why) => Err(why),
            Taken::From(home) => Ok(home.size.max(has)),
        },
    };
    resized(reservation, status, done);
    Ok(())
}

fn resized(reservation: &DiskReservation, status: &mut DiskReservationStatus, done: Result<u64, Verdict>) {
    let verdict = match done {
        Ok(size) => {
            status.size = Some(Size::from_bytes(size));
            Verdict::yes(reason::RESIZED, format!("it has {}", Size::from_bytes(size)))
        }
        Err(why) => why,
    };
    let generation = reservation.metadata.generation;
    condition::set(&mut status.conditions, RESIZED, verdict, generation, Timestamp::now());
}

/// What was taken for a reservation whose status could not be written: it may have gone meanwhile, or stand elsewhere, and
/// whoever let it go may not have seen the lines.
async fn give_back(
    reservation: &DiskReservation,
    taken: &DiskReservationStatus,
    ctx: &Context,
) -> Result<(), Error> {
    let line = reserve::line(reservation, 0);
    match (&taken.parent, &taken.node_disk) {
        (Some(UidRef { name, .. }), _) => {
            if let Some(parent) = ctx.stores.reservations.get(name) {
                mend(&*parent, &line, ctx).await?;
            }
        }
        (None, Some(name)) => {
            if let Some(disk) = ctx.stores.disks.get(name) {
                mend(&*disk, &line, ctx).await?;
            }
        }
        (None, None) => {}
    }
    for role in ctx.stores.roles.all().iter().filter(|role| holds(&***role, &line.uid)) {
        mend(&**role, &line, ctx).await?;
    }
    Ok(())
}

async fn unreserve(
    api: &Api<DiskReservation>,
    reservation: &DiskReservation,
    ctx: &Context,
) -> Result<(), Error> {
    if !cluster::finalizer_present(reservation) {
        return Ok(());
    }
    sweep(reservation, ctx).await?;
    let before = reservation.status.clone().unwrap_or_default();
    if let Some(why) = release::reservation_held(&before) {
        let conditions = ready(&before.conditions, why, reservation.metadata.generation);
        let status = DiskReservationStatus { phase: ReservationPhase::Releasing, conditions, ..before };
        return Ok(ctx.commit(api, reservation, &status).await?);
    }
    // The finalizer goes only from the very object that was seen empty, and nothing is put into one that is being
    // deleted; the credit comes first, so that a reservation that is gone never weighs on its disk.
    let uid = reservation.uid().unwrap_or_default();
    let current = cluster::get(api, &reservation.name_any()).await?;
    if current.as_ref().and_then(ResourceExt::resource_version) != reservation.resource_version() {
        return Err(cluster::Error::Conflict(format!("DiskReservation {}", reservation.name_any())).into());
    }
    // R4: what was carved out goes back to where it came from, and never to the disk.
    match &reservation.spec.parent {
        Some(parent) => credit::<DiskReservation>(parent, &uid, ctx).await?,
        None => credit_all::<NodeDisk>(&uid, ctx).await?,
    }
    credit_all::<VolumeRole>(&uid, ctx).await?;
    Ok(cluster::set_finalizer(api, reservation, false).await?)
}

/// Takes the line of that UID away wherever it is, by quorum.
async fn credit_all<K: Holder>(uid: &str, ctx: &Context) -> Result<(), Error> {
    let api: Api<K> = Api::all(ctx.client.clone());
    for holder in cluster::list(&api, &ListParams::default()).await?.iter().filter(|h| holds(*h, uid)) {
        credit::<K>(&holder.name_any(), uid, ctx).await?;
    }
    Ok(())
}
