//! The controller, an agent or the API server dies in the middle, and every promise holds.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams};
use kube::{Resource, ResourceExt};
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim, VolumeOffer};
use reservoir::plan::postponed::AFTER;

use crate::support::{Agent, Cluster, Random, Watch, everything, one_node, until, until_gone, until_reason};

pub(crate) const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team-a}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: team-b}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 128Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: ml}, spec: {role: eng/ml, size: 64Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data},
 spec: {role: eng, size: 64Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: model},
 spec: {role: eng/ml, size: 32Mi, reservation: ml, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: solo},
 spec: {role: eng, size: 16Mi, reservation: eng, erasePolicy: Zero}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: ml, namespace: team-a},
 spec: {roles: [eng/ml], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: ml, namespace: team-b},
 spec: {roles: [eng/ml], capabilities: [SHARED_RESOURCES]}}
";

pub(crate) const CLAIMS: &str = "
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team-a}, spec: {role: eng/ml, volume: data}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team-b},
 spec: {role: eng/ml, volume: data, mode: ReadOnly}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: model, namespace: team-a},
 spec: {role: eng/ml, selector: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: solo, namespace: team-a}, spec: {role: eng/ml, volume: solo}}
";

pub(crate) const VOLUMES: [&str; 3] = ["data", "model", "solo"];
pub(crate) const CLAIMED: [(&str, &str); 4] =
    [("team-a", "data"), ("team-b", "data"), ("team-a", "model"), ("team-a", "solo")];

pub(crate) async fn served(cluster: &Cluster) {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    for name in VOLUMES {
        until_reason(&volumes, name, "Ready").await;
    }
}

pub(crate) async fn bound(cluster: &Cluster, claims: &[(&str, &str)]) {
    for (namespace, name) in claims {
        until_reason(&cluster.within::<VolumeClaim>(namespace), name, "Bound").await;
    }
}

pub(crate) async fn claim(cluster: &Cluster, namespace: &str, name: &str) -> VolumeClaim {
    cluster.within(namespace).get(name).await.unwrap()
}

async fn volume_uids(cluster: &Cluster) -> Vec<String> {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let mut uids: Vec<String> =
        volumes.list(&Default::default()).await.unwrap().iter().filter_map(ResourceExt::uid).collect();
    uids.sort();
    uids
}

/// Deletes objects and waits for their end. Repeats a DELETE that admission still refuses.
pub(crate) async fn delete<K>(api: &Api<K>, names: &[&str])
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    for name in names {
        until(&format!("{} {name} may be deleted", K::kind(&())), || async {
            api.delete(name, &DeleteParams::default()).await.ok()
        })
        .await;
    }
    for name in names {
        until_gone(api, name).await;
    }
}

/// Deletes claims, volumes and reservations, and checks that nothing of them is left.
pub(crate) async fn all_goes(cluster: &Cluster, agent: &Agent) {
    for (namespace, name) in CLAIMED {
        let claims: Api<VolumeClaim> = cluster.within(namespace);
        let _ = claims.delete(name, &DeleteParams::default()).await;
    }
    for (namespace, name) in CLAIMED {
        until_gone(&cluster.within::<VolumeClaim>(namespace), name).await;
    }
    delete(&cluster.all::<SharedPersistentVolume>(), &VOLUMES).await;
    delete(&cluster.all::<DiskReservation>(), &["eng", "ml"]).await;
    agent.nothing_left().await;
    nothing_left(cluster).await;
}

/// The disk has all its free space back, and no volume or claim has left anything.
pub(crate) async fn nothing_left(cluster: &Cluster) {
    until("the disks have their free space back", || async {
        let disks = cluster.all::<NodeDisk>().list(&Default::default()).await.unwrap();
        let whole = |disk: &NodeDisk| {
            disk.status.as_ref().is_some_and(|s| s.reservations.is_empty() && s.free == s.allocatable)
        };
        disks.iter().all(whole).then_some(())
    })
    .await;
    until("nothing is left in the API", || async {
        let none = Default::default();
        let left = [
            cluster.all::<PersistentVolume>().list(&none).await.unwrap().items.len(),
            Api::<PersistentVolumeClaim>::all(cluster.client.clone()).list(&none).await.unwrap().items.len(),
            Api::<VolumeOffer>::all(cluster.client.clone()).list(&none).await.unwrap().items.len(),
        ];
        (left == [0; 3]).then_some(())
    })
    .await;
}

