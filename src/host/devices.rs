//! The node's hardware block devices, with the reason why a disk cannot take one.
//!
//! Nothing is claimed: an exclusive open, even for a moment, makes somebody else's mount of the device fail. So a device is
//! read only, and only after sysfs has shown a write since the last look: a spinning disk at rest stays at rest.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::host::error::{Context, Error, Result};
use crate::host::sys::block_device::{attribute, has_partitions, identity};
use crate::host::sys::{Device, filesystem, signature};
use crate::host::types::BlockDevice;

/// Time limit for a look at all devices.
const PATIENCE: Duration = Duration::from_secs(20);

/// The obstacle on each device, with the state of the device at the time of the look.
type Looked = BTreeMap<String, (String, Option<String>)>;

pub(super) struct Devices {
    sysfs: PathBuf,
    looked: Mutex<Looked>,
    /// The beginning of the present look.
    since: Mutex<Option<Instant>>,
}

impl Devices {
    pub(super) fn new(sysfs: PathBuf) -> Arc<Self> {
        Arc::new(Self { sysfs, looked: Mutex::default(), since: Mutex::default() })
    }

    /// Lists the devices by name, on a thread of its own: a device may hang.
    pub(super) fn look(self: &Arc<Self>) -> Result<Vec<BlockDevice>> {
        let hangs = |since: Option<Instant>| since.is_some_and(|since| since.elapsed() > PATIENCE);
        if hangs(*self.since()) {
            return Err(silent());
        }
        let (devices, (to, answer)) = (self.clone(), channel());
        let look = move || {
            let mut looked = devices.looked.lock().unwrap_or_else(PoisonError::into_inner);
            *devices.since() = Some(Instant::now());
            let found = list(&devices.sysfs, &mut looked);
            *devices.since() = None;
            let _ = to.send(found);
        };
        std::thread::Builder::new().name("devices".to_owned()).spawn(look).context(|| "start a thread")?;
        answer.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(silent()))
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silent() -> Error {
    Error::UnusableDevice(
        "a device of the node does not answer: see the node's kernel log, and repair or remove the device"
            .to_owned(),
    )
}

fn list(sysfs: &Path, looked: &mut Looked) -> Result<Vec<BlockDevice>> {
    let directory = sysfs.join("block");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory).context(|| format!("list {}", directory.display()))? {
        let entry = entry.context(|| format!("list {}", directory.display()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        found.extend(device(sysfs, &entry.path(), name, looked)?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    looked.retain(|name, _| found.iter().any(|device| device.name == *name));
    Ok(found)
}

/// A device of the hardware; `None` for loop devices, logical volumes and the like, for one part of a device with several
/// paths, and for what can be pulled out.
fn device(sysfs: &Path, directory: &Path, name: String, looked: &mut Looked) -> Result<Option<BlockDevice>> {
    let text = |attributes: &[&str]| attributes.iter().find_map(|name| attribute(directory, name));
    let is = |name: &str| attribute(directory, name).as_deref() == Some("1");
    let number = text(&["dev"]).as_deref().and_then(Device::parse);
    let size =
        text(&["size"]).and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0).saturating_mul(512);
    let (Some(number), true) = (number, directory.join("device").exists() && size > 0) else {
        return Ok(None);
    };
    if is("hidden") || is("removable") {
        return Ok(None);
    }
    let mut device = BlockDevice {
        size,
        model: text(&["device/model", "device/name"]).unwrap_or_default(),
        serial: text(&["device/serial", "serial", "device/wwid", "wwid"]).unwrap_or_default(),
        rotational: is("queue/rotational"),
        identity: identity(sysfs, number)?,
        obstacle: None,
        name,
    };
    let holders = std::fs::read_dir(directory.join("holders")).into_iter().flatten().flatten();
    let holder = holders.map(|entry| entry.file_name().to_string_lossy().into_owned()).min();
    device.obstacle = if has_partitions(directory)? {
        Some("has partitions".to_owned())
    } else if let Some(holder) = holder {
        Some(format!("is used by {holder}"))
    } else if is("ro") {
        Some("is read-only".to_owned())
    } else if device.identity.is_none() {
        Some("has neither WWN nor serial number".to_owned())
    } else {
        let writes = text(&["stat"]).and_then(|stat| stat.split_whitespace().nth(4).map(str::to_owned));
        let state = [Some(size.to_string()), text(&["dev"]), text(&["diskseq"]), writes];
        content(&device, number, state.into_iter().collect::<Option<Vec<_>>>(), looked)
    };
    Ok(Some(device))
}

/// The content of a device, as an obstacle. Without a known `state` each call reads the device.
fn content(
    device: &BlockDevice,
    number: Device,
    state: Option<Vec<String>>,
    looked: &mut Looked,
) -> Option<String> {
    let state = state.map(|state| state.join(" "));
    if let (Some((before, obstacle)), Some(now)) = (looked.get(&device.name), &state)
        && before == now
    {
        return obstacle.clone();
    }
    match read(device, number) {
        Ok(found) => {
            let remember = |state| looked.insert(device.name.clone(), (state, found.clone()));
            drop(state.map(remember));
            found
        }
        Err(error) => Some(format!("cannot be read ({error})")),
    }
}

fn read(device: &BlockDevice, number: Device) -> Result<Option<String>> {
    let path = Path::new("/dev").join(&device.name);
    let mut options = File::options();
    let file =
        options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32).open(&path);
    let file = file.context(|| format!("open {}", path.display()))?;
    if Device::of_node(&file)? != Some(number) {
        return Err(Error::UnusableDevice(format!("{} is another device than in sysfs", path.display())));
    }
    Ok(match filesystem::is_blank(&file, device.size)? {
        true => None,
        false => Some(format!("holds {}", signature::name(&file)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with device `sda`, and more files of it.
    fn obstacle(more: &[(&str, &str)]) -> Option<Option<String>> {
        let sysfs = tempfile::tempdir().unwrap();
        let files =
            [("dev", "4095:7"), ("size", "8"), ("device/model", "M"), ("wwid", "naa.5"), ("holders/.", "")];
        for (file, text) in files.iter().chain(more) {
            let path = sysfs.path().join("block/sda").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap_or_default();
        }
        let (block, numbers) = (sysfs.path().join("block"), sysfs.path().join("dev/block"));
        std::fs::create_dir_all(&numbers).unwrap();
        std::os::unix::fs::symlink(block.join("sda"), numbers.join("4095:7")).unwrap();
        // A loop device has no hardware.
        std::fs::create_dir_all(block.join("loop0")).unwrap();
        std::fs::write(block.join("loop0/size"), "8").unwrap();
        let found = list(sysfs.path(), &mut Looked::new()).unwrap();
        assert!(found.iter().all(|device| device.name == "sda" && device.size == 4096));
        found.into_iter().next().map(|device| device.obstacle)
    }

    #[test]
    fn d6_a_device_is_seen_with_what_keeps_it_from_a_disk() {
        let seen = |more: &[(&str, &str)]| obstacle(more).flatten().unwrap_or_default();
        assert_eq!(seen(&[("sda1/partition", "1")]), "has partitions");
        assert_eq!(seen(&[("holders/dm-3", ""), ("holders/dm-1", "")]), "is used by dm-1");
        assert_eq!(seen(&[("ro", "1")]), "is read-only");
        assert_eq!(seen(&[("wwid", " ")]), "has neither WWN nor serial number");
        assert!(seen(&[]).starts_with("cannot be read (failed to open /dev/sda"), "{}", seen(&[]));
        for hidden in [("removable", "1"), ("hidden", "1"), ("size", "0")] {
            assert_eq!(obstacle(&[hidden]), None, "{hidden:?}");
        }
    }

    /// A second look reads a device only after a write.
    #[test]
    fn d6_a_device_at_rest_is_read_once() {
        let device = BlockDevice { name: "no-such-device".into(), ..Default::default() };
        let state = |writes: &str| Some(vec![writes.to_owned()]);
        let mut looked =
            Looked::from([(device.name.clone(), ("5".to_owned(), Some("holds xfs".to_owned())))]);
        let mut look = |state| content(&device, Device { major: 0, minor: 0 }, state, &mut looked);
        assert_eq!(look(state("5")).as_deref(), Some("holds xfs"));
        for state in [state("6"), None] {
            assert!(look(state).unwrap().starts_with("cannot be read"));
        }
    }
}
