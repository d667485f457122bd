//! The scenario of fault plans: what one team does with its space from the first reservation to the last, one act after the other.
//!
//! Each act lasts until the objects are as wanted. What somebody made and has not ended is made again if it goes, as a
//! workload makes its pods again.

use std::time::Duration;

use reservoir::api::{DiskReservation, NodeDisk};
use reservoir::plan::kept;
use serde_json::{Value, json};

use crate::fault_plans::FaultPlan;
use crate::host::{self, Hosts};
use crate::kubernetes::{self, delete, get, patch};
use crate::server::{Request, Server, is_being_deleted, lock};
use crate::setup::{DISK, Setup};
use crate::users::create;
use crate::world::World;

/// So many times somebody looks for what is wanted in an act.
const LOOKS: u64 = 3600;
/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(500);
const VOLUMES: &str = "sharedpersistentvolumes";
const RESERVATIONS: &str = "diskreservations";
const PVCS: &str = "persistentvolumeclaims";

/// True if an object is as wanted.
type Check = fn(&Value) -> bool;

/// An aim of somebody.
enum Want {
    /// An object, made by the request.
    Object(&'static str, Request, Check),
    /// The volume of that name, from the data that is kept of it (X8).
    Undeleted(&'static str),
    /// Fields of an object.
    Fields(&'static str, [&'static str; 3], Value, Check),
    /// The end of an object that goes by itself.
    Gone([&'static str; 3]),
    /// The end of an object.
    End(&'static str, [&'static str; 3]),
    /// A state of the whole cluster.
    State(fn(&Server) -> bool),
}

use Want::{End, Fields, Gone, State, Undeleted};

fn ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let is_ready = |condition: &Value| {
        condition["type"] == "Ready"
            && condition["status"] == "True"
            && condition["observedGeneration"] == object["metadata"]["generation"]
    };
    conditions.into_iter().flatten().any(is_ready)
}

fn running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn any(_: &Value) -> bool {
    true
}

fn has_size(object: &Value) -> bool {
    ready(object) && object["status"]["size"] == object["spec"]["size"]
}

/// A pod of namespace `blue` or `red` that uses a claim, on a node or anywhere.
fn pod(namespace: &'static str, name: &str, claim: &str, node: Option<&str>) -> Want {
    let source = json!({"claimName": claim, "readOnly": namespace == "red"});
    let mut spec = json!({"volumes": [{"name": "data", "persistentVolumeClaim": source}], "containers": [{"name": "main", "image": "app"}]});
    if let Some(node) = node {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    Want::Object(namespace, create("pods", namespace, name, spec), running)
}

fn object(
    who: &'static str,
    plural: &'static str,
    namespace: &str,
    name: &str,
    spec: Value,
    check: Check,
) -> Want {
    Want::Object(who, create(plural, namespace, name, spec), check)
}

fn claim(namespace: &'static str, name: &str, volume: &str, mode: &str) -> Want {
    let spec = json!({"role": "eng", "volume": volume, "mode": mode});
    object(namespace, "volumeclaims", namespace, name, spec, ready)
}

fn subscription(namespace: &'static str) -> Want {
    let spec = json!({"roles": ["eng"], "capabilities": ["SHARED_RESOURCES"]});
    object(namespace, "rolesubscriptions", namespace, "all", spec, any)
}

fn all_kept_is_gone(server: &Server) -> bool {
    kubernetes::objects(server, RESERVATIONS)
        .iter()
        .all(|of| of["status"]["volumes"].as_array().is_none_or(Vec::is_empty))
}

/// The acts, each with what it is for.
fn acts() -> Vec<(&'static str, Vec<Want>)> {
    let template = json!([{"name": "a", "size": "6Gi", "diskName": DISK.0}]);
    let quota = json!({"role": "eng", "quota": {"limit": "60Gi", "guarantee": "10Gi"}, "reservationTemplates": template});
    let home = json!({"role": "eng", "size": "20Gi", "nodeName": "n1"});
    let shared = json!({"role": "eng", "size": "5Gi", "shared": {}, "reservation": "home"});
    let own = json!({"role": "eng", "size": "4Gi", "keepFor": "10m", "reservation": "home"});
    let set = json!({"role": "eng", "size": "2Gi", "shared": {}, "reservation": "home"});
    let pvc = json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": "1Gi"}}});
    let grown = json!({"resources": {"requests": {"storage": "2Gi"}}});
    let has_grown = |pvc: &Value| pvc["status"]["capacity"]["storage"] == "2Gi";
    let is_sealed = |volume: &Value| {
        volume["status"]["digest"].is_string() && volume["status"]["copies"]["ready"] == json!(2)
    };
    let has_three = |server: &Server| {
        let all = kubernetes::objects(server, RESERVATIONS);
        all.iter().filter(|of| ready(of) && !of["spec"]["template"].is_null()).count() == 3
    };
    let has_only_home = |server: &Server| kubernetes::objects(server, RESERVATIONS).len() == 1;
    let has_no_volume = |server: &Server| kubernetes::objects(server, VOLUMES).is_empty();
    vec![
        (
            "space",
            vec![
                object("operator", "volumeroles", "", "eng", quota, any),
                object("operator", RESERVATIONS, "", "home", home, ready),
                State(has_three),
            ],
        ),
        ("subscriptions", vec![subscription("blue"), subscription("red")]),
        ("a shared volume", vec![object("user", VOLUMES, "", "data", shared, ready)]),
        (
            "claims",
            vec![claim("blue", "data", "data", "ReadWrite"), claim("red", "data", "data", "ReadOnly")],
        ),
        (
            "pods",
            vec![
                pod("blue", "one", "data", None),
                pod("blue", "two", "data", None),
                pod("red", "one", "data", None),
            ],
        ),
        (
            "growth",
            vec![
                Fields("user", [VOLUMES, "", "data"], json!({"size": "7Gi"}), has_size),
                Fields("operator", [RESERVATIONS, "", "home"], json!({"size": "25Gi"}), has_size),
            ],
        ),
        (
            "a volume of its own, whose data is kept",
            vec![
                object("user", VOLUMES, "", "own", own, ready),
                claim("blue", "own", "own", "ReadWrite"),
                pod("blue", "own", "own", None),
            ],
        ),
        (
            "the end of its claim",
            vec![End("blue", ["pods", "blue", "own"]), End("blue", ["volumeclaims", "blue", "own"])],
        ),
        ("its destruction", vec![End("user", [VOLUMES, "", "own"])]),
        ("its return", vec![Undeleted("own"), claim("blue", "own", "own", "ReadWrite")]),
        (
            "its second end",
            vec![End("blue", ["volumeclaims", "blue", "own"]), End("user", [VOLUMES, "", "own"])],
        ),
        (
            "a PersistentVolumeClaim",
            vec![Want::Object("blue", create(PVCS, "blue", "db", pvc), any), pod("blue", "db", "db", None)],
        ),
        ("its growth", vec![Fields("blue", [PVCS, "blue", "db"], grown, has_grown)]),
        (
            "the end of the PersistentVolumeClaim",
            vec![End("blue", ["pods", "blue", "db"]), End("blue", [PVCS, "blue", "db"])],
        ),
        (
            "a data set",
            vec![
                object("user", VOLUMES, "", "set", set, ready),
                Fields("user", [VOLUMES, "", "set"], json!({"sealed": true, "copies": {}}), is_sealed),
                claim("red", "set", "set", "ReadOnly"),
                pod("red", "n2", "set", Some("n2")),
                pod("red", "n3", "set", Some("n3")),
            ],
        ),
        (
            "retirement",
            vec![
                Fields("user", [VOLUMES, "", "data"], json!({"retire": true}), any),
                End("blue", ["pods", "blue", "one"]),
                End("blue", ["pods", "blue", "two"]),
                End("red", ["pods", "red", "one"]),
                End("blue", ["volumeclaims", "blue", "data"]),
                End("red", ["volumeclaims", "red", "data"]),
                Gone([VOLUMES, "", "data"]),
            ],
        ),
        (
            "the end of the data set",
            vec![
                End("red", ["pods", "red", "n2"]),
                End("red", ["pods", "red", "n3"]),
                End("red", ["volumeclaims", "red", "set"]),
                End("user", [VOLUMES, "", "set"]),
                State(has_no_volume),
            ],
        ),
        (
            "the end of everything",
            vec![
                // It needs the bytes of the kept data.
                Fields("operator", [RESERVATIONS, "", "home"], json!({"size": "1Gi"}), has_size),
                State(all_kept_is_gone),
                End("blue", ["rolesubscriptions", "blue", "all"]),
                End("red", ["rolesubscriptions", "red", "all"]),
                Fields("operator", ["volumeroles", "", "eng"], json!({"reservationTemplates": null}), any),
                State(has_only_home),
                End("operator", [RESERVATIONS, "", "home"]),
                End("operator", ["volumeroles", "", "eng"]),
            ],
        ),
    ]
}

/// True if the object has all fields of the patch.
fn has_fields(object: &Value, fields: &Value) -> bool {
    match fields {
        Value::Object(all) => {
            object.is_object() && all.iter().all(|(name, value)| has_fields(&object[name], value))
        }
        _ => object == fields,
    }
}

impl Want {
    /// True if it is so. Otherwise with the request that leads there, if there is one.
    fn look(&self, server: &Server) -> (bool, Option<(&'static str, Request)>) {
        match self {
            Self::Object(who, request, check) => {
                let name = request.body["metadata"]["name"].as_str().unwrap_or_default();
                match get(server, request.plural, &request.namespace, name) {
                    Some(object) => (check(&object) && !is_being_deleted(&object), None),
                    None => (false, Some((who, request.clone()))),
                }
            }
            Undeleted(name) => match get(server, VOLUMES, "", name) {
                Some(volume) => (ready(&volume) && !is_being_deleted(&volume), None),
                None => (false, undelete(server, name).map(|request| ("user", request))),
            },
            Fields(who, at, fields, check) => match get(server, at[0], at[1], at[2]) {
                Some(object) if has_fields(&object["spec"], fields) => (check(&object), None),
                Some(object) => (false, Some((who, patch(at[0], &object, "", json!({"spec": fields}))))),
                None => (false, None),
            },
            Gone(at) => (get(server, at[0], at[1], at[2]).is_none(), None),
            End(who, at) => match get(server, at[0], at[1], at[2]) {
                Some(object) if is_being_deleted(&object) => (false, None),
                Some(_) => (false, Some((who, delete(at[0], at[1], at[2], Value::Null)))),
                None => (true, None),
            },
            State(check) => (check(server), None),
        }
    }

    /// True if the other one's object is not wanted any more.
    fn ends(&self, other: &Self) -> bool {
        let (End(_, [plural, namespace, name]) | Gone([plural, namespace, name])) = self else {
            return false;
        };
        matches!(other, Self::Object(_, request, _)
            if request.plural == *plural && request.namespace == *namespace && request.body["metadata"]["name"] == **name)
    }

    fn name(&self) -> String {
        match self {
            Self::Object(_, request, _) => format!("{} {}", request.plural, request.body["metadata"]["name"]),
            Undeleted(name) => format!("volume {name} again"),
            Fields(_, at, fields, _) => format!("{} with {fields}", at.join(" ")),
            End(_, at) | Gone(at) => format!("the end of {}", at.join(" ")),
            State(_) => "a state of all".into(),
        }
    }
}

/// The request for a volume with the data that is kept of it.
fn undelete(server: &Server, name: &str) -> Option<Request> {
    let reservation = server.get(RESERVATIONS, "", "home")?;
    let reservation: &DiskReservation = &reservation;
    let entries = kept::entries(reservation.status.as_ref()?);
    let (entry, _) = entries.into_iter().find(|(entry, _)| entry.name == name)?;
    let volume = kept::undeleted(name, entry, reservation).ok()?;
    Some(create(VOLUMES, "", name, json!(volume.spec)))
}

impl Setup {
    /// The cluster of the scenario.
    pub fn of_scenario() -> Self {
        Self {
            has_keys: true,
            lifetime: reservoir::api::Lifetime::Disk,
            kind: reservoir::api::DiskKind::Path,
            keeps_read_only: true,
            has_agent_pods: true,
            has_static: false,
            adopts: false,
            copies: true,
            has_third_disk: true,
        }
    }
}

/// The time in which the controller looks for PersistentVolumes that nothing removes.
pub const LEFT: Duration = Duration::from_secs(700);

/// The objects, ledger entries and volumes that the scenario leaves once everything is at rest: there are to be none.
pub fn left(server: &Server, hosts: &Hosts) -> Vec<String> {
    let kinds = [
        "persistentvolumes",
        PVCS,
        VOLUMES,
        RESERVATIONS,
        "volumeclaims",
        "volumeoffers",
        "csistoragecapacities",
    ];
    let object = |plural: &'static str| {
        let all = kubernetes::objects(server, plural).into_iter();
        all.map(move |of| format!("X4: the scenario leaves {plural} {}", of["metadata"]["name"]))
    };
    let disks: Vec<NodeDisk> = server.all("nodedisks");
    let status = |disk: &NodeDisk| disk.status.clone().unwrap_or_default();
    let has_entries = disks.iter().any(|disk| !status(disk).reservations.is_empty());
    let has_data = host::lock(hosts).values().any(|host| !host.records.is_empty());
    let others = [(has_entries, "a ledger has entries"), (has_data, "a disk has volumes")];
    let others =
        others.iter().filter(|(is_so, _)| *is_so).map(|(_, what)| format!("X4: after the scenario {what}"));
    kinds.into_iter().flat_map(object).chain(others).collect()
}

impl World {
    /// Acts it out, with its fault. A fault that cuts it short ends it.
    pub async fn act_out(&mut self, plan: FaultPlan) {
        lock(&self.server).strike = Some(plan.strike());
        self.pause(Duration::from_secs(5)).await;
        let mut made: Vec<Want> = Vec::new();
        for (number, (what, wants)) in acts().into_iter().enumerate() {
            self.tell(&format!("the act: {what}"));
            // A restore goes back by an act, or by two.
            if number % 2 == 0 && lock(&self.server).strike.is_some() {
                lock(&self.server).back_up();
            }
            made.retain(|other| !wants.iter().any(|want| want.ends(other)));
            let mut wants = wants.into_iter();
            let mut next = wants.next();
            let mut looks = LOOKS;
            while let Some(want) = &next {
                self.pause(PAUSE).await;
                if self.is_over() {
                    return;
                }
                let (is_so, request) = want.look(&lock(&self.server));
                let again = made.iter().filter_map(|want| want.look(&lock(&self.server)).1);
                for (who, request) in again.collect::<Vec<_>>().into_iter().chain(request) {
                    lock(&self.server).answer(who, &request);
                }
                looks -= 1;
                if looks == 0 {
                    let name = want.name();
                    self.report(vec![format!("L1: the scenario does not go on, at {what}: {name}")]);
                    return;
                }
                if is_so {
                    made.extend(next.take().filter(|want| matches!(want, Want::Object(..))));
                    next = wants.next();
                }
            }
        }
        // The fault lasts longer than the last act.
        while self.ends.is_some() {
            self.pause(PAUSE).await;
        }
        let strike = lock(&self.server).strike.take();
        if strike.is_some_and(|strike| strike.at > 0) {
            self.report(vec![format!("the fault never struck: {plan:?}")]);
        }
    }
}
