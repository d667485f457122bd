//! Tests of the choice of a reservation and of its ledger.

use super::*;
use crate::api::{
    CollectingTurn, CopyOf, DiskKind, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, SharedPersistentVolumeSpec,
    VolumeMode,
};
use crate::plan::testing::*;

fn pick(volume: &SharedPersistentVolume, rs: &[DiskReservation]) -> Result<String, (String, String)> {
    let rs: Vec<&DiskReservation> = rs.iter().collect();
    choose(volume, &rs, &[]).map(|r| r.name_any()).map_err(|v| (v.reason.to_owned(), v.message))
}

/// X6: a place is for good, so data that is not there yet, or on another disk, is waited for.
#[test]
fn x6_a_volume_goes_where_the_data_is_that_it_recovers() {
    let mut disks = [disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 10, &[])];
    let mut rs = [reserved("r", "eng", 2, &[]), reserved("s", "eng", 9, &[])];
    for (reservation, disk) in rs.iter_mut().zip(&disks) {
        reservation.status.as_mut().unwrap().node_disk = disk.metadata.name.clone();
    }
    let mut heir = volume("v", "eng", 1);
    heir.spec.recover = Some(crate::api::Recover { uid: "lost".into() });
    let pick = |heir: &SharedPersistentVolume, rs: &[DiskReservation], disks: &[NodeDisk]| {
        let (rs, disks): (Vec<_>, Vec<_>) = (rs.iter().collect(), disks.iter().collect());
        choose(heir, &rs, &disks).map(|r| r.name_any()).map_err(|v| format!("{}: {}", v.reason, v.message))
    };
    let nowhere = "NoOrphan: no NodeDisk reports data lost without an object: it was recovered or erased, or its disk is away; \
                   kubectl reservoir orphans lists what there is";
    assert_eq!(pick(&heir, &rs, &disks), Err(nowhere.into()));
    assert_eq!(pick(&heir, &[], &disks), Err(nowhere.into()), "a reservation would not help");
    let report = |disk: &mut NodeDisk, uid: &str| {
        let orphan = crate::api::Orphan { uid: uid.into(), ..Default::default() };
        disk.status.as_mut().unwrap().orphans = vec![orphan];
    };
    report(&mut disks[1], "lost");
    assert_eq!(pick(&heir, &rs, &disks), Ok("s".into()), "the fuller one is on another disk");
    let elsewhere = "NoOrphan: data lost is on NodeDisk n2.a, and DiskReservation r is not: create the volume in a reservation there";
    assert_eq!(pick(&heir, &rs[..1], &disks), Err(elsewhere.into()));
    report(&mut disks[1], &heir.uid().unwrap());
    assert_eq!(pick(&heir, &rs, &disks), Ok("s".into()), "etcd is older than the recovery");
    let unplaced = volume("v", "eng", 1);
    assert_eq!(pick(&unplaced, &rs, &disks), Ok("s".into()), "X9: etcd is older than the placement");
    let message = pick(&unplaced, &rs[..1], &disks).unwrap_err();
    assert!(message.starts_with("NoOrphan: its data is on NodeDisk n2.a, as etcd was restored"), "{message}");
    disks[1].status.as_mut().unwrap().orphans.clear();
    assert_eq!(pick(&unplaced, &rs[..1], &disks), Ok("r".into()));
    rs[0].status.as_mut().unwrap().volumes = vec![ledger_entry("lost", "eng", 1)];
    rs[0].status.as_mut().unwrap().volumes[0].uid = "lost".into();
    assert_eq!(pick(&heir, &rs, &disks), Ok("r".into()), "its entry is there, and the report comes");
}

#[test]
fn a8_a_reservation_that_lists_a_thousand_takes_no_volume() {
    let names: Vec<String> = (0..999).map(|i| format!("v{i}")).collect();
    let held: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut full = reserved("full", "eng", 2000, &held);
    assert!(pick(&volume("v", "eng", 1), std::slice::from_ref(&full)).is_ok());
    full.status.as_mut().unwrap().refinements = vec![ledger_entry("ml", "eng/ml", 1)];
    let (reason, message) = pick(&volume("v", "eng", 1), std::slice::from_ref(&full)).unwrap_err();
    assert_eq!(reason, "TooManyVolumes");
    assert!(message.starts_with("DiskReservation full lists 1000 volumes and reservations"), "{message}");
    let free = [full, reserved("free", "eng", 2, &[])];
    assert_eq!(pick(&volume("v", "eng", 1), &free), Ok("free".into()));
}

