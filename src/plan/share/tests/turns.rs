//! The sharing out over time, with random arrivals: every reservation gets its turn, and nobody idles a disk (Q5, L7).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::*;
use crate::api::NodeDisk;
use crate::plan::testing::*;

/// Rounds of one turn. A round takes a minute.
const TURN_ROUNDS: u64 = 5;
/// The wait, in rounds, after which a reservation with the turn comes first.
const LONG_ROUNDS: u64 = 60;
/// The most reservations that wait at once.
const MOST_WAITING: usize = 6;
/// Names of the disks, and sizes in Gi.
const DISKS: [(&str, u64); 2] = [("n1.a", 10), ("n2.b", 6)];
/// Roles, and the limits of their VolumeRoles in Gi.
const ROLES: [(&str, Option<u64>); 5] =
    [("eng", Some(12)), ("eng/ml", None), ("eng/web", Some(10)), ("ops", None), ("new/x", None)];

/// A reservation of so many Gi that a role requests in that round, and releases after so many rounds.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    round: u64,
    role: usize,
    size: u64,
    lasts: u64,
    /// The only disk that may serve the reservation; `None`: any disk.
    disk: Option<usize>,
}

/// Enough arrivals that some reservation waits at all times.
fn arrivals(rounds: u64, lasts: std::ops::Range<u64>) -> impl Strategy<Value = Vec<Arrival>> {
    let disk = prop_oneof![2 => Just(None), 1 => (0..DISKS.len()).prop_map(Some)];
    let arrival = (0..rounds, 0..ROLES.len(), prop_oneof![12 => 1u64..4, 1 => 4u64..11], lasts, disk)
        .prop_map(|(round, role, size, lasts, disk)| Arrival { round, role, size, lasts, disk });
    proptest::collection::vec(arrival, 600..1500)
}

/// True if the reservation fits the limits and a disk that is empty.
fn is_possible(role: &str, size: u64, disk: Option<&str>) -> bool {
    let mut limits = ROLES
        .iter()
        .filter(|(of, _)| crate::api::Role::name_covers(of, role))
        .filter_map(|(_, limit)| *limit);
    DISKS.iter().any(|(name, all)| disk.is_none_or(|disk| disk == *name) && size <= *all)
        && limits.all(|limit| size <= limit)
}

struct Waiting {
    reservation: DiskReservation,
    lasts: u64,
    /// Rounds of waiting within the limits: nobody holds back the limit of a role.
    waited: u64,
    /// Rounds with unused free space that the reservation could have had.
    passed_over: u64,
}

struct Served {
    reservation: DiskReservation,
    disk: &'static str,
    until: u64,
}

#[derive(Default)]
struct World {
    round: u64,
    waiting: Vec<Waiting>,
    served: Vec<Served>,
    outcomes: Outcomes,
}

