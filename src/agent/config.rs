//! The agent's configuration file: the disks of its node.

use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::api::{BackingKind, DiskKind, Lifetime, NodeDiskSpec, Role, Size};
use crate::host::{self, DiskConfig, FindDevices};

use super::device_match::MatchEntry;
use super::kubelet::Thresholds;

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The disks.
    pub disks: Vec<DiskEntry>,
    /// The directory for the records of disks of kind `Block`, which have no space for records.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// Reads sealed volumes again by itself, and compares them with their digest (E4). Off if absent.
    #[serde(default)]
    pub scrub: Option<Scrub>,
}

/// The interval and the speed at which sealed volumes are read again.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scrub {
    /// The time between two readings of a volume, in hours.
    pub every_hours: NonZeroU32,
    /// The most MiB that are read in a second, of each of the volumes that are read at once.
    pub mebibytes_per_second: NonZeroU32,
}

/// One disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskEntry {
    /// The disk's name: a DNS label.
    pub name: String,
    /// A part of a file system or volume group, or an undivided disk.
    #[serde(default)]
    pub kind: DiskKind,
    /// The backing of volumes. Default: the backing of the kind.
    #[serde(default)]
    pub backing: Option<BackingKind>,
    /// Serves the disk only while a file system is mounted at `path`, or at the directory that holds it (D6). False for a
    /// disk that is a part of the node's root file system on purpose. Only for directories on ext4 or xfs: other disks
    /// have a mount or a device of their own anyway.
    #[serde(default = "yes")]
    pub require_mount: bool,
    /// The place of the disk, unless `match` finds it. Default: a directory on ext4 or xfs. Backing `Btrfs`: the mount
    /// point of the top level of a btrfs. Backing `Lvm`: the volume group's directory in `/dev`. Kind `Mount`: the mount
    /// point of the file system. Kind `Block`: the device, best by a lasting name such as `/dev/disk/by-id/…`.
    #[serde(default)]
    pub path: PathBuf,
    /// Finds the device of a disk of kind `Block` by its properties, instead of by its path (D6). Backing `Lvm`: finds as many
    /// devices as there are stripes, or one, and makes the volume group at `path` on them.
    #[serde(default)]
    pub r#match: Option<MatchEntry>,
    /// Number of devices across which each volume is striped: all devices of the volume group. Only for backing `Lvm`.
    #[serde(default)]
    pub stripes: Option<usize>,
    /// Upper limit for the capacity; by default all of the file system. Only for kind `Path`.
    #[serde(default)]
    pub capacity: Option<Size>,
    /// Bytes that are held back for the system: a quantity, or a percentage of the file system. Default: `10%`, of a
    /// volume group nothing. A disk that shares the node's file system holds back no less than the kubelet's eviction
    /// thresholds. Only for kind `Path`.
    #[serde(default)]
    pub system_reserved: Option<Size>,
    /// Roots of the directories that volumes may adopt (V8). Only for kind `Path`.
    #[serde(default)]
    pub adopt_roots: Vec<PathBuf>,
    /// Allows volumes without an enforced size: adopted directories, and all volumes if the disk cannot enforce sizes
    /// (D5).
    #[serde(default)]
    pub allow_unenforced: bool,
    /// `Node`: the disk goes with its Node (D7).
    #[serde(default)]
    pub lifetime: Lifetime,
    /// The grace period of `lifetime: Node`, in seconds.
    #[serde(default)]
    pub node_grace_seconds: Option<u32>,
    /// Static reservations, which the API cannot change (R2).
    #[serde(default)]
    pub reservations: Vec<StaticReservation>,
}

fn yes() -> bool {
    true
}

fn state_dir() -> PathBuf {
    PathBuf::from("/var/lib/reservoir-agent")
}

/// A static reservation.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticReservation {
    /// Role of the reservation.
    pub role: String,
    /// Size of the reservation.
    pub size: Size,
}

/// The reason why a configuration is unusable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file is not YAML of the expected form.
    #[error("failed to understand {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The place and the kind of the mistake.
        source: serde_yaml::Error,
    },
}

impl Scrub {
    pub(super) fn every(&self) -> Duration {
        Duration::from_secs(3600 * u64::from(self.every_hours.get()))
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        u64::from(self.mebibytes_per_second.get()) << 20
    }
}

impl Config {
    /// Reads the file; blocks.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }

    /// Reads the text of the file.
    pub fn parse(text: &str) -> Result<Self, serde_yaml::Error> {
        serde_yaml::from_str(text)
    }

