//! The agent of one node: its disks, its volumes, and the CSI services that mount them into pods.
//!
//! The agent watches only the volumes of its own node, and reports only facts of its disks and of the kernel.

mod config;
mod containers;
mod context;
mod copies;
mod copying;
mod device_match;
mod devices;
mod disk_identity;
mod disk_names;
mod disks;
mod held;
mod held_targets;
mod kubelet;
mod live_reads;
mod metrics;
mod orphans;
mod publish;
mod readings;
mod refused_readers;
mod run;
mod seals;
mod static_reservations;
mod volume_spec;
mod volumes;

pub use config::{Config, ConfigError, DiskEntry};
pub use run::{Error, LOOK_AGAIN, Options, run};
