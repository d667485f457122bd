//! Ledger entries: taken, settled and released. [`crate::plan::entry`] decides the content of an entry.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ClusterResourceScope;
use kube::api::ListParams;
use kube::{Api, Resource};

use crate::api::{
    CONTROLLER_MANAGER, DiskReservation, LedgerEntry, NodeDisk, SharedPersistentVolume, VolumeRole,
};
use crate::cluster::{self, Kind, Owned, StatusBatcher};
use crate::plan::entry::{Owner, entry_of, is_lived_in, settled};
use crate::plan::holder::{Holder, is_parent};
use crate::plan::kept::{self, Left};
use crate::plan::reservation_seen::{Gives, Seen};

use super::Error;
use super::context::Context;

/// A kind whose ledgers are written by several reconciles at the same time.
pub(super) trait Committed:
    Kind + Owned<Status: Send + Sync> + Resource<Scope = ClusterResourceScope>
{
    /// The batcher that joins the status writes to objects of this kind.
    fn batcher(ctx: &Context) -> &StatusBatcher<Self>;
}

impl Committed for NodeDisk {
    fn batcher(ctx: &Context) -> &StatusBatcher<Self> {
        &ctx.batchers.disks
    }
}

impl Committed for DiskReservation {
    fn batcher(ctx: &Context) -> &StatusBatcher<Self> {
        &ctx.batchers.reservations
    }
}

impl Committed for VolumeRole {
    fn batcher(ctx: &Context) -> &StatusBatcher<Self> {
        &ctx.batchers.roles
    }
}

/// Commits the entries that `decide` computes from a live read of the holder. Returns the holder with these entries, or
/// the refusal; `None`: the holder is gone.
pub(super) async fn change<K: Committed + Holder<Held>, Held, R>(
    name: &str,
    ctx: &Context,
    decide: impl Fn(&K) -> Result<Vec<LedgerEntry>, R>,
) -> Result<Option<Result<K, R>>, Error> {
    let (api, changed): (Api<K>, _) = (Api::all(ctx.client.clone()), Mutex::new(None));
    let decide = |holder: &K| {
        let mut now = holder.clone();
        let status = holder.with_entries(decide(holder)?);
        *now.status_mut() = Some(status.clone());
        *changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        Ok(Some(status))
    };
    let written = K::batcher(ctx).update(&api, name, decide).await?;
    let changed = changed.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(written.and_then(|decided| decided.map(|()| changed).transpose()))
}

