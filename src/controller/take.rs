//! Takes the bytes that a reservation asks for: all of them at first, later those that it grows by (R1, R4, R6, Q2).
//!
//! First the lines in the VolumeRoles with a quota that it weighs on, then the line where the bytes come from, each by
//! compare-and-swap; then its own status. So the limit and S1 hold at every revision, whoever else is at work.
//! A line of a reservation that waits all the same, since the room went to somebody else between the two, is its own
//! until it is served or deleted: nobody can know that no other controller is about to go on from there.
//!
//! A guarantee spans all disks, and no single object decides it. It is decided on what was read by quorum, by one
//! reservation at a time. Two controllers that both believe to lead could each hand out the same last bytes that are not
//! guaranteed, and so overshoot a guarantee; never S1, and never a limit.

use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::condition::Verdict;
use crate::api::{DiskKind, DiskReservation, LedgerEntry, NodeDisk, Size, UidRef, VolumeRole};
use crate::cluster;
use crate::plan::share::Outcome;
use crate::plan::{ledger, orphans, quota, reserve, whole};

use super::Error;
use super::context::Context;
use super::lines::{Holder, change, holds};

/// Where the bytes of a reservation come from.
pub(super) struct Home {
    pub node_disk: String,
    pub node_name: String,
    pub disk_kind: Option<DiskKind>,
    /// The reservation that it is carved out of (R4).
    pub parent: Option<UidRef>,
    /// How many it has.
    pub size: u64,
}

/// What came of it.
pub(super) enum Taken {
    /// It has them.
    From(Home),
    /// It waits, for that reason.
    Wait(Verdict),
    /// It was not looked at in the sharing out yet; it is told when it has been.
    Later,
}

/// Takes what the reservation asks for beyond what it has.
pub(super) async fn take(reservation: &DiskReservation, ctx: &Context) -> Result<Taken, Error> {
    let entry = match reserve::entry(reservation) {
        Ok(entry) => entry,
        Err(why) => return Ok(Taken::Wait(why)),
    };
    if let Some(parent) = &reservation.spec.parent {
        let _turn = ctx.turn.lock().await;
        return refine(reservation, parent, entry, ctx).await;
    }
    match ctx.share.of(&entry.uid) {
        None => Ok(Taken::Later),
        Some(Outcome::Wait(why)) => Ok(Taken::Wait(why)),
        Some(Outcome::Serve(disk)) => {
            let _turn = ctx.turn.lock().await;
            reserve(reservation, &disk, entry, ctx).await
        }
    }
}

/// Takes them from the disk that the sharing out named. What it was decided on may be old; then it is looked at again.
async fn reserve(
    reservation: &DiskReservation,
    name: &str,
    entry: LedgerEntry,
    ctx: &Context,
) -> Result<Taken, Error> {
    let api: Api<NodeDisk> = Api::all(ctx.client.clone());
    let disks = cluster::list(&api, &ListParams::default()).await?;
    let placed = reservation.status.as_ref().is_some_and(|s| s.node_disk.is_some());
    let home = |disk: &NodeDisk, line: u64| {
        let (node_disk, node_name) = (disk.name_any(), disk.spec.node_name.clone());
        let size = line.min(whole::of_disk(disk, entry.size.bytes_or_zero()));
        Taken::From(Home { node_disk, node_name, disk_kind: Some(disk.spec.kind), parent: None, size })
    };
    // By quorum: a line that was written a moment ago, and that no cache has seen yet, is found too.
    let found = disks.iter().find(|disk| holds(*disk, &entry.uid) && (!placed || disk.name_any() == name));
    let line = found.and_then(|disk| ledger::held(disk.lines(), &entry.uid)).unwrap_or(0);
    let wanted = entry.size.bytes_or_zero();
    // All of a disk that is never divided (D2).
    let wanted =
        disks.iter().find(|disk| disk.name_any() == name).map_or(wanted, |disk| whole::of_disk(disk, wanted));
    if let Some(disk) = found.filter(|_| !placed || line >= wanted) {
        return Ok(home(disk, line));
    }
    let ready = disks.iter().filter(|disk| reserve::is_ready(disk));
    let free = ready.map(|disk| {
        ledger::free(disk.lines(), reserve::allocatable(disk)).saturating_sub(orphans::held(disk))
    });
    let free = free.fold(0, u64::saturating_add);
    let roles = roles(ctx).await?;
    let refs: Vec<&VolumeRole> = roles.iter().collect();
    let counting = quota::counting(&refs);
    let books: Vec<(&VolumeRole, u64)> =
        counting.values().filter(|r| quota::has_quota(r)).map(|r| (*r, quota::reserved(r))).collect();
    if quota::guaranteed(&entry.role, wanted - line.min(wanted), free, &books).is_some() {
        return Err(old(reservation));
    }
    let line_of = |bytes: u64| LedgerEntry { size: Size::from_bytes(bytes), ..entry.clone() };
    if charge(&roles, &line_of(wanted), None, ctx).await?.is_err() {
        return Err(old(reservation));
    }
    let taken = change(name, ctx, |disk: &NodeDisk| {
        let line = line_of(whole::of_disk(disk, entry.size.bytes_or_zero()));
        let kept = orphans::held(disk) - orphans::held_for(disk, reservation);
        ledger::take(disk.lines(), reserve::allocatable(disk).saturating_sub(kept), line)
    })
    .await?;
    match (taken, disks.iter().find(|disk| disk.name_any() == name)) {
        (Some(Ok(())), Some(disk)) => Ok(home(disk, wanted)),
        _ => Err(old(reservation)),
    }
}

