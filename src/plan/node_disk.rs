//! The agent's report of a disk of its node (D1, D5).

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::api::condition::{self, DISK_HEALTHY, Verdict, reason};
use crate::api::{Enforcement, EnforcementState, NodeDisk, NodeDiskSpec, NodeDiskStatus, Orphan, Size};

use super::{allocatable, ledger, names, undivided};

/// The most orphans of a disk that are listed; the others take space as other files do.
pub const MOST_ORPHANS: usize = 128;

/// A disk as its agent found it, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Size of the disk.
    pub capacity: u64,
    /// Held back for the system.
    pub system_reserved: u64,
    /// Capacity less what is held back.
    pub allocatable: u64,
    /// Free now.
    pub free: u64,
    /// Taken by volumes with an object, and by orphans whose space is kept (`plan::orphans`).
    pub kept: u64,
    /// The proof that sizes are enforced, or why there is none; `None` if it was not looked for.
    pub enforcement: Option<(EnforcementState, String)>,
    /// Volumes on it without an object (S14).
    pub orphans: Vec<Orphan>,
    /// Static reservations that are not configured any more and still used (R2).
    pub unconfigured: Vec<String>,
    /// Why the disk is not served.
    pub error: Option<String>,
}

/// The spec to write, or `None` if `found` has it already. Only an administrator declares a disk gone.
pub fn spec_to_write(found: &NodeDiskSpec, ours: NodeDiskSpec) -> Option<NodeDiskSpec> {
    (*found != NodeDiskSpec { gone: found.gone, ..ours.clone() }).then_some(ours)
}

/// The refusal of a disk that has another ID than its NodeDisk.
pub fn other_disk(disk: &NodeDisk, id: &str) -> String {
    let (path, name, expected) = (&disk.spec.path, disk.name_any(), &disk.spec.disk_id);
    format!(
        "the disk at {path} is another one (ID {id}) than NodeDisk {name} (ID {expected}): mount the right disk, or \
         delete NodeDisk {name} when its data is given up"
    )
}

/// The status of a disk that is configured.
pub fn report(disk: &NodeDisk, seen: Seen, now: Timestamp) -> NodeDiskStatus {
    let mut status = disk.status.clone().unwrap_or_default();
    status.enforcement = seen.enforcement.map(|(state, found)| enforcement(state, found, disk));
    let verdict = match seen.error {
        Some(error) => Verdict::no(reason::DISK_REFUSED, error),
        None => {
            let measured = allocatable::Measured {
                capacity: seen.capacity,
                system_reserved: seen.system_reserved,
                free: seen.free,
                ours: seen.kept,
            };
            let published = status.allocatable.as_ref().map(Size::bytes_or_zero);
            let allocatable = match undivided::is_undivided(disk.spec.kind) {
                // No other files fill it, and its one volume may take all of it (D2).
                true => seen.allocatable,
                false => allocatable::of_measured(measured, published),
            };
            let health = healthy(seen.orphans.len())
                + &unenforced(status.enforcement.as_ref())
                + &unconfigured(&seen.unconfigured);
            status.orphans = seen.orphans;
            status.orphans.truncate(MOST_ORPHANS);
            status.capacity = Some(Size::from_bytes(seen.capacity));
            status.system_reserved = Some(Size::from_bytes(seen.system_reserved));
            status.allocatable = Some(Size::from_bytes(allocatable));
            let reserved = ledger::total(&status.reservations);
            match reserved.saturating_sub(allocatable) {
                0 => Verdict::yes(reason::DISK_HEALTHY, health),
                missing => Verdict::no(
                    reason::SPACE_TAKEN,
                    format!(
                        "other files on {} took {} of the {} that are reserved; remove them or enlarge the file system",
                        disk.spec.path,
                        Size::from_bytes(missing),
                        Size::from_bytes(reserved)
                    ),
                ),
            }
        }
    };
    with_verdict(disk, status, verdict, now)
}

/// The status of a disk that is not configured any more; `still_used` are its static reservations in use.
pub fn report_unconfigured(disk: &NodeDisk, still_used: &[String], now: Timestamp) -> NodeDiskStatus {
    let message = "it is not in the agent's configuration any more; its data stays".to_owned();
    let verdict = Verdict::no(reason::DISK_REFUSED, message + &unconfigured(still_used));
    with_verdict(disk, disk.status.clone().unwrap_or_default(), verdict, now)
}

