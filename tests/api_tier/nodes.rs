//! Nodes that come and go: reservations of templates (R7), disks that go with their node (D7), and
//! nodes that could be added (F7).

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use reservoir::api::{
    DiskReservation, NodeDisk, SharedPersistentVolume, TemplateStatus, VolumeClaim, VolumeRole,
};
use reservoir::plan::pvc_provisioner::SELECTED_NODE;
use reservoir::plan::startup_taint::TAINT;
use reservoir_cluster::api::ApiOptions;
use serde_json::json;

use crate::ask::{Ask, bind, grant, person};
use crate::reservations::{refinement, role, text, volume};
use crate::support::{Agent, CONTROLLER_USER, Cluster, Watch, until, until_gone, until_reason};

const TEMPLATE: &str =
    "reservationTemplates: [{name: scratch, size: 64Mi, nodeSelector: {pool: gpu}}], quota: {limit: 256Mi}";

async fn change_role(cluster: &Cluster, name: &str, spec: serde_json::Value) {
    let roles: Api<VolumeRole> = cluster.all();
    roles.patch(name, &PatchParams::default(), &Patch::Merge(&json!({"spec": spec}))).await.unwrap();
}

async fn until_counted(cluster: &Cluster, disks: u32, ready: u32) {
    let wanted = [TemplateStatus { name: "scratch".into(), disks, ready }];
    until(&format!("{ready} of {disks} reservations of the template are ready"), || async {
        let status = cluster.all::<VolumeRole>().get("eng").await.unwrap().status?;
        (status.reservation_templates == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_each_node_of_a_selector_has_its_reservation() {
    let cluster = Cluster::start().await;
    let watch = Watch::safety(&cluster);
    let (all, disks) = (cluster.all::<DiskReservation>(), cluster.all::<NodeDisk>());
    cluster.node("n1", true).await;
    cluster.label_node("n1", "pool", "gpu").await;
    cluster.node("n2", true).await;
    let _agents = (Agent::start(&cluster, "n1", "128Mi").await, Agent::start(&cluster, "n2", "128Mi").await);
    until_reason(&disks, "n1.default", "Ready").await;
    until_reason(&disks, "n2.default", "Ready").await;
    cluster.apply_text(&role("eng", "eng", TEMPLATE)).await;
    until_reason(&all, "eng.scratch.n1.default", "Ready").await;
    until_counted(&cluster, 1, 1).await;
    let made = all.get("eng.scratch.n1.default").await.unwrap().spec;
    assert_eq!(made.principal.as_deref(), Some(CONTROLLER_USER), "R5");
    assert_eq!(all.list(&Default::default()).await.unwrap().items.len(), 1, "n2 has no such label");

    // A node that joins gets its own; a deleted one is made anew.
    cluster.label_node("n2", "pool", "gpu").await;
    until_reason(&all, "eng.scratch.n2.default", "Ready").await;
    until_counted(&cluster, 2, 2).await;
    let before = all.get("eng.scratch.n2.default").await.unwrap().metadata.uid;
    all.delete("eng.scratch.n2.default", &DeleteParams::default()).await.unwrap();
    until("the reservation is made anew", || async {
        let now = all.get_opt("eng.scratch.n2.default").await.unwrap();
        now.filter(|now| now.metadata.uid != before)
    })
    .await;
    until_counted(&cluster, 2, 2).await;

    // Only the template changes the size, on every node.
    let patch = json!({"spec": {"size": "1Mi"}});
    let refused = all
        .patch("eng.scratch.n1.default", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("is of template scratch of VolumeRole eng: change it there"), "{refused}");
    let template = |size: &str, pool: &str| json!({"reservationTemplates": [{"name": "scratch", "size": size, "nodeSelector": {"pool": pool}}]});
    change_role(&cluster, "eng", template("96Mi", "gpu")).await;
    for name in ["eng.scratch.n1.default", "eng.scratch.n2.default"] {
        until(&format!("{name} has 96Mi"), || async {
            // The one that was made anew may have no status yet.
            (text(&all.get(name).await.unwrap().status?.size) == "96Mi").then_some(())
        })
        .await;
    }

    // A node that is no longer selected gives an empty reservation back, and another one once its volumes are gone.
    cluster.apply_text(&volume("v", "eng", "32Mi", "eng.scratch.n1.default")).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "v", "Ready").await;
    change_role(&cluster, "eng", template("16Mi", "cpu")).await;
    until_gone(&all, "eng.scratch.n2.default").await;
    until_counted(&cluster, 0, 0).await;
    assert!(all.get("eng.scratch.n1.default").await.unwrap().metadata.deletion_timestamp.is_none());
    cluster.all::<SharedPersistentVolume>().delete("v", &DeleteParams::default()).await.unwrap();
    until_gone(&all, "eng.scratch.n1.default").await;

    // The end of the templates is the end of the reservations.
    change_role(&cluster, "eng", template("16Mi", "gpu")).await;
    until_counted(&cluster, 2, 2).await;
    let held = cluster.all::<VolumeRole>().delete("eng", &DeleteParams::default()).await.unwrap_err();
    assert!(held.to_string().contains("take its reservationTemplates out first"), "{held}");
    change_role(&cluster, "eng", json!({"reservationTemplates": null})).await;
    until_gone(&all, "eng.scratch.n1.default").await;
    until_gone(&all, "eng.scratch.n2.default").await;
    cluster.quiet_for(Duration::from_secs(2)).await;
    watch.assert_unbroken();
}

/// R7, A1, A5. A template takes disk for its role, and gives it back.
#[tokio::test(flavor = "multi_thread")]
async fn a1_r7_a_template_needs_the_verbs_of_its_reservations() {
    let cluster = crate::ask::cluster().await;
    let maker = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "maker"},
        "rules": [{"apiGroups": ["reservoir.dev"], "resources": ["volumeroles"],
            "verbs": ["get", "create", "patch", "delete"]}]});
    cluster.apply_text(&maker.to_string()).await;
    bind(&cluster, "maker", "User", "jane").await;
    grant(&cluster, "jane", &["use"], &["eng"]).await;
    let jane = person(&cluster, "jane").await;
    let object = |templates: serde_json::Value| {
        json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeRole", "metadata": {"name": "eng"},
            "spec": {"role": "eng/ml", "reservationTemplates": templates}})
    };
    let (with, without) = (object(json!([{"name": "t", "size": "1Gi"}])), object(json!([])));
    let refused = Ask::apply(&with).of(&jane).await.unwrap_err().to_string();
    assert!(
        refused.contains("user jane lacks the verb reserve on volumeroles.reservoir.dev/eng/ml"),
        "{refused}"
    );
    grant(&cluster, "jane", &["reserve", "use"], &["eng"]).await;
    until("jane may reserve", || async { Ask::apply(&with).of(&jane).await.ok() }).await;
    let refused = Ask::apply(&without).of(&jane).await.unwrap_err().to_string();
    assert!(refused.contains("user jane lacks the verb unreserve"), "{refused}");
    let refused = Ask::delete(&with).of(&jane).await.unwrap_err().to_string();
    assert!(refused.contains("user jane lacks the verb unreserve"), "{refused}");
    Ask::patch(&with, json!({"spec": {"weight": 2}})).of(&jane).await.unwrap();
    grant(&cluster, "jane", &["unreserve", "reserve"], &["eng"]).await;
    until("jane may unreserve", || async { Ask::delete(&with).of(&jane).await.ok() }).await;
}

