//! Running and pending pods, and the PersistentVolumeClaims that they use. Pods are many and large, so the cache reads
//! and keeps nothing else of a pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodCondition};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, CacheConfig, Change, Name, name_of};
use crate::api::PodRef;

/// The fields of a pod that name its PersistentVolumeClaims.
#[derive(Clone, Debug, Resource, Serialize, Deserialize)]
#[resource(inherit = Pod)]
pub struct UsedPod {
    metadata: ObjectMeta,
    spec: Option<PodVolumes>,
    status: Option<PodPhase>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodVolumes {
    volumes: Option<Vec<PodVolume>>,
    node_name: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodVolume {
    name: String,
    persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    ephemeral: Option<Ephemeral>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ephemeral {}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PodPhase {
    phase: Option<String>,
    conditions: Option<Vec<PodCondition>>,
}

impl From<&Pod> for UsedPod {
    fn from(pod: &Pod) -> Self {
        let volumes =
            pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).map(|volume| PodVolume {
                name: volume.name.clone(),
                persistent_volume_claim: volume.persistent_volume_claim.clone(),
                ephemeral: volume.ephemeral.as_ref().map(|_| Ephemeral {}),
            });
        Self {
            metadata: pod.metadata.clone(),
            spec: Some(PodVolumes {
                volumes: Some(volumes.collect()),
                node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            }),
            status: pod.status.as_ref().map(|status| PodPhase {
                phase: status.phase.clone(),
                conditions: status.conditions.clone(),
            }),
        }
    }
}

impl UsedPod {
    /// The pod by namespace, name and UID.
    pub fn pod_ref(&self) -> PodRef {
        PodRef {
            namespace: self.namespace().unwrap_or_default(),
            name: self.name_any(),
            uid: self.uid().unwrap_or_default(),
        }
    }

    /// True if the pod has ended for good, and uses no volume any more.
    pub fn has_ended(&self) -> bool {
        self.status.as_ref().is_some_and(|status| has_ended(status.phase.as_deref()))
    }

    /// True if the pod has ended and nobody has deleted it: Kubernetes keeps its PersistentVolumeClaims until somebody does.
    pub fn is_left(&self) -> bool {
        self.has_ended() && self.metadata.deletion_timestamp.is_none()
    }

    /// The node of the pod, if it has one.
    pub fn node(&self) -> Option<&str> {
        self.spec.as_ref()?.node_name.as_deref()
    }

    /// True if the scheduler has placed the pod nowhere, and found too little storage capacity on some node (P2).
    fn lacks_storage(&self) -> bool {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(lacks_storage)
    }

    /// The PersistentVolumeClaims that the pod names, as (namespace, name). Kubernetes makes a claim for each ephemeral
    /// volume, and names the claim after pod and volume; the list includes these claims.
    pub fn claims(&self) -> Vec<(String, String)> {
        let namespace = self.namespace().unwrap_or_default();
        let volumes = self.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let claims = volumes.filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", self.name_any(), v.name)),
            (None, None) => None,
        });
        claims.map(|name| (namespace.clone(), name)).collect()
    }
}

