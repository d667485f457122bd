//! The agent of a node: its decisions are those of `plan`, its requests those of `cluster`, and its host is a model.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use reservoir::api::condition::stored;
use reservoir::api::{
    AGENT_MANAGER, BackingState, DiskReservation, KeptOnDisk, PodRef, Recover, SharedPersistentVolume,
};
use reservoir::cluster::{self, CacheConfig, Change, Name, WorkQueue, cache, run_workers};
use reservoir::plan::node_task::{self, OnDisk, Outcome, Recorded, Task};
use reservoir::plan::publish::{Permit, Refusal, Request, authorise, disk_not_served, local_copy};
use reservoir::plan::resize::OnNode;
use reservoir::plan::{birth, fullness, held_by, kept, seal, verify};

use crate::clock;
use crate::copies::Failures;
use crate::host::{self, Host, Hosts, Mount, Record};
use crate::rules;
use crate::seals::Readings;
use crate::server::{self, Shared};
use crate::setup::Setup;

pub const DISK_ERROR: &str = "Input/output error";

/// The part of a volume that the agent keeps.
#[derive(Clone)]
struct Seen {
    tenant: Name,
    at_rest: bool,
}

/// The parts of an agent.
#[derive(Clone)]
pub struct Agent {
    pub node: String,
    pub client: Client,
    pub hosts: Hosts,
    pub server: Shared,
    pub readings: Readings,
    pub failures: Failures,
    pub setup: Setup,
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
    /// True if the pod gets the device.
    pub block: bool,
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

    /// As `agent/run.rs`.
    async fn reconcile_volumes(&self) {
        let api: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let mine = watcher::Config::default().fields(&format!("status.nodeName={}", self.node));
        let (queue, names) = WorkQueue::<SharedPersistentVolume>::new();
        let queue = Arc::new(queue);
        let restless = Arc::new(Mutex::new(BTreeSet::new()));
        let (to, is_restless) = (queue.clone(), restless.clone());
        let changed = move |change: Change<Seen>| {
            let rested = [change.before, change.now].iter().all(|seen| seen.is_some_and(|seen| seen.at_rest));
            if !rested || server::lock(&is_restless).contains(change.name) {
                to.enqueue_name(change.name.clone());
            }
        };
        let kept = CacheConfig {
            keep: |v: SharedPersistentVolume| {
                Some(Seen { at_rest: node_task::is_at_rest(&v), tenant: v.spec.role.into() })
            },
            keys: |_, _| {},
        };
        let (tenants, task) = cache(api.clone(), mine.clone(), kept, changed, || {});
        let to = queue.clone();
        let entered = move |change: Change<DiskReservation>| {
            birth::entered(change.before, change.now).for_each(|name| to.enqueue_name(name));
        };
        let kept = CacheConfig { keep: |of| Some(birth::ledger(of)), keys: |_, _| {} };
        let (ledgers, follow_ledgers) = cache(Api::all(self.client.clone()), mine, kept, entered, || {});
        let reconcile = |name: Name| {
            let (api, ledgers, restless) = (api.clone(), ledgers.clone(), restless.clone());
            async move {
                let ledgers = ledgers.all();
                let found = cluster::get(&api, &name).await?;
                match found.as_ref().is_some_and(|volume| !node_task::is_at_rest(volume)) {
                    true => server::lock(&restless).insert(name),
                    false => server::lock(&restless).remove(&name),
                };
                let Some(mut volume) = found else { return Ok(None) };
                if volume.status.as_ref().and_then(|status| status.node_name.as_deref()) != Some(&self.node) {
                    let Some(born) = birth::on_node(volume, &self.node, &ledgers) else { return Ok(None) };
                    volume = born;
                }
                self.reconcile(&api, &volume).await
            }
        };
        let tenant =
            |name: &Name| tenants.get(name).map_or_else(|| name.clone(), |volume| volume.tenant.clone());
        tokio::join!(
            task,
            follow_ledgers,
            self.report_refused(&queue),
            run_workers::<SharedPersistentVolume, _>(names, 4, Default::default(), tenant, reconcile)
        );
    }

