//! The CSI services as the kubelet meets them: over a unix socket, every field checked.

mod csi_support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_support::{Agent, CLAIM, VOLUME, capability, handle, publish_request, until};
use reservoir::csi::PodInfo;
use reservoir::csi::proto::csi::plugin_capability::Type as PluginType;
use reservoir::csi::proto::csi::plugin_capability::service::Type as PluginService;
use reservoir::csi::proto::csi::volume_capability::access_mode::Mode;
use reservoir::csi::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use reservoir::csi::proto::csi::volume_usage::Unit;
use reservoir::csi::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeExpandVolumeRequest, NodeGetCapabilitiesRequest,
    NodeGetInfoRequest, NodeGetStorageHealthRequest, NodeGetVolumeHealthRequest, NodeGetVolumeStatsRequest,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    ProbeRequest,
};
use tonic::{Code, Status};

fn assert_refused<T>(case: &str, result: Result<T, Status>, code: Code, sentence: &str) {
    let status = result.err().unwrap_or_else(|| panic!("{case}: was accepted"));
    assert_eq!((status.code(), status.message()), (code, sentence), "{case}");
}

fn mount(change: impl FnOnce(&mut MountVolume)) -> Option<AccessType> {
    let mut mount = MountVolume::default();
    change(&mut mount);
    Some(AccessType::Mount(mount))
}

#[tokio::test]
async fn identity_has_name_version_and_readiness() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut identity = agent.identity().await;

    let info = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (info.name.as_str(), info.vendor_version.as_str()),
        ("csi.reservoir.dev", env!("CARGO_PKG_VERSION"))
    );

    let capabilities =
        identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap().into_inner();
    let services: Vec<_> = capabilities
        .capabilities
        .into_iter()
        .map(|capability| match capability.r#type {
            Some(PluginType::Service(service)) => service.r#type(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(services, [PluginService::VolumeAccessibilityConstraints]);

    assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn node_info_has_the_topology_and_two_capabilities() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;

    let info = node.node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 0));
    let segments = info.accessible_topology.unwrap().segments;
    assert_eq!(segments, [("topology.reservoir.dev/node".to_owned(), "node-1".to_owned())].into());

    let capabilities = node.node_get_capabilities(NodeGetCapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(format!("{:?}", capabilities.capabilities).matches("GetVolumeStats").count(), 1);
    assert_eq!(format!("{:?}", capabilities.capabilities).matches("SingleNodeMultiWriter").count(), 1);
    assert_eq!(capabilities.capabilities.len(), 2);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_not_offered_gets_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    let answers = [
        node.node_stage_volume(NodeStageVolumeRequest::default()).await.err(),
        node.node_unstage_volume(NodeUnstageVolumeRequest::default()).await.err(),
        node.node_expand_volume(NodeExpandVolumeRequest::default()).await.err(),
        node.node_get_volume_health(NodeGetVolumeHealthRequest::default()).await.err(),
        node.node_get_storage_health(NodeGetStorageHealthRequest::default()).await.err(),
    ];
    for answer in answers {
        let status = answer.expect("is not implemented");
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains(": "), "{status:?}");
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_valid_publish_reaches_the_volumes_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    for (position, (mode, read_only)) in [
        (Mode::SingleNodeWriter, false),
        (Mode::SingleNodeSingleWriter, false),
        (Mode::SingleNodeMultiWriter, false),
        (Mode::MultiNodeMultiWriter, false),
        (Mode::MultiNodeMultiWriter, true),
        (Mode::SingleNodeReaderOnly, false),
        (Mode::MultiNodeReaderOnly, true),
    ]
    .into_iter()
    .enumerate()
    {
        let target = dir.path().join(format!("pods/{position}/mount"));
        let mut request = publish_request(&target);
        request.volume_id = format!("{VOLUME}.7b21de90-1c4f-4a38-8e6b-00000000000{position}");
        request.target_path = format!("{}/./pods//{position}/mount/", dir.path().display());
        request.readonly = read_only;
        request.volume_capability = Some(capability(mode));
        // Every other request wants the device itself.
        let block = position % 2 == 1;
        if block {
            request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Block(BlockVolume {}));
        }
        request.volume_context.insert("reservoir.dev/claim".into(), "team-a/data".into());
        request.volume_context.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), "{}".into());
        node.node_publish_volume(request).await.unwrap();

        let seen = agent.volumes.published.lock().unwrap()[&target].clone();
        assert_eq!(seen.handle.claim_uid(), format!("7b21de90-1c4f-4a38-8e6b-00000000000{position}"));
        assert_eq!((seen.read_only, seen.block), (read_only, block), "{mode:?}");
        let pod = PodInfo {
            uid: "5a9d2c14-3b7e-4f60-a1c8-9e0d7b6f5432".into(),
            namespace: "team-a".into(),
            name: "reader-0".into(),
        };
        assert_eq!(seen.pod, pod);
        assert_eq!(
            seen.volume_context,
            [("reservoir.dev/claim".to_owned(), "team-a/data".to_owned())].into()
        );
    }
    agent.stop().await.unwrap();
}

