//! The life of a volume: creation, fence, erase.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::host::disk::Disk;
use crate::host::error::{Error, Result};
use crate::host::node::Host;
use crate::host::slot::Slot;
use crate::host::types::{
    ErasePolicy, FenceReport, Kept, Receipt, Record, State, Usage, VolumeSpec, VolumeUid,
};
use crate::host::volume::Volume;

impl Host {
    /// Makes a volume: allocated, formatted, ready to be published (V1, V5). The data of a ready volume stays as it
    /// is. Its record gets the new role, reservation and labels, for a later recovery (X6).
    ///
    /// # Errors
    /// [`Error::NoSpace`] and a failed mkfs leave nothing behind. [`Error::Conflict`] if a volume of that UID exists
    /// on another disk, or with another size, filesystem or sharing. The same error if the data to recover belongs to
    /// another role. [`Error::BackingLost`] if the volume was ready and its data is incomplete. After these two
    /// errors nothing has changed.
    pub fn create(&self, disk: &str, spec: &VolumeSpec) -> Result<()> {
        spec.validate()?;
        // Sorted, so that no two callers wait for each other.
        let uids = BTreeSet::from_iter([Some(&spec.uid), spec.recover.as_ref()].into_iter().flatten());
        let _volumes: Vec<_> = uids.into_iter().map(|uid| self.volume_locks.lock(uid)).collect();
        let disk = self.slot(disk)?.served()?;
        let wanted = spec.uid.clone();
        let volumes = self.ask_each(Slot::served, Duration::ZERO, move |disk| disk.volume(&wanted));
        for (other, volume) in volumes.into_iter().filter(|(other, _)| other.name() != disk.name()) {
            // A failed disk does not prevent a creation on another disk, and neither does a disk that is not served.
            if let Ok(Ok(Some(_))) = volume {
                let (uid, disk) = (&spec.uid, other.name());
                return Err(Error::Conflict(format!(
                    "volume {uid} exists on disk {disk}: create another volume"
                )));
            }
        }
        let found = disk.volume(&spec.uid)?.map(|volume| volume.record().map(|record| (volume, record)));
        let found = match (found.transpose()?, &spec.recover) {
            (None, Some(from)) => Some(self.inherit(&disk, from, spec)?),
            (found, _) => found,
        };
        let only_volume = disk.ensure_only_volume(&spec.uid)?;
        let _adoption = match &found {
            Some((_, record)) if record.state != State::Creating => None,
            _ => self.ensure_adoptable(&disk, spec)?,
        };
        let (volume, mut record) = match found {
            Some(found) => found,
            None => {
                disk.ensure_enforcement_tried()?;
                // After a restore of etcd the disk may have an old receipt of this UID. The receipt would be false
                // for the new data.
                disk.remove_receipt(&spec.uid)?;
                (disk.make_volume(&spec.uid)?, Record::new(spec.clone()))
            }
        };
        match record.state {
            State::Ready => update_record(&disk, &volume, record, spec),
            State::Erasing => Err(Error::Fenced(spec.uid.clone())),
            State::Creating if record.fenced => Err(Error::Fenced(spec.uid.clone())),
            State::Creating => {
                // No pod has used the volume yet, so every field of the new spec may differ.
                record.spec = spec.clone();
                volume.write_record(&record)?;
                drop(only_volume);
                make(&disk, &volume, record)
            }
        }
    }

