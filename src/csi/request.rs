//! Turns requests into validated types.
//!
//! For a path only the form is validated. The node decides which path is a target, and reaches every target by
//! descriptor beneath the kubelet's directory (M7).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::handle::VolumeHandle;
use super::proto::csi::volume_capability::access_mode::Mode;
use super::proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use super::proto::csi::{
    NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
};
use super::volumes::{PodInfo, PublishRequest};

/// Prefix of the keys that the kubelet adds to the volume context, the pod's identity and tokens among them.
const KUBELET_PREFIX: &str = "csi.storage.k8s.io/";

/// Linux' PATH_MAX without the final NUL.
const PATH_LIMIT: usize = 4095;

pub(super) fn publish(request: NodePublishVolumeRequest) -> Result<PublishRequest, Error> {
    // Secrets stay here, and so do the contexts of services that this driver lacks.
    let NodePublishVolumeRequest {
        volume_id, target_path, volume_capability, readonly, volume_context, ..
    } = request;
    required("volume_id", &volume_id)?;
    required("target_path", &target_path)?;
    let capability = volume_capability.ok_or_else(|| invalid("volume_capability is missing"))?;

    let mode = mode(&capability)?;
    let (block, mount) = match capability.access_type {
        None => return Err(invalid("volume_capability has no access type")),
        Some(AccessType::Block(_)) => (true, MountVolume::default()),
        Some(AccessType::Mount(mount)) => (false, mount),
    };
    if !mount.volume_mount_group.is_empty() {
        return Err(invalid(
            "volume_mount_group is set, but this driver does not have the capability VOLUME_MOUNT_GROUP",
        ));
    }
    Ok(PublishRequest {
        handle: handle(&volume_id)?,
        target: path("target_path", &target_path)?,
        read_only: readonly,
        block,
        several_pods: !matches!(mode, Mode::SingleNodeSingleWriter | Mode::SingleNodeWriter),
        fs_type: mount.fs_type,
        mount_options: mount.mount_flags,
        pod: pod(&volume_context)?,
        volume_context: volume_context
            .into_iter()
            .filter(|(key, _)| !key.starts_with(KUBELET_PREFIX))
            .collect(),
    })
}

pub(super) fn unpublish(request: &NodeUnpublishVolumeRequest) -> Result<(VolumeHandle, PathBuf), Error> {
    required("volume_id", &request.volume_id)?;
    required("target_path", &request.target_path)?;
    Ok((handle(&request.volume_id)?, path("target_path", &request.target_path)?))
}

pub(super) fn stats(request: &NodeGetVolumeStatsRequest) -> Result<(VolumeHandle, PathBuf), Error> {
    required("volume_id", &request.volume_id)?;
    required("volume_path", &request.volume_path)?;
    let handle = handle(&request.volume_id)?;
    // CSI requires "not found" for every path without a mount of the volume.
    let path =
        path("volume_path", &request.volume_path).map_err(|error| Error::NotFound(error.to_string()))?;
    Ok((handle, path))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::InvalidArgument(message.into())
}

fn required(field: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() { Err(invalid(format!("{field} is missing"))) } else { Ok(()) }
}

/// CSI requires "not found" instead of "invalid" for an ID that this driver never made.
fn handle(text: &str) -> Result<VolumeHandle, Error> {
    text.parse().map_err(|error| Error::NotFound(format!("volume_id is {error}")))
}

/// One path has one spelling, because calls for one target wait for each other (S16).
fn path(field: &str, text: &str) -> Result<PathBuf, Error> {
    if text.len() > PATH_LIMIT {
        return Err(invalid(format!("{field} is longer than a path may be")));
    }
    if text.contains(char::is_control) {
        return Err(invalid(format!("{field} contains a control character")));
    }
    Ok(Path::new(text).components().collect())
}

/// The access mode. The kubelet sends `SINGLE_NODE_MULTI_WRITER` for ReadWriteOnce, and `SINGLE_NODE_SINGLE_WRITER` for
/// ReadWriteOncePod.
fn mode(capability: &VolumeCapability) -> Result<Mode, Error> {
    let Some(AccessMode { mode }) = capability.access_mode else {
        return Err(invalid("volume_capability has no access mode"));
    };
    match Mode::try_from(mode) {
        Ok(Mode::MultiNodeSingleWriter) => {
            Err(invalid("access mode MULTI_NODE_SINGLE_WRITER is not supported"))
        }
        Ok(Mode::Unknown) | Err(_) => Err(invalid("volume_capability has an unknown access mode")),
        Ok(mode) => Ok(mode),
    }
}

fn pod(context: &HashMap<String, String>) -> Result<PodInfo, Error> {
    if context.get("csi.storage.k8s.io/ephemeral").is_some_and(|value| value == "true") {
        return Err(invalid("inline volumes are not supported: use a PersistentVolumeClaim"));
    }
    let name = |key: &str| {
        let value = context.get(&format!("{KUBELET_PREFIX}{key}")).map_or("", String::as_str);
        if value.is_empty() {
            return Err(invalid(format!(
                "volume_context has no {KUBELET_PREFIX}{key}: \
                 set spec.podInfoOnMount to true in the CSIDriver object csi.reservoir.dev"
            )));
        }
        if is_name(value) {
            Ok(value.to_owned())
        } else {
            Err(invalid(format!("{KUBELET_PREFIX}{key} is not a name")))
        }
    };
    Ok(PodInfo { uid: name("pod.uid")?, namespace: name("pod.namespace")?, name: name("pod.name")? })
}

