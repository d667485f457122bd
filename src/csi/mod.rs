//! Serves the CSI Identity and Node services, and registers the driver with the kubelet.
//!
//! The kubelet finds the registration socket, and asks there for the CSI socket's path. From then on the kubelet
//! calls `NodePublishVolume` and `NodeUnpublishVolume` on the CSI socket. The agent itself serves both ([`serve`])
//! and implements [`Volumes`], which does all work on the node. There is no CSI controller service, because
//! Reservoir's own controller makes volumes.
//!
//! This layer validates the fields of a request before [`Volumes`] gets them, and maps [`Error`] to gRPC codes in one
//! place. It writes one log line per call, field by field. A request has no `Debug`, so its secrets and tokens cannot
//! reach the log (S17). This module uses the names in [`crate::api`], and no other module.

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
pub use request::is_name;
pub use serve_error::ServeError;
pub use server::{ServeConfig, serve};
pub use volumes::{PodInfo, PublishRequest, Stats, Usage, Volumes};
