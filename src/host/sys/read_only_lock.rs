//! Locks the read-only flag of a mount, so that nobody can clear it again (M3).
//!
//! A container runtime and a container with CAP_SYS_ADMIN can remount a mount that is given to them. The kernel locks
//! the flags of a mount that it copies into a mount namespace of another user namespace (`lock_mnt_tree` of
//! fs/namespace.c). Nobody clears a locked flag, not even root of the machine, on the copy or on a bind mount of it.
//!
//! Two mount namespaces serve as the lock, and no process is in either. Both have one filesystem, in memory, and
//! nothing of the node. A mount that is attached in the first one propagates into the second one, which has a user
//! namespace of its own; a detached clone is taken there.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use rustix::process::{Signal, WaitOptions};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::host::error::{Context, Error, Result};
use crate::host::sys::syscalls;

/// The mount point in both namespaces.
const PLACE: &str = "/volume";

/// The flags that a mount loses before it is locked and gets back afterwards: a runtime need not know that they are
/// locked, and some refuse such a mount.
const UNLOCKED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// The two mount namespaces.
pub(crate) struct ReadOnlyLock {
    first: OwnedFd,
    second: OwnedFd,
    /// Held while a mount is at the mount point.
    place: Mutex<()>,
}

impl ReadOnlyLock {
    /// Fails where the machine allows no user namespaces (`user.max_user_namespaces`).
    pub(crate) fn new() -> Result<Self> {
        let made = on_thread(make_namespaces).context(|| "make the namespaces that lock read-only mounts")?;
        Ok(Self { first: made.0, second: made.1, place: Mutex::default() })
    }

    /// Locks a detached mount that is read-only. The result is another detached mount of the same directory, with the
    /// same flags.
    pub(crate) fn lock(&self, mount: &OwnedFd) -> Result<OwnedFd> {
        let flags = rustix::fs::fstatvfs(mount).context(|| "read the flags of a mount")?.f_flag.bits();
        let kept = MountAttrFlags::from_bits_truncate(flags as u32) & UNLOCKED;
        let none = MountAttrFlags::empty();
        syscalls::change_mount_flags(mount, none, kept).context(|| "prepare a mount for its lock")?;
        let locked = {
            let _place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            on_thread(|| self.pass(mount)).context(|| "lock a read-only mount")?
        };
        syscalls::change_mount_flags(&locked, kept, none).context(|| "set the flags of a locked mount")?;
        match syscalls::change_mount_flags(&locked, none, MountAttrFlags::MOUNT_ATTR_RDONLY) {
            Err(Errno::PERM) => Ok(locked),
            _ => Err(Error::KernelTooOld("the kernel locks no read-only mount")),
        }
    }

    /// On a thread of its own.
    fn pass(&self, mount: &OwnedFd) -> rustix::io::Result<OwnedFd> {
        let enter = |namespace: &OwnedFd| {
            let kind = Some(LinkNameSpaceType::Mount);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), kind)
        };
        syscalls::unshare(UnshareFlags::FS)?;
        enter(&self.first)?;
        rustix::mount::move_mount(mount, "", CWD, PLACE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let cloned = enter(&self.second).and_then(|()| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            rustix::mount::open_tree(CWD, PLACE, flags)
        });
        enter(&self.first)?;
        rustix::mount::unmount(PLACE, UnmountFlags::DETACH)?;
        cloned
    }
}

/// On a thread of its own, which leaves the node's namespace for good.
fn make_namespaces() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", directory, Mode::empty())?;
    let namespace = |thread: &str| {
        let path = format!("{thread}/ns/mnt");
        rustix::fs::openat(&proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    syscalls::unshare(UnshareFlags::NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let first = namespace("thread-self")?;
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let root = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    // Any directory serves as the mount point; this one is there, as it was opened.
    rustix::mount::move_mount(&root, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    // The old root is on top of the new one then, and goes with all its mounts (pivot_root(2)).
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::mount::mount_change("/", MountPropagationFlags::SHARED)?;
    rustix::fs::mkdir(PLACE, Mode::RWXU)?;
    let child = syscalls::child_in_user_namespace()?;
    let second = namespace(&child.as_raw_nonzero().to_string());
    rustix::process::kill_process(child, Signal::KILL)?;
    rustix::process::waitpid(Some(child), WaitOptions::empty())?;
    Ok((first, second?))
}

/// Runs work that changes what the thread sees of the machine.
fn on_thread<T: Send>(work: impl FnOnce() -> rustix::io::Result<T> + Send) -> rustix::io::Result<T> {
    std::thread::scope(|scope| match std::thread::Builder::new().spawn_scoped(scope, work) {
        Ok(thread) => thread.join().unwrap_or(Err(Errno::CANCELED)),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)),
    })
}
