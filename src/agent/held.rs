//! Tells which processes hold a volume: in its status, in its conditions and in events (F3).

use std::path::{Path, PathBuf};

use crate::api::condition::reason;
use crate::api::{PodRef, Process, SharedPersistentVolume};
use crate::cluster;
use crate::host::{self, VolumeUid};
use crate::plan::held_by;

use super::context::{Context, NodeError};

/// The processes that hold a volume of this node. None if the search fails: it decides nothing.
pub(super) async fn processes(uid: &VolumeUid, ctx: &Context) -> Vec<Process> {
    look(uid, None, ctx).await.map_or_else(Vec::new, |held| held.by.into_iter().map(process).collect())
}

/// The failure of work on a volume. If the volume is busy, the message has the processes that hold it. The text is for
/// readers of the volume.
pub(super) async fn explained(error: &NodeError, uid: &VolumeUid, name: &str, ctx: &Context) -> String {
    let message = error.of_volume(uid, name, ctx);
    if !matches!(error, NodeError::Host(host::Error::Busy { .. })) {
        return message;
    }
    match look(uid, None, ctx).await {
        Some(held) if !held.by.is_empty() => {
            let (by, pods) = split(held);
            format!("{message}; it is held by {}", held_by::by(&by, &pods))
        }
        _ => message,
    }
}

/// Publishes on an exclusive volume which processes keep a pod waiting. The pod's own event does not name them.
/// `users` are the pods of the volume's status.
pub(super) async fn report_waiting(uid: &VolumeUid, pod: &PodRef, users: &[PodRef], ctx: &Context) {
    let Some(held) = look(uid, None, ctx).await.filter(|held| !held.by.is_empty()) else { return };
    let (volume, (by, published)) = (volume(uid, &held.volume), split(held));
    let message = held_by::waited_for(&ctx.node, pod, &by, &[&published[..], users].concat());
    ctx.warn(&volume, "Mount", reason::MOUNT_HELD, &message).await;
}

/// Publishes which processes keep a target from being unmounted, on the volume and on the pod. What the kernel refuses
/// once is passing: the kubelet tries again.
pub(super) async fn report(uid: &VolumeUid, target: &Path, ctx: &Context) {
    if !ctx.held_targets.note(target) {
        return;
    }
    let Some(held) = look(uid, Some(target.to_owned()), ctx).await else { return };
    let name = held.volume.clone();
    let (by, pods) = split(held);
    let message = held_by::on_volume(&ctx.node, &by, &pods);
    ctx.warn(&volume(uid, &name), "Unmount", reason::MOUNT_HELD, &message).await;
    for pod in &pods {
        let message = held_by::on_pod(&ctx.node, &name, &by, pod);
        ctx.warn(&cluster::pod_of(pod), "Unmount", reason::MOUNT_HELD, &message).await;
    }
}

async fn look(uid: &VolumeUid, target: Option<PathBuf>, ctx: &Context) -> Option<host::Held> {
    let searched = uid.clone();
    let found = ctx.on_host(move |host| match target {
        None => host.holders(&searched),
        Some(target) => host.holders_at(&searched, &target),
    });
    match found.await.and_then(|found| Ok(found?)) {
        Ok(held) => Some(held),
        Err(error) => {
            tracing::debug!(%uid, %error, "failed to look for the processes that hold a volume");
            None
        }
    }
}

fn split(held: host::Held) -> (Vec<Process>, Vec<PodRef>) {
    let pods = held.pods.into_iter().map(pod_ref);
    (held.by.into_iter().map(process).collect(), pods.collect())
}

pub(super) fn pod_ref(pod: host::Pod) -> PodRef {
    PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }
}

fn process(holder: host::Holder) -> Process {
    let host::Holder { pid, command, pod_uid, mount } = holder;
    Process { pid, command, pod_uid, mount }
}

fn volume(uid: &VolumeUid, name: &str) -> SharedPersistentVolume {
    let mut volume = SharedPersistentVolume::new(name, Default::default());
    volume.metadata.uid = Some(uid.to_string());
    volume
}
