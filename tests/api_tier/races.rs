//! Races of deletions, claims and controllers. One contestant wins, and the others get a reason (X1, X2, C3).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use reservoir::api::condition;
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim};
use reservoir::cluster::{Cache, CacheConfig, cache};
use reservoir_cluster::api::ApiOptions;
use serde_json::json;

use crate::faults::nothing_left;
use crate::support::{Agent, Cluster, Random, Watch, one_node, until, until_gone, until_reason};

const RACES: usize = 1_000;
/// Number of races at the same time.
const LANES: usize = 25;
/// Number of reservations, so that not all races wait for one ledger.
const ROOMS: usize = 5;

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

/// Puts a file with the volume's name into the volume's file system, while it is not mounted.
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

/// Caches of volumes and claims, so that hundreds of waiting tasks do not poll the API server.
struct Stores {
    volumes: Arc<Cache<SharedPersistentVolume>>,
    claims: Arc<Cache<VolumeClaim>>,
}

impl Stores {
    fn follow(cluster: &Cluster) -> (Self, tokio::task::JoinHandle<()>) {
        let (volumes, following_volumes) =
            cache(cluster.all(), Default::default(), CacheConfig::default(), |_| {}, || {});
        let (claims, following_claims) =
            cache(cluster.within("team"), Default::default(), CacheConfig::default(), |_| {}, || {});
        let following = futures::future::join(following_volumes, following_claims);
        let following = tokio::spawn(async move {
            following.await;
        });
        (Self { volumes, claims }, following)
    }

    fn volume(&self, name: &str) -> Option<Arc<SharedPersistentVolume>> {
        self.volumes.get(name)
    }

    fn claim(&self, name: &str) -> Option<Arc<VolumeClaim>> {
        self.claims.get_in("team", name)
    }
}

/// Waits for a state of the caches. On a busy machine a thousand races take long.
async fn seen<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "waited five minutes for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Arena {
    cluster: Cluster,
    agent: Agent,
    stores: Stores,
    /// DELETE's head start in milliseconds at which both may win. Each race moves it towards that point.
    middle: AtomicI64,
}

impl Arena {
    /// A ready volume with its name in a file.
    async fn volume(&self, name: &str, room: usize) -> Arc<SharedPersistentVolume> {
        let manifest = volume(name, &format!(", shared: {{}}, reservation: eng-{room}"));
        self.cluster.try_create(&manifest).await.unwrap();
        let made = seen(&format!("volume {name} is ready"), || {
            let conditions = |v: &SharedPersistentVolume| v.status.clone().unwrap_or_default().conditions;
            self.stores.volume(name).filter(|v| condition::is_true(&conditions(v), "Ready"))
        })
        .await;
        tokio::task::block_in_place(|| seed(&self.agent, &made));
        made
    }

    /// A race of DELETE against a claim and a pod. `head_start` is DELETE's, in milliseconds, and may be negative.
    /// After the race the user has left.
    async fn race(&self, volume: &SharedPersistentVolume, user: &str, head_start: i64) -> Winner {
        let (cluster, agent, name) = (&self.cluster, &self.agent, volume.name_any());
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
                cluster.try_create(&claim(user, &name)).await.unwrap();
                cluster.pod("team", user, &[user]).await
            }
        );
        let data = agent.data_file(&volume.uid().unwrap());
        let winner = match deleted {
            Err(refused) => {
                // The user has won, so it gets the volume with all data.
                let refused = refused.to_string();
                assert!(
                    refused.contains("is bound to 1 claim") || refused.contains("is in use by 1 pod"),
                    "{refused}"
                );
                let bound = seen(&format!("claim {user} is bound"), || {
                    let has =
                        |c: &VolumeClaim| c.status.as_ref().is_some_and(|s| s.persistent_volume.is_some());
                    self.stores.claim(user).filter(|c| has(c))
                })
                .await;
                let target = agent.publish(cluster, &bound, &pod, false).await.unwrap();
                assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), name, "the data");
                std::fs::write(target.join("more"), user).unwrap();
                let now = volumes.get(&name).await.unwrap();
                assert!(now.metadata.deletion_timestamp.is_none() && now.uid() == volume.uid());
                agent.unpublish(&bound, &pod).await.unwrap();
                assert!(data.exists());
                Winner::User
            }
            Ok(_) => {
                // DELETE has won, so no claim is ever bound and the bytes are freed.
                let there = || self.stores.volume(&name).filter(|v| v.uid() == volume.uid());
                seen(&format!("volume {name} is gone"), || there().is_none().then_some(())).await;
                assert!(!data.exists(), "volume {name} is gone and its bytes are not");
                let refused = seen(&format!("claim {user} waits"), || {
                    let status = self.stores.claim(user)?.status.clone()?;
                    condition::get(&status.conditions, "Ready")
                        .is_some_and(|c| c.reason == "NoSuchVolume")
                        .then_some(status)
                })
                .await;
                assert!(refused.volume.is_none() && refused.persistent_volume.is_none(), "{refused:?}");
                Winner::Delete
            }
        };
        cluster.end_pod("team", user).await;
        claims.delete(user, &DeleteParams::default()).await.unwrap();
        seen(&format!("claim {user} is gone"), || self.stores.claim(user).is_none().then_some(())).await;
        winner
    }

    /// Runs races on one volume as long as users win, and then on a new one.
    async fn lane(self: Arc<Self>, lane: usize, mut random: Random) -> Vec<Winner> {
        let mut winners = Vec::new();
        let mut made = None;
        for round in 0..RACES / LANES {
            let volume = match made.take() {
                Some(volume) => volume,
                None => self.volume(&format!("v{lane}-{round}"), lane % ROOMS).await,
            };
            let head_start = self.middle.load(Ordering::Relaxed) + random.within(0..200) as i64 - 100;
            let winner = self.race(&volume, &format!("u{lane}-{round}"), head_start).await;
            let step = if winner == Winner::User { 5 } else { -5 };
            self.middle.fetch_add(step, Ordering::Relaxed);
            if winner == Winner::User {
                made = Some(volume);
            }
            winners.push(winner);
        }
        winners
    }
}

