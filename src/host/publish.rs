//! Mounts volumes into pods, and unmounts them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, StatVfsMountFlags};
use serde_json::Map;

use crate::host::disk::Disk;
use crate::host::error::{Context, Error, Result};
use crate::host::node::Host;
use crate::host::slot::Slot;
use crate::host::sys::{Found, Target, dirfd, filesystem};
use crate::host::types::{Pod, Published, Record, State, VolumeUid};
use crate::host::volume::Volume;

/// The most mounts that unpublish removes from one target.
const MAX_STACKED: usize = 16;

/// The request to mount a volume for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The volume.
    pub uid: VolumeUid,
    /// The digest of the content that the pod is to read: of a copy of the volume that its claim is bound to (E3). `None`: any
    /// content.
    pub digest: Option<String>,
    /// An absolute path beneath [`HostConfig::targets_root`](super::HostConfig::targets_root), whose parent exists.
    pub target: PathBuf,
    /// The pod may only read (M3).
    pub read_only: bool,
    /// The pod may only read because of the volume's seal, and its claim is for writing (E1).
    pub by_seal: bool,
    /// The pod.
    pub pod: Pod,
    /// UID of the pod's claim.
    pub claim_uid: String,
    /// Other pods of the claim may use the volume at the same time. Pods of other claims may do so too if the volume is
    /// shared.
    pub with_others: bool,
    /// The container runtime makes a read-only mount writable, and must not fail to. Only the mount of a volume that [refuses
    /// writes](Host::refuses_writes) is left to it.
    pub unlocked: bool,
}

impl Host {
    /// Mounts a volume at a target for a pod (M1–M4). A repeated call changes nothing, also after a fence of the
    /// volume.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::NotReady`] (also for another content than that of the digest), [`Error::BackingLost`]; [`Error::Sealed`] for a new writer; [`Error::Held`] for an exclusive volume that
    /// another pod uses (M2), or [`Error::Busy`] if the record names no such pod and the kernel has the volume
    /// mounted or open; [`Error::Conflict`] if the target has a file, a symbolic link, another mount, or a mount of
    /// the other mode; [`Error::InvalidArgument`] if the target is not a plain path beneath the targets' root. After
    /// an error nothing is mounted.
    pub fn publish(&self, request: &Publish) -> Result<()> {
        let uid = &request.uid;
        let key = self.targets.key(&request.target)?;
        let _target = self.target_locks.lock(&key);
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.find(uid)?;
        let mut record = volume.record()?;
        let target = self
            .targets
            .locate(&key)?
            .ok_or_else(|| Error::InvalidArgument(format!("the directory of target {key} does not exist")))?;
        let found = target.look()?;
        if let Found::Mount(mount) = &found {
            if !disk.backing.owns(&volume, mount)? {
                return Err(Error::Conflict(format!(
                    "something else is mounted at target {key}: unmount it"
                )));
            }
            let known = record.publishes.get(&key).filter(|known| known.pod.uid == request.pod.uid);
            // A writer of before stays one while its volume waits to be sealed, and a reader of that time stays one after the
            // seal was taken back: the kernel lets nobody make its mount writable (E1).
            let read_only = match known {
                Some(known) if record.seal.is_some() && request.read_only => known.read_only,
                Some(known) if known.by_seal => known.read_only,
                _ => request.read_only,
            };
            let same_mode = |published: &Published| published.read_only == read_only;
            if mount.read_only != read_only || !known.is_none_or(same_mode) {
                return Err(Error::Conflict(format!(
                    "volume {uid} is published at {key} in the other mode: unpublish it first"
                )));
            }
            if known.is_some() {
                return Ok(());
            }
        }
        ensure_admitted(&record, request)?;
        let raw = record.spec.raw;
        match &found {
            Found::File(_) if !raw => return Err(target.obstructed_by("not a directory")),
            Found::Directory(_) if raw => return Err(target.obstructed_by("a directory")),
            _ => {}
        }
        let first = record.publishes.is_empty();
        if !record.spec.shared && first && disk.backing.in_use(&volume)? {
            // After a forced deletion of a pod its containers may still have mounts, and no record names them (S6).
            return Err(Error::volume_in_use(uid));
        }
        let entry = Published {
            pod: request.pod.clone(),
            claim_uid: request.claim_uid.clone(),
            read_only: request.read_only,
            by_seal: request.by_seal,
            extra: Map::new(),
        };
        record.publishes.insert(key.clone(), entry);
        volume.write_record(&record)?;
        if matches!(found, Found::Mount(_)) {
            return Ok(());
        }
        let mounted = disk
            .backing
            .mount(&volume, &record, request.read_only)
            .and_then(|mount| match &self.read_only_lock {
                Some(lock) if request.read_only => {
                    let may_be_writable = request.unlocked
                        && record.is_filesystem_read_only()
                        && disk.backing.refuses_writes(&volume)?;
                    if may_be_writable { Ok(mount) } else { lock.lock(&mount) }
                }
                _ => Ok(mount),
            })
            .and_then(|mount| target.attach(&mount, raw));
        if mounted.is_err() {
            undo_publish(&volume, record, &target, &found);
        }
        mounted
    }

