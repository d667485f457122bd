//! A real API server with Reservoir's kinds and policies, and the real controller.

use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::core::discovery::ApiResource;
use kube::{Client, Resource, ResourceExt};
use reservoir::api::{AccessMode, SharedPersistentVolume, TOPOLOGY_NODE, VolumeClaim};
use reservoir::controller;
use reservoir::telemetry::{Metrics, log_filter};
use reservoir_cluster::api::{ApiOptions, ApiServer};
use reservoir_cluster::is_read;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::{CONTROLLER_USER, admission_writes, policies, sign, until};

/// A cluster of the api tier with Reservoir.
pub struct Cluster {
    pub server: ApiServer,
    pub client: Client,
    /// The period in which controller and agents look at everything again.
    pub look_again: Duration,
    /// False: controller and agents lose every event.
    pub wake: bool,
    controllers: Mutex<Vec<JoinHandle<()>>>,
}

/// The user agent of the controller in the tests.
pub const CONTROLLER_AGENT: &str = "reservoir-controller/test";
/// The user agent of the agents in the tests.
pub const AGENT_AGENT: &str = "reservoir-agent/test";

/// A client with a user agent of its own, for the audit log.
pub(super) async fn client_called(kubeconfig: Kubeconfig, name: &'static str) -> Client {
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(name)));
    Client::try_from(config).unwrap()
}

impl Cluster {
    /// Starts a cluster with kinds, policies and controller.
    pub async fn start() -> Self {
        Self::start_with(ApiOptions { controller_manager: true, audit: true }).await
    }

    pub async fn start_with(options: ApiOptions) -> Self {
        let cluster = Self::bare(options).await;
        cluster.start_controller().await;
        cluster
    }

    /// Starts a cluster whose controller and agents lose every event, and look at everything again each second.
    pub async fn start_without_events() -> Self {
        let options = ApiOptions { controller_manager: true, audit: false };
        let mut cluster = Self::bare(options).await;
        (cluster.look_again, cluster.wake) = (Duration::from_secs(1), false);
        cluster.start_controller().await;
        cluster
    }

    /// Starts a cluster with kinds and policies, but without a controller.
    pub async fn bare(options: ApiOptions) -> Self {
        let logs = fmt::layer().with_test_writer().with_filter(log_filter(LevelFilter::ERROR).unwrap());
        let _ = tracing_subscriber::registry().with(logs).try_init();
        assert!(rustix::process::geteuid().is_root(), "these tests mount filesystems: run them as root");
        let server = ApiServer::start(options).await.unwrap();
        let client = client_called(server.kubeconfig().unwrap(), "test").await;
        let lost = std::env::var_os("RESERVOIR_TEST_LOSE_EVENTS").is_some();
        let look_again = if lost { Duration::from_secs(1) } else { controller::LOOK_AGAIN };
        let cluster = Self { server, client, look_again, wake: !lost, controllers: Mutex::default() };
        cluster.install().await;
        cluster
    }

