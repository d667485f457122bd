//! Backing `Mount`: an undivided filesystem (D2). Its one volume is a directory beside the agent's own files.
//!
//! The filesystem's own size is the limit (V5, D5). No other data is on the filesystem: it was empty when the agent
//! took it over, and only the agent and the pods write to it. Pods use the filesystem directly.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode};

use crate::host::backings::backing::{Backing, Opened};
use crate::host::error::{Context, Error, Result};
use crate::host::layout::{IDENTITY, VOLUMES};
use crate::host::sys::{
    Device, Mount, Uses, atomic_file, dirfd, filesystem, in_use, loop_device, mounts, remove_tree,
};
use crate::host::types::{ErasePolicy, FsType, Record, Usage};
use crate::host::volume::Volume;

const DATA: &str = "data";
const MISSING: &str = "its directory is missing";

struct UndividedFilesystem {
    device: Device,
    fs_type: FsType,
}

/// Opens the filesystem; refuses a subdirectory, and a filesystem with foreign files (V9).
pub(super) fn open(path: &Path) -> Result<Opened> {
    let refuse = |reason: &str| Err(Error::unsuitable_disk(path, reason));
    in_use::ensure_processes_visible()?;
    let root = dirfd::open_configured(path)?;
    // In a container every directory of the node is a mount. Only the mount of a whole filesystem has `/` as its
    // root.
    let Some(mount) = mounts::rooted_at(&root)?.filter(|mount| mount.root.as_os_str() == "/") else {
        return refuse("is not where a whole filesystem is mounted: mount one there, or use kind Path");
    };
    let Ok(fs_type) = filesystem::kind_of(&root)? else {
        return refuse("has a filesystem that is neither ext4 nor xfs: mount one of these there");
    };
    let names = dirfd::names(&root).context(|| format!("list {}", path.display()))?;
    let ours = names.iter().any(|name| name == IDENTITY);
    let unfinished = atomic_file::temporary(IDENTITY);
    if !ours && names.iter().any(|name| name != "lost+found" && *name != *unfinished) {
        return refuse("holds files, and a disk that is handed out whole is erased whole: empty it first");
    }
    Ok(Opened { root, backing: Box::new(UndividedFilesystem { device: mount.device, fs_type }) })
}

impl UndividedFilesystem {
    /// The path of the volume's directory on the filesystem.
    fn path_of(volume: &Volume) -> PathBuf {
        Path::new("/").join(VOLUMES).join(volume.uid.as_str()).join(DATA)
    }
}

impl Backing for UndividedFilesystem {
    fn is_undivided(&self) -> bool {
        true
    }

    fn scratch_fs_type(&self) -> Option<FsType> {
        None
    }

    fn file_names(&self) -> Vec<&'static str> {
        vec![DATA]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        record.spec.ensure_not_raw()?;
        if record.spec.fs_type != self.fs_type {
            let (disk, there) = (&volume.disk, self.fs_type);
            return Err(Error::Unsupported(format!(
                "disk {disk} is handed out whole, with the {there} that is on it: create the volume with fsType {there}"
            )));
        }
        volume.ensure_free(record.spec.size_bytes, self.space(volume.dir.as_fd())?.total)?;
        dirfd::make_dir(&volume.dir, DATA, Mode::RWXU).context(|| "make the volume's directory")?;
        let data = volume.open_dir(DATA)?.ok_or_else(|| volume.lost(MISSING))?;
        filesystem::set_root(&data, record.spec.gid, record.spec.mode)?;
        volume.sync_dir()
    }

    fn check(&self, volume: &Volume, _: &Record) -> Result<()> {
        volume.open_dir(DATA)?.map(drop).ok_or_else(|| volume.lost(MISSING))
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let data = volume.open_dir(DATA)?.ok_or_else(|| volume.lost(MISSING))?;
        mounts::of_open(&data, record.spec.mount_attributes(read_only))
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(mount.device == self.device && mount.root == Self::path_of(volume))
    }

    /// All of the filesystem is the volume's, so every open file on it is a use. A mount is a use only if it shows
    /// the volume or a part of it: the filesystem itself is always mounted.
    fn in_use(&self, volume: &Volume) -> Result<bool> {
        Ok(loop_device::any_bound(|status| Device::from_raw(status.device) == self.device)?
            || in_use::in_use(&self.uses(volume)?)?)
    }

    fn uses(&self, volume: &Volume) -> Result<Uses<'_>> {
        let place = Self::path_of(volume);
        Ok(Uses::new(
            move |mount| mount.device == self.device && mount.root.starts_with(&place),
            |file| file.filesystem == self.device,
        ))
    }

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&volume.dir).context(|| "look at the disk")?;
        Ok(stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize)
    }

    fn usage(&self, volume: &Volume, _: &Record) -> Result<Usage> {
        Usage::of_filesystem(volume.open_dir(DATA)?.ok_or_else(|| volume.lost(MISSING))?)
    }

    /// `Discard` removes the files. `Zero` is refused: files that pods removed left their bytes in free blocks. No
    /// filesystem hands out all free blocks for an overwrite.
    fn erase(&self, volume: &Volume, _: &Record, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            return Err(Error::Unsupported(format!(
                "disk {} is a whole filesystem, which cannot be overwritten to the last block: set erasePolicy to Discard, \
                 and overwrite the disk when it is taken out",
                volume.disk
            )));
        }
        if let Some(data) = volume.open_dir(DATA)? {
            remove_tree::empty_volume(&data, &volume.uid)?;
        }
        dirfd::remove(&volume.dir, DATA, AtFlags::REMOVEDIR).context(|| "remove the volume's directory")?;
        rustix::fs::syncfs(&volume.dir).context(|| "synchronize the disk")
    }
}