/// The whole main job. Returns the inode of the volume's file, which must never change.
async fn main_job(cluster: &Cluster, agent: &Agent) {
    cluster.apply_text(OBJECTS).await;
    served(cluster).await;
    assert_eq!(agent.backings(), volume_uids(cluster).await, "one backing for each volume");
    let inode = |uid: &str| {
        let data = std::fs::metadata(agent.data_file(uid)).unwrap();
        std::os::unix::fs::MetadataExt::ino(&data)
    };
    let made: Vec<u64> = agent.backings().iter().map(|uid| inode(uid)).collect();

    cluster.apply_text(CLAIMS).await;
    bound(cluster, &CLAIMED).await;
    let (write, read) = (claim(cluster, "team-a", "data").await, claim(cluster, "team-b", "data").await);
    let writer = cluster.pod("team-a", "writer", &["data"]).await;
    let reader = cluster.pod("team-b", "reader", &["data"]).await;
    let at = agent.publish(cluster, &write, &writer, false).await.unwrap();
    let seen_at = agent.publish(cluster, &read, &reader, true).await.unwrap();
    let content: Vec<u8> =
        (0..1u32 << 20).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    std::fs::File::create(at.join("file")).and_then(|mut f| f.write_all(&content).and(f.sync_all())).unwrap();
    assert!(std::fs::read(seen_at.join("file")).unwrap() == content);
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("both users are counted", || async {
        (volumes.get("data").await.unwrap().status.unwrap().user_count == 2).then_some(())
    })
    .await;
    let refused = volumes.delete("data", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("in use by 2 pods: team-a/writer, team-b/reader"), "{refused}");

    // The exclusive volume moves from one namespace to the other.
    let waiting = "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim,
        metadata: {name: solo, namespace: team-b}, spec: {role: eng/ml, volume: solo}}";
    cluster.apply_text(waiting).await;
    until_reason(&cluster.within::<VolumeClaim>("team-b"), "solo", "VolumeHeld").await;
    delete(&cluster.within::<VolumeClaim>("team-a"), &["solo"]).await;
    bound(cluster, &[("team-b", "solo")]).await;
    delete(&cluster.within::<VolumeClaim>("team-b"), &["solo"]).await;

    // Users and claims are deleted; the data stays for the next ones.
    for (claim, pod) in [(&write, &writer), (&read, &reader)] {
        agent.unpublish(claim, pod).await.unwrap();
    }
    cluster.end_pod("team-a", "writer").await;
    cluster.end_pod("team-b", "reader").await;
    delete(&cluster.within::<VolumeClaim>("team-a"), &["data"]).await;
    delete(&cluster.within::<VolumeClaim>("team-b"), &["data"]).await;
    cluster.apply_text(CLAIMS).await;
    bound(cluster, &CLAIMED).await;
    let again = claim(cluster, "team-b", "data").await;
    let pod = cluster.pod("team-b", "again", &["data"]).await;
    let at = agent.publish(cluster, &again, &pod, true).await.unwrap();
    assert!(std::fs::read(at.join("file")).unwrap() == content, "the data is intact");
    agent.unpublish(&again, &pod).await.unwrap();
    cluster.end_pod("team-b", "again").await;
    let now: Vec<u64> = agent.backings().iter().map(|uid| inode(uid)).collect();
    assert_eq!(now, made, "no volume was made twice");

    all_goes(cluster, agent).await;
}

