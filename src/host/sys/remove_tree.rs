//! Empties a directory of any size and depth (S12).
//!
//! The walk never goes deeper than two levels. It moves the subdirectories of a subdirectory up into the directory
//! that is being emptied, and removes them there. So neither depth nor number of files costs memory or descriptors.
//! After a crash the rest is emptied in the same way.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use crate::host::error::{self, Error};
use crate::host::sys::dirfd;
use crate::host::types::VolumeUid;

/// Removes everything in `root`. The walk follows no symbolic link and crosses no mount: a mount inside is an error,
/// `EXDEV` or `EBUSY`.
pub(crate) fn empty_dir(root: impl AsFd) -> Result<()> {
    let root = root.as_fd();
    let mut serial = 0;
    dispose_of_entries(root, |name| match remove(root, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {
            let directory = dirfd::open_here(root, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            dispose_of_entries(&directory, |inner| match remove(&directory, inner, AtFlags::empty()) {
                Err(Errno::ISDIR) => move_up(&directory, inner, root, &mut serial),
                result => result,
            })?;
            remove(root, name, AtFlags::REMOVEDIR)
        }
        result => result,
    })
}

/// [Empties](empty_dir) a volume's directory. A mount inside means that the volume is in use.
pub(crate) fn empty_volume(data: impl AsFd, uid: &VolumeUid) -> error::Result<()> {
    empty_dir(data).map_err(|error| match error {
        Errno::XDEV | Errno::BUSY => {
            Error::Busy { what: format!("volume {uid}, inside which something else is mounted,") }
        }
        source => Error::Io { context: format!("empty volume {uid}"), source },
    })
}

fn dispose_of_entries(directory: impl AsFd, mut dispose: impl FnMut(&CStr) -> Result<()>) -> Result<()> {
    let mut entries = Dir::read_from(directory)?;
    loop {
        let mut any = false;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                any = true;
                dispose(name)?;
            }
        }
        if !any {
            return Ok(());
        }
        // POSIX does not define which changed entries readdir(3) returns.
        entries.rewind();
    }
}

/// Moves a directory into `root` under an unused name.
fn move_up(from: &OwnedFd, name: &CStr, root: impl AsFd, serial: &mut u64) -> Result<()> {
    let moved = |serial: u64| CString::new(format!("{serial:x}")).unwrap_or_default();
    loop {
        *serial += 1;
        let attempt =
            || rustix::fs::renameat_with(from, name, root.as_fd(), moved(*serial), RenameFlags::NOREPLACE);
        match without_protection(from, name, attempt) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
    }
}

fn remove(directory: impl AsFd, name: &CStr, flags: AtFlags) -> Result<()> {
    let directory = directory.as_fd();
    match without_protection(directory, name, || rustix::fs::unlinkat(directory, name, flags)) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Repeats an attempt after EPERM, without the flags "immutable" and "append only": a pod may have set them.
fn without_protection(directory: impl AsFd, name: &CStr, attempt: impl Fn() -> Result<()>) -> Result<()> {
    match attempt() {
        Err(Errno::PERM) => {}
        result => return result,
    }
    clear_protection(directory.as_fd(), c".")?;
    clear_protection(directory.as_fd(), name)?;
    attempt()
}

fn clear_protection(directory: impl AsFd, name: &CStr) -> Result<()> {
    // PATH does not open the file itself: opening a device can have effects.
    let found = dirfd::open_here(directory, name, OFlags::PATH | OFlags::NOFOLLOW)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::RegularFile | FileType::Directory => {}
        _ => return Ok(()),
    }
    let this = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::openat(CWD, this, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let (flags, protected) = (rustix::fs::ioctl_getflags(&file)?, IFlags::IMMUTABLE | IFlags::APPEND);
    match flags.intersects(protected) {
        true => rustix::fs::ioctl_setflags(&file, flags.difference(protected)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn s12_a_tree_of_any_depth_is_removed() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let canary = temp.path().join("canary");
        std::fs::write(&canary, "alive").unwrap();
        let top = temp.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let mut here = open(&top);
        for level in 0..10_000 {
            let name = if level % 2 == 0 { "1" } else { "a directory" };
            rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
            rustix::fs::symlinkat(&canary, &here, "link").unwrap();
            here = dirfd::open_dir(&here, name).unwrap();
        }
        empty_dir(open(&top)).unwrap();
        assert_eq!(std::fs::read_dir(&top).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
    }

    #[test]
    fn s12_files_of_any_name_kind_and_flag_are_removed() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let top = open(temp.path());
        for (i, wide) in ["1", "2", "\n", "\u{fc}", "x"].into_iter().enumerate() {
            rustix::fs::mkdirat(&top, wide, Mode::empty()).unwrap();
            let wide = temp.path().join(wide);
            for j in 0..if i == 0 { 2_000 } else { 10 } {
                std::fs::write(wide.join(format!("file {j}")), "").unwrap();
                std::fs::create_dir_all(wide.join(format!("{j:x}")).join("1")).unwrap();
            }
            rustix::fs::mknodat(CWD, wide.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
            rustix::fs::mknodat(CWD, wide.join("device"), FileType::BlockDevice, Mode::RUSR, 0).unwrap();
        }
        let hard = temp.path().join("hard");
        std::fs::create_dir_all(hard.join("inner/most")).unwrap();
        std::fs::write(hard.join("inner/file"), "").unwrap();
        for (path, flag) in [
            ("inner/file", IFlags::IMMUTABLE),
            ("inner/most", IFlags::APPEND),
            ("inner", IFlags::APPEND),
            ("", IFlags::IMMUTABLE),
        ] {
            let file = std::fs::File::open(hard.join(path)).unwrap();
            let flags = rustix::fs::ioctl_getflags(&file).unwrap();
            rustix::fs::ioctl_setflags(&file, flags | flag).unwrap();
        }
        empty_dir(&top).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
