//! Volumes that are resized, retired, or on a disk that was declared gone (V7, X5, D4, Q4).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use reservoir::api::condition::{self, RESIZED, RETIRING};
use reservoir::api::{
    DiskReservation, NodeDisk, SharedPersistentVolume, Size, UNKNOWN_DISK, VolumeClaim, VolumeOffer,
};
use serde_json::json;

use crate::support::{Agent, Cluster, Random, Watch, one_node, until, until_gone, until_reason};

/// Waits until the volume's condition has the reason, while the volume stays usable; returns the message.
async fn until_said(volumes: &Api<SharedPersistentVolume>, name: &str, type_: &str, reason: &str) -> String {
    until(&format!("{type_} of {name} is {reason}"), || async {
        let conditions = volumes.get(name).await.unwrap().status.unwrap().conditions;
        assert!(condition::is_true(&conditions, "Ready"), "{name} stays usable: {conditions:?}");
        condition::get(&conditions, type_).filter(|c| c.reason == reason).map(|c| c.message.clone())
    })
    .await
}

async fn set(volumes: &Api<SharedPersistentVolume>, name: &str, spec: serde_json::Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    volumes.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// Waits until the volume has one size everywhere: in its status, on the node, in the ledger, and in the file itself.
async fn until_sized(cluster: &Cluster, agent: &Agent, name: &str, size: &str) {
    let bytes = Size::written(size).bytes().unwrap();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until(&format!("{name} has {size}"), || async {
        let volume = volumes.get(name).await.unwrap();
        let (uid, status) = (volume.uid().unwrap(), volume.status.unwrap());
        let home = status.reservation.unwrap().name;
        let reservation = cluster.all::<DiskReservation>().get(&home).await.unwrap().status.unwrap();
        let line = reservation.volumes.iter().find(|line| line.uid == uid).unwrap().size.bytes();
        let node = status.node.unwrap();
        let ready = condition::get(&status.conditions, "Ready").unwrap().message.clone();
        (status.size.unwrap().bytes() == Ok(bytes)
            && node.size.unwrap().bytes() == Ok(bytes)
            && node.growing.is_none()
            && !status.credit_due
            && line == Ok(bytes)
            && ready == format!("{size} on node n1"))
        .then_some(())
    })
    .await;
    let data = std::fs::metadata(agent.data_file(&volumes.get(name).await.unwrap().uid().unwrap())).unwrap();
    assert!(data.len() == bytes && data.blocks() * 512 >= bytes, "{name}: {} blocks", data.blocks());
}

/// Checks the volume's part of V7 at every revision: the granted size is never less than the size that the node may
/// have.
fn watch_sizes(cluster: &Cluster) -> Watch {
    let mut watch = Watch::safety(cluster);
    watch.each(cluster.all::<SharedPersistentVolume>(), |volume| {
        let Some(status) = &volume.status else { return Ok(()) };
        let bytes = |size: &Option<Size>| size.as_ref().map_or(0, Size::bytes_or_zero);
        let node = status.node.clone().unwrap_or_default();
        match bytes(&status.size) >= bytes(&node.size).max(bytes(&node.growing)) {
            true => Ok(()),
            false => Err(format!("{:?} granted, the node has {node:?}", status.size)),
        }
    });
    watch
}

/// Waits until the claim's PersistentVolume and PersistentVolumeClaim have the size, too.
async fn until_capacity(cluster: &Cluster, claim: &VolumeClaim, size: &str) {
    let pvs: Api<PersistentVolume> = cluster.all();
    let pvcs: Api<PersistentVolumeClaim> = cluster.within(&claim.namespace().unwrap());
    let pv = claim.status.as_ref().unwrap().persistent_volume.as_ref().unwrap();
    let says =
        |capacity: Option<BTreeMap<String, Quantity>>| capacity.is_some_and(|c| c["storage"].0 == size);
    until(&format!("PersistentVolume and PersistentVolumeClaim have {size}"), || async {
        let (pv, pvc) = (pvs.get(pv).await.unwrap(), pvcs.get(&claim.name_any()).await.unwrap());
        (says(pv.spec.unwrap().capacity) && says(pvc.status.unwrap().capacity)).then_some(())
    })
    .await;
}

async fn events_say(cluster: &Cluster, reason: &str, note: &str) {
    until(&format!("an event {reason} with the note {note}"), || async {
        let events: Api<Event> = Api::all(cluster.client.clone());
        let events = events.list(&Default::default()).await.unwrap().items;
        let said = |e: &Event| {
            e.reason.as_deref() == Some(reason) && e.note.as_deref().is_some_and(|n| n.contains(note))
        };
        events.iter().any(said).then_some(())
    })
    .await;
}

/// A cluster with a node, its agent with a disk, and these examples.
async fn with_examples(steps: &[&str]) -> (Cluster, Agent) {
    let (cluster, agent) = one_node("4Gi").await;
    for step in steps {
        cluster.example(&format!("{step}.yaml")).await;
    }
    (cluster, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn v7_volumes_grow_and_shrink() {
    let (cluster, agent) = with_examples(&["01-reservation", "03-volumes", "04-subscriptions"]).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    for name in ["datasets", "scratch"] {
        until_reason(&volumes, name, "Ready").await;
    }
    let watch = watch_sizes(&cluster);

    cluster.example("14-resize.yaml").await;
    until_sized(&cluster, &agent, "datasets", "1280Mi").await;
    until_said(&volumes, "datasets", RESIZED, "Resized").await;
    let offers: Api<VolumeOffer> = cluster.within("team-a");
    until("the offer has the new size", || async {
        let offer = offers.get_opt("analytics.n1").await.unwrap()?;
        let size =
            |name: &str| offer.spec.volumes.iter().find(|v| v.name == name).map(|v| v.size.to_string());
        (size("datasets").as_deref() == Some("1280Mi")).then_some(())
    })
    .await;

    // A size beyond the free space is refused with the numbers, and the volume stays usable. Later free space grants
    // the size.
    set(&volumes, "scratch", json!({"size": "800Mi"})).await;
    let said = until_said(&volumes, "scratch", RESIZED, "ReservationFull").await;
    assert!(
        said.starts_with("800Mi wished, 736Mi more than it has, and reservation analytics has 704Mi left"),
        "{said}"
    );
    until_said(&volumes, "scratch", "Ready", "Ready").await;
    set(&volumes, "datasets", json!({"size": "1Gi"})).await;
    until_sized(&cluster, &agent, "datasets", "1Gi").await;
    until_sized(&cluster, &agent, "scratch", "800Mi").await;
    // A request that is taken back has no effect.
    set(&volumes, "scratch", json!({"size": "3Gi"})).await;
    until_said(&volumes, "scratch", RESIZED, "ReservationFull").await;
    set(&volumes, "scratch", json!({"size": "96Mi"})).await;
    until_sized(&cluster, &agent, "scratch", "96Mi").await;

    // A volume in use does not shrink, and names its users. Once unused, it shrinks and keeps its data.
    cluster.example("05-claims.yaml").await;
    let claims: Api<VolumeClaim> = cluster.within("team-a");
    until_reason(&claims, "scratch", "Bound").await;
    let (claim, pod) =
        (claims.get("scratch").await.unwrap(), cluster.pod("team-a", "user", &["scratch"]).await);
    let mounted = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    let data: Vec<u8> = (0..8u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(mounted.join("data"), &data).unwrap();
    until("the pod is counted", || async {
        (volumes.get("scratch").await.unwrap().status.unwrap().user_count == 1).then_some(())
    })
    .await;
    set(&volumes, "scratch", json!({"size": "48Mi"})).await;
    let said = until_said(&volumes, "scratch", RESIZED, "ShrinkInUse").await;
    assert!(said.contains("after the end of pod team-a/user"), "{said}");
    assert!(std::fs::read(mounted.join("data")).unwrap() == data);
    agent.unpublish(&claim, &pod).await.unwrap();
    cluster.end_pod("team-a", "user").await;
    until_sized(&cluster, &agent, "scratch", "48Mi").await;
    // A size below the data's is refused.
    set(&volumes, "scratch", json!({"size": "16Mi"})).await;
    let said = until_said(&volumes, "scratch", RESIZED, "ResizeFailed").await;
    assert!(said.starts_with("it stays at 48Mi: ") && said.contains("and 16777216 were asked for"), "{said}");
    set(&volumes, "scratch", json!({"size": "64Mi"})).await;
    until_sized(&cluster, &agent, "scratch", "64Mi").await;
    let pod = cluster.pod("team-a", "again", &["scratch"]).await;
    let mounted = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    assert!(std::fs::read(mounted.join("data")).unwrap() == data);
    agent.unpublish(&claim, &pod).await.unwrap();
    println!("{} revisions", watch.assert_unbroken());
}

#[tokio::test(flavor = "multi_thread")]
async fn v7_an_xfs_volume_grows_under_its_writers_and_never_shrinks() {
    let (cluster, agent) = with_examples(&["01-reservation", "04-subscriptions"]).await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: logs}, \
             spec: {role: analytics, size: 304Mi, fsType: xfs, shared: {}}}\n---\n\
             {apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: logs, namespace: team-a}, \
             spec: {role: analytics, volume: logs}}",
        )
        .await;
    let (volumes, claims): (Api<SharedPersistentVolume>, Api<VolumeClaim>) =
        (cluster.all(), cluster.within("team-a"));
    until_reason(&claims, "logs", "Bound").await;
    let claim = claims.get("logs").await.unwrap();
    let mut mounted = Vec::new();
    for name in ["one", "two"] {
        let pod = cluster.pod("team-a", name, &["logs"]).await;
        mounted.push((agent.publish(&cluster, &claim, &pod, false).await.unwrap(), pod));
    }
    std::fs::write(mounted[0].0.join("before"), "there").unwrap();
    set(&volumes, "logs", json!({"size": "400Mi"})).await;
    until_sized(&cluster, &agent, "logs", "400Mi").await;
    until_capacity(&cluster, &claim, "400Mi").await;
    // More bytes than before fit, through the same mount.
    std::fs::write(mounted[1].0.join("large"), vec![1u8; 310 << 20]).unwrap();
    assert_eq!(std::fs::read_to_string(mounted[1].0.join("before")).unwrap(), "there");
    let full = std::fs::write(mounted[0].0.join("more"), vec![1u8; 90 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(28), "ENOSPC at the new size");

    set(&volumes, "logs", json!({"size": "304Mi"})).await;
    let said = until_said(&volumes, "logs", RESIZED, "CannotShrink").await;
    assert_eq!(said, "xfs cannot shrink: set spec.size back to 400Mi, or create a smaller volume and copy");
    set(&volumes, "logs", json!({"size": "400Mi"})).await;
    until_said(&volumes, "logs", RESIZED, "Resized").await;
    for (_, pod) in &mounted {
        agent.unpublish(&claim, pod).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v7_a_resize_outlives_controller_and_agent() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start_process(&cluster, "n1", "256Mi");
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: r}, \
             spec: {role: eng, size: 192Mi}}\n---\n\
             {apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: a}, \
             spec: {role: eng, size: 64Mi, shared: {}}}\n---\n\
             {apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: b}, \
             spec: {role: eng, size: 64Mi, shared: {}}}",
        )
        .await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    for name in ["a", "b"] {
        until_reason(&volumes, name, "Ready").await;
    }
    let watch = watch_sizes(&cluster);
    let mut random = Random::new("resizes");
    for round in 0..24 {
        // Sometimes the two sizes exceed the reservation.
        for name in ["a", "b"] {
            set(&volumes, name, json!({"size": format!("{}Mi", 16 * random.within(2..9))})).await;
        }
        tokio::time::sleep(Duration::from_millis(random.within(0..300))).await;
        if round % 2 == 0 {
            cluster.kill_controller().await;
            cluster.start_controller().await;
        }
        // Two controllers at once, as after the pause of a leader.
        if round % 8 == 7 {
            cluster.start_controller().await;
        }
        if round % 3 == 0 {
            agent.kill().await;
            agent.run();
        }
    }
    set(&volumes, "a", json!({"size": "48Mi"})).await;
    set(&volumes, "b", json!({"size": "144Mi"})).await;
    until_sized(&cluster, &agent, "a", "48Mi").await;
    until_sized(&cluster, &agent, "b", "144Mi").await;
    println!("{} revisions", watch.assert_unbroken());
    cluster.quiet_for(Duration::from_secs(3)).await;
}

