//! Why a selected node has no copy (E2).

use std::fmt::{Display, Formatter, Result};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{DiskReservation, NodeDisk, Role, SharedPersistentVolume};
use crate::plan::candidate::{self, Candidate};
use crate::plan::node_labels;

/// Why a node has no copy, for its message and its next step.
#[derive(Debug, PartialEq)]
pub enum Obstacle {
    /// The copy of this name is there, and makes no progress. The text is the message of the copy.
    Stuck(String, String),
    /// The copy of this name is on another node by now.
    Moved(String),
    /// A volume that is no copy of the original has the name of the copy.
    NameTaken(String),
    /// The node has no NodeDisk, or that of the original alone.
    NoDisk,
    /// The node has the most copies that a node can have.
    NodeFull,
    /// The space of the role is on a NodeDisk that is not ready: the reservation, the NodeDisk, and the reason of the NodeDisk.
    DiskNotReady(String, String, String),
    /// A reservation of the role for the node waits itself. The text is its message.
    Waits(String, String),
    /// No reservation on the node takes the copy.
    NoPlace(Verdict),
}

impl Display for Obstacle {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Stuck(copy, why) => write!(f, "volume {copy}: {why}"),
            Self::Moved(copy) => write!(f, "volume {copy} is on another node by now: delete it"),
            Self::NameTaken(name) => write!(
                f,
                "volume {name} is no copy, and has the name of the one for this node: retire it if its data is not needed, or select other \
                 nodes"
            ),
            Self::NoDisk => f.write_str(
                "it has no NodeDisk for a copy: select other nodes, or have an administrator add a disk to agent.disks of the chart's values",
            ),
            Self::NodeFull => write!(
                f,
                "it has copies of {} volumes, which is the most: take the node out of the nodeSelector of others",
                node_labels::MOST
            ),
            Self::DiskNotReady(reservation, disk, why) => {
                write!(f, "DiskReservation {reservation} is on NodeDisk {disk}, which is not ready: {why}")
            }
            Self::Waits(reservation, why) => write!(f, "DiskReservation {reservation} waits: {why}"),
            Self::NoPlace(why) => f.write_str(&why.message),
        }
    }
}

/// The obstacle in the place of [`Obstacle::NoPlace`], if the role has, or asks for, space on the node.
pub(super) fn reserved_in_vain(
    original: &SharedPersistentVolume,
    node: &Node,
    disks: &[Arc<NodeDisk>],
    reservations: &[Arc<DiskReservation>],
) -> Option<Obstacle> {
    let on_node = disks.iter().filter(|disk| Some(&disk.spec.node_name) == node.metadata.name.as_ref());
    let here: Vec<Candidate<'_>> =
        on_node.map(|disk| Candidate { disk, node_labels: Some(node.labels()) }).collect();
    let own = original.status.as_ref().and_then(|status| status.node_disk.as_ref());
    if here.iter().all(|of| of.disk.metadata.name.as_ref() == own) {
        return Some(Obstacle::NoDisk);
    }
    let may_use = |r: &&Arc<DiskReservation>| {
        Role::name_covers(&r.spec.role, &original.spec.role) && r.metadata.deletion_timestamp.is_none()
    };
    // One for any node may be served elsewhere.
    let is_for_node = |r: &DiskReservation| {
        r.spec.node_disk.is_some() || r.spec.node_name.is_some() || r.spec.node_selector.is_some()
    };
    let mut reservations: Vec<_> = reservations.iter().filter(may_use).collect();
    reservations.sort_by_key(|r| r.name_any());
    let of = |r: &DiskReservation| {
        let serves =
            |of: &&Candidate<'_>| of.disk.metadata.name.as_ref() != own && candidate::may_serve(r, of, &here);
        let disk = here.iter().find(serves)?.disk;
        let (name, status) = (r.name_any(), r.status.as_ref()?);
        match (&status.node_disk, disk.status.as_ref().and_then(|status| trouble(&status.conditions))) {
            (Some(_), Some(off)) => Some(Obstacle::DiskNotReady(name, disk.name_any(), off.to_owned())),
            (Some(_), None) => None,
            (None, _) if !is_for_node(r) => None,
            (None, _) => Some(Obstacle::Waits(name, trouble(&status.conditions)?.to_owned())),
        }
    };
    reservations.into_iter().find_map(|r| of(r))
}

/// The message of an object that is not Ready.
fn trouble(conditions: &[Condition]) -> Option<&str> {
    let ready = condition::get(conditions, READY).filter(|ready| ready.status != "True");
    ready.map(|ready| ready.message.as_str())
}

/// Why a copy makes no progress; `None`: it is being made, or is ending. `can_fill`: a volume with its content can be sent.
pub(super) fn of_copy(copy: &SharedPersistentVolume, can_fill: bool) -> Option<Obstacle> {
    let conditions = copy.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let ready = condition::get(conditions, READY)?;
    let passing = [reason::CREATING, reason::COPYING, reason::RETIRING, reason::DESTROYING];
    let waits_in_vain = ready.reason == reason::COPYING && !can_fill;
    let is_trouble = ready.status != "True" && (waits_in_vain || !passing.contains(&&*ready.reason));
    is_trouble.then(|| Obstacle::Stuck(copy.name_any(), ready.message.clone()))
}
