//! End to end on the node tier: a real kind cluster, the chart, the agents, ordinary pods.
//!
//! The test walks the tour that `make demo` shows, and kills the controller before each step. Then it upgrades, removes and
//! reinstalls the chart under a pod that writes, and runs a part of Kubernetes' own storage tests and the pages of docs/
//! that need pods. `make test-e2e` runs it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reservoir_cluster::conformance;
use reservoir_cluster::node::{Cluster, NodeOptions};
use reservoir_cluster::programs::Release;
use reservoir_cluster::tour::{self, Tour};

/// The time for which Reservoir has to write nothing to an idle cluster.
const IDLE: Duration = Duration::from_secs(300);

/// Removes the cluster however the test ends.
struct Down(&'static str);

impl Drop for Down {
    fn drop(&mut self) {
        Cluster::down(self.0).unwrap();
    }
}

/// Makes the target that `RESERVOIR_MEANWHILE` names: tests that need no cluster, while this one has to be idle anyway.
fn meanwhile() {
    let Some(target) = std::env::var("RESERVOIR_MEANWHILE").ok().filter(|target| !target.is_empty()) else {
        return;
    };
    let mut make = Command::new("make");
    make.arg("--no-print-directory").arg(&target).env_remove("RESERVOIR_MEANWHILE");
    // Variables of cargo's for this test are no business of the next one.
    make.env_remove("CARGO_MANIFEST_DIR").current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(make.status().unwrap().success(), "make {target} failed");
}

#[test]
#[ignore = "brings a kind cluster up and takes minutes; make test-e2e runs it"]
fn the_tour_holds_while_the_controller_is_killed() {
    let options = NodeOptions { name: "reservoir-test".into(), nodes: 3 };
    let down = Down("reservoir-test");
    let cluster = Cluster::up(&options).unwrap();
    let plugin = Path::new(env!("CARGO_BIN_EXE_kubectl-reservoir"));
    let tour = Tour::new(cluster.clone(), true).with_plugin(plugin);
    let last = cluster.node_names().unwrap().pop().unwrap();
    // The node joins a pool of its own during the upgrades.
    cluster.retire(&last).unwrap();
    tour.install().unwrap();
    tour.walk().unwrap();
    tour.settle().unwrap();
    tour.upgrade(&last).unwrap();
    // Kubernetes' own tests and the pages are those of the default release.
    if Release::chosen().unwrap() != Release::default() {
        return tour.clean().unwrap();
    }
    // The writes of the last killed controller have ended by then.
    std::thread::sleep(Duration::from_secs(30));
    std::thread::scope(|scope| {
        let idle = scope.spawn(|| tour::quiet(&cluster, IDLE).unwrap());
        meanwhile();
        idle.join().unwrap();
    });
    tour.clean().unwrap();
    conformance::run(&cluster, &["quick".into()]).unwrap();
    tour.pages().unwrap();
    drop(down);
    assert!(Cluster::find("reservoir-test").unwrap().is_none());
}
