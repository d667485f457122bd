//! Loop devices, told apart by the file behind them and never by their number.
//!
//! Numbers belong to the whole machine: other agents, on other "nodes" of the same kernel, take and return them all the
//! time. What a device is bound to is what the kernel says of its file: device and inode.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Context, Error, Result, settled};
use super::mountinfo::Device;
use super::sys;

/// How often a free device is looked for, when others take them first.
const ATTEMPTS: u32 = 64;

/// Which file a loop device is, or may be, bound to.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Device and inode of the file, if it is there.
    pub(super) file: Option<(Device, u64)>,
    /// The name that our devices carry. It finds a device whose file was deleted; it is no proof of ownership.
    pub(super) label: String,
}

impl Identity {
    fn matches(&self, status: &sys::LoopInfo64) -> Option<Match> {
        if self.file == Some((Device::from_raw(status.device), status.inode)) {
            Some(Match::File)
        } else if status.label() == self.label.as_bytes() {
            Some(Match::Label)
        } else {
            None
        }
    }
}

/// Why a device was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// It is bound to the file: it is ours.
    File,
    /// It only carries our name.
    Label,
}

/// A loop device. It stays bound to its file at least as long as this is held open.
pub(super) struct LoopDevice {
    number: u32,
    pub(super) device: Device,
    pub(super) found: Match,
    pub(super) direct_io: bool,
    /// Keeps it bound.
    pub(super) open: OwnedFd,
}

impl LoopDevice {
    pub(super) fn path(&self) -> String {
        format!("/dev/loop{}", self.number)
    }

