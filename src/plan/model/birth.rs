//! A model of a volume that is born in its place, from its creation to its end: every order of the steps of two controllers with
//! old caches, an agent with an old ledger, and a user who deletes the volume at any time. The agent may die between any two
//! steps, and in some setups the controllers may.
//!
//! The model decides nothing itself, as that of [`super::ending`].

use std::sync::Arc;

use jiff::Timestamp;
use stateright::{Model, Property};

use super::super::node_task::{self, OnDisk, Outcome, Recorded, Task};
use super::super::testing::*;
use super::super::{birth, destroy, volume};
use super::explore::{Bound, explore};
use crate::api::{
    BackingState, Destroy, DiskReservation, FINALIZER, NodePart, SharedPersistentVolume,
    SharedPersistentVolumeStatus, condition,
};

#[derive(Clone, Copy, Debug)]
struct Setup {
    /// Controllers may die. Then an entry may outlast its volume, as everywhere.
    crashes: bool,
}

/// The parts of the object on which a decision can rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Volume {
    deleted: bool,
    placed: bool,
    ready: bool,
    made: bool,
    fenced: bool,
    tombstone: bool,
    erased: bool,
}

/// A read of the volume. It is old once the number of writes is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Copied(Volume, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Disk {
    Nothing,
    Record { fenced: bool },
    Receipt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// A reconcile: whether it has taken the entry or knows of one, has read the ledger after the DELETE, and the pods.
    Volume { read: Copied, taken: bool, entry: bool, looked: Option<Option<bool>>, live: bool },
    /// The place is not written.
    Settle,
    /// The place is about to be written to the volume, which is being deleted.
    PlaceLate(Copied),
    /// The entry is released; then the finalizer goes.
    End(Copied),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Agent {
    Idle,
    /// The volume was read, with the place that its status or the ledger has, then its record.
    Looked(Copied, Disk),
    /// The task is done, and its outcome not yet written.
    Done(Copied, Disk),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    volume: Option<Volume>,
    writes: u8,
    entry: bool,
    disk: Disk,
    /// The caches of the controllers: the volume, and whether the ledger has the entry.
    caches: [(Option<Copied>, bool); 2],
    works: [Option<Work>; 2],
    /// True if the ledger in the agent's cache has the entry.
    heard: bool,
    agent: Agent,
    /// False two seconds after the creation.
    young: bool,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Delete,
    Age,
    Hear(usize),
    Look(usize),
    /// The next read or write of a controller.
    Go(usize),
    Crash(usize),
    HearOnNode,
    LookOnNode,
    GoOnNode,
    CrashOnNode,
}

fn ledger(entry: bool) -> Arc<DiskReservation> {
    Arc::new(reserved("r", "eng", 10, if entry { &[("v", 1)] } else { &[] }))
}

impl Volume {
    fn object(self) -> SharedPersistentVolume {
        let r = ledger(true);
        let mut object = birth::born_in(super::super::testing::volume("v", "eng", 1), "r".into(), &[&r]);
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        object.metadata.deletion_timestamp = some_time().filter(|_| self.deleted);
        let mut status = match self.placed {
            true => birth::placed(&object, &r, std::slice::from_ref(&r)),
            false => SharedPersistentVolumeStatus::default(),
        };
        if self.made || self.fenced || self.erased {
            let backing = match (self.made, self.erased) {
                (_, true) => BackingState::Erased,
                (true, _) => BackingState::Made,
                _ => BackingState::Absent,
            };
            let size = self.made.then(|| gi(1));
            status.node = Some(NodePart { backing, size, fenced: self.fenced, ..Default::default() });
        }
        if self.made {
            let backed = condition::Verdict::yes("Backed", "made");
            condition::set(&mut status.conditions, condition::BACKED, backed, None, Timestamp::UNIX_EPOCH);
        }
        if self.ready {
            set_ready(&mut status.conditions, true);
        }
        status.destroy = self.tombstone.then(|| Destroy { tombstone: some_time(), ..Default::default() });
        object.status = Some(status);
        object
    }

    fn with(self, status: &SharedPersistentVolumeStatus) -> Self {
        let node = status.node.clone().unwrap_or_default();
        let is_ready = condition::is_true(&status.conditions, condition::READY);
        Self {
            placed: status.reservation.is_some(),
            ready: is_ready,
            made: self.made || node.backing == BackingState::Made,
            fenced: node.fenced,
            tombstone: status.destroy.as_ref().is_some_and(|destroy| destroy.tombstone.is_some()),
            erased: node.backing == BackingState::Erased,
            ..self
        }
    }
}

impl State {
    fn read(&self) -> Option<Copied> {
        Some(Copied(self.volume?, self.writes))
    }

