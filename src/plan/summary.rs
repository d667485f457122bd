//! The statuses of disks and roles: sums and the condition `Ready` (D1, D4, Q1, Q2).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::condition::{self, DISK_HEALTHY, READY, TEMPLATED, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, LedgerEntry, NodeDisk, NodeDiskStatus, PodRef, Size, VolumeRole,
    VolumeRoleStatus,
};

use super::entry::{self, ByName};
use super::holder::{Holder, size};
use super::ledger;
use super::list_share::MOST_ENTRIES;
use super::{names, node_lifetime, quota, refs, template};

/// The next step for an object with a ledger of reservations.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<S> {
    /// Settle these entries by [`entry::settled`], and decide again.
    Settle(Vec<LedgerEntry>),
    /// Write the status.
    Report(S),
}

/// A disk and the objects that decide on its status, as read.
pub struct DiskSeen {
    /// The disk.
    pub disk: Arc<NodeDisk>,
    /// The reservations in the ledger.
    pub owners: Vec<Arc<DiskReservation>>,
    /// True if the disk's Node is ready; `None`: the Node is missing.
    pub node_ready: Option<bool>,
    /// True if the disk's Node is cordoned.
    pub cordoned: bool,
    /// True if the node's agent has not served for a while.
    pub silent: bool,
    /// True if the Node of a disk that goes with it is missing, by a live read (D7).
    pub missing: bool,
    /// The pods that use volumes of the disk, once it was declared gone (D4).
    pub users: Vec<PodRef>,
    /// True if entries were settled already.
    pub settled: bool,
    /// The time.
    pub now: Timestamp,
}

/// A VolumeRole and the objects that decide on its status, as read.
pub struct RoleSeen {
    /// The VolumeRole.
    pub role: Arc<VolumeRole>,
    /// All VolumeRoles.
    pub roles: Vec<Arc<VolumeRole>>,
    /// All reservations.
    pub reservations: Vec<Arc<DiskReservation>>,
    /// All disks, if the role has templates (R7) or a guarantee (Q2).
    pub disks: Vec<Arc<NodeDisk>>,
    /// All Nodes, if the role has templates.
    pub nodes: Vec<Arc<Node>>,
    /// Why the API server refuses to make reservations that its templates lack (R7).
    pub refused: Option<String>,
    /// True if entries were settled already.
    pub settled: bool,
    /// The time.
    pub now: Timestamp,
}

/// The next step for a disk.
pub fn next_for_disk(seen: &DiskSeen) -> Step<NodeDiskStatus> {
    let owners = ByName::new(refs(&seen.owners));
    match owners.unsettled(&*seen.disk) {
        entries if entries.is_empty() || seen.settled => Step::Report(disk_status(seen)),
        entries => Step::Settle(entries),
    }
}

/// The next step for a VolumeRole.
pub fn next_for_role(seen: &RoleSeen) -> Step<VolumeRoleStatus> {
    let (roles, reservations) = (refs(&seen.roles), refs(&seen.reservations));
    match ByName::new(reservations.iter().copied()).unsettled(&*seen.role) {
        entries if entries.is_empty() || seen.settled || !keeps_ledger(&seen.role, &roles) => {
            let (role, disks, nodes) = (&seen.role, refs(&seen.disks), template::labels(&seen.nodes));
            let mut status = role_status(role, &roles, &disks, &reservations, seen.now);
            let counted = template::status(role, &disks, &nodes, &reservations);
            // Another VolumeRole counts for the role: the templates of this one make nothing.
            let counts = rival(role, &roles).is_none();
            let refused = seen.refused.as_deref();
            let verdict = template::verdict(role, &disks, &nodes, &reservations, &counted, refused);
            let verdict = verdict.filter(|_| counts);
            status.reservation_templates = counted;
            match verdict {
                Some(verdict) => {
                    let generation = role.metadata.generation;
                    condition::set(&mut status.conditions, TEMPLATED, verdict, generation, seen.now);
                }
                None => status.conditions.retain(|condition| condition.type_ != TEMPLATED),
            }
            Step::Report(status)
        }
        entries => Step::Settle(entries),
    }
}

