//! Backing `Quota`: a directory per volume, with a project of its own on an ext4 or xfs that has project quota.
//!
//! Pods use the disk's filesystem directly. The kernel counts a project's bytes and inodes, and enforces two hard
//! limits: the volume's size, and its share of the filesystem's inodes (V5).
//!
//! # Guarantees
//! - The agent notes a project's number beside the record before any file has the number. Numbers are random, and a
//!   number with counted bytes or inodes is not used (S4). Otherwise a pod could give its files the number of a later
//!   volume, and keep that volume busy for ever.
//! - A volume is made or grown only while all bytes that volumes of this backing may still take are free.
//! - A volume is erased when the kernel counts nothing for its project any more (X4).
//!
//! # Caveats
//! - A limit reserves no space: other writers to the filesystem can take a volume's bytes later. The disk's report
//!   shows the loss. A separate filesystem, or `Loop`, prevents it.
//! - The kernel lets the owner of a file give it to another project, except in a user namespace of the owner's own.
//!   So untrusted pods need `hostUsers: false`, or another backing. Files that an owner has moved to another project
//!   count as foreign data.
//! - ext4 lets a process with CAP_SYS_RESOURCE, as in a privileged pod, write past any limit; xfs does not.
//! - The in-use check finds a loop device on a file of the volume only once the file is removed. Only a privileged
//!   pod can bind such a device.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::host::backings::backing::{Backing, Commit, DiskSpace, Opened};
use crate::host::error::{Context, Error, Result};
use crate::host::sys::{
    Device, Mount, Place, Uses, dirfd, filesystem, in_use, mounts, random_uuid, remove_tree, syscalls,
};
use crate::host::types::{ErasePolicy, FsType, Record, Usage};
use crate::host::volume::Volume;

const DATA: &str = "data";
const NOTE: &str = "project.json";
const UNFINISHED: &str = "project.json.new";
/// The first project of an agent; people and the kubelet use lower numbers.
const FIRST: u32 = 1 << 30;

/// Held from the choice of an unused project until the project has a limit. Static, because two disks may be on one
/// filesystem.
static CHOOSING: Mutex<()> = Mutex::new(());

/// Number of checks that the bytes of removed files are free, and the pause between two checks.
const RELEASE: (u32, Duration) = (50, Duration::from_millis(100));

struct Quota {
    root: OwnedFd,
    device: Device,
    fs_type: FsType,
}

/// Content of `project.json`.
#[derive(Serialize, Deserialize)]
struct Note {
    project: u32,
}

/// Opens the directory; refuses a filesystem that enforces no project limits.
pub(super) fn open(path: &Path) -> Result<Opened> {
    in_use::ensure_processes_visible()?;
    let root = dirfd::open_configured(path)?;
    let refuse = |reason: &str| Err(Error::unsuitable_disk(path, reason));
    let Ok(fs_type) = filesystem::kind_of(&root)? else {
        return refuse(
            "is neither on ext4 nor on xfs, which backing Quota needs: use a directory on one of these",
        );
    };
    match syscalls::enforces_project_quota(&root) {
        Ok(true) => {}
        Ok(false) | Err(Errno::NOSYS | Errno::SRCH | Errno::INVAL | Errno::OPNOTSUPP) => {
            let Device { major, minor } = Device::of(&root)?;
            let enable = match fs_type {
                FsType::Ext4 => format!(
                    "unmount it, `tune2fs -O project,quota -Q prjquota /dev/block/{major}:{minor}`, mount it with -o prjquota"
                ),
                _ => "unmount it and mount it with -o prjquota (a remount is not enough)".to_owned(),
            };
            return refuse(&format!(
                "is on an {fs_type} that is mounted without project quota: {enable}; where the kernel has none, use backing Loop"
            ));
        }
        Err(error) => return Err(error).context(|| format!("read the quota of {}", path.display())),
    }
    let device = Device::of(&root)?;
    let duplicate = root.try_clone().context(|| "duplicate a file descriptor")?;
    Ok(Opened { root, backing: Box::new(Quota { root: duplicate, device, fs_type }) })
}

impl Quota {
    fn quota_of(&self, project: u32) -> Result<syscalls::ProjectQuota> {
        let found =
            syscalls::next_project_quota(&self.root, project).context(|| "read the quota of a volume")?;
        Ok(found.filter(|quota| quota.project == project).unwrap_or_default())
    }

    /// A project that no file has.
    fn choose_project(&self) -> Result<u32> {
        loop {
            let random = random_uuid()?.bytes();
            let [a, b, c, d, ..] = random;
            let project = FIRST + u32::from_ne_bytes([a, b, c, d]) % (u32::MAX - FIRST);
            let next =
                syscalls::next_project_quota(&self.root, project).context(|| "look for an unused project")?;
            if next.is_none_or(|next| next.project != project) {
                return Ok(project);
            }
        }
    }

