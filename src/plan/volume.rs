//! The next step in the life of a volume that is not being deleted (V1, V6, V7, X5, X10).
//!
//! The order is: finalizer → entry in a reservation's ledger → place → report, resize, retire. The entry comes first
//! and carries the volume's UID, so after an interruption the next controller finds the entry. The volume's status
//! names its place, once. Two controllers may put one volume into two reservations. The later controller then sees the
//! place in the status, and releases its entry. The place of a volume that is born in it ([`super::birth`]) is written
//! together with the first report.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, BACKED, READY, RESIZED, RETIRING, Verdict, reason};
use crate::api::{
    BackingState, ClaimBinding, DiskReservation, LedgerEntry, NodeDisk, PodRef, SharedPersistentVolume,
    SharedPersistentVolumeStatus, Size, UidRef, VolumeClaim, VolumePhase,
};

use super::birth::reserved_chain;
use super::claim::Offers;
use super::holder::held_by_volume;
use super::own_pvc::{Fate, Own, fate, list, pvc_of};
use super::unbind::unbind;
use super::{
    LISTED_PODS, birth, copies, create, kept, names, namesake, node_lifetime, refs, resize, usage, verify,
};

/// The state around a volume's object.
#[derive(Debug)]
pub struct Seen {
    /// Our finalizer is on the object.
    pub guarded: bool,
    /// For an unplaced volume: all reservations. For a placed volume: its reservation, the ancestors of that
    /// reservation, and other reservations with an entry of the volume.
    pub reservations: Vec<Arc<DiskReservation>>,
    /// For an unplaced volume: all disks. For a placed volume: its disk.
    pub disks: Vec<Arc<NodeDisk>>,
    /// For an unplaced volume: the reservation with its entry, read live unless the volume may be born there; or the refusal of
    /// a reservation.
    pub entry: Option<Result<Arc<DiskReservation>, Verdict>>,
    /// For an unplaced volume that is to recover data: the name of another volume with that data, read live.
    pub owner: Option<String>,
    /// True if the reservation had lost the volume's entry, and the entry was restored.
    pub restored: bool,
    /// The volume's reservation, then its status, both read live; `None` before [`Step::LookToResize`].
    pub live: Option<(Option<DiskReservation>, Option<SharedPersistentVolumeStatus>)>,
    /// The node to which the volume's disk moved, read live (D3).
    pub moved_to: Option<String>,
    /// Claims in the volume's list that are gone, or bound to another volume.
    pub lost_claims: Vec<ClaimBinding>,
    /// UIDs of the claims in the volume's list that have pods on other nodes, which read a copy (E3).
    pub read_elsewhere: Vec<String>,
    /// Running and pending pods of the other claims in the volume's list.
    pub users: Vec<PodRef>,
    /// The PersistentVolumeClaim that the volume was made for. `None`: there is none, or the volume lists it and it is there.
    pub own: Option<Own>,
    /// Claims that wait for a volume that may become Ready, the oldest first.
    pub waiting: Vec<Waiting>,
    /// For a volume that has, or is to have, copies: the decision on them (E2).
    pub copies: copies::Plan,
    /// For a copy: its original, and the other copies (E2).
    pub family: Option<copies::Family>,
    /// True after [`Step::MakeRoom`].
    pub room_made: bool,
    /// The time.
    pub now: Timestamp,
}

