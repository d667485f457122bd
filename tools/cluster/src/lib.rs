//! Real Kubernetes on one machine, for tests, demonstrations and development.
//!
//! Two tiers, both with the real programs:
//! - [`api`]: etcd and kube-apiserver as child processes, ready in seconds, any number side by side;
//! - [`node`]: a kind cluster of several nodes, for everything that needs kubelets and pods.
//!
//! Programs are the machine's own, or are built from source once and kept in the [`cache`].
//! This crate ends exactly the processes that it started, by their recorded ids.

pub mod api;
pub mod bench;
pub mod cache;
pub mod chart;
pub mod command;
pub mod conformance;
mod debian;
pub mod docker;
pub mod image;
pub mod interrupt;
pub mod node;
pub mod packages;
pub mod pages;
mod ports;
pub mod powercut;
mod process;
pub mod programs;
pub mod progress;
pub mod prometheus;
pub mod qemu;
mod recorded;
pub mod release;
pub mod tools;
pub mod tour;
pub mod version;

/// The audit policy of both tiers: each write with its user, and each read of the kinds that Reservoir reads.
const AUDIT_POLICY: &str = include_str!("../assets/audit-policy.yaml");

/// True if an event of the audit log is a read.
pub fn is_read(event: &serde_json::Value) -> bool {
    ["get", "list"].iter().any(|verb| event["verb"] == *verb)
}
