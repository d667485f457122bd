//! The context of every reconcile: the client, the caches, events, and the commit of a status.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::core::object::HasStatus;
use kube::{Api, Client, Resource, ResourceExt};

use crate::api::{
    CONTROLLER_MANAGER, ClaimBinding, DiskReservation, NodeDisk, PodRef, RoleSubscription,
    SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim, VolumeRole,
};
use crate::cluster::{self, Events, Owned, StatusBatcher, UsedPod};
use crate::plan::crowding::Crowding;
use crate::plan::postponed::Postponed;
use crate::plan::silence::Silence;
use crate::plan::transition::{LASTING, Transition, When, transitions};
use crate::telemetry::Metrics;

use super::share::Share;
use super::stores::Stores;

/// One batcher for each kind whose status is written by several reconciles.
#[derive(Default)]
pub struct StatusBatchers {
    /// The ledgers of disks.
    pub disks: StatusBatcher<NodeDisk>,
    /// The ledgers of reservations.
    pub reservations: StatusBatcher<DiskReservation>,
    /// The bindings of volumes.
    pub volumes: StatusBatcher<SharedPersistentVolume>,
    /// The ledgers of quotas.
    pub roles: StatusBatcher<VolumeRole>,
}

/// The client, the caches, and the state that reconciles share.
pub struct Context {
    /// The client.
    pub client: Client,
    /// The namespace in which Reservoir runs.
    pub namespace: String,
    /// Pods that are older than their ReadOnly claim are deleted where a node refuses them (F2).
    pub replaces_pods: bool,
    /// The startup taint of a node goes when its agent serves (F7).
    pub untaints_nodes: bool,
    /// Nodes get the labels by which pods find copies (E3).
    pub labels_nodes: bool,
    /// The caches.
    pub stores: Stores,
    /// Events.
    pub events: Events,
    /// The outcome of the sharing out for each reservation that waits.
    pub share: Share,
    /// Locked while a reservation takes its entries. A guarantee spans disks, so no compare-and-swap on one object
    /// decides the guarantee (Q2).
    pub turn: tokio::sync::Mutex<()>,
    /// The controller's user, once an object had to name it.
    pub user: tokio::sync::OnceCell<String>,
    /// The batchers that join simultaneous status writes.
    pub batchers: StatusBatchers,
    /// By UID, the resourceVersion that this controller replaced, until a cache has a later version.
    pub replaced: Mutex<HashMap<String, String>>,
    /// The nodes that storage capacities tell as smaller than they are.
    pub crowding: Mutex<Crowding>,
    /// The small changes of storage capacities and subscriptions that are not told yet.
    pub postponed: Mutex<Postponed>,
    /// The volumes whose pods are to be counted anew.
    pub recounts: Mutex<Postponed>,
    /// The nodes without an agent that serves.
    pub silence: Mutex<Silence>,
    /// The controller's metrics.
    pub metrics: Arc<Metrics>,
    /// See [`Options::now`](super::Options::now).
    pub now: fn() -> Timestamp,
}

impl Context {
    /// The volume with the controller as its principal: not every API server lets admission write it (R5, A3).
    pub async fn signed(
        &self,
        volume: &SharedPersistentVolume,
    ) -> Result<SharedPersistentVolume, cluster::Error> {
        let mut volume = volume.clone();
        volume.spec.principal = Some(self.principal().await?);
        Ok(volume)
    }

    /// The controller's user.
    pub async fn principal(&self) -> Result<String, cluster::Error> {
        self.user.get_or_try_init(|| cluster::username(&self.client)).await.cloned()
    }

