//! A model of the API server and of two controllers with stale caches. The controllers apply the steps of
//! [`super::reservation::next`], one read or write at a time, in any order. S1, S2 and the limits hold after each
//! write. In the end, no entry is lost or left over.
//!
//! The model decides nothing itself: the functions of the controller compute every write.

mod birth;
mod controller;
mod ending;
mod explore;
mod reserving;
mod server;

use kube::ResourceExt;
use proptest::prelude::*;

use super::entry::{is_lived_in, is_placed};
use super::holder::{self, Holder, held_by_volume};
use super::reservation_seen::{LedgerOf, of_kind};
use super::testing::*;
use super::{allocatable, create};
use crate::api::{
    DiskKind, DiskReservation, LedgerEntry, Lifetime, MissingNode, NodeDisk, Orphan, Reserved, Role,
    SharedPersistentVolume, Size, UidRef,
};
use controller::Controller;
use server::Store;

/// The reservations: the role, and the index of the parent.
const RESERVATIONS: [(&str, Option<usize>); 8] = [
    ("eng", None),
    ("ops", None),
    ("eng/ml", Some(0)),
    ("eng/web", Some(0)),
    ("eng/ml/x", Some(2)),
    ("eng/ml/y", Some(2)),
    ("eng/ml", None),
    ("dev", None),
];
const VOLUMES: [&str; 6] = ["eng", "ops", "eng/ml", "eng/ml/x", "eng/web", "dev"];
/// The last one comes when the node of the first one leaves.
const DISKS: [&str; 3] = ["n1.a", "n2.b", "n3.a"];
/// Role, limit and guarantee, in Gi.
const ROLES: [(&str, Option<u64>, Option<u64>); 3] =
    [("eng", Some(13), None), ("eng/ml", Some(7), None), ("ops", None, Some(4))];

/// A change by a user, or one read or write of a controller. Numbers select the object and the size.
#[derive(Clone, Copy, Debug)]
enum Op {
    Make {
        who: usize,
        size: u64,
    },
    Ask {
        who: usize,
        size: u64,
    },
    Delete {
        who: usize,
    },
    /// A user removes the finalizer by hand. The objects of the volumes may be lost with the reservation.
    Strip {
        who: usize,
        with_volumes: bool,
    },
    Create {
        volume: usize,
        size: u64,
    },
    Destroy {
        volume: usize,
    },
    /// The cache catches up with the API server.
    Sync {
        of: usize,
        kind: usize,
    },
    /// The controller drops its present work, as in a crash, and takes that many steps for a reservation.
    Look {
        of: usize,
        who: usize,
        steps: usize,
    },
    LookAtDisk {
        of: usize,
        disk: usize,
    },
    LookAtRole {
        of: usize,
        role: usize,
    },
    Go {
        of: usize,
        steps: usize,
    },
    /// The node of the first disk leaves, and takes the disk along (D7). Another node comes.
    Leave,
}

fn op() -> impl Strategy<Value = Op> {
    let (who, size, of) = (0..RESERVATIONS.len(), 1u64..11, 0usize..2);
    prop_oneof![
        4 => (who.clone(), size.clone()).prop_map(|(who, size)| Op::Make { who, size }),
        3 => (who.clone(), size).prop_map(|(who, size)| Op::Ask { who, size }),
        2 => who.clone().prop_map(|who| Op::Delete { who }),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, with_volumes)| Op::Strip { who, with_volumes }),
        3 => (0..VOLUMES.len(), 1u64..4).prop_map(|(volume, size)| Op::Create { volume, size }),
        1 => (0..VOLUMES.len()).prop_map(|volume| Op::Destroy { volume }),
        6 => (of.clone(), 0usize..6).prop_map(|(of, kind)| Op::Sync { of, kind }),
        12 => (of.clone(), who, 0usize..12).prop_map(|(of, who, steps)| Op::Look { of, who, steps }),
        2 => (of.clone(), 0..DISKS.len()).prop_map(|(of, disk)| Op::LookAtDisk { of, disk }),
        3 => (of.clone(), 0..ROLES.len()).prop_map(|(of, role)| Op::LookAtRole { of, role }),
        6 => (of, 1usize..4).prop_map(|(of, steps)| Op::Go { of, steps }),
    ]
}

