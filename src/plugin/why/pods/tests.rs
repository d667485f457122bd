//! Tests of the answers about pods and workloads.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::api::UidRef;
use crate::api::condition::{RETIRING, Verdict, reason, set};
use crate::plan::testing::*;
use crate::plugin::kind::{CLAIM, DISK, Kind, POD, PVC, RESERVATION, VOLUME};
use crate::plugin::snapshot::{Denied, Snapshot};
use crate::plugin::why::testing::*;

/// The pod with claim `data`, which is bound to a ready shared volume.
fn on_volume(pod: Pod) -> Snapshot {
    Snapshot {
        claims: vec![bound("data", "v")],
        volumes: vec![ready_volume("v", "eng", true)],
        pods: vec![pod],
        ..Snapshot::default()
    }
}

/// T4: Kubernetes 1.36 has a container between two starts as terminated, for minutes.
#[test]
fn t4_why_names_a_container_between_two_starts() {
    let of = |policy: &str, code: i32, init: bool| {
        let mut pod = pod_of("data", "Running");
        pod.spec.as_mut().unwrap().restart_policy = Some(policy.into());
        let containers = from(json!([{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 4, "state": {"terminated": {"exitCode": code, "reason": "Error"}}}]));
        let status = pod.status.as_mut().unwrap();
        match init {
            true => status.init_container_statuses = containers,
            false => status.container_statuses = containers,
        }
        ask(&on_volume(pod), &POD, Some("team"), "web").unwrap()
    };
    // The last run is the present one of the log.
    let crashes = |said: &str| {
        said.contains("container c ended with exit code")
            && said.contains("kubectl logs web -n team -c c --tail=50")
    };
    for (policy, code, init, expected) in [
        ("Always", 1, false, true),
        ("Always", 0, false, true),
        ("OnFailure", 1, false, true),
        ("OnFailure", 0, false, false),
        ("Never", 1, false, false),
        ("Always", 0, true, false),
        ("Always", 1, true, true),
    ] {
        let said = of(policy, code, init);
        assert_eq!(crashes(&said), expected, "{policy} {code} {init}: {said}");
    }
}

/// T4: a pod whose container ends by itself is not at rest, and its log is what helps.
#[test]
fn t4_why_names_the_container_that_crashes() {
    let mut pod = pod_of("data", "Running");
    pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    pod.status.as_mut().unwrap().container_statuses =
        from(json!([{"name": "c", "image": "i", "imageID": "", "ready": false,
        "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": {"terminated": {"exitCode": 1}}}]));
    let mut snapshot = Snapshot {
        claims: vec![bound("data", "v")],
        volumes: vec![ready_volume("v", "eng", true)],
        workloads: vec![deployment(json!({"app": "web"}))],
        pods: vec![pod],
        ..Snapshot::default()
    };
    let log = "next: kubectl logs web -n team -c c --previous --tail=50   # its volumes are mounted";
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(
        said.starts_with("Pod team/web: CrashLoopBackOff: container c ended with exit code 1\n"),
        "{said}"
    );
    assert!(said.contains(log), "{said}");
    let deploy = Kind::parse("deploy").unwrap();
    let said = ask(&snapshot, deploy, Some("team"), "web").unwrap();
    assert!(said.contains("because Pod team/web is CrashLoopBackOff") && said.contains(log), "{said}");
    // A pod that is there is no missing pod.
    snapshot.pods[0].status.as_mut().unwrap().container_statuses = None;
    let said = ask(&snapshot, deploy, Some("team"), "web").unwrap();
    assert!(said.contains("next: kubectl describe pod web -n team"), "{said}");
    // One that its node's drain has ended is not what is missing.
    let mut ended = snapshot.pods[0].clone();
    (ended.metadata.name, ended.metadata.deletion_timestamp) = (Some("a".into()), some_time());
    snapshot.pods.push(ended);
    snapshot.pods[0].status.as_mut().unwrap().phase = Some("Pending".into());
    let said = ask(&snapshot, deploy, Some("team"), "web").unwrap();
    assert!(said.contains("because Pod team/web is Pending"), "{said}");
    snapshot.pods[0].status.as_mut().unwrap().phase = Some("Running".into());
    snapshot.pods.pop();
    let init = json!([{"name": "i", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "PodInitializing"}}}]);
    snapshot.pods[0].status.as_mut().unwrap().container_statuses = from(init);
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.starts_with("Pod team/web: Running"), "it starts: {said}");
}

/// T4: a container that never ran has no log, and the words of its end are the cause.
#[test]
fn t4_why_quotes_why_a_container_cannot_be_started() {
    let mut pod = pod_of("data", "Running");
    let ended =
        json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: no such file"}});
    let container = |state: serde_json::Value| {
        json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 4, "state": state,
            "lastState": ended}])
    };
    for state in [ended.clone(), json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}})] {
        pod.status.as_mut().unwrap().container_statuses = from(container(state));
        let said = ask(&on_volume(pod.clone()), &POD, Some("team"), "web").unwrap();
        assert!(said.starts_with("Pod team/web: StartError: container c: exec: no such file\n"), "{said}");
        assert!(said.contains("next: kubectl describe pod web") && !said.contains("kubectl logs"), "{said}");
    }
    let oom = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    pod.status.as_mut().unwrap().container_statuses = from(container(oom));
    let said = ask(&on_volume(pod), &POD, Some("team"), "web").unwrap();
    assert!(said.contains("container c ended with exit code 137 (OOMKilled)\n"), "{said}");
}

/// T4: a pod that has failed waits for nothing, and starts no more.
#[test]
fn t4_why_of_a_failed_pod_says_how_it_ended() {
    let mut pod = pod_of("data", "Failed");
    pod.status.as_mut().unwrap().container_statuses = from(json!([{"name": "c", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]));
    let mut snapshot = on_volume(pod);
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.starts_with("Pod team/web: Failed: container c ended with exit code 3\n"), "{said}");
    assert!(said.contains("next: kubectl logs web -n team -c c --tail=50   # it has failed"), "{said}");
    snapshot.pods[0].status.as_mut().unwrap().reason = Some("Evicted".into());
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.starts_with("Pod team/web: Failed: Evicted\n"), "{said}");
    assert!(said.contains("next: kubectl describe pod web -n team"), "{said}");
}

/// T4, F1: the pods of a DaemonSet are for a node each, by their affinity.
#[test]
fn t4_f1_why_knows_the_node_of_a_daemon_sets_pod() {
    let mut pod: Pod = pod_of("data", "Pending");
    pod.metadata.owner_references = from(
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "everywhere", "uid": "u", "controller": true}]),
    );
    pod.spec.as_mut().unwrap().affinity = from(
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n9"]}]}]}}}),
    );
    let mut snapshot = on_volume(pod);
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(
        said.contains("volume v is on node n1, and the pod is that of DaemonSet everywhere for node n9"),
        "{said}"
    );
    assert!(said.contains("next: kubectl patch daemonset everywhere -n team -p '{\"spec\""), "{said}");
    assert!(said.contains("\"kubernetes.io/hostname\":\"n1\""), "{said}");
    // By its own affinity a pod asks for a node, too.
    snapshot.pods[0].metadata.owner_references = None;
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(
        said.contains("the pod asks for node n9") && said.contains("next: kubectl delete pod web"),
        "{said}"
    );
}

