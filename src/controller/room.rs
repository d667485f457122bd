//! Tells schedulers where the role of a StorageClass still has room (P2): a CSIStorageCapacity for each class and node,
//! written only when it changes.

use std::sync::Arc;

use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{Api, Resource, ResourceExt};

use crate::api::{
    CONTROLLER_MANAGER, LABEL_MANAGED_BY, MANAGED_BY, SharedPersistentVolume, Size, TOPOLOGY_NODE,
    stable_hash,
};
use crate::cluster;
use crate::plan::pvc_provisioner::class::{self as classes, StorageCapacity};

use super::Error;
use super::context::{Context, refs};

pub(super) async fn reconcile(class: Arc<StorageClass>, ctx: &Context) -> Result<(), Error> {
    let api: Api<CSIStorageCapacity> = cluster::namespaced(&ctx.client, &ctx.namespace);
    let wish = classes::is_ours(&class).then(|| classes::of_class(&class));
    let wish = wish.and_then(Result::ok).filter(|_| classes::is_delayed(&class));
    let (reservations, disks) = (ctx.stores.reservations.all(), ctx.stores.disks.all());
    let rooms = wish.map(|spec| {
        let wish = SharedPersistentVolume::new("any", spec);
        classes::storage_capacity(&wish, &refs(&reservations), &refs(&disks), |disk| {
            ctx.stores.disk_ready(disk)
        })
    });
    let rooms = rooms.unwrap_or_default();
    let name = class.name_any();
    let said = ctx.stores.capacities.all().into_iter().filter(|said| said.storage_class_name == name);
    let said: Vec<_> = said.filter(|said| said.namespace().as_ref() == Some(&ctx.namespace)).collect();
    for old in said.iter().filter(|old| node(old).is_none_or(|node| !rooms.contains_key(node))) {
        cluster::delete(&api, &old.name_any(), old.uid()).await?;
    }
    for (on, room) in &rooms {
        let same = |old: &&Arc<CSIStorageCapacity>| node(old) == Some(on) && says(old) == *room;
        if !said.iter().any(|old| same(&old)) {
            cluster::apply(&api, &capacity(&class, on, *room), CONTROLLER_MANAGER).await?;
        }
    }
    Ok(())
}

fn node(said: &CSIStorageCapacity) -> Option<&String> {
    said.node_topology.as_ref()?.match_labels.as_ref()?.get(TOPOLOGY_NODE)
}

/// What it says; in bytes, for the API server writes quantities in its own way.
fn says(said: &CSIStorageCapacity) -> StorageCapacity {
    let bytes = |quantity: &Option<Quantity>| {
        quantity.as_ref().map_or(0, |quantity| Size::written(&quantity.0).bytes_or_zero())
    };
    StorageCapacity { total: bytes(&said.capacity), largest: bytes(&said.maximum_volume_size) }
}

fn capacity(class: &StorageClass, node: &str, room: StorageCapacity) -> CSIStorageCapacity {
    let hash = stable_hash(&format!("{}/{node}", class.uid().unwrap_or_default()));
    let quantity = |bytes| Some(Quantity(Size::from_bytes(bytes).as_str().to_owned()));
    CSIStorageCapacity {
        metadata: ObjectMeta {
            name: Some(format!("reservoir-{hash:016x}")),
            labels: Some([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned())].into()),
            // It goes with its class.
            owner_references: class.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..Default::default()
        },
        storage_class_name: class.name_any(),
        node_topology: Some(LabelSelector {
            match_labels: Some([(TOPOLOGY_NODE.to_owned(), node.to_owned())].into()),
            ..Default::default()
        }),
        capacity: quantity(room.total),
        maximum_volume_size: quantity(room.largest),
    }
}
