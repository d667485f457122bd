//! Unexpected acts of people with kubectl: foreign finalizers, objects of a backup, deletions of objects in use.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::{objects, patch, text};
use crate::random::Random;
use crate::server::{Object, Request, Server, is_being_deleted};
use crate::users::{any, delete_it};

/// The finalizer of a program of somebody else.
const FOREIGN: &str = "example.com/keeper";
/// The kinds that such a program keeps.
const KEPT: [&str; 4] =
    ["sharedpersistentvolumes", "diskreservations", "volumeclaims", "persistentvolumeclaims"];

/// An act of a person.
pub fn act(server: &mut Server, random: &mut Random) {
    let requests = match random.below(10) {
        0 | 1 => keep(server, random),
        2 | 3 => Some(let_go(server)),
        4 | 5 => end_in_use(server, random),
        6 | 7 => from_backup(server, random),
        8 => any(server, random, "nodedisks").map(|disk| vec![delete_it("nodedisks", disk)]),
        _ => end_gone(server, random),
    };
    for request in requests.into_iter().flatten() {
        server.answer("by hand", &request);
    }
}

fn finalizers(plural: &'static str, object: &Value, all: Vec<Value>) -> Request {
    let version = &object["metadata"]["resourceVersion"];
    patch(plural, object, "", json!({"metadata": {"finalizers": all, "resourceVersion": version}}))
}

fn finalizers_of(object: &Value) -> Vec<Value> {
    object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default()
}

/// A program of somebody else keeps an object, which goes when the program lets it go.
fn keep(server: &Server, random: &mut Random) -> Option<Vec<Request>> {
    let plural = *random.pick(&KEPT)?;
    let object = any(server, random, plural).filter(|object| !is_being_deleted(object))?;
    let all = [finalizers_of(&object), vec![json!(FOREIGN)]].concat();
    let end = random.in_a_thousand(500).then(|| delete_it(plural, object.clone()));
    Some([finalizers(plural, &object, all)].into_iter().chain(end).collect())
}

/// All programs of others let go what they keep.
pub fn let_go(server: &Server) -> Vec<Request> {
    let is_kept = |object: &Arc<Object>| finalizers_of(object).contains(&json!(FOREIGN));
    let kept =
        KEPT.into_iter().flat_map(|plural| objects(server, plural).into_iter().map(move |of| (plural, of)));
    let free = |(plural, object): (&'static str, Arc<Object>)| {
        finalizers(plural, &object, finalizers_of(&object).into_iter().filter(|of| *of != FOREIGN).collect())
    };
    kept.filter(|(_, object)| is_kept(object)).map(free).collect()
}

/// Something in use is to go when its users have ended (F5).
fn end_in_use(server: &Server, random: &mut Random) -> Option<Vec<Request>> {
    let plural = *random.pick(&["sharedpersistentvolumes", "diskreservations"])?;
    let is_used = |object: &Arc<Object>| {
        ["claims", "volumes", "refinements"]
            .iter()
            .any(|list| object["status"][list].as_array().is_some_and(|all| !all.is_empty()))
    };
    let used: Vec<_> = objects(server, plural).into_iter().filter(is_used).collect();
    let object = random.pick(&used)?.clone();
    let waits = patch(plural, &object, "", json!({"spec": {"deletionPolicy": "Wait"}}));
    Some(vec![waits, delete_it(plural, object)])
}

/// A PersistentVolume or a claim of a backup comes back, as it was before it went.
fn from_backup(server: &Server, random: &mut Random) -> Option<Vec<Request>> {
    let is_backed_up = |plural: &str| ["persistentvolumes", "volumeclaims"].contains(&plural);
    let gone =
        server.store.log.iter().rev().filter(|revision| revision.is_gone && is_backed_up(revision.id.0));
    let gone: Vec<_> = gone.take(5).collect();
    let revision = random.pick(&gone)?;
    let mut object = Value::clone(&revision.now);
    let metadata = &object["metadata"];
    object["metadata"] = json!({"name": metadata["name"], "namespace": metadata["namespace"],
        "labels": metadata["labels"], "annotations": metadata["annotations"]});
    if random.in_a_thousand(300) && object["spec"]["claimRef"].is_object() {
        object["spec"]["claimRef"]["uid"] = Value::Null;
    }
    Some(vec![Request {
        method: "POST".into(),
        plural: revision.id.0,
        namespace: text(&object["metadata"]["namespace"]),
        body: without_null(object),
        ..Default::default()
    }])
}

/// The API server stores no field with null.
fn without_null(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(|field| *field = without_null(field.take()));
    }
    value
}

/// Everything on a disk that was declared gone is deleted, as the condition of the disk says (D4).
fn end_gone(server: &Server, random: &mut Random) -> Option<Vec<Request>> {
    let disks: Vec<Arc<Object>> =
        objects(server, "nodedisks").into_iter().filter(|disk| disk["spec"]["gone"] == true).collect();
    let disk = random.pick(&disks)?;
    let on_it = |plural: &'static str| {
        let all = objects(server, plural).into_iter();
        all.filter(|of| of["status"]["nodeDisk"] == disk["metadata"]["name"])
            .map(move |of| delete_it(plural, of))
    };
    let all = on_it("sharedpersistentvolumes").chain(on_it("diskreservations"));
    Some(all.chain([delete_it("nodedisks", disk.clone())]).collect())
}
