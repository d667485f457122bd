//! RESERVE, UNRESERVE and all steps between: the state machine of a `DiskReservation` (R1, R4, R6, Q2).
//!
//! [`next`] decides one step at a time. The order of the steps keeps S1 and the limits at every revision:
//!
//! - Reserve and grow: first an entry in each VolumeRole whose quota counts the bytes. Then the entry in the NodeDisk,
//!   or for a refinement in its parent. Then the status of the reservation.
//! - Shrink: first the status, by compare-and-swap on the object that lists the volumes and refinements. Then the
//!   entries.
//! - Unreserve: first the entries, then the finalizer.
//!
//! An entry carries the UID of its reservation, so after a crash the next controller finds the entry. The entry of a
//! waiting reservation stays while the reservation's spec does: another controller may be about to continue from there.
//! Once the spec has changed, nobody can report the bytes of an earlier entry, so what the reservation does not have of
//! the entry is released.
//!
//! A guarantee spans all disks, so compare-and-swap on one object cannot decide it. Live reads decide it, for one
//! reservation at a time. Two controllers that both act as leader can exceed a guarantee, but never S1 and never a
//! limit.

use std::cmp::Ordering;

use kube::ResourceExt;

use crate::api::condition::{self, READY, RESIZED, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, FINALIZER, LedgerEntry, NodeDisk, NodeDiskSpec, ReservationPhase,
    Size, UNKNOWN_DISK, UidRef,
};

use super::candidate::free_space;
use super::entry::{asked, entry, is_current, is_placed};
use super::holder::{self, Holder, size, used, with_sums};
use super::reservation_seen::{Gives, LedgerOf, Refusal, Seen, no_parent};
use super::share::Outcome;
use super::{foreign_finalizer, kept, names, node_lifetime, quota, refs, release};

/// The next step for a reservation.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Add our finalizer to the reservation.
    AddFinalizer,
    /// Read everything live, and decide again.
    ReadLive,
    /// Take the entry from the ledger, by [`Gives::give`] on a live read of the holder.
    Take(LedgerOf, LedgerEntry),
    /// Settle these entries by [`super::entry::settled`], and decide again.
    Settle(Vec<(LedgerOf, Vec<LedgerEntry>)>),
    /// Write the status. If the write fails, settle the entries in [`Seen::holders`]: a controller that released the
    /// reservation may have missed these entries.
    Report(Box<DiskReservationStatus>),
    /// Make this NodeDisk anew, unless there is one of its name, and decide again (D3).
    MakeDisk(Box<NodeDisk>),
    /// Erase kept data of the reservation of that name for so many free bytes (X8), and decide again.
    MakeRoom(String, u64),
    /// Release the entry in that ledger.
    Release(LedgerOf),
    /// Delete the reservation, which is empty and static: its disk has gone with its node (D7).
    Delete,
    /// Remove our finalizer, as the last step for the reservation.
    RemoveFinalizer,
    /// The caches are behind: decide again after a moment.
    LookAgain,
    /// Wait for a change.
    Rest,
}

/// The next step.
pub fn next(seen: &Seen) -> Step {
    let reservation = &*seen.reservation;
    let guarded = reservation.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let unsettled = if seen.settled { vec![] } else { seen.unsettled() };
    match (reservation.metadata.deletion_timestamp.is_some(), guarded) {
        (true, false) => Step::Rest,
        (false, false) => Step::AddFinalizer,
        _ if !unsettled.is_empty() => Step::Settle(unsettled),
        (true, true) => unreserve(seen),
        (false, true) if is_placed(reservation) => keep(seen),
        (false, true) => reserve(seen),
    }
}

