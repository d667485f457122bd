//! Volumes into pods, and out again.

use std::path::Path;
use std::sync::Arc;

use serde_json::Map;

use super::error::{Error, Result};
use super::lifecycle::busy;
use super::mounts::{Found, Target};
use super::record::{Published, Record, State};
use super::uid::VolumeUid;
use super::{Disk, Host, Publish, Volume};

/// How many mounts unpublish takes off one target before it gives up.
const MAX_STACKED: usize = 16;

impl Host {
    /// Mounts a volume at a target for a pod (M1–M4). What is mounted there already, in the same way for the same pod, is
    /// left alone, also when the volume has been fenced since.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::NotReady`], [`Error::BackingLost`]; [`Error::InUse`] or, if only the kernel knows by
    /// whom, [`Error::Busy`] for an exclusive volume that another pod has (M2); [`Error::Conflict`] if a file, a symbolic
    /// link, another mount or the other mode is at the target; [`Error::InvalidArgument`] if it is not a plain path
    /// beneath the targets' root. Nothing is mounted then.
    pub fn publish(&self, request: &Publish) -> Result<()> {
        let uid = &request.uid;
        let key = self.targets.key(&request.target)?;
        let _target = self.target_locks.lock(&key);
        let _volume = self.volume_locks.lock(uid);
        let (disk, volume) = self.existing(uid)?;
        let mut record = volume.record()?;
        let target = self.targets.locate(&key)?.ok_or_else(|| {
            Error::InvalidArgument(format!("the directory in which target {key} would be does not exist"))
        })?;
        let found = target.look()?;
        if let Found::Mount(mount) = &found {
            if !disk.backing.owns(&volume, mount)? {
                return Err(Error::Conflict(format!(
                    "something else is mounted at target {key}: unmount it"
                )));
            }
            let known = record.publishes.get(&key).filter(|known| known.pod.uid == request.pod.uid);
            let same_mode = |published: &Published| published.read_only == request.read_only;
            if mount.read_only != request.read_only || !known.is_none_or(same_mode) {
                return Err(Error::Conflict(format!(
                    "volume {uid} is published at {key} in the other mode: unpublish it first"
                )));
            }
            if known.is_some() {
                return Ok(());
            }
        }
        admit(&record, request)?;
        let raw = record.spec.raw;
        match &found {
            Found::File(_) if !raw => return Err(target.is_wrongly("not a directory")),
            Found::Directory(_) if raw => return Err(target.is_wrongly("a directory")),
            _ => {}
        }
        let first = record.publishes.is_empty();
        if !record.spec.shared && first && disk.backing.release(&volume)? {
            // A pod that was deleted by force may still have it: its mounts outlive the journal (S6).
            return Err(busy(uid));
        }
        let entry = Published {
            pod: request.pod.clone(),
            claim_uid: request.claim_uid.clone(),
            read_only: request.read_only,
            extra: Map::new(),
        };
        record.publishes.insert(key.clone(), entry);
        volume.write(&record)?;
        if matches!(found, Found::Mount(_)) {
            return Ok(());
        }
        let mounted = disk
            .backing
            .mount(&volume, &record, request.read_only)
            .and_then(|mount| target.attach(&mount, raw));
        if mounted.is_err() {
            withdraw(&volume, record, &target, &found);
        }
        mounted
    }

    /// Unmounts what was published at a target and removes the target (M4). That nothing is there any more is fine. Of a
    /// disk that is [refused](Self::refuse) it is unmounted too, and else nothing is touched: whose journal still has
    /// the target is found out when the disk is served again.
    ///
    /// # Errors
    /// [`Error::Busy`] while somebody works in that very mount: it stays mounted and published. [`Error::Conflict`] if
    /// what is there is not ours.
    pub fn unpublish(&self, target: &Path) -> Result<()> {
        self.unpublish_likely(target, None)
    }

