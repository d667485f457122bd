//! KEEP and UNDELETE: the data of destroyed volumes, kept for an undo (X8).
//!
//! A destroyed volume with `keepFor` is not erased. Its entry stays in the ledger of its reservation, with the mark
//! `kept`, and its data stays on the disk as an orphan. So nothing else counts its bytes (S1), and nobody can mount it.
//!
//! Both ends are those of an orphan (X6). To undelete is to make a volume that recovers the data. To erase is to make
//! one that recovers the data and retires: fence, in-use check, tombstone, receipt and credit are those of any volume.
//! Each of the two takes the place of the kept entry, by compare-and-swap of the reservation, and the data has one heir
//! (S4).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use crate::api::{
    ANNOTATION_MADE_FOR, DiskReservation, DiskReservationStatus, Kept, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID,
    LedgerEntry, NodeDisk, Recover, SharedPersistentVolume, SharedPersistentVolumeSpec, condition, keep,
    stable_hash,
};

use super::{holder, ledger};

/// The pause before another look at data whose time is over. The node and the controller have to agree on that.
const OVERDUE: Duration = Duration::from_secs(15);
/// The longest pause. A timer of the process does not count the sleep of the machine.
const LONGEST: Duration = Duration::from_secs(3600);
/// The most bytes of labels of kept volumes in one reservation (A8).
const MOST_LABELS: usize = 32 << 10;

/// The end of the time for which the volume's data is kept, if the volume is destroyed now; `None`: the data is erased.
pub fn until(volume: &SharedPersistentVolume, now: Timestamp) -> Option<Time> {
    let keep_for = volume.spec.keep_for.as_deref().filter(|_| volume.spec.adopt.is_none())?;
    // Admission refuses any other text. If such a text is there all the same, the data is kept.
    let keep_for = keep::parse(keep_for).unwrap_or(SignedDuration::from_hours(8784));
    let until = now.checked_add(keep_for).unwrap_or(Timestamp::MAX);
    (!keep_for.is_zero()).then(|| condition::stored(until))
}

/// The mark for the ledger entry of a destroyed volume; `None`: its data is not kept.
pub fn mark(volume: &SharedPersistentVolume) -> Option<Kept> {
    let status = volume.status.as_ref()?;
    let destroy = status.destroy.as_ref()?;
    let on_disk = status.node.as_ref().and_then(|node| node.size.clone());
    let spec = SharedPersistentVolumeSpec {
        role: String::new(),
        size: on_disk.or_else(|| status.size.clone())?,
        reservation: None,
        recover: None,
        retire: false,
        principal: None,
        ..volume.spec.clone()
    };
    // An absent field has its default.
    let default = json!(SharedPersistentVolumeSpec::default());
    let mut fields: Map<String, Value> = serde_json::from_value(json!(spec)).unwrap_or_default();
    fields.retain(|key, value| key == "size" || default[key.as_str()] != *value);
    Some(Kept {
        since: destroy.tombstone.clone()?,
        until: destroy.kept_until.clone()?,
        made_for: volume.annotations().get(ANNOTATION_MADE_FOR).filter(|of| of.len() <= 400).cloned(),
        labels: volume.labels().clone(),
        spec: fields.into(),
    })
}

/// The entries of the reservation's ledger, with the mark on the entry of that UID. Too many labels are omitted.
pub fn marked(reservation: &DiskReservation, uid: &str, mark: &Kept) -> Vec<LedgerEntry> {
    let mut entries = reservation.status.clone().unwrap_or_default().volumes;
    let bytes = |kept: &Kept| kept.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let others = entries.iter().filter(|entry| entry.uid != uid);
    let others: usize = others.filter_map(|entry| entry.kept.as_deref()).map(bytes).sum();
    if let Some(entry) = entries.iter_mut().find(|entry| entry.uid == uid) {
        let mut mark = mark.clone();
        if others + bytes(&mark) > MOST_LABELS {
            mark.labels.clear();
        }
        entry.kept = Some(Box::new(mark));
    }
    entries
}

