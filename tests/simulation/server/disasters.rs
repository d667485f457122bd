//! What the API server goes through as a whole: a restored etcd, and kinds that are deleted and come back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use reservoir::api::FINALIZER;

use super::Server;
use super::apply::Owners;
use super::kinds::{CRDS as OURS, KINDS};
use super::requests::{Request, is_being_deleted};
use super::store::{Id, Revision, Stored};
use crate::host;

const CRDS: &str = "customresourcedefinitions";
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// By so much `etcdutl snapshot restore --bump-revision` raises the revision.
const BUMP: u64 = 1_000_000_000;

/// A backup of etcd.
pub type Backup = BTreeMap<Id, Stored>;

fn uids<'a>(objects: impl Iterator<Item = &'a Stored>) -> impl Iterator<Item = String> {
    objects.filter_map(|stored| stored.object["metadata"]["uid"].as_str().map(str::to_owned))
}

fn crd_of(plural: &str) -> String {
    format!("{plural}.reservoir.dev")
}

impl Server {
    pub fn back_up(&mut self) {
        self.backup = Some(self.store.objects.clone());
        self.tell(|| "etcd is backed up".into());
    }

    /// Restores the last backup. All watches end, and none resumes.
    pub fn restore(&mut self) {
        let Some(backup) = self.backup.clone() else { return };
        self.tell(|| "etcd is restored from its backup".into());
        // An object that was removed by force since is there again, unless its backup has no finalizer either.
        let has_finalizer = |stored: &&Stored| {
            stored.object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|all| all.contains(&json!(FINALIZER)))
        };
        let guarded: BTreeSet<String> = uids(backup.values().filter(has_finalizer)).collect();
        self.lost.retain(|uid| !guarded.contains(uid));
        let back: BTreeSet<String> = uids(backup.values()).collect();
        let lost = uids(self.store.objects.values()).filter(|uid| !back.contains(uid));
        self.lost.extend(lost.collect::<Vec<_>>());
        self.gone.clear();
        self.store.objects = backup;
        self.store
            .objects
            .values()
            .map(|stored| stored.object.clone())
            .collect::<Vec<_>>()
            .iter()
            .for_each(|object| self.note_gone(object));
        // What goes with its kind goes again.
        let kinds: Vec<_> = KINDS.keys().copied().filter(|plural| self.is_kind_ending(plural)).collect();
        let going = kinds.into_iter().flat_map(|plural| self.store.list(plural, ""));
        let going = going.filter_map(|(_, object)| object["metadata"]["uid"].as_str().map(str::to_owned));
        self.lost.extend(going.collect::<Vec<_>>());
        self.store.version += BUMP;
        self.due = None;
        self.compacted = self.store.version;
        self.epoch += 1;
        let is_gone = |plural: &&'static str| {
            KINDS[*plural].is_custom && self.store.get(&(CRDS, String::new(), crd_of(plural))).is_none()
        };
        self.gone_kinds = KINDS.keys().copied().filter(is_gone).collect();
        self.wake_all_watchers();
    }

    /// Notes the volumes of disks that were declared gone: their data is given up (D4, D7).
    pub(super) fn note_gone(&mut self, object: &Value) {
        if object["spec"]["gone"] == true {
            for host in host::lock(&self.hosts).values() {
                if host.disk.as_ref().is_some_and(|disk| object["spec"]["diskID"] == *disk.id) {
                    self.lost.extend(host.records.keys().cloned());
                }
            }
        }
        let is_gone = |disk: &Value| disk["spec"]["gone"] == true;
        let uid = |volume: &Value| volume["metadata"]["uid"].as_str().map(str::to_owned);
        let gone: Vec<String> = match object["kind"].as_str() {
            Some("NodeDisk") if is_gone(object) => {
                let all = self.store.list("sharedpersistentvolumes", "").map(|(_, volume)| volume);
                let on_it = all.filter(|volume| volume["status"]["nodeDisk"] == object["metadata"]["name"]);
                on_it.filter_map(|volume| uid(volume)).collect()
            }
            Some("SharedPersistentVolume") => {
                let disk = object["status"]["nodeDisk"].as_str().unwrap_or_default();
                let disk = self.store.get(&("nodedisks", String::new(), disk.to_owned()));
                uid(object).filter(|_| disk.is_some_and(|disk| is_gone(&disk.object))).into_iter().collect()
            }
            _ => return,
        };
        self.lost.extend(gone.iter().cloned());
        self.gone.extend(gone);
    }

    /// Notes the entries of volumes that are gone already.
    pub(super) fn note_late_entries(&mut self, revision: &Revision) {
        let entries = |of: &Value| -> BTreeSet<String> {
            let entries = of["status"]["volumes"].as_array().into_iter().flatten();
            entries.filter_map(|entry| entry["uid"].as_str().map(str::to_owned)).collect()
        };
        if revision.id.0 != "diskreservations" {
            return;
        }
        let had = revision.before.as_ref().map(|before| entries(before)).unwrap_or_default();
        for uid in entries(&revision.now).difference(&had) {
            let mut volumes = self.store.list("sharedpersistentvolumes", "");
            if !volumes.any(|(_, volume)| volume["metadata"]["uid"] == *uid.as_str()) {
                self.late.insert(uid.clone());
            }
        }
    }

    /// A controller has died.
    pub fn note_death(&mut self) {
        let late = std::mem::take(&mut self.late);
        self.orphaned_entries.extend(late);
    }

    pub fn was_restored(&self) -> bool {
        self.epoch > 0
    }

    /// Deletes a kind: the API server deletes its objects, and asks no policy (X9).
    pub fn delete_kind(&mut self, plural: &'static str) {
        let id = (CRDS, String::new(), crd_of(plural));
        let Some(crd) = self.store.get(&id).filter(|crd| !is_being_deleted(&crd.object)).cloned() else {
            return;
        };
        let mut object = Value::clone(&crd.object);
        object["metadata"]["finalizers"] = json!([CLEANUP]);
        object["metadata"]["deletionTimestamp"] = json!(self.now_text());
        self.commit("operator", "delete", id, object, (*crd.owners).clone(), false);
        let all: Vec<Id> = self.store.list(plural, "").map(|(id, _)| id.clone()).collect();
        let has_policies = std::mem::replace(&mut self.has_policies, false);
        for (plural, namespace, name) in all {
            let uid = self.store.get(&(plural, namespace.clone(), name.clone()));
            let uid = uid.and_then(|stored| stored.object["metadata"]["uid"].as_str().map(str::to_owned));
            self.lost.extend(uid);
            let request = Request { method: "DELETE".into(), plural, namespace, name, ..Default::default() };
            self.answer("kubernetes", &request);
        }
        self.has_policies = has_policies;
        self.end_kinds(false);
    }

    /// A watch of the kind ends when this changes.
    pub(super) fn epoch(&self, plural: &'static str) -> (u64, u64, Option<u64>) {
        (self.epoch, self.watch_epoch, self.epoch_of.get(plural).copied())
    }

    /// All watches end, and none can go on where it was (410).
    pub fn end_watches(&mut self) {
        self.compacted = self.store.version;
        self.watch_epoch += 1;
        self.wake_all_watchers();
    }

    /// True if the kind is being deleted: nothing of it is created any more.
    pub fn is_kind_ending(&self, plural: &'static str) -> bool {
        let crd = self.store.get(&(CRDS, String::new(), crd_of(plural)));
        crd.is_some_and(|crd| is_being_deleted(&crd.object))
    }

    /// True if the kind was deleted at least once.
    pub fn was_kind_deleted(&self, plural: &'static str) -> bool {
        self.epoch_of.contains_key(plural) || self.is_kind_ending(plural)
    }

    /// Ends the kinds that are being deleted and have no object left. `again`: a person applies them once more.
    pub fn end_kinds(&mut self, again: bool) {
        for (plural, kind) in KINDS.iter().filter(|(_, kind)| kind.is_custom) {
            let is_empty = self.store.list(plural, "").next().is_none();
            if self.is_kind_ending(plural) && is_empty {
                let id = (CRDS, String::new(), crd_of(plural));
                let Some(crd) = self.store.get(&id).cloned() else { continue };
                self.commit("kubernetes", "delete", id, Value::clone(&crd.object), Owners::new(), true);
                self.gone_kinds.insert(plural);
                self.epoch_of.insert(plural, self.store.version);
                self.wake_watchers(plural);
            }
            if again && self.gone_kinds.remove(plural) {
                let crd = OURS.iter().find(|crd| crd["spec"]["names"]["kind"] == kind.kind);
                let body = crd.cloned().unwrap_or_default();
                let request = Request { method: "POST".into(), plural: CRDS, body, ..Default::default() };
                let (code, answer) = self.answer("operator", &request);
                assert_eq!(code, 201, "{}", answer.value());
            }
        }
    }
}
