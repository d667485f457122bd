//! The order of the queue, and its pauses after errors.

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
    // A turn of a quarter of the workers.
    let next: Vec<Name> = std::iter::from_fn(|| waiting.start()).take(26).collect();
    assert_eq!([&*next[0], &*next[25]], ["flood/75", "b/1"]);
}

/// Objects of one tenant often change one ledger, and what starts together shares its write.
#[test]
fn neighbours_start_together() {
    let names = (0..6).flat_map(|i| ["a", "b", "c"].map(|tenant| format!("{tenant}/{i}")));
    let mut waiting = waiting(16, names);
    let started: Vec<String> = (0..9).map(|_| waiting.start().unwrap().to_string()).collect();
    assert_eq!(started, ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "b/2", "b/3", "c/0"]);
    let now = Instant::now();
    // The turn goes on when a worker is free again.
    waiting.end("a/0".into(), Ok(None), now);
    waiting.enqueue("d/0".into(), now, now);
    let started: Vec<String> = (0..6).map(|_| waiting.start().unwrap().to_string()).collect();
    assert_eq!(started, ["c/1", "c/2", "c/3", "a/4", "a/5", "b/4"]);
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
    /// A text, as a proxy or a filter of the API server sends it.
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
