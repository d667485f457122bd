//! SHARE OUT: which of the reservations that wait is served next, and by which disk (Q3, L7).
//!
//! They are looked at in the order of [`super::queue`]. Whoever fits is given its disk in thought, which raises its role's
//! share, until all have been looked at.
//!
//! Nobody starves: one that does not fit now, and would fit into some disk if that were emptier, collects room on one
//! disk. Those behind it get none of that disk until it has been served; what can never fit any disk holds nobody up. The
//! same holds for what is free and guaranteed to nobody: it is collected for the first that needs more of it (Q2).

use std::collections::{BTreeMap, HashMap};

use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{DiskReservation, NodeDisk, Size, VolumeRole};

use super::queue::{Queue, Request};
use super::reserve::{self, Candidate};
use super::{ledger, orphans, quota, whole};

/// What becomes of a reservation that waits, or that wants to grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The disk of that name serves it now.
    Serve(String),
    /// It waits, for that reason.
    Wait(Verdict),
}

/// A disk as the sharing out goes on.
struct Room<'a> {
    disk: &'a NodeDisk,
    name: String,
    ready: bool,
    allocatable: u64,
    free: u64,
    /// Who collects room on it, and how many had been looked at before.
    kept_for: Option<(usize, &'a DiskReservation)>,
}

/// A VolumeRole with a quota as the sharing out goes on.
struct Book<'a> {
    role: &'a VolumeRole,
    current: bool,
    reserved: u64,
    lines: HashMap<&'a str, u64>,
}

/// What becomes of each reservation that waits for a disk, by UID. Refinements are no part of it: they take from their
/// parent, not from a disk. One whose VolumeRole has not summed up yet is left out; it comes when that has.
pub fn share_out(
    reservations: &[&DiskReservation],
    candidates: &[Candidate],
    roles: &[&VolumeRole],
) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    let counting = quota::counting(roles);
    let mut rooms = rooms(candidates);
    let mut books: Vec<Book> = counting.values().filter(|r| quota::has_quota(r)).map(|r| book(r)).collect();
    let requests = requests(reservations, &rooms, &mut outcomes);
    if requests.is_empty() {
        return outcomes;
    }
    let mut queue = Queue::new(requests, reservations, &counting);
    let mut waiting: Vec<(usize, Request)> = Vec::new();
    let mut unguaranteed = Unguaranteed::default();
    let mut looked_at = 0;
    while let Some(request) = queue.next() {
        looked_at += 1;
        let role = &request.reservation.spec.role;
        let may: Vec<usize> = may_serve(&request, &rooms, candidates);
        if may.is_empty() {
            let why = reserve::no_such_disk(request.reservation, candidates);
            outcomes.insert(request.uid, Outcome::Wait(why));
            continue;
        }
        let charged: Vec<usize> =
            (0..books.len()).filter(|i| quota::charges(&books[*i].role.spec.role, role, None)).collect();
        if charged.iter().any(|i| !books[*i].current) {
            continue;
        }
        let more = |book: &Book, target: u64| target - target.min(book.held(&request.uid));
        let over = charged.iter().find_map(|i| {
            let book = &books[*i];
            quota::over_limit(book.role, book.reserved, more(book, request.target))
        });
        if let Some(why) = over.or_else(|| unguaranteed.refuses(&request, (&rooms, &may), &books)) {
            outcomes.insert(request.uid, Outcome::Wait(why));
            continue;
        }
        // Whose data is on a disk already waits for nobody to have it back (X6).
        let back = |i: usize| orphans::held_for(rooms[i].disk, request.reservation) > 0;
        let open =
            may.iter().copied().filter(|i| rooms[*i].ready && (rooms[*i].kept_for.is_none() || back(*i)));
        let roomier = |a: &usize, b: &usize| {
            let (a, b) = (&rooms[*a], &rooms[*b]);
            a.free.cmp(&b.free).then_with(|| b.name.cmp(&a.name))
        };
        // All of a disk that is handed out whole weighs on the quotas, however little of it was asked for (D2, Q1).
        let known: Vec<(&VolumeRole, u64)> = books.iter().map(|book| (book.role, book.reserved)).collect();
        let free = rooms.iter().map(|room| room.free).fold(0, u64::saturating_add);
        let allowed = |room: &Room| {
            let within = |i: &usize| {
                let more = more(&books[*i], room.target(&request));
                quota::over_limit(books[*i].role, books[*i].reserved, more).is_none()
            };
            !room.is_whole()
                || charged.iter().all(within)
                    && quota::guaranteed(role, room.takes(&request), free, &known).is_none()
        };
        let fits =
            |i: &usize| rooms[*i].free_for(&request) >= rooms[*i].takes(&request) && allowed(&rooms[*i]);
        // A whole disk serves what no other can, and of those the smallest.
        let better = |a: &usize, b: &usize| match (rooms[*a].is_whole(), rooms[*b].is_whole()) {
            (true, true) => roomier(b, a),
            (false, false) => roomier(a, b),
            (a, b) => b.cmp(&a),
        };
        match open.clone().filter(fits).max_by(better) {
            Some(best) => {
                let target = rooms[best].target(&request);
                rooms[best].free = rooms[best].free_for(&request) - rooms[best].takes(&request);
                for i in charged {
                    books[i].reserved = books[i].reserved.saturating_add(more(&books[i], target));
                }
                queue.served(&request);
                outcomes.insert(request.uid, Outcome::Serve(rooms[best].name.clone()));
            }
            None => {
                let emptied =
                    open.filter(|i| rooms[*i].kept_for.is_none() && rooms[*i].allocatable >= request.target);
                if let Some(collects) = emptied.max_by(roomier) {
                    rooms[collects].kept_for = Some((looked_at, request.reservation));
                }
                waiting.push((looked_at, request));
            }
        }
    }
    // What is said has the room that is left when all that can be served are, so that it stays the same while they are.
    for (place, request) in waiting {
        let may = may_serve(&request, &rooms, candidates);
        let lines = may.into_iter().map(|i| rooms[i].told(place, request.asked)).collect();
        let asked = match request.asked == request.target {
            true => request.reservation.spec.size.clone(),
            false => Size::from_bytes(request.asked),
        };
        outcomes.insert(request.uid, Outcome::Wait(reserve::not_enough_room(&asked, lines)));
    }
    outcomes
}

