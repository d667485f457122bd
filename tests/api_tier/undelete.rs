//! The undo of a DELETE: what is kept, for how long, and how it comes back (X8).

use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim};
use serde_json::json;

use crate::kept::{CLAIM, read_as_pod, start, write_as_pod};
use crate::plugin::{does, run};
use crate::support::{Cluster, until, until_gone, until_reason};

fn volume(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {name}}}, \
         spec: {{role: eng, size: 32Mi, shared: {{}}{more}}}}}"
    )
}

async fn keep_for(cluster: &Cluster, name: &str, time: &str) {
    let patch = json!({"spec": {"keepFor": time}});
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    volumes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// The names in the reservation's ledger, with a star if the data is kept.
async fn ledger(cluster: &Cluster) -> Vec<String> {
    let status = cluster.all::<DiskReservation>().get("eng").await.unwrap().status.unwrap();
    let name = |entry: &reservoir::api::LedgerEntry| {
        format!("{}{}", entry.name, if entry.kept.is_some() { "*" } else { "" })
    };
    status.volumes.iter().map(name).collect()
}

async fn destroy(cluster: &Cluster, name: &str) {
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    volumes.delete(name, &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, name).await;
}

/// X8, S1, R6, X6.
#[tokio::test(flavor = "multi_thread")]
async fn x8_a_destroyed_volume_comes_back_with_its_data() {
    let (cluster, agent) = start().await;
    let (volumes, claims): (Api<SharedPersistentVolume>, Api<VolumeClaim>) =
        (cluster.all(), cluster.within("team"));
    let refused = cluster.try_apply(&volume("wrong", ", keepFor: 3 days")).await.unwrap_err().to_string();
    assert!(refused.contains("keepFor is a duration of at most 8784h"), "{refused}");
    keep_for(&cluster, "data", "1h").await;
    cluster.apply_text(CLAIM).await;
    write_as_pod(&cluster, &agent).await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    let old = volumes.get("data").await.unwrap();
    destroy(&cluster, "data").await;
    assert_eq!(agent.backings(), [old.uid().unwrap()], "nothing is erased");
    assert_eq!(ledger(&cluster).await, ["data*"], "and nothing credited");
    let reservations: Api<DiskReservation> = cluster.all();
    let status = reservations.get("eng").await.unwrap().status.unwrap();
    let sizes = [status.used, status.free, status.kept].map(|size| size.unwrap().as_str().to_owned());
    assert_eq!(sizes, ["32Mi", "32Mi", "32Mi"]);
    let refused = reservations.delete("eng", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("data (destroyed, and kept until 2"), "{refused}");
    assert!(refused.contains("to end what is kept of data: kubectl reservoir erase data"), "{refused}");
    let disks: Api<NodeDisk> = cluster.all();
    until("the node reports it", || async {
        let status = disks.get("n1.default").await.unwrap().status.unwrap();
        status.orphans.first()?.kept.as_ref().filter(|kept| !kept.over).map(|_| ())
    })
    .await;
    assert_eq!(does(&cluster, "orphans"), "there is no data without an object\n");
    let listed = does(&cluster, "kept");
    assert!(listed.contains("data") && listed.contains(&old.uid().unwrap()), "{listed}");
    let printed = does(&cluster, "recover");
    let step = format!("kubectl reservoir undelete {}", old.uid().unwrap());
    assert!(printed.contains(&step) && !printed.contains("kind:"), "{printed}");

    // A volume of the old name is there by now.
    cluster.apply_text(&volume("data", "")).await;
    until_reason(&volumes, "data", "Ready").await;
    let taken = run(&cluster, "undelete data");
    assert!(!taken.ok && taken.err.contains("another volume is called data now"), "{}", taken.err);
    destroy(&cluster, "data").await;

    let back = run(&cluster, "undelete data --wait");
    assert!(back.ok && back.err.contains("kubectl reservoir claim data --role eng"), "{}", back.err);
    let new = volumes.get("data").await.unwrap();
    assert_eq!((new.spec.keep_for.as_deref(), new.labels()), (Some("1h"), old.labels()));
    assert_eq!(ledger(&cluster).await, ["data"]);
    cluster.apply_text(CLAIM).await;
    read_as_pod(&cluster, &agent).await;
    assert!(!run(&cluster, "undelete data").ok, "once");

    // A person ends it: by a volume that recovers the data and retires.
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    cluster.end_pod("team", "reader").await;
    destroy(&cluster, "data").await;
    // A claim that waits for it says so, for as long as it is true.
    cluster.apply_text(CLAIM).await;
    let says = async |undelete: bool| {
        until(&format!("the claim names kept data: {undelete}"), || async {
            let status = claims.get("data").await.unwrap().status?;
            let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
            let waits = ready.reason == "NoSuchVolume";
            (waits && ready.message.contains("kubectl reservoir undelete ") == undelete).then_some(())
        })
        .await;
    };
    says(true).await;
    does(&cluster, "erase data --yes");
    until("its bytes are free", || async { ledger(&cluster).await.is_empty().then_some(()) }).await;
    says(false).await;
    agent.nothing_left().await;
}

/// X8, X4: the oldest goes first, and none without need.
#[tokio::test(flavor = "multi_thread")]
async fn x8_a_reservation_takes_kept_bytes_back_when_it_needs_them() {
    let (cluster, agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    keep_for(&cluster, "data", "1h").await;
    cluster.apply_text(&volume("second", ", keepFor: 1h")).await;
    until_reason(&volumes, "second", "Ready").await;
    destroy(&cluster, "second").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    destroy(&cluster, "data").await;
    assert_eq!(ledger(&cluster).await.len(), 2);

    // More than all of it: nothing is erased in vain.
    cluster.apply_text(&volume("large", "").replace("32Mi", "96Mi")).await;
    until_reason(&volumes, "large", "ReservationFull").await;
    cluster.quiet_for(Duration::from_secs(2)).await;
    assert_eq!(agent.backings().len(), 2);
    destroy(&cluster, "large").await;

    cluster.apply_text(&volume("new", "")).await;
    until_reason(&volumes, "new", "Ready").await;
    let mut left = ledger(&cluster).await;
    left.sort();
    assert_eq!(left, ["data*", "new"], "the oldest went");

    // A growth, then a smaller reservation.
    let size = |size: &str| Patch::Merge(json!({"spec": {"size": size}}));
    volumes.patch("new", &PatchParams::default(), &size("64Mi")).await.unwrap();
    until("it has grown", || async {
        let node = volumes.get("new").await.unwrap().status.unwrap().node.unwrap();
        (node.size.unwrap().as_str() == "64Mi").then_some(())
    })
    .await;
    assert_eq!(ledger(&cluster).await, ["new"]);
    keep_for(&cluster, "new", "1h").await;
    destroy(&cluster, "new").await;
    let reservations: Api<DiskReservation> = cluster.all();
    reservations.patch("eng", &PatchParams::default(), &size("16Mi")).await.unwrap();
    until("it is smaller", || async {
        let status = reservations.get("eng").await.unwrap().status.unwrap();
        (status.size.unwrap().as_str() == "16Mi" && status.volumes.is_empty()).then_some(())
    })
    .await;
    agent.nothing_left().await;
}

/// X8: the time is over; the controller and the agent die in between.
#[tokio::test(flavor = "multi_thread")]
async fn x8_kept_data_is_erased_when_its_time_is_over() {
    let (cluster, mut agent) = start().await;
    keep_for(&cluster, "data", "4s").await;
    destroy(&cluster, "data").await;
    assert_eq!(ledger(&cluster).await, ["data*"]);
    cluster.kill_controller().await;
    agent.kill().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    agent.run();
    cluster.start_controller().await;
    until("its bytes are free", || async { ledger(&cluster).await.is_empty().then_some(()) }).await;
    agent.nothing_left().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("no object is left", || async {
        volumes.list(&Default::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
}

/// X8: nobody reads of data that is erased, for as long as a report of the disks is old.
#[tokio::test(flavor = "multi_thread")]
async fn x8_erased_data_is_listed_no_more() {
    let (cluster, mut agent) = start().await;
    let disks: Api<NodeDisk> = cluster.all();
    let listed = async || disks.get("n1.default").await.unwrap().status.unwrap().orphans.len();
    keep_for(&cluster, "data", "1h").await;
    destroy(&cluster, "data").await;
    until("the disk lists it", || async { (listed().await == 1).then_some(()) }).await;
    agent.kill().await;
    agent.measure_every = Duration::from_secs(3600);
    agent.run();
    does(&cluster, "erase data --yes");
    until("the disk lists it no more", || async { (listed().await == 0).then_some(()) }).await;
    agent.nothing_left().await;
}

/// X6, X4: a volume that is deleted before it has its recovered data takes the data along.
#[tokio::test(flavor = "multi_thread")]
async fn x6_a_recovery_that_is_deleted_at_once_leaves_no_bytes() {
    let (cluster, mut agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    keep_for(&cluster, "data", "1h").await;
    destroy(&cluster, "data").await;
    agent.kill().await;
    cluster.apply_text(&volume("back", &format!(", reservation: eng, recover: {{uid: {uid}}}"))).await;
    until("it is placed", || async { volumes.get("back").await.unwrap().status?.node_name.map(|_| ()) })
        .await;
    volumes.delete("back", &DeleteParams::default()).await.unwrap();
    agent.run();
    until_gone(&volumes, "back").await;
    agent.nothing_left().await;
    assert_eq!(ledger(&cluster).await, [""; 0]);
}
