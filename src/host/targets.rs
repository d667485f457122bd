//! The kubelet's paths for volumes, all of them beneath one directory.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::host::error::{Context, Error, Result};
use crate::host::sys::{Target, dirfd};

pub(super) struct Targets {
    path: PathBuf,
    root: OwnedFd,
}

impl Targets {
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.is_absolute() {
            return Err(Error::InvalidArgument(format!("{} is not an absolute path", path.display())));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), root })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The path of a target from the kubelet's directory, which pods may have mounted elsewhere.
    pub(super) fn relative<'a>(&self, key: &'a str) -> &'a Path {
        let key = Path::new(key);
        key.strip_prefix(&self.path).unwrap_or(key)
    }

    /// The normal spelling of a target, which is its key in the record.
    pub(super) fn key(&self, target: &Path) -> Result<String> {
        let refuse = |why: &str| Err(Error::InvalidArgument(format!("target {} {why}", target.display())));
        let Ok(relative) = target.strip_prefix(&self.path) else {
            return refuse(&format!("does not lie beneath {}", self.path.display()));
        };
        if relative.as_os_str().is_empty() {
            return refuse("is the root of all targets");
        }
        if !relative.components().all(|component| matches!(component, Component::Normal(_))) {
            return refuse("is not a plain path");
        }
        match target.to_str() {
            Some(text) if !text.contains('\0') => {}
            _ => return refuse("is not text"),
        }
        // `collect` drops doubled and trailing slashes.
        let plain: PathBuf = self.path.components().chain(relative.components()).collect();
        Ok(plain.to_string_lossy().into_owned())
    }

    /// Opens the parent directory of a target by the target's key. `None` if the directory does not exist: nothing is
    /// mounted there.
    pub(super) fn locate(&self, key: &str) -> Result<Option<Target>> {
        let refuse =
            || Error::InvalidArgument(format!("target {key} does not lie beneath {}", self.path.display()));
        let relative = Path::new(key).strip_prefix(&self.path).map_err(|_| refuse())?;
        let name = relative.file_name().and_then(|name| name.to_str()).ok_or_else(refuse)?;
        let parent = match relative.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match dirfd::open(&self.root, parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => Ok(Some(Target { parent, name: name.to_owned(), path: key.to_owned() })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => {
                Err(Error::Conflict(format!("a symbolic link is on the way to target {key}: remove it")))
            }
            Err(error) => Err(error).context(|| format!("open the directory of target {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    /// M7, S12.
    #[test]
    fn only_plain_paths_beneath_the_root_are_targets() {
        let targets = Targets::open(Path::new("/proc/")).unwrap();
        assert_eq!(targets.key(Path::new("/proc/a//b/./c/")).unwrap(), "/proc/a/b/c");
        assert_eq!(targets.key(Path::new("/proc/a\nb \u{fc}")).unwrap(), "/proc/a\nb \u{fc}");
        for path in [
            "",
            "/",
            "/proc",
            "/proc/",
            "/process/a",
            "proc/a",
            "/proc/../etc",
            "/proc/a/../../etc",
            "/proc/\0",
        ] {
            assert!(matches!(targets.key(Path::new(path)), Err(Error::InvalidArgument(_))), "{path:?}");
        }
    }

    proptest! {
        /// M7, S12, S16.
        #[test]
        fn a_key_is_one_plain_path_beneath_the_root(
            bytes in "(/proc)?(/|\\.|a|\\x00|\n|\u{fc}|/\\.\\./){0,12}".prop_map(String::into_bytes)
                .boxed().prop_union(proptest::collection::vec(any::<u8>(), 0..40).boxed())
        ) {
            let targets = Targets::open(Path::new("/proc")).unwrap();
            if let Ok(key) = targets.key(Path::new(OsStr::from_bytes(&bytes))) {
                let inside = key.strip_prefix("/proc/").unwrap();
                prop_assert!(inside.split('/').all(|name| !["", ".", ".."].contains(&name)), "{key:?}");
                prop_assert!(!key.contains('\0'));
                prop_assert_eq!(targets.key(Path::new(&key)), Ok(key.clone()));
                prop_assert!(!matches!(targets.locate(&key), Err(Error::InvalidArgument(_))));
            }
        }
    }
}
