//! Reports the disks of the node (D1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{self, DISK_HEALTHY};
use crate::api::{
    AGENT_MANAGER, DiskReservation, EnforcementState, Lifetime, NodeDevice, NodeDisk, NodeDiskSpec,
    NodeDiskStatus, Orphan, PVC_PREFIX, SharedPersistentVolume,
};
use crate::cluster;
use crate::host::{self, DiskReport, Host, VolumeReport, VolumeUid};
use crate::plan::birth;
use crate::plan::disk_identity::is_placeholder;
use crate::plan::disk_key;
use crate::plan::node_disk::{self, Seen, Step};
use crate::plan::node_lifetime;

use super::config::DiskEntry;
use super::context::{Context, NodeError};
use super::devices;
use super::disk_identity::DiskIdentities;
use super::orphans::orphan;
use super::static_reservations;

/// The disks of this node, and the part of the last report that is compared with the next one.
pub(super) struct Disks {
    ctx: Arc<Context>,
    entries: Vec<DiskEntry>,
    identities: DiskIdentities,
    identified: bool,
    /// The disks whose volumes this agent has taken over from an earlier agent.
    recovered: BTreeSet<String>,
    /// The orphans in the last report.
    orphans: BTreeSet<VolumeUid>,
    /// UID of this Node, once asked for; needed for disks that go with it (D7).
    node_uid: Option<String>,
}

/// The content of the disks.
struct Found {
    volumes: Vec<VolumeReport>,
    erased: Vec<VolumeUid>,
    disks: Vec<DiskReport>,
    served: BTreeSet<String>,
}

/// The volumes on one disk.
#[derive(Default)]
struct Usage {
    /// Bytes of volumes with an object, and of orphans that the agent keeps.
    kept: u64,
    orphans: Vec<Orphan>,
}

impl Disks {
    pub(super) fn new(ctx: Arc<Context>, entries: Vec<DiskEntry>) -> Self {
        let identities = DiskIdentities::new(ctx.clone(), entries.clone());
        let (recovered, orphans, node_uid) = Default::default();
        Self { ctx, entries, identities, identified: false, recovered, orphans, node_uid }
    }

    /// True once the host expects or refuses each disk.
    pub(super) fn are_identified(&self) -> bool {
        self.identified
    }

