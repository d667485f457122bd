//! The way to free space for a PersistentVolumeClaim.

use kube::ResourceExt;

use super::advice::About;
use super::target::Target;
use crate::api::{DiskReservation, NodeDisk, Role, Size};
use crate::cluster;
use crate::plan::enlarge::{self, Way};
use crate::plan::{advice, holder};
use crate::plugin::snapshot::Snapshot;

/// The step for a PersistentVolumeClaim for which nothing, or too little, is reserved: on the node of the pod's other volumes,
/// if it has some.
pub(super) fn space_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let wanted = snapshot.wanted(target.find_pvc(snapshot).filter(|_| snapshot.sees_space())?)?;
    let namespace = target.namespace.as_deref().unwrap_or("default");
    let claims = snapshot.pods_of(namespace, &target.name).flat_map(cluster::claims_of);
    let node = claims
        .filter_map(|(namespace, name)| {
            snapshot.volume_of(&namespace, &name)?.status.as_ref()?.node_name.clone()
        })
        .next();
    let may_use = |r: &&DiskReservation| {
        let on = r.status.as_ref().and_then(|status| status.node_name.as_ref());
        Role::name_covers(&r.spec.role, &wanted.spec.role)
            && holder::serves(r)
            && wanted.spec.reservation.as_ref().is_none_or(|name| *name == r.name_any())
            && node.as_ref().is_none_or(|node| on == Some(node))
    };
    let reservations: Vec<&DiskReservation> = snapshot.reservations.iter().filter(may_use).collect();
    let disks =
        snapshot.disks.iter().filter(|disk| node.as_ref().is_none_or(|node| disk.spec.node_name == *node));
    let disks: Vec<&NodeDisk> = disks.collect();
    let (role, size) = (&wanted.spec.role, &wanted.spec.size);
    let asked = size.bytes_or_zero();
    let free = |r: &&DiskReservation| r.status.as_ref().map_or(0, holder::free);
    let is_named = wanted.spec.reservation.is_some();
    if reservations.is_empty() && is_named || reservations.iter().map(free).any(|free| free >= asked) {
        return None;
    }
    let about = About::new(snapshot, target);
    Some(match enlarge::way(asked, 0, &reservations, &disks, !is_named) {
        Way::AskFor(most, _) => about.ask_anew(&target.name, namespace, Size::from_bytes(most)),
        Way::Reserve if let Some(node) = &node => {
            advice::reserve_for_pod(enlarge::new_name(role, &snapshot.reservations), role, size, node)
        }
        found => about.way_to_space(found, role, size),
    })
}