    /// Whether a filesystem on it is alive in any mount namespace, or anything else claims it for itself (X3).
    ///
    /// The kernel's superblock holds its device exclusively for as long as one mount, one open file or one working
    /// directory of it exists anywhere; asking for the same is therefore refused exactly that long.
    fn claim(&self) -> Result<Option<OwnedFd>> {
        match settled(|| open_node(self.number, OFlags::RDONLY | OFlags::EXCL)) {
            Ok(claim) => Ok(Some(claim.0)),
            Err(Error::Io { source: Errno::BUSY, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Detaches it unless it is in use, and says whether it is. A device of which we only know the name stays.
    pub(super) fn release(self) -> Result<bool> {
        let Some(claim) = self.claim()? else { return Ok(true) };
        if self.found == Match::File {
            // Bound, because self is open; nobody can mount it meanwhile, because it is claimed.
            match sys::loop_clear(&claim) {
                Ok(()) | Err(Errno::NXIO) => {}
                Err(error) => return Err(error).context(|| format!("detach {}", self.path())),
            }
        }
        Ok(false)
    }

    /// Makes it as large as its file is now, which may have grown since it was bound (V7).
    pub(super) fn follow_file(&self) -> Result<()> {
        sys::loop_set_capacity(&self.open).context(|| format!("have {} follow its file", self.path()))
    }

    /// Takes the ability to punch holes into the file from the device.
    ///
    /// Discards, and ext4's own zeroing, would otherwise give preallocated blocks back to the disk, where anybody could
    /// take them (V5). Without it the kernel writes zeroes instead. The kernel keeps the setting for whoever gets the
    /// device next.
    pub(super) fn forbid_discards(&self) -> Result<()> {
        let path = format!("/sys/block/loop{}/queue/discard_max_bytes", self.number);
        let read = || std::fs::read_to_string(&path).context(|| format!("read {path}"));
        if read()?.trim() != "0" {
            std::fs::write(&path, "0").context(|| format!("turn off discards in {path}"))?;
            if read()?.trim() != "0" {
                return Err(Error::Unsupported(format!(
                    "{path} cannot be set to 0: the volume could lose its room"
                )));
            }
        }
        Ok(())
    }
}

/// The devices bound to the file, or carrying its name.
pub(super) fn find(identity: &Identity) -> Result<Vec<LoopDevice>> {
    let mut found = Vec::new();
    for number in bound_numbers()? {
        found.extend(examine(number, identity)?);
    }
    Ok(found)
}

/// Device and inode of the file behind a loop device; `None` if it is not one.
pub(super) fn file_of(device: Device) -> Result<Option<(Device, u64)>> {
    let Some(number) = number_of(device)? else { return Ok(None) };
    let found = status(number)?.filter(|(_, found, _)| *found == device);
    Ok(found.map(|(_, _, status)| (Device::from_raw(status.device), status.inode)))
}

/// Whether a loop device of this machine is bound to what `wanted` says.
pub(super) fn any_bound(wanted: impl Fn(&sys::LoopInfo64) -> bool) -> Result<bool> {
    for number in bound_numbers()? {
        if status(number)?.is_some_and(|(_, _, status)| wanted(&status)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this is the number of a device bound to the file, or carrying its name.
pub(super) fn is_bound(device: Device, identity: &Identity) -> Result<bool> {
    match number_of(device)? {
        Some(number) => Ok(examine(number, identity)?.is_some_and(|found| found.device == device)),
        None => Ok(false),
    }
}

/// The `N` of `loopN`, if that is what the device is.
fn number_of(device: Device) -> Result<Option<u32>> {
    let link = format!("/sys/dev/block/{}:{}", device.major, device.minor);
    match std::fs::read_link(&link) {
        Ok(path) => Ok(path.file_name().and_then(|name| name.to_str()).and_then(number)),
        // Gone, or the device of a filesystem without one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("read {link}")),
    }
}

/// Opens a device if it is bound to the file, or carries its name.
fn examine(number: u32, identity: &Identity) -> Result<Option<LoopDevice>> {
    let Some((fd, device, status)) = status(number)? else { return Ok(None) };
    let direct_io = status.flags & sys::LO_FLAGS_DIRECT_IO != 0;
    Ok(identity.matches(&status).map(|found| LoopDevice { number, device, found, direct_io, open: fd }))
}

/// Opens a device and says what it is bound to, if it is.
fn status(number: u32) -> Result<Option<(OwnedFd, Device, sys::LoopInfo64)>> {
    let (fd, device) = match open_node(number, OFlags::RDONLY) {
        Ok(opened) => opened,
        // Unbound or removed meanwhile.
        Err(Error::Io { source: Errno::NXIO | Errno::NODEV | Errno::NOENT, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match sys::loop_status(&fd) {
        Ok(status) => Ok(Some((fd, device, status))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error).context(|| format!("ask what loop{number} is bound to")),
    }
}

/// Binds a free device to `file`, or returns the one that is bound already (S16).
pub(super) fn attach(file: BorrowedFd<'_>, identity: &Identity) -> Result<LoopDevice> {
    let mut existing = find(identity)?;
    if existing.iter().any(|device| device.found == Match::Label) {
        let reason = "a loop device still serves a file that is no longer there".to_owned();
        return Err(Error::Corrupt { what: identity.label.clone(), reason });
    }
    if existing.len() > 1 {
        let reason = format!("{} loop devices serve it", existing.len());
        return Err(Error::Corrupt { what: identity.label.clone(), reason });
    }
    if let Some(device) = existing.pop() {
        return Ok(device);
    }
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /dev/loop-control")?;
    // AUTOCLEAR: it goes with its last mount, wherever that is, and also if this process dies in between.
    let info = sys::LoopInfo64::new(sys::LO_FLAGS_AUTOCLEAR | sys::LO_FLAGS_DIRECT_IO, &identity.label);
    for _ in 0..ATTEMPTS {
        let number = sys::loop_get_free(&control).context(|| "find a free loop device")?;
        let (fd, device) = match open_node(number, OFlags::RDWR) {
            Ok(opened) => opened,
            Err(Error::Io { source: Errno::NXIO, .. }) => continue,
            Err(error) => return Err(error),
        };
        match sys::loop_configure(&fd, file, info) {
            Ok(()) => {}
            Err(Errno::BUSY) => continue,
            Err(error) => return Err(error).context(|| format!("bind loop{number} to {}", identity.label)),
        }
        let status = sys::loop_status(&fd).context(|| format!("ask what loop{number} is bound to"))?;
        if identity.matches(&status) != Some(Match::File) {
            // Closing it detaches it again.
            let what = &identity.label;
            return Err(Error::Unsupported(format!(
                "the kernel and stat(2) disagree on the file of {what}: use a disk with ext4 or xfs"
            )));
        }
        let direct_io = status.flags & sys::LO_FLAGS_DIRECT_IO != 0;
        return Ok(LoopDevice { number, device, found: Match::File, direct_io, open: fd });
    }
    Err(Error::Busy { what: "every free loop device".to_owned() })
}

/// The numbers of the devices that have a file now.
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

/// Reads `loop7`.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix("loop")?.parse().ok()
}

/// Opens `/dev/loopN`, and makes it where nobody else does: in a container, /dev is filled once, at its start.
fn open_node(number: u32, flags: OFlags) -> Result<(OwnedFd, Device)> {
    let name = format!("/sys/block/loop{number}/dev");
    let text = std::fs::read_to_string(&name).context(|| format!("read {name}"))?;
    let device = Device::parse(&text).ok_or(Error::Corrupt { what: name, reason: text })?;
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
    let stat = rustix::fs::fstat(fd.as_fd()).context(|| format!("look at {path}"))?;
    let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    if !is_block || Device::from_raw(stat.st_rdev) != device {
        return Err(Error::Unsupported(format!(
            "{path} is not the device that the kernel calls so: remove it"
        )));
    }
    Ok((fd, device))
}
