//! The tour: Reservoir's main job on a real cluster, step by step, with the manifests of `examples/` as they are.
//!
//! The tour is the demonstration and the end-to-end test in one: every step checks its own claim, and the first wrong claim
//! is an error. Between two steps the test kills the controller, which must change nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::command::Cmd;
use crate::image;
use crate::node::Cluster;
use crate::progress::say;
use crate::tools;

mod copies;
mod pages;
mod plain;
mod pools;
mod signed;
mod steps;
mod upgrade;

/// Namespace that Reservoir is installed in.
pub const NAMESPACE: &str = "reservoir-system";

/// The longest wait of a step.
const PATIENCE: Duration = Duration::from_secs(120);

/// A walk through a cluster.
pub struct Tour {
    cluster: Cluster,
    repository: PathBuf,
    kill_controller: bool,
    plugin: Option<PathBuf>,
    started: Instant,
}

impl Tour {
    /// A tour of `cluster`. With `kill_controller`, the controller's pods are killed before each step.
    pub fn new(cluster: Cluster, kill_controller: bool) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        Self { cluster, repository, kill_controller, plugin: None, started: Instant::now() }
    }

    /// Shows this kubectl-reservoir, and builds none.
    pub fn with_plugin(self, program: &Path) -> Self {
        Self { plugin: Some(program.to_owned()), ..self }
    }

    /// Builds the images, puts them on the nodes, and installs the chart.
    ///
    /// A cluster of the user must have the images already.
    pub fn install(&self) -> anyhow::Result<()> {
        if let Ok(docker) = self.cluster.docker() {
            for image in image::build_all(docker)? {
                self.cluster.load_image(image)?;
            }
        }
        self.title("Install Reservoir with Helm")?;
        self.install_chart()?;
        // Each build has the same tag, so the pods of an earlier build are replaced.
        for workload in ["deployment/reservoir-controller", "daemonset/reservoir-agent"] {
            self.quietly(&["-n", NAMESPACE, "rollout", "restart", workload])?;
            self.quietly(&["-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s"])?;
        }
        self.show(&["-n", NAMESPACE, "get", "pods", "-o", "wide"])?;
        Ok(())
    }

    fn install_chart(&self) -> anyhow::Result<()> {
        let chart = self.repository.join("charts/reservoir");
        let helm = Cmd::new(tools::helm()?)
            .args(["upgrade", "--install", "reservoir"])
            .arg(&chart)
            .args(["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout=180s"])
            .args(["--set", "image.tag=dev", "--set", "agent.copies.enabled=true"])
            .args(["--set", "agent.disks[0].name=default"])
            .args(["--set", "agent.disks[0].path=/var/lib/reservoir", "--set", "agent.disks[0].capacity=8Gi"])
            .args([
                "--set",
                "agent.disks[0].systemReserved=1Gi",
                "--set",
                "agent.disks[0].requireMount=false",
            ])
            .args(["--set", &format!("test.image={}", image::TEST)])
            .args(["--set", &format!("test.principal={}", self.username(&[])?)])
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig());
        println!(
            "$ helm upgrade --install reservoir charts/reservoir --namespace {NAMESPACE} --create-namespace \\"
        );
        println!("    --set 'agent.disks[0].path=/var/lib/reservoir' ...");
        println!("{}", helm.progress("installing the chart").run()?.trim());
        Ok(())
    }

    fn title(&self, title: &str) -> anyhow::Result<()> {
        println!("\n=== {title}  ({} s)", self.started.elapsed().as_secs());
        if self.kill_controller && title != "Install Reservoir with Helm" {
            say("killing the controller");
            let component = "app.kubernetes.io/component=controller";
            self.quietly(&[
                "-n",
                NAMESPACE,
                "delete",
                "pod",
                "-l",
                component,
                "--grace-period=0",
                "--force",
                "--wait=false",
            ])?;
        }
        Ok(())
    }

    /// Runs kubectl, and shows the command and its output.
    fn show(&self, args: &[&str]) -> anyhow::Result<String> {
        println!("$ kubectl {}", args.join(" "));
        let printed = self.quietly(args)?;
        println!("{}", printed.trim_end());
        Ok(printed)
    }

    fn quietly(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl()?.args(args).run()
    }

    /// The directory of the plug-in, which is built unless the tour has one.
    fn plugin_directory(&self) -> anyhow::Result<PathBuf> {
        let program = match &self.plugin {
            Some(program) => program.clone(),
            None => self.build_plugin()?,
        };
        Ok(program.parent().context("kubectl-reservoir is in no directory")?.to_owned())
    }

    fn build_plugin(&self) -> anyhow::Result<PathBuf> {
        let build =
            ["build", "--package", "reservoir", "--bin", "kubectl-reservoir", "--message-format=json"];
        let cargo = Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let said = cargo.args(build).dir(&self.repository).progress("building kubectl-reservoir").run()?;
        let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let made =
            messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
        made.context("cargo does not say where it put kubectl-reservoir")
    }

    /// Runs the plug-in through kubectl, and shows the command and its output.
    fn plugin(&self, directory: &Path, args: &[&str]) -> anyhow::Result<String> {
        println!("$ kubectl reservoir {}", args.join(" "));
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths([directory.to_owned()].into_iter().chain(std::env::split_paths(&others)))?;
        let kubectl =
            Cmd::new(tools::kubectl()?).env("PATH", path).env("KUBECONFIG", self.cluster.kubeconfig());
        let printed = kubectl.arg("reservoir").args(args).run()?;
        println!("{}", printed.trim_end());
        Ok(printed)
    }

    /// Runs kubectl, which must fail, and shows its error.
    fn refused(&self, args: &[&str]) -> anyhow::Result<String> {
        println!("$ kubectl {}", args.join(" "));
        match self.quietly(args) {
            Ok(printed) => bail!("was to be refused, and was done: {printed}"),
            Err(error) => {
                let said = error.to_string();
                let said = said.split_once('\n').map_or(said.as_str(), |(_, said)| said).trim();
                println!("{said}");
                Ok(said.to_owned())
            }
        }
    }

    /// Applies a manifest of `examples/`.
    fn apply(&self, example: &str) -> anyhow::Result<()> {
        let manifest = self.manifest(example, &[])?;
        println!("$ kubectl apply -f examples/{example}");
        print!("{}", self.cluster.kubectl()?.args(["apply", "-f"]).arg(manifest.path()).run()?);
        Ok(())
    }

    fn unapply(&self, example: &str) -> anyhow::Result<()> {
        let path = self.repository.join("examples").join(example);
        println!("$ kubectl delete -f examples/{example}");
        let delete =
            self.cluster.kubectl()?.args(["delete", "--ignore-not-found", "--timeout=120s", "-f"]).arg(path);
        print!("{}", delete.run()?);
        Ok(())
    }

    /// `kubectl wait --for=condition=Ready`.
    fn ready(&self, what: &[&str]) -> anyhow::Result<()> {
        let mut args = vec!["wait", "--for=condition=Ready", "--timeout=120s"];
        args.extend(what);
        self.show(&args).map(drop)
    }

    /// One field of an object, by JSONPath.
    fn field(&self, what: &[&str], path: &str) -> anyhow::Result<String> {
        let path = format!("-o=jsonpath={path}");
        let mut args = vec!["get"];
        args.extend(what);
        args.push(&path);
        self.quietly(&args)
    }

    /// The message of an object's condition `Ready`, as soon as the condition has the reason.
    fn reason(&self, what: &[&str], reason: &str) -> anyhow::Result<String> {
        let condition = "{.status.conditions[?(@.type==\"Ready\")]";
        self.until(&format!("{} to be {reason}", what.join(" ")), || {
            let is = self.field(what, &format!("{condition}.reason}}"))?;
            if is != reason {
                return Ok(Err(is));
            }
            let said = self.field(what, &format!("{condition}.message}}"))?;
            println!("{} {}: {said}", what.join(" "), is);
            Ok(Ok(said))
        })
    }

    /// Kills the agent of the node and waits for the next one.
    fn replace_agent(&self, node: &str) -> anyhow::Result<()> {
        let there = format!("--field-selector=spec.nodeName={node}");
        let agent = ["-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/component=agent", &there];
        let old = self.field(&agent, "{.items[0].metadata.name}")?;
        self.show(&["-n", NAMESPACE, "delete", "pod", &old, "--grace-period=0", "--force"])?;
        self.until("a new agent to be ready", || {
            let path = "{range .items[*]}{.metadata.name}={.status.containerStatuses[0].ready} {end}";
            let pods = self.field(&agent, path)?;
            let ready =
                pods.split_whitespace().any(|p| p.ends_with("=true") && !p.starts_with(&format!("{old}=")));
            Ok(if ready { Ok(()) } else { Err(pods) })
        })
    }

    /// Waits until `look` succeeds. Its error is the present state.
    fn until<T>(
        &self,
        what: &str,
        look: impl Fn() -> anyhow::Result<Result<T, String>>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            match look()? {
                Ok(found) => return Ok(found),
                Err(is) if started.elapsed() > PATIENCE => {
                    let events = self
                        .quietly(&["get", "events", "-A", "--sort-by=.lastTimestamp"])
                        .unwrap_or_default();
                    bail!(
                        "waited {} s for {what}; it is: {is}\n{}",
                        PATIENCE.as_secs(),
                        crate::command::tail(&events)
                    );
                }
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }
}

