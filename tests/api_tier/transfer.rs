//! Agents that send and receive sealed volumes: the peers that get a volume, and the answers that a copy accepts (E2, A4). The agents
//! are real, and some peers are not agents.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use reservoir::api::condition::{COPIED, READY, SEALED};
use reservoir::api::{NodeDisk, SharedPersistentVolume};
use reservoir::host::{Asked, Source};
use reservoir::transfer::{Identity, Peer, Remote};
use serde_json::json;

use crate::copies::{filled, reserve_on_second, status, until_copied};
use crate::support::{Agent, Cluster, content, until, until_reason, until_said};

/// Has the disk say that its agent is at that address, with that key.
async fn pretend(cluster: &Cluster, disk: &str, address: Option<&str>, key: &str) {
    let disks: Api<NodeDisk> = cluster.all();
    let transfer = disks.get(disk).await.unwrap().status.unwrap().transfer.unwrap();
    let address = address.unwrap_or(&transfer.address);
    let said = Patch::Merge(json!({"status": {"transfer": {"address": address, "key": key}}}));
    disks.patch_status(disk, &PatchParams::default(), &said).await.unwrap();
}

/// A4, A7: the key of another node, a key that nobody published, another volume, another copy, and no key at all.
#[tokio::test(flavor = "multi_thread")]
async fn e2_an_agent_sends_a_volume_to_the_node_of_its_copy_alone() {
    let (cluster, _first, mut second) = filled(12).await;
    cluster.apply_text(reserve_on_second()).await;
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    let slow = json!({"copies": {"bytesPerSecond": "1Mi", "nodeSelector": {"kubernetes.io/hostname": "n2"}}});
    cluster.label_node("n2", "kubernetes.io/hostname", "n2").await;
    cluster.change_volume("data", slow).await.unwrap();
    let copy = until_copied(&cluster).await;
    until("its source", || async { status(&cluster, &copy).await.source }).await;
    // The test takes the place of the second agent.
    second.kill().await;
    let transfer =
        cluster.all::<NodeDisk>().get("n1.default").await.unwrap().status.unwrap().transfer.unwrap();
    let uid = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().uid().unwrap();
    let asks = |identity: &Arc<Identity>, volume: &str, copy: &str| {
        let peer = Peer {
            node: "n1".to_owned(),
            address: transfer.address.clone(),
            key: transfer.key.clone(),
            volume: volume.to_owned(),
            copy: copy.to_owned(),
        };
        let mut remote = Remote::new(peer, identity.clone(), Arc::default());
        tokio::task::block_in_place(|| remote.open(Asked::Manifest).map_err(|error| error.to_string()))
    };
    let (own, other) = (Arc::new(Identity::make().unwrap()), Arc::new(Identity::make().unwrap()));
    let refused = asks(&own, &uid, &copy).unwrap_err();
    assert_eq!(refused, "node n1 gives no copy: the copy is not on the node of that key");
    pretend(&cluster, "n2.default", None, own.public()).await;
    assert!(asks(&own, &uid, &copy).is_ok(), "the key of the copy's node");

    // A node that is really there, and has no copy.
    cluster.node("n3", true).await;
    let mut third = Agent::start_copying(&cluster, "n3", "64Mi", false).await;
    until_reason(&cluster.all::<NodeDisk>(), "n3.default", "Ready").await;
    third.kill().await;
    pretend(&cluster, "n3.default", None, other.public()).await;
    let refused = asks(&other, &uid, &copy).unwrap_err();
    assert_eq!(refused, "node n1 gives no copy: the copy is not on the node of that key");
    let refused = asks(&own, &uid, "data").unwrap_err();
    assert_eq!(refused, "node n1 gives no copy: there is no such copy");
    let refused = asks(&own, "00000000-0000-4000-8000-000000000009", &copy).unwrap_err();
    assert_eq!(
        refused,
        "node n1 gives no copy: there is no such volume, sealed and on a disk that is served"
    );
    // Without TLS there is no answer but the end.
    let said = tokio::task::block_in_place(|| {
        let mut plain = TcpStream::connect(&transfer.address).unwrap();
        plain.write_all(b"GET /manifest HTTP/1.1\r\n\r\n").unwrap();
        let mut said = vec![];
        let _ = plain.read_to_end(&mut said);
        said
    });
    assert!(said.len() < 64 && !said.windows(4).any(|four| four == b"HTTP"), "{said:?}");
    assert!(asks(&own, &uid, &copy).is_ok(), "it serves on");

    // With the copy goes the right.
    cluster.change_volume("data", json!({"copies": null})).await.unwrap();
    until("the end of the right", || async { asks(&own, &uid, &copy).err() }).await;
}

