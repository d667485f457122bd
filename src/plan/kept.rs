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

/// The end of the data of a volume that is destroyed after its last use (X5, X8, F5); `None`: it is not to be destroyed.
pub fn fate(volume: &SharedPersistentVolume) -> Option<String> {
    if !volume.is_ending() {
        return None;
    }
    let spec = &volume.spec;
    let keep_for = spec.keep_for.as_ref().filter(|_| until(volume, Timestamp::UNIX_EPOCH).is_some());
    let data = match (&spec.adopt, keep_for, &spec.copy_of) {
        (Some(adopted), ..) => format!("; {} stays as it is", adopted.path),
        (None, Some(keep_for), _) => {
            format!("; its data is kept for {keep_for}, or until its reservation needs the bytes")
        }
        (None, None, Some(of)) => {
            format!(", and its data with it, unless volume {} has it: copy first what is needed", of.name)
        }
        (None, None, None) => ", and its data with it: copy first what is needed".to_owned(),
    };
    Some(format!("volume {} is destroyed after its last use{data}", volume.name_any()))
}

/// The end of the time for which the volume's data is kept, if the volume is destroyed now; `None`: the data is erased.
pub fn until(volume: &SharedPersistentVolume, now: Timestamp) -> Option<Time> {
    let keep_for = volume.spec.keep_for.as_deref().filter(|_| volume.spec.adopt.is_none())?;
    // Admission refuses any other text. If such a text is there all the same, the data is kept.
    let keep_for = keep::parse(keep_for).unwrap_or(SignedDuration::from_hours(8784));
    let until = now.checked_add(keep_for).unwrap_or(Timestamp::MAX);
    (!keep_for.is_zero()).then(|| condition::stored(until))
}

/// The entry that an ended volume leaves in the ledger of its reservation, in the place of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// UID of the data.
    pub data: String,
    /// The mark of kept data (X8); `None`: the data is an orphan (X6).
    pub mark: Option<Kept>,
}

/// The entry of a destroyed volume's data; `None`: the data is not kept.
pub fn left(volume: &SharedPersistentVolume) -> Option<Left> {
    let destroy = volume.status.as_ref()?.destroy.as_ref()?;
    let mark = mark(volume, destroy.tombstone.clone()?, destroy.kept_until.clone()?);
    Some(Left { data: volume.uid().unwrap_or_default(), mark: Some(mark) })
}

/// The entry that an unplaced volume gives back when it ends: that of the data to recover, which is still on its disk (S3).
/// `None`: there is none to give back.
///
/// The deletion counts for the data. `has_heir`: [`has_heir`] by live reads.
pub fn left_unplaced(volume: &SharedPersistentVolume, has_heir: bool, now: Timestamp) -> Option<Left> {
    let recover = volume.spec.recover.as_ref().filter(|_| !has_heir)?;
    let now = condition::stored(now);
    let until = until(volume, now.0).or_else(|| is_erasing(volume).then(|| now.clone()));
    Some(Left { data: recover.uid.clone(), mark: until.map(|until| mark(volume, now, until)) })
}

/// True if another volume has the data that the volume was to recover, or has an entry for that data.
pub fn has_heir(
    volume: &SharedPersistentVolume,
    volumes: &[SharedPersistentVolume],
    reservations: &[DiskReservation],
) -> bool {
    let Some(Recover { uid: data }) = &volume.spec.recover else { return false };
    volumes.iter().filter(|other| other.metadata.uid != volume.metadata.uid).any(|other| {
        let uid = other.metadata.uid.as_deref().unwrap_or_default();
        let is_placed = other.status.as_ref().is_some_and(|status| status.reservation.is_some());
        let inherits = other.spec.recover.as_ref().is_some_and(|recover| recover.uid == *data);
        let has_entry = || reservations.iter().any(|r| holder::held_by_volume(r, uid).is_some());
        uid == data || inherits && (is_placed || has_entry())
    })
}

/// The mark of the volume's data.
fn mark(volume: &SharedPersistentVolume, since: Time, until: Time) -> Kept {
    let status = volume.status.clone().unwrap_or_default();
    let size = status.node.and_then(|node| node.size).or(status.size);
    let spec = SharedPersistentVolumeSpec {
        role: String::new(),
        size: size.unwrap_or_else(|| volume.spec.size.clone()),
        reservation: None,
        retire: false,
        principal: None,
        ..volume.spec.clone()
    };
    // An absent field has its default.
    let default = json!(SharedPersistentVolumeSpec::default());
    let mut fields: Map<String, Value> = serde_json::from_value(json!(spec)).unwrap_or_default();
    fields.retain(|key, value| key == "size" || default[key.as_str()] != *value);
    Kept {
        since,
        until,
        made_for: volume.annotations().get(ANNOTATION_MADE_FOR).filter(|of| of.len() <= 400).cloned(),
        labels: volume.labels().clone(),
        spec: fields.into(),
    }
}

