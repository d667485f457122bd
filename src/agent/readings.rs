//! The volumes whose files are being read, to seal them (E1) or to verify them (E4). That can take hours, so it goes on in the
//! background.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::api::SharedPersistentVolume;
use crate::cluster::WorkQueue;
use crate::host::{self, Content, Differences, Host, Pace, VolumeUid};
use crate::telemetry::Metrics;
use crate::transfer::{Identity, Peer, Remote};

/// The most volumes that are read at once, and the most that are copied. More would only make the disk's head jump.
const AT_ONCE: usize = 2;
/// A small volume is read within this time, in one reconcile.
const SHORT: Duration = Duration::from_secs(2);

/// The readings of the node.
#[derive(Clone, Default)]
pub(super) struct Readings(Arc<Mutex<BTreeMap<VolumeUid, Reading>>>);

/// The purpose of a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Seal,
    /// Also fills the volume first.
    Copy(Pull),
    Verify {
        /// `spec.verify` at the begin.
        request: Option<String>,
        /// The most bytes in a second.
        bytes_per_second: Option<u64>,
    },
}

/// A copy that is being filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pull {
    pub(super) peer: Peer,
    pub(super) digest: String,
    /// The most bytes in a second.
    pub(super) bytes_per_second: Option<u64>,
}

/// The result of a reading.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Sealed(Content),
    Verified { request: Option<String>, differences: Differences },
}

#[derive(Clone)]
struct Reading {
    purpose: Purpose,
    began: Instant,
    stop: Arc<AtomicBool>,
    done: watch::Receiver<Option<host::Result<Found>>>,
}

/// The parts of the agent that a reading needs.
pub(super) struct Needs {
    pub(super) host: Arc<Host>,
    pub(super) metrics: Arc<Metrics>,
    /// The key for other nodes, if copies are on.
    pub(super) identity: Option<Arc<Identity>>,
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

    /// The time for which a volume's files have been read; `None`: they are not.
    pub(super) fn lasts(&self, uid: &VolumeUid) -> Option<Duration> {
        self.readings().get(uid).map(|reading| reading.began.elapsed())
    }

    /// The outcome of reading a volume's files, begun now unless it goes on; `None` while they are being read, or while others
    /// have to end first.
    pub(super) async fn read(
        &self,
        name: &str,
        uid: &VolumeUid,
        purpose: Purpose,
        needs: Needs,
    ) -> Option<host::Result<Found>> {
        let mut reading = self.of(name, uid, purpose, needs)?;
        let done = tokio::time::timeout(SHORT, reading.done.wait_for(Option::is_some)).await.ok()?;
        let found = done.map(|done| done.clone());
        self.readings().remove(uid);
        match found {
            Ok(Some(Err(host::Error::Stopped)) | None) => None,
            Ok(found) => found,
            // The sender is gone without an outcome.
            Err(_) => Some(Err(host::Error::Panicked)),
        }
    }

    fn of(&self, name: &str, uid: &VolumeUid, purpose: Purpose, needs: Needs) -> Option<Reading> {
        let mut readings = self.readings();
        match readings.get(uid) {
            Some(reading) if reading.purpose.is_that_of(&purpose) => return Some(reading.clone()),
            // One for another purpose ends now. The host lets the new one wait for that.
            Some(reading) => {
                reading.stop.store(true, Ordering::Relaxed);
                readings.remove(uid);
            }
            None => {}
        }
        // A copy may be slow on purpose, and holds up no seal.
        let is_alike = |reading: &&Reading| reading.purpose.is_copy() == purpose.is_copy();
        if readings.values().filter(is_alike).count() >= AT_ONCE {
            return None;
        }
        let (to, done) = watch::channel(None);
        let reading = Reading { purpose: purpose.clone(), began: Instant::now(), stop: Arc::default(), done };
        readings.insert(uid.clone(), reading.clone());
        let (name, uid, stop) = (name.to_owned(), uid.clone(), reading.stop.clone());
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            tracing::info!(volume = name, ?purpose, "reads the files of a volume");
            let operation = purpose.operation();
            let found = read(&needs, &uid, purpose, &stop);
            let failed = found.as_ref().err().map(host::Error::label);
            needs.metrics.operated(operation, failed, started.elapsed());
            to.send_replace(Some(found));
            needs.queue.inspect(|queue| queue.enqueue_name(name.as_str()));
        });
        Some(reading)
    }

    fn readings(&self) -> MutexGuard<'_, BTreeMap<VolumeUid, Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Purpose {
    /// True if a reading for this purpose serves the other one. A newer request gets a reading of its own afterwards.
    fn is_that_of(&self, other: &Self) -> bool {
        match (self, other) {
            // An agent that started anew has another address and key, and the old connection ends by itself.
            (Self::Copy(one), Self::Copy(other)) => one.peer.volume == other.peer.volume,
            (one, other) => {
                matches!((one, other), (Self::Seal, Self::Seal) | (Self::Verify { .. }, Self::Verify { .. }))
            }
        }
    }

    fn is_copy(&self) -> bool {
        matches!(self, Self::Copy(_))
    }

    /// The operation in metrics.
    fn operation(&self) -> &'static str {
        match self {
            Self::Seal => "Seal",
            Self::Copy(_) => "Copy",
            Self::Verify { .. } => "Verify",
        }
    }
}

/// Reads the files; blocks.
fn read(needs: &Needs, uid: &VolumeUid, purpose: Purpose, stop: &Arc<AtomicBool>) -> host::Result<Found> {
    let host = &needs.host;
    match purpose {
        Purpose::Copy(Pull { peer, digest, bytes_per_second }) => {
            let none = || host::Error::Source("copies are off on this node".to_owned());
            let mut source = Remote::new(peer, needs.identity.clone().ok_or_else(none)?, stop.clone());
            let pace = Pace { bytes_per_second, ..Pace::full(stop) };
            host.fill_copy(uid, &digest, &mut source, pace).map(Found::Sealed)
        }
        Purpose::Seal => host.seal(uid, stop).map(Found::Sealed),
        Purpose::Verify { request, bytes_per_second } => {
            let pace = Pace { bytes_per_second, from_disk: true, ..Pace::full(stop) };
            host.verify(uid, pace).map(|differences| Found::Verified { request, differences })
        }
    }
}
