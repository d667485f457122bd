//! csi-sanity, the Kubernetes project's own conformance tests, on the real agent with a real disk and a real API server.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use reservoir::api::{RoleSubscription, SharedPersistentVolume, VolumeClaim};
use reservoir::csi::proto::csi::controller_server::{Controller, ControllerServer};
use reservoir::csi::proto::csi::controller_service_capability::rpc::Type as RpcType;
use reservoir::csi::proto::csi::controller_service_capability::{Rpc, Type};
use reservoir::csi::proto::csi::identity_server::{Identity, IdentityServer};
use reservoir::csi::proto::csi::node_client::NodeClient;
use reservoir::csi::proto::csi::node_server::{Node, NodeServer};
use reservoir::csi::proto::csi::plugin_capability::service::Type as ServiceType;
use reservoir::csi::proto::csi::*;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::support::{Agent, Cluster, until_reason};

/// A driver with the agent's node service, and with a controller service, which Reservoir itself does not have.
/// csi-sanity asks the controller service for a volume, and gets the volume of a claim. The tests of a volume's whole
/// life need such a service.
#[derive(Clone)]
struct Provisioner {
    handle: String,
    context: HashMap<String, String>,
    agent: NodeClient<Channel>,
}

#[tonic::async_trait]
impl Identity for Provisioner {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse { name: "provisioner".into(), ..Default::default() }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = plugin_capability::Service { r#type: ServiceType::ControllerService.into() };
        let capabilities = vec![PluginCapability { r#type: Some(plugin_capability::Type::Service(service)) }];
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

/// A controller that only makes volumes, and announces only that. So csi-sanity calls none of the listed methods.
macro_rules! controller {
    ($($method:ident: $request:ident -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl Controller for Provisioner {
            async fn controller_get_capabilities(
                &self,
                _: Request<ControllerGetCapabilitiesRequest>,
            ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
                let rpc = Rpc { r#type: RpcType::CreateDeleteVolume.into() };
                let capabilities = vec![ControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) }];
                Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
            }

            async fn create_volume(
                &self,
                _: Request<CreateVolumeRequest>,
            ) -> Result<Response<CreateVolumeResponse>, Status> {
                let (volume_id, volume_context) = (self.handle.clone(), self.context.clone());
                let volume = Volume { volume_id, volume_context, ..Default::default() };
                Ok(Response::new(CreateVolumeResponse { volume: Some(volume) }))
            }

            async fn delete_volume(
                &self,
                _: Request<DeleteVolumeRequest>,
            ) -> Result<Response<DeleteVolumeResponse>, Status> {
                Ok(Response::new(DeleteVolumeResponse {}))
            }

            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented(stringify!($method)))
            })*
        }
    };
}

controller! {
    controller_publish_volume: ControllerPublishVolumeRequest -> ControllerPublishVolumeResponse,
    controller_unpublish_volume: ControllerUnpublishVolumeRequest -> ControllerUnpublishVolumeResponse,
    validate_volume_capabilities: ValidateVolumeCapabilitiesRequest -> ValidateVolumeCapabilitiesResponse,
    list_volumes: ListVolumesRequest -> ListVolumesResponse,
    controller_list_volume_health: ControllerListVolumeHealthRequest -> ControllerListVolumeHealthResponse,
    controller_get_volume_health: ControllerGetVolumeHealthRequest -> ControllerGetVolumeHealthResponse,
    get_capacity: GetCapacityRequest -> GetCapacityResponse,
    create_snapshot: CreateSnapshotRequest -> CreateSnapshotResponse,
    delete_snapshot: DeleteSnapshotRequest -> DeleteSnapshotResponse,
    list_snapshots: ListSnapshotsRequest -> ListSnapshotsResponse,
    get_snapshot: GetSnapshotRequest -> GetSnapshotResponse,
    controller_expand_volume: ControllerExpandVolumeRequest -> ControllerExpandVolumeResponse,
    controller_get_volume: ControllerGetVolumeRequest -> ControllerGetVolumeResponse,
    controller_modify_volume: ControllerModifyVolumeRequest -> ControllerModifyVolumeResponse,
}

/// A node service that passes each call on to the agent.
macro_rules! node {
    ($($method:ident: $request:ident -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl Node for Provisioner {
            $(async fn $method(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.agent.clone().$method(request.into_inner()).await
            })*
        }
    };
}

node! {
    node_stage_volume: NodeStageVolumeRequest -> NodeStageVolumeResponse,
    node_unstage_volume: NodeUnstageVolumeRequest -> NodeUnstageVolumeResponse,
    node_publish_volume: NodePublishVolumeRequest -> NodePublishVolumeResponse,
    node_unpublish_volume: NodeUnpublishVolumeRequest -> NodeUnpublishVolumeResponse,
    node_get_volume_stats: NodeGetVolumeStatsRequest -> NodeGetVolumeStatsResponse,
    node_expand_volume: NodeExpandVolumeRequest -> NodeExpandVolumeResponse,
    node_get_capabilities: NodeGetCapabilitiesRequest -> NodeGetCapabilitiesResponse,
    node_get_info: NodeGetInfoRequest -> NodeGetInfoResponse,
    node_get_volume_health: NodeGetVolumeHealthRequest -> NodeGetVolumeHealthResponse,
    node_get_storage_health: NodeGetStorageHealthRequest -> NodeGetStorageHealthResponse,
}

const OBJECTS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: DiskReservation\nmetadata: {name: eng}\n\
     spec: {role: eng, size: 512Mi}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: RoleSubscription\nmetadata: {name: eng, namespace: team}\n\
     spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: data}\n\
     spec: {role: eng, size: 64Mi, shared: {}}\n";

const CLAIM: &str = "apiVersion: reservoir.dev/v1alpha1\nkind: VolumeClaim\nmetadata: {name: data, namespace: team}\n\
     spec: {role: eng, volume: data}\n";

/// Makes a volume with a claim and a pod, as the kubelet sees them.
async fn provision(cluster: &Cluster, agent: &Agent) -> Provisioner {
    cluster.apply_text(OBJECTS).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    until_reason(&cluster.within::<RoleSubscription>("team"), "eng", "Subscribed").await;
    cluster.apply_text(CLAIM).await;
    let claims = cluster.within::<VolumeClaim>("team");
    until_reason(&claims, "data", "Bound").await;
    let pod = cluster.pod("team", "reader", &["data"]).await;
    let name = claims.get("data").await.unwrap().status.unwrap().persistent_volume.unwrap();
    let volume = cluster.all::<PersistentVolume>().get(&name).await.unwrap();
    let source = volume.spec.unwrap().csi.unwrap();
    let mut context: HashMap<_, _> = source.volume_attributes.unwrap().into_iter().collect();
    for (key, value) in [("name", pod.name_any()), ("namespace", "team".into()), ("uid", pod.uid().unwrap())]
    {
        context.insert(format!("csi.storage.k8s.io/pod.{key}"), value);
    }
    Provisioner { handle: source.volume_handle, context, agent: agent.csi().await }
}

/// Capabilities that the agent does not announce. csi-sanity skips their tests, and two more without a controller
/// service.
const NOT_ANNOUNCED: [&str; 3] =
    ["NodeStageVolume not supported", "NodeUnstageVolume not supported", "NodeExpandVolume not supported"];
const WHOLE_WAY: &str = "Controller Service not provided: CreateVolume not supported";

/// Runs csi-sanity; returns its summary and the reasons of skipped tests.
async fn sanity(program: &Path, dir: &Path, endpoint: &Path, focus: &[&str]) -> (String, Vec<String>) {
    let mut command = Command::new(program);
    command
        .arg(format!("--csi.endpoint={}", endpoint.display()))
        .arg(format!("--csi.controllerendpoint={}", dir.join("controller.sock").display()))
        .arg(format!("--csi.mountdir={}", dir.join("kubelet/pods/mount").display()))
        .arg(format!("--csi.stagingdir={}", dir.join("kubelet/staging").display()))
        .args(focus.iter().map(|focus| format!("--ginkgo.focus={focus}")))
        .args(["--ginkgo.v", "--ginkgo.no-color"])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let skipped = said.lines().filter_map(|line| line.trim().strip_prefix("[SKIPPED] "));
    let skipped = skipped.filter(|why| !why.starts_with("in [")).map(str::to_owned).collect();
    let last = said.lines().find(|line| line.contains(" Passed | ")).expect("a result").to_owned();
    assert!(last.contains(" 0 Failed "), "{last}");
    (last, skipped)
}

/// M4, M6, L3.
#[tokio::test(flavor = "multi_thread")]
async fn csi_sanity_passes() {
    let program = tokio::task::spawn_blocking(reservoir_cluster::tools::csi_sanity).await.unwrap().unwrap();
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "1Gi").await;
    let service = provision(&cluster, &agent).await;
    let provisioner = agent.dir.join("controller.sock");
    let connections = UnixListenerStream::new(UnixListener::bind(&provisioner).unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(ControllerServer::new(service.clone()))
        .add_service(NodeServer::new(service.clone()))
        .add_service(IdentityServer::new(service));
    tokio::spawn(server.serve_with_incoming(connections));

    let endpoint = agent.dir.join("kubelet/plugins/csi.reservoir.dev/csi.sock");
    let focus = ["Node Service", "Identity Service"];
    let (result, mut skipped) = sanity(&program, &agent.dir, &endpoint, &focus).await;
    println!("csi-sanity on the agent: {result}");
    let count = skipped.len();
    skipped.retain(|why| why != WHOLE_WAY);
    assert_eq!(count - skipped.len(), 2, "the two tests that the second run is for");
    let announced: Vec<_> = skipped.iter().filter(|why| !NOT_ANNOUNCED.contains(&why.as_str())).collect();
    assert_eq!(announced, [] as [&String; 0], "of what is announced nothing is skipped");
    println!("{} tests of what is not announced were skipped: {NOT_ANNOUNCED:?}", skipped.len());

    let focus = ["Node Service should work", "Node Service should be idempotent"];
    let (result, skipped) = sanity(&program, &agent.dir, &provisioner, &focus).await;
    println!("csi-sanity on a volume's whole way: {result}");
    assert_eq!(skipped, [] as [&str; 0]);
    assert!(result.contains(" 2 Passed "), "{result}");
}
