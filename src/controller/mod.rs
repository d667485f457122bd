//! The controller: caches, routes from their changes to work queues, and a reconcile for each kind.
//!
//! A reconcile gathers the input of a decision in `plan`, and applies the steps of the decision. A lost race or an
//! error starts the reconcile again.

mod claim;
mod context;
mod copies;
mod destroy;
mod disk;
mod kept;
mod ledger_entries;
mod left_pvs;
mod metrics;
mod node_labels;
mod pvc_provisioner;
mod replace_pods;
mod reservation;
mod role;
mod routes;
mod run;
mod share;
mod storage_capacity;
mod stores;
mod subscription;
mod take_over;
mod unclaim;
mod volume;
mod volume_users;

pub use run::{LOOK_AGAIN, Options, run};
pub use stores::Stores;

use crate::cluster::Error;

/// The time after which an unchanged object is reconciled again; `None`: only a change enqueues the object.
type Again = Option<std::time::Duration>;

/// The pause until the earlier of two looks.
fn sooner(again: Again, left: std::time::Duration) -> Again {
    Some(again.map_or(left, |again| again.min(left)))
}
