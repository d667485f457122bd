//! The objects that decide on a reservation, as read, and the ledgers from which the reservation takes its bytes (R1,
//! R4, Q2).

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::api::condition::{Verdict, reason};
use crate::api::{DiskReservation, DiskReservationStatus, LedgerEntry, NodeDisk, Role, Size, VolumeRole};

use super::entry::{ByName, entry_of, fits, goes};
use super::holder::{self, Holder, is_parent, serves};
use super::ledger::{Ledger, Refused};
use super::list_share::Entry;
use super::share::Outcome;
use super::{quota, refs};

/// The reservation and the objects that decide on the reservation, as read.
#[derive(Clone)]
pub struct Seen {
    /// The reservation.
    pub reservation: Arc<DiskReservation>,
    /// All disks. For a refinement that was read live, at least the disk of its parent.
    pub disks: Vec<Arc<NodeDisk>>,
    /// The reservation that `spec.parent` names.
    pub parent: Option<Arc<DiskReservation>>,
    /// The reservations in the ledger of refinements.
    pub refinements: Vec<Arc<DiskReservation>>,
    /// The reservations that the ledger of the outcome's disk lacks, if it [`is_new`](Holder::is_new) and all was read live.
    pub unlisted: Vec<DiskReservation>,
    /// All VolumeRoles.
    pub roles: Vec<Arc<VolumeRole>>,
    /// The share of the reservation; `None`: the sharing out has not included the reservation yet.
    pub outcome: Option<Outcome>,
    /// True if all objects except the refinements were read live, not from a cache.
    pub live: bool,
    /// True if entries were settled already.
    pub settled: bool,
    /// True after [`super::reservation::Step::MakeRoom`].
    pub room_made: bool,
    /// The time.
    pub now: Timestamp,
}

/// The object with a ledger of reservations, by kind and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerOf {
    /// A NodeDisk.
    Disk(String),
    /// A DiskReservation from which refinements are carved out.
    Parent(String),
    /// A VolumeRole with a quota.
    Role(String),
}

/// Evaluates the expression for the kind and the name of the object with the ledger.
macro_rules! of_kind {
    ($of:expr, |$name:ident: $Kind:ident| $value:expr) => {
        match $of {
            $crate::plan::reservation_seen::LedgerOf::Disk($name) => {
                type $Kind = $crate::api::NodeDisk;
                $value
            }
            $crate::plan::reservation_seen::LedgerOf::Parent($name) => {
                type $Kind = $crate::api::DiskReservation;
                $value
            }
            $crate::plan::reservation_seen::LedgerOf::Role($name) => {
                type $Kind = $crate::api::VolumeRole;
                $value
            }
        }
    };
}
pub(crate) use of_kind;

impl Seen {
    pub(super) fn status(&self) -> DiskReservationStatus {
        self.reservation.status.clone().unwrap_or_default()
    }

    pub(super) fn disk(&self, name: Option<&str>) -> Option<&NodeDisk> {
        self.disks.iter().find(|disk| disk.metadata.name.as_deref() == name).map(AsRef::as_ref)
    }

