//! Requests to the API server, and its answers.

use serde_json::{Value, json};

use super::Server;
use super::apply::{Owners, Part, Writer, apply, merge_patch, note_update};
use super::kinds::{KINDS, Kind};
use super::object::Body;
use super::select::Selector;
use super::store::Id;
use crate::rules;

/// A request, as its path and query say.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub plural: &'static str,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    pub query: Vec<(String, String)>,
    pub content_type: String,
    /// True if only metadata is asked for.
    pub partial: bool,
    pub body: Value,
}

/// Status code and body.
pub type Answer = (u16, Body);

fn failure(code: u16, reason: &str, message: String) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    (code, status.into())
}

pub fn unavailable(code: u16) -> Answer {
    failure(code, if code == 429 { "TooManyRequests" } else { "ServiceUnavailable" }, "try again".into())
}

fn ending() -> Answer {
    let why = "create not allowed while custom resource definition is terminating";
    failure(405, "MethodNotAllowed", why.into())
}

impl Request {
    pub fn query(&self, key: &str) -> &str {
        self.query.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    pub fn is_watch(&self) -> bool {
        self.query("watch") == "true" || self.query("watch") == "1"
    }

    pub fn selector(&self) -> Selector {
        Selector::new(self.query("labelSelector"), self.query("fieldSelector"))
    }

    pub fn id(&self) -> Id {
        (self.plural, self.namespace.clone(), self.name.clone())
    }

    fn is_dry_run(&self) -> bool {
        self.query("dryRun") == "All"
    }

    fn not_found(&self) -> Answer {
        failure(404, "NotFound", format!("{} \"{}\" not found", self.plural, self.name))
    }

    fn conflict(&self, why: &str) -> Answer {
        failure(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} \"{}\": {why}", self.plural, self.name),
        )
    }

    fn invalid(&self, why: &str) -> Answer {
        failure(422, "Invalid", format!("{} \"{}\" is invalid: {why}", self.plural, self.name))
    }
}

impl Server {
    /// Carries out a request at once. A watch is no request.
    pub fn answer(&mut self, who: &str, request: &Request) -> Answer {
        let Some(kind) = KINDS.get(request.plural) else {
            return failure(404, "NotFound", "the server could not find the requested resource".into());
        };
        if self.gone_kinds.contains(request.plural) {
            return failure(404, "NotFound", "the server could not find the requested resource".into());
        }
        match (request.method.as_str(), request.name.is_empty()) {
            ("GET", true) => self.list(kind, request),
            ("GET", false) => match self.store.get(&request.id()) {
                Some(stored) if !request.partial => (200, Body::Stored(stored.object.clone())),
                Some(stored) => (200, as_partial(&stored.object).into()),
                None => request.not_found(),
            },
            ("POST", true) => self.create(who, kind, request),
            ("PUT" | "PATCH", false) => self.write(who, kind, request),
            ("DELETE", false) => self.delete(who, request),
            _ => failure(405, "MethodNotAllowed", "the server does not allow this method".into()),
        }
    }

