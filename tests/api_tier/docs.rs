//! Every command of the documentation, run as a reader would, page by page in the order of the page: with a real API
//! server, the real controller and real agents, and no kubelet. `reservoir_cluster::pages` documents the kinds of
//! fences.
//!
//! Each page is a test, so `cargo test --test api_tier docs::give_a_team_a_quota` runs one; `--nocapture` shows the
//! output.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kube::api::DynamicObject;
use reservoir::api::NodeDisk;
use reservoir_cluster::pages::{self, Page, Shell, Tier};
use reservoir_cluster::tools;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::{Cluster, agent_kubeconfig, everything, strip_and_delete, until_reason};

/// The nodes of the demo's cluster, so that the output is the same.
const NODES: [&str; 2] = ["reservoir-control-plane", "reservoir-worker"];

/// Nobody runs the controller's pod here: `kubectl exec` into the pod runs the program instead.
const KUBECTL: &str = r#"#!/bin/sh
case " $* " in *" exec deploy/reservoir-controller -- "*)
    while [ "$1" != -- ]; do shift; done
    shift
    exec "$@" ;;
esac
exec KUBECTL "$@"
"#;

/// Reservoir's kinds and policies already exist, and Helm did not make them.
const HELM: &str = r#"#!/bin/sh
case "$1" in install | upgrade) exec HELM "$@" --take-ownership --force-conflicts ;; esac
exec HELM "$@"
"#;

/// Runs a command with the page's own directory as /srv.
const SRV: &str = r#"mount --bind "$0" /srv && exec "$@""#;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The cluster and directories that a page runs in.
struct Place {
    runtime: Runtime,
    cluster: Cluster,
    agents: BTreeMap<String, Agent>,
    dir: tempfile::TempDir,
}

