//! The clocks of a run: simulated time, and clocks that are wrong.

use std::cell::Cell;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    /// By how many seconds each controller's clock is wrong.
    static WRONG: [Cell<i64>; 2] = const { [Cell::new(0), Cell::new(0)] };
}

/// Begins a run.
pub fn begin() {
    START.set(Some(Instant::now()));
    WRONG.with(|wrong| wrong.iter().for_each(|seconds| seconds.set(0)));
}

pub fn start() -> Instant {
    START.get().expect("the run has begun")
}

pub fn elapsed() -> Duration {
    start().elapsed()
}

/// The true time. A run begins at noon of the first day of 2026.
pub fn true_time() -> Timestamp {
    let begin = Timestamp::from_second(1_767_268_800).expect("a valid time");
    begin + elapsed()
}

/// Sets the clock of a controller wrong.
pub fn set_wrong(controller: usize, seconds: i64) {
    WRONG.with(|wrong| wrong[controller].set(seconds));
}

/// The clock of a controller.
pub fn of_controller<const I: usize>() -> Timestamp {
    true_time() + jiff::SignedDuration::from_secs(WRONG.with(|wrong| wrong[I].get()))
}