/// The same, with a node that leaves.
fn op_or_leave() -> impl Strategy<Value = Op> {
    prop_oneof![40 => op(), 1 => Just(Op::Leave)]
}

struct Model {
    server: Store,
    controllers: [Controller; 2],
    /// True if only the first controller acts, and never crashes. Then guarantees hold too.
    alone: bool,
    born: usize,
}

fn role_name(role: usize) -> String {
    ROLES[role].0.replace('/', "-")
}

impl Model {
    fn new(alone: bool) -> Self {
        let mut server = Store::default();
        let mut undivided = disk(DISKS[1], "n2", 6, &[]);
        undivided.spec.kind = DiskKind::Mount;
        server.put(disk(DISKS[0], "n1", 16, &[]));
        server.put(undivided);
        for (i, (role, limit, guarantee)) in ROLES.into_iter().enumerate() {
            server.put(with_quota(volume_role(&role_name(i), role), limit, guarantee, &[]));
        }
        let mut model = Self { server, controllers: Default::default(), alone, born: 0 };
        for of in 0..2 {
            model.apply(Op::Sync { of, kind: 0 });
        }
        model
    }

    fn reservation(&self, who: usize) -> Option<DiskReservation> {
        self.server.get::<DiskReservation>(&format!("r{who}")).map(|r| (*r).clone())
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Make { who, size } if self.reservation(who).is_none() => {
                self.born += 1;
                let mut made = reservation(&format!("r{who}"), RESERVATIONS[who].0, size);
                made.metadata.uid = Some(format!("uid-{}", self.born));
                made.spec.parent = RESERVATIONS[who].1.map(|parent| format!("r{parent}"));
                made.metadata.generation = Some(1);
                self.server.put(made);
            }
            Op::Make { .. } => {}
            Op::Ask { who, size } => {
                if let Some(mut now) = self.reservation(who) {
                    now.metadata.generation =
                        now.metadata.generation.map(|of| of + i64::from(now.spec.size != gi(size)));
                    now.spec.size = gi(size);
                    self.server.put(now);
                }
            }
            Op::Delete { who } => {
                if let Some(mut now) = self.reservation(who) {
                    now.metadata.deletion_timestamp = some_time();
                    match now.finalizers().is_empty() {
                        true => drop(self.server.reservations.remove(&now.name_any())),
                        false => drop(self.server.put(now)),
                    }
                }
            }
            Op::Strip { who, with_volumes } => self.strip(who, with_volumes),
            Op::Create { volume, size } => self.create(volume, size),
            Op::Destroy { volume } => self.destroy(&format!("v{volume}")),
            Op::Sync { of, kind } => {
                let (cache, server) = (&mut self.controllers[of].cache, self.server.clone());
                match kind {
                    1 => cache.disks = server.disks,
                    2 => cache.reservations = server.reservations,
                    3 => cache.roles = server.roles,
                    _ => *cache = server,
                }
            }
            Op::Look { of, who, steps } => {
                let controller = &mut self.controllers[of];
                let cached = controller.cache.get::<DiskReservation>(&format!("r{who}"));
                if let Some(cached) = cached.filter(|_| !self.alone || !controller.is_busy() && of == 0) {
                    controller.look(cached);
                }
                self.apply(Op::Go { of, steps });
            }
            Op::LookAtDisk { of, disk } => self.controllers[of].look_at_disk(DISKS[disk]),
            Op::LookAtRole { of, role } => {
                self.controllers[of].look_at_role(&role_name(role), &mut self.server);
            }
            Op::Go { of, steps } => {
                for _ in 0..steps {
                    self.controllers[of].go(&mut self.server);
                }
            }
            Op::Leave => self.leave(),
        }
    }

    fn leave(&mut self) {
        let mut gone = (*self.server.get::<NodeDisk>(DISKS[0]).unwrap()).clone();
        if gone.spec.gone {
            return;
        }
        (gone.spec.gone, gone.spec.lifetime, gone.spec.node_uid) =
            (true, Lifetime::Node, Some("uid-n1".into()));
        let status = gone.status.as_mut().unwrap();
        set_ready(&mut status.conditions, false);
        let since = some_time().unwrap();
        status.missing_node = Some(MissingNode { node_uid: "uid-n1".into(), since });
        self.server.put(gone);
        self.server.put(disk(DISKS[2], "n3", 16, &[]));
    }

    /// True if the reservation is on a disk that has gone with its node.
    fn is_left(&self, reservation: &DiskReservation) -> bool {
        let on = reservation.status.as_ref().and_then(|status| status.node_disk.as_ref());
        on.and_then(|on| self.server.get::<NodeDisk>(on)).is_some_and(|disk| disk.spec.gone)
    }

    /// The volumes on a disk that has gone end, also those whose reservation was lost.
    fn end_left_volumes(&mut self) {
        let has_left = |volume: &SharedPersistentVolume| {
            let of = volume.status.as_ref().and_then(|status| status.reservation.as_ref()).unwrap();
            let reservation = self.server.get::<DiskReservation>(&of.name);
            let reservation = reservation.filter(|now| now.uid().as_ref() == Some(&of.uid));
            reservation.is_none_or(|reservation| self.is_left(&reservation))
        };
        let is_any = self.server.disks.values().any(|disk| disk.spec.gone);
        let left = self.server.volumes.values().filter(|volume| is_any && has_left(volume));
        let names: Vec<_> = left.map(|volume| volume.name_any()).collect();
        names.iter().for_each(|name| self.destroy(name));
    }

    /// Removes the reservation without a step of the controller. Data of volumes without an object becomes an orphan
    /// (X6).
    fn strip(&mut self, who: usize, with_volumes: bool) {
        let Some(now) = self.reservation(who) else { return };
        let status = now.status.clone().unwrap_or_default();
        if !status.refinements.is_empty() {
            return;
        }
        self.server.reservations.remove(&now.name_any());
        if !with_volumes {
            return;
        }
        let noted = |r: &DiskReservation| Reserved {
            name: r.name_any(),
            role: r.spec.role.clone(),
            ..Default::default()
        };
        let mut chain = vec![now];
        while let Some(parent) = self.server.parent_of(&chain[chain.len() - 1]) {
            chain.push((*parent).clone());
        }
        let whole = chain.last().is_some_and(|outermost| outermost.spec.parent.is_none());
        for volume in &status.volumes {
            self.server.volumes.remove(&volume.name);
            let disk = self.server.get::<NodeDisk>(status.node_disk.as_deref().unwrap_or_default());
            if let Some(disk) = disk.filter(|_| whole) {
                let mut disk = (*disk).clone();
                let reservations = chain.iter().map(noted).collect();
                let orphan = Orphan { size: volume.size.clone(), reservations, ..Default::default() };
                disk.status.as_mut().unwrap().orphans.push(orphan);
                self.server.put(disk);
            }
        }
    }

    fn create(&mut self, volume: usize, size: u64) {
        let mut wanted = super::testing::volume(&format!("v{volume}"), VOLUMES[volume], size);
        if self.server.volumes.contains_key(&wanted.name_any()) {
            return;
        }
        self.born += 1;
        wanted.metadata.uid = Some(format!("uid-v{}", self.born));
        let all: Vec<_> = self.server.reservations.values().map(AsRef::as_ref).collect();
        let Ok(chosen) = create::choose(&wanted, &all, &[]).cloned() else { return };
        if let Ok(entries) = create::take_entry(&wanted, &chosen, &[]) {
            let status = Holder::<SharedPersistentVolume>::with_entries(&chosen, entries);
            self.server.write(&chosen, status);
            wanted.status.get_or_insert_default().reservation =
                Some(UidRef { name: chosen.name_any(), uid: chosen.uid().unwrap() });
            self.server.put(wanted);
        }
    }

    fn destroy(&mut self, name: &str) {
        let Some(volume) = self.server.volumes.remove(name) else { return };
        let uid = volume.uid().unwrap();
        let all: Vec<_> = self.server.reservations.values().cloned().collect();
        for holder in all.iter().filter(|r| held_by_volume(r, &uid).is_some()) {
            let entries = Holder::<SharedPersistentVolume>::ledger(&**holder).release(&uid).into_entries();
            let status = Holder::<SharedPersistentVolume>::with_entries(&**holder, entries);
            self.server.write(&**holder, status);
        }
    }

    /// The entry of a reservation in its disk or parent; `None`: that object is gone.
    fn entry(&self, reservation: &DiskReservation) -> Option<u64> {
        let (uid, on) = (reservation.uid().unwrap(), reservation.status.as_ref()?.node_disk.as_ref()?);
        match &reservation.spec.parent {
            Some(_) => {
                let parent = self.server.parent_of(reservation)?;
                Some(holder::refinements(parent.status.as_ref()?).get(&uid).unwrap_or(0))
            }
            None => Some(self.server.get::<NodeDisk>(on)?.ledger().get(&uid).unwrap_or(0)),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for disk in self.server.disks.values() {
            let (ledger, all) = (disk.ledger(), allocatable::of_disk(disk));
            let kept = super::orphans::kept(disk.status.as_ref().unwrap(), |_| true);
            prop_assert!(
                ledger.total() + kept <= all,
                "S1, X6: {} gave too much: {ledger:?}",
                disk.name_any()
            );
            let whole = disk.spec.kind == DiskKind::Path || ledger.entries().len() <= 1;
            prop_assert!(whole, "D2: {} was divided: {ledger:?}", disk.name_any());
        }
        for role in self.server.roles.values() {
            let limit = role.spec.quota.limit.as_ref().map_or(u64::MAX, Size::bytes_or_zero);
            prop_assert!(role.ledger().total() <= limit, "Q2: {:?}", role.ledger());
        }
        for reservation in self.server.reservations.values() {
            let (name, status) = (reservation.name_any(), reservation.status.clone().unwrap_or_default());
            let size = holder::size(&status);
            prop_assert!(holder::used(&status) <= size, "S1: {name} gave too much: {status:?}");
            // An empty reservation that is being deleted loses its entries before its finalizer.
            let leaves = reservation.metadata.deletion_timestamp.is_some() && holder::used(&status) == 0;
            let size = if leaves { 0 } else { size };
            let entry = self.entry(reservation).unwrap_or(u64::MAX);
            prop_assert!(size <= entry, "{name} has more than its entry of {entry}: {status:?}");
            for volume in &status.volumes {
                let covers = Role::name_covers(&reservation.spec.role, &volume.role);
                prop_assert!(is_placed(reservation) && covers, "S2: {volume:?} in {name}");
            }
            let parent = self.server.parent_of(reservation);
            let parent = parent.as_ref().map(|parent| parent.spec.role.as_str());
            if reservation.spec.parent.is_some() == parent.is_some() {
                for role in self.server.roles.values().filter(|role| role.belongs(reservation, parent)) {
                    let held = role.ledger().get(&reservation.uid().unwrap()).unwrap_or(0);
                    prop_assert!(size <= held, "Q2: {} counts {held} of {name}: {size}", role.name_any());
                }
            }
        }
        if self.alone {
            self.check_guarantees()?;
        }
        Ok(())
    }

    /// Q2: the free bytes of all disks cover every guarantee that is not reserved yet.
    fn check_guarantees(&self) -> Result<(), TestCaseError> {
        let disks = || self.server.disks.values();
        let free: u64 = disks().map(|disk| disk.ledger().free()).sum();
        for role in self.server.roles.values() {
            let own = |entry: &LedgerEntry| Role::name_covers(&role.spec.role, &entry.role);
            let entries = disks().flat_map(|disk| disk.ledger().into_entries()).filter(own);
            let reserved: u64 = entries.map(|entry| entry.size.bytes_or_zero()).sum();
            let guarantee = role.spec.quota.guarantee.as_ref().map_or(0, Size::bytes_or_zero);
            prop_assert!(free + reserved >= guarantee, "{}: {free} + {reserved}", role.name_any());
        }
        Ok(())
    }

    /// Lets one controller reconcile all objects, again and again, until nothing changes.
    fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..40 {
            self.end_left_volumes();
            let before = self.server.version;
            let count = self.server.reservations.len();
            for round in 0..RESERVATIONS.len() {
                self.apply(Op::Go { of: 0, steps: 64 });
                self.apply(Op::Sync { of: 0, kind: 0 });
                self.apply(Op::Look { of: 0, who: round, steps: 64 });
                self.check()?;
            }
            let disks = (0..DISKS.len()).map(|disk| Op::LookAtDisk { of: 0, disk });
            for look in disks.chain((0..ROLES.len()).map(|role| Op::LookAtRole { of: 0, role })) {
                self.apply(Op::Sync { of: 0, kind: 0 });
                self.apply(look);
                self.apply(Op::Go { of: 0, steps: 64 });
            }
            self.check()?;
            if (before, count) == (self.server.version, self.server.reservations.len()) {
                return self.check_nothing_is_left_over();
            }
        }
        Err(TestCaseError::fail("the controller never comes to rest"))
    }

    /// L1, L5: each reservation has its entries and a condition, and no other entry exists.
    fn check_nothing_is_left_over(&self) -> Result<(), TestCaseError> {
        for reservation in self.server.reservations.values() {
            let (name, status) = (reservation.name_any(), reservation.status.clone().unwrap_or_default());
            prop_assert!(!status.conditions.is_empty(), "{name} says nothing");
            let is_deleted = reservation.metadata.deletion_timestamp.is_some();
            prop_assert!(!is_deleted || holder::used(&status) > 0, "{name} is empty and does not go");
            let orphaned = reservation.spec.parent.is_some() && self.server.parent_of(reservation).is_none();
            if is_placed(reservation) && !is_deleted && !orphaned {
                let (asked, size) = (reservation.spec.size.bytes_or_zero(), holder::size(&status));
                let may_shrink = holder::used(&status) <= asked && status.disk_kind == Some(DiskKind::Path);
                prop_assert!(!may_shrink || size <= asked, "R6: {name} did not shrink");
                let entry = self.entry(reservation).unwrap_or(0);
                prop_assert!(
                    entry == size,
                    "{name} has {size}, asks for {asked} and has an entry of {entry}"
                );
            }
        }
        let fits_all = |of: LedgerOf| -> Result<(), TestCaseError> {
            of_kind!(&of, |name: K| {
                let holder = self.server.get::<K>(name).unwrap();
                for entry in Holder::<DiskReservation>::ledger(&*holder).entries() {
                    let owner = self.server.get::<DiskReservation>(&entry.name);
                    let owner = owner.filter(|owner| owner.uid().as_ref() == Some(&entry.uid));
                    let volumes: Vec<_> = self.server.volumes.values().map(|v| (**v).clone()).collect();
                    let all: Vec<_> = self.server.reservations.values().map(|r| (**r).clone()).collect();
                    let there = owner.is_some() || is_lived_in(&entry.uid, &volumes, &all);
                    prop_assert!(there, "{name} has {entry:?} of nobody");
                    // Beyond what the reservation has, an entry is of its present spec.
                    let Some(owner) = owner else { continue };
                    let has = owner.status.as_ref().map_or(0, holder::size);
                    let is_more =
                        entry.size.bytes_or_zero() > has && owner.metadata.deletion_timestamp.is_none();
                    let is_current = entry.generation == owner.metadata.generation;
                    prop_assert!(!is_more || is_current, "{name} has {entry:?}, taken for an earlier spec");
                }
            });
            Ok(())
        };
        self.server.disks.keys().try_for_each(|disk| fits_all(LedgerOf::Disk(disk.clone())))?;
        for disk in self.server.disks.values().filter(|disk| disk.spec.gone) {
            let ledger = disk.ledger();
            let owned = ledger.entries().iter().filter(|entry| {
                let owner = self.server.get::<DiskReservation>(&entry.name);
                owner.is_some_and(|owner| owner.uid().as_ref() == Some(&entry.uid))
            });
            prop_assert!(owned.count() == 0, "D7: {} is gone and has {ledger:?}", disk.name_any());
        }
        (0..ROLES.len()).try_for_each(|role| fits_all(LedgerOf::Role(role_name(role))))?;
        self.server.reservations.keys().try_for_each(|name| fits_all(LedgerOf::Parent(name.clone())))
    }

    fn run(ops: Vec<Op>, alone: bool) -> Result<(), TestCaseError> {
        let mut model = Self::new(alone);
        for op in ops {
            model.apply(op);
            model.check()?;
        }
        model.come_to_rest()
    }
}

