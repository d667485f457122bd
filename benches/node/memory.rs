//! The memory of the agent's process, and the cost of many volumes for the others.

use std::time::Duration;

use tokio::net::UnixStream;

use crate::agent::Node;
use crate::mounts::{tell, times};
use crate::row;

/// Longer than the agent's pause between two measurements of its disks.
const REST: Duration = Duration::from_secs(12);

pub async fn measure(counts: &[usize], mounts: usize) {
    let node = Node::start().await;
    let mut volumes = Vec::new();
    for &count in [0].iter().chain(counts) {
        volumes.extend(node.volumes(volumes.len()..count).await);
        tokio::time::sleep(REST).await;
        let wanted = if count == 100 { "<= 15" } else { "" };
        row(&format!("memory of the agent with {count} volumes, MiB"), mib(&node, "VmRSS").await, wanted);
        row("  of it its own, not the program's file", mib(&node, "RssAnon").await, "");
        row("  at most until then", mib(&node, "VmHWM").await, "");
    }
    let count = volumes.len();
    let (publish, unpublish) = times(&node, &volumes[count - 1..], 1, mounts.min(100)).await;
    tell(&format!("publish, one of {count} volumes on the node"), publish, "");
    tell("unpublish, the same", unpublish, "");
}

/// A number of the agent's `/proc/PID/status`, in MiB.
async fn mib(node: &Node, field: &str) -> String {
    let socket = node.agent.dir.join("kubelet/plugins/csi.reservoir.dev/csi.sock");
    let served_by = UnixStream::connect(socket).await.unwrap().peer_cred().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", served_by.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    format!("{:.1}", kib / 1024.0)
}
