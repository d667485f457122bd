//! Tests of the answers about PersistentVolumeClaims.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, VolumeResourceRequirements};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::condition::{READY, RESIZED, Verdict, reason, set};
use crate::api::{LABEL_PVC_UID, UidRef};
use crate::plan::testing::*;
use crate::plugin::kind::{CLAIM, DISK, Kind, POD, PVC, RESERVATION, VOLUME};
use crate::plugin::snapshot::{Denied, Snapshot};
use crate::plugin::why::testing::*;
use crate::plugin::why::{Target, resize_instead};

/// T4, F3: the report about a PersistentVolumeClaim names the finished pod that keeps it, whoever made it. So does that about its claim.
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
    // The agent of a disk that was declared gone unmounts nothing of it any more (D4).
    let mut gone = disk("n1.a", "n1", 7, &[]);
    gone.spec.gone = true;
    set_ready(&mut gone.status.as_mut().unwrap().conditions, false);
    snapshot.disks = vec![gone];
    snapshot.pods[0].metadata.deletion_timestamp = some_time();
    for said in both(&snapshot) {
        assert!(said.contains("next: kubectl delete pod web -n team --force --grace-period=0"), "{said}");
    }
    snapshot.disks.clear();
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
        said.contains(
            "next: kubectl delete pvc data -n team   # then make it anew with 3Gi, as no disk has more"
        ),
        "{said}"
    );
    snapshot.pvcs[0].metadata.owner_references =
        from(json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u"}]));
    assert!(of(&snapshot).contains(
        "next: kubectl delete pod web -n team   # make it again with 3Gi, as no disk has more for it, or add a disk: the fields"
    ));
    // A StatefulSet makes it again as it was.
    snapshot.pvcs[0].metadata.owner_references = None;
    snapshot.pvcs[0].metadata.name = Some("data-db-0".into());
    snapshot.pods = vec![pod_of("data-db-0", "Pending")];
    snapshot.pods[0].metadata.name = Some("db-0".into());
    snapshot.pods[0].metadata.owner_references =
        from(json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u"}]));
    let told = ask(&snapshot, &PVC, Some("team"), "data-db-0").unwrap();
    let set = "next: kubectl delete sts db -n team --cascade=orphan && kubectl delete pvc data-db-0 -n team   # a StatefulSet makes";
    assert!(told.contains(set) && told.contains("make the StatefulSet anew with 3Gi"), "{told}");
    snapshot.our_classes.clear();
    snapshot.classes = vec!["engg".into()];
    let told = ask(&snapshot, &PVC, Some("team"), "data-db-0").unwrap();
    assert!(told.contains(set) && told.contains("with storageClassName engg, if that is meant"), "{told}");
    let told = resize_instead(&snapshot, &Target::new(&PVC, Some("team".into()), "dta-db-0".into()), "1Gi");
    assert_eq!(
        told, "there is no PersistentVolumeClaim team/dta-db-0; did you mean data-db-0?",
        "no command with it"
    );
    let class = json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": {"role": "eng"},
        "volumeBindingMode": "WaitForFirstConsumer"});
    (snapshot.our_classes, snapshot.classes) = (vec![from(class)], vec!["eng".into()]);
    snapshot.pods = vec![pod_of("data", "Pending")];
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

fn class_of(parameters: Value, mode: &str) -> StorageClass {
    from(json!({"metadata": {"name": "eng"}, "provisioner": "csi.reservoir.dev", "parameters": parameters,
        "volumeBindingMode": mode}))
}

fn of_driver(name: &str, provisioner: &str) -> StorageClass {
    from(json!({"metadata": {"name": name}, "provisioner": provisioner}))
}

