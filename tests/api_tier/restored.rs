//! An etcd that is restored from a backup, while the disks keep their data (X9).

use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use reservoir::api::condition::{self, BACKED};
use reservoir::api::{SharedPersistentVolume, VolumeClaim};

use crate::kept::{CLAIM, read_as_pod, start, write_as_pod};
use crate::support::{until, until_gone, until_reason};

/// X9, L5. The restore undoes a volume's DELETE, and pods can mount the volume again with its bytes. A volume that
/// was erased reports that, and can be deleted again.
#[tokio::test(flavor = "multi_thread")]
async fn x9_restored_etcd_keeps_the_bytes() {
    let (mut cluster, mut agent) = start().await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: erased}, \
             spec: {role: eng, size: 32Mi, shared: {}}}",
        )
        .await;
    let (volumes, claims): (Api<SharedPersistentVolume>, Api<VolumeClaim>) =
        (cluster.all(), cluster.within("team"));
    until_reason(&volumes, "erased", "Ready").await;
    cluster.apply_text(CLAIM).await;
    write_as_pod(&cluster, &agent).await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    until("nobody uses it", || async {
        (volumes.get("data").await.unwrap().status.unwrap().claims.is_empty()).then_some(())
    })
    .await;
    let backup = cluster.server.back_up().await.unwrap();

    volumes.delete("erased", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "erased").await;
    // Without a controller the deletion stops at the fence.
    cluster.kill_controller().await;
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    let record = agent.data_file(&uid).with_file_name("record.json");
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    let fenced = || {
        let record = std::fs::read(&record).unwrap();
        serde_json::from_slice::<serde_json::Value>(&record).unwrap_or_default()["fenced"] == true
    };
    until("the volume is fenced on its disk", || async { fenced().then_some(()) }).await;

    agent.kill().await;
    cluster.server.restore(&backup).await.unwrap();
    agent.run();
    cluster.start_controller().await;
    assert!(volumes.get("data").await.unwrap().metadata.deletion_timestamp.is_none());
    until("the fence is lifted", || async { (!fenced()).then_some(()) }).await;
    cluster.apply_text(CLAIM).await;
    read_as_pod(&cluster, &agent).await;

    let said = until("the erased volume is lost", || async {
        let status = volumes.get("erased").await.unwrap().status.unwrap();
        let backed = condition::get(&status.conditions, BACKED)?.clone();
        (backed.reason == "BackingLost").then_some(backed.message)
    })
    .await;
    assert!(said.contains("etcd was restored") && said.contains("delete the volume"), "{said}");
    volumes.delete("erased", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "erased").await;
}

/// L5, V10. The advice for a volume whose data is gone from its disk is to delete it.
#[tokio::test(flavor = "multi_thread")]
async fn l5_a_volume_whose_data_is_lost_can_be_deleted() {
    let (cluster, agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    std::fs::remove_dir_all(agent.data_file(&uid).parent().unwrap()).unwrap();
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "data").await;
    until("the receipt calls nothing erased", || async {
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(cluster.client.clone());
        let events = events.list(&Default::default()).await.unwrap().items;
        events.iter().any(|e| e.note.as_ref().is_some_and(|n| n.contains("nothing was erased"))).then_some(())
    })
    .await;
}
