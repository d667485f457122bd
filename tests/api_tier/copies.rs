//! Copies of sealed volumes on other nodes (E2, E5), and the one claim for all of them (E3): two real agents that send them to one
//! another.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{ResourceExt, core::ObjectList};
use reservoir::api::condition::{COPIED, READY, RETIRING, SEALED};
use reservoir::api::{
    CopiesStatus, LABEL_COPY_OF, NodeDisk, SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim,
};
use reservoir::csi::proto::csi::NodeGetVolumeStatsRequest;
use serde_json::{Value, json};

use crate::ask::{self, Ask};
use crate::support::{Agent, Cluster, content, until, until_gone, until_reason, until_said};

const TEAM: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: first}, spec: {role: eng, size: 64Mi, nodeName: n1}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data, labels: {set: best}},
 spec: {role: eng, size: 32Mi, shared: {}}}
";

pub(crate) async fn status(cluster: &Cluster, name: &str) -> SharedPersistentVolumeStatus {
    cluster.all::<SharedPersistentVolume>().get(name).await.unwrap().status.unwrap_or_default()
}

/// The name of the only copy, once it is there.
pub(crate) async fn until_copied(cluster: &Cluster) -> String {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("a copy", || async {
        let all: ObjectList<SharedPersistentVolume> = volumes.list(&Default::default()).await.unwrap();
        let mut copies = all.iter().filter(|volume| volume.spec.copy_of.is_some());
        copies.next().map(ResourceExt::name_any)
    })
    .await
}

fn claim(name: &str, volume: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
        spec: {{role: eng, volume: {volume}, {rest}}}}}"
    )
}

/// Two nodes with agents that copy, and volume `data` on the first one with a file of so many MiB.
pub(crate) async fn filled(mebibytes: usize) -> (Cluster, Agent, Agent) {
    let cluster = Cluster::start().await;
    for node in ["n1", "n2"] {
        cluster.node(node, true).await;
    }
    let first = Agent::start_copying(&cluster, "n1", "128Mi", false).await;
    let second = Agent::start_copying(&cluster, "n2", "128Mi", true).await;
    for disk in ["n1.default", "n2.default"] {
        until_reason(&cluster.all::<NodeDisk>(), disk, "Ready").await;
    }
    cluster.apply_text(TEAM).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    cluster.apply_text(&claim("w", "data", "mode: ReadWrite")).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "w", "Bound").await;
    let bound = claims.get("w").await.unwrap();
    let writer = cluster.pod("team", "writer", &["w"]).await;
    let target = first.publish(&cluster, &bound, &writer, false).await.unwrap();
    std::fs::write(target.join("weights"), content(mebibytes)).unwrap();
    std::fs::create_dir(target.join("more")).unwrap();
    std::fs::write(target.join("more/words"), "of it").unwrap();
    first.unpublish(&bound, &writer).await.unwrap();
    cluster.end_pod("team", "writer").await;
    claims.delete("w", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "w").await;
    (cluster, first, second)
}

pub(crate) fn reserve_on_second() -> &'static str {
    "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: second}, spec: {role: eng, size: 64Mi, nodeName: n2}}"
}

