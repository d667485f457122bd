//! The command line of the `reservoir` program.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::telemetry::{self, Metrics};
use crate::{agent, api, cluster, controller, plan};

/// Shared persistent volumes for Kubernetes.
#[derive(Parser)]
#[command(version, about)]
pub struct Cli {
    /// Logs as JSON.
    #[arg(long, env = "RESERVOIR_LOG_JSON", global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the controller.
    Controller(ControllerArgs),
    /// Runs the agent of a node.
    Agent(AgentArgs),
    /// Prints manifests that recover data without an object, for kubectl apply.
    Recover {
        /// UIDs, names or NodeDisks of the data. Default: all.
        data: Vec<String>,
    },
    /// Writes the CustomResourceDefinitions, one file each, into a directory, or prints them.
    Crds {
        /// The directory.
        directory: Option<PathBuf>,
        /// Prints the API reference instead.
        #[arg(long, conflicts_with = "directory")]
        reference: bool,
    },
}

#[derive(Args)]
struct ControllerArgs {
    /// Namespace of the Lease by which one of several controllers is chosen.
    #[arg(long, env = "POD_NAMESPACE", default_value = "reservoir-system")]
    namespace: String,
    /// Name of the Lease.
    #[arg(long, default_value = "reservoir-controller")]
    lease_name: String,
    /// Name of this instance.
    #[arg(long, env = "POD_NAME", default_value = "reservoir-controller")]
    identity: String,
    /// Deletes pods that are older than their ReadOnly claim where a node without NRI refuses them, and whose controllers
    /// make them again.
    #[arg(long)]
    replace_pods: bool,
    /// Takes the taint reservoir.dev/agent-not-ready off nodes whose agent serves.
    #[arg(long)]
    untaint_nodes: bool,
    /// Labels the nodes with a complete copy of a volume, so that pods find them.
    #[arg(long)]
    label_nodes: bool,
    /// Objects of one kind that are reconciled at once.
    #[arg(long, default_value_t = 32)]
    concurrency: u16,
    /// Labels of the agents' pods in the namespace. Without it agents run without pods.
    #[arg(long)]
    agents: Option<String>,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:8080")]
    metrics_bind_address: SocketAddr,
}

#[derive(Args)]
struct AgentArgs {
    /// Name of the Node.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// The configuration file that lists the disks.
    #[arg(long, default_value = "/etc/reservoir/agent.yaml")]
    config: PathBuf,
    /// The kubelet's directory.
    #[arg(long, default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,
    /// The NRI socket of the container runtime.
    #[arg(long, default_value = "/var/run/nri/nri.sock")]
    nri_socket: PathBuf,
    /// Port at which other agents get the content of sealed volumes. Without it copies are off.
    #[arg(long, requires = "copies_host")]
    copies_port: Option<u16>,
    /// IP address of this agent, as other agents see it.
    #[arg(long, env = "POD_IP")]
    copies_host: Option<IpAddr>,
    /// Seconds between two measurements of the disks.
    #[arg(long, default_value_t = 30)]
    measure_seconds: u64,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:8081")]
    metrics_bind_address: SocketAddr,
}

impl Cli {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        telemetry::init_logs(self.log_json);
        match self.command {
            Command::Controller(args) => run_controller(args).await,
            Command::Agent(args) => run_agent(args).await,
            Command::Recover { data } => recover(&data).await,
            Command::Crds { directory, reference } => {
                tokio::task::spawn_blocking(move || crds(directory, reference)).await?
            }
        }
    }
}

async fn connect() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await.context("failed to find the cluster")?;
    // Without a time limit a request without an answer would block its reconcile for ever. A watch gets a bookmark
    // each minute.
    config.read_timeout = Some(Duration::from_secs(120));
    config.reset_reader_on_write = true;
    Client::try_from(config).context("failed to connect to the cluster")
}

/// Becomes `true` on SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        sender.send_replace(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn run_controller(args: ControllerArgs) -> anyhow::Result<()> {
    let ControllerArgs {
        namespace,
        lease_name,
        identity,
        replace_pods: replaces_pods,
        untaint_nodes: untaints_nodes,
        label_nodes: labels_nodes,
        concurrency,
        agents,
        metrics_bind_address,
    } = args;
    let (client, stop) = (connect().await?, stop_signal()?);
    let metrics = Arc::new(Metrics::default());
    metrics.stand_by();
    let serving = telemetry::serve(metrics_bind_address, metrics.clone(), || true, stopped(stop.clone()));
    let options = controller::Options {
        identity: identity.clone(),
        namespace: namespace.clone(),
        replaces_pods,
        untaints_nodes,
        labels_nodes,
        concurrency,
        agents,
        look_again: controller::LOOK_AGAIN,
        wake: true,
        now: Timestamp::now,
    };
    let work = || async {
        let _leading = metrics.lead();
        controller::run(client.clone(), options.clone(), metrics.clone()).await;
    };
    let leading = cluster::lead(client.clone(), &namespace, &lease_name, &identity, work, stopped(stop));
    tokio::try_join!(async { serving.await.context("failed to serve metrics") }, async {
        leading.await.context("failed to take part in the election of a leader")
    })?;
    Ok(())
}

async fn run_agent(args: AgentArgs) -> anyhow::Result<()> {
    let config = tokio::task::spawn_blocking(move || agent::Config::read(&args.config)).await??;
    let (client, stop) = (connect().await?, stop_signal()?);
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    let set_ready = ready.clone();
    let is_ready = move || ready.load(Ordering::Relaxed);
    let serving =
        telemetry::serve(args.metrics_bind_address, metrics.clone(), is_ready, stopped(stop.clone()));
    let options = agent::Options {
        node: args.node_name,
        config,
        kubelet_dir: args.kubelet_dir,
        nri_socket: args.nri_socket,
        copies: args.copies_host.zip(args.copies_port).map(SocketAddr::from),
        measure_every: Duration::from_secs(args.measure_seconds),
        look_again: agent::LOOK_AGAIN,
        wake: true,
    };
    let running = agent::run(client, options, metrics, set_ready, stopped(stop));
    tokio::try_join!(async { serving.await.context("failed to serve metrics") }, async {
        running.await.context("failed to serve the node")
    })?;
    Ok(())
}

async fn recover(data: &[String]) -> anyhow::Result<()> {
    let client = connect().await?;
    let all = Default::default();
    let disks = cluster::list(&Api::all(client.clone()), &all).await?;
    let reservations = cluster::list(&Api::all(client.clone()), &all).await?;
    let volumes = cluster::list(&Api::all(client), &all).await?;
    let documents = plan::recover::documents(&disks, &reservations, &volumes, data);
    print!("{}", plan::recover::text(&documents.map_err(anyhow::Error::msg)?)?);
    Ok(())
}

fn crds(directory: Option<PathBuf>, reference: bool) -> anyhow::Result<()> {
    if reference {
        print!("{}", api::reference::markdown());
        return Ok(());
    }
    for crd in api::crds() {
        let text = serde_yaml::to_string(&crd)?;
        match &directory {
            None => println!("---\n{text}"),
            Some(directory) => {
                let path = directory.join(api::crd_file_name(crd));
                std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
            }
        }
    }
    Ok(())
}
