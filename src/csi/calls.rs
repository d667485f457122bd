//! The end of every call: one answer, one log line, one observation.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tonic::{Code, Response, Status};

use super::error::Error;

/// Counts the kubelet's calls. The trait keeps metrics libraries out of this module.
pub trait Observer: Send + Sync + 'static {
    /// Called at the end of a call. `method` is the RPC's name, such as `NodePublishVolume`. The set of names is
    /// small and fixed, so a name is fit for a label.
    fn finished(&self, method: &'static str, code: Code, took: Duration);
}

/// Length limit of a handle or a path in the log. The kubelet's own are far shorter.
const LOGGED_CHARS: usize = 512;

/// A received call without an answer so far.
pub(super) struct Call {
    method: &'static str,
    mount: Option<Mount>,
    received: Instant,
    observer: Arc<dyn Observer>,
}

/// The mount that a call changes, in the form of the log.
struct Mount {
    handle: String,
    target: String,
}

impl Call {
    /// A call that changes nothing: logged at debug.
    pub(super) fn query(method: &'static str, observer: &Arc<dyn Observer>) -> Self {
        Self { method, mount: None, received: Instant::now(), observer: Arc::clone(observer) }
    }

    /// A call that changes mounts: logged at info, a failure at warn. The texts are the caller's, and not validated.
    pub(super) fn change(
        method: &'static str,
        handle: &str,
        target: &str,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        let mount = Mount { handle: shorten(handle), target: shorten(target) };
        Self { mount: Some(mount), ..Self::query(method, observer) }
    }

    /// Runs the work, and reports its result to the kubelet, the log and the observer.
    ///
    /// A panic concerns this call alone (V10). It is an uncertain error, because a mount may be left: the kubelet
    /// then goes on trying, and unpublishes at the end.
    pub(super) async fn answer<T>(
        self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let panicked =
            |_| Err(Error::unavailable("failed to finish the call", "the agent panicked, see its log"));
        let done = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked);
        let result = done.map(Response::new).map_err(Status::from);
        let (code, error) = match &result {
            Ok(_) => (Code::Ok, None),
            Err(status) => (status.code(), Some(status.message())),
        };
        let took = self.received.elapsed();
        self.log(code, error, took);
        self.observer.finished(self.method, code, took);
        result
    }

    fn log(&self, code: Code, error: Option<&str>, took: Duration) {
        let (method, ms) = (self.method, took.as_millis());
        match &self.mount {
            None => tracing::debug!(method, ?code, ms, error, "CSI call"),
            Some(Mount { handle, target }) if error.is_none() => {
                tracing::info!(method, handle, target, ?code, ms, "CSI call");
            }
            Some(Mount { handle, target }) => {
                tracing::warn!(method, handle, target, ?code, ms, error, "CSI call failed");
            }
        }
    }
}

/// The log's formatters escape the other characters, so that a newline cannot forge a line.
fn shorten(text: &str) -> String {
    text.chars().take(LOGGED_CHARS).collect()
}
