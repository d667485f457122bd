//! Seals the node's volumes (E1), and verifies sealed ones (E4).

use kube::ResourceExt;

use crate::api::SharedPersistentVolume;
use crate::api::condition::reason::SEAL_WITHDRAWN;
use crate::cluster;
use crate::host::{self, Host, VolumeUid};
use crate::plan::seal::{self, Content, Outcome, Step};
use crate::plan::verify;

use super::config::Scrub;
use super::context::{Context, NodeError};
use super::held::pod_ref;
use super::readings::{Found, Needs, Purpose};

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
            for pod in opened.iter().flatten() {
                let pod = cluster::pod_of(&pod_ref(pod.clone()));
                ctx.warn(&pod, "Seal", SEAL_WITHDRAWN, &seal::reads_on(&name)).await;
            }
            opened.map(|_| Outcome::Opened)
        }
        Step::Read => {
            let read = ctx.readings.read(&name, uid, Purpose::Seal, needs(ctx)).await;
            read.transpose().map_err(NodeError::from).map(|found| match found {
                Some(Found::Sealed(host::Content { digest, files, bytes })) => {
                    tracing::info!(volume = name, digest, files, bytes, "sealed a volume");
                    Outcome::Sealed(Content { digest, files, bytes })
                }
                Some(Found::Verified { .. }) | None => Outcome::Reading,
            })
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

/// Reads the files of a sealed volume again. What somebody asked for is read as fast as the disk can.
pub(super) async fn verify(
    volume: &SharedPersistentVolume,
    uid: &VolumeUid,
    ctx: &Context,
) -> verify::Outcome {
    let name = volume.name_any();
    let scrub = ctx.scrub.as_ref().filter(|_| !verify::is_requested(volume));
    let purpose = Purpose::Verify {
        request: volume.spec.verify.clone(),
        bytes_per_second: scrub.map(Scrub::bytes_per_second),
    };
    match ctx.readings.read(&name, uid, purpose, needs(ctx)).await {
        Some(Ok(Found::Verified { request, differences: host::Differences { count, first } })) => {
            tracing::info!(volume = name, differ = count, "verified a volume");
            verify::Outcome::Read { request, differ: count, first }
        }
        Some(Ok(Found::Sealed(_))) | None => verify::Outcome::Reading,
        Some(Err(error)) => {
            let message = NodeError::from(error).of_volume(uid, &name, ctx);
            tracing::warn!(volume = name, error = message, "failed to verify a volume");
            verify::Outcome::Failed(message)
        }
    }
}

/// The parts of the agent that a reading needs.
pub(super) fn needs(ctx: &Context) -> Needs {
    Needs {
        host: ctx.host.clone(),
        metrics: ctx.metrics.clone(),
        identity: ctx.copying.as_ref().map(|copying| copying.identity.clone()),
        queue: ctx.volumes.get().cloned(),
    }
}
