//! GROW and SHRINK: the next step from the present size of a volume to the size in its spec (V7).
//!
//! At every committed revision the entry in the reservation's ledger ≥ `status.size` ≥ `status.node.size` and
//! `status.node.growing` ≥ the bytes on the disk. A growth is written from left to right, a shrinking from right to
//! left.
//!
//! `status.size` and the node's part are in one object. So a controller that takes bytes back and an agent that is
//! about to use these bytes cannot both succeed. The ledger is in another object. An entry shrinks only while the
//! volume has `creditDue`, and the volume does not grow during that time.

use kube::ResourceExt;

use crate::api::condition::{self, RESIZED, Verdict, reason};
use crate::api::{
    BackingState, FsType, LABEL_PVC_UID, NodePart, SharedPersistentVolume, SharedPersistentVolumeStatus, Size,
};

use super::{names, seal, undivided};

/// The words of the agent about a volume that cannot be resized while it is mounted.
pub const BUSY: &str = "is busy: wait until the last process that uses it is gone";

/// The least size that the agent says a volume needs, in its words about a size that is too small.
pub fn least_size(said: &str) -> Option<u64> {
    let (before, _) = said.split_once(" bytes at least, for its files")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// The controller's next step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Raise the ledger's entry to at least this size, then set `status.size` to exactly this size.
    Grow(u64),
    /// The volume uses at most this size on the disk: lower `status.size`, and set `creditDue`.
    Lower(u64),
    /// Shrink the ledger's entry to `status.size`.
    ShrinkEntry,
    /// The ledger's entry has shrunk: clear `creditDue`.
    Settle,
    /// No change of the size. The value is the condition `Resized`, if any.
    Rest(Option<Verdict>),
}

/// Bytes in the ledger of the volume's reservation.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Bytes of the volume's entry.
    pub entry: u64,
    /// Free bytes of the reservation.
    pub free: u64,
}

struct Sizes {
    /// The size in the spec.
    asked: u64,
    /// The size to reach. A sealed volume keeps its size (E1).
    wished: u64,
    granted: u64,
    on_disk: u64,
    node: NodePart,
}

/// The sizes of a volume; `None` before the volume was made, or if a size is unreadable.
fn sizes(volume: &SharedPersistentVolume) -> Option<Sizes> {
    let status = volume.status.as_ref()?;
    let node = status.node.clone().filter(|node| node.backing == BackingState::Made)?;
    let on_disk = node.size.as_ref()?.bytes().ok()?;
    // A volume with an undivided disk never requests less than that disk (D2).
    let asked = undivided::of_volume(volume, volume.spec.size.bytes().ok()?);
    // A growth may be taken back after its node began it. The volume of a PersistentVolumeClaim keeps these bytes (P3).
    let is_of_pvc = volume.labels().contains_key(LABEL_PVC_UID);
    let asked = if is_of_pvc { asked.max(on_disk) } else { asked };
    let wished = if seal::is_closed(volume) { on_disk } else { asked };
    Some(Sizes { asked, wished, granted: status.size.as_ref()?.bytes().ok()?, on_disk, node })
}

/// The size of the volume as its users see it now.
pub fn size_now(volume: &SharedPersistentVolume) -> &Size {
    let status = volume.status.as_ref();
    let on_disk = status.and_then(|s| s.node.as_ref()?.size.as_ref());
    on_disk.or(status.and_then(|s| s.size.as_ref())).unwrap_or(&volume.spec.size)
}

/// The controller's next step.
pub fn next(volume: &SharedPersistentVolume, ledger: Option<Ledger>) -> Step {
    let status = volume.status.clone().unwrap_or_default();
    let (Some(sizes), Some(ledger)) = (sizes(volume), ledger) else { return Step::Rest(None) };
    let Sizes { wished, granted, on_disk, ref node, .. } = sizes;
    let growing = node.growing.as_ref().map_or(0, Size::bytes_or_zero);
    let needed = wished.max(on_disk).max(growing);
    if status.credit_due {
        return if ledger.entry > granted { Step::ShrinkEntry } else { Step::Settle };
    }
    if wished > granted {
        return match wished.saturating_sub(ledger.entry) <= ledger.free {
            true => Step::Grow(wished),
            // The entry grew for a larger `spec.size`, which was lowered again.
            false if ledger.entry > granted => Step::Lower(granted),
            false => Step::Rest(Some(full(volume, ledger))),
        };
    }
    if needed < granted || wished == granted && ledger.entry > granted {
        return Step::Lower(needed);
    }
    Step::Rest(report(volume, &status, &sizes))
}

