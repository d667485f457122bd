//! Claims whose PersistentVolumeClaim is deleted: the PersistentVolumeClaim comes back without help (C5, L1).

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use reservoir::api::{MANAGED_BY, SharedPersistentVolume, VolumeClaim};
use reservoir_cluster::api::ApiOptions;
use serde_json::json;

use crate::kept::TEAM;
use crate::support::{Agent, Cluster, one_node, until, until_gone, until_reason};

fn claim(name: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
        spec: {{role: eng, volume: data}}}}"
    )
}

/// A node with an agent, and namespace `team` with its volume `data`.
async fn start() -> (Cluster, Agent) {
    let (cluster, agent) = one_node("128Mi").await;
    cluster.apply_text(TEAM).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    (cluster, agent)
}

/// C5, L1. The PersistentVolumeClaim is deleted once it is bound, or while Kubernetes binds it. The test repeats this
/// many times, since the controllers race each time.
#[tokio::test(flavor = "multi_thread")]
async fn l1_a_deleted_persistent_volume_claim_comes_back() {
    const CLAIMS: usize = 12;
    const ROUNDS: usize = 8;
    let (cluster, _agent) = start().await;
    let (pvcs, claims): (Api<PersistentVolumeClaim>, Api<VolumeClaim>) =
        (cluster.within("team"), cluster.within("team"));
    let rounds = (0..CLAIMS).map(|i| {
        let (cluster, pvcs, claims) = (&cluster, &pvcs, &claims);
        async move {
            let name = format!("c{i}");
            cluster.apply_text(&claim(&name)).await;
            let (mut slowest, mut deleted) = (Duration::ZERO, String::new());
            for round in 0..ROUNDS {
                let bound = round % 2 == 0;
                let started = Instant::now();
                let uid = loop {
                    let pvc = pvcs.get_opt(&name).await.unwrap();
                    let phase = pvc.as_ref().and_then(|pvc| pvc.status.as_ref()?.phase.clone());
                    let uid = pvc.and_then(|pvc| pvc.uid()).filter(|uid| *uid != deleted);
                    match uid {
                        Some(uid) if !bound || phase.as_deref() == Some("Bound") => break uid,
                        _ if started.elapsed() < Duration::from_secs(60) => {}
                        _ => panic!(
                            "{name}, round {round}: {phase:?}, {:?}",
                            claims.get(&name).await.unwrap().status
                        ),
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                };
                slowest = slowest.max(started.elapsed());
                // Each round deletes at another moment of the binding.
                tokio::time::sleep(Duration::from_millis(if bound { 0 } else { 7 * i as u64 })).await;
                pvcs.delete(&name, &DeleteParams::default()).await.unwrap();
                deleted = uid;
            }
            until_reason(claims, &name, "Bound").await;
            slowest
        }
    });
    let slowest = futures::future::join_all(rounds).await;
    println!("{} deletions, the slowest came back after {:?}", CLAIMS * ROUNDS, slowest.iter().max());
}

/// A9. Kubernetes binds the PersistentVolumeClaims of all namespaces in one queue, some five a second.
#[tokio::test(flavor = "multi_thread")]
async fn a9_a_flood_of_claims_leaves_the_binder_to_others() {
    const FLOOD: usize = 100;
    let (cluster, _agent) = one_node("128Mi").await;
    cluster.apply_text(TEAM).await;
    cluster
        .apply_text(&TEAM.replace("namespace: team", "namespace: other").replace("name: team", "name: other"))
        .await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    let claims: Api<VolumeClaim> = cluster.within("team");
    futures::future::join_all((0..FLOOD).map(|i| {
        let cluster = &cluster;
        async move { cluster.apply_text(&claim(&format!("c{i}"))).await }
    }))
    .await;
    until("the flood binds", || async {
        let made = claims.list(&Default::default()).await.unwrap().items;
        let bound = made.iter().filter(|c| c.status.as_ref().is_some_and(|s| s.volume.is_some())).count();
        (bound == FLOOD).then_some(())
    })
    .await;
    let ready = || async {
        let made = pvcs.list(&Default::default()).await.unwrap().items;
        let bound = |pvc: &&PersistentVolumeClaim| {
            pvc.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
        };
        let bound = made.iter().filter(bound).count();
        (bound, made.len() - bound)
    };
    let (before, pending) = ready().await;
    assert!(pending <= 24, "{pending} PersistentVolumeClaims wait for Kubernetes at a time");
    cluster.apply_text(&claim("late").replace("namespace: team", "namespace: other")).await;
    until_reason(&cluster.within::<VolumeClaim>("other"), "late", "Bound").await;
    let (after, pending) = ready().await;
    println!(
        "{before} of {FLOOD} were bound before the late claim, {after} when it was bound, {pending} were being bound"
    );
    assert!(pending <= 24, "{pending} PersistentVolumeClaims wait for Kubernetes at a time");
    assert!(after < before + 60, "the late claim waited for {} of the flood", after - before);
    for i in 0..FLOOD {
        until_reason(&claims, &format!("c{i}"), "Bound").await;
    }
}

/// C6: somebody has removed a claim with its finalizers while the controller made the PersistentVolume.
#[tokio::test(flavor = "multi_thread")]
async fn c6_a_persistent_volume_without_a_claim_is_removed() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: true, audit: false }).await;
    let pvs: Api<PersistentVolume> = cluster.all();
    let uid = "00112233-4455-6677-8899-aabbccddeeff";
    for name in [format!("reservoir-{uid}"), "of-somebody-else".to_owned()] {
        let pv = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": {
            "app.kubernetes.io/managed-by": MANAGED_BY, "reservoir.dev/claim-uid": uid}},
            "spec": {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteMany"],
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "team", "name": "data"},
                "csi": {"driver": "csi.reservoir.dev", "volumeHandle": format!("v.{name}"),
                    "volumeAttributes": {"volume": "data"}}}});
        pvs.create(&Default::default(), &serde_json::from_value(pv).unwrap()).await.unwrap();
    }
    cluster.start_controller().await;
    until_gone(&pvs, &format!("reservoir-{uid}")).await;
    pvs.get("of-somebody-else").await.unwrap();
}

