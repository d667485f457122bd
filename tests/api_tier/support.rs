//! What the tests of the api tier share: a real API server with Reservoir's kinds and policies, the real controller,
//! and real agents that keep real volumes in a directory. Only the kubelet is missing; the tests call CSI themselves.

use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::config::Kubeconfig;
use kube::core::discovery::ApiResource;
use kube::core::object::HasStatus;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Event, watcher};
use kube::{Client, Resource, ResourceExt};
use reservoir::api::condition::{self, READY};
use reservoir::api::{DiskReservation, LedgerEntry, NodeDisk, SharedPersistentVolume, Size, VolumeClaim};
use reservoir::csi::proto::csi::node_client::NodeClient;
use reservoir::csi::proto::csi::volume_capability::access_mode::Mode;
use reservoir::csi::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use reservoir::csi::proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use reservoir::telemetry::{Metrics, log_filter};
use reservoir::{agent, controller};
use reservoir_cluster::api::{ApiOptions, ApiServer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// A cluster of the api tier with Reservoir in it.
pub struct Cluster {
    pub server: ApiServer,
    pub client: Client,
    controllers: Mutex<Vec<JoinHandle<()>>>,
}

/// What the controller calls itself towards the API server, in the tests.
pub const CONTROLLER_AGENT: &str = "reservoir-controller/test";
/// What the agents call themselves towards the API server, in the tests.
pub const AGENT_AGENT: &str = "reservoir-agent/test";

/// A client that the audit log tells from others.
async fn client_called(kubeconfig: Kubeconfig, name: &'static str) -> Client {
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(name)));
    Client::try_from(config).unwrap()
}

impl Cluster {
    /// Starts it: kinds, policies, controller.
    pub async fn start() -> Self {
        Self::start_with(ApiOptions { controller_manager: true, audit: true }).await
    }

    pub async fn start_with(options: ApiOptions) -> Self {
        let cluster = Self::bare(options).await;
        cluster.start_controller().await;
        cluster
    }

    /// Kinds and policies, and nobody who serves them.
    pub async fn bare(options: ApiOptions) -> Self {
        let logs = fmt::layer().with_test_writer().with_filter(log_filter(LevelFilter::ERROR).unwrap());
        let _ = tracing_subscriber::registry().with(logs).try_init();
        assert!(rustix::process::geteuid().is_root(), "these tests mount filesystems: run them as root");
        let server = ApiServer::start(options).await.unwrap();
        let client = client_called(server.kubeconfig().unwrap(), "test").await;
        let cluster = Self { server, client, controllers: Mutex::default() };
        cluster.install().await;
        cluster
    }

    /// The kinds, then the policies; waits until both are in force.
    async fn install(&self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for crd in reservoir::api::crds() {
            let api: Api<
                k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
            > = Api::all(self.client.clone());
            api.create(&PostParams::default(), &crd).await.unwrap();
        }
        for kind in ["nodedisks", "volumeclaims", "sharedpersistentvolumes", "volumeoffers"] {
            until(&format!("{kind} are served"), || async {
                let path = format!("/apis/reservoir.dev/v1alpha1/{kind}");
                let request = http::Request::get(path).body(vec![]).unwrap();
                self.client.request::<Value>(request).await.ok()
            })
            .await;
        }
        let policies = std::fs::read_to_string(root.join("charts/reservoir/files/admission.yaml")).unwrap();
        let policies = policies.replace("AGENT_USER", AGENT_USER).replace("CONTROLLER_USER", CONTROLLER_USER);
        // A policy is in force a moment after it is there. The one that the probe meets comes last, so that all are: a
        // volume that is said to be used.
        let (last, rest): (Vec<&str>, Vec<&str>) =
            policies.split("\n---\n").partition(|policy| policy.contains("name: reservoir-volume-in-use"));
        assert_eq!(last.len(), 2, "a policy and its binding");
        self.apply_text(&[rest, last].concat().join("\n---\n")).await;
        let probe = "apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: probe}\n\
                     spec: {role: probe, size: 1Gi}\n";
        let volumes: Api<reservoir::api::SharedPersistentVolume> = Api::all(self.client.clone());
        let used = async |users: u32| {
            let status = json!({"status": {"userCount": users}});
            volumes.patch_status("probe", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        };
        // The mutating policies come into force by themselves: the probe has a principal, or is refused without one.
        until("policies are in force", || async {
            self.try_apply(probe).await.ok()?;
            used(1).await;
            // Nobody is there to take it off.
            let strip = json!({"metadata": {"finalizers": null}});
            volumes.patch("probe", &PatchParams::default(), &Patch::Merge(&strip)).await.unwrap();
            let stamped = volumes.get("probe").await.unwrap().spec.principal.is_some();
            let refused = volumes.delete("probe", &Default::default()).await.is_err();
            if refused {
                used(0).await;
                volumes.delete("probe", &Default::default()).await.unwrap();
            }
            (stamped && refused).then_some(())
        })
        .await;
    }

    /// A kubeconfig of the user that the controller is; what the chart's RBAC lets it do is another test's business.
    fn controller_kubeconfig(&self) -> Kubeconfig {
        let mut kubeconfig = self.server.kubeconfig().unwrap();
        for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
            auth_info.impersonate = Some(CONTROLLER_USER.into());
            auth_info.impersonate_groups = Some(vec!["system:masters".into()]);
        }
        kubeconfig
    }

