//! One write for all simultaneous changes of an object's status.
//!
//! The callers decide one after another. Each caller decides on the status that earlier callers produced, and the last
//! caller writes. Callers that come during the write decide on its outcome. The compare-and-swap of each write decides safety. A
//! caller gets its answer only after the write. A refusal waits too, since the refusal may depend on an unwritten change. After
//! a failed write each caller decides again.
//!
//! A volume alone takes half as many writes again as one beside 19 others of its reservation (docs/performance.md). A keyed
//! lock is not enough: a caller must see the number of callers behind it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Api;
use tokio::sync::oneshot;

use super::write::{Error, Kind, Owned, get, write_status};
use crate::api::CONTROLLER_MANAGER;

/// The most decisions in one write, so that the first caller is not delayed without bound.
const MOST: usize = 64;
/// The most decisions of one caller before its reconcile starts again.
const ATTEMPTS: usize = 5;

/// The status writes of one controller to the objects of a cluster-scoped kind.
pub struct StatusBatcher<K>(Mutex<HashMap<String, Row<K>>>);

/// The outcome of one decision.
enum Outcome<R> {
    /// No object has that name.
    NoObject,
    /// All later callers were dropped, and the batch with them: the caller decides again.
    Unwritten,
    /// The batch with this decision was written.
    Decided(Result<(), R>),
}

/// The callers for one object.
struct Row<K> {
    callers: usize,
    batch: Shared<K>,
}

/// The batch of one object. The caller that decides holds the lock.
type Shared<K> = Arc<tokio::sync::Mutex<Option<Batch<K>>>>;

