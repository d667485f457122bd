//! The abilities of every backing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::host::error::{Context, Error, Result};
use crate::host::sys::{Mount, Place, Uses, dirfd, filesystem, in_use};
use crate::host::types::{ErasePolicy, FsType, Record, Usage};
use crate::host::volume::Volume;

/// A disk that can be served, unchanged.
pub(crate) struct Opened {
    /// The directory with the disk's identity, records and receipts.
    pub(crate) root: OwnedFd,
    pub(crate) backing: Box<dyn Backing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskSpace {
    pub(crate) total: u64,
    /// Bytes that any process may take now.
    pub(crate) free: u64,
}

impl DiskSpace {
    pub(crate) fn of_filesystem(file: impl AsFd) -> Result<Self> {
        let stat = rustix::fs::fstatvfs(file).context(|| "look at the disk")?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
    }
}

/// A callback that records the smaller size of a volume, in a shrink.
pub(crate) type Commit<'a> = &'a mut dyn FnMut() -> Result<()>;

/// The volumes of one disk.
///
/// Records, publishing and the order of steps are the same for all backings, and are not part of this trait. Every
/// method is called with the volume's lock held, and can be repeated after a crash in its middle.
pub(crate) trait Backing: Send + Sync {
    /// True for a disk that is handed out undivided, to one volume (D2).
    fn is_undivided(&self) -> bool {
        false
    }

    /// The filesystem of the scratch volume on which the agent tries the disk's limit (D5). `None` for an undivided
    /// disk: the disk itself is the limit, and has no second volume to protect.
    fn scratch_fs_type(&self) -> Option<FsType> {
        Some(FsType::Ext4)
    }

    /// The disk's space; `root` is the directory of [`Opened`].
    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace> {
        DiskSpace::of_filesystem(root)
    }

    /// True if the mounts of the volume are of a filesystem that is the volume's alone.
    fn has_own_filesystem(&self, _volume: &Volume) -> Result<bool> {
        Ok(false)
    }

    /// The names of the backing's files in a volume's directory. An erase keeps a file of any other name.
    fn file_names(&self) -> Vec<&'static str>;

    /// The place of the adopted directory; `None` for a volume that adopted none (V8).
    fn adopted_place(&self, _volume: &Volume) -> Result<Option<Place>> {
        Ok(None)
    }

    /// Makes the volume. Afterwards its bytes are allocated, its root directory is empty (F4) and has the spec's group
    /// and permissions. A complete volume is left alone. After an error nothing new remains.
    fn create(&self, volume: &Volume, record: &Record) -> Result<()>;

    /// Sets group and permissions of the root directory (V11, V12). A repetition does no harm: no pod has used the
    /// volume yet.
    fn set_root(&self, volume: &Volume, record: &Record) -> Result<()> {
        if record.spec.gid.is_none() && record.spec.mode.is_none() {
            return Ok(());
        }
        let mount = self.mount(volume, record, false)?;
        let root = dirfd::open_dir(&mount, ".").context(|| "open the volume's root")?;
        filesystem::set_root(&root, record.spec.gid, record.spec.mode)
    }

    /// Refuses a ready volume that has lost data.
    fn check(&self, volume: &Volume, record: &Record) -> Result<()>;

    /// The size of a ready volume on the disk, also after an interrupted resize.
    fn size_on_disk(&self, _volume: &Volume, record: &Record) -> Result<u64> {
        Ok(record.spec.size_bytes)
    }

    /// Makes a ready volume larger, mounted or not, and allocates the new bytes. A volume that has the size already
    /// is completed (V7).
    fn grow(&self, volume: &Volume, _record: &Record, _size: u64) -> Result<()> {
        Err(cannot_resize(volume))
    }

    /// Makes a ready volume smaller; refused while the volume is mounted or open. The volume stays as it is until
    /// `commit`, which is called once. Afterwards the smaller form takes its place, and [`grow`](Self::grow)
    /// completes that form (V7).
    fn shrink(&self, volume: &Volume, _record: &Record, _size: u64, _commit: Commit<'_>) -> Result<()> {
        Err(cannot_resize(volume))
    }

    /// A detached mount of the volume's root, with nosuid, nodev and the volume's options; read-only on request.
    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd>;

    /// True if the filesystem itself of a sealed volume is read-only, for every mount of it (E1).
    fn seals_filesystem(&self) -> bool {
        false
    }

    /// True if a process may write to the volume, in any mount namespace (E1).
    ///
    /// # Errors
    /// [`Error::ProcessesHidden`].
    fn has_writers(&self, volume: &Volume) -> Result<bool> {
        in_use::in_use(&self.uses(volume)?.writing())
    }

    /// Makes the filesystem itself read-only or writable, mounted or not. Later mounts go by the record (E1).
    ///
    /// # Errors
    /// `EBUSY` if a file is open for writing.
    fn set_read_only(&self, _volume: &Volume, _record: &Record, _read_only: bool) -> Result<()> {
        Ok(())
    }

    /// True if the volume's device refuses writes, or is made anew by the next mount and refuses them then.
    fn refuses_writes(&self, _: &Volume) -> Result<bool> {
        Ok(false)
    }

    /// True for a mount of the volume's root.
    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool>;

    /// True if the kernel has the volume mounted or open, in any mount namespace (X3). An idle device of the volume is
    /// detached.
    fn in_use(&self, volume: &Volume) -> Result<bool>;

    /// The uses of the volume by processes, as far as the kernel shows them. [`in_use`](Self::in_use) and
    /// [`has_writers`](Self::has_writers) decide; this serves to name the processes (F3).
    fn uses(&self, volume: &Volume) -> Result<Uses<'_>>;

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64>;

    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        let mount = self.mount(volume, record, true)?;
        Usage::of_filesystem(&mount)
    }

    /// Removes the data, and nothing else. The volume is not in use.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()>;
}

/// The error for a resize of an undivided disk's volume.
fn cannot_resize(volume: &Volume) -> Error {
    Error::Unsupported(format!(
        "volume {} takes a whole device: it cannot be resized; create another volume and copy its files",
        volume.uid
    ))
}
