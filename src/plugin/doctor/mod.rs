//! The command `doctor`: faults of the installation, and missing rights of the caller.

mod checks;
mod facts;
mod finding;
mod pods;

pub(super) use checks::{findings, is_policy_of_the_chart};
pub(super) use facts::{Facts, served_kinds};
pub(super) use finding::{Level, text};
