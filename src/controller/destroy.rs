//! Takes the steps of a destruction that `plan::destroy` names (X1–X4).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, CustomResourceExt, Resource, ResourceExt};

use crate::api::condition::{self, Verdict, reason};
use crate::api::{
    DiskReservation, ErasePolicy, LABEL_VOLUME_UID, PodRef, SharedPersistentVolume, Size, VolumeOffer,
    VolumePhase,
};
use crate::cluster;
use crate::plan::destroy::{Live, Seen, Step, next};
use crate::plan::holder::held_by_volume;
use crate::plan::moment::{self, MOMENT};
use crate::plan::offer::is_offer_of;

use super::context::{Context, VOLUME_UID, ready};
use super::volume::{count_users, follow_disk, forget_lost_claims, release};
use super::{Again, Error};

pub(super) async fn reconcile(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<Again, Error> {
    if !cluster::finalizer_present(volume) {
        return Ok(None);
    }
    let uid = volume.uid().unwrap_or_default();
    let seen_as = volume;
    let mut volume = volume.clone();
    let status = volume.status.get_or_insert_default();
    forget_lost_claims(seen_as, status, ctx).await?;
    count_users(status, ctx);
    follow_disk(status, ctx).await?;
    let mut seen = Seen {
        offered: is_offered(&uid, ctx),
        live: None,
        disk_gone: is_gone(volume.status.as_ref().and_then(|s| s.node_disk.as_deref()), ctx),
        in_ledger: ctx
            .stores
            .reservations
            .by(VOLUME_UID, &uid)
            .iter()
            .any(|r| held_by_volume(r, &uid).is_some()),
    };
    let mut step = next(&volume, &seen);
    if step == Step::Look {
        let pods = pods_by_quorum(&uid, ctx).await?;
        seen.live = Some(Live { pods, kind_deleted: is_kind_deleted(ctx).await? });
        step = next(&volume, &seen);
    }
    let mut status = volume.status.clone().unwrap_or_default();
    let mut destroy = status.destroy.clone().unwrap_or_default();
    let passing = moment::is_passing(volume.metadata.deletion_timestamp.as_ref(), Timestamp::now());
    let said = match step {
        // The offers go by the deletion itself (O6).
        Step::Wait(_) if passing && seen.offered && Some(&status) == seen_as.status.as_ref() => {
            return Ok(Some(MOMENT));
        }
        Step::Wait(why) => why,
        Step::Look => "its pods are being looked for".to_owned(),
        Step::Fence(said) => {
            destroy.in_use = false;
            said
        }
        Step::Unfence(why) => {
            if !destroy.in_use {
                ctx.metrics.destroyed("InUse");
            }
            destroy.in_use = true;
            why
        }
        Step::Tombstone(said) => {
            // From the very object on which nothing was seen: whoever got in between makes this fail.
            destroy.tombstone = Some(condition::stored(Timestamp::now()));
            status.phase = VolumePhase::Destroyed;
            said
        }
        Step::Credit | Step::LetGo => return finish(api, seen_as, ctx).await.map(|()| None),
        Step::Orphan(receipt) => {
            ctx.metrics.destroyed("Orphaned");
            ctx.events.publish(seen_as, None, false, "Destroy", "Orphaned", &receipt).await;
            cluster::set_finalizer(api, seen_as, false).await?;
            return Ok(None);
        }
    };
    if status.phase != VolumePhase::Destroyed {
        status.phase = VolumePhase::Destroying;
    }
    status.destroy = Some(destroy);
    let verdict =
        Verdict::no(reason::DESTROYING, format!("volume {} is being destroyed: {said}", volume.name_any()));
    status.conditions = ready(&status.conditions, verdict, volume.metadata.generation);
    ctx.commit(api, seen_as, &status).await?;
    // Who it waits for may not be seen by any watch of ours.
    Ok(Some(AGAIN))
}

const AGAIN: Duration = Duration::from_secs(5);

/// Whether the disk was declared gone: what a cache once saw of that is true for good (D4).
fn is_gone(disk: Option<&str>, ctx: &Context) -> bool {
    disk.and_then(|name| ctx.stores.disks.get(name)).is_some_and(|disk| disk.spec.gone)
}

/// Whether a subscription's offer lists it; what somebody else calls an offer holds nothing up.
fn is_offered(uid: &str, ctx: &Context) -> bool {
    let ours = |offer: &VolumeOffer| {
        let namespace = offer.namespace().unwrap_or_default();
        let subscription = ctx.stores.subscriptions.get_in(&namespace, &offer.spec.subscription);
        subscription.is_some_and(|subscription| is_offer_of(offer, &subscription))
    };
    let offers = ctx.stores.offers.by(VOLUME_UID, uid);
    offers.iter().any(|o| o.spec.volumes.iter().any(|v| v.uid == uid) && ours(o))
}

/// Whether the CustomResourceDefinition of volumes is being deleted, by a live read (X9).
async fn is_kind_deleted(ctx: &Context) -> Result<bool, Error> {
    let kinds: Api<CustomResourceDefinition> = Api::all(ctx.client.clone());
    let kind = cluster::get(&kinds, SharedPersistentVolume::crd_name()).await?;
    Ok(kind.is_none_or(|kind| kind.metadata.deletion_timestamp.is_some()))
}

/// The pods that use any claim's PersistentVolume of this volume, read by quorum.
async fn pods_by_quorum(uid: &str, ctx: &Context) -> Result<Vec<PodRef>, Error> {
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let selector = ListParams::default().labels(&format!("{LABEL_VOLUME_UID}={uid}"));
    let list = cluster::list(&volumes, &selector).await?;
    let mut claims = BTreeSet::new();
    for pv in list {
        let Some(claim) = pv.spec.as_ref().and_then(|spec| spec.claim_ref.clone()) else { continue };
        let (namespace, name) = (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default());
        // Only a PersistentVolumeClaim that is bound to this very PersistentVolume brings a pod to the volume.
        let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
        let pvc = cluster::get(&pvcs, &name).await?;
        if pvc.and_then(|pvc| pvc.spec?.volume_name) == pv.metadata.name {
            claims.insert((namespace, name));
        }
    }
    Ok(ctx.users_by_quorum(&claims).await?)
}

/// Gives the bytes back to the reservation, leaves the receipt, and lets the object go.
async fn finish(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<(), Error> {
    // The cache may have one that has just gone.
    let now = cluster::get_same(api, volume).await?;
    if !now.is_some_and(|now| cluster::finalizer_present(&now)) {
        return Ok(());
    }
    let uid = volume.uid().unwrap_or_default();
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    // By quorum, since the cache may be behind: a line that is left would hold the bytes for ever.
    let mut holders = cluster::list(&reservations, &ListParams::default()).await?;
    holders.retain(|reservation| held_by_volume(reservation, &uid).is_some());
    for holder in &holders {
        release(&holder.name_any(), &uid, ctx).await?;
    }
    if let Some(holder) = holders.first() {
        let status = volume.status.clone().unwrap_or_default();
        let erased = status.node.and_then(|n| n.erased);
        let (outcome, how) = match (&erased, volume.spec.erase_policy) {
            _ if volume.spec.adopt.is_some() => ("LetGo", left(volume)),
            (None, _) if is_gone(status.node_disk.as_deref(), ctx) => {
                ("DiskGone", "its bytes were not erased, because its disk was declared gone".to_owned())
            }
            (bytes, ErasePolicy::Discard) => {
                ("Erased", format!("{} given back to the disk", size_or_zero(bytes)))
            }
            (bytes, ErasePolicy::Zero) => (
                "Erased",
                format!("{} overwritten with zeroes and given back to the disk", size_or_zero(bytes)),
            ),
        };
        ctx.metrics.destroyed(outcome);
        let receipt = format!("volume {} ({uid}) is destroyed: {how}", volume.name_any());
        ctx.events.publish(volume, None, true, "Destroy", "Destroyed", &receipt).await;
        ctx.events
            .publish(holder, Some(volume.object_ref(&())), true, "Destroy", "Destroyed", &receipt)
            .await;
    }
    Ok(cluster::set_finalizer(api, volume, false).await?)
}

/// What becomes of a directory that was adopted (V8).
fn left(volume: &SharedPersistentVolume) -> String {
    let path = volume.spec.adopt.as_ref().map_or("?", |adopt| &adopt.path);
    format!("it was adopted from {path}; its data stays there")
}

fn size_or_zero(bytes: &Option<Size>) -> Size {
    bytes.clone().unwrap_or(Size::from_bytes(0))
}
