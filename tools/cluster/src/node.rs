//! Tier *node*: a real cluster of several nodes, made by kind.
//!
//! [`Cluster::up`] does nothing for a cluster that is up. [`Cluster::down`] removes everything that was started, and with it
//! the Docker daemon, if this program started it and nobody uses it any more. A failed or interrupted `up` removes its own
//! traces. Every function blocks: async callers use `spawn_blocking`.

use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::cache::Cache;
use crate::command::Cmd;
use crate::docker::{self, Docker};
use crate::progress::{Progress, say};
use crate::tools;

mod config;
mod freezer;
mod image;
mod loops;
mod network;

/// The longest wait for the nodes and the cluster's DNS.
const READY_WITHIN: Duration = Duration::from_secs(240);

/// Makes the images of nodes and pods in Docker. The first time on a machine takes many minutes.
pub fn prepare() -> anyhow::Result<()> {
    let cache = Cache::open()?;
    let _lock = docker::lock(&cache)?;
    let docker = Docker::connect(&cache)?;
    let prepared = image::ensure(&docker).and_then(|_| crate::image::ensure_bases(&docker));
    Docker::stop_if_idle(&cache)?;
    prepared
}

/// Name and size of a cluster.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The cluster's name, and the beginning of its nodes' names.
    pub name: String,
    /// The number of nodes, all of which take pods.
    pub nodes: usize,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { name: "reservoir".into(), nodes: 2 }
    }
}

/// A cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    made: Option<Made>,
}

/// The record of a cluster that this program made.
#[derive(Clone, Debug)]
struct Made {
    name: String,
    docker: Docker,
    kind: PathBuf,
}

impl Cluster {
    /// Returns the cluster, and makes it if it is not up. The first time on a machine takes many minutes.
    pub fn up(options: &NodeOptions) -> anyhow::Result<Self> {
        if options.nodes == 0 {
            bail!("a cluster needs at least one node");
        }
        let cache = Cache::open()?;
        let _lock = docker::lock(&cache)?;
        let made = Self::make(options, &cache);
        if made.is_err() {
            Docker::stop_if_idle(&cache)?;
        }
        made
    }

    /// The cluster of this name, if it is up.
    pub fn find(name: &str) -> anyhow::Result<Option<Self>> {
        let cache = Cache::open()?;
        let Some(docker) = Docker::running(&cache)? else { return Ok(None) };
        let cluster = Self::made(name, docker)?;
        let up = !cluster.containers(&[])?.is_empty() && cluster.kubeconfig.exists();
        Ok(up.then_some(cluster))
    }

    /// The user's cluster that `KUBECONFIG` names. This crate uses such a cluster and never changes it.
    pub fn from_kubeconfig() -> anyhow::Result<Self> {
        let kubeconfig = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
        let kubeconfig =
            kubeconfig.context("a cluster of one's own was asked for: set KUBECONFIG to its kubeconfig")?;
        let cluster = Self { kubeconfig: kubeconfig.into(), made: None };
        cluster.kubectl()?.args(["get", "nodes"]).timeout(Duration::from_secs(30)).run()?;
        Ok(cluster)
    }

    /// Removes the cluster of this name, and everything that was started for it. A missing cluster is no error.
    pub fn down(name: &str) -> anyhow::Result<()> {
        let cache = Cache::open()?;
        let _lock = docker::lock(&cache)?;
        if let Some(docker) = Docker::running(&cache)? {
            Self::made(name, docker)?.delete()?;
        }
        Docker::stop_if_idle(&cache)
    }

    /// The cluster's kubeconfig file.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The Docker daemon of the cluster's nodes; an error for a cluster of the user.
    pub fn docker(&self) -> anyhow::Result<&Docker> {
        Ok(&self.own()?.docker)
    }

    /// A kubectl command for the cluster.
    pub fn kubectl(&self) -> anyhow::Result<Cmd> {
        Ok(Cmd::new(tools::kubectl()?).arg("--kubeconfig").arg(&self.kubeconfig))
    }

