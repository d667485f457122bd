//! Reservoir: Apache Mesos' shared persistent volumes for Kubernetes.
//!
//! Dependencies point one way: `main` → `cli` → `controller`, `agent` → `csi`, `cluster`, `host`, `nri`, `plan` → `api`.
//! `kubectl-reservoir` → `plugin` → `cluster`, `plan`, `api`.

pub mod agent;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod csi;
#[cfg(test)]
mod fuzz;
pub mod host;
pub mod nri;
pub mod plan;
pub mod plugin;
pub mod telemetry;
pub mod transfer;
