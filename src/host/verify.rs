//! Reads the files of a sealed volume again, and compares them with its manifest (E4).

use rustix::fs::AtFlags;

use crate::host::error::{Context, Error, Result};
use crate::host::layout::NEW_MANIFEST;
use crate::host::manifests::{compare, put_in_place, write_manifest};
use crate::host::node::Host;
use crate::host::seal::ensure_sealable;
use crate::host::sys::dirfd;
use crate::host::types::{Differences, Pace, Seal, VolumeUid};

impl Host {
    /// Reads the files of a sealed volume again. The digest in the record decides: without a difference the manifest is the
    /// one that was read now, so a damaged manifest is mended.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a volume that is not sealed; [`Error::Fenced`]; [`Error::Stopped`]; [`Error::Io`] for a
    /// file that cannot be read.
    pub fn verify(&self, uid: &VolumeUid, pace: Pace<'_>) -> Result<Differences> {
        let _reading = self.seal_locks.lock(uid);
        let (volume, mount, content) = {
            let _volume = self.volume_locks.lock(uid);
            let (disk, volume) = self.find(uid)?;
            let record = volume.record()?;
            ensure_sealable(&record)?;
            let Some(Seal { content: Some(content), .. }) = &record.seal else {
                return Err(Error::InvalidArgument(format!(
                    "volume {uid} is not sealed, so there is no digest to compare its files with"
                )));
            };
            let mount = disk.backing.mount(&volume, &record, true)?;
            (volume, mount, content.clone())
        };
        let found = match write_manifest(&volume, &mount, pace) {
            Err(Error::Unsealable { path, why }) => {
                let mut differences = Differences::default();
                differences.add(|| format!("{path} {why}"));
                return Ok(differences);
            }
            written => written?,
        };
        let _volume = self.volume_locks.lock(uid);
        ensure_sealable(&self.find(uid)?.1.record()?)?;
        let differences = match found.digest == content.digest {
            true => Differences::default(),
            false => compare(&volume, &content.digest)?,
        };
        if differences.count == 0 {
            put_in_place(&volume)?;
        } else {
            dirfd::remove(&volume.dir, NEW_MANIFEST, AtFlags::empty())
                .context(|| format!("remove {NEW_MANIFEST}"))?;
            volume.sync_dir()?;
        }
        Ok(differences)
    }
}
