//! Tests of the answers to why.

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::*;
use crate::api::condition::{READY, RESIZED, Verdict, reason, set};
use crate::api::{LABEL_PVC_UID, UidRef};
use crate::plan::testing::*;
use crate::plugin::kind::{DISK, Kind, RESERVATION, ROLE, SUBSCRIPTION};
use crate::plugin::snapshot::Denied;

fn set_not_ready(conditions: &mut Vec<Condition>, reason: &'static str, message: &str) {
    set(conditions, READY, Verdict::no(reason, message), None, jiff::Timestamp::UNIX_EPOCH);
}

pub(super) fn ask(
    snapshot: &Snapshot,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<String, String> {
    let target = Target { kind, namespace: namespace.map(str::to_owned), name: name.into() };
    why(snapshot, &target).map(|why| text(&why, Paint::plain()))
}

pub(super) fn pod_of(claim: &str, phase: &str) -> Pod {
    serde_json::from_value(serde_json::json!({"metadata": {"namespace": "team", "name": "web"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
            "status": {"phase": phase}}))
        .unwrap()
}

/// A pod whose claim's volume is on an unreachable node.
fn unreachable() -> Snapshot {
    let mut disk = disk("n1.a", "n1", 10, &[("eng", 4)]);
    set_not_ready(
        &mut disk.status.as_mut().unwrap().conditions,
        reason::NODE_UNREACHABLE,
        "node n1 is not Ready",
    );
    let mut volume = ready_volume("data", "eng", true);
    let status = volume.status.as_mut().unwrap();
    set_not_ready(&mut status.conditions, reason::NODE_UNREACHABLE, "NodeDisk n1.a is not ready");
    let mut waits = claim("team", "data", "data");
    set_not_ready(
        &mut waits.status.get_or_insert_default().conditions,
        reason::VOLUME_NOT_READY,
        "volume data is not ready",
    );
    let pods = vec![pod_of("data", "Pending")];
    Snapshot { disks: vec![disk], volumes: vec![volume], claims: vec![waits], pods, ..Snapshot::default() }
}

#[test]
fn t4_why_prints_the_root_first_and_then_its_effects() {
    assert_eq!(
        ask(&unreachable(), &POD, Some("team"), "web").unwrap(),
        "Pod team/web: Pending, for the reasons below\n  \
             because NodeDisk n1.a is NodeUnreachable: node n1 is not Ready\n  \
             so SharedPersistentVolume data is NodeUnreachable: NodeDisk n1.a is not ready\n  \
             so VolumeClaim team/data is VolumeNotReady: volume data is not ready\n  \
             so Pod team/web is Pending\n\
             next: kubectl get nodes   # bring node n1 back, and its data is back; only if the disk is lost for good, give its \
             data up, which cannot be undone: kubectl patch nodedisk n1.a --type=merge -p '{\"spec\":{\"gone\":true}}'\n"
    );
    let pvc = ask(&unreachable(), &PVC, Some("team"), "data").unwrap();
    assert!(
        pvc.contains("because NodeDisk n1.a") && pvc.contains("it belongs to VolumeClaim team/data"),
        "{pvc}"
    );
    assert_eq!(
        ask(&Snapshot::default(), &PVC, Some("team"), "data").unwrap_err(),
        "there is no PersistentVolumeClaim team/data"
    );
}

pub(super) fn pvc(name: &str, phase: &str, class: &str) -> PersistentVolumeClaim {
    from(json!({"metadata": {"namespace": "team", "name": name}, "spec": {"storageClassName": class},
            "status": {"phase": phase}}))
}

pub(super) fn event(kind: &str, name: &str, type_: &str, reason: &str, message: &str) -> Event {
    from(json!({"metadata": {}, "type": type_, "reason": reason, "message": message,
            "involvedObject": {"kind": kind, "namespace": "team", "name": name}}))
}

pub(super) fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
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
    assert!(foreign.starts_with("Pod team/web: Pending: no such image\nnext: kubectl describe pod web -n team   # its claims are bound"), "{foreign}");
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
        same.contains("ProvisioningFailed: 5Gi too little\nnext: kubectl describe pvc data -n team"),
        "{same}"
    );
    snapshot.events =
        vec![event("PersistentVolumeClaim", "data", "Normal", "WaitForFirstConsumer", "waiting")];
    let first = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(first.contains("next: start a pod that uses PersistentVolumeClaim data"), "{first}");

    let mut running = unreachable();
    running.pods = vec![pod_of("data", "Running")];
    assert_eq!(of(&running), "Pod team/web: Running\n");
}

