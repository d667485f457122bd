//! A stored object, and what is made of it once and read many times: its JSON and its type.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A revision of an object, which nobody changes.
#[derive(Debug, Default)]
pub struct Object {
    value: Value,
    json: OnceLock<Bytes>,
    item: OnceLock<Bytes>,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        Self { value, ..Default::default() }
    }
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

fn to_json(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a value is JSON").into()
}

/// The object as its type.
pub fn typed<K: DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).unwrap_or_else(|error| panic!("{error}: {object}"))
}

impl Object {
    pub fn json(&self) -> &Bytes {
        self.json.get_or_init(|| to_json(&self.value))
    }

    /// The object as an item of a list. Those of built-in kinds have no kind there.
    fn item(&self, is_custom: bool) -> &Bytes {
        match is_custom {
            true => self.json(),
            false => self.item.get_or_init(|| to_json(&self.item_value(false))),
        }
    }

    fn item_value(&self, is_custom: bool) -> Value {
        let mut item = self.value.clone();
        if let Some(fields) = item.as_object_mut().filter(|_| !is_custom) {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        item
    }

    /// The object as its type. A kind has one type here.
    pub fn typed<K: DeserializeOwned + Send + Sync + 'static>(&self) -> Arc<K> {
        let known = self.typed.get_or_init(|| Arc::new(typed::<K>(&self.value)));
        known.clone().downcast().unwrap_or_else(|_| panic!("another type of {}", self.value["kind"]))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    Stored(Arc<Object>),
    Made(Value),
    /// A list, without its items; the items; and whether they are of one of our kinds.
    List(Value, Vec<Arc<Object>>, bool),
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self::Made(value)
    }
}

impl Body {
    pub fn value(&self) -> Cow<'_, Value> {
        match self {
            Self::Stored(object) => Cow::Borrowed(object),
            Self::Made(value) => Cow::Borrowed(value),
            Self::List(list, items, is_custom) => {
                let items: Vec<Value> = items.iter().map(|item| item.item_value(*is_custom)).collect();
                let mut list = list.clone();
                list["items"] = json!(items);
                Cow::Owned(list)
            }
        }
    }

    pub fn json(&self) -> Bytes {
        match self {
            Self::Stored(object) => object.json().clone(),
            Self::Made(value) => to_json(value),
            Self::List(list, items, is_custom) => {
                let items: Vec<&[u8]> = items.iter().map(|item| &**item.item(*is_custom)).collect();
                let mut json = format!("{{\"apiVersion\":{},\"items\":[", list["apiVersion"]).into_bytes();
                json.extend_from_slice(&items.join(&b','));
                let rest = format!("],\"kind\":{},\"metadata\":{}}}", list["kind"], list["metadata"]);
                json.extend_from_slice(rest.as_bytes());
                json.into()
            }
        }
    }
}
