//! End to end on the node tier: a real kind cluster, the chart, the agents, ordinary pods.
//!
//! It runs the very tour that `make demo` shows, with the controller killed before each step, then upgrades, removes and
//! reinstalls the chart under a pod that writes, and runs the pages of docs/ that need pods. It takes minutes, so it runs as a test of its own: `make test-e2e`.

use std::time::Duration;

use reservoir_cluster::node::{Cluster, NodeOptions};
use reservoir_cluster::tour::{self, Tour};

/// Removes the cluster however the test ends.
struct Down(&'static str);

impl Drop for Down {
    fn drop(&mut self) {
        Cluster::down(self.0).unwrap();
    }
}

#[test]
#[ignore = "brings a kind cluster up and takes minutes; make test-e2e runs it"]
fn the_tour_with_a_controller_that_is_killed_before_each_step() {
    let options = NodeOptions { name: "reservoir-test".into(), nodes: 2 };
    let down = Down("reservoir-test");
    let cluster = Cluster::up(&options).unwrap();
    let tour = Tour::new(cluster.clone(), true);
    tour.install().unwrap();
    tour.walk().unwrap();
    tour.settle().unwrap();
    tour.upgrade().unwrap();
    // What was begun when the controller was killed last has ended by then.
    std::thread::sleep(Duration::from_secs(30));
    tour::quiet(&cluster, Duration::from_secs(300)).unwrap();
    tour.clean().unwrap();
    tour.pages().unwrap();
    drop(down);
    assert!(Cluster::find("reservoir-test").unwrap().is_none());
}
