//! Disks with `lifetime: Node`, which go with their node (D7).
//!
//! No clock decides alone. The Node with the recorded UID must be missing by a live read, at the begin of the grace period
//! and at its end. A Node of the same name that came back decides nothing until its agent has reported: either the agent
//! finds the disk by its ID, and records the UID of the new Node, or it finds another disk in its place. A Node that came back
//! and leaves again begins another grace period. The end is a compare-and-swap on the NodeDisk, so a report in between wins.
//! Nothing is erased: an agent that finds such a disk later keeps all that is on it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    ClaimBinding, Lifetime, MissingNode, NodeDisk, OtherDisk, SharedPersistentVolume, VolumeClaim,
};

use super::own_pvc;
use super::{bind, disk_identity::is_placeholder};

/// The next step for the disk of a node that may be gone.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Declare the disk gone, by compare-and-swap on the NodeDisk that was read.
    GiveUp,
    /// Delete a placeholder, which holds nothing, by compare-and-swap likewise.
    Delete,
    /// Look again after that time.
    LookAgain(Duration),
    /// Nothing.
    Rest,
}

/// The pause before another look at a node that is missing, whose NodeDisk does not show that yet.
const SOON: Duration = Duration::from_secs(1);

/// True if a missing Node ends the disk. Without the UID of its Node nothing shows which Node is missing.
pub(super) fn may_end(disk: &NodeDisk) -> bool {
    let spec = &disk.spec;
    spec.lifetime == Lifetime::Node
        && !spec.gone
        && spec.take_over.is_none()
        && spec.node_uid.is_some()
        && disk.metadata.deletion_timestamp.is_none()
}

/// True if the Node of the disk is missing. `node_uid` is the UID of the Node that has the name now; `None`: there is none.
pub fn is_missing(disk: &NodeDisk, node_uid: Option<&str>) -> bool {
    let other = disk.status.as_ref().and_then(|status| status.other_disk.as_ref());
    may_end(disk)
        && match node_uid {
            None => true,
            Some(uid) if disk.spec.node_uid.as_deref() == Some(uid) => false,
            Some(uid) => other.is_some_and(|other| other.node_uid == uid),
        }
}

/// The record in the status of a Node that is missing. The record of a disk that is gone stays.
pub fn missing_node(disk: &NodeDisk, is_missing: bool, now: Timestamp) -> Option<MissingNode> {
    let begin = || {
        let node_uid = disk.spec.node_uid.clone()?;
        Some(MissingNode { node_uid, since: condition::stored(now) })
    };
    let recorded = recorded(disk).cloned();
    if disk.spec.gone { recorded } else { recorded.or_else(begin).filter(|_| is_missing) }
}

/// The record of the Node that had the disk last. A record of an earlier Node does not count.
fn recorded(disk: &NodeDisk) -> Option<&MissingNode> {
    let missing = disk.status.as_ref()?.missing_node.as_ref()?;
    (disk.spec.node_uid.as_ref() == Some(&missing.node_uid)).then_some(missing)
}

/// Another disk in the place of the disk of `object`, for the report of the node's agent. `ids` has the IDs of the node's
/// disks by their names, and `mine` the NodeDisks of the node. A disk that only changed its place is no other disk: the kernel
/// may number devices anew at each start.
pub fn other_disk(
    object: &NodeDisk,
    ids: &BTreeMap<String, String>,
    node_uid: Option<&str>,
    mine: &[NodeDisk],
) -> Option<OtherDisk> {
    let (found, expected) = (ids.get(&object.spec.disk_name)?, &object.spec.disk_id);
    let is_elsewhere = ids.values().any(|id| id == expected);
    let is_known = mine.iter().any(|known| known.spec.disk_id == *found);
    let is_other =
        object.spec.lifetime == Lifetime::Node && !is_placeholder(object) && !is_elsewhere && !is_known;
    node_uid.filter(|_| is_other).map(|uid| OtherDisk { disk_id: found.clone(), node_uid: uid.to_owned() })
}

/// The next step. `is_missing` is the result of [`is_missing`] by a live read of the Node.
pub fn next(disk: &NodeDisk, is_missing: bool, now: Timestamp) -> Step {
    let since = recorded(disk).map(|missing| &missing.since);
    let grace = Duration::from_secs(disk.spec.node_grace_seconds.unwrap_or(GRACE_SECONDS).into());
    match since {
        _ if !is_missing => Step::Rest,
        None => Step::LookAgain(SOON),
        Some(since) => {
            let elapsed = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
            match grace.saturating_sub(elapsed) {
                Duration::ZERO if is_placeholder(disk) => Step::Delete,
                Duration::ZERO => Step::GiveUp,
                left => Step::LookAgain(left),
            }
        }
    }
}

/// The grace period, unless the agent's configuration has another one.
pub const GRACE_SECONDS: u32 = 300;

