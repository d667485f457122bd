//! Upgrade, rollback, removal and installation of the chart while a pod writes: its data stays, and its writes do not wait.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::{NAMESPACE, Tour};
use crate::command::Cmd;
use crate::tools;

/// Longest pause of a write. A busy machine has pauses, too, which are measured before.
const LONGEST_PAUSE_MS: u64 = 5000;

/// Time of a measurement: longer than the replacement of an agent's pod, so that the measurements are alike.
const BASELINE: Duration = Duration::from_secs(15);

/// Appends and synchronizes a line each 10 ms, and prints once a second the longest duration in
/// milliseconds. Debian's smallest Perl has only the kernel's clock, which ticks each 10 ms.
const WRITER: &str = r#"
$| = 1;
sub now { open(my $t, "<", "/proc/uptime") or die "clock: $!"; return (split " ", <$t>)[0] }
open(my $f, ">>", "/data/upgrade") or die "open: $!";
my ($n, $longest, $told, $last) = (0, 0, now(), now());
until (-e "/data/enough") {
    print {$f} "$n\n" and $f->flush and $f->sync or die "write: $!";
    my $now = now();
    $longest = $now - $last if $now - $last > $longest;
    ($n, $last) = ($n + 1, $now);
    if ($now - $told > 1) { printf "%d\n", 1000 * $longest; ($longest, $told) = (0, $now) }
    select(undef, undef, undef, 0.01);
}
open(my $r, "<", "/data/upgrade") or die "open: $!";
my $i = 0;
while (<$r>) { die "line $i is $_" if $_ ne "$i\n"; $i++ }
die "$i lines of $n" if $i != $n;
unlink "/data/upgrade", "/data/enough";
print "wrote $n lines, and all are there\n";
"#;

impl Tour {
    /// M5, V6, X7. Needs the steady state of [`settle`](Self::settle), and leaves it. The retired `node` joins a second pool.
    pub fn upgrade(&self, node: &str) -> anyhow::Result<()> {
        self.title("A pod writes and has each line synchronized, 10 ms apart")?;
        self.write_on()?;
        std::thread::sleep(BASELINE);
        let (before, seconds) = self.longest_pause(0)?;
        println!("longest pause in {seconds} s with nothing else going on: {before} ms");
        self.undisturbed("The chart is upgraded; agents and controllers are replaced", || {
            self.replaced(
                &["upgrade", "reservoir", "--reuse-values", "--set", "agent.measureSeconds=20"],
                true,
            )?;
            self.measures_each("20")
        })?;
        self.undisturbed("The upgrade is rolled back", || {
            self.replaced(&["rollback", "reservoir"], false)?;
            self.measures_each("30")
        })?;
        self.undisturbed("The chart gets a second pool of nodes, whose disks go with their nodes", || {
            self.pools(node)
        })?;
        self.undisturbed("Reservoir is uninstalled: kinds, objects and data stay", || self.uninstalled())?;
        self.undisturbed("It is installed anew, and finds everything again", || {
            self.install_chart()?;
            self.ready(&["nodedisks", "--all"])?;
            self.ready(&["diskreservations,spv", "--all"])?;
            self.ready(&["vclaim", "--all", "-A"])
        })?;
        self.title("helm test: a write and a read, and nothing is left of it")?;
        println!("{}", self.helm(&["test", "reservoir", "--timeout=120s"])?.trim());
        let left = self.quietly(&[
            "get",
            "diskreservation,spv,vclaim,pod",
            "-A",
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/component=test",
        ])?;
        ensure!(left.trim().is_empty(), "helm test left {left}");
        self.all_written()
    }

