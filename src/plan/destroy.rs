//! DESTROY: the next step of a volume whose deletion was accepted (X1–X4, S10, S11).
//!
//! The order is: rescind offers → fence → look for users → tombstone → erase → release the bytes → remove the
//! finalizer. Rescinding gets two seconds, since a claim cannot bind to a deleted volume anyway. The agent fences the
//! volume as soon as the deletion is visible. A user that is found later lifts the fence. Each step begins only after
//! the commit of the step before, so an interruption at any point does no harm.
//!
//! For a deleted CustomResourceDefinition, the API server deletes the objects without asking admission. Such a deletion
//! erases nothing: the object goes without a tombstone, and the data becomes an orphan (X9).
//!
//! A volume with `keepFor` is not erased either. The tombstone has the end of that time, the agent notes it in the
//! volume record, and the ledger entry stays with a mark ([`super::kept`]).

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, BACKED, READY, RESIZED, RETIRING, Verdict, reason};
use crate::api::{
    BackingState, ClaimBinding, DiskReservation, DiskReservationStatus, ErasePolicy, PodRef,
    SharedPersistentVolume, SharedPersistentVolumeStatus, Size, VolumePhase,
};

use super::kept::Left;
use super::unbind::unbind;
use super::volume::count_users;
use super::{birth, debounce, foreign_finalizer, held_by, kept, names, node_lifetime};

/// The state around a volume's object.
#[derive(Debug)]
pub struct Seen {
    /// Our finalizer is on the object.
    pub guarded: bool,
    /// An offer still lists the volume, or its node still has the label of a copy (E3).
    pub offered: bool,
    /// The volume's disk was declared gone for good, so no agent will answer (D4).
    pub disk_gone: bool,
    /// That disk went with its node, so no pod has the volume (D7).
    pub node_gone: bool,
    /// The node to which the volume's disk moved, read live (D3).
    pub moved_to: Option<String>,
    /// Claims in the volume's list that are gone, or bound to another volume.
    pub lost_claims: Vec<ClaimBinding>,
    /// UIDs of the claims in the volume's list that have pods on other nodes, which read a copy (E3).
    pub read_elsewhere: Vec<String>,
    /// Claims in the volume's list that lead no pod to the volume any more ([`super::own_pvc::is_over`], P4).
    pub over: Vec<ClaimBinding>,
    /// Running and pending pods of the other claims in the volume's list.
    pub users: Vec<PodRef>,
    /// Live reads, made after the volume was read; `None` before [`Step::LookForUsers`].
    pub live: Option<Live>,
    /// Pods that run on the volume's node, read live if the node reports processes of pods.
    pub holder_pods: Vec<PodRef>,
    /// The reservations whose ledgers list the volume, read live; `None` before [`Step::LookForEntries`]. `Some(None)`:
    /// the volume's object or its finalizer is gone.
    pub entries: Option<Option<Vec<Arc<DiskReservation>>>>,
    /// Number of the volume's copies, which go first (E5).
    pub copies: usize,
    /// True if another volume has the data that the volume was to recover ([`kept::has_heir`]), read live with the entries.
    pub has_heir: bool,
    /// The time.
    pub now: Timestamp,
}

