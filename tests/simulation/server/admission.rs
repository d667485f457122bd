//! Admission: the policies of charts/reservoir/files/admission.yaml and validations of the schemas that the product relies on.

use std::sync::Arc;

use serde_json::{Value, json};

use reservoir::api::{AccessMode, FINALIZER, Size, VolumeClaim};

use super::Server;
use super::kinds::Kind;

impl Server {
    /// Changes the object as the mutating policies do, and refuses what the validating policies refuse.
    pub(super) fn admit(
        &self,
        who: &str,
        operation: &str,
        kind: &Kind,
        object: &mut Value,
        before: Option<&Value>,
    ) -> Result<(), String> {
        if !self.has_policies {
            return Ok(());
        }
        if kind.plural == "diskreservations" {
            is_static(who, operation, object, before)?;
        }
        match (operation, kind.plural) {
            ("CREATE", "diskreservations" | "sharedpersistentvolumes" | "volumeclaims") => {
                if kind.plural != "volumeclaims" {
                    object["spec"]["principal"] = json!(who);
                }
                let finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
                if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
                    object["metadata"]["finalizers"] = json!([finalizers, vec![json!(FINALIZER)]].concat());
                }
                Ok(())
            }
            ("DELETE", "sharedpersistentvolumes") => in_use(who, before.unwrap_or(&Value::Null)),
            ("DELETE", "diskreservations" | "nodedisks" | "volumeroles") => {
                holds(before.unwrap_or(&Value::Null))
            }
            ("CREATE", "pods") => {
                self.read_only_claims(object);
                Ok(())
            }
            ("UPDATE", "nodedisks") => {
                self.takes_over(who, object, before.unwrap_or(&Value::Null))?;
                gives_up(who, object, before.unwrap_or(&Value::Null))
            }
            ("UPDATE", "sharedpersistentvolumes") => {
                seals(object, before.unwrap_or(&Value::Null))?;
                copies(object)?;
                resizes(who, object, before.unwrap_or(&Value::Null))?;
                opens(object, before.unwrap_or(&Value::Null))
            }
            ("UPDATE", "persistentvolumeclaims") => asks_for_less(object, before.unwrap_or(&Value::Null)),
            ("UPDATE", "diskreservations") => shrinks(object, before.unwrap_or(&Value::Null)),
            _ => Ok(()),
        }
    }
}

impl Server {
    /// M3: the policy `reservoir-read-only-claims`. It knows a claim some seconds after its creation.
    fn read_only_claims(&self, pod: &mut Value) {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        for volume in pod.pointer_mut("/spec/volumes").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(source) = volume.get_mut("persistentVolumeClaim") else { continue };
            let name = source["claimName"].as_str().unwrap_or_default().to_owned();
            let claim: Option<Arc<VolumeClaim>> = self.get("volumeclaims", &namespace, &name);
            let is_known = |claim: &VolumeClaim| {
                let since = claim.metadata.creation_timestamp.as_ref().map_or(self.now(), |time| time.0);
                self.now().duration_since(since).as_secs() > 5
            };
            if claim.is_some_and(|claim| claim.spec.mode == AccessMode::ReadOnly && is_known(&claim)) {
                source["readOnly"] = json!(true);
            }
        }
    }

    /// A7: the policy `reservoir-agent-takes-over`.
    fn takes_over(&self, who: &str, disk: &Value, before: &Value) -> Result<(), String> {
        let asked = &disk["spec"]["takeOver"];
        let asks = who.starts_with("agent") && asked.is_object() && *asked != before["spec"]["takeOver"];
        let node = disk["spec"]["nodeName"].as_str().unwrap_or_default();
        let is_there = self.store.get(&("nodes", String::new(), node.to_owned())).is_some();
        match asks && is_there {
            true => Err(format!("Node {node} is still there")),
            false => Ok(()),
        }
    }
}

fn waits(object: &Value) -> bool {
    object["spec"]["deletionPolicy"] == "Wait"
}

