//! The rest of Kubernetes, as far as volumes go: the PersistentVolume controller, the protection of volumes in use, the
//! garbage collector, the scheduler and the kubelets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use reservoir::api::{PodRef, TOPOLOGY_NODE};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::agent::{Agent, Publish};
use crate::classes;
use crate::host;
use crate::server::{Object, Request, Server, Shared, is_being_deleted, lock};

/// The namespace of controllers and agents.
pub const AGENTS: &str = "reservoir-system";
const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
const PV_PROTECTION: &str = "kubernetes.io/pv-protection";

/// A request that changes an object.
pub fn patch(plural: &'static str, object: &Value, subresource: &str, body: Value) -> Request {
    Request {
        method: "PATCH".into(),
        plural,
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
        subresource: subresource.into(),
        content_type: "application/merge-patch+json".into(),
        body,
        ..Default::default()
    }
}

pub fn delete(plural: &'static str, namespace: &str, name: &str, body: Value) -> Request {
    Request {
        method: "DELETE".into(),
        plural,
        namespace: namespace.into(),
        name: name.into(),
        body,
        ..Default::default()
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_users(pod: &Value) -> bool {
    pod["metadata"]["namespace"] != AGENTS
}

/// The pods of users, and not those of the agents.
pub fn pods(server: &Server) -> Vec<Arc<Object>> {
    objects(server, "pods").into_iter().filter(|pod| is_users(pod)).collect()
}

pub fn objects(server: &Server, plural: &'static str) -> Vec<Arc<Object>> {
    server.store.list(plural, "").map(|(_, object)| object.clone()).collect()
}

pub fn get(server: &Server, plural: &'static str, namespace: &str, name: &str) -> Option<Arc<Object>> {
    server.store.get(&(plural, namespace.to_owned(), name.to_owned())).map(|stored| stored.object.clone())
}

fn is_terminal(pod: &Value) -> bool {
    ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase)
}

pub fn claims_of(pod: &Value) -> Vec<(String, bool)> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let claim = |volume: &Value| {
        let claim = &volume["persistentVolumeClaim"];
        claim["claimName"].as_str().map(|name| (name.to_owned(), claim["readOnly"] == true))
    };
    volumes.filter_map(claim).collect()
}

/// Without one finalizer.
fn finalizers_without(object: &Value, finalizer: &str) -> Option<Value> {
    let finalizers = object["metadata"]["finalizers"].as_array()?;
    let rest: Vec<&Value> = finalizers.iter().filter(|other| *other != finalizer).collect();
    (rest.len() < finalizers.len())
        .then(|| json!({"metadata": {"finalizers": rest, "resourceVersion": object["metadata"]["resourceVersion"]}}))
}

/// The kinds on whose objects the waiting work depends.
pub const DUE_BY: [&str; 8] = [
    "csistoragecapacities",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "rolesubscriptions",
    "volumeclaims",
    "volumeoffers",
];

/// The work that waits for kube-controller-manager and kube-scheduler.
pub fn due(server: &Server) -> Vec<Request> {
    let (pvs, pvcs, pods) =
        (objects(server, "persistentvolumes"), objects(server, "persistentvolumeclaims"), pods(server));
    let mut due = Vec::new();
    for pvc in &pvcs {
        due.extend(due_for_pvc(server, pvc, &pods));
        due.extend(classes::due_for_pvc(server, pvc));
    }
    for pv in &pvs {
        due.extend(due_for_pv(server, pv));
    }
    for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"].is_null() && !is_being_deleted(pod)) {
        due.extend(
            node_for(server, pod).map(|node| patch("pods", pod, "", json!({"spec": {"nodeName": node}}))),
        );
        due.extend(classes::due_for_pod(server, pod));
    }
    // The garbage collector of pods whose Node is gone.
    for pod in &pods {
        let node = pod["spec"]["nodeName"].as_str();
        if node.is_some_and(|node| get(server, "nodes", "", node).is_none()) {
            let same = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}});
            let metadata = &pod["metadata"];
            due.push(delete("pods", &text(&metadata["namespace"]), &text(&metadata["name"]), same));
        }
    }
    for (plural, owners) in
        [("persistentvolumeclaims", "volumeclaims"), ("volumeoffers", "rolesubscriptions")]
    {
        for object in objects(server, plural).iter().filter(|object| !is_being_deleted(object)) {
            let owner = &object["metadata"]["ownerReferences"][0];
            let namespace = text(&object["metadata"]["namespace"]);
            let there = get(server, owners, &namespace, &text(&owner["name"]));
            if owner.is_object() && there.is_none_or(|there| there["metadata"]["uid"] != owner["uid"]) {
                let same = json!({"preconditions": {"uid": object["metadata"]["uid"]}});
                due.push(delete(plural, &namespace, &text(&object["metadata"]["name"]), same));
            }
        }
    }
    due
}