fn reserve(seen: &Seen) -> Step {
    // D7: an entry on a disk that has gone is settled after the reservation has said so.
    let uid = seen.reservation.uid().unwrap_or_default();
    let is_left = |disk: &&NodeDisk| node_lifetime::has_left(disk) && disk.ledger().get(&uid).is_some();
    let left = seen.disks.iter().map(AsRef::as_ref).find(is_left);
    let left = left.filter(|_| !holder::says_node_gone(&seen.reservation));
    if let Some(why) = left.and_then(|disk| disk_gone(disk, &seen.reservation, ITSELF)) {
        return report(seen, seen.status(), Err(why));
    }
    match take(seen) {
        Ok(status) => report(seen, status.clone(), lost(seen, &status).map_or(Ok(()), Err)),
        Err(Lacks::Step(step)) => *step,
        Err(Lacks::Bytes(why)) => report(seen, seen.status(), Err(why)),
    }
}

/// A reservation that has its bytes is never moved, even if its disk fails.
fn keep(seen: &Seen) -> Step {
    let (before, lost) = (seen.status(), lost(seen, &seen.status()));
    let mut status = where_disk_is(seen, before.clone());
    let has_moved = status.node_name != before.node_name
        || before.disk_name.is_some() && status.disk_name != before.disk_name;
    // A stale cache must not move a reservation (D3), nor report its disk or parent as missing.
    let is_for_good = |why: &Verdict| [reason::DISK_GONE, reason::NODE_GONE].contains(&why.reason);
    if !seen.live && (has_moved || lost.as_ref().is_some_and(|why| !is_for_good(why))) {
        return Step::ReadLive;
    }
    if let Some(disk) = missing_disk(seen, &status) {
        return Step::MakeDisk(Box::new(disk));
    }
    match lost {
        Some(why) if why.reason == reason::NODE_GONE => leave(seen, status, why),
        Some(why) => report(seen, status, Err(why)),
        None => resize(seen, &mut status).unwrap_or_else(|| report(seen, status, Ok(()))),
    }
}

/// The status with the present place of the disk, and with the disk's ID. The ID stays, whatever disk has the name.
fn where_disk_is(seen: &Seen, mut status: DiskReservationStatus) -> DiskReservationStatus {
    let Some(NodeDisk { spec, .. }) = seen.disk(status.node_disk.as_deref()) else { return status };
    status.node_name = status.node_name.map(|_| spec.node_name.clone());
    if status.parent.is_none() && status.disk_id.as_ref().is_none_or(|id| *id == spec.disk_id) {
        (status.disk_id, status.disk_name) = (Some(spec.disk_id.clone()), Some(spec.disk_name.clone()));
    }
    status
}

/// D3: the NodeDisk of the reservation went with its kind. Its disk may be in another node than the name has, whose agent
/// may not make a NodeDisk of that name (A7), and reservations and volumes refer to the name. The agent that finds the ID
/// corrects the rest.
fn missing_disk(seen: &Seen, status: &DiskReservationStatus) -> Option<NodeDisk> {
    let name = status.node_disk.as_deref().filter(|name| seen.disk(Some(name)).is_none())?;
    let (node, disk, id) = (status.node_name.clone()?, status.disk_name.clone()?, status.disk_id.clone()?);
    let spec = NodeDiskSpec::new(node, disk, id, status.disk_kind?, UNKNOWN_DISK.to_owned());
    Some(NodeDisk::new(name, spec))
}

/// D7: an empty reservation leaves a disk that has gone with its node, and is placed anew. Its entry is settled after its
/// status, as that of a reservation that shrinks. Its agent makes a static one anew, should the node come back.
fn leave(seen: &Seen, status: DiskReservationStatus, why: Verdict) -> Step {
    let status = without_kept(status);
    if !status.volumes.is_empty() || !status.refinements.is_empty() {
        return report(seen, status, Err(why));
    }
    if seen.reservation.spec.is_static {
        let is_reported = is_reported(&status, &why) && seen.status().volumes.is_empty();
        return if is_reported { Step::Delete } else { report(seen, status, Err(why)) };
    }
    let DiskReservationStatus { turn, conditions, .. } = status;
    report(seen, DiskReservationStatus { turn, conditions, ..Default::default() }, Err(why))
}