/// The entries of kept data, the oldest first.
pub fn entries(status: &DiskReservationStatus) -> Vec<(&LedgerEntry, &Kept)> {
    let entries = status.volumes.iter();
    let mut kept: Vec<_> = entries.filter_map(|entry| Some((entry, entry.kept.as_deref()?))).collect();
    kept.sort_by(|(a, ka), (b, kb)| (&ka.since.0, &a.uid).cmp(&(&kb.since.0, &b.uid)));
    kept
}

/// Bytes of kept data in a reservation.
pub fn bytes(status: &DiskReservationStatus) -> u64 {
    ledger::kept_bytes(&status.volumes)
}

/// Bytes of a reservation that volumes and refinements can have: free bytes, and the bytes of kept data.
pub fn available(status: &DiskReservationStatus) -> u64 {
    holder::free(status).saturating_add(bytes(status))
}

/// The volume that brings kept data back under that name.
pub fn undeleted(
    name: &str,
    entry: &LedgerEntry,
    reservation: &DiskReservation,
) -> Result<SharedPersistentVolume, String> {
    let kept =
        entry.kept.as_deref().ok_or_else(|| format!("the data of volume {} is not kept", entry.name))?;
    let mut spec = kept.spec.clone();
    (spec["role"], spec["reservation"]) = (json!(entry.role), json!(reservation.name_any()));
    spec["recover"] = json!(Recover { uid: entry.uid.clone() });
    let spec = serde_json::from_value(spec).map_err(|error| {
        format!(
            "the spec of volume {} was written by another version, and its data stays: {error}",
            entry.name
        )
    })?;
    let mut volume = SharedPersistentVolume::new(name, spec);
    let mut labels = kept.labels.clone();
    // The PersistentVolumeClaim for which the volume was made is gone (P4).
    labels.retain(|key, _| key != LABEL_PVC_UID && key != LABEL_CLAIM_NAMESPACE);
    volume.metadata.labels = Some(labels).filter(|labels| !labels.is_empty());
    let made_for = kept.made_for.iter().map(|of| (ANNOTATION_MADE_FOR.to_owned(), of.clone()));
    volume.metadata.annotations = Some(made_for.collect()).filter(|all: &BTreeMap<_, _>| !all.is_empty());
    Ok(volume)
}

/// The volume that ends kept data: it recovers the data and retires.
pub fn erasing(
    entry: &LedgerEntry,
    reservation: &DiskReservation,
    now: Timestamp,
) -> Result<SharedPersistentVolume, String> {
    let short: String = entry.name.chars().take(200).collect();
    // A name that nobody can foretell, and so nobody can take.
    let name = format!("{short}-erase-{:x}", stable_hash(&format!("{} {}", entry.uid, now.as_nanosecond())));
    let mut volume = undeleted(&name, entry, reservation)?;
    (volume.spec.retire, volume.spec.keep_for, volume.metadata.labels) = (true, None, None);
    Ok(volume)
}

/// True if the volume recovers data only to erase it.
pub fn is_erasing(volume: &SharedPersistentVolume) -> bool {
    volume.spec.retire && volume.spec.recover.is_some() && until(volume, Timestamp::UNIX_EPOCH).is_none()
}

/// Kept data whose time is over, or that is to be erased.
#[derive(Debug, PartialEq)]
pub struct Due {
    /// UID of the destroyed volume.
    pub uid: String,
    /// The volume that erases the data; `None` on a disk that was declared gone, where nothing can be erased.
    pub volume: Option<SharedPersistentVolume>,
    /// The event.
    pub event: String,
}