/// C1, Q1, X1, X5. The whole life: selected, filled, claimed, not selected any more, and gone with the original.
#[tokio::test(flavor = "multi_thread")]
async fn e2_e5_a_sealed_volume_is_copied_to_selected_nodes() {
    let (cluster, _first, second) = filled(8).await;
    let (volumes, claims): (Api<SharedPersistentVolume>, Api<VolumeClaim>) =
        (cluster.all(), cluster.within("team"));
    cluster.change_volume("data", json!({"copies": {"nodeSelector": {"pool": "gpu"}}})).await.unwrap();
    until_said(&cluster, "data", COPIED, "NotSealed").await;
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    until_said(&cluster, "data", COPIED, "NoNodeSelected").await;
    cluster.label_node("n1", "pool", "gpu").await;
    cluster.label_node("n2", "pool", "gpu").await;
    let message = until_said(&cluster, "data", COPIED, "CopiesMissing").await;
    assert_eq!(
        message,
        "1 of 1 selected nodes are without a copy: n2: nothing is reserved for role eng on a disk that is ready and whose agent \
         copies: reserve there"
    );
    cluster.apply_text(reserve_on_second()).await;
    until_said(&cluster, "data", COPIED, "Copied").await;
    let copy = until_copied(&cluster).await;
    assert!(copy.starts_with("data-") && copy.len() == 15, "{copy}");
    until_said(&cluster, &copy, READY, "Ready").await;
    let (of, is) = (status(&cluster, "data").await, status(&cluster, &copy).await);
    assert_eq!((is.digest, is.files, is.node_name.as_deref()), (of.digest.clone(), Some(2), Some("n2")));
    assert_eq!(is.source, None);
    assert_eq!(of.copies, Some(CopiesStatus { wanted: 1, ready: 1, failed: 0, used: 0 }));
    let labels = volumes.get(&copy).await.unwrap().labels().clone();
    assert_eq!(labels.get("set").map(String::as_str), Some("best"));
    assert_eq!(labels.get(LABEL_COPY_OF), volumes.get("data").await.unwrap().uid().as_ref());
    cluster.quiet_for(Duration::from_secs(1)).await;

    cluster.apply_text(&claim("w", &copy, "mode: ReadWrite")).await;
    until_reason(&claims, "w", "VolumeSealed").await;
    let digest = of.digest.unwrap();
    cluster.apply_text(&claim("r", &copy, &format!("mode: ReadOnly, digest: '{digest}'"))).await;
    until_reason(&claims, "r", "Bound").await;
    let (bound, reader) = (claims.get("r").await.unwrap(), cluster.pod("team", "reader", &["r"]).await);
    let target = second.publish(&cluster, &bound, &reader, true).await.unwrap();
    assert_eq!(std::fs::read(target.join("weights")).unwrap(), content(8));
    assert_eq!(std::fs::read_to_string(target.join("more/words")).unwrap(), "of it");

    until("the copy is used", || async {
        status(&cluster, "data").await.copies.filter(|copies| copies.used == 1).map(drop)
    })
    .await;
    let refused = volumes.delete("data", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(
        refused.contains("volume data has 1 copy that claims and pods use; nothing was changed"),
        "{refused}"
    );
    // Not selected any more, and in use: it stays, and takes no new claim.
    cluster.label_node("n2", "pool", "cpu").await;
    until_said(&cluster, &copy, RETIRING, "Retiring").await;
    cluster.label_node("n2", "pool", "gpu").await;
    until_said(&cluster, &copy, RETIRING, "RetireWithdrawn").await;

    second.unpublish(&bound, &reader).await.unwrap();
    cluster.end_pod("team", "reader").await;
    for claim in ["r", "w"] {
        claims.delete(claim, &DeleteParams::default()).await.unwrap();
        until_gone(&claims, claim).await;
    }
    until("nobody uses it", || async {
        status(&cluster, "data").await.copies.filter(|copies| copies.used == 0).map(drop)
    })
    .await;
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "data").await;
    assert!(volumes.get_opt(&copy).await.unwrap().is_none(), "the copy went first");
    second.nothing_left().await;
}

/// Two nodes with agents that copy, sealed volume `data` on the first one, its copy on the second one, and the claim `r` to `data`.
async fn copied() -> (Cluster, Agent, Agent, String, VolumeClaim) {
    let (cluster, first, second) = filled(4).await;
    cluster.apply_text(reserve_on_second()).await;
    cluster.label_node("n2", "pool", "gpu").await;
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    // Bound before anybody asked for copies.
    cluster.apply_text(&claim("r", "data", "mode: ReadOnly")).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "r", "Bound").await;
    cluster.change_volume("data", json!({"copies": {"nodeSelector": {"pool": "gpu"}}})).await.unwrap();
    until_said(&cluster, "data", COPIED, "Copied").await;
    let (copy, bound) = (until_copied(&cluster).await, claims.get("r").await.unwrap());
    (cluster, first, second, copy, bound)
}

