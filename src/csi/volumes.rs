//! The node's side of the CSI services.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::handle::VolumeHandle;

/// Work on the node's volumes; the CSI services are a thin mapping onto it.
///
/// # Guarantees to the implementation
/// - Handles and the pod's identity are validated. A path is text without control characters; the implementation decides
///   which paths are targets.
/// - A publish or unpublish runs to its end even when the kubelet hangs up on its deadline (two minutes). The next call
///   for the same target waits for that end, so an unpublish leaves nothing for an earlier publish to mount (M4).
///
/// # Assumptions about the implementation
/// - Every call can be repeated, and calls may run at once, also for one handle (M4).
/// - A call ends, whatever it waits for: others wait for it.
/// - The kind of [`Error`] says truthfully whether something may be left mounted. A panic counts as uncertain.
pub trait Volumes: Send + Sync + 'static {
    /// Mounts the volume at the target, read-only before it can be seen if so asked (M3, S9).
    fn publish(&self, request: PublishRequest) -> impl Future<Output = Result<(), Error>> + Send;

    /// Unmounts the target and removes it; succeeds if it is gone already.
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
    /// The path to mount at.
    pub target: PathBuf,
    /// The pod itself calls the volume read-only.
    pub read_only: bool,
    /// The device itself is wanted, at a file, instead of a file system at a directory.
    pub block: bool,
    /// The pod.
    pub pod: PodInfo,
    /// The PersistentVolume's `volumeAttributes`, without the `csi.storage.k8s.io/` keys that the kubelet adds: no
    /// service account token is among them (S17).
    pub volume_context: BTreeMap<String, String>,
}

/// The pod that a volume is published for, in the kubelet's words (`podInfoOnMount`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// The pod's UID; for a static pod not a UUID.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
}

/// The fill of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// In bytes.
    pub bytes: Usage,
    /// In inodes; `None` where the file system does not count them.
    pub inodes: Option<Usage>,
}

/// Total, used and available units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All units.
    pub total: u64,
    /// Used units.
    pub used: u64,
    /// Free for pods; what the file system holds back is neither used nor available.
    pub available: u64,
}