    fn write_on(&self) -> anyhow::Result<()> {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "on-and-on", "namespace": "team-a"},
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "writer", "image": crate::image::STORE,
                    "command": ["perl", "-MIO::Handle", "-e", WRITER],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "datasets"}}],
            },
        });
        self.cluster.apply(&pod.to_string())?;
        self.ready(&["-n", "team-a", "pod/on-and-on"])
    }

    /// Does `work`. Meanwhile no write may fail or wait for long.
    fn undisturbed(&self, title: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.title(title)?;
        let told = self.pauses()?.len();
        work()?;
        // The writer reports a second at the end of the next second.
        std::thread::sleep(Duration::from_millis(2500));
        let (longest, seconds) = self.longest_pause(told)?;
        println!("longest pause of the writer in {seconds} s: {longest} ms");
        ensure!(longest < LONGEST_PAUSE_MS, "a write took {longest} ms");
        Ok(())
    }

    /// The writer's longest pause in each second, in milliseconds.
    fn pauses(&self) -> anyhow::Result<Vec<u64>> {
        let phase = self.field(&["-n", "team-a", "pod/on-and-on"], "{.status.phase}")?;
        let log = self.quietly(&["-n", "team-a", "logs", "on-and-on"])?;
        ensure!(phase == "Running", "the writer is {phase}:\n{log}");
        log.lines().map(|line| line.parse().with_context(|| format!("the writer says {line}"))).collect()
    }

    fn longest_pause(&self, after: usize) -> anyhow::Result<(u64, usize)> {
        let pauses = self.pauses()?.split_off(after);
        let longest = pauses.iter().max().copied().context("the writer has told nothing")?;
        Ok((longest, pauses.len()))
    }

    /// Runs Helm in the release's namespace.
    fn helm(&self, args: &[&str]) -> anyhow::Result<String> {
        let helm = Cmd::new(tools::helm()?).args(args).args(["--namespace", NAMESPACE]);
        println!("$ helm {} --namespace {NAMESPACE}", args.join(" "));
        let helm = helm.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        helm.progress(format!("helm {}", args[0])).stdout_in_errors().run()
    }

    /// Replaces the pods with Helm, and checks the replacement.
    pub(super) fn replaced(&self, args: &[&str], with_chart: bool) -> anyhow::Result<()> {
        let agents = ["-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/component=agent"];
        let before = self.field(&agents, "{.items[*].metadata.uid}")?;
        let chart = self.repository.join("charts/reservoir").display().to_string();
        let mut args = args.to_vec();
        if with_chart {
            args.insert(2, &chart);
        }
        self.helm(&[&args[..], &["--wait", "--timeout=180s"]].concat())?;
        for workload in ["deployment/reservoir-controller", "daemonset/reservoir-agent"] {
            self.quietly(&["-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s"])?;
        }
        let after = self.field(&agents, "{.items[*].metadata.uid}")?;
        let stayed = before.split(' ').find(|uid| after.contains(uid));
        ensure!(stayed.is_none(), "an agent was not replaced: {before} before, {after} after");
        Ok(())
    }

    fn measures_each(&self, seconds: &str) -> anyhow::Result<()> {
        let args = self.field(
            &["-n", NAMESPACE, "daemonset/reservoir-agent"],
            "{.spec.template.spec.containers[0].args[*]}",
        )?;
        ensure!(args.contains(&format!("--measure-seconds={seconds}")), "the agents run with {args}");
        Ok(())
    }

    fn uninstalled(&self) -> anyhow::Result<()> {
        let kept =
            || self.quietly(&["get", "crd,spv,diskreservation,nodedisk,vclaim,pv", "-A", "-o", "name"]);
        let before = kept()?;
        self.helm(&["uninstall", "reservoir", "--wait", "--timeout=120s"])?;
        self.until("the pods of Reservoir to be gone", || {
            let pods = self.quietly(&["-n", NAMESPACE, "get", "pods", "-o", "name"])?;
            Ok(if pods.trim().is_empty() { Ok(()) } else { Err(pods) })
        })?;
        let after = kept()?;
        ensure!(before == after, "there was:\n{before}\nand there is:\n{after}");
        println!("{} kinds, objects and volumes are there as before", after.lines().count());
        let said = self.refused(&["delete", "spv", "datasets"])?;
        ensure!(said.contains("in use by 1 pod"), "it names nobody: {said}");
        Ok(())
    }

    fn all_written(&self) -> anyhow::Result<()> {
        self.show(&["-n", "team-a", "exec", "on-and-on", "--", "touch", "/data/enough"])?;
        let log = self.until("the writer to end", || {
            let phase = self.field(&["-n", "team-a", "pod/on-and-on"], "{.status.phase}")?;
            let log = self.quietly(&["-n", "team-a", "logs", "on-and-on"])?;
            ensure!(phase != "Failed", "the writer failed:\n{log}");
            Ok(if phase == "Succeeded" { Ok(log) } else { Err(phase) })
        })?;
        println!("writer: {}", log.lines().last().unwrap_or_default());
        self.show(&["-n", "team-a", "delete", "pod", "on-and-on", "--timeout=60s"]).map(drop)
    }
}
