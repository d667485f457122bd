//! The kernel's network settings that a Docker daemon changes and leaves behind when it stops.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::Cmd;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const COMMANDS: [&str; 2] = ["iptables", "ip6tables"];
const TABLES: [&str; 2] = ["nat", "filter"];

/// The settings before the daemon was started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Firewall {
    ip_forward: Option<String>,
    /// The policy of the FORWARD chain, such as `ACCEPT`.
    forward_policy: Option<String>,
    /// True if another Docker had made its chains before.
    docker_chains: bool,
}

impl Firewall {
    /// The current settings.
    pub(super) fn now() -> Self {
        let filter = rules("iptables", "filter");
        Self {
            ip_forward: fs::read_to_string(IP_FORWARD).ok(),
            forward_policy: filter
                .iter()
                .find_map(|rule| rule.strip_prefix("-P FORWARD "))
                .map(str::to_owned),
            docker_chains: filter.iter().any(|rule| rule.starts_with("-N DOCKER")),
        }
    }

    /// Removes Docker's chains and restores the settings, unless another Docker had made its chains before.
    pub(super) fn restore(&self) {
        if self.docker_chains {
            return;
        }
        for (command, table) in COMMANDS.into_iter().flat_map(|command| TABLES.map(|table| (command, table)))
        {
            for args in removal(&rules(command, table)) {
                run(command, table, &args).succeeds();
            }
        }
        if let Some(policy) = &self.forward_policy {
            run("iptables", "filter", &["-P".into(), "FORWARD".into(), policy.clone()]).succeeds();
        }
        if let Some(value) = &self.ip_forward {
            let _ = fs::write(IP_FORWARD, value);
        }
    }
}

fn run(command: &str, table: &str, args: &[String]) -> Cmd {
    Cmd::new(command)
        .args(["--wait", "10", "-t", table])
        .args(args)
        .cleanup()
        .timeout(Duration::from_secs(30))
}

fn rules(command: &str, table: &str) -> Vec<String> {
    let listed = run(command, table, &["-S".into()]).run().unwrap_or_default();
    listed.lines().map(str::to_owned).collect()
}

/// The arguments that remove all of Docker's chains from a table with these rules: first the rules that lead to such a
/// chain, then the rules in the chain, then the chain.
fn removal(rules: &[String]) -> Vec<Vec<String>> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let made = rules.iter().filter_map(|rule| rule.strip_prefix("-N "));
    let chains: Vec<_> = made.filter(|chain| chain.starts_with("DOCKER")).collect();
    let leads =
        |rule: &&String| words(rule).windows(2).any(|pair| pair[0] == "-j" && pair[1].starts_with("DOCKER"));
    let jumps = rules.iter().filter(leads).filter_map(|rule| rule.strip_prefix("-A "));
    let jumps = jumps.map(|rule| words(&format!("-D {rule}")));
    let flushes = chains.iter().map(|chain| words(&format!("-F {chain}")));
    let deletions = chains.iter().map(|chain| words(&format!("-X {chain}")));
    jumps.chain(flushes).chain(deletions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_docker_chains_are_removed() {
        let rules = [
            "-P FORWARD DROP",
            "-N DOCKER",
            "-N DOCKER-USER",
            "-N MINE",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -j MINE",
            "-A DOCKER-USER -j RETURN",
        ];
        let removed: Vec<_> = removal(&rules.map(str::to_owned)).iter().map(|args| args.join(" ")).collect();
        let expected =
            ["-D FORWARD -j DOCKER-USER", "-F DOCKER", "-F DOCKER-USER", "-X DOCKER", "-X DOCKER-USER"];
        assert_eq!(removed, expected);
    }
}
