//! Users, tenants and operators: what they may do, at random and in any order.

use std::sync::Arc;

use reservoir::api::{DiskKind, DiskReservation};
use reservoir::plan::kept;
use serde_json::{Value, json};

use crate::classes;
use crate::copies;
use crate::kubernetes::{delete, patch, pods, text};
use crate::random::Random;
use crate::server::{Object, Request, Server, is_being_deleted};
use crate::setup::{ADOPTABLE, DISK, Setup};

const ROLES: [&str; 4] = ["eng", "eng/ml", "ops", "dev"];
pub const NAMESPACES: [&str; 2] = ["blue", "red"];
/// The values of the label `pool` of nodes.
pub const POOLS: [&str; 2] = ["blue", "green"];
const RESERVATIONS: usize = 6;
const VOLUMES: usize = 8;
const CLAIMS: usize = 6;
const PODS: usize = 5;

pub fn create(plural: &'static str, namespace: &str, name: &str, spec: Value) -> Request {
    let object = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
    Request {
        method: "POST".into(),
        plural,
        namespace: namespace.into(),
        name: String::new(),
        body: object,
        ..Default::default()
    }
}

pub fn gi(random: &mut Random, most: u64) -> String {
    format!("{}Gi", 1 + random.below(most))
}

/// An object of a kind, if there is one.
pub fn any(server: &Server, random: &mut Random, plural: &'static str) -> Option<Arc<Object>> {
    let all: Vec<_> = server.store.list(plural, "").map(|(_, object)| object).collect();
    random.pick(&all).map(|object| Arc::clone(object))
}

pub fn delete_it(plural: &'static str, object: Arc<Object>) -> Request {
    let metadata = &object["metadata"];
    delete(plural, &text(&metadata["namespace"]), &text(&metadata["name"]), Value::Null)
}

/// The next request of somebody; `None`: nobody wants anything.
pub fn next(server: &Server, random: &mut Random, setup: &Setup) -> Option<(&'static str, Request)> {
    let namespace = *random.pick(&NAMESPACES)?;
    if setup.copies && random.in_a_thousand(350) {
        return copies::act(server, random, namespace);
    }
    let role = *random.pick(&ROLES)?;
    let request = match random.below(128) {
        0..12 => ("operator", reserve(server, random, role)),
        12..30 => ("user", create_volume(random, role, setup)),
        30..46 => (namespace, claim(random, namespace, role)),
        46..58 => (namespace, pod(server, random, namespace)),
        58..62 => (namespace, subscribe_again(server, random, namespace)),
        62..65 => ("operator", quota(server, random, role)),
        65..70 => {
            let reservation = any(server, random, "diskreservations")?;
            let size = gi(random, 60);
            ("operator", patch("diskreservations", &reservation, "", json!({"spec": {"size": size}})))
        }
        70..74 => {
            let volume = any(server, random, "sharedpersistentvolumes")?;
            let size = gi(random, 20);
            ("user", patch("sharedpersistentvolumes", &volume, "", json!({"spec": {"size": size}})))
        }
        74..76 => {
            let volume = any(server, random, "sharedpersistentvolumes")?;
            let retire = random.in_a_thousand(600);
            ("user", patch("sharedpersistentvolumes", &volume, "", json!({"spec": {"retire": retire}})))
        }
        76..78 => {
            let plural =
                if random.in_a_thousand(500) { "sharedpersistentvolumes" } else { "diskreservations" };
            let object = any(server, random, plural)?;
            let policy = if random.in_a_thousand(700) { "Wait" } else { "Refuse" };
            ("user", patch(plural, &object, "", json!({"spec": {"deletionPolicy": policy}})))
        }
        78..84 => {
            ("user", delete_it("sharedpersistentvolumes", any(server, random, "sharedpersistentvolumes")?))
        }
        84..87 => ("operator", delete_it("diskreservations", any(server, random, "diskreservations")?)),
        87..91 => (namespace, delete_it("volumeclaims", any(server, random, "volumeclaims")?)),
        91..92 => (namespace, delete_it("rolesubscriptions", any(server, random, "rolesubscriptions")?)),
        92..93 => {
            (namespace, delete_it("persistentvolumeclaims", any(server, random, "persistentvolumeclaims")?))
        }
        93..94 => ("operator", delete_it("volumeroles", any(server, random, "volumeroles")?)),
        94..97 => {
            let pod = random.pick(&pods(server))?.clone();
            let grace =
                if random.in_a_thousand(150) { json!({"gracePeriodSeconds": 0}) } else { Value::Null };
            let metadata = &pod["metadata"];
            (namespace, delete("pods", &text(&metadata["namespace"]), &text(&metadata["name"]), grace))
        }
        97..98 => (namespace, in_the_way(random, namespace)),
        100..122 => (namespace, classes::act(server, random, namespace)?),
        122..124 => ("operator", recover(server, random)?),
        124..128 => {
            let volume = any(server, random, "sharedpersistentvolumes")?;
            let sealed = random.in_a_thousand(700);
            (
                "user",
                patch(
                    "sharedpersistentvolumes",
                    &volume,
                    "",
                    json!({"spec": {"sealed": sealed, "verify": sealed.then_some("asked")}}),
                ),
            )
        }
        _ => {
            let pod = random.pick(&pods(server))?.clone();
            if pod["status"]["phase"] != "Running" || is_being_deleted(&pod) {
                return None;
            }
            ("kubelet", patch("pods", &pod, "status", json!({"status": {"phase": "Succeeded"}})))
        }
    };
    Some(request)
}