/// The kept data that is to be erased now, the oldest first: data whose time is over, and as much as `wanted` free bytes
/// need. Nothing is erased for bytes that all kept data together does not have.
///
/// The time is over when both the controller's and the node's clock say so. A clock that is ahead erases nothing early.
/// `volumes` were listed while the reservation did not change.
pub fn due(
    reservation: &DiskReservation,
    disk: Option<&NodeDisk>,
    volumes: &[SharedPersistentVolume],
    wanted: Wanted,
    now: Timestamp,
) -> Vec<Due> {
    let status = reservation.status.clone().unwrap_or_default();
    let leaves = |uid: &str| volumes.iter().any(|volume| leaves(volume, uid));
    let leaving = status.volumes.iter().filter(|entry| leaves(&entry.uid));
    let leaving: Vec<LedgerEntry> = leaving.cloned().collect();
    let mut kept = entries(&status);
    kept.retain(|(entry, _)| !leaving.contains(entry));
    let is_gone = disk.is_some_and(|disk| disk.spec.gone);
    if is_gone {
        // Nobody can bring the data back, since the disk cannot be taken back (D4).
        let left = |(entry, kept): (&LedgerEntry, &Kept)| Due {
            uid: entry.uid.clone(),
            volume: None,
            event: format!(
                "the data of volume {} ({}), which was destroyed at {}, is given up and was not erased: its disk was declared \
                 gone",
                entry.name, entry.uid, kept.since.0
            ),
        };
        return kept.into_iter().map(left).collect();
    }
    let is_over = |(entry, kept): &(&LedgerEntry, &Kept)| {
        let orphans = disk.and_then(|disk| disk.status.as_ref()).map_or(&[][..], |status| &status.orphans);
        let on_disk = orphans.iter().find(|orphan| orphan.uid == entry.uid).and_then(|o| o.kept.as_ref());
        kept.until.0 <= now && on_disk.is_some_and(|kept| kept.over)
    };
    let (over, rest): (Vec<_>, Vec<_>) = kept.into_iter().partition(is_over);
    let size = |(entry, _): &(&LedgerEntry, &Kept)| entry.size.bytes_or_zero();
    let will_be_free = holder::free(&status)
        .saturating_add(ledger::total(&leaving))
        .saturating_add(over.iter().map(size).fold(0, u64::saturating_add));
    let mut short = wanted.bytes.saturating_sub(will_be_free);
    if rest.iter().map(size).fold(0, u64::saturating_add) < short {
        short = 0;
    }
    let mut wanted_place = wanted.place.filter(|role| {
        let is_of = |entry: &&LedgerEntry| entry.role == *role;
        !leaving.iter().chain(over.iter().map(|(entry, _)| *entry)).any(|entry| is_of(&entry))
    });
    let mut made = Vec::new();
    let mut add = |(entry, kept): &(&LedgerEntry, &Kept), why: &str| {
        let name = &entry.name;
        let event = format!(
            "the data of volume {name} ({}), which was destroyed at {} and kept until {}, is erased: {why}",
            entry.uid, kept.since.0, kept.until.0
        );
        let uid = entry.uid.clone();
        made.extend(erasing(entry, reservation, now).map(|volume| Due { uid, volume: Some(volume), event }));
    };
    over.iter().for_each(|entry| add(entry, "its time is over"));
    for entry in &rest {
        let has_place = wanted_place.as_ref() == Some(&entry.0.role);
        if short > 0 || has_place {
            let what = if short > 0 { "bytes" } else { "place in its list" };
            add(entry, &format!("its reservation needs the {what}"));
            short = short.saturating_sub(size(entry));
            wanted_place = wanted_place.filter(|_| !has_place);
        }
    }
    made
}

/// Free space that somebody waits for in a reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Free bytes.
    pub bytes: u64,
    /// The role that also needs a place in the list of the reservation (A8).
    pub place: Option<String>,
}

