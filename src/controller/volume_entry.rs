//! A volume's entry in the ledger of a reservation (V1, S1).

use kube::Api;

use crate::api::{CONTROLLER_MANAGER, DiskReservation, DiskReservationStatus, LedgerEntry, Size};
use crate::cluster;
use crate::plan::{ledger, reserve};

use super::Error;
use super::context::Context;

/// What the volume has in the reservation's ledger.
pub(super) fn line(reservation: &DiskReservation, uid: &str) -> Option<Size> {
    let lines = reservation.status.iter().flat_map(|s| &s.volumes);
    lines.into_iter().find(|v| v.uid == uid).map(|v| v.size.clone())
}

/// Whether the reservation's ledger has the volume.
pub(super) fn holds(reservation: &DiskReservation, uid: &str) -> bool {
    line(reservation, uid).is_some()
}

/// Takes the volume out of the reservation's ledger.
pub(super) async fn credit(reservation: &str, uid: &str, ctx: &Context) -> Result<(), Error> {
    change_ledger(reservation, ctx, |volumes| ledger::credit(volumes, uid)).await
}

/// Commits a change of the reservation's ledger that cannot be refused; a reservation that is gone has none.
pub(super) async fn change_ledger(
    reservation: &str,
    ctx: &Context,
    change: impl Fn(&[LedgerEntry]) -> Vec<LedgerEntry>,
) -> Result<(), Error> {
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let change = |reservation: &DiskReservation| {
        let status = reservation.status.clone().unwrap_or_default();
        let volumes = change(&status.volumes);
        Ok::<_, ()>(Some(with_ledger(DiskReservationStatus { volumes, ..status })))
    };
    let _ = ctx.commits.reservations.update(&reservations, reservation, change).await?;
    Ok(())
}

/// The reservation's status with its sums as the ledger has them, so that both change in one write.
pub(super) fn with_ledger(status: DiskReservationStatus) -> DiskReservationStatus {
    DiskReservationStatus {
        used: Some(Size::from_bytes(reserve::used(&status))),
        free: Some(Size::from_bytes(reserve::left(&status))),
        ..status
    }
}

/// Sets the volume's entry in the very reservation that was read; returns the reservation as it is then.
pub(super) async fn resize_entry(
    read: &DiskReservation,
    uid: &str,
    bytes: u64,
    ctx: &Context,
) -> Result<Option<DiskReservation>, Error> {
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let mut status: DiskReservationStatus = read.status.clone().unwrap_or_default();
    let entry = status.volumes.iter_mut().filter(|entry| entry.uid == uid);
    entry.for_each(|entry| entry.size = Size::from_bytes(bytes));
    Ok(cluster::write_status(&reservations, read, &with_ledger(status), CONTROLLER_MANAGER).await?)
}
