//! Orphans: bytes of data without an object. The bytes are held back for the reservation that the data lived in, and
//! for no other reservation (X6, S14).

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::json;

use crate::api::{
    DiskReservation, LedgerEntry, NodeDisk, NodeDiskStatus, Orphan, Reserved, SharedPersistentVolume, Size,
    UnlistedOrphans,
};

use super::ledger::total;

/// True if the data lived in this reservation. Name and role decide; the UID differs after a recovery.
pub fn is_of(of: &Reserved, reservation: &DiskReservation) -> bool {
    of.name == reservation.name_any() && of.role == reservation.spec.role
}

/// The most orphans in the list of a disk.
const MOST_ORPHANS: usize = 128;
/// The most bytes of the list, which keeps the object small enough for the API server (A8).
const MOST_BYTES: usize = 256 << 10;

/// The orphans to list, and the sum of the other orphans, whose bytes are held back as well. Kept data comes last, in the
/// order in which its time ends (X8).
pub fn listed(mut orphans: Vec<Orphan>, ledger: &[LedgerEntry]) -> (Vec<Orphan>, Option<UnlistedOrphans>) {
    orphans.sort_by_key(|orphan| orphan.kept.as_ref().map(|kept| kept.until.0));
    let all = beside_the_ledger(&orphans, ledger, |_| true);
    let mut bytes = 0;
    let fits = |orphan: &&Orphan| {
        bytes += json!(orphan).to_string().len();
        bytes <= MOST_BYTES
    };
    let most = orphans.iter().take(MOST_ORPHANS).take_while(fits).count();
    let others = orphans.split_off(most);
    let size = Size::from_bytes(all - beside_the_ledger(&orphans, ledger, |_| true));
    let count = u32::try_from(others.len()).unwrap_or(u32::MAX);
    (orphans, (count > 0).then_some(UnlistedOrphans { count, size }))
}

/// Number of the orphans of a disk, listed or not, without kept data.
pub fn count(disk: &NodeDisk) -> usize {
    lost(disk).count() + unlisted(disk).map_or(0, |others| others.count as usize)
}

/// The listed orphans that nobody destroyed. The data of a disk that was declared gone is given up (D4).
pub fn lost(disk: &NodeDisk) -> impl Iterator<Item = &Orphan> {
    let there = disk.status.iter().filter(|_| !disk.spec.gone);
    there.flat_map(|status| &status.orphans).filter(|orphan| orphan.kept.is_none())
}

/// The volume whose own data this is: a restored etcd has the volume from before its placement (X9).
pub fn owner<'a>(
    orphan: &Orphan,
    volumes: &'a [SharedPersistentVolume],
) -> Option<&'a SharedPersistentVolume> {
    volumes.iter().find(|volume| volume.metadata.uid.as_ref() == Some(&orphan.uid))
}

/// The sum of the others, with kept data.
pub fn unlisted(disk: &NodeDisk) -> Option<&UnlistedOrphans> {
    disk.status.as_ref().filter(|_| !disk.spec.gone)?.unlisted_orphans.as_ref()
}

/// True if the disk reports the data that the volume is to recover, or data that the volume has taken over already: an etcd
/// may be restored from before the volume's placement.
pub fn has_data_for(volume: &SharedPersistentVolume, disk: &NodeDisk) -> bool {
    let recovered = volume.spec.recover.as_ref().map(|recover| &recover.uid);
    let is_its = |uid: &String| recovered == Some(uid) || volume.metadata.uid.as_ref() == Some(uid);
    disk.status.as_ref().is_some_and(|status| status.orphans.iter().any(|orphan| is_its(&orphan.uid)))
}

/// Bytes of a disk that are held back for one reservation.
pub fn kept_for(disk: &NodeDisk, reservation: &DiskReservation) -> u64 {
    let kept = |status: &NodeDiskStatus| {
        beside_the_ledger(&status.orphans, &status.reservations, |of| is_of(of, reservation))
    };
    disk.status.as_ref().map_or(0, kept)
}

/// Bytes of a disk that are held back for the reservations that `whose` selects, and for all unlisted orphans.
pub fn kept(status: &NodeDiskStatus, whose: impl Fn(&Reserved) -> bool) -> u64 {
    let unlisted = status.unlisted_orphans.as_ref().map_or(0, |others| others.size.bytes_or_zero());
    beside_the_ledger(&status.orphans, &status.reservations, whose).saturating_add(unlisted)
}

