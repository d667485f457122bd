//! A model of bind, publish, unbind, retire, DELETE, fence, tombstone and erase of one volume: every order of the steps of
//! two controllers with old caches, an agent, a kubelet and two users with a claim and a pod each, with a crash between any
//! two steps.
//!
//! The model decides nothing itself. A copy of the object becomes a real one, the product's function decides on that, and
//! the outcome is written by compare-and-swap. A copy has no version: it notes whether the object has changed since.

mod object;
mod steps;

use stateright::{Model, Property};

use super::super::publish::Permit;
use super::explore::{Bound, explore, many};
use object::Volume;
use steps::{Agent, Controller};

/// The number of users.
const USERS: usize = 2;

/// A volume, and what people do with it.
#[derive(Clone, Copy, Debug)]
struct Setup {
    shared: bool,
    /// `deletionPolicy: Wait`: a DELETE is accepted while the volume is in use.
    waits: bool,
    /// Somebody retires the volume, and may take that back, instead of a DELETE.
    retires: bool,
    /// Finalizers of claims are removed by hand.
    strips: bool,
    /// The second controller acts, too.
    two_controllers: bool,
    /// So many users claim the volume.
    users: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    ToCome,
    Here,
    Leaving,
    Gone,
}

/// A read of the volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Copied {
    volume: Volume,
    /// False once the object has changed: a write that is based on this copy fails.
    is_current: bool,
}

/// The volume on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Disk {
    Record { fenced: bool, erasing: bool },
    Receipt,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    volume: Option<Volume>,
    /// The entry in the ledger of the reservation.
    has_entry: bool,
    disk: Disk,
    claims: [Life; USERS],
    /// The PersistentVolume of each claim.
    pvs: [bool; USERS],
    pods: [Life; USERS],
    /// A publish under way, with its permit.
    publishing: [Option<bool>; USERS],
    mounts: [bool; USERS],
    controllers: [Controller; 2],
    agent: Agent,
    /// True once a tombstone was written.
    had_tombstone: bool,
    /// The rule that a step broke.
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Claim(usize),
    DeleteClaim(usize),
    StripClaim(usize),
    StartPod(usize),
    EndPod(usize),
    Retire(bool),
    Delete,
    Publish(usize),
    Mount(usize),
    Unmount(usize),
    /// A controller's cache catches up.
    Hear(usize),
    Look(usize),
    Bind(usize, usize),
    Leave(usize, usize),
    /// The next read or write of a controller.
    Go(usize),
    Crash(usize),
    LookOnNode,
    /// The next step of the agent.
    GoOnNode,
    CrashOnNode,
}

impl State {
    /// Writes the volume. All copies are old then.
    fn write(&mut self, now: Option<Volume>) {
        let controllers = self.controllers.iter_mut().flat_map(Controller::copies);
        controllers.chain(self.agent.copy()).for_each(|copy| copy.is_current = false);
        self.had_tombstone |= now.as_ref().is_some_and(|now| now.tombstone);
        self.volume = now;
    }

    /// Writes the volume if it is the one that was read.
    fn swap(&mut self, read: &Copied, now: Volume) -> bool {
        if !read.is_current || self.volume.is_none() {
            return false;
        }
        if self.volume.as_ref() != Some(&now) {
            self.check_binding(&now);
            self.write(Some(now));
        }
        true
    }

    /// X2, X5, S5, C3: a claim enters the list of a volume that is on offer.
    fn check_binding(&mut self, now: &Volume) {
        let Some(before) = &self.volume else { return };
        let is_new = (0..USERS).any(|user| now.claims[user] && !before.claims[user]);
        if is_new && (before.deleted || before.retires || !before.ready) {
            self.broken = Some("S5, X2: a claim was bound to a volume that is not on offer");
        }
    }

    fn read(&self) -> Option<Copied> {
        Some(Copied { volume: self.volume.clone()?, is_current: true })
    }