/// Q4, X5.
#[tokio::test(flavor = "multi_thread")]
async fn x5_a_retiring_volume_waits_for_its_users() {
    let (cluster, agent) = with_examples(&["01-reservation", "03-volumes", "04-subscriptions"]).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&volumes, "datasets", "Ready").await;
    let claim = |namespace: &str| {
        format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: datasets, \
             namespace: {namespace}}}, spec: {{role: analytics, volume: datasets}}}}"
        )
    };
    let (a, b): (Api<VolumeClaim>, Api<VolumeClaim>) = (cluster.within("team-a"), cluster.within("team-b"));
    cluster.apply_text(&claim("team-a")).await;
    until_reason(&a, "datasets", "Bound").await;
    let bound = a.get("datasets").await.unwrap();
    let old = cluster.pod("team-a", "old", &["datasets"]).await;
    let mounted = agent.publish(&cluster, &bound, &old, false).await.unwrap();
    std::fs::write(mounted.join("file"), "data").unwrap();

    // There is no new claim and no offer. Present users continue, also with new pods.
    cluster.example("15-retire.yaml").await;
    let said = until_said(&volumes, "datasets", RETIRING, "Retiring").await;
    assert!(said.contains("destroyed after the end of claim team-a/datasets;"), "{said}");
    events_say(&cluster, "Retiring", "claim team-a/datasets").await;
    cluster.apply_text(&claim("team-b")).await;
    let said = until_reason(&b, "datasets", "VolumeRetiring").await;
    assert!(said.contains("claim another one"), "{said}");
    let offered = |wanted: bool| {
        let offers: Api<VolumeOffer> = cluster.within("team-b");
        async move {
            until("the offers follow", || async {
                let offer = offers.get_opt("analytics.n1").await.unwrap();
                let there = offer.is_some_and(|o| o.spec.volumes.iter().any(|v| v.name == "datasets"));
                (there == wanted).then_some(())
            })
            .await;
        }
    };
    offered(false).await;
    let new = cluster.pod("team-a", "new", &["datasets"]).await;
    let also = agent.publish(&cluster, &bound, &new, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(also.join("file")).unwrap(), "data");

    // The request is taken back, and all is as before.
    cluster.example("03-volumes.yaml").await;
    until_said(&volumes, "datasets", RETIRING, "RetireWithdrawn").await;
    until_reason(&b, "datasets", "Bound").await;
    offered(true).await;

    // Q4: the status lists the users in order, and is written only when they change.
    let other = cluster.pod("team-b", "other", &["datasets"]).await;
    until("each namespace has an event", || async {
        let status = volumes.get("datasets").await.unwrap().status.unwrap();
        let told: Vec<_> =
            status.namespaces.iter().map(|n| (n.namespace.as_str(), n.claims, n.pods)).collect();
        (told == [("team-a", 1, 2), ("team-b", 1, 1)]).then_some(())
    })
    .await;

    // After another request, the volume is destroyed with its last claim.
    cluster.example("15-retire.yaml").await;
    until_said(&volumes, "datasets", RETIRING, "Retiring").await;
    for pod in [&old, &new] {
        agent.unpublish(&bound, pod).await.unwrap();
    }
    for (namespace, pod) in [("team-a", "old"), ("team-a", "new"), ("team-b", &*other.name_any())] {
        cluster.end_pod(namespace, pod).await;
    }
    b.delete("datasets", &DeleteParams::default()).await.unwrap();
    until_gone(&b, "datasets").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let kept = volumes.get("datasets").await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_none(), "a claim has it");
    assert_eq!(kept.status.unwrap().namespaces.len(), 1);
    a.delete("datasets", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "datasets").await;
    assert!(!agent.backings().contains(&kept.metadata.uid.unwrap()), "erased");
    let reservation = cluster.all::<DiskReservation>().get("analytics").await.unwrap().status.unwrap();
    assert!(reservation.volumes.iter().all(|v| v.name != "datasets"), "credited");
    // An unused volume is destroyed at once.
    until_reason(&volumes, "scratch", "Ready").await;
    set(&volumes, "scratch", json!({"retire": true})).await;
    until_gone(&volumes, "scratch").await;
    agent.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d4_a_disk_declared_gone_blocks_nothing_and_keeps_data() {
    let examples = ["01-reservation", "03-volumes", "04-subscriptions", "05-claims"];
    let (cluster, mut agent) = with_examples(&examples).await;
    let disks: Api<NodeDisk> = cluster.all();
    let reservations: Api<DiskReservation> = cluster.all();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within("team-a");
    until_reason(&claims, "datasets", "Bound").await;
    until_reason(&volumes, "scratch", "Ready").await;
    let uid = volumes.get("datasets").await.unwrap().uid().unwrap();
    let data = agent.data_file(&uid);

    // Not Ready, deleted, declared gone: only the declaration gives up data.
    agent.kill().await;
    cluster.node("n1", false).await;
    until_reason(&volumes, "datasets", "NodeUnreachable").await;
    cluster.all::<Node>().delete("n1", &DeleteParams::default()).await.unwrap();
    until("its offers are gone", || async {
        let offers: Api<VolumeOffer> = cluster.within("team-a");
        offers.list(&Default::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    let gone = |gone: bool| Patch::Merge(json!({"spec": {"gone": gone}}));
    disks.patch("n1.default", &PatchParams::default(), &gone(true)).await.unwrap();
    until_reason(&disks, "n1.default", "DiskGone").await;
    let said = until_reason(&volumes, "datasets", "VolumeGone").await;
    // The claims are named in the order in which they were bound.
    let ends = ["team-a/datasets and team-b/datasets", "team-b/datasets and team-a/datasets"]
        .map(|claims| format!("{claims}, after its pods, then the volume"));
    assert!(said.contains("was declared gone") && ends.iter().any(|end| said.ends_with(end)), "{said}");
    let said = until_reason(&claims, "datasets", "VolumeGone").await;
    assert!(said.ends_with("delete the claim, and claim another volume"), "{said}");
    let back =
        disks.patch("n1.default", &PatchParams::default(), &gone(false)).await.unwrap_err().to_string();
    assert!(back.contains("stays gone"), "{back}");
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: late}, \
             spec: {role: eng, size: 1Mi}}",
        )
        .await;
    until_reason(&reservations, "late", "NotEnoughRoom").await;
    // With this reason people may delete a static reservation, too, because no agent is left to delete it.
    let said = until_reason(&reservations, "analytics", "DiskGone").await;
    assert!(said.contains("n1.default") && said.contains("then the reservation itself"), "{said}");
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: late}, \
             spec: {role: analytics, size: 16Mi, reservation: analytics}}",
        )
        .await;
    let said = until_reason(&volumes, "late", "NoReservation").await;
    assert!(said.contains("serves nobody now: NodeDisk n1.default"), "{said}");
    volumes.delete("late", &DeleteParams::default()).await.unwrap();

    // Claims hold the volume as always. Afterwards the volume ends without an agent, and the event reports the
    // missing erase.
    let refused = volumes.delete("datasets", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("is bound to 2 claims"), "{refused}");
    let refused = disks.delete("n1.default", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("holds 1 reservation"), "{refused}");
    for namespace in ["team-a", "team-b"] {
        let claims: Api<VolumeClaim> = cluster.within(namespace);
        for claim in claims.list(&Default::default()).await.unwrap().items {
            claims.delete(&claim.name_any(), &DeleteParams::default()).await.unwrap();
            until_gone(&claims, &claim.name_any()).await;
        }
    }
    for name in ["datasets", "scratch"] {
        volumes.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&volumes, name).await;
    }
    events_say(&cluster, "Destroyed", "its bytes were not erased, because its disk was declared gone").await;
    reservations.delete("analytics", &DeleteParams::default()).await.unwrap();
    until_gone(&reservations, "analytics").await;
    assert!(data.exists(), "nothing was erased");

    // The disk turns up again. It is refused under its old name and under another name, and all its data is kept.
    cluster.node("n1", true).await;
    agent.run();
    until("the agent refuses it", || async {
        let conditions = disks.get("n1.default").await.unwrap().status.unwrap().conditions;
        let healthy = condition::get(&conditions, "DiskHealthy")?;
        (healthy.reason == "DiskRefused" && healthy.message.contains("was declared gone")).then_some(())
    })
    .await;
    until_reason(&disks, "n1.default", "DiskGone").await;
    agent.kill().await;
    let config = std::fs::read_to_string(agent.dir.join("agent.yaml")).unwrap();
    std::fs::write(agent.dir.join("agent.yaml"), config.replace("name: default", "name: other")).unwrap();
    agent.run();
    until("the agent has looked at it", || async {
        let conditions = disks.get("n1.default").await.unwrap().status.unwrap().conditions;
        let healthy = condition::get(&conditions, "DiskHealthy")?;
        healthy.message.contains("not in the agent's configuration").then_some(())
    })
    .await;
    // D8: what stands for the refused disk says that by its ID it is the one that is gone.
    until("the disk is refused under its new name", || async {
        let other = disks.get_opt("n1.other").await.unwrap()?;
        assert_eq!(other.spec.disk_id, UNKNOWN_DISK);
        let conditions = other.status?.conditions;
        let healthy = condition::get(&conditions, "DiskHealthy")?;
        (healthy.reason == "DiskRefused" && healthy.message.contains("by its ID, was declared gone"))
            .then_some(())
    })
    .await;
    assert!(data.exists());

    // With the NodeDisk the declaration is deleted. The disk may be used again, with an orphan on it (S14).
    disks.delete("n1.default", &DeleteParams::default()).await.unwrap();
    until_reason(&disks, "n1.other", "Ready").await;
    until("the orphans are reported", || async {
        let conditions = disks.get("n1.other").await.unwrap().status.unwrap().conditions;
        condition::get(&conditions, "DiskHealthy")?
            .message
            .contains("2 volumes on it have no object")
            .then_some(())
    })
    .await;
    assert!(data.exists(), "and it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_a_volume_is_made_once_its_disk_can_make_it() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "1Gi").await;
    let disks: Api<NodeDisk> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    let text = "apiVersion: reservoir.dev/v1alpha1\nkind: DiskReservation\nmetadata: {name: r}\nspec: {role: eng, size: 64Mi}\n---\n\
         apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {name: v}\n\
         spec: {role: eng, size: 32Mi, fsType: btrfs}\n";
    cluster.apply_text(text).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&volumes, "v", "WrongDisk").await;
    // The agent comes back with another configuration.
    agent.kill().await;
    let backing = Patch::Merge(json!({ "spec": { "backing": "Btrfs" } }));
    disks.patch("n1.default", &PatchParams::default(), &backing).await.unwrap();
    until_reason(&volumes, "v", "Creating").await;
}

/// X10: no pod can have used a volume without a reservation, so its end waits for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn x10_a_retired_volume_without_a_place_goes() {
    let cluster = Cluster::start().await;
    let text = "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: never}, \
         spec: {role: eng, size: 64Mi}}";
    cluster.apply_text(text).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&volumes, "never", "NoReservation").await;
    set(&volumes, "never", json!({"retire": true})).await;
    until_gone(&volumes, "never").await;
}
