//! The free space of disks and the quotas of roles, during the sharing out (Q2, Q5).

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict};
use crate::api::{DiskReservation, LedgerEntry, NodeDisk, Size, VolumeRole};

use super::candidate::{Candidate, free_space, is_ready};
use super::entry::is_placed;
use super::holder::{is_on, size};
use super::list_share::{Entry, Full, full_for};
use super::queue::Request;
use super::{allocatable, orphans, quota, undivided};

/// The reservation for which free space is held back.
#[derive(Clone, Copy)]
pub(super) struct Hold<'a> {
    pub holder: &'a DiskReservation,
    /// The end of the reservation's turn; `None`: the reservation is within the guarantee of its role.
    pub until: Option<Timestamp>,
}

/// The words of a hold before the name of its reservation.
const KEPT_FOR: &str = "kept for reservation ";

/// The name of the reservation for which space is held back, in the words of a refusal.
pub fn kept_for(said: &str) -> Option<&str> {
    said.split_once(KEPT_FOR)?.1.split([' ', ',']).next()
}

impl fmt::Display for Hold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, role) = (self.holder.name_any(), &self.holder.spec.role);
        match self.until {
            Some(until) => write!(f, "{KEPT_FOR}{name} of role {role} until {until}"),
            None => write!(f, "{KEPT_FOR}{name}, within the guarantee of role {role}"),
        }
    }
}

/// A reservation on a disk.
struct Held<'a> {
    role: &'a str,
    bytes: u64,
    /// The generation of the reservation that the bytes were taken for.
    generation: Option<i64>,
}

/// A disk during the sharing out.
pub(super) struct DiskSpace<'a> {
    pub disk: &'a NodeDisk,
    pub name: String,
    pub ready: bool,
    /// Allocatable bytes, without the bytes of orphans.
    pub allocatable: u64,
    pub free: u64,
    /// The reservations on the disk, by UID.
    entries: BTreeMap<&'a str, Held<'a>>,
    /// The hold on the disk's free space, and the bytes that other requests may still take.
    hold: Option<(Hold<'a>, u64)>,
}

impl<'a> Held<'a> {
    fn of(entry: &'a LedgerEntry) -> Self {
        Self { role: &entry.role, bytes: entry.size.bytes_or_zero(), generation: entry.generation }
    }
}

/// Leaves to reservations the bytes that the ledger of their disk lacks, as that of a NodeDisk that was made anew: their entries come
/// before new ones (S1, X9).
pub(super) fn leave_to_unlisted(disks: &mut [DiskSpace], reservations: &[&DiskReservation]) {
    let named = disks.iter_mut().filter_map(|space| {
        let disk = space.disk;
        Some((disk.metadata.name.as_deref()?, space))
    });
    let mut by_name: HashMap<&str, &mut DiskSpace> = named.collect();
    for reservation in reservations {
        let Some(status) = &reservation.status else { continue };
        let on = status.node_disk.as_ref().and_then(|name| by_name.get_mut(name.as_str()));
        let uid = reservation.metadata.uid.as_deref().unwrap_or_default();
        if let Some(space) = on.filter(|on| is_on(reservation, on.disk) && on.held_by(uid).is_none()) {
            space.free = space.free.saturating_sub(size(status));
        }
    }
}

impl<'a> DiskSpace<'a> {
    pub fn new(Candidate { disk, .. }: &Candidate<'a>) -> Self {
        let status = disk.status.as_ref();
        let kept = status.map_or(0, |status| orphans::kept(status, |_| true));
        let entries = status.iter().flat_map(|s| &s.reservations);
        Self {
            disk,
            name: disk.name_any(),
            ready: is_ready(disk),
            allocatable: allocatable::of_disk(disk).saturating_sub(kept),
            free: free_space(disk),
            entries: entries.map(|entry| (&*entry.uid, Held::of(entry))).collect(),
            hold: None,
        }
    }

