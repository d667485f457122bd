//! Merge patch, server-side apply, and who owns which field.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::path::{Key, Path};
use super::schema::Schema;

/// A writer: its name, true for server-side apply, true for the status.
pub type Writer = (String, bool, bool);

/// The fields of each writer. A write changes few of the sets.
pub type Owners = BTreeMap<Writer, Arc<BTreeSet<Path>>>;

/// The part of an object that a request can change.
#[derive(Clone, Copy)]
pub enum Part {
    All,
    Status,
    Rest,
}

impl Part {
    fn has(self, field: &str) -> bool {
        match self {
            Self::All => true,
            Self::Status => field == "status",
            Self::Rest => field != "status",
        }
    }
}

/// RFC 7386.
pub fn merge_patch(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let fields = object.as_object_mut().expect("it was made an object");
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge_patch(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The fields of an element that tell it apart, as JSON.
fn element_key(element: &Value, keys: &[String]) -> String {
    let fields: Vec<String> = keys.iter().map(|key| format!("\"{key}\":{}", element[key])).collect();
    format!("{{{}}}", fields.join(","))
}

/// Fields, with their values.
type Fields<'a> = BTreeMap<Path, &'a Value>;

/// The fields of a value that have owners.
fn leaves<'a>(value: &'a Value, schema: &Schema, path: Path, into: &mut Fields<'a>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && schema.is_granular() => {
            for (name, field) in fields {
                leaves(field, schema.field(name), path.field(name), into);
            }
        }
        Value::Array(elements) if schema.keys().is_some() => {
            let keys = schema.keys().unwrap_or_default();
            for element in elements {
                let path = path.element(&element_key(element, keys));
                into.insert(path, &Value::Null);
                leaves(element, schema.items(), path, into);
            }
        }
        Value::Array(elements) if path == Path::finalizers() => {
            let each = elements.iter().map(|element| (path.element(&element.to_string()), &Value::Null));
            into.extend(each);
        }
        Value::Object(fields) if fields.is_empty() => drop(into.insert(path, &Value::Null)),
        leaf => drop(into.insert(path, leaf)),
    }
}

/// True if the value has a field that has an owner.
fn has_leaves(value: &Value, schema: &Schema, path: Path) -> bool {
    match value {
        Value::Object(fields) if !fields.is_empty() && schema.is_granular() => {
            fields.iter().any(|(name, field)| has_leaves(field, schema.field(name), path.field(name)))
        }
        Value::Array(elements) if schema.keys().is_some() || path == Path::finalizers() => {
            !elements.is_empty()
        }
        _ => true,
    }
}

/// The fields of two values, as far as the values differ. A part that both have alike is one field of both, so that the maps
/// around it have a part.
fn differing_leaves<'a>(
    (before, now): (&'a Value, &'a Value),
    schema: &Schema,
    path: Path,
    into: &mut (Fields<'a>, Fields<'a>),
) {
    match (before, now) {
        _ if before == now => {
            if has_leaves(now, schema, path) {
                into.0.insert(path, &Value::Null);
                into.1.insert(path, &Value::Null);
            }
        }
        (Value::Object(was), Value::Object(is))
            if schema.is_granular() && !was.is_empty() && !is.is_empty() =>
        {
            for (name, before) in was {
                match is.get(name) {
                    Some(now) => differing_leaves((before, now), schema.field(name), path.field(name), into),
                    None => leaves(before, schema.field(name), path.field(name), &mut into.0),
                }
            }
            for (name, now) in is.iter().filter(|(name, _)| !was.contains_key(*name)) {
                leaves(now, schema.field(name), path.field(name), &mut into.1);
            }
        }
        _ => {
            leaves(before, schema, path, &mut into.0);
            leaves(now, schema, path, &mut into.1);
        }
    }
}

/// The maps and lists that have parts. Only an update owns one, if it was the first to write a part.
fn containers(fields: &Fields<'_>) -> BTreeSet<Path> {
    let mut parents = BTreeSet::new();
    for path in fields.keys() {
        let unknown = path.parents().take_while(|parent| !parents.contains(parent)).collect::<Vec<_>>();
        parents.extend(unknown);
    }
    parents.retain(|path| *path != Path::ROOT.field("metadata") && path.is_field());
    parents
}

/// The parts of an object whose fields have owners. Kubernetes leaves out what only it writes.
fn owned_parts<'a, 's>(
    object: &'a Value,
    schema: &'s Schema,
    part: Part,
) -> Vec<(Path, &'s Schema, &'a Value)> {
    let mut parts = Vec::new();
    for (name, field) in object.as_object().into_iter().flatten().filter(|(name, _)| part.has(name)) {
        let (path, schema) = (Path::ROOT.field(name), schema.field(name));
        match (name.as_str(), field) {
            ("apiVersion" | "kind", _) => {}
            ("metadata", Value::Object(fields)) => {
                let ours = ["labels", "annotations", "finalizers", "ownerReferences"];
                for (name, field) in fields.iter().filter(|(name, _)| ours.contains(&name.as_str())) {
                    parts.push((path.field(name), schema.field(name), field));
                }
            }
            _ => parts.push((path, schema, field)),
        }
    }
    parts
}

