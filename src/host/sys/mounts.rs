//! Mounts, made and placed by descriptor.
//!
//! A mount is made detached, with all its attributes, and then moved onto an open directory. So the mount is never
//! visible without its mode (S9, M3), and no path is resolved twice (M7).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::host::error::{Context, Error, Result, retry_while_busy};
use crate::host::sys::mountinfo::{self, Device, Mount};
use crate::host::sys::{dirfd, syscalls};
use crate::host::types::FsType;

/// A detached mount of a block device's filesystem; dropping the mount unmounts it.
///
/// The kernel keeps one superblock per device, so each mount is one more view of it. The superblock itself is
/// writable unless `read_only`; `attributes` concern this mount alone. Another device may replace the one at a path, so the mounted
/// device is compared with `device`.
pub(crate) fn of_device(
    fs_type: FsType,
    path: &str,
    device: Device,
    attributes: MountAttrFlags,
    read_only: bool,
) -> Result<OwnedFd> {
    let mount = retry_while_busy(|| {
        let context = rustix::mount::fsopen(fs_type.name(), FsOpenFlags::FSOPEN_CLOEXEC)
            .context(|| format!("prepare a mount of {fs_type}"))?;
        let flag = || if read_only { rustix::mount::fsconfig_set_flag(&context, "ro") } else { Ok(()) };
        rustix::mount::fsconfig_set_string(&context, "source", path)
            .and_then(|()| flag())
            .and_then(|()| rustix::mount::fsconfig_create(&context))
            .and_then(|()| rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes))
            .map_err(|source| Error::Io {
                context: format!("mount {path} as {fs_type}{}", kernel_log(&context)),
                source,
            })
    })?;
    match Device::of(&mount)? == device {
        true => Ok(mount),
        false => {
            Err(Error::Conflict(format!("{path} is another device now: put the disk's own device back")))
        }
    }
}

/// Makes the filesystem of a device read-only, or writable, with all its mounts.
///
/// # Errors
/// `EBUSY` if a file is open for writing.
pub(crate) fn set_read_only(fs_type: FsType, path: &str, device: Device, read_only: bool) -> Result<()> {
    // A mount in the other mode is refused as busy while the filesystem is mounted.
    let mount = |read_only| of_device(fs_type, path, device, MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    let other = match mount(read_only) {
        Err(Error::Io { source: Errno::BUSY, .. }) => mount(!read_only)?,
        result => return result.map(drop),
    };
    let flag = if read_only { "ro" } else { "rw" };
    let change = || {
        let context =
            rustix::mount::fspick(&other, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
        rustix::mount::fsconfig_set_flag(&context, flag)?;
        rustix::mount::fsconfig_reconfigure(&context)
    };
    change().context(|| format!("make the {fs_type} on {path} {flag}"))
}

/// A detached mount of an open directory or file, without the mounts beneath. Dropping the mount unmounts it.
pub(crate) fn of_open(file: &OwnedFd, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let here = OpenTreeFlags::from_bits_retain(AtFlags::EMPTY_PATH.bits());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | here;
    let mount = rustix::mount::open_tree(file, "", flags).context(|| "make a mount of a volume")?;
    syscalls::set_mount_attributes(&mount, attributes)
        .context(|| "set the attributes of a mount of a volume")?;
    Ok(mount)
}

/// The kernel's messages about a failed mount.
fn kernel_log(context: &OwnedFd) -> String {
    let mut log = String::new();
    let mut line = [0; 512];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        log.push_str(&format!(" ({})", String::from_utf8_lossy(&line[..length]).trim()));
    }
    log
}

/// The mount that has `fd` as its root; `None` if `fd` is deeper inside a mount.
pub(crate) fn rooted_at(fd: impl AsFd) -> Result<Option<Mount>> {
    let fd = fd.as_fd();
    let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .context(|| "look for the mount of a directory")?;
    if !found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        || found.stx_mask & StatxFlags::MNT_ID.bits() == 0
    {
        return Err(Error::KernelTooOld("mounting volumes needs Linux 5.12 or newer"));
    }
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(None);
    }
    let id = found.stx_mnt_id;
    match mountinfo::mounts()?.into_iter().find(|mount| mount.id == id) {
        Some(mount) => {
            let stat = rustix::fs::fstat(fd).context(|| "look at the root of a mount")?;
            Ok(Some(Mount { node: Device::of_node(fd)?, inode: Some(stat.st_ino), ..mount }))
        }
        None => Err(Error::Busy { what: "a mount that is just going away".to_owned() }),
    }
}

/// True if the root of a file system is mounted at the path, or at the directory that holds the path. The root of this
/// process' mount namespace does not count. A part of a file system is no such mount: in a container, a directory of the
/// node's root file system is mounted in the same way.
pub(crate) fn has_own_mount(path: &Path) -> Result<bool> {
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    let opened = match (open(path), path.parent()) {
        (Err(Errno::NOENT), Some(above)) => open(above),
        (opened, _) => opened,
    };
    let directory = match opened {
        Err(Errno::NOENT) => return Ok(false),
        opened => opened.context(|| format!("open directory {}", path.display()))?,
    };
    let found = rustix::fs::statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .context(|| "look for the mount of a directory")?;
    let mount = mountinfo::mounts()?.into_iter().find(|mount| mount.id == found.stx_mnt_id);
    let root = Path::new("/");
    Ok(mount.is_some_and(|mount| mount.root == root && mount.point != root))
}

/// A directory's place on its filesystem, the same through every bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) device: Device,
    pub(crate) path: PathBuf,
}

