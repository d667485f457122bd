//! Resizes volumes (V7).

use crate::host::error::{Error, Result};
use crate::host::node::Host;
use crate::host::types::{State, VolumeSpec, VolumeUid};

impl Host {
    /// Makes a volume larger, also while pods write to it, or makes an unused volume smaller. A publish waits for the
    /// end. An interrupted resize leaves the volume with the old or the new size, and with all of its data. The next
    /// request may ask for any size.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if the disk lacks space for the new bytes, or for the copy that a shrink makes;
    /// [`Error::TooSmall`] if the volume's files need more; [`Error::Busy`] for a smaller volume in use;
    /// [`Error::Unsupported`] if the filesystem or the backing cannot resize. After an error the volume is as before.
    pub fn resize(&self, uid: &VolumeUid, size_bytes: u64) -> Result<()> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        VolumeSpec { size_bytes, ..record.spec.clone() }.validate()?;
        match record.state {
            State::Creating => return Err(Error::NotReady(uid.clone())),
            State::Erasing => return Err(Error::Fenced(uid.clone())),
            State::Ready if record.fenced => return Err(Error::Fenced(uid.clone())),
            State::Ready if record.spec.size_bytes == size_bytes && record.resizing.is_none() => {
                return Ok(());
            }
            State::Ready => {}
        }
        let before = disk.backing.size_on_disk(&volume, &record)?;
        let old_record = record.clone();
        record.resizing = Some(size_bytes);
        volume.write_record(&record)?;
        let shrunk = if size_bytes < before {
            let mut smaller = record.clone();
            smaller.spec.size_bytes = size_bytes;
            disk.backing.shrink(&volume, &record, size_bytes, &mut || volume.write_record(&smaller))
        } else {
            Ok(())
        };
        let mut record = volume.record()?;
        if let Err(error) = shrunk.and_then(|()| disk.backing.grow(&volume, &record, size_bytes)) {
            if disk.backing.size_on_disk(&volume, &record)? == before {
                volume.write_record(&old_record)?;
            }
            return Err(error);
        }
        record.spec.size_bytes = size_bytes;
        record.resizing = None;
        volume.write_record(&record)
    }
}