/// A5, C1: who may neither use a role nor is subscribed to it cannot tell its volumes from names that nobody has.
#[tokio::test(flavor = "multi_thread")]
async fn a5_a_volume_of_a_foreign_role_is_like_none() {
    let cluster = Cluster::start().await;
    cluster.apply_text(TEAM).await;
    for (name, role, sub_roles) in
        [("foreign", "ops", "Allow"), ("alone", "ops", "Deny"), ("beneath", "eng/ml", "Allow")]
    {
        let volume = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
            "metadata": {"name": name}, "spec": {"role": role, "size": "32Mi", "subRoles": sub_roles}});
        cluster.apply_text(&volume.to_string()).await;
    }
    let claims: Api<VolumeClaim> = cluster.within("team");
    let answer = async |volume: &str| {
        let claim = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
            "metadata": {"name": volume, "namespace": "team"}, "spec": {"role": "eng", "volume": volume}});
        cluster.apply_text(&claim.to_string()).await;
        until_reason(&claims, volume, "NoSuchVolume").await.replace(volume, "NAME")
    };
    let missing = answer("missing").await;
    assert_eq!(missing, "there is no SharedPersistentVolume NAME for role eng; the claim waits for it");
    for volume in ["foreign", "alone", "beneath"] {
        assert_eq!(answer(volume).await, missing, "{volume}");
        let status = claims.get(volume).await.unwrap().status.unwrap();
        assert_eq!((status.volume, status.node_name), (None, None), "{volume}");
    }
}

