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
        let reconciled = reconcile(name);
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
        tokio::select! {
            Some((name, outcome)) = running.next() => waiting.end(name, outcome, Instant::now()),
            Some((name, at)) = names.recv() => {
                let now = Instant::now();
                waiting.enqueue(name, at, now);
                // Drain the channel, so that a name enqueued many times is kept once.
                while let Ok((name, at)) = names.try_recv() {
                    waiting.enqueue(name, at, now);
                }
            }
            () = something_is_due => waiting.wake(Instant::now()),
        }
    }
}

/// The names that wait or run.
struct Waiting<T> {
    tenant_of: T,
    /// The most names of one tenant that run at once.
    most: usize,
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
        Self { tenant_of, most: at_once - at_once / 4, tenants, turns, later, states, failures }
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
            tenant.has_turn = true;
            self.turns.push_back(name);
        }
    }

    /// Returns the name to run next.
    fn start(&mut self) -> Option<Name> {
        let tenant_name = self.turns.pop_front()?;
        let tenant = self.tenants.get_mut(&tenant_name)?;
        let name = tenant.due.pop_front()?;
        tenant.running += 1;
        tenant.has_turn = false;
        self.states.insert(name.clone(), State::Running { tenant: tenant_name.clone(), again: None });
        self.take_turn(tenant_name);
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
mod tests {
    use std::cell::{Cell, RefCell};

    use futures::future::join_all;
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use kube::{Api, Client};
    use serde_json::json;

    use super::super::write::apply;
    use super::*;

    /// The namespace.
    fn tenant(name: &Name) -> Name {
        name.split('/').next().unwrap_or_default().into()
    }

    #[tokio::test]
    async fn a_name_runs_once_per_burst_and_never_twice_at_a_time() {
        let (queue, names) = WorkQueue::<Pod>::new();
        let enqueue = |name: &str| queue.enqueue_name(name);
        let (log, busy, most) = (RefCell::new(vec![]), Cell::new(0), Cell::new(0));
        let (go, gone) = tokio::sync::watch::channel(false);
        // The name "again" is reconciled again once, without an enqueue.
        let work = async |name: Name| {
            let first = !log.borrow().contains(&name);
            log.borrow_mut().push(name.clone());
            busy.set(busy.get() + 1);
            most.set(most.get().max(busy.get()));
            let _ = gone.clone().wait_for(|go| *go).await;
            busy.set(busy.get() - 1);
            Ok((&*name == "again" && first).then_some(Duration::from_millis(1)))
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
            // "a" and "b" run, and are enqueued again during the run; a third name waits.
            ["a", "b", "a", "again"].into_iter().for_each(enqueue);
            seen(2).await;
            go.send_replace(true);
            // "a" and "b" run once more, and the third name runs twice.
            seen(6).await;
            let count = |name: &str| log.borrow().iter().filter(|n| &***n == name).count();
            assert_eq!((count("a"), count("b"), count("again"), most.get()), (2, 2, 2, 2));
        };
        tokio::select! {
            () = run(names, 2, tenant, &work) => unreachable!("workers run until dropped"),
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
            () = run_workers::<Pod, _>(names, 1, metrics.clone(), tenant, reconcile) => unreachable!("workers run until dropped"),
            () = twice => {}
        }
        assert!(started.elapsed() >= FIRST_PAUSE, "{:?}", started.elapsed());
        let count = "reservoir_reconciles_total{kind=\"Pod\",outcome=\"Conflict\"} 1";
        assert!(metrics.text().contains(count), "{}", metrics.text());
    }

    /// A queue with these names in the order of their arrival.
    fn waiting(at_once: usize, names: impl IntoIterator<Item = String>) -> Waiting<fn(&Name) -> Name> {
        let (mut waiting, now) = (Waiting::new(at_once, tenant as fn(&Name) -> Name), Instant::now());
        names.into_iter().for_each(|name| waiting.enqueue(name.into(), now, now));
        waiting
    }

    /// 5,000 names of one namespace arrive before two names of other namespaces.
    #[test]
    fn a9_namespaces_take_turns() {
        let flood = (0..5000).map(|i| format!("flood/{i}"));
        let mut waiting = waiting(1, flood.chain(["b/1", "c/1", "b/2"].map(str::to_owned)));
        let now = Instant::now();
        let mut run = || {
            let name = waiting.start().unwrap();
            waiting.end(name.clone(), Ok(None), now);
            name.to_string()
        };
        let order: Vec<String> = (0..6).map(|_| run()).collect();
        assert_eq!(order, ["flood/0", "b/1", "c/1", "flood/1", "b/2", "flood/2"]);
        (6..5003).for_each(|_| drop(run()));
        assert!(waiting.states.is_empty() && waiting.tenants.is_empty() && waiting.turns.is_empty());
    }

    #[test]
    fn a9_a_tenant_leaves_a_worker_to_the_others() {
        let flood = (0..9).map(|i| format!("flood/{i}"));
        let mut waiting = waiting(4, flood);
        let started: Vec<Name> = std::iter::from_fn(|| waiting.start()).collect();
        assert_eq!(started.len(), 3, "{started:?}");
        let now = Instant::now();
        waiting.enqueue("b/1".into(), now, now);
        assert_eq!(waiting.start().as_deref(), Some("b/1"));
        waiting.end(started[0].clone(), Ok(None), now);
        assert_eq!(waiting.start().as_deref(), Some("flood/3"));
    }

    /// Due retries of a busy namespace do not pass other namespaces either.
    #[test]
    fn a9_retries_wait_behind_names_of_their_namespace() {
        let mut waiting = waiting(100, (0..100).map(|i| format!("flood/{i}")));
        let now = Instant::now();
        for name in std::iter::from_fn(|| waiting.start()).collect::<Vec<_>>() {
            waiting.end(name, Ok(Some(FIRST_PAUSE)), now);
        }
        assert_eq!(waiting.later.len(), 75);
        let later = now + FIRST_PAUSE;
        waiting.wake(later);
        waiting.enqueue("b/1".into(), later, later);
        let next: Vec<Name> = std::iter::from_fn(|| waiting.start()).take(2).collect();
        assert_eq!(next.iter().map(|name| &**name).collect::<Vec<_>>(), ["flood/75", "b/1"]);
    }

    /// An API server that answers each request with this code and reason, or this text; 0: no answer.
    fn answering(code: u16, answer: Answer) -> Api<Pod> {
        let service = tower::service_fn(move |_: http::Request<Body>| async move {
            let status = |reason, message| {
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "code": code, "reason": reason, "message": message, "details": {"retryAfterSeconds": 7}})
            };
            let answer = match answer {
                Answer::Status(reason) => status(reason, "no").to_string(),
                Answer::Says(reason, message) => status(reason, message).to_string(),
                Answer::Text(text) => text.to_owned(),
            };
            let answer = Body::from(answer.into_bytes());
            let refused = || kube::Error::Service("connection refused".into());
            http::Response::builder().status(code).body(answer).map_err(|_| refused())
        });
        Api::all(Client::new(service, "default"))
    }

    #[derive(Clone, Copy, Debug)]
    enum Answer {
        /// A Status with this reason.
        Status(&'static str),
        /// A Status with this reason and message.
        Says(&'static str, &'static str),
        /// What is no object: of a proxy, or of the API server's own filters.
        Text(&'static str),
    }

    /// Each possible error of the API server, and no answer, for a write whose object is enqueued all the time. The
    /// metrics count each error under its own name. A lost race is retried at once, any other error after a growing
    /// pause of at least a second.
    #[tokio::test]
    async fn no_error_of_the_api_server_makes_a_hot_loop() {
        use Answer::{Says, Status, Text};
        let errors = [
            // Also a connection that ends before the answer, whatever the API server did.
            (0, Text(""), "Unreachable", false),
            (200, Text("{\"kind\": \"Pod\", \"metadata\": {"), "Unreachable", false),
            (200, Text(""), "Unreachable", false),
            (400, Status("BadRequest"), "BadRequest", true),
            (401, Status("Unauthorized"), "Unauthorized", false),
            (403, Status("Forbidden"), "Forbidden", true),
            (403, Says("Forbidden", "exceeded quota: q, requested: requests.storage=1Gi"), "Forbidden", true),
            (403, Says("Forbidden", "ValidatingAdmissionPolicy 'p' denied request"), "Forbidden", true),
            (404, Status("NotFound"), "NotFound", false),
            (405, Status("MethodNotAllowed"), "Api", true),
            (406, Status("NotAcceptable"), "Api", true),
            (409, Status("Conflict"), "Conflict", false),
            (409, Status("AlreadyExists"), "AlreadyExists", false),
            (410, Status("Expired"), "Api", false),
            (413, Status("RequestEntityTooLarge"), "TooLarge", true),
            (413, Text("<html>413 Request Entity Too Large</html>"), "TooLarge", true),
            (415, Status("UnsupportedMediaType"), "Api", true),
            (422, Status("Invalid"), "Invalid", true),
            (429, Status("TooManyRequests"), "TooManyRequests", false),
            // Priority and fairness.
            (429, Text("Too many requests, please try again later."), "TooManyRequests", false),
            (500, Status("InternalError"), "Api", false),
            (500, Says("InternalError", "failed calling webhook \"w\""), "Api", true),
            (502, Text("<html>502 Bad Gateway</html>"), "Api", false),
            (503, Status("ServiceUnavailable"), "Unavailable", false),
            (503, Text("apiserver is shutting down"), "Unavailable", false),
            (504, Status("Timeout"), "Timeout", false),
        ];
        let all = errors.map(|(code, reason, label, refused)| async move {
            let (pods, tries, started) = (answering(code, reason), Cell::new(0), Instant::now());
            let mut pod = Pod::default();
            pod.metadata.name = Some("p".into());
            let (queue, names) = WorkQueue::<Pod>::new();
            let metrics = Arc::new(Metrics::default());
            let reconcile = async |_| {
                tries.set(tries.get() + 1);
                apply(&pods, &pod, "test").await.map(drop).map(|()| None)
            };
            let enqueued = async {
                for _ in 0..150 {
                    queue.enqueue_name("team/p");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                () = run_workers::<Pod, _>(names, 1, metrics.clone(), tenant, reconcile) => unreachable!(),
                () = enqueued => {}
            }
            match label {
                "Conflict" => assert!(tries.get() > 2, "{code} {reason:?}: {} tries", tries.get()),
                _ => {
                    assert!((2..=1 + started.elapsed().as_secs()).contains(&tries.get()), "{code} {reason:?}")
                }
            }
            assert!(metrics.text().contains(&format!("outcome=\"{label}\"")), "{code} {reason:?}");
            let error = apply(&pods, &pod, "test").await.unwrap_err();
            assert_eq!(error.refusal().is_some(), refused, "{code} {reason:?}");
            let asked = if matches!(reason, Text(_)) || label == "Conflict" { 0 } else { 7 };
            assert_eq!(Failure::of(&error).if_unchanged.as_secs(), asked, "{code} {reason:?}");
        });
        join_all(all).await;
    }

    const ERROR: Failure = Failure { if_enqueued: FIRST_PAUSE, if_unchanged: Duration::ZERO };

    /// L1: a success resets the pause.
    #[test]
    fn failures_in_a_row_are_retried_with_growing_pauses() {
        let (mut waiting, mut now) = (waiting(1, ["a/1".to_owned()]), Instant::now());
        let mut pause = |outcome, now: &mut Instant| {
            let name = waiting.start().unwrap();
            waiting.end(name, outcome, *now);
            let (due, _) = waiting.later.first().cloned().unwrap();
            let pause = due - *now;
            *now = due;
            waiting.wake(due);
            pause.as_secs()
        };
        let pauses: Vec<u64> = (0..10).map(|_| pause(Err(ERROR), &mut now)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]);
        let asked = Failure { if_unchanged: Duration::from_secs(500), ..ERROR };
        assert_eq!(pause(Err(asked), &mut now), 500, "the API server asked for it");
        assert_eq!(pause(Ok(Some(Duration::from_secs(60))), &mut now), 60);
        assert_eq!(pause(Err(ERROR), &mut now), 1);
    }

    /// The reconcile itself may have changed the object before the failure.
    #[test]
    fn a_failed_name_that_is_enqueued_rests_for_a_second() {
        let (conflict, now) = (Failure { if_enqueued: Duration::ZERO, ..ERROR }, Instant::now());
        for (failure, rest) in [(ERROR, FIRST_PAUSE), (conflict, Duration::ZERO)] {
            for while_running in [true, false] {
                let mut waiting = waiting(1, ["a/1".to_owned()]);
                let name = waiting.start().unwrap();
                if while_running {
                    waiting.enqueue(name.clone(), now, now);
                }
                waiting.end(name.clone(), Err(failure), now);
                waiting.enqueue(name, now, now);
                assert_eq!(waiting.start().is_some(), rest.is_zero());
            }
        }
    }
}
