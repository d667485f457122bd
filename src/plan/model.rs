//! A model of disks, reservations, refinements and volumes whose ledgers change one write at a time, in any order, by the
//! functions that the controller runs: whatever comes between two writes, S1 and S2 hold after each.

use kube::ResourceExt;
use proptest::prelude::*;

use super::testing::*;
use super::{create, ledger, release, reserve};
use crate::api::{DiskReservation, LedgerEntry, NodeDisk, ReservationPhase, Role, Size, UidRef};

/// One write that somebody makes, or one change of a spec. Numbers pick who and how much.
#[derive(Clone, Copy, Debug)]
enum Op {
    Ask { who: usize, size: u64 },
    TakeLine { who: usize },
    SayHas { who: usize },
    Shrink { who: usize },
    Mend { who: usize },
    Create { volume: usize, size: u64 },
    Destroy { volume: usize },
    Delete { who: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let (who, size) = (0usize..6, 1u64..12);
    prop_oneof![
        (who.clone(), size.clone()).prop_map(|(who, size)| Op::Ask { who, size }),
        who.clone().prop_map(|who| Op::TakeLine { who }),
        who.clone().prop_map(|who| Op::SayHas { who }),
        who.clone().prop_map(|who| Op::Shrink { who }),
        who.clone().prop_map(|who| Op::Mend { who }),
        (who.clone(), 1u64..5).prop_map(|(volume, size)| Op::Create { volume, size }),
        who.clone().prop_map(|volume| Op::Destroy { volume }),
        who.prop_map(|who| Op::Delete { who }),
    ]
}

/// Each reservation, and the one that it is carved out of: two on the disk, three in the first of these, one of them in
/// another.
const KIN: [(&str, Option<usize>); 6] = [
    ("eng", None),
    ("ops", None),
    ("eng/ml", Some(0)),
    ("eng/web", Some(0)),
    ("eng/ml/x", Some(2)),
    ("eng/ml/y", Some(2)),
];

struct Model {
    disk: NodeDisk,
    all: Vec<DiskReservation>,
    born: usize,
}

impl Model {
    fn new() -> Self {
        let mut model = Self { disk: disk("n1.a", "n1", 16, &[]), all: vec![], born: 0 };
        for who in 0..KIN.len() {
            let fresh = model.fresh(who, 4);
            model.all.push(fresh);
        }
        model
    }

    fn fresh(&mut self, who: usize, size: u64) -> DiskReservation {
        self.born += 1;
        let mut fresh = reservation(&format!("r{who}"), KIN[who].0, size);
        fresh.metadata.uid = Some(format!("uid-{}", self.born));
        fresh.spec.parent = KIN[who].1.map(|parent| format!("r{parent}"));
        fresh
    }

    fn lines(&mut self, who: usize) -> &mut Vec<LedgerEntry> {
        match KIN[who].1 {
            Some(parent) => &mut self.all[parent].status.get_or_insert_default().refinements,
            None => &mut self.disk.status.get_or_insert_default().reservations,
        }
    }

    fn line(&mut self, who: usize) -> u64 {
        let uid = self.all[who].uid().unwrap();
        ledger::held(self.lines(who), &uid).unwrap_or(0)
    }

    fn take_line(&mut self, who: usize) {
        let taken = match KIN[who].1 {
            Some(parent) => {
                let parent = &self.all[parent];
                let home = self.all[who].status.as_ref().and_then(|s| s.parent.as_ref());
                let same = home.is_none_or(|home| Some(&home.uid) == parent.metadata.uid.as_ref());
                reserve::refine(&self.all[who], Some(parent).filter(|_| same)).ok()
            }
            None => {
                let entry = reserve::entry(&self.all[who]).unwrap();
                let room = reserve::allocatable(&self.disk);
                ledger::take(self.lines(who), room, entry).ok()
            }
        };
        if let Some(lines) = taken {
            *self.lines(who) = lines;
        }
    }

    fn say_has(&mut self, who: usize) {
        let line = self.line(who);
        let parent = KIN[who].1.map(|p| UidRef { name: format!("r{p}"), uid: self.all[p].uid().unwrap() });
        let reservation = &mut self.all[who];
        let wanted = reservation.spec.size.bytes_or_zero();
        let status = reservation.status.get_or_insert_default();
        let has = if status.node_disk.is_some() { reserve::size(status) } else { 0 };
        let size = line.min(wanted).max(has);
        if line > 0 && size > has {
            status.size = Some(Size::from_bytes(size));
            status.node_disk = Some("n1.a".into());
            status.phase = ReservationPhase::Reserved;
            status.parent = parent;
        }
    }

