//! The data of a volume whose object is gone becomes another volume's, if that asks for it (X6).
//!
//! The directory gets the UID of the heir. That is one step, so of two heirs one gets the data (S4), and the data
//! always has exactly one owner. Before that step the record names the heir, and with the directory's new name it is
//! the heir's record. The filesystem keeps the UUID with which it was made.

use crate::host::disk::Disk;
use crate::host::error::{Error, Result};
use crate::host::node::Host;
use crate::host::types::{Record, VolumeSpec, VolumeUid};
use crate::host::volume::Volume;

impl Host {
    /// Gives a volume, of which nothing exists yet, the data of another one. Both are locked. An interrupted call
    /// goes on when it is repeated. A creation or an erase under way stays under way.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the other volume is not on this disk, or was given to another heir; [`Error::Conflict`]
    /// if it differs from the spec; [`Error::InUse`] or [`Error::Busy`] while it has users. Nothing changes then.
    pub(super) fn inherit(
        &self,
        disk: &Disk,
        from: &VolumeUid,
        spec: &VolumeSpec,
    ) -> Result<(Volume, Record)> {
        let found = disk.volume(from)?;
        let volume =
            found.ok_or_else(|| Error::NotFound(format!("data of volume {from} on disk {}", disk.name())))?;
        let mut record = volume.record()?;
        let old_spec = &record.spec;
        if old_spec.role != spec.role {
            return Err(Error::Conflict(format!(
                "the data of volume {from} belongs to role {}: recover it for that role",
                old_spec.role
            )));
        }
        if !old_spec.same_volume(spec) {
            return Err(Error::Conflict(format!(
                "volume {from} has {} bytes of {}{}, {}{}: recover it as what it is",
                old_spec.size_bytes,
                old_spec.fs_type,
                if old_spec.raw { " (volumeMode Block)" } else { "" },
                if old_spec.shared { "shared" } else { "exclusive" },
                old_spec.adopt.as_ref().map(|path| format!(", adopted from {path}")).unwrap_or_default(),
            )));
        }
        self.drop_unmounted(disk, &volume, &mut record)?;
        if !record.publishes.is_empty() {
            return Err(Error::InUse { uid: from.clone(), holder: record.users() });
        }
        if disk.backing.in_use(&volume)? {
            return Err(Error::volume_in_use(from));
        }
        record.heir = Some(spec.uid.clone());
        volume.write_record(&record)?;
        drop(volume);
        disk.rename_volume(from, &spec.uid)?;
        let volume =
            disk.volume(&spec.uid)?.ok_or_else(|| Error::NotFound(format!("volume {}", spec.uid)))?;
        let record = volume.record()?;
        volume.write_record(&record)?;
        tracing::info!(volume = spec.name, %from, "recovered the data of a volume without an object");
        Ok((volume, record))
    }
}