const CLASS: &str = "
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: eng}, provisioner: csi.reservoir.dev,
 parameters: {role: eng}, volumeBindingMode: WaitForFirstConsumer}
---
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: team-eng}, rules: [
 {apiGroups: [reservoir.dev], resources: [volumeroles], resourceNames: [eng], verbs: [create, use]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: team-eng},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: team-eng},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:team'}]}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: team}, spec: {serviceName: db, replicas: 1,
 selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: none,
 volumeMounts: [{name: data, mountPath: /data}]}]}},
 volumeClaimTemplates: [{metadata: {name: data}, spec: {storageClassName: eng, accessModes: [ReadWriteOnce],
 resources: {requests: {storage: 32Mi}}}}]}}
";

/// Disks that go with their node after so many seconds. The second one is nowhere.
fn disks(dir: &Path, grace: u32) -> String {
    let dir = dir.display();
    format!(
        "[{{name: default, path: {dir}/disk, capacity: 256Mi, requireMount: false, systemReserved: 0, lifetime: Node, \
         nodeGraceSeconds: {grace}, reservations: [{{role: fixed, size: 16Mi}}]}}, \
         {{name: lost, path: {dir}/nowhere/disk, capacity: 16Mi, lifetime: Node, nodeGraceSeconds: {grace}}}]"
    )
}

