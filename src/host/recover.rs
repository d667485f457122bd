//! Compares the records of volumes with the kernel's mounts, when an agent starts (M5).

use crate::host::disk::Disk;
use crate::host::error::Result;
use crate::host::node::Host;
use crate::host::sys::Found;
use crate::host::types::{Record, Recovery, VolumeUid};
use crate::host::volume::Volume;

impl Host {
    /// Compares every record with the kernel's mounts. The record loses uses whose mount is gone, as after a reboot.
    /// Mounts and the I/O of their pods stay untouched. A loop device of Reservoir without a mount is detached.
    ///
    /// The call is safe at any time, also for disks that became available later. Interrupted creations and erases
    /// continue with their next request.
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
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        let dropped = self.drop_unmounted(&disk, &volume, &mut record)?;
        let in_use = disk.backing.in_use(&volume)?;
        Ok(Recovery { dropped, in_use })
    }

    /// Removes the targets without a mount of the volume from the record. The caller has locked the volume.
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
            volume.write_record(record)?;
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
