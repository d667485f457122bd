//! The rights that the chart gives suffice for all actions of controller and agent. The test gives them no other
//! rights. tests/chart.rs and agent_rights.rs test that further actions are refused.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::config::Kubeconfig;
use reservoir::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeRole,
};
use reservoir::controller;
use reservoir::plan::pvc_provisioner::SELECTED_NODE;
use reservoir::telemetry::Metrics;
use reservoir_cluster::api::ApiOptions;
use reservoir_cluster::chart;
use serde_json::json;

use crate::support::*;

/// The chart's roles and bindings, and a StorageClass.
fn rbac() -> String {
    let class =
        ["storageClasses[0].name=eng", "storageClasses[0].role=eng", "storageClasses[0].namespaces={team}"];
    let rendered = chart::render(&class).unwrap();
    let wanted = |document: &&str| {
        document.contains("apiVersion: rbac.authorization.k8s.io/v1")
            || document.contains("kind: StorageClass")
    };
    rendered.split("\n---\n").filter(wanted).collect::<Vec<_>>().join("\n---\n")
}

/// A kubeconfig with the rights of one user only.
fn plain(mut kubeconfig: Kubeconfig, user: &str) -> Kubeconfig {
    for auth_info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth_info.impersonate = Some(user.to_owned());
        auth_info.impersonate_groups = None;
    }
    kubeconfig
}

const OBJECTS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: VolumeRole\nmetadata: {name: eng}\nspec: {role: eng, quota: {limit: 1Gi}}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: DiskReservation\nmetadata: {name: eng}\n\
     spec: {role: eng, size: 256Mi}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: RoleSubscription\nmetadata: {name: eng, namespace: team}\n\
     spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: data}\n\
     spec: {role: eng, size: 32Mi, shared: {}}\n";
const CLAIM: &str = "apiVersion: reservoir.dev/v1alpha1\nkind: VolumeClaim\nmetadata: {name: data, namespace: team}\n\
     spec: {role: eng, volume: data}\n";

/// A1, A4.
#[tokio::test(flavor = "multi_thread")]
async fn a1_a4_the_charts_grants_suffice() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: true, audit: true }).await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: reservoir-system}}").await;
    cluster.apply_text(&rbac()).await;
    let kubeconfig = plain(cluster.server.kubeconfig().unwrap(), CONTROLLER_USER);
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let options = controller::Options {
        identity: "test".into(),
        namespace: "reservoir-system".into(),
        replaces_pods: false,
        untaints_nodes: false,
        labels_nodes: false,
        concurrency: 8,
        agents: None,
        look_again: controller::LOOK_AGAIN,
        wake: true,
        now: jiff::Timestamp::now,
    };
    let controller = tokio::spawn(controller::run(client, options, Arc::new(Metrics::default())));

    cluster.node("n1", true).await;
    let mut agent = Agent::start_process(&cluster, "n1", "1Gi");
    agent.kill().await;
    let (path, yaml) = (agent.dir.join("kubeconfig"), agent.dir.join("agent.yaml"));
    let of_agent = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::write(&path, serde_json::to_vec(&plain(of_agent, AGENT_USER)).unwrap()).unwrap();
    let without = std::fs::read_to_string(&yaml).unwrap();
    let with =
        without.replace("systemReserved: 0", "systemReserved: 0, reservations: [{role: ops, size: 64Mi}]");
    assert_ne!(with, without);
    std::fs::write(&yaml, with).unwrap();
    agent.run();

    let (disks, reservations) = (cluster.all::<NodeDisk>(), cluster.all::<DiskReservation>());
    let (volumes, claims) = (cluster.all::<SharedPersistentVolume>(), cluster.within::<VolumeClaim>("team"));
    until_reason(&disks, "n1.default", "Ready").await;
    until_reason(&reservations, "n1.default.ops", "Ready").await;
    cluster.apply_text(OBJECTS).await;
    until_reason(&volumes, "data", "Ready").await;
    until_reason(&cluster.within::<RoleSubscription>("team"), "eng", "Subscribed").await;
    let roles = cluster.all::<VolumeRole>();
    until("the role is summed up", || async { roles.get("eng").await.unwrap().status }).await;
    cluster.apply_text(CLAIM).await;
    until_reason(&claims, "data", "Bound").await;
    let (claim, pod) = (claims.get("data").await.unwrap(), cluster.pod("team", "p", &["data"]).await);
    agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    let larger = Patch::Merge(json!({"spec": {"size": "64Mi"}}));
    volumes.patch("data", &PatchParams::default(), &larger).await.unwrap();
    until("it grew, or only CAP_SYS_RESOURCE is missing", || async {
        let node = volumes.get("data").await.unwrap().status?.node?;
        (node.size?.as_str() == "64Mi" || node.resize_failed.is_some()).then_some(())
    })
    .await;
    agent.unpublish(&claim, &pod).await.unwrap();
    cluster.end_pod("team", "p").await;

    // The volume is retired, so the controller deletes it as soon as no claim is left.
    let retire = Patch::Merge(json!({"spec": {"retire": true}}));
    volumes.patch("data", &PatchParams::default(), &retire).await.unwrap();
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    until_gone(&volumes, "data").await;
    assert_eq!(cluster.all::<PersistentVolume>().list(&Default::default()).await.unwrap().items, []);
    let left = cluster.within::<PersistentVolumeClaim>("team").list(&Default::default()).await.unwrap();
    assert_eq!(left.items, []);
    // A PersistentVolumeClaim of the class, from its volume's creation to its end. In between, one that is too large.
    let pvcs = cluster.within::<PersistentVolumeClaim>("team");
    for (name, size) in [("small", "32Mi"), ("large", "1Gi")] {
        let pvc = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "team"},
            "spec": {"storageClassName": "eng", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}}}});
        cluster.apply_text(&pvc.to_string()).await;
        let selected = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}}));
        pvcs.patch(name, &PatchParams::default(), &selected).await.unwrap();
    }
    until("it is bound", || async {
        (pvcs.get("small").await.unwrap().status?.phase.as_deref() == Some("Bound")).then_some(())
    })
    .await;
    until("the scheduler is to look for another node", || async {
        let pvc = pvcs.get("large").await.unwrap();
        (!pvc.annotations().contains_key(SELECTED_NODE)).then_some(())
    })
    .await;
    let more = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": "48Mi"}}}}));
    pvcs.patch("small", &PatchParams::default(), &more).await.unwrap();
    until("it grew", || async {
        (pvcs.get("small").await.unwrap().status?.capacity?["storage"].0 == "48Mi").then_some(())
    })
    .await;
    for name in ["small", "large"] {
        pvcs.delete(name, &DeleteParams::default()).await.unwrap();
    }
    until("its volume is gone", || async {
        volumes.list(&Default::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    reservations.delete("eng", &DeleteParams::default()).await.unwrap();
    until_gone(&reservations, "eng").await;
    agent.kill().await;
    std::fs::write(&yaml, without).unwrap();
    agent.run();
    until_gone(&reservations, "n1.default.ops").await;
    agent.nothing_left().await;

    let events: Vec<Event> =
        kube::Api::all(cluster.client.clone()).list(&Default::default()).await.unwrap().items;
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("Destroyed")), "{events:#?}");
    let log = std::fs::read_to_string(agent.dir.join("agent.log")).unwrap();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    let refused: Vec<_> = cluster
        .writes()
        .into_iter()
        .filter(|write| {
            write.code == 403 && !write.user_agent.starts_with("kube-") && write.user_agent != "test"
        })
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    controller.abort();
}