/// T4: a volume of the name of a copy keeps nobody waiting in silence.
#[tokio::test(flavor = "multi_thread")]
async fn e2_another_volume_with_the_name_of_a_copy_is_named() {
    let (cluster, _first, _second, copy, _) = copied().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    cluster.label_node("n2", "pool", "cpu").await;
    until_gone(&volumes, &copy).await;
    let other = format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {copy}}},
         spec: {{role: other, size: 16Mi}}}}"
    );
    cluster.apply_text(&other).await;
    until_reason(&volumes, &copy, "NoReservation").await;
    cluster.label_node("n2", "pool", "gpu").await;
    let said = until_said(&cluster, "data", COPIED, "CopiesMissing").await;
    assert!(said.contains(&format!("n2: volume {copy} is no copy, and has the name")), "{said}");
    volumes.delete(&copy, &DeleteParams::default()).await.unwrap();
    until_said(&cluster, "data", COPIED, "Copied").await;
}

/// Waits for the value of the label of volume `data` on a node.
async fn until_label(cluster: &Cluster, node: &str, value: Option<&str>) {
    let uid = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().uid().unwrap();
    let key = format!("copies.reservoir.dev/{uid}");
    until(&format!("{value:?} on {node}"), || async {
        let node = cluster.all::<Node>().get(node).await.unwrap();
        (node.labels().get(&key).map(String::as_str) == value).then_some(())
    })
    .await;
}

