//! The API reference, docs/api.md, generated from the CustomResourceDefinitions and the reasons.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::condition::{
    BACKED, COPIED, DISK_HEALTHY, INTACT, NEARLY_FULL, READY, RESIZED, RETIRING, SEALED, TEMPLATED, reason,
};
use super::{GROUP, crds};

const HEAD: &str = "\
# API reference

Every field, condition and reason. `kubectl explain spv.spec` shows the fields in a terminal. Rule IDs in brackets refer to
[semantics.md](semantics.md). People write every `spec`, except the spec of a NodeDisk, which the agent writes. Reservoir writes every
`status`. `make crds` generates this page from the doc comments in `src/api`; edit these.
";

const TYPES: [(&str, &str, &str); 10] = [
    (READY, "every kind", "the object has the state that its spec asks for and can be used"),
    (
        DISK_HEALTHY,
        "NodeDisk",
        "the agent can reach the disk, and the disk has the expected ID and its allocatable storage capacity",
    ),
    (
        BACKED,
        "SharedPersistentVolume",
        "the agent has allocated and formatted its bytes, and they can be mounted",
    ),
    (
        RESIZED,
        "DiskReservation, SharedPersistentVolume",
        "the object has the size of its spec; added by the first change of the size. While `False`, the object stays `Ready` with its current size (R6, V7)",
    ),
    (
        RETIRING,
        "SharedPersistentVolume",
        "the volume is destroyed after its last use; added by `spec.retire: true` (X5)",
    ),
    (
        NEARLY_FULL,
        "SharedPersistentVolume",
        "nearly all bytes or inodes of the volume are taken. Absent while enough is free (M6)",
    ),
    (
        SEALED,
        "SharedPersistentVolume",
        "the volume has readers only, and the digest of its content is in its status; added by `spec.sealed: true` (E1)",
    ),
    (
        INTACT,
        "SharedPersistentVolume",
        "the files of the sealed volume are what was sealed; added by the first reading after the seal. `False`: its data is damaged (E4)",
    ),
    (
        COPIED,
        "SharedPersistentVolume",
        "each selected node has a copy of the sealed volume. Absent without `spec.copies`, and once the volume ends (E2)",
    ),
    (
        TEMPLATED,
        "VolumeRole",
        "each reservation template of the role selects disks, and its reservations are served. Absent without templates (R7)",
    ),
];

/// Returns the whole page.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    page.push_str("\n| kind | short | scope | description |\n|---|---|---|---|\n");
    let crds = crds();
    for crd in crds {
        let names = &crd.spec.names;
        let short = names.short_names.iter().flatten().map(|name| code(name)).collect::<Vec<_>>().join(", ");
        let link = format!("[{0}](#{1})", names.kind, names.kind.to_lowercase());
        let is = schema(crd).description.as_deref().unwrap_or_default();
        row(&mut page, &[&link, &short, &crd.spec.scope, is]);
    }
    page.push_str(&format!(
        "\nAll are of API group `{GROUP}`, version `v1alpha1`, and in the category `reservoir`: `kubectl get reservoir -A`.\n"
    ));
    crds.iter().for_each(|crd| kind(&mut page, crd));
    conditions(&mut page);
    page
}

fn schema(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
    let schema = crd.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
    schema.expect("each kind has a schema")
}

fn kind(page: &mut String, crd: &CustomResourceDefinition) {
    page.push_str(&format!("\n## {}\n", crd.spec.names.kind));
    page.push_str("\n`kubectl get` shows");
    let columns = crd.spec.versions[0].additional_printer_columns.iter().flatten();
    let (wide, plain): (Vec<_>, Vec<_>) = columns.partition(|column| column.priority.unwrap_or(0) > 0);
    let list = |columns: Vec<_>| {
        let name = |c: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition| {
            format!("{} (`{}`)", c.name, c.json_path)
        };
        columns.into_iter().map(name).collect::<Vec<_>>().join(", ")
    };
    page.push_str(&format!(" {}", list(plain)));
    if !wide.is_empty() {
        page.push_str(&format!("; with `-o wide` also {}", list(wide)));
    }
    page.push_str(".\n\n| field | type | description |\n|---|---|---|\n");
    for part in ["spec", "status"] {
        if let Some(schema) = schema(crd).properties.as_ref().and_then(|p| p.get(part)) {
            row(page, &[&code(part), &type_of(schema), &rules(schema).join(" ")]);
            fields(page, part, schema);
        }
    }
}