fn due_for_pvc(server: &Server, pvc: &Value, pods: &[Arc<Object>]) -> Option<Request> {
    let (namespace, name) = (&pvc["metadata"]["namespace"], text(&pvc["metadata"]["name"]));
    let pv = get(server, "persistentvolumes", "", &text(&pvc["spec"]["volumeName"]));
    if pv.is_none() && pvc["status"]["phase"] == "Bound" {
        let lost = json!({"status": {"phase": "Lost"}});
        return Some(patch("persistentvolumeclaims", pvc, "status", lost));
    }
    if is_being_deleted(pvc) {
        // It protects the claim of a pod on a node, also of one that has ended.
        let uses = |pod: &Arc<Object>| {
            pod["metadata"]["namespace"] == *namespace
                && pod["spec"]["nodeName"].is_string()
                && claims_of(pod).iter().any(|(claim, _)| *claim == name)
        };
        if pods.iter().any(uses) {
            return None;
        }
        return finalizers_without(pvc, PVC_PROTECTION)
            .map(|body| patch("persistentvolumeclaims", pvc, "", body));
    }
    let pv = pv?;
    let bound = pv["spec"]["claimRef"]["uid"] == pvc["metadata"]["uid"];
    let is_pending = pvc["status"]["phase"] != "Bound";
    (bound && is_pending).then(|| {
        let status = json!({"phase": "Bound", "capacity": pv["spec"]["capacity"], "accessModes": pv["spec"]["accessModes"]});
        patch("persistentvolumeclaims", pvc, "status", json!({"status": status}))
    })
}

fn due_for_pv(server: &Server, pv: &Value) -> Option<Request> {
    let reference = &pv["spec"]["claimRef"];
    let pvc =
        get(server, "persistentvolumeclaims", &text(&reference["namespace"]), &text(&reference["name"]));
    let phase = |phase: &str| patch("persistentvolumes", pv, "status", json!({"status": {"phase": phase}}));
    let is_phase = |phase: &str| pv["status"]["phase"] == phase;
    if reference["uid"].is_string() {
        let same = pvc.filter(|pvc| pvc["metadata"]["uid"] == reference["uid"]);
        // One whose claim does not name it yet is not bound, and nothing protects it.
        let is_named = same.as_ref().map(|pvc| pvc["spec"]["volumeName"] == pv["metadata"]["name"]);
        if is_being_deleted(pv) && is_named != Some(true) {
            return finalizers_without(pv, PV_PROTECTION)
                .map(|body| patch("persistentvolumes", pv, "", body));
        }
        return match is_named {
            Some(true) => (!is_phase("Bound")).then(|| phase("Bound")),
            Some(false) => None,
            None => (!is_phase("Released")).then(|| phase("Released")),
        };
    }
    if is_being_deleted(pv) {
        return finalizers_without(pv, PV_PROTECTION).map(|body| patch("persistentvolumes", pv, "", body));
    }
    // One that was bound to an earlier PersistentVolume comes back to none without its UID.
    let pvc = pvc.filter(|pvc| {
        pvc["spec"]["volumeName"] == pv["metadata"]["name"]
            && !is_being_deleted(pvc)
            && pvc["status"]["phase"] != "Lost"
    })?;
    let body = json!({
        "metadata": {"resourceVersion": pv["metadata"]["resourceVersion"]},
        "spec": {"claimRef": {"uid": pvc["metadata"]["uid"]}},
    });
    Some(patch("persistentvolumes", pv, "", body))
}

