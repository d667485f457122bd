//! RESERVE, UNRESERVE and all that lies between: the machine of a `DiskReservation` (R1, R4, R6, Q2).
//!
//! [`next`] decides one step at a time. The order of the steps keeps S1 and the limits at every revision:
//!
//! - To reserve and to grow: an entry in each VolumeRole with a quota that counts the bytes, then the entry in the
//!   NodeDisk, or for a refinement in its parent, then the status of the reservation.
//! - To shrink: the status, which has what lives in the reservation and is written by compare-and-swap, then the entries.
//! - To unreserve: the entries, then the finalizer.
//!
//! An entry carries the UID of its reservation, so a controller that dies in between finds the entry again. The entry of
//! a reservation that waits stays until the reservation is served or deleted: another controller may be about to go on
//! from there.
//!
//! A guarantee spans all disks, and no single object decides it. It is decided on live reads, for one reservation at a
//! time. Two controllers that both believe to lead can overshoot a guarantee; never S1, and never a limit.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, READY, RESIZED, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, FINALIZER, LedgerEntry, NodeDisk, ReservationPhase, Role, Size,
    UidRef, VolumeRole,
};

use super::candidate::free_space;
use super::entry::{entry, fits, is_parent, is_placed};
use super::holder::{self, Holder, serves, size, used, with_sums};
use super::ledger::Ledger;
use super::share::Outcome;
use super::{names, quota, release};

/// What was seen of a reservation and of the objects that decide on it.
#[derive(Clone)]
pub struct Seen {
    /// The reservation.
    pub reservation: Arc<DiskReservation>,
    /// All disks; for a refinement that was read live, at least the disk of its parent.
    pub disks: Vec<Arc<NodeDisk>>,
    /// The reservation that `spec.parent` names.
    pub parent: Option<Arc<DiskReservation>>,
    /// All VolumeRoles.
    pub roles: Vec<Arc<VolumeRole>>,
    /// The share that it is given; `None`: the sharing out has not looked at it yet.
    pub outcome: Option<Outcome>,
    /// All of these were read live, not from a cache.
    pub live: bool,
    /// Its entries were settled after that.
    pub settled: bool,
    /// The time.
    pub now: Timestamp,
}

/// The object with a ledger, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerOf {
    /// A NodeDisk.
    Disk(String),
    /// The DiskReservation that a refinement is carved out of.
    Parent(String),
    /// A VolumeRole with a quota.
    Role(String),
}

/// The next step for a reservation.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Put our finalizer on the reservation.
    AddFinalizer,
    /// Read everything live, and decide again.
    ReadLive,
    /// Take the entry from the ledger, by [`Gives::give`] on the object as it is then; when that refuses, read live.
    Take(LedgerOf, LedgerEntry),
    /// Settle the entries in these ledgers by [`super::entry::settled`].
    Settle(Vec<LedgerOf>),
    /// Write the status. When that fails, settle the entries in [`Seen::holders`]: whoever let the reservation go may not
    /// have seen them.
    Report(Box<DiskReservationStatus>),
    /// Release the entries in these ledgers.
    Release(Vec<LedgerOf>),
    /// Take our finalizer off the reservation, which is the last thing that is done for it.
    RemoveFinalizer,
    /// The caches are behind: look again in a moment.
    LookAgain,
    /// Nothing, until something changes.
    Rest,
}

/// The next step.
pub fn next(seen: &Seen) -> Step {
    let reservation = &*seen.reservation;
    let guarded = reservation.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    match (reservation.metadata.deletion_timestamp.is_some(), guarded) {
        (true, false) => Step::Rest,
        (true, true) => unreserve(seen),
        (false, false) => Step::AddFinalizer,
        (false, true) if is_placed(reservation) => keep(seen),
        (false, true) => reserve(seen),
    }
}

fn reserve(seen: &Seen) -> Step {
    match take(seen) {
        Taking::Do(step) => step,
        Taking::Later => Step::Rest,
        Taking::Waits(why) => seen.report(seen.status(), Err(why)),
        Taking::Has(status) => {
            let lost = lost(seen, &status);
            seen.report(*status, lost.map_or(Ok(()), Err))
        }
    }
}

