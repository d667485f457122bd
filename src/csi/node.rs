//! The CSI Node service: mounts and unmounts volumes for pods.

use std::future::Future;
use std::sync::Arc;

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::calls::{Call, Observer};
use super::error::Error;
use super::proto::csi::node_server::Node;
use super::proto::csi::node_service_capability::rpc::Type as RpcType;
use super::proto::csi::node_service_capability::{Rpc, Type};
use super::proto::csi::volume_usage::Unit;
use super::proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetStorageHealthRequest,
    NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
    NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
    NodeUnstageVolumeResponse, Topology, VolumeUsage,
};
use super::request;
use super::target_locks::TargetLocks;
use super::volumes::{Stats, Usage, Volumes};
use crate::api::TOPOLOGY_NODE;

/// GET_VOLUME_STATS supplies the kubelet's volume metrics (M6). SINGLE_NODE_MULTI_WRITER makes the kubelet send
/// ReadWriteOnce and ReadWriteOncePod as two modes.
const CAPABILITIES: [RpcType; 2] = [RpcType::GetVolumeStats, RpcType::SingleNodeMultiWriter];

const NOTHING_TO_STAGE: &str = "volumes are not staged: the agent mounts each once per node by itself";
const NOT_EXPANDED_HERE: &str =
    "volumes are not resized through CSI: change spec.size of the SharedPersistentVolume";
const HEALTH_IS_A_CONDITION: &str = "health is not reported through CSI: see the conditions of the \
                                     SharedPersistentVolume and of the NodeDisk";

pub(super) struct NodeService<V> {
    pub(super) node_name: String,
    pub(super) volumes: Arc<V>,
    pub(super) observer: Arc<dyn Observer>,
    /// Calls under way that change mounts, with or without a waiting caller.
    pub(super) running: TaskTracker,
    pub(super) target_locks: Arc<TargetLocks>,
}

impl<V> NodeService<V> {
    /// Runs `work` to its end. gRPC drops a handler as soon as the kubelet hangs up. Half a mount would be worse than
    /// an answer without a recipient (M4).
    async fn run_to_end<T: Send + 'static>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        self.running
            .spawn(call.answer(work))
            .await
            .unwrap_or_else(|lost| Err(Error::unavailable("failed to finish the call", lost).into()))
    }

    async fn refuse<T>(&self, method: &'static str, why: &'static str) -> Result<Response<T>, Status> {
        Call::query(method, &self.observer).answer(async { Err(Error::Unimplemented(why)) }).await
    }
}

#[tonic::async_trait]
impl<V: Volumes> Node for NodeService<V> {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let call =
            Call::change("NodePublishVolume", &request.volume_id, &request.target_path, &self.observer);
        let (volumes, locks) = (Arc::clone(&self.volumes), Arc::clone(&self.target_locks));
        self.run_to_end(call, async move {
            let request = request::publish(request)?;
            let _target = locks.lock(&request.target).await;
            volumes.publish(request).await?;
            Ok(NodePublishVolumeResponse {})
        })
        .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let call =
            Call::change("NodeUnpublishVolume", &request.volume_id, &request.target_path, &self.observer);
        let (volumes, locks) = (Arc::clone(&self.volumes), Arc::clone(&self.target_locks));
        self.run_to_end(call, async move {
            let (handle, target) = request::unpublish(&request)?;
            let _target = locks.lock(&target).await;
            volumes.unpublish(&handle, &target).await?;
            Ok(NodeUnpublishVolumeResponse {})
        })
        .await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Call::query("NodeGetVolumeStats", &self.observer)
            .answer(async {
                let (handle, path) = request::stats(request.get_ref())?;
                let Stats { bytes, inodes } = self.volumes.stats(&handle, &path).await?;
                let inodes = inodes.map(|inodes| usage(inodes, Unit::Inodes));
                Ok(NodeGetVolumeStatsResponse {
                    usage: [usage(bytes, Unit::Bytes)].into_iter().chain(inodes).collect(),
                })
            })
            .await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability =
            |rpc: RpcType| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc.into() })) };
        let capabilities = CAPABILITIES.map(capability).to_vec();
        Call::query("NodeGetCapabilities", &self.observer)
            .answer(async { Ok(NodeGetCapabilitiesResponse { capabilities }) })
            .await
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let answer = NodeGetInfoResponse {
            node_id: self.node_name.clone(),
            // The scheduler needs no limit on the number of volumes: the disk's size is the limit.
            max_volumes_per_node: 0,
            accessible_topology: Some(Topology {
                segments: [(TOPOLOGY_NODE.to_owned(), self.node_name.clone())].into(),
            }),
        };
        Call::query("NodeGetInfo", &self.observer).answer(async { Ok(answer) }).await
    }

    async fn node_stage_volume(
        &self,
        _: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        self.refuse("NodeStageVolume", NOTHING_TO_STAGE).await
    }

    async fn node_unstage_volume(
        &self,
        _: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.refuse("NodeUnstageVolume", NOTHING_TO_STAGE).await
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        self.refuse("NodeExpandVolume", NOT_EXPANDED_HERE).await
    }

    async fn node_get_volume_health(
        &self,
        _: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        self.refuse("NodeGetVolumeHealth", HEALTH_IS_A_CONDITION).await
    }

    async fn node_get_storage_health(
        &self,
        _: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        self.refuse("NodeGetStorageHealth", HEALTH_IS_A_CONDITION).await
    }
}

fn usage(Usage { total, used, available }: Usage, unit: Unit) -> VolumeUsage {
    // CSI's numbers are signed, and negative values are not allowed.
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    VolumeUsage { total: signed(total), used: signed(used), available: signed(available), unit: unit.into() }
}