/// Waits until PersistentVolumeClaim `name`, other than that with UID `before`, is there; plays the scheduler, and returns
/// its UID once it is bound.
async fn bind_pvc(cluster: &Cluster, name: &str, before: Option<&str>, node: &str) -> String {
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    let uid = until(&format!("PersistentVolumeClaim {name} is new"), || async {
        let pvc = pvcs.get_opt(name).await.unwrap()?;
        pvc.uid().filter(|uid| Some(uid.as_str()) != before)
    })
    .await;
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
    pvcs.patch(name, &PatchParams::default(), &Patch::Merge(&selected)).await.unwrap();
    until(&format!("PersistentVolumeClaim {name} is bound"), || async {
        let pvc = pvcs.get(name).await.unwrap();
        (pvc.status?.phase.as_deref() == Some("Bound")).then_some(())
    })
    .await;
    uid
}

/// D7: NodeDisk, volumes, claims and reservations of a node that an autoscaler removed.
#[tokio::test(flavor = "multi_thread")]
async fn d7_a_node_that_leaves_takes_its_disk_along() {
    let cluster = Cluster::start().await;
    let watch = Watch::safety(&cluster);
    let (all, nodes) = (cluster.all::<DiskReservation>(), cluster.all::<Node>());
    let (node_disks, volumes) = (cluster.all::<NodeDisk>(), cluster.all::<SharedPersistentVolume>());
    let mut agents = vec![];
    for node in ["n1", "n2"] {
        cluster.node(node, true).await;
        agents.push(Agent::start_on_node(&cluster, node, |dir| disks(dir, 3)).await);
        until_reason(&node_disks, &format!("{node}.default"), "Ready").await;
        until_reason(&node_disks, &format!("{node}.lost"), "DiskRefused").await;
    }
    cluster.label_node("n1", "zone", "a").await;
    cluster.apply_text(&role("eng", "eng", "reservationTemplates: [{name: each, size: 128Mi}]")).await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: floats},
             spec: {role: ops, size: 32Mi, nodeSelector: {zone: a}}}",
        )
        .await;
    until_reason(&all, "floats", "Ready").await;
    cluster.apply_text(&refinement("inner", "ops/x", "16Mi", "floats")).await;
    for name in ["inner", "eng.each.n1.default", "eng.each.n2.default", "n1.default.fixed"] {
        until_reason(&all, name, "Ready").await;
    }
    cluster.label_node("n2", "zone", "a").await;

    // A volume with a claim, a volume in a refinement, and the volume of a StatefulSet.
    cluster.apply_text(CLASS).await;
    cluster.apply_text(&volume("v", "eng", "32Mi", "eng.each.n1.default")).await;
    cluster.apply_text(&volume("w", "ops/x", "16Mi", "inner")).await;
    until_reason(&volumes, "v", "Ready").await;
    until_reason(&volumes, "w", "Ready").await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: c, namespace: team},
             spec: {role: eng, volume: v}}",
        )
        .await;
    until_reason(&cluster.within::<VolumeClaim>("team"), "c", "Bound").await;
    cluster.pod("team", "waits", &["c"]).await;
    let first = bind_pvc(&cluster, "data-db-0", None, "n1").await;
    let kept = agents[0].backings();
    assert_eq!(kept.len(), 3);

    // The autoscaler removes the node.
    agents[0].kill().await;
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    until_gone(&node_disks, "n1.lost").await;
    until_gone(&node_disks, "n1.default").await;
    for name in ["v", "w"] {
        until_gone(&volumes, name).await;
    }
    until_gone(&volumes, &format!("pvc-{first}")).await;
    for name in ["eng.each.n1.default", "n1.default.fixed"] {
        until_gone(&all, name).await;
    }
    let said = until_reason(&cluster.within::<VolumeClaim>("team"), "c", "NodeGone").await;
    assert_eq!(
        said,
        "node n1 left the cluster, and volume v with its data: delete this claim, and claim another volume"
    );
    for name in ["floats", "inner"] {
        until(&format!("{name} is placed anew"), || async {
            let status = all.get(name).await.unwrap().status?;
            (status.node_disk.as_deref() == Some("n2.default")).then_some(())
        })
        .await;
        until_reason(&all, name, "Ready").await;
    }
    // Kubernetes deletes the pods of a node that is gone.
    cluster.end_pod("team", "db-0").await;
    bind_pvc(&cluster, "data-db-0", Some(&first), "n2").await;
    for (kind, name) in [("SharedPersistentVolume", "v"), ("PersistentVolumeClaim", "data-db-0")] {
        let events: Api<Event> = Api::all(cluster.client.clone());
        until(&format!("an event NodeGone of {kind} {name}"), || async {
            let all = events.list(&Default::default()).await.unwrap();
            let is_it = |event: &&Event| {
                let of = event.regarding.clone().unwrap_or_default();
                event.reason.as_deref() == Some("NodeGone")
                    && (of.kind.as_deref(), of.name.as_deref()) == (Some(kind), Some(name))
            };
            all.iter().find(is_it).map(drop)
        })
        .await;
    }
    assert_eq!(agents[0].backings(), kept, "X9: nothing was erased");
    cluster.quiet_for(Duration::from_secs(2)).await;
    watch.assert_unbroken();
}