/// T4: a class that was deleted, or made anew, is told as it is now, and not as an event of before has it.
#[test]
fn t4_why_pvc_is_about_the_class_as_it_is_now() {
    let old = "StorageClass eng says keepFor `3d`; make the class anew";
    let mut snapshot = Snapshot {
        other_classes: vec![of_driver("local", "local-path")],
        pvcs: vec![wants("1Gi")],
        events: vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", old)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    let gone = of(&snapshot);
    assert!(gone.contains("ProvisioningFailed: there is no StorageClass eng\n"), "{gone}");
    snapshot.classes = vec!["eng".into()];
    snapshot.our_classes = vec![class_of(json!({"role": "eng", "keepFor": "3d"}), "Immediate")];
    let wrong = of(&snapshot);
    assert!(wrong.contains("next: kubectl get storageclass eng -o yaml   # delete it"), "{wrong}");
    snapshot.our_classes = vec![class_of(json!({"role": "eng", "keepFor": "72h"}), "WaitForFirstConsumer")];
    let well = of(&snapshot);
    assert!(well.contains("next: start a pod that uses PersistentVolumeClaim data"), "{well}");
    // Kubernetes said so before the class was made.
    snapshot.our_classes = vec![class_of(json!({"role": "eng"}), "Immediate")];
    snapshot.reservations = vec![reserved("eng", "eng", 4, &[])];
    let missed = "storageclass.storage.k8s.io \"eng\" not found";
    snapshot.events = vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", missed)];
    let made = of(&snapshot);
    assert!(made.contains("Pending: Kubernetes has reported no cause yet"), "{made}");
}

/// T4: what the API server refused has its own step, and a quoted event leads not to itself.
#[test]
fn t4_why_pvc_has_the_step_of_a_refusal() {
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: vec![class_of(json!({"role": "eng"}), "Immediate")],
        pvcs: vec![wants("1Gi")],
        ..Snapshot::default()
    };
    let verbs = "the service accounts of namespace team lack the verb create on volumeroles.reservoir.dev/eng: have an \
                 administrator run: kubectl reservoir grant eng --verbs create,use,resize --to group system:serviceaccounts:team";
    let quota = "sharedpersistentvolumes.reservoir.dev \"a\" is forbidden: exceeded quota: q, requested: x";
    for (said, next) in [
        (
            verbs,
            "have an administrator run: kubectl reservoir grant eng --verbs create,use,resize --to group \
             system:serviceaccounts:team   # what was refused is tried again within a minute\n",
        ),
        (quota, "kubectl get resourcequotas,limitranges -n team "),
    ] {
        snapshot.events = vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", said)];
        for (kind, name) in [(&PVC, "data"), (&POD, "web")] {
            snapshot.pods = vec![pod_of("data", "Pending")];
            let told = ask(&snapshot, kind, Some("team"), name).unwrap();
            assert!(told.contains(&format!("next: {next}")), "{told}");
        }
    }
    snapshot.reservations = vec![reserved("engg", "engg", 4, &[])];
    snapshot.events = vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", verbs)];
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("next: kubectl get storageclass eng -o yaml   # if role engg is meant"), "{told}");
    snapshot.reservations.clear();
    // Somebody may have granted it since.
    snapshot.events = vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", verbs)];
    for (seconds, age) in [(40, "40 s"), (400, "6 min")] {
        let at = Timestamp::now() - SignedDuration::from_secs(seconds);
        snapshot.events[0].last_timestamp = Some(Time(at));
        let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
        assert!(told.contains(&format!("ProvisioningFailed: {age} ago: the service accounts")), "{told}");
        assert!(told.contains("next: have an administrator run: kubectl reservoir grant eng"), "{told}");
    }
    snapshot.reservations = vec![reserved("eng", "eng", 4, &[])];
    snapshot.events =
        vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", "no, says a webhook")];
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("next: do what the message says; Reservoir tries again by itself"), "{told}");
    // The node of the only reservation is cordoned.
    let mut on = disk("n1.a", "n1", 7, &[]);
    on.status.as_mut().unwrap().cordoned = true;
    snapshot.disks = vec![on];
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("next: kubectl uncordon n1 "), "{told}");
}

/// T4, P4: a PersistentVolumeClaim that lost its PersistentVolume gets none again, and its volume is still there.
#[test]
fn t4_p4_a_lost_persistent_volume_claim_leads_to_its_volume() {
    let mut lost = pvc("data", "Lost", "eng");
    lost.metadata.uid = Some("u".into());
    let mut volume = ready_volume("pvc-u", "eng", false);
    volume.metadata.labels = Some([(crate::api::LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        pvcs: vec![lost],
        volumes: vec![volume],
        ..Snapshot::default()
    };
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("kubectl reservoir claim data --role eng --volume pvc-u -n team"), "{told}");
    // Its deletion would end a volume that retires, with its data.
    snapshot.volumes[0].spec.retire = true;
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("next: kubectl reservoir unretire pvc-u") && !told.contains("stays"), "{told}");
    snapshot.volumes[0].metadata.deletion_timestamp = crate::plan::testing::some_time();
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(
        told.contains("is destroyed after its last use") && !told.contains("kubectl delete pvc"),
        "{told}"
    );
}

/// T4, P4: no step names a PersistentVolume that is gone, and without a reclaim policy the data stays.
#[test]
fn t4_p4_an_ending_claim_without_its_persistent_volume_keeps_its_data() {
    let mut ending = pvc("data", "Lost", "eng");
    ending.metadata.uid = Some("u".into());
    ending.metadata.deletion_timestamp = some_time();
    ending.spec.as_mut().unwrap().volume_name = Some("reservoir-u".into());
    let mut volume = ready_volume("pvc-u", "eng", false);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        pvcs: vec![ending],
        volumes: vec![volume],
        pods: vec![pod_of("data", "Running")],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    let told = of(&snapshot);
    assert!(told.contains("PersistentVolume reservoir-u is gone, and its data stays"), "{told}");
    assert!(told.contains("next: kubectl describe pvc data -n team"), "{told}");
    snapshot.volumes[0].spec.retire = true;
    let told = of(&snapshot);
    assert!(told.contains("next: kubectl reservoir unretire pvc-u   # keeps the volume; else end"), "{told}");
}

