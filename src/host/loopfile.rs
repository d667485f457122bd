//! Backing `loop`: one preallocated file per volume, its own filesystem in it.
//!
//! A volume cannot outgrow its file, and the file's blocks are allocated in advance: neighbours cannot take them and it
//! cannot take theirs (V5). The file is made and formatted under another name and renamed when it is complete, so
//! **mkfs only ever sees a file that the same call has just created**, and a file under its final name is never
//! formatted, whatever the journal says (V9, S13). A mkfs that outlives its agent writes to a file that has no name any
//! more once the next agent starts over. Newly allocated blocks are extents that were never written; they
//! read as zeroes, not as what their last owner left there (S17).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::backing::{Backing, Opened};
use super::disk::Volume;
use super::error::{Context, Error, Result, settled};
use super::filesystem::FsType;
use super::lifecycle::busy;
use super::loopdev::{self, Identity};
use super::mountinfo::{Device, Mount};
use super::record::Record;
use super::{ErasePolicy, beneath, filesystem, mounts, options, zero};

/// The volume's file, complete.
const DATA: &str = "data";
/// The same while it is being made; worth nothing after a crash.
const UNFINISHED: &str = "data.new";

/// Both filesystems are made of blocks of this many bytes.
const BLOCK: u64 = 4096;

struct Loop;

/// Opens the directory; refuses one on which a preallocated file would be no promise.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))?;
    match filesystem::kind_of(&root)? {
        Ok(_) => Ok(Opened { root, backing: Box::new(Loop) }),
        Err(found) => Err(Error::Unsupported(format!(
            "its filesystem (type {found:#x}) is neither ext4 nor xfs: preallocated room would not stay"
        ))),
    }
}

impl Loop {
    fn make_file(volume: &Volume, record: &Record) -> Result<()> {
        let (uid, size) = (record.born(), file_bytes(record));
        let file =
            File::from(beneath::create(&volume.dir, UNFINISHED).context(|| "create the volume's file")?);
        allocate(volume, &file, size)?;
        filesystem::make(record.spec.fs_type, uid, &file, size, true)?;
        // Should mkfs have given blocks back in spite of its options, take them again.
        allocate(volume, &file, size)?;
        filesystem::verify(record.spec.fs_type, uid, &file)?;
        rustix::fs::renameat_with(&volume.dir, UNFINISHED, &volume.dir, DATA, RenameFlags::NOREPLACE)
            .context(|| "complete the volume's file")?;
        rustix::fs::fsync(&volume.dir).context(|| "synchronize the volume's directory")
    }

    /// Makes an ext4 volume of another size from a copy of what is taken, which then takes its place. The copy needs that
    /// much room on the disk for a while: after a resize2fs that was killed in the middle, nothing could be trusted.
    fn remake(
        &self,
        volume: &Volume,
        record: &Record,
        size: u64,
        commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let uid = &volume.uid;
        if self.release(volume)? {
            return Err(busy(uid));
        }
        let file = complete(volume, record)?;
        filesystem::verify(FsType::Ext4, record.born(), &file)?;
        filesystem::check(&file)?;
        let ((_, needed), available) = (filesystem::measure(&file)?, volume.disk_free_bytes()?);
        if needed > size {
            return Err(Error::TooSmall { uid: uid.clone(), needed, wanted: size });
        }
        if needed > available {
            return Err(Error::NoSpace { disk: volume.disk.clone(), needed, available });
        }
        let discard = || beneath::remove(&volume.dir, UNFINISHED, AtFlags::empty());
        discard().context(|| "remove an unfinished file")?;
        let copy =
            File::from(beneath::create(&volume.dir, UNFINISHED).context(|| "create the volume's new file")?);
        let copied = filesystem::copy_resized(uid, &file, &copy, size)
            .and_then(|()| copy.sync_all().context(|| "synchronize the volume's new file"))
            .and_then(|()| filesystem::verify(FsType::Ext4, record.born(), &copy))
            .and_then(|()| commit());
        if let Err(error) = copied {
            discard().context(|| format!("remove an unfinished file after: {error}"))?;
            return Err(error);
        }
        rustix::fs::renameat(&volume.dir, UNFINISHED, &volume.dir, DATA)
            .and_then(|()| rustix::fs::fsync(&volume.dir))
            .context(|| "put the volume's new file in its place")
    }
}