/// Those that wait, in the order in which their turn comes if there is room for all (Q3).
pub fn line<'a>(
    reservations: &[&'a DiskReservation],
    candidates: &[Candidate],
    roles: &[&VolumeRole],
) -> Vec<&'a DiskReservation> {
    let requests = requests(reservations, &rooms(candidates), &mut BTreeMap::new());
    let counting = quota::counting(roles);
    let mut queue = Queue::new(requests, reservations, &counting);
    let next = || {
        let request = queue.next()?;
        queue.served(&request);
        Some(request.reservation)
    };
    std::iter::from_fn(next).collect()
}

impl Book<'_> {
    fn held(&self, uid: &str) -> u64 {
        self.lines.get(uid).copied().unwrap_or(0)
    }
}

/// What is free on all disks and guaranteed to nobody: kept for the first that needs more of it than there is.
#[derive(Default)]
struct Unguaranteed<'a> {
    kept_for: Option<(u64, &'a DiskReservation)>,
}

impl<'a> Unguaranteed<'a> {
    /// Why the request does not get what it asks for of what is free.
    fn refuses(
        &mut self,
        request: &Request<'a>,
        (rooms, may): (&[Room], &[usize]),
        books: &[Book],
    ) -> Option<Verdict> {
        let role = &request.reservation.spec.role;
        let sum = |of: fn(&Room) -> u64| rooms.iter().map(of).fold(0, u64::saturating_add);
        let known: Vec<(&VolumeRole, u64)> = books.iter().map(|book| (book.role, book.reserved)).collect();
        let free = sum(|room| room.free);
        if let Some(why) = quota::guaranteed(role, request.asked, free, &known) {
            // With everything given back, it would fit beside all guarantees.
            let none: Vec<(&VolumeRole, u64)> = known.iter().map(|(role, _)| (*role, 0)).collect();
            let fits = quota::guaranteed(role, request.target, sum(|room| room.allocatable), &none).is_none()
                && may.iter().any(|i| rooms[*i].ready && rooms[*i].allocatable >= request.target);
            if self.kept_for.is_none() && fits {
                self.kept_for = Some((request.asked, request.reservation));
            }
            return Some(why);
        }
        let (kept, first) = self.kept_for?;
        // Who takes what is guaranteed to it takes it from nobody.
        let own = known.iter().any(|(of, reserved)| {
            let guarantee = of.spec.quota.guarantee.as_ref().map_or(0, Size::bytes_or_zero);
            quota::charges(&of.spec.role, role, None) && guarantee.saturating_sub(*reserved) >= request.asked
        });
        let with_kept = request.asked.saturating_add(kept);
        (!own && quota::guaranteed(role, with_kept, free, &known).is_some()).then(|| {
            Verdict::no(
                reason::GUARANTEED,
                format!(
                    "{} asked for: what is free and guaranteed to nobody is kept for reservation {} of role {}, \
                     which is first in line; it is served when room appears",
                    Size::from_bytes(request.asked),
                    first.name_any(),
                    first.spec.role
                ),
            )
        })
    }
}