/// T4: a pod for a node without a copy waits for the copy, and one for a node with a copy for something else.
#[test]
fn e3_why_knows_the_copies_of_a_pods_volume() {
    let mut pod: Pod = pod_of("data", "Pending");
    pod.spec.as_mut().unwrap().node_selector = from(json!({"kubernetes.io/hostname": "n2"}));
    let mut snapshot = on_volume(pod);
    let mut copy = ready_volume("v-2", "eng", true);
    copy.spec.copy_of =
        Some(crate::api::CopyOf { uid: "uid-v".into(), digest: "blake3:00".into(), ..Default::default() });
    copy.status.as_mut().unwrap().node_name = Some("n2".into());
    snapshot.volumes[0].spec.copies = Some(Default::default());
    snapshot.volumes.push(copy);
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(
        said.contains("its volume v is on node n1, and the pod asks for node n2"),
        "it is filled: {said}"
    );
    assert!(said.contains("next: kubectl reservoir why spv/v\n"), "{said}");
    snapshot.volumes[1].status.as_mut().unwrap().digest = Some("blake3:00".into());
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(!said.contains("is on node n1"), "{said}");
    let of = snapshot.volumes[1].spec.copy_of.as_mut().unwrap();
    (of.name, of.node) = ("v".into(), "n2".into());
    let said = ask(&snapshot, &VOLUME, None, "v-2").unwrap();
    assert!(said.contains("it is a copy of volume v, for node n2\n"), "{said}");
    assert!(
        said.contains("next: there is nothing to do; it goes by itself when spec.copies of volume v"),
        "{said}"
    );
    snapshot.pods[0].spec.as_mut().unwrap().node_selector = from(json!({"kubernetes.io/hostname": "n3"}));
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    let why = "its volume v is on node n1, and has complete copies on n2, and the pod asks for node n3";
    assert!(said.contains(why), "{said}");
    // No copy is to be made there.
    snapshot.volumes[0].spec.copies.as_mut().unwrap().node_selector =
        Some([("pool".to_owned(), "gpu".to_owned())].into());
    snapshot.nodes = vec![from(json!({"metadata": {"name": "n3"}}))];
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    let lacks = format!("{why}, which has not the labels that spec.copies of the volume selects: pool=gpu");
    assert!(said.contains(&lacks), "{said}");
    assert!(said.contains("next: kubectl label node n3 pool=gpu   # volume v gets a copy there"), "{said}");
    snapshot.nodes = vec![from(json!({"metadata": {"name": "n3", "labels": {"pool": "cpu"}}}))];
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.contains("next: kubectl edit spv v   # correct spec.copies.nodeSelector"), "{said}");
    snapshot.nodes = vec![from(json!({"metadata": {"name": "n3", "labels": {"pool": "gpu"}}}))];
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.contains("next: kubectl reservoir why spv/v\n"), "{said}");
}

/// T4: nobody can make the PersistentVolumeClaim of an ephemeral volume but Kubernetes, whose words are quoted.
#[test]
fn t4_why_quotes_who_refuses_an_ephemeral_volume() {
    let mut pod = pod_of("other", "Pending");
    pod.spec.as_mut().unwrap().volumes =
        from(json!([{"name": "d", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]));
    let refused =
        event("Pod", "web", "Warning", "FailedBinding", "create PVC web-d: forbidden: exceeded quota: q");
    let snapshot = Snapshot {
        pods: vec![pod],
        events: vec![refused, event("Pod", "web", "Warning", "FailedScheduling", "not found")],
        ..Snapshot::default()
    };
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.contains("because PersistentVolumeClaim team/web-d is NotMade: create PVC web-d"), "{said}");
    assert!(said.contains("next: kubectl get resourcequotas,limitranges -n team"), "{said}");
    let mut none = Snapshot { events: vec![], ..snapshot };
    let said = ask(&none, &POD, Some("team"), "web").unwrap();
    assert!(said.contains("next: kubectl describe pod web -n team"), "{said}");
    none.pvcs = vec![pvc("web-d", "Pending", "other")];
    let said = ask(&none, &POD, Some("team"), "web").unwrap();
    assert!(
        said.contains("because Pod team/web is NameTaken: its ephemeral volume d needs the name"),
        "{said}"
    );
    assert!(
        said.contains("next: kubectl delete pod web -n team   # make it again with another name"),
        "{said}"
    );
}

