//! The objects of the API server, and the log of all their revisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::apply::Owners;
use super::object::Object;
use super::select::Selector;

/// Plural of the kind, namespace or nothing, name.
pub type Id = (&'static str, String, String);

#[derive(Clone)]
pub struct Stored {
    pub object: Arc<Object>,
    pub owners: Arc<Owners>,
}

/// A revision: one object before and after a write.
#[derive(Clone)]
pub struct Revision {
    pub version: u64,
    pub id: Id,
    pub before: Option<Arc<Object>>,
    /// The object, or its last state if it is gone.
    pub now: Arc<Object>,
    pub is_gone: bool,
}

/// All objects, and their history.
#[derive(Clone, Default)]
pub struct Store {
    pub objects: BTreeMap<Id, Stored>,
    pub log: Vec<Revision>,
    pub version: u64,
}

impl Store {
    pub fn get(&self, id: &Id) -> Option<&Stored> {
        self.objects.get(id)
    }

    /// The objects of a kind, in a namespace or in all.
    pub fn list<'a>(
        &'a self,
        plural: &'static str,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Id, &'a Arc<Object>)> {
        let first = (plural, namespace.to_owned(), String::new());
        let of_kind = self.objects.range(first..).take_while(move |(id, _)| id.0 == plural);
        of_kind
            .filter(move |(id, _)| namespace.is_empty() || id.1 == namespace)
            .map(|(id, stored)| (id, &stored.object))
    }

    /// Stores an object with its next version, or removes it.
    pub fn commit(&mut self, id: Id, mut object: Value, owners: Owners, is_gone: bool) -> Arc<Object> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(Object::from(object));
        let before = match is_gone {
            true => self.objects.remove(&id),
            false => {
                let stored = Stored { object: object.clone(), owners: Arc::new(owners) };
                self.objects.insert(id.clone(), stored)
            }
        };
        let before = before.map(|stored| stored.object);
        self.log.push(Revision { version: self.version, id, before, now: object.clone(), is_gone });
        object
    }

    /// The objects of a kind at an earlier version.
    pub fn list_at(&self, plural: &'static str, namespace: &str, version: u64) -> Vec<Arc<Object>> {
        let mut objects: BTreeMap<Id, Arc<Object>> =
            self.list(plural, namespace).map(|(id, object)| (id.clone(), object.clone())).collect();
        let later = self.log.iter().rev().take_while(|revision| revision.version > version);
        for revision in later.filter(|r| r.id.0 == plural && (namespace.is_empty() || r.id.1 == namespace)) {
            match &revision.before {
                Some(before) => drop(objects.insert(revision.id.clone(), before.clone())),
                None => drop(objects.remove(&revision.id)),
            }
        }
        objects.into_values().collect()
    }

    /// The first event after `from` in the log for a watch, with the index of the next revision.
    pub fn next_event(
        &self,
        mut from: usize,
        plural: &'static str,
        namespace: &str,
        selector: &Selector,
    ) -> (usize, Option<(&'static str, Arc<Object>)>) {
        while let Some(revision) = self.log.get(from) {
            from += 1;
            if revision.id.0 != plural || !(namespace.is_empty() || revision.id.1 == namespace) {
                continue;
            }
            let was = revision.before.as_ref().is_some_and(|before| selector.fits(before));
            let is = !revision.is_gone && selector.fits(&revision.now);
            let kind = match (was, is) {
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
                (false, false) => continue,
            };
            let mut object = revision.now.clone();
            if let ("DELETED", Some(before)) = (kind, &revision.before) {
                // The last state that the watch is about, as of this revision.
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = json!(revision.version.to_string());
                object = Arc::new(last.into());
            }
            return (from, Some((kind, object)));
        }
        (from, None)
    }
}