/// T4: "so" stands between cause and effect alone. A silent disk is no cause of a guarantee, and no other claim's trouble is one
/// of a volume that another pod has.
#[test]
fn t4_so_stands_between_cause_and_effect_alone() {
    let mut snapshot = unreachable();
    let mut grows = reserved("grows", "eng", 4, &[]);
    let why = Verdict::no(reason::GUARANTEED, "2Gi asked for are guaranteed to role ops");
    set(&mut grows.status.as_mut().unwrap().conditions, RESIZED, why, None, jiff::Timestamp::UNIX_EPOCH);
    set_ready(&mut grows.status.as_mut().unwrap().conditions, true);
    snapshot.reservations = vec![grows];
    let said = ask(&snapshot, &RESERVATION, None, "grows").unwrap();
    assert!(said.contains("Guaranteed: 2Gi") && !said.contains("n1.a"), "{said}");
    // A reservation that grows is no cause of a node that is away, either.
    snapshot.volumes[0].status.as_mut().unwrap().reservation =
        Some(UidRef { name: "grows".into(), uid: "uid-grows".into() });
    let said = ask(&snapshot, &VOLUME, None, "data").unwrap();
    assert!(said.contains("because NodeDisk n1.a") && !said.contains("Guaranteed"), "{said}");

    let reports = [("because", false), ("and", false), ("so", true)].map(|(word, caused)| {
        let report = Report::of(format!("Pod team/{word}"), "Test", String::new(), true);
        (word, Report { caused, ..report })
    });
    let words = reports.each_ref().map(|(word, _)| format!("  {word} Pod team/{word} is Test\n"));
    let why = Why {
        object: "Pod team/web".into(),
        summary: "Pending, for the reasons below".into(),
        ready: false,
        because: reports.into_iter().map(|(_, report)| report).collect(),
        holders: vec![],
        next: vec![],
    };
    assert!(text(&why, Paint::plain()).ends_with(&words.concat()), "{}", text(&why, Paint::plain()));
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
    let snapshot = Snapshot { volumes: vec![volume], claims: vec![bound], pods, ..Snapshot::default() };
    let answer = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(answer.contains("because VolumeClaim team/data is VolumeHeld: its volume v is exclusive, and pod team/first uses it"), "{answer}");
    assert!(answer.contains("next: kubectl describe pod first -n team"), "{answer}");
    assert_eq!(answer.matches("next: ").count(), 1, "{answer}");
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

/// T4: a PersistentVolumeClaim of a class without a place, and its pod.
#[test]
fn t4_why_pvc_of_a_class_says_what_it_waits_for() {
    let from = |value| serde_json::from_value(value).unwrap();
    let class = from(
        json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"}}),
    );
    let pvc = |selector: serde_json::Value| -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"namespace": "team", "name": "c", "uid": "u"},
            "spec": {"storageClassName": "eng", "accessModes": ["ReadWriteOnce"], "selector": selector,
                "resources": {"requests": {"storage": "3Gi"}}}}))
        .unwrap()
    };
    let mut snapshot = Snapshot {
        pvcs: vec![pvc(json!(null))],
        pods: vec![pod_of("c", "Pending")],
        classes: vec!["eng".into()],
        our_classes: vec![class],
        volumes: vec![made_for_pvc("pvc-2")],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot, kind, name| ask(snapshot, kind, Some("team"), name).unwrap();
    for (kind, name) in [(&PVC, "c"), (&POD, "web")] {
        let answer = of(&snapshot, kind, name);
        assert!(answer.contains("next: kubectl reservoir reserve eng --role eng --size 3Gi"), "{answer}");
    }
    snapshot.reservations = vec![reserved("r", "eng", 4, &[("v", 2)])];
    let answer = of(&snapshot, &PVC, "c");
    assert!(answer.contains("next: kubectl reservoir resize dr/r 5Gi"), "{answer}");
    let mut waits = ready_volume("pvc-u", "eng", false);
    waits.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    set_not_ready(&mut waits.status.as_mut().unwrap().conditions, reason::NODE_UNREACHABLE, "n1 is away");
    snapshot.volumes.push(waits);
    for (kind, name) in [(&PVC, "c"), (&POD, "web")] {
        let answer = of(&snapshot, kind, name);
        assert!(answer.contains("SharedPersistentVolume pvc-u is NodeUnreachable: n1 is away"), "{answer}");
    }
    snapshot.volumes.pop();
    snapshot.pvcs = vec![pvc(json!({"matchLabels": {"a": "b"}}))];
    let answer = of(&snapshot, &PVC, "c");
    assert!(
        answer.contains("next: kubectl delete pvc c -n team   # then make it anew as the message says"),
        "{answer}"
    );
    snapshot.pvcs[0].spec.as_mut().unwrap().volume_name = Some("pv".into());
    let answer = of(&snapshot, &PVC, "c");
    assert!(answer.contains("next: kubectl get pv pv; kubectl delete pvc c -n team"), "{answer}");
    let mut mistyped = claim("team", "d", "pvc-22");
    set_not_ready(&mut mistyped.status.get_or_insert_default().conditions, reason::NO_SUCH_VOLUME, "said");
    snapshot.claims.push(mistyped);
    let answer = of(&snapshot, &CLAIM, "d");
    assert!(!answer.contains("if volume pvc-2 is meant"), "{answer}");
}