/// The entries of the reservation's ledger, with what the volume of that UID left in the place of its entry. Too many
/// labels are omitted.
pub fn with_left(reservation: &DiskReservation, uid: &str, left: &Left) -> Vec<LedgerEntry> {
    let mut entries = reservation.status.clone().unwrap_or_default().volumes;
    let bytes = |kept: &Kept| kept.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let others = entries.iter().filter(|entry| entry.uid != uid);
    let others: usize = others.filter_map(|entry| entry.kept.as_deref()).map(bytes).sum();
    if let Some(entry) = entries.iter_mut().find(|entry| entry.uid == uid) {
        let mut mark = left.mark.clone();
        if let Some(mark) = mark.as_mut().filter(|mark| others + bytes(mark) > MOST_LABELS) {
            mark.labels.clear();
        }
        entry.uid.clone_from(&left.data);
        entry.kept = mark.map(Box::new);
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

/// True for kept data of an earlier volume of the volume's name, or of an earlier PersistentVolumeClaim of the name that the volume
/// is made for. Such data does not give way to that volume: whoever makes again by mistake what was deleted by mistake, such as
/// a StatefulSet or a program that applies a repository, may want the data back.
pub fn is_of_namesake(entry: &LedgerEntry, kept: &Kept, volume: &SharedPersistentVolume) -> bool {
    let made_for = volume.annotations().get(ANNOTATION_MADE_FOR);
    entry.name == volume.name_any() || made_for.is_some() && made_for == kept.made_for.as_ref()
}

/// Kept data in the reservations that does not give way to the volume.
pub fn of_namesakes<'a>(
    volume: &SharedPersistentVolume,
    reservations: impl IntoIterator<Item = &'a DiskReservation>,
) -> Vec<(&'a DiskReservation, &'a LedgerEntry, &'a Kept)> {
    let all =
        reservations.into_iter().flat_map(|r| r.status.iter().flat_map(entries).map(move |(e, k)| (r, e, k)));
    all.filter(|(_, entry, kept)| is_of_namesake(entry, kept, volume)).collect()
}

/// UIDs of the kept data in a reservation that does not give way to the volume.
pub fn spared(volume: &SharedPersistentVolume, reservation: &DiskReservation) -> Vec<String> {
    of_namesakes(volume, [reservation]).into_iter().map(|(_, entry, _)| entry.uid.clone()).collect()
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
    let rest: Vec<_> = rest.into_iter().filter(|(entry, _)| !wanted.spared.contains(&entry.uid)).collect();
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
    /// UIDs of kept data that stays ([`is_of_namesake`]).
    pub spared: Vec<String>,
}

/// True if the bytes of the entry with that UID are about to be free: its volume is on the way to its erasure, or a
/// volume is there that erases this kept data.
fn leaves(volume: &SharedPersistentVolume, uid: &str) -> bool {
    let status = volume.status.clone().unwrap_or_default();
    let unused = status.claims.is_empty() && status.user_count == 0;
    let is_kept = match status.destroy.filter(|destroy| destroy.tombstone.is_some()) {
        Some(destroy) => destroy.kept_until.is_some(),
        None => until(volume, Timestamp::UNIX_EPOCH).is_some(),
    };
    let own = volume.metadata.uid.as_deref() == Some(uid);
    let erases = is_erasing(volume) && volume.spec.recover.as_ref().is_some_and(|recover| recover.uid == uid);
    own && volume.is_ending() && unused && !is_kept || erases
}

/// The pause before the next look at the kept data of a reservation.
pub fn next_look(reservation: &DiskReservation, now: Timestamp) -> Option<Duration> {
    let status = reservation.status.as_ref()?;
    let earliest = entries(status).into_iter().map(|(_, kept)| kept.until.0).min()?;
    let left = Duration::try_from(earliest.duration_since(now)).unwrap_or_default();
    Some(left.clamp(OVERDUE, LONGEST))
}

#[cfg(test)]
mod tests;
