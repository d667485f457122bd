//! Finds the NodeDisk of each configured disk (D3).

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::condition::reason;
use crate::api::{AGENT_MANAGER, DiskReservation, Lifetime, NodeDisk, NodeDiskSpec, UNKNOWN_DISK};
use crate::cluster;
use crate::host::Host;
use crate::plan::disk_identity::{
    Identity, Stored, copy_refused, declared_gone, identify, is_placeholder, not_signed, placeholder_name,
    without_key,
};
use crate::plan::disk_key;

use super::config::DiskEntry;
use super::context::{Context, NodeError};

pub(super) struct DiskIdentities {
    ctx: Arc<Context>,
    entries: Vec<DiskEntry>,
    /// The disks without a NodeDisk of this node, with the last logged reason.
    refused: BTreeMap<String, String>,
}

impl DiskIdentities {
    pub(super) fn new(ctx: Arc<Context>, entries: Vec<DiskEntry>) -> Self {
        Self { ctx, entries, refused: BTreeMap::new() }
    }

    /// Returns the NodeDisks by the names of the disks, or the failure of a disk without one, and sets the host's
    /// expected disks. Nothing else of a disk is read before that: a disk is identified by its ID, not by its place.
    /// `node_uid` is the UID of this Node, which a placeholder goes with (D7).
    ///
    /// 1. Gather: the identities of the disks, and all NodeDisks if a disk has none among `mine`; all reservations if a disk
    ///    has none at all, or needs a placeholder.
    /// 2. Decide: `plan::disk_identity::identify`, for each disk.
    /// 3. Apply: NodeDisks made or taken over; a placeholder for a disk that is not served as any (D8); the host expects
    ///    or refuses each disk.
    pub(super) async fn reconcile(
        &mut self,
        api: &Api<NodeDisk>,
        mine: &[NodeDisk],
        node_uid: Option<&str>,
    ) -> Result<(BTreeMap<String, NodeDisk>, Result<(), NodeError>), NodeError> {
        let mut identities = self.ctx.on_host(|host| host.identities()).await?;
        let is_unknown = |entry: &DiskEntry| {
            let identified = identities.get(&entry.name).is_some_and(Result::is_ok);
            let is_its = |object: &&NodeDisk| object.spec.disk_name == entry.name;
            !mine.iter().filter(is_its).any(|object| !identified || !is_placeholder(object))
        };
        let all = match self.entries.iter().any(is_unknown) {
            true => cluster::list(api, &ListParams::default()).await?,
            false => mine.to_vec(),
        };

        let node = self.ctx.node.clone();
        let configured: Vec<&str> = self.entries.iter().map(|entry| &*entry.name).collect();
        let (mut objects, mut expected, mut failed) = (BTreeMap::new(), Vec::new(), Ok(()));
        let mut reservations = Vec::new();
        for entry in &self.entries {
            let on_disk = identities.remove(&entry.name).map_or_else(
                || Err("the agent has not opened it".to_owned()),
                |identity| identity.map_err(|error| error.to_string()),
            );
            let stored = on_disk.as_ref().map_err(Clone::clone);
            let stored =
                stored.map(|disk| Stored { id: &disk.id, attested_key: disk.attested_key.as_deref() });
            let (id, path) = on_disk.as_ref().map_or(("", entry.place()), |disk| (&disk.id, &disk.path));
            let place = path.display().to_string();
            let mut identity =
                identify(&node, &entry.name, &place, &configured, stored.clone(), &all, &reservations);
            if matches!(identity, Identity::New(_)) && reservations.is_empty() {
                let api: Api<DiskReservation> = Api::all(self.ctx.client.clone());
                reservations = cluster::list(&api, &ListParams::default()).await?;
                identity = identify(&node, &entry.name, &place, &configured, stored, &all, &reservations);
            }
            let spec = || entry.spec(&node, id, path);
            let object = match identity {
                Identity::Known(known) => Ok(Ok(known.clone())),
                Identity::New(name) => {
                    let spec = spec();
                    for other in all.iter().filter(|object| object.spec.disk_id == spec.disk_id) {
                        let message = not_signed(&node);
                        self.ctx.warn(other, "Report", reason::DISK_REFUSED, &message).await;
                    }
                    let made = cluster::apply(api, &NodeDisk::new(&name, spec), AGENT_MANAGER).await;
                    made.map(Ok).map_err(NodeError::from)
                }
                Identity::TakeOver(found) => self.take_over(api, found, spec()).await,
                Identity::Refused(why) => Ok(Err(why)),
            };
            let disk = entry.name.clone();
            match object {
                Ok(Ok(object)) => {
                    self.refused.remove(&disk);
                    let known = (object.spec.disk_id.clone(), disk_key::attested(&object).map(str::to_owned));
                    expected.push((disk.clone(), Some(known), declared_gone(&object)));
                    objects.insert(disk, object);
                }
                Ok(Err(why)) => {
                    if self.refused.insert(disk.clone(), why.clone()).as_ref() != Some(&why) {
                        tracing::error!(disk, why, "refused to serve a disk");
                    }
                    if reservations.is_empty() {
                        let api: Api<DiskReservation> = Api::all(self.ctx.client.clone());
                        match cluster::list(&api, &ListParams::default()).await {
                            Ok(listed) => reservations = listed,
                            Err(error) => {
                                failed = Err(error.into());
                                expected.push((disk, None, Some(why)));
                                continue;
                            }
                        }
                    }
                    let name = placeholder_name(&node, &disk, &all, &reservations);
                    let goes_along = node_uid.filter(|_| entry.lifetime == Lifetime::Node);
                    let spec = NodeDiskSpec {
                        node_uid: goes_along.map(str::to_owned),
                        ..entry.spec(&node, UNKNOWN_DISK, entry.place())
                    };
                    match placeholder(api, &name, spec, &all).await {
                        Ok(object) => drop(objects.insert(disk.clone(), object)),
                        Err(error) => failed = Err(error.into()),
                    }
                    expected.push((disk, None, Some(why)));
                }
                // A disk without a NodeDisk is not served at all. The next report tries again.
                Err(error) => {
                    expected.push((disk, None, Some(error.to_string())));
                    failed = Err(error);
                }
            }
        }
        self.ctx.on_host(move |host| expect(host, expected)).await?;
        Ok((objects, failed))
    }

