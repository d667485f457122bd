//! Measures the controller's writes, memory and time at a given size. `make bench-api`, docs/performance.md.
//!
//! The API server, its etcd and the controller are real, each a process of its own. Nodes, agents and the binder of
//! PersistentVolumeClaims are played here: they write what the real ones would write, at once. Where the writes of lives are
//! counted, agent and binder are real, too.

#[path = "../../tests/api_tier/support/mod.rs"]
#[allow(dead_code)]
mod support;

mod flood;
mod lives;
mod memory;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use reservoir::api::condition::{self, DISK_HEALTHY, READY, Verdict, reason};
use reservoir::api::{
    AGENT_MANAGER, BackingState, DiskReservation, LABEL_MANAGED_BY, MANAGED_BY, NodeDisk, RoleSubscription,
    SharedPersistentVolume, Size, VolumeClaim,
};
use reservoir::cluster::{Error, write_status};
use reservoir::plan::node_task::{OnDisk, Outcome, Recorded, Task, ending, next, release, report};
use reservoir_cluster::api::ApiOptions;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tracing_subscriber::filter::LevelFilter;

use support::{Cluster, until_reason};
use work::Done;

/// Measures the controller.
#[derive(Parser)]
struct Options {
    /// The parts to measure; all by default.
    parts: Vec<Part>,
    /// The number of volumes; a hundred to a node.
    #[arg(long, default_value_t = 500)]
    volumes: usize,
    /// The number of claims, evenly on the volumes.
    #[arg(long, default_value_t = 1500)]
    claims: usize,
    /// The number of pods, evenly on the claims.
    #[arg(long, default_value_t = 1500)]
    pods: usize,
    /// The number of claims that are timed at the end, one after another.
    #[arg(long, default_value_t = 100)]
    timed: usize,
    /// In how many volumes' lives at a time writes are counted, after one life alone; of PersistentVolumeClaims of a class half
    /// as many; 0: in none.
    #[arg(long, default_value_t = PER_NODE)]
    lives: usize,
    /// The number of claims that wait in one namespace while another's are timed.
    #[arg(long, default_value_t = 5000)]
    flood: usize,
    /// For how many seconds nothing happens.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// An argument of cargo's to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The writes of controller and agent in a volume's life.
    Lives,
    /// Rates and memory at the given size.
    Size,
    /// One namespace's flood of claims, and the time that another's take.
    Flood,
    /// Memory beside large objects of others.
    Memory,
}

/// The number of writes of a volume and its reservation until the volume is Ready: made, ledger, placed, backed, Ready.
const SAME: usize = 5;
const PER_NODE: usize = 100;
/// Requests of this program that are under way at once.
const AT_ONCE: usize = 16;

#[tokio::main]
async fn main() {
    let options = Options::parse();
    println!("{} volumes, {} claims, {} pods\n", options.volumes, options.claims, options.pods);
    println!("{:<64} {:>12} {:>10}", "", "measured", "wanted");
    // Errors while a server starts are expected.
    tracing_subscriber::fmt().with_max_level(LevelFilter::OFF).init();
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    if wanted(Part::Lives) && options.lives > 0 {
        lives::measure(options.lives, options.idle).await;
    }
    if wanted(Part::Size) {
        at_size(&options).await;
    }
    if wanted(Part::Flood) {
        flood::measure(&options).await;
    }
    if wanted(Part::Memory) {
        memory::measure().await;
    }
}

fn row(what: &str, measured: String, wanted: &str) {
    println!("{what:<64} {measured:>12} {wanted:>10}");
}

/// The controller as a process, which ends with this one.
struct Controller {
    child: Child,
    _kubeconfig: NamedTempFile,
}

