//! Backing `quota`: a directory per volume, with a project of its own on an ext4 or xfs that has project quota.
//!
//! Pods have the bare filesystem, with nothing in between. The kernel counts what a project takes and refuses more than
//! its hard limit: bytes, and the part of the filesystem's inodes that goes with them (V5).
//!
//! # Guarantees
//! - A project's number is noted beside the journal before anything has it. Numbers come from a counter of the disk's
//!   that only goes up, and one that the filesystem knows already is passed over (S4).
//! - A volume is made or grown only while what all volumes of this kind on the filesystem may still take is free.
//! - A volume is erased when the kernel counts nothing for its project any more (X4).
//!
//! # Caveats
//! - A limit is no reservation: what somebody else writes to the filesystem later is missing (the disk says so then). A
//!   filesystem of its own, or `loop`, keeps others out.
//! - The kernel lets the owner of a file give it to another project, unless he is in a user namespace of his own: pods
//!   that are not trusted need `hostUsers: false`, or another backing. What is given away counts as foreign.
//! - ext4 lets a process with CAP_SYS_RESOURCE, as in a privileged pod, write past any limit; xfs does not.
//! - A loop device that a privileged pod bound to a file inside is seen only when that file is gone.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::backing::{Backing, Opened};
use super::disk::Volume;
use super::error::{Context, Error, Result};
use super::filesystem::FsType;
use super::inuse::{self, OpenFile};
use super::lifecycle::busy;
use super::mountinfo::{Device, Mount};
use super::mounts::{self, Place};
use super::record::Record;
use super::{ErasePolicy, Usage, beneath, empty, filesystem, journal, options, sys};

/// The directory that pods see.
const DATA: &str = "data";
/// Which project it has.
const NOTE: &str = "project.json";
const UNFINISHED: &str = "project.json.new";
/// Which project is the next, in the disk's directory.
const NEXT: &str = "projects.json";

/// Below are the projects of people and of the kubelet.
const FIRST: u32 = 1 << 30;

/// Held from the moment that a project is found free until it has a limit; two disks may be on one filesystem.
static CHOOSING: Mutex<()> = Mutex::new(());

/// How often, and after what pause, it is asked whether the kernel has let the bytes of what was removed go.
const SETTLE: (u32, Duration) = (50, Duration::from_millis(100));

struct Quota {
    root: OwnedFd,
    device: Device,
    fs_type: FsType,
}

/// Content of `project.json`, and of `projects.json`.
#[derive(Serialize, Deserialize)]
struct Note {
    project: u32,
}

/// Opens the directory; refuses a filesystem that holds no project to its limit.
pub(super) fn open(path: &Path) -> Result<Opened> {
    inuse::ensure_sight()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))?;
    let refuse = |why: String| Err(Error::Unsupported(format!("{}: {why}", path.display())));
    let Ok(fs_type) = filesystem::kind_of(&root)? else {
        return refuse("backing Quota needs ext4 or xfs, and this file system is neither".to_owned());
    };
    match sys::enforces_project_quota(&root) {
        Ok(true) => {}
        Ok(false) | Err(Errno::NOSYS | Errno::SRCH | Errno::INVAL | Errno::OPNOTSUPP) => {
            let enable = if fs_type == FsType::Ext4 {
                "unmount it, `tune2fs -O project,quota -Q prjquota DEVICE`, mount it with -o prjquota"
            } else {
                "unmount it and mount it with -o prjquota (a remount is not enough)"
            };
            return refuse(format!(
                "this {fs_type} is mounted without project quota: {enable}; where the kernel has none, use backing Loop"
            ));
        }
        Err(error) => return Err(error).context(|| format!("ask {} for its quota", path.display())),
    }
    let device = Device::of(&root)?;
    let duplicate = root.try_clone().context(|| "duplicate a file descriptor")?;
    Ok(Opened { root, backing: Box::new(Quota { root: duplicate, device, fs_type }) })
}

impl Quota {
    fn of(&self, project: u32) -> Result<sys::ProjectQuota> {
        let found =
            sys::next_project_quota(&self.root, project).context(|| "ask for the quota of a volume")?;
        Ok(found.filter(|quota| quota.project == project).unwrap_or_default())
    }

    /// A project that nothing has or had.
    fn choose(&self) -> Result<u32> {
        let text = journal::read(self.root.as_fd(), NEXT)?;
        let mut project = text.map_or(Ok(FIRST), |text| parse(&text, NEXT))?;
        while let Some(taken) = sys::next_project_quota(&self.root, project)
            .context(|| "look for a project that is free")?
            .filter(|taken| taken.project == project)
        {
            project = taken.project + 1;
        }
        journal::replace(self.root.as_fd(), NEXT, &to_bytes(project + 1)?)?;
        Ok(project)
    }