fn made_for_pvc(name: &str) -> crate::api::SharedPersistentVolume {
    let mut volume = ready_volume(name, "eng", true);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "other".to_owned())].into());
    volume
}

/// R2, R7, T4: admission refuses a change of such a reservation's size.
#[test]
fn t4_the_size_of_a_template_or_static_reservation_is_changed_where_it_is_said() {
    let mut role = volume_role("scratch", "eng");
    let template = json!([{"name": "other", "size": "1Gi", "diskName": "a"}, {"name": "t", "size": "2Gi", "diskName": "a"}]);
    role.spec.reservation_templates = serde_json::from_value(template).unwrap();
    let mut made = reserved("scratch.t.n1.a", "eng", 2, &[("v", 1)]);
    made.spec.template = Some(crate::api::TemplateRef { volume_role: "scratch".into(), name: "t".into() });
    set_ready(&mut made.status.as_mut().unwrap().conditions, true);
    let mut volume = volume("big", "eng", 3);
    set_not_ready(&mut volume.status.get_or_insert_default().conditions, reason::RESERVATION_FULL, "said");
    let mut snapshot = Snapshot {
        roles: vec![role],
        reservations: vec![made],
        volumes: vec![volume],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &VOLUME, None, "big").unwrap();
    let answer = of(&snapshot);
    assert!(answer.contains(r#"kubectl patch vrole scratch --type=json -p '[{"op":"replace","path":"/spec/reservationTemplates/1/size","value":"4Gi"}]'"#), "{answer}");
    let held = ask(&snapshot, &RESERVATION, None, "scratch.t.n1.a").unwrap();
    assert!(held.contains("it is of template t of VolumeRole scratch\n"), "{held}");
    snapshot.roles.clear();
    assert!(of(&snapshot).contains("make VolumeRole scratch with template t again"), "{}", of(&snapshot));
    let held = ask(&snapshot, &RESERVATION, None, "scratch.t.n1.a").unwrap();
    assert!(held.contains("VolumeRole scratch, which is gone: it ends with its last volume"), "{held}");
    let spec = &mut snapshot.reservations[0].spec;
    (spec.template, spec.is_static) = (None, true);
    assert!(of(&snapshot).contains("have an administrator set size 4Gi for role eng"), "{}", of(&snapshot));
}

/// T4: a condition about a wish of a volume delays no claim, and Bound does not follow from a node that is off.
#[test]
fn t4_why_has_no_cause_that_is_none() {
    let failed = |conditions: &mut Vec<Condition>| {
        let failed = Verdict::no(reason::RESIZE_FAILED, "needs 1Gi");
        set(conditions, RESIZED, failed, None, jiff::Timestamp::UNIX_EPOCH);
    };
    let mut snapshot = unreachable();
    failed(&mut snapshot.volumes[0].status.as_mut().unwrap().conditions);
    set_ready(&mut snapshot.claims[0].status.as_mut().unwrap().conditions, true);
    let bound = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(
            bound.starts_with(
                "VolumeClaim team/data: Test, but not of use now, for the reasons below\n  because NodeDisk n1.a is \
                 NodeUnreachable: node n1 is not Ready\n  so SharedPersistentVolume data is NodeUnreachable: NodeDisk \
                 n1.a is not ready\n  used by pod team/web\nnext: kubectl get nodes"
            ),
            "{bound}"
        );
    let volume = ask(&snapshot, &VOLUME, None, "data").unwrap();
    assert!(volume.contains("  and SharedPersistentVolume data is ResizeFailed: needs 1Gi\n"), "{volume}");
    snapshot.volumes[0] = ready_volume("data", "eng", true);
    failed(&mut snapshot.volumes[0].status.as_mut().unwrap().conditions);
    let conditions = &mut snapshot.claims[0].status.as_mut().unwrap().conditions;
    set_not_ready(conditions, reason::BINDING, "Kubernetes binds it");
    let binding = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(
            binding
                .starts_with("VolumeClaim team/data: Binding: Kubernetes binds it\n  used by pod team/web\nnext: wait a few seconds"),
            "{binding}"
        );
}

/// T4: what is being deleted, or is on a node that is off, is not reported as at rest.
#[test]
fn t4_why_sees_deletions_and_nodes_that_are_off() {
    let deleted = || Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    let mut snapshot = unreachable();
    snapshot.pods = vec![pod_of("data", "Running")];
    snapshot.pods[0].spec.as_mut().unwrap().node_name = Some("n1".into());
    let of = |snapshot: &Snapshot| ask(snapshot, &POD, Some("team"), "web").unwrap();
    let off = of(&snapshot);
    assert!(off.contains("so Pod team/web is Running: but node n1 is not Ready"), "{off}");
    snapshot.pods[0].metadata.deletion_timestamp = deleted();
    let ending = of(&snapshot);
    assert!(
        ending.contains("because NodeDisk n1.a is NodeUnreachable")
            && ending.contains(
                "so Pod team/web is Terminating: it is being deleted since 1970-01-01T00:00:00Z, and \
                                    node n1 is not Ready"
            ),
        "{ending}"
    );
    snapshot.disks.clear();
    snapshot.volumes = vec![ready_volume("data", "eng", true)];
    set_ready(&mut snapshot.claims[0].status.as_mut().unwrap().conditions, true);
    let ending = of(&snapshot);
    assert!(ending.contains("next: kubectl describe pod web -n team   # it is ending"), "{ending}");
    let mut ended = pvc("data", "Bound", "ours");
    ended.metadata.deletion_timestamp = deleted();
    snapshot.pvcs = vec![ended];
    let used = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(
        used.starts_with("PersistentVolumeClaim team/data: Terminating: ")
            && used.contains("next: kubectl reservoir tree"),
        "{used}"
    );
    snapshot.claims[0].metadata.deletion_timestamp = deleted();
    let claim = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(claim.starts_with("VolumeClaim team/data: Deleting"), "{claim}");
}

/// T4, P3: a size is asked for where it is written.
#[test]
fn t4_p3_resize_names_the_object_that_has_the_size() {
    let mut bound = claim("team", "data", "v");
    bound.status.get_or_insert_default().volume = Some(UidRef { name: "v".into(), uid: "uid-v".into() });
    let mut snapshot = Snapshot { claims: vec![bound], ..Snapshot::default() };
    let instead = |snapshot: &Snapshot, kind| {
        resize_instead(snapshot, &Target::new(kind, Some("team".into()), "data".into()), "2Gi")
    };
    assert!(instead(&snapshot, &PVC).ends_with("kubectl reservoir resize spv/v 2Gi"));
    snapshot.claims.clear();
    let patch =
        "kubectl patch pvc data -n team -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"2Gi\"}}}}'";
    let step = instead(&snapshot, &PVC);
    assert!(step.contains(patch), "{step}");
    assert_eq!(instead(&snapshot, &POD), "a Pod has no size: resize spv/NAME or dr/NAME");
}

/// T4: a StorageClass that does not exist is not somebody else's.
#[test]
fn t4_why_pvc_sees_a_mistyped_class() {
    let mut snapshot = Snapshot {
        pvcs: vec![pvc("data", "Pending", "enng")],
        classes: vec!["eng".into()],
        other_classes: vec!["local".into()],
        ..Snapshot::default()
    };
    let next = |snapshot: &Snapshot| {
        let answer = ask(snapshot, &PVC, Some("team"), "data").unwrap();
        answer.split_once("next: ").unwrap().1.to_owned()
    };
    let near = next(&snapshot);
    assert!(
        near.starts_with("kubectl delete pvc data -n team   # then make it with storageClassName eng"),
        "{near}"
    );
    snapshot.classes_unseen = true;
    assert!(next(&snapshot).contains("you may not see StorageClasses"));
    snapshot.classes_unseen = false;
    snapshot.classes.clear();
    assert!(next(&snapshot).starts_with("kubectl get storageclasses   # none is called enng"));
    snapshot.other_classes.push("enng".into());
    assert!(next(&snapshot).contains("its StorageClass is not Reservoir's"));
}

/// T4: a subscription that offers nothing by a mistake says which.
#[test]
fn t4_why_of_a_subscription_sees_a_mistyped_role() {
    let mut of = subscription("team", &["egn"], true);
    set_ready(&mut of.status.get_or_insert_default().conditions, true);
    let mut snapshot = Snapshot {
        subscriptions: vec![of],
        reservations: vec![reserved("eng", "eng", 1, &[])],
        ..Snapshot::default()
    };
    let why = |snapshot: &Snapshot| ask(snapshot, &SUBSCRIPTION, Some("team"), "sub").unwrap();
    let answer = why(&snapshot);
    assert!(
        answer.contains(
            "next: kubectl reservoir unsubscribe egn -n team && kubectl reservoir subscribe eng -n team"
        ),
        "{answer}"
    );
    snapshot.subscriptions[0].spec.roles = vec!["eng".into()];
    assert!(!why(&snapshot).contains("next: "));
    snapshot.subscriptions[0].spec.capabilities.clear();
    assert!(why(&snapshot).contains("next: kubectl patch rolesubscription sub -n team"));
}

/// T4: a workload waits for its first waiting pod. For a workload without pods the answer has the reason.
#[test]
fn t4_why_of_a_workload_is_that_of_its_pods() {
    let kind = Kind::parse("sts").unwrap();
    let mut snapshot = unreachable();
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
        none.contains("NotReady: 1 of 2 pods are ready: exceeded quota\nnext: kubectl describe sts db"),
        "{none}"
    );
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
    assert!(ask(&snapshot, kind, Some("team"), "bd").unwrap_err().contains("did you mean db?"));
}

/// T4, P3: a growth that cannot be met is the answer for a PersistentVolumeClaim that is bound.
#[test]
fn t4_p3_why_pvc_tells_of_a_growth_that_waits() {
    let mut grows = pvc("data", "Bound", "ours");
    grows.metadata.uid = Some("u".into());
    let storage = |size: &str| Some([("storage".to_owned(), Quantity(size.to_owned()))].into());
    grows.spec.as_mut().unwrap().resources =
        Some(VolumeResourceRequirements { requests: storage("2Gi"), ..Default::default() });
    grows.status.as_mut().unwrap().capacity = storage("1Gi");
    let mut volume = ready_volume("pvc-u", "eng", false);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let mut snapshot = Snapshot {
        volumes: vec![volume],
        pvcs: vec![grows],
        classes: vec!["ours".into()],
        ..Snapshot::default()
    };
    let waits = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(waits.contains("Resizing: 2Gi requested, and its volume has 1Gi now\n"), "{waits}");
    let told =
        event("PersistentVolumeClaim", "data", "Warning", "VolumeResizeFailed", "the verb resize lacks");
    snapshot.events = vec![told];
    let refused = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(
        refused.contains("the verb resize lacks") && refused.contains("next: kubectl describe pvc data"),
        "{refused}"
    );
    set(
        &mut snapshot.volumes[0].status.as_mut().unwrap().conditions,
        RESIZED,
        Verdict::no(reason::RESERVATION_FULL, "it is full"),
        None,
        jiff::Timestamp::UNIX_EPOCH,
    );
    snapshot.reservations = vec![reserved("eng", "eng", 1, &[("pvc-u", 1)])];
    let full = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(full.contains("because SharedPersistentVolume pvc-u is ReservationFull: it is full"), "{full}");
    snapshot.pvcs[0].status.as_mut().unwrap().capacity = storage("2Gi");
    let done = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(!done.contains("Resizing"), "{done}");
}

/// T4, P4: the claim of a StatefulSet's healthy PersistentVolumeClaim is not to be deleted.
#[test]
fn t4_p4_why_never_advises_to_delete_a_healthy_claim() {
    let mut made = claim("team", "data", "v");
    set_ready(&mut made.status.get_or_insert_default().conditions, true);
    let pods = vec![pod_of("data", "Running")];
    let mut snapshot = Snapshot { claims: vec![made], pods, ..Snapshot::default() };
    let plain = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(plain.contains("the data kept: kubectl reservoir unclaim data -n team"), "{plain}");
    snapshot.claims.clear();
    snapshot.pvcs = vec![pvc("data", "Bound", "ours")];
    snapshot.pvcs[0].metadata.uid = Some("u".into());
    let mut volume = ready_volume("pvc-u", "eng", false);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    snapshot.volumes = vec![volume];
    let answer = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(answer.contains("there is nothing to do") && !answer.contains("kubectl "), "{answer}");
}

/// T4: an object that the caller may not see is not reported as missing.
#[test]
fn t4_why_does_not_deny_what_may_not_be_seen() {
    let blind = Snapshot { denied: vec![Denied::unseen(&VOLUME)], ..Snapshot::default() };
    let said = ask(&blind, &VOLUME, None, "data").unwrap_err();
    assert_eq!(
        said,
        "SharedPersistentVolume data may not be seen with your rights: have an administrator run: kubectl reservoir why spv/data"
    );
}

/// T4: for an object of every kind with every reason, `why` prints the object's own message and a
/// complete next step.
#[test]
fn t4_why_prints_message_and_next_step_of_every_reason() {
    for (reason, doc) in reason::ALL {
        let mut snapshot = Snapshot {
            disks: vec![disk("n1.a", "n1", 10, &[])],
            roles: vec![volume_role("x", "eng")],
            reservations: vec![reservation("x", "ops", 1)],
            volumes: vec![volume("x", "eng", 1)],
            claims: vec![claim("team", "x", "gone")],
            ..Snapshot::default()
        };
        for conditions in [
            &mut snapshot.disks[0].status.as_mut().unwrap().conditions,
            &mut snapshot.roles[0].status.get_or_insert_default().conditions,
            &mut snapshot.reservations[0].status.get_or_insert_default().conditions,
            &mut snapshot.volumes[0].status.get_or_insert_default().conditions,
            &mut snapshot.claims[0].status.get_or_insert_default().conditions,
        ] {
            set_not_ready(conditions, reason, "its own message");
        }
        let kinds = [
            (&DISK, None, "n1.a"),
            (&ROLE, None, "x"),
            (&RESERVATION, None, "x"),
            (&VOLUME, None, "x"),
            (&CLAIM, Some("team"), "x"),
        ];
        // The comment of a reason begins with the kinds that have it.
        let of = doc[0].trim().split_once(':').map(|(kinds, _)| kinds.to_lowercase()).unwrap_or_default();
        let has = |kind: &Kind| of.split(", ").any(|of| kind.name.to_lowercase().ends_with(of));
        let any = of.is_empty() || !kinds.iter().any(|(kind, ..)| has(kind));
        for (kind, namespace, name) in kinds.into_iter().filter(|(kind, ..)| any || has(kind)) {
            let answer = ask(&snapshot, kind, namespace, name).unwrap();
            assert!(
                answer.starts_with(&format!("{} ", kind.name))
                    && answer.contains(&format!("{name}: {reason}: its own message")),
                "{answer}"
            );
            assert!(answer.contains("\nnext: "), "{reason}: {answer}");
            let step = answer.split_once("\nnext: ").unwrap().1.split("   #").next().unwrap();
            let capitals = |word: &str| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase());
            let blank =
                step.contains(['{', '<']) && !step.contains("-p '{") || step.split([' ', '/']).any(capitals);
            assert!(!blank && !step.contains("  ") && !step.contains("--role  "), "{reason}: {answer}");
        }
    }
}

