//! The agent's next step for a volume of its node, and its report of the outcome (V9, X2, X3).

use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::api::condition::{self, BACKED, NEARLY_FULL, Verdict, reason};
use crate::api::{
    BackingState, NodePart, PodRef, Process, SharedPersistentVolume, SharedPersistentVolumeStatus, Size,
    VolumeMode,
};

use super::LISTED_PODS;
use super::resize::{self, OnNode};
use super::{seal, verify};

/// The agent's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make the volume, or confirm that the volume is complete.
    Make,
    /// Change the volume's size (V7).
    Size(OnNode),
    /// Bring the seal of the volume a step further (E1).
    Seal(seal::Step),
    /// Make the volume, which is a copy that waits for its source. The report of its content says that it was made (E2).
    MakeCopy,
    /// Make the volume, which is a copy, fill it from its source, and seal it (E2).
    Copy,
    /// Read the files of the sealed volume again (E4).
    Verify,
    /// Report that a made volume has lost its bytes. The volume is never made again, since the bytes may come back.
    Lost(OnDisk),
    /// Refuse new mounts, and report the present mounts.
    Fence,
    /// Allow mounts again.
    Unfence,
    /// Erase the volume.
    Erase,
    /// Note in the volume record that the volume is destroyed and its data is kept (X8).
    Keep,
    /// Nothing.
    Rest,
}

/// The state of the volume on its own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisk {
    /// Neither a volume record nor a receipt.
    Nothing,
    /// The receipt of an erase (X4).
    Receipt,
    /// A volume record.
    Record(Recorded),
    /// Neither, and the object is deleted before it has taken over the data that it recovers (X6).
    NotInherited,
}

/// The content of the volume record on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// New mounts are refused.
    pub fenced: bool,
    /// An erase has begun, which nothing can undo.
    pub erasing: bool,
    /// The size in bytes; `None` before the volume is made.
    pub size: Option<u64>,
    /// A resize has begun and is not finished.
    pub resizing: bool,
    /// A pod is in the record.
    pub published: bool,
    /// The seal of the volume (E1).
    pub seal: seal::OnDisk,
    /// The files of the sealed volume are to be read again (E4).
    pub verify: bool,
}

/// The outcome of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The task did not use the disk.
    Untouched,
    /// The disk has no record of the volume.
    NoRecord,
    /// The volume exists, with so many bytes.
    Made(u64),
    /// The volume was resized to so many bytes.
    Resized(u64),
    /// The volume kept its size and is usable; the text is the reason.
    NotResized(String),
    /// The seal is a step further, or waits.
    Seal(seal::Outcome),
    /// The copy exists, with so many bytes, and its content is a step further, or waits.
    Copied(u64, seal::Outcome),
    /// The files of the sealed volume were read, or are being read.
    Verify(verify::Outcome),
    /// New mounts are refused.
    Fenced {
        /// The pods in the volume record.
        pods: Vec<PodRef>,
        /// True if the kernel has the volume mounted or open.
        in_use: bool,
    },
    /// So many bytes went back to the disk.
    Erased(u64),
    /// The volume record says that the data is kept.
    Kept,
    /// The disk does not have the data that the volume is to recover.
    NoData,
    /// A made volume has lost all or some of its bytes; the text is the reason.
    Lost(String),
    /// The task failed; the text is the reason.
    Failed(String),
}

/// The pause before the next look at a mounted volume that is to be destroyed.
const WHILE_IN_USE: Duration = Duration::from_secs(2);
/// The pause before the next look at a volume whose fence is to be lifted.
const AFTER_UNFENCE: Duration = Duration::from_secs(2);
/// The pause before the next look at a volume with refused readers.
const WHILE_REFUSED: Duration = Duration::from_secs(60);
/// The pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(15);