/// V6, C2, S1, S3, S11, S13, L1, L5, L6.
#[tokio::test(flavor = "multi_thread")]
async fn l1_s1_the_controller_may_die_at_any_moment() {
    let (cluster, agent) = one_node("256Mi").await;
    let watch = Watch::safety(&cluster);
    let mut random = Random::new("the controller dies at any moment");
    let (deaths, started) = (AtomicU64::new(0), Instant::now());
    let dying = async {
        loop {
            // On a machine that is so busy that a controller gets to nothing in that time, it lives longer.
            let patience = 1 + started.elapsed().as_secs() / 20;
            tokio::time::sleep(Duration::from_millis(random.within(50..300)) * patience as u32).await;
            cluster.kill_controller().await;
            cluster.start_controller().await;
            deaths.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = main_job(&cluster, &agent) => {}
        () = dying => {}
    }
    let (deaths, revisions) = (deaths.into_inner(), watch.assert_unbroken());
    println!(
        "the job took {:?}, the controller died {deaths} times, {revisions} revisions",
        started.elapsed()
    );
    assert!(deaths > 10 && revisions > 50);
}

/// The work of pods: a writer appends numbered lines and fsyncs them, readers verify them.
struct Busy {
    stop: Arc<AtomicBool>,
    done: Vec<Arc<AtomicU64>>,
    threads: Vec<std::thread::JoinHandle<Result<(), String>>>,
}

impl Busy {
    fn start(writer: &Path, readers: &[PathBuf]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut busy = Self { stop, done: vec![], threads: vec![] };
        std::fs::write(writer.join("lines"), "").unwrap();
        let path = writer.join("lines");
        busy.thread(move |n| {
            let mut file = std::fs::File::options().append(true).open(&path)?;
            file.write_all(format!("{n:015}\n").as_bytes())?;
            file.sync_all()
        });
        for reader in readers {
            let path = reader.join("lines");
            busy.thread(move |_| {
                let text = std::fs::read_to_string(&path)?;
                let whole = &text.as_bytes()[..text.len() / 16 * 16];
                for (i, line) in whole.chunks(16).enumerate() {
                    if line != format!("{i:015}\n").as_bytes() {
                        return Err(std::io::Error::other(format!("line {i} is {line:?}")));
                    }
                }
                Ok(())
            });
        }
        busy
    }

    fn thread(&mut self, work: impl Fn(u64) -> std::io::Result<()> + Send + 'static) {
        let (stop, done) = (self.stop.clone(), Arc::new(AtomicU64::new(0)));
        self.done.push(done.clone());
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let n = done.load(Ordering::Relaxed);
                work(n).map_err(|error| format!("operation {n}: {error}"))?;
                done.store(n + 1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        }));
    }

    /// Waits until each thread has done ten more steps.
    async fn go_on(&self) {
        let counts = || self.done.iter().map(|done| done.load(Ordering::Relaxed));
        let before: Vec<u64> = counts().collect();
        until("reads and writes go on", || async {
            (counts().zip(&before).all(|(now, before)| now >= before + 10)
                || self.threads.iter().any(|thread| thread.is_finished()))
            .then_some(())
        })
        .await;
    }

    /// Ends the work. Returns the count of each thread, and fails if a thread met an error.
    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
        self.done.iter().map(|done| done.load(Ordering::Relaxed)).collect()
    }
}

