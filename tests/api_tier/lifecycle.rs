//! The main job, step by step, with the unchanged manifests of examples/.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::DeleteParams;
use reservoir::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeOffer, VolumeRole,
};

use crate::support::{Agent, Cluster, until, until_gone, until_reason};

/// D1, R1, R6, V1, V4, V5, V6, O1, O2, O4, O7, C1, C2, C3, C5, C6, M1, M3, X1, X4, X7, L4, L5.
#[tokio::test(flavor = "multi_thread")]
async fn l1_the_main_job_works_with_the_examples_as_they_are() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "4Gi").await;
    let disks: Api<NodeDisk> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    let free = |disk: NodeDisk| disk.status.unwrap().free.unwrap().to_string();
    assert_eq!(free(disks.get("n1.default").await.unwrap()), "4Gi");

    // R1: one reservation is served. The other one waits, and reports the missing bytes of each disk.
    cluster.example("01-reservation.yaml").await;
    cluster.example("02-reservation-too-large.yaml").await;
    let reservations: Api<DiskReservation> = cluster.all();
    until_reason(&reservations, "analytics", "Ready").await;
    let said = until_reason(&reservations, "analytics-archive", "NotEnoughRoom").await;
    assert!(said.starts_with("500Ti asked for: n1.default has "), "{said}");
    until("the disk is charged", || async {
        (free(disks.get("n1.default").await.unwrap()) == "2Gi").then_some(())
    })
    .await;

    // V1, V5: the bytes are really allocated.
    cluster.example("03-volumes.yaml").await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    for name in ["datasets", "scratch"] {
        until_reason(&volumes, name, "Ready").await;
    }
    let datasets = volumes.get("datasets").await.unwrap();
    let data = agent.data_file(&datasets.metadata.uid.clone().unwrap());
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&data).unwrap());
    assert!(blocks * 512 >= 1 << 30, "preallocated: {blocks} blocks");

    // O1, O2: both namespaces see an offer of the node.
    cluster.example("04-subscriptions.yaml").await;
    for namespace in ["team-a", "team-b"] {
        until_reason(&cluster.within::<RoleSubscription>(namespace), "analytics", "Subscribed").await;
        let offers: Api<VolumeOffer> = cluster.within(namespace);
        until("both volumes are offered", || async {
            let offer = offers.get_opt("analytics.n1").await.unwrap()?;
            (offer.spec.volumes.len() == 2 && offer.spec.reservations[0].free.as_str() == "960Mi")
                .then_some(())
        })
        .await;
    }
    until_reason(&cluster.all::<VolumeRole>(), "analytics", "Ready").await;

    // C1, C2, C5: claims bind, and make PersistentVolumeClaims of their own names.
    cluster.example("05-claims.yaml").await;
    let (a, b): (Api<VolumeClaim>, Api<VolumeClaim>) = (cluster.within("team-a"), cluster.within("team-b"));
    for (api, name) in [(&a, "datasets"), (&b, "datasets"), (&a, "scratch")] {
        until_reason(api, name, "Bound").await;
    }
    let writer_claim = a.get("datasets").await.unwrap();
    let reader_claim = b.get("datasets").await.unwrap();
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team-b");
    let modes = pvcs.get("datasets").await.unwrap().spec.unwrap().access_modes.unwrap();
    assert_eq!(modes, ["ReadOnlyMany"]);

    // M1, M3: a writer and readers at once, in any order; the policy sets readOnly for the reader's pod.
    let reader = cluster.pod("team-b", "reader", &["datasets"]).await;
    let said_so =
        reader.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].persistent_volume_claim.as_ref().unwrap();
    assert_eq!(said_so.read_only, Some(true), "set at admission");
    let writer = cluster.pod("team-a", "writer", &["datasets"]).await;
    let refused = agent.publish(&cluster, &reader_claim, &reader, false).await.unwrap_err();
    assert!(refused.message().contains("without readOnly: true"), "{refused}");
    let read = agent.publish(&cluster, &reader_claim, &reader, true).await.unwrap();
    let write = agent.publish(&cluster, &writer_claim, &writer, false).await.unwrap();
    std::fs::write(write.join("file"), "hello").unwrap();
    assert_eq!(std::fs::read_to_string(read.join("file")).unwrap(), "hello");
    let refused = std::fs::write(read.join("mine"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30), "EROFS");

    // V5: beyond the size the writer gets ENOSPC, and no other pod does.
    let scratch_claim = a.get("scratch").await.unwrap();
    let filler = cluster.pod("team-a", "filler", &["scratch"]).await;
    let scratch = agent.publish(&cluster, &scratch_claim, &filler, false).await.unwrap();
    let full = std::fs::write(scratch.join("fill"), vec![1u8; 80 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(28), "ENOSPC");
    std::fs::write(write.join("other"), "still writable").unwrap();

    // C3: the second claim to the exclusive volume waits and names its holder.
    cluster.example("09-second-claim.yaml").await;
    let said = until_reason(&b, "scratch", "VolumeHeld").await;
    assert!(said.contains("held by claim team-a/scratch"), "{said}");

    // X1: DELETE is refused with the names of the pods, and changes nothing.
    until("both users are counted", || async {
        (volumes.get("datasets").await.unwrap().status.unwrap().user_count == 2).then_some(())
    })
    .await;
    let refused = volumes.delete("datasets", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(
        refused.contains("volume datasets is in use by 2 pods: team-a/writer, team-b/reader"),
        "{refused}"
    );
    let refused = reservations.delete("analytics", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("reservation analytics holds 2 volumes: "), "{refused}");
    let refused = disks.delete("n1.default", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("disk n1.default holds 1 reservation: analytics"), "{refused}");
    std::fs::write(write.join("after"), "goes on").unwrap();
    assert!(volumes.get("datasets").await.unwrap().metadata.deletion_timestamp.is_none());

    // C6: a claim's deletion waits for its pods and names them. Then the volume is free and the data stays.
    b.delete("datasets", &DeleteParams::default()).await.unwrap();
    let said = until_reason(&b, "datasets", "InUse").await;
    assert!(said.contains("team-b/reader"), "{said}");
    for (claim, pod) in [(&reader_claim, &reader), (&writer_claim, &writer), (&scratch_claim, &filler)] {
        agent.unpublish(claim, pod).await.unwrap();
    }
    for (namespace, pod) in [("team-b", "reader"), ("team-a", "writer"), ("team-a", "filler")] {
        cluster.end_pod(namespace, pod).await;
    }
    until_gone(&b, "datasets").await;
    for name in ["datasets", "scratch"] {
        a.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&a, name).await;
    }
    // C3: the waiting claim is bound.
    until_reason(&b, "scratch", "Bound").await;

    // V6: a new claim, by selector, and a new pod find the data.
    cluster.apply_text(&first_document("10-again.yaml")).await;
    until_reason(&b, "datasets-again", "Bound").await;
    let again = b.get("datasets-again").await.unwrap();
    let pod = cluster.pod("team-b", "again", &["datasets-again"]).await;
    let target = agent.publish(&cluster, &again, &pod, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("after")).unwrap(), "goes on");
    agent.unpublish(&again, &pod).await.unwrap();
    cluster.end_pod("team-b", "again").await;
    let refused = volumes.delete("datasets", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(
        refused.contains("in use by") || refused.contains("bound to 1 claim: team-b/datasets-again"),
        "{refused}"
    );
    for name in ["datasets-again", "scratch"] {
        b.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&b, name).await;
    }

    // X3, X4: unused volumes are destroyed. The bytes are gone, and the reservation and then the disk have the free
    // space back.
    for name in ["datasets", "scratch"] {
        volumes.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&volumes, name).await;
    }
    assert!(!data.exists(), "erased");
    let reserved = reservations.get("analytics").await.unwrap().status.unwrap();
    assert_eq!((reserved.volumes.len(), reserved.free.unwrap().to_string()), (0, "2Gi".to_owned()));
    for name in ["analytics", "analytics-archive"] {
        reservations.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&reservations, name).await;
    }
    until("the disk has its free space back", || async {
        (free(disks.get("n1.default").await.unwrap()) == "4Gi").then_some(())
    })
    .await;
    until("no PersistentVolume is left", || async {
        cluster
            .all::<PersistentVolume>()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
            .then_some(())
    })
    .await;
}

fn first_document(example: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n---\n").next().unwrap().to_owned()
}
