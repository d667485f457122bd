//! Small changes of storage capacities (P2), of the words of subscriptions and the free space of offers (O2), of the pods of volumes
//! (X1) and of the number of complete copies (E2), which are told together after a while.
//!
//! Each volume changes the storage capacity of its classes on its node. A scheduler decides by it, and is corrected when it
//! chose a node without space. So a change that matters to few is not worth a write for each volume. In the memory of one
//! controller: another one begins anew.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// The longest time for which a small change of a storage capacity, a subscription, an offer or a number of copies is not told.
pub const AFTER: Duration = Duration::from_secs(10);
/// The longest time for which the pods of a volume are not counted. Pods come and go together, and their claim holds the
/// volume in the meantime (X1).
pub const COUNTING: Duration = Duration::from_secs(2);
/// The shortest time between two writes of an offer that only add to it. An offer is a large object, and no claim waits for it.
pub const OFFERING: Duration = Duration::from_secs(2);

/// True if the difference is small: at most a sixteenth of the number that is told, and not all of it.
pub fn is_small(told: u64, now: u64) -> bool {
    told.abs_diff(now) <= told / 16 && (now == 0) == (told == 0)
}

/// The time of the first small change of each object that is not told yet.
#[derive(Debug, Default)]
pub struct Postponed(HashMap<String, Timestamp>);

impl Postponed {
    /// True if a small change of the object waits.
    pub fn waits(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Notes a small change that may wait for that time, and returns what is left of it; `None`: the change is due.
    pub fn note(&mut self, name: &str, after: Duration, now: Timestamp) -> Option<Duration> {
        self.0.entry(name.to_owned()).or_insert(now);
        self.left(name, after, now)
    }

    /// The rest of the time that a noted change may wait; `None`: the change is due, or was not noted.
    pub fn left(&self, name: &str, after: Duration, now: Timestamp) -> Option<Duration> {
        // A clock that was set back makes it early.
        let waited = Duration::try_from(now.duration_since(*self.0.get(name)?)).ok()?;
        after.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// Forgets the small changes of the object: they are told.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2_small_changes_are_told_after_a_while() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut postponed = Postponed::default();
        assert!(!postponed.waits("fast"));
        assert_eq!(postponed.note("fast", AFTER, at(100)), Some(AFTER));
        assert_eq!(
            postponed.note("fast", AFTER, at(104)),
            Some(Duration::from_secs(6)),
            "more of them wait no longer"
        );
        assert_eq!(postponed.note("slow", AFTER, at(109)), Some(AFTER));
        assert_eq!(postponed.note("fast", AFTER, at(110)), None);
        assert_eq!(postponed.note("fast", AFTER, at(90)), None, "the clock was set back");
        assert!(postponed.waits("fast"));
        assert_eq!(postponed.left("none", AFTER, at(110)), None, "a controller that starts does not wait");
        postponed.forget("fast");
        assert!(!postponed.waits("fast"));
    }

    #[test]
    fn p2_the_first_and_the_last_bytes_are_no_small_change() {
        for (told, now, small) in
            [(1600, 1500, true), (1600, 1499, false), (1600, 1700, true), (1600, 1701, false), (8, 8, true)]
        {
            assert_eq!(is_small(told, now), small, "{told} {now}");
        }
        assert!(!is_small(0, 1) && !is_small(1, 0) && is_small(0, 0));
    }
}
