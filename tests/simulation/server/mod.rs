//! An API server in memory: what decides is that of a real one, and real.rs holds it against one.

mod admission;
mod apply;
mod disasters;
mod kinds;
mod network;
mod object;
mod path;
mod requests;
mod schema;
mod select;
mod store;
mod strike;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;

use crate::clock;
use crate::host::Hosts;
use crate::kubernetes::DUE_BY;
use crate::random::Random;
use crate::rules;
use store::{Id, Store};

pub use apply::Owners;
pub use kinds::{CRDS, KINDS};
pub use network::{Faults, client, parse};
pub use object::{Object, typed};
pub use path::{Key, Path};
pub use requests::{Request, is_being_deleted};
pub use store::Revision;
pub use strike::{Fate, Strike, Struck, is_ours};

/// The API server.
pub struct Server {
    pub store: Store,
    pub random: Random,
    /// What goes wrong between a client and the server.
    pub faults: Faults,
    /// What happened so far, in words, if somebody reads it.
    pub story: Option<Vec<String>>,
    /// The watchers of each kind, by its plural.
    watchers: BTreeMap<&'static str, Vec<std::sync::Weak<Notify>>>,
    hash: DefaultHasher,
    /// The milliseconds at which something is delivered. Each delivery has one of its own, so its reaction is over before
    /// the next delivery.
    slots: std::collections::BTreeSet<u64>,
    /// The last revision that a watch can no longer begin at.
    pub compacted: u64,
    /// Requests that were carried out.
    pub requests: u64,
    /// The events that were sent: object and text, or the name of one that was sent again.
    pub events: Vec<String>,
    /// False without the chart's policies.
    pub has_policies: bool,
    /// UIDs of objects that went otherwise than by Reservoir (X9).
    pub lost: BTreeSet<String>,
    /// Those of them whose finalizers a person removed.
    pub stripped: BTreeSet<String>,
    /// UIDs of volumes whose disk was declared gone (D4, D7).
    pub gone: BTreeSet<String>,
    /// UIDs of volumes that got an entry after their end, from a controller that did not know it yet. It ends the entry.
    pub late: BTreeSet<String>,
    /// Those of them whose controller may have died before that. Nobody else learns of such an entry.
    pub orphaned_entries: BTreeSet<String>,
    /// The last backup of etcd.
    backup: Option<disasters::Backup>,
    /// Number of times that etcd was restored. No request and no watch outlasts one.
    epoch: u64,
    /// Number of times that all watches ended.
    watch_epoch: u64,
    /// The kinds that were deleted, and are not there again.
    gone_kinds: BTreeSet<&'static str>,
    /// The version at which a kind was deleted last. No watch of that kind outlasts it.
    epoch_of: BTreeMap<&'static str, u64>,
    /// The rules that were broken.
    pub violations: Vec<String>,
    /// The work that waits for Kubernetes; `None` until somebody looks for it again.
    pub due: Option<Vec<Request>>,
    /// The number of the writes of controllers and agents while a fault is to strike.
    pub writes: u64,
    /// The fault that is to strike at one of them.
    pub strike: Option<Strike>,
    /// The write that waits for its fault.
    pub struck: Option<Struck>,
    /// Wakes the run when a write waits for its fault.
    pub alarm: Arc<Notify>,
    hosts: Hosts,
}

/// The API server, as everybody holds it.
pub type Shared = Arc<Mutex<Server>>;