impl World {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(60 * i64::try_from(self.round).unwrap()).unwrap()
    }

    fn disks(&self) -> Vec<NodeDisk> {
        let disk_with = |(name, size): (&'static str, u64)| {
            let mut disk = disk(name, &name[..2], size, &[]);
            let on = self.served.iter().filter(|served| served.disk == name);
            let entries = on.map(|s| {
                crate::plan::entry::entry_of(&s.reservation, s.reservation.spec.size.bytes_or_zero())
            });
            disk.status.as_mut().unwrap().reservations = entries.collect();
            disk
        };
        DISKS.map(disk_with).into()
    }

    fn roles(&self) -> Vec<VolumeRole> {
        let with_limit = |(role, limit): (&str, Option<u64>)| {
            let mut object = with_quota(volume_role(&role.replace('/', "-"), role), limit, None, &[]);
            let of = |s: &&Served| crate::api::Role::name_covers(role, &s.reservation.spec.role);
            let entries = self.served.iter().filter(of);
            object.status.as_mut().unwrap().reservations = entries
                .map(|s| {
                    crate::plan::entry::entry_of(&s.reservation, s.reservation.spec.size.bytes_or_zero())
                })
                .collect();
            object
        };
        ROLES.map(with_limit).into()
    }

    fn arrive(&mut self, name: String, Arrival { role, size, lasts, disk, .. }: Arrival) {
        if self.waiting.len() == MOST_WAITING
            || !is_possible(ROLES[role].0, size, disk.map(|disk| DISKS[disk].0))
        {
            return;
        }
        let mut reservation = reservation(&name, ROLES[role].0, size);
        reservation.metadata.creation_timestamp = Some(Time(self.now()));
        reservation.spec.node_disk = disk.map(|disk| DISKS[disk].0.to_owned());
        let waiting = Waiting { reservation, lasts, waited: 0, passed_over: 0 };
        self.waiting.push(waiting);
    }

    /// Repeats the sharing out until no further reservation is served, as the controller does after each change. The
    /// begin of a turn is a change, too: the sharing out is repeated before the caches have what is served.
    fn share_out(&mut self) {
        loop {
            let (disks, roles) = (self.disks(), self.roles());
            let candidates: Vec<_> = disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
            let placed: Vec<DiskReservation> = self.served.iter().map(|s| s.reservation.clone()).collect();
            let all: Vec<_> = self.waiting.iter().map(|w| &w.reservation).chain(&placed).collect();
            let roles: Vec<_> = roles.iter().collect();
            let begun = share_out(&all, &candidates, &roles, &self.outcomes, self.now());
            let outcomes = share_out(&all, &candidates, &roles, &begun, self.now());
            let round = self.round;
            let (served, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|w| matches!(outcomes[&w.reservation.uid().unwrap()], Outcome::Serve { .. }));
            self.waiting = waiting;
            let is_done = served.is_empty();
            for Waiting { mut reservation, lasts, .. } in served {
                let Outcome::Serve { disk, .. } = &outcomes[&reservation.uid().unwrap()] else {
                    unreachable!()
                };
                let disk = DISKS.iter().find(|(name, _)| name == disk).unwrap().0;
                let status = reservation.status.get_or_insert_default();
                (status.node_disk, status.size) = (Some(disk.into()), Some(reservation.spec.size.clone()));
                self.served.push(Served { reservation, disk, until: round + lasts });
            }
            self.outcomes = outcomes;
            if is_done {
                return;
            }
        }
    }

    /// S1, Q2: the ledgers never exceed disks and limits.
    fn check_ledgers(&self) -> Result<(), TestCaseError> {
        for disk in self.disks() {
            prop_assert!(
                ledger_total(&disk.status.unwrap().reservations) <= disk_size(&disk.metadata.name.unwrap())
            );
        }
        for role in self.roles() {
            let limit = role.spec.quota.limit.as_ref().map_or(u64::MAX, Size::bytes_or_zero);
            prop_assert!(ledger_total(&role.status.unwrap().reservations) <= limit, "{}", role.spec.role);
        }
        Ok(())
    }

    /// Nobody idles a disk: usable free space of a disk is held back from a reservation for one turn at most.
    fn check_idle(&mut self) -> Result<(), TestCaseError> {
        let free = self.disks().into_iter().map(|disk| {
            let name = disk.metadata.name.unwrap();
            (disk_size(&name) - ledger_total(&disk.status.unwrap().reservations), name)
        });
        let free: Vec<(u64, String)> = free.collect();
        for waiting in &mut self.waiting {
            let spec = &waiting.reservation.spec;
            let fits = |(free, name): &(u64, String)| {
                spec.node_disk.as_ref().is_none_or(|disk| disk == name) && *free >= spec.size.bytes_or_zero()
            };
            // Bytes that the same role collects count towards the limit.
            let Outcome::Wait { why, .. } = &self.outcomes[&waiting.reservation.uid().unwrap()] else {
                unreachable!()
            };
            let could = free.iter().any(fits) && why.reason != reason::OVER_QUOTA;
            waiting.passed_over = if could { waiting.passed_over + 1 } else { 0 };
            prop_assert!(
                waiting.passed_over <= TURN_ROUNDS * DISKS.len() as u64,
                "round {}: {} is passed over: {:?}",
                self.round,
                waiting.reservation.name_any(),
                self.outcomes[&waiting.reservation.uid().unwrap()]
            );
        }
        Ok(())
    }

    /// Every reservation gets its turn.
    fn check_turns(&mut self) -> Result<(), TestCaseError> {
        let most = LONG_ROUNDS + (TURN_ROUNDS + 1) * (MOST_WAITING as u64 + 1);
        for waiting in &mut self.waiting {
            let outcome = &self.outcomes[&waiting.reservation.uid().unwrap()];
            let is_over_quota =
                matches!(outcome, Outcome::Wait { why, .. } if why.reason == reason::OVER_QUOTA);
            waiting.waited += u64::from(!is_over_quota);
            let spec = &waiting.reservation.spec;
            prop_assert!(
                waiting.waited <= most,
                "round {}: {} of {} for {} waited {} rounds: {:?}",
                self.round,
                waiting.reservation.name_any(),
                spec.size,
                spec.role,
                waiting.waited,
                self.outcomes
            );
        }
        Ok(())
    }

    fn run(mut arrivals: Vec<Arrival>, rounds: u64, turns: bool) -> Result<(), TestCaseError> {
        arrivals.sort_by_key(|arrival| arrival.round);
        let (mut world, mut born) = (Self::default(), 0);
        for round in 0..rounds {
            world.round = round;
            world.served.retain(|served| served.until > round);
            for arrival in arrivals.iter().filter(|arrival| arrival.round == round) {
                born += 1;
                world.arrive(format!("r{born}"), *arrival);
            }
            world.share_out();
            world.check_ledgers()?;
            world.check_idle()?;
            if turns {
                world.check_turns()?;
            }
        }
        Ok(())
    }
}

