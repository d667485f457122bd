//! Backing `block`: a raw device, handed out whole (D2), with a filesystem on it or as it is.
//!
//! A raw device has no room for anything of ours: what pods write may be anywhere on it. So its identity, journal and
//! receipts are in the agent's state directory, in a directory that is named by what the *hardware* says it is
//! (WWN, serial number, partition UUID; never `/dev/sdb`, which another one may be tomorrow). Another device at the
//! same path has another directory, hence another disk ID, and is refused (D3). Should the state directory be lost, the
//! device is one that holds data which nobody knows: it is refused too, and nothing on it is touched (V9, S14).
//!
//! A device is taken over only if both of its ends are blank, and what is erased reads as zeroes everywhere (S17): so
//! what is not blank is never ours to format.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::backing::{Backing, Opened, Room};
use super::disk::{VOLUMES, Volume};
use super::error::{Context, Error, Result, settled};
use super::filesystem::FsType;
use super::inuse::{self, OpenFile};
use super::mountinfo::{Device, Mount};
use super::record::Record;
use super::uid::VolumeUid;
use super::{
    DiskConfig, ErasePolicy, Usage, beneath, filesystem, journal, loopdev, mounts, options, sys, zero,
};

/// There from before mkfs begins: what is on the device since is mkfs' and nobody's data (S13).
const FORMATTING: &str = "formatting";
/// The same file, once mkfs has ended: from then on the device is never formatted again.
const FORMATTED: &str = "formatted";

/// Longest name of an identity; a file's name has 255 bytes at most, and a partition adds its number.
const LONGEST_NAME: usize = 240;

struct Raw {
    /// Keeps it the same device, whatever becomes of its path.
    open: OwnedFd,
    device: Device,
    path: PathBuf,
    size: u64,
}

