//! Code that the tests of the api tier and the benchmarks share.

mod admission;
mod agent;
mod cluster;
mod data_sets;
mod lives;
mod random;
mod wait;
mod watch;

#[allow(unused_imports, reason = "the benchmarks use a part")]
pub use self::{admission::*, agent::*, cluster::*, data_sets::*, lives::*, random::*, wait::*, watch::*};
