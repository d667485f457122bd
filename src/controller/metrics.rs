//! The gauges of disks, roles and volumes (T3), read from the caches at each scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::object::HasStatus;
use kube::{Resource, ResourceExt};

use crate::api::condition::{self, READY, RESIZED, reason};
use crate::api::{NamespaceUse, NodeDisk, Size, VolumeRole};
use crate::cluster::{Cache, Kind};
use crate::plan::{kept, ledger, orphans, quota, summary};
use crate::telemetry::{Sink, View};

use super::context::{Conditions, Context};
use super::stores::Stores;
use crate::plan::refs;

/// The gauges of what people wait for. Each has a value at all times, since an alert on nothing would never fire.
fn waiting(context: &Context, to: &mut Sink<'_>) {
    let stores = &context.stores;
    let fails = |conditions: &[Condition]| {
        let waits = [reason::RESIZING, reason::SHRINK_IN_USE];
        let resized = condition::get(conditions, RESIZED);
        resized.is_some_and(|c| c.status == "False" && !waits.contains(&c.reason.as_str()))
    };
    let reservations = stores.reservations.all();
    let volumes = stores.volumes.all();
    let failing = [
        (
            "DiskReservation",
            reservations.iter().filter(|r| r.status.as_ref().is_some_and(|s| fails(&s.conditions))).count(),
        ),
        (
            "SharedPersistentVolume",
            volumes.iter().filter(|v| v.status.as_ref().is_some_and(|s| fails(&s.conditions))).count(),
        ),
    ];
    let failing = failing.map(|(kind, number)| ([("kind", kind)], number as f64));
    to.gauge("resizes_failing", "Objects that cannot have the size of their spec", failing);

    let (mut binding, mut pods) = (Vec::new(), BTreeSet::new());
    for claim in stores.claims.all() {
        let ready = claim.status.as_ref().and_then(|s| condition::get(&s.conditions, READY));
        if ready.is_none_or(|ready| ready.status != "True") {
            let users = stores.pods.users(&claim.namespace().unwrap_or_default(), &claim.name_any());
            pods.extend(users.into_iter().map(|pod| pod.uid));
        }
        let is_binding = ready.filter(|ready| ready.reason == reason::BINDING);
        binding.extend(is_binding.map(|ready| ready.last_transition_time.0.as_second() as f64));
    }
    for name in stores.pvcs.names_provisioned() {
        let unbound = stores.provisioned(&name).is_some_and(|(_, pvc)| !pvc.bound);
        if let Some((namespace, name)) = name.split_once('/').filter(|_| unbound) {
            pods.extend(stores.pods.users(namespace, name).into_iter().map(|pod| pod.uid));
        }
    }
    to.gauge(
        "claims_binding_since_timestamp_seconds",
        "Time since which the claim waits that is Binding for longest; 0 without one",
        [([], binding.into_iter().reduce(f64::min).unwrap_or(0.0))],
    );
    to.gauge(
        "pods_waiting",
        "Pods with a claim or PersistentVolumeClaim that is not bound",
        [([], pods.len() as f64)],
    );
}

/// The number of objects, by kind and by the reason of the condition Ready.
type Reasons = BTreeMap<(String, String), u64>;

impl View for Context {
    fn report(&self, to: &mut Sink<'_>) {
        let stores = &self.stores;
        let mut reasons = Reasons::new();
        disks_and_roles(stores, to);
        volumes(stores, &mut reasons, to);
        waiting(self, to);
        count(&stores.disks, &mut reasons, |_| ());
        count(&stores.reservations, &mut reasons, |_| ());
        count(&stores.claims, &mut reasons, |_| ());
        count(&stores.subscriptions, &mut reasons, |_| ());
        count(&stores.roles, &mut reasons, |_| ());
        let series = reasons
            .iter()
            .map(|((kind, reason), n)| ([("kind", kind.as_str()), ("reason", reason.as_str())], *n as f64));
        to.gauge("objects", "Objects by kind and by the reason of their condition Ready", series);
    }
}

/// Passes each object to `look`, and counts the reasons.
fn count<K>(cache: &Cache<K>, reasons: &mut Reasons, mut look: impl FnMut(Arc<K>))
where
    K: Kind + HasStatus,
    K::Status: Conditions,
{
    let kind = K::kind(&()).into_owned();
    for object in cache.names().iter().filter_map(|name| cache.get(name)) {
        let ready = object.status().and_then(|s| condition::get(s.conditions(), READY));
        let reason = ready.map_or(NOT_LOOKED_AT, |ready: &Condition| &ready.reason);
        *reasons.entry((kind.clone(), reason.to_owned())).or_default() += 1;
        look(object);
    }
}

/// The reason counted for an object without a condition, before its first reconcile.
const NOT_LOOKED_AT: &str = "Unknown";

fn bytes(size: Option<&Size>) -> f64 {
    size.map_or(0, Size::bytes_or_zero) as f64
}

fn node_of(disk: &NodeDisk) -> &str {
    &disk.spec.node_name
}