/// The writes of Reservoir in the audit log, without those of its leader election.
pub fn writes(audit_log: &str) -> anyhow::Result<Vec<String>> {
    let mut writes = Vec::new();
    // The API server may not have written the last line to its end.
    let complete = audit_log.rsplit_once('\n').map_or("", |(complete, _)| complete);
    for line in complete.lines() {
        let event: serde_json::Value = serde_json::from_str(line).context("the audit log is not JSON")?;
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let of = |field: &str| event["objectRef"][field].as_str().unwrap_or_default().to_owned();
        if user.starts_with(&format!("system:serviceaccount:{NAMESPACE}:reservoir-"))
            && of("resource") != "leases"
            && !crate::is_read(&event)
        {
            let verb = event["verb"].as_str().unwrap_or_default();
            writes.push(format!("{user} {verb} {} {}/{}", of("resource"), of("namespace"), of("name")));
        }
    }
    Ok(writes)
}

/// Checks that Reservoir writes nothing to the API server for a while.
pub fn quiet(cluster: &Cluster, pause: Duration) -> anyhow::Result<()> {
    let before = writes(&cluster.audit_log()?)?.len();
    ensure!(before > 0, "the audit log shows no write of Reservoir at all: is it the right one?");
    std::thread::sleep(pause);
    let after = writes(&cluster.audit_log()?)?;
    let news: Vec<_> = after.iter().skip(before).collect();
    ensure!(news.is_empty(), "in {} s of idleness it wrote {} times: {news:#?}", pause.as_secs(), news.len());
    say(format_args!("{} s of idleness: 0 writes ({before} before)", pause.as_secs()));
    Ok(())
}