/// The status of a disk: the sums of its ledger, and the condition `Ready` (D1).
fn disk_status(seen: &DiskSeen) -> NodeDiskStatus {
    let disk = &seen.disk;
    let mut status = disk.with_entries(disk.ledger().into_entries());
    status.cordoned = seen.cordoned;
    status.missing_node = node_lifetime::missing_node(disk, seen.missing, seen.now);
    let mut verdict = disk_condition(seen, &status.conditions);
    if verdict.ok && seen.cordoned {
        let node = &disk.spec.node_name;
        verdict.message = format!(
            "the disk can be used; nothing new is placed on it, since node {node} is cordoned: kubectl uncordon {node}"
        );
    }
    condition::set(&mut status.conditions, READY, verdict, disk.metadata.generation, seen.now);
    status
}

/// The condition `Ready` of a disk, from the administrator's declaration, its node and its agent (D4, D8). `node_ready` is
/// `None` if the Node is missing.
fn disk_condition(seen: &DiskSeen, conditions: &[Condition]) -> Verdict {
    let DiskSeen { ref disk, node_ready, silent, missing, ref users, .. } = *seen;
    let (spec, node) = (&disk.spec, &disk.spec.node_name);
    let stays = "its reservations and data stay";
    match (node_ready, condition::get(conditions, DISK_HEALTHY)) {
        _ if node_lifetime::has_left(disk) => Verdict::no(reason::NODE_GONE, node_lifetime::left(disk)),
        _ if spec.gone => Verdict::no(reason::DISK_GONE, declared_gone(users)),
        (_, _) if missing => Verdict::no(reason::NODE_UNREACHABLE, node_lifetime::leaving(disk)),
        // The first report is the event, and a live read may show that later.
        (None, _) if node_lifetime::may_end(disk) => {
            Verdict::no(reason::NODE_UNREACHABLE, node_lifetime::leaving(disk))
        }
        (None, _) => Verdict::no(reason::NODE_UNREACHABLE, format!("there is no Node {node}; {stays}")),
        (Some(false), _) => {
            Verdict::no(reason::NODE_UNREACHABLE, format!("node {node} is not Ready; {stays}"))
        }
        (_, None) => Verdict::no(
            reason::AGENT_SILENT,
            format!("the agent on node {node} has not reported the disk yet"),
        ),
        _ if silent => Verdict::no(
            reason::AGENT_SILENT,
            format!(
                "no agent on node {node} has been Ready for a minute; {stays}, running pods keep their mounts, and \
                 new ones wait"
            ),
        ),
        (_, Some(c)) if c.status == "True" => {
            Verdict::yes(reason::READY, "the disk can be reserved and used")
        }
        (_, Some(c)) if c.reason == reason::SPACE_TAKEN => {
            Verdict::no(reason::SPACE_TAKEN, c.message.clone())
        }
        (_, Some(c)) => Verdict::no(reason::DISK_REFUSED, c.message.clone()),
    }
}

/// The message of a disk that was declared gone. Claims, volumes and reservations that are in use are not deleted.
fn declared_gone(users: &[PodRef]) -> String {
    let first = match users {
        [] => String::new(),
        users => format!("first end what uses its volumes, pod {}; then ", names(users, users.len())),
    };
    format!(
        "it was declared gone, for good: {first}delete the claims, volumes and reservations that were on it, then the NodeDisk"
    )
}

/// Sums of bytes of a role and its sub-roles, on all disks (Q1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleSums {
    /// Bytes of their reservations.
    pub reserved: u64,
    /// Bytes of their volumes. A volume in a refinement counts once.
    pub used: u64,
}

/// The sums of each role with a reservation, and of each ancestor of such a role.
pub fn by_role<'a>(reservations: &[&'a DiskReservation]) -> BTreeMap<&'a str, RoleSums> {
    let by_name = ByName::new(reservations.iter().copied());
    let mut sums: BTreeMap<&str, RoleSums> = BTreeMap::new();
    for (reservation, status) in served(reservations) {
        let (role, parent) = (&reservation.spec.role, by_name.parent_role(reservation));
        for of in quota::lineage(role) {
            let sum = sums.entry(of).or_default();
            sum.used = sum.used.saturating_add(ledger::total(&status.volumes));
            if quota::charges(of, role, parent) {
                sum.reserved = sum.reserved.saturating_add(size(status));
            }
        }
    }
    sums
}

/// Bytes that volumes use on each disk.
pub fn used_on_disks<'a>(reservations: &[&'a DiskReservation]) -> BTreeMap<&'a str, u64> {
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, status) in served(reservations) {
        let sum = used.entry(status.node_disk.as_deref().unwrap_or_default()).or_default();
        *sum = sum.saturating_add(ledger::total(&status.volumes));
    }
    used
}