/// The reason why the volume cannot grow, with the numbers of the reservation.
fn full(volume: &SharedPersistentVolume, ledger: Ledger) -> Verdict {
    let reservation = volume.status.as_ref().and_then(|s| s.reservation.as_ref()).map_or("?", |r| &r.name);
    let (wished, now) = (volume.spec.size.bytes_or_zero(), size_now(volume));
    if volume.status.as_ref().and_then(|s| s.disk_kind).is_some_and(undivided::is_undivided) {
        let why = format!(
            "{} wished, and it has its whole disk, {now}: ask for that or less, or create a volume on a larger disk and copy its files; the \
             volume stays usable",
            volume.spec.size
        );
        return Verdict::no(reason::RESERVATION_FULL, why);
    }
    let less = match volume.labels().contains_key(LABEL_PVC_UID) {
        true => format!("request less, of which Kubernetes takes only what is more than {now}"),
        false => "ask for less".to_owned(),
    };
    Verdict::no(
        reason::RESERVATION_FULL,
        format!(
            "{} wished, {} more than it has, and reservation {reservation} has {} left: enlarge the reservation, or {less}; \
             the volume stays usable at {now}",
            volume.spec.size,
            Size::from_bytes(wished.saturating_sub(ledger.entry)),
            Size::from_bytes(ledger.free),
        ),
    )
}

/// True if the volume's file system can shrink.
fn can_shrink(volume: &SharedPersistentVolume) -> bool {
    match volume.spec.fs_type {
        FsType::Ext4 | FsType::Btrfs => true,
        FsType::Xfs => false,
    }
}

fn report(
    volume: &SharedPersistentVolume,
    status: &SharedPersistentVolumeStatus,
    sizes: &Sizes,
) -> Option<Verdict> {
    let on_node = status.node_name.as_deref().unwrap_or("?");
    let (wished, now) = (&volume.spec.size, size_now(volume));
    let growing = sizes.node.growing.as_ref();
    // A growth was begun before the seal, and the record of the node knows whether it has to be finished.
    if let Some(growing) = growing.filter(|_| sizes.asked != sizes.wished) {
        let why = format!(
            "it has {now}, and a growth to {growing} was begun before the seal: node {on_node} finishes it, or takes it back, when \
             no pod may write any more, and seals the volume then"
        );
        return Some(Verdict::no(reason::RESIZING, why));
    }
    if sizes.asked != sizes.wished {
        let why = format!(
            "a sealed volume keeps its size: set spec.size back to {now}, or copy the files into another volume"
        );
        return Some(Verdict::no(reason::SEALED_SIZE, why));
    }
    if sizes.on_disk == sizes.wished {
        condition::get(&status.conditions, RESIZED)?;
        return Some(match growing {
            // The node has not reacted to the change of the spec yet, or ends what it has begun.
            Some(growing) => {
                let waits = match &sizes.node.resize_failed {
                    Some(why) => format!(", as soon as it can: {why}; the volume is of full use meanwhile"),
                    None => String::new(),
                };
                Verdict::no(
                    reason::RESIZING,
                    format!(
                        "it has {now}, and node {on_node} is ending a growth to {growing} that was taken back{waits}"
                    ),
                )
            }
            None => Verdict::yes(reason::RESIZED, format!("it has {now}")),
        });
    }
    Some(match (&sizes.node.resize_failed, sizes.wished < sizes.on_disk) {
        (_, true) if !can_shrink(volume) => Verdict::no(
            reason::CANNOT_SHRINK,
            format!("xfs cannot shrink: set spec.size back to {now}, or create a smaller volume and copy"),
        ),
        (_, true) if status.user_count > 0 => Verdict::no(
            reason::SHRINK_IN_USE,
            format!(
                "it shrinks to {wished} after the end of pod {}: only an unused volume can",
                names(&status.users, status.user_count as usize)
            ),
        ),
        (Some(why), _) => Verdict::no(reason::RESIZE_FAILED, format!("it stays at {now}: {why}")),
        (None, smaller) => {
            let word = if smaller { "smaller" } else { "larger" };
            let ready = condition::get(&status.conditions, condition::READY);
            let is_away = ready.is_some_and(|ready| {
                [reason::NODE_UNREACHABLE, reason::DISK_NOT_READY].contains(&&*ready.reason)
            });
            Verdict::no(
                reason::RESIZING,
                match is_away {
                    true => format!("node {on_node} makes it {word} when its disk is ready again"),
                    false => format!("node {on_node} is to make it {word}"),
                },
            )
        }
    })
}

