//! Backing `Btrfs`: a subvolume per volume, limited by the kernel's own count. Pods have the bare filesystem.
//!
//! # Guarantees
//! - The limit belongs to a [group](crate::host::sys::btrfs_subvolumes), which holds the volume's subvolume and every
//!   subvolume that pods make in it. Beyond the limit a writer gets EDQUOT.
//! - The disk is a filesystem without other users. A volume gets a limit only if all bytes that volumes may still
//!   take are free. A share is held back for the filesystem's own trees. So a volume's bytes are available although
//!   they are not allocated in advance (V5).
//! - New files are overwritten in place (`nodatacow`). With copy-on-write a full volume could not even be
//!   overwritten, and databases would be slow.
//!
//! # Caveats
//! - A pod can make the kernel count a subvolume elsewhere, but no tool does so by itself. The agent corrects the
//!   count within a second. Until then the pod's bytes come from the trees' share, or count against another volume.
//! - `cp --reflink` shares bytes between volumes. The bytes stay counted for the volume that wrote them, and the
//!   erase of that volume waits for the end of the copy. The kernel offers no way to forbid or to charge the copy.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{IFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use crate::host::backings::backing::{Backing, Commit, DiskSpace, Opened};
use crate::host::error::{Context, Error, Result};
use crate::host::layout::IDENTITY;
use crate::host::sys::btrfs_subvolumes::{Counting, Filesystem, Group, TOP_LEVEL, UNLIMITED};
use crate::host::sys::{
    Device, Mount, Uses, atomic_file, dirfd, filesystem, in_use, loop_device, mounts, syscalls,
};
use crate::host::types::{DiskConfig, ErasePolicy, FsType, Record, Usage};
use crate::host::volume::Volume;

const DATA: &str = "data";
/// The name of a subvolume that is being made. A crash leaves nothing worth keeping under this name.
const UNFINISHED: &str = "data.new";
const NOTE: &str = "subvolume.json";
const UNFINISHED_NOTE: &str = "subvolume.json.new";

const MISSING: &str = "its subvolume is missing";

const MAGIC: u64 = 0x9123_683e;

/// The share of a disk that is held back for its own trees: one part in `TREE_SHARE`.
const TREE_SHARE: u64 = 16;

/// Time between two searches for subvolumes outside their volumes' limits.
const INTERVAL: Duration = Duration::from_secs(1);

struct Btrfs {
    path: PathBuf,
    fs: Arc<Filesystem>,
    device: Device,
    /// Volumes without a limit are allowed (D5).
    allow_unenforced: bool,
    /// Held while a volume gets its limit.
    limiting: Mutex<()>,
    /// The thread that corrects the groups of subvolumes ends when this sender is dropped.
    _corrector: Sender<()>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    id: u64,
}

/// Opens the filesystem; refuses a subdirectory, foreign files, and a btrfs without simple quotas.
pub(super) fn open(config: &DiskConfig) -> Result<Opened> {
    let path = config.path.display();
    let refuse = |reason: &str| Err(Error::unsuitable_disk(&config.path, reason));
    in_use::ensure_processes_visible()?;
    let root = dirfd::open_configured(&config.path)?;
    if rustix::fs::fstatfs(&root).context(|| format!("look at {path}"))?.f_type as u64 != MAGIC {
        return refuse("is not on btrfs: mount one there, or use backing Loop");
    }
    let Some(mount) = mounts::rooted_at(&root)?.filter(|mount| mount.root.as_os_str() == "/") else {
        return refuse("is not where the top level of a btrfs is mounted: mount one there with subvolid=5");
    };
    let fs = Arc::new(Filesystem::open(&root)?);
    if Filesystem::number(&root)? != TOP_LEVEL {
        return refuse("is a subvolume: mount the top level of the btrfs there, with subvolid=5");
    }
    let names = dirfd::names(&root).context(|| format!("list {path}"))?;
    let ours = names.iter().any(|name| name == IDENTITY);
    let unfinished = atomic_file::temporary(IDENTITY);
    if !ours && names.iter().any(|name| *name != *unfinished) {
        return refuse("holds files, which would take space from volumes: give Reservoir a btrfs of its own");
    }
    match fs.counting()? {
        Counting::Simple => {}
        // On a disk with volumes the kernel would not count existing bytes. The agent tries the enforcement of limits
        // later.
        Counting::Off if !ours => fs.enable_counting()?,
        Counting::Off => {}
        Counting::Full => {
            return refuse(
                "has full quotas, which a snapshot in a volume can put out of action: switch them off (btrfs quota disable)",
            );
        }
    }
    let backing = Btrfs {
        path: config.path.clone(),
        device: mount.device,
        allow_unenforced: config.allow_unenforced,
        limiting: Mutex::default(),
        _corrector: start_corrector(fs.clone(), config.name.clone())?,
        fs,
    };
    Ok(Opened { root, backing: Box::new(backing) })
}

