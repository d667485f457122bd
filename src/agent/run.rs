//! Runs the agent.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::config::Config;
use super::containers::Containers;
use super::context::Context;
use super::copies;
use super::copying::Copying;
use super::disks::Disks;
use super::kubelet;
use super::metrics::NodeGauges;
use super::publish::Node;
use super::volumes;
use crate::api::{DiskReservation, SharedPersistentVolume};
use crate::cluster::{self, CacheConfig, Change, Events, Name, WorkQueue, cache, run_workers};
use crate::csi::{self, ServeConfig, ServeError};
use crate::host::{self, Host, HostConfig};
use crate::nri;
use crate::plan::{birth, node_task, tenant};
use crate::telemetry::Metrics;

/// The agent's options.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the Node.
    pub node: String,
    /// The disks.
    pub config: Config,
    /// The kubelet's directory, at the same path as on the node.
    pub kubelet_dir: PathBuf,
    /// The NRI socket of the container runtime, which need not exist.
    pub nri_socket: PathBuf,
    /// The address at which other agents get the content of sealed volumes, if copies are on (E2).
    pub copies: Option<SocketAddr>,
    /// The interval between two measurements of the disks.
    pub measure_every: Duration,
    /// The period in which each volume that is not at rest is reconciled once more, in case the event that should have
    /// caused it was lost.
    pub look_again: Duration,
    /// False: changes enqueue nothing, as if each of their events were lost. For tests.
    pub wake: bool,
}