    /// Writes the volume if it is the one that was read.
    fn swap(&mut self, read: Copied, now: Option<Volume>) -> bool {
        let is_current = self.volume.is_some() && read.1 == self.writes;
        if is_current && self.volume != now {
            (self.volume, self.writes) = (now, self.writes + 1);
        }
        is_current
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(if self.young { 0 } else { 3600 }).expect("a valid time")
    }

    fn go(&mut self, of: usize) {
        let Some(work) = self.works[of].take() else { return };
        self.works[of] = match work {
            Work::Volume { read, looked, live, .. } if read.0.deleted => self.destroy(read, looked, live),
            Work::Volume { read, taken, entry, .. } => self.live(read, taken, entry),
            Work::Settle => {
                let placed = birth::placed(&Volume::default().object(), &ledger(true), &[ledger(true)]);
                let now = self.volume.map(Volume::object);
                match volume::fate_of_entry(now.as_ref(), &placed) {
                    volume::EntryFate::Keep => None,
                    volume::EntryFate::End => {
                        self.entry = false;
                        None
                    }
                    volume::EntryFate::Place(_) => self.read().map(Work::PlaceLate),
                }
            }
            Work::PlaceLate(read) => {
                let placed = Volume { placed: true, ..read.0 };
                (!self.swap(read, Some(placed))).then_some(Work::Settle)
            }
            Work::End(read) => {
                self.swap(read, None);
                None
            }
        };
    }

    /// As controller/volume.rs.
    fn live(&mut self, read: Copied, taken: bool, entry: bool) -> Option<Work> {
        let r = ledger(entry);
        let seen = volume::Seen {
            reservations: vec![if read.0.placed { ledger(true) } else { r.clone() }],
            disks: vec![disk("n1.a", "n1", 20, &[("r", 10)]).into()],
            entry: (entry && !read.0.placed).then_some(Ok(r)),
            now: self.now(),
            ..volume_seen()
        };
        match volume::next(&read.0.object(), &seen) {
            volume::Step::TakeEntry(_) => {
                self.entry = true;
                Some(Work::Volume { read, taken: true, entry: true, looked: None, live: false })
            }
            volume::Step::Place(status) => {
                let now = read.0.with(&status);
                (!self.swap(read, Some(now))).then_some(Work::Settle)
            }
            volume::Step::Report(status) => {
                self.swap(read, Some(read.0.with(&status)));
                None
            }
            volume::Step::Await(_) => taken.then_some(Work::Settle),
            step => panic!("{step:?}"),
        }
    }

    /// As controller/destroy.rs.
    fn destroy(&mut self, read: Copied, looked: Option<Option<bool>>, live: bool) -> Option<Work> {
        let (taken, entry) = (false, false);
        let entries = |has: bool| if has { vec![ledger(true)] } else { vec![] };
        let seen = destroy::Seen {
            live: live.then(|| destroy::Live { pods: vec![], kind_deleted: false }),
            entries: looked.map(|looked| looked.map(entries)),
            now: self.now(),
            ..destroy_seen()
        };
        match destroy::next(&read.0.object(), &seen) {
            destroy::Step::LookForUsers => Some(Work::Volume { read, taken, entry, looked, live: true }),
            destroy::Step::LookForEntries => {
                let looked = Some(self.volume.map(|_| self.entry));
                Some(Work::Volume { read, taken, entry, looked, live })
            }
            destroy::Step::Report { status, .. } => {
                self.swap(read, Some(read.0.with(&status)));
                None
            }
            destroy::Step::End { reservations, .. } => {
                if !reservations.is_empty() {
                    self.entry = false;
                }
                Some(Work::End(read))
            }
            destroy::Step::Debounce | destroy::Step::Rest => None,
            step => panic!("{step:?}"),
        }
    }

    /// As agent/run.rs: the ledger is older than the volume.
    fn look_on_node(&mut self) {
        let Some(read) = self.read() else { return };
        if object_on_node(read, self.heard).is_some() {
            self.agent = Agent::Looked(read, self.disk);
        }
    }

