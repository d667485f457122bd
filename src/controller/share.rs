//! The sharing out of what is free, kept up to date beside the caches (Q3).
//!
//! It is advice on the order in which reservations take; what is safe is decided when they do. It is worked out once for
//! all that wait, not once for each of them.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use kube::ResourceExt;

use crate::plan::candidate::Candidate;
use crate::plan::share::{Outcome, share_out};

use super::context::{Stores, refs};

/// What becomes of each reservation that waits.
#[derive(Default)]
pub struct Share(RwLock<BTreeMap<String, Outcome>>);

impl Share {
    /// What becomes of the reservation of that UID, as far as the caches know; `None`: it was not looked at yet.
    pub fn of(&self, uid: &str) -> Option<Outcome> {
        self.0.read().unwrap_or_else(|e| e.into_inner()).get(uid).cloned()
    }

    /// Shares out anew; returns the names of those for whom the outcome is another one.
    pub fn renew(&self, stores: &Stores) -> Vec<String> {
        let (disks, reservations, roles) =
            (stores.disks.all(), stores.reservations.all(), stores.roles.all());
        let nodes: Vec<_> = disks.iter().map(|d| stores.nodes.get(&d.spec.node_name)).collect();
        let mut candidates: Vec<Candidate> = disks
            .iter()
            .zip(&nodes)
            .map(|(disk, node)| Candidate { disk, node_labels: node.as_ref().map(|n| n.labels()) })
            .collect();
        candidates.sort_by_key(|c| c.disk.name_any());
        let after = share_out(&refs(&reservations), &candidates, &refs(&roles));
        let mut before = self.0.write().unwrap_or_else(|e| e.into_inner());
        let other = |r: &&Arc<_>| {
            let uid = ResourceExt::uid(&***r).unwrap_or_default();
            before.get(&uid) != after.get(&uid)
        };
        let changed = reservations.iter().filter(other).map(|r| r.name_any()).collect();
        *before = after;
        changed
    }
}
