//! Objects in the form that all views use: kind, name, role and conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};

use super::kind::{CLAIM, DISK, Kind, OFFER, RESERVATION, ROLE, SUBSCRIPTION, VOLUME};
use super::snapshot::Snapshot;
use crate::api::condition::{self, COPIED, INTACT, NEARLY_FULL, READY, RESIZED, RETIRING, SEALED, TEMPLATED};

/// An object of one of the kinds.
pub(super) struct Item<'a> {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: String,
    pub role: Option<&'a str>,
    pub conditions: &'a [Condition],
    pub deleting: bool,
    generation: Option<i64>,
}

impl<'a> Item<'a> {
    fn new<K: Resource<DynamicType = ()>>(
        kind: &'static Kind,
        object: &K,
        role: Option<&'a str>,
        conditions: Option<&'a Vec<Condition>>,
    ) -> Self {
        Self {
            kind,
            namespace: object.namespace(),
            name: object.name_any(),
            role,
            conditions: conditions.map_or(&[], |c| c),
            deleting: object.meta().deletion_timestamp.is_some(),
            generation: object.meta().generation,
        }
    }

    /// `VolumeClaim team/data`: kind and path of the object.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind.name, self.path())
    }

    /// `team/data`: namespace and name of the object.
    pub fn path(&self) -> String {
        self.namespace.iter().map(|n| format!("{n}/")).collect::<String>() + &self.name
    }

    /// `vclaim/data -n team`: the argument of `kubectl reservoir why`.
    pub fn argument(&self) -> String {
        self.kind.argument(&self.name, self.namespace.as_deref())
    }

    /// Returns the condition `Ready`.
    pub fn ready(&self) -> Option<&'a Condition> {
        condition::get(self.conditions, READY)
    }

    /// The conditions that the object has trouble with beside `Ready`, which may be the very same trouble. What is being deleted
    /// is not resized any more.
    pub fn beside(&self) -> impl Iterator<Item = &'a Condition> + use<'a> {
        let (told, deleting) = (self.ready().filter(|ready| ready.status != "True"), self.deleting);
        let others = self.conditions.iter().filter(move |c| {
            told.is_none_or(|told| (&told.reason, &told.message) != (&c.reason, &c.message))
        });
        others.filter(move |c| match c.type_.as_str() {
            RESIZED => c.status != "True" && !deleting,
            TEMPLATED | SEALED | INTACT | COPIED => c.status != "True",
            RETIRING | NEARLY_FULL => c.status == "True",
            _ => false,
        })
    }

    /// The message about an object that [is outdated](Self::is_outdated).
    pub const OUTDATED: &'static str = "its spec was changed, and the controller has not looked at it since";

    /// True if the spec is newer than the condition `Ready`: the controller has not reported about the change.
    pub fn is_outdated(&self) -> bool {
        let seen = self.ready().and_then(|ready| ready.observed_generation);
        !self.deleting && seen.is_some_and(|seen| Some(seen) < self.generation)
    }

    /// Returns true if the condition `Ready` is true and the object is not being deleted.
    pub fn is_ready(&self) -> bool {
        condition::is_true(self.conditions, READY) && !self.deleting
    }
}

impl Snapshot {
    /// Every object of Reservoir's kinds.
    pub fn items(&self) -> Vec<Item<'_>> {
        let mut items = Vec::new();
        for o in &self.disks {
            items.push(Item::new(&DISK, o, None, o.status.as_ref().map(|s| &s.conditions)));
        }
        for o in &self.roles {
            items.push(Item::new(&ROLE, o, Some(&o.spec.role), o.status.as_ref().map(|s| &s.conditions)));
        }
        for o in &self.reservations {
            items.push(Item::new(
                &RESERVATION,
                o,
                Some(&o.spec.role),
                o.status.as_ref().map(|s| &s.conditions),
            ));
        }
        for o in &self.volumes {
            items.push(Item::new(&VOLUME, o, Some(&o.spec.role), o.status.as_ref().map(|s| &s.conditions)));
        }
        for o in &self.subscriptions {
            let role = o.spec.roles.first().map(String::as_str);
            items.push(Item::new(&SUBSCRIPTION, o, role, o.status.as_ref().map(|s| &s.conditions)));
        }
        for o in &self.offers {
            items.push(Item::new(&OFFER, o, None, o.status.as_ref().map(|s| &s.conditions)));
        }
        for o in &self.claims {
            items.push(Item::new(&CLAIM, o, Some(&o.spec.role), o.status.as_ref().map(|s| &s.conditions)));
        }
        items
    }

    /// Returns the object of the given kind and name.
    pub fn find(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Option<Item<'_>> {
        self.items().into_iter().find(|item| {
            item.kind == kind
                && item.name == name
                && (!kind.namespaced || item.namespace.as_deref() == namespace)
        })
    }
}
