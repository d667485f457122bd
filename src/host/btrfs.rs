//! Backing `btrfs`: a subvolume per volume, limited by the kernel's own count. Pods have the bare filesystem.
//!
//! # Guarantees
//! - The limit is that of a [group](super::subvol) in which the volume's subvolume is, and every subvolume that pods make
//!   in it. Beyond it a writer gets EDQUOT.
//! - The disk is a filesystem that nobody else uses, and what volumes may still take is no more than what is free on it
//!   when a limit is given, with room held back for the filesystem's own trees. So a volume's bytes are there although
//!   they are not allocated in advance (V5).
//! - New files are overwritten in place (`nodatacow`). With copy-on-write a volume that is full could not even be
//!   overwritten, and what databases do would be slow.
//!
//! # Caveats
//! - Who tells the kernel, as no tool does by itself, to count a subvolume of his elsewhere is found a second later; what
//!   he wrote until then was taken from the room that is held back, or counted against another volume for so long.
//! - Bytes that another volume shares (`cp --reflink` from one to the other) stay this volume's, and it is not erased
//!   before they are gone there.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{IFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::backing::{Backing, Opened, Room};
use super::disk::{IDENTITY, Volume};
use super::error::{Context, Error, Result};
use super::filesystem::FsType;
use super::inuse::{self, OpenFile};
use super::mountinfo::{Device, Mount};
use super::record::Record;
use super::subvol::{Counting, Filesystem, Group, TOP_LEVEL, UNLIMITED};
use super::{DiskConfig, ErasePolicy, Usage, beneath, filesystem, journal, loopdev, mounts, options, sys};

/// The subvolume that pods see.
const DATA: &str = "data";
/// The same while it is being made; worth nothing after a crash.
const UNFINISHED: &str = "data.new";
/// Which subvolume it is.
const NOTE: &str = "subvolume.json";
const UNFINISHED_NOTE: &str = "subvolume.json.new";

const MAGIC: u64 = 0x9123_683e;

/// The part of a disk that its own trees may have: one in so many bytes.
const TREES: u64 = 16;

/// How often it is looked whether a subvolume was made outside its volume's limit.
const LOOK: Duration = Duration::from_secs(1);

struct Btrfs {
    fs: Arc<Filesystem>,
    device: Device,
    /// Whether volumes may be without a limit (D5).
    unenforced: bool,
    /// Held while room is promised to a volume.
    promising: Mutex<()>,
    /// Ends, with this, the thread that looks after subvolumes.
    _looking: Sender<()>,
}

/// Content of `subvolume.json`.
#[derive(Serialize, Deserialize)]
struct Note {
    id: u64,
}

/// Opens the filesystem; refuses a part of one, one that holds what is not ours, and one on which nothing is counted.
pub(super) fn open(config: &DiskConfig) -> Result<Opened> {
    let path = config.path.display();
    let refuse = |why: &str| Err(Error::Unsupported(format!("{path} {why}")));
    inuse::ensure_sight()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&config.path, flags, Mode::empty()).context(|| format!("open {path}"))?;
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
    let names = beneath::names(&root).context(|| format!("list {path}"))?;
    let ours = names.iter().any(|name| name == IDENTITY);
    let unfinished = journal::temporary(IDENTITY);
    if !ours && names.iter().any(|name| *name != *unfinished) {
        return refuse("holds files, which would take room from volumes: give Reservoir a btrfs of its own");
    }
    match fs.counting()? {
        Counting::Simple => {}
        // Not so on a disk that has volumes: what they have would not be counted. Whether they are limited is tried.
        Counting::Off if !ours => fs.count()?,
        Counting::Off => {}
        Counting::Full => {
            return refuse(
                "has full quotas, which a snapshot in a volume can put out of action: switch them off (btrfs quota disable)",
            );
        }
    }
    let backing = Btrfs {
        device: mount.device,
        unenforced: config.allow_unenforced,
        promising: Mutex::default(),
        _looking: look_after(fs.clone(), config.name.clone())?,
        fs,
    };
    Ok(Opened { root, backing: Box::new(backing) })
}

/// Has a thread look after subvolumes until what it returns is dropped.
fn look_after(fs: Arc<Filesystem>, disk: String) -> Result<Sender<()>> {
    let (end, ended) = channel();
    let look = move || {
        let (mut known, mut said) = (BTreeSet::new(), None);
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let failed = fs.collect(&mut known).err().map(|error| error.to_string());
            if let Some(error) = failed.as_ref().filter(|_| failed != said) {
                tracing::warn!(
                    disk,
                    error,
                    "cannot see whether subvolumes are within the limits of their volumes"
                );
            }
            said = failed;
        }
    };
    let started = std::thread::Builder::new().name("subvolumes".to_owned()).spawn(look);
    started.context(|| "start a thread that looks after subvolumes")?;
    Ok(end)
}

