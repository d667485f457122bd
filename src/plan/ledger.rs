//! The ledger: a list of holders and of the bytes that each holds (S1).
//!
//! All ledgers have this type: a `NodeDisk` holds reservations, a `DiskReservation` volumes and refinements, a
//! `VolumeRole` the reservations that its quota counts. The object with the ledger is written by compare-and-swap. So
//! two requests for the last bytes cannot both succeed.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::api::{LedgerEntry, Size};

use super::list_share::{Entry, Full, full_for};

/// The entries of one ledger, and the most bytes of all entries together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger<'a> {
    entries: Cow<'a, [LedgerEntry]>,
    capacity: u64,
    /// The role of the object; a disk has none.
    role: &'a str,
    /// The entries of the object's other ledger.
    others: &'a [LedgerEntry],
}

/// Why no entry can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Too few bytes are free.
    Short {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are missing.
        missing: u64,
    },
    /// The object lists no further entry (A8).
    Full(Full),
}

/// Sum of the entries. The sum saturates, so that huge sizes cannot overflow to a small sum.
pub fn total(entries: &[LedgerEntry]) -> u64 {
    entries.iter().map(bytes).fold(0, u64::saturating_add)
}

/// Bytes of destroyed volumes whose data is kept (X8).
pub fn kept_bytes(entries: &[LedgerEntry]) -> u64 {
    let kept = entries.iter().filter(|entry| entry.kept.is_some());
    kept.map(|entry| entry.size.bytes_or_zero()).fold(0, u64::saturating_add)
}

/// Bytes of the entry. An unreadable size counts as the whole capacity.
fn bytes(entry: &LedgerEntry) -> u64 {
    entry.size.bytes().unwrap_or(u64::MAX)
}

impl<'a> Ledger<'a> {
    /// A ledger of these entries and this capacity.
    pub fn new(entries: &'a [LedgerEntry], capacity: u64) -> Self {
        Self { entries: Cow::Borrowed(entries), capacity, role: "", others: &[] }
    }

    /// The same ledger, in an object that lists `others` too.
    pub fn beside(self, others: &'a [LedgerEntry]) -> Self {
        Self { others, ..self }
    }

    /// The same ledger, in an object of that role.
    pub fn of_role(self, role: &'a str) -> Self {
        Self { role, ..self }
    }

    /// Why the object lists no further entry of that owner (A8).
    pub fn full(&self, entry: Entry<'_>) -> Option<Full> {
        let listed: Vec<Entry<'_>> = self.entries.iter().chain(self.others).map(Entry::of).collect();
        full_for(self.role, entry, listed.into_iter())
    }

    /// The entries.
    pub fn entries(&self) -> &[LedgerEntry] {
        &self.entries
    }

    /// The entries, for a write.
    pub fn into_entries(self) -> Vec<LedgerEntry> {
        self.entries.into_owned()
    }

    /// Bytes of the entry with that UID.
    pub fn get(&self, uid: &str) -> Option<u64> {
        self.entries.iter().find(|entry| entry.uid == uid).map(bytes)
    }

    /// Bytes of all entries.
    pub fn total(&self) -> u64 {
        total(&self.entries)
    }

    /// Bytes that no entry holds.
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.total())
    }

    /// Takes an entry of at least `entry`'s size. A large enough entry with that UID and generation stays unchanged,
    /// so the step can be repeated. A smaller entry grows (R6). An entry of an earlier generation is replaced, because
    /// nobody can report its bytes any more: the owner's spec has changed since.
    pub fn take(mut self, entry: LedgerEntry) -> Result<Self, Refused> {
        let present = self.entries.iter().find(|held| held.uid == entry.uid);
        let (wanted, held) = (bytes(&entry), present.map_or(0, bytes));
        match present.map(|held| held.generation.cmp(&entry.generation)) {
            Some(Ordering::Equal | Ordering::Greater) if held >= wanted => return Ok(self),
            Some(_) => {}
            None => self.full(Entry::of(&entry)).map_or(Ok(()), |full| Err(Refused::Full(full)))?,
        }
        let (more, free) = (wanted.saturating_sub(held), self.free());
        if let Some(missing) = more.checked_sub(free).filter(|missing| *missing > 0) {
            return Err(Refused::Short { free, missing });
        }
        let entries = self.entries.to_mut();
        match entries.iter_mut().find(|held| held.uid == entry.uid) {
            Some(held) => {
                (held.size, held.generation) = (entry.size, held.generation.max(entry.generation));
            }
            None if wanted > 0 => entries.push(entry),
            None => {}
        }
        Ok(self)
    }

    /// Brings the entry with `entry`'s UID between `low` and `high` bytes. The entry gets `low` bytes even without free
    /// space, since the owner already has these bytes. An entry of zero bytes is removed.
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

    /// Releases the entry with that UID.
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
        let size = Size::from_bytes(bytes);
        LedgerEntry {
            name: uid.clone(),
            uid,
            role: "eng".into(),
            size,
            generation: Some(1),
            ..Default::default()
        }
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
        let of = |role: &str, i: usize| LedgerEntry { uid: i.to_string(), role: role.into(), ..entry(0, 1) };
        let entries: Vec<LedgerEntry> = (0..500).map(|i| of("eng/ml", i)).collect();
        let others: Vec<LedgerEntry> = (500..1000).map(|i| of("eng/web", i)).collect();
        let (ledger, new) = (Ledger::new(&entries, 1 << 40), |role| of(role, 2000));
        let refused = |ledger: Ledger<'_>, role| ledger.take(new(role)).err();
        assert_eq!(refused(ledger.clone().beside(&others), "ops"), Some(Refused::Full(Full::List)));
        assert_eq!(refused(ledger.clone(), "eng"), Some(Refused::Full(Full::Share(500))));
        assert_eq!(refused(ledger.clone(), "ops"), None);
        assert_eq!(refused(ledger.clone().of_role("eng"), "eng"), None, "an owner fills its own list");
        assert_eq!(ledger.take(entry(7, 5)).unwrap().get("7"), Some(5));
    }

    #[test]
    fn r6_an_entry_grows_within_what_is_free() {
        let ledger = Ledger::new(&[], 10).take(entry(1, 4)).unwrap().take(entry(2, 4)).unwrap();
        assert_eq!(ledger.clone().take(entry(1, 7)), Err(Refused::Short { free: 2, missing: 1 }));
        assert_eq!(ledger.take(entry(1, 6)).unwrap().get("1"), Some(6));
    }

    /// R6. An entry for an earlier spec is replaced.
    #[test]
    fn r6_an_entry_of_an_earlier_generation_is_replaced() {
        let of = |generation, bytes| LedgerEntry { generation, ..entry(1, bytes) };
        let ledger = Ledger::new(&[], 10).take(of(Some(2), 8)).unwrap();
        for (generation, bytes, there) in [
            (Some(2), 3, Ok(8)),
            (Some(2), 9, Ok(9)),
            (Some(2), 11, Err(Refused::Short { free: 2, missing: 1 })),
            (Some(3), 3, Ok(3)),
            (Some(3), 8, Ok(8)),
            (Some(1), 3, Ok(8)),
            (None, 9, Ok(9)),
        ] {
            let taken = ledger.clone().take(of(generation, bytes));
            let newest = taken.as_ref().map_or(generation, |ledger| ledger.entries()[0].generation);
            assert_eq!(newest, if there.is_ok() { generation.max(Some(2)) } else { generation });
            assert_eq!(taken.map(|ledger| ledger.total()), there, "{generation:?} {bytes}");
        }
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
        /// S1: no sequence of operations takes more than the capacity.
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
