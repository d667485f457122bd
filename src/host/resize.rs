//! Volumes that become larger or smaller (V7).

use super::error::{Error, Result};
use super::record::State;
use super::uid::VolumeUid;
use super::{Host, VolumeSpec};

impl Host {
    /// Makes a volume larger, also while pods write to it, or smaller, if nobody uses it. Whoever publishes it waits
    /// meanwhile. Interrupted at any point, the volume has one of the two sizes and all of its data; it may be asked for
    /// either of them, or another, then.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if the disk has no room for what is added, or for the copy from which a smaller volume is
    /// made; [`Error::TooSmall`] if what is in it needs more; [`Error::Busy`] for a smaller one that somebody uses;
    /// [`Error::Unsupported`] where the filesystem or the backing cannot. In all of these it stays as it is.
    pub fn resize(&self, uid: &VolumeUid, size_bytes: u64) -> Result<()> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.existing(uid)?;
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
        let before = disk.backing.length(&volume, &record)?;
        let as_it_was = record.clone();
        record.resizing = Some(size_bytes);
        volume.write(&record)?;
        let done = if size_bytes < before {
            let mut smaller = record.clone();
            smaller.spec.size_bytes = size_bytes;
            disk.backing.shrink(&volume, &record, size_bytes, &mut || volume.write(&smaller))
        } else {
            Ok(())
        };
        let mut record = volume.record()?;
        if let Err(error) = done.and_then(|()| disk.backing.grow(&volume, &record, size_bytes)) {
            if disk.backing.length(&volume, &record)? == before {
                volume.write(&as_it_was)?;
            }
            return Err(error);
        }
        record.spec.size_bytes = size_bytes;
        record.resizing = None;
        volume.write(&record)
    }
}
