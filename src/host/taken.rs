//! The devices of disks that find them by a match (D6).
//!
//! # Guarantees
//! - A disk takes devices once, and notes their identities before anything is written to one. From then on it has these
//!   devices, whatever the kernel calls them and whatever else matches.
//! - Only a blank device without partitions, holders, mounts and open files is taken, and none that another disk has.
//! - There is no choice: if more devices match than disks ask for, none is taken.
//!
//! # Caveats
//! - A blank device that is meant for somebody else looks like a free one, so a match has to name a model or serial number.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::host::devices::Devices;
use crate::host::error::{Context, Error, Result, unless_busy};
use crate::host::layout::VOLUMES;
use crate::host::sys::{Device, atomic_file, block_device, dirfd, filesystem, in_use};
use crate::host::types::{BackingKind, BlockDevice, DiskConfig, FindDevices, SeenDevice};

/// The directory of the notes in the state directory, one for each disk.
const TAKEN: &str = "taken";

/// The note of a disk.
#[derive(Serialize, Deserialize)]
struct Note {
    /// Identities of the devices.
    devices: Vec<String>,
}

/// The paths of a disk's devices. A disk without a note takes its devices now.
pub(super) fn devices_of(
    config: &DiskConfig,
    find: &FindDevices,
    devices: &Arc<Devices>,
) -> Result<Vec<PathBuf>> {
    let refused = |reason: String| Error::DiskUnavailable { disk: config.name.clone(), reason };
    let no_state =
        "it finds its device by a match, and no state directory is configured: set one on the agent";
    let state = config.state.as_ref().ok_or_else(|| refused(no_state.to_owned()))?;
    let directory = state.join(TAKEN);
    std::fs::create_dir_all(&directory).context(|| format!("make {}", directory.display()))?;
    let directory = dirfd::open_configured(&directory)?;
    // Two disks, or an old agent and a new one, never choose at once.
    rustix::fs::flock(&directory, FlockOperation::LockExclusive).context(|| "lock the notes of devices")?;
    let notes = notes(&directory)?;
    let present = devices.look()?;
    if let Some(own) = notes.get(&config.name) {
        let note = state.join(TAKEN).join(&config.name);
        let found = taken(own, &present, &note).map_err(refused)?;
        return Ok(found.into_iter().map(path_of).collect());
    }
    in_use::ensure_processes_visible()?;
    let wanted = find.wanted_by.iter().filter(|(disk, _)| !notes.contains_key(disk));
    let wanted = wanted.map(|(_, count)| count).sum();
    let owners = owners(state, &notes, &config.foreign_devices, &present);
    let chosen = choose(find, wanted, &present, &owners).map_err(refused)?;
    for device in &chosen {
        ensure_unused(device)?;
    }
    let note = Note { devices: chosen.iter().filter_map(|device| device.identity.clone()).collect() };
    atomic_file::replace_json(directory.as_fd(), &config.name, &note)?;
    Ok(chosen.into_iter().map(path_of).collect())
}

/// The node's devices, with the disks that have them or would take them.
pub(super) fn seen_devices(disks: &[&DiskConfig], devices: &Arc<Devices>) -> Result<Vec<SeenDevice>> {
    let present = devices.look()?;
    let is_by_path = |disk: &&&DiskConfig| disk.backing == BackingKind::Block && disk.find.is_none();
    let paths: Vec<_> = disks.iter().filter(is_by_path).map(|disk| disk.path.clone()).collect();
    let owners = match disks.iter().find_map(|disk| disk.state.as_deref()) {
        Some(state) => owners(state, &notes_in(state)?, &paths, &present),
        // Without a state directory no disk has a device.
        None => BTreeMap::new(),
    };
    let seen = |mut device: BlockDevice| {
        let owner = device.identity.as_ref().and_then(|identity| owners.get(identity));
        device.obstacle = owner.cloned().or(device.obstacle);
        let meets =
            |disk: &&&DiskConfig| disk.find.as_ref().is_some_and(|find| find.matching.is_met_by(&device));
        let matched_by = match device.obstacle {
            None => disks.iter().filter(meets).map(|disk| disk.name.clone()).collect(),
            Some(_) => Vec::new(),
        };
        SeenDevice { device, matched_by }
    };
    Ok(present.into_iter().map(seen).collect())
}

/// The devices that disks with a match have taken. Pods can write to some of them.
pub(super) fn taken_devices(state: &Path, devices: &Arc<Devices>) -> Result<Vec<PathBuf>> {
    let notes = notes_in(state)?;
    if notes.is_empty() {
        return Ok(Vec::new());
    }
    let is_taken = |device: &BlockDevice| {
        notes.values().flatten().any(|identity| Some(identity) == device.identity.as_ref())
    };
    Ok(devices.look()?.iter().filter(|device| is_taken(device)).map(path_of).collect())
}