/// True for a possible name or UID of Kubernetes, which is safe in a log, a comparison or a path.
pub fn is_name(text: &str) -> bool {
    text.len() <= 253
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::csi::proto::csi::volume_capability::BlockVolume;

    const UID: &str = "0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03";

    /// Paths, mostly made of components that change the meaning of a path.
    fn paths() -> impl Strategy<Value = String> {
        prop_oneof!["(/|\\.\\.|\\.|a|b|\\x00|\n|/\\.\\./){0,12}", ".*"]
    }

    /// Names of a pod, valid or not.
    fn words() -> impl Strategy<Value = String> {
        prop_oneof![Just(UID.to_owned()), "[a-z0-9.-]{0,8}", "[a-zA-Z0-9./\n]{0,8}", ".*"]
    }

    /// A request for test messages: the generated type has no `Debug`, because a request may hold secrets.
    struct Shown(NodePublishVolumeRequest);

    impl std::fmt::Debug for Shown {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?} at {:?}", self.0.volume_id, self.0.target_path)
        }
    }

    prop_compose! {
        fn requests()(
            ids in prop_oneof![Just(format!("{UID}.{UID}")), words()],
            target_path in paths(),
            capability in any::<Option<(Option<bool>, Option<i32>)>>(),
            mode in 0..9i32,
            mount in prop_oneof![Just(MountVolume::default()), words().prop_map(|word| MountVolume {
                mount_flags: vec![word], ..Default::default()
            })],
            pod in [words(), words(), words()],
            others in proptest::collection::hash_map(words(), words(), 0..3),
            readonly in any::<bool>(),
        ) -> Shown {
            let [name, namespace, uid] = pod;
            let of_pod = [("name", name), ("namespace", namespace), ("uid", uid), ("serviceAccount.tokens", "t".into())];
            let of_pod = of_pod.map(|(key, value)| (format!("{KUBELET_PREFIX}pod.{key}"), value));
            Shown(NodePublishVolumeRequest {
                volume_id: ids,
                target_path,
                readonly,
                volume_context: others.into_iter().chain(of_pod).collect(),
                volume_capability: capability.map(|(block, unknown)| VolumeCapability {
                    access_mode: Some(AccessMode { mode: unknown.unwrap_or(mode) }),
                    access_type: block.map(|block| match block {
                        true => AccessType::Block(BlockVolume {}),
                        false => AccessType::Mount(mount.clone()),
                    }),
                }),
                ..Default::default()
            })
        }
    }

    /// M7, S16: bytes on the socket, whatever they are.
    #[test]
    fn fuzz_csi_requests() {
        use prost::Message;
        let pod =
            ["name", "namespace", "uid"].map(|key| (format!("{KUBELET_PREFIX}pod.{key}"), "p".to_owned()));
        let seed = NodePublishVolumeRequest {
            volume_id: format!("{UID}.{UID}"),
            target_path: "/var/lib/kubelet/pods/p/volumes/x/mount".into(),
            volume_context: pod.into(),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: 1 }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            ..Default::default()
        };
        let unpublish_seed =
            NodeUnpublishVolumeRequest { volume_id: seed.volume_id.clone(), target_path: "/a/../b//".into() };
        let seeds = [seed.encode_to_vec(), unpublish_seed.encode_to_vec()];
        crate::fuzz::fuzz("csi-requests", &seeds.each_ref().map(|seed| &**seed), |bytes| {
            let words = |error: Error| crate::fuzz::words(error);
            let has_one_spelling = |path: &Path| {
                let spelled = path.to_str().unwrap();
                assert!(!spelled.contains(char::is_control) && !spelled.contains("//"), "{spelled:?}");
            };
            let published =
                NodePublishVolumeRequest::decode(bytes).map_err(crate::fuzz::words).and_then(|asked| {
                    let publish = publish(asked).map_err(words)?;
                    has_one_spelling(&publish.target);
                    assert!(is_name(&publish.pod.uid) && publish.handle.to_string().len() == 73);
                    Ok((publish.block, publish.several_pods, publish.read_only))
                });
            let asked = NodeUnpublishVolumeRequest::decode(bytes).map_err(crate::fuzz::words);
            let unpublished = asked.and_then(|asked| unpublish(&asked).map_err(words));
            let asked = NodeGetVolumeStatsRequest::decode(bytes).map_err(crate::fuzz::words);
            let measured = asked.and_then(|asked| stats(&asked).map_err(words));
            let places = [unpublished, measured].map(|found| {
                found.map(|(handle, path)| {
                    has_one_spelling(&path);
                    assert_eq!((handle.volume_uid().len(), handle.claim_uid().len()), (36, 36));
                })
            });
            (published, places)
        });
    }

    proptest! {
        /// M7, S16, S17.
        #[test]
        fn s17_a_valid_publish_holds_names_and_no_kubelet_keys(Shown(request) in requests()) {
            let target = request.target_path.clone();
            if let Ok(publish) = publish(request) {
                prop_assert!(!target.contains(char::is_control) && target.len() <= PATH_LIMIT, "{target:?}");
                prop_assert!([&publish.pod.uid, &publish.pod.namespace, &publish.pod.name].map(|w| is_name(w)) == [true; 3]);
                prop_assert!(!publish.volume_context.keys().any(|key| key.starts_with(KUBELET_PREFIX)));
                prop_assert_eq!(publish.handle.to_string().len(), 73);
            }
        }

        /// S16.
        #[test]
        fn s16_a_path_has_one_spelling(text in paths()) {
            if let Ok(place) = path("target_path", &text) {
                let spelled = place.to_str().unwrap();
                prop_assert!(!spelled.contains("//") && !spelled.contains("/./"), "{text:?}");
                prop_assert_eq!(path("target_path", spelled).unwrap(), place);
            }
        }
    }
}
