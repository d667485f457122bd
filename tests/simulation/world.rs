//! A run: controllers, agents, Kubernetes, users and faults, from one seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reservoir::controller;
use reservoir::plan::startup_taint::TAINT;
use reservoir::telemetry::Metrics;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::classes;
use crate::clock;
use crate::copies;
use crate::disks::Disk;
use crate::fault_plans::FaultPlan;
use crate::host::{self, Host, Hosts};
use crate::kubernetes::AGENTS;
use crate::random::Random;
use crate::rest;
use crate::rest_of_disks;
use crate::rules;
use crate::scenario;
use crate::server::{self, Request, Server, Shared, client, lock};
use crate::setup::Setup;
use crate::users::POOLS;
use crate::{earlier, kubernetes, users};

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Actions of users, of Kubernetes and of faults.
    pub steps: u64,
    /// True if faults happen.
    pub faults: bool,
    /// True if the story is told.
    pub told: bool,
    /// The scenario instead of actions at random.
    pub scenario: Option<FaultPlan>,
}

/// What became of a run.
pub struct Outcome {
    pub violations: Vec<String>,
    pub hash: u64,
    pub requests: u64,
    pub revisions: u64,
    /// The writes of controllers and agents in the scenario.
    pub writes: u64,
    pub story: Vec<String>,
}

/// The nodes. In some runs the last node has no disk at first.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// The number of steps after which people make again the data sets that are gone.
const DATA_SETS: u64 = 150;

pub struct World {
    pub plan: Plan,
    pub random: Random,
    pub server: Shared,
    pub hosts: Hosts,
    controllers: [Option<JoinHandle<()>>; 2],
    /// True from a restore of etcd until a controller starts.
    pub restores: bool,
    /// True while a controller of an earlier version runs, and none of this one.
    pub earlier: bool,
    metrics: [Arc<Metrics>; 2],
    pub setup: Setup,
    agents: Vec<Option<JoinHandle<()>>>,
    kubelets: Vec<JoinHandle<()>>,
    /// The end of the fault that lasts.
    pub ends: Option<Instant>,
    /// True once the scenario is cut short.
    pub is_cut_short: bool,
}