/// M3, S7, X1, X2. One claim, pods on both nodes, the guard, and a copy that leaves under its pod.
#[tokio::test(flavor = "multi_thread")]
async fn e3_e5_pods_of_one_claim_read_the_copy_of_their_node() {
    let (cluster, first, second, copy, bound) = copied().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let (data_uid, copy_uid) =
        (volumes.get("data").await.unwrap().uid().unwrap(), volumes.get(&copy).await.unwrap().uid().unwrap());
    until_label(&cluster, "n2", Some("ready")).await;
    until_label(&cluster, "n1", None).await;
    let name = bound.status.as_ref().unwrap().persistent_volume.clone().unwrap();
    let pv = cluster.all::<PersistentVolume>().get(&name).await.unwrap();
    let terms = serde_json::to_value(pv.spec.unwrap().node_affinity.unwrap().required.unwrap()).unwrap();
    assert_eq!(
        terms["nodeSelectorTerms"][1]["matchExpressions"],
        json!([{"key": format!("copies.reservoir.dev/{data_uid}"), "operator": "In", "values": ["ready"]}])
    );

    let here = cluster.pod_on(Some("n1"), "team", "here", &["r"]).await;
    let there = cluster.pod_on(Some("n2"), "team", "there", &["r"]).await;
    let original = first.publish(&cluster, &bound, &here, true).await.unwrap();
    let target = second.publish(&cluster, &bound, &there, true).await.unwrap();
    for target in [&original, &target] {
        assert_eq!(std::fs::read(target.join("weights")).unwrap(), content(4));
        let refused = std::fs::write(target.join("never"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(second.backings(), [copy_uid]);
    second.publish(&cluster, &bound, &there, true).await.unwrap();
    let usage = NodeGetVolumeStatsRequest {
        volume_id: format!("{data_uid}.{}", bound.uid().unwrap()),
        volume_path: target.display().to_string(),
        ..Default::default()
    };
    assert!(!second.csi().await.node_get_volume_stats(usage).await.unwrap().into_inner().usage.is_empty());

    // The pods are users of the data set, and the one there of the copy, too.
    let users = async |name: &str, count: u32| {
        until(&format!("{count} users of {name}"), || async {
            let status = status(&cluster, name).await;
            (status.user_count == count)
                .then(|| status.users.iter().map(ToString::to_string).collect::<Vec<_>>())
        })
        .await
    };
    assert_eq!(users(&copy, 1).await, ["team/there"]);
    assert_eq!(users("data", 2).await, ["team/here", "team/there"]);
    let refused =
        async |name: &str| volumes.delete(name, &DeleteParams::default()).await.unwrap_err().to_string();
    let said = refused("data").await;
    assert!(
        said.contains("volume data is in use by 2 pods: team/here, team/there; nothing was changed"),
        "{said}"
    );
    let said = refused(&copy).await;
    assert!(
        said.contains(&format!("volume {copy} is in use by 1 pod: team/there; nothing was changed")),
        "{said}"
    );

    // The node is not selected any more: no new pod, and the one there goes on.
    cluster.label_node("n2", "pool", "cpu").await;
    until_label(&cluster, "n2", None).await;
    let message = until_said(&cluster, &copy, RETIRING, "Retiring").await;
    assert!(message.contains("after the end of pod team/there"), "{message}");
    assert_eq!(std::fs::read(target.join("weights")).unwrap(), content(4));
    second.unpublish(&bound, &there).await.unwrap();
    cluster.end_pod("team", "there").await;
    until_gone(&volumes, &copy).await;
    second.nothing_left().await;

    // A pod that was placed before the label went.
    let late = cluster.pod_on(Some("n2"), "team", "late", &["r"]).await;
    let said = second.publish(&cluster, &bound, &late, true).await.unwrap_err().message().to_owned();
    assert!(
        said.contains("volume data is on node n1, and no complete copy of it is on this node now"),
        "{said}"
    );
    cluster.label_node("n2", "pool", "gpu").await;
    until_label(&cluster, "n2", Some("ready")).await;
    let target = second.publish(&cluster, &bound, &late, true).await.unwrap();
    assert_eq!(std::fs::read(target.join("weights")).unwrap(), content(4));

    first.unpublish(&bound, &here).await.unwrap();
    second.unpublish(&bound, &late).await.unwrap();
    for pod in ["here", "late"] {
        cluster.end_pod("team", pod).await;
    }
    let claims: Api<VolumeClaim> = cluster.within("team");
    claims.delete("r", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "r").await;
    users("data", 0).await;
    until("nobody uses the copy", || async {
        status(&cluster, "data").await.copies.filter(|copies| copies.used == 0).map(drop)
    })
    .await;
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "data").await;
    let labels = cluster.all::<Node>().get("n2").await.unwrap().labels().clone();
    assert!(!labels.keys().any(|key| key.starts_with("copies.reservoir.dev/")), "{labels:?}");
}

/// D4, X2. A node that is lost loses the label, also that of the original; its pods come back on the others.
#[tokio::test(flavor = "multi_thread")]
async fn e3_pods_leave_out_nodes_that_are_lost() {
    let (cluster, _first, second, copy, bound) = copied().await;
    until_label(&cluster, "n2", Some("ready")).await;
    cluster.node("n2", false).await;
    until_label(&cluster, "n2", None).await;
    cluster.node("n2", true).await;
    until_label(&cluster, "n2", Some("ready")).await;
    cluster.node("n1", false).await;
    until_label(&cluster, "n1", Some("away")).await;
    let moved = cluster.pod_on(Some("n2"), "team", "moved", &["r"]).await;
    let target = second.publish(&cluster, &bound, &moved, true).await.unwrap();
    assert_eq!(std::fs::read(target.join("weights")).unwrap(), content(4));
    cluster.node("n1", true).await;
    until_label(&cluster, "n1", None).await;

    // A pod that nobody has counted yet wins against a DELETE (X2).
    cluster.kill_controller().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let none = json!({"status": {"userCount": 0, "users": null}});
    volumes.patch_status(&copy, &PatchParams::default(), &Patch::Merge(&none)).await.unwrap();
    volumes.delete(&copy, &DeleteParams::default()).await.unwrap();
    cluster.start_controller().await;
    let message = until_said(&cluster, &copy, READY, "Destroying").await;
    assert!(message.contains("it waits for pod team/moved to end"), "{message}");
    until_label(&cluster, "n2", None).await;
    assert_eq!(std::fs::read(target.join("weights")).unwrap(), content(4));
    second.unpublish(&bound, &moved).await.unwrap();
    cluster.end_pod("team", "moved").await;
    // It is wanted, so it is made anew.
    let before = volumes.get(&copy).await.unwrap().uid();
    until("another copy", || async {
        volumes.get_opt(&copy).await.unwrap().filter(|now| now.uid() != before)
    })
    .await;
    until_label(&cluster, "n2", Some("ready")).await;
}

/// V10, E4. The copy is on another disk of the node, and takes the place of a volume whose files differ.
#[tokio::test(flavor = "multi_thread")]
async fn e2_e3_a_second_disk_of_the_node_has_a_copy() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let disks = |dir: &std::path::Path| {
        let disk = |name: &str, path: &str| {
            let path = dir.join(path);
            format!(
                "{{name: {name}, path: {}, capacity: 128Mi, requireMount: false, systemReserved: 0}}",
                path.display()
            )
        };
        std::fs::create_dir(dir.join("second")).unwrap();
        format!("[{}, {}]", disk("default", "disk"), disk("second", "second"))
    };
    let agent = Agent::start_copying_between(&cluster, "n1", disks).await;
    for disk in ["n1.default", "n1.second"] {
        until_reason(&cluster.all::<NodeDisk>(), disk, "Ready").await;
    }
    cluster.apply_text(&TEAM.replace("nodeName: n1", "nodeDisk: n1.default")).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    cluster.apply_text(&claim("w", "data", "mode: ReadWrite")).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "w", "Bound").await;
    let bound = claims.get("w").await.unwrap();
    let writer = cluster.pod_on(Some("n1"), "team", "writer", &["w"]).await;
    let target = agent.publish(&cluster, &bound, &writer, false).await.unwrap();
    let words = "all that is to be kept ".repeat(1000);
    std::fs::write(target.join("weights"), &words).unwrap();
    agent.unpublish(&bound, &writer).await.unwrap();
    cluster.end_pod("team", "writer").await;
    cluster.change_volume("data", json!({"sealed": true, "copies": {"ownNode": true}})).await.unwrap();
    let message = until_said(&cluster, "data", COPIED, "CopiesMissing").await;
    assert!(message.contains("n1: nothing is reserved for role eng on a disk that is ready"), "{message}");
    let second = reserve_on_second().replace("nodeName: n2", "nodeDisk: n1.second");
    cluster.apply_text(&second).await;
    until_said(&cluster, "data", COPIED, "Copied").await;
    let copy = until_copied(&cluster).await;
    assert_eq!(status(&cluster, &copy).await.node_disk.as_deref(), Some("n1.second"));

    let early = cluster.pod_on(Some("n1"), "team", "early", &["w"]).await;
    let first = agent.publish(&cluster, &bound, &early, true).await.unwrap();
    let uid = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().uid().unwrap();
    agent.flip(&uid, words.as_bytes());
    cluster.change_volume("data", json!({"verify": "now"})).await.unwrap();
    until_said(&cluster, "data", READY, "CopyDiffers").await;
    let late = cluster.pod_on(Some("n1"), "team", "late", &["w"]).await;
    let target = agent.publish(&cluster, &bound, &late, true).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("weights")).unwrap(), words);
    // The pod of before keeps what it has, also when the kubelet asks again.
    agent.publish(&cluster, &bound, &early, true).await.unwrap();
    assert_ne!(std::fs::read_to_string(first.join("weights")).unwrap(), words);
    for pod in [&early, &late] {
        agent.unpublish(&bound, pod).await.unwrap();
    }
}

