//! A real agent with real volumes in a directory. Only the kubelet is missing: the tests call CSI themselves.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeSpec, Pod};
use kube::api::Api;
use kube::config::Kubeconfig;
use kube::{Client, ResourceExt};
use reservoir::agent;
use reservoir::api::{NodeDisk, VolumeClaim};
use reservoir::csi::proto::csi::node_client::NodeClient;
use reservoir::csi::proto::csi::volume_capability::access_mode::Mode;
use reservoir::csi::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use reservoir::csi::proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use reservoir::telemetry::Metrics;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use super::cluster::client_called;
use super::{AGENT_AGENT, Cluster, until, until_reason};

/// The user name of the agents' service account in the tests.
pub const AGENT_USER: &str = "system:serviceaccount:reservoir-system:reservoir-agent";

/// The user name of the controller's service account in the tests.
pub const CONTROLLER_USER: &str = "system:serviceaccount:reservoir-system:reservoir-controller";

/// A kubeconfig for the agent of `node`, with the user that the agent's token would have.
pub fn agent_kubeconfig(cluster: &Cluster, node: &str) -> Kubeconfig {
    let mut kubeconfig = cluster.server.kubeconfig().unwrap();
    let node = ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
    for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth_info.impersonate = Some(AGENT_USER.into());
        // The chart's RBAC for agents is tested elsewhere.
        auth_info.impersonate_groups = Some(vec!["system:masters".into()]);
        auth_info.impersonate_user_extra = Some([node.clone()].into());
    }
    kubeconfig
}

/// The same with the UID of the Node, which the tokens of pods have.
async fn kubeconfig_on_node(cluster: &Cluster, node: &str) -> Kubeconfig {
    let mut kubeconfig = agent_kubeconfig(cluster, node);
    let uid = cluster.all::<Node>().get(node).await.unwrap().uid().unwrap();
    for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        let extra = auth_info.impersonate_user_extra.get_or_insert_default();
        extra.insert("authentication.kubernetes.io/node-uid".to_owned(), vec![uid.clone()]);
    }
    kubeconfig
}

/// A real agent for a node without a machine, with a disk in a directory.
pub struct Agent {
    pub node: String,
    pub dir: PathBuf,
    running: Option<Running>,
    client: Option<Client>,
    kubeconfig: PathBuf,
    /// True if the agent takes part in copies.
    copies: bool,
    /// See [`Cluster::look_again`] and [`Cluster::wake`].
    looks: (Duration, bool),
    /// The time between two reports of the disks, of an agent in this process.
    pub measure_every: Duration,
    _temp: tempfile::TempDir,
}

/// A cluster with node `n1`, whose agent serves a disk of this size.
pub async fn one_node(size: &str) -> (Cluster, Agent) {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", size).await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    (cluster, agent)
}

/// The configuration of one disk of that size, in the agent's directory.
fn one_disk(capacity: &str) -> impl FnOnce(&Path) -> String {
    let capacity = capacity.to_owned();
    move |dir| {
        let path = dir.join("disk");
        format!(
            "[{{name: default, path: {}, capacity: {capacity}, requireMount: false, systemReserved: 0}}]",
            path.display()
        )
    }
}

enum Running {
    Task(JoinHandle<()>),
    Process(Child),
}

impl Agent {
    /// Starts the agent. The disk's directory is on a file system with direct I/O, not in memory.
    pub async fn start(cluster: &Cluster, node: &str, capacity: &str) -> Self {
        let client = client_called(agent_kubeconfig(cluster, node), AGENT_AGENT).await;
        Self::start_as(cluster, node, capacity, Some(client))
    }

    /// Starts the agent with the given disks, a list in YAML.
    pub async fn start_with_disks(cluster: &Cluster, node: &str, disks: &str) -> Self {
        let client = client_called(agent_kubeconfig(cluster, node), AGENT_AGENT).await;
        Self::start_with(cluster, node, |_| disks.to_owned(), Some(client))
    }

    /// Starts the agent in a process of its own, so that a test can kill it.
    pub fn start_process(cluster: &Cluster, node: &str, capacity: &str) -> Self {
        Self::start_as(cluster, node, capacity, None)
    }

    /// Starts an agent that takes part in copies; in a process of its own, which a test can kill, if so asked.
    pub async fn start_copying(cluster: &Cluster, node: &str, capacity: &str, in_process: bool) -> Self {
        let client = match in_process {
            true => None,
            false => Some(client_called(agent_kubeconfig(cluster, node), AGENT_AGENT).await),
        };
        let mut agent = Self::prepare(cluster, node, one_disk(capacity), client);
        agent.copies = true;
        agent.run();
        agent
    }

    /// The same in this process, with the given disks.
    pub async fn start_copying_between(
        cluster: &Cluster,
        node: &str,
        disks: impl FnOnce(&Path) -> String,
    ) -> Self {
        let client = client_called(agent_kubeconfig(cluster, node), AGENT_AGENT).await;
        let mut agent = Self::prepare(cluster, node, disks, Some(client));
        agent.copies = true;
        agent.run();
        agent
    }

