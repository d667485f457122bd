//! `reservoir-cluster`: a real Kubernetes on this machine, up and down.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use reservoir_cluster::api::{self, ApiOptions, ApiServer};
use reservoir_cluster::docker::Docker;
use reservoir_cluster::node::{self, Cluster, NodeOptions};
use reservoir_cluster::progress::say;
use reservoir_cluster::release::Release;
use reservoir_cluster::tour::Tour;
use reservoir_cluster::{bench, conformance, image, interrupt, packages, powercut, prometheus, qemu, tools};

/// A real Kubernetes on this machine, for Reservoir's demo and tests.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a cluster up; a running cluster is left as it is.
    Up(Up),
    /// Remove a cluster and everything that was started for it.
    Down(Name),
    /// Print the running cluster; without one the exit code is 1.
    Status(Name),
    /// Build everything that both tiers need into the cache.
    Build,
    /// Install the Debian packages that the tests use.
    Packages,
    /// Bring a cluster up, install Reservoir and show its features.
    Demo(Up),
    /// Bring a cluster up, install Reservoir and run the pages of the documentation that need pods.
    Pages(Up),
    /// Run Kubernetes' own storage tests on a cluster of their own, which is removed in the end.
    Conformance {
        /// The passes of tests/conformance/passes.tsv; all but `quick` if none is named.
        passes: Vec<String>,
        /// The cluster's name.
        #[arg(long, default_value = "reservoir-conformance")]
        name: String,
        /// Leave the cluster for a look at it; remove it with `down --name`.
        #[arg(long)]
        keep: bool,
    },
    /// Measure the start of pods with volumes, and of pods without.
    BenchPods {
        #[command(flatten)]
        up: Up,
        /// The number of pods at once.
        #[arg(long, default_value_t = 50)]
        pods: usize,
        /// How often each sort of pods has its turn.
        #[arg(long, default_value_t = 2)]
        turns: usize,
        /// The sorts of pods to compare with pods without volumes.
        #[arg(long, value_delimiter = ',', default_value = "class,local-path,claim,shared")]
        sorts: Vec<bench::Sort>,
    },
    /// Run the tests of the node's disks in a guest of QEMU, on Debian's own kernel.
    Qemu {
        /// Arguments of the tests: a part of their names, options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
        /// Time limit of the tests, in minutes.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
    },
    /// Cut the power of a guest of QEMU while it makes, writes and erases volumes.
    PowerCut {
        /// The number of repetitions.
        #[arg(long, default_value_t = 25)]
        cuts: u32,
        /// Seed of the moments. Default: other moments in each run.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Build the product's and the test image and load them into a cluster that is up.
    Image(Name),
    /// Make everything that a release consists of, and send it nowhere.
    Release(MakeRelease),
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// The tier to bring up.
    #[arg(long, value_enum, default_value_t = Tier::Node)]
    tier: Tier,
    /// The number of nodes; tier node only.
    #[arg(long, default_value_t = NodeOptions::default().nodes)]
    nodes: usize,
    /// Use the cluster that KUBECONFIG names, instead of making one.
    #[arg(long, env = "RESERVOIR_USE_KUBECONFIG", value_parser = BoolishValueParser::new())]
    use_kubeconfig: bool,
}

#[derive(Args)]
struct MakeRelease {
    /// The version, which Cargo.toml and the chart have already.
    version: String,
    /// The directory, which is made anew.
    #[arg(long)]
    out: PathBuf,
    /// The image's repository, which the chart names.
    #[arg(long, default_value = "localhost/reservoir")]
    image: String,
    /// The address beneath which the release's files will be, for the manifest of krew.
    #[arg(long, default_value = "http://localhost")]
    url: String,
    /// The profile of Cargo.toml for the programs.
    #[arg(long, default_value = "release")]
    profile: String,
}

