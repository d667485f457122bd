//! The controller's caches: the cached kinds, the keys of their indexes, and the fields that the caches drop.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Pod};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::condition::{self, READY};
use crate::api::{
    ANNOTATION_MADE_FOR, ClaimPhase, DiskReservation, LABEL_PVC_UID, NodeDisk, Orphan, Reserved,
    RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeClaimStatus, VolumeOffer, VolumeRole,
};
use crate::cluster::{Cache, CacheConfig, Key, PodUse, Pvc, SeenPvc};
use crate::plan::bind::noted;
use crate::plan::orphans;
use crate::plan::pvc_provisioner::class;
use crate::plan::quota::lineage;

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
    /// The storage capacities of StorageClasses, as schedulers see them.
    pub capacities: Arc<Cache<CSIStorageCapacity>>,
    /// PersistentVolumeClaims that the controller made or provisions.
    pub pvcs: Arc<Cache<Pvc>>,
    /// Pods by the PersistentVolumeClaims that they use.
    pub pods: Arc<Cache<PodUse>>,
    /// The agents' pods; `None` if agents run without pods.
    pub agents: Option<Arc<Cache<AgentPod>>>,
}

/// An agent's pod.
#[derive(Clone, PartialEq)]
pub struct AgentPod {
    /// Name of the node.
    pub node: String,
    /// True while the pod is Ready.
    ready: bool,
}

impl AgentPod {
    /// Keeps nothing else of the pods.
    pub fn config() -> CacheConfig<Pod, Self> {
        CacheConfig { keep: Self::of, keys: |agent, key| key((NODE, &agent.node)) }
    }

    fn of(pod: Pod) -> Option<Self> {
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = pod.metadata.deletion_timestamp.is_none()
            && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Some(Self { node: pod.spec?.node_name?, ready })
    }
}

/// Key of an agent's pod: its node.
pub const NODE: &str = "node";
/// Key of a volume: the role.
pub const ROLE: &str = "role";
/// Key of a volume: its NodeDisk.
pub const DISK: &str = "disk";
/// Key of an unplaced volume: its role, each ancestor of the role, and the empty name.
pub const UNPLACED: &str = "unplaced";
/// Key of an unplaced volume: its requested reservation.
pub const REQUESTED_RESERVATION: &str = "requested reservation";
/// Key of a volume: the UID of its reservation.
pub const RESERVATION: &str = "reservation";
/// Key of a volume that is being deleted: the empty name.
pub const DELETING: &str = "deleting";
/// Key of a volume: each claim bound to the volume, as `namespace/name`.
pub const CLAIM: &str = "claim";
/// Key of a volume that was made for a PersistentVolumeClaim: its namespace and name.
pub const MADE_FOR: &str = "made for";
/// Key of a copy: the UID of its original. Key of a volume that is to have copies: the empty name (E2).
pub const COPY_OF: &str = "copy of";
/// Key of an offer: the UID of its subscription.
pub const OWNER: &str = "owner";
/// Key of a reservation: the UID of each volume in its ledger. Key of an offer: the UID of each listed volume.
pub const VOLUME_UID: &str = "volume UID";
/// Key of a claim: the bound or requested volume.
pub const VOLUME: &str = "volume";
/// Key of a bound claim that is not Ready yet: its namespace.
pub const BINDING: &str = "binding";
/// Key of a waiting claim: [`queue_of`] the requested volume, or of the empty name for a claim with a selector; then
/// the age of the claim.
pub const QUEUE: &str = "queue";

/// Key of a reservation or a disk with data of a volume that is gone: the name of the volume. For kept data also the empty name, for
/// claims with a selector (X8, X6).
pub const LEFT: &str = "left";

/// The common prefix of the keys of all claims that wait for the volume of that name.
pub fn queue_of(volume: &str) -> String {
    format!("{volume} ")
}

/// Calls `key` with each key of a volume.
pub fn volume_keys(volume: &SharedPersistentVolume, key: &mut dyn FnMut(Key)) {
    let status = volume.status.as_ref();
    let reservation = status.and_then(|s| s.reservation.as_ref());
    key((ROLE, &volume.spec.role));
    status.and_then(|s| s.node_disk.as_ref()).into_iter().for_each(|disk| key((DISK, disk)));
    reservation.into_iter().for_each(|reservation| key((RESERVATION, &reservation.uid)));
    if reservation.is_none() {
        lineage(&volume.spec.role).for_each(|role| key((UNPLACED, role)));
        volume.spec.reservation.iter().for_each(|name| key((REQUESTED_RESERVATION, name)));
        key((UNPLACED, ""));
    }
    if volume.metadata.deletion_timestamp.is_some() {
        key((DELETING, ""));
    }
    volume.spec.copy_of.iter().for_each(|of| key((COPY_OF, &of.uid)));
    if volume.spec.copies.is_some() {
        key((COPY_OF, ""));
    }
    volume.annotations().get(ANNOTATION_MADE_FOR).into_iter().for_each(|pvc| key((MADE_FOR, pvc)));
    for claim in status.iter().flat_map(|s| &s.claims) {
        key((CLAIM, &claim.to_string()));
    }
}