/// X2, S8, S10, S11, S15, L4, L5.
#[tokio::test(flavor = "multi_thread")]
async fn x2_delete_against_a_new_user_has_one_winner() {
    let cluster = Cluster::start_with(ApiOptions { controller_manager: true, audit: false }).await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "1664Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(&room("16Mi")).await;
    for room in 0..ROOMS {
        let reservation = format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: eng-{room}}}, \
             spec: {{role: eng, size: 320Mi}}}}"
        );
        cluster.apply_text(&reservation).await;
    }
    let volumes: Api<SharedPersistentVolume> = cluster.all();

    // S8, S10: at every revision, a binding belongs to a live volume.
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
    let (stores, following) = Stores::follow(&cluster);
    let arena = Arc::new(Arena { cluster, agent, stores, middle: AtomicI64::new(-150) });
    let mut random = Random::new("delete against a new user");
    let started = Instant::now();
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| tokio::spawn(arena.clone().lane(lane, Random::seeded(random.within(0..u64::MAX)))))
        .collect();
    let mut winners = Vec::new();
    for lane in lanes {
        winners.extend(lane.await.unwrap());
    }
    let won = |winner| winners.iter().filter(|w| **w == winner).count();
    let (users, deletes) = (won(Winner::User), won(Winner::Delete));
    println!(
        "{RACES} races in {:?}: the user won {users}, DELETE won {deletes}, data lost 0, {} revisions",
        started.elapsed(),
        watch.assert_unbroken()
    );
    assert_eq!(users + deletes, RACES);
    assert!(users.min(deletes) > RACES / 10, "there was hardly a race");

    // The remaining volumes are those of the last winning users.
    let uids =
        |list: Vec<SharedPersistentVolume>| list.iter().filter_map(ResourceExt::uid).collect::<BTreeSet<_>>();
    let left = uids(volumes.list(&Default::default()).await.unwrap().items);
    assert_eq!(arena.agent.backings().into_iter().collect::<BTreeSet<_>>(), left);
    let reservations: Api<reservoir::api::DiskReservation> = arena.cluster.all();
    let reservations = reservations.list(&Default::default()).await.unwrap().items;
    let lines = reservations.iter().filter_map(|r| r.status.as_ref()).flat_map(|s| &s.volumes);
    assert_eq!(lines.map(|line| line.uid.clone()).collect::<BTreeSet<_>>(), left);
    following.abort();
}