/// D7, X9. A Node that somebody deletes goes, and its machine runs on.
#[tokio::test(flavor = "multi_thread")]
async fn d7_an_agent_that_runs_on_erases_nothing() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start_on_node(&cluster, "n1", |dir| disks(dir, 3)).await;
    let (node_disks, volumes) = (cluster.all::<NodeDisk>(), cluster.all::<SharedPersistentVolume>());
    until_reason(&node_disks, "n1.default", "Ready").await;
    cluster.apply_text(&role("eng", "eng", "reservationTemplates: [{name: each, size: 64Mi}]")).await;
    until_reason(&cluster.all::<DiskReservation>(), "eng.each.n1.default", "Ready").await;
    for (name, rest) in [("plain", ""), ("kept", ", keepFor: 24h")] {
        cluster
            .apply_text(&format!(
                "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {name}}},
                 spec: {{role: eng, size: 16Mi, reservation: eng.each.n1.default{rest}}}}}"
            ))
            .await;
        until_reason(&volumes, name, "Ready").await;
    }
    let kept = agent.backings();
    assert_eq!(kept.len(), 2);
    cluster.all::<Node>().delete("n1", &DeleteParams::default()).await.unwrap();
    for name in ["plain", "kept"] {
        until_gone(&volumes, name).await;
    }
    cluster.quiet_for(Duration::from_secs(2)).await;
    assert_eq!(agent.backings(), kept);
}

