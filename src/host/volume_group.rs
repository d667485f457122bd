//! A volume group of LVM, and the logical volumes in it that are ours.
//!
//! LVM's own program does what changes something. Which device a logical volume is, sysfs says: nothing is started to
//! mount one. A group is what its UUID says; another one that has got its name since is an error, as is a logical volume
//! that has one of our names and not our tag.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::error::{Context, Error, Result, settled};
use super::mountinfo::Device;
use super::program;

/// What is ours carries it.
const TAG: &str = "reservoir";

/// What LVM is told, whatever the node has configured: of udev, which is outside of the agent's container, nothing is
/// waited for; nothing is written but metadata on the group's own devices; and who else changes them is kept out by the
/// node's own locks.
const CONFIG: &str = "global{locking_dir=\"/run/lock/lvm\"} backup{backup=0 archive=0} \
     activation{udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0} \
     devices{hints=\"none\" issue_discards=1 obtain_device_list_from_udev=0 external_device_info_source=\"none\"}";

/// A volume group, by its name, with what never changes of it.
pub(super) struct VolumeGroup {
    name: String,
    uuid: String,
    extent: u64,
}

/// What is in a volume group now.
pub(super) struct Content {
    /// Bytes that no logical volume has.
    pub(super) free: u64,
    /// Bytes of the logical volumes that are ours.
    pub(super) ours: BTreeMap<String, u64>,
    /// Names of those that are not.
    others: Vec<String>,
}

