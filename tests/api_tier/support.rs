//! What the tests of the api tier share: a real API server with Reservoir's kinds and policies, the real controller,
//! and real agents that keep real volumes in a directory. Only the kubelet is missing; the tests call CSI themselves.

use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, Pod};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::discovery::ApiResource;
use kube::core::object::HasStatus;
use kube::{Client, Resource, ResourceExt};
use reservoir::api::VolumeClaim;
use reservoir::api::condition::{self, READY};
use reservoir::csi::proto::csi::node_client::NodeClient;
use reservoir::csi::proto::csi::volume_capability::access_mode::Mode;
use reservoir::csi::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use reservoir::csi::proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use reservoir::telemetry::Metrics;
use reservoir::{agent, controller};
use reservoir_cluster::api::{ApiOptions, ApiServer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// A cluster of the api tier with Reservoir in it.
pub struct Cluster {
    pub server: ApiServer,
    pub client: Client,
    controller: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Starts it: kinds, policies, controller.
    pub async fn start() -> Self {
        Self::start_with(ApiOptions { controller_manager: true, audit: true }).await
    }

    pub async fn start_with(options: ApiOptions) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let server = ApiServer::start(options).await.unwrap();
        let client = server.client().await.unwrap();
        let mut cluster = Self { server, client, controller: None };
        cluster.install().await;
        cluster.start_controller();
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
        self.apply_text(&policies.replace("AGENT_USER", AGENT_USER)).await;
        // A policy is in force a moment after it is there: a volume that is said to be used is the probe.
        let probe = "apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: probe}\n\
                     spec: {role: probe, size: 1Gi}\n";
        self.apply_text(probe).await;
        let volumes: Api<reservoir::api::SharedPersistentVolume> = Api::all(self.client.clone());
        let status = json!({"status": {"userCount": 1}});
        volumes.patch_status("probe", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        until("policies are in force", || async {
            match volumes.delete("probe", &Default::default()).await {
                Err(refused) if refused.to_string().contains("in use") => Some(()),
                _ => {
                    self.apply_text(probe).await;
                    let _ =
                        volumes.patch_status("probe", &PatchParams::default(), &Patch::Merge(&status)).await;
                    None
                }
            }
        })
        .await;
        let status = json!({"status": {"userCount": 0}});
        volumes.patch_status("probe", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        volumes.delete("probe", &Default::default()).await.unwrap();
    }

    pub fn start_controller(&mut self) {
        let options = controller::Options { identity: "test".into(), concurrency: 8 };
        let running = controller::run(self.client.clone(), options, Arc::new(Metrics::default()));
        self.controller = Some(tokio::spawn(running));
    }

    /// Ends the controller where it is, as a crash would.
    pub async fn kill_controller(&mut self) {
        if let Some(task) = self.controller.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// A Node object that is Ready, and a namespace for each of the names.
    pub async fn node(&self, name: &str, ready: bool) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        nodes.patch(name, &PatchParams::apply("test"), &Patch::Apply(&node)).await.unwrap();
        let status = if ready { "True" } else { "False" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Test",
            "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await.unwrap();
    }

    pub async fn namespace(&self, name: &str) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.patch(name, &PatchParams::apply("test"), &Patch::Apply(&object)).await.unwrap();
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
        for document in serde_yaml::Deserializer::from_str(text) {
            let value: Value = serde::Deserialize::deserialize(document).unwrap();
            if value.is_null() {
                continue;
            }
            let object: DynamicObject = serde_json::from_value(value).unwrap();
            let types = object.types.clone().unwrap();
            let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
            let gvk = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
            let plural = match types.kind.as_str() {
                kind if kind.ends_with("Policy") => {
                    format!("{}ies", kind.trim_end_matches('y').to_lowercase())
                }
                kind => format!("{}s", kind.to_lowercase()),
            };
            let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
            let name = object.name_any();
            let api: Api<DynamicObject> = match object.namespace() {
                Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            let params = PatchParams {
                field_validation: Some(kube::api::ValidationDirective::Strict),
                ..PatchParams::apply("test").force()
            };
            api.patch(&name, &params, &Patch::Apply(&object)).await?;
        }
        Ok(())
    }

    /// Applies a file of examples/ as it is.
    pub async fn example(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
        self.apply_text(&std::fs::read_to_string(path).unwrap()).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(task) = &self.controller {
            task.abort();
        }
    }
}

/// The user that the agents' service account is in the tests.
pub const AGENT_USER: &str = "system:serviceaccount:reservoir-system:reservoir-agent";

/// A real agent for a node that exists in name only, with a disk in a directory.
pub struct Agent {
    pub node: String,
    pub dir: PathBuf,
    task: Option<JoinHandle<()>>,
    client: Client,
    capacity: String,
    _temp: Arc<tempfile::TempDir>,
}

impl Agent {
    /// Starts it; the disk directory is on a file system with direct I/O, not in memory.
    pub fn start(cluster: &Cluster, node: &str, capacity: &str) -> Self {
        let temp =
            Arc::new(tempfile::Builder::new().prefix("reservoir-test-").tempdir_in("/var/tmp").unwrap());
        let dir = temp.path().to_owned();
        for sub in ["disk", "kubelet/plugins", "kubelet/plugins_registry", "kubelet/pods"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let mut agent = Self {
            node: node.into(),
            dir,
            task: None,
            client: cluster.client.clone(),
            capacity: capacity.into(),
            _temp: temp,
        };
        agent.run();
        agent
    }

    pub fn run(&mut self) {
        let text = format!(
            "disks: [{{name: default, path: {}, capacity: {}, systemReserved: 0}}]",
            self.dir.join("disk").display(),
            self.capacity
        );
        let options = agent::Options {
            node: self.node.clone(),
            config: agent::Config::parse(&text).unwrap(),
            kubelet_dir: self.dir.join("kubelet"),
            measure_every: Duration::from_secs(5),
        };
        let client = self.client.clone();
        self.task = Some(tokio::spawn(async move {
            let ready = Arc::new(AtomicBool::new(false));
            let ran =
                agent::run(client, options, Arc::new(Metrics::default()), ready, std::future::pending())
                    .await;
            ran.unwrap();
        }));
    }

    /// Ends it where it is, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
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
        let source = volumes.get(&name).await.unwrap().spec.unwrap().csi.unwrap();
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
                access_type: Some(AccessType::Mount(MountVolume::default())),
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
        if let Some(task) = &self.task {
            task.abort();
        }
        // A test that failed in the middle leaves nothing behind either: what is mounted beneath this directory, then
        // the loop devices of files in it.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(target).starts_with(&self.dir) {
                let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty());
            }
        }
        for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(file.trim()).starts_with(&self.dir) {
                let device = Path::new("/dev").join(entry.file_name());
                let _ = std::process::Command::new("losetup").arg("-d").arg(device).status();
            }
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
