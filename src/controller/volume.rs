//! Volumes: from CREATE to Ready, resizes and retirement (V1, V6, V7, X5).

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::{
    DiskReservation, DiskReservationStatus, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, SharedPersistentVolume,
    UidRef, VolumeClaim,
};
use crate::cluster;
use crate::plan::pvc_provisioner::{is_own, pvc_of};
use crate::plan::volume::{Live, Seen, Step, keeps_entry, next};
use crate::plan::{create, ledger, refs};

use super::context::{Context, VOLUME, VOLUME_UID};
use super::volume_entry::{change_ledger, credit, holds, resize_entry, with_ledger};
use super::volume_users::{delete_lost, lost_claims, users};
use super::{Again, Error, destroy, pvc_provisioner};

/// A volume that is not being deleted; see [`destroy::reconcile`] for the others.
///
/// 1. Gather: reservations, disks, claims and users from the caches; a claim that no cache has is read live.
/// 2. Decide: [`next`].
/// 3. Apply: one read or write. Most steps are followed by another decision, with what was read or written.
pub(super) async fn reconcile(volume: Arc<SharedPersistentVolume>, ctx: &Context) -> Result<Again, Error> {
    let api: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    if volume.metadata.deletion_timestamp.is_some() {
        return destroy::reconcile(&api, &volume, ctx).await;
    }
    let uid = volume.uid().unwrap_or_default();
    let mut seen = gather(&volume, ctx).await?;
    loop {
        match next(&volume, &seen) {
            Step::Guard => cluster::set_finalizer(&api, &*volume, true).await?,
            Step::LookForOwnClaim => {
                seen.live.own_claim = Some(has_own_claim(&volume, ctx).await?);
                continue;
            }
            Step::Release(event) => pvc_provisioner::release(&volume, &event, ctx).await?,
            Step::LookForEntry(name) => {
                let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
                let found = cluster::get(&reservations, &name).await?.filter(|r| holds(r, &uid));
                seen.live.entry = Some(found.map(|found| Ok(Arc::new(found))));
                continue;
            }
            Step::LookForOwner => {
                let recovered = volume.spec.recover.as_ref().map(|recover| &recover.uid);
                let all = cluster::list(&api, &ListParams::default()).await?;
                let owner = all.iter().find(|owner| owner.metadata.uid.as_ref() == recovered);
                seen.live.owner = Some(owner.map(ResourceExt::name_any));
                continue;
            }
            Step::TakeEntry(name) => {
                take_entry(&volume, &name, &mut seen, ctx).await?;
                continue;
            }
            Step::Place(status) => {
                let placed = ctx.commit(&api, &*volume, &status).await;
                if let (Err(_), Some(reservation)) = (&placed, &status.reservation) {
                    release_unused_entry(&api, &volume, reservation, ctx).await?;
                }
                placed?;
            }
            Step::ReleaseEntry(name) => {
                credit(&name, &uid, ctx).await?;
                seen.reservations.retain(|r| r.name_any() != name);
                continue;
            }
            Step::RestoreEntry(name, entry) => {
                let now = cluster::get_same(&api, &*volume).await?;
                if now.is_some_and(|now| now.metadata.deletion_timestamp.is_none()) {
                    change_ledger(&name, ctx, |volumes| ledger::restore(volumes, entry.clone())).await?;
                }
                seen.live.restored = true;
                continue;
            }
            Step::LookToResize(name) => {
                let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
                let reservation = cluster::get(&reservations, &name).await?;
                let now = cluster::get_same(&api, &*volume).await?;
                seen.live.resized = Some((reservation, now.and_then(|now| now.status)));
                continue;
            }
            Step::ResizeEntry(bytes) => {
                if let Some((Some(read), _)) = &mut seen.live.resized
                    && let Some(written) = resize_entry(read, &uid, bytes, ctx).await?
                {
                    *read = written;
                }
                continue;
            }
            Step::Report(status) => {
                delete_lost(&seen.lost_claims, &volume, ctx).await?;
                ctx.commit(&api, &*volume, &status).await?;
            }
            Step::Delete => cluster::delete_seen(&api, &*volume).await?,
        }
        return Ok(None);
    }
}

