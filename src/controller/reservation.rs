//! Reservations: RESERVE and UNRESERVE (R1, R6).
//!
//! The ledger in the `NodeDisk` decides. The line there is written before the reservation says that it stands, and
//! carries its UID: whoever dies in between finds the line when he comes back. Where the reservation is, its own
//! status decides, once: of two controllers that put it on two disks, one finds that out and takes its line back.

use std::sync::Arc;

use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{Verdict, reason};
use crate::api::{
    CONTROLLER_MANAGER, DiskReservation, DiskReservationStatus, LedgerEntry, NodeDisk, NodeDiskStatus,
    ReservationPhase, Size,
};
use crate::cluster;
use crate::plan::{ledger, release, reserve};

use super::context::{Context, ready};
use super::disk::node_labels;
use super::{Error, volume};

pub(super) async fn reconcile(reservation: Arc<DiskReservation>, ctx: &Context) -> Result<(), Error> {
    let api: Api<DiskReservation> = Api::all(ctx.client.clone());
    if reservation.metadata.deletion_timestamp.is_some() {
        return unreserve(&api, &reservation, ctx).await;
    }
    if !cluster::finalizer_present(&*reservation) {
        return Ok(cluster::set_finalizer(&api, &*reservation, true).await?);
    }
    let mut status = reservation.status.clone().unwrap_or_default();
    let verdict = match take(&reservation, ctx).await? {
        Ok(disk) => {
            let size = reservation.spec.size.bytes().unwrap_or_default();
            status.phase = ReservationPhase::Reserved;
            status.node_disk = Some(disk.name_any());
            status.node_name = Some(disk.spec.node_name.clone());
            status.size = Some(Size::from_bytes(size));
            status = volume::with_ledger(status);
            Verdict::yes(
                reason::READY,
                format!("{} of {} are the role's", reservation.spec.size, disk.name_any()),
            )
        }
        Err(why) => {
            status.phase = ReservationPhase::Pending;
            why
        }
    };
    status.conditions = ready(&status.conditions, verdict, reservation.metadata.generation);
    let committed = ctx.commit(&api, &*reservation, &status).await;
    if let (Err(_), Some(disk)) = (&committed, &status.node_disk) {
        give_back(&api, &reservation, disk, ctx).await?;
    }
    Ok(committed?)
}

/// Takes the line on `disk` back if the reservation went meanwhile or stands on another disk: whoever let it go may not
/// have seen the line.
async fn give_back(
    api: &Api<DiskReservation>,
    reservation: &DiskReservation,
    disk: &str,
    ctx: &Context,
) -> Result<(), Error> {
    let now = cluster::get(api, &reservation.name_any()).await?.filter(|now| now.uid() == reservation.uid());
    let wanted = now.is_some_and(|now| match now.status.and_then(|s| s.node_disk) {
        Some(home) => home == disk,
        None => now.metadata.deletion_timestamp.is_none(),
    });
    match wanted {
        true => Ok(()),
        false => credit(disk, &reservation.uid().unwrap_or_default(), ctx).await,
    }
}

/// The disk whose ledger has the reservation, which this puts there if none has it yet.
async fn take(reservation: &DiskReservation, ctx: &Context) -> Result<Result<Arc<NodeDisk>, Verdict>, Error> {
    let disks = ctx.stores.disks.state();
    let uid = reservation.uid().unwrap_or_default();
    let entry = match reserve::entry(reservation) {
        Ok(entry) => entry,
        Err(why) => return Ok(Err(why)),
    };
    let api: Api<NodeDisk> = Api::all(ctx.client.clone());
    if let Some(name) = reservation.status.as_ref().and_then(|s| s.node_disk.clone()) {
        // It stood there: it is never moved, whatever became of that disk. If the disk's object was made anew, its
        // line is put back, room or not: the bytes were promised.
        for elsewhere in disks.iter().filter(|disk| disk.name_any() != name && holds(disk, &uid)) {
            credit(&elsewhere.name_any(), &uid, ctx).await?;
        }
        if disks.iter().any(|disk| disk.name_any() == name && !holds(disk, &uid)) {
            change_ledger(&name, ctx, |reservations| ledger::restore(reservations, entry.clone())).await?;
        }
        return Ok(settled(disks, &name));
    }
    // By quorum: a line that was written a moment ago, and that no cache has seen yet, is found too.
    let written = cluster::list(&api, &ListParams::default()).await?;
    if let Some(disk) = written.into_iter().find(|disk| holds(disk, &uid)) {
        return Ok(Ok(Arc::new(disk)));
    }
    let labels: Vec<_> = disks.iter().map(|disk| node_labels(ctx, disk)).collect();
    let candidates: Vec<_> = disks
        .iter()
        .zip(&labels)
        .map(|(disk, labels)| reserve::Candidate { disk, node_labels: labels.as_ref() })
        .collect();
    let name = match reserve::choose(reservation, &candidates) {
        Ok(disk) => disk.name_any(),
        Err(why) => return Ok(Err(why)),
    };
    let taken = cluster::update(&api, &name, CONTROLLER_MANAGER, |disk| {
        let status = disk.status.clone().unwrap_or_default();
        let reservations = ledger::take(&status.reservations, reserve::allocatable(disk), entry.clone())?;
        Ok::<_, ledger::Shortfall>(Some(with_ledger(disk, NodeDiskStatus { reservations, ..status })))
    })
    .await?;
    Ok(match taken {
        Some(Ok(())) => settled(disks, &name),
        Some(Err(short)) => Err(Verdict::no(
            reason::NOT_ENOUGH_ROOM,
            format!(
                "{name} has {} free, {} too little; it is served when room appears",
                Size::from_bytes(short.free),
                Size::from_bytes(short.missing)
            ),
        )),
        None => Err(Verdict::no(
            reason::NO_SUCH_DISK,
            format!("NodeDisk {name} has just gone; another is looked for"),
        )),
    })
}

