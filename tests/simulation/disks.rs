//! The agent's report on the disk of its node, and the identity of the disk.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use reservoir::api::{
    AGENT_MANAGER, DiskReservation, EnforcementState, KeptOnDisk, Lifetime, NodeDisk, NodeDiskSpec, Orphan,
    PVC_PREFIX, Recover, SharedPersistentVolume, Size, UNKNOWN_DISK,
};
use reservoir::cluster;
use reservoir::plan::disk_identity::{
    Identity, Stored, declared_gone, identify, is_placeholder, placeholder_name, without_key,
};
use reservoir::plan::node_disk::{self, Seen, Step};
use reservoir::plan::static_reservations::{Changes, changes};
use reservoir::plan::{birth, disk_key, node_lifetime};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use crate::agent::Agent;
use crate::clock;
use crate::host::{self, Host};
use crate::random::Random;
use crate::seals::Seal;
use crate::server;
use crate::setup::{DISK, Setup};

/// A disk that is in a node.
#[derive(Clone)]
pub struct Disk {
    pub id: String,
    key: Option<Key>,
}

/// The key on a disk (A7).
#[derive(Clone)]
struct Key {
    seed: [u8; 32],
    public: String,
    /// The present agent has made the key.
    is_new: bool,
    /// The disk's NodeDisk has had the public key, signed with the key.
    attested: bool,
}

impl Key {
    fn new(random: &mut Random) -> Self {
        let mut seed = [0; 32];
        seed.chunks_exact_mut(8).for_each(|bytes| bytes.copy_from_slice(&random.next().to_le_bytes()));
        let public = hex(pair(&seed).public_key().as_ref());
        Self { seed, public, is_new: true, attested: false }
    }
}

fn pair(seed: &[u8]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed has 32 bytes")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Disk {
    pub fn new(id: String) -> Self {
        Self { id, key: None }
    }

    /// Another process has the disk now.
    pub fn is_opened(&mut self) {
        self.key.iter_mut().for_each(|key| key.is_new = false);
    }

    pub fn lose_key(&mut self) {
        self.key = None;
    }

    /// As `host/disk.rs`.
    fn public_key(&mut self, attested: Option<&str>, random: &mut Random) -> String {
        match &mut self.key {
            Some(key) if Some(&*key.public) == attested => {
                key.attested = true;
                return key.public.clone();
            }
            Some(key) if key.is_new => return key.public.clone(),
            _ => {}
        }
        self.key.insert(Key::new(random)).public.clone()
    }

    fn sign(&self, text: &str) -> Option<String> {
        self.key.as_ref().map(|key| hex(pair(&key.seed).sign(text.as_bytes()).as_ref()))
    }
}

impl Agent {
    /// As `agent/disks.rs`.
    pub async fn report(&self) -> Result<(), cluster::Error> {
        let api: Api<NodeDisk> = Api::all(self.client.clone());
        let all = cluster::list(&api, &ListParams::default()).await?;
        let mine: Vec<NodeDisk> =
            all.iter().filter(|disk| disk.spec.node_name == self.node).cloned().collect();
        let node_uid = self.node_uid(&mine).await?;
        let (object, refused) = self.identified(&api, &all, node_uid.as_deref()).await?;
        let name = object.name_any();
        let disk = self.on_host(|host| host.disk.clone());
        let is_it = disk.as_ref().is_some_and(|disk| disk.id == object.spec.disk_id);
        let is_served = is_it && refused.is_none();
        self.on_host(|host| host.serves = is_served.then(|| name.clone()));

        let ours = disk.as_ref().map(|disk| NodeDiskSpec {
            key: self.key_of(&object, is_served),
            ..self.setup.spec(&self.node, &disk.id)
        });
        let proof = ours.as_ref().and_then(|ours| self.sign(&disk_key::text(&name, ours)));
        let ours = ours.map(|ours| NodeDiskSpec { key_proof: proof, ..ours });
        let ids = disk.iter().map(|disk| (DISK.0.to_owned(), disk.id.clone()));
        let ids: BTreeMap<String, String> = ids.collect();
        let is_full = self.on_host(|host| host.is_full);
        let enforcement = if is_full { EnforcementState::Untried } else { EnforcementState::Proven };
        let error = refused.or_else(|| disk.is_none().then(|| "there is no disk".to_owned()));
        let mut seen = Seen {
            ours,
            configured: self.on_host(|host| self.setup.configured(host.agents)),
            capacity: host::CAPACITY,
            system_reserved: 0,
            allocatable: host::CAPACITY,
            keeps_read_only: Some(self.setup.keeps_read_only),
            enforcement: Some((enforcement, "ENOSPC".into())),
            other_disk: node_lifetime::other_disk(&object, &ids, node_uid.as_deref(), &mine),
            belongs_to: belongs_to(&object, disk.as_ref(), &mine),
            node_uid,
            devices: Some(vec![]),
            transfer: self.transfer(),
            error,
            ..Default::default()
        };
        if is_served {
            (seen.kept, seen.orphans) = self.usage(&name).await?;
            seen.free = self.on_host(|host| host.free());
        }
        self.reconcile_disk(&api, object.clone(), Ok(seen)).await?;
        for other in mine.iter().filter(|other| other.uid() != object.uid()) {
            match is_placeholder(other) {
                true => cluster::delete(&api, &other.name_any(), other.uid()).await?,
                false => {
                    let same = (other.spec.disk_id == object.spec.disk_id).then(|| name.clone());
                    self.reconcile_disk(&api, other.clone(), Err(same)).await?;
                }
            }
        }
        Ok(())
    }