/// Held-back bytes that the ledger lacks: an entry of the same name and role already covers its orphans.
fn beside_the_ledger(orphans: &[Orphan], ledger: &[LedgerEntry], whose: impl Fn(&Reserved) -> bool) -> u64 {
    let mut lost: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for orphan in orphans {
        if let Some(of) = orphan.reservations.last().filter(|of| whose(of)) {
            let bytes = lost.entry((&of.name, &of.role)).or_default();
            *bytes = bytes.saturating_add(orphan.size.bytes().unwrap_or(u64::MAX));
        }
    }
    let beside_the_ledger = |((name, role), bytes): ((&str, &str), u64)| {
        let entries = ledger.iter().filter(|entry| entry.name == name && entry.role == role);
        bytes.saturating_sub(total(&entries.cloned().collect::<Vec<_>>()))
    };
    lost.into_iter().map(beside_the_ledger).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    /// D4, T4: nobody is led to data that was given up.
    #[test]
    fn d4_the_data_of_a_disk_that_is_gone_is_no_orphan() {
        let mut disk = disk("n1.a", "n1", 100, &[]);
        let status = disk.status.as_mut().unwrap();
        status.orphans = vec![Orphan::default()];
        status.unlisted_orphans = Some(UnlistedOrphans { count: 2, size: gi(2) });
        assert_eq!(count(&disk), 3);
        disk.spec.gone = true;
        assert_eq!((count(&disk), lost(&disk).count()), (0, 0));
    }

    #[test]
    fn x6_bytes_of_an_orphan_are_kept_for_its_own_reservation() {
        let orphan = |of: &str, role: &str, size| Orphan {
            size: gi(size),
            reservations: vec![Reserved { name: of.into(), role: role.into(), ..Default::default() }],
            ..Default::default()
        };
        let mut disk = disk("n1.a", "n1", 100, &[("there", 20)]);
        let status = disk.status.as_mut().unwrap();
        let role = status.reservations[0].role.clone();
        status.orphans = vec![
            orphan("eng", "eng", 30),
            orphan("there", &role, 15),
            orphan("there", &role, 7),
            Orphan { size: gi(5), ..Default::default() },
        ];
        assert_eq!(
            kept(disk.status.as_ref().unwrap(), |_| true),
            (30 + 2) << 30,
            "what the ledger has is not kept twice; data of no reservation is others' files"
        );
        assert_eq!(kept_for(&disk, &reservation("eng", "eng", 30)), 30 << 30);
        for (name, role) in [("eng", "ops"), ("other", "eng")] {
            assert_eq!(kept_for(&disk, &reservation(name, role, 30)), 0, "{name} of {role}");
        }
    }

    #[test]
    fn x6_space_of_orphans_that_are_not_listed_is_kept_too() {
        let orphan = |i: usize| Orphan {
            uid: format!("uid-{i}"),
            size: gi(1),
            reservations: vec![Reserved {
                name: format!("r{}", i / 2),
                role: "eng".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut disk = disk("n1.a", "n1", 1000, &[("r99", 1)]);
        let status = disk.status.as_mut().unwrap();
        let (few, none) = listed((0..128).map(orphan).collect(), &status.reservations);
        assert_eq!((few.len(), none), (128, None));
        (status.orphans, status.unlisted_orphans) =
            listed((0..200).map(orphan).collect(), &status.reservations);
        let others = status.unlisted_orphans.clone().unwrap();
        assert_eq!(
            (status.orphans.len(), others.count, others.size),
            (128, 72, gi(71)),
            "r99 is in the ledger"
        );
        assert_eq!(kept(status, |_| true) >> 30, 199);
        assert_eq!(count(&disk), 200);
        assert_eq!(kept_for(&disk, &reservation("r1", "eng", 2)) >> 30, 2);
        let large = |i| Orphan { problem: Some("x".repeat(8000)), ..orphan(i) };
        let (listed, others) = listed((0..128).map(large).collect(), &[]);
        assert_eq!((listed.len() + others.unwrap().count as usize, listed.len() < 33), (128, true), "A8");
    }

    #[test]
    fn s1_hostile_sizes_in_the_ledger_do_not_overflow() {
        let mut disk = disk("n1.a", "n1", 100, &[("there", 1), ("there", 1)]);
        let status = disk.status.as_mut().unwrap();
        let of = Reserved { name: "there".into(), role: "eng".into(), ..Default::default() };
        status.orphans = vec![Orphan { size: gi(3), reservations: vec![of], ..Default::default() }];
        for entry in &mut status.reservations {
            entry.size = crate::api::Size::written((i64::MAX as u64).to_string());
        }
        status.reservations.push(status.reservations[0].clone());
        assert_eq!(kept(status, |_| true), 0);
    }
}
