//! What reconciles share: the client, the caches, events.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus, Pod};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::api::ListParams;
use kube::core::object::HasStatus;
use kube::{Api, Client, Resource, ResourceExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::condition::{self, READY, Verdict};
use crate::api::{
    CONTROLLER_MANAGER, ClaimBinding, ClaimPhase, DiskReservation, LABEL_PVC_UID, NodeDisk, PodRef,
    RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{
    self, Cache, Commits, Events, Key, Owned, PodIndex, PvcIndex, claims_of, is_terminal, pod_ref,
};
use crate::plan::quota::lineage;
pub use crate::plan::refs;
use crate::telemetry::Metrics;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::share::Share;

/// The caches.
pub struct Stores {
    /// Nodes.
    pub nodes: Arc<Cache<Node>>,
    /// Disks.
    pub disks: Arc<Cache<NodeDisk>>,
    /// Reservations.
    pub reservations: Arc<Cache<DiskReservation>>,
    /// Volumes.
    pub volumes: Arc<Cache<SharedPersistentVolume>>,
    /// Claims.
    pub claims: Arc<Cache<VolumeClaim>>,
    /// Subscriptions.
    pub subscriptions: Arc<Cache<RoleSubscription>>,
    /// Offers.
    pub offers: Arc<Cache<VolumeOffer>>,
    /// Roles.
    pub roles: Arc<Cache<VolumeRole>>,
    /// StorageClasses.
    pub classes: Arc<Cache<StorageClass>>,
    /// What schedulers were told of the room for them.
    pub capacities: Arc<Cache<CSIStorageCapacity>>,
    /// The PersistentVolumeClaims that the controller made, and those for which it makes a volume.
    pub pvcs: PvcIndex,
    /// Who uses which PersistentVolumeClaim.
    pub pods: PodIndex,
}

/// Found by it: a subscription, a claim.
pub const NAMESPACE: &str = "namespace";
/// Found by it: a volume.
pub const ROLE: &str = "role";
/// Found by it: a volume, by the NodeDisk that it is on.
pub const DISK: &str = "disk";
/// Found by it: a volume that is in no reservation yet, by its role and by each ancestor of that; all under the empty name.
pub const HOMELESS: &str = "homeless";
/// Found by it: a volume that is in no reservation yet, by the one that it names.
pub const HOME_WANTED: &str = "home wanted";
/// Found by it: a volume, by the UID of the reservation that it lives in.
pub const HOME: &str = "home";
/// Found by it: a volume that is being deleted; all under the empty name.
pub const LEAVING: &str = "leaving";
/// Found by it: a volume, by a claim that is bound to it, as `namespace/name`.
pub const CLAIM: &str = "claim";
/// Found by it: an offer, by the UID of the subscription that it is for.
pub const OWNER: &str = "owner";
/// Found by it: a reservation, by the UID of a volume in its ledger; an offer, by one that it lists.
pub const VOLUME_UID: &str = "volume UID";
/// Found by it: a claim, by the volume that it has or is meant for.
pub const VOLUME: &str = "volume";
/// Found by it: a claim that is not bound, by the volume that it names; under the empty name, one that selects.
pub const WAITING: &str = "waiting";

/// What a volume is found by.
pub fn volume_keys(volume: &SharedPersistentVolume, key: &mut dyn FnMut(Key)) {
    let status = volume.status.as_ref();
    let home = status.and_then(|s| s.reservation.as_ref());
    key((ROLE, &volume.spec.role));
    status.and_then(|s| s.node_disk.as_ref()).into_iter().for_each(|disk| key((DISK, disk)));
    home.into_iter().for_each(|home| key((HOME, &home.uid)));
    if home.is_none() {
        lineage(&volume.spec.role).for_each(|role| key((HOMELESS, role)));
        volume.spec.reservation.iter().for_each(|wanted| key((HOME_WANTED, wanted)));
        key((HOMELESS, ""));
    }
    if volume.metadata.deletion_timestamp.is_some() {
        key((LEAVING, ""));
    }
    for claim in status.iter().flat_map(|s| &s.claims) {
        key((CLAIM, &claim.to_string()));
    }
}

/// What a reservation is found by.
pub fn reservation_keys(reservation: &DiskReservation, key: &mut dyn FnMut(Key)) {
    reservation.status.iter().flat_map(|s| &s.volumes).for_each(|line| key((VOLUME_UID, &line.uid)));
}

/// What a claim is found by.
pub fn claim_keys(claim: &VolumeClaim, key: &mut dyn FnMut(Key)) {
    let status = claim.status.as_ref();
    claim.metadata.namespace.iter().for_each(|namespace| key((NAMESPACE, namespace)));
    let meant = status.and_then(|s| s.volume.as_ref()).map(|v| &v.name);
    meant.or(claim.spec.volume.as_ref()).into_iter().for_each(|name| key((VOLUME, name)));
    if status.is_none_or(|s| s.phase == ClaimPhase::Pending) {
        key((WAITING, claim.spec.volume.as_deref().unwrap_or_default()));
    }
}

/// What a subscription is found by.
pub fn subscription_keys(subscription: &RoleSubscription, key: &mut dyn FnMut(Key)) {
    subscription.metadata.namespace.iter().for_each(|namespace| key((NAMESPACE, namespace)));
}

/// What an offer is found by.
pub fn offer_keys(offer: &VolumeOffer, key: &mut dyn FnMut(Key)) {
    offer.owner_references().iter().for_each(|owner| key((OWNER, &owner.uid)));
    offer.spec.volumes.iter().for_each(|volume| key((VOLUME_UID, &volume.uid)));
}

/// Takes off a node what no decision looks at.
pub fn trim_node(node: &mut Node) {
    node.metadata.annotations = None;
    node.spec = None;
    if let Some(status) = &mut node.status {
        *status = NodeStatus { conditions: status.conditions.take(), ..Default::default() };
    }
}

/// Takes off a claim what people put on it for themselves: there are many claims.
pub fn trim_claim(claim: &mut VolumeClaim) {
    let metadata = &mut claim.metadata;
    (metadata.annotations, metadata.owner_references) = Default::default();
    let for_pvc = metadata.labels.take().and_then(|mut labels| labels.remove_entry(LABEL_PVC_UID));
    metadata.labels = for_pvc.map(|label| BTreeMap::from([label]));
}

/// The same of a volume; its labels are what claims select by.
pub fn trim_volume(volume: &mut SharedPersistentVolume) {
    let metadata = &mut volume.metadata;
    (metadata.annotations, metadata.owner_references) = Default::default();
}

/// Where commits to the objects that several reconciles decide on meet.
#[derive(Default)]
pub struct Meeting {
    /// The ledgers of disks.
    pub disks: Commits<NodeDisk>,
    /// The ledgers of reservations.
    pub reservations: Commits<DiskReservation>,
    /// Who is bound to which volume.
    pub volumes: Commits<SharedPersistentVolume>,
    /// The ledgers of quotas.
    pub roles: Commits<VolumeRole>,
}

/// What every reconcile is given.
pub struct Context {
    /// The client.
    pub client: Client,
    /// The namespace that Reservoir is in.
    pub namespace: String,
    /// The caches.
    pub stores: Stores,
    /// Events.
    pub events: Events,
    /// Who of those that wait is served next.
    pub share: Share,
    /// Held while a reservation takes what it was given: a guarantee spans disks, and so no single object decides it
    /// (Q2).
    pub turn: tokio::sync::Mutex<()>,
    /// What is committed together.
    pub commits: Meeting,
    /// By UID, the version of an object that we wrote over, until a cache has a later one.
    pub replaced: Mutex<HashMap<String, String>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The condition `Ready` as `verdict` has it, beside the conditions that there are.
pub fn ready(conditions: &[Condition], verdict: Verdict, generation: Option<i64>) -> Vec<Condition> {
    let mut conditions = conditions.to_vec();
    condition::set(&mut conditions, READY, verdict, generation, Timestamp::now());
    conditions
}

impl Context {
    /// Commits the controller's part of a status, if it changed, and tells of a transition.
    pub async fn commit<K>(
        &self,
        api: &Api<K>,
        current: &K,
        desired: &K::Status,
    ) -> Result<(), cluster::Error>
    where
        K: cluster::Kind + Owned,
        K::Status: Conditions,
    {
        if let Some(written) = cluster::write_status(api, current, desired, CONTROLLER_MANAGER).await? {
            // What the server takes for no change brings no event, and is no later version.
            if let (Some(uid), Some(version)) = (current.uid(), current.resource_version())
                && written.resource_version().as_ref() != Some(&version)
            {
                self.replaced().insert(uid, version);
            }
            let before = current.status().map_or(&[][..], Conditions::conditions);
            self.events.on_transition(current, before, desired.conditions()).await;
        }
        Ok(())
    }

    /// Whether we have written a later version of the object than this one, so that whatever is decided on it comes too
    /// late. The later one comes by the watch.
    pub fn is_old<K: Resource>(&self, object: &K) -> bool {
        let mut replaced = self.replaced();
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        let old =
            replaced.get(uid).is_some_and(|version| Some(version) == object.meta().resource_version.as_ref());
        if !old {
            replaced.remove(uid);
        }
        old
    }

    fn replaced(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running and pending pods that use the claims.
    pub fn users(&self, claims: &[ClaimBinding]) -> Vec<PodRef> {
        claims.iter().flat_map(|c| self.stores.pods.users(&c.namespace, &c.name)).collect()
    }

    /// The running and pending pods that use these PersistentVolumeClaims, given as (namespace, name), read by quorum.
    pub async fn users_by_quorum(
        &self,
        claims: &BTreeSet<(String, String)>,
    ) -> Result<Vec<PodRef>, cluster::Error> {
        let mut users = Vec::new();
        for namespace in claims.iter().map(|(namespace, _)| namespace).collect::<BTreeSet<_>>() {
            let pods: Api<Pod> = cluster::namespaced(&self.client, namespace);
            let list = cluster::list(&pods, &ListParams::default()).await?;
            let uses =
                |pod: &&Pod| !is_terminal(pod) && claims_of(pod).iter().any(|claim| claims.contains(claim));
            users.extend(list.iter().filter(uses).map(pod_ref));
        }
        Ok(users)
    }

    /// The node that a NodeDisk is in, if that is another one than `known`: a disk may come back in a node of another name
    /// (D3). A cache that is behind moves nothing.
    pub async fn node_moved(
        &self,
        disk: Option<&str>,
        known: Option<&str>,
    ) -> Result<Option<String>, cluster::Error> {
        let cached = disk.and_then(|name| self.stores.disks.get(name));
        let Some(cached) = cached.filter(|disk| known.is_some_and(|node| node != disk.spec.node_name)) else {
            return Ok(None);
        };
        let now = cluster::get_same(&Api::all(self.client.clone()), &*cached).await?;
        Ok(now.map(|disk| disk.spec.node_name).filter(|node| Some(node.as_str()) != known))
    }

    /// The subscriptions of a namespace.
    pub fn subscriptions_in(&self, namespace: &str) -> Vec<Arc<RoleSubscription>> {
        self.stores.subscriptions.by(NAMESPACE, namespace)
    }
}

impl Stores {
    /// Whether the disk of that name can be used now.
    pub fn disk_ready(&self, name: &str) -> bool {
        let disk = self.disks.get(name);
        disk.is_some_and(|d| d.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, READY)))
    }

    /// The volumes of the role and of its ancestors: all that may be used for it (R3).
    pub fn volumes_for(&self, role: &str) -> Vec<Arc<SharedPersistentVolume>> {
        lineage(role).flat_map(|role| self.volumes.by(ROLE, role)).collect()
    }
}

/// A status with conditions.
pub trait Conditions {
    /// The conditions.
    fn conditions(&self) -> &[Condition];
}

macro_rules! has_conditions {
    ($($kind:ty),+) => {
        $(impl Conditions for <$kind as HasStatus>::Status {
            fn conditions(&self) -> &[Condition] {
                &self.conditions
            }
        })+
    };
}

has_conditions!(NodeDisk, DiskReservation, SharedPersistentVolume, VolumeClaim, RoleSubscription, VolumeRole);
