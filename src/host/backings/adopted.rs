//! Backing of volumes that adopt a directory with its data (V8), beside the other volumes of a disk.
//!
//! The data is not Reservoir's: the agent makes, moves, changes and removes none of it. A note beside the record
//! identifies the directory, and pods get a mount of that very directory. Nothing limits the directory's size. So the
//! disk's configuration has to allow volumes without a limit, and has to name the roots of adoptable directories.
//!
//! # Guarantees
//! - A directory is reached beneath its root without any symbolic link. After the adoption the directory is used only
//!   while its filesystem, inode and time of birth are the same.
//!
//! # Caveats
//! - Only mounts count as use. A process of the node that works in the directory without a mount is no pod. An erase
//!   leaves the directory as it is, so the process loses nothing.
//! - The kernel identifies an XFS by its device's number alone. Where the number changes, the directory has to be
//!   adopted anew.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::host::backings::backing::{Backing, Commit, DiskSpace, Opened};
use crate::host::error::{Context, Error, Result};
use crate::host::sys::{Device, Mount, Place, Uses, dirfd, disk_usage, in_use, mounts};
use crate::host::types::{DiskConfig, ErasePolicy, FsType, Record, Usage, VolumeUid};
use crate::host::volume::Volume;

const NOTE: &str = "adopted.json";
const UNFINISHED: &str = "adopted.json.new";

/// The agent counts for at most one part in `COUNTING_SHARE` of the time.
const COUNTING_SHARE: u32 = 100;

/// The volumes of a disk: volumes with an adopted directory, and volumes of the disk's own backing.
struct Adopting {
    own: Box<dyn Backing>,
    config: DiskConfig,
    counts: Mutex<BTreeMap<VolumeUid, Count>>,
}

/// The bytes in a directory at some time; `None` if there is too much to count.
#[derive(Clone)]
struct Count {
    bytes: Result<Option<u64>>,
    at: Instant,
    took: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    path: String,
    /// The path on the directory's own filesystem.
    place: PathBuf,
    #[serde(flatten)]
    identity: Identity,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    file_system: u64,
    inode: u64,
    /// Time of birth, in seconds and nanoseconds. The filesystem uses the number of a removed inode again.
    born: Option<(i64, u32)>,
}

pub(crate) fn wrap(config: &DiskConfig, opened: Opened) -> Opened {
    let Opened { root, backing: own } = opened;
    let adopting = Adopting { own, config: config.clone(), counts: Mutex::default() };
    Opened { root, backing: Box::new(adopting) }
}

impl Adopting {
    fn adopt(&self, volume: &Volume, record: &Record, path: &str) -> Result<()> {
        record.spec.ensure_not_raw()?;
        in_use::ensure_processes_visible()?;
        let disk = &volume.disk;
        if !self.config.allow_unenforced {
            return Err(Error::Unsupported(format!(
                "the size of a directory that is adopted is not enforced, and disk {disk} does not allow that: set \
                 allowUnenforced on the agent's disk, or create the volume without adopt"
            )));
        }
        let directory = open_adoptable(&self.config, path)?;
        if Device::of(&directory)? != Device::of(&volume.dir)? {
            return Err(Error::Unsupported(format!(
                "{path} is on another filesystem than disk {disk}, whose space it would take: adopt it with a disk there"
            )));
        }
        let wanted = record.spec.size_bytes;
        self.counts().remove(&volume.uid);
        let needed = self.count(&volume.uid, &directory)?.ok_or_else(|| {
            Error::Unsupported(format!(
                "{path} has more files, or more or deeper directories, than the agent counts: adopt its parts"
            ))
        })?;
        if needed > wanted {
            return Err(Error::TooSmall { uid: volume.uid.clone(), needed, wanted });
        }
        let identity = Identity::of(&directory)?;
        let note = Note { path: path.to_owned(), place: mounts::place(&directory)?.path, identity };
        volume.write_note(NOTE, &note)
    }

