//! Routes: the reconciles that a change of an object concerns.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::ResourceExt;
use tokio::sync::Notify;

use crate::api::{
    DiskReservation, NodeDisk, PVC_PREFIX, Role, RoleSubscription, SharedPersistentVolume, VolumeClaim,
    VolumeOffer, VolumeRole,
};
use crate::cluster::{self, Name, WorkQueue, name_of};
use crate::plan::holder::{Holder, held_by_volume};
use crate::plan::offer::covers;
use crate::plan::pvc_provisioner::pvc_of;
use crate::plan::resize;

use super::context::Context;
use super::stores::{
    CLAIM, DELETING, DISK, NAMESPACE, REQUESTED_RESERVATION, RESERVATION, Stores, UNPLACED, VOLUME, WAITING,
};

/// For how long changes are gathered before they are reconciled: those that concern a subscription, since an offer is a
/// large object, and pods, of which there are many.
pub const GATHERING: Duration = Duration::from_millis(500);

/// The work queues of the controller.
pub struct WorkQueues {
    /// Disks.
    pub disks: WorkQueue<NodeDisk>,
    /// Reservations.
    pub reservations: WorkQueue<DiskReservation>,
    /// Volumes.
    pub volumes: WorkQueue<SharedPersistentVolume>,
    /// Claims.
    pub claims: WorkQueue<VolumeClaim>,
    /// Subscriptions.
    pub subscriptions: WorkQueue<RoleSubscription>,
    /// Roles.
    pub roles: WorkQueue<VolumeRole>,
    /// StorageClasses, for their storage capacity.
    pub classes: WorkQueue<StorageClass>,
    /// PersistentVolumeClaims that Reservoir provisions.
    pub pvcs: WorkQueue<PersistentVolumeClaim>,
}

/// Enqueues the objects that a change concerns. The caches exist only after the routes that fill them.
#[derive(Clone)]
pub struct Router {
    /// The work queues.
    pub queues: Arc<WorkQueues>,
    /// Notified of each change that the sharing out depends on.
    pub sharing: Arc<Notify>,
    /// Set once the caches are filled.
    pub ctx: Arc<OnceLock<Arc<Context>>>,
}

impl Router {
    /// Runs `route` if the caches are filled; before that the first reconcile of each object covers the change.
    fn with(&self, route: impl FnOnce(&WorkQueues, &Stores)) {
        if let Some(ctx) = self.ctx.get() {
            route(&self.queues, &ctx.stores);
        }
    }

    /// Enqueues everything: after a gap in a watch the deletions in the gap are unknown.
    pub fn everything(&self) {
        self.sharing.notify_one();
        self.with(|queues, stores| {
            queues.disks.enqueue_names(stores.disks.names());
            queues.reservations.enqueue_names(stores.reservations.names());
            queues.volumes.enqueue_names(stores.volumes.names());
            queues.claims.enqueue_names(stores.claims.names());
            queues.subscriptions.enqueue_names(stores.subscriptions.names());
            queues.roles.enqueue_names(stores.roles.names());
            queues.classes.enqueue_names(stores.classes.names());
            queues.pvcs.enqueue_names(stores.pvcs.names_provisioned());
        });
    }

    /// A Node changed: its readiness decides that of its disks.
    pub fn node(&self, node: &Node) {
        let name = node.name_any();
        self.sharing.notify_one();
        self.with(|queues, stores| queues.disks.enqueue_if(&stores.disks, |d| d.spec.node_name == name));
    }

    /// A disk changed.
    pub fn disk(&self, disk: &NodeDisk) {
        let name = disk.name_any();
        self.queues.disks.enqueue(disk);
        self.sharing.notify_one();
        self.with(|queues, stores| {
            let on_it = |disk: Option<&String>| disk.is_some_and(|disk| *disk == name);
            let ledger = disk.ledger();
            queues.reservations.enqueue_if(&stores.reservations, |r| {
                on_it(r.status.as_ref().and_then(|s| s.node_disk.as_ref()))
                    || ledger.get(&r.uid().unwrap_or_default()).is_some()
            });
            queues.volumes.enqueue_names(stores.volumes.names_by(DISK, &name));
            // Unplaced volumes may wait for a disk of this kind or with these permissions (V8, D2).
            queues.volumes.enqueue_names(stores.volumes.names_by(UNPLACED, ""));
            queues.subscriptions.enqueue_names(stores.subscriptions.names());
            queues.classes.enqueue_names(stores.classes.names());
        });
    }

    /// A reservation changed.
    pub fn reservation(&self, reservation: &DiskReservation) {
        self.queues.reservations.enqueue(reservation);
        let (name, uid) = (reservation.name_any(), reservation.uid().unwrap_or_default());
        self.sharing.notify_one();
        self.with(|queues, stores| {
            // Its refinements and its parent (R4).
            queues.reservations.enqueue_if(&stores.reservations, |r| r.spec.parent.as_ref() == Some(&name));
            reservation
                .spec
                .parent
                .iter()
                .for_each(|parent| queues.reservations.enqueue_name(parent.as_str()));
            if reservation.metadata.deletion_timestamp.is_some() {
                queues.disks.enqueue_if(&stores.disks, |disk| disk.ledger().get(&uid).is_some());
            }
            queues.volumes.enqueue_names(stores.volumes.names_by(UNPLACED, &reservation.spec.role));
            queues.volumes.enqueue_names(stores.volumes.names_by(REQUESTED_RESERVATION, &name));
            // Volumes that have an entry here and are in another reservation.
            for entry in reservation.status.iter().flat_map(|s| &s.volumes) {
                let placed =
                    stores.volumes.get(&entry.name).and_then(|v| v.status.as_ref()?.reservation.clone());
                if placed.is_some_and(|placed| placed.uid != uid) {
                    queues.volumes.enqueue_name(entry.name.as_str());
                }
            }
            for v in stores.volumes.by(RESERVATION, &uid) {
                let entry = held_by_volume(reservation, &v.uid().unwrap_or_default());
                if v.metadata.deletion_timestamp.is_some() || resize::waits_for_ledger(&v, entry) {
                    queues.volumes.enqueue(&v);
                }
            }
            queues.subscriptions.enqueue_if(&stores.subscriptions, |s| covers(s, &reservation.spec.role));
            queues
                .roles
                .enqueue_if(&stores.roles, |r| Role::name_covers(&r.spec.role, &reservation.spec.role));
            queues.classes.enqueue_names(stores.classes.names());
        });
    }

