//! Volumes that are born in their place: until the status has a place, the ledger with the entry is the place (V1).
//!
//! The volume of a PersistentVolumeClaim of a class names its reservation from its creation on, and the node of that
//! reservation in an annotation. So its entry can be in one ledger only. The agent of the node watches the ledgers of its
//! node, and makes the volume as soon as the entry is there. The controller writes the place together with the first report of
//! the node. Three rules keep S2, S3 and X4:
//!
//! - The entry of a volume without a place in its status stays as it is until the volume is being deleted. So an entry from a
//!   watch is there still, if the volume was read live after it and is not being deleted.
//! - A volume that is deleted without a place gets its place first, if a ledger that was read after the DELETE has the entry:
//!   the node may have bytes of the volume ([`super::destroy`]).
//! - The place is written alone after two seconds. A lost event, or an agent of an earlier version, costs no more than that.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, BACKED};
use crate::api::{
    ANNOTATION_BORN_ON, DiskReservation, DiskReservationStatus, LedgerEntry, PVC_PREFIX, Reserved,
    SharedPersistentVolume, SharedPersistentVolumeStatus, Size, UidRef, VolumePhase,
};

use super::holder::held_by_volume;
use super::{create, debounce, undivided};

/// The volume for the reservation of that name, as the controller creates it.
pub fn born_in(
    mut volume: SharedPersistentVolume,
    reservation: String,
    reservations: &[&DiskReservation],
) -> SharedPersistentVolume {
    let chosen = reservations.iter().find(|of| of.metadata.name.as_ref() == Some(&reservation));
    if let Some(node) = chosen.and_then(|of| of.status.as_ref()?.node_name.clone()) {
        volume.annotations_mut().insert(ANNOTATION_BORN_ON.to_owned(), node);
    }
    volume.spec.reservation = Some(reservation);
    volume
}

/// The node on which a volume without a place in its status may be born.
pub fn node(volume: &SharedPersistentVolume) -> Option<&str> {
    let spec = &volume.spec;
    let is_placed = volume.status.as_ref().is_some_and(|status| status.reservation.is_some());
    let is_new = spec.recover.is_none() && spec.adopt.is_none() && spec.copy_of.is_none();
    let is_named = spec.reservation.is_some();
    let on = volume.annotations().get(ANNOTATION_BORN_ON);
    on.filter(|_| is_new && is_named && !is_placed).map(String::as_str)
}

/// The name of the only reservation that can have an entry of the volume: that of its creation, if the controller chose it.
pub fn only_place(volume: &SharedPersistentVolume) -> Option<&str> {
    let is_born = volume.annotations().contains_key(ANNOTATION_BORN_ON);
    volume.spec.reservation.as_deref().filter(|_| is_born)
}

/// True if the volume may be born in the reservation, whose ledger has its entry.
pub fn has_entry(volume: &SharedPersistentVolume, reservation: &DiskReservation) -> bool {
    node(volume).is_some()
        && volume.spec.reservation == reservation.metadata.name
        && held_by_volume(reservation, &volume.uid().unwrap_or_default()).is_some()
}

/// The status of a volume without a place, with its place in the reservation that has its entry.
pub fn placed(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    reservations: &[Arc<DiskReservation>],
) -> SharedPersistentVolumeStatus {
    let uid = volume.uid().unwrap_or_default();
    let wanted = || create::entry(volume).map_or(0, |entry| entry.size.bytes_or_zero());
    let size = held_by_volume(reservation, &uid).unwrap_or_else(wanted);
    let has = reservation.status.clone().unwrap_or_default();
    let mut status = SharedPersistentVolumeStatus {
        phase: VolumePhase::Creating,
        size: Some(Size::from_bytes(undivided::of_reservation(reservation, size))),
        disk_kind: has.disk_kind,
        node_name: has.node_name,
        node_disk: has.node_disk,
        reservation: Some(UidRef {
            name: reservation.name_any(),
            uid: reservation.uid().unwrap_or_default(),
        }),
        ..volume.status.clone().unwrap_or_default()
    };
    status.reserved = reserved_chain(&status, reservations).unwrap_or_default();
    status
}