    /// Starts the agent of the Node that has the name now, as its token names it.
    pub async fn start_on_node(cluster: &Cluster, node: &str, disks: impl FnOnce(&Path) -> String) -> Self {
        let client = client_called(kubeconfig_on_node(cluster, node).await, AGENT_AGENT).await;
        Self::start_with(cluster, node, disks, Some(client))
    }

    /// Starts a killed agent again, on the Node that has its node's name now.
    pub async fn run_on_node(&mut self, cluster: &Cluster) {
        let kubeconfig = kubeconfig_on_node(cluster, &self.node).await;
        self.client = Some(client_called(kubeconfig, AGENT_AGENT).await);
        self.run();
    }

    fn start_as(cluster: &Cluster, node: &str, capacity: &str, client: Option<Client>) -> Self {
        Self::start_with(cluster, node, one_disk(capacity), client)
    }

    fn start_with(
        cluster: &Cluster,
        node: &str,
        disks: impl FnOnce(&Path) -> String,
        client: Option<Client>,
    ) -> Self {
        let mut agent = Self::prepare(cluster, node, disks, client);
        agent.run();
        agent
    }

    fn prepare(
        cluster: &Cluster,
        node: &str,
        disks: impl FnOnce(&Path) -> String,
        client: Option<Client>,
    ) -> Self {
        let temp = tempfile::Builder::new().prefix("reservoir-test-").tempdir_in("/var/tmp").unwrap();
        let dir = temp.path().to_owned();
        for sub in ["disk", "kubelet/plugins", "kubelet/plugins_registry", "kubelet/pods"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        std::fs::write(dir.join("agent.yaml"), format!("disks: {}", disks(&dir))).unwrap();
        let kubeconfig = dir.join("kubeconfig");
        let text = serde_json::to_vec(&agent_kubeconfig(cluster, node)).unwrap();
        std::fs::write(&kubeconfig, text).unwrap();
        let looks = (cluster.look_again, cluster.wake);
        let copies = false;
        let measure_every = Duration::from_secs(5);
        let node = node.into();
        Self { node, dir, running: None, client, kubeconfig, copies, looks, measure_every, _temp: temp }
    }

    /// Starts a killed agent again.
    pub fn run(&mut self) {
        self.running = Some(match self.client.clone() {
            Some(client) => Running::Task(tokio::spawn(self.task(client))),
            None => Running::Process(self.process()),
        });
    }

    fn task(&self, client: Client) -> impl Future<Output = ()> + use<> {
        let options = agent::Options {
            node: self.node.clone(),
            config: agent::Config::read(&self.dir.join("agent.yaml")).unwrap(),
            kubelet_dir: self.dir.join("kubelet"),
            nri_socket: self.dir.join("nri.sock"),
            copies: self.copies.then(|| "127.0.0.1:0".parse().unwrap()),
            measure_every: self.measure_every,
            look_again: self.looks.0,
            wake: self.looks.1,
        };
        async move {
            let ready = Arc::new(AtomicBool::new(false));
            let ran =
                agent::run(client, options, Arc::new(Metrics::default()), ready, std::future::pending())
                    .await;
            ran.unwrap();
        }
    }

    fn process(&self) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        // setpriv becomes the program, so that the program ends whenever the test ends.
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_reservoir"), "agent"])
            .args([
                "--node-name",
                &self.node,
                "--measure-seconds",
                "5",
                "--metrics-bind-address",
                "127.0.0.1:0",
            ])
            .args(if self.copies { &["--copies-port", "0", "--copies-host", "127.0.0.1"][..] } else { &[] })
            .arg("--config")
            .arg(self.dir.join("agent.yaml"))
            .arg("--kubelet-dir")
            .arg(self.dir.join("kubelet"))
            .env("KUBECONFIG", &self.kubeconfig)
            // The chart sets this, too.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Ends the agent like a crash; a process by SIGKILL.
    pub async fn kill(&mut self) {
        match self.running.take() {
            Some(Running::Task(task)) => {
                task.abort();
                let _ = task.await;
            }
            Some(Running::Process(mut child)) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            None => {}
        }
    }

    /// The number of an agent that is a process of its own.
    pub fn pid(&self) -> u32 {
        match &self.running {
            Some(Running::Process(child)) => child.id(),
            _ => panic!("the agent of {} is no process of its own", self.node),
        }
    }

    /// True while the agent runs.
    pub fn alive(&mut self) -> bool {
        match &mut self.running {
            Some(Running::Task(task)) => !task.is_finished(),
            Some(Running::Process(child)) => child.try_wait().unwrap().is_none(),
            None => false,
        }
    }

    /// UIDs of the volumes on the agent's disk.
    pub fn backings(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("disk/volumes")).unwrap();
        let mut found: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        found
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        targets.filter(|target| Path::new(target).starts_with(&self.dir)).map(str::to_owned).collect()
    }

