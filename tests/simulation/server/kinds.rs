//! The kinds that the API server serves.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

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
    /// The schema of one of our kinds, and null for others.
    pub schema: Arc<Value>,
}

impl Kind {
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// True for our kinds, whose generation counts the changes of the spec.
    pub fn is_custom(&self) -> bool {
        !self.schema.is_null()
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

/// All kinds, by plural.
pub static KINDS: LazyLock<BTreeMap<&'static str, Kind>> =
    LazyLock::new(|| {
        let built_in = BUILT_IN.into_iter().map(|(group, version, plural, kind, namespaced, has_status)| {
            Kind { group, version, plural, kind, namespaced, has_status, schema: Arc::default() }
        });
        let ours = reservoir::api::crds().into_iter().map(|crd| {
            let version = &crd.spec.versions[0];
            let names = &crd.spec.names;
            Kind {
                group: "reservoir.dev",
                version: leak(&version.name),
                plural: leak(&names.plural),
                kind: leak(&names.kind),
                namespaced: crd.spec.scope == "Namespaced",
                has_status: version.subresources.as_ref().is_some_and(|sub| sub.status.is_some()),
                schema: Arc::new(json!(
                    version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref())
                )),
            }
        });
        built_in.chain(ours).map(|kind| (kind.plural, kind)).collect()
    });

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// Adds the defaults of the schema to what is absent.
pub fn set_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                if !schema["default"].is_null() && fields.get(name).is_none_or(Value::is_null) {
                    fields.insert(name.clone(), schema["default"].clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    set_defaults(field, schema);
                }
            }
            if schema["additionalProperties"].is_object() {
                fields.values_mut().for_each(|field| set_defaults(field, &schema["additionalProperties"]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| set_defaults(item, &schema["items"])),
        _ => {}
    }
}

/// The path of a field that the schema requires and that is absent, or of a list that is null.
pub fn missing_field(value: &Value, schema: &Value) -> Option<String> {
    let below = |name: &str, field: &Value, schema: &Value| {
        missing_field(field, schema).map(|path| format!(".{name}{path}"))
    };
    match value {
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let absent = required.into_iter().find(|name| !fields.contains_key(*name));
            absent.map(|name| format!(".{name}")).or_else(|| {
                fields.iter().find_map(|(name, field)| match &schema["properties"][name] {
                    Value::Null => below(name, field, &schema["additionalProperties"]),
                    of => below(name, field, of),
                })
            })
        }
        Value::Array(items) => items.iter().find_map(|item| missing_field(item, &schema["items"])),
        Value::Null if schema["type"] == "array" && schema["nullable"] != true => Some(String::new()),
        _ => None,
    }
}
