//! Tests of the life of a reservation.

use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::api::{BackingKind, DiskKind, VolumeRole};
use crate::plan::candidate::Candidate;
use crate::plan::share::{Outcomes, share_out};
use crate::plan::testing::*;

fn guarded(mut reservation: DiskReservation) -> DiskReservation {
    reservation.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    reservation
}

/// A live read of everything. The only disk is n1.a of 10 Gi, unless `disks` has others.
fn seen(reservation: DiskReservation, disks: &[NodeDisk], roles: &[VolumeRole]) -> Seen {
    let candidates: Vec<_> = disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
    let mut outcomes = share_out(
        &[&reservation],
        &candidates,
        &roles.iter().collect::<Vec<_>>(),
        &Outcomes::new(),
        Timestamp::UNIX_EPOCH,
    );
    Seen {
        outcome: outcomes.remove(&reservation.uid().unwrap()),
        reservation: Arc::new(guarded(reservation)),
        disks: disks.iter().cloned().map(Arc::new).collect(),
        parent: None,
        refinements: vec![],
        unlisted: vec![],
        roles: roles.iter().cloned().map(Arc::new).collect(),
        live: true,
        settled: false,
        room_made: false,
        now: Timestamp::UNIX_EPOCH,
    }
}

/// The refinement ml of 3 Gi for eng/ml, with the parent p.
fn refining(parent: Option<DiskReservation>, roles: &[VolumeRole]) -> Seen {
    let mut child = reservation("ml", "eng/ml", 3);
    child.spec.parent = Some("p".into());
    let disks = [disk("n1.a", "n1", 20, &[("p", 10)])];
    Seen { parent: parent.map(Arc::new), ..seen(child, &disks, roles) }
}

/// Reason and message of a condition in the reported status.
fn reported(seen: &Seen, type_: &str) -> (String, String) {
    match next(seen) {
        Step::Report(status) => {
            let condition = condition::get(&status.conditions, type_).unwrap();
            (condition.reason.clone(), condition.message.clone())
        }
        step => panic!("{step:?}"),
    }
}

fn reason_of(seen: &Seen) -> String {
    reported(seen, READY).0
}

fn take_from(of: LedgerOf, name: &str, role: &str, size: u64) -> Step {
    Step::Take(of, ledger_entry(name, role, size))
}

#[test]
fn r1_quota_entries_come_first_then_the_disk_then_the_status() {
    let roles = [
        with_quota(volume_role("eng", "eng"), Some(5), None, &[]),
        with_quota(volume_role("eng-ml", "eng/ml"), Some(5), None, &[]),
        with_quota(volume_role("ops", "ops"), Some(1), None, &[]),
    ];
    let mut seen = seen(reservation("r", "eng/ml", 3), &[disk("n1.a", "n1", 10, &[])], &roles);
    let entry = ledger_entry("r", "eng/ml", 3);
    for (i, name) in ["eng", "eng-ml"].into_iter().enumerate() {
        assert_eq!(next(&seen), take_from(LedgerOf::Role(name.into()), "r", "eng/ml", 3));
        let mut role = roles[i].clone();
        role.status.as_mut().unwrap().reservations = vec![entry.clone()];
        VolumeRole::see(name, Some(role), &mut seen);
    }
    assert_eq!(next(&seen), take_from(LedgerOf::Disk("n1.a".into()), "r", "eng/ml", 3));
    let mut taken = disk("n1.a", "n1", 10, &[]);
    taken.status = Some(taken.with_entries(vec![entry]));
    NodeDisk::see("n1.a", Some(taken), &mut seen);
    assert_eq!(reported(&seen, READY), ("Ready".into(), "3Gi of n1.a are the role's".into()));
    seen.live = false;
    assert_eq!(next(&seen), Step::ReadLive, "nothing is taken on the word of a cache");
    seen.outcome = None;
    assert_eq!(next(&seen), Step::Rest, "it was not shared out yet");
}

/// S1: the caches do not know yet that the other controller has placed the reservation, and choose another disk for it.
#[test]
fn s1_a_placed_reservation_takes_no_bytes_of_another_disk() {
    let disks = [disk("n1.a", "n1", 10, &[("r", 1)]), disk("n2.a", "n2", 10, &[])];
    let mut placed = reserved("r", "eng", 1, &[]);
    placed.spec.size = gi(4);
    placed.metadata.generation = Some(2);
    let outcome = |disk: &str| Some(Outcome::Serve { disk: disk.into(), target: 4 << 30 });
    let seen = seen(placed, &disks, &[]);
    assert_eq!(seen.status().node_disk.as_deref(), Some("n1.a"));
    let on = |disk: &str| next(&Seen { outcome: outcome(disk), ..seen.clone() });
    assert_eq!(on("n2.a"), Step::LookAgain);
    let step = on("n1.a");
    assert!(matches!(&step, Step::Take(LedgerOf::Disk(of), _) if of == "n1.a"), "{step:?}");
}

