//! The ledgers: who holds how many bytes of something (S1).
//!
//! One function for both: a `NodeDisk` holds reservations, a `DiskReservation` holds volumes. The object that
//! holds the ledger is written by compare-and-swap, so of two that want the last bytes one wins.

use crate::api::LedgerEntry;

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

/// The ledger with `entry` in it, or how much is missing. An entry of that UID that is there already stays as
/// it is: the step can be repeated.
pub fn take(
    entries: &[LedgerEntry],
    capacity: u64,
    entry: LedgerEntry,
) -> Result<Vec<LedgerEntry>, Shortfall> {
    let mut next = entries.to_vec();
    if !next.iter().any(|held| held.uid == entry.uid) {
        let free = free(entries, capacity);
        let wanted = entry.size.bytes().unwrap_or(u64::MAX);
        if wanted > free {
            return Err(Shortfall { free, missing: wanted - free });
        }
        next.push(entry);
    }
    Ok(next)
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
    use crate::api::Size;
    use proptest::prelude::*;

    fn entry(uid: u8, bytes: u64) -> LedgerEntry {
        let uid = uid.to_string();
        LedgerEntry { name: uid.clone(), uid, role: "eng".into(), size: Size::from_bytes(bytes) }
    }

    #[test]
    fn the_last_bytes_go_to_one() {
        let ledger = take(&[], 10, entry(1, 6)).unwrap();
        assert_eq!(take(&ledger, 10, entry(2, 5)), Err(Shortfall { free: 4, missing: 1 }));
        assert_eq!(take(&ledger, 10, entry(1, 6)).unwrap(), ledger, "taken twice counts once");
        assert_eq!(free(&take(&ledger, 10, entry(2, 4)).unwrap(), 10), 0);
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
