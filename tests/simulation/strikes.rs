//! Fault plans: one fault at one write of the tour, each at each.

use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock;
use crate::faults::strip;
use crate::host;
use crate::kubernetes::{delete, get, patch};
use crate::server::{Faults, Request, Server, Shared, lock};
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
    /// Somebody else changes the object before.
    Conflict,
    /// The request arrives minutes later, and another controller goes on meanwhile.
    Late,
    /// The process that writes is killed before or after the write.
    Killed {
        after: bool,
    },
    /// Killed after the write, and started again with caches of a time before.
    StartedWithOldCaches,
    /// Another controller starts, and both run.
    SecondController,
    /// All controllers and agents are killed.
    AllKilled,
    /// The API server is away for a minute.
    Away,
    /// All watches end and cannot go on where they were (410).
    WatchesEnd,
    /// Each request and event is late by up to three seconds for some minutes.
    Slow,
    /// Of the requests a fifth is lost, unanswered or refused, each, for some minutes.
    Flaky,
    /// The clocks of the controllers are wrong by so many hours.
    Clocks(i64),
    /// Of a node.
    PowerCut(usize, bool),
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

/// The kinds that somebody deletes.
const KINDS: [&str; 5] =
    ["sharedpersistentvolumes", "diskreservations", "volumeclaims", "rolesubscriptions", "nodedisks"];

impl Fault {
    pub fn all() -> Vec<Self> {
        let of_requests = [Self::Lost, Self::Unanswered, Self::Refused(429), Self::Refused(503)];
        let of_processes = [
            Self::Conflict,
            Self::Late,
            Self::Killed { after: false },
            Self::Killed { after: true },
            Self::StartedWithOldCaches,
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
                Self::PowerCut(node, false),
                Self::PowerCut(node, true),
                Self::AgentKilled(node),
                Self::DiskFails(node),
                Self::DiskFull(node),
                Self::NotReady(node),
                Self::NodeGone(node),
                Self::Cordoned(node),
                Self::Held(node),
            ]
        });
        let of_people = [Self::Stripped, Self::Restored].into_iter().chain(KINDS.map(Self::KindDeleted));
        of_requests.into_iter().chain(of_processes).chain(of_nodes).chain(of_people).collect()
    }

    /// True for what the tour does not go on after.
    fn is_disaster(self) -> bool {
        matches!(self, Self::Stripped | Self::KindDeleted(_) | Self::Restored)
    }

    /// Until then it lasts.
    fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::Lost | Self::Unanswered | Self::Refused(_) | Self::Conflict => 0,
            Self::StartedWithOldCaches | Self::WatchesEnd => 5,
            Self::Killed { .. } | Self::AgentKilled(_) | Self::PowerCut(..) | Self::AllKilled => 20,
            Self::Late | Self::SecondController | Self::Slow | Self::Flaky | Self::Clocks(_) => 200,
            _ => 70,
        })
    }

    /// What becomes of the request.
    fn fate(self) -> Fate {
        let fate = Fate::default();
        match self {
            // No request outlasts the API server whose etcd is restored.
            Self::Lost | Self::Killed { after: false } | Self::AllKilled | Self::Restored => {
                Fate { is_lost: true, ..fate }
            }
            Self::Unanswered | Self::Killed { after: true } | Self::StartedWithOldCaches => {
                Fate { is_unanswered: true, ..fate }
            }
            Self::Refused(code) => Fate { refused: Some(code), ..fate },
            Self::Late => Fate { late: Some(Duration::from_secs(180)), ..fate },
            _ => fate,
        }
    }
}

/// A fault at the n-th write of controllers and agents.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    pub at: u64,
    pub fault: Fault,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    pub is_lost: bool,
    pub is_unanswered: bool,
    pub refused: Option<u16>,
    pub late: Option<Duration>,
}

/// A write that waits until its fault is there.
pub struct Struck {
    who: String,
    request: Request,
    fault: Fault,
    goes_on: oneshot::Sender<()>,
}