fn reserve(server: &Server, random: &mut Random, role: &str) -> Request {
    let mut name = format!("r{}", random.below(RESERVATIONS as u64));
    let mut spec = json!({"role": role, "size": gi(random, 50)});
    let disk = format!("n{}.{}", 1 + random.below(3), DISK.0);
    match random.below(8) {
        // One of the labels is on no node.
        4 => spec["nodeSelector"] = json!({"pool": random.pick(&[POOLS[0], POOLS[1], "red"])}),
        5 => spec["nodeDisk"] = json!(disk),
        0 => spec["nodeName"] = json!(format!("n{}", 1 + random.below(4))),
        1 if role == "eng/ml" => spec["parent"] = json!(format!("r{}", random.below(RESERVATIONS as u64))),
        // A part of any other one: of a template's, of a static one, of a refinement, or of one whose role does not cover it.
        6 => {
            let parent = any(server, random, "diskreservations").map(|of| of["metadata"]["name"].clone());
            spec["parent"] = json!(parent);
            spec["size"] = json!(gi(random, 6));
        }
        // The name that a template would give (R7).
        7 => name = format!("{}.{}.{disk}", role.replace('/', "-"), random.pick(&["a", "b"]).unwrap_or(&"a")),
        _ => {}
    }
    create("diskreservations", "", &name, spec)
}

/// Brings kept data back (X8), or data without an object (X6).
fn recover(server: &Server, random: &mut Random) -> Option<Request> {
    let name = format!("v{}", random.below(VOLUMES as u64));
    let reservation: Arc<DiskReservation> = any(server, random, "diskreservations")?.typed();
    let kept: Vec<_> = reservation.status.iter().flat_map(|status| kept::entries(status)).collect();
    if let Some((entry, _)) = random.pick(&kept) {
        let volume = kept::undeleted(&name, entry, &reservation).ok()?;
        return Some(create("sharedpersistentvolumes", "", &name, json!(volume.spec)));
    }
    let disk = any(server, random, "nodedisks")?;
    let orphan = random.pick(disk["status"]["orphans"].as_array()?)?.clone();
    Some(create("sharedpersistentvolumes", "", &name, orphan["spec"].clone()))
}

fn create_volume(random: &mut Random, role: &str, setup: &Setup) -> Request {
    let name = format!("v{}", random.below(VOLUMES as u64));
    let mut spec = json!({"role": role, "size": gi(random, 15)});
    if random.in_a_thousand(600) {
        spec["shared"] = json!({});
    }
    if random.in_a_thousand(200) {
        spec["reservation"] = json!(format!("r{}", random.below(RESERVATIONS as u64)));
    }
    if random.in_a_thousand(150) {
        spec["keepFor"] = json!("10m");
    }
    if random.in_a_thousand(100) {
        spec["subRoles"] = json!("Deny");
    }
    if random.in_a_thousand(80) {
        spec["erasePolicy"] = json!("Zero");
    }
    if random.in_a_thousand(if setup.kind == DiskKind::Block { 500 } else { 40 }) {
        spec["volumeMode"] = json!("Block");
        return create("sharedpersistentvolumes", "", &name, spec);
    }
    if setup.adopts && random.in_a_thousand(150) {
        spec["adopt"] = json!({"path": format!("{ADOPTABLE}/{}", random.below(3))});
    }
    create("sharedpersistentvolumes", "", &name, spec)
}

