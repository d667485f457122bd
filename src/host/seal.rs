//! Seals volumes: no writer any more, a manifest of the files, and its digest in the record (E1).
//!
//! The record refuses writers first. Then the filesystem itself becomes read-only where the backing can, and the files are
//! read without the volume's lock, so that readers come and go meanwhile. The manifest is on stable storage before the
//! record has its digest. An agent that ends in between begins anew.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::host::error::{Context, Error, Result};
use crate::host::manifests::{compare, put_in_place, write_manifest};
use crate::host::node::Host;
use crate::host::sys::dirfd;
use crate::host::types::{Content, Pace, Pod, Published, Record, Seal, State, VolumeUid};

impl Host {
    /// Refuses new writers of a volume from now on. Returns the pods that still have the volume mounted for writing. A
    /// repeated call reports again.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a raw device and for an adopted directory; [`Error::NotReady`]; [`Error::Fenced`].
    pub fn refuse_writers(&self, uid: &VolumeUid) -> Result<Vec<Pod>> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        ensure_sealable(&record)?;
        if record.seal.is_none() {
            record.seal = Some(Seal::default());
            volume.write_record(&record)?;
        } else {
            volume.sync_dir()?;
        }
        self.drop_unmounted(&disk, &volume, &mut record)?;
        Ok(pods(record, |by| !by.read_only))
    }

    /// Accepts writers again, and returns the pods that came meanwhile, and stay readers. A sealed volume stays sealed. A
    /// repeated call returns them again.
    pub fn admit_writers(&self, uid: &VolumeUid) -> Result<Vec<Pod>> {
        let _sealing = self.seal_locks.lock(uid);
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        match record.seal.take() {
            Some(Seal { content: Some(_), .. }) => return Ok(vec![]),
            Some(Seal { content: None, .. }) => {
                // Also without a note of it in the record: an agent may have ended before it wrote that.
                if disk.backing.seals_filesystem() {
                    disk.backing.set_read_only(&volume, &record, false)?;
                }
                volume.write_record(&record)?;
            }
            None => {}
        }
        self.drop_unmounted(&disk, &volume, &mut record)?;
        Ok(pods(record, |by| by.by_seal))
    }

    /// Seals a volume whose writers are [refused](Self::refuse_writers) and gone. A sealed volume is reported again. `stop`
    /// ends the work early.
    ///
    /// # Errors
    /// [`Error::Unsealable`] names the file that forbids the seal. [`Error::InUse`] and [`Error::Busy`] if the volume still
    /// has a writer: a pod in its record, or any process. [`Error::Stopped`]. After an error the volume is not sealed, and
    /// admits no writer.
    pub fn seal(&self, uid: &VolumeUid, stop: &AtomicBool) -> Result<Content> {
        let _sealing = self.seal_locks.lock(uid);
        self.seal_locked(uid, stop, None)
    }

    /// Seals a volume, with the lock for that. Of a copy, the files have to be those of the digest.
    pub(super) fn seal_locked(
        &self,
        uid: &VolumeUid,
        stop: &AtomicBool,
        digest: Option<&str>,
    ) -> Result<Content> {
        let (volume, mount) = {
            let _volume = self.volume_locks.lock(uid);
            let (disk, volume) = self.find(uid)?;
            let mut record = volume.record()?;
            ensure_sealable(&record)?;
            match &record.seal {
                None => return Err(Error::Stopped),
                Some(Seal { content: Some(content), .. }) => {
                    let content = content.clone();
                    volume.sync_dir()?;
                    return Ok(content);
                }
                Some(Seal { content: None, .. }) => {}
            }
            self.drop_unmounted(&disk, &volume, &mut record)?;
            if record.publishes.values().any(|by| !by.read_only) {
                return Err(Error::InUse { uid: uid.clone(), holder: record.users() });
            }
            let written = || Error::Busy {
                what: format!(
                    "volume {uid}, which a process has mounted writable, or has a file of open for writing,"
                ),
            };
            if disk.backing.has_writers(&volume)? {
                return Err(written());
            }
            if disk.backing.seals_filesystem() {
                record.seal = Some(Seal { filesystem_read_only: true, content: None });
                disk.backing.set_read_only(&volume, &record, true).map_err(|error| match error {
                    Error::Io { source: Errno::BUSY, .. } => written(),
                    error => error,
                })?;
                volume.write_record(&record)?;
            }
            let mount = disk.backing.mount(&volume, &record, true)?;
            (volume, mount)
        };
        rustix::fs::syncfs(&dirfd::open_dir(&mount, ".").context(|| "open the volume's root")?)
            .context(|| "synchronize the volume")?;
        let content = write_manifest(&volume, &mount, Pace::full(stop))?;
        if let Some(digest) = digest.filter(|digest| **digest != content.digest) {
            return Err(Error::Differs(compare(&volume, digest)?.first.join(", ")));
        }
        let _volume = self.volume_locks.lock(uid);
        let (_, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        ensure_sealable(&record)?;
        match &mut record.seal {
            Some(seal) if !stop.load(Ordering::Relaxed) => seal.content = Some(content.clone()),
            _ => return Err(Error::Stopped),
        }
        put_in_place(&volume)?;
        volume.write_record(&record)?;
        Ok(content)
    }

    /// True for a volume whose filesystem itself is read-only, and on a device that refuses writes. So no mount of it can be
    /// made writable, not even by a container with CAP_SYS_ADMIN, which could make the filesystem writable again.
    pub fn refuses_writes(&self, uid: &VolumeUid) -> Result<bool> {
        let (disk, volume) = self.find(uid)?;
        Ok(volume.record()?.is_filesystem_read_only() && disk.backing.refuses_writes(&volume)?)
    }
}

/// The pods of these uses, each once.
fn pods(record: Record, which: impl Fn(&Published) -> bool) -> Vec<Pod> {
    let mut pods: Vec<Pod> = record.publishes.into_values().filter(which).map(|by| by.pod).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    pods.dedup();
    pods
}

/// Refuses a volume that has no files, or whose files others may change.
pub(super) fn ensure_sealable(record: &Record) -> Result<()> {
    let uid = &record.spec.uid;
    if record.spec.raw {
        return Err(Error::InvalidArgument(format!(
            "volume {uid} is a raw device, which has no files to seal"
        )));
    }
    if record.spec.adopt.is_some() {
        return Err(Error::InvalidArgument(format!(
            "volume {uid} is an adopted directory, in which others may write: copy it into another volume, and seal that"
        )));
    }
    match record.state {
        State::Creating => Err(Error::NotReady(uid.clone())),
        State::Ready if !record.fenced => Ok(()),
        State::Ready | State::Erasing => Err(Error::Fenced(uid.clone())),
    }
}
