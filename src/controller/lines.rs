//! The lines that a reservation has in the ledgers of others: its disk, the one that it was carved out of, the
//! VolumeRoles that it weighs on (R1, R4, Q2).
//!
//! A line is written before the reservation says that it has the bytes, and carries its UID: whoever dies in between
//! finds the line when he comes back. What became too many is taken away afterwards, by whoever sees it.

use std::sync::Arc;

use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};

use crate::api::{
    CONTROLLER_MANAGER, DiskReservation, LedgerEntry, NodeDisk, NodeDiskStatus, SharedPersistentVolume, Size,
    UidRef, VolumeRole, VolumeRoleStatus,
};
use crate::cluster::{self, Commits, Kind, Owned};
use crate::plan::{ledger, orphans, quota, reserve, summary, whole};

use super::Error;
use super::context::Context;
use super::volume_entry;

/// An object whose status is a ledger of reservations.
pub(super) trait Holder:
    Kind + Owned<Status: Send + Sync> + Resource<Scope = k8s_openapi::ClusterResourceScope>
{
    /// Where the commits to objects of this kind meet.
    fn commits(ctx: &Context) -> &Commits<Self>;
    /// The ledger.
    fn lines(&self) -> &[LedgerEntry];
    /// The status with another ledger, and the sums of that.
    fn with(&self, lines: Vec<LedgerEntry>) -> Self::Status;
    /// Whether a line of the reservation belongs here; `parent` is the role of the one that it was carved out of.
    fn belongs(&self, reservation: &DiskReservation, parent: Option<&str>) -> bool;
    /// How large the line may be of one that asks for so much: as large as that, but for what is handed out whole (D2).
    fn at_most(&self, asked: u64) -> u64 {
        asked
    }
}

impl Holder for NodeDisk {
    fn commits(ctx: &Context) -> &Commits<Self> {
        &ctx.commits.disks
    }

    fn lines(&self) -> &[LedgerEntry] {
        self.status.as_ref().map_or(&[], |s| &s.reservations)
    }

    fn with(&self, reservations: Vec<LedgerEntry>) -> NodeDiskStatus {
        with_ledger(self, NodeDiskStatus { reservations, ..self.status.clone().unwrap_or_default() })
    }

    fn belongs(&self, reservation: &DiskReservation, _: Option<&str>) -> bool {
        let home = reservation.status.as_ref().and_then(|s| s.node_disk.as_ref());
        reservation.spec.parent.is_none() && home.is_none_or(|home| *home == self.name_any())
    }

    fn at_most(&self, asked: u64) -> u64 {
        if asked == 0 { 0 } else { whole::of_disk(self, asked) }
    }
}

/// A reservation holds those that are carved out of it.
impl Holder for DiskReservation {
    fn commits(ctx: &Context) -> &Commits<Self> {
        &ctx.commits.reservations
    }

    fn lines(&self) -> &[LedgerEntry] {
        self.status.as_ref().map_or(&[], |s| &s.refinements)
    }

    fn with(&self, refinements: Vec<LedgerEntry>) -> Self::Status {
        let status = self.status.clone().unwrap_or_default();
        volume_entry::with_ledger(Self::Status { refinements, ..status })
    }

    fn belongs(&self, reservation: &DiskReservation, _: Option<&str>) -> bool {
        let home = reservation.status.as_ref().and_then(|s| s.parent.as_ref());
        reservation.spec.parent == self.metadata.name
            && home.is_none_or(|home| Some(&home.uid) == self.metadata.uid.as_ref())
    }

    fn at_most(&self, asked: u64) -> u64 {
        if asked == 0 { 0 } else { whole::of_reservation(self, asked) }
    }
}

impl Holder for VolumeRole {
    fn commits(ctx: &Context) -> &Commits<Self> {
        &ctx.commits.roles
    }

    fn lines(&self) -> &[LedgerEntry] {
        self.status.as_ref().map_or(&[], |s| &s.reservations)
    }

    fn with(&self, reservations: Vec<LedgerEntry>) -> VolumeRoleStatus {
        let reserved = Some(Size::from_bytes(ledger::total(&reservations)));
        VolumeRoleStatus { reservations, reserved, ..self.status.clone().unwrap_or_default() }
    }

    fn belongs(&self, reservation: &DiskReservation, parent: Option<&str>) -> bool {
        quota::charges(&self.spec.role, &reservation.spec.role, parent)
    }
}

/// The disk's status with its sums as the ledger has them, so that both change in one write.
pub(super) fn with_ledger(disk: &NodeDisk, status: NodeDiskStatus) -> NodeDiskStatus {
    let free = ledger::free(&status.reservations, reserve::allocatable(disk));
    let free = free.saturating_sub(orphans::held_in(&status));
    NodeDiskStatus {
        reserved: Some(Size::from_bytes(ledger::total(&status.reservations))),
        roles: summary::disk_roles(&status.reservations),
        free: Some(Size::from_bytes(free)),
        ..status
    }
}

