//! The targets that processes hold (F3).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The targets that the kernel refused to unmount when they were last tried.
#[derive(Default)]
pub(super) struct HeldTargets(Mutex<BTreeSet<PathBuf>>);

impl HeldTargets {
    /// Notes a refusal. True if the target was noted before.
    pub(super) fn note(&self, target: &Path) -> bool {
        !self.targets().insert(target.to_owned())
    }

    pub(super) fn forget(&self, target: &Path) {
        self.targets().remove(target);
    }

    fn targets(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