/// An unwritten status, and the callers that wait for the write.
struct Batch<K> {
    read: K,
    decided: K,
    /// False: `read` is the outcome of the batch before. A further write shows that it is the present state.
    is_live: bool,
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl<K> Default for StatusBatcher<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Kind + Owned> StatusBatcher<K> {
    /// Sets the status of the object of that name to the result of `decide`, called with a live read or with the outcome of a
    /// write that was under way. A lost race calls `decide` again; `Ok(None)` leaves the status unchanged. Returns `None` if no object has that name.
    pub async fn update<R>(
        &self,
        api: &Api<K>,
        name: &str,
        decide: impl Fn(&K) -> Result<Option<K::Status>, R>,
    ) -> Result<Option<Result<(), R>>, Error> {
        let mut attempts = 1;
        loop {
            match self.once(api, name, &decide).await {
                Ok(Outcome::Decided(decided)) => return Ok(Some(decided)),
                Ok(Outcome::NoObject) => return Ok(None),
                Ok(Outcome::Unwritten) => {}
                Err(Error::Conflict(_)) if attempts < ATTEMPTS => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn once<R>(
        &self,
        api: &Api<K>,
        name: &str,
        decide: impl Fn(&K) -> Result<Option<K::Status>, R>,
    ) -> Result<Outcome<R>, Error> {
        let (caller, shared) = self.join(name);
        let mut shared = shared.lock_owned().await;
        let mut batch = match shared.take() {
            Some(batch) => batch,
            None => match get(api, name).await? {
                Some(read) => Batch { decided: read.clone(), read, is_live: true, waiting: vec![] },
                None => return Ok(Outcome::NoObject),
            },
        };
        let decided = decide(&batch.decided).map(|status| {
            if status.is_some() {
                *batch.decided.status_mut() = status;
            }
        });
        let written = if caller.is_last() || batch.waiting.len() == MOST {
            let status = batch.decided.status().cloned().unwrap_or_default();
            let written = write_status(api, &batch.read, &status, CONTROLLER_MANAGER).await;
            // No write has shown that the outcome of an earlier write is the present state: all decide again on a live read.
            if matches!(written, Ok(None)) && !batch.is_live {
                return Ok(Outcome::Unwritten);
            }
            let told = written.as_ref().map(drop).map_err(Clone::clone);
            batch.waiting.into_iter().for_each(|caller| drop(caller.send(told.clone())));
            if let Ok(Some(now)) = written
                && !caller.is_last()
            {
                *shared = Some(Batch { decided: now.clone(), read: now, is_live: false, waiting: vec![] });
            }
            told
        } else {
            let (answer, written) = oneshot::channel();
            batch.waiting.push(answer);
            *shared = Some(batch);
            // The order matters: the next caller to get the lock may be the last one, and checks that by the count.
            drop(caller);
            drop(shared);
            match written.await {
                Ok(written) => written,
                Err(_) => return Ok(Outcome::Unwritten),
            }
        };
        written.map(|()| Outcome::Decided(decided))
    }

    fn join<'a>(&'a self, name: &'a str) -> (Caller<'a, K>, Shared<K>) {
        let mut rows = self.rows();
        let row = rows.entry(name.to_owned()).or_insert_with(|| Row { callers: 0, batch: Arc::default() });
        row.callers += 1;
        (Caller { batcher: self, name }, row.batch.clone())
    }
}

impl<K> StatusBatcher<K> {
    fn rows(&self) -> MutexGuard<'_, HashMap<String, Row<K>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as a caller of its row until dropped.
struct Caller<'a, K> {
    batcher: &'a StatusBatcher<K>,
    name: &'a str,
}

impl<K> Caller<'_, K> {
    fn is_last(&self) -> bool {
        self.batcher.rows()[self.name].callers == 1
    }
}

impl<K> Drop for Caller<'_, K> {
    fn drop(&mut self) {
        let mut rows = self.batcher.rows();
        if let Some(row) = rows.get_mut(self.name) {
            row.callers -= 1;
            if row.callers == 0 {
                rows.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use futures::future::join_all;
    use http::{Method, Request, Response, StatusCode};
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{DiskReservation, LedgerEntry};
    use crate::plan::ledger::{Ledger, Refused};
    use crate::plan::testing::{gi, ledger_entry, reserved};

    /// An API server with one reservation. The server counts the writes.
    struct Server {
        object: DiskReservation,
        version: u64,
        reads: usize,
        writes: usize,
        /// The number of further writes that lose a race.
        faster: usize,
    }

    impl Server {
        fn start(faster: usize) -> (Arc<Mutex<Self>>, Api<DiskReservation>) {
            let server =
                Self { object: reserved("r", "eng", 10, &[]), version: 1, reads: 0, writes: 0, faster };
            let server = Arc::new(Mutex::new(server));
            let answers = server.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = answers.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect_bytes().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let (status, answer) = server.lock().unwrap().answer(&head.method, &body);
                    let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                    Ok::<_, kube::Error>(Response::builder().status(status).body(answer).unwrap())
                }
            });
            (server, Api::all(Client::new(service, "default")))
        }

        fn answer(&mut self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
            if method == Method::PATCH {
                let patch: Value = serde_json::from_slice(body).unwrap();
                if self.faster > 0 {
                    (self.faster, self.version) = (self.faster - 1, self.version + 1);
                }
                if patch["metadata"]["resourceVersion"] != json!(self.version.to_string()) {
                    let conflict = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Failure", "reason": "Conflict", "code": 409, "message": "too late"});
                    return (StatusCode::CONFLICT, conflict);
                }
                self.object.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
                (self.version, self.writes) = (self.version + 1, self.writes + 1);
            } else {
                self.reads += 1;
            }
            self.object.metadata.resource_version = Some(self.version.to_string());
            (StatusCode::OK, serde_json::to_value(&self.object).unwrap())
        }

        fn entries(&self) -> Vec<LedgerEntry> {
            self.object.status.clone().unwrap().volumes
        }
    }

    /// Takes one of ten GiB for the volume of that name.
    async fn take(
        batcher: &StatusBatcher<DiskReservation>,
        api: &Api<DiskReservation>,
        name: String,
    ) -> Result<bool, Error> {
        let decide = |r: &DiskReservation| {
            let status = r.status.clone().unwrap_or_default();
            let entry = LedgerEntry { size: gi(1), ..ledger_entry(&name, "eng", 1) };
            let volumes = Ledger::new(&status.volumes, 10 << 30).take(entry)?.into_entries();
            Ok::<_, Refused>(Some(crate::api::DiskReservationStatus { volumes, ..status }))
        };
        Ok(batcher.update(api, "r", decide).await?.unwrap().is_ok())
    }

    /// S1, S15: the space is enough for ten of twenty callers. The other ten are refused, also after lost races.
    #[tokio::test]
    async fn concurrent_changes_are_decided_in_a_row_and_written_once() {
        for faster in [0, 3] {
            let (server, api) = Server::start(faster);
            let batcher = StatusBatcher::default();
            let all = join_all((0..20).map(|i| take(&batcher, &api, format!("v{i:02}")))).await;
            let taken: BTreeSet<String> = all
                .into_iter()
                .enumerate()
                .filter_map(|(i, taken)| taken.unwrap().then(|| format!("v{i:02}")))
                .collect();
            let server = server.lock().unwrap();
            let entries: BTreeSet<String> = server.entries().into_iter().map(|entry| entry.name).collect();
            assert_eq!(
                (taken.len(), &taken),
                (10, &entries),
                "exactly those that were accepted are in the ledger"
            );
            assert!(server.writes <= 2, "{} writes", server.writes);
            assert!(batcher.rows().is_empty(), "a row is left behind");
        }
    }

    /// S15.
    #[tokio::test]
    async fn a_caller_that_is_dropped_fails_no_other() {
        let (server, api) = Server::start(0);
        let batcher = StatusBatcher::default();
        let mut callers: Vec<_> =
            (0..6).map(|i| Box::pin(take(&batcher, &api, format!("v{i}")))).map(Some).collect();
        // The first caller reads, and the others wait.
        for caller in callers.iter_mut().flatten() {
            assert!(futures::poll!(caller).is_pending());
        }
        (callers[0], callers[5]) = (None, None);
        for taken in join_all(callers.into_iter().flatten()).await {
            assert!(taken.unwrap());
        }
        let names: Vec<String> =
            server.lock().unwrap().entries().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["v1", "v2", "v3", "v4"]);
    }

