//! Talking to Kubernetes: what is cached, how a decision is committed, events, leader election.

mod cache;
mod events;
mod index;
mod lease;
mod write;

pub use cache::{Cache, Cached, Key, cache, named};
pub use events::Events;
pub use index::{PodIndex, PvcIndex, claims_of, is_terminal, pod_ref};
pub use lease::{LeadError, lead};
pub use write::{
    Error, Kind, Owned, apply, create, delete, delete_seen, finalizer_present, get, get_same, list,
    namespaced, set_finalizer, update, write_status,
};
