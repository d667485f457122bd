//! How every call ends: one answer, one log line, one observation.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Code, Response, Status};

use super::Error;

/// Hears how each call of the kubelet ended, so that telemetry can count without this module knowing its library.
pub trait Observer: Send + Sync + 'static {
    /// A call has ended. `method` is the RPC's name, such as `NodePublishVolume`: a small fixed set, fit for a label.
    fn finished(&self, method: &'static str, code: Code, took: Duration);
}

/// For those who do not count.
impl Observer for () {
    fn finished(&self, _: &'static str, _: Code, _: Duration) {}
}

/// Longest part of a handle or a path that is logged; what the kubelet sends is far shorter.
const SHOWN: usize = 512;

/// A call that was received and is to be answered.
pub(super) struct Call {
    method: &'static str,
    subject: Option<Subject>,
    received: Instant,
    observer: Arc<dyn Observer>,
}

/// The mount that a call changes, as it stands in the log.
struct Subject {
    handle: String,
    target: String,
}

impl Call {
    /// A call that only asks: logged at debug.
    pub(super) fn query(method: &'static str, observer: &Arc<dyn Observer>) -> Self {
        Self { method, subject: None, received: Instant::now(), observer: Arc::clone(observer) }
    }

    /// A call that changes what is mounted: logged at info, a failure at warn. The texts are the caller's, unchecked.
    pub(super) fn change(
        method: &'static str,
        handle: &str,
        target: &str,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        let subject = Subject { handle: shown(handle), target: shown(target) };
        Self { subject: Some(subject), ..Self::query(method, observer) }
    }

    /// Does the work and tells the kubelet, the log and the observer how it ended.
    pub(super) async fn answer<T>(
        self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let result = work.await.map(Response::new).map_err(Status::from);
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
        match &self.subject {
            None => tracing::debug!(method, ?code, ms, error, "CSI call"),
            Some(Subject { handle, target }) if error.is_none() => {
                tracing::info!(method, handle, target, ?code, ms, "CSI call");
            }
            Some(Subject { handle, target }) => {
                tracing::warn!(method, handle, target, ?code, ms, error, "CSI call failed");
            }
        }
    }
}

/// Cut; the log's formatters escape what is left, so that a newline cannot forge a line.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
