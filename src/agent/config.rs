//! The agent's configuration file: the disks of its node.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::api::{BackingKind, DiskKind, NodeDiskSpec, Role, Size};
use crate::host::{self, DiskConfig};

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The disks.
    pub disks: Vec<DiskEntry>,
    /// The directory for the records of disks of kind `Block`, which have no place for them.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
}

/// One disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskEntry {
    /// Its name: a DNS label.
    pub name: String,
    /// A part of a file system or volume group, or an undivided disk.
    #[serde(default)]
    pub kind: DiskKind,
    /// The backing of volumes; by default that of the kind.
    #[serde(default)]
    pub backing: Option<BackingKind>,
    /// A directory, on ext4 or xfs; with backing `Btrfs` the place where the top level of a btrfs is mounted, with backing
    /// `Lvm` the volume group's directory in `/dev`; of kind `Mount` the place where the file system is mounted, of kind
    /// `Block` the device, best by a name that stays: `/dev/disk/by-id/…`.
    pub path: PathBuf,
    /// The most that is used; by default all of the file system. Only of kind `Path`.
    #[serde(default)]
    pub capacity: Option<Size>,
    /// Held back for the system: a quantity, or a percentage of the file system; by default `10%`, of a volume group
    /// nothing. Only of kind `Path`.
    #[serde(default)]
    pub system_reserved: Option<Size>,
    /// Roots of the directories that volumes may adopt (V8). Only of kind `Path`.
    #[serde(default)]
    pub adopt_roots: Vec<PathBuf>,
    /// There may be volumes whose size is not enforced: adopted directories, and all of them if the disk turns out to
    /// enforce no size (D5).
    #[serde(default)]
    pub allow_unenforced: bool,
    /// Static reservations: the API changes none of them (R2).
    #[serde(default)]
    pub reservations: Vec<StaticReservation>,
}

fn state_dir() -> PathBuf {
    PathBuf::from("/var/lib/reservoir-agent")
}

/// A static reservation.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticReservation {
    /// Its role.
    pub role: String,
    /// Its size.
    pub size: Size,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file is not YAML of this form.
    #[error("failed to understand {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The place and the mistake.
        source: serde_yaml::Error,
    },
    /// A field makes no sense.
    #[error("disk {disk}: {reason}")]
    Field {
        /// Name of the disk.
        disk: String,
        /// The mistake.
        reason: String,
    },
}

impl Config {
    /// Reads the file; blocks.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }

    /// Reads the text of the file.
    pub fn parse(text: &str) -> Result<Self, serde_yaml::Error> {
        serde_yaml::from_str(text)
    }
}

impl DiskEntry {
    /// The backing of volumes.
    pub fn backing(&self) -> BackingKind {
        self.backing.unwrap_or(match self.kind {
            DiskKind::Path => BackingKind::Loop,
            DiskKind::Mount => BackingKind::Mount,
            DiskKind::Block => BackingKind::Block,
        })
    }

    /// The spec of its NodeDisk, in `node` and with the ID that is stored on it.
    pub(super) fn spec(&self, node: &str, id: &str) -> NodeDiskSpec {
        NodeDiskSpec {
            node_name: node.to_owned(),
            disk_name: self.name.clone(),
            disk_id: id.to_owned(),
            kind: self.kind,
            backing: self.backing(),
            path: self.path.display().to_string(),
            adopt_roots: self.adopt_roots.iter().map(|root| root.display().to_string()).collect(),
            allow_unenforced: self.allow_unenforced,
            gone: false,
        }
    }

    /// The disk in the host's terms; makes the directory of a `Path` disk if it is missing, and blocks.
    pub fn to_host(&self, state_dir: &Path) -> Result<DiskConfig, ConfigError> {
        let backing = self.validate()?;
        let is_directory = self.kind == DiskKind::Path && backing != host::BackingKind::Lvm;
        if is_directory {
            let made = std::fs::create_dir_all(&self.path);
            made.map_err(|e| self.wrong(format!("failed to make directory {}: {e}", self.path.display())))?;
        }
        let capacity = self.capacity.as_ref().map(|size| self.bytes(size)).transpose()?;
        let system_reserved = match &self.system_reserved {
            Some(size) => self.held_back(size, capacity, is_directory)?,
            None if is_directory => self.held_back(&Size::written("10%"), capacity, true)?,
            None => 0,
        };
        Ok(DiskConfig {
            name: self.name.clone(),
            path: self.path.clone(),
            backing,
            state: (backing == host::BackingKind::Block).then(|| state_dir.to_owned()),
            capacity,
            system_reserved,
            adopt_roots: self.adopt_roots.clone(),
            allow_unenforced: self.allow_unenforced,
        })
    }