    /// Unmounts and removes a target, if it exists (M4). On a [refused](Self::refuse) disk the record keeps the
    /// target until the disk is served again.
    ///
    /// # Errors
    /// [`Error::Busy`] while the mount is in use: the target stays mounted and published. [`Error::Conflict`] if
    /// something else is mounted at the target.
    pub fn unpublish(&self, target: &Path) -> Result<()> {
        self.unpublish_likely(target, None)
    }

    /// [Unpublishes](Self::unpublish) a target. `likely` is a guess at the volume; a right guess saves reading other
    /// records.
    pub fn unpublish_likely(&self, target: &Path, likely: Option<&VolumeUid>) -> Result<()> {
        let key = self.targets.key(target)?;
        // An earlier publish of the target may still wait for its volume. Without this lock nothing would unmount its
        // later mount.
        let _target = self.target_locks.lock(&key);
        let Some((disk, uid)) = self.owner(&key, likely)? else {
            return match self.targets.locate(&key)? {
                None => Ok(()),
                Some(target) => match target.look()? {
                    Found::Mount(_) => Err(self.unserved_disk().unwrap_or_else(|| {
                        Error::Conflict(format!(
                            "what is mounted at target {key} is no volume of a disk in the agent's configuration: put the disk \
                             back into agent.disks of the chart, and the pod ends; or unmount it on the node"
                        ))
                    })),
                    Found::Missing | Found::Directory(_) | Found::File(_) => target.remove(),
                },
            };
        };
        let _volume = self.volume_locks.lock(&uid);
        let volume = disk.volume(&uid)?.ok_or_else(|| Error::NotFound(format!("volume {uid}")))?;
        if let Some(target) = self.targets.locate(&key)? {
            remove_mounts(&disk, &volume, &target)?;
        }
        if self.slot(disk.name())?.served().is_err() {
            return Ok(());
        }
        let mut record = match volume.record() {
            Ok(record) => record,
            // A damaged record must not keep a pod from ending.
            Err(Error::Corrupt { .. } | Error::RecordTooNew { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match record.publishes.remove(&key) {
            Some(_) => volume.write_record(&record),
            None => Ok(()),
        }
    }

    /// The first of these volumes that is published at a target, by its record.
    pub fn published_at(&self, uids: &[VolumeUid], target: &Path) -> Option<VolumeUid> {
        let key = self.targets.key(target).ok()?;
        let record = |uid: &VolumeUid| self.find(uid).and_then(|(_, volume)| volume.record());
        let has = |uid: &&VolumeUid| record(uid).is_ok_and(|record| record.publishes.contains_key(&key));
        uids.iter().find(has).cloned()
    }

    /// True if mounts of readers are locked by the kernel, so that no container runtime makes them writable.
    pub fn locks_read_only(&self) -> bool {
        self.read_only_lock.is_some()
    }

    /// True if a read-only mount is at a path beneath the targets' root.
    pub fn is_read_only(&self, path: &Path) -> bool {
        let flags = || {
            let key = self.targets.key(path).ok()?;
            let target = self.targets.locate(&key).ok()??;
            let file = dirfd::open(&target.parent, &target.name, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
            rustix::fs::fstatvfs(file).ok()
        };
        flags().is_some_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Finds the volume of a target, and its disk: by the records, or else by the mount.
    pub(super) fn owner(
        &self,
        key: &str,
        likely: Option<&VolumeUid>,
    ) -> Result<Option<(Arc<Disk>, VolumeUid)>> {
        let wanted = key.to_owned();
        let has =
            move |volume: &Volume| volume.record().is_ok_and(|record| record.publishes.contains_key(&wanted));
        if let Some(uid) = likely {
            let (guess, has) = (uid.clone(), has.clone());
            let is_on =
                move |disk: &Disk| disk.volume(&guess).is_ok_and(|volume| volume.is_some_and(|v| has(&v)));
            let found = self.ask_each(Slot::expected, Duration::ZERO, is_on);
            if let Some((disk, _)) = found.into_iter().find(|(_, is_on)| *is_on == Ok(true)) {
                return Ok(Some((disk, uid.clone())));
            }
        }
        // Each disk returns the volume that has the target, or all its volumes.
        let look = move |disk: &Disk| {
            let mut volumes = Vec::new();
            for uid in disk.uids()? {
                let Ok(Some(volume)) = disk.volume(&uid) else { continue };
                if has(&volume) {
                    return Ok((true, vec![volume]));
                }
                volumes.push(volume);
            }
            Ok((false, volumes))
        };
        let (mut volumes, mut failed) = (Vec::new(), None);
        for (disk, found) in self.ask_each(Slot::expected, Duration::ZERO, look) {
            match found.and_then(|found| found) {
                Ok((true, found)) => return Ok(found.into_iter().next().map(|volume| (disk, volume.uid))),
                Ok((false, found)) => volumes.extend(found.into_iter().map(|volume| (disk.clone(), volume))),
                Err(error) => failed = Some(error),
            }
        }
        let Some(target) = self.targets.locate(key)? else { return Ok(None) };
        let Found::Mount(mount) = target.look()? else { return Ok(None) };
        for (disk, volume) in volumes {
            match disk.backing.owns(&volume, &mount) {
                Ok(false) => {}
                Ok(true) => return Ok(Some((disk, volume.uid))),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

/// Refuses a user that the volume's record does not admit.
fn ensure_admitted(record: &Record, request: &Publish) -> Result<()> {
    let uid = request.uid.clone();
    if record.fenced || record.state == State::Erasing {
        return Err(Error::Fenced(uid));
    }
    if record.state != State::Ready {
        return Err(Error::NotReady(uid));
    }
    if record.seal.is_some() && !request.read_only {
        return Err(Error::Sealed(uid));
    }
    // Nobody reads a half copy, whatever the API server was told of it.
    let content = record.seal.as_ref().and_then(|seal| seal.content.as_ref());
    if let Some(wanted) = &request.digest
        && content.is_none_or(|content| content.digest != *wanted)
    {
        return Err(Error::NotReady(uid));
    }
    if record.spec.raw && request.read_only {
        // The kernel allows writes to a device through a read-only mount of its node.
        return Err(Error::InvalidArgument(format!(
            "volume {uid} is a raw device, which cannot be read-only for one pod: claim it with mode ReadWrite"
        )));
    }
    let tolerates = |other: &Published| {
        let of_same_claim = other.claim_uid == request.claim_uid;
        other.pod.uid == request.pod.uid || record.spec.shared || request.with_others && of_same_claim
    };
    match record.publishes.values().all(tolerates) {
        true => Ok(()),
        false => Err(Error::Held { uid, holder: record.users() }),
    }
}

/// Unmounts this volume from a target, normally once (S16), and removes the target.
fn remove_mounts(disk: &Disk, volume: &Volume, target: &Target) -> Result<()> {
    for _ in 0..MAX_STACKED {
        match target.look()? {
            Found::Missing => return Ok(()),
            Found::Directory(_) | Found::File(_) => return target.remove(),
            Found::Mount(mount) if disk.backing.owns(volume, &mount)? => {
                thaw(disk, volume, target);
                target.unmount()?;
            }
            Found::Mount(_) => {
                let what = format!("what is mounted at target {} is not volume {}", target.path, volume.uid);
                return Err(Error::Conflict(format!("{what}: unmount it")));
            }
        }
    }
    Err(Error::Busy {
        what: format!("target {}, on which something is mounted again and again,", target.path),
    })
}

/// Ends a freeze of the volume's own filesystem (FIFREEZE), which a container with CAP_SYS_ADMIN can leave behind. A freeze
/// outlives all mounts, hangs every writer, and keeps the volume in use for ever. The filesystem of a whole disk is not
/// touched: a backup of the node may have frozen it.
fn thaw(disk: &Disk, volume: &Volume, target: &Target) {
    let thaw = || {
        if !disk.backing.has_own_filesystem(volume)? {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let root = dirfd::open(&target.parent, &target.name, flags).context(|| "open the volume's root")?;
        filesystem::thaw(root)
    };
    match thaw() {
        Ok(false) => {}
        Ok(true) => {
            tracing::warn!(volume = %volume.uid, target = target.path, "a pod froze the volume; it is thawed")
        }
        Err(error) => {
            tracing::warn!(volume = %volume.uid, target = target.path, %error, "the volume may be frozen")
        }
    }
}

/// Takes a failed publish out of the record. After a failure here, unpublish or the agent's next start does so.
fn undo_publish(volume: &Volume, mut record: Record, target: &Target, before: &Found) {
    record.publishes.remove(&target.path);
    let undone = volume.write_record(&record).and_then(|()| match before {
        Found::Missing => target.remove(),
        Found::Directory(_) | Found::File(_) | Found::Mount(_) => Ok(()),
    });
    if let Err(error) = undone {
        tracing::warn!(
            volume = record.spec.name,
            target = target.path,
            %error,
            "a failed publish is still in the volume's record"
        );
    }
}
