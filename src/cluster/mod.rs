//! Talking to Kubernetes: what is cached, how a decision is committed, events, leader election.

mod cache;
mod commits;
mod events;
mod index;
mod lease;
mod queue;
mod write;

pub use cache::{Cache, Cached, How, Key, cache, named, trim_metadata};
pub use commits::Commits;
pub use events::Events;
pub use index::{Name, PodIndex, PvcIndex, SeenPvc, claims_of, is_terminal, name_of, pod_ref};
pub use lease::{LeadError, lead};
pub use queue::work_off;
pub use write::{
    Error, Kind, Owned, apply, create, delete, delete_seen, finalizer_present, get, get_same, list,
    list_metadata, merge, merge_seen, merge_status, namespaced, set_finalizer, write_status,
};
