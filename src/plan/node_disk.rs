//! The agent's report on a disk of its node (D1, D5).

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::api::condition::{self, DISK_HEALTHY, Verdict, reason};
use crate::api::{
    DiskReservation, Enforcement, EnforcementState, Lifetime, NodeDevice, NodeDisk, NodeDiskSpec,
    NodeDiskStatus, Orphan, OtherDisk, Size, Transfer,
};

use super::disk_identity::is_placeholder;
use super::static_reservations::{Changes, changes};
use super::{allocatable, ledger, names, orphans, undivided};

/// The agent's next step with a NodeDisk.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Write the spec and decide again.
    Spec(Box<NodeDiskSpec>),
    /// Apply the changes of the static reservations, and write the status.
    Report {
        /// The changes of the static reservations.
        reservations: Changes,
        /// The status.
        status: Box<NodeDiskStatus>,
    },
}

/// A disk as seen by its agent, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The spec by the configuration, with the ID stored on the disk, and its key and signature if the disk is served; `None`: the ID cannot be read.
    pub ours: Option<NodeDiskSpec>,
    /// The static reservations of the configuration, by role.
    pub configured: Vec<(String, Size)>,
    /// Size of the disk.
    pub capacity: u64,
    /// Bytes held back for the system.
    pub system_reserved: u64,
    /// Capacity less what is held back.
    pub allocatable: u64,
    /// Bytes that are free now.
    pub free: u64,
    /// Bytes of volumes with an object, and of orphans whose space is held back (`plan::orphans`).
    pub kept: u64,
    /// The result of the enforcement test, with its evidence; `None`: the test did not run.
    pub enforcement: Option<(EnforcementState, String)>,
    /// The node keeps a reader's mount read-only in containers that do not ask for that; `None`: not known yet (M3).
    pub keeps_read_only: Option<bool>,
    /// The place where other agents get the content of sealed volumes, if there is one (E2).
    pub transfer: Option<Transfer>,
    /// Volumes on the disk without an object (S14).
    pub orphans: Vec<Orphan>,
    /// UID of this Node, if a disk goes with it (D7) and the API server tells it.
    pub node_uid: Option<String>,
    /// Another disk in the place of a disk that goes with its node (D7).
    pub other_disk: Option<OtherDisk>,
    /// The NodeDisk of this node that has the ID of the disk in this place, if that is another one.
    pub belongs_to: Option<String>,
    /// The node's devices, on the first disk of the configuration; `None`: not known now (D6).
    pub devices: Option<Vec<NodeDevice>>,
    /// The reason, if the disk is not served.
    pub error: Option<String>,
}

/// The agent's next step. `seen` is an error for a disk that is no longer configured, with the name of another NodeDisk that
/// has the disk's ID, if there is one. `found` lists the disk's reservations.
pub fn next(
    disk: &NodeDisk,
    seen: Result<Seen, Option<String>>,
    found: &[DiskReservation],
    now: Timestamp,
) -> Step {
    let name = disk.name_any();
    let mut seen = match seen {
        Ok(seen) => seen,
        Err(other) => {
            let reservations = changes(&name, &[], found);
            let status = Box::new(report_unconfigured(disk, other, &reservations.still_used, now));
            return Step::Report { reservations, status };
        }
    };
    match &seen.ours {
        // The identity is decided before: until then a placeholder does not become a disk (D8).
        _ if is_placeholder(disk) => {
            let opened = || "the agent has just opened it: the next look makes its NodeDisk".to_owned();
            seen.error = Some(seen.error.unwrap_or_else(opened));
        }
        Some(ours) if ours.disk_id != disk.spec.disk_id => {
            seen.error = Some(match &seen.belongs_to {
                Some(other) => format!(
                    "the disk at {} is that of NodeDisk {other}, and not of {name}: correct the names or paths in agent.disks of the chart",
                    ours.path
                ),
                None => other_disk(disk, ours),
            });
        }
        Some(ours) => {
            // A disk that is not served keeps its key. The fields `gone` and `takeOver` belong to other writers.
            let has_both = ours.key.is_some() && ours.key_proof.is_some();
            let with_key = if has_both { ours } else { &disk.spec };
            let (key, key_proof) = (with_key.key.clone(), with_key.key_proof.clone());
            // A disk that is there by its ID is there, also if it is not served (D7).
            let node_uid = seen.node_uid.clone().or_else(|| disk.spec.node_uid.clone());
            let node_uid = node_uid.filter(|_| ours.lifetime == Lifetime::Node);
            let ours = NodeDiskSpec { key, key_proof, node_uid, ..ours.clone() };
            let (gone, take_over) = (disk.spec.gone, disk.spec.take_over.clone());
            if disk.spec != (NodeDiskSpec { gone, take_over, ..ours.clone() }) {
                return Step::Spec(Box::new(ours));
            }
        }
        None => {}
    }
    let reservations = match &seen.error {
        Some(_) => Changes::default(),
        None => changes(&name, &seen.configured, found),
    };
    let status = Box::new(report(disk, seen, &reservations.still_used, now));
    Step::Report { reservations, status }
}

