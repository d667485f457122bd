//! Reports the disks of the node (D1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{self, DISK_HEALTHY};
use crate::api::{AGENT_MANAGER, EnforcementState, NodeDisk, NodeDiskStatus, Orphan, SharedPersistentVolume};
use crate::cluster;
use crate::host::{self, DiskReport, Host, VolumeReport, VolumeUid};
use crate::plan::node_disk::{self, MOST_ORPHANS, Seen};

use super::config::DiskEntry;
use super::context::{Context, NodeError};
use super::disk_identity::DiskIdentities;
use super::orphans::orphan;
use super::static_reservations;

/// The disks of this node, and the part of the last report that the next one compares with.
pub(super) struct Disks {
    ctx: Arc<Context>,
    entries: Vec<DiskEntry>,
    identities: DiskIdentities,
    /// The disks whose volumes were taken over from the agent before.
    recovered: BTreeSet<String>,
    /// The orphans in the last report.
    orphans: BTreeSet<VolumeUid>,
}

/// The contents of the disks.
struct Found {
    volumes: Vec<VolumeReport>,
    erased: Vec<VolumeUid>,
    disks: Vec<DiskReport>,
    served: BTreeSet<String>,
}

/// The volumes on one disk.
#[derive(Default)]
struct Usage {
    /// Bytes of volumes with an object, and of orphans whose space is kept.
    kept: u64,
    orphans: Vec<Orphan>,
}

impl Disks {
    pub(super) fn new(ctx: Arc<Context>, entries: Vec<DiskEntry>) -> Self {
        let identities = DiskIdentities::new(ctx.clone(), entries.clone());
        Self { ctx, entries, identities, recovered: BTreeSet::new(), orphans: BTreeSet::new() }
    }

    /// Brings the NodeDisks of this node up to date; writes nothing when nothing changed.
    ///
    /// 1. Gather: the NodeDisk of each disk, the contents of the disks, and the UIDs of all volumes on these NodeDisks,
    ///    listed last: data with any other UID has no object for good.
    /// 2. Decide: `plan::node_disk`, for each disk.
    /// 3. Apply: spec, static reservations and status. A disk whose status cannot be written keeps no other from its own.
    pub(super) async fn report(&mut self) -> Result<(), NodeError> {
        let api: Api<NodeDisk> = Api::all(self.ctx.client.clone());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={}", self.ctx.node));
        let mine = cluster::list(&api, &on_node).await?;
        let objects = self.identities.reconcile(&api, &mine).await?;
        self.ctx.disk_names.set(&objects);
        let recovered = self.recovered.clone();
        // A panic at one disk keeps no volume of the others from being made, fenced or erased (V10).
        let found = match self.ctx.on_host(move |host| look(host, &recovered)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "failed to measure the disks; their last reports stay");
                return Ok(());
            }
        };
        self.recovered = found.served;
        let known = self.known_volumes(objects.values()).await?;
        let (disks, (volumes, erased)) = (found.disks, (found.volumes, found.erased));
        let mut usage = self.ctx.on_host(move |host| sort_by_disk(host, volumes, erased, &known)).await?;
        self.log_orphans(&usage);

        let mut failed = Ok(());
        for disk in disks {
            let entry = self.entries.iter().find(|entry| entry.name == disk.name);
            if let (Some(entry), Some(object)) = (entry, objects.get(&disk.name)) {
                let usage = usage.remove(&disk.name).unwrap_or_default();
                failed = failed.and(self.report_disk(&api, object, entry, disk, usage).await);
            }
        }
        for object in &mine {
            if !objects.values().any(|ours| ours.uid() == object.uid()) {
                let name = object.name_any();
                let still_used = static_reservations::reconcile(&self.ctx.client, &name, &[]).await?;
                write(&api, object, node_disk::report_unconfigured(object, &still_used, Timestamp::now()))
                    .await?;
            }
        }
        Ok(failed?)
    }

    /// The UIDs of the volumes that Kubernetes has on these disks; by disk and not by node, for the volumes of a disk that
    /// came back get its node only afterwards (D3).
    async fn known_volumes(
        &self,
        disks: impl Iterator<Item = &NodeDisk>,
    ) -> Result<BTreeSet<String>, cluster::Error> {
        let api: Api<SharedPersistentVolume> = Api::all(self.ctx.client.clone());
        let mut known = BTreeSet::new();
        for disk in disks {
            let on_it = ListParams::default().fields(&format!("status.nodeDisk={}", disk.name_any()));
            known
                .extend(cluster::list_metadata(&api, &on_it).await?.iter().filter_map(|volume| volume.uid()));
        }
        Ok(known)
    }

    fn log_orphans(&mut self, usage: &BTreeMap<String, Usage>) {
        let mut orphans = BTreeSet::new();
        for (disk, usage) in usage {
            for orphan in &usage.orphans {
                let Ok(uid) = orphan.uid.parse::<VolumeUid>() else { continue };
                if !self.orphans.contains(&uid) {
                    let (name, uid, size) = (&orphan.name, &orphan.uid, orphan.size.as_str());
                    tracing::warn!(
                        disk,
                        name,
                        uid,
                        size,
                        "kept the data of a volume that has no object any more"
                    );
                }
                orphans.insert(uid);
            }
        }
        self.orphans = orphans;
    }

    async fn report_disk(
        &self,
        api: &Api<NodeDisk>,
        object: &NodeDisk,
        entry: &DiskEntry,
        disk: DiskReport,
        usage: Usage,
    ) -> Result<(), cluster::Error> {
        let mut seen = seen(&disk, usage);
        let mut object = object.clone();
        match &disk.id {
            Some(id) if *id != object.spec.disk_id => seen.error = Some(node_disk::other_disk(&object, id)),
            Some(id) => {
                let ours = entry.spec(&self.ctx.node, id);
                if let Some(spec) = node_disk::spec_to_write(&object.spec, ours) {
                    let wanted = NodeDisk::new(&object.name_any(), spec);
                    object = cluster::apply(api, &wanted, AGENT_MANAGER).await?;
                }
            }
            // Its ID cannot be read: only the status of the known object changes.
            None => {}
        }
        if seen.error.is_none() {
            let (client, name) = (&self.ctx.client, object.name_any());
            seen.unconfigured = static_reservations::reconcile(client, &name, &entry.reservations).await?;
        }
        write(api, &object, node_disk::report(&object, seen, Timestamp::now())).await
    }
}

