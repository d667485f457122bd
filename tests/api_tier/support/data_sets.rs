//! Sealed volumes on one node, and other nodes that are to have copies of them.

use std::path::PathBuf;

use kube::Api;
use reservoir::api::condition::{COPIED, SEALED};
use reservoir::api::{NodeDisk, VolumeClaim};
use serde_json::json;

use super::{Agent, Cluster, until_reason, until_said};

const TEAM: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
";

/// The content of a file of so many MiB.
pub fn content(mebibytes: usize) -> Vec<u8> {
    (0..mebibytes << 20).map(|i: usize| (i.wrapping_mul(i) >> 9) as u8).collect()
}

/// Sealed volumes, and the agents of the nodes; the first one has the volumes.
pub struct DataSets {
    pub agents: Vec<Agent>,
    pub names: Vec<String>,
}

impl DataSets {
    /// Makes so many volumes of so many MiB with a file each, and nodes for so many copies of each. The agent that sends is a
    /// process of its own if so asked.
    pub async fn seal(
        cluster: &Cluster,
        (volumes, copies): (usize, usize),
        mebibytes: usize,
        in_process: bool,
    ) -> Self {
        let mut agents = Vec::new();
        // The file systems need some space for themselves.
        let size = mebibytes + mebibytes / 3 + 16;
        let space = volumes * (size + 48);
        for number in 0..=copies {
            let node = format!("n{number}");
            cluster.node(&node, true).await;
            let capacity = format!("{}Mi", space + 128);
            agents.push(Agent::start_copying(cluster, &node, &capacity, in_process && number == 0).await);
            until_reason(&cluster.all::<NodeDisk>(), &format!("{node}.default"), "Ready").await;
            let reservation = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "DiskReservation",
                "metadata": {"name": node}, "spec": {"role": "eng", "size": format!("{space}Mi"), "nodeName": node}});
            cluster.apply_text(&reservation.to_string()).await;
        }
        cluster.apply_text(TEAM).await;
        let names: Vec<String> = (0..volumes).map(|number| format!("data{number}")).collect();
        for name in &names {
            seal(cluster, &agents[0], name, size, mebibytes).await;
        }
        Self { agents, names }
    }

    /// Has the volumes copied to all other nodes, until each node has its copies.
    pub async fn copy(&self, cluster: &Cluster) {
        for name in &self.names {
            cluster.change_volume(name, json!({"copies": {"nodeSelector": {}}})).await.unwrap();
        }
        for name in &self.names {
            until_said(cluster, name, COPIED, "Copied").await;
        }
    }
}

/// Makes a volume on the first node, fills it, and seals it.
async fn seal(cluster: &Cluster, agent: &Agent, name: &str, size: usize, mebibytes: usize) {
    for object in [
        json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume", "metadata": {"name": name},
            "spec": {"role": "eng", "size": format!("{size}Mi"), "shared": {}, "reservation": "n0"}}),
        json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
            "metadata": {"name": name, "namespace": "team"}, "spec": {"role": "eng", "volume": name}}),
    ] {
        cluster.apply_text(&object.to_string()).await;
    }
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, name, "Bound").await;
    let (bound, pod) = (claims.get(name).await.unwrap(), cluster.pod("team", name, &[name]).await);
    let target: PathBuf = agent.publish(cluster, &bound, &pod, false).await.unwrap();
    std::fs::write(target.join("weights"), content(mebibytes)).unwrap();
    agent.unpublish(&bound, &pod).await.unwrap();
    cluster.end_pod("team", name).await;
    cluster.change_volume(name, json!({"sealed": true})).await.unwrap();
    until_said(cluster, name, SEALED, "Sealed").await;
}