/// The status, with the static reservations that could be neither made nor deleted (D8, R2). Otherwise only the agent's
/// log has them.
pub fn with_failures(
    disk: &NodeDisk,
    mut status: NodeDiskStatus,
    failures: &[(String, String)],
) -> NodeDiskStatus {
    let generation = disk.meta().generation;
    let healthy = status.conditions.iter_mut().find(|condition| condition.type_ == DISK_HEALTHY);
    if let (Some(healthy), Some((reservation, why))) = (healthy, failures.first()) {
        let others = match failures.len() - 1 {
            0 => String::new(),
            n => format!(", and {n} more like it"),
        };
        let message = format!("; {STATIC}{reservation} is not as configured{others}: {why}");
        if !healthy.message.ends_with(&message) {
            healthy.message.push_str(&message);
            healthy.observed_generation = generation;
        }
    }
    status
}

/// The begin of the words about a static reservation that the API server refused.
const STATIC: &str = "static reservation ";

/// The part of the agent's report about static reservations that are not as configured.
pub fn not_as_configured(disk: &NodeDisk) -> Option<&str> {
    let healthy = condition::get(&disk.status.as_ref()?.conditions, DISK_HEALTHY)?;
    let (before, _) = healthy.message.split_once(&format!("; {STATIC}"))?;
    healthy.message.get(before.len() + 2..)
}

/// The name of the first static reservation that could be neither made nor deleted.
pub fn failed_static(disk: &NodeDisk) -> Option<&str> {
    not_as_configured(disk)?.strip_prefix(STATIC)?.split(' ').next()
}

/// The refusal of a disk whose ID differs from the ID of its NodeDisk.
fn other_disk(disk: &NodeDisk, found: &NodeDiskSpec) -> String {
    let (path, id, name, expected) = (&found.path, &found.disk_id, disk.name_any(), &disk.spec.disk_id);
    let is_empty = disk.status.as_ref().is_none_or(|status| status.reservations.is_empty());
    let end = match is_empty {
        true => format!("or delete NodeDisk {name}, on which nothing is reserved"),
        false => format!(
            "or, only if the data of the old one is lost for good, set spec.gone of NodeDisk {name}, which cannot be undone, \
             and delete what is on it"
        ),
    };
    format!(
        "the disk at {path} is another one (ID {id}) than NodeDisk {name} (ID {expected}): mount the right disk, {end}"
    )
}