/// T4, X8, X6: a claim that is gone may have left its data.
#[test]
fn t4_x8_a_pod_without_its_claim_is_led_to_the_data() {
    let mut snapshot = Snapshot { pods: vec![pod_of("data", "Pending")], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    assert!(of(&snapshot).contains("next: kubectl get volumeoffers -n team"), "{}", of(&snapshot));
    let mut on = disk("n1.a", "n1", 10, &[]);
    let orphan = json!({"uid": "u", "size": "2Gi", "name": "pvc-0", "madeFor": "team/data",
        "spec": {"role": "eng", "size": "2Gi"}});
    on.status.as_mut().unwrap().orphans = vec![from(orphan)];
    snapshot.disks = vec![on];
    assert!(of(&snapshot).contains("next: kubectl reservoir recover u   # prints"), "{}", of(&snapshot));
    snapshot.reservations = vec![with_kept(&[("pvc-1", 0, 60)])];
    let entries = |snapshot: &mut Snapshot, of: &str| {
        let status = snapshot.reservations[0].status.as_mut().unwrap();
        status.volumes[0].kept.as_mut().unwrap().made_for = Some(of.into());
    };
    entries(&mut snapshot, "other/data");
    assert!(of(&snapshot).contains("next: kubectl reservoir recover u   # prints"), "{}", of(&snapshot));
    entries(&mut snapshot, "team/data");
    let next = "next: kubectl reservoir undelete uid-pvc-1-0   # brings volume pvc-1 back with the data of claim data, which is kept until 1970";
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
    // Data of the name is another team's, if it was of a PersistentVolumeClaim or is of a role of theirs.
    let kept = std::mem::replace(&mut snapshot.reservations, vec![with_kept(&[("data", 0, 60)])]);
    let disks = std::mem::take(&mut snapshot.disks);
    let none = "next: kubectl get volumeoffers -n team";
    assert!(of(&snapshot).contains(none), "{}", of(&snapshot));
    snapshot.subscriptions = vec![subscription("team", &["eng"], true)];
    assert!(of(&snapshot).contains("next: kubectl reservoir undelete uid-data-0 "), "{}", of(&snapshot));
    entries(&mut snapshot, "other/data");
    assert!(of(&snapshot).contains(none), "{}", of(&snapshot));
    (snapshot.subscriptions, snapshot.reservations, snapshot.disks) = (vec![], kept, disks);
    let mut left = ready_volume("pvc-2", "eng", false);
    left.metadata.annotations =
        Some([(crate::api::ANNOTATION_MADE_FOR.to_owned(), "team/data".into())].into());
    snapshot.volumes = vec![left];
    let next =
        "next: kubectl reservoir claim data --role eng --volume pvc-2 -n team   # only to have the data";
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
    let mut named = ready_volume("data", "eng", true);
    named.spec.retire = true;
    snapshot.volumes.push(named);
    assert!(of(&snapshot).contains(next), "nobody can claim it: {}", of(&snapshot));
    snapshot.volumes[1].spec.retire = false;
    let next =
        "next: kubectl reservoir claim data --role eng --volume data -n team   # claims the volume of this";
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
}

/// T4: a pod waits for Reservoir exactly if one of its claims does. The messages of scheduler and kubelet are
/// quoted.
#[test]
fn t4_why_pod_blames_reservoir_only_for_its_own() {
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    let pods = || vec![pod_of("data", "Pending")];
    let mut snapshot =
        Snapshot { pods: pods(), pvcs: vec![pvc("dta", "Bound", "other")], ..Snapshot::default() };
    let missing = of(&snapshot);
    assert!(missing.contains("because PersistentVolumeClaim team/data is Missing: no claim or PersistentVolumeClaim has this name; did you mean dta?"), "{missing}");
    snapshot.pvcs = vec![pvc("data", "Bound", "other")];
    snapshot.events = vec![event("Pod", "web", "Warning", "FailedMount", "no such image")];
    let foreign = of(&snapshot);
    assert!(foreign.starts_with("Pod team/web: Pending: no such image\nnext: kubectl describe pod web -n team   # none of its claims waits"), "{foreign}");
    snapshot.pvcs = vec![pvc("data", "Pending", "ours")];
    snapshot.classes = vec!["ours".into()];
    snapshot.events = ["Normal", "Warning", "Normal"]
        .map(|type_| match type_ {
            "Warning" => {
                event("PersistentVolumeClaim", "data", type_, "ProvisioningFailed", "5Gi too little")
            }
            _ => event("PersistentVolumeClaim", "data", type_, "ExternalProvisioning", "waiting"),
        })
        .into();
    let ours = of(&snapshot);
    assert!(
        ours.contains("because PersistentVolumeClaim team/data is ProvisioningFailed: 5Gi too little"),
        "{ours}"
    );
    let same = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(
        same.contains(
            "ProvisioningFailed: 5Gi too little\nnext: do what the message says; Reservoir tries again"
        ),
        "{same}"
    );
    snapshot.events =
        vec![event("PersistentVolumeClaim", "data", "Normal", "WaitForFirstConsumer", "waiting")];
    let first = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(
        first.contains("next: kubectl describe pod web -n team   # its volume is made on the node"),
        "{first}"
    );

    let mut running = on_lost_node();
    running.pods = vec![pod_of("data", "Running")];
    assert_eq!(of(&running), "Pod team/web: Running\n");
}

/// T4, M2: the answer for a second pod of an exclusive volume names the first pod.
#[test]
fn t4_m2_why_names_the_pod_that_has_an_exclusive_volume() {
    let mut volume = ready_volume("v", "eng", false);
    volume.status.as_mut().unwrap().claims = vec![bound_by("team", "data", "uid-data")];
    let mut bound = claim("team", "data", "v");
    let status = bound.status.get_or_insert_default();
    status.volume = Some(UidRef { name: "v".into(), uid: "uid-v".into() });
    set_ready(&mut status.conditions, true);
    let mut first = pod_of("data", "Running");
    first.metadata.name = Some("first".into());
    first.metadata.uid = Some("u1".into());
    first.spec.as_mut().unwrap().node_name = Some("n1".into());
    let pods = vec![pod_of("data", "Pending"), first];
    let mut snapshot = Snapshot { volumes: vec![volume], claims: vec![bound], pods, ..Snapshot::default() };
    let answer = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(answer.contains("because VolumeClaim team/data is VolumeHeld: its volume v is exclusive, and pod team/first uses it"), "{answer}");
    assert!(answer.contains("next: kubectl describe pod first -n team   # end it"), "{answer}");
    snapshot.pods[1].metadata.deletion_timestamp = some_time();
    let ending = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(ending.contains("next: kubectl reservoir why pod/first -n team"), "as in a drain: {ending}");
    snapshot.pods[1].metadata.deletion_timestamp = None;
    assert_eq!(answer.matches("next: ").count(), 1, "{answer}");
    // The set makes a pod that somebody ends again.
    for pod in &mut snapshot.pods {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "s", "controller": true}]);
        pod.metadata.owner_references = from(owner);
    }
    let answer = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(answer.contains("# both are pods of ReplicaSet web-1, and one at a time"), "{answer}");
}

/// T4, F1: a pod that cannot run on the node of its volume waits for that node.
#[test]
fn t4_f1_why_pod_names_the_node_of_its_volume() {
    let mut bound = claim("team", "data", "v");
    let status = bound.status.get_or_insert_default();
    status.volume = Some(UidRef { name: "v".into(), uid: "uid-v".into() });
    set_ready(&mut status.conditions, true);
    let volumes = vec![ready_volume("v", "eng", true)];
    let mut snapshot = Snapshot {
        volumes,
        claims: vec![bound],
        pods: vec![pod_of("data", "Pending")],
        ..Snapshot::default()
    };
    let node = snapshot.volumes[0].status.as_ref().unwrap().node_name.clone().unwrap();
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    assert!(of(&snapshot).contains("something else than Reservoir"));
    snapshot.pods[0].spec.as_mut().unwrap().node_name = Some("other".into());
    let named = of(&snapshot);
    assert!(
        named.contains(&format!("volume v is on node {node}, and the pod asks for node other")),
        "{named}"
    );
    assert!(named.contains("next: kubectl delete pod web -n team"), "{named}");
    let spec = snapshot.pods[0].spec.as_mut().unwrap();
    spec.node_name = None;
    spec.node_selector = Some([("kubernetes.io/hostname".to_owned(), "other".to_owned())].into());
    assert!(of(&snapshot).contains("the pod asks for node other"));
    snapshot.pods[0].spec.as_mut().unwrap().node_selector = None;
    snapshot.pods[0].status.as_mut().unwrap().conditions =
        from(json!([{"type": "PodScheduled", "status": "False",
            "message": "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity"}]));
    let unscheduled = of(&snapshot);
    assert!(
        unscheduled.contains(&format!("next: kubectl describe node {node}   # volume v is on it")),
        "{unscheduled}"
    );
    let name = snapshot.volumes[0].status.as_ref().unwrap().node_disk.clone().unwrap();
    let mut on = disk(&name, &node, 10, &[]);
    on.status.as_mut().unwrap().cordoned = true;
    snapshot.disks = vec![on];
    let cordoned = of(&snapshot);
    assert!(cordoned.contains(&format!("volume v is on node {node}, which is cordoned")), "{cordoned}");
    assert!(cordoned.contains(&format!("next: kubectl uncordon {node}")), "{cordoned}");
}