/// A7: a node that labels itself would get pods, with their secrets.
#[tokio::test(flavor = "multi_thread")]
async fn a7_nobody_but_the_controller_labels_nodes_as_copies() {
    let cluster = Cluster::start().await;
    cluster.kill_controller().await;
    cluster.node("n1", true).await;
    let nodes: Api<Node> = cluster.all();
    let uid = "0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03";
    let key = format!("copies.reservoir.dev/{uid}");
    let says = |key: &str, value: Value| Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
    let default = PatchParams::default();
    for (key, value) in [(&*key, "ready"), ("copies.reservoir.dev/other", "no")] {
        let said = nodes.patch("n1", &default, &says(key, json!(value))).await.unwrap_err().to_string();
        assert!(
            said.contains("the labels copies.reservoir.dev/* of node n1 are written by Reservoir alone"),
            "{said}"
        );
        // A kubelet writes labels with its status, too.
        let said =
            nodes.patch_status("n1", &default, &says(key, json!(value))).await.unwrap_err().to_string();
        assert!(said.contains("are written by Reservoir alone"), "{said}");
    }
    let other = says("topology.reservoir.dev/node", json!("n2"));
    for said in [nodes.patch("n1", &default, &other).await, nodes.patch_status("n1", &default, &other).await]
    {
        assert!(said.unwrap_err().to_string().contains("says n2, another node"));
    }
    let controller =
        kube::Config::from_custom_kubeconfig(cluster.controller_kubeconfig(), &Default::default()).await;
    let controller: Api<Node> = Api::all(kube::Client::try_from(controller.unwrap()).unwrap());
    controller.patch("n1", &default, &says(&key, json!("ready"))).await.unwrap();
    cluster.label_node("n1", "pool", "gpu").await;
    nodes.patch("n1", &default, &says(&key, Value::Null)).await.unwrap();
}

