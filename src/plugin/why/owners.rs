//! The makers of pods and PersistentVolumeClaims, by owner references.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::plan::advice;
use crate::plugin::snapshot::Snapshot;

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

/// The beginning of a step that has a pod with another spec made. What made the pod would make it as before.
pub(super) fn again(snapshot: &Snapshot, pod: &Pod) -> String {
    let namespace = pod.namespace().unwrap_or_default();
    let Some(owner) = controller(pod) else { return advice::make_pod_again(pod.name_any(), namespace) };
    let hash = pod.labels().get("pod-template-hash").map(|hash| format!("-{hash}"));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(&hash).map(str::to_owned));
    let argument = |kind: &str, name: &str| format!("{}/{name}", kind.to_lowercase());
    match (owner.kind.as_str(), deployment) {
        // A new Job of the same maker would be as this one.
        ("Job", _) => match maker(snapshot, &namespace, &owner.name) {
            Some(maker) if maker.kind == "CronJob" => {
                advice::change_job_template(&maker.name, namespace, &owner.name)
            }
            Some(maker) => advice::change_pod_template(argument(&maker.kind, &maker.name), namespace),
            None => advice::make_job_again(&owner.name, namespace),
        },
        ("ReplicaSet", Some(deployment)) => {
            advice::change_pod_template(format!("deployment/{deployment}"), namespace)
        }
        // A ReplicaSet leaves its pods as they are, and a StatefulSet one that is not Ready.
        (kind @ ("StatefulSet" | "ReplicaSet" | "ReplicationController"), _) => {
            advice::change_set_template(argument(kind, &owner.name), namespace, pod.name_any())
        }
        (kind, _) => advice::change_pod_template(argument(kind, &owner.name), namespace),
    }
}

/// The maker of the Job of that name.
fn maker<'a>(snapshot: &'a Snapshot, namespace: &str, job: &str) -> Option<&'a OwnerReference> {
    let is_it = |of: &&Job| of.name_any() == job && of.namespace().as_deref() == Some(namespace);
    let owners = snapshot.jobs.iter().find(is_it)?.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true))
}

/// The ephemeral volumes of a pod, each with the name of its PersistentVolumeClaim.
pub(super) fn ephemeral(pod: &Pod) -> impl Iterator<Item = (&str, String)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let ephemeral = volumes.filter(|volume| volume.ephemeral.is_some());
    ephemeral.map(|volume| (volume.name.as_str(), format!("{}-{}", pod.name_any(), volume.name)))
}

/// The first ephemeral volume of the pod whose PersistentVolumeClaim would have the name of another one, and that name. Kubernetes
/// gives no pod a PersistentVolumeClaim that it does not own.
pub(super) fn taken_name<'a>(snapshot: &Snapshot, pod: &'a Pod) -> Option<(&'a str, String)> {
    ephemeral(pod).find(|(_, name)| {
        let pvc = snapshot.pvc(pod.metadata.namespace.as_deref(), name);
        pvc.is_some_and(|pvc| {
            !pvc.owner_references().iter().any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
        })
    })
}
