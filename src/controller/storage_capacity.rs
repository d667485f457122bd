//! Storage capacities: a `CSIStorageCapacity` for each StorageClass and node (P2).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::{Api, ResourceExt};

use crate::api::CONTROLLER_MANAGER;
use crate::cluster;
use crate::plan::storage_capacity::changes;

use super::context::Context;
use super::{Again, Error};
use crate::plan::refs;

/// Reconciles the storage capacity of a StorageClass.
///
/// 1. Gather: the objects of the class in our namespace, reservations and disks, from the caches; the crowded nodes.
/// 2. Decide: [`changes`].
/// 3. Apply: deletions, then applies.
pub(super) async fn reconcile(class: Arc<StorageClass>, ctx: &Context) -> Result<Again, Error> {
    let name = class.name_any();
    let ours = |object: &CSIStorageCapacity| {
        object.storage_class_name == name && object.namespace().as_ref() == Some(&ctx.namespace)
    };
    let there: Vec<_> = ctx.stores.capacities.all().into_iter().filter(|object| ours(object)).collect();
    let (reservations, disks) = (ctx.stores.reservations.all(), ctx.stores.disks.all());

    let (crowded, again) = ctx.crowding().limits(&name, Timestamp::now());

    let ready = |disk: &str| ctx.stores.disk_ready(disk);
    let changes = changes(&class, &refs(&there), &refs(&reservations), &refs(&disks), ready, &crowded);

    let api: Api<CSIStorageCapacity> = cluster::namespaced(&ctx.client, &ctx.namespace);
    for old in changes.delete {
        cluster::delete(&api, &old.name_any(), old.uid()).await?;
    }
    for capacity in &changes.apply {
        cluster::apply(&api, capacity, CONTROLLER_MANAGER).await?;
    }
    Ok(again)
}
