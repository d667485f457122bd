//! Directories that hold data already, adopted as they are (V8).
//!
//! The data is not ours: nothing of it is made, moved, changed or removed. Beside the journal is a note of which
//! directory it is; pods get a view of that very directory. Its size is bounded by nobody, so the disk's configuration
//! has to allow just that, and has to name the roots beneath which there is something to adopt.
//!
//! # Guarantees
//! - A directory is reached beneath its root without any symbolic link, and once it was adopted it is used only as long
//!   as it is the same one: filesystem, inode and time of birth.
//! - No two volumes have a directory, or one a part of another's, on whatever disk of this node; nor do they have any of
//!   our own directories or the kubelet's. Directories are compared by their place on their filesystem, so that no bind
//!   mount hides what they have in common.
//!
//! # Caveats
//! - In use is what is mounted. A process of the node that works in the directory without any mount of it is none of
//!   our users and loses nothing, since letting go changes nothing.
//! - XFS has no other name in the kernel than its device's number: where that changes, the directory has to be adopted
//!   anew.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::backing::{Backing, Opened, Room};
use super::disk::{Disk, Volume};
use super::error::{Context, Error, Result};
use super::filesystem::FsType;
use super::mountinfo::{Device, Mount};
use super::mounts::{self, Place};
use super::record::Record;
use super::uid::VolumeUid;
use super::{DiskConfig, ErasePolicy, Host, Usage, VolumeSpec, beneath, filesystem, inuse, journal, options};

/// Which directory the volume is.
const NOTE: &str = "adopted.json";
const UNFINISHED: &str = "adopted.json.new";

/// More than this is not counted.
const MOST_FILES: u64 = 10_000_000;
/// Nor is what would take more memory than this: the paths of directories that are still to be looked at, and the
/// inodes that have several names.
const MOST_MEMORY: usize = 64 << 20;
/// What an inode takes in a set of them.
const LINKED: usize = 16;
/// Counting takes at most one part in so many of the time.
const RARELY: u32 = 100;

/// Volumes of a disk as `kept` keeps them, and those that adopted a directory.
struct Adopting {
    kept: Box<dyn Backing>,
    config: DiskConfig,
    counted: Mutex<BTreeMap<VolumeUid, Counted>>,
}

/// What was in a directory, and when that was known.
#[derive(Clone)]
struct Counted {
    bytes: Result<u64>,
    at: Instant,
    took: Duration,
}

/// Content of `adopted.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    path: String,
    /// The same as its filesystem has it.
    place: PathBuf,
    #[serde(flatten)]
    identity: Identity,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    file_system: u64,
    inode: u64,
    /// Seconds and nanoseconds: an inode's number is used again.
    born: Option<(i64, u32)>,
}

/// Has volumes of a disk adopt directories, too.
pub(super) fn open(config: &DiskConfig, opened: Opened) -> Opened {
    let Opened { root, backing: kept } = opened;
    let adopting = Adopting { kept, config: config.clone(), counted: Mutex::default() };
    Opened { root, backing: Box::new(adopting) }
}

impl Host {
    /// Sees to it that what a volume is about to adopt is nobody else's (V8). What it returns is held until the
    /// volume has its note.
    pub(super) fn adopting(&self, disk: &Disk, spec: &VolumeSpec) -> Result<Option<MutexGuard<'_, ()>>> {
        let Some(path) = &spec.adopt else { return Ok(None) };
        let adopting = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unknown) = self.unavailable() {
            // Who knows what was adopted there.
            return Err(unknown);
        }
        let wanted = mounts::place(directory(&disk.config, path)?)?;
        let taken =
            |by: String| Err(Error::Conflict(format!("{path} overlaps {by}: adopt another directory")));
        if wanted.overlaps(&mounts::place(self.targets.root())?) {
            return taken("the kubelet's directory".to_owned());
        }
        for other in self.served() {
            if wanted.overlaps(&other.place()?) {
                return taken(format!("the directory of disk {}", other.name()));
            }
            for root in &other.config.adopt_roots {
                // What the agent itself has mounted there would be in use for ever.
                if directory_at(root).and_then(mounts::place).is_ok_and(|root| root.is_in(&wanted)) {
                    return taken(format!("{}, one of the adoptRoots", root.display()));
                }
            }
            for uid in other.uids()?.iter().filter(|uid| **uid != spec.uid) {
                let Some(volume) = other.volume(uid)? else { continue };
                if other.backing.adopted(&volume)?.is_some_and(|place| wanted.overlaps(&place)) {
                    return taken(format!("what volume {uid} adopted"));
                }
            }
        }
        Ok(Some(adopting))
    }
}

