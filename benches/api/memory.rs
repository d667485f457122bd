//! The memory of both programs beside large objects of others (A9).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use reservoir::api::{CONTROLLER_MANAGER, NodeDisk, SharedPersistentVolume, Size, VolumePhase};
use reservoir::cluster::write_status;
use reservoir_cluster::api::ApiOptions;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::support::{Agent, Cluster, until};
use crate::{Controller, a_pod, a_volume, each, make, memory_of, row};

const NODE: &str = "n1";
const PODS: usize = 100;
const VOLUMES: usize = 150;

/// The time in which a program that starts has seen everything.
const START: Duration = Duration::from_secs(20);

pub async fn measure() {
    let cluster = Cluster::bare(ApiOptions::default()).await;
    cluster.node(NODE, true).await;
    let mut agent = Agent::start_process(&cluster, NODE, "4Gi");
    let disks: Api<NodeDisk> = cluster.all();
    until("the agent reports its disk", || async { disks.get_opt("n1.default").await.unwrap() }).await;
    agent.kill().await;

    let pods: Api<Pod> = cluster.within("default");
    each(PODS, |i| {
        let mut pod = a_pod(&format!("p{i}"), "none");
        let variable = |n: usize| json!({"name": format!("V{n}"), "value": "x".repeat(100)});
        pod["spec"]["containers"][0]["env"] = (0..10_000).map(variable).collect();
        make(&pods, pod)
    })
    .await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    // The most labels that admission lets through.
    let mut labels = 12_000;
    while !place(&volumes, "v0", labels).await {
        labels /= 2;
        assert!(labels > 0, "no volume can be made");
    }
    each(VOLUMES - 1, async |i| assert!(place(&volumes, &format!("v{}", i + 1), labels).await)).await;
    println!("{PODS} pods of 1.2 MB, {VOLUMES} volumes with {} kB of labels each", labels * 77 / 1000);

    agent.run();
    tokio::time::sleep(START).await;
    let socket = UnixStream::connect(agent.dir.join("kubelet/plugins/csi.reservoir.dev/csi.sock")).await;
    let pid = socket.unwrap().peer_cred().unwrap().pid().unwrap();
    let most = format!("{:.0}", memory_of(pid.cast_unsigned(), "VmHWM"));
    row("  memory of an agent that starts, at most, MiB", most, "<= 128");
    agent.kill().await;
    let controller = Controller::start(&cluster);
    tokio::time::sleep(START).await;
    let most = format!("{:.0}", controller.memory("VmHWM"));
    row("  memory of a controller that starts, at most, MiB", most, "<= 128");
}

/// Makes a volume with so many labels that is on the agent's node.
async fn place(volumes: &Api<SharedPersistentVolume>, name: &str, labels: usize) -> bool {
    let mut volume = a_volume(name, 0);
    let label = |n: usize| (format!("l-{n:012}"), Value::from("x".repeat(63)));
    volume["metadata"]["labels"] = Value::Object((0..labels).map(label).collect());
    let volume = serde_json::from_value(volume).unwrap();
    let Ok(made) = volumes.create(&PostParams::default(), &volume).await else { return false };
    let made: SharedPersistentVolume = made;
    let mut status = made.status.clone().unwrap_or_default();
    status.phase = VolumePhase::Creating;
    (status.node_name, status.node_disk) = (Some(NODE.into()), Some(format!("{NODE}.default")));
    status.size = Some(Size::written("16Mi"));
    write_status(volumes, &made, &status, CONTROLLER_MANAGER).await.unwrap();
    true
}
