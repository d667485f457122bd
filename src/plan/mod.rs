//! Decisions as pure functions: no client, no clock, no I/O. This module imports only [`crate::api`].
//!
//! Each file is one decision. The controller and the agent gather the input of a decision, and apply its steps.

pub mod adopt;
pub mod advice;
pub mod allocatable;
pub mod backing;
pub mod bind;
pub mod birth;
pub mod candidate;
pub mod claim;
pub mod container_mounts;
pub mod copies;
pub mod create;
pub mod crowding;
pub mod debounce;
pub mod destroy;
pub mod disk_identity;
pub mod disk_key;
pub mod enlarge;
pub mod entry;
pub mod fullness;
pub mod held_by;
pub mod holder;
pub mod kept;
pub mod kept_on_disk;
pub mod ledger;
pub mod left_data;
pub mod list_share;
pub mod namesake;
pub mod node_disk;
pub mod node_labels;
pub mod node_lifetime;
pub mod node_task;
pub mod offer;
pub mod orphans;
pub mod own_pvc;
pub mod persistent_volume;
pub mod postponed;
pub mod publish;
pub mod pv_binding;
pub mod pvc_provisioner;
mod queue;
pub mod quota;
pub mod recover;
pub mod release;
pub mod replace_pod;
pub mod reservation;
pub mod reservation_seen;
pub mod resize;
pub mod seal;
pub mod share;
pub mod silence;
pub mod space;
pub mod startup_taint;
pub mod static_reservations;
pub mod storage_capacity;
pub mod summary;
pub mod template;
pub mod tenant;
pub mod transition;
pub mod turn;
pub mod unbind;
pub mod unclaim;
pub mod undivided;
pub mod usage;
pub mod verify;
pub mod volume;

use std::collections::{BTreeMap, BTreeSet};

/// The most pods in the list of a status. The count beside the list covers all pods.
pub const LISTED_PODS: usize = 16;

/// `a`, `a and b`, `a, b and c`, `a, b, c and 7 more`: the first three names, and the number of the others.
pub(crate) fn names<T: std::fmt::Display>(items: &[T], total: usize) -> String {
    let shown: Vec<String> = items.iter().take(3).map(ToString::to_string).collect();
    let more = total.saturating_sub(shown.len());
    match (shown.split_last(), more) {
        (None, more) => more.to_string(),
        (Some(_), 1..) => format!("{} and {more} more", shown.join(", ")),
        (Some((last, [])), 0) => last.clone(),
        (Some((last, rest)), 0) => format!("{} and {last}", rest.join(", ")),
    }
}

/// `label pool=gpu`, or `labels pool=gpu and zone=a`: what a selector asks for.
pub(crate) fn labels_of(selector: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{} {}", if labels.len() == 1 { "label" } else { "labels" }, names(&labels, labels.len()))
}

/// The other values that nodes have of a selector's labels, where none has the wanted one: `; the nodes have pool=cpu`.
pub(crate) fn labels_there<'a>(
    selector: &BTreeMap<String, String>,
    nodes: impl Iterator<Item = &'a BTreeMap<String, String>> + Clone,
) -> String {
    let lacking =
        |(key, value): &(&String, &String)| nodes.clone().all(|labels| labels.get(*key) != Some(*value));
    let there = selector.iter().filter(lacking).flat_map(|(key, _)| {
        nodes.clone().filter_map(move |labels| Some(format!("{key}={}", labels.get(key)?)))
    });
    let there: Vec<String> = there.collect::<BTreeSet<_>>().into_iter().collect();
    if there.is_empty() { String::new() } else { format!("; the nodes have {}", names(&there, there.len())) }
}

/// True if the labels have all that the selector asks for.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(label, value)| labels.get(label) == Some(value))
}

/// The first finalizer of others, which keeps the object when Reservoir is done with it (F3).
pub(crate) fn foreign_finalizer<K: kube::Resource>(object: &K) -> Option<&String> {
    object.meta().finalizers.iter().flatten().find(|name| *name != crate::api::FINALIZER)
}

/// Borrows a cache's objects in the form that the decisions take.
pub fn refs<K>(items: &[std::sync::Arc<K>]) -> Vec<&K> {
    items.iter().map(AsRef::as_ref).collect()
}

#[cfg(test)]
mod largest;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