    /// Refuses new users from now on (X2), and reports the remaining ones. The record loses all uses whose mount is
    /// gone. A repeated call reports again.
    pub fn fence(&self, uid: &VolumeUid) -> Result<FenceReport> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        if record.fenced {
            volume.sync_dir()?;
        } else {
            record.fenced = true;
            volume.write_record(&record)?;
        }
        self.drop_unmounted(&disk, &volume, &mut record)?;
        let in_use = disk.backing.in_use(&volume)?;
        Ok(FenceReport { users: record.publishes, in_use })
    }

    /// The claims of which no mount of the volume remains. The record decides, and for an exclusive volume also the
    /// kernel. For a shared volume the kernel does not show which claim a mount belongs to.
    pub fn unmounted(&self, uid: &VolumeUid, mut claims: Vec<String>) -> Result<Vec<String>> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        self.drop_unmounted(&disk, &volume, &mut record)?;
        claims.retain(|claim| !record.publishes.values().any(|published| published.claim_uid == *claim));
        if !claims.is_empty() && !record.spec.shared && disk.backing.in_use(&volume)? {
            claims.clear();
        }
        Ok(claims)
    }

    /// Accepts new users again.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the volume is being erased: an erase cannot be undone.
    pub fn unfence(&self, uid: &VolumeUid) -> Result<()> {
        let _volume = self.volume_locks.lock(uid);
        let (_, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        if record.state == State::Erasing {
            return Err(Error::Fenced(uid.clone()));
        }
        if record.fenced {
            (record.fenced, record.kept) = (false, None);
            volume.write_record(&record)?;
        }
        Ok(())
    }

    /// Notes that a fenced volume without users was destroyed, and that its data is kept (X8). The first note stays. The
    /// data then is that of a volume without an object, until another volume inherits it.
    ///
    /// # Errors
    /// Those of [`erase`](Self::erase), and [`Error::Fenced`] if an erase has begun. After an error nothing has changed.
    pub fn keep(&self, uid: &VolumeUid, kept: Kept) -> Result<()> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        if record.state == State::Erasing {
            return Err(Error::Fenced(uid.clone()));
        }
        ensure_unused(&disk, &volume, &record)?;
        if record.kept.is_some() {
            return volume.sync_dir();
        }
        record.kept = Some(kept);
        volume.write_record(&record)
    }

    /// Erases a fenced volume without users (X3, X4, S10). A repeated call returns the same receipt, until
    /// [`forget`](Self::forget) removes it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no disk has the volume or its receipt; [`Error::NotFenced`]; [`Error::InUse`] if the
    /// volume's record names users; [`Error::Busy`] if the kernel has the volume mounted or open in some mount
    /// namespace; [`Error::Corrupt`] if the record cannot be read or the volume's directory holds a foreign file;
    /// [`Error::DiskUnavailable`] if the volume may be on an unreadable disk. After an error nothing is lost.
    pub fn erase(&self, uid: &VolumeUid, policy: ErasePolicy) -> Result<Receipt> {
        let started = Instant::now();
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = match self.find(uid) {
            Err(absent @ (Error::NotFound(_) | Error::DiskUnavailable { .. } | Error::Io { .. })) => {
                let bytes = self.receipt(uid)?.ok_or(absent)?;
                return Ok(Receipt { bytes, duration: started.elapsed(), policy });
            }
            found => found?,
        };
        let mut record = volume.record()?;
        ensure_unused(&disk, &volume, &record)?;
        volume.ensure_nothing_foreign(&disk.backing.file_names())?;
        if record.state == State::Erasing {
            volume.sync_dir()?;
        } else {
            record.state = State::Erasing;
            volume.write_record(&record)?;
        }
        disk.backing.erase(&volume, &record, policy)?;
        let bytes = if record.spec.adopt.is_some() { 0 } else { record.spec.size_bytes };
        disk.write_receipt(uid, bytes)?;
        disk.remove_volume(&volume)?;
        Ok(Receipt { bytes, duration: started.elapsed(), policy })
    }

    /// Finds the receipt on any disk. An unreadable disk does not hide the receipt on another one.
    fn receipt(&self, uid: &VolumeUid) -> Result<Option<u64>> {
        let (mut failed, uid) = (None, uid.clone());
        for (_, receipt) in self.ask_each(Slot::served, Duration::ZERO, move |disk| disk.receipt(&uid)) {
            match receipt.and_then(|receipt| receipt) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// The erased volumes with a receipt, on all served disks.
    pub fn erased(&self) -> Vec<VolumeUid> {
        let receipts = self.ask_each(Slot::served, Duration::ZERO, Disk::receipts).into_iter();
        receipts.filter_map(|(_, receipts)| receipts.ok()?.ok()).flatten().collect()
    }

    /// Removes the receipt of an erased volume, once its object is gone.
    pub fn forget(&self, uid: &VolumeUid) -> Result<()> {
        let _volume = self.volume_locks.lock(uid);
        let uid = uid.clone();
        let removed = self.ask_each(Slot::served, Duration::ZERO, move |disk| disk.remove_receipt(&uid));
        removed.into_iter().try_for_each(|(_, removed)| removed?)
    }

    /// Bytes and inodes of a volume, mounted or not (M6).
    pub fn usage(&self, uid: &VolumeUid) -> Result<Usage> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let record = volume.record()?;
        if record.state != State::Ready {
            return Err(Error::NotReady(uid.clone()));
        }
        disk.backing.usage(&volume, &record)
    }

    /// The [usage](Self::usage) of a volume that is published at a target, or of the copy of it that is published there for the
    /// claim (E3). For a raw device every path is accepted: the kubelet asks for another path than the target.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the volume is not published at the target.
    pub fn usage_at(&self, uid: &VolumeUid, claim_uid: &str, target: &Path) -> Result<Usage> {
        let absent = || Error::NotFound(format!("volume {uid} at {}", target.display()));
        let key = self.targets.key(target).map_err(|_| absent())?;
        let record = match self.find(uid) {
            Ok((_, volume)) => volume.record()?,
            Err(Error::NotFound(_)) => {
                let (_, copy) = self.owner(&key, None)?.ok_or_else(absent)?;
                let record = self.find(&copy)?.1.record()?;
                let is_of_claim = record.publishes.get(&key).is_some_and(|at| at.claim_uid == claim_uid);
                return if is_of_claim { self.usage(&copy) } else { Err(absent()) };
            }
            Err(error) => return Err(error),
        };
        if !record.spec.raw && !record.publishes.contains_key(&key) {
            return Err(absent());
        }
        self.usage(uid)
    }
}