/// A claim that waits for the volume by its name, from the caches.
#[derive(Debug)]
pub struct Waiting {
    /// The claim.
    pub claim: Arc<VolumeClaim>,
    /// The subscriptions and rivals that decide on the claim.
    pub offers: Offers,
    /// Running and pending pods that name the claim.
    pub users: Vec<PodRef>,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Erase kept data of the reservation of that name for so much free space (X8), and decide again.
    MakeRoom(String, kept::Wanted),
    /// Add the finalizer.
    Guard,
    /// Turn the volume into an ordinary volume, and publish the event (P4).
    Release(String),
    /// Retire exactly the volume that was read (P4, E2).
    Retire,
    /// Cancel the retirement of exactly the copy that was read, since it is wanted again (E2).
    Unretire,
    /// Take an entry in the ledger of the reservation of that name, and decide again.
    TakeEntry(String),
    /// Look again after a moment: the node is about to make the volume, or the turn of a copy is about to come. If its entry was
    /// taken just now, decide on the entry by [`fate_of_entry`], with this status: the volume may be gone, and nobody would look
    /// at the entry again.
    Await(Box<SharedPersistentVolumeStatus>),
    /// Write the status, which places the volume. If the write fails, decide on the entry by [`fate_of_entry`].
    Place(Box<SharedPersistentVolumeStatus>),
    /// Release the entry in the reservation of that name, since the volume is placed elsewhere, and decide again.
    ReleaseEntry(String),
    /// Restore the entry in the reservation of that name, unless the volume is being deleted; decide again.
    RestoreEntry(String, Box<LedgerEntry>),
    /// Read the reservation of that name live, then the volume, and decide again.
    LookToResize(String),
    /// Set the entry in exactly the reservation that was read live, and decide again.
    ResizeEntry(u64),
    /// Delete the PersistentVolumes of the lost claims, then write the status.
    Report(Box<SharedPersistentVolumeStatus>),
    /// Delete the volume, if the object is unchanged since the read that found no user (X5, D7, P4).
    Delete,
}

/// The next step.
pub fn next(volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Guard;
    }
    if let Some(Own::Gone(gone)) = &seen.own {
        match fate(volume, gone) {
            Fate::Destroy => return Step::Delete,
            Fate::Retire => return Step::Retire,
            Fate::Keep(event) => return Step::Release(event),
            Fate::Decided => {}
        }
    }
    let is_wanted = seen.family.as_ref().and_then(|family| copies::is_wanted(volume, family));
    match is_wanted {
        Some(false) if !volume.spec.retire => return Step::Retire,
        Some(true) if volume.spec.retire => return Step::Unretire,
        _ => {}
    }
    let stored = volume.status.as_ref();
    let placed = match &seen.entry {
        Some(Ok(reservation)) if stored.is_none_or(|status| status.reservation.is_none()) => {
            let status = birth::placed(volume, reservation, &seen.reservations);
            let placed = SharedPersistentVolume { status: Some(status.clone()), ..volume.clone() };
            let is_awaited = birth::is_awaited(volume, &status, seen.now)
                || seen.family.as_ref().is_some_and(|family| copies::is_awaited(&placed, family, seen.now));
            if is_awaited {
                return Step::Await(Box::new(status));
            }
            Some(placed)
        }
        _ => None,
    };
    let volume = placed.as_ref().unwrap_or(volume);
    let mut status = volume.status.clone().unwrap_or_default();
    status.source = seen.family.as_ref().and_then(|family| copies::source(volume, family));
    copies::report(&seen.copies, volume, &mut status, seen.now);
    status.access = Some(if volume.spec.shared.is_some() { "Shared" } else { "Exclusive" }.to_owned());
    let inherits = seen.reservations.iter().any(|r| create::inherits(volume, r));
    let (phase, verdict) = match status.reservation.clone() {
        // X10: no user can have used a volume without a place.
        None if volume.spec.retire && !inherits && seen.entry.is_none() => {
            (VolumePhase::Pending, unplaced_retires())
        }
        None => match place(volume, seen) {
            Ok(step) => return step,
            Err(why) => (VolumePhase::Pending, why),
        },
        Some(reservation) => {
            if let Some(step) = correct_entries(volume, &reservation, seen).filter(|_| placed.is_none()) {
                return step;
            }
            status.node_name = seen.moved_to.clone().or(status.node_name);
            status.reserved = reserved_chain(&status, &seen.reservations).unwrap_or(status.reserved);
            let sourced = SharedPersistentVolume { status: Some(status.clone()), ..volume.clone() };
            report(&sourced, disk_of(&status, seen), seen.family.as_ref())
        }
    };
    let disk_gone = disk_of(&status, seen).is_some_and(|disk| disk.spec.gone);
    unbind(&mut status, disk_gone, &seen.read_elsewhere, |claim| seen.lost_claims.contains(claim));
    let mut users = seen.users.clone();
    // O6: nobody binds to a volume that is not Ready. Its own PersistentVolumeClaim is listed by the write that says so.
    if let Some(Own::There(own, waiting)) = seen.own.as_ref().filter(|_| verdict.ok && !volume.spec.retire)
        && list(own, volume, &mut status)
    {
        users.extend_from_slice(waiting);
    }
    if verdict.ok && !seen.waiting.is_empty() {
        let mut ready = SharedPersistentVolume { status: Some(status.clone()), ..volume.clone() };
        let conditions = &mut ready.status.get_or_insert_default().conditions;
        condition::set(conditions, READY, verdict.clone(), volume.metadata.generation, seen.now);
        for waiting in &seen.waiting {
            // A refusal is left to the reconcile of the claim.
            if let Ok(bound) = waiting.offers.bind(&waiting.claim, &ready) {
                status.claims.clone_from(&bound.claims);
                ready.status = Some(bound);
                users.extend_from_slice(&waiting.users);
            }
        }
    }
    let mut status = count_users(status, users);
    status.phase = phase;
    // The entry of a volume without a place stays as it is.
    let sized = match if placed.is_some() { Ok(None) } else { resize(volume, &mut status, seen) } {
        Ok(sized) => sized,
        Err(step) => return step,
    };
    let (retiring, delete) = retire(volume, &status, seen.family.as_ref());
    let has_left = disk_of(&status, seen).is_some_and(node_lifetime::has_left);
    let has_ended = has_left && node_lifetime::has_ended(volume);
    let delete = delete || has_ended && status.claims.is_empty() && status.user_count == 0;
    for (type_, verdict) in [(READY, Some(verdict)), (RESIZED, sized), (RETIRING, retiring)] {
        if let Some(verdict) = verdict {
            let generation = volume.metadata.generation;
            condition::set(&mut status.conditions, type_, verdict, generation, seen.now);
        }
    }
    match delete && stored == Some(&status) {
        true => Step::Delete,
        false if placed.is_some() => Step::Place(Box::new(status)),
        false => Step::Report(Box::new(status)),
    }
}