    /// Bytes of the reservation with that UID.
    fn held_by(&self, uid: &str) -> Option<u64> {
        self.entries.get(uid).map(|held| held.bytes)
    }

    /// Bytes of the reservation. An entry of a waiting reservation for an earlier spec is released soon (R6).
    pub fn held_for(&self, reservation: &DiskReservation) -> Option<u64> {
        let held = self.entries.get(reservation.metadata.uid.as_deref()?)?;
        let is_current = held.generation >= reservation.metadata.generation;
        (is_current || is_placed(reservation)).then_some(held.bytes)
    }

    /// The UIDs of the reservations on the disk.
    pub fn holders(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    pub fn is_undivided(&self) -> bool {
        undivided::is_undivided(self.disk.spec.kind)
    }

    /// Bytes of the reservation if this disk serves the request.
    pub fn target(&self, request: &Request) -> u64 {
        undivided::of_disk(self.disk, request.target)
    }

    /// Bytes that the request takes beyond its present bytes.
    pub fn takes(&self, request: &Request) -> u64 {
        self.target(request) - (request.target - request.asked)
    }

    /// Bytes of the reservation's own orphans, which no other reservation gets (X6).
    fn own_orphans(&self, request: &Request) -> u64 {
        if self.ready { orphans::kept_for(self.disk, request.reservation) } else { 0 }
    }

    /// Why the ledger has no space for an entry of the request (A8).
    fn full(&self, request: &Request) -> Option<Full> {
        let is_new = self.held_by(&request.uid).is_none();
        let listed = self.entries.values().map(|held| Entry::for_role(held.role));
        full_for("", Entry::for_role(request.role()), listed).filter(|_| is_new)
    }

    /// True if the hold on the disk permits the request. Either the disk has orphans of the reservation (X6), or the
    /// holder is served no later.
    fn lets(&self, request: &Request) -> bool {
        let beside = |beside: u64| !self.is_undivided() && self.target(request) <= beside;
        self.hold.is_none_or(|(_, left)| beside(left)) || self.own_orphans(request) > 0
    }

    pub fn fits(&self, request: &Request) -> bool {
        let free = self.free.saturating_add(self.own_orphans(request));
        self.ready && self.full(request).is_none() && free >= self.takes(request) && self.lets(request)
    }

    /// True if the request would fit into an emptier disk, and no other reservation collects free space here.
    pub fn may_be_held(&self, request: &Request) -> bool {
        let all = self.allocatable.saturating_add(self.own_orphans(request));
        self.ready && self.hold.is_none() && self.full(request).is_none() && all >= request.target
    }

    pub fn give(&mut self, request: &Request<'a>) {
        let (takes, target) = (self.takes(request), self.target(request));
        self.free = self.free.saturating_add(self.own_orphans(request)).saturating_sub(takes);
        if let Some(uid) = &request.reservation.metadata.uid {
            let (role, generation) =
                (&*request.reservation.spec.role, request.reservation.metadata.generation);
            self.entries.insert(uid, Held { role, bytes: target, generation });
        }
        if let Some((_, beside)) = &mut self.hold {
            *beside = beside.saturating_sub(target);
        }
    }

    /// Holds the free space back for the request. The disk has some bytes more than the request needs, and other
    /// reservations may use these bytes. Each present reservation that is small enough gets its part first, and new
    /// requests get only the rest. So the request is served no later, in any order of releases.
    pub fn hold(&mut self, request: &Request<'a>, hold: Hold<'a>) {
        let beside = self.allocatable.saturating_sub(request.target);
        let others = self.entries.iter().filter(|(uid, _)| **uid != request.uid).map(|(_, held)| held.bytes);
        let stay = others.filter(|bytes| *bytes <= beside).fold(0, u64::saturating_add);
        self.hold = Some((hold, beside.saturating_sub(stay)));
    }

    /// A reservation that names the disk waits for this disk alone, so it says the disk's reason (D8).
    fn not_ready(&self, request: &Request) -> String {
        let conditions = self.disk.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let why = condition::get(conditions, READY).filter(|_| request.reservation.spec.node_disk.is_some());
        match why {
            Some(ready) => format!("{} is not ready: {}", self.name, ready.message),
            None => format!("{} is not ready", self.name),
        }
    }

    /// Why the disk does not serve the request. The second value is there if the disk lists no further reservation.
    pub fn refusal(&self, request: &Request) -> (String, Option<Full>) {
        let (name, free, asked) = (&self.name, Size::from_bytes(self.free), request.asked);
        if let Some(full) = self.full(request).filter(|_| self.ready && self.free >= asked) {
            return (full.why(name, "reservations", "", Entry::for_role(request.role())), Some(full));
        }
        let refusal = match &self.hold {
            _ if !self.ready => self.not_ready(request),
            Some((hold, _)) if self.free >= asked && hold.holder.uid().as_ref() != Some(&request.uid) => {
                format!("{free} free on {name} are {hold}")
            }
            _ if self.is_undivided() && self.allocatable >= asked && self.free < self.allocatable => {
                format!("{name} is handed out whole and taken")
            }
            _ if self.is_undivided() && self.free >= asked => {
                format!("all {free} of {name} would have to be taken, more than the quotas of roles leave")
            }
            _ => {
                let missing = Size::from_bytes(asked.saturating_sub(self.free));
                format!("{name} has {free} free, {missing} too little")
            }
        };
        (refusal, None)
    }
}

/// A VolumeRole with a ledger, during the sharing out.
pub(super) struct RoleSpace<'a> {
    pub role: &'a VolumeRole,
    pub reserved: u64,
    /// Bytes that are collected for reservations of the role.
    collected: u64,
    entries: HashMap<&'a str, u64>,
}

