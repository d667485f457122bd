//! The controller: caches, routes from their changes to work queues, and a reconcile for each kind.
//!
//! A reconcile gathers what a decision of `plan` looks at, and applies the steps that the decision names. After a lost race
//! or an error it starts again.

mod claim;
mod context;
mod destroy;
mod disk;
mod ledger_entries;
mod metrics;
mod pvc_provisioner;
mod reservation;
mod role;
mod routes;
mod run;
mod share;
mod storage_capacity;
mod stores;
mod subscription;
mod unclaim;
mod volume;
mod volume_users;

pub use run::{Options, run};
pub use stores::Stores;

use crate::cluster::Error;

/// When to look again although nothing changed; `None`: when something changes.
type Again = Option<std::time::Duration>;
