//! Copies of sealed volumes: what users do with them, and the agents that fill them from other nodes (E2, E3, E5).
//!
//! The files of a copy come in some parts. Nothing is believed of a source: a part with other bytes is refused, and the digest
//! decides in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::{Api, ResourceExt};
use reservoir::api::{NodeDisk, SharedPersistentVolume, Transfer, UidRef};
use reservoir::cluster;
use reservoir::plan::copies::{may_read, transfer};
use reservoir::plan::seal::Outcome;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::agent::{Agent, DISK_ERROR};
use crate::host::{self, Host, Hosts};
use crate::kubernetes::{objects, patch, text};
use crate::random::Random;
use crate::seals::{Files, Purpose, Seal};
use crate::server::{self, Object, Request, Server, Shared};
use crate::users::{NAMESPACES, POOLS, create, delete_it, gi, subscribe};
use crate::world::NODES;

/// The parts in which the files of a copy come.
const PARTS: u8 = 3;
/// The pause after a failure, also before an attempt with another source.
const AFTER_FAILURE: Duration = Duration::from_secs(20);
const ROLE: &str = "eng";
const SETS: u64 = 2;
const CLAIMS: u64 = 3;

/// The copies that failed, and when: a part of the agent's process.
#[derive(Clone, Default)]
pub struct Failures(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Failures {
    fn note(&self, uid: &str) {
        server::lock(&self.0).insert(uid.to_owned(), Instant::now());
    }

    fn rests(&self, uid: &str) -> bool {
        let mut failures = server::lock(&self.0);
        failures.retain(|_, since| since.elapsed() < AFTER_FAILURE);
        failures.contains_key(uid)
    }
}

/// A copy that is being filled.
#[derive(Clone)]
pub struct Pull {
    /// UID of the volume that sends.
    pub source: String,
    copy: String,
    digest: String,
    at: Transfer,
}

impl Host {
    /// As `host/copies.rs`: a copy has no writer from its first byte on.
    fn begin_copy(&mut self, uid: &str, digest: &str) -> Result<(), Outcome> {
        let record = self.sealable(uid)?;
        match &record.seal {
            Seal::Sealed(content) if content.digest == digest => Err(Outcome::Sealed(content.clone())),
            Seal::Sealed(content) => Err(Outcome::Failed(format!("it has the digest {}", content.digest))),
            Seal::Open | Seal::Closed => {
                record.seal = Seal::Closed;
                Ok(())
            }
        }
    }

    /// A part has come; the outcome if it was the last one.
    fn receive(&mut self, uid: &str, digest: &str, files: Files) -> Option<Outcome> {
        let record = match self.sealable(uid) {
            Ok(record) => record,
            Err(failed) => return Some(failed),
        };
        record.received = PARTS.min(record.received + 1);
        if record.received < PARTS {
            return None;
        }
        record.files = files;
        let content = files.content();
        if content.digest != digest {
            return Some(Outcome::Failed("its files differ".to_owned()));
        }
        record.seal = Seal::Sealed(content.clone());
        Some(Outcome::Sealed(content))
    }

    /// The files of a sealed volume and their digest, for those who copy it.
    fn sealed_files(&self, uid: &str) -> Option<(Files, String)> {
        let record = self.records.get(uid).filter(|record| !record.fenced && !record.erasing)?;
        match &record.seal {
            Seal::Sealed(content) if self.serves.is_some() => Some((record.files, content.digest.clone())),
            _ => None,
        }
    }
}

impl Agent {
    /// The place where the agent sends volumes. Each agent has an address and a key of its own.
    pub fn transfer(&self) -> Option<Transfer> {
        let agents = self.on_host(|host| host.agents);
        let key = format!("key {agents} of {}", self.node);
        self.setup.copies.then(|| Transfer { address: format!("{}:{agents}", self.node), key })
    }

    /// As `agent/copies.rs`.
    pub async fn fill(&self, volume: &SharedPersistentVolume, uid: &str) -> Outcome {
        let source = volume.status.as_ref().and_then(|status| status.source.clone());
        let (Some(of), Some(source), true) = (&volume.spec.copy_of, source, self.setup.copies) else {
            return Outcome::Failed("the agent of this node makes no copies".to_owned());
        };
        if self.failures.rests(uid) {
            return Outcome::Resting(AFTER_FAILURE);
        }
        let read = match self.place_of(&source).await {
            Ok(at) => {
                let (source, copy, digest) = (source.uid.clone(), volume.name_any(), of.digest.clone());
                self.read(uid, Purpose::Copy(Pull { source, copy, digest, at })).await
            }
            Err(why) => Some(Outcome::CopyFailed(source.uid.clone(), why)),
        };
        match read {
            Some(Outcome::Sealed(content)) => Outcome::Sealed(content),
            None => Outcome::Copying(source),
            Some(failed) => {
                self.failures.note(uid);
                failed
            }
        }
    }

    /// The place of a source, by live reads.
    async fn place_of(&self, source: &UidRef) -> Result<Transfer, String> {
        let volumes: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let found = cluster::get(&volumes, &source.name).await.map_err(|error| error.to_string())?;
        let found = found.filter(|found| found.metadata.uid.as_ref() == Some(&source.uid));
        let status = found.and_then(|found| found.status).ok_or("the source is gone")?;
        let disk = self.disk_of(status.node_disk.as_deref()).await.map_err(|error| error.to_string())?;
        disk.as_ref().and_then(transfer).cloned().ok_or_else(|| "its agent sends no copies".to_owned())
    }

    async fn disk_of(&self, name: Option<&str>) -> Result<Option<NodeDisk>, cluster::Error> {
        match name {
            Some(name) => cluster::get(&Api::all(self.client.clone()), name).await,
            None => Ok(None),
        }
    }

    /// Receives the parts that are missing; `None` if it was stopped, or the agent died.
    pub async fn pull(&self, uid: &str, pull: &Pull, stop: &AtomicBool) -> Option<Outcome> {
        let agents = self.on_host(|host| host.agents);
        let failed = |why: String| Some(Outcome::CopyFailed(pull.source.clone(), why));
        if let Err(outcome) = self.record(uid, |host| host.begin_copy(uid, &pull.digest)).await {
            return match outcome {
                Outcome::Failed(why) => failed(why),
                sealed => Some(sealed),
            };
        }
        loop {
            let pause = server::lock(&self.server).random.below(1200);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let sent = self.ask(pull).await;
            let is_over = self.on_host(|host| host.agents != agents || !host.has_agent);
            if is_over || stop.load(Ordering::Relaxed) {
                return None;
            }
            let files = match sent {
                Ok(_) if self.fails() => return failed(DISK_ERROR.to_owned()),
                Ok(files) => files,
                Err(why) => return failed(why),
            };
            match self.record(uid, |host| host.receive(uid, &pull.digest, files)).await {
                None => {}
                Some(Outcome::Sealed(content)) => {
                    self.tell(|| format!("has made copy {} of {}", pull.copy, pull.source));
                    return Some(Outcome::Sealed(content));
                }
                Some(Outcome::Failed(why)) => return failed(why),
                other => return other,
            }
        }
    }

    /// Asks the agent of the source for a part. The agent of the source decides as `open_for` of `agent/copies.rs`.
    async fn ask(&self, pull: &Pull) -> Result<Files, String> {
        let no_answer = || "there is no answer".to_owned();
        let is_there = |node: &str| {
            let source = Self { node: node.to_owned(), ..self.clone() };
            source.on_host(|host| host.has_agent) && source.transfer().as_ref() == Some(&pull.at)
        };
        let node = NODES.into_iter().find(|node| is_there(node)).ok_or_else(no_answer)?;
        let client = server::client(&self.server, &format!("agent {node}"));
        let source = Self { node: node.to_owned(), client, ..self.clone() };
        let files = source.on_host(|host| host.sealed_files(&pull.source));
        let (files, digest) = files.ok_or("there is no such volume, sealed and on a disk that is served")?;
        let volumes: Api<SharedPersistentVolume> = Api::all(source.client.clone());
        let failed = |error: cluster::Error| format!("the API server was not reached: {error}");
        let copy = cluster::get(&volumes, &pull.copy).await.map_err(failed)?;
        let on = copy.as_ref().and_then(|copy| copy.status.as_ref()?.node_disk.as_deref());
        let disk = source.disk_of(on).await.map_err(failed)?;
        let key = self.transfer().map(|own| own.key).unwrap_or_default();
        let may = may_read(copy.as_ref(), disk.as_ref(), &key, &pull.source)?;
        if may != digest {
            return Err("the volume has not the digest of the copy".to_owned());
        }
        if source.fails() {
            return Err("the source could not read".to_owned());
        }
        if !is_there(node) {
            return Err(no_answer());
        }
        let is_rotten = |host: &mut Host| host.records.get(&pull.source).is_some_and(|of| of.is_rotten);
        let (is_rotten, often) = source.on_host(|host| (is_rotten(host), host.sends_other));
        match is_rotten || server::lock(&self.server).random.in_a_thousand(often) {
            true => Err("the source sends other bytes than those of the manifest".to_owned()),
            false => Ok(files),
        }
    }
}

/// The requests of people who begin with data sets: space on each node, volumes, and claims.
pub fn begun(random: &mut Random) -> Vec<(&'static str, Request)> {
    let mut requests = Vec::new();
    for node in NODES {
        requests.push(("operator", room(random, node)));
    }
    for set in 0..SETS {
        let name = format!("set{set}");
        requests.push(("user", data_set(random, &name)));
        let sealed = json!({"spec": {"sealed": true, "copies": copies(random)}});
        let volume = json!({"metadata": {"name": name}});
        requests.push(("user", patch("sharedpersistentvolumes", &volume, "", sealed)));
    }
    for namespace in NAMESPACES {
        let spec = json!({"roles": [ROLE], "capabilities": ["SHARED_RESOURCES"]});
        requests.push((namespace, create("rolesubscriptions", namespace, "sets", spec)));
        for set in 0..SETS {
            requests.push((namespace, claim(random, namespace, &format!("cs{set}"), &format!("set{set}"))));
        }
    }
    requests
}

fn room(random: &mut Random, node: &str) -> Request {
    let spec = json!({"role": ROLE, "size": gi(random, 20), "nodeName": node});
    create("diskreservations", "", &format!("room-{node}"), spec)
}

fn data_set(random: &mut Random, name: &str) -> Request {
    create("sharedpersistentvolumes", "", name, json!({"role": ROLE, "size": gi(random, 3), "shared": {}}))
}

fn claim(random: &mut Random, namespace: &str, name: &str, volume: &str) -> Request {
    // A pod may have written before.
    let mode = if random.in_a_thousand(700) { "ReadOnly" } else { "ReadWrite" };
    create("volumeclaims", namespace, name, json!({"role": ROLE, "volume": volume, "mode": mode}))
}

/// The next request of somebody who has data sets.
pub fn act(server: &Server, random: &mut Random, namespace: &'static str) -> Option<(&'static str, Request)> {
    const VOLUMES: &str = "sharedpersistentvolumes";
    let name = format!("set{}", random.below(SETS));
    let any = |random: &mut Random, is: fn(&Value) -> bool| -> Option<Arc<Object>> {
        let mut all = objects(server, VOLUMES);
        all.retain(|volume| is(volume));
        random.pick(&all).cloned()
    };
    let is_copy = |volume: &Value| volume["spec"]["copyOf"].is_object();
    let is_set = |volume: &Value| {
        text(&volume["metadata"]["name"]).starts_with("set") || volume["status"]["digest"].is_string()
    };
    Some(match random.below(40) {
        0..4 => {
            let node = *random.pick(&NODES)?;
            ("operator", room(random, node))
        }
        4..8 => ("user", data_set(random, &name)),
        8..16 => {
            let is_named = |volume: &Value| text(&volume["metadata"]["name"]).starts_with("set");
            let is_shared = |volume: &Value| volume["spec"]["shared"].is_object();
            let is = if random.in_a_thousand(700) { is_named } else { is_shared };
            let volume = any(random, is)?;
            ("user", patch(VOLUMES, &volume, "", json!({"spec": {"sealed": true, "copies": copies(random)}})))
        }
        16 => ("user", patch(VOLUMES, &*any(random, is_set)?, "", json!({"spec": {"copies": null}}))),
        17..21 => {
            let own = format!("cs{}", random.below(CLAIMS));
            (namespace, claim(random, namespace, &own, &name))
        }
        21..29 => (namespace, reader(random, namespace)),
        29 => {
            let copy = any(random, is_copy)?;
            let spec = json!({"role": ROLE, "volume": copy["metadata"]["name"], "mode": "ReadOnly"});
            (namespace, create("volumeclaims", namespace, &format!("cc{}", random.below(2)), spec))
        }
        30..33 => {
            let request = if random.in_a_thousand(800) { "asked" } else { "once more" };
            let body = json!({"spec": {"sealed": true, "verify": request}});
            ("user", patch(VOLUMES, &*any(random, is_set)?, "", body))
        }
        33 => ("user", delete_it(VOLUMES, any(random, is_copy)?)),
        34 if random.in_a_thousand(300) => ("user", delete_it(VOLUMES, any(random, is_set)?)),
        35 => {
            let (volume, retire) = (any(random, is_set)?, random.in_a_thousand(250));
            ("user", patch(VOLUMES, &volume, "", json!({"spec": {"retire": retire}})))
        }
        36 => {
            let (volume, policy) =
                (any(random, is_set)?, if random.in_a_thousand(600) { "Wait" } else { "Refuse" });
            ("user", patch(VOLUMES, &volume, "", json!({"spec": {"deletionPolicy": policy}})))
        }
        _ => (namespace, subscribe(random, namespace)),
    })
}

/// The nodes that are to have a copy: all, none, or some of them.
fn copies(random: &mut Random) -> Value {
    let mut copies = match random.below(5) {
        0 => json!({"nodeSelector": {"pool": "nobody's"}}),
        1 | 2 => json!({"nodeSelector": {"pool": random.pick(&POOLS)}}),
        _ => json!({}),
    };
    if random.in_a_thousand(300) {
        copies["atOnce"] = json!(1);
    }
    if random.in_a_thousand(200) {
        copies["ownNode"] = json!(true);
    }
    copies
}

/// A pod that reads a data set, on any node or on one.
fn reader(random: &mut Random, namespace: &str) -> Request {
    let claim = match random.in_a_thousand(100) {
        true => format!("cc{}", random.below(2)),
        false => format!("cs{}", random.below(CLAIMS)),
    };
    let source = json!({"claimName": claim, "readOnly": random.in_a_thousand(700)});
    let mut spec = json!({"volumes": [{"name": "set", "persistentVolumeClaim": source}], "containers": [{"name": "main", "image": "app"}]});
    if random.in_a_thousand(700) {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": random.pick(&NODES)});
    }
    create("pods", namespace, &format!("reader{}", random.below(4)), spec)
}

/// E4: people verify what their disks changed. Until then such a volume sends bytes that its copies refuse, again and again.
pub fn verify_what_rotted(server: &Shared, hosts: &Hosts) {
    let mut server = server::lock(server);
    let rotten: BTreeSet<String> = {
        let hosts = host::lock(hosts);
        let records = hosts.values().flat_map(|host| &host.records);
        records.filter(|(_, record)| record.is_rotten).map(|(uid, _)| uid.clone()).collect()
    };
    for volume in objects(&server, "sharedpersistentvolumes") {
        let is_rotten = volume["metadata"]["uid"].as_str().is_some_and(|uid| rotten.contains(uid));
        if is_rotten && volume["spec"]["sealed"] == true {
            let request = json!({"spec": {"verify": "in the end"}});
            server.answer("user", &patch("sharedpersistentvolumes", &volume, "", request));
        }
    }
}
