//! Holds the API server in memory against a real kube-apiserver: the same random requests, and the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use kube::client::Body;
use reservoir_cluster::api::{ApiOptions, ApiServer};
use serde_json::{Value, json};

use crate::clock;
use crate::random::Random;
use crate::server::{self, Key, Owners, Path, Request, Server};

const PLURALS: [(&str, &str); 2] =
    [("diskreservations", "DiskReservation"), ("sharedpersistentvolumes", "SharedPersistentVolume")];
const REQUESTS: usize = 1500;

/// Maps and lists whose parts have owners. Kubernetes notes also who owns them when they are empty, which the simulation
/// does in part. So no request here leaves a list or map of the status empty that an update made.
const PARTS: [&str; 6] =
    ["/metadata/finalizers", "/metadata/labels", "/spec", "/status", "/status/conditions", "/status/node"];

/// UIDs and versions differ between servers, so each is replaced by its number in the order of appearance.
#[derive(Default)]
struct Numbers(BTreeMap<String, usize>, usize);

impl Numbers {
    fn number(&mut self, kind: &str, value: &mut Value) {
        if let Some(text) = value.as_str() {
            let number = *self.0.entry(format!("{kind} {text}")).or_insert_with(|| {
                self.1 += 1;
                self.1
            });
            *value = json!(format!("{kind} {number}"));
        }
    }

    /// The part of an answer that has to be the same.
    fn comparable(&mut self, (code, body): &(u16, Value)) -> Value {
        let mut body = body.clone();
        if body["kind"] == "Status" {
            return json!({"code": code, "reason": body["reason"]});
        }
        let items = body["items"].as_array().cloned();
        if let Some(items) = items {
            let items: Vec<Value> = items.into_iter().map(|item| self.object(item)).collect();
            return json!({"code": code, "items": items, "more": body["metadata"]["continue"].as_str().is_some_and(|more| !more.is_empty())});
        }
        body = self.object(body);
        json!({"code": code, "object": body})
    }

    fn object(&mut self, mut object: Value) -> Value {
        let metadata = &mut object["metadata"];
        self.number("uid", &mut metadata["uid"]);
        self.number("version", &mut metadata["resourceVersion"]);
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("managedFields");
            for time in ["creationTimestamp", "deletionTimestamp"] {
                fields.entry(time).and_modify(|at| *at = json!("some time"));
            }
        }
        object
    }
}

/// The fields of each writer, as `metadata.managedFields` of the real server has them.
fn owned_on_real(object: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut owned: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let writer = format!("{} {} {}", text("manager"), text("operation"), text("subresource"));
        fields_of("", &entry["fieldsV1"], owned.entry(writer.trim_end().to_owned()).or_default());
    }
    without_parts(owned)
}

fn without_parts(mut owned: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    owned.values_mut().for_each(|fields| fields.retain(|path| !PARTS.contains(&path.as_str())));
    owned.retain(|_, fields| !fields.is_empty());
    owned
}

fn fields_of(path: &str, fields: &Value, into: &mut BTreeSet<String>) {
    let fields = fields.as_object().into_iter().flatten();
    for (name, below) in fields {
        let next = format!("{path}/{}", &name[2.min(name.len())..]);
        match name.split_at(1).0 {
            "." => drop(into.insert(path.to_owned())),
            _ if below.as_object().is_none_or(serde_json::Map::is_empty) => drop(into.insert(next)),
            _ => fields_of(&next, below, into),
        }
    }
}

/// The same of the simulated server.
fn owned_on_ours(owners: &Owners) -> BTreeMap<String, BTreeSet<String>> {
    let mut owned = BTreeMap::new();
    for ((manager, is_apply, of_status), fields) in owners {
        let writer = format!(
            "{manager} {} {}",
            if *is_apply { "Apply" } else { "Update" },
            if *of_status { "status" } else { "" }
        );
        let path = |path: &Path| -> String {
            let key = |key: &Key| match key {
                Key::Field(name) | Key::Element(name) => format!("/{name}"),
            };
            path.keys().iter().map(key).collect()
        };
        owned.insert(writer.trim_end().to_owned(), fields.iter().map(path).collect());
    }
    without_parts(owned)
}

/// True if an object lost its last label. A real server stores an empty map then, shows none, and the next write that
/// changes nothing removes the map, as a revision more.
fn had_labels(object: &Value) -> bool {
    let owned = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    object["metadata"]["labels"].is_null()
        && owned.into_iter().any(|entry| entry["fieldsV1"]["f:metadata"]["f:labels"] == json!({}))
}

