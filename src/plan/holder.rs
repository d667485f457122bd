//! The objects that have a ledger, behind one trait (S1).

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::core::object::HasStatus;

use crate::api::condition::{self, READY, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, LedgerEntry, NodeDisk, NodeDiskStatus, ReservationPhase,
    Reserved, RoleOnDisk, SharedPersistentVolume, Size, VolumeRole, VolumeRoleStatus,
};

use super::ledger::{self, Ledger};
use super::{orphans, quota, undivided};

/// An object that has a ledger of `Held` objects.
pub trait Holder<Held>: HasStatus {
    /// The ledger.
    fn ledger(&self) -> Ledger<'_>;
    /// The status with these entries and with the sums of these entries, for one write.
    fn with_entries(&self, entries: Vec<LedgerEntry>) -> Self::Status;
    /// True if an entry of `held` belongs into this ledger. `parent` is the role of the reservation that `held` was
    /// carved out of.
    fn belongs(&self, held: &Held, parent: Option<&str>) -> bool;
    /// The largest permitted entry of a `held` object that requests `asked` bytes.
    fn at_most(&self, held: &Held, asked: u64) -> u64;
    /// True if the ledger may have lost entries. Then its first entry is written together with those of all that it
    /// [`lacks`](Self::lacks).
    fn is_new(&self) -> bool {
        false
    }
    /// True if a new ledger lacks the entry of `held`.
    fn lacks(&self, _held: &Held) -> bool {
        false
    }
}

impl Holder<DiskReservation> for NodeDisk {
    /// Bytes of an orphan are held back for the orphan's reservation (X6).
    fn ledger(&self) -> Ledger<'_> {
        let kept = |status| orphans::kept(status, |_| true);
        self.status.as_ref().map_or(Ledger::new(&[], 0), |status| on_disk(status, kept(status)))
    }

    fn with_entries(&self, reservations: Vec<LedgerEntry>) -> NodeDiskStatus {
        let status = NodeDiskStatus { reservations, ..self.status.clone().unwrap_or_default() };
        let ledger = on_disk(&status, orphans::kept(&status, |_| true));
        NodeDiskStatus {
            reserved: Some(Size::from_bytes(ledger.total())),
            free: Some(Size::from_bytes(ledger.free())),
            roles: roles_on_disk(&status.reservations),
            ..status
        }
    }

    fn belongs(&self, reservation: &DiskReservation, _: Option<&str>) -> bool {
        let on = reservation.status.as_ref().and_then(|s| s.node_disk.as_ref());
        let stays = || !(self.spec.gone && has_lost_place(reservation));
        reservation.spec.parent.is_none() && on.map_or_else(stays, |on| *on == self.name_any())
    }

    fn at_most(&self, _: &DiskReservation, asked: u64) -> u64 {
        if asked == 0 { 0 } else { undivided::of_disk(self, asked) }
    }

    /// The ledger of a NodeDisk that was made anew has no entry (X9).
    fn is_new(&self) -> bool {
        self.status.as_ref().is_none_or(|status| status.reservations.is_empty())
    }

    fn lacks(&self, reservation: &DiskReservation) -> bool {
        is_on(reservation, self)
            && self.ledger().get(reservation.metadata.uid.as_deref().unwrap_or_default()).is_none()
    }
}

/// True if the reservation has its bytes from that very disk, and from no other reservation.
pub fn is_on(reservation: &DiskReservation, disk: &NodeDisk) -> bool {
    let status = reservation.status.as_ref();
    reservation.spec.parent.is_none()
        && status.is_some_and(|s| {
            s.node_disk == disk.metadata.name && s.disk_id.as_ref() == Some(&disk.spec.disk_id)
        })
}

/// True if the reservation has no place, and said so after its disk had gone with its node (D7). Whoever took an entry for it
/// before that cannot report the bytes any more, because the reservation has changed since.
fn has_lost_place(reservation: &DiskReservation) -> bool {
    let is_placed = reservation.status.as_ref().is_some_and(|status| status.node_disk.is_some());
    !is_placed && says_node_gone(reservation)
}

/// True if the reservation reports that its disk has gone with its node.
pub fn says_node_gone(reservation: &DiskReservation) -> bool {
    let conditions = reservation.status.as_ref().map_or(&[][..], |status| &status.conditions);
    condition::get(conditions, READY).is_some_and(|ready| ready.reason == reason::NODE_GONE)
}

