//! A volume's life: made, fenced, erased.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use super::disk::Disk;
use super::error::{Error, Result};
use super::record::{Record, State};
use super::uid::VolumeUid;
use super::{ErasePolicy, FenceReport, Host, Receipt, Usage, Volume, VolumeSpec};

impl Host {
    /// Makes a volume: allocated, formatted, ready to be published (V1, V5). What is ready already is left as it is,
    /// except that role, reservation, labels and so on are brought up to date; they are there for X6.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and a failed mkfs leave nothing behind. [`Error::Conflict`] if a volume of that UID exists with
    /// another size, filesystem, sharing or on another disk, or the data that it is to recover is
    /// another's; [`Error::BackingLost`] if it was ready and its data is not
    /// whole; neither changes anything.
    pub fn create(&self, disk: &str, spec: &VolumeSpec) -> Result<()> {
        spec.validate()?;
        // In one order, so that no two wait for each other.
        let uids = BTreeSet::from_iter([Some(&spec.uid), spec.recover.as_ref()].into_iter().flatten());
        let _volumes: Vec<_> = uids.into_iter().map(|uid| self.volume_locks.lock(uid)).collect();
        let disk = self.slot(disk)?.get()?;
        let elsewhere = |other: &Disk| other.name() != disk.name();
        for other in self.served().into_iter().filter(|other| elsewhere(other)) {
            // One that failed is no more in the way than one that is not served.
            if let Ok(Some(_)) = other.volume(&spec.uid) {
                return Err(Error::Conflict(format!("volume {} exists on disk {}", spec.uid, other.name())));
            }
        }
        let found = disk.volume(&spec.uid)?.map(|volume| volume.record().map(|record| (volume, record)));
        let found = match (found.transpose()?, &spec.recover) {
            (None, Some(from)) => Some(self.inherit(&disk, from, spec)?),
            (found, _) => found,
        };
        let alone = disk.alone(&spec.uid)?;
        let _adopting = match &found {
            Some((_, record)) if record.state != State::Creating => None,
            _ => self.adopting(&disk, spec)?,
        };
        let (volume, mut record) = match found {
            Some(found) => found,
            None => {
                disk.ensure_tried()?;
                (disk.make(&spec.uid)?, Record::new(spec.clone()))
            }
        };
        match record.state {
            State::Ready => self.keep(&disk, &volume, record, spec),
            State::Erasing => Err(Error::Fenced(spec.uid.clone())),
            State::Creating if record.fenced => Err(Error::Fenced(spec.uid.clone())),
            State::Creating => {
                // It was never usable, so the wish may have changed since.
                record.spec = spec.clone();
                volume.write(&record)?;
                drop(alone);
                make(&disk, &volume, record)
            }
        }
    }

    /// Brings the record of a ready volume up to date, and looks whether its data is there.
    fn keep(&self, disk: &Disk, volume: &Volume, mut record: Record, spec: &VolumeSpec) -> Result<()> {
        if !record.spec.same_volume(spec) {
            return Err(Error::Conflict(format!(
                "volume {} exists with {} bytes of {}, {}: neither can be changed by creating it again",
                spec.uid,
                record.spec.size_bytes,
                record.spec.fs_type,
                if record.spec.shared { "shared" } else { "exclusive" },
            )));
        }
        disk.backing.check(volume, &record)?;
        if record.spec != *spec {
            record.spec = spec.clone();
            volume.write(&record)?;
        }
        Ok(())
    }

