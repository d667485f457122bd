//! Faults, alone and together: processes, clocks, the network, nodes, disks, and what people do to objects by hand.

use serde_json::{Value, json};

use crate::by_hand;
use crate::clock;
use crate::disks::Disk;
use crate::host;
use crate::kubernetes::{delete, patch, text};
use crate::random::Random;
use crate::seals::Seal;
use crate::server::{Faults, Object, Request, Server, is_being_deleted, lock};
use crate::users::POOLS;
use crate::world::{NODES, World};

/// The kinds whose objects a person removes by force.
pub const STRIPPED: [&str; 5] = [
    "sharedpersistentvolumes",
    "diskreservations",
    "volumeclaims",
    "persistentvolumes",
    "persistentvolumeclaims",
];
/// The kinds that a person deletes, with all their objects. Without the chart no policy keeps them (X7).
pub const DELETED: [&str; 7] = [
    "sharedpersistentvolumes",
    "diskreservations",
    "volumeclaims",
    "volumeoffers",
    "rolesubscriptions",
    "volumeroles",
    "nodedisks",
];

impl World {
    /// A fault.
    pub fn fail(&mut self) {
        match self.random.below(27) {
            0 | 1 => self.kill_controller(0),
            2 | 3 => self.start_controller(0),
            4 => self.kill_controller(1),
            5 => self.start_controller(1),
            6 => {
                let node = self.any_node();
                self.kill_agent(node);
            }
            7..10 => self.start_agents(),
            10 => self.set_clock(),
            11 => {
                let (node, ready) = (NODES[self.any_node()], self.random.in_a_thousand(600));
                self.tell(&format!("node {node} is ready: {ready}"));
                self.set_node_ready(node, ready);
            }
            12 => self.change_node(),
            13 => {
                let node = self.any_node();
                let and_cache = self.random.in_a_thousand(500);
                self.cut_power(node, and_cache);
            }
            14 | 15 => self.fail_disk(),
            16 => strip(&mut lock(&self.server), &mut self.random),
            17 => edit(&mut lock(&self.server), &mut self.random),
            18 if self.have_nodedisks() => lock(&self.server).back_up(),
            19 if self.random.in_a_thousand(200) => self.restore_etcd(),
            20 if self.random.in_a_thousand(100) => {
                let kind = *self.random.pick(&DELETED).unwrap_or(&DELETED[0]);
                if kind != "nodedisks" || !self.restores {
                    lock(&self.server).delete_kind(kind);
                }
            }
            21 => lock(&self.server).end_kinds(true),
            22 if self.random.in_a_thousand(400) && !self.restores => self.move_disk(),
            22 => self.say_where_disks_are(),
            23 if self.random.in_a_thousand(510) && !self.restores => {
                (0..2).for_each(|controller| self.kill_controller(controller));
                self.earlier = true;
            }
            24 => {
                let node = NODES[self.any_node()];
                host::lock(&self.hosts).entry(node.to_owned()).or_default().hold(&mut self.random);
            }
            25 if self.random.in_a_thousand(200) => give_up(&mut lock(&self.server), &mut self.random),
            _ => self.fail_network(),
        }
    }

    /// False while the NodeDisk of a disk is not there. Its data would not be listed after a restore of that state.
    fn have_nodedisks(&self) -> bool {
        let server = lock(&self.server);
        let hosts = host::lock(&self.hosts);
        let mut disks = hosts.values().filter_map(|host| host.disk.as_ref());
        disks.all(|disk| server.store.list("nodedisks", "").any(|(_, of)| of["spec"]["diskID"] == *disk.id))
    }

    /// A Node is deleted, made again, cordoned, or put into another pool.
    fn change_node(&mut self) {
        let node = NODES[self.any_node()];
        let object = json!({"metadata": {"name": node}});
        let request = match self.random.below(10) {
            0..3 => delete("nodes", "", node, json!(null)),
            3 => cordon(node, json!(self.random.in_a_thousand(500))),
            4 => {
                let pool = POOLS[self.random.below(2) as usize];
                patch("nodes", &object, "", json!({"metadata": {"labels": {"pool": pool}}}))
            }
            _ => return self.create_node(node),
        };
        lock(&self.server).answer("operator", &request);
    }