/// Asks the server in memory.
fn answer(server: &mut Server, request: &Request) -> (u16, Value) {
    let (code, body) = server.answer("unknown", request);
    (code, body.value().into_owned())
}

/// Sends a request to a server.
async fn ask(client: &Client, request: &Request) -> (u16, Value) {
    let mut path = format!("/apis/reservoir.dev/v1alpha1/{}", request.plural);
    for part in [&request.name, &request.subresource] {
        if !part.is_empty() {
            path = format!("{path}/{part}");
        }
    }
    let query: Vec<String> = request.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let body = if request.body.is_null() { vec![] } else { serde_json::to_vec(&request.body).unwrap() };
    let content_type =
        if request.content_type.is_empty() { "application/json" } else { &request.content_type };
    let sent = http::Request::builder()
        .method(request.method.as_str())
        .uri(format!("{path}?{}", query.join("&")))
        .header("content-type", content_type);
    let answer = client.send(sent.body(Body::from(body)).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    let body = answer.into_body().collect_bytes().await.unwrap();
    (code, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn size(random: &mut Random) -> String {
    format!("{}Gi", 1 + random.below(9))
}

fn spec(random: &mut Random, plural: &str) -> Value {
    let mut spec = json!({"role": "eng", "size": size(random)});
    if plural == "sharedpersistentvolumes" && random.in_a_thousand(300) {
        spec["shared"] = json!({});
    }
    spec
}

/// A part of a status, as one of several writers has it.
fn status(random: &mut Random, plural: &str) -> Value {
    let mut status = json!({});
    if random.in_a_thousand(600) {
        status["phase"] = json!(
            *random
                .pick(if plural == "diskreservations" {
                    &["Pending", "Reserved"]
                } else {
                    &["Pending", "Ready"]
                })
                .unwrap()
        );
    }
    if random.in_a_thousand(500) {
        status["nodeDisk"] = json!(*random.pick(&["n1.a", "n2.b"]).unwrap());
    }
    if random.in_a_thousand(400) {
        status["size"] = json!(size(random));
    }
    if plural == "sharedpersistentvolumes" && random.in_a_thousand(400) {
        let mut node = json!({"backing": "Made"});
        if random.in_a_thousand(500) {
            node["size"] = json!(size(random));
        }
        status["node"] = node;
    }
    let mut conditions: Vec<Value> = vec![];
    for kind in ["Ready", "Backed", "Resized"] {
        if random.in_a_thousand(400) {
            let state = if random.in_a_thousand(500) { "True" } else { "False" };
            conditions.push(json!({"type": kind, "status": state, "reason": "Because",
                "message": format!("m{}", random.below(3)), "lastTransitionTime": "2026-01-01T00:00:00Z"}));
        }
    }
    if !conditions.is_empty() {
        status["conditions"] = json!(conditions);
    }
    status
}

/// A random request. `current` is the object as one server has it, as versions and UIDs are its own.
fn request(random: &mut Random, current: &dyn Fn(&str, &str) -> Value) -> Request {
    let (plural, kind) = *random.pick(&PLURALS).unwrap();
    let name = format!("o{}", random.below(3));
    let now = current(plural, &name);
    let mut request = Request { plural, name: name.clone(), ..Default::default() };
    let identity = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind, "metadata": {"name": name}});
    let what = random.below(11);
    let (method, content_type, mut body) = match what {
        0 | 1 => {
            let mut body = identity.clone();
            body["spec"] = spec(random, plural);
            if random.in_a_thousand(500) {
                body["metadata"]["finalizers"] = json!(["example.com/one"]);
            }
            request.name.clear();
            ("POST", "", body)
        }
        2 => ("PATCH", "merge", json!({"spec": {"size": size(random)}})),
        3 => {
            let labels = json!({"app": if random.in_a_thousand(300) { Value::Null } else { json!(format!("l{}", random.below(2))) }});
            ("PATCH", "merge", json!({"metadata": {"labels": labels}}))
        }
        4 => {
            let all = [json!([]), json!(["example.com/one"]), json!(["example.com/one", "example.com/two"])];
            ("PATCH", "merge", json!({"metadata": {"finalizers": random.pick(&all).unwrap()}}))
        }
        5 | 6 => {
            request.subresource = "status".into();
            let mut body = identity.clone();
            body["status"] = status(random, plural);
            if body["status"] == json!({}) {
                body["status"]["phase"] = json!("Pending");
            }
            ("PATCH", "apply", body)
        }
        7 => {
            request.subresource = "status".into();
            let mut status = status(random, plural);
            for part in ["conditions", "node"] {
                status.as_object_mut().unwrap().remove(part);
            }
            ("PATCH", "merge", json!({"status": status}))
        }
        8 => {
            let mut body = identity.clone();
            body["spec"] = json!({"role": "eng", "size": size(random)});
            if random.in_a_thousand(500) {
                body["metadata"]["labels"] = json!({"app": format!("l{}", random.below(2))});
            }
            ("PATCH", "apply", body)
        }
        9 => ("DELETE", "", Value::Null),
        _ if random.in_a_thousand(500) => ("GET", "", Value::Null),
        _ => {
            request.name.clear();
            if random.in_a_thousand(500) {
                request.query.push(("labelSelector".into(), "app=l0".into()));
            }
            ("GET", "", Value::Null)
        }
    };
    request.method = method.into();
    if content_type == "merge" {
        request.content_type = "application/merge-patch+json".into();
        request.query.push(("fieldManager".into(), "merger".into()));
    } else if content_type == "apply" {
        request.content_type = "application/apply-patch+yaml".into();
        let manager = format!("manager{}", random.below(2));
        request.query.extend([("fieldManager".into(), manager), ("force".into(), "true".into())]);
    }
    if method == "PATCH" && random.in_a_thousand(400) {
        let version = if random.in_a_thousand(800) {
            now["metadata"]["resourceVersion"].clone()
        } else {
            json!("7777777")
        };
        if version.is_string() {
            body["metadata"]["resourceVersion"] = version;
        }
    }
    if method == "PATCH" && random.in_a_thousand(200) && now["metadata"]["uid"].is_string() {
        body["metadata"]["uid"] = now["metadata"]["uid"].clone();
    }
    if method == "DELETE" && random.in_a_thousand(400) {
        let uid = if random.in_a_thousand(600) {
            now["metadata"]["uid"].clone()
        } else {
            json!("00000000-0000-4000-8000-000000000000")
        };
        if uid.is_string() {
            body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
        }
    }
    if method != "GET" && random.in_a_thousand(100) {
        request.query.push(("dryRun".into(), "All".into()));
    }
    request.body = body;
    request
}

/// The path of the first difference between two answers, and both values there.
fn first_difference(path: &str, ours: &Value, real: &Value) -> Option<String> {
    match (ours, real) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            names
                .into_iter()
                .find_map(|name| first_difference(&format!("{path}.{name}"), &ours[name], &real[name]))
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let mut pairs = one.iter().zip(other).enumerate();
            pairs.find_map(|(at, (one, other))| first_difference(&format!("{path}[{at}]"), one, other))
        }
        _ => (ours != real).then(|| format!("{path} is {ours}, and {real} on the real server")),
    }
}

