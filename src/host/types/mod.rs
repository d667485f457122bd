//! The values that callers, records and reports share.

pub(super) mod config;
pub(super) mod device;
pub(super) mod fs_type;
mod mount_options;
pub(super) mod record;
pub(super) mod report;
pub(super) mod seal;
pub(super) mod source;
pub(super) mod spec;
pub(super) mod uid;

pub use config::{BackingKind, DiskConfig, HostConfig};
pub use device::{BlockDevice, DeviceMatch, FindDevices, SeenDevice};
pub use fs_type::FsType;
pub use mount_options::MountOption;
pub use record::{Kept, Pod, Published, Record, State};
pub use report::{
    DiskIdentity, DiskReport, Enforcement, FenceReport, Held, Holder, Receipt, Recovery, Usage, VolumeReport,
};
pub use seal::{Content, Differences, Pace, Seal};
pub use source::{Asked, Sent, Source};
pub use spec::{ErasePolicy, Reserved, VolumeSpec};
pub use uid::{InvalidUid, VolumeUid};
