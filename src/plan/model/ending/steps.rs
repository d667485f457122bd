//! The steps of controllers and agent: a read or a write each.

use jiff::Timestamp;

use super::super::super::node_task::{self, OnDisk, Outcome, Recorded, Task};
use super::super::super::testing::*;
use super::super::super::unbind::unbind;
use super::super::super::{destroy, volume};
use super::object::{Volume, binding_of, bound, lost_claims, pods};
use super::{Copied, Disk, Life, Setup, State, USERS};

/// A controller: its caches and its present work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Controller {
    cache: Option<Copied>,
    /// The cached pods, a bit for each user.
    pods: u8,
    work: Option<Work>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// A reconcile of the volume, with what it has read so far.
    Volume { read: Copied, users: u8, lost: [bool; USERS], live: Option<u8>, has_looked: bool },
    /// A claim is about to enter the list of the volume.
    Bind(Copied, usize),
    /// A claim is about to leave the list of the volume.
    Leave(Copied, usize),
    /// The entry is released; then the finalizer goes.
    End(Copied),
}

/// The agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Agent {
    Idle,
    /// The volume was read, then its record; these claims had no mount.
    Looked(Copied, Disk, [bool; USERS]),
    /// The task is done, and its outcome not yet written.
    Done(Copied, Disk, [bool; USERS], Vec<u8>),
    /// The status is written, and the fence not yet lifted.
    Unfences,
}

impl Controller {
    pub fn is_idle(&self) -> bool {
        self.work.is_none()
    }

    pub fn has_volume(&self) -> bool {
        self.cache.is_some()
    }

    pub fn crash(&mut self) {
        self.work = None;
    }

    /// All reads of the volume that the controller still has.
    pub fn copies(&mut self) -> impl Iterator<Item = &mut Copied> {
        let read = self.work.as_mut().map(|work| match work {
            Work::Volume { read, .. } | Work::Bind(read, _) | Work::Leave(read, _) | Work::End(read) => read,
        });
        self.cache.iter_mut().chain(read)
    }

    pub fn is_behind(&self, state: &State) -> bool {
        self.cache != state.read() || self.pods != state.users()
    }
}

impl Agent {
    pub fn copy(&mut self) -> Option<&mut Copied> {
        match self {
            Self::Looked(read, ..) | Self::Done(read, ..) => Some(read),
            Self::Idle | Self::Unfences => None,
        }
    }
}

impl State {
    /// The pods that are there, a bit for each user.
    fn users(&self) -> u8 {
        (0..USERS).filter(|user| self.pods[*user] == Life::Here).map(|user| 1 << user).sum()
    }

    pub fn hear(&mut self, of: usize) {
        (self.controllers[of].cache, self.controllers[of].pods) = (self.read(), self.users());
    }

    /// As `gather` of controller/destroy.rs and controller/volume.rs.
    pub fn look(&mut self, of: usize) {
        let Some(read) = self.controllers[of].cache.clone() else { return };
        let cached = self.controllers[of].pods;
        let is_listed = |user: usize| read.volume.claims[user];
        let has_pod = |user: usize| cached & (1 << user) != 0;
        let lost =
            std::array::from_fn(|user| is_listed(user) && self.claims[user] == Life::Gone && !has_pod(user));
        let users = (0..USERS).filter(|user| is_listed(*user) && !lost[*user] && has_pod(*user));
        let users = users.map(|user| 1 << user).sum();
        self.controllers[of].work = Some(Work::Volume { read, users, lost, live: None, has_looked: false });
    }

    pub fn begin_bind(&mut self, of: usize, user: usize) -> Option<()> {
        self.controllers[of].work = Some(Work::Bind(self.read()?, user));
        Some(())
    }

    pub fn begin_leave(&mut self, of: usize, user: usize) -> Option<()> {
        self.pvs[user] = false;
        self.controllers[of].work = Some(Work::Leave(self.read()?, user));
        Some(())
    }

    pub fn look_on_node(&mut self) -> Option<()> {
        let unmounted = std::array::from_fn(|user| self.publishing[user].is_none() && !self.mounts[user]);
        self.agent = Agent::Looked(self.read()?, self.disk, unmounted);
        Some(())
    }

