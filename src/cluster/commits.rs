//! Commits to one object that are asked for at the same time: one write for all of them.
//!
//! Each decides on what those before it decided, in a row, and the last one writes; what is safe is decided by the
//! compare-and-swap of that write. None is told how it went before the write is done, a refusal included: it may rest on
//! what one before it wanted. When the write fails, each decides again on what is there then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Api;
use tokio::sync::oneshot;

use super::write::{Error, Kind, Owned, get, write_status};
use crate::api::CONTROLLER_MANAGER;

/// How many decisions are in one write at most, so that the first of them does not wait for ever.
const MOST: usize = 64;
/// How often one is decided again before its reconcile comes again as a whole.
const ATTEMPTS: usize = 5;

/// The commits of one controller to the objects of a kind, which is not namespaced.
pub struct Commits<K>(Turns<K>);

type Turns<K> = Mutex<HashMap<String, Arc<Turn<K>>>>;

/// Those who want to commit to one object.
struct Turn<K> {
    /// Counted under the lock of the map.
    here: AtomicUsize,
    batch: tokio::sync::Mutex<Option<Batch<K>>>,
}

/// What is to be written, and who waits for that.
struct Batch<K> {
    read: K,
    decided: K,
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl<K> Default for Commits<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Kind + Owned> Commits<K> {
    /// Reads the object by quorum and commits what `decide` makes of it, again when somebody was faster. `decide` says
    /// `Ok(None)` when nothing is to be written. `None` in the result: there is no such object.
    pub async fn update<R>(
        &self,
        api: &Api<K>,
        name: &str,
        decide: impl Fn(&K) -> Result<Option<K::Status>, R>,
    ) -> Result<Option<Result<(), R>>, Error> {
        let mut attempts = 1;
        loop {
            match self.once(api, name, &decide).await {
                Err(Error::Conflict(_)) if attempts < ATTEMPTS => attempts += 1,
                other => return other,
            }
        }
    }

    async fn once<R>(
        &self,
        api: &Api<K>,
        name: &str,
        decide: impl Fn(&K) -> Result<Option<K::Status>, R>,
    ) -> Result<Option<Result<(), R>>, Error> {
        let place = Place::take(&self.0, name);
        let row = place.turn.clone();
        let mut turn = row.batch.lock().await;
        let mut batch = match turn.take() {
            Some(batch) => batch,
            None => match get(api, name).await? {
                Some(read) => Batch { decided: read.clone(), read, waiting: vec![] },
                None => return Ok(None),
            },
        };
        let said = decide(&batch.decided).map(|status| {
            if status.is_some() {
                *batch.decided.status_mut() = status;
            }
        });
        let written = if place.is_last() || batch.waiting.len() == MOST {
            let status = batch.decided.status().cloned().unwrap_or_default();
            let written = write_status(api, &batch.read, &status, CONTROLLER_MANAGER).await.map(drop);
            batch.waiting.into_iter().for_each(|waits| drop(waits.send(written.clone())));
            written
        } else {
            let (told, written) = oneshot::channel();
            batch.waiting.push(told);
            *turn = Some(batch);
            // Whoever is left to write has to find itself the last one; and what is left behind goes with the row.
            drop(place);
            drop(turn);
            drop(row);
            // Nobody writes it when those behind were dropped.
            written.await.unwrap_or_else(|_| Err(Error::Conflict(format!("{} {name}", K::kind(&())))))
        };
        written.map(|()| Some(said))
    }
}

/// A place in the row of those who want to commit to one object, until it is dropped.
struct Place<'a, K> {
    turns: &'a Turns<K>,
    name: &'a str,
    turn: Arc<Turn<K>>,
}

impl<'a, K> Place<'a, K> {
    fn take(turns: &'a Turns<K>, name: &'a str) -> Self {
        let mut all = lock(turns);
        let empty = || Turn { here: AtomicUsize::new(0), batch: Default::default() };
        let turn = all.entry(name.to_owned()).or_insert_with(|| Arc::new(empty())).clone();
        turn.here.fetch_add(1, Ordering::Relaxed);
        Self { turns, name, turn }
    }

