//! Volumes with a filesystem of their own in something that has just so many bytes: a file, or a logical volume.
//!
//! It is made and formatted under another name and put in its place when it is complete, so **mkfs only ever sees what the
//! same call has just made**, and what is in its place is never formatted, whatever the journal says (V9, S13). A
//! smaller one is made of a copy, which takes its place in the same way (V7), and what it replaced is erased as the volume
//! is to be (X4). Not so what a program writes into a copy that outlives its agent: a container takes its programs along.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::backing::{Backing, Room};
use super::disk::Volume;
use super::error::{Context, Error, Result};
use super::filesystem::FsType;
use super::lifecycle::busy;
use super::mountinfo::{Device, Mount};
use super::record::{Record, State};
use super::{ErasePolicy, beneath, filesystem, mounts, options, zero};

/// Both filesystems are made of blocks of this many bytes.
const BLOCK: u64 = 4096;

/// A kind of what a filesystem can be in. What is unfinished is worth nothing after a crash.
pub(super) trait Container: Send + Sync {
    /// What it is called in messages.
    const NAME: &'static str;
    /// Whether what is new reads as zeroes everywhere, and not only at both ends.
    const ZEROED: bool;

    /// The names that it uses in a volume's directory.
    fn names(&self) -> Vec<&'static str>;

    fn room(&self, root: BorrowedFd<'_>) -> Result<Room>;

    /// How many bytes something is long that has room for `size`.
    fn length(&self, size: u64) -> u64;

    /// Opens what is in its place, if there is something.
    fn open(&self, volume: &Volume) -> Result<Option<File>>;

    /// Begins something of `size` bytes, which are really there and whose ends are blank.
    fn begin(&self, volume: &Volume, size: u64) -> Result<File>;

    /// Begins something for a copy of a filesystem of `size` bytes of which so many are `taken`.
    fn begin_copy(&self, volume: &Volume, size: u64, taken: u64, policy: ErasePolicy) -> Result<File>;

    /// Gives what is unfinished another size.
    fn cut(&self, volume: &Volume, unfinished: &File, size: u64, policy: ErasePolicy) -> Result<()>;

    /// Removes what is not in its place, be it unfinished or replaced, if there is something. First of all, what is in
    /// its place is there for good: a replacement that a power cut could undo must not cost the one that it replaced.
    fn give_up(&self, volume: &Volume, policy: ErasePolicy) -> Result<()>;

    /// Puts what is unfinished in its place, in one step after which what was there is what is not in its place, and
    /// [gives that up](Self::give_up).
    fn complete(&self, volume: &Volume, policy: ErasePolicy) -> Result<()>;

    /// Has all bytes up to `size` really there (V5).
    fn extend(&self, volume: &Volume, file: &File, size: u64) -> Result<()>;

    /// The block device with its bytes, by path and by number; it stays at least as long as the descriptor is open.
    fn attach(&self, volume: &Volume, file: &File) -> Result<(String, Device, OwnedFd)>;

    /// Whether this is the number of that device.
    fn is_attached(&self, volume: &Volume, device: Device) -> Result<bool>;

    fn release(&self, volume: &Volume) -> Result<bool>;

    fn allocated(&self, volume: &Volume) -> Result<u64>;

    /// Gives its bytes back to the disk.
    fn erase(&self, volume: &Volume, file: Option<File>) -> Result<()>;
}

/// Volumes of which each is in a container of its own.
pub(super) struct Inside<C>(pub(super) C);

impl<C: Container> Inside<C> {
    /// What is in its place, which must be all there.
    fn whole(&self, volume: &Volume, record: &Record) -> Result<File> {
        let lost = |reason: String| Error::BackingLost { uid: volume.uid.clone(), reason };
        let file = self.0.open(volume)?.ok_or_else(|| lost(format!("its {} is missing", C::NAME)))?;
        let (has, wanted) = (bytes_of(&file)?, size(record));
        match has < wanted {
            true => Err(lost(format!("its {} has {has} bytes of {wanted}", C::NAME))),
            false => Ok(file),
        }
    }

    /// Begins something, fills it and puts it in its place; on an error nothing new remains.
    fn replace(
        &self,
        volume: &Volume,
        policy: ErasePolicy,
        begin: impl FnOnce() -> Result<File>,
        fill: impl FnOnce(&File) -> Result<()>,
    ) -> Result<()> {
        self.0.give_up(volume, policy)?;
        let begun = begin().and_then(|file| fill(&file));
        begun.and_then(|()| self.0.complete(volume, policy)).or_else(|error| {
            let left = |left| Error::Unsupported(format!("{error}; what was begun is left: {left}"));
            self.0.give_up(volume, policy).map_err(left)?;
            Err(error)
        })
    }

