//! A process that outlives the one that started it, and how to know it again.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process by its id and the time it was started at: ids are used again, the pair is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pid: i32,
    /// In clock ticks since the machine was started.
    started: u64,
}

impl Recorded {
    /// The process that now has the id `pid`.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let started = started(pid as i32).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid: pid as i32, started })
    }

    /// True while the process runs.
    pub(crate) fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Asks it to end and waits until it has; after `limit` it is killed.
    pub(crate) fn end(self, limit: Duration) -> anyhow::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        // The descriptor stays with the process, so what is checked next is what the signal is sent to.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        for signal in [Signal::TERM, Signal::KILL] {
            if !self.is_alive() {
                return Ok(());
            }
            // Fails only if it is gone by now.
            let _ = pidfd_send_signal(&process, signal);
            let sent = Instant::now();
            while self.is_alive() && sent.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        if self.is_alive() {
            bail!("process {} did not end", self.pid);
        }
        Ok(())
    }
}

/// When the process was started; nothing if there is none, or only a zombie.
fn started(pid: i32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and a name may hold both spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 1 0 8421 4096 1";
        assert_eq!(parse_stat(&format!("7 (a) b) S {rest}")), Some(8421));
        assert_eq!(parse_stat(&format!("7 (dockerd) Z {rest}")), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn only_the_recorded_process_is_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let recorded = Recorded::of(child.id()).unwrap();
        let another = Recorded { started: recorded.started + 1, ..recorded };
        another.end(Duration::from_secs(1)).unwrap();
        assert!(recorded.is_alive());
        recorded.end(Duration::from_secs(5)).unwrap();
        assert!(!recorded.is_alive());
        child.wait().unwrap();
    }
}
