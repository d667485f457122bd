//! Calls of one target, one after another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Who comes first is served first, and those of different targets go on side by side.
#[derive(Default)]
pub(super) struct Turns(Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for those who came before; it is the caller's turn until what this returns is dropped.
    pub(super) async fn take(&self, target: &Path) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody has it, or waits for it.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(target.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}
