//! The node's disks against the real kernel: loop devices, ext4 and xfs, mount namespaces. Needs root.

mod adopt;
mod btrfs;
mod copies;
mod crash;
mod create;
mod device;
mod disks;
mod enforcement;
mod erase;
mod found;
mod holders;
mod hostile;
mod inherit;
mod kept;
mod long;
mod lvm;
mod many_files;
mod powercut;
mod publish;
mod quota;
mod recover;
mod resize;
mod seal;
mod striped;
mod support;
mod undivided;