fn claim(random: &mut Random, namespace: &str, role: &str) -> Request {
    let name = format!("c{}", random.below(CLAIMS as u64));
    let volume = format!("v{}", random.below(VOLUMES as u64));
    let mut spec = json!({"role": role});
    match random.in_a_thousand(800) {
        true => spec["volume"] = json!(volume),
        false => {
            spec["selector"] = json!({"matchLabels": {"app": volume}});
            if random.in_a_thousand(300) {
                spec["selector"]["minSize"] = json!(gi(random, 9));
            }
        }
    }
    if random.in_a_thousand(40) {
        spec["digest"] = json!(format!("blake3:{:064x}", random.next()));
    }
    if random.in_a_thousand(300) {
        spec["mode"] = json!("ReadOnly");
    }
    create("volumeclaims", namespace, &name, spec)
}

fn pod(server: &Server, random: &mut Random, namespace: &str) -> Request {
    let name = format!("p{}", random.below(PODS as u64));
    let volumes: Vec<Value> = (0..=random.below(2))
        .map(|i| {
            let claim = match newest_claim(server, namespace).filter(|_| random.in_a_thousand(250)) {
                Some(claim) => claim,
                None => format!("c{}", random.below(CLAIMS as u64)),
            };
            json!({"name": format!("data{i}"), "persistentVolumeClaim": {"claimName": claim}})
        })
        .collect();
    let spec = json!({"volumes": volumes, "containers": [{"name": "main", "image": "app"}]});
    let mut pod = create("pods", namespace, &name, spec);
    if random.in_a_thousand(500) {
        // Another user makes it again, as a ReplicaSet does.
        pod.body["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "set", "controller": true}]);
    }
    pod
}

/// The claim that was made last: a manifest has a claim and its pod, and admission may not know the claim yet (M3).
fn newest_claim(server: &Server, namespace: &str) -> Option<String> {
    let claims = server.store.list("volumeclaims", namespace).map(|(_, claim)| &claim["metadata"]);
    claims.max_by_key(|of| text(&of["creationTimestamp"])).map(|of| text(&of["name"]))
}

/// A PersistentVolumeClaim of nobody's class, with the name of a VolumeClaim (C5).
fn in_the_way(random: &mut Random, namespace: &str) -> Request {
    let spec = json!({"storageClassName": "", "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": "1Gi"}}});
    create("persistentvolumeclaims", namespace, &format!("c{}", random.below(CLAIMS as u64)), spec)
}

pub fn subscribe(random: &mut Random, namespace: &str) -> Request {
    let roles: Vec<&str> = ROLES.into_iter().filter(|_| random.in_a_thousand(700)).collect();
    let capabilities = if random.in_a_thousand(800) { json!(["SHARED_RESOURCES"]) } else { json!([]) };
    let roles = if roles.is_empty() { vec![ROLES[0]] } else { roles };
    create("rolesubscriptions", namespace, "all", json!({"roles": roles, "capabilities": capabilities}))
}

/// Subscribes a namespace, or changes the roles of its subscription.
fn subscribe_again(server: &Server, random: &mut Random, namespace: &str) -> Request {
    let new = subscribe(random, namespace);
    match server.store.get(&(new.plural, namespace.to_owned(), "all".to_owned())) {
        Some(there) if random.in_a_thousand(400) => {
            patch(new.plural, &there.object, "", json!({"spec": new.body["spec"]}))
        }
        _ => new,
    }
}

fn quota(server: &Server, random: &mut Random, role: &str) -> Request {
    let name = role.replace('/', "-");
    let mut quota = json!({});
    if random.in_a_thousand(700) {
        quota["limit"] = json!(format!("{}Gi", 30 + random.below(80)));
    }
    if random.in_a_thousand(300) {
        // More than all disks have, seldom (Q2).
        let most = if random.in_a_thousand(60) { 900 } else { 25 };
        quota["guarantee"] = json!(gi(random, most));
    }
    let mut spec = json!({"role": role, "quota": quota, "weight": 1 + random.below(3)});
    if random.in_a_thousand(500) {
        spec["reservationTemplates"] = templates(random);
    }
    let id = ("volumeroles", String::new(), name.clone());
    match server.store.get(&id) {
        Some(there) => patch("volumeroles", &there.object, "", json!({"spec": spec})),
        None => create("volumeroles", "", &name, spec),
    }
}

/// A reservation on the disk of each node, or of the nodes of a pool (R7).
fn templates(random: &mut Random) -> Value {
    let mut templates = Vec::new();
    for name in ["a", "b"].into_iter().take(random.below(3) as usize) {
        let mut template = json!({"name": name, "size": gi(random, 12), "diskName": DISK.0});
        if random.in_a_thousand(600) {
            template["nodeSelector"] = json!({"pool": POOLS[random.below(2) as usize]});
        }
        templates.push(template);
    }
    json!(templates)
}
