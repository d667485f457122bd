//! Image backing: every volume has a filesystem of its own in an image, a file or logical volume of a fixed size.
//!
//! The agent makes and formats an image under another name, and installs the complete image. So **mkfs only ever sees
//! the image that the same call has just made**. An installed image is never formatted, whatever the record contains
//! (V9, S13). A shrink makes a smaller copy and installs the copy in the same way (V7). The replaced image is erased
//! by the volume's policy (X4). A program that outlives its agent may write into an unfinished copy. Such a program
//! ends with its container.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::host::backings::backing::{Backing, Commit, DiskSpace};
use crate::host::error::{Context, Error, Result};
use crate::host::sys::{Device, Mount, Uses, block_device, dirfd, filesystem, mounts, zero};
use crate::host::types::{ErasePolicy, FsType, Record, State};
use crate::host::volume::Volume;

/// A store of images. A volume has at most one installed image and one spare, which is unfinished or was replaced.
/// After a crash the spare is worthless.
pub(crate) trait ImageStore: Send + Sync {
    /// The name of an image in messages.
    const NAME: &'static str;
    /// True if a new image reads as zeroes everywhere; false if only its two ends do.
    const ZEROED: bool;

    /// The names of the store's files in a volume's directory.
    fn file_names(&self) -> Vec<&'static str>;

    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace>;

    /// The length of an image for `size` bytes.
    fn image_length(&self, size: u64) -> u64;

    /// Opens the installed image, if there is one.
    fn open(&self, volume: &Volume) -> Result<Option<File>>;

    /// Makes a spare of `size` bytes, all of them allocated, with blank ends.
    fn make_spare(&self, volume: &Volume, size: u64) -> Result<File>;

    /// Makes a spare for the copy of a filesystem of `size` bytes, of which `taken` bytes are in use.
    fn make_copy(&self, volume: &Volume, size: u64, taken: u64, policy: ErasePolicy) -> Result<File>;

    fn resize_spare(&self, volume: &Volume, spare: &File, size: u64, policy: ErasePolicy) -> Result<()>;

    /// Removes the spare, if there is one. Before the removal the installed image is synchronized to stable storage.
    /// Otherwise a power cut could undo the installation after the removal, and both images would be lost.
    fn remove_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()>;

    /// Exchanges the spare and the installed image in one step, then [removes](Self::remove_spare) the replaced
    /// image.
    fn install_spare(&self, volume: &Volume, policy: ErasePolicy) -> Result<()>;

    /// Allocates all bytes of the installed image up to `size` (V5).
    fn extend(&self, volume: &Volume, image: &File, size: u64) -> Result<()>;

    /// The path and the number of the installed image's block device. The device stays as long as the descriptor is
    /// open. With `read_only`, a device that is made now refuses writes, where the store can.
    fn attach(&self, volume: &Volume, image: &File, read_only: bool) -> Result<(String, Device, OwnedFd)>;

    /// True if `device` is the block device of the volume's image.
    fn is_attached(&self, volume: &Volume, device: Device) -> Result<bool>;

    fn in_use(&self, volume: &Volume) -> Result<bool>;

    /// The devices of the volume's images.
    fn devices(&self, volume: &Volume) -> Result<Vec<Device>>;

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64>;

    /// Gives the bytes of the installed image back to the disk.
    fn erase(&self, volume: &Volume, image: Option<File>) -> Result<()>;
}

/// A backing that keeps each volume in an image.
pub(crate) struct ImageBacking<S>(pub(crate) S);

impl<S: ImageStore> ImageBacking<S> {
    /// The installed image, which must be complete.
    fn complete_image(&self, volume: &Volume, record: &Record) -> Result<File> {
        let missing = || volume.lost(format!("its {} is missing", S::NAME));
        let image = self.0.open(volume)?.ok_or_else(missing)?;
        let (length, wanted) = (length_of(&image)?, whole_blocks(record.spec.size_bytes));
        match length < wanted {
            true => Err(volume.lost(format!("its {} has {length} bytes of {wanted}", S::NAME))),
            false => Ok(image),
        }
    }

    /// The filesystem of the complete image, and the path and number of its device.
    fn attached(
        &self,
        volume: &Volume,
        record: &Record,
        read_only: bool,
    ) -> Result<(FsType, String, Device, OwnedFd)> {
        let fs_type = record.spec.fs_type;
        let image = self.complete_image(volume, record)?;
        filesystem::verify(fs_type, record.filesystem_uuid(), &image)?;
        let (path, device, open) = self.0.attach(volume, &image, read_only)?;
        Ok((fs_type, path, device, open))
    }

    /// Makes a spare, fills it and installs it. After an error no spare remains. If the cleanup fails too, the first
    /// error is returned, and the next attempt removes the spare.
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

