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

/// Logs to standard error, as JSON if `json` is set. `RUST_LOG` filters the lines; its default is `info`.
pub fn init_logs(json: bool) {
    let (filter, wrong) = match log_filter(LevelFilter::INFO) {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    let logs = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let logs = if json { logs.json().boxed() } else { logs.boxed() };
    tracing_subscriber::registry().with(logs.with_filter(filter)).init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG cannot be parsed, the level is info: set it for example to info,reservoir::cluster=debug");
    }
}

/// The filter in `RUST_LOG`, in general or by module; `default` if it is not set.
///
/// # Errors
/// If `RUST_LOG` cannot be parsed.
pub fn log_filter(default: LevelFilter) -> Result<Targets, ParseError> {
    match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter.parse(),
        _ => Ok(Targets::new().with_default(default)),
    }
}

/// An error and its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