/// The block device of a logical volume that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) device: Device,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// What LVM prints.
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
    /// Looks for the volume group whose directory in `/dev` this is, and makes what is ours in it active.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = name_of(path).ok_or_else(|| {
            Error::Unsupported(format!(
                "{} is no volume group: the path of one is /dev/ and its name",
                path.display()
            ))
        })?;
        let found = look_for(&name).map_err(|error| match error {
            Error::Command { output, .. } => Error::Unsupported(format!(
                "LVM does not show volume group {name} ({output}): make it with `vgcreate {name} DEVICE`, or correct the \
                 disk's path"
            )),
            error => error,
        })?;
        let group = Self { uuid: field(&found, "vg_uuid")?, extent: number(&found, "vg_extent_size")?, name };
        let ours = format!("lv_tags={TAG}");
        lvm("lvchange", &["--activate", "y", &group.name, "--select", &ours])?;
        Ok(group)
    }

    /// Bytes that a logical volume has which is to have room for so many.
    pub(super) fn whole_extents(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.extent)
    }

    pub(super) fn look(&self) -> Result<Content> {
        let group = look_for(&self.name)?;
        if field(&group, "vg_uuid")? != self.uuid {
            return Err(Error::Conflict(format!(
                "volume group {} is another one now: give that another name, or restart the agent",
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

    /// Makes a logical volume, of which nothing may be there; what its extents had before is still in it, but for the
    /// beginning.
    pub(super) fn make(&self, name: &str, bytes: u64) -> Result<()> {
        let (extents, path) = (self.extents(bytes), self.path(name));
        let kind = ["--type", "linear", "--zero", "y", "--wipesignatures", "y", "--yes"];
        let which = ["--addtag", TAG, "--extents", &extents, "--name", &path];
        lvm("lvcreate", &[&kind[..], &which[..]].concat())
    }

    /// Removes a logical volume of ours, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match self.has(name)? {
            true => lvm("lvremove", &["--force", "--yes", &self.path(name)]),
            false => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        lvm("lvrename", &[&self.name, from, to])
    }

    /// Gives a logical volume room for so many bytes; what lies behind is gone.
    pub(super) fn resize(&self, name: &str, bytes: u64) -> Result<()> {
        let (extents, path) = (self.extents(bytes), self.path(name));
        lvm("lvresize", &["--force", "--yes", "--extents", &extents, &path])
    }

    /// The device of a logical volume of ours, made active if need be; `None` if there is no such volume.
    pub(super) fn node(&self, name: &str) -> Result<Option<Node>> {
        if let Some(node) = self.active(name)? {
            return Ok(Some(node));
        }
        if !self.has(name)? {
            return Ok(None);
        }
        lvm("lvchange", &["--activate", "y", &self.path(name)])?;
        let missing =
            || Error::Unsupported(format!("{} was made active, and has no device", self.path(name)));
        self.active(name)?.ok_or_else(missing).map(Some)
    }

    /// The device of a logical volume, if it is active: the kernel's word, and nothing is started for it.
    pub(super) fn active(&self, name: &str) -> Result<Option<Node>> {
        let wanted = format!("{}-{}", self.name.replace('-', "--"), name.replace('-', "--"));
        let of_group = format!("LVM-{}", self.uuid.replace('-', ""));
        for entry in std::fs::read_dir("/sys/block").context(|| "list /sys/block")? {
            let directory = entry.context(|| "list /sys/block")?.path();
            let attribute = |name: &str| match std::fs::read_to_string(directory.join(name)) {
                Ok(text) => text.trim().to_owned(),
                // Another kind of device, or one that is just going away.
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
                bytes: sectors * 512,
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
    /// Whether there is a logical volume of this name, be it ours or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.ours.contains_key(name) || self.others.iter().any(|other| other == name)
    }
}

impl Node {
    /// Opens it to be read and written.
    pub(super) fn open(&self) -> Result<File> {
        settled(|| self.open_with(OFlags::RDWR))
    }

    /// Whether a filesystem on it is alive in any mount namespace, or anything else claims it for itself (X3): then the
    /// kernel refuses the same to us.
    pub(super) fn is_claimed(&self) -> Result<bool> {
        match settled(|| self.open_with(OFlags::RDONLY | OFlags::EXCL)) {
            Ok(_) => Ok(false),
            Err(Error::Io { source: Errno::BUSY, .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn open_with(&self, flags: OFlags) -> Result<File> {
        let path = self.path.display();
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&self.path, flags, Mode::empty()).context(|| format!("open {path}"))?;
        let stat = rustix::fs::fstat(file.as_fd()).context(|| format!("look at {path}"))?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        match is_block && Device::from_raw(stat.st_rdev) == self.device {
            true => Ok(file.into()),
            false => Err(Error::Unsupported(format!(
                "{path} is not the device that the kernel calls so: the agent needs the node's /dev"
            ))),
        }
    }
}

/// Reads `/dev/vg0`. A name has only characters that LVM allows, and nothing that it takes for an option.
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
        Err(rows) => Err(Error::Unsupported(format!("LVM shows {} volume groups {name}", rows.len()))),
    }
}

fn report(command: &str, fields: &str, of: &str) -> Result<Report> {
    let format = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields];
    let said = program::ask("lvm", &[&[command, "--config", CONFIG], &format[..], &[of]].concat())?;
    parse(&said)
}

fn parse(said: &[u8]) -> Result<Report> {
    let output: Output = serde_json::from_slice(said).map_err(|error| strange(error.to_string()))?;
    Ok(output.report.into_iter().next().unwrap_or_default())
}

fn lvm(command: &str, arguments: &[&str]) -> Result<()> {
    program::ask("lvm", &[&[command, "--config", CONFIG], arguments].concat()).map(drop)
}

fn field(row: &Row, name: &str) -> Result<String> {
    row.get(name).cloned().ok_or_else(|| strange(format!("there is no {name}")))
}

fn number(row: &Row, name: &str) -> Result<u64> {
    field(row, name)?.parse().map_err(|_| strange(format!("{name} is no number")))
}

fn strange(reason: String) -> Error {
    Error::Corrupt { what: "what LVM says".to_owned(), reason }
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
    fn reads_what_lvm_prints() {
        let said = br#"{"report": [{"vg": [{"vg_uuid":"e6urCq-3mCz", "vg_free":"624951296"}]}]}"#;
        let row = &parse(said).unwrap().vg[0];
        assert_eq!(field(row, "vg_uuid").unwrap(), "e6urCq-3mCz");
        assert_eq!(number(row, "vg_free").unwrap(), 624_951_296);
        assert!(number(row, "vg_uuid").is_err() && field(row, "lv_name").is_err());
        assert!(parse(b"").is_err());
        assert!(parse(br#"{"report": [{"lv": []}]}"#).unwrap().lv.is_empty());
    }
}