    fn go_on_node(&mut self) {
        let (Agent::Looked(read, disk) | Agent::Done(read, disk)) = self.agent else { return };
        // A volume that was read without a place had its entry in the ledger.
        let Some(object) = object_on_node(read, true) else { return };
        let on_disk = match disk {
            Disk::Nothing => OnDisk::Nothing,
            Disk::Receipt => OnDisk::Receipt,
            Disk::Record { fenced } => {
                OnDisk::Record(Recorded { fenced, size: Some(1 << 30), ..Default::default() })
            }
        };
        let task = node_task::next(&object, on_disk);
        if let Agent::Looked(..) = self.agent {
            self.disk = match (task, self.disk) {
                (Task::Make, Disk::Nothing | Disk::Receipt) => Disk::Record { fenced: false },
                (Task::Fence, Disk::Record { .. }) => Disk::Record { fenced: true },
                (Task::Erase, Disk::Record { .. }) => Disk::Receipt,
                (_, disk) => disk,
            };
            if self.disk != disk && task == Task::Make && !self.entry {
                self.broken = Some("S2: bytes are made, and no ledger has them");
            }
            self.agent = Agent::Done(read, disk);
            return;
        }
        let outcome = match (task, disk) {
            (Task::Fence | Task::Erase, Disk::Nothing | Disk::Receipt) => Outcome::NoRecord,
            (Task::Fence, _) => Outcome::Fenced { pods: vec![], in_use: false },
            (Task::Erase, _) => Outcome::Erased(1 << 30),
            (Task::Make, _) => Outcome::Made(1 << 30),
            _ => Outcome::Untouched,
        };
        let (status, _) = node_task::report(&object, task, outcome, Timestamp::UNIX_EPOCH);
        // The agent writes its own part.
        let Volume { made, fenced, erased, .. } = read.0.with(&status);
        self.swap(read, Some(Volume { made, fenced, erased, ..read.0 }));
        self.agent = Agent::Idle;
    }
}

/// The object as the agent works on it; `None`: it leaves the object alone.
fn object_on_node(read: Copied, heard: bool) -> Option<SharedPersistentVolume> {
    let object = read.0.object();
    match read.0.placed {
        true => Some(object).filter(|_| !read.0.erased),
        false => birth::on_node(object, "n1", &[ledger(heard)]),
    }
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            volume: Some(Volume::default()),
            writes: 0,
            entry: false,
            disk: Disk::Nothing,
            caches: [(Some(Copied(Volume::default(), 0)), false); 2],
            works: [None; 2],
            heard: false,
            agent: Agent::Idle,
            young: true,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.volume.filter(|volume| !volume.deleted).map(|_| Action::Delete));
        actions.extend(state.young.then_some(Action::Age));
        for of in 0..2 {
            actions.extend((state.caches[of] != (state.read(), state.entry)).then_some(Action::Hear(of)));
            match state.works[of] {
                None => actions.extend(state.caches[of].0.map(|_| Action::Look(of))),
                Some(_) => {
                    actions.push(Action::Go(of));
                    actions.extend(self.crashes.then_some(Action::Crash(of)));
                }
            }
        }
        actions.extend((state.heard != state.entry).then_some(Action::HearOnNode));
        match state.agent {
            Agent::Idle => actions.push(Action::LookOnNode),
            _ => actions.extend([Action::GoOnNode, Action::CrashOnNode]),
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Delete => {
                state.volume.as_mut()?.deleted = true;
                state.writes += 1;
            }
            Action::Age => state.young = false,
            Action::Hear(of) => state.caches[of] = (state.read(), state.entry),
            Action::Look(of) => {
                let (read, entry) = state.caches[of];
                let (read, taken) = (read?, false);
                state.works[of] = Some(Work::Volume { read, taken, entry, looked: None, live: false });
            }
            Action::Go(of) => state.go(of),
            Action::Crash(of) => state.works[of] = None,
            Action::HearOnNode => state.heard = state.entry,
            Action::LookOnNode => state.look_on_node(),
            Action::GoOnNode => state.go_on_node(),
            Action::CrashOnNode => state.agent = Agent::Idle,
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("S2: bytes are made in a ledger", |_, s: &State| s.broken.is_none()),
            Property::always("X4: an entry outlasts its bytes", |_, s: &State| {
                s.entry || !matches!(s.disk, Disk::Record { .. })
            }),
            Property::always("S3: an object that is gone leaves no bytes", |_, s: &State| {
                s.volume.is_some() || !matches!(s.disk, Disk::Record { .. })
            }),
            Property::always("S10: a tombstone finds a fence", |_, s: &State| {
                !s.volume.is_some_and(|volume| volume.tombstone) || s.disk != Disk::Record { fenced: false }
            }),
            Property::sometimes("one write has the place and Ready", |_, s: &State| {
                s.volume.is_some_and(|volume| volume.ready && s.writes == 2)
            }),
            Property::sometimes("a volume ends that had bytes and no place", |_, s: &State| {
                s.volume.is_none() && s.disk == Disk::Receipt
            }),
        ];
        if !self.crashes {
            properties.push(Property::always("L5: an entry ends with its volume", |_, s: &State| {
                s.volume.is_some() || !s.entry || s.works != [None; 2]
            }));
        }
        properties
    }
}

/// S2, S3, S10, X4, L5: a part of all orders.
#[test]
fn s2_s3_a_volume_is_born_and_ends_in_few_steps() {
    for crashes in [false, true] {
        explore(Setup { crashes }, Bound::Steps(12));
    }
}

/// S2, S3, S10, X4, L5: `make model-check`.
#[test]
#[ignore = "minutes"]
fn s2_s3_model_check_a_volume_is_born_and_ends_in_every_order() {
    for crashes in [false, true] {
        explore(Setup { crashes }, Bound::All);
    }
}
