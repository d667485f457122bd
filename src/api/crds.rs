//! The CustomResourceDefinitions, generated from the kinds.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::*;

/// Every CustomResourceDefinition, in the form of `crds/` and of the chart.
pub fn all() -> &'static [CustomResourceDefinition] {
    static ALL: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(generate);
    &ALL
}

fn generate() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        NodeDisk::crd(),
        DiskReservation::crd(),
        SharedPersistentVolume::crd(),
        VolumeClaim::crd(),
        RoleSubscription::crd(),
        VolumeOffer::crd(),
        VolumeRole::crd(),
    ];
    for crd in &mut crds {
        // Helm does not delete an object with this annotation: uninstalling the chart deletes no data (X7).
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        if crd.spec.names.kind == "VolumeOffer" {
            // Without the subresource, the controller writes an offer with its status in one request.
            crd.spec.versions.iter_mut().for_each(|version| version.subresources = None);
        }
    }
    crds.into_iter().map(without_unknown_formats).collect()
}

/// The definition without formats such as `uint32`, which Kubernetes does not know: each is a warning to who installs them.
fn without_unknown_formats(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, value| {
                    name != "format" || !value.as_str().is_some_and(|format| format.starts_with("uint"))
                });
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(crd).expect("a definition is JSON");
    strip(&mut value);
    serde_json::from_value(value).expect("a definition without a format is one")
}

/// File name of a definition in `crds/`.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.spec.names.plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_that_kubernetes_knows() {
        let all = serde_json::to_string(&all()).unwrap();
        let formats: std::collections::BTreeSet<&str> =
            all.split(r#""format":""#).skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(formats.into_iter().collect::<Vec<_>>(), ["date-time", "int64"]);
    }

    /// The most bytes that a value of this schema takes as JSON. The error is the path of a field without a bound. A
    /// character may take six bytes, such as `\u0001`.
    fn most_bytes(path: &str, schema: &Value) -> Result<u64, String> {
        let bound = |key: &str| schema[key].as_u64().ok_or_else(|| format!("{path} has no {key}"));
        if let Some(words) = schema["enum"].as_array() {
            return Ok(words.iter().map(|word| word.to_string().len() as u64).max().unwrap_or(0));
        }
        match schema["type"].as_str() {
            Some("boolean") => Ok(5),
            Some("integer") => Ok(20),
            Some("string") => Ok(2 + 6 * bound("maxLength")?),
            Some("array") => {
                Ok(2 + bound("maxItems")? * (1 + most_bytes(&format!("{path}[]"), &schema["items"])?))
            }
            Some("object") if !schema["additionalProperties"].is_null() => {
                // A schema cannot bound the keys of a map, so a rule bounds keys and values together.
                let rules = schema["x-kubernetes-validations"].as_array().cloned().unwrap_or_default();
                let sum = rules.iter().filter_map(|rule| {
                    rule["rule"].as_str()?.split_once(".sum() <= ")?.1.parse::<u64>().ok()
                });
                let characters = sum.min().ok_or_else(|| format!("{path} has no rule with a sum"))?;
                Ok(6 * characters + 6 * bound("maxProperties")?)
            }
            Some("object") => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                fields
                    .map(|(name, field)| {
                        Ok(4 + name.len() as u64 + most_bytes(&format!("{path}.{name}"), field)?)
                    })
                    .sum()
            }
            _ if schema["x-kubernetes-int-or-string"] == true => Ok(2 + bound("maxLength")?),
            _ => Err(format!("{path} has no type")),
        }
    }

    /// A8. etcd stores 1.5 MiB per object, including status, labels and annotations. The controller writes offers, and
    /// bounds their size itself.
    #[test]
    fn a8_a_spec_is_bounded_by_its_schema() {
        for crd in all().iter().filter(|crd| crd.spec.names.kind != "VolumeOffer") {
            let crd = serde_json::to_value(crd).unwrap();
            let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
            let bytes = most_bytes(&format!("{kind}.spec"), spec).unwrap();
            assert!(bytes < 512 << 10, "{kind}.spec may have {bytes} bytes");
        }
    }
}
