//! Reservoir.

pub mod csi;
