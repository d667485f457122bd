//! A controller of an earlier version, which made a VolumeClaim for the PersistentVolumeClaim of each volume of a class. It runs
//! while no controller of this version does, until an upgrade.

use reservoir::api::{LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID};
use serde_json::{Value, json};

use crate::kubernetes::{objects, patch, text};
use crate::server::{Server, is_being_deleted};
use crate::users::create;

const WHO: &str = "controller of an earlier version";

/// A step: a volume that its node has made becomes Ready, and is bound to its VolumeClaim.
pub fn turn(server: &mut Server) {
    let volumes = objects(server, "sharedpersistentvolumes");
    let Some(volume) = volumes.iter().find(|volume| is_due(volume)) else { return };
    let uid = volume["metadata"]["labels"][LABEL_PVC_UID].clone();
    let pvcs = objects(server, "persistentvolumeclaims");
    let Some(pvc) = pvcs.iter().find(|pvc| pvc["metadata"]["uid"] == uid) else { return };
    let (namespace, name) = (text(&pvc["metadata"]["namespace"]), text(&pvc["metadata"]["name"]));
    let volume_name = &volume["metadata"]["name"];
    let spec = json!({"role": volume["spec"]["role"], "volume": volume_name, "mode": "ReadWrite"});
    let mut claim = create("volumeclaims", &namespace, &name, spec);
    claim.body["metadata"]["labels"] = json!({LABEL_PVC_UID: uid});
    let (code, claim) = server.answer(WHO, &claim);
    if code != 201 {
        return;
    }
    let mut conditions = volume["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "Ready");
    conditions.push(json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "it is made",
        "observedGeneration": volume["metadata"]["generation"], "lastTransitionTime": "2026-01-01T12:00:00Z"}));
    let binding = json!({"namespace": namespace, "name": name, "uid": claim.value()["metadata"]["uid"], "mode": "ReadWrite"});
    let body = json!({
        "metadata": {"resourceVersion": volume["metadata"]["resourceVersion"]},
        "status": {"conditions": conditions, "claims": [binding]},
    });
    server.answer(WHO, &patch("sharedpersistentvolumes", volume, "status", body));
}

fn is_due(volume: &Value) -> bool {
    let conditions = volume["status"]["conditions"].as_array().into_iter().flatten();
    let is_true = |kind: &str| {
        conditions.clone().any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let labels = &volume["metadata"]["labels"];
    labels[LABEL_PVC_UID].is_string()
        && labels[LABEL_CLAIM_NAMESPACE].is_string()
        && volume["status"]["claims"].as_array().is_none_or(Vec::is_empty)
        && volume["status"]["reservation"].is_object()
        && volume["status"]["node"]["backing"] == "Made"
        && is_true("Backed")
        && !is_true("Ready")
        && volume["spec"]["retire"] != true
        && !is_being_deleted(volume)
}
