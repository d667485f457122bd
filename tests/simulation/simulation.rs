//! A cluster in a box: the real controllers and the agents' decisions, in simulated time, against an API server in memory.
//!
//! `make simulate` runs many seeds. `make simulate SEED=n` runs one, and tells its story.

mod agent;
mod asker;
mod by_hand;
mod classes;
mod clock;
mod copies;
mod disks;
mod earlier;
mod fault_plans;
mod faults;
mod host;
mod kubernetes;
mod random;
mod real;
mod rest;
mod rest_of_copies;
mod rest_of_disks;
mod rest_of_words;
mod rules;
mod scenario;
mod seals;
mod server;
mod setup;
mod steps;
mod users;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use fault_plans::{Fault, FaultPlan};
use mimalloc::MiMalloc;
use world::{Outcome, Plan, run};

/// A quarter of a run's time is the allocator's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// After so many failed ones no more are run.
const ENOUGH: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| value.parse().expect(name))
}

fn plan(seed: u64) -> Plan {
    Plan { seed, steps: number("STEPS").unwrap_or(300), faults: true, told: false, scenario: None }
}

/// Runs a seed in a thread of its own, as clocks belong to a thread.
fn run_alone(plan: Plan) -> Outcome {
    std::thread::spawn(move || run(plan)).join().expect("the run does not panic")
}

/// Runs a plan for each entry, one per core, and reports each that breaks a rule; [`ENOUGH`] failures end the runs.
fn run_all<T: Copy + Sync>(all: &[T], plan: impl Fn(T) -> Plan + Sync, command: impl Fn(T) -> String + Sync) {
    let (next, requests, started) = (AtomicUsize::new(0), AtomicU64::new(0), Instant::now());
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.lock().expect("no panic").len() >= ENOUGH {
                return;
            }
            let outcome = run_alone(plan(*one));
            requests.fetch_add(outcome.requests, Ordering::Relaxed);
            if !outcome.violations.is_empty() {
                let command = command(*one);
                println!("a rule is broken: {:#?}\n{command}", outcome.violations);
                failed.lock().expect("no panic").push(command);
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (count, requests) = (all.len(), requests.into_inner());
    println!("{count} runs, {requests} requests in {:.0} s", started.elapsed().as_secs_f64());
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Runs one, tells its story, and expects no broken rule.
fn tell(plan: Plan) {
    let outcome = run_alone(Plan { told: true, ..plan });
    outcome.story.iter().for_each(|line| println!("{line}"));
    println!("{} requests, {} revisions, hash {:016x}", outcome.requests, outcome.revisions, outcome.hash);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}

/// One seed is one run.
#[test]
fn a_seed_is_a_run() {
    let plan = Plan { told: true, ..plan(number("SEED").unwrap_or(1)) };
    let (first, second) = (run_alone(plan.clone()), run_alone(plan));
    for (one, other) in first.story.iter().zip(&second.story) {
        assert_eq!(one, other);
    }
    assert_eq!((first.hash, first.requests), (second.hash, second.requests));
}

/// S1 to S17, L1 to L8: no rule is broken, in any order and with any fault.
#[test]
fn no_rule_is_broken() {
    if let Some(seed) = number("SEED") {
        tell(plan(seed));
        return;
    }
    let (first, count) = (number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(12));
    let seeds: Vec<u64> = (first..first + count).collect();
    run_all(&seeds, plan, |seed| format!("make simulate SEED={seed}"));
}

/// S1 to S17, L1 to L8: a fault at any write of the scenario breaks no rule, and the scenario goes on after it.
#[test]
fn a_fault_at_any_write_breaks_no_rule() {
    let faults = Fault::all();
    let plan = |(at, fault): (u64, usize)| Plan {
        seed: rest_of_words::WORDS,
        steps: 0,
        faults: false,
        told: false,
        scenario: Some(FaultPlan { fault: faults[fault], at }),
    };
    if let Some(at) = number("WRITE") {
        tell(plan((at, number("FAULT").unwrap_or(0) as usize)));
        return;
    }
    let quiet = run_alone(plan((0, 0)));
    assert!(quiet.violations.is_empty(), "without a fault: {:#?}", quiet.violations);
    let writes = number("FIRST").unwrap_or(1)..=quiet.writes;
    let plans = writes.flat_map(|at| (0..faults.len()).map(move |fault| (at, fault)));
    let plans: Vec<(u64, usize)> = plans.step_by(number("EVERY").unwrap_or(499) as usize).collect();
    assert!(!plans.is_empty(), "the scenario has {} writes", quiet.writes);
    println!("{} writes of the scenario, {} faults", quiet.writes, faults.len());
    run_all(&plans, plan, |(at, fault)| {
        format!("make fault-plans WRITE={at} FAULT={fault}: {:?}", faults[fault])
    });
}
