//! Image backing: every volume has a filesystem of its own in an image, which is a file or a logical volume of a fixed size.
//!
//! An image is made and formatted under another name, and installed when it is complete. So **mkfs only ever sees the image that
//! the same call has just made**, and an installed image is never formatted, whatever the record has (V9, S13). A smaller volume
//! is made of a copy, which is installed in the same way (V7). The image that it replaced is erased by the volume's
//! policy (X4). A program that outlives its agent may still write into an unfinished copy; a container takes its programs
//! along.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::host::backings::backing::{Backing, DiskSpace};
use crate::host::error::{Context, Error, Result};
use crate::host::fs_type::FsType;
use crate::host::mount_options;
use crate::host::record::{Record, State};
use crate::host::spec::ErasePolicy;
use crate::host::sys::filesystem::{self, BLOCK};
use crate::host::sys::mountinfo::{Device, Mount};
use crate::host::sys::{dirfd, mounts, zero};
use crate::host::volume::Volume;

/// A store of images. A volume has at most one installed image and one spare, which is unfinished or was replaced. After a crash
/// the spare is worthless.
pub(crate) trait ImageStore: Send + Sync {
    /// The word for an image in messages.
    const NAME: &'static str;
    /// A new image reads as zeroes everywhere, and not only at both ends.
    const ZEROED: bool;

    /// The names of its files in a volume's directory.
    fn file_names(&self) -> Vec<&'static str>;

    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace>;

    /// The length of an image for `size` bytes.
    fn image_length(&self, size: u64) -> u64;

    /// Opens the installed image, if there is one.
    fn open(&self, volume: &Volume) -> Result<Option<File>>;

    /// Makes a spare of `size` bytes, all of them allocated, with blank ends.
    fn make_spare(&self, volume: &Volume, size: u64) -> Result<File>;

    /// Makes a spare for a copy of a filesystem of `size` bytes, of which so many are `taken`.
    fn make_spare_for_copy(
        &self,
        volume: &Volume,
        size: u64,
        taken: u64,
        policy: ErasePolicy,
    ) -> Result<File>;

    /// Gives the spare another size.
    fn resize_spare(&self, volume: &Volume, spare: &File, size: u64, policy: ErasePolicy) -> Result<()>;

    /// Removes the spare, if there is one. Before that the installed image is on stable storage: a power cut that undid its
    /// installation would lose both.
    fn remove_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()>;

    /// Installs the spare: in one step the two images change places. Then [removes](Self::remove_spare) the replaced one.
    fn install_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()>;

    /// Allocates all bytes of the installed image up to `size` (V5).
    fn extend(&self, volume: &Volume, image: &File, size: u64) -> Result<()>;

    /// The block device of the installed image, by path and by number. It stays at least as long as the descriptor is open.
    fn attach(&self, volume: &Volume, image: &File) -> Result<(String, Device, OwnedFd)>;

    /// True for the number of that device.
    fn is_attached(&self, volume: &Volume, device: Device) -> Result<bool>;

    fn in_use(&self, volume: &Volume) -> Result<bool>;

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64>;

    /// Gives the bytes of the installed image back to the disk.
    fn erase(&self, volume: &Volume, image: Option<File>) -> Result<()>;
}

/// Volumes with an image each.
pub(crate) struct ImageBacking<S>(pub(crate) S);

impl<S: ImageStore> ImageBacking<S> {
    /// The installed image, which must be complete.
    fn complete_image(&self, volume: &Volume, record: &Record) -> Result<File> {
        let lost = |reason: String| Error::BackingLost { uid: volume.uid.clone(), reason };
        let image = self.0.open(volume)?.ok_or_else(|| lost(format!("its {} is missing", S::NAME)))?;
        let (length, wanted) = (length_of(&image)?, size_in_blocks(record));
        match length < wanted {
            true => Err(lost(format!("its {} has {length} bytes of {wanted}", S::NAME))),
            false => Ok(image),
        }
    }

    /// Makes a spare, fills it and installs it; after an error no spare remains. A spare that cannot be removed is removed by the
    /// next attempt, and the error of this one keeps its kind.
    fn replace(
        &self,
        volume: &Volume,
        policy: ErasePolicy,
        make: impl FnOnce() -> Result<File>,
        fill: impl FnOnce(&File) -> Result<()>,
    ) -> Result<()> {
        self.0.remove_spare(volume, policy)?;
        let installed =
            make().and_then(|spare| fill(&spare)).and_then(|()| self.0.install_spare(volume, policy));
        if installed.is_err()
            && let Err(error) = self.0.remove_spare(volume, policy)
        {
            tracing::warn!(
                disk = volume.disk,
                uid = %volume.uid,
                %error,
                "an unfinished {} stays on the disk until the next attempt",
                S::NAME
            );
        }
        installed
    }

