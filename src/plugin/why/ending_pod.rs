//! A pod that is being deleted, and the disk whose unmount it waits for.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::cluster;
use crate::plan::advice;
use crate::plan::candidate::is_ready;
use crate::plugin::snapshot::Snapshot;

/// A disk that is not ready, with a volume of a pod that is being deleted: the kubelet waits for its unmount.
pub(super) fn disk_of(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let claims = cluster::claims_of(pod);
    let disks = claims.iter().filter_map(|(namespace, name)| {
        let on = snapshot.volume_of(namespace, name)?.status.as_ref()?.node_disk.clone()?;
        snapshot.disks.iter().find(|disk| disk.name_any() == on)
    });
    disks.into_iter().find(|disk| !is_ready(disk)).map(ResourceExt::name_any)
}

/// The step for a pod with a volume of a disk that was declared gone: its agent serves the disk no more, and unmounts nothing.
pub(super) fn force_step(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let name = disk_of(snapshot, pod)?;
    snapshot.disks.iter().find(|disk| disk.name_any() == name && disk.spec.gone)?;
    Some(advice::force_pod(pod.name_any(), pod.namespace().unwrap_or_default(), name))
}
