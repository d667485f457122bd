//! Disks that are not what they were (D3).

use kube::Api;
use kube::api::DeleteParams;
use reservoir::api::{BackingState, DiskReservation, EnforcementState, NodeDisk, SharedPersistentVolume};

use crate::support::{Agent, Cluster, until, until_gone, until_reason};

/// D1, D5.
#[tokio::test(flavor = "multi_thread")]
async fn d3_another_disk_in_the_place_of_a_known_one_is_refused() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "4Gi").await;
    let disks: Api<NodeDisk> = cluster.all();
    let reservations: Api<DiskReservation> = cluster.all();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    let id = disks.get("n1.default").await.unwrap().spec.disk_id;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: r}, \
             spec: {role: eng, size: 1Gi}}\n---\n\
             {apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: v}, \
             spec: {role: eng, size: 64Mi, shared: {}}}",
        )
        .await;
    until_reason(&volumes, "v", "Ready").await;
    let status = disks.get("n1.default").await.unwrap().status.unwrap();
    assert_eq!(status.enforcement.unwrap().state, EnforcementState::Proven);
    let roles: Vec<_> =
        status.roles.iter().map(|r| (r.role.as_str(), r.reserved.as_str(), r.reservations)).collect();
    assert_eq!(roles, [("eng", "1Gi", 1)]);

    // One that the agent's configuration no longer has is marked, not forgotten.
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: NodeDisk, metadata: {name: n1.old}, spec: {nodeName: n1, \
             diskName: old, diskID: 00112233-4455-6677-8899-aabbccddeeff, kind: Path, backing: Loop, path: /old}}",
        )
        .await;
    let said = until_reason(&disks, "n1.old", "DiskRefused").await;
    assert!(said.contains("not in the agent's configuration any more"), "{said}");

    let data = agent.data_file(&volumes.get("v").await.unwrap().metadata.uid.unwrap());

    // The file system that belongs there was not mounted.
    agent.kill().await;
    let (place, away) = (agent.dir.join("disk"), agent.dir.join("away"));
    std::fs::rename(&place, &away).unwrap();
    std::fs::create_dir(&place).unwrap();
    agent.run();
    let said = until_reason(&disks, "n1.default", "DiskRefused").await;
    assert!(said.contains("is another one (ID ") && said.contains("mount the right disk"), "{said}");
    assert_eq!(disks.get("n1.default").await.unwrap().spec.disk_id, id);

    // Nothing is taken for erased because it is not there.
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    until("the volume cannot be fenced", || async {
        let status = volumes.get("v").await.unwrap().status.unwrap();
        assert_eq!(status.node.unwrap().backing, BackingState::Made);
        let backed = status.conditions.into_iter().find(|c| c.type_ == "Backed").unwrap();
        (backed.reason == "BackingFailed" && backed.message.contains("another one")).then_some(())
    })
    .await;

    // The right one is back, found by the agent as it runs; and the destruction goes on, with a true receipt.
    std::fs::rename(&place, agent.dir.join("wrong")).unwrap();
    std::fs::rename(&away, &place).unwrap();
    until_reason(&disks, "n1.default", "Ready").await;
    until_gone(&volumes, "v").await;
    assert!(!data.exists());
    assert_eq!(reservations.get("r").await.unwrap().status.unwrap().volumes, []);
    until("the receipt is in an event", || async {
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(cluster.client.clone());
        let events = events.list(&Default::default()).await.unwrap().items;
        events.iter().any(|e| e.note.as_ref().is_some_and(|n| n.contains("64Mi given back"))).then_some(())
    })
    .await;
    let receipts = agent.dir.join("disk/receipts");
    until("the receipt is not kept for ever", || async {
        std::fs::read_dir(&receipts).unwrap().next().is_none().then_some(())
    })
    .await;
}