/// C5, L1: a PersistentVolumeClaim is that of a claim by the PersistentVolume that it names. Its label
/// `reservoir.dev/claim-uid`, which every editor of the namespace can write, decides nothing.
#[tokio::test(flavor = "multi_thread")]
async fn c5_the_label_claim_uid_decides_nothing() {
    let (cluster, agent) = start().await;
    let (pvcs, claims): (Api<PersistentVolumeClaim>, Api<VolumeClaim>) =
        (cluster.within("team"), cluster.within("team"));
    cluster.apply_text(&claim("bound")).await;
    until_reason(&claims, "bound", "Bound").await;
    let bound = claims.get("bound").await.unwrap();
    let pvc = pvcs.get("bound").await.unwrap();

    // A plain PersistentVolumeClaim with the labels of that claim's one stays whose it was.
    let plain = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "plain",
        "namespace": "team", "labels": {"app.kubernetes.io/managed-by": MANAGED_BY, "reservoir.dev/claim-uid": bound.uid()}},
        "spec": {"storageClassName": "", "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}}});
    cluster.apply_text(&plain.to_string()).await;
    cluster.apply_text(&claim("plain")).await;
    until_reason(&claims, "plain", "NameTaken").await;

    // On the bound one the label is changed, and removed. Controllers see that from the begin, or as a change.
    for uid in [
        json!("00112233-4455-6677-8899-aabbccddeeff"),
        json!(claims.get("plain").await.unwrap().uid()),
        json!(null),
    ] {
        let label = json!({"metadata": {"labels": {"reservoir.dev/claim-uid": uid}}});
        pvcs.patch("bound", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
        cluster.quiet_for(Duration::from_secs(2)).await;
        cluster.kill_controller().await;
        cluster.start_controller().await;
        cluster.quiet_for(Duration::from_secs(2)).await;
        until_reason(&claims, "bound", "Bound").await;
        assert_eq!(pvcs.get("bound").await.unwrap().uid(), pvc.uid(), "{uid}");
    }
    let pod = cluster.pod("team", "p", &["bound"]).await;
    agent.publish(&cluster, &bound, &pod, false).await.unwrap();
    agent.unpublish(&bound, &pod).await.unwrap();
    cluster.end_pod("team", "p").await;

    claims.delete("bound", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "bound").await;
    until_gone(&pvcs, "bound").await;
    until_gone(&cluster.all::<PersistentVolume>(), &pvc.spec.unwrap().volume_name.unwrap()).await;
    claims.delete("plain", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "plain").await;
    let plain = pvcs.get("plain").await.unwrap();
    assert_eq!(plain.metadata.deletion_timestamp, None, "it is somebody's own");
}

/// C5, L1: somebody removes the PersistentVolume of a bound claim by force. Kubernetes calls the PersistentVolumeClaim Lost until a
/// PersistentVolume with its UID is there, also while the controller is away.
#[tokio::test(flavor = "multi_thread")]
async fn c5_a_persistent_volume_that_was_removed_by_force_comes_back() {
    let (cluster, _agent) = start().await;
    let (pvcs, claims): (Api<PersistentVolumeClaim>, Api<VolumeClaim>) =
        (cluster.within("team"), cluster.within("team"));
    let pvs = cluster.all::<PersistentVolume>();
    cluster.apply_text(&claim("c")).await;
    until_reason(&claims, "c", "Bound").await;
    let pvc = pvcs.get("c").await.unwrap();
    let name = pvc.spec.as_ref().unwrap().volume_name.clone().unwrap();
    for is_away in [false, true] {
        let before = pvs.get(&name).await.unwrap().uid();
        if is_away {
            cluster.kill_controller().await;
        }
        pvs.delete(&name, &DeleteParams::default()).await.unwrap();
        let strip = json!({"metadata": {"finalizers": null}});
        pvs.patch(&name, &PatchParams::default(), &Patch::Merge(&strip)).await.unwrap();
        let phase = async || pvcs.get("c").await.unwrap().status.unwrap().phase.unwrap();
        if is_away {
            until("it is lost", async || (phase().await == "Lost").then_some(())).await;
            cluster.start_controller().await;
        }
        until("a new one is bound", async || {
            let now = pvs.get_opt(&name).await.unwrap()?;
            let is_bound = now.status.as_ref()?.phase.as_deref() == Some("Bound") && phase().await == "Bound";
            (now.uid() != before && is_bound).then_some(())
        })
        .await;
        until_reason(&claims, "c", "Bound").await;
    }
    assert_eq!(pvcs.get("c").await.unwrap().uid(), pvc.uid());
}

/// L5: the name of a volume in a claim leads to no other path of the API, and to no error that keeps the claim.
#[tokio::test(flavor = "multi_thread")]
async fn l5_a_claim_with_a_name_of_no_volume_can_go() {
    let cluster = Cluster::start().await;
    cluster.apply_text(TEAM).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    for (i, volume) in ["../volumeclaims", "../diskreservations/eng", "a/b", "a?b", "a b", "a\u{0}", "\u{e9}"]
        .iter()
        .enumerate()
    {
        let claim = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
            "metadata": {"name": format!("c{i}"), "namespace": "team"}, "spec": {"role": "eng", "volume": volume}});
        cluster.apply_text(&claim.to_string()).await;
        until_reason(&claims, &format!("c{i}"), "NoSuchVolume").await;
        claims.delete(&format!("c{i}"), &DeleteParams::default()).await.unwrap();
        until_gone(&claims, &format!("c{i}")).await;
    }
}
