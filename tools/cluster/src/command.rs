//! Commands that are run to their end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt;
use crate::progress::Progress;

/// Length limit for a failed command's output in an error.
const TAIL: usize = 2000;

/// A command with its output captured.
///
/// The command runs in a process group of its own. A Ctrl-C on the terminal reaches only this process, which then ends the
/// whole group and undoes its own work.
#[derive(Debug)]
pub struct Cmd {
    inner: Command,
    progress: Option<String>,
    timeout: Option<Duration>,
    cleanup: bool,
    stdout_in_errors: bool,
}

impl Cmd {
    /// A command that runs `program`: a path, or a name in PATH.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = Command::new(program);
        inner.stdin(Stdio::null()).process_group(0);
        Self { inner, progress: None, timeout: None, cleanup: false, stdout_in_errors: false }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Sets the standard input.
    pub fn stdin(mut self, file: File) -> Self {
        self.inner.stdin(file);
        self
    }

    /// Prints the purpose and the duration on the terminal.
    pub fn progress(mut self, what: impl Into<String>) -> Self {
        self.progress = Some(what.into());
        self
    }

    /// Ends the command with an error after `limit`.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Lets the command finish after a signal to this process, since it is part of the clean-up.
    pub fn cleanup(mut self) -> Self {
        self.cleanup = true;
        self
    }

    /// Takes the message of an error from standard output, where some programs print the cause.
    pub fn stdout_in_errors(mut self) -> Self {
        self.stdout_in_errors = true;
        self
    }

    /// Runs the command and returns its standard output. The error has the end of the output.
    pub fn run(self) -> anyhow::Result<String> {
        let shown = self.shown();
        let on_stdout = self.stdout_in_errors;
        let (status, stdout, stderr) = self.output()?;
        if !status.success() {
            let stdout = if on_stdout || stderr.trim().is_empty() { tail(&stdout) } else { "" };
            bail!("`{shown}` failed ({status}):\n{}", format!("{stdout}\n{}", tail(&stderr)).trim());
        }
        Ok(stdout)
    }

    /// Runs the command; true if it succeeded. A missing program did not succeed.
    pub fn succeeds(self) -> bool {
        self.output().is_ok_and(|(status, ..)| status.success())
    }

    fn output(mut self) -> anyhow::Result<(ExitStatus, String, String)> {
        let shown = self.shown();
        // Output goes to files, since a pipe needs a reader while the command runs.
        let mut stdout =
            tempfile::tempfile().context("failed to make a temporary file for a command's output")?;
        let mut stderr =
            tempfile::tempfile().context("failed to make a temporary file for a command's output")?;
        self.inner.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let progress = self.progress.take().map(Progress::start);
        let child = self.inner.spawn().with_context(|| format!("failed to run `{shown}`"))?;
        let status = self.wait(child, progress).with_context(|| format!("`{shown}` was ended"))?;
        Ok((status, contents(&mut stdout)?, contents(&mut stderr)?))
    }

    fn wait(&self, mut child: Child, mut progress: Option<Progress>) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = child.try_wait().context("failed to wait for it")? {
                if let Some(progress) = progress.filter(|_| status.success()) {
                    progress.done();
                }
                return Ok(status);
            }
            if !self.cleanup && interrupt::requested() {
                end_group(&mut child);
                bail!("asked to stop");
            }
            if let Some(limit) = self.timeout.filter(|limit| started.elapsed() > *limit) {
                end_group(&mut child);
                bail!("it took longer than {} s", limit.as_secs());
            }
            if let Some(progress) = &mut progress {
                progress.tick();
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn shown(&self) -> String {
        let words = std::iter::once(self.inner.get_program()).chain(self.inner.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// Kills a child and its group. No other process has the child's id before the child is waited for.
fn end_group(child: &mut Child) {
    if let Some(group) = Pid::from_raw(child.id() as i32) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

fn contents(file: &mut File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of `text`.
pub(crate) fn tail(text: &str) -> &str {
    let text = text.trim_end();
    let Some(mut from) = text.len().checked_sub(TAIL) else { return text };
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let rest = &text[from..];
    rest.split_once('\n').map_or(rest, |(_, lines)| lines)
}

/// The path of `program`, looked up in PATH.
pub(crate) fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_returned_and_failure_carries_it() {
        assert_eq!(Cmd::new("echo").arg("hello").run().unwrap(), "hello\n");
        let error = Cmd::new("sh").args(["-c", "echo why >&2; exit 3"]).run().unwrap_err().to_string();
        assert!(error.contains("why") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_command_ends_at_its_limit() {
        let error = Cmd::new("sleep").arg("60").timeout(Duration::from_millis(50)).run().unwrap_err();
        assert!(format!("{error:#}").contains("longer than"), "{error:#}");
    }

    #[test]
    fn tail_starts_at_a_line() {
        let text = format!("{}\nlast line", "é".repeat(TAIL));
        assert_eq!(tail(&text), "last line");
        assert_eq!(tail("short\n"), "short");
    }
}