/// Starts the thread that corrects the groups of subvolumes, until the result is dropped.
fn start_corrector(fs: Arc<Filesystem>, disk: String) -> Result<Sender<()>> {
    let (end, ended) = channel();
    let correct = move || {
        let (mut known, mut logged) = (BTreeSet::new(), None);
        while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let failed = fs.correct_groups(&mut known).err().map(|error| error.to_string());
            if let Some(error) = failed.as_ref().filter(|_| failed != logged) {
                tracing::warn!(disk, error, "cannot put subvolumes into the limits of their volumes");
            }
            logged = failed;
        }
    };
    let started = std::thread::Builder::new().name("subvolumes".to_owned()).spawn(correct);
    started.context(|| "start the thread that corrects groups of subvolumes")?;
    Ok(end)
}

impl Btrfs {
    fn is_counted(&self) -> Result<bool> {
        match self.fs.counting()? {
            Counting::Simple => Ok(true),
            _ if self.allow_unenforced => Ok(false),
            _ => Err(Error::unsuitable_disk(
                &self.path,
                "has its simple quotas switched off, and their counts are lost: copy its volumes to another disk",
            )),
        }
    }

    /// Refuses to promise bytes that are not free, or that another volume may still take. The caller holds the guard
    /// until the volume has its limit.
    fn ensure_free(&self, volume: &Volume, needed: u64) -> Result<MutexGuard<'_, ()>> {
        let limiting = self.limiting.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = self.fs.groups()?.iter().fold(0u64, |sum, group| {
            // An unlimited volume is being erased, and takes no more bytes.
            sum.saturating_add(if group.limit == UNLIMITED { 0 } else { group.left() })
        });
        let available = self.space(volume.dir.as_fd())?.free.saturating_sub(promised);
        volume.ensure_free(needed, available).map(|()| limiting)
    }

    fn make(&self, volume: &Volume, record: &Record) -> Result<()> {
        let sync = || rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk");
        let _limiting = self.ensure_free(volume, record.spec.size_bytes)?;
        syscalls::btrfs_make_subvolume(&volume.dir, UNFINISHED).context(|| "make the volume's subvolume")?;
        let data = dirfd::open_dir(&volume.dir, UNFINISHED).context(|| "open the volume's subvolume")?;
        let id = Filesystem::number(&data)?;
        volume.write_note(NOTE, &Note { id })?;
        if self.is_counted()? {
            self.fs.set_group(id, record.spec.size_bytes)?;
        }
        rustix::fs::ioctl_getflags(&data)
            .and_then(|flags| rustix::fs::ioctl_setflags(&data, flags | IFlags::NOCOW))
            .context(|| "have the volume's files overwritten in place")?;
        sync()?;
        rustix::fs::renameat_with(&volume.dir, UNFINISHED, &volume.dir, DATA, RenameFlags::NOREPLACE)
            .context(|| "complete the volume's subvolume")?;
        sync()
    }

    /// Removes the volume's subvolumes and note, and waits until the bytes are free.
    fn remove(&self, volume: &Volume) -> Result<()> {
        // After a reboot the kernel may give a removed subvolume's number to another one.
        if let Some(note) = note(volume)?
            && !self.fs.is_elsewhere(note.id, &volume.dir)?
        {
            self.fs.remove(note.id)?;
        }
        // An unfinished subvolume may have no note yet.
        if let Some(unfinished) = volume.open_dir(UNFINISHED)? {
            self.fs.remove(Filesystem::number(unfinished)?)?;
        }
        volume.remove_files(&[UNFINISHED_NOTE, NOTE])
    }

    /// The volume's group; `None` where volumes without a limit are allowed.
    fn group(&self, volume: &Volume) -> Result<Option<(u64, Group)>> {
        let id = note(volume)?.ok_or_else(|| volume.lost(MISSING))?.id;
        match self.fs.group(id)? {
            Some(group) => Ok(Some((id, group))),
            None if self.allow_unenforced => Ok(None),
            None => Err(Error::Corrupt {
                what: format!("the limit of volume {}", volume.uid),
                reason:
                    "it is gone, because quotas were switched off; copy the volume's files to another volume"
                        .to_owned(),
            }),
        }
    }

    /// The devices under which the kernel shows files of the volume. `None` if a subvolume in the volume was just
    /// removed.
    fn devices(&self, data: &OwnedFd) -> Result<Option<Vec<Device>>> {
        let mut devices = vec![Device::of(data)?];
        for id in self.fs.within(Filesystem::number(data)?)? {
            let Some(subvolume) = self.fs.subvolume(id)? else { return Ok(None) };
            devices.push(Device::of(&subvolume)?);
        }
        Ok(Some(devices))
    }

    fn uses_of(&self, volume: &Volume, devices: Vec<Device>) -> Result<Uses<'_>> {
        let place: PathBuf = mounts::place(&volume.dir)?.path.join(DATA);
        Ok(Uses::new(
            move |mount| mount.device == self.device && mount.root.starts_with(&place),
            move |file| devices.contains(&file.filesystem),
        ))
    }
}