    /// Makes an ext4 volume of another size from a copy of what is taken, which then takes its place. The copy needs room
    /// on the disk for a while: after a resize2fs that was killed in the middle, nothing could be trusted.
    fn remake(
        &self,
        volume: &Volume,
        record: &Record,
        size: u64,
        commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let (uid, policy) = (&volume.uid, policy(record));
        if self.release(volume)? {
            return Err(busy(uid));
        }
        let file = self.whole(volume, record)?;
        filesystem::verify(FsType::Ext4, record.born(), &file)?;
        filesystem::check(&file)?;
        let (has, taken) = filesystem::measure(&file)?;
        if taken > size {
            return Err(Error::TooSmall { uid: uid.clone(), needed: taken, wanted: size });
        }
        let begin = || self.0.begin_copy(volume, has.max(size), taken, policy);
        self.replace(volume, policy, begin, move |copy| {
            filesystem::copy_resized(uid, &file, copy, size, || self.0.cut(volume, copy, size, policy))?;
            copy.sync_all().context(|| format!("synchronize the volume's new {}", C::NAME))?;
            filesystem::verify(FsType::Ext4, record.born(), copy)?;
            commit()
        })
    }
}

impl<C: Container> Backing for Inside<C> {
    fn room(&self, root: BorrowedFd<'_>) -> Result<Room> {
        self.0.room(root)
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.names()
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        filesystem::wanted_inside(record)?;
        let (fs_type, uid, size) = (record.spec.fs_type, record.born(), size(record));
        if self.0.open(volume)?.is_none() {
            self.replace(
                volume,
                policy(record),
                || self.0.begin(volume, size),
                |file| {
                    filesystem::make(fs_type, uid, file, size, C::ZEROED)?;
                    // Should mkfs have given blocks back in spite of its options, take them again.
                    self.0.extend(volume, file, size)?;
                    filesystem::verify(fs_type, uid, file)
                },
            )?;
        }
        filesystem::verify(fs_type, uid, &self.whole(volume, record)?)?;
        self.set_root(volume, record)
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        self.whole(volume, record).map(drop)
    }

    fn length(&self, volume: &Volume, record: &Record) -> Result<u64> {
        let has = bytes_of(&self.whole(volume, record)?)?;
        Ok(if has == self.0.length(size(record)) { record.spec.size_bytes } else { has })
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        let (fs_type, size) = (record.spec.fs_type, size / BLOCK * BLOCK);
        self.0.give_up(volume, policy(record))?;
        let file = self.whole(volume, record)?;
        self.0.extend(volume, &file, size)?;
        if fs_type == FsType::Ext4 && filesystem::measure(&file)?.0 >= size {
            return Ok(());
        }
        // One more mount of what may be mounted already: there is one superblock, and that grows.
        let mount = self.mount(volume, record, false)?;
        let root = beneath::open_dir(&mount, ".").context(|| "open the volume's root")?;
        match filesystem::grow(fs_type, &root, size) {
            Err(Error::Io { source: Errno::PERM, .. }) if fs_type == FsType::Ext4 => {
                drop((root, mount, file));
                self.remake(volume, record, size, &mut || Ok(())).map_err(|error| match error {
                    Error::Busy { .. } => Error::Busy {
                        what: "ext4, which only an agent with CAP_SYS_RESOURCE may grow while it is mounted,"
                            .to_owned(),
                    },
                    error => error,
                })?;
                self.0.extend(volume, &self.whole(volume, record)?, size)
            }
            result => {
                result?;
                rustix::fs::syncfs(&root).context(|| "synchronize the volume")
            }
        }
    }

    fn shrink(
        &self,
        volume: &Volume,
        record: &Record,
        size: u64,
        commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        match record.spec.fs_type {
            FsType::Ext4 => self.remake(volume, record, size / BLOCK * BLOCK, commit),
            FsType::Xfs | FsType::Btrfs => {
                Err(Error::Unsupported(format!("{} cannot be made smaller", record.spec.fs_type)))
            }
        }
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let fs_type = record.spec.fs_type;
        let file = self.whole(volume, record)?;
        filesystem::verify(fs_type, record.born(), &file)?;
        let (path, device, _open) = self.0.attach(volume, &file)?;
        let attributes = options::attributes(&record.spec.mount_options, read_only);
        mounts::of_device(fs_type, &path, device, attributes)
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(mount.root.as_os_str() == "/" && self.0.is_attached(volume, mount.device)?)
    }

    fn release(&self, volume: &Volume) -> Result<bool> {
        self.0.release(volume)
    }

    fn allocated(&self, volume: &Volume) -> Result<u64> {
        self.0.allocated(volume)
    }

    /// `Discard` gives the blocks back to the disk; `Zero` overwrites them first. What a disk keeps of overwritten
    /// blocks on its own account, as flash does, is out of reach of either.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()> {
        self.0.give_up(volume, policy)?;
        let file = self.0.open(volume)?;
        if let Some(file) = file.as_ref().filter(|_| policy == ErasePolicy::Zero) {
            zero::overwrite(file, 0..bytes_of(file)?)
                .context(|| format!("overwrite volume {}", record.spec.uid))?;
        }
        self.0.erase(volume, file)
    }
}

/// The volume's size in whole blocks: never more than was reserved for it.
fn size(record: &Record) -> u64 {
    record.spec.size_bytes / BLOCK * BLOCK
}

/// What becomes of a copy of the volume's bytes that is not needed any more (X4). Before it is ready it has none.
fn policy(record: &Record) -> ErasePolicy {
    match record.state {
        State::Creating => ErasePolicy::Discard,
        State::Ready | State::Erasing => record.spec.erase_policy.unwrap_or(ErasePolicy::Discard),
    }
}

/// Bytes of a file or a block device.
pub(super) fn bytes_of(file: &File) -> Result<u64> {
    rustix::fs::seek(file, SeekFrom::End(0)).context(|| "measure what a volume is in")
}