/// The status of a configured disk.
fn report(disk: &NodeDisk, seen: Seen, still_used: &[String], now: Timestamp) -> NodeDiskStatus {
    let mut status = disk.status.clone().unwrap_or_default();
    status.transfer = seen.transfer;
    status.keeps_read_only = seen.keeps_read_only.or(status.keeps_read_only);
    status.other_disk = seen.other_disk;
    status.devices = seen.devices.unwrap_or(status.devices);
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
            // Another configuration counts at once.
            let present = |size: &Option<Size>, bytes| size.as_ref().map(Size::bytes_or_zero) == Some(bytes);
            let is_as_before = present(&status.capacity, seen.capacity)
                && present(&status.system_reserved, seen.system_reserved);
            let published = status.allocatable.as_ref().map(Size::bytes_or_zero).filter(|_| is_as_before);
            let allocatable = match undivided::is_undivided(disk.spec.kind) {
                // No other files fill an undivided disk, and its one volume may take all bytes (D2).
                true => seen.allocatable,
                false => allocatable::of_measured(measured, published),
            };
            let orphans = seen.orphans.iter().filter(|orphan| orphan.kept.is_none()).count();
            (status.orphans, status.unlisted_orphans) = orphans::listed(seen.orphans, &status.reservations);
            let listed = status.orphans.iter().filter(|orphan| orphan.kept.is_none()).count();
            let health = healthy(orphans, listed)
                + &unenforced(status.enforcement.as_ref())
                + &unconfigured(still_used);
            status.capacity = Some(Size::from_bytes(seen.capacity));
            status.system_reserved = Some(Size::from_bytes(seen.system_reserved));
            status.allocatable = Some(Size::from_bytes(allocatable));
            let reserved = ledger::total(&status.reservations);
            let most = match undivided::is_undivided(disk.spec.kind) {
                true => seen.allocatable,
                false => allocatable::at_most(seen.capacity, seen.system_reserved),
            };
            // The published number may be larger for a while than the configuration gives.
            match reserved.saturating_sub(allocatable.min(seen.allocatable)) {
                0 if most == 0 => Verdict::no(reason::SPACE_TAKEN, all_held_back(disk, &status)),
                0 => Verdict::yes(reason::DISK_HEALTHY, health),
                _ if is_overbooked(&status) => Verdict::no(reason::SPACE_TAKEN, overbooked(disk, &status)),
                missing => Verdict::no(
                    reason::SPACE_TAKEN,
                    format!(
                        "{OTHER_FILES} {}, or deleted ones that are open, took {} of the {} that are reserved; remove them, enlarge \
                         the file system, or lower systemReserved of disk {} in agent.disks of the chart, which is {}",
                        disk.spec.path,
                        Size::from_bytes(missing),
                        Size::from_bytes(reserved),
                        disk.spec.disk_name,
                        Size::from_bytes(seen.system_reserved)
                    ),
                ),
            }
        }
    };
    with_verdict(disk, status, verdict, now)
}

/// The bytes that reservations can have by the disk's configuration, whatever other files take.
fn configured(status: &NodeDiskStatus) -> Option<u64> {
    let bytes = |size: &Option<Size>| size.as_ref().map(Size::bytes_or_zero);
    Some(allocatable::at_most(bytes(&status.capacity)?, bytes(&status.system_reserved).unwrap_or(0)))
}

/// True if more is reserved than reservations can have by the disk's configuration, or they can have nothing.
pub fn is_overbooked(status: &NodeDiskStatus) -> bool {
    configured(status).is_some_and(|bytes| bytes == 0 || ledger::total(&status.reservations) > bytes)
}

fn all_held_back(disk: &NodeDisk, status: &NodeDiskStatus) -> String {
    let size = |size: &Option<Size>| size.clone().unwrap_or_else(|| Size::from_bytes(0));
    format!(
        "nothing of it can be reserved: the disk has {}, of which {} are held back; raise capacity or lower systemReserved of disk {} in \
         agent.disks of the chart, or make its file system larger",
        size(&status.capacity),
        size(&status.system_reserved),
        disk.spec.disk_name
    )
}

fn overbooked(disk: &NodeDisk, status: &NodeDiskStatus) -> String {
    let size = |size: &Option<Size>| size.clone().unwrap_or_else(|| Size::from_bytes(0));
    format!(
        "{} are reserved, and {} can be: the disk has {}, of which {} are held back; raise capacity or lower systemReserved of disk {} in \
         agent.disks of the chart, or make its file system larger, or reservations smaller",
        Size::from_bytes(ledger::total(&status.reservations)),
        Size::from_bytes(configured(status).unwrap_or(0)),
        size(&status.capacity),
        size(&status.system_reserved),
        disk.spec.disk_name
    )
}