/// `PROPTEST_CASES` for more than `make test` runs.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(cases.unwrap_or(256))
}

proptest! {
    #![proptest_config(config())]

    /// S1, S2, Q2, L1: the rules hold at every write, for any order and for a crash at any point.
    #[test]
    fn s1_s2_two_controllers_give_no_more_than_there_is(ops in proptest::collection::vec(op(), 0..160)) {
        Model::run(ops, false)?;
    }

    /// D7: the same while a disk goes with its node. No reservation has bytes on a disk without an entry there, and in the end
    /// nothing is reserved on the disk that has gone.
    #[test]
    fn d7_s1_reservations_leave_a_disk_that_goes(ops in proptest::collection::vec(op_or_leave(), 0..160)) {
        Model::run(ops, false)?;
    }

    /// S1, S2, Q2, L1: a single controller without a crash keeps guarantees too.
    #[test]
    fn q2_one_controller_keeps_guarantees(ops in proptest::collection::vec(op(), 0..160)) {
        Model::run(ops, true)?;
    }
}

/// The model reaches volumes in a refinement of a refinement, and the release of their bytes.
#[test]
fn r4_r6_the_model_reaches_refinements_of_refinements() {
    let mut model = Model::new(true);
    let has = |model: &Model, who: usize| {
        let status = model.reservation(who).unwrap().status.unwrap();
        (holder::size(&status) >> 30, holder::used(&status) >> 30)
    };
    for (who, size) in [(0, 10), (2, 6), (4, 3)] {
        model.apply(Op::Make { who, size });
        model.come_to_rest().unwrap();
    }
    model.apply(Op::Create { volume: 3, size: 2 });
    assert_eq!([0, 2, 4].map(|who| has(&model, who)), [(10, 6), (6, 3), (3, 2)]);
    model.apply(Op::Ask { who: 2, size: 4 });
    model.come_to_rest().unwrap();
    assert_eq!(
        [0, 2].map(|who| has(&model, who)),
        [(10, 4), (4, 3)],
        "R6: the parent has the difference back"
    );
    model.apply(Op::Delete { who: 2 });
    model.come_to_rest().unwrap();
    assert_eq!(has(&model, 2), (4, 3), "R4: it has a refinement");
    model.apply(Op::Destroy { volume: 3 });
    model.apply(Op::Delete { who: 4 });
    model.come_to_rest().unwrap();
    assert_eq!((has(&model, 0), model.reservation(2), model.reservation(4)), ((10, 0), None, None));
    model.apply(Op::Make { who: 1, size: 6 });
    model.apply(Op::Make { who: 7, size: 2 });
    model.come_to_rest().unwrap();
    assert_eq!((has(&model, 1), has(&model, 7)), ((6, 0), (6, 0)), "D2: all of the undivided disk");
}

