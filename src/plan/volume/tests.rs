//! Tests of the life of a volume.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::api::{Destroy, NodePart};
use crate::plan::birth::MOST_LABELS;
use crate::plan::own_pvc::Gone;
use crate::plan::testing::{volume_seen as seen, *};

/// A ready volume in reservation `r`, whose ledger lists the volume.
fn placed_volume() -> (SharedPersistentVolume, Seen) {
    let mut v = ready_volume("v", "eng", true);
    v.status.as_mut().unwrap().reservation = Some(UidRef { name: "r".into(), uid: "uid-r".into() });
    (v, Seen { reservations: vec![Arc::new(reserved("r", "eng", 10, &[("v", 1)]))], ..seen() })
}

fn reported(step: Step) -> SharedPersistentVolumeStatus {
    match step {
        Step::Report(status) | Step::Place(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn ready(status: &SharedPersistentVolumeStatus) -> &str {
    &condition::get(&status.conditions, READY).unwrap().reason
}

#[test]
fn v1_the_entry_comes_before_the_place() {
    let (v, mut s) = (volume("v", "eng", 2), seen());
    assert_eq!(next(&v, &Seen { guarded: false, ..seen() }), Step::Guard);
    assert_eq!(next(&v, &s), Step::TakeEntry("r".into()));
    s.entry = Some(Ok(s.reservations[0].clone()));
    let placed = reported(next(&v, &s));
    assert_eq!((placed.node_name.as_deref(), placed.size.clone()), (Some("n1"), Some(gi(2))));
    assert_eq!((ready(&placed), placed.reserved.len()), ("Creating", 1));
    s.entry = Some(Err(create::reservation_gone()));
    assert_eq!(ready(&reported(next(&v, &s))), "NoReservation");
    s.reservations.clear();
    s.entry = None;
    assert_eq!(ready(&reported(next(&v, &s))), "NoReservation");
}

/// C1, C3, S5: claims and pods that wait for a volume need no write besides the one that reports it as Ready.
#[test]
fn c1_waiting_claims_are_bound_by_the_write_that_says_ready() {
    let waiting = |name: &str, capable: bool| {
        let claim = Arc::new(claim("ns", name, "v"));
        let subscriptions = vec![Arc::new(subscription("ns", &["eng"], capable))];
        let users = vec![pod("ns", name), pod("ns", "both")];
        let offers = Offers { subscriptions, rivals: vec![claim.clone()], ..Default::default() };
        Waiting { claim, offers, users }
    };
    let (made, s) = placed_volume();
    let s = Seen { waiting: vec![waiting("a", true), waiting("b", false), waiting("c", true)], ..s };
    let bound = |v: &SharedPersistentVolume, s: &Seen| {
        let status = reported(next(v, s));
        let names: Vec<_> = status.claims.into_iter().map(|claim| claim.name).collect();
        (names.concat(), status.user_count)
    };
    let mut backed = made.clone();
    set_ready(&mut backed.status.as_mut().unwrap().conditions, false);
    assert_eq!(bound(&backed, &s), ("ac".to_owned(), 3), "O3: b has no capability");
    let mut exclusive = backed.clone();
    exclusive.spec.shared = None;
    assert_eq!(bound(&exclusive, &s), ("a".to_owned(), 2), "C3: the oldest");
    let mut retiring = backed.clone();
    retiring.spec.retire = true;
    assert_eq!(bound(&retiring, &s), (String::new(), 0), "X5");
    let away = Seen { disks: vec![], ..s };
    assert_eq!(bound(&backed, &away), (String::new(), 0), "O6: its disk is not there");
}

/// Pods that come and go within moments are told once. Their claim refuses a DELETE meanwhile.
#[test]
fn x1_only_the_pods_of_claims_are_counted_later() {
    let (mut v, s) = placed_volume();
    let report = |v: &SharedPersistentVolume, users: &[PodRef]| {
        reported(next(v, &Seen { users: users.to_vec(), reservations: s.reservations.clone(), ..seen() }))
    };
    assert!(!is_recount(&v, &report(&v, &[pod("ns", "p")])), "no claim holds it");
    v.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "uid-c")];
    v.status = Some(report(&v, &[]));
    assert!(!is_recount(&v, &report(&v, &[])), "nothing is new");
    let used = report(&v, &[pod("ns", "p")]);
    assert!(is_recount(&v, &used));
    assert!(!is_recount(&v, &SharedPersistentVolumeStatus { claims: vec![], ..used.clone() }));
    assert!(!is_recount(&v, &SharedPersistentVolumeStatus { phase: VolumePhase::Creating, ..used }));
}

/// P1, S5, S8: the write that reports a volume of a PersistentVolumeClaim as Ready binds its claim, and no earlier one.
#[test]
fn p1_a_volume_of_a_pvc_is_bound_when_it_is_ready() {
    let own = || Some(Own::There(bound_by("ns", "data", "uid-data"), vec![pod("ns", "db-0")]));
    let unplaced = Seen { own: own(), ..seen() };
    let entered = Seen { entry: Some(Ok(unplaced.reservations[0].clone())), ..unplaced };
    assert!(
        reported(next(&volume("v", "eng", 2), &entered)).claims.is_empty(),
        "it has a place, and no file system"
    );
    let (mut v, s) = placed_volume();
    let s = Seen { own: own(), ..s };
    let bound = reported(next(&v, &s));
    assert_eq!((ready(&bound), bound.claims.len(), bound.claim_count, bound.user_count), ("Ready", 1, 1, 1));
    v.spec.retire = true;
    assert!(reported(next(&v, &s)).claims.is_empty(), "X5: no new claim binds");
    (v.spec.retire, v.spec.shared) = (false, None);
    v.status.as_mut().unwrap().claims = vec![bound_by("ns", "data", "uid-of-earlier-claim")];
    assert_eq!(
        reported(next(&v, &s)).claim_count,
        1,
        "C3: a controller of an earlier version was first (seed 30259)"
    );
}

#[test]
fn v1_an_entry_from_before_is_used_again() {
    let (v, mut s) = (volume("v", "eng", 2), seen());
    s.entry = Some(Ok(Arc::new(reserved("q", "eng", 10, &[("v", 3)]))));
    assert_eq!(reported(next(&v, &s)).size, Some(gi(3)), "as large as it was granted");
}

/// A8: labels of a megabyte would be copied to each volume of the reservation.
#[test]
fn a8_few_labels_of_a_reservation_are_copied() {
    let (v, mut s) = placed_volume();
    let r = Arc::make_mut(&mut s.reservations[0]);
    r.metadata.labels = Some((0..9000).map(|i| (format!("key-{i}"), "v".repeat(63))).collect());
    let copied = &reported(next(&v, &s)).reserved[0].labels;
    let bytes: usize = copied.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!((MOST_LABELS - 100..=MOST_LABELS).contains(&bytes), "{bytes}");
}

/// X8: kept data gives way to a volume that fits without it, and nothing is erased in vain.
#[test]
fn x8_a_new_volume_takes_the_bytes_of_kept_data() {
    let kept = Arc::new(with_kept(&[("a", 0, 60), ("b", 1, 60), ("c", 2, 60)]));
    let s = |room_made| Seen { reservations: vec![kept.clone()], room_made, ..seen() };
    let wanted = |gib: u64| kept::Wanted { bytes: gib << 30, ..Default::default() };
    assert_eq!(next(&volume("v", "eng", 7), &s(false)), Step::TakeEntry("r".into()));
    assert_eq!(next(&volume("v", "eng", 8), &s(false)), Step::MakeRoom("r".into(), wanted(8)));
    assert_eq!(ready(&reported(next(&volume("v", "eng", 8), &s(true)))), "ReservationFull");
    assert_eq!(ready(&reported(next(&volume("v", "eng", 11), &s(false)))), "ReservationFull");

    let (mut v, mut s) = placed_volume();
    let mut r = (*kept).clone();
    r.status.as_mut().unwrap().volumes.push(ledger_entry("v", "eng", 1));
    s.reservations = vec![Arc::new(r.clone())];
    let status = v.status.as_mut().unwrap();
    (status.size, status.node.as_mut().unwrap().size) = (Some(gi(1)), Some(gi(1)));
    v.spec.size = gi(8);
    s.live = Some((Some(r), v.status.clone()));
    assert_eq!(next(&v, &s), Step::MakeRoom("r".into(), wanted(7)), "V7");
    s.room_made = true;
    assert!(matches!(next(&v, &s), Step::Report(_)));
}

/// X8: what is made again after a deletion by mistake does not end the data that was kept for the undo.
#[test]
fn x8_a_volume_of_the_same_name_leaves_the_kept_data() {
    let kept = Arc::new(with_kept(&[("v", 0, 60), ("b", 1, 60)]));
    let s = Seen { reservations: vec![kept.clone()], ..seen() };
    let Step::MakeRoom(_, wanted) = next(&volume("v", "eng", 9), &s) else { panic!("b gives way") };
    assert_eq!((wanted.bytes, wanted.spared), (9 << 30, vec!["uid-v-0".to_owned()]));
    assert!(matches!(next(&volume("w", "eng", 10), &s), Step::MakeRoom(..)));
    let waits = reported(next(&volume("v", "eng", 10), &s));
    let message = condition::get(&waits.conditions, READY).unwrap().message.clone();
    assert_eq!(ready(&waits), "ReservationFull");
    assert!(message.contains("undelete uid-v-0") && message.contains("erase uid-v-0"), "{message}");
    assert!(
        namesake::kept_beside(&volume("v", "eng", 1), &[&kept]).unwrap().starts_with("volume v starts empty")
    );
    assert_eq!(namesake::kept_beside(&volume("w", "eng", 1), &[&kept]), None);
}

/// X8, X10, S4: the volume that erases kept data takes its place, or goes.
#[test]
fn x8_a_volume_that_erases_takes_the_place_of_the_data() {
    let mut r = with_kept(&[("a", 0, 60)]);
    let mut v = kept::erasing(&r.status.as_ref().unwrap().volumes[0], &r, Timestamp::UNIX_EPOCH).unwrap();
    v.metadata.uid = Some("uid-end".into());
    r.metadata.deletion_timestamp = some_time();
    let with = |r: &DiskReservation, entry| Seen { reservations: vec![Arc::new(r.clone())], entry, ..seen() };
    assert_eq!(next(&v, &with(&r, None)), Step::TakeEntry("r".into()), "R6: it may be deleted");
    let taken = create::take_entry(&v, &r, &[]).unwrap();
    let entries: Vec<_> = taken.iter().map(|entry| (entry.uid.as_str(), entry.kept.is_some())).collect();
    assert_eq!(entries, [("uid-end", false)]);
    r.status.as_mut().unwrap().volumes = taken;
    assert!(matches!(next(&v, &with(&r, Some(Ok(Arc::new(r.clone()))))), Step::Place(_)));
    assert!(matches!(next(&v, &with(&r, None)), Step::Report(_)), "somebody else has the data");
}

#[test]
fn x6_data_that_has_a_volume_is_not_recovered() {
    let (mut v, mut s) = (volume("v", "eng", 2), seen());
    v.spec.recover = Some(crate::api::Recover { uid: "lost".into() });
    s.owner = Some("data".into());
    assert_eq!(ready(&reported(next(&v, &s))), "NoOrphan");
    s.owner = None;
    assert_eq!(ready(&reported(next(&v, &s))), "NoOrphan", "no disk reports it");
    s.reservations = vec![Arc::new(reserved("r", "eng", 10, &[("lost", 2)]))];
    v.spec.recover = Some(crate::api::Recover { uid: "uid-lost".into() });
    assert_eq!(next(&v, &s), Step::TakeEntry("r".into()));

    let mut other = v.clone();
    assert!(has_data_of(&volume("lost", "eng", 2), "uid-lost") && !has_data_of(&other, "uid-lost"));
    let node = &mut other.status.get_or_insert_default().node;
    node.get_or_insert_default().backing = BackingState::Made;
    assert!(has_data_of(&other, "uid-lost"), "its node has given it the data");
}

#[test]
fn s2_ledgers_follow_the_status_of_a_placed_volume() {
    let (v, mut s) = placed_volume();
    s.reservations.push(Arc::new(reserved("other", "eng", 10, &[("v", 1)])));
    assert_eq!(next(&v, &s), Step::ReleaseEntry("other".into()), "two controllers placed it");
    s.reservations = vec![Arc::new(reserved("r", "eng", 10, &[]))];
    let Step::RestoreEntry(name, entry) = next(&v, &s) else { panic!() };
    assert_eq!((name.as_str(), entry.size), ("r", gi(1)));
    s.restored = true;
    reported(next(&v, &s));
}

/// S3: a write of the place that failed says nothing about the entry.
#[test]
fn s3_an_entry_ends_only_if_nobody_needs_it() {
    let (v, _) = placed_volume();
    let there = v.status.clone().unwrap();
    let elsewhere = SharedPersistentVolumeStatus {
        reservation: Some(UidRef { name: "x".into(), uid: "uid-x".into() }),
        ..there.clone()
    };
    assert_eq!(fate_of_entry(Some(&v), &there), EntryFate::Keep);
    for now in [Some(&v), None] {
        assert_eq!(fate_of_entry(now, &elsewhere), EntryFate::End);
    }
    let mut unplaced = volume("v", "eng", 1);
    assert_eq!(fate_of_entry(Some(&unplaced), &elsewhere), EntryFate::Keep);
    unplaced.metadata.deletion_timestamp = some_time();
    assert_eq!(fate_of_entry(Some(&unplaced), &elsewhere), EntryFate::End);
    let mut born = birth::born_in(unplaced, "r".into(), &[&reserved("r", "eng", 10, &[])]);
    let bound = SharedPersistentVolumeStatus { claims: vec![bound_by("ns", "c", "u")], ..there };
    let EntryFate::Place(status) = fate_of_entry(Some(&born), &bound) else { panic!() };
    assert_eq!((status.node_name.as_deref(), status.claims.len()), (Some("n1"), 0), "X2: nobody binds");
    born.status = Some(*status);
    assert_eq!(fate_of_entry(Some(&born), &bound), EntryFate::Keep);
    // Its entry may have been released already, and was taken once more since then.
    let node = NodePart { backing: BackingState::Erased, ..Default::default() };
    born.status.as_mut().unwrap().node = Some(node);
    assert_eq!(fate_of_entry(Some(&born), &bound), EntryFate::End, "L5");
    let mut lost = v;
    lost.metadata.deletion_timestamp = some_time();
    let given_up = Destroy { disk_gone: true, tombstone: some_time(), ..Default::default() };
    lost.status.as_mut().unwrap().destroy = Some(given_up);
    assert_eq!(fate_of_entry(Some(&lost), &bound), EntryFate::End, "D4");
}

/// S2, S8: the place of a volume that is born in it needs no write of its own.
#[test]
fn p1_a_volume_is_born_in_its_place() {
    let r = Arc::new(reserved("r", "eng", 10, &[("v", 2)]));
    let mut v = birth::born_in(volume("v", "eng", 3), "r".into(), &[&r]);
    v.spec.shared = None;
    let own = Some(Own::There(bound_by("ns", "data", "uid-data"), vec![pod("ns", "db-0")]));
    let at = |second: i64| Seen {
        reservations: vec![r.clone()],
        entry: Some(Ok(r.clone())),
        own: Some(Own::There(bound_by("ns", "data", "uid-data"), vec![pod("ns", "db-0")])),
        now: Timestamp::from_second(second).unwrap(),
        ..seen()
    };
    assert_eq!(next(&v, &Seen { own, ..seen() }), Step::TakeEntry("r".into()));
    assert!(matches!(next(&v, &at(1)), Step::Await(_)), "its node makes it");
    let Step::Place(late) = next(&v, &at(2)) else { panic!("its node does not hear of it") };
    assert_eq!((ready(&late), late.node_name.as_deref(), late.claims.len()), ("Creating", Some("n1"), 0));
    let mut elsewhere = v.clone();
    elsewhere.annotations_mut().insert(crate::api::ANNOTATION_BORN_ON.into(), "n2".into());
    assert!(matches!(next(&elsewhere, &at(1)), Step::Place(_)), "that node never makes it");
    let mut made = v.clone();
    let node = NodePart { backing: BackingState::Made, size: Some(gi(2)), ..Default::default() };
    let status = made.status.get_or_insert_default();
    status.node = Some(node);
    condition::set(&mut status.conditions, BACKED, Verdict::yes("Backed", ""), None, at(1).now);
    let Step::Place(status) = next(&made, &at(1)) else { panic!() };
    assert_eq!((ready(&status), status.claims.len(), status.user_count), ("Ready", 1, 1));
    assert_eq!((status.size, status.reserved.len()), (Some(gi(2)), 1), "the entry stays as it is until then");
    let status = made.status.as_mut().unwrap();
    status.node = None;
    condition::set(&mut status.conditions, BACKED, Verdict::no("BackingFailed", "x"), None, at(1).now);
    assert!(matches!(next(&made, &at(1)), Step::Place(_)), "its node cannot make it");
}

#[test]
fn l4_lost_claims_leave_the_list_and_the_count() {
    let (mut v, mut s) = placed_volume();
    let claims = vec![bound_by("a", "x", "1"), bound_by("b", "y", "2")];
    v.status.as_mut().unwrap().claims = claims.clone();
    (s.lost_claims, s.users) = (claims[..1].to_vec(), vec![pod("b", "p"), pod("b", "p")]);
    s.moved_to = Some("n2".into());
    let status = reported(next(&v, &s));
    assert_eq!((status.claim_count, status.user_count, status.claims[0].ending), (2, 1, true), "X1");
    assert_eq!(status.node_name.as_deref(), Some("n2"), "D3");
    s.lost_claims = status.claims[..1].to_vec();
    v.status = Some(status);
    v.status.as_mut().unwrap().node.as_mut().unwrap().released = vec!["1".into()];
    let status = reported(next(&v, &s));
    assert_eq!((status.claims, status.claim_count, status.user_count), (claims[1..].to_vec(), 1, 1));
}

/// P4, X10: what has been of use is kept in doubt, and what has not goes.
#[test]
fn p4_the_end_of_the_pvc_decides_about_its_volume() {
    let (mut v, s) = placed_volume();
    let gone = |is_refused| Some(Own::Gone(Gone { is_refused, ..Gone::default() }));
    let s = Seen { own: gone(false), ..s };
    assert_eq!(next(&v, &s), reported_step(&v, &s), "it is like any other");
    v.labels_mut().insert(crate::api::LABEL_PVC_UID.into(), "u".into());
    let Step::Release(event) = next(&v, &s) else { panic!() };
    assert!(event.contains("claim volume v with a VolumeClaim"), "{event}");
    v.spec.retire = true;
    assert!(matches!(next(&v, &s), Step::Report(_)), "X5: it waits for its users");
    let mut unplaced = volume("v", "eng", 1);
    unplaced.labels_mut().insert(crate::api::LABEL_PVC_UID.into(), "u".into());
    assert_eq!(next(&unplaced, &Seen { own: gone(false), ..seen() }), Step::Delete);
    assert_eq!(next(&unplaced, &Seen { own: gone(true), ..seen() }), Step::Retire, "a policy refuses that");
}

fn reported_step(volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    Step::Report(Box::new(reported(next(volume, seen))))
}

#[test]
fn v7_the_ledger_is_read_live_before_it_changes() {
    let (mut v, mut s) = placed_volume();
    let node = NodePart { size: Some(gi(1)), ..v.status.clone().unwrap().node.unwrap() };
    v.status.as_mut().unwrap().node = Some(node);
    v.spec.size = gi(3);
    assert_eq!(next(&v, &s), Step::LookToResize("r".into()));
    let live = |entry, status: &SharedPersistentVolume| {
        Some((Some(reserved("r", "eng", 10, &[("v", entry)])), status.status.clone()))
    };
    s.live = live(1, &v);
    assert_eq!(next(&v, &s), Step::ResizeEntry(3 << 30));
    s.live = live(3, &v);
    assert_eq!(reported(next(&v, &s)).size, Some(gi(3)));
    v.spec.size = gi(1);
    let lowered = reported(next(&v, &s));
    assert_eq!((lowered.size.clone(), lowered.credit_due), (Some(gi(1)), true));
    v.status = Some(lowered);
    s.live = live(3, &v);
    assert_eq!(next(&v, &s), Step::ResizeEntry(1 << 30));
    s.live = live(1, &v);
    assert!(!reported(next(&v, &s)).credit_due);
    let mut grown = v.clone();
    grown.status.as_mut().unwrap().credit_due = false;
    s.live = live(3, &grown);
    assert!(reported(next(&v, &s)).credit_due, "another controller settled it meanwhile");
}

#[test]
fn x5_retirement_waits_for_users_and_can_be_withdrawn() {
    let mut v = ready_volume("v", "eng", true);
    let ask = |v: &SharedPersistentVolume| retire(v, &v.status.clone().unwrap(), None);
    let said = |(verdict, delete): (Option<Verdict>, bool)| {
        assert!(!delete);
        verdict.unwrap()
    };
    assert_eq!(ask(&v), (None, false));
    v.spec.retire = true;
    assert!(ask(&v).1);
    v.status.as_mut().unwrap().claims = vec![bound_by("a", "b", "u")];
    let waits = said(ask(&v));
    assert!(waits.ok && waits.message.contains("destroyed after the end of claim a/b;"), "{waits:?}");
    let status = v.status.as_mut().unwrap();
    (status.claims, status.users, status.user_count) = (vec![], vec![pod("a", "p")], 1);
    assert!(said(ask(&v)).message.contains("destroyed after the end of pod a/p"));
    let conditions = &mut v.status.as_mut().unwrap().conditions;
    condition::set(conditions, RETIRING, waits, None, jiff::Timestamp::UNIX_EPOCH);
    v.spec.retire = false;
    let withdrawn = said(ask(&v));
    assert_eq!((withdrawn.ok, withdrawn.reason), (false, "RetireWithdrawn"));
}

#[test]
fn x5_a_retired_volume_is_deleted_as_it_was_reported() {
    let (mut v, s) = placed_volume();
    v.spec.retire = true;
    let status = reported(next(&v, &s));
    v.status = Some(status);
    assert_eq!(next(&v, &s), Step::Delete);
    let used = Seen { users: vec![pod("a", "p")], ..s };
    assert!(matches!(next(&v, &used), Step::Report(_)));
}

/// X10: a retired volume takes no reservation, even with enough free space.
#[test]
fn x10_a_retired_volume_without_a_place_goes() {
    for s in [seen(), Seen { reservations: vec![], ..seen() }] {
        let mut v = volume("v", "eng", 1);
        v.spec.retire = true;
        let status = reported(next(&v, &s));
        assert_eq!((status.phase, ready(&status)), (VolumePhase::Pending, "Retiring"));
        v.status = Some(status);
        assert_eq!(next(&v, &s), Step::Delete);
    }
}

#[test]
fn d4_a_volume_is_as_ready_as_its_disk() {
    let (v, s) = placed_volume();
    assert_eq!(ready(&reported(next(&v, &s))), "Ready");
    let of = |disks| ready(&reported(next(&v, &Seen { disks, ..placed_volume().1 }))).to_owned();
    assert_eq!(of(vec![]), "DiskNotReady");
    let mut unmade = v.clone();
    let says = |v: &SharedPersistentVolume| {
        let status = reported(next(v, &Seen { disks: vec![], ..placed_volume().1 }));
        condition::get(&status.conditions, READY).unwrap().message.clone()
    };
    assert_eq!(says(&v), "NodeDisk n1.a is not there; the data stays on it");
    unmade.status.as_mut().unwrap().node.as_mut().unwrap().backing = BackingState::Absent;
    assert_eq!(says(&unmade), "NodeDisk n1.a is not there", "no data was ever on it");
    for (reason, said) in [
        (reason::NODE_UNREACHABLE, "NodeUnreachable"),
        (reason::DISK_REFUSED, "DiskNotReady"),
        (reason::AGENT_SILENT, "DiskNotReady"),
        (reason::SPACE_TAKEN, "Ready"),
    ] {
        let mut away = disk("n1.a", "n1", 10, &[]);
        let conditions = &mut away.status.as_mut().unwrap().conditions;
        condition::set(conditions, READY, Verdict::no(reason, "said"), None, Timestamp::UNIX_EPOCH);
        assert_eq!(of(vec![Arc::new(away)]), said, "{reason}");
    }
}

/// The volume says so first, and waits for the end of its claims; nothing ends on a disk that is only away.
#[test]
fn d7_a_volume_goes_after_it_said_that_its_node_is_gone() {
    let (mut v, s) = placed_volume();
    v.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "uid-c")];
    let mut left = disk("n1.a", "n1", 10, &[]);
    (left.spec.gone, left.spec.node_uid) = (true, Some("uid-n1".into()));
    let status = left.status.as_mut().unwrap();
    let since = some_time().unwrap();
    status.missing_node = Some(crate::api::MissingNode { node_uid: "uid-n1".into(), since });
    let ended = Verdict::no(reason::NODE_GONE, "gone");
    condition::set(&mut status.conditions, READY, ended, None, jiff::Timestamp::UNIX_EPOCH);
    let gone = Seen { disks: vec![Arc::new(left.clone())], ..s };
    let status = reported(next(&v, &gone));
    assert_eq!((ready(&status), status.claims.len()), ("NodeGone", 1));
    v.status = Some(status);
    assert_eq!(next(&v, &gone), Step::Report(Box::new(v.status.clone().unwrap())), "its claim is bound");
    v.status.as_mut().unwrap().claims.clear();
    let status = reported(next(&v, &gone));
    v.status = Some(status);
    assert_eq!(next(&v, &gone), Step::Delete);
    left.status.as_mut().unwrap().missing_node = None;
    let declared = Verdict::no(reason::DISK_GONE, "gone");
    let conditions = &mut left.status.as_mut().unwrap().conditions;
    condition::set(conditions, READY, declared, None, jiff::Timestamp::UNIX_EPOCH);
    let declared = Seen { disks: vec![Arc::new(left)], ..placed_volume().1 };
    assert_eq!(ready(&reported(next(&v, &declared))), "VolumeGone", "D4");
    // A DELETE is refused for the claims, so these come first.
    let says = |v: &SharedPersistentVolume| {
        let status = reported(next(v, &declared));
        condition::get(&status.conditions, READY).unwrap().message.clone()
    };
    let gone = "NodeDisk n1.a was declared gone, and the data with it: delete";
    assert_eq!(says(&v), format!("{gone} the volume"));
    v.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "uid-c")];
    assert_eq!(says(&v), format!("{gone} what claims it, ns/c, after its pods, then the volume"));
}