    /// The PersistentVolumes of lost claims go before the status is written.
    fn delete_lost(&mut self, lost: [bool; USERS]) {
        (0..USERS).filter(|user| lost[*user]).for_each(|user| self.pvs[user] = false);
    }
}

impl Setup {
    /// The next read or write of a controller.
    pub(super) fn go(&self, state: &mut State, of: usize) {
        let cached = state.controllers[of].pods;
        let Some(work) = state.controllers[of].work.take() else { return };
        state.controllers[of].work = match work {
            Work::Bind(read, user) => {
                if let Some(now) = bound(&read.volume, self.shared, user) {
                    let users = now.users_of(cached);
                    if state.swap(&read, Volume { users, ..now }) && state.claims[user] == Life::Here {
                        state.pvs[user] = true;
                    }
                }
                None
            }
            Work::Leave(read, user) => {
                let mut status = read.volume.object(self.shared).status.unwrap_or_default();
                unbind(&mut status, false, &[], |binding| {
                    *binding == binding_of(user) || binding.uid == binding_of(user).uid
                });
                let now = read.volume.with(&status);
                let (is_left, users) = (!now.claims[user], now.users_of(cached));
                if state.swap(&read, Volume { users, ..now }) && is_left {
                    state.claims[user] = Life::Gone;
                }
                None
            }
            Work::End(read) => {
                if state.volume.is_some() && read.volume.deleted {
                    state.write(None);
                }
                None
            }
            Work::Volume { read, users, lost, live, has_looked } if read.volume.deleted => {
                self.destroy(state, read, users, lost, live, has_looked)
            }
            Work::Volume { read, users, lost, .. } => {
                self.live(state, &read, users, lost);
                None
            }
        };
    }

    fn destroy(
        &self,
        state: &mut State,
        read: Copied,
        users: u8,
        lost: [bool; USERS],
        live: Option<u8>,
        has_looked: bool,
    ) -> Option<Work> {
        let seen = destroy::Seen {
            lost_claims: lost_claims(&read.volume, lost),
            users: pods(users),
            live: live.map(|live| destroy::Live { pods: pods(live), kind_deleted: false }),
            entries: has_looked.then(|| {
                state.volume.as_ref().map(|_| match state.has_entry {
                    true => vec![reserved("r", "eng", 10, &[("v", 1)]).into()],
                    false => vec![],
                })
            }),
            now: Timestamp::from_second(3600).expect("a valid time"),
            ..destroy_seen()
        };
        match destroy::next(&read.volume.object(self.shared), &seen) {
            destroy::Step::LookForUsers => {
                let live = (0..USERS).filter(|user| state.pvs[*user] && state.pods[*user] == Life::Here);
                let live = Some(live.map(|user| 1 << user).sum());
                Some(Work::Volume { read, users, lost, live, has_looked })
            }
            destroy::Step::LookForEntries => Some(Work::Volume { read, users, lost, live, has_looked: true }),
            destroy::Step::Report { status, .. } => {
                state.delete_lost(lost);
                let now = read.volume.with(&status);
                state.swap(&read, now);
                None
            }
            destroy::Step::End { .. } => {
                state.delete_lost(lost);
                state.has_entry = false;
                Some(Work::End(read))
            }
            destroy::Step::Debounce
            | destroy::Step::DropLabels
            | destroy::Step::Orphan(_)
            | destroy::Step::Rest => None,
        }
    }

    /// A volume that is not being deleted.
    fn live(&self, state: &mut State, read: &Copied, users: u8, lost: [bool; USERS]) {
        let seen = volume::Seen {
            reservations: vec![reserved("r", "eng", 10, &[("v", 1)]).into()],
            disks: vec![disk("n1.a", "n1", 20, &[("r", 10)]).into()],
            lost_claims: lost_claims(&read.volume, lost),
            users: pods(users),
            ..volume_seen()
        };
        let mut object = read.volume.object(self.shared);
        // A first look at the object sets all that the model does not have.
        if let volume::Step::Report(status) = volume::next(&object, &seen)
            && read.volume.with(&status) == read.volume
        {
            object.status = Some(*status);
        }
        match volume::next(&object, &seen) {
            volume::Step::Report(status) => {
                state.delete_lost(lost);
                let now = read.volume.with(&status);
                state.swap(read, now);
            }
            // The DELETE has the version that was read, and passes admission.
            volume::Step::Delete => {
                let is_unused = read.volume.users == 0 && !read.volume.is_bound();
                if read.is_current && (self.waits || is_unused) {
                    state.write(Some(Volume { deleted: true, ..read.volume.clone() }));
                }
            }
            step => panic!("{step:?}"),
        }
    }