/// Locks. A panic elsewhere is the failure to report, not this lock.
pub fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub fn new(random: Random, hosts: Hosts, told: bool) -> Self {
        Self {
            store: Store::default(),
            random,
            faults: Faults::default(),
            story: told.then(Vec::new),
            watchers: Default::default(),
            hash: DefaultHasher::new(),
            slots: Default::default(),
            compacted: 0,
            requests: 0,
            events: vec![],
            has_policies: true,
            lost: Default::default(),
            stripped: Default::default(),
            gone: Default::default(),
            late: Default::default(),
            orphaned_entries: Default::default(),
            backup: None,
            epoch: 0,
            watch_epoch: 0,
            gone_kinds: Default::default(),
            epoch_of: Default::default(),
            violations: vec![],
            due: None,
            writes: 0,
            strike: None,
            struck: None,
            alarm: Arc::default(),
            hosts,
        }
    }

    /// The time by the clock of the API server.
    pub fn now(&self) -> Timestamp {
        clock::true_time()
    }

    fn now_text(&self) -> String {
        self.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// The hash of everything that was asked and answered, if the story is told.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// Tells a step of the story.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let line = line();
            story.push(format!("{:>10.3}s  {line}", clock::elapsed().as_secs_f64()));
        }
    }

    fn hear(&mut self, who: &str, text: &[u8]) {
        if self.story.is_none() {
            return;
        }
        self.hash.write_u64(clock::elapsed().as_millis() as u64);
        self.hash.write(who.as_bytes());
        self.hash.write(text);
    }

    fn commit(
        &mut self,
        who: &str,
        verb: &str,
        id: Id,
        object: Value,
        owners: Owners,
        gone: bool,
    ) -> Arc<Object> {
        let before = self.store.get(&id).map(|stored| stored.object.clone());
        let now = self.store.commit(id.clone(), object, owners, gone);
        let version = self.store.version;
        if DUE_BY.contains(&id.0) {
            self.due = None;
        }
        self.tell(|| {
            let name = if id.1.is_empty() { id.2.clone() } else { format!("{}/{}", id.1, id.2) };
            let change = changes(before.as_ref().map(|before| &***before), &now);
            let ended = if gone && verb != "delete" { ", and with that the object is gone" } else { "" };
            format!("{who}: {verb} {} {name} -> revision {version}{ended}{change}", id.0)
        });
        let revision = self.store.log.last().cloned();
        if let Some(revision) = &revision {
            self.note_gone(&revision.now);
            self.note_late_entries(revision);
        }
        if let Some(Err(broken)) = revision.map(|revision| rules::check(self, &revision, &self.hosts)) {
            self.tell(|| format!("BROKEN: {broken}"));
            self.violations.push(broken);
        }
        self.wake_watchers(id.0);
        now
    }

    /// Wakes the watchers of one kind. A revision concerns no others, and to wake all costs more than the revision.
    fn wake_watchers(&mut self, plural: &'static str) {
        let Some(watchers) = self.watchers.get_mut(plural) else { return };
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.iter().filter_map(std::sync::Weak::upgrade).for_each(|watcher| watcher.notify_one());
    }

    fn wake_all_watchers(&mut self) {
        let kinds: Vec<&'static str> = self.watchers.keys().copied().collect();
        kinds.into_iter().for_each(|plural| self.wake_watchers(plural));
    }

    /// Copies of the objects of a kind.
    pub fn all<K: DeserializeOwned>(&self, plural: &'static str) -> Vec<K> {
        self.store.list(plural, "").map(|(_, object)| typed(object)).collect()
    }

    pub fn get<K: DeserializeOwned + Send + Sync + 'static>(
        &self,
        plural: &'static str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<K>> {
        let id = (plural, namespace.to_owned(), name.to_owned());
        self.store.get(&id).map(|stored| stored.object.typed())
    }
}

/// The fields that differ, for the story.
fn changes(before: Option<&Value>, now: &Value) -> String {
    if now["kind"] == "CustomResourceDefinition" {
        return String::new();
    }
    let Some(before) = before else { return format!("\n{:>14}{}", "", without_noise(now)) };
    let mut lines = String::new();
    differences("", before, now, &mut lines);
    lines
}

fn without_noise(object: &Value) -> String {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|name, _| ["spec", "status"].contains(&name.as_str()));
    }
    object.to_string()
}

fn differences(path: &str, before: &Value, now: &Value, into: &mut String) {
    if before == now || path == ".metadata.resourceVersion" {
        return;
    }
    if let (Value::Object(was), Value::Object(is)) = (before, now) {
        let names: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for name in names {
            differences(&format!("{path}.{name}"), &before[name], &now[name], into);
        }
        return;
    }
    into.push_str(&format!("\n{:>14}{path}: {before} -> {now}", ""));
}
