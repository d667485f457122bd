//! Backing `Block`: an undivided raw device (D2), with a filesystem or as a raw volume.
//!
//! Pods may write anywhere on a raw device, so it has no space for the agent's files. Its identity, records and
//! receipts are in the agent's state directory. The name of the directory there is the *hardware's* identity: WWN,
//! serial number or partition UUID. A path such as `/dev/sdb` would not do: it may be another device after a reboot.
//! Another device at the same path has another directory, hence another disk ID, and is refused (D3). After a loss of
//! the state directory the device holds data without a record. The agent refuses such a device and touches nothing on
//! it (V9, S14).
//!
//! The agent takes a device over only if both of its ends are blank, so it never formats a device with content. An
//! erased device reads as zeroes everywhere (S17). A raw volume shows all of its device, so the agent makes the
//! device read as zeroes before a pod gets the volume.
//!
//! A restore of etcd and of the state directory can bring back records that are older than the device's content. So
//! an erase first compares the filesystem on the device with the volume's, and keeps any other content (S14).
//!
//! # Caveats
//! - A raw volume leaves no mark of its own on the device: after such a restore an erase cannot recognize a later
//!   owner's data.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::mount::MountAttrFlags;

use crate::host::backings::backing::{Backing, DiskSpace, Opened};
use crate::host::error::{Context, Error, Result, retry_while_busy, unless_busy};
use crate::host::layout::VOLUMES;
use crate::host::sys::{
    Device, Mount, Uses, atomic_file, block_device, dirfd, filesystem, in_use, mounts, zero,
};
use crate::host::types::{DiskConfig, ErasePolicy, FsType, Record, Usage, VolumeUid};
use crate::host::volume::Volume;

/// The name of a file that is made before the device is changed. Until the file is renamed, the device holds no
/// volume's data (S13).
const FORMATTING: &str = "formatting";
/// The name of the same file once the volume is made. The device is never formatted again from then on.
const FORMATTED: &str = "formatted";
/// The name of the same file once an erase has found the volume's own content on the device.
const ERASING: &str = "erasing";

struct Raw {
    /// The open device. The descriptor stays the same device when the path changes.
    open: OwnedFd,
    device: Device,
    path: PathBuf,
    size: u64,
}

/// Opens the device and its directory; refuses a device without an identity, in use, or with data that has no record.
pub(super) fn open(config: &DiskConfig) -> Result<Opened> {
    let path = config.path.display();
    let refuse = |reason: &str| Err(Error::unsuitable_disk(&config.path, reason));
    in_use::ensure_processes_visible()?;
    let Some(state) = &config.state else {
        return refuse("is a raw device, and no state directory is configured: set one on the agent");
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&config.path, flags, Mode::empty()).context(|| format!("open {path}"))?;
    let Some(device) = Device::of_node(&opened)? else {
        return refuse("is not a block device: use one, or kind Path");
    };
    let sysfs = Path::new(block_device::SYSFS);
    let directory = block_device::directory(sysfs, device);
    if block_device::attribute(&directory, "ro").as_deref() != Some("0") {
        return refuse("is read-only: make it writable");
    }
    if block_device::has_partitions(&directory)? {
        return refuse("has partitions: use one of them, or remove them");
    }
    let size = rustix::fs::seek(&opened, SeekFrom::End(0)).context(|| format!("measure {path}"))?;
    let Some(identity) = block_device::identity(sysfs, device)? else {
        return refuse(
            "has neither WWN nor serial number nor partition UUID, and could be taken for another one: \
             make a GPT partition or a logical volume on it and use that",
        );
    };
    let root = state.join(identity);
    std::fs::create_dir_all(&root).context(|| format!("make {}", root.display()))?;
    let root = dirfd::open_configured(&root)?;
    let raw = Raw { open: opened, device, path: config.path.clone(), size };
    if !has_volumes(&root)? {
        if raw.is_claimed()? {
            return refuse("is in use: unmount it, or take it out of its RAID, volume group or swap");
        }
        if !filesystem::is_blank(&raw.writable()?, size)? {
            return refuse(&format!(
                "holds data without a record: if that is to be given up, `blkdiscard --force --zeroout {path}` makes the device blank"
            ));
        }
    }
    Ok(Opened { root, backing: Box::new(raw) })
}

