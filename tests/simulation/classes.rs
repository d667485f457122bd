//! PersistentVolumeClaims of a StorageClass: what users do with them, what Kubernetes does, and what holds at rest.
//!
//! Nothing here depends on how Reservoir serves such a claim, but for the label of its volume.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use reservoir::api::{
    DRIVER, DiskReservation, LABEL_PVC_UID, NodeDisk, Role, STORAGE_PROVISIONER, SharedPersistentVolume,
    Size, TOPOLOGY_NODE, condition, volume_for_pvc,
};
use reservoir::plan::create;
use reservoir::plan::pvc_provisioner::SELECTED_NODE;
use serde_json::{Value, json};

use crate::kubernetes::{claims_of, get, objects, patch, text};
use crate::random::Random;
use crate::server::{Object, Request, Server, is_being_deleted};
use crate::users::{any, create};

const PVCS: u64 = 4;
/// Name, mode, role, access and reclaim policy, and whether volumes are shared and their data is kept.
const CLASSES: [(&str, &str, &str, &str, &str, bool, bool); 3] = [
    ("fast", "WaitForFirstConsumer", "eng", "ReadWriteOnce", "Delete", false, false),
    ("many", "WaitForFirstConsumer", "eng/ml", "ReadWriteMany", "Delete", true, true),
    ("single", "Immediate", "ops", "ReadWriteOncePod", "Retain", false, false),
];

/// Parameters with a mistake each, and those of a class with a topology (P6, F1).
const ODD: [(&str, &str); 8] = [
    ("keepFor", "3 days"),
    ("shared", "maybe"),
    ("colour", "red"),
    ("fsType", "zfs"),
    ("role", "-"),
    ("csi.storage.k8s.io/fstype", "xfs"),
    ("topology", "blue"),
    ("mountOption", "suid"),
];

/// A class of another kind each: its PersistentVolumeClaims wait, or get a volume on some nodes alone.
fn odd_classes() -> impl Iterator<Item = Value> {
    ODD.into_iter().map(|(parameter, value)| {
        let mut class = json!({
            "metadata": {"name": format!("odd-{}", odd_name(parameter))}, "provisioner": DRIVER,
            "parameters": {"role": "eng"}, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        });
        match parameter {
            "topology" => {
                class["allowedTopologies"] =
                    json!([{"matchLabelExpressions": [{"key": "pool", "values": [value]}]}]);
            }
            "mountOption" => class["mountOptions"] = json!([value]),
            _ => class["parameters"][parameter] = json!(value),
        }
        class
    })
}

fn odd_name(parameter: &str) -> String {
    parameter.replace('/', "-").to_lowercase()
}

