//! The volumes whose files are being read to seal them (E1). That can take hours, so it goes on in the background.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::api::SharedPersistentVolume;
use crate::cluster::WorkQueue;
use crate::host::{self, Host, VolumeUid};
use crate::telemetry::Metrics;

/// The most volumes that are read at once. More would only make the disk's head jump.
const AT_ONCE: usize = 2;
/// A small volume is read within this time, in one reconcile.
const SHORT: Duration = Duration::from_secs(2);

/// The readings of the node.
#[derive(Clone, Default)]
pub(super) struct Readings(Arc<Mutex<BTreeMap<VolumeUid, Reading>>>);

#[derive(Clone)]
struct Reading {
    stop: Arc<AtomicBool>,
    done: watch::Receiver<Option<host::Result<host::Content>>>,
}

/// The parts of the agent that a reading needs.
pub(super) struct Needs {
    pub(super) host: Arc<Host>,
    pub(super) metrics: Arc<Metrics>,
    /// The end of the reading enqueues the volume here.
    pub(super) queue: Option<Arc<WorkQueue<SharedPersistentVolume>>>,
}

impl Readings {
    /// Ends the reading of a volume's files, if there is one. A later one begins anew.
    pub(super) fn stop(&self, uid: &VolumeUid) {
        if let Some(reading) = self.readings().get(uid) {
            reading.stop.store(true, Ordering::Relaxed);
        }
    }

    /// The outcome of reading a volume's files, begun now unless it goes on; `None` while they are being read, or while others
    /// have to end first.
    pub(super) async fn read(
        &self,
        name: &str,
        uid: &VolumeUid,
        needs: Needs,
    ) -> Option<host::Result<host::Content>> {
        let mut reading = self.of(name, uid, needs)?;
        let done = tokio::time::timeout(SHORT, reading.done.wait_for(Option::is_some)).await.ok()?;
        let sealed = done.map(|done| done.clone());
        self.readings().remove(uid);
        match sealed {
            Ok(Some(Err(host::Error::Stopped)) | None) => None,
            Ok(sealed) => sealed,
            // The sender is gone without an outcome.
            Err(_) => Some(Err(host::Error::Panicked)),
        }
    }

    fn of(&self, name: &str, uid: &VolumeUid, needs: Needs) -> Option<Reading> {
        let mut readings = self.readings();
        if let Some(reading) = readings.get(uid) {
            return Some(reading.clone());
        }
        if readings.len() >= AT_ONCE {
            return None;
        }
        let (to, done) = watch::channel(None);
        let reading = Reading { stop: Arc::default(), done };
        readings.insert(uid.clone(), reading.clone());
        let (name, uid, stop) = (name.to_owned(), uid.clone(), reading.stop.clone());
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            tracing::info!(volume = name, "reads the files of a volume to seal it");
            let sealed = needs.host.seal(&uid, &stop);
            let failed = sealed.as_ref().err().map(host::Error::label);
            needs.metrics.operated("Seal", failed, started.elapsed());
            to.send_replace(Some(sealed));
            needs.queue.inspect(|queue| queue.enqueue_name(name.as_str()));
        });
        Some(reading)
    }

    fn readings(&self) -> MutexGuard<'_, BTreeMap<VolumeUid, Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
