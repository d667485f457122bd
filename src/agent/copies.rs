//! Copies of sealed volumes (E2): fills those of this node from other nodes, and sends volumes of this node to the agents that may
//! read them.

use std::sync::{Arc, Mutex, PoisonError};

use kube::{Api, ResourceExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::api::{NodeDisk, SharedPersistentVolume, UidRef};
use crate::cluster;
use crate::host::{self, SealedFiles, VolumeUid};
use crate::plan::copies::{may_read, transfer};
use crate::plan::seal::{self, Content, Outcome};
use crate::transfer::{self as protocol, Asker, Peer};

use super::context::{Context, NodeError};
use super::copying::AFTER_FAILURE;
use super::readings::{Found, Pull, Purpose};
use super::seals::needs;

/// Fills a copy from the source that the controller chose.
pub(super) async fn fill(volume: &SharedPersistentVolume, uid: &VolumeUid, ctx: &Context) -> Outcome {
    let name = volume.name_any();
    let source = volume.status.as_ref().and_then(|status| status.source.clone());
    let (Some(of), Some(source), Some(copying)) = (&volume.spec.copy_of, source, &ctx.copying) else {
        let why =
            "the agent of this node makes no copies: set agent.copies.enabled: true in the chart's values";
        return Outcome::Failed(why.to_owned());
    };
    if copying.rests(uid) {
        return Outcome::Resting(AFTER_FAILURE);
    }
    let read = match peer_of(&source, &name, ctx).await {
        Ok(peer) => {
            let limit = of.bytes_per_second.as_ref().map(|size| size.bytes_or_zero());
            let pull = Pull { peer, digest: of.digest.clone(), bytes_per_second: limit };
            let read = ctx.readings.read(&name, uid, Purpose::Copy(pull), needs(ctx)).await;
            read.transpose().map_err(|error| NodeError::from(error).of_volume(uid, &name, ctx))
        }
        Err(why) => Err(why),
    };
    match read {
        Ok(Some(Found::Sealed(host::Content { digest, files, bytes }))) => {
            tracing::info!(volume = name, from = source.name, digest, files, bytes, "made a copy");
            Outcome::Sealed(Content { digest, files, bytes })
        }
        Ok(Some(Found::Verified { .. }) | None) => seal::copying(source, ctx.readings.lasts(uid)),
        Err(why) => {
            copying.failed(uid);
            tracing::warn!(volume = name, from = source.name, error = why, "failed to fill a copy");
            Outcome::CopyFailed(source.uid, why)
        }
    }
}

/// The place of a source, by live reads.
async fn peer_of(source: &UidRef, copy: &str, ctx: &Context) -> Result<Peer, String> {
    let UidRef { name, uid } = source;
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let found = cluster::get(&volumes, name).await.map_err(|error| error.report())?;
    let found = found.filter(|found| found.metadata.uid.as_ref() == Some(uid));
    let gone = || format!("volume {name} is gone: it is filled from another one if there is one");
    let status = found.and_then(|found| found.status).ok_or_else(gone)?;
    let disk = disk_of(status.node_disk.as_deref(), ctx).await.map_err(|error| error.report())?;
    let none = || {
        format!(
            "the agent of volume {name} sends no copies: set agent.copies.enabled: true in the chart's values"
        )
    };
    let disk = disk.ok_or_else(none)?;
    let at = transfer(&disk).ok_or_else(none)?.clone();
    Ok(Peer {
        node: disk.spec.node_name.clone(),
        address: at.address,
        key: at.key,
        volume: uid.clone(),
        copy: copy.to_owned(),
    })
}

async fn disk_of(name: Option<&str>, ctx: &Context) -> Result<Option<NodeDisk>, cluster::Error> {
    match name {
        Some(name) => cluster::get(&Api::all(ctx.client.clone()), name).await,
        None => Ok(None),
    }
}

/// Serves the agents of other nodes until dropped.
pub(super) async fn serve(listener: TcpListener, ctx: Arc<Context>) {
    let Some(copying) = &ctx.copying else { return };
    let (context, runtime) = (ctx.clone(), Handle::current());
    // The live reads of one asker at a time: connections cost little, and reads of the API server cost others.
    let lock = Mutex::new(());
    let authorise = move |asker: &Asker| {
        let _lock = lock.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.block_on(open_for(asker, &context))
    };
    let served = protocol::serve(listener, &copying.identity, Arc::new(authorise), copying.servings.clone());
    if let Err(error) = served.await {
        tracing::error!(%error, "failed to serve copies");
    }
}

/// True for a name that an object can have: the name becomes a part of a request.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=253).contains(&name.len()) && name.chars().all(plain) && name.starts_with(char::is_alphanumeric)
}

/// Opens a volume for an agent that may read it.
async fn open_for(asker: &Asker, ctx: &Context) -> Result<SealedFiles, String> {
    if !is_name(&asker.copy) {
        return Err("there is no such copy".to_owned());
    }
    let uid: VolumeUid = asker.volume.parse().map_err(|_| "there is no such volume".to_owned())?;
    // Whoever knows no volume of this node costs no read of the API server.
    let files = ctx.on_host(move |host| host.open_sealed(&uid)).await;
    let files = files
        .and_then(|files| Ok(files?))
        .map_err(|_| "there is no such volume, sealed and on a disk that is served".to_owned())?;
    let failed = |error: cluster::Error| format!("the API server was not reached: {}", error.report());
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let copy = cluster::get(&volumes, &asker.copy).await.map_err(failed)?;
    let on =
        copy.as_ref().and_then(|copy| copy.status.as_ref()).and_then(|status| status.node_disk.as_deref());
    let disk = disk_of(on, ctx).await.map_err(failed)?;
    let digest = may_read(copy.as_ref(), disk.as_ref(), &asker.key, &asker.volume);
    match digest {
        Ok(digest) if digest == files.digest => {
            tracing::info!(volume = files.name, copy = asker.copy, "sends a volume to another node");
            Ok(files)
        }
        Ok(_) => Err("the volume has not the digest of the copy".to_owned()),
        Err(why) => {
            tracing::warn!(
                volume = files.name,
                copy = asker.copy,
                why,
                "refused to send a volume to another node"
            );
            Err(why.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reaches the port names a copy before anything is known about it.
    #[test]
    fn e2_a_name_leads_to_no_other_object() {
        assert!(is_name("data-0123456789") && is_name("a.b"));
        for name in
            ["", ".", "..", "../nodedisks/x", "a/status", "a?x=y", "a%2fb", "A", "a\nb", &"a".repeat(254)]
        {
            assert!(!is_name(name), "{name}");
        }
    }
}
