//! Tests of the answers about the nodes on which a pod can run.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::condition::{self, READY, Verdict};
use crate::api::{CopyOf, NodeDisk};
use crate::plan::testing::*;
use crate::plugin::kind::{DISK, POD, PVC, RESERVATION, VOLUME};
use crate::plugin::snapshot::{Denied, Snapshot};
use crate::plugin::why::testing::*;

/// A class of role `ops`, whose volumes are made on the nodes of their pods.
fn class_of_ops() -> Value {
    json!({"metadata": {"name": "ops"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "ops"},
        "volumeBindingMode": "WaitForFirstConsumer"})
}

/// A pod that no scheduler has placed, with claim `data`.
fn unplaced(said: &str) -> Pod {
    let mut pod = pod_of("data", "Pending");
    pod.status.as_mut().unwrap().conditions =
        from(json!([{"type": "PodScheduled", "status": "False", "message": said}]));
    pod
}

/// Claim `data` is bound to volume `v` on node n1.
fn on_n1(pod: Pod) -> Snapshot {
    let mut own = bound("data", "v");
    own.status.as_mut().unwrap().node_name = Some("n1".into());
    Snapshot {
        claims: vec![own],
        volumes: vec![ready_volume("v", "eng", true)],
        disks: ["n1", "n2"].map(|node| free(&format!("{node}.a"), node)).to_vec(),
        pods: vec![pod],
        ..Snapshot::default()
    }
}

fn free(name: &str, node: &str) -> NodeDisk {
    let mut disk = disk(name, node, 10, &[]);
    disk.status.as_mut().unwrap().free = Some(gi(5));
    disk
}

fn node(taint: Value) -> Node {
    let labels = json!({"topology.reservoir.dev/node": "n1"});
    from(json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": [taint]}}))
}

fn of(snapshot: &Snapshot) -> String {
    ask(snapshot, &POD, Some("team"), "web").unwrap()
}

/// T4, P2: the node of one volume has too little free space for the other.
#[test]
fn t4_p2_why_pod_reserves_on_the_node_of_its_volume() {
    let said = "0/2 nodes are available: 1 node(s) did not have enough free storage, 1 node(s) didn't match PersistentVolume's \
                node affinity.";
    let mut pod = unplaced(said);
    pod.spec.as_mut().unwrap().volumes.as_mut().unwrap().extend(from::<
        Vec<k8s_openapi::api::core::v1::Volume>,
    >(
        json!([{"name": "c", "persistentVolumeClaim": {"claimName": "cp"}}]),
    ));
    let mut cp = wants("1Gi");
    cp.metadata.name = Some("cp".into());
    cp.spec.as_mut().unwrap().storage_class_name = Some("ops".into());
    let mut there = reserved("ops", "ops", 4, &[]);
    let status = there.status.as_mut().unwrap();
    (status.node_disk, status.node_name) = (Some("n2.a".into()), Some("n2".into()));
    let waiting = "waiting for pod web to be scheduled";
    let mut snapshot = Snapshot {
        classes: vec!["ops".into()],
        our_classes: vec![from(class_of_ops())],
        reservations: vec![there],
        pvcs: vec![cp],
        events: vec![event("PersistentVolumeClaim", "cp", "Normal", "WaitForPodScheduled", waiting)],
        ..on_n1(pod)
    };
    let why = "is VolumeNode: its volume v is on node n1, where role ops has too little free space for its PersistentVolumeClaim cp";
    assert!(of(&snapshot).contains(why), "{}", of(&snapshot));
    let next = "next: kubectl reservoir reserve ops-2 --role ops --size 1Gi --node n1   #";
    let pvc = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "cp").unwrap();
    for told in [of(&snapshot), pvc(&snapshot)] {
        assert!(told.contains(next), "{told}");
    }
    // The role has a reservation there, which can be larger.
    snapshot.reservations.push(reserved("ops-w", "ops", 0, &[]));
    assert!(of(&snapshot).contains("next: kubectl reservoir resize dr/ops-w 1Gi"), "{}", of(&snapshot));
    snapshot.reservations.pop();
    snapshot.denied = [&VOLUME, &DISK, &RESERVATION].map(Denied::unseen).into();
    (snapshot.volumes, snapshot.disks, snapshot.reservations) = Default::default();
    (snapshot.classes_unseen, snapshot.our_classes) = (true, vec![]);
    let next = "next: have an administrator run: kubectl reservoir why pod/web -n team   # its scheduler finds no node with a";
    for told in [of(&snapshot), pvc(&snapshot)] {
        assert!(told.contains(next), "{told}");
    }
}

