//! The rules of disks and of what is reserved on them that hold once nothing fails any more.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use reservoir::api::{
    DiskReservation, DiskReservationStatus, NodeDisk, SharedPersistentVolume, Size, VolumeRole, condition,
};
use reservoir::plan::birth;
use reservoir::plan::disk_identity::is_placeholder;
use reservoir::plan::entry::is_lived_in;
use reservoir::plan::startup_taint::TAINT;
use reservoir::plan::undivided::is_undivided;

use crate::disks;
use crate::host::{self, Hosts};
use crate::server::Server;
use crate::setup::Setup;

/// The promises that are not kept.
pub fn check(server: &Server, hosts: &Hosts, setup: &Setup) -> Vec<String> {
    let reservations: Vec<DiskReservation> = server.all("diskreservations");
    let volumes: Vec<SharedPersistentVolume> = server.all("sharedpersistentvolumes");
    let disks: Vec<NodeDisk> = server.all("nodedisks");
    let mut broken = Vec::new();
    for disk in &disks {
        broken.extend(l1_a_disk_has_what_reservations_have(disk, &reservations, &volumes));
    }
    broken.extend(reservations.iter().filter_map(|of| l7_what_fits_is_served(server, of, &disks)));
    broken.extend(l8_lost_data_is_reported(server, hosts));
    broken.extend(f7_no_node_with_a_disk_keeps_the_taint(server, &disks));
    // Nothing of a kind that is being deleted is made (X9).
    if server.is_kind_ending("diskreservations") {
        return broken;
    }
    broken.extend(r7_templates_have_their_reservations(server, &disks, &reservations));
    broken.extend(disks::r2_static_reservations_are_as_configured(setup, &host::lock(hosts), &reservations));
    broken
}

/// R7: each disk that a template selects has its reservation, of no less than its size, and an empty reservation of no
/// template is gone.
fn r7_templates_have_their_reservations(
    server: &Server,
    disks: &[NodeDisk],
    reservations: &[DiskReservation],
) -> Vec<String> {
    let roles: Vec<VolumeRole> = server.all("volumeroles");
    let nodes: Vec<Node> = server.all("nodes");
    let mut wanted: BTreeMap<String, (u64, &VolumeRole)> = BTreeMap::new();
    for role in &roles {
        for template in &role.spec.reservation_templates {
            let is_selected = |disk: &&NodeDisk| {
                let node = nodes.iter().find(|node| node.name_any() == disk.spec.node_name);
                let fits = |node: &Node| {
                    let mut labels = template.node_selector.iter().flatten();
                    labels.all(|(label, value)| node.labels().get(label) == Some(value))
                };
                !disk.spec.gone
                    && !is_placeholder(disk)
                    && disk.spec.disk_name == template.disk_name
                    && node.is_some_and(fits)
            };
            for disk in disks.iter().filter(is_selected) {
                let name = format!("{}.{}.{}", role.name_any(), template.name, disk.name_any());
                wanted.insert(name, (template.size.bytes_or_zero(), role));
            }
        }
    }
    let mut broken = Vec::new();
    for (name, (size, role)) in &wanted {
        let made = reservations.iter().find(|of| of.name_any() == *name);
        let templated =
            role.status.as_ref().and_then(|s| condition::get(&s.conditions, condition::TEMPLATED));
        // Somebody else has the name, and the role says so.
        let is_taken = made.is_some_and(|made| made.spec.template.is_none())
            && templated.is_some_and(|templated| templated.status == "False");
        // One that ends waits for what is in it.
        let is_ending = made.is_some_and(|made| made.metadata.deletion_timestamp.is_some());
        if !is_taken && !is_ending && made.is_none_or(|made| made.spec.size.bytes_or_zero() < *size) {
            broken.push(format!(
                "R7: reservation {name} of a template is not there, or smaller than {size} bytes"
            ));
        }
    }
    for left in reservations.iter().filter(|of| of.spec.template.is_some()) {
        let status = left.status.clone().unwrap_or_default();
        if !wanted.contains_key(&left.name_any())
            && status.volumes.is_empty()
            && status.refinements.is_empty()
        {
            broken.push(format!("R7: reservation {} is empty, and no template asks for it", left.name_any()));
        }
    }
    broken
}

/// F7: the agents of all nodes serve.
fn f7_no_node_with_a_disk_keeps_the_taint(server: &Server, disks: &[NodeDisk]) -> Vec<String> {
    let nodes: Vec<Node> = server.all("nodes");
    let is_tainted = |node: &&Node| {
        let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        taints.any(|taint| taint.key == TAINT)
    };
    let has_disk = |node: &&Node| disks.iter().any(|disk| disk.spec.node_name == node.name_any());
    let tainted = nodes.iter().filter(is_tainted).filter(has_disk);
    tainted.map(|node| format!("F7: node {} has an agent, and keeps its taint", node.name_any())).collect()
}

