//! The API reference, docs/api.md, written from the CustomResourceDefinitions and the reasons.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::condition::{BACKED, DISK_HEALTHY, READY, RESIZED, RETIRING, reason};
use super::{GROUP, crds};

const HEAD: &str = "\
# API reference

Made by `make crds` from the schemas in `crds/` and the comments in `src/api`: change those. `kubectl explain spv.spec` shows the
same in a terminal. Rule IDs in brackets are those of [semantics.md](semantics.md). Every `spec` is written by people, but for
NodeDisk's, which is the agent's; every `status` by Reservoir.
";

const TYPES: [(&str, &str, &str); 5] = [
    (READY, "every kind", "the object is what its spec asks for and can be used"),
    (
        DISK_HEALTHY,
        "NodeDisk",
        "the agent's word: the disk can be reached, is the right one, and has the room that it promised",
    ),
    (BACKED, "SharedPersistentVolume", "the agent's word: its bytes are there, formatted and can be mounted"),
    (
        RESIZED,
        "DiskReservation, SharedPersistentVolume",
        "there once the size was changed; while it is `False` the object stays `Ready` with what it has (R6, V7)",
    ),
    (
        RETIRING,
        "SharedPersistentVolume",
        "there once that was asked for: it is destroyed when nobody uses it (X5)",
    ),
];

/// The whole page.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    page.push_str("\n| kind | short | scope | is |\n|---|---|---|---|\n");
    let crds = crds();
    for crd in &crds {
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
    page.push_str(".\n\n| field | type | is |\n|---|---|---|\n");
    for part in ["spec", "status"] {
        if let Some(schema) = schema(crd).properties.as_ref().and_then(|p| p.get(part)) {
            row(page, &[&code(part), &type_of(schema), &rules(schema).join(" ")]);
            fields(page, part, schema);
        }
    }
}

/// A row for each field beneath `path`; of conditions, which are the same everywhere, one.
fn fields(page: &mut String, path: &str, schema: &JSONSchemaProps) {
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let inner = item(field);
        let path = format!("{path}.{name}{}", if inner.is_some() { "[]" } else { "" });
        let mut said: Vec<String> = field.description.iter().map(|text| one_line(text)).collect();
        if required.contains(name) && path.starts_with("spec") {
            said.insert(0, "Required.".to_owned());
        }
        if let Some(default) = &field.default {
            said.push(format!("Default: {}.", code(&default.0.to_string())));
        }
        said.extend(bounds(field));
        said.extend(rules(field));
        row(page, &[&code(&path), &type_of(field), &said.join(" ")]);
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

/// What a schema says of lengths and numbers.
fn bounds(schema: &JSONSchemaProps) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(least) = schema.minimum.filter(|least| *least > 0.0) {
        said.push(format!("At least {least}."));
    }
    if let Some(most) = schema.max_items {
        said.push(format!("At most {most} of them."));
    }
    if let Some(most) = schema.max_length.filter(|_| schema.type_.as_deref() == Some("string")) {
        said.push(format!("At most {most} characters."));
    }
    said
}

/// What the API server says when a rule of the schema does not hold.
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
    page.push_str("\nEach says in `observedGeneration` which spec it is about, and in its message, one sentence, the particulars.\n");
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
    fn every_reason_says_what_it_means_and_what_is_next() {
        for (name, lines) in reason::ALL {
            let text = lines.concat();
            let (means, next) = text.split_once(" Next: ").unwrap_or_default();
            assert!(!means.trim().is_empty() && next.trim().ends_with('.'), "{name}: {text}");
        }
        let mut names: Vec<_> = reason::ALL.iter().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "one reason is one situation");
    }

    #[test]
    fn every_kind_and_field_is_on_the_page() {
        let page = markdown();
        for row in [
            "| `spec.size` | quantity | Required. How many bytes",
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