    /// Starts that many callers, each two milliseconds after the one before: some come during the read, and the others during
    /// the write.
    async fn one_after_another(
        count: u64,
        batcher: &StatusBatcher<DiskReservation>,
        api: &Api<DiskReservation>,
    ) -> Vec<bool> {
        let one = |i| async move {
            tokio::time::sleep(Duration::from_millis(2 * i)).await;
            take(batcher, api, format!("v{i:02}")).await.unwrap()
        };
        join_all((0..count).map(one)).await
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_during_a_write_decide_on_its_outcome() {
        let (server, api) = Server::start(0);
        let batcher = StatusBatcher::default();
        assert_eq!(one_after_another(10, &batcher, &api).await, [true; 10]);
        let server = server.lock().unwrap();
        assert_eq!(server.entries().len(), 10);
        assert!(server.reads == 1 && server.writes > 2, "{} reads, {} writes", server.reads, server.writes);
    }

    /// S15: another one wrote since, and has freed what the outcome of the last write shows as taken.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_decided_on_a_live_read() {
        let (server, api) = Server::start(0);
        let batcher = StatusBatcher::default();
        let frees = async {
            // The first write is under way until the tenth millisecond.
            tokio::time::sleep(Duration::from_millis(11)).await;
            let mut server = server.lock().unwrap();
            server.object.status.as_mut().unwrap().volumes.clear();
            server.version += 1;
        };
        let fills = async {
            let all = join_all((0..10).map(|i| take(&batcher, &api, format!("v{i}")))).await;
            assert!(all.into_iter().all(|taken| taken.unwrap()));
        };
        let comes_late = async {
            tokio::time::sleep(Duration::from_millis(7)).await;
            take(&batcher, &api, "late".to_owned()).await.unwrap()
        };
        let (_, (), late) = futures::join!(frees, fills, comes_late);
        assert!(late, "there is space by now");
    }
}