/// Live reads of the API server, not of a cache.
#[derive(Debug, Default)]
pub struct Live {
    /// Pods that use the volume.
    pub pods: Vec<PodRef>,
    /// The CustomResourceDefinition of volumes is being deleted, or is missing.
    pub kind_deleted: bool,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Read [`Live`] and decide again.
    LookForUsers,
    /// Read the volume and the reservations live, and decide again.
    LookForEntries,
    /// Delete the PersistentVolumes of the lost claims, then write the status. `refused`: users were found, so the
    /// fence is lifted.
    Report {
        /// The new status.
        status: Box<SharedPersistentVolumeStatus>,
        /// True if the metric counts a refused destruction.
        refused: bool,
    },
    /// Wait: the offers are rescinded, or the node refuses new mounts, within moments (O6).
    Debounce,
    /// Remove the labels, which no selector needs any more. An object near etcd's size limit accepts no further write.
    DropLabels,
    /// Publish the receipt, then remove the finalizer, and nothing else: the data stays as an orphan (X9).
    Orphan(String),
    /// Publish the receipt, release the entries in these reservations, then remove the finalizer.
    End {
        /// The reservations. An empty list means that an earlier attempt has published the receipt.
        reservations: Vec<Arc<DiskReservation>>,
        /// The outcome label of the metric.
        outcome: &'static str,
        /// The receipt.
        receipt: String,
        /// The entry in the place of the volume's own, with the UID of the reservation.
        left: Option<(String, Box<Left>)>,
    },
    /// Nothing.
    Rest,
}

/// A stage of the destruction, with the message for the condition.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Wait for the event in the message.
    Wait(String),
    /// The volume has users: the agent allows mounts again, so that the users are not disturbed.
    Unfence(String),
    /// The volume has no users any more: the agent refuses new mounts again.
    Fence(String),
    /// The volume has no user and can get none: commit the tombstone.
    Tombstone(String),
}

const FENCING: &str = "new mounts are being refused";
const ERASING: &str = "its bytes are being erased";
const KEEPING: &str = "the end of the time for which its data is kept is being noted";
const LETTING_GO: &str = "its adopted directory is being released";
const WAITS_FOR_POD: &str = "it waits for pod";

/// The most bytes of labels on a volume that is being destroyed.
const MOST_LABELS: usize = 64 << 10;

fn label_bytes(volume: &SharedPersistentVolume) -> usize {
    volume.labels().iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The next step for a volume whose deletion was accepted.
pub fn next(volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Rest;
    }
    if label_bytes(volume) > MOST_LABELS {
        return Step::DropLabels;
    }
    // A claim binds by a write of the volume, and a deleted volume refuses. So an offer that stays, by a failed write
    // or by another writer, delays nothing (O6).
    if seen.offered && debounce::is_passing(volume.metadata.deletion_timestamp.as_ref(), seen.now) {
        return Step::Debounce;
    }
    let mut status = volume.status.clone().unwrap_or_default();
    let mut is_placed_now = false;
    if birth::node(volume).is_some() {
        // S3: its node may have bytes of it, if the entry was there before the DELETE.
        match &seen.entries {
            None => return Step::LookForEntries,
            Some(None) => return Step::Rest,
            Some(Some(entries)) => {
                if let Some(with_entry) = entries.iter().find(|of| birth::has_entry(volume, of)) {
                    (status, is_placed_now) = (birth::placed(volume, with_entry, entries), true);
                }
            }
        }
    }
    let mut listed = status.clone();
    let elsewhere = &seen.read_elsewhere;
    unbind(&mut listed, is_disk_gone(volume, seen), elsewhere, |claim| seen.lost_claims.contains(claim));
    status.claims.retain(|claim| !seen.lost_claims.contains(claim) && !seen.over.contains(claim));
    status.node_name = seen.moved_to.clone().or(status.node_name);
    let mut status = count_users(status, seen.users.clone());
    let counted = SharedPersistentVolume { status: Some(status.clone()), ..volume.clone() };
    let mut destroy = status.destroy.clone().unwrap_or_default();
    let was_in_use = destroy.in_use;
    destroy.disk_gone = is_disk_gone(volume, seen);
    let stage = match stage(&counted, seen) {
        Ok(stage) => stage,
        Err(step) => match left_to_others(volume).filter(|_| matches!(step, Step::End { .. })) {
            Some(why) => Stage::Wait(why),
            None => return step,
        },
    };
    // Most nodes refuse new mounts within moments.
    let is_young = debounce::is_passing(volume.metadata.deletion_timestamp.as_ref(), seen.now);
    let why = match stage {
        Stage::Wait(_) if is_young && !is_placed_now && is_waiting_for_fence(&status) => {
            return Step::Debounce;
        }
        Stage::Wait(why) => why,
        Stage::Fence(why) => {
            destroy.in_use = false;
            why
        }
        Stage::Unfence(why) => {
            destroy.in_use = true;
            why
        }
        Stage::Tombstone(why) => {
            // The write is a compare-and-swap on the object that had no users. A user that comes in between makes the
            // write fail.
            destroy.tombstone = Some(condition::stored(seen.now));
            let is_made = status.node.as_ref().is_some_and(|node| node.backing == BackingState::Made);
            destroy.kept_until = kept::until(volume, seen.now).filter(|_| is_made && !destroy.disk_gone);
            status.phase = VolumePhase::Destroyed;
            why
        }
    };
    let refused = destroy.in_use && !was_in_use;
    if status.phase != VolumePhase::Destroyed {
        status.phase = VolumePhase::Destroying;
    }
    if destroy.tombstone.is_none() {
        // S7: until then a pod that outlived its claim may have the volume mounted.
        status.claims = listed.claims;
        status = count_users(status, seen.users.clone());
    }
    status.destroy = Some(destroy);
    let verdict = Verdict::no(reason::DESTROYING, destroying(volume, &why));
    condition::set(&mut status.conditions, READY, verdict, volume.metadata.generation, seen.now);
    // A deletion is not taken back: a retirement and an unmet size mean nothing after it.
    status.conditions.retain(|condition| ![RESIZED, RETIRING].contains(&&*condition.type_));
    Step::Report { status: Box::new(status), refused }
}

