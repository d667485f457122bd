//! Label and field selectors.

use serde_json::Value;

/// A label and a field selector: terms joined by commas.
#[derive(Clone, Default)]
pub struct Selector {
    labels: Vec<(String, Test)>,
    fields: Vec<(String, Test)>,
}

#[derive(Clone)]
enum Test {
    Is(String),
    IsNot(String),
    Exists,
    Missing,
}

fn terms(text: &str) -> Vec<(String, Test)> {
    let term = |term: &str| {
        if let Some((key, value)) = term.split_once("!=") {
            return (key.to_owned(), Test::IsNot(value.to_owned()));
        }
        if let Some((key, value)) = term.split_once('=') {
            return (key.to_owned(), Test::Is(value.trim_start_matches('=').to_owned()));
        }
        match term.strip_prefix('!') {
            Some(key) => (key.to_owned(), Test::Missing),
            None => (term.to_owned(), Test::Exists),
        }
    };
    text.split(',').filter(|term| !term.is_empty()).map(term).collect()
}

fn passes(value: Option<&str>, test: &Test) -> bool {
    match test {
        Test::Is(wanted) => value == Some(wanted),
        Test::IsNot(wanted) => value != Some(wanted),
        Test::Exists => value.is_some(),
        Test::Missing => value.is_none(),
    }
}

impl Selector {
    pub fn new(labels: &str, fields: &str) -> Self {
        Self { labels: terms(labels), fields: terms(fields) }
    }

    pub fn fits(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        // A missing field is an empty one.
        let field = |path: &str| {
            let found = path.split('.').fold(object, |value, name| &value[name]);
            Some(found.as_str().unwrap_or_default())
        };
        self.labels.iter().all(|(key, test)| passes(label(key), test))
            && self.fields.iter().all(|(path, test)| passes(field(path), test))
    }
}