impl Adopting {
    fn adopt(&self, volume: &Volume, record: &Record, path: &str) -> Result<()> {
        filesystem::wanted(record)?;
        inuse::ensure_sight()?;
        let disk = &volume.disk;
        if !self.config.allow_unenforced {
            return Err(Error::Unsupported(format!(
                "the size of a directory that is adopted is not enforced, and disk {disk} does not allow that: set \
                 allowUnenforced on the agent's disk, or create the volume without adopt"
            )));
        }
        let directory = directory(&self.config, path)?;
        let device = |of: &OwnedFd| rustix::fs::fstat(of).context(|| format!("look at {path}"));
        if device(&directory)?.st_dev != device(&volume.dir)?.st_dev {
            return Err(Error::Unsupported(format!(
                "{path} is on another file system than disk {disk}, whose room it would be: adopt it with a disk there"
            )));
        }
        let wanted = record.spec.size_bytes;
        self.counted().remove(&volume.uid);
        let needed = self.count(&volume.uid, &directory)?;
        if needed > wanted {
            return Err(Error::TooSmall { uid: volume.uid.clone(), needed, wanted });
        }
        let identity = Identity::of(&directory)?;
        let note = Note { path: path.to_owned(), place: mounts::place(&directory)?.path, identity };
        let text = serde_json::to_vec_pretty(&note).map_err(|error| unreadable(volume, &error))?;
        journal::replace(volume.dir.as_fd(), NOTE, &text)
    }

    /// The directory that the volume adopted, if it is still there and the same.
    fn directory(&self, volume: &Volume) -> Result<OwnedFd> {
        let lost = |reason: String| Error::BackingLost { uid: volume.uid.clone(), reason };
        let note = note(volume)?.ok_or_else(|| lost(format!("{NOTE} is missing")))?;
        let path = &note.path;
        let directory = directory(&self.config, path).map_err(|error| match error {
            Error::NotFound(_) => lost(format!("{path} is not there")),
            error => error,
        })?;
        match Identity::of(&directory)? == note.identity {
            true => Ok(directory),
            false => Err(Error::Conflict(format!(
                "{path} is another directory than the one that was adopted: put that one back"
            ))),
        }
    }

    fn counted(&self) -> MutexGuard<'_, BTreeMap<VolumeUid, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in a directory, as they were not long ago.
    fn count(&self, uid: &VolumeUid, directory: &OwnedFd) -> Result<u64> {
        let known = self.counted().get(uid).cloned();
        if let Some(known) = known.filter(|known| known.at.elapsed() < known.took * RARELY) {
            return known.bytes;
        }
        let at = Instant::now();
        let bytes = bytes_in(directory);
        self.counted().insert(uid.clone(), Counted { bytes: bytes.clone(), at, took: at.elapsed() });
        bytes
    }
}

impl Backing for Adopting {
    fn whole(&self) -> bool {
        self.kept.whole()
    }

    fn scratch(&self) -> Option<FsType> {
        self.kept.scratch()
    }

    fn room(&self, root: std::os::fd::BorrowedFd<'_>) -> Result<Room> {
        self.kept.room(root)
    }

