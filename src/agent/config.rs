//! The agent's configuration file: which disks there are.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::api::{BackingKind, DiskKind, Role, Size};
use crate::host::{self, DiskConfig};

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The disks.
    pub disks: Vec<DiskEntry>,
    /// The directory for the journals of disks of kind `Block`, which have no room for one.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
}

/// One disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskEntry {
    /// Its name: a DNS label.
    pub name: String,
    /// What is handed out of it.
    #[serde(default = "path_kind")]
    pub kind: DiskKind,
    /// How volumes are made; without it, as the kind of disk has it.
    #[serde(default)]
    pub backing: Option<BackingKind>,
    /// A directory, on ext4 or xfs; with backing `Btrfs` the place where the top level of a btrfs is mounted, with backing
    /// `Lvm` the volume group's directory in `/dev`; of kind `Mount` the place where the file system is mounted, of kind
    /// `Block` the device, best by a name that stays: `/dev/disk/by-id/…`.
    pub path: PathBuf,
    /// At most this much is used; without it, all that the file system has. Only of kind `Path`.
    #[serde(default)]
    pub capacity: Option<Size>,
    /// Held back for the system: a quantity, or a percentage of the file system; without it `10%`, of a volume group
    /// nothing. Only of kind `Path`.
    #[serde(default)]
    pub system_reserved: Option<Size>,
    /// Directories of the disk's file system beneath which a volume may adopt one that holds data (V8). Only of kind
    /// `Path`.
    #[serde(default)]
    pub adopt_roots: Vec<PathBuf>,
    /// There may be volumes whose size is not enforced: adopted directories, and all of them if the disk turns out to
    /// enforce no size (D5).
    #[serde(default)]
    pub allow_unenforced: bool,
    /// What is reserved on it from the start; the API changes none of it (R2).
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
    /// The role that it is for.
    pub role: String,
    /// How many bytes.
    pub size: Size,
}

fn path_kind() -> DiskKind {
    DiskKind::Path
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the YAML that is expected.
    #[error("failed to understand {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml::Error,
    },
    /// A field makes no sense.
    #[error("disk {disk}: {reason}")]
    Field {
        /// Name of the disk.
        disk: String,
        /// What is wrong.
        reason: String,
    },
}

impl Config {
    /// Reads the file.
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
    /// How volumes are made.
    pub fn backing(&self) -> BackingKind {
        self.backing.unwrap_or(match self.kind {
            DiskKind::Path => BackingKind::Loop,
            DiskKind::Mount => BackingKind::Mount,
            DiskKind::Block => BackingKind::Block,
        })
    }

