//! Routes of data sets, which are a volume and its copies, and of the Nodes whose labels select them and lead to them (E2, E3).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::api::condition::{self, READY};
use crate::api::{NodeDisk, SharedPersistentVolume};
use crate::cluster::Change;
use crate::plan::copies::has_failed;
use crate::plan::node_labels;

use super::super::stores::{COPY_OF, DELETING};
use super::Router;

impl Router {
    /// Routes a change of a Node, whose readiness decides the readiness of its disks, and its labels templates (R7).
    pub fn node(&self, node: &Node, change: &Change<Node>) {
        self.sharing.notify_one();
        self.disks_of(&node.name_any());
        if change.before.map(ResourceExt::labels) != change.now.map(ResourceExt::labels) {
            self.queues.nodes.enqueue(node);
            // A copy that ends waits for its label to go.
            self.with(|queues, stores| queues.volumes.enqueue_names(stores.volumes.names_by(DELETING, "")));
        }
        if change.before.map(labels_of_others) != change.now.map(labels_of_others) {
            let name = node.name_any();
            self.copies();
            let is_in = |disk: Arc<NodeDisk>| disk.spec.node_name == name;
            self.templates(|stores, disk| stores.disks.get(disk).is_some_and(is_in));
        }
    }

    /// Enqueues each original with a node that lacks its copy, if the filter lets the original through.
    pub(super) fn copies_missing(&self, filter: impl Fn(&SharedPersistentVolume) -> bool) {
        let lacks = |v: &SharedPersistentVolume| {
            v.status.as_ref().and_then(|s| s.copies).is_some_and(|c| c.failed > 0)
        };
        self.with(|queues, stores| {
            let originals = stores.volumes.by(COPY_OF, "");
            originals.iter().filter(|v| lacks(v) && filter(v)).for_each(|v| queues.volumes.enqueue(v));
        });
    }

    /// Enqueues the volumes that are to have copies, and the copies (E2).
    pub(super) fn copies(&self) {
        self.with(|queues, stores| {
            for original in stores.volumes.by(COPY_OF, "") {
                queues.volumes.enqueue(&original);
                queues
                    .volumes
                    .enqueue_names(stores.volumes.names_by(COPY_OF, &original.uid().unwrap_or_default()));
            }
        });
    }

    /// Routes a change of a copy or of an original. Other copies may be filled from it, or take its turn.
    pub(super) fn family(&self, volume: &SharedPersistentVolume, change: &Change<SharedPersistentVolume>) {
        let of = volume.spec.copy_of.as_ref();
        if let Some(of) = of {
            self.queues.volumes.enqueue_name(of.name.as_str());
        }
        // The name of a copy may be free now.
        if of.is_none() && change.now.is_none() {
            self.copies_missing(|_| true);
        }
        if change.before.map(decides_on_copies) == change.now.map(decides_on_copies) {
            return;
        }
        let uid = of.map_or_else(|| volume.uid().unwrap_or_default(), |of| of.uid.clone());
        self.with(|queues, stores| {
            let copies = stores.volumes.by(COPY_OF, &uid);
            let waits = |copy: &Arc<SharedPersistentVolume>| {
                of.is_none() || copy.status.as_ref().is_none_or(|status| status.digest.is_none())
            };
            copies.iter().filter(|copy| waits(copy)).for_each(|copy| queues.volumes.enqueue(copy));
            if of.is_none() && copies.is_empty() {
                return;
            }
            let original = of.and_then(|of| stores.volumes.get(&of.name));
            let others = copies.iter().filter(|_| of.is_none()).chain(&original).map(AsRef::as_ref);
            let nodes = others.chain(change.before).chain(change.now);
            let nodes: BTreeSet<String> =
                nodes.filter_map(|volume| volume.status.as_ref()?.node_name.clone()).collect();
            nodes.into_iter().for_each(|node| queues.nodes.enqueue_name(node));
        });
    }
}

/// The labels of a Node that the controller does not write (E3).
fn labels_of_others(node: &Node) -> Vec<(&String, &String)> {
    node.labels().iter().filter(|(key, _)| !key.starts_with(node_labels::PREFIX)).collect()
}

/// The part of a volume that decides on other copies of the same content (E2).
fn decides_on_copies(volume: &SharedPersistentVolume) -> impl PartialEq {
    let status = volume.status.clone().unwrap_or_default();
    let node = status.node.unwrap_or_default();
    let ready = condition::is_true(&status.conditions, READY);
    let ends = (volume.is_ending(), status.claims.is_empty());
    (
        status.digest,
        status.source,
        (node.copy_failed_from, status.node_name),
        (node.backing, has_failed(&status.conditions)),
        ready,
        ends,
        volume.spec.copies.clone(),
    )
}
