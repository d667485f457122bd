//! The schema of a kind, with what writes ask of it.

use std::collections::BTreeMap;

use serde_json::Value;

/// A schema, or nothing where there is none.
#[derive(Default)]
pub struct Schema {
    properties: BTreeMap<String, Schema>,
    /// Of the other fields of a map.
    additional: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    default: Option<Value>,
    required: Vec<String>,
    /// The fields by which the elements of a list are told apart, in the order of their names.
    keys: Option<Vec<String>>,
    is_atomic: bool,
    /// True for a list that is never null.
    is_list: bool,
    /// True if the schema, or a part of it, has a default.
    has_defaults: bool,
    /// True if the schema, or a part of it, can refuse a value.
    refuses: bool,
}

/// The schema of a value of which nothing is known.
static NONE: Schema = Schema {
    properties: BTreeMap::new(),
    additional: None,
    items: None,
    default: None,
    required: Vec::new(),
    keys: None,
    is_atomic: false,
    is_list: false,
    has_defaults: false,
    refuses: false,
};

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Schema {
    pub fn new(schema: &Value) -> Self {
        let below = |part: &str| schema[part].is_object().then(|| Box::new(Self::new(&schema[part])));
        let properties = schema["properties"].as_object().into_iter().flatten();
        let properties: BTreeMap<String, Self> =
            properties.map(|(name, schema)| (name.clone(), Self::new(schema))).collect();
        let (additional, items) = (below("additionalProperties"), below("items"));
        let mut keys = Some(words(&schema["x-kubernetes-list-map-keys"]))
            .filter(|_| schema["x-kubernetes-list-type"] == "map");
        keys.iter_mut().for_each(|keys| keys.sort());
        let (required, default) = (words(&schema["required"]), schema["default"].clone());
        let is_list = schema["type"] == "array" && schema["nullable"] != true;
        let parts = || properties.values().chain(additional.as_deref()).chain(items.as_deref());
        Self {
            has_defaults: parts().any(|part| part.has_defaults || part.default.is_some()),
            refuses: is_list || !required.is_empty() || parts().any(|part| part.refuses),
            default: Some(default).filter(|default| !default.is_null()),
            is_atomic: schema["x-kubernetes-map-type"] == "atomic",
            properties,
            additional,
            items,
            required,
            keys,
            is_list,
        }
    }

    pub fn field(&self, name: &str) -> &Self {
        self.properties.get(name).or(self.additional.as_deref()).unwrap_or(&NONE)
    }

    pub fn items(&self) -> &Self {
        self.items.as_deref().unwrap_or(&NONE)
    }

    /// The fields that tell the elements of a list apart; `None`: the list is replaced as a whole.
    pub fn keys(&self) -> Option<&[String]> {
        self.keys.as_deref()
    }

    /// True if each field of a map has an owner.
    pub fn is_granular(&self) -> bool {
        !self.is_atomic
    }

    /// Adds the defaults to what is absent.
    pub fn set_defaults(&self, value: &mut Value) {
        match value {
            _ if !self.has_defaults => {}
            Value::Object(fields) => {
                for (name, schema) in &self.properties {
                    if let Some(default) = &schema.default
                        && fields.get(name).is_none_or(Value::is_null)
                    {
                        fields.insert(name.clone(), default.clone());
                    }
                    if let Some(field) = fields.get_mut(name).filter(|_| schema.has_defaults) {
                        schema.set_defaults(field);
                    }
                }
                if let Some(additional) = &self.additional {
                    fields.values_mut().for_each(|field| additional.set_defaults(field));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.items().set_defaults(item)),
            _ => {}
        }
    }

    /// The path of a required field that is absent, or of a list that is null.
    pub fn missing_field(&self, value: &Value) -> Option<String> {
        match value {
            _ if !self.refuses => None,
            Value::Object(fields) => {
                let absent = self.required.iter().find(|name| !fields.contains_key(*name));
                absent.map(|name| format!(".{name}")).or_else(|| {
                    fields.iter().find_map(|(name, field)| {
                        self.field(name).missing_field(field).map(|path| format!(".{name}{path}"))
                    })
                })
            }
            Value::Array(items) => items.iter().find_map(|item| self.items().missing_field(item)),
            Value::Null => self.is_list.then(String::new),
            _ => None,
        }
    }
}
