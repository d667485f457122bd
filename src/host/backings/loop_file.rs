//! Backing `Loop`: one preallocated file per volume, with a filesystem of its own in it.
//!
//! A volume cannot outgrow its file, and the file's blocks are allocated in advance. So no volume takes blocks from
//! another one (V5). The file has another name until it is complete (`image.rs`). The next agent removes an
//! incomplete file, so a mkfs that outlives its agent writes to a file without a name. Newly allocated blocks are
//! unwritten extents: they read as zeroes, not as the bytes of an earlier owner (S17).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, FileType, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::host::backings::backing::{DiskSpace, Opened};
use crate::host::backings::image::{ImageBacking, ImageStore};
use crate::host::error::{Context, Error, Result};
use crate::host::sys::loop_device::{self, Identity};
use crate::host::sys::{Device, dirfd, filesystem, zero};
use crate::host::types::ErasePolicy;
use crate::host::volume::Volume;

/// Name of the installed file.
const DATA: &str = "data";
/// Name of the spare, which is unfinished or replaced.
const SPARE: &str = "data.new";

struct LoopFiles;

/// Opens the directory; refuses a filesystem on which a preallocated file guarantees no space.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let root = dirfd::open_configured(path)?;
    match filesystem::kind_of(&root)? {
        Ok(_) => Ok(Opened { root, backing: Box::new(ImageBacking(LoopFiles)) }),
        Err(found) => Err(Error::unsuitable_disk(
            path,
            format!(
                "has a filesystem (type {found:#x}) that is neither ext4 nor xfs, where preallocated blocks would not \
                 stay: use a directory on one of these"
            ),
        )),
    }
}

impl ImageStore for LoopFiles {
    const NAME: &'static str = "file";
    const ZEROED: bool = true;

    fn file_names(&self) -> Vec<&'static str> {
        vec![DATA, SPARE]
    }

    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace> {
        DiskSpace::of_filesystem(root)
    }

    fn image_length(&self, size: u64) -> u64 {
        size
    }

    fn open(&self, volume: &Volume) -> Result<Option<File>> {
        open_data(volume)
    }

    fn make_spare(&self, volume: &Volume, size: u64) -> Result<File> {
        let file = create(volume)?;
        allocate(volume, &file, size)?;
        Ok(file)
    }

    /// A sparse copy needs only the space of the `taken` bytes. With `Zero` all blocks are allocated first: a power
    /// cut can take newly allocated blocks away from the file, and then no overwrite reaches them.
    fn make_copy(&self, volume: &Volume, size: u64, taken: u64, policy: ErasePolicy) -> Result<File> {
        if policy == ErasePolicy::Zero {
            return self.make_spare(volume, size);
        }
        ensure_free(volume, taken)?;
        create(volume)
    }

    fn resize_spare(&self, _: &Volume, spare: &File, size: u64, policy: ErasePolicy) -> Result<()> {
        if policy == ErasePolicy::Zero {
            zero::overwrite_from(spare, size).context(|| "overwrite the end of a volume's new file")?;
        }
        spare.set_len(size).context(|| "set the size of a volume's new file")
    }

    fn remove_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        volume.sync_dir()?;
        if policy == ErasePolicy::Zero
            && let Some(file) = open_file(volume, SPARE)?
        {
            zero::overwrite_from(&file, 0).context(|| format!("overwrite {SPARE}"))?;
        }
        dirfd::remove(&volume.dir, SPARE, AtFlags::empty()).context(|| format!("remove {SPARE}"))
    }

    fn install_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()> {
        let put = |how| rustix::fs::renameat_with(&volume.dir, SPARE, &volume.dir, DATA, how);
        match put(RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => put(RenameFlags::NOREPLACE),
            result => result,
        }
        .context(|| "put the volume's file in its place")?;
        self.remove_spare(volume, policy)
    }

    fn extend(&self, volume: &Volume, file: &File, size: u64) -> Result<()> {
        allocate(volume, file, size)
    }

    fn attach(&self, volume: &Volume, file: &File, read_only: bool) -> Result<(String, Device, OwnedFd)> {
        // The device of a file that is open for reading alone is read-only: the kernel lets nobody mount it writable.
        let device =
            loop_device::attach(direct(volume, file, read_only)?.as_fd(), &identity(volume, Some(file))?)?;
        if !device.direct_io {
            tracing::warn!(disk = volume.disk, uid = %volume.uid, "the disk offers no direct I/O for a loop device: data is cached twice");
        }
        device.follow_file()?;
        device.forbid_discards()?;
        Ok((device.path(), device.device, device.open))
    }

    fn is_attached(&self, volume: &Volume, device: Device) -> Result<bool> {
        loop_device::is_bound(device, &identity(volume, open_data(volume)?.as_ref())?)
    }

    fn in_use(&self, volume: &Volume) -> Result<bool> {
        let file = open_data(volume)?;
        let mut in_use = false;
        for device in loop_device::find(&identity(volume, file.as_ref())?)? {
            in_use |= device.detach_unless_in_use()?;
        }
        Ok(in_use)
    }

    fn devices(&self, volume: &Volume) -> Result<Vec<Device>> {
        let file = open_data(volume)?;
        let devices = loop_device::find(&identity(volume, file.as_ref())?)?;
        Ok(devices.into_iter().map(|found| found.device).collect())
    }

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        let mut blocks = 0;
        for name in self.file_names() {
            let stat = rustix::fs::statat(&volume.dir, name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = dirfd::unless_missing(stat).context(|| format!("look at {name}"))?;
            blocks += stat.map_or(0, |stat| stat.st_blocks as u64);
        }
        Ok(blocks * 512)
    }

    fn erase(&self, volume: &Volume, file: Option<File>) -> Result<()> {
        if let Some(file) = file {
            // A process that has the file open would keep its blocks after an unlink, so the file is cut to length 0.
            rustix::fs::ftruncate(&file, 0).context(|| "free the volume's blocks")?;
            file.sync_all().context(|| "synchronize the emptied file")?;
        }
        volume.remove_files(&self.file_names())
    }
}

