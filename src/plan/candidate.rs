//! The disks that may serve a reservation (R1), and the reason if no disk may.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{DiskReservation, NodeDisk};

use super::disk_identity::{first_name, is_placeholder};
use super::holder::Holder;
use super::{allocatable, labels_of, labels_there, names, selects};

/// A disk as a candidate for a reservation.
pub struct Candidate<'a> {
    /// The disk.
    pub disk: &'a NodeDisk,
    /// Labels of the disk's node; `None`: the Node object is missing.
    pub node_labels: Option<&'a BTreeMap<String, String>>,
}

/// Why a static reservation takes no bytes on a disk (A7).
enum Barred<'a> {
    /// The disk has moved away from the node of this name, whose agent makes static reservations on it.
    Moved(&'a str),
    /// The node of the disk has this NodeDisk, too, under a name of the same disk of its configuration.
    Twin(&'a NodeDisk),
}

/// True if a disk can serve at all now (D4).
pub fn is_ready(disk: &NodeDisk) -> bool {
    disk.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, READY))
}

/// True if the disk's node is cordoned, so that nothing new is placed there by the controller's own choice.
pub fn is_cordoned(disk: &NodeDisk) -> bool {
    disk.status.as_ref().is_some_and(|status| status.cordoned)
}

/// Bytes of a disk that any role may reserve now.
pub fn free_space(disk: &NodeDisk) -> u64 {
    if is_ready(disk) { disk.ledger().free() } else { 0 }
}

/// True if the disk may serve the reservation. Either the disk fits `nodeDisk`, `nodeName` or `nodeSelector`, or the
/// disk serves the reservation already. A disk of a cordoned node serves only who names the disk or the node. `all` has all
/// disks.
pub fn may_serve(reservation: &DiskReservation, candidate: &Candidate, all: &[Candidate]) -> bool {
    let spec = &reservation.spec;
    if let Some(on) = reservation.status.as_ref().and_then(|s| s.node_disk.as_ref()) {
        return *on == candidate.disk.name_any();
    }
    let names_a_place = spec.node_disk.is_some() || spec.node_name.is_some();
    fits(reservation, candidate, all) && (names_a_place || !is_cordoned(candidate.disk))
}

/// True if the disk fits the placement in the spec of the reservation.
fn fits(reservation: &DiskReservation, candidate: &Candidate, all: &[Candidate]) -> bool {
    let (spec, disk) = (&reservation.spec, candidate.disk);
    disk.metadata.deletion_timestamp.is_none()
        && spec.node_disk.as_ref().is_none_or(|name| *name == disk.name_any())
        && barred(reservation, disk, all).is_none()
        && spec.node_name.as_ref().is_none_or(|name| *name == disk.spec.node_name)
        && spec
            .node_selector
            .as_ref()
            .is_none_or(|selector| candidate.node_labels.is_some_and(|labels| selects(selector, labels)))
}

/// Why a static reservation takes no bytes on the disk.
///
/// A reservation has no field for the node of its maker. Admission lets an agent make a static reservation only on a disk
/// whose name begins with the agent's node, and a disk that moves keeps its name.
///
/// An agent may give nine names to the NodeDisk of one configured disk, for it may find the first ones taken by disks that
/// moved away. A broken agent makes all nine, and the static reservations of that disk on each.
fn barred<'a>(reservation: &DiskReservation, disk: &'a NodeDisk, all: &'a [Candidate]) -> Option<Barred<'a>> {
    let name = disk.metadata.name.as_deref().unwrap_or_default();
    if !reservation.spec.is_static {
        return None;
    }
    if let Some(node) = maker(name).filter(|node| *node != disk.spec.node_name) {
        return Some(Barred::Moved(node));
    }
    let is_twin = |other: &&NodeDisk| {
        other.spec.node_name == disk.spec.node_name
            && other.metadata.name != disk.metadata.name
            && !is_placeholder(other)
            && first_name(other) == first_name(disk)
    };
    all.iter().map(|candidate| candidate.disk).find(is_twin).map(Barred::Twin)
}

/// The node whose agent makes static reservations on the disk of that name: `<node>.<disk>`, and `<disk>` has no dot.
fn maker(disk: &str) -> Option<&str> {
    disk.rsplit_once('.').map(|(node, _)| node)
}

/// True if the disk has that many bytes once all other reservations are gone.
pub fn holds_all_of(disk: &NodeDisk, bytes: u64) -> bool {
    allocatable::of_disk(disk) >= bytes
}