impl Raw {
    fn reopen(&self, flags: OFlags) -> Result<File> {
        let path = format!("/proc/thread-self/fd/{}", self.open.as_raw_fd());
        rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .context(|| format!("open {}", self.path.display()))
    }

    fn writable(&self) -> Result<File> {
        retry_while_busy(|| self.reopen(OFlags::RDWR))
    }

    /// True if a filesystem, device-mapper, RAID or swap has claimed the device: an exclusive open is then refused.
    fn is_claimed(&self) -> Result<bool> {
        Ok(unless_busy(|| self.reopen(OFlags::RDONLY | OFlags::EXCL))?.is_none())
    }

    fn format(&self, volume: &Volume, record: &Record) -> Result<()> {
        let (fs_type, uuid, raw) = (record.spec.fs_type, record.filesystem_uuid(), record.spec.raw);
        let file = self.writable()?;
        if !raw {
            record.spec.ensure_own_filesystem()?;
        }
        if has(volume, FORMATTED) {
            return if raw { Ok(()) } else { filesystem::verify(fs_type, uuid, &file) };
        }
        if self.is_claimed()? {
            return Err(Error::Busy {
                what: format!("{}, on which a volume is to be made,", self.path.display()),
            });
        }
        let unfinished = has(volume, FORMATTING);
        if !unfinished {
            self.ensure_blank(&file, &volume.uid)?;
            atomic_file::replace(volume.dir.as_fd(), FORMATTING, b"")?;
        }
        if unfinished || raw {
            zero::discard(&file, self.size).context(|| format!("make {} blank", self.path.display()))?;
        }
        if !raw {
            // `false`: the agent has looked at the ends only, so the rest may not be zeroes.
            filesystem::make(fs_type, uuid, &file, self.size, false)?;
            file.sync_all().context(|| "synchronize the new filesystem")?;
            filesystem::verify(fs_type, uuid, &file)?;
        }
        rename(volume, FORMATTING, FORMATTED)
    }

    /// Refuses to erase content of another owner. False for a device that holds nothing of the volume.
    fn is_own(&self, volume: &Volume, record: &Record, file: &File) -> Result<bool> {
        if has(volume, ERASING) || has(volume, FORMATTING) {
            return Ok(true);
        }
        if !has(volume, FORMATTED) {
            return Ok(false);
        }
        let is_own = record.spec.raw
            || filesystem::verify(record.spec.fs_type, record.filesystem_uuid(), file).is_ok()
            || filesystem::is_blank(file, self.size)?;
        if !is_own {
            let (path, volume) = (self.path.display(), &record.spec.name);
            return Err(Error::Conflict(format!(
                "{path} has other content than the filesystem of volume {volume}, and is kept: put the volume's own \
                 device back, or give that content up with `blkdiscard --force --zeroout {path}`"
            )));
        }
        rename(volume, FORMATTED, ERASING).map(|()| true)
    }

    fn ensure_blank(&self, file: &File, uid: &VolumeUid) -> Result<()> {
        if filesystem::is_blank(file, self.size)? {
            return Ok(());
        }
        let path = self.path.display();
        let reason = format!(
            "{path} holds data, and the volume was never made on it: if that is to be given up, `blkdiscard --force --zeroout {path}` \
             makes the device blank"
        );
        Err(Error::corrupt(format!("volume {uid}"), reason))
    }
}

impl Backing for Raw {
    fn is_undivided(&self) -> bool {
        true
    }

    fn space(&self, _: BorrowedFd<'_>) -> Result<DiskSpace> {
        Ok(DiskSpace { total: self.size, free: self.size })
    }

    fn scratch_fs_type(&self) -> Option<FsType> {
        None
    }

