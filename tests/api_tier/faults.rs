//! What is killed, lost or doubled in the middle, and what holds all the same.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use reservoir::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeOffer,
};
use serde_json::json;

use crate::support::{
    Agent, Cluster, Random, Watch, everything, strip_and_delete, until, until_gone, until_reason,
};

const ROOM: &str = "
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

const CLAIMS: &str = "
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

const VOLUMES: [&str; 3] = ["data", "model", "solo"];
const CLAIMED: [(&str, &str); 4] =
    [("team-a", "data"), ("team-b", "data"), ("team-a", "model"), ("team-a", "solo")];

async fn served(cluster: &Cluster) {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    for name in VOLUMES {
        until_reason(&volumes, name, "Ready").await;
    }
}

async fn bound(cluster: &Cluster, claims: &[(&str, &str)]) {
    for (namespace, name) in claims {
        until_reason(&cluster.within::<VolumeClaim>(namespace), name, "Bound").await;
    }
}

async fn claim(cluster: &Cluster, namespace: &str, name: &str) -> VolumeClaim {
    cluster.within(namespace).get(name).await.unwrap()
}

async fn volume_uids(cluster: &Cluster) -> Vec<String> {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let mut uids: Vec<String> =
        volumes.list(&Default::default()).await.unwrap().iter().filter_map(ResourceExt::uid).collect();
    uids.sort();
    uids
}

/// Deletes what admission may refuse for a while yet, until it does not, and waits for its end.
async fn delete<K>(api: &Api<K>, names: &[&str])
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