/// M5, L1. The agent that receives is killed in the middle, then the one that sends starts anew, with another key and port.
#[tokio::test(flavor = "multi_thread")]
async fn e2_a_copy_survives_its_agents() {
    let (cluster, mut first, mut second) = filled(12).await;
    cluster.apply_text(reserve_on_second()).await;
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    cluster.change_volume("data", json!({"copies": {"bytesPerSecond": "1Mi"}})).await.unwrap();
    let copy = until_copied(&cluster).await;
    until_said(&cluster, &copy, READY, "Copying").await;
    cluster.apply_text(&claim("r", &copy, "mode: ReadOnly")).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    let message = until_reason(&claims, "r", "VolumeNotReady").await;
    assert!(message.contains("it is being filled from volume data"), "{message}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    second.kill().await;
    assert_eq!(status(&cluster, &copy).await.digest, None);
    first.kill().await;
    first.run();
    second.run();
    until_said(&cluster, &copy, SEALED, "Sealed").await;
    until_reason(&claims, "r", "Bound").await;
    let (of, is) = (status(&cluster, "data").await, status(&cluster, &copy).await);
    assert_eq!(of.digest, is.digest);
    assert_eq!(is.node.unwrap().copy_failed_from, None);
}

/// A4, A6, A7. A copy by hand, a copy of what is not sealed, and a disk that lies.
#[tokio::test(flavor = "multi_thread")]
async fn e2_nobody_makes_a_copy_by_hand() {
    let cluster = Cluster::start().await;
    let copy = |rest: &str| {
        format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: no}},
            spec: {{role: eng, size: 32Mi, {rest}}}}}"
        )
    };
    for (rest, why) in [
        (
            "shared: {}, sealed: true, copyOf: {name: data, uid: u, digest: d, node: n1}",
            "volume no cannot be made as a copy by hand: write spec.copies in volume data, or leave copyOf out",
        ),
        ("copies: {}", "copies are of a shared volume with files of its own (E2)"),
        (
            "shared: {}, volumeMode: Block, copies: {}",
            "copies are of a shared volume with files of its own (E2)",
        ),
        ("shared: {}, copies: {bytesPerSecond: 1Ki}", "a copy receives at least 1Mi in a second"),
        ("shared: {}, copies: {atOnce: 0}", "spec.copies.atOnce"),
    ] {
        let refused = cluster.try_create(&copy(rest)).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    cluster.try_create(&copy("shared: {}, copies: {}").replace("name: no", "name: yes")).await.unwrap();
    let refused = cluster
        .change_volume("yes", json!({"copyOf": {"name": "d", "uid": "u", "digest": "d", "node": "n"}}))
        .await;
    assert!(refused.unwrap_err().contains("a volume is made as a copy, or is none (E2)"));
}

/// A6. Copies are made and destroyed as their selector changes.
#[tokio::test(flavor = "multi_thread")]
async fn a6_a_change_of_copies_needs_create_and_destroy() {
    let cluster = ask::cluster().await;
    let mut volume = ask::volume("data", "eng");
    volume["spec"]["shared"] = json!({});
    Ask::create(&volume).of(&cluster.client).await.unwrap();
    for (user, verbs, lacks) in [
        ("amy", &["create"][..], Some("destroy")),
        ("bob", &["destroy"], Some("create")),
        ("eve", &["create", "destroy"], None),
    ] {
        ask::grant(&cluster, user, verbs, &["eng"]).await;
        let client = ask::person(&cluster, user).await;
        let answer = Ask::patch(&volume, json!({"spec": {"copies": {"atOnce": 2}}})).of(&client).await;
        match (answer, lacks) {
            (Err(refused), Some(verb)) => {
                assert!(refused.contains(&ask::lacks(user, verb, "eng")), "{refused}")
            }
            (answer, lacks) => assert_eq!((answer.err(), lacks), (None, None), "{user}"),
        }
    }
}
