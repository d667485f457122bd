//! The pages of the documentation that need running pods.

use anyhow::{Context, bail, ensure};

use super::Tour;
use crate::pages::{self, Page, Shell, Tier};
use crate::tools;

/// The prefix of node names in pages, from the name of the demo's cluster.
const DEMO: &str = "reservoir-";

impl Tour {
    /// Runs each page; Reservoir must be installed. A page leaves nothing in the cluster.
    pub fn pages(&self) -> anyhow::Result<()> {
        let mut programs = Vec::new();
        for program in [tools::kubectl()?, tools::helm()?] {
            programs.push(program.parent().context("a program is in a directory")?.to_owned());
        }
        let kubeconfig = self.cluster.kubeconfig().to_owned();
        let shell = Shell::new(&self.repository, kubeconfig, programs, vec!["env".to_owned()])?;
        let mut names = Vec::new();
        for node in self.cluster.node_names()? {
            if let Some(at) = ["control-plane", "worker"].iter().find_map(|role| node.find(role)) {
                names.push((format!("{DEMO}{}", &node[at..]), node));
            }
        }
        for page in Page::all(&self.repository, &names)?.iter().filter(|page| page.is_for_node_tier()) {
            self.title(&page.path.display().to_string())?;
            let counts = pages::run(page, Tier::Node, &shell, |line| {
                bail!("`{line}`: nobody plays that on a cluster; a page that needs pods cannot have it")
            })?;
            println!("{}: {counts:?}", page.path.display());
            let left = self.quietly(&[
                "get",
                "diskreservations,spv,vclaim,rolesubscriptions,volumeroles",
                "-A",
                "-o",
                "name",
            ])?;
            ensure!(left.is_empty(), "{} does not undo what it did: {left}", page.path.display());
        }
        Ok(())
    }
}