/// T4, F1: the taint of the volume's node is named to who may see nodes, and nobody is sent to a node that may not be seen.
#[test]
fn t4_f1_why_pod_names_the_taint_of_its_volumes_node() {
    let said = "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) didn't match PersistentVolume's node affinity.";
    let mut snapshot = on_n1(unplaced(said));
    let general = "next: kubectl describe node n1   # volume v is on it";
    assert!(of(&snapshot).contains(general), "{}", of(&snapshot));
    snapshot.nodes = vec![node(json!({"key": "gpu", "value": "true", "effect": "NoSchedule"}))];
    let told = of(&snapshot);
    assert!(told.contains("is on node n1, whose taint gpu=true:NoSchedule it does not tolerate"), "{told}");
    assert!(
        told.contains(
            "next: kubectl delete pod web -n team   # make it again with a toleration for gpu=true:"
        ),
        "{told}"
    );
    let tolerations = json!([{"key": "gpu", "operator": "Exists"}]);
    snapshot.pods[0].spec.as_mut().unwrap().tolerations = from(tolerations);
    assert!(of(&snapshot).contains(general), "{}", of(&snapshot));
    // Kubernetes takes its own off.
    snapshot.nodes = vec![node(json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}))];
    assert!(of(&snapshot).contains(general), "{}", of(&snapshot));
    // Nobody takes Reservoir's off without the value of the chart, also where it is the only node.
    snapshot.nodes = vec![node(json!({"key": "reservoir.dev/agent-not-ready", "effect": "NoSchedule"}))];
    snapshot.pods = vec![unplaced("0/1 nodes are available: 1 node(s) had untolerated taint(s).")];
    let told = of(&snapshot);
    assert!(told.contains("next: kubectl taint node n1 reservoir.dev/agent-not-ready-   #"), "{told}");
    assert!(told.contains("removeStartupTaint: true"), "{told}");

    snapshot.pods = vec![unplaced(said)];
    snapshot.denied = [&VOLUME, &DISK].map(Denied::unseen).into();
    (snapshot.volumes, snapshot.disks, snapshot.nodes) = Default::default();
    let told = of(&snapshot);
    assert!(
        told.contains("next: have an administrator run: kubectl reservoir why pod/web -n team   # volume v is on node n1"),
        "{told}"
    );
    snapshot.pods = vec![unplaced(&said.replace("had untolerated taint(s)", "were unschedulable"))];
    assert!(
        of(&snapshot).contains("next: have an administrator run: kubectl uncordon n1   #"),
        "{}",
        of(&snapshot)
    );
    // The cordoned node may be another one.
    let three = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 1 node(s) didn't match PersistentVolume's \
                 node affinity. preemption: 0/3 nodes are available: 3 Preemption is not helpful.";
    snapshot.pods = vec![unplaced(three)];
    assert!(!of(&snapshot).contains("cordon"), "{}", of(&snapshot));
    snapshot.pods = vec![unplaced(&three.replace("1 Insufficient cpu, ", ""))];
    assert!(of(&snapshot).contains("kubectl uncordon n1   #"), "{}", of(&snapshot));
}

