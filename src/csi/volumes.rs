//! What the CSI services ask of the node.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use super::{Error, VolumeHandle};

/// What the node can do with volumes; the CSI services are a thin mapping onto it.
///
/// # Guarantees to the implementation
/// - Requests are checked: handles parse, paths are absolute and without `..` or control characters.
/// - A publish or unpublish runs to its end even when the kubelet hangs up on its deadline (two minutes). What it tries next
///   at the same target waits for that end, so an unpublish leaves nothing for a publish before it to mount (M4).
///
/// # Assumptions about the implementation
/// - Every call can be repeated, and calls may run at once, also for one handle (M4).
/// - A call ends, whatever it waits for: others wait for it.
/// - The kind of [`Error`] says truthfully whether something may be left mounted.
pub trait Volumes: Send + Sync + 'static {
    /// Mounts the volume at the target, read-only before it can be seen if so asked (M3, S9).
    fn publish(&self, request: PublishRequest) -> impl Future<Output = Result<(), Error>> + Send;

    /// Unmounts the target and removes it; succeeds if that is already so.
    fn unpublish(
        &self,
        handle: &VolumeHandle,
        target: &Path,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Measures the volume published at `path` (M6).
    fn stats(&self, handle: &VolumeHandle, path: &Path) -> impl Future<Output = Result<Stats, Error>> + Send;

    /// Whether the agent has taken stock of its node and can serve.
    fn ready(&self) -> impl Future<Output = bool> + Send;
}

/// One pod's wish to have a volume mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Which volume, for which claim.
    pub handle: VolumeHandle,
    /// Where: absolute, in one spelling (no `.`, `..`, doubled or trailing `/`), no control character.
    pub target: PathBuf,
    /// Whether the pod itself calls the volume read-only. A claim that may only read has [`Access::ReaderOnly`]
    /// whatever the pod says.
    pub read_only: bool,
    /// Whether the device itself is wanted, at a file, and not a file system, at a directory.
    pub block: bool,
    /// How many may write.
    pub access: Access,
    /// Who asks.
    pub pod: PodInfo,
    /// The PersistentVolume's `volumeAttributes`, without the `csi.storage.k8s.io/` keys that the kubelet adds: no
    /// service account token is among them (S17).
    pub volume_context: BTreeMap<String, String>,
}

/// How many pods may write, from the PersistentVolume's first access mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// One pod at a time (ReadWriteOncePod).
    SingleWriter,
    /// Any number of pods (ReadWriteMany; ReadWriteOnce, which allows many pods on one node).
    MultiWriter,
    /// Any number of pods, none of which writes (ReadOnlyMany).
    ReaderOnly,
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

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// In bytes.
    pub bytes: Usage,
    /// In inodes; none where the filesystem does not count them.
    pub inodes: Option<Usage>,
}

/// How much of something there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All there is.
    pub total: u64,
    /// Taken.
    pub used: u64,
    /// Free for the pods; what the filesystem reserves is neither used nor available.
    pub available: u64,
}