/// Looks at all disks; the volumes of a disk that is served for the first time are taken over.
fn look(host: &Host, recovered: &BTreeSet<String>) -> Found {
    // This tries the disks again that could not be served.
    let disks = host.disks();
    let served = disks.iter().filter(|disk| disk.error.is_none());
    let served: BTreeSet<_> = served.map(|disk| disk.name.clone()).collect();
    if !served.is_subset(recovered) {
        recover(host);
    }
    let (erased, mut volumes) = (host.erased(), host.volumes());
    // The list of orphans has to stay the same as long as they do.
    volumes.sort_by(|a, b| a.uid.cmp(&b.uid));
    // Free bytes are measured last, right after the bytes that the volumes take of them.
    Found { volumes, erased, disks: host.disks(), served }
}

fn recover(host: &Host) {
    for (uid, recovered) in host.recover() {
        let uid = uid.as_str();
        match recovered {
            Ok(found) => {
                let (in_use, dropped) = (found.in_use, found.dropped);
                tracing::info!(uid, in_use, ?dropped, "took over a volume from the agent before");
            }
            Err(error) => tracing::error!(uid, %error, "failed to take over a volume"),
        }
    }
}

/// Splits the volumes by disk into those with an object and orphans, and removes receipts that nobody asks for any more.
fn sort_by_disk(
    host: &Host,
    volumes: Vec<VolumeReport>,
    erased: Vec<VolumeUid>,
    known: &BTreeSet<String>,
) -> BTreeMap<String, Usage> {
    let mut disks: BTreeMap<String, Usage> = BTreeMap::new();
    for volume in &volumes {
        let disk = disks.entry(volume.disk.clone()).or_default();
        if known.contains(volume.uid.as_str()) {
            disk.kept += volume.allocated;
        // Otherwise it was erased, and its object let go, since the disk was looked at.
        } else if host.look(&volume.disk, &volume.uid) != Ok(None) {
            let orphan = orphan(volume);
            if disk.orphans.len() < MOST_ORPHANS && !orphan.reservations.is_empty() {
                // Its space is kept, in the ledger or beside it (plan::orphans).
                disk.kept += volume.allocated;
            }
            disk.orphans.push(orphan);
        }
    }
    for uid in erased.iter().filter(|uid| !known.contains(uid.as_str())) {
        if let Err(error) = host.forget(uid) {
            tracing::warn!(uid = uid.as_str(), %error, "failed to remove the receipt of an erased volume");
        }
    }
    disks
}

fn seen(disk: &DiskReport, usage: Usage) -> Seen {
    let enforcement = disk.enforcement.as_ref().map(|enforcement| match enforcement {
        host::Enforcement::Undivided => (EnforcementState::Whole, String::new()),
        host::Enforcement::Proven(errno) => (EnforcementState::Proven, (*errno).to_owned()),
        host::Enforcement::Untried => (EnforcementState::Untried, String::new()),
        host::Enforcement::Broken(how) => (EnforcementState::Broken, how.clone()),
    });
    Seen {
        capacity: disk.capacity,
        system_reserved: disk.system_reserved,
        allocatable: disk.allocatable,
        free: disk.free,
        kept: usage.kept,
        enforcement,
        orphans: usage.orphans,
        unconfigured: vec![],
        error: disk.error.clone(),
    }
}

async fn write(api: &Api<NodeDisk>, object: &NodeDisk, status: NodeDiskStatus) -> Result<(), cluster::Error> {
    let health = |status: &NodeDiskStatus| condition::get(&status.conditions, DISK_HEALTHY).cloned();
    let now = health(&status);
    if now != object.status.as_ref().and_then(health)
        && let Some(now) = now
    {
        let (node_disk, reason) = (object.name_any(), now.reason);
        tracing::info!(node_disk, reason, message = now.message, "the health of a disk changed");
    }
    cluster::write_status(api, object, &status, AGENT_MANAGER).await.map(|_| ())
}
