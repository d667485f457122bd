//! Sums and standings that statuses tell: of a disk, of a role (D1, Q1).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::condition::{self, DISK_HEALTHY, Verdict, reason};
use crate::api::{DiskReservation, Role, Size, VolumeRole, VolumeRoleStatus};

use super::ledger;

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

/// What a role has: the reservations of the role and its sub-roles, and the volumes in them, each counted once.
pub fn role_totals(role: &VolumeRole, reservations: &[&DiskReservation]) -> VolumeRoleStatus {
    let (mut reserved, mut used) = (0u64, 0u64);
    for reservation in reservations {
        let Some(status) = &reservation.status else { continue };
        let counted = Role::name_covers(&role.spec.role, &reservation.spec.role);
        if counted && status.node_disk.is_some() {
            reserved = reserved.saturating_add(status.size.as_ref().map_or(0, Size::bytes_or_zero));
            used = used.saturating_add(ledger::total(&status.volumes));
        }
    }
    VolumeRoleStatus {
        reserved: Some(Size::from_bytes(reserved)),
        used: Some(Size::from_bytes(used)),
        ..Default::default()
    }
}

/// How a VolumeRole stands: of two that speak for one role the older counts.
pub fn role_standing(role: &VolumeRole, all: &[&VolumeRole]) -> Verdict {
    let age = |r: &VolumeRole| (r.creation_timestamp(), r.name_any());
    let older = all.iter().find(|other| other.spec.role == role.spec.role && age(other) < age(role));
    match older {
        Some(older) => Verdict::no(
            reason::ROLE_TAKEN,
            format!(
                "VolumeRole {} speaks for role {} already; delete this one",
                older.name_any(),
                role.spec.role
            ),
        ),
        None => Verdict::yes(reason::READY, format!("sums up role {}", role.spec.role)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn one_object_speaks_for_a_role() {
        let (a, mut b) = (volume_role("a", "eng"), volume_role("b", "eng"));
        b.metadata.creation_timestamp = later();
        assert!(role_standing(&a, &[&a, &b]).ok);
        assert_eq!(role_standing(&b, &[&a, &b]).reason, "RoleTaken");
    }
}
