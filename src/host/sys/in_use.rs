//! The in-use check without an exclusive open (X3), by the kernel's mounts and open files of each process.
//!
//! # Guarantees
//! - The check covers every mount namespace in which a thread runs, from every root directory in use there. It covers
//!   every process' open and mapped files, working and root directory.
//! - A process that cannot be looked at is an error, never "unused". The one exception is the node's init process.
//!   Some systems shield that process, and it uses no volume.
//!
//! # Assumptions
//! - The agent sees the processes of the whole node (`hostPID`): see [`ensure_processes_visible`].
//!
//! # Caveats
//! - Two uses are in no readable table: a mount namespace without a thread, which an open file keeps alive, and a
//!   descriptor in transit through a socket. Kubernetes causes neither.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use crate::host::error::{Context, Error, Result};
use crate::host::sys::mountinfo::{self, Device, Mount};

/// A file that a process has open.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    /// The filesystem of the file.
    pub(crate) filesystem: Device,
    /// The mount through which the file was opened.
    pub(crate) mount: u64,
    /// The device, if the file is a block device's node.
    pub(crate) block_device: Option<Device>,
    /// The file's link in procfs, for a regular file or a directory. `None` for others, because opening those may
    /// have an effect.
    pub(crate) link: Option<PathBuf>,
}

/// Refuses to run in a PID namespace of the agent's own.
pub(crate) fn ensure_processes_visible() -> Result<()> {
    match rustix::process::getpid().is_init() {
        true => Err(Error::ProcessesHidden),
        false => Ok(()),
    }
}

/// True if the process may write to the open file. procfs shows the mode of an open or mapped file as the mode of its link.
fn may_write(file: &OpenFile) -> bool {
    let Some(link) = &file.link else { return true };
    let is_directory = link.ends_with("cwd") || link.ends_with("root");
    // A process that is gone writes nothing.
    let mode = || std::fs::symlink_metadata(link).map_or(0, |found| found.mode());
    !is_directory && mode() & 0o200 != 0
}

/// True for what counts as a use.
type Counts<'a, T> = Box<dyn Fn(&T) -> bool + 'a>;

/// The uses of a volume among the kernel's mounts and open files.
pub(crate) struct Uses<'a> {
    /// The mounts that count as a use.
    pub(crate) mounted: Counts<'a, Mount>,
    /// The open files that count as a use; `None`: no open file does.
    pub(crate) open: Option<Counts<'a, OpenFile>>,
}

impl<'a> Uses<'a> {
    pub(crate) fn new(mounted: impl Fn(&Mount) -> bool + 'a, open: impl Fn(&OpenFile) -> bool + 'a) -> Self {
        Self { mounted: Box::new(mounted), open: Some(Box::new(open)) }
    }

    /// The mounts of the devices' filesystems, the open files on these, and the open devices themselves.
    pub(crate) fn of_devices(devices: Vec<Device>) -> Self {
        let of_file = devices.clone();
        Self::new(
            move |mount| devices.contains(&mount.device),
            move |file| {
                of_file.contains(&file.filesystem)
                    || file.block_device.is_some_and(|device| of_file.contains(&device))
            },
        )
    }

    /// The uses that may write.
    pub(crate) fn writing(self) -> Self {
        let Self { mounted, open } = self;
        Self {
            mounted: Box::new(move |mount| !mount.read_only && mounted(mount)),
            open: open.map(|open| Box::new(move |file: &_| may_write(file) && open(file)) as _),
        }
    }

    pub(crate) fn mounts_alone(mounted: impl Fn(&Mount) -> bool + 'a) -> Self {
        Self { mounted: Box::new(mounted), open: None }
    }
}

/// A use by one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The process sees a mount at this point.
    Mounted(PathBuf),
    /// The process has a file open or mapped, or a directory as its working or root directory.
    Open,
}