/// The most bytes of a reservation chain's labels in the status of each volume (A8).
pub(super) const MOST_LABELS: usize = 16 << 10;

/// The volume's reservation and its ancestors, if the caches have all of them (X6).
pub(super) fn reserved_chain(
    status: &SharedPersistentVolumeStatus,
    reservations: &[Arc<DiskReservation>],
) -> Option<Vec<Reserved>> {
    let (mut found, mut space) = (Vec::new(), MOST_LABELS);
    let mut next = status.reservation.clone();
    while let Some(UidRef { name, uid }) = next {
        let there = reservations.iter().find(|r| r.uid().as_ref() == Some(&uid))?;
        let has = there.status.clone().unwrap_or_default();
        let mut labels = there.labels().clone();
        labels.retain(|key, value| {
            let bytes = key.len() + value.len();
            let fits = bytes <= space;
            space -= if fits { bytes } else { 0 };
            fits
        });
        found.push(Reserved {
            name,
            role: there.spec.role.clone(),
            size: has.size.unwrap_or_else(|| there.spec.size.clone()),
            labels,
        });
        next = has.parent;
    }
    Some(found)
}

/// The status of a volume without a place, with the place in `placed` and nothing else of that.
pub fn with_place_of(
    placed: &SharedPersistentVolumeStatus,
    volume: &SharedPersistentVolume,
) -> SharedPersistentVolumeStatus {
    let SharedPersistentVolumeStatus { size, disk_kind, node_name, node_disk, reservation, reserved, .. } =
        placed.clone();
    let status = volume.status.clone().unwrap_or_default();
    SharedPersistentVolumeStatus { size, disk_kind, node_name, node_disk, reservation, reserved, ..status }
}

/// True if the node is about to make the volume, whose place is then written together with the node's report. `placed` is the
/// status with the place.
pub fn is_awaited(
    volume: &SharedPersistentVolume,
    placed: &SharedPersistentVolumeStatus,
    now: Timestamp,
) -> bool {
    let has_reported = placed.node.is_some() || condition::get(&placed.conditions, BACKED).is_some();
    let is_there = node(volume).is_some_and(|node| placed.node_name.as_deref() == Some(node));
    is_there && !has_reported && debounce::is_passing(volume.metadata.creation_timestamp.as_ref(), now)
}

/// The volume with its place, if it may be born on the node; `None`: the node has nothing to do. The ledgers are older than the
/// volume, which was read live.
pub fn on_node(
    volume: SharedPersistentVolume,
    on: &str,
    ledgers: &[Arc<DiskReservation>],
) -> Option<SharedPersistentVolume> {
    if node(&volume) != Some(on) || volume.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let reservation = ledgers.iter().find(|ledger| has_entry(&volume, ledger))?;
    let status = placed(&volume, reservation, ledgers);
    // The record of the volume has the whole chain of its reservations (X6).
    let is_whole = status.node_name.as_deref() == Some(on) && !status.reserved.is_empty();
    is_whole.then_some(SharedPersistentVolume { status: Some(status), ..volume })
}

/// The part of a reservation that its agent keeps.
pub fn ledger(mut reservation: DiskReservation) -> DiskReservation {
    reservation.metadata.annotations = None;
    if let Some(status) = reservation.status.take() {
        let DiskReservationStatus { node_disk, node_name, disk_kind, size, parent, mut volumes, .. } = status;
        volumes.retain(|entry| entry.kept.is_none() && entry.name.starts_with(PVC_PREFIX));
        reservation.status = Some(DiskReservationStatus {
            node_disk,
            node_name,
            disk_kind,
            size,
            parent,
            volumes,
            ..Default::default()
        });
    }
    reservation
}