/// True for the phase of a pod that has ended for good.
pub fn has_ended(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// True for the scheduler's condition of a pod for which a node has too little storage capacity, among the causes. Kubernetes
/// has no other field for that (1.36, `ErrReasonNotEnoughSpace` of the plug-in VolumeBinding).
pub fn lacks_storage(condition: &PodCondition) -> bool {
    let said = condition.message.as_deref().unwrap_or_default();
    condition.type_ == "PodScheduled" && condition.status == "False" && said.contains("enough free storage")
}

/// The pod of a reference, as the object of an event.
pub fn pod_of(pod: &PodRef) -> Pod {
    let PodRef { namespace, name, uid } = pod.clone();
    let (namespace, name, uid) = (Some(namespace), Some(name), Some(uid));
    Pod { metadata: ObjectMeta { namespace, name, uid, ..ObjectMeta::default() }, ..Pod::default() }
}

/// See [`UsedPod::pod_ref`].
pub fn pod_ref(pod: &Pod) -> PodRef {
    UsedPod::from(pod).pod_ref()
}

/// See [`UsedPod::has_ended`].
pub fn is_terminal(pod: &Pod) -> bool {
    UsedPod::from(pod).has_ended()
}

/// See [`UsedPod::claims`].
pub fn claims_of(pod: &Pod) -> Vec<(String, String)> {
    UsedPod::from(pod).claims()
}

/// A running or pending pod that uses PersistentVolumeClaims.
#[derive(Clone, PartialEq)]
pub struct PodUse {
    uid: Box<str>,
    node: Option<Box<str>>,
    lacks_storage: bool,
    /// PersistentVolumeClaims of the pod's own namespace.
    claims: Box<[Name]>,
}

/// The index of [`PodUse`] by PersistentVolumeClaim.
const CLAIM: &str = "claim";

impl PodUse {
    /// Keeps the pods that count as users of a volume (X1).
    pub fn config() -> CacheConfig<UsedPod, Self> {
        CacheConfig {
            keep: Self::of,
            keys: |pod, key| pod.claims.iter().for_each(|claim| key((CLAIM, claim))),
        }
    }

    fn of(pod: UsedPod) -> Option<Self> {
        let mut claims: Vec<Name> = pod.claims().iter().map(|(ns, name)| name_of(ns, name)).collect();
        claims.sort();
        claims.dedup();
        let uses = !pod.has_ended() && !claims.is_empty();
        let node: Option<Box<str>> = pod.node().map(Into::into);
        let lacks_storage = node.is_none() && pod.lacks_storage();
        let uid = pod.uid().unwrap_or_default().into();
        uses.then(|| Self { uid, node, lacks_storage, claims: claims.into() })
    }

    /// The nodes of the pod before and after a change.
    pub fn nodes<'a>(change: &Change<'a, Self>) -> Vec<&'a str> {
        [change.before, change.now].into_iter().flatten().filter_map(|pod| pod.node.as_deref()).collect()
    }

    /// The PersistentVolumeClaims whose users may have changed.
    pub fn concerned<'a>(change: Change<'a, Self>) -> impl Iterator<Item = &'a Name> {
        let states = [change.before, change.now].into_iter().flatten();
        states.filter(move |_| change.before != change.now).flat_map(|pod| &pod.claims)
    }
}

impl Cache<PodUse> {
    /// The PersistentVolumeClaims that every user of the PersistentVolumeClaim `name` uses as well.
    pub fn mates(&self, namespace: &str, name: &str) -> Vec<Name> {
        let own = name_of(namespace, name);
        let mut users = self.names_by(CLAIM, &own).into_iter().filter_map(|user| self.get(&user));
        let mut mates = users.next().map(|user| user.claims.to_vec()).unwrap_or_default();
        users.for_each(|user| mates.retain(|mate| user.claims.contains(mate)));
        mates.retain(|mate| *mate != own);
        mates
    }

    /// The pods that use the PersistentVolumeClaim `name`, by name.
    pub fn users(&self, namespace: &str, name: &str) -> Vec<PodRef> {
        self.users_with_node(namespace, name).into_iter().map(|(pod, _)| pod).collect()
    }

    /// The first of these pods that the scheduler has placed nowhere for want of storage capacity on some node.
    pub fn without_storage(&self, namespace: &str, name: &str) -> Option<String> {
        let users = self.names_by(CLAIM, &name_of(namespace, name));
        let lacks = |user: &&Name| self.get(user).is_some_and(|pod| pod.lacks_storage);
        users.iter().find(lacks)?.split_once('/').map(|(_, pod)| pod.to_owned())
    }

    /// The same pods, each with true if it has a node: for the others a scheduler still looks for one.
    pub fn users_with_node(&self, namespace: &str, name: &str) -> Vec<(PodRef, bool)> {
        let users = self.using(namespace, name).into_iter();
        users.map(|(pod, seen)| (pod, seen.node.is_some())).collect()
    }

    /// Those of these pods that are on a node.
    pub fn users_on(&self, node: &str, namespace: &str, name: &str) -> Vec<PodRef> {
        let users = self.using(namespace, name).into_iter();
        users.filter(|(_, seen)| seen.node.as_deref() == Some(node)).map(|(pod, _)| pod).collect()
    }

