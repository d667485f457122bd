//! The allocatable bytes of a disk (D1, S1).
//!
//! A `Path` disk shares its file system with other programs, and bytes that they fill cannot be reserved. Every change
//! of the number is a write, and small changes are frequent. So the number moves in steps.

use crate::api::{NodeDisk, Size};

/// The agent's measurements of a disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Size of the disk.
    pub capacity: u64,
    /// Bytes held back for the system.
    pub system_reserved: u64,
    /// Bytes that are free now.
    pub free: u64,
    /// Bytes of our own volumes, which become free with the end of these volumes.
    pub ours: u64,
}

const STEP: u64 = 64 << 20;

/// The most bytes of a disk that can be allocatable, whatever other files take.
pub fn at_most(capacity: u64, system_reserved: u64) -> u64 {
    capacity.saturating_sub(system_reserved) / STEP * STEP
}

/// Allocatable bytes, computed from the measurements; `published` is the last published number.
pub fn of_measured(measured: Measured, published: Option<u64>) -> u64 {
    let usable = measured.capacity.min(measured.free.saturating_add(measured.ours));
    let target = usable.saturating_sub(measured.system_reserved) / STEP * STEP;
    match published {
        // A small drift stays within the bytes that are held back for the system.
        Some(before) if before.abs_diff(target) <= measured.capacity / 20 && before <= usable => before,
        _ => target,
    }
}

/// The allocatable bytes that the agent published for a disk.
pub fn of_disk(disk: &NodeDisk) -> u64 {
    disk.status.as_ref().and_then(|s| s.allocatable.as_ref()).map_or(0, Size::bytes_or_zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    const GI: u64 = 1 << 30;

    fn disk(free: u64, ours: u64) -> Measured {
        Measured { capacity: 100 * GI, system_reserved: 10 * GI, free: free * GI, ours: ours * GI }
    }

    #[test]
    fn d1_what_others_filled_is_not_there() {
        assert_eq!(of_measured(disk(100, 0), None), 90 * GI);
        assert_eq!(of_measured(disk(60, 0), None), 50 * GI);
        assert_eq!(of_measured(disk(40, 20), None), 50 * GI, "our own volumes are part of it");
        assert_eq!(of_measured(disk(5, 0), None), 0);
    }

    #[test]
    fn d1_s1_it_moves_in_steps_and_promises_nothing_that_is_gone() {
        assert_eq!(of_measured(disk(96, 0), Some(90 * GI)), 90 * GI);
        assert_eq!(of_measured(disk(94, 0), Some(90 * GI)), 84 * GI);
        assert_eq!(of_measured(disk(100, 0), Some(84 * GI)), 90 * GI);
        let tight = Measured { system_reserved: 0, ..disk(88, 0) };
        assert_eq!(of_measured(tight, Some(90 * GI)), 88 * GI);
    }
}