fn len(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

/// X1: the policy `reservoir-volume-in-use`.
fn in_use(who: &str, volume: &Value) -> Result<(), String> {
    let (pods, claims) =
        (volume["status"]["userCount"].as_u64().unwrap_or(0), len(&volume["status"]["claims"]));
    let labels = &volume["metadata"]["labels"];
    let namespace = &labels["reservoir.dev/claim-namespace"];
    let are_own = volume["status"]["claims"]
        .as_array()
        .is_none_or(|all| all.iter().all(|c| c["namespace"] == *namespace));
    // P4.
    let ends_with_pvc =
        who.starts_with("controller") && !labels["reservoir.dev/pvc-uid"].is_null() && claims <= 1 && are_own;
    // E5: the copies are a part of the data set.
    let copies = volume["status"]["copies"]["used"].as_u64().unwrap_or(0);
    if !waits(volume) && copies > 0 && (pods == 0 || ends_with_pvc) {
        return Err(format!("volume has {copies} copies that claims and pods use"));
    }
    match waits(volume) || ends_with_pvc || pods == 0 && claims == 0 {
        true => Ok(()),
        false => Err(format!("volume is in use by {pods} pods and bound to {claims} claims")),
    }
}

/// R2, A7: the policy `reservoir-static`.
fn is_static(who: &str, operation: &str, object: &Value, before: Option<&Value>) -> Result<(), String> {
    let of = if operation == "DELETE" { before.unwrap_or(&Value::Null) } else { object };
    let is = |object: &Value| object["spec"]["static"] == true;
    let Some(node) = who.strip_prefix("agent ") else {
        let mut conditions = of["status"]["conditions"].as_array().into_iter().flatten();
        let is_abandoned = operation == "DELETE"
            && conditions.any(|c| {
                c["type"] == "Ready"
                    && ["DiskGone", "DiskMoved", "NodeGone"]
                        .contains(&c["reason"].as_str().unwrap_or_default())
            });
        let is_untouched = before.is_some_and(|before| {
            operation == "UPDATE"
                && before["spec"] == object["spec"]
                && before["metadata"]["labels"] == object["metadata"]["labels"]
        });
        return match is_abandoned || is_untouched || !is(object) && !before.is_some_and(is) {
            true => Ok(()),
            false => Err("the reservation is static: change it in the agent's configuration".into()),
        };
    };
    let disk = of["spec"]["nodeDisk"].as_str().unwrap_or_default();
    let may = match before.and_then(|before| before["status"]["nodeName"].as_str()) {
        Some(on) => on == node,
        None => disk.rsplit_once('.').is_some_and(|(of, _)| of == node),
    };
    match may && is(of) {
        true => Ok(()),
        false => Err(format!("the agent of node {node} may not write a reservation on disk {disk}")),
    }
}

/// R6, X7: the policy `reservoir-holds-data`.
fn holds(object: &Value) -> Result<(), String> {
    let status = &object["status"];
    let held = len(&status["volumes"]) + len(&status["reservations"]) + len(&status["refinements"]);
    match waits(object) || held == 0 {
        true => Ok(()),
        false => Err(format!("it holds {held} others")),
    }
}

/// R6: the policy `reservoir-shrink`.
fn shrinks(now: &Value, before: &Value) -> Result<(), String> {
    let bytes =
        |value: &Value| serde_json::from_value::<Size>(value.clone()).map_or(0, |size| size.bytes_or_zero());
    let used = bytes(&before["status"]["used"]).saturating_sub(bytes(&before["status"]["kept"]));
    let (wanted, had) = (bytes(&now["spec"]["size"]), bytes(&before["spec"]["size"]));
    match wanted >= had || wanted >= used {
        true => Ok(()),
        false => Err(format!("it cannot shrink to {wanted}: {used} are taken")),
    }
}

/// D4: the policy `reservoir-disk-gone`.
fn gives_up(who: &str, now: &Value, before: &Value) -> Result<(), String> {
    let is_new = now["spec"]["gone"] == true && before["spec"]["gone"] != true;
    let mut conditions = before["status"]["conditions"].as_array().into_iter().flatten();
    let is_served =
        conditions.any(|c| c["type"] == "Ready" && (c["status"] == "True" || c["reason"] == "SpaceTaken"));
    match is_new && !who.starts_with("controller") && is_served {
        true => Err("it is served by its agent".into()),
        false => Ok(()),
    }
}

/// E1: validations in the schema of volumes.
fn seals(volume: &Value, before: &Value) -> Result<(), String> {
    let spec = &volume["spec"];
    let has_data = spec["recover"].is_object() || spec["copyOf"].is_object();
    let is_made = before["status"]["node"]["backing"] == "Made";
    if spec["sealed"] != true {
        return Ok(());
    }
    if spec["volumeMode"] == "Block" || spec["adopt"].is_object() {
        return Err("neither a device nor an adopted directory is sealed".into());
    }
    match before["spec"]["sealed"] == true || has_data || is_made {
        true => Ok(()),
        false => Err("a volume that its node has not made has no files to seal".into()),
    }
}

/// E2: validations in the schema of volumes.
fn copies(volume: &Value) -> Result<(), String> {
    let spec = &volume["spec"];
    let may = spec["shared"].is_object()
        && spec["volumeMode"] != "Block"
        && spec["adopt"].is_null()
        && spec["copyOf"].is_null();
    match spec["copies"].is_null() || may {
        true => Ok(()),
        false => Err("copies are of a shared volume with files of its own".into()),
    }
}

/// V8, F1: the validation in the schema of volumes, and the policy `reservoir-made-for-pvc`.
fn resizes(who: &str, now: &Value, before: &Value) -> Result<(), String> {
    if now["spec"]["size"] == before["spec"]["size"] {
        return Ok(());
    }
    if !now["spec"]["adopt"].is_null() {
        return Err("a volume with an adopted directory cannot be resized".into());
    }
    let is_pvcs = before["metadata"]["labels"]["reservoir.dev/pvc-uid"].is_string();
    match is_pvcs && !who.starts_with("controller") {
        true => Err("it has the size that its PersistentVolumeClaim requests".into()),
        false => Ok(()),
    }
}

/// E1: the validation in the schema of volumes.
fn opens(now: &Value, before: &Value) -> Result<(), String> {
    let is_sealed = before["status"]["digest"].is_string() && before["spec"]["sealed"] == true;
    match !is_sealed || now["spec"]["sealed"] == true {
        true => Ok(()),
        false => Err("a sealed volume stays sealed".into()),
    }
}

/// The validation of Kubernetes: the request of a claim changes once it is bound, and is at least its capacity.
fn asks_for_less(now: &Value, before: &Value) -> Result<(), String> {
    let request = |pvc: &Value| pvc["spec"]["resources"]["requests"]["storage"].clone();
    let bytes = |value: Value| serde_json::from_value::<Size>(value).map_or(0, |size| size.bytes_or_zero());
    if request(now) == request(before) {
        return Ok(());
    }
    let has = bytes(before["status"]["capacity"]["storage"].clone());
    match before["status"]["phase"] == "Bound" && bytes(request(now)) >= has {
        true => Ok(()),
        false => Err(format!("the request cannot be less than status.capacity, {has}")),
    }
}