    /// Installs the kinds, then the policies; waits until both are in force.
    async fn install(&self) {
        for crd in reservoir::api::crds() {
            let api: Api<
                k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
            > = Api::all(self.client.clone());
            api.create(&PostParams::default(), crd).await.unwrap();
        }
        for kind in ["nodedisks", "volumeclaims", "sharedpersistentvolumes", "volumeoffers"] {
            until(&format!("{kind} are served"), || async {
                let path = format!("/apis/reservoir.dev/v1alpha1/{kind}");
                let request = http::Request::get(path).body(vec![]).unwrap();
                self.client.request::<Value>(request).await.ok()
            })
            .await;
        }
        let policies = policies(admission_writes());
        // A policy is in force a moment after its creation. The policies that the probe meets come last, so that all
        // are in force: one that validates and, where there are such, one that writes. The probe is a volume with a
        // forged use.
        let met = |policy: &&str| match policy.contains("kind: MutatingAdmissionPolicy") {
            true => policy.contains("name: reservoir-principal"),
            false => policy.contains("name: reservoir-volume-in-use"),
        };
        let (last, rest): (Vec<&str>, Vec<&str>) = policies.split("\n---\n").partition(met);
        assert_eq!(last.len(), if admission_writes() { 4 } else { 2 }, "policies and their bindings");
        self.apply_text(&[rest, last].concat().join("\n---\n")).await;
        let probe = "apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: probe}\n\
                     spec: {role: probe, size: 1Gi}\n";
        let volumes: Api<reservoir::api::SharedPersistentVolume> = Api::all(self.client.clone());
        let used = async |users: u32| {
            let status = json!({"status": {"userCount": users}});
            volumes.patch_status("probe", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        };
        // The mutating policies come into force separately. Then the probe has a principal, or is refused without
        // one.
        until("policies are in force", || async {
            self.try_apply(probe).await.ok()?;
            used(1).await;
            // No controller runs to remove the finalizer.
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

    /// A kubeconfig for the controller's user. Another test covers the chart's RBAC.
    pub fn controller_kubeconfig(&self) -> Kubeconfig {
        let mut kubeconfig = self.server.kubeconfig().unwrap();
        for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
            auth_info.impersonate = Some(CONTROLLER_USER.into());
            auth_info.impersonate_groups = Some(vec!["system:masters".into()]);
        }
        kubeconfig
    }

    /// Starts a controller, in addition to running ones.
    pub async fn start_controller(&self) {
        self.start_controller_with(None).await;
    }

    /// Starts a controller that looks at the pods of agents with these labels.
    pub async fn start_controller_with(&self, agents: Option<&str>) {
        let options = controller::Options {
            identity: "test".into(),
            namespace: "default".into(),
            replaces_pods: true,
            untaints_nodes: true,
            labels_nodes: true,
            concurrency: 8,
            agents: agents.map(str::to_owned),
            look_again: self.look_again,
            wake: self.wake,
            now: jiff::Timestamp::now,
        };
        let client = client_called(self.controller_kubeconfig(), CONTROLLER_AGENT).await;
        let running = controller::run(client, options, Arc::new(Metrics::default()));
        self.controllers.lock().unwrap().push(tokio::spawn(running));
    }

    /// Ends every controller like a crash.
    pub async fn kill_controller(&self) {
        let tasks = std::mem::take(&mut *self.controllers.lock().unwrap());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }

    /// The number of running controllers.
    pub fn controllers_alive(&self) -> usize {
        self.controllers.lock().unwrap().iter().filter(|task| !task.is_finished()).count()
    }

    /// The writes in the audit log, oldest first, with refused ones.
    pub fn writes(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| !request.is_read).collect()
    }

    /// The writes in the audit log and the reads of the kinds that Reservoir reads, oldest first, with refused ones.
    pub fn requests(&self) -> Vec<Request> {
        let log = std::fs::read_to_string(self.server.audit_log()).unwrap();
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(Request::from).collect()
    }

    /// The writes of the controller and the agents.
    pub fn our_writes(&self) -> Vec<Request> {
        self.writes().into_iter().filter(Request::is_ours).collect()
    }

    /// Waits until the controller and the agents have written nothing for the given pause.
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
        let labels = json!({TOPOLOGY_NODE: name});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        nodes.patch(name, &PatchParams::apply("test"), &Patch::Apply(&node)).await.unwrap();
        let status = if ready { "True" } else { "False" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Test",
            "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status)).await.unwrap();
    }

    /// Sets a label of a Node.
    pub async fn label_node(&self, name: &str, label: &str, value: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let labels = json!({"metadata": {"labels": {label: value}}});
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
    }

    /// A pod that names the claims. Nobody runs the pod, so it stays Pending until the test changes that.
    pub async fn pod(&self, namespace: &str, name: &str, claims: &[&str]) -> Pod {
        self.pod_on(None, namespace, name, claims).await
    }

    /// The same, on a node.
    pub async fn pod_on(&self, node: Option<&str>, namespace: &str, name: &str, claims: &[&str]) -> Pod {
        let mut volumes = Vec::new();
        for (i, claim) in claims.iter().enumerate() {
            let mut source = json!({"claimName": claim});
            let claim = self.within::<VolumeClaim>(namespace).get_opt(claim).await.unwrap();
            if !admission_writes() && claim.is_some_and(|claim| claim.spec.mode == AccessMode::ReadOnly) {
                source["readOnly"] = true.into();
            }
            volumes.push(json!({"name": format!("v{i}"), "persistentVolumeClaim": source}));
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"containers": [{"name": "c", "image": "none"}], "volumes": volumes, "nodeName": node,
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

    /// Changes fields of a volume's spec; a refusal is a sentence.
    pub async fn change_volume(&self, name: &str, spec: Value) -> Result<SharedPersistentVolume, String> {
        let volumes: Api<SharedPersistentVolume> = self.all();
        let patch = Patch::Merge(json!({ "spec": spec }));
        volumes.patch(name, &PatchParams::default(), &patch).await.map_err(|error| error.to_string())
    }

    /// Applies manifests as `kubectl apply --server-side` does, with the same strictness.
    pub async fn apply_text(&self, text: &str) {
        self.try_apply(text).await.unwrap_or_else(|e| panic!("{e}\n{text}"));
    }

    pub async fn try_apply(&self, text: &str) -> Result<(), kube::Error> {
        let documents: Vec<Value> = serde_yaml::Deserializer::from_str(text)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect();
        for mut value in documents {
            if value.is_null() {
                continue;
            }
            let mut object: DynamicObject = serde_json::from_value(value.clone()).unwrap();
            if !admission_writes() && object.data["spec"].is_object() {
                let there = self.untyped(&object).get_opt(&object.name_any()).await.ok().flatten();
                sign(&self.client, &mut value, there.map(|there| json!(there)).as_ref()).await;
                object = serde_json::from_value(value).unwrap();
            }
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
        let mut value: Value = serde_yaml::from_str(text).unwrap();
        sign(&self.client, &mut value, None).await;
        let object: DynamicObject = serde_json::from_value(value).unwrap();
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
            kind if kind.ends_with('y') => {
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

    /// Applies an unchanged file of examples/.
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

/// A request to the API server, from the audit log.
#[derive(Clone)]
pub struct Request {
    pub user_agent: String,
    pub is_read: bool,
    pub what: String,
    /// The verb, and that it is a dry run.
    pub verb: String,
    /// The kind of the object in the plural, and a part of it such as its status.
    pub resource: String,
    /// The HTTP status of the API server's answer.
    pub code: u64,
}

impl From<Value> for Request {
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
        let is_dry_run = text(&entry["requestURI"]).contains("dryRun=All");
        let verb = text(&entry["verb"]) + if is_dry_run { " (dry run)" } else { "" };
        let resource = [&object["resource"], &object["subresource"]].map(text);
        let resource = resource.join("/").trim_end_matches('/').to_owned();
        let (user_agent, what, is_read) = (text(&entry["userAgent"]), what.join(" "), is_read(&entry));
        Self { user_agent, is_read, what, verb, resource, code }
    }
}

impl Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.user_agent, self.what, self.code)
    }
}

impl Request {
    fn is_ours(&self) -> bool {
        [CONTROLLER_AGENT, AGENT_AGENT].contains(&self.user_agent.as_str())
    }
}