/// True if the destruction waits for the users of the volume, whom it serves meanwhile (X2).
pub fn serves_users(volume: &SharedPersistentVolume) -> bool {
    let destroy = volume.status.as_ref().and_then(|status| status.destroy.as_ref());
    volume.metadata.deletion_timestamp.is_some()
        && destroy.is_some_and(|destroy| destroy.in_use && destroy.tombstone.is_none())
}

/// True if the volume's disk was given up. The volume says so itself once that is known: a cache may be older, and the agent
/// of a node that is there after all must erase nothing (D7).
fn is_disk_gone(volume: &SharedPersistentVolume, seen: &Seen) -> bool {
    let destroy = volume.status.as_ref().and_then(|status| status.destroy.as_ref());
    seen.disk_gone || destroy.is_some_and(|destroy| destroy.disk_gone) || node_lifetime::has_ended(volume)
}

/// True if the node has not answered the DELETE yet.
fn is_waiting_for_fence(status: &SharedPersistentVolumeStatus) -> bool {
    let destroy = status.destroy.clone().unwrap_or_default();
    destroy.tombstone.is_none() && !destroy.in_use && !status.node.as_ref().is_some_and(|node| node.fenced)
}

fn destroying(volume: &SharedPersistentVolume, why: &str) -> String {
    format!("volume {} is being destroyed: {why}", volume.name_any())
}

/// Why the object stays after its end, unless that was reported (F3). Nothing is reported once our finalizer is gone.
fn left_to_others(volume: &SharedPersistentVolume) -> Option<String> {
    let foreign = foreign_finalizer(volume)?;
    let why = format!("its bytes are done with, and its object goes when finalizer {foreign} is removed");
    let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let reported = condition::get(conditions, READY).is_some_and(|c| c.message == destroying(volume, &why));
    (!reported).then_some(why)
}