/// T4: no node has both volumes of the pod, and an inline volume is never made.
#[test]
fn t4_why_pod_names_what_no_node_can_serve() {
    let mut other = ready_volume("w", "eng", true);
    other.status.as_mut().unwrap().node_name = Some("n2".into());
    let bound = |name: &str, volume: &str| {
        let mut bound = claim("team", name, volume);
        let status = bound.status.get_or_insert_default();
        status.volume = Some(UidRef { name: volume.into(), uid: format!("uid-{volume}") });
        set_ready(&mut status.conditions, true);
        bound
    };
    let mut pod = pod_of("data", "Pending");
    let volumes = &mut pod.spec.as_mut().unwrap().volumes;
    *volumes = serde_json::from_value(json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "w", "persistentVolumeClaim": {"claimName": "more"}}]))
    .unwrap();
    let mut snapshot = Snapshot {
        volumes: vec![ready_volume("v", "eng", true), other],
        claims: vec![bound("data", "v"), bound("more", "w")],
        pods: vec![pod],
        ..Snapshot::default()
    };
    let answer = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(
        answer.contains("its volume v is on node n1, and its volume w on node n2: no node has both"),
        "{answer}"
    );
    assert!(answer.contains("next: kubectl reservoir tree -n team   # use a pod for each node"), "{answer}");
    let volumes = &mut snapshot.pods[0].spec.as_mut().unwrap().volumes;
    *volumes =
        serde_json::from_value(json!([{"name": "v", "csi": {"driver": "csi.reservoir.dev"}}])).unwrap();
    let answer = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(answer.contains("its volume v is an inline CSI volume"), "{answer}");
    assert!(
        answer.contains("next: kubectl delete pod web -n team   # make it again with a claim"),
        "{answer}"
    );
    snapshot.pods[0].spec.as_mut().unwrap().volumes = None;
    snapshot.pods[0].spec.as_mut().unwrap().node_name = Some("n1".into());
    let answer = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(answer.contains("next: kubectl reservoir doctor   # the pod waits for a mount"), "{answer}");
}

/// T4: a workload waits for its first waiting pod. For a workload without pods the answer has the reason.
#[test]
fn t4_why_of_a_workload_is_that_of_its_pods() {
    let kind = Kind::parse("sts").unwrap();
    let mut snapshot = on_lost_node();
    snapshot.pods[0].metadata.labels = Some([("app".to_owned(), "db".to_owned())].into());
    snapshot.workloads = vec![from(json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"namespace": "team", "name": "db"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "db"}}}, "status": {"readyReplicas": 1}}))];
    let answer = ask(&snapshot, kind, Some("team"), "db").unwrap();
    assert!(
        answer.starts_with(
            "StatefulSet team/db: NotReady, for the reasons below\n  because NodeDisk n1.a is NodeUnreachable"
        ),
        "{answer}"
    );
    assert!(answer.contains("so StatefulSet team/db is NotReady: 1 of 2 pods are ready\n"), "{answer}");
    snapshot.pods.clear();
    snapshot.events = vec![event("StatefulSet", "db", "Warning", "FailedCreate", "exceeded quota")];
    let none = ask(&snapshot, kind, Some("team"), "db").unwrap();
    assert!(
        none.contains(
            "1 of 2 pods are ready: exceeded quota\nnext: kubectl get resourcequotas,limitranges -n team "
        ),
        "{none}"
    );
    snapshot.events[0].message = Some("violates PodSecurity".into());
    let none = ask(&snapshot, kind, Some("team"), "db").unwrap();
    assert!(none.contains("pods are ready: violates PodSecurity\nnext: kubectl describe sts db"), "{none}");
    snapshot.events[0].message = Some("exceeded quota".into());
    snapshot.workloads[0].data["status"]["readyReplicas"] = json!(2);
    assert_eq!(
        ask(&snapshot, kind, Some("team"), "db").unwrap(),
        "StatefulSet team/db: Ready: 2 of 2 pods are ready\n"
    );
    snapshot.workloads[0].data["status"]["unavailableReplicas"] = json!(1);
    let rollout = ask(&snapshot, kind, Some("team"), "db").unwrap();
    assert!(
        rollout.contains("NotReady: 2 of 2 pods are ready, and 1 of its rollout not: exceeded quota"),
        "{rollout}"
    );
    assert!(ask(&snapshot, kind, Some("team"), "dbb").unwrap_err().contains("did you mean db?"));
    let job = Kind::parse("job").unwrap();
    snapshot.workloads[0].data = json!({"spec": {"completions": 1, "suspend": true}, "status": {}});
    let suspended = ask(&snapshot, job, Some("team"), "db").unwrap();
    assert!(
        suspended.starts_with(
            "Job team/db: Suspended: it is suspended, and makes no pod\nnext: kubectl patch job db -n team "
        ),
        "{suspended}"
    );
}

/// T4, F1: a pod that no node fits is the cause, and its volume waits for it.
#[test]
fn t4_f1_why_of_an_unscheduled_pod_is_about_the_pod() {
    let mut pod = pod_of("data", "Pending");
    let words = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    pod.status.as_mut().unwrap().conditions = from(
        json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]),
    );
    let class = json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"},
        "volumeBindingMode": "WaitForFirstConsumer"});
    for (reason, said) in [
        ("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        ("WaitForPodScheduled", "waiting for pod web to be scheduled"),
    ] {
        let snapshot = Snapshot {
            classes: vec!["eng".into()],
            our_classes: vec![from(class.clone())],
            disks: vec![disk("n1.a", "n1", 7, &[])],
            reservations: vec![reserved("eng", "eng", 4, &[])],
            pvcs: vec![wants("1Gi")],
            pods: vec![pod.clone()],
            events: vec![event("PersistentVolumeClaim", "data", "Normal", reason, said)],
            ..Snapshot::default()
        };
        let told = ask(&snapshot, &POD, Some("team"), "web").unwrap();
        assert!(told.starts_with(&format!("Pod team/web: Pending: {words}\n")), "{told}");
        for (kind, name) in [(&POD, "web"), (&PVC, "data")] {
            let told = ask(&snapshot, kind, Some("team"), name).unwrap();
            assert!(
                told.contains("next: kubectl describe pod web -n team   # its volume is made on the node"),
                "{told}"
            );
        }
    }
}

