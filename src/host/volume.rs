//! The open directory of one volume.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::AtFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::error::{Context, Error, Result};
use crate::host::layout::{MANIFEST, NEW_MANIFEST, RECORD};
use crate::host::sys::{atomic_file, dirfd};
use crate::host::types::{Record, VolumeUid};

pub(super) struct Volume {
    pub(super) uid: VolumeUid,
    /// Name of the disk, for messages.
    pub(super) disk: String,
    pub(super) dir: OwnedFd,
}

impl Volume {
    /// Reads the record; a missing record is an error.
    ///
    /// A reader without the volume's lock can see a half-written file. So only a lasting defect is an error.
    pub(super) fn record(&self) -> Result<Record> {
        let mut found = self.read_record();
        for _ in 0..3 {
            match found {
                Err(Error::Corrupt { .. }) => found = self.read_record(),
                _ => break,
            }
        }
        found
    }

    fn read_record(&self) -> Result<Record> {
        let missing = || Error::corrupt(format!("volume {}", self.uid), format!("its {RECORD} is missing"));
        let bytes = atomic_file::read(self.dir.as_fd(), RECORD)?.ok_or_else(missing)?;
        Record::parse(&self.uid, &bytes)
    }

    /// Writes the record. After the call the record is on stable storage.
    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        atomic_file::exchange(self.dir.as_fd(), RECORD, &record.to_bytes()?)
    }

    /// Reads a note of the backing beside the record.
    pub(super) fn note<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        atomic_file::read_json(self.dir.as_fd(), name, || format!("{name} of volume {}", self.uid))
    }

    /// Writes a note. After the call the note is on stable storage.
    pub(super) fn write_note(&self, name: &str, note: &impl Serialize) -> Result<()> {
        atomic_file::replace_json(self.dir.as_fd(), name, note)
    }

    /// Synchronizes the directory. An earlier agent may have been killed before the synchronization after a write.
    pub(super) fn sync_dir(&self) -> Result<()> {
        rustix::fs::fsync(&self.dir).context(|| format!("synchronize the directory of volume {}", self.uid))
    }

    /// Opens a directory of the backing. `None` if the directory is missing, or mounted over.
    pub(super) fn open_dir(&self, name: &str) -> Result<Option<OwnedFd>> {
        dirfd::unless_missing(dirfd::open_dir(&self.dir, name))
            .context(|| format!("open {name} of volume {}", self.uid))
    }

    /// The error of a volume that was ready once and has lost data.
    pub(super) fn lost(&self, reason: impl Into<String>) -> Error {
        Error::BackingLost { uid: self.uid.clone(), reason: reason.into() }
    }

    pub(super) fn ensure_free(&self, needed: u64, available: u64) -> Result<()> {
        match needed > available {
            true => Err(Error::NoSpace { disk: self.disk.clone(), needed, available }),
            false => Ok(()),
        }
    }

    /// Refuses to erase a volume with a foreign file: neither record nor manifest, and no file of the backing.
    pub(super) fn ensure_nothing_foreign(&self, of_backing: &[&str]) -> Result<()> {
        let ours = |name: &OsStr| is_agents(name) || of_backing.iter().any(|known| name == *known);
        match self.names()?.iter().find(|name| !ours(name)) {
            None => Ok(()),
            Some(name) => {
                let what = format!("the directory of volume {}", self.uid);
                Err(Error::corrupt(what, format!("{name:?} in it is not ours: move it away")))
            }
        }
    }

    /// Removes files of the backing for good, if they exist.
    pub(super) fn remove_files(&self, names: &[&str]) -> Result<()> {
        for name in names {
            dirfd::remove(&self.dir, name, AtFlags::empty()).context(|| format!("remove {name}"))?;
        }
        self.sync_dir()
    }

    /// Removes the manifest and the record, which is the last file of the volume.
    pub(super) fn remove_record(&self) -> Result<()> {
        if let Some(name) = self.names()?.iter().find(|name| !is_agents(name)) {
            let reason = format!("{name:?} is in its directory: move it away");
            return Err(Error::corrupt(format!("the rest of volume {}", self.uid), reason));
        }
        self.remove_files(&[NEW_MANIFEST, MANIFEST, &atomic_file::temporary(RECORD), RECORD])
    }

    /// False for a directory with at most an unfinished record, as a crash leaves at the beginning or end of a
    /// volume.
    pub(super) fn exists(&self) -> Result<bool> {
        Ok(self.names()?.iter().any(|name| *name != *atomic_file::temporary(RECORD)))
    }

    fn names(&self) -> Result<Vec<OsString>> {
        dirfd::names(&self.dir).context(|| format!("list the directory of volume {}", self.uid))
    }
}

/// True for a file that a volume of any backing may have.
fn is_agents(name: &OsStr) -> bool {
    [RECORD, &atomic_file::temporary(RECORD), MANIFEST, NEW_MANIFEST].iter().any(|known| name == *known)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::*;

    /// M4, V10. A reader holds no lock, so a writer may overwrite the file during the read.
    #[test]
    fn v10_a_record_that_is_being_replaced_is_not_damaged() {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let uid: VolumeUid = "00112233-4455-4677-8899-aabbccddeeff".parse().unwrap();
        let dir = || std::fs::File::open(temp.path()).unwrap().into();
        let volume = || Volume { uid: uid.clone(), disk: "d".to_owned(), dir: dir() };
        let record = |label: usize| {
            let text = json!({"version": 1, "uid": uid, "name": "a", "role": "r", "reservation": "r", "fsType": "ext4",
                "sizeBytes": 1, "shared": true, "state": "Ready", "labels": {"a": "x".repeat(label)}});
            Record::parse(&uid, text.to_string().as_bytes()).unwrap()
        };
        let (short, long) = (record(1), record(12_000));
        volume().write_record(&short).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..8_000 {
                    volume().write_record(if i % 3 == 0 { &short } else { &long }).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut wrong = 0;
            while !done.load(Ordering::Relaxed) {
                wrong += u32::from(!volume().record().is_ok_and(|found| found == short || found == long));
            }
            assert_eq!(wrong, 0);
        });
    }
}
