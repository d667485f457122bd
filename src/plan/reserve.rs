//! RESERVE: which disk a reservation is taken from (R1).

use std::collections::BTreeMap;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{DiskReservation, LedgerEntry, NodeDisk, Role, Size};
use kube::ResourceExt;

use super::{ledger, names};

/// A disk as a reservation sees it.
pub struct Candidate<'a> {
    /// The disk.
    pub disk: &'a NodeDisk,
    /// Labels of its node; `None` when there is no such Node object.
    pub node_labels: Option<&'a BTreeMap<String, String>>,
}

/// Bytes that reservations may take of a disk in all.
pub fn allocatable(disk: &NodeDisk) -> u64 {
    disk.status.as_ref().and_then(|s| s.allocatable.as_ref()).map_or(0, Size::bytes_or_zero)
}

/// The reservation's line in the ledger of its disk.
pub fn entry(reservation: &DiskReservation) -> Result<LedgerEntry, Verdict> {
    let invalid = |error: String| Verdict::no(reason::INVALID, error);
    let role = Role::parse(&reservation.spec.role).map_err(|e| invalid(e.to_string()))?;
    let size = reservation.spec.size.bytes().map_err(|e| invalid(e.to_string()))?;
    Ok(LedgerEntry {
        name: reservation.name_any(),
        uid: reservation.uid().unwrap_or_default(),
        role: role.to_string(),
        size: Size::from_bytes(size),
    })
}

/// The disk that serves the reservation: of those that may and have room, the one with the most room.
pub fn choose<'a>(
    reservation: &DiskReservation,
    candidates: &[Candidate<'a>],
) -> Result<&'a NodeDisk, Verdict> {
    let wanted = entry(reservation)?.size.bytes_or_zero();
    let mut fitting: Vec<&Candidate> = candidates.iter().filter(|c| may_serve(reservation, c)).collect();
    fitting.sort_by_key(|c| c.disk.name_any());
    if fitting.is_empty() {
        return Err(Verdict::no(reason::NO_SUCH_DISK, no_such_disk(reservation, candidates)));
    }
    let ready =
        |c: &Candidate| c.disk.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, READY));
    let room = |c: &Candidate| {
        let held = c.disk.status.as_ref().map_or(&[][..], |s| &s.reservations);
        if ready(c) { ledger::free(held, allocatable(c.disk)) } else { 0 }
    };
    let best = fitting.iter().copied().max_by_key(|c| (room(c), std::cmp::Reverse(c.disk.name_any())));
    match best {
        Some(best) if room(best) >= wanted => Ok(best.disk),
        _ => {
            let mut lines: Vec<String> = fitting
                .iter()
                .map(|c| {
                    let (name, free) = (c.disk.name_any(), room(c));
                    if !ready(c) {
                        return format!("{name} is not ready");
                    }
                    let missing = Size::from_bytes(wanted.saturating_sub(free));
                    format!("{name} has {} free, {missing} too little", Size::from_bytes(free))
                })
                .collect();
            // Caches have no order; a sentence that changes by itself would be written again and again.
            lines.sort();
            Err(Verdict::no(
                reason::NOT_ENOUGH_ROOM,
                format!(
                    "{} asked for: {}; it is served when room appears",
                    reservation.spec.size,
                    names(&lines, lines.len())
                ),
            ))
        }
    }
}

fn may_serve(reservation: &DiskReservation, candidate: &Candidate) -> bool {
    let spec = &reservation.spec;
    let disk = candidate.disk;
    disk.metadata.deletion_timestamp.is_none()
        && spec.node_disk.as_ref().is_none_or(|name| *name == disk.name_any())
        && spec.node_name.as_ref().is_none_or(|name| *name == disk.spec.node_name)
        && spec.node_selector.as_ref().is_none_or(|selector| {
            candidate.node_labels.is_some_and(|labels| selector.iter().all(|(k, v)| labels.get(k) == Some(v)))
        })
}

fn no_such_disk(reservation: &DiskReservation, candidates: &[Candidate]) -> String {
    let spec = &reservation.spec;
    let asked = match (&spec.node_disk, &spec.node_name, &spec.node_selector) {
        (Some(disk), _, _) => format!("no NodeDisk is called {disk}"),
        (_, Some(node), _) => format!("node {node} has no NodeDisk"),
        (_, _, Some(_)) => "no node with a NodeDisk has all labels of nodeSelector".to_owned(),
        _ => "there is no NodeDisk: is the agent running?".to_owned(),
    };
    let mut known: Vec<String> = candidates.iter().map(|c| c.disk.name_any()).collect();
    known.sort();
    if known.is_empty() { asked } else { format!("{asked}; there are {}", names(&known, known.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    fn pick(reservation: &DiskReservation, disks: &[NodeDisk]) -> Result<String, (String, String)> {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let candidates: Vec<Candidate> = disks
            .iter()
            .map(|disk| Candidate { disk, node_labels: (disk.spec.node_name == "n1").then_some(&labels) })
            .collect();
        choose(reservation, &candidates).map(|d| d.name_any()).map_err(|v| (v.reason.to_owned(), v.message))
    }

    #[test]
    fn r1_the_disk_with_the_most_room_serves() {
        let disks = [disk("n1.a", "n1", 10, &[("r", 8)]), disk("n2.a", "n2", 10, &[("q", 2)])];
        assert_eq!(pick(&reservation("x", "eng", 2), &disks), Ok("n2.a".into()));
    }

    #[test]
    fn r1_not_enough_room_says_how_much_is_missing_where() {
        let disks = [disk("n1.a", "n1", 10, &[("r", 8)]), disk("n2.a", "n2", 10, &[("q", 5)])];
        let (reason, message) = pick(&reservation("x", "eng", 6), &disks).unwrap_err();
        assert_eq!(reason, "NotEnoughRoom");
        assert_eq!(
            message,
            "6Gi asked for: n1.a has 2Gi free, 4Gi too little and n2.a has 5Gi free, 1Gi too little; \
             it is served when room appears"
        );
    }

    #[test]
    fn r1_by_disk_node_and_selector() {
        let disks = [disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 20, &[])];
        let mut wanted = reservation("x", "eng", 6);
        wanted.spec.node_selector = Some(BTreeMap::from([("zone".into(), "a".into())]));
        assert_eq!(pick(&wanted, &disks), Ok("n1.a".into()));
        wanted.spec.node_selector = None;
        wanted.spec.node_name = Some("n1".into());
        assert_eq!(pick(&wanted, &disks), Ok("n1.a".into()));
        wanted.spec.node_name = Some("n9".into());
        assert_eq!(
            pick(&wanted, &disks).unwrap_err(),
            ("NoSuchDisk".into(), "node n9 has no NodeDisk; there are n1.a and n2.a".into())
        );
    }

    #[test]
    fn d4_an_unready_disk_serves_nothing() {
        let mut gone = disk("n1.a", "n1", 10, &[]);
        set_ready(&mut gone.status.as_mut().unwrap().conditions, false);
        assert_eq!(pick(&reservation("x", "eng", 1), &[gone]).unwrap_err().0, "NotEnoughRoom");
    }

    #[test]
    fn a_size_or_role_that_slipped_through_is_refused() {
        let mut wrong = reservation("x", "eng", 1);
        wrong.spec.size = Size::written("-1Gi");
        assert_eq!(pick(&wrong, &[]).unwrap_err().0, "Invalid");
        let wrong = reservation("x", "eng//ml", 1);
        assert_eq!(pick(&wrong, &[]).unwrap_err().0, "Invalid");
    }
}