/// A PersistentVolumeClaim of such a class, or one that asks for what no class gives.
fn odd_claim(random: &mut Random, namespace: &str) -> Request {
    let (parameter, _) = ODD[random.below(ODD.len() as u64) as usize];
    let mut spec = json!({"storageClassName": format!("odd-{}", odd_name(parameter)), "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem", "resources": {"requests": {"storage": "1Gi"}}});
    let (class, ..) = CLASSES[random.below(2) as usize];
    match random.below(8) {
        0 => spec["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "d0"}),
        1 => spec["selector"] = json!({"matchLabels": {"a": "b"}}),
        2 => spec["accessModes"] = json!(["ReadOnlyMany"]),
        3 => spec["accessModes"] = json!(["ReadWriteMany"]),
        4 => spec["volumeAttributesClassName"] = json!("gold"),
        // Others may be in the way of a VolumeClaim of that name (F5).
        5 => return create("persistentvolumeclaims", namespace, &format!("c{}", random.below(6)), spec),
        _ => return create("persistentvolumeclaims", namespace, &format!("o{}", random.below(4)), spec),
    }
    spec["storageClassName"] = json!(if random.in_a_thousand(500) { class } else { "odd-topology" });
    create("persistentvolumeclaims", namespace, &format!("o{}", random.below(4)), spec)
}

/// The classes, which nobody changes.
pub fn classes() -> impl Iterator<Item = Value> {
    let usual = CLASSES.into_iter().map(|(name, mode, role, _, policy, is_shared, is_kept)| {
        let mut parameters = json!({"role": role, "shared": is_shared.to_string()});
        if is_kept {
            parameters["keepFor"] = json!("10m");
        }
        json!({
            "metadata": {"name": name}, "provisioner": DRIVER, "parameters": parameters, "reclaimPolicy": policy,
            "volumeBindingMode": mode, "allowVolumeExpansion": true,
        })
    });
    usual.chain(odd_classes())
}

fn is_delayed(class: &str) -> bool {
    CLASSES.iter().any(|(name, mode, ..)| *name == class && *mode == "WaitForFirstConsumer")
}

fn class_of(pvc: &Value) -> Option<&str> {
    pvc["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty())
}

fn is_pending(pvc: &Value) -> bool {
    pvc["status"]["phase"] == "Pending" && !is_being_deleted(pvc)
}

/// The next request of a user; `None`: nobody wants anything.
pub fn act(server: &Server, random: &mut Random, namespace: &str) -> Option<Request> {
    let name = format!("d{}", random.below(PVCS));
    let of_class = |random: &mut Random| {
        let all = server.store.list("persistentvolumeclaims", "").map(|(_, pvc)| pvc);
        let all: Vec<_> = all.filter(|pvc| class_of(pvc).is_some()).collect();
        random.pick(&all).map(|pvc| Arc::clone(pvc))
    };
    Some(match random.below(21) {
        20 => odd_claim(random, namespace),
        0..5 => claim(random, namespace, &name),
        // A StatefulSet makes its pod and that pod's claim again and again.
        5..13 => match get(server, "persistentvolumeclaims", namespace, &name) {
            None => claim(random, namespace, &name),
            Some(_) => member(random, namespace, &name),
        },
        13..17 => {
            let size = json!({"storage": format!("{}Gi", 1 + random.below(20))});
            let pvc = of_class(random)?;
            patch("persistentvolumeclaims", &pvc, "", json!({"spec": {"resources": {"requests": size}}}))
        }
        17 | 18 => {
            let pvc = of_class(random)?;
            let (namespace, name) = (text(&pvc["metadata"]["namespace"]), text(&pvc["metadata"]["name"]));
            crate::kubernetes::delete("persistentvolumeclaims", &namespace, &name, Value::Null)
        }
        _ => {
            let policy = if random.in_a_thousand(500) { "Retain" } else { "Delete" };
            let body = json!({"spec": {"persistentVolumeReclaimPolicy": policy}});
            let pv = any(server, random, "persistentvolumes")?;
            patch("persistentvolumes", &pv, "", body)
        }
    })
}

fn claim(random: &mut Random, namespace: &str, name: &str) -> Request {
    let (class, _, _, access, ..) = CLASSES[random.below(CLASSES.len() as u64) as usize];
    let spec = json!({"storageClassName": class, "accessModes": [access], "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": format!("{}Gi", 1 + random.below(12))}}});
    create("persistentvolumeclaims", namespace, name, spec)
}

