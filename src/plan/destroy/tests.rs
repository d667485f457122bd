//! Tests of the end of a volume.

use super::*;
use crate::api::{Destroy, NodePart, Process};
use crate::plan::testing::{destroy_seen as nothing, *};

struct Case {
    in_use: bool,
    tombstone: bool,
    node: NodePart,
    claims: usize,
    users: u32,
    seen: Seen,
}

fn step(case: Case) -> Result<Stage, Step> {
    let mut v = ready_volume("v", "eng", true);
    let status = v.status.as_mut().unwrap();
    status.destroy = Some(Destroy {
        in_use: case.in_use,
        tombstone: case.tombstone.then(some_time).flatten(),
        ..Default::default()
    });
    status.node = Some(case.node);
    status.claims = (0..case.claims).map(|i| bound_by("ns", &format!("c{i}"), &i.to_string())).collect();
    status.user_count = case.users;
    stage(&v, &case.seen)
}

fn quiet() -> Case {
    let node = NodePart { backing: BackingState::Made, ..Default::default() };
    Case { in_use: false, tombstone: false, node, claims: 0, users: 0, seen: nothing() }
}

fn fenced(case: Case) -> Case {
    Case { node: NodePart { fenced: true, ..case.node }, ..case }
}

fn live(pods: Vec<PodRef>) -> Option<Live> {
    Some(Live { pods, kind_deleted: false })
}

/// A reservation whose ledger lists the volume.
fn held() -> Vec<Arc<DiskReservation>> {
    vec![Arc::new(reserved("r", "eng", 1, &[("v", 1)]))]
}

