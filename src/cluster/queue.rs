//! Work queues: a name is reconciled once, however often it is enqueued, and never twice at the same time.
//!
//! `kube::runtime::Controller` does the same, but only for the objects of a `reflector::Store`. [`super::Cache`] is no such
//! store, and keeps only parts of PersistentVolumeClaims, so workers get names. The loop is built on kube's scheduler;
//! kube's runner, which would be the rest, is private.

use std::collections::HashSet;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, select};
use futures::{FutureExt, StreamExt};
use kube::Resource;
use kube::runtime::scheduler::{ScheduleRequest, scheduler};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tracing::Instrument;

use super::cache::{Cache, Name, named};
use super::write::Error;
use crate::telemetry::{self, Metrics};

/// When an object is reconciled again after a lost race. Its new version comes by the watch, and with it the next
/// reconcile: as long as the watch is down, each further try is a write in vain.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);
/// When an object is reconciled again after any other error.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Names of objects of a kind that wait for their reconcile.
pub struct WorkQueue<K>(UnboundedSender<Name>, PhantomData<fn(K)>);

impl<K: Resource<DynamicType = ()>> WorkQueue<K> {
    /// A queue, and the names that come out of it, for [`run_workers`].
    pub fn new() -> (Self, UnboundedReceiver<Name>) {
        let (sender, names) = unbounded_channel();
        (Self(sender, PhantomData), names)
    }

    /// Enqueues an object.
    pub fn enqueue(&self, object: &K) {
        self.enqueue_name(named(object));
    }

    /// Enqueues the object of that name.
    pub fn enqueue_name(&self, name: impl Into<Name>) {
        // It fails when the workers have ended, and then there is nothing to do.
        let _ = self.0.send(name.into());
    }

    /// Enqueues the objects of these names.
    pub fn enqueue_names(&self, names: Vec<Name>) {
        names.into_iter().for_each(|name| self.enqueue_name(name));
    }

    /// Enqueues the objects in the cache that the filter lets through.
    pub fn enqueue_if(&self, cache: &Cache<K>, filter: impl Fn(&K) -> bool) {
        cache.all().iter().filter(|object| filter(object)).for_each(|object| self.enqueue(object));
    }
}

/// Reconciles each object of kind `K` whose name comes, so many at once (0: without a limit), until dropped. `reconcile`
/// returns after what time the object is reconciled again though nothing has changed.
pub async fn run_workers<K: Resource<DynamicType = ()>, R>(
    names: UnboundedReceiver<Name>,
    at_once: u16,
    metrics: Arc<Metrics>,
    reconcile: impl Fn(Name) -> R,
) where
    R: Future<Output = Result<Option<Duration>, Error>>,
{
    let kind = K::kind(&());
    let work = |name: Name| {
        let span = tracing::info_span!("reconcile", %kind, object = &*name);
        let reconciled = reconcile(name);
        let (kind, metrics) = (&kind, &metrics);
        let counted = async move {
            let started = Instant::now();
            let done = reconciled.await;
            metrics.reconciled(kind, done.as_ref().err().map(Error::label), started.elapsed());
            done.unwrap_or_else(|error| Some(retry(&error)))
        };
        counted.instrument(span)
    };
    run(names, at_once.into(), work).await;
}

fn retry(error: &Error) -> Duration {
    if let Error::Conflict(_) = error {
        tracing::debug!("somebody else wrote first; the reconcile starts again");
        return AFTER_CONFLICT;
    }
    tracing::warn!(error = telemetry::chain(error), "the reconcile failed and is tried again");
    AFTER_ERROR
}

async fn run<F>(names: UnboundedReceiver<Name>, at_once: usize, work: impl Fn(Name) -> F)
where
    F: Future<Output = Option<Duration>>,
{
    let request = |message, after| ScheduleRequest { message, run_at: tokio::time::Instant::now() + after };
    let (later, again) = unbounded_channel();
    let new = UnboundedReceiverStream::new(names).map(|name| request(name, Duration::ZERO));
    let mut waiting = pin!(scheduler(select(new, UnboundedReceiverStream::new(again))));
    let mut busy: HashSet<Name> = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        let full = at_once > 0 && running.len() >= at_once;
        let mut next = waiting.as_mut().hold_unless(|name| !full && !busy.contains(name));
        tokio::select! {
            Some((name, after)) = running.next() => {
                busy.remove(&name);
                if let Some(after) = after {
                    let _ = later.send(request(name, after));
                }
            }
            Some(name) = next.next() => {
                busy.insert(name.clone());
                running.push(work(name.clone()).map(move |after| (name, after)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[tokio::test]
    async fn a_name_runs_once_per_burst_and_never_twice_at_a_time() {
        let (sender, names) = unbounded_channel();
        let enqueue = |name: &str| sender.send(Name::from(name)).unwrap();
        let (log, busy, most) = (RefCell::new(vec![]), Cell::new(0), Cell::new(0));
        let (go, gone) = tokio::sync::watch::channel(false);
        // The name "again" comes by itself once.
        let work = async |name: Name| {
            let first = !log.borrow().contains(&name);
            log.borrow_mut().push(name.clone());
            busy.set(busy.get() + 1);
            most.set(most.get().max(busy.get()));
            let _ = gone.clone().wait_for(|go| *go).await;
            busy.set(busy.get() - 1);
            (&*name == "again" && first).then_some(Duration::from_millis(1))
        };
        let seen = async |count: usize| {
            while log.borrow().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(log.borrow().len(), count, "{log:?}");
        };
        let story = async {
            ["a", "a", "b"].into_iter().for_each(enqueue);
            seen(2).await;
            // Both run and are enqueued again; a third name waits.
            ["a", "b", "a", "again"].into_iter().for_each(enqueue);
            seen(2).await;
            go.send_replace(true);
            // Both once more, and the third name twice.
            seen(6).await;
            let count = |name: &str| log.borrow().iter().filter(|n| &***n == name).count();
            assert_eq!((count("a"), count("b"), count("again"), most.get()), (2, 2, 2, 2));
        };
        tokio::select! {
            () = run(names, 2, &work) => unreachable!("workers run until dropped"),
            () = story => {}
        }
    }

    /// S15.
    #[tokio::test]
    async fn a_lost_race_is_reconciled_again_and_counted() {
        let (queue, names) = WorkQueue::<Pod>::new();
        let (metrics, tries) = (Arc::new(Metrics::default()), Cell::new(0));
        let reconcile = async |_| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { Err(Error::Conflict("Pod team/p".into())) } else { Ok(None) }
        };
        queue.enqueue_name("team/p");
        let twice = async {
            while tries.get() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let started = Instant::now();
        tokio::select! {
            () = run_workers::<Pod, _>(names, 1, metrics.clone(), reconcile) => unreachable!("workers run until dropped"),
            () = twice => {}
        }
        assert!(started.elapsed() >= AFTER_CONFLICT, "{:?}", started.elapsed());
        let count = "reservoir_reconciles_total{kind=\"Pod\",outcome=\"Conflict\"} 1";
        assert!(metrics.text().contains(count), "{}", metrics.text());
    }
}