/// The beginning of the message about files of others that take reserved bytes.
const OTHER_FILES: &str = "other files on";

/// The words for a disk that is not configured.
pub const UNCONFIGURED: &str = "the disk is not in the agent's configuration";

/// The status of a disk that is no longer configured; `still_used` lists its static reservations in use. If another
/// NodeDisk has the disk's ID, that NodeDisk reports the orphans.
fn report_unconfigured(
    disk: &NodeDisk,
    other: Option<String>,
    still_used: &[String],
    now: Timestamp,
) -> NodeDiskStatus {
    let mut status = disk.status.clone().unwrap_or_default();
    let message = match other {
        Some(other) => {
            (status.orphans, status.unlisted_orphans) = Default::default();
            format!("{UNCONFIGURED}: by its ID it is NodeDisk {other}, which has its data")
        }
        None => {
            let NodeDiskSpec { disk_name, path, .. } = &disk.spec;
            format!(
                "{UNCONFIGURED}, which has no {disk_name} at {path}; data on it stays, and pods that have volumes of it mounted go on; \
                 a pod of them that is deleted ends when the disk is there again"
            )
        }
    };
    let verdict = Verdict::no(reason::DISK_REFUSED, message + &unconfigured(still_used));
    status.devices.clear();
    with_verdict(disk, status, verdict, now)
}

fn with_verdict(
    disk: &NodeDisk,
    mut status: NodeDiskStatus,
    verdict: Verdict,
    now: Timestamp,
) -> NodeDiskStatus {
    // The bytes of other files change all the time: that number alone causes no write.
    let is_by_files = |message: &str| message.starts_with(OTHER_FILES);
    let same = condition::get(&status.conditions, DISK_HEALTHY).is_some_and(|present| {
        present.reason == verdict.reason
            && (present.message == verdict.message
                || is_by_files(&present.message) && is_by_files(&verdict.message))
    });
    if !same {
        condition::set(&mut status.conditions, DISK_HEALTHY, verdict, disk.meta().generation, now);
    }
    status
}

/// The result of the enforcement test (D5), with a message.
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
            format!("{found}; allowUnenforced permits this")
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

fn healthy(orphans: usize, listed: usize) -> String {
    let healthy = "the disk is there, and so is its allocatable space";
    match orphans {
        0 => healthy.to_owned(),
        1 => format!("{healthy}; one volume on it has no object: it is kept, status.orphans names it"),
        n if n == listed => {
            format!("{healthy}; {n} volumes on it have no object: they are kept, status.orphans names them")
        }
        n => format!(
            "{healthy}; {n} volumes on it have no object: they are kept, status.orphans names {listed} of them; recover these, \
             then it names others"
        ),
    }
}

fn unconfigured(still_used: &[String]) -> String {
    match still_used {
        [] => String::new(),
        some => format!("; {RESERVATION}{}{UNUSED}", names(some, some.len())),
    }
}

/// The begin and the end of the part of the agent's report about reservations that are not configured any more.
const RESERVATION: &str = "reservation ";
const UNUSED: &str = " is not in the agent's configuration any more, and stays until nothing uses it";

/// The part of the agent's report about static reservations that are not configured any more, and the first names in it.
pub fn not_configured(disk: &NodeDisk) -> Option<(&str, Vec<&str>)> {
    let healthy = condition::get(&disk.status.as_ref()?.conditions, DISK_HEALTHY)?;
    let part = healthy.message.split("; ").find(|part| part.ends_with(UNUSED))?;
    let listed = part.strip_prefix(RESERVATION)?.strip_suffix(UNUSED)?;
    Some((part, listed.split([',', ' ']).filter(|name| name.contains('.')).collect()))
}

#[cfg(test)]
mod tests;
