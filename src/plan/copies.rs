//! Copies of a sealed volume on other nodes (E2, E5).
//!
//! A copy is a volume like any other, in a reservation on its node. The original's reconcile makes the missing ones and counts
//! them. Each copy's own reconcile decides whether it is still wanted, and from where it is filled; all copies decide that on
//! the same objects by the same rule, so nobody has to hand out turns. A copy that is not wanted is retired (X5), so one that is
//! in use goes on.

mod family;
mod obstacle;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::api::condition::{self, COPIED, INTACT, READY, SEALED, Verdict, reason};
use crate::api::{
    Copies, CopiesStatus, CopyOf, DiskReservation, FsType, LABEL_CLAIM_NAMESPACE, LABEL_COPY_OF,
    LABEL_PVC_UID, NodeDisk, SharedPersistentVolume, SharedPersistentVolumeSpec,
    SharedPersistentVolumeStatus, stable_hash,
};

pub use self::family::{Family, has_failed, is_awaited, source, transfer};
use self::family::{can_send, sends, sources};
pub use self::obstacle::Obstacle;
use super::node_labels::{self, is_complete};
use super::{candidate, create, refs, selects};

/// The most nodes that a condition names.
const NAMED: usize = 3;

/// The state around a volume that has, or is to have, copies. Everything is from the caches.
#[derive(Debug)]
pub struct Around {
    /// Its copies.
    pub copies: Vec<Arc<SharedPersistentVolume>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// All disks.
    pub disks: Vec<Arc<NodeDisk>>,
    /// All reservations.
    pub reservations: Vec<Arc<DiskReservation>>,
    /// The names of copies that other volumes have, see [`taken_names`].
    pub taken: BTreeSet<String>,
}

/// The copies of a volume.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// The numbers; `None` for a volume without copies.
    pub status: Option<CopiesStatus>,
    /// The condition `Copied`; `None`: it is removed.
    pub verdict: Option<Verdict>,
    /// The copies to be made.
    pub missing: Vec<SharedPersistentVolume>,
    /// The nodes without a copy, each with the reason.
    pub obstacles: Vec<(String, Obstacle)>,
}

/// The node of a copy.
pub fn node_of(copy: &SharedPersistentVolume) -> Option<&str> {
    let placed = copy.status.as_ref().and_then(|status| status.node_name.as_deref());
    placed.or(copy.spec.copy_of.as_ref().map(|of| of.node.as_str()))
}

/// The condition `Ready` of a copy that has not the content of its original; `None`: it has it, or is no copy.
pub fn unfinished(copy: &SharedPersistentVolume, family: Option<&Family>) -> Option<Verdict> {
    let of = copy.spec.copy_of.as_ref().filter(|_| !is_complete(copy))?;
    let status = copy.status.clone().unwrap_or_default();
    if let Some(digest) = status.digest {
        let why = format!(
            "its content has the digest {digest}, and that of volume {} has {}: delete it, and it is made anew",
            of.name, of.digest
        );
        return Some(Verdict::no(reason::COPY_DIFFERS, why));
    }
    Some(match condition::get(&status.conditions, SEALED) {
        Some(sealed) if sealed.reason == reason::COPY_FAILED => {
            Verdict::no(reason::COPY_FAILED, sealed.message.clone())
        }
        _ if let Some(source) = status.source => {
            Verdict::no(reason::COPYING, format!("it is being filled from volume {}", source.name))
        }
        _ if family.is_some_and(|family| sources(family).is_empty()) => {
            let why = format!(
                "it waits for volume {}, or for a copy of it: none of them is ready, complete, and on a node that sends copies",
                of.name
            );
            Verdict::no(reason::COPYING, why)
        }
        _ => Verdict::no(reason::COPYING, "it waits for its turn to be filled from another copy"),
    })
}

fn is_used(volume: &SharedPersistentVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| !status.claims.is_empty() || status.user_count > 0)
}

