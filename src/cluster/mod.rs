//! Talking to Kubernetes: caches, work queues, live reads and compare-and-swap, events, leader election.

mod cache;
mod copies;
mod events;
mod lease;
mod pods;
mod pvcs;
mod queue;
mod status_batcher;
mod write;

pub use cache::{Cache, CacheConfig, Change, Key, Name, cache, name_of, named};
pub use copies::copies_on;
pub use events::{CONTROLLER, Events};
pub use lease::{LeadError, lead, leaderless};
pub use pods::{PodUse, UsedPod, claims_of, has_ended, is_terminal, lacks_storage, pod_of, pod_ref};
pub use pvcs::{Pvc, SeenPvc};
pub use queue::{Enqueued, WorkQueue, run_workers};
pub use status_batcher::StatusBatcher;
pub use write::{
    Error, Kind, Owned, apply, create, delete, delete_seen, finalizer_present, get, get_same, list,
    list_metadata, may_create, may_merge_seen, merge, merge_seen, merge_status, merge_status_seen,
    namespaced, node_uid, set_finalizer, username, write_status,
};
