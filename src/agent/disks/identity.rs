//! Which NodeDisk a disk is: by the ID that is stored on it, whatever its node and its place are called (D3).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::reason;
use crate::api::{AGENT_MANAGER, NodeDisk};
use crate::cluster;
use crate::telemetry;

use super::super::config::DiskEntry;
use super::{Disks, spec};

/// What the disks of this node are called there, by the names of their NodeDisks: a disk that comes back in a node of
/// another name keeps its NodeDisk (D3).
#[derive(Clone, Default)]
pub(in super::super) struct Places(Arc<RwLock<BTreeMap<String, String>>>);

impl Places {
    /// The disk that is that NodeDisk.
    pub(in super::super) fn of(&self, node_disk: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(node_disk).cloned()
    }

    /// The NodeDisk of that disk.
    pub(in super::super) fn node_disk(&self, disk: &str) -> Option<String> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        places.iter().find_map(|(name, place)| (place == disk).then(|| name.clone()))
    }

    pub(super) fn set(&self, objects: &BTreeMap<String, NodeDisk>) {
        let places = objects.iter().map(|(disk, object)| (object.name_any(), disk.clone())).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = places;
    }
}

impl Disks {
    /// The NodeDisk of each configured disk, and says to the host which disk is expected where. What it is known as here
    /// comes first: another disk in its place is refused. A disk that is not known here is what its ID says, whatever
    /// node and name it had; one of an ID that nobody knows is new (D3).
    pub(super) async fn identify(
        &mut self,
        api: &Api<NodeDisk>,
        mine: &[NodeDisk],
    ) -> Result<BTreeMap<String, NodeDisk>, cluster::Error> {
        let host = self.host.clone();
        let mut found = tokio::task::spawn_blocking(move || host.identities()).await.unwrap_or_default();
        let mut all = None;
        let mut objects = BTreeMap::new();
        for entry in self.entries.clone() {
            let known = mine.iter().find(|object| object.spec.disk_name == entry.name);
            let object = match (known, found.remove(&entry.name)) {
                (Some(known), _) => Ok(known.clone()),
                (None, None) => Err("the agent failed in the middle of looking at it".to_owned()),
                (None, Some(Err(error))) => Err(error.to_string()),
                (None, Some(Ok(id))) => {
                    if all.is_none() {
                        all = Some(cluster::list(api, &ListParams::default()).await?);
                    }
                    self.take_over(api, &entry, &id, all.as_deref().unwrap_or_default()).await?
                }
            };
            let (expected, refused) = match &object {
                Ok(object) => (Some(&*object.spec.disk_id), object.spec.gone.then(|| declared_gone(object))),
                Err(why) => (None, Some(why.clone())),
            };
            let told =
                self.host.expect(&entry.name, expected).and_then(|()| self.host.refuse(&entry.name, refused));
            if let Err(error) = told {
                tracing::error!(disk = entry.name, %error, "a disk is not served");
            }
            match object {
                Ok(object) => {
                    self.refused.remove(&entry.name);
                    objects.insert(entry.name, object);
                }
                Err(why) if self.refused.get(&entry.name) == Some(&why) => {}
                Err(why) => {
                    tracing::error!(disk = entry.name, why, "a disk is not served");
                    self.refused.insert(entry.name, why);
                }
            }
        }
        Ok(objects)
    }

    /// The NodeDisk of a disk that is not known in this node: the one that has its ID, or a new one. Whether the node that
    /// it was in is gone, and this not a copy of it, the API server decides; see `reservoir-agent-takes-over`.
    async fn take_over(
        &self,
        api: &Api<NodeDisk>,
        entry: &DiskEntry,
        id: &str,
        all: &[NodeDisk],
    ) -> Result<Result<NodeDisk, String>, cluster::Error> {
        let ours = spec(&self.node, entry, id);
        let Some(known) = all.iter().find(|object| object.spec.disk_id == id) else {
            let name = format!("{}.{}", self.node, entry.name);
            // A disk that had this name may be in another node now.
            let taken = all.iter().any(|object| object.name_any() == name);
            let name = if taken { format!("{name}-{}", id.get(..8).unwrap_or(id)) } else { name };
            return Ok(Ok(cluster::apply(api, &NodeDisk::new(&name, ours), AGENT_MANAGER).await?));
        };
        let (name, there) = (known.name_any(), &known.spec);
        // A disk that was declared gone elsewhere, or under another name, is gone here too (D4).
        if there.gone {
            return Ok(Err(declared_gone(known)));
        }
        if there.node_name == self.node && self.entries.iter().any(|other| other.name == there.disk_name) {
            return Ok(Err(format!(
                "by its ID it is NodeDisk {name}, which the agent's configuration has as disk {}: correct the paths there",
                there.disk_name
            )));
        }
        match cluster::apply(api, &NodeDisk::new(&name, ours), AGENT_MANAGER).await {
            Ok(object) => {
                tracing::info!(
                    disk = entry.name,
                    node_disk = name,
                    was_in = there.node_name,
                    "a disk came back"
                );
                Ok(Ok(object))
            }
            Err(error) if error.is_forbidden() => {
                let why = telemetry::chain(&error);
                if self.refused.get(&entry.name) != Some(&why) {
                    let said = format!("node {} has a disk with the ID of this one: {why}", self.node);
                    self.events.publish(known, None, false, "Report", reason::DISK_REFUSED, &said).await;
                }
                Ok(Err(why))
            }
            Err(error) => Err(error),
        }
    }
}

fn declared_gone(object: &NodeDisk) -> String {
    let name = object.name_any();
    format!(
        "NodeDisk {name}, which it is by its ID, was declared gone: all that is on it is kept and nothing of it is \
         served; give the agent an empty directory under another disk name, or delete NodeDisk {name} when nothing is \
         reserved on it any more"
    )
}