/// Takes the entry from the holder, and updates `seen` with the new ledger. After a refusal, `seen` counts as not live.
pub(super) async fn take<K: Committed + Gives>(
    name: &str,
    entry: &LedgerEntry,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<(), Error> {
    let give = |holder: &K| holder.give(seen, entry).map(|ledger| ledger.into_entries());
    let taken = change::<K, DiskReservation, _>(name, ctx, give).await?;
    K::see(name, taken.and_then(Result::ok), seen);
    Ok(())
}

/// Releases the entry of the reservation in `seen`, in the API and in `seen`.
pub(super) async fn release_seen<K: Committed + Gives>(
    name: &str,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<(), Error> {
    let uid = seen.reservation.metadata.uid.clone().unwrap_or_default();
    K::see(name, release::<K, DiskReservation>(name, &uid, ctx).await?, seen);
    Ok(())
}

/// Releases the entry with that UID, whose owner is being deleted or is placed elsewhere for good.
pub(super) async fn release<K: Committed + Holder<Held>, Held>(
    name: &str,
    uid: &str,
    ctx: &Context,
) -> Result<Option<K>, Error> {
    let without = |holder: &K| Ok::<_, ()>(holder.ledger().release(uid).into_entries());
    Ok(change::<K, Held, _>(name, ctx, without).await?.and_then(Result::ok))
}

/// Releases the volume's entry in the ledger of that reservation (V1).
pub(super) async fn release_entry(reservation: &str, volume_uid: &str, ctx: &Context) -> Result<(), Error> {
    release::<DiskReservation, SharedPersistentVolume>(reservation, volume_uid, ctx).await.map(drop)
}

/// Ends the volume's entry in the ledger of that reservation: it is released, or what the volume leaves takes its place
/// (X8).
pub(super) async fn end_entry(
    reservation: &str,
    volume_uid: &str,
    left: Option<&Left>,
    ctx: &Context,
) -> Result<(), Error> {
    let Some(left) = left else { return release_entry(reservation, volume_uid, ctx).await };
    let with_left =
        |reservation: &DiskReservation| Ok::<_, ()>(kept::with_left(reservation, volume_uid, left));
    change::<DiskReservation, SharedPersistentVolume, _>(reservation, ctx, with_left).await.map(drop)
}

/// True if another volume has the data that the volume is to recover, by live reads.
pub(super) async fn has_heir(volume: &SharedPersistentVolume, ctx: &Context) -> Result<bool, Error> {
    if volume.spec.recover.is_none() {
        return Ok(false);
    }
    let (volumes, reservations): (Api<SharedPersistentVolume>, Api<DiskReservation>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let all = ListParams::default();
    let (volumes, reservations) =
        tokio::try_join!(cluster::list(&volumes, &all), cluster::list(&reservations, &all))?;
    Ok(kept::has_heir(volume, &volumes, &reservations))
}

/// Brings entries within their bounds, on live reads: the ledger first, then the reservations; see [`settled`]. Returns
/// the new holder; `None`: the holder is gone.
pub(super) async fn settle<K: Committed + Holder<DiskReservation>>(
    name: &str,
    entries: &[LedgerEntry],
    ctx: &Context,
) -> Result<Option<K>, Error> {
    let (api, reservations): (Api<K>, Api<DiskReservation>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let Some(holder) = cluster::get(&api, name).await? else { return Ok(None) };
    let (mut owners, mut gone) = (Vec::new(), Vec::new());
    for entry in entries {
        let now = cluster::get(&reservations, &entry.name).await?;
        match now.filter(|now| now.metadata.uid.as_deref() == Some(&entry.uid)) {
            Some(now) => {
                let parent = parent_role(&now, ctx).await?;
                owners.push((entry.clone(), Owner::Is(Box::new(now), parent)));
            }
            None => gone.push(entry.clone()),
        }
    }
    if !gone.is_empty() {
        let (volumes, all): (Api<SharedPersistentVolume>, _) =
            (Api::all(ctx.client.clone()), ListParams::default());
        let (volumes, reservations) =
            tokio::try_join!(cluster::list(&volumes, &all), cluster::list(&reservations, &all))?;
        let lived_in = |entry: &LedgerEntry| is_lived_in(&entry.uid, &volumes, &reservations);
        owners.extend(gone.into_iter().map(|entry| {
            let lived_in = lived_in(&entry);
            (entry, Owner::Gone { lived_in })
        }));
    }
    let others = unlisted(&holder, ctx).await?.into_iter();
    let others =
        others.filter(|other| !entries.iter().any(|entry| other.metadata.uid.as_ref() == Some(&entry.uid)));
    owners.extend(others.map(|other| (entry_of(&other, 0), Owner::Is(Box::new(other), None))));
    let status = settled(&holder, &owners);
    let written = cluster::write_status(&api, &holder, &status, CONTROLLER_MANAGER).await?;
    Ok(Some(written.unwrap_or(holder)))
}

/// The reservations that a new ledger lacks, by a live read: no cache decides whose bytes they are (S1, X9).
pub(super) async fn unlisted<K: Holder<DiskReservation>>(
    holder: &K,
    ctx: &Context,
) -> Result<Vec<DiskReservation>, Error> {
    if !holder.is_new() {
        return Ok(vec![]);
    }
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let all = cluster::list(&reservations, &ListParams::default()).await?;
    Ok(all.into_iter().filter(|reservation| holder.lacks(reservation)).collect())
}

/// The reservations in a ledger, from the cache.
pub(super) fn owners<K: Holder<DiskReservation>>(holder: &K, ctx: &Context) -> Vec<Arc<DiskReservation>> {
    let cached = |entry: &LedgerEntry| ctx.stores.reservations.get(&entry.name);
    holder.ledger().entries().iter().filter_map(cached).collect()
}

/// The role of the reservation that a refinement was carved out of.
async fn parent_role(reservation: &DiskReservation, ctx: &Context) -> Result<Option<String>, Error> {
    let Some(name) = &reservation.spec.parent else { return Ok(None) };
    let is_its_own = |parent: &DiskReservation| is_parent(parent, reservation);
    if let Some(parent) = ctx.stores.reservations.get(name).filter(|parent| is_its_own(parent)) {
        return Ok(Some(parent.spec.role.clone()));
    }
    let parent = cluster::get(&Api::all(ctx.client.clone()), name).await?.filter(is_its_own);
    Ok(parent.map(|parent| parent.spec.role))
}