/// One server's current objects, for the requests to it.
fn current(objects: &BTreeMap<(String, String), Value>) -> impl Fn(&str, &str) -> Value + '_ {
    |plural, name| objects.get(&(plural.to_owned(), name.to_owned())).cloned().unwrap_or(Value::Null)
}

/// The only event of a watch that is too old, and of one whose object is no longer selected.
async fn ends_of_watches(client: &Client) -> [Value; 2] {
    let (plural, name) = ("diskreservations", "watched");
    let send = async |method: &str, name: &str, body: Value| {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "" };
        let (method, name, content_type) = (method.into(), name.into(), content_type.into());
        let request = Request { method, plural, name, content_type, body, ..Default::default() };
        ask(client, &request).await.1["metadata"]["resourceVersion"].clone()
    };
    let watch = async |since: &str| {
        let query = [
            ("watch", "1"),
            ("timeoutSeconds", "2"),
            ("resourceVersion", since),
            ("labelSelector", "app=l0"),
        ];
        let query = query.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        ask(client, &Request { method: "GET".into(), plural, query, ..Default::default() }).await
    };
    let (code, too_old) = watch("1").await;
    let made = json!({
        "apiVersion": "reservoir.dev/v1alpha1", "kind": "DiskReservation",
        "metadata": {"name": name, "labels": {"app": "l0"}}, "spec": {"role": "eng", "size": "1Gi"},
    });
    let since = send("POST", "", made).await;
    let changed = send("PATCH", name, json!({"metadata": {"labels": {"app": "l1"}}})).await;
    let (_, left) = watch(since.as_str().unwrap_or_default()).await;
    let object = &left["object"]["metadata"];
    [
        json!([code, too_old["type"], too_old["object"]["code"], too_old["object"]["reason"]]),
        json!([left["type"], object["labels"], object["resourceVersion"] == changed]),
    ]
}