/// The last step, with the receipt (X4).
fn end(volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    let Some(entries) = &seen.entries else { return Step::LookForEntries };
    let Some(mut reservations) = entries.clone() else { return Step::Rest };
    let status = volume.status.clone().unwrap_or_default();
    let is_placed = status.node_name.is_some();
    let (node, disk_gone) = (status.node.unwrap_or_default(), is_disk_gone(volume, seen));
    let of = match is_placed {
        true => status.reservation.map(|own| own.uid),
        false => reservations.first().and_then(|first| first.uid()),
    };
    let left = match is_placed {
        true => kept::left(volume).filter(|_| node.backing == BackingState::Kept && !disk_gone),
        false => kept::left_unplaced(volume, seen.has_heir, seen.now),
    };
    let left = of.zip(left.map(Box::new));
    if left.is_some() {
        // An earlier attempt has published the receipt of a marked entry.
        let is_marked = |r: &DiskReservation| r.status.as_ref().is_some_and(|s| is_marked(s, volume));
        reservations.retain(|r| !is_marked(r));
    }
    let mark = left.as_ref().and_then(|(_, left)| left.mark.as_ref());
    let erased = node.erased;
    let bytes = erased.clone().unwrap_or(Size::from_bytes(0));
    let (outcome, event) = match (&volume.spec.adopt, volume.spec.erase_policy) {
        (None, _) if let (Some((_, left)), false) = (&left, is_placed) => (
            if mark.is_some() { "Kept" } else { "Orphaned" },
            format!("it had not taken over the data {} yet, which stays in its reservation", left.data),
        ),
        (None, _) if let Some(mark) = mark => (
            "Kept",
            format!(
                "its data is kept until {}, or until its reservation needs the bytes; kubectl reservoir undelete {} \
                 brings it back",
                mark.until.0,
                volume.name_any()
            ),
        ),
        (Some(adopt), _) => ("LetGo", format!("it was adopted from {}; its data stays there", adopt.path)),
        (None, _) if erased.is_none() && disk_gone => {
            ("DiskGone", "its bytes were not erased, because its disk was declared gone".to_owned())
        }
        (None, _) if erased.is_none() && node.backing == BackingState::Erased => {
            ("Lost", "nothing was erased, because its data was missing on its disk".to_owned())
        }
        (None, policy) => {
            let how = if policy == ErasePolicy::Zero { "overwritten with zeroes" } else { "erased" };
            let free = if disk_gone { "" } else { ", and free in its reservation again" };
            ("Erased", format!("{bytes} {how}{free}"))
        }
    };
    let uid = volume.uid().unwrap_or_default();
    let receipt = format!("volume {} ({uid}) is destroyed: {event}", volume.name_any());
    Step::End { reservations, outcome, receipt, left }
}

/// True if the volume's entry in the reservation has the mark of kept data.
fn is_marked(reservation: &DiskReservationStatus, volume: &SharedPersistentVolume) -> bool {
    kept::entries(reservation).iter().any(|(entry, _)| Some(&entry.uid) == volume.metadata.uid.as_ref())
}

