//! Tests of kept data.

use super::*;
use crate::api::{BackingState, Destroy, KeptOnDisk, Orphan, UidRef, VolumeMode};
use crate::plan::testing::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn x8_a_volume_is_kept_for_its_time() {
    let mut v = ready_volume("v", "eng", true);
    let kept = |v: &SharedPersistentVolume| until(v, at(5)).map(|until| until.0.as_second());
    assert_eq!(kept(&v), None);
    for (text, end) in [("72h", Some(5 + 72 * 3600)), ("1h30m", Some(5 + 5400)), ("0s", None)] {
        v.spec.keep_for = Some(text.into());
        assert_eq!(kept(&v), end, "{text}");
    }
    v.spec.keep_for = Some("some days".into());
    assert!(kept(&v) > Some(86400 * 365), "in doubt the data is kept");
    v.spec.adopt = Some(crate::api::Adopt { path: "/srv/a".into() });
    assert_eq!(kept(&v), None, "V8: it stays anyway");
}

#[test]
fn x8_an_undeleted_volume_has_its_spec_and_labels() {
    let mut v = ready_volume("v", "eng", true);
    v.spec.size = gi(7);
    v.spec.keep_for = Some("60s".into());
    (v.spec.volume_mode, v.spec.gid) = (VolumeMode::Block, Some(7));
    (v.spec.principal, v.spec.retire) = (Some("somebody".into()), true);
    v.metadata.labels = Some([("app", "a"), (LABEL_PVC_UID, "u")].map(|(k, v)| (k.into(), v.into())).into());
    let status = v.status.as_mut().unwrap();
    status.destroy = Some(Destroy { tombstone: some_time(), kept_until: later(), ..Default::default() });
    status.node.as_mut().unwrap().size = Some(gi(3));
    let left = left(&v).unwrap();
    let mark = left.mark.clone().unwrap();
    let fields = mark.spec.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields, ["gid", "keepFor", "shared", "size", "volumeMode"], "A8: no field has its default");
    let mut r = reserved("r", "eng", 10, &[("v", 3), ("w", 1)]);
    let entries = with_left(&r, "uid-v", &left);
    assert_eq!(entries.iter().map(|entry| entry.kept.is_some()).collect::<Vec<_>>(), [true, false]);
    r.status.as_mut().unwrap().volumes = entries;
    assert_eq!(
        (bytes(r.status.as_ref().unwrap()), available(r.status.as_ref().unwrap())),
        (3 << 30, 9 << 30)
    );
    let back = undeleted("w", &r.status.as_ref().unwrap().volumes[0], &r).unwrap();
    let spec = &back.spec;
    assert_eq!((back.name_any(), back.labels().len()), ("w".into(), 1));
    assert_eq!((spec.role.as_str(), &spec.size, spec.reservation.as_deref()), ("eng", &gi(3), Some("r")));
    assert_eq!(spec.recover.as_ref().unwrap().uid, "uid-v");
    assert_eq!(
        (spec.volume_mode, spec.gid, spec.keep_for.as_deref()),
        (VolumeMode::Block, Some(7), Some("60s"))
    );
    assert_eq!((spec.retire, &spec.principal), (false, &None));
    let entry = &r.status.as_ref().unwrap().volumes[0];
    let (gone, again) = (erasing(entry, &r, at(1)).unwrap(), erasing(entry, &r, at(2)).unwrap());
    assert!(is_erasing(&gone) && gone.spec.keep_for.is_none() && gone.name_any().starts_with("v-erase-"));
    assert_ne!(gone.name_any(), again.name_any(), "nobody can take the name before");
    let other = |change: fn(&mut SharedPersistentVolumeSpec)| {
        let mut volume = gone.clone();
        change(&mut volume.spec);
        is_erasing(&volume)
    };
    assert!(!other(|spec| spec.retire = false) && !other(|spec| spec.recover = None));
    assert!(!other(|spec| spec.keep_for = Some("60s".into())), "its data is kept again");
    assert!(undeleted("w", &r.status.as_ref().unwrap().volumes[1], &r).is_err());
}

#[test]
fn a8_too_many_labels_of_kept_volumes_are_omitted() {
    let mut r = with_kept(&[("a", 0, 60), ("b", 1, 60)]);
    let mut mark = r.status.as_ref().unwrap().volumes[0].kept.as_deref().unwrap().clone();
    mark.labels = [("k".to_owned(), "x".repeat(20 << 10))].into();
    for data in ["uid-a-0", "uid-b-1"] {
        let left = Left { data: data.into(), mark: Some(mark.clone()) };
        r.status.as_mut().unwrap().volumes = with_left(&r, data, &left);
    }
    let labels: Vec<usize> =
        entries(r.status.as_ref().unwrap()).iter().map(|(_, kept)| kept.labels.len()).collect();
    assert_eq!(labels, [1, 0]);
}