/// V12, M7.
#[tokio::test]
async fn a_publish_with_a_bad_field_is_refused() {
    type Change = fn(&mut NodePublishVolumeRequest);
    const POD_INFO: &str = "set spec.podInfoOnMount to true in the CSIDriver object csi.reservoir.dev";
    const NO_HANDLE: &str = "volume_id is not a volume handle of Reservoir: Reservoir alone makes the PersistentVolumes of csi.reservoir.dev";
    fn set_type(request: &mut NodePublishVolumeRequest, access_type: Option<AccessType>) {
        request.volume_capability.as_mut().unwrap().access_type = access_type;
    }
    fn set_mode(request: &mut NodePublishVolumeRequest, mode: i32) {
        request.volume_capability.as_mut().unwrap().access_mode = Some(AccessMode { mode });
    }
    fn set(request: &mut NodePublishVolumeRequest, key: &str, value: &str) {
        request.volume_context.insert(format!("csi.storage.k8s.io/{key}"), value.into());
    }
    let missing = |key: &str| format!("volume_context has no csi.storage.k8s.io/{key}: {POD_INFO}");
    let cases: Vec<(Change, Code, String)> = vec![
        (|r| r.volume_id.clear(), Code::InvalidArgument, "volume_id is missing".into()),
        (|r| r.volume_id = VOLUME.into(), Code::NotFound, NO_HANDLE.into()),
        (|r| r.volume_id = "../../etc".into(), Code::NotFound, NO_HANDLE.into()),
        (|r| r.volume_id = "a".repeat(1 << 20), Code::NotFound, NO_HANDLE.into()),
        (|r| r.volume_id.make_ascii_uppercase(), Code::NotFound, NO_HANDLE.into()),
        (|r| r.target_path.clear(), Code::InvalidArgument, "target_path is missing".into()),
        (
            |r| r.target_path = "/a\0b".into(),
            Code::InvalidArgument,
            "target_path contains a control character".into(),
        ),
        (
            |r| r.target_path = "/a\nb".into(),
            Code::InvalidArgument,
            "target_path contains a control character".into(),
        ),
        (
            |r| r.target_path = "/a".repeat(2048),
            Code::InvalidArgument,
            "target_path is longer than a path may be".into(),
        ),
        (|r| r.volume_capability = None, Code::InvalidArgument, "volume_capability is missing".into()),
        (|r| set_type(r, None), Code::InvalidArgument, "volume_capability has no access type".into()),
        (
            |r| set_type(r, mount(|mount| mount.volume_mount_group = "0".into())),
            Code::InvalidArgument,
            "volume_mount_group is set, but this driver does not have the capability VOLUME_MOUNT_GROUP"
                .into(),
        ),
        (
            |r| r.volume_capability.as_mut().unwrap().access_mode = None,
            Code::InvalidArgument,
            "volume_capability has no access mode".into(),
        ),
        (|r| set_mode(r, 0), Code::InvalidArgument, "volume_capability has an unknown access mode".into()),
        (|r| set_mode(r, 99), Code::InvalidArgument, "volume_capability has an unknown access mode".into()),
        (
            |r| set_mode(r, Mode::MultiNodeSingleWriter.into()),
            Code::InvalidArgument,
            "access mode MULTI_NODE_SINGLE_WRITER is not supported".into(),
        ),
        (|r| r.volume_context.clear(), Code::InvalidArgument, missing("pod.uid")),
        (|r| set(r, "pod.uid", ""), Code::InvalidArgument, missing("pod.uid")),
        (|r| set(r, "pod.namespace", ""), Code::InvalidArgument, missing("pod.namespace")),
        (|r| set(r, "pod.name", ""), Code::InvalidArgument, missing("pod.name")),
        (
            |r| set(r, "pod.uid", "../x"),
            Code::InvalidArgument,
            "csi.storage.k8s.io/pod.uid is not a name".into(),
        ),
        (
            |r| set(r, "pod.name", "a\nb"),
            Code::InvalidArgument,
            "csi.storage.k8s.io/pod.name is not a name".into(),
        ),
        (
            |r| set(r, "pod.name", &"a".repeat(254)),
            Code::InvalidArgument,
            "csi.storage.k8s.io/pod.name is not a name".into(),
        ),
        (
            |r| set(r, "ephemeral", "true"),
            Code::InvalidArgument,
            "inline volumes are not supported: use a PersistentVolumeClaim".into(),
        ),
    ];

    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    for (change, code, sentence) in cases {
        let mut request = publish_request(&dir.path().join("mount"));
        change(&mut request);
        assert_refused(&sentence, node.node_publish_volume(request).await, code, &sentence);
    }
    assert!(agent.volumes.published.lock().unwrap().is_empty(), "a refused request went no further");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn unpublish_and_stats_with_a_bad_field_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    for (id, path, code, sentence) in [
        ("", "/a", Code::InvalidArgument, "volume_id is missing"),
        (handle().as_str(), "", Code::InvalidArgument, "target_path is missing"),
        (handle().as_str(), "/a\nb", Code::InvalidArgument, "target_path contains a control character"),
        (
            CLAIM,
            "/a",
            Code::NotFound,
            "volume_id is not a volume handle of Reservoir: Reservoir alone makes the PersistentVolumes of csi.reservoir.dev",
        ),
    ] {
        let request = NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: path.into() };
        assert_refused(sentence, node.node_unpublish_volume(request).await, code, sentence);
    }
    for (id, path, code, sentence) in [
        ("", "/a", Code::InvalidArgument, "volume_id is missing"),
        (handle().as_str(), "", Code::InvalidArgument, "volume_path is missing"),
        (handle().as_str(), "some/path", Code::NotFound, "the volume is not published there"),
        (handle().as_str(), "/a\nb", Code::NotFound, "volume_path contains a control character"),
        (handle().as_str(), "/a", Code::NotFound, "the volume is not published there"),
    ] {
        let request = NodeGetVolumeStatsRequest {
            volume_id: id.into(),
            volume_path: path.into(),
            ..Default::default()
        };
        assert_refused(sentence, node.node_get_volume_stats(request).await, code, sentence);
    }
    agent.stop().await.unwrap();
}