/// True if the bytes of the entry with that UID are about to be free: its volume is on the way to its erasure, or a
/// volume is there that erases this kept data.
fn leaves(volume: &SharedPersistentVolume, uid: &str) -> bool {
    let status = volume.status.clone().unwrap_or_default();
    let unused = status.claims.is_empty() && status.user_count == 0;
    let ends = volume.spec.retire || volume.metadata.deletion_timestamp.is_some();
    let is_kept = match status.destroy.filter(|destroy| destroy.tombstone.is_some()) {
        Some(destroy) => destroy.kept_until.is_some(),
        None => until(volume, Timestamp::UNIX_EPOCH).is_some(),
    };
    let own = volume.metadata.uid.as_deref() == Some(uid);
    let erases = is_erasing(volume) && volume.spec.recover.as_ref().is_some_and(|recover| recover.uid == uid);
    own && ends && unused && !is_kept || erases
}

/// The pause before the next look at the kept data of a reservation.
pub fn next_look(reservation: &DiskReservation, now: Timestamp) -> Option<Duration> {
    let status = reservation.status.as_ref()?;
    let earliest = entries(status).into_iter().map(|(_, kept)| kept.until.0).min()?;
    let left = Duration::try_from(earliest.duration_since(now)).unwrap_or_default();
    Some(left.clamp(OVERDUE, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BackingState, Destroy, KeptOnDisk, Orphan, VolumeMode};
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
        v.metadata.labels =
            Some([("app", "a"), (LABEL_PVC_UID, "u")].map(|(k, v)| (k.into(), v.into())).into());
        let status = v.status.as_mut().unwrap();
        status.destroy = Some(Destroy { tombstone: some_time(), kept_until: later(), ..Default::default() });
        status.node.as_mut().unwrap().size = Some(gi(3));
        let mark = mark(&v).unwrap();
        let fields = mark.spec.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            fields,
            ["gid", "keepFor", "shared", "size", "volumeMode"],
            "A8: no field has its default"
        );
        let mut r = reserved("r", "eng", 10, &[("v", 3), ("w", 1)]);
        let entries = marked(&r, "uid-v", &mark);
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
        r.status.as_mut().unwrap().volumes = marked(&r, "uid-a-0", &mark);
        r.status.as_mut().unwrap().volumes = marked(&r, "uid-b-1", &mark);
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
        Wanted { bytes: gib << 30, place: None }
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
        // Bytes that are about to be free count.
        let mut live = ready_volume("live", "eng", true);
        live.spec.retire = true;
        let gone =
            |live: &SharedPersistentVolume| ends(&r, None, std::slice::from_ref(live), free(4), 10).len();
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
        let ends =
            |disk: Option<NodeDisk>, second| ends(&r, disk.as_ref(), &[], Wanted::default(), second).len();
        assert_eq!(ends(Some(on_disk(true)), 60), 1);
        assert_eq!(ends(Some(on_disk(true)), 59), 0, "the controller's clock");
        assert_eq!(ends(Some(on_disk(false)), 61), 0, "the node's clock");
        assert_eq!(ends(None, 61), 0);
        // Kept data that is over is erased anyway, and gives its bytes and its place.
        let both = with_kept(&[("a", 0, 60), ("b", 50, 99)]);
        for wanted in [free(9), Wanted { place: Some("eng".into()), ..free(0) }] {
            let ends = super::tests::ends(&both, Some(&on_disk(true)), &[], wanted, 61);
            assert_eq!(ends, ["uid-a-0"]);
        }
        assert_eq!(next_look(&r, at(0)), Some(Duration::from_secs(60)));
        assert_eq!(next_look(&r, at(70)), Some(OVERDUE));
        assert_eq!(next_look(&reserved("r", "eng", 1, &[("v", 1)]), at(0)), None);
    }

    #[test]
    fn x8_the_mark_needs_a_tombstone_with_an_end() {
        let mut v = ready_volume("v", "eng", true);
        v.spec.keep_for = Some("60s".into());
        v.status.as_mut().unwrap().node.as_mut().unwrap().backing = BackingState::Kept;
        assert_eq!(mark(&v), None);
        v.status.as_mut().unwrap().destroy = Some(Destroy { tombstone: some_time(), ..Default::default() });
        assert_eq!(mark(&v), None);
    }
}