/// The names of the kept volumes that are to be erased.
fn ends(
    r: &DiskReservation,
    disk: Option<&NodeDisk>,
    volumes: &[SharedPersistentVolume],
    wanted: Wanted,
    second: i64,
) -> Vec<String> {
    let due = due(r, disk, volumes, wanted, at(second));
    assert!(due.iter().all(|due| {
        let recovered = due.volume.as_ref().map(|volume| &volume.spec.recover.as_ref().unwrap().uid);
        recovered.is_none_or(|recovered| *recovered == due.uid)
    }));
    due.into_iter()
        .map(|due| if due.volume.is_some() { due.uid } else { format!("gone {}", due.uid) })
        .collect()
}

fn free(gib: u64) -> Wanted {
    Wanted { bytes: gib << 30, ..Default::default() }
}

#[test]
fn x8_the_oldest_data_goes_first_and_none_in_vain() {
    let mut r = with_kept(&[("new", 9, 99), ("old", 1, 99), ("mid", 5, 99)]);
    r.status.as_mut().unwrap().volumes.push(ledger_entry("live", "eng", 5));
    for (wanted, gone) in [
        (2, &[][..]),
        (3, &["uid-old-1"]),
        (4, &["uid-old-1", "uid-mid-5"]),
        (5, &["uid-old-1", "uid-mid-5", "uid-new-9"]),
        (6, &[]),
    ] {
        assert_eq!(ends(&r, None, &[], free(wanted), 10), gone, "{wanted} Gi are wanted");
    }
    let place = |role: &str| Wanted { place: Some(role.into()), ..free(0) };
    assert_eq!(ends(&r, None, &[], place("eng"), 10), ["uid-old-1"], "A8: a place in the list");
    assert_eq!(ends(&r, None, &[], place("eng/ml"), 10), [""; 0], "of this role there is none");
    let spared = |gib| Wanted { spared: vec!["uid-old-1".into()], ..free(gib) };
    assert_eq!(ends(&r, None, &[], spared(4), 10), ["uid-mid-5", "uid-new-9"], "that of a namesake stays");
    assert_eq!(ends(&r, None, &[], spared(5), 10), [""; 0], "none in vain");
    // Bytes that are about to be free count.
    let mut live = ready_volume("live", "eng", true);
    live.spec.retire = true;
    let gone = |live: &SharedPersistentVolume| ends(&r, None, std::slice::from_ref(live), free(4), 10).len();
    assert_eq!(gone(&live), 0);
    live.spec.keep_for = Some("60s".into());
    assert_eq!(gone(&live), 2, "its bytes will be kept");
    live.spec.keep_for = None;
    live.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "1")];
    assert_eq!(gone(&live), 2, "it has a user");
    let entry = &entries(r.status.as_ref().unwrap())[0].0.clone();
    let erasing = erasing(entry, &r, at(10)).unwrap();
    assert_eq!(ends(&r, None, &[erasing], free(4), 11), ["uid-mid-5"], "the oldest is on its way");
}

/// D4: there is nothing to bring back, and nothing that could be erased.
#[test]
fn x8_kept_data_on_a_gone_disk_is_given_up_at_once() {
    let r = with_kept(&[("a", 0, 60)]);
    let mut disk = disk("n1.a", "n1", 10, &[]);
    assert_eq!(ends(&r, Some(&disk), &[], Wanted::default(), 1), [""; 0]);
    disk.spec.gone = true;
    assert_eq!(ends(&r, Some(&disk), &[], Wanted::default(), 1), ["gone uid-a-0"]);
}