/// T4, M3: what a container cannot make in a read-only claim is no fault of something else.
#[test]
fn t4_m3_why_pod_names_the_claim_that_is_read_only() {
    let mut pod = pod_of("data", "Pending");
    let words = "failed to create subPath directory for volumeMount \"d\" of container \"c\"";
    pod.status.as_mut().unwrap().container_statuses = from(json!([{"name": "c", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "CreateContainerConfigError", "message": words}}}]));
    let volumes = vec![ready_volume("v", "eng", true)];
    let mut snapshot =
        Snapshot { pods: vec![pod], claims: vec![bound("data", "v")], volumes, ..Snapshot::default() };
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    assert!(of(&snapshot).contains("it waits for something else"), "{}", of(&snapshot));
    snapshot.claims[0].spec.mode = crate::api::AccessMode::ReadOnly;
    let read_only = "next: kubectl describe pod web -n team   # it has claim data for reading";
    assert!(of(&snapshot).contains(read_only), "{}", of(&snapshot));
    snapshot.claims[0].spec.mode = crate::api::AccessMode::ReadWrite;
    snapshot.volumes[0].spec.sealed = true;
    assert!(of(&snapshot).contains(read_only), "{}", of(&snapshot));
    snapshot.volumes[0].spec.sealed = false;
    let volume = &mut snapshot.pods[0].spec.as_mut().unwrap().volumes.as_mut().unwrap()[0];
    volume.persistent_volume_claim.as_mut().unwrap().read_only = Some(true);
    assert!(of(&snapshot).contains(read_only), "{}", of(&snapshot));
}

/// T4, M2: the kubelet mounts the volumes before it pulls an image or runs an init container, so such a pod waits for neither a
/// mount nor another pod.
#[test]
fn t4_m2_a_pod_that_has_begun_waits_for_no_volume() {
    let mut snapshot = on_volume(pod_of("data", "Pending"));
    snapshot.volumes[0].spec.shared = None;
    snapshot.pods.push(pod_of("data", "Pending"));
    snapshot.pods[1].metadata.name = Some("other".into());
    for (i, pod) in snapshot.pods.iter_mut().enumerate() {
        pod.metadata.uid = Some(i.to_string());
        pod.spec.as_mut().unwrap().node_name = Some("n1".into());
    }
    let container = |name: &str, state: serde_json::Value| json!([{"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
    let pulls =
        container("c", json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}));
    let waits = container("c", json!({"waiting": {"reason": "PodInitializing"}}));
    let runs = container("fetch", json!({"running": {}}));
    for (init, main, said) in
        [(json!(null), pulls, "no such image"), (runs, waits, "its init container fetch has not ended yet")]
    {
        let status = snapshot.pods[0].status.as_mut().unwrap();
        (status.init_container_statuses, status.container_statuses) = (from(init), from(main));
        let web = ask(&snapshot, &POD, Some("team"), "web").unwrap();
        assert!(web.contains(&format!("Pod team/web: Pending: {said}\n")), "{web}");
        assert!(web.contains("next: kubectl describe pod web -n team   # none of its claims waits"), "{web}");
        let other = ask(&snapshot, &POD, Some("team"), "other").unwrap();
        assert!(other.contains("and pod team/web uses it"), "{other}");
    }
}

/// T4, V10: who sees no disks learns from the events of the pod that its node is not Ready, and what may be done about it.
#[test]
fn t4_v10_who_sees_no_disks_has_a_node_looked_for() {
    let mut pod = pod_of("data", "Running");
    pod.metadata.deletion_timestamp = some_time();
    let mut own = bound("data", "v");
    own.metadata.deletion_timestamp = some_time();
    set_not_ready(
        &mut own.status.as_mut().unwrap().conditions,
        crate::api::condition::reason::IN_USE,
        "the claim goes after the end of pod team/web; the data stays",
    );
    let mut snapshot = Snapshot {
        denied: vec![Denied::unseen(&VOLUME), Denied::unseen(&DISK)],
        claims: vec![own],
        pods: vec![pod],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot, kind, name| ask(snapshot, kind, Some("team"), name).unwrap();
    let ends = of(&snapshot, &POD, "web");
    assert!(ends.contains("next: kubectl describe pod web -n team   # it is ending"), "{ends}");
    let told = of(&snapshot, &CLAIM, "data");
    assert!(told.contains("next: kubectl reservoir why pod/web -n team\n"), "somebody has ended it: {told}");
    snapshot.events = vec![event("Pod", "web", "Warning", "NodeNotReady", "Node is not ready")];
    let next =
        "next: have an administrator run: kubectl reservoir why pod/web -n team   # its node is not ready";
    let told = of(&snapshot, &POD, "web");
    assert!(told.contains(", and its node is not Ready\n") && told.contains(next), "{told}");
    snapshot.pods[0].metadata.deletion_timestamp = None;
    let told = of(&snapshot, &POD, "web");
    assert!(told.contains("Running: but its node is not Ready") && told.contains(next), "{told}");
    assert!(of(&snapshot, &CLAIM, "data").contains("end the pods that use the claim"));
    snapshot.pods[0].status.as_mut().unwrap().conditions = from(json!([{"type": "Ready", "status": "True"}]));
    assert!(!of(&snapshot, &POD, "web").contains("not Ready"), "the node is back");
}

/// T4, D4: nothing unmounts the volume of a disk that was declared gone.
#[test]
fn t4_d4_a_pod_on_a_disk_that_is_gone_is_given_up_by_force() {
    let mut snapshot = on_lost_node();
    snapshot.claims = vec![bound("data", "data")];
    snapshot.pods[0].metadata.deletion_timestamp = some_time();
    snapshot.disks[0].spec.gone = true;
    snapshot.volumes[0].status.as_mut().unwrap().node_disk = Some("n1.a".into());
    let told = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(told.ends_with("its data is given up\n") && told.contains("--force --grace-period=0"), "{told}");
    snapshot.disks[0].spec.gone = false;
    assert!(!ask(&snapshot, &POD, Some("team"), "web").unwrap().contains("--force"));
}

/// T4, E1, M6, D4: a pod that runs is told what became of its volume, by the volume or by its own events.
#[test]
fn t4_why_of_a_running_pod_tells_of_its_volume() {
    let mut pod = pod_of("data", "Running");
    pod.metadata.uid = Some("u1".into());
    let mut snapshot = on_volume(pod);
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    assert_eq!(of(&snapshot), "Pod team/web: Running\n");
    snapshot.volumes[0].spec.sealed = true;
    let sealing = "Pod team/web: Running\n  its volume v is being sealed: no new pod writes to it\n";
    assert_eq!(of(&snapshot), sealing);
    snapshot.claims[0].spec.mode = crate::api::AccessMode::ReadOnly;
    assert_eq!(of(&snapshot), "Pod team/web: Running\n", "it reads anyway");
    let mut on = disk("n1.a", "n1", 10, &[]);
    on.spec.gone = true;
    snapshot.disks = vec![on];
    snapshot.volumes[0].status.as_mut().unwrap().node_disk = Some("n1.a".into());
    assert!(
        of(&snapshot).contains("its volume v is on NodeDisk n1.a, which was declared gone"),
        "{}",
        of(&snapshot)
    );

    let of_pod = |reason: &str, uid: &str| {
        let mut told = event("Pod", "web", "Warning", reason, &format!("{reason} of v"));
        told.involved_object.uid = Some(uid.into());
        told
    };
    (snapshot.disks, snapshot.volumes[0].spec.sealed) = (vec![], false);
    snapshot.events = ["VolumeSealed", "NearlyFull", "CopyDiffers", "BackingLost"]
        .map(|reason| of_pod(reason, "u1"))
        .into();
    assert_eq!(of(&snapshot), "Pod team/web: Running\n", "the volume says otherwise by now");
    snapshot.volumes.clear();
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    let told = of(&snapshot);
    for reason in ["VolumeSealed", "NearlyFull", "CopyDiffers", "BackingLost"] {
        assert!(told.contains(&format!("\n  event {reason} of pod web: {reason} of v\n")), "{told}");
    }
    let next =
        "next: have an administrator run: kubectl reservoir why pod/web -n team   # about the events above";
    assert!(told.contains(next), "{told}");
    let claim = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(claim.contains("event NearlyFull of pod web: NearlyFull of v\n"), "{claim}");
    let next = "next: have an administrator run: kubectl reservoir why vclaim/data -n team   # about the events above";
    assert!(claim.contains(next) && !claim.contains("nothing to do"), "{claim}");
    snapshot.events = vec![of_pod("SealWithdrawn", "u1"), of_pod("NearlyFull", "earlier")];
    let told = of(&snapshot);
    assert!(told.contains("event SealWithdrawn of pod web") && !told.contains("NearlyFull"), "{told}");
    // Its containers would go on reading only, however often they start.
    let next = "next: kubectl delete pod web -n team   # it reads only";
    assert!(told.contains(next), "{told}");
    snapshot.pods[0].status.as_mut().unwrap().container_statuses = from(
        json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}]),
    );
    assert!(of(&snapshot).contains(next), "{}", of(&snapshot));
}