/// An agent in a process of its own.
struct Agent {
    process: Child,
    /// The agent's disk and kubelet directory.
    home: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Place {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let cluster = runtime.block_on(start());
        // The directory is on a file system with direct I/O, not in memory.
        let dir = tempfile::Builder::new().prefix("reservoir-test-").tempdir_in("/var/tmp").unwrap();
        std::fs::create_dir_all(dir.path().join("srv/data")).unwrap();
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        let programs = [("kubectl", KUBECTL, tools::kubectl()), ("helm", HELM, tools::helm())];
        for (name, script, program) in programs {
            let path = dir.path().join("bin").join(name);
            let program = program.unwrap().display().to_string();
            std::fs::write(&path, script.replace(&name.to_uppercase(), &program)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut place = Self { runtime, cluster, agents: BTreeMap::new(), dir };
        place.write_kubeconfig();
        for node in NODES {
            place.start_agent(node, place.dir.path().join(node));
        }
        place
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn write_kubeconfig(&self) {
        let text = serde_json::to_vec(&self.cluster.server.kubeconfig().unwrap()).unwrap();
        std::fs::write(self.kubeconfig(), text).unwrap();
    }

    /// The command prefix that gives a page's programs their own /srv.
    fn within(&self) -> Vec<String> {
        let srv = self.dir.path().join("srv").display().to_string();
        ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", SRV, &srv]
            .map(str::to_owned)
            .into()
    }

    fn start_agent(&mut self, node: &str, home: PathBuf) {
        for sub in ["disk", "kubelet/plugins", "kubelet/plugins_registry", "kubelet/pods"] {
            std::fs::create_dir_all(home.join(sub)).unwrap();
        }
        let disk = json!({"name": "default", "path": home.join("disk"), "capacity": "8Gi", "systemReserved": "1Gi", "requireMount": false,
            "adoptRoots": ["/srv/data"], "allowUnenforced": true});
        std::fs::write(home.join("agent.yaml"), json!({"disks": [disk]}).to_string()).unwrap();
        let kubeconfig = serde_json::to_vec(&agent_kubeconfig(&self.cluster, node)).unwrap();
        std::fs::write(home.join("kubeconfig"), kubeconfig).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(home.join("log")).unwrap();
        let within = self.within();
        // setpriv becomes the program, so that the program ends whenever the test ends.
        let process = Command::new(&within[0])
            .args(&within[1..])
            .args(["setpriv", "--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_reservoir"), "agent"])
            .args(["--node-name", node, "--measure-seconds", "2", "--metrics-bind-address", "127.0.0.1:0"])
            .args(["--copies-port", "0", "--copies-host", "127.0.0.1"])
            .arg("--config")
            .arg(home.join("agent.yaml"))
            .arg("--kubelet-dir")
            .arg(home.join("kubelet"))
            .env("KUBECONFIG", home.join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agents.insert(node.to_owned(), Agent { process, home });
        self.runtime.block_on(self.cluster.node(node, true));
    }

    /// Plays an event that no command causes, from a line of a `play` block.
    fn play(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["lost", "node", node] => {
                self.agents.remove(node).unwrap();
                self.runtime.block_on(self.cluster.node(node, false));
            }
            ["copied", "disk", "of", node] => {
                let home = self.agents.remove(node).unwrap().home.clone();
                let (disk, copy) = (home.join("disk"), home.join("copy"));
                let cp =
                    Command::new("cp").args(["--archive", "--sparse=never"]).arg(&disk).arg(&copy).status();
                assert!(cp.unwrap().success(), "cp of {}", disk.display());
                std::fs::remove_dir_all(&disk).unwrap();
                std::fs::rename(&copy, &disk).unwrap();
                self.start_agent(node, home);
            }
            ["lost", "disk", "of", node] => {
                let home = self.agents.remove(node).unwrap().home.clone();
                std::fs::remove_dir_all(home.join("disk")).unwrap();
                self.start_agent(node, home);
            }
            ["moved", "disk", "of", node, "to", other] => {
                let agent = self.agents.remove(node).unwrap();
                let home = agent.home.clone();
                drop(agent);
                self.runtime.block_on(self.cluster.node(node, false));
                self.start_agent(other, home);
            }
            ["lost", "cluster"] => {
                let agents = std::mem::take(&mut self.agents);
                let homes: Vec<_> =
                    agents.iter().map(|(node, agent)| (node.clone(), agent.home.clone())).collect();
                drop(agents);
                self.cluster = self.runtime.block_on(start());
                self.write_kubeconfig();
                for (node, home) in homes {
                    self.start_agent(&node, home);
                }
            }
            ["lost", "object", kind, name] => self.runtime.block_on(lose(&self.cluster, kind, name)),
            _ => panic!("`{line}` is not known"),
        }
    }

    fn run(mut self, page: &Page) -> BTreeMap<&'static str, usize> {
        for node in NODES {
            let disks = self.cluster.all::<NodeDisk>();
            self.runtime.block_on(until_reason(&disks, &format!("{node}.default"), "Ready"));
        }
        let bin = Path::new(env!("CARGO_BIN_EXE_reservoir")).parent().unwrap().to_owned();
        let programs = vec![self.dir.path().join("bin"), bin];
        let shell = Shell::new(repository(), self.kubeconfig(), programs, self.within()).unwrap();
        let done = pages::run(page, Tier::Api, &shell, |line| {
            self.play(line);
            Ok(())
        });
        let counts = done.unwrap_or_else(|error| {
            for (node, agent) in &self.agents {
                println!("{node}:\n{}", std::fs::read_to_string(agent.home.join("log")).unwrap());
            }
            panic!("{error:#}")
        });
        let left = self.runtime.block_on(everything(&self.cluster));
        let left: Vec<_> = left.into_keys().filter(|object| !object.starts_with("NodeDisk ")).collect();
        assert_eq!(left, Vec::<String>::new(), "{} does not undo what it did", page.path.display());
        counts
    }
}

/// Reservoir as the chart installs it, without the pods, which nobody runs here.
async fn start() -> Cluster {
    let cluster = Cluster::start().await;
    let roles = std::fs::read_to_string(repository().join("charts/reservoir/files/clusterroles.yaml"));
    cluster.apply_text(&roles.unwrap()).await;
    cluster
}

/// Deletes an object in spite of its finalizer.
async fn lose(cluster: &Cluster, kind: &str, name: &str) {
    let one = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind, "metadata": {"name": name}});
    let object: DynamicObject = serde_json::from_value(one).unwrap();
    strip_and_delete(&cluster.untyped(&object), name).await;
}

