//! Properties of block devices in sysfs. A device is named by its hardware, since the kernel gives its own names anew at each
//! boot.

use std::path::{Path, PathBuf};

use crate::host::error::{Context, Result};
use crate::host::sys::mountinfo::Device;
use crate::host::sys::{Uses, in_use, loop_device, syscalls};

/// The node's sysfs.
pub(crate) const SYSFS: &str = "/sys";

/// The longest name of an identity. A file's name has at most 255 bytes, and a partition adds its number.
const LONGEST_NAME: usize = 240;

/// The directory of a device in sysfs.
pub(crate) fn directory(sysfs: &Path, device: Device) -> PathBuf {
    sysfs.join(format!("dev/block/{}:{}", device.major, device.minor))
}

/// An attribute of a device, unless it is empty.
pub(crate) fn attribute(directory: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(directory.join(name)).ok()?;
    Some(text.trim_matches(['\0', '\n', ' ']).to_owned()).filter(|text| !text.is_empty())
}

/// True if the device refuses writes.
pub(crate) fn is_read_only(device: Device) -> bool {
    attribute(&directory(Path::new(SYSFS), device), "ro").as_deref() == Some("1")
}

/// True if the kernel shows a partition of the device.
pub(crate) fn has_partitions(directory: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(directory).context(|| format!("list {}", directory.display()))? {
        let entry = entry.context(|| format!("list {}", directory.display()))?;
        if entry.path().join("partition").exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if a process has the device open, or a loop device is bound to it. Neither claims the device.
pub(crate) fn is_open(device: Device) -> Result<bool> {
    let open = Uses::new(|_| false, |file| file.block_device == Some(device));
    let bound = |status: &syscalls::LoopInfo64| Device::from_raw(status.rdevice) == device;
    Ok(loop_device::any_bound(bound)? || in_use::in_use(&open)?)
}

/// The identity of a device as a file's name: by hardware, partition table, device-mapper or a loop device's file.
pub(crate) fn identity(sysfs: &Path, device: Device) -> Result<Option<String>> {
    // A long name is refused: two devices could have the same name after a cut.
    let named = |kind: &str, value: String| {
        Some(format!("{kind}-{}", escape(&value))).filter(|name| name.len() <= LONGEST_NAME)
    };
    let directory = directory(sysfs, device);
    if let Some(number) = attribute(&directory, "partition") {
        let uevent = attribute(&directory, "uevent").unwrap_or_default();
        if let Some(uuid) = partition_uuid(&uevent) {
            return Ok(named("partuuid", uuid.to_owned()));
        }
        let disk = attribute(&directory, "../dev").as_deref().and_then(Device::parse);
        let disk = disk.filter(|disk| *disk != device);
        let parent = disk.map(|disk| identity(sysfs, disk)).transpose()?.flatten();
        return Ok(parent.map(|parent| format!("{parent}-part{number}")));
    }
    for (kind, name) in [
        ("wwid", "wwid"),
        ("wwid", "device/wwid"),
        ("dm", "dm/uuid"),
        ("md", "md/uuid"),
        ("serial", "serial"),
        ("serial", "device/serial"),
    ] {
        if let Some(value) = attribute(&directory, name) {
            return Ok(named(kind, value));
        }
    }
    let file = loop_device::file_of(device)?;
    Ok(file.map(|(filesystem, inode)| format!("loop-{}.{}-{inode}", filesystem.major, filesystem.minor)))
}

/// The UUID of a partition. UUIDs of a partition table without a signature are not unique: other disks have the same.
fn partition_uuid(uevent: &str) -> Option<&str> {
    let uuid = uevent.lines().find_map(|line| line.strip_prefix("PARTUUID="))?;
    Some(uuid).filter(|uuid| !uuid.starts_with("00000000-"))
}

/// Writes every other character as its number, so that two texts never get one name.
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
    fn d3_two_identities_get_two_plain_names() {
        assert_eq!(escape("naa.5000c500a1b2c3d4"), "naa.5000c500a1b2c3d4");
        assert_eq!(escape("t10.ATA  x/../y"), "t10.ATA_20_20x_2f.._2fy");
        assert_ne!(escape("a b"), escape("a_20b"));
    }

    /// D3. A DOS partition table from an old tool has signature 0.
    #[test]
    fn d3_a_partition_uuid_without_signature_is_none() {
        let of =
            |uuid: &str| partition_uuid(&format!("MAJOR=8\nPARTN=1\nPARTUUID={uuid}\n")).map(str::to_owned);
        assert_eq!(of("00000000-01"), None);
        assert_eq!(of("5e1ec7ed-01").as_deref(), Some("5e1ec7ed-01"));
        assert_eq!(partition_uuid("MAJOR=8\n"), None);
    }

    #[test]
    fn d3_an_absent_device_has_no_identity() {
        let (sysfs, none) = (Path::new(SYSFS), Device { major: 0, minor: 0 });
        assert_eq!(identity(sysfs, none).ok().flatten(), None);
        assert!(attribute(&directory(sysfs, none), "ro").is_none());
        assert!(!directory(sysfs, none).exists());
    }
}