/// S12, L1. Other bytes, no answer, and an answer without end cost the copy a pause, and the original nothing.
#[tokio::test(flavor = "multi_thread")]
async fn e2_a_source_that_sends_something_else_makes_no_copy() {
    let (cluster, mut first, mut second) = filled(4).await;
    cluster.apply_text(reserve_on_second()).await;
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    let uid = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().uid().unwrap();

    // Whoever answers at that address is not the agent.
    first.kill().await;
    let key =
        cluster.all::<NodeDisk>().get("n1.default").await.unwrap().status.unwrap().transfer.unwrap().key;
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endless.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut socket in endless.incoming().flatten() {
            while socket.write_all(&[b'x'; 4096]).is_ok() {}
        }
    });
    pretend(&cluster, "n1.default", Some(&address), &key).await;
    cluster.change_volume("data", json!({"copies": {}})).await.unwrap();
    let copy = until_copied(&cluster).await;
    let failed = format!("node n1 cannot be reached at {address} for a copy: ");
    let message = until_said(&cluster, &copy, READY, "CopyFailed").await;
    assert!(message.starts_with(&failed), "{message}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    pretend(&cluster, "n1.default", Some(&address), &key).await;
    // A new process remembers no failure.
    second.kill().await;
    second.run();
    let failed = format!("node n1 cannot be reached at {address} for a copy: it took too long");
    until("the end of its patience", || async {
        let said = until_said(&cluster, &copy, READY, "CopyFailed").await;
        said.starts_with(&failed).then_some(())
    })
    .await;
    drop(silent);
    second.kill().await;

    // A byte of the original flips.
    let image = std::fs::read(first.data_file(&uid)).unwrap();
    let piece = &content(4)[1 << 20..][..4096];
    let block = image.chunks(4096).position(|block| block == piece).unwrap();
    let file = std::fs::File::options().write(true).open(first.data_file(&uid)).unwrap();
    let write = |byte| {
        file.write_all_at(&[byte], 4096 * block as u64).unwrap();
        file.sync_all().unwrap();
    };
    write(!piece[0]);
    first.run();
    until("the agent's own address", || async {
        let disk = cluster.all::<NodeDisk>().get("n1.default").await.unwrap();
        disk.status?.transfer.filter(|transfer| transfer.key != key)
    })
    .await;
    second.run();
    until("the file with other bytes", || async {
        let said = until_said(&cluster, &copy, READY, "CopyFailed").await;
        said.contains("the source sends other bytes than those that were sealed for weights").then_some(())
    })
    .await;
    // The original had the same reason before, with the words of the failure before.
    until("the original's word about the file", || async {
        let missing = until_said(&cluster, "data", COPIED, "CopiesMissing").await;
        missing.contains("weights").then_some(())
    })
    .await;
    until_said(&cluster, "data", READY, "Ready").await;
    assert_eq!(status(&cluster, &copy).await.digest, None);

    second.kill().await;
    first.kill().await;
    write(piece[0]);
    first.run();
    second.run();
    until_said(&cluster, "data", COPIED, "Copied").await;
    assert_eq!(status(&cluster, &copy).await.digest, status(&cluster, "data").await.digest);
}

/// R7, L1. A node that joins gets its copy by itself, a second one from the first copy or the original, and its pods the label.
#[tokio::test(flavor = "multi_thread")]
async fn e2_a_node_that_joins_gets_a_copy() {
    let (cluster, _first, _second) = filled(4).await;
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    // Each disk of the pool has space for the role, also of nodes that are not there yet.
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: eng}, spec: {role: eng,
              reservationTemplates: [{name: pool, size: 64Mi, nodeSelector: {pool: gpu}}]}}",
        )
        .await;
    cluster.change_volume("data", json!({"copies": {"nodeSelector": {"pool": "gpu"}}})).await.unwrap();
    until_said(&cluster, "data", COPIED, "NoNodeSelected").await;
    let uid = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().uid().unwrap();
    let mut agents = vec![];
    for (number, node) in ["n3", "n4"].into_iter().enumerate() {
        cluster.node(node, true).await;
        cluster.label_node(node, "pool", "gpu").await;
        agents.push(Agent::start_copying(&cluster, node, "128Mi", false).await);
        until("the label of its copy", || async {
            let nodes: Api<k8s_openapi::api::core::v1::Node> = cluster.all();
            let node = nodes.get(node).await.unwrap();
            (node.labels().get(&format!("copies.reservoir.dev/{uid}"))? == "ready").then_some(())
        })
        .await;
        until("the numbers", || async {
            status(&cluster, "data").await.copies.filter(|copies| copies.ready == number as u32 + 1)
        })
        .await;
    }
    until_said(&cluster, "data", COPIED, "Copied").await;
    cluster.quiet_for(Duration::from_secs(1)).await;
}