/// Whether the ledger has the reservation.
pub(super) fn holds<K: Holder>(holder: &K, uid: &str) -> bool {
    ledger::held(holder.lines(), uid).is_some()
}

/// Commits what `decide` makes of the ledger as it is now. `None`: there is no such object.
pub(super) async fn change<K: Holder, R>(
    name: &str,
    ctx: &Context,
    decide: impl Fn(&K) -> Result<Vec<LedgerEntry>, R>,
) -> Result<Option<Result<(), R>>, Error> {
    let api: Api<K> = Api::all(ctx.client.clone());
    let change = |holder: &K| decide(holder).map(|lines| Some(holder.with(lines)));
    Ok(K::commits(ctx).update(&api, name, change).await?)
}

/// Takes the line of that UID away; for a reservation that is being deleted, or is elsewhere for good.
pub(super) async fn credit<K: Holder>(name: &str, uid: &str, ctx: &Context) -> Result<(), Error> {
    let credit = |holder: &K| Ok::<_, ()>(ledger::credit(holder.lines(), uid));
    change(name, ctx, credit).await.map(drop)
}

/// The reservation that this one is, or is to be, carved out of.
pub(super) async fn parent(
    reservation: &DiskReservation,
    ctx: &Context,
) -> Result<Option<Arc<DiskReservation>>, Error> {
    let Some(name) = &reservation.spec.parent else { return Ok(None) };
    let home = reservation.status.as_ref().and_then(|s| s.parent.as_ref());
    let same =
        |parent: &DiskReservation| home.is_none_or(|home| parent.metadata.uid.as_ref() == Some(&home.uid));
    if let Some(parent) = ctx.stores.reservations.get(name).filter(|parent| same(parent)) {
        return Ok(Some(parent));
    }
    let api: Api<DiskReservation> = Api::all(ctx.client.clone());
    Ok(cluster::get(&api, name).await?.filter(same).map(Arc::new))
}

/// Its role.
async fn parent_role(reservation: &DiskReservation, ctx: &Context) -> Result<Option<String>, Error> {
    Ok(parent(reservation, ctx).await?.map(|parent| parent.spec.role.clone()))
}

/// Brings one line to what it must be as the reservation is now; see [`reserve::bounds`] for the order of the reads.
pub(super) async fn mend<K: Holder>(holder: &K, line: &LedgerEntry, ctx: &Context) -> Result<(), Error> {
    let (api, reservations): (Api<K>, Api<DiskReservation>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let Some(holder) = cluster::get(&api, &holder.name_any()).await? else { return Ok(()) };
    let now =
        cluster::get(&reservations, &line.name).await?.filter(|now| now.uid().as_ref() == Some(&line.uid));
    let (low, high) = match &now {
        None if is_lived_in(&line.uid, ctx).await? => return Ok(()),
        Some(now) if holder.belongs(now, parent_role(now, ctx).await?.as_deref()) => reserve::bounds(now),
        _ => (0, 0),
    };
    let lines = ledger::settle(holder.lines(), line.clone(), low, holder.at_most(high));
    cluster::write_status(&api, &holder, &holder.with(lines), CONTROLLER_MANAGER).await?;
    Ok(())
}

/// Whether something lives in a reservation whose object is gone, because somebody took the finalizer off by hand: its
/// bytes are still there, and so is its line (S3).
async fn is_lived_in(uid: &str, ctx: &Context) -> Result<bool, Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let reservations: Api<DiskReservation> = Api::all(ctx.client.clone());
    let in_it = |home: Option<&UidRef>| home.is_some_and(|home| home.uid == uid);
    let volumes = cluster::list(&volumes, &ListParams::default()).await?;
    let refinements = cluster::list(&reservations, &ListParams::default()).await?;
    Ok(volumes.iter().any(|v| in_it(v.status.as_ref().and_then(|s| s.reservation.as_ref())))
        || refinements.iter().any(|r| in_it(r.status.as_ref().and_then(|s| s.parent.as_ref()))))
}

/// Mends the lines of reservations that are not what the cache has of them: gone, shrunk, or elsewhere.
pub(super) async fn sweep<K: Holder>(holder: &K, ctx: &Context) -> Result<(), Error> {
    for line in holder.lines() {
        let cached = ctx.stores.reservations.get(&line.name);
        let fits = match cached.filter(|r| r.uid().as_ref() == Some(&line.uid)) {
            Some(r) if holder.belongs(&r, parent_role(&r, ctx).await?.as_deref()) => {
                let (low, high) = reserve::bounds(&r);
                (low..=holder.at_most(high)).contains(&line.size.bytes_or_zero())
            }
            _ => false,
        };
        if !fits {
            mend(holder, line, ctx).await?;
        }
    }
    Ok(())
}
