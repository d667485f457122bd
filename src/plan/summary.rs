//! Sums and standings that statuses tell: of a disk, of a role (D1, Q1).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::condition::{self, DISK_HEALTHY, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, LedgerEntry, RoleOnDisk, Size, VolumeRole, VolumeRoleStatus,
};

use super::{ledger, quota, reserve};

/// How a disk stands: the agent's word and whether its node can be reached (D4).
pub fn disk_standing(conditions: &[Condition], node: &str, node_ready: Option<bool>) -> Verdict {
    let stays = "its reservations and data stay";
    match (node_ready, condition::get(conditions, DISK_HEALTHY)) {
        (None, _) => Verdict::no(reason::NODE_UNREACHABLE, format!("there is no Node {node}; {stays}")),
        (Some(false), _) => {
            Verdict::no(reason::NODE_UNREACHABLE, format!("node {node} is not Ready; {stays}"))
        }
        (_, None) => Verdict::no(
            reason::AGENT_SILENT,
            format!("the agent on node {node} has not reported the disk yet"),
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

/// How a disk stands that an administrator declared gone (D4).
pub fn disk_gone() -> Verdict {
    Verdict::no(
        reason::DISK_GONE,
        "it was declared gone, for good: delete the volumes and reservations that were on it, then the NodeDisk",
    )
}

/// What each role reserved on a disk, by name (D1).
pub fn disk_roles(ledger: &[LedgerEntry]) -> Vec<RoleOnDisk> {
    let mut lines: BTreeMap<&str, Vec<LedgerEntry>> = BTreeMap::new();
    for line in ledger {
        lines.entry(&line.role).or_default().push(line.clone());
    }
    let sum = |(role, lines): (&str, Vec<LedgerEntry>)| RoleOnDisk {
        role: role.to_owned(),
        reserved: Size::from_bytes(ledger::total(&lines)),
        reservations: u32::try_from(lines.len()).unwrap_or(u32::MAX),
    };
    lines.into_iter().map(sum).collect()
}

/// The role of the reservation that one was carved out of.
pub fn parent_role<'a>(
    reservation: &DiskReservation,
    all: impl IntoIterator<Item = &'a DiskReservation>,
) -> Option<&'a str> {
    let parent = reservation.status.as_ref().and_then(|s| s.parent.as_ref())?;
    all.into_iter().find(|r| r.metadata.uid.as_ref() == Some(&parent.uid)).map(|r| r.spec.role.as_str())
}

/// What a role and its sub-roles have on all disks, in bytes (Q1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleSums {
    /// Their reservations.
    pub reserved: u64,
    /// The volumes in them, each counted once, and once also where one was carved out of another.
    pub used: u64,
}

/// What each role has that has a reservation, and each of its ancestors.
pub fn by_role<'a>(reservations: &[&'a DiskReservation]) -> BTreeMap<&'a str, RoleSums> {
    let by_uid: HashMap<&str, &DiskReservation> =
        reservations.iter().filter_map(|r| Some((r.metadata.uid.as_deref()?, *r))).collect();
    let mut sums: BTreeMap<&str, RoleSums> = BTreeMap::new();
    for (reservation, status) in served(reservations) {
        let parent = status.parent.as_ref().and_then(|parent| by_uid.get(parent.uid.as_str()));
        let (role, parent) = (&reservation.spec.role, parent.map(|parent| parent.spec.role.as_str()));
        for of in quota::lineage(role) {
            let sum = sums.entry(of).or_default();
            sum.used = sum.used.saturating_add(ledger::total(&status.volumes));
            if quota::charges(of, role, parent) {
                sum.reserved = sum.reserved.saturating_add(reserve::size(status));
            }
        }
    }
    sums
}

/// What volumes have of each disk, in bytes.
pub fn used_on_disks<'a>(reservations: &[&'a DiskReservation]) -> BTreeMap<&'a str, u64> {
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, status) in served(reservations) {
        let sum = used.entry(status.node_disk.as_deref().unwrap_or_default()).or_default();
        *sum = sum.saturating_add(ledger::total(&status.volumes));
    }
    used
}

