//! The start times of pods with volumes and of pods without, in one run on a cluster of one node.

use std::fmt::Write as _;
use std::io::{Seek, Write as _};
use std::time::{Duration, Instant};

use crate::node::Cluster;
use crate::progress::say;
use crate::tour::Tour;

const NAMESPACE: &str = "reservoir-bench";

/// Installs Reservoir on the cluster, measures `pods` pods of each sort, prints a table, and removes its objects.
pub fn pods(cluster: &Cluster, pods: usize) -> anyhow::Result<()> {
    Tour::new(cluster.clone(), false).install()?;
    let bench = Bench { cluster, pods };
    bench.apply(&setup(pods))?;
    let made = Instant::now();
    bench.wait("--for=condition=Ready", &["spv", "-l", "bench"])?;
    let made = made.elapsed();
    bench.run("warm-up", &pod("warm-up", None))?;
    bench.gone()?;

    let bare: String = (0..pods).map(|i| pod(&format!("bare-{i}"), None)).collect();
    let first = bench.run("pods without volumes", &bare)?;
    bench.gone()?;
    let own: String = (0..pods)
        .map(|i| claim(&format!("own-{i}")) + &pod(&format!("own-{i}"), Some(&format!("own-{i}"))))
        .collect();
    let own = bench.run("pods with a claim and a volume each", &own)?;
    bench.gone()?;
    let shared: String = (0..pods).map(|i| pod(&format!("shared-{i}"), Some("shared"))).collect();
    let shared = bench.run("pods on one shared volume", &(claim("shared") + &shared))?;
    bench.gone()?;
    let second = bench.run("pods without volumes, again", &bare)?;
    bench.gone()?;

    let destroyed = Instant::now();
    bench.kubectl(&["-n", NAMESPACE, "delete", "vclaim", "--all", "--timeout=300s"])?;
    bench.kubectl(&["delete", "spv", "-l", "bench", "--timeout=300s"])?;
    let destroyed = destroyed.elapsed();
    bench.kubectl(&["delete", "dr/reservoir-bench", "namespace/reservoir-bench", "--timeout=300s"])?;

    let bare = (first + second) / 2;
    let row = |what: &str, took: Duration| {
        let ratio = took.as_secs_f64() / bare.as_secs_f64();
        println!("| {what} | {:.1} s | {ratio:.2} |", took.as_secs_f64());
    };
    println!("| {pods} pods, from apply to all Ready | took | against without volumes |\n|---|---|---|");
    row("without volumes, before", first);
    row("without volumes, after", second);
    row("a claim and a volume of its own each", own);
    row("one shared volume", shared);
    println!("| {} volumes, from apply to all Ready | {:.1} s | |", pods + 1, made.as_secs_f64());
    println!(
        "| from the last pod gone to all claims and volumes gone | {:.1} s | |",
        destroyed.as_secs_f64()
    );
    Ok(())
}

struct Bench<'a> {
    cluster: &'a Cluster,
    pods: usize,
}

impl Bench<'_> {
    fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl()?.args(args).run()
    }

    fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(manifests.as_bytes())?;
        file.rewind()?;
        self.cluster.kubectl()?.args(["apply", "-f", "-"]).stdin(file).run().map(drop)
    }

    fn wait(&self, until: &str, what: &[&str]) -> anyhow::Result<()> {
        let mut args = vec!["-n", NAMESPACE, "wait", until, "--timeout=300s"];
        args.extend(what);
        self.kubectl(&args).map(drop)
    }

    fn run(&self, what: &str, manifests: &str) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.apply(manifests)?;
        self.wait("--for=condition=Ready", &["pods", "--all"])?;
        say(format_args!("{what}: {:.1} s for at most {}", started.elapsed().as_secs_f64(), self.pods));
        Ok(started.elapsed())
    }

    fn gone(&self) -> anyhow::Result<()> {
        self.kubectl(&["-n", NAMESPACE, "delete", "pods", "--all", "--timeout=300s"]).map(drop)
    }
}

fn setup(volumes: usize) -> String {
    let object = |kind: &str, name: &str, meta: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: reservoir.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, {meta}}}, spec: {{{spec}}}}}\n"
        )
    };
    let size = format!("role: bench, size: {}Mi", (volumes + 1) * 16);
    let mut all = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}\n");
    let within = format!("namespace: {NAMESPACE}");
    let subscription = "roles: [bench], capabilities: [SHARED_RESOURCES]";
    all += &object("RoleSubscription", "bench", &within, subscription);
    all += &object("DiskReservation", "reservoir-bench", "", &size);
    let labels = "labels: {bench: pods}";
    for i in 0..volumes {
        all += &object("SharedPersistentVolume", &format!("own-{i}"), labels, "role: bench, size: 16Mi");
    }
    all + &object("SharedPersistentVolume", "shared", labels, "role: bench, size: 16Mi, shared: {}")
}

fn claim(volume: &str) -> String {
    format!(
        "---\n{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, \
         metadata: {{name: {volume}, namespace: {NAMESPACE}}}, spec: {{role: bench, volume: {volume}}}}}\n"
    )
}

fn pod(name: &str, claim: Option<&str>) -> String {
    let mut spec = String::from(
        "terminationGracePeriodSeconds: 0, containers: [{name: main, image: 'localhost/reservoir-test:dev', \
         command: [sleep, '100000']",
    );
    if let Some(claim) = claim {
        let _ = write!(
            spec,
            ", volumeMounts: [{{name: v, mountPath: /v}}]}}], \
             volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]"
        );
    } else {
        spec += "}]";
    }
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {NAMESPACE}}}, spec: {{{spec}}}}}\n"
    )
}