#[test]
fn a9_a_sub_role_leaves_places_for_volumes_of_the_owner() {
    let names: Vec<String> = (0..500).map(|i| format!("v{i}")).collect();
    let held: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut full = reserved("full", "eng", 2000, &held);
    full.status.as_mut().unwrap().volumes.iter_mut().for_each(|entry| entry.role = "eng/ml/x".into());
    let full = [full];
    let (reason, message) = pick(&volume("v", "eng/ml", 1), &full).unwrap_err();
    assert_eq!(reason, "ShareTaken");
    assert!(message.contains("lists 500 volumes and reservations of role eng/ml and its"), "{message}");
    for role in ["eng", "eng/web"] {
        assert_eq!(pick(&volume("v", role, 1), &full), Ok("full".into()), "{role}");
    }
    let taken = |role| take_entry(&volume("v", role, 1), &full[0], &[]).map_err(|why| why.reason);
    assert_eq!((taken("eng").map(|entries| entries.len()), taken("eng/ml")), (Ok(501), Err("ShareTaken")));
}

/// A8: users make PersistentVolumeClaims of a class without a verb.
#[test]
fn a8_a_namespace_leaves_places_for_volumes_of_others() {
    let names: Vec<String> = (0..500).map(|i| format!("v{i}")).collect();
    let held: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut full = reserved("full", "eng", 2000, &held);
    let of_pvc = |namespace: &str| {
        let labels = [(LABEL_PVC_UID, "u"), (LABEL_CLAIM_NAMESPACE, namespace)];
        let mut volume = volume("v", "eng", 1);
        volume.metadata.labels = Some(labels.map(|(key, value)| (key.into(), value.into())).into());
        volume
    };
    let namespace = entry(&of_pvc("team")).unwrap().namespace;
    assert_eq!(namespace.as_deref(), Some("team"));
    full.status.as_mut().unwrap().volumes.iter_mut().for_each(|entry| entry.namespace = namespace.clone());
    let taken =
        |volume: &_| take_entry(volume, &full, &[]).map(drop).map_err(|why| (why.reason, why.message));
    let (reason, message) = taken(&of_pvc("team")).unwrap_err();
    assert_eq!(reason, "ShareTaken");
    let whose = "lists 500 volumes and reservations for PersistentVolumeClaims of namespace team, and keeps";
    assert!(message.contains(whose), "{message}");
    assert_eq!((taken(&of_pvc("other")), taken(&volume("v", "eng", 1))), (Ok(()), Ok(())));
}

/// X8: where the list is full, a new volume takes the place of kept data.
#[test]
fn x8_a_volume_beside_a_full_list_wants_a_place() {
    let mut full = with_kept(&[("a", 0, 60)]);
    let others = (1..1000).map(|i| ledger_entry(&format!("v{i}"), "eng", 1));
    let status = full.status.as_mut().unwrap();
    status.size = Some(gi(2000));
    status.volumes.extend(others);
    for (entries, place) in [(1000, Some("eng")), (999, None)] {
        full.status.as_mut().unwrap().volumes.truncate(entries);
        let (_, wanted) = room_of_kept(&volume("v", "eng", 1), &[&full], &[]).unwrap();
        assert_eq!((wanted.bytes, wanted.place.as_deref()), (1 << 30, place));
    }
}

/// V1, R3.
#[test]
fn v1_the_nearest_role_then_the_fullest() {
    let rs = [
        reserved("wide", "eng", 100, &[]),
        reserved("own", "eng/ml", 50, &[]),
        reserved("own-full", "eng/ml", 50, &[("v", 40)]),
        reserved("child", "eng/ml/x", 100, &[]),
    ];
    assert_eq!(pick(&volume("v1", "eng/ml", 10), &rs), Ok("own-full".into()));
    assert_eq!(pick(&volume("v1", "eng/ml", 50), &rs), Ok("own".into()));
    assert_eq!(
        pick(&volume("v1", "eng/ml", 60), &rs),
        Ok("wide".into()),
        "an ancestor's, never a sub-role's"
    );
}

#[test]
fn d4_an_unreachable_disk_gets_a_volume_as_the_last_resort() {
    let mut rs = [reserved("near", "eng/ml", 10, &[]), reserved("above", "eng", 20, &[])];
    rs[1].status.as_mut().unwrap().node_disk = Some("n2.a".into());
    let (mut away, there) = (disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 20, &[]));
    set_ready(&mut away.status.as_mut().unwrap().conditions, false);
    let rs: Vec<&DiskReservation> = rs.iter().collect();
    let v = volume("v", "eng/ml", 1);
    let on = |rs: &[&DiskReservation]| choose(&v, rs, &[&away, &there]).unwrap().name_any();
    assert_eq!((on(&rs), on(&rs[..1])), ("above".into(), "near".into()));
}