impl Backing for Loop {
    fn names(&self) -> Vec<&'static str> {
        vec![DATA, UNFINISHED]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        filesystem::wanted_inside(record)?;
        let discard = || beneath::remove(&volume.dir, UNFINISHED, AtFlags::empty());
        if open_data(volume)?.is_none() {
            discard().context(|| "remove an unfinished file")?;
            if let Err(error) = Self::make_file(volume, record) {
                discard().context(|| format!("remove an unfinished file after: {error}"))?;
                return Err(error);
            }
        }
        let file = complete(volume, record)?;
        filesystem::verify(record.spec.fs_type, record.born(), &file)?;
        self.set_root(volume, record)
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        complete(volume, record).map(drop)
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        let (fs_type, size) = (record.spec.fs_type, size / BLOCK * BLOCK);
        beneath::remove(&volume.dir, UNFINISHED, AtFlags::empty()).context(|| "remove an unfinished file")?;
        let file = complete(volume, record)?;
        allocate(volume, &file, size)?;
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
                allocate(volume, &complete(volume, record)?, size)
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

    fn length(&self, volume: &Volume, record: &Record) -> Result<u64> {
        let file = complete(volume, record)?;
        Ok(file.metadata().context(|| "look at the volume's file")?.len())
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let fs_type = record.spec.fs_type;
        let file = complete(volume, record)?;
        filesystem::verify(fs_type, record.born(), &file)?;
        let device = loopdev::attach(direct(volume, &file)?.as_fd(), &identity(volume, Some(&file))?)?;
        if !device.direct_io {
            tracing::warn!(volume = %volume.uid, "direct I/O is not possible here: data is cached twice");
        }
        device.follow_file()?;
        device.forbid_discards()?;
        let attributes = options::attributes(&record.spec.mount_options, read_only);
        let mount = settled(|| mounts::detached(fs_type, &device.path(), attributes))?;
        // The device is named by a path, and a path can lie.
        let mounted = rustix::fs::fstat(&mount).context(|| "look at the new mount")?;
        if Device::from_raw(mounted.st_dev) != device.device {
            return Err(Error::Conflict(format!("{} was replaced while it was mounted", device.path())));
        }
        Ok(mount)
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        let file = open_data(volume)?;
        Ok(mount.root.as_os_str() == "/"
            && loopdev::is_bound(mount.device, &identity(volume, file.as_ref())?)?)
    }

    fn release(&self, volume: &Volume) -> Result<bool> {
        let file = open_data(volume)?;
        let mut in_use = false;
        for device in loopdev::find(&identity(volume, file.as_ref())?)? {
            in_use |= device.release()?;
        }
        Ok(in_use)
    }

    fn allocated(&self, volume: &Volume) -> Result<u64> {
        let mut blocks = 0;
        for name in self.names() {
            match rustix::fs::statat(&volume.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => blocks += stat.st_blocks as u64,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).context(|| format!("look at {name}")),
            }
        }
        Ok(blocks * 512)
    }

    /// `Discard` gives the blocks back to the disk; `Zero` overwrites them first. What a disk keeps of overwritten
    /// blocks on its own account, as flash does, is out of reach of either.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()> {
        if let Some(file) = open_data(volume)? {
            if policy == ErasePolicy::Zero {
                let size = file.metadata().context(|| "look at the volume's file")?.len();
                zero::overwrite(&file, size).context(|| format!("overwrite volume {}", record.spec.uid))?;
            }
            // Unlinking alone would keep the blocks for as long as somebody has the file open.
            rustix::fs::ftruncate(&file, 0).context(|| "free the volume's blocks")?;
            file.sync_all().context(|| "synchronize the emptied file")?;
        }
        volume.remove(&self.names())
    }
}

