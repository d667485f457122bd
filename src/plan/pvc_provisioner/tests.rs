//! Tables of the next step for a PersistentVolumeClaim of a class.

use serde_json::{from_value, json};

use super::*;
use crate::api::condition::Verdict;
use crate::api::{DRIVER, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, Size};
use crate::plan::testing::{self, ready_volume, reserved, some_time};

fn pvc() -> PersistentVolumeClaim {
    from_value(json!({"metadata": {"name": "data", "namespace": "team", "uid": "u",
        "annotations": {SELECTED_NODE: "n1", STORAGE_PROVISIONER: DRIVER}}, "spec": {"storageClassName": "fast",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}))
    .unwrap()
}

/// Marks a volume as made for the PersistentVolumeClaim.
fn own(mut volume: SharedPersistentVolume) -> SharedPersistentVolume {
    let labels = [(LABEL_PVC_UID, "u"), (LABEL_CLAIM_NAMESPACE, "team")];
    volume.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    volume
}

/// The state before any object was made. With `delayed`, the class waits for the scheduler.
fn seen(delayed: bool) -> Seen {
    let mode = if delayed { "WaitForFirstConsumer" } else { "Immediate" };
    let class = from_value(json!({"metadata": {"name": "fast"}, "provisioner": DRIVER,
        "parameters": {"role": "eng"}, "volumeBindingMode": mode}))
    .unwrap();
    Seen {
        uid: "u".into(),
        bound: false,
        pvc: Some(pvc()),
        class: Some(Arc::new(class)),
        volume: None,
        binding: pv_binding::Seen::default(),
        reservations: vec![Arc::new(reserved("r", "eng", 2, &[]))],
        disks: vec![Arc::new(crate::plan::testing::disk("n1.a", "n1", 9, &[]))],
        nodes: vec![],
        used: false,
        without_storage: None,
        told_no_place: false,
        mates: vec![],
        refused: None,
        now: Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn f2_the_pause_after_a_refusal_is_the_wait_so_far() {
    let mut s = seen(true);
    let of = |s: &Seen| refused_again(s).as_secs();
    assert_eq!(of(&s), 5, "without a time of creation");
    s.pvc.as_mut().unwrap().metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(100).unwrap()));
    for (now, pause) in [(90, 5), (101, 5), (120, 20), (400, 60)] {
        s.now = Timestamp::from_second(now).unwrap();
        assert_eq!(of(&s), pause, "{now}");
    }
}

#[test]
fn p1_a_volume_is_made_and_gets_its_persistent_volume_once_it_is_bound() {
    let mut s = seen(true);
    let Step::CreateVolume(made) = next(&s) else { panic!() };
    assert_eq!((made.name_any().as_str(), made.spec.reservation.as_deref()), ("pvc-u", Some("r")));
    assert_eq!(made.annotations()[crate::api::ANNOTATION_BORN_ON], "n1");
    let mut v = own(ready_volume("pvc-u", "eng", false));
    v.status.as_mut().unwrap().reservation =
        Some(crate::api::UidRef { name: "r".into(), uid: "uid-r".into() });
    s.volume = Some(Arc::new(v.clone()));
    assert_eq!(next(&s), Step::Rest, "its binding comes first");
    v.status.as_mut().unwrap().claims = vec![own_pvc::binding("team", "data", "u")];
    s.volume = Some(Arc::new(v.clone()));
    s.binding.pvc = s.pvc.clone();
    let Step::Bind(pv_binding::Step::CreatePv(pv)) = next(&s) else { panic!() };
    assert_eq!(pv.name_any(), "reservoir-u");
    let spec = pv.spec.clone().unwrap();
    assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("u"));
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"), "the class has none");
    s.binding.pv = Some(*pv);
    assert_eq!(next(&s), Step::Rest, "Kubernetes binds");
    let moved = v.status.as_mut().unwrap();
    moved.node_name = Some("n2".into());
    s.volume = Some(Arc::new(v.clone()));
    assert!(matches!(next(&s), Step::WaitForPv(why) if why.contains("on node n2 now")), "D3");
    s.binding.pv = None;
    v.status.as_mut().unwrap().conditions.clear();
    s.volume = Some(Arc::new(v));
    assert!(matches!(next(&s), Step::WaitForPv(_)), "pods come with the PersistentVolume");
}