/// The period in which a lost event is made up for.
pub const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// The reason why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's directories are unusable.
    #[error("failed to open the node's disks")]
    Host(#[from] host::Error),
    /// A panic while the disks were opened.
    #[error("failed to open the node's disks")]
    Panicked(#[from] tokio::task::JoinError),
    /// The address for copies cannot be listened at.
    #[error("failed to listen for other agents, which copy volumes")]
    Copies(#[from] std::io::Error),
    /// The CSI services ended.
    #[error("failed to serve CSI")]
    Csi(#[from] ServeError),
}

/// Time limit for an earlier agent to release a disk.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for a disk's answer, after which the disk is unavailable. LVM can be slow on a busy node.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause after a failed report of the disks.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The pause after work on a hanging disk.
const AFTER_HANG: Duration = Duration::from_secs(15);
/// Number of volumes that are reconciled at once.
const AT_ONCE: u16 = 4;

/// Runs until `stop` resolves. `ready` is set when the disks are open and CSI is about to be served.
///
/// Mounts outlive the agent, so running pods notice nothing (M5).
pub async fn run(
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let Options { node, config, kubelet_dir, nri_socket, copies, measure_every, look_again, wake } = options;
    let (entries, scrub) = (config.disks.clone(), config.scrub.clone());
    let targets_root = kubelet_dir.clone();
    let open = move || {
        let disks = config.to_host(kubelet::thresholds(&targets_root));
        let sysfs = "/sys".into();
        Host::open(HostConfig { disks, targets_root, lock_timeout: LOCK_TIMEOUT, patience: PATIENCE, sysfs })
    };
    let host = tokio::task::spawn_blocking(open).await??;
    let (copying, listener) = match copies {
        Some(copies) => {
            Copying::open(copies).await.map(|(copying, listener)| (Some(copying), Some(listener)))?
        }
        None => (None, None),
    };
    let ctx = Arc::new(Context {
        events: Events::new(client.clone(), "reservoir-agent", &node),
        client,
        node: node.clone(),
        host: Arc::new(host),
        disk_names: Default::default(),
        metrics: metrics.clone(),
        publishing: Default::default(),
        orphans_changed: Default::default(),
        live_reads: Default::default(),
        held_targets: Default::default(),
        refused_readers: Default::default(),
        readings: Default::default(),
        copying,
        scrub,
        volumes: Default::default(),
        nri: Default::default(),
    });
    let containers = Containers { ctx: ctx.clone(), kubelet_dir: kubelet_dir.clone() };
    let mut disks = Disks::new(ctx.clone(), entries);
    let gauges = Arc::new(NodeGauges::default());
    metrics.show(&gauges);

    let (stopping, mut stopped) = watch::channel(false);
    let serve_config = ServeConfig { kubelet_dir, node_name: node };
    let served = csi::serve(serve_config, Arc::new(Node(ctx.clone())), metrics, async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    ready.store(true, Ordering::Relaxed);
    let work = async {
        // No volume is made, fenced or erased before each disk has its NodeDisk or is refused (D3). If one NodeDisk
        // cannot be written, volumes of other disks do not wait (V10).
        let mut is_reported = false;
        while !disks.are_identified() {
            is_reported = report(&mut disks).await;
            if !is_reported {
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
        tokio::join!(
            report_periodically(&mut disks, &ctx, measure_every, is_reported),
            gauges.measure(&ctx, measure_every),
            reconcile_volumes(&ctx, look_again, wake)
        );
    };
    // From the first moment: pods start while the disks are looked at. A task of its own, as the runtime waits for two
    // seconds only; it ends with the set.
    let mut asked = JoinSet::new();
    let connected = ctx.nri.clone();
    asked.spawn(async move { nri::keep_connected(&nri_socket, &connected, &containers).await });
    if let Some(listener) = listener {
        asked.spawn(copies::serve(listener, ctx.clone()));
    }
    let until_stopped = async {
        tokio::select! {
            _ = work => {}
            () = stop => tracing::info!("stopping the agent; mounted volumes stay mounted"),
        }
        stopping.send_replace(true);
    };
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => Ok(ended?),
        () = until_stopped => Ok(served.await?),
    }
}

/// Reports in each period, and at once after data loses its object, is recovered, or is erased without one.
async fn report_periodically(disks: &mut Disks, ctx: &Context, every: Duration, mut is_reported: bool) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(if is_reported { every } else { AFTER_FAILURE }) => {}
            () = ctx.orphans_changed.notified() => {}
        }
        is_reported = report(disks).await;
    }
}

async fn report(disks: &mut Disks) -> bool {
    let reported = disks.report().await;
    if let Err(error) = &reported {
        tracing::warn!(%error, "failed to report the disks");
    }
    reported.is_ok()
}

fn lock(names: &Mutex<BTreeSet<Name>>) -> MutexGuard<'_, BTreeSet<Name>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of a volume that the agent keeps.
#[derive(Clone)]
struct Seen {
    tenant: Name,
    at_rest: bool,
    /// True until its data is erased, kept or orphaned.
    has_data: bool,
}

/// Reconciles each volume of this node after each change, unless it was and stays at rest, and in each period if it is not at
/// rest. The watch only supplies names: of a volume it keeps the tenant and the rest, and each decision uses a live read. The
/// ledgers of this node supply the names of the volumes that are born in their place.
async fn reconcile_volumes(ctx: &Context, look_again: Duration, wake: bool) {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let mine = watcher::Config::default().fields(&format!("status.nodeName={}", ctx.node));
    let (queue, names) = WorkQueue::<SharedPersistentVolume>::new();
    let queue = Arc::new(queue);
    let _ = ctx.volumes.set(queue.clone());
    // The volumes that were not at rest when they were read last: the watch of a restored etcd may miss such a state (X9).
    let restless = Arc::new(Mutex::new(BTreeSet::new()));
    let (to, is_restless, orphans_changed) = (queue.clone(), restless.clone(), ctx.orphans_changed.clone());
    let changed = move |change: Change<Seen>| {
        let rested = [change.before, change.now].iter().all(|seen| seen.is_some_and(|seen| seen.at_rest));
        if wake && (!rested || lock(&is_restless).contains(change.name)) {
            to.enqueue_name(change.name.clone());
        }
        // Its data may have no object now, and the next report may be half a minute away (X6).
        if wake && change.now.is_none() && change.before.is_some_and(|seen| seen.has_data) {
            orphans_changed.notify_one();
        }
    };
    let seen = CacheConfig {
        keep: |v: SharedPersistentVolume| {
            let (at_rest, has_data) = (node_task::is_at_rest(&v), node_task::has_data(&v));
            Some(Seen { tenant: tenant::of_volume(&v).into(), at_rest, has_data })
        },
        keys: |_, _| {},
    };
    let (volumes, task) = cache(api.clone(), mine.clone(), seen, changed, || {});
    let to = queue.clone();
    let entered = move |change: Change<DiskReservation>| {
        if wake {
            birth::entered(change.before, change.now).for_each(|name| to.enqueue_name(name));
        }
    };
    let kept = CacheConfig { keep: |of| Some(birth::ledger(of)), keys: |_, _| {} };
    let (ledgers, follow_ledgers) = cache(Api::all(ctx.client.clone()), mine, kept, entered, || {});
    let look_again = async {
        loop {
            tokio::time::sleep(look_again).await;
            let is_waiting = |name: &Name| volumes.get(name).is_some_and(|volume| !volume.at_rest);
            queue.enqueue_names(volumes.names().into_iter().filter(is_waiting).collect());
        }
    };
    let reconcile = |name: Name| {
        let (api, ledgers, restless) = (api.clone(), ledgers.clone(), restless.clone());
        async move {
            // Read before the volume, see `plan::birth`.
            let ledgers = ledgers.all();
            let found = cluster::get(&api, &name).await?;
            match found.as_ref().is_some_and(|volume| !node_task::is_at_rest(volume)) {
                true => lock(&restless).insert(name),
                false => lock(&restless).remove(&name),
            };
            let Some(mut volume) = found else { return Ok(None) };
            if volume.status.as_ref().and_then(|status| status.node_name.as_deref()) != Some(&ctx.node) {
                let Some(born) = birth::on_node(volume, &ctx.node, &ledgers) else { return Ok(None) };
                volume = born;
            }
            // Work on a hanging disk goes on in the background, and volumes of other disks do not wait (V10).
            tokio::select! {
                done = volumes::reconcile(&volume, ctx) => done,
                () = volumes::until_disk_hangs(&volume, ctx) => Ok(Some(AFTER_HANG)),
            }
        }
    };
    let tenant = |name: &Name| volumes.get(name).map_or_else(|| name.clone(), |volume| volume.tenant.clone());
    let work =
        run_workers::<SharedPersistentVolume, _>(names, AT_ONCE, ctx.metrics.clone(), tenant, reconcile);
    tokio::join!(task, follow_ledgers, look_again, work);
}