/// True if `parent` is the reservation that the other is, or is to be, carved out of.
pub fn is_parent(parent: &DiskReservation, refinement: &DiskReservation) -> bool {
    let is = refinement.status.as_ref().and_then(|status| status.parent.as_ref());
    refinement.spec.parent.is_some()
        && refinement.spec.parent == parent.metadata.name
        && is.is_none_or(|is| Some(&is.uid) == parent.metadata.uid.as_ref())
}

/// The ledger of a reservation's refinements (R4).
impl Holder<DiskReservation> for DiskReservation {
    fn ledger(&self) -> Ledger<'_> {
        self.status.as_ref().map_or(Ledger::new(&[], 0), refinements).of_role(&self.spec.role)
    }

    fn with_entries(&self, refinements: Vec<LedgerEntry>) -> DiskReservationStatus {
        with_sums(DiskReservationStatus { refinements, ..self.status.clone().unwrap_or_default() })
    }

    fn belongs(&self, refinement: &DiskReservation, _: Option<&str>) -> bool {
        is_parent(self, refinement) && !(says_node_gone(self) && has_lost_place(refinement))
    }

    fn at_most(&self, _: &DiskReservation, asked: u64) -> u64 {
        if asked == 0 { 0 } else { undivided::of_reservation(self, asked) }
    }
}

/// The ledger of a reservation's volumes (V1).
impl Holder<SharedPersistentVolume> for DiskReservation {
    fn ledger(&self) -> Ledger<'_> {
        self.status.as_ref().map_or(Ledger::new(&[], 0), volumes).of_role(&self.spec.role)
    }

    fn with_entries(&self, volumes: Vec<LedgerEntry>) -> DiskReservationStatus {
        with_sums(DiskReservationStatus { volumes, ..self.status.clone().unwrap_or_default() })
    }

    fn belongs(&self, volume: &SharedPersistentVolume, _: Option<&str>) -> bool {
        let reservation = volume.status.as_ref().and_then(|s| s.reservation.as_ref());
        reservation.is_none_or(|reservation| Some(&reservation.uid) == self.metadata.uid.as_ref())
    }

    fn at_most(&self, _: &SharedPersistentVolume, asked: u64) -> u64 {
        undivided::of_reservation(self, asked)
    }
}

impl Holder<DiskReservation> for VolumeRole {
    fn ledger(&self) -> Ledger<'_> {
        let limit = self.spec.quota.limit.as_ref().map_or(u64::MAX, Size::bytes_or_zero);
        Ledger::new(self.status.as_ref().map_or(&[], |s| &s.reservations), limit).of_role(&self.spec.role)
    }

    fn with_entries(&self, reservations: Vec<LedgerEntry>) -> VolumeRoleStatus {
        let reserved = Some(Size::from_bytes(ledger::total(&reservations)));
        VolumeRoleStatus { reservations, reserved, ..self.status.clone().unwrap_or_default() }
    }

    fn belongs(&self, reservation: &DiskReservation, parent: Option<&str>) -> bool {
        quota::charges(&self.spec.role, &reservation.spec.role, parent)
    }

    /// A waiting reservation may be about to take all of an undivided disk or parent (D2). The role's ledger does not
    /// show that size, so the entry of a waiting reservation is not cut.
    fn at_most(&self, reservation: &DiskReservation, asked: u64) -> u64 {
        let waits = reservation.status.as_ref().is_none_or(|s| s.node_disk.is_none());
        if waits && asked > 0 { u64::MAX } else { asked }
    }
}

/// The ledger of a disk.
fn on_disk(status: &NodeDiskStatus, kept: u64) -> Ledger<'_> {
    let allocatable = status.allocatable.as_ref().map_or(0, Size::bytes_or_zero);
    Ledger::new(&status.reservations, allocatable.saturating_sub(kept))
}

/// The ledger of a disk for one reservation, to which bytes of its own orphans are free (X6).
pub fn ledger_for<'a>(disk: &'a NodeDisk, reservation: &DiskReservation) -> Ledger<'a> {
    let others = |of: &Reserved| !orphans::is_of(of, reservation);
    disk.status.as_ref().map_or(Ledger::new(&[], 0), |status| on_disk(status, orphans::kept(status, others)))
}

/// The ledger of a reservation's volumes, without the bytes of refinements (S1).
pub fn volumes(status: &DiskReservationStatus) -> Ledger<'_> {
    let size = size(status).saturating_sub(ledger::total(&status.refinements));
    Ledger::new(&status.volumes, size).beside(&status.refinements)
}

