//! The cache of built files, outside the work tree and keyed by version.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::interrupt;
use crate::progress::say;

/// The cache directory.
///
/// Every file in the cache is complete, since it is made under a temporary name and then renamed.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A lock until it is dropped; another process or thread waits for the same name.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Cache {
    /// `$RESERVOIR_CACHE`, else `$XDG_CACHE_HOME/reservoir`, else `~/.cache/reservoir`.
    pub fn open() -> anyhow::Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("RESERVOIR_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("reservoir")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/reservoir")))
            .context("neither RESERVOIR_CACHE nor HOME is set; set RESERVOIR_CACHE to a directory for built binaries")?;
        Self::at(root)
    }

    /// A cache in the directory `root`, which is made if it is missing.
    pub fn at(root: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let root = std::path::absolute(root.into())?;
        fs::create_dir_all(&root)
            .with_context(|| format!("failed to make the cache directory {}", root.display()))?;
        Ok(Self { root })
    }

    /// The directory of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the file or directory `name` (such as `bin/etcd-v3.6.8/etcd`), which `build` makes if it is missing.
    ///
    /// `build` gets a path beside the final one, of which nothing exists. One of several callers builds, and the others wait.
    pub fn get(
        &self,
        name: &str,
        build: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        if path.exists() {
            return Ok(path);
        }
        let _lock = self.lock(name)?;
        if path.exists() {
            return Ok(path);
        }
        let parent = path.parent().with_context(|| format!("{name} is no name in the cache"))?;
        fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))?;
        let file = path.file_name().unwrap_or_default();
        let temporary = parent.join(format!(".building-{}", file.to_string_lossy()));
        // These are remains of a killed build: the lock excludes a running build.
        remove(&temporary)?;
        fs::create_dir(&temporary).with_context(|| format!("failed to make {}", temporary.display()))?;
        let made = temporary.join(file);
        let built = build(&made).and_then(|()| {
            fs::rename(&made, &path)
                .with_context(|| format!("failed to put {} into the cache", path.display()))
        });
        remove(&temporary)?;
        built.map(|()| path)
    }

    /// Waits for the lock of `name`, and takes it.
    pub fn lock(&self, name: &str) -> anyhow::Result<Lock> {
        let dir = self.root.join("locks");
        fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let path = dir.join(name.replace('/', "_"));
        let file =
            File::create(&path).with_context(|| format!("failed to open the lock {}", path.display()))?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("failed to lock {}", path.display()));
                }
            }
            if interrupt::requested() {
                bail!("asked to stop while waiting for {}", path.display());
            }
            if !said {
                say(format_args!("waiting for another process that is busy with {name}"));
                said = true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn parallel_callers_build_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let builds = AtomicUsize::new(0);
        let build = |path: &Path| {
            builds.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            Ok(fs::write(path, "made")?)
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(cache.get("bin/tool-v1/tool", build).unwrap().exists()));
            }
        });
        assert_eq!(builds.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let failed = cache.get("bin/tool", |path| {
            fs::write(path, "half")?;
            bail!("no")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(dir.path().join("bin")).unwrap().count(), 0);
    }
}