/// CREATE (V1): the step that takes the entry of an unplaced volume, or the reason why no reservation is possible.
fn place(volume: &SharedPersistentVolume, seen: &Seen) -> Result<Step, Verdict> {
    if let Some(Err(why)) = &seen.entry {
        return Err(why.clone());
    }
    create::entry(volume)?;
    if let Some(owner) = &seen.owner {
        let why = format!(
            "the data that it is to recover is that of volume {owner}, which is there: claim that one"
        );
        return Err(Verdict::no(reason::NO_ORPHAN, why));
    }
    let (reservations, disks) = (refs(&seen.reservations), refs(&seen.disks));
    let chosen = create::choose(volume, &reservations, &disks);
    let is_full = |why: &Verdict| {
        [reason::RESERVATION_FULL, reason::TOO_MANY_VOLUMES, reason::SHARE_TAKEN].contains(&why.reason)
    };
    if chosen.as_ref().is_err_and(is_full)
        && !seen.room_made
        && let Some((of, wanted)) = create::room_of_kept(volume, &reservations, &disks)
    {
        return Ok(Step::MakeRoom(of.name_any(), wanted));
    }
    let chosen = chosen.map_err(|why| match kept::of_namesakes(volume, reservations).first() {
        Some((of, entry, kept)) if is_full(&why) => {
            let what = namesake::stays(of, entry, kept);
            Verdict { message: format!("{}; {what}", why.message), ..why }
        }
        _ => why,
    });
    Ok(Step::TakeEntry(chosen?.name_any()))
}

/// The step that makes the ledgers agree with the status of a placed volume.
fn correct_entries(volume: &SharedPersistentVolume, reservation: &UidRef, seen: &Seen) -> Option<Step> {
    let uid = volume.uid().unwrap_or_default();
    let is_own = |r: &DiskReservation| r.metadata.uid.as_ref() == Some(&reservation.uid);
    let foreign = seen.reservations.iter().find(|r| !is_own(r) && held_by_volume(r, &uid).is_some());
    if let Some(foreign) = foreign {
        return Some(Step::ReleaseEntry(foreign.name_any()));
    }
    // The reservation's object was made anew without the entry. The restored entry has the granted size of the volume.
    let lost = seen.reservations.iter().any(|r| is_own(r) && held_by_volume(r, &uid).is_none());
    let mut entry = create::entry(volume).ok().filter(|_| lost && !seen.restored)?;
    entry.size = volume.status.as_ref().and_then(|s| s.size.clone()).unwrap_or(entry.size);
    Some(Step::RestoreEntry(reservation.name.clone(), Box::new(entry)))
}