/// The entry of a reservation that was removed by force stays while something lives in it (S3).
fn l1_a_disk_has_what_reservations_have(
    disk: &NodeDisk,
    reservations: &[DiskReservation],
    volumes: &[SharedPersistentVolume],
) -> Vec<String> {
    let mut broken = Vec::new();
    let entries = disk.status.as_ref().map_or(&[][..], |status| &status.reservations);
    let is_on_it = |status: &DiskReservationStatus| {
        status.node_disk.as_ref() == disk.metadata.name.as_ref() && status.parent.is_none()
    };
    for reservation in reservations.iter().filter(|of| of.status.as_ref().is_some_and(is_on_it)) {
        if !entries.iter().any(|entry| Some(&entry.uid) == reservation.metadata.uid.as_ref()) {
            let (name, disk) = (reservation.name_any(), disk.name_any());
            broken.push(format!("L1: reservation {name} is on NodeDisk {disk}, which has no entry of it"));
        }
    }
    for entry in entries {
        let owner = reservations.iter().find(|r| r.uid().as_ref() == Some(&entry.uid));
        let Some(owner) = owner else {
            if is_lived_in(&entry.uid, volumes, reservations) {
                continue;
            }
            broken.push(format!(
                "L1: NodeDisk {} has an entry of {}, which is gone",
                disk.name_any(),
                entry.name
            ));
            continue;
        };
        let has = owner.status.as_ref().and_then(|s| s.size.as_ref()).map_or(0, Size::bytes_or_zero);
        if has != entry.size.bytes_or_zero() {
            broken.push(format!(
                "L1: reservation {} has {has} bytes, and its entry {:?}",
                entry.name, entry.size
            ));
        }
    }
    broken
}

/// L7: a reservation that fits a disk does not wait, unless guarantees keep the space.
fn l7_what_fits_is_served(
    server: &Server,
    reservation: &DiskReservation,
    disks: &[NodeDisk],
) -> Option<String> {
    let status = reservation.status.as_ref()?;
    let ready = condition::get(&status.conditions, condition::READY)?;
    let roles: Vec<VolumeRole> = server.all("volumeroles");
    let is_guaranteed = roles.iter().any(|role| role.spec.quota.guarantee.is_some());
    let is_limited = roles.iter().any(|role| role.spec.quota.limit.is_some());
    if ready.reason != condition::reason::NOT_ENOUGH_ROOM || is_guaranteed {
        return None;
    }
    let wanted = reservation.spec.size.bytes_or_zero();
    let fits = |disk: &&NodeDisk| {
        let has = disk.status.clone().unwrap_or_default();
        let given: u64 = has.reservations.iter().map(|entry| entry.size.bytes_or_zero()).sum();
        let lost: u64 = has.orphans.iter().map(|orphan| orphan.size.bytes_or_zero()).sum();
        let spec = &reservation.spec;
        let may = spec.node_name.as_ref().is_none_or(|node| *node == disk.spec.node_name)
            && spec.node_disk.as_ref().is_none_or(|name| *name == disk.name_any())
            && spec.node_selector.is_none()
            // D2: a whole disk is taken, which limits of roles may not leave room for.
            && !(is_undivided(disk.spec.kind) && (given > 0 || is_limited));
        may && condition::is_true(&has.conditions, condition::READY)
            && has.allocatable.map_or(0, |all| all.bytes_or_zero()) >= given + lost + wanted
    };
    let disk = disks.iter().find(fits)?;
    Some(format!("L7: reservation {} waits, and fits {}", reservation.name_any(), disk.name_any()))
}

/// Data without an object on its disk. A restored etcd may have the object without a place.
pub fn l8_lost_data_is_reported(server: &Server, hosts: &Hosts) -> Vec<String> {
    let volumes: Vec<SharedPersistentVolume> = server.all("sharedpersistentvolumes");
    let disks: Vec<NodeDisk> = server.all("nodedisks");
    let reservations: Vec<DiskReservation> = server.all("diskreservations");
    let mut broken = Vec::new();
    for (node, host) in &*host::lock(hosts) {
        // D4: nothing is served of a disk that was declared gone.
        let disk = host.disk.as_ref().map(|disk| &disk.id);
        if disks.iter().any(|known| Some(&known.spec.disk_id) == disk && known.spec.gone) {
            continue;
        }
        let here: Vec<&NodeDisk> = disks.iter().filter(|disk| disk.spec.node_name == *node).collect();
        let orphans: Vec<String> = here
            .iter()
            .filter_map(|disk| disk.status.as_ref())
            .flat_map(|s| &s.orphans)
            .map(|o| o.uid.clone())
            .collect();
        for (uid, record) in &host.records {
            let is_here = |volume: &SharedPersistentVolume| {
                let on = volume.status.as_ref().and_then(|status| status.node_disk.as_ref());
                on.is_some() && here.iter().any(|disk| disk.metadata.name.as_ref() == on)
                    || reservations.iter().any(|of| birth::has_entry(volume, of))
            };
            let mut objects = volumes.iter().filter(|volume| volume.uid().as_ref() == Some(uid));
            let has_object = objects.any(is_here);
            if has_object == orphans.contains(uid) {
                let is = if has_object {
                    "has an object, and is reported as lost"
                } else {
                    "is lost, and not reported"
                };
                broken.push(format!("L8: the data of {} on node {node} {is}", record.name));
            }
        }
    }
    broken
}
