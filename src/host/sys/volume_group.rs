//! A volume group of LVM, and Reservoir's logical volumes in it.
//!
//! The agent changes a group with LVM's own program. It finds the device of a logical volume in sysfs, so that a
//! mount starts no program. A group is identified by its UUID: another group of the same name is an error. A logical
//! volume with one of Reservoir's names but without its tag is an error, too.
//!
//! A writer to a device, such as the pod of a raw volume, can put a forged group on it. So LVM looks only at the
//! devices on which the group was found, and never at the other disks of the agent.
//!
//! A striped logical volume has as many extents on each device of the group, so the smallest free space of a device limits
//! it. The group then has exactly one device per stripe.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use crate::host::error::{Context, Error, Result, retry_while_busy, unless_busy};
use crate::host::sys::mountinfo::Device;
use crate::host::sys::program;

/// The tag of Reservoir's logical volumes.
const TAG: &str = "reservoir";

/// Settings that replace the node's LVM configuration. LVM waits for no udev, which runs outside of the agent's
/// container. LVM writes only metadata on the group's own devices. The node's own locks keep other changes out.
const CONFIG: &str = "global{locking_dir=\"/run/lock/lvm\"} backup{backup=0 archive=0} \
     activation{udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0} \
     devices{hints=\"none\" issue_discards=1 obtain_device_list_from_udev=0 external_device_info_source=\"none\"}";

/// A volume group, by its name, with its unchanging properties.
pub(crate) struct VolumeGroup {
    name: String,
    uuid: String,
    extent: u64,
    /// Number of devices across which a new logical volume is striped.
    stripes: usize,
    sources: Sources,
    /// The devices of the group, the only ones at which LVM looks.
    devices: Mutex<Vec<String>>,
}

/// The devices on which a group is looked for.
pub(crate) enum Sources {
    /// All devices of the node except these.
    AllBut(Vec<PathBuf>),
    /// These alone, which were taken for the group. The group is made if they have none.
    Only(Vec<PathBuf>),
}

pub(crate) struct Content {
    pub(crate) free: u64,
    /// Bytes of Reservoir's logical volumes, by name.
    pub(crate) ours: BTreeMap<String, u64>,
    others: Vec<String>,
}

/// The block device of an active logical volume.
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
    pv: Vec<Row>,
}

type Row = BTreeMap<String, String>;

impl VolumeGroup {
    /// Finds the volume group with the given directory in `/dev`, and activates Reservoir's logical volumes.
    pub(crate) fn open(path: &Path, sources: Sources, stripes: usize) -> Result<Self> {
        let unsuitable = |reason: String| Error::unsuitable_disk(path, reason);
        let name = name_of(path).ok_or_else(|| {
            unsuitable("is no volume group: the path of one is /dev/ and its name".to_owned())
        })?;
        if let Sources::Only(devices) = &sources {
            make_group(path, &name, devices)?;
        }
        let found = look_for(&name, &sources.options()).map_err(|error| match error {
            Error::Command { output, .. } => unsuitable(format!(
                "is no volume group that LVM shows ({output}): make it with `vgcreate {name} DEVICE`, or correct the \
                 disk's path"
            )),
            error => error,
        })?;
        let (uuid, extent) = (field(&found, "vg_uuid")?, number(&found, "vg_extent_size")?);
        let group = Self { name, uuid, extent, stripes, sources, devices: Mutex::default() };
        let devices = group.find_devices()?;
        if stripes > 1 && devices != stripes {
            return Err(unsuitable(format!(
                "has {devices} devices, and stripes is {stripes}: stripes has to be the number of the group's devices"
            )));
        }
        let ours = format!("lv_tags={TAG}");
        group.lvm("lvchange", &["--activate", "y", &group.name, "--select", &ours])?;
        Ok(group)
    }

    /// Searches the sources for the group's devices; returns their number.
    fn find_devices(&self) -> Result<usize> {
        let rows = self.devices_with("pv_name", self.sources.options())?;
        let names = rows.iter().map(|row| field(row, "pv_name")).collect::<Result<Vec<_>>>()?;
        let count = names.len();
        *self.devices.lock().unwrap_or_else(PoisonError::into_inner) = names;
        Ok(count)
    }

    /// A field of each device of the group.
    fn devices_with(&self, wanted: &str, options: Vec<String>) -> Result<Vec<Row>> {
        let of_group = ["--select", &format!("vg_uuid={}", self.uuid)].map(str::to_owned);
        Ok(report("pvs", wanted, &[&options[..], &of_group].concat())?.pv)
    }

    /// The free bytes that new logical volumes can have.
    fn free(&self, group: &Row) -> Result<u64> {
        if self.stripes == 1 {
            return number(group, "vg_free");
        }
        let rows = self.devices_with("pv_free", self.pinned())?;
        let free = rows.iter().map(|row| number(row, "pv_free")).collect::<Result<Vec<_>>>()?;
        Ok(free.into_iter().min().unwrap_or(0).saturating_mul(self.stripes as u64))
    }