    /// The next step of the agent, as `reconcile` of agent/volumes.rs.
    pub(super) fn go_on_node(&self, state: &mut State) {
        state.agent = match std::mem::replace(&mut state.agent, Agent::Idle) {
            Agent::Idle => Agent::Idle,
            Agent::Unfences => {
                if let Disk::Record { erasing: false, .. } = state.disk {
                    state.disk = Disk::Record { fenced: false, erasing: false };
                }
                Agent::Idle
            }
            Agent::Looked(read, disk, unmounted) => {
                let (task, _) = self.task(&read, disk);
                let mounted: Vec<u8> = match (task, state.disk) {
                    (Task::Fence, Disk::Record { erasing, .. }) => {
                        state.disk = Disk::Record { fenced: true, erasing };
                        (0..USERS).filter(|user| state.mounts[*user]).map(|user| user as u8).collect()
                    }
                    // The kernel refuses to erase what is mounted.
                    (Task::Erase, Disk::Record { erasing: false, .. }) if state.mounts == [false; USERS] => {
                        state.disk = Disk::Record { fenced: true, erasing: true };
                        state.agent = Agent::Looked(read, state.disk, unmounted);
                        return;
                    }
                    (Task::Erase, Disk::Record { erasing: true, .. }) => {
                        state.disk = Disk::Receipt;
                        vec![]
                    }
                    _ => vec![],
                };
                Agent::Done(read, disk, unmounted, mounted)
            }
            Agent::Done(read, disk, unmounted, mounted) => {
                let (task, object) = self.task(&read, disk);
                let outcome = match task {
                    Task::Fence if disk == Disk::Receipt => Outcome::NoRecord,
                    Task::Fence => Outcome::Fenced {
                        pods: mounted.iter().flat_map(|user| pods(1 << user)).collect(),
                        in_use: !mounted.is_empty(),
                    },
                    Task::Erase if disk == Disk::Receipt => Outcome::NoRecord,
                    Task::Erase if state.disk == Disk::Receipt => Outcome::Erased(1 << 30),
                    Task::Erase => Outcome::Failed("it is mounted".into()),
                    Task::Lost(_) => Outcome::NoRecord,
                    Task::Make => Outcome::Made(1 << 30),
                    _ => Outcome::Untouched,
                };
                let (mut status, _) = node_task::report(&object, task, outcome, Timestamp::UNIX_EPOCH);
                let mut ending = node_task::ending(&object);
                ending.retain(|uid| (0..USERS).any(|user| unmounted[user] && binding_of(user).uid == *uid));
                node_task::release(&object, &mut status, ending);
                let now = read.volume.with(&status);
                match state.swap(&read, now) && task == Task::Unfence {
                    true => Agent::Unfences,
                    false => Agent::Idle,
                }
            }
        };
    }

    fn task(&self, read: &Copied, disk: Disk) -> (Task, crate::api::SharedPersistentVolume) {
        let object = read.volume.object(self.shared);
        let on_disk = match disk {
            Disk::Receipt => OnDisk::Receipt,
            Disk::Record { fenced, erasing } => {
                OnDisk::Record(Recorded { fenced, erasing, size: Some(1 << 30), ..Recorded::default() })
            }
        };
        (node_task::next(&object, on_disk), object)
    }
}

impl Volume {
    /// The pods of the listed claims among these.
    fn users_of(&self, pods: u8) -> u8 {
        (0..USERS).filter(|user| self.claims[*user] && pods & (1 << user) != 0).map(|user| 1 << user).sum()
    }
}