    fn create(&mut self, volume: usize, size: u64) {
        let wanted = super::testing::volume(&format!("v{volume}"), KIN[volume].0, size);
        if self
            .all
            .iter()
            .any(|r| r.status.iter().flat_map(|s| &s.volumes).any(|v| v.uid == wanted.uid().unwrap()))
        {
            return;
        }
        let chosen =
            create::choose(&wanted, &self.all.iter().collect::<Vec<_>>(), &[]).map(ResourceExt::name_any);
        let Ok(name) = chosen else { return };
        let status =
            self.all.iter_mut().find(|r| r.name_any() == name).and_then(|r| r.status.as_mut()).unwrap();
        let room = reserve::room_for_volumes(status);
        status.volumes = ledger::take(&status.volumes, room, create::entry(&wanted).unwrap()).unwrap();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Ask { who, size } => self.all[who].spec.size = gi(size),
            Op::TakeLine { who } => self.take_line(who),
            Op::SayHas { who } => self.say_has(who),
            Op::Shrink { who } => {
                let wanted = self.all[who].spec.size.clone();
                let Some(status) = self.all[who].status.as_mut().filter(|s| s.node_disk.is_some()) else {
                    return;
                };
                if wanted.bytes_or_zero() < reserve::size(status)
                    && reserve::shrink(status, wanted.bytes_or_zero()).is_ok()
                {
                    status.size = Some(wanted);
                }
            }
            Op::Mend { who } => {
                let (low, high) = reserve::bounds(&self.all[who]);
                let line = reserve::line(&self.all[who], low);
                *self.lines(who) = ledger::settle(self.lines(who), line, low, high);
            }
            Op::Create { volume, size } => self.create(volume, size),
            Op::Destroy { volume } => {
                for status in self.all.iter_mut().filter_map(|r| r.status.as_mut()) {
                    status.volumes = ledger::credit(&status.volumes, &format!("uid-v{volume}"));
                }
            }
            Op::Delete { who } => {
                let status = self.all[who].status.clone().unwrap_or_default();
                if release::reservation_held(&status).is_none() {
                    let uid = self.all[who].uid().unwrap();
                    *self.lines(who) = ledger::credit(self.lines(who), &uid);
                    self.all[who] = self.fresh(who, 3);
                }
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let lines = self.disk.status.clone().unwrap().reservations;
        prop_assert!(ledger::total(&lines) <= reserve::allocatable(&self.disk), "S1: the disk gave too much");
        for who in 0..self.all.len() {
            let status = self.all[who].status.clone().unwrap_or_default();
            prop_assert!(
                reserve::used(&status) <= reserve::size(&status),
                "S1: r{who} gave too much: {status:?}"
            );
            let line = self.line(who);
            prop_assert!(
                reserve::size(&status) <= line,
                "r{who} has more than its line of {line}: {status:?}"
            );
            for volume in &status.volumes {
                let covers = Role::name_covers(&self.all[who].spec.role, &volume.role);
                prop_assert!(status.node_disk.is_some() && covers, "S2: {volume:?} in r{who}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// S1, S2: at every write, whatever the order and wherever somebody stops in the middle.
    #[test]
    fn s1_s2_no_sequence_of_writes_gives_away_more_than_there_is(ops in proptest::collection::vec(op(), 0..120)) {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
            model.check()?;
        }
    }
}

#[test]
fn the_model_gets_as_far_as_volumes_in_a_refinement_of_a_refinement() {
    let mut model = Model::new();
    let ask = |who, size| [Op::Ask { who, size }, Op::TakeLine { who }, Op::SayHas { who }];
    for op in [ask(0, 10), ask(2, 6), ask(4, 3)].concat() {
        model.apply(op);
    }
    model.apply(Op::Create { volume: 4, size: 2 });
    let has = |model: &Model, who: usize| {
        let status = model.all[who].status.clone().unwrap();
        (reserve::size(&status) >> 30, reserve::used(&status) >> 30)
    };
    assert_eq!([0, 2, 4].map(|who| has(&model, who)), [(10, 6), (6, 3), (3, 2)]);
    model.apply(Op::Delete { who: 2 });
    assert_eq!(has(&model, 2), (6, 3), "R4: it has a refinement");
    for op in [Op::Ask { who: 2, size: 4 }, Op::Shrink { who: 2 }, Op::Mend { who: 2 }] {
        model.apply(op);
    }
    assert_eq!(
        [0, 2].map(|who| has(&model, who)),
        [(10, 4), (4, 3)],
        "R6: what it gave back is its parent's"
    );
}