    /// Commits the controller's part of a status if the part has changed, and publishes an event for each transition.
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
            // A write without a change causes no event of the watch and no later version.
            if let (Some(uid), Some(version)) = (current.uid(), current.resource_version())
                && written.resource_version().as_ref() != Some(&version)
            {
                self.replaced().insert(uid, version);
            }
            let before = current.status().map_or(&[][..], Conditions::conditions);
            for Transition { type_, is, when } in transitions(before, desired.conditions()) {
                if when != When::Reworded {
                    self.events.log_transition(current, is);
                }
                match when {
                    When::IfItLasts => self.events.tell_if_it_lasts(current, type_, is, LASTING),
                    When::Reworded => self.events.reword(current, type_, is),
                    When::Never => self.events.settle(current, type_),
                    When::AtOnce => {
                        self.events.settle(current, type_);
                        self.events.tell(current, is).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// True if this controller has written a later version of the object: a decision on the old version is outdated.
    /// The watch delivers the later version.
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

    /// See [`Self::crowding`].
    pub fn crowding(&self) -> MutexGuard<'_, Crowding> {
        self.crowding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Self::postponed`].
    pub fn postponed(&self) -> MutexGuard<'_, Postponed> {
        self.postponed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Self::recounts`].
    pub fn recounts(&self) -> MutexGuard<'_, Postponed> {
        self.recounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Self::silence`].
    pub fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running and pending pods that use the claims.
    pub fn users(&self, claims: &[ClaimBinding]) -> Vec<PodRef> {
        claims.iter().flat_map(|c| self.stores.pods.users(&c.namespace, &c.name)).collect()
    }

    /// The running and pending pods that use the PersistentVolumeClaims, given as (namespace, name), by live reads; with `on`
    /// those on that node.
    pub async fn live_users(
        &self,
        claims: &BTreeSet<(String, String)>,
        on: Option<&str>,
    ) -> Result<Vec<PodRef>, cluster::Error> {
        let mut users = Vec::new();
        for namespace in claims.iter().map(|(namespace, _)| namespace).collect::<BTreeSet<_>>() {
            let pods: Api<UsedPod> = cluster::namespaced(&self.client, namespace);
            let list = cluster::list(&pods, &ListParams::default()).await?;
            let is_there = |pod: &UsedPod| on.is_none() || pod.node() == on;
            let uses = |pod: &&UsedPod| {
                !pod.has_ended() && is_there(pod) && pod.claims().iter().any(|claim| claims.contains(claim))
            };
            users.extend(list.iter().filter(uses).map(UsedPod::pod_ref));
        }
        Ok(users)
    }

    /// The pods on the volume's node, by a live read, if the node reports processes of pods that hold the volume (F3).
    pub async fn holder_pods(
        &self,
        status: &SharedPersistentVolumeStatus,
    ) -> Result<Vec<PodRef>, cluster::Error> {
        let node = status.node.as_ref().filter(|node| node.held_by.iter().any(|by| by.pod_uid.is_some()));
        let (Some(_), Some(name)) = (node, &status.node_name) else { return Ok(vec![]) };
        let of_node = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let pods = cluster::list_metadata(&Api::<UsedPod>::all(self.client.clone()), &of_node).await?;
        let pod = |pod: &PartialObjectMeta<UsedPod>| PodRef {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
        };
        Ok(pods.iter().map(pod).collect())
    }

    /// The present node of a NodeDisk, if it differs from `known`: a disk may move to another node (D3). The cache may
    /// be behind, so a difference is confirmed by a live read.
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

    /// True if the volume's disk was declared gone, which cannot be revoked (D4).
    pub fn is_disk_gone(&self, volume: &SharedPersistentVolume) -> bool {
        self.disk_of(volume).is_some_and(|disk| disk.spec.gone)
    }

    /// The volume's NodeDisk, from the cache.
    pub fn disk_of(&self, volume: &SharedPersistentVolume) -> Option<Arc<NodeDisk>> {
        self.stores.disks.get(volume.status.as_ref()?.node_disk.as_ref()?)
    }

    /// The subscriptions of a namespace. A deleted one counts no more, whatever finalizer keeps its object.
    pub fn subscriptions_in(&self, namespace: &str) -> Vec<Arc<RoleSubscription>> {
        let mut all = self.stores.subscriptions.all_in(namespace);
        all.retain(|subscription| subscription.metadata.deletion_timestamp.is_none());
        all
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
