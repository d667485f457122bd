//! Runs the calls for one target one after another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// A lock per target, in the order of arrival. Calls for different targets run side by side.
///
/// A publish awaits the API server before it reaches the node, and the node's own locks begin only there. Without
/// this lock a later unpublish could overtake the publish, and nothing would unmount the publish's mount (M4).
#[derive(Default)]
pub(super) struct TargetLocks(Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>);

impl TargetLocks {
    /// Waits for all earlier calls for `target`. Later calls wait until the guard is dropped.
    pub(super) async fn lock(&self, target: &Path) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // No call holds or awaits a lock that only the map refers to.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(target.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}
