//! The sharing out of free space, recomputed beside the caches (Q3, Q5).
//!
//! A share is advice on the order in which reservations take bytes; the ledgers decide each taking. All shares are
//! computed together, since each depends on the others.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::plan::candidate::Candidate;
use crate::plan::refs;
use crate::plan::share::{Outcome, Outcomes, share_out};
use crate::plan::turn::first_end;

use super::stores::Stores;

/// The outcome for each waiting reservation.
#[derive(Default)]
pub struct Share(RwLock<Outcomes>);

impl Share {
    /// The share of the reservation with that UID; `None`: the sharing out has not included the reservation yet.
    pub fn of(&self, uid: &str) -> Option<Outcome> {
        self.0.read().unwrap_or_else(|e| e.into_inner()).get(uid).cloned()
    }

    /// Repeats the sharing out. Returns the names of the reservations whose outcome has changed, and the time until the
    /// next turn ends.
    pub fn renew(&self, stores: &Stores, now: Timestamp) -> (Vec<String>, Duration) {
        let (disks, reservations, roles) =
            (stores.disks.all(), stores.reservations.all(), stores.roles.all());
        let nodes: Vec<_> = disks.iter().map(|d| stores.nodes.get(&d.spec.node_name)).collect();
        let mut candidates: Vec<Candidate> = disks
            .iter()
            .zip(&nodes)
            .map(|(disk, node)| Candidate { disk, node_labels: node.as_ref().map(|n| n.labels()) })
            .collect();
        candidates.sort_by_key(|c| c.disk.name_any());
        let mut before = self.0.write().unwrap_or_else(|e| e.into_inner());
        let after = share_out(&refs(&reservations), &candidates, &refs(&roles), &before, now);
        let other = |r: &&Arc<_>| {
            let uid = ResourceExt::uid(&***r).unwrap_or_default();
            before.get(&uid) != after.get(&uid)
        };
        let changed = reservations.iter().filter(other).map(|r| r.name_any()).collect();
        *before = after;
        (changed, first_end(before.values().filter_map(Outcome::turn), now))
    }
}
