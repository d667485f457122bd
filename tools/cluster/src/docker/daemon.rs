//! A dockerd of our own, for machines without one, as long as it is needed.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::firewall::Firewall;
use crate::cache::Cache;
use crate::command::tail;
use crate::interrupt;
use crate::packages;
use crate::programs::Program;
use crate::progress::{Progress, say};
use crate::recorded::Recorded;

const READY_WITHIN: Duration = Duration::from_secs(60);
const ENDED_WITHIN: Duration = Duration::from_secs(30);
const RUNC_WITHOUT_RESOURCE: &str = include_str!("../../assets/runc-without-resource.sh");

/// The record of the running daemon.
#[derive(Serialize, Deserialize)]
struct State {
    daemon: Recorded,
    firewall: Firewall,
}

/// The daemon's run-time files. They mean nothing after a reboot, and the path of a socket must be short; so the cache is no place.
fn run_dir(cache: &Cache) -> PathBuf {
    let digest = format!("{:x}", Sha256::digest(cache.root().as_os_str().as_encoded_bytes()));
    PathBuf::from(format!("/run/reservoir-{}", &digest[..8]))
}

fn host(cache: &Cache) -> String {
    format!("unix://{}", run_dir(cache).join("docker.sock").display())
}

fn state(cache: &Cache) -> anyhow::Result<Option<State>> {
    let file = run_dir(cache).join("state.json");
    match fs::read(&file) {
        Ok(text) => {
            let state = serde_json::from_slice(&text);
            Ok(Some(state.with_context(|| format!("{} cannot be read; remove it", file.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", file.display())),
    }
}

/// The daemon's `DOCKER_HOST`, if it runs.
pub(super) fn running(cache: &Cache) -> anyhow::Result<Option<String>> {
    // Only root can start a daemon, and only root can look for one.
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    Ok(state(cache)?.filter(|state| state.daemon.is_alive()).map(|_| host(cache)))
}

/// Starts the daemon, waits until it answers, and returns its `DOCKER_HOST`.
pub(super) fn start(cache: &Cache) -> anyhow::Result<String> {
    if !rustix::process::geteuid().is_root() {
        bail!("no Docker daemon answers and only root can start one; start Docker, or run this as root");
    }
    // A daemon that was killed has left settings in the kernel.
    stop(cache)?;
    let runtime = if lacks_resource_capability()? { Some(runc_without_resource(cache)?) } else { None };
    let progress = Progress::start("starting a Docker daemon");
    let dir = run_dir(cache);
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
    let log = cache.root().join("dockerd.log");
    let output = File::create(&log).with_context(|| format!("failed to open {}", log.display()))?;
    let firewall = Firewall::now();

    let mut command = Command::new("dockerd");
    command.env("PATH", super::path()?).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A Ctrl-C on the terminal must not reach the daemon, so it has a process group of its own.
    command.process_group(0);
    command.arg("--data-root").arg(cache.root().join("docker"));
    command.arg("--exec-root").arg(dir.join("exec"));
    command.arg("--pidfile").arg(dir.join("dockerd.pid"));
    // The daemon needs no bridge: kind makes one for its nodes, and image builds use the machine's network.
    command.args(["--host", &host(cache), "--bridge", "none"]);
    if let Some(runtime) = runtime {
        command.arg("--add-runtime").arg(format!("without-resource={}", runtime.display()));
        command.args(["--default-runtime", "without-resource"]);
    }
    let mut child = command.spawn().context("failed to start dockerd")?;
    let daemon = Recorded::of(child.id())?;
    // A thread waits for the daemon's end, so that it does not stay as a zombie.
    std::thread::spawn(move || child.wait());
    fs::write(dir.join("state.json"), serde_json::to_vec(&State { daemon, firewall })?)?;

    let started = Instant::now();
    let docker = super::Docker { host: Some(host(cache)), cache: cache.clone() };
    while !docker.answers() {
        if interrupt::requested() || !daemon.is_alive() || started.elapsed() > READY_WITHIN {
            let said = fs::read_to_string(&log).unwrap_or_default();
            stop(cache)?;
            bail!("dockerd did not get ready; {} ends with:\n{}", log.display(), tail(&said));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    progress.done();
    Ok(host(cache))
}

/// Stops the daemon, and removes its traces in the kernel and in its run-time directory.
pub(super) fn stop(cache: &Cache) -> anyhow::Result<()> {
    let Some(State { daemon, firewall }) = state(cache)? else { return Ok(()) };
    if daemon.is_alive() {
        say("stopping the Docker daemon that was started here");
        daemon.end(ENDED_WITHIN)?;
    }
    let dir = run_dir(cache);
    end_helpers(&dir.join("exec"))?;
    end_containers(&cache.root().join("docker"));
    unmount_below(&[&dir, &cache.root().join("docker")])?;
    firewall.restore();
    remove_cgroups();
    fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()))
}

/// Ends the containerd and the shims of a dockerd that was killed. Their command lines name its directory.
fn end_helpers(exec_root: &Path) -> anyhow::Result<()> {
    let needle = exec_root.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(process) = Recorded::of(pid) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(needle.len()).any(|part| part == needle) {
            process.end(Duration::from_secs(10))?;
        }
    }
    Ok(())
}

/// Ends the processes of containers that go on, with their addresses, after their dockerd was killed. Their
/// control groups carry the containers' ids, and the ids are those in the daemon's own directory.
fn end_containers(data_root: &Path) {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let ids: Vec<String> =
        names(&data_root.join("containers")).into_iter().filter(|id| id.len() == 64).collect();
    for pid in names(Path::new("/proc")).iter().filter_map(|name| name.parse::<i32>().ok()) {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if let Some(pid) = Pid::from_raw(pid).filter(|_| ids.iter().any(|id| groups.contains(id.as_str()))) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn unmount_below(dirs: &[&Path]) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("failed to read the mounts")?;
    let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
    for point in points.filter(|point| dirs.iter().any(|dir| Path::new(point).starts_with(dir))) {
        unmount(point, UnmountFlags::DETACH).with_context(|| format!("failed to unmount {point}"))?;
    }
    Ok(())
}

/// Removes the daemon's empty control groups. The control groups of another Docker's containers are not empty, and the
/// kernel refuses to remove them.
fn remove_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.into()]) {
        let _ = fs::remove_dir(hierarchy.join("docker"));
    }
}

/// True if root lacks CAP_SYS_RESOURCE, as in some sandboxes.
pub(crate) fn lacks_resource_capability() -> anyhow::Result<bool> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status =
        fs::read_to_string("/proc/self/status").context("failed to read this process's capabilities")?;
    let bounding =
        status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("there is no CapBnd")?;
    let bounding = u64::from_str_radix(bounding.trim(), 16).context("CapBnd is no number")?;
    Ok(bounding >> CAP_SYS_RESOURCE & 1 == 0)
}

/// A runtime that can start privileged containers without that capability.
fn runc_without_resource(cache: &Cache) -> anyhow::Result<PathBuf> {
    packages::ensure(&["jq"])?;
    let runc = Program::Runc.build(cache)?;
    let script = RUNC_WITHOUT_RESOURCE.replace("@RUNC@", &runc.display().to_string());
    let digest = format!("{:x}", Sha256::digest(&script));
    cache.get(&format!("bin/runc-without-resource-{}/runc", &digest[..8]), |path| {
        fs::write(path, &script)?;
        Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
    })
}
