//! Loop devices that a cluster's nodes leave behind. They belong to the machine, so the end of a node does not detach them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

use crate::command::Cmd;

/// The output of losetup for a loop device. The path of its file is left out, since it belongs to another mount namespace.
#[derive(Debug, Deserialize)]
struct LoopDevice {
    name: PathBuf,
    #[serde(rename = "back-ino")]
    inode: Option<u64>,
    #[serde(rename = "back-maj:min")]
    device: Option<String>,
}

/// The loop devices whose backing file lies in one of `directories`, by the file's device and inode.
pub(super) fn backed_by(directories: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for device in attached()? {
        if directories.iter().any(|directory| holds(directory, &device).unwrap_or(false)) {
            found.push(device.name);
        }
    }
    Ok(found)
}

/// Detaches the `devices` that are still attached. Nothing may use their files any more.
pub(super) fn detach(devices: &[PathBuf]) -> anyhow::Result<()> {
    let attached: Vec<_> = attached()?.into_iter().map(|device| device.name).collect();
    for device in devices.iter().filter(|device| attached.contains(device)) {
        losetup().arg("--detach").arg(device).run().with_context(|| format!("{} stays", device.display()))?;
    }
    Ok(())
}

fn attached() -> anyhow::Result<Vec<LoopDevice>> {
    #[derive(Deserialize)]
    struct Listed {
        loopdevices: Vec<LoopDevice>,
    }
    let listed = losetup().args(["--list", "--json", "--output=NAME,BACK-INO,BACK-MAJ:MIN"]).run()?;
    // losetup prints nothing if there is no loop device.
    if listed.trim().is_empty() {
        return Ok(Vec::new());
    }
    let listed: Listed = serde_json::from_str(&listed).context("failed to read what losetup says")?;
    Ok(listed.loopdevices)
}

fn holds(directory: &Path, device: &LoopDevice) -> anyhow::Result<bool> {
    let (Some(inode), Some(on)) = (device.inode, &device.device) else { return Ok(false) };
    let directory_on = fs::metadata(directory)?.dev();
    // losetup pads the number with spaces.
    if on.trim() != format!("{}:{}", rustix::fs::major(directory_on), rustix::fs::minor(directory_on)) {
        return Ok(false);
    }
    let search =
        Cmd::new("find").arg(directory).args(["-xdev", "-inum", &inode.to_string(), "-print", "-quit"]);
    Ok(!search.cleanup().timeout(Duration::from_secs(60)).run()?.trim().is_empty())
}

fn losetup() -> Cmd {
    Cmd::new("losetup").cleanup().timeout(Duration::from_secs(30))
}
