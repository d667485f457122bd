//! Writes of an agent, which the API server admits by the node in the agent's token (A4).

use k8s_openapi::api::core::v1::Node;
use reservoir::api::{NodeDisk, NodeDiskSpec, SharedPersistentVolume};
use reservoir::plan::disk_key::text;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::{AGENT_USER, CONTROLLER_USER, Cluster, until};

/// Applies an object as the agent of a node; returns the API server's refusal.
async fn apply(cluster: &Cluster, node: &str, path: &str, object: Value) -> Result<(), String> {
    let request =
        http::Request::patch(format!("/apis/reservoir.dev/v1alpha1/{path}?fieldManager=agent&force=true"))
            .header("Content-Type", "application/apply-patch+yaml")
            .header("Impersonate-User", AGENT_USER)
            // Only the policy is tested here, not the RBAC of the chart.
            .header("Impersonate-Group", "system:masters")
            .header("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", node)
            .body(object.to_string().into_bytes())
            .unwrap();
    cluster.client.request::<Value>(request).await.map(drop).map_err(|e| e.to_string())
}

const ID: &str = "00112233-4455-6677-8899-aabbccddeeff";

async fn disk(cluster: &Cluster, agent: &str, name: &str, node: &str) -> Result<(), String> {
    let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "NodeDisk", "metadata": {"name": name},
        "spec": {"nodeName": node, "diskName": "default", "diskID": ID, "key": hex(key(1).public_key().as_ref()),
            "kind": "Path", "backing": "Loop", "path": "/disk"}});
    apply(cluster, agent, &format!("nodedisks/{name}"), object).await
}

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Requests NodeDisk n1.default as the agent of a node. The request is for `node`, and signed with the key of `seed`.
async fn ask(cluster: &Cluster, agent: &str, node: &str, seed: u8) -> Result<(), String> {
    let object = cluster.all::<NodeDisk>().get("n1.default").await.unwrap();
    let text = text("n1.default", &NodeDiskSpec { node_name: node.to_owned(), ..object.spec });
    let proof = hex(key(seed).sign(text.as_bytes()).as_ref());
    let fields = json!({"spec": {"takeOver": {"nodeName": node, "diskName": "default", "proof": proof}}});
    merge(cluster, agent, fields).await
}

async fn merge(cluster: &Cluster, agent: &str, fields: Value) -> Result<(), String> {
    let request =
        http::Request::patch("/apis/reservoir.dev/v1alpha1/nodedisks/n1.default?fieldManager=other")
            .header("Content-Type", "application/merge-patch+json")
            .header("Impersonate-User", AGENT_USER)
            .header("Impersonate-Group", "system:masters")
            .header("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", agent)
            .body(fields.to_string().into_bytes())
            .unwrap();
    cluster.client.request::<Value>(request).await.map(drop).map_err(|e| e.to_string())
}

