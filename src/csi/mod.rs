//! The way into pods: the CSI Identity and Node services, and registration with the kubelet.
//!
//! The kubelet finds the registration socket, learns from it where the CSI socket is, and from then on calls
//! `NodePublishVolume` and `NodeUnpublishVolume` there. Both sockets are served by the agent itself ([`serve`]); what
//! is to happen on the node is behind [`Volumes`]. There is no controller service: volumes are made by Reservoir's own
//! controller, not by a provisioner.
//!
//! This layer checks every field of a request before [`Volumes`] sees it, maps [`Error`] to gRPC codes in one place,
//! and writes one log line per call, field by field: a request has no `Debug`, so its secrets and tokens cannot reach
//! the log (S17).

mod authority;
mod calls;
mod error;
mod handle;
mod identity;
mod node;
pub mod proto;
mod registration;
mod request;
mod server;
mod socket;
mod turns;
mod volumes;

pub use calls::Observer;
pub use error::{Cause, Error};
pub use handle::{InvalidHandle, VolumeHandle};
pub use server::{ServeConfig, ServeError, serve};
pub use volumes::{Access, PodInfo, PublishRequest, Stats, Usage, Volumes};
