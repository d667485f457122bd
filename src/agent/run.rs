//! Runs the agent.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Api, Client};

use super::config::{Config, ConfigError};
use super::disks::Disks;
use super::metrics::Measured;
use super::publish::Node;
use super::volumes;
use super::volumes::Context;
use crate::api::{DRIVER, SharedPersistentVolume};
use crate::cluster::{CacheConfig, Change, Name, WorkQueue, cache, run_workers};
use crate::csi::{self, ServeConfig, ServeError};
use crate::host::{self, Host, HostConfig};
use crate::telemetry::{self, Metrics};

/// How the agent runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the Node.
    pub node: String,
    /// The disks.
    pub config: Config,
    /// The kubelet's directory, at the same path as on the node.
    pub kubelet_dir: PathBuf,
    /// How often the disks are measured.
    pub measure_every: Duration,
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node's directories cannot be used.
    #[error("failed to open the node's disks")]
    Host(#[from] host::Error),
    /// The CSI services ended.
    #[error("failed to serve CSI")]
    Csi(#[from] ServeError),
}

/// How long to wait for the agent before this one to let go of a disk.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);
/// How many volumes are reconciled at once.
const AT_ONCE: u16 = 4;
/// How soon the disks are reported again when that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Runs until `stop` resolves. `ready` is set when the disks are open and CSI is about to be served.
///
/// What is mounted stays mounted when it ends: running pods do not notice (M5).
pub async fn run(
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let config = &options.config;
    let configured: Result<Vec<_>, _> =
        config.disks.iter().map(|disk| disk.to_host(&config.state_dir)).collect();
    let host_config = HostConfig {
        disks: configured?,
        targets_root: options.kubelet_dir.clone(),
        lock_timeout: LOCK_TIMEOUT,
    };
    let opened = tokio::task::spawn_blocking(move || Host::open(host_config));
    let opened = opened.await.unwrap_or_else(|e| Err(host::Error::Unsupported(e.to_string())));
    let host = Arc::new(opened?);
    let mut disks = Disks::new(client.clone(), options.node.clone(), options.config.disks, host.clone());
    let places = disks.places();
    let ctx =
        Arc::new(Context { client, node: options.node.clone(), host, places, metrics: metrics.clone() });
    let measured = Arc::new(Measured::default());
    metrics.show(&measured);

    let plugin = options.kubelet_dir.join("plugins").join(DRIVER);
    let serve_config = ServeConfig {
        csi_socket: plugin.join("csi.sock"),
        kubelet_csi_socket: plugin.join("csi.sock"),
        registration_socket: options.kubelet_dir.join("plugins_registry").join(format!("{DRIVER}-reg.sock")),
        node_name: options.node.clone(),
    };
    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let mut csi_stop = stopped.clone();
    let served = csi::serve(serve_config, Arc::new(Node(ctx.clone())), metrics.clone(), async move {
        let _ = csi_stop.wait_for(|stop| *stop).await;
    });
    ready.store(true, Ordering::Relaxed);
    let work = async {
        // Nothing is made, fenced or erased before it is known whose the disks are (D3).
        while !report(&mut disks).await {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
        tokio::join!(
            measure(&mut disks, options.measure_every),
            measured.keep(&ctx, options.measure_every),
            keep(ctx.clone(), metrics)
        );
    };
    let watched = async {
        tokio::select! {
            () = work => {}
            () = stop => tracing::info!("stopping; what is mounted stays mounted"),
        }
        stopping.send_replace(true);
    };
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => Ok(ended?),
        () = watched => Ok(served.await?),
    }
}

/// Measures the disks now and then; writes only what changed.
async fn measure(disks: &mut Disks, every: Duration) {
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        pause = if report(disks).await { every } else { AFTER_FAILURE };
    }
}

async fn report(disks: &mut Disks) -> bool {
    let reported = disks.report().await;
    if let Err(error) = &reported {
        tracing::warn!(error = telemetry::chain(error), "failed to report the disks");
    }
    reported.is_ok()
}

/// Keeps the volumes of this node.
async fn keep(ctx: Arc<Context>, metrics: Arc<Metrics>) {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    // Small pages, as the controller has them: what a page has is in memory more than once.
    let mine = watcher::Config::default().fields(&format!("status.nodeName={}", ctx.node)).page_size(50);
    let (queue, names) = WorkQueue::<SharedPersistentVolume>::new();
    let changed = move |change: Change<_>| queue.enqueue_name(change.name.clone());
    let (cache, task) = cache(api, mine, CacheConfig::default(), changed, || {});
    let reconcile = move |name: Name| {
        let (volume, ctx) = (cache.get(&name), ctx.clone());
        async move {
            match volume {
                Some(volume) => volumes::reconcile(volume, ctx).await,
                None => Ok(None),
            }
        }
    };
    tokio::join!(task, run_workers::<SharedPersistentVolume, _>(names, AT_ONCE, metrics, reconcile));
}