/// Adds a row for each field beneath `path`. Conditions get one row, since their fields are the same in every
/// kind.
fn fields(page: &mut String, path: &str, schema: &JSONSchemaProps) {
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let inner = item(field);
        let path = format!("{path}.{name}{}", if inner.is_some() { "[]" } else { "" });
        let mut notes: Vec<String> = field.description.iter().map(|text| one_line(text)).collect();
        if required.contains(name) && path.starts_with("spec") {
            notes.insert(0, "Required.".to_owned());
        }
        if let Some(default) = &field.default {
            notes.push(format!("Default: {}.", code(&default.0.to_string())));
        }
        notes.extend(bounds(field));
        notes.extend(rules(field));
        row(page, &[&code(&path), &type_of(field), &notes.join(" ")]);
        if name != "conditions" {
            fields(page, &path, inner.unwrap_or(field));
        }
    }
}

fn item(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(item) => Some(item),
        JSONSchemaPropsOrArray::Schemas(items) => items.first(),
    }
}

fn type_of(schema: &JSONSchemaProps) -> String {
    if let Some(item) = item(schema) {
        return format!("list of {}", type_of(item));
    }
    if let Some(values) = &schema.enum_ {
        return values
            .iter()
            .map(|value| code(value.0.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        return "quantity".to_owned();
    }
    if let Some(JSONSchemaPropsOrBool::Schema(_)) = schema.additional_properties {
        return "map of strings".to_owned();
    }
    match schema.format.as_deref() {
        Some("date-time") => "time".to_owned(),
        _ => schema.type_.clone().unwrap_or_default(),
    }
}

/// Bounds of lengths and numbers in a schema.
fn bounds(schema: &JSONSchemaProps) -> Vec<String> {
    let mut bounds = Vec::new();
    if let Some(least) = schema.minimum.filter(|least| *least > 0.0) {
        bounds.push(format!("At least {least}."));
    }
    if let Some(most) = schema.max_items {
        bounds.push(format!("At most {most} items."));
    }
    if let Some(most) = schema.max_length.filter(|_| schema.type_.as_deref() == Some("string")) {
        bounds.push(format!("At most {most} characters."));
    }
    bounds
}

/// Messages of the API server for violated rules of the schema.
fn rules(schema: &JSONSchemaProps) -> Vec<String> {
    let rules = schema.x_kubernetes_validations.iter().flatten();
    rules
        .filter_map(|rule| rule.message.as_deref())
        .map(|message| format!("*Checked: {}.*", one_line(message)))
        .collect()
}

fn conditions(page: &mut String) {
    page.push_str("\n## Conditions\n\n| type | of | `True` means |\n|---|---|---|\n");
    for (name, of, means) in TYPES {
        row(page, &[&code(name), of, means]);
    }
    page.push_str("\n`observedGeneration` names the generation of the spec that the condition refers to. The message is one sentence.\n");
    page.push_str("\n## Reasons\n\n| reason | means | next step |\n|---|---|---|\n");
    for (name, lines) in reason::ALL {
        let text = one_line(&lines.concat());
        let (means, next) = text.split_once(" Next: ").unwrap_or((&text, ""));
        row(page, &[&code(name), means, next.trim_end_matches('.')]);
    }
}

fn row(page: &mut String, cells: &[&str]) {
    page.push_str(&format!(
        "| {} |\n",
        cells.iter().map(|c| one_line(c).replace('|', "\\|")).collect::<Vec<_>>().join(" | ")
    ));
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_meaning_and_a_next_step() {
        for (name, lines) in reason::ALL {
            let text = lines.concat();
            let (means, next) = text.split_once(" Next: ").unwrap_or_default();
            assert!(!means.trim().is_empty() && next.trim().ends_with('.'), "{name}: {text}");
        }
        let mut names: Vec<_> = reason::ALL.iter().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "a reason occurs twice");
    }

    #[test]
    fn every_condition_of_a_kind_is_in_the_table() {
        for crd in crds() {
            let field = schema(crd)
                .properties
                .as_ref()
                .and_then(|p| p.get("status")?.properties.as_ref()?.get("conditions"));
            let text = field.and_then(|field| field.description.as_deref()).unwrap_or_default();
            let kind = &crd.spec.names.kind;
            let names: Vec<_> = text.split('`').skip(1).step_by(2).collect();
            assert!(names.contains(&READY), "{kind}: {text}");
            for name in names {
                let row = TYPES
                    .iter()
                    .find(|(type_, of, _)| *type_ == name && (*of == "every kind" || of.contains(kind)));
                assert!(row.is_some(), "{kind}: {name} is not in the table");
            }
        }
    }

    #[test]
    fn every_kind_and_field_is_on_the_page() {
        let page = markdown();
        for row in [
            "| `spec.size` | quantity | Required. Size of the volume",
            "| `spec.fsType` | `ext4`",
            "| `spec.adopt.path` | string | Required.",
            "| `status.orphans[].uid` | string |",
            "| `NotEnoughRoom` | Reservation: no disk",
        ] {
            assert!(page.contains(row), "{row}");
        }
        assert_eq!(page.matches("\n## ").count(), crds().len() + 2);
    }
}
