//! How much of a disk can be promised (D1, S1).
//!
//! A `Path` disk shares its file system with others. What they fill is not there to be reserved; yet a promise that
//! changes with every log line is no promise, and every change is a write. So it moves in steps.

/// What was measured of a disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Size of the disk.
    pub capacity: u64,
    /// Held back for the system.
    pub system_reserved: u64,
    /// Free now.
    pub free: u64,
    /// Held by our own volumes; it was free before, and is again after them.
    pub ours: u64,
}

const STEP: u64 = 64 << 20;

/// How much can be reserved in all; `published` is what was said last.
pub fn allocatable(measured: Measured, published: Option<u64>) -> u64 {
    let room = measured.capacity.min(measured.free.saturating_add(measured.ours));
    let target = room.saturating_sub(measured.system_reserved) / STEP * STEP;
    match published {
        // Small drifts stay within what is held back for the system.
        Some(said) if said.abs_diff(target) <= measured.capacity / 20 && said <= room => said,
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const GI: u64 = 1 << 30;

    fn disk(free: u64, ours: u64) -> Measured {
        Measured { capacity: 100 * GI, system_reserved: 10 * GI, free: free * GI, ours: ours * GI }
    }

    #[test]
    fn what_others_filled_is_not_there() {
        assert_eq!(allocatable(disk(100, 0), None), 90 * GI);
        assert_eq!(allocatable(disk(60, 0), None), 50 * GI);
        assert_eq!(allocatable(disk(40, 20), None), 50 * GI, "our own volumes are part of it");
        assert_eq!(allocatable(disk(5, 0), None), 0);
    }

    #[test]
    fn it_moves_in_steps_and_never_promises_what_is_gone() {
        assert_eq!(allocatable(disk(96, 0), Some(90 * GI)), 90 * GI);
        assert_eq!(allocatable(disk(94, 0), Some(90 * GI)), 84 * GI);
        assert_eq!(allocatable(disk(100, 0), Some(84 * GI)), 90 * GI);
        let tight = Measured { system_reserved: 0, ..disk(88, 0) };
        assert_eq!(allocatable(tight, Some(90 * GI)), 88 * GI);
    }
}