    /// Limits a project to `size` bytes and the proportional share of inodes. Fails if other projects have or may
    /// take the bytes.
    fn set_limit(&self, volume: &Volume, project: u32, size: u64) -> Result<()> {
        let now = self.quota_of(project)?;
        let stat = rustix::fs::fstatvfs(&self.root).context(|| "look at the disk")?;
        if size / 1024 > now.kib_limit {
            let mut promised = 0u64;
            let mut next = FIRST;
            while let Some(other) =
                syscalls::next_project_quota(&self.root, next).context(|| "sum up what volumes may take")?
            {
                if other.project != project {
                    let left = other.byte_limit().saturating_sub(other.bytes);
                    promised = promised.saturating_add(left);
                }
                next = other.project.saturating_add(1);
            }
            let needed = size.saturating_sub(now.bytes);
            let free = DiskSpace::of_filesystem(&self.root)?.free;
            let available = free.saturating_sub(promised);
            volume.ensure_free(needed, available)?;
        }
        let total = u128::from(stat.f_blocks) * u128::from(stat.f_frsize);
        let share = u128::from(stat.f_files) * u128::from(size) / total.max(1);
        let inodes = now.inodes.max(share as u64);
        syscalls::set_project_limits(&self.root, project, size / 1024, inodes)
            .context(|| format!("limit volume {} to {size} bytes", volume.uid))
    }

    fn make(&self, volume: &Volume, record: &Record) -> Result<()> {
        let choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
        let project = match note(volume)? {
            Some(project) => project,
            None => {
                let project = self.choose_project()?;
                volume.write_note(NOTE, &Note { project })?;
                project
            }
        };
        self.set_limit(volume, project, record.spec.size_bytes)?;
        drop(choosing);
        dirfd::make_dir(&volume.dir, DATA, Mode::RWXU).context(|| "make the volume's directory")?;
        let data = volume.open_dir(DATA)?.ok_or_else(|| volume.lost("its directory is missing"))?;
        set_project(&data, project, true)?;
        filesystem::set_root(&data, record.spec.gid, record.spec.mode)?;
        rustix::fs::fsync(&data)
            .and_then(|()| rustix::fs::fsync(&volume.dir))
            .context(|| "synchronize the volume's directory")
    }

    /// The volume's directory and project, after a correction of both if needed. Pods can change the directory's
    /// project, and a repair of the filesystem can change the limit.
    fn corrected(&self, volume: &Volume, record: &Record) -> Result<(OwnedFd, u32)> {
        let data = volume.open_dir(DATA)?.ok_or_else(|| volume.lost("its directory is missing"))?;
        let project = note(volume)?.ok_or_else(|| volume.lost("the note of its project is missing"))?;
        set_project(&data, project, true)?;
        let limit = self.quota_of(project)?.kib_limit;
        let known = |size: u64| size / 1024 == limit;
        if !known(record.spec.size_bytes) && !record.resizing.is_some_and(known) {
            tracing::warn!(volume = record.spec.name, limit, "corrects the wrong limit of a volume");
            let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
            self.set_limit(volume, project, record.spec.size_bytes)?;
        }
        Ok((data, project))
    }

    fn place(volume: &Volume) -> Result<Place> {
        let Place { device, path } = mounts::place(&volume.dir)?;
        Ok(Place { device, path: path.join(DATA) })
    }

    /// Waits until the kernel counts nothing for a project: an unlinked file keeps its bytes while a process has it
    /// open.
    fn wait_until_free(&self, volume: &Volume, project: u32) -> Result<()> {
        for _ in 0..RELEASE.0 {
            let left = self.quota_of(project)?;
            if left.bytes == 0 && left.inodes == 0 {
                return Ok(());
            }
            std::thread::sleep(RELEASE.1);
        }
        Err(Error::Busy { what: format!("volume {}, of which files without a name are open,", volume.uid) })
    }
}

impl Backing for Quota {
    fn scratch_fs_type(&self) -> Option<FsType> {
        Some(self.fs_type)
    }