/// The reservations that have a disk.
fn served<'a>(
    reservations: &[&'a DiskReservation],
) -> impl Iterator<Item = (&'a DiskReservation, &'a DiskReservationStatus)> {
    let status =
        |r: &&'a DiskReservation| r.status.as_ref().filter(|s| s.node_disk.is_some()).map(|s| (*r, s));
    reservations.iter().filter_map(status)
}

/// The sums of a role.
pub fn role_totals(role: &VolumeRole, reservations: &[&DiskReservation]) -> VolumeRoleStatus {
    let sums = by_role(reservations).get(role.spec.role.as_str()).copied().unwrap_or_default();
    VolumeRoleStatus {
        reserved: Some(Size::from_bytes(sums.reserved)),
        used: Some(Size::from_bytes(sums.used)),
        ..Default::default()
    }
}

/// True if a VolumeRole keeps a ledger: the object has a quota, and counts for its role.
pub fn keeps_ledger(role: &VolumeRole, all: &[&VolumeRole]) -> bool {
    quota::has_quota(role) && rival(role, all).is_none()
}

/// The status of a VolumeRole: its sums, its ledger if any, and the condition `Ready` (Q1, Q2).
///
/// The ledger includes all existing reservations, even beyond the limit, and then only new reservations are refused. If
/// the ledger cannot list all of them, the role gets no further bytes at all (A8).
fn role_status(
    role: &VolumeRole,
    all: &[&VolumeRole],
    disks: &[&NodeDisk],
    reservations: &[&DiskReservation],
    now: Timestamp,
) -> VolumeRoleStatus {
    let (mut status, mut left_out) = (role_totals(role, reservations), 0u64);
    if keeps_ledger(role, all) {
        let (mut ledger, by_name) = (role.ledger(), ByName::new(reservations.iter().copied()));
        for reservation in reservations {
            let parent = by_name.parent_role(reservation);
            let low = match role.belongs(reservation, parent) {
                true => *entry::bounds(role, reservation, parent).start(),
                false => 0,
            };
            let is_new = ledger.get(reservation.metadata.uid.as_deref().unwrap_or_default()).is_none();
            match is_new && ledger.entries().len() >= MOST_ENTRIES {
                true => left_out = left_out.saturating_add(low),
                false => ledger = ledger.set_within(entry::entry_of(reservation, low), low, u64::MAX),
            }
        }
        status.reserved = Some(Size::from_bytes(ledger.total().saturating_add(left_out)));
        status.reservations = ledger.into_entries();
    }
    let reserved = ledger::total(&status.reservations).saturating_add(left_out);
    let verdict = role_condition(role, all, disks, reserved, left_out);
    status.conditions = role.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    condition::set(&mut status.conditions, READY, verdict, role.metadata.generation, now);
    status
}

/// The older VolumeRole for the same role, which counts.
fn rival<'a>(role: &VolumeRole, all: &[&'a VolumeRole]) -> Option<&'a VolumeRole> {
    let counts = quota::counting(all).get(role.spec.role.as_str()).copied();
    counts.filter(|counts| counts.metadata.uid != role.metadata.uid)
}

