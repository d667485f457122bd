//! A cause of a wait.

use serde::Serialize;

/// The reason of a pod or PersistentVolumeClaim that is being deleted, and of the claim of the latter.
pub(in crate::plugin) use crate::api::condition::reason::TERMINATING;

/// The phase of a PersistentVolumeClaim whose PersistentVolume is gone, as Kubernetes calls it.
pub(super) use crate::plan::pv_binding::LOST;

/// A reported condition of an object, or the phase of a pod.
#[derive(Debug, Serialize)]
pub(in crate::plugin) struct Report {
    pub object: String,
    pub reason: String,
    pub message: String,
    /// True if the object is not in its intended state.
    #[serde(skip)]
    pub trouble: bool,
    /// True for a condition beside Ready. It delays nothing but the wish that it is about.
    #[serde(skip)]
    pub beside: bool,
    /// True if the report before it is its cause.
    #[serde(skip)]
    pub caused: bool,
}

impl Report {
    /// The state of an object by its own condition Ready, its phase, or what was seen.
    pub fn of(object: String, reason: &str, message: String, trouble: bool) -> Self {
        Self { object, reason: reason.to_owned(), message, trouble, beside: false, caused: false }
    }
}

/// The reason of a PersistentVolumeClaim for which no volume can be made.
pub(in crate::plugin) const PROVISIONING_FAILED: &str = "ProvisioningFailed";
