//! Storage capacities: a `CSIStorageCapacity` for each StorageClass and node (P2).

use std::sync::Arc;

use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::{Api, ResourceExt};

use crate::api::CONTROLLER_MANAGER;
use crate::cluster;
use crate::plan::storage_capacity::{Seen, changes};

use super::context::Context;
use super::{Again, Error, sooner};
use crate::plan::postponed::AFTER;
use crate::plan::refs;
use crate::plan::transition::LASTING;

/// The reason and the topic of the event of a StorageClass that gives nobody a volume.
const INVALID: &str = "InvalidStorageClass";

/// Reconciles the storage capacity of a StorageClass.
///
/// 1. Gather: the objects of the class in all namespaces, reservations, disks and roles, from the caches; the crowded nodes.
/// 2. Decide: [`changes`].
/// 3. Apply: deletions, then applies; the event of a mistake in the class (P6). Small changes are told together later.
pub(super) async fn reconcile(class: Arc<StorageClass>, ctx: &Context) -> Result<Again, Error> {
    let (outcome, postponed) = tell(class.clone(), false, ctx).await?;
    if !postponed {
        return Ok(outcome);
    }
    let left = ctx.postponed().note(&class.name_any(), AFTER, (ctx.now)());
    match left {
        Some(left) => Ok(sooner(outcome, left)),
        None => tell_exactly(class, ctx).await,
    }
}

/// Reconciles it with small changes, too.
pub(super) async fn tell_exactly(class: Arc<StorageClass>, ctx: &Context) -> Result<Again, Error> {
    tell(class, true, ctx).await.map(|(again, _)| again)
}

/// Returns the pause before the next reconcile, and true if small changes are left.
async fn tell(class: Arc<StorageClass>, exactly: bool, ctx: &Context) -> Result<(Again, bool), Error> {
    let name = class.name_any();
    let mut there = ctx.stores.capacities.all();
    there.retain(|object| object.storage_class_name == name);
    let (reservations, disks) = (ctx.stores.reservations.all(), ctx.stores.disks.all());
    let roles = ctx.stores.roles.all();

    let (crowded, again) = ctx.crowding().limits(&name, (ctx.now)());

    let ready = |disk: &str| ctx.stores.disk_ready(disk);
    let seen = Seen {
        there: &refs(&there),
        reservations: &refs(&reservations),
        disks: &refs(&disks),
        roles: &refs(&roles),
        exactly,
        crowded: &crowded,
        namespace: &ctx.namespace,
    };
    let changes = changes(&class, &seen, ready);

    let api: Api<CSIStorageCapacity> = cluster::namespaced(&ctx.client, &ctx.namespace);
    // A failed write for one node does not stop the writes for the other nodes.
    let mut outcome = Ok(());
    for old in changes.delete {
        let api: Api<CSIStorageCapacity> =
            cluster::namespaced(&ctx.client, &old.namespace().unwrap_or_default());
        outcome = cluster::delete(&api, &old.name_any(), old.uid()).await.and(outcome);
    }
    for capacity in &changes.apply {
        outcome = cluster::apply(&api, capacity, CONTROLLER_MANAGER).await.map(drop).and(outcome);
    }
    match changes.mistake {
        Some(mistake) => {
            let warning = ("Provision", INVALID, mistake.as_str());
            ctx.events.warn_if_it_lasts(&*class, INVALID, warning, LASTING);
        }
        None => ctx.events.settle(&*class, INVALID),
    }
    if outcome.is_ok() && !changes.postponed {
        ctx.postponed().forget(&name);
    }
    outcome.map(|()| (again, changes.postponed))
}