    /// Starts a controller; another one if one is running.
    pub async fn start_controller(&self) {
        let options =
            controller::Options { identity: "test".into(), namespace: "default".into(), concurrency: 8 };
        let client = client_called(self.controller_kubeconfig(), CONTROLLER_AGENT).await;
        let running = controller::run(client, options, Arc::new(Metrics::default()));
        self.controllers.lock().unwrap().push(tokio::spawn(running));
    }

    /// Ends every controller where it is, as a crash would.
    pub async fn kill_controller(&self) {
        let tasks = std::mem::take(&mut *self.controllers.lock().unwrap());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }

    /// How many controllers run.
    pub fn controllers_alive(&self) -> usize {
        self.controllers.lock().unwrap().iter().filter(|task| !task.is_finished()).count()
    }

    /// The writes in the audit log, oldest first, refused ones too.
    pub fn writes(&self) -> Vec<Write> {
        let log = std::fs::read_to_string(self.server.audit_log()).unwrap();
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(Write::from).collect()
    }

    /// How many of the writes are the controller's and the agents'.
    pub fn our_writes(&self) -> Vec<Write> {
        self.writes().into_iter().filter(Write::is_ours).collect()
    }

    /// Waits until the controller and the agents have written nothing for that long.
    pub async fn quiet_for(&self, pause: Duration) {
        let started = Instant::now();
        let (mut last, mut since) = (self.our_writes().len(), Instant::now());
        while since.elapsed() < pause {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let writes = self.our_writes();
            if writes.len() != last {
                (last, since) = (writes.len(), Instant::now());
            }
            let tail = &writes[writes.len().saturating_sub(20)..];
            assert!(started.elapsed() < pause + Duration::from_secs(30), "it writes and writes: {tail:#?}");
        }
    }

    /// A Node object.
    pub async fn node(&self, name: &str, ready: bool) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        nodes.patch(name, &PatchParams::apply("test"), &Patch::Apply(&node)).await.unwrap();
        let status = if ready { "True" } else { "False" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Test",
            "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await.unwrap();
    }

    /// A pod that names the claims; nobody runs it. It is Pending until told otherwise.
    pub async fn pod(&self, namespace: &str, name: &str, claims: &[&str]) -> Pod {
        let volumes: Vec<Value> = claims
            .iter()
            .enumerate()
            .map(|(i, claim)| json!({"name": format!("v{i}"), "persistentVolumeClaim": {"claimName": claim}}))
            .collect();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"containers": [{"name": "c", "image": "none"}], "volumes": volumes,
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        until("the default service account", || async {
            api.create(&PostParams::default(), &serde_json::from_value(pod.clone()).unwrap()).await.ok()
        })
        .await
    }

