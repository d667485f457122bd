//! Takes the steps of a destruction that `plan::destroy` names (X1–X4).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::{Verdict, reason};
use crate::api::{
    DiskReservation, ErasePolicy, LABEL_VOLUME_UID, PodRef, SharedPersistentVolume, Size, VolumePhase,
};
use crate::cluster::{self, claims_of, is_terminal, pod_ref};
use crate::plan::destroy::{Seen, Step, next};

use super::Error;
use super::context::{Context, ready};
use super::volume::{count_users, credit, forget_lost_claims, holds};

pub(super) async fn reconcile(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<(), Error> {
    if !cluster::finalizer_present(volume) {
        return Ok(());
    }
    let uid = volume.uid().unwrap_or_default();
    let mut volume = volume.clone();
    let status = volume.status.get_or_insert_default();
    forget_lost_claims(status, ctx).await?;
    count_users(status, ctx);
    let mut seen = Seen {
        offered: ctx.stores.offers.state().iter().any(|o| o.spec.volumes.iter().any(|v| v.uid == uid)),
        pods: None,
        in_ledger: ctx.stores.reservations.state().iter().any(|r| holds(r, &uid)),
    };
    let mut step = next(&volume, &seen);
    if step == Step::Look {
        seen.pods = Some(pods_by_quorum(&uid, ctx).await?);
        step = next(&volume, &seen);
    }
    let mut status = volume.status.clone().unwrap_or_default();
    let mut destroy = status.destroy.clone().unwrap_or_default();
    let said = match step {
        Step::Wait(why) => why,
        Step::Look => "its pods are being looked for".to_owned(),
        Step::Fence => {
            destroy.fence = true;
            "it is being fenced".to_owned()
        }
        Step::Unfence(why) => {
            destroy.fence = false;
            why
        }
        Step::Tombstone => {
            // From the very object on which nothing was seen: whoever got in between makes this fail.
            let now = Timestamp::now();
            destroy.tombstone = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
            status.phase = VolumePhase::Destroyed;
            "nothing uses it, its bytes are being erased".to_owned()
        }
        Step::Credit | Step::LetGo => return finish(api, &volume, ctx).await,
    };
    if status.phase != VolumePhase::Destroyed {
        status.phase = VolumePhase::Destroying;
    }
    status.destroy = Some(destroy);
    let verdict =
        Verdict::no(reason::DESTROYING, format!("volume {} is being destroyed: {said}", volume.name_any()));
    status.conditions = ready(&status.conditions, verdict, volume.metadata.generation);
    Ok(ctx.commit(api, &volume, &status).await?)
}

/// The pods that use any claim's PersistentVolume of this volume, read by quorum.
async fn pods_by_quorum(uid: &str, ctx: &Context) -> Result<Vec<PodRef>, Error> {
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let selector = ListParams::default().labels(&format!("{LABEL_VOLUME_UID}={uid}"));
    let list = cluster::list(&volumes, &selector).await?;
    let claims: BTreeSet<(String, String)> = list
        .into_iter()
        .filter_map(|pv| pv.spec?.claim_ref)
        .filter_map(|claim| Some((claim.namespace?, claim.name?)))
        .collect();
    let mut users = Vec::new();
    for namespace in claims.iter().map(|(namespace, _)| namespace).collect::<BTreeSet<_>>() {
        let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
        let list = cluster::list(&pods, &ListParams::default()).await?;
        users.extend(
            list.iter()
                .filter(|p| !is_terminal(p) && claims_of(p).iter().any(|c| claims.contains(c)))
                .map(pod_ref),
        );
    }
    Ok(users)
}

/// Gives the bytes back to the reservation, leaves the receipt, and lets the object go.
async fn finish(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<(), Error> {
    let uid = volume.uid().unwrap_or_default();
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    // By quorum, since the cache may be behind: a line that is left would hold the bytes for ever.
    let mut holders = cluster::list(&reservations, &ListParams::default()).await?;
    holders.retain(|reservation| holds(reservation, &uid));
    for holder in &holders {
        credit(&holder.name_any(), &uid, ctx).await?;
    }
    if let Some(holder) = holders.first() {
        let status = volume.status.clone().unwrap_or_default();
        let bytes = status.node.and_then(|n| n.erased).unwrap_or(Size::from_bytes(0));
        let how = match volume.spec.erase_policy {
            ErasePolicy::Discard => "given back to the disk",
            ErasePolicy::Zero => "overwritten with zeroes and given back to the disk",
        };
        let receipt = format!("volume {} ({uid}) is destroyed: {bytes} {how}", volume.name_any());
        ctx.events.publish(volume, true, "Destroy", "Destroyed", &receipt).await;
        ctx.events.publish(holder, true, "Destroy", "Destroyed", &receipt).await;
    }
    Ok(cluster::set_finalizer(api, volume, false).await?)
}
