//! Work queues: a name is reconciled once for many enqueues, and never twice at the same time.
//!
//! Tenants take turns (A9): names of one namespace or role wait behind each other, and not ahead of other tenants. A
//! name whose reconcile fails is retried with growing pauses. `kube::runtime::Controller` has no turns, and needs a
//! `reflector::Store`, which [`super::Cache`] does not provide.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::{Future, pending};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kube::Resource;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::cache::{Cache, Name, named};
use super::write::Error;
use crate::telemetry::Metrics;

/// The pause after the first failure of a reconcile. Each further failure in a row doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries, unless the API server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(256);

/// Names of objects of a kind that wait for their reconcile.
pub struct WorkQueue<K> {
    names: UnboundedSender<(Name, Instant)>,
    gather: Duration,
    kind: PhantomData<fn(K)>,
}

/// The receiving end of a [`WorkQueue`]: names, each with the time at which the name is due.
pub type Enqueued = UnboundedReceiver<(Name, Instant)>;

impl<K: Resource<DynamicType = ()>> WorkQueue<K> {
    /// A queue, and its receiving end for [`run_workers`].
    pub fn new() -> (Self, Enqueued) {
        Self::gathering(Duration::ZERO)
    }

    /// A queue whose names become due after `gather`, so that simultaneous changes cause one reconcile.
    pub fn gathering(gather: Duration) -> (Self, Enqueued) {
        let (names, enqueued) = unbounded_channel();
        (Self { names, gather, kind: PhantomData }, enqueued)
    }

    /// Enqueues an object.
    pub fn enqueue(&self, object: &K) {
        self.enqueue_name(named(object));
    }

    /// Enqueues the object of that name.
    pub fn enqueue_name(&self, name: impl Into<Name>) {
        self.enqueue_after(name, self.gather);
    }

    /// Enqueues the object of that name, which is due after that time.
    pub fn enqueue_after(&self, name: impl Into<Name>, after: Duration) {
        // The send fails only after the workers have ended.
        let _ = self.names.send((name.into(), Instant::now() + after));
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

/// Reconciles each enqueued object of kind `K`, at most `at_once` at a time, until dropped. `tenant` returns the
/// namespace or role of an object. `reconcile` returns the time after which an unchanged object is reconciled again.
pub async fn run_workers<K: Resource<DynamicType = ()>, R>(
    names: Enqueued,
    at_once: u16,
    metrics: Arc<Metrics>,
    tenant: impl Fn(&Name) -> Name,
    reconcile: impl Fn(Name) -> R,
) where
    R: Future<Output = Result<Option<Duration>, Error>>,
{
    let kind = K::kind(&());
    let work = |name: Name| {
        let span = tracing::info_span!("reconcile", %kind, object = &*name);
        // One allocation: a reconcile's state is large, and would be moved as a whole at each layer around it.
        let reconciled = Box::pin(reconcile(name));
        let (kind, metrics) = (&kind, &metrics);
        let counted = async move {
            let started = Instant::now();
            let done = reconciled.await;
            metrics.reconciled(kind, done.as_ref().err().map(Error::label), started.elapsed());
            done.map_err(|error| Failure::of(&error))
        };
        counted.instrument(span)
    };
    run(names, at_once.into(), tenant, work).await;
}

/// The pauses after a failed reconcile.
#[derive(Clone, Copy)]
struct Failure {
    /// The minimum pause if the object is enqueued in the meantime.
    if_enqueued: Duration,
    /// The minimum pause if nothing enqueues the object.
    if_unchanged: Duration,
}

impl Failure {
    fn of(error: &Error) -> Self {
        if let Error::Conflict(_) = error {
            tracing::debug!("another writer was first; the reconcile starts again");
            // The watch delivers the other writer's version, and that change enqueues the object.
            return Self { if_enqueued: Duration::ZERO, if_unchanged: Duration::ZERO };
        }
        tracing::warn!(error = error.report(), "the reconcile failed and is tried again");
        // The reconcile may have written before the failure, and the write enqueues the object. Without a pause, such a
        // reconcile would loop.
        Self { if_enqueued: FIRST_PAUSE, if_unchanged: error.retry_after() }
    }
}

async fn run<F>(mut names: Enqueued, at_once: usize, tenant: impl Fn(&Name) -> Name, work: impl Fn(Name) -> F)
where
    F: Future<Output = Result<Option<Duration>, Failure>>,
{
    let mut waiting = Waiting::new(at_once, tenant);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < at_once
            && let Some(name) = waiting.start()
        {
            running.push(work(name.clone()).map(move |outcome| (name, outcome)));
        }
        let due = waiting.later.first().map(|(at, _)| *at);
        let something_is_due = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        // In this order nothing starves: without new names, both the running and the due ones come to an end. A random order
        // would make no run of the simulation like another.
        tokio::select! {
            biased;
            Some((name, outcome)) = running.next() => waiting.end(name, outcome, Instant::now()),
            () = something_is_due => waiting.wake(Instant::now()),
            Some((name, at)) = names.recv() => {
                let now = Instant::now();
                waiting.enqueue(name, at, now);
                // Drain the channel, so that a name enqueued many times is kept once.
                while let Ok((name, at)) = names.try_recv() {
                    waiting.enqueue(name, at, now);
                }
            }
        }
    }
}

/// The names that wait or run.
struct Waiting<T> {
    tenant_of: T,
    /// The most names of one tenant that run at once.
    most: usize,
    /// The most names of one tenant that start in one turn. Neighbours often change one object, and share its write.
    turn: usize,
    tenants: HashMap<Name, Tenant>,
    /// The tenants that have a name to start, in the order of their turns.
    turns: VecDeque<Name>,
    /// The names that are not due yet, each with its due time.
    later: BTreeSet<(Instant, Name)>,
    states: HashMap<Name, State>,
    failures: HashMap<Name, Failures>,
}

#[derive(Default)]
struct Tenant {
    due: VecDeque<Name>,
    running: usize,
    has_turn: bool,
    /// The number of names that started in the present turn.
    started: usize,
}

enum State {
    Due,
    Later(Instant),
    Running { tenant: Name, again: Option<Instant> },
}

/// Consecutive failures of a name.
struct Failures {
    count: u32,
    not_before: Instant,
}

impl<T: Fn(&Name) -> Name> Waiting<T> {
    /// One tenant gets at most three quarters of the workers, so a tenant with slow reconciles never blocks the others.
    fn new(at_once: usize, tenant_of: T) -> Self {
        let (tenants, turns, later, states, failures) = Default::default();
        let (most, turn) = (at_once - at_once / 4, (at_once / 4).max(1));
        Self { tenant_of, most, turn, tenants, turns, later, states, failures }
    }