    pub async fn end_pod(&self, namespace: &str, name: &str) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let now = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        api.delete(name, &now).await.unwrap();
    }

    pub fn all<K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub fn within<K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>>(
        &self,
        namespace: &str,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Applies manifests as `kubectl apply --server-side` does, with the same strictness.
    pub async fn apply_text(&self, text: &str) {
        self.try_apply(text).await.unwrap_or_else(|e| panic!("{e}\n{text}"));
    }

    pub async fn try_apply(&self, text: &str) -> Result<(), kube::Error> {
        let documents: Vec<Value> = serde_yaml::Deserializer::from_str(text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect();
        for value in documents {
            if value.is_null() {
                continue;
            }
            let object: DynamicObject = serde_json::from_value(value).unwrap();
            let params = PatchParams {
                field_validation: Some(kube::api::ValidationDirective::Strict),
                ..PatchParams::apply("test").force()
            };
            self.untyped(&object).patch(&object.name_any(), &params, &Patch::Apply(&object)).await?;
        }
        Ok(())
    }

    /// Creates an object as `kubectl create` does, with the same strictness.
    pub async fn try_create(&self, text: &str) -> Result<(), kube::Error> {
        let object: DynamicObject = serde_yaml::from_str(text).unwrap();
        let url =
            format!("{}?fieldValidation=Strict&fieldManager=test", self.untyped(&object).resource_url());
        let request = http::Request::post(url).body(serde_json::to_vec(&object).unwrap()).unwrap();
        self.client.request::<Value>(request).await.map(|_| ())
    }

    /// The API of an object's kind and namespace.
    pub fn untyped(&self, object: &DynamicObject) -> Api<DynamicObject> {
        let types = object.types.clone().unwrap();
        let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
        let plural = match types.kind.as_str() {
            kind if kind.ends_with("Policy") => {
                format!("{}ies", kind.trim_end_matches('y').to_lowercase())
            }
            kind if kind.ends_with('s') => format!("{}es", kind.to_lowercase()),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
        match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Applies a file of examples/ as it is.
    pub async fn example(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
        self.apply_text(&std::fs::read_to_string(path).unwrap()).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controllers.lock().unwrap().iter().for_each(JoinHandle::abort);
    }
}

/// A write to the API server, as the audit log has it.
#[derive(Clone)]
pub struct Write {
    pub user_agent: String,
    pub what: String,
    /// The API server's answer, as HTTP has it.
    pub code: u64,
}

impl From<Value> for Write {
    fn from(entry: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &entry["objectRef"];
        let parts = [
            &entry["verb"],
            &object["resource"],
            &object["subresource"],
            &object["namespace"],
            &object["name"],
        ];
        let what: Vec<String> = parts.into_iter().map(text).filter(|part| !part.is_empty()).collect();
        let code = entry["responseStatus"]["code"].as_u64().unwrap_or_default();
        Self { user_agent: text(&entry["userAgent"]), what: what.join(" "), code }
    }
}

impl Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.user_agent, self.what, self.code)
    }
}

impl Write {
    fn is_ours(&self) -> bool {
        [CONTROLLER_AGENT, AGENT_AGENT].contains(&self.user_agent.as_str())
    }
}

/// The user that the agents' service account is in the tests.
pub const AGENT_USER: &str = "system:serviceaccount:reservoir-system:reservoir-agent";

/// The user that the controller's service account is in the tests.
pub const CONTROLLER_USER: &str = "system:serviceaccount:reservoir-system:reservoir-controller";

/// A kubeconfig of the user that the agent of `node` is, as the API server would know it by its token.
pub fn agent_kubeconfig(cluster: &Cluster, node: &str) -> Kubeconfig {
    let mut kubeconfig = cluster.server.kubeconfig().unwrap();
    let node = ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
    for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth_info.impersonate = Some(AGENT_USER.into());
        // What the chart's RBAC lets it do is another test's business.
        auth_info.impersonate_groups = Some(vec!["system:masters".into()]);
        auth_info.impersonate_user_extra = Some([node.clone()].into());
    }
    kubeconfig
}

/// A real agent for a node that exists in name only, with a disk in a directory.
pub struct Agent {
    pub node: String,
    pub dir: PathBuf,
    running: Option<Running>,
    client: Option<Client>,
    kubeconfig: PathBuf,
    _temp: tempfile::TempDir,
}

enum Running {
    Task(JoinHandle<()>),
    Process(Child),
}

impl Agent {
    /// Starts it; the disk directory is on a file system with direct I/O, not in memory.
    pub async fn start(cluster: &Cluster, node: &str, capacity: &str) -> Self {
        let client = client_called(agent_kubeconfig(cluster, node), AGENT_AGENT).await;
        Self::start_as(cluster, node, capacity, Some(client))
    }