fn create(volume: &Volume) -> Result<File> {
    dirfd::create(&volume.dir, SPARE).map(File::from).context(|| "create the volume's file")
}

fn open_data(volume: &Volume) -> Result<Option<File>> {
    open_file(volume, DATA)
}

fn open_file(volume: &Volume, name: &str) -> Result<Option<File>> {
    let file = dirfd::open_here(&volume.dir, name, OFlags::RDWR | OFlags::NONBLOCK);
    let file = dirfd::unless_missing(file).context(|| format!("open {name} of volume {}", volume.uid))?;
    let Some(file) = file.map(File::from) else { return Ok(None) };
    let stat = rustix::fs::fstat(&file).context(|| "look at the volume's file")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::corrupt(format!("{name} of volume {}", volume.uid), "it is not a regular file"));
    }
    Ok(Some(file))
}

fn ensure_free(volume: &Volume, needed: u64) -> Result<()> {
    volume.ensure_free(needed, DiskSpace::of_filesystem(&volume.dir)?.free)
}

/// Allocates every block of a file up to `size`, and gives the file at least that length (V5).
fn allocate(volume: &Volume, file: &File, size: u64) -> Result<()> {
    let allocated = || {
        let stat = rustix::fs::fstat(file).context(|| "look at the volume's file")?;
        Ok::<_, Error>(stat.st_blocks as u64 * 512)
    };
    // The free space is compared first, because a failing fallocate fills the disk before it gives up.
    let needed = size.saturating_sub(allocated()?);
    ensure_free(volume, needed)?;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::NOSPC | Errno::DQUOT) => {
            let available = DiskSpace::of_filesystem(&volume.dir)?.free;
            return Err(Error::NoSpace { disk: volume.disk.clone(), needed, available });
        }
        result => result.context(|| format!("allocate {size} bytes"))?,
    }
    if allocated()? < size {
        let disk = &volume.disk;
        return Err(Error::Unsupported(format!(
            "the filesystem of disk {disk} does not keep allocated blocks: move the disk to an ext4 or xfs that does"
        )));
    }
    file.sync_all().context(|| "synchronize the volume's file")
}

/// Opens the file once more for a loop device. With direct I/O the kernel picks a block size that suits the disk.
fn direct(volume: &Volume, file: &File, read_only: bool) -> Result<OwnedFd> {
    let context = || "open the volume's file for a loop device";
    let flags = OFlags::NONBLOCK | if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let opened = match dirfd::open_here(&volume.dir, DATA, flags | OFlags::DIRECT) {
        Err(Errno::INVAL) => dirfd::open_here(&volume.dir, DATA, flags),
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

/// The label holds the directory's inode beside the UID: a copy of the disk, or another node on the same kernel, may
/// have another volume with the same UID.
fn identity(volume: &Volume, file: Option<&File>) -> Result<Identity> {
    let (device, directory) = inode(&volume.dir)?;
    let label = format!("{}/{:x}:{directory:x}", volume.uid, device.to_raw());
    Ok(Identity { file: file.map(inode).transpose()?, label })
}
