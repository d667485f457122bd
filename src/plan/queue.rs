//! The reservations that wait for free space, and their order (Q3, Q5).
//!
//! The order is by fair shares, compared from the root of the hierarchy of roles down: at each level the sub-role with the
//! lowest share comes first, then the one whose next request is older. A share is what the sub-role has reserved, divided
//! by its weight. Disk is the only resource, so this is the dominant share. A role's own reservations count as one more
//! sub-role of weight 1. So a new sub-role comes before its siblings, and never before those of a role that has less.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::{CollectingTurn, DiskReservation, VolumeRole};

use super::quota::lineage;
use super::summary::RoleSums;

/// A reservation that waits, or that is to grow.
pub(super) struct Request<'a> {
    pub reservation: &'a DiskReservation,
    pub uid: String,
    /// Bytes beyond what it has.
    pub asked: u64,
    /// Bytes in all.
    pub target: u64,
    /// Since then it waits.
    pub waits_since: Timestamp,
    /// Its last turn to collect free space.
    pub turn: Option<CollectingTurn>,
}

impl<'a> Request<'a> {
    pub fn role(&self) -> &'a str {
        &self.reservation.spec.role
    }

    fn age(&self) -> (Option<Time>, &str) {
        (self.reservation.creation_timestamp(), &self.uid)
    }
}

/// A part of something, divided by the weight of its owner.
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

/// A role in the hierarchy, with what it and its sub-roles wait for.
#[derive(Default)]
struct Branch<'a> {
    weight: u32,
    /// Bytes that the role and its sub-roles have reserved, each byte once (Q1).
    reserved: u64,
    /// The part of these bytes that no sub-role has.
    own: u64,
    /// Its own requests, the oldest first.
    waiting: VecDeque<Request<'a>>,
    sub_roles: BTreeMap<&'a str, Branch<'a>>,
}

/// All requests, in the order in which they are looked at. The order changes as requests are served.
pub(super) struct Queue<'a> {
    root: Branch<'a>,
}

impl<'a> Queue<'a> {
    /// The queue of `requests`, where each role has reserved these sums; one without a VolumeRole has weight 1.
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

    /// Counts the bytes of a request that is served.
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

    /// Takes out the oldest request of that role, and the branches that are empty then.
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