    /// Starts it with disks of one's own: YAML, a list.
    pub async fn start_with_disks(cluster: &Cluster, node: &str, disks: &str) -> Self {
        let client = client_called(agent_kubeconfig(cluster, node), AGENT_AGENT).await;
        Self::start_with(cluster, node, |_| disks.to_owned(), Some(client))
    }

    /// Starts it as a process of its own: the program, which can be killed for good.
    pub fn start_process(cluster: &Cluster, node: &str, capacity: &str) -> Self {
        Self::start_as(cluster, node, capacity, None)
    }

    fn start_as(cluster: &Cluster, node: &str, capacity: &str, client: Option<Client>) -> Self {
        let disks = |dir: &Path| {
            let path = dir.join("disk");
            format!("[{{name: default, path: {}, capacity: {capacity}, systemReserved: 0}}]", path.display())
        };
        Self::start_with(cluster, node, disks, client)
    }

    fn start_with(
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
        let mut agent = Self { node: node.into(), dir, running: None, client, kubeconfig, _temp: temp };
        agent.run();
        agent
    }

    /// Starts it again after it was killed.
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
            measure_every: Duration::from_secs(5),
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
        // setpriv becomes the program: it ends with the test, however that ends.
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
            .arg("--config")
            .arg(self.dir.join("agent.yaml"))
            .arg("--kubelet-dir")
            .arg(self.dir.join("kubelet"))
            .env("KUBECONFIG", &self.kubeconfig)
            // As the chart does.
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

    /// Ends it where it is, as a crash would; a process by SIGKILL.
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

    /// Whether it runs.
    pub fn alive(&mut self) -> bool {
        match &mut self.running {
            Some(Running::Task(task)) => !task.is_finished(),
            Some(Running::Process(child)) => child.try_wait().unwrap().is_none(),
            None => false,
        }
    }

    /// UIDs of the volumes that are on its disk.
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

    /// Nothing is mounted, no loop device is attached, no volume is on the disk.
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
}

impl Agent {
    /// A client of its CSI socket, as the kubelet would be.
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
        let source = spec.csi.unwrap();
        let access_type = match spec.volume_mode.as_deref() {
            Some("Block") => AccessType::Block(BlockVolume {}),
            _ => AccessType::Mount(MountVolume::default()),
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
                access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
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
        // A test that failed in the middle leaves nothing behind either: what is mounted beneath this directory, then
        // the loop devices of files in it.
        for target in self.mounts() {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty());
        }
        for device in self.loops() {
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
}

/// Waits until `look` finds something, at most a minute.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "waited a minute for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the object's `Ready` has the reason; returns its message.
pub async fn until_reason<K>(api: &Api<K>, name: &str, reason: &str) -> String
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + HasStatus,
    K::Status: serde::Serialize,
{
    let last = std::sync::Mutex::new(String::new());
    let started = Instant::now();
    loop {
        let object = api.get_opt(name).await.unwrap();
        let status = object.as_ref().and_then(|o| o.status()).map(|s| serde_json::to_value(s).unwrap());
        let conditions =
            status.as_ref().map(|s| serde_json::from_value(s["conditions"].clone()).unwrap_or_default());
        let conditions: Vec<_> = conditions.unwrap_or_default();
        let ready = condition::get(&conditions, READY);
        if let Some(ready) = ready {
            if ready.reason == reason {
                return ready.message.clone();
            }
            *last.lock().unwrap() = format!("{}: {}", ready.reason, ready.message);
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited a minute for {} {name} to be {reason}; it is {}",
            K::kind(&()),
            last.lock().unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the object is gone.
pub async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    until(&format!("{} {name} is gone", K::kind(&())), || async {
        api.get_opt(name).await.unwrap().is_none().then_some(())
    })
    .await;
}

/// Has the object go although its finalizers are there to prevent it, as somebody in a hurry does.
pub async fn strip_and_delete<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let strip = json!({"metadata": {"finalizers": null}});
    // The controller may have put one on again, and would see to the end then.
    until(&format!("{name} is deleted without a finalizer"), || async {
        let bare = api.patch(name, &PatchParams::default(), &Patch::Merge(&strip)).await.unwrap();
        let seen = Preconditions { uid: None, resource_version: bare.resource_version() };
        api.delete(name, &DeleteParams { preconditions: Some(seen), ..Default::default() }).await.ok()
    })
    .await;
    until(&format!("{name} is gone"), || async { api.get_opt(name).await.unwrap().is_none().then_some(()) })
        .await;
}

/// Every object of ours, as `kind namespace/name`.
pub async fn everything(cluster: &Cluster) -> std::collections::BTreeMap<String, DynamicObject> {
    let mut all = std::collections::BTreeMap::new();
    for crd in reservoir::api::crds() {
        let kind = &crd.spec.names.kind;
        let one = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind, "metadata": {"name": "any"}});
        let api = cluster.untyped(&serde_json::from_value(one).unwrap());
        let found = api.list(&Default::default()).await.unwrap().items;
        for object in found {
            let name = format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any());
            all.insert(name, object);
        }
    }
    all
}

