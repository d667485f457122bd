//! Steps towards the copies of a data set (E2).

use std::net::SocketAddr;
use std::sync::Arc;

use kube::ResourceExt;

use super::{About, message};
use crate::api::condition::reason::{COPY_FAILED, NO_RESERVATION, NODE_CORDONED, RESERVATION_FULL};
use crate::api::{DiskReservation, NodeDisk, Role, SharedPersistentVolume};
use crate::plan::candidate::is_ready;
use crate::plan::copies::{Around, Obstacle, plan, taken_names, transfer};
use crate::plan::enlarge::{Way, new_name, way};
use crate::plan::node_labels::is_complete;
use crate::plan::{advice, holder};

impl About<'_> {
    /// The step for the first node without a copy. A caller who may not see nodes reads the condition.
    pub(super) fn copies_missing(&self) -> String {
        let first = self.volume.and_then(|volume| {
            let (node, why) = plan(volume, &self.around(volume)).obstacles.into_iter().next()?;
            Some((volume, node, why))
        });
        let as_said = || advice::copies_missing(self.name);
        let Some((volume, node, why)) = first else { return as_said() };
        match why {
            Obstacle::Stuck(copy, _) => advice::ask_why(format!("spv/{copy}")),
            Obstacle::Moved(copy) => advice::delete(format!("spv/{copy}")),
            Obstacle::NameTaken(other) => advice::free_name_of_copy(other, self.name),
            Obstacle::DiskNotReady(_, disk, _) => advice::ask_why(format!("nd/{disk}")),
            Obstacle::Waits(reservation, _) => advice::ask_why(format!("dr/{reservation}")),
            Obstacle::NoPlace(why) if why.reason == NODE_CORDONED => advice::uncordon_for_new(node),
            Obstacle::NoPlace(why) if [NO_RESERVATION, RESERVATION_FULL].contains(&why.reason) => {
                self.space_for_copy(volume, &node).unwrap_or_else(as_said)
            }
            Obstacle::NoDisk | Obstacle::NodeFull | Obstacle::NoPlace(_) => as_said(),
        }
    }

    /// The step for a sealed volume whose files differ. A complete copy still has them, and goes with the volume.
    pub(super) fn replace_content(&self) -> String {
        let uid = self.volume.and_then(ResourceExt::uid);
        let has_files = |copy: &&SharedPersistentVolume| {
            let of = copy.spec.copy_of.as_ref().map(|of| &of.uid);
            of == uid.as_ref() && is_complete(copy) && copy.is_ready() && !copy.is_ending()
        };
        match self.snapshot.volumes.iter().filter(|_| uid.is_some()).find(has_files) {
            Some(copy) => advice::replace_content_from_copy(self.name, copy.name_any(), self.role),
            None => advice::replace_content(self.name),
        }
    }

    /// A copy of the volume that ends, and so is in the way of the next one on its node.
    pub(super) fn ending_copy(&self) -> Option<String> {
        let copies = self.around(self.volume?).copies;
        copies.iter().find(|copy| copy.is_ending()).map(|copy| copy.name_any())
    }

    /// The step for a copy that its node cannot fill. Connections that something between the nodes drops are in no log.
    pub(super) fn copy_failed(&self) -> String {
        let said = message(self.conditions, COPY_FAILED);
        let unreached =
            said.split_once(" cannot be reached at ").and_then(|(_, rest)| rest.split(' ').next());
        match unreached.and_then(|address| address.parse::<SocketAddr>().ok()) {
            Some(address) => advice::let_agents_reach(address),
            None if said.contains("agent.copies.enabled") => advice::turn_copies_on(),
            None => self.agent_log(),
        }
    }

    fn around(&self, volume: &SharedPersistentVolume) -> Around {
        let (snapshot, uid) = (self.snapshot, volume.uid().unwrap_or_default());
        let is_copy = |of: &&SharedPersistentVolume| of.spec.copy_of.as_ref().is_some_and(|of| of.uid == uid);
        let nodes: Vec<_> = snapshot.nodes.iter().cloned().map(Arc::new).collect();
        let find = |name: &str| snapshot.volumes.iter().find(|of| of.name_any() == name);
        Around {
            taken: taken_names(volume, &nodes, find),
            nodes,
            copies: snapshot.volumes.iter().filter(is_copy).cloned().map(Arc::new).collect(),
            disks: snapshot.disks.iter().cloned().map(Arc::new).collect(),
            reservations: snapshot.reservations.iter().cloned().map(Arc::new).collect(),
        }
    }

    /// The step towards space for a copy on a node where its role has none, or too little.
    fn space_for_copy(&self, volume: &SharedPersistentVolume, node: &str) -> Option<String> {
        let status = volume.status.as_ref()?;
        let size = status.size.as_ref().unwrap_or(&volume.spec.size);
        let is_here = |disk: &&NodeDisk| {
            disk.spec.node_name == node && disk.metadata.name != status.node_disk && transfer(disk).is_some()
        };
        let here: Vec<&NodeDisk> = self.snapshot.disks.iter().filter(is_here).collect();
        let ready: Vec<&NodeDisk> = here.iter().copied().filter(|disk| is_ready(disk)).collect();
        if ready.is_empty() {
            return Some(advice::ask_why(format!("nd/{}", here.first()?.name_any())));
        }
        let may_use = |r: &&DiskReservation| {
            let on = r.status.as_ref().and_then(|status| status.node_disk.as_ref());
            Role::name_covers(&r.spec.role, self.role)
                && holder::serves(r)
                && ready.iter().any(|disk| disk.metadata.name.as_ref() == on)
        };
        let reservations: Vec<&DiskReservation> = self.snapshot.reservations.iter().filter(may_use).collect();
        Some(match way(size.bytes_or_zero(), 0, &reservations, &ready, true) {
            Way::Reserve => {
                let name = new_name(self.role, &self.snapshot.reservations);
                advice::reserve_for_copy(name, self.role, size, node)
            }
            found => self.way_to_space(found, self.role, size),
        })
    }
}
