//! The agent of a node: its decisions are those of `plan`, its requests those of `cluster`, and its host is a model.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use reservoir::api::condition::stored;
use reservoir::api::{
    AGENT_MANAGER, BackingKind, BackingState, DiskKind, DiskReservation, EnforcementState, KeptOnDisk,
    NodeDisk, NodeDiskSpec, Orphan, PodRef, Recover, SharedPersistentVolume, Size,
};
use reservoir::cluster::{self, CacheConfig, Change, Name, WorkQueue, cache, run_workers};
use reservoir::plan::disk_identity::{Identity, Stored, identify};
use reservoir::plan::kept;
use reservoir::plan::node_disk::{self, Seen, Step};
use reservoir::plan::node_task::{self, OnDisk, Outcome, Recorded, Task};
use reservoir::plan::publish::{Permit, Request, authorise};
use reservoir::plan::resize::OnNode;
use reservoir::plan::{seal, verify};

use crate::clock;
use crate::host::{self, Host, Hosts, Mount, Record};
use crate::rules;
use crate::seals::{Readings, Seal};
use crate::server::{self, Shared};

const DISK_ERROR: &str = "Input/output error";

/// Name and path of the only disk in the configuration of every node.
const DISK: (&str, &str) = ("default", "/var/lib/reservoir");

/// The parts of an agent.
#[derive(Clone)]
pub struct Agent {
    pub node: String,
    pub client: Client,
    pub hosts: Hosts,
    pub server: Shared,
    pub readings: Readings,
}

/// What a kubelet asks for.
pub struct Publish<'a> {
    pub pod: PodRef,
    pub volume: &'a str,
    pub handle: &'a str,
    pub target: &'a str,
    pub read_only: bool,
    /// False if the PersistentVolume is for one pod alone.
    pub several_pods: bool,
}

impl Agent {
    /// Runs until it is dropped, as agents do that are killed.
    pub async fn run(self) {
        while self.report().await.is_err() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::join!(self.report_periodically(), self.reconcile_volumes());
    }

    pub fn on_host<T>(&self, work: impl FnOnce(&mut Host) -> T) -> T {
        work(host::lock(&self.hosts).entry(self.node.clone()).or_default())
    }

    /// Changes the record of a volume. Until the change is on stable storage, a power cut can undo it.
    pub async fn record<T>(&self, uid: &str, change: impl FnOnce(&mut Host) -> T) -> T {
        let changed = self.on_host(change);
        let pause = server::lock(&self.server).random.below(40);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self.on_host(|host| host.sync(uid));
        changed
    }

    /// True if the disk answers with an error.
    pub fn fails(&self) -> bool {
        let often = self.on_host(|host| host.failing);
        often > 0 && server::lock(&self.server).random.in_a_thousand(often)
    }