/// T4, P2: somebody took the label by which the scheduler finds the volume.
#[test]
fn t4_p2_why_pod_knows_the_label_of_its_node() {
    let said = "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.";
    let mut snapshot = on_n1(unplaced(said));
    snapshot.nodes = vec![from(json!({"metadata": {"name": "n1"}}))];
    let told = of(&snapshot);
    assert!(
        told.contains("next: kubectl label node n1 topology.reservoir.dev/node=n1 --overwrite   #"),
        "{told}"
    );
    snapshot.nodes =
        vec![from(json!({"metadata": {"name": "n1", "labels": {"topology.reservoir.dev/node": "n1"}}}))];
    assert!(of(&snapshot).contains("next: kubectl describe node n1   #"), "{}", of(&snapshot));
}

/// T4: the constraint that keeps the pod from its volume's node is named.
#[test]
fn t4_why_pod_names_topology_spread_constraints() {
    let said = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) didn't match pod topology \
                spread constraints.";
    let snapshot = on_n1(unplaced(said));
    let next = "next: kubectl describe pod web -n team   # its topologySpreadConstraints keep it off where its volume v is";
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
}

/// T4, E3: the nodes of the volume and of its copies are all cordoned, or refuse the pod otherwise.
#[test]
fn t4_e3_why_names_a_node_if_all_copies_refuse_the_pod() {
    let said = "0/3 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 2 node(s) were unschedulable.";
    let mut snapshot = on_n1(unplaced(said));
    let mut copy = ready_volume("v-2", "eng", true);
    copy.spec.copy_of = Some(CopyOf { uid: "uid-v".into(), digest: "d".into(), ..Default::default() });
    let status = copy.status.as_mut().unwrap();
    (status.node_name, status.digest) = (Some("n2".into()), Some("d".into()));
    snapshot.volumes[0].spec.copies = Some(Default::default());
    snapshot.volumes.push(copy);
    let cordon = |disk: &mut NodeDisk| disk.status.as_mut().unwrap().cordoned = true;
    cordon(&mut snapshot.disks[0]);
    assert!(!of(&snapshot).contains("cordoned"), "the other one may take it: {}", of(&snapshot));
    cordon(&mut snapshot.disks[1]);
    let told = of(&snapshot);
    let places = "its volume v is on node n1, and has complete copies on n2";
    let why = format!("{places}; the pod can start on none of them now: not on node n1, which is cordoned\n");
    assert!(told.contains(&why) && told.contains("next: kubectl uncordon n1   #"), "{told}");
    // The other node is the cause.
    let elsewhere = [("kubernetes.io/hostname".to_owned(), "n3".to_owned())].into();
    snapshot.pods[0].spec.as_mut().unwrap().node_selector = Some(elsewhere);
    let told = of(&snapshot);
    assert!(told.contains(&format!("{places}, and the pod asks for node n3")), "{told}");
    snapshot.pods[0].spec.as_mut().unwrap().node_selector = None;
    snapshot.disks[1].status.as_mut().unwrap().cordoned = false;
    let mut other = node(json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}));
    other.metadata.name = Some("n2".into());
    snapshot.nodes = vec![other];
    assert!(of(&snapshot).contains("next: kubectl uncordon n1   #"), "{}", of(&snapshot));
    // The node of a copy may take the pod more easily than that of the volume.
    snapshot.nodes[0].metadata.name = Some("n1".into());
    cordon(&mut snapshot.disks[1]);
    assert!(of(&snapshot).contains("next: kubectl uncordon n2   # no new pod is placed on a cordoned node, and volume v or a copy is on it"), "{}", of(&snapshot));
}