/// The agent's next step for the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNode {
    /// Report this size, before the resize begins.
    Announce(u64),
    /// Resize the volume to this size.
    Resize(u64),
    /// Withdraw the report of a growth that was not begun.
    Withdraw,
}

/// The agent's next step. `unfinished` is true if the volume record has an unfinished resize.
pub fn on_node(volume: &SharedPersistentVolume, unfinished: bool) -> Option<OnNode> {
    let Sizes { wished, granted, on_disk, node, .. } = sizes(volume)?;
    if volume.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if let Some(growing) = node.growing.as_ref().and_then(|size| size.bytes().ok()) {
        return Some(if wished < growing && !unfinished {
            OnNode::Withdraw
        } else {
            OnNode::Resize(growing)
        });
    }
    let unused = volume.status.as_ref().is_some_and(|s| s.user_count == 0);
    if wished < on_disk && unused && can_shrink(volume) {
        return Some(OnNode::Resize(wished));
    }
    if on_disk < granted && wished >= granted {
        return Some(OnNode::Announce(granted));
    }
    unfinished.then_some(OnNode::Resize(on_disk))
}

/// True if a change of the reservation concerns the volume: the volume waits for free space, or its entry has another
/// size.
pub fn waits_for_ledger(volume: &SharedPersistentVolume, entry: Option<u64>) -> bool {
    let status = volume.status.clone().unwrap_or_default();
    let granted = status.size.as_ref().map(Size::bytes_or_zero);
    status.credit_due || volume.spec.size.bytes().ok() > granted || entry != granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::set;
    use crate::plan::testing::*;

    /// A volume with these sizes in Gi: in the spec, in the status, on the node.
    fn sized(wished: u64, granted: u64, on_disk: u64) -> SharedPersistentVolume {
        let mut v = ready_volume("v", "eng", true);
        v.spec.size = gi(wished);
        let status = v.status.as_mut().unwrap();
        status.size = Some(gi(granted));
        status.node.as_mut().unwrap().size = Some(gi(on_disk));
        v
    }

    fn step(v: &SharedPersistentVolume, entry: u64, free: u64) -> Step {
        next(v, Some(Ledger { entry: entry << 30, free: free << 30 }))
    }

    fn said(step: Step) -> (&'static str, String) {
        match step {
            Step::Rest(Some(verdict)) => (verdict.reason, verdict.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn v7_growing_goes_ledger_then_status_then_disk() {
        let g = |n: u64| n << 30;
        assert_eq!(step(&sized(1, 1, 1), 1, 5), Step::Rest(None), "nothing to do, nothing to say");
        assert_eq!(step(&sized(3, 1, 1), 1, 5), Step::Grow(g(3)));
        assert_eq!(step(&sized(3, 1, 1), 3, 0), Step::Grow(g(3)), "died between ledger and status");
        assert_eq!(said(step(&sized(3, 3, 1), 3, 0)), ("Resizing", "node n1 is to make it larger".into()));
        let mut away = sized(3, 3, 1);
        let conditions = &mut away.status.as_mut().unwrap().conditions;
        let off = Verdict::no(reason::NODE_UNREACHABLE, "m");
        set(conditions, condition::READY, off, None, jiff::Timestamp::UNIX_EPOCH);
        let later = "node n1 makes it larger when its disk is ready again";
        assert_eq!(said(step(&away, 3, 0)).1, later);
        assert_eq!(on_node(&sized(3, 1, 1), false), None, "S1: not before it is granted");
        assert_eq!(on_node(&sized(3, 3, 1), false), Some(OnNode::Announce(g(3))));
        let mut v = sized(3, 3, 1);
        v.status.as_mut().unwrap().node.as_mut().unwrap().growing = Some(gi(3));
        assert_eq!(on_node(&v, true), Some(OnNode::Resize(g(3))));
        let v = sized(3, 3, 3);
        assert_eq!(on_node(&v, false), None);
        assert_eq!(step(&v, 3, 0), Step::Rest(None));
    }

    #[test]
    fn v7_a_refusal_to_grow_names_the_numbers() {
        let mut v = sized(9, 1, 1);
        v.status.as_mut().unwrap().reservation =
            Some(crate::api::UidRef { name: "r".into(), uid: "u".into() });
        let (reason, message) = said(step(&v, 1, 5));
        assert_eq!(reason, "ReservationFull");
        assert_eq!(
            message,
            "9Gi wished, 8Gi more than it has, and reservation r has 5Gi left: enlarge the reservation, or ask for less; the \
             volume stays usable at 1Gi"
        );
        v.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let (_, message) = said(step(&v, 1, 5));
        assert!(
            message.contains("or request less, of which Kubernetes takes only what is more than 1Gi;"),
            "{message}"
        );
        assert_eq!(on_node(&v, false), None);
    }

    /// D2: no reservation of a whole disk is larger.
    #[test]
    fn v7_a_volume_with_a_whole_disk_has_all_of_it() {
        let mut v = sized(9, 1, 1);
        v.status.as_mut().unwrap().disk_kind = Some(crate::api::DiskKind::Mount);
        let (reason, message) = said(step(&v, 1, 0));
        assert_eq!(reason, "ReservationFull");
        assert!(
            message.starts_with("9Gi wished, and it has its whole disk, 1Gi: ask for that or less"),
            "{message}"
        );
    }

    #[test]
    fn v7_shrinking_goes_disk_then_status_then_ledger() {
        let g = |n: u64| n << 30;
        assert_eq!(on_node(&sized(1, 3, 3), false), Some(OnNode::Resize(g(1))));
        assert_eq!(said(step(&sized(1, 3, 3), 3, 0)).0, "Resizing", "the disk comes first");
        assert_eq!(step(&sized(1, 3, 1), 3, 0), Step::Lower(g(1)));
        let mut v = sized(1, 1, 1);
        v.status.as_mut().unwrap().credit_due = true;
        assert_eq!(step(&v, 3, 0), Step::ShrinkEntry);
        assert_eq!(step(&v, 1, 2), Step::Settle);
        v.spec.size = gi(3);
        assert_eq!(step(&v, 3, 0), Step::ShrinkEntry, "S1: it does not grow before that");
    }

    #[test]
    fn v7_a_volume_that_cannot_shrink_says_why() {
        let mut used = sized(1, 3, 3);
        let status = used.status.as_mut().unwrap();
        (status.users, status.user_count) = (vec![pod("ns", "p")], 1);
        assert_eq!(
            said(step(&used, 3, 0)),
            (
                "ShrinkInUse",
                "it shrinks to 1Gi after the end of pod ns/p: only an unused volume can".to_owned()
            )
        );
        assert_eq!(on_node(&used, false), None);
        let mut xfs = sized(1, 3, 3);
        xfs.spec.fs_type = FsType::Xfs;
        assert_eq!(said(step(&xfs, 3, 0)).0, "CannotShrink");
        assert_eq!(on_node(&xfs, false), None);
        let mut full = sized(1, 3, 3);
        full.status.as_mut().unwrap().node.as_mut().unwrap().resize_failed = Some("2Gi are needed".into());
        assert_eq!(said(step(&full, 3, 0)), ("ResizeFailed", "it stays at 3Gi: 2Gi are needed".to_owned()));
    }

    #[test]
    fn v7_a_size_that_is_set_back_leaves_nothing() {
        let g = |n: u64| n << 30;
        assert_eq!(step(&sized(1, 1, 1), 3, 0), Step::Lower(g(1)), "the ledger has too much");
        assert_eq!(step(&sized(1, 3, 1), 3, 0), Step::Lower(g(1)), "granted, and not begun");
        assert_eq!(step(&sized(9, 1, 1), 3, 2), Step::Lower(g(1)), "the ledger grew for a wish that is gone");
        assert_eq!(on_node(&sized(1, 3, 1), false), None, "what will be taken back is not begun");
        let mut begun = sized(1, 3, 1);
        begun.status.as_mut().unwrap().node.as_mut().unwrap().growing = Some(gi(3));
        assert_eq!(on_node(&begun, false), Some(OnNode::Withdraw));
        assert_eq!(on_node(&begun, true), Some(OnNode::Resize(g(3))), "what was begun is finished first");
        assert!(matches!(step(&begun, 3, 0), Step::Rest(_)), "what the agent may be using is not taken back");
        assert_eq!(on_node(&sized(3, 3, 3), true), Some(OnNode::Resize(g(3))), "a shrink that was begun");
    }

    /// P3: a growth that was begun, and then taken back.
    #[test]
    fn p3_the_volume_of_a_pvc_keeps_what_it_has() {
        let mut v = sized(1, 3, 3);
        v.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        assert_eq!((on_node(&v, false), step(&v, 3, 0)), (None, Step::Rest(None)));
        v.metadata.labels = None;
        assert_eq!(on_node(&v, false), Some(OnNode::Resize(1 << 30)));
    }

    /// V7: the condition of a failed growth ends with its wish, before the node reacts.
    #[test]
    fn v7_a_growth_that_is_taken_back_is_no_failure() {
        let mut v = sized(3, 3, 1);
        let status = v.status.as_mut().unwrap();
        let node = status.node.as_mut().unwrap();
        (node.growing, node.resize_failed) = (Some(gi(3)), Some("12 bytes are free".into()));
        set(
            &mut status.conditions,
            RESIZED,
            Verdict::no("ResizeFailed", ""),
            None,
            jiff::Timestamp::UNIX_EPOCH,
        );
        assert_eq!(said(step(&v, 3, 0)).0, "ResizeFailed");
        v.spec.size = gi(1);
        let (reason, message) = said(step(&v, 3, 0));
        assert_eq!(
            (reason, &*message),
            (
                "Resizing",
                "it has 1Gi, and node n1 is ending a growth to 3Gi that was taken back, as soon as it can: 12 bytes are free; the \
                 volume is of full use meanwhile"
            )
        );
        v.status.as_mut().unwrap().node.as_mut().unwrap().resize_failed = None;
        assert!(said(step(&v, 3, 0)).1.ends_with("that was taken back"));
        v.status.as_mut().unwrap().node.as_mut().unwrap().growing = None;
        assert_eq!(step(&v, 3, 0), Step::Lower(1 << 30));
        v.status.as_mut().unwrap().size = Some(gi(1));
        assert_eq!(said(step(&v, 1, 2)), ("Resized", "it has 1Gi".to_owned()));
    }

    /// E1. A growth that was begun is taken back, or finished.
    #[test]
    fn e1_a_sealed_volume_keeps_its_size() {
        let mut v = sized(3, 1, 1);
        v.spec.sealed = true;
        let (reason, message) = said(step(&v, 1, 9));
        assert_eq!(reason, "SealedSize");
        assert!(message.contains("set spec.size back to 1Gi"), "{message}");
        v.status.as_mut().unwrap().size = Some(gi(3));
        assert_eq!((on_node(&v, false), step(&v, 3, 0)), (None, Step::Lower(1 << 30)));
        v.status.as_mut().unwrap().node.as_mut().unwrap().growing = Some(gi(3));
        assert_eq!(on_node(&v, false), Some(OnNode::Withdraw));
        assert_eq!(on_node(&v, true), Some(OnNode::Resize(3 << 30)));
        let (reason, message) = said(step(&v, 3, 0));
        assert_eq!(
            (reason, &*message),
            (
                "Resizing",
                "it has 1Gi, and a growth to 3Gi was begun before the seal: node n1 finishes it, or takes it back, when no pod may \
                 write any more, and seals the volume then"
            ),
            "its size is not decided yet"
        );
        let mut small = sized(1, 3, 3);
        small.spec.sealed = true;
        assert_eq!((on_node(&small, false), said(step(&small, 3, 0)).0), (None, "SealedSize"));
    }

    #[test]
    fn v7_unmade_and_deleted_volumes_are_not_resized() {
        assert_eq!(step(&volume("v", "eng", 1), 3, 0), Step::Rest(None));
        let mut going = sized(3, 3, 1);
        going.metadata.deletion_timestamp = some_time();
        assert_eq!(on_node(&going, false), None);
    }

    #[test]
    fn v7_resized_is_reported_only_after_a_resize() {
        let mut v = sized(2, 2, 2);
        let conditions = &mut v.status.as_mut().unwrap().conditions;
        set(conditions, RESIZED, Verdict::no("Resizing", ""), None, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(said(step(&v, 2, 0)), ("Resized", "it has 2Gi".to_owned()));
    }

    use proptest::prelude::*;

    proptest! {
        /// S1: for any order of steps and any changes of the spec, ledger ≥ status ≥ node ≥ disk; and the steps come to
        /// an end.
        #[test]
        fn s1_no_size_overtakes_the_one_above_it(
            script in proptest::collection::vec((0u8..4, 1u64..8), 0..200)
        ) {
            let (mut v, mut entry, all, mut disk) = (sized(2, 2, 2), 2u64 << 30, 6u64 << 30, 2u64 << 30);
            let controller = |v: &mut SharedPersistentVolume, entry: &mut u64, die: bool| {
                let status = v.status.clone().unwrap();
                match next(v, Some(Ledger { entry: *entry, free: all - *entry })) {
                    Step::Grow(to) => {
                        *entry = (*entry).max(to);
                        if !die { v.status = Some(SharedPersistentVolumeStatus { size: Some(Size::from_bytes(to)), ..status }); }
                    }
                    Step::Lower(to) => v.status = Some(SharedPersistentVolumeStatus {
                        size: Some(Size::from_bytes(to)), credit_due: true, ..status
                    }),
                    Step::ShrinkEntry => *entry = status.size.unwrap().bytes().unwrap(),
                    Step::Settle => v.status = Some(SharedPersistentVolumeStatus { credit_due: false, ..status }),
                    Step::Rest(_) => return false,
                }
                true
            };
            let agent = |v: &mut SharedPersistentVolume, disk: &mut u64, die: bool| {
                let node = |v: &mut SharedPersistentVolume, n: NodePart| v.status.as_mut().unwrap().node = Some(n);
                let was = v.status.clone().unwrap().node.unwrap();
                match on_node(v, *disk != was.size.as_ref().unwrap().bytes().unwrap()) {
                    Some(OnNode::Announce(to)) => node(v, NodePart { growing: Some(Size::from_bytes(to)), ..was }),
                    Some(OnNode::Resize(to)) => {
                        *disk = to;
                        if !die { node(v, NodePart { size: Some(Size::from_bytes(to)), growing: None, ..was }); }
                    }
                    Some(OnNode::Withdraw) => node(v, NodePart { growing: None, ..was }),
                    None => return false,
                }
                true
            };
            let holds = |v: &SharedPersistentVolume, entry: u64, disk: u64| {
                let status = v.status.clone().unwrap();
                let node = status.node.unwrap();
                let size = status.size.unwrap().bytes().unwrap();
                let said = node.size.unwrap().bytes().unwrap().max(node.growing.map_or(0, |g| g.bytes().unwrap()));
                entry <= all && entry >= size && size >= said && said >= disk
            };
            for (who, n) in script {
                match who {
                    0 => v.spec.size = gi(n),
                    1 => v.status.as_mut().unwrap().user_count = (n % 2) as u32,
                    2 => { controller(&mut v, &mut entry, n == 1); }
                    _ => { agent(&mut v, &mut disk, n == 1); }
                }
                prop_assert!(holds(&v, entry, disk), "{v:?} entry {entry} disk {disk}");
            }
            v.status.as_mut().unwrap().user_count = 0;
            let mut turns = 0;
            while controller(&mut v, &mut entry, false) | agent(&mut v, &mut disk, false) {
                prop_assert!(holds(&v, entry, disk));
                turns += 1;
                prop_assert!(turns < 50, "it does not come to rest: {v:?}");
            }
            let wished = v.spec.size.bytes().unwrap();
            prop_assert!(disk == wished && entry == wished || wished > all && disk == entry);
        }
    }
}
