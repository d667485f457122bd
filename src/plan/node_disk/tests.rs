//! Tests of a disk's report and its conditions.

use super::*;
use crate::plan::testing;

const GI: u64 = 1 << 30;

fn seen() -> Seen {
    Seen { capacity: 10 * GI, allocatable: 10 * GI, free: 10 * GI, ..Seen::default() }
}

fn health(disk: &NodeDisk, seen: Seen) -> (NodeDiskStatus, String, String) {
    let status = report(disk, seen, &[], Timestamp::UNIX_EPOCH);
    let healthy = condition::get(&status.conditions, DISK_HEALTHY).unwrap().clone();
    (status, healthy.reason, healthy.message)
}

#[test]
fn d5_a_disk_that_is_served_without_limits_says_so() {
    let mut disk = testing::disk("n1.a", "n1", 10, &[]);
    let with = |state, disk: &NodeDisk| {
        let enforcement = Some((state, "a writer went on".to_owned()));
        health(disk, Seen { enforcement, ..seen() }).2
    };
    let fine = "the disk is there, and so is its allocatable space";
    assert_eq!(with(EnforcementState::Proven, &disk), fine);
    assert_eq!(with(EnforcementState::Whole, &disk), fine);
    assert!(with(EnforcementState::Untried, &disk).contains("too full to try"));
    disk.spec.allow_unenforced = true;
    let message = with(EnforcementState::Broken, &disk);
    assert!(message.contains("a writer went on; allowUnenforced permits"), "{message}");
    let broken = enforcement(EnforcementState::Broken, "a writer went on".to_owned(), &disk);
    assert_eq!(broken.state, EnforcementState::Broken);
}

/// Nobody removes files because of a smaller number in the configuration.
#[test]
fn d1_a_smaller_configured_capacity_is_not_called_the_files_of_others() {
    let disk = testing::disk("n1.a", "n1", 10, &[("r", 8)]);
    let less = Seen { capacity: 4 * GI, system_reserved: GI, allocatable: 3 * GI, ..seen() };
    let (status, reason, message) = health(&disk, less);
    assert_eq!(reason, "SpaceTaken");
    assert!(
        message.starts_with(
            "8Gi are reserved, and 3Gi can be: the disk has 4Gi, of which 1Gi are held back; raise capacity"
        ),
        "{message}"
    );
    assert!(is_overbooked(&status));
    let (status, _, _) = health(&disk, Seen { free: 2 * GI, kept: 4 * GI, ..seen() });
    assert!(!is_overbooked(&status), "other files took it");
    // Allocatable bytes come in steps of 64Mi.
    let mut disk = testing::disk("n1.a", "n1", 10, &[("r", 8)]);
    let (status, few) = (disk.status.as_mut().unwrap(), 10 << 20);
    (status.allocatable, status.reservations[0].size) = (None, Size::from_bytes(8 * GI - few));
    let capacity = 8 * GI - few / 2;
    let (status, reason, message) = health(&disk, Seen { capacity, allocatable: capacity, ..seen() });
    assert_eq!((reason.as_str(), is_overbooked(&status)), ("SpaceTaken", true));
    assert!(message.starts_with("8182Mi are reserved, and 8128Mi can be"), "{message}");
}

/// T4: another capacity counts at once, and the message is about what is in the way now.
#[test]
fn d1_another_configured_capacity_counts_at_once() {
    let mut disk = testing::disk("n1.a", "n1", 10, &[("r", 8)]);
    let less = Seen { capacity: 4 * GI, system_reserved: GI, allocatable: 3 * GI, ..seen() };
    disk.status = Some(health(&disk, less).0);
    let whole =
        Seen { capacity: 252 * GI, system_reserved: 25 * GI, allocatable: 227 * GI, free: 30 * GI, ..seen() };
    let (status, reason, _) = health(&disk, Seen { kept: 8 * GI, ..whole.clone() });
    assert_eq!((reason.as_str(), status.allocatable), ("DiskHealthy", Some(testing::gi(13))));
    let (status, reason, message) = health(&disk, whole.clone());
    assert_eq!((reason.as_str(), status.allocatable.clone()), ("SpaceTaken", Some(testing::gi(5))));
    assert!(
        message.starts_with("other files on /d, or deleted ones that are open, took 3Gi of"),
        "{message}"
    );
    disk.status = Some(status);
    let (_, _, same) = health(&disk, Seen { free: 4 * GI, ..whole });
    assert_eq!(same, message, "a number alone is no reason for a write");
}

