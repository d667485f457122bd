//! Volumes whose deletion was accepted (X1–X4, X9).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, CustomResourceExt, Resource, ResourceExt};
use serde_json::json;

use crate::api::{DiskReservation, SharedPersistentVolume, VolumeOffer};
use crate::cluster;
use crate::plan::birth;
use crate::plan::debounce::DEBOUNCE;
use crate::plan::destroy::{Live, Seen, Step, next};
use crate::plan::holder::held_by_volume;
use crate::plan::kept::Left;
use crate::plan::node_lifetime;
use crate::plan::offer::is_offer_of;

use super::context::Context;
use super::ledger_entries::{end_entry, has_heir};
use super::node_labels::is_labelled;
use super::stores::{COPY_OF, RESERVATION, VOLUME_UID};
use super::volume_users::{delete_lost, live_users, lost_claims, over, read_elsewhere, users};
use super::{Again, Error};

/// The pause before another look. A process, or a pod that is missing from the cache, may use the volume.
const AGAIN: Duration = Duration::from_secs(5);
/// The period in which the ends of volumes that go together are gathered.
const ENDS: Duration = Duration::from_millis(500);

/// Reconciles a volume that is being deleted.
///
/// 1. Gather: offers, ledgers, the disk, claims and users from the caches. A claim that no cache has is read live.
/// 2. Decide: [`next`].
/// 3. Apply: live reads and another decision; or writes, after which the watch enqueues the volume again.
pub(super) async fn reconcile(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<Again, Error> {
    ctx.recounts().forget(&volume.name_any());
    let mut seen = gather(volume, ctx).await?;
    loop {
        match next(volume, &seen) {
            Step::LookForUsers => {
                // The tombstone ends these bindings.
                look_at_claims(volume, true, &mut seen, ctx).await?;
                let pods = live_users(volume, ctx).await?;
                seen.live = Some(Live { pods, kind_deleted: is_kind_deleted(ctx).await? });
            }
            Step::LookForEntries => {
                seen.entries = Some(entries(api, volume, ctx).await?);
                seen.has_heir = has_heir(volume, ctx).await?;
            }
            Step::Report { status, refused } => {
                delete_lost(&seen.lost_claims, volume, ctx).await?;
                if status.destroy.as_ref().is_some_and(|destroy| destroy.tombstone.is_some()) {
                    delete_lost(&seen.over, volume, ctx).await?;
                }
                if refused {
                    ctx.metrics.destroyed("InUse");
                }
                ctx.commit(api, volume, &status).await?;
                return Ok(Some(AGAIN));
            }
            Step::Debounce => return Ok(Some(DEBOUNCE)),
            Step::DropLabels => {
                cluster::merge_seen(api, volume, json!({ "metadata": { "labels": null } })).await?;
                return Ok(None);
            }
            Step::Orphan(receipt) => {
                delete_lost(&seen.lost_claims, volume, ctx).await?;
                ctx.metrics.destroyed("Orphaned");
                ctx.events.publish(volume, None, false, "Destroy", "Orphaned", &receipt).await;
                cluster::set_finalizer(api, volume, false).await?;
                return Ok(None);
            }
            Step::End { reservations, outcome, receipt, left } => {
                delete_lost(&seen.lost_claims, volume, ctx).await?;
                end(volume, &reservations, outcome, &receipt, left, ctx).await?;
                cluster::set_finalizer(api, volume, false).await?;
                return Ok(None);
            }
            Step::Rest => return Ok(None),
        }
    }
}

async fn gather(volume: &SharedPersistentVolume, ctx: &Context) -> Result<Seen, Error> {
    let (uid, status) = (volume.uid().unwrap_or_default(), volume.status.clone().unwrap_or_default());
    let mut seen = Seen {
        guarded: cluster::finalizer_present(volume),
        offered: is_offered(&uid, ctx) || ctx.labels_nodes && is_labelled(volume, ctx),
        disk_gone: ctx.is_disk_gone(volume),
        node_gone: ctx.disk_of(volume).is_some_and(|disk| node_lifetime::has_left(&disk)),
        moved_to: ctx.node_moved(status.node_disk.as_deref(), status.node_name.as_deref()).await?,
        users: vec![],
        read_elsewhere: read_elsewhere(volume, ctx),
        lost_claims: vec![],
        over: vec![],
        live: None,
        holder_pods: ctx.holder_pods(&status).await?,
        entries: None,
        copies: ctx.stores.volumes.by(COPY_OF, &uid).len(),
        has_heir: false,
        now: (ctx.now)(),
    };
    if seen.guarded {
        look_at_claims(volume, false, &mut seen, ctx).await?;
    }
    Ok(seen)
}

/// Stores in `seen` the claims in the volume's list that hold it no more, and the pods of the others; see [`over`].
async fn look_at_claims(
    volume: &SharedPersistentVolume,
    to_end: bool,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<(), Error> {
    seen.over = over(volume, to_end, ctx).await?;
    seen.lost_claims = lost_claims(volume, &seen.over, ctx).await?;
    seen.users = users(volume, &[&seen.over[..], &seen.lost_claims].concat(), ctx);
    Ok(())
}

/// True if another volume in the reservation is being deleted, by the cache. Ends that come together share a write of the ledger.
fn others_end(volume: &SharedPersistentVolume, reservation: &DiskReservation, ctx: &Context) -> bool {
    let there = ctx.stores.volumes.by(RESERVATION, &reservation.uid().unwrap_or_default());
    there
        .iter()
        .any(|other| other.metadata.deletion_timestamp.is_some() && other.metadata.uid != volume.metadata.uid)
}

/// The time until the next moment at which ends are written together.
fn until_next_write(now: Timestamp) -> Duration {
    let period = ENDS.as_millis() as i64;
    Duration::from_millis((period - now.as_millisecond().rem_euclid(period)) as u64)
}

/// True if the subscription's own offer lists the volume. A forged offer delays nothing.
fn is_offered(uid: &str, ctx: &Context) -> bool {
    let ours = |offer: &VolumeOffer| {
        let namespace = offer.namespace().unwrap_or_default();
        let subscription = ctx.stores.subscriptions.get_in(&namespace, &offer.spec.subscription);
        subscription.is_some_and(|subscription| is_offer_of(offer, &subscription))
    };
    let offers = ctx.stores.offers.by(VOLUME_UID, uid);
    offers.iter().any(|o| o.spec.volumes.iter().any(|v| v.uid == uid) && ours(o))
}

/// True if the CustomResourceDefinition of volumes is being deleted, by a live read (X9).
async fn is_kind_deleted(ctx: &Context) -> Result<bool, Error> {
    let kinds: Api<CustomResourceDefinition> = Api::all(ctx.client.clone());
    let kind = cluster::get(&kinds, SharedPersistentVolume::crd_name()).await?;
    Ok(kind.is_none_or(|kind| kind.metadata.deletion_timestamp.is_some()))
}

/// The reservations whose ledgers list the volume, by live reads: a missed entry would hold the bytes for ever. `None`:
/// the volume's object or its finalizer is gone by now.
async fn entries(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    ctx: &Context,
) -> Result<Option<Vec<Arc<DiskReservation>>>, Error> {
    let now = cluster::get_same(api, volume).await?;
    if !now.is_some_and(|now| cluster::finalizer_present(&now)) {
        return Ok(None);
    }
    let uid = volume.uid().unwrap_or_default();
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let all = match birth::only_place(volume) {
        Some(name) => cluster::get(&reservations, name).await?.into_iter().collect(),
        None => cluster::list(&reservations, &ListParams::default()).await?,
    };
    Ok(Some(all.into_iter().filter(|r| held_by_volume(r, &uid).is_some()).map(Arc::new).collect()))
}

/// Publishes the receipt on the first reservation, which stays, then ends the entries in the reservations (X4, X8).
/// This order survives an interruption: the next controller still finds the entries, and publishes the receipt again.
async fn end(
    volume: &SharedPersistentVolume,
    reservations: &[Arc<DiskReservation>],
    outcome: &'static str,
    receipt: &str,
    left: Option<(String, Box<Left>)>,
    ctx: &Context,
) -> Result<(), Error> {
    if let Some(first) = reservations.first() {
        ctx.metrics.destroyed(outcome);
        let related = Some(volume.object_ref(&()));
        ctx.events.publish(&**first, related, true, "Destroy", "Destroyed", receipt).await;
    }
    let uid = volume.uid().unwrap_or_default();
    if reservations.iter().any(|reservation| others_end(volume, reservation, ctx)) {
        tokio::time::sleep(until_next_write((ctx.now)())).await;
    }
    for reservation in reservations {
        let is_own = |(of, _): &&(String, Box<Left>)| reservation.metadata.uid.as_ref() == Some(of);
        let left = left.as_ref().filter(is_own).map(|(_, left)| &**left);
        end_entry(&reservation.name_any(), &uid, left, ctx).await?;
    }
    Ok(())
}
