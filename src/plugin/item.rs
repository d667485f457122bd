//! Kinds and objects in the form that all views use: kind, name, role and conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};

use super::snapshot::Snapshot;
use crate::api::condition::{self, READY};

/// A kind that commands take as an argument.
#[derive(Debug, PartialEq)]
pub(super) struct Kind {
    pub name: &'static str,
    pub short: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
}

const fn kind(name: &'static str, short: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind { name, short, plural, namespaced }
}

pub(super) static DISK: Kind = kind("NodeDisk", "nd", "nodedisks", false);
pub(super) static RESERVATION: Kind = kind("DiskReservation", "dr", "diskreservations", false);
pub(super) static VOLUME: Kind = kind("SharedPersistentVolume", "spv", "sharedpersistentvolumes", false);
pub(super) static ROLE: Kind = kind("VolumeRole", "vrole", "volumeroles", false);
pub(super) static CLAIM: Kind = kind("VolumeClaim", "vclaim", "volumeclaims", true);
pub(super) static SUBSCRIPTION: Kind = kind("RoleSubscription", "rsub", "rolesubscriptions", true);
pub(super) static OFFER: Kind = kind("VolumeOffer", "offer", "volumeoffers", true);
pub(super) static POD: Kind = kind("Pod", "pod", "pods", true);
pub(super) static PVC: Kind = kind("PersistentVolumeClaim", "pvc", "persistentvolumeclaims", true);

/// Every kind.
pub(super) static KINDS: [&Kind; 9] =
    [&POD, &PVC, &CLAIM, &VOLUME, &RESERVATION, &DISK, &SUBSCRIPTION, &ROLE, &OFFER];

impl Kind {
    /// Parses any name that kubectl takes for the kind. The error has the most similar name.
    pub fn parse(text: &str) -> Result<&'static Kind, String> {
        let lower = text.to_lowercase();
        let plain = lower.strip_suffix(".reservoir.dev").unwrap_or(&lower);
        let plain = if plain == "po" { "pod" } else { plain };
        let called = |k: &Kind| [k.short, k.plural, &k.name.to_lowercase()].contains(&plain);
        KINDS.into_iter().find(|k| called(k)).ok_or_else(|| {
            let names = KINDS.iter().flat_map(|k| [k.short, k.plural]);
            let known: Vec<&str> = KINDS.iter().map(|k| k.short).collect();
            let nearest = did_you_mean(plain, names);
            format!("`{text}` is not a kind of this plug-in{nearest}; its kinds are {}", known.join(", "))
        })
    }
}

/// `; did you mean x?`, or nothing if no name is similar.
pub(super) fn did_you_mean<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let likeness = |name: &&str| strsim::jaro_winkler(text, name);
    let nearest = names.into_iter().filter(|n| likeness(n) > 0.75);
    let nearest = nearest.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

/// An object of one of the kinds.
pub(super) struct Item<'a> {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: String,
    pub role: Option<&'a str>,
    pub conditions: &'a [Condition],
    pub deleting: bool,
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
        }
    }

    /// `VolumeClaim team/data`.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind.name, self.path())
    }

    /// `team/data`.
    pub fn path(&self) -> String {
        self.namespace.iter().map(|n| format!("{n}/")).collect::<String>() + &self.name
    }

    /// `vclaim/data -n team`, the argument of `kubectl reservoir why`.
    pub fn argument(&self) -> String {
        let namespace = self.namespace.as_ref().map(|n| format!(" -n {n}")).unwrap_or_default();
        format!("{}/{}{namespace}", self.kind.short, self.name)
    }

    /// Returns the condition `Ready`.
    pub fn ready(&self) -> Option<&'a Condition> {
        condition::get(self.conditions, READY)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t4_kinds_parse_by_every_name_and_errors_name_the_nearest() {
        for (text, kind) in [
            ("spv", &VOLUME),
            ("SharedPersistentVolume", &VOLUME),
            ("sharedpersistentvolumes.reservoir.dev", &VOLUME),
            ("po", &POD),
            ("PVC", &PVC),
            ("vrole", &ROLE),
        ] {
            assert_eq!(Kind::parse(text), Ok(kind), "{text}");
        }
        let error = Kind::parse("vclaims").unwrap_err();
        assert!(error.contains("did you mean vclaim?") && error.contains("nd"), "{error}");
        assert!(!Kind::parse("xyz").unwrap_err().contains("did you mean"));
    }
}
