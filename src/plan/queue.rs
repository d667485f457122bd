//! The reservations that wait for free space, and their order (Q3, Q5).
//!
//! The order is by fair shares in the hierarchy of roles, from the root down. At each level the sub-role with the
//! lowest share comes first, and of equal shares the one with the older next request. A share is the reserved bytes of
//! the sub-role, divided by its weight. Disk is the only resource, so this is the dominant share. A role's own
//! reservations count as one more sub-role of weight 1. So a new sub-role precedes its siblings, and never a role with
//! fewer bytes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::{CollectingTurn, DiskReservation, VolumeRole};

use super::quota::lineage;
use super::summary::RoleSums;

/// A reservation that waits or is to grow.
pub(super) struct Request<'a> {
    pub reservation: &'a DiskReservation,
    pub uid: String,
    /// Requested bytes beyond the present size.
    pub asked: u64,
    /// Requested size of the reservation.
    pub target: u64,
    /// Start of the wait.
    pub waits_since: Timestamp,
    /// The last turn of the reservation to collect free space.
    pub turn: Option<CollectingTurn>,
    /// Begin of the last turn that this controller gave, by the clock of this controller.
    pub gave: Option<Timestamp>,
}

impl<'a> Request<'a> {
    pub fn role(&self) -> &'a str {
        &self.reservation.spec.role
    }

    fn age(&self) -> (Option<Time>, &str) {
        (self.reservation.creation_timestamp(), &self.uid)
    }
}

/// A number of bytes, divided by the weight of the owner.
struct Share {
    bytes: u64,
    weight: u32,
}

impl Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let product = |a: &Self, b: &Self| u128::from(a.bytes) * u128::from(b.weight);
        product(self, other).cmp(&product(other, self))
    }
}

/// A role in the hierarchy, with the requests of the role and its sub-roles.
#[derive(Default)]
struct Branch<'a> {
    weight: u32,
    /// Bytes that the role and its sub-roles have reserved, each byte once (Q1).
    reserved: u64,
    /// Bytes of `reserved` that belong to no sub-role.
    own: u64,
    /// The role's own requests, the oldest first.
    waiting: VecDeque<Request<'a>>,
    sub_roles: BTreeMap<&'a str, Branch<'a>>,
}

/// All requests, in the order of the sharing out. The order changes with each served request.
pub(super) struct Queue<'a> {
    root: Branch<'a>,
}

impl<'a> Queue<'a> {
    /// The queue of `requests`. The sums are the reserved bytes of each role. A role without a VolumeRole has weight 1.
    pub fn new(
        mut requests: Vec<Request<'a>>,
        sums: &BTreeMap<&str, RoleSums>,
        counting: &BTreeMap<&str, &VolumeRole>,
    ) -> Self {
        requests.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut of_sub_roles: BTreeMap<&str, u64> = BTreeMap::new();
        for (role, sum) in sums {
            if let Some(parent) = lineage(role).nth(1) {
                let all = of_sub_roles.entry(parent).or_default();
                *all = all.saturating_add(sum.reserved);
            }
        }
        let branch = |role: &str| {
            let reserved = sums.get(role).map_or(0, |sum| sum.reserved);
            let own = reserved.saturating_sub(of_sub_roles.get(role).copied().unwrap_or(0));
            let weight = counting.get(role).map_or(1, |object| object.spec.weight.max(1));
            Branch { weight, reserved, own, ..Default::default() }
        };
        let mut queue = Self { root: Branch::default() };
        for request in requests {
            let mut at = &mut queue.root;
            for role in path(request.role()) {
                at = at.sub_roles.entry(role).or_insert_with(|| branch(role));
            }
            at.waiting.push_back(request);
        }
        queue
    }

    /// Takes the next request out of the queue.
    pub fn pop(&mut self) -> Option<Request<'a>> {
        let (_, role) = self.root.next()?;
        self.root.take(role)
    }

    /// Adds the bytes of a served request to its roles.
    pub fn count_served(&mut self, request: &Request<'a>) {
        let mut at = &mut self.root;
        for role in path(request.role()) {
            let Some(branch) = at.sub_roles.get_mut(role) else { return };
            branch.reserved = branch.reserved.saturating_add(request.asked);
            at = branch;
        }
        at.own = at.own.saturating_add(request.asked);
    }
}

impl<'a> Branch<'a> {
    /// The age and the role of the next request in this branch.
    fn next(&self) -> Option<((Option<Time>, &str), &'a str)> {
        let own = self.waiting.front().map(|r| (Share { bytes: self.own, weight: 1 }, r.age(), r.role()));
        let sub_roles = self.sub_roles.values().filter_map(|branch| {
            let (age, role) = branch.next()?;
            Some((Share { bytes: branch.reserved, weight: branch.weight }, age, role))
        });
        let first = own
            .into_iter()
            .chain(sub_roles)
            .min_by(|(a, age_a, _), (b, age_b, _)| a.cmp(b).then_with(|| age_a.cmp(age_b)));
        first.map(|(_, age, role)| (age, role))
    }

    /// Removes the oldest request of that role, and the branches that become empty.
    fn take(&mut self, role: &'a str) -> Option<Request<'a>> {
        let towards = path(role).find(|of| self.sub_roles.contains_key(of));
        let Some(towards) = towards else { return self.waiting.pop_front() };
        let branch = self.sub_roles.get_mut(towards)?;
        let request = branch.take(role);
        if branch.waiting.is_empty() && branch.sub_roles.is_empty() {
            self.sub_roles.remove(towards);
        }
        request
    }
}

/// A role and its ancestors, from the root: `eng`, `eng/ml`.
fn path(role: &str) -> impl Iterator<Item = &str> {
    let ends = role.match_indices('/').map(|(at, _)| at);
    ends.chain(std::iter::once(role.len())).map(|end| &role[..end])
}
