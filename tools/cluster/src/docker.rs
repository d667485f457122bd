//! Docker: the daemon of the machine if one answers, else a daemon that this program starts and stops.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::cache::{Cache, Lock};
use crate::command::{Cmd, which};
use crate::packages;

mod daemon;
mod firewall;

pub(crate) use daemon::lacks_resource_capability;

/// A Docker daemon that answers.
#[derive(Clone, Debug)]
pub struct Docker {
    /// `DOCKER_HOST`, if this program started the daemon.
    host: Option<String>,
    cache: Cache,
}

impl Docker {
    /// Returns a daemon that answers. Without one, starts a daemon as root, and installs Docker if it is missing. Blocks.
    pub fn connect(cache: &Cache) -> anyhow::Result<Self> {
        if let Some(docker) = Self::running(cache)? {
            return Ok(docker);
        }
        let _lock = cache.lock("docker-daemon")?;
        if let Some(docker) = Self::running(cache)? {
            return Ok(docker);
        }
        if which("dockerd").is_none() {
            packages::ensure(&["docker.io", "iptables"])?;
            if which("docker").is_none() {
                packages::ensure(&["docker-cli"])?;
            }
            // A service manager has started the daemon of the package by now.
            if let Some(docker) = Self::running(cache)? {
                return Ok(docker);
            }
        }
        packages::ensure(&["iptables", "iproute2"])?;
        Ok(Self { host: Some(daemon::start(cache)?), cache: cache.clone() })
    }

    /// Returns the daemon that answers, if there is one. Blocks during the request.
    pub fn running(cache: &Cache) -> anyhow::Result<Option<Self>> {
        if which("docker").is_none() {
            return Ok(None);
        }
        let with = |host| Self { host, cache: cache.clone() };
        let started_here = daemon::running(cache)?.map(|host| with(Some(host)));
        // A running cluster is on the daemon that was started for it, even if another daemon was started later.
        Ok(started_here.into_iter().chain([with(None)]).find(Self::answers))
    }

    /// Stops a daemon that this program started, if it has no containers any more, and removes its traces. The caller holds
    /// [`lock`].
    pub(crate) fn stop_if_idle(cache: &Cache) -> anyhow::Result<()> {
        let _lock = cache.lock("docker-daemon")?;
        let Some(host) = daemon::running(cache)? else { return Ok(()) };
        let docker = Self { host: Some(host), cache: cache.clone() };
        let containers =
            docker.cmd(["ps", "--all", "--quiet"]).cleanup().timeout(Duration::from_secs(30)).run();
        if containers.is_ok_and(|ids| !ids.trim().is_empty()) {
            return Ok(());
        }
        // The bridge of the daemon outlives it; the bridge of a network goes with the network.
        let _ = docker.cmd(["network", "prune", "--force"]).cleanup().timeout(Duration::from_secs(30)).run();
        daemon::stop(cache)
    }

    /// The cache for images that are composed for this daemon.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// `DOCKER_HOST` for other programs, if it has to be set.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// A docker command.
    pub fn cmd(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Cmd {
        self.tell(Cmd::new("docker").args(args))
    }

    /// A `docker build` command without its context.
    pub fn build(&self) -> Cmd {
        // Debian's Docker lacks the plug-in BuildKit, so the classic builder is used.
        self.cmd(["build", "--force-rm", "--network=host"]).env("DOCKER_BUILDKIT", "0").stdout_in_errors()
    }

    /// Makes another program that uses Docker use this daemon.
    pub fn tell(&self, cmd: Cmd) -> Cmd {
        match &self.host {
            Some(host) => cmd.env("DOCKER_HOST", host),
            None => cmd,
        }
    }

    /// True if there is an image of this name.
    pub fn has_image(&self, name: &str) -> bool {
        self.cmd(["image", "inspect", name]).succeeds()
    }

    /// Pulls an image, if this machine can pull images.
    ///
    /// The outcome is kept for a day, because a pull without a network takes long to fail.
    pub fn pull(&self, name: &str) -> anyhow::Result<bool> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let refused = self.cache.root().join("no-registry");
        let age = refused.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age < DAY) {
            return Ok(false);
        }
        let ask = self.cmd(["manifest", "inspect", name]).timeout(Duration::from_secs(15));
        if !ask.progress(format!("asking whether {name} can be pulled")).succeeds() {
            std::fs::write(&refused, name)
                .with_context(|| format!("failed to write {}", refused.display()))?;
            return Ok(false);
        }
        self.cmd(["pull", "--quiet", name]).progress(format!("pulling {name}")).run()?;
        Ok(true)
    }

    /// Makes an image of one layer from a tar archive.
    pub fn import(&self, archive: &std::path::Path, changes: &[&str], name: &str) -> anyhow::Result<()> {
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        self.cmd(["import"]).args(changes).arg(archive).arg(name).run()?;
        Ok(())
    }

    fn answers(&self) -> bool {
        // The client succeeds without a server unless a field of the server is requested.
        let asked = self.cmd(["version", "--format", "{{.Server.Version}}"]).timeout(Duration::from_secs(10));
        asked.succeeds()
    }
}

/// A lock for the making and removal of clusters and images, so that no daemon stops during such work.
pub(crate) fn lock(cache: &Cache) -> anyhow::Result<Lock> {
    cache.lock("docker")
}

/// Debian's directories of programs for daemons, which a user's PATH lacks.
fn path() -> anyhow::Result<std::ffi::OsString> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::join_paths(std::env::split_paths(&own).chain(more))
        .context("PATH has an entry that cannot be used")
}
