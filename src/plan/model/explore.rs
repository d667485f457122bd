//! Visits the states of a model, whatever the order of its steps.

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// The limit of a visit, which begins with the nearest states.
#[derive(Clone, Copy)]
pub enum Bound {
    /// States within so many steps.
    Steps(usize),
    /// So many states, or all. A state counts each time that a step leads there.
    States(usize),
    /// All states.
    All,
}

/// The bound of `make model-check`.
pub fn many() -> Bound {
    let states = std::env::var("STATES").ok().and_then(|states| states.parse().ok());
    Bound::States(states.unwrap_or(3_000_000))
}

/// Visits states, and returns their number. A broken rule ends the test with the steps that lead there.
pub fn explore<M>(model: M, bound: Bound) -> usize
where
    M: Model<
            State: Clone + Debug + Hash + PartialEq + Send + Sync,
            Action: Clone + Debug + PartialEq + Send + Sync,
        > + Clone
        + Debug
        + Send
        + Sync
        + 'static,
{
    let checker = model.clone().checker().threads(1).finish_when(HasDiscoveries::AnyFailures);
    let checker = match bound {
        Bound::Steps(steps) => checker.target_max_depth(steps),
        Bound::States(states) => checker.target_state_count(states),
        Bound::All => checker,
    };
    let done = checker.spawn_bfs().join();
    println!(
        "{model:?}: {} states, {} of them different, at most {} steps",
        done.state_count(),
        done.unique_state_count(),
        done.max_depth()
    );
    for rule in model.properties() {
        match (rule.expectation, done.discovery(rule.name)) {
            (Expectation::Always, Some(path)) => {
                path.into_actions().iter().for_each(|action| println!("  {action:?}"));
                panic!("{} is broken", rule.name);
            }
            (Expectation::Sometimes, None) if matches!(bound, Bound::All) => panic!("never: {}", rule.name),
            (Expectation::Sometimes, None) => println!("  not within that: {}", rule.name),
            _ => {}
        }
    }
    done.state_count()
}
