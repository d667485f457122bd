//! The way into pods: the CSI Identity and Node services, and registration with the kubelet.
//!
//! The kubelet finds the registration socket, learns the CSI socket's path there, and from then on calls
//! `NodePublishVolume` and `NodeUnpublishVolume` on the CSI socket. The agent itself serves both ([`serve`]) and
//! implements [`Volumes`], behind which all work on the node lies. There is no controller service: Reservoir's own
//! controller makes volumes, not a provisioner.
//!
//! This layer validates the fields of a request before [`Volumes`] sees them, maps [`Error`] to gRPC codes in one place,
//! and writes one log line per call, field by field: a request has no `Debug`, so its secrets and tokens cannot reach
//! the log (S17). Of the other modules it needs the names in [`crate::api`], and nothing else.

mod calls;
mod error;
mod handle;
mod identity;
mod node;
pub mod proto;
mod registration;
mod request;
mod serve_error;
mod server;
mod socket;
mod target_locks;
mod volumes;

pub use calls::Observer;
pub use error::Error;
pub use handle::VolumeHandle;
pub use serve_error::ServeError;
pub use server::{ServeConfig, serve};
pub use volumes::{PodInfo, PublishRequest, Stats, Usage, Volumes};