/// The agent's next step for a volume that was just read live.
///
/// A cached object is too old to make, unfence or erase a volume: the object may have been destroyed since. A restored
/// etcd may have a state from before an accepted DELETE, so the state on the disk counts too (X9).
pub fn next(volume: &SharedPersistentVolume, on_disk: OnDisk) -> Task {
    let status = volume.status.clone().unwrap_or_default();
    let node = status.node.unwrap_or_default();
    let destroy = status.destroy.unwrap_or_default();
    if matches!(node.backing, BackingState::Erased | BackingState::Kept) {
        return Task::Rest;
    }
    let is_made = node.backing == BackingState::Made;
    if volume.metadata.deletion_timestamp.is_none() {
        return match on_disk {
            OnDisk::Record(record) if record.erasing => Task::Lost(on_disk),
            // A restored etcd may lack the DELETE that caused the fence.
            OnDisk::Record(record) if record.fenced => Task::Unfence,
            // An unusable volume is made usable first: a resize that fails again and again says nothing about that.
            OnDisk::Record(_) if is_made && !condition::is_true(&status.conditions, BACKED) => Task::Make,
            // Nothing but the copied files is ever in it, so its size and its seal wait for them.
            _ if volume.spec.copy_of.is_some() && is_empty(on_disk, is_made) => {
                match (&status.source, condition::get(&status.conditions, BACKED)) {
                    (Some(_), _) => Task::Copy,
                    (None, None) => Task::MakeCopy,
                    (None, Some(_)) => Task::Make,
                }
            }
            OnDisk::Record(record) if is_made => {
                // A resize may have finished without a report. Then the announced size must not be withdrawn.
                let reported = node.size.as_ref().and_then(|size| size.bytes().ok());
                let unreported = record.size.is_some() && record.size != reported;
                let size = resize::on_node(volume, record.resizing || unreported).map(Task::Size);
                let seal = seal::next(volume, record.seal).map(Task::Seal);
                let verify =
                    || (record.seal == seal::OnDisk::Sealed && record.verify).then_some(Task::Verify);
                // A growth that was begun may wait for the very pods that may write: they are named first.
                let closes = seal.filter(|task| *task == Task::Seal(seal::Step::Close));
                closes.or(size).or(seal).or_else(verify).unwrap_or(Task::Make)
            }
            OnDisk::Nothing | OnDisk::Receipt if is_made => Task::Lost(on_disk),
            _ => Task::Make,
        };
    }
    // Nobody asked for the end of this data.
    if destroy.disk_gone {
        return Task::Rest;
    }
    // The deletion counts for the data, too, and its bytes are in the volume's ledger entry.
    if on_disk == OnDisk::NotInherited && !is_made && destroy.tombstone.is_none() {
        return Task::Make;
    }
    let fenced = node.fenced || matches!(on_disk, OnDisk::Record(record) if record.fenced);
    match (destroy.tombstone.is_some(), destroy.in_use) {
        (true, _) => match on_disk {
            // Its disk was restored to a state from before the fence.
            OnDisk::Record(record) if !record.fenced => Task::Fence,
            OnDisk::Record(record) if destroy.kept_until.is_some() && !record.erasing => Task::Keep,
            _ => Task::Erase,
        },
        (false, false) => Task::Fence,
        (false, true) if fenced => Task::Unfence,
        (false, true) => Task::Rest,
    }
}

/// True for a copy that lacks content by its node.
fn is_empty(on_disk: OnDisk, is_made: bool) -> bool {
    match on_disk {
        OnDisk::Record(record) => record.seal != seal::OnDisk::Sealed,
        OnDisk::Nothing => !is_made,
        OnDisk::Receipt | OnDisk::NotInherited => false,
    }
}

/// True if the volume's bytes and inodes are to be measured (M6): while pods use it, and afterwards while it is called nearly
/// full, as it may have grown. Only the pods understand the content of a raw device.
pub fn is_measured(volume: &SharedPersistentVolume, on_disk: OnDisk) -> bool {
    let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let OnDisk::Record(record) = on_disk else { return false };
    volume.metadata.deletion_timestamp.is_none()
        && volume.spec.volume_mode == VolumeMode::Filesystem
        && (record.published || condition::is_true(conditions, NEARLY_FULL))
}

/// The claims whose binding is ending, and which the node has not reported as unmounted yet (C6).
pub fn ending(volume: &SharedPersistentVolume) -> Vec<String> {
    volume.status.as_ref().map(ending_of).unwrap_or_default()
}

