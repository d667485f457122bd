//! RESERVE: where the bytes of a reservation may come from, a disk or another reservation (R1, R4), and how its size
//! changes (R6).

use std::collections::BTreeMap;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, LedgerEntry, NodeDisk, ReservationPhase, Role, Size,
};
use kube::ResourceExt;

use super::{ledger, names, whole};

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
    let size = whole::of_reservation(reservation, size);
    Ok(LedgerEntry { role: role.to_string(), ..line(reservation, size) })
}

/// A line of the reservation over so many bytes.
pub fn line(reservation: &DiskReservation, bytes: u64) -> LedgerEntry {
    LedgerEntry {
        name: reservation.name_any(),
        uid: reservation.uid().unwrap_or_default(),
        role: reservation.spec.role.clone(),
        size: Size::from_bytes(bytes),
    }
}

/// What a reservation has.
pub fn size(status: &DiskReservationStatus) -> u64 {
    status.size.as_ref().map_or(0, Size::bytes_or_zero)
}

/// What lives in a reservation: volumes, and what was carved out of it (R4).
pub fn used(status: &DiskReservationStatus) -> u64 {
    ledger::total(&status.volumes).saturating_add(ledger::total(&status.refinements))
}

/// What a reservation has left, for volumes and refinements.
pub fn left(status: &DiskReservationStatus) -> u64 {
    size(status).saturating_sub(used(status))
}

/// What the volumes of a reservation may take in all: what was carved out of it is not theirs (S1).
pub fn room_for_volumes(status: &DiskReservationStatus) -> u64 {
    ledger::free(&status.refinements, size(status))
}

/// What may be carved out of a reservation in all (S1).
pub fn room_for_refinements(status: &DiskReservationStatus) -> u64 {
    ledger::free(&status.volumes, size(status))
}

/// How large the line of a reservation must be at least and may be at most, in every ledger that it belongs in, as the
/// reservation is `now`: never less than it has, never more than it asks for too.
///
/// Whoever makes a line smaller by this has read the ledger before the reservation, and commits on what he read: then a
/// line that grows for a reservation that grows meanwhile is not his to cut.
pub fn bounds(now: &DiskReservation) -> (u64, u64) {
    let status = now.status.clone().unwrap_or_default();
    let has = if status.node_disk.is_some() { size(&status) } else { 0 };
    match (&now.metadata.deletion_timestamp, &status.node_disk) {
        (None, _) => (has, has.max(now.spec.size.bytes().unwrap_or(has))),
        // Who lets it go takes the line away, once nothing lives in it.
        (Some(_), Some(_)) => (0, u64::MAX),
        (Some(_), None) => (0, 0),
    }
}

/// What the reservation asks for beyond what it has.
pub fn asked(reservation: &DiskReservation) -> Result<u64, Verdict> {
    let has = reservation.status.as_ref().filter(|s| s.node_disk.is_some()).map_or(0, size);
    Ok(entry(reservation)?.size.bytes_or_zero().saturating_sub(has))
}

/// Whether a reservation may shrink to `wanted`: not below what lives in it, which the refusal names (R6).
pub fn shrink(status: &DiskReservationStatus, wanted: u64) -> Result<(), Verdict> {
    if wanted >= used(status) {
        return Ok(());
    }
    let lines: Vec<&str> =
        status.volumes.iter().chain(&status.refinements).map(|line| line.name.as_str()).collect();
    Err(Verdict::no(
        reason::BELOW_USED,
        format!(
            "{} is less than the {} that {} in it take; it keeps its {}, delete what is not needed any more first",
            Size::from_bytes(wanted),
            Size::from_bytes(used(status)),
            names(&lines, lines.len()),
            Size::from_bytes(size(status))
        ),
    ))
}

