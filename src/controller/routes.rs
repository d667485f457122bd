//! Routes: the objects to reconcile after a change of another object.

mod data_sets;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::ResourceExt;
use tokio::sync::Notify;

use crate::api::{
    DiskReservation, NodeDisk, PVC_PREFIX, Role, RoleSubscription, SharedPersistentVolume, Size, VolumeClaim,
    VolumeOffer, VolumeRole,
};
use crate::cluster::{Change, Name, WorkQueue, name_of};
use crate::plan::candidate::{is_cordoned, is_ready};
use crate::plan::copies::transfer;
use crate::plan::holder::{Holder, held_by_volume};
use crate::plan::offer::covers;
use crate::plan::own_pvc::pvc_of;
use crate::plan::postponed::COUNTING;
use crate::plan::resize;
use crate::plan::transition::LASTING;

use super::context::Context;
use super::stores::{
    AgentPod, BINDING, CLAIM, COPY_OF, DELETING, DISK, MADE_FOR, QUEUE, REQUESTED_RESERVATION, RESERVATION,
    Stores, UNPLACED, VOLUME, is_waiting, left_in, lost_on, queue_of,
};

/// The time for which changes are collected into one reconcile. Changes around a subscription are collected because an
/// offer is a large object.
pub const GATHERING: Duration = Duration::from_millis(500);

/// The pause before PersistentVolumeClaims without a volume tell of free space, which others may take meanwhile.
const PLACES: Duration = Duration::from_secs(10);

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
    /// Nodes, for their labels.
    pub nodes: WorkQueue<Node>,
}

/// Enqueues the objects that a change concerns. The caches are created after the routes that receive their changes.
#[derive(Clone)]
pub struct Router {
    /// The work queues.
    pub queues: Arc<WorkQueues>,
    /// Notified after each change that the sharing out depends on.
    pub sharing: Arc<Notify>,
    /// Notified after each addition to `swept`.
    pub sweeping: Arc<Notify>,
    /// The volumes whose waiting claims are to be enqueued. The empty name stands for claims with a selector.
    swept: Arc<Mutex<BTreeSet<Name>>>,
    /// The context, set once the caches are filled.
    pub ctx: Arc<OnceLock<Arc<Context>>>,
}

impl Router {
    /// Routes to these queues.
    pub fn new(queues: WorkQueues) -> Self {
        let (sharing, sweeping, swept, ctx) = Default::default();
        Self { queues: Arc::new(queues), sharing, sweeping, swept, ctx }
    }

    /// Runs `route` if the caches are filled. Before that, the first reconcile of each object covers the change.
    fn with(&self, route: impl FnOnce(&WorkQueues, &Stores)) {
        if let Some(ctx) = self.ctx.get() {
            route(&self.queues, &ctx.stores);
        }
    }