/// The PersistentVolume that a pod's claim is bound to.
fn bound_pv(server: &Server, namespace: &str, claim: &str) -> Option<Arc<Object>> {
    pv_of(server, &*get(server, "persistentvolumeclaims", namespace, claim)?)
}

fn pv_of(server: &Server, pvc: &Value) -> Option<Arc<Object>> {
    let pv = get(server, "persistentvolumes", "", &text(&pvc["spec"]["volumeName"]))?;
    let is_bound =
        pvc["status"]["phase"] == "Bound" && pv["spec"]["claimRef"]["uid"] == pvc["metadata"]["uid"];
    is_bound.then_some(pv)
}

/// The nodes to which a claim leads that is bound, and that is not being deleted.
pub fn nodes_of_bound(server: &Server, pvc: &Value) -> Option<Vec<String>> {
    let pv = pv_of(server, pvc).filter(|_| !is_being_deleted(pvc))?;
    let nodes = objects(server, "nodes").into_iter().filter(|node| admits(&pv, node));
    Some(nodes.map(|node| text(&node["metadata"]["name"])).collect())
}

/// True if the affinity of a PersistentVolume admits a node.
fn admits(pv: &Value, node: &Value) -> bool {
    let label = |key: &str| match key {
        TOPOLOGY_NODE => node["metadata"]["name"].as_str(),
        _ => node["metadata"]["labels"][key].as_str(),
    };
    let holds = |of: &Value| {
        let has = label(of["key"].as_str().unwrap_or_default());
        let is_among = of["values"].as_array().into_iter().flatten().any(|value| value.as_str() == has);
        is_among == (of["operator"] == "In")
    };
    let terms = pv["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array();
    let mut terms = terms.into_iter().flatten().map(|term| term["matchExpressions"].as_array());
    terms.any(|all| all.into_iter().flatten().all(holds))
}

/// A node to which all claims of the pod lead, and its own selector. One without trouble comes first.
fn node_for(server: &Server, pod: &Value) -> Option<String> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let nodes = |(claim, _): &(String, bool)| {
        nodes_of_bound(server, &*get(server, "persistentvolumeclaims", &namespace, claim)?)
    };
    let led_to: Vec<Vec<String>> = claims_of(pod).iter().map(nodes).collect::<Option<_>>()?;
    let (first, others) = led_to.split_first()?;
    let is_selected = |node: &Value| {
        let mut wanted = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
        wanted.all(|(key, value)| node["metadata"]["labels"][key] == *value)
    };
    let found = first.iter().filter(|node| others.iter().all(|led_to| led_to.contains(node)));
    let found = found.filter_map(|node| get(server, "nodes", "", node)).filter(|node| is_selected(node));
    let (fine, others): (Vec<_>, Vec<_>) = found.partition(|node| {
        node["spec"]["unschedulable"] != true && node["status"]["conditions"][0]["status"] == "True"
    });
    let found = if fine.is_empty() { others } else { fine };
    // Which one is chosen depends on CPU and memory, of which nothing is known here.
    let node = found.get(server.store.version as usize % found.len().max(1))?;
    Some(text(&node["metadata"]["name"]))
}

/// The longest pause of a kubelet before it tries again to mount the volumes of a pod.
const LONGEST_PAUSE: Duration = Duration::from_secs(122);

/// The pods whose volumes could not be mounted, by UID: how often in a row, and until when they wait.
type Failed = BTreeMap<String, (u32, Instant)>;

/// A kubelet, until it is dropped.
pub async fn kubelet(agent: Agent) {
    let mut failed = Failed::new();
    loop {
        let pause = lock(&agent.server).random.below(1500);
        tokio::time::sleep(Duration::from_millis(200 + pause)).await;
        sync(&agent, &mut failed).await;
    }
}