impl Btrfs {
    fn is_counted(&self) -> Result<bool> {
        match self.fs.counting()? {
            Counting::Simple => Ok(true),
            _ if self.unenforced => Ok(false),
            _ => Err(Error::Unsupported(
                "its simple quotas were switched off, and what they had counted is lost: copy what is on it to another \
                 disk"
                    .to_owned(),
            )),
        }
    }

    /// Sees that there is room for so many bytes beside all that volumes may still take. What it returns is held until
    /// they have it.
    fn promise(&self, volume: &Volume, needed: u64) -> Result<std::sync::MutexGuard<'_, ()>> {
        let promising = self.promising.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = self.fs.groups()?.iter().fold(0u64, |sum, group| {
            // One that is being erased gets nothing more.
            sum.saturating_add(if group.limit == UNLIMITED { 0 } else { group.left() })
        });
        let available = self.room(volume.dir.as_fd())?.free.saturating_sub(promised);
        volume.ensure_free(needed, available).map(|()| promising)
    }

    fn make(&self, volume: &Volume, record: &Record) -> Result<()> {
        let sync = || rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk");
        let _room = self.promise(volume, record.spec.size_bytes)?;
        sys::btrfs_make_subvolume(&volume.dir, UNFINISHED).context(|| "make the volume's subvolume")?;
        let data = beneath::open_dir(&volume.dir, UNFINISHED).context(|| "open the volume's subvolume")?;
        let id = Filesystem::number(&data)?;
        let note = serde_json::to_vec(&Note { id }).map_err(|error| unreadable(volume, &error))?;
        journal::replace(volume.dir.as_fd(), NOTE, &note)?;
        if self.is_counted()? {
            self.fs.confine(id, record.spec.size_bytes)?;
        }
        rustix::fs::ioctl_getflags(&data)
            .and_then(|flags| rustix::fs::ioctl_setflags(&data, flags | IFlags::NOCOW))
            .context(|| "have the volume's files overwritten in place")?;
        sync()?;
        rustix::fs::renameat_with(&volume.dir, UNFINISHED, &volume.dir, DATA, RenameFlags::NOREPLACE)
            .context(|| "complete the volume's subvolume")?;
        sync()
    }

    /// Removes what there is of the volume, and waits until its bytes are gone.
    fn discard(&self, volume: &Volume) -> Result<()> {
        // Ours may be gone since before a reboot; the kernel gives out the highest numbers again then.
        if let Some(note) = note(volume)?
            && !self.fs.is_elsewhere(note.id, &volume.dir)?
        {
            self.fs.remove(note.id)?;
        }
        // Made, and not noted yet.
        if let Some(unfinished) = open_dir(volume, UNFINISHED)? {
            self.fs.remove(Filesystem::number(unfinished)?)?;
        }
        volume.remove(&[UNFINISHED_NOTE, NOTE])
    }

    /// The volume's group; `None` where that is allowed.
    fn group(&self, volume: &Volume) -> Result<Option<(u64, Group)>> {
        let id = note(volume)?.ok_or_else(|| lost(volume))?.id;
        match self.fs.group(id)? {
            Some(group) => Ok(Some((id, group))),
            None if self.unenforced => Ok(None),
            None => Err(Error::Corrupt {
                what: format!("the limit of volume {}", volume.uid),
                reason:
                    "it is gone, because quotas were switched off meanwhile; what is in it is there: copy it"
                        .to_owned(),
            }),
        }
    }

    /// The devices under which the kernel shows files of the volume; `None` if one in it was just removed.
    fn devices(&self, data: &OwnedFd) -> Result<Option<Vec<Device>>> {
        let mut devices = vec![Device::of(data)?];
        for id in self.fs.within(Filesystem::number(data)?)? {
            let Some(subvolume) = self.fs.subvolume(id)? else { return Ok(None) };
            devices.push(Device::of(&subvolume)?);
        }
        Ok(Some(devices))
    }
}

impl Group {
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

impl Backing for Btrfs {
    fn scratch(&self) -> Option<FsType> {
        Some(FsType::Btrfs)
    }

    /// Without what its own trees have, or may need once there are many small files.
    fn room(&self, root: BorrowedFd<'_>) -> Result<Room> {
        self.is_counted()?;
        let stat = rustix::fs::fstatvfs(root).context(|| "look at the disk")?;
        let (total, free) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
        let trees = self.fs.trees()?;
        let kept = trees.max(total / TREES);
        Ok(Room { total: total.saturating_sub(kept), free: free.saturating_sub(kept - trees) })
    }

    fn names(&self) -> Vec<&'static str> {
        vec![DATA, UNFINISHED, NOTE, UNFINISHED_NOTE]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        filesystem::wanted(record)?;
        if record.spec.fs_type != FsType::Btrfs {
            let disk = &volume.disk;
            return Err(Error::Unsupported(format!(
                "disk {disk} gives out parts of its btrfs: create the volume with fsType btrfs, or on another disk"
            )));
        }
        if data(volume)?.is_none() {
            self.discard(volume)?;
            if let Err(error) = self.make(volume, record) {
                self.discard(volume)?;
                return Err(error);
            }
        }
        let data = data(volume)?.ok_or_else(|| lost(volume))?;
        if self.is_counted()? {
            self.fs.confine(Filesystem::number(&data)?, record.spec.size_bytes)?;
        }
        filesystem::set_root(&data, record)
    }

