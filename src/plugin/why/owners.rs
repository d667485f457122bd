//! The makers of pods and PersistentVolumeClaims, by owner references.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

/// The StatefulSet that made the pod.
pub(super) fn set_of(pod: &Pod) -> Option<&str> {
    owner(pod, "StatefulSet")
}

/// The DaemonSet that made the pod.
pub(super) fn daemon_set_of(pod: &Pod) -> Option<&str> {
    owner(pod, "DaemonSet")
}

/// The pod with the ephemeral volume that a PersistentVolumeClaim was made for.
pub(super) fn pod_of(pvc: &PersistentVolumeClaim) -> Option<&str> {
    owner(pvc, "Pod")
}

fn owner<'a>(object: &'a impl ResourceExt, kind: &str) -> Option<&'a str> {
    object.owner_references().iter().find(|owner| owner.kind == kind).map(|owner| owner.name.as_str())
}

/// The owner that makes the pod anew.
pub(super) fn controller(pod: &Pod) -> Option<&OwnerReference> {
    pod.owner_references().iter().find(|owner| owner.controller == Some(true))
}