    /// The disks in the host's terms. A wrong disk is refused with the reason, and does not affect other disks (V10).
    /// `eviction` has the thresholds at which the kubelet evicts pods.
    pub(super) fn to_host(&self, eviction: Thresholds) -> Vec<DiskConfig> {
        let mut disks: Vec<DiskConfig> = Vec::new();
        let devices =
            self.disks.iter().filter(|entry| entry.kind == DiskKind::Block && entry.r#match.is_none());
        let devices: Vec<PathBuf> = devices.map(|entry| entry.path.clone()).collect();
        let wanted_by = |find: &FindDevices| {
            let same = self.disks.iter().filter_map(|entry| Some((entry, entry.find().ok()??)));
            let same = same.filter(|(_, other)| other.matching == find.matching);
            same.map(|(entry, other)| (entry.name.clone(), other.count)).collect()
        };
        for (i, entry) in self.disks.iter().enumerate() {
            let within = self.disks[..i].iter().find(|first| first.name != entry.name && first.holds(entry));
            match disks.iter_mut().find(|disk| disk.name == entry.name) {
                Some(first) => first.wrong = Some("two disks have this name: rename one".to_owned()),
                None => {
                    let mut disk = entry.to_host(&self.state_dir, eviction);
                    disk.find.iter_mut().for_each(|find| find.wanted_by = wanted_by(find));
                    if let Some(first) = within {
                        disk.wrong = Some(wrong(&format!(
                            "{} is the path of disk {}, or inside its volumes: give each disk a path of its own",
                            entry.path.display(),
                            first.name
                        )));
                    }
                    disks.push(DiskConfig { foreign_devices: devices.clone(), ..disk });
                }
            }
        }
        disks
    }
}

impl DiskEntry {
    /// The backing of volumes.
    pub fn backing(&self) -> BackingKind {
        self.backing.unwrap_or(self.kind.default_backing())
    }

    /// True if the path of another disk is this one's, or where this one keeps its volumes.
    fn holds(&self, other: &Self) -> bool {
        let is_there = |entry: &Self| entry.r#match.is_none() && entry.path.is_absolute();
        is_there(self)
            && is_there(other)
            && (other.path == self.path || other.path.starts_with(self.path.join(host::VOLUMES)))
    }

    /// True for a directory of a file system that may have other users.
    fn is_directory(&self) -> bool {
        matches!(self.backing(), BackingKind::Loop | BackingKind::Quota)
    }

    /// The spec of the disk's NodeDisk; `id` is the ID on the disk, and `path` the configured or found path.
    pub(super) fn spec(&self, node: &str, id: &str, path: &Path) -> NodeDiskSpec {
        let (node, path) = (node.to_owned(), path.display().to_string());
        NodeDiskSpec {
            backing: self.backing(),
            adopt_roots: self.adopt_roots.iter().map(|root| root.display().to_string()).collect(),
            allow_unenforced: self.allow_unenforced,
            lifetime: self.lifetime,
            node_grace_seconds: self.node_grace_seconds,
            ..NodeDiskSpec::new(node, self.name.clone(), id.to_owned(), self.kind, path)
        }
    }

    /// The devices that the disk has to find.
    fn find(&self) -> Result<Option<FindDevices>, String> {
        let Some(entry) = &self.r#match else { return Ok(None) };
        let count = self.stripes.unwrap_or(1);
        Ok(Some(FindDevices { matching: entry.to_host()?, count, wanted_by: Vec::new() }))
    }

    /// The configured place of the disk. A device that is still to be found is somewhere in `/dev`.
    pub(super) fn place(&self) -> &Path {
        if self.path.as_os_str().is_empty() { Path::new("/dev") } else { &self.path }
    }

    /// The disk in the host's terms; the result includes a mistake in the configuration.
    pub fn to_host(&self, state_dir: &Path, eviction: Thresholds) -> DiskConfig {
        let mut disk = DiskConfig {
            name: self.name.clone(),
            path: self.path.clone(),
            adopt_roots: self.adopt_roots.clone(),
            allow_unenforced: self.allow_unenforced,
            ..Default::default()
        };
        disk.wrong = self.fill(&mut disk, state_dir, eviction).err().map(|why| wrong(&why));
        disk
    }

    fn fill(&self, disk: &mut DiskConfig, state_dir: &Path, eviction: Thresholds) -> Result<(), String> {
        disk.backing = self.validate()?;
        disk.make_directory = self.is_directory();
        disk.require_mount = self.is_directory() && self.require_mount;
        let has_percentage = disk.make_directory || disk.backing == host::BackingKind::Btrfs;
        disk.find = self.find()?;
        disk.stripes = self.stripes.unwrap_or_default();
        let has_state = matches!(disk.backing, host::BackingKind::Block | host::BackingKind::Lvm);
        disk.state = has_state.then(|| state_dir.to_owned());
        let capacity = self.capacity.as_ref().map(|size| bytes("capacity", size));
        disk.capacity = capacity.transpose()?;
        let held_back = match &self.system_reserved {
            Some(size) => size.clone(),
            None if disk.make_directory && !disk.require_mount => {
                let inodes = if disk.backing == host::BackingKind::Quota { eviction.inodes } else { 0 };
                Size::written(format!("{}%", eviction.space.max(inodes).max(OWN_DISK)))
            }
            None if has_percentage => Size::written(format!("{OWN_DISK}%")),
            None => return Ok(()),
        };
        let Some(percent) = held_back.as_str().strip_suffix('%') else {
            disk.system_reserved = match held_back.as_str() {
                "0" => 0,
                _ => bytes("systemReserved", &held_back)?,
            };
            return Ok(());
        };
        let wrong = |reason: &str| format!("systemReserved {held_back}: {reason}");
        let percent: u64 = percent
            .parse()
            .ok()
            .filter(|percent| *percent <= 100)
            .ok_or_else(|| wrong("a percentage is a whole number up to 100"))?;
        match disk.capacity {
            Some(all) => {
                disk.system_reserved = (u128::from(all) * u128::from(percent) / 100) as u64;
            }
            None if has_percentage => disk.system_reserved_percent = percent,
            None => return Err(wrong("of a volume group, say how many bytes, or set capacity")),
        }
        Ok(())
    }