    /// A volume changed.
    pub fn volume(&self, volume: &SharedPersistentVolume) {
        self.queues.volumes.enqueue(volume);
        let (name, role) = (volume.name_any(), &volume.spec.role);
        let reservation = volume.status.as_ref().and_then(|s| s.reservation.as_ref());
        self.with(|queues, stores| {
            reservation.into_iter().for_each(|placed| queues.reservations.enqueue_name(placed.name.as_str()));
            queues.claims.enqueue_names(stores.claims.names_by(VOLUME, &name));
            queues.claims.enqueue_names(stores.claims.names_by(WAITING, ""));
            match pvc_of(volume) {
                Some(_) => queues.pvcs.enqueue_names(stores.claims.names_by(VOLUME, &name)),
                // A volume of somebody else may be in the way of one that is to be provisioned.
                None if name.starts_with(PVC_PREFIX) => {
                    queues.pvcs.enqueue_names(stores.pvcs.names_for(&name))
                }
                None => {}
            }
            queues.subscriptions.enqueue_if(&stores.subscriptions, |s| covers(s, role));
        });
    }

    /// A claim changed.
    pub fn claim(&self, claim: &VolumeClaim) {
        self.queues.claims.enqueue(claim);
        let bound = claim.status.as_ref().and_then(|s| s.volume.as_ref());
        bound.into_iter().for_each(|v| self.queues.volumes.enqueue_name(v.name.as_str()));
        // It may be in the way of a PersistentVolumeClaim of its name.
        self.queues.pvcs.enqueue_name(cluster::named(claim));
        // Others may be waiting behind it for an exclusive volume (C3).
        self.with(|queues, stores| {
            // A claim whose finalizer was removed by hand may be gone before its status names the volume.
            queues.volumes.enqueue_names(stores.volumes.names_by(CLAIM, &cluster::named(claim)));
            if pvc_of(claim).is_some() {
                claim.spec.volume.iter().for_each(|name| queues.volumes.enqueue_name(name.as_str()));
            }
            let mut waiting =
                stores.claims.names_by(WAITING, claim.spec.volume.as_deref().unwrap_or_default());
            waiting.retain(|name| *name != cluster::named(claim));
            queues.claims.enqueue_names(waiting);
        });
    }

    /// A subscription changed.
    pub fn subscription(&self, subscription: &RoleSubscription) {
        self.queues.subscriptions.enqueue(subscription);
        let namespace = subscription.namespace().unwrap_or_default();
        self.with(|queues, stores| {
            queues.claims.enqueue_names(stores.claims.names_by(NAMESPACE, &namespace))
        });
    }

    /// An offer changed.
    pub fn offer(&self, offer: &VolumeOffer) {
        let namespace = offer.namespace().unwrap_or_default();
        self.queues.subscriptions.enqueue_name(name_of(&namespace, &offer.spec.subscription));
        self.with(|queues, stores| queues.volumes.enqueue_names(stores.volumes.names_by(DELETING, "")));
    }

    /// A PersistentVolumeClaim changed.
    pub fn pvc(&self, name: &Name) {
        self.with(|queues, _| {
            queues.claims.enqueue_name(name.clone());
            queues.pvcs.enqueue_name(name.clone());
        });
    }

    /// A StorageClass changed.
    pub fn class(&self, class: &StorageClass) {
        self.queues.classes.enqueue(class);
        self.with(|queues, stores| queues.pvcs.enqueue_names(stores.pvcs.names_provisioned()));
    }

    /// The storage capacity of a StorageClass changed, perhaps by another writer.
    pub fn capacity(&self, capacity: &CSIStorageCapacity) {
        self.queues.classes.enqueue_name(capacity.storage_class_name.as_str());
    }

    /// The pods that use the PersistentVolumeClaim `claim` changed.
    pub fn pod(&self, claim: &Name) {
        self.with(|queues, _| {
            let (router, claim) = (self.clone(), claim.clone());
            queues.claims.enqueue_name(claim.clone());
            // A claim whose finalizer was removed by hand may be gone; the volume's list still has it.
            tokio::spawn(async move {
                // Pods that come and go together are counted together. Their claim holds the volume meanwhile (X1).
                tokio::time::sleep(GATHERING).await;
                router.with(|queues, stores| {
                    queues.volumes.enqueue_names(stores.volumes.names_by(CLAIM, &claim))
                });
            });
        });
    }

    /// A VolumeRole changed.
    pub fn role(&self, role: &VolumeRole) {
        self.queues.roles.enqueue(role);
        self.sharing.notify_one();
        self.with(|queues, stores| {
            queues.roles.enqueue_if(&stores.roles, |r| r.spec.role == role.spec.role);
            let refinement = |r: &DiskReservation| {
                r.spec.parent.is_some() && Role::name_covers(&role.spec.role, &r.spec.role)
            };
            queues.reservations.enqueue_if(&stores.reservations, refinement);
        });
    }
}
