//! Tells the container runtime which mounts of a new container are read-only (M3).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::nri::{Mount, Mounts};
use crate::plan::container_mounts::{read_only, shows_a_claim};

use super::context::Context;

/// Half of the time that the runtime waits for an answer.
const LOOK: Duration = Duration::from_secs(1);

/// The mounts of new containers, as the runtime asks about them.
pub(super) struct Containers {
    pub(super) ctx: Arc<Context>,
    pub(super) kubelet_dir: PathBuf,
}

impl Mounts for Containers {
    async fn replaced(&self, mounts: Vec<Mount>) -> Option<Vec<Mount>> {
        let changed = mounts.into_iter().filter_map(|mount| {
            let shown = shows_a_claim(Path::new(&mount.source), &self.kubelet_dir);
            let options = read_only(&mount.options).filter(|_| shown)?;
            Some(Mount { options, ..mount })
        });
        let changed: Vec<Mount> = changed.collect();
        if changed.is_empty() {
            return Some(changed);
        }
        let look = self.ctx.on_host(move |host| {
            let mut changed = changed;
            changed.retain(|mount| host.is_read_only(Path::new(&mount.source)));
            changed
        });
        match tokio::time::timeout(LOOK, look).await {
            Ok(Ok(changed)) => Some(changed),
            _ => {
                tracing::warn!("failed to look at the mounts of a new container");
                None
            }
        }
    }
}