    /// The same, knowing which volume is probably there: if it is, no other one's journal has to be read.
    pub fn unpublish_likely(&self, target: &Path, likely: Option<&VolumeUid>) -> Result<()> {
        let key = self.targets.key(target)?;
        // A publish that came before, and still waits for its volume, is waited for: nothing would unmount what it mounts.
        let _target = self.target_locks.lock(&key);
        let Some((disk, uid)) = self.owner(&key, likely)? else {
            return match self.targets.locate(&key)? {
                None => Ok(()),
                Some(target) => match target.look()? {
                    Found::Mount(_) => Err(self.unavailable().unwrap_or_else(|| {
                        Error::Conflict(format!(
                            "what is mounted at target {key} is not a volume: unmount it"
                        ))
                    })),
                    Found::Missing | Found::Directory(_) | Found::File(_) => target.remove(),
                },
            };
        };
        let _volume = self.volume_locks.lock(&uid);
        let volume = disk.volume(&uid)?.ok_or_else(|| Error::NotFound(format!("volume {uid}")))?;
        if let Some(target) = self.targets.locate(&key)? {
            clear(&disk, &volume, &target)?;
        }
        if self.slot(disk.name())?.get().is_err() {
            return Ok(());
        }
        let mut record = match volume.record() {
            Ok(record) => record,
            // A damaged record must not keep a pod from ending.
            Err(Error::Corrupt { .. } | Error::Unsupported(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        match record.publishes.remove(&key) {
            Some(_) => volume.write(&record),
            None => Ok(()),
        }
    }

    /// The volume that is, or should be, at a target, and its disk: by the journals, or by the mount that is there.
    fn owner(&self, key: &str, likely: Option<&VolumeUid>) -> Result<Option<(Arc<Disk>, VolumeUid)>> {
        let has = |volume: &Volume| volume.record().is_ok_and(|record| record.publishes.contains_key(key));
        let disks = self.right();
        if let Some(uid) = likely {
            for disk in &disks {
                if disk.volume(uid).is_ok_and(|volume| volume.as_ref().is_some_and(has)) {
                    return Ok(Some((disk.clone(), uid.clone())));
                }
            }
        }
        let (mut volumes, mut failed) = (Vec::new(), None);
        for disk in disks {
            let uids = disk.uids().unwrap_or_else(|error| {
                failed = Some(error);
                vec![]
            });
            for uid in uids {
                let Ok(Some(volume)) = disk.volume(&uid) else { continue };
                if has(&volume) {
                    return Ok(Some((disk, uid)));
                }
                volumes.push((disk.clone(), volume));
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

/// Whether the journal lets a new user in.
fn admit(record: &Record, request: &Publish) -> Result<()> {
    let uid = request.uid.clone();
    if record.fenced || record.state == State::Erasing {
        return Err(Error::Fenced(uid));
    }
    if record.state != State::Ready {
        return Err(Error::NotReady(uid));
    }
    if record.spec.raw && request.read_only {
        // The kernel lets a device be written through a read-only mount of its node.
        return Err(Error::InvalidArgument(format!(
            "volume {uid} is a raw device, which cannot be read-only for one pod: claim it with mode ReadWrite"
        )));
    }
    let others = record.publishes.values().any(|published| published.pod.uid != request.pod.uid);
    if !record.spec.shared && others {
        return Err(Error::InUse { uid, holder: record.users() });
    }
    Ok(())
}

/// Takes every mount of this volume off a target, normally the one that there is (S16), and removes the target.
fn clear(disk: &Disk, volume: &Volume, target: &Target) -> Result<()> {
    for _ in 0..MAX_STACKED {
        match target.look()? {
            Found::Missing => return Ok(()),
            Found::Directory(_) | Found::File(_) => return target.remove(),
            Found::Mount(mount) if disk.backing.owns(volume, &mount)? => target.unmount()?,
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

/// Takes a publish back that could not be kept. If that fails too, unpublish or the next start does it.
fn withdraw(volume: &Volume, mut record: Record, target: &Target, before: &Found) {
    record.publishes.remove(&target.path);
    let withdrawn = volume.write(&record).and_then(|()| match before {
        Found::Missing => target.remove(),
        Found::Directory(_) | Found::File(_) | Found::Mount(_) => Ok(()),
    });
    if let Err(error) = withdrawn {
        tracing::warn!(volume = %volume.uid, target = target.path, %error, "a failed publish is still in the journal");
    }
}
