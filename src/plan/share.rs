//! SHARE OUT: the reservation that is served next, and the disk that serves it (Q3, L7).
//!
//! Requests are looked at in the order of [`super::queue`]. A request that fits is given its disk in thought, which raises
//! the share of its role, until all have been looked at.
//!
//! Nobody starves. A request that does not fit now, and would fit into some disk if that were emptier, collects free space
//! on one disk; requests behind it get none of that disk until it has been served. A request that can never fit any disk
//! holds nobody up. Free space that is guaranteed to nobody is collected likewise, for the first that needs more of it (Q2).

use std::collections::{BTreeMap, HashMap};

use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{DiskReservation, NodeDisk, Size, VolumeRole};

use super::candidate::{self, Candidate, free_space, is_ready, no_such_disk, not_enough_room};
use super::entry::{asked, entry, is_placed};
use super::queue::{Queue, Request};
use super::{allocatable, orphans, quota, undivided};

/// The share of a reservation that waits, or that is to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The disk of that name serves it now.
    Serve(String),
    /// The reservation waits, for that reason.
    Wait(Verdict),
}

/// The free space of a disk as the sharing out goes on.
struct DiskSpace<'a> {
    disk: &'a NodeDisk,
    name: String,
    ready: bool,
    allocatable: u64,
    free: u64,
    /// The reservation that collects free space on it, and its position in the queue.
    kept_for: Option<(usize, &'a DiskReservation)>,
}

/// The ledger of a VolumeRole as the sharing out goes on.
struct RoleSpace<'a> {
    role: &'a VolumeRole,
    reserved: u64,
    entries: HashMap<&'a str, u64>,
}

/// The share of each reservation that waits for a disk, by UID. Refinements have none: they take from their parent, not
/// from a disk. Nor has a reservation whose VolumeRole has not summed up yet.
pub fn share_out(
    reservations: &[&DiskReservation],
    candidates: &[Candidate],
    roles: &[&VolumeRole],
) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    let counting = quota::counting(roles);
    let mut disks = disk_spaces(candidates);
    let mut ledgers: Vec<RoleSpace> = quota::ledgers(roles).into_iter().map(RoleSpace::new).collect();
    let requests = requests(reservations, &disks, &mut outcomes);
    if requests.is_empty() {
        return outcomes;
    }
    let mut queue = Queue::new(requests, reservations, &counting);
    let mut waiting: Vec<(usize, Request)> = Vec::new();
    let mut unguaranteed = Unguaranteed::default();
    let mut position = 0;
    while let Some(request) = queue.pop() {
        position += 1;
        let role = &request.reservation.spec.role;
        let may: Vec<usize> = may_serve(&request, candidates);
        if may.is_empty() {
            let why = no_such_disk(request.reservation, candidates);
            outcomes.insert(request.uid, Outcome::Wait(why));
            continue;
        }
        let charged: Vec<usize> =
            (0..ledgers.len()).filter(|i| quota::charges(&ledgers[*i].role.spec.role, role, None)).collect();
        if charged.iter().any(|i| !quota::is_current(ledgers[*i].role)) {
            continue;
        }
        let over = charged.iter().find_map(|i| ledgers[*i].over_limit(&request, request.target));
        let known: Vec<(&VolumeRole, u64)> = ledgers.iter().map(|of| (of.role, of.reserved)).collect();
        if let Some(why) = over.or_else(|| unguaranteed.refuses(&request, (&disks, &may), &known)) {
            outcomes.insert(request.uid, Outcome::Wait(why));
            continue;
        }
        // A reservation whose data is on a disk already has its bytes back, whoever collects free space there (X6).
        let back = |i: usize| orphans::kept_for(disks[i].disk, request.reservation) > 0;
        let open =
            may.iter().copied().filter(|i| disks[*i].ready && (disks[*i].kept_for.is_none() || back(*i)));
        let freer = |a: &usize, b: &usize| {
            let (a, b) = (&disks[*a], &disks[*b]);
            a.free.cmp(&b.free).then_with(|| b.name.cmp(&a.name))
        };
        // All of an undivided disk counts towards the quotas, however little of it was asked for (D2, Q1).
        let free = disks.iter().map(|disk| disk.free).fold(0, u64::saturating_add);
        let allowed = |disk: &DiskSpace| {
            let within = |i: &usize| ledgers[*i].over_limit(&request, disk.target(&request)).is_none();
            !disk.is_undivided()
                || charged.iter().all(within)
                    && quota::guaranteed(role, disk.takes(&request), free, &known).is_none()
        };
        let fits =
            |i: &usize| disks[*i].free_for(&request) >= disks[*i].takes(&request) && allowed(&disks[*i]);
        // An undivided disk serves what no other can, and of those the smallest.
        let better = |a: &usize, b: &usize| match (disks[*a].is_undivided(), disks[*b].is_undivided()) {
            (true, true) => freer(b, a),
            (false, false) => freer(a, b),
            (a, b) => b.cmp(&a),
        };
        match open.clone().filter(fits).max_by(better) {
            Some(best) => {
                let target = disks[best].target(&request);
                disks[best].free = disks[best].free_for(&request) - disks[best].takes(&request);
                for i in charged {
                    ledgers[i].reserved =
                        ledgers[i].reserved.saturating_add(ledgers[i].more(&request, target));
                }
                queue.count_served(&request);
                outcomes.insert(request.uid, Outcome::Serve(disks[best].name.clone()));
            }
            None => {
                let emptied =
                    open.filter(|i| disks[*i].kept_for.is_none() && disks[*i].allocatable >= request.target);
                if let Some(collects) = emptied.max_by(freer) {
                    disks[collects].kept_for = Some((position, request.reservation));
                }
                waiting.push((position, request));
            }
        }
    }
    // A refusal has the free space that is left once all who can be served are, so that it does not change meanwhile.
    for (position, request) in waiting {
        let may = may_serve(&request, candidates);
        let refusals = may.into_iter().map(|i| disks[i].refusal(position, request.asked)).collect();
        let asked = match request.asked == request.target {
            true => request.reservation.spec.size.clone(),
            false => Size::from_bytes(request.asked),
        };
        outcomes.insert(request.uid, Outcome::Wait(not_enough_room(&asked, refusals)));
    }
    outcomes
}

