//! The disks of this node by the names of their NodeDisks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use kube::ResourceExt;

use crate::api::NodeDisk;

/// The name in the agent's configuration for each NodeDisk. A disk that comes back in a node of another name keeps
/// its NodeDisk, whose name then has the old node's name (D3).
#[derive(Clone, Default)]
pub(super) struct DiskNames(Arc<RwLock<BTreeMap<String, String>>>);

impl DiskNames {
    /// The disk of this NodeDisk.
    pub(super) fn disk_of(&self, node_disk: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(node_disk).cloned()
    }

    /// The NodeDisk of this disk.
    pub(super) fn node_disk_of(&self, disk: &str) -> Option<String> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.iter().find_map(|(node_disk, name)| (name == disk).then(|| node_disk.clone()))
    }

    /// Replaces all names; `objects` has the NodeDisks by the names of the disks.
    pub(super) fn set(&self, objects: &BTreeMap<String, NodeDisk>) {
        let names = objects.iter().map(|(disk, object)| (object.name_any(), disk.clone())).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = names;
    }
}
