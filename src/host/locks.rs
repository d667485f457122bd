//! One lock per key, which exists while a thread holds it or waits for it.
//!
//! A lock is held across blocking system calls, so no async lock fits. A `Mutex` per key is not fair: a thread that
//! locks one key over and over could keep all other threads waiting (L3, L7).

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks by key, in the order of the requests. Threads with different keys do not wait for each other.
///
/// A guard releases its lock also when its thread panics, so no cleanup is needed and no lock is poisoned.
pub(super) struct Locks<K: Ord> {
    queues: Mutex<BTreeMap<K, Queue>>,
    released: Condvar,
}

/// The queue of one key. Threads have numbers in the order of their requests.
#[derive(Default)]
struct Queue {
    /// The number of the holder.
    serving: u64,
    /// The number of the next request.
    next: u64,
}

/// The lock of one key, held until this guard is dropped.
pub(super) struct Guard<'a, K: Ord> {
    locks: &'a Locks<K>,
    key: K,
}

impl<K: Ord + Clone> Locks<K> {
    pub(super) fn new() -> Self {
        Self { queues: Mutex::new(BTreeMap::new()), released: Condvar::new() }
    }

    /// Waits for all earlier holders of `key`.
    pub(super) fn lock(&self, key: &K) -> Guard<'_, K> {
        let mut queues = self.queues();
        let queue = queues.entry(key.clone()).or_default();
        let mine = queue.next;
        queue.next += 1;
        let waits =
            |queues: &mut BTreeMap<K, Queue>| queues.get(key).is_some_and(|queue| queue.serving != mine);
        drop(self.released.wait_while(queues, waits).unwrap_or_else(PoisonError::into_inner));
        Guard { locks: self, key: key.clone() }
    }
}

impl<K: Ord> Locks<K> {
    fn queues(&self) -> MutexGuard<'_, BTreeMap<K, Queue>> {
        // A panic cannot leave the map half changed, so a poisoned mutex is safe to use.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Drop for Guard<'_, K> {
    fn drop(&mut self) {
        let mut queues = self.locks.queues();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.serving += 1;
            if queue.serving == queue.next {
                queues.remove(&self.key);
            }
        }
        drop(queues);
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_key_has_one_holder() {
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
        assert!(locks.queues().is_empty());
    }

    #[test]
    fn l3_l7_the_first_request_is_served_first() {
        let locks = Locks::new();
        let order = Mutex::new(Vec::new());
        let waiting = |n: u64| {
            while locks.queues()[&0].next != n {
                std::thread::yield_now()
            }
        };
        std::thread::scope(|scope| {
            let first = locks.lock(&0);
            for i in 0..5 {
                let (locks, order) = (&locks, &order);
                scope.spawn(move || {
                    let _guard = locks.lock(&0);
                    order.lock().unwrap().push(i);
                });
                waiting(i + 2);
            }
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4]);
    }
}
