//! The answers of a [`Host`](super::Host).

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::error::{Context, Result};
use crate::host::types::config::DiskConfig;
use crate::host::types::record::{Pod, Published, Record};
use crate::host::types::spec::ErasePolicy;
use crate::host::types::uid::VolumeUid;

/// The identity that is stored on a disk (D3, A7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// The disk's ID.
    pub id: String,
    /// The disk's public key, once the disk's NodeDisk has had it with a signature.
    pub attested_key: Option<String>,
    /// The disk's path, found or configured.
    pub path: PathBuf,
}

/// The present state of a disk (D1); all sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskReport {
    /// The disk's name on this node.
    pub name: String,
    /// The disk's identity, which stays when the node gets another name (D3). `None` if unreadable.
    pub id: Option<String>,
    /// The disk's path, found or configured.
    pub path: PathBuf,
    /// The disk's public key; `None` if the disk is not served (A7).
    pub key: Option<String>,
    /// The disk's size.
    pub capacity: u64,
    /// Held back for the system.
    pub system_reserved: u64,
    /// Bytes that reservations may take: capacity minus system reserve.
    pub allocatable: u64,
    /// Free space of the filesystem now, whoever took the rest.
    pub free: u64,
    /// The enforcement of sizes; `None` if not examined.
    pub enforcement: Option<Enforcement>,
    /// The reason why the disk cannot be served.
    pub error: Option<String>,
}

/// The enforcement of volume sizes on a disk (D5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// The disk is undivided, so the disk itself is the limit.
    Undivided,
    /// The writer on a scratch volume was stopped at the limit, by this errno.
    Proven(&'static str),
    /// The disk is too full for a trial.
    Untried,
    /// Sizes are not enforced; the text has the evidence.
    Broken(String),
}

impl DiskReport {
    pub(crate) fn of(config: &DiskConfig) -> Self {
        Self {
            name: config.name.clone(),
            id: None,
            path: config.path.clone(),
            key: None,
            capacity: 0,
            system_reserved: config.system_reserved,
            allocatable: 0,
            free: 0,
            enforcement: None,
            error: None,
        }
    }
}

/// A volume on a disk.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeReport {
    /// Name of the disk.
    pub disk: String,
    /// Identity of the disk.
    pub disk_id: String,
    /// The volume.
    pub uid: VolumeUid,
    /// Bytes of the disk that the volume takes now.
    pub allocated: u64,
    /// The volume's record, or the reason why it is unreadable.
    pub record: Result<Record>,
}

/// The remaining users of a fenced volume.
#[derive(Clone, Debug, PartialEq)]
pub struct FenceReport {
    /// The uses in the volume's record, by target.
    pub users: BTreeMap<String, Published>,
    /// The kernel has the volume mounted or open in some mount namespace (X3).
    pub in_use: bool,
}

/// A process that uses a volume (F3). Its words are its own, and made safe for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process' number, as the agent sees it.
    pub pid: u32,
    /// The name of the process' program, at most 15 characters.
    pub command: String,
    /// UID of the process' pod.
    pub pod_uid: Option<String>,
    /// The point of the mount that the process sees; `None` for an open file or a working directory.
    pub mount: Option<String>,
}

/// The processes that hold a volume or one of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The volume's name.
    pub volume: String,
    /// The pods in the volume's record, or the pod of the target.
    pub pods: Vec<Pod>,
    /// The first processes.
    pub by: Vec<Holder>,
}

/// The proof that a volume is gone from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes given back to the disk: the volume's size, or 0 for an adopted directory.
    pub bytes: u64,
    /// Time that the erase took.
    pub duration: Duration,
    /// The policy by which the data was erased.
    pub policy: ErasePolicy,
}

/// The state of one volume when the agent started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Targets that were in the record without a mount at them.
    pub dropped: Vec<String>,
    /// The kernel has the volume mounted or open somewhere.
    pub in_use: bool,
}

/// Bytes and inodes of a volume (M6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the filesystem.
    pub total_bytes: u64,
    /// Bytes that are taken.
    pub used_bytes: u64,
    /// Bytes that pods can still write.
    pub available_bytes: u64,
    /// Inodes of the filesystem.
    pub total_inodes: u64,
    /// Inodes that are taken.
    pub used_inodes: u64,
    /// Inodes that pods can still make.
    pub available_inodes: u64,
}

impl Usage {
    /// The usage of the filesystem of `file`.
    pub(crate) fn of_filesystem(file: impl AsFd) -> Result<Self> {
        let stat = rustix::fs::fstatvfs(file).context(|| "read the usage of a volume")?;
        Ok(Self {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            used_bytes: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_inodes: stat.f_files,
            used_inodes: stat.f_files.saturating_sub(stat.f_ffree),
            available_inodes: stat.f_favail,
        })
    }
}
