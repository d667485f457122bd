//! Code that the tests of the api tier and the benchmarks share.

mod admission;
mod agent;
mod cluster;
mod lives;
mod random;
mod wait;
mod watch;

#[allow(unused_imports, reason = "the benchmarks use a part")]
pub use self::{admission::*, agent::*, cluster::*, lives::*, random::*, wait::*, watch::*};