    /// Lets a project have so many bytes, and the inodes that go with them, if they are free: free of what others
    /// have, and of what they were promised.
    fn limit(&self, volume: &Volume, project: u32, size: u64) -> Result<()> {
        let now = self.of(project)?;
        let stat = rustix::fs::fstatvfs(&self.root).context(|| "look at the disk")?;
        if size / 1024 > now.kib_limit {
            let mut promised = 0;
            let mut next = FIRST;
            while let Some(other) =
                sys::next_project_quota(&self.root, next).context(|| "sum up what volumes may take")?
            {
                if other.project != project {
                    promised += (other.kib_limit * 1024).saturating_sub(other.bytes);
                }
                next = other.project + 1;
            }
            let needed = size.saturating_sub(now.bytes);
            let available = (stat.f_bavail * stat.f_frsize).saturating_sub(promised);
            volume.ensure_free(needed, available)?;
        }
        let total = u128::from(stat.f_blocks) * u128::from(stat.f_frsize);
        let share = u128::from(stat.f_files) * u128::from(size) / total.max(1);
        let inodes = now.inodes.max(share as u64);
        sys::set_project_limits(&self.root, project, size / 1024, inodes)
            .context(|| format!("limit volume {} to {size} bytes", volume.uid))
    }

    fn make(&self, volume: &Volume, record: &Record) -> Result<()> {
        let choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
        let project = match note(volume)? {
            Some(project) => project,
            None => {
                let project = self.choose()?;
                journal::replace(volume.dir.as_fd(), NOTE, &to_bytes(project)?)?;
                project
            }
        };
        self.limit(volume, project, record.spec.size_bytes)?;
        drop(choosing);
        beneath::make_dir(&volume.dir, DATA, Mode::RWXU).context(|| "make the volume's directory")?;
        let data = data(volume)?.ok_or_else(|| lost(volume, "its directory is missing"))?;
        set_project(&data, project, true)?;
        filesystem::set_root(&data, record)?;
        rustix::fs::fsync(&data)
            .and_then(|()| rustix::fs::fsync(&volume.dir))
            .context(|| "synchronize the volume's directory")
    }

    /// The volume's directory and project, both as they have to be: pods may have changed the one, and a filesystem
    /// that was repaired the other.
    fn whole(&self, volume: &Volume, record: &Record) -> Result<(OwnedFd, u32)> {
        let data = data(volume)?.ok_or_else(|| lost(volume, "its directory is missing"))?;
        let project = note(volume)?.ok_or_else(|| lost(volume, "the note of its project is missing"))?;
        set_project(&data, project, true)?;
        let limit = self.of(project)?.kib_limit;
        let known = |size: u64| size / 1024 == limit;
        if !known(record.spec.size_bytes) && !record.resizing.is_some_and(known) {
            tracing::warn!(volume = %volume.uid, limit, "the limit of a volume was another one: set anew");
            let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
            self.limit(volume, project, record.spec.size_bytes)?;
        }
        Ok((data, project))
    }

    fn place(volume: &Volume) -> Result<Place> {
        let Place { device, path } = mounts::place(&volume.dir)?;
        Ok(Place { device, path: path.join(DATA) })
    }

    /// That nothing of a project is left, not even in a file without a name that somebody has open.
    fn ensure_gone(&self, volume: &Volume, project: u32) -> Result<()> {
        for _ in 0..SETTLE.0 {
            let left = self.of(project)?;
            if left.bytes == 0 && left.inodes == 0 {
                return Ok(());
            }
            std::thread::sleep(SETTLE.1);
        }
        Err(Error::Busy { what: format!("volume {}, of which files without a name are open,", volume.uid) })
    }
}

impl Backing for Quota {
    fn scratch(&self) -> Option<FsType> {
        Some(self.fs_type)
    }

