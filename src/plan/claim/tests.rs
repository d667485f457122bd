//! Tests of the next step of a claim.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::*;
use crate::api::{AccessMode, ClaimSelector, CopyOf, Verified};
use crate::plan::persistent_volume::{persistent_volume, persistent_volume_claim};
use crate::plan::pv_binding::{Pvc, Step as Pv};
use crate::plan::testing::*;

fn seen() -> Seen {
    Seen {
        guarded: true,
        volume: None,
        offers: offers(&[]),
        refused: None,
        binding: pv_binding::Seen::default(),
        keeping: vec![],
        lost_on: vec![],
        heirs: vec![],
        node_missing: false,
        now: Timestamp::from_second(60).unwrap(),
    }
}

fn offers(volumes: &[&SharedPersistentVolume]) -> Offers {
    let volumes = volumes.iter().map(|v| Arc::new((*v).clone())).collect();
    let subscriptions = vec![Arc::new(subscription("ns", &["eng"], true))];
    Offers { subscriptions, volumes, ..Default::default() }
}

#[test]
fn c1_a_claim_that_selects_prefers_nodes_that_are_not_cordoned() {
    let mut claim = claim("ns", "c", "v");
    claim.spec.volume = None;
    claim.spec.selector = Some(Default::default());
    let (a, b) = (ready_volume("a", "eng", true), ready_volume("b", "eng", true));
    let chosen = |cordoned: &[&str], volumes: &[&SharedPersistentVolume]| {
        let cordoned = cordoned.iter().map(|&name| name.to_owned()).collect();
        let offers = Offers { cordoned, ..offers(volumes) };
        offers.choose(&claim, &refs(&offers.volumes)).map(|volume| volume.name_any()).ok()
    };
    assert_eq!(chosen(&[], &[&a, &b]).as_deref(), Some("a"));
    assert_eq!(chosen(&["a"], &[&a, &b]).as_deref(), Some("b"));
    assert_eq!(chosen(&["a"], &[&a]).as_deref(), Some("a"), "its pods wait for the node");
    assert_eq!(chosen(&["a", "b"], &[&a, &b]).as_deref(), Some("a"));
}

/// X8: the condition of the claim alone says that its data is there.
#[test]
fn x8_a_claim_without_a_volume_names_kept_data() {
    let mut claim = claim("ns", "c", "a");
    let beside = |claim: &VolumeClaim, kept: &[(&str, i64, i64)], other: Option<SharedPersistentVolume>| {
        let offers = offers(&other.iter().collect::<Vec<_>>());
        let (keeping, volume) = (vec![Arc::new(with_kept(kept))], other.map(Arc::new));
        let Step::Report(status, _) = next(claim, &Seen { keeping, volume, offers, ..seen() }) else {
            panic!()
        };
        condition::get(&status.conditions, READY).unwrap().message.clone()
    };
    let said = |claim: &VolumeClaim, kept: &[(&str, i64, i64)]| beside(claim, kept, None);
    let missing = "there is no SharedPersistentVolume a for role eng; the claim waits for it";
    assert_eq!(said(&claim, &[]), missing);
    let kept = said(&claim, &[("a", 0, 60)]);
    assert!(
        kept.starts_with(&format!("{missing}; DiskReservation r keeps the data of volume a until")),
        "{kept}"
    );
    let taken = beside(&claim, &[("a", 0, 60)], Some(ready_volume("a", "ops", true)));
    assert_eq!(taken, missing, "another team's volume has the name");
    (claim.spec.volume, claim.spec.selector) = (None, Some(ClaimSelector::default()));
    let kept = said(&claim, &[("a", 0, 60)]);
    assert!(
        kept.contains("no volume on offer to namespace ns") && kept.contains("undelete uid-a-0 "),
        "{kept}"
    );
    claim.spec.role = "ops".into();
    let other = said(&claim, &[("a", 0, 60)]);
    assert!(!other.contains("undelete"), "{other}");
}

/// A volume with the claim in its list.
fn having(claim: &VolumeClaim) -> Arc<SharedPersistentVolume> {
    let mut v = ready_volume("v", "eng", true);
    v.status.as_mut().unwrap().claims = vec![bind::binding(claim)];
    Arc::new(v)
}

