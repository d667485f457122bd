//! Takes the steps of a resize that `plan::resize` names (V7).

use kube::{Api, ResourceExt};

use crate::api::condition::Verdict;
use crate::api::{
    CONTROLLER_MANAGER, DiskReservation, SharedPersistentVolume, SharedPersistentVolumeStatus, Size,
};
use crate::cluster;
use crate::plan::create;
use crate::plan::holder::{Holder, held_by_volume};
use crate::plan::resize::{Ledger, Step, full, next};

use super::Error;
use super::context::Context;

/// Takes the next step as far as it is in the ledger, and notes in `status` what of it is in the volume; what the
/// condition `Resized` is to say.
pub(super) async fn reconcile(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    ctx: &Context,
) -> Result<Option<Verdict>, Error> {
    let Some(home) = status.reservation.clone() else { return Ok(None) };
    // Who uses it now, not who used it when the volume was written last.
    let seen = SharedPersistentVolume { status: Some(status.clone()), ..volume.clone() };
    let cached = ctx.stores.reservations.get(&home.name).filter(|r| r.uid().as_ref() == Some(&home.uid));
    if let Step::Rest(verdict) = next(&seen, cached.and_then(|r| ledger(&r, volume))) {
        return Ok(verdict);
    }
    // Something is to be written: decided again on what is there now.
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let current =
        cluster::get(&reservations, &home.name).await?.filter(|r| r.uid().as_ref() == Some(&home.uid));
    let Some(current) = current else { return Ok(None) };
    match next(&seen, ledger(&current, volume)) {
        Step::Grow(size) => {
            if ledger(&current, volume).is_some_and(|ledger| ledger.line < size)
                && let Err(why) = write_line(&reservations, &current, volume, size).await?
            {
                return Ok(Some(why));
            }
            status.size = Some(Size::from_bytes(size));
            status.credit_due = false;
        }
        Step::Lower(size) => {
            status.size = Some(Size::from_bytes(size));
            status.credit_due = true;
        }
        Step::GiveBack => give_back(&reservations, &current, volume, ctx).await?,
        Step::Settle => status.credit_due = false,
        Step::Rest(verdict) => return Ok(verdict),
    }
    // What comes of it is said at the next look, which the write brings.
    Ok(None)
}

fn ledger(reservation: &DiskReservation, volume: &SharedPersistentVolume) -> Option<Ledger> {
    let line = held_by_volume(reservation, &volume.uid().unwrap_or_default())?;
    Some(Ledger { line, free: create::free(reservation) })
}

/// Makes the volume's line smaller. The reservation was read before the volume that still says `creditDue`: whoever
/// grows it later finds that settled first, which takes a write of the reservation, and this one fails.
async fn give_back(
    reservations: &Api<DiskReservation>,
    read: &DiskReservation,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<(), Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let now = cluster::get_same(&volumes, volume).await?;
    let Some(status) = now.and_then(|now| now.status).filter(|status| status.credit_due) else {
        return Ok(());
    };
    if let Some(Ok(size)) = status.size.map(|size| size.bytes()) {
        let _ = write_line(reservations, read, volume, size).await?;
    }
    Ok(())
}

/// Has the volume's line say `size`, on the very reservation that was read.
async fn write_line(
    reservations: &Api<DiskReservation>,
    read: &DiskReservation,
    volume: &SharedPersistentVolume,
    size: u64,
) -> Result<Result<(), Verdict>, Error> {
    let uid = volume.uid().unwrap_or_default();
    let Some(ledger) = ledger(read, volume) else { return Ok(Ok(())) };
    if size.saturating_sub(ledger.line) > ledger.free {
        return Ok(Err(full(volume, ledger)));
    }
    let entries = Holder::<SharedPersistentVolume>::ledger(read);
    let Some(entry) = entries.entries().iter().find(|entry| entry.uid == uid).cloned() else {
        return Ok(Ok(()));
    };
    let entries = entries.set_within(entry, size, size).into_entries();
    let status = Holder::<SharedPersistentVolume>::with_entries(read, entries);
    cluster::write_status(reservations, read, &status, CONTROLLER_MANAGER).await?;
    Ok(Ok(()))
}