    fn validate(&self) -> Result<host::BackingKind, ConfigError> {
        let ensure =
            |ok: bool, reason: &dyn Fn() -> String| if ok { Ok(()) } else { Err(self.wrong(reason())) };
        let (kind, backing, path) = (self.kind, self.backing(), self.path.display());
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_label = (1..=63).contains(&self.name.len()) && self.name.chars().all(plain);
        ensure(is_label && !self.name.starts_with('-'), &|| {
            "a name is a DNS label of lower-case letters, digits and `-`".to_owned()
        })?;
        ensure(self.path.is_absolute(), &|| format!("path {path} is not absolute"))?;
        for (i, StaticReservation { role, size }) in self.reservations.iter().enumerate() {
            Role::parse(role).map_err(|e| self.wrong(e.to_string()))?;
            self.bytes(size)?;
            let is_first = self.reservations[..i].iter().all(|other| other.role != *role);
            ensure(is_first, &|| format!("role {role} has two reservations; make them one"))?;
        }
        let backing = match (kind, backing) {
            (DiskKind::Path, BackingKind::Loop) => host::BackingKind::Loop,
            (DiskKind::Path, BackingKind::Btrfs) => host::BackingKind::Btrfs,
            (DiskKind::Path, BackingKind::Quota) => host::BackingKind::Quota,
            (DiskKind::Path, BackingKind::Lvm) => host::BackingKind::Lvm,
            (DiskKind::Mount, BackingKind::Mount) => host::BackingKind::Mount,
            (DiskKind::Block, BackingKind::Block) => host::BackingKind::Block,
            _ => {
                let reason =
                    format!("a disk of kind {kind:?} cannot have backing {backing:?}: leave backing out");
                return Err(self.wrong(reason));
            }
        };
        let (divided, adopts) = (kind == DiskKind::Path, !self.adopt_roots.is_empty());
        ensure(divided || self.capacity.is_none() && self.system_reserved.is_none(), &|| {
            format!("a disk of kind {kind:?} is handed out whole: leave capacity and systemReserved out")
        })?;
        ensure(!adopts || !matches!(backing, host::BackingKind::Btrfs | host::BackingKind::Lvm), &|| {
            format!("a disk with backing {backing:?} has nothing on it but volumes: leave adoptRoots out")
        })?;
        ensure(backing != host::BackingKind::Lvm || host::volume_group_of(&self.path).is_some(), &|| {
            format!("path {path} is not /dev/ and the name of a volume group, as backing Lvm needs it")
        })?;
        ensure(divided || !adopts, &|| {
            format!(
                "a disk of kind {kind:?} is handed out whole, and adopts no directory: leave adoptRoots out"
            )
        })?;
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        for root in &self.adopt_roots {
            ensure(root.is_absolute() && root.parent().is_some() && root.components().all(plain), &|| {
                format!(
                    "adoptRoots: {} is not the plain absolute path of a directory below /",
                    root.display()
                )
            })?;
        }
        Ok(backing)
    }

    /// The bytes of `systemReserved`, which is a size or a percentage of the capacity.
    fn held_back(
        &self,
        held_back: &Size,
        capacity: Option<u64>,
        is_directory: bool,
    ) -> Result<u64, ConfigError> {
        let Some(percent) = held_back.as_str().strip_suffix('%') else {
            return if held_back.as_str() == "0" { Ok(0) } else { self.bytes(held_back) };
        };
        let wrong = |reason: &str| self.wrong(format!("systemReserved {held_back}: {reason}"));
        let percent: u64 = percent
            .parse()
            .ok()
            .filter(|percent| *percent <= 100)
            .ok_or_else(|| wrong("a percentage is a whole number up to 100"))?;
        let all = match capacity {
            Some(bytes) => bytes,
            None if is_directory => {
                let stat = rustix::fs::statvfs(&self.path).map_err(|e| self.wrong(e.to_string()))?;
                stat.f_blocks.saturating_mul(stat.f_frsize)
            }
            None => return Err(wrong("of a volume group, say how many bytes, or set capacity")),
        };
        Ok((u128::from(all) * u128::from(percent) / 100) as u64)
    }

