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

/// The agent's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make the volume, or confirm that the volume is complete.
    Make,
    /// Change the volume's size (V7).
    Size(OnNode),
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
            OnDisk::Record(record) if is_made => {
                // A resize may have finished without a report. Then the announced size must not be withdrawn.
                let reported = node.size.as_ref().and_then(|size| size.bytes().ok());
                let unreported = record.size.is_some() && record.size != reported;
                resize::on_node(volume, record.resizing || unreported).map_or(Task::Make, Task::Size)
            }
            OnDisk::Nothing | OnDisk::Receipt if is_made => Task::Lost(on_disk),
            _ => Task::Make,
        };
    }
    // The deletion counts for the data, too, and its bytes are in the volume's ledger entry.
    if on_disk == OnDisk::NotInherited && !is_made && destroy.tombstone.is_none() {
        return Task::Make;
    }
    let fenced = node.fenced || matches!(on_disk, OnDisk::Record(record) if record.fenced);
    match (destroy.tombstone.is_some(), destroy.in_use) {
        (true, _) => match on_disk {
            OnDisk::Record(record) if destroy.kept_until.is_some() && !record.erasing => Task::Keep,
            _ => Task::Erase,
        },
        (false, false) => Task::Fence,
        (false, true) if fenced => Task::Unfence,
        (false, true) => Task::Rest,
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
            volume.metadata.deletion_timestamp.is_none() && sized && usable && ending(volume).is_empty()
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
        (_, Outcome::Made(size)) => {
            (node.backing, node.size) = (BackingState::Made, Some(Size::from_bytes(size)));
            node.resize_failed = None;
            backed = Some(Verdict::yes(reason::BACKED, made(volume)));
        }
        (_, Outcome::Resized(size)) => {
            node.size = Some(Size::from_bytes(size));
            (node.growing, node.resize_failed) = (None, None);
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
        }
        (_, Outcome::Erased(bytes)) => erase(node, Some(Size::from_bytes(bytes))),
        (_, Outcome::Kept) => node.backing = BackingState::Kept,
        (_, failed) => {
            let (reason, message) = match failed {
                Outcome::Failed(why) => (reason::BACKING_FAILED, why),
                Outcome::NoData => (reason::NO_ORPHAN, no_data(volume)),
                Outcome::Lost(why) => (reason::BACKING_LOST, why),
                _ => (reason::BACKING_LOST, lost(volume, task)),
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
        "the data of {recovered_uid} is that of SharedPersistentVolume {owner}, which is there: claim that one"
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
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::{Adopt, ClaimBinding, Destroy, Recover};
    use crate::plan::testing::*;

    const RECORD: OnDisk = OnDisk::Record(Recorded {
        fenced: false,
        erasing: false,
        size: None,
        resizing: false,
        published: false,
    });
    const FENCED: OnDisk = OnDisk::Record(Recorded {
        fenced: true,
        erasing: false,
        size: None,
        resizing: false,
        published: false,
    });

    #[test]
    fn v7_a_finished_growth_is_reported_before_a_new_size() {
        let mut v = ready_volume("v", "eng", true);
        v.spec.size = gi(1);
        let status = v.status.as_mut().unwrap();
        status.size = Some(gi(3));
        let node = status.node.as_mut().unwrap();
        (node.size, node.growing) = (Some(gi(1)), Some(gi(3)));
        let sized = |size| OnDisk::Record(Recorded { size: Some(size), ..Recorded::default() });
        assert_eq!(next(&v, sized(3 << 30)), Task::Size(OnNode::Resize(3 << 30)));
        assert_eq!(next(&v, sized(1 << 30)), Task::Size(OnNode::Withdraw), "it was not begun");
    }

    /// L1. Whatever is at rest gets no task but to confirm that it is complete.
    #[test]
    fn l1_a_volume_with_work_left_is_not_at_rest() {
        let rests = |change: &dyn Fn(&mut SharedPersistentVolume)| {
            let mut v = ready_volume("v", "eng", true);
            v.status.as_mut().unwrap().node.as_mut().unwrap().size = Some(gi(1));
            change(&mut v);
            is_at_rest(&v)
        };
        fn node(v: &mut SharedPersistentVolume) -> &mut NodePart {
            v.status.as_mut().unwrap().node.as_mut().unwrap()
        }
        assert!(rests(&|_| {}));
        assert!(rests(&|v| node(v).backing = BackingState::Erased));
        assert!(!rests(&|v| v.status = None), "it is to be made");
        assert!(!rests(&|v| v.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH))));
        assert!(!rests(&|v| node(v).fenced = true));
        assert!(!rests(&|v| node(v).resize_failed = Some("no".into())));
        assert!(!rests(&|v| v.spec.size = Size::written("512Mi")), "it is to be smaller");
        assert!(!rests(&|v| (v.spec.size, v.status.as_mut().unwrap().size) = (gi(2), Some(gi(2)))));
        assert!(!rests(&|v| v.status.as_mut().unwrap().conditions.clear()), "its backing is unknown");
        let ending = |v: &mut SharedPersistentVolume| {
            let claim = ClaimBinding { ending: true, ..bound_by("team", "c", "uid-c") };
            v.status.as_mut().unwrap().claims = vec![claim];
        };
        assert!(!rests(&ending));
    }

    /// V9, X2, X3.
    #[test]
    fn v9_x2_x3_each_stage_of_a_volume_has_its_task() {
        let mut v = volume("v", "eng", 1);
        assert_eq!(next(&v, OnDisk::Nothing), Task::Make);
        v = ready_volume("v", "eng", true);
        assert_eq!(next(&v, RECORD), Task::Make, "again and again: all of the volume has to be there");
        let lost = Task::Lost(OnDisk::Nothing);
        assert_eq!(next(&v, OnDisk::Nothing), lost, "V9: a volume that was made once is never made again");
        v.metadata.deletion_timestamp = some_time();
        assert_eq!(next(&v, RECORD), Task::Fence, "X2: after an accepted deletion no new user comes");
        let mut with = |in_use, dead, fenced, backing| {
            let status = v.status.as_mut().unwrap();
            status.destroy = Some(Destroy {
                in_use,
                tombstone: if dead { some_time() } else { None },
                ..Default::default()
            });
            let node = status.node.as_mut().unwrap();
            (node.fenced, node.backing) = (fenced, backing);
            (next(&v, RECORD), next(&v, FENCED))
        };
        let both = |task| (task, task);
        assert_eq!(
            with(false, false, true, BackingState::Made),
            both(Task::Fence),
            "again until all mounts are gone"
        );
        assert_eq!(with(true, false, true, BackingState::Made), both(Task::Unfence));
        assert_eq!(
            with(true, false, false, BackingState::Made),
            (Task::Rest, Task::Unfence),
            "the agent died between the report and the disk"
        );
        assert_eq!(with(false, true, true, BackingState::Made), both(Task::Erase));
        assert_eq!(with(false, true, true, BackingState::Erased), both(Task::Rest));
    }

    /// X8, X4, X6.
    #[test]
    fn x8_a_kept_volume_is_noted_and_not_erased() {
        let mut v = ready_volume("v", "eng", true);
        v.metadata.deletion_timestamp = some_time();
        let status = v.status.as_mut().unwrap();
        status.destroy = Some(Destroy { tombstone: some_time(), kept_until: later(), ..Default::default() });
        let erasing = OnDisk::Record(Recorded { fenced: true, erasing: true, ..Recorded::default() });
        for (on_disk, task) in [
            (FENCED, Task::Keep),
            (erasing, Task::Erase),
            (OnDisk::Receipt, Task::Erase),
            (OnDisk::Nothing, Task::Erase),
        ] {
            assert_eq!(next(&v, on_disk), task, "{on_disk:?}");
        }
        let (node, reason, pause) = reported(&v, Task::Keep, Outcome::Kept);
        assert_eq!(
            (node.backing, node.erased.clone(), reason, pause),
            (BackingState::Kept, None, None, None)
        );
        v.status.as_mut().unwrap().node = Some(node);
        assert_eq!(next(&v, FENCED), Task::Rest);
    }

    /// X4, X6: else the bytes would be credited, and stay on the disk.
    #[test]
    fn x6_a_deleted_volume_inherits_before_it_is_erased() {
        let mut v = volume("v", "eng", 1);
        v.metadata.deletion_timestamp = some_time();
        assert_eq!(next(&v, OnDisk::NotInherited), Task::Make);
        assert_eq!(next(&v, OnDisk::Nothing), Task::Fence, "somebody else has the data");
        v.status.get_or_insert_default().destroy =
            Some(Destroy { tombstone: some_time(), ..Default::default() });
        assert_eq!(next(&v, OnDisk::NotInherited), Task::Erase, "S11");
    }

    /// The report of an outcome: the node's part, the condition, and the pause in seconds.
    fn reported(
        volume: &SharedPersistentVolume,
        task: Task,
        outcome: Outcome,
    ) -> (NodePart, Option<&'static str>, Option<u64>) {
        let before = condition::get(&volume.status.as_ref().unwrap().conditions, BACKED).cloned();
        let (status, pause) = report(volume, task, outcome, Timestamp::UNIX_EPOCH);
        let backed = condition::get(&status.conditions, BACKED).cloned();
        let reason = backed.filter(|backed| Some(backed) != before.as_ref()).map(|backed| backed.reason);
        let reason = reason.map(|r| {
            *["Backed", "BackingLost", "BackingFailed", "NoOrphan"].iter().find(|k| **k == r).unwrap()
        });
        (status.node.unwrap_or_default(), reason, pause.map(|pause| pause.as_secs()))
    }

    /// X9, S11. A restored etcd has the volume from before an accepted DELETE; the disk has the present state.
    #[test]
    fn x9_a_restored_volume_is_unfenced_if_its_bytes_are_there() {
        let mut v = ready_volume("v", "eng", true);
        assert_eq!(next(&v, FENCED), Task::Unfence);
        let erasing = OnDisk::Record(Recorded { fenced: true, erasing: true, ..Recorded::default() });
        for (on_disk, said) in [
            (erasing, "its erasure on NodeDisk n1.a was begun"),
            (OnDisk::Receipt, "the receipt of its erasure"),
            (OnDisk::Nothing, "has no record of it"),
        ] {
            let task = next(&v, on_disk);
            assert_eq!(task, Task::Lost(on_disk));
            let (status, _) = report(&v, task, Outcome::NoRecord, Timestamp::UNIX_EPOCH);
            let backed = condition::get(&status.conditions, BACKED).unwrap();
            assert_eq!(backed.reason, "BackingLost");
            assert!(backed.message.contains(said), "{}", backed.message);
        }
        v.status.as_mut().unwrap().node = None;
        assert_eq!(next(&v, OnDisk::Receipt), Task::Make, "nothing was promised yet");
    }

    /// X9. A restored etcd may have the deletion without the tombstone.
    #[test]
    fn x9_without_its_tombstone_nothing_is_erased() {
        let mut v = ready_volume("v", "eng", true);
        v.metadata.deletion_timestamp = some_time();
        for (tombstone, task) in [(some_time(), Task::Erase), (None, Task::Fence)] {
            v.status.as_mut().unwrap().destroy = Some(Destroy { tombstone, ..Default::default() });
            for on_disk in [FENCED, OnDisk::Receipt, OnDisk::Nothing] {
                assert_eq!(next(&v, on_disk), task, "{on_disk:?}");
            }
        }
    }

    /// V9, X4.
    #[test]
    fn x4_only_a_volume_never_made_is_erased_without_a_record() {
        let mut v = ready_volume("v", "eng", true);
        let (node, reason, pause) = reported(&v, Task::Lost(OnDisk::Nothing), Outcome::NoRecord);
        assert_eq!((node.backing, reason, pause), (BackingState::Made, Some("BackingLost"), Some(15)));
        assert!(!node.fenced && node.erased.is_none());
        v.status.as_mut().unwrap().node = None;
        let (node, reason, pause) = reported(&v, Task::Fence, Outcome::NoRecord);
        assert_eq!((node.fenced, node.in_use, reason, pause), (true, false, None, None));
        assert_eq!(node.backing, BackingState::Erased, "X10: nothing is there that could be erased");
        let (node, reason, _) = reported(&v, Task::Erase, Outcome::NoRecord);
        assert_eq!(
            (node.backing, node.erased, reason),
            (BackingState::Erased, Some(Size::from_bytes(0)), None)
        );
    }

    /// L5, X4. The message advises to delete the volume; no bytes count as erased.
    #[test]
    fn l5_a_lost_volume_can_go_and_is_not_called_erased() {
        let v = ready_volume("v", "eng", true);
        let (node, reason, pause) = reported(&v, Task::Fence, Outcome::NoRecord);
        assert_eq!((node.fenced, node.in_use, reason, pause), (true, false, None, None));
        assert_eq!(node.backing, BackingState::Made, "its bytes may come back");
        let (node, reason, _) = reported(&v, Task::Erase, Outcome::NoRecord);
        assert_eq!((node.backing, node.erased, reason), (BackingState::Erased, None, None));
    }

    #[test]
    fn x3_a_fence_waits_for_the_record_and_for_the_kernel() {
        let v = ready_volume("v", "eng", true);
        for (pods, in_use, expected) in [
            (vec![], false, (false, None)),
            (vec![], true, (true, Some(2))),
            (vec![pod("ns", "p"), pod("ns", "p")], false, (true, Some(2))),
        ] {
            let listed = usize::from(!pods.is_empty());
            let (node, reason, pause) = reported(&v, Task::Fence, Outcome::Fenced { pods, in_use });
            assert_eq!(((node.in_use, pause), node.mounted_by.len(), reason), (expected, listed, None));
            assert!(node.fenced);
        }
    }

    #[test]
    fn v7_a_failed_resize_leaves_the_volume_backed() {
        let mut v = ready_volume("v", "eng", true);
        let size = Task::Size(OnNode::Resize(3 << 30));
        let (node, reason, pause) = reported(&v, size, Outcome::NotResized("12 bytes are free".into()));
        assert_eq!((reason, pause), (None, Some(15)));
        assert_eq!(node.resize_failed.as_deref(), Some("12 bytes are free"));
        v.status.as_mut().unwrap().node = Some(node);
        let again = reported(&v, size, Outcome::NotResized("9 bytes are free".into())).0;
        assert_eq!(
            again.resize_failed.as_deref(),
            Some("12 bytes are free"),
            "T2: other numbers are no news"
        );
        let resized = reported(&v, size, Outcome::Resized(3 << 30)).0;
        assert_eq!((resized.size, resized.growing, resized.resize_failed), (Some(gi(3)), None, None));
        let lost = reported(&v, size, Outcome::Lost("its file is missing".into()));
        assert_eq!(lost.1, Some("BackingLost"));
    }

    #[test]
    fn c6_ending_claims_are_reported_once_nothing_is_mounted() {
        let mut v = ready_volume("v", "eng", true);
        let status = v.status.as_mut().unwrap();
        status.claims = ["1", "2", "3"].map(|uid| bound_by("ns", uid, uid)).into();
        (status.claims[0].ending, status.claims[1].ending) = (true, true);
        status.node.as_mut().unwrap().released = vec!["left".into()];
        assert_eq!(ending(&v), ["1", "2"]);
        let mut status = v.status.clone().unwrap();
        assert_eq!(release(&v, &mut status, vec![]), Some(WHILE_IN_USE));
        assert_eq!(Some(&status), v.status.as_ref(), "T2: no news is no write");
        assert_eq!(release(&v, &mut status, vec!["2".into()]), Some(WHILE_IN_USE));
        assert_eq!(status.node.as_ref().unwrap().released, ["2"]);
        v.status = Some(status);
        assert_eq!(ending(&v), ["1"]);
    }

    /// F3, T2.
    #[test]
    fn f3_processes_are_looked_for_once_a_use_lasts() {
        let process = |pid| Process { pid, command: "sh".into(), pod_uid: None, mount: None };
        let mut v = ready_volume("v", "eng", true);
        let held = |mut v: SharedPersistentVolume, pods| {
            let before = v.clone();
            let node = v.status.as_mut().unwrap().node.as_mut().unwrap();
            fence(node, pods, true);
            (is_held(&before, v.status.as_ref().unwrap()), v)
        };
        let (first, fenced) = held(v.clone(), vec![]);
        assert!(!first && held(fenced.clone(), vec![]).0, "only what lasts");
        assert!(!held(fenced, vec![pod("ns", "p")]).0, "the record has the pod");
        v.spec.shared = None;
        let status = v.status.as_mut().unwrap();
        status.claims = vec![ClaimBinding { ending: true, ..bound_by("ns", "c", "c") }];
        let mut status = status.clone();
        assert!(is_held(&v, &status));
        release(&v, &mut status, vec!["c".into()]);
        assert!(!is_held(&v, &status));
        let mut reported = |found: &[u32]| {
            hold(&mut status, found.iter().copied().map(process).collect());
            status.node.as_ref().unwrap().held_by.iter().map(|process| process.pid).collect::<Vec<_>>()
        };
        assert_eq!(reported(&[4, 5]), [4, 5]);
        assert_eq!(reported(&[2, 4, 5]), [4, 5], "no news");
        assert_eq!(reported(&[5]), [5]);
        assert!(reported(&[]).is_empty());
    }

    /// X6.
    #[test]
    fn x6_data_that_is_gone_is_an_orphan_no_more() {
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().node = None;
        v.spec.recover = Some(Recover { uid: "lost".into() });
        let (node, reason, pause) = reported(&v, Task::Make, Outcome::NoData);
        assert_eq!((node, reason, pause), (NodePart::default(), Some("NoOrphan"), Some(15)));
        let (status, _) = report(&v, Task::Make, Outcome::NoData, Timestamp::UNIX_EPOCH);
        let said = &condition::get(&status.conditions, BACKED).unwrap().message;
        assert!(said.starts_with("NodeDisk n1.a does not have the data lost any more: "), "{said}");
    }

    /// M6.
    #[test]
    fn m6_a_volume_is_measured_while_pods_use_it() {
        let mut v = ready_volume("v", "eng", true);
        let used = OnDisk::Record(Recorded { published: true, ..Recorded::default() });
        assert!(is_measured(&v, used) && !is_measured(&v, RECORD) && !is_measured(&v, OnDisk::Nothing));
        let full = Verdict::yes(reason::NEARLY_FULL, "said");
        let conditions = &mut v.status.as_mut().unwrap().conditions;
        condition::set(conditions, NEARLY_FULL, full, None, Timestamp::UNIX_EPOCH);
        assert!(is_measured(&v, RECORD), "it may have grown");
        v.spec.volume_mode = VolumeMode::Block;
        assert!(!is_measured(&v, used));
        v.spec.volume_mode = VolumeMode::Filesystem;
        v.metadata.deletion_timestamp = some_time();
        assert!(!is_measured(&v, used));
    }

    #[test]
    fn nothing_done_changes_nothing() {
        let v = ready_volume("v", "eng", true);
        let (status, pause) = report(&v, Task::Rest, Outcome::Untouched, Timestamp::UNIX_EPOCH);
        assert_eq!((Some(status), pause), (v.status, None));
    }

    /// T2.
    #[test]
    fn t2_numbers_that_drift_are_no_news() {
        let mut v = volume("v", "eng", 1);
        let mut says = |outcome| {
            v.status = Some(report(&v, Task::Make, outcome, Timestamp::UNIX_EPOCH).0);
            condition::get(&v.status.as_ref().unwrap().conditions, BACKED).unwrap().message.clone()
        };
        let mut fails = |why: &str| says(Outcome::Failed(why.into()));
        assert_eq!(fails("disk d has 12 bytes free"), "disk d has 12 bytes free");
        assert_eq!(fails("disk d has 345 bytes free"), "disk d has 12 bytes free");
        assert_eq!(fails("mkfs failed"), "mkfs failed");
        v.spec.adopt = Some(Adopt { path: "/srv/a".into() });
        let (status, _) = report(&v, Task::Make, Outcome::Made(1), Timestamp::UNIX_EPOCH);
        let backed = condition::get(&status.conditions, BACKED).unwrap();
        assert_eq!(backed.message, "/srv/a is adopted as it is; its size is not enforced");
    }
}