/// The reservations that wait, in the order in which they are served if there is free space for all (Q3).
pub fn in_order<'a>(
    reservations: &[&'a DiskReservation],
    candidates: &[Candidate],
    roles: &[&VolumeRole],
) -> Vec<&'a DiskReservation> {
    let requests = requests(reservations, &disk_spaces(candidates), &mut BTreeMap::new());
    let counting = quota::counting(roles);
    let mut queue = Queue::new(requests, reservations, &counting);
    let next = || {
        let request = queue.pop()?;
        queue.count_served(&request);
        Some(request.reservation)
    };
    std::iter::from_fn(next).collect()
}

impl<'a> RoleSpace<'a> {
    fn new((role, reserved): (&'a VolumeRole, u64)) -> Self {
        let entries = role.status.iter().flat_map(|s| &s.reservations);
        let entries = entries.map(|entry| (entry.uid.as_str(), entry.size.bytes_or_zero())).collect();
        Self { role, reserved, entries }
    }

    /// Bytes beyond its entry, when the request has `target` bytes in all.
    fn more(&self, request: &Request, target: u64) -> u64 {
        target.saturating_sub(self.entries.get(request.uid.as_str()).copied().unwrap_or(0))
    }

    fn over_limit(&self, request: &Request, target: u64) -> Option<Verdict> {
        quota::over_limit(self.role, self.reserved, self.more(request, target))
    }
}

/// Free space of all disks that is guaranteed to nobody: kept for the first request that needs more of it than there is.
#[derive(Default)]
struct Unguaranteed<'a> {
    kept_for: Option<(u64, &'a DiskReservation)>,
}

impl<'a> Unguaranteed<'a> {
    /// Why the request does not get what it asks for; `ledgers` are those of [`quota::ledgers`], as it goes on.
    fn refuses(
        &mut self,
        request: &Request<'a>,
        (disks, may): (&[DiskSpace], &[usize]),
        ledgers: &[(&VolumeRole, u64)],
    ) -> Option<Verdict> {
        let role = &request.reservation.spec.role;
        let sum = |of: fn(&DiskSpace) -> u64| disks.iter().map(of).fold(0, u64::saturating_add);
        let free = sum(|disk| disk.free);
        if let Some(why) = quota::guaranteed(role, request.asked, free, ledgers) {
            // Once all is released, the request would fit beside all guarantees.
            let none: Vec<(&VolumeRole, u64)> = ledgers.iter().map(|(role, _)| (*role, 0)).collect();
            let fits = quota::guaranteed(role, request.target, sum(|disk| disk.allocatable), &none).is_none()
                && may.iter().any(|i| disks[*i].ready && disks[*i].allocatable >= request.target);
            if self.kept_for.is_none() && fits {
                self.kept_for = Some((request.asked, request.reservation));
            }
            return Some(why);
        }
        let (kept, first) = self.kept_for?;
        // Bytes that are guaranteed to the role itself are nobody else's.
        let own = ledgers.iter().any(|(of, reserved)| {
            let guarantee = of.spec.quota.guarantee.as_ref().map_or(0, Size::bytes_or_zero);
            quota::charges(&of.spec.role, role, None) && guarantee.saturating_sub(*reserved) >= request.asked
        });
        let with_kept = request.asked.saturating_add(kept);
        (!own && quota::guaranteed(role, with_kept, free, ledgers).is_some()).then(|| {
            Verdict::no(
                reason::GUARANTEED,
                format!(
                    "{} asked for: what is free and guaranteed to nobody is kept for reservation {} of role {}, \
                     which is first in the queue; it is served when room appears",
                    Size::from_bytes(request.asked),
                    first.name_any(),
                    first.spec.role
                ),
            )
        })
    }
}

impl DiskSpace<'_> {
    fn is_undivided(&self) -> bool {
        undivided::is_undivided(self.disk.spec.kind)
    }