impl Room<'_> {
    fn is_whole(&self) -> bool {
        whole::is_whole(self.disk.spec.kind)
    }

    /// What the request would have in all, if it were served here.
    fn target(&self, request: &Request) -> u64 {
        whole::of_disk(self.disk, request.target)
    }

    /// What it would take beyond what it has.
    fn takes(&self, request: &Request) -> u64 {
        self.target(request) - (request.target - request.asked)
    }

    /// What is free for it: for nobody else what is kept for orphans that lived in it (X6).
    fn free_for(&self, request: &Request) -> u64 {
        let kept = if self.ready { orphans::held_for(self.disk, request.reservation) } else { 0 };
        self.free.saturating_add(kept)
    }

    /// How it stands for the one that was looked at in that place.
    fn told(&self, place: usize, asked: u64) -> String {
        let (name, free) = (&self.name, Size::from_bytes(self.free));
        match self.kept_for.filter(|(kept, _)| *kept < place) {
            _ if !self.ready => format!("{name} is not ready"),
            Some((_, first)) if self.free >= asked => format!(
                "{free} free on {name} are kept for reservation {} of role {}, which is first in line",
                first.name_any(),
                first.spec.role
            ),
            _ if self.is_whole() && self.allocatable >= asked && self.free < self.allocatable => {
                format!("{name} is handed out whole and taken")
            }
            _ if self.is_whole() && self.free >= asked => {
                format!("all {free} of {name} would have to be taken, more than the quotas of roles leave")
            }
            _ => {
                let missing = Size::from_bytes(asked.saturating_sub(self.free));
                format!("{name} has {free} free, {missing} too little")
            }
        }
    }
}

fn rooms<'a>(candidates: &[Candidate<'a>]) -> Vec<Room<'a>> {
    let room = |c: &Candidate<'a>| {
        let held = c.disk.status.as_ref().map_or(&[][..], |s| &s.reservations);
        let (ready, allocatable) = (reserve::is_ready(c.disk), reserve::allocatable(c.disk));
        let free =
            if ready { ledger::free(held, allocatable).saturating_sub(orphans::held(c.disk)) } else { 0 };
        Room { disk: c.disk, name: c.disk.name_any(), ready, allocatable, free, kept_for: None }
    };
    candidates.iter().map(room).collect()
}

fn book(role: &VolumeRole) -> Book<'_> {
    let lines = role.status.iter().flat_map(|s| &s.reservations);
    Book {
        role,
        current: quota::is_current(role),
        reserved: quota::reserved(role),
        lines: lines.map(|line| (line.uid.as_str(), line.size.bytes_or_zero())).collect(),
    }
}

fn may_serve(request: &Request, rooms: &[Room], candidates: &[Candidate]) -> Vec<usize> {
    (0..rooms.len()).filter(|i| reserve::may_serve(request.reservation, &candidates[*i])).collect()
}

