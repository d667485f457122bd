//! Every order of the steps of two controllers with old caches that reserve, resize and unreserve on one disk and within one
//! limit, with a crash between any two reads or writes (R1, R6, Q2, S1).
//!
//! The controllers are those of the property test. Between two steps a state has the numbers alone: what an object has, and
//! for each copy of it if the object has changed since.

use stateright::{Model, Property};

use super::super::holder::Holder;
use super::super::reservation_seen::{LedgerOf, Seen};
use super::super::share::Outcome;
use super::super::testing::*;
use super::controller::{Controller, Settling};
use super::explore::{Bound, explore, many};
use super::server::Store;
use crate::api::condition::Verdict;
use crate::api::{
    DiskKind, DiskReservation, DiskReservationStatus, FINALIZER, LedgerEntry, NodeDisk, ReservationPhase,
    VolumeRole,
};

const DISK: &str = "n1.a";
const ROLE: &str = "eng";
const NAMES: [&str; 2] = ["r0", "r1"];
/// Gi of the disk, and the limit of the role.
const CAPACITY: u64 = 10;
const LIMIT: u64 = 9;

/// Bounds of a run.
#[derive(Clone, Debug)]
pub(super) struct Reserving {
    /// The sizes that users ask for, in turn.
    pub sizes: [&'static [u64]; 2],
    pub controllers: usize,
    /// True if the first reservation has its first size and asks for the second one, for which the first controller has done
    /// two steps. If the second one is larger, it has just taken the bytes from the VolumeRole, and takes those of the disk next.
    pub resizes: bool,
    /// Steps before the first state.
    pub after: &'static [Action],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reservation {
    asked: u64,
    generation: i64,
    /// The size, once it is placed.
    has: Option<u64>,
    guarded: bool,
    deleted: bool,
}

/// An entry of each reservation: bytes and generation.
type Entries = [Option<(u64, i64)>; 2];

/// An object or a copy of it, and true while the object is the same.
type Copied<T> = (T, bool);

/// The objects of the API server, or of a cache or a read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Objects {
    reservations: [Option<Copied<Reservation>>; 2],
    disk: Copied<Entries>,
    role: Copied<Entries>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shared {
    None,
    Serve,
    Wait,
}

/// Entries that are being settled: of the disk or the role, of which reservations, and the reads so far.
type Tidying = (bool, [bool; 2], Option<Objects>, Option<Objects>);

/// The work that a controller has begun.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Work {
    who: usize,
    seen: Option<(Objects, Shared, bool, bool)>,
    settling: Vec<Tidying>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Actor {
    cache: Objects,
    work: Option<Work>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    server: Objects,
    /// The number of sizes that users have asked for.
    asked: [usize; 2],
    actors: Vec<Actor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Ask(usize),
    Delete(usize),
    Hear(usize),
    Look(usize, usize),
    /// A controller tidies the ledger of the disk, or of the role.
    Tidy(usize, bool),
    Go(usize),
    Crash(usize),
}

const NEW: &str = "0";
const OLD: &str = "old";

fn version(is_same: bool) -> Option<String> {
    Some(if is_same { NEW } else { OLD }.to_owned())
}

fn entries(of: &Entries) -> Vec<LedgerEntry> {
    let entry = |(name, entry): (&&str, &Option<(u64, i64)>)| {
        let (bytes, generation) = (*entry)?;
        Some(LedgerEntry { generation: Some(generation), ..ledger_entry(name, ROLE, bytes) })
    };
    NAMES.iter().zip(of).filter_map(entry).collect()
}

fn of_entries(entries: &[LedgerEntry]) -> Entries {
    NAMES.map(|name| {
        let entry = entries.iter().find(|entry| entry.name == name)?;
        Some((entry.size.bytes_or_zero() >> 30, entry.generation.unwrap_or_default()))
    })
}

impl Reservation {
    fn object(&self, name: &str) -> DiskReservation {
        let mut object = reservation(name, ROLE, self.asked);
        object.metadata.generation = Some(self.generation);
        object.metadata.finalizers = self.guarded.then(|| vec![FINALIZER.to_owned()]);
        object.metadata.deletion_timestamp = if self.deleted { some_time() } else { None };
        object.status = self.has.map(|has| DiskReservationStatus {
            phase: ReservationPhase::Reserved,
            node_disk: Some(DISK.into()),
            node_name: Some("n1".into()),
            disk_kind: Some(DiskKind::Path),
            size: Some(gi(has)),
            ..Default::default()
        });
        object
    }