/// The stage of the destruction, or a step that writes no status. `volume` has its present users.
fn stage(volume: &SharedPersistentVolume, seen: &Seen) -> Result<Stage, Step> {
    let status = volume.status.clone().unwrap_or_default();
    let destroy = status.destroy.clone().unwrap_or_default();
    let (node, disk_gone) = (status.node.clone().unwrap_or_default(), is_disk_gone(volume, seen));
    let keeps = destroy.kept_until.is_some()
        || kept::until(volume, seen.now).is_some() && node.backing == BackingState::Made && !disk_gone;
    let ending = match (&volume.spec.adopt, keeps) {
        (Some(_), _) => LETTING_GO,
        (None, true) => KEEPING,
        (None, false) => ERASING,
    };
    let trouble = condition::get(&status.conditions, BACKED).filter(|c| c.status != "True");
    let name = |what: &str| {
        let on = format!("{what} on node {}", status.node_name.as_deref().unwrap_or("?"));
        trouble.map_or(on.clone(), |c| format!("{on}, which says: {}", c.message))
    };

    if destroy.tombstone.is_some() || status.node_name.is_none() {
        // A volume without a node was never made by an agent, so the disk has nothing to erase.
        let nothing_to_erase = status.node_name.is_none()
            || disk_gone
            || matches!(node.backing, BackingState::Erased | BackingState::Kept);
        return if nothing_to_erase { Err(end(volume, seen)) } else { Ok(Stage::Wait(name(ending))) };
    }
    let hold = |why: String| Ok(if destroy.in_use { Stage::Wait(why) } else { Stage::Unfence(why) });
    if !status.claims.is_empty() {
        return hold(format!(
            "it waits for claim {} to be deleted",
            names(&status.claims, status.claims.len())
        ));
    }
    if status.user_count > 0 {
        return hold(waits_for_pods(&status.users, status.user_count as usize));
    }
    // Nobody uses the volume itself, so it stays fenced meanwhile.
    match seen.copies {
        0 => {}
        1 => return Ok(Stage::Wait("it waits for its copy to be destroyed".to_owned())),
        copies => return Ok(Stage::Wait(format!("it waits for its {copies} copies to be destroyed"))),
    }
    // A pod that waits for a node that is gone has nothing mounted.
    let users = |live: &Live| {
        (!live.pods.is_empty() && !seen.node_gone).then(|| waits_for_pods(&live.pods, live.pods.len()))
    };
    // The CustomResourceDefinition is read after the volume, since its deletion precedes the deletion of its objects.
    // Without data there is no orphan, and nobody else would credit the reservation.
    let orphaned = |live: &Live| match node.backing {
        _ if !live.kind_deleted => None,
        BackingState::Erased => Some(Err(end(volume, seen))),
        _ => Some(Err(Step::Orphan(orphan(volume, &status)))),
    };
    if disk_gone {
        // Nothing is erased here, so a process that still has the volume mounted loses nothing.
        let Some(live) = &seen.live else { return Err(Step::LookForUsers) };
        let tombstone = || Ok(Stage::Tombstone("its disk was declared gone".to_owned()));
        return users(live).map(hold).or_else(|| orphaned(live)).unwrap_or_else(tombstone);
    }
    if destroy.in_use {
        let Some(live) = &seen.live else { return Err(Step::LookForUsers) };
        return Ok(users(live).map_or_else(|| Stage::Fence(name(FENCING)), Stage::Wait));
    }
    if !node.fenced {
        return Ok(Stage::Wait(name(FENCING)));
    }
    if node.in_use {
        // The pods are gone from the API, and the kernel still has a mount: a lingering process keeps its data.
        return Ok(Stage::Wait(match &*node.mounted_by {
            [] => name(&format!("it is still in use by {}", held_by::by(&node.held_by, &seen.holder_pods))),
            pods => name(&format!("it is still mounted by {}", names(pods, pods.len()))),
        }));
    }
    let Some(live) = &seen.live else { return Err(Step::LookForUsers) };
    users(live).map(hold).or_else(|| orphaned(live)).unwrap_or_else(|| Ok(Stage::Tombstone(name(ending))))
}

fn waits_for_pods(pods: &[PodRef], all: usize) -> String {
    format!("{WAITS_FOR_POD} {} to end", names(pods, all))
}

/// True if the message of the condition `Ready` names the pods that the destruction waits for.
pub fn says_pods(message: &str) -> bool {
    message.contains(WAITS_FOR_POD)
}

/// The receipt of a volume whose data becomes an orphan. A restored etcd may have a volume again whose data was erased before,
/// so the receipt promises no more than the node has reported.
fn orphan(volume: &SharedPersistentVolume, status: &SharedPersistentVolumeStatus) -> String {
    let (name, disk) = (volume.name_any(), status.node_disk.as_deref().unwrap_or("?"));
    let lost = condition::get(&status.conditions, BACKED).filter(|c| c.reason == reason::BACKING_LOST);
    let rest = match lost {
        Some(lost) => lost.message.clone(),
        None => format!(
            "data of volume {name} that is on NodeDisk {disk} stays there; install the kind again, and apply what this \
             prints: kubectl reservoir recover"
        ),
    };
    format!("the kind SharedPersistentVolume was deleted, and nothing is erased because of that: {rest}")
}

#[cfg(test)]
mod tests;
