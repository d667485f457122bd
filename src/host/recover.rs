//! What an agent does when it starts to serve a disk, after whatever happened to the one before (M5).

use super::error::Result;
use super::mounts::Found;
use super::record::Record;
use super::uid::VolumeUid;
use super::{Disk, Host, Recovery, Volume};

impl Host {
    /// Compares every journal with what the kernel has: uses whose mount is gone, as after a reboot, are dropped; mounts
    /// that are there stay untouched, and so does the I/O of the pods that have them; a loop device of ours without a
    /// mount is detached.
    ///
    /// It may be called at any time, also for disks that became available later. Interrupted creations and erasures
    /// go on when they are next asked for.
    pub fn recover(&self) -> Vec<(VolumeUid, Result<Recovery>)> {
        self.volumes()
            .into_iter()
            .map(|report| {
                let recovered = self.recover_volume(&report.uid);
                (report.uid, recovered)
            })
            .collect()
    }

    fn recover_volume(&self, uid: &VolumeUid) -> Result<Recovery> {
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.existing(uid)?;
        let mut record = volume.record()?;
        let dropped = self.drop_unmounted(&disk, &volume, &mut record)?;
        let in_use = disk.backing.release(&volume)?;
        Ok(Recovery { dropped, in_use })
    }

    /// Takes the targets out of the journal at which the volume is not mounted any more. The volume is locked.
    pub(super) fn drop_unmounted(
        &self,
        disk: &Disk,
        volume: &Volume,
        record: &mut Record,
    ) -> Result<Vec<String>> {
        let mut dropped = Vec::new();
        for target in record.publishes.keys() {
            if !self.is_mounted(disk, volume, target)? {
                dropped.push(target.clone());
            }
        }
        if !dropped.is_empty() {
            record.publishes.retain(|target, _| !dropped.contains(target));
            volume.write(record)?;
        }
        Ok(dropped)
    }

    fn is_mounted(&self, disk: &Disk, volume: &Volume, target: &str) -> Result<bool> {
        let Some(target) = self.targets.locate(target)? else { return Ok(false) };
        match target.look()? {
            Found::Missing | Found::Directory(_) | Found::File(_) => Ok(false),
            Found::Mount(mount) => disk.backing.owns(volume, &mount),
        }
    }
}