/// The ledger of a reservation's refinements, without the bytes of volumes (S1).
pub fn refinements(status: &DiskReservationStatus) -> Ledger<'_> {
    let size = size(status).saturating_sub(ledger::total(&status.volumes));
    Ledger::new(&status.refinements, size).beside(&status.volumes)
}

/// Bytes of a volume's entry in the ledger of a reservation.
pub fn held_by_volume(reservation: &DiskReservation, uid: &str) -> Option<u64> {
    reservation.status.as_ref().and_then(|status| volumes(status).get(uid))
}

/// Bytes that a reservation has now.
pub fn size(status: &DiskReservationStatus) -> u64 {
    status.size.as_ref().map_or(0, Size::bytes_or_zero)
}

/// Bytes of a reservation that volumes and refinements hold.
pub fn used(status: &DiskReservationStatus) -> u64 {
    ledger::total(&status.volumes).saturating_add(ledger::total(&status.refinements))
}

/// Bytes of a reservation that neither volumes nor refinements hold.
pub fn free(status: &DiskReservationStatus) -> u64 {
    size(status).saturating_sub(used(status))
}

/// True if volumes may be made in the reservation, and refinements carved out of it.
pub fn serves(reservation: &DiskReservation) -> bool {
    let phase = reservation.status.as_ref().map(|s| s.phase);
    phase == Some(ReservationPhase::Reserved) && reservation.metadata.deletion_timestamp.is_none()
}

/// The reservation's status with the sums of its ledgers.
pub fn with_sums(status: DiskReservationStatus) -> DiskReservationStatus {
    DiskReservationStatus {
        used: Some(Size::from_bytes(used(&status))),
        free: Some(Size::from_bytes(free(&status))),
        kept: Some(ledger::kept_bytes(&status.volumes)).filter(|bytes| *bytes > 0).map(Size::from_bytes),
        ..status
    }
}

/// The most roles of a disk that are listed (A8).
const MOST_ROLES: usize = 100;