/// T4, P3: a PersistentVolumeClaim whose volume somebody removed by force waits for no growth, and gets no volume again.
#[test]
fn t4_p3_a_bound_claim_without_its_volume_is_made_anew() {
    let mut bound = pvc("data", "Bound", "eng");
    bound.metadata.uid = Some("u".into());
    let spec = bound.spec.as_mut().unwrap();
    spec.volume_name = Some("reservoir-u".into());
    let size = |size: &str| Some([("storage".to_owned(), Quantity(size.to_owned()))].into());
    spec.resources = Some(VolumeResourceRequirements { requests: size("13Gi"), ..Default::default() });
    bound.status.as_mut().unwrap().capacity = size("2Gi");
    let mut snapshot = Snapshot { classes: vec!["eng".into()], pvcs: vec![bound], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    let told = of(&snapshot);
    assert!(
        told.contains("the volume of PersistentVolume reservoir-u is gone, so no pod can mount it"),
        "{told}"
    );
    assert!(told.contains("next: kubectl delete pvc data -n team   # then make it anew"), "{told}");
    let said = "PersistentVolume reservoir-u is that of a claim that is gone: delete it, and claim v";
    snapshot.events = vec![event("PersistentVolumeClaim", "data", "Warning", "PersistentVolumeLeft", said)];
    let told = of(&snapshot);
    assert!(told.contains(said) && told.contains("next: do what the message says"), "{told}");
    // Without its label it is the volume of the entry still.
    let mut volume = ready_volume("v", "eng", false);
    volume.status.as_mut().unwrap().claims = vec![bound_by("team", "data", "u")];
    snapshot.volumes = vec![volume];
    assert!(of(&snapshot).contains("Resizing: 13Gi requested"), "{}", of(&snapshot));
}

/// T4, C5, D3: a claim whose PersistentVolumeClaim is made anew on another node waits for the pods of the one before.
#[test]
fn t4_d3_a_moved_claim_waits_for_its_pods() {
    let mut ending = pvc("data", "Bound", "");
    ending.metadata.deletion_timestamp = some_time();
    let mut moved = bound("data", "v");
    let why = Verdict::no(reason::BINDING, "its volume is on node n3 now");
    set(&mut moved.status.as_mut().unwrap().conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let snapshot = Snapshot {
        claims: vec![moved],
        volumes: vec![ready_volume("v", "eng", true)],
        pvcs: vec![ending],
        pods: vec![pod_of("data", "Pending")],
        ..Snapshot::default()
    };
    for (kind, name) in [(&CLAIM, "data"), (&PVC, "data"), (&POD, "web")] {
        let told = ask(&snapshot, kind, Some("team"), name).unwrap();
        assert!(told.contains("# it is made anew by itself, once its pods have ended"), "{told}");
    }
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

/// T4: pods run, and their volume waits to grow until they end.
#[test]
fn t4_p3_why_of_a_workload_names_a_growth_that_waits() {
    let mut pod = pod_of("data", "Running");
    pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    let mut deployment = deployment(json!({"app": "web"}));
    deployment.data["status"] = json!({"readyReplicas": 1});
    let mut waits = pvc("data", "Bound", "ours");
    waits.spec.as_mut().unwrap().resources = from(json!({"requests": {"storage": "33Mi"}}));
    waits.status.as_mut().unwrap().capacity = from(json!({"storage": "32Mi"}));
    let mut snapshot = Snapshot {
        workloads: vec![deployment],
        pods: vec![pod],
        pvcs: vec![waits],
        classes: vec!["ours".into()],
        ..Snapshot::default()
    };
    for (kind, first) in [
        (Kind::parse("deploy").unwrap(), "Deployment team/web: Ready: 1 of 1 pods are ready; "),
        (&POD, "Pod team/web: Running; "),
    ] {
        let said = ask(&snapshot, kind, Some("team"), "web").unwrap();
        let waits =
            "PersistentVolumeClaim team/data is Resizing: 33Mi requested, and its volume has 32Mi now\n";
        assert!(said.starts_with(&format!("{first}{waits}")), "{said}");
        assert!(
            said.contains("next: wait a few seconds; if the state stays the same: kubectl reservoir doctor"),
            "{said}"
        );
    }
    snapshot.pvcs[0].status.as_mut().unwrap().capacity = from(json!({"storage": "33Mi"}));
    let said = ask(&snapshot, &POD, Some("team"), "web").unwrap();
    assert!(said.starts_with("Pod team/web: Running\n"), "{said}");
}

/// T4, C7: the claim says so itself, for users who may not see PersistentVolumeClaims.
#[test]
fn t4_c7_a_claim_that_terminates_comes_back_by_itself() {
    let mut claim = bound("data", "v");
    let why = Verdict::no(reason::TERMINATING, "PersistentVolumeClaim data is being deleted");
    set(&mut claim.status.as_mut().unwrap().conditions, READY, why, None, jiff::Timestamp::UNIX_EPOCH);
    let volumes = vec![ready_volume("v", "eng", true)];
    let mut snapshot = Snapshot { claims: vec![claim], volumes, ..Snapshot::default() };
    let said = ask(&snapshot, &CLAIM, Some("team"), "data").unwrap();
    assert!(said.contains("next: kubectl reservoir tree -n team   # it is made anew by itself"), "{said}");
    // The keeper of the object is known where it may be seen.
    let mut ending = pvc("data", "Bound", "");
    ending.metadata.deletion_timestamp = some_time();
    (snapshot.pvcs, snapshot.pods) = (vec![ending], vec![pod_of("data", "Succeeded")]);
    for kind in [&PVC, &CLAIM] {
        let said = ask(&snapshot, kind, Some("team"), "data").unwrap();
        assert!(said.contains("next: kubectl delete pod web -n team"), "{said}");
    }
}

/// T4, P4: the data of a PersistentVolumeClaim that is deleted under a pod can be kept as long as the pod runs.
#[test]
fn t4_p4_data_is_kept_before_the_pods_end() {
    let mut ending = pvc("data", "Bound", "ours");
    ending.metadata.deletion_timestamp = some_time();
    ending.spec.as_mut().unwrap().volume_name = Some("reservoir-1".into());
    let mut volume = ready_volume("pvc-1", "eng", false);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    ending.metadata.uid = Some("u".into());
    volume.status.as_mut().unwrap().claims = vec![bound_by("team", "data", "u")];
    let mut snapshot = Snapshot {
        classes: ["ours".to_owned()].into(),
        volumes: vec![volume],
        pvcs: vec![ending],
        pods: vec![pod_of("data", "Running")],
        ..Snapshot::default()
    };
    let said = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(said.contains("ends as the reclaim policy of PersistentVolume reservoir-1 says"), "{said}");
    for said in [said, ask(&snapshot, &VOLUME, None, "pvc-1").unwrap()] {
        assert!(said.contains("next: kubectl get pv reservoir-1 -o jsonpath="), "{said}");
    }
    // X5: no reclaim policy keeps a volume that retires.
    snapshot.volumes[0].spec.retire = true;
    let volume = snapshot.volumes[0].clone();
    let retiring = Verdict::no(reason::RETIRING, "it goes after its last use");
    let conditions = &mut snapshot.volumes[0].status.as_mut().unwrap().conditions;
    set(conditions, READY, retiring, None, jiff::Timestamp::UNIX_EPOCH);
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("is destroyed, whatever the reclaim policy"), "{told}");
    for told in [told, ask(&snapshot, &VOLUME, None, "pvc-1").unwrap()] {
        assert!(
            told.contains("next: kubectl reservoir unretire pvc-1 && kubectl patch pv reservoir-1"),
            "{told}"
        );
    }
    snapshot.volumes[0] = volume;
    snapshot.volumes[0].metadata.deletion_timestamp = some_time();
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("is destroyed, whatever") && !told.contains("Retain"), "{told}");
}

/// T4, F5: data of an earlier PersistentVolumeClaim of the name is told where one looks.
#[test]
fn t4_f5_why_pvc_tells_of_old_data() {
    let mut own = bound("data", "v");
    own.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    let snapshot = Snapshot {
        claims: vec![own],
        volumes: vec![ready_volume("v", "eng", true), ready_volume("old-w", "eng", false)],
        pvcs: vec![pvc("data", "Bound", "ours")],
        events: vec![event(
            "PersistentVolumeClaim",
            "data",
            "Warning",
            "OldDataKept",
            "volume old-w has old data",
        )],
        ..Snapshot::default()
    };
    let said = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(said.contains("\n  volume old-w has old data\n"), "{said}");
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
    snapshot.reservations[0].spec.size = gi(5);
    let kept = "this PersistentVolumeClaim waits, to start empty, while DiskReservation r has the data";
    snapshot.events = vec![event("PersistentVolumeClaim", "c", "Warning", "OldDataKept", kept)];
    snapshot.reservations[0].status.as_mut().unwrap().volumes[0].kept = serde_json::from_value(
        json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "spec": {}}),
    )
    .unwrap();
    for (kind, name) in [(&PVC, "c"), (&POD, "web")] {
        let answer = of(&snapshot, kind, name);
        assert!(answer.contains("next: kubectl reservoir why dr/r\n"), "it asks for that already: {answer}");
        assert!(answer.contains(kept), "{answer}");
    }
    snapshot.events.clear();
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