/// T4, P2: no scheduler sees a pod with `nodeName`, and none may be there for one with another `schedulerName`.
#[test]
fn t4_p2_why_pod_knows_who_places_it() {
    let mut pod = pod_of("data", "Pending");
    pod.spec.as_mut().unwrap().node_name = Some("n1".into());
    let mut wanted = wants("1Gi");
    wanted.spec.as_mut().unwrap().storage_class_name = Some("ops".into());
    let error = "error processing PVC team/data: PVC is not bound";
    let waiting = "waiting for pod web to be scheduled";
    let mut snapshot = Snapshot {
        classes: vec!["ops".into()],
        our_classes: vec![from(class_of_ops())],
        pvcs: vec![wanted],
        pods: vec![pod],
        disks: vec![free("n1.a", "n1")],
        reservations: vec![reserved("ops", "ops", 4, &[])],
        events: vec![
            event("Pod", "web", "Warning", "FailedMount", error),
            event("PersistentVolumeClaim", "data", "Normal", "WaitForPodScheduled", waiting),
        ],
        ..Snapshot::default()
    };
    let next = "next: kubectl delete pod web -n team   # make it again with nodeSelector kubernetes.io/hostname: n1 in place";
    let pvc = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    for told in [of(&snapshot), pvc(&snapshot)] {
        assert!(told.contains(next), "{told}");
    }
    let classes = std::mem::take(&mut snapshot.our_classes);
    snapshot.classes_unseen = true;
    for told in [of(&snapshot), pvc(&snapshot)] {
        assert!(told.contains(next), "{told}");
    }
    (snapshot.our_classes, snapshot.classes_unseen) = (classes, false);
    // A scheduler has chosen the node.
    snapshot.pvcs[0].metadata.annotations =
        Some([("volume.kubernetes.io/selected-node".to_owned(), "n1".to_owned())].into());
    assert!(!of(&snapshot).contains("nodeSelector kubernetes.io/hostname"), "{}", of(&snapshot));

    let mut pod = pod_of("data", "Pending");
    pod.spec.as_mut().unwrap().scheduler_name = Some("volcano".into());
    let mut snapshot = on_n1(pod);
    let next = "next: kubectl describe pod web -n team   # no scheduler has looked at it: its spec.schedulerName is volcano\n";
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
    snapshot.pods[0].status.as_mut().unwrap().conditions =
        from(json!([{"type": "PodScheduled", "status": "False", "message": "0/2 nodes"}]));
    assert!(!of(&snapshot).contains(next), "{}", of(&snapshot));
    // A program that queues workloads holds it back, whatever the node of its volume is like.
    let said = "Scheduling is blocked due to non-empty scheduling gates";
    let mut gated = unplaced(said);
    gated.spec.as_mut().unwrap().scheduling_gates = from(json!([{"name": "kueue.x-k8s.io/admission"}]));
    let mut gated = on_n1(gated);
    gated.disks[0].status.as_mut().unwrap().cordoned = true;
    let next = "next: kubectl describe pod web -n team   # no scheduler looks at it before the program that has set its scheduling gate \
                kueue.x-k8s.io/admission takes that away\n";
    assert_eq!(of(&gated), format!("Pod team/web: Pending: {said}\n{next}"));
    gated.claims.clear();
    let mut wanted = wants("1Gi");
    wanted.spec.as_mut().unwrap().storage_class_name = Some("ops".into());
    (gated.pvcs, gated.classes) = (vec![wanted], vec!["ops".into()]);
    gated.our_classes = vec![from(class_of_ops())];
    gated.reservations = vec![reserved("ops", "ops", 4, &[])];
    gated.disks[0].status.as_mut().unwrap().cordoned = false;
    gated.events = vec![event("PersistentVolumeClaim", "data", "Normal", "WaitForPodScheduled", waiting)];
    assert!(of(&gated).contains(next), "{}", of(&gated));
}