impl Controller {
    fn start(cluster: &Cluster) -> Self {
        let mut kubeconfig = NamedTempFile::new().unwrap();
        serde_json::to_writer(&mut kubeconfig, &cluster.controller_kubeconfig()).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_reservoir"), "controller"])
            .args(["--namespace", "default", "--metrics-bind-address", "127.0.0.1:0"])
            .env("KUBECONFIG", kubeconfig.path())
            .env("RUST_LOG", "reservoir=warn")
            // As the chart does.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, _kubeconfig: kubeconfig }
    }

    fn memory(&self, field: &str) -> f64 {
        memory_of(self.child.id(), field)
    }
}

/// A number of `/proc/PID/status`, in MiB.
fn memory_of(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does `work` for every number below `count`, [`AT_ONCE`] at once.
async fn each<F: Future<Output = ()>>(count: usize, work: impl Fn(usize) -> F) {
    stream::iter(0..count).map(work).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

async fn make<K>(api: &Api<K>, object: Value)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn object(kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn a_volume(name: &str, group: usize) -> Value {
    let spec = json!({"role": format!("team-{group}"), "size": "16Mi", "shared": {}});
    object("SharedPersistentVolume", None, name, spec)
}

fn a_claim(name: &str, group: usize, volume: &str) -> Value {
    let spec = json!({"role": format!("team-{group}"), "volume": volume});
    object("VolumeClaim", Some(&namespace(group)), name, spec)
}

fn a_pod(name: &str, claim: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "none"}], "automountServiceAccountToken": false,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn namespace(group: usize) -> String {
    format!("team-{group}")
}

/// A node with a disk, its reservation, and a namespace that is subscribed to it.
async fn group(cluster: &Cluster, group: usize) {
    let (node, role) = (format!("n{group}"), namespace(group));
    cluster.node(&node, true).await;
    let disks: Api<NodeDisk> = cluster.all();
    let disk = format!("{node}.default");
    let spec = json!({"nodeName": node, "diskName": "default", "diskID": format!("{group:032}"), "kind": "Path",
        "backing": "Loop", "path": "/disk"});
    make(&disks, object("NodeDisk", None, &disk, spec)).await;
    // The controller may write the disk's summary between the read and the write.
    loop {
        let made = disks.get(&disk).await.unwrap();
        let mut status = made.status.clone().unwrap_or_default();
        status.capacity = Some(Size::from_bytes(1 << 40));
        status.allocatable = status.capacity.clone();
        let healthy = Verdict::yes(reason::DISK_HEALTHY, "it is played");
        condition::set(&mut status.conditions, DISK_HEALTHY, healthy, Some(1), Timestamp::now());
        let written = write_status(&disks, &made, &status, AGENT_MANAGER).await;
        if !matches!(written, Err(Error::Conflict(_))) {
            written.unwrap();
            break;
        }
    }
    cluster
        .apply_text(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": role}}).to_string())
        .await;
    let spec = json!({"roles": [role], "capabilities": ["SHARED_RESOURCES"]});
    make(&cluster.within::<RoleSubscription>(&role), object("RoleSubscription", Some(&role), "sub", spec))
        .await;
}

async fn reserve(cluster: &Cluster, group: usize) {
    let size = format!("{}Mi", 16 * PER_NODE);
    let spec = json!({"role": namespace(group), "size": size, "nodeDisk": format!("n{group}.default")});
    make(&cluster.all::<DiskReservation>(), object("DiskReservation", None, &namespace(group), spec)).await;
}

/// The cluster as the watches show it.
#[derive(Default)]
struct Seen {
    ready: BTreeSet<String>,
    users: BTreeMap<String, u32>,
    bound: BTreeSet<String>,
}

/// Watches the cluster, and plays agents and binder.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Seen>>);

impl World {
    /// Plays the agents: makes, fences and erases without a disk.
    fn play_agents(&self, client: &Client) {
        let (volumes, seen) = (Api::<SharedPersistentVolume>::all(client.clone()), self.0.clone());
        follow(volumes.clone(), watcher::Config::default(), move |volume: SharedPersistentVolume| {
            let status = volume.status.clone().unwrap_or_default();
            let mut seen = seen.lock().unwrap();
            let name = volume.name_any();
            if condition::is_true(&status.conditions, READY) {
                seen.ready.insert(name.clone());
            }
            seen.users.insert(name, status.user_count);
            let volumes = volumes.clone();
            async move {
                if let Some(status) = as_agent(&volume) {
                    // After a conflict the watch brings the object again.
                    let _ = write_status(&volumes, &volume, &status, AGENT_MANAGER).await;
                }
            }
        });
        let seen = self.0.clone();
        follow(
            Api::<VolumeClaim>::all(client.clone()),
            watcher::Config::default(),
            move |claim: VolumeClaim| {
                if condition::is_true(claim.status.as_ref().map_or(&[], |s| &s.conditions), READY) {
                    seen.lock().unwrap().bound.insert(claim.name_any());
                }
                async {}
            },
        );
    }

    /// Plays Kubernetes' controller that binds PersistentVolumeClaims.
    fn play_binder(&self, client: &Client) {
        let client = client.clone();
        let ours = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
        follow(Api::all(client.clone()), ours, move |pvc: PersistentVolumeClaim| {
            let claims: Api<PersistentVolumeClaim> =
                Api::namespaced(client.clone(), &pvc.namespace().unwrap_or_default());
            async move {
                if pvc.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
                    let requests = pvc.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref());
                    let bound = Patch::Merge(json!({"status": {"phase": "Bound", "capacity": requests}}));
                    claims.patch_status(&pvc.name_any(), &PatchParams::default(), &bound).await.unwrap();
                }
            }
        });
    }

    /// Waits without a timeout.
    async fn until(&self, done: impl Fn(&Seen) -> bool) {
        while !done(&self.0.lock().unwrap()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn follow<K, F>(api: Api<K>, config: watcher::Config, act: impl FnMut(K) -> F + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        watcher(api, config)
            .default_backoff()
            .filter_map(|event| async {
                match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => Some(object),
                    _ => None,
                }
            })
            .map(act)
            .buffer_unordered(AT_ONCE)
            .for_each(|()| async {})
            .await
    });
}

/// The status that the agent would write next, if any.
fn as_agent(volume: &SharedPersistentVolume) -> Option<reservoir::api::SharedPersistentVolumeStatus> {
    let before = volume.status.as_ref()?;
    before.node_name.as_ref()?;
    let node = before.node.clone().unwrap_or_default();
    let size = before.size.as_ref().map_or(0, Size::bytes_or_zero);
    let on_disk = match node.backing {
        BackingState::Made => OnDisk::Record(Recorded {
            fenced: node.fenced,
            size: node.size.as_ref().map(Size::bytes_or_zero),
            ..Default::default()
        }),
        _ => OnDisk::Nothing,
    };
    let task = next(volume, on_disk);
    let outcome = match task {
        Task::Make => Outcome::Made(size),
        Task::Fence => Outcome::Fenced { pods: vec![], in_use: false },
        Task::Unfence => Outcome::Untouched,
        Task::Erase => Outcome::Erased(size),
        Task::Keep => Outcome::Kept,
        Task::Rest => Outcome::Untouched,
        Task::Lost(_) | Task::Size(_) | Task::Seal(_) | Task::Verify | Task::MakeCopy | Task::Copy => {
            return None;
        }
    };
    let (mut status, _) = report(volume, task, outcome, Timestamp::now());
    release(volume, &mut status, ending(volume));
    (status.node != before.node).then_some(status)
}

/// Everybody's writes that the API server has done, without leases and events.
async fn writes_done(client: &Client) -> u64 {
    Done::now(client).await.writes()
}

/// The rate at which one client creates volumes and updates each so many times, `at_once` volumes at a time; and the API
/// server's work for that.
async fn raw_rate(cluster: &Cluster, count: usize, updates: usize, at_once: usize) -> (f64, Done) {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let (before, started) = (Done::now(&cluster.client).await, Instant::now());
    let one = |i: usize| {
        let volumes = volumes.clone();
        async move {
            let name = format!("raw-{i}");
            make(&volumes, a_volume(&name, 0)).await;
            for update in 0..updates {
                let conditions = json!([{"type": "Ready", "status": "True", "reason": "Backed",
                    "message": format!("it is raw {update}"), "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
                let status = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
                    "metadata": {"name": name}, "status": {"phase": "Ready", "nodeName": "n0",
                    "nodeDisk": "n0.default", "size": "16Mi", "node": {"backing": "Made"},
                    "conditions": conditions}});
                let params = PatchParams::apply("raw").force();
                volumes.patch_status(&name, &params, &Patch::Apply(&status)).await.unwrap();
            }
        }
    };
    stream::iter(0..count).map(one).buffer_unordered(at_once).collect::<Vec<()>>().await;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let work = Done::now(&cluster.client).await.since(&before);
    each(count, |i| {
        let volumes = volumes.clone();
        async move {
            let name = format!("raw-{i}");
            let strip = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            volumes.patch(&name, &PatchParams::default(), &strip).await.unwrap();
            volumes.delete(&name, &DeleteParams::default()).await.unwrap();
        }
    })
    .await;
    (rate, work)
}

/// Times a claim to each of these volumes, given with their groups, one after another.
async fn time_claims(
    cluster: &Cluster,
    world: &World,
    what: &str,
    volumes: &[(usize, String)],
    wanted: &str,
) {
    let mut times = Vec::new();
    for (i, (group, volume)) in volumes.iter().enumerate() {
        let name = format!("timed-{}-{i}", what.replace(' ', "-"));
        let started = Instant::now();
        make(&cluster.within::<VolumeClaim>(&namespace(*group)), a_claim(&name, *group, volume)).await;
        world.until(|seen| seen.bound.contains(&name)).await;
        times.push(started.elapsed());
    }
    times.sort();
    let at = |percent: usize| format!("{} ms", times[(times.len() - 1) * percent / 100].as_millis());
    row(&format!("{what}, from created to Bound, p50"), at(50), "");
    row(&format!("{what}, from created to Bound, p99"), at(99), wanted);
}

async fn at_size(options: &Options) {
    let cluster = Cluster::bare(ApiOptions::default()).await;
    let groups = options.volumes.div_ceil(PER_NODE);
    let count = options.volumes.min(1000);
    let (raw, _) = raw_rate(&cluster, count, 1, 1).await;
    let (raw_many, _) = raw_rate(&cluster, count, 1, AT_ONCE).await;
    let (raw_same, raw_work) = raw_rate(&cluster, count, SAME - 1, AT_ONCE).await;
    row("raw: volumes/s, 2 writes each, one at a time", format!("{raw:.0}"), "");
    row(&format!("raw: volumes/s, 2 writes each, {AT_ONCE} at a time"), format!("{raw_many:.0}"), "");
    row(&format!("raw: volumes/s, {SAME} writes each, {AT_ONCE} at a time"), format!("{raw_same:.0}"), "");
    raw_work.print(count);

    each(groups, |i| group(&cluster, i)).await;
    let world = World::default();
    world.play_agents(&cluster.client);
    world.play_binder(&cluster.client);
    let controller = Controller::start(&cluster);
    each(groups, |i| reserve(&cluster, i)).await;
    for i in 0..groups {
        until_reason(&cluster.all::<DiskReservation>(), &namespace(i), "Ready").await;
    }

    let per_second = |count: usize, started: Instant| count as f64 / started.elapsed().as_secs_f64();
    let (before, started) = (Done::now(&cluster.client).await, Instant::now());
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    // Successive volumes are in different groups.
    let group_of = |i: usize| i % groups;
    each(options.volumes, |i| make(&volumes, a_volume(&format!("v{i}"), group_of(i)))).await;
    world.until(|seen| seen.ready.len() == options.volumes).await;
    let rate = per_second(options.volumes, started);
    let work = Done::now(&cluster.client).await.since(&before);
    row("volumes/s from created to Ready", format!("{rate:.0}"), "");
    row("  against raw, 2 writes each, one at a time", format!("{:.2}", rate / raw), "");
    row(&format!("  against raw, 2 writes each, {AT_ONCE} at a time"), format!("{:.2}", rate / raw_many), "");
    row(
        &format!("  against raw, {SAME} writes each, {AT_ONCE} at a time"),
        format!("{:.2}", rate / raw_same),
        ">= 0.8",
    );
    work.print(options.volumes);
    row("  memory of the controller, MiB", format!("{:.0}", controller.memory("VmRSS")), "");

    let (started, before) = (Instant::now(), writes_done(&cluster.client).await);
    each(options.claims, |i| {
        let volume = i % options.volumes;
        let claims: Api<VolumeClaim> = cluster.within(&namespace(group_of(volume)));
        async move { make(&claims, a_claim(&format!("c{i}"), group_of(volume), &format!("v{volume}"))).await }
    })
    .await;
    world.until(|seen| seen.bound.len() == options.claims).await;
    let written = writes_done(&cluster.client).await - before;
    row("claims/s from created to Bound", format!("{:.0}", per_second(options.claims, started)), "");
    row("  writes of everybody per claim", format!("{:.1}", written as f64 / options.claims as f64), "");
    row("  memory of the controller, MiB", format!("{:.0}", controller.memory("VmRSS")), "");

    let started = Instant::now();
    each(options.pods, |i| {
        let claim = i % options.claims;
        let pods: Api<Pod> = cluster.within(&namespace(group_of(claim % options.volumes)));
        async move { make(&pods, a_pod(&format!("p{i}"), &format!("c{claim}"))).await }
    })
    .await;
    world.until(|seen| seen.users.values().sum::<u32>() as usize == options.pods).await;
    row("pods/s from created to counted", format!("{:.0}", per_second(options.pods, started)), "");
    row(
        "memory of the controller after all that, MiB",
        format!("{:.0}", controller.memory("VmRSS")),
        "<= 150",
    );
    row("  at most, MiB", format!("{:.0}", controller.memory("VmHWM")), "");

    let volumes: Vec<(usize, String)> =
        (0..options.timed).map(|i| (group_of(i), format!("v{}", i % options.volumes))).collect();
    time_claims(&cluster, &world, "one more claim", &volumes, "").await;

    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = writes_done(&cluster.client).await;
    tokio::time::sleep(Duration::from_secs(options.idle)).await;
    let in_vain = writes_done(&cluster.client).await - before;
    row(
        &format!("writes of everybody in {} s in which nothing happens", options.idle),
        in_vain.to_string(),
        "0",
    );

    drop(controller);
    let started = Instant::now();
    let controller = Controller::start(&cluster);
    // The controller looks at everything once, and finds nothing to do.
    let before = writes_done(&cluster.client).await;
    let mut cpu = controller.cpu();
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = controller.cpu();
        if now - cpu < 0.2 && now > 0.0 {
            break;
        }
        cpu = now;
    }
    row("a controller that starts anew: s until it is idle", started.elapsed().as_secs().to_string(), "");
    row("  seconds of CPU", format!("{:.1}", controller.cpu()), "");
    row("  writes", (writes_done(&cluster.client).await - before).to_string(), "0");
    row("  its memory, MiB", format!("{:.0}", controller.memory("VmRSS")), "<= 150");
    row("  at most, MiB", format!("{:.0}", controller.memory("VmHWM")), "");
}

impl Controller {
    /// Seconds of CPU that it has used.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}