    fn file_names(&self) -> Vec<&'static str> {
        vec![DATA, NOTE, UNFINISHED]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        record.spec.ensure_not_raw()?;
        if record.spec.fs_type != self.fs_type {
            let (disk, there) = (&volume.disk, self.fs_type);
            return Err(Error::Unsupported(format!(
                "volumes on disk {disk} are directories of the {there} that is there: create the volume with fsType {there}"
            )));
        }
        let made = self.make(volume, record);
        if made.is_err() {
            // A directory with a file keeps the file's project, so the new directory must be empty.
            dirfd::remove(&volume.dir, DATA, AtFlags::REMOVEDIR)
                .context(|| "remove the volume's directory")?;
            if let Some(project) = note(volume)? {
                syscalls::set_project_limits(&self.root, project, 0, 0)
                    .context(|| "remove the limits of a project")?;
            }
            volume.remove_files(&[NOTE, UNFINISHED])?;
        }
        made
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        self.corrected(volume, record).map(drop)
    }

    fn size_on_disk(&self, volume: &Volume, record: &Record) -> Result<u64> {
        let limit = note(volume)?
            .map(|project| self.quota_of(project))
            .transpose()?
            .map_or(0, |quota| quota.byte_limit());
        // The kernel's limits are whole KiB.
        let same = limit == 0 || limit == record.spec.size_bytes / 1024 * 1024;
        Ok(if same { record.spec.size_bytes } else { limit })
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        let (_, project) = self.corrected(volume, record)?;
        let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_limit(volume, project, size)
    }

    /// The new limit is set by [`grow`](Self::grow).
    fn shrink(&self, volume: &Volume, record: &Record, size: u64, commit: Commit<'_>) -> Result<()> {
        if self.in_use(volume)? {
            return Err(Error::volume_in_use(&volume.uid));
        }
        let needed = self.quota_of(self.corrected(volume, record)?.1)?.bytes;
        if needed > size {
            return Err(Error::TooSmall { uid: volume.uid.clone(), needed, wanted: size });
        }
        commit()
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let (data, _) = self.corrected(volume, record)?;
        mounts::of_open(&data, record.spec.mount_attributes(read_only))
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(Place::of(mount) == Self::place(volume)?)
    }

    /// Mounts of the volume or of a part of it count as use, and so do open files with its project.
    fn in_use(&self, volume: &Volume) -> Result<bool> {
        in_use::in_use(&self.uses(volume)?)
    }

    fn uses(&self, volume: &Volume) -> Result<Uses<'_>> {
        let (place, project) = (Self::place(volume)?, note(volume)?);
        let has_project = move |link: &PathBuf| has_project(link, project);
        Ok(Uses::new(
            move |mount| Place::of(mount).is_in(&place),
            move |file| file.filesystem == self.device && file.link.as_ref().is_some_and(has_project),
        ))
    }

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        note(volume)?.map_or(Ok(0), |project| Ok(self.quota_of(project)?.bytes))
    }

    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        let (data, project) = self.corrected(volume, record)?;
        let (of_disk, quota) = (Usage::of_filesystem(data)?, self.quota_of(project)?);
        let limit = quota.byte_limit();
        Ok(Usage {
            total_bytes: limit,
            used_bytes: quota.bytes,
            available_bytes: limit.saturating_sub(quota.bytes).min(of_disk.available_bytes),
            total_inodes: quota.inode_limit,
            used_inodes: quota.inodes,
            available_inodes: quota.inode_limit.saturating_sub(quota.inodes).min(of_disk.available_inodes),
        })
    }

    /// `Discard` removes the files, and removes the limit once the kernel counts nothing for the project. `Zero` is
    /// refused: files that pods removed left their bytes in free blocks, and other files may have those blocks by
    /// now.
    fn erase(&self, volume: &Volume, _: &Record, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "volumes on disk {} are directories of a filesystem, whose free blocks cannot be overwritten: set \
                 erasePolicy to Discard, and use a disk with backing Loop where that does not do",
                volume.disk
            )));
        }
        let project = note(volume)?;
        if let Some(data) = volume.open_dir(DATA)? {
            // `empty_dir` moves directories up. The kernel refuses a move between two projects if the directories
            // inherit their project.
            set_project(&data, project.unwrap_or_default(), false)?;
            remove_tree::empty_volume(&data, &volume.uid)?;
        }
        dirfd::remove(&volume.dir, DATA, AtFlags::REMOVEDIR).context(|| "remove the volume's directory")?;
        rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk")?;
        if let Some(project) = project {
            self.wait_until_free(volume, project)?;
            syscalls::set_project_limits(&self.root, project, 0, 0)
                .context(|| "remove the limits of a project")?;
        }
        volume.remove_files(&[NOTE, UNFINISHED])
    }
}

/// Sets the project of a directory. With `inherited`, new files in the directory get the same project.
fn set_project(directory: &OwnedFd, project: u32, inherited: bool) -> Result<()> {
    let context = || "set the project of a volume's directory";
    let now = syscalls::file_attributes(directory).context(context)?;
    let mut wanted = now;
    wanted.project = project;
    wanted.flags =
        now.flags & !syscalls::INHERIT_PROJECT | if inherited { syscalls::INHERIT_PROJECT } else { 0 };
    if (wanted.project, wanted.flags) == (now.project, now.flags) {
        return Ok(());
    }
    syscalls::set_file_attributes(directory, wanted).context(context)
}

/// True if the open file behind the link has this project, or if the agent cannot look at the file.
fn has_project(link: &PathBuf, project: Option<u32>) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, link, flags, Mode::empty())
        .map(File::from)
        .and_then(syscalls::file_attributes)
    {
        Ok(found) => Some(found.project) == project,
        Err(Errno::NOENT | Errno::SRCH) => false,
        Err(_) => true,
    }
}

fn note(volume: &Volume) -> Result<Option<u32>> {
    match volume.note::<Note>(NOTE)?.map(|note| note.project) {
        Some(other) if !(FIRST..u32::MAX).contains(&other) => {
            Err(Error::corrupt(NOTE, format!("{other} is no project of the agent")))
        }
        project => Ok(project),
    }
}
