//! The memory of the agent's process, and the cost of many volumes for the others.

use std::time::Duration;

use crate::agent::Node;
use crate::mounts::{tell, times};
use crate::row;

/// Longer than the agent's pause between two measurements of its disks.
const REST: Duration = Duration::from_secs(12);

pub async fn measure(counts: &[usize], mounts: usize) {
    let node = Node::start().await;
    let pid = node.agent.pid();
    let mut volumes = Vec::new();
    for &count in [0].iter().chain(counts) {
        volumes.extend(node.volumes(volumes.len()..count).await);
        tokio::time::sleep(REST).await;
        let wanted = if count == 100 { "<= 15" } else { "" };
        row(&format!("memory of the agent with {count} volumes, MiB"), mib(pid, "VmRSS"), wanted);
        row("  of it its own, not the program's file", mib(pid, "RssAnon"), "");
        row("  at most until then", mib(pid, "VmHWM"), "");
    }
    let count = volumes.len();
    let (publish, unpublish) = times(&node, &volumes[count - 1..], 1, mounts.min(100)).await;
    tell(&format!("publish, one of {count} volumes on the node"), publish, "");
    tell("unpublish, the same", unpublish, "");
}

/// A number of a process's `/proc/PID/status`, in MiB.
pub fn mib(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    format!("{:.1}", kib / 1024.0)
}