/// D7: in doubt the disk stays. A new machine under an old name ends the old disk.
#[tokio::test(flavor = "multi_thread")]
async fn d7_a_node_that_comes_back_keeps_its_data() {
    let cluster = Cluster::start().await;
    let (all, nodes, node_disks) =
        (cluster.all::<DiskReservation>(), cluster.all::<Node>(), cluster.all::<NodeDisk>());
    cluster.node("n1", true).await;
    let mut agent = Agent::start_on_node(&cluster, "n1", |dir| disks(dir, 4)).await;
    until_reason(&node_disks, "n1.default", "Ready").await;
    cluster.apply_text(&role("eng", "eng", "reservationTemplates: [{name: each, size: 64Mi}]")).await;
    until_reason(&all, "eng.each.n1.default", "Ready").await;
    cluster.apply_text(&volume("v", "eng", "32Mi", "eng.each.n1.default")).await;
    let volumes = cluster.all::<SharedPersistentVolume>();
    until_reason(&volumes, "v", "Ready").await;
    let is_missed = async |is: bool| {
        until(&format!("the Node is missed: {is}"), || async {
            let status = node_disks.get("n1.default").await.unwrap().status.unwrap();
            (status.missing_node.is_some() == is).then_some(())
        })
        .await;
    };

    // Back with its disk, within the grace period.
    agent.kill().await;
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    is_missed(true).await;
    let said = until_reason(&node_disks, "n1.default", "NodeUnreachable").await;
    assert!(said.contains("does not come back with its disk within 4 seconds"), "{said}");
    cluster.node("n1", true).await;
    is_missed(false).await;
    agent.run_on_node(&cluster).await;
    until_reason(&volumes, "v", "Ready").await;
    let uid = nodes.get("n1").await.unwrap().uid();
    until("the NodeDisk has the UID of the new Node", || async {
        (node_disks.get("n1.default").await.unwrap().spec.node_uid == uid).then_some(())
    })
    .await;

    // Back without its agent: nobody knows whether the disk is there, so it stays.
    agent.kill().await;
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    cluster.node("n1", true).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let disk = node_disks.get("n1.default").await.unwrap();
    assert!(!disk.spec.gone && disk.status.unwrap().missing_node.is_none());

    // A new machine with the old name.
    let id = disk.spec.disk_id;
    std::fs::rename(agent.dir.join("disk"), agent.dir.join("old")).unwrap();
    std::fs::create_dir(agent.dir.join("disk")).unwrap();
    agent.run_on_node(&cluster).await;
    until_gone(&volumes, "v").await;
    until("the new disk is the node's", || async {
        let now = node_disks.get_opt("n1.default").await.unwrap()?;
        (now.spec.disk_id != id && !now.spec.gone).then_some(())
    })
    .await;
    until_reason(&all, "eng.each.n1.default", "Ready").await;
    assert_eq!(
        std::fs::read_dir(agent.dir.join("old/volumes")).unwrap().count(),
        1,
        "X9: nothing was erased"
    );
}

/// F7, P2: kube-scheduler itself, which is what cluster-autoscaler runs for a node that it imagines.
#[tokio::test(flavor = "multi_thread")]
async fn f7_a_pod_fits_on_a_node_that_could_be_added() {
    let mut cluster = Cluster::start().await;
    cluster.apply_text(CLASS).await;
    cluster
        .apply_text(
            "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: csi.reservoir.dev},
             spec: {attachRequired: false, storageCapacity: true}}",
        )
        .await;
    let template =
        "reservationTemplates: [{name: each, size: 64Mi, nodeSelector: {pool: gpu}}], quota: {limit: 96Mi}";
    cluster.apply_text(&role("eng", "eng", template)).await;
    let capacities: Api<CSIStorageCapacity> = Api::all(cluster.client.clone());
    let until_capacity = async |wanted: &str| {
        until(&format!("new nodes have {wanted}"), || async {
            let all = capacities.list(&Default::default()).await.unwrap().items;
            all.into_iter().find(|it| it.maximum_volume_size.as_ref().is_some_and(|size| size.0 == wanted))
        })
        .await
    };
    let told = until_capacity("64Mi").await;
    let labels = json!(told.node_topology.unwrap().match_labels.unwrap());
    assert_eq!(labels, json!({"cluster-autoscaler.kubernetes.io/template-node": "true", "pool": "gpu"}));

    // A Node as cluster-autoscaler imagines it, and one of the same labels that is really there, without a disk.
    for (name, is_template) in [("real", "false"), ("template", "true")] {
        cluster.node(name, true).await;
        cluster.label_node(name, "pool", "gpu").await;
        cluster.label_node(name, "cluster-autoscaler.kubernetes.io/template-node", is_template).await;
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        let status = json!({"status": {"capacity": room, "allocatable": room}});
        let nodes: Api<Node> = cluster.all();
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        // Admission marks each new Node as not ready, and no kubelet runs.
        let schedulable = Patch::Merge(json!({"spec": {"taints": null}}));
        nodes.patch(name, &PatchParams::default(), &schedulable).await.unwrap();
    }
    // The controller would find out at once that the node is none.
    cluster.kill_controller().await;
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    let large = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "large", "namespace": "team"},
        "spec": {"storageClassName": "eng", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "65Mi"}}}});
    cluster.apply_text(&large.to_string()).await;
    cluster.pod("team", "large", &["large"]).await;
    cluster.server.start_scheduler().await.unwrap();
    let selected = until("the scheduler chose a node for the StatefulSet", || async {
        let pvc = pvcs.get_opt("data-db-0").await.unwrap()?;
        pvc.annotations().get(SELECTED_NODE).cloned()
    })
    .await;
    assert_eq!(selected, "template");
    let events: Api<Event> = cluster.within("team");
    until("the large one fits nowhere", || async {
        let all = events.list(&Default::default()).await.unwrap().items;
        let is_it = |event: &&Event| {
            event.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some("large")
                && event.note.as_ref().is_some_and(|note| note.contains("did not have enough free storage"))
        };
        all.iter().find(is_it).map(drop)
    })
    .await;
    assert!(!pvcs.get("large").await.unwrap().annotations().contains_key(SELECTED_NODE));

    // Q2: one more reservation would be beyond the limit, so no node is to be added.
    cluster.start_controller().await;
    change_role(&cluster, "eng", json!({"quota": {"limit": "63Mi"}})).await;
    until_capacity("0").await;
}

