//! Who comes first wins, and the other one learns it (X1, X2, C3).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use reservoir::api::{NodeDisk, SharedPersistentVolume, VolumeClaim};

use crate::support::{Agent, Cluster, Random, Watch, until, until_gone, until_reason};

const RACES: usize = 100;
/// As many at the same time.
const AT_ONCE: usize = 20;

fn room(size: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: team}}}}
---
{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: eng}},
 spec: {{role: eng, size: {size}}}}}
---
{{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {{name: eng, namespace: team}},
 spec: {{roles: [eng], capabilities: [SHARED_RESOURCES]}}}}
"
    )
}

fn volume(name: &str, access: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {name}}},
        spec: {{role: eng, size: 16Mi{access}}}}}"
    )
}

fn claim(name: &str, volume: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
        spec: {{role: eng, volume: {volume}}}}}"
    )
}

/// Puts a file with the volume's name into its file system, while nothing has that mounted.
fn seed(agent: &Agent, volume: &SharedPersistentVolume) {
    let content = agent.dir.join(format!("content-{}", volume.name_any()));
    std::fs::write(&content, volume.name_any()).unwrap();
    let done = Command::new("debugfs")
        .args(["-w", "-R", &format!("write {} file", content.display())])
        .arg(agent.data_file(&volume.uid().unwrap()))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    std::fs::remove_file(content).unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Winner {
    User,
    Delete,
}

/// DELETE against a claim and a pod; `head_start` is DELETE's, in milliseconds, and may be negative.
async fn race(cluster: &Cluster, agent: &Agent, volume: &SharedPersistentVolume, head_start: i64) -> Winner {
    let name = volume.name_any();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within("team");
    let later = |millis: i64| tokio::time::sleep(Duration::from_millis(millis.max(0) as u64));
    let (deleted, pod) = tokio::join!(
        async {
            later(-head_start).await;
            volumes.delete(&name, &DeleteParams::default()).await
        },
        async {
            later(head_start).await;
            cluster.apply_text(&claim(&name, &name)).await;
            cluster.pod("team", &name, &[&name]).await
        }
    );
    let data = agent.data_file(&volume.uid().unwrap());
    match deleted {
        Err(refused) => {
            // The user won: it gets the volume with all that was in it.
            let refused = refused.to_string();
            assert!(
                refused.contains("is bound to 1 claim") || refused.contains("is in use by 1 pod"),
                "{refused}"
            );
            let bound = until(&format!("claim {name} is bound"), || async {
                let claim = claims.get(&name).await.unwrap();
                claim.status.as_ref().is_some_and(|s| s.persistent_volume.is_some()).then_some(claim)
            })
            .await;
            let target = agent.publish(cluster, &bound, &pod, false).await.unwrap();
            assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), name, "the data");
            std::fs::write(target.join("more"), "written").unwrap();
            let now = volumes.get(&name).await.unwrap();
            assert!(now.metadata.deletion_timestamp.is_none() && now.uid() == volume.uid());
            agent.unpublish(&bound, &pod).await.unwrap();
            assert!(data.exists());
            Winner::User
        }
        Ok(_) => {
            // DELETE won: nobody is ever bound, and the bytes go.
            until_gone(&volumes, &name).await;
            assert!(!data.exists(), "volume {name} is gone and its bytes are not");
            until_reason(&claims, &name, "NoSuchVolume").await;
            let status = claims.get(&name).await.unwrap().status.unwrap();
            assert!(status.volume.is_none() && status.persistent_volume.is_none(), "{status:?}");
            Winner::Delete
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_against_a_new_user_has_one_winner() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "1664Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(&room("1600Mi")).await;
    let names: Vec<String> = (0..RACES).map(|i| format!("v{i}")).collect();
    for name in &names {
        cluster.apply_text(&volume(name, ", shared: {}")).await;
    }
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    for name in &names {
        until_reason(&volumes, name, "Ready").await;
    }
    let made = volumes.list(&Default::default()).await.unwrap().items;
    made.iter().for_each(|volume| seed(&agent, volume));

    // S8, S10: a binding is to a volume that lives, at every revision.
    let mut watch = Watch::safety(&cluster);
    let mut doomed = BTreeSet::new();
    watch.each(volumes.clone(), move |volume| {
        let claims = volume.status.as_ref().map_or(0, |s| s.claims.len());
        if volume.metadata.deletion_timestamp.is_some() {
            doomed.insert(volume.uid());
        }
        match doomed.contains(&volume.uid()) && claims > 0 {
            true => Err("a claim is bound to a volume whose deletion was accepted".into()),
            false => Ok(()),
        }
    });
    let mut random = Random::new("delete against a new user");
    let mut winners = Vec::new();
    // Between these, who wins is open; it moves to where both do.
    let mut middle = -250;
    for batch in made.chunks(AT_ONCE) {
        let races =
            batch.iter().map(|v| race(&cluster, &agent, v, middle + random.within(0..200) as i64 - 100));
        let won = futures::future::join_all(races).await;
        let users = won.iter().filter(|winner| **winner == Winner::User).count() as i64;
        middle += (users - AT_ONCE as i64 / 2) * 12;
        winners.extend(won);
    }
    let won = |winner| winners.iter().filter(|w| **w == winner).count();
    let (users, deletes) = (won(Winner::User), won(Winner::Delete));
    println!(
        "{RACES} races: the user won {users}, DELETE won {deletes}, data lost 0, {} revisions",
        watch.assert_unbroken()
    );
    assert_eq!(users + deletes, RACES);
    assert!(users > 0 && deletes > 0, "there was no race");

    // What is left is exactly what users won.
    let uids =
        |list: Vec<SharedPersistentVolume>| list.iter().filter_map(ResourceExt::uid).collect::<BTreeSet<_>>();
    let left = uids(volumes.list(&Default::default()).await.unwrap().items);
    assert_eq!(agent.backings().into_iter().collect::<BTreeSet<_>>(), left);
    assert_eq!(left.len(), users);
    let eng = cluster.all::<reservoir::api::DiskReservation>().get("eng").await.unwrap().status.unwrap();
    assert_eq!(eng.volumes.iter().map(|v| v.uid.clone()).collect::<BTreeSet<_>>(), left);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_volume_has_one_claim_at_a_time_the_oldest_first() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "64Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(&room("64Mi")).await;
    // All ten wait before there is a volume, so that who is the oldest is settled.
    let manifests: Vec<String> = (0..10).map(|i| claim(&format!("c{i}"), "solo")).collect();
    futures::future::join_all(manifests.iter().map(|manifest| cluster.apply_text(manifest))).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    for i in 0..10 {
        until_reason(&claims, &format!("c{i}"), "NoSuchVolume").await;
    }
    let mut by_age = claims.list(&Default::default()).await.unwrap().items;
    by_age.sort_by_key(|c| (c.creation_timestamp(), c.uid()));
    let by_age: Vec<String> = by_age.iter().map(ResourceExt::name_any).collect();

    let mut watch = Watch::safety(&cluster);
    let order = Arc::new(Mutex::new(Vec::<String>::new()));
    let noted = order.clone();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    watch.each(volumes.clone(), move |volume| {
        let mut order = noted.lock().unwrap();
        for claim in volume.status.iter().flat_map(|s| &s.claims) {
            if order.last() != Some(&claim.name) {
                order.push(claim.name.clone());
            }
        }
        Ok(())
    });
    cluster.apply_text(&volume("solo", "")).await;
    until_reason(&volumes, "solo", "Ready").await;
    let data = agent.data_file(&volumes.get("solo").await.unwrap().uid().unwrap());
    let made = std::fs::metadata(&data).unwrap().ino();
    for (i, name) in by_age.iter().enumerate() {
        until_reason(&claims, name, "Bound").await;
        for waiting in &by_age[i + 1..] {
            let said = until_reason(&claims, waiting, "VolumeHeld").await;
            let status = claims.get(waiting).await.unwrap().status.unwrap();
            assert!(status.volume.is_none(), "{waiting} has {status:?}");
            assert!(said.contains(&format!("claim team/{name}")) || said.contains("is older"), "{said}");
        }
        claims.delete(name, &DeleteParams::default()).await.unwrap();
    }
    until_gone(&claims, &by_age[9]).await;
    watch.assert_unbroken();
    assert_eq!(*order.lock().unwrap(), by_age, "in order of age");
    assert_eq!(std::fs::metadata(&data).unwrap().ino(), made, "the data stayed");
}
