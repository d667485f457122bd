//! SHARE OUT: the reservation that is served next, and the disk that serves it (Q3, Q5, L7).
//!
//! Requests within a guarantee of their role come first, then all others in the order of [`super::queue`]. A request
//! that fits is given a disk in this computation, which raises the share of its role. The computation ends when all
//! requests have been considered.
//!
//! A request that does not fit now, and would fit into an emptier disk, may collect free space on one disk. A request
//! within its role's guarantee always collects; any other request collects only during its turn. Later requests get
//! free space of that disk only if the collecting request waits no longer for that. A turn begins when all fitting
//! requests are served, so a fitting request waits for one turn of a disk at most. The caches show the entry of a served
//! request later, often after the begin of a turn. Until then the request comes before all others.
//!
//! Each request gets its turn, and during its turn a request with a long wait precedes all others, so nobody starves. A
//! request that can never fit any disk holds nobody up. Unguaranteed free space is collected in the same way, for a
//! request that needs more of it (Q2).

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, RESIZED, Verdict, reason};
use crate::api::{CollectingTurn, DiskReservation, Size, VolumeRole};

use super::candidate::{self, Candidate, no_such_disk};
use super::entry::{asked, entry, is_placed};
use super::list_share::Full;
use super::queue::{Queue, Request};
use super::space::{DiskSpace, Hold, RoleSpace, leave_to_unlisted};
use super::{names, quota, summary, turn};

/// The share of a reservation that waits or is to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A disk serves the reservation now.
    Serve {
        /// Name of the disk.
        disk: String,
        /// Requested bytes in all.
        target: u64,
    },
    /// The reservation waits.
    Wait {
        /// The reason.
        why: Verdict,
        /// The last turn of the reservation to collect free space.
        turn: Option<CollectingTurn>,
        /// Begin of the last turn that this controller gave, by the clock of this controller.
        gave: Option<Timestamp>,
    },
}

impl Outcome {
    /// The disk that serves the reservation now.
    pub fn disk(&self) -> Option<&str> {
        match self {
            Self::Serve { disk, .. } => Some(disk),
            Self::Wait { .. } => None,
        }
    }

    /// The last turn.
    pub fn turn(&self) -> Option<&CollectingTurn> {
        match self {
            Self::Wait { turn, .. } => turn.as_ref(),
            Self::Serve { .. } => None,
        }
    }

    /// True if a disk serves the reservation up to that target. A request for more is a new one.
    fn serves(&self, bytes: u64) -> bool {
        matches!(self, Self::Serve { target, .. } if bytes <= *target)
    }

    fn gave(&self) -> Option<Timestamp> {
        match self {
            Self::Wait { gave, .. } => *gave,
            Self::Serve { .. } => None,
        }
    }
}

/// The share of each reservation that waits for a disk, by UID. A refinement takes from its parent and needs no share.
/// A reservation has no share either while its VolumeRole has no current ledger.
pub type Outcomes = BTreeMap<String, Outcome>;

/// The present outcomes. `before` are the last outcomes, whose turns may be missing from the caches.
pub fn share_out(
    reservations: &[&DiskReservation],
    candidates: &[Candidate],
    roles: &[&VolumeRole],
    before: &Outcomes,
    now: Timestamp,
) -> Outcomes {
    let mut outcomes = BTreeMap::new();
    let mut disks: Vec<DiskSpace> = candidates.iter().map(DiskSpace::new).collect();
    let requests = requests(reservations, &disks, &mut outcomes, before, now);
    if requests.is_empty() {
        return outcomes;
    }
    leave_to_unlisted(&mut disks, reservations);
    let roles_with_ledger = quota::ledgers(roles).into_iter().map(RoleSpace::new).collect();
    let mut sharing = Sharing { candidates, disks, roles: roles_with_ledger, unguaranteed: None, now };
    let (counting, sums) = (quota::counting(roles), summary::by_role(reservations));
    let is_served = |r: &Request| before.get(&r.uid).is_some_and(|outcome| outcome.serves(r.target));
    let (served, others): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_served);
    let (long, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|r| r.has_turn(now) && r.waits_long(now));
    let (guaranteed, rest) = others.into_iter().partition(|request| sharing.within_guarantee(request));
    let mut queues = [served, long, guaranteed, rest].map(|requests| Queue::new(requests, &sums, &counting));
    let mut waiting = Vec::new();
    while let Some(request) = queues.iter_mut().find_map(Queue::pop) {
        match sharing.look_at(&request) {
            Look::Serve(disk) => {
                queues.iter_mut().for_each(|queue| queue.count_served(&request));
                outcomes.insert(request.uid, Outcome::Serve { disk, target: request.target });
            }
            Look::Refuse(why) => {
                outcomes.insert(request.uid, Outcome::Wait { why, turn: request.turn, gave: request.gave });
            }
            Look::Wait(why) => waiting.push((request, why)),
            Look::Unknown => {}
        }
    }
    waiting.sort_by(|(a, _), (b, _)| a.without_turn_since().cmp(&b.without_turn_since()));
    for (request, why) in &mut waiting {
        sharing.begin_turn(request, why.is_some());
    }
    // A refusal shows the free space that is left when all fitting requests are served. So its message stays the same
    // until then.
    for (request, why) in waiting {
        let (why, turn, gave) = (sharing.refusal(&request, why), request.turn, request.gave);
        outcomes.insert(request.uid, Outcome::Wait { why, turn, gave });
    }
    outcomes
}

