//! Reservations: RESERVE, UNRESERVE and all that lies between (R1, R4, R6). [`crate::plan::reservation`] decides.

use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{DiskReservation, LedgerEntry, NodeDisk, VolumeRole};
use crate::cluster;
use crate::plan::entry::entry_of;
use crate::plan::kept::{Wanted, next_look};
use crate::plan::reservation::{Step, next};
use crate::plan::reservation_seen::{Gives, LedgerOf, Seen, of_kind};
use crate::plan::share::Outcome;
use crate::plan::{refs, template};

use super::context::Context;
use super::ledger_entries as entries;
use super::{Again, Error, kept};

/// The most steps in one reconcile, above the need of any reservation: a role has at most eight ancestors with a quota.
/// Other reservations may compete for the same bytes, and so cause more steps.
const MOST_STEPS: usize = 32;
/// The pause in which the caches catch up.
const AGAIN: Duration = Duration::from_secs(1);

/// Reconciles a reservation.
///
/// A reservation of a template first follows the template ([`template::next`]).
///
/// 1. Gather: the reservation, disks, its parent and refinements, VolumeRoles and its share, from the caches; live
///    after [`Step::ReadLive`].
/// 2. Decide: [`next`].
/// 3. Apply: the step, then decide again on the changed objects.
pub(super) async fn reconcile(reservation: Arc<DiskReservation>, ctx: &Context) -> Result<Again, Error> {
    let api: Api<DiskReservation> = Api::all(ctx.client.clone());
    match next_for_template(&reservation, ctx) {
        template::Step::Rest => {}
        template::Step::Delete => return cluster::delete_seen(&api, &*reservation).await.map(|()| None),
        template::Step::Resize(size) => {
            let fields = json!({ "spec": { "size": size } });
            return cluster::merge_seen(&api, &*reservation, fields).await.map(|_| None);
        }
    }
    kept::end_overdue(&reservation, ctx).await?;
    let kept = next_look(&reservation, (ctx.now)());
    let mut seen = from_caches(reservation, ctx);
    let mut turn = None;
    for _ in 0..MOST_STEPS {
        match next(&seen) {
            Step::Rest => return Ok(pause(seen.room_made, kept)),
            Step::LookAgain => break,
            Step::AddFinalizer => {
                return cluster::set_finalizer(&api, &*seen.reservation, true).await.map(|()| None);
            }
            Step::RemoveFinalizer => {
                return cluster::set_finalizer(&api, &*seen.reservation, false).await.map(|()| None);
            }
            Step::Delete => return cluster::delete_seen(&api, &*seen.reservation).await.map(|()| None),
            Step::Report(status) => {
                drop(turn);
                let committed = ctx.commit(&api, &*seen.reservation, &status).await;
                if committed.is_err() {
                    let own = entry_of(&seen.reservation, 0);
                    let holders = seen.holders().into_iter().map(|of| (of, vec![own.clone()])).collect();
                    settle(holders, &mut seen, ctx).await?;
                }
                return committed.map(|()| pause(seen.room_made, kept));
            }
            Step::ReadLive => {
                // One reservation at a time takes entries: a guarantee spans disks (Q2).
                if turn.is_none() && seen.reservation.metadata.deletion_timestamp.is_none() {
                    turn = Some(ctx.turn.lock().await);
                }
                match live(&seen, ctx).await? {
                    Some(now) => seen = now,
                    None => return Ok(None),
                }
            }
            Step::Take(of, entry) => {
                of_kind!(&of, |name: K| entries::take::<K>(name, &entry, &mut seen, ctx).await)?;
            }
            Step::MakeDisk(disk) => {
                make_disk(&disk, &api, &seen.reservation, ctx).await?;
                break;
            }
            Step::MakeRoom(name, bytes) => {
                kept::make_room(&name, Wanted { bytes, ..Default::default() }, ctx).await?;
                seen.room_made = true;
            }
            Step::Settle(unsettled) => {
                settle(unsettled, &mut seen, ctx).await?;
                seen.settled = true;
            }
            Step::Release(of) => {
                of_kind!(&of, |name: K| entries::release_seen::<K>(name, &mut seen, ctx).await)?
            }
        }
    }
    Ok(Some(AGAIN))
}

/// The pause before another look: bytes of kept data may be about to be free, or the time of kept data ends (X8).
fn pause(room_made: bool, kept: Again) -> Again {
    if room_made { Some(kept::WHILE_ROOM_IS_MADE) } else { kept }
}

