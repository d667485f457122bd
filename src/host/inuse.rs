//! Who on this machine uses a filesystem or a device, where no exclusive open can ask the kernel: its tables of mounts
//! and of open files, process by process (X3).
//!
//! # Guarantees
//! - Every mount namespace in which a thread runs is looked at, from every root directory in use there, and every
//!   process' open and mapped files, working and root directory. What cannot be looked at is an error, never "unused";
//!   the one exception is the node's init process, which some systems shield and which uses no volume.
//!
//! # Assumptions
//! - The agent sees the processes of the whole node (`hostPID`); one that does not is refused ([`ensure_sight`]).
//!
//! # Caveats
//! - A namespace without any thread that is kept by a file, and a descriptor that is only on its way through a socket,
//!   are in no table of the kernel's that can be read. Kubernetes makes neither.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::error::{Context, Error, Result};
use super::mountinfo::{self, Device, Mount};

/// A file that some process has open.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    /// The filesystem that it is on.
    pub(super) filesystem: Device,
    /// The device that it *is*, if it is a block device.
    pub(super) block_device: Option<Device>,
    /// What procfs has in its place, if it is a file or directory that can be opened without any effect.
    pub(super) link: Option<PathBuf>,
}

/// Refuses a container that sees none but its own processes.
pub(super) fn ensure_sight() -> Result<()> {
    if rustix::process::getpid().is_init() {
        return Err(Error::Unsupported(
            "the agent sees only its own processes, not who uses a disk that is handed out whole: run it with hostPID"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Whether some mount is `mounted` or some file of another process is `open`.
///
/// What is found is looked for again a moment later: a process that is just being started has copies of all our
/// descriptors until it executes its program.
pub(super) fn anywhere(mounted: impl Fn(&Mount) -> bool, open: impl Fn(OpenFile) -> bool) -> Result<bool> {
    ensure_sight()?;
    for _ in 0..2 {
        if !once(&mounted, &open)? {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    once(&mounted, &open)
}

fn once(mounted: &impl Fn(&Mount) -> bool, open: &impl Fn(OpenFile) -> bool) -> Result<bool> {
    let myself = rustix::process::getpid().as_raw_nonzero().get().to_string();
    let mut seen = BTreeSet::new();
    for process in numbers(Path::new("/proc"))?.unwrap_or_default() {
        let own = process.ends_with(&myself);
        match uses(&process, own, &mut seen, mounted, open) {
            Ok(false) => {}
            Err(Error::Io { source: Errno::ACCESS | Errno::PERM, .. }) if process.ends_with("1") => {}
            found => return found,
        }
    }
    Ok(false)
}

fn uses(
    process: &Path,
    own: bool,
    seen: &mut BTreeSet<(PathBuf, Device, u64)>,
    mounted: &impl Fn(&Mount) -> bool,
    open: &impl Fn(OpenFile) -> bool,
) -> Result<bool> {
    let Some(threads) = numbers(&process.join("task"))? else { return Ok(false) };
    for thread in &threads {
        if unless_gone(|| mounts_something(thread, seen, mounted))? {
            return Ok(true);
        }
    }
    // Our own descriptors are not users. Threads share theirs, and one that has ended shows none.
    for thread in threads.iter().filter(|_| !own) {
        if holds_something(thread, open)? {
            return Ok(true);
        }
        if !has_ended(thread)? {
            break;
        }
    }
    Ok(false)
}

/// Looks at the mounts that a thread sees, unless another one saw the same.
fn mounts_something(
    thread: &Path,
    seen: &mut BTreeSet<(PathBuf, Device, u64)>,
    mounted: &impl Fn(&Mount) -> bool,
) -> std::io::Result<bool> {
    let namespace = std::fs::read_link(thread.join("ns/mnt"))?;
    // A thread in a chroot(2) is not shown what is mounted outside it.
    let root = look(&thread.join("root"))?;
    if !seen.insert((namespace, device(root.stx_dev_major, root.stx_dev_minor), root.stx_ino)) {
        return Ok(false);
    }
    let table = std::fs::read(thread.join("mountinfo"))?;
    Ok(mountinfo::parse(&table).iter().any(mounted))
}

fn holds_something(thread: &Path, open: &impl Fn(OpenFile) -> bool) -> Result<bool> {
    let mut links = vec![thread.join("cwd"), thread.join("root")];
    // Only the process as a whole has a directory of what is mapped.
    for directory in ["fd", "../../map_files"] {
        links.extend(entries(&thread.join(directory))?.unwrap_or_default());
    }
    for link in links {
        let found = unless_gone(|| {
            let file = look(&link)?;
            let kind = FileType::from_raw_mode(file.stx_mode.into());
            let is_block = kind == FileType::BlockDevice;
            let is_data = matches!(kind, FileType::RegularFile | FileType::Directory);
            Ok(open(OpenFile {
                filesystem: device(file.stx_dev_major, file.stx_dev_minor),
                block_device: is_block.then(|| device(file.stx_rdev_major, file.stx_rdev_minor)),
                link: is_data.then(|| link.clone()),
            }))
        })?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the thread has ended, and with it what can be seen of its files.
fn has_ended(thread: &Path) -> Result<bool> {
    unless_gone(|| {
        let stat = std::fs::read_to_string(thread.join("stat"))?;
        // The name in parentheses may hold anything.
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
    })
}

fn device(major: u32, minor: u32) -> Device {
    Device { major, minor }
}

/// Follows a link of procfs, and asks no server of a network filesystem: one that is gone must not stop us.
fn look(path: &Path) -> std::io::Result<Statx> {
    Ok(rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)?)
}

/// The entries of a directory of procfs that are numbers.
fn numbers(directory: &Path) -> Result<Option<Vec<PathBuf>>> {
    let is_number = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    Ok(entries(directory)?.map(|all| all.into_iter().filter(is_number).collect()))
}

/// The entries of a directory of procfs; `None` if its process is gone.
fn entries(directory: &Path) -> Result<Option<Vec<PathBuf>>> {
    unless_gone(|| {
        let entries = std::fs::read_dir(directory)?;
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>().map(Some)
    })
}

/// What there was to see, or nothing if the process went meanwhile.
fn unless_gone<T: Default>(look: impl FnOnce() -> std::io::Result<T>) -> Result<T> {
    match look() {
        Err(error)
            if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH | Errno::INVAL)) =>
        {
            Ok(T::default())
        }
        result => result.context(|| "look who uses a disk"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x3_sees_an_open_file_of_another_process_and_not_ones_own() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let stat = look(&path).unwrap();
        let (fs, ino) = (device(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        assert!(ino > 0);
        let _own = std::fs::File::open(&path).unwrap();
        let open = |file: OpenFile| file.filesystem == fs;
        let nobody = |_: &Mount| false;
        let before = anywhere(nobody, open).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::fs::File::open(&path).unwrap())
            .spawn()
            .unwrap();
        let found = anywhere(nobody, open);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Ok(true));
        assert_eq!(anywhere(nobody, open).unwrap(), before);
    }

    #[test]
    fn x3_sees_the_mounts_of_this_namespace() {
        assert_eq!(anywhere(|mount| mount.point.as_os_str() == "/", |_| false), Ok(true));
        assert_eq!(anywhere(|_| false, |_| false), Ok(false));
    }
}
