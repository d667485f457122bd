//! F6. The chart's CEL compiles on the oldest Kubernetes that the chart installs on.
//!
//! An API server compiles a new expression with the libraries of the release before, so that a rollback still compiles it
//! (k8s.io/apiserver, `pkg/cel/environment/base.go`). The api tier compiles all of it on real servers; this test says at
//! once which function is too new.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// CEL functions and macros with the minor release of Kubernetes that introduced them.
const FUNCTIONS: &[(u32, &str)] = &[
    // The language and its macros.
    (
        0,
        "all bool bytes contains double duration dyn endsWith exists exists_one filter getFullYear has int map matches",
    ),
    (0, "size startsWith string timestamp type uint"),
    // Strings, lists, regular expressions and URLs.
    (0, "charAt format join lowerAscii replace split substring trim upperAscii"),
    (0, "indexOf isSorted lastIndexOf max min sum find findAll isURL url getHost getScheme"),
    (
        27,
        "allowed authorizer check errored group name namespace path reason resource serviceAccount subresource",
    ),
    (
        28,
        "add asApproximateFloat asInteger compareTo hasValue isGreaterThan isLessThan isQuantity none of optFlatMap",
    ),
    (28, "optMap or orValue optional quantity sign sub value"),
    (29, "quote sets"),
    (30, "cidr containsCIDR containsIP family ip isCIDR isIP prefixLength"),
    (31, "fieldSelector labelSelector named validate"),
    (32, "existsOne transformList transformMap transformMapEntry"),
    (33, "isSemver major minor patch semver"),
    // Of lists. Strings had `reverse` before.
    (34, "distinct first flatten last range reverse slice sort sortBy"),
    (37, "includes"),
];

/// Every expression of the admission policies and of the kinds' schemas, with the place that it is in.
fn expressions() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["charts/reservoir/files", "crds"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "yaml") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for document in serde_yaml::Deserializer::from_str(&text) {
                let object = Value::deserialize(document).unwrap();
                let place = format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', "");
                collect(&place, &object, &mut found);
            }
        }
    }
    found
}

fn collect(place: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(place, item, found)),
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner.as_str() {
                    Some(text) if ["expression", "messageExpression", "rule"].contains(&name.as_str()) => {
                        found.push((place.to_owned(), text.to_owned()));
                    }
                    _ => collect(place, inner, found),
                }
            }
        }
        _ => {}
    }
}

/// The names of the called functions. Literals have none.
fn called(expression: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut name, mut quote, mut escaped) = (String::new(), None, false);
    for c in expression.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(end) if c == end => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_ascii_alphanumeric() || c == '_' => name.push(c),
            None => {
                if c == '(' && !["", "in"].contains(&name.as_str()) {
                    names.insert(name.clone());
                }
                name.clear();
            }
        }
    }
    names
}

#[test]
fn f6_no_expression_needs_a_newer_kubernetes_than_the_chart() {
    let known: BTreeMap<&str, u32> = FUNCTIONS
        .iter()
        .flat_map(|(minor, names)| names.split(' ').map(move |name| (name, *minor)))
        .collect();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/Chart.yaml");
    let chart: Value = serde_yaml::from_str(&fs::read_to_string(chart).unwrap()).unwrap();
    let oldest = chart["kubeVersion"].as_str().unwrap().strip_prefix(">=1.").unwrap();
    let oldest: u32 = oldest.split('.').next().unwrap().parse().unwrap();
    let expressions = expressions();
    assert!(expressions.len() > 200, "{} expressions were found", expressions.len());
    let mut seen = BTreeSet::new();
    for (place, expression) in &expressions {
        for name in called(expression) {
            let Some(minor) = known.get(name.as_str()) else {
                panic!(
                    "{place}: {name} is no function of the list: add it with the release that introduced it"
                )
            };
            assert!(
                *minor < oldest,
                "{place}: {name} came with Kubernetes 1.{minor}, so it compiles from 1.{} on, and the chart installs on 1.{oldest}: \
                 {expression}",
                minor + 1
            );
            seen.insert(name);
        }
    }
    assert!(seen.contains("check") && seen.contains("transformList"), "{seen:?}");
}

#[test]
fn calls_are_found_and_literals_are_not() {
    let found = called(
        r#"variables.a.slice(0, 2) + 'say \'range(1)\'' + lists.range(3) + (x in (y)) + "z(" + has(o.p)"#,
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["has", "range", "slice"]);
}