impl Group {
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

impl Backing for Btrfs {
    fn scratch_fs_type(&self) -> Option<FsType> {
        Some(FsType::Btrfs)
    }

    /// The space outside of the filesystem's own trees, which grow with many small files.
    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace> {
        self.is_counted()?;
        let DiskSpace { total, free } = DiskSpace::of_filesystem(root)?;
        let trees = self.fs.tree_bytes()?;
        let kept = trees.max(total / TREE_SHARE);
        Ok(DiskSpace { total: total.saturating_sub(kept), free: free.saturating_sub(kept - trees) })
    }

    fn file_names(&self) -> Vec<&'static str> {
        vec![DATA, UNFINISHED, NOTE, UNFINISHED_NOTE]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        record.spec.ensure_not_raw()?;
        if record.spec.fs_type != FsType::Btrfs {
            let disk = &volume.disk;
            return Err(Error::Unsupported(format!(
                "disk {disk} gives out parts of its btrfs: create the volume with fsType btrfs, or on another disk"
            )));
        }
        if data(volume)?.is_none() {
            self.remove(volume)?;
            if let Err(error) = self.make(volume, record) {
                self.remove(volume)?;
                return Err(error);
            }
        }
        let data = data(volume)?.ok_or_else(|| volume.lost(MISSING))?;
        if self.is_counted()? {
            self.fs.set_group(Filesystem::number(&data)?, record.spec.size_bytes)?;
        }
        filesystem::set_root(&data, record.spec.gid, record.spec.mode)
    }

    fn check(&self, volume: &Volume, _: &Record) -> Result<()> {
        data(volume)?.ok_or_else(|| volume.lost(MISSING))?;
        self.group(volume).map(drop)
    }

    fn size_on_disk(&self, volume: &Volume, record: &Record) -> Result<u64> {
        Ok(self.group(volume)?.map_or(record.spec.size_bytes, |(_, group)| group.limit))
    }