    /// Replaces an ext4 image by a copy of another size. The copy needs space on the disk for a while: a filesystem could not be
    /// trusted after a resize2fs that was killed in its middle.
    fn replace_by_copy(
        &self,
        volume: &Volume,
        record: &Record,
        size: u64,
        commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let (uid, policy) = (&volume.uid, policy_for_replaced(record));
        if self.in_use(volume)? {
            return Err(Error::volume_in_use(uid));
        }
        let image = self.complete_image(volume, record)?;
        filesystem::verify(FsType::Ext4, record.filesystem_uuid(), &image)?;
        filesystem::check(&image)?;
        let (total, taken) = filesystem::measure(&image)?;
        if taken > size {
            let needed = filesystem::min_size(&image)?.max(taken);
            return Err(Error::TooSmall { uid: uid.clone(), needed, wanted: size });
        }
        let make = || self.0.make_spare_for_copy(volume, total.max(size), taken, policy);
        self.replace(volume, policy, make, |copy| {
            let resize = || self.0.resize_spare(volume, copy, size, policy);
            filesystem::copy_resized(uid, &image, copy, size, resize)?;
            copy.sync_all().context(|| format!("synchronize the volume's new {}", S::NAME))?;
            filesystem::verify(FsType::Ext4, record.filesystem_uuid(), copy)?;
            commit()
        })
    }
}

impl<S: ImageStore> Backing for ImageBacking<S> {
    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace> {
        self.0.space(root)
    }

    fn file_names(&self) -> Vec<&'static str> {
        self.0.file_names()
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        record.spec.ensure_own_filesystem()?;
        let (fs_type, uuid, size) = (record.spec.fs_type, record.filesystem_uuid(), size_in_blocks(record));
        if self.0.open(volume)?.is_none() {
            let make = || self.0.make_spare(volume, size);
            self.replace(volume, policy_for_replaced(record), make, |file| {
                filesystem::make(fs_type, uuid, file, size, S::ZEROED)?;
                // mkfs may have given blocks back in spite of its options.
                self.0.extend(volume, file, size)?;
                filesystem::verify(fs_type, uuid, file)
            })?;
        }
        filesystem::verify(fs_type, uuid, &self.complete_image(volume, record)?)?;
        self.set_root(volume, record)
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        self.complete_image(volume, record).map(drop)
    }

    fn size_on_disk(&self, volume: &Volume, record: &Record) -> Result<u64> {
        let length = length_of(&self.complete_image(volume, record)?)?;
        let same = length == self.0.image_length(size_in_blocks(record));
        Ok(if same { record.spec.size_bytes } else { length })
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        let (fs_type, size) = (record.spec.fs_type, size / BLOCK * BLOCK);
        self.0.remove_spare(volume, policy_for_replaced(record))?;
        let image = self.complete_image(volume, record)?;
        self.0.extend(volume, &image, size)?;
        if fs_type == FsType::Ext4 && filesystem::measure(&image)?.0 >= size {
            return Ok(());
        }
        // All mounts of a device share its superblock, so growing through a new mount grows the pods' mounts.
        let mount = self.mount(volume, record, false)?;
        let root = dirfd::open_dir(&mount, ".").context(|| "open the volume's root")?;
        match filesystem::grow(fs_type, &root, size) {
            Err(Error::Io { source: Errno::PERM, .. }) if fs_type == FsType::Ext4 => {
                drop((root, mount, image));
                self.replace_by_copy(volume, record, size, &mut || Ok(())).map_err(|error| match error {
                    Error::Busy { .. } => Error::Busy {
                        what: "ext4, which only an agent with CAP_SYS_RESOURCE may grow while it is mounted,"
                            .to_owned(),
                    },
                    error => error,
                })?;
                self.0.extend(volume, &self.complete_image(volume, record)?, size)
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
            FsType::Ext4 => self.replace_by_copy(volume, record, size / BLOCK * BLOCK, commit),
            fs_type @ (FsType::Xfs | FsType::Btrfs) => Err(Error::Unsupported(format!(
                "{fs_type} cannot be made smaller: create a smaller volume and copy the files"
            ))),
        }
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let fs_type = record.spec.fs_type;
        let image = self.complete_image(volume, record)?;
        filesystem::verify(fs_type, record.filesystem_uuid(), &image)?;
        let (path, device, _open) = self.0.attach(volume, &image)?;
        let attributes = mount_options::attributes(&record.spec.mount_options, read_only);
        mounts::of_device(fs_type, &path, device, attributes)
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(mount.root.as_os_str() == "/" && self.0.is_attached(volume, mount.device)?)
    }

    fn in_use(&self, volume: &Volume) -> Result<bool> {
        self.0.in_use(volume)
    }

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        self.0.allocated_bytes(volume)
    }

    /// `Discard` gives the blocks back to the disk; `Zero` overwrites them first. Copies that a disk keeps of overwritten
    /// blocks, as flash does, are out of reach of either.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()> {
        self.0.remove_spare(volume, policy)?;
        let image = self.0.open(volume)?;
        if let Some(image) = image.as_ref().filter(|_| policy == ErasePolicy::Zero) {
            zero::overwrite(image, 0..length_of(image)?)
                .context(|| format!("overwrite volume {}", record.spec.uid))?;
        }
        self.0.erase(volume, image)
    }
}

/// The volume's size in whole blocks: never more than was reserved for it.
fn size_in_blocks(record: &Record) -> u64 {
    record.spec.size_bytes / BLOCK * BLOCK
}

/// The policy for a copy of the volume's bytes that is not needed any more (X4). Before the volume is ready there is none.
fn policy_for_replaced(record: &Record) -> ErasePolicy {
    match record.state {
        State::Creating => ErasePolicy::Discard,
        State::Ready | State::Erasing => record.spec.erase_policy.unwrap_or(ErasePolicy::Discard),
    }
}

/// Bytes of a file or a block device.
pub(crate) fn length_of(file: &File) -> Result<u64> {
    rustix::fs::seek(file, SeekFrom::End(0)).context(|| "measure a volume's file or device")
}
