//! Reservoir.
