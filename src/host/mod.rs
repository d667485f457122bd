//! The disks of a node: volumes made on them, mounted into pods and erased. Blocking Linux code, no Kubernetes in it.
//!
//! # Guarantees
//! - Whatever is done was journalled before, on stable storage; every call can be repeated, also after a crash in the
//!   middle of it (M4). Calls on one volume come one after another, different volumes go on side by side.
//! - A volume that was ready once is never formatted again (V9). A record that cannot be read is an error of that volume
//!   (V10), never taken for absent, and never erased (S14).
//! - What was there before a volume adopted it is never changed nor erased (V8).
//! - Data is erased only when the volume is fenced, nobody is in its journal, and the *kernel* knows of no mount or open
//!   file of it in any mount namespace (X3, S10).
//! - Read-only mounts are read-only before they can be seen (S9); nosuid and nodev are on every mount (V12).
//! - A disk on which no writer is stopped at the size of his volume is not served, unless that is allowed (D5).
//! - Nothing on a disk is looked at that is not the one which was [expected](Host::expect) there (D3); and what is on no
//!   disk is erased only if there is a receipt.
//! - Everything is reached by descriptor beneath a disk or beneath the targets' root, following no symbolic link (M7,
//!   S12); a mount or loop device that is not ours is never touched (M5).
//!
//! # Assumptions
//! - Linux 5.12 or newer, 5.14 for project quota; the privileges to mount and to make loop devices; `/dev`, `/sys` and `/proc` of the machine;
//!   mkfs.ext4 (1.47) and mkfs.xfs; for volume groups LVM (2.03), and the node's `/run/lock/lvm`.
//! - One agent per disk: it is locked, and a second one is refused.
//!
//! # Caveats
//! - A loop device that was ours does not discard any more when it later serves somebody else.
//! - Erasing with [`ErasePolicy::Zero`] overwrites what the filesystem shows; what a flash disk remaps is its own affair.

mod adopt;
mod backing;
mod beneath;
mod btrfs;
mod device;
mod disk;
mod empty;
mod error;
mod filesystem;
mod inherit;
mod inside;
mod inuse;
mod journal;
mod lifecycle;
mod locks;
mod loopdev;
mod loopfile;
mod lvm;
mod mountinfo;
mod mounts;
mod options;
mod program;
mod proof;
mod publish;
mod quota;
mod record;
mod recover;
mod resize;
mod subvol;
mod sys;
mod targets;
mod types;
mod uid;
mod volume_group;
mod wholefs;
mod zero;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use disk::{Disk, Volume};
use locks::Locks;
use targets::Targets;

pub use error::{Error, Result};
pub use filesystem::FsType;
pub use options::MountOption;
pub use record::{Pod, Published, Record, Reserved, State, VolumeSpec};
pub use types::{
    DiskConfig, DiskReport, Enforcement, ErasePolicy, FenceReport, HostConfig, Keeping, Publish, Receipt,
    Recovery, Usage, VolumeReport,
};
pub use uid::VolumeUid;
pub use volume_group::name_of as volume_group_of;

/// A node's disks and the volumes on them. See the [module](self) for what it guarantees.
pub struct Host {
    disks: Vec<Slot>,
    targets: Targets,
    /// Taken before `volume_locks`.
    target_locks: Locks<String>,
    volume_locks: Locks<VolumeUid>,
    /// Held while a volume adopts a directory, so that no two adopt parts of one; taken after `volume_locks`.
    adopting: Mutex<()>,
}

/// A configured disk, served or not.
struct Slot {
    config: DiskConfig,
    serving: Mutex<Serving>,
}

struct Serving {
    disk: Result<Arc<Disk>>,
    /// Identity of the disk that belongs here, once that is known.
    expected: Option<String>,
    /// Why it is not to be served at all, whichever it is.
    refused: Option<String>,
}