/// The status without kept data, which is on a disk that has gone as before: nobody can undo its deletion any more (X8).
fn without_kept(mut status: DiskReservationStatus) -> DiskReservationStatus {
    status.volumes.retain(|entry| entry.kept.is_none());
    status
}

/// R6: growing takes the bytes first and reports afterwards; shrinking reports first and releases afterwards.
fn resize(seen: &Seen, status: &mut DiskReservationStatus) -> Option<Step> {
    let has = size(status);
    let wanted = entry(&seen.reservation).map(|entry| entry.size.bytes_or_zero());
    let resized = match wanted.map(|wanted| (wanted, wanted.cmp(&has))) {
        Err(why) => Err(why),
        Ok((_, Ordering::Equal)) if condition::get(&status.conditions, RESIZED).is_none() => return None,
        Ok((_, Ordering::Equal)) => Ok(has),
        Ok((wanted, Ordering::Less))
            if wanted < used(status) && !seen.room_made && wanted >= used(status) - kept::bytes(status) =>
        {
            return Some(Step::MakeRoom(seen.reservation.name_any(), has - wanted));
        }
        Ok((wanted, Ordering::Less)) => below_used(status, wanted).map_or(Ok(wanted), Err),
        Ok((_, Ordering::Greater)) => match take(seen) {
            Ok(taken) => Ok(size(&taken)),
            // The rest of the status is still written.
            Err(Lacks::Step(step)) => return Some(*step).filter(|step| *step != Step::Rest),
            Err(Lacks::Bytes(why)) => Err(why),
        },
    };
    let verdict = resized.map(|size| {
        status.size = Some(Size::from_bytes(size));
        Verdict::yes(reason::RESIZED, format!("it has {}", Size::from_bytes(size)))
    });
    let (verdict, generation) = (verdict.unwrap_or_else(|why| why), seen.reservation.metadata.generation);
    condition::set(&mut status.conditions, RESIZED, verdict, generation, seen.now);
    None
}

/// A reservation that is being deleted accepts no volumes, so an empty one stays empty after a live read. The entries
/// go before the finalizer, so that no entry of a deleted reservation stays on the disk. Bytes of a refinement return
/// to its parent, never to the disk (R4).
///
/// D7: the entry of a waiting refinement is settled only after the reservation has said that its disk has gone.
fn unreserve(seen: &Seen) -> Step {
    let status = seen.status();
    let left = lost(seen, &status).filter(|why| why.reason == reason::NODE_GONE);
    if let Some(why) = left.filter(|_| release::reservation_held(&status).is_some()) {
        return report(seen, without_kept(status), Err(why));
    }
    if let Some(why) = release::reservation_held(&status) {
        return match missing_disk(seen, &status) {
            Some(_) if !seen.live => Step::ReadLive,
            Some(disk) => Step::MakeDisk(Box::new(disk)),
            None => report(seen, status, Err(why)),
        };
    }
    match seen.holders().into_iter().next() {
        _ if !seen.live => Step::ReadLive,
        Some(holder) => Step::Release(holder),
        None => match foreign_finalizer(&*seen.reservation).map(|name| release::left_to(name)) {
            Some(why) if !is_reported(&status, &why) => report(seen, status, Err(why)),
            _ => Step::RemoveFinalizer,
        },
    }
}

fn is_reported(status: &DiskReservationStatus, why: &Verdict) -> bool {
    condition::get(&status.conditions, READY).is_some_and(|ready| ready.message == why.message)
}

/// The obstacle to a complete set of entries.
enum Lacks {
    /// This step comes first.
    Step(Box<Step>),
    /// The reservation waits for bytes.
    Bytes(Verdict),
}

impl From<Step> for Lacks {
    fn from(step: Step) -> Self {
        Self::Step(Box::new(step))
    }
}

