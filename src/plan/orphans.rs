//! Bytes of data that has no object any more: they are kept for the reservation that the data lived in, and for nobody
//! else (X6, S14).

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::{DiskReservation, NodeDisk, NodeDiskStatus, Reserved};

use super::ledger;

/// True if the data was in this reservation: its UID may be another one since, its name and role are the same.
pub fn is_of(of: &Reserved, reservation: &DiskReservation) -> bool {
    of.name == reservation.name_any() && of.role == reservation.spec.role
}

/// Bytes of a disk that are kept for one reservation.
pub fn kept_for(disk: &NodeDisk, reservation: &DiskReservation) -> u64 {
    disk.status.as_ref().map_or(0, |status| kept(status, |of| is_of(of, reservation)))
}

/// Bytes of a disk that are kept for the reservations that `whose` selects, beside the ledger: bytes of an entry of the
/// same name and role are in the ledger already.
pub fn kept(status: &NodeDiskStatus, whose: impl Fn(&Reserved) -> bool) -> u64 {
    let mut lost: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for orphan in &status.orphans {
        if let Some(of) = orphan.reservations.last().filter(|of| whose(of)) {
            let bytes = lost.entry((&of.name, &of.role)).or_default();
            *bytes = bytes.saturating_add(orphan.size.bytes().unwrap_or(u64::MAX));
        }
    }
    let beside_the_ledger = |((name, role), bytes): ((&str, &str), u64)| {
        let entries = status.reservations.iter().filter(|entry| entry.name == name && entry.role == role);
        bytes.saturating_sub(ledger::total(&entries.cloned().collect::<Vec<_>>()))
    };
    lost.into_iter().map(beside_the_ledger).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Orphan;
    use crate::plan::testing::*;

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