/// Opens the device and its directory; refuses one that cannot be told from another, that somebody uses, or that holds
/// data of which there is no journal.
pub(super) fn open(config: &DiskConfig) -> Result<Opened> {
    let path = config.path.display();
    let refuse = |why: &str| Err(Error::Unsupported(format!("{path} {why}")));
    inuse::ensure_sight()?;
    let Some(state) = &config.state else {
        return refuse("is a raw device, and no state directory is configured");
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&config.path, flags, Mode::empty()).context(|| format!("open {path}"))?;
    let stat = rustix::fs::fstat(&opened).context(|| format!("look at {path}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return refuse("is not a block device");
    }
    let device = Device::from_raw(stat.st_rdev);
    if attribute(device, "ro").as_deref() != Some("0") {
        return refuse("is read-only");
    }
    if has_partitions(device)? {
        return refuse("has partitions: use one of them, or remove them");
    }
    let size = rustix::fs::seek(&opened, SeekFrom::End(0)).context(|| format!("measure {path}"))?;
    let Some(identity) = identity(device)? else {
        return refuse(
            "says neither WWN nor serial number nor partition UUID, and could be taken for another one: \
             make a GPT partition or a logical volume on it and use that",
        );
    };
    let root = state.join(identity);
    std::fs::create_dir_all(&root).context(|| format!("make {}", root.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(&root, flags, Mode::empty()).context(|| format!("open {}", root.display()))?;
    let raw = Raw { open: opened, device, path: config.path.clone(), size };
    if !has_volumes(&root)? {
        if raw.is_claimed()? {
            return refuse("is in use: unmount it, or take it out of what it is a part of");
        }
        if !filesystem::is_blank(&raw.writable()?, size)? {
            return refuse(
                "holds data, and no journal here says whose: if it is to be given up, `blkdiscard --zeroout` makes it blank",
            );
        }
    }
    Ok(Opened { root, backing: Box::new(raw) })
}

impl Raw {
    /// The same device, to be written.
    fn writable(&self) -> Result<File> {
        let open = || {
            let path = format!("/proc/thread-self/fd/{}", self.open.as_raw_fd());
            rustix::fs::openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("open {} for writing", self.path.display()))
        };
        settled(open).map(File::from)
    }

    /// Whether the kernel has given it to somebody alone: a mounted filesystem, device-mapper, RAID, swap.
    fn is_claimed(&self) -> Result<bool> {
        let claim = || {
            let path = format!("/proc/thread-self/fd/{}", self.open.as_raw_fd());
            rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("ask for {} alone", self.path.display()))
        };
        match settled(claim) {
            Ok(_) => Ok(false),
            Err(Error::Io { source: Errno::BUSY, .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn format(&self, volume: &Volume, record: &Record) -> Result<()> {
        let (fs_type, uid) = (record.spec.fs_type, &volume.uid);
        let there = |name| beneath::open_here(&volume.dir, name, OFlags::PATH | OFlags::NOFOLLOW).is_ok();
        let file = self.writable()?;
        if !record.spec.raw {
            filesystem::wanted_inside(record)?;
        }
        if there(FORMATTED) {
            return filesystem::verify(fs_type, record.born(), &file);
        }
        if self.is_claimed()? {
            return Err(Error::Busy {
                what: format!("{}, on which a volume is to be made,", self.path.display()),
            });
        }
        if there(FORMATTING) {
            zero::discard(&file, self.size).context(|| "remove an unfinished filesystem")?;
        } else {
            self.ensure_blank(&file, uid)?;
            if !record.spec.raw {
                journal::replace(volume.dir.as_fd(), FORMATTING, b"")?;
            }
        }
        if record.spec.raw {
            return Ok(());
        }
        // What lies between the blank ends was not looked at.
        filesystem::make(fs_type, record.born(), &file, self.size, false)?;
        file.sync_all().context(|| "synchronize the new filesystem")?;
        filesystem::verify(fs_type, record.born(), &file)?;
        rustix::fs::renameat_with(&volume.dir, FORMATTING, &volume.dir, FORMATTED, RenameFlags::NOREPLACE)
            .and_then(|()| rustix::fs::fsync(&volume.dir))
            .context(|| "note that the filesystem is made")
    }

    fn ensure_blank(&self, file: &File, uid: &VolumeUid) -> Result<()> {
        if filesystem::is_blank(file, self.size)? {
            return Ok(());
        }
        let reason = format!("{} holds data, and the volume was never made on it", self.path.display());
        Err(Error::Corrupt { what: format!("volume {uid}"), reason })
    }
}

impl Backing for Raw {
    fn whole(&self) -> bool {
        true
    }

    fn room(&self, _: BorrowedFd<'_>) -> Result<Room> {
        Ok(Room { total: self.size, free: self.size })
    }

    fn scratch(&self) -> Option<FsType> {
        None
    }

    fn names(&self) -> Vec<&'static str> {
        vec![FORMATTING, FORMATTED, "formatting.new"]
    }

    fn create(&self, volume: &Volume, record: &Record) -> Result<()> {
        volume.ensure_free(record.spec.size_bytes, self.size)?;
        self.format(volume, record)?;
        if record.spec.raw { Ok(()) } else { self.set_root(volume, record) }
    }

    fn check(&self, volume: &Volume, record: &Record) -> Result<()> {
        if self.size < record.spec.size_bytes {
            let reason = format!("the device has {} bytes of {}", self.size, record.spec.size_bytes);
            return Err(Error::BackingLost { uid: volume.uid.clone(), reason });
        }
        match record.spec.raw {
            true => Ok(()),
            false => filesystem::verify(record.spec.fs_type, record.born(), &self.writable()?),
        }
    }

    /// Of a raw volume the device's own node, without nodev, which would keep it from being opened (V12).
    fn mount(&self, volume: &Volume, record: &Record, read_only: bool) -> Result<OwnedFd> {
        self.check(volume, record)?;
        let replaced = || Error::Conflict(format!("{} is another device now", self.path.display()));
        if record.spec.raw {
            let node = rustix::fs::open(&self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("open {}", self.path.display()))?;
            let stat = rustix::fs::fstat(&node).context(|| "look at a device")?;
            let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
            if !is_block || Device::from_raw(stat.st_rdev) != self.device {
                return Err(replaced());
            }
            return mounts::view(
                &node,
                MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            );
        }
        let attributes = options::attributes(&record.spec.mount_options, read_only);
        let path = self.path.to_string_lossy();
        let mount = settled(|| mounts::detached(record.spec.fs_type, &path, attributes))?;
        let mounted = rustix::fs::fstat(&mount).context(|| "look at the new mount")?;
        if Device::from_raw(mounted.st_dev) != self.device {
            return Err(replaced());
        }
        Ok(mount)
    }

    fn owns(&self, _: &Volume, mount: &Mount) -> Result<bool> {
        let filesystem = mount.device == self.device && mount.root.as_os_str() == "/";
        Ok(filesystem || mount.node == Some(self.device))
    }

    /// A filesystem, in whatever namespace, has the device for itself; raw users merely have it open, some of them by
    /// way of a loop device, as the kubelet.
    fn release(&self, _: &Volume) -> Result<bool> {
        let open = |file: OpenFile| file.block_device == Some(self.device);
        let bound = |status: &sys::LoopInfo64| Device::from_raw(status.rdevice) == self.device;
        Ok(self.is_claimed()? || loopdev::any_bound(bound)? || inuse::anywhere(|_| false, open)?)
    }

    fn allocated(&self, _: &Volume) -> Result<u64> {
        Ok(self.size)
    }

    /// What pods keep on a raw device, only they know: it is all theirs.
    fn usage(&self, volume: &Volume, record: &Record) -> Result<Usage> {
        match record.spec.raw {
            true => Ok(Usage { total_bytes: self.size, used_bytes: self.size, ..Usage::default() }),
            false => Usage::of(self.mount(volume, record, true)?),
        }
    }

    /// Either way it reads as zeroes afterwards, all of it; `Zero` writes them.
    fn erase(&self, volume: &Volume, _: &Record, policy: ErasePolicy) -> Result<()> {
        let file = self.writable()?;
        if policy == ErasePolicy::Zero {
            zero::overwrite(&file, 0..self.size).context(|| format!("overwrite volume {}", volume.uid))?;
        }
        zero::discard(&file, self.size).context(|| format!("erase volume {}", volume.uid))?;
        volume.remove(&self.names())
    }
}

fn has_volumes(root: &OwnedFd) -> Result<bool> {
    match beneath::open_dir(root, VOLUMES) {
        Ok(volumes) => {
            let names = beneath::names(&volumes).context(|| "list the journals of a device")?;
            Ok(names.iter().any(|name| name.to_str().is_some_and(|name| name.parse::<VolumeUid>().is_ok())))
        }
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error).context(|| "open the journals of a device"),
    }
}

fn sysfs(device: Device) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", device.major, device.minor))
}

/// What sysfs says of a device, if it says something.
fn attribute(device: Device, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(sysfs(device).join(name)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn has_partitions(device: Device) -> Result<bool> {
    let directory = sysfs(device);
    for entry in std::fs::read_dir(&directory).context(|| format!("list {}", directory.display()))? {
        let entry = entry.context(|| format!("list {}", directory.display()))?;
        if entry.path().join("partition").exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the hardware, the partition table, device-mapper or the file behind a loop device says that it is, as the name
/// of a file.
fn identity(device: Device) -> Result<Option<String>> {
    // Cut short, two could become one.
    let named = |kind: &str, value: String| {
        Some(format!("{kind}-{}", escape(&value))).filter(|name| name.len() <= LONGEST_NAME)
    };
    if let Some(number) = attribute(device, "partition") {
        let uevent = attribute(device, "uevent").unwrap_or_default();
        if let Some(uuid) = partition_uuid(&uevent) {
            return Ok(named("partuuid", uuid.to_owned()));
        }
        let disk = attribute(device, "../dev").as_deref().and_then(Device::parse);
        let whole = disk.filter(|disk| *disk != device).map(identity).transpose()?.flatten();
        return Ok(whole.map(|whole| format!("{whole}-part{number}")));
    }
    for (kind, name) in [
        ("wwid", "wwid"),
        ("wwid", "device/wwid"),
        ("dm", "dm/uuid"),
        ("md", "md/uuid"),
        ("serial", "serial"),
        ("serial", "device/serial"),
    ] {
        if let Some(value) = attribute(device, name) {
            return Ok(named(kind, value));
        }
    }
    let file = loopdev::file_of(device)?;
    Ok(file.map(|(filesystem, inode)| format!("loop-{}.{}-{inode}", filesystem.major, filesystem.minor)))
}

/// The UUID of a partition; those of a disk whose table has none are alike on all such disks.
fn partition_uuid(uevent: &str) -> Option<&str> {
    let uuid = uevent.lines().find_map(|line| line.strip_prefix("PARTUUID="))?;
    Some(uuid).filter(|uuid| !uuid.starts_with("00000000-"))
}

/// One name per text: whatever is no plain character is written as its number.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => char::from(byte).to_string(),
            other => format!("_{other:02x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d3_an_identity_is_one_plain_name() {
        assert_eq!(escape("naa.5000c500a1b2c3d4"), "naa.5000c500a1b2c3d4");
        assert_eq!(escape("t10.ATA  x/../y"), "t10.ATA_20_20x_2f.._2fy");
        assert_ne!(escape("a b"), escape("a_20b"));
    }

    /// A DOS partition table that was made by hand, or by an old tool, has signature 0.
    #[test]
    fn d3_partitions_of_a_table_without_a_signature_are_not_taken_for_each_other() {
        let of =
            |uuid: &str| partition_uuid(&format!("MAJOR=8\nPARTN=1\nPARTUUID={uuid}\n")).map(str::to_owned);
        assert_eq!(of("00000000-01"), None);
        assert_eq!(of("5e1ec7ed-01").as_deref(), Some("5e1ec7ed-01"));
        assert_eq!(partition_uuid("MAJOR=8\n"), None);
    }

    #[test]
    fn d3_no_device_no_identity() {
        let none = Device { major: 0, minor: 0 };
        assert_eq!(identity(none).ok().flatten(), None);
        assert!(attribute(none, "ro").is_none());
        assert!(!PathBuf::from("/sys/dev/block/0:0").exists());
    }
}