fn reason(step: Step) -> (String, VolumeClaimStatus) {
    match step {
        Step::Report(status, _) => {
            (condition::get(&status.conditions, READY).unwrap().reason.clone(), *status)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn c1_a_named_volume_is_bound_then_given_to_pods() {
    let (c, mut s) = (claim("ns", "c", "v"), seen());
    assert_eq!(next(&c, &Seen { guarded: false, ..seen() }), Step::Guard);
    assert_eq!(reason(next(&c, &s)).0, "NoSuchVolume");
    assert_eq!(
        next(&c, &Seen { now: Timestamp::UNIX_EPOCH, ..seen() }),
        Step::Debounce,
        "the volume follows"
    );
    let free = ready_volume("v", "eng", true);
    s.offers = offers(&[&free]);
    assert_eq!(next(&c, &s), Step::Bind("v".into()));
    let bound = s.offers.bind(&c, &free).unwrap();
    assert_eq!(bound.claims, [bind::binding(&c)]);
    s.volume = Some(having(&c));
    let Step::Binding(Pv::CreatePv(pv), _) = next(&c, &s) else { panic!() };
    s.binding.pv = Some(*pv);
    let Step::Binding(Pv::CreatePvc(pvc), _) = next(&c, &s) else { panic!() };
    s.binding.pvc = Some(*pvc);
    let (said, status) = reason(next(&c, &s));
    assert_eq!((said.as_str(), status.phase), ("Binding", ClaimPhase::Bound));
    assert_eq!(status.persistent_volume.as_deref(), Some("reservoir-uid-c"));
    assert_eq!(next(&c, &Seen { now: Timestamp::UNIX_EPOCH, ..s }), Step::Debounce);
}

#[test]
fn o1_a_bound_claim_says_that_its_namespace_has_unsubscribed() {
    let claim = claim("ns", "c", "v");
    let says = |roles: &[&str]| {
        let subscriptions = vec![Arc::new(subscription("ns", roles, false))];
        let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
        let offers = Offers { subscriptions, ..Default::default() };
        let status =
            reason(next(&claim, &Seen { volume: Some(having(&claim)), offers, binding, ..seen() })).1;
        condition::get(&status.conditions, READY).unwrap().message.clone()
    };
    assert_eq!(says(&["eng"]), "pods may use PersistentVolumeClaim c");
    assert_eq!(
        says(&["ops"]),
        "pods may use PersistentVolumeClaim c; the namespace is not subscribed to role eng any more, and the claim goes \
         on until it is deleted"
    );
}

/// X5, F5, E4: who may not see volumes reads it in the claim.
#[test]
fn x5_e4_a_bound_claim_says_what_becomes_of_its_data() {
    let claim = claim("ns", "c", "v");
    let says = |change: &dyn Fn(&mut SharedPersistentVolume)| {
        let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
        let subscriptions = vec![Arc::new(subscription("ns", &["eng"], false))];
        let offers = Offers { subscriptions, ..Default::default() };
        let mut volume = (*having(&claim)).clone();
        change(&mut volume);
        let seen = Seen { volume: Some(Arc::new(volume)), offers, binding, ..seen() };
        condition::get(&reason(next(&claim, &seen)).1.conditions, READY).unwrap().message.clone()
    };
    let ends = "; volume v is destroyed after its last use, and its data with it: copy first what is needed";
    assert!(!says(&|_| {}).contains(ends));
    assert!(says(&|volume| volume.spec.retire = true).ends_with(ends));
    let keeps = says(&|volume| (volume.spec.retire, volume.spec.keep_for) = (true, Some("1h".into())));
    let kept =
        "destroyed after its last use; its data is kept for 1h, or until its reservation needs the bytes";
    assert!(keeps.ends_with(kept), "X8: {keeps}");
    let copy = says(&|volume| {
        volume.spec.retire = true;
        volume.spec.copy_of = Some(CopyOf { name: "o".into(), ..CopyOf::default() });
    });
    assert!(
        copy.ends_with("and its data with it, unless volume o has it: copy first what is needed"),
        "{copy}"
    );
    assert!(says(&|volume| volume.metadata.deletion_timestamp = some_time()).ends_with(ends));
    let differs = |volume: &mut SharedPersistentVolume| {
        let at = some_time().unwrap();
        volume.status.as_mut().unwrap().verified = Some(Verified { request: None, at, differ: 1 });
    };
    assert!(says(&differs).contains("; volume v is not intact: 1 of its names were not what was sealed"));
}

/// C4.
#[test]
fn e1_a_claim_of_before_says_that_its_volume_is_sealed() {
    let (claim, mut volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
    volume.spec.sealed = true;
    volume.status.as_mut().unwrap().claims = vec![bind::binding(&claim)];
    let says = |claim: &VolumeClaim| {
        let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
        let subscriptions = vec![Arc::new(subscription("ns", &["eng"], true))];
        let offers = Offers { subscriptions, ..Default::default() };
        let seen = Seen { volume: Some(Arc::new(volume.clone())), offers, binding, ..seen() };
        condition::get(&reason(next(claim, &seen)).1.conditions, READY).unwrap().message.clone()
    };
    assert_eq!(
        says(&claim),
        "pods may read PersistentVolumeClaim c, and no new pod writes: volume v is being sealed, so its files stay as \
         they are; to change them, copy them into another volume"
    );
    let mut reader = claim.clone();
    reader.spec.mode = AccessMode::ReadOnly;
    assert_eq!(says(&reader), "pods may use PersistentVolumeClaim c");
    // Files that differ did not stay as they were (E4).
    let mut differs = volume.clone();
    differs.status.as_mut().unwrap().verified =
        Some(Verified { request: None, at: some_time().unwrap(), differ: 1 });
    let why = crate::plan::seal::bound(&differs, AccessMode::ReadWrite).unwrap();
    assert_eq!(why, ", and no new pod writes: volume v is being sealed");
}

#[test]
fn c1_a_volume_that_was_lost_to_another_is_reported() {
    let (c, v) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
    let refused = Some(volume_gone("v"));
    assert_eq!(reason(next(&c, &Seen { offers: offers(&[&v]), refused, ..seen() })).0, "NoSuchVolume");
}

#[test]
fn s8_a_claim_that_selects_notes_its_volume_first() {
    let (mut c, mut s) = (claim("ns", "c", "v"), seen());
    (c.spec.volume, c.spec.selector) = (None, Some(ClaimSelector::default()));
    let free = ready_volume("v", "eng", true);
    s.offers = offers(&[&free]);
    let Step::Note(status) = next(&c, &s) else { panic!() };
    assert_eq!(status.volume.as_ref().unwrap().name, "v");
    c.status = Some(*status);
    s.volume = Some(Arc::new(free));
    assert_eq!(next(&c, &s), Step::Bind("v".into()));
    s.volume = Some(having(&c));
    assert!(matches!(next(&c, &s), Step::Binding(..)), "it is on the list, though no cache has that");
}

#[test]
fn c7_a_binding_is_never_moved_to_another_volume() {
    let (mut c, mut s) = (claim("ns", "c", "v"), seen());
    let noted = Some(UidRef { name: "v".into(), uid: "uid-old".into() });
    c.status = Some(VolumeClaimStatus { phase: ClaimPhase::Bound, volume: noted, ..Default::default() });
    s.volume = Some(having(&c));
    assert_eq!(reason(next(&c, &s)).0, "VolumeLost", "another volume has the name");
    s.volume = None;
    assert_eq!(reason(next(&c, &s)).0, "VolumeLost");
}

fn is_bound(bound: bool) -> Option<Pvc> {
    Some(Pvc { bound, capacity: Some(1 << 30), deleted_at: None })
}

#[test]
fn c5_a_bound_claim_reads_and_writes_nothing() {
    let c = claim("ns", "c", "v");
    let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
    let (said, status) = reason(next(&c, &Seen { volume: Some(having(&c)), binding, ..seen() }));
    assert_eq!((said.as_str(), status.node_name.as_deref()), ("Bound", Some("n1")));
}

/// The step for the two objects of a bound claim. `node` is the node in the claim's status.
fn step(c: &VolumeClaim, node: Option<&str>, binding: pv_binding::Seen) -> Step {
    let mut c = c.clone();
    let status = c.status.get_or_insert_default();
    status.node_name = node.map(str::to_owned);
    next(&c, &Seen { volume: Some(having(&c)), binding, ..seen() })
}

#[test]
fn l1_a_deleted_persistent_volume_claim_is_made_anew() {
    let (c, v) = (claim("ns", "c", "v"), having(&claim("ns", "c", "v")));
    let mut old = persistent_volume(&c, &v);
    old.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("old".into());
    let with = |pv| pv_binding::Seen { pv, ..Default::default() };
    let Step::Binding(Pv::DeletePv(why), _) = step(&c, None, with(Some(old.clone()))) else { panic!() };
    assert!(why.message.contains("c was deleted and is being made anew"), "{}", why.message);
    let deleted = pv_binding::Seen { waits: Some(why), ..with(Some(old)) };
    assert!(
        matches!(step(&c, None, deleted), Step::Report(_, Some(RETRY))),
        "no watch has the PersistentVolume"
    );
    assert!(matches!(step(&c, None, with(None)), Step::Binding(Pv::CreatePv(_), _)), "it went meanwhile");
}

#[test]
fn c5_a_persistent_volume_claim_of_others_is_left_alone() {
    let c = claim("ns", "c", "v");
    let binding = pv_binding::Seen { pvc: Some(PersistentVolumeClaim::default()), ..Default::default() };
    assert_eq!(reason(step(&c, None, binding)).0, "NameTaken");
}

#[test]
fn v7_the_size_is_shown_once_kubernetes_has_bound_both() {
    let c = claim("ns", "c", "v");
    for (bound, shown) in [(true, true), (false, false)] {
        let cached = Some(Pvc { bound, capacity: Some(1), deleted_at: None });
        let found = step(&c, None, pv_binding::Seen { cached, ..Default::default() });
        assert_eq!(matches!(found, Step::Binding(Pv::ShowSize, _)), shown);
    }
}

#[test]
fn d3_both_are_made_anew_on_the_node_that_the_volume_moved_to() {
    let (c, v) = (claim("ns", "c", "v"), having(&claim("ns", "c", "v")));
    let (pv, mut pvc) = (persistent_volume(&c, &v), persistent_volume_claim(&c, &v));
    let mut old = pv.clone();
    old.spec.as_mut().unwrap().node_affinity = None;
    let with = |pv, pvc| pv_binding::Seen { cached: is_bound(true), pvc, pv, ..Default::default() };
    let moved = |pv, pvc| step(&c, Some("n0"), with(pv, pvc));
    let deletes = |step| match step {
        Step::Binding(Pv::DeletePvc(_), _) => "claim",
        Step::Binding(Pv::DeletePv(_), _) => "volume",
        other => panic!("{other:?}"),
    };
    assert_eq!(deletes(moved(Some(old.clone()), Some(pvc.clone()))), "claim");
    pvc.metadata.deletion_timestamp = some_time();
    let (said, status) = reason(moved(Some(old.clone()), Some(pvc.clone())));
    assert_eq!((said.as_str(), status.node_name.as_deref()), ("Binding", Some("n0")));
    assert_eq!(deletes(moved(Some(old.clone()), None)), "volume");
    assert_eq!(reason(moved(Some(pv), Some(pvc))).1.node_name.as_deref(), Some("n1"));
}

/// L1: another user may have written the status of an unbound claim.
#[test]
fn l1_a_forged_status_keeps_no_claim_from_its_volume() {
    let (mut c, mut v) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
    v.status.get_or_insert_default().claims = vec![bind::binding(&c)];
    let noted = UidRef { name: "v".into(), uid: "uid-forged".into() };
    c.status = Some(VolumeClaimStatus { volume: Some(noted), ..Default::default() });
    assert!(has(&v, &c), "it names its volume");
    c.status.as_mut().unwrap().phase = ClaimPhase::Bound;
    assert!(!has(&v, &c), "the volume was made anew");
    c.status.as_mut().unwrap().phase = ClaimPhase::Pending;
    c.spec.volume = None;
    assert!(!has(&v, &c), "it chose another one");
}

/// C7, T1: somebody deleted the PersistentVolumeClaim, and pods keep it: no new pod may use it.
#[test]
fn c7_a_claim_says_that_its_pvc_is_being_deleted() {
    let (claim, mut volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
    volume.status.as_mut().unwrap().claims = vec![bind::binding(&claim)];
    let at = |deleted_at: i64| {
        let deleted_at = Timestamp::from_second(deleted_at).ok();
        let cached = Some(Pvc { bound: true, capacity: None, deleted_at });
        let binding = pv_binding::Seen { cached, ..Default::default() };
        Seen { binding, volume: Some(Arc::new(volume.clone())), ..seen() }
    };
    let Step::Report(status, None) = next(&claim, &at(0)) else { panic!("{:?}", next(&claim, &at(0))) };
    let ready = condition::get(&status.conditions, READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Terminating"));
    assert!(ready.message.contains("c is being deleted, so no new pod may use it"), "{}", ready.message);
    assert_eq!(next(&claim, &at(59)), Step::Debounce, "it may be gone in a moment");
}

/// D4: nobody is told that pods may use what was given up.
#[test]
fn d4_a_claim_of_a_disk_that_was_declared_gone_is_not_ready() {
    let claim = claim("ns", "c", "v");
    let mut volume = (*having(&claim)).clone();
    let conditions = &mut volume.status.as_mut().unwrap().conditions;
    let gone = Verdict::no(reason::VOLUME_GONE, "");
    condition::set(conditions, READY, gone, None, Timestamp::UNIX_EPOCH);
    let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
    let seen = Seen { volume: Some(Arc::new(volume)), binding, ..seen() };
    let (said, status) = self::reason(next(&claim, &seen));
    assert_eq!((said.as_str(), status.phase), ("VolumeGone", ClaimPhase::Bound));
    let message = &condition::get(&status.conditions, READY).unwrap().message;
    assert!(message.ends_with("delete the claim, and claim another volume"), "{message}");
}

/// D4, D8, V10: a claim says that its volume is not of use, once that lasts: a node that restarts costs no write of a claim.
#[test]
fn d4_a_bound_claim_says_that_its_volume_is_away() {
    let claim = claim("ns", "c", "v");
    let at = |reason: &'static str, seconds: i64| {
        let mut volume = Arc::unwrap_or_clone(having(&claim));
        let why = Verdict { ok: reason == "Ready", reason, message: "said".into() };
        let status = volume.status.as_mut().unwrap();
        status.conditions.clear();
        condition::set(&mut status.conditions, READY, why, None, Timestamp::UNIX_EPOCH);
        let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
        let now = Timestamp::from_second(seconds).unwrap();
        let seen = Seen { volume: Some(Arc::new(volume)), binding, now, ..seen() };
        let Step::Report(status, again) = next(&claim, &seen) else { panic!() };
        let ready = condition::get(&status.conditions, READY).unwrap().clone();
        assert_eq!(status.phase, ClaimPhase::Bound);
        (ready.reason, ready.message, again.map(|again| again.as_secs()))
    };
    let fine = |again| ("Bound".to_owned(), "pods may use PersistentVolumeClaim c".to_owned(), again);
    for reason in ["NodeUnreachable", "DiskNotReady", "BackingFailed", "BackingLost"] {
        assert_eq!(at(reason, 20), fine(Some(40)), "{reason}");
        let why = "new pods wait for volume v, to which the claim is bound: said";
        assert_eq!(at(reason, 60), ("VolumeNotReady".to_owned(), why.to_owned(), None));
    }
    for reason in ["Ready", "CopyDiffers", "Destroying"] {
        assert_eq!(at(reason, 600), fine(None), "{reason}");
    }
    assert_eq!(at("VolumeGone", 0).0, "VolumeGone");
}