/// True if the disk has gone with its node. A disk that somebody declared gone while its Node was there has not: pods may
/// still use it (D4).
pub fn has_left(disk: &NodeDisk) -> bool {
    disk.spec.gone && recorded(disk).is_some()
}

/// True if the NodeDisk has nothing to show any more: its end was reported, and nothing is reserved on it.
pub fn may_be_deleted(disk: &NodeDisk) -> bool {
    let status = disk.status.as_ref();
    let is_reported = status
        .and_then(|status| condition::get(&status.conditions, READY))
        .is_some_and(|ready| ready.reason == reason::NODE_GONE);
    has_left(disk)
        && is_reported
        && status.is_none_or(|status| status.reservations.is_empty())
        && disk.metadata.deletion_timestamp.is_none()
}

/// The condition of the disk during the grace period.
pub fn leaving(disk: &NodeDisk) -> String {
    format!(
        "Node {} is missing; if it does not come back with its disk within {} seconds, the disk goes with it (lifetime: Node)",
        disk.spec.node_name,
        disk.spec.node_grace_seconds.unwrap_or(GRACE_SECONDS)
    )
}

/// True if a volume ends because its disk has gone with its node. That is for good, so any cache shows it.
pub fn has_ended(volume: &SharedPersistentVolume) -> bool {
    let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
    condition::get(conditions, READY).is_some_and(|ready| ready.reason == reason::NODE_GONE)
}

/// The condition of the disk that has gone.
pub fn left(disk: &NodeDisk) -> String {
    format!(
        "node {} left the cluster, and NodeDisk {} with it (lifetime: Node): its volumes end, and its reservations leave it",
        disk.spec.node_name,
        disk.name_any()
    )
}

/// The claims whose bindings end with the disk. That of a PersistentVolumeClaim of a class ends after its object.
pub fn ended_claims(volume: &SharedPersistentVolume, disk: Option<&NodeDisk>) -> Vec<ClaimBinding> {
    let claims = volume.status.iter().flat_map(|status| &status.claims).cloned();
    claims.filter(|claim| disk.is_some_and(has_left) && !own_pvc::is_own(claim, volume)).collect()
}

/// Why a claim has no volume any more.
pub fn claim_ended(claim: &VolumeClaim) -> Verdict {
    let noted = bind::noted(claim).map_or("?", |volume| &volume.name);
    let node = claim.status.as_ref().and_then(|status| status.node_name.as_deref()).unwrap_or("?");
    Verdict::no(
        reason::NODE_GONE,
        format!(
            "node {node} left the cluster, and volume {noted} with its data: delete this claim, and claim another volume"
        ),
    )
}