/// T4, M2, F1: who may not see volumes sees the claim's node, and the access mode of its PersistentVolumeClaim.
#[test]
fn t4_why_pod_without_rights_blames_nobody_else() {
    let mut first = pod_of("data", "Running");
    (first.metadata.name, first.metadata.uid) = (Some("first".into()), Some("u1".into()));
    first.spec.as_mut().unwrap().node_name = Some("n1".into());
    let mut own = bound("data", "v");
    own.status.as_mut().unwrap().node_name = Some("n1".into());
    let mut of_claim = pvc("data", "Bound", "");
    of_claim.spec.as_mut().unwrap().access_modes = Some(vec!["ReadWriteOncePod".into()]);
    let mut snapshot = Snapshot {
        denied: vec![Denied::unseen(&VOLUME)],
        claims: vec![own],
        pvcs: vec![of_claim],
        pods: vec![pod_of("data", "Pending"), first],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    let told = of(&snapshot);
    assert!(
        told.contains(
            "VolumeClaim team/data is VolumeHeld: its volume v is exclusive, and pod team/first uses it"
        ),
        "{told}"
    );
    assert!(told.contains("next: kubectl describe pod first -n team"), "{told}");
    snapshot.pods.pop();
    snapshot.pods[0].spec.as_mut().unwrap().node_selector =
        Some([("kubernetes.io/hostname".to_owned(), "n2".to_owned())].into());
    let told = of(&snapshot);
    assert!(told.contains("its volume v is on node n1, and the pod asks for node n2"), "{told}");
    // A shared volume may have a copy there (E3).
    let modes = &mut snapshot.pvcs[0].spec.as_mut().unwrap().access_modes;
    let before = modes.replace(vec!["ReadWriteMany".into()]);
    let told = of(&snapshot);
    assert!(
        told.contains(
            "its volume v, whose copies may not be seen with your rights, is on node n1, and the pod asks for"
        ),
        "{told}"
    );
    assert!(
        told.contains(
            "next: have an administrator run: kubectl reservoir why pod/web -n team   # whether volume v"
        ),
        "{told}"
    );
    // The volume has a copy on each node with a running pod of the claim.
    let mut other = pod_of("data", "Running");
    (other.metadata.name, other.metadata.uid) = (Some("there".into()), Some("u2".into()));
    other.spec.as_mut().unwrap().node_name = Some("n3".into());
    snapshot.pods.push(other);
    let told = of(&snapshot);
    assert!(
        told.contains(
            "its volume v, whose other copies may not be seen with your rights, is on node n1, and has complete copies on n3"
        ),
        "{told}"
    );
    snapshot.pods.pop();
    snapshot.pvcs[0].spec.as_mut().unwrap().access_modes = before;
    snapshot.pods[0].spec.as_mut().unwrap().node_selector = None;
    let told = of(&snapshot);
    assert!(
        told.contains("their volumes may not be seen with your rights") && !told.contains("something else"),
        "{told}"
    );
}

/// T4, P2: what the scheduler calls too little free storage is the role's, and not the pod's.
#[test]
fn t4_p2_why_pod_reserves_where_the_role_has_nothing() {
    let class = json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"},
        "volumeBindingMode": "WaitForFirstConsumer"});
    let mut waits = pod_of("data", "Pending");
    let said = "0/2 nodes are available: 1 node(s) didn't match pod anti-affinity rules, 1 node(s) did not have enough free storage.";
    waits.status.as_mut().unwrap().conditions =
        from(json!([{"type": "PodScheduled", "status": "False", "message": said}]));
    let disks = ["n1", "n2"].map(|node| {
        let mut on = disk(&format!("{node}.a"), node, 10, &[]);
        on.status.as_mut().unwrap().free = Some(gi(5));
        on
    });
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: vec![from(class)],
        disks: disks.to_vec(),
        reservations: vec![reserved("eng", "eng", 4, &[])],
        pvcs: vec![wants("1Gi")],
        pods: vec![waits],
        events: vec![event(
            "PersistentVolumeClaim",
            "data",
            "Normal",
            "WaitForPodScheduled",
            "waiting for pod web to be scheduled",
        )],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    let told = of(&snapshot);
    assert!(
        told.contains("next: kubectl reservoir reserve eng-2 --role eng --size 1Gi --node n2   # role eng"),
        "{told}"
    );
    // The controller says the same in an event.
    let waiting = std::mem::replace(
        &mut snapshot.events,
        vec![event(
            "PersistentVolumeClaim",
            "data",
            "Warning",
            "ProvisioningFailed",
            "pod web is on no node yet",
        )],
    );
    for kind in [&POD, &PVC] {
        let name = if kind == &POD { "web" } else { "data" };
        let told = ask(&snapshot, kind, Some("team"), name).unwrap();
        assert!(
            told.contains("next: kubectl reservoir reserve eng-2 --role eng --size 1Gi --node n2"),
            "{told}"
        );
    }
    snapshot.events = waiting;
    snapshot.disks.pop();
    assert!(of(&snapshot).contains("no node was chosen"), "{}", of(&snapshot));
    // Who sees no reservations cannot tell.
    snapshot.denied = vec![Denied::unseen(&RESERVATION)];
    let told = of(&snapshot);
    assert!(
        told.contains(
            "next: have an administrator run: kubectl reservoir why pod/web -n team   # its scheduler finds no"
        ),
        "{told}"
    );
}