/// The waiting reservations, in the order in which they would be served with enough free space for all (Q3).
pub fn in_order<'a>(
    reservations: &[&'a DiskReservation],
    candidates: &[Candidate],
    roles: &[&VolumeRole],
) -> Vec<&'a DiskReservation> {
    let disks: Vec<DiskSpace> = candidates.iter().map(DiskSpace::new).collect();
    let (mut outcomes, now) = (Outcomes::new(), Timestamp::UNIX_EPOCH);
    let requests = requests(reservations, &disks, &mut outcomes, &Outcomes::new(), now);
    let mut queue = Queue::new(requests, &summary::by_role(reservations), &quota::counting(roles));
    let next = || {
        let request = queue.pop()?;
        queue.count_served(&request);
        Some(request.reservation)
    };
    std::iter::from_fn(next).collect()
}

/// The result for one request.
enum Look {
    /// The disk of that name serves the request.
    Serve(String),
    /// The request waits for a change of something other than free space.
    Refuse(Verdict),
    /// The request waits for free space. The reason is a guarantee; `None`: the final free space of the disks gives the
    /// reason.
    Wait(Option<Verdict>),
    /// The VolumeRole of the request has no current ledger.
    Unknown,
}

/// The state of the computation.
struct Sharing<'a> {
    candidates: &'a [Candidate<'a>],
    disks: Vec<DiskSpace<'a>>,
    roles: Vec<RoleSpace<'a>>,
    /// The bytes of unguaranteed free space that are held back on all disks together, with the holder.
    unguaranteed: Option<(u64, Hold<'a>)>,
    now: Timestamp,
}

impl<'a> Sharing<'a> {
    fn within_guarantee(&self, request: &Request) -> bool {
        self.roles.iter().any(|role| role.guarantees(request))
    }

    /// The indexes of the disks that may serve the request.
    fn may_serve(&self, request: &Request) -> Vec<usize> {
        let may =
            |i: &usize| candidate::may_serve(request.reservation, &self.candidates[*i], self.candidates);
        (0..self.candidates.len()).filter(may).collect()
    }