/// The status of a reservation that has all its entries.
fn take(seen: &Seen) -> Result<DiskReservationStatus, Lacks> {
    let entry = entry(&seen.reservation).map_err(Lacks::Bytes)?;
    match (&seen.reservation.spec.parent, &seen.outcome) {
        (None, None) => Err(Step::Rest.into()),
        (None, Some(Outcome::Wait { why, .. })) => Err(Lacks::Bytes(why.clone())),
        _ if !seen.live => Err(Step::ReadLive.into()),
        (None, Some(Outcome::Serve { disk, .. })) => take_from_disk(seen, disk, entry),
        (Some(parent), _) => take_from_parent(seen, parent, entry),
    }
}

/// Bytes of the reservation's entry, if taken for the present spec. The entries in VolumeRoles may be older or gone
/// otherwise, and a controller must not report bytes on the word of an entry that others cut.
fn current<H: Holder<DiskReservation>>(holder: &H, reservation: &DiskReservation) -> Option<u64> {
    let (ledger, uid) = (holder.ledger(), reservation.metadata.uid.as_deref()?);
    let entry = ledger.entries().iter().find(|entry| entry.uid == uid)?;
    is_current(entry, reservation).then_some(entry.size.bytes_or_zero())
}

/// Bytes of the reservation's entry, if taken for the present spec and large enough to be reported.
fn complete<H: Holder<DiskReservation>>(
    holder: &H,
    reservation: &DiskReservation,
    wanted: u64,
) -> Option<u64> {
    current(holder, reservation).filter(|held| !is_placed(reservation) || *held >= wanted)
}

/// The sharing out has chosen the disk from the caches. A refusal by live reads means that the caches are behind.
fn take_from_disk(seen: &Seen, name: &str, entry: LedgerEntry) -> Result<DiskReservationStatus, Lacks> {
    let reservation = &*seen.reservation;
    // An entry that the caches lack decides the disk of the reservation.
    let is_taken =
        |disk: &NodeDisk| !is_placed(reservation) && !disk.spec.gone && current(disk, reservation).is_some();
    let taken = seen.disks.iter().map(AsRef::as_ref).find(|disk| is_taken(disk));
    // A placed reservation grows on its own disk alone. Caches that lack its placement may choose another one (S1).
    let own = reservation.status.as_ref().and_then(|status| status.node_disk.as_deref());
    let chosen = || seen.disk(Some(name)).filter(|disk| !disk.spec.gone && own.is_none_or(|own| own == name));
    let disk = taken.or_else(chosen).ok_or(Step::LookAgain)?;
    let wanted = disk.at_most(reservation, entry.size.bytes_or_zero());
    if let Some(held) = complete(disk, reservation, wanted) {
        return Ok(DiskReservationStatus {
            node_disk: Some(disk.name_any()),
            node_name: Some(disk.spec.node_name.clone()),
            disk_kind: Some(disk.spec.kind),
            disk_id: Some(disk.spec.disk_id.clone()),
            disk_name: Some(disk.spec.disk_name.clone()),
            size: Some(Size::from_bytes(held.min(wanted))),
            ..seen.status()
        });
    }
    let unlisted = seen.unlisted_on(disk).map(|(_, bytes)| bytes).fold(0, u64::saturating_add);
    let free = seen.disks.iter().map(|disk| free_space(disk)).fold(0, u64::saturating_add);
    let free = free.saturating_sub(unlisted);
    let more = wanted.saturating_sub(disk.ledger().get(&entry.uid).unwrap_or(0));
    if quota::guaranteed(&entry.role, more, free, &quota::ledgers(&refs(&seen.roles))).is_some() {
        return Err(Step::LookAgain.into());
    }
    let entry = LedgerEntry { size: Size::from_bytes(wanted), ..entry };
    let step = step_to_take(seen, LedgerOf::Disk(disk.name_any()), disk, entry);
    Err(step.unwrap_or(Step::LookAgain).into())
}