    /// Replaces an ext4 image by a copy of another size. The copy takes space on the disk for a while. A resize in
    /// place would not do: a resize2fs that is killed leaves a filesystem that nobody can trust.
    fn replace_by_copy(&self, volume: &Volume, record: &Record, size: u64, commit: Commit<'_>) -> Result<()> {
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
        let make = || self.0.make_copy(volume, total.max(size), taken, policy);
        self.replace(volume, policy, make, |copy| {
            let resize = || self.0.resize_spare(volume, copy, size, policy);
            filesystem::copy_resized(uid, &image, copy, size, resize)?;
            copy.sync_all().context(|| format!("synchronize the volume's new {}", S::NAME))?;
            filesystem::verify(FsType::Ext4, record.filesystem_uuid(), copy)?;
            // LVM refuses to remove an open logical volume, and this image is about to be replaced.
            drop(image);
            commit()
        })
    }
}

impl<S: ImageStore> Backing for ImageBacking<S> {
    fn space(&self, root: BorrowedFd<'_>) -> Result<DiskSpace> {
        self.0.space(root)
    }

    fn has_own_filesystem(&self, _: &Volume) -> Result<bool> {
        Ok(true)
    }

    fn file_names(&self) -> Vec<&'static str> {
        self.0.file_names()
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        record.spec.ensure_own_filesystem()?;
        let (fs_type, uuid, size) =
            (record.spec.fs_type, record.filesystem_uuid(), whole_blocks(record.spec.size_bytes));
        if self.0.open(volume)?.is_none() {
            let make = || self.0.make_spare(volume, size);
            self.replace(volume, policy_for_replaced(record), make, |file| {
                filesystem::make(fs_type, uuid, file, size, S::ZEROED)?;
                // mkfs may have given blocks back in spite of the options.
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
        let same = length == self.0.image_length(whole_blocks(record.spec.size_bytes));
        Ok(if same { record.spec.size_bytes } else { length })
    }

    fn grow(&self, volume: &Volume, record: &Record, size: u64) -> Result<()> {
        let (fs_type, size) = (record.spec.fs_type, whole_blocks(size));
        self.0.remove_spare(volume, policy_for_replaced(record))?;
        let image = self.complete_image(volume, record)?;
        self.0.extend(volume, &image, size)?;
        if fs_type == FsType::Ext4 && filesystem::measure(&image)?.0 >= size {
            return Ok(());
        }
        // All mounts of a device share its superblock, so a resize through a new mount grows the pods' mounts.
        let mount = self.mount(volume, record, false)?;
        let root = dirfd::open_dir(&mount, ".").context(|| "open the volume's root")?;
        match filesystem::grow(fs_type, &root, size) {
            Err(Error::Io { source: Errno::PERM, .. }) if fs_type == FsType::Ext4 => {
                drop((root, mount, image));
                self.replace_by_copy(volume, record, size, &mut || Ok(())).map_err(|error| match error {
                    Error::Busy { .. } => Error::Busy {
                        what: "a mounted ext4 grows only with CAP_SYS_RESOURCE, which the agent lacks here, and this one"
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

    fn shrink(&self, volume: &Volume, record: &Record, size: u64, commit: Commit<'_>) -> Result<()> {
        match record.spec.fs_type {
            FsType::Ext4 => self.replace_by_copy(volume, record, whole_blocks(size), commit),
            fs_type @ (FsType::Xfs | FsType::Btrfs) => Err(Error::Unsupported(format!(
                "{fs_type} cannot be made smaller: create a smaller volume and copy the files"
            ))),
        }
    }

    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        let mount = |device_read_only| {
            let (fs_type, path, device, _open) = self.attached(volume, record, device_read_only)?;
            let attributes = record.spec.mount_attributes(read_only);
            mounts::of_device(fs_type, &path, device, attributes, record.is_filesystem_read_only())
        };
        // A device that refuses writes also refuses the repair of a journal, which a power cut during the sealing can leave.
        match mount(record.is_sealed()) {
            Err(Error::Io { source: Errno::ROFS | Errno::ACCESS | Errno::INVAL, .. })
                if record.is_sealed() =>
            {
                mount(false)
            }
            result => result,
        }
    }

    fn seals_filesystem(&self) -> bool {
        true
    }

    /// The kernel looks for them: [`set_read_only`](Self::set_read_only) is refused while a file is open for writing, and a
    /// writable mount of a read-only filesystem writes nothing. So the agent need not see the node's processes.
    fn has_writers(&self, _: &Volume) -> Result<bool> {
        Ok(false)
    }

    fn set_read_only(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<()> {
        let (fs_type, path, device, _open) = self.attached(volume, record, false)?;
        mounts::set_read_only(fs_type, &path, device, read_only)
    }

    fn refuses_writes(&self, volume: &Volume) -> Result<bool> {
        Ok(self.0.devices(volume)?.into_iter().all(block_device::is_read_only))
    }

    fn owns(&self, volume: &Volume, mount: &Mount) -> Result<bool> {
        Ok(mount.root.as_os_str() == "/" && self.0.is_attached(volume, mount.device)?)
    }

    fn in_use(&self, volume: &Volume) -> Result<bool> {
        self.0.in_use(volume)
    }

    fn uses(&self, volume: &Volume) -> Result<Uses<'_>> {
        Ok(Uses::of_devices(self.0.devices(volume)?))
    }

    fn allocated_bytes(&self, volume: &Volume) -> Result<u64> {
        self.0.allocated_bytes(volume)
    }

    /// `Discard` gives the blocks back to the disk; `Zero` overwrites them first. Neither reaches the old copies that
    /// a flash disk keeps of overwritten blocks.
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

/// A size in whole blocks, rounded down: never more than the reserved size.
fn whole_blocks(size: u64) -> u64 {
    size / filesystem::BLOCK * filesystem::BLOCK
}

/// The policy for a replaced copy of the volume's bytes (X4). Before the volume is ready there is no data.
fn policy_for_replaced(record: &Record) -> ErasePolicy {
    match record.state {
        State::Creating => ErasePolicy::Discard,
        State::Ready | State::Erasing => record.spec.erase_policy.unwrap_or(ErasePolicy::Discard),
    }
}

pub(crate) fn length_of(file: &File) -> Result<u64> {
    rustix::fs::seek(file, SeekFrom::End(0)).context(|| "measure a volume's file or device")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A store whose spare cannot be removed a second time.
    #[derive(Default)]
    struct Broken(AtomicBool);

    impl ImageStore for Broken {
        const NAME: &'static str = "image";
        const ZEROED: bool = true;

        fn remove_spare(&self, _: &Volume, _: ErasePolicy) -> Result<()> {
            match self.0.swap(true, Ordering::Relaxed) {
                false => Ok(()),
                true => Err(Errno::IO).context(|| "remove the spare"),
            }
        }

        fn file_names(&self) -> Vec<&'static str> {
            unreachable!()
        }

        fn space(&self, _: BorrowedFd<'_>) -> Result<DiskSpace> {
            unreachable!()
        }

        fn image_length(&self, _: u64) -> u64 {
            unreachable!()
        }

        fn open(&self, _: &Volume) -> Result<Option<File>> {
            unreachable!()
        }

        fn make_spare(&self, _: &Volume, _: u64) -> Result<File> {
            unreachable!()
        }

        fn make_copy(&self, _: &Volume, _: u64, _: u64, _: ErasePolicy) -> Result<File> {
            unreachable!()
        }

        fn resize_spare(&self, _: &Volume, _: &File, _: u64, _: ErasePolicy) -> Result<()> {
            unreachable!()
        }

        fn install_spare(&self, _: &Volume, _: ErasePolicy) -> Result<()> {
            unreachable!()
        }

        fn extend(&self, _: &Volume, _: &File, _: u64) -> Result<()> {
            unreachable!()
        }

        fn attach(&self, _: &Volume, _: &File, _: bool) -> Result<(String, Device, OwnedFd)> {
            unreachable!()
        }

        fn is_attached(&self, _: &Volume, _: Device) -> Result<bool> {
            unreachable!()
        }

        fn in_use(&self, _: &Volume) -> Result<bool> {
            unreachable!()
        }

        fn devices(&self, _: &Volume) -> Result<Vec<Device>> {
            unreachable!()
        }

        fn allocated_bytes(&self, _: &Volume) -> Result<u64> {
            unreachable!()
        }

        fn erase(&self, _: &Volume, _: Option<File>) -> Result<()> {
            unreachable!()
        }
    }

    /// V10. The caller needs the first error: a full or missing disk is handled in another way than leftover files.
    #[test]
    fn v10_an_error_keeps_its_kind_when_the_cleanup_fails() {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let volume = Volume {
            uid: "00112233-4455-4677-8899-aabbccddeeff".parse().unwrap(),
            disk: "d".to_owned(),
            dir: File::open(temp.path()).unwrap().into(),
        };
        let full = Error::NoSpace { disk: "d".to_owned(), needed: 2, available: 1 };
        let make = || Err(full.clone());
        let done = ImageBacking(Broken::default()).replace(&volume, ErasePolicy::Discard, make, |_| Ok(()));
        assert_eq!(done, Err(full.clone()));
    }
}