/// The fate of the entry of a volume whose place is not written.
#[derive(Debug, PartialEq)]
pub enum EntryFate {
    /// The volume needs the entry.
    Keep,
    /// Nobody needs the entry.
    End,
    /// Write this status of the volume, which is being deleted: its node may have bytes of it (S3).
    Place(Box<SharedPersistentVolumeStatus>),
}

/// The fate of the entry of a volume whose place could not be written, or not yet. Another controller may have placed the volume elsewhere,
/// or destroyed the volume without a look at the entry, or released an earlier entry of the volume. `now` was read live.
pub fn fate_of_entry(
    now: Option<&SharedPersistentVolume>,
    placed: &SharedPersistentVolumeStatus,
) -> EntryFate {
    let Some(now) = now else { return EntryFate::End };
    match now.status.as_ref().and_then(|status| status.reservation.as_ref()) {
        there @ Some(_) if there == placed.reservation.as_ref() && !has_no_bytes(now) => EntryFate::Keep,
        Some(_) => EntryFate::End,
        None if now.metadata.deletion_timestamp.is_none() => EntryFate::Keep,
        None if birth::node(now).is_some() => EntryFate::Place(Box::new(birth::with_place_of(placed, now))),
        None => EntryFate::End,
    }
}

/// True if nothing of a volume is left on its disk but its object, or the disk was given up.
fn has_no_bytes(volume: &SharedPersistentVolume) -> bool {
    let status = volume.status.as_ref();
    let is_erased = status.and_then(|s| s.node.as_ref()).is_some_and(|n| n.backing == BackingState::Erased);
    let is_given_up =
        status.and_then(|s| s.destroy.as_ref()).is_some_and(|d| d.disk_gone && d.tombstone.is_some());
    volume.metadata.deletion_timestamp.is_some() && (is_erased || is_given_up)
}

/// True if the volume has the data of that UID, or has recovered that data on its node (X6).
pub fn has_data_of(volume: &SharedPersistentVolume, uid: &str) -> bool {
    let recovered = volume.spec.recover.as_ref().is_some_and(|recover| recover.uid == uid);
    let node = volume.status.as_ref().and_then(|status| status.node.as_ref());
    volume.metadata.uid.as_deref() == Some(uid)
        || recovered && node.is_some_and(|node| node.backing == BackingState::Made)
}

fn disk_of<'a>(status: &SharedPersistentVolumeStatus, seen: &'a Seen) -> Option<&'a NodeDisk> {
    seen.disks.iter().map(AsRef::as_ref).find(|disk: &&NodeDisk| disk.metadata.name == status.node_disk)
}

/// The status with the pods that use the volume. Admission reads this list when a user deletes the volume (X1).
pub fn count_users(
    mut status: SharedPersistentVolumeStatus,
    mut users: Vec<PodRef>,
) -> SharedPersistentVolumeStatus {
    users.sort();
    users.dedup();
    status.claim_count = status.claims.len() as u32;
    status.user_count = users.len() as u32;
    status.namespaces = usage::by_namespace(&status.claims, &users);
    users.truncate(LISTED_PODS);
    status.users = users;
    status
}

/// True if the report changes nothing but the number and names of pods, and claims or others of them hold the volume anyhow (X1).
pub fn is_recount(volume: &SharedPersistentVolume, report: &SharedPersistentVolumeStatus) -> bool {
    let Some(before) = volume.status.as_ref().filter(|before| *before != report) else { return false };
    let SharedPersistentVolumeStatus { users, user_count, namespaces, .. } = before.clone();
    // The claims of a copy's readers are those of its original (E3).
    let is_held = !report.claims.is_empty() || user_count > 0 && report.user_count > 0;
    is_held && *before == SharedPersistentVolumeStatus { users, user_count, namespaces, ..report.clone() }
}

