//! The backings of volumes: one file for each kind, and the trait that they share.

pub(super) mod adopted;
pub(super) mod backing;
mod block_device;
mod btrfs;
mod image;
mod loop_file;
mod lvm;
pub(super) mod open;
mod quota;
mod undivided_filesystem;