    /// The directory that the volume adopted, if that directory still exists.
    fn directory(&self, volume: &Volume) -> Result<OwnedFd> {
        let note = note(volume)?.ok_or_else(|| volume.lost(format!("{NOTE} is missing")))?;
        let path = &note.path;
        let directory = open_adoptable(&self.config, path).map_err(|error| match error {
            Error::NotFound(_) => volume.lost(format!("{path} does not exist")),
            error => error,
        })?;
        match Identity::of(&directory)? == note.identity {
            true => Ok(directory),
            false => Err(Error::Conflict(format!(
                "{path} is another directory than the adopted one: put the adopted one back"
            ))),
        }
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<VolumeUid, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes in a directory, from a recent count if there is one.
    fn count(&self, uid: &VolumeUid, directory: &OwnedFd) -> Result<Option<u64>> {
        let known = self.counts().get(uid).cloned();
        if let Some(known) = known.filter(|known| known.at.elapsed() < known.took * COUNTING_SHARE) {
            return known.bytes;
        }
        let at = Instant::now();
        let bytes = disk_usage::count(directory);
        self.counts().insert(uid.clone(), Count { bytes: bytes.clone(), at, took: at.elapsed() });
        bytes
    }
}

impl Backing for Adopting {
    fn scratch_fs_type(&self) -> Option<FsType> {
        self.own.scratch_fs_type()
    }

    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace> {
        self.own.space(root)
    }

    fn has_own_filesystem(&self, volume: &Volume) -> Result<bool> {
        Ok(note(volume)?.is_none() && self.own.has_own_filesystem(volume)?)
    }

    fn file_names(&self) -> Vec<&'static str> {
        [self.own.file_names(), vec![NOTE, UNFINISHED]].concat()
    }

    fn adopted_place(&self, volume: &Volume) -> Result<Option<Place>> {
        let device = Device::of(&volume.dir)?;
        Ok(note(volume)?.map(|note| Place { device, path: note.place }))
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        let Some(path) = &record.spec.adopt else { return self.own.create(volume, record) };
        let adopted = self.adopt(volume, record, path);
        if adopted.is_err() {
            remove_note(volume)?;
        }
        adopted
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        match record.spec.adopt {
            Some(_) => self.directory(volume).map(drop),
            None => self.own.check(volume, record),
        }
    }

    fn size_on_disk(&self, volume: &Volume, record: &Record) -> Result<u64> {
        match record.spec.adopt {
            Some(_) => Ok(record.spec.size_bytes),
            None => self.own.size_on_disk(volume, record),
        }
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        match record.spec.adopt {
            Some(_) => Err(cannot_resize(volume)),
            None => self.own.grow(volume, record, size),
        }
    }

    fn shrink(&self, volume: &Volume, record: &Record, size: u64, commit: Commit<'_>) -> Result<()> {
        match record.spec.adopt {
            Some(_) => Err(cannot_resize(volume)),
            None => self.own.shrink(volume, record, size, commit),
        }
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        if record.spec.adopt.is_none() {
            return self.own.mount(volume, record, read_only);
        }
        let directory = self.directory(volume)?;
        mounts::of_open(&directory, record.spec.mount_attributes(read_only))
    }

    fn seals_filesystem(&self) -> bool {
        self.own.seals_filesystem()
    }

    fn has_writers(&self, volume: &Volume) -> Result<bool> {
        self.own.has_writers(volume)
    }

