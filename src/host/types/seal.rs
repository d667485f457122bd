//! The seal of a volume, in its record (E1).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::host::error::{Error, Result};

/// The longest pause between two looks at `stop`.
const LOOK: Duration = Duration::from_millis(200);

/// A volume that admits no writer any more (E1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// The filesystem itself is read-only, for every mount of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub filesystem_read_only: bool,
    /// The content, once the volume is sealed. From then on the seal stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// The content of a sealed volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// `blake3:` and the hash of the manifest in hexadecimal digits.
    pub digest: String,
    /// The regular files; a file with several names counts once.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
}

/// The differences between the files of a sealed volume and its manifest (E4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// The number of names that differ.
    pub count: u64,
    /// The first ones, each a path and what differs.
    pub first: Vec<String>,
}

impl Differences {
    /// The most differences that are named.
    const NAMED: usize = 5;

    /// Adds a difference.
    pub(crate) fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::NAMED {
            self.first.push(what());
        }
    }
}

/// The speed at which the files of a volume are read, and their source.
#[derive(Clone, Copy, Debug)]
pub struct Pace<'a> {
    /// Ends the work early once it is true.
    pub stop: &'a AtomicBool,
    /// The most bytes in a second, on average. `None`: as fast as the disk reads.
    pub bytes_per_second: Option<u64>,
    /// The bytes are read from the disk, even if the kernel has them in memory. Pages that a process has mapped are not.
    pub from_disk: bool,
}

impl<'a> Pace<'a> {
    /// As fast as possible, also from memory.
    pub fn full(stop: &'a AtomicBool) -> Self {
        Self { stop, bytes_per_second: None, from_disk: false }
    }

    /// # Errors
    /// [`Error::Stopped`].
    pub(crate) fn ensure_wanted(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Waits as long as the pace wants after so many bytes since then.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub(crate) fn rest(&self, bytes: u64, since: Instant) -> Result<()> {
        loop {
            self.ensure_wanted()?;
            match self.pause(bytes, since.elapsed()) {
                Duration::ZERO => return Ok(()),
                pause => std::thread::sleep(pause.min(LOOK)),
            }
        }
    }

    /// The pause after so many bytes in that time.
    fn pause(&self, read: u64, elapsed: Duration) -> Duration {
        let due = self.bytes_per_second.map(|most| Duration::from_secs_f64(read as f64 / most.max(1) as f64));
        due.unwrap_or_default().saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4_a_pace_has_pauses() {
        let stop = AtomicBool::new(false);
        let seconds = Duration::from_secs;
        assert_eq!(Pace::full(&stop).pause(1 << 40, seconds(0)), seconds(0));
        let slow = Pace { bytes_per_second: Some(1 << 20), ..Pace::full(&stop) };
        assert_eq!(slow.pause(0, seconds(0)), seconds(0));
        assert_eq!(slow.pause(5 << 20, seconds(2)), seconds(3));
        assert_eq!(slow.pause(5 << 20, seconds(9)), seconds(0));
    }
}