/// True if a Node is to have a copy.
fn is_selected(copies: &Copies, original: &SharedPersistentVolume, node: &Node) -> bool {
    let own = original.status.as_ref().and_then(|status| status.node_name.as_ref());
    let fits = copies.node_selector.as_ref().is_none_or(|wanted| selects(wanted, node.labels()));
    let is_own = node.metadata.name.as_ref() == own;
    fits && node.metadata.deletion_timestamp.is_none() && (!is_own || copies.own_node)
}

/// The names of the copies of a volume that other volumes have. `find`: the volume of a name.
pub fn taken_names<V: Deref<Target = SharedPersistentVolume>>(
    original: &SharedPersistentVolume,
    nodes: &[Arc<Node>],
    find: impl Fn(&str) -> Option<V>,
) -> BTreeSet<String> {
    let Some(copies) = &original.spec.copies else { return BTreeSet::new() };
    let uid = original.uid().unwrap_or_default();
    let is_copy = |of: &SharedPersistentVolume| of.spec.copy_of.as_ref().is_some_and(|of| of.uid == uid);
    let selected = nodes.iter().filter(|node| is_selected(copies, original, node));
    let names = selected.map(|node| name(&original.name_any(), &uid, &node.name_any()));
    names.filter(|name| find(name).is_some_and(|volume| !is_copy(&volume))).collect()
}

/// The copies of a volume: the numbers, and those to be made.
pub fn plan(original: &SharedPersistentVolume, around: &Around) -> Plan {
    let used = around.copies.iter().filter(|copy| is_used(copy)).count() as u32;
    let Some(copies) = &original.spec.copies else {
        let status = (!around.copies.is_empty()).then(|| CopiesStatus { used, ..Default::default() });
        return Plan { status, ..Default::default() };
    };
    let mut nodes: Vec<&Node> = around.nodes.iter().map(AsRef::as_ref).collect();
    nodes.retain(|node| is_selected(copies, original, node));
    nodes.sort_by_key(|node| node.name_any());
    // Of two copies of a node the first one counts.
    let copies_on: BTreeMap<&str, &SharedPersistentVolume> =
        around.copies.iter().rev().filter_map(|copy| Some((node_of(copy)?, &**copy))).collect();
    let copy_on = |node: &Node| copies_on.get(node.metadata.name.as_deref()?).copied();
    let is_usable = |copy: &SharedPersistentVolume| is_complete(copy) && copy.is_ready();
    let has_copy = |node: &&&Node| copy_on(node).is_some_and(is_usable);
    let ready = nodes.iter().filter(has_copy).count() as u32;
    let mut status = CopiesStatus { wanted: nodes.len() as u32, ready, used, ..Default::default() };
    // Nothing new for a volume that ends.
    if original.is_ending() {
        return Plan { status: Some(status), ..Default::default() };
    }
    let reported =
        |status, verdict| Plan { status: Some(status), verdict: Some(verdict), ..Default::default() };
    let Some(digest) = original.status.as_ref().and_then(|status| status.digest.as_ref()) else {
        let why = match original.spec.sealed {
            true => "it has copies once it is sealed, which its condition Sealed tells more about",
            false => "it has copies once it is sealed: set spec.sealed to true when its files are complete",
        };
        return reported(status, Verdict::no(reason::NOT_SEALED, why));
    };
    if nodes.is_empty() {
        let besides = if copies.own_node { "" } else { " besides its own" };
        let why = format!(
            "no node{besides} has the labels of spec.copies.nodeSelector: correct them, or label nodes"
        );
        return reported(status, Verdict::no(reason::NO_NODE_SELECTED, why));
    }
    let can_fill =
        can_send(original, &around.disks) || around.copies.iter().any(|copy| can_send(copy, &around.disks));
    if status.ready < status.wanted && !can_fill && !sends(original, &around.disks) {
        let why = "the agent of its node sends no copies: have an administrator set agent.copies.enabled: true in the chart's \
                   values";
        return reported(status, Verdict::no(reason::COPIES_OFF, why));
    }
    let names: BTreeSet<String> = around.copies.iter().map(|copy| copy.name_any()).collect();
    let (mut missing, mut obstacles) = (vec![], vec![]);
    for node in nodes {
        let (full, name) = (node_labels::is_full(node), node.name_any());
        let obstacle = match copy_on(node) {
            Some(copy) => obstacle::of_copy(copy, can_fill),
            None if full => Some(Obstacle::NodeFull),
            None => match make(original, copies, digest, &name, around) {
                Ok(copy) if names.contains(&copy.name_any()) => Some(Obstacle::Moved(copy.name_any())),
                Ok(copy) if around.taken.contains(&copy.name_any()) => {
                    Some(Obstacle::NameTaken(copy.name_any()))
                }
                Ok(copy) => {
                    missing.push(copy);
                    None
                }
                Err(why) if why.reason == reason::NO_RESERVATION => Some(
                    obstacle::reserved_in_vain(original, node, &around.disks, &around.reservations)
                        .unwrap_or(Obstacle::NoPlace(why)),
                ),
                Err(why) => Some(Obstacle::NoPlace(why)),
            },
        };
        obstacles.extend(obstacle.map(|why| (name, why)));
    }
    status.failed = obstacles.len() as u32;
    let CopiesStatus { wanted, ready, failed, .. } = status;
    let verdict = match &obstacles[..NAMED.min(obstacles.len())] {
        [] if ready == wanted => {
            Verdict::yes(reason::COPIED, format!("each of the selected nodes has a copy: {wanted}"))
        }
        [] => Verdict::no(reason::COPYING, format!("{ready} of {wanted} copies are complete")),
        first => {
            let more = obstacles.len() - first.len();
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let first: Vec<String> = first.iter().map(|(node, why)| format!("{node}: {why}")).collect();
            let why =
                format!("{failed} of {wanted} selected nodes are without a copy: {}{more}", first.join("; "));
            Verdict::no(reason::COPIES_MISSING, why)
        }
    };
    Plan { status: Some(status), verdict: Some(verdict), missing, obstacles }
}