/// Calls `key` with each key of a reservation.
pub fn reservation_keys(reservation: &DiskReservation, key: &mut dyn FnMut(Key)) {
    reservation.status.iter().flat_map(|s| &s.volumes).for_each(|entry| key((VOLUME_UID, &entry.uid)));
    for (name, _) in left_in(reservation) {
        key((LEFT, name));
        key((LEFT, ""));
    }
}

/// Name and UID of each volume whose data the reservation keeps.
pub fn left_in(reservation: &DiskReservation) -> impl Iterator<Item = (&str, &str)> {
    let entries = reservation.status.iter().flat_map(|status| &status.volumes);
    entries.filter(|entry| entry.kept.is_some()).map(|entry| (&*entry.name, &*entry.uid))
}

/// Name and UID of each volume whose data the disk has without an object. Data without a readable record has no name.
pub fn lost_on(disk: &NodeDisk) -> impl Iterator<Item = (&str, &str)> {
    orphans::lost(disk).filter(|orphan| !orphan.name.is_empty()).map(|orphan| (&*orphan.name, &*orphan.uid))
}

/// Calls `key` with each key of a disk.
pub fn disk_keys(disk: &NodeDisk, key: &mut dyn FnMut(Key)) {
    lost_on(disk).for_each(|(name, _)| key((LEFT, name)));
}

/// Calls `key` with each key of a claim.
pub fn claim_keys(claim: &VolumeClaim, key: &mut dyn FnMut(Key)) {
    let noted = noted(claim).map(|volume| &volume.name);
    noted.or(claim.spec.volume.as_ref()).into_iter().for_each(|name| key((VOLUME, name)));
    let ready = |s: &VolumeClaimStatus| condition::is_true(&s.conditions, READY);
    if noted.is_some() && !claim.status.as_ref().is_some_and(ready) {
        key((BINDING, &claim.namespace().unwrap_or_default()));
    }
    if is_waiting(claim) {
        let second = claim.creation_timestamp().map_or(0, |since| since.0.as_second());
        let queue = queue_of(claim.spec.volume.as_deref().unwrap_or_default());
        key((QUEUE, &format!("{queue}{second:020} {}", claim.uid().unwrap_or_default())));
    }
}

/// True if the claim waits for a volume.
pub fn is_waiting(claim: &VolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_none()
        && claim.status.as_ref().is_none_or(|s| s.phase == ClaimPhase::Pending)
}

/// Calls `key` with each key of an offer.
pub fn offer_keys(offer: &VolumeOffer, key: &mut dyn FnMut(Key)) {
    offer.owner_references().iter().for_each(|owner| key((OWNER, &owner.uid)));
    offer.spec.volumes.iter().for_each(|volume| key((VOLUME_UID, &volume.uid)));
}

/// Drops the fields of a Node that no decision reads.
pub fn trim_node(mut node: Node) -> Option<Node> {
    node.spec = node.spec.map(|spec| {
        let NodeSpec { taints, unschedulable, .. } = spec;
        NodeSpec { taints, unschedulable, ..Default::default() }
    });
    if let Some(status) = &mut node.status {
        *status = NodeStatus { conditions: status.conditions.take(), ..Default::default() };
    }
    Some(node)
}

/// Drops what no decision reads of the data without an object. A node's agent may write that part at any length (A7, A9).
pub fn trim_disk(mut disk: NodeDisk) -> Option<NodeDisk> {
    for orphan in disk.status.iter_mut().flat_map(|status| &mut status.orphans) {
        let outermost = orphan.reservations.pop();
        let reservations = outermost.map(|of| Reserved { labels: BTreeMap::new(), ..of });
        let role = orphan.spec["role"].as_str().filter(|role| role.len() <= 512);
        let spec = role.map_or(Value::Null, |role| json!({ "role": role }));
        *orphan = Orphan {
            uid: std::mem::take(&mut orphan.uid),
            size: orphan.size.clone(),
            name: std::mem::take(&mut orphan.name),
            made_for: orphan.made_for.take(),
            reservations: Vec::from_iter(reservations),
            kept: orphan.kept.take(),
            spec,
            ..Default::default()
        };
    }
    Some(disk)
}