/// The simulation proves nothing if its API server answers otherwise than a real one.
#[tokio::test]
async fn the_simulated_api_server_answers_as_a_real_one() {
    clock::begin();
    let real = ApiServer::start(ApiOptions { controller_manager: false, audit: false }).await.unwrap();
    let client = real.client().await.unwrap();
    for crd in reservoir::api::crds() {
        kube::Api::all(client.clone()).create(&Default::default(), crd).await.unwrap();
    }
    for (plural, _) in PLURALS {
        let list = Request { method: "GET".into(), plural, ..Default::default() };
        while ask(&client, &list).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut here = Server::new(Random::new(seed), Default::default(), false);
    here.has_policies = false;
    let (mut real_numbers, mut numbers) = (Numbers::default(), Numbers::default());
    let mut objects = [BTreeMap::new(), BTreeMap::new()];
    let mut random = Random::new(seed);
    let mut codes: BTreeMap<u16, usize> = BTreeMap::new();
    for number in 0..REQUESTS {
        let (mut first, mut second) = (random.clone(), random.clone());
        let to_real = request(&mut first, &current(&objects[0]));
        let to_ours = request(&mut second, &current(&objects[1]));
        random.next();
        let (theirs, ours) = (ask(&client, &to_real).await, answer(&mut here, &to_ours));
        let (expected, found) = (real_numbers.comparable(&theirs), numbers.comparable(&ours));
        let is_version = |path: &str| path.starts_with(".object.metadata.resourceVersion ");
        let mut difference = first_difference("", &found, &expected);
        let before = current(&objects[0])(to_real.plural, &to_real.name);
        if difference.as_deref().is_some_and(is_version) && had_labels(&before) {
            let version = |answer: &Value| {
                format!("version {}", answer["metadata"]["resourceVersion"].as_str().unwrap_or_default())
            };
            let number = numbers.0[&version(&ours.1)];
            real_numbers.0.insert(version(&theirs.1), number);
            (real_numbers.1, numbers.1) = [real_numbers.1.max(numbers.1); 2].into();
            difference = first_difference("", &numbers.comparable(&ours), &real_numbers.comparable(&theirs));
        }
        if let Some(difference) = difference {
            panic!(
                "request {number} of seed {seed}: {difference}\n{to_ours:?}\nbefore: {}\nreal: {}\nours: {}",
                before, theirs.1, ours.1
            );
        }
        if let Some(stored) = here.store.get(&(to_ours.plural, String::new(), to_ours.name.clone()))
            && theirs.0 == 200
            && to_ours.method == "PATCH"
            && to_ours.query("dryRun").is_empty()
        {
            let (ours, real) = (owned_on_ours(&stored.owners), owned_on_real(&theirs.1));
            assert_eq!(ours, real, "owners after request {number} of seed {seed}: {to_ours:?}");
        }
        *codes.entry(theirs.0).or_default() += 1;
        if to_ours.method == "GET" {
            continue;
        }
        // Both learn what each server has now.
        let list = Request { method: "GET".into(), plural: to_ours.plural, ..Default::default() };
        let answers = [ask(&client, &list).await, answer(&mut here, &list)];
        for (objects, (_, list)) in objects.iter_mut().zip(answers) {
            objects.retain(|(of, _), _| of != to_ours.plural);
            for item in list["items"].as_array().cloned().unwrap_or_default() {
                let name = item["metadata"]["name"].as_str().unwrap().to_owned();
                objects.insert((to_ours.plural.to_owned(), name), item);
            }
        }
    }
    println!("{REQUESTS} requests answered alike: {codes:?}");
    here.compacted = here.store.version;
    let here = server::client(&Arc::new(Mutex::new(here)), "unknown");
    assert_eq!(ends_of_watches(&here).await, ends_of_watches(&client).await);
    real.stop().await.unwrap();
}
