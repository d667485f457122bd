//! A disk: a directory with an identity and volumes, which one agent at a time serves. The directory of a raw device
//! is in the agent's state directory. The directory of a volume group is on a logical volume of its own.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, RenameFlags, StatVfsMountFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::host::backings::backing::{Backing, Opened};
use crate::host::backings::open;
use crate::host::devices::Devices;
use crate::host::disk_key::DiskKey;
use crate::host::enforcement;
use crate::host::error::{Context, Error, Result};
use crate::host::layout::{IDENTITY, RECEIPTS, VOLUMES};
use crate::host::sys::{Device, Place, atomic_file, dirfd, mounts, random_uuid};
use crate::host::taken;
use crate::host::types::{BackingKind, DiskConfig, DiskIdentity, DiskReport, Enforcement, VolumeUid};
use crate::host::volume::Volume;

const LOCK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Disk {
    pub(super) config: DiskConfig,
    id: String,
    /// The key on the disk; `None`: the disk has none yet.
    key: Mutex<Option<DiskKey>>,
    volumes: OwnedFd,
    receipts: OwnedFd,
    pub(super) backing: Box<dyn Backing>,
    /// The result of the trial of size limits, once there was one (D5).
    enforcement: Mutex<Option<Enforcement>>,
    /// Held during the trial of size limits.
    trying: Mutex<()>,
    /// Held while an undivided disk gets its volume.
    creating: Mutex<()>,
    /// The disk's directory. Its lock ends with the process.
    root: OwnedFd,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    id: String,
    /// The kind of the disk's backing, which never changes.
    #[serde(default, rename = "keeping")]
    backing: BackingKind,
    /// The private key of the disk (A7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The disk's NodeDisk has had the public key, signed with the key. From then on no NodeDisk without such a signature
    /// is the disk's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    attested: bool,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Erased {
    bytes: u64,
}

impl Disk {
    /// Starts to serve a disk. Waits up to `wait` for another agent that serves the disk: this agent may be its
    /// replacement.
    pub(super) fn open(config: &DiskConfig, devices: &Arc<Devices>, wait: Duration) -> Result<Self> {
        Self::serve(config, devices, wait).map_err(|error| match error {
            Error::DiskUnavailable { .. } => error,
            error => Error::DiskUnavailable { disk: config.name.clone(), reason: error.to_string() },
        })
    }

    fn serve(config: &DiskConfig, devices: &Arc<Devices>, wait: Duration) -> Result<Self> {
        if let Some(reason) = config.wrong.clone() {
            return Err(Error::DiskUnavailable { disk: config.name.clone(), reason });
        }
        if config.require_mount {
            ensure_mounted(&config.path)?;
        }
        if config.make_directory {
            make_directory(&config.path)?;
        }
        let config = &found(config, devices)?;
        let Opened { root, backing } = open::open(config)?;
        lock(&root, config, wait)?;
        let Identity { id, key, attested, .. } = identify(&root, config)?;
        let key = key.map(|key| DiskKey::parse(&key, attested)).transpose()?;
        for name in [VOLUMES, RECEIPTS] {
            dirfd::make_dir(&root, name, Mode::RWXU).context(|| format!("make the directory of {name}"))?;
        }
        rustix::fs::fsync(&root).context(|| "synchronize the disk's directory")?;
        let open = |name| dirfd::open_dir(&root, name).context(|| format!("open the directory of {name}"));
        let (volumes, receipts) = (open(VOLUMES)?, open(RECEIPTS)?);
        let (config, enforcement) = (config.clone(), Mutex::default());
        let (trying, creating) = (Mutex::default(), Mutex::default());
        let key = Mutex::new(key);
        Ok(Self { config, id, key, volumes, receipts, backing, enforcement, trying, creating, root })
    }

