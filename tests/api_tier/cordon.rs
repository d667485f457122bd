//! Nodes that are cordoned and drained, as people do it.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim};
use serde_json::json;

use crate::plugin::Shell;
use crate::support::{Agent, Cluster, until, until_reason};

/// Cordon keeps new volumes away, and what is there goes on. A drain ends although the node has volumes. The pod that comes
/// after that waits for the node, and `why` names the node and the command.
#[tokio::test(flavor = "multi_thread")]
async fn r1_p2_a_cordoned_node_gets_nothing_new() {
    let mut cluster = Cluster::start().await;
    let (volumes, all) = (cluster.all::<SharedPersistentVolume>(), cluster.all::<DiskReservation>());
    let mut agents = vec![];
    for node in ["n1", "n2"] {
        cluster.node(node, true).await;
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        let status = Patch::Merge(json!({"status": {"capacity": room, "allocatable": room}}));
        let nodes: Api<Node> = cluster.all();
        nodes.patch_status(node, &PatchParams::default(), &status).await.unwrap();
        // Admission marks each new Node as not ready, and no kubelet runs.
        let schedulable = Patch::Merge(json!({"spec": {"taints": null}}));
        nodes.patch(node, &PatchParams::default(), &schedulable).await.unwrap();
        cluster.label_node(node, "kubernetes.io/hostname", node).await;
        cluster.label_node(node, "topology.reservoir.dev/node", node).await;
        agents.push(Agent::start(&cluster, node, "256Mi").await);
    }
    let shell = Shell::new(&cluster).await;
    shell.run("kubectl create namespace team");
    shell.run("kubectl reservoir reserve here --role eng --size 96Mi --disk n1.default --wait");
    shell.run("kubectl reservoir create data --role eng --size 32Mi --wait");
    shell.run("kubectl reservoir subscribe eng -n team");
    let claim = |name: &str| {
        format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
             spec: {{role: eng, volume: data}}}}"
        )
    };
    let claims = cluster.within::<VolumeClaim>("team");
    cluster.apply_text(&claim("first")).await;
    until_reason(&claims, "first", "Bound").await;
    let pod = |name: &str, place: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: team}}, spec: {{{place}
             containers: [{{name: c, image: none}}], automountServiceAccountToken: false, volumes: [{{name: v,
             persistentVolumeClaim: {{claimName: first}}}}]}}}}"
        )
    };
    until("the default service account", || async {
        cluster.try_apply(&pod("uses", "nodeName: n1,")).await.ok()
    })
    .await;

    shell.run("kubectl cordon n1");
    until("the NodeDisk shows it", || async {
        let status = cluster.all::<NodeDisk>().get("n1.default").await.unwrap().status?;
        status.cordoned.then_some(())
    })
    .await;
    // The volume that is there stays Ready, and can be claimed.
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(&claim("second")).await;
    until_reason(&claims, "second", "Bound").await;

    // Nothing new.
    shell.run("kubectl reservoir create new --role eng --size 16Mi");
    let said = until_reason(&volumes, "new", "NodeCordoned").await;
    assert_eq!(
        said,
        "only cordoned nodes have space for it (here on n1): kubectl uncordon n1, or reserve on another node"
    );
    let why = shell.run("kubectl reservoir why spv/new || true");
    assert!(why.contains("next: kubectl uncordon n1"), "{why}");
    shell.run("kubectl reservoir reserve floats --role ops --size 16Mi --wait");
    assert_eq!(all.get("floats").await.unwrap().status.unwrap().node_name.as_deref(), Some("n2"));
    shell.run("kubectl reservoir reserve named --role ops --size 16Mi --node n1 --wait");

    // A drain ends, and no volume of the node is lost by that.
    shell.run(
        "kubectl drain n1 --force --ignore-daemonsets --delete-emptydir-data --grace-period=0 --timeout=30s",
    );
    assert!(cluster.within::<Pod>("team").get_opt("uses").await.unwrap().is_none());
    cluster.server.start_scheduler().await.unwrap();
    cluster.apply_text(&pod("again", "")).await;
    until("the scheduler refused the pod", || async {
        let status = cluster.within::<Pod>("team").get("again").await.unwrap().status?;
        status.conditions?.iter().any(|c| c.type_ == "PodScheduled" && c.status == "False").then_some(())
    })
    .await;
    let why = shell.run("kubectl reservoir why pod/again -n team || true");
    assert!(why.contains("its volume data is on node n1, which is cordoned"), "{why}");
    assert!(why.contains("next: kubectl uncordon n1"), "{why}");

    shell.run("kubectl uncordon n1");
    until_reason(&volumes, "new", "Ready").await;
    until("the pod is scheduled", || async {
        let spec = cluster.within::<Pod>("team").get("again").await.unwrap().spec?;
        (spec.node_name.as_deref() == Some("n1")).then_some(())
    })
    .await;
}
