//! The maker of a PersistentVolumeClaim with wrong fields. Nobody can change the fields, and a StatefulSet makes a deleted
//! PersistentVolumeClaim again as it was.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use super::super::owners::{again, pod_of, set_of};
use crate::api::{SharedPersistentVolume, Size};
use crate::plan::advice;
use crate::plugin::snapshot::Snapshot;

/// The words for a PersistentVolumeClaim whose message says what to change.
pub const AS_SAID: &str = "as the message says";

/// The words for a PersistentVolumeClaim that asks for more than there is.
pub fn in_size(most: &Size) -> String {
    format!("with {most}, as no disk has more for it, or add a disk")
}

/// The words for a PersistentVolumeClaim with a mistyped StorageClass.
pub fn of_class(near: &str) -> String {
    format!("with storageClassName {near}, if that is meant")
}

/// The words for a PersistentVolumeClaim that names a PersistentVolume.
pub const UNNAMED: &str = "without spec.volumeName";

/// The step that makes the PersistentVolumeClaim anew: its user's, or that of the pod or StatefulSet with its template.
pub fn anew(snapshot: &Snapshot, name: &str, namespace: &str, how: &str) -> String {
    let pvc = snapshot.pvc(Some(namespace), name);
    let of_template = pvc.and_then(|pvc| by_template(snapshot, pvc, how));
    let (delete, after) = deletion(snapshot, name, namespace);
    of_template.unwrap_or_else(|| advice::make_pvc_anew(delete, after, how))
}

/// The command that deletes a PersistentVolumeClaim, and the words about the pods that keep it, for which kubectl does not wait.
pub fn deletion(snapshot: &Snapshot, name: &str, namespace: &str) -> (String, &'static str) {
    let delete = format!("kubectl delete pvc {name} -n {namespace}");
    let is_placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    match snapshot.pods_of(namespace, name).any(is_placed) {
        true => (format!("{delete} --wait=false"), "it goes after the pods that use it; "),
        false => (delete, ""),
    }
}

/// The step that gives the name of a PersistentVolumeClaim to a claim to the volume with its data.
pub fn claim_after_lost(
    snapshot: &Snapshot,
    name: &str,
    namespace: &str,
    volume: &SharedPersistentVolume,
) -> String {
    let (delete, after) = deletion(snapshot, name, namespace);
    advice::claim_after_lost(delete, after, name, namespace, &volume.spec.role, volume.name_any())
}

/// The step for a PersistentVolumeClaim of a template, which is made again if somebody deletes it.
pub fn by_template(snapshot: &Snapshot, pvc: &PersistentVolumeClaim, how: &str) -> Option<String> {
    let (name, namespace) = (pvc.name_any(), pvc.namespace().unwrap_or_default());
    let by_set = || {
        let (delete, after) = deletion(snapshot, &name, &namespace);
        let after = if after.is_empty() { "" } else { "delete the pod that uses it, too; " };
        Some(advice::make_set_anew(set_with(snapshot, pvc)?, &namespace, delete, after, how))
    };
    let by_pod = |pod: &str| {
        let is_it = |of: &&Pod| of.name_any() == pod && of.namespace().as_deref() == Some(&namespace);
        let found = snapshot.pods.iter().find(is_it);
        let again = found.map_or_else(|| advice::make_pod_again(pod, &namespace), |pod| again(snapshot, pod));
        advice::make_pod_anew(again, how)
    };
    pod_of(pvc).map(by_pod).or_else(by_set)
}

/// The object with the template, in words.
pub fn template(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> Option<String> {
    let by_set =
        || Some(format!("StatefulSet {}, whose volumeClaimTemplates have it,", set_with(snapshot, pvc)?));
    pod_of(pvc).map(|pod| format!("pod {pod}, or the template of what makes it,")).or_else(by_set)
}

/// The StatefulSet whose template made the PersistentVolumeClaim. The name of such a PersistentVolumeClaim ends in that of its pod;
/// a pod of the set may use other ones, too.
fn set_with(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> Option<String> {
    let name = pvc.name_any();
    let maker = |pod: &Pod| {
        let is_of_template = name.ends_with(&format!("-{}", pod.name_any()));
        set_of(pod).filter(|_| is_of_template).map(str::to_owned)
    };
    snapshot.pods_of(&pvc.namespace().unwrap_or_default(), &name).find_map(maker)
}
