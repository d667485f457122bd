//! Writes of an agent, which the API server decides by the node of the agent's token (A4).

use k8s_openapi::api::core::v1::Node;
use reservoir::api::{NodeDisk, SharedPersistentVolume};
use serde_json::{Value, json};

use crate::support::{AGENT_USER, Cluster, until};

/// Applies as the agent of a node would; says what the API server has against it.
async fn apply(cluster: &Cluster, node: &str, path: &str, object: Value) -> Result<(), String> {
    let request =
        http::Request::patch(format!("/apis/reservoir.dev/v1alpha1/{path}?fieldManager=agent&force=true"))
            .header("Content-Type", "application/apply-patch+yaml")
            .header("Impersonate-User", AGENT_USER)
            // Only the policy is looked at here, not the RBAC of the chart.
            .header("Impersonate-Group", "system:masters")
            .header("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", node)
            .body(object.to_string().into_bytes())
            .unwrap();
    cluster.client.request::<Value>(request).await.map(drop).map_err(|e| e.to_string())
}

const ID: &str = "00112233-4455-6677-8899-aabbccddeeff";

async fn disk(cluster: &Cluster, agent: &str, name: &str, node: &str) -> Result<(), String> {
    disk_of(cluster, agent, name, node, ID).await
}

async fn disk_of(cluster: &Cluster, agent: &str, name: &str, node: &str, id: &str) -> Result<(), String> {
    let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "NodeDisk", "metadata": {"name": name},
        "spec": {"nodeName": node, "diskName": "default", "diskID": id,
            "kind": "Path", "backing": "Loop", "path": "/disk"}});
    apply(cluster, agent, &format!("nodedisks/{name}"), object).await
}

/// A4, D3.
#[tokio::test(flavor = "multi_thread")]
async fn a4_an_agent_writes_objects_of_its_own_node_only() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    cluster.node("n2", true).await;
    // The policy hears of nodes a moment after they are there.
    disk(&cluster, "n1", "n1.default", "n1").await.unwrap();
    until("n1 keeps its disk", || async {
        let taken = disk(&cluster, "n2", "n1.default", "n2").await;
        if taken.is_ok() {
            disk(&cluster, "n1", "n1.default", "n1").await.ok();
        }
        taken.is_err().then_some(())
    })
    .await;
    for (agent, name, node, said) in [
        ("n1", "n1.default", "n1", None),
        ("n1", "n1.default", "n1", None),
        ("n2", "n1.default", "n1", Some("of node n1")),
        (
            "n2",
            "n1.default",
            "n2",
            Some("NodeDisk n1.default is in node n1, which is still there: delete Node n1 if"),
        ),
        ("n1", "n2.default", "n1", Some("its disks are called n1.<disk>")),
        ("n1", "n1.n2.default", "n1", Some("its disks are called n1.<disk>")),
        ("n1.n2", "n1.n2.default", "n1.n2", None),
    ] {
        let done = disk(&cluster, agent, name, node).await;
        match said {
            None => assert_eq!(done, Ok(()), "{agent} {name}"),
            Some(said) => assert!(done.unwrap_err().contains(said), "{agent} {name}"),
        }
    }
    let disks = cluster.all::<NodeDisk>().list(&Default::default()).await.unwrap();
    assert!(
        disks.items.iter().all(|disk| disk.metadata.name.as_ref().unwrap().starts_with(&disk.spec.node_name))
    );

    // D3: a disk is in a node of another name now, once there is no Node of the old one; and that is all that may change.
    cluster.all::<Node>().delete("n1", &Default::default()).await.unwrap();
    until("the old Node is known to be gone", || async {
        let other = "ffeeddcc-bbaa-9988-7766-554433221100";
        let refused = disk_of(&cluster, "n2", "n1.default", "n2", other).await.unwrap_err();
        assert!(
            refused.contains("may not write n1.default")
                || refused.contains("the ID of a disk cannot be changed"),
            "{refused}"
        );
        disk(&cluster, "n2", "n1.default", "n2").await.ok()
    })
    .await;
    let refused = disk(&cluster, "n1", "n1.default", "n1").await.unwrap_err();
    assert!(refused.contains("is in node n2, which is still there"), "{refused}");
    let moved = cluster.all::<NodeDisk>().get("n1.default").await.unwrap();
    assert_eq!((moved.spec.node_name.as_str(), moved.spec.disk_id.as_str()), ("n2", ID));

    // A volume is of the node that the controller put it on, whatever the agent claims.
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: v}, \
             spec: {role: eng, size: 1Gi}}",
        )
        .await;
    let grab = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
        "metadata": {"name": "v"}, "status": {"nodeName": "n1"}});
    let refused = apply(&cluster, "n1", "sharedpersistentvolumes/v/status", grab).await.unwrap_err();
    assert!(refused.contains("may not write v"), "{refused}");
    let volume = cluster.all::<SharedPersistentVolume>().get("v").await.unwrap();
    assert_eq!(volume.status.and_then(|status| status.node_name), None);

    // And on its own node it does not say what is the controller's to say: that it is on another one, or who is bound to it.
    let said = async |path: &str, status: Value| {
        let body = json!({"status": status}).to_string().into_bytes();
        let request = http::Request::patch(format!("/apis/reservoir.dev/v1alpha1/{path}/status"))
            .header("Content-Type", "application/merge-patch+json")
            .body(body)
            .unwrap();
        cluster.client.request::<Value>(request).await.unwrap();
    };
    cluster.kill_controller().await;
    let volume = |status: Value| {
        json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
            "metadata": {"name": "v"}, "status": status})
    };
    let binding = json!({"namespace": "team", "name": "c", "uid": "u", "mode": "ReadWrite"});
    let placed =
        json!({"nodeName": "n2", "nodeDisk": "n1.default", "userCount": 1, "claims": [binding.clone()]});
    said("sharedpersistentvolumes/v", placed).await;
    let own = volume(json!({"node": {"backing": "Made"}}));
    for _ in 0..2 {
        apply(&cluster, "n2", "sharedpersistentvolumes/v/status", own.clone()).await.unwrap();
    }
    for status in [
        json!({"nodeName": "n3"}),
        json!({"nodeDisk": "n3.default"}),
        json!({"userCount": 0}),
        json!({"claims": [binding.clone(), binding]}),
        json!({"destroy": {"tombstone": "2026-01-01T00:00:00Z"}}),
    ] {
        let refused = apply(&cluster, "n2", "sharedpersistentvolumes/v/status", volume(status.clone())).await;
        let refused = refused.expect_err(&status.to_string());
        assert!(refused.contains("may not write what the controller says of v"), "{refused}");
    }
    let disk_says = |status: Value| {
        json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "NodeDisk", "metadata": {"name": "n1.default"},
            "status": status})
    };
    let path = "nodedisks/n1.default/status";
    apply(&cluster, "n2", path, disk_says(json!({"capacity": "1Gi"}))).await.unwrap();
    let line = json!({"name": "r", "uid": "r", "role": "eng", "size": "1Gi"});
    let refused = apply(&cluster, "n2", path, disk_says(json!({"reservations": [line]}))).await.unwrap_err();
    assert!(refused.contains("may not write what the controller says of n1.default"), "{refused}");
    disk(&cluster, "n2", "n1.default", "n2").await.unwrap();
}