#[test]
fn t4_why_names_holders_and_earlier_reservations() {
    let mut held = ready_volume("v", "eng", false);
    let status = held.status.as_mut().unwrap();
    status.claims = vec![bound_by("other", "holder", "u0")];
    (status.users, status.user_count) = (vec![pod("other", "p")], 1);
    let mut waits = claim("team", "c", "v");
    set_not_ready(&mut waits.status.get_or_insert_default().conditions, reason::VOLUME_HELD, "it is held");
    let mut last = reservation("last", "eng", 99);
    last.metadata.creation_timestamp = later();
    set_not_ready(&mut last.status.get_or_insert_default().conditions, reason::NOT_ENOUGH_ROOM, "too little");
    let snapshot = Snapshot {
        disks: vec![disk("n1.a", "n1", 100, &[("r", 90)])],
        volumes: vec![held],
        claims: vec![waits],
        reservations: vec![last, reservation("first", "eng", 50)],
        ..Snapshot::default()
    };
    let answer = ask(&snapshot, &CLAIM, Some("team"), "c").unwrap();
    assert!(answer.contains("held by claim other/holder\n  and used by pod other/p\n"), "{answer}");
    let answer = ask(&snapshot, &VOLUME, None, "v").unwrap();
    assert!(
        answer.contains("claimed by other/holder (ReadWrite)")
            && answer.contains("kubectl reservoir retire v"),
        "{answer}"
    );
    let answer = ask(&snapshot, &RESERVATION, None, "last").unwrap();
    assert!(
        answer.contains("before it in the queue, by the shares of the roles: first (eng, 50Gi)"),
        "{answer}"
    );
    let small = Snapshot { disks: vec![disk("n1.a", "n1", 98, &[("r", 90)])], ..snapshot };
    let answer = ask(&small, &RESERVATION, None, "last").unwrap();
    assert!(!answer.contains("queue"), "99Gi never fit: {answer}");
}

#[test]
fn t4_an_unknown_name_is_answered_with_the_nearest() {
    let snapshot = unreachable();
    let wrong = |kind, namespace, name| ask(&snapshot, kind, namespace, name).unwrap_err();
    assert_eq!(wrong(&VOLUME, None, "dta"), "there is no SharedPersistentVolume dta; did you mean data?");
    assert_eq!(
        wrong(&CLAIM, Some("other"), "data"),
        "there is no VolumeClaim other/data; there is one in namespace team: add -n team"
    );
    assert_eq!(wrong(&DISK, None, "xyz"), "there is no NodeDisk xyz");
}