    fn check(&self, volume: &Volume, _: &Record) -> Result<()> {
        data(volume)?.ok_or_else(|| lost(volume))?;
        self.group(volume).map(drop)
    }

    fn length(&self, volume: &Volume, record: &Record) -> Result<u64> {
        Ok(self.group(volume)?.map_or(record.spec.size_bytes, |(_, group)| group.limit))
    }

    fn grow(&self, volume: &Volume, _: &Record, size: u64) -> Result<()> {
        let Some((id, group)) = self.group(volume)? else { return Ok(()) };
        let _room = self.promise(volume, size.saturating_sub(group.limit))?;
        self.fs.limit(id, size)
    }

    /// Also while it is used: whoever writes more meanwhile gets EDQUOT.
    fn shrink(
        &self,
        volume: &Volume,
        _: &Record,
        size: u64,
        commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk")?;
        let Some((id, before)) = self.group(volume)? else { return commit() };
        self.fs.limit(id, size)?;
        let used = self.fs.group(id)?.map_or(before.used, |now| now.used);
        let done = match used > size {
            true => Err(Error::TooSmall { uid: volume.uid.clone(), needed: used, wanted: size }),
            false => commit(),
        };
        if done.is_err() {
            self.fs.limit(id, before.limit)?;
        }
        done
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let data = data(volume)?.ok_or_else(|| lost(volume))?;
        mounts::view(&data, options::attributes(&record.spec.mount_options, read_only))
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(mount.device == self.device && mount.root == mounts::place(&volume.dir)?.path.join(DATA))
    }

    /// Each subvolume shows its files as those of a device of its own: so it is known whose an open file is.
    fn release(&self, volume: &Volume) -> Result<bool> {
        let Some(data) = data(volume)? else { return Ok(false) };
        let place: PathBuf = mounts::place(&volume.dir)?.path.join(DATA);
        let Some(devices) = self.devices(&data)? else { return Ok(true) };
        let mounted = |mount: &Mount| mount.device == self.device && mount.root.starts_with(&place);
        let open = |file: OpenFile| devices.contains(&file.filesystem);
        Ok(loopdev::any_bound(|status| devices.contains(&Device::from_raw(status.device)))?
            || inuse::anywhere(mounted, open)?)
    }

    fn allocated(&self, volume: &Volume) -> Result<u64> {
        Ok(match note(volume)? {
            Some(note) => self.fs.group(note.id)?.map_or(0, |group| group.used),
            None => 0,
        })
    }

    /// What the limit says, and the disk: a pod that asks the filesystem is told of the whole disk. btrfs has as many
    /// inodes as there is room for.
    fn usage(&self, volume: &Volume, _: &Record) -> Result<Usage> {
        let disk = Usage::of(&volume.dir)?;
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

    /// `Discard` removes the subvolume and those in it, and returns when the kernel has freed all that was theirs. `Zero`
    /// is refused: what was overwritten or removed before is where no file can reach it.
    fn erase(&self, volume: &Volume, _: &Record, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "disk {} is a btrfs, where nothing can be overwritten for certain: set erasePolicy to Discard, and \
                 overwrite the disk when it is taken out",
                volume.disk
            )));
        }
        data(volume)?;
        self.discard(volume)
    }
}

/// Opens the volume's subvolume if it is there, nothing is mounted over it, and it is the one that was made.
fn data(volume: &Volume) -> Result<Option<OwnedFd>> {
    let Some(data) = open_dir(volume, DATA)? else { return Ok(None) };
    match note(volume)? {
        Some(note) if note.id == Filesystem::number(&data)? => Ok(Some(data)),
        _ => Err(Error::Corrupt {
            what: format!("the data of volume {}", volume.uid),
            reason: "it is another subvolume than the one that was made".to_owned(),
        }),
    }
}

fn open_dir(volume: &Volume, name: &str) -> Result<Option<OwnedFd>> {
    match beneath::open_dir(&volume.dir, name) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).context(|| format!("open the subvolume of volume {}", volume.uid)),
    }
}

fn note(volume: &Volume) -> Result<Option<Note>> {
    let Some(text) = journal::read(volume.dir.as_fd(), NOTE)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| unreadable(volume, &error))
}

fn unreadable(volume: &Volume, error: &serde_json::Error) -> Error {
    Error::Corrupt { what: format!("{NOTE} of volume {}", volume.uid), reason: error.to_string() }
}

fn lost(volume: &Volume) -> Error {
    Error::BackingLost { uid: volume.uid.clone(), reason: "its subvolume is missing".to_owned() }
}