/// True if the reservation waits for free space that a disk can have. Labels of nodes are not compared.
pub fn waits_for_space(reservation: &DiskReservation, disks: &[NodeDisk]) -> bool {
    let spec = &reservation.spec;
    let conditions = reservation.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let waits = condition::get(conditions, READY).is_none_or(|ready| {
        ![
            reason::NO_SUCH_DISK,
            reason::NODE_CORDONED,
            reason::DISK_MOVED,
            reason::OVER_QUOTA,
            reason::SHARE_TAKEN,
            reason::TOO_MANY_RESERVATIONS,
        ]
        .contains(&&*ready.reason)
    });
    let can = |disk: &NodeDisk| {
        spec.node_disk.as_ref().is_none_or(|name| *name == disk.name_any())
            && spec.node_name.as_ref().is_none_or(|name| *name == disk.spec.node_name)
            && holds_all_of(disk, spec.size.bytes_or_zero())
    };
    waits && disks.iter().any(can)
}

/// Why no disk may serve the reservation.
pub fn no_such_disk(reservation: &DiskReservation, candidates: &[Candidate]) -> Verdict {
    let spec = &reservation.spec;
    let is_named = |disk: &&NodeDisk| spec.node_disk.is_some() && spec.node_disk == disk.metadata.name;
    let named = candidates.iter().map(|candidate| candidate.disk).find(is_named);
    if let Some((disk, why)) = named.and_then(|disk| Some((disk, barred(reservation, disk, candidates)?))) {
        let (reservation, name, node) = (reservation.name_any(), disk.name_any(), &disk.spec.node_name);
        let message = match why {
            Barred::Moved(from) => format!(
                "NodeDisk {name} is in node {node}, and static DiskReservation {reservation} on it can only be of the agent \
                 of node {from}: delete DiskReservation {reservation}"
            ),
            Barred::Twin(other) => format!(
                "node {node} has NodeDisks {name} and {}, both named after one disk of its configuration, and static \
                 DiskReservation {reservation} is for one of them: delete the NodeDisk that no disk has, or DiskReservation \
                 {reservation}",
                other.name_any()
            ),
        };
        return Verdict::no(reason::DISK_MOVED, message);
    }
    let cordoned = candidates.iter().filter(|candidate| fits(reservation, candidate, candidates));
    let cordoned: Vec<&str> = cordoned.map(|candidate| &*candidate.disk.spec.node_name).collect();
    if let Some(first) = cordoned.first() {
        let message = format!(
            "only cordoned nodes have a disk for it ({}): kubectl uncordon {first}, or make the reservation anew with \
             spec.nodeName",
            names(&cordoned, cordoned.len())
        );
        return Verdict::no(reason::NODE_CORDONED, message);
    }
    let asked = match (&spec.node_disk, &spec.node_name, &spec.node_selector) {
        (Some(disk), _, _) => format!("no NodeDisk is called {disk}"),
        (_, Some(node), _) => format!("node {node} has no NodeDisk"),
        (_, _, Some(selector)) => {
            let nodes = candidates.iter().filter_map(|candidate| candidate.node_labels);
            format!(
                "no node with a NodeDisk has the {}{}",
                labels_of(selector),
                labels_there(selector, nodes)
            )
        }
        _ => "there is no NodeDisk: is the agent running?".to_owned(),
    };
    let mut known: Vec<String> = candidates.iter().map(|c| c.disk.name_any()).collect();
    known.sort();
    let message =
        if known.is_empty() { asked } else { format!("{asked}; there are {}", names(&known, known.len())) };
    Verdict::no(reason::NO_SUCH_DISK, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DiskKind, Size};
    use crate::plan::share::{Outcome, Outcomes, share_out};
    use crate::plan::testing::*;

    fn pick(reservation: &DiskReservation, disks: &[NodeDisk]) -> Result<String, (String, String)> {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let candidates: Vec<Candidate> = disks
            .iter()
            .map(|disk| Candidate { disk, node_labels: (disk.spec.node_name == "n1").then_some(&labels) })
            .collect();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut outcomes = share_out(&[reservation], &candidates, &[], &Outcomes::new(), now);
        match outcomes.remove(&reservation.uid().unwrap()).unwrap() {
            Outcome::Serve { disk, .. } => Ok(disk),
            Outcome::Wait { why, .. } => Err((why.reason.to_owned(), why.message)),
        }
    }

    #[test]
    fn r1_the_disk_with_the_most_free_space_serves() {
        let disks = [disk("n1.a", "n1", 10, &[("r", 8)]), disk("n2.a", "n2", 10, &[("q", 2)])];
        assert_eq!(pick(&reservation("x", "eng", 2), &disks), Ok("n2.a".into()));
    }

    #[test]
    fn d2_an_undivided_disk_serves_one_as_the_last_resort() {
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
            "4Gi asked for: n1.small is handed out whole and taken; it is served when space is free"
        );
        assert_eq!(
            pick(&reservation("x", "eng", 41), &disks[2..]).unwrap_err().1,
            "41Gi asked for: n1.large has 40Gi free, 1Gi too little; that is more than such a disk has: \
             reserve less, or add a larger disk"
        );
    }

    #[test]
    fn q3_an_impossible_reservation_waits_for_no_space() {
        let disks = [disk("n1.a", "n1", 10, &[("r", 8)])];
        let on = |place: fn(&mut DiskReservation), size| {
            let mut reservation = reservation("x", "eng", size);
            place(&mut reservation);
            waits_for_space(&reservation, &disks)
        };
        assert!(on(|_| {}, 10) && on(|r| r.spec.node_disk = Some("n1.a".into()), 10));
        assert!(!on(|_| {}, 11) && !on(|r| r.spec.node_disk = Some("n1.b".into()), 1));
        assert!(!on(|r| r.spec.node_name = Some("n2".into()), 1));
        for why in ["NoSuchDisk", "DiskMoved", "OverQuota", "ShareTaken", "TooManyReservations"] {
            let mut refused = reservation("x", "eng", 1);
            let conditions = &mut refused.status.get_or_insert_default().conditions;
            condition::set(conditions, READY, Verdict::no(why, "said"), None, jiff::Timestamp::UNIX_EPOCH);
            assert!(!waits_for_space(&refused, &disks), "{why}");
        }
    }

    #[test]
    fn r1_a_refusal_says_how_much_is_missing_where() {
        let disks = [disk("n1.a", "n1", 10, &[("r", 8)]), disk("n2.a", "n2", 10, &[("q", 5)])];
        let (reason, message) = pick(&reservation("x", "eng", 6), &disks).unwrap_err();
        assert_eq!(reason, "NotEnoughRoom");
        assert_eq!(
            message,
            "6Gi asked for: n1.a has 2Gi free, 4Gi too little and n2.a has 5Gi free, 1Gi too little; \
             it is served when space is free"
        );
    }

    #[test]
    fn r1_a_disk_is_chosen_by_name_node_or_labels() {
        let disks = [disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 20, &[])];
        let mut wanted = reservation("x", "eng", 6);
        wanted.spec.node_selector = Some(BTreeMap::from([("zone".into(), "a".into())]));
        assert_eq!(pick(&wanted, &disks), Ok("n1.a".into()));
        wanted.spec.node_selector = Some(BTreeMap::from([("disk".into(), "ssd".into())]));
        let said = pick(&wanted, &disks).unwrap_err().1;
        assert_eq!(said, "no node with a NodeDisk has the label disk=ssd; there are n1.a and n2.a");
        let hdd = [("disk".to_owned(), "hdd".to_owned())].into();
        let candidates: Vec<_> =
            disks.iter().map(|disk| Candidate { disk, node_labels: Some(&hdd) }).collect();
        let said = no_such_disk(&wanted, &candidates).message;
        assert_eq!(
            said,
            "no node with a NodeDisk has the label disk=ssd; the nodes have disk=hdd; there are n1.a and n2.a"
        );
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
    fn r1_a_cordoned_node_serves_who_names_it() {
        let mut disks = [disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 5, &[])];
        disks[0].status.as_mut().unwrap().cordoned = true;
        let mut wanted = reservation("x", "eng", 2);
        assert_eq!(pick(&wanted, &disks), Ok("n2.a".into()), "although the other has more");
        let (reason, said) = pick(&wanted, &disks[..1]).unwrap_err();
        assert_eq!(
            (reason.as_str(), said.as_str()),
            (
                "NodeCordoned",
                "only cordoned nodes have a disk for it (n1): kubectl uncordon n1, or make the reservation anew with \
                 spec.nodeName"
            )
        );
        wanted.spec.node_name = Some("n1".into());
        assert_eq!(pick(&wanted, &disks), Ok("n1.a".into()), "a template, too");
    }

    /// A machine that got the old name of a disk's node reserves nothing on that disk.
    #[test]
    fn a7_a_moved_disk_serves_no_static_reservation() {
        let mut made = reservation("n2.d.eng", "eng", 1);
        (made.spec.is_static, made.spec.node_disk) = (true, Some("n2.d".into()));
        assert_eq!(pick(&made, &[disk("n2.d", "n2", 10, &[])]), Ok("n2.d".into()));
        let moved = [disk("n2.d", "n3", 10, &[]), disk("n3.d", "n3", 10, &[])];
        let (reason, message) = pick(&made, &moved).unwrap_err();
        assert_eq!(reason, "DiskMoved", "admission looks at that");
        assert_eq!(
            message,
            "NodeDisk n2.d is in node n3, and static DiskReservation n2.d.eng on it can only be of the agent of node n2: \
             delete DiskReservation n2.d.eng"
        );
        // Anybody may reserve there, and what was served before the disk moved stays (D3).
        made.spec.is_static = false;
        assert_eq!(pick(&made, &moved), Ok("n2.d".into()));
        let mut served = reserved("n2.d.eng", "eng", 1, &[]);
        (served.spec.is_static, served.spec.node_disk) = (true, Some("n2.d".into()));
        served.status.as_mut().unwrap().node_disk = Some("n2.d".into());
        let candidate = Candidate { disk: &moved[0], node_labels: None };
        assert!(may_serve(&served, &candidate, &[]), "it may grow");
        made.spec.is_static = true;
        let dotted = [disk("n2.zone.d", "n2.zone", 10, &[])];
        made.spec.node_disk = Some("n2.zone.d".into());
        assert_eq!(pick(&made, &dotted), Ok("n2.zone.d".into()));
    }

    /// A broken node makes all the NodeDisks that it may, under names of one configured disk and of a second one.
    #[test]
    fn a7_one_disk_of_a_node_serves_static_reservations() {
        let made = |disk: &str| {
            let mut made = reservation(&format!("{disk}.eng"), "eng", 1);
            (made.spec.is_static, made.spec.node_disk) = (true, Some(disk.into()));
            made
        };
        let named = |name: &str, disk_name: &str| {
            let mut disk = disk(name, "n1", 10, &[]);
            disk.spec.disk_name = disk_name.into();
            disk
        };
        let mut disks = vec![named("n1.a-9", "a")];
        assert_eq!(pick(&made("n1.a-9"), &disks), Ok("n1.a-9".into()), "n1.a is in another node, perhaps");
        for other in ["a", "b"] {
            let mut twins = vec![disks[0].clone(), named("n1.a-2", other)];
            for disk in ["n1.a-9", "n1.a-2"] {
                assert_eq!(pick(&made(disk), &twins).unwrap_err().0, "DiskMoved", "{disk} {other}");
            }
            assert_eq!(
                pick(&made("n1.a-2"), &twins).unwrap_err().1,
                "node n1 has NodeDisks n1.a-2 and n1.a-9, both named after one disk of its configuration, and static \
                 DiskReservation n1.a-2.eng is for one of them: delete the NodeDisk that no disk has, or DiskReservation \
                 n1.a-2.eng"
            );
            twins[1].spec.node_name = "n2".into();
            assert_eq!(pick(&made("n1.a-9"), &twins), Ok("n1.a-9".into()), "the other one moved away");
            twins[1].spec.node_name = "n1".into();
            twins[1].spec.disk_id = crate::api::UNKNOWN_DISK.into();
            assert_eq!(
                pick(&made("n1.a-9"), &twins),
                Ok("n1.a-9".into()),
                "nothing is reserved on the other one"
            );
        }
        // A served reservation stays, and reservations that are not static may use either disk.
        let mut served = reserved("n1.a-9.eng", "eng", 1, &[]);
        served.spec.is_static = true;
        served.status.as_mut().unwrap().node_disk = Some("n1.a-9".into());
        disks.push(named("n1.a", "a"));
        let both: Vec<Candidate> = disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
        assert!(may_serve(&served, &both[0], &both), "it may grow");
        let mut dynamic = made("n1.a");
        dynamic.spec.is_static = false;
        assert_eq!(pick(&dynamic, &disks), Ok("n1.a".into()));
        // Two disks of the configuration, whose names look like two names of one.
        let two = [named("n1.a", "a"), named("n1.a-2", "a-2")];
        for disk in ["n1.a", "n1.a-2"] {
            assert_eq!(pick(&made(disk), &two), Ok(disk.into()));
        }
    }

    #[test]
    fn d4_an_unready_disk_serves_nothing() {
        let mut gone = disk("n1.a", "n1", 10, &[]);
        set_ready(&mut gone.status.as_mut().unwrap().conditions, false);
        let (reason, message) = pick(&reservation("x", "eng", 1), &[gone]).unwrap_err();
        assert_eq!(reason, "NotEnoughRoom");
        assert!(message.ends_with("; it is served when the disk is Ready"), "{message}");
    }

    #[test]
    fn r3_an_invalid_size_or_role_is_refused() {
        let mut wrong = reservation("x", "eng", 1);
        wrong.spec.size = Size::written("-1Gi");
        assert_eq!(pick(&wrong, &[]).unwrap_err().0, "Invalid");
        let wrong = reservation("x", "eng//ml", 1);
        assert_eq!(pick(&wrong, &[]).unwrap_err().0, "Invalid");
    }
}
