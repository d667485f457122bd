//! Backing `loop`: one preallocated file per volume, its own filesystem in it.
//!
//! A volume cannot outgrow its file, and the file's blocks are allocated in advance: neighbours cannot take them and it
//! cannot take theirs (V5). The file has another name until it is complete (`inside.rs`): a mkfs that outlives its agent
//! writes to a file that has no name any more once the next agent starts over. Newly allocated blocks are extents that
//! were never written; they read as zeroes, not as what their last owner left there (S17).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::backing::{Opened, Room};
use super::disk::Volume;
use super::error::{Context, Error, Result};
use super::inside::{Container, Inside};
use super::loopdev::{self, Identity};
use super::mountinfo::Device;
use super::{ErasePolicy, beneath, filesystem, zero};

/// The volume's file, complete.
const DATA: &str = "data";
/// The same while it is being made, or since another one took its place; worth nothing after a crash.
const UNFINISHED: &str = "data.new";

struct Loop;

/// Opens the directory; refuses one on which a preallocated file would be no promise.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))?;
    match filesystem::kind_of(&root)? {
        Ok(_) => Ok(Opened { root, backing: Box::new(Inside(Loop)) }),
        Err(found) => Err(Error::Unsupported(format!(
            "its filesystem (type {found:#x}) is neither ext4 nor xfs: preallocated room would not stay"
        ))),
    }
}

impl Container for Loop {
    const NAME: &'static str = "file";
    const ZEROED: bool = true;

    fn names(&self) -> Vec<&'static str> {
        vec![DATA, UNFINISHED]
    }

    fn room(&self, root: BorrowedFd<'_>) -> Result<Room> {
        Room::of_filesystem(root)
    }

    fn length(&self, size: u64) -> u64 {
        size
    }

    fn open(&self, volume: &Volume) -> Result<Option<File>> {
        open_data(volume)
    }

    fn begin(&self, volume: &Volume, size: u64) -> Result<File> {
        let file = create(volume)?;
        allocate(volume, &file, size)?;
        Ok(file)
    }

    /// Holes stay holes until the copy is made, so it needs no more than what is taken. Not so if it is to be overwritten: of
    /// blocks that are new when they are written nobody knows after a power cut that they were its own.
    fn begin_copy(&self, volume: &Volume, size: u64, taken: u64, policy: ErasePolicy) -> Result<File> {
        if policy == ErasePolicy::Zero {
            return self.begin(volume, size);
        }
        ensure_free(volume, taken)?;
        create(volume)
    }

    fn cut(&self, _: &Volume, unfinished: &File, size: u64, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            zero::overwrite_from(unfinished, size).context(|| "overwrite the end of a volume's new file")?;
        }
        unfinished.set_len(size).context(|| "set the size of a volume's new file")
    }

    fn give_up(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        volume.settle()?;
        if policy == ErasePolicy::Zero
            && let Some(file) = open_file(volume, UNFINISHED)?
        {
            zero::overwrite_from(&file, 0).context(|| format!("overwrite {UNFINISHED}"))?;
        }
        beneath::remove(&volume.dir, UNFINISHED, AtFlags::empty()).context(|| format!("remove {UNFINISHED}"))
    }

    fn complete(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        let put = |how| rustix::fs::renameat_with(&volume.dir, UNFINISHED, &volume.dir, DATA, how);
        match put(RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => put(RenameFlags::NOREPLACE),
            result => result,
        }
        .context(|| "put the volume's file in its place")?;
        self.give_up(volume, policy)
    }

    fn extend(&self, volume: &Volume, file: &File, size: u64) -> Result<()> {
        allocate(volume, file, size)
    }

    fn attach(&self, volume: &Volume, file: &File) -> Result<(String, Device, OwnedFd)> {
        let device = loopdev::attach(direct(volume, file)?.as_fd(), &identity(volume, Some(file))?)?;
        if !device.direct_io {
            tracing::warn!(volume = %volume.uid, "direct I/O is not possible here: data is cached twice");
        }
        device.follow_file()?;
        device.forbid_discards()?;
        Ok((device.path(), device.device, device.open))
    }

    fn is_attached(&self, volume: &Volume, device: Device) -> Result<bool> {
        loopdev::is_bound(device, &identity(volume, open_data(volume)?.as_ref())?)
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

    fn erase(&self, volume: &Volume, file: Option<File>) -> Result<()> {
        if let Some(file) = file {
            // Unlinking alone would keep the blocks for as long as somebody has the file open.
            rustix::fs::ftruncate(&file, 0).context(|| "free the volume's blocks")?;
            file.sync_all().context(|| "synchronize the emptied file")?;
        }
        volume.remove(&self.names())
    }
}

fn create(volume: &Volume) -> Result<File> {
    beneath::create(&volume.dir, UNFINISHED).map(File::from).context(|| "create the volume's file")
}

/// Opens the volume's file if there is one.
fn open_data(volume: &Volume) -> Result<Option<File>> {
    open_file(volume, DATA)
}

fn open_file(volume: &Volume, name: &str) -> Result<Option<File>> {
    let file = match beneath::open_here(&volume.dir, name, OFlags::RDWR | OFlags::NONBLOCK) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).context(|| format!("open {name} of volume {}", volume.uid)),
    };
    let stat = rustix::fs::fstat(&file).context(|| "look at the volume's file")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let what = format!("{name} of volume {}", volume.uid);
        return Err(Error::Corrupt { what, reason: "it is not a regular file".to_owned() });
    }
    Ok(Some(file))
}

fn ensure_free(volume: &Volume, needed: u64) -> Result<()> {
    volume.ensure_free(needed, Room::of_filesystem(&volume.dir)?.free)
}

/// Has every block of a file up to `size` really there, and the file at least that long (V5).
fn allocate(volume: &Volume, file: &File, size: u64) -> Result<()> {
    let allocated = || {
        let stat = rustix::fs::fstat(file).context(|| "look at the volume's file")?;
        Ok::<_, Error>(stat.st_blocks as u64 * 512)
    };
    // Asked for first, because a failing fallocate fills the disk before it gives up.
    let needed = size.saturating_sub(allocated()?);
    ensure_free(volume, needed)?;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::NOSPC | Errno::DQUOT) => {
            let available = Room::of_filesystem(&volume.dir)?.free;
            return Err(Error::NoSpace { disk: volume.disk.clone(), needed, available });
        }
        result => result.context(|| format!("allocate {size} bytes"))?,
    }
    if allocated()? < size {
        return Err(Error::Unsupported("the disk's filesystem does not keep allocated blocks".to_owned()));
    }
    file.sync_all().context(|| "synchronize the volume's file")
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