    fn of(object: &DiskReservation) -> Self {
        let placed = object.status.as_ref().filter(|status| status.node_disk.is_some());
        Self {
            asked: object.spec.size.bytes_or_zero() >> 30,
            generation: object.metadata.generation.unwrap_or_default(),
            has: placed.and_then(|status| status.size.as_ref()).map(|size| size.bytes_or_zero() >> 30),
            guarded: object.metadata.finalizers.is_some(),
            deleted: object.metadata.deletion_timestamp.is_some(),
        }
    }
}

fn disk_with((held, is_same): &Copied<Entries>) -> NodeDisk {
    let mut object = disk(DISK, "n1", CAPACITY, &[]);
    object.status.get_or_insert_default().reservations = entries(held);
    object.metadata.resource_version = version(*is_same);
    object
}

fn role_with((held, is_same): &Copied<Entries>) -> VolumeRole {
    let mut object = with_quota(volume_role(ROLE, ROLE), Some(LIMIT), None, &[]);
    object.status.get_or_insert_default().reservations = entries(held);
    object.metadata.resource_version = version(*is_same);
    object
}

impl Objects {
    fn new() -> Self {
        Self { reservations: [None, None], disk: ([None; 2], true), role: ([None; 2], true) }
    }

    fn store(&self) -> Store {
        let mut store = Store::default();
        store.disks.insert(DISK.into(), disk_with(&self.disk).into());
        store.roles.insert(ROLE.into(), role_with(&self.role).into());
        for (name, found) in NAMES.iter().zip(&self.reservations) {
            if let Some((found, is_same)) = found {
                let mut object = found.object(name);
                object.metadata.resource_version = version(*is_same);
                store.reservations.insert((*name).into(), object.into());
            }
        }
        store
    }

    /// The objects of a store. `now` are those of the API server.
    fn of(store: &Store, now: &Store) -> Self {
        let disk = store.get::<NodeDisk>(DISK).expect("a disk");
        let role = store.get::<VolumeRole>(ROLE).expect("a role");
        let is_same = |of: Option<String>, now: Option<String>| of.is_some() && of == now;
        let version = |of: &Option<String>| of.clone();
        Self {
            reservations: NAMES.map(|name| {
                let found = store.get::<DiskReservation>(name)?;
                let there = now.get::<DiskReservation>(name);
                let there = there.and_then(|there| there.metadata.resource_version.clone());
                Some((Reservation::of(&found), is_same(version(&found.metadata.resource_version), there)))
            }),
            disk: (
                of_entries(disk.ledger().entries()),
                is_same(
                    version(&disk.metadata.resource_version),
                    now.get::<NodeDisk>(DISK).and_then(|disk| disk.metadata.resource_version.clone()),
                ),
            ),
            role: (
                of_entries(role.ledger().entries()),
                is_same(
                    version(&role.metadata.resource_version),
                    now.get::<VolumeRole>(ROLE).and_then(|role| role.metadata.resource_version.clone()),
                ),
            ),
        }
    }

    /// All is as it was read: these are the objects themselves.
    fn current(mut self) -> Self {
        (self.disk.1, self.role.1) = (true, true);
        self.reservations.iter_mut().flatten().for_each(|reservation| reservation.1 = true);
        self
    }

    /// Notes which of the objects have changed: those of `before` that are not in `now` as they were.
    fn age(&mut self, before: &Self, now: &Self) {
        self.disk.1 &= before.disk.0 == now.disk.0;
        self.role.1 &= before.role.0 == now.role.0;
        for i in 0..2 {
            if let Some(copy) = &mut self.reservations[i] {
                copy.1 &= before.reservations[i] == now.reservations[i];
            }
        }
    }
}

impl Work {
    fn controller(&self, cache: &Objects) -> Controller {
        let seen = self.seen.as_ref().and_then(|(objects, shared, live, settled)| {
            let store = objects.store();
            let reservation = store.get::<DiskReservation>(NAMES[self.who])?;
            let outcome = match shared {
                Shared::None => None,
                Shared::Serve => Some(Outcome::Serve { disk: DISK.into(), target: 0 }),
                Shared::Wait => Some(Outcome::Wait {
                    why: Verdict::no("NotEnoughRoom", "no room"),
                    turn: None,
                    gave: None,
                }),
            };
            Some(Seen { live: *live, settled: *settled, outcome, ..store.seen(reservation) })
        });
        let settling = self.settling.iter().map(|(of_disk, whose, ledger, owners)| Settling {
            of: if *of_disk { LedgerOf::Disk(DISK.into()) } else { LedgerOf::Role(ROLE.into()) },
            entries: (0..2).filter(|i| whose[*i]).map(|i| ledger_entry(NAMES[i], ROLE, 0)).collect(),
            ledger: ledger.as_ref().map(Objects::store),
            owners: owners.as_ref().map(Objects::store),
        });
        Controller { cache: cache.store(), seen, settling: settling.collect() }
    }