    fn names(&self) -> Vec<&'static str> {
        [self.kept.names(), vec![NOTE, UNFINISHED]].concat()
    }

    fn adopted(&self, volume: &Volume) -> Result<Option<Place>> {
        let device = Device::of(&volume.dir)?;
        Ok(note(volume)?.map(|note| Place { device, path: note.place }))
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        let Some(path) = &record.spec.adopt else { return self.kept.create(volume, record) };
        let adopted = self.adopt(volume, record, path);
        if adopted.is_err() {
            forget(volume)?;
        }
        adopted
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        match record.spec.adopt {
            Some(_) => self.directory(volume).map(drop),
            None => self.kept.check(volume, record),
        }
    }

    fn length(&self, volume: &Volume, record: &Record) -> Result<u64> {
        match record.spec.adopt {
            Some(_) => Ok(record.spec.size_bytes),
            None => self.kept.length(volume, record),
        }
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        match record.spec.adopt {
            Some(_) => Err(fixed(volume)),
            None => self.kept.grow(volume, record, size),
        }
    }

    fn shrink(
        &self,
        volume: &Volume,
        record: &Record,
        size: u64,
        commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        match record.spec.adopt {
            Some(_) => Err(fixed(volume)),
            None => self.kept.shrink(volume, record, size, commit),
        }
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        if record.spec.adopt.is_none() {
            return self.kept.mount(volume, record, read_only);
        }
        let directory = self.directory(volume)?;
        mounts::view(&directory, options::attributes(&record.spec.mount_options, read_only))
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        let Some(note) = note(volume)? else { return self.kept.owns(volume, mount) };
        Ok(mount.device == Device::of(&volume.dir)? && mount.inode == Some(note.identity.inode))
    }

    /// Mounts count if they show the directory or a part of it; see the caveats for what does not.
    fn release(&self, volume: &Volume) -> Result<bool> {
        let Some(adopted) = self.adopted(volume)? else { return self.kept.release(volume) };
        inuse::anywhere(|mount| Place::of(mount).is_in(&adopted), |_| false)
    }

    /// What is in it and was promised to it: what it has beyond its size somebody else has not. What a pod has made
    /// uncountable is all that was promised, and not somebody else's files.
    fn allocated(&self, volume: &Volume) -> Result<u64> {
        if note(volume)?.is_none() {
            return self.kept.allocated(volume);
        }
        let size = volume.record()?.spec.size_bytes;
        match self.count(&volume.uid, &self.directory(volume)?) {
            Err(Error::Unsupported(_)) => Ok(size),
            counted => counted.map(|bytes| bytes.min(size)),
        }
    }

    /// Those of the filesystem that it is on: nothing else bounds it.
    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        match record.spec.adopt {
            Some(_) => Usage::of(self.directory(volume)?),
            None => self.kept.usage(volume, record),
        }
    }

    /// Lets go of the directory, and leaves it as it is.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()> {
        if record.spec.adopt.is_none() {
            return self.kept.erase(volume, record, policy);
        }
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "volume {} is an adopted directory, which is let go and never overwritten: set erasePolicy to Discard",
                volume.uid
            )));
        }
        self.counted().remove(&volume.uid);
        forget(volume)
    }
}

impl Identity {
    fn of(directory: &OwnedFd) -> Result<Self> {
        let look = || "look at the directory that is adopted";
        let stat = rustix::fs::statx(
            directory,
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        )
        .context(look)?;
        let born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            file_system: rustix::fs::fstatvfs(directory).context(look)?.f_fsid,
            inode: stat.stx_ino,
            born: born.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        })
    }
}