/// Those that wait. One that a disk's ledger has already needs no place in line.
fn requests<'a>(
    reservations: &[&'a DiskReservation],
    rooms: &[Room],
    outcomes: &mut BTreeMap<String, Outcome>,
) -> Vec<Request<'a>> {
    let waits = |r: &&&DiskReservation| {
        r.metadata.deletion_timestamp.is_none()
            && r.spec.parent.is_none()
            && reserve::asked(r).map_or(true, |asked| asked > 0)
    };
    let waiting: Vec<&&DiskReservation> = reservations.iter().filter(waits).collect();
    if waiting.is_empty() {
        return vec![];
    }
    let mut lines: HashMap<&str, (&str, u64)> = HashMap::new();
    for room in rooms {
        for line in room.disk.status.iter().flat_map(|s| &s.reservations) {
            lines.insert(&line.uid, (&room.name, line.size.bytes_or_zero()));
        }
    }
    let mut requests = Vec::new();
    for reservation in waiting {
        let uid = reservation.uid().unwrap_or_default();
        let placed = reservation.status.as_ref().is_some_and(|s| s.node_disk.is_some());
        let target = match reserve::entry(reservation) {
            Ok(entry) => entry.size.bytes_or_zero(),
            Err(why) => {
                outcomes.insert(uid, Outcome::Wait(why));
                continue;
            }
        };
        match lines.get(uid.as_str()) {
            Some((disk, line)) if *line >= target || !placed => {
                outcomes.insert(uid, Outcome::Serve((*disk).to_owned()));
            }
            line => {
                let asked = target - line.map_or(0, |(_, line)| *line);
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
    fn d2_q1_all_of_a_whole_disk_weighs_on_the_quota() {
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
    fn x6_whose_data_is_there_has_its_room_back_whoever_collects_some() {
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
        assert!(outcomes[2].is_err(), "the first collects room still");
        // What is kept for it is nobody else's.
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
    fn l7_the_first_in_line_collects_room_and_those_behind_cannot_take_it() {
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
             which is first in line; it is served when room appears"
        );
        // It collects on one disk only.
        let two = [disk("n1.a", "n1", 10, &[("has", 7)]), disk("n2.a", "n2", 10, &[("h2", 8)])];
        assert_eq!(shared(&rs, &two, &[])[1], Ok("n2.a".into()));
    }

    #[test]
    fn l7_what_can_never_fit_holds_nobody_up() {
        let disks = [disk("n1.a", "n1", 10, &[("has", 7)])];
        assert_eq!(served(&[asks("huge", "ops", 11, 1), asks("small", "ops", 2, 2)], &disks, &[]), ["small"]);
    }

    #[test]
    fn l7_whoever_goes_on_asking_for_little_does_not_starve_whoever_asks_for_much() {
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
    fn q2_the_limit_and_the_guarantee_hold_nobody_else_up() {
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
    fn l7_what_is_guaranteed_to_nobody_is_collected_too() {
        let disks = [disk("n1.a", "n1", 10, &[("has", 2)])];
        let ops = with_quota(volume_role("ops", "ops"), None, Some(5), &[]);
        let roles = std::slice::from_ref(&ops);
        let rs = [asks("big", "new", 4, 1), asks("small", "new", 3, 2), asks("o", "ops", 2, 3)];
        let said = shared(&rs, &disks, roles);
        assert!(said[0].as_ref().unwrap_err().starts_with("Guaranteed: 4Gi asked for is 1Gi too much"));
        assert_eq!(
            said[1].as_ref().unwrap_err(),
            "Guaranteed: 3Gi asked for: what is free and guaranteed to nobody is kept for reservation big of role new, \
             which is first in line; it is served when room appears"
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
        assert_eq!(shared(&rs, &disks, &[unknown]), [], "before it has summed up nobody is told anything");
    }

    #[test]
    fn r6_one_that_grows_stands_in_the_same_line_and_takes_from_its_own_disk() {
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
    fn thousands_that_wait_are_shared_out_in_one_go() {
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