/// A pod with one or two claims, under the name that it always has, or beside that one.
fn member(random: &mut Random, namespace: &str, pvc: &str) -> Request {
    let second = format!("d{}", random.below(PVCS));
    let is_beside = random.in_a_thousand(200) && second != pvc;
    let claims = if is_beside { vec![pvc, &*second] } else { vec![pvc] };
    let volumes: Vec<Value> = claims
        .iter()
        .enumerate()
        .map(|(i, claim)| json!({"name": format!("data{i}"), "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let beside = if random.in_a_thousand(300) { "-beside" } else { "" };
    let spec = json!({"volumes": volumes, "containers": [{"name": "main", "image": "app"}]});
    create("pods", namespace, &format!("m-{pvc}{beside}"), spec)
}

/// What the PersistentVolume controller does for a claim of a class that is not bound.
pub fn due_for_pvc(server: &Server, pvc: &Value) -> Option<Request> {
    let class = class_of(pvc).filter(|_| is_pending(pvc))?;
    let (namespace, name) = (&pvc["metadata"]["namespace"], &pvc["metadata"]["name"]);
    let is_for = |pv: &&Arc<Object>| {
        let of = &pv["spec"]["claimRef"];
        of["namespace"] == *namespace
            && of["name"] == *name
            && (of["uid"].is_null() || of["uid"] == pvc["metadata"]["uid"])
            && pv["spec"]["storageClassName"] == *class
            && Size::written(text(&pv["spec"]["capacity"]["storage"])).bytes_or_zero() >= requested(pvc)
            && !is_being_deleted(pv)
    };
    if pvc["spec"]["volumeName"].is_null()
        && let Some(pv) = objects(server, "persistentvolumes").iter().find(is_for)
    {
        let named = json!({"spec": {"volumeName": pv["metadata"]["name"]}});
        return Some(patch("persistentvolumeclaims", pvc, "", named));
    }
    let annotations = &pvc["metadata"]["annotations"];
    let waits = is_delayed(class) && annotations[SELECTED_NODE].is_null();
    (!waits && annotations[STORAGE_PROVISIONER].is_null()).then(|| {
        let provisioner = json!({"metadata": {"annotations": {STORAGE_PROVISIONER: DRIVER}}});
        patch("persistentvolumeclaims", pvc, "", provisioner)
    })
}

/// What the scheduler does for a pod with claims that wait for its node: it writes the node to one of them.
pub fn due_for_pod(server: &Server, pod: &Value) -> Option<Request> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let claims = claims_of(pod);
    let pvcs: Option<Vec<Arc<Object>>> =
        claims.iter().map(|(claim, _)| get(server, "persistentvolumeclaims", &namespace, claim)).collect();
    let pvcs = pvcs?;
    let (waiting, others): (Vec<_>, Vec<_>) =
        pvcs.iter().partition(|pvc| is_pending(pvc) && class_of(pvc).is_some_and(is_delayed));
    let bound: Option<Vec<Vec<String>>> =
        others.iter().map(|pvc| crate::kubernetes::nodes_of_bound(server, pvc)).collect();
    let selected = waiting.iter().filter_map(|pvc| selected_node(pvc).map(|node| vec![node.to_owned()]));
    let fixed: Vec<Vec<String>> = bound?.into_iter().chain(selected).collect();
    let unselected = waiting.iter().find(|pvc| selected_node(pvc).is_none())?;
    let fits = |node: &String| {
        fixed.iter().all(|nodes| nodes.contains(node))
            && waiting.iter().all(|pvc| has_capacity(server, pvc, node))
    };
    let nodes: Vec<String> =
        objects(server, "nodes").iter().map(|node| text(&node["metadata"]["name"])).collect();
    let fitting: Vec<&String> = nodes.iter().filter(|node| fits(node)).collect();
    // Which one is chosen depends on pods and CPU, of which nothing is known here.
    let node = fitting.get(server.store.version as usize % fitting.len().max(1))?;
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
    Some(patch("persistentvolumeclaims", unselected, "", selected))
}

fn selected_node(pvc: &Value) -> Option<&str> {
    pvc["metadata"]["annotations"][SELECTED_NODE].as_str()
}

fn requested(pvc: &Value) -> u64 {
    Size::written(text(&pvc["spec"]["resources"]["requests"]["storage"])).bytes_or_zero()
}

/// True if the storage capacity of the class has space for the claim on the node.
fn has_capacity(server: &Server, pvc: &Value, node: &str) -> bool {
    objects(server, "csistoragecapacities").iter().any(|there| {
        let largest = if there["maximumVolumeSize"].is_string() { "maximumVolumeSize" } else { "capacity" };
        there["storageClassName"] == pvc["spec"]["storageClassName"]
            && there["nodeTopology"]["matchLabels"][TOPOLOGY_NODE] == *node
            && Size::written(text(&there[largest])).bytes_or_zero() >= requested(pvc)
    })
}

/// The promises at rest that are not kept.
pub fn check(server: &Server) -> Vec<String> {
    let pvcs: Vec<PersistentVolumeClaim> = server.all("persistentvolumeclaims");
    let volumes: Vec<SharedPersistentVolume> = server.all("sharedpersistentvolumes");
    let mut broken = Vec::new();
    for volume in volumes.iter().filter(|volume| volume.metadata.deletion_timestamp.is_none()) {
        let of = volume.labels().get(LABEL_PVC_UID);
        // Pods of that name keep the list of a volume whose claim a person removed by force.
        let is_listed = volume.status.as_ref().is_some_and(|status| !status.claims.is_empty());
        if of.is_some() && !is_listed && !pvcs.iter().any(|pvc| pvc.metadata.uid.as_ref() == of) {
            broken
                .push(format!("P4: volume {} is of a PersistentVolumeClaim that is gone", volume.name_any()));
        }
    }
    let ours = pvcs.iter().filter(|pvc| {
        pvc.metadata.deletion_timestamp.is_none()
            && !pvc.name_any().starts_with(['o', 'c'])
            && pvc
                .spec
                .as_ref()
                .is_some_and(|spec| spec.storage_class_name.as_deref().is_some_and(|c| !c.is_empty()))
    });
    for pvc in ours {
        let is_bound = pvc.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        broken.extend(match is_bound {
            true => p3_a_growth_ends_or_says_why(pvc, &volumes)
                .or_else(|| f1_a_bound_claim_has_its_volume(server, pvc, &volumes)),
            false => l7_a_claim_gets_a_volume_that_fits(server, pvc),
        });
    }
    broken
}

fn name(pvc: &PersistentVolumeClaim) -> String {
    format!("{}/{}", pvc.namespace().unwrap_or_default(), pvc.name_any())
}

/// A volume whose VolumeClaim a person removed by force may be deleted before its PersistentVolumeClaim.
fn p3_a_growth_ends_or_says_why(
    pvc: &PersistentVolumeClaim,
    volumes: &[SharedPersistentVolume],
) -> Option<String> {
    volumes.iter().find(|volume| volume.labels().get(LABEL_PVC_UID) == pvc.metadata.uid.as_ref())?;
    let pvc_value = json!(pvc);
    let status = &pvc_value["status"];
    let has = Size::written(text(&status["capacity"]["storage"])).bytes_or_zero();
    let says = status["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty());
    (requested(&pvc_value) > has && !says).then(|| {
        format!(
            "P3: PersistentVolumeClaim {} asks for more than its {has} bytes, and has no condition",
            name(pvc)
        )
    })
}

/// A claim that Kubernetes bound leads to its volume, unless somebody removed one of the objects by force.
fn f1_a_bound_claim_has_its_volume(
    server: &Server,
    pvc: &PersistentVolumeClaim,
    volumes: &[SharedPersistentVolume],
) -> Option<String> {
    let volume =
        volumes.iter().find(|volume| volume.labels().get(LABEL_PVC_UID) == pvc.metadata.uid.as_ref())?;
    let status = volume.status.clone().unwrap_or_default();
    let pv: Option<Arc<PersistentVolume>> =
        server.get("persistentvolumes", "", pvc.spec.as_ref()?.volume_name.as_deref()?);
    let is_listed = status.claims.iter().any(|claim| {
        claim.name == pvc.name_any() && Some(&claim.namespace) == pvc.metadata.namespace.as_ref()
    });
    let is_ready = condition::is_true(&status.conditions, condition::READY);
    (is_ready
        && pv.is_some()
        && !is_listed
        && !volume.spec.retire
        && volume.metadata.deletion_timestamp.is_none())
    .then(|| {
        format!(
            "S8: PersistentVolumeClaim {} is bound to volume {}, which does not list it",
            name(pvc),
            volume.name_any()
        )
    })
}

/// L7: a claim whose node is chosen gets a volume, if a reservation there has space.
fn l7_a_claim_gets_a_volume_that_fits(server: &Server, pvc: &PersistentVolumeClaim) -> Option<String> {
    // An event says so.
    if server.is_kind_ending("sharedpersistentvolumes") {
        return None;
    }
    let value = json!(pvc);
    let class = class_of(&value)?;
    let (_, _, role, ..) = CLASSES.iter().find(|(name, ..)| *name == class)?;
    let is_delayed = is_delayed(class);
    // All claims of a pod go to one node, or wait together.
    let of_pvc = (pvc.name_any(), false);
    let mut pods = objects(server, "pods").into_iter().map(|pod| claims_of(&pod));
    if pods.any(|claims| claims.len() > 1 && claims.contains(&of_pvc)) {
        return None;
    }
    let node = match selected_node(&value) {
        Some(node) => Some(node.to_owned()),
        None if is_delayed => return None,
        None => None,
    };
    // D4: it has its volume, whose data was given up.
    let volumes: Vec<SharedPersistentVolume> = server.all("sharedpersistentvolumes");
    let is_its = |of: &SharedPersistentVolume| of.labels().get(LABEL_PVC_UID) == pvc.metadata.uid.as_ref();
    // X1, X9, E4: it has its volume, which is to be destroyed, or whose data was erased before etcd was restored, or differs, and a
    // person decides.
    let is_lost = |of: &SharedPersistentVolume| {
        let conditions = of.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let lost = condition::get(conditions, condition::BACKED);
        let differs = condition::get(conditions, condition::INTACT).filter(|intact| intact.status == "False");
        lost.filter(|backed| backed.reason == condition::reason::BACKING_LOST).or(differs).is_some()
            || of.metadata.deletion_timestamp.is_some()
    };
    let is_given_up =
        |of: &SharedPersistentVolume| server.gone.contains(&of.uid().unwrap_or_default()) || is_lost(of);
    if volumes.iter().any(|of| is_its(of) && is_given_up(of)) {
        return None;
    }
    // Somebody recovered data under the name of its volume: an event says so.
    let name_of_volume = volume_for_pvc(&pvc.uid().unwrap_or_default());
    if volumes.iter().any(|of| of.name_any() == name_of_volume && !is_its(of)) {
        return None;
    }
    let disks: Vec<NodeDisk> = server.all("nodedisks");
    // X9: it goes to the disk that reports its data, and no other space is of use to it.
    let mut orphans = disks.iter().flat_map(|disk| &disk.status).flat_map(|status| &status.orphans);
    if orphans.any(|orphan| volumes.iter().any(|of| is_its(of) && of.uid().as_ref() == Some(&orphan.uid))) {
        return None;
    }
    let is_ready = |of: &DiskReservation| {
        let disk = of.status.as_ref().and_then(|status| status.node_disk.clone());
        disks.iter().find(|there| Some(there.name_any()) == disk).is_some_and(|disk| {
            disk.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
        })
    };
    let reservations: Vec<DiskReservation> = server.all("diskreservations");
    let fits = reservations.iter().find(|of| {
        let status = of.status.clone().unwrap_or_default();
        of.metadata.deletion_timestamp.is_none()
            && status.phase == reservoir::api::ReservationPhase::Reserved
            && Role::name_covers(&of.spec.role, role)
            && node.as_ref().is_none_or(|node| status.node_name.as_ref() == Some(node))
            && is_ready(of)
            && create::free(of) >= requested(&value)
    })?;
    Some(format!("L7: PersistentVolumeClaim {} waits, and fits reservation {}", name(pvc), fits.name_any()))
}