/// Those that have a disk.
fn served<'a>(
    reservations: &[&'a DiskReservation],
) -> impl Iterator<Item = (&'a DiskReservation, &'a DiskReservationStatus)> {
    let status =
        |r: &&'a DiskReservation| r.status.as_ref().filter(|s| s.node_disk.is_some()).map(|s| (*r, s));
    reservations.iter().filter_map(status)
}

/// What a role has.
pub fn role_totals(role: &VolumeRole, reservations: &[&DiskReservation]) -> VolumeRoleStatus {
    let sums = by_role(reservations).get(role.spec.role.as_str()).copied().unwrap_or_default();
    VolumeRoleStatus {
        reserved: Some(Size::from_bytes(sums.reserved)),
        used: Some(Size::from_bytes(sums.used)),
        ..Default::default()
    }
}

/// How a VolumeRole stands: of two that speak for one role the older counts.
pub fn role_standing(role: &VolumeRole, all: &[&VolumeRole]) -> Verdict {
    let counts = quota::counting(all).get(role.spec.role.as_str()).copied();
    if let Some(older) = counts.filter(|counts| counts.metadata.uid != role.metadata.uid) {
        let (older, of) = (older.name_any(), &role.spec.role);
        let said = format!("VolumeRole {older} speaks for role {of} already; delete this one");
        return Verdict::no(reason::ROLE_TAKEN, said);
    }
    Verdict::yes(reason::READY, format!("sums up role {}", role.spec.role))
}

/// The same, once it is known what the role has: more than a limit that was set later is said (Q2).
pub fn quota_standing(role: &VolumeRole, reserved: u64, standing: Verdict) -> Verdict {
    let limit = role.spec.quota.limit.as_ref().map_or(u64::MAX, Size::bytes_or_zero);
    match reserved.saturating_sub(limit) {
        over if over > 0 && standing.ok => Verdict::no(
            reason::OVER_LIMIT,
            format!(
                "role {} has {} reserved, {} more than its limit; nothing is taken away, and nothing more is given until \
                 that much is unreserved",
                role.spec.role,
                Size::from_bytes(reserved),
                Size::from_bytes(over)
            ),
        ),
        _ => standing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::UidRef;
    use crate::plan::testing::*;

    #[test]
    fn d4_a_vanished_or_unready_node_makes_its_disk_unready_and_nothing_else() {
        let healthy = disk("n1.a", "n1", 10, &[]).status.unwrap().conditions;
        assert!(disk_standing(&healthy, "n1", Some(true)).ok);
        for (conditions, node, reason) in [
            (&healthy[..], None, "NodeUnreachable"),
            (&healthy[..], Some(false), "NodeUnreachable"),
            (&[][..], Some(true), "AgentSilent"),
        ] {
            assert_eq!(disk_standing(conditions, "n1", node).reason, reason);
        }
    }

    #[test]
    fn d1_what_each_role_has_on_a_disk_is_summed_up() {
        let ledger = [held_line("b", "ops", 7), held_line("a", "eng", 10), held_line("c", "eng", 5)];
        let roles = disk_roles(&ledger);
        let told: Vec<_> =
            roles.iter().map(|r| (r.role.as_str(), r.reserved.as_str(), r.reservations)).collect();
        assert_eq!(told, [("eng", "15Gi", 2), ("ops", "7Gi", 1)]);
        assert!(disk_roles(&[]).is_empty());
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
        rs[0].status.as_mut().unwrap().refinements = vec![held_line("b", "eng/ml", 5)];
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
    fn q2_a_limit_that_was_set_later_takes_nothing_away_and_says_so() {
        let eng = with_quota(volume_role("eng", "eng"), Some(5), None, &[("a", 8)]);
        let standing = |reserved: u64| quota_standing(&eng, reserved << 30, role_standing(&eng, &[&eng]));
        assert!(standing(5).ok);
        assert_eq!(standing(8).reason, "OverLimit");
        assert!(standing(8).message.starts_with("role eng has 8Gi reserved, 3Gi more than its limit"));
    }

    #[test]
    fn one_object_speaks_for_a_role() {
        let (a, mut b) = (volume_role("a", "eng"), volume_role("b", "eng"));
        b.metadata.creation_timestamp = later();
        assert!(role_standing(&a, &[&a, &b]).ok);
        assert_eq!(role_standing(&b, &[&a, &b]).reason, "RoleTaken");
    }
}