/// Bytes that each role has reserved on a disk, by name (D1). Of too many roles, the largest are listed.
fn roles_on_disk(entries: &[LedgerEntry]) -> Vec<RoleOnDisk> {
    let mut by_role: BTreeMap<&str, Vec<LedgerEntry>> = BTreeMap::new();
    for entry in entries {
        by_role.entry(&entry.role).or_default().push(entry.clone());
    }
    let sum = |(role, entries): (&str, Vec<LedgerEntry>)| RoleOnDisk {
        role: role.to_owned(),
        reserved: Size::from_bytes(ledger::total(&entries)),
        reservations: u32::try_from(entries.len()).unwrap_or(u32::MAX),
    };
    let mut roles: Vec<RoleOnDisk> = by_role.into_iter().map(sum).collect();
    roles.sort_by_key(|role| std::cmp::Reverse(role.reserved.bytes_or_zero()));
    roles.truncate(MOST_ROLES);
    roles.sort_by(|a, b| a.role.cmp(&b.role));
    roles
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::api::condition::{self, DISK_HEALTHY, READY, Verdict, reason};
    use crate::api::{Destroy, Kept, Orphan};
    use crate::plan::kept;
    use crate::plan::list_share::{Entry, Full, MOST_ENTRIES};
    use crate::plan::testing::*;

    #[test]
    fn d1_what_each_role_has_on_a_disk_is_summed_up() {
        let entries =
            [ledger_entry("b", "ops", 7), ledger_entry("a", "eng", 10), ledger_entry("c", "eng", 5)];
        let roles = disk("n1.a", "n1", 30, &[]).with_entries(entries.to_vec()).roles;
        let found: Vec<_> =
            roles.iter().map(|r| (r.role.as_str(), r.reserved.as_str(), r.reservations)).collect();
        assert_eq!(found, [("eng", "15Gi", 2), ("ops", "7Gi", 1)]);
        assert!(disk("n1.a", "n1", 30, &[]).with_entries(vec![]).roles.is_empty());
    }

    /// The API server stores at most 1.5 MiB, of which managed fields have a part.
    #[test]
    fn a8_the_largest_object_with_a_ledger_is_below_a_mebibyte() {
        let long = |i: usize| format!("{i:a>253}");
        let entry = |i| LedgerEntry {
            kept: None,
            // The entry of a volume called pvc-UID has one, and is shorter.
            namespace: None,
            name: long(i),
            uid: format!("{i:0>36}"),
            role: long(i),
            size: Size::from_bytes(i64::MAX as u64),
            generation: Some(i64::MAX),
        };
        let entries: Vec<LedgerEntry> = (0..MOST_ENTRIES).map(entry).collect();
        let condition = Verdict::no(reason::DISK_REFUSED, "x".repeat(16 << 10));
        let orphan = Orphan { uid: long(0), problem: Some("x".repeat(8 << 10)), ..Default::default() };
        let mut disk = disk(&long(0), &long(0), 1, &[]);
        (disk.spec.disk_id, disk.spec.path) = (long(0), "x".repeat(4096));
        (disk.spec.key, disk.spec.key_proof) = (Some("x".repeat(64)), Some("x".repeat(128)));
        let mut status = disk.with_entries(entries.clone());
        (status.orphans, status.unlisted_orphans) = orphans::listed(vec![orphan; 2000], &entries);
        condition::set(&mut status.conditions, READY, condition.clone(), Some(1), Timestamp::UNIX_EPOCH);
        condition::set(
            &mut status.conditions,
            DISK_HEALTHY,
            condition.clone(),
            Some(1),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!((status.roles.len(), status.reservations.len()), (MOST_ROLES, 1000));
        disk.status = Some(status);
        let mut reservation = reserved(&long(0), &long(0), 1, &[]);
        reservation.spec.principal = Some("x".repeat(1024));
        reservation.spec.node_disk = Some(long(0));
        let status = reservation.status.as_mut().unwrap();
        (status.volumes, status.refinements) = (entries[..500].to_vec(), entries[500..].to_vec());
        let is_full = volumes(status).full(Entry::for_role(&long(1000))) == Some(Full::List);
        assert!(is_full, "both lists together");
        condition::set(&mut status.conditions, READY, condition.clone(), Some(1), Timestamp::UNIX_EPOCH);
        // X8: all volumes were destroyed, and are kept; the labels of all together are bounded.
        let mut kept = reservation.clone();
        let status = kept.status.as_mut().unwrap();
        (status.volumes, status.refinements) = (entries.clone(), vec![]);
        let mut volume = ready_volume("v", "eng", true);
        volume.spec = serde_json::from_value(json!({"role": "eng", "size": "9223372036854775805", "shared": {},
            "subRoles": "Deny", "volumeMode": "Block", "fsType": "btrfs", "gid": i32::MAX, "permissions": "3777",
            "mountOptions": ["noatime", "nodiratime", "strictatime", "noexec", "nosymfollow"],
            "erasePolicy": "Zero", "keepFor": "8784h0m0s"}))
        .unwrap();
        let destroy = Destroy { tombstone: some_time(), kept_until: later(), ..Default::default() };
        volume.status.as_mut().unwrap().destroy = Some(destroy);
        volume.metadata.labels = Some([("k".to_owned(), "x".repeat(31 << 10))].into());
        let mut mark = kept::left(&volume).unwrap().mark.unwrap();
        let with_mark = |kept: &DiskReservation, of: &LedgerEntry, mark: &Kept| {
            let left = kept::Left { data: of.uid.clone(), mark: Some(mark.clone()) };
            kept::with_left(kept, &of.uid, &left)
        };
        kept.status.as_mut().unwrap().volumes = with_mark(&kept, &entries[0], &mark);
        mark.labels = [("k".to_owned(), "x".repeat(2 << 10))].into();
        mark.labels = with_mark(&kept, &entries[1], &mark)[1].kept.clone().unwrap().labels;
        assert!(mark.labels.is_empty(), "too many labels");
        for entry in &mut kept.status.as_mut().unwrap().volumes[1..] {
            (entry.kept, entry.generation) = (Some(Box::new(mark.clone())), None);
        }
        let mut role = with_quota(volume_role(&long(0), &long(0)), Some(1), Some(1), &[]);
        role.status = Some(role.with_entries(entries));
        let bytes = [json!(disk), json!(reservation), json!(kept), json!(role)]
            .map(|object| object.to_string().len());
        assert!(bytes.iter().all(|bytes| *bytes < 1 << 20), "{bytes:?}");
    }

    #[test]
    fn s1_volumes_and_refinements_share_what_a_reservation_has() {
        let mut status = reserved("p", "eng", 10, &[("v", 3)]).status.unwrap();
        status.refinements = vec![ledger_entry("ml", "eng/ml", 2)];
        let gib = [used(&status), free(&status), volumes(&status).free(), refinements(&status).free()];
        assert_eq!(gib.map(|bytes| bytes >> 30), [5, 5, 5, 5]);
    }
}
