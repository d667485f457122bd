//! The room of data that has no object any more: it is kept for the reservation that had it, and for nobody else (X6,
//! S14).

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::{DiskReservation, NodeDisk, NodeDiskStatus, Reserved};

/// Bytes of a disk that are kept for orphans whose reservation its ledger does not have.
pub fn held(disk: &NodeDisk) -> u64 {
    disk.status.as_ref().map_or(0, held_in)
}

/// The same, of its status.
pub fn held_in(status: &NodeDiskStatus) -> u64 {
    sum(status, |_| true)
}

/// How many of these are kept for this very reservation: one of the name and the role that was written down.
pub fn held_for(disk: &NodeDisk, reservation: &DiskReservation) -> u64 {
    let own = |of: &Reserved| of.name == reservation.name_any() && of.role == reservation.spec.role;
    disk.status.as_ref().map_or(0, |status| sum(status, own))
}

fn sum(status: &NodeDiskStatus, whose: impl Fn(&Reserved) -> bool) -> u64 {
    let mut lost: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for orphan in &status.orphans {
        if let Some(of) = orphan.reservations.last().filter(|of| whose(of)) {
            let bytes = lost.entry((&of.name, &of.role)).or_default();
            *bytes = bytes.saturating_add(orphan.size.bytes().unwrap_or(u64::MAX));
        }
    }
    let beside_its_line = |((name, role), bytes): (_, u64)| {
        let lines = status.reservations.iter().filter(|line| line.name == name && line.role == role);
        bytes.saturating_sub(lines.map(|line| line.size.bytes_or_zero()).sum())
    };
    lost.into_iter().map(beside_its_line).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Orphan;
    use crate::plan::testing::*;

    #[test]
    fn x6_the_room_of_an_orphan_is_kept_for_its_own_reservation() {
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
            held(&disk),
            (30 + 2) << 30,
            "those of a reservation that stands are in its line, as far as that goes; one of nobody is others' files"
        );
        assert_eq!(held_for(&disk, &reservation("eng", "eng", 30)), 30 << 30);
        for (name, role) in [("eng", "ops"), ("other", "eng")] {
            assert_eq!(held_for(&disk, &reservation(name, role, 30)), 0, "{name} of {role}");
        }
    }
}
