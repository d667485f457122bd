//! The CSI services' view of the node: may this pod, and mount it (M1–M6, S7).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;

use super::volumes::{Context, blocking, operate};
use crate::api::{SharedPersistentVolume, VolumeMode};
use crate::cluster;
use crate::csi::{Error, PublishRequest, Stats, Usage, VolumeHandle, Volumes};
use crate::host::{self, Pod, Publish, VolumeUid};
use crate::plan::publish::authorise;

/// How long an answer of the API server is waited for. Nothing is unmounted at the target meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// The node's volumes as CSI sees them.
pub(super) struct Node(pub(super) Arc<Context>);

impl Volumes for Node {
    async fn publish(&self, request: PublishRequest) -> Result<(), Error> {
        let ctx = &*self.0;
        let name = request.volume_context.get("volume").ok_or_else(|| {
            Error::InvalidArgument(
                "the PersistentVolume has no volume attribute `volume`: let Reservoir make it".into(),
            )
        })?;
        // Read by quorum: a claim that was bound a moment ago is known here, and one that is gone is not.
        let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
        let failed = "failed to look whether the pod's claim is bound";
        let volume = tokio::time::timeout(PATIENCE, cluster::get(&volumes, name))
            .await
            .map_err(|late| Error::unavailable(failed, late))?
            .map_err(|error| Error::unavailable(failed, error))?
            .ok_or_else(|| {
                Error::NotFound(format!("there is no SharedPersistentVolume {name}: claim anew"))
            })?;
        let handle = &request.handle;
        let (volume_uid, claim_uid) = (handle.volume_uid(), handle.claim_uid());
        let namespace = &request.pod.namespace;
        let (_, read_only) =
            authorise(&volume, volume_uid, claim_uid, &ctx.node, namespace, request.read_only)
                .map_err(|refusal| Error::FailedPrecondition(refusal.to_string()))?;
        if request.block != (volume.spec.volume_mode == VolumeMode::Block) {
            return Err(Error::InvalidArgument(format!(
                "the volumeMode of the PersistentVolume is not that of SharedPersistentVolume {name}: let Reservoir make it"
            )));
        }
        let publish = Publish {
            uid: uid(handle)?,
            target: request.target,
            read_only,
            pod: Pod { uid: request.pod.uid, namespace: request.pod.namespace, name: request.pod.name },
            claim_uid: handle.claim_uid().to_owned(),
        };
        operate(ctx, "Mount", move |host| host.publish(&publish)).await.map_err(error)
    }

    async fn unpublish(&self, handle: &VolumeHandle, target: &Path) -> Result<(), Error> {
        let (uid, target) = (uid(handle)?, target.to_owned());
        operate(&self.0, "Unmount", move |host| host.unpublish_likely(&target, Some(&uid)))
            .await
            .map_err(error)
    }

    async fn stats(&self, handle: &VolumeHandle, path: &Path) -> Result<Stats, Error> {
        let (uid, path) = (uid(handle)?, path.to_owned());
        let usage = blocking(&self.0, move |host| host.usage_at(&uid, &path)).await.map_err(error)?;
        Ok(Stats {
            bytes: Usage {
                total: usage.total_bytes,
                used: usage.used_bytes,
                available: usage.available_bytes,
            },
            inodes: (usage.total_inodes > 0).then_some(Usage {
                total: usage.total_inodes,
                used: usage.used_inodes,
                available: usage.available_inodes,
            }),
        })
    }

    async fn ready(&self) -> bool {
        true
    }
}

fn uid(handle: &VolumeHandle) -> Result<VolumeUid, Error> {
    handle.volume_uid().parse().map_err(|invalid: host::InvalidUid| error(invalid.into()))
}

/// What a failure on the node means to the kubelet: the one place that says so.
fn error(error: host::Error) -> Error {
    use host::Error as Host;
    let said = error.to_string();
    match error {
        Host::NotFound(_) => Error::NotFound(said),
        Host::InvalidArgument(_) => Error::InvalidArgument(said),
        Host::Conflict(_) => Error::Incompatible(said),
        Host::Fenced(_) | Host::NotFenced(_) | Host::BackingLost { .. } | Host::Unsupported(_) => {
            Error::FailedPrecondition(said)
        }
        Host::InUse { .. } => Error::InUse(said),
        Host::Busy { .. } | Host::NotReady(_) => Error::Busy(said),
        Host::NoSpace { .. } | Host::TooSmall { .. } => {
            Error::resource_exhausted("failed to make room", error)
        }
        // Open: a mount from before may be there still.
        Host::DiskUnavailable { .. }
        | Host::UnsuitableDisk { .. }
        | Host::Corrupt { .. }
        | Host::RecordTooNew { .. }
        | Host::KernelTooOld(_)
        | Host::ProcessesHidden
        | Host::UnusableDevice(_)
        | Host::ProgramMissing(_)
        | Host::Command { .. }
        | Host::Panicked
        | Host::Io { .. } => Error::unavailable("failed on the node's disk", error),
    }
}
