//! The node's side of the CSI services.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::handle::VolumeHandle;

/// Work on the node's volumes; the CSI services are a thin mapping onto it.
///
/// # Guarantees to the implementation
/// - Handles and the pod's identity are validated. A path is text without control characters. The implementation
///   decides which paths are targets.
/// - A publish or unpublish runs to its end, also if the kubelet hangs up at its deadline (two minutes). The next
///   call for the same target waits for that end. So no publish mounts anything after a later unpublish (M4).
///
/// # Assumptions about the implementation
/// - Every call can be repeated, and calls may run at once, also for one handle (M4).
/// - Every call ends in limited time, because other calls wait for it.
/// - The kind of [`Error`] is uncertain if a mount may be left. A panic counts as uncertain.
pub trait Volumes: Send + Sync + 'static {
    /// Mounts the volume at the target. A read-only mount is read-only before it is visible (M3, S9).
    fn publish(&self, request: PublishRequest) -> impl Future<Output = Result<(), Error>> + Send;

    /// Unmounts and removes the target; succeeds if the target is gone already.
    fn unpublish(
        &self,
        handle: &VolumeHandle,
        target: &Path,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Measures the volume published at `path` (M6).
    fn stats(&self, handle: &VolumeHandle, path: &Path) -> impl Future<Output = Result<Stats, Error>> + Send;
}

/// The request to mount a volume for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The volume and the claim.
    pub handle: VolumeHandle,
    /// The path of the mount.
    pub target: PathBuf,
    /// True if the pod itself uses the volume read-only.
    pub read_only: bool,
    /// True for the device itself, at a file; false for a file system, at a directory.
    pub block: bool,
    /// False if the PersistentVolume is for one pod alone: `ReadWriteOncePod`.
    pub several_pods: bool,
    /// File system in the PersistentVolume; empty if it names none.
    pub fs_type: String,
    /// Mount options in the PersistentVolume. CSI treats them as sensitive, so no message has them.
    pub mount_options: Vec<String>,
    /// The pod.
    pub pod: PodInfo,
    /// The PersistentVolume's `volumeAttributes`, without the `csi.storage.k8s.io/` keys that the kubelet adds. So no
    /// service account token is among them (S17).
    pub volume_context: BTreeMap<String, String>,
}

/// The pod of a publish, by the kubelet's attributes (`podInfoOnMount`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// The pod's UID, which for a static pod is not a UUID.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
}

/// Bytes and inodes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes.
    pub bytes: Usage,
    /// Inodes; `None` if the file system does not count them.
    pub inodes: Option<Usage>,
}

/// Total, used and available units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All units.
    pub total: u64,
    /// Used units.
    pub used: u64,
    /// Units that pods can still take. Units that the file system holds back are neither used nor available.
    pub available: u64,
}