/// Counts a write, and waits if the fault is to strike at it.
pub async fn fate(server: &Shared, who: &str, request: &Request) -> Fate {
    let (fault, waits, alarm) = {
        let mut server = lock(server);
        let is_ours = who.starts_with("controller") || who.starts_with("agent");
        if !is_ours || request.method == "GET" || ["events", "leases"].contains(&request.plural) {
            return Fate::default();
        }
        server.writes += 1;
        let writes = server.writes;
        let Some(strike) = server.strike.take_if(|strike| strike.at == writes) else {
            return Fate::default();
        };
        server
            .tell(|| format!("{:?} strikes at write {writes}: {who}: {}", strike.fault, request.describe()));
        let (goes_on, waits) = oneshot::channel();
        let (who, request, fault) = (who.to_owned(), request.clone(), strike.fault);
        server.struck = Some(Struck { who, request, fault, goes_on });
        (fault, waits, server.alarm.clone())
    };
    alarm.notify_one();
    let _ = waits.await;
    fault.fate()
}

impl World {
    /// Lets some time pass, in which the fault strikes or ends.
    pub async fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let alarm = lock(&self.server).alarm.clone();
            let alarmed = tokio::time::timeout_at(until, alarm.notified()).await.is_ok();
            let struck = lock(&self.server).struck.take();
            if let Some(struck) = struck {
                self.struck = Some((struck.fault, Instant::now() + struck.fault.lasts()));
                self.strike(&struck);
                let _ = struck.goes_on.send(());
            }
            if !alarmed {
                break;
            }
        }
        if let Some((fault, _)) = self.struck.filter(|(_, ends)| *ends <= Instant::now()) {
            self.struck = None;
            self.is_off_tour |= fault.is_disaster();
            self.recover();
        }
        while crate::kubernetes::turn(&self.server) {}
        self.run_agent_pods();
    }

    /// True once a rule is broken, or a disaster has struck.
    pub fn has_given_up(&self) -> bool {
        self.is_broken() || self.is_off_tour
    }

    fn strike(&mut self, struck: &Struck) {
        let fault = struck.fault;
        match fault {
            Fault::Lost | Fault::Unanswered | Fault::Refused(_) => {}
            Fault::Conflict => touch(&mut lock(&self.server), &struck.request),
            Fault::Late | Fault::SecondController => self.start_controller(1),
            Fault::Killed { .. } => self.kill(&struck.who),
            Fault::StartedWithOldCaches => {
                lock(&self.server).faults.broken_watch = 1000;
                self.kill(&struck.who);
                self.start_controller(0);
                self.start_agents();
            }
            Fault::AllKilled => {
                self.kill_controller(0);
                (0..NODES.len()).for_each(|node| self.kill_agent(node));
            }
            Fault::Away => lock(&self.server).faults.away = true,
            Fault::WatchesEnd => lock(&self.server).faults.broken_watch = 1000,
            Fault::Slow => lock(&self.server).faults.slow = 3000,
            Fault::Flaky => {
                lock(&self.server).faults =
                    Faults { lost: 200, unanswered: 200, refused: 200, ..Faults::default() };
            }
            Fault::Clocks(hours) => {
                (0..2).for_each(|controller| clock::set_wrong(controller, hours * 3600));
            }
            Fault::PowerCut(node, and_cache) => {
                self.kill_agent(node);
                host::lock(&self.hosts).entry(NODES[node].to_owned()).or_default().cut_power(and_cache);
            }
            Fault::AgentKilled(node) => self.kill_agent(node),
            Fault::DiskFails(node) => {
                host::lock(&self.hosts).entry(NODES[node].to_owned()).or_default().failing = 1000;
            }
            Fault::DiskFull(node) => {
                host::lock(&self.hosts).entry(NODES[node].to_owned()).or_default().is_full = true;
            }
            Fault::NotReady(node) => self.set_node_ready(NODES[node], false),
            Fault::NodeGone(node) => {
                lock(&self.server).answer("operator", &delete("nodes", "", NODES[node], json!(null)));
            }
            Fault::Cordoned(node) => {
                let object = json!({"metadata": {"name": NODES[node]}});
                let cordon = patch("nodes", &object, "", json!({"spec": {"unschedulable": true}}));
                lock(&self.server).answer("operator", &cordon);
            }
            Fault::Held(node) => {
                let random = &mut lock(&self.server).random;
                host::lock(&self.hosts).entry(NODES[node].to_owned()).or_default().hold(random);
            }
            Fault::Stripped => strip(&mut lock(&self.server), &mut self.random),
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

/// Changes the object of a request, or the one that it makes: with another version.
fn touch(server: &mut Server, request: &Request) {
    if let Some(object) = get(server, request.plural, &request.namespace, &request.name) {
        let body = json!({"metadata": {"annotations": {"example.com/touched": "yes"}}});
        server.answer("by hand", &patch(request.plural, &object, "", body));
    }
}
