//! Loop devices, identified by the file behind them and never by their number.
//!
//! Numbers belong to the whole machine: other agents, on other "nodes" of the same kernel, take and return them all the
//! time. The kernel reports the file that a device is bound to by filesystem and inode.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::host::error::{Context, Error, Result, unless_busy};
use crate::host::sys::mountinfo::Device;
use crate::host::sys::syscalls;

/// Attempts to get a free device, when other processes take them first.
const ATTEMPTS: u32 = 64;

/// The file that a loop device is, or may be, bound to.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Device and inode of the file, if it is there.
    pub(crate) file: Option<(Device, u64)>,
    /// The label of our devices. It finds a device whose file was deleted; it is no proof of ownership.
    pub(crate) label: String,
}

impl Identity {
    fn matches(&self, status: &syscalls::LoopInfo64) -> Option<Match> {
        if self.file == Some((Device::from_raw(status.device), status.inode)) {
            Some(Match::File)
        } else if status.label() == self.label.as_bytes() {
            Some(Match::Label)
        } else {
            None
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The device is bound to the file: it is ours.
    File,
    /// The device merely has our label.
    Label,
}

/// A loop device. It stays bound to its file at least as long as this value lives.
pub(crate) struct LoopDevice {
    number: u32,
    pub(crate) device: Device,
    pub(crate) found: Match,
    pub(crate) direct_io: bool,
    pub(crate) open: OwnedFd,
}

impl LoopDevice {
    pub(crate) fn path(&self) -> String {
        format!("/dev/loop{}", self.number)
    }

    /// Detaches the device unless it is in use (X3); true if it is. A device with nothing but our label stays.
    ///
    /// The kernel's superblock holds its device exclusively for as long as one mount, one open file or one working
    /// directory of it exists anywhere. An exclusive open by us is refused exactly that long.
    pub(crate) fn detach_unless_in_use(self) -> Result<bool> {
        let claim = || open_node(self.number, OFlags::RDONLY | OFlags::EXCL);
        let Some((claim, _)) = unless_busy(claim)? else { return Ok(true) };
        if self.found == Match::File {
            // Bound, because self is open; nobody can mount it meanwhile, because it is claimed.
            match syscalls::loop_clear(&claim) {
                Ok(()) | Err(Errno::NXIO) => {}
                Err(error) => return Err(error).context(|| format!("detach {}", self.path())),
            }
        }
        Ok(false)
    }

    /// Gives the device its file's size, which may have grown since the device was bound (V7).
    pub(crate) fn follow_file(&self) -> Result<()> {
        syscalls::loop_set_capacity(&self.open).context(|| format!("have {} follow its file", self.path()))
    }

    /// Keeps the device from punching holes into the file.
    ///
    /// Discards, and ext4's own zeroing, would otherwise give preallocated blocks back to the disk, where anybody could
    /// take them (V5). The kernel then writes zeroes instead. It keeps the setting for the device's next user.
    pub(crate) fn forbid_discards(&self) -> Result<()> {
        let path = format!("/sys/block/loop{}/queue/discard_max_bytes", self.number);
        let read = || std::fs::read_to_string(&path).context(|| format!("read {path}"));
        if read()?.trim() != "0" {
            std::fs::write(&path, "0").context(|| format!("turn off discards in {path}"))?;
            if read()?.trim() != "0" {
                return Err(Error::UnusableDevice(format!(
                    "{path} does not become 0, so a volume could lose blocks: detach {}",
                    self.path()
                )));
            }
        }
        Ok(())
    }
}

/// The devices bound to the file, or with its label.
pub(crate) fn find(identity: &Identity) -> Result<Vec<LoopDevice>> {
    let mut found = Vec::new();
    for number in bound_numbers()? {
        found.extend(examine(number, identity)?);
    }
    Ok(found)
}

/// Filesystem and inode of the file behind a loop device; `None` for any other device.
pub(crate) fn file_of(device: Device) -> Result<Option<(Device, u64)>> {
    let Some(number) = number_of(device)? else { return Ok(None) };
    let found = status(number)?.filter(|(_, found, _)| *found == device);
    Ok(found.map(|(_, _, status)| (Device::from_raw(status.device), status.inode)))
}

/// True if the binding of some loop device of this machine is `wanted`.
pub(crate) fn any_bound(wanted: impl Fn(&syscalls::LoopInfo64) -> bool) -> Result<bool> {
    for number in bound_numbers()? {
        if status(number)?.is_some_and(|(_, _, status)| wanted(&status)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True for the number of a device that is bound to the file, or has its label.
pub(crate) fn is_bound(device: Device, identity: &Identity) -> Result<bool> {
    let Some(number) = number_of(device)? else { return Ok(false) };
    Ok(examine(number, identity)?.is_some_and(|found| found.device == device))
}

/// The `N` of `loopN`; `None` for any other device.
fn number_of(device: Device) -> Result<Option<u32>> {
    let link = format!("/sys/dev/block/{}:{}", device.major, device.minor);
    match std::fs::read_link(&link) {
        Ok(path) => Ok(path.file_name().and_then(|name| name.to_str()).and_then(number)),
        // No block device has this number: the device was removed, or the filesystem never had one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("read {link}")),
    }
}

/// Opens a device if it is bound to the file, or has its label.
fn examine(number: u32, identity: &Identity) -> Result<Option<LoopDevice>> {
    let Some((fd, device, status)) = status(number)? else { return Ok(None) };
    let direct_io = status.flags & syscalls::LO_FLAGS_DIRECT_IO != 0;
    Ok(identity.matches(&status).map(|found| LoopDevice { number, device, found, direct_io, open: fd }))
}

/// Opens a device and reads its binding; `None` if it has none.
fn status(number: u32) -> Result<Option<(OwnedFd, Device, syscalls::LoopInfo64)>> {
    let (fd, device) = match open_node(number, OFlags::RDONLY) {
        Ok(opened) => opened,
        // Unbound or removed meanwhile.
        Err(Error::Io { source: Errno::NXIO | Errno::NODEV | Errno::NOENT, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match syscalls::loop_status(&fd) {
        Ok(status) => Ok(Some((fd, device, status))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error).context(|| format!("read the binding of loop{number}")),
    }
}

/// Binds a free device to `file`, or returns the one that is bound already (S16).
pub(crate) fn attach(file: BorrowedFd<'_>, identity: &Identity) -> Result<LoopDevice> {
    let mut existing = find(identity)?;
    if existing.iter().any(|device| device.found == Match::Label) {
        let reason = "a loop device still serves a file that is no longer there".to_owned();
        return Err(Error::corrupt(identity.label.clone(), reason));
    }
    if existing.len() > 1 {
        let reason = format!("{} loop devices serve it", existing.len());
        return Err(Error::corrupt(identity.label.clone(), reason));
    }
    if let Some(device) = existing.pop() {
        return Ok(device);
    }
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /dev/loop-control")?;
    // AUTOCLEAR: the device is detached with its last mount in any namespace, and also if this process dies first.
    let info = syscalls::LoopInfo64::new(
        syscalls::LO_FLAGS_AUTOCLEAR | syscalls::LO_FLAGS_DIRECT_IO,
        &identity.label,
    );
    for _ in 0..ATTEMPTS {
        let number = syscalls::loop_get_free(&control).context(|| "find a free loop device")?;
        let (fd, device) = match open_node(number, OFlags::RDWR) {
            Ok(opened) => opened,
            Err(Error::Io { source: Errno::NXIO, .. }) => continue,
            Err(error) => return Err(error),
        };
        match syscalls::loop_configure(&fd, file, info) {
            Ok(()) => {}
            Err(Errno::BUSY) => continue,
            Err(error) => return Err(error).context(|| format!("bind loop{number} to {}", identity.label)),
        }
        let status = syscalls::loop_status(&fd).context(|| format!("read the binding of loop{number}"))?;
        if identity.matches(&status) != Some(Match::File) {
            // AUTOCLEAR detaches it when it is closed.
            return Err(Error::UnusableDevice(format!(
                "the kernel and stat(2) disagree on the file behind loop{number}: use a disk with ext4 or xfs"
            )));
        }
        let direct_io = status.flags & syscalls::LO_FLAGS_DIRECT_IO != 0;
        return Ok(LoopDevice { number, device, found: Match::File, direct_io, open: fd });
    }
    Err(Error::Busy { what: "every free loop device".to_owned() })
}

fn bound_numbers() -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/sys/block").context(|| "list /sys/block")? {
        let name = entry.context(|| "list /sys/block")?.file_name();
        if let Some(number) = name.to_str().and_then(number)
            && std::fs::exists(format!("/sys/block/loop{number}/loop")).context(|| "look at a loop device")?
        {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix("loop")?.parse().ok()
}

/// Opens `/dev/loopN`, and makes it if it is missing: in a container, /dev is filled once, at its start.
fn open_node(number: u32, flags: OFlags) -> Result<(OwnedFd, Device)> {
    let name = format!("/sys/block/loop{number}/dev");
    let text = std::fs::read_to_string(&name).context(|| format!("read {name}"))?;
    let device = Device::parse(&text).ok_or_else(|| Error::corrupt(name, text.as_str()))?;
    let path = format!("/dev/loop{number}");
    let open = || rustix::fs::open(&path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) => {
            let mode = Mode::RUSR | Mode::WUSR;
            match rustix::fs::mknodat(CWD, &path, FileType::BlockDevice, mode, device.to_raw()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).context(|| format!("make the missing {path}")),
            }
            open()
        }
        result => result,
    };
    let fd = opened.context(|| format!("open {path}"))?;
    if Device::of_node(&fd)? != Some(device) {
        return Err(Error::UnusableDevice(format!("{path} is another device than in sysfs: remove it")));
    }
    Ok((fd, device))
}
