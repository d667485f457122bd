//! Fault plans: one fault at one write of the scenario, each at each.

use std::time::Duration;

use reservoir::api::Process;
use serde_json::json;
use tokio::time::Instant;

use crate::clock;
use crate::faults::{DELETED, STRIPPED, cordon, strip_it};
use crate::host::Host;
use crate::kubernetes::{self, delete, get, objects, patch};
use crate::server::{Fate, Faults, Request, Server, Strike, Struck, lock};
use crate::world::{NODES, World};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The request never arrives.
    Lost,
    /// The request is carried out, and its answer is lost.
    Unanswered,
    /// 429 or 503.
    Refused(u16),
    /// Somebody else changes the object that is written before.
    Conflict,
    /// The request arrives after its client has given up, and another controller goes on meanwhile.
    Late,
    /// The process that writes is killed before or after the write.
    Killed {
        after: bool,
    },
    /// Killed after the write, and started again with caches of before.
    OldCaches,
    /// Another controller starts, and both run.
    SecondController,
    /// All controllers and agents are killed.
    AllKilled,
    /// The API server is away for a minute.
    Away,
    /// All watches end, and none can go on where it was (410).
    WatchesEnd,
    /// Each request and event is late by up to three seconds for some minutes.
    Slow,
    /// Of the requests a fifth is lost, unanswered or refused, each, for some minutes.
    Flaky,
    /// The clocks of the controllers are wrong by so many hours.
    Clocks(i64),
    /// A node loses its power, and what is on no stable storage with it, or not.
    PowerCut {
        node: usize,
        and_cache: bool,
    },
    AgentKilled(usize),
    DiskFails(usize),
    DiskFull(usize),
    NotReady(usize),
    NodeGone(usize),
    Cordoned(usize),
    Held(usize),
    /// Somebody removes finalizers.
    Stripped,
    /// Somebody deletes a kind with all its objects.
    KindDeleted(&'static str),
    /// etcd is restored from a backup.
    Restored,
}

impl Fault {
    pub fn all() -> Vec<Self> {
        let of_requests = [Self::Lost, Self::Unanswered, Self::Refused(429), Self::Refused(503)];
        let of_processes = [
            Self::Conflict,
            Self::Late,
            Self::Killed { after: false },
            Self::Killed { after: true },
            Self::OldCaches,
            Self::SecondController,
            Self::AllKilled,
            Self::Away,
            Self::WatchesEnd,
            Self::Slow,
            Self::Flaky,
            Self::Clocks(24),
            Self::Clocks(-24),
        ];
        let of_nodes = (0..NODES.len()).flat_map(|node| {
            [
                Self::PowerCut { node, and_cache: false },
                Self::PowerCut { node, and_cache: true },
                Self::AgentKilled(node),
                Self::DiskFails(node),
                Self::DiskFull(node),
                Self::NotReady(node),
                Self::NodeGone(node),
                Self::Cordoned(node),
                Self::Held(node),
            ]
        });
        let of_people = [Self::Stripped, Self::Restored].into_iter().chain(DELETED.map(Self::KindDeleted));
        of_requests.into_iter().chain(of_processes).chain(of_nodes).chain(of_people).collect()
    }

    /// True for what no scenario goes on after.
    fn is_disaster(self) -> bool {
        matches!(self, Self::Stripped | Self::KindDeleted(_) | Self::Restored)
    }

    /// The time until its end.
    fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::Lost | Self::Unanswered | Self::Refused(_) | Self::Conflict => 0,
            Self::OldCaches | Self::WatchesEnd => 5,
            Self::Killed { .. } | Self::AgentKilled(_) | Self::PowerCut { .. } | Self::AllKilled => 20,
            Self::Late | Self::SecondController | Self::Slow | Self::Flaky | Self::Clocks(_) => 200,
            _ => 70,
        })
    }

    /// The fate of the request.
    fn fate(self) -> Fate {
        let fate = Fate::default();
        match self {
            // No request outlasts the API server whose etcd is restored.
            Self::Lost | Self::Killed { after: false } | Self::AllKilled | Self::Restored => {
                Fate { is_lost: true, ..fate }
            }
            Self::Unanswered | Self::Killed { after: true } | Self::OldCaches => {
                Fate { is_unanswered: true, ..fate }
            }
            Self::Refused(code) => Fate { refused: Some(code), ..fate },
            Self::Late => Fate { is_late: true, ..fate },
            _ => fate,
        }
    }
}

/// A fault at the n-th write of the scenario. None is the write 0.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    pub at: u64,
    pub fault: Fault,
}

impl FaultPlan {
    pub fn strike(self) -> Strike {
        Strike { at: self.at, fate: self.fault.fate() }
    }

    /// True if everything is to come to rest where the fault ended, with all objects that are there.
    fn cuts_short(self) -> bool {
        self.fault.is_disaster() || self.at % 4 == 1
    }
}