    fn validate(&self) -> Result<host::BackingKind, String> {
        let ensure = |ok: bool, reason: &dyn Fn() -> String| if ok { Ok(()) } else { Err(reason()) };
        let (kind, backing, path) = (self.kind, self.backing(), self.path.display());
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_label = (1..=63).contains(&self.name.len()) && self.name.chars().all(plain);
        ensure(is_label && !self.name.starts_with('-'), &|| {
            "a name is a DNS label of lower-case letters, digits and `-`".to_owned()
        })?;
        let (has_path, has_match) = (!self.path.as_os_str().is_empty(), self.r#match.is_some());
        let is_group = backing == BackingKind::Lvm;
        ensure(!has_match || kind == DiskKind::Block || is_group, &|| {
            format!(
                "match finds devices, and a disk of kind {kind:?} with backing {backing:?} is found by its path"
            )
        })?;
        ensure(if is_group { has_path } else { has_path != has_match }, &|| match is_group {
            true => "path is missing: write /dev/ and the name of the volume group".to_owned(),
            false => "a disk has a path, or for kind Block a match: write one of them".to_owned(),
        })?;
        ensure(self.stripes.is_none() || is_group, &|| {
            format!("a disk with backing {backing:?} has no stripes: leave stripes out")
        })?;
        ensure(self.stripes.is_none_or(|stripes| (2..=MOST_STRIPES).contains(&stripes)), &|| {
            format!("stripes is the number of the volume group's devices, from 2 to {MOST_STRIPES}")
        })?;
        ensure(self.path.is_absolute() || !has_path, &|| format!("path {path} is not absolute"))?;
        for (i, StaticReservation { role, size }) in self.reservations.iter().enumerate() {
            Role::parse(role).map_err(|e| e.to_string())?;
            bytes("reservations", size)?;
            let is_first = self.reservations[..i].iter().all(|other| other.role != *role);
            ensure(is_first, &|| format!("role {role} has two reservations; make them one"))?;
        }
        let backing = match (kind, backing) {
            (DiskKind::Path, BackingKind::Loop) => host::BackingKind::Loop,
            (DiskKind::Path, BackingKind::Btrfs) => host::BackingKind::Btrfs,
            (DiskKind::Path, BackingKind::Quota) => host::BackingKind::Quota,
            (DiskKind::Path, BackingKind::Lvm) => host::BackingKind::Lvm,
            (DiskKind::Mount, BackingKind::Mount) => host::BackingKind::Mount,
            (DiskKind::Block, BackingKind::Block) => host::BackingKind::Block,
            _ => {
                return Err(format!(
                    "a disk of kind {kind:?} cannot have backing {backing:?}: leave backing out"
                ));
            }
        };
        let (divided, adopts) = (kind == DiskKind::Path, !self.adopt_roots.is_empty());
        ensure(divided || self.capacity.is_none() && self.system_reserved.is_none(), &|| {
            format!("a disk of kind {kind:?} is handed out whole: leave capacity and systemReserved out")
        })?;
        ensure(!adopts || !matches!(backing, host::BackingKind::Btrfs | host::BackingKind::Lvm), &|| {
            format!("a disk with backing {backing:?} has nothing on it but volumes: leave adoptRoots out")
        })?;
        ensure(backing != host::BackingKind::Lvm || host::volume_group_of(&self.path).is_some(), &|| {
            format!("path {path} is not /dev/ and the name of a volume group, as backing Lvm needs it")
        })?;
        ensure(divided || !adopts, &|| {
            format!(
                "a disk of kind {kind:?} is handed out whole, and adopts no directory: leave adoptRoots out"
            )
        })?;
        ensure(self.require_mount || self.is_directory(), &|| {
            format!(
                "a disk with backing {backing:?} has a mount or a device of its own: leave requireMount out"
            )
        })?;
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        for root in &self.adopt_roots {
            ensure(root.is_absolute() && root.parent().is_some() && root.components().all(plain), &|| {
                format!(
                    "adoptRoots: {} is not the plain absolute path of a directory below /",
                    root.display()
                )
            })?;
        }
        Ok(backing)
    }
}

/// The refusal of a disk with a mistake in its configuration.
fn wrong(why: &str) -> String {
    format!("its configuration is wrong: {why}")
}

/// The most stripes of a logical volume of LVM.
const MOST_STRIPES: usize = 128;

/// The percentage that is held back by default on a file system without other users.
const OWN_DISK: u64 = 10;

fn bytes(field: &str, size: &Size) -> Result<u64, String> {
    size.bytes().map_err(|e| format!("{field}: {e}"))
}

#[cfg(test)]
mod tests;