    fn using(&self, namespace: &str, name: &str) -> Vec<(PodRef, Arc<PodUse>)> {
        let user = |user: &Name| {
            let (pod, (_, name)) = (self.get(user)?, user.split_once('/')?);
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Some((PodRef { namespace, name, uid: pod.uid.to_string() }, pod))
        };
        self.names_by(CLAIM, &name_of(namespace, name)).iter().filter_map(user).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use kube::runtime::watcher::Event;

    use super::super::cache::Follower;
    use super::*;
    use serde_json::{Value, from_value, json};

    /// X1, Q4.
    #[test]
    fn a_pod_uses_the_claims_of_its_ephemeral_volumes_too() {
        let volumes = json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "c", "emptyDir": {}},
        ]);
        let pod: Pod = from_value(json!({"metadata": {"namespace": "team", "name": "p"},
            "spec": {"containers": [], "volumes": volumes}}))
        .unwrap();
        assert_eq!(
            UsedPod::from(&pod).claims(),
            [("team".into(), "data".into()), ("team".into(), "p-b".into())]
        );
    }

    /// F3: a pod that is being deleted needs no second deletion.
    #[test]
    fn f3_an_ended_pod_is_left_until_it_is_deleted() {
        let mut ended = pod("p", "u", &["data"], "Succeeded");
        assert!(ended.is_left() && !pod("p", "u", &["data"], "Running").is_left());
        let now = jiff::Timestamp::UNIX_EPOCH;
        ended.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        assert!(!ended.is_left() && ended.has_ended());
    }

    fn pod(name: &str, uid: &str, claims: &[&str], phase: &str) -> UsedPod {
        let volume = |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
        let volumes: Vec<Value> = claims.iter().map(volume).collect();
        from_value(json!({"metadata": {"namespace": "team", "name": name, "uid": uid},
            "spec": {"containers": [], "volumes": volumes}, "status": {"phase": phase}}))
        .unwrap()
    }

    /// X1, Q4.
    #[test]
    fn a_pod_uses_its_claims_until_it_ends_or_is_gone() {
        let concerned = RefCell::new(vec![]);
        let (cache, mut follower) = Follower::new(PodUse::config(), |change| {
            concerned.borrow_mut().extend(PodUse::concerned(change).map(|claim| claim.to_string()));
        });
        let users = |claim: &str| {
            let users = cache.users("team", claim).into_iter();
            users.map(|pod| pod.to_string() + " " + &pod.uid).collect::<Vec<_>>()
        };
        let mut see = |event| {
            follower.follow(event);
            concerned.take()
        };
        let none: [&str; 0] = [];
        assert_eq!((see(Event::Init), see(Event::InitDone)), (vec![], vec![]));
        assert_eq!(see(Event::Apply(pod("q", "2", &["a", "a"], "Pending"))), ["team/a"]);
        assert_eq!(see(Event::Apply(pod("p", "1", &["a", "b"], "Pending"))), ["team/a", "team/b"]);
        assert_eq!(see(Event::Apply(pod("p", "1", &["a", "b"], "Running"))), none, "nothing is new");
        assert_eq!(users("a"), ["team/p 1", "team/q 2"]);
        let mates =
            |claim: &str| cache.mates("team", claim).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((mates("a"), mates("b"), mates("c")), (vec![], vec!["team/a".to_owned()], vec![]));
        let mut short = pod("q", "2", &["a"], "Pending");
        let said = "0/2 nodes are available: 1 node(s) did not have enough free storage.";
        let scheduled = json!({"type": "PodScheduled", "status": "False", "message": said});
        short.status.as_mut().unwrap().conditions = from_value(json!([scheduled])).unwrap();
        assert_eq!(cache.without_storage("team", "a"), None);
        assert_eq!(see(Event::Apply(short)), ["team/a", "team/a"], "P2");
        assert_eq!(cache.without_storage("team", "a").as_deref(), Some("q"));
        assert_eq!(cache.without_storage("team", "b"), None);
        assert_eq!(cache.users("other", "a"), []);
        assert_eq!(see(Event::Apply(pod("q", "2", &["a"], "Succeeded"))), ["team/a"]);
        assert_eq!(see(Event::Delete(pod("q", "2", &["a"], "Succeeded"))), none);
        assert_eq!((users("a"), users("b")), (vec!["team/p 1".into()], vec!["team/p 1".to_owned()]));
        // After a gap in the watch, another pod has the same name.
        let listed = [Event::Init, Event::InitApply(pod("p", "3", &["b"], "Running")), Event::InitDone];
        assert_eq!(listed.map(&mut see).concat(), ["team/a", "team/b", "team/b"]);
        assert_eq!((users("a"), users("b")), (vec![], vec!["team/p 3".to_owned()]));
        assert_eq!(see(Event::Delete(pod("p", "3", &["b"], "Running"))), ["team/b"]);
        assert!(cache.names().is_empty());
    }
}
