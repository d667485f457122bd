//! Mounts, made and placed by descriptor.
//!
//! A mount is first made detached, with all its attributes, and then moved onto a directory that is already open: it is
//! never visible without its mode (S9, M3), and no path is resolved twice (M7).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::error::{Context, Error, Result, settled};
use super::filesystem::FsType;
use super::mountinfo::{self, Device, Mount};
use super::{beneath, sys};

/// A mount of a block device's filesystem that is in no directory yet, and goes away when it is dropped.
///
/// However often it is called, the kernel keeps one superblock per device: each result is one more view of it. The
/// superblock itself is always writable; `attributes` concern this view alone.
pub(super) fn detached(fs_type: FsType, device: &str, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(fs_type.name(), FsOpenFlags::FSOPEN_CLOEXEC)
        .context(|| format!("prepare a mount of {fs_type}"))?;
    let configured = rustix::mount::fsconfig_set_string(&context, "source", device)
        .and_then(|()| rustix::mount::fsconfig_create(&context))
        .and_then(|()| rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes));
    configured.map_err(|source| Error::Io {
        context: format!("mount {device} as {fs_type}{}", kernel_log(&context)),
        source,
    })
}

/// The same of the device of that number: it is named by a path, and a path can lie.
pub(super) fn of_device(
    fs_type: FsType,
    path: &str,
    device: Device,
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let mount = settled(|| detached(fs_type, path, attributes))?;
    match Device::of(&mount)? == device {
        true => Ok(mount),
        false => Err(Error::Conflict(format!("{path} was replaced while it was mounted"))),
    }
}

/// A view of a directory or file that is open, in no directory yet; it goes away when it is dropped. What is mounted
/// beneath is not in it.
pub(super) fn view(of: &OwnedFd, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let here = OpenTreeFlags::from_bits_retain(AtFlags::EMPTY_PATH.bits());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | here;
    let mount = rustix::mount::open_tree(of, "", flags).context(|| "make a view of a volume")?;
    sys::set_mount_attributes(&mount, attributes).context(|| "set the attributes of a view of a volume")?;
    Ok(mount)
}

/// What the kernel has to say about a failed mount.
fn kernel_log(context: &OwnedFd) -> String {
    let mut log = String::new();
    let mut line = [0; 512];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        log.push_str(&format!(" ({})", String::from_utf8_lossy(&line[..length]).trim()));
    }
    log
}

/// The mount whose root `fd` is, or `None` if `fd` lies inside one.
pub(super) fn rooted_at(fd: impl AsFd) -> Result<Option<Mount>> {
    let fd = fd.as_fd();
    let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .context(|| "ask for the mount of a directory")?;
    if !found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        || found.stx_mask & StatxFlags::MNT_ID.bits() == 0
    {
        return Err(Error::Unsupported("Linux 5.8 or newer is needed".to_owned()));
    }
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(None);
    }
    let id = found.stx_mnt_id;
    match mountinfo::mounts()?.into_iter().find(|mount| mount.id == id) {
        Some(mount) => {
            let stat = rustix::fs::fstat(fd).context(|| "look at what is mounted")?;
            let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
            let node = is_block.then(|| Device::from_raw(stat.st_rdev));
            Ok(Some(Mount { node, inode: Some(stat.st_ino), ..mount }))
        }
        None => Err(Error::Busy { what: "a mount that is just going away".to_owned() }),
    }
}

/// A directory as its filesystem knows it, however it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) path: PathBuf,
}

impl Place {
    /// What a mount shows.
    pub(super) fn of(mount: &Mount) -> Self {
        Self { device: mount.device, path: mount.root.clone() }
    }

    /// Whether it is the other one or a part of it.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }

    /// Whether they have something in common.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.is_in(other) || other.is_in(self)
    }
}

