//! The kernel's interfaces, and the programs for what the kernel does not do. No file here depends on disks, records
//! or pods.

pub(super) mod atomic_file;
pub(super) mod block_device;
pub(super) mod btrfs_subvolumes;
pub(super) mod compare_manifests;
pub(super) mod copy_files;
pub(super) mod dirfd;
pub(super) mod disk_usage;
pub(super) mod filesystem;
pub(super) mod in_use;
pub(super) mod loop_device;
pub(super) mod manifest;
pub(super) mod manifest_entry;
mod mountinfo;
pub(super) mod mounts;
pub(super) mod process;
mod program;
mod random;
pub(super) mod read_only_lock;
pub(super) mod remove_tree;
pub(super) mod signature;
pub(super) mod syscalls;
pub(super) mod volume_group;
pub(super) mod zero;

pub(super) use in_use::Uses;
pub(super) use mountinfo::{Device, Mount};
pub(super) use mounts::{Found, Place, Target};
pub(super) use random::random_uuid;
