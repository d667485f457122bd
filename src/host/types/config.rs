//! A node's disks as they are configured.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The disks of a node, and the directory in which pods get their volumes.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The node's disks.
    pub disks: Vec<DiskConfig>,
    /// The kubelet's directory: every target lies beneath it.
    pub targets_root: PathBuf,
    /// Wait for an agent that still serves a disk, per disk.
    pub lock_timeout: Duration,
    /// The time after which a disk that does not answer is unavailable.
    pub patience: Duration,
}

/// A disk for volumes.
#[derive(Clone, Debug, Default)]
pub struct DiskConfig {
    /// Its name on this node.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// The backing of its volumes.
    pub backing: BackingKind,
    /// The directory is made if it is missing.
    pub make_directory: bool,
    /// The directory for records of raw devices, which have no space for one. Only [`BackingKind::Block`] needs it.
    pub state: Option<PathBuf>,
    /// Bytes that may be handed out, if fewer than the filesystem has.
    pub capacity: Option<u64>,
    /// Bytes held back for the system.
    pub system_reserved: u64,
    /// The share of the capacity that is held back for the system besides, in percent.
    pub system_reserved_percent: u64,
    /// Directories beneath which volumes may adopt others (V8).
    pub adopt_roots: Vec<PathBuf>,
    /// Devices that pods write to, at which LVM must not look for a volume group. Only [`BackingKind::Lvm`] needs them.
    pub foreign_devices: Vec<PathBuf>,
    /// Volumes without an enforced size are allowed.
    pub allow_unenforced: bool,
    /// The mistake in its configuration: the disk is reported with that, and not touched.
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
