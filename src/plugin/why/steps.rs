//! Next steps, with the names of the object filled in.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::advice;
use super::target::Target;
use crate::plugin::item::{Item, POD};
use crate::plugin::snapshot::Snapshot;

/// The next step for an object with a condition of the given reason.
pub(super) fn step_for(snapshot: &Snapshot, target: &Target, reason: &str) -> String {
    let template = match advice::step_template(reason) {
        _ if target.kind == &POD => {
            "kubectl describe pod {name} -n {namespace}   # its claims are bound: it waits for something else than Reservoir"
        }
        Some(template) => template,
        None => "kubectl reservoir doctor   # checks that the controller runs in the version of this plug-in",
    };
    fill_in(template, snapshot, target)
}

/// The next step towards the deletion of an object in use.
pub(super) fn deletion_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let template = match target.kind.short {
        "spv" => {
            "a volume in use cannot be deleted; to destroy it after its last use: kubectl reservoir retire {name}"
        }
        "dr" => "a reservation with content cannot be deleted: kubectl reservoir tree --role {role}",
        "nd" => "a disk with reservations cannot be deleted: kubectl reservoir tree",
        "vclaim" => "a deleted claim goes after the pods that use it have ended: kubectl delete {ref}",
        _ => return None,
    };
    Some(fill_in(template, snapshot, target))
}

/// Replaces the placeholders of a template. A placeholder without a value becomes a word in capitals, for
/// people to replace.
fn fill_in(template: &str, snapshot: &Snapshot, target: &Target) -> String {
    let item: Option<Item> = snapshot.find(target.kind, target.namespace.as_deref(), &target.name);
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    values.insert("name", target.name.clone());
    if let Some(item) = &item {
        values.insert("ref", item.argument());
        values.extend(item.role.map(|role| ("role", role.to_owned())));
    }
    values.extend(target.namespace.clone().map(|namespace| ("namespace", namespace)));
    let named = |name: Option<String>| name == Some(target.name.clone());
    match target.kind.short {
        "nd" => {
            values.insert("disk", target.name.clone());
            let disk = snapshot.disks.iter().find(|d| named(d.metadata.name.clone()));
            values.extend(disk.map(|d| ("node", d.spec.node_name.clone())));
        }
        "dr" => {
            values.insert("reservation", target.name.clone());
            let r = snapshot.reservations.iter().find(|r| named(r.metadata.name.clone()));
            let status = r.and_then(|r| r.status.clone()).unwrap_or_default();
            values.extend(status.node_disk.map(|disk| ("disk", disk)));
            values.extend(status.node_name.map(|node| ("node", node)));
        }
        "spv" => {
            values.insert("volume", target.name.clone());
            let v = snapshot.volumes.iter().find(|v| named(v.metadata.name.clone()));
            let status = v.and_then(|v| v.status.clone()).unwrap_or_default();
            values.extend(status.node_disk.map(|disk| ("disk", disk)));
            values.extend(status.node_name.map(|node| ("node", node)));
            let reservation = status.reservation.map(|r| r.name);
            let reservation = reservation.or(v.and_then(|v| v.spec.reservation.clone()));
            values.extend(reservation.map(|name| ("reservation", name)));
        }
        "vclaim" => {
            let c = snapshot
                .claims
                .iter()
                .find(|c| named(c.metadata.name.clone()) && c.namespace() == target.namespace);
            values.extend(c.and_then(|c| c.spec.volume.clone()).map(|volume| ("volume", volume)));
        }
        _ => {}
    }
    let mut text = template.to_owned();
    for key in ["name", "ref", "role", "namespace", "node", "disk", "volume", "reservation"] {
        let value = values.get(key).cloned().unwrap_or_else(|| key.to_uppercase());
        text = text.replace(&format!("{{{key}}}"), &value);
    }
    text
}