    /// The options that limit LVM to the group's devices.
    fn pinned(&self) -> Vec<String> {
        only(&self.devices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lvm(&self, command: &str, arguments: &[&str]) -> Result<()> {
        change(command, &self.pinned(), arguments)
    }

    /// The size of a logical volume with at least `bytes` bytes.
    pub(crate) fn whole_extents(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.extent * self.stripes as u64)
    }

    pub(crate) fn look(&self) -> Result<Content> {
        let is_whole = |group: &Row| number(group, "vg_missing_pv_count") == Ok(0);
        let group = match look_for(&self.name, &self.pinned()) {
            Ok(group) if is_whole(&group) => group,
            // A device got another name, or the group got another device.
            _ => {
                self.find_devices()?;
                look_for(&self.name, &self.pinned())?
            }
        };
        if field(&group, "vg_uuid")? != self.uuid {
            return Err(Error::Conflict(format!(
                "volume group {} is another one now: give the new one another name, or restart the agent",
                self.name
            )));
        }
        let mut content = Content { free: self.free(&group)?, ours: BTreeMap::new(), others: Vec::new() };
        let of_group = [self.pinned(), vec![self.name.clone()]].concat();
        for row in report("lvs", "lv_name,lv_size,lv_tags", &of_group)?.lv {
            let name = field(&row, "lv_name")?;
            match field(&row, "lv_tags")?.split(',').any(|tag| tag == TAG) {
                true => drop(content.ours.insert(name, number(&row, "lv_size")?)),
                false => content.others.push(name),
            }
        }
        Ok(content)
    }

    /// Makes a new logical volume. Except at the beginning, its extents keep their old content.
    pub(crate) fn make(&self, name: &str, bytes: u64) -> Result<()> {
        let (extents, path, stripes) = (self.extents(bytes), self.path(name), self.stripes.to_string());
        let kind = match self.stripes {
            1 => &["--type", "linear"][..],
            _ => &["--type", "striped", "--stripes", &stripes],
        };
        let which = ["--addtag", TAG, "--extents", &extents, "--name", &path];
        let how = ["--zero", "y", "--wipesignatures", "y", "--yes"];
        self.lvm("lvcreate", &[kind, &how, &which].concat())
    }

    /// Removes one of Reservoir's logical volumes, if it exists.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match self.has(name)? {
            true => self.lvm("lvremove", &["--force", "--yes", &self.path(name)]),
            false => Ok(()),
        }
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.lvm("lvrename", &[&self.name, from, to])
    }

    /// Resizes a logical volume to `bytes` bytes; a shrink loses the content beyond.
    pub(crate) fn resize(&self, name: &str, bytes: u64) -> Result<()> {
        let (extents, path) = (self.extents(bytes), self.path(name));
        self.lvm("lvresize", &["--force", "--yes", "--extents", &extents, &path])
    }

    /// The device of one of Reservoir's logical volumes, activated if necessary; `None` if the logical volume does
    /// not exist.
    pub(crate) fn node(&self, name: &str) -> Result<Option<Node>> {
        if let Some(node) = self.active(name)? {
            return Ok(Some(node));
        }
        if !self.has(name)? {
            return Ok(None);
        }
        self.lvm("lvchange", &["--activate", "y", &self.path(name)])?;
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

    /// The device of an active logical volume, from sysfs alone.
    pub(crate) fn active(&self, name: &str) -> Result<Option<Node>> {
        let wanted = format!("{}-{}", self.name.replace('-', "--"), name.replace('-', "--"));
        let of_group = format!("LVM-{}", self.uuid.replace('-', ""));
        for entry in std::fs::read_dir("/sys/block").context(|| "list /sys/block")? {
            let directory = entry.context(|| "list /sys/block")?.path();
            let attribute = |name: &str| match std::fs::read_to_string(directory.join(name)) {
                Ok(text) => text.trim().to_owned(),
                // The device is of another kind, or is just going away.
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
    /// True if a logical volume of this name exists, with or without Reservoir's tag.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.ours.contains_key(name) || self.others.iter().any(|other| other == name)
    }
}

impl Node {
    pub(crate) fn open(&self) -> Result<File> {
        retry_while_busy(|| self.open_with(OFlags::RDWR))
    }

    /// True if the device has a live filesystem in any mount namespace, or another user with a claim (X3). The kernel
    /// then refuses an exclusive open.
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

/// The group's name in `/dev/vg0`. Only characters that LVM allows, and no leading `-`, which LVM would read as an
/// option.
pub fn name_of(path: &Path) -> Option<String> {
    let name = path.to_str()?.strip_prefix("/dev/")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    let good = !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(allowed);
    good.then(|| name.to_owned())
}

/// Makes a volume group on devices that were taken for it, unless they have it. An interruption leaves at most empty physical
/// volumes, of which the next attempt makes the group.
fn make_group(path: &Path, name: &str, devices: &[PathBuf]) -> Result<()> {
    let options = only(devices);
    let rows = report("pvs", "pv_name,vg_name", &options)?.pv;
    let groups = rows.iter().map(|row| field(row, "vg_name")).collect::<Result<Vec<_>>>()?;
    match groups.iter().find(|group| !group.is_empty()) {
        Some(group) if group == name => return Ok(()),
        Some(group) => {
            let reason = format!(
                "is configured, and its devices have the volume group {group}: write path: /dev/{group}"
            );
            return Err(Error::unsuitable_disk(path, reason));
        }
        None => {}
    }
    let devices: Vec<Cow<'_, str>> = devices.iter().map(|device| device.to_string_lossy()).collect();
    let devices = devices.iter().map(|device| &**device);
    // Without `--yes`, LVM overwrites nothing.
    let made = change("vgcreate", &options, &[name].into_iter().chain(devices).collect::<Vec<_>>());
    made.map_err(|error| match error {
        Error::Command { output, .. } => Error::unsuitable_disk(
            path,
            format!(
                "cannot be made of its devices ({output}): make a device with data blank, with `blkdiscard --force \
                 --zeroout` and its path, if its data is given up"
            ),
        ),
        error => error,
    })
}

/// Runs a command of LVM that changes something.
fn change(command: &str, options: &[String], arguments: &[&str]) -> Result<()> {
    let options = options.iter().map(String::as_str);
    let all: Vec<&str> = [command].into_iter().chain(options).chain(arguments.iter().copied()).collect();
    program::ask("lvm", &all, None).map(drop)
}

impl Sources {
    /// The options that limit LVM to the sources.
    fn options(&self) -> Vec<String> {
        let foreign = match self {
            Self::Only(devices) => return only(devices),
            Self::AllBut(foreign) => foreign,
        };
        let paths = foreign.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()));
        let pattern = |path: PathBuf| format!("\"r|^{}$|\"", regex_escaped(&path.to_string_lossy()));
        let patterns: Vec<String> = paths.map(pattern).collect();
        let filter = match patterns.is_empty() {
            true => String::new(),
            false => format!(" devices{{global_filter=[{}]}}", patterns.join(",")),
        };
        vec!["--config".to_owned(), format!("{CONFIG}{filter}")]
    }
}

/// The options that limit LVM to these devices.
fn only<P: AsRef<Path>>(devices: &[P]) -> Vec<String> {
    let names: Vec<_> = devices.iter().map(|device| device.as_ref().to_string_lossy()).collect();
    ["--devices", &names.join(","), "--config", CONFIG].map(str::to_owned).into()
}

/// A path as a pattern of LVM. No other character of a device's name has a special meaning in a pattern.
fn regex_escaped(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-:".contains(c);
    path.chars().map(|c| if plain(c) { c } else { '.' }).collect()
}

fn look_for(name: &str, options: &[String]) -> Result<Row> {
    let of_group = [options, &[name.to_owned()]].concat();
    let rows = report("vgs", "vg_uuid,vg_free,vg_extent_size,vg_missing_pv_count", &of_group)?.vg;
    match <[Row; 1]>::try_from(rows) {
        Ok([group]) => Ok(group),
        Err(rows) => Err(Error::Conflict(format!(
            "LVM shows {} volume groups {name}: give each another name",
            rows.len()
        ))),
    }
}

fn report(command: &str, fields: &str, options: &[String]) -> Result<Report> {
    let format = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    parse(&program::ask("lvm", &[&[command], &format[..], &options].concat(), None)?)
}

fn parse(output: &[u8]) -> Result<Report> {
    let output: Output = serde_json::from_slice(output).map_err(|error| malformed(error.to_string()))?;
    Ok(output.report.into_iter().next().unwrap_or_default())
}

fn field(row: &Row, name: &str) -> Result<String> {
    row.get(name).cloned().ok_or_else(|| malformed(format!("there is no {name}")))
}

fn number(row: &Row, name: &str) -> Result<u64> {
    field(row, name)?.parse().map_err(|_| malformed(format!("{name} is no number")))
}

fn malformed(reason: String) -> Error {
    Error::Unsupported(format!(
        "LVM reports other fields than the agent knows ({reason}): use the agent's own image"
    ))
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

    /// D1: anybody may have made the volume groups and tags that LVM reports.
    #[test]
    fn fuzz_reports_of_lvm() {
        let seed = br#"{"report": [{"vg": [{"vg_uuid":"e6urCq-3mCz", "vg_free":"624951296"}], "lv": [{"lv_name":"a"}]}]}"#;
        crate::fuzz::fuzz("reports-of-lvm", &[seed], |bytes| {
            let report = parse(bytes).map_err(crate::fuzz::words)?;
            let free = |row: &Row| number(row, "vg_free").map(u64::checked_ilog2).map_err(crate::fuzz::words);
            Ok::<_, String>((report.vg.iter().map(free).take(4).collect::<Vec<_>>(), report.lv.len().min(4)))
        });
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