/// The notes in a state directory, which has none before the first disk takes a device.
fn notes_in(state: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let directory = state.join(TAKEN);
    match directory.exists() {
        true => notes(&dirfd::open_configured(&directory)?),
        false => Ok(BTreeMap::new()),
    }
}

/// The identities of the devices of each disk with a note.
fn notes(directory: &OwnedFd) -> Result<BTreeMap<String, Vec<String>>> {
    let mut notes = BTreeMap::new();
    for name in dirfd::names(directory).context(|| "list the notes of devices")? {
        // A note that was being written when the agent ended has a dot in its name, and a disk has none.
        let Some(name) = name.to_str().filter(|name| !name.contains('.')) else { continue };
        let what = || format!("the note of the devices of disk {name}");
        let note: Option<Note> = atomic_file::read_json(directory.as_fd(), name, what)?;
        notes.extend(note.map(|note| (name.to_owned(), note.devices)));
    }
    Ok(notes)
}

/// The disks that devices belong to, by the identities of the devices.
fn owners(
    state: &Path,
    notes: &BTreeMap<String, Vec<String>>,
    configured: &[PathBuf],
    present: &[BlockDevice],
) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for identity in present.iter().filter_map(|device| device.identity.clone()) {
        let has_volumes = std::fs::read_dir(state.join(&identity).join(VOLUMES))
            .is_ok_and(|mut volumes| volumes.next().is_some());
        if has_volumes {
            owners.insert(identity, "has volumes of a disk".to_owned());
        }
    }
    for path in configured {
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
        let number = opened.and_then(|opened| Device::of_node(&opened).ok().flatten());
        let sysfs = Path::new(block_device::SYSFS);
        if let Some(identity) = number.and_then(|number| block_device::identity(sysfs, number).ok().flatten())
        {
            owners.insert(identity, format!("is the disk with the path {}", path.display()));
        }
    }
    for (disk, identities) in notes {
        let owner = format!("is of disk {disk}");
        owners.extend(identities.iter().map(|identity| (identity.clone(), owner.clone())));
    }
    owners
}

/// The devices with the noted identities.
fn taken<'a>(
    noted: &[String],
    present: &'a [BlockDevice],
    note: &Path,
) -> std::result::Result<Vec<&'a BlockDevice>, String> {
    let find = |identity: &String| {
        let found: Vec<_> =
            present.iter().filter(|device| device.identity.as_ref() == Some(identity)).collect();
        match found[..] {
            [device] => Ok(device),
            [] => Err(format!(
                "its device {identity} is not there: put the device back; if its data is given up, remove the file {} of \
                 the node, and the disk takes another device",
                note.display()
            )),
            _ => Err(format!("{} have the identity {identity}: remove the copy", names(&found))),
        }
    };
    noted.iter().map(find).collect()
}

/// The devices for a disk. `wanted` counts the devices that this and other disks ask for with the same match; `owners` has
/// the disks that devices belong to.
fn choose<'a>(
    find: &FindDevices,
    wanted: usize,
    present: &'a [BlockDevice],
    owners: &BTreeMap<String, String>,
) -> std::result::Result<Vec<&'a BlockDevice>, String> {
    let matching: Vec<_> = present.iter().filter(|device| find.matching.is_met_by(device)).collect();
    let obstacle = |device: &BlockDevice| {
        let same = |other: &&BlockDevice| other.identity == device.identity;
        let owner = device.identity.as_ref().and_then(|identity| owners.get(identity)).cloned();
        let copy = || {
            let has_copy = device.identity.is_some() && present.iter().filter(same).count() > 1;
            has_copy.then(|| "has the identity of another device".to_owned())
        };
        owner.or_else(|| device.obstacle.clone()).or_else(copy)
    };
    let (free, others): (Vec<_>, Vec<_>) = matching.iter().partition(|device| obstacle(device).is_none());
    let mut free: Vec<&BlockDevice> = free;
    free.sort_by(|a, b| a.identity.cmp(&b.identity));
    if free.len() < find.count {
        let others: Vec<_> = others
            .iter()
            .map(|device: &&BlockDevice| {
                format!("/dev/{} {}", device.name, obstacle(device).unwrap_or_default())
            })
            .collect();
        let others = match others.is_empty() {
            true => "no other device matches".to_owned(),
            false => others.join(", "),
        };
        return Err(format!(
            "{} of the {} devices that it needs match and are blank; {others}: correct the match, or make a device blank with \
             `blkdiscard --force --zeroout` and its path if its data is given up",
            free.len(),
            find.count
        ));
    }
    if free.len() > wanted {
        return Err(format!(
            "{} match and are blank, and the configured disks with this match need {wanted}: narrow the match, or configure \
             a disk for each",
            names(&free)
        ));
    }
    free.truncate(find.count);
    Ok(free)
}

fn names(devices: &[&BlockDevice]) -> String {
    let names: Vec<_> = devices.iter().map(|device| format!("/dev/{}", device.name)).collect();
    names.join(", ")
}