    /// Brings the NodeDisks of this node up to date; writes only changes. The failure of one disk does not affect the
    /// report of another (V10).
    ///
    /// 1. Gather: the NodeDisk of each disk, the contents of the disks, and the UIDs of all volumes on these
    ///    NodeDisks, listed last. Data with any other UID then has no object, and never gets one.
    /// 2. Decide and apply: [`reconcile`](Self::reconcile) for each disk, and the removal of receipts that are not
    ///    needed any more.
    pub(super) async fn report(&mut self) -> Result<(), NodeError> {
        let api: Api<NodeDisk> = Api::all(self.ctx.client.clone());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={}", self.ctx.node));
        let mine = cluster::list(&api, &on_node).await?;
        self.learn_node_uid(&mine).await?;
        let (objects, mut failed) = self.identities.reconcile(&api, &mine, self.node_uid.as_deref()).await?;
        self.ctx.disk_names.set(&objects);
        self.identified = true;
        let recovered = self.recovered.clone();
        // A panic about one disk must not prevent work on the volumes of other disks (V10).
        let found = match self.ctx.on_host(move |host| look(host, &recovered)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "failed to measure the disks; their last reports stay");
                return failed;
            }
        };
        let Found { volumes, erased, disks, served } = found;
        self.recovered = served;
        let mut known = self.known_volumes(objects.values()).await?;
        known.extend(self.newborn(&volumes, &known).await?);
        let is_known = |uid: &VolumeUid| known.contains(uid.as_str());
        let forgotten: Vec<_> = erased.into_iter().filter(|uid| !is_known(uid)).collect();
        let mut usage = self.ctx.on_host(move |host| sort_by_disk(host, volumes, &known)).await?;

        // The first disk's NodeDisk has the node's devices, and the others have none.
        let mut devices = Some(self.devices().await);
        self.log_orphans(&usage);
        self.ctx.on_host(move |host| forget(host, &forgotten)).await?;
        let ids: BTreeMap<_, _> =
            disks.iter().filter_map(|disk| Some((disk.name.clone(), disk.id.clone()?))).collect();
        for disk in disks {
            let entry = self.entries.iter().find(|entry| entry.name == disk.name);
            if let (Some(entry), Some(object)) = (entry, objects.get(&disk.name)) {
                let mut seen =
                    seen(&disk, usage.remove(&disk.name).unwrap_or_default(), entry, &self.ctx.node);
                seen.node_uid.clone_from(&self.node_uid);
                seen.other_disk = node_lifetime::other_disk(object, &ids, self.node_uid.as_deref(), &mine);
                seen.belongs_to = belongs_to(object, disk.id.as_deref(), &mine);
                seen.transfer = self.ctx.copying.as_ref().map(|copying| copying.at.clone());
                seen.devices = devices.take().unwrap_or(Some(Vec::new()));
                seen.keeps_read_only = match self.ctx.keeps_read_only() {
                    false => self.ctx.never_keeps_read_only().then_some(false),
                    true => Some(true),
                };
                if let Some(ours) = &mut seen.ours {
                    let proof = self.ctx.sign(&disk.name, disk_key::text(&object.name_any(), ours)).await;
                    ours.key_proof = proof.unwrap_or_default();
                }
                failed = failed.and(self.reconcile(&api, object, Ok(seen)).await);
            }
        }
        for object in mine.iter().filter(|mine| !objects.values().any(|ours| ours.uid() == mine.uid())) {
            failed = failed.and(match is_placeholder(object) {
                true => {
                    cluster::delete(&api, &object.name_any(), object.uid()).await.map_err(NodeError::from)
                }
                false => {
                    let same = objects.values().find(|ours| ours.spec.disk_id == object.spec.disk_id);
                    self.reconcile(&api, object, Err(same.map(ResourceExt::name_any))).await
                }
            });
        }
        failed
    }

    /// Brings one NodeDisk up to date.
    ///
    /// 1. Gather: the static reservations on it.
    /// 2. Decide: `plan::node_disk::next`; `seen` is an error for a disk that is no longer configured.
    /// 3. Apply: the spec, followed by another decision; or the static reservations and the status.
    async fn reconcile(
        &self,
        api: &Api<NodeDisk>,
        object: &NodeDisk,
        mut seen: Result<Seen, Option<String>>,
    ) -> Result<(), NodeError> {
        let found = static_reservations::on_disk(&self.ctx.client, &object.name_any()).await?;
        let mut object = object.clone();
        loop {
            match node_disk::next(&object, seen.clone(), &found, Timestamp::now()) {
                Step::Spec(spec) => {
                    let wanted = NodeDisk::new(&object.name_any(), *spec);
                    object = cluster::apply(api, &wanted, AGENT_MANAGER).await?;
                    // The spec is written once: if the API server changes it, a second write would not help.
                    seen.iter_mut().for_each(|seen| seen.ours = None);
                }
                Step::Report { reservations, status } => {
                    let failures = static_reservations::apply(&self.ctx.client, &found, &reservations).await;
                    let status = node_disk::with_failures(&object, *status, &failures);
                    return Ok(write(api, &object, status).await?);
                }
            }
        }
    }

    /// The UIDs of the volumes that Kubernetes has on these disks. The selection is by disk, not by node: after a
    /// disk came back in a renamed node, its volumes get the new node only later (D3).
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

    /// The UIDs of further volumes that Kubernetes has, although no status has their disk yet: they are born in their place, and a
    /// ledger has their bytes. Each is read once: an orphan is one until its status has a place.
    async fn newborn(
        &self,
        volumes: &[VolumeReport],
        known: &BTreeSet<String>,
    ) -> Result<Vec<String>, cluster::Error> {
        let api: Api<SharedPersistentVolume> = Api::all(self.ctx.client.clone());
        let reservations: Api<DiskReservation> = Api::all(self.ctx.client.clone());
        let mut found = Vec::new();
        for volume in volumes {
            let Ok(record) = &volume.record else { continue };
            let (uid, name) = (&volume.uid, &record.spec.name);
            let is_settled = known.contains(uid.as_str()) || self.orphans.contains(uid);
            if is_settled || record.kept.is_some() || !name.starts_with(PVC_PREFIX) {
                continue;
            }
            let there = cluster::get(&api, name).await?;
            let Some(there) = there.filter(|there| there.metadata.uid.as_deref() == Some(uid.as_str()))
            else {
                continue;
            };
            let named = there.spec.reservation.as_deref().filter(|_| birth::node(&there).is_some());
            let is_born = match named {
                Some(named) => {
                    let reservation = cluster::get(&reservations, named).await?;
                    reservation.is_some_and(|reservation| birth::has_entry(&there, &reservation))
                }
                // Its place was written since the list.
                None => {
                    let on = there.status.as_ref().and_then(|status| status.node_disk.as_deref());
                    on.is_some_and(|on| self.ctx.disk_names.disk_of(on).is_some())
                }
            };
            found.extend(is_born.then(|| uid.as_str().to_owned()));
        }
        Ok(found)
    }

    /// Asks for the UID of this Node, if a disk goes with it. The Node may have been made anew, so the agent asks again while
    /// the controller misses it.
    async fn learn_node_uid(&mut self, mine: &[NodeDisk]) -> Result<(), cluster::Error> {
        let goes_along = self.entries.iter().any(|entry| entry.lifetime == Lifetime::Node);
        let is_missed = |disk: &NodeDisk| disk.status.as_ref().is_some_and(|s| s.missing_node.is_some());
        if goes_along && (self.node_uid.is_none() || mine.iter().any(is_missed)) {
            self.node_uid = cluster::node_uid(&self.ctx.client).await?;
        }
        Ok(())
    }

    /// The node's devices; `None` if they cannot be seen.
    async fn devices(&self) -> Option<Vec<NodeDevice>> {
        match self.ctx.on_host(|host| host.devices()).await {
            Ok(Ok(devices)) => Some(devices::node_devices(devices)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "failed to look at the node's devices");
                None
            }
            Err(error) => {
                tracing::error!(%error, "failed to look at the node's devices");
                None
            }
        }
    }

    fn log_orphans(&mut self, usage: &BTreeMap<String, Usage>) {
        let mut orphans = BTreeSet::new();
        for (disk, usage) in usage {
            for orphan in &usage.orphans {
                let Ok(uid) = orphan.uid.parse::<VolumeUid>() else { continue };
                if !self.orphans.contains(&uid) {
                    let (name, uid, size) = (&orphan.name, &orphan.uid, orphan.size.as_str());
                    tracing::warn!(disk, name, uid, size, "kept the data of a volume without an object");
                }
                orphans.insert(uid);
            }
        }
        self.orphans = orphans;
    }
}