/// Whether the disk's ledger has the reservation.
pub(super) fn holds(disk: &NodeDisk, uid: &str) -> bool {
    disk.status.iter().any(|s| s.reservations.iter().any(|r| r.uid == uid))
}

/// Takes the reservation out of the disk's ledger.
async fn credit(disk: &str, uid: &str, ctx: &Context) -> Result<(), Error> {
    change_ledger(disk, ctx, |reservations| ledger::credit(reservations, uid)).await
}

/// Commits a change of the disk's ledger that cannot be refused; a disk that is gone has none.
async fn change_ledger(
    disk: &str,
    ctx: &Context,
    change: impl Fn(&[LedgerEntry]) -> Vec<LedgerEntry>,
) -> Result<(), Error> {
    let disks: Api<NodeDisk> = Api::all(ctx.client.clone());
    let _ = cluster::update(&disks, disk, CONTROLLER_MANAGER, |disk| {
        let status = disk.status.clone().unwrap_or_default();
        let reservations = change(&status.reservations);
        Ok::<_, ()>(Some(with_ledger(disk, NodeDiskStatus { reservations, ..status })))
    })
    .await?;
    Ok(())
}

fn settled(disks: Vec<Arc<NodeDisk>>, name: &str) -> Result<Arc<NodeDisk>, Verdict> {
    disks.into_iter().find(|disk| disk.name_any() == name).ok_or_else(|| {
        Verdict::no(
            reason::NO_SUCH_DISK,
            format!("NodeDisk {name} is not there any more; what is on the disk stays on it"),
        )
    })
}

/// The disk's status with its sums as the ledger has them, so that both change in one write.
pub(super) fn with_ledger(disk: &NodeDisk, status: NodeDiskStatus) -> NodeDiskStatus {
    NodeDiskStatus {
        reserved: Some(Size::from_bytes(ledger::total(&status.reservations))),
        free: Some(Size::from_bytes(ledger::free(&status.reservations, reserve::allocatable(disk)))),
        ..status
    }
}

async fn unreserve(
    api: &Api<DiskReservation>,
    reservation: &DiskReservation,
    ctx: &Context,
) -> Result<(), Error> {
    if !cluster::finalizer_present(reservation) {
        return Ok(());
    }
    let before = reservation.status.clone().unwrap_or_default();
    if let Some(why) = release::reservation_held(&before) {
        let conditions = ready(&before.conditions, why, reservation.metadata.generation);
        let status = DiskReservationStatus { phase: ReservationPhase::Releasing, conditions, ..before };
        return Ok(ctx.commit(api, reservation, &status).await?);
    }
    // The finalizer goes only from the very object that was seen empty, and no volume is put into one that is being
    // deleted; the credit comes first, so that a reservation that is gone never weighs on its disk.
    let uid = reservation.uid().unwrap_or_default();
    let current = cluster::get(api, &reservation.name_any()).await?;
    if current.as_ref().and_then(ResourceExt::resource_version) != reservation.resource_version() {
        return Err(cluster::Error::Conflict(format!("DiskReservation {}", reservation.name_any())).into());
    }
    let disks: Api<NodeDisk> = Api::all(ctx.client.clone());
    for disk in cluster::list(&disks, &ListParams::default()).await?.iter().filter(|d| holds(d, &uid)) {
        credit(&disk.name_any(), &uid, ctx).await?;
    }
    Ok(cluster::set_finalizer(api, reservation, false).await?)
}