    fn grow(&self, volume: &Volume, _: &Record, size: u64) -> Result<()> {
        let Some((id, group)) = self.group(volume)? else { return Ok(()) };
        let _limiting = self.ensure_free(volume, size.saturating_sub(group.limit))?;
        self.fs.set_limit(id, size)
    }

    /// A volume in use can shrink: a writer beyond the new limit gets EDQUOT meanwhile.
    fn shrink(&self, volume: &Volume, _: &Record, size: u64, commit: Commit<'_>) -> Result<()> {
        rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk")?;
        let Some((id, before)) = self.group(volume)? else { return commit() };
        self.fs.set_limit(id, size)?;
        let used = self.fs.group(id)?.map_or(before.used, |now| now.used);
        let done = match used > size {
            true => Err(Error::TooSmall { uid: volume.uid.clone(), needed: used, wanted: size }),
            false => commit(),
        };
        if done.is_err() {
            self.fs.set_limit(id, before.limit)?;
        }
        done
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let data = data(volume)?.ok_or_else(|| volume.lost(MISSING))?;
        mounts::of_open(&data, record.spec.mount_attributes(read_only))
    }

    fn seals_filesystem(&self) -> bool {
        true
    }

    fn set_read_only(&self, volume: &Volume, _: &Record, read_only: bool) -> Result<()> {
        let data = data(volume)?.ok_or_else(|| volume.lost(MISSING))?;
        syscalls::btrfs_set_read_only(&data, read_only)
            .context(|| "change the flag of the volume's subvolume")?;
        rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk")
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(mount.device == self.device && mount.root == mounts::place(&volume.dir)?.path.join(DATA))
    }

    /// Files of each subvolume have a device number of their own. The number identifies the volume of an open file.
    fn in_use(&self, volume: &Volume) -> Result<bool> {
        let Some(data) = data(volume)? else { return Ok(false) };
        let Some(devices) = self.devices(&data)? else { return Ok(true) };
        Ok(loop_device::any_bound(|status| devices.contains(&Device::from_raw(status.device)))?
            || in_use::in_use(&self.uses_of(volume, devices)?)?)
    }

    fn uses(&self, volume: &Volume) -> Result<Uses<'_>> {
        let devices = data(volume)?.map(|data| self.devices(&data)).transpose()?.flatten();
        self.uses_of(volume, devices.unwrap_or_default())
    }

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        Ok(match note(volume)? {
            Some(note) => self.fs.group(note.id)?.map_or(0, |group| group.used),
            None => 0,
        })
    }

    /// The usage by the volume's limit, because statvfs(2) reports the usage of the whole disk. btrfs does not count
    /// inodes.
    fn usage(&self, volume: &Volume, _: &Record) -> Result<Usage> {
        let disk = Usage::of_filesystem(&volume.dir)?;
        Ok(match self.group(volume)? {
            None => disk,
            Some((_, group)) => Usage {
                total_bytes: group.limit,
                used_bytes: group.used,
                available_bytes: group.left().min(disk.available_bytes),
                ..Usage::default()
            },
        })
    }

    /// `Discard` removes the volume's subvolumes, and returns when the kernel has freed their bytes. `Zero` is
    /// refused: no file reaches the blocks of data that was overwritten or removed before.
    fn erase(&self, volume: &Volume, _: &Record, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "disk {} is a btrfs, where nothing can be overwritten for certain: set erasePolicy to Discard, and \
                 overwrite the disk when it is taken out",
                volume.disk
            )));
        }
        data(volume)?;
        self.remove(volume)
    }
}

/// Opens the volume's subvolume. `None` if it is missing, mounted over, or not the one in the note.
fn data(volume: &Volume) -> Result<Option<OwnedFd>> {
    let Some(data) = volume.open_dir(DATA)? else { return Ok(None) };
    match note(volume)? {
        Some(note) if note.id == Filesystem::number(&data)? => Ok(Some(data)),
        _ => Err(Error::corrupt(
            format!("the data of volume {}", volume.uid),
            "it is not the subvolume in the volume's note",
        )),
    }
}

fn note(volume: &Volume) -> Result<Option<Note>> {
    volume.note(NOTE)
}