/// D7: the volume has ended with its node, and a StatefulSet makes another PersistentVolumeClaim.
#[test]
fn d7_the_pvc_of_an_ended_volume_is_deleted() {
    let mut v = own(ready_volume("pvc-u", "eng", false));
    let status = v.status.as_mut().unwrap();
    status.claims = vec![own_pvc::binding("team", "data", "u")];
    condition::set(
        &mut status.conditions,
        READY,
        Verdict::no(reason::NODE_GONE, "gone"),
        None,
        Timestamp::UNIX_EPOCH,
    );
    let mut s = Seen { bound: true, volume: Some(Arc::new(v)), ..seen(true) };
    assert!(matches!(next(&s), Step::EndPvc(event) if event.contains("node n1 left the cluster")));
    s.pvc.as_mut().unwrap().metadata.deletion_timestamp = some_time();
    assert_eq!(next(&s), Step::Rest);
}

#[test]
fn p2_without_free_space_the_scheduler_chooses_again() {
    let mut s = seen(true);
    s.reservations = vec![Arc::new(reserved("r", "eng", 2, &[("x", 2)]))];
    let Step::Reschedule(found) = next(&s) else { panic!() };
    let Reschedule { why, asked, others, crowded } = *found;
    let volume = asked.unwrap();
    assert!(why.contains("on node n1, which was chosen for the pod: 1Gi asked for, r has 0 left"), "{why}");
    assert_eq!((others, crowded), (vec![], None));
    assert_eq!(volume.name_any(), "pvc-u", "A5: rights first");
    let mut waiting = own(testing::volume("pvc-u", "eng", 1));
    s.volume = Some(Arc::new(waiting.clone()));
    assert_eq!(next(&s), Step::Rest, "nothing is known of it yet");
    let status = waiting.status.get_or_insert_default();
    crate::plan::testing::set_ready(&mut status.conditions, false);
    s.volume = Some(Arc::new(waiting.clone()));
    let said = Reschedule { why: "another node is looked for: said".into(), ..Default::default() };
    assert_eq!(next(&s), Step::Reschedule(Box::new(said)));
    let at_once = Seen { volume: s.volume.clone(), ..seen(false) };
    assert_eq!(next(&at_once), Step::Refuse("said".into()), "no scheduler chooses for this class");
    waiting.metadata.deletion_timestamp = some_time();
    s.volume = Some(Arc::new(waiting));
    assert_eq!(next(&s), Step::Rest);
    s.volume = Some(Arc::new(testing::volume("pvc-u", "eng", 1)));
    assert!(matches!(next(&s), Step::Refuse(why) if why.contains("somebody else")));
}

/// L7, P3: a user enlarged the unplaced volume, which then fit nowhere, or made it too small: found by the simulation (seed 3102).
#[test]
fn p3_an_unplaced_volume_has_the_size_of_its_claim() {
    let one = Size::written("1Gi");
    for (delayed, size) in [(false, 17), (true, 17), (false, 0)] {
        let mut s = seen(delayed);
        let mut volume = own(testing::volume("pvc-u", "eng", size));
        crate::plan::testing::set_ready(&mut volume.status.get_or_insert_default().conditions, false);
        s.volume = Some(Arc::new(volume.clone()));
        assert_eq!(next(&s), Step::Growth(growth::Step::Resize(one.clone())), "{delayed} {size}");
        s.refused = Some("no".into());
        assert_eq!(next(&s), Step::Refuse("no".into()));
        let placed = crate::api::UidRef { name: "r".into(), uid: "uid-r".into() };
        volume.status.get_or_insert_default().reservation = Some(placed);
        (s.volume, s.refused) = (Some(Arc::new(volume)), None);
        assert!(
            !matches!(next(&s), Step::Growth(_)),
            "it has a place, and its size changes once it is bound"
        );
    }
}

