//! The Node Resource Interface of container runtimes: changes the mounts of containers before they are created.
//!
//! containerd (on by default since 2.0) and CRI-O serve NRI on a unix socket. A plug-in connects, registers, and from
//! then on answers the runtime's questions on the same socket, in ttrpc: a request and a response as protocol buffers,
//! with a short header each.
//!
//! # Guarantees
//! - [`keep_connected`] connects again whenever the connection ends. [`Connected`] says if the runtime asks now.
//! - An answer that nobody knows fails the creation of the container, which the kubelet repeats.
//! - Without an answer within two seconds the runtime goes on without the plug-in. So no container waits for it, and
//!   nothing may depend on an answer that a container would be unsafe without.

mod connection;
mod plugin;
mod proto;

pub use plugin::{Connected, Mounts, keep_connected};
pub use proto::Mount;
