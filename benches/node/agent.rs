//! An agent with volumes, and a kubelet.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use reservoir::api::{
    AccessMode, BackingState, CONTROLLER_MANAGER, ClaimBinding, NodeDisk, SharedPersistentVolume, Size,
    VolumePhase,
};
use reservoir::cluster::write_status;
use reservoir::csi::proto::csi::volume_capability::access_mode::Mode;
use reservoir::csi::proto::csi::volume_capability::{AccessMode as CsiMode, AccessType, MountVolume};
use reservoir::csi::proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use reservoir_cluster::api::ApiOptions;
use serde_json::json;

use crate::support::{Agent, Cluster, until};

const NODE: &str = "n1";
const CLAIM: &str = "7b21de90-1c4f-4a38-8e6b-d5a09c3f7e12";

/// An agent's process, its API server, and nobody else.
pub struct Node {
    pub cluster: Cluster,
    pub agent: Agent,
}

/// A volume that any pod may use.
#[derive(Clone)]
pub struct Volume {
    pub name: String,
    handle: String,
}

impl Node {
    pub async fn start() -> Self {
        let cluster = Cluster::bare(ApiOptions::default()).await;
        cluster.node(NODE, true).await;
        let agent = Agent::start_process(&cluster, NODE, "64Gi");
        let disks: Api<NodeDisk> = cluster.all();
        until("the agent reports its disk", || async { disks.get_opt("n1.default").await.unwrap() }).await;
        agent.csi().await;
        Self { cluster, agent }
    }

    /// Makes the volumes with these numbers, of 16 MiB each, some at once.
    pub async fn volumes(&self, numbers: std::ops::Range<usize>) -> Vec<Volume> {
        stream::iter(numbers).map(|i| self.volume(i)).buffered(8).collect().await
    }

    async fn volume(&self, i: usize) -> Volume {
        let api: Api<SharedPersistentVolume> = self.cluster.all();
        let name = format!("v{i}");
        let spec = json!({"role": "eng", "size": "16Mi", "shared": {}});
        let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
            "metadata": {"name": name}, "spec": spec});
        let object = serde_json::from_value(object).unwrap();
        let made = api.create(&PostParams::default(), &object).await.unwrap();
        let mut status = made.status.clone().unwrap_or_default();
        status.phase = VolumePhase::Creating;
        status.node_name = Some(NODE.into());
        status.node_disk = Some(format!("{NODE}.default"));
        status.size = Some(Size::written("16Mi"));
        status.claims = vec![ClaimBinding {
            namespace: "team".into(),
            name: "data".into(),
            uid: CLAIM.into(),
            pvc_uid: None,
            mode: AccessMode::ReadWrite,
            ending: false,
        }];
        write_status(&api, &made, &status, CONTROLLER_MANAGER).await.unwrap();
        until(&format!("{name} is made"), || async {
            let node = api.get(&name).await.unwrap().status?.node?;
            (node.backing == BackingState::Made).then_some(())
        })
        .await;
        Volume { name, handle: format!("{}.{CLAIM}", made.uid().unwrap()) }
    }

    fn target(&self, pod: usize) -> PathBuf {
        self.agent.dir.join(format!("kubelet/pods/{pod}/volumes/kubernetes.io~csi/data/mount"))
    }

    /// Publishes a volume for a pod over a new connection, as the kubelet does, and returns the time that it took.
    pub async fn publish(&self, volume: &Volume, pod: usize) -> Duration {
        let target = self.target(pod);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let capability = VolumeCapability {
            access_mode: Some(CsiMode { mode: Mode::MultiNodeMultiWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        };
        let pod = pod.to_string();
        let context = [("volume", &volume.name)].map(|(key, value)| (key.to_owned(), value.clone()));
        let of_pod = [("name", "pod"), ("namespace", "team"), ("uid", &pod)];
        let of_pod = of_pod.map(|(key, value)| (format!("csi.storage.k8s.io/pod.{key}"), value.to_owned()));
        let request = NodePublishVolumeRequest {
            volume_id: volume.handle.clone(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability),
            volume_context: context.into_iter().chain(of_pod).collect(),
            ..Default::default()
        };
        let started = Instant::now();
        self.agent.csi().await.node_publish_volume(request).await.unwrap();
        started.elapsed()
    }

    pub async fn unpublish(&self, volume: &Volume, pod: usize) -> Duration {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.handle.clone(),
            target_path: self.target(pod).display().to_string(),
        };
        let started = Instant::now();
        self.agent.csi().await.node_unpublish_volume(request).await.unwrap();
        started.elapsed()
    }
}