/// A4, A7, D3.
#[tokio::test(flavor = "multi_thread")]
async fn a4_an_agent_writes_objects_of_its_own_node_only() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    cluster.node("n2", true).await;
    // The policy sees a new Node only after a moment.
    disk(&cluster, "n1", "n1.default", "n1").await.unwrap();
    let refused =
        until("the policy has the Node", || async { ask(&cluster, "n2", "n2", 1).await.err() }).await;
    let still_there =
        "NodeDisk n1.default is in node n1, which is still there: delete Node n1 if its disk is in node n2";
    assert!(refused.contains(still_there), "{refused}");
    for (agent, name, node, said) in [
        ("n1", "n1.default", "n1", None),
        ("n1", "n1.default", "n1", None),
        ("n2", "n1.default", "n1", Some("of node n1")),
        ("n1", "n1.default", "n2", Some("may not write n1.default, which is of node n2")),
        ("n2", "n1.default", "n2", Some("may not write n1.default, which is of node n1")),
        ("n1", "n2.default", "n1", Some("its disks are called n1.<disk>")),
        ("n1", "n1.n2.default", "n1", Some("its disks are called n1.<disk>")),
        ("n1.n2", "n1.n2.default", "n1.n2", None),
        // A7: the names of one disk are few.
        ("n1", "n1.default-9", "n1", None),
        ("n1", "n1.default-10", "n1", Some("its disks are called n1.<disk>")),
        ("n1", "n1.default-00112233", "n1", Some("its disks are called n1.<disk>")),
        ("n1", "n1.other", "n1", Some("its disks are called n1.<disk>")),
    ] {
        let done = disk(&cluster, agent, name, node).await;
        match said {
            None => assert_eq!(done, Ok(()), "{agent} {name}"),
            Some(said) => assert!(done.unwrap_err().contains(said), "{agent} {name}"),
        }
    }
    // Without the dot in the name of a disk, the NodeDisks of nodes n1 and n1.n2 could have one name.
    let dotted = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "NodeDisk", "metadata": {"name": "n1.n3.a"},
        "spec": {"nodeName": "n1", "diskName": "n3.a", "diskID": ID, "kind": "Path", "backing": "Loop", "path": "/a"}});
    let refused = apply(&cluster, "n1", "nodedisks/n1.n3.a", dotted).await.unwrap_err();
    assert!(refused.contains("its disks are called n1.<disk>"), "{refused}");
    let disks = cluster.all::<NodeDisk>().list(&Default::default()).await.unwrap();
    assert!(
        disks.items.iter().all(|disk| disk.metadata.name.as_ref().unwrap().starts_with(&disk.spec.node_name))
    );

    // D8: an agent removes what stood for a disk of its own node, and no disk.
    let delete = async |agent: &str, name: &str| {
        let request = http::Request::delete(format!("/apis/reservoir.dev/v1alpha1/nodedisks/{name}"))
            .header("Impersonate-User", AGENT_USER)
            .header("Impersonate-Group", "system:masters")
            .header("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", agent)
            .body(vec![])
            .unwrap();
        cluster.client.request::<Value>(request).await.map(drop).map_err(|e| e.to_string())
    };
    let spec = json!({"nodeName": "n1", "diskName": "late", "diskID": "unknown", "kind": "Path", "backing": "Loop",
        "path": "/late"});
    let late = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "NodeDisk", "metadata": {"name": "n1.late"},
        "spec": spec});
    apply(&cluster, "n1", "nodedisks/n1.late", late).await.unwrap();
    for (agent, name) in [("n1", "n1.default"), ("n2", "n1.late")] {
        let refused = delete(agent, name).await.unwrap_err();
        assert!(refused.contains(&format!("the agent of node {agent} may not delete {name}")), "{refused}");
    }
    delete("n1", "n1.late").await.unwrap();

    // D3: the disk is now in a node of another name. Once the old Node is gone, the new node's agent may request the
    // NodeDisk.
    cluster.all::<Node>().delete("n1", &Default::default()).await.unwrap();
    until("the policy has no old Node", || async { ask(&cluster, "n2", "n2", 2).await.ok() }).await;
    // A7: the NodeDisk moves only with the signature of the disk's key. The request may change nothing else.
    let now = async || cluster.all::<NodeDisk>().get("n1.default").await.unwrap().spec;
    until("the forged request is refused", || async { now().await.take_over.is_none().then_some(()) }).await;
    assert_eq!(now().await.node_name, "n1");
    let with_request = async |mut fields: Value| {
        fields["spec"]["takeOver"] = json!({"nodeName": "n2", "diskName": "default", "proof": "00"});
        merge(&cluster, "n2", fields).await
    };
    for refused in [
        disk(&cluster, "n2", "n1.default", "n2").await,
        ask(&cluster, "n3", "n2", 1).await,
        with_request(json!({"spec": {"key": hex(key(2).public_key().as_ref())}})).await,
        with_request(json!({"spec": {"keyProof": "00"}})).await,
        with_request(json!({"spec": {"diskName": "mine"}})).await,
        with_request(json!({"spec": {"path": "/mine"}})).await,
        with_request(json!({"metadata": {"finalizers": ["test/kept"]}})).await,
        with_request(json!({"metadata": {"labels": {"a": "b"}}})).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.contains("may not write n1.default, which is of node n1"), "{refused}");
    }
    // No agent overwrites the request of another one.
    cluster.kill_controller().await;
    ask(&cluster, "n2", "n2", 1).await.unwrap();
    let refused = ask(&cluster, "n3", "n3", 2).await.unwrap_err();
    assert!(refused.contains("node n2 asked for NodeDisk n1.default already"), "{refused}");
    cluster.start_controller().await;
    until("the disk has moved", || async { (now().await.node_name == "n2").then_some(()) }).await;
    assert_eq!((now().await.disk_id.as_str(), now().await.take_over), (ID, None));
    let refused = disk(&cluster, "n1", "n1.default", "n1").await.unwrap_err();
    assert!(refused.contains("may not write n1.default, which is of node n2"), "{refused}");

    // The controller decides the node of a volume. The agent cannot change it.
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

    // Even on its own node an agent cannot write the controller's fields: the volume's node and its claims.
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
    // The volume of a class may be made before its status has a place, by the agent of the node that the controller chose.
    let controller = cluster.server.client_as(CONTROLLER_USER, &["system:masters"]).await.unwrap();
    let create = async |client: &kube::Client, name: &str| {
        let body = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
            "metadata": {"name": name, "annotations": {"reservoir.dev/born-on": "n2"}},
            "spec": {"role": "eng", "size": "1Gi", "reservation": "r"}});
        let request = http::Request::post("/apis/reservoir.dev/v1alpha1/sharedpersistentvolumes")
            .header("Content-Type", "application/json")
            .body(body.to_string().into_bytes())
            .unwrap();
        client.request::<Value>(request).await.map(drop).map_err(|e| e.to_string())
    };
    let refused = create(&cluster.client, "mine").await.unwrap_err();
    assert!(
        refused.contains("annotation reservoir.dev/born-on of mine is the controller's alone"),
        "{refused}"
    );
    create(&controller, "born").await.unwrap();
    let made = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
        "metadata": {"name": "born"}, "status": {"node": {"backing": "Made"}}});
    let refused =
        apply(&cluster, "n1", "sharedpersistentvolumes/born/status", made.clone()).await.unwrap_err();
    assert!(refused.contains("may not write born, which is of node n2"), "{refused}");
    apply(&cluster, "n2", "sharedpersistentvolumes/born/status", made.clone()).await.unwrap();
    said("sharedpersistentvolumes/born", json!({"nodeName": "n1"})).await;
    let refused = apply(&cluster, "n2", "sharedpersistentvolumes/born/status", made).await.unwrap_err();
    assert!(refused.contains("may not write born, which is of node n1"), "its status has a place: {refused}");
    let moved = json!({"metadata": {"annotations": {"reservoir.dev/born-on": "n1"}}});
    let volumes = cluster.all::<SharedPersistentVolume>();
    let refused =
        volumes.patch("born", &Default::default(), &kube::api::Patch::Merge(moved)).await.unwrap_err();
    assert!(refused.to_string().contains("is the controller's alone"), "{refused}");
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