fn disks_and_roles(stores: &Stores, to: &mut Sink<'_>) {
    let (mut disks, reservations) = (stores.disks.all(), stores.reservations.all());
    disks.sort_by_key(|disk| disk.name_any());
    let named: Vec<(String, &NodeDisk)> = disks.iter().map(|disk| (disk.name_any(), &**disk)).collect();
    let mut each = |name: &str, help: &str, of: &dyn Fn(&NodeDisk) -> f64| {
        let labels = |name, disk| [("disk", name), ("node", node_of(disk))];
        to.gauge(name, help, named.iter().map(|(name, disk)| (labels(name.as_str(), disk), of(disk))));
    };
    let status = |disk: &NodeDisk| disk.status.clone().unwrap_or_default();
    each("disk_capacity_bytes", "Size of the disk", &|d| bytes(status(d).capacity.as_ref()));
    each("disk_allocatable_bytes", "Bytes of the disk that can be reserved", &|d| {
        bytes(status(d).allocatable.as_ref())
    });
    each("disk_reserved_bytes", "Reserved bytes of the disk", &|d| {
        ledger::total(&status(d).reservations) as f64
    });
    let used = summary::used_on_disks(&refs(&reservations));
    each("disk_used_bytes", "Bytes of the reservations that volumes use", &|d| {
        used.get(d.name_any().as_str()).copied().unwrap_or(0) as f64
    });
    each("disk_orphans", "Volumes on the disk without an object", &|d| orphans::count(d) as f64);
    let kept = |d: &NodeDisk| {
        reservations
            .iter()
            .filter_map(|r| r.status.as_ref())
            .filter(|s| s.node_disk == d.metadata.name)
            .map(kept::bytes)
            .sum::<u64>() as f64
    };
    each("disk_kept_bytes", "Bytes of destroyed volumes that are kept for an undo", &kept);
    let ready = named.iter().map(|(name, disk)| {
        let ready = disk.status.as_ref().and_then(|s| condition::get(&s.conditions, READY));
        let reason = ready.map_or(NOT_LOOKED_AT, |ready| ready.reason.as_str());
        let labels = [("disk", name.as_str()), ("node", node_of(disk)), ("reason", reason)];
        (labels, f64::from(u8::from(ready.is_some_and(|ready| ready.status == "True"))))
    });
    to.gauge("disk_ready", "1 if the disk is Ready, else 0, with the reason", ready);

    let roles = stores.roles.all();
    let roles = refs(&roles);
    let (counting, mut sums) = (quota::counting(&roles), summary::by_role(&refs(&reservations)));
    counting.keys().for_each(|role| {
        sums.entry(role).or_default();
    });
    let all: u64 = disks
        .iter()
        .map(|d| status(d).allocatable.map_or(0, |s| s.bytes_or_zero()))
        .fold(0, u64::saturating_add);
    let each_sum = |of: &dyn Fn(&summary::RoleSums) -> f64| -> Vec<_> {
        sums.iter().map(|(role, sum)| ([("role", *role)], of(sum))).collect()
    };
    to.gauge(
        "role_reserved_bytes",
        "Reserved bytes of the role and its sub-roles",
        each_sum(&|s| s.reserved as f64),
    );
    to.gauge("role_used_bytes", "Bytes of these reservations that volumes use", each_sum(&|s| s.used as f64));
    let share = |s: &summary::RoleSums| s.reserved as f64 / all.max(1) as f64;
    to.gauge(
        "role_share_ratio",
        "Reserved bytes of the role, divided by all allocatable bytes",
        each_sum(&share),
    );
    let quota = |of: fn(&VolumeRole) -> Option<&Size>| {
        counting.iter().filter_map(move |(role, object)| Some(([("role", *role)], bytes(Some(of(object)?)))))
    };
    to.gauge(
        "role_limit_bytes",
        "The most that the role may reserve",
        quota(|r| r.spec.quota.limit.as_ref()),
    );
    to.gauge(
        "role_guarantee_bytes",
        "Bytes that other roles cannot reserve away",
        quota(|r| r.spec.quota.guarantee.as_ref()),
    );
    let weights = counting.iter().map(|(role, object)| ([("role", *role)], f64::from(object.spec.weight)));
    to.gauge("role_weight", "Weight of the role when free space is scarce", weights);
}

/// The gauges of one volume.
struct Told {
    name: String,
    role: String,
    created: f64,
    retiring: bool,
    namespaces: Vec<NamespaceUse>,
}

fn volumes(stores: &Stores, reasons: &mut Reasons, to: &mut Sink<'_>) {
    let mut all = Vec::new();
    count(&stores.volumes, reasons, |volume| {
        let created = volume.meta().creation_timestamp.as_ref();
        all.push(Told {
            name: volume.name_any(),
            role: volume.spec.role.clone(),
            created: created.map_or(0.0, |time| time.0.as_second() as f64),
            retiring: volume.spec.retire,
            namespaces: volume.status.as_ref().map(|s| s.namespaces.clone()).unwrap_or_default(),
        });
    });
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let created = all.iter().map(|v| ([("volume", v.name.as_str()), ("role", v.role.as_str())], v.created));
    to.gauge("volume_created_timestamp_seconds", "Creation time of the volume, since 1970", created);
    let used = |of: fn(&NamespaceUse) -> u32| {
        all.iter().flat_map(move |v| {
            let labels = |namespace| {
                [("volume", v.name.as_str()), ("role", v.role.as_str()), ("namespace", namespace)]
            };
            v.namespaces.iter().map(move |used| (labels(used.namespace.as_str()), f64::from(of(used))))
        })
    };
    to.gauge("volume_users", "Running and pending pods that use the volume", used(|u| u.pods));
    to.gauge("volume_claims", "Claims that are bound to the volume", used(|u| u.claims));
    let retiring = all.iter().filter(|v| v.retiring).count() as f64;
    to.gauge("volumes_retiring", "Volumes that are destroyed after their last use", [([], retiring)]);
}
