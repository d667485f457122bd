//! The spec of a volume.

use std::collections::BTreeMap;

use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use crate::host::error::{Error, Result};
use crate::host::types::fs_type::FsType;
use crate::host::types::mount_options::{self, MountOption};
use crate::host::types::uid::VolumeUid;

/// The spec of a volume, with all that a recovery needs to rebuild the Kubernetes object from the disk (X6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// UID of the Kubernetes object, and name of the volume on the disk (S4).
    pub uid: VolumeUid,
    /// Name of the Kubernetes object. Never a path.
    pub name: String,
    /// The role that the volume belongs to.
    pub role: String,
    /// Name of the volume's reservation.
    pub reservation: String,
    /// That reservation, its parent, the parent's parent and so on; kept for X6 alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reserved>,
    /// Bytes of disk that the volume may take, at least [`FsType::min_bytes`]. The last block may be incomplete.
    pub size_bytes: u64,
    /// The volume's filesystem.
    pub fs_type: FsType,
    /// Pods get the device itself, without a filesystem.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// Several pods may use the volume at once (V2); otherwise one pod at a time (M2).
    pub shared: bool,
    /// Claims of sub-roles do not bind to the volume; kept for X6 alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sub_roles_denied: bool,
    /// The existing directory that becomes the volume, with its data (V8); an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// The volume without an object whose data this volume inherits, instead of a new filesystem (X6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<VolumeUid>,
    /// The policy for data that a resize replaces. An erase has its own policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase_policy: Option<ErasePolicy>,
    /// The time for which the data is kept after the volume's destruction (X8); kept for X6 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_for: Option<String>,
    /// Namespace and name of the PersistentVolumeClaim that the volume was made for; kept for X6 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<String>,
    /// Labels of the object; kept for X6 alone.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Group that owns the root directory, which is then setgid (V11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Permissions of the root directory (V12), e.g. `0o770`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Mount options from the safe list (V12); nosuid and nodev are always on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_options: Vec<MountOption>,
}

/// The fate of data that is erased (X4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErasePolicy {
    /// The blocks are given back to the disk.
    Discard,
    /// The data is first overwritten with zeroes.
    Zero,
}

/// A reservation at the time of its recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    /// The reservation's name.
    pub name: String,
    /// The reservation's role.
    pub role: String,
    /// The reservation's bytes.
    pub size_bytes: u64,
    /// The reservation's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl VolumeSpec {
    /// Refuses impossible values.
    pub(crate) fn validate(&self) -> Result<()> {
        let (size, min) = (self.size_bytes, self.fs_type.min_bytes());
        let refusal = if size < min {
            format!("a volume with {} needs at least {min} bytes, {size} were asked for", self.fs_type)
        } else if i64::try_from(size).is_err() {
            format!("a volume has less than 2^63 bytes, {size} were asked for")
        } else if self.mode.is_some_and(|mode| mode & !0o3777 != 0) {
            "a volume's permissions are at most 3777 (octal)".to_owned()
        } else if self.gid.is_some_and(|gid| gid == 0 || i32::try_from(gid).is_err()) {
            "a volume's group is from 1 to 2147483647, as a pod's is".to_owned()
        } else if self.mount_options.contains(&MountOption::Noatime)
            && self.mount_options.contains(&MountOption::Strictatime)
        {
            "noatime and strictatime exclude each other".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::InvalidArgument(refusal))
    }

    /// Compares the properties in which two specs of one volume never differ.
    pub(crate) fn same_volume(&self, other: &Self) -> bool {
        (self.size_bytes, self.fs_type, self.raw, self.shared, &self.adopt)
            == (other.size_bytes, other.fs_type, other.raw, other.shared, &other.adopt)
    }

    /// True if the data of this volume may become the data of the other one (X6).
    pub fn may_become(&self, other: &Self) -> bool {
        self.role == other.role && self.same_volume(other)
    }

    /// The attributes of the volume's mounts (V12).
    pub(crate) fn mount_attributes(&self, read_only: bool) -> MountAttrFlags {
        mount_options::attributes(&self.mount_options, read_only)
    }

    /// Refuses a raw volume where volumes are parts of a filesystem.
    pub(crate) fn ensure_not_raw(&self) -> Result<()> {
        match self.raw {
            true => Err(Error::Unsupported(
                "only a disk that is a raw device can be a volume without a filesystem: use a disk of kind Block"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// Refuses a raw volume, and a filesystem that cannot exist for one volume alone.
    pub(crate) fn ensure_own_filesystem(&self) -> Result<()> {
        match self.fs_type {
            FsType::Ext4 | FsType::Xfs => self.ensure_not_raw(),
            FsType::Btrfs => Err(Error::Unsupported(
                "btrfs is not made inside a volume: create it with fsType ext4 or xfs, or on a disk with backing Btrfs"
                    .to_owned(),
            )),
        }
    }
}