/// The reservations that get their bytes back in the last step.
fn credited(step: Result<Stage, Step>) -> Vec<String> {
    match step {
        Err(Step::End { reservations, .. }) => reservations.iter().map(|r| r.name_any()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn x9_a_volume_whose_kind_is_deleted_becomes_an_orphan() {
    let looked = |case: Case, pods| {
        let live = Some(Live { pods, kind_deleted: true });
        step(Case { seen: Seen { live, ..case.seen }, ..case })
    };
    let Err(Step::Orphan(receipt)) = looked(fenced(quiet()), vec![]) else { panic!() };
    assert!(receipt.contains("data of volume v that is on NodeDisk n1.a stays there"), "{receipt}");
    let mut v = ready_volume("v", "eng", true);
    let lost = Verdict::no(reason::BACKING_LOST, "the data of volume v is lost: it was erased");
    let mut status = v.status.take().unwrap();
    condition::set(&mut status.conditions, BACKED, lost, None, Timestamp::UNIX_EPOCH);
    let receipt = orphan(&v, &status);
    assert!(receipt.ends_with(": the data of volume v is lost: it was erased"), "{receipt}");
    let unmade = || {
        let node = NodePart { backing: BackingState::Erased, ..fenced(quiet()).node };
        Case { node, ..quiet() }
    };
    assert!(matches!(looked(unmade(), vec![]), Err(Step::LookForEntries)), "X10: no data, no orphan");
    let found = Seen { entries: Some(Some(held())), ..quiet().seen };
    assert_eq!(credited(looked(Case { seen: found, ..unmade() }, vec![])), ["r"]);
    let gone = Case { seen: Seen { disk_gone: true, ..quiet().seen }, ..quiet() };
    assert!(matches!(looked(gone, vec![]), Err(Step::Orphan(_))));
    assert!(
        matches!(looked(fenced(quiet()), vec![pod("ns", "p")]), Ok(Stage::Unfence(_))),
        "X1 all the same"
    );
    let dead = Case { tombstone: true, ..fenced(quiet()) };
    assert!(matches!(looked(dead, vec![]), Ok(Stage::Wait(_))), "S11: its DELETE was admitted");
}

/// O6, X2, X4, S10.
#[test]
fn x4_a_destruction_has_one_order() {
    assert!(matches!(step(quiet()), Ok(Stage::Wait(_))), "the agent has not answered yet");
    assert_eq!(step(fenced(quiet())), Err(Step::LookForUsers));
    let looked = |pods| Case { seen: Seen { live: live(pods), ..quiet().seen }, ..fenced(quiet()) };
    assert!(matches!(step(looked(vec![])), Ok(Stage::Tombstone(_))));
    let copied = |copies| Case { seen: Seen { copies, ..looked(vec![]).seen }, ..looked(vec![]) };
    let Ok(Stage::Wait(why)) = step(copied(2)) else { panic!("E5") };
    assert_eq!(why, "it waits for its 2 copies to be destroyed");
    assert!(matches!(step(looked(vec![pod("ns", "p")])), Ok(Stage::Unfence(_))), "X2: the user won");
    let used = |live| Case { in_use: true, seen: Seen { live, ..quiet().seen }, ..quiet() };
    assert_eq!(step(used(None)), Err(Step::LookForUsers));
    assert!(matches!(step(used(live(vec![pod("ns", "p")]))), Ok(Stage::Wait(_))));
    assert!(matches!(step(used(live(vec![]))), Ok(Stage::Fence(_))), "and has ended");
    let dead = || Case { tombstone: true, ..fenced(quiet()) };
    assert!(matches!(step(dead()), Ok(Stage::Wait(_))));
    let erased = || NodePart { backing: BackingState::Erased, fenced: true, ..Default::default() };
    assert_eq!(step(Case { node: erased(), ..dead() }), Err(Step::LookForEntries));
    let found = |entries| Case { node: erased(), seen: Seen { entries, ..nothing() }, ..dead() };
    assert_eq!(credited(step(found(Some(Some(held()))))), ["r"], "X4: after the bytes are gone");
    assert_eq!(credited(step(found(Some(Some(vec![]))))), [""; 0]);
}

/// L4.
#[test]
fn x1_claims_and_pods_lift_the_fence() {
    for case in [Case { claims: 2, ..quiet() }, Case { users: 1, ..quiet() }] {
        assert!(matches!(step(Case { in_use: true, ..case }), Ok(Stage::Wait(_))));
    }
    assert_eq!(
        step(Case { claims: 2, ..fenced(quiet()) }),
        Ok(Stage::Unfence("it waits for claim ns/c0 and ns/c1 to be deleted".into()))
    );
}

#[test]
fn x3_a_lingering_mount_delays_the_tombstone() {
    let case = fenced(quiet());
    let node = NodePart { in_use: true, mounted_by: vec![pod("ns", "p")], ..case.node.clone() };
    assert_eq!(step(Case { node, ..case }), Ok(Stage::Wait("it is still mounted by ns/p on node n1".into())));
    let case = fenced(quiet());
    let sleep = Process { pid: 7, command: "sleep".into(), pod_uid: Some("uid-q".into()), mount: None };
    let node = NodePart { in_use: true, held_by: vec![sleep], ..case.node.clone() };
    let seen = Seen { holder_pods: vec![pod("other", "q")], ..nothing() };
    assert_eq!(
        step(Case { node, seen, ..case }),
        Ok(Stage::Wait("it is still in use by process 7 (sleep) of pod other/q on node n1".into())),
        "F3"
    );
}

#[test]
fn s11_nothing_follows_the_tombstone_but_the_end() {
    let case = Case { tombstone: true, claims: 1, users: 3, ..fenced(quiet()) };
    assert!(matches!(step(case), Ok(Stage::Wait(said)) if said.contains("erased")));
}

#[test]
fn d4_a_disk_that_was_declared_gone_needs_no_agent() {
    let on_gone = |case: Case, live| {
        let seen = Seen { disk_gone: true, live, entries: case.seen.entries, ..nothing() };
        step(Case { seen, ..case })
    };
    assert!(matches!(on_gone(Case { claims: 1, ..quiet() }, None), Ok(Stage::Unfence(_))), "X1 all the same");
    assert_eq!(on_gone(quiet(), None), Err(Step::LookForUsers));
    assert!(matches!(on_gone(quiet(), live(vec![pod("ns", "p")])), Ok(Stage::Unfence(_))));
    assert!(matches!(on_gone(quiet(), live(vec![])), Ok(Stage::Tombstone(_))));
    let dead = || Case { tombstone: true, ..quiet() };
    let seen = Seen { entries: Some(Some(held())), ..nothing() };
    let dead = on_gone(Case { seen, ..dead() }, None);
    assert_eq!(credited(dead), ["r"], "without a receipt of the agent: nothing was erased");
}

/// Pods that Kubernetes has made anew wait for the claim, and would never end.
#[test]
fn d7_pods_without_a_node_do_not_hold_a_volume_that_left() {
    let on = |disk_gone, node_gone| {
        let seen = Seen { disk_gone, node_gone, live: live(vec![pod("ns", "p")]), ..nothing() };
        step(Case { seen, ..quiet() })
    };
    assert!(matches!(on(true, true), Ok(Stage::Tombstone(_))));
    assert!(matches!(on(true, false), Ok(Stage::Unfence(_))), "D4: they may run");
    assert!(!matches!(on(false, false), Ok(Stage::Tombstone(_))));
}

#[test]
fn f3_a_finalizer_of_others_is_named_before_the_end() {
    let mut v = volume("v", "eng", 1);
    v.metadata.finalizers = Some(vec![crate::api::FINALIZER.into(), "example.com/keep".into()]);
    let seen = || Seen { entries: Some(Some(held())), ..nothing() };
    let (status, _) = report(next(&v, &seen()));
    let ready = condition::get(&status.conditions, READY).unwrap();
    assert!(ready.message.ends_with("when finalizer example.com/keep is removed"), "{}", ready.message);
    v.status = Some(status);
    assert!(matches!(next(&v, &seen()), Step::End { .. }), "once");
}

#[test]
fn v8_an_adopted_directory_is_let_go_and_not_erased() {
    let mut v = ready_volume("v", "eng", true);
    v.spec.adopt = Some(crate::api::Adopt { path: "/srv/a".into() });
    v.status.as_mut().unwrap().destroy = Some(Destroy { tombstone: some_time(), ..Default::default() });
    assert!(
        matches!(stage(&v, &nothing()), Ok(Stage::Wait(said)) if said.contains("is being released on node n1"))
    );
}

#[test]
fn x8_a_kept_volume_ends_with_a_mark_and_keeps_its_bytes() {
    let mut v = ready_volume("v", "eng", true);
    v.spec.keep_for = Some("60s".into());
    v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
    v.status.as_mut().unwrap().reservation =
        Some(crate::api::UidRef { name: "r".into(), uid: "uid-r".into() });
    let (status, _) = report(next(&v, &Seen { live: live(vec![]), ..nothing() }));
    assert_eq!(status.destroy.as_ref().unwrap().kept_until, later());
    v.status = Some(status);
    assert!(matches!(next(&v, &nothing()), Step::Report { .. }), "the node has not noted it");
    v.status.as_mut().unwrap().node.as_mut().unwrap().backing = BackingState::Kept;
    assert_eq!(next(&v, &nothing()), Step::LookForEntries);
    let end = |entries: Vec<Arc<DiskReservation>>, backing| {
        let mut v = v.clone();
        v.status.as_mut().unwrap().node.as_mut().unwrap().backing = backing;
        match next(&v, &Seen { entries: Some(Some(entries)), ..nothing() }) {
            Step::End { reservations, outcome, receipt, left } => {
                (reservations.len(), outcome, receipt, left)
            }
            other => panic!("{other:?}"),
        }
    };
    let (entries, outcome, receipt, left) = end(held(), BackingState::Kept);
    assert!((entries, outcome) == (1, "Kept") && receipt.contains("undelete v"), "{receipt}");
    let (of, left) = left.unwrap();
    assert_eq!((of.as_str(), &left.mark.as_ref().map(|mark| mark.until.clone())), ("uid-r", &later()));
    let mut marked = (*held()[0]).clone();
    marked.status.as_mut().unwrap().volumes = kept::with_left(&marked, "uid-v", &left);
    assert_eq!(end(vec![Arc::new(marked)], BackingState::Kept).0, 0, "one receipt");
    // An agent of an earlier version erases.
    let (_, outcome, _, left) = end(held(), BackingState::Erased);
    assert_eq!((outcome, left), ("Lost", None));
}

#[test]
fn x8_nothing_is_kept_of_what_was_never_made_or_is_gone() {
    let mut v = ready_volume("v", "eng", true);
    v.spec.keep_for = Some("60s".into());
    v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
    let kept_until = |v: &SharedPersistentVolume, disk_gone| {
        let (status, _) = report(next(v, &Seen { live: live(vec![]), disk_gone, ..nothing() }));
        status.destroy.unwrap().kept_until
    };
    assert_eq!(kept_until(&v, true), None, "D4");
    v.status.as_mut().unwrap().node.as_mut().unwrap().backing = BackingState::Absent;
    assert_eq!(kept_until(&v, false), None);
}

#[test]
fn x10_a_volume_without_a_node_just_goes() {
    let v = volume("v", "eng", 1);
    assert_eq!(stage(&v, &nothing()), Err(Step::LookForEntries));
    assert_eq!(credited(stage(&v, &Seen { entries: Some(Some(held())), ..nothing() })), ["r"]);
}

/// S3: the data is still on its disk, and its entry holds the reservation.
#[test]
fn x8_an_unplaced_volume_gives_the_entry_back_to_its_data() {
    let mut v = volume("v", "eng", 1);
    v.spec.recover = Some(crate::api::Recover { uid: "uid-a".into() });
    let end = |v: &SharedPersistentVolume, has_heir| {
        let seen = Seen { entries: Some(Some(held())), has_heir, ..nothing() };
        let Step::End { outcome, receipt, left, .. } = next(v, &seen) else { panic!() };
        assert!(left.is_none() || receipt.contains("uid-a yet, which stays in its reservation"), "{receipt}");
        (outcome, left.map(|(of, left)| (of, left.data, left.mark.is_some())))
    };
    let back = |marked| Some(("uid-r".to_owned(), "uid-a".to_owned(), marked));
    assert_eq!(end(&v, false), ("Orphaned", back(false)));
    assert_eq!(end(&v, true), ("Erased", None), "S4: the data has another heir");
    v.spec.retire = true;
    assert_eq!(end(&v, false), ("Kept", back(true)), "its erasure was deleted");
    v.spec.keep_for = Some("60s".into());
    assert_eq!(end(&v, false), ("Kept", back(true)));
}

fn report(step: Step) -> (SharedPersistentVolumeStatus, bool) {
    match step {
        Step::Report { status, refused } => (*status, refused),
        other => panic!("{other:?}"),
    }
}

#[test]
fn x1_users_are_counted_before_the_stage_is_decided() {
    let mut v = ready_volume("v", "eng", true);
    let claims = vec![bound_by("a", "x", "1"), bound_by("b", "y", "2")];
    let node = NodePart { backing: BackingState::Made, fenced: true, ..Default::default() };
    let status = v.status.as_mut().unwrap();
    (status.claims, status.node) = (claims.clone(), Some(node));
    let seen = Seen { lost_claims: claims[..1].to_vec(), ..nothing() };
    let (status, refused) = report(next(&v, &seen));
    assert!(refused && status.destroy.as_ref().unwrap().in_use);
    let lost = ClaimBinding { ending: true, ..claims[0].clone() };
    assert_eq!(status.claims, [lost.clone(), claims[1].clone()], "S7: it may be mounted");
    let ready = condition::get(&status.conditions, READY).unwrap();
    let waits = ready.message.contains("waits for claim b/y to be deleted");
    assert!(waits, "L4: a claim that is gone holds nothing up: {}", ready.message);
    v.status = Some(status);
    let seen = Seen { lost_claims: vec![lost.clone()], ..nothing() };
    assert!(!report(next(&v, &seen)).1, "counted once");
    let seen = Seen { lost_claims: vec![lost, claims[1].clone()], ..nothing() };
    assert_eq!(next(&v, &seen), Step::LookForUsers);
    assert_eq!(next(&v, &Seen { guarded: false, ..nothing() }), Step::Rest);
}

/// X5: a deletion is not taken back, whatever a retirement or a wished size of before said.
#[test]
fn x5_a_deletion_ends_retirement_and_unmet_size() {
    let mut v = ready_volume("v", "eng", true);
    let conditions = &mut v.status.as_mut().unwrap().conditions;
    for (type_, said) in [(RETIRING, "set spec.retire to false to keep it"), (RESIZED, "2Gi wished")] {
        condition::set(conditions, type_, Verdict::yes("Test", said), None, Timestamp::UNIX_EPOCH);
    }
    v.status.as_mut().unwrap().claims = vec![bound_by("a", "x", "1")];
    let (status, _) = report(next(&v, &nothing()));
    let types: Vec<&str> = status.conditions.iter().map(|c| &*c.type_).collect();
    assert!(!types.contains(&RETIRING) && !types.contains(&RESIZED) && types.contains(&READY), "{types:?}");
}

#[test]
fn s10_the_tombstone_is_in_the_status_that_is_reported() {
    let mut v = ready_volume("v", "eng", true);
    v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
    let (status, refused) = report(next(&v, &Seen { live: live(vec![]), ..nothing() }));
    assert!(!refused && status.destroy.unwrap().tombstone.is_some());
    assert_eq!(status.phase, VolumePhase::Destroyed);
}

/// A pod outlived its PersistentVolumeClaim, whose finalizer somebody took off.
#[test]
fn s7_a_binding_that_is_over_stays_until_nothing_is_mounted() {
    let mut v = ready_volume("v", "eng", false);
    v.metadata.deletion_timestamp = some_time();
    let own = bound_by("ns", "data", "c");
    let status = v.status.as_mut().unwrap();
    status.claims = vec![own.clone()];
    let node = status.node.as_mut().unwrap();
    (node.fenced, node.in_use, node.mounted_by) = (true, true, vec![pod("ns", "p")]);
    let seen = || Seen { over: vec![own.clone()], ..nothing() };
    let (waits, _) = report(next(&v, &seen()));
    assert_eq!((waits.claims.len(), waits.claim_count, waits.destroy.unwrap().tombstone), (1, 1, None));
    let node = v.status.as_mut().unwrap().node.as_mut().unwrap();
    (node.in_use, node.mounted_by) = (false, vec![]);
    assert_eq!(next(&v, &seen()), Step::LookForUsers);
    let (ended, _) = report(next(&v, &Seen { live: Some(Live::default()), ..seen() }));
    assert!(ended.claims.is_empty() && ended.destroy.unwrap().tombstone.is_some());
}

/// Somebody took the finalizers off a claim whose pod has ended, and the node has not unmounted the volume yet. `deletionPolicy:
/// Wait` accepts the DELETE.
#[test]
fn s7_c6_a_lost_binding_stays_until_nothing_is_mounted() {
    let mut v = ready_volume("v", "eng", true);
    v.metadata.deletion_timestamp = some_time();
    let status = v.status.as_mut().unwrap();
    status.claims = vec![bound_by("ns", "a", "a"), bound_by("ns", "b", "b")];
    (status.node.as_mut().unwrap().fenced, status.node.as_mut().unwrap().in_use) = (true, true);
    let lost = |v: &SharedPersistentVolume| v.status.as_ref().unwrap().claims.clone();
    let listed = |v: &SharedPersistentVolume, seen: Seen| {
        let (status, _) = report(next(v, &Seen { lost_claims: lost(v), ..seen }));
        let listed: Vec<_> = status.claims.iter().map(|b| (b.uid.clone(), b.ending)).collect();
        assert_eq!(status.claim_count as usize, listed.len());
        (listed, status)
    };
    let (marked, status) = listed(&v, nothing());
    assert_eq!(marked, [("a".to_owned(), true), ("b".to_owned(), true)]);
    v.status = Some(status);
    v.status.as_mut().unwrap().node.as_mut().unwrap().released = vec!["a".into()];
    assert_eq!(listed(&v, nothing()).0, marked[1..], "the node has unmounted it for one of them");
    let gone = Seen { disk_gone: true, live: live(vec![]), ..nothing() };
    assert_eq!(listed(&v, gone).0, [], "D4: no node will answer");
    v.status.as_mut().unwrap().node.as_mut().unwrap().in_use = false;
    let (left, status) = listed(&v, Seen { live: live(vec![]), ..nothing() });
    assert!(left.is_empty() && status.destroy.unwrap().tombstone.is_some());
}

#[test]
fn t1_only_a_node_that_does_not_answer_is_reported() {
    let mut v = ready_volume("v", "eng", true);
    v.metadata.deletion_timestamp = some_time();
    let at = |second| Seen { now: Timestamp::from_second(second).unwrap(), ..nothing() };
    assert_eq!(next(&v, &at(0)), Step::Debounce);
    assert!(report(next(&v, &at(9))).0.destroy.unwrap().tombstone.is_none());
    let users = Seen { users: vec![pod("ns", "p")], ..at(0) };
    assert!(report(next(&v, &users)).1, "X2: users are not kept waiting");
    v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
    assert_eq!(next(&v, &at(0)), Step::LookForUsers);
}

#[test]
fn o6_an_offer_that_stays_holds_up_no_destruction() {
    let mut v = ready_volume("v", "eng", true);
    v.metadata.deletion_timestamp = some_time();
    v.status.as_mut().unwrap().node.as_mut().unwrap().fenced = true;
    let offered = |second| Seen { offered: true, now: Timestamp::from_second(second).unwrap(), ..nothing() };
    assert_eq!(next(&v, &offered(0)), Step::Debounce, "T1: most offers follow in a moment");
    assert_eq!(next(&v, &offered(9)), Step::LookForUsers);
}

/// A8. Labels of old objects may be larger than the present bound.
#[test]
fn l5_a_volume_with_a_megabyte_of_labels_can_go() {
    let mut v = ready_volume("v", "eng", true);
    let label = |i| (format!("key-{i}"), "v".repeat(63));
    v.metadata.labels = Some((0..9000).map(label).collect());
    assert_eq!(next(&v, &nothing()), Step::DropLabels);
    v.metadata.labels = Some((0..9).map(label).collect());
    assert!(matches!(next(&v, &nothing()), Step::Report { .. }));
}

#[test]
fn x4_the_receipt_says_what_became_of_the_bytes() {
    let end = |policy, erased, disk_gone, adopt: Option<&str>| {
        let mut v = ready_volume("v", "eng", true);
        v.spec.erase_policy = policy;
        v.spec.adopt = adopt.map(|path| crate::api::Adopt { path: path.into() });
        let status = v.status.as_mut().unwrap();
        status.destroy = Some(Destroy { tombstone: some_time(), ..Default::default() });
        status.node = Some(NodePart { backing: BackingState::Erased, erased, ..Default::default() });
        let entries = Some(Some(held()));
        match next(&v, &Seen { disk_gone, entries, ..nothing() }) {
            Step::End { outcome, receipt, .. } => (outcome, receipt),
            other => panic!("{other:?}"),
        }
    };
    for (policy, erased, disk_gone, adopt, outcome, said) in [
        (
            ErasePolicy::Discard,
            Some(gi(1)),
            false,
            None,
            "Erased",
            "1Gi erased, and free in its reservation again",
        ),
        (ErasePolicy::Zero, Some(gi(1)), true, None, "Erased", "1Gi overwritten with zeroes"),
        (ErasePolicy::Discard, None, true, None, "DiskGone", "its bytes were not erased"),
        (ErasePolicy::Zero, None, false, None, "Lost", "nothing was erased"),
        (ErasePolicy::Discard, None, false, Some("/srv/a"), "LetGo", "adopted from /srv/a; its data stays"),
    ] {
        let (found, receipt) = end(policy, erased, disk_gone, adopt);
        let said = format!("volume v (uid-v) is destroyed: {said}");
        assert!(found == outcome && (receipt.starts_with(&said) || adopt.is_some()), "{receipt}");
        assert!(adopt.is_none_or(|path| receipt.contains(path)), "{receipt}");
    }
    let mut v = volume("v", "eng", 1);
    assert_eq!(next(&v, &nothing()), Step::LookForEntries);
    v.status = None;
    assert_eq!(next(&v, &Seen { entries: Some(None), ..nothing() }), Step::Rest, "it has gone meanwhile");
}

/// D7: a volume that ends with its disk says so in its tombstone, whichever controller ends it, and with however old a cache.
#[test]
fn d7_the_tombstone_says_that_the_disk_was_given_up() {
    let mut v = ready_volume("v", "eng", true);
    let ended = Verdict::no(reason::NODE_GONE, "its node left");
    condition::set(&mut v.status.as_mut().unwrap().conditions, READY, ended, None, Timestamp::UNIX_EPOCH);
    let seen = || Seen { live: live(vec![]), ..nothing() };
    let (status, _) = report(next(&v, &seen()));
    let destroy = status.destroy.clone().unwrap();
    assert!(destroy.disk_gone && destroy.tombstone.is_some() && destroy.kept_until.is_none(), "{destroy:?}");
    // The condition is another one then, and the word stays.
    v.status = Some(status);
    let entries = Some(Some(vec![]));
    let Step::End { outcome, receipt, .. } = next(&v, &Seen { entries, ..seen() }) else { panic!() };
    assert_eq!(outcome, "DiskGone", "{receipt}");
}

/// S3, X4: a volume without a place in its status may have bytes on its node, if a ledger has its entry.
#[test]
fn s3_a_volume_that_may_be_born_ends_by_its_node() {
    let r = Arc::new(reserved("r", "eng", 10, &[("v", 1)]));
    let mut v = birth::born_in(volume("v", "eng", 1), "r".into(), &[&r]);
    v.metadata.deletion_timestamp = some_time();
    assert_eq!(next(&v, &nothing()), Step::LookForEntries, "live, after the DELETE");
    let found = |entries| next(&v, &Seen { entries: Some(entries), ..nothing() });
    let Step::Report { status, refused: false } = found(Some(vec![r])) else { panic!() };
    assert_eq!((status.node_name.as_deref(), status.phase), (Some("n1"), VolumePhase::Destroying));
    assert!(matches!(found(Some(vec![])), Step::End { .. }), "no node ever makes it");
    assert_eq!(found(None), Step::Rest, "its object is gone");
    v.status = Some(*status);
    assert_eq!(next(&v, &nothing()), Step::Debounce, "its node refuses mounts in a moment");
}
