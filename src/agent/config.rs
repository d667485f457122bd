//! The agent's configuration file: which disks there are.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::api::{BackingKind, DiskKind, Role, Size};
use crate::host::DiskConfig;

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The disks.
    pub disks: Vec<DiskEntry>,
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
    /// How volumes are made.
    #[serde(default = "loop_backing")]
    pub backing: BackingKind,
    /// The directory, on ext4 or xfs.
    pub path: PathBuf,
    /// At most this much is used; without it, all that the file system has.
    #[serde(default)]
    pub capacity: Option<Size>,
    /// Held back for the system: a quantity, or a percentage of the file system such as `10%`.
    #[serde(default = "ten_percent")]
    pub system_reserved: Size,
    /// What is reserved on it from the start; the API changes none of it (R2).
    #[serde(default)]
    pub reservations: Vec<StaticReservation>,
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

fn loop_backing() -> BackingKind {
    BackingKind::Loop
}

fn ten_percent() -> Size {
    Size::written("10%")
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
    /// The disk as `host` takes it; the directory is made if it is not there.
    pub fn to_host(&self) -> Result<DiskConfig, ConfigError> {
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
        std::fs::create_dir_all(&self.path).map_err(|e| wrong(format!("{}: {e}", self.path.display())))?;
        let bytes = |size: &Size| size.bytes().map_err(|e| wrong(e.to_string()));
        let capacity = self.capacity.as_ref().map(bytes).transpose()?;
        let system_reserved = match self.system_reserved.as_str().strip_suffix('%') {
            None if self.system_reserved.as_str() == "0" => 0,
            None => bytes(&self.system_reserved)?,
            Some(percent) => {
                let percent: u64 = percent.parse().ok().filter(|p| *p <= 100).ok_or_else(|| {
                    wrong(format!(
                        "systemReserved {}: a percentage is a whole number up to 100",
                        self.system_reserved
                    ))
                })?;
                let whole = match capacity {
                    Some(bytes) => bytes,
                    None => {
                        let stat = rustix::fs::statvfs(&self.path).map_err(|e| wrong(e.to_string()))?;
                        stat.f_blocks.saturating_mul(stat.f_frsize)
                    }
                };
                (u128::from(whole) * u128::from(percent) / 100) as u64
            }
        };
        Ok(DiskConfig { name: self.name.clone(), path: self.path.clone(), capacity, system_reserved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_needs_a_name_and_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("disks: [{{name: fast, path: {}, capacity: 4Gi}}]", dir.path().display());
        let host = Config::parse(&text).unwrap().disks[0].to_host().unwrap();
        assert_eq!((host.capacity, host.system_reserved), (Some(4 << 30), (4 << 30) / 10));
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
        ] {
            let entry: DiskEntry = serde_yaml::from_str(text).unwrap();
            assert!(entry.to_host().unwrap_err().to_string().contains(said), "{text}");
        }
    }
}