    fn list(&self, kind: &Kind, request: &Request) -> Answer {
        let selector = request.selector();
        let limit: usize = request.query("limit").parse().unwrap_or(usize::MAX);
        let start = request.query("continue");
        let mut items = Vec::new();
        let mut next = String::new();
        for (id, object) in self.store.list(kind.plural, &request.namespace) {
            let key = format!("{}/{}", id.1, id.2);
            if key.as_str() <= start && !start.is_empty() || !selector.fits(object) {
                continue;
            }
            if items.len() == limit {
                break;
            }
            next = key;
            items.push(object.clone());
        }
        let more = items.len() == limit;
        let mut list = match request.partial {
            true => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}),
            false => json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version()}),
        };
        list["metadata"] = json!({"resourceVersion": self.store.version.to_string()});
        if more {
            list["metadata"]["continue"] = json!(next);
        }
        if request.partial {
            list["items"] = items.iter().map(|object| as_partial(object)).collect();
            return (200, list.into());
        }
        (200, Body::List(list, items, kind.is_custom))
    }

    fn create(&mut self, who: &str, kind: &Kind, request: &Request) -> Answer {
        let mut object = request.body.clone();
        if kind.plural == "events" {
            // Names and times of events are those of the wall clock.
            self.events.push(format!("{}: {}", object["regarding"]["uid"], object["note"]));
            return (201, object.into());
        }
        let mut name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default();
            name = format!("{prefix}{:05x}", self.random.below(1 << 20));
        }
        let request = &Request { name: name.clone(), ..request.clone() };
        if self.store.get(&request.id()).is_some() {
            let why = format!("{} \"{name}\" already exists", request.plural);
            return failure(409, "AlreadyExists", why);
        }
        if self.is_kind_ending(request.plural) {
            return ending();
        }
        if !object["metadata"]["resourceVersion"].is_null() {
            let why = "resourceVersion should not be set on objects to be created".to_owned();
            return failure(400, "BadRequest", why);
        }
        self.born(kind, request, &mut object);
        if let Some(field) = kind.schema.missing_field(&object) {
            return request.invalid(&format!("{field}: Required value"));
        }
        if let Err(why) = self.admit(who, "CREATE", kind, &mut object, None) {
            return failure(403, "Forbidden", why);
        }
        let writer = (writer_of(who, request), false, false);
        let mut owners = Owners::new();
        note_update(&Value::Null, &object, &mut owners, &writer, &kind.schema, Part::All);
        if request.is_dry_run() {
            return (201, object.into());
        }
        let made = self.commit(who, "create", request.id(), object, owners, false);
        (201, Body::Stored(made))
    }

    /// Gives a new object what only the API server gives.
    fn born(&mut self, kind: &Kind, request: &Request, object: &mut Value) {
        let uid = self.random.uuid();
        let now = self.now_text();
        if kind.has_status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(request.name);
        if kind.namespaced {
            metadata["namespace"] = json!(request.namespace);
        }
        metadata["uid"] = json!(uid);
        metadata["creationTimestamp"] = json!(now);
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("generateName");
            fields.remove("managedFields");
            fields.remove("deletionTimestamp");
            fields.remove("generation");
        }
        if kind.is_custom {
            metadata["generation"] = json!(1);
            kind.schema.set_defaults(object);
        }
        match kind.plural {
            "persistentvolumeclaims" => {
                object["status"] = json!({"phase": "Pending"});
                object["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
            }
            "persistentvolumes" => {
                object["status"] = json!({"phase": "Pending"});
                object["metadata"]["finalizers"] = json!(["kubernetes.io/pv-protection"]);
            }
            "pods" => object["status"] = json!({"phase": "Pending"}),
            _ => {}
        }
    }

    fn write(&mut self, who: &str, kind: &Kind, request: &Request) -> Answer {
        let id = request.id();
        if kind.is_custom {
            self.violations.extend(rules::s15_a_status_has_the_version_that_was_read(who, request).err());
        }
        let is_apply = request.content_type.starts_with("application/apply-patch");
        if kind.plural == "events" {
            self.events.push(request.name.clone());
            return (200, request.body.clone().into());
        }
        let Some(stored) = self.store.get(&id).cloned() else {
            if is_apply && request.subresource.is_empty() {
                return self.create_by_apply(who, kind, request);
            }
            return request.not_found();
        };
        let metadata = &request.body["metadata"];
        let before: &Value = &stored.object;
        if let Some(version) = metadata["resourceVersion"].as_str().filter(|version| !version.is_empty())
            && before["metadata"]["resourceVersion"] != *version
        {
            return request
                .conflict("the object has been modified; please apply your changes to the latest version");
        }
        if let Some(uid) = metadata["uid"].as_str()
            && before["metadata"]["uid"] != *uid
        {
            let has = before["metadata"]["uid"].as_str().unwrap_or_default();
            return request.conflict(&format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {has}"
            ));
        }
        let (mut object, mut owners) = (before.clone(), (*stored.owners).clone());
        let of_status = request.subresource == "status";
        let part = if !kind.has_status {
            Part::All
        } else if of_status {
            Part::Status
        } else {
            Part::Rest
        };
        let writer: Writer = (writer_of(who, request), is_apply, of_status);
        match request.method.as_str() {
            "PUT" => object = request.body.clone(),
            _ if is_apply => {
                let mut applied = request.body.clone();
                keep_part(&mut applied, &Value::Null, of_status, kind.has_status);
                apply(&mut object, before, &mut owners, &writer, &applied, &kind.schema, part);
            }
            _ => merge_patch(&mut object, &request.body),
        }
        keep_part(&mut object, before, of_status, kind.has_status);
        restore_metadata(&mut object, before);
        if kind.is_custom {
            kind.schema.set_defaults(&mut object);
            if !of_status && has_new_spec(&object, before) {
                let generation = before["metadata"]["generation"].as_i64().unwrap_or(1);
                object["metadata"]["generation"] = json!(generation + 1);
            }
        }
        if let Some(added) = added_while_deleted(&object, before) {
            return request.invalid(&format!("metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {added}"));
        }
        if let Some(field) = kind.schema.missing_field(&object) {
            return request.invalid(&format!("{field}: Required value"));
        }
        if let Err(why) = self.admit(who, "UPDATE", kind, &mut object, Some(before)) {
            return failure(403, "Forbidden", why);
        }
        if !is_apply {
            note_update(before, &object, &mut owners, &writer, &kind.schema, part);
        }
        if request.is_dry_run() || object == *before && owners == *stored.owners {
            return (200, object.into());
        }
        let ends = is_being_deleted(&object) && !has_finalizers(&object);
        let verb = if of_status { "write the status of" } else { "change" };
        // The version of the end of an object is that of its event, and not of the answer.
        let last = ends.then(|| object.clone());
        let now = self.commit(who, verb, id, object, owners, ends);
        (200, last.map_or(Body::Stored(now), Body::Made))
    }

    fn create_by_apply(&mut self, who: &str, kind: &Kind, request: &Request) -> Answer {
        let mut object = request.body.clone();
        if object["metadata"]["uid"].is_string() {
            return request.conflict(
                "uid mismatch: the provided object specified uid and no existing object was found",
            );
        }
        if self.is_kind_ending(request.plural) {
            return ending();
        }
        self.born(kind, request, &mut object);
        if let Some(field) = kind.schema.missing_field(&object) {
            return request.invalid(&format!("{field}: Required value"));
        }
        if let Err(why) = self.admit(who, "CREATE", kind, &mut object, None) {
            return failure(403, "Forbidden", why);
        }
        let writer = (writer_of(who, request), true, false);
        let mut owners = Owners::new();
        apply(&mut object.clone(), &object, &mut owners, &writer, &request.body, &kind.schema, Part::All);
        if request.is_dry_run() {
            return (201, object.into());
        }
        let made = self.commit(who, "create", request.id(), object, owners, false);
        (201, Body::Stored(made))
    }

    fn delete(&mut self, who: &str, request: &Request) -> Answer {
        let Some(stored) = self.store.get(&request.id()).cloned() else { return request.not_found() };
        let kind = &KINDS[request.plural];
        let mut object = Value::clone(&stored.object);
        for (condition, field) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            if let Some(wanted) = request.body["preconditions"][condition].as_str()
                && object["metadata"][condition] != *wanted
            {
                return request.conflict(&format!("Precondition failed: {field} in precondition: {wanted}"));
            }
        }
        if let Err(why) = self.admit(who, "DELETE", kind, &mut object.clone(), Some(&stored.object)) {
            return failure(403, "Forbidden", why);
        }
        // The options of a body hide those of the query.
        let is_dry_run = match request.body.is_null() {
            true => request.is_dry_run(),
            false => request.body["dryRun"] == json!(["All"]),
        };
        if !has_finalizers(&object) && request.plural != "pods" {
            let details =
                json!({"name": request.name, "kind": request.plural, "uid": object["metadata"]["uid"]});
            if !is_dry_run {
                self.commit(who, "delete", request.id(), object, Owners::new(), true);
            }
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            return (200, done.into());
        }
        // A pod without a node, and one that has ended, have no grace.
        let has_grace = object["spec"]["nodeName"].is_string()
            && !["Succeeded", "Failed"].iter().any(|phase| object["status"]["phase"] == *phase);
        let is_forced = request.body["gracePeriodSeconds"] == 0 || request.plural == "pods" && !has_grace;
        if is_forced && !has_finalizers(&object) && !is_dry_run {
            let gone = self.commit(who, "delete at once", request.id(), object, Owners::new(), true);
            return (200, Body::Stored(gone));
        }
        if !is_being_deleted(&object) {
            object["metadata"]["deletionTimestamp"] = json!(self.now_text());
            object["metadata"]["deletionGracePeriodSeconds"] =
                json!(if request.plural == "pods" { 30 } else { 0 });
            if let Some(generation) = object["metadata"]["generation"].as_i64() {
                object["metadata"]["generation"] = json!(generation + 1);
            }
            if !is_dry_run {
                let now = self.commit(who, "delete", request.id(), object, (*stored.owners).clone(), false);
                return (200, Body::Stored(now));
            }
        }
        (200, object.into())
    }
}