/// T4: a disk of which nothing can be reserved is not ready for anybody, and its configuration is why.
#[test]
fn d1_a_disk_that_is_held_back_whole_says_so() {
    let disk = testing::disk("n1.a", "n1", 0, &[]);
    let none = Seen { capacity: GI, system_reserved: 2 * GI, allocatable: 0, free: GI, ..seen() };
    let (status, reason, message) = health(&disk, none);
    assert_eq!((reason.as_str(), is_overbooked(&status)), ("SpaceTaken", true));
    assert!(
        message.starts_with("nothing of it can be reserved: the disk has 1Gi, of which 2Gi are held back; raise capacity or lower"),
        "{message}"
    );
    // Other files may go.
    let (_, reason, _) = health(&disk, Seen { free: 0, ..seen() });
    assert_eq!(reason, "DiskHealthy");
}

#[test]
fn d1_space_that_other_files_took_is_reported() {
    let disk = testing::disk("n1.a", "n1", 10, &[("r", 8)]);
    let (status, reason, _) = health(&disk, Seen { free: 4 * GI, kept: 4 * GI, ..seen() });
    assert_eq!((reason.as_str(), status.allocatable), ("DiskHealthy", Some(testing::gi(8))));
    let (_, reason, message) = health(&disk, Seen { free: 2 * GI, kept: 4 * GI, ..seen() });
    assert_eq!(reason, "SpaceTaken");
    assert!(
        message.starts_with("other files on /d, or deleted ones that are open, took 2Gi of the 8Gi"),
        "{message}"
    );
}

/// The step after the spec is up to date: the reservations to make, and the status.
fn reported(
    disk: &NodeDisk,
    seen: Result<Seen, Option<String>>,
    found: &[DiskReservation],
) -> (Changes, NodeDiskStatus) {
    match next(disk, seen, found, Timestamp::UNIX_EPOCH) {
        Step::Report { reservations, status } => (reservations, *status),
        other => panic!("{other:?}"),
    }
}

fn message(status: &NodeDiskStatus) -> (&str, &str) {
    let healthy = condition::get(&status.conditions, DISK_HEALTHY).unwrap();
    (&healthy.reason, &healthy.message)
}

#[test]
fn d8_a_static_reservation_that_cannot_be_made_is_told() {
    let mut disk = testing::disk("n1.a", "n1", 10, &[]);
    let failed = vec![("n1.a.eng".to_owned(), "the name is taken".to_owned())];
    let told = "the disk is there, and so is its allocatable space; static reservation n1.a.eng is not as configured: the \
                name is taken";
    for _ in 0..2 {
        let (_, status) = reported(&disk, Ok(seen()), &[]);
        let status = with_failures(&disk, status, &failed);
        assert_eq!(message(&status), ("DiskHealthy", told), "and stays");
        disk.status = Some(status);
    }
    let (_, status) = reported(&disk, Ok(seen()), &[]);
    assert!(!message(&with_failures(&disk, status, &[])).1.contains("n1.a.eng"), "it is made now");
}

#[test]
fn d8_a_placeholder_is_refused_whatever_the_agent_sees() {
    let mut disk = testing::disk("n1.a", "n1", 10, &[]);
    let ours = Some(disk.spec.clone());
    disk.spec.disk_id = crate::api::UNKNOWN_DISK.into();
    let configured = vec![("eng".to_owned(), testing::gi(1))];
    for (error, part) in [(Some("no directory".to_owned()), "no directory"), (None, "just opened")] {
        let seen = Seen { ours: ours.clone(), configured: configured.clone(), error, ..seen() };
        let (changes, status) = reported(&disk, Ok(seen), &[]);
        let (reason, why) = message(&status);
        assert!(reason == "DiskRefused" && why.contains(part), "{why}");
        assert_eq!(changes, Changes::default(), "nothing is reserved on it");
    }
}