fn with_verdict(
    disk: &NodeDisk,
    mut status: NodeDiskStatus,
    verdict: Verdict,
    now: Timestamp,
) -> NodeDiskStatus {
    // Numbers that drift are no news.
    let same = condition::get(&status.conditions, DISK_HEALTHY).is_some_and(|present| {
        present.reason == verdict.reason
            && (present.reason == reason::SPACE_TAKEN || present.message == verdict.message)
    });
    if !same {
        condition::set(&mut status.conditions, DISK_HEALTHY, verdict, disk.meta().generation, now);
    }
    status
}

/// The proof that sizes are enforced (D5), in a sentence.
fn enforcement(state: EnforcementState, found: String, disk: &NodeDisk) -> Enforcement {
    let message = match state {
        EnforcementState::Whole => "it is handed out whole, so its own size is the limit".to_owned(),
        EnforcementState::Proven => {
            format!("the writer on a scratch volume was stopped at its size with {found}")
        }
        EnforcementState::Untried => {
            "it is too full to try; no volume is made on it until there is free space to".to_owned()
        }
        EnforcementState::Broken if disk.spec.allow_unenforced => {
            format!("{found}; allowUnenforced says that it may be used like that")
        }
        EnforcementState::Broken => found,
    };
    Enforcement { state, message }
}

fn unenforced(enforcement: Option<&Enforcement>) -> String {
    match enforcement {
        Some(found) if matches!(found.state, EnforcementState::Untried | EnforcementState::Broken) => {
            format!("; the size of volumes is not known to be enforced: {}", found.message)
        }
        _ => String::new(),
    }
}

fn healthy(orphans: usize) -> String {
    let healthy = "the disk is there, and so is its allocatable space";
    match orphans {
        0 => healthy.to_owned(),
        1 => format!("{healthy}; one volume on it has no object: it is kept, status.orphans names it"),
        n => format!("{healthy}; {n} volumes on it have no object: they are kept, status.orphans names them"),
    }
}

fn unconfigured(still_used: &[String]) -> String {
    match still_used {
        [] => String::new(),
        some => format!(
            "; reservation {} is not in the agent's configuration any more, and stays until nothing uses it",
            names(some, some.len())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    const GI: u64 = 1 << 30;

    fn seen() -> Seen {
        Seen { capacity: 10 * GI, allocatable: 10 * GI, free: 10 * GI, ..Seen::default() }
    }

    fn health(disk: &NodeDisk, seen: Seen) -> (NodeDiskStatus, String, String) {
        let status = report(disk, seen, Timestamp::UNIX_EPOCH);
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
        assert!(message.contains("a writer went on; allowUnenforced says"), "{message}");
        let broken = enforcement(EnforcementState::Broken, "a writer went on".to_owned(), &disk);
        assert_eq!(broken.state, EnforcementState::Broken);
    }

    #[test]
    fn d1_space_that_other_files_took_is_reported() {
        let disk = testing::disk("n1.a", "n1", 10, &[("r", 8)]);
        let (status, reason, _) = health(&disk, Seen { free: 4 * GI, kept: 4 * GI, ..seen() });
        assert_eq!((reason.as_str(), status.allocatable), ("DiskHealthy", Some(testing::gi(8))));
        let (_, reason, message) = health(&disk, Seen { free: 2 * GI, kept: 4 * GI, ..seen() });
        assert_eq!(reason, "SpaceTaken");
        assert!(message.starts_with("other files on /d took 2Gi of the 8Gi"), "{message}");
    }

    #[test]
    fn d3_a_refused_disk_keeps_its_numbers() {
        let disk = testing::disk("n1.a", "n1", 10, &[]);
        let why = other_disk(&disk, "other");
        assert!(why.contains("is another one (ID other) than NodeDisk n1.a (ID id-n1.a)"), "{why}");
        let (status, reason, message) = health(&disk, Seen { error: Some(why.clone()), ..Seen::default() });
        assert_eq!((reason.as_str(), message), ("DiskRefused", why));
        assert_eq!(status.allocatable, disk.status.unwrap().allocatable);
    }

    #[test]
    fn d4_the_agent_never_says_that_a_disk_is_gone() {
        let found = NodeDiskSpec { gone: true, ..testing::disk("n1.a", "n1", 10, &[]).spec };
        let ours = NodeDiskSpec { gone: false, ..found.clone() };
        assert_eq!(spec_to_write(&found, ours.clone()), None);
        let moved = NodeDiskSpec { path: "/e".into(), ..ours };
        assert_eq!(spec_to_write(&found, moved.clone()), Some(moved));
    }
}
