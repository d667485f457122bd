//! One lock per key, for as long as somebody holds it.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks by key: what concerns different keys goes on side by side.
///
/// There is nothing to clean up and nothing to poison: the lock of a thread that panicked is released with its guard.
pub(super) struct Locks<K: Ord> {
    held: Mutex<BTreeSet<K>>,
    released: Condvar,
}

/// The lock of one key, until it is dropped.
pub(super) struct Guard<'a, K: Ord> {
    locks: &'a Locks<K>,
    key: K,
}

impl<K: Ord + Clone> Locks<K> {
    pub(super) fn new() -> Self {
        Self { held: Mutex::new(BTreeSet::new()), released: Condvar::new() }
    }

    /// Waits until nobody else holds `key`.
    pub(super) fn lock(&self, key: &K) -> Guard<'_, K> {
        let held = self.held();
        let mut held =
            self.released.wait_while(held, |held| held.contains(key)).unwrap_or_else(PoisonError::into_inner);
        held.insert(key.clone());
        Guard { locks: self, key: key.clone() }
    }
}

impl<K: Ord> Locks<K> {
    fn held(&self) -> MutexGuard<'_, BTreeSet<K>> {
        // The set is consistent between any two of its operations.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Drop for Guard<'_, K> {
    fn drop(&mut self) {
        self.locks.held().remove(&self.key);
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holder_per_key() {
        let locks = Locks::new();
        let inside = [AtomicUsize::new(0), AtomicUsize::new(0)];
        std::thread::scope(|scope| {
            for i in 0..8usize {
                let (locks, inside) = (&locks, &inside);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let _guard = locks.lock(&(i % 2));
                        assert_eq!(inside[i % 2].fetch_add(1, Ordering::SeqCst), 0);
                        inside[i % 2].fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(locks.held().is_empty());
    }
}