fn writer_of(who: &str, request: &Request) -> String {
    match request.query("fieldManager") {
        "" => who.to_owned(),
        manager => manager.to_owned(),
    }
}

pub fn is_being_deleted(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

pub fn as_partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// A request for the status changes nothing else, and any other one leaves the status as it was.
fn keep_part(object: &mut Value, before: &Value, of_status: bool, has_status: bool) {
    if !has_status {
        return;
    }
    let Some(fields) = object.as_object_mut() else { return };
    match of_status {
        true => {
            fields.retain(|name, _| name == "status" || before.get(name).is_some());
            for (name, kept) in before.as_object().into_iter().flatten().filter(|(name, _)| *name != "status")
            {
                if fields.get(name) != Some(kept) {
                    fields.insert(name.clone(), kept.clone());
                }
            }
        }
        false if fields.get("status") == before.get("status") => {}
        false => {
            fields.remove("status");
            fields.extend(before.get("status").map(|status| ("status".to_owned(), status.clone())));
        }
    }
}

/// Nobody changes these fields.
fn restore_metadata(object: &mut Value, before: &Value) {
    for field in ["apiVersion", "kind"] {
        if object[field] != before[field] {
            object[field] = before[field].clone();
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        match &before["metadata"][field] {
            Value::Null => {
                object["metadata"].as_object_mut().map(|metadata| metadata.remove(field));
            }
            value if object["metadata"][field] == *value => {}
            value => object["metadata"][field] = value.clone(),
        }
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.retain(|_, value| {
            !(value.is_null()
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty))
        });
    }
}

fn has_new_spec(now: &Value, before: &Value) -> bool {
    fn parts(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let parts = object.as_object().into_iter().flatten();
        parts.filter(|(name, _)| !["metadata", "status"].contains(&name.as_str()))
    }
    !parts(now).eq(parts(before))
}

fn added_while_deleted(now: &Value, before: &Value) -> Option<String> {
    let finalizers =
        |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let had = finalizers(before);
    let added = finalizers(now).into_iter().find(|finalizer| !had.contains(finalizer));
    added.filter(|_| is_being_deleted(before)).map(|added| added.to_string())
}
