//! `kubectl reservoir` (T4): prints views of the cluster, and writes objects from the command line.
//!
//! A view is a function from a [`snapshot`] to data, without a client, with one file for each view.

#[cfg(test)]
mod advised_commands;
mod cli;
mod complete;
mod connection;
mod delete;
mod discover;
mod doctor;
mod errors;
mod fill;
mod item;
mod kept;
mod kind;
mod manifests;
mod orphans;
mod output;
mod paint;
mod rights;
mod run;
mod snapshot;
mod status;
mod subscribe;
mod taints;
mod tree;
mod unclaim;
mod uninstall;
mod unsubscribe;
mod wait;
mod watch;
mod why;
mod write;

pub use run::{ask, check, run};