/// T4, P2: who may not see reservations reads the end of an event, and not the event of before.
#[test]
fn t4_p2_a_place_that_was_found_is_told_to_everybody() {
    let mut waits = wants("1Gi");
    waits.metadata.uid = Some("u".into());
    let told = |reason, message, second: i64| {
        let mut event = event("PersistentVolumeClaim", "data", "Warning", reason, message);
        event.involved_object.uid = Some("u".into());
        event.reporting_component = Some(crate::cluster::CONTROLLER.into());
        let at = jiff::Timestamp::from_second(second).unwrap();
        event.last_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
        event
    };
    let nowhere = "no node has a place for the volume: nothing is reserved for role eng";
    let mut snapshot = Snapshot {
        classes_unseen: true,
        denied: [&VOLUME, &DISK, &RESERVATION].map(Denied::unseen).into(),
        pvcs: vec![waits],
        pods: vec![pod_of("data", "Pending")],
        events: vec![told("ProvisioningFailed", nowhere, 10)],
        ..Snapshot::default()
    };
    let of = |snapshot: &Snapshot, kind, name| ask(snapshot, kind, Some("team"), name).unwrap();
    assert!(of(&snapshot, &PVC, "data").contains(nowhere), "{}", of(&snapshot, &PVC, "data"));
    let found = "1Gi for role eng are free on node n1 by now; the scheduler chooses the node of the pod";
    snapshot.events.push(told("PlaceFound", found, 20));
    let pvc = of(&snapshot, &PVC, "data");
    assert!(pvc.contains(found) && !pvc.contains(nowhere), "{pvc}");
    for said in [pvc, of(&snapshot, &POD, "web")] {
        assert!(
            said.contains("next: kubectl describe pod web -n team   # its volume is made on the node"),
            "{said}"
        );
    }
    snapshot.events.push(told("ProvisioningFailed", nowhere, 30));
    assert!(of(&snapshot, &PVC, "data").contains(nowhere));
}