/// T4, P2: nothing is reserved, and no reservation enlarged, where the pod may not run.
#[test]
fn t4_p2_space_is_made_only_where_the_pod_may_run() {
    let hosts = ["n1", "n2", "n3"];
    let mut pod = unplaced("0/3 nodes are available: 3 node(s) did not have enough free storage.");
    pod.spec.as_mut().unwrap().node_selector = from(json!({"kubernetes.io/hostname": "n3"}));
    let mut wanted = wants("1Gi");
    wanted.spec.as_mut().unwrap().storage_class_name = Some("ops".into());
    let said = "pod web is on no node yet: 1Gi for role ops are free on node n2 alone, where the scheduler";
    let mut snapshot = Snapshot {
        classes: vec!["ops".into()],
        our_classes: vec![from(class_of_ops())],
        pvcs: vec![wanted],
        pods: vec![pod],
        disks: hosts.map(|node| free(&format!("{node}.a"), node)).to_vec(),
        nodes: hosts
            .map(|name| from(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})))
            .to_vec(),
        reservations: vec![reserved("ops", "ops", 4, &[])],
        events: vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", said)],
        ..Snapshot::default()
    };
    let next = "next: kubectl reservoir reserve ops-2 --role ops --size 1Gi --node n3   #";
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
    assert!(
        of(&snapshot).contains("1Gi for role ops are free on node n1 alone"),
        "as of now: {}",
        of(&snapshot)
    );
    // An event of before that reservation.
    let lacks = "no node has a place for the volume: nothing is reserved for role ops or an ancestor of it; and so on";
    snapshot.events = vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", lacks)];
    let told = of(&snapshot);
    assert!(told.contains("1Gi for role ops are free on node n1 alone") && told.contains(next), "{told}");
    // The scheduler has not looked again.
    let mut new = reserved("ops-2", "ops", 4, &[]);
    let status = new.status.as_mut().unwrap();
    status.node_name = Some("n3".into());
    condition::set(&mut status.conditions, READY, Verdict::yes("Ready", "m"), None, Timestamp::now());
    snapshot.reservations.push(new);
    assert!(of(&snapshot).contains("next: wait a few seconds;"), "{}", of(&snapshot));
    // Nor has it the numbers of a class that was just made.
    let ready = &mut snapshot.reservations[1].status.as_mut().unwrap().conditions[0];
    ready.last_transition_time.0 -= SignedDuration::from_mins(1);
    assert!(!of(&snapshot).contains("next: wait"), "{}", of(&snapshot));
    snapshot.our_classes[0].metadata.creation_timestamp = Some(Time(Timestamp::now()));
    assert!(of(&snapshot).contains("next: wait a few seconds;"), "{}", of(&snapshot));
    // Nothing is free, and the reservation of n1 could be larger.
    snapshot.reservations = vec![reserved("ops", "ops", 4, &[("x", 4)])];
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
    // Another pod keeps it away.
    let spec = snapshot.pods[0].spec.as_mut().unwrap();
    spec.node_selector = None;
    spec.affinity = from(json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}));
    for node in ["n1", "n2"] {
        let other = json!({"metadata": {"namespace": "team", "name": node, "uid": node, "labels": {"app": "db"}},
            "spec": {"containers": [], "nodeName": node}});
        snapshot.pods.push(from(other));
    }
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
    // The class names a reservation, and a new one would be of no use.
    snapshot.our_classes[0].parameters =
        Some([("role", "ops"), ("reservation", "ops")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    let told = of(&snapshot);
    let why =
        "StorageClass ops names DiskReservation ops, which is on node n1, and pod web may not run there";
    assert!(told.contains(why), "{told}");
    assert!(told.contains("next: kubectl describe pod web -n team   # let it run on node n1"), "{told}");
}

/// T4, F1: pods that keep away from one another cannot share a volume without copies.
#[test]
fn t4_f1_why_pod_names_the_pod_that_it_keeps_away_from() {
    let said = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) didn't match pod \
                anti-affinity rules.";
    let mut pod = unplaced(said);
    pod.spec.as_mut().unwrap().affinity =
        from(json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}));
    let mut snapshot = on_n1(pod);
    let other = json!({"metadata": {"namespace": "team", "name": "first", "uid": "u1", "labels": {"app": "db"}},
        "spec": {"containers": [], "nodeName": "n1"}});
    snapshot.pods.push(from(other));
    let told = of(&snapshot);
    assert!(
        told.contains("is on node n1, where its podAntiAffinity keeps it away from pod team/first"),
        "{told}"
    );
    assert!(
        told.contains("next: kubectl describe pod web -n team   # leave the podAntiAffinity out"),
        "{told}"
    );
    // A pod on another node is not in the way.
    snapshot.pods[1].spec.as_mut().unwrap().node_name = Some("n2".into());
    assert!(!of(&snapshot).contains("podAntiAffinity"), "{}", of(&snapshot));
}

