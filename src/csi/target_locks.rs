//! Calls for one target, one after another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// A lock per target, in the order of arrival; different targets go on side by side.
///
/// A publish awaits the API server before it reaches the node, and the node's own locks begin only there. Without this
/// lock an unpublish that came later could overtake it, and nothing would unmount what it then mounts (M4).
#[derive(Default)]
pub(super) struct TargetLocks(Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>);

impl TargetLocks {
    /// Waits for all earlier calls for `target`; later ones wait until the guard is dropped.
    pub(super) async fn lock(&self, target: &Path) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A lock that only the map refers to is neither held nor awaited.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(target.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}