/// The next step of a resize, if that step changes the ledger. Otherwise the function writes the volume's part of the
/// resize to `status`, and returns the condition `Resized` (V7).
fn resize(
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
    seen: &Seen,
) -> Result<Option<Verdict>, Step> {
    let Some(own) = status.reservation.clone() else { return Ok(None) };
    let uid = volume.uid().unwrap_or_default();
    let is_own = |r: &&DiskReservation| r.metadata.uid.as_ref() == Some(&own.uid);
    // The stored status may have an older list of users than `status`.
    let counted = SharedPersistentVolume { status: Some(status.clone()), ..volume.clone() };
    let cached = || seen.reservations.iter().map(AsRef::as_ref).find(is_own);
    let reservation = match &seen.live {
        Some((reservation, _)) => reservation.as_ref().filter(is_own),
        None => cached(),
    };
    let entry = reservation.and_then(|r| held_by_volume(r, &uid));
    let ledger = entry.zip(reservation).map(|(entry, r)| resize::Ledger { entry, free: create::free(r) });
    let step = resize::next(&counted, ledger);
    match (step, &seen.live) {
        (resize::Step::Rest(Some(why)), _) if why.reason == reason::RESERVATION_FULL && !seen.room_made => {
            let bytes = volume.spec.size.bytes_or_zero().saturating_sub(entry.unwrap_or(0));
            let emptied = reservation.map(|r| create::without_kept(r, &[volume]));
            if let Some(reservation) =
                reservation.filter(|_| emptied.is_some_and(|r| create::free(&r) >= bytes))
            {
                let spared = kept::spared(volume, reservation);
                return Err(Step::MakeRoom(own.name, kept::Wanted { bytes, place: None, spared }));
            }
            return Ok(Some(why));
        }
        (resize::Step::Rest(verdict), _) => return Ok(verdict),
        (_, None) => return Err(Step::LookToResize(own.name)),
        (resize::Step::Grow(size), _) if entry < Some(size) => return Err(Step::ResizeEntry(size)),
        (resize::Step::Grow(size), _) => {
            (status.size, status.credit_due) = (Some(Size::from_bytes(size)), false);
        }
        (resize::Step::Lower(size), _) => {
            (status.size, status.credit_due) = (Some(Size::from_bytes(size)), true);
        }
        // The reservation was read before the volume, and the volume still has `creditDue`. A controller that grows the
        // volume first writes the reservation, which makes this write of the entry fail.
        (resize::Step::ShrinkEntry, Some((_, now))) => {
            let due =
                now.as_ref().filter(|now| now.credit_due).and_then(|now| now.size.as_ref()?.bytes().ok());
            if let Some(size) = due.filter(|size| Some(*size) < entry) {
                return Err(Step::ResizeEntry(size));
            }
        }
        (resize::Step::Settle, _) => status.credit_due = false,
    }
    // The write of the status causes the next decision, which reports.
    Ok(None)
}

/// RETIRE: a destruction that waits for the users, and can be withdrawn until then (X5). Returns the condition
/// `Retiring`, and true if the volume can be deleted now. `status` has the present users.
fn retire(
    volume: &SharedPersistentVolume,
    status: &SharedPersistentVolumeStatus,
    family: Option<&copies::Family>,
) -> (Option<Verdict>, bool) {
    let copies_used = status.copies.map_or(0, |copies| copies.used);
    let waits_for = match (status.claims.len(), status.user_count as usize) {
        _ if !volume.spec.retire => {
            let withdrawn = "the retirement was cancelled: claims bind to it as before";
            let before = condition::get(&status.conditions, RETIRING);
            return (before.map(|_| Verdict::no(reason::RETIRE_WITHDRAWN, withdrawn)), false);
        }
        (0, 0) if copies_used > 0 => {
            let are = if copies_used == 1 { "copy is" } else { "copies are" };
            format!("when no claim and no pod uses its copies: {copies_used} {are} in use")
        }
        (0, 0) => {
            let why = "nobody uses it any more: it is being destroyed";
            return (Some(Verdict::yes(reason::RETIRING, why)), true);
        }
        (0, users) => format!("after the end of pod {}", names(&status.users, users)),
        (claims, _) => format!("after the end of claim {}", names(&status.claims, claims)),
    };
    let keep = match &volume.spec.copy_of {
        Some(of) => {
            let original = family.and_then(|family| family.original.as_deref());
            copies::what_keeps(of, copies::keeper(volume, original))
        }
        None => "set spec.retire to false to keep it".to_owned(),
    };
    let why = format!("no new claim binds to it, and it is destroyed {waits_for}; {keep}");
    (Some(Verdict::yes(reason::RETIRING, why)), false)
}