    fn is_last(&self) -> bool {
        self.turn.here.load(Ordering::Relaxed) == 1
    }
}

impl<K> Drop for Place<'_, K> {
    fn drop(&mut self) {
        let mut all = lock(self.turns);
        if self.turn.here.fetch_sub(1, Ordering::Relaxed) == 1 {
            all.remove(self.name);
        }
    }
}

fn lock<K>(turns: &Turns<K>) -> MutexGuard<'_, HashMap<String, Arc<Turn<K>>>> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
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
    use crate::plan::ledger::{Ledger, Shortfall};
    use crate::plan::testing::{gi, ledger_entry, reserved};

    /// What an API server has of one reservation, and how often it was written.
    struct Server {
        object: DiskReservation,
        version: u64,
        writes: usize,
        /// How many writes still find that somebody else was faster.
        faster: usize,
    }

    impl Server {
        fn start(faster: usize) -> (Arc<Mutex<Self>>, Api<DiskReservation>) {
            let server = Self { object: reserved("r", "eng", 10, &[]), version: 1, writes: 0, faster };
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
            }
            self.object.metadata.resource_version = Some(self.version.to_string());
            (StatusCode::OK, serde_json::to_value(&self.object).unwrap())
        }

        fn lines(&self) -> Vec<LedgerEntry> {
            self.object.status.clone().unwrap().volumes
        }
    }

    /// Takes one Gi of the ten for the volume of that name.
    async fn take(
        commits: &Commits<DiskReservation>,
        api: &Api<DiskReservation>,
        name: String,
    ) -> Result<bool, Error> {
        let decide = |r: &DiskReservation| {
            let status = r.status.clone().unwrap_or_default();
            let entry = LedgerEntry { size: gi(1), ..ledger_entry(&name, "eng", 1) };
            let volumes = Ledger::new(&status.volumes, 10 << 30).take(entry)?.into_entries();
            Ok::<_, Shortfall>(Some(crate::api::DiskReservationStatus { volumes, ..status }))
        };
        Ok(commits.update(api, "r", decide).await?.unwrap().is_ok())
    }

    /// S1, S15: ten find room, whoever else is faster, and the other ten are refused.
    #[tokio::test]
    async fn what_is_asked_for_together_is_decided_one_after_another_and_written_once() {
        for faster in [0, 3] {
            let (server, api) = Server::start(faster);
            let commits = Commits::default();
            let all = join_all((0..20).map(|i| take(&commits, &api, format!("v{i:02}")))).await;
            let taken: BTreeSet<String> = all
                .into_iter()
                .enumerate()
                .filter_map(|(i, taken)| taken.unwrap().then(|| format!("v{i:02}")))
                .collect();
            let server = server.lock().unwrap();
            let lines: BTreeSet<String> = server.lines().into_iter().map(|line| line.name).collect();
            assert_eq!((taken.len(), &taken), (10, &lines), "who was told so has a line, and nobody else");
            assert!(server.writes <= 2, "{} writes", server.writes);
            assert!(lock(&commits.0).is_empty(), "nothing is kept of what is done");
        }
    }

    /// S15.
    #[tokio::test]
    async fn who_is_dropped_in_the_row_takes_nobody_along() {
        let (server, api) = Server::start(0);
        let commits = Commits::default();
        let mut rows: Vec<_> =
            (0..6).map(|i| Box::pin(take(&commits, &api, format!("v{i}")))).map(Some).collect();
        // The first reads, the others stand behind it.
        for row in rows.iter_mut().flatten() {
            assert!(futures::poll!(row).is_pending());
        }
        (rows[0], rows[5]) = (None, None);
        for taken in join_all(rows.into_iter().flatten()).await {
            assert!(taken.unwrap());
        }
        let names: Vec<String> = server.lock().unwrap().lines().into_iter().map(|line| line.name).collect();
        assert_eq!(names, ["v1", "v2", "v3", "v4"]);
    }
}