/// The copy of a volume for a node, in the reservation there that suits best.
fn make(
    original: &SharedPersistentVolume,
    copies: &Copies,
    digest: &str,
    node: &str,
    around: &Around,
) -> Result<SharedPersistentVolume, Verdict> {
    let disks = refs(&around.disks);
    let own = original.status.as_ref().and_then(|status| status.node_disk.as_ref());
    let receives = |disk: &&NodeDisk| candidate::is_ready(disk) && transfer(disk).is_some();
    let here: BTreeSet<&String> = disks
        .iter()
        .filter(|disk| disk.spec.node_name == node && receives(disk))
        .filter_map(|disk| disk.metadata.name.as_ref().filter(|name| Some(*name) != own))
        .collect();
    let on_node = |r: &&DiskReservation| {
        r.status.as_ref().and_then(|status| status.node_disk.as_ref()).is_some_and(|disk| here.contains(disk))
    };
    let reservations: Vec<&DiskReservation> =
        around.reservations.iter().map(AsRef::as_ref).filter(on_node).collect();
    if reservations.is_empty() {
        let role = &original.spec.role;
        let why = format!(
            "nothing is reserved for role {role} on a disk that is ready and whose agent copies: reserve there"
        );
        return Err(Verdict::no(reason::NO_RESERVATION, why));
    }
    let draft = draft(original, copies, digest, node);
    // The digest does not depend on the file system, and a btrfs has no other.
    let drafts = [draft.spec.fs_type, FsType::Ext4, FsType::Btrfs].map(|fs_type| {
        let mut draft = draft.clone();
        draft.spec.fs_type = fs_type;
        draft
    });
    let free = |of| create::choose(of, &reservations, &disks);
    // X8: kept data gives way.
    let kept = |of| create::room_of_kept(of, &reservations, &disks).map(|(reservation, _)| reservation);
    let with_space = drafts.iter().find_map(|of| Some((of, free(of).ok()?)));
    let chosen = with_space.or_else(|| drafts.iter().find_map(|of| Some((of, kept(of)?))));
    let Some((draft, reservation)) = chosen else {
        return Err(free(&draft).err().unwrap_or_else(create::reservation_gone));
    };
    let mut copy = draft.clone();
    copy.spec.reservation = Some(reservation.name_any());
    Ok(copy)
}