#[test]
fn d2_a_whole_disks_reservation_holds_one_volume() {
    let on = |kind, mut reservation: DiskReservation| {
        reservation.status.as_mut().unwrap().disk_kind = Some(kind);
        reservation
    };
    let whole = on(DiskKind::Mount, reserved("whole", "eng", 20, &[]));
    let divided = on(DiskKind::Path, reserved("divided", "eng", 100, &[]));
    assert_eq!(pick(&volume("v", "eng", 5), &[whole.clone(), divided.clone()]), Ok("divided".into()));
    assert_eq!(pick(&volume("v", "eng", 5), std::slice::from_ref(&whole)), Ok("whole".into()));
    let taken = on(DiskKind::Mount, reserved("whole", "eng", 20, &[("w", 20)]));
    let (reason, message) = pick(&volume("v", "eng", 5), &[taken]).unwrap_err();
    assert_eq!(reason, "ReservationFull");
    assert!(message.starts_with("5Gi asked for, whole has 0 left: a whole disk has one volume"), "{message}");
    let mut raw = volume("v", "eng", 5);
    raw.spec.volume_mode = VolumeMode::Block;
    assert_eq!(pick(&raw, &[whole.clone(), divided.clone()]).unwrap_err().0, "WrongDisk");
    let device = on(DiskKind::Block, reserved("device", "eng", 30, &[]));
    assert_eq!(pick(&raw, &[whole, divided, device]), Ok("device".into()));
}

#[test]
fn v1_more_than_is_left_is_a_clear_refusal() {
    let (reason, message) =
        pick(&volume("v1", "eng", 10), &[reserved("r", "eng", 12, &[("v", 4)])]).unwrap_err();
    assert_eq!(reason, "ReservationFull");
    assert_eq!(
        message,
        "10Gi asked for, r has 8Gi left; reserve more for role eng or destroy a volume in it"
    );
}

#[test]
fn s2_without_a_live_reservation_of_the_role_there_is_no_volume() {
    let mut gone = reserved("r", "eng", 10, &[]);
    gone.metadata.deletion_timestamp = some_time();
    let (_, said) = pick(&volume("v1", "eng", 1), std::slice::from_ref(&gone)).unwrap_err();
    assert!(said.starts_with("DiskReservation r is being deleted, and takes no new volume"), "{said}");
    let waits = ["s", "r"].map(|name| reservation(name, "eng", 10));
    let (_, said) = pick(&volume("v1", "eng", 1), &[&[gone.clone()], &waits[..]].concat()).unwrap_err();
    assert!(
        said.starts_with("DiskReservation r has no disk yet: it has no condition yet; nothing else is"),
        "{said}"
    );
    let mut away = reserved("a", "eng", 10, &[]);
    let status = away.status.as_mut().unwrap();
    status.phase = crate::api::ReservationPhase::Pending;
    set_ready(&mut status.conditions, false);
    let (_, said) = pick(&volume("v1", "eng", 1), &[away.clone()]).unwrap_err();
    assert!(said.starts_with("DiskReservation a serves nobody now: "), "{said}");
    let (_, said) = pick(&volume("v1", "eng", 1), &[&[away], &waits[..]].concat()).unwrap_err();
    assert!(said.starts_with("DiskReservation r has no disk yet"), "one that may be served: {said}");
    for rs in [vec![], vec![reserved("r", "ops", 10, &[])], vec![gone], vec![reservation("r", "eng", 10)]] {
        assert_eq!(pick(&volume("v1", "eng", 1), &rs).unwrap_err().0, "NoReservation");
    }
}

