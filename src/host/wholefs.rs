//! Backing `mount`: a whole filesystem, handed out whole (D2). Its one volume is a directory beside our own files.
//!
//! The filesystem's own size is the limit (V5, D5): nobody else has room on it, because it was empty when it was taken
//! over and nothing but us and the pods writes to it. Pods have the bare filesystem, with nothing in between.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::backing::{Backing, Opened};
use super::disk::{IDENTITY, VOLUMES, Volume};
use super::error::{Context, Error, Result};
use super::filesystem::FsType;
use super::inuse::{self, OpenFile};
use super::mountinfo::{Device, Mount};
use super::record::Record;
use super::{ErasePolicy, Usage, beneath, empty, filesystem, journal, loopdev, mounts, options};

/// The directory that pods see.
const DATA: &str = "data";

struct WholeFs {
    device: Device,
    fs_type: FsType,
}

/// Opens the filesystem; refuses a part of one, and one that holds what is not ours (V9).
pub(super) fn open(path: &Path) -> Result<Opened> {
    let refuse = |why: &str| Err(Error::Unsupported(format!("{} {why}", path.display())));
    inuse::ensure_sight()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))?;
    // In a container every directory of the node is a mount; a whole filesystem is mounted from its root.
    let Some(mount) = mounts::rooted_at(&root)?.filter(|mount| mount.root.as_os_str() == "/") else {
        return refuse("is not where a whole file system is mounted: mount one there, or use kind Path");
    };
    let Ok(fs_type) = filesystem::kind_of(&root)? else {
        return refuse("has a file system that is neither ext4 nor xfs");
    };
    let names = beneath::names(&root).context(|| format!("list {}", path.display()))?;
    let ours = names.iter().any(|name| name == IDENTITY);
    let unfinished = journal::temporary(IDENTITY);
    if !ours && names.iter().any(|name| name != "lost+found" && *name != *unfinished) {
        return refuse("holds files, and a disk that is handed out whole is erased whole: empty it first");
    }
    Ok(Opened { root, backing: Box::new(WholeFs { device: mount.device, fs_type }) })
}

impl WholeFs {
    /// Where on the filesystem the volume's directory is.
    fn place(volume: &Volume) -> PathBuf {
        Path::new("/").join(VOLUMES).join(volume.uid.as_str()).join(DATA)
    }
}

impl Backing for WholeFs {
    fn whole(&self) -> bool {
        true
    }

    fn scratch(&self) -> Option<FsType> {
        None
    }

    fn names(&self) -> Vec<&'static str> {
        vec![DATA]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        filesystem::wanted(record)?;
        if record.spec.fs_type != self.fs_type {
            let (disk, there) = (&volume.disk, self.fs_type);
            return Err(Error::Unsupported(format!(
                "disk {disk} is handed out whole, with the {there} that is on it: create the volume with fsType {there}"
            )));
        }
        volume.ensure_free(record.spec.size_bytes, self.room(volume.dir.as_fd())?.total)?;
        beneath::make_dir(&volume.dir, DATA, Mode::RWXU).context(|| "make the volume's directory")?;
        let data = data(volume)?.ok_or_else(|| lost(volume))?;
        filesystem::set_root(&data, record)?;
        volume.settle()
    }

    fn check(&self, volume: &Volume, _: &Record) -> Result<()> {
        data(volume)?.map(drop).ok_or_else(|| lost(volume))
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let data = data(volume)?.ok_or_else(|| lost(volume))?;
        mounts::view(&data, options::attributes(&record.spec.mount_options, read_only))
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(mount.device == self.device && mount.root == Self::place(volume))
    }

    /// Whoever has anything on the filesystem open uses it, since it is all the volume's; mounts count if they show the
    /// volume or a part of it, because the filesystem itself is of course mounted.
    fn release(&self, volume: &Volume) -> Result<bool> {
        let place = Self::place(volume);
        let mounted = |mount: &Mount| mount.device == self.device && mount.root.starts_with(&place);
        let open = |file: OpenFile| file.filesystem == self.device;
        Ok(loopdev::any_bound(|status| Device::from_raw(status.device) == self.device)?
            || inuse::anywhere(mounted, open)?)
    }

    fn allocated(&self, volume: &Volume) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&volume.dir).context(|| "look at the disk")?;
        Ok(stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize)
    }

    fn usage(&self, volume: &Volume, _: &Record) -> Result<Usage> {
        Usage::of(data(volume)?.ok_or_else(|| lost(volume))?)
    }

    /// `Discard` removes the files. `Zero` is refused: what pods removed before left its bytes in free blocks, and no
    /// filesystem gives all of those to files that could overwrite them.
    fn erase(&self, volume: &Volume, _: &Record, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "disk {} is a whole file system, which cannot be overwritten to the last block: set erasePolicy to Discard, \
                 and overwrite the disk when it is taken out",
                volume.disk
            )));
        }
        if let Some(data) = data(volume)? {
            empty::of_volume(&data, &volume.uid)?;
        }
        beneath::remove(&volume.dir, DATA, AtFlags::REMOVEDIR).context(|| "remove the volume's directory")?;
        rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk")
    }
}

/// Opens the volume's directory, if it is there and nothing is mounted over it.
fn data(volume: &Volume) -> Result<Option<OwnedFd>> {
    match beneath::open_dir(&volume.dir, DATA) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).context(|| format!("open the directory of volume {}", volume.uid)),
    }
}

fn lost(volume: &Volume) -> Error {
    Error::BackingLost { uid: volume.uid.clone(), reason: "its directory is missing".to_owned() }
}
