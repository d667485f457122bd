//! Data whose object is gone becomes that of another volume, on an explicit word only (X6).
//!
//! The directory of the one is called by the UID of the other: that is one step, so of two that want the data one gets it
//! (S4), and there is no moment at which nobody has it. Before it, the journal names the heir, by which it is the heir's
//! journal as soon as the directory is; and the file system keeps the UUID with which it was made.

use super::error::{Error, Result};
use super::lifecycle::busy;
use super::record::Record;
use super::uid::VolumeUid;
use super::{Disk, Host, Volume, VolumeSpec};

impl Host {
    /// Gives a volume, of which there is nothing yet, the data of another one. Both are locked. What was interrupted goes
    /// on when it is asked for again; what was being made or erased goes on being so.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the other one is not on this disk, or was given to somebody else; [`Error::Conflict`] if it
    /// is not such a volume; [`Error::InUse`] or [`Error::Busy`] while somebody uses it. Nothing changes then.
    pub(super) fn inherit(
        &self,
        disk: &Disk,
        from: &VolumeUid,
        spec: &VolumeSpec,
    ) -> Result<(Volume, Record)> {
        let there = disk.volume(from)?;
        let volume =
            there.ok_or_else(|| Error::NotFound(format!("data of volume {from} on disk {}", disk.name())))?;
        let mut record = volume.record()?;
        let was = &record.spec;
        if was.role != spec.role {
            return Err(Error::Conflict(format!(
                "the data of volume {from} belongs to role {}: recover it for that one",
                was.role
            )));
        }
        if !was.same_volume(spec) {
            return Err(Error::Conflict(format!(
                "volume {from} has {} bytes of {}{}, {}{}: recover it as what it is",
                was.size_bytes,
                was.fs_type,
                if was.raw { " (volumeMode Block)" } else { "" },
                if was.shared { "shared" } else { "exclusive" },
                was.adopt.as_ref().map(|path| format!(", adopted from {path}")).unwrap_or_default(),
            )));
        }
        self.drop_unmounted(disk, &volume, &mut record)?;
        if !record.publishes.is_empty() {
            return Err(Error::InUse { uid: from.clone(), holder: record.users() });
        }
        if disk.backing.release(&volume)? {
            return Err(busy(from));
        }
        record.heir = Some(spec.uid.clone());
        volume.write(&record)?;
        drop(volume);
        disk.rename(from, &spec.uid)?;
        let volume =
            disk.volume(&spec.uid)?.ok_or_else(|| Error::NotFound(format!("volume {}", spec.uid)))?;
        let record = volume.record()?;
        volume.write(&record)?;
        tracing::info!(volume = %spec.uid, %from, "has the data of a volume without an object");
        Ok((volume, record))
    }
}
