//! Copies of sealed volumes (E2): gathers what [`crate::plan::copies`] decides on, and makes the missing ones.

use std::collections::BTreeSet;

use kube::{Api, ResourceExt};

use crate::api::SharedPersistentVolume;
use crate::cluster;
use crate::plan::copies::{Around, Family, Plan, node_of, plan, taken_names};

use super::Error;
use super::context::Context;
use super::stores::COPY_OF;

/// The decision on the copies of a volume, from the caches.
pub(super) fn around(volume: &SharedPersistentVolume, ctx: &Context) -> Plan {
    let copies = ctx.stores.volumes.by(COPY_OF, &volume.uid().unwrap_or_default());
    if volume.spec.copies.is_none() && copies.is_empty() {
        return Plan::default();
    }
    let stores = &ctx.stores;
    let (nodes, disks, reservations) = (stores.nodes.all(), stores.disks.all(), stores.reservations.all());
    let taken = taken_names(volume, &nodes, |name| stores.volumes.get(name));
    plan(volume, &Around { copies, nodes, disks, reservations, taken })
}

/// The volumes around a copy, from the caches; `None` for a volume that is no copy.
pub(super) fn family(copy: &SharedPersistentVolume, ctx: &Context) -> Option<Family> {
    let (of, stores) = (copy.spec.copy_of.as_ref()?, &ctx.stores);
    let original = stores.volumes.get(&of.name).filter(|found| found.metadata.uid.as_ref() == Some(&of.uid));
    let copies = stores.volumes.by(COPY_OF, &of.uid);
    let disk = |volume: &SharedPersistentVolume| volume.status.as_ref()?.node_disk.clone();
    let reservation = copy.spec.reservation.as_ref().and_then(|name| stores.reservations.get(name));
    let on = reservation.as_ref().and_then(|reservation| reservation.status.as_ref()?.node_disk.clone());
    let placed = original.iter().chain(&copies).filter_map(|volume| disk(volume));
    let names: BTreeSet<String> = placed.chain(on).collect();
    let disks = names.iter().filter_map(|name| stores.disks.get(name)).collect();
    let node = node_of(copy).and_then(|node| stores.nodes.get(node));
    Some(Family { original, copies, disks, node, reservation })
}

/// Makes the missing copies in the order of their names. Turns have the same order, so each copy sees the copies whose turn is
/// earlier. A refusal for one node does not keep the others from theirs.
pub(super) async fn make(missing: &[SharedPersistentVolume], ctx: &Context) -> Result<(), Error> {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let mut missing: Vec<&SharedPersistentVolume> = missing.iter().collect();
    missing.sort_by_key(|copy| copy.name_any());
    let mut outcome = Ok(());
    for copy in missing {
        outcome = cluster::create(&api, &ctx.signed(copy).await?).await.map(drop).and(outcome);
    }
    outcome
}
