//! Mounts, made and placed by descriptor.
//!
//! A mount is first made detached, with all its attributes, and then moved onto a directory that is already open: it is
//! never visible without its mode (S9, M3), and no path is resolved twice (M7).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};

use super::beneath;
use super::error::{Context, Error, Result, settled};
use super::filesystem::FsType;
use super::mountinfo::{self, Mount};

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
        Some(mount) => Ok(Some(mount)),
        None => Err(Error::Busy { what: "a mount that is just going away".to_owned() }),
    }
}

/// A place for a mount: a name in a directory that is open.
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
    /// The uppermost mount on it.
    Mount(Mount),
}

impl Target {
    /// Says what is there; a file or a symbolic link is refused.
    pub(super) fn look(&self) -> Result<Found> {
        let refuse = |what: &str| Err(Error::Conflict(format!("target {} is {what}: remove it", self.path)));
        match beneath::open(&self.parent, &self.name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Found::Missing),
            Err(Errno::LOOP) => refuse("a symbolic link"),
            Err(Errno::NOTDIR) => refuse("not a directory"),
            Err(error) => Err(error).context(|| format!("open target {}", self.path)),
            Ok(fd) => Ok(match rooted_at(&fd)? {
                Some(mount) => Found::Mount(mount),
                None => Found::Directory(fd),
            }),
        }
    }

    /// Moves a detached mount here, onto a directory that is made if it is missing.
    pub(super) fn attach(&self, mount: &OwnedFd) -> Result<()> {
        beneath::make_dir(&self.parent, &self.name, Mode::RWXU | Mode::RGRP | Mode::XGRP)
            .context(|| format!("make target {}", self.path))?;
        let Found::Directory(directory) = self.look()? else {
            return Err(Error::Conflict(format!("target {} changed meanwhile: try again", self.path)));
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, "", &directory, "", flags)
            .context(|| format!("put the mount onto {}", self.path))
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

    /// Removes the directory, which must be empty.
    pub(super) fn remove(&self) -> Result<()> {
        beneath::remove(&self.parent, &self.name, AtFlags::REMOVEDIR)
            .context(|| format!("remove target {}", self.path))
    }
}