fn is_owned(path: Path) -> bool {
    path.depth() > 1 || path == Path::ROOT.field("status")
}

/// The fields of a part of an object that have owners.
fn owned_fields<'a>(object: &'a Value, schema: &Schema, part: Part) -> Fields<'a> {
    let mut owned = Fields::new();
    for (path, schema, value) in owned_parts(object, schema, part) {
        leaves(value, schema, path, &mut owned);
    }
    owned.retain(|path, _| is_owned(*path));
    owned
}

/// The fields with owners of two states of an object, as far as the states differ.
fn differing_fields<'a>(
    before: &'a Value,
    now: &'a Value,
    schema: &Schema,
    part: Part,
) -> (Fields<'a>, Fields<'a>) {
    let (was, is) = (owned_parts(before, schema, part), owned_parts(now, schema, part));
    let mut differing = (Fields::new(), Fields::new());
    for (path, schema, now) in &is {
        match was.iter().find(|(other, ..)| other == path) {
            Some((_, _, before)) => differing_leaves((before, now), schema, *path, &mut differing),
            None => leaves(now, schema, *path, &mut differing.1),
        }
    }
    for (path, schema, before) in was.iter().filter(|(path, ..)| !is.iter().any(|(other, ..)| other == path))
    {
        leaves(before, schema, *path, &mut differing.0);
    }
    differing.0.retain(|path, _| is_owned(*path));
    differing.1.retain(|path, _| is_owned(*path));
    differing
}

/// Merges two lists that are maps, in the order of structured-merge-diff (`visitListItems`): elements of both are in the
/// order of the applied list.
fn merge_lists(there: &[Value], applied: &[Value], keys: &[String], schema: &Schema) -> Vec<Value> {
    type Named<'a> = Vec<(String, &'a Value)>;
    fn named<'a>(elements: &'a [Value], keys: &[String]) -> Named<'a> {
        elements.iter().map(|element| (element_key(element, keys), element)).collect()
    }
    fn of<'a>(elements: &Named<'a>, key: &str) -> Option<&'a Value> {
        elements.iter().find(|(other, _)| other == key).map(|(_, element)| *element)
    }
    let (there, applied) = (named(there, keys), named(applied, keys));
    let merged = |key: &str, element: &Value| {
        let mut into = of(&there, key).cloned().unwrap_or(Value::Null);
        merge(&mut into, element, schema);
        into
    };
    let mut shared = applied.iter().map(|(key, _)| key).filter(|key| of(&there, key).is_some()).peekable();
    let (mut left, mut right) = (there.iter().peekable(), applied.iter().peekable());
    let (mut done, mut list) = (BTreeSet::new(), Vec::new());
    while left.peek().is_some() || right.peek().is_some() {
        if let Some((key, element)) = left.peek() {
            let is_applied = of(&applied, key).is_some();
            let is_next = right.peek().is_some_and(|(next, _)| next == key);
            let waits = right.peek().is_some() && shared.peek().is_some_and(|next| *next != key);
            if !is_next && is_applied && waits {
                left.next();
                continue;
            }
            if !is_applied {
                list.push(Value::clone(element));
                left.next();
                continue;
            }
            if is_next || done.contains(key) {
                left.next();
            }
        }
        if let Some((key, element)) = right.next() {
            list.push(merged(key, element));
            done.insert(key);
            shared.next_if(|next| *next == key);
        }
    }
    list
}

/// Merges what a writer applies into what is there.
fn merge(there: &mut Value, applied: &Value, schema: &Schema) {
    match (there, applied) {
        (there, applied) if there == applied => {}
        (Value::Object(there), Value::Object(applied)) if schema.is_granular() => {
            for (name, value) in applied {
                merge(there.entry(name.clone()).or_insert(Value::Null), value, schema.field(name));
            }
        }
        (Value::Array(there), Value::Array(applied)) if schema.keys().is_some() => {
            *there = merge_lists(there, applied, schema.keys().unwrap_or_default(), schema.items());
        }
        (there, applied) => *there = applied.clone(),
    }
}

