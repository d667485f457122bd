//! The way to free space for a PersistentVolumeClaim.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use super::advice::About;
use super::excluded::excludes;
use super::target::Target;
use crate::api::{DiskReservation, NodeDisk, Role, Size};
use crate::cluster;
use crate::plan::candidate::{is_cordoned, is_ready};
use crate::plan::enlarge::{self, Way};
use crate::plan::{advice, holder};
use crate::plugin::snapshot::Snapshot;

/// The step for a PersistentVolumeClaim for which nothing, or too little, is reserved: on the node of the pod's other volumes,
/// if it has some.
pub(super) fn space_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let wanted = snapshot.wanted(target.find_pvc(snapshot).filter(|_| snapshot.sees_space())?)?;
    let namespace = target.namespace.as_deref().unwrap_or("default");
    let pods: Vec<_> = snapshot.pods_of(namespace, &target.name).collect();
    let claims = pods.iter().flat_map(|pod| cluster::claims_of(pod));
    let node = claims
        .filter_map(|(namespace, name)| {
            snapshot.volume_of(&namespace, &name)?.status.as_ref()?.node_name.clone()
        })
        .next();
    let may_be_on = |on: &String| {
        let is_excluded = pods.iter().any(|pod| excludes(snapshot, pod, on));
        !is_excluded && node.as_ref().is_none_or(|node| on == node)
    };
    let may_use = |r: &&DiskReservation| {
        let on = r.status.as_ref().and_then(|status| status.node_name.as_ref());
        Role::name_covers(&r.spec.role, &wanted.spec.role)
            && holder::serves(r)
            && wanted.spec.reservation.as_ref().is_none_or(|name| *name == r.name_any())
            && on.map_or(node.is_none(), may_be_on)
    };
    let reservations: Vec<&DiskReservation> = snapshot.reservations.iter().filter(may_use).collect();
    let disks: Vec<&NodeDisk> =
        snapshot.disks.iter().filter(|disk| may_be_on(&disk.spec.node_name)).collect();
    // Another node is of no use to the pod.
    let is_bound = disks.len() < snapshot.disks.len();
    if is_bound && disks.is_empty() && node.is_none() {
        return None;
    }
    let (role, size) = (&wanted.spec.role, &wanted.spec.size);
    let asked = size.bytes_or_zero();
    let free = |r: &&DiskReservation| r.status.as_ref().map_or(0, holder::free);
    let is_named = wanted.spec.reservation.is_some();
    if reservations.is_empty() && is_named || reservations.iter().map(free).any(|free| free >= asked) {
        return None;
    }
    let about = About::new(snapshot, target);
    let free_node = || {
        let mut free = disks.iter().filter(|disk| is_bound && has_free(disk, asked));
        free.next().map(|disk| disk.spec.node_name.as_str())
    };
    Some(match enlarge::way(asked, 0, &reservations, &disks, !is_named) {
        Way::AskFor(most, _) => about.ask_anew(&target.name, namespace, Size::from_bytes(most)),
        Way::Reserve if let Some(step) = about.raise_limit(role, None, size) => step,
        Way::Reserve if let Some(node) = node.as_deref().or_else(free_node) => {
            advice::reserve_for_pod(enlarge::new_name(role, &snapshot.reservations), role, size, node)
        }
        found => about.way_to_space(found, role, size),
    })
}

/// The reservation that the StorageClass of a PersistentVolumeClaim names, on a node that a pod of it excludes.
pub(super) struct Apart<'a> {
    pod: &'a Pod,
    class: &'a str,
    reservation: String,
    node: &'a str,
}

impl<'a> Apart<'a> {
    pub fn find(snapshot: &'a Snapshot, pvc: &'a PersistentVolumeClaim) -> Option<Self> {
        let reservation = snapshot.wanted(pvc)?.spec.reservation?;
        let named = snapshot.reservations.iter().find(|r| r.name_any() == reservation)?;
        let node = named.status.as_ref()?.node_name.as_deref()?;
        let mut users = snapshot.pods_of(&pvc.namespace().unwrap_or_default(), &pvc.name_any());
        let pod = users.find(|pod| excludes(snapshot, pod, node))?;
        let class = pvc.spec.as_ref()?.storage_class_name.as_deref()?;
        Some(Self { pod, class, reservation, node })
    }

    pub fn message(&self) -> String {
        let Self { pod, class, reservation, node } = self;
        format!(
            "StorageClass {class} names DiskReservation {reservation}, which is on node {node}, and pod {} may not run there",
            pod.name_any()
        )
    }

    /// The step. `made` is what is made anew for another class.
    pub fn step(&self, made: &str) -> String {
        let Self { pod, node, .. } = self;
        advice::let_run_there(pod.name_any(), pod.namespace().unwrap_or_default(), node, made)
    }
}

/// True for a disk on which that much can be reserved now.
pub(super) fn has_free(disk: &NodeDisk, bytes: u64) -> bool {
    let free = disk.status.as_ref().and_then(|status| status.free.as_ref()).map_or(0, Size::bytes_or_zero);
    is_ready(disk) && !is_cordoned(disk) && free >= bytes
}