/// Refuses a volume that has users, or can get some (X3).
fn ensure_unused(disk: &Disk, volume: &Volume, record: &Record) -> Result<()> {
    let uid = &volume.uid;
    if !record.fenced {
        return Err(Error::NotFenced(uid.clone()));
    }
    if !record.publishes.is_empty() {
        return Err(Error::InUse { uid: uid.clone(), holder: record.users() });
    }
    if disk.backing.in_use(volume)? { Err(Error::volume_in_use(uid)) } else { Ok(()) }
}

/// Checks the data of a ready volume, and writes the new spec into its record.
fn update_record(disk: &Disk, volume: &Volume, mut record: Record, spec: &VolumeSpec) -> Result<()> {
    if !record.spec.same_volume(spec) {
        return Err(Error::Conflict(format!(
            "volume {} exists with {} bytes of {}, {}: neither can be changed: create another volume",
            spec.uid,
            record.spec.size_bytes,
            record.spec.fs_type,
            if record.spec.shared { "shared" } else { "exclusive" },
        )));
    }
    disk.backing.check(volume, &record)?;
    if record.spec != *spec {
        record.spec = spec.clone();
        volume.write_record(&record)?;
    }
    Ok(())
}

fn make(disk: &Disk, volume: &Volume, mut record: Record) -> Result<()> {
    if let Err(error) = disk.backing.create(volume, &record) {
        // The backing has removed its files. After a failure some files remain, and the record has to remain with
        // them.
        if let Err(rest) = disk.remove_volume(volume) {
            tracing::info!(volume = record.spec.name, %rest, "an unfinished volume is kept");
        }
        return Err(error);
    }
    record.state = State::Ready;
    volume.write_record(&record)
}