async fn gather(volume: &SharedPersistentVolume, ctx: &Context) -> Result<Seen, Error> {
    let (stores, status) = (&ctx.stores, volume.status.clone().unwrap_or_default());
    let (reservations, disks) = match &status.reservation {
        None => (stores.reservations.all(), stores.disks.all()),
        Some(own) => {
            let mut reservations = stores.reservations.by(VOLUME_UID, &volume.uid().unwrap_or_default());
            reservations.extend(lineage(own.clone(), ctx));
            (reservations, status.node_disk.iter().filter_map(|name| stores.disks.get(name)).collect())
        }
    };
    let lost_claims = lost_claims(volume, ctx).await?;
    Ok(Seen {
        guarded: cluster::finalizer_present(volume),
        reservations,
        disks,
        moved_to: ctx.node_moved(status.node_disk.as_deref(), status.node_name.as_deref()).await?,
        users: users(volume, &lost_claims, ctx),
        lost_claims,
        own_claim: stores.claims.by(VOLUME, &volume.name_any()).iter().any(|claim| is_own(claim, volume)),
        live: Live::default(),
        now: Timestamp::now(),
    })
}

/// The reservation and those that it was carved out of, as far as the cache has them.
fn lineage(own: UidRef, ctx: &Context) -> Vec<Arc<DiskReservation>> {
    let find = |UidRef { name, uid }: &UidRef| {
        ctx.stores.reservations.get(name).filter(|r| r.metadata.uid.as_ref() == Some(uid))
    };
    let parent = |r: &Arc<DiskReservation>| find(r.status.as_ref()?.parent.as_ref()?);
    std::iter::successors(find(&own), parent).collect()
}

/// Whether a claim that was made for the same PersistentVolumeClaim as the volume is there, by a live read.
async fn has_own_claim(volume: &SharedPersistentVolume, ctx: &Context) -> Result<bool, Error> {
    let Some(namespace) = volume.labels().get(LABEL_CLAIM_NAMESPACE) else { return Ok(false) };
    let claims: Api<VolumeClaim> = cluster::namespaced(&ctx.client, namespace);
    let selector = format!("{LABEL_PVC_UID}={}", pvc_of(volume).unwrap_or_default());
    Ok(!cluster::list_metadata(&claims, &ListParams::default().labels(&selector)).await?.is_empty())
}

/// Takes an entry in the ledger of the reservation of that name, and notes the reservation that gave it.
async fn take_entry(
    volume: &SharedPersistentVolume,
    name: &str,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<(), Error> {
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    // The last object that was decided on has the entry, whatever a cache has under that name.
    let decided_on = Mutex::new(None);
    let decide = |reservation: &DiskReservation| {
        let volumes = create::take_entry(volume, reservation, &refs(&seen.disks))?;
        *decided_on.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(reservation.clone()));
        let status = reservation.status.clone().unwrap_or_default();
        Ok(Some(with_ledger(DiskReservationStatus { volumes, ..status })))
    };
    let taken = ctx.commits.reservations.update(&reservations, name, decide).await?;
    let decided_on = decided_on.into_inner().unwrap_or_else(PoisonError::into_inner);
    let gone = create::reservation_gone();
    seen.live.entry = Some(Some(taken.unwrap_or(Err(gone.clone())).and_then(|()| decided_on.ok_or(gone))));
    Ok(())
}

/// Releases the entry of a volume whose status could not be written, unless the volume keeps the entry.
async fn release_unused_entry(
    api: &Api<SharedPersistentVolume>,
    volume: &SharedPersistentVolume,
    reservation: &UidRef,
    ctx: &Context,
) -> Result<(), Error> {
    let now = cluster::get_same(api, volume).await?;
    match keeps_entry(now.as_ref(), reservation) {
        true => Ok(()),
        false => credit(&reservation.name, &volume.uid().unwrap_or_default(), ctx).await,
    }
}
