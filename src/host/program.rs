//! Programs that do what the kernel has no call for: mkfs, resize2fs, LVM.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{Context, Error, Result};

/// Where programs are looked for, whatever the agent's environment says.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// How a program is told of the file that it works on: it gets this very file, whatever happens to its name meanwhile.
pub(super) const FILE: &str = "/proc/self/fd/0";
/// The same for the file that it writes to.
pub(super) const RESULT: &str = "/proc/self/fd/1";

/// Runs a program on a file; with `result` it writes to that one.
pub(super) fn run(program: &str, arguments: &[&str], file: &File, result: Option<&File>) -> Result<()> {
    let duplicate = |file: &File| file.try_clone().context(|| "duplicate a file descriptor");
    let stdout = match result {
        None => Stdio::null(),
        Some(result) => duplicate(result)?.into(),
    };
    start(program, arguments, duplicate(file)?.into(), stdout).map(drop)
}

/// Runs a program that works on no file, and returns what it prints.
pub(super) fn ask(program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    start(program, arguments, Stdio::null(), Stdio::piped())
}

fn start(program: &str, arguments: &[&str], stdin: Stdio, stdout: Stdio) -> Result<Vec<u8>> {
    let path = find(program)?;
    let output = Command::new(&path)
        .args(arguments)
        .env_clear()
        .env("PATH", DIRECTORIES.join(":"))
        .env("LC_ALL", "C")
        // Zeroes are written: blocks that are merely marked as empty have still in them what is to be overwritten (X4).
        .envs((program == "resize2fs").then_some(("UNIX_IO_NOZEROOUT", "1")))
        .current_dir("/")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output())
        .context(|| format!("run {}", path.display()))?;
    // fsck(8): 1 says that something was put right.
    if output.status.success() || program == "e2fsck" && output.status.code() == Some(1) {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect();
    Err(Error::Command { program: path, status: output.status.to_string(), output: said })
}

fn find(program: &str) -> Result<PathBuf> {
    let package = match program {
        "lvm" => "lvm2",
        "mkfs.xfs" => "xfsprogs",
        _ => "e2fsprogs",
    };
    DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Unsupported(format!("{program} is missing: install the package {package}")))
}
