//! The way to enough free space for a volume that no reservation of its role can hold, or let grow. A placed reservation or
//! volume never leaves its disk, so another disk helps only a volume without a place.

use kube::ResourceExt;

use crate::api::{DiskReservation, NodeDisk, Size};

use super::{candidate, holder};

/// The way to enough free space, or to less than is asked for.
#[derive(Debug)]
pub enum Way<'a> {
    /// Give the reservation this size in bytes.
    Enlarge(&'a DiskReservation, u64),
    /// Make one more reservation: a disk has enough free space.
    Reserve,
    /// Ask for this size in bytes, the most that there is. It needs a reservation of that size, if one is named.
    AskFor(u64, Option<(&'a DiskReservation, u64)>),
    /// Nothing is left.
    Nothing,
}

/// Returns the way for a volume of `has` bytes that asks for `asked`. `reservations` may serve the volume; `reserve` is true if a
/// new reservation may, too.
pub fn way<'a>(
    asked: u64,
    has: u64,
    reservations: &[&'a DiskReservation],
    disks: &[&NodeDisk],
    reserve: bool,
) -> Way<'a> {
    let status = |r: &DiskReservation| r.status.clone().unwrap_or_default();
    let free = |r: &DiskReservation| holder::free(&status(r));
    let more = |r: &DiskReservation| growth(r, disks);
    let missing = |r: &DiskReservation| asked.saturating_sub(has).saturating_sub(free(r));
    let enough = reservations.iter().filter(|r| more(r) >= missing(r)).max_by_key(|r| free(r));
    if let Some(r) = enough {
        return Way::Enlarge(r, holder::size(&status(r)).saturating_add(missing(r)));
    }
    let largest = disks.iter().filter(|d| candidate::is_ready(d) && !candidate::is_cordoned(d));
    let largest = largest.map(|disk| free_of(disk)).max().filter(|_| reserve).unwrap_or(0);
    // Without a disk in sight the reservation waits for one.
    if reserve && (largest >= asked || disks.is_empty()) {
        return Way::Reserve;
    }
    let whole = |bytes: u64| bytes >> 20 << 20;
    let best = reservations.iter().max_by_key(|r| free(r).saturating_add(more(r)));
    let most = best.map_or(0, |r| whole(has.saturating_add(free(r)).saturating_add(more(r))));
    match best {
        _ if whole(largest) > most => Way::AskFor(whole(largest), None),
        Some(r) if most > has => {
            let size =
                holder::size(&status(r)).saturating_add(most.saturating_sub(has).saturating_sub(free(r)));
            Way::AskFor(most, Some((r, size)))
        }
        _ => Way::Nothing,
    }
}

/// The bytes by which a reservation can be larger. The disk of a reservation with a parent is not asked, and one out of sight
/// may have any.
fn growth(reservation: &DiskReservation, disks: &[&NodeDisk]) -> u64 {
    let on = reservation.status.as_ref().and_then(|status| status.node_disk.as_ref());
    let disk = disks.iter().find(|disk| disk.metadata.name.as_ref() == on);
    disk.filter(|_| reservation.spec.parent.is_none()).map_or(u64::MAX, |disk| free_of(disk))
}

fn free_of(disk: &NodeDisk) -> u64 {
    let free = disk.status.as_ref().and_then(|status| status.free.as_ref());
    free.map_or_else(|| candidate::free_space(disk), Size::bytes_or_zero)
}

/// A name for one more reservation of the role.
pub fn new_name(role: &str, reservations: &[DiskReservation]) -> String {
    let base = object_name(role);
    let is_free = |name: &String| !reservations.iter().any(|r| r.name_any() == *name);
    let others = (2..).map(|i| format!("{base}-{i}"));
    std::iter::once(base.clone()).chain(others).find(is_free).unwrap_or(base)
}

/// An object's name after a role, whose components may begin and end with what no name may.
pub fn object_name(role: &str) -> String {
    let plain: String = role.to_lowercase().replace(['/', '_'], "-").chars().take(200).collect();
    let parts = plain.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    /// T4: no advised name is refused by the API server.
    #[test]
    fn t4_a_name_after_a_role_is_a_name() {
        for (role, name) in
            [("Eng/ML", "eng-ml"), ("_eng", "eng"), ("eng.", "eng"), ("a.-b/_c", "a.b--c"), ("v1.2", "v1.2")]
        {
            assert_eq!(object_name(role), name);
        }
    }

    /// T4: no way has a size that cannot be met, or a disk that is no help.
    #[test]
    fn t4_each_way_to_space_has_a_size_that_can_be_met() {
        let on = |name: &str, node: &str, free: u64| {
            let mut disk = disk(name, node, 7, &[]);
            disk.status.as_mut().unwrap().free = Some(gi(free));
            disk
        };
        let g = |n: u64| n << 30;
        let full = reserved("full", "eng", 4, &[("x", 4)]);
        let half = reserved("half", "eng", 4, &[("x", 2)]);
        for (asked, has, reservations, free, reserve, wanted) in [
            (1, 0, vec![&half], [0, 0], true, "half 4Gi"),
            (5, 0, vec![&full, &half], [3, 0], true, "half 7Gi"),
            (6, 0, vec![&half], [3, 6], true, "reserve"),
            (6, 0, vec![&half], [3, 6], false, "5Gi of half 7Gi"),
            (9, 0, vec![&half], [1, 6], true, "6Gi"),
            (10, 0, vec![], [0, 3], true, "3Gi"),
            (10, 0, vec![&full], [0, 0], true, "nothing"),
            // A volume that has its place grows on its disk alone.
            (9, 1, vec![&full], [2, 7], false, "3Gi of full 6Gi"),
            (9, 1, vec![&full], [0, 7], false, "nothing"),
        ] {
            let disks = [on("n1.a", "n1", free[0]), on("n2.a", "n2", free[1])];
            let found = match way(g(asked), g(has), &reservations, &disks.each_ref(), reserve) {
                Way::Enlarge(r, size) => format!("{} {}", r.name_any(), Size::from_bytes(size)),
                Way::Reserve => "reserve".into(),
                Way::AskFor(most, None) => Size::from_bytes(most).to_string(),
                Way::AskFor(most, Some((r, size))) => {
                    format!("{} of {} {}", Size::from_bytes(most), r.name_any(), Size::from_bytes(size))
                }
                Way::Nothing => "nothing".into(),
            };
            assert_eq!(found, wanted, "{asked} {has} {free:?} {reserve}");
        }
        let none = way(g(1), 0, &[], &[], true);
        assert!(matches!(none, Way::Reserve), "{none:?}");
        assert_eq!(new_name("Eng/ml", &[]), "eng-ml");
        assert_eq!(new_name("eng", &[reserved("eng", "ops", 1, &[])]), "eng-2");
    }
}