    /// Bytes that the request would have in all, if it were served here.
    fn target(&self, request: &Request) -> u64 {
        undivided::of_disk(self.disk, request.target)
    }

    /// Bytes that it would take beyond what it has.
    fn takes(&self, request: &Request) -> u64 {
        self.target(request) - (request.target - request.asked)
    }

    /// Bytes that are free for it, with those of orphans that lived in it, which nobody else gets (X6).
    fn free_for(&self, request: &Request) -> u64 {
        let kept = if self.ready { orphans::kept_for(self.disk, request.reservation) } else { 0 };
        self.free.saturating_add(kept)
    }

    /// Why the disk does not serve the request at that position.
    fn refusal(&self, position: usize, asked: u64) -> String {
        let (name, free) = (&self.name, Size::from_bytes(self.free));
        match self.kept_for.filter(|(kept, _)| *kept < position) {
            _ if !self.ready => format!("{name} is not ready"),
            Some((_, first)) if self.free >= asked => format!(
                "{free} free on {name} are kept for reservation {} of role {}, which is first in the queue",
                first.name_any(),
                first.spec.role
            ),
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
        }
    }
}

fn disk_spaces<'a>(candidates: &[Candidate<'a>]) -> Vec<DiskSpace<'a>> {
    let space = |Candidate { disk, .. }: &Candidate<'a>| DiskSpace {
        disk,
        name: disk.name_any(),
        ready: is_ready(disk),
        allocatable: allocatable::of_disk(disk),
        free: free_space(disk),
        kept_for: None,
    };
    candidates.iter().map(space).collect()
}

/// The disks that may serve the request, by their index.
fn may_serve(request: &Request, candidates: &[Candidate]) -> Vec<usize> {
    (0..candidates.len()).filter(|i| candidate::may_serve(request.reservation, &candidates[*i])).collect()
}