fn ending_of(status: &SharedPersistentVolumeStatus) -> Vec<String> {
    let released = status.node.as_ref().map_or(&[][..], |node| &node.released);
    let ending = status.claims.iter().filter(|claim| claim.ending && !released.contains(&claim.uid));
    ending.map(|claim| claim.uid.clone()).collect()
}

/// True until the data of the volume is erased, or kept without it.
pub fn has_data(volume: &SharedPersistentVolume) -> bool {
    let node = volume.status.as_ref().and_then(|status| status.node.as_ref());
    node.is_some_and(|node| node.backing == BackingState::Made)
}

/// True if the agent has nothing to do for the volume until it changes, by the object alone.
pub fn is_at_rest(volume: &SharedPersistentVolume) -> bool {
    let status = volume.status.clone().unwrap_or_default();
    let node = status.node.unwrap_or_default();
    match node.backing {
        BackingState::Erased | BackingState::Kept => true,
        BackingState::Absent => false,
        BackingState::Made => {
            let sized = resize::on_node(volume, false).is_none() && node.resize_failed.is_none();
            let usable = condition::is_true(&status.conditions, BACKED) && !node.fenced;
            let is_settled = sized && seal::is_settled(volume) && !verify::is_requested(volume);
            volume.metadata.deletion_timestamp.is_none() && is_settled && usable && ending(volume).is_empty()
        }
    }
}

/// Adds the unmounted claims to the node's report. Returns the pause before the next look, if other claims in the list
/// are ending.
pub fn release(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    unmounted: Vec<String>,
) -> Option<Duration> {
    let left = ending(volume).len() - unmounted.len();
    if !unmounted.is_empty() {
        let node = status.node.get_or_insert_default();
        // Claims that have left the list are removed from the report.
        node.released.retain(|uid| status.claims.iter().any(|claim| claim.uid == *uid));
        node.released.extend(unmounted);
    }
    (left > 0).then_some(WHILE_IN_USE)
}

/// True if the processes that hold the volume are to be looked for (F3): a second look at a fenced volume finds it in use
/// without a pod in its record, or a claim of an exclusive volume cannot end. Of a shared volume the kernel does not show
/// which use is the claim's.
pub fn is_held(volume: &SharedPersistentVolume, status: &SharedPersistentVolumeStatus) -> bool {
    let held = |status: &SharedPersistentVolumeStatus| {
        status.node.as_ref().is_some_and(|node| node.fenced && node.in_use && node.mounted_by.is_empty())
    };
    let is_second = volume.status.as_ref().is_some_and(held) && held(status);
    is_second || volume.spec.shared.is_none() && !ending_of(status).is_empty()
}

/// Adds the processes that hold the volume to the node's report. A reported list stays while all its processes are among
/// the found ones: other processes come and go (T2).
pub fn hold(status: &mut SharedPersistentVolumeStatus, found: Vec<Process>) {
    let Some(node) = &mut status.node else { return };
    if node.held_by.is_empty() || !node.held_by.iter().all(|process| found.contains(process)) {
        node.held_by = found;
    }
}

/// Adds the pods that were refused as readers to the node's report (F2). Returns the pause after which they are forgotten.
pub fn refuse(status: &mut SharedPersistentVolumeStatus, pods: Vec<PodRef>) -> Option<Duration> {
    let node = status.node.as_mut()?;
    node.refused_readers = pods;
    (!node.refused_readers.is_empty()).then_some(WHILE_REFUSED)
}