/// The names of the volumes whose entries the ledger has since the change. An agent that starts looks for no volume that is yet to be
/// born: the controller writes its place.
pub fn entered<'a>(
    before: Option<&DiskReservation>,
    now: Option<&'a DiskReservation>,
) -> impl Iterator<Item = &'a str> {
    fn entries(of: Option<&DiskReservation>) -> &[LedgerEntry] {
        of.and_then(|of| of.status.as_ref()).map_or(&[], |status| &status.volumes)
    }
    let had: HashSet<String> = entries(before).iter().map(|entry| entry.uid.clone()).collect();
    let now = if before.is_some() { entries(now) } else { &[] };
    now.iter().filter(move |entry| !had.contains(&entry.uid)).map(|entry| entry.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Adopt, Recover};
    use crate::plan::testing::{gi, reserved, some_time, volume};

    /// The reservation with the entry of the volume, and the volume as it is created.
    fn born() -> (Arc<DiskReservation>, SharedPersistentVolume) {
        let r = reserved("r", "eng", 10, &[("pvc-u", 2), ("other", 1)]);
        let v = born_in(volume("pvc-u", "eng", 3), "r".into(), &[&r]);
        (Arc::new(ledger(r)), v)
    }

    #[test]
    fn s2_a_node_makes_what_its_ledgers_have() {
        let (r, v) = born();
        let there = |v: &SharedPersistentVolume, on, ledgers: &[&Arc<DiskReservation>]| {
            let ledgers: Vec<_> = ledgers.iter().map(|ledger| Arc::clone(ledger)).collect();
            on_node(v.clone(), on, &ledgers).map(|v| v.status.unwrap())
        };
        let status = there(&v, "n1", &[&r]).unwrap();
        assert_eq!(
            (status.size, status.node_disk.as_deref()),
            (Some(gi(2)), Some("n1.a")),
            "its entry decides"
        );
        assert_eq!(status.reservation.map(|of| of.uid).as_deref(), Some("uid-r"));
        let changed = |change: fn(&mut SharedPersistentVolume)| {
            let mut v = v.clone();
            change(&mut v);
            v
        };
        for (v, why) in [
            (changed(|v| v.metadata.uid = Some("earlier".into())), "another volume has the entry"),
            (changed(|v| v.metadata.deletion_timestamp = some_time()), "S3"),
            (changed(|v| v.metadata.annotations = None), "it may be placed elsewhere"),
            (changed(|v| v.spec.reservation = Some("q".into())), "it is placed elsewhere"),
            (changed(|v| v.spec.recover = Some(Recover::default())), "X6: its data has to be looked for"),
            (changed(|v| v.spec.adopt = Some(Adopt::default())), "V8"),
            (changed(|v| v.status = Some(placed(v, &reserved("q", "eng", 1, &[]), &[]))), "it has a place"),
        ] {
            assert_eq!(there(&v, "n1", &[&r]), None, "{why}");
        }
        assert_eq!(there(&v, "n2", &[&r]), None);
        assert_eq!(there(&v, "n1", &[]), None);
        let mut refinement = (*r).clone();
        refinement.status.as_mut().unwrap().parent = Some(UidRef { name: "p".into(), uid: "uid-p".into() });
        let refinement = Arc::new(refinement);
        assert_eq!(there(&v, "n1", &[&refinement]), None, "X6: the record has all reservations");
        let parent = Arc::new(ledger(reserved("p", "eng", 20, &[])));
        assert_eq!(there(&v, "n1", &[&refinement, &parent]).map(|status| status.reserved.len()), Some(2));
    }

    #[test]
    fn an_agent_hears_of_new_entries_of_pvcs() {
        let (r, _) = born();
        let empty = ledger(reserved("r", "eng", 10, &[]));
        let names = |before, now| entered(before, now).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(names(Some(&empty), Some(&*r)), ["pvc-u"]);
        assert!(names(Some(&*r), Some(&*r)).is_empty() && names(Some(&*r), None).is_empty());
        assert!(names(None, Some(&*r)).is_empty(), "an agent that starts");
    }
}