    /// The disk as `host` takes it; the directory of a `Path` disk is made if it is not there.
    pub fn to_host(&self, state_dir: &Path) -> Result<DiskConfig, ConfigError> {
        let wrong = |reason: String| ConfigError::Field { disk: self.name.clone(), reason };
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty()
            || self.name.len() > 63
            || !self.name.chars().all(label)
            || self.name.starts_with('-')
        {
            return Err(wrong("a name is a DNS label of lower-case letters, digits and `-`".to_owned()));
        }
        if !self.path.is_absolute() {
            return Err(wrong(format!("path {} is not absolute", self.path.display())));
        }
        for (i, reservation) in self.reservations.iter().enumerate() {
            let role = &reservation.role;
            Role::parse(role).map_err(|e| wrong(e.to_string()))?;
            reservation.size.bytes().map_err(|e| wrong(e.to_string()))?;
            if self.reservations[..i].iter().any(|other| other.role == *role) {
                return Err(wrong(format!("role {role} has two reservations; make them one")));
            }
        }
        let backing = match (self.kind, self.backing()) {
            (DiskKind::Path, BackingKind::Loop) => host::BackingKind::Loop,
            (DiskKind::Path, BackingKind::Btrfs) => host::BackingKind::Btrfs,
            (DiskKind::Path, BackingKind::Quota) => host::BackingKind::Quota,
            (DiskKind::Path, BackingKind::Lvm) => host::BackingKind::Lvm,
            (DiskKind::Mount, BackingKind::Mount) => host::BackingKind::Mount,
            (DiskKind::Block, BackingKind::Block) => host::BackingKind::Block,
            (kind, backing) => {
                return Err(wrong(format!(
                    "a disk of kind {kind:?} cannot have backing {backing:?}: leave backing out"
                )));
            }
        };
        if self.kind != DiskKind::Path && (self.capacity.is_some() || self.system_reserved.is_some()) {
            let kind = self.kind;
            return Err(wrong(format!(
                "a disk of kind {kind:?} is handed out whole: leave capacity and systemReserved out"
            )));
        }
        if matches!(backing, host::BackingKind::Btrfs | host::BackingKind::Lvm)
            && !self.adopt_roots.is_empty()
        {
            return Err(wrong(format!(
                "a disk with backing {:?} has nothing on it but volumes: leave adoptRoots out",
                self.backing()
            )));
        }
        let is_group = backing == host::BackingKind::Lvm;
        if is_group && host::volume_group_of(&self.path).is_none() {
            return Err(wrong(format!(
                "path {} is not /dev/ and the name of a volume group, as backing Lvm needs it",
                self.path.display()
            )));
        }
        if self.kind != DiskKind::Path && !self.adopt_roots.is_empty() {
            let kind = self.kind;
            return Err(wrong(format!(
                "a disk of kind {kind:?} is handed out whole, and adopts no directory: leave adoptRoots out"
            )));
        }
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        for root in &self.adopt_roots {
            if !root.is_absolute() || root.parent().is_none() || !root.components().all(plain) {
                return Err(wrong(format!(
                    "adoptRoots: {} is not the plain absolute path of a directory below /",
                    root.display()
                )));
            }
        }
        let is_directory = self.kind == DiskKind::Path && !is_group;
        if is_directory {
            std::fs::create_dir_all(&self.path)
                .map_err(|e| wrong(format!("{}: {e}", self.path.display())))?;
        }
        let bytes = |size: &Size| size.bytes().map_err(|e| wrong(e.to_string()));
        let capacity = self.capacity.as_ref().map(bytes).transpose()?;
        let held_back = self
            .system_reserved
            .clone()
            .unwrap_or_else(|| Size::written(if is_directory { "10%" } else { "0" }));
        let system_reserved = match held_back.as_str().strip_suffix('%') {
            None if held_back.as_str() == "0" => 0,
            None => bytes(&held_back)?,
            Some(percent) => {
                let percent: u64 = percent.parse().ok().filter(|p| *p <= 100).ok_or_else(|| {
                    wrong(format!("systemReserved {held_back}: a percentage is a whole number up to 100"))
                })?;
                let whole = match capacity {
                    Some(bytes) => bytes,
                    None if is_group => {
                        return Err(wrong(format!(
                            "systemReserved {held_back}: of a volume group, say how many bytes, or set capacity"
                        )));
                    }
                    None => {
                        let stat = rustix::fs::statvfs(&self.path).map_err(|e| wrong(e.to_string()))?;
                        stat.f_blocks.saturating_mul(stat.f_frsize)
                    }
                };
                (u128::from(whole) * u128::from(percent) / 100) as u64
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_needs_a_name_and_a_path() {
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
    fn mistakes_are_named() {
        for (text, said) in [
            ("disks: [{name: a}]", "missing field `path`"),
            ("disks: [{name: a, path: /x, size: 1}]", "unknown field `size`"),
            ("disks: [{name: a, path: /x, kind: Floppy}]", "unknown variant `Floppy`"),
        ] {
            assert!(Config::parse(text).unwrap_err().to_string().contains(said), "{text}");
        }
        for (text, said) in [
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
            assert!(entry.to_host(Path::new("/s")).unwrap_err().to_string().contains(said), "{text}");
        }
    }
}
