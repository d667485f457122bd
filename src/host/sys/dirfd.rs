//! Access to files beneath an open directory, and to no other files (M7, S12).
//!
//! The kernel resolves the names with openat2(2). It follows no symbolic link, not even in the middle, no magic link,
//! and no `..` above the start. An open file stays the same file, whatever is renamed meanwhile.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

use crate::host::error::{self, Context};

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Opens a directory by the path in the agent's configuration.
pub(crate) fn open_configured(path: &Path) -> error::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
}

/// Opens `path` beneath `dir`. Crosses mounts: the kubelet's directory may consist of several filesystems.
pub(crate) fn open(dir: impl AsFd, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat2(dir, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

/// Opens a file on the same filesystem as `dir`. A file with a mount over it is refused with `EXDEV`.
pub(crate) fn open_here(dir: impl AsFd, name: impl Arg, flags: OFlags) -> Result<OwnedFd> {
    let resolve = BENEATH | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// `None` if the file does not exist.
pub(crate) fn unless_missing<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// Opens a directory for listing and synchronizing.
pub(crate) fn open_dir(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    open_here(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

pub(crate) fn create(dir: impl AsFd, name: impl Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, BENEATH | ResolveFlags::NO_XDEV)
}

/// Makes a directory, unless it exists; true if this call made it.
pub(crate) fn make_dir(dir: impl AsFd, name: impl AsRef<Path>, mode: Mode) -> Result<bool> {
    match rustix::fs::mkdirat(dir, name.as_ref(), mode) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file or, with `AtFlags::REMOVEDIR`, an empty directory, if it exists.
pub(crate) fn remove(dir: impl AsFd, name: impl AsRef<Path>, flags: AtFlags) -> Result<()> {
    match rustix::fs::unlinkat(dir, name.as_ref(), flags) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

pub(crate) fn names(dir: impl AsFd) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}