/// A clock that is ahead erases nothing early, nor does a node that reports nothing.
#[test]
fn x8_the_time_is_over_when_both_clocks_say_so() {
    let r = with_kept(&[("a", 0, 60)]);
    let on_disk = |over| {
        let mut disk = disk("n1.a", "n1", 10, &[]);
        let (since, until) = (some_time().unwrap(), later().unwrap());
        let kept = Some(KeptOnDisk { since, until, over });
        let orphan = Orphan { uid: "uid-a-0".into(), kept, ..Default::default() };
        disk.status.as_mut().unwrap().orphans = vec![orphan];
        disk
    };
    let ends = |disk: Option<NodeDisk>, second| ends(&r, disk.as_ref(), &[], Wanted::default(), second).len();
    assert_eq!(ends(Some(on_disk(true)), 60), 1);
    assert_eq!(ends(Some(on_disk(true)), 59), 0, "the controller's clock");
    assert_eq!(ends(Some(on_disk(false)), 61), 0, "the node's clock");
    assert_eq!(ends(None, 61), 0);
    // Kept data that is over is erased anyway, and gives its bytes and its place.
    let both = with_kept(&[("a", 0, 60), ("b", 50, 99)]);
    for wanted in [free(9), Wanted { place: Some("eng".into()), ..free(0) }] {
        let ends = self::ends(&both, Some(&on_disk(true)), &[], wanted, 61);
        assert_eq!(ends, ["uid-a-0"]);
    }
    assert_eq!(next_look(&r, at(0)), Some(Duration::from_secs(60)));
    assert_eq!(next_look(&r, at(70)), Some(OVERDUE));
    assert_eq!(next_look(&reserved("r", "eng", 1, &[("v", 1)]), at(0)), None);
}

/// S3, X6: an entry of data outlives a volume that was to recover it, and had no place yet.
#[test]
fn x8_a_volume_without_a_place_leaves_the_entry_of_its_data() {
    let r = with_kept(&[("a", 0, 60)]);
    let entry = &r.status.as_ref().unwrap().volumes[0];
    let with_uid = |name: &str, mut volume: SharedPersistentVolume| {
        volume.metadata.uid = Some(format!("uid-{name}"));
        volume
    };
    let erasing = with_uid("e", erasing(entry, &r, at(70)).unwrap());
    let back = with_uid("b", undeleted("b", entry, &r).unwrap());
    let until = |volume: &SharedPersistentVolume| {
        let left = left_unplaced(volume, false, at(100)).unwrap();
        assert_eq!(left.data, "uid-a-0");
        left.mark.map(|mark| (mark.since.0.as_second(), mark.until.0.as_second()))
    };
    assert_eq!(until(&erasing), Some((100, 100)), "its time was over");
    assert_eq!(until(&back), Some((100, 160)), "the deletion counts for the data");
    let mut lost = back.clone();
    lost.spec.keep_for = None;
    assert_eq!(until(&lost), None, "an orphan stays one");
    assert_eq!(left_unplaced(&volume("v", "eng", 1), false, at(1)), None);
    assert_eq!(left_unplaced(&back, true, at(1)), None);
    let mut taken = r.clone();
    taken.status.as_mut().unwrap().volumes = crate::plan::create::take_entry(&back, &r, &[]).unwrap();
    let again = with_left(&taken, "uid-b", &left_unplaced(&back, false, at(0)).unwrap());
    assert_eq!((again.len(), &again[0].uid, again[0].kept.is_some()), (1, &entry.uid, true));
    taken.status.as_mut().unwrap().volumes = again;
    assert!(undeleted("c", &taken.status.as_ref().unwrap().volumes[0], &taken).is_ok());
}

/// S4.
#[test]
fn x8_data_with_another_heir_has_no_second_entry() {
    let r = with_kept(&[("a", 0, 60)]);
    let entry = &r.status.as_ref().unwrap().volumes[0];
    let heir = |name: &str| {
        let mut heir = undeleted(name, entry, &r).unwrap();
        heir.metadata.uid = Some(format!("uid-{name}"));
        heir
    };
    let (own, mut other) = (heir("b"), heir("c"));
    let has = |other: &SharedPersistentVolume, r: &DiskReservation| {
        has_heir(&own, &[own.clone(), other.clone()], std::slice::from_ref(r))
    };
    assert!(!has(&other, &r), "it takes the entry of the data in its turn");
    assert!(has(&other, &reserved("r", "eng", 9, &[("c", 1)])), "it has an entry");
    other.status = ready_volume("c", "eng", true).status;
    other.status.as_mut().unwrap().reservation = Some(UidRef { name: "r".into(), uid: "uid-r".into() });
    assert!(has(&other, &r), "it has a place");
    assert!(!has(&ready_volume("d", "eng", true), &r), "other data");
    let mut first = ready_volume("a-0", "eng", true);
    assert!(has(&first, &r), "a restored etcd has the volume itself");
    first.metadata.uid = own.metadata.uid.clone();
    assert!(!has(&first, &r));
}

#[test]
fn x8_the_mark_needs_a_tombstone_with_an_end() {
    let mut v = ready_volume("v", "eng", true);
    v.spec.keep_for = Some("60s".into());
    v.status.as_mut().unwrap().node.as_mut().unwrap().backing = BackingState::Kept;
    assert_eq!(left(&v), None);
    v.status.as_mut().unwrap().destroy = Some(Destroy { tombstone: some_time(), ..Default::default() });
    assert_eq!(left(&v), None);
}