/// Carves them out of the parent (R4). It is no part of the sharing out: nobody else's room gets less.
async fn refine(
    reservation: &DiskReservation,
    name: &str,
    entry: LedgerEntry,
    ctx: &Context,
) -> Result<Taken, Error> {
    let api: Api<DiskReservation> = Api::all(ctx.client.clone());
    let home = reservation.status.as_ref().and_then(|s| s.parent.as_ref());
    let ours = |parent: &DiskReservation| home.is_none_or(|home| parent.uid().as_ref() == Some(&home.uid));
    let parent = cluster::get(&api, name).await?.filter(ours);
    let wanted = entry.size.bytes_or_zero();
    let in_it = |parent: &DiskReservation, line: u64| {
        let status = parent.status.clone().unwrap_or_default();
        Taken::From(Home {
            node_disk: status.node_disk.unwrap_or_default(),
            node_name: status.node_name.unwrap_or_default(),
            disk_kind: status.disk_kind,
            parent: Some(UidRef { name: name.to_owned(), uid: parent.uid().unwrap_or_default() }),
            size: line.min(whole::of_reservation(parent, wanted)),
        })
    };
    let line = parent.as_ref().and_then(|parent| ledger::held(parent.lines(), &entry.uid));
    if let (Some(parent), Some(line)) = (&parent, line)
        && (home.is_none() || line >= wanted)
    {
        return Ok(in_it(parent, line));
    }
    if let Some(parent) = &parent
        && let Some(disk) = parent.status.as_ref().and_then(|s| ctx.stores.disks.get(s.node_disk.as_deref()?))
        && let Some(why) = reserve::parent_gone(parent, &disk)
    {
        return Ok(Taken::Wait(why));
    }
    let (parent, role) = match (reserve::refine(reservation, parent.as_ref()), &parent) {
        (Ok(_), Some(parent)) => (parent, parent.spec.role.clone()),
        (Err(why), _) => return Ok(Taken::Wait(why)),
        (Ok(_), None) => return Err(old(reservation)),
    };
    let roles = roles(ctx).await?;
    if let Err(why) = charge(&roles, &entry, Some(&role), ctx).await? {
        return Ok(why.map_or(Taken::Later, Taken::Wait));
    }
    // From the very one that was looked at: what is said of where the bytes are is said of that.
    let carve = |now: &DiskReservation| match now.metadata.uid == parent.metadata.uid {
        true => reserve::refine(reservation, Some(now)),
        false => reserve::refine(reservation, None),
    };
    Ok(match change(name, ctx, carve).await? {
        Some(Ok(())) => in_it(parent, whole::of_reservation(parent, wanted)),
        Some(Err(why)) => Taken::Wait(why),
        None => return Err(old(reservation)),
    })
}

/// The VolumeRoles, by quorum.
async fn roles(ctx: &Context) -> Result<Vec<VolumeRole>, Error> {
    let api: Api<VolumeRole> = Api::all(ctx.client.clone());
    Ok(cluster::list(&api, &ListParams::default()).await?)
}

/// Puts the reservation's line into each VolumeRole with a quota that it weighs on: into none, if one of those that were
/// read refuses. `Err(None)`: one has not summed up yet.
async fn charge(
    roles: &[VolumeRole],
    entry: &LedgerEntry,
    parent: Option<&str>,
    ctx: &Context,
) -> Result<Result<(), Option<Verdict>>, Error> {
    let weighs =
        |role: &VolumeRole| quota::has_quota(role) && quota::charges(&role.spec.role, &entry.role, parent);
    let charged = |role: &VolumeRole| match quota::is_current(role) {
        _ if !weighs(role) => Ok(role.lines().to_vec()),
        true => quota::charge(role, entry.clone()).map_err(Some),
        false => Err(None),
    };
    let refs: Vec<&VolumeRole> = roles.iter().collect();
    let counting = quota::counting(&refs);
    let weighed_on: Vec<&VolumeRole> = counting.into_values().filter(|role| weighs(role)).collect();
    if let Some(refused) = weighed_on.iter().find_map(|role| charged(role).err()) {
        return Ok(Err(refused));
    }
    for role in weighed_on {
        let name = role.name_any();
        if let Some(Err(refused)) = change(&name, ctx, charged).await? {
            return Ok(Err(refused));
        }
    }
    Ok(Ok(()))
}

/// What was decided on is old: it is looked at again.
fn old(reservation: &DiskReservation) -> Error {
    cluster::Error::Conflict(format!("what DiskReservation {} is served by", reservation.name_any())).into()
}
