//! The room of data that has no object any more: it is kept for the reservation that had it, and for nobody else (X6,
//! S14).

use kube::ResourceExt;

use crate::api::{DiskReservation, NodeDisk, NodeDiskStatus, Orphan, Reserved};

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
    let there =
        |of: &Reserved| status.reservations.iter().any(|line| line.name == of.name && line.role == of.role);
    let kept = |orphan: &&Orphan| orphan.reservations.last().is_some_and(|of| !there(of) && whose(of));
    let sizes = status.orphans.iter().filter(kept).map(|orphan| orphan.size.bytes().unwrap_or(u64::MAX));
    sizes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            orphan("there", &role, 20),
            Orphan { size: gi(5), ..Default::default() },
        ];
        assert_eq!(
            held(&disk),
            30 << 30,
            "one in a reservation that stands is in its line, one of nobody is others' files"
        );
        assert_eq!(held_for(&disk, &reservation("eng", "eng", 30)), 30 << 30);
        for (name, role) in [("eng", "ops"), ("other", "eng")] {
            assert_eq!(held_for(&disk, &reservation(name, role, 30)), 0, "{name} of {role}");
        }
    }
}
