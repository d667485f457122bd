//! The mount options that a volume may choose.

use std::str::FromStr;

use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use crate::host::error::Error;

/// The safe list (V12). Each option is a flag of the mount: a text could inject another option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountOption {
    /// Access times are not written.
    Noatime,
    /// Access times of directories are not written.
    Nodiratime,
    /// Access times are written at every access.
    Strictatime,
    /// Nothing can be executed.
    Noexec,
    /// Symbolic links are not followed.
    Nosymfollow,
}

impl MountOption {
    const fn flag(self) -> MountAttrFlags {
        match self {
            Self::Noatime => MountAttrFlags::MOUNT_ATTR_NOATIME,
            Self::Nodiratime => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            Self::Strictatime => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            Self::Noexec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            Self::Nosymfollow => MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
        }
    }
}

impl FromStr for MountOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "noatime" => Ok(Self::Noatime),
            "nodiratime" => Ok(Self::Nodiratime),
            "strictatime" => Ok(Self::Strictatime),
            "noexec" => Ok(Self::Noexec),
            "nosymfollow" => Ok(Self::Nosymfollow),
            _ => Err(Error::InvalidArgument(format!(
                "mount option {text:?} is not one of noatime, nodiratime, strictatime, noexec, nosymfollow"
            ))),
        }
    }
}

/// The attributes of a mount: always nosuid and nodev (V12), and read-only before the mount can be seen (S9).
pub(crate) fn attributes(options: &[MountOption], read_only: bool) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    options.iter().fold(attributes, |all, option| all | option.flag())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// V12.
    #[test]
    fn only_the_safe_list_parses() {
        assert_eq!("noexec".parse::<MountOption>().unwrap(), MountOption::Noexec);
        for text in ["suid", "dev", "discard", "noatime,suid", "", "NOATIME"] {
            assert!(text.parse::<MountOption>().is_err(), "{text}");
        }
    }

    /// V12.
    #[test]
    fn nosuid_and_nodev_are_always_on() {
        let attributes = attributes(&[MountOption::Noatime], false);
        assert!(attributes.contains(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV));
        assert!(!attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
    }

    proptest! {
        /// V12.
        #[test]
        fn an_option_is_written_as_it_was_read(text in "(no|strict)?(atime|diratime|exec|symfollow|suid)?|\\PC{0,12}") {
            if let Ok(option) = text.parse::<MountOption>() {
                prop_assert_eq!(serde_json::to_value(option).unwrap(), text);
            }
        }
    }
}
