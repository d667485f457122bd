//! Debian packages that the machine lacks.

use std::path::Path;
use std::sync::Once;

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::command::{Cmd, which};
use crate::progress::say;

/// Installs those of `names` that are not installed yet. Blocks.
///
/// Needs root and apt only if something is missing.
pub fn ensure(names: &[&str]) -> anyhow::Result<()> {
    let missing = missing(names);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if which("apt-get").is_none() {
        bail!(
            "these Debian packages are needed, and there is no apt here: {list}; install what they hold by hand"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these Debian packages are missing: {list}; run `sudo apt-get install {list}`, or this as root"
        );
    }
    // dpkg allows one at a time and fails the others at once.
    let _lock = Cache::open()?.lock("apt")?;
    update();
    Cmd::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends", "--option", "Dpkg::Use-Pty=0"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .progress(format!("installing Debian packages: {list}"))
        .run()
        .with_context(|| {
            format!("failed to install {list}; see whether `apt-get install {list}` works by hand")
        })?;
    Ok(())
}

/// Unpacks a package into the directory `path`, which is made, and installs nothing. Blocks; needs apt.
pub(crate) fn unpack(name: &str, path: &Path) -> anyhow::Result<()> {
    update();
    let dir = tempfile::tempdir().context("failed to make a directory for a Debian package")?;
    Cmd::new("apt-get")
        .args(["download", name])
        .dir(dir.path())
        .progress(format!("downloading Debian package {name}"))
        .run()?;
    let archive = std::fs::read_dir(dir.path())?.next().context("apt-get downloaded nothing")??;
    Cmd::new("dpkg-deb").arg("--extract").arg(archive.path()).arg(path).run().map(drop)
}

/// Brings apt's lists up to date, once per process. One source that does not answer spoils nothing yet: whether a package
/// can be had shows when it is installed.
pub(crate) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) =
            Cmd::new("apt-get").arg("update").progress("updating the lists of Debian packages").run()
        {
            say(format_args!("going on although: {error:#}"));
        }
    });
}

fn missing<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let installed = |name: &&str| {
        let status = Cmd::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", name]).run();
        status.is_ok_and(|status| status == "installed")
    };
    names.iter().copied().filter(|name| !installed(name)).collect()
}