    /// The other reservations that the ledger of the disk lacks, with their bytes.
    pub(super) fn unlisted_on<'a>(
        &'a self,
        disk: &'a NodeDisk,
    ) -> impl Iterator<Item = (&'a DiskReservation, u64)> {
        let others = self.unlisted.iter().filter(|other| other.metadata.uid != self.reservation.metadata.uid);
        let lacking = others.filter(|other| disk.lacks(other));
        lacking.map(|other| (other, other.status.as_ref().map_or(0, holder::size)))
    }

    /// The parent of the reservation. An object that was made anew under the parent's name is not the parent.
    pub(super) fn parent(&self) -> Option<&DiskReservation> {
        self.parent.as_deref().filter(|parent| is_parent(parent, &self.reservation))
    }

    /// The ledgers of disks and of the parent that `selects` accepts.
    fn sources(
        &self,
        selects: impl Fn(&NodeDisk) -> bool,
        parent: impl Fn(&DiskReservation) -> bool,
    ) -> Vec<LedgerOf> {
        let disks =
            self.disks.iter().filter(|disk| selects(disk)).map(|disk| LedgerOf::Disk(disk.name_any()));
        let parent = self.parent().filter(|of| parent(of)).map(|parent| LedgerOf::Parent(parent.name_any()));
        disks.chain(parent).collect()
    }

    /// The ledgers that have an entry of the reservation.
    pub fn holders(&self) -> Vec<LedgerOf> {
        let uid = self.reservation.uid().unwrap_or_default();
        let roles = self.roles.iter().filter(|role| role.ledger().get(&uid).is_some());
        let mut holders = self.sources(|disk| has(disk, &uid), |parent| has(parent, &uid));
        holders.extend(roles.map(|role| LedgerOf::Role(role.name_any())));
        holders
    }

    /// The entries that need settling: those of refinements, and the reservation's own entry if lost, too small, too
    /// large, or in the wrong ledger.
    pub(super) fn unsettled(&self) -> Vec<(LedgerOf, Vec<LedgerEntry>)> {
        let reservation = &*self.reservation;
        let of_refinements = ByName::new(refs(&self.refinements)).unsettled(reservation);
        let own = LedgerOf::Parent(reservation.name_any());
        let mut unsettled: Vec<_> =
            Some((own, of_refinements)).into_iter().filter(|(_, entries)| !entries.is_empty()).collect();
        // An entry of a waiting reservation for its present spec stays: it may belong to another controller that is about
        // to continue from there.
        if !goes(reservation) {
            let misfits = self
                .sources(|disk| !fits(disk, reservation, None), |parent| !fits(parent, reservation, None));
            unsettled.extend(misfits.into_iter().map(|of| (of, vec![entry_of(reservation, 0)])));
        }
        unsettled
    }
}

/// True if the ledger has an entry of that UID.
fn has<H: Holder<DiskReservation>>(holder: &H, uid: &str) -> bool {
    holder.ledger().get(uid).is_some()
}

/// Why a ledger gives no entry; `None`: the reason is not known yet.
pub type Refusal = Option<Verdict>;

/// Refuses an entry for an earlier spec than the one in the ledger: the controller is behind.
fn ensure_not_behind<H: Holder<DiskReservation>>(holder: &H, entry: &LedgerEntry) -> Result<(), Refusal> {
    let ledger = holder.ledger();
    let is_later = |held: &&LedgerEntry| held.uid == entry.uid && held.generation > entry.generation;
    ledger.entries().iter().find(is_later).map_or(Ok(()), |_| Err(None))
}

/// A holder from which a reservation takes an entry.
pub trait Gives: Holder<DiskReservation> + Resource + Sized {
    /// The ledger with the entry added, for the reservation in `seen`.
    fn give(&self, seen: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal>;
    /// The object of that name in `seen`.
    fn slot<'a>(seen: &'a mut Seen, name: &str) -> Option<&'a mut Arc<Self>>;

    /// Replaces the object in `seen` by the written object. Without a written object, `seen` counts as not live.
    fn see(name: &str, written: Option<Self>, seen: &mut Seen) {
        seen.live = written.is_some_and(|written| Self::see_settled(name, written, seen));
    }

    /// Replaces the object in `seen` by the settled object. Returns false if `seen` lacks the object.
    fn see_settled(name: &str, now: Self, seen: &mut Seen) -> bool {
        let slot = Self::slot(seen, name).filter(|slot| slot.meta().uid == now.meta().uid);
        slot.map(|slot| *slot = Arc::new(now)).is_some()
    }
}

impl Gives for NodeDisk {
    fn give(&self, seen: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal> {
        ensure_not_behind(self, entry)?;
        let size = self.at_most(&*seen.reservation, entry.size.bytes_or_zero());
        let entry = LedgerEntry { size: Size::from_bytes(size), ..entry.clone() };
        match self.spec.gone {
            true => Err(None),
            false => {
                let mut ledger = holder::ledger_for(self, &seen.reservation);
                for (other, bytes) in seen.unlisted_on(self) {
                    ledger = ledger.set_within(entry_of(other, bytes), bytes, u64::MAX);
                }
                ledger.take(entry).map_err(|_| None)
            }
        }
    }

    fn slot<'a>(seen: &'a mut Seen, name: &str) -> Option<&'a mut Arc<Self>> {
        seen.disks.iter_mut().find(|disk| disk.metadata.name.as_deref() == Some(name))
    }
}