/// Runs a plan in simulated time.
pub fn run(plan: Plan) -> Outcome {
    fastrand::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        clock::begin();
        let mut world = World::new(plan);
        world.play().await;
        world.end()
    })
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let hosts: Hosts = Arc::default();
        let server = Server::new(Random::new(random.next()), hosts.clone(), plan.told);
        let server = Arc::new(Mutex::new(server));
        let (controllers, metrics, agents, kubelets) = Default::default();
        let setup = if plan.scenario.is_some() { Setup::of_scenario() } else { Setup::new(plan.seed) };
        server::lock(&server).tell(|| format!("{setup:?}"));
        let mut world = Self {
            plan,
            random,
            server,
            hosts,
            controllers,
            restores: false,
            earlier: false,
            metrics,
            setup,
            agents,
            kubelets,
            ends: None,
            is_cut_short: false,
        };
        world.found();
        if world.plan.scenario.is_none() {
            world.begin_data_sets();
        }
        for node in &NODES[..if setup.has_third_disk { 3 } else { 2 }] {
            host::lock(&world.hosts).entry((*node).to_owned()).or_default().disk =
                Some(Disk::new(format!("disk-of-{node}")));
        }
        for node in NODES {
            world.kubelets.push(tokio::spawn(kubernetes::kubelet(world.agent(node))));
            world.agents.push(None);
        }
        world.start_agents();
        world.start_controller(0);
        world
    }

    /// What is there before anything happens.
    fn found(&self) {
        let mut server = lock(&self.server);
        let mut create = |plural, body| {
            let request = Request { method: "POST".into(), plural, body, ..Default::default() };
            let (code, answer) = server.answer("operator", &request);
            assert_eq!(code, 201, "{}", answer.value());
        };
        for crd in server::CRDS.iter() {
            create("customresourcedefinitions", crd.clone());
        }
        for namespace in users::NAMESPACES {
            create("namespaces", json!({"metadata": {"name": namespace}}));
        }
        for class in classes::classes() {
            create("storageclasses", class);
        }
        drop(server);
        for node in NODES {
            self.create_node(node);
            self.set_node_ready(node, true);
        }
    }

    fn begin_data_sets(&mut self) {
        if self.setup.copies {
            let mut server = lock(&self.server);
            for (who, request) in copies::begun(&mut self.random) {
                server.answer(who, &request);
            }
        }
    }

    /// Creates a Node, unless it is there.
    pub fn create_node(&self, node: &str) {
        let pool = POOLS[usize::from(node == "n2")];
        let labels = json!({"kubernetes.io/hostname": node, "pool": pool});
        let taint = json!({"key": TAINT, "effect": "NoExecute"});
        let taints = if self.setup.has_agent_pods { json!([taint]) } else { json!([]) };
        let body = json!({"metadata": {"name": node, "labels": labels}, "spec": {"taints": taints}});
        let request = Request { method: "POST".into(), plural: "nodes", body, ..Default::default() };
        lock(&self.server).answer("operator", &request);
    }

    pub fn set_node_ready(&self, node: &str, ready: bool) {
        let ready = if ready { "True" } else { "Unknown" };
        let condition = json!({"type": "Ready", "status": ready, "reason": "Kubelet", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": "2026-01-01T00:00:00Z"});
        let object = json!({"metadata": {"name": node}});
        let request =
            kubernetes::patch("nodes", &object, "status", json!({"status": {"conditions": [condition]}}));
        lock(&self.server).answer("kubernetes", &request);
    }

    fn agent(&self, node: &str) -> Agent {
        Agent {
            node: node.to_owned(),
            client: client(&self.server, &format!("agent {node}")),
            hosts: self.hosts.clone(),
            server: self.server.clone(),
            readings: Default::default(),
            failures: Default::default(),
            setup: self.setup,
        }
    }

    /// Does something on the host of a node.
    pub fn on_host(&self, node: usize, work: impl FnOnce(&mut Host)) {
        work(host::lock(&self.hosts).entry(NODES[node].to_owned()).or_default());
    }

    pub fn tell(&self, line: &str) {
        lock(&self.server).tell(|| line.to_owned());
    }

    pub fn start_controller(&mut self, index: usize) {
        // After a restore of etcd the agents come first: their reports have the data that was made since the backup (X9).
        let server = lock(&self.server);
        let waits =
            self.restores && !rest_of_disks::l8_lost_data_is_reported(&server, &self.hosts).is_empty();
        drop(server);
        if self.controllers[index].is_some() || waits {
            return;
        }
        (self.restores, self.earlier) = (false, false);
        let identity = format!("controller {}", index + 1);
        self.tell(&format!("{identity} starts"));
        let now = [clock::of_controller::<0>, clock::of_controller::<1>][index];
        let options = controller::Options {
            identity: identity.clone(),
            namespace: "reservoir-system".into(),
            replaces_pods: true,
            untaints_nodes: self.setup.has_agent_pods,
            labels_nodes: self.setup.copies,
            concurrency: 8,
            agents: self.setup.has_agent_pods.then(|| "app=agent".to_owned()),
            look_again: controller::LOOK_AGAIN,
            wake: true,
            now,
        };
        self.metrics[index] = Default::default();
        let running = controller::run(client(&self.server, &identity), options, self.metrics[index].clone());
        self.controllers[index] = Some(tokio::spawn(running));
    }

    pub fn kill_controller(&mut self, index: usize) {
        if let Some(running) = self.controllers[index].take() {
            running.abort();
            lock(&self.server).note_death();
            self.tell(&format!("controller {} is killed", index + 1));
        }
    }

    pub fn start_agents(&mut self) {
        (0..NODES.len()).for_each(|node| self.start_agent(node));
    }

    fn start_agent(&mut self, index: usize) {
        if self.agents[index].is_none() {
            let node = NODES[index];
            self.tell(&format!("the agent of {node} starts"));
            let mut hosts = host::lock(&self.hosts);
            let host = hosts.entry(node.to_owned()).or_default();
            (host.has_agent, host.agents, host.serves) = (true, host.agents + 1, None);
            (host.node_uid, host.refused) = Default::default();
            host.disk.iter_mut().for_each(Disk::is_opened);
            drop(hosts);
            self.agents[index] = Some(tokio::spawn(self.agent(node).run()));
        }
    }

    pub fn kill_agent(&mut self, index: usize) {
        if let Some(running) = self.agents[index].take() {
            running.abort();
            let mut hosts = host::lock(&self.hosts);
            let host = hosts.entry(NODES[index].to_owned()).or_default();
            host.has_agent = false;
            host.publishing.clear();
            drop(hosts);
            self.tell(&format!("the agent of {} is killed", NODES[index]));
        }
    }

    /// What a DaemonSet makes of the agents: a pod of each on a Node that is there, Ready while it serves.
    pub fn run_agent_pods(&self) {
        let mut server = lock(&self.server);
        for (node, agent) in NODES.iter().zip(&self.agents).filter(|_| self.setup.has_agent_pods) {
            let id = |plural, namespace: &str| (plural, namespace.to_owned(), (*node).to_owned());
            let has_node = server.store.get(&id("nodes", "")).is_some();
            let pod = server.store.get(&id("pods", AGENTS)).map(|stored| stored.object.clone());
            let ready = json!([{"type": "Ready", "status": if agent.is_some() { "True" } else { "False" }}]);
            let request = match pod {
                None if has_node => {
                    let spec = json!({"nodeName": node, "containers": [{"name": "agent", "image": "agent"}]});
                    let mut pod = users::create("pods", AGENTS, node, spec);
                    pod.body["metadata"]["labels"] = json!({"app": "agent"});
                    pod
                }
                Some(pod) if !has_node => {
                    let now = json!({"gracePeriodSeconds": 0});
                    kubernetes::delete("pods", AGENTS, &kubernetes::text(&pod["metadata"]["name"]), now)
                }
                Some(pod) if pod["status"]["conditions"] != ready => {
                    let status = json!({"status": {"phase": "Running", "conditions": ready}});
                    kubernetes::patch("pods", &pod, "status", status)
                }
                _ => continue,
            };
            server.answer("kubernetes", &request);
        }
    }

    pub fn is_broken(&self) -> bool {
        !lock(&self.server).violations.is_empty()
    }

    async fn play(&mut self) {
        match self.plan.scenario {
            Some(plan) => self.act_out(plan).await,
            None => tokio::time::sleep(Duration::from_secs(5)).await,
        }
        for step in 1..=self.plan.steps {
            let longest = if self.random.in_a_thousand(20) { 60_000 } else { 700 };
            let pause = self.random.below(longest);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.step();
            if step % DATA_SETS == 0 {
                self.begin_data_sets();
            }
            self.run_agent_pods();
            if self.is_broken() {
                return;
            }
        }
        self.tell("nothing fails any more, and nobody wants anything new");
        host::lock(&self.hosts).values_mut().for_each(|host| host.is_calm = true);
        self.recover();
        self.come_to_rest().await;
        if self.plan.scenario.is_some() && !self.is_over() {
            tokio::time::sleep(scenario::LEFT).await;
            while kubernetes::turn(&self.server) {}
            let left = scenario::left(&lock(&self.server), &self.hosts);
            self.report(left);
        }
        self.ask_about_everything().await;
    }

    fn step(&mut self) {
        if self.earlier {
            earlier::turn(&mut lock(&self.server));
        }
        if self.plan.faults {
            self.act_by_hand();
        }
        let chance = self.random.below(100);
        if chance < 45 {
            kubernetes::turn(&self.server);
        } else if chance < 90 || !self.plan.faults {
            let mut server = lock(&self.server);
            if let Some((who, request)) = users::next(&server, &mut self.random, &self.setup) {
                server.answer(who, &request);
            }
        } else {
            self.fail();
            // T3: a scrape at any time, which costs as much as many steps.
            if chance == 90 {
                self.metrics.iter().for_each(|metrics| drop(metrics.text()));
            }
        }
    }

    /// Everything works again.
    pub fn recover(&mut self) {
        self.repair();
        copies::verify_what_rotted(&self.server, &self.hosts);
        NODES.iter().for_each(|node| self.set_node_ready(node, true));
        self.kill_controller(1);
        self.start_controller(0);
        self.start_agents();
    }

    pub fn report(&mut self, found: Vec<String>) {
        let mut server = lock(&self.server);
        for broken in found {
            server.tell(|| format!("BROKEN: {broken}"));
            server.violations.push(broken);
        }
    }

    /// L1: until nothing changes any more.
    pub async fn come_to_rest(&mut self) {
        let mut at_rest = rest::Rest::default();
        for _ in 0..rest::WITHIN.as_secs() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            while kubernetes::turn(&self.server) {}
            self.say_where_disks_are();
            self.run_agent_pods();
            lock(&self.server).end_kinds(true);
            self.start_controller(0);
            if self.is_broken() {
                return;
            }
            at_rest.count(&lock(&self.server));
            if at_rest.is_long() {
                break;
            }
        }
        let mut found = rest::check(&self.server, &self.hosts, &self.setup, &at_rest);
        found.extend(rest::t3_gauges_count_the_objects(&lock(&self.server), &self.metrics[0].text()));
        self.report(found);
    }

    fn end(&mut self) -> Outcome {
        for running in self.controllers.iter_mut().chain(&mut self.agents).filter_map(Option::take) {
            running.abort();
        }
        self.kubelets.iter().for_each(JoinHandle::abort);
        let made_once = rules::s13_a_volume_is_made_once(&self.hosts);
        let mut server = server::lock(&self.server);
        server.violations.extend(made_once.err());
        Outcome {
            violations: server.violations.clone(),
            hash: server.hash(),
            requests: server.requests,
            revisions: server.store.version,
            writes: server.writes,
            story: server.story.take().unwrap_or_default(),
        }
    }
}
