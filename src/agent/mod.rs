//! The agent of one node: its disks, its volumes, and the CSI plug-in that mounts them into pods.
//!
//! It watches only the volumes of its own node. What it says of them it has seen on the disk or heard from the kernel.

mod config;
mod disks;
mod metrics;
mod orphans;
mod publish;
mod reservations;
mod run;
mod volumes;

pub use config::{Config, ConfigError, DiskEntry};
pub use run::{Options, run};