/// The parent's ledger with the refinement's line in it, or why not (R4): the parent stands, its role is a strict
/// ancestor's, and it has that many bytes left. A refinement that grows may do so by the same rule.
pub fn refine(
    reservation: &DiskReservation,
    parent: Option<&DiskReservation>,
) -> Result<Vec<LedgerEntry>, Verdict> {
    let line = entry(reservation)?;
    let name = reservation.spec.parent.as_deref().unwrap_or_default();
    let Some(parent) = parent else {
        let said = format!(
            "there is no DiskReservation {name} to carve it out of; make it, or leave spec.parent out"
        );
        return Err(Verdict::no(reason::NO_PARENT, said));
    };
    let (ours, theirs) = (&line.role, &parent.spec.role);
    if ours == theirs || !Role::name_covers(theirs, ours) {
        return Err(Verdict::no(
            reason::NOT_A_SUB_ROLE,
            format!(
                "DiskReservation {name} is for role {theirs}, and role {ours} is no sub-role of that; \
                 delete this one and carve it out of one of an ancestor's"
            ),
        ));
    }
    let status = parent.status.clone().unwrap_or_default();
    if parent.metadata.deletion_timestamp.is_some() || status.phase != ReservationPhase::Reserved {
        let state = match parent.metadata.deletion_timestamp {
            Some(_) => "is being deleted",
            None => "is itself still waiting",
        };
        let said = format!("DiskReservation {name}, which it is to be carved out of, {state}");
        return Err(Verdict::no(reason::PARENT_NOT_RESERVED, said));
    }
    // What is handed out whole stays whole (D2).
    let all = whole::of_reservation(parent, line.size.bytes_or_zero());
    let wanted = line.size.clone();
    let line = LedgerEntry { size: Size::from_bytes(all), ..line };
    ledger::take(&status.refinements, room_for_refinements(&status), line).map_err(|short| {
        Verdict::no(
            reason::PARENT_FULL,
            format!(
                "{wanted} asked for: DiskReservation {name} has {} left, {} too little; \
                 it is served when room appears in it",
                Size::from_bytes(short.free),
                Size::from_bytes(short.missing)
            ),
        )
    })
}

/// Why a reservation on the disk serves nobody any more: it was declared gone, which is for good (D4).
pub fn gone(disk: &NodeDisk) -> Option<Verdict> {
    let said = format!(
        "NodeDisk {}, on which it is, was declared gone: delete the volumes that were in it, then this reservation",
        disk.name_any()
    );
    disk.spec.gone.then(|| Verdict::no(reason::DISK_GONE, said))
}

/// Why nothing is carved out of a reservation any more: its disk was declared gone, which is for good (D4).
pub fn parent_gone(parent: &DiskReservation, disk: &NodeDisk) -> Option<Verdict> {
    let (parent, name) = (parent.name_any(), disk.name_any());
    disk.spec.gone.then(|| {
        Verdict::no(
            reason::DISK_GONE,
            format!(
                "NodeDisk {name}, on which DiskReservation {parent} is, was declared gone: delete this one and carve it \
                 out of one on another disk"
            ),
        )
    })
}

/// Whether a disk can serve at all now (D4).
pub fn is_ready(disk: &NodeDisk) -> bool {
    disk.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, READY))
}

/// Why no disk serves the reservation now: `lines` say how each one stands.
pub fn not_enough_room(asked: &Size, mut lines: Vec<String>) -> Verdict {
    // Caches have no order; a sentence that changes by itself would be written again and again.
    lines.sort();
    Verdict::no(
        reason::NOT_ENOUGH_ROOM,
        format!("{asked} asked for: {}; it is served when room appears", names(&lines, lines.len())),
    )
}

