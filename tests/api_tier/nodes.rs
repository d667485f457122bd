//! Nodes that come and go: reservations of templates (R7).

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume, TemplateStatus, VolumeRole};
use serde_json::json;

use crate::ask::{Ask, bind, grant, person};
use crate::reservations::{role, text, volume};
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
            (text(&all.get(name).await.unwrap().status.unwrap().size) == "96Mi").then_some(())
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
    cluster.quiet_for(std::time::Duration::from_secs(2)).await;
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
