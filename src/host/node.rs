//! A node: its disks, the volumes on them, and the locks for changes of both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::host::devices::Devices;
use crate::host::disk::Disk;
use crate::host::error::{Error, Result};
use crate::host::locks::Locks;
use crate::host::slot::Slot;
use crate::host::sys::read_only_lock::ReadOnlyLock;
use crate::host::taken;
use crate::host::targets::Targets;
use crate::host::types::{DiskIdentity, DiskReport, HostConfig, Record, SeenDevice, VolumeReport, VolumeUid};
use crate::host::volume::Volume;

/// Time limit for listing a disk's volumes and counting the files of adopted directories.
const LISTING: Duration = Duration::from_secs(120);

/// A node's disks and the volumes on them. See the [module](super) for its guarantees.
pub struct Host {
    slots: Vec<Arc<Slot>>,
    devices: Arc<Devices>,
    pub(super) targets: Targets,
    /// Taken before `volume_locks`.
    pub(super) target_locks: Locks<String>,
    pub(super) volume_locks: Locks<VolumeUid>,
    /// Held while a volume is being sealed. Taken before `volume_locks`.
    pub(super) seal_locks: Locks<VolumeUid>,
    /// Held while a volume adopts a directory, so that two volumes never adopt overlapping directories. Taken after
    /// `volume_locks`.
    pub(super) adoption_lock: Mutex<()>,
    /// `None` where the machine allows no user namespaces.
    pub(super) read_only_lock: Option<ReadOnlyLock>,
}

