//! What a [`Host`](super::Host) is asked and what it answers.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Context, Result};
use super::record::{Pod, Published, Record};
use super::uid::VolumeUid;

/// Which disks to serve, and for whom.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The node's disks.
    pub disks: Vec<DiskConfig>,
    /// The kubelet's directory: every target lies beneath it.
    pub targets_root: PathBuf,
    /// How long to wait for an agent that still serves a disk, per disk.
    pub lock_timeout: Duration,
}

/// A disk on which volumes are kept.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Its name on this node.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// How volumes are kept on it.
    pub keeping: Keeping,
    /// Where the journals of raw devices are, which have no room for one. Only [`Keeping::Block`] needs it.
    pub state: Option<PathBuf>,
    /// Bytes that may be handed out, if fewer than the filesystem has.
    pub capacity: Option<u64>,
    /// Bytes held back for the system.
    pub system_reserved: u64,
    /// Directories beneath which volumes may adopt others (V8). Only of [`Keeping::Loop`].
    pub adopt_roots: Vec<PathBuf>,
    /// Whether there may be volumes whose size is not enforced.
    pub allow_unenforced: bool,
}

/// How volumes are kept on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keeping {
    /// The disk is a directory on ext4 or xfs; every volume is a preallocated file with a filesystem of its own.
    #[default]
    Loop,
    /// The disk is a btrfs of its own; every volume is a subvolume with a limit.
    Btrfs,
    /// The disk is a whole filesystem, and its one volume a directory in it (D2).
    Mount,
    /// The disk is a raw device, and so is its one volume (D2).
    Block,
    /// The disk is a directory on ext4 or xfs with project quota; every volume is a directory with a project of its own.
    Quota,
    /// The disk is an LVM volume group; every volume is a logical volume with a filesystem of its own.
    Lvm,
}

/// A disk as it is now (D1); all sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskReport {
    /// Its name on this node.
    pub name: String,
    /// Its identity, which it keeps when the node gets another name (D3); `None` if it could not be read.
    pub id: Option<String>,
    /// What there is.
    pub capacity: u64,
    /// What is held back for the system.
    pub system_reserved: u64,
    /// What can be handed out: the difference.
    pub allocatable: u64,
    /// What the filesystem has free now, whoever took the rest.
    pub free: u64,
    /// How the size of volumes is enforced; `None` if that was not looked at.
    pub enforcement: Option<Enforcement>,
    /// Why it cannot be served.
    pub error: Option<String>,
}

/// Whether the size of volumes is enforced on a disk (D5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// The disk is handed out whole, and is the limit itself.
    Whole,
    /// The writer on a scratch volume was stopped at the limit, by this errno.
    Proven(&'static str),
    /// The disk is too full to try.
    Untried,
    /// It is not: how that was seen.
    Broken(String),
}

impl DiskReport {
    pub(super) fn of(config: &DiskConfig) -> Self {
        Self {
            name: config.name.clone(),
            id: None,
            capacity: 0,
            system_reserved: config.system_reserved,
            allocatable: 0,
            free: 0,
            enforcement: None,
            error: None,
        }
    }
}

/// A volume that is on a disk.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeReport {
    /// Name of the disk.
    pub disk: String,
    /// Identity of the disk.
    pub disk_id: String,
    /// The volume.
    pub uid: VolumeUid,
    /// Bytes of the disk that it takes now.
    pub allocated: u64,
    /// Its journal, or why it cannot be read.
    pub record: Result<Record>,
}

/// A pod's wish to use a volume at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The volume.
    pub uid: VolumeUid,
    /// Where: an absolute path beneath [`HostConfig::targets_root`], whose parent exists.
    pub target: PathBuf,
    /// Whether the pod may only read (M3).
    pub read_only: bool,
    /// The pod.
    pub pod: Pod,
    /// UID of the claim through which it uses the volume.
    pub claim_uid: String,
}

/// Who still uses a volume that is fenced.
#[derive(Clone, Debug, PartialEq)]
pub struct FenceReport {
    /// What the journal says: uses by target.
    pub users: BTreeMap<String, Published>,
    /// What the kernel says: whether it is mounted or open in any mount namespace (X3).
    pub in_use: bool,
}

/// What happens to data that is erased (X4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErasePolicy {
    /// Its blocks are given back to the disk.
    Discard,
    /// It is overwritten with zeroes first.
    Zero,
}

/// That a volume is gone from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes given back to the disk: the volume's size, or none if it was an adopted directory.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// What was done to the data.
    pub policy: ErasePolicy,
}

/// What was found and put right for one volume when the agent started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Targets that were in the journal although nothing was mounted there any more.
    pub dropped: Vec<String>,
    /// Whether the kernel has it mounted or open somewhere.
    pub in_use: bool,
}

/// Room in a volume (M6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the filesystem.
    pub total_bytes: u64,
    /// Bytes that are taken.
    pub used_bytes: u64,
    /// Bytes that can still be written.
    pub available_bytes: u64,
    /// Inodes of the filesystem.
    pub total_inodes: u64,
    /// Inodes that are taken.
    pub used_inodes: u64,
    /// Inodes that can still be made.
    pub available_inodes: u64,
}

impl Usage {
    pub(super) fn of(mount: impl AsFd) -> Result<Self> {
        let stat = rustix::fs::fstatvfs(mount).context(|| "ask a volume for its room")?;
        Ok(Self {
            total_bytes: stat.f_blocks * stat.f_frsize,
            used_bytes: stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
            available_bytes: stat.f_bavail * stat.f_frsize,
            total_inodes: stat.f_files,
            used_inodes: stat.f_files.saturating_sub(stat.f_ffree),
            available_inodes: stat.f_favail,
        })
    }
}