    fn any_node(&mut self) -> usize {
        self.random.below(NODES.len() as u64) as usize
    }

    fn set_clock(&mut self) {
        let (controller, by) = (self.random.below(2) as usize, self.random.below(86_400 * 2) as i64 - 86_400);
        let by = if self.random.in_a_thousand(500) { 0 } else { by };
        clock::set_wrong(controller, by);
        self.tell(&format!("the clock of controller {} is wrong by {by} s", controller + 1));
    }

    fn fail_network(&mut self) {
        let random = &mut self.random;
        let mut often = |most| if random.in_a_thousand(400) { random.below(most) } else { 0 };
        let faults = Faults {
            lost: often(50),
            unanswered: often(50),
            refused: often(100),
            broken_watch: often(100),
            slow: often(3000),
            away: often(1000) > 900,
            old: 0,
        };
        self.tell(&format!("the network: {faults:?}"));
        lock(&self.server).faults = faults;
    }

    /// The node boots at once, without an agent.
    pub fn cut_power(&mut self, node: usize, and_cache: bool) {
        self.kill_agent(node);
        self.tell(&format!("the power of {} is cut, and its cache is lost: {and_cache}", NODES[node]));
        self.on_host(node, |host| host.cut_power(and_cache));
    }

    /// D3: a disk is put into another node, which has none, or the node has another name now.
    fn move_disk(&mut self) {
        let has_disk =
            |node: &&str| host::lock(&self.hosts).get(*node).is_some_and(|host| host.disk.is_some());
        let (with, without): (Vec<&str>, Vec<&str>) = NODES.into_iter().partition(has_disk);
        let (Some(from), Some(to)) = (self.random.pick(&with).copied(), self.random.pick(&without).copied())
        else {
            return;
        };
        (0..NODES.len())
            .filter(|node| [from, to].contains(&NODES[*node]))
            .for_each(|node| self.kill_agent(node));
        self.tell(&format!("the disk of {from} is put into {to}"));
        let mut hosts = host::lock(&self.hosts);
        let mut old = hosts.remove(from).unwrap_or_default();
        old.move_disk(hosts.entry(to.to_owned()).or_default());
        hosts.insert(from.to_owned(), old);
        drop(hosts);
        if self.random.in_a_thousand(500) {
            lock(&self.server).answer("operator", &delete("nodes", "", from, json!(null)));
        }
    }

    /// As docs/operations.md says of a disk without a key.
    pub fn say_where_disks_are(&mut self) {
        let disks: Vec<(String, String)> = host::lock(&self.hosts)
            .iter()
            .filter_map(|(node, host)| Some((node.clone(), host.disk.as_ref()?.id.clone())))
            .collect();
        let mut server = lock(&self.server);
        let objects: Vec<_> = server.store.list("nodedisks", "").map(|(_, object)| object.clone()).collect();
        for (node, disk) in disks {
            let is_elsewhere = |object: &&std::sync::Arc<Object>| {
                object["spec"]["diskID"] == *disk && object["spec"]["nodeName"] != *node
            };
            if let Some(object) = objects.iter().find(is_elsewhere) {
                server
                    .answer("operator", &patch("nodedisks", object, "", json!({"spec": {"nodeName": node}})));
            }
        }
    }

    fn fail_disk(&mut self) {
        let node = NODES[self.any_node()];
        let is_full = self.random.in_a_thousand(300);
        let failing = if self.random.in_a_thousand(400) { self.random.below(500) } else { 0 };
        self.tell(&format!("the disk of {node} is full: {is_full}; of 1000 calls fail {failing}"));
        let mut hosts = host::lock(&self.hosts);
        let host = hosts.entry(node.to_owned()).or_default();
        (host.is_full, host.failing) = (is_full, failing);
        host.sends_other = if self.random.in_a_thousand(300) { self.random.below(700) } else { 0 };
        if self.random.in_a_thousand(100) {
            host.disk.iter_mut().for_each(Disk::lose_key);
        }
        let rotten = host.records.values_mut().filter(|record| matches!(record.seal, Seal::Sealed(_)));
        for record in rotten.filter(|_| self.random.in_a_thousand(150)) {
            record.is_rotten = true;
        }
    }