/// A reservation that has its bytes is never moved, whatever becomes of its disk.
fn keep(seen: &Seen) -> Step {
    let misfits = seen.misfits();
    if !seen.settled && !misfits.is_empty() {
        return Step::Settle(misfits);
    }
    let mut status = seen.status();
    let lost = lost(seen, &status);
    let node = seen.disk(status.node_disk.as_deref()).map(|disk| &disk.spec.node_name);
    let moved = node.filter(|node| status.node_name.as_ref().is_some_and(|known| known != *node)).cloned();
    // A cache that is behind moves nothing (D3), and makes nothing vanish.
    if !seen.live && (moved.is_some() || lost.as_ref().is_some_and(|why| why.reason != reason::DISK_GONE)) {
        return Step::ReadLive;
    }
    status.node_name = moved.or(status.node_name);
    match lost {
        Some(why) => seen.report(status, Err(why)),
        None => resize(seen, &mut status).unwrap_or_else(|| seen.report(status, Ok(()))),
    }
}

/// R6: to grow takes first and reports afterwards; to shrink reports first and releases afterwards.
fn resize(seen: &Seen, status: &mut DiskReservationStatus) -> Option<Step> {
    let has = size(status);
    let wanted = entry(&seen.reservation).map(|entry| entry.size.bytes_or_zero());
    let resized = match wanted.map(|wanted| (wanted, wanted.cmp(&has))) {
        Err(why) => Err(why),
        Ok((_, Ordering::Equal)) if condition::get(&status.conditions, RESIZED).is_none() => return None,
        Ok((_, Ordering::Equal)) => Ok(has),
        Ok((wanted, Ordering::Less)) => below_used(status, wanted).map_or(Ok(wanted), Err),
        Ok((_, Ordering::Greater)) => match take(seen) {
            Taking::Do(step) => return Some(step),
            Taking::Later => return None,
            Taking::Waits(why) => Err(why),
            Taking::Has(taken) => Ok(size(&taken).max(has)),
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

/// Nothing is put into a reservation that is being deleted, so one that was read live and is empty stays empty. The
/// entries go before the finalizer: a reservation that is gone never weighs on its disk. Bytes of a refinement go back to
/// its parent, never to the disk (R4).
fn unreserve(seen: &Seen) -> Step {
    let status = seen.status();
    if let Some(why) = release::reservation_held(&status) {
        return seen.report(status, Err(why));
    }
    match seen.holders() {
        _ if !seen.live => Step::ReadLive,
        holders if holders.is_empty() => Step::RemoveFinalizer,
        holders => Step::Release(holders),
    }
}

/// How far a reservation is with the bytes that it asks for.
enum Taking {
    /// The entries are there: the status to be written.
    Has(Box<DiskReservationStatus>),
    /// A step comes first.
    Do(Step),
    /// It waits.
    Waits(Verdict),
    /// Nothing can be said yet.
    Later,
}

fn take(seen: &Seen) -> Taking {
    let entry = match entry(&seen.reservation) {
        Ok(entry) => entry,
        Err(why) => return Taking::Waits(why),
    };
    match (&seen.reservation.spec.parent, &seen.outcome) {
        (None, None) => Taking::Later,
        (None, Some(Outcome::Wait(why))) => Taking::Waits(why.clone()),
        _ if !seen.live => Taking::Do(Step::ReadLive),
        (None, Some(Outcome::Serve(disk))) => take_from_disk(seen, disk, entry),
        (Some(parent), _) => take_from_parent(seen, parent, entry),
    }
}

/// The sharing out chose the disk from the caches. Where live reads refuse, the caches are behind.
fn take_from_disk(seen: &Seen, name: &str, entry: LedgerEntry) -> Taking {
    let placed = is_placed(&seen.reservation);
    // An entry that no cache has seen yet says where a reservation is to be.
    let taken = seen.disks.iter().find(|disk| !placed && disk.ledger().get(&entry.uid).is_some());
    let Some(disk) = taken.map(AsRef::as_ref).or(seen.disk(Some(name))) else {
        return Taking::Do(Step::LookAgain);
    };
    let wanted = disk.at_most(&*seen.reservation, entry.size.bytes_or_zero());
    let held = disk.ledger().get(&entry.uid);
    if let Some(held) = held.filter(|held| !placed || *held >= wanted) {
        return Taking::Has(Box::new(DiskReservationStatus {
            node_disk: Some(disk.name_any()),
            node_name: Some(disk.spec.node_name.clone()),
            disk_kind: Some(disk.spec.kind),
            size: Some(Size::from_bytes(held.min(wanted))),
            ..seen.status()
        }));
    }
    let free = seen.disks.iter().map(|disk| free_space(disk)).fold(0, u64::saturating_add);
    let more = wanted.saturating_sub(held.unwrap_or(0));
    if quota::guaranteed(&entry.role, more, free, &quota::ledgers(&seen.roles())).is_some() {
        return Taking::Do(Step::LookAgain);
    }
    let entry = LedgerEntry { size: Size::from_bytes(wanted), ..entry };
    Taking::Do(seen.take(LedgerOf::Disk(disk.name_any()), disk, entry).unwrap_or(Step::LookAgain))
}

/// A refinement has no part in the sharing out: nobody else's free space gets less.
fn take_from_parent(seen: &Seen, name: &str, entry: LedgerEntry) -> Taking {
    let Some(parent) = seen.parent() else { return Taking::Waits(no_parent(name)) };
    let in_parent = parent.status.clone().unwrap_or_default();
    let wanted = parent.at_most(&*seen.reservation, entry.size.bytes_or_zero());
    let held = holder::refinements(&in_parent).get(&entry.uid);
    if let Some(held) = held.filter(|held| !is_placed(&seen.reservation) || *held >= wanted) {
        return Taking::Has(Box::new(DiskReservationStatus {
            size: Some(Size::from_bytes(held.min(wanted))),
            parent: Some(UidRef { name: name.to_owned(), uid: parent.uid().unwrap_or_default() }),
            node_disk: in_parent.node_disk,
            node_name: in_parent.node_name,
            disk_kind: in_parent.disk_kind,
            ..seen.status()
        }));
    }
    if let Some(why) = seen.disk(in_parent.node_disk.as_deref()).and_then(|disk| disk_gone(disk, parent)) {
        return Taking::Waits(why);
    }
    let entry = LedgerEntry { size: Size::from_bytes(wanted), ..entry };
    match seen.take(LedgerOf::Parent(name.to_owned()), parent, entry) {
        Ok(step) => Taking::Do(step),
        Err(refused) => refused.map_or(Taking::Later, Taking::Waits),
    }
}

impl Seen {
    fn status(&self) -> DiskReservationStatus {
        self.reservation.status.clone().unwrap_or_default()
    }

    fn disk(&self, name: Option<&str>) -> Option<&NodeDisk> {
        self.disks.iter().find(|disk| disk.metadata.name.as_deref() == name).map(AsRef::as_ref)
    }

    fn roles(&self) -> Vec<&VolumeRole> {
        self.roles.iter().map(AsRef::as_ref).collect()
    }

    /// The reservation that this one is, or is to be, carved out of: none that was made anew under the old name.
    fn parent(&self) -> Option<&DiskReservation> {
        self.parent.as_deref().filter(|parent| is_parent(parent, &self.reservation))
    }

    /// The ledgers that have an entry of the reservation.
    pub fn holders(&self) -> Vec<LedgerOf> {
        let uid = self.reservation.uid().unwrap_or_default();
        let roles = self.roles.iter().filter(|role| role.ledger().get(&uid).is_some());
        let in_parent = |parent: &&DiskReservation| {
            parent.status.as_ref().is_some_and(|status| holder::refinements(status).get(&uid).is_some())
        };
        let parent = self.parent().filter(in_parent).map(|parent| LedgerOf::Parent(parent.name_any()));
        let disks = self.disks.iter().filter(|disk| disk.ledger().get(&uid).is_some());
        let disks = disks.map(|disk| LedgerOf::Disk(disk.name_any()));
        disks.chain(parent).chain(roles.map(|role| LedgerOf::Role(role.name_any()))).collect()
    }

    /// The ledgers of disks and of the parent in which the entry is lost, too small, too large, or not where it belongs.
    fn misfits(&self) -> Vec<LedgerOf> {
        let reservation = &*self.reservation;
        let disks = self.disks.iter().filter(|disk| !fits(&***disk, reservation, None));
        let parent = self.parent().filter(|parent| !fits(*parent, reservation, None));
        let disks = disks.map(|disk| LedgerOf::Disk(disk.name_any()));
        disks.chain(parent.map(|parent| LedgerOf::Parent(parent.name_any()))).collect()
    }

    /// The step that takes the entry from `holder`, or first from a VolumeRole that lacks it; from none while one of them
    /// refuses.
    fn take<H: Gives>(&self, of: LedgerOf, holder: &H, entry: LedgerEntry) -> Result<Step, Refusal> {
        let (role, parent) = (&self.reservation.spec.role, self.parent().map(|p| p.spec.role.as_str()));
        let mut charged: Vec<&VolumeRole> =
            quota::ledgers(&self.roles()).into_iter().map(|(r, _)| r).collect();
        charged.retain(|charged| quota::charges(&charged.spec.role, role, parent));
        holder.give(self, &entry)?;
        for role in &charged {
            role.give(self, &entry)?;
        }
        let lacks =
            |role: &&&VolumeRole| role.ledger().get(&entry.uid).unwrap_or(0) < entry.size.bytes_or_zero();
        let first = charged.iter().find(lacks).map(|role| LedgerOf::Role(role.name_any()));
        Ok(Step::Take(first.unwrap_or(of), entry))
    }

    /// The step that writes the status: `Ready`, or why not.
    fn report(&self, mut status: DiskReservationStatus, outcome: Result<(), Verdict>) -> Step {
        let is_deleted = self.reservation.metadata.deletion_timestamp.is_some();
        status.phase = match outcome {
            _ if is_deleted => ReservationPhase::Releasing,
            Ok(()) => ReservationPhase::Reserved,
            Err(_) => ReservationPhase::Pending,
        };
        if status.node_disk.is_some() {
            status = with_sums(status);
        }
        let verdict = outcome.map_or_else(|why| why, |()| Verdict::yes(reason::READY, has(&status)));
        let generation = self.reservation.metadata.generation;
        condition::set(&mut status.conditions, READY, verdict, generation, self.now);
        Step::Report(Box::new(status))
    }
}

/// Why a ledger gives nothing; `None`: that is not known yet.
pub type Refusal = Option<Verdict>;

/// A holder from which a reservation takes an entry.
pub trait Gives: Holder<DiskReservation> + Sized {
    /// The ledger with the entry of the reservation that was seen.
    fn give(&self, seen: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal>;
    /// The object of that name among what was seen.
    fn slot<'a>(seen: &'a mut Seen, name: &str) -> Option<&'a mut Arc<Self>>;
}

impl Gives for NodeDisk {
    fn give(&self, seen: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal> {
        let size = self.at_most(&*seen.reservation, entry.size.bytes_or_zero());
        let entry = LedgerEntry { size: Size::from_bytes(size), ..entry.clone() };
        match self.spec.gone {
            true => Err(None),
            false => holder::ledger_for(self, &seen.reservation).take(entry).map_err(|_| None),
        }
    }

    fn slot<'a>(seen: &'a mut Seen, name: &str) -> Option<&'a mut Arc<Self>> {
        seen.disks.iter_mut().find(|disk| disk.metadata.name.as_deref() == Some(name))
    }
}

/// R4: the parent serves, its role is a strict ancestor's, and it has that many bytes left.
impl Gives for DiskReservation {
    fn give(&self, seen: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal> {
        let refuse = |reason, message| Err(Some(Verdict::no(reason, message)));
        let (name, role, theirs) = (self.name_any(), &entry.role, &self.spec.role);
        // The status of the reservation names the one that was looked at.
        if seen.parent().map(|parent| &parent.metadata.uid) != Some(&self.metadata.uid) {
            return Err(Some(no_parent(&name)));
        }
        if role == theirs || !Role::name_covers(theirs, role) {
            return refuse(
                reason::NOT_A_SUB_ROLE,
                format!(
                    "DiskReservation {name} is for role {theirs}, and role {role} is no sub-role of that; \
                     delete this one and carve it out of one of an ancestor's"
                ),
            );
        }
        if !serves(self) {
            let state = match self.metadata.deletion_timestamp {
                Some(_) => "is being deleted",
                None => "is itself still waiting",
            };
            let message = format!("DiskReservation {name}, which it is to be carved out of, {state}");
            return refuse(reason::PARENT_NOT_RESERVED, message);
        }
        // What is handed out as one piece stays one piece (D2).
        let size = self.at_most(&*seen.reservation, entry.size.bytes_or_zero());
        let asked = seen.reservation.spec.size.bytes_or_zero();
        Holder::<DiskReservation>::ledger(self)
            .take(LedgerEntry { size: Size::from_bytes(size), ..entry.clone() })
            .or_else(|short| {
                refuse(
                    reason::PARENT_FULL,
                    format!(
                        "{} asked for: DiskReservation {name} has {} left, {} too little; \
                         it is served when room appears in it",
                        Size::from_bytes(asked),
                        Size::from_bytes(short.free),
                        Size::from_bytes(short.missing)
                    ),
                )
            })
    }

    fn slot<'a>(seen: &'a mut Seen, _: &str) -> Option<&'a mut Arc<Self>> {
        seen.parent.as_mut()
    }
}

impl Gives for VolumeRole {
    fn give(&self, _: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal> {
        let ledger = self.ledger();
        match (quota::has_quota(self), quota::is_current(self)) {
            (false, _) => Ok(ledger),
            (true, false) => Err(None),
            (true, true) => {
                let held = ledger.get(&entry.uid).unwrap_or(0);
                let more = entry.size.bytes_or_zero().saturating_sub(held);
                let over = quota::over_limit(self, ledger.total(), more);
                over.map_or_else(|| ledger.take(entry.clone()).map_err(|_| None), |why| Err(Some(why)))
            }
        }
    }

    fn slot<'a>(seen: &'a mut Seen, name: &str) -> Option<&'a mut Arc<Self>> {
        seen.roles.iter_mut().find(|role| role.metadata.name.as_deref() == Some(name))
    }
}

