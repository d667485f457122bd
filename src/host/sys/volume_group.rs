//! A volume group of LVM, and the logical volumes in it that are ours.
//!
//! LVM's own program makes the changes. The device of a logical volume is read from sysfs, so that a mount starts no
//! program. A group is identified by its UUID: another group of its name is an error. So is a logical volume with one
//! of our names and without our tag.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use crate::host::error::{Context, Error, Result, retry_while_busy, unless_busy};
use crate::host::sys::mountinfo::Device;
use crate::host::sys::program;

/// The tag of our logical volumes.
const TAG: &str = "reservoir";

/// LVM's settings, whatever the node has configured. LVM waits for no udev, which is outside of the agent's
/// container. It writes nothing but metadata on the group's own devices. The node's own locks keep other changes out.
const CONFIG: &str = "global{locking_dir=\"/run/lock/lvm\"} backup{backup=0 archive=0} \
     activation{udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0} \
     devices{hints=\"none\" issue_discards=1 obtain_device_list_from_udev=0 external_device_info_source=\"none\"}";

/// A volume group, by its name, with its unchanging properties.
pub(crate) struct VolumeGroup {
    name: String,
    uuid: String,
    extent: u64,
}

pub(crate) struct Content {
    pub(crate) free: u64,
    /// Bytes of the logical volumes that are ours.
    pub(crate) ours: BTreeMap<String, u64>,
    others: Vec<String>,
}

/// The block device of a logical volume that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) device: Device,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

#[derive(Deserialize)]
struct Output {
    report: Vec<Report>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    vg: Vec<Row>,
    lv: Vec<Row>,
}

type Row = BTreeMap<String, String>;

impl VolumeGroup {
    /// Looks for the volume group with this directory in `/dev`, and activates our logical volumes.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let unsuitable = |reason: String| Error::unsuitable_disk(path, reason);
        let name = name_of(path).ok_or_else(|| {
            unsuitable("is no volume group: the path of one is /dev/ and its name".to_owned())
        })?;
        let found = look_for(&name).map_err(|error| match error {
            Error::Command { output, .. } => unsuitable(format!(
                "is no volume group that LVM shows ({output}): make it with `vgcreate {name} DEVICE`, or correct the \
                 disk's path"
            )),
            error => error,
        })?;
        let group = Self { uuid: field(&found, "vg_uuid")?, extent: number(&found, "vg_extent_size")?, name };
        let ours = format!("lv_tags={TAG}");
        lvm("lvchange", &["--activate", "y", &group.name, "--select", &ours])?;
        Ok(group)
    }

    /// The size of a logical volume with at least so many bytes.
    pub(crate) fn whole_extents(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.extent)
    }

    pub(crate) fn look(&self) -> Result<Content> {
        let group = look_for(&self.name)?;
        if field(&group, "vg_uuid")? != self.uuid {
            return Err(Error::Conflict(format!(
                "volume group {} is another one now: give the new one another name, or restart the agent",
                self.name
            )));
        }
        let mut content =
            Content { free: number(&group, "vg_free")?, ours: BTreeMap::new(), others: Vec::new() };
        for row in report("lvs", "lv_name,lv_size,lv_tags", &self.name)?.lv {
            let name = field(&row, "lv_name")?;
            match field(&row, "lv_tags")?.split(',').any(|tag| tag == TAG) {
                true => drop(content.ours.insert(name, number(&row, "lv_size")?)),
                false => content.others.push(name),
            }
        }
        Ok(content)
    }

    /// Makes a logical volume that does not exist. Its extents keep their old content, but for the beginning.
    pub(crate) fn make(&self, name: &str, bytes: u64) -> Result<()> {
        let (extents, path) = (self.extents(bytes), self.path(name));
        let kind = ["--type", "linear", "--zero", "y", "--wipesignatures", "y", "--yes"];
        let which = ["--addtag", TAG, "--extents", &extents, "--name", &path];
        lvm("lvcreate", &[&kind[..], &which[..]].concat())
    }

    /// Removes one of our logical volumes, if it exists.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match self.has(name)? {
            true => lvm("lvremove", &["--force", "--yes", &self.path(name)]),
            false => Ok(()),
        }
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        lvm("lvrename", &[&self.name, from, to])
    }

    /// Gives a logical volume so many bytes; the content behind them is gone.
    pub(crate) fn resize(&self, name: &str, bytes: u64) -> Result<()> {
        let (extents, path) = (self.extents(bytes), self.path(name));
        lvm("lvresize", &["--force", "--yes", "--extents", &extents, &path])
    }

    /// The device of one of our logical volumes, which is activated if need be; `None` if there is no such volume.
    pub(crate) fn node(&self, name: &str) -> Result<Option<Node>> {
        if let Some(node) = self.active(name)? {
            return Ok(Some(node));
        }
        if !self.has(name)? {
            return Ok(None);
        }
        lvm("lvchange", &["--activate", "y", &self.path(name)])?;
        let path = self.path(name);
        let missing = || {
            Error::UnusableDevice(format!(
                "{path} was activated and has no device: look into the kernel's log"
            ))
        };
        self.active(name)?.ok_or_else(missing).map(Some)
    }

    pub(crate) fn existing_node(&self, name: &str) -> Result<Node> {
        self.node(name)?.ok_or_else(|| Error::NotFound(format!("logical volume {}", self.path(name))))
    }

    /// The device of a logical volume, if it is active, by sysfs alone.
    pub(crate) fn active(&self, name: &str) -> Result<Option<Node>> {
        let wanted = format!("{}-{}", self.name.replace('-', "--"), name.replace('-', "--"));
        let of_group = format!("LVM-{}", self.uuid.replace('-', ""));
        for entry in std::fs::read_dir("/sys/block").context(|| "list /sys/block")? {
            let directory = entry.context(|| "list /sys/block")?.path();
            let attribute = |name: &str| match std::fs::read_to_string(directory.join(name)) {
                Ok(text) => text.trim().to_owned(),
                // Another kind of device, or a device that is just going away.
                Err(_) => String::new(),
            };
            let Some(file_name) = directory.file_name().and_then(|name| name.to_str()) else { continue };
            if !file_name.starts_with("dm-")
                || attribute("dm/name") != wanted
                || !attribute("dm/uuid").starts_with(&of_group)
            {
                continue;
            }
            let device = Device::parse(&attribute("dev"));
            let sectors = attribute("size").parse::<u64>().ok();
            return Ok(device.zip(sectors).map(|(device, sectors)| Node {
                device,
                path: Path::new("/dev").join(file_name),
                bytes: sectors.saturating_mul(512),
            }));
        }
        Ok(None)
    }

    fn has(&self, name: &str) -> Result<bool> {
        let content = self.look()?;
        match content.has(name) && !content.ours.contains_key(name) {
            true => Err(Error::Conflict(format!(
                "{} is not ours (it has no tag {TAG}): rename it",
                self.path(name)
            ))),
            false => Ok(content.ours.contains_key(name)),
        }
    }

    fn extents(&self, bytes: u64) -> String {
        (self.whole_extents(bytes) / self.extent).to_string()
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }
}