/// Claims, volumes and reservations go, and nothing of them is left anywhere.
async fn all_goes(cluster: &Cluster, agent: &Agent) {
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

/// The disk has all its room back, and of volumes and claims there is no trace.
async fn nothing_left(cluster: &Cluster) {
    until("the disks have their room back", || async {
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

/// The whole main job; returns the inode of the volume's file, which is never another one.
async fn main_job(cluster: &Cluster, agent: &Agent) {
    cluster.apply_text(ROOM).await;
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

    // The exclusive volume goes from one namespace to the other.
    let waiting = "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim,
        metadata: {name: solo, namespace: team-b}, spec: {role: eng/ml, volume: solo}}";
    cluster.apply_text(waiting).await;
    until_reason(&cluster.within::<VolumeClaim>("team-b"), "solo", "VolumeHeld").await;
    delete(&cluster.within::<VolumeClaim>("team-a"), &["solo"]).await;
    bound(cluster, &[("team-b", "solo")]).await;
    delete(&cluster.within::<VolumeClaim>("team-b"), &["solo"]).await;

    // Users and claims go; the data stays for the next.
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
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "256Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    let watch = Watch::safety(&cluster);
    let mut random = Random::new("the controller dies at any moment");
    let deaths = AtomicU64::new(0);
    let dying = async {
        loop {
            tokio::time::sleep(Duration::from_millis(random.within(50..300))).await;
            cluster.kill_controller().await;
            cluster.start_controller().await;
            deaths.fetch_add(1, Ordering::Relaxed);
        }
    };
    let started = Instant::now();
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

/// What a pod does all day: it appends numbered lines and fsyncs them, or reads and verifies them.
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

    /// Waits until each of the threads has done ten more things.
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

    /// How often each did what it does; fails if one of them met an error.
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
    cluster.apply_text(ROOM).await;
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
        // It serves again, and what it is told again is as it was.
        agent.csi().await;
        let told =
            until("it takes calls", || async { agent.publish(&cluster, &write, &writer, false).await.ok() })
                .await;
        assert_eq!(told, at);
    }
    busy.go_on().await;
    println!("operations: {:?}, no error", busy.end());

    // Killed once more, it still knows what it mounted: unpublish and destroy work, and nothing is left.
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

/// Which revision every object is of, but for the volume `data`.
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

    // Everything at once, and off.
    cluster.apply_text(&format!("{ROOM}---{CLAIMS}")).await;
    cluster.server.restart_apiserver().await.unwrap();
    served(&cluster).await;
    bound(&cluster, &CLAIMED).await;
    assert_eq!(agent.backings(), volume_uids(&cluster).await);

    // Settled, it restarts, and nothing is written because of that.
    for namespace in ["team-a", "team-b"] {
        until("the shared volumes are offered, and the exclusive one that is held is not", || async {
            let offer = cluster.within::<VolumeOffer>(namespace).get_opt("ml.n1").await.unwrap()?;
            let volumes: Vec<&str> = offer.spec.volumes.iter().map(|v| &*v.name).collect();
            (volumes == ["data", "model"]).then_some(())
        })
        .await;
    }
    cluster.quiet_for(Duration::from_secs(2)).await;
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
    // Until a watch is back, what was decided on its old picture is refused or changes nothing, about once a second.
    let since = cluster.our_writes().split_off(before);
    assert!(since.len() <= 40, "{since:#?}");
    agent.unpublish(&data, &pod).await.unwrap();
    cluster.end_pod("team-a", "writer").await;

    // In the middle of the end.
    for (namespace, name) in CLAIMED {
        cluster.within::<VolumeClaim>(namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster.server.restart_apiserver().await.unwrap();
    all_goes(&cluster, &agent).await;
    watch.assert_unbroken();
    assert_eq!(cluster.controllers_alive(), 1);
    assert!(agent.alive());
}

/// R1, V1, S1, S2, S3, S15, L2.
#[tokio::test(flavor = "multi_thread")]
async fn s1_two_controllers_never_give_away_too_much() {
    let cluster = Cluster::start().await;
    cluster.start_controller().await;
    let mut agents = Vec::new();
    // Three places of 128Mi on each of two disks, and one disk for the volumes: 20 places of 16Mi in four rooms.
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

    // All that fit are served, and the rest say why.
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
    until("20 of 30 volumes are made, and the rest say why", || async {
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

    // Nobody is charged in two places, and what the objects say is what the ledgers say.
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

    // All of it goes; those that waited are served in between and go too.
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

/// D4, O6.
#[tokio::test(flavor = "multi_thread")]
async fn d4_o6_an_unreachable_node_loses_nothing() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "256Mi").await;
    let disks: Api<NodeDisk> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    cluster.apply_text(ROOM).await;
    served(&cluster).await;
    let claims = CLAIMS.split("---").next().unwrap();
    cluster.apply_text(claims).await;
    bound(&cluster, &CLAIMED[..1]).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let offers: Api<VolumeOffer> = cluster.within("team-b");
    let nodes: Api<Node> = cluster.all();
    // The exclusive one nobody holds, and both shared ones, whether held or not.
    let offered = || async {
        let offer = offers.get_opt("ml.n1").await.unwrap()?;
        (offer.spec.volumes.len() == 3).then_some(())
    };
    until("all volumes are offered", offered).await;
    let ledgers = || async {
        let disk = disks.get("n1.default").await.unwrap().status.unwrap();
        let eng = cluster.all::<DiskReservation>().get("eng").await.unwrap().status.unwrap();
        (disk.reservations, disk.reserved, eng.volumes, eng.used)
    };
    let (before, backings) = (ledgers().await, agent.backings());
    for (what, why) in [("is not Ready", "node n1 is not Ready"), ("is not there", "there is no Node n1")] {
        if what == "is not Ready" {
            cluster.node("n1", false).await;
        } else {
            nodes.delete("n1", &DeleteParams::default()).await.unwrap();
        }
        let said = until_reason(&disks, "n1.default", "NodeUnreachable").await;
        assert_eq!(said, format!("{why}; its reservations and data stay"));
        until(&format!("the node {what}: no offer"), || async {
            offers.get_opt("ml.n1").await.unwrap().is_none().then_some(())
        })
        .await;
        for name in VOLUMES {
            let said = until_reason(&volumes, name, "NodeUnreachable").await;
            assert!(said.contains("the data stays on it"), "{said}");
        }
        // A new claim waits; a reservation elsewhere would be served, here it waits too.
        let late = "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim,
            metadata: {name: late, namespace: team-b}, spec: {role: eng/ml, volume: data}}";
        cluster.apply_text(late).await;
        let said = until_reason(&cluster.within::<VolumeClaim>("team-b"), "late", "VolumeNotReady").await;
        assert!(said.contains(why), "{said}");
        cluster.quiet_for(Duration::from_secs(1)).await;
        assert_eq!((ledgers().await, agent.backings()), (before.clone(), backings.clone()));
        let held = volumes.get("data").await.unwrap().status.unwrap();
        assert_eq!((held.claims.len(), held.node_name.as_deref()), (1, Some("n1")));

        cluster.node("n1", true).await;
        until_reason(&disks, "n1.default", "Ready").await;
        served(&cluster).await;
        until("all volumes are offered again", offered).await;
        bound(&cluster, &[("team-a", "data"), ("team-b", "late")]).await;
        delete(&cluster.within::<VolumeClaim>("team-b"), &["late"]).await;
        assert_eq!((ledgers().await, agent.backings()), (before.clone(), backings.clone()));
    }
    all_goes(&cluster, &agent).await;
}

/// X1, L5.
#[tokio::test(flavor = "multi_thread")]
async fn x1_l5_a_claim_that_was_stripped_blocks_nothing() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "256Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(ROOM).await;
    served(&cluster).await;
    cluster.apply_text(CLAIMS).await;
    bound(&cluster, &CLAIMED).await;
    let pods: Api<Pod> = cluster.within("team-a");
    let user = cluster.pod("team-a", "user", &["data"]).await;
    let data = claim(&cluster, "team-a", "data").await;
    let at = agent.publish(&cluster, &data, &user, false).await.unwrap();
    std::fs::write(at.join("file"), "used").unwrap();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("the pod is counted", || async {
        (volumes.get("data").await.unwrap().status.unwrap().user_count == 1).then_some(())
    })
    .await;

    // The controller does not see how they go.
    cluster.kill_controller().await;
    for (namespace, name) in CLAIMED {
        strip_and_delete(&cluster.within::<VolumeClaim>(namespace), name).await;
    }
    cluster.start_controller().await;
    until("only the claim that a pod uses is remembered", || async {
        let all = volumes.list(&Default::default()).await.unwrap();
        let kept = all.iter().map(|v| v.status.as_ref().map_or(9, |s| s.claims.len()));
        (kept.collect::<Vec<_>>() == [1, 0, 0]).then_some(())
    })
    .await;
    let refused = volumes.delete("data", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("in use by 1 pod: team-a/user"), "{refused}");
    assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), "used");
    agent.unpublish(&data, &user).await.unwrap();
    cluster.end_pod("team-a", "user").await;
    until_gone(&pods, "user").await;
    all_goes(&cluster, &agent).await;
    let _: Option<RoleSubscription> = cluster.within("team-a").get_opt("ml").await.unwrap();
}