fn has(status: &DiskReservationStatus) -> String {
    let size = Size::from_bytes(size(status));
    let disk = status.node_disk.as_deref().unwrap_or("?");
    match &status.parent {
        Some(parent) => format!("{size} of reservation {} on {disk} are the role's", parent.name),
        None => format!("{size} of {disk} are the role's"),
    }
}

/// Why a reservation does not shrink to `wanted`: volumes and refinements have more (R6).
fn below_used(status: &DiskReservationStatus, wanted: u64) -> Option<Verdict> {
    let entries: Vec<&str> =
        status.volumes.iter().chain(&status.refinements).map(|entry| entry.name.as_str()).collect();
    (wanted < used(status)).then(|| {
        Verdict::no(
            reason::BELOW_USED,
            format!(
                "{} is less than the {} that {} in it take; it keeps its {}, delete what is not needed any more first",
                Size::from_bytes(wanted),
                Size::from_bytes(used(status)),
                names(&entries, entries.len()),
                Size::from_bytes(size(status))
            ),
        )
    })
}

/// Why a reservation that has its bytes serves nobody now: its disk or its parent is not there any more.
fn lost(seen: &Seen, status: &DiskReservationStatus) -> Option<Verdict> {
    let disk = seen.disk(status.node_disk.as_deref());
    match (&status.parent, &status.node_disk, disk) {
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
        _ => disk.and_then(|disk| disk_gone(disk, &seen.reservation)),
    }
}

/// Why nothing is served by a reservation, nor carved out of it: its disk was declared gone, which is for good (D4).
fn disk_gone(disk: &NodeDisk, reservation: &DiskReservation) -> Option<Verdict> {
    let (disk, name) = (disk.spec.gone.then(|| disk.name_any())?, reservation.name_any());
    let message = format!(
        "NodeDisk {disk}, which DiskReservation {name} is on, was declared gone: delete the volumes and refinements of \
         DiskReservation {name}, then the reservation itself"
    );
    Some(Verdict::no(reason::DISK_GONE, message))
}

fn no_parent(name: &str) -> Verdict {
    let message =
        format!("there is no DiskReservation {name} to carve it out of; make it, or leave spec.parent out");
    Verdict::no(reason::NO_PARENT, message)
}