impl Host {
    /// Starts to serve the disks, waiting up to `lock_timeout` for an agent that still does.
    ///
    /// A disk that cannot be served is an error of that disk, which [`disks`](Self::disks) reports.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if two disks have one name; an I/O error if `targets_root` is not there.
    pub fn open(config: HostConfig) -> Result<Self> {
        let mut names: Vec<_> = config.disks.iter().map(|disk| &disk.name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::InvalidArgument(format!("two disks are called {}: rename one", twice[0])));
        }
        let targets = Targets::open(&config.targets_root)?;
        let disks = config
            .disks
            .into_iter()
            .map(|disk| Slot {
                serving: Mutex::new(Serving {
                    disk: Disk::open(&disk, config.lock_timeout).map(Arc::new),
                    expected: None,
                    refused: None,
                }),
                config: disk,
            })
            .collect();
        Ok(Self {
            disks,
            targets,
            volume_locks: Locks::new(),
            target_locks: Locks::new(),
            adopting: Mutex::default(),
        })
    }

    /// Every configured disk as it is now (D1). One that could not be served before is tried again.
    pub fn disks(&self) -> Vec<DiskReport> {
        self.disks
            .iter()
            .map(|slot| {
                let found = slot.retry();
                let accepted = slot.get();
                let report = found.as_ref().map_or_else(|_| DiskReport::of(&slot.config), |d| d.report());
                match accepted {
                    Ok(_) => report,
                    Err(error) => DiskReport { error: Some(error.to_string()), ..report },
                }
            })
            .collect()
    }

    /// The bytes that each disk which is served has free now, whoever took the rest. None is tried again for this.
    pub fn free(&self) -> Vec<(String, u64)> {
        self.served().iter().map(|disk| (disk.name().to_owned(), disk.report().free)).collect()
    }

    /// The ID of each configured disk, whether it belongs there or not; nothing else of it is looked at or tried (D3).
    pub fn identities(&self) -> BTreeMap<String, Result<String>> {
        self.disks.iter().map(|slot| (slot.config.name.clone(), slot.identity())).collect()
    }

    /// Says which disk belongs where (D3): another one is reported with its ID and an error, and nothing that it has
    /// is looked at or touched. `None`: any disk will do.
    pub fn expect(&self, disk: &str, id: Option<&str>) -> Result<()> {
        self.slot(disk)?.lock().expected = id.map(str::to_owned);
        Ok(())
    }

    /// Says why what is there is not to be served at all, or with `None` that it may be: what it has is not touched, and
    /// stays (D4). Pods that have some of it mounted still can be [unmounted](Self::unpublish).
    pub fn refuse(&self, disk: &str, why: Option<String>) -> Result<()> {
        self.slot(disk)?.lock().refused = why;
        Ok(())
    }

    /// The journal of a volume on a disk, if there is one.
    ///
    /// # Errors
    /// The disk is unavailable, or the journal cannot be read: neither means that there is none.
    pub fn look(&self, disk: &str, uid: &VolumeUid) -> Result<Option<Record>> {
        self.slot(disk)?.get()?.volume(uid)?.map(|volume| volume.record()).transpose()
    }

    /// Every volume on the disks that are served, whether or not its record can be read. What Kubernetes does not know
    /// of them is an orphan (S14, X6).
    pub fn volumes(&self) -> Vec<VolumeReport> {
        let mut reports = Vec::new();
        for disk in self.served() {
            let uids = match disk.uids() {
                Ok(uids) => uids,
                Err(error) => {
                    tracing::warn!(disk = disk.name(), %error, "cannot list volumes");
                    continue;
                }
            };
            for uid in uids {
                let (allocated, record) = match disk.volume(&uid) {
                    Ok(None) => continue,
                    Ok(Some(volume)) => {
                        (disk.backing.allocated(&volume).unwrap_or_default(), volume.record())
                    }
                    Err(error) => (0, Err(error)),
                };
                reports.push(VolumeReport {
                    disk: disk.name().to_owned(),
                    disk_id: disk.id().to_owned(),
                    uid,
                    allocated,
                    record,
                });
            }
        }
        reports
    }

    /// Finds a volume on the disks.
    ///
    /// # Errors
    /// It is on none, yet a disk is unavailable, or failed: it may be there, and is not taken for absent.
    fn find(&self, uid: &VolumeUid) -> Result<Option<(Arc<Disk>, Volume)>> {
        let (mut found, mut failed) = (None, None);
        for disk in self.served() {
            match disk.volume(uid) {
                Ok(None) => {}
                Ok(Some(_)) if found.is_some() => {
                    let reason = "it is on two disks".to_owned();
                    return Err(Error::Corrupt { what: format!("volume {uid}"), reason });
                }
                Ok(Some(volume)) => found = Some((disk, volume)),
                Err(error) => failed = Some(error),
            }
        }
        match (found, failed.or_else(|| self.unavailable())) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    fn existing(&self, uid: &VolumeUid) -> Result<(Arc<Disk>, Volume)> {
        self.find(uid)?.ok_or_else(|| Error::NotFound(format!("volume {uid}")))
    }

    fn slot(&self, disk: &str) -> Result<&Slot> {
        let slot = self.disks.iter().find(|slot| slot.config.name == disk);
        slot.ok_or_else(|| Error::NotFound(format!("disk {disk}")))
    }

    fn served(&self) -> Vec<Arc<Disk>> {
        self.disks.iter().filter_map(|slot| slot.get().ok()).collect()
    }

    /// The disks that belong where they are, those that are refused among them.
    fn right(&self) -> Vec<Arc<Disk>> {
        self.disks.iter().filter_map(|slot| slot.lock().right().ok()).collect()
    }

    fn unavailable(&self) -> Option<Error> {
        self.disks.iter().find_map(|slot| slot.get().err())
    }
}