    /// As docs/operations.md says: without controller and agents, and then the agents first.
    pub fn restore_etcd(&mut self) {
        (0..2).for_each(|controller| self.kill_controller(controller));
        (0..NODES.len()).for_each(|node| self.kill_agent(node));
        lock(&self.server).restore();
        self.restores = lock(&self.server).was_restored();
        self.start_agents();
    }

    /// No disk and no node fails any more, and what people removed is there again.
    pub fn repair(&mut self) {
        lock(&self.server).faults = Faults::default();
        lock(&self.server).end_kinds(true);
        for host in host::lock(&self.hosts).values_mut() {
            (host.is_full, host.failing, host.sends_other) = (false, 0, 0);
            host.held.clear();
        }
        let kept = by_hand::let_go(&lock(&self.server));
        kept.into_iter().for_each(|request| drop(lock(&self.server).answer("by hand", &request)));
        for node in NODES {
            self.create_node(node);
            lock(&self.server).answer("operator", &cordon(node, json!(null)));
        }
        self.say_where_disks_are();
        (0..2).for_each(|controller| clock::set_wrong(controller, 0));
    }
}

/// The request that cordons a node, or takes that back.
pub fn cordon(node: &str, is_cordoned: Value) -> Request {
    let object = json!({"metadata": {"name": node}});
    patch("nodes", &object, "", json!({"spec": {"unschedulable": is_cordoned}}))
}

/// X9: somebody loses patience with an object, and removes its finalizers.
fn strip(server: &mut Server, random: &mut Random) {
    let Some(plural) = random.pick(&STRIPPED) else { return };
    let only_deleted = random.in_a_thousand(800);
    let all = server.store.list(plural, "").map(|(_, object)| object.clone());
    let all: Vec<_> = all.filter(|object| is_being_deleted(object) || !only_deleted).collect();
    let Some(object) = random.pick(&all) else { return };
    strip_it(server, plural, object);
}

pub fn strip_it(server: &mut Server, plural: &'static str, object: &Object) {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    server.lost.insert(uid.to_owned());
    server.stripped.insert(uid.to_owned());
    server.answer("impatient", &patch(plural, object, "", json!({"metadata": {"finalizers": []}})));
}

/// D4: a person declares a disk gone that its agent does not serve. The API server refuses that for any other one.
fn give_up(server: &mut Server, random: &mut Random) {
    let all: Vec<_> = server.store.list("nodedisks", "").map(|(_, disk)| disk.clone()).collect();
    if let Some(disk) = random.pick(&all) {
        server.answer("operator", &patch("nodedisks", disk, "", json!({"spec": {"gone": true}})));
    }
}

/// A person changes an object that is not theirs to change.
fn edit(server: &mut Server, random: &mut Random) {
    let (plural, body) = match random.below(5) {
        0 => (
            "sharedpersistentvolumes",
            json!({"metadata": {"labels": {"app": format!("v{}", random.below(8))}}}),
        ),
        1 => ("persistentvolumes", json!({"spec": {"claimRef": {"uid": null}}})),
        2 => ("persistentvolumeclaims", json!({"metadata": {"ownerReferences": null, "labels": null}})),
        3 => ("persistentvolumes", json!(null)),
        _ => ("volumeoffers", json!(null)),
    };
    let all: Vec<_> = server.store.list(plural, "").map(|(_, object)| object.clone()).collect();
    let Some(object) = random.pick(&all) else { return };
    let metadata = &object["metadata"];
    let request: Request = match body.is_null() {
        true => delete(plural, &text(&metadata["namespace"]), &text(&metadata["name"]), body),
        false => patch(plural, object, "", body),
    };
    server.answer("by hand", &request);
}
