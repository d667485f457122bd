//! What an agent may write, by the API server's own word for its node (A4).

use reservoir::api::{NodeDisk, SharedPersistentVolume};
use serde_json::{Value, json};

use crate::support::{AGENT_USER, Cluster};

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

async fn disk(cluster: &Cluster, agent: &str, name: &str, node: &str) -> Result<(), String> {
    let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "NodeDisk", "metadata": {"name": name},
        "spec": {"nodeName": node, "diskName": "default", "diskID": "00112233-4455-6677-8899-aabbccddeeff",
            "kind": "Path", "backing": "Loop", "path": "/disk"}});
    apply(cluster, agent, &format!("nodedisks/{name}"), object).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_an_agent_writes_only_what_is_of_its_own_node() {
    let cluster = Cluster::start().await;
    for (agent, name, node, said) in [
        ("n1", "n1.default", "n1", None),
        ("n1", "n1.default", "n1", None),
        ("n2", "n1.default", "n1", Some("of node n1")),
        ("n2", "n1.default", "n2", Some("of node n1")),
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
}
