//! Copies of sealed volumes (E2): gathers what [`crate::plan::copies`] decides on, and makes the missing ones.

use std::collections::BTreeSet;

use kube::{Api, ResourceExt};

use crate::api::SharedPersistentVolume;
use crate::cluster;
use crate::plan::copies::{Around, Family, Plan, node_of, plan};

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
    plan(volume, &Around { copies, nodes, disks, reservations })
}

/// The volumes around a copy, from the caches; `None` for a volume that is no copy.
pub(super) fn family(copy: &SharedPersistentVolume, ctx: &Context) -> Option<Family> {
    let (of, stores) = (copy.spec.copy_of.as_ref()?, &ctx.stores);
    let original = stores.volumes.get(&of.name).filter(|found| found.metadata.uid.as_ref() == Some(&of.uid));
    let copies = stores.volumes.by(COPY_OF, &of.uid);
    let disk = |volume: &SharedPersistentVolume| volume.status.as_ref()?.node_disk.clone();
    let names: BTreeSet<String> = original.iter().chain(&copies).filter_map(|volume| disk(volume)).collect();
    let disks = names.iter().filter_map(|name| stores.disks.get(name)).collect();
    let node = node_of(copy).and_then(|node| stores.nodes.get(node));
    Some(Family { original, copies, disks, node })
}

/// Makes the missing copies. A refusal for one node does not keep the others from theirs.
pub(super) async fn make(missing: &[SharedPersistentVolume], ctx: &Context) -> Result<(), Error> {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let mut outcome = Ok(());
    for copy in missing {
        outcome = cluster::create(&api, &ctx.signed(copy).await?).await.map(drop).and(outcome);
    }
    outcome
}
