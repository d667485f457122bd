//! Progress on the terminal: the current work, and its duration.

use std::time::{Duration, Instant};

/// The interval of reports on work that takes long.
const EVERY: Duration = Duration::from_secs(15);

/// Prints a line about the tool's own work.
pub fn say(line: impl std::fmt::Display) {
    eprintln!("reservoir-cluster: {line}");
}

/// One piece of work: a line when it starts, one every 15 seconds, one with the seconds it took.
#[derive(Debug)]
pub struct Progress {
    what: String,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// Prints that `what` starts.
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        say(format_args!("{what} ..."));
        let now = Instant::now();
        Self { what, started: now, said: now }
    }

    /// Prints the duration so far, once in each interval.
    pub fn tick(&mut self) {
        if self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            say(format_args!("{} ... {} s so far", self.what, self.started.elapsed().as_secs()));
        }
    }

    /// Prints the end and the whole duration.
    pub fn done(self) {
        say(format_args!("{}: done in {:.1} s", self.what, self.started.elapsed().as_secs_f64()));
    }
}