    /// Schedules the name for that time, or keeps an earlier time.
    fn enqueue(&mut self, name: Name, at: Instant, now: Instant) {
        let at = self.failures.get(&name).map_or(at, |failures| at.max(failures.not_before));
        match self.states.get_mut(&name) {
            Some(State::Due) => {}
            Some(State::Running { again, .. }) => *again = Some(again.map_or(at, |again| again.min(at))),
            Some(State::Later(known)) if *known <= at => {}
            Some(State::Later(known)) => {
                self.later.remove(&(*known, name.clone()));
                self.schedule(name, at, now);
            }
            None => self.schedule(name, at, now),
        }
    }

    fn schedule(&mut self, name: Name, at: Instant, now: Instant) {
        if at > now {
            self.states.insert(name.clone(), State::Later(at));
            self.later.insert((at, name));
            return;
        }
        self.states.insert(name.clone(), State::Due);
        let tenant = (self.tenant_of)(&name);
        self.tenants.entry(tenant.clone()).or_default().due.push_back(name);
        self.take_turn(tenant);
    }

    /// Puts the tenant at the end of the turns, if the tenant has a name to start and no turn yet.
    fn take_turn(&mut self, name: Name) {
        let Some(tenant) = self.tenants.get_mut(&name) else { return };
        if tenant.due.is_empty() && tenant.running == 0 {
            self.tenants.remove(&name);
        } else if !tenant.due.is_empty() && tenant.running < self.most && !tenant.has_turn {
            (tenant.has_turn, tenant.started) = (true, 0);
            self.turns.push_back(name);
        }
    }

    /// Returns the name to run next.
    fn start(&mut self) -> Option<Name> {
        let tenant_name = self.turns.front()?.clone();
        let tenant = self.tenants.get_mut(&tenant_name)?;
        let name = tenant.due.pop_front()?;
        (tenant.running, tenant.started) = (tenant.running + 1, tenant.started + 1);
        self.states.insert(name.clone(), State::Running { tenant: tenant_name.clone(), again: None });
        if tenant.started == self.turn || tenant.due.is_empty() || tenant.running == self.most {
            tenant.has_turn = false;
            self.turns.pop_front();
            self.take_turn(tenant_name);
        }
        Some(name)
    }

    /// Records the outcome of a run.
    fn end(&mut self, name: Name, outcome: Result<Option<Duration>, Failure>, now: Instant) {
        let Some(State::Running { tenant, again }) = self.states.remove(&name) else { return };
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.running -= 1;
        }
        self.take_turn(tenant);
        let (unchanged, enqueued) = match outcome {
            Ok(after) => {
                self.failures.remove(&name);
                (after.map(|after| now + after), again)
            }
            Err(failure) => {
                let not_before = now + failure.if_enqueued;
                let failures = self.failures.entry(name.clone()).or_insert(Failures { count: 0, not_before });
                let pause = FIRST_PAUSE.saturating_mul(1 << failures.count.min(8)).min(LONGEST_PAUSE);
                *failures = Failures { count: failures.count + 1, not_before };
                let again = again.map(|again| again.max(not_before));
                (Some(now + pause.max(failure.if_unchanged)), again)
            }
        };
        if let Some(at) = unchanged.into_iter().chain(enqueued).min() {
            self.schedule(name, at, now);
        }
    }

    /// Moves the names that are due now to their tenants.
    fn wake(&mut self, now: Instant) {
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((at, name)) = self.later.pop_first()
        {
            self.schedule(name, at, now);
        }
    }
}

#[cfg(test)]
mod tests;