    /// Takes over a disk that has a NodeDisk elsewhere; returns the reason why the disk is not served meanwhile.
    /// Under the same node only the disk's name changes. For a NodeDisk of another node the controller checks the
    /// proof.
    async fn take_over(
        &self,
        api: &Api<NodeDisk>,
        found: &NodeDisk,
        spec: NodeDiskSpec,
    ) -> Result<Result<NodeDisk, String>, NodeError> {
        let (disk, node_disk) = (spec.disk_name.clone(), found.name_any());
        let proof = match self.ctx.sign(&disk, disk_key::text(&node_disk, &spec)).await {
            Ok(proof) => proof,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if found.spec.node_name == spec.node_name {
            let spec = NodeDiskSpec { key: found.spec.key.clone(), key_proof: proof, ..spec };
            return Ok(Ok(cluster::apply(api, &NodeDisk::new(&node_disk, spec), AGENT_MANAGER).await?));
        }
        let Some(proof) = proof.filter(|_| found.spec.key.is_some()) else {
            return Ok(Err(without_key(found)));
        };
        let request = json!({"nodeName": spec.node_name, "diskName": disk, "proof": proof});
        match cluster::merge(api, &node_disk, &json!({"spec": {"takeOver": request}})).await {
            Ok(()) => Ok(Err(format!("the controller was asked to move NodeDisk {node_disk} to this node"))),
            Err(error) if error.is_forbidden() => {
                let why = error.report();
                if self.refused.get(&disk) != Some(&why) {
                    let message = copy_refused(&self.ctx.node, &why);
                    self.ctx.warn(found, "Report", reason::DISK_REFUSED, &message).await;
                }
                Ok(Err(why))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The NodeDisk that shows why a disk is not served (D8).
async fn placeholder(
    api: &Api<NodeDisk>,
    name: &str,
    spec: NodeDiskSpec,
    all: &[NodeDisk],
) -> Result<NodeDisk, cluster::Error> {
    match all.iter().find(|object| object.name_any() == name && object.spec == spec) {
        Some(present) => Ok(present.clone()),
        None => cluster::apply(api, &NodeDisk::new(name, spec), AGENT_MANAGER).await,
    }
}

/// The ID of a disk in its NodeDisk, and the public key that has signed the NodeDisk.
type Known = (String, Option<String>);

/// Sets the expected ID and the attested key of each disk, and the reason why a disk is not served.
fn expect(host: &Host, disks: Vec<(String, Option<Known>, Option<String>)>) {
    for (disk, known, refused) in disks {
        let (id, key) = known.unzip();
        let expected = host.expect(&disk, id.as_deref(), key.flatten().as_deref());
        if let Err(error) = expected.and_then(|()| host.refuse(&disk, refused)) {
            tracing::error!(disk, %error, "failed to set the expected ID of a disk");
        }
    }
}
