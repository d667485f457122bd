//! The end of kept data: its time is over, or its reservation needs the bytes (X8). [`crate::plan::kept`] decides.

use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};

use crate::api::{DiskReservation, NodeDisk, SharedPersistentVolume};
use crate::cluster;
use crate::plan::kept::{Wanted, due, entries};

use super::Error;
use super::context::Context;
use super::ledger_entries::release_entry;

/// Reason of the event about kept data whose erasure the API server refuses.
const STAYS: &str = "KeptDataStays";
/// The pause before another look at an object that waits for bytes of kept data.
pub(super) const WHILE_ROOM_IS_MADE: Duration = Duration::from_secs(15);

/// Erases the kept data of the reservation whose time is over, and gives up what was on a disk that is gone.
pub(super) async fn end_overdue(reservation: &DiskReservation, ctx: &Context) -> Result<(), Error> {
    let now = (ctx.now)();
    let Some(status) = &reservation.status else { return Ok(()) };
    let disk = status.node_disk.as_ref().and_then(|name| ctx.stores.disks.get(name));
    let is_gone = disk.is_some_and(|disk| disk.spec.gone);
    match entries(status).iter().any(|(_, kept)| is_gone || kept.until.0 <= now) {
        true => make_room(&reservation.name_any(), Wanted::default(), ctx).await,
        false => Ok(()),
    }
}

/// Erases kept data whose time is over, and as much as the wanted free space needs.
///
/// 1. Gather: the reservation, its disk and all volumes, by live reads. A reservation that changes meanwhile may count
///    bytes twice, so nothing is done until the next look.
/// 2. Decide: [`due`].
/// 3. Apply: an event on the reservation, then a volume that recovers the data and retires; on a disk that is gone, the
///    release of the entry.
pub(super) async fn make_room(name: &str, wanted: Wanted, ctx: &Context) -> Result<(), Error> {
    let (reservations, volumes): (Api<DiskReservation>, Api<SharedPersistentVolume>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let Some(before) = cluster::get(&reservations, name).await? else { return Ok(()) };
    let all = cluster::list(&volumes, &ListParams::default()).await?;
    let Some(disk) = before.status.as_ref().and_then(|status| status.node_disk.as_ref()) else {
        return Ok(());
    };
    let disk: Option<NodeDisk> = cluster::get(&Api::all(ctx.client.clone()), disk).await?;
    let unchanged = |now: &DiskReservation| now.meta().resource_version == before.meta().resource_version;
    let Some(reservation) = cluster::get_same(&reservations, &before).await?.filter(unchanged) else {
        return Ok(());
    };
    for due in due(&reservation, disk.as_ref(), &all, wanted, (ctx.now)()) {
        let Some(volume) = &due.volume else {
            ctx.events.publish(&reservation, None, true, "Erase", "KeptDataGivenUp", &due.event).await;
            release_entry(name, &due.uid, ctx).await?;
            continue;
        };
        match cluster::create(&volumes, &ctx.signed(volume).await?).await {
            // A refused erasure keeps no object from its report.
            Err(error) if let Some(refusal) = error.refusal() => {
                let event = format!(
                    "the API server refuses that {}: {refusal}; have it allowed, and Reservoir tries again by itself",
                    due.event
                );
                let warning = ("Erase", STAYS, event.as_str());
                ctx.events.warn_if_it_lasts(&reservation, STAYS, warning, Duration::ZERO);
                continue;
            }
            made => made?,
        };
        ctx.events.settle(&reservation, STAYS);
        tracing::info!(reservation = name, volume = volume.name_any(), "erase kept data: {}", due.event);
        ctx.events.publish(&reservation, None, true, "Erase", "KeptDataErased", &due.event).await;
    }
    Ok(())
}
