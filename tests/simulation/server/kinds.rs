//! The kinds that the API server serves.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::schema::Schema;

/// A kind.
#[derive(Clone)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    /// True if the status is written by requests of its own.
    pub has_status: bool,
    /// True for our kinds, whose generation counts the changes of the spec.
    pub is_custom: bool,
    /// The schema of one of our kinds, and nothing for others.
    pub schema: Arc<Schema>,
}

impl Kind {
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}

/// Kubernetes' own kinds that controller and agents read or write.
const BUILT_IN: [(&str, &str, &str, &str, bool, bool); 10] = [
    ("", "v1", "namespaces", "Namespace", false, true),
    ("", "v1", "nodes", "Node", false, true),
    ("", "v1", "pods", "Pod", true, true),
    ("", "v1", "persistentvolumes", "PersistentVolume", false, true),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, true),
    ("", "v1", "configmaps", "ConfigMap", true, false),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", false, false),
    ("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", true, false),
    ("events.k8s.io", "v1", "events", "Event", true, false),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false, true),
];

/// Our kinds' CustomResourceDefinitions.
pub static CRDS: LazyLock<Vec<Value>> =
    LazyLock::new(|| reservoir::api::crds().iter().map(|crd| json!(crd)).collect());

/// All kinds, by plural.
pub static KINDS: LazyLock<BTreeMap<&'static str, Kind>> = LazyLock::new(|| {
    let built_in = BUILT_IN.into_iter().map(|(group, version, plural, kind, namespaced, has_status)| {
        let schema = Arc::default();
        Kind { group, version, plural, kind, namespaced, has_status, is_custom: false, schema }
    });
    let ours = reservoir::api::crds().iter().map(|crd| {
        let version = &crd.spec.versions[0];
        let names = &crd.spec.names;
        Kind {
            group: "reservoir.dev",
            version: leak(&version.name),
            plural: leak(&names.plural),
            kind: leak(&names.kind),
            namespaced: crd.spec.scope == "Namespaced",
            has_status: version.subresources.as_ref().is_some_and(|sub| sub.status.is_some()),
            is_custom: true,
            schema: Arc::new(Schema::new(&json!(
                version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref())
            ))),
        }
    });
    built_in.chain(ours).map(|kind| (kind.plural, kind)).collect()
});

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}