    fn loops(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(file.trim()).starts_with(&self.dir) {
                found.push(Path::new("/dev").join(entry.file_name()));
            }
        }
        found
    }

    /// Asserts that nothing is mounted, no loop device is attached, and no volume is on the disk.
    pub async fn nothing_left(&self) {
        until("the node has nothing left", || async {
            let left = (self.backings(), self.mounts(), self.loops());
            (left.0.is_empty() && left.1.is_empty() && left.2.is_empty()).then_some(())
        })
        .await;
    }

    pub fn data_file(&self, volume_uid: &str) -> PathBuf {
        self.dir.join("disk/volumes").join(volume_uid).join("data")
    }

    /// Changes the first byte of the content of a volume on the disk.
    pub fn flip(&self, volume_uid: &str, content: &[u8]) {
        let path = self.data_file(volume_uid);
        let image = std::fs::read(&path).unwrap();
        let at = image.windows(content.len()).position(|window| window == content).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"?", at as u64).unwrap();
        file.sync_all().unwrap();
    }
}

impl Agent {
    /// A client of the agent's CSI socket, in the place of the kubelet.
    pub async fn csi(&self) -> NodeClient<Channel> {
        let path = self.dir.join("kubelet/plugins/csi.reservoir.dev/csi.sock");
        let channel = until("the agent serves CSI", || async {
            let path = path.clone();
            let connect = tower::service_fn(move |_| {
                let path = path.clone();
                async move {
                    Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                        tokio::net::UnixStream::connect(path).await?,
                    ))
                }
            });
            Endpoint::from_static("http://agent").connect_with_connector(connect).await.ok()
        })
        .await;
        NodeClient::new(channel)
    }

    /// Publishes the PersistentVolume of a claim for a pod, as the kubelet does; returns the target.
    pub async fn publish(
        &self,
        cluster: &Cluster,
        claim: &VolumeClaim,
        pod: &Pod,
        read_only: bool,
    ) -> Result<PathBuf, tonic::Status> {
        let name = claim.status.as_ref().and_then(|s| s.persistent_volume.clone()).unwrap();
        let volumes: Api<PersistentVolume> = cluster.all();
        let spec = volumes.get(&name).await.unwrap().spec.unwrap();
        self.publish_volume(spec, claim, pod, read_only).await
    }

    /// Publishes the given PersistentVolume, which may be gone from the API server.
    pub async fn publish_volume(
        &self,
        spec: PersistentVolumeSpec,
        claim: &VolumeClaim,
        pod: &Pod,
        read_only: bool,
    ) -> Result<PathBuf, tonic::Status> {
        let source = spec.csi.unwrap();
        let access_type = match spec.volume_mode.as_deref() {
            Some("Block") => AccessType::Block(BlockVolume {}),
            _ => AccessType::Mount(MountVolume {
                fs_type: source.fs_type.clone().unwrap_or_default(),
                mount_flags: spec.mount_options.clone().unwrap_or_default(),
                ..Default::default()
            }),
        };
        let mode = match spec.access_modes.iter().flatten().map(String::as_str).next() {
            Some("ReadWriteOnce") => Mode::SingleNodeMultiWriter,
            Some("ReadWriteOncePod") => Mode::SingleNodeSingleWriter,
            Some("ReadOnlyMany") => Mode::MultiNodeReaderOnly,
            _ => Mode::MultiNodeMultiWriter,
        };
        let pod_uid = pod.uid().unwrap();
        let mut context = source.volume_attributes.unwrap();
        for (key, value) in
            [("name", pod.name_any()), ("namespace", pod.namespace().unwrap()), ("uid", pod_uid.clone())]
        {
            context.insert(format!("csi.storage.k8s.io/pod.{key}"), value);
        }
        let target = self.target(claim, pod);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let request = NodePublishVolumeRequest {
            volume_id: source.volume_handle,
            target_path: target.display().to_string(),
            readonly: read_only,
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: mode.into() }),
                access_type: Some(access_type),
            }),
            volume_context: context.into_iter().collect(),
            ..Default::default()
        };
        self.csi().await.node_publish_volume(request).await.map(|_| target)
    }

    pub async fn unpublish(&self, claim: &VolumeClaim, pod: &Pod) -> Result<(), tonic::Status> {
        let volume = claim.status.as_ref().and_then(|s| s.volume.clone()).unwrap();
        let request = NodeUnpublishVolumeRequest {
            volume_id: format!("{}.{}", volume.uid, claim.uid().unwrap()),
            target_path: self.target(claim, pod).display().to_string(),
        };
        self.csi().await.node_unpublish_volume(request).await.map(|_| ())
    }

    fn target(&self, claim: &VolumeClaim, pod: &Pod) -> PathBuf {
        let pod = self.dir.join("kubelet/pods").join(pod.uid().unwrap());
        pod.join("volumes/kubernetes.io~csi").join(claim.name_any()).join("mount")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        match &mut self.running {
            Some(Running::Task(task)) => task.abort(),
            Some(Running::Process(child)) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            None => {}
        }
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.log())
        {
            eprintln!("the agent's log:\n{log}");
        }
        // Cleans up after a failed test: first the mounts beneath this directory, then the loop devices of files in
        // it.
        for target in self.mounts() {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty());
        }
        for device in self.loops() {
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
}