/// T4, C5: pods of another one's PersistentVolumeClaim do not use the volume of the claim that waits for the name.
#[test]
fn t4_c5_pods_of_a_foreign_claim_are_no_users() {
    let mut pod = pod_of("data", "Running");
    pod.metadata.uid = Some("uid-team-web".into());
    let mut snapshot = on_volume(pod);
    let status = snapshot.volumes[0].status.as_mut().unwrap();
    let user = crate::api::PodRef { uid: "uid-team-web".into(), ..crate::plan::testing::pod("team", "web") };
    (status.claims, status.users, status.user_count) =
        (vec![bound_by("team", "data", "uid-data")], vec![user], 1);
    let used = |snapshot: &Snapshot| {
        [ask(snapshot, &CLAIM, Some("team"), "data"), ask(snapshot, &VOLUME, None, "v")]
            .map(|said| said.unwrap().contains("used by pod team/web"))
    };
    assert_eq!(used(&snapshot), [true, true]);
    let conditions = &mut snapshot.claims[0].status.as_mut().unwrap().conditions;
    set_not_ready(conditions, crate::api::condition::reason::NAME_TAKEN, "in the way");
    assert_eq!(used(&snapshot), [false, false]);
    assert_eq!(snapshot.users_of("team", "data").count(), 0);
}

/// T4: a Job whose pods run lacks none.
#[test]
fn t4_why_of_a_job_that_runs_looks_for_nothing() {
    let job = |ready: u64| -> kube::api::DynamicObject {
        from(
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": "team", "name": "web"},
            "spec": {"completions": 1, "selector": {"matchLabels": {"a": "b"}}}, "status": {"active": 1, "ready": ready}}),
        )
    };
    let kind = Kind::parse("job").unwrap();
    let of = |ready| {
        let snapshot = Snapshot { workloads: vec![job(ready)], ..Snapshot::default() };
        ask(&snapshot, kind, Some("team"), "web").unwrap()
    };
    assert!(
        of(1).starts_with("Job team/web: Running: 0 of 1 pods have succeeded") && !of(1).contains("next:"),
        "{}",
        of(1)
    );
    assert!(of(0).starts_with("Job team/web: NotReady"), "{}", of(0));

    let try_of = |name: &str, phase: &str, start: &str| -> k8s_openapi::api::core::v1::Pod {
        from(
            json!({"metadata": {"namespace": "team", "name": name, "labels": {"a": "b"}}, "spec": {"containers": []},
            "status": {"phase": phase, "startTime": start}}),
        )
    };
    let mut tries = job(1);
    tries.data["status"]["failed"] = json!(2);
    let pods = vec![
        try_of("web-a", "Failed", "2026-01-01T00:00:20Z"),
        try_of("web-b", "Failed", "2026-01-01T00:00:10Z"),
        try_of("web-c", "Running", "2026-01-01T00:00:30Z"),
    ];
    let snapshot = Snapshot { workloads: vec![tries], pods, ..Snapshot::default() };
    let said = ask(&snapshot, kind, Some("team"), "web").unwrap();
    assert!(
        said.starts_with("Job team/web: Running: 0 of 1 pods have succeeded, and 2 have failed\n"),
        "{said}"
    );
    assert!(said.ends_with("next: kubectl logs web-a -n team --tail=50   # the last pod that has failed; the Job goes on with another one\n"), "{said}");
}

/// T4, D4: who sees neither volumes nor disks is told who looks for the agent, for the pod and for its claim.
#[test]
fn t4_d4_who_sees_no_disks_has_an_agent_looked_for() {
    let mut waits = pod_of("data", "Pending");
    waits.spec.as_mut().unwrap().node_name = Some("n1".into());
    let said = "MountVolume.MountDevice failed for volume \"reservoir-1\" : kubernetes.io/csi: attacher.MountDevice failed to create \
                newCsiDriverClient: driver name csi.reservoir.dev not found in the list of registered CSI drivers";
    let mut snapshot = Snapshot {
        denied: vec![Denied::unseen(&VOLUME), Denied::unseen(&DISK)],
        claims: vec![bound("data", "v")],
        pvcs: vec![pvc("data", "Bound", "")],
        pods: vec![waits],
        events: vec![event("Pod", "web", "Warning", "FailedMount", said)],
        ..Snapshot::default()
    };
    let next = "next: have an administrator run: kubectl reservoir doctor   # no agent of Reservoir serves node n1\n";
    let of = |snapshot: &Snapshot, kind, name| ask(snapshot, kind, Some("team"), name).unwrap();
    for (kind, name) in [(&POD, "web"), (&CLAIM, "data"), (&PVC, "data")] {
        let told = of(&snapshot, kind, name);
        assert!(told.ends_with(next), "{told}");
    }
    let told = of(&snapshot, &CLAIM, "data");
    assert!(
        told.contains("but not of use now: pod web waits, since its node has no agent of Reservoir"),
        "{told}"
    );
    snapshot.events[0].message =
        Some("MountVolume.SetUp failed for volume \"reservoir-1\": timed out".into());
    let told = of(&snapshot, &POD, "web");
    assert!(
        told.contains("run: kubectl reservoir why pod/web -n team   # it waits on node n1 for a mount"),
        "{told}"
    );
    assert!(of(&snapshot, &CLAIM, "data").contains("nothing to do"));
}

