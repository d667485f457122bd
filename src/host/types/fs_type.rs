//! The filesystems that a volume can have.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A volume's filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4, with 4096-byte blocks and nothing held back for root.
    Ext4,
    /// XFS.
    Xfs,
    /// A part of the disk's own btrfs, so no filesystem is made.
    Btrfs,
}

impl FsType {
    /// The minimum size of a volume in bytes.
    pub const fn min_bytes(self) -> u64 {
        match self {
            Self::Ext4 | Self::Btrfs => 16 << 20,
            // mkfs.xfs requires this size since xfsprogs 5.19.
            Self::Xfs => 300 << 20,
        }
    }

    /// The kernel's name of the filesystem.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
