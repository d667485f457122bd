//! Snapshots and questions for the tests of the answers.

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::{Target, text, why};
use crate::api::condition::{READY, Verdict, reason, set};
use crate::api::{LABEL_PVC_UID, UidRef};
use crate::plan::testing::*;
use crate::plugin::kind::Kind;
use crate::plugin::paint::Paint;
use crate::plugin::snapshot::Snapshot;

pub(super) fn set_not_ready(conditions: &mut Vec<Condition>, reason: &'static str, message: &str) {
    set(conditions, READY, Verdict::no(reason, message), None, jiff::Timestamp::UNIX_EPOCH);
}

pub(super) fn ask(
    snapshot: &Snapshot,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<String, String> {
    let target = Target { kind, namespace: namespace.map(str::to_owned), name: name.into() };
    why(snapshot, &target).map(|why| text(&why, Paint::plain()))
}

pub(super) fn pod_of(claim: &str, phase: &str) -> Pod {
    serde_json::from_value(serde_json::json!({"metadata": {"namespace": "team", "name": "web"},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
            "status": {"phase": phase}}))
        .unwrap()
}

pub(super) fn pvc(name: &str, phase: &str, class: &str) -> PersistentVolumeClaim {
    from(json!({"metadata": {"namespace": "team", "name": name}, "spec": {"storageClassName": class},
            "status": {"phase": phase}}))
}

pub(super) fn event(kind: &str, name: &str, type_: &str, reason: &str, message: &str) -> Event {
    from(json!({"metadata": {}, "type": type_, "reason": reason, "message": message,
            "involvedObject": {"kind": kind, "namespace": "team", "name": name}}))
}

pub(super) fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(super) fn bound(name: &str, volume: &str) -> crate::api::VolumeClaim {
    let mut bound = claim("team", name, volume);
    let status = bound.status.get_or_insert_default();
    status.volume = Some(UidRef { name: volume.into(), uid: format!("uid-{volume}") });
    set_ready(&mut status.conditions, true);
    bound
}

pub(super) fn wants(size: &str) -> k8s_openapi::api::core::v1::PersistentVolumeClaim {
    let mut wants = pvc("data", "Pending", "eng");
    wants.spec.as_mut().unwrap().resources = from(json!({"requests": {"storage": size}}));
    wants
}

pub(super) fn deployment(labels: Value) -> kube::api::DynamicObject {
    from(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "team", "name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}}, "status": {}}),
    )
}

pub(super) fn made_for_pvc(name: &str) -> crate::api::SharedPersistentVolume {
    let mut volume = ready_volume(name, "eng", true);
    volume.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "other".to_owned())].into());
    volume
}

/// A pod whose claim's volume is on an unreachable node.
pub(super) fn on_lost_node() -> Snapshot {
    let mut disk = disk("n1.a", "n1", 10, &[("eng", 4)]);
    set_not_ready(
        &mut disk.status.as_mut().unwrap().conditions,
        reason::NODE_UNREACHABLE,
        "node n1 is not Ready",
    );
    let mut volume = ready_volume("data", "eng", true);
    let status = volume.status.as_mut().unwrap();
    set_not_ready(&mut status.conditions, reason::NODE_UNREACHABLE, "NodeDisk n1.a is not ready");
    let mut waits = claim("team", "data", "data");
    set_not_ready(
        &mut waits.status.get_or_insert_default().conditions,
        reason::VOLUME_NOT_READY,
        "volume data is not ready",
    );
    let pods = vec![pod_of("data", "Pending")];
    Snapshot { disks: vec![disk], volumes: vec![volume], claims: vec![waits], pods, ..Snapshot::default() }
}