/// R6, Q2: a controller dies at any point of a growth or of a first reservation. Then the reservation asks for more than
/// there is, or for less, and nothing of the interrupted work stays in a ledger.
#[test]
fn r6_nothing_stays_of_an_interrupted_growth() {
    let sizes = [(4, 30), (4, 5), (4, 2), (0, 30), (0, 2)];
    let cases = sizes.into_iter().flat_map(|(first, then)| (0..12).map(move |steps| (first, steps, then)));
    for (first, steps, then) in cases {
        let mut model = Model::new(false);
        if first > 0 {
            model.apply(Op::Make { who: 0, size: first });
            model.come_to_rest().unwrap();
            model.apply(Op::Ask { who: 0, size: 10 });
        } else {
            model.apply(Op::Make { who: 0, size: 10 });
        }
        model.apply(Op::Sync { of: 1, kind: 0 });
        model.apply(Op::Look { of: 1, who: 0, steps });
        model.apply(Op::Ask { who: 0, size: then });
        let rest = model.come_to_rest().map_err(|error| format!("{first} {steps} {then}: {error}"));
        rest.unwrap();
    }
}

/// D7, L5: a controller died after it had taken the entry of a refinement, the disk went, and the parent is deleted.
#[test]
fn d7_l5_no_waiting_refinement_holds_a_deleted_reservation() {
    let mut model = Model::new(false);
    let look = |of, who, steps| Op::Look { of, who, steps };
    for op in [
        Op::Make { who: 2, size: 1 },
        Op::Make { who: 0, size: 1 },
        Op::Sync { of: 0, kind: 2 },
        look(0, 0, 1),
        look(0, 2, 1),
        Op::Sync { of: 1, kind: 0 },
        look(1, 0, 4),
        look(1, 2, 3),
        Op::Leave,
        Op::Delete { who: 0 },
    ] {
        model.apply(op);
        model.check().unwrap();
    }
    assert_eq!(model.reservation(0).unwrap().status.unwrap().refinements.len(), 1);
    model.come_to_rest().unwrap();
    assert_eq!(model.reservation(0), None);
}