    /// `None`: nothing is left to do.
    fn of(controller: &Controller, who: usize, now: &Store) -> Option<Self> {
        let seen = controller.seen.as_ref().map(|seen| {
            let mut store = Store::default();
            store.disks.extend(seen.disks.iter().map(|disk| (DISK.to_owned(), disk.clone())));
            store.roles.extend(seen.roles.iter().map(|role| (ROLE.to_owned(), role.clone())));
            store.reservations.insert(NAMES[who].into(), seen.reservation.clone());
            let shared = match &seen.outcome {
                None => Shared::None,
                Some(Outcome::Serve { .. }) => Shared::Serve,
                Some(Outcome::Wait { .. }) => Shared::Wait,
            };
            (Objects::of(&store, now), shared, seen.live, seen.settled)
        });
        let settling = controller.settling.iter().map(|settling| {
            let whose = NAMES.map(|name| settling.entries.iter().any(|entry| entry.name == name));
            let objects = |store: &Option<Store>| store.as_ref().map(|store| Objects::of(store, now));
            let of_disk = matches!(settling.of, LedgerOf::Disk(_));
            (of_disk, whose, objects(&settling.ledger), objects(&settling.owners))
        });
        let work = Self { who, seen, settling: settling.collect() };
        (work.seen.is_some() || !work.settling.is_empty()).then_some(work)
    }

    fn copies(&mut self) -> impl Iterator<Item = &mut Objects> {
        let settling = self.settling.iter_mut().flat_map(|(_, _, ledger, owners)| [ledger, owners]);
        self.seen.iter_mut().map(|seen| &mut seen.0).chain(settling.flatten())
    }
}

impl State {
    /// Notes the present objects. Copies of other ones are old.
    fn write(&mut self, now: Objects) {
        for actor in &mut self.actors {
            let copies = actor.work.iter_mut().flat_map(Work::copies);
            copies.chain([&mut actor.cache]).for_each(|copy| copy.age(&self.server, &now));
        }
        self.server = now;
    }
}

fn sum(of: &Entries) -> u64 {
    of.iter().flatten().map(|(bytes, _)| bytes).sum()
}

impl Model for Reserving {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (mut server, mut asked) = (Objects::new(), [0, 0]);
        if let ([has, wanted, ..], true) = (self.sizes[0], self.resizes) {
            let first =
                Reservation { asked: *wanted, generation: 2, has: Some(*has), guarded: true, deleted: false };
            (server.reservations[0], asked[0]) = (Some((first, true)), 2);
            (server.disk.0[0], server.role.0[0]) = (Some((*has, 1)), Some((*has, 1)));
        }
        let actor = Actor { cache: server.clone(), work: None };
        let begin = State { server, asked, actors: vec![actor; self.controllers] };
        let before = [Action::Look(0, 0), Action::Go(0), Action::Go(0), Action::Hear(1)];
        let steps = before.into_iter().filter(|_| self.resizes).chain(self.after.iter().copied());
        vec![steps.fold(begin, |state, step| self.next_state(&state, step).unwrap_or(state))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for who in 0..2 {
            let found = state.server.reservations[who].as_ref();
            let is_new = state.asked[who] == 0;
            let may_ask = is_new || found.is_some_and(|(found, _)| !found.deleted);
            let has_more = state.asked[who] < self.sizes[who].len();
            actions.extend((may_ask && has_more).then_some(Action::Ask(who)));
            let may_delete = found.is_some_and(|(found, _)| !found.deleted);
            actions.extend(may_delete.then_some(Action::Delete(who)));
        }
        for (of, actor) in state.actors.iter().enumerate() {
            actions.extend((actor.cache != state.server).then_some(Action::Hear(of)));
            if actor.work.is_some() {
                actions.extend([Action::Go(of), Action::Crash(of)]);
                continue;
            }
            let known = (0..2).filter(|who| actor.cache.reservations[*who].is_some());
            actions.extend(known.map(|who| Action::Look(of, who)));
            actions.extend([Action::Tidy(of, true), Action::Tidy(of, false)]);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Ask(who) => {
                let asked = self.sizes[who][state.asked[who]];
                state.asked[who] += 1;
                let mut now = state.server.clone();
                let found = now.reservations[who].get_or_insert((
                    Reservation { asked, generation: 0, has: None, guarded: false, deleted: false },
                    true,
                ));
                (found.0.asked, found.0.generation) = (asked, found.0.generation + 1);
                state.write(now);
            }
            Action::Delete(who) => {
                let mut now = state.server.clone();
                let found = now.reservations[who].as_mut()?;
                found.0.deleted = true;
                if !found.0.guarded {
                    now.reservations[who] = None;
                }
                state.write(now);
            }
            Action::Hear(of) => state.actors[of].cache = state.server.clone(),
            Action::Crash(of) => state.actors[of].work = None,
            Action::Look(..) | Action::Tidy(..) | Action::Go(_) => {
                let (Action::Look(of, _) | Action::Tidy(of, _) | Action::Go(of)) = action else {
                    return None;
                };
                let actor = &state.actors[of];
                let idle = Work { who: 0, seen: None, settling: vec![] };
                let work = actor.work.as_ref().unwrap_or(&idle);
                let (mut who, mut controller) = (work.who, work.controller(&actor.cache));
                let mut server = state.server.store();
                match action {
                    Action::Look(_, whose) => {
                        who = whose;
                        controller.look(controller.cache.get::<DiskReservation>(NAMES[who])?);
                    }
                    Action::Tidy(_, true) => controller.look_at_disk(DISK),
                    Action::Tidy(_, false) => controller.look_at_role(ROLE, &mut server),
                    _ => drop(controller.go(&mut server)),
                }
                let work = Work::of(&controller, who, &server);
                let now = Objects::of(&server, &server).current();
                state.write(now);
                state.actors[of].work = work;
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1: a disk gives what it has", |_, s: &State| {
                sum(&s.server.disk.0) <= CAPACITY
            }),
            Property::always("Q2: a role reserves within its limit", |_, s: &State| {
                sum(&s.server.role.0) <= LIMIT
            }),
            Property::always("S1, Q2: a reservation has no more than its entries", |_, s: &State| {
                (0..2).all(|who| {
                    let found = s.server.reservations[who].as_ref().map(|(found, _)| found);
                    let has = found.filter(|found| !found.deleted).and_then(|found| found.has).unwrap_or(0);
                    let entry = |of: &Entries| of[who].map_or(0, |(bytes, _)| bytes);
                    has <= entry(&s.server.disk.0) && has <= entry(&s.server.role.0)
                })
            }),
            Property::sometimes("both have bytes", |_, s: &State| {
                s.server.reservations.iter().all(|r| r.as_ref().is_some_and(|(r, _)| r.has > Some(0)))
            }),
        ]
    }
}