/// A test for each page. A page runs in its own cluster, and undoes its changes.
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        const PAGES: &[&str] = &[$($path),*];
        $(#[test]
        fn $name() {
            run($path);
        })*
    };
}

pages! {
    contributing: "CONTRIBUTING.md",
    readme: "README.md",
    chart_readme: "charts/reservoir/README.md",
    docs_readme: "docs/README.md",
    api: "docs/api.md",
    comparison: "docs/comparison.md",
    concepts: "docs/concepts.md",
    conformance: "docs/conformance.md",
    design: "docs/design.md",
    glossary: "docs/glossary.md",
    autoscaled_nodes: "docs/how-to/autoscaled-nodes.md",
    back_up_and_restore: "docs/how-to/back-up-and-restore.md",
    fill_a_volume: "docs/how-to/fill-a-volume.md",
    find_disks: "docs/how-to/find-disks.md",
    give_a_team_a_quota: "docs/how-to/give-a-team-a-quota.md",
    monitor: "docs/how-to/monitor.md",
    move_existing_data: "docs/how-to/move-existing-data.md",
    recover_a_cluster: "docs/how-to/recover-a-cluster.md",
    replace_a_disk: "docs/how-to/replace-a-disk.md",
    replace_a_node: "docs/how-to/replace-a-node.md",
    restore_a_namespace: "docs/how-to/restore-a-namespace.md",
    serve_from_every_node: "docs/how-to/serve-from-every-node.md",
    share_a_data_set: "docs/how-to/share-a-data-set.md",
    undo_a_delete: "docs/how-to/undo-a-delete.md",
    uninstall: "docs/how-to/uninstall.md",
    upgrade: "docs/how-to/upgrade.md",
    kubectl: "docs/kubectl.md",
    metrics: "docs/metrics.md",
    operations: "docs/operations.md",
    performance: "docs/performance.md",
    platforms: "docs/platforms.md",
    reliability: "docs/reliability.md",
    security: "docs/security.md",
    semantics: "docs/semantics.md",
}

fn all_pages() -> Vec<Page> {
    Page::all(repository(), &[]).unwrap()
}

fn run(path: &str) {
    let page = all_pages().into_iter().find(|page| page.path == Path::new(path)).unwrap();
    let counts = match page.is_for_api_tier() {
        true => Place::new().run(&page),
        false => read(&page),
    };
    println!("{path}: {counts:?}");
}

#[test]
fn every_page_has_a_test() {
    let there: Vec<_> = all_pages().iter().map(|page| page.path.display().to_string()).collect();
    assert_eq!(there, PAGES);
}

/// Parses the blocks of a page without running them.
fn read(page: &Page) -> BTreeMap<&'static str, usize> {
    let shell = Shell::new(repository(), PathBuf::new(), Vec::new(), vec!["env".into()]).unwrap();
    pages::run(page, Tier::Api, &shell, |line| panic!("{line}: nothing to play it with")).unwrap()
}

/// Each link to a file has a target.
#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for page in all_pages() {
        let path = repository().join(&page.path);
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            links += 1;
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.path.display());
            if !heading.is_empty() {
                let headings = std::fs::read_to_string(&target).unwrap();
                let found =
                    headings.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(found, "{}: {link}: there is no such heading", page.path.display());
            }
        }
    }
    assert!(links > 10, "{links} links were found");
}

/// The anchor that GitHub makes from a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let text = text.replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}