fn path_of(device: &BlockDevice) -> PathBuf {
    Path::new("/dev").join(&device.name)
}

/// Refuses a device that is used after all. This comes last, since an exclusive open may disturb others.
fn ensure_unused(device: &BlockDevice) -> Result<()> {
    let path = path_of(device);
    let open = |flags: OFlags| {
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
    };
    let refuse = |reason: &str| Err(Error::unsuitable_disk(&path, reason));
    let Some(claim) = unless_busy(|| open(OFlags::EXCL))? else {
        return refuse("matches and is in use: unmount it, or take it out of its RAID, volume group or swap");
    };
    let number =
        Device::of_node(&claim)?.ok_or_else(|| Error::unsuitable_disk(&path, "is no block device"))?;
    let sysfs = Path::new(block_device::SYSFS);
    if block_device::identity(sysfs, number)? != device.identity {
        return refuse("became another device just now: the agent looks again");
    }
    if !filesystem::is_blank(&File::from(claim), device.size)? {
        return refuse("got data just now: the agent looks again");
    }
    match block_device::is_open(number)? {
        true => refuse("matches and is open in a process or behind a loop device: end its user"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::types::DeviceMatch;

    fn device(name: &str, identity: &str) -> BlockDevice {
        let model = "Fast".to_owned();
        BlockDevice {
            name: name.into(),
            size: 10,
            model,
            identity: Some(identity.into()),
            ..Default::default()
        }
    }

    fn find(count: usize) -> FindDevices {
        let matching = DeviceMatch { model: Some("Fast".into()), ..Default::default() };
        FindDevices { matching, count, wanted_by: vec![] }
    }

    fn chosen(find: &FindDevices, wanted: usize, present: &[BlockDevice], owned: &[(&str, &str)]) -> String {
        let owners = owned.iter().map(|(identity, owner)| ((*identity).into(), (*owner).into())).collect();
        match choose(find, wanted, present, &owners) {
            Ok(devices) => names(&devices),
            Err(why) => why,
        }
    }

    #[test]
    fn d6_as_many_devices_as_disks_are_taken_in_order() {
        let present = [device("b", "wwid-1"), device("a", "wwid-2"), device("c", "wwid-3")];
        assert_eq!(chosen(&find(1), 3, &present, &[]), "/dev/b", "by identity, not by the kernel's name");
        assert_eq!(chosen(&find(1), 2, &present, &[("wwid-1", "is of disk x")]), "/dev/a");
        assert_eq!(chosen(&find(3), 3, &present, &[]), "/dev/b, /dev/a, /dev/c");
    }

    #[test]
    fn d6_more_devices_than_disks_are_a_choice_for_people() {
        let present = [device("a", "wwid-1"), device("b", "wwid-2")];
        let why = chosen(&find(1), 1, &present, &[]);
        assert!(
            why.starts_with("/dev/a, /dev/b match and are blank") && why.contains("need 1: narrow"),
            "{why}"
        );
    }

    #[test]
    fn d6_a_device_with_anything_on_it_is_named_and_not_taken() {
        let holds = |obstacle: &str| BlockDevice { obstacle: Some(obstacle.into()), ..device("a", "wwid-1") };
        for obstacle in ["holds ext4", "has partitions", "is used by dm-0", "is read-only"] {
            let why = chosen(&find(1), 1, &[holds(obstacle)], &[]);
            assert!(why.contains(&format!("/dev/a {obstacle}: correct the match")), "{why}");
        }
        let why = chosen(&find(1), 1, &[device("a", "wwid-1")], &[("wwid-1", "has volumes of a disk")]);
        assert!(why.contains("/dev/a has volumes of a disk"), "{why}");
        let two = [device("a", "serial-1"), device("b", "serial-1")];
        assert!(chosen(&find(1), 2, &two, &[]).contains("/dev/a has the identity of another device"));
        let other = BlockDevice { model: "Slow".into(), ..device("a", "wwid-1") };
        assert!(chosen(&find(1), 1, &[other], &[]).contains("no other device matches"));
    }

    #[test]
    fn d3_a_taken_device_is_found_under_any_name_and_never_replaced() {
        let (noted, note) = (["wwid-1".to_owned()], Path::new("/s/taken/d"));
        let present = [device("z", "wwid-1"), device("a", "wwid-2")];
        assert_eq!(taken(&noted, &present, note).map(|found| names(&found)), Ok("/dev/z".into()));
        let why = taken(&noted, &present[1..], note).unwrap_err();
        assert!(why.contains("wwid-1 is not there") && why.contains("/s/taken/d"), "{why}");
        let why = taken(&noted, &[device("a", "wwid-1"), device("b", "wwid-1")], note).unwrap_err();
        assert!(why.contains("/dev/a, /dev/b have the identity"), "{why}");
    }
}