    /// Work on a disk takes time, in which the agent may be killed.
    async fn work(&self) {
        let pause = server::lock(&self.server).random.below(400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    pub fn tell(&self, line: impl FnOnce() -> String) {
        server::lock(&self.server).tell(|| format!("agent {}: {}", self.node, line()));
    }

    async fn report_periodically(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let _ = self.report().await;
        }
    }

    /// As `agent/disks.rs`.
    async fn report(&self) -> Result<(), cluster::Error> {
        let api: Api<NodeDisk> = Api::all(self.client.clone());
        let Some(disk) = self.on_host(|host| host.disk.clone()) else { return Ok(()) };
        let all = cluster::list(&api, &ListParams::default()).await?;
        let stored = Stored { id: &disk, attested_key: None };
        let find =
            |recorded: &[_]| identify(&self.node, DISK.0, DISK.1, &[DISK.0], Ok(stored), &all, recorded);
        let mut identity = find(&[]);
        if matches!(identity, Identity::New(_)) {
            let api: Api<DiskReservation> = Api::all(self.client.clone());
            identity = find(&cluster::list(&api, &ListParams::default()).await?);
        }
        let found = match identity {
            Identity::Known(known) if known.spec.disk_id == disk => known.clone(),
            Identity::New(name) => {
                cluster::apply(&api, &NodeDisk::new(&name, self.spec(&disk)), AGENT_MANAGER).await?
            }
            // Without a key, a person says that the disk is here for good.
            _ => return Ok(()),
        };
        let name = found.name_any();
        self.on_host(|host| host.serves = Some(name.clone()));
        let receipts: Vec<String> = self.on_host(|host| host.receipts.iter().cloned().collect());
        let volumes = self.on_host(|host| host.records.clone());
        let on_it = ListParams::default().fields(&format!("status.nodeDisk={name}"));
        let all: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let known: BTreeSet<String> =
            cluster::list_metadata(&all, &on_it).await?.iter().filter_map(ResourceExt::uid).collect();
        let now = clock::true_time();
        let (mut orphans, mut kept) = (vec![], 0);
        for (uid, record) in &volumes {
            if known.contains(uid) {
                kept += record.size.unwrap_or(0);
            } else if self.on_host(|host| host.records.contains_key(uid)) {
                kept += record.size.unwrap_or(0);
                let size = record.size.map_or_else(|| record.spec.size.clone(), Size::from_bytes);
                let mut spec = record.spec.clone();
                (spec.recover, spec.principal, spec.retire) =
                    (Some(Recover { uid: uid.clone() }), None, false);
                (spec.size, spec.sealed) = (size.clone(), matches!(record.seal, Seal::Sealed(_)));
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
        let seen = Seen {
            ours: Some(self.spec(&disk)),
            configured: vec![],
            capacity: host::CAPACITY,
            system_reserved: 0,
            allocatable: host::CAPACITY,
            free: self.on_host(|host| host.free()),
            kept,
            keeps_read_only: Some(true),
            enforcement: Some((EnforcementState::Proven, "ENOSPC".into())),
            orphans,
            error: None,
            node_uid: None,
            other_disk: None,
            belongs_to: None,
            devices: None,
        };
        let reservations: Vec<DiskReservation> = vec![];
        match node_disk::next(&found, Ok(seen), &reservations, now) {
            Step::Spec(spec) => {
                cluster::apply(&api, &NodeDisk::new(&name, *spec), AGENT_MANAGER).await?;
            }
            Step::Report { status, .. } => {
                drop(cluster::write_status(&api, &found, &status, AGENT_MANAGER).await?)
            }
        }
        Ok(())
    }

    fn spec(&self, disk: &str) -> NodeDiskSpec {
        NodeDiskSpec {
            node_name: self.node.clone(),
            disk_name: DISK.0.into(),
            disk_id: disk.to_owned(),
            kind: DiskKind::Path,
            backing: BackingKind::Loop,
            path: DISK.1.into(),
            adopt_roots: vec![],
            allow_unenforced: false,
            key: None,
            key_proof: None,
            take_over: None,
            lifetime: Default::default(),
            node_grace_seconds: None,
            node_uid: None,
            gone: false,
        }
    }

    /// As `agent/run.rs`.
    async fn reconcile_volumes(&self) {
        let api: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let mine = watcher::Config::default().fields(&format!("status.nodeName={}", self.node));
        let (queue, names) = WorkQueue::<SharedPersistentVolume>::new();
        let changed = move |change: Change<_>| queue.enqueue_name(change.name.clone());
        let kept =
            CacheConfig { keep: |v: SharedPersistentVolume| Some(Name::from(v.spec.role)), keys: |_, _| {} };
        let (tenants, task) = cache(api.clone(), mine, kept, changed, || {});
        let reconcile = |name: Name| {
            let api = api.clone();
            async move {
                let Some(volume) = cluster::get(&api, &name).await? else { return Ok(None) };
                if volume.status.as_ref().and_then(|status| status.node_name.as_deref()) != Some(&self.node) {
                    return Ok(None);
                }
                self.reconcile(&api, &volume).await
            }
        };
        let tenant =
            |name: &Name| tenants.get(name).map_or_else(|| name.clone(), |tenant| Name::clone(&tenant));
        tokio::join!(
            task,
            run_workers::<SharedPersistentVolume, _>(names, 4, Default::default(), tenant, reconcile)
        );
    }

    /// As `agent/volumes.rs`.
    async fn reconcile(
        &self,
        api: &Api<SharedPersistentVolume>,
        volume: &SharedPersistentVolume,
    ) -> Result<Option<Duration>, cluster::Error> {
        let uid = volume.uid().unwrap_or_default();
        let ended = [BackingState::Erased, BackingState::Kept];
        if volume.status.as_ref().and_then(|s| s.node.as_ref()).is_some_and(|n| ended.contains(&n.backing)) {
            return Ok(None);
        }
        let is_served = self.on_host(|host| {
            host.serves.is_some() && host.serves == volume.status.as_ref().and_then(|s| s.node_disk.clone())
        });
        let on_disk = match is_served && !self.fails() {
            true => Some(match self.look(volume, &uid).await? {
                OnDisk::Record(record) => {
                    let verify = verify::is_due(volume, None, clock::true_time());
                    OnDisk::Record(Recorded { verify, ..record })
                }
                other => other,
            }),
            false => None,
        };
        let mut unmounted = if on_disk.is_some() { node_task::ending(volume) } else { vec![] };
        self.on_host(|host| {
            unmounted.retain(|claim| {
                !host.publishing.contains(claim) && !host.mounts.values().any(|mount| mount.claim == *claim)
            });
        });
        let task = on_disk.map_or(Task::Rest, |on_disk| node_task::next(volume, on_disk));
        if on_disk.is_some() && task != Task::Seal(seal::Step::Read) {
            self.readings.stop(&uid);
        }
        let outcome = match on_disk {
            Some(on_disk) => self.perform(task, volume, &uid, on_disk).await,
            None => Outcome::Failed(DISK_ERROR.into()),
        };
        let (mut status, pause) = node_task::report(volume, task, outcome, clock::true_time());
        let pause = node_task::release(volume, &mut status, unmounted).or(pause);
        cluster::write_status(api, volume, &status, AGENT_MANAGER).await?;
        if task == Task::Unfence {
            let lift = |record: &mut Record| (record.fenced, record.kept) = (false, None);
            self.record(&uid, |host| host.records.get_mut(&uid).filter(|r| !r.erasing).map(lift)).await;
            self.tell(|| format!("lifts the fence of {}", volume.name_any()));
        }
        Ok(pause)
    }

    async fn look(&self, volume: &SharedPersistentVolume, uid: &str) -> Result<OnDisk, cluster::Error> {
        let found = self.on_host(|host| host.look(uid));
        let recovers = volume.spec.recover.as_ref().map(|recover| recover.uid.clone());
        let (true, OnDisk::Nothing, Some(from)) =
            (volume.metadata.deletion_timestamp.is_some(), found, recovers)
        else {
            return Ok(found);
        };
        let fits = self.on_host(|host| {
            host.records.get(&from).is_some_and(|data| data.spec.role == volume.spec.role && !data.erasing)
        });
        Ok(if fits && self.owner_of(&from).await?.is_none() { OnDisk::NotInherited } else { found })
    }

    async fn owner_of(&self, from: &str) -> Result<Option<String>, cluster::Error> {
        let api: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let all = cluster::list_metadata(&api, &ListParams::default()).await?;
        Ok(all.iter().find(|owner| owner.metadata.uid.as_deref() == Some(from)).map(ResourceExt::name_any))
    }

    async fn perform(
        &self,
        task: Task,
        volume: &SharedPersistentVolume,
        uid: &str,
        on_disk: OnDisk,
    ) -> Outcome {
        let name = volume.name_any();
        match task {
            Task::Fence | Task::Erase if matches!(on_disk, OnDisk::Nothing | OnDisk::NotInherited) => {
                Outcome::NoRecord
            }
            Task::Rest | Task::Unfence | Task::Size(OnNode::Announce(_) | OnNode::Withdraw) => {
                Outcome::Untouched
            }
            Task::Seal(step) => Outcome::Seal(self.seal(step, uid).await),
            Task::Verify => {
                let request = volume.spec.verify.clone();
                Outcome::Verify(verify::Outcome::Read { request, differ: 0, first: vec![] })
            }
            Task::Lost(_) => Outcome::NoRecord,
            Task::Make => {
                if let (Some(Recover { uid: from }), OnDisk::Nothing | OnDisk::NotInherited) =
                    (&volume.spec.recover, on_disk)
                {
                    match self.owner_of(from).await {
                        Ok(None) => {}
                        Ok(Some(owner)) => return Outcome::Failed(node_task::has_owner(from, &owner)),
                        Err(error) => return Outcome::Failed(error.to_string()),
                    }
                }
                if let Err(why) = self.record(uid, |host| host.begin(volume)).await {
                    return Outcome::Failed(why);
                }
                self.work().await;
                if self.fails() {
                    return Outcome::Failed(DISK_ERROR.into());
                }
                let status = volume.status.clone().unwrap_or_default();
                let bytes = status.size.as_ref().unwrap_or(&volume.spec.size).bytes_or_zero();
                let made = self.record(uid, |host| host.make(uid, bytes)).await;
                self.tell(|| format!("makes {name}: {made:?}"));
                made.map_or_else(Outcome::Failed, Outcome::Made)
            }
            Task::Size(OnNode::Resize(bytes)) => {
                let begin = |record: &mut Record| record.resizing = true;
                self.record(uid, |host| host.records.get_mut(uid).map(begin)).await;
                self.work().await;
                if self.fails() {
                    return Outcome::NotResized(DISK_ERROR.into());
                }
                let resized = self.record(uid, |host| host.resize(uid, bytes)).await;
                self.tell(|| format!("resizes {name} to {bytes}: {resized:?}"));
                resized.map_or_else(Outcome::NotResized, |()| Outcome::Resized(bytes))
            }
            Task::Fence => {
                let fence = |record: &mut Record| record.fenced = true;
                self.record(uid, |host| host.records.get_mut(uid).map(fence)).await;
                let mounted =
                    |host: &mut Host| host.mounts_of(uid).into_iter().map(|m| m.pod.clone()).collect();
                let fenced: Vec<PodRef> = self.on_host(mounted);
                self.tell(|| format!("fences {name}, which {} pods have mounted", fenced.len()));
                Outcome::Fenced { in_use: !fenced.is_empty(), pods: fenced }
            }
            Task::Keep => {
                let since = clock::true_time();
                let until = kept::until(volume, since).map_or(since, |until| until.0);
                let kept = KeptOnDisk { since: stored(since), until: stored(until), over: false };
                let keep = |record: &mut Record| record.kept = Some(kept);
                self.record(uid, |host| host.records.get_mut(uid).map(keep)).await;
                self.tell(|| format!("keeps the data of {name} until {until}"));
                Outcome::Kept
            }
            Task::Erase => {
                if self.on_host(|host| !host.mounts_of(uid).is_empty()) {
                    return Outcome::Failed("it is mounted".into());
                }
                rules::before_erase(&self.server, &self.node, uid, volume);
                let begin = |record: &mut Record| record.erasing = true;
                self.record(uid, |host| host.records.get_mut(uid).map(begin)).await;
                self.work().await;
                if self.fails() {
                    return Outcome::Failed(DISK_ERROR.into());
                }
                self.record(uid, |host| host.receipts.insert(uid.to_owned())).await;
                let bytes = self.record(uid, |host| host.erased(uid)).await;
                self.tell(|| format!("erases {bytes} bytes of {name}"));
                Outcome::Erased(bytes)
            }
        }
    }

    /// As `agent/publish.rs`: the volume is read live, and the publish is under way from before that read until its end.
    pub async fn publish(&self, asked: Publish<'_>) -> Result<(), String> {
        let (volume_uid, claim_uid) = asked.handle.split_once('.').ok_or("no handle")?;
        let (agents, is_there) = self.on_host(|host| {
            host.publishing.push(claim_uid.to_owned());
            (host.agents, host.has_agent)
        });
        if !is_there {
            self.on_host(|host| host.publishing.clear());
            return Err("no agent answers".into());
        }
        let published = self.published(agents, asked, (volume_uid, claim_uid)).await;
        self.on_host(|host| {
            let at = host.publishing.iter().position(|claim| claim == claim_uid);
            at.into_iter().for_each(|at| drop(host.publishing.swap_remove(at)));
        });
        published
    }

    async fn published(
        &self,
        agents: u64,
        asked: Publish<'_>,
        (volume_uid, claim_uid): (&str, &str),
    ) -> Result<(), String> {
        let Publish { pod, volume: name, target, read_only, several_pods, .. } = asked;
        let api: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let read = tokio::time::timeout(Duration::from_secs(30), cluster::get(&api, name)).await;
        let volume = read.map_err(|late| late.to_string())?.map_err(|error| error.to_string())?;
        let request = Request {
            volume: name,
            volume_uid,
            claim_uid,
            node: &self.node,
            namespace: &pod.namespace,
            read_only,
            keeps_read_only: true,
            block: false,
            several_pods,
            fs_type: "",
            mount_options: &[],
        };
        let Permit { mode, with_others } =
            authorise(volume.as_ref(), request).map_err(|why| why.to_string())?;
        self.work().await;
        if self.fails() {
            return Err(DISK_ERROR.into());
        }
        let (volume, claim) = (volume_uid.to_owned(), claim_uid.to_owned());
        let mount = Mount { volume, pod: pod.clone(), claim, mode, several_pods };
        self.on_host(|host| match host.agents == agents && host.has_agent {
            true => host.publish(target, mount.clone(), with_others),
            false => Err("the agent died".into()),
        })?;
        self.tell(|| format!("mounts {name} into pod {}/{} {mode:?}", pod.namespace, pod.name));
        rules::after_publish(&self.server, &self.hosts, &self.node, &mount);
        Ok(())
    }
}