impl Place {
    pub(crate) fn of(mount: &Mount) -> Self {
        Self { device: mount.device, path: mount.root.clone() }
    }

    /// True if this is the other directory, or a directory inside.
    pub(crate) fn is_in(&self, other: &Self) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.is_in(other) || other.is_in(self)
    }
}

pub(crate) fn place(directory: impl AsFd) -> Result<Place> {
    let directory = directory.as_fd();
    let found = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .context(|| "look for the mount of a directory")?;
    let path = std::fs::read_link(format!("/proc/thread-self/fd/{}", directory.as_raw_fd()))
        .context(|| "read the path of a directory")?;
    let mounts = mountinfo::mounts()?;
    let mount = mounts.iter().find(|mount| mount.id == found.stx_mnt_id);
    match mount.and_then(|mount| Some((mount, path.strip_prefix(&mount.point).ok()?))) {
        Some((mount, inside)) => {
            let path = mount.root.components().chain(inside.components()).collect();
            Ok(Place { device: mount.device, path })
        }
        None => Err(Error::Busy { what: format!("{}, whose mount is just changing,", path.display()) }),
    }
}

/// A mount point: a name in an open directory. A directory is mounted on a directory, a device on an empty file.
pub(crate) struct Target {
    pub(crate) parent: OwnedFd,
    pub(crate) name: String,
    /// The whole path, for messages.
    pub(crate) path: String,
}

/// The object at a target.
#[derive(Debug)]
pub(crate) enum Found {
    /// No file.
    Missing,
    /// A directory without a mount.
    Directory(OwnedFd),
    /// An empty file without a mount.
    File(OwnedFd),
    /// The uppermost mount at the target.
    Mount(Mount),
}

impl Target {
    /// Looks up the target; refuses a symbolic link, and a file with content.
    pub(crate) fn look(&self) -> Result<Found> {
        let fd = match dirfd::open(&self.parent, &self.name, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Found::Missing),
            result => result.context(|| format!("open target {}", self.path))?,
        };
        let stat = rustix::fs::fstat(&fd).context(|| format!("look at target {}", self.path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            return Err(self.obstructed_by("a symbolic link"));
        }
        match (rooted_at(&fd)?, kind) {
            (Some(mount), _) => Ok(Found::Mount(mount)),
            (None, FileType::Directory) => Ok(Found::Directory(fd)),
            (None, FileType::RegularFile) if stat.st_size == 0 => Ok(Found::File(fd)),
            (None, _) => Err(self.obstructed_by("not a directory")),
        }
    }

    /// The error for a target on which the volume cannot be mounted.
    pub(crate) fn obstructed_by(&self, found: &str) -> Error {
        Error::Conflict(format!("target {} is {found}: remove it", self.path))
    }

    /// Moves a detached mount to this target: onto a directory or, for a device, onto a file. A missing mount point
    /// is made.
    pub(crate) fn attach(&self, mount: &OwnedFd, is_device: bool) -> Result<()> {
        let changed = || Error::Conflict(format!("target {} changed meanwhile: try again", self.path));
        let made = match is_device {
            true => dirfd::create(&self.parent, &self.name).map(drop),
            false => {
                dirfd::make_dir(&self.parent, &self.name, Mode::RWXU | Mode::RGRP | Mode::XGRP).map(drop)
            }
        };
        match made {
            Err(Errno::EXIST) => {}
            result => result.context(|| format!("make target {}", self.path))?,
        }
        let place = match self.look()? {
            Found::Directory(place) if !is_device => place,
            Found::File(place) if is_device => place,
            _ => return Err(changed()),
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, "", &place, "", flags)
            .context(|| format!("put the mount onto {}", self.path))?;
        // Nobody can rename a mount point, but a rename just before may have moved this one. Such a rename holds the
        // lock of the parent. So it has ended when mkdir gets that lock.
        let id = |fd: &OwnedFd| {
            rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
        };
        let is_here = || {
            dirfd::make_dir(&self.parent, &self.name, Mode::RWXU)?;
            let here = dirfd::open(&self.parent, &self.name, OFlags::PATH | OFlags::NOFOLLOW)?;
            Ok(id(&here)? == id(mount)?)
        };
        let found: rustix::io::Result<bool> = is_here();
        if found == Ok(true) {
            return Ok(());
        }
        let path = format!("/proc/thread-self/fd/{}", mount.as_raw_fd());
        rustix::mount::unmount(path, UnmountFlags::DETACH).context(|| "undo a mount at a renamed target")?;
        found.context(|| format!("look for the mount at {}", self.path))?;
        Err(changed())
    }

    /// Removes the uppermost mount. While the mount is in use, the kernel refuses and nothing changes.
    pub(crate) fn unmount(&self) -> Result<()> {
        // umount(2) takes no descriptor, so the path goes through the parent's magic link. A descriptor of the mount
        // itself would keep the mount busy. `self` would not do: the mount belongs to this thread's namespace.
        let path = format!("/proc/thread-self/fd/{}/{}", self.parent.as_raw_fd(), self.name);
        let unmount = || {
            rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW).context(|| format!("unmount {}", self.path))
        };
        retry_while_busy(unmount).map_err(|error| match error {
            Error::Io { source: Errno::BUSY, .. } => {
                Error::Busy { what: format!("the mount at {}", self.path) }
            }
            error => error,
        })
    }

    pub(crate) fn remove(&self) -> Result<()> {
        let flags = match self.look()? {
            Found::File(_) => AtFlags::empty(),
            _ => AtFlags::REMOVEDIR,
        };
        dirfd::remove(&self.parent, &self.name, flags).context(|| format!("remove target {}", self.path))
    }
}