/// A refinement needs no share: its bytes come from the parent, and not from the free space of a disk.
fn take_from_parent(seen: &Seen, name: &str, entry: LedgerEntry) -> Result<DiskReservationStatus, Lacks> {
    let parent = seen.parent().ok_or_else(|| Lacks::Bytes(no_parent(name)))?;
    let in_parent = parent.status.clone().unwrap_or_default();
    let who = format!("DiskReservation {name}, which it is to be carved out of,");
    let on = seen.disk(in_parent.node_disk.as_deref());
    if let Some(why) = on.and_then(|disk| disk_gone(disk, parent, &who)) {
        return Err(Lacks::Bytes(why));
    }
    let wanted = parent.at_most(&*seen.reservation, entry.size.bytes_or_zero());
    if let Some(held) = complete(parent, &seen.reservation, wanted) {
        return Ok(DiskReservationStatus {
            size: Some(Size::from_bytes(held.min(wanted))),
            parent: Some(UidRef { name: name.to_owned(), uid: parent.uid().unwrap_or_default() }),
            node_disk: in_parent.node_disk,
            node_name: in_parent.node_name,
            disk_kind: in_parent.disk_kind,
            ..seen.status()
        });
    }
    let held = holder::refinements(&in_parent).get(&entry.uid).unwrap_or(0);
    let more = wanted.saturating_sub(held);
    if !seen.room_made && holder::free(&in_parent) < more && kept::available(&in_parent) >= more {
        return Err(Step::MakeRoom(name.to_owned(), more).into());
    }
    let entry = LedgerEntry { size: Size::from_bytes(wanted), ..entry };
    let step = step_to_take(seen, LedgerOf::Parent(name.to_owned()), parent, entry);
    Err(step.map_or_else(|refused| refused.map_or(Step::Rest.into(), Lacks::Bytes), Lacks::from))
}

/// The step that takes the entry from `holder`, or first from a VolumeRole that lacks the entry. A refusal by any of
/// them means that no entry is taken.
fn step_to_take<H: Gives>(
    seen: &Seen,
    of: LedgerOf,
    holder: &H,
    entry: LedgerEntry,
) -> Result<Step, Refusal> {
    let (role, parent) = (&seen.reservation.spec.role, seen.parent().map(|p| p.spec.role.as_str()));
    holder.give(seen, &entry)?;
    let mut lacking = None;
    for (charged, _) in quota::ledgers(&refs(&seen.roles)) {
        if quota::charges(&charged.spec.role, role, parent) && charged.give(seen, &entry)? != charged.ledger()
        {
            lacking = lacking.or(Some(LedgerOf::Role(charged.name_any())));
        }
    }
    Ok(Step::Take(lacking.unwrap_or(of), entry))
}

/// The step that writes the status, with `Ready` or the reason against it.
fn report(seen: &Seen, mut status: DiskReservationStatus, outcome: Result<(), Verdict>) -> Step {
    let is_deleted = seen.reservation.metadata.deletion_timestamp.is_some();
    status.phase = match outcome {
        _ if is_deleted => ReservationPhase::Releasing,
        Ok(()) => ReservationPhase::Reserved,
        Err(_) => ReservationPhase::Pending,
    };
    if status.node_disk.is_some() {
        status = with_sums(status);
    }
    status.turn = match &seen.outcome {
        Some(outcome) => outcome.turn().cloned(),
        None => status.turn.filter(|_| asked(&seen.reservation) != Ok(0)),
    };
    let verdict = outcome.map_or_else(|why| why, |()| Verdict::yes(reason::READY, has(&status)));
    let generation = seen.reservation.metadata.generation;
    condition::set(&mut status.conditions, READY, verdict, generation, seen.now);
    Step::Report(Box::new(status))
}

