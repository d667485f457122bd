//! Whole lives of volumes, and the writes of controller and agents in them.
//!
//! Pods are objects alone: a publish writes nothing to the API server. The agent and its volumes are real.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use reservoir::api::condition::{self, READY};
use reservoir::api::{DiskReservation, PVC_PREFIX, SharedPersistentVolume, VolumeClaim};
use reservoir::plan::pvc_provisioner::SELECTED_NODE;
use serde_json::{Value, json};

use super::{AGENT_AGENT, Cluster, Request, until, until_gone, until_reason};

/// The number of writes of Reservoir, by writer, kind of object and verb.
#[derive(Default)]
pub struct Tally(BTreeMap<String, usize>);

impl Tally {
    pub fn of(requests: &[Request]) -> Self {
        let mut tally = Self::default();
        for request in requests {
            let who = if request.user_agent == AGENT_AGENT { "agent" } else { "controller" };
            let refused = if request.code < 400 { String::new() } else { format!(" ({})", request.code) };
            let what = format!("{who} {} {}{refused}", request.verb, request.resource);
            *tally.0.entry(what).or_default() += 1;
        }
        tally
    }

    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// The lines of the tally, each with its number for one of so many lives.
    pub fn per_life(&self, lives: usize) -> Vec<(&str, f64)> {
        self.0.iter().map(|(what, requests)| (what.as_str(), *requests as f64 / lives as f64)).collect()
    }
}

/// The writes of controller and agents, without leases, events, and questions for the writer's own name. Everybody else
/// is a test, or a program of Kubernetes. A dry run counts.
pub fn own_writes(cluster: &Cluster) -> Vec<Request> {
    own(cluster.writes())
}

/// The reads of controller and agents.
pub fn own_reads(cluster: &Cluster) -> Vec<Request> {
    own(cluster.requests().into_iter().filter(|request| request.is_read).collect())
}

fn own(mut requests: Vec<Request>) -> Vec<Request> {
    requests.retain(|request| {
        let others = request.user_agent == "test" || request.user_agent.starts_with("kube-");
        !others && !["leases", "events", "selfsubjectreviews"].contains(&request.resource.as_str())
    });
    requests
}

/// The size of the volumes.
const SIZE: &str = "16Mi";
/// The namespace and the role of the lives.
const TEAM: &str = "team";

async fn namespace(cluster: &Cluster) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM}});
    cluster.apply_text(&namespace.to_string()).await;
}

async fn reserve(cluster: &Cluster, size: &str) {
    let reservation = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "DiskReservation",
        "metadata": {"name": TEAM}, "spec": {"role": TEAM, "size": size}});
    cluster.apply_text(&reservation.to_string()).await;
    until_reason(&cluster.all::<DiskReservation>(), TEAM, "Ready").await;
}

/// Whatever lives need besides their own objects: a reservation, a StorageClass and its grant.
pub async fn prepare_class(cluster: &Cluster) {
    namespace(cluster).await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": TEAM},
        "provisioner": "csi.reservoir.dev", "parameters": {"role": TEAM},
        "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete"});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": TEAM}, "rules": [{"apiGroups": ["reservoir.dev"], "resources": ["volumeroles"],
            "resourceNames": [TEAM], "verbs": ["create", "use"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": TEAM},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": TEAM},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group",
            "name": format!("system:serviceaccounts:{TEAM}")}]});
    for object in [class, role, binding] {
        cluster.apply_text(&object.to_string()).await;
    }
    reserve(cluster, "2Gi").await;
}

/// Whatever lives by VolumeClaim need besides their own objects: a subscription.
pub async fn prepare_claims(cluster: &Cluster) {
    namespace(cluster).await;
    let subscription = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "RoleSubscription",
        "metadata": {"name": TEAM, "namespace": TEAM},
        "spec": {"roles": [TEAM], "capabilities": ["SHARED_RESOURCES"]}});
    cluster.apply_text(&subscription.to_string()).await;
    until_reason(&cluster.within::<reservoir::api::RoleSubscription>(TEAM), TEAM, "Subscribed").await;
}

