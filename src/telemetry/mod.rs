//! Logs, metrics and health (T3).

mod metrics;
mod serve;
mod view;

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

pub use metrics::{Leading, Metrics};
pub use serve::serve;
pub use view::{Sink, View};

/// Logs go to standard error: `RUST_LOG` says what (default `info`), `json` says how.
pub fn init_logs(json: bool) {
    let (filter, wrong) = match log_filter(LevelFilter::INFO) {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    let logs = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let logs = if json { logs.json().boxed() } else { logs.boxed() };
    tracing_subscriber::registry().with(logs.with_filter(filter)).init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG is not understood, info is logged: say for example info,reservoir::cluster=debug");
    }
}

/// What `RUST_LOG` says is to be logged, in general or by module; without it, `default`.
///
/// # Errors
/// If it is not understood.
pub fn log_filter(default: LevelFilter) -> Result<Targets, ParseError> {
    match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter.parse(),
        _ => Ok(Targets::new().with_default(default)),
    }
}

/// An error and everything behind it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