    fn mount(&mut self, user: usize, permit: bool) {
        let others = (0..USERS).any(|other| other != user && self.mounts[other]);
        let is_open = self.disk == Disk::Record { fenced: false, erasing: false };
        self.publishing[user] = None;
        if is_open && (permit || !others) {
            self.mounts[user] = true;
        }
    }
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            volume: Some(Volume::made()),
            has_entry: true,
            disk: Disk::Record { fenced: false, erasing: false },
            claims: [Life::ToCome; USERS],
            pvs: [false; USERS],
            pods: [Life::ToCome; USERS],
            publishing: [None; USERS],
            mounts: [false; USERS],
            controllers: Default::default(),
            agent: Agent::Idle,
            had_tombstone: false,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let volume = state.volume.as_ref();
        for user in 0..USERS {
            let (claim, pod) = (state.claims[user], state.pods[user]);
            actions.extend((claim == Life::ToCome && user < self.users).then_some(Action::Claim(user)));
            actions.extend((claim == Life::Here).then_some(Action::DeleteClaim(user)));
            let strips = self.strips && [Life::Here, Life::Leaving].contains(&claim);
            actions.extend(strips.then_some(Action::StripClaim(user)));
            let may_start = pod == Life::ToCome && claim == Life::Here && state.pvs[user];
            actions.extend(may_start.then_some(Action::StartPod(user)));
            actions.extend((pod == Life::Here).then_some(Action::EndPod(user)));
            let starts = pod == Life::Here && state.pvs[user] && !state.mounts[user];
            actions.extend((starts && state.publishing[user].is_none()).then_some(Action::Publish(user)));
            actions.extend(state.publishing[user].map(|_| Action::Mount(user)));
            actions.extend((state.mounts[user] && pod == Life::Gone).then_some(Action::Unmount(user)));
        }
        let may_delete = |volume: &Volume| {
            !volume.deleted && !self.retires && (self.waits || volume.users == 0 && !volume.is_bound())
        };
        actions.extend(volume.filter(|volume| may_delete(volume)).map(|_| Action::Delete));
        let may_retire = |volume: &&Volume| self.retires && !volume.deleted;
        actions.extend(volume.filter(may_retire).map(|volume| Action::Retire(!volume.retires)));
        for of in 0..if self.two_controllers { 2 } else { 1 } {
            let controller = &state.controllers[of];
            actions.extend(controller.is_behind(state).then_some(Action::Hear(of)));
            if controller.is_idle() {
                actions.extend(controller.has_volume().then_some(Action::Look(of)));
                for user in (0..USERS).filter(|_| volume.is_some()) {
                    let waits = state.claims[user] == Life::Here;
                    actions.extend(waits.then_some(Action::Bind(of, user)));
                    let leaves = state.claims[user] == Life::Leaving && state.pods[user] != Life::Here;
                    actions.extend(leaves.then_some(Action::Leave(of, user)));
                }
            } else {
                actions.extend([Action::Go(of), Action::Crash(of)]);
            }
        }
        match state.agent {
            Agent::Idle => actions.extend(volume.map(|_| Action::LookOnNode)),
            _ => actions.extend([Action::GoOnNode, Action::CrashOnNode]),
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Claim(user) => state.claims[user] = Life::Here,
            Action::DeleteClaim(user) => state.claims[user] = Life::Leaving,
            Action::StripClaim(user) => state.claims[user] = Life::Gone,
            Action::StartPod(user) => state.pods[user] = Life::Here,
            Action::EndPod(user) => state.pods[user] = Life::Gone,
            Action::Publish(user) => state.publishing[user] = Some(self.permit(&state, user)?.with_others),
            Action::Mount(user) => state.mount(user, before.publishing[user]?),
            Action::Unmount(user) => state.mounts[user] = false,
            Action::Retire(retires) => {
                let volume = Volume { retires, ..state.volume.clone()? };
                state.write(Some(volume));
            }
            Action::Delete => {
                let volume = Volume { deleted: true, ..state.volume.clone()? };
                state.write(Some(volume));
            }
            Action::Hear(of) => state.hear(of),
            Action::Look(of) => state.look(of),
            Action::Bind(of, user) => state.begin_bind(of, user)?,
            Action::Leave(of, user) => state.begin_leave(of, user)?,
            Action::Go(of) => self.go(&mut state, of),
            Action::Crash(of) => state.controllers[of].crash(),
            Action::LookOnNode => state.look_on_node()?,
            Action::GoOnNode => self.go_on_node(&mut state),
            Action::CrashOnNode => (state.agent, state.publishing) = (Agent::Idle, [None; USERS]),
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("S5, X2: only what is on offer is bound", |_, s: &State| s.broken.is_none()),
            Property::always("S6: an exclusive volume is mounted once", |setup: &Setup, s: &State| {
                setup.shared || !(s.mounts[0] && s.mounts[1])
            }),
            Property::always("S7, C6: a mounted claim is bound", |_, s: &State| {
                let lists = |user: usize| s.volume.as_ref().is_some_and(|volume| volume.claims[user]);
                (0..USERS).all(|user| !s.mounts[user] || lists(user))
            }),
            Property::always("S10: a tombstone finds no user", |_, s: &State| {
                let open = s.disk == Disk::Record { fenced: false, erasing: false };
                !s.volume.as_ref().is_some_and(|volume| volume.tombstone)
                    || !open && s.mounts == [false; USERS] && !s.volume.as_ref().is_some_and(Volume::is_bound)
            }),
            Property::always("S10, S11: only a volume with a tombstone is erased", |_, s: &State| {
                let erased = matches!(s.disk, Disk::Receipt | Disk::Record { erasing: true, .. });
                let has = s.volume.as_ref().is_none_or(|volume| volume.tombstone);
                (!erased || s.had_tombstone) && (!s.had_tombstone || has)
            }),
            Property::always("X4: bytes are credited after they are erased", |_, s: &State| {
                (s.has_entry || s.disk == Disk::Receipt) && (s.volume.is_some() || !s.has_entry)
            }),
            Property::sometimes("a volume ends", |_, s: &State| s.volume.is_none()),
        ];
        if self.users > 0 {
            properties.push(Property::sometimes("a pod has the volume", |_, s: &State| s.mounts[0]));
        }
        if self.waits {
            properties.push(Property::sometimes("a fence is lifted", |_, s: &State| {
                s.volume.as_ref().is_some_and(|volume| volume.in_use && !volume.fenced)
                    && s.disk == Disk::Record { fenced: false, erasing: false }
            }));
        }
        properties
    }
}