/// T4: the events of a PersistentVolumeClaim of a template lead no tenant to events, either.
#[test]
fn t4_events_without_a_cause_lead_to_an_administrator() {
    let mut waits = wants("1Gi");
    waits.metadata.name = Some("data-db-0".into());
    waits.metadata.annotations =
        Some([("volume.kubernetes.io/storage-provisioner".to_owned(), crate::api::DRIVER.to_owned())].into());
    let mut pod = pod_of("data-db-0", "Pending");
    pod.metadata.name = Some("db-0".into());
    pod.metadata.owner_references =
        from(json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u"}]));
    let snapshot = Snapshot {
        classes_unseen: true,
        denied: [&VOLUME, &DISK, &RESERVATION].map(Denied::unseen).into(),
        pvcs: vec![waits],
        pods: vec![pod],
        events: vec![event(
            "PersistentVolumeClaim",
            "data-db-0",
            "Normal",
            "ExternalProvisioning",
            "waiting",
        )],
        ..Snapshot::default()
    };
    let said = ask(&snapshot, &PVC, Some("team"), "data-db-0").unwrap();
    let next = "next: have an administrator run: kubectl reservoir why pvc/data-db-0 -n team\n";
    assert!(said.ends_with(next), "{said}");
}

/// T4: a StorageClass that does not exist is not somebody else's.
#[test]
fn t4_why_pvc_sees_a_mistyped_class() {
    let mut snapshot = Snapshot {
        pvcs: vec![pvc("data", "Pending", "enng")],
        classes: vec!["eng".into()],
        other_classes: vec![of_driver("local", "local-path")],
        ..Snapshot::default()
    };
    let next = |snapshot: &Snapshot| {
        let answer = ask(snapshot, &PVC, Some("team"), "data").unwrap();
        answer.split_once("next: ").unwrap().1.to_owned()
    };
    let near = next(&snapshot);
    assert!(
        near.starts_with("kubectl delete pvc data -n team   # then make it anew with storageClassName eng"),
        "{near}"
    );
    snapshot.classes_unseen = true;
    assert!(next(&snapshot).contains("you may not see StorageClasses"));
    // The controller has told why, so the class is Reservoir's. Only an administrator sees which step that takes.
    snapshot.pvcs[0].metadata.uid = Some("u".into());
    let mut told =
        event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", "ask for ReadWriteOnce");
    told.involved_object.uid = Some("u".into());
    told.reporting_component = Some("reservoir-controller".into());
    snapshot.events = vec![told];
    assert!(
        next(&snapshot).starts_with("have an administrator run: kubectl reservoir why pvc/data -n team   # or do what the message says"),
        "{}",
        next(&snapshot)
    );
    // The author of the PersistentVolumeClaim can change its request.
    let said = "a selector chooses among existing volumes: leave it out, or make a VolumeClaim with one";
    snapshot.pvcs[0].spec.as_mut().unwrap().selector = Some(Default::default());
    snapshot.events[0].message = Some(said.into());
    assert!(
        next(&snapshot).starts_with("kubectl delete pvc data -n team   # then make it anew"),
        "{}",
        next(&snapshot)
    );
    snapshot.pvcs[0].spec.as_mut().unwrap().selector = None;
    snapshot.events.clear();
    snapshot.classes_unseen = false;
    snapshot.classes.clear();
    assert!(next(&snapshot).starts_with("kubectl get storageclasses   # none is called enng"));
    snapshot.other_classes.push(of_driver("enng", "ebs.csi.aws.com"));
    assert!(next(&snapshot).contains("it asks for no StorageClass of Reservoir"));
    for provisioner in ["reservoir.dev", "csi.reservior.dev"] {
        snapshot.other_classes[1].provisioner = provisioner.into();
        let mistyped = format!(
            "kubectl get storageclass enng -o yaml   # its provisioner is {provisioner}, and Reservoir's is csi.reservoir.dev"
        );
        assert!(next(&snapshot).starts_with(&mistyped), "{}", next(&snapshot));
    }
    // Nobody has said which class.
    snapshot.classes = vec!["fast".into()];
    snapshot.pvcs[0].spec.as_mut().unwrap().storage_class_name = None;
    assert!(
        next(&snapshot).contains("make it anew with storageClassName fast, if that is meant"),
        "{}",
        next(&snapshot)
    );
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
        refused.contains("the verb resize lacks") && refused.contains("next: do what the message says"),
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
    snapshot.volumes[0].spec.retire = true;
    let answer = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(answer.contains("its volume pvc-u is destroyed after its last use"), "{answer}");
    assert!(answer.contains("or keep it: kubectl reservoir unretire pvc-u\n"), "{answer}");
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
    // A tenant may not resize the volume.
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    let theirs = instead(&snapshot, &PVC);
    assert!(theirs.ends_with("have an administrator run: kubectl reservoir resize spv/v 2Gi"), "{theirs}");
    snapshot.denied.clear();
    snapshot.claims.clear();
    assert_eq!(instead(&snapshot, &PVC), "there is no PersistentVolumeClaim team/data");
    snapshot.pvcs = vec![pvc("data", "Bound", "ours")];
    let patch =
        "kubectl patch pvc data -n team -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"2Gi\"}}}}'";
    let step = instead(&snapshot, &PVC);
    assert!(step.contains(patch), "{step}");
    // Kubernetes refuses the patch where the class allows no growth.
    let class = |grows: bool| {
        from(
            json!({"metadata": {"name": "ours"}, "provisioner": "csi.reservoir.dev", "allowVolumeExpansion": grows}),
        )
    };
    snapshot.our_classes = vec![class(true)];
    assert_eq!(instead(&snapshot, &PVC), step);
    snapshot.our_classes = vec![class(false)];
    let first = instead(&snapshot, &PVC);
    assert!(
        first.contains(": kubectl patch storageclass ours -p '{\"allowVolumeExpansion\":true}'   #"),
        "{first}"
    );
    assert!(first.ends_with(&format!("then: {patch}")), "{first}");
    assert_eq!(instead(&snapshot, &POD), "a Pod has no size: resize spv/NAME or dr/NAME");
}

/// T4, F5: data that is gone, or that this PersistentVolumeClaim has by now, is no reason to delete anything.
#[test]
fn t4_f5_old_data_is_told_only_while_it_is_there() {
    let mut own = pvc("data", "Bound", "ours");
    own.metadata.uid = Some("u".into());
    let said = "this PersistentVolumeClaim starts empty, while volume pvc-old has the data of an earlier one of its name";
    let mut told = event("PersistentVolumeClaim", "data", "Warning", "OldDataKept", said);
    told.involved_object.uid = Some("u".into());
    let mut snapshot = Snapshot {
        pvcs: vec![own],
        claims: vec![bound("data", "pvc-new")],
        volumes: vec![ready_volume("pvc-new", "eng", false), ready_volume("pvc-old", "eng", false)],
        classes: vec!["ours".into()],
        events: vec![told],
        ..Snapshot::default()
    };
    let of =
        |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap().contains("starts empty");
    assert!(of(&snapshot));
    snapshot.volumes.pop();
    assert!(!of(&snapshot), "it was destroyed");
    snapshot.volumes = vec![ready_volume("pvc-old", "eng", false)];
    snapshot.claims = vec![bound("data", "pvc-old")];
    assert!(!of(&snapshot), "the advice was followed");
    snapshot.volumes.push(ready_volume("pvc-new", "eng", false));
    snapshot.claims = vec![bound("data", "pvc-new")];
    assert!(of(&snapshot));
    // A pod that has the volume waits for something else.
    snapshot.claims.clear();
    let mut failed = pod_of("data", "Failed");
    failed.metadata.name = Some("failed".into());
    snapshot.pods = vec![failed];
    snapshot.pvcs[0].spec.as_mut().unwrap().volume_name = Some("pv".into());
    let told = ask(&snapshot, &POD, Some("team"), "failed").unwrap();
    assert!(!told.contains("makes an empty volume"), "{told}");
    snapshot.events[0].involved_object.uid = Some("earlier".into());
    assert!(!of(&snapshot), "it is about an earlier PersistentVolumeClaim");
}

/// T4, F5: while a PersistentVolumeClaim waits for a new volume, the answer leads to the data of the earlier one. The
/// StatefulSet makes a deleted one anew, so its pod ends before.
#[test]
fn t4_f5_why_leads_to_the_data_of_before() {
    let mut left = ready_volume("pvc-old", "eng", false);
    left.metadata.annotations =
        Some([("reservoir.dev/made-for".to_owned(), "team/d-db-1".to_owned())].into());
    let pod = |name: &str, phase: &str| {
        let mut pod = pod_of("d-db-1", phase);
        pod.metadata.name = Some(name.into());
        pod.metadata.labels = Some([("app".to_owned(), "db".to_owned())].into());
        pod.metadata.owner_references =
            from(json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "s"}]));
        pod
    };
    let mut others = [pod("db-0", "Running"), pod("db-2", "Running")];
    others.iter_mut().for_each(|pod| pod.spec.as_mut().unwrap().volumes = None);
    let [lower, higher] = others;
    let mut snapshot = Snapshot {
        pvcs: vec![pvc("d-db-1", "Pending", "ours")],
        volumes: vec![left],
        pods: vec![lower, higher, pod("db-1", "Pending")],
        classes: vec!["ours".into()],
        workloads: vec![from(
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": "team", "name": "db"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "db"}}}, "status": {"readyReplicas": 2}}),
        )],
        ..Snapshot::default()
    };
    let sts = Kind::parse("sts").unwrap();
    let all = [(&PVC, "d-db-1"), (&POD, "db-1"), (sts, "db")];
    let of = |snapshot: &Snapshot, (kind, name)| {
        let told = ask(snapshot, kind, Some("team"), name).unwrap();
        told.lines().for_each(crate::plugin::advised_commands::check);
        told
    };
    let claim =
        "next: kubectl reservoir claim d-db-1 --role eng --volume pvc-old -n team   # only to have the data";
    for target in all {
        assert!(of(&snapshot, target).contains(claim), "{}", of(&snapshot, target));
    }
    let mut waits = crate::plan::testing::claim("team", "d-db-1", "pvc-old");
    snapshot.claims = vec![waits.clone()];
    for target in all {
        assert!(!of(&snapshot, target).contains(claim), "it is made: {}", of(&snapshot, target));
    }
    let step = crate::plugin::why::old_data::look(
        &snapshot,
        &Target::new(&PVC, Some("team".into()), "d-db-1".into()),
    )
    .1;
    assert_eq!(step.as_deref(), Some("kubectl reservoir why vclaim/d-db-1 -n team"), "seed 30416");
    let why = format!("it {}", crate::plan::pv_binding::WAITS_EMPTY);
    let conditions = &mut waits.status.get_or_insert_default().conditions;
    set(conditions, READY, Verdict::no(reason::NAME_TAKEN, why), None, jiff::Timestamp::UNIX_EPOCH);
    snapshot.claims = vec![waits];
    let free = "next: kubectl scale sts db -n team --replicas=1 && kubectl delete pvc d-db-1 -n team   # the claim has the name";
    for target in all.into_iter().chain([(&CLAIM, "d-db-1")]) {
        assert!(of(&snapshot, target).contains(free), "{}", of(&snapshot, target));
    }
    snapshot.pods.clear();
    let told = of(&snapshot, (&CLAIM, "d-db-1"));
    assert!(told.contains("next: kubectl delete pvc d-db-1 -n team   # it has no volume"), "{told}");
    snapshot.claims.clear();
    snapshot.volumes[0].status.as_mut().unwrap().claims = vec![bound_by("team", "other", "u")];
    assert!(!of(&snapshot, (&PVC, "d-db-1")).contains("kubectl reservoir claim"), "somebody has it");
}