#[derive(Args)]
struct Name {
    /// The cluster's name; tier node only.
    #[arg(long, default_value_t = NodeOptions::default().name)]
    name: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tier {
    /// etcd, kube-apiserver and kube-controller-manager in the foreground, until Ctrl-C.
    Api,
    /// A kind cluster, until `down`.
    Node,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = interrupt::watch().and_then(|()| match cli.command {
        Command::Up(up) => match up.tier {
            Tier::Api => up_api(),
            Tier::Node => up_node(up),
        },
        Command::Down(Name { name }) => Cluster::down(&name),
        Command::Status(Name { name }) => status(&name),
        Command::Demo(up) => demo(up),
        Command::Pages(up) => pages(up),
        Command::Conformance { passes, name, keep } => conformance(name, &passes, keep),
        Command::BenchPods { up, pods, turns, sorts } => {
            node_cluster(up).and_then(|cluster| bench::pods(&cluster, pods, turns, &sorts))
        }
        Command::Build => build(),
        Command::Packages => install_packages(),
        Command::Qemu { args, minutes } => qemu::test(&args, Duration::from_secs(60 * minutes)),
        Command::PowerCut { cuts, seed } => powercut::cut(cuts, seed),
        Command::Image(Name { name }) => load_images(&name),
        Command::Release(MakeRelease { version, out, image, url, profile }) => {
            Release { version, image, url, profile }.make(&out)
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn up_api() -> anyhow::Result<()> {
    let server = ApiServer::start(ApiOptions { controller_manager: true, audit: true }).await?;
    println!("export KUBECONFIG={}", server.kubeconfig_path().display());
    say("running until Ctrl-C");
    while !interrupt::requested() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.stop().await
}

fn up_node(up: Up) -> anyhow::Result<()> {
    print(&node_cluster(up)?)
}

fn node_cluster(up: Up) -> anyhow::Result<Cluster> {
    if up.use_kubeconfig {
        Cluster::from_kubeconfig()
    } else {
        Cluster::up(&NodeOptions { name: up.name.name, nodes: up.nodes })
    }
}

fn demo(up: Up) -> anyhow::Result<()> {
    let cluster = node_cluster(up)?;
    let tour = Tour::new(cluster.clone(), false);
    tour.install()?;
    tour.walk()?;
    println!("\nEvery step did what it says. The cluster is yours:\n");
    print(&cluster)?;
    println!("kubectl apply -f examples/01-reservation.yaml -f examples/03-volumes.yaml");
    println!(
        "kubectl get reservoir -A\n\nmake demo-down removes it, and everything that was started for it."
    );
    Ok(())
}

fn pages(up: Up) -> anyhow::Result<()> {
    let tour = Tour::new(node_cluster(up)?, false);
    tour.install()?;
    tour.clean()?;
    tour.pages()
}

fn conformance(name: String, passes: &[String], keep: bool) -> anyhow::Result<()> {
    let run = || {
        let cluster = Cluster::up(&NodeOptions { name: name.clone(), ..NodeOptions::default() })?;
        Tour::new(cluster.clone(), false).install()?;
        conformance::run(&cluster, passes)
    };
    let done = run();
    let removed = if keep { Ok(()) } else { Cluster::down(&name) };
    done.and(removed)
}

fn status(name: &str) -> anyhow::Result<()> {
    let cluster = running(name)?;
    print(&cluster)?;
    print!("{}", cluster.kubectl()?.args(["get", "nodes"]).run()?);
    Ok(())
}

fn build() -> anyhow::Result<()> {
    api::prepare()?;
    for tool in [tools::kubectl, tools::helm, tools::kind, tools::csi_sanity] {
        tool()?;
    }
    node::prepare()
}

fn install_packages() -> anyhow::Result<()> {
    packages::ensure(&["btrfs-progs", "e2fsprogs", "fio", "openssl", "strace", "util-linux", "xfsprogs"])?;
    prometheus::program("promtool").map(drop)
}

fn load_images(name: &str) -> anyhow::Result<()> {
    let cluster = running(name)?;
    for image in image::build_all(cluster.docker()?)? {
        cluster.load_image(image)?;
    }
    Ok(())
}

fn running(name: &str) -> anyhow::Result<Cluster> {
    match Cluster::find(name)? {
        Some(cluster) => Ok(cluster),
        None => bail!("cluster {name} is not up; bring it up with: reservoir-cluster up --name {name}"),
    }
}

/// Environment variables for a shell that uses the cluster.
fn print(cluster: &Cluster) -> anyhow::Result<()> {
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    if let Some(host) = cluster.docker().ok().and_then(Docker::host) {
        println!("export DOCKER_HOST={host}");
    }
    Ok(())
}
