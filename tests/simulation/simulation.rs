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
mod seals;
mod server;
mod setup;
mod steps;
mod users;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mimalloc::MiMalloc;
use world::{Outcome, Plan, run};

/// A quarter of a run's time is the allocator's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// After so many failed seeds no more are run.
const ENOUGH: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| value.parse().expect(name))
}

fn plan(seed: u64) -> Plan {
    Plan { seed, steps: number("STEPS").unwrap_or(300), faults: true, told: false }
}

/// Runs a seed in a thread of its own, as clocks belong to a thread.
fn run_alone(plan: Plan) -> Outcome {
    std::thread::spawn(move || run(plan)).join().expect("the run does not panic")
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
        let outcome = run_alone(Plan { told: true, ..plan(seed) });
        outcome.story.iter().for_each(|line| println!("{line}"));
        println!(
            "{} requests, {} revisions, hash {:016x}",
            outcome.requests, outcome.revisions, outcome.hash
        );
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        return;
    }
    let (first, count) = (number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(12));
    let (next, requests, started) = (AtomicU64::new(first), AtomicU64::new(0), Instant::now());
    let failed = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.lock().expect("no panic").len() >= ENOUGH {
                        return;
                    }
                    let outcome = run_alone(plan(seed));
                    requests.fetch_add(outcome.requests, Ordering::Relaxed);
                    if !outcome.violations.is_empty() {
                        println!(
                            "seed {seed} breaks a rule: {:#?}\nmake simulate SEED={seed}",
                            outcome.violations
                        );
                        failed.lock().expect("no panic").push(seed);
                    }
                }
            });
        }
    });
    let requests = requests.into_inner();
    println!("{count} seeds, {requests} requests in {:.0} s", started.elapsed().as_secs_f64());
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "seeds {failed:?}");
}
