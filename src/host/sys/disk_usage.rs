//! Counts the bytes that the files beneath a directory take, in the way of du(1).

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use crate::host::error::{Context, Result};
use crate::host::sys::dirfd;

/// The most files in a directory that is counted.
const MAX_FILES: u64 = 10_000_000;
/// The most memory for counting a directory: for the paths of pending directories, and for inodes with several names.
const MAX_MEMORY: usize = 64 << 20;
/// Memory for an inode in a set.
const INODE_MEMORY: usize = 16;

/// Bytes of the blocks of everything beneath a directory, on its own filesystem. An inode with several names counts
/// once. `None` beyond the limits of files, directories and depth.
pub(crate) fn count(directory: &OwnedFd) -> Result<Option<u64>> {
    let count = || "count the files of an adopted directory";
    let device = rustix::fs::fstat(directory).context(count)?.st_dev;
    let mut pending = vec![PathBuf::from(".")];
    let (mut bytes, mut files, mut linked) = (0u64, 0u64, BTreeSet::new());
    let mut memory = 0;
    let memory_of = |path: &Path| size_of::<PathBuf>() + path.as_os_str().len();
    while let Some(path) = pending.pop() {
        memory -= memory_of(&path).min(memory);
        let here = match dirfd::open_here(directory, path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY) {
            // A pod removed or replaced the entry meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            Err(Errno::NAMETOOLONG) => return Ok(None),
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
            if files > MAX_FILES || memory + linked.len() * INODE_MEMORY > MAX_MEMORY {
                return Ok(None);
            }
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if stat.st_dev != device || !is_directory && stat.st_nlink > 1 && !linked.insert(stat.st_ino) {
                continue;
            }
            bytes = bytes.saturating_add((stat.st_blocks as u64).saturating_mul(512));
            if is_directory {
                let inner = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
                memory += memory_of(&inner);
                pending.push(inner);
            }
        }
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;

    use super::*;

    /// V8, V10. A pod can make any number of directories, at any depth.
    #[test]
    fn v8_counting_takes_bounded_memory() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let top = dirfd::open_configured(temp.path()).unwrap();
        let mut here = dirfd::open_dir(&top, ".").unwrap();
        let long = "x".repeat(250);
        for _ in 0..15 {
            dirfd::make_dir(&here, &long, Mode::RWXU).unwrap();
            here = dirfd::open_dir(&here, &long).unwrap();
        }
        for i in 0..20_000 {
            dirfd::make_dir(&here, format!("{i}"), Mode::RWXU).unwrap();
        }
        assert_eq!(count(&top), Ok(None));
    }
}