/// M4, M6.
#[tokio::test]
async fn m4_publish_and_unpublish_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    let target = dir.path().join("mount");
    for _ in 0..2 {
        node.node_publish_volume(publish_request(&target)).await.unwrap();
    }
    let stats = NodeGetVolumeStatsRequest {
        volume_id: handle(),
        volume_path: target.display().to_string(),
        ..Default::default()
    };
    let usage = node.node_get_volume_stats(stats).await.unwrap().into_inner().usage;
    let numbers: Vec<_> = usage.iter().map(|u| (u.unit(), u.total, u.used, u.available)).collect();
    // A number beyond CSI's signed ones becomes the largest of them.
    assert_eq!(numbers, [(Unit::Bytes, 1 << 30, 1 << 20, i64::MAX), (Unit::Inodes, 1000, 11, 989)]);
    for _ in 0..2 {
        let request =
            NodeUnpublishVolumeRequest { volume_id: handle(), target_path: target.display().to_string() };
        node.node_unpublish_volume(request).await.unwrap();
    }
    assert!(!target.exists());

    let seen = agent.seen.0.lock().unwrap().clone();
    let expected = ["NodePublishVolume", "NodePublishVolume", "NodeGetVolumeStats"];
    assert_eq!(seen[..3], expected.map(|method| (method, Code::Ok)));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_cause() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    let asked = |test: &str| {
        let mut request = publish_request(&dir.path().join(test));
        request.volume_context.insert("test".into(), test.into());
        request
    };

    let full = "failed to attach the volume: No space left on device (os error 28)";
    assert_refused("full", node.node_publish_volume(asked("full")).await, Code::ResourceExhausted, full);

    let mut exclusive = publish_request(&dir.path().join("a"));
    exclusive.volume_context.insert("exclusive".into(), String::new());
    node.node_publish_volume(exclusive.clone()).await.unwrap();
    let mut otherwise = exclusive.clone();
    otherwise.readonly = true;
    let sentence = "the target is published otherwise";
    assert_refused("otherwise", node.node_publish_volume(otherwise).await, Code::AlreadyExists, sentence);
    exclusive.target_path.push('b');
    let sentence = "the volume is exclusive and in use";
    assert_refused("second", node.node_publish_volume(exclusive).await, Code::FailedPrecondition, sentence);
    agent.stop().await.unwrap();
}

