//! When nothing changes, nobody writes. Every kind reports its state (T1, T2).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use reservoir::api::{NodeDisk, SharedPersistentVolume, VolumeClaim};
use reservoir::plan::transition::LASTING;
use reservoir_cluster::api::ApiOptions;
use serde_json::{Value, json};

use crate::support::{Agent, Cluster, everything, until, until_reason};

/// The time without a write of Reservoir.
const IDLE: Duration = Duration::from_secs(60);

fn ready(object: &DynamicObject) -> Value {
    let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default()
}

/// Reservoir's events, and the count of each.
async fn told(cluster: &Cluster) -> BTreeMap<String, i32> {
    let events = Api::<Event>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
    let ours = events
        .iter()
        .filter(|e| e.reporting_controller.as_deref().is_some_and(|by| by.starts_with("reservoir-")));
    ours.map(|e| (e.name_any(), e.series.as_ref().map_or(1, |s| s.count))).collect()
}

/// O2, T1, T2.
#[tokio::test(flavor = "multi_thread")]
async fn t2_an_idle_cluster_is_not_written_to() {
    let mut cluster = Cluster::bare(ApiOptions { controller_manager: true, audit: true }).await;
    // Everything is looked at several times meanwhile.
    cluster.look_again = Duration::from_secs(5);
    cluster.start_controller().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "4Gi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    // Waiting objects exist, too: a reservation that is too large, and a claim to another claim's volume.
    for step in [
        "01-reservation",
        "02-reservation-too-large",
        "03-volumes",
        "04-subscriptions",
        "05-claims",
        "12-refinement",
        "13-quota",
    ] {
        cluster.example(&format!("{step}.yaml")).await;
    }
    let (a, b): (Api<VolumeClaim>, Api<VolumeClaim>) = (cluster.within("team-a"), cluster.within("team-b"));
    for (claims, name) in [(&a, "datasets"), (&b, "datasets"), (&a, "scratch")] {
        until_reason(claims, name, "Bound").await;
    }
    cluster.example("09-second-claim.yaml").await;
    until_reason(&b, "scratch", "VolumeHeld").await;
    let pods = [("team-a", "writer", false), ("team-b", "reader", true)];
    for (namespace, name, read_only) in pods {
        let pod = cluster.pod(namespace, name, &["datasets"]).await;
        let claim = cluster.within::<VolumeClaim>(namespace).get("datasets").await.unwrap();
        agent.publish(&cluster, &claim, &pod, read_only).await.unwrap();
    }
    let volumes = cluster.all::<SharedPersistentVolume>();
    until("the pods are counted", || async {
        (volumes.get("datasets").await.unwrap().status.unwrap().user_count == 2).then_some(())
    })
    .await;
    cluster.quiet_for(Duration::from_secs(3)).await;
    // A wait that lasts is an event by then (F2).
    tokio::time::sleep(LASTING + Duration::from_secs(3)).await;

    let (before, events, writes) = (everything(&cluster).await, told(&cluster).await, cluster.our_writes());
    assert!(
        writes.iter().any(|w| w.user_agent == crate::support::CONTROLLER_AGENT),
        "the log tells them apart"
    );
    assert!(writes.iter().any(|w| w.user_agent == crate::support::AGENT_AGENT), "the log tells them apart");
    tokio::time::sleep(IDLE).await;
    let since = cluster.our_writes().split_off(writes.len());
    assert!(since.is_empty(), "idle for {IDLE:?}, and yet: {since:#?}");
    assert_eq!(told(&cluster).await, events, "nothing new was told");

    // A new controller and a new agent write nothing either, and change no transition time.
    cluster.kill_controller().await;
    cluster.start_controller().await;
    agent.kill().await;
    agent.run();
    agent.csi().await;
    let late =
        "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: late}, spec: {role: late}}";
    cluster.apply_text(late).await;
    until_reason(&cluster.all::<reservoir::api::VolumeRole>(), "late", "Ready").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let since = cluster.our_writes().split_off(writes.len());
    assert_eq!(since.len(), 1, "only the new role was written: {since:#?}");
    let mut after = everything(&cluster).await;
    assert!(after.remove("VolumeRole /late").is_some());
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, object) in &after {
        assert_eq!(object.resource_version(), before[name].resource_version(), "{name}");
        assert_eq!(ready(object)["lastTransitionTime"], ready(&before[name])["lastTransitionTime"], "{name}");
    }

    // T1: every kind has `Ready`, with the observed generation.
    for crd in reservoir::api::crds() {
        let kind = format!("{} ", crd.spec.names.kind);
        assert!(after.keys().any(|name| name.starts_with(&kind)), "there is no {kind}to look at");
    }
    for (name, object) in &after {
        let ready = ready(object);
        for field in ["status", "reason", "message", "lastTransitionTime"] {
            assert!(ready[field].as_str().is_some_and(|text| !text.is_empty()), "{name}: {field} of {ready}");
        }
        // An offer is written as a whole, by its only writer, so it has no separate spec to observe.
        if !name.starts_with("VolumeOffer") {
            assert_eq!(ready["observedGeneration"], json!(object.metadata.generation), "{name}");
        }
    }
    println!("{} objects, {} writes until all stood, none in {IDLE:?}", after.len(), writes.len());

    // A new generation is observed. The condition does not change, so its time stays.
    let policy = json!({"spec": {"erasePolicy": "Zero"}});
    let params = kube::api::PatchParams::default();
    let changed = volumes.patch("datasets", &params, &kube::api::Patch::Merge(&policy)).await.unwrap();
    assert_eq!(changed.metadata.generation, Some(2));
    until("the new generation is observed", || async {
        let now = volumes.get("datasets").await.unwrap().status.unwrap();
        let ready = reservoir::api::condition::get(&now.conditions, "Ready").cloned().unwrap();
        let then = ready_time(&before["SharedPersistentVolume /datasets"]);
        assert_eq!(json!(ready.last_transition_time), then);
        (ready.observed_generation == Some(2)).then_some(())
    })
    .await;
}

