//! Refuses adopted directories that overlap with each other, or with a directory of the agent's or the kubelet's
//! (V8).
//!
//! Directories are compared by their place on their filesystem, so that no bind mount hides an overlap.

use std::sync::{MutexGuard, PoisonError};

use crate::host::backings::adopted;
use crate::host::disk::Disk;
use crate::host::error::{Error, Result};
use crate::host::node::Host;
use crate::host::sys::mounts;
use crate::host::types::VolumeSpec;

impl Host {
    /// Refuses to adopt a directory that overlaps with another one. The caller holds the guard until the volume has
    /// its note.
    pub(super) fn ensure_adoptable(
        &self,
        disk: &Disk,
        spec: &VolumeSpec,
    ) -> Result<Option<MutexGuard<'_, ()>>> {
        let Some(path) = &spec.adopt else { return Ok(None) };
        let adoption = self.adoption_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unknown) = self.unserved_disk() {
            // A volume on the disk that is not served may have adopted an overlapping directory.
            return Err(match unknown {
                Error::DiskUnavailable { disk, reason } => {
                    let reason = format!(
                        "{reason}; until it is served, nothing is adopted on this node, since a volume on it may have the directory"
                    );
                    Error::DiskUnavailable { disk, reason }
                }
                unknown => unknown,
            });
        }
        let wanted = mounts::place(adopted::open_adoptable(&disk.config, path)?)?;
        let overlaps =
            |other: String| Err(Error::Conflict(format!("{path} overlaps {other}: adopt another directory")));
        if wanted.overlaps(&mounts::place(self.targets.root())?) {
            return overlaps("the kubelet's directory".to_owned());
        }
        for other in self.served_disks() {
            if wanted.overlaps(&other.place()?) {
                let all = other.place()?;
                let place = |root| adopted::open_root(root).and_then(mounts::place);
                if disk.config.adopt_roots.iter().all(|root| place(root).is_ok_and(|root| root.is_in(&all))) {
                    return Err(Error::Conflict(format!(
                        "{path} overlaps the directory of disk {}, and so does each of the adoptRoots: no directory can be adopted until \
                         the configuration has a root beside the disk's path",
                        other.name()
                    )));
                }
                return overlaps(format!("the directory of disk {}", other.name()));
            }
            for root in &other.config.adopt_roots {
                // The agent's own mount of the root would otherwise keep the volume busy for ever.
                if adopted::open_root(root).and_then(mounts::place).is_ok_and(|root| root.is_in(&wanted)) {
                    return overlaps(format!("{}, one of the adoptRoots", root.display()));
                }
            }
            for uid in other.uids()?.iter().filter(|uid| **uid != spec.uid) {
                let Some(volume) = other.volume(uid)? else { continue };
                if other.backing.adopted_place(&volume)?.is_some_and(|place| wanted.overlaps(&place)) {
                    let name = volume.record().map_or_else(|_| uid.to_string(), |record| record.spec.name);
                    return overlaps(format!("the directory that volume {name} adopted"));
                }
            }
        }
        Ok(Some(adoption))
    }
}
