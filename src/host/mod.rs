//! The disks of a node: makes volumes on them, mounts volumes into pods, erases volumes. Blocking Linux code without
//! Kubernetes.
//!
//! # Guarantees
//! - Every change is first recorded on stable storage. Every call can be repeated, also after a crash in its middle
//!   (M4). Calls on one volume run one after another; calls on different volumes do not wait for each other.
//! - A volume that was ready once is never formatted again (V9). An unreadable record is an error of its volume
//!   (V10). The agent never treats it as absent, and never erases it (S14).
//! - Data that existed before a volume adopted it is neither changed nor erased (V8).
//! - Data is erased only when the volume is fenced and no pod is in its record. The *kernel* must have no mount and
//!   no open file of the volume in any mount namespace (X3, S10).
//! - Read-only mounts are read-only before they can be seen (S9); nosuid and nodev are on every mount (V12).
//! - A disk on which no writer is stopped at the size of its volume is not served, unless the configuration allows
//!   that (D5).
//! - Only the [expected](Host::expect) disk of a place is read (D3). A missing volume counts as erased only if there
//!   is a receipt.
//! - A volume that is sealed once has no writer any more, and its manifest is on stable storage before its record says so
//!   (E1). A later reading of its files is compared with the digest in the record (E4).
//! - Nothing that the source of a copy sends is believed: a copy has the digest that was asked for, or is not sealed (E2).
//! - Every file is reached by descriptor beneath a disk or beneath the targets' root, through no symbolic link (M7,
//!   S12). A foreign mount or loop device is never touched (M5).
//!
//! # Assumptions
//! - Linux 5.12 or newer, 5.14 for project quota; the privileges to mount and to make loop devices; `/dev`, `/sys`
//!   and `/proc` of the machine; mkfs.ext4 (1.47) and mkfs.xfs; for volume groups LVM (2.03), and the node's
//!   `/run/lock/lvm`.
//! - One agent per disk: the disk is locked, and a second agent is refused.
//!
//! # Caveats
//! - The kernel keeps "no discards" for a loop device that Reservoir has used. The device's next user does not
//!   discard either.
//! - [`ErasePolicy::Zero`] overwrites the blocks that the filesystem shows, not the blocks that a flash disk has
//!   remapped.
//!
//! # Files
//! [`Host`] is in `node`. Each operation has its own file and uses `disk` and `volume`. These use `backings`, which
//! use `sys`, the interface to the kernel.

mod adoption;
mod backings;
mod copies;
mod devices;
mod disk;
mod disk_key;
mod enforcement;
mod error;
mod holders;
mod inherit;
mod layout;
mod lifecycle;
mod locks;
mod manifests;
mod node;
mod publish;
mod recover;
mod resize;
mod seal;
mod slot;
mod sys;
mod taken;
mod targets;
mod types;
mod verify;
mod volume;

pub use copies::SealedFiles;
pub use error::{Error, Result};
pub use layout::VOLUMES;
pub use node::Host;
pub use publish::Publish;
pub use sys::volume_group::name_of as volume_group_of;
pub use types::*;