/// Opens the volume's file if there is one.
fn open_data(volume: &Volume) -> Result<Option<File>> {
    let file = match beneath::open_here(&volume.dir, DATA, OFlags::RDWR | OFlags::NONBLOCK) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).context(|| format!("open the data of volume {}", volume.uid)),
    };
    let stat = rustix::fs::fstat(&file).context(|| "look at the volume's file")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let what = format!("the data of volume {}", volume.uid);
        return Err(Error::Corrupt { what, reason: "it is not a regular file".to_owned() });
    }
    Ok(Some(file))
}

/// Opens the volume's file, which must be all there.
fn complete(volume: &Volume, record: &Record) -> Result<File> {
    let lost = |reason: String| Error::BackingLost { uid: volume.uid.clone(), reason };
    let file = open_data(volume)?.ok_or_else(|| lost("its file is missing".to_owned()))?;
    let (size, wanted) = (file.metadata().context(|| "look at the volume's file")?.len(), file_bytes(record));
    if size < wanted {
        return Err(lost(format!("its file has {size} bytes of {wanted}")));
    }
    Ok(file)
}

/// Has every block of a file up to `size` really there, and the file at least that long (V5).
fn allocate(volume: &Volume, file: &File, size: u64) -> Result<()> {
    let allocated = || {
        let stat = rustix::fs::fstat(file).context(|| "look at the volume's file")?;
        Ok::<_, Error>(stat.st_blocks as u64 * 512)
    };
    // Asked for first, because a failing fallocate fills the disk before it gives up.
    let (needed, available) = (size.saturating_sub(allocated()?), volume.disk_free_bytes()?);
    let no_space = || Error::NoSpace { disk: volume.disk.clone(), needed, available };
    if available < needed {
        return Err(no_space());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::NOSPC | Errno::DQUOT) => return Err(no_space()),
        result => result.context(|| format!("allocate {size} bytes"))?,
    }
    if allocated()? < size {
        return Err(Error::Unsupported("the disk's filesystem does not keep allocated blocks".to_owned()));
    }
    file.sync_all().context(|| "synchronize the volume's file")
}

/// The volume's size in whole blocks: never more than was reserved for it.
fn file_bytes(record: &Record) -> u64 {
    record.spec.size_bytes / BLOCK * BLOCK
}

/// The same file for a loop device: opened for direct I/O the kernel picks a block size that suits the disk beneath.
fn direct(volume: &Volume, file: &File) -> Result<OwnedFd> {
    let context = || "open the volume's file for a loop device";
    let opened =
        match beneath::open_here(&volume.dir, DATA, OFlags::RDWR | OFlags::NONBLOCK | OFlags::DIRECT) {
            Err(Errno::INVAL) => beneath::open_here(&volume.dir, DATA, OFlags::RDWR | OFlags::NONBLOCK),
            result => result,
        }
        .context(context)?;
    if inode(&opened)? != inode(file)? {
        return Err(Error::Conflict(format!(
            "the data of volume {} changed meanwhile: try again",
            volume.uid
        )));
    }
    Ok(opened)
}

fn inode(file: impl AsFd) -> Result<(Device, u64)> {
    let stat = rustix::fs::fstat(file).context(|| "look at the volume's file")?;
    Ok((Device::from_raw(stat.st_dev), stat.st_ino))
}

/// The label holds the directory's inode beside the UID: a copy of the disk, or another node of the same kernel, may have
/// a volume of the same UID, which is not this one.
fn identity(volume: &Volume, file: Option<&File>) -> Result<Identity> {
    let (device, directory) = inode(&volume.dir)?;
    let label = format!("{}/{:x}:{directory:x}", volume.uid, device.to_raw());
    Ok(Identity { file: file.map(inode).transpose()?, label })
}