/// The status after a task, and the pause before the next look; `None`: only a change of the object causes a look.
pub fn report(
    volume: &SharedPersistentVolume,
    task: Task,
    outcome: Outcome,
    now: Timestamp,
) -> (SharedPersistentVolumeStatus, Option<Duration>) {
    let mut status = volume.status.clone().unwrap_or_default();
    let before = status.node.clone();
    let node = status.node.get_or_insert_default();
    let was_made = node.backing == BackingState::Made;
    let (mut pause, mut backed) = (None, None);
    match (task, outcome) {
        (_, Outcome::Seal(outcome)) => {
            status.node = before;
            pause = seal::report(volume, &mut status, outcome, now);
        }
        (_, Outcome::Verify(outcome)) => {
            status.node = before;
            pause = verify::report(volume, &mut status, outcome, now);
        }
        (Task::Size(OnNode::Announce(size)), Outcome::Untouched) => {
            node.growing = Some(Size::from_bytes(size))
        }
        (Task::Size(OnNode::Withdraw), Outcome::Untouched) => {
            (node.growing, node.resize_failed) = (None, None);
        }
        (Task::Unfence, Outcome::Untouched) => {
            *node = NodePart { fenced: false, in_use: false, mounted_by: vec![], ..node.clone() };
            pause = Some(AFTER_UNFENCE);
        }
        (_, Outcome::Untouched) => status.node = before,
        (Task::MakeCopy, Outcome::Made(_)) => status.node = before,
        (_, Outcome::Copied(_, seal::Outcome::Resting(rest))) => {
            status.node = before;
            pause = Some(rest);
        }
        (_, Outcome::Copied(size, outcome)) => {
            (node.backing, node.size) = (BackingState::Made, Some(Size::from_bytes(size)));
            backed = Some(Verdict::yes(reason::BACKED, made(volume)));
            pause = seal::report(volume, &mut status, outcome, now);
        }
        (_, Outcome::Made(size)) => {
            (node.backing, node.size) = (BackingState::Made, Some(Size::from_bytes(size)));
            node.resize_failed = None;
            backed = Some(Verdict::yes(reason::BACKED, made(volume)));
        }
        (_, Outcome::Resized(size)) => {
            node.size = Some(Size::from_bytes(size));
            (node.growing, node.resize_failed) = (None, None);
            // A restored etcd may say so already, and the seal comes after the size.
            let is_known = status.node == before && resize::on_node(volume, false).is_none();
            pause = is_known.then_some(Duration::ZERO);
        }
        (_, Outcome::NotResized(why)) => {
            let reported = node.resize_failed.take().filter(|reported| same_words(reported, &why));
            node.resize_failed = Some(reported.unwrap_or(why));
            pause = Some(AFTER_FAILURE);
        }
        // A volume without a record cannot be mounted, and has nothing to erase. So the deletion of a volume with lost
        // data can finish. Only a volume that was never made reports zero erased bytes (X4).
        (Task::Fence, Outcome::NoRecord) => {
            fence(node, vec![], false);
            // Its entry need not wait for data that is not there, even if its kind was deleted (X9, X10).
            if !was_made && volume.spec.recover.is_none() {
                erase(node, Some(Size::from_bytes(0)));
            }
        }
        (Task::Erase, Outcome::NoRecord) => {
            erase(node, if was_made { None } else { Some(Size::from_bytes(0)) })
        }
        (_, Outcome::Fenced { pods, in_use }) => {
            fence(node, pods, in_use);
            pause = node.in_use.then_some(WHILE_IN_USE);
            // The end of the data follows, and the status may be as before.
            let has_tombstone = status.destroy.as_ref().is_some_and(|destroy| destroy.tombstone.is_some());
            pause = pause.or_else(|| has_tombstone.then_some(Duration::ZERO));
        }
        (_, Outcome::Erased(bytes)) => erase(node, Some(Size::from_bytes(bytes))),
        (_, Outcome::Kept) => node.backing = BackingState::Kept,
        (_, failed) => {
            let (reason, message) = match failed {
                Outcome::Failed(why) => (reason::BACKING_FAILED, why),
                Outcome::NoData => (reason::NO_ORPHAN, no_data(volume)),
                Outcome::Lost(why) => (reason::BACKING_LOST, why + rescue(volume)),
                _ => (reason::BACKING_LOST, lost(volume, task) + rescue(volume)),
            };
            status.node = before;
            backed = Some(Verdict::no(reason, message));
            pause = Some(AFTER_FAILURE);
        }
    }
    if let Some(verdict) = backed {
        set_backed(volume, &mut status, verdict, now);
    }
    (status, pause)
}

