//! Logs, metrics and health (T3).

mod metrics;
mod serve;
mod view;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use metrics::{Leading, Metrics};
pub use serve::serve;
pub use view::{Sink, View};

/// Logs go to standard error: `RUST_LOG` says what (default `info`), `json` says how.
pub fn init_logs(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_ansi(colours);
    if json { logs.json().init() } else { logs.init() }
}

/// An error and everything behind it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
