//! The ledgers: who holds how many bytes of something (S1).
//!
//! The same functions for all: a `NodeDisk` holds reservations, a `DiskReservation` volumes and refinements, a
//! `VolumeRole` what counts for its limit. The object that holds the ledger is written by compare-and-swap, so of two
//! that want the last bytes one wins.

use crate::api::{LedgerEntry, Size};

/// What a ledger cannot give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are missing.
    pub missing: u64,
}

/// Sum of the entries; it saturates, so that no sum of hostile sizes looks small.
pub fn total(entries: &[LedgerEntry]) -> u64 {
    entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.size.bytes().unwrap_or(u64::MAX)))
}

/// What is left of `capacity`.
pub fn free(entries: &[LedgerEntry], capacity: u64) -> u64 {
    capacity.saturating_sub(total(entries))
}

/// What the line of that UID holds.
pub fn held(entries: &[LedgerEntry], uid: &str) -> Option<u64> {
    entries.iter().find(|held| held.uid == uid).map(|held| held.size.bytes().unwrap_or(u64::MAX))
}

/// The ledger with a line of at least `entry`'s size, or how much is missing. A line of that UID that is there already
/// and is large enough stays as it is: the step can be repeated. One that is smaller grows (R6).
pub fn take(
    entries: &[LedgerEntry],
    capacity: u64,
    entry: LedgerEntry,
) -> Result<Vec<LedgerEntry>, Shortfall> {
    let mut next = entries.to_vec();
    let wanted = entry.size.bytes().unwrap_or(u64::MAX);
    let more = wanted.saturating_sub(held(entries, &entry.uid).unwrap_or(0));
    if more > 0 {
        let free = free(entries, capacity);
        if more > free {
            return Err(Shortfall { free, missing: more - free });
        }
        match next.iter_mut().find(|held| held.uid == entry.uid) {
            Some(line) => line.size = entry.size,
            None => next.push(entry),
        }
    }
    Ok(next)
}

/// The ledger with the line of `entry`'s UID between `low` and `high` bytes: one that is too small, or not there, is
/// made `low`, room or not, for it was promised; one that is too large is made `high`; none is left of zero bytes.
pub fn settle(entries: &[LedgerEntry], entry: LedgerEntry, low: u64, high: u64) -> Vec<LedgerEntry> {
    let line = held(entries, &entry.uid).unwrap_or(0);
    let settled = line.min(high).max(low);
    let mut next = entries.to_vec();
    match next.iter_mut().find(|held| held.uid == entry.uid) {
        _ if line == settled => {}
        _ if settled == 0 => return credit(entries, &entry.uid),
        Some(line) => line.size = Size::from_bytes(settled),
        None => next.push(LedgerEntry { size: Size::from_bytes(settled), ..entry }),
    }
    next
}

/// The ledger with `entry` in it, room or not: for a line that was there before and got lost with its object.
pub fn restore(entries: &[LedgerEntry], entry: LedgerEntry) -> Vec<LedgerEntry> {
    take(entries, u64::MAX, entry).unwrap_or_else(|_| entries.to_vec())
}

/// The ledger without the entry of that UID.
pub fn credit(entries: &[LedgerEntry], uid: &str) -> Vec<LedgerEntry> {
    entries.iter().filter(|held| held.uid != uid).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(uid: u8, bytes: u64) -> LedgerEntry {
        let uid = uid.to_string();
        LedgerEntry { name: uid.clone(), uid, role: "eng".into(), size: Size::from_bytes(bytes) }
    }

    /// R1, V1, S1.
    #[test]
    fn the_last_bytes_go_to_one() {
        let ledger = take(&[], 10, entry(1, 6)).unwrap();
        assert_eq!(take(&ledger, 10, entry(2, 5)), Err(Shortfall { free: 4, missing: 1 }));
        assert_eq!(take(&ledger, 10, entry(1, 6)).unwrap(), ledger, "taken twice counts once");
        assert_eq!(free(&take(&ledger, 10, entry(2, 4)).unwrap(), 10), 0);
    }

    #[test]
    fn r6_a_line_grows_within_the_room_and_is_settled_between_what_is_held_and_what_is_wanted() {
        let ledger = take(&take(&[], 10, entry(1, 4)).unwrap(), 10, entry(2, 4)).unwrap();
        assert_eq!(take(&ledger, 10, entry(1, 7)), Err(Shortfall { free: 2, missing: 1 }));
        assert_eq!(held(&take(&ledger, 10, entry(1, 6)).unwrap(), "1"), Some(6));
        for ((low, high), there) in
            [((4, 4), Some(4)), ((2, 3), Some(3)), ((5, 6), Some(5)), ((0, 9), Some(4)), ((0, 0), None)]
        {
            assert_eq!(held(&settle(&ledger, entry(1, 0), low, high), "1"), there, "{low}..={high}");
        }
        assert_eq!(held(&settle(&ledger, entry(3, 0), 2, 5), "3"), Some(2), "what was promised is put back");
        assert_eq!(settle(&ledger, entry(3, 0), 0, 5), ledger, "what is only wanted is not");
    }

    proptest! {
        /// S1: no sequence of operations takes more than there is.
        #[test]
        fn s1_never_more_than_there_is(ops in proptest::collection::vec((0u8..8, 1u64..1 << 40, any::<bool>()), 0..64), capacity in 0u64..1 << 41) {
            let mut ledger = Vec::new();
            for (uid, bytes, takes) in ops {
                ledger = match takes {
                    true => take(&ledger, capacity, entry(uid, bytes)).unwrap_or(ledger),
                    false => credit(&ledger, &uid.to_string()),
                };
                prop_assert!(total(&ledger) <= capacity);
            }
        }
    }
}