impl Host {
    /// Starts to serve the disks. Waits up to `lock_timeout` for an earlier agent that still serves one.
    ///
    /// A disk that cannot be served is no error here; [`disks`](Self::disks) reports it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if two disks have one name; an I/O error if `targets_root` does not exist.
    pub fn open(config: HostConfig) -> Result<Self> {
        let mut names: Vec<_> = config.disks.iter().map(|disk| &disk.name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::InvalidArgument(format!("two disks are called {}: rename one", twice[0])));
        }
        let targets = Targets::open(&config.targets_root)?;
        let read_only_lock = ReadOnlyLock::new()
            .inspect_err(|error| tracing::warn!(%error, "read-only mounts are not locked on this node"))
            .ok();
        let devices = Devices::new(config.sysfs);
        let open = |disk| Slot::open(disk, devices.clone(), config.lock_timeout, config.patience);
        let slots = config.disks.into_iter().map(open).collect();
        Ok(Self {
            slots,
            devices,
            targets,
            volume_locks: Locks::new(),
            seal_locks: Locks::new(),
            target_locks: Locks::new(),
            adoption_lock: Mutex::default(),
            read_only_lock,
        })
    }

    /// The present state of every configured disk (D1). The call retries disks that could not be served before.
    pub fn disks(&self) -> Vec<DiskReport> {
        self.slots.iter().map(|slot| slot.report()).collect()
    }

    /// The node's hardware block devices, taken or not (D6).
    pub fn devices(&self) -> Result<Vec<SeenDevice>> {
        let disks: Vec<_> = self.slots.iter().map(|slot| &slot.config).collect();
        taken::seen_devices(&disks, &self.devices)
    }

    /// True while a disk does not answer. Work on the disk may not end before the disk answers.
    pub fn hangs(&self, disk: &str) -> bool {
        self.slot(disk).is_ok_and(|slot| slot.hangs())
    }

    /// The free bytes of each served disk. The call retries no other disk.
    pub fn free(&self) -> Vec<(String, u64)> {
        let free = self.ask_each(Slot::served, Duration::ZERO, |disk| disk.report().free);
        free.into_iter().filter_map(|(disk, free)| Some((disk.name().to_owned(), free.ok()?))).collect()
    }

    /// The identity of the disk in each configured place, expected or not. The call reads and tries nothing else of the
    /// disk (D3).
    pub fn identities(&self) -> BTreeMap<String, Result<DiskIdentity>> {
        self.slots.iter().map(|slot| (slot.config.name.clone(), slot.identity())).collect()
    }

    /// Signs a text with the key on a disk, expected or not; `None` if the disk has no key (A7).
    pub fn sign(&self, disk: &str, text: &str) -> Result<Option<String>> {
        self.slot(disk)?.sign(text)
    }

    /// Sets the ID of the disk that belongs in a slot (D3). Another disk there is reported with its ID and an error,
    /// and its volumes are neither read nor touched. `None`: any disk will do. A disk with another key than the attested
    /// one gets a new key (A7).
    pub fn expect(&self, disk: &str, id: Option<&str>, attested_key: Option<&str>) -> Result<()> {
        self.slot(disk)?.expect(id.map(str::to_owned), attested_key.map(str::to_owned));
        Ok(())
    }

    /// Stops serving a disk for the reason `why`; `None` starts to serve the disk again. The volumes stay untouched
    /// (D4). Pods can still be [unmounted](Self::unpublish).
    pub fn refuse(&self, disk: &str, why: Option<String>) -> Result<()> {
        self.slot(disk)?.refuse(why);
        Ok(())
    }

    /// The record of a volume on a disk, if the volume exists.
    ///
    /// # Errors
    /// The disk is unavailable, or the record is unreadable. In both cases the volume may exist.
    pub fn look(&self, disk: &str, uid: &VolumeUid) -> Result<Option<Record>> {
        self.slot(disk)?.served()?.volume(uid)?.map(|volume| volume.record()).transpose()
    }

    /// True if a disk has the receipt of a volume's erasure (X4).
    pub fn has_receipt(&self, disk: &str, uid: &VolumeUid) -> Result<bool> {
        Ok(self.slot(disk)?.served()?.receipt(uid)?.is_some())
    }

    /// Every volume on the served disks, also volumes with an unreadable record. A volume without an object in
    /// Kubernetes is an orphan (S14, X6).
    pub fn volumes(&self) -> Vec<VolumeReport> {
        let listed = self.ask_each(Slot::served, LISTING, volumes_on);
        let reports = listed.into_iter().flat_map(|(disk, listed)| {
            listed.and_then(|listed| listed).unwrap_or_else(|error| {
                tracing::warn!(disk = disk.name(), %error, "failed to list the volumes of a disk");
                vec![]
            })
        });
        reports.collect()
    }

    /// Finds a volume on the disks.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no disk has the volume and all disks are readable. Otherwise the error of a disk that
    /// may have the volume.
    pub(super) fn find(&self, uid: &VolumeUid) -> Result<(Arc<Disk>, Volume)> {
        let (mut found, mut failed) = (None, None);
        let wanted = uid.clone();
        let volumes = self.ask_each(Slot::served, Duration::ZERO, move |disk| disk.volume(&wanted));
        for (disk, volume) in volumes {
            match volume.and_then(|volume| volume) {
                Ok(None) => {}
                Ok(Some(_)) if found.is_some() => {
                    let reason = "it is on two disks".to_owned();
                    return Err(Error::corrupt(format!("volume {uid}"), reason));
                }
                Ok(Some(volume)) => found = Some((disk, volume)),
                Err(error) => failed = Some(error),
            }
        }
        let absent = || {
            failed
                .or_else(|| self.unserved_disk())
                .unwrap_or_else(|| Error::NotFound(format!("volume {uid}")))
        };
        found.ok_or_else(absent)
    }

    /// Asks each disk that `which` finds. The answer of a hanging disk is an error, and the other disks are asked.
    pub(super) fn ask_each<T: Send + 'static>(
        &self,
        which: fn(&Arc<Slot>) -> Result<Arc<Disk>>,
        takes: Duration,
        question: impl Fn(&Disk) -> T + Clone + Send + 'static,
    ) -> Vec<(Arc<Disk>, Result<T>)> {
        let found = self.slots.iter().filter_map(|slot| Some((slot, which(slot).ok()?)));
        let answer = |(slot, disk): (&Arc<Slot>, Arc<Disk>)| {
            let (asked, question) = (disk.clone(), question.clone());
            let answer = slot.ask(takes, move |_| {
                let answer = question(&asked);
                drop(asked);
                answer
            });
            (disk, answer)
        };
        found.map(answer).collect()
    }

    pub(super) fn slot(&self, disk: &str) -> Result<&Arc<Slot>> {
        let slot = self.slots.iter().find(|slot| slot.config.name == disk);
        slot.ok_or_else(|| Error::NotFound(format!("disk {disk}")))
    }

    pub(super) fn served_disks(&self) -> Vec<Arc<Disk>> {
        self.slots.iter().filter_map(|slot| slot.served().ok()).collect()
    }

    pub(super) fn unserved_disk(&self) -> Option<Error> {
        self.slots.iter().find_map(|slot| slot.served().err())
    }
}

/// Every volume on a disk, with its record and its allocated bytes.
fn volumes_on(disk: &Disk) -> Result<Vec<VolumeReport>> {
    let mut reports = Vec::new();
    for uid in disk.uids()? {
        let (allocated, record) = match disk.volume(&uid) {
            Ok(None) => continue,
            Ok(Some(volume)) => (disk.backing.allocated_bytes(&volume).unwrap_or_default(), volume.record()),
            Err(error) => (0, Err(error)),
        };
        let (disk, disk_id) = (disk.name().to_owned(), disk.id().to_owned());
        reports.push(VolumeReport { disk, disk_id, uid, allocated, record });
    }
    Ok(reports)
}