/// T4, P1: a PersistentVolumeClaim of a class does not wait for a VolumeClaim of its name, which has no volume yet.
#[test]
fn t4_p1_why_pvc_waits_for_no_claim_of_its_name() {
    let said = "1Gi asked for, reservation eng has 224Mi left";
    let mut other = claim("team", "data", "nowhere");
    let why = Verdict::no(reason::NO_SUCH_VOLUME, "there is no SharedPersistentVolume nowhere");
    let conditions = &mut other.status.get_or_insert_default().conditions;
    set(conditions, READY, why, None, Timestamp::UNIX_EPOCH);
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: vec![class_of(json!({"role": "eng"}), "Immediate")],
        claims: vec![other],
        pvcs: vec![wants("1Gi")],
        pods: vec![pod_of("data", "Pending")],
        events: vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", said)],
        ..Snapshot::default()
    };
    for (kind, name) in [(&PVC, "data"), (&POD, "web")] {
        let told = ask(&snapshot, kind, Some("team"), name).unwrap();
        assert!(told.contains(said) && !told.contains("nowhere"), "{told}");
    }
    // The one that the claim made waits for it.
    let owner =
        json!([{"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim", "name": "data", "uid": "c"}]);
    snapshot.pvcs[0].metadata.owner_references = from(owner);
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("NoSuchVolume") && told.contains("it belongs to VolumeClaim team/data"), "{told}");
}