/// C3, S6, L7.
#[tokio::test(flavor = "multi_thread")]
async fn c3_an_exclusive_volume_goes_to_the_oldest_claim() {
    let (cluster, agent) = one_node("64Mi").await;
    cluster.apply_text(&room("64Mi")).await;
    // All ten claims wait before the volume exists, so the oldest claim is certain.
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

/// R1, V1, S1, S2, S3, S15, L2.
#[tokio::test(flavor = "multi_thread")]
async fn s1_two_controllers_never_give_away_too_much() {
    let cluster = Cluster::start().await;
    cluster.start_controller().await;
    let mut agents = Vec::new();
    // The first two disks have space for three reservations of 128Mi each. The third one has space for 20 volumes of
    // 16Mi in four reservations.
    for (node, capacity) in [("n1", "448Mi"), ("n2", "448Mi"), ("n3", "320Mi")] {
        cluster.node(node, true).await;
        agents.push(Agent::start(&cluster, node, capacity).await);
        until_reason(&cluster.all::<NodeDisk>(), &format!("{node}.default"), "Ready").await;
    }
    let nodes: Api<Node> = cluster.all();
    for node in ["n1", "n2"] {
        let label = json!({"metadata": {"labels": {"disk": "burst"}}});
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    }
    let watch = Watch::safety(&cluster);
    let reservation = |name: &str, role: &str, size: &str, place: &str| {
        format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: {name}}},
            spec: {{role: {role}, size: {size}, {place}}}}}"
        )
    };
    let burst = (0..10).map(|i| {
        let place = "nodeSelector: {disk: burst}";
        reservation(&format!("burst-{i}"), &format!("role-{i}"), "128Mi", place)
    });
    let rooms = (0..4).map(|i| reservation(&format!("room-{i}"), "eng", "80Mi", "nodeName: n3"));
    let volumes = (0..30).map(|i| {
        format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: v-{i}}},
            spec: {{role: eng, size: 16Mi, shared: {{}}}}}}"
        )
    });
    let manifests: Vec<String> = burst.chain(rooms).chain(volumes).collect();
    futures::future::join_all(manifests.iter().map(|manifest| cluster.apply_text(manifest))).await;

    // All reservations that fit are served, and the others have a reason.
    let reservations: Api<DiskReservation> = cluster.all();
    let reasons = |conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]| {
        let ready = reservoir::api::condition::get(conditions, "Ready").cloned();
        ready.map_or_else(String::new, |c| format!("{}: {}", c.reason, c.message))
    };
    let (served, waiting) = until("six of ten reservations are served", || async {
        let all = reservations.list(&Default::default()).await.unwrap();
        let burst = all.iter().filter(|r| r.name_any().starts_with("burst-"));
        let said = burst.map(|r| r.status.as_ref().map_or_else(String::new, |s| reasons(&s.conditions)));
        let (served, waiting): (Vec<_>, Vec<_>) = said.partition(|said| said.starts_with("Ready: "));
        (served.len() == 6 && waiting.iter().all(|w| w.starts_with("NotEnoughRoom: ")))
            .then_some((served, waiting))
    })
    .await;
    assert_eq!((served.len(), waiting.len()), (6, 4));
    for said in &waiting {
        assert!(said.contains("has 64Mi free, 64Mi too little"), "{said}");
    }
    let all_volumes: Api<SharedPersistentVolume> = cluster.all();
    until("20 of 30 volumes are made, and the rest have a reason", || async {
        let all = all_volumes.list(&Default::default()).await.unwrap();
        let said = all.iter().map(|v| v.status.as_ref().map_or_else(String::new, |s| reasons(&s.conditions)));
        let (ready, rest): (Vec<_>, Vec<_>) = said.partition(|said| said.starts_with("Ready: "));
        let full =
            |said: &String| said.starts_with("ReservationFull: 16Mi asked for, ") && said.contains("room-");
        (ready.len() == 20 && rest.iter().all(full)).then_some(())
    })
    .await;
    cluster.quiet_for(Duration::from_secs(2)).await;
    assert_eq!(agents[2].backings().len(), 20);

    // No entry is in two ledgers, and the objects agree with the ledgers.
    let disks = cluster.all::<NodeDisk>().list(&Default::default()).await.unwrap();
    let mut charged: Vec<(String, String)> = Vec::new();
    for disk in &disks {
        let entries = disk.status.iter().flat_map(|s| &s.reservations);
        charged.extend(entries.map(|entry| (entry.name.clone(), disk.name_any())));
    }
    let all = reservations.list(&Default::default()).await.unwrap();
    let mut told: Vec<(String, String)> =
        all.iter().filter_map(|r| Some((r.name_any(), r.status.as_ref()?.node_disk.clone()?))).collect();
    charged.sort();
    told.sort();
    assert_eq!(charged, told);
    let mut charged: Vec<(String, String)> = Vec::new();
    for reservation in &all {
        let entries = reservation.status.iter().flat_map(|s| &s.volumes);
        charged.extend(entries.map(|entry| (entry.name.clone(), reservation.name_any())));
    }
    let all = all_volumes.list(&Default::default()).await.unwrap();
    let mut told: Vec<(String, String)> = all
        .iter()
        .filter_map(|v| Some((v.name_any(), v.status.as_ref()?.reservation.as_ref()?.name.clone())))
        .collect();
    charged.sort();
    told.sort();
    assert_eq!(charged, told);

    // All objects are deleted. Waiting reservations are served in between, and then deleted, too.
    for volume in all {
        all_volumes.delete(&volume.name_any(), &DeleteParams::default()).await.unwrap();
    }
    until("all volumes are gone", || async {
        all_volumes.list(&Default::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    for (i, reservation) in reservations.list(&Default::default()).await.unwrap().iter().enumerate() {
        until(&format!("reservation {i} may be deleted"), || async {
            reservations.delete(&reservation.name_any(), &DeleteParams::default()).await.ok()
        })
        .await;
    }
    for agent in &agents {
        agent.nothing_left().await;
    }
    nothing_left(&cluster).await;
    println!("{} revisions", watch.assert_unbroken());
    assert_eq!(cluster.controllers_alive(), 2);
}