impl Content {
    /// True if there is a logical volume of this name, be it ours or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.ours.contains_key(name) || self.others.iter().any(|other| other == name)
    }
}

impl Node {
    pub(crate) fn open(&self) -> Result<File> {
        retry_while_busy(|| self.open_with(OFlags::RDWR))
    }

    /// True if a filesystem on the device is alive in any mount namespace, or another user has claimed it (X3): the
    /// kernel then refuses an exclusive open.
    pub(crate) fn is_claimed(&self) -> Result<bool> {
        Ok(unless_busy(|| self.open_with(OFlags::RDONLY | OFlags::EXCL))?.is_none())
    }

    fn open_with(&self, flags: OFlags) -> Result<File> {
        let path = self.path.display();
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&self.path, flags, Mode::empty()).context(|| format!("open {path}"))?;
        match Device::of_node(&file)? == Some(self.device) {
            true => Ok(file.into()),
            false => Err(Error::UnusableDevice(format!(
                "{path} is another device than in sysfs: mount the node's /dev into the agent"
            ))),
        }
    }
}

/// The name in `/dev/vg0`: only characters that LVM allows, and no leading `-`, which would make an option of it.
pub fn name_of(path: &Path) -> Option<String> {
    let name = path.to_str()?.strip_prefix("/dev/")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    let good = !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(allowed);
    good.then(|| name.to_owned())
}

fn look_for(name: &str) -> Result<Row> {
    let rows = report("vgs", "vg_uuid,vg_free,vg_extent_size", name)?.vg;
    match <[Row; 1]>::try_from(rows) {
        Ok([group]) => Ok(group),
        Err(rows) => Err(Error::Conflict(format!(
            "LVM shows {} volume groups {name}: give each another name",
            rows.len()
        ))),
    }
}

fn report(command: &str, fields: &str, of: &str) -> Result<Report> {
    let format = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields];
    let output = program::ask("lvm", &[&[command, "--config", CONFIG], &format[..], &[of]].concat(), None)?;
    parse(&output)
}

fn parse(output: &[u8]) -> Result<Report> {
    let output: Output = serde_json::from_slice(output).map_err(|error| malformed(error.to_string()))?;
    Ok(output.report.into_iter().next().unwrap_or_default())
}

fn lvm(command: &str, arguments: &[&str]) -> Result<()> {
    program::ask("lvm", &[&[command, "--config", CONFIG], arguments].concat(), None).map(drop)
}

fn field(row: &Row, name: &str) -> Result<String> {
    row.get(name).cloned().ok_or_else(|| malformed(format!("there is no {name}")))
}

fn number(row: &Row, name: &str) -> Result<u64> {
    field(row, name)?.parse().map_err(|_| malformed(format!("{name} is no number")))
}

fn malformed(reason: String) -> Error {
    Error::corrupt("the output of LVM", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_the_path_of_a_volume_group_is_its_directory_in_dev() {
        assert_eq!(name_of(Path::new("/dev/vg0")).as_deref(), Some("vg0"));
        for path in ["/dev", "/dev/", "/dev/vg0/lv", "/dev/-f", "/dev/..", "/dev/a b", "vg0", "/srv/vg0"] {
            assert_eq!(name_of(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn d1_the_output_of_lvm_is_read() {
        let output = br#"{"report": [{"vg": [{"vg_uuid":"e6urCq-3mCz", "vg_free":"624951296"}]}]}"#;
        let row = &parse(output).unwrap().vg[0];
        assert_eq!(field(row, "vg_uuid").unwrap(), "e6urCq-3mCz");
        assert_eq!(number(row, "vg_free").unwrap(), 624_951_296);
        assert!(number(row, "vg_uuid").is_err() && field(row, "lv_name").is_err());
        assert!(parse(b"").is_err());
        assert!(parse(br#"{"report": [{"lv": []}]}"#).unwrap().lv.is_empty());
    }
}