fn has(status: &DiskReservationStatus) -> String {
    let size = Size::from_bytes(size(status));
    let disk = status.node_disk.as_deref().unwrap_or("?");
    match &status.parent {
        Some(parent) => format!("{size} of reservation {} on {disk} are the role's", parent.name),
        None => format!("{size} of {disk} are the role's"),
    }
}

/// Why a reservation does not shrink to `wanted`: its volumes and refinements have more bytes (R6). Kept data gives way (X8).
fn below_used(status: &DiskReservationStatus, wanted: u64) -> Option<Verdict> {
    let live = status.volumes.iter().filter(|entry| entry.kept.is_none()).chain(&status.refinements);
    let live: Vec<&str> = live.map(|entry| entry.name.as_str()).collect();
    let (kept, wished) = (kept::bytes(status), Size::from_bytes(wanted));
    let needed = used(status).saturating_sub(kept);
    let why = match wanted < needed {
        true => format!(
            "{wished} is less than the {} that {} in it take; it keeps its {}, delete what is not needed any more first",
            Size::from_bytes(needed),
            names(&live, live.len()),
            Size::from_bytes(size(status))
        ),
        false => format!(
            "kept data of destroyed volumes, {} in all, gives way to the {wished} that it is to have: as much of it is erased as that \
             needs",
            Size::from_bytes(kept)
        ),
    };
    (wanted < used(status)).then(|| Verdict::no(reason::BELOW_USED, why))
}

/// Why a reservation with bytes cannot be used now: its disk or its parent is missing.
fn lost(seen: &Seen, status: &DiskReservationStatus) -> Option<Verdict> {
    let disk = seen.disk(status.node_disk.as_deref());
    match (&status.parent, &status.node_disk, disk) {
        (.., Some(disk)) if node_lifetime::has_left(disk) => disk_gone(disk, &seen.reservation, ITSELF),
        (Some(parent), ..) if seen.parent().is_none() => Some(Verdict::no(
            reason::NO_PARENT,
            format!(
                "DiskReservation {}, which it was carved out of, is not there any more; what lives in it stays",
                parent.name
            ),
        )),
        (None, Some(name), None) => Some(Verdict::no(
            reason::NO_SUCH_DISK,
            format!("NodeDisk {name} is not there any more; what is on the disk stays on it"),
        )),
        _ => disk.and_then(|disk| disk_gone(disk, &seen.reservation, ITSELF)),
    }
}

/// The reservation in the words about itself.
const ITSELF: &str = "the reservation";

/// Why a reservation gives no bytes to volumes or refinements: its disk was declared gone for good (D4), or went with its
/// node (D7). `who` is the reservation in the message.
fn disk_gone(disk: &NodeDisk, reservation: &DiskReservation, who: &str) -> Option<Verdict> {
    if node_lifetime::has_left(disk) {
        let (disk, node, spec) = (disk.name_any(), &disk.spec.node_name, &reservation.spec);
        let then = match (&spec.template, spec.node_disk.as_ref().or(spec.node_name.as_ref())) {
            _ if reservation.metadata.deletion_timestamp.is_some() => "goes".to_owned(),
            (Some(of), _) => {
                format!("of template {} of VolumeRole {} ends", of.name, of.volume_role)
            }
            (None, Some(place)) => {
                format!("waits for {place}, or for another placement in its spec,")
            }
            (None, None) => "is placed anew".to_owned(),
        };
        let message = format!(
            "node {node} left the cluster, and NodeDisk {disk} with it: {who} {then} once it is empty"
        );
        return Some(Verdict::no(reason::NODE_GONE, message));
    }
    let (disk, name) = (disk.spec.gone.then(|| disk.name_any())?, reservation.name_any());
    let message = format!(
        "NodeDisk {disk}, which DiskReservation {name} is on, was declared gone: delete the volumes and refinements of \
         DiskReservation {name}, then the reservation itself"
    );
    Some(Verdict::no(reason::DISK_GONE, message))
}

#[cfg(test)]
mod tests;