/// R4: the parent has its bytes, its role is a strict ancestor, and enough bytes are free.
impl Gives for DiskReservation {
    fn give(&self, seen: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal> {
        let refuse = |reason, message| Err(Some(Verdict::no(reason, message)));
        let (name, role, theirs) = (self.name_any(), &entry.role, &self.spec.role);
        ensure_not_behind(self, entry)?;
        // The status of the reservation will name the parent in `seen`, so the present object must be the same one.
        if seen.parent().map(|parent| &parent.metadata.uid) != Some(&self.metadata.uid) {
            return Err(Some(no_parent(&name)));
        }
        if role == theirs || !Role::name_covers(theirs, role) {
            // A role of the first level has no ancestor.
            let or = match role.contains('/') {
                true => format!(", or with a reservation of an ancestor of role {role}"),
                false => String::new(),
            };
            return refuse(
                reason::NOT_A_SUB_ROLE,
                format!(
                    "DiskReservation {name} is for role {theirs}, and role {role} is no sub-role of that; \
                     make it anew without spec.parent{or}"
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
        // An undivided parent is given as a whole (D2).
        let size = self.at_most(&*seen.reservation, entry.size.bytes_or_zero());
        let asked = seen.reservation.spec.size.bytes_or_zero();
        Holder::<DiskReservation>::ledger(self)
            .take(LedgerEntry { size: Size::from_bytes(size), ..entry.clone() })
            .or_else(|refused| match refused {
                Refused::Short { free, missing } => refuse(
                    reason::PARENT_FULL,
                    format!(
                        "{} asked for: DiskReservation {name} has {} left, {} too little; \
                         it is served when space is free in it",
                        Size::from_bytes(asked),
                        Size::from_bytes(free),
                        Size::from_bytes(missing)
                    ),
                ),
                Refused::Full(full) => {
                    let object = format!("DiskReservation {name}");
                    let why = full.why(&object, "volumes and reservations", theirs, Entry::for_role(role));
                    let message = format!("{why}; delete some that are not needed");
                    refuse(full.reason(reason::TOO_MANY_RESERVATIONS), message)
                }
            })
    }

    fn slot<'a>(seen: &'a mut Seen, name: &str) -> Option<&'a mut Arc<Self>> {
        let own = seen.reservation.metadata.name.as_deref() == Some(name);
        if own { Some(&mut seen.reservation) } else { seen.parent.as_mut() }
    }
}

impl Gives for VolumeRole {
    fn give(&self, seen: &Seen, entry: &LedgerEntry) -> Result<Ledger<'_>, Refusal> {
        ensure_not_behind(self, entry)?;
        let ledger = self.ledger();
        match (quota::has_quota(self), quota::is_current(self)) {
            (false, _) => Ok(ledger),
            (true, false) => Err(None),
            (true, true) => {
                let held = ledger.get(&entry.uid);
                let more = entry.size.bytes_or_zero().saturating_sub(held.unwrap_or(0));
                let new = held.is_none().then_some(&*entry.role);
                let ledgers = quota::ledgers(&refs(&seen.roles));
                let taken = quota::taken(self, &entry.role, ledger.total(), &ledgers);
                let refusal = quota::refusal(self, new, &taken, more);
                refusal.map_or_else(|| ledger.take(entry.clone()).map_err(|_| None), |why| Err(Some(why)))
            }
        }
    }

    fn slot<'a>(seen: &'a mut Seen, name: &str) -> Option<&'a mut Arc<Self>> {
        seen.roles.iter_mut().find(|role| role.metadata.name.as_deref() == Some(name))
    }
}

/// The refusal for a missing parent.
pub(super) fn no_parent(name: &str) -> Verdict {
    let message =
        format!("there is no DiskReservation {name} to carve it out of; make it, or leave spec.parent out");
    Verdict::no(reason::NO_PARENT, message)
}