/// The condition `Ready` of a volume that is retired before its placement.
fn unplaced_retires() -> Verdict {
    Verdict::no(reason::RETIRING, "the volume was retired before it was made: it is being destroyed")
}

/// Phase and condition `Ready` of a placed volume, from its node's report and the state of its disk.
fn report(
    volume: &SharedPersistentVolume,
    on: Option<&NodeDisk>,
    family: Option<&copies::Family>,
) -> (VolumePhase, Verdict) {
    let status = volume.status.clone().unwrap_or_default();
    let made = status.node.as_ref().is_some_and(|n| n.backing == BackingState::Made);
    let phase = if made { VolumePhase::Ready } else { VolumePhase::Creating };
    let disk = status.node_disk.as_deref().unwrap_or("?");
    // A volume that was never made has no data.
    let stays = |joint: &str| if made { format!("{joint} the data stays on it") } else { String::new() };
    let disk_trouble = on.and_then(|disk| disk.status.as_ref()).map(|on| {
        // The bytes of a volume are allocated already, so a disk without free space does not make the volume unready.
        let ready = condition::get(&on.conditions, READY);
        ready.filter(|c| c.status != "True" && c.reason != reason::SPACE_TAKEN)
    });
    let verdict = match (disk_trouble, condition::get(&status.conditions, BACKED)) {
        (None, _) => {
            Verdict::no(reason::DISK_NOT_READY, format!("NodeDisk {disk} is not there{}", stays(";")))
        }
        (Some(Some(c)), _) if c.reason == reason::NODE_GONE => Verdict::no(
            reason::NODE_GONE,
            format!(
                "its node left the cluster, and NodeDisk {disk} with it: the volume ends, and its data with it"
            ),
        ),
        (Some(Some(c)), _) if c.reason == reason::DISK_GONE => {
            let end = match &*status.claims {
                [] => "delete the volume".to_owned(),
                // The reclaim policy of a PersistentVolume decides about the volume of a StorageClass.
                claims => format!(
                    "delete what claims it, {}, after its pods, then the volume{}",
                    names(claims, claims.len()),
                    if pvc_of(volume).is_some() { ", if it stays" } else { "" }
                ),
            };
            let why = format!("NodeDisk {disk} was declared gone, and the data with it: {end}");
            Verdict::no(reason::VOLUME_GONE, why)
        }
        (Some(Some(c)), _) => Verdict::no(
            if c.reason == reason::NODE_UNREACHABLE {
                reason::NODE_UNREACHABLE
            } else {
                reason::DISK_NOT_READY
            },
            format!("NodeDisk {disk} is not ready{}: {}", stays(","), c.message),
        ),
        (_, Some(c)) if c.status != "True" => {
            let own = [reason::BACKING_LOST, reason::NO_ORPHAN].into_iter().find(|own| c.reason == *own);
            Verdict::no(own.unwrap_or(reason::BACKING_FAILED), c.message.clone())
        }
        // The node reports a copy together with its content.
        (_, backed)
            if let Some(unfinished) =
                copies::unfinished(volume, family).filter(|_| made || backed.is_none()) =>
        {
            unfinished
        }
        (_, Some(_)) if let Some(differs) = verify::differs(&status) => differs,
        (_, Some(_)) if made => Verdict::yes(
            reason::READY,
            format!(
                "{} on node {}{}",
                resize::size_now(volume),
                status.node_name.as_deref().unwrap_or("?"),
                if volume.spec.adopt.is_some() { "; its size is not enforced" } else { "" }
            ),
        ),
        _ => Verdict::no(
            reason::CREATING,
            format!("node {} is to make it", status.node_name.as_deref().unwrap_or("?")),
        ),
    };
    (phase, verdict)
}

#[cfg(test)]
mod tests;