    fn file_names(&self) -> Vec<&'static str> {
        vec![FORMATTING, FORMATTED, ERASING, "formatting.new"]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        volume.ensure_free(record.spec.size_bytes, self.size)?;
        self.format(volume, record)?;
        if record.spec.raw { Ok(()) } else { self.set_root(volume, record) }
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        if self.size < record.spec.size_bytes {
            let reason = format!("the device has {} bytes of {}", self.size, record.spec.size_bytes);
            return Err(volume.lost(reason));
        }
        match record.spec.raw {
            true => Ok(()),
            false => filesystem::verify(record.spec.fs_type, record.filesystem_uuid(), &self.writable()?),
        }
    }

    /// The mount of a raw volume shows the device's own node. The mount has no nodev, which would forbid to open the
    /// node (V12).
    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        self.check(volume, record)?;
        if record.spec.raw {
            let node = rustix::fs::open(&self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("open {}", self.path.display()))?;
            if Device::of_node(&node)? != Some(self.device) {
                let path = self.path.display();
                return Err(Error::Conflict(format!(
                    "{path} is another device now: put the disk's own device back"
                )));
            }
            return mounts::of_open(
                &node,
                MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            );
        }
        let attributes = record.spec.mount_attributes(read_only);
        let (path, read_only) = (self.path.to_string_lossy(), record.is_filesystem_read_only());
        mounts::of_device(record.spec.fs_type, &path, self.device, attributes, read_only)
    }

    fn seals_filesystem(&self) -> bool {
        true
    }

    fn set_read_only(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<()> {
        self.check(volume, record)?;
        mounts::set_read_only(record.spec.fs_type, &self.path.to_string_lossy(), self.device, read_only)
    }

    fn owns(&self, _: &Volume, mount: &Mount) -> Result<bool> {
        let filesystem = mount.device == self.device && mount.root.as_os_str() == "/";
        Ok(filesystem || mount.node == Some(self.device))
    }

    /// A filesystem in any mount namespace claims the device. Users of a raw volume have the device open without a
    /// claim, some of them, like the kubelet, through a loop device.
    fn in_use(&self, _: &Volume) -> Result<bool> {
        Ok(self.is_claimed()? || block_device::is_open(self.device)?)
    }

    fn uses(&self, _: &Volume) -> Result<Uses<'_>> {
        Ok(Uses::of_devices(vec![self.device]))
    }

    fn allocated_bytes(&self, _: &Volume) -> Result<u64> {
        Ok(self.size)
    }

    /// Only the pods understand the content of a raw device, so all of it counts as used.
    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        match record.spec.raw {
            true => Ok(Usage { total_bytes: self.size, used_bytes: self.size, ..Usage::default() }),
            false => Usage::of_filesystem(self.mount(volume, record, true)?),
        }
    }

    /// The whole device reads as zeroes afterwards with either policy; `Zero` writes the zeroes.
    fn erase(&self, volume: &Volume, record: &Record, policy: ErasePolicy) -> Result<()> {
        let file = self.writable()?;
        if self.is_own(volume, record, &file)? {
            let name = &record.spec.name;
            if policy == ErasePolicy::Zero {
                zero::overwrite(&file, 0..self.size).context(|| format!("overwrite volume {name}"))?;
            }
            zero::discard(&file, self.size).context(|| format!("erase volume {name}"))?;
        }
        volume.remove_files(&self.file_names())
    }
}

fn has(volume: &Volume, name: &str) -> bool {
    dirfd::open_here(&volume.dir, name, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
}

fn rename(volume: &Volume, from: &str, to: &str) -> Result<()> {
    rustix::fs::renameat_with(&volume.dir, from, &volume.dir, to, RenameFlags::NOREPLACE)
        .and_then(|()| rustix::fs::fsync(&volume.dir))
        .context(|| format!("rename {from} of volume {} to {to}", volume.uid))
}

fn has_volumes(root: &OwnedFd) -> Result<bool> {
    let names = dirfd::unless_missing(dirfd::open_dir(root, VOLUMES).and_then(dirfd::names))
        .context(|| "list the records of a device")?;
    let is_volume = |name: OsString| name.to_str().is_some_and(|name| name.parse::<VolumeUid>().is_ok());
    Ok(names.unwrap_or_default().into_iter().any(is_volume))
}