/// Drops the metadata of a claim that no decision reads, since claims are many.
pub fn trim_claim(mut claim: VolumeClaim) -> Option<VolumeClaim> {
    let metadata = &mut claim.metadata;
    metadata.owner_references = None;
    let for_pvc = metadata.labels.take().and_then(|mut labels| labels.remove_entry(LABEL_PVC_UID));
    metadata.labels = for_pvc.map(|label| BTreeMap::from([label]));
    Some(claim)
}

/// Drops the metadata of a volume that no decision reads. The labels stay, since claims select by them.
pub fn trim_volume(mut volume: SharedPersistentVolume) -> Option<SharedPersistentVolume> {
    volume.metadata.owner_references = None;
    Some(volume)
}

impl Stores {
    /// True if the node has an agent that serves, or agents run without pods.
    pub fn has_agent(&self, node: &str) -> bool {
        let serves = |agents: &Arc<Cache<AgentPod>>| agents.by(NODE, node).iter().any(|agent| agent.ready);
        self.agents.as_ref().is_none_or(serves)
    }

    /// True if the disk of that name is `Ready`.
    pub fn disk_ready(&self, name: &str) -> bool {
        let disk = self.disks.get(name);
        disk.is_some_and(|d| d.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, READY)))
    }

    /// The UID and the last seen state of a PersistentVolumeClaim that the controller provisions.
    pub fn provisioned(&self, pvc: &str) -> Option<(String, SeenPvc)> {
        self.pvcs.provisioned(pvc, |name| self.classes.get(name).is_some_and(|class| class::is_ours(&class)))
    }

    /// The volumes of the role and of its ancestors, which the role may use (R3).
    pub fn volumes_for(&self, role: &str) -> Vec<Arc<SharedPersistentVolume>> {
        lineage(role).flat_map(|role| self.volumes.by(ROLE, role)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    /// A9: what an agent reports of lost data is bounded in the cache, and decides the same.
    #[test]
    fn a9_the_cache_of_disks_keeps_no_reports_of_lost_data() {
        let mut disk = testing::disk("n1.a", "n1", 100, &[]);
        let long = "x".repeat(10_000);
        let of = |name: &str| Reserved {
            name: name.into(),
            role: "eng".into(),
            labels: BTreeMap::from([(long.clone(), long.clone())]),
            ..Default::default()
        };
        let orphan = Orphan {
            uid: "uid".into(),
            size: testing::gi(3),
            problem: Some(long.clone()),
            name: "v".into(),
            made_for: Some("team/data".into()),
            labels: BTreeMap::from([(long.clone(), long.clone())]),
            reservations: vec![of("inner"), of("outer")],
            spec: json!({ "long": long, "role": "eng" }),
            kept: None,
        };
        disk.status.as_mut().unwrap().orphans = vec![orphan; 128];
        let kept = trim_disk(disk.clone()).unwrap();
        let outer = testing::reservation("outer", "eng", 1);
        assert_eq!(orphans::kept_for(&kept, &outer), (3 * 128) << 30);
        assert_eq!(orphans::count(&kept), 128);
        let (before, after) = (disk.status.unwrap(), kept.status.unwrap());
        assert_eq!(orphans::kept(&after, |_| true), orphans::kept(&before, |_| true));
        assert_eq!(after.orphans[0].name, "v");
        assert_eq!(after.orphans[0].made_for.as_deref(), Some("team/data"), "F5");
        assert_eq!(after.orphans[0].spec, json!({ "role": "eng" }), "X6");
        assert!(json!(after).to_string().len() < 32 << 10);
    }

    /// X6: the empty name is the key of kept data, for claims with a selector.
    #[test]
    fn x6_data_without_a_readable_record_has_no_key() {
        let mut disk = testing::disk("n1.a", "n1", 100, &[]);
        let orphan = |name: &str| Orphan { name: name.into(), ..Default::default() };
        disk.status.as_mut().unwrap().orphans = vec![orphan(""), orphan("v")];
        let mut keys = vec![];
        disk_keys(&disk, &mut |(kind, name)| keys.push((kind, name.to_owned())));
        assert_eq!(keys, [(LEFT, "v".to_owned())]);
    }
}