fn draft(
    original: &SharedPersistentVolume,
    copies: &Copies,
    digest: &str,
    node: &str,
) -> SharedPersistentVolume {
    let (of, uid) = (&original.spec, original.uid().unwrap_or_default());
    let granted = original.status.as_ref().and_then(|status| status.size.clone());
    let spec = SharedPersistentVolumeSpec {
        role: of.role.clone(),
        size: granted.unwrap_or_else(|| of.size.clone()),
        shared: of.shared,
        sub_roles: of.sub_roles,
        fs_type: of.fs_type,
        gid: of.gid,
        permissions: of.permissions.clone(),
        mount_options: of.mount_options.clone(),
        erase_policy: of.erase_policy,
        sealed: true,
        copy_of: Some(CopyOf {
            name: original.name_any(),
            uid: uid.clone(),
            digest: digest.to_owned(),
            node: node.to_owned(),
            bytes_per_second: copies.bytes_per_second.clone(),
        }),
        ..Default::default()
    };
    let mut copy = SharedPersistentVolume::new(&name(&original.name_any(), &uid, node), spec);
    let mut labels = original.labels().clone();
    labels.retain(|key, _| ![LABEL_PVC_UID, LABEL_CLAIM_NAMESPACE].contains(&key.as_str()));
    labels.insert(LABEL_COPY_OF.to_owned(), uid);
    copy.metadata.labels = Some(labels);
    copy
}

/// The name of the copy of a volume for a node.
fn name(original: &str, uid: &str, node: &str) -> String {
    const LONGEST: usize = 253;
    let hash = format!("{:010x}", stable_hash(&format!("{uid}/{node}")) & 0xff_ffff_ffff);
    let kept: String = original.chars().take(LONGEST - hash.len() - 1).collect();
    format!("{}-{hash}", kept.trim_end_matches(['.', '-']))
}

/// The cause that would keep a copy from its end (E2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keeper {
    /// The labels of its node, which `spec.copies` of the original selects.
    Selection,
    /// The original, which retires without a claim.
    Original,
    /// Nothing: another copy takes its place.
    NewCopy,
    /// Nothing: the original was deleted.
    Nothing,
}

/// The cause that would keep a copy of this original.
pub fn keeper(copy: &SharedPersistentVolume, original: Option<&SharedPersistentVolume>) -> Keeper {
    let conditions = copy.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let is = |type_: &str, of: &[&str]| {
        condition::get(conditions, type_).is_some_and(|c| c.status != "True" && of.contains(&&*c.reason))
    };
    let ended = [reason::COPY_DIFFERS, reason::VOLUME_GONE, reason::NODE_GONE, reason::BACKING_LOST];
    match original {
        None => Keeper::Nothing,
        Some(original) if original.metadata.deletion_timestamp.is_some() => Keeper::Nothing,
        // Bound claims of a retired volume go on, on all its nodes (X5).
        Some(original)
            if original.spec.retire
                && original.status.as_ref().is_none_or(|status| status.claims.is_empty()) =>
        {
            Keeper::Original
        }
        Some(_) if is(INTACT, &[reason::COPY_DIFFERS]) || is(READY, &ended) => Keeper::NewCopy,
        Some(_) => Keeper::Selection,
    }
}

/// The cause in words.
pub fn what_keeps(of: &CopyOf, keeper: Keeper) -> String {
    let CopyOf { name, node, .. } = of;
    match keeper {
        Keeper::Selection => format!("it stays if spec.copies of volume {name} selects node {node}"),
        Keeper::Original => {
            format!(
                "it stays if volume {name}, of which it is a copy, does: set spec.retire of that to false"
            )
        }
        Keeper::NewCopy => format!("another copy of volume {name} takes its place"),
        Keeper::Nothing => format!("volume {name}, of which it is a copy, was deleted"),
    }
}