/// T4, P3: a growth that failed is told to who sees the PersistentVolumeClaim alone, too. Making it anew would lose its data.
#[test]
fn t4_p3_who_sees_no_volume_is_told_of_a_growth_that_failed() {
    let mut grows = wants("5Gi");
    grows.metadata.annotations = Some(
        [("volume.kubernetes.io/storage-provisioner".to_owned(), "csi.reservoir.dev".to_owned())].into(),
    );
    let said = "5Gi wished, and reservation eng has 34Mi left: enlarge the reservation, or request less";
    grows.spec.as_mut().unwrap().volume_name = Some("pv".into());
    grows.status = from(json!({"phase": "Bound", "capacity": {"storage": "20Mi"}, "conditions":
        [{"type": "ControllerResizeError", "status": "True", "message": said}]}));
    let mut user = pod_of("data", "Running");
    user.status = from(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
    let mut snapshot = Snapshot {
        classes_unseen: true,
        denied: [&VOLUME, &DISK, &RESERVATION].map(Denied::unseen).into(),
        pvcs: vec![grows],
        pods: vec![user],
        ..Snapshot::default()
    };
    for (kind, name) in [(&PVC, "data"), (&POD, "web")] {
        let told = ask(&snapshot, kind, Some("team"), name).unwrap();
        assert!(told.contains(&format!("ControllerResizeError: {said}")), "{told}");
        let next =
            "next: have an administrator run: kubectl reservoir why pvc/data -n team   # or request less,";
        assert!(told.contains(next) && !told.contains("anew"), "{told}");
    }
    // Ending the pods for the growth would lose the data.
    snapshot.pvcs[0].metadata.deletion_timestamp = from(json!("2026-01-01T00:00:00Z"));
    for (kind, name) in [(&PVC, "data"), (&POD, "web")] {
        let told = ask(&snapshot, kind, Some("team"), name).unwrap();
        assert!(told.contains("Terminating: it is being deleted, so no new pod may use it"), "{told}");
        assert!(!told.contains("ResizeError") && told.contains("Retain"), "{told}");
    }
}

/// T4, P2: a class whose reservation is for another role is to be made anew, and no reservation of its role helps.
#[test]
fn t4_p2_a_class_with_a_reservation_of_another_role_leads_to_the_class() {
    let class = class_of(json!({"role": "eng", "reservation": "ops"}), "WaitForFirstConsumer");
    let snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: vec![class],
        disks: vec![disk("n1.a", "n1", 7, &[])],
        reservations: vec![reserved("eng", "eng", 4, &[]), reserved("ops", "ops", 1, &[])],
        pvcs: vec![wants("1Gi")],
        pods: vec![pod_of("data", "Pending")],
        ..Snapshot::default()
    };
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(
        told.contains("its StorageClass asks for DiskReservation ops alone: make the class anew"),
        "{told}"
    );
    assert!(told.contains("next: kubectl get storageclass eng -o yaml   # delete it"), "{told}");
}

/// T4, P4: a PersistentVolumeClaim that names the PersistentVolume of an earlier one is led to that data.
#[test]
fn t4_p4_a_claim_that_names_a_volume_is_led_to_its_data() {
    let mut named = wants("1Gi");
    named.spec.as_mut().unwrap().volume_name = Some("reservoir-1".into());
    let mut snapshot = Snapshot {
        classes: vec!["eng".into()],
        our_classes: vec![class_of(json!({"role": "eng"}), "Immediate")],
        pvcs: vec![named],
        volumes: vec![ready_volume("pvc-1", "eng", false)],
        ..Snapshot::default()
    };
    let next = |snapshot: &Snapshot| {
        let answer = ask(snapshot, &PVC, Some("team"), "data").unwrap();
        answer.split_once("next: ").unwrap().1.to_owned()
    };
    let claim = "then: kubectl reservoir claim data --role eng --volume pvc-1 -n team\n";
    assert!(next(&snapshot).ends_with(claim), "{}", next(&snapshot));
    snapshot.volumes.clear();
    assert!(next(&snapshot).contains("without spec.volumeName"), "{}", next(&snapshot));
    // The name of a volume, or the PersistentVolume of another claim to it.
    snapshot.volumes = vec![ready_volume("shared", "eng", true)];
    let mut other = bound("other", "shared");
    other.status.as_mut().unwrap().persistent_volume = Some("reservoir-2".into());
    snapshot.claims = vec![other];
    let claim = "kubectl delete pvc data -n team && kubectl reservoir claim data --role eng --volume shared -n team   #";
    for of in ["shared", "reservoir-2"] {
        snapshot.pvcs[0].spec.as_mut().unwrap().volume_name = Some(of.into());
        assert!(next(&snapshot).starts_with(claim), "{of}: {}", next(&snapshot));
    }
    // A backup has brought it to another namespace, where nothing is ever bound to it.
    let mut lost = pvc("data", "Lost", "");
    lost.spec.as_mut().unwrap().volume_name = Some("reservoir-2".into());
    snapshot.pvcs = vec![lost];
    let told = ask(&snapshot, &PVC, Some("team"), "data").unwrap();
    assert!(told.contains("Lost: spec.volumeName is that of another claim to volume shared\n"), "{told}");
    assert!(next(&snapshot).starts_with(claim), "{}", next(&snapshot));
}