/// V1.
#[test]
fn a_named_reservation_and_no_other() {
    let rs = [reserved("a", "eng", 10, &[]), reserved("b", "ops", 10, &[])];
    let mut v = volume("v1", "eng", 1);
    for (name, said) in [
        ("b", "DiskReservation b is for role ops, which does not cover role eng"),
        ("c", "there is no DiskReservation c; make it, or make the volume anew without spec.reservation"),
    ] {
        v.spec.reservation = Some(name.into());
        assert_eq!(pick(&v, &rs).unwrap_err(), ("NoReservation".into(), said.into()));
    }
    v.spec.reservation = Some("a".into());
    assert_eq!(pick(&v, &rs), Ok("a".into()));
    // T2: turns change the words of a reservation that waits (seed 30211).
    let said = |why: &'static str, turn| {
        let mut waits = reservation("a", "eng", 10);
        let status = waits.status.get_or_insert_default();
        status.turn = turn;
        condition::set(
            &mut status.conditions,
            READY,
            Verdict::no(why, "m"),
            None,
            jiff::Timestamp::UNIX_EPOCH,
        );
        pick(&v, &[waits]).unwrap_err().1
    };
    let turn = || Some(CollectingTurn { since: some_time().unwrap(), node_disk: None });
    assert_eq!(said(reason::NOT_ENOUGH_ROOM, None), "DiskReservation a has no disk yet: m");
    let waits = "DiskReservation a has no disk yet: it waits for space, and its condition Ready says why";
    assert_eq!(said(reason::NOT_ENOUGH_ROOM, turn()), waits);
    assert_eq!(said(reason::OVER_QUOTA, None), waits);
    // Nobody makes the volume of a StorageClass anew.
    v.spec.reservation = Some("c".into());
    v.metadata.labels = Some([(crate::api::LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
    assert_eq!(pick(&v, &rs).unwrap_err().1, "there is no DiskReservation c: make it");
}

#[test]
fn v1_a_cordoned_node_gets_no_new_volume() {
    let on = |name: &str, disk: &str, node: &str, size| {
        let mut r = reserved(name, "eng", size, &[]);
        let status = r.status.as_mut().unwrap();
        (status.node_disk, status.node_name) = (Some(disk.into()), Some(node.into()));
        r
    };
    let reservations = [on("r1", "n1.a", "n1", 3), on("r2", "n2.a", "n2", 9)];
    let mut disks = [disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 10, &[])];
    disks[0].status.as_mut().unwrap().cordoned = true;
    let chosen = |volume: &SharedPersistentVolume, disks: &[NodeDisk]| {
        choose(volume, &reservations.iter().collect::<Vec<_>>(), &disks.iter().collect::<Vec<_>>())
            .map(|r| r.name_any())
            .map_err(|why| (why.reason, why.message))
    };
    let mut wanted = volume("v", "eng", 2);
    assert_eq!(chosen(&wanted, &disks), Ok("r2".into()), "although the other is fuller");
    wanted.spec.reservation = Some("r1".into());
    // It gets no other reservation than its own.
    let said = "only cordoned nodes have space for it (r1 on n1): kubectl uncordon n1";
    assert_eq!(chosen(&wanted, &disks), Err(("NodeCordoned", said.into())));
    disks[1].status.as_mut().unwrap().cordoned = true;
    wanted.spec.reservation = None;
    assert!(chosen(&wanted, &disks).unwrap_err().1.ends_with("or reserve on another node"));
    let copy_of = Some(CopyOf { node: "n1".into(), ..Default::default() });
    let copy = SharedPersistentVolume {
        spec: SharedPersistentVolumeSpec { copy_of, ..wanted.spec.clone() },
        ..wanted.clone()
    };
    assert!(chosen(&copy, &disks).unwrap_err().1.ends_with("kubectl uncordon n1"), "no other node helps it");
    disks[1].status.as_mut().unwrap().cordoned = false;
    wanted.spec.reservation = Some("r1".into());
    wanted.spec.size = gi(4);
    assert_eq!(chosen(&wanted, &disks).unwrap_err().0, "ReservationFull", "uncordon would not help");
    disks[0].status.as_mut().unwrap().cordoned = false;
    wanted.spec.size = gi(2);
    assert_eq!(chosen(&wanted, &disks), Ok("r1".into()));
}

/// V1, T4: free space that is of no use is no hint.
#[test]
fn v1_a_full_reservation_is_told_without_those_that_cannot_hold_it() {
    let mut whole = reserved("whole", "eng", 9, &[]);
    whole.status.as_mut().unwrap().disk_kind = Some(DiskKind::Mount);
    let full = reserved("full", "eng", 1, &[("x", 1)]);
    let mut wanted = volume("v", "eng", 1);
    wanted.spec.erase_policy = crate::api::ErasePolicy::Zero;
    let (reason, message) = pick(&wanted, &[whole, full]).unwrap_err();
    assert_eq!(reason, "ReservationFull");
    assert_eq!(
        message,
        "1Gi asked for, full has 0 left; reserve more for role eng or destroy a volume in it"
    );
}