/// M4, M5, L1, L3.
#[tokio::test(flavor = "multi_thread")]
async fn m5_pods_do_not_notice_that_the_agent_dies() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start_process(&cluster, "n1", "256Mi");
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(OBJECTS).await;
    served(&cluster).await;
    cluster.apply_text(CLAIMS).await;
    bound(&cluster, &CLAIMED).await;
    let (write, read) = (claim(&cluster, "team-a", "data").await, claim(&cluster, "team-b", "data").await);
    let writer = cluster.pod("team-a", "writer", &["data"]).await;
    let readers = [
        cluster.pod("team-b", "reader-1", &["data"]).await,
        cluster.pod("team-b", "reader-2", &["data"]).await,
    ];
    let at = agent.publish(&cluster, &write, &writer, false).await.unwrap();
    let mut seen_at = Vec::new();
    for reader in &readers {
        seen_at.push(agent.publish(&cluster, &read, reader, true).await.unwrap());
    }
    let busy = Busy::start(&at, &seen_at);
    for _ in 0..5 {
        busy.go_on().await;
        agent.kill().await;
        busy.go_on().await;
        agent.run();
        busy.go_on().await;
        // The agent serves again, and repeated calls find the earlier result.
        agent.csi().await;
        let told =
            until("it takes calls", || async { agent.publish(&cluster, &write, &writer, false).await.ok() })
                .await;
        assert_eq!(told, at);
    }
    busy.go_on().await;
    println!("operations: {:?}, no error", busy.end());

    // After another kill the agent still has the record of its mounts: unpublish and destroy work, and nothing is
    // left.
    agent.kill().await;
    agent.run();
    agent.csi().await;
    let mounted = [(&write, &writer), (&read, &readers[0]), (&read, &readers[1])];
    for (claim, pod) in mounted {
        until("it takes calls", || async { agent.unpublish(claim, pod).await.ok() }).await;
    }
    for (namespace, pod) in [("team-a", "writer"), ("team-b", "reader-1"), ("team-b", "reader-2")] {
        cluster.end_pod(namespace, pod).await;
    }
    all_goes(&cluster, &agent).await;
    assert!(agent.alive());
}

/// The resourceVersion of every object except the volume `data`.
async fn all_but_data(cluster: &Cluster) -> Vec<(String, Option<String>)> {
    let mut all = everything(cluster).await;
    all.remove("SharedPersistentVolume /data").unwrap();
    all.into_iter().map(|(name, object)| (name, object.resource_version())).collect()
}

/// O4, O5, T2, S1, L1.
#[tokio::test(flavor = "multi_thread")]
async fn l1_t2_a_restart_of_the_api_server_changes_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "256Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    let watch = Watch::safety(&cluster);

    // The API server restarts during the creation of all objects.
    cluster.apply_text(&format!("{OBJECTS}---{CLAIMS}")).await;
    cluster.server.restart_apiserver().await.unwrap();
    served(&cluster).await;
    bound(&cluster, &CLAIMED).await;
    assert_eq!(agent.backings(), volume_uids(&cluster).await);

    // The API server restarts in a settled cluster, and the restart causes no write.
    for namespace in ["team-a", "team-b"] {
        until("the shared volumes are offered, and the exclusive one that is held is not", || async {
            let offer = cluster.within::<VolumeOffer>(namespace).get_opt("ml.n1").await.unwrap()?;
            let volumes: Vec<&str> = offer.spec.volumes.iter().map(|v| &*v.name).collect();
            (volumes == ["data", "model"]).then_some(())
        })
        .await;
    }
    // What a subscription tells later is told by then.
    cluster.quiet_for(AFTER + Duration::from_secs(2)).await;
    let stood = all_but_data(&cluster).await;
    let before = cluster.our_writes().len();
    cluster.server.restart_apiserver().await.unwrap();
    let pod = cluster.pod("team-a", "writer", &["data"]).await;
    let data = claim(&cluster, "team-a", "data").await;
    let at = agent.publish(&cluster, &data, &pod, false).await.unwrap();
    std::fs::write(at.join("file"), "written").unwrap();
    until("the watches are back: the pod is counted", || async {
        let volume = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap();
        (volume.status.unwrap().user_count == 1).then_some(())
    })
    .await;
    cluster.quiet_for(Duration::from_secs(3)).await;
    assert_eq!(all_but_data(&cluster).await, stood, "one pod came, and its volume alone was written");
    // Until a watch is back, a decision on the old cache is refused or changes nothing. Such a decision comes about
    // once a second.
    let since = cluster.our_writes().split_off(before);
    assert!(since.len() <= 40, "{since:#?}");
    agent.unpublish(&data, &pod).await.unwrap();
    cluster.end_pod("team-a", "writer").await;

    // The API server restarts during the deletions.
    for (namespace, name) in CLAIMED {
        cluster.within::<VolumeClaim>(namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster.server.restart_apiserver().await.unwrap();
    all_goes(&cluster, &agent).await;
    watch.assert_unbroken();
    assert_eq!(cluster.controllers_alive(), 1);
    assert!(agent.alive());
}