    fn charged(&self, request: &Request) -> impl Iterator<Item = &RoleSpace<'a>> {
        self.roles.iter().filter(|role| role.charges(request))
    }

    /// Why the request does not get so many bytes of the free space: they are guaranteed to other roles.
    fn guaranteed(&self, request: &Request, bytes: u64) -> Option<Verdict> {
        quota::guaranteed(request.role(), bytes, sum(&self.disks, |disk| disk.free), &self.ledgers())
    }

    fn ledgers(&self) -> Vec<(&'a VolumeRole, u64)> {
        self.roles.iter().map(|of| (of.role, of.reserved)).collect()
    }

    /// Why the limits of the role and its ancestors do not allow so many bytes.
    fn over_limits(&self, request: &Request, target: u64) -> Option<Verdict> {
        let ledgers = self.ledgers();
        self.charged(request).find_map(|of| of.refusal(request, target, &ledgers))
    }

    fn look_at(&mut self, request: &Request<'a>) -> Look {
        let may = self.may_serve(request);
        if may.is_empty() {
            return Look::Refuse(no_such_disk(request.reservation, self.candidates));
        }
        if self.charged(request).any(|of| !quota::is_current(of.role)) {
            return Look::Unknown;
        }
        if let Some(why) = self.over_limits(request, request.target) {
            return Look::Refuse(why);
        }
        if let Some(why) = self.guaranteed(request, request.asked) {
            self.go_on_to_collect(request, true);
            return Look::Wait(Some(why));
        }
        if let Some(why) = self.kept_unguaranteed(request) {
            return Look::Wait(Some(why));
        }
        if let Some(best) = self.best(request, may) {
            let target = self.disks[best].target(request);
            self.disks[best].give(request);
            self.roles.iter_mut().filter(|of| of.charges(request)).for_each(|of| of.give(request, target));
            return Look::Serve(self.disks[best].name.clone());
        }
        self.go_on_to_collect(request, false);
        Look::Wait(None)
    }

    /// Collects free space within a guarantee, or on the disk of the request's turn. The turn stays on its disk: on a
    /// new disk, other requests would have to wait for a second turn.
    fn go_on_to_collect(&mut self, request: &Request<'a>, unguaranteed: bool) {
        let holder = request.reservation;
        let turn = request.turn.as_ref().filter(|_| request.has_turn(self.now));
        match (self.within_guarantee(request), turn) {
            (true, _) => drop(self.collect(request, Hold { holder, until: None }, unguaranteed, |_| true)),
            (false, Some(turn)) if unguaranteed == turn.node_disk.is_none() => {
                let hold = Hold { holder, until: Some(turn::end(turn.since.0)) };
                let is_its = |disk: &DiskSpace| turn.node_disk.as_ref().is_none_or(|name| *name == disk.name);
                self.collect(request, hold, unguaranteed, is_its);
            }
            _ => {}
        }
    }

    /// The disk that serves the request. Divisible disks come before undivided disks; of the latter, the smallest comes
    /// first.
    fn best(&self, request: &Request, may: Vec<usize>) -> Option<usize> {
        let has = request.target - request.asked;
        // The request itself is within limits and guarantees.
        let is_allowed = by_target(request, true, |target| {
            self.over_limits(request, target).is_none() && self.guaranteed(request, target - has).is_none()
        });
        let fits = |i: &usize| self.disks[*i].fits(request) && is_allowed(&self.disks[*i]);
        let better = |a: &usize, b: &usize| {
            let undivided = |i: usize| self.disks[i].is_undivided();
            match (undivided(*a), undivided(*b)) {
                (true, true) => self.freer(*b, *a),
                (false, false) => self.freer(*a, *b),
                (a, b) => b.cmp(&a),
            }
        };
        may.into_iter().filter(fits).max_by(better)
    }

    fn freer(&self, a: usize, b: usize) -> std::cmp::Ordering {
        let (a, b) = (&self.disks[a], &self.disks[b]);
        a.free.cmp(&b.free).then_with(|| b.name.cmp(&a.name))
    }

    /// Collects free space on a disk that `selects` accepts, or unguaranteed free space. The request must fit there
    /// beside all guarantees once other reservations are gone. Returns the disk if free space is collected.
    fn collect(
        &mut self,
        request: &Request<'a>,
        hold: Hold<'a>,
        unguaranteed: bool,
        selects: impl Fn(&DiskSpace) -> bool,
    ) -> Option<usize> {
        let none: Vec<(&VolumeRole, u64)> = self.roles.iter().map(|of| (of.role, 0)).collect();
        let all = sum(&self.disks, |disk| disk.allocatable);
        let is_never = quota::guaranteed(request.role(), request.target, all, &none).is_some();
        if is_never || unguaranteed && self.unguaranteed.is_some() {
            return None;
        }
        let disk = {
            let is_within = |target| self.over_limits(request, target).is_none();
            let within_limits = by_target(request, is_within(request.target), is_within);
            let may_be_held = |i: &usize| {
                let disk = &self.disks[*i];
                selects(disk) && disk.may_be_held(request) && within_limits(disk)
            };
            let disks = self.may_serve(request).into_iter().filter(may_be_held);
            disks.max_by(|a, b| self.freer(*a, *b))?
        };
        match unguaranteed {
            true => self.unguaranteed = Some((request.asked, hold)),
            false => self.disks[disk].hold(request, hold),
        }
        self.roles.iter_mut().filter(|of| of.charges(request)).for_each(|of| of.collect(request));
        Some(disk)
    }

    /// Why the request does not get unguaranteed free space: these bytes are held back for another request.
    fn kept_unguaranteed(&self, request: &Request) -> Option<Verdict> {
        let (kept, hold) = self.unguaranteed?;
        // Bytes that are guaranteed to the request's role are not held back for another request.
        let with_kept = request.asked.saturating_add(kept);
        if self.within_guarantee(request) || self.guaranteed(request, with_kept).is_none() {
            return None;
        }
        let asked = Size::from_bytes(request.asked);
        let message = format!(
            "{asked} asked for: what is free and guaranteed to nobody is {hold}; it is served when space is free"
        );
        Some(Verdict::no(reason::GUARANTEED, message))
    }

    /// Begins a turn of the request, if the request may collect free space and has no turn.
    fn begin_turn(&mut self, request: &mut Request<'a>, unguaranteed: bool) {
        if request.had_turn_lately(self.now) || self.within_guarantee(request) {
            return;
        }
        let since = condition::stored(self.now);
        let hold = Hold { holder: request.reservation, until: Some(turn::end(since.0)) };
        if let Some(disk) = self.collect(request, hold, unguaranteed, |_| true) {
            let node_disk = (!unguaranteed).then(|| self.disks[disk].name.clone());
            (request.turn, request.gave) = (Some(CollectingTurn { since, node_disk }), Some(self.now));
        }
    }

    /// The final reason for the wait of the request.
    fn refusal(&self, request: &Request, why: Option<Verdict>) -> Verdict {
        let may: Vec<&DiskSpace> = self.may_serve(request).into_iter().map(|i| &self.disks[i]).collect();
        let (mut refusals, full): (Vec<String>, Vec<Option<Full>>) =
            may.iter().map(|d| d.refusal(request)).unzip();
        // Caches have no order. A message in varying order would cause a write each time.
        refusals.sort();
        let asked = match request.asked == request.target {
            true => request.reservation.spec.size.to_string(),
            false => format!("{} more", Size::from_bytes(request.asked)),
        };
        let full = full.into_iter().flatten().next();
        let is_possible =
            may.iter().any(|disk| !disk.ready || candidate::holds_all_of(disk.disk, request.target));
        // Without any guarantee there would not be enough either.
        if let Some(why) = why.filter(|why| is_possible || why.reason != reason::GUARANTEED) {
            return why;
        }
        let outlook = match is_possible {
            true if may.iter().all(|disk| !disk.ready) => "it is served when the disk is Ready",
            true => "it is served when space is free",
            false
                if request.reservation.spec.node_disk.is_some()
                    || request.reservation.status.as_ref().is_some_and(|s| s.node_disk.is_some()) =>
            {
                "that is more than its disk has, which it does not leave: ask for less"
            }
            false => "that is more than such a disk has: reserve less, or add a larger disk",
        };
        Verdict::no(
            full.map_or(reason::NOT_ENOUGH_ROOM, |full| full.reason(reason::TOO_MANY_RESERVATIONS)),
            format!("{asked} asked for: {}; {outlook}", names(&refusals, refusals.len())),
        )
    }
}

