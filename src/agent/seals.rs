//! Seals the node's volumes (E1).

use kube::ResourceExt;

use crate::api::SharedPersistentVolume;
use crate::host::{self, Host, VolumeUid};
use crate::plan::seal::{Content, Outcome, Step};

use super::context::{Context, NodeError};
use super::held::pod_ref;
use super::readings::Needs;

/// Does a step of the seal on the disk.
pub(super) async fn perform(
    step: Step,
    volume: &SharedPersistentVolume,
    uid: &VolumeUid,
    ctx: &Context,
) -> Outcome {
    let (name, of) = (volume.name_any(), uid.clone());
    let done = match step {
        Step::Close => {
            let closed = ctx.operate("RefuseWriters", move |host: &Host| host.refuse_writers(&of)).await;
            closed.map(|writers| Outcome::Closed(writers.into_iter().map(pod_ref).collect()))
        }
        Step::Open => {
            let opened = ctx.operate("AdmitWriters", move |host: &Host| host.admit_writers(&of)).await;
            opened.map(|()| Outcome::Opened)
        }
        Step::Read => {
            let (host, metrics, queue) = (ctx.host.clone(), ctx.metrics.clone(), ctx.volumes.get().cloned());
            match ctx.readings.read(&name, uid, Needs { host, metrics, queue }).await {
                None => Ok(Outcome::Reading),
                Some(read) => read.map_err(NodeError::from).map(|host::Content { digest, files, bytes }| {
                    tracing::info!(volume = name, digest, files, bytes, "sealed a volume");
                    Outcome::Sealed(Content { digest, files, bytes })
                }),
            }
        }
    };
    done.unwrap_or_else(|error| {
        let message = error.of_volume(uid, &name, ctx);
        tracing::warn!(volume = name, ?step, error = message, "failed to seal a volume");
        match error {
            NodeError::Host(host::Error::Unsealable { .. }) => Outcome::Refused(message),
            _ => Outcome::Failed(message),
        }
    })
}