/// The step that the reservation's template asks for (R7), from the caches: it concerns an empty reservation, or a size.
fn next_for_template(reservation: &DiskReservation, ctx: &Context) -> template::Step {
    if reservation.spec.template.is_none() {
        return template::Step::Rest;
    }
    let disk = reservation.spec.node_disk.as_ref().and_then(|name| ctx.stores.disks.get(name));
    let nodes = disk.iter().filter_map(|disk| ctx.stores.nodes.get(&disk.spec.node_name));
    let (roles, nodes) = (ctx.stores.roles.all(), nodes.collect::<Vec<_>>());
    template::next(reservation, &refs(&roles), disk.as_deref(), &template::labels(&nodes))
}

fn from_caches(reservation: Arc<DiskReservation>, ctx: &Context) -> Seen {
    let parent = reservation.spec.parent.as_ref();
    Seen {
        disks: ctx.stores.disks.all(),
        parent: parent.and_then(|name| ctx.stores.reservations.get(name)),
        refinements: entries::owners(&*reservation, ctx),
        unlisted: vec![],
        roles: ctx.stores.roles.all(),
        outcome: ctx.share.of(&reservation.uid().unwrap_or_default()),
        live: false,
        settled: false,
        room_made: false,
        now: (ctx.now)(),
        reservation,
    }
}

/// Makes a missing NodeDisk anew. Disks and reservation were read at the same time, so the reservation may have left a disk
/// that went with its node (D7): it is read once more.
async fn make_disk(
    disk: &NodeDisk,
    api: &Api<DiskReservation>,
    reservation: &DiskReservation,
    ctx: &Context,
) -> Result<(), Error> {
    let now = cluster::get_same(api, reservation).await?;
    let on = now.and_then(|now| now.status).and_then(|status| status.node_disk);
    let disks: Api<NodeDisk> = Api::all(ctx.client.clone());
    if on == disk.metadata.name && cluster::create(&disks, disk).await?.is_some() {
        let (node_disk, node) = (disk.name_any(), &disk.spec.node_name);
        tracing::warn!(node_disk, node, "made a NodeDisk anew, which was missing");
    }
    Ok(())
}

/// Reads all objects of `seen` live; `None`: the reservation is gone.
async fn live(seen: &Seen, ctx: &Context) -> Result<Option<Seen>, Error> {
    let (reservations, roles): (Api<DiskReservation>, Api<VolumeRole>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let all = ListParams::default();
    let (reservation, sources, roles) = tokio::try_join!(
        async { cluster::get_same(&reservations, &*seen.reservation).await },
        live_sources(&seen.reservation, ctx),
        async { cluster::list(&roles, &all).await },
    )?;
    let (parent, disks) = sources;
    let outcome = ctx.share.of(&seen.reservation.uid().unwrap_or_default());
    let from = outcome.as_ref().and_then(Outcome::disk);
    let from = disks.iter().find(|disk| disk.metadata.name.as_deref() == from);
    let unlisted = match from {
        Some(disk) => entries::unlisted(disk, ctx).await?,
        None => vec![],
    };
    Ok(reservation.map(|reservation| Seen {
        reservation: Arc::new(reservation),
        disks: disks.into_iter().map(Arc::new).collect(),
        parent: parent.map(Arc::new),
        unlisted,
        roles: roles.into_iter().map(Arc::new).collect(),
        outcome,
        live: true,
        ..seen.clone()
    }))
}

/// The sources of the bytes: all disks, or the parent and the disk that it is on.
async fn live_sources(
    reservation: &DiskReservation,
    ctx: &Context,
) -> Result<(Option<DiskReservation>, Vec<NodeDisk>), Error> {
    let (reservations, disks): (Api<DiskReservation>, Api<NodeDisk>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let Some(name) = &reservation.spec.parent else {
        return Ok((None, cluster::list(&disks, &ListParams::default()).await?));
    };
    let parent = cluster::get(&reservations, name).await?;
    let on = |of: &DiskReservation| of.status.as_ref().and_then(|status| status.node_disk.clone());
    Ok(match on(reservation).or_else(|| on(parent.as_ref()?)) {
        Some(disk) => (parent, cluster::get(&disks, &disk).await?.into_iter().collect()),
        None => (parent, vec![]),
    })
}

/// Settles the entries in these ledgers, and updates `seen` with the settled ledgers.
async fn settle(
    unsettled: Vec<(LedgerOf, Vec<LedgerEntry>)>,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<(), Error> {
    for (of, unsettled) in unsettled {
        of_kind!(&of, |name: K| {
            if let Some(now) = entries::settle::<K>(name, &unsettled, ctx).await? {
                K::see_settled(name, now, seen);
            }
        });
    }
    Ok(())
}