    /// Refuses new users from now on (X2), and says who is left: uses whose mount is gone are dropped from the journal. May be repeated, to see whether they are gone.
    pub fn fence(&self, uid: &VolumeUid) -> Result<FenceReport> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.existing(uid)?;
        let mut record = volume.record()?;
        if record.fenced {
            volume.settle()?;
        } else {
            record.fenced = true;
            volume.write(&record)?;
        }
        self.drop_unmounted(&disk, &volume, &mut record)?;
        let in_use = disk.backing.release(&volume)?;
        Ok(FenceReport { users: record.publishes, in_use })
    }

    /// Lets users come again.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it is being erased: there is no way back.
    pub fn unfence(&self, uid: &VolumeUid) -> Result<()> {
        let _volume = self.volume_locks.lock(uid);
        let (_, volume) = self.existing(uid)?;
        let mut record = volume.record()?;
        if record.state == State::Erasing {
            return Err(Error::Fenced(uid.clone()));
        }
        if record.fenced {
            record.fenced = false;
            volume.write(&record)?;
        }
        Ok(())
    }

    /// Erases a volume that is fenced and that nobody uses (X3, X4, S10). For one that is erased already the receipt is
    /// the same, until it is [forgotten](Self::forget).
    ///
    /// # Errors
    /// [`Error::NotFound`] if no disk has it or a receipt of it; [`Error::NotFenced`]; [`Error::InUse`] if the journal names users; [`Error::Busy`] if the kernel still has it
    /// mounted or open, in whatever mount namespace; [`Error::Corrupt`] if its record cannot be read or something foreign
    /// is in its directory; [`Error::DiskUnavailable`] if it may be on a disk that cannot be read. In all of these
    /// nothing is lost.
    pub fn erase(&self, uid: &VolumeUid, policy: ErasePolicy) -> Result<Receipt> {
        let started = Instant::now();
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = match self.existing(uid) {
            Err(absent @ (Error::NotFound(_) | Error::DiskUnavailable { .. } | Error::Io { .. })) => {
                let bytes = self.receipt(uid)?.ok_or(absent)?;
                return Ok(Receipt { bytes, duration: started.elapsed(), policy });
            }
            found => found?,
        };
        let mut record = volume.record()?;
        if !record.fenced {
            return Err(Error::NotFenced(uid.clone()));
        }
        if !record.publishes.is_empty() {
            return Err(Error::InUse { uid: uid.clone(), holder: record.users() });
        }
        if disk.backing.release(&volume)? {
            return Err(busy(uid));
        }
        volume.ensure_nothing_foreign(&*disk.backing)?;
        if record.state == State::Erasing {
            volume.settle()?;
        } else {
            record.state = State::Erasing;
            volume.write(&record)?;
        }
        disk.backing.erase(&volume, &record, policy)?;
        let bytes = if record.spec.adopt.is_some() { 0 } else { record.spec.size_bytes };
        disk.write_receipt(uid, bytes)?;
        disk.remove(&volume)?;
        Ok(Receipt { bytes, duration: started.elapsed(), policy })
    }

    /// Whichever disk has it: one that cannot be read keeps no other from being asked.
    fn receipt(&self, uid: &VolumeUid) -> Result<Option<u64>> {
        let mut failed = None;
        for disk in self.served() {
            match disk.receipt(uid) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// The volumes that were erased and are not forgotten, on the disks that are served.
    pub fn erased(&self) -> Vec<VolumeUid> {
        self.served().iter().flat_map(|disk| disk.receipts().unwrap_or_default()).collect()
    }

    /// Forgets that a volume was erased: nobody will ask for it again.
    pub fn forget(&self, uid: &VolumeUid) -> Result<()> {
        let _volume = self.volume_locks.lock(uid);
        let each: Vec<_> = self.served().iter().map(|disk| disk.forget_receipt(uid)).collect();
        each.into_iter().collect()
    }

    /// Bytes and inodes of a volume, mounted or not (M6).
    pub fn usage(&self, uid: &VolumeUid) -> Result<Usage> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.existing(uid)?;
        let record = volume.record()?;
        if record.state != State::Ready {
            return Err(Error::NotReady(uid.clone()));
        }
        disk.backing.usage(&volume, &record)
    }

    /// The same, of a volume that is published at a target. Of a raw device the kubelet asks for another path than the one
    /// at which it wanted it, so there any will do.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not published there.
    pub fn usage_at(&self, uid: &VolumeUid, target: &Path) -> Result<Usage> {
        let absent = || Error::NotFound(format!("volume {uid} at {}", target.display()));
        let key = self.targets.key(target).map_err(|_| absent())?;
        let (_, volume) = self.existing(uid)?;
        let record = volume.record()?;
        if !record.spec.raw && !record.publishes.contains_key(&key) {
            return Err(absent());
        }
        self.usage(uid)
    }
}

/// What the kernel says when the journal knows of no user.
pub(super) fn busy(uid: &VolumeUid) -> Error {
    Error::Busy { what: format!("volume {uid}, which is still mounted or open in some mount namespace,") }
}

fn make(disk: &Disk, volume: &Volume, mut record: Record) -> Result<()> {
    if let Err(error) = disk.backing.create(volume, &record) {
        // The backing left nothing, unless it found something: then it stays, and so does the record.
        if let Err(kept) = disk.remove(volume) {
            tracing::info!(volume = %volume.uid, %kept, "an unfinished volume is kept");
        }
        return Err(error);
    }
    record.state = State::Ready;
    volume.write(&record)
}