    /// The names of the cluster's nodes, in order.
    pub fn node_names(&self) -> anyhow::Result<Vec<String>> {
        let listed = self.kubectl()?.args(["get", "nodes", "--output=name"]).run()?;
        let mut names: Vec<_> =
            listed.lines().map(|line| line.trim_start_matches("node/").to_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Runs a command as root on a node and returns its standard output.
    pub fn exec(&self, node: &str, command: &[&str]) -> anyhow::Result<String> {
        self.own()?.docker.cmd(["exec", node]).args(command).run()
    }

    /// Takes a node out of the cluster, as if its machine were about to be installed: [`join`](Self::join) is for such a node.
    pub fn retire(&self, node: &str) -> anyhow::Result<()> {
        self.exec(node, &["systemctl", "stop", "kubelet"])?;
        // The node will have another range of pod addresses, and must not be Ready with this one.
        self.exec(node, &["rm", "--force", "/etc/cni/net.d/10.conflist"])?;
        self.kubectl()?.args(["delete", "node", node]).run().map(drop)
    }

    /// Starts the kubelet of a retired node, which registers its Node with these arguments, and waits until the node is ready.
    ///
    /// The node's /etc is read-only from then on, as on systems that come as an image, such as Talos.
    pub fn join(&self, node: &str, kubelet_args: &str) -> anyhow::Result<()> {
        let set = format!("s|^KUBELET_EXTRA_ARGS=|&{kubelet_args} |");
        self.exec(node, &["sed", "--in-place", &set, "/etc/default/kubelet"])?;
        // Networks put their files into /etc/cni.
        let freeze =
            "mount --rbind /etc /etc && mount --bind /etc/cni /etc/cni && mount -o remount,bind,ro /etc";
        self.exec(node, &["sh", "-c", freeze])?;
        ensure!(self.exec(node, &["mkdir", "/etc/lvm"]).is_err(), "/etc of {node} can still be written to");
        self.exec(node, &["systemctl", "start", "kubelet"])?;
        let node = format!("node/{node}");
        let wait =
            |until: &str| self.kubectl()?.args(["wait", &node, until, "--timeout=120s"]).run().map(drop);
        wait("--for=create")?;
        wait("--for=jsonpath={.spec.podCIDR}")?;
        let docker = self.docker()?;
        if image::ensure(docker)?.composed {
            network::set_up(docker, || self.kubectl(), &self.directory()?)?;
        }
        wait("--for=condition=Ready")
    }

    /// Removes a node's machine with its disks, and deletes its Node.
    pub fn lose(&self, node: &str) -> anyhow::Result<()> {
        let docker = self.docker()?;
        let loops = loops::backed_by(&volumes(docker, &[node.to_owned()])?)?;
        docker.cmd(["rm", "--force", "--volumes", node]).run()?;
        loops::detach(&loops)?;
        self.kubectl()?.args(["delete", "node", node]).run().map(drop)
    }

    /// Puts the images of an archive, as `docker save` writes it, on every node.
    pub fn load_archive(&self, archive: &Path) -> anyhow::Result<()> {
        self.kind()?.args(["load", "image-archive", "--name", &self.own()?.name]).arg(archive).run()?;
        Ok(())
    }

    /// Puts an image from Docker on every node that lacks the image.
    pub fn load_image(&self, name: &str) -> anyhow::Result<()> {
        let Made { name: cluster, docker, .. } = self.own()?;
        let id = docker.cmd(["image", "inspect", "--format", "{{.Id}}", name]).run()?;
        // containerd keeps every image under its ID, too, so a node with the image needs only its name.
        let tag = ["ctr", "--namespace=k8s.io", "images", "tag", "--force", id.trim(), name];
        let has = |node: &String| docker.cmd(["exec", node]).args(tag).succeeds();
        if self.containers(&[])?.iter().all(has) {
            return Ok(());
        }
        let load = self.kind()?.args(["load", "docker-image", "--name", cluster, name]);
        load.progress(format!("loading {name} into the nodes")).run()?;
        Ok(())
    }

    /// The audit log of the API server, one JSON object per line.
    pub fn audit_log(&self) -> anyhow::Result<String> {
        self.exec(&format!("{}-control-plane", self.own()?.name), &["cat", config::AUDIT_LOG])
    }

    /// Applies manifests, and returns what kubectl prints.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        let mut file = tempfile::tempfile()?;
        file.write_all(manifests.as_bytes())?;
        file.rewind()?;
        self.kubectl()?.args(["apply", "-f", "-"]).stdin(file).run()
    }

    /// The CPU time that the API server has used since its start.
    pub fn cpu_of_api_server(&self) -> anyhow::Result<Duration> {
        let node = format!("{}-control-plane", self.own()?.name);
        let stat = self.exec(&node, &["sh", "-c", "cat /proc/$(pgrep -x kube-apiserver)/stat"])?;
        // The fields after the name, which is in parentheses: utime and stime are the 14th and 15th of all (proc(5)).
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        let ticks: Vec<u64> = fields.skip(11).take(2).map_while(|field| field.parse().ok()).collect();
        ensure!(ticks.len() == 2, "no CPU time is in {stat:?}");
        Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second()))
    }

    fn made(name: &str, docker: Docker) -> anyhow::Result<Self> {
        let usual = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if name.is_empty() || !name.chars().all(usual) {
            bail!("{name:?} is no name for a cluster: it may have a to z, 0 to 9 and -");
        }
        let kubeconfig = docker.cache().root().join("clusters").join(name).join("kubeconfig");
        let made = Made { name: name.to_owned(), docker, kind: tools::kind()? };
        Ok(Self { kubeconfig, made: Some(made) })
    }

    fn make(options: &NodeOptions, cache: &Cache) -> anyhow::Result<Self> {
        let docker = Docker::connect(cache)?;
        let cluster = Self::made(&options.name, docker)?;
        let (all, running) = (cluster.containers(&["--all"])?.len(), cluster.containers(&[])?.len());
        if running > 0 && running == all && cluster.is_ready() {
            if running != options.nodes {
                bail!(
                    "cluster {name} is up with {running} nodes, not {}; remove it first: reservoir-cluster down --name {name}",
                    options.nodes,
                    name = options.name,
                );
            }
            return Ok(cluster);
        }
        if all > 0 {
            say(format_args!("cluster {} is there and not well; making it anew", options.name));
            cluster.delete()?;
        }
        if let Err(error) = cluster.create(options.nodes) {
            return Err(match cluster.delete() {
                Ok(()) => error,
                Err(left) => error.context(format!("what was begun could not be removed: {left:#}")),
            });
        }
        Ok(cluster)
    }

    fn create(&self, nodes: usize) -> anyhow::Result<()> {
        let Made { name, docker, .. } = self.own()?;
        let node_image = image::ensure(docker)?;
        let dir = self.directory()?;
        fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let (policy, config) = (dir.join("audit-policy.yaml"), dir.join("kind.json"));
        fs::write(&policy, crate::AUDIT_POLICY)?;
        let wanted = config::kind_config(nodes, &policy, node_image.composed);
        fs::write(&config, serde_json::to_vec_pretty(&wanted)?)?;
        self.kind()?
            .args(["create", "cluster", "--name", name, "--image", &node_image.name, "--config"])
            .arg(&config)
            .progress(format!("creating the kind cluster {name} with {nodes} nodes"))
            .run()?;
        if node_image.composed {
            network::set_up(docker, || self.kubectl(), &dir)?;
        }
        self.wait_ready()?;
        for node in self.node_names()? {
            self.exec(&node, &["mkdir", "-p", "/var/lib/reservoir"])?;
        }
        Ok(())
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        let limit = format!("--timeout={}s", READY_WITHIN.as_secs());
        let wait = |what: &[&str], title: &str| -> anyhow::Result<String> {
            self.kubectl()?.arg("wait").args(what).arg(&limit).progress(title).run()
        };
        let dns = ["deployment/coredns", "--namespace=kube-system", "--for=condition=Available"];
        wait(&["node", "--all", "--for=condition=Ready"], "waiting until the nodes are ready")
            .and_then(|_| wait(&dns, "waiting until DNS is available"))
            .map(drop)
            .map_err(|error| {
                let state = self.kubectl().and_then(|kubectl| {
                    kubectl.args(["get", "nodes,pods", "--all-namespaces", "--output=wide"]).run()
                });
                error.context(state.unwrap_or_default())
            })
    }

    fn is_ready(&self) -> bool {
        let wait = ["wait", "node", "--all", "--for=condition=Ready", "--timeout=30s"];
        self.kubeconfig.exists() && self.kubectl().is_ok_and(|kubectl| kubectl.args(wait).succeeds())
    }

    fn delete(&self) -> anyhow::Result<()> {
        let Made { name, docker, .. } = self.own()?;
        // A node that an interrupted `up` was making appears late, so the removal is repeated.
        for _ in 0..3 {
            let containers = self.containers(&["--all"])?;
            if containers.is_empty() {
                break;
            }
            let progress = Progress::start(format!("removing the kind cluster {name}"));
            // The devices are found while their files exist, and detached when nobody uses the files any more.
            let loops = loops::backed_by(&volumes(docker, &containers)?)?;
            freezer::thaw(&containers);
            self.kind()?.args(["delete", "cluster", "--name", name]).cleanup().run()?;
            loops::detach(&loops)?;
            progress.done();
        }
        let dir = self.directory()?;
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to remove {}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// The running containers of the nodes; with `--all` the stopped containers, too.
    fn containers(&self, args: &[&str]) -> anyhow::Result<Vec<String>> {
        let Made { name, docker, .. } = self.own()?;
        let label = format!("label=io.x-k8s.kind.cluster={name}");
        let listed = docker.cmd(["ps", "--quiet", "--filter", &label]).args(args).cleanup().run()?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// A kind command with Docker and the kubeconfig set.
    fn kind(&self) -> anyhow::Result<Cmd> {
        let Made { docker, kind, .. } = self.own()?;
        Ok(docker.tell(Cmd::new(kind)).env("KUBECONFIG", &self.kubeconfig))
    }

    fn directory(&self) -> anyhow::Result<PathBuf> {
        let Made { name, docker, .. } = self.own()?;
        Ok(docker.cache().root().join("clusters").join(name))
    }

    fn own(&self) -> anyhow::Result<&Made> {
        self.made
            .as_ref()
            .context("this can only be done to a cluster that reservoir-cluster made, not to one's own")
    }
}

/// The directories of the containers' volumes on this machine.
fn volumes(docker: &Docker, containers: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let format = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{println .Source}}{{end}}{{end}}";
    let listed = docker.cmd(["inspect", "--format", format]).args(containers).cleanup().run()?;
    Ok(listed.lines().filter(|line| !line.trim().is_empty()).map(PathBuf::from).collect())
}