#[test]
fn d3_a_refused_disk_keeps_its_numbers() {
    let disk = testing::disk("n1.a", "n1", 10, &[]);
    let configured = vec![("eng".to_owned(), testing::gi(1))];
    let ours = Some(NodeDiskSpec { disk_id: "other".to_owned(), ..disk.spec.clone() });
    let (changes, status) = reported(&disk, Ok(Seen { ours, configured, ..seen() }), &[]);
    let (reason, why) = message(&status);
    assert_eq!(reason, "DiskRefused");
    let wrong =
        "the disk at /d is another one (ID other) than NodeDisk n1.a (ID id-n1.a): mount the right disk, ";
    assert_eq!(why, format!("{wrong}or delete NodeDisk n1.a, on which nothing is reserved"));
    let used = testing::disk("n1.a", "n1", 10, &[("eng", 4)]);
    let other = NodeDiskSpec { disk_id: "other".to_owned(), ..used.spec.clone() };
    let why = other_disk(&used, &other);
    assert!(why.contains("only if the data of the old one is lost for good, set spec.gone"), "D4: {why}");
    assert!(why.contains("which cannot be undone"), "{why}");
    assert_eq!(changes, Changes::default(), "nothing is reserved on it");
    assert_eq!(status.allocatable, disk.status.clone().unwrap().allocatable);
    // Names that were swapped in the configuration give no data up.
    let ours = Some(NodeDiskSpec { disk_id: "other".to_owned(), ..disk.spec.clone() });
    let swapped = Seen { ours, belongs_to: Some("n1.b".to_owned()), ..seen() };
    let (_, status) = reported(&disk, Ok(swapped), &[]);
    let why = "the disk at /d is that of NodeDisk n1.b, and not of n1.a: correct the names or paths in agent.disks of the chart";
    assert_eq!(message(&status), ("DiskRefused", why));
}

/// D3. Somebody had written another node into the NodeDisk for a while.
#[test]
fn d3_a_second_nodedisk_of_a_disk_has_none_of_its_data() {
    let mut disk = testing::disk("n1.a-2", "n1", 10, &[]);
    disk.status.as_mut().unwrap().orphans = vec![Orphan::default()];
    let (_, status) = reported(&disk, Err(Some("n1.a".to_owned())), &[]);
    assert!(message(&status).1.ends_with("by its ID it is NodeDisk n1.a, which has its data"));
    assert!(status.orphans.is_empty());
    let (_, status) = reported(&disk, Err(None), &[]);
    assert_eq!(status.orphans.len(), 1);
}

#[test]
fn r2_a_used_reservation_that_is_configured_no_more_is_told() {
    let disk = testing::disk("n1.a", "n1", 10, &[]);
    let mut used = testing::reserved("n1.a.eng", "eng", 5, &[("v", 1)]);
    used.spec.is_static = true;
    for seen in [Ok(seen()), Err(None)] {
        let (changes, status) = reported(&disk, seen, std::slice::from_ref(&used));
        assert_eq!((changes.apply.len(), changes.delete.len()), (0, 0));
        assert!(message(&status).1.contains("reservation n1.a.eng is not in the agent's configuration"));
        let told = NodeDisk { status: Some(status), ..disk.clone() };
        assert_eq!(not_configured(&told).unwrap().1, ["n1.a.eng"]);
    }
    let configured = vec![("ops".to_owned(), testing::gi(1))];
    let (changes, _) = reported(&disk, Ok(Seen { configured, ..seen() }), &[]);
    assert_eq!(changes.apply.len(), 1);
}

#[test]
fn d6_the_devices_are_on_one_disk_and_outlast_a_failed_look() {
    let mut disk = testing::disk("n1.a", "n1", 10, &[]);
    let devices = vec![NodeDevice { path: "/dev/sda".into(), ..NodeDevice::default() }];
    for (found, kept) in [(Some(devices.clone()), 1), (None, 1), (Some(vec![]), 0), (Some(devices), 1)] {
        let (_, status) = reported(&disk, Ok(Seen { devices: found, ..seen() }), &[]);
        assert_eq!(status.devices.len(), kept);
        disk.status = Some(status);
    }
    let (_, status) = reported(&disk, Err(None), &[]);
    assert_eq!(status.devices, [], "the disk is configured no more");
}

#[test]
fn d4_the_agent_never_says_that_a_disk_is_gone() {
    let found = NodeDiskSpec { gone: true, ..testing::disk("n1.a", "n1", 10, &[]).spec };
    let ours = NodeDiskSpec { gone: false, ..found.clone() };
    let found = NodeDisk { spec: found, ..testing::disk("n1.a", "n1", 10, &[]) };
    let step = |ours| {
        let seen = Ok(Seen { ours: Some(ours), ..seen() });
        next(&found, seen, &[], Timestamp::UNIX_EPOCH)
    };
    assert!(matches!(step(ours.clone()), Step::Report { .. }));
    let moved = NodeDiskSpec { path: "/e".into(), ..ours };
    assert_eq!(step(moved.clone()), Step::Spec(Box::new(moved)));
}
