//! Tests of the work on a volume on its node.

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
    seal: seal::OnDisk::Open,
    verify: false,
});
const FENCED: OnDisk = OnDisk::Record(Recorded {
    fenced: true,
    erasing: false,
    size: None,
    resizing: false,
    published: false,
    seal: seal::OnDisk::Open,
    verify: false,
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

/// V10: a pod that has lost bytes mounted is the last place where they can be read. They are told once.
#[test]
fn v10_lost_bytes_are_told_while_a_pod_can_read_them() {
    let lost = |v: &SharedPersistentVolume| {
        let mut v = v.clone();
        let lost = Outcome::Lost("its file is missing".into());
        let (status, _) = report(&v, Task::Make, lost, Timestamp::UNIX_EPOCH);
        let told = newly_lost(&v, &status).map(str::to_owned);
        v.status = Some(status);
        (v, told)
    };
    let mut v = ready_volume("v", "eng", true);
    assert_eq!(lost(&v).1.as_deref(), Some("its file is missing"));
    v.status.as_mut().unwrap().user_count = 1;
    let (v, told) = lost(&v);
    assert!(
        told.unwrap().starts_with("its file is missing; a pod that has it mounted may be able to read it")
    );
    assert_eq!(lost(&v).1, None, "once");
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
        status.destroy =
            Some(Destroy { in_use, tombstone: if dead { some_time() } else { None }, ..Default::default() });
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
    assert_eq!(
        with(false, true, true, BackingState::Made),
        (Task::Fence, Task::Erase),
        "S10: a record from before the fence is fenced first"
    );
    assert_eq!(with(false, true, true, BackingState::Erased), both(Task::Rest));
    assert_eq!(
        reported(&v, Task::Fence, Outcome::Fenced { pods: vec![], in_use: false }).2,
        Some(0),
        "its erasure follows, without a change of the object"
    );
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
    assert_eq!((node.backing, node.erased.clone(), reason, pause), (BackingState::Kept, None, None, None));
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
    v.status.get_or_insert_default().destroy = Some(Destroy { tombstone: some_time(), ..Default::default() });
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
    let reason = reason
        .map(|r| *["Backed", "BackingLost", "BackingFailed", "NoOrphan"].iter().find(|k| **k == r).unwrap());
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
    assert_eq!((node.backing, node.erased, reason), (BackingState::Erased, Some(Size::from_bytes(0)), None));
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
    assert_eq!(again.resize_failed.as_deref(), Some("12 bytes are free"), "T2: other numbers are no news");
    let resized = reported(&v, size, Outcome::Resized(3 << 30)).0;
    assert_eq!((resized.size, resized.growing, resized.resize_failed), (Some(gi(3)), None, None));
    let lost = reported(&v, size, Outcome::Lost("its file is missing".into()));
    assert_eq!(lost.1, Some("BackingLost"));
}

/// V7, V10: whether a volume can be used is known without a resize that fails again and again.
#[test]
fn v10_an_unusable_volume_is_made_usable_before_it_is_resized() {
    let mut v = ready_volume("v", "eng", true);
    v.spec.size = gi(3);
    v.status.as_mut().unwrap().size = Some(gi(3));
    v.status.as_mut().unwrap().node.as_mut().unwrap().growing = Some(gi(3));
    let failed =
        report(&v, Task::Make, Outcome::Failed("its disk is not served".into()), Timestamp::UNIX_EPOCH);
    v.status = Some(failed.0);
    assert_eq!(next(&v, RECORD), Task::Make);
    v.status = Some(report(&v, Task::Make, Outcome::Made(1 << 30), Timestamp::UNIX_EPOCH).0);
    assert_eq!(next(&v, RECORD), Task::Size(OnNode::Resize(3 << 30)));
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

/// D7: the node of a disk that was given up is there after all, with an agent that has not heard of that.
#[test]
fn d7_nothing_is_erased_on_a_disk_that_was_given_up() {
    let mut v = ready_volume("v", "eng", true);
    v.metadata.deletion_timestamp = some_time();
    let on_disk = RECORD;
    for tombstone in [None, some_time()] {
        v.status.as_mut().unwrap().destroy =
            Some(Destroy { tombstone, disk_gone: true, ..Default::default() });
        assert_eq!(next(&v, on_disk), Task::Rest);
        v.status.as_mut().unwrap().destroy.as_mut().unwrap().disk_gone = false;
        assert_ne!(next(&v, on_disk), Task::Rest);
    }
}

/// E1: what a growth waits for is named, and its writers let nobody in meanwhile.
#[test]
fn e1_a_seal_names_writers_before_a_growth_ends() {
    let mut v = ready_volume("v", "eng", true);
    (v.spec.size, v.spec.sealed) = (gi(3), true);
    let status = v.status.as_mut().unwrap();
    status.size = Some(gi(3));
    let node = status.node.as_mut().unwrap();
    (node.size, node.growing) = (Some(gi(1)), Some(gi(3)));
    let with =
        |seal| OnDisk::Record(Recorded { size: Some(1 << 30), resizing: true, seal, ..Recorded::default() });
    let (grow, close) = (Task::Size(OnNode::Resize(3 << 30)), Task::Seal(seal::Step::Close));
    assert_eq!(next(&v, with(seal::OnDisk::Open)), close);
    assert_eq!(next(&v, with(seal::OnDisk::Closed(true))), close);
    assert_eq!(next(&v, with(seal::OnDisk::Closed(false))), grow, "no writer is left");
}

/// E1, X9: a restored etcd may have the size that the node gives a volume again, and not the request to seal it.
#[test]
fn e1_x9_the_seal_is_looked_at_after_a_size_that_was_known() {
    let mut v = ready_volume("v", "eng", true);
    let status = v.status.as_mut().unwrap();
    (status.size, status.node.as_mut().unwrap().size) = (Some(gi(1)), Some(gi(1)));
    let (size, has) = (Task::Size(OnNode::Resize(1 << 30)), |bytes| Outcome::Resized(bytes));
    let found = OnDisk::Record(Recorded {
        size: Some(3 << 30),
        resizing: true,
        seal: seal::OnDisk::Closed(true),
        ..Recorded::default()
    });
    assert_eq!(next(&v, found), size);
    let (status, pause) = report(&v, size, has(1 << 30), Timestamp::UNIX_EPOCH);
    assert_eq!((Some(&status), pause), (v.status.as_ref(), Some(Duration::ZERO)), "no write causes a look");
    assert_eq!(report(&v, size, has(2 << 30), Timestamp::UNIX_EPOCH).1, None, "the write does");
}

/// E2, S13. A copy is made early, and reported together with its content.
#[test]
fn e2_a_copy_is_one_report_of_its_node() {
    let sealed = |size, seal| OnDisk::Record(Recorded { size, seal, ..Recorded::default() });
    let (made, closed) = (Some(1 << 30), seal::OnDisk::Closed(false));
    let mut copy = ready_volume("v", "eng", true);
    copy.spec.copy_of = Some(Default::default());
    copy.spec.sealed = true;
    let reported = copy.clone();
    let status = copy.status.as_mut().unwrap();
    status.node = None;
    status.conditions.clear();
    let mut sourced = copy.clone();
    sourced.status.as_mut().unwrap().source = Some(crate::api::UidRef { name: "o".into(), uid: "o".into() });
    let mut failed = copy.clone();
    failed.status =
        Some(report(&copy, Task::MakeCopy, Outcome::Failed("no".into()), Timestamp::UNIX_EPOCH).0);
    for (volume, on_disk, task) in [
        (&copy, OnDisk::Nothing, Task::MakeCopy),
        (&copy, sealed(made, seal::OnDisk::Open), Task::MakeCopy),
        (&sourced, OnDisk::Nothing, Task::Copy),
        (&sourced, sealed(None, seal::OnDisk::Open), Task::Copy),
        (&sourced, sealed(made, closed), Task::Copy),
        // It was filled, and its agent ended before the report.
        (&copy, sealed(made, seal::OnDisk::Sealed), Task::Make),
        (&failed, OnDisk::Nothing, Task::Make),
        // An agent of an earlier version reported that it was made.
        (&reported, sealed(made, closed), Task::Make),
        (&reported, OnDisk::Nothing, Task::Lost(OnDisk::Nothing)),
    ] {
        assert_eq!(next(volume, on_disk), task, "{on_disk:?} {:?}", volume.status);
    }

    let report = |volume: &SharedPersistentVolume, task, outcome| {
        let (status, pause) = report(volume, task, outcome, Timestamp::UNIX_EPOCH);
        (volume.status.as_ref() != Some(&status)).then_some((status, pause))
    };
    assert_eq!(report(&copy, Task::MakeCopy, Outcome::Made(1 << 30)), None);
    assert!(report(&failed, Task::Make, Outcome::Made(1 << 30)).is_some(), "it can be filled now");
    let rests = seal::Outcome::Resting(Duration::from_secs(2));
    assert_eq!(report(&sourced, Task::Copy, Outcome::Copied(1 << 30, rests)), None);
    let content = seal::Content { digest: "blake3:00".into(), files: 1, bytes: 2 };
    let filled = Outcome::Copied(1 << 30, seal::Outcome::Sealed(content));
    let (status, pause) = report(&sourced, Task::Copy, filled).unwrap();
    let node = status.node.unwrap();
    assert_eq!((node.backing, node.size, pause), (BackingState::Made, Some(gi(1)), None));
    assert!(condition::is_true(&status.conditions, BACKED) && status.digest.is_some());
}
