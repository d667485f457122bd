//! Child processes that end with this process, even if it is killed.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use anyhow::Context;

use crate::command::tail;

/// A running child with its output in a log file. A drop kills the child and waits for its end.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; its output is appended to `log`.
    pub(crate) fn start(program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("failed to open the log {}", log.display()))?;
        // setpriv becomes the program. The kernel kills the program when the thread that started it has ended.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn(command).with_context(|| format!("failed to start {}", program.display()))?;
        Ok(Self { child, log: log.into() })
    }

    /// Fails with the end of the log if the child has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("failed to look after a child process")? {
            None => Ok(()),
            Some(status) => anyhow::bail!("it ended ({status}):\n{}", self.log_tail()),
        }
    }

    /// Kills the child and waits for its end.
    pub(crate) fn kill(&mut self) {
        // The id of an ended child is never another process's: std remembers that the child was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of the child's output.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        tail(&String::from_utf8_lossy(&text)).to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Order = (Command, Sender<std::io::Result<Child>>);

/// Spawns children from one thread that lives as long as this process.
///
/// The kernel kills a child at the end of the *thread* that started it. A child of a test's thread or of a runtime's worker would
/// end with that thread.
fn spawn(command: Command) -> anyhow::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, received) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = channel();
    spawner.send((command, answer)).ok().context("the thread that starts processes is gone")?;
    Ok(child.recv().context("the thread that starts processes is gone")??)
}