/// T4, P4: nothing is ever bound to a PersistentVolumeClaim of a backup that names its PersistentVolume of before.
#[test]
fn t4_p4_a_restored_claim_of_a_class_is_made_anew() {
    let mut lost = pvc("data", "Lost", "eng");
    lost.spec.as_mut().unwrap().volume_name = Some("reservoir-1".into());
    let mut snapshot = Snapshot { classes: vec!["eng".into()], pvcs: vec![lost], ..Snapshot::default() };
    let next = "next: kubectl delete pvc data -n team   # then make it anew without spec.volumeName";
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data").unwrap();
    let told = of(&snapshot);
    assert!(
        told.contains("Lost: spec.volumeName is reservoir-1, and there is neither") && told.contains(next),
        "{told}"
    );
    // Seed 31524: kubectl would wait for the end of a pod that has it.
    snapshot.pods = vec![pod_of("data", "Running")];
    snapshot.pods[0].spec.as_mut().unwrap().node_name = Some("n1".into());
    let told = of(&snapshot);
    let used =
        "delete pvc data -n team --wait=false   # it goes after the pods that use it; then make it anew";
    assert!(told.contains(used), "{told}");
    snapshot.pods.clear();
    snapshot.denied = vec![Denied::unseen(&VOLUME)];
    let told = of(&snapshot);
    assert!(
        told.contains("next: have an administrator run: kubectl reservoir why pvc/data -n team"),
        "{told}"
    );
    let said = "spec.volumeName is reservoir-1, so no volume is made";
    snapshot.events = vec![event("PersistentVolumeClaim", "data", "Warning", "ProvisioningFailed", said)];
    let told = of(&snapshot);
    assert!(told.contains(&format!("Lost: {said}\n")) && told.contains(next), "{told}");
}

/// T4: a PersistentVolumeClaim of a template is made again as it was, so the template is what changes.
#[test]
fn t4_a_claim_of_a_template_is_not_made_anew_alone() {
    let mut named = pvc("data-db-0", "Pending", "eng");
    named.spec.as_mut().unwrap().volume_name = Some("data".into());
    let mut pod = pod_of("data-db-0", "Pending");
    pod.metadata.name = Some("db-0".into());
    pod.metadata.owner_references =
        from(json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u"}]));
    let mut snapshot =
        Snapshot { classes: vec!["eng".into()], pvcs: vec![named], pods: vec![pod], ..Snapshot::default() };
    let of = |snapshot: &Snapshot| ask(snapshot, &PVC, Some("team"), "data-db-0").unwrap();
    let told = of(&snapshot);
    assert!(
        told.contains("next: kubectl delete sts db -n team --cascade=orphan && kubectl delete pvc data-db-0"),
        "{told}"
    );
    assert!(told.contains("make the StatefulSet anew without spec.volumeName"), "{told}");
    // Its data stays, and the set would make an empty volume at once.
    let mut volume = ready_volume("pvc-u", "eng", false);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    snapshot.volumes = vec![volume];
    snapshot.pvcs[0].metadata.uid = Some("u".into());
    snapshot.pvcs[0].status.as_mut().unwrap().phase = Some("Lost".into());
    let told = of(&snapshot);
    assert!(
        told.contains("next: kubectl scale sts db -n team --replicas=0 && kubectl delete pvc data-db-0"),
        "{told}"
    );
    assert!(told.contains("kubectl reservoir claim data-db-0 --role eng --volume pvc-u -n team"), "{told}");
    // Nobody may see the class, and no class has the name.
    (snapshot.volumes, snapshot.classes) = Default::default();
    let spec = snapshot.pvcs[0].spec.as_mut().unwrap();
    spec.volume_name = None;
    snapshot.pvcs[0].status.as_mut().unwrap().phase = Some("Pending".into());
    let told = of(&snapshot);
    assert!(told.contains("none is called eng; make it, or StatefulSet db, whose"), "{told}");
    snapshot.classes_unseen = true;
    let mut told =
        event("PersistentVolumeClaim", "data-db-0", "Warning", "ProvisioningFailed", "no such mode");
    told.involved_object.uid = Some("u".into());
    told.reporting_component = Some(crate::cluster::CONTROLLER.into());
    snapshot.events = vec![told];
    let told = of(&snapshot);
    assert!(
        told.contains("cannot be changed, so make StatefulSet db, whose volumeClaimTemplates have it, anew"),
        "{told}"
    );
    snapshot.pods.clear();
    snapshot.pvcs[0].metadata.owner_references =
        from(json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u"}]));
    let told = of(&snapshot);
    assert!(told.contains("so make pod web, or the template of what makes it, anew"), "{told}");
    snapshot.pvcs[0].spec.as_mut().unwrap().volume_name = Some("data".into());
    let told = of(&snapshot);
    let next = "next: kubectl delete pod web -n team   # make it again without spec.volumeName: the fields of its ephemeral";
    assert!(told.contains(next), "{told}");
    let mut maker = pod_of("other", "Pending");
    maker.metadata.owner_references = from(
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "d", "controller": true}]),
    );
    snapshot.pods.push(maker);
    let told = of(&snapshot);
    let next = "next: kubectl edit daemonset/web -n team   # have its pods made without spec.volumeName: ";
    assert!(told.contains(next), "{told}");
}