/// So many PersistentVolumeClaims of the class, each with a pod, from their creation until their volumes are erased. `step`
/// is called after each step.
pub async fn class_lives(cluster: &Cluster, count: usize, mut step: impl AsyncFnMut(&'static str)) {
    let pvcs: Api<PersistentVolumeClaim> = cluster.within(TEAM);
    let names: Vec<String> = (0..count).map(|i| format!("data-{i}")).collect();
    let make = async |name: &String| {
        let pvc = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": TEAM}, "spec": {"storageClassName": TEAM,
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": SIZE}}}});
        cluster.apply_text(&pvc.to_string()).await;
        cluster.pod(TEAM, name, &[name]).await;
        // The scheduler's part.
        let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}});
        pvcs.patch(name, &PatchParams::default(), &Patch::Merge(&selected)).await.unwrap();
    };
    join_all(names.iter().map(make)).await;
    until("the PersistentVolumeClaims are bound", || async {
        let all = pvcs.list(&ListParams::default()).await.unwrap();
        let bound =
            all.iter().filter(|pvc| pvc.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound")));
        (bound.count() == count).then_some(())
    })
    .await;
    until_used(cluster, count, 1).await;
    step("made, bound and used").await;
    let end = async |name: &String| {
        cluster.end_pod(TEAM, name).await;
        pvcs.delete(name, &DeleteParams::default()).await.unwrap();
    };
    join_all(names.iter().map(end)).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("the volumes are gone", || async {
        let all = volumes.list(&ListParams::default()).await.unwrap();
        all.iter().all(|v| !v.metadata.name.iter().any(|name| name.starts_with(PVC_PREFIX))).then_some(())
    })
    .await;
    step("ended and erased").await;
}

/// The order of a life by VolumeClaim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Each step waits for the one before.
    OneByOne,
    /// Claim and pods wait for their volume, as with one manifest for all of them. Later pods and claim are deleted together.
    Together,
}

/// So many volumes in one reservation, each with a VolumeClaim and two pods, from the reservation's creation to its end.
/// `step` is called after each step.
pub async fn claim_lives(
    cluster: &Cluster,
    count: usize,
    order: Order,
    mut step: impl AsyncFnMut(&'static str),
) {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within(TEAM);
    let pods: Api<Pod> = cluster.within(TEAM);
    let (now, all) = (DeleteParams::default(), ListParams::default());
    let names: Vec<String> = (0..count).map(|i| format!("v{i}")).collect();
    let object = |kind: &str, namespace: Option<&str>, name: &str, spec: Value| {
        json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace}, "spec": spec})
    };
    reserve(cluster, &format!("{}Mi", 16 * count)).await;
    step("reserve").await;
    let create = async |name: &String| {
        let spec = json!({"role": TEAM, "size": SIZE, "shared": {}});
        cluster.apply_text(&object("SharedPersistentVolume", None, name, spec).to_string()).await;
    };
    let claim = async |name: &String| {
        let spec = json!({"role": TEAM, "volume": name});
        cluster.apply_text(&object("VolumeClaim", Some(TEAM), name, spec).to_string()).await;
    };
    let start = async |name: &String| {
        for number in 0..2 {
            cluster.pod(TEAM, &format!("{name}-{number}"), &[name]).await;
        }
    };
    let make = async |name: &String| {
        if order == Order::Together {
            claim(name).await;
            start(name).await;
        }
        create(name).await;
    };
    join_all(names.iter().map(make)).await;
    until("the volumes are ready", || async {
        let found = volumes.list(&all).await.unwrap();
        let ready = |v: &&SharedPersistentVolume| {
            condition::is_true(v.status.as_ref().map_or(&[], |s| &s.conditions), READY)
        };
        (found.iter().filter(ready).count() == count).then_some(())
    })
    .await;
    step("create").await;
    if order == Order::OneByOne {
        join_all(names.iter().map(claim)).await;
    }
    until("the claims are bound", || async {
        let found = claims.list(&all).await.unwrap();
        let bound =
            |c: &&VolumeClaim| condition::is_true(c.status.as_ref().map_or(&[], |s| &s.conditions), READY);
        (found.iter().filter(bound).count() == count).then_some(())
    })
    .await;
    step("claim").await;
    if order == Order::OneByOne {
        join_all(names.iter().map(start)).await;
    }
    until_used(cluster, count, 2).await;
    step("two pods").await;
    for pod in pods.list(&all).await.unwrap() {
        cluster.end_pod(TEAM, &pod.metadata.name.unwrap()).await;
    }
    if order == Order::OneByOne {
        until_used(cluster, count, 0).await;
    }
    step("the pods end").await;
    join_all(names.iter().map(async |name| drop(claims.delete(name, &now).await.unwrap()))).await;
    join_all(names.iter().map(|name| until_gone(&claims, name))).await;
    step("unclaim").await;
    join_all(names.iter().map(async |name| drop(volumes.delete(name, &now).await.unwrap()))).await;
    join_all(names.iter().map(|name| until_gone(&volumes, name))).await;
    step("destroy").await;
    cluster.all::<DiskReservation>().delete(TEAM, &now).await.unwrap();
    until_gone(&cluster.all::<DiskReservation>(), TEAM).await;
    step("unreserve").await;
}

/// Waits until so many volumes have so many users each.
async fn until_used(cluster: &Cluster, count: usize, users: u32) {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("the pods are counted", || async {
        let all = volumes.list(&ListParams::default()).await.unwrap();
        let used = all.iter().filter(|v| v.status.as_ref().is_some_and(|s| s.user_count == users));
        (used.count() == count).then_some(())
    })
    .await;
}
