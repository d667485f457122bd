//! The chart's admission policies, and what they expect of manifests on each release of Kubernetes (F6).

use std::path::Path;

use kube::Client;
use reservoir::api::FINALIZER;
use reservoir::cluster;
use reservoir_cluster::programs::Release;
use serde_json::{Value, json};

use super::{AGENT_USER, CONTROLLER_USER};

/// True if admission writes the principal, the finalizer and `readOnly: true` on the release that the tests run on.
pub fn admission_writes() -> bool {
    Release::chosen().and_then(Release::has_mutating_policies).unwrap()
}

/// The chart's policies: those that write, or what the chart has instead.
pub fn policies(mutating: bool) -> String {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/files");
    let besides = if mutating { "admission-mutating.yaml" } else { "admission-unmutated.yaml" };
    let text = ["admission.yaml", besides].map(|file| std::fs::read_to_string(files.join(file)).unwrap());
    let text = text.join("\n---\n").replace("AGENT_USER", AGENT_USER);
    text.replace("CONTROLLER_USER", CONTROLLER_USER).replace("RELEASE_NAMESPACE", "reservoir-system")
}

/// Adds the finalizer to a manifest of a kind that has it.
pub fn guard(manifest: &mut Value) {
    let kinds = ["DiskReservation", "SharedPersistentVolume", "VolumeClaim"];
    if kinds.iter().all(|kind| manifest["kind"] != *kind) {
        return;
    }
    let finalizers = &mut manifest["metadata"]["finalizers"];
    if finalizers.is_null() {
        *finalizers = json!([]);
    }
    let finalizers = finalizers.as_array_mut().unwrap();
    if finalizers.iter().all(|finalizer| finalizer != FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
}

/// Writes the principal into a manifest as people do where admission does not: the user of `client`, or what `there`, the
/// object of that name, has.
pub async fn sign(client: &Client, manifest: &mut Value, there: Option<&Value>) {
    let has_principal =
        ["DiskReservation", "SharedPersistentVolume"].iter().any(|kind| manifest["kind"] == *kind);
    if admission_writes()
        || !has_principal
        || !manifest["spec"].is_object()
        || !manifest["spec"]["principal"].is_null()
    {
        return;
    }
    let principal = match there {
        Some(there) => there["spec"]["principal"].clone(),
        None => cluster::username(client).await.unwrap().into(),
    };
    if !principal.is_null() {
        manifest["spec"]["principal"] = principal;
    }
}