/// True if a copy is to stay, false if it is to end; `None`: it stays as it is, whatever was decided before.
pub fn is_wanted(copy: &SharedPersistentVolume, family: &Family) -> Option<bool> {
    let Some(original) = &family.original else {
        // A complete copy may be all that is left of the data.
        return if is_complete(copy) { None } else { Some(false) };
    };
    let selection = original.spec.copies.as_ref();
    let Some(copies) = selection.filter(|_| keeper(copy, Some(original)) == Keeper::Selection) else {
        return Some(false);
    };
    let status = copy.status.clone().unwrap_or_default();
    let ready = condition::get(&status.conditions, READY);
    let has_no_place = [
        reason::NO_RESERVATION,
        reason::RESERVATION_FULL,
        reason::TOO_MANY_VOLUMES,
        reason::SHARE_TAKEN,
        reason::WRONG_DISK,
    ];
    let is_without_place =
        ready.is_some_and(|ready| ready.status != "True" && has_no_place.contains(&&*ready.reason));
    // X8: kept data gives way.
    let has_room =
        |of: &Arc<DiskReservation>| create::room_of_kept(copy, &[of], &refs(&family.disks)).is_some();
    // One without a place that retires already has another reason by now, and goes (X10).
    let is_stuck = status.reservation.is_none()
        && (copy.spec.retire || is_without_place && !family.reservation.as_ref().is_some_and(has_room));
    if is_stuck {
        return Some(false);
    }
    // Nothing is given up because a Node is missing (D4).
    family.node.as_ref().map(|node| is_selected(copies, original, node))
}

/// Decides on an agent that asks for a sealed volume, with objects that were read live. It may have exactly the volume that the
/// controller names as the source of a copy on its own node, while that copy is being filled. Returns the digest that the
/// volume has to have.
pub fn may_read(
    copy: Option<&SharedPersistentVolume>,
    disk: Option<&NodeDisk>,
    key: &str,
    volume: &str,
) -> Result<String, &'static str> {
    let status = copy.and_then(|copy| copy.status.as_ref());
    let of = copy.and_then(|copy| copy.spec.copy_of.as_ref()).ok_or("there is no such copy")?;
    let is_live = copy.is_some_and(|copy| copy.metadata.deletion_timestamp.is_none());
    let status =
        status.filter(|status| is_live && status.digest.is_none()).ok_or("the copy is not being filled")?;
    let is_of = |disk: &NodeDisk| {
        disk.metadata.name == status.node_disk
            && Some(&disk.spec.node_name) == status.node_name.as_ref()
            && transfer(disk).is_some_and(|transfer| transfer.key == key)
    };
    if !disk.is_some_and(is_of) {
        return Err("the copy is not on the node of that key");
    }
    let is_source = status.source.as_ref().is_some_and(|source| source.uid == volume);
    if is_source { Ok(of.digest.clone()) } else { Err("the copy is filled from another volume") }
}

/// Adds the numbers and the condition to the status of the original.
pub fn report(
    plan: &Plan,
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    now: Timestamp,
) {
    status.copies = plan.status;
    match &plan.verdict {
        Some(verdict) => {
            let generation = volume.metadata.generation;
            condition::set(&mut status.conditions, COPIED, verdict.clone(), generation, now);
        }
        None => status.conditions.retain(|condition| condition.type_ != COPIED),
    }
}

/// True if the report changes nothing but the number of complete copies, while others are still missing. Copies that become complete
/// within a moment are one write of the original.
pub fn is_recount(volume: &SharedPersistentVolume, report: &SharedPersistentVolumeStatus) -> bool {
    let Some(before) = volume.status.as_ref().filter(|before| *before != report) else { return false };
    let (Some(reported), Some(now)) = (before.copies, report.copies) else { return false };
    let mut report = report.clone();
    report.copies = Some(CopiesStatus { ready: reported.ready, ..now });
    let reported = condition::get(&before.conditions, COPIED);
    let now = report.conditions.iter_mut().find(|condition| condition.type_ == COPIED);
    if let (Some(reported), Some(now)) = (reported, now)
        && now.reason == reason::COPYING
    {
        now.message.clone_from(&reported.message);
    }
    *before == report
}

#[cfg(test)]
mod tests;
