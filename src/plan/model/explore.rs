//! Visits every state of a model, whatever the order of its steps.

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, Expectation, Model};

/// Visits all states, or those within so many steps, and returns their number. A broken rule ends the test with the steps
/// that lead there.
pub fn explore<M>(model: M, depth: Option<usize>) -> usize
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
    let checker = model.clone().checker().threads(if depth.is_some() { 1 } else { threads() });
    let done = match depth {
        Some(depth) => checker.target_max_depth(depth),
        None => checker,
    };
    let done = done.spawn_bfs().join();
    println!("{model:?}: {} states, at most {} steps", done.unique_state_count(), done.max_depth());
    for rule in model.properties().iter().filter(|property| property.expectation == Expectation::Always) {
        if let Some(path) = done.discovery(rule.name) {
            path.into_actions().iter().for_each(|action| println!("  {action:?}"));
            panic!("{} is broken", rule.name);
        }
    }
    if depth.is_none() {
        done.assert_properties();
    }
    done.unique_state_count()
}

fn threads() -> usize {
    std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(1)
}
