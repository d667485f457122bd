//! What reconciles share: the client, the caches, events.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::core::object::HasStatus;
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource, ResourceExt};
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::condition::{self, READY, Verdict};
use crate::api::{
    CONTROLLER_MANAGER, ClaimBinding, DiskReservation, NodeDisk, PodRef, RoleSubscription,
    SharedPersistentVolume, VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{self, Events, Owned, PodIndex, claims_of, is_terminal, pod_ref};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::share::Share;

/// The caches.
pub struct Stores {
    /// Nodes.
    pub nodes: Store<Node>,
    /// Disks.
    pub disks: Store<NodeDisk>,
    /// Reservations.
    pub reservations: Store<DiskReservation>,
    /// Volumes.
    pub volumes: Store<SharedPersistentVolume>,
    /// Claims.
    pub claims: Store<VolumeClaim>,
    /// Subscriptions.
    pub subscriptions: Store<RoleSubscription>,
    /// Offers.
    pub offers: Store<VolumeOffer>,
    /// Roles.
    pub roles: Store<VolumeRole>,
    /// The PersistentVolumeClaims that the controller made.
    pub pvcs: Store<PersistentVolumeClaim>,
    /// Who uses which PersistentVolumeClaim.
    pub pods: PodIndex,
}

/// What every reconcile is given.
pub struct Context {
    /// The client.
    pub client: Client,
    /// The caches.
    pub stores: Stores,
    /// Events.
    pub events: Events,
    /// Who of those that wait is served next.
    pub share: Share,
    /// Held while a reservation takes what it was given: a guarantee spans disks, and so no single object decides it
    /// (Q2).
    pub turn: tokio::sync::Mutex<()>,
}

/// An object of a cluster-scoped cache, by name.
pub fn named<K: Resource<DynamicType = ()> + Clone + 'static>(
    store: &Store<K>,
    name: &str,
) -> Option<Arc<K>> {
    store.get(&kube::runtime::reflector::ObjectRef::new(name))
}

/// Borrows what a cache returned, as the decisions take it.
pub fn refs<K>(items: &[Arc<K>]) -> Vec<&K> {
    items.iter().map(AsRef::as_ref).collect()
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
        if cluster::write_status(api, current, desired, CONTROLLER_MANAGER).await? {
            let before = current.status().map_or(&[][..], Conditions::conditions);
            self.events.on_transition(current, before, desired.conditions()).await;
        }
        Ok(())
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

    /// The subscriptions of a namespace.
    pub fn subscriptions_in(&self, namespace: &str) -> Vec<Arc<RoleSubscription>> {
        let all = self.stores.subscriptions.state();
        all.into_iter().filter(|s| s.namespace().as_deref() == Some(namespace)).collect()
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