/// F7, A7: the taint of a fresh node goes when the agent serves, and the controller may change nothing else of a Node.
#[tokio::test(flavor = "multi_thread")]
async fn f7_the_taint_of_a_fresh_node_goes_with_its_agent() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: false, audit: false }).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/files/admission-nodes.yaml");
    let policy = std::fs::read_to_string(file).unwrap().replace("CONTROLLER_USER", CONTROLLER_USER);
    cluster.apply_text(&policy).await;
    cluster.node("n1", true).await;
    let nodes: Api<Node> = cluster.all();
    let controller =
        kube::Config::from_custom_kubeconfig(cluster.controller_kubeconfig(), &Default::default()).await;
    let controller: Api<Node> = Api::all(kube::Client::try_from(controller.unwrap()).unwrap());
    let taints = json!({"spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}]}});
    nodes.patch("n1", &PatchParams::default(), &Patch::Merge(&taints)).await.unwrap();
    for wrong in [
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!({"spec": {"unschedulable": true}}),
        json!({"spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]}}),
        json!({"spec": {"taints": null}}),
        json!({"metadata": {"labels": {"copies.reservoir.dev/0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03": "no"}}}),
        json!({"metadata": {"labels": {"copies.reservoir.dev/x": "ready"}}}),
    ] {
        until(&format!("{wrong} is refused"), || async {
            let dry = PatchParams { dry_run: true, ..Default::default() };
            let refused = controller.patch("n1", &dry, &Patch::Merge(&wrong)).await.err()?.to_string();
            let words =
                ["may change nothing of node n1 but its taint", "writes no other labels to node n1 than"];
            words.iter().any(|words| refused.contains(words)).then_some(())
        })
        .await;
    }

    let right = json!({"spec": {"taints": [{"key": "other", "effect": "NoExecute"}]}});
    let label = json!({"metadata": {"labels": {"copies.reservoir.dev/0f3c8a52-6d1e-4b7a-9c55-2e8d4f6a1b03": "ready"}}});
    for right in [right, label] {
        let dry = PatchParams { dry_run: true, ..Default::default() };
        controller.patch("n1", &dry, &Patch::Merge(&right)).await.unwrap();
    }

    cluster.start_controller_with(Some("component=agent")).await;
    let _agent = Agent::start(&cluster, "n1", "128Mi").await;
    until("the NodeDisk is there", || async {
        cluster.all::<NodeDisk>().get_opt("n1.default").await.unwrap()
    })
    .await;
    let keys = async || -> Vec<String> {
        let spec = nodes.get("n1").await.unwrap().spec.unwrap();
        spec.taints.unwrap_or_default().into_iter().map(|taint| taint.key).collect()
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(keys().await, [TAINT, "other"], "no agent serves");
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}";
    until("the namespace is there", || async { cluster.try_apply(account).await.ok() }).await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: default, labels: {component: agent}}, \
               spec: {nodeName: n1, containers: [{name: agent, image: agent}]}}";
    cluster.apply_text(pod).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let pods: Api<k8s_openapi::api::core::v1::Pod> = cluster.within("default");
    pods.patch_status("agent", &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
    until("the taint is gone", || async { (keys().await == ["other"]).then_some(()) }).await;
}