    /// Requests that the claims waiting for the volume of that name are enqueued. One sweep serves many changes of a
    /// volume. A sweep per change would reconcile n claims to one volume n² times (A9).
    fn sweep(&self, volume: &str) {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner).insert(volume.into());
        self.sweeping.notify_one();
    }

    /// Enqueues the claims that wait for volumes with a change since the last call.
    pub fn sweep_now(&self) {
        let volumes = std::mem::take(&mut *self.swept.lock().unwrap_or_else(PoisonError::into_inner));
        self.with(|queues, stores| {
            for volume in volumes {
                queues.claims.enqueue_names(stores.claims.names_from(QUEUE, &queue_of(&volume)));
            }
        });
    }

    /// Enqueues every object: after a gap in a watch, the deletions in the gap are unknown.
    pub fn everything(&self) {
        self.look_at(0, 1);
    }

    /// Enqueues one of so many parts of all objects. An object is always in the same part, which its name decides.
    pub fn look_at(&self, part: u32, parts: u32) {
        if part == 0 {
            self.sharing.notify_one();
        }
        let of = |mut names: Vec<Name>| {
            names.retain(|name| part_of(name, parts) == part);
            names
        };
        self.with(|queues, stores| {
            queues.disks.enqueue_names(of(stores.disks.names()));
            queues.reservations.enqueue_names(of(stores.reservations.names()));
            queues.volumes.enqueue_names(of(stores.volumes.names()));
            queues.claims.enqueue_names(of(stores.claims.names()));
            queues.subscriptions.enqueue_names(of(stores.subscriptions.names()));
            queues.roles.enqueue_names(of(stores.roles.names()));
            queues.classes.enqueue_names(of(stores.classes.names()));
            queues.pvcs.enqueue_names(of(stores.pvcs.names_provisioned()));
            queues.nodes.enqueue_names(of(stores.nodes.names()));
        });
    }

    /// Enqueues the roles with templates, and the reservations of templates on the disks that `on` accepts (R7).
    fn templates(&self, on: impl Fn(&Stores, &str) -> bool) {
        self.with(|queues, stores| {
            queues.roles.enqueue_if(&stores.roles, |role| !role.spec.reservation_templates.is_empty());
            let is_made = |r: &DiskReservation| {
                r.spec.template.is_some() && r.spec.node_disk.as_ref().is_some_and(|disk| on(stores, disk))
            };
            queues.reservations.enqueue_if(&stores.reservations, is_made);
        });
    }

    /// Routes a change of an agent's pod. Its readiness decides, too.
    pub fn agent(&self, change: &Change<AgentPod>) {
        let nodes = [change.before, change.now].into_iter().flatten();
        nodes.filter(|_| change.before != change.now).for_each(|agent| self.disks_of(&agent.node));
    }

    fn disks_of(&self, node: &str) {
        self.with(|queues, stores| queues.disks.enqueue_if(&stores.disks, |d| d.spec.node_name == node));
    }

    /// Routes a change of a disk.
    pub fn disk(&self, disk: &NodeDisk, change: &Change<NodeDisk>) {
        let name = disk.name_any();
        let is_there = |disk: &NodeDisk| (disk.spec.clone(), disk.metadata.deletion_timestamp.clone());
        if change.before.map(is_there) != change.now.map(is_there) {
            self.templates(|_, disk| disk == name);
        }
        let has =
            |disk: &NodeDisk| (is_there(disk), disk.status.as_ref().and_then(|s| s.allocatable.clone()));
        if change.before.map(has) != change.now.map(has) {
            self.guarantees();
        }
        let sends = |disk: &NodeDisk| (transfer(disk).cloned(), is_ready(disk), is_cordoned(disk));
        if change.before.map(sends) != change.now.map(sends) {
            self.copies();
        }
        self.queues.disks.enqueue(disk);
        self.sweep_left_data(change, lost_on);
        self.sharing.notify_one();
        self.with(|queues, stores| {
            let on_it = |disk: Option<&String>| disk.is_some_and(|disk| *disk == name);
            let ledger = disk.ledger();
            queues.reservations.enqueue_if(&stores.reservations, |r| {
                on_it(r.status.as_ref().and_then(|s| s.node_disk.as_ref()))
                    || ledger.get(&r.uid().unwrap_or_default()).is_some()
            });
            queues.volumes.enqueue_names(stores.volumes.names_by(DISK, &name));
            // An unplaced volume may wait for a disk of this kind or with these permissions (V8, D2).
            queues.volumes.enqueue_names(stores.volumes.names_by(UNPLACED, ""));
            queues.subscriptions.enqueue_names(stores.subscriptions.names());
            queues.classes.enqueue_names(stores.classes.names());
        });
    }

    /// Sweeps the claims that wait for a volume whose data comes or goes, and say so (X8, X6). True if there is such data.
    fn sweep_left_data<'a, K: 'a, I: Iterator<Item = (&'a str, &'a str)>>(
        &self,
        change: &Change<'a, K>,
        data: impl Fn(&'a K) -> I,
    ) -> bool {
        let (before, now) = (change.before.into_iter(), change.now.into_iter());
        let before: BTreeSet<_> = before.flat_map(&data).collect();
        let now: BTreeSet<_> = now.flat_map(&data).collect();
        before.symmetric_difference(&now).for_each(|(name, _)| self.sweep(name));
        before != now
    }

    /// Enqueues the roles with a guarantee: all guarantees share all disks (Q2).
    fn guarantees(&self) {
        self.with(|queues, stores| {
            queues.roles.enqueue_if(&stores.roles, |role| role.spec.quota.guarantee.is_some());
        });
    }

    /// Routes a change of a reservation.
    pub fn reservation(&self, reservation: &DiskReservation, change: &Change<DiskReservation>) {
        self.queues.reservations.enqueue(reservation);
        if self.sweep_left_data(change, left_in) {
            self.sweep("");
        }
        let (name, uid) = (reservation.name_any(), reservation.uid().unwrap_or_default());
        self.sharing.notify_one();
        // Nodes without a copy may have a place for it now.
        self.copies_missing(|original| Role::name_covers(&reservation.spec.role, &original.spec.role));
        self.with(|queues, stores| {
            // The refinements and the parent of the reservation (R4).
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
            // A volume may have an entry here and be placed in another reservation.
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

    /// Routes a change of a volume.
    pub fn volume(&self, volume: &SharedPersistentVolume, change: &Change<SharedPersistentVolume>) {
        self.queues.volumes.enqueue(volume);
        self.family(volume, change);
        let (name, role) = (volume.name_any(), &volume.spec.role);
        let reservation = volume.status.as_ref().and_then(|s| s.reservation.as_ref());
        let (before, now) = (change.before.map(bound_claims), change.now.map(bound_claims));
        let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
        self.with(|queues, stores| {
            reservation.into_iter().for_each(|placed| queues.reservations.enqueue_name(placed.name.as_str()));
            before
                .symmetric_difference(&now)
                .for_each(|(claim, _)| queues.claims.enqueue_name(claim.as_str()));
            // A disk that was declared gone names the users of its volumes.
            let disk = volume.status.as_ref().and_then(|status| status.node_disk.as_deref());
            if let Some(disk) = disk.filter(|disk| stores.disks.get(disk).is_some_and(|disk| disk.spec.gone))
            {
                queues.disks.enqueue_name(disk);
            }
            if name.starts_with(PVC_PREFIX) {
                queues.pvcs.enqueue_names(stores.pvcs.names_for(&name));
            }
            if before != now {
                // The readers of copies are pods of these claims (E3).
                queues
                    .volumes
                    .enqueue_names(stores.volumes.names_by(COPY_OF, &volume.uid().unwrap_or_default()));
            }
            let is_other = change.before.map(without_users) != change.now.map(without_users);
            if is_other {
                queues.claims.enqueue_names(stores.claims.names_by(VOLUME, &name));
                queues.subscriptions.enqueue_if(&stores.subscriptions, |s| covers(s, role));
            }
            if is_other || !before.is_subset(&now) {
                [name.as_str(), ""].into_iter().for_each(|volume| self.sweep(volume));
            }
        });
    }

    /// Routes a change of a claim.
    pub fn claim(&self, claim: &VolumeClaim, change: &Change<VolumeClaim>) {
        self.queues.claims.enqueue(claim);
        let place = |claim: &VolumeClaim| claim.status.as_ref().map(|s| (s.phase, s.volume.clone()));
        if change.now.is_none() || change.before.map(place) != change.now.map(place) {
            let bound = claim.status.as_ref().and_then(|s| s.volume.as_ref());
            bound.into_iter().for_each(|v| self.queues.volumes.enqueue_name(v.name.as_str()));
        }
        self.with(|queues, stores| {
            // A claim whose finalizer was removed by hand may be gone before its status names the volume.
            queues.volumes.enqueue_names(stores.volumes.names_by(CLAIM, change.name));
            // The volume of a VolumeClaim of an earlier version waits for its end.
            let of_class =
                claim.spec.volume.iter().filter(|_| pvc_of(claim).is_some() && change.now.is_none());
            of_class.for_each(|name| queues.volumes.enqueue_name(name.as_str()));
        });
        // Other claims may wait behind this claim for an exclusive volume (C3).
        let left = change.before.is_some_and(is_waiting) && !change.now.is_some_and(is_waiting);
        for volume in claim.spec.volume.iter().filter(|_| left) {
            // Claims with a selector wait behind this claim too.
            [volume.as_str(), ""].into_iter().for_each(|volume| self.sweep(volume));
        }
    }

    /// Routes a change of a subscription.
    pub fn subscription(&self, subscription: &RoleSubscription, change: &Change<RoleSubscription>) {
        self.queues.subscriptions.enqueue(subscription);
        if change.before.map(|s| &s.spec) == change.now.map(|s| &s.spec) {
            return;
        }
        self.with(|queues, stores| {
            for claim in stores.claims.all_in(&subscription.namespace().unwrap_or_default()) {
                queues.claims.enqueue(&claim);
                // Claims of other namespaces may wait behind this claim. A claim that cannot have the volume blocks no
                // other claim (L7).
                claim.spec.volume.iter().filter(|_| is_waiting(&claim)).for_each(|volume| self.sweep(volume));
            }
        });
    }

    /// Routes a change of an offer.
    pub fn offer(&self, offer: &VolumeOffer) {
        let namespace = offer.namespace().unwrap_or_default();
        self.queues.subscriptions.enqueue_name(name_of(&namespace, &offer.spec.subscription));
        self.with(|queues, stores| queues.volumes.enqueue_names(stores.volumes.names_by(DELETING, "")));
    }

    /// Routes a change of a PersistentVolumeClaim, which is looked at after that time; its end decides the fate of its volume (P4).
    pub fn pvc(&self, name: &Name, is_gone: bool, after: Duration) {
        self.with(|queues, stores| {
            for key in [CLAIM, MADE_FOR].into_iter().filter(|_| is_gone) {
                queues.volumes.enqueue_names(stores.volumes.names_by(key, name));
            }
            queues.claims.enqueue_after(name.clone(), after);
            queues.pvcs.enqueue_after(name.clone(), after);
            // Others of the namespace may wait for this one (A9). Two, since the first may have gone meanwhile.
            let namespace = name.split_once('/').map_or("", |(namespace, _)| namespace);
            let claims = stores.claims.names_by(BINDING, namespace);
            let next = claims.into_iter().filter(|claim| stores.pvcs.get(claim).is_none());
            queues.claims.enqueue_names(next.take(2).collect());
        });
    }

    /// Routes a change of a StorageClass.
    pub fn class(&self, class: &StorageClass) {
        self.queues.classes.enqueue(class);
        self.with(|queues, stores| queues.pvcs.enqueue_names(stores.pvcs.names_provisioned()));
    }

    /// Routes a change, perhaps by another writer, of the storage capacity of a StorageClass. PersistentVolumeClaims without a volume,
    /// which schedulers look after, may have said that there is no place.
    pub fn capacity(&self, capacity: &CSIStorageCapacity, change: &Change<CSIStorageCapacity>) {
        self.queues.classes.enqueue_name(capacity.storage_class_name.as_str());
        let bytes = |of: &CSIStorageCapacity| {
            of.maximum_volume_size.as_ref().map_or(0, |size| Size::written(&*size.0).bytes_or_zero())
        };
        if change.now.map_or(0, bytes) > change.before.map_or(0, bytes) {
            self.with(|queues, stores| {
                let is_waiting = |name: &Name| stores.provisioned(name).is_some_and(|(_, pvc)| !pvc.bound);
                let names = stores.pvcs.names_provisioned().into_iter().filter(is_waiting);
                names.for_each(|name| queues.pvcs.enqueue_after(name, PLACES));
            });
        }
    }

    /// Routes a change of the pods that use the PersistentVolumeClaim `claim`, on these nodes.
    pub fn pod(&self, claim: &Name, nodes: &[&str]) {
        let Some(ctx) = self.ctx.get() else { return };
        self.with(|queues, stores| {
            queues.claims.enqueue_name(claim.clone());
            // A pod that is older than that may wait for a PersistentVolumeClaim without a place (P2).
            queues.pvcs.enqueue_after(claim.clone(), LASTING);
            // A claim whose finalizer was removed by hand may be gone while the volume still lists the claim. The end of
            // a volume waits for its pods.
            let count = |volume: Name| {
                ctx.recounts().note(&volume, COUNTING, (ctx.now)());
                queues.volumes.enqueue_after(volume, GATHERING);
            };
            for volume in stores.volumes.by(CLAIM, claim) {
                // Pods elsewhere read a copy (E3).
                let is_on = |copy: &&Arc<SharedPersistentVolume>| {
                    let node = copy.status.as_ref().and_then(|status| status.node_name.as_deref());
                    node.is_some_and(|node| nodes.contains(&node))
                };
                let copies = stores.volumes.by(COPY_OF, &volume.uid().unwrap_or_default());
                copies.iter().filter(is_on).for_each(|copy| count(copy.name_any().into()));
                count(volume.name_any().into());
            }
        });
    }

    /// Routes a change of a VolumeRole.
    pub fn role(&self, role: &VolumeRole, change: &Change<VolumeRole>) {
        self.queues.roles.enqueue(role);
        if change.before.map(|role| &role.spec.quota) != change.now.map(|role| &role.spec.quota) {
            self.guarantees();
        }
        self.sharing.notify_one();
        self.with(|queues, stores| {
            queues.roles.enqueue_if(&stores.roles, |r| r.spec.role == role.spec.role);
            queues.classes.enqueue_names(stores.classes.names());
            let refinement = |r: &DiskReservation| {
                r.spec.parent.is_some() && Role::name_covers(&role.spec.role, &r.spec.role)
            };
            queues.reservations.enqueue_if(&stores.reservations, refinement);
            let name = role.name_any();
            let made =
                |r: &DiskReservation| r.spec.template.as_ref().is_some_and(|of| of.volume_role == name);
            queues.reservations.enqueue_if(&stores.reservations, made);
        });
    }
}

/// The part of an object in a pass over all objects.
fn part_of(name: &Name, parts: u32) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() % u64::from(parts)) as u32
}

/// The claims in the volume's list, each with its UID.
fn bound_claims(volume: &SharedPersistentVolume) -> BTreeSet<(String, &str)> {
    let claims = volume.status.iter().flat_map(|s| &s.claims);
    claims.map(|claim| (claim.to_string(), claim.uid.as_str())).collect()
}

/// The volume without its users. Neither an offer nor another claim depends on the users of a shared volume.
fn without_users(volume: &SharedPersistentVolume) -> SharedPersistentVolume {
    let mut volume = volume.clone();
    volume.metadata.resource_version = None;
    if let Some(status) = &mut volume.status {
        (status.users, status.namespaces, status.claim_count) = Default::default();
        status.user_count = status.user_count.min(1);
        if volume.spec.shared.is_some() {
            (status.claims, status.user_count) = Default::default();
        }
    }
    volume
}

#[cfg(test)]
mod tests;