/// P1: what the caches decide alone is what a live read of the PersistentVolumeClaim would decide.
#[test]
fn p1_a_claim_whose_volume_is_being_made_rests() {
    let one = || own(testing::volume("pvc-u", "eng", 1));
    let changed = |change: fn(&mut SharedPersistentVolume)| {
        let mut volume = one();
        change(&mut volume);
        volume
    };
    let report = |ok, reason| {
        let mut volume = one();
        let conditions = &mut volume.status.get_or_insert_default().conditions;
        condition::set(
            conditions,
            READY,
            Verdict { ok, reason, message: "said".into() },
            None,
            Timestamp::UNIX_EPOCH,
        );
        volume
    };
    let listed = |volume: &mut SharedPersistentVolume| {
        volume.status.get_or_insert_default().claims = vec![own_pvc::binding("team", "data", "u")];
    };
    for (volume, waits) in [
        (one(), true),
        (report(false, reason::CREATING), true),
        (report(false, reason::RESERVATION_FULL), false),
        (report(true, reason::READY), false),
        (changed(|volume| volume.spec.size = Size::written("2Gi")), false),
        (changed(|volume| volume.metadata.labels = None), false),
        (changed(|volume| volume.metadata.deletion_timestamp = some_time()), false),
        (changed(listed), false),
    ] {
        assert_eq!(waits_for_volume("u", Some(1 << 30), &volume), waits, "{volume:?}");
        let seen = Seen { volume: Some(Arc::new(volume)), ..seen(true) };
        assert!(!waits || next(&seen) == Step::Rest);
    }
}

/// F5: external-provisioner makes no volume for such a PersistentVolumeClaim either.
#[test]
fn f5_a_claim_that_names_its_volume_gets_no_new_one() {
    let mut s = seen(true);
    s.pvc.as_mut().unwrap().spec.as_mut().unwrap().volume_name = Some("reservoir-old".into());
    assert!(matches!(next(&s), Step::Refuse(why) if why.starts_with("spec.volumeName is reservoir-old")));
    // Kubernetes asks nobody to make its volume.
    Arc::make_mut(s.class.as_mut().unwrap()).volume_binding_mode = Some("Immediate".into());
    s.pvc.as_mut().unwrap().annotations_mut().clear();
    assert!(matches!(next(&s), Step::Refuse(why) if why.starts_with("spec.volumeName is reservoir-old")));
    // Kubernetes writes the name, and the phase Bound after that.
    s.volume = Some(Arc::new(own(ready_volume("pvc-u", "eng", false))));
    assert!(!matches!(next(&s), Step::Refuse(_)));
}

/// The scheduler, which finds no node, has no reason but a lack of storage.
#[test]
fn p2_a_pod_that_fits_nowhere_gives_its_claim_a_reason() {
    let mut s = seen(true);
    s.pvc.as_mut().unwrap().annotations_mut().clear();
    s.reservations = vec![Arc::new(reserved("r", "eng", 2, &[("x", 2)]))];
    assert_eq!(next(&s), Step::Rest, "no pod waits");
    s.used = true;
    let Step::Wait(why, asked) = next(&s) else { panic!() };
    let said = "no node has a place for the volume: 1Gi asked for, r has 0 left";
    assert!(why.starts_with(said) && why.contains("agent.disks[].reservations"), "{why}");
    assert_eq!(asked.name_any(), "pvc-u");
    s.reservations.clear();
    assert!(matches!(next(&s), Step::Wait(why, _) if why.contains("nothing is reserved")));
    s.reservations = vec![Arc::new(reserved("r", "eng", 2, &[]))];
    assert_eq!(next(&s), Step::Rest, "the scheduler chooses this node");
    // Readers of the earlier event get a later one, also while the scheduler keeps the pod for reasons of its own.
    s.told_no_place = true;
    let Step::TellPlaces(found, asked) = next(&s) else { panic!() };
    assert_eq!(
        found,
        "1Gi for role eng are free on node n1 by now; the scheduler chooses the node of the pod"
    );
    assert_eq!(asked.name_any(), "pvc-u", "P5: rights first");
    s.told_no_place = false;
    // Unless the pod may not run there, for example beside another one of its StatefulSet.
    s.without_storage = Some("db-1".into());
    let Step::Wait(why, asked) = next(&s) else { panic!() };
    assert_eq!(
        why,
        "pod db-1 is on no node yet: 1Gi for role eng are free on node n1 alone, where the scheduler does not place it; reserve for \
         the role on a node that the pod may run on, or let it run there"
    );
    assert_eq!(asked.name_any(), "pvc-u", "P5: rights first");
    s.without_storage = None;
    let selected = [(SELECTED_NODE.to_owned(), "n1".to_owned())].into();
    let chosen = s.pvc.as_mut().unwrap().metadata.annotations.replace(selected);
    assert_eq!(next(&s), Step::Rest, "Kubernetes names the provisioner next");
    s.pvc.as_mut().unwrap().metadata.annotations = chosen;
    let class = Arc::make_mut(s.class.as_mut().unwrap());
    class.allowed_topologies = from_value(json!([{"matchLabelExpressions":
        [{"key": crate::api::TOPOLOGY_NODE, "values": ["n2"]}]}]))
    .unwrap();
    let Step::Wait(why, _) = next(&s) else { panic!("there is space on a node that the class excludes") };
    assert!(why.contains("allowedTopologies of StorageClass "), "{why}");
}

