//! Tables of the next step for a PersistentVolumeClaim of a class.

use serde_json::{from_value, json};

use super::*;
use crate::plan::persistent_volume::name_for;
use crate::plan::testing::{self, claim, ready_volume, reserved, some_time};

fn pvc() -> PersistentVolumeClaim {
    from_value(json!({"metadata": {"name": "data", "namespace": "team", "uid": "u",
        "annotations": {SELECTED_NODE: "n1", STORAGE_PROVISIONER: DRIVER}}, "spec": {"storageClassName": "fast",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}))
    .unwrap()
}

/// A VolumeClaim with the PersistentVolumeClaim's name, made for the PersistentVolumeClaim with that UID.
fn claim_of(uid: Option<&str>, deleted: bool) -> VolumeClaim {
    let mut claim = claim("team", "data", "pvc-u");
    claim.metadata.labels = uid.map(|uid| [(LABEL_PVC_UID.to_owned(), uid.to_owned())].into());
    claim.metadata.deletion_timestamp = deleted.then(some_time).flatten();
    claim
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
        claim: None,
        reservations: vec![Arc::new(reserved("r", "eng", 2, &[]))],
        disks: vec![Arc::new(crate::plan::testing::disk("n1.a", "n1", 9, &[]))],
        nodes: vec![],
        used: false,
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
fn p1_the_claim_is_created_before_the_volume() {
    let mut s = seen(true);
    let Step::CreateClaim(made) = next(&s) else { panic!() };
    assert_eq!((made.0.name_any().as_str(), made.0.spec.volume.as_deref()), ("data", Some("pvc-u")));
    assert_eq!(made.1.name_any(), "pvc-u", "the dry run");
    s.claim = Some(Arc::new(made.0));
    let Step::CreateVolume(made) = next(&s) else { panic!() };
    assert_eq!((made.name_any().as_str(), made.spec.reservation.as_deref()), ("pvc-u", Some("r")));
    s.claim = Some(Arc::new(claim_of(None, false)));
    assert!(matches!(next(&s), Step::Refuse(why) if why.contains("in the way")));
}

#[test]
fn p2_without_free_space_the_scheduler_chooses_again() {
    let mut s = seen(true);
    s.reservations = vec![Arc::new(reserved("r", "eng", 2, &[("x", 2)]))];
    let Step::Reschedule(found) = next(&s) else { panic!() };
    let Reschedule { why, asked, others, crowded } = *found;
    let (claim, volume) = *asked.unwrap();
    assert!(why.contains("on node n1, which was chosen for the pod: 1Gi asked for, r has 0 left"), "{why}");
    assert_eq!((others, crowded), (vec![], None));
    assert_eq!(
        (claim.name_any().as_str(), volume.name_any().as_str()),
        ("data", "pvc-u"),
        "A5: rights first"
    );
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

/// F5: external-provisioner makes no volume for such a PersistentVolumeClaim either.
#[test]
fn f5_a_claim_that_names_its_volume_gets_no_new_one() {
    let mut s = seen(true);
    s.pvc.as_mut().unwrap().spec.as_mut().unwrap().volume_name = Some("reservoir-old".into());
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
    assert_eq!((asked.0.name_any().as_str(), asked.1.name_any().as_str()), ("data", "pvc-u"));
    s.reservations.clear();
    assert!(matches!(next(&s), Step::Wait(why, _) if why.contains("nothing is reserved")));
    s.reservations = vec![Arc::new(reserved("r", "eng", 2, &[]))];
    assert_eq!(next(&s), Step::Rest, "the scheduler chooses this node");
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
        s.claim = Some(Arc::new(claim_of(Some("u"), false)));
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
    assert_eq!(asked.0.name_any(), "data", "A5: rights first");
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
    assert!(matches!(next(&s), Step::CreateClaim(_)), "2Gi are there");
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
fn p6_a_claim_of_its_name_is_its_own_or_in_the_way() {
    let of = |uid, deleted| in_the_way(&claim_of(uid, deleted), &pvc()).unwrap_or_default();
    assert_eq!(of(Some("u"), false), "");
    assert!(of(Some("u"), true).contains("delete this one too"));
    assert!(
        of(None, false)
            .contains("that is another's is in the way: give this PersistentVolumeClaim another name")
    );
    for (uid, deleted) in [(None, true), (Some("earlier"), false), (Some("earlier"), true)] {
        assert!(of(uid, deleted).contains("provisioning goes on afterwards"), "{uid:?} {deleted}");
    }
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

#[test]
fn p4_the_reclaim_policy_decides_the_fate() {
    let pv = |policy: &str| -> PersistentVolume {
        from_value(json!({"spec": {"persistentVolumeReclaimPolicy": policy}})).unwrap()
    };
    let (mut v, c) = (own(ready_volume("pvc-u", "eng", false)), claim_of(Some("u"), true));
    assert_eq!(fate(&c, &v, false, None), Fate::Destroy, "no pod can have had it");
    assert_eq!(fate(&c, &v, true, Some(&pv("Delete"))), Fate::Destroy);
    let bound_by = |uid| crate::plan::testing::bound_by("team", "data", uid);
    let own_uid = c.metadata.uid.clone().unwrap_or_default();
    for (claims, expected) in [
        (vec![bound_by(&own_uid)], Fate::Destroy),
        (vec![bound_by(&own_uid), bound_by("other")], Fate::Retire),
        (vec![bound_by("other")], Fate::Retire),
    ] {
        v.status.as_mut().unwrap().claims = claims;
        assert_eq!(fate(&c, &v, true, Some(&pv("Delete"))), expected, "X5");
    }
    v.status.as_mut().unwrap().claims.clear();
    let mut going = v.clone();
    going.metadata.deletion_timestamp = crate::plan::testing::some_time();
    assert_eq!(fate(&c, &going, true, Some(&pv("Retain"))), Fate::Destroyed);
    assert!(matches!(fate(&c, &v, true, Some(&pv("Retain"))), Fate::Keep(_)));
    let mut named = c.clone();
    named.status.get_or_insert_default().persistent_volume = Some("pv".into());
    assert!(matches!(fate(&named, &v, false, None), Fate::Keep(_)), "when in doubt");
    let Fate::Keep(said) = fate(&c, &v, true, None) else { panic!("when in doubt") };
    assert_eq!(
        said,
        "PersistentVolumeClaim team/data is gone and its data stays: claim volume pvc-u with a VolumeClaim, after a \
         RoleSubscription of the namespace to role eng, by: kubectl reservoir claim data --role eng --volume pvc-u -n team; or \
         delete it"
    );
    v.status.as_mut().unwrap().claims = vec![crate::plan::testing::bound_by("team", "data", "uid-data")];
    assert!(!may_be_abandoned(&v), "its claim is on its list");
    v.spec.retire = true;
    assert_eq!(fate(&c, &v, true, Some(&pv("Retain"))), Fate::Decided);
    assert_eq!(
        fate(&c, &ready_volume("pvc-u", "eng", false), true, None),
        Fate::Decided,
        "it is like any other"
    );
}

/// P4, S10: what is over stays over, and a binding that may lead a pod to the volume is not.
#[test]
fn p4_a_binding_is_over_with_its_pvc() {
    let (mut v, c) = (own(ready_volume("pvc-u", "eng", true)), claim_of(Some("u"), true));
    v.metadata.deletion_timestamp = crate::plan::testing::some_time();
    let own_uid = c.metadata.uid.clone().unwrap_or_default();
    let pvc = |uid: &str, pv: Option<&str>| -> PersistentVolumeClaim {
        from_value(json!({"metadata": {"name": "data", "uid": uid}, "spec": {"volumeName": pv}})).unwrap()
    };
    let (first, second, led) =
        (pvc("u", None), pvc("second", None), pvc("second", Some(&name_for(&own_uid))));
    let mut other = claim_of(None, true);
    other.metadata.uid = Some("other".into());
    let own_binding = crate::plan::testing::bound_by("team", "data", &own_uid);
    let other_binding = crate::plan::testing::bound_by("team", "data", "other");
    for (binding, claim, pvc, expected) in [
        (&own_binding, Some(&c), Some(&first), false),
        (&own_binding, Some(&c), None, true),
        (&own_binding, Some(&c), Some(&second), true),
        (&own_binding, None, Some(&second), true),
        (&own_binding, None, Some(&led), false),
        (&other_binding, Some(&other), None, false),
        (&other_binding, Some(&c), None, true),
    ] {
        assert_eq!(is_over(binding, &v, claim, pvc), expected, "{binding:?} {pvc:?}");
    }
    v.metadata.deletion_timestamp = None;
    assert!(!is_over(&own_binding, &v, Some(&c), None), "C6: the node is asked first");
}