/// T4, M2: who asks for another node does not start there after the end of the pod that has the volume, and what makes a pod
/// makes it as before.
#[test]
fn t4_m2_why_pod_leaves_the_holder_alone_where_another_node_is_asked_for() {
    let said = "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let mut asks = unplaced(said);
    asks.spec.as_mut().unwrap().node_selector = from(json!({"kubernetes.io/hostname": "n2"}));
    let mut first = pod_of("data", "Running");
    (first.metadata.name, first.metadata.uid) = (Some("first".into()), Some("u1".into()));
    first.spec.as_mut().unwrap().node_name = Some("n1".into());
    let mut snapshot = on_n1(asks);
    snapshot.volumes = vec![ready_volume("v", "eng", false)];
    snapshot.volumes[0].status.as_mut().unwrap().claims = vec![bound_by("team", "data", "uid-data")];
    snapshot.pods.push(first);
    let asked = snapshot.pods[0].spec.as_mut().unwrap().node_selector.take();
    assert!(of(&snapshot).contains("VolumeHeld"), "{}", of(&snapshot));
    snapshot.pods[0].spec.as_mut().unwrap().node_selector = asked;
    let told = of(&snapshot);
    assert!(told.contains("OtherNode") && !told.contains("VolumeHeld"), "{told}");
    assert!(
        told.contains("next: kubectl delete pod web -n team   # make it again without the other node"),
        "{told}"
    );
    let job = |name: &str, kind: &str, maker: &str| {
        let owner =
            json!({"apiVersion": "x/v1", "kind": kind, "name": maker, "uid": "c", "controller": true});
        from(json!({"metadata": {"namespace": "team", "name": name, "ownerReferences": [owner]}}))
    };
    snapshot.jobs = vec![job("web-29", "CronJob", "web"), job("set-0", "JobSet", "set")];
    for (kind, name, next) in [
        (
            "ReplicaSet",
            "web-5d4f",
            "kubectl edit deployment/web -n team   # have its pods made without the other node",
        ),
        (
            "StatefulSet",
            "web",
            "kubectl edit statefulset/web -n team && kubectl delete pod web -n team   # have its pods made without",
        ),
        (
            "ReplicaSet",
            "bare",
            "kubectl edit replicaset/bare -n team && kubectl delete pod web -n team   # have its pods made without",
        ),
        ("Job", "web", "kubectl delete job web -n team   # make it again without"),
        ("Job", "set-0", "kubectl edit jobset/set -n team   # have its pods made without"),
        (
            "Job",
            "web-29",
            "kubectl edit cronjob web -n team && kubectl delete job web-29 -n team   # its next run, or kubectl create job web-now \
             --from=cronjob/web -n team, has the Job made without",
        ),
    ] {
        let metadata = &mut snapshot.pods[0].metadata;
        metadata.labels = from(json!({"pod-template-hash": "5d4f"}));
        let owner =
            json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "o", "controller": true});
        metadata.owner_references = from(json!([owner]));
        let told = of(&snapshot);
        assert!(told.contains(&format!("next: {next}")), "{told}");
    }
}
