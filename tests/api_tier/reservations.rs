//! A reservation's bytes: refinements, resizes, a controller that dies meanwhile, and static reservations (R2, R4,
//! R6, Q1–Q3).

use std::time::Duration;

use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use reservoir::api::condition::{self, RESIZED};
use reservoir::api::{
    DiskReservation, DiskReservationStatus, NodeDisk, SharedPersistentVolume, Size, VolumeRole,
};
use serde_json::json;

use crate::support::{Agent, Cluster, Random, Watch, one_node, until, until_gone, until_reason};

pub(crate) fn reservation(name: &str, role: &str, size: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: {name}}},
        spec: {{role: {role}, size: {size}}}}}"
    )
}

pub(crate) fn refinement(name: &str, role: &str, size: &str, parent: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: {name}}},
        spec: {{role: {role}, size: {size}, parent: {parent}}}}}"
    )
}

pub(crate) fn volume(name: &str, role: &str, size: &str, home: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {name}}},
        spec: {{role: {role}, size: {size}, reservation: {home}, shared: {{}}}}}}"
    )
}

pub(crate) fn role(name: &str, role: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {{name: {name}}},
        spec: {{role: {role}, {spec}}}}}"
    )
}

async fn status(cluster: &Cluster, name: &str) -> DiskReservationStatus {
    cluster.all::<DiskReservation>().get(name).await.unwrap().status.unwrap()
}