/// The condition `Ready` of a VolumeRole: the object counts for its role, its limit is not exceeded, and its guarantee can be met
/// (Q2).
fn role_condition(
    role: &VolumeRole,
    all: &[&VolumeRole],
    disks: &[&NodeDisk],
    reserved: u64,
    left_out: u64,
) -> Verdict {
    let (of, limit) = (&role.spec.role, role.spec.quota.limit.as_ref());
    let over = reserved.saturating_sub(limit.map_or(u64::MAX, Size::bytes_or_zero));
    match rival(role, all) {
        Some(older) => Verdict::no(
            reason::ROLE_TAKEN,
            format!("VolumeRole {} speaks for role {of} already; delete this one", older.name_any()),
        ),
        None if left_out > 0 => Verdict::no(
            reason::TOO_MANY_RESERVATIONS,
            format!(
                "role {of} has more than {MOST_ENTRIES} reservations, with {} that status.reservations cannot list; nothing \
                 more is given until some are deleted",
                Size::from_bytes(left_out)
            ),
        ),
        None if over > 0 => Verdict::no(
            reason::OVER_LIMIT,
            format!(
                "role {of} has {} reserved, {} more than its limit; nothing is taken away, and nothing more is given until \
                 that much is unreserved",
                Size::from_bytes(reserved),
                Size::from_bytes(over)
            ),
        ),
        None => match quota::impossible(role, all, disks) {
            Some(impossible) => Verdict::no(
                reason::GUARANTEE_TOO_LARGE,
                format!(
                    "{}; what is free is kept for it, and others wait: lower spec.quota.guarantee, or {}",
                    impossible.why, impossible.remedy
                ),
            ),
            None => Verdict::yes(reason::READY, format!("sums up role {of}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Lifetime, UidRef};
    use crate::plan::testing::*;

    fn seen() -> DiskSeen {
        DiskSeen {
            disk: Arc::new(disk("n1.a", "n1", 10, &[])),
            owners: vec![],
            node_ready: Some(true),
            cordoned: false,
            silent: false,
            missing: false,
            users: vec![],
            settled: true,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    /// D4: what is in use is deleted by nobody, so the pods end first.
    #[test]
    fn d4_a_disk_that_was_declared_gone_names_its_users() {
        let mut gone = disk("n1.a", "n1", 10, &[]);
        gone.spec.gone = true;
        let said = |users| {
            let Step::Report(status) =
                next_for_disk(&DiskSeen { disk: Arc::new(gone.clone()), users, ..seen() })
            else {
                panic!()
            };
            condition::get(&status.conditions, READY).unwrap().message.clone()
        };
        let then = "delete the claims, volumes and reservations that were on it, then the NodeDisk";
        assert_eq!(said(vec![]), format!("it was declared gone, for good: {then}"));
        let used = said(vec![pod("c", "g2"), pod("d", "g3")]);
        let first =
            "it was declared gone, for good: first end what uses its volumes, pod c/g2 and d/g3; then ";
        assert_eq!(used, format!("{first}{then}"));
    }

    #[test]
    fn d4_a_vanished_or_unready_node_makes_its_disk_unready() {
        let healthy = seen().disk.status.clone().unwrap().conditions;
        assert!(disk_condition(&seen(), &healthy).ok);
        for (conditions, node, silent, reason) in [
            (&healthy[..], None, true, "NodeUnreachable"),
            (&healthy[..], Some(false), true, "NodeUnreachable"),
            (&[][..], Some(true), false, "AgentSilent"),
            (&healthy[..], Some(true), true, "AgentSilent"),
        ] {
            let seen = DiskSeen { node_ready: node, silent, ..seen() };
            assert_eq!(disk_condition(&seen, conditions).reason, reason);
        }
        // D7: its data does not stay.
        let mut goes = disk("n1.a", "n1", 10, &[]);
        (goes.spec.lifetime, goes.spec.node_uid) = (Lifetime::Node, Some("uid".into()));
        let said =
            disk_condition(&DiskSeen { disk: Arc::new(goes), node_ready: None, ..seen() }, &healthy).message;
        assert!(said.contains("the disk goes with it") && !said.contains("data stay"), "{said}");
    }

    #[test]
    fn r1_a_disk_says_that_its_node_is_cordoned() {
        let seen = |cordoned| DiskSeen { cordoned, ..seen() };
        for (cordoned, message) in [
            (false, "the disk can be reserved and used"),
            (
                true,
                "the disk can be used; nothing new is placed on it, since node n1 is cordoned: kubectl uncordon n1",
            ),
        ] {
            let Step::Report(status) = next_for_disk(&seen(cordoned)) else { panic!() };
            let ready = condition::get(&status.conditions, READY).unwrap();
            assert_eq!((ready.status.as_str(), ready.message.as_str()), ("True", message));
        }
    }

    #[test]
    fn q1_a_role_is_charged_for_its_reservations_and_sub_roles_once() {
        let rs = [
            reserved("a", "eng", 10, &[("v", 4)]),
            reserved("b", "eng/ml", 5, &[("w", 5)]),
            reserved("c", "ops", 7, &[]),
            reservation("pending", "eng", 100),
        ];
        let refs: Vec<_> = rs.iter().collect();
        let totals = role_totals(&volume_role("eng", "eng"), &refs);
        assert_eq!(
            (totals.reserved.unwrap().as_str().to_owned(), totals.used.unwrap().as_str().to_owned()),
            ("15Gi".into(), "9Gi".into())
        );
    }

    #[test]
    fn q1_what_was_carved_out_of_a_roles_own_is_charged_once() {
        let mut rs = [reserved("a", "eng", 10, &[("v", 4)]), reserved("b", "eng/ml", 5, &[("w", 3)])];
        rs[0].status.as_mut().unwrap().refinements = vec![ledger_entry("b", "eng/ml", 5)];
        rs[1].spec.parent = Some("a".into());
        rs[1].status.as_mut().unwrap().parent = Some(UidRef { name: "a".into(), uid: "uid-a".into() });
        let refs: Vec<_> = rs.iter().collect();
        for (role, reserved, used) in [("eng", 10, 7), ("eng/ml", 5, 3)] {
            let totals = role_totals(&volume_role("r", role), &refs);
            assert_eq!((totals.reserved, totals.used), (Some(gi(reserved)), Some(gi(used))), "{role}");
        }
        let (disk, of) = (rs[0].status.clone().unwrap().node_disk.unwrap(), used_on_disks(&refs));
        assert_eq!(of, BTreeMap::from([(disk.as_str(), 7 << 30)]), "what is carved out is on the same disk");
    }

    #[test]
    fn q2_a_limit_that_was_set_later_takes_nothing_away() {
        let eng = with_quota(volume_role("eng", "eng"), Some(5), None, &[("a", 8)]);
        let verdict = |reserved: u64| role_condition(&eng, &[&eng], &[], reserved << 30, 0);
        assert!(verdict(5).ok);
        assert_eq!(verdict(8).reason, "OverLimit");
        assert!(verdict(8).message.starts_with("role eng has 8Gi reserved, 3Gi more than its limit"));
    }

    #[test]
    fn q2_a_guarantee_beyond_all_disks_is_not_ready() {
        let eng = with_quota(volume_role("eng", "eng"), None, Some(5), &[]);
        let (small, large) = (disk("n1.a", "n1", 4, &[]), disk("n2.a", "n2", 1, &[]));
        let told = role_condition(&eng, &[&eng], &[&small], 0, 0);
        let why = "the guarantee of 5Gi is more than all disks have, which is 4Gi; what is free is kept for it, and others wait: \
                   lower spec.quota.guarantee, or add disks";
        assert_eq!((told.reason, told.message.as_str()), ("GuaranteeTooLarge", why));
        assert!(role_condition(&eng, &[&eng], &[&small, &large], 0, 0).ok);
    }

    #[test]
    fn q1_one_object_speaks_for_a_role() {
        let (a, mut b) = (volume_role("a", "eng"), volume_role("b", "eng"));
        b.metadata.creation_timestamp = later();
        assert!(role_condition(&a, &[&a, &b], &[], 0, 0).ok);
        assert_eq!(role_condition(&b, &[&a, &b], &[], 0, 0).reason, "RoleTaken");
    }

    #[test]
    fn a8_a_role_with_more_than_it_can_list_gets_nothing_more() {
        let mut eng = with_quota(volume_role("eng", "eng"), Some(5000), None, &[]);
        let many: Vec<_> = (0..1002).map(|i| reserved(&format!("r{i}"), "eng", 1, &[])).collect();
        let status = role_status(&eng, &[&eng], &[], &many.iter().collect::<Vec<_>>(), Timestamp::UNIX_EPOCH);
        assert_eq!((status.reservations.len(), status.reserved.clone()), (1000, Some(gi(1002))));
        let ready = condition::get(&status.conditions, READY).unwrap();
        assert_eq!(ready.reason, "TooManyReservations");
        assert!(ready.message.contains("with 2Gi that status.reservations cannot list"), "{}", ready.message);
        eng.status = Some(status);
        let refused = |new| quota::refusal(&eng, new, &quota::Taken::default(), 1).map(|why| why.reason);
        assert_eq!([refused(None), refused(Some("eng"))], [Some("TooManyReservations"); 2], "growth neither");
    }

    #[test]
    fn q2_a_ledger_takes_in_what_is_there_also_beyond_the_limit() {
        let eng = with_quota(volume_role("eng", "eng"), Some(5), None, &[("a", 3)]);
        let mut waits = reserved("b", "eng/ml", 7, &[]);
        waits.status.as_mut().unwrap().node_disk = None;
        let (a, c) = (reserved("a", "eng", 2, &[]), reserved("c", "eng/ml", 6, &[]));
        let status = role_status(&eng, &[&eng], &[], &[&a, &waits, &c], Timestamp::UNIX_EPOCH);
        let expected = [ledger_entry("a", "eng", 3), ledger_entry("c", "eng/ml", 6)];
        assert_eq!(
            status.reservations, expected,
            "an entry is cut elsewhere, and none is made for one that waits"
        );
        assert_eq!(condition::get(&status.conditions, READY).unwrap().reason, "OverLimit");
    }
}