/// S1, X9: caches that lack the reservations of a NodeDisk that was made anew give none of their bytes away.
#[test]
fn s1_x9_the_first_entry_comes_with_those_of_the_disk() {
    let on = disk("n1.a", "n1", 10, &[]);
    let old = reserved_on(&on, "old", "eng", 7);
    let asks = |gi| {
        let seen = seen(reservation("r", "ops", gi), std::slice::from_ref(&on), &[]);
        Seen { unlisted: vec![old.clone(), reservation("waits", "eng", 5)], ..seen }
    };
    assert_eq!(next(&asks(4)), Step::LookAgain);
    let seen = asks(3);
    let Step::Take(_, entry) = next(&seen) else { panic!("{:?}", next(&seen)) };
    let entries = on.give(&seen, &entry).unwrap().into_entries();
    let has: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.size.bytes_or_zero() >> 30)).collect();
    assert_eq!(has, [("old", 7), ("r", 3)]);
}

#[test]
fn r1_live_reads_that_refuse_say_that_the_caches_are_behind() {
    let role = |limit, guarantee, held| with_quota(volume_role("q", "eng"), limit, guarantee, held);
    let mut unknown = role(Some(9), None, &[]);
    unknown.status = None;
    let mut others = role(None, Some(9), &[]);
    others.spec.role = "ops".into();
    let mut gone = disk("n1.a", "n1", 10, &[]);
    gone.spec.gone = true;
    let free = || disk("n1.a", "n1", 10, &[]);
    for (disks, roles, why) in [
        (vec![disk("n1.a", "n1", 10, &[("x", 8)])], vec![], "the disk is full"),
        (vec![], vec![], "the disk is not there"),
        (vec![gone], vec![], "D4: the disk was declared gone"),
        (vec![free()], vec![role(Some(9), None, &[("x", 7)])], "Q2: the limit"),
        (vec![free()], vec![unknown], "Q2: the role has not summed up"),
        (vec![free()], vec![others], "Q2: the guarantee"),
    ] {
        let outcome = Some(Outcome::Serve { disk: "n1.a".into(), target: 0 });
        let seen = Seen { outcome, ..seen(reservation("r", "eng", 3), &disks, &roles) };
        assert_eq!(next(&seen), Step::LookAgain, "{why}");
    }
}

#[test]
fn r1_an_uncached_entry_decides_the_disk_of_a_reservation() {
    let mut held = disk("n2.b", "n2", 10, &[]);
    held.status = Some(held.with_entries(vec![ledger_entry("r", "eng", 2)]));
    let outcome = Some(Outcome::Serve { disk: "n1.a".into(), target: 0 });
    let seen =
        Seen { outcome, ..seen(reservation("r", "eng", 3), &[disk("n1.a", "n1", 10, &[]), held], &[]) };
    let Step::Report(status) = next(&seen) else { panic!() };
    assert_eq!((status.node_disk.as_deref(), status.size), (Some("n2.b"), Some(gi(2))));
}