    /// Volumes with an adopted directory are not sealed.
    fn set_read_only(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<()> {
        self.own.set_read_only(volume, record, read_only)
    }

    fn refuses_writes(&self, volume: &Volume) -> Result<bool> {
        self.own.refuses_writes(volume)
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        let Some(note) = note(volume)? else { return self.own.owns(volume, mount) };
        Ok(mount.device == Device::of(&volume.dir)? && mount.inode == Some(note.identity.inode))
    }

    /// Only mounts of the directory or of a part of it count as use; see the caveats.
    fn in_use(&self, volume: &Volume) -> Result<bool> {
        match note(volume)? {
            None => self.own.in_use(volume),
            Some(_) => in_use::in_use(&self.uses(volume)?),
        }
    }

    fn uses(&self, volume: &Volume) -> Result<Uses<'_>> {
        let Some(adopted) = self.adopted_place(volume)? else { return self.own.uses(volume) };
        Ok(Uses::mounts_alone(move |mount| Place::of(mount).is_in(&adopted)))
    }

    /// The bytes in the directory, at most the volume's size: the rest is foreign data on the disk. A directory with
    /// too many files to count has the volume's size.
    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        if note(volume)?.is_none() {
            return self.own.allocated_bytes(volume);
        }
        let size = volume.record()?.spec.size_bytes;
        let counted = self.count(&volume.uid, &self.directory(volume)?)?;
        Ok(counted.map_or(size, |bytes| bytes.min(size)))
    }

    /// The usage of the directory's filesystem, which alone limits the directory.
    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        match record.spec.adopt {
            Some(_) => Usage::of_filesystem(self.directory(volume)?),
            None => self.own.usage(volume, record),
        }
    }

    /// Removes the note, and leaves the directory as it is.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()> {
        if record.spec.adopt.is_none() {
            return self.own.erase(volume, record, policy);
        }
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "volume {} is an adopted directory, which is kept and never overwritten: set erasePolicy to Discard",
                volume.uid
            )));
        }
        self.counts().remove(&volume.uid);
        remove_note(volume)
    }
}

impl Identity {
    fn of(directory: &OwnedFd) -> Result<Self> {
        let look = || "look at the adopted directory";
        let stat = rustix::fs::statx(
            directory,
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        )
        .context(look)?;
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            file_system: rustix::fs::fstatvfs(directory).context(look)?.f_fsid,
            inode: stat.stx_ino,
            born: has_birth.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        })
    }
}

/// Opens a directory beneath one of the disk's `adoptRoots`.
pub(crate) fn open_adoptable(config: &DiskConfig, path: &str) -> Result<OwnedFd> {
    let wanted = Path::new(path);
    let parts = || wanted.components();
    let plain = parts().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && wanted.is_absolute()
        && parts().collect::<PathBuf>().as_os_str() == wanted.as_os_str();
    if !plain {
        return Err(Error::InvalidArgument(format!("{path} is not a plain absolute path")));
    }
    let is_beneath = |root: &&PathBuf| wanted != root.as_path() && wanted.starts_with(root);
    let Some(root) = config.adopt_roots.iter().find(is_beneath) else {
        return Err(Error::Unsupported(format!(
            "{path} is not beneath a directory from which disk {} may adopt: add one to adoptRoots of the agent's disk",
            config.name
        )));
    };
    let relative = wanted.strip_prefix(root).unwrap_or(wanted);
    match dirfd::open(open_root(root)?, relative, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => Ok(directory),
        Err(Errno::NOENT) => Err(Error::NotFound(format!("directory {path}"))),
        Err(Errno::NOTDIR) => Err(Error::Conflict(format!("{path} is not a directory: adopt one"))),
        Err(Errno::LOOP) => Err(Error::Conflict(format!(
            "a symbolic link is on the way to {path}: adopt the directory by its own path"
        ))),
        Err(error) => Err(error).context(|| format!("open {path}")),
    }
}

pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
}

fn note(volume: &Volume) -> Result<Option<Note>> {
    volume.note(NOTE)
}

fn remove_note(volume: &Volume) -> Result<()> {
    volume.remove_files(&[UNFINISHED, NOTE])
}

fn cannot_resize(volume: &Volume) -> Error {
    Error::Unsupported(format!(
        "volume {} is an adopted directory, which cannot be resized: delete it, and adopt the directory with another size",
        volume.uid
    ))
}
