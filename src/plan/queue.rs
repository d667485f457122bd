//! The reservations that wait for free space, and their order (Q3).
//!
//! The role with the lowest share comes first: what it has reserved, divided by its weight (disk is the only resource, so
//! this is its dominant share, and what all disks have in all cancels out). Within a role, and between equal shares, the
//! oldest comes first.

use std::collections::{BTreeMap, HashMap, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::{DiskReservation, VolumeRole};

use super::{quota, summary};

/// A reservation that waits, or that is to grow.
pub(super) struct Request<'a> {
    pub reservation: &'a DiskReservation,
    pub uid: String,
    /// Bytes beyond what it has.
    pub asked: u64,
    /// Bytes in all.
    pub target: u64,
}

impl<'a> Request<'a> {
    fn role(&self) -> &'a str {
        &self.reservation.spec.role
    }

    fn age(&self) -> (Option<Time>, &str) {
        (self.reservation.creation_timestamp(), &self.uid)
    }
}

/// All requests, in the order in which they are looked at. The order changes as requests are served.
pub(super) struct Queue<'a> {
    /// By role: its weight, and its requests, the oldest first.
    roles: BTreeMap<&'a str, (u128, VecDeque<Request<'a>>)>,
    /// Bytes that each role has reserved, sub-roles included, each byte once (Q1).
    shares: HashMap<&'a str, u64>,
}

impl<'a> Queue<'a> {
    /// The queue of `requests`, among `reservations`; a role has the weight of its VolumeRole, or its nearest ancestor's.
    pub fn new(
        mut requests: Vec<Request<'a>>,
        reservations: &[&'a DiskReservation],
        counting: &BTreeMap<&str, &VolumeRole>,
    ) -> Self {
        requests.sort_by(|a, b| a.age().cmp(&b.age()));
        let weight = |role: &str| {
            let nearest = quota::lineage(role).find_map(|of| counting.get(of));
            u128::from(nearest.map_or(1, |r| r.spec.weight.max(1)))
        };
        let shares = summary::by_role(reservations).into_iter().map(|(role, sums)| (role, sums.reserved));
        let mut queue = Self { roles: BTreeMap::new(), shares: shares.collect() };
        for request in requests {
            let role = request.role();
            let (_, requests) = queue.roles.entry(role).or_insert_with(|| (weight(role), VecDeque::new()));
            requests.push_back(request);
        }
        queue
    }

    /// Takes the next request out of the queue.
    pub fn pop(&mut self) -> Option<Request<'a>> {
        let share = |role: &str| u128::from(self.shares.get(role).copied().unwrap_or(0));
        let heads = self.roles.iter().filter_map(|(role, (weight, requests))| {
            Some((share(role), *weight, requests.front()?.age(), *role))
        });
        let (.., role) = heads.min_by(|(a, of_a, age_a, _), (b, of_b, age_b, _)| {
            (a * of_b).cmp(&(b * of_a)).then_with(|| age_a.cmp(age_b))
        })?;
        self.roles.get_mut(role).and_then(|(_, requests)| requests.pop_front())
    }

    /// Counts the bytes of a request that is served.
    pub fn count_served(&mut self, request: &Request<'a>) {
        for of in quota::lineage(request.role()) {
            let share = self.shares.entry(of).or_default();
            *share = share.saturating_add(request.asked);
        }
    }
}
