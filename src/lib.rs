//! Reservoir.

pub mod host;