/// The requests. A reservation that the ledger of a disk has already needs no place in the queue.
fn requests<'a>(
    reservations: &[&'a DiskReservation],
    disks: &[DiskSpace],
    outcomes: &mut BTreeMap<String, Outcome>,
) -> Vec<Request<'a>> {
    let waits = |r: &&&DiskReservation| {
        r.metadata.deletion_timestamp.is_none()
            && r.spec.parent.is_none()
            && asked(r).map_or(true, |asked| asked > 0)
    };
    let waiting: Vec<&&DiskReservation> = reservations.iter().filter(waits).collect();
    if waiting.is_empty() {
        return vec![];
    }
    let mut entries: HashMap<&str, (&str, u64)> = HashMap::new();
    for of in disks {
        for entry in of.disk.status.iter().flat_map(|s| &s.reservations) {
            entries.insert(&entry.uid, (&of.name, entry.size.bytes_or_zero()));
        }
    }
    let mut requests = Vec::new();
    for reservation in waiting {
        let uid = reservation.uid().unwrap_or_default();
        let target = match entry(reservation) {
            Ok(entry) => entry.size.bytes_or_zero(),
            Err(why) => {
                outcomes.insert(uid, Outcome::Wait(why));
                continue;
            }
        };
        match entries.get(uid.as_str()) {
            Some((disk, held)) if *held >= target || !is_placed(reservation) => {
                outcomes.insert(uid, Outcome::Serve((*disk).to_owned()));
            }
            held => {
                let asked = target - held.map_or(0, |(_, held)| *held);
                requests.push(Request { reservation, uid, asked, target });
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::plan::testing::*;

    /// The disk that serves each, or the reason and what is said, in the order that they are given.
    fn shared(
        rs: &[DiskReservation],
        disks: &[NodeDisk],
        roles: &[VolumeRole],
    ) -> Vec<Result<String, String>> {
        let candidates: Vec<Candidate> =
            disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
        let mut out =
            share_out(&rs.iter().collect::<Vec<_>>(), &candidates, &roles.iter().collect::<Vec<_>>());
        let outcome = |r: &DiskReservation| match out.remove(&r.uid().unwrap()) {
            Some(Outcome::Serve(disk)) => Some(Ok(disk)),
            Some(Outcome::Wait(why)) => Some(Err(format!("{}: {}", why.reason, why.message))),
            None => None,
        };
        rs.iter().filter_map(outcome).collect()
    }

    fn asks(name: &str, role: &str, size: u64, second: i64) -> DiskReservation {
        let mut reservation = reservation(name, role, size);
        let at = jiff::Timestamp::from_second(second).unwrap();
        reservation.metadata.creation_timestamp = Some(Time(at));
        reservation
    }

    /// Which are served.
    fn served(rs: &[DiskReservation], disks: &[NodeDisk], roles: &[VolumeRole]) -> Vec<String> {
        let outcomes = shared(rs, disks, roles);
        rs.iter().zip(outcomes).filter(|(_, o)| o.is_ok()).map(|(r, _)| r.name_any()).collect()
    }

    #[test]
    fn d2_q1_all_of_an_undivided_disk_counts_towards_the_quota() {
        let mut ssd = disk("n1.ssd", "n1", 20, &[]);
        ssd.spec.kind = crate::api::DiskKind::Mount;
        let (small, next) = (asks("small", "eng", 5, 1), asks("next", "eng", 5, 2));
        let told = |limit| {
            shared(
                &[small.clone(), next.clone()],
                std::slice::from_ref(&ssd),
                &[with_quota(volume_role("eng", "eng"), Some(limit), None, &[])],
            )
        };
        let [first, second] = &told(20)[..] else { panic!() };
        assert_eq!(first, &Ok("n1.ssd".to_owned()));
        assert!(second.as_ref().unwrap_err().contains("OverQuota"), "{second:?}: the first has all 20");
        let refused = told(19).remove(0).unwrap_err();
        assert!(refused.contains("all 20Gi of n1.ssd would have to be taken"), "{refused}");
    }

    #[test]
    fn x6_a_reservation_has_the_bytes_of_its_orphans_back() {
        let mut there = disk("n1.a", "n1", 12, &[]);
        let of = crate::api::Reserved { name: "eng".into(), role: "eng".into(), ..Default::default() };
        let orphan = crate::api::Orphan { size: gi(6), reservations: vec![of], ..Default::default() };
        there.status.as_mut().unwrap().orphans = vec![orphan];
        let outcomes = shared(
            &[asks("first", "ops", 8, 1), asks("eng", "eng", 10, 3), asks("later", "ops", 1, 2)],
            std::slice::from_ref(&there),
            &[],
        );
        assert!(
            outcomes[0].as_ref().unwrap_err().contains("n1.a has 2Gi free, 6Gi too little"),
            "{outcomes:?}"
        );
        assert_eq!(outcomes[1], Ok("n1.a".to_owned()));
        assert!(outcomes[2].is_err(), "the first still collects free space");
        // No other reservation gets its kept bytes.
        let outcomes = shared(&[asks("x", "ops", 7, 1), asks("eng", "other", 7, 2)], &[there], &[]);
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    }

    #[test]
    fn q3_the_lowest_share_comes_first_then_the_oldest() {
        let disks = [disk("n1.a", "n1", 10, &[("has", 4)])];
        let has = reserved("has", "eng", 4, &[]);
        let rs = |asked: &[(&str, &str, u64, i64)]| -> Vec<DiskReservation> {
            let asked = asked.iter().map(|(name, role, size, age)| asks(name, role, *size, *age));
            std::iter::once(has.clone()).chain(asked).collect()
        };
        // eng has 4 and ops has nothing: ops first, though it is younger, until it has more than eng.
        let waiting =
            rs(&[("e", "eng", 3, 1), ("o1", "ops", 3, 2), ("o2", "ops", 2, 3), ("o3", "ops", 1, 4)]);
        let candidates = [Candidate { disk: &disks[0], node_labels: None }];
        let out = share_out(&waiting.iter().collect::<Vec<_>>(), &candidates, &[]);
        let is = |name: &str| matches!(out[&format!("uid-{name}")], Outcome::Serve(_));
        assert_eq!(
            ["e", "o1", "o2", "o3"].map(is),
            [false, true, true, false],
            "o3 would take what e waits for"
        );
        // With the same share the oldest comes first.
        let waiting = [asks("young", "a", 6, 2), asks("old", "b", 6, 1)];
        assert_eq!(served(&waiting, &disks, &[]), ["old"]);
    }

    #[test]
    fn q3_a_weight_counts_for_the_role_and_its_sub_roles() {
        let disks = [disk("n1.a", "n1", 9, &[("x", 4), ("y", 3)])];
        let has = [reserved("x", "eng/ml", 4, &[]), reserved("y", "ops", 3, &[])];
        let waiting = [has[0].clone(), has[1].clone(), asks("e", "eng/ml", 2, 1), asks("o", "ops", 2, 2)];
        let outcome = |roles: &[VolumeRole]| {
            let candidates = [Candidate { disk: &disks[0], node_labels: None }];
            let out = share_out(
                &waiting.iter().collect::<Vec<_>>(),
                &candidates,
                &roles.iter().collect::<Vec<_>>(),
            );
            ["e", "o"].map(|name| matches!(out[&format!("uid-{name}")], Outcome::Serve(_)))
        };
        assert_eq!(outcome(&[]), [false, true], "4 against 3");
        let mut eng = volume_role("eng", "eng");
        eng.spec.weight = 2;
        assert_eq!(outcome(&[eng]), [true, false], "4 / 2 against 3");
    }

    #[test]
    fn l7_the_first_in_the_queue_collects_free_space() {
        let disks = [disk("n1.a", "n1", 10, &[("has", 7)])];
        let rs = [asks("big", "ops", 8, 1), asks("small", "ops", 2, 2)];
        let said = shared(&rs, &disks, &[]);
        assert_eq!(
            said[0].as_ref().unwrap_err(),
            "NotEnoughRoom: 8Gi asked for: n1.a has 3Gi free, 5Gi too little; it is served when room appears"
        );
        assert_eq!(
            said[1].as_ref().unwrap_err(),
            "NotEnoughRoom: 2Gi asked for: 3Gi free on n1.a are kept for reservation big of role ops, \
             which is first in the queue; it is served when room appears"
        );
        // It collects on one disk only.
        let two = [disk("n1.a", "n1", 10, &[("has", 7)]), disk("n2.a", "n2", 10, &[("h2", 8)])];
        assert_eq!(shared(&rs, &two, &[])[1], Ok("n2.a".into()));
    }

    #[test]
    fn l7_a_request_that_never_fits_holds_nobody_up() {
        let disks = [disk("n1.a", "n1", 10, &[("has", 7)])];
        assert_eq!(served(&[asks("huge", "ops", 11, 1), asks("small", "ops", 2, 2)], &disks, &[]), ["small"]);
    }

    #[test]
    fn l7_small_requests_do_not_starve_a_large_one() {
        // A disk of 10 from which one byte after the other is given back and asked for again by small ones.
        let mut held: Vec<String> = (0..10).map(|i| format!("s{i}")).collect();
        let big = asks("big", "ops", 6, 1);
        for round in 10..100 {
            let gone = held.remove(0);
            let lines: Vec<(&str, u64)> = held.iter().map(|name| (name.as_str(), 1)).collect();
            let disks = [disk("n1.a", "n1", 10, &lines)];
            let mut rs: Vec<DiskReservation> =
                held.iter().map(|name| reserved(name, "ops", 1, &[])).collect();
            rs.push(big.clone());
            rs.push(asks(&format!("s{round}"), "ops", 1, round));
            let now = served(&rs[held.len()..], &disks, &[]);
            if now.contains(&"big".to_owned()) {
                return;
            }
            held.extend(now);
            assert_ne!(gone, "big");
        }
        panic!("big was never served");
    }

    #[test]
    fn q2_limit_and_guarantee_hold_nobody_else_up() {
        let disks = [disk("n1.a", "n1", 10, &[("has", 2)])];
        let eng = with_quota(volume_role("eng", "eng"), Some(3), None, &[("has", 2)]);
        let ops = with_quota(volume_role("ops", "ops"), None, Some(5), &[]);
        let rs = [
            asks("e", "eng/ml", 2, 1),
            asks("n", "new", 6, 2),
            asks("o", "ops", 5, 3),
            asks("m", "new", 3, 4),
        ];
        let said: Vec<String> = shared(&rs, &disks, &[eng, ops])
            .into_iter()
            .map(|o| o.unwrap_or_else(|why| why.split(':').next().unwrap().to_owned()))
            .collect();
        assert_eq!(said, ["OverQuota", "Guaranteed", "n1.a", "n1.a"]);
    }

    #[test]
    fn l7_free_space_guaranteed_to_nobody_is_collected_too() {
        let disks = [disk("n1.a", "n1", 10, &[("has", 2)])];
        let ops = with_quota(volume_role("ops", "ops"), None, Some(5), &[]);
        let roles = std::slice::from_ref(&ops);
        let rs = [asks("big", "new", 4, 1), asks("small", "new", 3, 2), asks("o", "ops", 2, 3)];
        let said = shared(&rs, &disks, roles);
        assert!(said[0].as_ref().unwrap_err().starts_with("Guaranteed: 4Gi asked for is 1Gi too much"));
        assert_eq!(
            said[1].as_ref().unwrap_err(),
            "Guaranteed: 3Gi asked for: what is free and guaranteed to nobody is kept for reservation big of role new, \
             which is first in the queue; it is served when room appears"
        );
        assert_eq!(said[2], Ok("n1.a".into()), "what is its own");
        let never = [asks("never", "new", 6, 1), asks("small", "new", 3, 2)];
        assert_eq!(served(&never, &disks, roles), ["small"], "what can never be had holds nobody up");
    }

    #[test]
    fn q2_the_requests_of_one_role_share_its_limit() {
        let disks = [disk("n1.a", "n1", 10, &[])];
        let eng = with_quota(volume_role("eng", "eng"), Some(5), None, &[]);
        let rs = [asks("a", "eng", 3, 1), asks("b", "eng/ml", 3, 2), asks("c", "eng", 2, 3)];
        assert_eq!(served(&rs, &disks, std::slice::from_ref(&eng)), ["a", "c"]);
        let mut unknown = eng;
        unknown.status = None;
        assert_eq!(shared(&rs, &disks, &[unknown]), [], "nothing is decided before the role has summed up");
    }

    #[test]
    fn r6_growth_is_queued_too_and_takes_from_its_own_disk() {
        let disks = [disk("n1.a", "n1", 10, &[("r", 4)]), disk("n2.a", "n2", 20, &[])];
        let grows = |to| {
            let mut r = reserved("r", "eng", 4, &[]);
            r.spec.size = gi(to);
            r
        };
        assert_eq!(shared(&[grows(10)], &disks, &[]), [Ok("n1.a".into())]);
        assert_eq!(
            shared(&[grows(11)], &disks, &[]),
            [Err("NotEnoughRoom: 7Gi asked for: n1.a has 6Gi free, 1Gi too little; \
                  it is served when room appears"
                .into())]
        );
        assert_eq!(shared(&[grows(4)], &disks, &[]), [], "it has what it asks for");
    }

    #[test]
    fn d4_a_disk_that_is_not_ready_serves_nobody() {
        let mut down = disk("n1.a", "n1", 10, &[]);
        set_ready(&mut down.status.as_mut().unwrap().conditions, false);
        let said = shared(&[asks("a", "eng", 1, 1)], &[down], &[]);
        assert!(said[0].as_ref().unwrap_err().contains("n1.a is not ready"));
    }

    #[test]
    fn q3_thousands_are_shared_out_at_once() {
        let disks: Vec<NodeDisk> =
            (0..50).map(|i| disk(&format!("n{i}.a"), &format!("n{i}"), 10, &[("x", 9)])).collect();
        let rs: Vec<DiskReservation> = (0..3000)
            .map(|i| asks(&format!("r{i}"), &format!("role-{}", i % 20), 1 + i % 10, i as i64))
            .collect();
        let outcomes = shared(&rs, &disks, &[]);
        assert_eq!(outcomes.len(), 3000);
        assert!(outcomes.iter().filter(|o| o.is_ok()).count() <= 50);
    }
}
