//! Entries in ledgers: taken, settled, released. [`crate::plan::entry`] says what an entry is to be.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ClusterResourceScope;
use kube::api::ListParams;
use kube::{Api, Resource};

use crate::api::{
    CONTROLLER_MANAGER, DiskReservation, LedgerEntry, NodeDisk, SharedPersistentVolume, VolumeRole,
};
use crate::cluster::{self, Kind, Owned, StatusBatcher};
use crate::plan::entry::{Owner, fits, is_lived_in, is_parent, settled};
use crate::plan::holder::Holder;
use crate::plan::reservation::{Gives, Seen};

use super::Error;
use super::context::Context;

/// A kind whose ledgers several reconciles write at the same time.
pub(super) trait Committed:
    Kind + Owned<Status: Send + Sync> + Resource<Scope = ClusterResourceScope>
{
    /// Joins the status writes to objects of this kind.
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

/// Commits the entries that `decide` makes of the object as it is then. Returns the object as it was decided, or the
/// refusal; `None`: there is no such object.
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

/// Takes the entry from the holder. What was seen has the entry then, or, when the holder refuses, is live no more.
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

/// Releases the entry of the reservation that was seen, and from what was seen.
pub(super) async fn release_seen<K: Committed + Gives>(
    name: &str,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<(), Error> {
    let uid = seen.reservation.metadata.uid.clone().unwrap_or_default();
    K::see(name, release::<K, DiskReservation>(name, &uid, ctx).await?, seen);
    Ok(())
}

/// Releases the entry of that UID: its owner is being deleted, or is elsewhere for good.
pub(super) async fn release<K: Committed + Holder<Held>, Held>(
    name: &str,
    uid: &str,
    ctx: &Context,
) -> Result<Option<K>, Error> {
    let without = |holder: &K| Ok::<_, ()>(holder.ledger().release(uid).into_entries());
    Ok(change::<K, Held, _>(name, ctx, without).await?.and_then(Result::ok))
}

/// Brings one entry within its bounds, on live reads: the ledger first, then the reservation; see [`settled`].
pub(super) async fn settle<K: Committed + Holder<DiskReservation>>(
    name: &str,
    entry: &LedgerEntry,
    ctx: &Context,
) -> Result<(), Error> {
    let (api, reservations): (Api<K>, Api<DiskReservation>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let Some(holder) = cluster::get(&api, name).await? else { return Ok(()) };
    let now = cluster::get(&reservations, &entry.name).await?;
    let now = now.filter(|now| now.metadata.uid.as_deref() == Some(&entry.uid));
    let parent = match &now {
        Some(now) => parent_role(now, ctx).await?,
        None => None,
    };
    let owner = match &now {
        Some(now) => Owner::Is(now, parent.as_deref()),
        None => {
            let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
            let all = ListParams::default();
            let (volumes, reservations) =
                tokio::try_join!(cluster::list(&volumes, &all), cluster::list(&reservations, &all))?;
            Owner::Gone { lived_in: is_lived_in(&entry.uid, &volumes, &reservations) }
        }
    };
    cluster::write_status(&api, &holder, &settled(&holder, entry, &owner), CONTROLLER_MANAGER).await?;
    Ok(())
}

/// Settles the entries of reservations that, by the cache, are gone, have shrunk, or are elsewhere.
pub(super) async fn sweep<K: Committed + Holder<DiskReservation>>(
    holder: &K,
    ctx: &Context,
) -> Result<(), Error> {
    for entry in holder.ledger().entries() {
        let cached = ctx.stores.reservations.get(&entry.name);
        let fits = match cached.filter(|r| r.metadata.uid.as_deref() == Some(&entry.uid)) {
            Some(r) => fits(holder, &r, parent_role(&r, ctx).await?.as_deref()),
            None => false,
        };
        if !fits {
            settle::<K>(&cluster::named(holder), entry, ctx).await?;
        }
    }
    Ok(())
}

/// The role of the reservation that a refinement is carved out of.
async fn parent_role(reservation: &DiskReservation, ctx: &Context) -> Result<Option<String>, Error> {
    let Some(name) = &reservation.spec.parent else { return Ok(None) };
    let cached = ctx.stores.reservations.get(name).filter(|parent| is_parent(parent, reservation));
    let parent = match cached {
        Some(parent) => Some(parent),
        None => {
            let api: Api<DiskReservation> = Api::all(ctx.client.clone());
            cluster::get(&api, name).await?.filter(|parent| is_parent(parent, reservation)).map(Arc::new)
        }
    };
    Ok(parent.map(|parent| parent.spec.role.clone()))
}
