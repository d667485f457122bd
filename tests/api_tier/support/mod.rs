//! What the tests of the api tier share, and the benchmarks with them.

mod agent;
mod cluster;
mod random;
mod wait;
mod watch;

#[allow(unused_imports, reason = "the benchmarks use a part")]
pub use self::{agent::*, cluster::*, random::*, wait::*, watch::*};