/// S2: its entry is in the ledger already, so one write has the place of a copy and its source.
#[test]
fn e2_a_copy_is_placed_together_with_its_source() {
    let mut of = ready_volume("data", "eng", true);
    of.spec.sealed = true;
    of.spec.copies = Some(Default::default());
    let status = of.status.as_mut().unwrap();
    status.digest = Some("blake3:00".into());
    (status.node_name, status.node_disk) = (Some("n0".into()), Some("n0.a".into()));
    let mut v = volume("data-1", "eng", 2);
    v.spec.reservation = Some("r".into());
    v.spec.copy_of = Some(crate::api::CopyOf {
        name: "data".into(),
        uid: "uid-data".into(),
        digest: "blake3:00".into(),
        node: "n1".into(),
        bytes_per_second: None,
    });
    let mut s = seen();
    let sends = |name: &str, node: &str| {
        let mut disk = disk(name, node, 10, &[]);
        let at = crate::api::Transfer { address: "a".into(), key: "k".into() };
        disk.status.as_mut().unwrap().transfer = Some(at);
        Arc::new(disk)
    };
    let mut node = k8s_openapi::api::core::v1::Node::default();
    node.metadata.name = Some("n1".into());
    s.family = Some(copies::Family {
        original: Some(Arc::new(of)),
        copies: vec![Arc::new(v.clone())],
        disks: vec![sends("n0.a", "n0"), sends("n1.a", "n1")],
        node: Some(Arc::new(node)),
        reservation: None,
    });
    s.entry = Some(Ok(s.reservations[0].clone()));
    let others: Vec<_> = (0..2)
        .map(|i| {
            let mut other = ready_volume(&format!("other-{i}"), "eng", true);
            other.spec.copy_of = v.spec.copy_of.clone();
            let status = other.status.as_mut().unwrap();
            status.source = Some(UidRef { name: "data".into(), uid: "uid-data".into() });
            status.reservation = Some(UidRef { name: "r".into(), uid: "uid-r".into() });
            Arc::new(other)
        })
        .collect();
    let own = std::mem::replace(&mut s.family.as_mut().unwrap().copies, others);
    v.metadata.creation_timestamp = Some(Time(s.now));
    assert!(matches!(next(&v, &s), Step::Await(_)), "its turn may come in a moment");
    v.metadata.creation_timestamp = None;
    let waits = reported(next(&v, &s));
    assert_eq!((waits.source.is_some(), ready(&waits)), (false, "Copying"));
    s.family.as_mut().unwrap().copies = own;
    let placed = reported(next(&v, &s));
    assert_eq!((placed.node_name.as_deref(), ready(&placed)), (Some("n1"), "Copying"));
    assert_eq!(placed.source.as_ref().map(|source| &*source.name), Some("data"));
    let said = &condition::get(&placed.conditions, READY).unwrap().message;
    assert_eq!(said, "it is being filled from volume data");
    v.status = Some(placed.clone());
    s.family.as_mut().unwrap().copies = vec![Arc::new(v.clone())];
    s.entry = None;
    s.reservations = vec![Arc::new(reserved("r", "eng", 10, &[("data-1", 2)]))];
    assert_eq!(next(&v, &s), Step::Report(Box::new(placed)), "nothing is new until its node reports");
}