    /// A volume with refused readers is looked at (F2).
    async fn report_refused(&self, queue: &WorkQueue<SharedPersistentVolume>) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let news = self.on_host(|host| std::mem::take(&mut host.news));
            news.into_iter().for_each(|name| queue.enqueue_name(name));
        }
    }

    /// As `agent/refused_readers.rs`.
    fn note_refused(&self, volume: &str, pod: &PodRef) {
        self.on_host(|host| {
            let pods = host.refused.entry(volume.to_owned()).or_default();
            if !pods.iter().any(|(known, _)| known == pod) {
                host.news.insert(volume.to_owned());
            }
            pods.retain(|(known, _)| known != pod);
            pods.push((pod.clone(), tokio::time::Instant::now()));
        });
    }

    fn refused_of(&self, volume: &str) -> Vec<PodRef> {
        self.on_host(|host| {
            for pods in host.refused.values_mut() {
                pods.retain(|(_, at)| at.elapsed() < Duration::from_secs(300));
            }
            host.refused.retain(|_, pods| !pods.is_empty());
            host.refused.get(volume).into_iter().flatten().map(|(pod, _)| pod.clone()).collect()
        })
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
        let is_measured = on_disk.is_some_and(|on_disk| node_task::is_measured(volume, on_disk));
        let task = on_disk.map_or(Task::Rest, |on_disk| node_task::next(volume, on_disk));
        if on_disk.is_some() && !matches!(task, Task::Seal(seal::Step::Read) | Task::Copy) {
            self.readings.stop(&uid);
        }
        let outcome = match on_disk {
            Some(on_disk) => self.perform(task, volume, &uid, on_disk).await,
            None => Outcome::Failed(DISK_ERROR.into()),
        };
        let (mut status, pause) = node_task::report(volume, task, outcome, clock::true_time());
        let pause = node_task::release(volume, &mut status, unmounted).or(pause);
        if node_task::is_held(volume, &status) {
            let holders = self.on_host(|host| host.held.get(&uid).cloned());
            node_task::hold(&mut status, holders.into_iter().collect());
        }
        let pause = node_task::refuse(&mut status, self.refused_of(&volume.name_any())).or(pause);
        let measured = self.on_host(|host| host.measure(&uid)).filter(|_| is_measured);
        if let Some(measured) = measured {
            fullness::update(volume, &mut status, measured, clock::true_time());
        }
        cluster::write_status(api, volume, &status, AGENT_MANAGER).await?;
        let events = [seal::event(volume, &status), verify::event(volume, &status)];
        for (reason, message) in events.into_iter().flatten() {
            self.tell(|| format!("event {reason}: {message}"));
        }
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
            Task::Copy => {
                let made = match on_disk {
                    OnDisk::Record(Recorded { size: Some(bytes), .. }) => Outcome::Made(bytes),
                    _ => Box::pin(self.perform(Task::MakeCopy, volume, uid, on_disk)).await,
                };
                match made {
                    Outcome::Made(bytes) => Outcome::Copied(bytes, self.fill(volume, uid).await),
                    failed => failed,
                }
            }
            Task::Verify => {
                let request = volume.spec.verify.clone();
                let differ =
                    self.on_host(|host| host.records.get(uid).is_some_and(|record| record.is_rotten));
                let first = Vec::from_iter(differ.then(|| "data: its bytes differ".to_owned()));
                match self.fails() {
                    true => Outcome::Verify(verify::Outcome::Failed(DISK_ERROR.into())),
                    false => Outcome::Verify(verify::Outcome::Read { request, differ: differ.into(), first }),
                }
            }
            Task::Lost(_) => Outcome::NoRecord,
            Task::Make | Task::MakeCopy => {
                if let (Some(Recover { uid: from }), OnDisk::Nothing | OnDisk::NotInherited) =
                    (&volume.spec.recover, on_disk)
                {
                    match self.owner_of(from).await {
                        Ok(None) => {}
                        Ok(Some(owner)) => return Outcome::Failed(node_task::has_owner(from, &owner)),
                        Err(error) => return Outcome::Failed(error.to_string()),
                    }
                }
                rules::before_make(&self.server, &self.node, uid);
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
                let is_held = self.on_host(|host| host.held.contains_key(uid));
                self.tell(|| format!("fences {name}, which {} pods have mounted", fenced.len()));
                Outcome::Fenced { in_use: is_held || !fenced.is_empty(), pods: fenced }
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
                if let Some(process) = self.on_host(|host| host.held.get(uid).cloned()) {
                    return Outcome::Failed(format!("it is held by {}", held_by::by(&[process], &[])));
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
        let Publish { pod, volume: name, target, read_only, several_pods, block, .. } = asked;
        let api: Api<SharedPersistentVolume> = Api::all(self.client.clone());
        let read = async {
            let volume = cluster::get(&api, name).await?;
            let copies = cluster::copies_on(&self.node, volume.as_ref(), &self.client).await?;
            Ok::<_, cluster::Error>((volume, copies))
        };
        let read = tokio::time::timeout(Duration::from_secs(30), read).await;
        let (volume, copies) = read.map_err(|late| late.to_string())?.map_err(|error| error.to_string())?;
        let copy = match self.on_host(|host| host.mounts.get(target).map(|there| there.volume.clone())) {
            // A pod keeps what it has.
            Some(there) => copies.iter().find(|copy| copy.metadata.uid.as_ref() == Some(&there)),
            None => volume.as_ref().and_then(|volume| local_copy(volume, &copies, &self.node)),
        };
        let mounted = copy.or(volume.as_ref());
        let mounted_uid = copy.and_then(ResourceExt::uid).unwrap_or_else(|| volume_uid.to_owned());
        let request = Request {
            has_copy: copy.is_some(),
            volume: name,
            volume_uid,
            claim_uid,
            node: &self.node,
            namespace: &pod.namespace,
            read_only,
            keeps_read_only: self.setup.keeps_read_only
                || self.on_host(|host| host.refuses_writes(&mounted_uid)),
            block,
            several_pods,
            fs_type: "",
            mount_options: &[],
        };
        let Permit { mode, with_others } = authorise(volume.as_ref(), request).map_err(|why| {
            if matches!(why, Refusal::SayReadOnly(_)) {
                self.note_refused(&mounted.map_or_else(|| name.to_owned(), ResourceExt::name_any), &pod);
            }
            why.to_string()
        })?;
        self.work().await;
        if self.fails() {
            return Err(DISK_ERROR.into());
        }
        if let Some(message) = volume.as_ref().and_then(|v| seal::on_pod(v, claim_uid, read_only)) {
            self.tell(|| format!("event of the pod: {message}"));
        }
        if self.on_host(|host| host.serves.is_none())
            && let Some(volume) = mounted
        {
            let disk = volume.status.as_ref().and_then(|status| status.node_disk.as_deref());
            return Err(disk_not_served(volume, disk.unwrap_or_default(), &self.node));
        }
        let digest = copy.and(volume.as_ref()).and_then(|of| of.status.as_ref()?.digest.as_deref());
        let (of, claim) = (volume_uid.to_owned(), claim_uid.to_owned());
        let mount = Mount { volume: mounted_uid, of, pod: pod.clone(), claim, mode, several_pods };
        self.on_host(|host| match host.agents == agents && host.has_agent {
            true => host.publish(target, mount.clone(), with_others, digest),
            false => Err("the agent died".into()),
        })?;
        let name = mounted.map_or_else(|| name.to_owned(), ResourceExt::name_any);
        self.tell(|| format!("mounts {name} into pod {}/{} {mode:?}", pod.namespace, pod.name));
        rules::after_publish(&self.server, &self.hosts, &self.node, &mount);
        Ok(())
    }
}