impl Setup {
    fn permit(&self, state: &State, user: usize) -> Option<Permit> {
        object::permit(state.volume.as_ref(), self.shared, user)
    }
}

const SETUP: Setup = Setup {
    shared: false,
    waits: false,
    retires: false,
    strips: false,
    two_controllers: false,
    users: USERS,
};

/// S5 to S11, X1 to X5, C3, C6: a part of all orders.
#[test]
fn s10_s11_a_volume_ends_in_few_steps() {
    explore(Setup { waits: true, strips: true, ..SETUP }, Bound::Steps(12));
}

/// S7, C6: the claim of the only user may lose its finalizers.
#[test]
fn s7_c6_a_lost_claim_is_bound_while_it_is_mounted() {
    explore(Setup { waits: true, strips: true, users: 1, ..SETUP }, Bound::Steps(17));
}

/// L5: all orders of the steps of an end.
#[test]
fn l5_s10_an_unclaimed_volume_ends_in_every_order() {
    explore(Setup { two_controllers: true, users: 0, ..SETUP }, Bound::All);
    explore(Setup { retires: true, users: 0, ..SETUP }, Bound::All);
}

/// S5 to S11, X1 to X5, C3, C6: `make model-check`.
#[test]
#[ignore = "minutes"]
fn s10_s11_model_check_a_volume_ends_in_every_order() {
    explore(Setup { waits: true, strips: true, users: 1, ..SETUP }, Bound::All);
    let setups = [
        Setup { shared: true, ..SETUP },
        Setup { waits: true, strips: true, ..SETUP },
        Setup { retires: true, strips: true, ..SETUP },
        Setup { waits: true, two_controllers: true, ..SETUP },
    ];
    let states: usize = setups.into_iter().map(|setup| explore(setup, many())).sum();
    println!("{states} states");
}
