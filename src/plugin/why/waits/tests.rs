//! Tests of the answers about pods and PersistentVolumeClaims that wait for something else than a condition.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::api::condition::{READY, Verdict, reason, set};
use crate::api::{LABEL_PVC_UID, UidRef};
use crate::plan::testing::*;
use crate::plugin::kind::{CLAIM, Kind, POD, PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;
use crate::plugin::why::tests::{ask, event, from, pod_of, pvc};

fn bound(name: &str, volume: &str) -> crate::api::VolumeClaim {
    let mut bound = claim("team", name, volume);
    let status = bound.status.get_or_insert_default();
    status.volume = Some(UidRef { name: volume.into(), uid: format!("uid-{volume}") });
    set_ready(&mut status.conditions, true);
    bound
}

fn deployment(labels: Value) -> kube::api::DynamicObject {
    from(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "team", "name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}}, "status": {}}),
    )
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
    let init = json!([{"name": "i", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "PodInitializing"}}}]);
    snapshot.pods[0].status.as_mut().unwrap().container_statuses = from(init);
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.starts_with("Pod team/web: Running"), "it starts: {said}");
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
    let mut snapshot = Snapshot {
        claims: vec![bound("data", "v")],
        volumes: vec![ready_volume("v", "eng", true)],
        pods: vec![pod],
        ..Snapshot::default()
    };
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

/// T4, F3: a PersistentVolumeClaim that a finished pod keeps says so, whoever made it, and so does its claim.
#[test]
fn t4_f3_why_names_what_keeps_a_persistent_volume_claim() {
    let mut own = bound("data", "v");
    own.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let mut ending = pvc("data", "Bound", "ours");
    ending.metadata.deletion_timestamp = some_time();
    let mut snapshot = Snapshot {
        claims: vec![own],
        volumes: vec![ready_volume("v", "eng", true)],
        pvcs: vec![ending],
        pods: vec![pod_of("data", "Succeeded")],
        classes: vec!["ours".into()],
        ..Snapshot::default()
    };
    let both =
        |snapshot: &Snapshot| [&PVC, &CLAIM].map(|kind| ask(snapshot, kind, Some("team"), "data").unwrap());
    for said in both(&snapshot) {
        assert!(said.contains("Terminating: it is being deleted") && !said.contains("Bound"), "{said}");
        assert!(
            said.contains("pod team/web is finished, and Kubernetes keeps PersistentVolumeClaim data"),
            "{said}"
        );
        assert!(said.contains("next: kubectl delete pod web -n team"), "{said}");
    }
    snapshot.pods.clear();
    snapshot.pvcs[0].metadata.finalizers = Some(vec!["example.com/keep".into()]);
    for said in both(&snapshot) {
        assert!(said.contains("finalizer example.com/keep keeps it\n"), "{said}");
    }
    // That of a claim of one's own comes back.
    snapshot.claims[0].metadata.labels = None;
    snapshot.pods = vec![pod_of("data", "Running")];
    for said in both(&snapshot) {
        assert!(said.contains("its VolumeClaim makes it anew when it is gone"), "{said}");
        assert!(
            said.contains("next: kubectl reservoir tree -n team   # it is made anew by itself"),
            "{said}"
        );
    }
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
    let none = Snapshot { events: vec![], ..snapshot };
    let said = ask(&none, &POD, Some("team"), "web").unwrap();
    assert!(said.contains("next: kubectl describe pod web -n team"), "{said}");
}

fn wants(size: &str) -> k8s_openapi::api::core::v1::PersistentVolumeClaim {
    let mut wants = pvc("data", "Pending", "eng");
    wants.spec.as_mut().unwrap().resources = from(json!({"requests": {"storage": size}}));
    wants
}

/// T4, P2: the numbers are those of now, and no step has a size that no disk has.
#[test]
fn t4_p2_why_pvc_has_numbers_that_are_true() {
    let class = json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"},
        "volumeBindingMode": "WaitForFirstConsumer"});
    let mut on = disk("n1.a", "n1", 7, &[]);
    on.status.as_mut().unwrap().free = Some(gi(2));
    let old = "no node has a place for the volume: 10Gi asked for, eng has 0 left";
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: vec![from(class)],
        disks: vec![on],
        reservations: vec![reserved("eng", "eng", 4, &[("x", 3)])],
        pvcs: vec![wants("10Gi")],
        pods: vec![pod_of("data", "Pending")],
        events: vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", old)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    let said = of(&snapshot);
    assert!(said.contains("10Gi asked for, eng has 1Gi left"), "{said}");
    assert!(
        said.contains("next: kubectl delete pvc data -n team   # no disk has more for it than 3Gi"),
        "{said}"
    );
    snapshot.pvcs[0].metadata.owner_references =
        from(json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u"}]));
    assert!(
        of(&snapshot)
            .contains("next: kubectl delete pod web -n team   # no disk has more for its ephemeral volume")
    );
    snapshot.pvcs = vec![wants("3Gi")];
    assert!(of(&snapshot).contains("next: kubectl reservoir resize dr/eng 6Gi"), "{}", of(&snapshot));
    // The events of a PersistentVolumeClaim without a controller name nothing.
    snapshot.pvcs = vec![wants("1Gi")];
    snapshot.events = vec![event(
        "PersistentVolumeClaim",
        "data",
        "Normal",
        "ExternalProvisioning",
        "waiting for csi.reservoir.dev",
    )];
    assert!(of(&snapshot).contains("next: kubectl reservoir doctor"), "{}", of(&snapshot));
}

