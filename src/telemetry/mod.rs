//! Logs, metrics and health (T3).

mod metrics;
mod serve;
mod view;

use std::io::{IsTerminal, Write};

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
    let logs = fmt::layer().with_writer(|| OneLine(std::io::stderr()));
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    let logs = if json { logs.json().boxed() } else { logs.boxed() };
    tracing_subscriber::registry().with(logs.with_filter(filter)).init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG cannot be parsed, the level is info: set it for example to info,reservoir::cluster=debug");
    }
}

/// Writes each event as one line. A line break in a value, such as a user's path, cannot forge a log line (S17).
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// The log's formatter passes each event in one call.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event.strip_suffix(b"\n").unwrap_or(event));
        let line = text.replace('\n', "\\n").replace('\r', "\\r") + "\n";
        self.0.write_all(line.as_bytes()).map(|()| event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn s17_no_value_forges_a_line_of_the_log() {
        let log = Log::default();
        let writer = log.clone();
        let logs = fmt::layer().with_ansi(false).with_writer(move || OneLine(writer.clone()));
        let path = "/srv/a\r\n2026-01-01 INFO all is well";
        let error = std::io::Error::other(format!("{path} is no directory"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(logs), || {
            tracing::warn!(%error, path, "failed to adopt {path}");
            tracing::info!("the next line");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with("the next line\n") && !text.contains('\r'), "{text}");
    }
}