fn ready_time(object: &DynamicObject) -> Value {
    ready(object)["lastTransitionTime"].clone()
}

const REFUSED: &str = "
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: refused}, spec: {
  matchConstraints: {resourceRules: [{apiGroups: [reservoir.dev], apiVersions: [v1alpha1], operations: [UPDATE],
    resources: [volumeclaims/status]}]},
  validations: [{expression: 'false', message: nobody reports}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: refused},
 spec: {policyName: refused, validationActions: [Deny]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
";

/// The API server refuses a write by a user's policy. An event reports the refusal, once for any number of repeated
/// reconciles.
#[tokio::test(flavor = "multi_thread")]
async fn t2_a_refused_write_is_told_once() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: true, audit: true }).await;
    cluster.apply_text(REFUSED).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    let claim = |name: &str| {
        format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}}, \
             spec: {{role: eng, volume: none}}}}"
        )
    };
    cluster.apply_text(&claim("probe")).await;
    until("the policy is in force", || async {
        let status = Patch::Merge(json!({"status": {"phase": "Pending"}}));
        claims.patch_status("probe", &PatchParams::default(), &status).await.err()
    })
    .await;
    cluster.start_controller().await;
    cluster.apply_text(&claim("c")).await;
    let refused = async || -> Vec<i32> {
        let events = Api::<Event>::namespaced(cluster.client.clone(), "team").list(&Default::default()).await;
        let refused = events.unwrap().into_iter().filter(|e| e.reason.as_deref() == Some("Refused"));
        let ours = refused.filter(|e| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some("c"));
        ours.map(|e| e.series.map_or(1, |s| s.count)).collect()
    };
    until("the refusal is reported", || async { (!refused().await.is_empty()).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(refused().await, [1], "three tries later");
}

/// An event's name is its object's and some characters more, and a name ends at 253.
#[tokio::test(flavor = "multi_thread")]
async fn t2_an_object_with_the_longest_name_has_events() {
    let cluster = Cluster::bare(ApiOptions::default()).await;
    cluster.start_controller().await;
    let names = [235, 236, 237, 240, 253].map(|length| "r".repeat(length));
    for name in &names {
        cluster
            .apply_text(&format!(
                "{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: {name}}}, spec: {{role: eng, size: 1Gi}}}}"
            ))
            .await;
    }
    until("each reservation has an event", || async {
        let events =
            Api::<Event>::namespaced(cluster.client.clone(), "default").list(&Default::default()).await;
        let about: Vec<_> = events.unwrap().into_iter().filter_map(|e| e.regarding?.name).collect();
        names.iter().all(|name| about.contains(name)).then_some(())
    })
    .await;
}