    fn names(&self) -> Vec<&'static str> {
        vec![DATA, NOTE, UNFINISHED]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        filesystem::wanted(record)?;
        if record.spec.fs_type != self.fs_type {
            let (disk, there) = (&volume.disk, self.fs_type);
            return Err(Error::Unsupported(format!(
                "volumes on disk {disk} are directories of the {there} that is there: create the volume with fsType {there}"
            )));
        }
        let made = self.make(volume, record);
        if made.is_err() {
            // Nobody has used it yet; should there be something in it, it stays, and so does its project.
            beneath::remove(&volume.dir, DATA, AtFlags::REMOVEDIR)
                .context(|| "remove the volume's directory")?;
            if let Some(project) = note(volume)? {
                sys::set_project_limits(&self.root, project, 0, 0).context(|| "give a project up")?;
            }
            volume.remove(&[NOTE, UNFINISHED])?;
        }
        made
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        self.whole(volume, record).map(drop)
    }

    fn length(&self, volume: &Volume, record: &Record) -> Result<u64> {
        let limit =
            note(volume)?.map(|project| self.of(project)).transpose()?.map_or(0, |q| q.kib_limit * 1024);
        // What is no whole KiB is no limit of the kernel's.
        let same = limit == 0 || limit == record.spec.size_bytes / 1024 * 1024;
        Ok(if same { record.spec.size_bytes } else { limit })
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        let (_, project) = self.whole(volume, record)?;
        let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
        self.limit(volume, project, size)
    }

    /// The new limit is set by [`grow`](Self::grow).
    fn shrink(
        &self,
        volume: &Volume,
        record: &Record,
        size: u64,
        commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.release(volume)? {
            return Err(busy(&volume.uid));
        }
        let needed = self.of(self.whole(volume, record)?.1)?.bytes;
        if needed > size {
            return Err(Error::TooSmall { uid: volume.uid.clone(), needed, wanted: size });
        }
        commit()
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let (data, _) = self.whole(volume, record)?;
        mounts::view(&data, options::attributes(&record.spec.mount_options, read_only))
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(Place::of(mount) == Self::place(volume)?)
    }

    /// Mounts count if they show the volume or a part of it, open files if they have its project.
    fn release(&self, volume: &Volume) -> Result<bool> {
        let place = Self::place(volume)?;
        let project = note(volume)?;
        let open = |file: OpenFile| {
            file.filesystem == self.device && file.link.is_some_and(|link| has_project(&link, project))
        };
        inuse::anywhere(|mount| Place::of(mount).is_in(&place), open)
    }

    fn allocated(&self, volume: &Volume) -> Result<u64> {
        note(volume)?.map_or(Ok(0), |project| Ok(self.of(project)?.bytes))
    }

    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        let (data, project) = self.whole(volume, record)?;
        let (of_disk, quota) = (Usage::of(data)?, self.of(project)?);
        let limit = quota.kib_limit * 1024;
        Ok(Usage {
            total_bytes: limit,
            used_bytes: quota.bytes,
            available_bytes: limit.saturating_sub(quota.bytes).min(of_disk.available_bytes),
            total_inodes: quota.inode_limit,
            used_inodes: quota.inodes,
            available_inodes: quota.inode_limit.saturating_sub(quota.inodes).min(of_disk.available_inodes),
        })
    }

    /// `Discard` removes the files, and the limit when nothing counts for it any more. `Zero` is refused: what pods
    /// removed before left its bytes in free blocks, which other files may have by now.
    fn erase(&self, volume: &Volume, _: &Record, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "volumes on disk {} are directories of a file system, whose free blocks cannot be overwritten: set \
                 erasePolicy to Discard, and use a disk with backing Loop where that does not do",
                volume.disk
            )));
        }
        let project = note(volume)?;
        if let Some(data) = data(volume)? {
            // Emptying moves directories up, which the kernel allows between projects only where none is inherited.
            set_project(&data, project.unwrap_or_default(), false)?;
            empty::of_volume(&data, &volume.uid)?;
        }
        beneath::remove(&volume.dir, DATA, AtFlags::REMOVEDIR).context(|| "remove the volume's directory")?;
        rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk")?;
        if let Some(project) = project {
            self.ensure_gone(volume, project)?;
            sys::set_project_limits(&self.root, project, 0, 0).context(|| "give a project up")?;
        }
        volume.remove(&[NOTE, UNFINISHED])
    }
}

/// Gives a directory a project, and says whether what is made in it inherits that.
fn set_project(directory: &OwnedFd, project: u32, inherited: bool) -> Result<()> {
    let context = || "set the project of a volume's directory";
    let now = sys::file_attributes(directory).context(context)?;
    let mut wanted = now;
    wanted.project = project;
    wanted.flags = now.flags & !sys::INHERIT_PROJECT | if inherited { sys::INHERIT_PROJECT } else { 0 };
    if (wanted.project, wanted.flags) == (now.project, now.flags) {
        return Ok(());
    }
    sys::set_file_attributes(directory, wanted).context(context)
}

/// Whether a file that a process has open has this project; what cannot be looked at is taken to have it.
fn has_project(link: &PathBuf, project: Option<u32>) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, link, flags, Mode::empty()).map(File::from).and_then(sys::file_attributes) {
        Ok(found) => Some(found.project) == project,
        Err(Errno::NOENT | Errno::SRCH) => false,
        Err(_) => true,
    }
}

/// Opens the volume's directory, if it is there and nothing is mounted over it.
fn data(volume: &Volume) -> Result<Option<OwnedFd>> {
    match beneath::open_dir(&volume.dir, DATA) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).context(|| format!("open the directory of volume {}", volume.uid)),
    }
}

fn note(volume: &Volume) -> Result<Option<u32>> {
    journal::read(volume.dir.as_fd(), NOTE)?.map(|text| parse(&text, NOTE)).transpose()
}

fn parse(text: &[u8], name: &str) -> Result<u32> {
    let corrupt = |reason: String| Error::Corrupt { what: name.to_owned(), reason };
    let note: Note = serde_json::from_slice(text).map_err(|error| corrupt(error.to_string()))?;
    match note.project {
        FIRST.. if note.project < u32::MAX => Ok(note.project),
        other => Err(corrupt(format!("{other} is no project of ours"))),
    }
}

fn to_bytes(project: u32) -> Result<Vec<u8>> {
    serde_json::to_vec(&Note { project })
        .map_err(|error| Error::Corrupt { what: NOTE.to_owned(), reason: error.to_string() })
}

fn lost(volume: &Volume, reason: &str) -> Error {
    Error::BackingLost { uid: volume.uid.clone(), reason: reason.to_owned() }
}
