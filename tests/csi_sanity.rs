//! The Kubernetes project's own conformance tests, csi-sanity, on the Identity and Node services.

mod csi_support;

use std::process::Stdio;

use csi_support::{Agent, handle, pod_context};
use reservoir::csi::proto::csi::controller_server::{Controller, ControllerServer};
use reservoir::csi::proto::csi::controller_service_capability::rpc::Type as RpcType;
use reservoir::csi::proto::csi::controller_service_capability::{Rpc, Type};
use reservoir::csi::proto::csi::identity_server::{Identity, IdentityServer};
use reservoir::csi::proto::csi::*;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// Reservoir has no controller service; csi-sanity needs one to make its volumes.
struct Provisioner;

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
        Ok(Response::new(GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

/// A controller that can only make volumes. Having said so, it is asked for none of the methods listed.
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
                let volume = Volume { volume_id: handle(), volume_context: pod_context().into(), ..Default::default() };
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

/// M4, L3.
#[tokio::test]
#[ignore = "needs csi-sanity: go install github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.4.0, its path in CSI_SANITY"]
async fn csi_sanity_passes() {
    let program = std::env::var_os("CSI_SANITY").expect("CSI_SANITY is the path of csi-sanity");
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let provisioner = dir.path().join("controller.sock");
    let connections = UnixListenerStream::new(UnixListener::bind(&provisioner).unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(ControllerServer::new(Provisioner))
        .add_service(IdentityServer::new(Provisioner));
    tokio::spawn(server.serve_with_incoming(connections));

    let status = tokio::process::Command::new(program)
        .arg(format!("--csi.endpoint={}", agent.config.csi_socket.display()))
        .arg(format!("--csi.controllerendpoint={}", provisioner.display()))
        .arg(format!("--csi.mountdir={}", dir.path().join("mount").display()))
        .arg(format!("--csi.stagingdir={}", dir.path().join("staging").display()))
        .args(["--ginkgo.focus=Node Service", "--ginkgo.focus=Identity Service", "--ginkgo.v"])
        .stdin(Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(status.success());
    agent.stop().await.unwrap();
}
