//! kubectl, helm, kind and csi-sanity: the user's own program if it is new enough, else one that is built here.
//!
//! Every function blocks, and blocks for minutes while a program is built for the first time.

use std::path::PathBuf;

use anyhow::Context;

use crate::cache::Cache;
use crate::command::{Cmd, which};
use crate::programs::Program;
use crate::version::Version;

/// kubectl, within one minor version of the clusters' Kubernetes.
pub fn kubectl() -> anyhow::Result<PathBuf> {
    let server = Program::Kubernetes("kubectl").version()?;
    let server = Version::parse(server).with_context(|| format!("{server} is no version"))?;
    own_or_built(Program::Kubernetes("kubectl"), &["version", "--client", "--output=json"], |own| {
        own.major == server.major && own.minor.abs_diff(server.minor) <= 1
    })
}

/// Helm 3.17 or newer, which removes the objects of `helm test` in reverse order.
pub fn helm() -> anyhow::Result<PathBuf> {
    own_or_built(Program::Tool("helm"), &["version", "--template", "{{.Version}}"], |own| {
        own >= Version { major: 3, minor: 17, patch: 0 }
    })
}

/// kind 0.31 or newer.
pub fn kind() -> anyhow::Result<PathBuf> {
    own_or_built(Program::Tool("kind"), &["version"], |own| own >= Version { major: 0, minor: 31, patch: 0 })
}

/// The conformance tests of the CSI specification.
pub fn csi_sanity() -> anyhow::Result<PathBuf> {
    Program::Tool("csi-sanity").build(&Cache::open()?)
}

fn own_or_built(program: Program, ask: &[&str], enough: impl Fn(Version) -> bool) -> anyhow::Result<PathBuf> {
    if let Some(own) = which(program.name()) {
        let said = Cmd::new(&own).args(ask).run().unwrap_or_default();
        // kubectl's JSON has other versions and dates, too; the field gitVersion is kubectl's own version.
        let said = said.split_once("\"gitVersion\":").map_or(said.as_str(), |(_, rest)| rest);
        if Version::find(said).is_some_and(enough) {
            return Ok(own);
        }
    }
    program.build(&Cache::open()?)
}