/// `is_owned`: true for a path of so many steps whose map or list has an owner.
fn remove(value: &mut Value, path: &[Key], schema: &Schema, depth: usize, is_owned: &dyn Fn(usize) -> bool) {
    match (path, value) {
        ([Key::Field(name)], Value::Object(fields)) => drop(fields.remove(name)),
        ([Key::Field(name), rest @ ..], Value::Object(fields)) => {
            if let Some(field) = fields.get_mut(name) {
                remove(field, rest, schema.field(name), depth + 1, is_owned);
                // A map or list that nobody owns a part of goes too. Of an owned list null is left.
                let is_list = field.is_array();
                let is_empty = field.as_object().is_some_and(Map::is_empty)
                    || field.as_array().is_some_and(Vec::is_empty);
                match is_owned(depth + 1) {
                    false if is_empty => drop(fields.remove(name)),
                    true if is_empty && is_list => *field = Value::Null,
                    _ => {}
                }
            }
        }
        ([Key::Element(key), rest @ ..], Value::Array(elements)) => {
            let Some(keys) = schema.keys() else {
                let gone: Value = serde_json::from_str(key).unwrap_or_default();
                elements.retain(|element| *element != gone);
                return;
            };
            if rest.is_empty() {
                elements.retain(|element| element_key(element, keys) != *key);
            } else if let Some(element) = elements.iter_mut().find(|other| element_key(other, keys) == *key) {
                remove(element, rest, schema.items(), depth + 1, is_owned);
            }
        }
        _ => {}
    }
}

/// Applies an object by force to `object`, which is as `earlier`. Fields that the writer applied before, and does not apply
/// now, are removed unless they have another owner.
pub fn apply(
    object: &mut Value,
    earlier: &Value,
    owners: &mut Owners,
    writer: &Writer,
    applied: &Value,
    schema: &Schema,
    part: Part,
) {
    let now: BTreeSet<Path> = owned_fields(applied, schema, part).into_keys().collect();
    let mut lost = {
        let (was, is) = differing_fields(earlier, applied, schema, part);
        changed(&was, &is)
    };
    let before = owners.insert(writer.clone(), Arc::new(now.clone())).unwrap_or_default();
    merge(object, &without_nulls(applied), schema);
    // An element goes before its fields, as its keys are among them. To own a field of an element is not to own it.
    for path in before.difference(&now) {
        let is_others = owners.values().any(|fields| {
            fields.contains(path) || path.is_field() && fields.iter().any(|field| field.is_in(*path))
        });
        if !is_others {
            let is_owned = |len: usize| owners.values().any(|fields| fields.contains(&path.up_to(len)));
            remove(object, &path.keys(), schema, 0, &is_owned);
        }
    }
    // Two writers own a field that both want alike. A changed one is that of the last writer.
    let (was, is) = with_containers(differing_fields(earlier, object, schema, part));
    lost.extend(was.into_keys().filter(|path| !is.contains_key(path)));
    for (_, fields) in owners.iter_mut().filter(|(other, _)| *other != writer) {
        forget(fields, &lost);
    }
    owners.retain(|_, fields| !fields.is_empty());
}

/// The fields with another value than before.
fn changed(before: &Fields<'_>, now: &Fields<'_>) -> BTreeSet<Path> {
    let changed = now.iter().filter(|(path, value)| before.get(*path) != Some(*value));
    changed.map(|(path, _)| *path).collect()
}

fn forget(fields: &mut Arc<BTreeSet<Path>>, lost: &BTreeSet<Path>) {
    if lost.iter().any(|path| fields.contains(path)) {
        Arc::make_mut(fields).retain(|path| !lost.contains(path));
    }
}

/// Without the fields of the metadata that are null.
fn without_nulls(applied: &Value) -> Cow<'_, Value> {
    let is_null = |metadata: &Map<String, Value>| metadata.values().any(Value::is_null);
    if !applied["metadata"].as_object().is_some_and(is_null) {
        return Cow::Borrowed(applied);
    }
    let mut applied = applied.clone();
    if let Some(metadata) = applied["metadata"].as_object_mut() {
        metadata.retain(|_, value| !value.is_null());
    }
    Cow::Owned(applied)
}

/// Notes who wrote what, after another write than an apply.
pub fn note_update(
    before: &Value,
    now: &Value,
    owners: &mut Owners,
    writer: &Writer,
    schema: &Schema,
    part: Part,
) {
    let (before, now) = with_containers(differing_fields(before, now, schema, part));
    let changed = changed(&before, &now);
    let mut lost: BTreeSet<Path> = before.into_keys().filter(|path| !now.contains_key(path)).collect();
    lost.extend(&changed);
    owners.values_mut().for_each(|fields| forget(fields, &lost));
    if !changed.is_empty() {
        Arc::make_mut(owners.entry(writer.clone()).or_default()).extend(changed);
    }
    owners.retain(|_, fields| !fields.is_empty());
}

fn with_containers<'a>((mut before, mut now): (Fields<'a>, Fields<'a>)) -> (Fields<'a>, Fields<'a>) {
    for fields in [&mut before, &mut now] {
        let parts = containers(fields);
        fields.extend(parts.into_iter().map(|path| (path, &Value::Null)));
    }
    (before, now)
}