/// Looks at all disks, and takes over the volumes of a disk that is served for the first time.
fn look(host: &Host, recovered: &BTreeSet<String>) -> Found {
    // `disks` retries the disks that could not be served.
    let disks = host.disks();
    let served = disks.iter().filter(|disk| disk.error.is_none());
    let served: BTreeSet<_> = served.map(|disk| disk.name.clone()).collect();
    if !served.is_subset(recovered) {
        recover(host);
    }
    let (erased, mut volumes) = (host.erased(), host.volumes());
    // Sorted, so that an unchanged list of orphans is no change of the status.
    volumes.sort_by(|a, b| a.uid.cmp(&b.uid));
    // Free bytes are measured last, right after the volumes' allocated bytes.
    Found { volumes, erased, disks: host.disks(), served }
}

fn recover(host: &Host) {
    for (uid, recovered) in host.recover() {
        let uid = uid.as_str();
        match recovered {
            Ok(found) => {
                let (in_use, dropped) = (found.in_use, found.dropped);
                tracing::info!(uid, in_use, ?dropped, "took over a volume from an earlier agent");
            }
            Err(error) => tracing::error!(uid, %error, "failed to take over a volume"),
        }
    }
}

/// Splits the volumes by disk into volumes with an object and orphans.
fn sort_by_disk(
    host: &Host,
    volumes: Vec<VolumeReport>,
    known: &BTreeSet<String>,
) -> BTreeMap<String, Usage> {
    let mut disks: BTreeMap<String, Usage> = BTreeMap::new();
    for volume in &volumes {
        let disk = disks.entry(volume.disk.clone()).or_default();
        if known.contains(volume.uid.as_str()) {
            disk.kept += volume.allocated;
        // The volume may have been erased and its object deleted since the agent looked at the disk, so the disk is
        // asked again.
        } else if host.look(&volume.disk, &volume.uid) != Ok(None) {
            let orphan = orphan(volume, Timestamp::now());
            if !orphan.reservations.is_empty() {
                // The ledger, or a part beside the ledger, keeps the orphan's space (plan::orphans).
                disk.kept += volume.allocated;
            }
            disk.orphans.push(orphan);
        }
    }
    disks
}

/// Removes receipts that are not needed any more.
fn forget(host: &Host, erased: &[VolumeUid]) {
    for uid in erased {
        if let Err(error) = host.forget(uid) {
            tracing::warn!(uid = uid.as_str(), %error, "failed to remove the receipt of an erased volume");
        }
    }
}

/// The other NodeDisk of this node with the ID of a disk.
fn belongs_to(object: &NodeDisk, id: Option<&str>, mine: &[NodeDisk]) -> Option<String> {
    let is_its = |other: &&NodeDisk| Some(&*other.spec.disk_id) == id && other.uid() != object.uid();
    mine.iter().find(is_its).map(ResourceExt::name_any)
}

fn seen(disk: &DiskReport, usage: Usage, entry: &DiskEntry, node: &str) -> Seen {
    let enforcement = disk.enforcement.as_ref().map(|enforcement| match enforcement {
        host::Enforcement::Undivided => (EnforcementState::Whole, String::new()),
        host::Enforcement::Proven(errno) => (EnforcementState::Proven, (*errno).to_owned()),
        host::Enforcement::Untried => (EnforcementState::Untried, String::new()),
        host::Enforcement::Broken(how) => (EnforcementState::Broken, how.clone()),
    });
    let configured = entry.reservations.iter().map(|wanted| (wanted.role.clone(), wanted.size.clone()));
    Seen {
        ours: disk
            .id
            .as_ref()
            .map(|id| NodeDiskSpec { key: disk.key.clone(), ..entry.spec(node, id, &disk.path) }),
        configured: configured.collect(),
        capacity: disk.capacity,
        system_reserved: disk.system_reserved,
        allocatable: disk.allocatable,
        free: disk.free,
        kept: usage.kept,
        enforcement,
        keeps_read_only: None,
        transfer: None,
        node_uid: None,
        other_disk: None,
        belongs_to: None,
        devices: None,
        orphans: usage.orphans,
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