/// Opens a directory beneath one of the disk's roots.
fn directory(config: &DiskConfig, path: &str) -> Result<OwnedFd> {
    let wanted = Path::new(path);
    let parts = || wanted.components();
    let plain = parts().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && wanted.is_absolute()
        && parts().collect::<PathBuf>().as_os_str() == wanted.as_os_str();
    if !plain {
        return Err(Error::InvalidArgument(format!("{path} is not a plain absolute path")));
    }
    let beneath_it = |root: &&PathBuf| wanted != root.as_path() && wanted.starts_with(root);
    let Some(root) = config.adopt_roots.iter().find(beneath_it) else {
        return Err(Error::Unsupported(format!(
            "{path} is not beneath a directory from which disk {} may adopt: add one to adoptRoots of the agent's disk",
            config.name
        )));
    };
    let relative = wanted.strip_prefix(root).unwrap_or(wanted);
    match beneath::open(directory_at(root)?, relative, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => Ok(directory),
        Err(Errno::NOENT) => Err(Error::NotFound(format!("directory {path}"))),
        Err(Errno::NOTDIR) => Err(Error::Conflict(format!("{path} is not a directory: adopt one"))),
        Err(Errno::LOOP) => Err(Error::Conflict(format!(
            "a symbolic link is on the way to {path}: adopt the directory by its own path"
        ))),
        Err(error) => Err(error).context(|| format!("open {path}")),
    }
}

fn directory_at(path: &PathBuf) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
}

/// Bytes of the blocks of everything beneath a directory, on its own filesystem; what has several names counts once.
fn bytes_in(directory: &OwnedFd) -> Result<u64> {
    let count = || "count what is in the directory that is adopted";
    let device = rustix::fs::fstat(directory).context(count)?.st_dev;
    let mut pending = vec![PathBuf::from(".")];
    let (mut bytes, mut files, mut linked) = (0u64, 0u64, BTreeSet::new());
    let uncounted = || {
        Error::Unsupported(format!(
            "it has more than {MOST_FILES} files, or too many or too deep directories, which are not counted: adopt its parts"
        ))
    };
    let mut memory = 0;
    let taken = |path: &Path| size_of::<PathBuf>() + path.as_os_str().len();
    while let Some(path) = pending.pop() {
        memory -= taken(&path).min(memory);
        let here = match beneath::open_here(directory, path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY) {
            // Somebody works in it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            Err(Errno::NAMETOOLONG) => return Err(uncounted()),
            result => result.context(count)?,
        };
        for entry in Dir::read_from(&here).context(count)? {
            let entry = entry.context(count)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match rustix::fs::statat(&here, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                result => result.context(count)?,
            };
            files += 1;
            if files > MOST_FILES || memory + linked.len() * LINKED > MOST_MEMORY {
                return Err(uncounted());
            }
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if stat.st_dev != device || !is_directory && stat.st_nlink > 1 && !linked.insert(stat.st_ino) {
                continue;
            }
            bytes += stat.st_blocks as u64 * 512;
            if is_directory {
                let inner = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
                memory += taken(&inner);
                pending.push(inner);
            }
        }
    }
    Ok(bytes)
}

fn note(volume: &Volume) -> Result<Option<Note>> {
    let Some(text) = journal::read(volume.dir.as_fd(), NOTE)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| unreadable(volume, &error))
}

fn unreadable(volume: &Volume, error: &serde_json::Error) -> Error {
    Error::Corrupt { what: format!("{NOTE} of volume {}", volume.uid), reason: error.to_string() }
}

fn forget(volume: &Volume) -> Result<()> {
    volume.remove(&[UNFINISHED, NOTE])
}

fn fixed(volume: &Volume) -> Error {
    Error::Unsupported(format!("volume {} is an adopted directory: it cannot be resized", volume.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// V8, V10. A pod can make as many directories as it likes, as deep as it likes.
    #[test]
    fn v8_counting_takes_no_more_memory_than_the_agent_has() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let top = directory_at(&temp.path().to_owned()).unwrap();
        let mut here = beneath::open_dir(&top, ".").unwrap();
        let long = "x".repeat(250);
        for _ in 0..15 {
            beneath::make_dir(&here, &long, Mode::RWXU).unwrap();
            here = beneath::open_dir(&here, &long).unwrap();
        }
        for i in 0..20_000 {
            beneath::make_dir(&here, format!("{i}"), Mode::RWXU).unwrap();
        }
        let counted = bytes_in(&beneath::open_dir(&top, ".").unwrap());
        assert!(matches!(counted, Err(Error::Unsupported(_))), "{counted:?}");
    }
}