/// S1, R6, Q2: a part of all orders.
#[test]
fn s1_q2_two_controllers_reserve_in_few_steps() {
    explore(Reserving { sizes: [&[6], &[6]], controllers: 2, resizes: false, after: &[] }, Bound::Steps(12));
}

/// S1, R6, Q2: a controller tidies the entries of a reservation that another one resizes.
#[test]
fn s1_r6_two_controllers_grow_and_tidy_in_few_steps() {
    explore(Reserving { sizes: [&[4, 6], &[]], controllers: 2, resizes: true, after: &[] }, Bound::Steps(8));
}

/// S1, R6: a controller tidies the entries of a reservation that another one shrinks.
#[test]
fn s1_r6_two_controllers_shrink_and_tidy_in_few_steps() {
    explore(
        Reserving { sizes: [&[4, 4, 2], &[]], controllers: 2, resizes: true, after: &[] },
        Bound::Steps(8),
    );
}

/// S1, R6: a user takes the growth back and asks for it again, while another controller is about to cut the entry that was
/// taken for it. Nobody may report that entry.
#[test]
fn s1_r6_an_entry_for_an_earlier_spec_is_not_reported() {
    use Action::{Ask, Go, Hear, Tidy};
    let after = &[Go(0), Ask(0), Hear(1), Tidy(1, true), Go(1), Go(1)];
    let sizes: [&[u64]; 2] = [&[4, 6, 4, 6], &[]];
    explore(Reserving { sizes, controllers: 2, resizes: true, after }, Bound::Steps(9));
}

/// S1, R6, Q2: `make model-check`.
#[test]
#[ignore = "minutes"]
fn s1_q2_model_check_reservations_in_every_order() {
    let setups = [
        Reserving { sizes: [&[6, 2, 5], &[5]], controllers: 1, resizes: false, after: &[] },
        Reserving { sizes: [&[6], &[5]], controllers: 2, resizes: false, after: &[] },
        Reserving { sizes: [&[4, 6, 2], &[5]], controllers: 2, resizes: true, after: &[] },
    ];
    let states: usize = setups.into_iter().map(|setup| explore(setup, many())).sum();
    println!("{states} states");
}