/// The refusal to recover data that belongs to an existing volume (X6).
pub fn has_owner(recovered_uid: &str, owner: &str) -> String {
    format!(
        "the data that it is to recover ({recovered_uid}) is that of SharedPersistentVolume {owner}, which is there: claim that one"
    )
}

/// The data was there when the volume was placed.
fn no_data(volume: &SharedPersistentVolume) -> String {
    let disk = volume.status.as_ref().and_then(|status| status.node_disk.as_deref()).unwrap_or("?");
    let uid = volume.spec.recover.as_ref().map_or("?", |recover| &recover.uid);
    format!(
        "NodeDisk {disk} does not have the data {uid} any more: it was recovered into another volume, or erased; delete \
         this volume"
    )
}

fn fence(node: &mut NodePart, mut pods: Vec<PodRef>, in_use: bool) {
    pods.sort();
    pods.dedup();
    node.fenced = true;
    node.in_use = in_use || !pods.is_empty();
    pods.truncate(LISTED_PODS);
    node.mounted_by = pods;
}

fn erase(node: &mut NodePart, bytes: Option<Size>) {
    (node.backing, node.erased) = (BackingState::Erased, bytes);
}

/// The message of a volume that has just lost its bytes, for an event of the volume and of its pods.
pub fn newly_lost<'a>(
    before: &SharedPersistentVolume,
    now: &'a SharedPersistentVolumeStatus,
) -> Option<&'a str> {
    let lost = condition::get(&now.conditions, BACKED).filter(|c| c.reason == reason::BACKING_LOST)?;
    let told = before.status.as_ref().and_then(|status| condition::get(&status.conditions, BACKED));
    told.is_none_or(|told| told.reason != lost.reason).then_some(&lost.message)
}

/// The kernel keeps a removed file for a pod that has it mounted.
fn rescue(volume: &SharedPersistentVolume) -> &'static str {
    match volume.status.as_ref().is_some_and(|status| status.user_count > 0) {
        true => {
            "; a pod that has it mounted may be able to read it until the pod ends: copy what is needed first"
        }
        false => "",
    }
}

/// The reason for missing data of a made volume.
fn lost(volume: &SharedPersistentVolume, task: Task) -> String {
    let disk = volume.status.as_ref().and_then(|status| status.node_disk.as_deref()).unwrap_or("?");
    let why = match task {
        Task::Lost(OnDisk::Receipt) => format!(
            "NodeDisk {disk} has the receipt of its erasure, after a DELETE that the cluster does not know any more, as \
             when etcd was restored; delete the volume"
        ),
        Task::Lost(OnDisk::Record(_)) => format!(
            "its erasure on NodeDisk {disk} was begun, after a DELETE that the cluster does not know any more, as when \
             etcd was restored; delete the volume"
        ),
        _ => format!(
            "NodeDisk {disk} has no record of it; bring the disk back as it was, or delete the volume; nothing else \
             helps if it was erased before etcd was restored"
        ),
    };
    format!("the data of volume {} is lost: {why}", volume.name_any())
}

fn made(volume: &SharedPersistentVolume) -> String {
    match &volume.spec.adopt {
        None => "its bytes are allocated and formatted".to_owned(),
        Some(adopt) => format!("{} is adopted as it is; its size is not enforced", adopt.path),
    }
}

fn set_backed(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    mut verdict: Verdict,
    now: Timestamp,
) {
    if let Some(present) = condition::get(&status.conditions, BACKED)
        && present.reason == verdict.reason
        && same_words(&present.message, &verdict.message)
    {
        verdict.message.clone_from(&present.message);
    }
    condition::set(&mut status.conditions, BACKED, verdict, volume.meta().generation, now);
}

/// True if both texts differ only in numbers, such as free bytes. A write for each new number would cause another
/// attempt, and so another write.
fn same_words(reported: &str, now: &str) -> bool {
    let words = |message: &str| message.replace(|c: char| c.is_ascii_digit(), "");
    words(reported) == words(now)
}

#[cfg(test)]
mod tests;
