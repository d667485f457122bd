//! Loop devices, identified by the file behind them and never by their number.
//!
//! A number belongs to the whole machine. Other agents, on other "nodes" of the same kernel, take and return numbers
//! all the time. The kernel reports filesystem and inode of a device's file.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::host::error::{Context, Error, Result, unless_busy};
use crate::host::sys::mountinfo::Device;
use crate::host::sys::syscalls;

/// The device that gives free numbers.
const CONTROL: &str = "/dev/loop-control";
/// Number of attempts to get a free device: another process may take it first.
const ATTEMPTS: u32 = 64;

/// The file that a loop device is, or may be, bound to.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Device and inode of the file, if the file exists.
    pub(crate) file: Option<(Device, u64)>,
    /// The label of Reservoir's devices. The label finds a device whose file was deleted, but is no proof of
    /// ownership.
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
    /// The device is bound to the file, so it is the volume's.
    File,
    /// The device has only the label, which is no proof.
    Label,
}

/// A loop device. The device stays bound to its file at least as long as this value lives.
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

    /// Detaches the device unless it is in use (X3); true if it is in use. A device with only the label stays.
    ///
    /// The kernel's superblock holds its device exclusively while one mount, open file or working directory of it
    /// exists anywhere. Exactly that long the kernel refuses an exclusive open.
    pub(crate) fn detach_unless_in_use(self) -> Result<bool> {
        let claim = || open_node(self.number, OFlags::RDONLY | OFlags::EXCL);
        let Some((claim, _)) = unless_busy(claim)? else { return Ok(true) };
        if self.found == Match::File {
            // The open descriptor keeps the device bound, and the exclusive claim keeps others from a mount.
            match syscalls::loop_clear(&claim) {
                Ok(()) | Err(Errno::NXIO) => {}
                Err(error) => return Err(error).context(|| format!("detach {}", self.path())),
            }
        }
        Ok(false)
    }

    /// Gives the device the size of its file, which may have grown since the binding (V7).
    pub(crate) fn follow_file(&self) -> Result<()> {
        syscalls::loop_set_capacity(&self.open).context(|| format!("have {} follow its file", self.path()))
    }

    /// Keeps the device from punching holes into the file.
    ///
    /// Discards, and ext4's own zeroing, would otherwise give preallocated blocks back to the disk, and other writers
    /// could take them (V5). With this setting the kernel writes zeroes instead. The setting remains for the device's
    /// next user.
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

/// The devices that are bound to the file, or have its label.
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

/// True if any loop device of this machine has a binding that is `wanted`.
pub(crate) fn any_bound(wanted: impl Fn(&syscalls::LoopInfo64) -> bool) -> Result<bool> {
    for number in bound_numbers()? {
        if status(number)?.is_some_and(|(_, _, status)| wanted(&status)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if the device is bound to the file, or has its label.
pub(crate) fn is_bound(device: Device, identity: &Identity) -> Result<bool> {
    let Some(number) = number_of(device)? else { return Ok(false) };
    Ok(examine(number, identity)?.is_some_and(|found| found.device == device))
}

/// The number `N` of device `loopN`; `None` for any other device.
fn number_of(device: Device) -> Result<Option<u32>> {
    let link = format!("/sys/dev/block/{}:{}", device.major, device.minor);
    match std::fs::read_link(&link) {
        Ok(path) => Ok(path.file_name().and_then(|name| name.to_str()).and_then(number)),
        // No block device has this number: the device was removed, or the number is that of a filesystem without a
        // device.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("read {link}")),
    }
}

/// Opens a device that is bound to the file, or has its label; `None` for any other device.
fn examine(number: u32, identity: &Identity) -> Result<Option<LoopDevice>> {
    let Some((fd, device, status)) = status(number)? else { return Ok(None) };
    let direct_io = status.flags & syscalls::LO_FLAGS_DIRECT_IO != 0;
    Ok(identity.matches(&status).map(|found| LoopDevice { number, device, found, direct_io, open: fd }))
}

/// Opens a device and reads its binding; `None` for an unbound device.
fn status(number: u32) -> Result<Option<(OwnedFd, Device, syscalls::LoopInfo64)>> {
    let (fd, device) = match open_node(number, OFlags::RDONLY) {
        Ok(opened) => opened,
        // The device was unbound or removed meanwhile.
        Err(Error::Io { source: Errno::NXIO | Errno::NODEV | Errno::NOENT, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match syscalls::loop_status(&fd) {
        Ok(status) => Ok(Some((fd, device, status))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error).context(|| format!("read the binding of loop{number}")),
    }
}

/// Binds a free device to `file`, or returns the device that is bound to it already (S16).
pub(crate) fn attach(file: BorrowedFd<'_>, identity: &Identity) -> Result<LoopDevice> {
    let mut existing = find(identity)?;
    if existing.iter().any(|device| device.found == Match::Label) {
        let reason = "a loop device still serves a file that is no longer there: end its users".to_owned();
        return Err(Error::corrupt(identity.label.clone(), reason));
    }
    if existing.len() > 1 {
        let reason = format!("{} loop devices serve it: detach the one without a mount", existing.len());
        return Err(Error::corrupt(identity.label.clone(), reason));
    }
    if let Some(device) = existing.pop() {
        return Ok(device);
    }
    let control = open_control()?;
    // AUTOCLEAR: the kernel detaches the device with its last mount in any namespace, also after the death of this
    // process.
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
            // AUTOCLEAR detaches the device when this descriptor is closed.
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

/// Opens the device that gives free numbers, and makes a missing node, as [`open_node`] does. To open it makes the kernel load
/// the module, which then names free devices.
fn open_control() -> Result<OwnedFd> {
    let opened =
        open_or_make(CONTROL, FileType::CharacterDevice, rustix::fs::makedev(10, 237), OFlags::RDWR)?;
    opened.or_else(|error| match error {
        Errno::NODEV | Errno::NXIO => Err(Error::UnusableDevice(
            "the kernel of the node has no loop devices: load its module loop (modprobe loop, and a line loop in \
             /etc/modules-load.d/reservoir.conf), or give the disk another backing"
                .to_owned(),
        )),
        error => Err(error).context(|| format!("open {CONTROL}")),
    })
}

/// Opens a device; a missing node is made first. The error of the open is the inner one.
fn open_or_make(
    path: &str,
    kind: FileType,
    device: u64,
    flags: OFlags,
) -> Result<rustix::io::Result<OwnedFd>> {
    let open = || rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
    let opened = open();
    if let Err(Errno::NOENT) = opened {
        match rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device) {
            Ok(()) | Err(Errno::EXIST) => return Ok(open()),
            Err(error) => return Err(error).context(|| format!("make the missing {path}")),
        }
    }
    Ok(opened)
}

/// Opens `/dev/loopN`, and makes a missing node: a container gets its /dev at its start, without later devices.
fn open_node(number: u32, flags: OFlags) -> Result<(OwnedFd, Device)> {
    let name = format!("/sys/block/loop{number}/dev");
    let text = std::fs::read_to_string(&name).context(|| format!("read {name}"))?;
    let device = Device::parse(&text).ok_or_else(|| Error::corrupt(name, text.as_str()))?;
    let path = format!("/dev/loop{number}");
    let opened = open_or_make(&path, FileType::BlockDevice, device.to_raw(), flags)?;
    let fd = opened.context(|| format!("open {path}"))?;
    if Device::of_node(&fd)? != Some(device) {
        return Err(Error::UnusableDevice(format!("{path} is another device than in sysfs: remove it")));
    }
    Ok((fd, device))
}