fn ledger_total(entries: &[crate::api::LedgerEntry]) -> u64 {
    crate::plan::ledger::total(entries)
}

fn disk_size(name: &str) -> u64 {
    DISKS.iter().find(|(disk, _)| *disk == name).unwrap().1 << 30
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Q5, L7: each reservation is released within a turn.
    #[test]
    fn q5_l7_everybodys_turn_comes(arrivals in arrivals(200, 1..5)) {
        World::run(arrivals, 200, true)?;
    }

    /// Q5: reservations last for any time.
    #[test]
    fn q5_nobody_idles_a_disk(arrivals in arrivals(100, 1..60)) {
        World::run(arrivals, 100, false)?;
    }
}

/// L7: each round has small requests of a role with fewer bytes. Left alone, they would never leave the whole disk
/// free.
#[test]
fn l7_a_stream_of_small_ones_delays_a_large_one_for_a_while() {
    let small = |round| Arrival { round, role: 3 + (round % 2) as usize, size: 4, lasts: 3, disk: Some(0) };
    let mut arrivals: Vec<_> = (0..160).map(small).collect();
    arrivals.push(Arrival { round: 3, role: 1, size: 10, lasts: 1, disk: Some(0) });
    World::run(arrivals, 160, true).unwrap();
}

/// Q5: many large requests of new sub-roles hold the disk back no longer than one such request.
#[test]
fn q5_many_large_ones_hold_a_disk_no_longer_than_one() {
    let mut world = World::default();
    let always = Arrival { round: 0, role: 3, size: 1, lasts: 1000, disk: Some(0) };
    world.arrive("there".into(), always);
    world.share_out();
    for i in 0..MOST_WAITING - 1 {
        world.arrive(format!("large-{i}"), Arrival { size: 10, role: 4, ..always });
    }
    world.share_out();
    world.arrive("small".into(), Arrival { size: 2, role: 0, ..always });
    for round in 1..=TURN_ROUNDS {
        let is_served = |world: &World| world.served.iter().any(|s| s.reservation.name_any() == "small");
        assert!(!is_served(&world), "round {round}: the turn of the first large one lasts");
        world.round = round;
        world.share_out();
        assert_eq!(is_served(&world), round == TURN_ROUNDS);
    }
}