    fn bytes(&self, size: &Size) -> Result<u64, ConfigError> {
        size.bytes().map_err(|e| self.wrong(e.to_string()))
    }

    fn wrong(&self, reason: String) -> ConfigError {
        ConfigError::Field { disk: self.name.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_a_name_and_a_path_gets_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("disks: [{{name: fast, path: {}, capacity: 4Gi}}]", dir.path().display());
        let host = Config::parse(&text).unwrap().disks[0].to_host(dir.path()).unwrap();
        assert_eq!((host.capacity, host.system_reserved), (Some(4 << 30), (4 << 30) / 10));
        let group = "disks: [{name: vg, path: /dev/no-such-group, backing: Lvm}]";
        let host = Config::parse(group).unwrap().disks[0].to_host(dir.path()).unwrap();
        assert_eq!((host.backing, host.system_reserved), (host::BackingKind::Lvm, 0));
        assert!(!host.path.exists());
    }

    #[test]
    fn a_mistake_in_the_configuration_is_named() {
        for (text, part) in [
            ("disks: [{name: a}]", "missing field `path`"),
            ("disks: [{name: a, path: /x, size: 1}]", "unknown field `size`"),
            ("disks: [{name: a, path: /x, kind: Floppy}]", "unknown variant `Floppy`"),
        ] {
            assert!(Config::parse(text).unwrap_err().to_string().contains(part), "{text}");
        }
        for (text, part) in [
            ("{name: A/b, path: /tmp}", "a name is a DNS label"),
            ("{name: a, path: tmp}", "not absolute"),
            ("{name: a, path: /tmp, systemReserved: 101%}", "up to 100"),
            ("{name: a, path: /tmp, capacity: -1Gi}", "not a whole positive number"),
            ("{name: a, path: /tmp, reservations: [{role: a//b, size: 1Gi}]}", "is not a role name"),
            ("{name: a, path: /tmp, reservations: [{role: a, size: none}]}", "is not a size"),
            (
                "{name: a, path: /tmp, reservations: [{role: a, size: 1}, {role: a, size: 2}]}",
                "two reservations",
            ),
            ("{name: a, path: /tmp, kind: Mount, backing: Loop}", "cannot have backing Loop"),
            ("{name: a, path: /tmp, kind: Block, backing: Btrfs}", "cannot have backing Btrfs"),
            ("{name: a, path: /tmp, backing: Btrfs, adoptRoots: [/srv]}", "leave adoptRoots out"),
            ("{name: a, path: /tmp, kind: Block, backing: Quota}", "cannot have backing Quota"),
            ("{name: a, path: /dev/vg0, backing: Lvm, kind: Block}", "cannot have backing Lvm"),
            ("{name: a, path: /dev/vg0, backing: Lvm, adoptRoots: [/srv]}", "leave adoptRoots out"),
            ("{name: a, path: /dev/vg0, backing: Lvm, systemReserved: 5%}", "say how many bytes"),
            ("{name: a, path: /srv/vg0, backing: Lvm}", "the name of a volume group"),
            ("{name: a, path: /tmp, kind: Mount, capacity: 1Gi}", "is handed out whole"),
            ("{name: a, path: /tmp, kind: Mount, adoptRoots: [/srv]}", "leave adoptRoots out"),
            ("{name: a, path: /tmp, adoptRoots: [srv]}", "not the plain absolute path"),
            ("{name: a, path: /tmp, adoptRoots: [/srv/../etc]}", "not the plain absolute path"),
            ("{name: a, path: /tmp, adoptRoots: [/]}", "not the plain absolute path"),
            ("{name: a, path: /tmp, kind: Mount, systemReserved: 10%}", "is handed out whole"),
        ] {
            let entry: DiskEntry = serde_yaml::from_str(text).unwrap();
            assert!(entry.to_host(Path::new("/s")).unwrap_err().to_string().contains(part), "{text}");
        }
    }
}