pub(crate) fn text(size: &Option<Size>) -> String {
    size.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Size, used and free bytes of a reservation.
pub(crate) async fn numbers(cluster: &Cluster, name: &str) -> [String; 3] {
    let status = status(cluster, name).await;
    [text(&status.size), text(&status.used), text(&status.free)]
}

/// Waits until a reservation has these numbers.
pub(crate) async fn until_numbers(cluster: &Cluster, name: &str, wanted: [&str; 3]) {
    until(&format!("DiskReservation {name} to have {wanted:?}"), || async {
        (numbers(cluster, name).await == wanted).then_some(())
    })
    .await;
}

/// Waits until the disk n1.default has the given free space.
pub(crate) async fn until_free(cluster: &Cluster, wanted: &str) {
    until(&format!("{wanted} free on n1.default"), || async {
        let disk = cluster.all::<NodeDisk>().get("n1.default").await.unwrap();
        (text(&disk.status.unwrap().free) == wanted).then_some(())
    })
    .await;
}

pub(crate) async fn ask_for(cluster: &Cluster, name: &str, size: &str) {
    let patch = json!({"spec": {"size": size}});
    let all = cluster.all::<DiskReservation>();
    all.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// Waits until the condition `Resized` has the reason; returns its message.
pub(crate) async fn until_resized(cluster: &Cluster, name: &str, reason: &str) -> String {
    until(&format!("DiskReservation {name} to be Resized: {reason}"), || async {
        let now = cluster.all::<DiskReservation>().get(name).await.unwrap();
        let conditions = now.status.clone().unwrap().conditions;
        let resized = condition::get(&conditions, RESIZED)?;
        let current = resized.observed_generation == now.metadata.generation && resized.reason == reason;
        assert!(condition::is_true(&conditions, "Ready"), "it stands all the same: {conditions:?}");
        current.then(|| resized.message.clone())
    })
    .await
}

pub(crate) async fn gone(cluster: &Cluster, name: &str) {
    let all = cluster.all::<DiskReservation>();
    all.delete(name, &DeleteParams::default()).await.unwrap();
    until_gone(&all, name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_refinement_takes_from_its_parent_and_gives_back() {
    let (cluster, _agent) = one_node("4Gi").await;
    let watch = Watch::safety(&cluster);
    let (all, volumes) = (cluster.all::<DiskReservation>(), cluster.all::<SharedPersistentVolume>());
    // The child may be made first: it waits for its parent.
    cluster.example("12-refinement.yaml").await;
    let said = until_reason(&all, "analytics-ml", "NoParent").await;
    assert_eq!(
        said,
        "there is no DiskReservation analytics to carve it out of; make it, or leave spec.parent out"
    );
    cluster.example("01-reservation.yaml").await;
    let said = until_reason(&all, "analytics-ml", "Ready").await;
    assert_eq!(said, "512Mi of reservation analytics on n1.default are the role's");
    until_numbers(&cluster, "analytics", ["2Gi", "512Mi", "1536Mi"]).await;
    until_free(&cluster, "2Gi").await;
    let (parent, child) = (all.get("analytics").await.unwrap(), status(&cluster, "analytics-ml").await);
    assert_eq!(child.parent.unwrap().uid, parent.uid().unwrap());
    assert_eq!((child.node_disk.as_deref(), child.node_name.as_deref()), (Some("n1.default"), Some("n1")));

    // A refinement of a refinement, with a volume in it.
    cluster.apply_text(&refinement("deep", "analytics/ml/x", "128Mi", "analytics-ml")).await;
    until_reason(&all, "deep", "Ready").await;
    cluster.apply_text(&volume("v", "analytics/ml/x", "64Mi", "deep")).await;
    until_reason(&volumes, "v", "Ready").await;
    until_numbers(&cluster, "analytics-ml", ["512Mi", "128Mi", "384Mi"]).await;

    // Volumes and refinements share the free space of a reservation.
    cluster.apply_text(&volume("large", "analytics", "1600Mi", "analytics")).await;
    let said = until_reason(&volumes, "large", "ReservationFull").await;
    assert!(said.contains("analytics has 1536Mi left"), "{said}");
    cluster.apply_text(&refinement("wide", "analytics/web", "2Gi", "analytics")).await;
    let said = until_reason(&all, "wide", "ParentFull").await;
    assert_eq!(
        said,
        "2Gi asked for: DiskReservation analytics has 1536Mi left, 512Mi too little; it is served when space is free in it"
    );
    for (name, of) in [("same", "analytics"), ("other", "ops")] {
        cluster.apply_text(&refinement(name, of, "1Mi", "analytics")).await;
        until_reason(&all, name, "NotASubRole").await;
    }

    // The parent stays while it has a refinement. Released bytes go to the parent, which serves a waiting volume.
    volumes.delete("large", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "large").await;
    let said = match all.delete("analytics-ml", &DeleteParams::default()).await {
        Ok(_) => until_reason(&all, "analytics-ml", "HasRefinements").await,
        Err(refused) => refused.to_string(),
    };
    assert!(said.contains("deep"), "{said}");
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "v").await;
    gone(&cluster, "deep").await;
    let _ = all.delete("analytics-ml", &DeleteParams::default()).await;
    until_gone(&all, "analytics-ml").await;
    until_reason(&all, "wide", "Ready").await;
    until_numbers(&cluster, "analytics", ["2Gi", "2Gi", "0"]).await;
    until_free(&cluster, "2Gi").await;
    watch.assert_unbroken();
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_a_reservation_grows_and_shrinks_within_bounds() {
    let (cluster, _agent) = one_node("1Gi").await;
    let watch = Watch::safety(&cluster);
    let (all, volumes) = (cluster.all::<DiskReservation>(), cluster.all::<SharedPersistentVolume>());
    cluster.apply_text(&reservation("eng", "eng", "256Mi")).await;
    until_reason(&all, "eng", "Ready").await;
    cluster.apply_text(&volume("v", "eng", "128Mi", "eng")).await;
    until_reason(&volumes, "v", "Ready").await;
    cluster.apply_text(&refinement("ml", "eng/ml", "64Mi", "eng")).await;
    until_reason(&all, "ml", "Ready").await;

    ask_for(&cluster, "eng", "512Mi").await;
    assert_eq!(until_resized(&cluster, "eng", "Resized").await, "it has 512Mi");
    until_numbers(&cluster, "eng", ["512Mi", "192Mi", "320Mi"]).await;
    until_free(&cluster, "512Mi").await;

    ask_for(&cluster, "eng", "2Gi").await;
    let said = until_resized(&cluster, "eng", "NotEnoughRoom").await;
    assert_eq!(
        said,
        "1536Mi more asked for: n1.default has 512Mi free, 1Gi too little; that is more than its disk has, which it does not leave: \
         ask for less"
    );
    until_numbers(&cluster, "eng", ["512Mi", "192Mi", "320Mi"]).await;

    // The request to shrink is older than the use of the reservation, and the use decides.
    cluster.kill_controller().await;
    let seen = json!({"status": {"used": "0"}});
    all.patch_status("eng", &PatchParams::default(), &Patch::Merge(&seen)).await.unwrap();
    ask_for(&cluster, "eng", "128Mi").await;
    cluster.start_controller().await;
    let said = until_resized(&cluster, "eng", "BelowUsed").await;
    assert_eq!(
        said,
        "128Mi is less than the 192Mi that v and ml in it take; it keeps its 512Mi, delete what is not needed any more first"
    );
    ask_for(&cluster, "eng", "192Mi").await;
    until_resized(&cluster, "eng", "Resized").await;
    until_numbers(&cluster, "eng", ["192Mi", "192Mi", "0"]).await;
    until_free(&cluster, "832Mi").await;

    // A refinement takes the bytes for its growth from the parent, not from the disk.
    ask_for(&cluster, "ml", "128Mi").await;
    let said = until_resized(&cluster, "ml", "ParentFull").await;
    assert!(said.contains("DiskReservation eng has 0 left, 64Mi too little"), "{said}");
    ask_for(&cluster, "eng", "256Mi").await;
    until_resized(&cluster, "ml", "Resized").await;
    until_numbers(&cluster, "eng", ["256Mi", "256Mi", "0"]).await;
    until_numbers(&cluster, "ml", ["128Mi", "0", "128Mi"]).await;
    until_free(&cluster, "768Mi").await;
    ask_for(&cluster, "ml", "32Mi").await;
    until_resized(&cluster, "ml", "Resized").await;
    until_numbers(&cluster, "eng", ["256Mi", "160Mi", "96Mi"]).await;

    // A waiting reservation gets the bytes that a shrinking one releases.
    cluster.apply_text(&reservation("ops", "ops", "800Mi")).await;
    until_reason(&all, "ops", "NotEnoughRoom").await;
    ask_for(&cluster, "eng", "160Mi").await;
    until_reason(&all, "ops", "Ready").await;
    until_free(&cluster, "64Mi").await;
    cluster.quiet_for(Duration::from_secs(2)).await;
    watch.assert_unbroken();
}

/// Reserves, refines, grows, shrinks and releases, again and again.
async fn rounds(cluster: &Cluster) {
    let all = cluster.all::<DiskReservation>();
    for _ in 0..6 {
        cluster.apply_text(&reservation("eng", "eng", "256Mi")).await;
        cluster.apply_text(&refinement("ml", "eng/ml", "128Mi", "eng")).await;
        cluster.apply_text(&refinement("x", "eng/ml/x", "64Mi", "ml")).await;
        for name in ["eng", "ml", "x"] {
            until_reason(&all, name, "Ready").await;
        }
        for (name, size) in [("eng", "512Mi"), ("ml", "384Mi"), ("x", "256Mi")] {
            ask_for(cluster, name, size).await;
        }
        until_numbers(cluster, "x", ["256Mi", "0", "256Mi"]).await;
        for (name, size) in [("x", "32Mi"), ("ml", "64Mi"), ("eng", "96Mi")] {
            ask_for(cluster, name, size).await;
            until_resized(cluster, name, "Resized").await;
            // The parent needs the released bytes back before it can shrink.
            let of = [("x", "ml", "32Mi"), ("ml", "eng", "64Mi")].into_iter().find(|(of, ..)| *of == name);
            if let Some((_, parent, used)) = of {
                until("the parent has it back", || async {
                    (numbers(cluster, parent).await[1] == used).then_some(())
                })
                .await;
            }
        }
        until_numbers(cluster, "eng", ["96Mi", "64Mi", "32Mi"]).await;
        for name in ["x", "ml", "eng"] {
            until(&format!("{name} may be deleted"), || async {
                all.delete(name, &DeleteParams::default()).await.ok()
            })
            .await;
            until_gone(&all, name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_ledgers_hold_while_the_controller_dies() {
    let (cluster, _agent) = one_node("1Gi").await;
    cluster.apply_text(&role("eng", "eng", "quota: {limit: 768Mi, guarantee: 64Mi}")).await;
    cluster.apply_text(&role("ml", "eng/ml", "quota: {limit: 512Mi}")).await;
    let watch = Watch::safety(&cluster);
    let mut random = Random::new("the controller dies while reservations take and give back");
    let mut deaths = 0;
    let dying = async {
        loop {
            // On a busy machine the caches alone take some hundred milliseconds.
            tokio::time::sleep(Duration::from_millis(random.within(30..800))).await;
            cluster.kill_controller().await;
            cluster.start_controller().await;
            deaths += 1;
        }
    };
    tokio::select! {
        () = rounds(&cluster) => {}
        () = dying => {}
    }
    until_free(&cluster, "1Gi").await;
    until("nothing is charged", || async {
        let roles = cluster.all::<VolumeRole>().list(&Default::default()).await.unwrap();
        roles.iter().all(|r| r.status.as_ref().is_some_and(|s| s.reservations.is_empty())).then_some(())
    })
    .await;
    println!("the controller died {deaths} times, {} revisions", watch.assert_unbroken());
    assert!(deaths > 10);
}

/// Restarts the agent with these static reservations on its disk.
async fn configure(agent: &mut Agent, reservations: &str) {
    agent.kill().await;
    let path = agent.dir.join("agent.yaml");
    let config = std::fs::read_to_string(&path).unwrap();
    let disk = config.split(", reservations: ").next().unwrap().trim_end_matches("}]").to_owned();
    std::fs::write(path, format!("{disk}, reservations: [{reservations}]}}]")).unwrap();
    agent.run();
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_static_reservations_follow_the_agents_configuration() {
    let (cluster, mut agent) = one_node("1Gi").await;
    let watch = Watch::safety(&cluster);
    let (all, volumes) = (cluster.all::<DiskReservation>(), cluster.all::<SharedPersistentVolume>());
    configure(&mut agent, "{role: eng/ml, size: 256Mi}, {role: Ops, size: 128Mi}").await;
    until_reason(&all, "n1.default.eng.ml", "Ready").await;
    let listed = until("both are reserved", || async {
        let listed = all.list(&Default::default()).await.unwrap().items;
        let stands = |r: &DiskReservation| r.status.as_ref().is_some_and(|s| s.node_disk.is_some());
        (listed.len() == 2 && listed.iter().all(stands)).then_some(listed)
    })
    .await;
    for reservation in &listed {
        assert!(reservation.spec.is_static, "{reservation:?}");
        assert_eq!(reservation.spec.node_disk.as_deref(), Some("n1.default"));
    }
    let ops = listed.iter().find(|r| r.spec.role == "Ops").unwrap().name_any();
    assert!(ops.starts_with("n1.default.ops-x"), "{ops}");
    until_free(&cluster, "640Mi").await;
    cluster.apply_text(&volume("v", "eng/ml", "64Mi", "n1.default.eng.ml")).await;
    until_reason(&volumes, "v", "Ready").await;

    // A new configuration changes the size. Without a change nothing is written.
    configure(&mut agent, "{role: eng/ml, size: 512Mi}").await;
    until_resized(&cluster, "n1.default.eng.ml", "Resized").await;
    until_gone(&all, &ops).await;
    until_free(&cluster, "512Mi").await;
    cluster.quiet_for(Duration::from_secs(7)).await;

    // A reservation with a volume stays, and the disk reports it.
    configure(&mut agent, "").await;
    until("the disk names the one that stays", || async {
        let disk = cluster.all::<NodeDisk>().get("n1.default").await.unwrap();
        let conditions = disk.status.unwrap().conditions;
        let said = &condition::get(&conditions, "DiskHealthy")?.message;
        said.contains("reservation n1.default.eng.ml is not in the agent's configuration any more")
            .then_some(())
    })
    .await;
    until_numbers(&cluster, "n1.default.eng.ml", ["512Mi", "64Mi", "448Mi"]).await;
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    until_gone(&all, "n1.default.eng.ml").await;
    until_free(&cluster, "1Gi").await;
    watch.assert_unbroken();
}