    /// Refuses a disk that does not enforce sizes, unless the configuration allows that (D5). The first call tries
    /// the enforcement. With `again`, a later call repeats a trial for which the disk had no space.
    pub(super) fn ensure_enforced(&self, again: bool) -> Result<()> {
        let has_to_try = || match self.enforcement() {
            None => true,
            known => again && known == Some(Enforcement::Untried),
        };
        if has_to_try() {
            let _trying = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
            if has_to_try() {
                let found = enforcement::prove(self.name(), &self.id, &self.root, &*self.backing);
                *self.enforcement.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            }
        }
        match self.enforcement() {
            Some(Enforcement::Broken(how)) if !self.config.allow_unenforced => Err(Error::DiskUnavailable {
                disk: self.name().to_owned(),
                reason: format!(
                    "it does not enforce the size of volumes: {how}; put that right, or set allowUnenforced on the agent's \
                     disk"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Refuses to make a volume on a disk that had no space for the trial of its size limits.
    pub(super) fn ensure_enforcement_tried(&self) -> Result<()> {
        self.ensure_enforced(true)?;
        match self.enforcement() {
            Some(Enforcement::Untried) => Err(Error::NoSpace {
                disk: self.name().to_owned(),
                needed: enforcement::NEEDED,
                available: self.backing.space(self.root.as_fd())?.free,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn place(&self) -> Result<Place> {
        match self.config.backing {
            // The records are on a detached mount, so this place has no mount point.
            BackingKind::Lvm => Ok(Place { device: Device::of(&self.root)?, path: "/".into() }),
            _ => mounts::place(&self.root),
        }
    }

    /// True if the result of [`ensure_enforced`](Self::ensure_enforced) is known, so that a call does not access the
    /// disk.
    pub(super) fn is_tried(&self) -> bool {
        self.enforcement().is_some()
    }

    fn enforcement(&self) -> Option<Enforcement> {
        self.enforcement.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn identity(&self) -> DiskIdentity {
        let key = self.key();
        let attested_key = key.as_ref().filter(|key| key.attested).map(|key| key.public.clone());
        DiskIdentity { id: self.id.clone(), attested_key, path: self.config.path.clone() }
    }

    /// The public key of the disk. A disk whose key is not the attested one has moved: the new key makes worthless what an
    /// earlier node has read or signed.
    pub(super) fn public_key(&self, attested: Option<&str>) -> Result<String> {
        let mut present = self.key();
        match &mut *present {
            Some(key) if Some(&*key.public) == attested => {
                if !key.attested {
                    self.change_identity(|identity| identity.attested = true)?;
                    key.attested = true;
                }
                return Ok(key.public.clone());
            }
            Some(key) if key.is_new => return Ok(key.public.clone()),
            _ => {}
        }
        let (key, stored) = DiskKey::make()?;
        self.change_identity(|identity| (identity.key, identity.attested) = (Some(stored), false))?;
        Ok(present.insert(key).public.clone())
    }

    fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<()> {
        let mut identity = identity(&self.root)?.ok_or_else(|| Error::corrupt(IDENTITY, "it is gone"))?;
        change(&mut identity);
        atomic_file::replace_json(self.root.as_fd(), IDENTITY, &identity)
    }

    /// Signs a text with the key on the disk; `None` if the disk has no key yet.
    pub(super) fn sign(&self, text: &str) -> Option<String> {
        self.key().as_ref().map(|key| key.sign(text))
    }

    fn key(&self) -> MutexGuard<'_, Option<DiskKey>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self) -> DiskReport {
        let mut report = DiskReport::of(&self.config);
        report.id = Some(self.id.clone());
        report.enforcement = self.enforcement();
        // statvfs(2) succeeds even on a filesystem that has shut itself down; a listing does not.
        match self
            .uids()
            .and_then(|_| self.ensure_writable())
            .and_then(|()| self.backing.space(self.root.as_fd()))
        {
            Ok(space) => {
                report.capacity = self.config.capacity.map_or(space.total, |most| most.min(space.total));
                let share =
                    u128::from(report.capacity) * u128::from(self.config.system_reserved_percent) / 100;
                report.system_reserved += share as u64;
                report.allocatable = report.capacity.saturating_sub(report.system_reserved);
                report.free = space.free;
            }
            Err(error) => report.error = Some(error.to_string()),
        }
        report
    }

    /// A file system turns read-only at its first damage, and by a container with CAP_SYS_ADMIN whose volume is a part of it.
    fn ensure_writable(&self) -> Result<()> {
        let stat = rustix::fs::fstatvfs(&self.root).context(|| "look at the disk's file system")?;
        match stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
            true => Err(Error::unsuitable_disk(
                &self.config.path,
                "is on a file system that has become read-only: see the kernel's log, repair the file system if it is damaged, \
                 and remount it writable",
            )),
            false => Ok(()),
        }
    }

    /// The UIDs of all volumes, and of leftover directories of volumes. Directories with other names were not made by
    /// an agent.
    pub(super) fn uids(&self) -> Result<Vec<VolumeUid>> {
        uids_in(&self.volumes).context(|| format!("list the volumes of disk {}", self.name()))
    }

    /// Opens a volume. `None` if the volume does not exist. An unreadable volume counts as existing.
    pub(super) fn volume(&self, uid: &VolumeUid) -> Result<Option<Volume>> {
        let dir = dirfd::unless_missing(dirfd::open_dir(&self.volumes, uid.as_str()))
            .context(|| format!("open the directory of volume {uid}"))?;
        let Some(dir) = dir else { return Ok(None) };
        let volume = Volume { uid: uid.clone(), disk: self.name().to_owned(), dir };
        Ok(volume.exists()?.then_some(volume))
    }

    /// Refuses a second volume on an undivided disk (D2), whatever the ledgers say. The caller holds the guard until
    /// the volume has its record.
    pub(super) fn ensure_only_volume(&self, uid: &VolumeUid) -> Result<Option<MutexGuard<'_, ()>>> {
        if !self.backing.is_undivided() {
            return Ok(None);
        }
        let creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        for other in self.uids()?.iter().filter(|other| *other != uid) {
            if self.volume(other)?.is_some() {
                let name = self.name();
                return Err(Error::Conflict(format!(
                    "disk {name} is handed out whole, and volume {other} has it: use another disk"
                )));
            }
        }
        Ok(Some(creating))
    }

    /// Makes the directory of a volume. The volume does not exist before it has a record.
    pub(super) fn make_volume(&self, uid: &VolumeUid) -> Result<Volume> {
        let made = dirfd::make_dir(&self.volumes, uid.as_str(), Mode::RWXU);
        if made.is_err_and(|errno| errno == Errno::NOSPC)
            && rustix::fs::fstatvfs(&self.volumes).is_ok_and(|stat| stat.f_files > 0 && stat.f_favail == 0)
        {
            return Err(Error::Unsupported(format!(
                "the file system of disk {} has no free inode, so no volume can be made: remove files that are not Reservoir's, where \
                 `df -i` shows it",
                self.name()
            )));
        }
        made.and_then(|_| rustix::fs::fsync(&self.volumes))
            .context(|| format!("make the directory of volume {uid}"))?;
        let dir = dirfd::open_dir(&self.volumes, uid.as_str())
            .context(|| format!("open the directory of volume {uid}"))?;
        Ok(Volume { uid: uid.clone(), disk: self.name().to_owned(), dir })
    }

    /// Gives the directory of a volume another UID, for good. Fails if a directory of that UID exists.
    pub(super) fn rename_volume(&self, from: &VolumeUid, to: &VolumeUid) -> Result<()> {
        let volumes = &self.volumes;
        rustix::fs::renameat_with(volumes, from.as_str(), volumes, to.as_str(), RenameFlags::NOREPLACE)
            .and_then(|()| rustix::fs::fsync(volumes))
            .context(|| format!("give the directory of volume {from} to volume {to}"))
    }

    /// Removes the files of a volume whose data is gone. The record goes last, so that the agent knows the volume
    /// until the end.
    pub(super) fn remove_volume(&self, volume: &Volume) -> Result<()> {
        volume.remove_record()?;
        dirfd::remove(&self.volumes, volume.uid.as_str(), AtFlags::REMOVEDIR)
            .and_then(|()| rustix::fs::fsync(&self.volumes))
            .context(|| format!("remove volume {}", volume.uid))
    }

    /// Notes that the data of a volume is gone. From then on the record may go: a repeated erase returns the same
    /// receipt.
    pub(super) fn write_receipt(&self, uid: &VolumeUid, bytes: u64) -> Result<()> {
        atomic_file::replace_json(self.receipts.as_fd(), uid.as_str(), &Erased { bytes })
    }

    /// The bytes that the volume gave back, if this disk has its receipt.
    pub(super) fn receipt(&self, uid: &VolumeUid) -> Result<Option<u64>> {
        let what = || format!("the receipt of volume {uid}");
        let erased: Option<Erased> = atomic_file::read_json(self.receipts.as_fd(), uid.as_str(), what)?;
        Ok(erased.map(|erased| erased.bytes))
    }

    pub(super) fn receipts(&self) -> Result<Vec<VolumeUid>> {
        uids_in(&self.receipts).context(|| format!("list the receipts of disk {}", self.name()))
    }

    pub(super) fn remove_receipt(&self, uid: &VolumeUid) -> Result<()> {
        dirfd::remove(&self.receipts, uid.as_str(), AtFlags::empty())
            .context(|| format!("remove the receipt of volume {uid}"))
    }
}

/// The configuration with the devices that are found now.
fn found(config: &DiskConfig, devices: &Arc<Devices>) -> Result<DiskConfig> {
    let mut config = config.clone();
    if let Some(find) = &config.find {
        config.devices = taken::devices_of(&config, find, devices)?;
    }
    match (config.backing, config.devices.first(), &config.state) {
        (BackingKind::Block, Some(device), _) => config.path = device.clone(),
        (BackingKind::Lvm, None, Some(state)) => {
            config.foreign_devices.extend(taken::taken_devices(state, devices)?);
        }
        _ => {}
    }
    Ok(config)
}

/// Refuses a directory without a mount of its own: beneath the mount point of a missing disk is the node's root file
/// system, which pods must not fill.
fn ensure_mounted(path: &Path) -> Result<()> {
    if mounts::has_own_mount(path)? {
        return Ok(());
    }
    let above = path.parent().unwrap_or(path).display();
    Err(Error::unsuitable_disk(
        path,
        format!(
            "has no file system of its own, neither mounted there nor at {above}: mount the disk, or set requireMount: \
             false on the agent's disk if the disk is a part of the node's file system on purpose"
        ),
    ))
}

/// Makes the disk's own directory. A missing directory above is a missing mount.
fn make_directory(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).context(|| format!("make directory {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn uids_in(directory: &OwnedFd) -> rustix::io::Result<Vec<VolumeUid>> {
    Ok(dirfd::names(directory)?.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Keeps two agents from serving one disk: an old agent may still be ending while a new one starts. Between fork and
/// exec a child process of the agent holds a copy of the lock, too.
fn lock(root: &OwnedFd, config: &DiskConfig, wait: Duration) -> Result<()> {
    let deadline = Instant::now() + wait.max(LOCK_INTERVAL);
    loop {
        match rustix::fs::flock(root, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_INTERVAL),
            Err(Errno::WOULDBLOCK) => {
                let reason = format!(
                    "another agent, or another disk of this one, has {}: wait for the end of that agent, or give this disk \
                         another path",
                    config.path.display()
                );
                return Err(Error::DiskUnavailable { disk: config.name.clone(), reason });
            }
            Err(error) => return Err(error).context(|| "lock the disk"),
        }
    }
}

/// Reads the disk's ID; a new disk gets one. A damaged identity is an error: with a new identity all volumes on the
/// disk would lose their owner.
fn identity(root: &OwnedFd) -> Result<Option<Identity>> {
    atomic_file::read_json(root.as_fd(), IDENTITY, || IDENTITY.to_owned())
}

fn identify(root: &OwnedFd, config: &DiskConfig) -> Result<Identity> {
    let corrupt = |reason: String| Error::corrupt(config.path.join(IDENTITY).display().to_string(), reason);
    if let Some(identity) = identity(root)? {
        identity.id.parse::<VolumeUid>().map_err(|error| corrupt(error.to_string()))?;
        if identity.backing != config.backing {
            let (before, now) = (identity.backing, config.backing);
            let reason = format!(
                "was taken over with backing {before:?}, which cannot become {now:?}: configure it as it was"
            );
            return Err(Error::UnsuitableDisk { path: config.path.clone(), reason });
        }
        return Ok(identity);
    }
    let has_volumes =
        dirfd::open_dir(root, VOLUMES).and_then(dirfd::names).is_ok_and(|names| !names.is_empty());
    if has_volumes {
        let reason = format!(
            "it is missing although there are volumes; it has {{\"id\": \"…\", \"keeping\": \"{:?}\"}} with spec.diskID of the disk's \
             NodeDisk",
            config.backing
        );
        return Err(corrupt(reason));
    }
    let id = random_uuid()?.to_string();
    let identity = Identity { id, backing: config.backing, key: None, attested: false, extra: Map::new() };
    atomic_file::replace_json(root.as_fd(), IDENTITY, &identity)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// D3: disks of an earlier version call the backing `keeping`.
    #[test]
    fn d3_the_backing_of_a_disk_is_called_keeping() {
        let stored = json!({"id": "x", "keeping": "Btrfs", "later": 1});
        let identity: Identity = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(identity.backing, BackingKind::Btrfs);
        assert_eq!(serde_json::to_value(&identity).unwrap(), stored);
    }
}