impl<'a> RoleSpace<'a> {
    pub fn new((role, reserved): (&'a VolumeRole, u64)) -> Self {
        let entries = role.status.iter().flat_map(|s| &s.reservations);
        let entries = entries.map(|entry| (entry.uid.as_str(), entry.size.bytes_or_zero())).collect();
        Self { role, reserved, collected: 0, entries }
    }

    /// True if the bytes of the request count towards this quota.
    pub fn charges(&self, request: &Request) -> bool {
        quota::charges(&self.role.spec.role, request.role(), None)
    }

    /// Bytes beyond the reservation's entry, if the request has `target` bytes in all.
    fn more(&self, request: &Request, target: u64) -> u64 {
        target.saturating_sub(self.entries.get(request.uid.as_str()).copied().unwrap_or(0))
    }

    /// Why the role does not get the bytes. Free space that is collected for the role counts too (Q5).
    pub fn refusal(&self, request: &Request, target: u64, ledgers: &[(&VolumeRole, u64)]) -> Option<Verdict> {
        let more = self.more(request, target);
        let new = (!self.entries.contains_key(&*request.uid)).then_some(request.role());
        let taken = quota::taken(self.role, request.role(), self.reserved, ledgers);
        quota::refusal(self.role, new, &taken, more).or_else(|| {
            let all = quota::Taken { reserved: taken.reserved.saturating_add(self.collected), ..taken };
            let over = quota::refusal(self.role, None, &all, more).filter(|_| self.collected > 0)?;
            Some(quota::beside_collected(over, self.collected))
        })
    }

    /// True if the request is within the guarantee of the role.
    pub fn guarantees(&self, request: &Request) -> bool {
        let guarantee = self.role.spec.quota.guarantee.as_ref().map_or(0, Size::bytes_or_zero);
        let has = self.reserved.saturating_add(self.collected);
        self.charges(request) && guarantee.saturating_sub(has) >= request.asked
    }

    pub fn give(&mut self, request: &Request, target: u64) {
        self.reserved = self.reserved.saturating_add(self.more(request, target));
    }

    pub fn collect(&mut self, request: &Request) {
        self.collected = self.collected.saturating_add(self.more(request, request.target));
    }
}
