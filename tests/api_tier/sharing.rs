//! Events around a shared volume in use, and its repeated offers (O4, O6, X4).

use std::io::Write;

use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use reservoir::api::{DiskReservation, SharedPersistentVolume, VolumeClaim, VolumeOffer};

use crate::support::{Agent, Cluster, Watch, one_node, until, until_gone, until_reason};

const MANIFESTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team-a}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: team-b}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 192Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data},
 spec: {role: eng, size: 64Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team-a},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team-b},
 spec: {roles: [eng/ml/vision], capabilities: [SHARED_RESOURCES]}}
";

const NAMESPACES: [(&str, &str); 2] = [("team-a", "eng"), ("team-b", "eng/ml/vision")];

/// A cluster with the shared volume `data`, which is offered to both namespaces.
async fn start() -> (Cluster, Agent) {
    let (cluster, agent) = one_node("256Mi").await;
    cluster.apply_text(MANIFESTS).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    until_offered(&cluster, &["data"]).await;
    (cluster, agent)
}

/// Waits until these volumes, and no others, are offered to both namespaces.
async fn until_offered(cluster: &Cluster, wanted: &[&str]) {
    for (namespace, _) in NAMESPACES {
        let offers: Api<VolumeOffer> = cluster.within(namespace);
        until(&format!("{wanted:?} are offered to {namespace}"), || async {
            let offers = offers.list(&Default::default()).await.unwrap();
            let mut offered: Vec<&str> =
                offers.iter().flat_map(|o| &o.spec.volumes).map(|v| v.name.as_str()).collect();
            offered.sort();
            (offered == wanted).then_some(())
        })
        .await;
    }
}

/// Makes a claim for its namespace's role, and waits until it is bound.
async fn bound(cluster: &Cluster, (namespace, role): (&str, &str), name: &str, volume: &str) -> VolumeClaim {
    let manifest = format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: {namespace}}},
        spec: {{role: {role}, volume: {volume}}}}}"
    );
    cluster.apply_text(&manifest).await;
    let claims: Api<VolumeClaim> = cluster.within(namespace);
    until_reason(&claims, name, "Bound").await;
    claims.get(name).await.unwrap()
}

async fn until_users(volumes: &Api<SharedPersistentVolume>, name: &str, users: u32) {
    until(&format!("{name} has {users} users"), || async {
        (volumes.get(name).await.unwrap().status.unwrap().user_count == users).then_some(())
    })
    .await;
}

/// O4, V1, X1, X4. A pod writes to `data`. Meanwhile volumes of the same reservation are created, claimed and used,
/// round after round. Each round destroys an exclusive one.
#[tokio::test(flavor = "multi_thread")]
async fn x4_o4_volumes_come_and_go_beside_one_in_use() {
    let (cluster, agent) = start().await;
    let watch = Watch::safety(&cluster);
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within("team-a");
    let data = bound(&cluster, NAMESPACES[0], "data", "data").await;
    let writer = cluster.pod("team-a", "writer", &["data"]).await;
    let target = agent.publish(&cluster, &data, &writer, false).await.unwrap();
    let mut log = std::fs::File::create(target.join("log")).unwrap();
    until_users(&volumes, "data", 1).await;

    let mut kept = vec!["data".to_owned()];
    for round in 0..3 {
        let (shared, solo) = (format!("shared-{round}"), format!("solo-{round}"));
        for (name, access) in [(&shared, ", shared: {}"), (&solo, "")] {
            let manifest = format!(
                "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {name}}},
                spec: {{role: eng, size: 32Mi{access}}}}}"
            );
            cluster.apply_text(&manifest).await;
            until_reason(&volumes, name, "Ready").await;
            let claim = bound(&cluster, NAMESPACES[0], name, name).await;
            let pod = cluster.pod("team-a", name, &[name]).await;
            let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
            std::fs::write(target.join("file"), name).unwrap();
            if name == &solo {
                let uid = volumes.get(name).await.unwrap().uid().unwrap();
                agent.unpublish(&claim, &pod).await.unwrap();
                cluster.end_pod("team-a", name).await;
                claims.delete(name, &DeleteParams::default()).await.unwrap();
                until_gone(&claims, name).await;
                volumes.delete(name, &DeleteParams::default()).await.unwrap();
                until_gone(&volumes, name).await;
                assert!(!agent.data_file(&uid).exists(), "the bytes of {name} are erased");
            } else {
                kept.push(name.clone());
            }
            writeln!(log, "{name}").and_then(|()| log.sync_all()).unwrap();
        }
        let refusal = volumes.delete("data", &DeleteParams::default()).await.unwrap_err().to_string();
        assert!(refusal.contains("in use by 1 pod: team-a/writer"), "{refusal}");
    }
    until_offered(&cluster, &kept.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let reservation = cluster.all::<DiskReservation>().get("eng").await.unwrap().status.unwrap();
    let mut held: Vec<_> = reservation.volumes.iter().map(|entry| entry.name.clone()).collect();
    held.sort();
    assert_eq!(held, kept);
    assert_eq!(agent.backings().len(), kept.len());
    assert_eq!(std::fs::read_to_string(target.join("log")).unwrap().lines().count(), 6);
    watch.assert_unbroken();
}

/// O4, V6. Users of two namespaces continue while no controller runs. The next controller makes lost offers again,
/// and counts the same users.
#[tokio::test(flavor = "multi_thread")]
async fn o4_a_used_volume_is_offered_again_after_a_failover() {
    let (cluster, agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let mut targets = Vec::new();
    for of in NAMESPACES {
        let claim = bound(&cluster, of, "data", "data").await;
        let pod = cluster.pod(of.0, "user", &["data"]).await;
        targets.push(agent.publish(&cluster, &claim, &pod, false).await.unwrap());
    }
    until_users(&volumes, "data", 2).await;

    cluster.kill_controller().await;
    for (namespace, _) in NAMESPACES {
        cluster.within::<VolumeOffer>(namespace).delete("eng.n1", &DeleteParams::default()).await.unwrap();
    }
    std::fs::write(targets[0].join("file"), "written by one").unwrap();
    assert_eq!(std::fs::read_to_string(targets[1].join("file")).unwrap(), "written by one");
    cluster.start_controller().await;
    until_offered(&cluster, &["data"]).await;
    until_users(&volumes, "data", 2).await;
    let third = bound(&cluster, NAMESPACES[1], "third", "data").await;
    let pod = cluster.pod("team-b", "third", &["third"]).await;
    let target = agent.publish(&cluster, &third, &pod, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "written by one");
    until_users(&volumes, "data", 3).await;
    let refusal = volumes.delete("data", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refusal.contains("in use by 3 pods: team-a/user, team-b/third, team-b/user"), "{refusal}");
}

/// O6, X2. A deletion removes the volume from the offers of its role and of a sub-role three levels below. Meanwhile
/// the node is silent, and no byte is erased.
#[tokio::test(flavor = "multi_thread")]
async fn o6_all_offers_go_before_the_bytes() {
    let (cluster, mut agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    agent.kill().await;
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    until_offered(&cluster, &[]).await;
    assert!(agent.data_file(&uid).exists(), "nothing is erased yet");
    assert!(volumes.get_opt("data").await.unwrap().is_some());
    let late =
        "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: late, namespace: team-b},
        spec: {role: eng/ml/vision, volume: data}}";
    cluster.apply_text(late).await;
    until_reason(&cluster.within::<VolumeClaim>("team-b"), "late", "VolumeDestroying").await;
    agent.run();
    until_gone(&volumes, "data").await;
    assert!(!agent.data_file(&uid).exists(), "the bytes are erased");
}