impl Host {
    /// A process begins to hold a volume that a pod has mounted.
    fn hold_first(&mut self) {
        let uid = self.mounts.values().next().map(|mount| mount.volume.clone());
        let process = Process { pid: 1000, command: "shell".into(), pod_uid: None, mount: None };
        self.held.extend(uid.map(|uid| (uid, process)));
    }
}

impl World {
    /// Lets some time pass, in which the fault strikes or ends.
    pub async fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let alarm = lock(&self.server).alarm.clone();
            let is_alarmed = tokio::time::timeout_at(until, alarm.notified()).await.is_ok();
            let struck = lock(&self.server).struck.take();
            if let (Some(struck), Some(plan)) = (struck, self.plan.scenario) {
                self.tell(&format!("{:?}", plan.fault));
                self.ends = Some(Instant::now() + plan.fault.lasts());
                self.strike(plan, &struck);
                struck.go_on();
            }
            if !is_alarmed {
                break;
            }
        }
        if self.ends.is_some_and(|ends| ends <= Instant::now()) {
            self.ends = None;
            self.is_cut_short |= self.plan.scenario.is_some_and(FaultPlan::cuts_short);
            self.recover();
        }
        while kubernetes::turn(&self.server) {}
        self.run_agent_pods();
    }

    /// True once a rule is broken, or the scenario is cut short.
    pub fn is_over(&self) -> bool {
        self.is_broken() || self.is_cut_short
    }

    fn strike(&mut self, plan: FaultPlan, struck: &Struck) {
        match plan.fault {
            Fault::Lost | Fault::Unanswered | Fault::Refused(_) => {}
            Fault::Conflict => touch(&mut lock(&self.server), &struck.request),
            Fault::Late | Fault::SecondController => self.start_controller(1),
            Fault::Killed { .. } => self.kill(&struck.who),
            Fault::OldCaches => {
                lock(&self.server).faults.old = 30;
                self.kill(&struck.who);
                self.start_controller(0);
                self.start_agents();
            }
            Fault::AllKilled => {
                self.kill_controller(0);
                (0..NODES.len()).for_each(|node| self.kill_agent(node));
            }
            Fault::Away => lock(&self.server).faults.away = true,
            Fault::WatchesEnd => lock(&self.server).end_watches(),
            Fault::Slow => lock(&self.server).faults.slow = 3000,
            Fault::Flaky => {
                let faults = Faults { lost: 200, unanswered: 200, refused: 200, ..Faults::default() };
                lock(&self.server).faults = faults;
            }
            Fault::Clocks(hours) => {
                (0..2).for_each(|controller| clock::set_wrong(controller, hours * 3600));
            }
            Fault::PowerCut { node, and_cache } => self.cut_power(node, and_cache),
            Fault::AgentKilled(node) => self.kill_agent(node),
            Fault::DiskFails(node) => self.on_host(node, |host| host.failing = 1000),
            Fault::DiskFull(node) => self.on_host(node, |host| host.is_full = true),
            Fault::NotReady(node) => self.set_node_ready(NODES[node], false),
            Fault::NodeGone(node) => {
                lock(&self.server).answer("operator", &delete("nodes", "", NODES[node], json!(null)));
            }
            Fault::Cordoned(node) => {
                lock(&self.server).answer("operator", &cordon(NODES[node], json!(true)));
            }
            Fault::Held(node) => self.on_host(node, Host::hold_first),
            Fault::Stripped => strip_near(&mut lock(&self.server), &struck.request, plan.at),
            Fault::KindDeleted(kind) => lock(&self.server).delete_kind(kind),
            Fault::Restored => self.restore_etcd(),
        }
    }

    fn kill(&mut self, who: &str) {
        match who.split_once(' ') {
            Some(("agent", node)) => {
                NODES.iter().position(|of| *of == node).into_iter().for_each(|node| self.kill_agent(node));
            }
            _ => (0..2).filter(|index| who.ends_with(&(index + 1).to_string())).for_each(|index| {
                self.kill_controller(index);
            }),
        }
    }
}

/// Changes the object of a request, which has another version then.
fn touch(server: &mut Server, request: &Request) {
    if let Some(object) = get(server, request.plural, &request.namespace, &request.name) {
        let body = json!({"metadata": {"annotations": {"example.com/touched": "yes"}}});
        server.answer("by hand", &patch(request.plural, &object, "", body));
    }
}

/// X9: somebody removes the finalizers of the object that is written, or else of some object.
fn strip_near(server: &mut Server, request: &Request, at: u64) {
    let written = get(server, request.plural, &request.namespace, &request.name);
    let written =
        written.filter(|_| STRIPPED.contains(&request.plural)).map(|object| (request.plural, object));
    let of = |plural| objects(server, plural).into_iter().map(move |object| (plural, object));
    let all: Vec<_> = STRIPPED.into_iter().flat_map(of).collect();
    let any = || all.get(at as usize % all.len().max(1)).cloned();
    if let Some((plural, object)) = written.or_else(any) {
        strip_it(server, plural, &object);
    }
}