/// Where a directory that is open is.
pub(super) fn place(of: impl AsFd) -> Result<Place> {
    let of = of.as_fd();
    let found = rustix::fs::statx(of, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .context(|| "ask for the mount of a directory")?;
    let path = std::fs::read_link(format!("/proc/thread-self/fd/{}", of.as_raw_fd()))
        .context(|| "ask for the path of a directory")?;
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

/// A place for a mount: a name in a directory that is open. A directory is mounted on a directory, a device on an empty
/// file.
pub(super) struct Target {
    pub(super) parent: OwnedFd,
    pub(super) name: String,
    /// The whole path, for messages.
    pub(super) path: String,
}

/// What is at a target.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing.
    Missing,
    /// A directory, nothing mounted on it.
    Directory(OwnedFd),
    /// An empty file, nothing mounted on it.
    File(OwnedFd),
    /// The uppermost mount on it.
    Mount(Mount),
}

impl Target {
    /// Says what is there; a symbolic link, or a file in which there is something, is refused.
    pub(super) fn look(&self) -> Result<Found> {
        let fd = match beneath::open(&self.parent, &self.name, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Found::Missing),
            result => result.context(|| format!("open target {}", self.path))?,
        };
        let stat = rustix::fs::fstat(&fd).context(|| format!("look at target {}", self.path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            return Err(self.is_wrongly("a symbolic link"));
        }
        match (rooted_at(&fd)?, kind) {
            (Some(mount), _) => Ok(Found::Mount(mount)),
            (None, FileType::Directory) => Ok(Found::Directory(fd)),
            (None, FileType::RegularFile) if stat.st_size == 0 => Ok(Found::File(fd)),
            (None, _) => Err(self.is_wrongly("not a directory")),
        }
    }

    /// That what is at the target is in the way.
    pub(super) fn is_wrongly(&self, what: &str) -> Error {
        Error::Conflict(format!("target {} is {what}: remove it", self.path))
    }

    /// Moves a detached mount here, onto a directory or, for a device, a file, which is made if it is missing.
    pub(super) fn attach(&self, mount: &OwnedFd, is_device: bool) -> Result<()> {
        let made = match is_device {
            true => beneath::create(&self.parent, &self.name).map(drop),
            false => {
                beneath::make_dir(&self.parent, &self.name, Mode::RWXU | Mode::RGRP | Mode::XGRP).map(drop)
            }
        };
        match made {
            Err(Errno::EXIST) => {}
            result => result.context(|| format!("make target {}", self.path))?,
        }
        let place = match self.look()? {
            Found::Directory(place) if !is_device => place,
            Found::File(place) if is_device => place,
            _ => return Err(Error::Conflict(format!("target {} changed meanwhile: try again", self.path))),
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, "", &place, "", flags)
            .context(|| format!("put the mount onto {}", self.path))?;
        // What is mounted on cannot be renamed; a moment before it could be, and the mount be under another name now. A
        // rename that was under way has ended when the parent is locked once more, which making what is there does.
        let id = |fd: &OwnedFd| {
            rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
        };
        let is_here = || {
            beneath::make_dir(&self.parent, &self.name, Mode::RWXU)?;
            let here = beneath::open(&self.parent, &self.name, OFlags::PATH | OFlags::NOFOLLOW)?;
            Ok(id(&here)? == id(mount)?)
        };
        let found: rustix::io::Result<bool> = is_here();
        if found == Ok(true) {
            return Ok(());
        }
        let path = format!("/proc/thread-self/fd/{}", mount.as_raw_fd());
        rustix::mount::unmount(path, UnmountFlags::DETACH)
            .context(|| "take back a mount that went astray")?;
        found.context(|| format!("see whether the mount is at {}", self.path))?;
        Err(Error::Conflict(format!("target {} changed meanwhile: try again", self.path)))
    }

    /// Takes the uppermost mount away. While somebody works in it, that is refused and nothing changes.
    pub(super) fn unmount(&self) -> Result<()> {
        // umount(2) knows no descriptors, hence the parent's magic link; a descriptor of the mount itself would keep it
        // busy. Not "self": the mount belongs to this thread's namespace.
        let path = format!("/proc/thread-self/fd/{}/{}", self.parent.as_raw_fd(), self.name);
        let unmount = || {
            rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW).context(|| format!("unmount {}", self.path))
        };
        settled(unmount).map_err(|error| match error {
            Error::Io { source: Errno::BUSY, .. } => {
                Error::Busy { what: format!("the mount at {}", self.path) }
            }
            error => error,
        })
    }

    /// Removes the directory or file, which must be empty.
    pub(super) fn remove(&self) -> Result<()> {
        let flags = match self.look()? {
            Found::File(_) => AtFlags::empty(),
            _ => AtFlags::REMOVEDIR,
        };
        beneath::remove(&self.parent, &self.name, flags).context(|| format!("remove target {}", self.path))
    }
}
