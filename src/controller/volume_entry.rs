//! A volume's entry in the ledger of a reservation (V1, S1).

use kube::Api;

use crate::api::{CONTROLLER_MANAGER, DiskReservation, DiskReservationStatus, SharedPersistentVolume, Size};
use crate::cluster;
use crate::plan::holder::with_sums;

use super::Error;
use super::context::Context;
use super::ledger_entries;

/// Releases the volume's entry in the ledger of that reservation.
pub(super) async fn release_entry(reservation: &str, uid: &str, ctx: &Context) -> Result<(), Error> {
    ledger_entries::release::<DiskReservation, SharedPersistentVolume>(reservation, uid, ctx).await.map(drop)
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
    cluster::write_status(&reservations, read, &with_sums(status), CONTROLLER_MANAGER).await
}