/// L3, V10. A final code would make the kubelet forget what the call left mounted. Other calls on the same connection go on.
#[tokio::test]
async fn l3_a_panic_in_a_call_is_an_uncertain_error() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let mut node = agent.node().await;
    let sentence = "failed to finish the call: the agent panicked, see its log";
    let mut request = publish_request(&dir.path().join("mount"));
    request.volume_context.insert("test".into(), "panic".into());
    assert_refused("publish", node.node_publish_volume(request).await, Code::Unavailable, sentence);
    let request =
        NodeGetVolumeStatsRequest { volume_id: handle(), volume_path: "/panic".into(), ..Default::default() };
    assert_refused("stats", node.node_get_volume_stats(request).await, Code::Unavailable, sentence);
    node.node_publish_volume(publish_request(&dir.path().join("mount"))).await.unwrap();
    let seen = agent.seen.0.lock().unwrap().clone();
    assert_eq!(seen.iter().filter(|(_, code)| *code == Code::Unavailable).count(), 2, "{seen:?}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn two_publishes_run_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let publish = async |target: PathBuf| {
        let mut request = publish_request(&target);
        request.volume_context.insert("test".into(), "meet".into());
        agent.node().await.node_publish_volume(request).await
    };
    // Each waits for the other inside the call.
    let (one, other) = tokio::join!(publish(dir.path().join("a")), publish(dir.path().join("b")));
    one.unwrap();
    other.unwrap();
    agent.stop().await.unwrap();
}

/// M4, L3. The kubelet's deadline passed while its publish looked something up, and the pod was deleted.
#[tokio::test]
async fn m4_an_unpublish_does_not_overtake_the_publish_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let target = dir.path().join("mount");
    let mut slow = publish_request(&target);
    slow.volume_context.insert("test".into(), "wait".into());
    let mut node = agent.node().await;
    let kubelet = tokio::spawn(async move { node.node_publish_volume(slow).await });
    agent.volumes.entered.notified().await;
    kubelet.abort();

    let unpublish = |target: &Path| NodeUnpublishVolumeRequest {
        volume_id: handle(),
        target_path: target.display().to_string(),
    };
    let (request, mut node) = (unpublish(&target), agent.node().await);
    let ending = tokio::spawn(async move { node.node_unpublish_volume(request).await });
    // Calls for another target go on meanwhile.
    let other = dir.path().join("other");
    let mut node = agent.node().await;
    node.node_publish_volume(publish_request(&other)).await.unwrap();
    node.node_unpublish_volume(unpublish(&other)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!ending.is_finished());
    agent.volumes.release.notify_one();
    ending.await.unwrap().unwrap();
    assert!(agent.volumes.published.lock().unwrap().is_empty());
    assert!(!target.exists());
    agent.stop().await.unwrap();
}

/// M4, L3.
#[tokio::test]
async fn m4_an_abandoned_publish_ends_and_a_stop_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&dir).await;
    let target = dir.path().join("mount");
    let mut request = publish_request(&target);
    request.volume_context.insert("test".into(), "wait".into());
    let mut node = agent.node().await;
    let kubelet = tokio::spawn(async move { node.node_publish_volume(request).await });
    agent.volumes.entered.notified().await;
    kubelet.abort();
    assert!(kubelet.await.unwrap_err().is_cancelled());

    let volumes = Arc::clone(&agent.volumes);
    let csi_socket = agent.config.csi_socket();
    let stopping = tokio::spawn(agent.stop());
    until("the socket is gone", async || !csi_socket.exists()).await;
    assert!(!stopping.is_finished());
    volumes.release.notify_one();
    stopping.await.unwrap().unwrap();
    assert!(volumes.published.lock().unwrap().contains_key(Path::new(&target)));
}