/// The event of a PersistentVolumeClaim of a class that is deleted with its volume.
pub fn pvc_ended(volume: &SharedPersistentVolume) -> String {
    let node = volume.status.as_ref().and_then(|status| status.node_name.as_deref()).unwrap_or("?");
    format!(
        "node {node} left the cluster, and the volume with its data: the PersistentVolumeClaim is deleted. A StatefulSet makes \
         another one; else make it anew"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{OtherDisk, UNKNOWN_DISK};
    use crate::plan::testing::*;

    fn on_node(uid: &str) -> NodeDisk {
        let mut disk = disk("n1.a", "n1", 10, &[]);
        disk.spec.disk_name = "a".into();
        (disk.spec.lifetime, disk.spec.node_uid) = (Lifetime::Node, Some(uid.to_owned()));
        disk
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The disk, with the record of the controller at that time.
    fn seen_missing(disk: &NodeDisk, second: i64) -> NodeDisk {
        let mut disk = disk.clone();
        disk.status.as_mut().unwrap().missing_node = missing_node(&disk, true, at(second));
        disk
    }

    #[test]
    fn d7_a_node_is_missing_by_its_uid_and_its_agents_word() {
        let here = on_node("uid-1");
        let with = |change: fn(&mut NodeDisk)| {
            let mut disk = here.clone();
            change(&mut disk);
            is_missing(&disk, None)
        };
        assert!(is_missing(&here, None));
        assert!(!is_missing(&here, Some("uid-1")));
        assert!(!is_missing(&here, Some("uid-2")), "back, and its agent has not looked for the disk yet");
        let mut other = here.clone();
        let there = OtherDisk { disk_id: "other".into(), node_uid: "uid-2".into() };
        other.status.as_mut().unwrap().other_disk = Some(there);
        assert!(is_missing(&other, Some("uid-2")), "another disk is in its place");
        assert!(!is_missing(&other, Some("uid-3")), "an earlier agent said so");
        assert!(!is_missing(&other, Some("uid-1")));

        assert!(!with(|disk| disk.spec.lifetime = Lifetime::Disk), "D4");
        assert!(!with(|disk| disk.spec.node_uid = None));
        assert!(!with(|disk| disk.spec.gone = true));
        assert!(!with(|disk| {
            let (node_name, disk_name) = ("n2".to_owned(), "a".to_owned());
            disk.spec.take_over = Some(crate::api::TakeOver { node_name, disk_name, proof: String::new() });
        }));
    }

    #[test]
    fn d7_a_disk_goes_after_its_grace_period() {
        let disk = on_node("uid-1");
        let seconds = |n| Step::LookAgain(Duration::from_secs(n));
        assert_eq!(next(&disk, true, at(9999)), seconds(1), "the begin is recorded first");
        let mut disk = seen_missing(&disk, 0);
        assert_eq!(seen_missing(&disk, 99), disk, "the begin stays");
        assert_eq!(next(&disk, true, at(299)), seconds(1));
        assert_eq!(next(&disk, true, at(300)), Step::GiveUp);
        assert_eq!(next(&disk, false, at(9999)), Step::Rest, "D7: no clock decides alone");
        assert_eq!(next(&disk, true, at(-9)), seconds(300), "a clock that is set back");
        disk.spec.node_grace_seconds = Some(10);
        assert_eq!(next(&disk, true, at(10)), Step::GiveUp);
        disk.spec.disk_id = UNKNOWN_DISK.into();
        assert_eq!(next(&disk, true, at(9)), seconds(1));
        assert_eq!(next(&disk, true, at(10)), Step::Delete, "no agent had opened it");
    }

    /// A Node object that is away for a moment, also while no controller looks.
    #[test]
    fn d7_a_node_that_came_back_begins_a_new_grace_period() {
        let mut disk = seen_missing(&on_node("uid-1"), 0);
        assert_eq!(missing_node(&disk, false, at(9)), None, "it is back");
        disk.spec.node_uid = Some("uid-2".into());
        assert_eq!(next(&disk, true, at(9999)), Step::LookAgain(SOON), "it was back in between");
        let disk = seen_missing(&disk, 9999);
        assert_eq!(next(&disk, true, at(9999 + 299)), Step::LookAgain(SOON));
        assert_eq!(next(&disk, true, at(9999 + 300)), Step::GiveUp);
    }

    #[test]
    fn d4_a_disk_declared_gone_beside_its_node_has_not_left() {
        let mut disk = on_node("uid-1");
        disk.spec.gone = true;
        assert!(!has_left(&disk), "pods may still use it");
        assert_eq!(missing_node(&disk, false, at(0)), None);
        let mut earlier = seen_missing(&on_node("uid-1"), 0);
        earlier.spec.gone = true;
        assert!(has_left(&earlier));
        assert!(missing_node(&earlier, false, at(9)).is_some(), "what is gone stays gone");
        earlier.spec.node_uid = Some("uid-2".into());
        assert!(!has_left(&earlier), "its agent had found the disk");
    }

    #[test]
    fn d7_a_disk_in_another_place_is_no_other_disk() {
        let (a, mut b) = (on_node("uid-1"), disk("n1.b", "n1", 10, &[]));
        b.spec.disk_name = "b".into();
        let mine = [a.clone(), b];
        let found = |ids: &[(&str, &str)]| {
            let ids = ids.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect();
            other_disk(&a, &ids, Some("uid-2"), &mine).map(|other| other.disk_id)
        };
        assert_eq!(found(&[("a", "new")]).as_deref(), Some("new"));
        assert_eq!(found(&[("a", "id-n1.a")]), None);
        assert_eq!(found(&[]), None, "nothing can be read there");
        assert_eq!(found(&[("a", "id-n1.b"), ("b", "id-n1.a")]), None, "swapped");
        assert_eq!(found(&[("a", "id-n1.b")]), None, "swapped, and its own place cannot be read");
        assert_eq!(found(&[("a", "new"), ("c", "id-n1.a")]), None);
    }

    #[test]
    fn d7_only_the_claims_of_classes_end_after_their_own_objects() {
        let mut gone = seen_missing(&on_node("uid-1"), 0);
        let mut volume = ready_volume("v", "eng", true);
        let claims = vec![bound_by("ns", "a", "uid-a"), bound_by("ns", "data", "uid-b")];
        volume.status.as_mut().unwrap().claims = claims.clone();
        assert_eq!(ended_claims(&volume, Some(&gone)), [], "not gone");
        gone.spec.gone = true;
        assert_eq!(ended_claims(&volume, Some(&gone)), claims);
        volume.labels_mut().insert(crate::api::LABEL_PVC_UID.into(), "u".into());
        volume.status.as_mut().unwrap().claims[1].pvc_uid = Some("u".into());
        assert_eq!(ended_claims(&volume, Some(&gone)), claims[..1]);
        gone.status.as_mut().unwrap().missing_node = None;
        assert_eq!(ended_claims(&volume, Some(&gone)), [], "D4");
    }
}