    /// The UID of this Node, if disks go with it. It is asked for again while the controller misses the Node.
    async fn node_uid(&self, mine: &[NodeDisk]) -> Result<Option<String>, cluster::Error> {
        let is_missed = |disk: &NodeDisk| disk.status.as_ref().is_some_and(|s| s.missing_node.is_some());
        let known = self.on_host(|host| host.node_uid.clone());
        if self.setup.lifetime == Lifetime::Disk || known.is_some() && !mine.iter().any(is_missed) {
            return Ok(known);
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={}", self.node));
        let uid = cluster::list_metadata(&nodes, &named).await?.first().and_then(ResourceExt::uid);
        self.on_host(|host| host.node_uid.clone_from(&uid));
        Ok(uid)
    }

    /// As `agent/disk_identity.rs`: the NodeDisk of the disk, and why the disk is not served as any.
    async fn identified(
        &self,
        api: &Api<NodeDisk>,
        all: &[NodeDisk],
        node_uid: Option<&str>,
    ) -> Result<(NodeDisk, Option<String>), cluster::Error> {
        let disk = self.on_host(|host| host.disk.clone());
        let attested = disk.as_ref().and_then(|disk| disk.key.as_ref()).filter(|key| key.attested);
        let stored = disk.as_ref().ok_or_else(|| "there is no disk".to_owned());
        let stored =
            stored.map(|disk| Stored { id: &disk.id, attested_key: attested.map(|key| key.public.as_str()) });
        let find =
            |recorded: &[_]| identify(&self.node, DISK.0, DISK.1, &[DISK.0], stored.clone(), all, recorded);
        let mut identity = find(&[]);
        if matches!(identity, Identity::New(_)) {
            let reservations: Api<DiskReservation> = Api::all(self.client.clone());
            identity = find(&cluster::list(&reservations, &ListParams::default()).await?);
        }
        let spec = || self.setup.spec(&self.node, disk.as_ref().map_or("", |disk| disk.id.as_str()));
        let found = match identity {
            Identity::Known(known) => Ok(known.clone()),
            Identity::New(name) => {
                Ok(cluster::apply(api, &NodeDisk::new(&name, spec()), AGENT_MANAGER).await?)
            }
            Identity::TakeOver(found) => self.take_over(api, found, spec()).await?,
            Identity::Refused(why) => Err(why),
        };
        let why = match found {
            Ok(object) => {
                let why = declared_gone(&object);
                return Ok((object, why));
            }
            Err(why) => why,
        };
        let reservations: Api<DiskReservation> = Api::all(self.client.clone());
        let recorded = cluster::list(&reservations, &ListParams::default()).await?;
        let name = placeholder_name(&self.node, DISK.0, all, &recorded);
        let goes_along = node_uid.filter(|_| self.setup.lifetime == Lifetime::Node).map(str::to_owned);
        let spec = NodeDiskSpec { node_uid: goes_along, ..self.setup.spec(&self.node, UNKNOWN_DISK) };
        let object = match all.iter().find(|there| there.name_any() == name && there.spec == spec) {
            Some(there) => there.clone(),
            None => cluster::apply(api, &NodeDisk::new(&name, spec), AGENT_MANAGER).await?,
        };
        Ok((object, Some(why)))
    }

    /// The NodeDisk of a disk that was elsewhere, or why the disk is not served meanwhile.
    async fn take_over(
        &self,
        api: &Api<NodeDisk>,
        found: &NodeDisk,
        spec: NodeDiskSpec,
    ) -> Result<Result<NodeDisk, String>, cluster::Error> {
        let name = found.name_any();
        let proof = self.sign(&disk_key::text(&name, &spec));
        if found.spec.node_name == self.node {
            let spec = NodeDiskSpec { key: found.spec.key.clone(), key_proof: proof, ..spec };
            return cluster::apply(api, &NodeDisk::new(&name, spec), AGENT_MANAGER).await.map(Ok);
        }
        let Some(proof) = proof.filter(|_| found.spec.key.is_some()) else {
            return Ok(Err(without_key(found)));
        };
        let request = json!({"nodeName": spec.node_name, "diskName": spec.disk_name, "proof": proof});
        match cluster::merge(api, &name, &json!({"spec": {"takeOver": request}})).await {
            Ok(()) => Ok(Err(format!("the controller was asked to move NodeDisk {name} to this node"))),
            Err(error) if error.is_forbidden() => Ok(Err(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn key_of(&self, object: &NodeDisk, is_served: bool) -> Option<String> {
        if !self.setup.has_keys || !is_served {
            return None;
        }
        let attested = disk_key::attested(object);
        let mut server = server::lock(&self.server);
        let key = |host: &mut Host| Some(host.disk.as_mut()?.public_key(attested, &mut server.random));
        self.on_host(key)
    }

    fn sign(&self, text: &str) -> Option<String> {
        self.on_host(|host| host.disk.as_ref().and_then(|disk| disk.sign(text)))
    }

    /// Bytes of volumes with an object, and of data without one; and that data. Receipts that are not needed any more go.
    async fn usage(&self, name: &str) -> Result<(u64, Vec<Orphan>), cluster::Error> {
        let receipts: Vec<String> = self.on_host(|host| host.receipts.iter().cloned().collect());
        let volumes = self.on_host(|host| host.records.clone());
        let on_it = ListParams::default().fields(&format!("status.nodeDisk={name}"));
        let all: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let known: BTreeSet<String> =
            cluster::list_metadata(&all, &on_it).await?.iter().filter_map(ResourceExt::uid).collect();
        let now = clock::true_time();
        let (mut orphans, mut kept) = (vec![], 0);
        for (uid, record) in &volumes {
            if known.contains(uid) || self.is_newborn(&all, uid, record).await? {
                kept += record.size.unwrap_or(0);
            } else if self.on_host(|host| host.records.contains_key(uid)) {
                kept += record.size.unwrap_or(0);
                let size = record.size.map_or_else(|| record.spec.size.clone(), Size::from_bytes);
                let mut spec = record.spec.clone();
                (spec.recover, spec.principal, spec.retire) =
                    (Some(Recover { uid: uid.clone() }), None, false);
                (spec.size, spec.sealed) = (size.clone(), matches!(record.seal, Seal::Sealed(_)));
                (spec.verify, spec.copies, spec.copy_of) = Default::default();
                orphans.push(Orphan {
                    uid: uid.clone(),
                    size,
                    problem: None,
                    name: record.name.clone(),
                    made_for: None,
                    labels: record.labels.clone(),
                    reservations: record.reserved.clone(),
                    spec: serde_json::to_value(spec).unwrap_or_default(),
                    kept: record.kept.clone().map(|kept| KeptOnDisk { over: kept.until.0 <= now, ..kept }),
                });
            }
        }
        self.on_host(|host| {
            host.receipts.retain(|uid| known.contains(uid) || !receipts.contains(uid));
        });
        Ok((kept, orphans))
    }

    /// As `newborn` of `agent/disks.rs`.
    async fn is_newborn(
        &self,
        api: &Api<SharedPersistentVolume>,
        uid: &str,
        record: &host::Record,
    ) -> Result<bool, cluster::Error> {
        if record.kept.is_some() || !record.name.starts_with(PVC_PREFIX) {
            return Ok(false);
        }
        let there = cluster::get(api, &record.name).await?;
        let Some(there) = there.filter(|there| there.metadata.uid.as_deref() == Some(uid)) else {
            return Ok(false);
        };
        let named = there.spec.reservation.as_deref().filter(|_| birth::node(&there).is_some());
        let Some(named) = named else {
            let on = there.status.as_ref().and_then(|status| status.node_disk.clone());
            return Ok(self.on_host(|host| on.is_some() && host.serves == on));
        };
        let reservation = cluster::get(&Api::all(self.client.clone()), named).await?;
        Ok(reservation.is_some_and(|reservation| birth::has_entry(&there, &reservation)))
    }

    /// As `agent/disks.rs`: `seen` is an error for a NodeDisk whose disk is no longer configured.
    async fn reconcile_disk(
        &self,
        api: &Api<NodeDisk>,
        mut object: NodeDisk,
        mut seen: Result<Seen, Option<String>>,
    ) -> Result<(), cluster::Error> {
        let name = object.name_any();
        let reservations: Api<DiskReservation> = Api::all(self.client.clone());
        let on_it = ListParams::default().fields(&format!("spec.nodeDisk={name}"));
        let found = match self.setup.has_static {
            true => cluster::list(&reservations, &on_it).await?,
            false => vec![],
        };
        loop {
            match node_disk::next(&object, seen.clone(), &found, clock::true_time()) {
                Step::Spec(spec) => {
                    object = cluster::apply(api, &NodeDisk::new(&name, *spec), AGENT_MANAGER).await?;
                    seen.iter_mut().for_each(|seen| seen.ours = None);
                }
                Step::Report { reservations: changes, status } => {
                    let failures = self.reserve(&reservations, &found, changes).await;
                    let status = node_disk::with_failures(&object, *status, &failures);
                    return cluster::write_status(api, &object, &status, AGENT_MANAGER).await.map(drop);
                }
            }
        }
    }

    /// As `agent/static_reservations.rs`.
    async fn reserve(
        &self,
        api: &Api<DiskReservation>,
        found: &[DiskReservation],
        changes: Changes,
    ) -> Vec<(String, String)> {
        let mut failures = Vec::new();
        for mut wanted in changes.apply {
            let there = found.iter().find(|there| there.name_any() == wanted.name_any());
            wanted.spec.principal = there.and_then(|there| there.spec.principal.clone());
            if let Err(error) = cluster::apply(api, &wanted, AGENT_MANAGER).await {
                failures.push((wanted.name_any(), error.to_string()));
            }
        }
        for old in changes.delete {
            if let Err(error) = cluster::delete(api, &old.name_any(), old.uid()).await {
                failures.push((old.name_any(), error.to_string()));
            }
        }
        failures
    }
}

/// The other NodeDisk of this node with the ID of the disk.
fn belongs_to(object: &NodeDisk, disk: Option<&Disk>, mine: &[NodeDisk]) -> Option<String> {
    let is_its = |other: &&NodeDisk| {
        Some(&other.spec.disk_id) == disk.map(|disk| &disk.id) && other.uid() != object.uid()
    };
    mine.iter().find(is_its).map(ResourceExt::name_any)
}

/// R2, at rest: the disks that are served have the static reservations of the configuration, and no others are left empty.
pub fn r2_static_reservations_are_as_configured(
    setup: &Setup,
    hosts: &BTreeMap<String, Host>,
    reservations: &[DiskReservation],
) -> Vec<String> {
    let mut broken = Vec::new();
    for (node, host) in hosts {
        // Admission lets an agent make them on disks with its own name (A7).
        let is_own = |disk: &&String| disk.rsplit_once('.').is_some_and(|(of, _)| of == node);
        let Some(disk) = host.serves.as_ref().filter(is_own) else { continue };
        let found: Vec<DiskReservation> =
            reservations.iter().filter(|of| of.spec.node_disk.as_ref() == Some(disk)).cloned().collect();
        let Changes { mut apply, delete, .. } = changes(disk, &setup.configured(host.agents), &found);
        // R6: what is used stays.
        let used = |name: &str| {
            found.iter().find(|of| of.name_any() == name).and_then(|of| of.status.as_ref()?.used.clone())
        };
        apply.retain(|wanted| {
            used(&wanted.name_any()).map_or(0, |used| used.bytes_or_zero())
                <= wanted.spec.size.bytes_or_zero()
        });
        let names = |all: &[DiskReservation]| all.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
        if !apply.is_empty() || !delete.is_empty() {
            let (apply, delete) = (names(&apply), names(&delete));
            broken.push(format!("R2: NodeDisk {disk} lacks {apply:?}, and has {delete:?} too many"));
        }
    }
    broken
}
