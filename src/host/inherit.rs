//! Gives the data of a volume without an object to another volume, the heir, on request (X6).
//!
//! A rename gives the directory the UID of the heir. The rename is one step, so only one of two heirs gets the data
//! (S4), and the data always has exactly one owner. The record names the heir before the rename, and is the heir's
//! record afterwards. The filesystem keeps its first UUID.

use crate::host::disk::Disk;
use crate::host::error::{Error, Result};
use crate::host::node::Host;
use crate::host::types::{Record, VolumeSpec, VolumeUid};
use crate::host::volume::Volume;

impl Host {
    /// Gives the data of one volume to another volume that does not exist on the disk yet. The caller has locked
    /// both. A repeated call continues an interrupted one. The state of the data stays the same, also `Creating` or
    /// `Erasing`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the other volume is not on this disk, or has another heir; [`Error::Conflict`] if the
    /// data differs from the spec; [`Error::InUse`] or [`Error::Busy`] while the data has users. After an error
    /// nothing has changed.
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