impl Slot {
    fn get(&self) -> Result<Arc<Disk>> {
        self.lock().accepted()
    }

    fn identity(&self) -> Result<String> {
        let mut serving = self.lock();
        if serving.disk.is_err() {
            serving.disk = Disk::open(&self.config, Duration::ZERO).map(Arc::new);
        }
        serving.disk.as_ref().map(|disk| disk.id().to_owned()).map_err(Error::clone)
    }

    /// What is there, be it the right disk or not; looks anew unless it is the right one.
    fn retry(&self) -> Result<Arc<Disk>> {
        let mut serving = self.lock();
        // One that failed since is let go, too: it could not be unmounted, and mounted again, otherwise.
        match serving.accepted().and_then(|disk| disk.uids().map(|_| disk)) {
            // What comes of it is known from then on.
            Ok(disk) => drop(disk.ensure_enforced(true)),
            Err(refused) => {
                // Let go of first: it may be the very same disk that is opened again.
                serving.disk = Err(refused);
                serving.disk = Disk::open(&self.config, Duration::ZERO).map(Arc::new);
            }
        }
        serving.disk.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serving {
    fn accepted(&self) -> Result<Arc<Disk>> {
        let disk = self.disk.clone()?;
        match &self.refused {
            Some(why) => Err(Error::DiskUnavailable { disk: disk.name().to_owned(), reason: why.clone() }),
            None => self.right(),
        }
    }

    /// The disk, if it is the one that belongs here, be it refused or not.
    fn right(&self) -> Result<Arc<Disk>> {
        let disk = self.disk.clone()?;
        match &self.expected {
            Some(expected) if expected != disk.id() => Err(Error::DiskUnavailable {
                disk: disk.name().to_owned(),
                reason: format!("it is another one (ID {}) than belongs here (ID {expected})", disk.id()),
            }),
            // Last: nothing is tried on a disk that does not belong here.
            _ => disk.ensure_enforced(false).map(|()| disk),
        }
    }
}