async fn sync(agent: &Agent, failed: &mut Failed) {
    let pods: Vec<Arc<Object>> = {
        let server = lock(&agent.server);
        let all = server.store.list("pods", "").map(|(_, pod)| pod);
        let mine = all.filter(|pod| pod["spec"]["nodeName"] == *agent.node && is_users(pod));
        mine.cloned().collect()
    };
    // The mounts of pods that are gone, were replaced or have ended.
    let is_over = |uid: &str| {
        pods.iter()
            .find(|pod| pod["metadata"]["uid"] == *uid)
            .is_none_or(|pod| is_being_deleted(pod) || is_terminal(pod))
    };
    {
        let mut server = lock(&agent.server);
        let mut hosts = host::lock(&agent.hosts);
        let host = hosts.entry(agent.node.clone()).or_default();
        let targets: Vec<String> = host
            .mounts
            .iter()
            .filter(|(_, mount)| is_over(&mount.pod.uid))
            .map(|(target, _)| target.clone())
            .collect();
        for target in targets.iter().filter(|_| host.has_agent) {
            host.mounts.remove(target);
            server.tell(|| format!("kubelet {}: unmounts {target}", agent.node));
        }
        host.write(&mut server.random);
    }
    for pod in &pods {
        let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let uid = text(&pod["metadata"]["uid"]);
        if is_being_deleted(pod) {
            let hosts = host::lock(&agent.hosts);
            let is_mounted =
                hosts.get(&agent.node).is_some_and(|host| host.mounts.values().any(|m| m.pod.uid == uid));
            drop(hosts);
            if !is_mounted {
                let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
                lock(&agent.server).answer(&agent.node, &delete("pods", &namespace, &name, now));
            }
        } else if pod["status"]["phase"] == "Running" {
            // The mounts are gone after a power cut.
            let mounted = |host: &host::Host| host.mounts.values().filter(|m| m.pod.uid == uid).count();
            let mounted = host::lock(&agent.hosts).get(&agent.node).map_or(0, mounted);
            if mounted < claims_of(pod).iter().collect::<BTreeSet<_>>().len() {
                try_to_start(agent, pod, failed).await;
            }
        } else if pod["status"]["phase"] == "Pending" && try_to_start(agent, pod, failed).await {
            let running = json!({"metadata": {"uid": uid}, "status": {"phase": "Running"}});
            lock(&agent.server).answer(&agent.node, &patch("pods", pod, "status", running));
        }
    }
}

/// Same as [`start`]. After each failure in a row the next try waits twice as long.
async fn try_to_start(agent: &Agent, pod: &Value, failed: &mut Failed) -> bool {
    let uid = text(&pod["metadata"]["uid"]);
    let (times, until) = failed.get(&uid).copied().unwrap_or((0, Instant::now()));
    if until > Instant::now() {
        return false;
    }
    let is_started = start(agent, pod).await;
    match is_started {
        true => drop(failed.remove(&uid)),
        false => {
            let pause = Duration::from_millis(500 << times.min(8)).min(LONGEST_PAUSE);
            failed.insert(uid, (times + 1, Instant::now() + pause));
        }
    }
    is_started
}

/// Mounts the volumes of a pod; true if all are mounted.
async fn start(agent: &Agent, pod: &Value) -> bool {
    let (namespace, uid) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["uid"]));
    for (claim, read_only) in claims_of(pod) {
        let Some(pv) = bound_pv(&lock(&agent.server), &namespace, &claim) else { return false };
        let csi = &pv["spec"]["csi"];
        let (handle, volume) = (text(&csi["volumeHandle"]), text(&csi["volumeAttributes"]["volume"]));
        let pod =
            PodRef { namespace: namespace.clone(), name: text(&pod["metadata"]["name"]), uid: uid.clone() };
        let target = format!("{uid}/{claim}");
        let block = pv["spec"]["volumeMode"] == "Block";
        let several_pods = pv["spec"]["accessModes"] != json!(["ReadWriteOncePod"]);
        let asked = Publish {
            pod,
            volume: &volume,
            handle: &handle,
            target: &target,
            read_only,
            several_pods,
            block,
        };
        if let Err(why) = agent.publish(asked).await {
            let mut server = lock(&agent.server);
            server.tell(|| format!("kubelet {}: mounting {volume} failed: {why}", agent.node));
            return false;
        }
    }
    true
}

/// One piece of work of Kubernetes; false if nothing changed.
pub fn turn(server: &Shared) -> bool {
    let server = &mut *lock(server);
    let before = server.store.version;
    let due = server.due.take().unwrap_or_else(|| due(server));
    let picked = server.random.pick(&due).cloned();
    server.due = Some(due);
    let Some(request) = picked else { return false };
    server.answer("kubernetes", &request);
    server.store.version > before
}
