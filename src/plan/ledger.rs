//! The ledger: who holds how many bytes of something (S1).
//!
//! One type for all: a `NodeDisk` holds reservations, a `DiskReservation` volumes and refinements, a `VolumeRole` the
//! reservations that count towards its limit. The object that has the ledger is written by compare-and-swap, so of two
//! that want the last bytes one wins.

use std::borrow::Cow;

use crate::api::{LedgerEntry, Size};

/// The entries of one ledger, and how many bytes they may hold in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger<'a> {
    entries: Cow<'a, [LedgerEntry]>,
    capacity: u64,
    /// The most entries.
    most: usize,
}

/// The most entries in the ledgers of an object. The object stays small enough for the API server (A8).
pub const MOST_ENTRIES: usize = 1000;

/// Why a ledger gives nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Too few bytes are free.
    Short {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are missing.
        missing: u64,
    },
    /// The object lists [`MOST_ENTRIES`] already.
    Full,
}

/// Sum of the entries. The sum saturates, so that no sum of hostile sizes looks small.
pub fn total(entries: &[LedgerEntry]) -> u64 {
    entries.iter().map(bytes).fold(0, u64::saturating_add)
}

/// Bytes that the entry holds; a size that cannot be read holds everything.
fn bytes(entry: &LedgerEntry) -> u64 {
    entry.size.bytes().unwrap_or(u64::MAX)
}

impl<'a> Ledger<'a> {
    /// The ledger of these entries.
    pub fn new(entries: &'a [LedgerEntry], capacity: u64) -> Self {
        Self { entries: Cow::Borrowed(entries), capacity, most: MOST_ENTRIES }
    }

    /// The same ledger, in an object that lists so many others besides.
    pub fn beside(self, others: &[LedgerEntry]) -> Self {
        Self { most: self.most.saturating_sub(others.len()), ..self }
    }

    /// The entries.
    pub fn entries(&self) -> &[LedgerEntry] {
        &self.entries
    }

    /// The entries, to be written.
    pub fn into_entries(self) -> Vec<LedgerEntry> {
        self.entries.into_owned()
    }

    /// Bytes that the entry of that UID holds.
    pub fn get(&self, uid: &str) -> Option<u64> {
        self.entries.iter().find(|entry| entry.uid == uid).map(bytes)
    }

    /// Bytes that all entries hold.
    pub fn total(&self) -> u64 {
        total(&self.entries)
    }

    /// Bytes that no entry holds.
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.total())
    }

    /// Takes at least `entry`'s size. An entry of that UID that is large enough stays as it is, so the step can be
    /// repeated; a smaller one grows (R6).
    pub fn take(self, entry: LedgerEntry) -> Result<Self, Refused> {
        let (wanted, held) = (bytes(&entry), self.get(&entry.uid));
        if held.is_none() && self.entries.len() >= self.most {
            return Err(Refused::Full);
        }
        let (more, free) = (wanted.saturating_sub(held.unwrap_or(0)), self.free());
        match more.checked_sub(free).filter(|missing| *missing > 0) {
            Some(missing) => Err(Refused::Short { free, missing }),
            None => Ok(self.set_within(entry, wanted, u64::MAX)),
        }
    }

    /// Brings the entry of `entry`'s UID between `low` and `high` bytes. Below `low` the entry becomes `low`, whatever is
    /// free, because those bytes were promised. No entry of zero bytes is left.
    pub fn set_within(mut self, entry: LedgerEntry, low: u64, high: u64) -> Self {
        let held = self.get(&entry.uid).unwrap_or(0);
        let size = held.min(high).max(low);
        if size == held {
            return self;
        }
        if size == 0 {
            return self.release(&entry.uid);
        }
        let (entries, size) = (self.entries.to_mut(), Size::from_bytes(size));
        match entries.iter_mut().find(|held| held.uid == entry.uid) {
            Some(held) => held.size = size,
            None => entries.push(LedgerEntry { size, ..entry }),
        }
        self
    }

    /// Releases the entry of that UID.
    pub fn release(mut self, uid: &str) -> Self {
        if self.get(uid).is_some() {
            self.entries.to_mut().retain(|held| held.uid != uid);
        }
        self
    }
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
        let ledger = Ledger::new(&[], 10).take(entry(1, 6)).unwrap();
        assert_eq!(ledger.clone().take(entry(2, 5)), Err(Refused::Short { free: 4, missing: 1 }));
        assert_eq!(ledger.clone().take(entry(1, 6)).unwrap(), ledger, "taken twice counts once");
        assert_eq!(ledger.take(entry(2, 4)).unwrap().free(), 0);
    }

    #[test]
    fn a8_at_the_cap_no_entry_is_added_and_those_there_grow() {
        let entries: Vec<LedgerEntry> =
            (0..MOST_ENTRIES).map(|i| LedgerEntry { uid: i.to_string(), ..entry(0, 1) }).collect();
        let ledger = Ledger::new(&entries, 1 << 40);
        assert_eq!(ledger.clone().take(LedgerEntry { uid: "new".into(), ..entry(0, 1) }), Err(Refused::Full));
        assert_eq!(ledger.take(entry(7, 5)).unwrap().get("7"), Some(5));
    }

    #[test]
    fn r6_an_entry_grows_within_what_is_free() {
        let ledger = Ledger::new(&[], 10).take(entry(1, 4)).unwrap().take(entry(2, 4)).unwrap();
        assert_eq!(ledger.clone().take(entry(1, 7)), Err(Refused::Short { free: 2, missing: 1 }));
        assert_eq!(ledger.take(entry(1, 6)).unwrap().get("1"), Some(6));
    }

    #[test]
    fn r6_an_entry_is_set_within_what_is_held_and_what_is_wanted() {
        let ledger = Ledger::new(&[], 10).take(entry(1, 4)).unwrap();
        for ((low, high), there) in
            [((4, 4), Some(4)), ((2, 3), Some(3)), ((5, 6), Some(5)), ((0, 9), Some(4)), ((0, 0), None)]
        {
            assert_eq!(ledger.clone().set_within(entry(1, 0), low, high).get("1"), there, "{low}..={high}");
        }
        assert_eq!(ledger.clone().set_within(entry(3, 0), 2, 5).get("3"), Some(2), "a promise is put back");
        assert_eq!(ledger.clone().set_within(entry(3, 0), 0, 5), ledger, "a mere wish is not");
    }

    proptest! {
        /// S1: no sequence of operations takes more than there is.
        #[test]
        fn s1_never_more_than_there_is(ops in proptest::collection::vec((0u8..8, 1u64..1 << 40, any::<bool>()), 0..64), capacity in 0u64..1 << 41) {
            let mut ledger = Ledger::new(&[], capacity);
            for (uid, bytes, takes) in ops {
                ledger = match takes {
                    true => ledger.clone().take(entry(uid, bytes)).unwrap_or(ledger),
                    false => ledger.release(&uid.to_string()),
                };
                prop_assert!(ledger.total() <= capacity);
            }
        }
    }
}