/// T4, P3: a volume that grows while no pod has it mounted waits for its pods, and not for a log.
#[test]
fn t4_p3_why_names_the_pods_that_a_growth_waits_for() {
    let mut volume = ready_volume("pvc-u", "eng", false);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let status = volume.status.as_mut().unwrap();
    (status.users, status.user_count) = (vec![crate::plan::testing::pod("team", "db-0")], 1);
    let busy = "ext4 is busy: wait until the last process that uses it is gone";
    status.node.as_mut().unwrap().resize_failed = Some(busy.into());
    let why = Verdict::no(reason::RESIZE_FAILED, busy);
    set(&mut status.conditions, crate::api::condition::RESIZED, why, None, jiff::Timestamp::UNIX_EPOCH);
    set(
        &mut status.conditions,
        READY,
        Verdict::yes(reason::READY, "64Mi"),
        None,
        jiff::Timestamp::UNIX_EPOCH,
    );
    let snapshot = Snapshot { volumes: vec![volume], ..Snapshot::default() };
    let said = ask(&snapshot, &VOLUME, None, "pvc-u").unwrap();
    assert!(
        said.contains("next: kubectl describe pod db-0 -n team   # the volume grows while no pod"),
        "{said}"
    );
}

/// T4: a PersistentVolumeClaim with enough space that it cannot have, and a pod that cannot end, wait for a disk or a class.
#[test]
fn t4_why_leads_to_the_disk_that_is_not_ready() {
    let class = |more: Value| {
        let mut class = json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"},
            "volumeBindingMode": "WaitForFirstConsumer"});
        class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        vec![from(class)]
    };
    let mut down = disk("n1.a", "n1", 7, &[]);
    let why = Verdict::no(reason::DISK_REFUSED, "it is not configured any more");
    set(&mut down.status.as_mut().unwrap().conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let mut ready = ready_volume("v", "eng", true);
    ready.status.as_mut().unwrap().node_disk = Some("n1.a".into());
    let mut ending = pod_of("used", "Running");
    (ending.metadata.name, ending.metadata.deletion_timestamp) = (Some("old".into()), some_time());
    let said_before = "ProvisioningFailed";
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: class(json!({})),
        disks: vec![down],
        reservations: vec![reserved("eng", "eng", 4, &[])],
        pvcs: vec![wants("1Gi"), pvc("used", "Bound", "eng")],
        claims: vec![bound("used", "v")],
        volumes: vec![ready],
        pods: vec![pod_of("data", "Pending"), ending],
        events: vec![event("PersistentVolumeClaim", "data", "Warning", said_before, "not ready")],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(of(&snapshot).contains("next: kubectl reservoir why nd/n1.a"), "{}", of(&snapshot));
    let ending = ask(&snapshot, &POD, Some("team"), "old").unwrap();
    assert!(ending.contains("because NodeDisk n1.a is DiskRefused"), "{ending}");
    snapshot.our_classes = class(json!({"parameters": {"role": "eng", "reservation": "eng"},
        "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]}));
    assert!(of(&snapshot).contains("next: kubectl get storageclass eng -o yaml"), "{}", of(&snapshot));
}

/// T4, F5: data of an earlier PersistentVolumeClaim of the name is told where one looks.
#[test]
fn t4_f5_why_pvc_tells_of_old_data() {
    let mut own = bound("data", "v");
    own.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let snapshot = Snapshot {
        claims: vec![own],
        volumes: vec![ready_volume("v", "eng", true)],
        pvcs: vec![pvc("data", "Bound", "ours")],
        events: vec![event(
            "PersistentVolumeClaim",
            "data",
            "Warning",
            "OldDataKept",
            "volume w has old data",
        )],
        ..Snapshot::default()
    };
    let said = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(said.contains("\n  volume w has old data\n"), "{said}");
}

/// T4, X5: a claim to a volume that is being destroyed is not told to end the use of others, which ends their data.
#[test]
fn t4_why_never_advises_to_end_the_use_of_others() {
    let mut volume = ready_volume("v", "eng", true);
    let status = volume.status.as_mut().unwrap();
    (status.claims, status.user_count) = (vec![bound_by("other", "c", "u")], 1);
    let why = Verdict::no(reason::DESTROYING, "it waits for claim other/c");
    set(&mut status.conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let mut late = claim("team", "late", "v");
    let conditions = &mut late.status.get_or_insert_default().conditions;
    let why = Verdict::no(reason::VOLUME_DESTROYING, "volume v is being destroyed; claim another one");
    set(conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let snapshot = Snapshot { volumes: vec![volume], claims: vec![late], ..Snapshot::default() };
    let said = ask(&snapshot, &CLAIM, Some("team"), "late").unwrap();
    assert!(said.contains("claim another one\n") && !said.contains("end the claims"), "{said}");
    assert!(said.contains("next: kubectl get volumeoffers -n team"), "{said}");
}
