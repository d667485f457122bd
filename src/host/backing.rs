//! What a kind of backing has to be able to do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::disk::Volume;
use super::error::{Context, Error, Result};
use super::filesystem::FsType;
use super::loopfile;
use super::mountinfo::Mount;
use super::mounts::Place;
use super::record::Record;
use super::{
    DiskConfig, ErasePolicy, Keeping, Usage, adopt, beneath, btrfs, device, filesystem, lvm, quota, wholefs,
};

/// A disk that can be served, as its backing found it. Nothing that is on it was changed.
pub(super) struct Opened {
    /// The directory with the disk's identity, journals and receipts.
    pub(super) root: OwnedFd,
    pub(super) backing: Box<dyn Backing>,
}

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) total: u64,
    /// Free for anybody now.
    pub(super) free: u64,
}

impl Room {
    pub(super) fn of_filesystem(inside: impl AsFd) -> Result<Self> {
        let stat = rustix::fs::fstatvfs(inside).context(|| "look at the disk")?;
        Ok(Self { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }
}

/// Looks whether the disk is what its configuration says and can keep volumes; refuses it otherwise.
pub(super) fn open(config: &DiskConfig) -> Result<Opened> {
    match config.keeping {
        Keeping::Loop => loopfile::open(&config.path).map(|opened| adopt::open(config, opened)),
        Keeping::Btrfs => btrfs::open(config),
        Keeping::Mount => wholefs::open(&config.path),
        Keeping::Block => device::open(config),
        Keeping::Quota => quota::open(&config.path).map(|opened| adopt::open(config, opened)),
        Keeping::Lvm => lvm::open(&config.path),
    }
}

/// How volumes are kept on one disk.
///
/// The journal, publishing and the order of steps are the same for all of them and are not a backing's business. A
/// backing is called with the volume's lock held; every verb can be repeated after a crash in the middle of it.
pub(super) trait Backing: Send + Sync {
    /// Whether the disk is handed out whole, to one volume (D2).
    fn whole(&self) -> bool {
        false
    }

    /// The filesystem of the scratch volume on which its limit is tried out (D5). `None`: the disk is handed out whole, so
    /// the only limit is the disk itself, and nobody is there to be protected from who reaches it.
    fn scratch(&self) -> Option<FsType> {
        Some(FsType::Ext4)
    }

    /// What the disk has; `root` is the directory that was opened with it.
    fn room(&self, root: BorrowedFd<'_>) -> Result<Room> {
        Room::of_filesystem(root)
    }

    /// The names that it uses in a volume's directory. Whatever else is found there is not ours to erase.
    fn names(&self) -> Vec<&'static str>;

    /// Where the directory is that the volume adopted, if it did (V8).
    fn adopted(&self, _volume: &Volume) -> Result<Option<Place>> {
        Ok(None)
    }

    /// Makes the volume: its room is really there afterwards, it carries an empty filesystem, and what the volume says
    /// about its root directory is done. What is complete already is left alone; on an error nothing new remains.
    fn create(&self, volume: &Volume, record: &Record) -> Result<()>;

    /// Does to the root directory what the volume says (V11, V12); repeating it is fine, nobody has used it yet.
    fn set_root(&self, volume: &Volume, record: &Record) -> Result<()> {
        if record.spec.gid.is_none() && record.spec.mode.is_none() {
            return Ok(());
        }
        let mount = self.mount(volume, record, false)?;
        let root = beneath::open_dir(&mount, ".").context(|| "open the volume's root")?;
        filesystem::set_root(&root, record)
    }

    /// That a volume which was ready once still has all of its data.
    fn check(&self, volume: &Volume, record: &Record) -> Result<()>;

    /// How many bytes a volume that is ready has, also when a resize of it was interrupted.
    fn length(&self, _volume: &Volume, record: &Record) -> Result<u64> {
        Ok(record.spec.size_bytes)
    }

    /// Makes a volume that is ready larger, mounted or not; its new room is really there afterwards. What is as large
    /// already is made whole (V7).
    fn grow(&self, volume: &Volume, _record: &Record, _size: u64) -> Result<()> {
        Err(fixed(volume))
    }

    /// Makes a volume that is ready smaller; refused while it is mounted or open. Until `commit`, which is called once,
    /// nothing of it changes; afterwards its smaller form takes its place, which [`grow`](Self::grow) makes whole (V7).
    fn shrink(
        &self,
        volume: &Volume,
        _record: &Record,
        _size: u64,
        _commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        Err(fixed(volume))
    }

    /// A detached mount of the volume's root, with nosuid, nodev and its own options, read-only if so asked.
    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd>;

    /// Whether this is a mount of the volume's root.
    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool>;

    /// Lets go of what the kernel holds for a volume that is not mounted, and says whether it *is* still mounted or
    /// open: in any mount namespace, by the kernel's word (X3).
    fn release(&self, volume: &Volume) -> Result<bool>;

    /// Bytes of the disk that the volume takes now.
    fn allocated(&self, volume: &Volume) -> Result<u64>;

    /// Bytes and inodes of the volume.
    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        let mount = self.mount(volume, record, true)?;
        Usage::of(&mount)
    }

    /// Removes the data, and only that. The volume is in use by nobody.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()>;
}

/// What a backing says whose volumes cannot be resized.
fn fixed(volume: &Volume) -> Error {
    Error::Unsupported(format!("volume {} takes a whole device: it cannot be resized", volume.uid))
}
