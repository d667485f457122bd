//! The configuration of a node's disks.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::types::device::FindDevices;

/// The disks of a node, and the directory of the pods' mounts.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The node's disks.
    pub disks: Vec<DiskConfig>,
    /// The kubelet's directory: all targets are beneath it.
    pub targets_root: PathBuf,
    /// Time to wait for another agent that still serves a disk, per disk.
    pub lock_timeout: Duration,
    /// Time limit for a disk's answer, after which the disk is unavailable.
    pub patience: Duration,
    /// The place where devices are looked for: the node's sysfs.
    pub sysfs: PathBuf,
}

/// A disk for volumes.
#[derive(Clone, Debug, Default)]
pub struct DiskConfig {
    /// The disk's name on this node.
    pub name: String,
    /// The disk's path. Empty for a raw device that is found by its properties.
    pub path: PathBuf,
    /// Finds the devices of the disk by their properties.
    pub find: Option<FindDevices>,
    /// The devices that were found, in the order of `find`.
    pub devices: Vec<PathBuf>,
    /// The backing of its volumes.
    pub backing: BackingKind,
    /// Number of devices across which each volume is striped; 0 and 1: none is striped. Only for backing `Lvm`.
    pub stripes: usize,
    /// The directory is made if it is missing; directories above are not.
    pub make_directory: bool,
    /// The disk is served only while a file system is mounted at the directory, or at the one that holds it (D6).
    pub require_mount: bool,
    /// The directory for the records of raw devices, which have no space for them, and for the notes of devices that were
    /// found by their properties.
    pub state: Option<PathBuf>,
    /// Upper limit for the capacity, if smaller than the filesystem.
    pub capacity: Option<u64>,
    /// Bytes held back for the system.
    pub system_reserved: u64,
    /// Percentage of the capacity that is held back in addition.
    pub system_reserved_percent: u64,
    /// Roots of the directories that volumes may adopt (V8).
    pub adopt_roots: Vec<PathBuf>,
    /// Devices of other disks by their paths, which no match takes. Pods can write to them, so LVM must not look for a volume
    /// group there.
    pub foreign_devices: Vec<PathBuf>,
    /// Volumes without an enforced size are allowed.
    pub allow_unenforced: bool,
    /// A mistake in the disk's configuration. A disk with a mistake is reported, but never touched.
    pub wrong: Option<String>,
}

/// The backing of the volumes on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackingKind {
    /// The disk is a directory on ext4 or xfs; every volume is a preallocated file with a filesystem of its own.
    #[default]
    Loop,
    /// The disk is a btrfs of its own; every volume is a subvolume with a limit.
    Btrfs,
    /// The disk is an undivided filesystem, and its one volume a directory in it (D2).
    Mount,
    /// The disk is a raw device, and so is its one volume (D2).
    Block,
    /// The disk is a directory on ext4 or xfs with project quota; every volume is a directory with its own project.
    Quota,
    /// The disk is an LVM volume group; every volume is a logical volume with a filesystem of its own.
    Lvm,
}