/// True if there is a use.
///
/// A use counts only if two searches find it: between fork and exec, a child process of the agent has copies of all
/// descriptors.
pub(crate) fn in_use(uses: &Uses<'_>) -> Result<bool> {
    ensure_processes_visible()?;
    for _ in 0..2 {
        if !any_process_uses(uses)? {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    any_process_uses(uses)
}

fn any_process_uses(uses: &Uses<'_>) -> Result<bool> {
    let mut seen = BTreeSet::new();
    for process in processes()? {
        match process_use(&process, &mut seen, uses) {
            Ok(None) => {}
            Err(Error::Io { source: Errno::ACCESS | Errno::PERM, .. }) if process.ends_with("1") => {}
            found => return found.map(|found| found.is_some()),
        }
    }
    Ok(false)
}

/// The first processes with a use, one for each mount namespace and open file, until there are `most` or the time is
/// over. Processes that cannot be looked at are left out: nothing is decided by this list.
pub(crate) fn users(uses: &Uses<'_>, most: usize, time: Duration) -> Result<Vec<(PathBuf, Use)>> {
    ensure_processes_visible()?;
    let (until, mut seen, mut found) = (Instant::now() + time, BTreeSet::new(), Vec::new());
    for process in processes()? {
        if found.len() == most || Instant::now() > until {
            break;
        }
        if let Ok(Some(used)) = process_use(&process, &mut seen, uses) {
            found.push((process, used));
        }
    }
    Ok(found)
}

fn processes() -> Result<Vec<PathBuf>> {
    Ok(numbered_entries(Path::new("/proc"))?.unwrap_or_default())
}

fn process_use(
    process: &Path,
    seen: &mut BTreeSet<(PathBuf, Device, u64)>,
    uses: &Uses<'_>,
) -> Result<Option<Use>> {
    let Some(threads) = numbered_entries(&process.join("task"))? else { return Ok(None) };
    for thread in &threads {
        if let Some(point) = unless_process_gone(|| sees_mount(thread, seen, uses))? {
            return Ok(Some(Use::Mounted(point)));
        }
    }
    // The agent's own descriptors are no use. The threads of a process share their descriptors, and an ended thread
    // shows none.
    let own = process.ends_with(rustix::process::getpid().as_raw_nonzero().get().to_string());
    let Some(open) = uses.open.as_ref().filter(|_| !own) else { return Ok(None) };
    for thread in &threads {
        if has_open(thread, open)? {
            return Ok(Some(Use::Open));
        }
        if !has_ended(thread)? {
            break;
        }
    }
    Ok(None)
}

/// The point of a mount that a thread sees and that counts as use. Skips mount tables in `seen`.
fn sees_mount(
    thread: &Path,
    seen: &mut BTreeSet<(PathBuf, Device, u64)>,
    uses: &Uses<'_>,
) -> std::io::Result<Option<PathBuf>> {
    let namespace = std::fs::read_link(thread.join("ns/mnt"))?;
    // mountinfo omits mounts outside of a thread's chroot(2).
    let root = look(&thread.join("root"))?;
    if !seen.insert((namespace, device(root.stx_dev_major, root.stx_dev_minor), root.stx_ino)) {
        return Ok(None);
    }
    let table = std::fs::read(thread.join("mountinfo"))?;
    Ok(mountinfo::parse(&table).into_iter().find(|mount| (uses.mounted)(mount)).map(|mount| mount.point))
}

fn has_open(thread: &Path, open: &dyn Fn(&OpenFile) -> bool) -> Result<bool> {
    let mut links = vec![thread.join("cwd"), thread.join("root")];
    // procfs lists mapped files for the whole process only.
    for directory in ["fd", "../../map_files"] {
        links.extend(entries(&thread.join(directory))?.unwrap_or_default());
    }
    for link in links {
        let found = unless_process_gone(|| {
            let file = look(&link)?;
            let kind = FileType::from_raw_mode(file.stx_mode.into());
            let is_block = kind == FileType::BlockDevice;
            let is_data = matches!(kind, FileType::RegularFile | FileType::Directory);
            Ok(open(&OpenFile {
                filesystem: device(file.stx_dev_major, file.stx_dev_minor),
                mount: file.stx_mnt_id,
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

/// True for an ended thread, whose files procfs does not show any more.
fn has_ended(thread: &Path) -> Result<bool> {
    unless_process_gone(|| {
        let stat = std::fs::read_to_string(thread.join("stat"))?;
        // The name in parentheses is arbitrary text, and may have parentheses itself.
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
    })
}

fn device(major: u32, minor: u32) -> Device {
    Device { major, minor }
}

/// Follows a link of procfs. DONT_SYNC avoids a question to the server of a network filesystem, which may be gone.
fn look(path: &Path) -> std::io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    Ok(rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted)?)
}

/// The entries of a procfs directory whose names are numbers.
fn numbered_entries(directory: &Path) -> Result<Option<Vec<PathBuf>>> {
    let is_number = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    Ok(entries(directory)?.map(|all| all.into_iter().filter(is_number).collect()))
}

/// The entries of a procfs directory; `None` if the process is gone.
fn entries(directory: &Path) -> Result<Option<Vec<PathBuf>>> {
    unless_process_gone(|| {
        let entries = std::fs::read_dir(directory)?;
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>().map(Some)
    })
}

fn unless_process_gone<T: Default>(look: impl FnOnce() -> std::io::Result<T>) -> Result<T> {
    match look() {
        Err(error)
            if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH | Errno::INVAL)) =>
        {
            Ok(T::default())
        }
        result => result.context(|| "look for the users of a disk"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x3_only_another_process_open_file_is_a_use() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let stat = look(&path).unwrap();
        let (fs, ino) = (device(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        assert!(ino > 0);
        let _own = std::fs::File::open(&path).unwrap();
        let uses = Uses::new(|_| false, |file| file.filesystem == fs);
        let before = in_use(&uses).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::fs::File::open(&path).unwrap())
            .spawn()
            .unwrap();
        let found = in_use(&uses);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Ok(true));
        assert_eq!(in_use(&uses).unwrap(), before);
    }

    #[test]
    fn x3_a_mount_of_this_namespace_is_a_use() {
        assert_eq!(in_use(&Uses::mounts_alone(|mount| mount.point.as_os_str() == "/")), Ok(true));
        assert_eq!(in_use(&Uses::mounts_alone(|_| false)), Ok(false));
    }
}