#[test]
fn x6_only_its_own_reservation_takes_the_bytes_of_an_orphan() {
    let mut there = disk("n1.a", "n1", 10, &[]);
    let of = |name: &str, size| crate::api::Orphan {
        size: gi(size),
        reservations: vec![crate::api::Reserved {
            name: name.into(),
            role: "eng".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    there.status.as_mut().unwrap().orphans = vec![of("own", 4), of("far", 9)];
    let outcome = || Some(Outcome::Serve { disk: "n1.a".into(), target: 0 });
    let seen = |name, size| Seen {
        outcome: outcome(),
        ..seen(reservation(name, "eng", size), std::slice::from_ref(&there), &[])
    };
    assert_eq!(next(&seen("own", 1)), take_from(LedgerOf::Disk("n1.a".into()), "own", "eng", 1));
    assert_eq!(next(&seen("own", 2)), Step::LookAgain, "9 of 10 Gi are kept for another");
    assert_eq!(next(&seen("other", 1)), Step::LookAgain);
}

#[test]
fn r4_a_refinement_is_carved_out_of_an_ancestors_reservation() {
    let parent = |role, held| reserved("p", role, 10, held);
    let carved = take_from(LedgerOf::Parent("p".into()), "ml", "eng/ml", 3);
    assert_eq!(next(&refining(Some(parent("eng", &[("v", 7)])), &[])), carved);
    assert_eq!(reason_of(&refining(None, &[])), "NoParent");
    for role in ["eng/ml", "ops", "eng/ml/x"] {
        assert_eq!(reason_of(&refining(Some(parent(role, &[])), &[])), "NotASubRole", "{role}");
    }
    let mut first = refining(Some(parent("eng", &[])), &[]);
    Arc::make_mut(&mut first.reservation).spec.role = "eng".to_owned();
    let said = reported(&first, READY).1;
    assert!(said.ends_with("make it anew without spec.parent"), "a role of the first level: {said}");
    assert_eq!(reason_of(&refining(Some(reservation("p", "eng", 10)), &[])), "ParentNotReserved");
    let mut leaving = parent("eng", &[]);
    leaving.metadata.deletion_timestamp = some_time();
    assert_eq!(reason_of(&refining(Some(leaving), &[])), "ParentNotReserved");
    let mut shared = parent("eng", &[("v", 6)]);
    shared.status.as_mut().unwrap().refinements = vec![ledger_entry("other", "eng/x", 2)];
    assert_eq!(
        reported(&refining(Some(shared), &[]), READY).1,
        "3Gi asked for: DiskReservation p has 2Gi left, 1Gi too little; it is served when space is free in it"
    );
    let mut seen = refining(Some(parent("eng", &[])), &[]);
    let mut anew = parent("eng", &[]);
    anew.metadata.uid = Some("another".into());
    let refused = anew.give(&seen, &ledger_entry("ml", "eng/ml", 3)).unwrap_err();
    assert_eq!(refused.unwrap().reason, "NoParent", "the parent was made anew meanwhile");
    Arc::make_mut(&mut seen.disks[0]).spec.gone = true;
    assert_eq!(reason_of(&seen), "DiskGone", "D4");
}

#[test]
fn r4_q2_a_refinement_is_charged_where_its_parent_is_not() {
    let role = |role: &str, limit, held| {
        with_quota(volume_role(&role.replace('/', "-"), role), Some(limit), None, held)
    };
    let parent = || Some(reserved("p", "eng", 10, &[]));
    let charged = take_from(LedgerOf::Role("eng-ml".into()), "ml", "eng/ml", 3);
    let roles = [role("eng", 1, &[]), role("eng/ml", 3, &[])];
    assert_eq!(next(&refining(parent(), &roles)), charged, "its parent was charged to eng");
    let full = [role("eng/ml", 9, &[("a", 8)])];
    assert_eq!(
        reported(&refining(parent(), &full), READY).1,
        "role eng/ml has 8Gi of its limit of 9Gi reserved, 3Gi asked for is 2Gi too much; \
         unreserve something or raise the limit of VolumeRole eng-ml"
    );
    let mut unknown = role("eng/ml", 9, &[]);
    unknown.metadata.generation = Some(2);
    assert_eq!(next(&refining(parent(), &[unknown])), Step::Rest, "its limit has just been changed");
    // D2: the role is charged for all of an undivided parent.
    let mut undivided = reserved("p", "eng", 10, &[]);
    undivided.status.as_mut().unwrap().disk_kind = Some(crate::api::DiskKind::Mount);
    let roles = [role("eng/ml", 9, &[])];
    assert_eq!(reason_of(&refining(Some(undivided), &roles)), "OverQuota");
}

#[test]
fn q2_an_entry_that_grows_is_charged_for_the_growth() {
    let eng = with_quota(volume_role("eng", "eng"), Some(10), None, &[("a", 8)]);
    let seen = seen(reservation("a", "eng", 10), &[], &[]);
    let given = |role: &VolumeRole, name, size| {
        role.give(&seen, &ledger_entry(name, "eng", size)).map(|ledger| ledger.total() >> 30).map_err(|_| ())
    };
    assert_eq!([given(&eng, "b", 2), given(&eng, "b", 3)], [Ok(10), Err(())]);
    assert_eq!([given(&eng, "a", 10), given(&eng, "a", 11)], [Ok(10), Err(())]);
    let lowered = with_quota(volume_role("eng", "eng"), Some(5), None, &[("a", 8)]);
    assert_eq!([given(&lowered, "a", 8), given(&lowered, "b", 1)], [Ok(8), Err(())], "what is there stays");
}

fn placed(asked: u64, held: &[(&str, u64)], entry: u64) -> Seen {
    let mut reservation = reserved("r", "eng", 4, held);
    reservation.spec.size = gi(asked);
    seen(reservation, &[disk("n1.a", "n1", 10, &[("r", entry)])], &[])
}

#[test]
fn r6_growth_takes_first_and_shrinking_reports_first() {
    assert_eq!(next(&placed(6, &[], 4)), take_from(LedgerOf::Disk("n1.a".into()), "r", "eng", 6));
    assert_eq!(reported(&placed(6, &[], 6), RESIZED), ("Resized".into(), "it has 6Gi".into()));
    assert_eq!(reported(&placed(11, &[], 4), RESIZED).0, "NotEnoughRoom");
    assert_eq!(reported(&placed(11, &[], 4), READY).0, "Ready", "it keeps what it has");
    let Step::Report(status) = next(&placed(3, &[("v", 2)], 4)) else { panic!() };
    assert_eq!((status.size, status.free), (Some(gi(3)), Some(gi(1))));
    let mut invalid = placed(4, &[], 4);
    Arc::make_mut(&mut invalid.reservation).spec.size = Size::written("-1Gi");
    assert_eq!(reported(&invalid, RESIZED).0, "Invalid");
    let Step::Report(status) = next(&placed(4, &[], 4)) else { panic!() };
    assert_eq!(condition::get(&status.conditions, RESIZED), None, "its size was never changed");
    let mut withdrawn = placed(4, &[], 4);
    let status = Arc::make_mut(&mut withdrawn.reservation).status.as_mut().unwrap();
    let waits = Verdict::no(reason::NOT_ENOUGH_ROOM, "said");
    condition::set(&mut status.conditions, RESIZED, waits, None, Timestamp::UNIX_EPOCH);
    assert_eq!(reported(&withdrawn, RESIZED), ("Resized".into(), "it has 4Gi".into()));
}

#[test]
fn x8_kept_data_gives_way_to_a_shrink_and_a_refinement() {
    let mut seen = Seen { settled: true, ..placed(3, &[("v", 2)], 4) };
    let status = Arc::make_mut(&mut seen.reservation).status.as_mut().unwrap();
    status.volumes.extend(with_kept(&[("a", 0, 60), ("b", 1, 60)]).status.unwrap().volumes);
    assert_eq!(next(&seen), Step::MakeRoom("r".into(), 1 << 30));
    let (reason, said) = reported(&Seen { room_made: true, ..seen.clone() }, RESIZED);
    assert_eq!(reason, "BelowUsed");
    assert!(said.starts_with("kept data of destroyed volumes, 2Gi in all, gives way to the 3Gi"), "{said}");
    Arc::make_mut(&mut seen.reservation).spec.size = gi(1);
    let (reason, said) = reported(&seen, RESIZED);
    assert_eq!(reason, "BelowUsed", "nothing is erased in vain");
    assert!(said.starts_with("1Gi is less than the 2Gi that v in it take;"), "{said}");

    let mut parent = reserved("p", "eng", 10, &[("v", 7)]);
    let kept = with_kept(&[("a", 0, 60)]).status.unwrap().volumes;
    parent.status.as_mut().unwrap().volumes.extend(kept);
    let seen = refining(Some(parent), &[]);
    assert_eq!(next(&seen), Step::MakeRoom("p".into(), 3 << 30));
    assert_eq!(reported(&Seen { room_made: true, ..seen }, READY).0, "ParentFull");
}

#[test]
fn r6_it_shrinks_to_what_lives_in_it_and_names_that() {
    let mut seen = Seen { settled: true, ..placed(4, &[("v", 3)], 4) };
    let reservation = Arc::make_mut(&mut seen.reservation);
    reservation.status.as_mut().unwrap().refinements = vec![ledger_entry("ml", "eng/ml", 1)];
    reservation.spec.size = gi(3);
    assert_eq!(
        reported(&seen, RESIZED),
        (
            "BelowUsed".into(),
            "3Gi is less than the 4Gi that v and ml in it take; it keeps its 4Gi, \
             delete what is not needed any more first"
                .into()
        )
    );
}

fn settle(of: LedgerOf, name: &str, role: &str) -> Step {
    Step::Settle(vec![(of, vec![ledger_entry(name, role, 0)])])
}

#[test]
fn r4_entries_of_refinements_are_settled_before_anything() {
    let mut parent = reserved("p", "eng", 10, &[]);
    parent.metadata.deletion_timestamp = some_time();
    let entries = ["there", "gone", "shrunk"].map(|name| ledger_entry(name, "eng/ml", 3));
    parent.status.as_mut().unwrap().refinements = entries.to_vec();
    let refinement = |name: &str, size| {
        let mut refinement = reserved(name, "eng/ml", size, &[]);
        refinement.spec.parent = Some("p".into());
        refinement.status.as_mut().unwrap().parent = Some(UidRef { name: "p".into(), uid: "uid-p".into() });
        Arc::new(refinement)
    };
    let mut seen = seen(parent.clone(), &[disk("n1.a", "n1", 20, &[("p", 10)])], &[]);
    seen.refinements = vec![refinement("there", 3), refinement("shrunk", 2)];
    let unsettled = Step::Settle(vec![(LedgerOf::Parent("p".into()), entries[1..].to_vec())]);
    assert_eq!(next(&seen), unsettled);
    seen.settled = true;
    parent.status.as_mut().unwrap().refinements = vec![];
    assert!(DiskReservation::see_settled("p", guarded(parent), &mut seen));
    assert_eq!(next(&seen), Step::Release(LedgerOf::Disk("n1.a".into())), "it is empty now");
}

#[test]
fn r6_an_entry_that_does_not_fit_is_settled_once() {
    for (entry, wherever) in [(5, "too large"), (3, "too small"), (0, "lost")] {
        let mut seen = placed(4, &[], entry);
        assert_eq!(next(&seen), settle(LedgerOf::Disk("n1.a".into()), "r", "eng"), "{wherever}");
        seen.settled = true;
        assert!(matches!(next(&seen), Step::Report(_)));
    }
    let mut seen = placed(4, &[], 4);
    seen.disks.push(Arc::new(disk("n2.b", "n2", 10, &[("r", 4)])));
    assert_eq!(next(&seen), settle(LedgerOf::Disk("n2.b".into()), "r", "eng"), "elsewhere");
    let mut child = reserved("ml", "eng/ml", 3, &[]);
    child.spec.parent = Some("p".into());
    child.status.as_mut().unwrap().parent = Some(UidRef { name: "p".into(), uid: "uid-p".into() });
    let mut seen = seen_child(child);
    let lost = settle(LedgerOf::Parent("p".into()), "ml", "eng/ml");
    assert_eq!(next(&seen), lost, "lost from its parent");
    Arc::make_mut(seen.parent.as_mut().unwrap()).metadata.uid = Some("another".into());
    assert_eq!(reason_of(&seen), "NoParent");
    seen.live = false;
    assert_eq!(next(&seen), Step::ReadLive, "a cache may be behind");
}

fn seen_child(child: DiskReservation) -> Seen {
    let parent = reserved("p", "eng", 10, &[]);
    Seen { parent: Some(Arc::new(parent)), ..seen(child, &[disk("n1.a", "n1", 10, &[("p", 10)])], &[]) }
}

#[test]
fn d3_d4_a_reservation_follows_its_disk_and_is_never_moved() {
    let mut seen = placed(4, &[], 4);
    Arc::make_mut(&mut seen.disks[0]).spec.node_name = "n2".into();
    let Step::Report(status) = next(&seen) else { panic!() };
    assert_eq!(status.node_name.as_deref(), Some("n2"));
    seen.live = false;
    assert_eq!(next(&seen), Step::ReadLive, "a cache that is behind moves nothing");
    Arc::make_mut(&mut seen.disks[0]).spec.gone = true;
    Arc::make_mut(&mut seen.disks[0]).spec.node_name = "n1".into();
    let (reason, message) = reported(&seen, READY);
    assert_eq!(reason, "DiskGone", "admission looks at that");
    assert!(
        message.starts_with("NodeDisk n1.a, which DiskReservation r is on, was declared gone"),
        "{message}"
    );
    seen.disks.clear();
    assert_eq!(next(&seen), Step::ReadLive);
    seen.live = true;
    let Step::Report(status) = next(&seen) else { panic!() };
    assert_eq!((status.phase, status.node_disk.as_deref()), (ReservationPhase::Pending, Some("n1.a")));
    assert_eq!(reason_of(&seen), "NoSuchDisk");
}

/// The kind NodeDisk was deleted and applied again, and the disk is in another node than its NodeDisk is named after.
#[test]
fn d3_a_reservation_makes_its_missing_nodedisk_anew() {
    let mut seen = placed(4, &[], 4);
    Arc::make_mut(&mut seen.disks[0]).spec.node_name = "n2".into();
    let Step::Report(mut status) = next(&seen) else { panic!() };
    let place = |status: &DiskReservationStatus| (status.disk_id.clone(), status.disk_name.clone());
    assert_eq!(place(&status), (Some("id-n1.a".into()), Some("a".into())));
    status.disk_kind = Some(DiskKind::Mount);
    Arc::make_mut(&mut seen.reservation).status = Some(*status);
    let there = std::mem::take(&mut seen.disks);
    seen.live = false;
    assert_eq!(next(&seen), Step::ReadLive, "a cache may be behind");
    seen.live = true;
    let Step::MakeDisk(made) = next(&seen) else { panic!("{:?}", next(&seen)) };
    let NodeDiskSpec { node_name, disk_name, disk_id, kind, backing, .. } = &made.spec;
    assert_eq!(
        (made.name_any().as_str(), &**node_name, &**disk_name, &**disk_id),
        ("n1.a", "n2", "a", "id-n1.a")
    );
    assert_eq!((*kind, *backing), (DiskKind::Mount, BackingKind::Mount));
    // A deletion waits for the volumes, and these for the disk.
    let deleted = |volumes: &[(&str, u64)]| {
        let mut seen = seen.clone();
        let reservation = Arc::make_mut(&mut seen.reservation);
        reservation.metadata.deletion_timestamp = some_time();
        let status = reservation.status.as_mut().unwrap();
        status.volumes = volumes.iter().map(|(name, size)| ledger_entry(name, "eng", *size)).collect();
        next(&seen)
    };
    assert!(matches!(deleted(&[("v", 1)]), Step::MakeDisk(_)));
    assert_eq!(deleted(&[]), Step::RemoveFinalizer, "nobody needs the disk");
    // Another disk has the name now: the ID on record stays.
    seen.disks = there;
    Arc::make_mut(&mut seen.disks[0]).spec.disk_id = "another".into();
    let Step::Report(status) = next(&seen) else { panic!() };
    assert_eq!(place(&status).0, Some("id-n1.a".into()));
}

/// Seed 5032: the NodeDisk was made anew after its kind was deleted, without entries.
#[test]
fn s1_a_reservation_that_is_deleted_and_used_has_its_entry_again() {
    let mut seen = placed(4, &[("v", 1)], 4);
    let reservation = Arc::make_mut(&mut seen.reservation);
    reservation.metadata.deletion_timestamp = some_time();
    assert_eq!(reason_of(&seen), "HasVolumes");
    seen.disks = vec![Arc::new(disk("n1.a", "n1", 10, &[]))];
    let Step::Settle(unsettled) = next(&seen) else { panic!("{:?}", next(&seen)) };
    assert_eq!(unsettled[0].0, LedgerOf::Disk("n1.a".into()));
    Arc::make_mut(&mut seen.reservation).status.as_mut().unwrap().volumes.clear();
    assert_eq!(next(&seen), Step::RemoveFinalizer);
}

#[test]
fn s3_an_empty_reservation_goes_entries_first() {
    let leaving = |mut seen: Seen| {
        Arc::make_mut(&mut seen.reservation).metadata.deletion_timestamp = some_time();
        seen
    };
    let Step::Report(status) = next(&leaving(placed(4, &[("v", 1)], 4))) else { panic!() };
    assert_eq!(status.phase, ReservationPhase::Releasing);
    assert_eq!(reason_of(&leaving(placed(4, &[("v", 1)], 4))), "HasVolumes");
    let mut seen = leaving(placed(4, &[], 4));
    seen.roles = vec![Arc::new(with_quota(volume_role("eng", "eng"), Some(9), None, &[("r", 4)]))];
    seen.live = false;
    assert_eq!(next(&seen), Step::ReadLive, "a cache may not have seen what lives in it");
    seen.live = true;
    assert_eq!(next(&seen), Step::Release(LedgerOf::Disk("n1.a".into())));
    NodeDisk::see("n1.a", Some(disk("n1.a", "n1", 10, &[])), &mut seen);
    assert_eq!(next(&seen), Step::Release(LedgerOf::Role("eng".into())));
    VolumeRole::see("eng", Some(volume_role("eng", "eng")), &mut seen);
    assert_eq!(next(&seen), Step::RemoveFinalizer);
    let reservation = Arc::make_mut(&mut seen.reservation);
    reservation.metadata.finalizers = Some(vec![FINALIZER.into(), "example.com/keep".into()]);
    let Step::Report(status) = next(&seen) else { panic!() };
    let ready = condition::get(&status.conditions, READY).unwrap();
    assert!(ready.message.ends_with("when finalizer example.com/keep is removed"), "F3: {}", ready.message);
    Arc::make_mut(&mut seen.reservation).status = Some(*status);
    assert_eq!(next(&seen), Step::RemoveFinalizer, "once");
    VolumeRole::see("eng", None, &mut seen);
    assert_eq!(next(&seen), Step::ReadLive, "a ledger that is gone was read too long ago");
    Arc::make_mut(&mut seen.reservation).metadata.finalizers = None;
    assert_eq!(next(&seen), Step::Rest);
    Arc::make_mut(&mut seen.reservation).metadata.deletion_timestamp = None;
    assert_eq!(next(&seen), Step::AddFinalizer);
}

fn left(mut disk: NodeDisk) -> NodeDisk {
    (disk.spec.gone, disk.spec.lifetime) = (true, crate::api::Lifetime::Node);
    disk.spec.node_uid = Some("uid-n1".into());
    let since = some_time().unwrap();
    disk.status.as_mut().unwrap().missing_node =
        Some(crate::api::MissingNode { node_uid: "uid-n1".into(), since });
    disk
}

/// A reservation never loses its place while something is in it, and an entry goes only after the reservation has said so:
/// another controller that took the entry may be about to report the bytes.
#[test]
fn d7_an_empty_reservation_leaves_and_a_used_one_waits() {
    let gone = left(disk("n1.a", "n1", 10, &[("r", 4)]));
    let used = seen(reserved("r", "eng", 4, &[("v", 1)]), std::slice::from_ref(&gone), &[]);
    let status = |seen: &Seen| match next(seen) {
        Step::Report(status) => *status,
        step => panic!("{step:?}"),
    };
    let now = status(&used);
    assert_eq!(
        (now.node_disk.as_deref(), now.volumes.len(), reason_of(&used)),
        (Some("n1.a"), 1, "NodeGone".into())
    );

    let empty = seen(reserved("r", "eng", 4, &[]), std::slice::from_ref(&gone), &[]);
    let now = status(&empty);
    assert_eq!(
        (now.node_disk.as_deref(), now.size.clone(), reason_of(&empty)),
        (None, None, "NodeGone".into())
    );
    let mut placeless = reservation("r", "eng", 4);
    placeless.status = Some(now);
    let settles = next(&seen(placeless, std::slice::from_ref(&gone), &[]));
    assert!(matches!(settles, Step::Settle(of) if of[0].0 == LedgerOf::Disk("n1.a".into())));

    // Kept data is lost with the disk, as a volume is (X8).
    let mut kept = reserved("r", "eng", 4, &[]);
    kept.status.as_mut().unwrap().volumes = with_kept(&[("v", 0, 60)]).status.unwrap().volumes;
    assert_eq!(status(&seen(kept, std::slice::from_ref(&gone), &[])).node_disk, None);
}

/// The end of a reservation follows from its placement in the spec.
#[test]
fn d7_a_reservation_says_what_comes_of_it() {
    let gone = [left(disk("n1.a", "n1", 10, &[("r", 4)]))];
    let says = |change: &dyn Fn(&mut DiskReservation)| {
        let mut reservation = reserved("r", "eng", 4, &[("v", 1)]);
        change(&mut reservation);
        let Step::Report(said) = next(&seen(reservation, &gone, &[])) else { panic!() };
        condition::get(&said.conditions, READY).unwrap().message.clone()
    };
    let of = crate::api::TemplateRef { volume_role: "cache".into(), name: "each".into() };
    for (said, end) in [
        (says(&|_| ()), "is placed anew once it is empty"),
        (
            says(&|r| r.spec.node_disk = Some("n1.a".into())),
            "waits for n1.a, or for another placement in its spec, once it is empty",
        ),
        (
            says(&|r| r.spec.template = Some(of.clone())),
            "of template each of VolumeRole cache ends once it is empty",
        ),
        (says(&|r| r.metadata.deletion_timestamp = some_time()), "the reservation goes once it is empty"),
    ] {
        assert!(said.ends_with(end), "{said}");
    }
}

/// A controller died between the entry and the report.
#[test]
fn d7_an_entry_goes_after_the_reservation_says_so() {
    let gone = left(disk("n1.a", "n1", 10, &[("r", 4)]));
    let waits = reservation("r", "eng", 4);
    assert!(Holder::<DiskReservation>::belongs(&gone, &waits, None), "somebody may be about to report it");
    let disks = [gone.clone(), disk("n2.a", "n2", 10, &[])];
    let Step::Report(status) = next(&seen(waits.clone(), &disks, &[])) else { panic!() };
    assert_eq!(condition::get(&status.conditions, READY).unwrap().reason, "NodeGone");
    let told = DiskReservation { status: Some(*status), ..waits };
    assert!(!Holder::<DiskReservation>::belongs(&gone, &told, None));
    assert!(Holder::<DiskReservation>::belongs(&disks[1], &told, None), "its next place");
}

/// The parent waits for the entry of its refinement, and the entry for the refinement's own report.
#[test]
fn d7_a_refinement_leaves_its_parent_first() {
    let gone = || vec![Arc::new(left(disk("n1.a", "n1", 20, &[("p", 10)])))];
    let mut parent = reserved("p", "eng", 10, &[]);
    parent.status.as_mut().unwrap().refinements = vec![ledger_entry("ml", "eng/ml", 3)];
    condition::set(
        &mut parent.status.as_mut().unwrap().conditions,
        READY,
        Verdict::no(reason::NODE_GONE, "gone".to_owned()),
        None,
        Timestamp::UNIX_EPOCH,
    );
    let mut waits = Seen { disks: gone(), ..refining(Some(parent.clone()), &[]) };
    assert_eq!(reason_of(&waits), "NodeGone", "never placed, in spite of its entry");
    assert!(parent.belongs(&*waits.reservation, None));
    let Step::Report(status) = next(&waits) else { panic!() };
    Arc::make_mut(&mut waits.reservation).status = Some(*status);
    assert!(!parent.belongs(&*waits.reservation, None));
    assert!(matches!(next(&waits), Step::Settle(of) if of[0].0 == LedgerOf::Parent("p".into())));
    waits.settled = true;
    assert_eq!(reason_of(&waits), "NodeGone", "its parent is still known");
}

/// L5, R6: neither the entry of a waiting refinement, nor kept data, holds a reservation that is being deleted on a disk that
/// has gone.
#[test]
fn d7_a_reservation_that_is_deleted_leaves_too() {
    let gone = || vec![Arc::new(left(disk("n1.a", "n1", 20, &[("p", 10)])))];
    let mut parent = reserved("p", "eng", 10, &[]);
    parent.metadata.deletion_timestamp = some_time();
    let status = parent.status.as_mut().unwrap();
    status.refinements = vec![ledger_entry("ml", "eng/ml", 3)];
    status.volumes = with_kept(&[("v", 0, 60)]).status.unwrap().volumes;
    let mut waits = Seen { disks: gone(), ..refining(Some(parent.clone()), &[]) };
    let Step::Report(status) = next(&waits) else { panic!("{:?}", next(&waits)) };
    let why = &condition::get(&status.conditions, READY).unwrap().message;
    assert!(
        why.ends_with("DiskReservation p, which it is to be carved out of, goes once it is empty"),
        "{why}"
    );
    Arc::make_mut(&mut waits.reservation).status = Some(*status);
    assert!(parent.belongs(&*waits.reservation, None), "p has not said so");
    let mut of_parent =
        Seen { disks: gone(), refinements: vec![waits.reservation.clone()], ..seen(parent, &[], &[]) };
    let Step::Report(status) = next(&of_parent) else { panic!("{:?}", next(&of_parent)) };
    assert_eq!((status.phase, status.volumes.len()), (ReservationPhase::Releasing, 0), "X8");
    Arc::make_mut(&mut of_parent.reservation).status = Some(*status);
    assert!(!of_parent.reservation.belongs(&*waits.reservation, None));
    assert!(matches!(next(&of_parent), Step::Settle(of) if of[0].0 == LedgerOf::Parent("p".into())));
    Arc::make_mut(&mut of_parent.reservation).status.as_mut().unwrap().refinements.clear();
    assert_eq!(next(&of_parent), Step::Release(LedgerOf::Disk("n1.a".into())));
}

/// D7, S3: the parent lost its finalizer, and then the disk goes. The entry of the parent stays for as long as the refinement
/// is placed.
#[test]
fn d7_a_refinement_without_a_parent_leaves_too() {
    let mut child = refining(None, &[]);
    let status = Arc::make_mut(&mut child.reservation).status.get_or_insert_default();
    *status = reserved("p", "eng", 10, &[]).status.unwrap();
    status.parent = Some(UidRef { name: "p".into(), uid: "uid-p".into() });
    child.disks = vec![Arc::new(disk("n1.a", "n1", 20, &[("p", 10)]))];
    assert_eq!(reason_of(&child), "NoParent");
    child.disks = vec![Arc::new(left(disk("n1.a", "n1", 20, &[("p", 10)])))];
    let Step::Report(status) = next(&child) else { panic!("{:?}", next(&child)) };
    assert_eq!((status.node_disk.as_deref(), status.parent), (None, None));
}