/// F1: a class without a scheduler's choice that names the nodes.
#[test]
fn f1_a_volume_is_made_on_an_allowed_node_alone() {
    let node = |name: &str| Arc::new(from_value(json!({"metadata": {"name": name}})).unwrap());
    let allowed = |name: &str| {
        let mut s = Seen { nodes: vec![node("n1"), node("n2")], ..seen(false) };
        let class = Arc::make_mut(s.class.as_mut().unwrap());
        class.allowed_topologies = from_value(json!([{"matchLabelExpressions":
            [{"key": crate::api::TOPOLOGY_NODE, "values": [name]}]}]))
        .unwrap();
        next(&s)
    };
    let Step::CreateVolume(made) = allowed("n1") else { panic!() };
    assert_eq!(made.spec.reservation.as_deref(), Some("r"));
    let Step::Wait(why, asked) = allowed("n2") else { panic!() };
    assert_eq!(
        why,
        "on the nodes in allowedTopologies of StorageClass fast, n2: nothing is reserved for role eng or an ancestor of it"
    );
    let Step::Wait(why, _) = allowed("nonode") else { panic!() };
    assert_eq!(
        why,
        "no node has the labels in allowedTopologies of StorageClass fast: topology.reservoir.dev/node in (nonode); make the \
         class anew, or label a node"
    );
    assert_eq!(asked.name_any(), "pvc-u", "A5: rights first");
}

/// F1: the scheduler chooses one node for all PersistentVolumeClaims of a pod.
#[test]
fn f1_the_node_is_given_back_for_all_of_the_pod() {
    let mut s = seen(true);
    let mut other = pvc();
    (other.metadata.name, other.metadata.uid) = (Some("logs".into()), Some("l".into()));
    let mate =
        |pvc: &PersistentVolumeClaim| Mate { pvc: Some(pvc.clone()), class: seen(true).class, volume: None };
    s.mates = vec![mate(&other)];
    assert!(matches!(next(&s), Step::CreateVolume(_)), "2Gi are there");
    other.spec.as_mut().unwrap().resources = from_value(json!({"requests": {"storage": "1025Mi"}})).unwrap();
    s.mates = vec![mate(&other)];
    let Step::Reschedule(found) = next(&s) else { panic!() };
    assert!(found.why.contains("2 PersistentVolumeClaims of one pod do not fit together"), "{}", found.why);
    assert_eq!(found.others, [other.clone()]);
    assert!(found.asked.is_some() && found.crowded.is_some_and(|crowded| crowded.class == "fast"));
    // The scheduler has not written its choice on it yet.
    other.metadata.annotations = None;
    s.mates = vec![mate(&other)];
    assert!(matches!(next(&s), Step::Reschedule(found) if found.others.is_empty()));
}

#[test]
fn p1_nothing_is_made_before_it_is_time_or_for_another() {
    let (mut deleted, mut other, mut unselected) = (pvc(), pvc(), pvc());
    deleted.metadata.deletion_timestamp = some_time();
    other.metadata.uid = Some("later".into());
    unselected.metadata.annotations = None;
    for pvc in [deleted, other, unselected] {
        let mut s = seen(true);
        s.pvc = Some(pvc);
        assert_eq!(next(&s), Step::Rest);
    }
    assert_eq!(next(&Seen { pvc: None, ..seen(true) }), Step::Rest);
}

#[test]
fn p3_only_a_bound_pvc_with_its_own_volume_grows() {
    let v = own(ready_volume("pvc-u", "eng", true));
    let cached = growth::Cached { requested: Some(2 << 30), ..Default::default() };
    assert!(is_unsettled("u", cached, &v));
    assert!(!is_unsettled("u", cached, &ready_volume("pvc-u", "eng", true)), "it is another's");
    let mut s = Seen { bound: true, volume: Some(Arc::new(v)), ..seen(true) };
    assert_eq!(next(&s), Step::Growth(growth::Step::Rest));
    s.pvc = None;
    assert_eq!(next(&s), Step::Rest);
}
