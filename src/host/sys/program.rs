//! Programs for work that no system call does: mkfs, resize2fs, LVM.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::MemfdFlags;

use crate::host::error::{Context, Error, Result};

/// The directories of programs; the agent's PATH is not used.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The node's configuration of LVM, in the agent's container. A node without one, perhaps with a read-only /etc, has LVM's
/// defaults.
const NODE_LVM: &str = "/run/node/etc/lvm";

/// The argument for the file that a program works on. The path stays valid if the file is renamed or removed.
pub(crate) const FILE: &str = "/proc/self/fd/0";
pub(crate) const RESULT: &str = "/proc/self/fd/1";

/// Runs a program on a file. With `result` the program's output goes to that file.
pub(crate) fn run(program: &str, arguments: &[&str], file: &File, result: Option<&File>) -> Result<()> {
    let stdout = match result {
        None => Stdio::null(),
        Some(result) => duplicate(result)?.into(),
    };
    start(program, arguments, duplicate(file)?.into(), stdout)
}

/// Runs a program, on a file if given, and returns its standard output.
pub(crate) fn ask(program: &str, arguments: &[&str], file: Option<&File>) -> Result<Vec<u8>> {
    let stdin = match file {
        None => Stdio::null(),
        Some(file) => duplicate(file)?.into(),
    };
    // With a second pipe the standard library calls ioctl(2), and panics if the call fails.
    let output = rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC);
    let mut output = File::from(output.context(|| "make a file for the output of a program")?);
    start(program, arguments, stdin, duplicate(&output)?.into())?;
    let mut bytes = Vec::new();
    let read = output.rewind().and_then(|()| output.read_to_end(&mut bytes));
    read.context(|| format!("read the output of {program}"))?;
    Ok(bytes)
}

fn duplicate(file: &File) -> Result<File> {
    file.try_clone().context(|| "duplicate a file descriptor")
}

fn start(program: &str, arguments: &[&str], stdin: Stdio, stdout: Stdio) -> Result<()> {
    let path = find(program)?;
    let output = Command::new(&path)
        .args(arguments)
        .env_clear()
        .env("PATH", DIRECTORIES.join(":"))
        .env("LC_ALL", "C")
        // Without this variable resize2fs marks blocks as empty, and leaves bytes in them that have to be overwritten
        // (X4).
        .envs((program == "resize2fs").then_some(("UNIX_IO_NOZEROOUT", "1")))
        .envs((program == "lvm" && Path::new(NODE_LVM).is_dir()).then_some(("LVM_SYSTEM_DIR", NODE_LVM)))
        .current_dir("/")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output())
        .context(|| format!("run {}", path.display()))?;
    // fsck(8): status 1 means that errors were corrected.
    if output.status.success() || program == "e2fsck" && output.status.code() == Some(1) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let output_text: String =
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect();
    Err(Error::Command { program: path, status: output.status.to_string(), output: output_text })
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
        .ok_or_else(|| Error::ProgramMissing(format!("{program} is missing: install the package {package}")))
}