/// Whether a disk may serve the reservation: it fits its `nodeDisk`, `nodeName` or `nodeSelector`, and is the one that it
/// is on already.
pub fn may_serve(reservation: &DiskReservation, candidate: &Candidate) -> bool {
    let spec = &reservation.spec;
    let disk = candidate.disk;
    if let Some(home) = reservation.status.as_ref().and_then(|s| s.node_disk.as_ref()) {
        return *home == disk.name_any();
    }
    disk.metadata.deletion_timestamp.is_none()
        && spec.node_disk.as_ref().is_none_or(|name| *name == disk.name_any())
        && spec.node_name.as_ref().is_none_or(|name| *name == disk.spec.node_name)
        && spec.node_selector.as_ref().is_none_or(|selector| {
            candidate.node_labels.is_some_and(|labels| selector.iter().all(|(k, v)| labels.get(k) == Some(v)))
        })
}

/// Why no disk may serve the reservation.
pub fn no_such_disk(reservation: &DiskReservation, candidates: &[Candidate]) -> Verdict {
    let spec = &reservation.spec;
    let asked = match (&spec.node_disk, &spec.node_name, &spec.node_selector) {
        (Some(disk), _, _) => format!("no NodeDisk is called {disk}"),
        (_, Some(node), _) => format!("node {node} has no NodeDisk"),
        (_, _, Some(_)) => "no node with a NodeDisk has all labels of nodeSelector".to_owned(),
        _ => "there is no NodeDisk: is the agent running?".to_owned(),
    };
    let mut known: Vec<String> = candidates.iter().map(|c| c.disk.name_any()).collect();
    known.sort();
    let said =
        if known.is_empty() { asked } else { format!("{asked}; there are {}", names(&known, known.len())) };
    Verdict::no(reason::NO_SUCH_DISK, said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DiskKind;
    use crate::plan::share::{Outcome, share_out};
    use crate::plan::testing::*;

    fn pick(reservation: &DiskReservation, disks: &[NodeDisk]) -> Result<String, (String, String)> {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let candidates: Vec<Candidate> = disks
            .iter()
            .map(|disk| Candidate { disk, node_labels: (disk.spec.node_name == "n1").then_some(&labels) })
            .collect();
        match share_out(&[reservation], &candidates, &[]).remove(&reservation.uid().unwrap()).unwrap() {
            Outcome::Serve(disk) => Ok(disk),
            Outcome::Wait(why) => Err((why.reason.to_owned(), why.message)),
        }
    }

    #[test]
    fn d4_nothing_is_carved_out_of_a_reservation_on_a_disk_that_is_gone() {
        let (parent, mut disk) = (reserved("p", "eng", 5, &[]), disk("n1.a", "n1", 10, &[]));
        assert_eq!(parent_gone(&parent, &disk), None);
        assert_eq!(gone(&disk), None);
        disk.spec.gone = true;
        assert_eq!(parent_gone(&parent, &disk).unwrap().reason, "DiskGone");
        assert_eq!(gone(&disk).unwrap().reason, "DiskGone", "admission looks at that");
    }

    #[test]
    fn r1_the_disk_with_the_most_room_serves() {
        let disks = [disk("n1.a", "n1", 10, &[("r", 8)]), disk("n2.a", "n2", 10, &[("q", 2)])];
        assert_eq!(pick(&reservation("x", "eng", 2), &disks), Ok("n2.a".into()));
    }

    #[test]
    fn d2_a_whole_disk_serves_one_reservation_and_only_if_no_other_disk_can() {
        let mut disks = [
            disk("n1.a", "n1", 10, &[("r", 7)]),
            disk("n1.small", "n1", 20, &[]),
            disk("n1.large", "n1", 40, &[]),
        ];
        disks[1].spec.kind = DiskKind::Mount;
        disks[2].spec.kind = DiskKind::Block;
        assert_eq!(pick(&reservation("x", "eng", 3), &disks), Ok("n1.a".into()));
        assert_eq!(pick(&reservation("x", "eng", 4), &disks), Ok("n1.small".into()));
        assert_eq!(pick(&reservation("x", "eng", 21), &disks), Ok("n1.large".into()));
        let mut taken = disk("n1.small", "n1", 20, &[("r", 20)]);
        taken.spec.kind = DiskKind::Mount;
        assert_eq!(
            pick(&reservation("x", "eng", 4), &[taken]).unwrap_err().1,
            "4Gi asked for: n1.small is handed out whole and taken; it is served when room appears"
        );
        assert_eq!(
            pick(&reservation("x", "eng", 41), &disks[2..]).unwrap_err().1,
            "41Gi asked for: n1.large has 40Gi free, 1Gi too little; it is served when room appears"
        );
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

    /// R3.
    #[test]
    fn a_size_or_role_that_slipped_through_is_refused() {
        let mut wrong = reservation("x", "eng", 1);
        wrong.spec.size = Size::written("-1Gi");
        assert_eq!(pick(&wrong, &[]).unwrap_err().0, "Invalid");
        let wrong = reservation("x", "eng//ml", 1);
        assert_eq!(pick(&wrong, &[]).unwrap_err().0, "Invalid");
    }

    #[test]
    fn r4_a_refinement_is_carved_out_of_an_ancestors_reservation_that_has_room() {
        let mut child = reservation("ml", "eng/ml", 3);
        child.spec.parent = Some("p".into());
        let parent = |role, held| reserved("p", role, 10, held);
        let refused = |parent: Option<&DiskReservation>| refine(&child, parent).map_err(|v| v.reason);
        assert_eq!(refused(Some(&parent("eng", &[("v", 7)]))).unwrap(), [held_line("ml", "eng/ml", 3)]);
        assert_eq!(refused(None), Err("NoParent"));
        for role in ["eng/ml", "ops", "eng/ml/x"] {
            assert_eq!(refused(Some(&parent(role, &[]))), Err("NotASubRole"), "{role}");
        }
        assert_eq!(refused(Some(&reservation("p", "eng", 10))), Err("ParentNotReserved"));
        let mut gone = parent("eng", &[]);
        gone.metadata.deletion_timestamp = some_time();
        assert_eq!(refused(Some(&gone)), Err("ParentNotReserved"));
        let mut shared = parent("eng", &[("v", 6)]);
        shared.status.as_mut().unwrap().refinements = vec![held_line("other", "eng/x", 2)];
        assert_eq!(
            refine(&child, Some(&shared)).unwrap_err().message,
            "3Gi asked for: DiskReservation p has 2Gi left, 1Gi too little; it is served when room appears in it"
        );
    }

    #[test]
    fn s1_volumes_and_refinements_share_what_a_reservation_has() {
        let mut status = reserved("p", "eng", 10, &[("v", 3)]).status.unwrap();
        status.refinements = vec![held_line("ml", "eng/ml", 2)];
        let gib = [used(&status), left(&status), room_for_volumes(&status), room_for_refinements(&status)];
        assert_eq!(gib.map(|bytes| bytes >> 30), [5, 5, 8, 7]);
    }

    #[test]
    fn r6_it_shrinks_to_what_lives_in_it_and_names_that() {
        let mut status = reserved("p", "eng", 10, &[("v", 3)]).status.unwrap();
        status.refinements = vec![held_line("ml", "eng/ml", 2)];
        assert_eq!(shrink(&status, 5 << 30), Ok(()));
        assert_eq!(
            shrink(&status, 4 << 30).unwrap_err().message,
            "4Gi is less than the 5Gi that v and ml in it take; it keeps its 10Gi, \
             delete what is not needed any more first"
        );
    }

    #[test]
    fn r6_a_line_is_never_smaller_than_what_a_reservation_has_nor_larger_than_what_it_asks_for() {
        let mut r = reserved("r", "eng", 4, &[]);
        for (asked, low, high) in [(4, 4, 4), (6, 4, 6), (3, 4, 4)] {
            r.spec.size = gi(asked);
            assert_eq!(bounds(&r), (low << 30, high << 30), "{asked}");
        }
        assert_eq!(bounds(&reservation("r", "eng", 4)), (0, 4 << 30));
    }
}
