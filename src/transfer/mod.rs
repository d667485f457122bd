//! Transfer of sealed volumes between the agents of nodes (E2), over TLS 1.3.
//!
//! Each agent has a key of its own, made anew when it starts, and publishes the public half in the status of its NodeDisks, which
//! no other agent can write (A4). Both sides show their keys ([RFC 7250]: raw public keys, no certificates), and each compares
//! the other's with the published one. So there is no authority to run, no secret on a disk, and nothing in a request that a
//! broken peer could show to somebody else.
//!
//! A connection is about one volume, and says so first. Then each request is a frame, and its answer is a frame and the bytes
//! that the frame announces. Frames and waits are bounded on both sides.
//!
//! [RFC 7250]: https://www.rfc-editor.org/rfc/rfc7250

mod identity;
mod line;
mod remote;
mod serve;

pub use identity::Identity;
pub use remote::{Peer, Remote};
pub use serve::{Asker, Authorise, Servings, serve};