/// The answer for a disk, by the bytes of the reservation there: all bytes of an undivided disk count, even for a smaller
/// request (D2, Q1). All other disks share one answer.
fn by_target(request: &Request, shared: bool, answer: impl Fn(u64) -> bool) -> impl Fn(&DiskSpace) -> bool {
    move |disk| match disk.target(request) {
        target if target == request.target => shared,
        whole => answer(whole),
    }
}

fn sum(disks: &[DiskSpace], of: impl Fn(&DiskSpace) -> u64) -> u64 {
    disks.iter().map(of).fold(0, u64::saturating_add)
}

/// The requests. A reservation that already has an entry in the ledger of a disk needs no place in the queue.
fn requests<'a>(
    reservations: &[&'a DiskReservation],
    disks: &[DiskSpace],
    outcomes: &mut Outcomes,
    before: &Outcomes,
    now: Timestamp,
) -> Vec<Request<'a>> {
    let waits = |r: &&&DiskReservation| {
        r.metadata.deletion_timestamp.is_none()
            && r.spec.parent.is_none()
            && asked(r).map_or(true, |asked| asked > 0)
    };
    let waiting: Vec<&&DiskReservation> = reservations.iter().filter(waits).collect();
    let mut requests = Vec::new();
    let entries: HashMap<&str, &DiskSpace> = match waiting.is_empty() {
        true => HashMap::new(),
        false => disks.iter().flat_map(|disk| disk.holders().map(move |uid| (uid, disk))).collect(),
    };
    for reservation in waiting {
        let (uid, status) = (reservation.uid().unwrap_or_default(), reservation.status.as_ref());
        // Of two turns that begin at once the stored one counts, also for a second controller, which began the other.
        let turns = [before.get(&uid).and_then(Outcome::turn), status.and_then(|s| s.turn.as_ref())];
        let turn = turns.into_iter().flatten().max_by_key(|turn| turn.since.0).cloned();
        let gave = before.get(&uid).and_then(Outcome::gave);
        let target = match entry(reservation) {
            Ok(entry) => entry.size.bytes_or_zero(),
            Err(why) => {
                outcomes.insert(uid, Outcome::Wait { why, turn, gave });
                continue;
            }
        };
        let held = entries.get(uid.as_str()).and_then(|disk| Some((&disk.name, disk.held_for(reservation)?)));
        match held {
            Some((disk, held)) if held >= target || !is_placed(reservation) => {
                outcomes.insert(uid, Outcome::Serve { disk: disk.clone(), target });
            }
            held => {
                let asked = target - held.map_or(0, |(_, held)| held);
                let since = match is_placed(reservation) {
                    true => status
                        .and_then(|s| condition::get(&s.conditions, RESIZED))
                        .filter(|c| c.status == "False")
                        .map(|c| c.last_transition_time.0),
                    false => reservation.creation_timestamp().map(|created| created.0),
                };
                let waits_since = since.unwrap_or(now);
                requests.push(Request { reservation, uid, asked, target, waits_since, turn, gave });
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests;