/// Looks at every revision of objects that the API server tells of, and notes what must never be.
#[derive(Default)]
pub struct Watch {
    seen: Arc<std::sync::atomic::AtomicUsize>,
    broken: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watch {
    /// S1 of every disk and every reservation, and of volumes that an exclusive one has one claim at most and that a
    /// tombstone stays.
    pub fn safety(cluster: &Cluster) -> Self {
        let mut watch = Self::default();
        let mut roomy = std::collections::HashMap::new();
        watch.each(cluster.all::<NodeDisk>(), move |disk| {
            let status = disk.status.clone().unwrap_or_default();
            // What others fill makes room smaller later; what counts is what there was when it was promised.
            let room = status.allocatable.as_ref().map_or(0, Size::bytes_or_zero);
            let most = roomy.entry(disk.uid()).or_insert(room);
            *most = room.max(*most);
            within(&status.reservations, *most)
        });
        watch.each(cluster.all::<DiskReservation>(), |reservation| {
            let status = reservation.status.clone().unwrap_or_default();
            let ledger = [status.volumes, status.refinements].concat();
            within(&ledger, status.size.as_ref().map_or(0, Size::bytes_or_zero))
        });
        let mut dead = std::collections::HashSet::new();
        watch.each(cluster.all::<SharedPersistentVolume>(), move |volume| {
            let status = volume.status.clone().unwrap_or_default();
            if status.destroy.is_some_and(|d| d.tombstone.is_some()) {
                dead.insert(volume.uid());
            } else if dead.contains(&volume.uid()) {
                return Err("the tombstone was taken back".into());
            }
            match (volume.spec.shared, status.claims.len()) {
                (None, claims @ 2..) => Err(format!("exclusive, with {claims} claims")),
                _ => Ok(()),
            }
        });
        watch
    }

    /// Has `check` look at every revision of every object.
    pub fn each<K>(&mut self, api: Api<K>, mut check: impl FnMut(&K) -> Result<(), String> + Send + 'static)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (seen, broken) = (self.seen.clone(), self.broken.clone());
        self.tasks.push(tokio::spawn(async move {
            let stream = watcher(api, Default::default()).default_backoff();
            futures::pin_mut!(stream);
            while let Some(event) = stream.next().await {
                if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
                    seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if let Err(what) = check(&object) {
                        let kind = K::kind(&()).into_owned();
                        broken.lock().unwrap().push(format!("{kind} {}: {what}", object.name_any()));
                    }
                }
            }
        }));
    }

    /// How many revisions were seen; fails if any was wrong.
    pub fn assert_unbroken(&self) -> usize {
        assert_eq!(*self.broken.lock().unwrap(), Vec::<String>::new());
        self.seen.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn within(ledger: &[LedgerEntry], capacity: u64) -> Result<(), String> {
    let total: u64 = ledger.iter().map(|entry| entry.size.bytes_or_zero()).sum();
    let uids: std::collections::BTreeSet<_> = ledger.iter().map(|entry| &entry.uid).collect();
    if total > capacity {
        return Err(format!("{total} bytes of {capacity} are given away: {ledger:?}"));
    }
    if uids.len() < ledger.len() {
        return Err(format!("charged twice: {ledger:?}"));
    }
    Ok(())
}

/// Numbers that look random and can be had again: the seed is printed, `RESERVOIR_TEST_SEED` sets it.
pub struct Random(u64);

impl Random {
    pub fn new(what: &str) -> Self {
        let given = std::env::var("RESERVOIR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(now);
        println!("{what}: RESERVOIR_TEST_SEED={seed}");
        Self(seed)
    }

    /// Numbers that another one of these began.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from `range` (splitmix64).
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (z ^ (z >> 31)) % (range.end - range.start)
    }
}