/// T4: an image may be called like the driver, and a pod without claims has none that is bound.
#[test]
fn t4_why_pod_takes_an_image_for_no_mount() {
    let mut waits = pod_of("data", "Pending");
    waits.spec.as_mut().unwrap().node_name = Some("n1".into());
    let said = "Failed to pull image \"localhost/reservoir-test:dev\": not found";
    let mut snapshot = Snapshot {
        claims: vec![bound("data", "v")],
        volumes: vec![ready_volume("v", "eng", true)],
        pods: vec![waits],
        events: vec![event("Pod", "web", "Warning", "Failed", said)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    let elsewhere = "next: kubectl describe pod web -n team   # none of its claims waits";
    assert!(of(&snapshot).contains(elsewhere), "{}", of(&snapshot));
    snapshot.events[0].reason = Some("FailedMount".into());
    assert!(
        of(&snapshot).contains("next: kubectl reservoir doctor   # the pod waits for a mount"),
        "{}",
        of(&snapshot)
    );
    snapshot.events.clear();
    (snapshot.pods[0].spec.as_mut().unwrap().volumes, snapshot.pods[0].spec.as_mut().unwrap().node_name) =
        (None, None);
    snapshot.denied = [&VOLUME, &CLAIM].map(Denied::unseen).into();
    assert!(of(&snapshot).contains(elsewhere), "{}", of(&snapshot));
}

/// T4, S7: an agent that refuses a mount is there, and no doctor finds more than its answer.
#[test]
fn t4_s7_why_follows_the_answer_of_the_node() {
    let mut waits = pod_of("data", "Pending");
    waits.spec.as_mut().unwrap().node_name = Some("n1".into());
    let said = "MountVolume.SetUp failed for volume \"reservoir-1\" : rpc error: code = NotFound desc = there is no \
                SharedPersistentVolume v: claim another volume";
    let snapshot = Snapshot {
        pvcs: vec![pvc("data", "Bound", "")],
        pods: vec![waits],
        events: vec![event("Pod", "web", "Warning", "FailedMount", said)],
        ..Snapshot::default()
    };
    let told = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(told.contains("next: do what the message says"), "{told}");
}

/// T4: an event of before, of an earlier object of the name, or of a scheduler that has placed the pod, is no cause.
#[test]
fn t4_why_quotes_no_event_of_before() {
    let kind = Kind::parse("sts").unwrap();
    let refused = "create Pod db-1 in StatefulSet db failed error: pvc d-db-1 is being deleted";
    let at = |mut event: k8s_openapi::api::core::v1::Event, seconds| {
        event.last_timestamp = Some(from(json!(jiff::Timestamp::from_second(seconds).unwrap().to_string())));
        event
    };
    let mut snapshot = Snapshot {
        workloads: vec![from(json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"namespace": "team", "name": "db", "uid": "now"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "db"}}}, "status": {"readyReplicas": 1}}))],
        events: vec![at(event("StatefulSet", "db", "Warning", "FailedCreate", refused), 1)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, kind, Some("team"), "db").unwrap();
    assert!(of(&snapshot).contains("is being deleted"), "{}", of(&snapshot));
    snapshot.events.push(at(event("StatefulSet", "db", "Normal", "SuccessfulCreate", "create Pod db-1"), 2));
    assert!(of(&snapshot).contains("1 of 2 pods are ready\n"), "{}", of(&snapshot));
    snapshot.events.pop();
    snapshot.events[0].involved_object.uid = Some("before".into());
    assert!(of(&snapshot).contains("1 of 2 pods are ready\n"), "{}", of(&snapshot));

    let mut placed = pod_of("data", "Pending");
    placed.metadata.uid = Some("now".into());
    snapshot.pods = vec![placed];
    snapshot.events = vec![event("Pod", "web", "Warning", "FailedScheduling", "0/3 nodes are available")];
    let pod = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap().contains("0/3 nodes");
    assert!(pod(&snapshot));
    snapshot.events[0].involved_object.uid = Some("before".into());
    assert!(!pod(&snapshot), "of an earlier pod");
    snapshot.events[0].involved_object.uid = None;
    snapshot.pods[0].spec.as_mut().unwrap().node_name = Some("n1".into());
    assert!(!pod(&snapshot), "a node has it");
}

/// T4, F3: a pod whose mount a process holds, and its claim and volume, lead to that process.
#[test]
fn t4_f3_why_names_what_holds_the_mount_of_an_ending_pod() {
    let mut pod = pod_of("data", "Failed");
    pod.metadata.uid = Some("u".into());
    pod.metadata.deletion_timestamp = some_time();
    pod.spec.as_mut().unwrap().node_name = Some("n1".into());
    let mut snapshot = on_volume(pod);
    let mut told = event(
        "Pod",
        "web",
        "Warning",
        "MountHeld",
        "node n1 cannot remove the mount of volume v, which is held",
    );
    told.involved_object.uid = Some("u".into());
    snapshot.events = vec![told, event("Pod", "web", "Warning", "FailedKillPod", "later")];
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.contains(": node n1 cannot remove the mount of volume v, which is held\n"), "{said}");
    assert!(said.contains("next: kubectl get events -A --field-selector=reason=MountHeld"), "{said}");
    // Nobody has reported about the mount: the agent may be away.
    let events = std::mem::take(&mut snapshot.events);
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.contains("next: kubectl reservoir doctor   # the containers of the pod have ended, and the agent of node n1"), "{said}");
    snapshot.pods[0].status.as_mut().unwrap().phase = Some("Running".into());
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.contains("next: kubectl describe pod web -n team   # it is ending"), "{said}");
    snapshot.pods[0].status.as_mut().unwrap().phase = Some("Failed".into());
    snapshot.events = events;
    let claim = &mut snapshot.claims[0];
    claim.metadata.deletion_timestamp = some_time();
    set_not_ready(&mut claim.status.as_mut().unwrap().conditions, "Releasing", "being removed");
    let said = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(said.contains("next: kubectl reservoir why pod/web -n team\n"), "{said}");
    snapshot.volumes[0].spec.retire = true;
    let status = snapshot.volumes[0].status.as_mut().unwrap();
    status.claims = vec![bound_by("team", "data", "uid-data")];
    set(
        &mut status.conditions,
        RETIRING,
        Verdict::yes(reason::RETIRING, "destroyed when claim team/data is deleted"),
        None,
        jiff::Timestamp::UNIX_EPOCH,
    );
    let said = ask(&snapshot, &VOLUME, None, "v").unwrap();
    assert!(said.contains("next: kubectl reservoir why vclaim/data -n team\n"), "{said}");
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(
        said.contains("next: have an administrator run: kubectl reservoir why pod/web -n team"),
        "{said}"
    );
}

/// T4: the node takes no PersistentVolume of its driver that somebody else made, and nothing else helps.
#[test]
fn t4_why_pod_knows_a_persistent_volume_of_others() {
    let mut pod = pod_of("data", "Pending");
    pod.spec.as_mut().unwrap().node_name = Some("n1".into());
    let said = format!(
        "MountVolume.SetUp failed: rpc error: volume_id is not a volume handle of Reservoir: {}",
        crate::api::MADE_BY_RESERVOIR
    );
    let snapshot = Snapshot {
        pods: vec![pod],
        pvcs: vec![pvc("data", "Bound", "")],
        events: vec![event("Pod", "web", "Warning", "FailedMount", &said)],
        ..Snapshot::default()
    };
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(
        said.contains("next: kubectl delete pod web -n team   # make it again with a claim to the volume"),
        "{said}"
    );
}
