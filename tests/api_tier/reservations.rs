//! What a reservation takes and gives back: refinements, sizes that change, quotas, the order of those that wait, and
//! what the agents' configuration reserves (R2, R4, R6, Q1–Q3).

use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use reservoir::api::condition::{self, RESIZED};
use reservoir::api::{
    DiskReservation, DiskReservationStatus, NodeDisk, SharedPersistentVolume, Size, VolumeRole,
};
use serde_json::json;

use crate::support::{Agent, Cluster, Random, Watch, until, until_gone, until_reason};

async fn start(capacity: &str) -> (Cluster, Agent) {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", capacity).await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    (cluster, agent)
}

fn reservation(name: &str, role: &str, size: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: {name}}},
        spec: {{role: {role}, size: {size}}}}}"
    )
}

fn refinement(name: &str, role: &str, size: &str, parent: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {{name: {name}}},
        spec: {{role: {role}, size: {size}, parent: {parent}}}}}"
    )
}

fn volume(name: &str, role: &str, size: &str, home: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {name}}},
        spec: {{role: {role}, size: {size}, reservation: {home}, shared: {{}}}}}}"
    )
}

fn role(name: &str, role: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {{name: {name}}},
        spec: {{role: {role}, {spec}}}}}"
    )
}

async fn status(cluster: &Cluster, name: &str) -> DiskReservationStatus {
    cluster.all::<DiskReservation>().get(name).await.unwrap().status.unwrap()
}

fn text(size: &Option<Size>) -> String {
    size.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What a reservation has, what lives in it and what is left.
async fn numbers(cluster: &Cluster, name: &str) -> [String; 3] {
    let status = status(cluster, name).await;
    [text(&status.size), text(&status.used), text(&status.free)]
}

/// Waits until a reservation has these numbers.
async fn until_numbers(cluster: &Cluster, name: &str, wanted: [&str; 3]) {
    until(&format!("DiskReservation {name} to have {wanted:?}"), || async {
        (numbers(cluster, name).await == wanted).then_some(())
    })
    .await;
}

/// Waits until a disk, n1.default, has that much free.
async fn until_free(cluster: &Cluster, wanted: &str) {
    until(&format!("{wanted} free on n1.default"), || async {
        let disk = cluster.all::<NodeDisk>().get("n1.default").await.unwrap();
        (text(&disk.status.unwrap().free) == wanted).then_some(())
    })
    .await;
}

async fn ask_for(cluster: &Cluster, name: &str, size: &str) {
    let patch = json!({"spec": {"size": size}});
    let all = cluster.all::<DiskReservation>();
    all.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// Waits until `Resized` has the reason; returns its message.
async fn until_resized(cluster: &Cluster, name: &str, reason: &str) -> String {
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

async fn gone(cluster: &Cluster, name: &str) {
    let all = cluster.all::<DiskReservation>();
    all.delete(name, &DeleteParams::default()).await.unwrap();
    until_gone(&all, name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_refinement_is_carved_out_of_its_parent_and_goes_back_to_it() {
    let (cluster, _agent) = start("4Gi").await;
    let watch = Watch::safety(&cluster);
    let (all, volumes) = (cluster.all::<DiskReservation>(), cluster.all::<SharedPersistentVolume>());
    // The child may be there first: it waits for its parent.
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

    // What a volume and a refinement may take is what is left of both.
    cluster.apply_text(&volume("large", "analytics", "1600Mi", "analytics")).await;
    let said = until_reason(&volumes, "large", "ReservationFull").await;
    assert!(said.contains("analytics has 1536Mi left"), "{said}");
    cluster.apply_text(&refinement("wide", "analytics/web", "2Gi", "analytics")).await;
    let said = until_reason(&all, "wide", "ParentFull").await;
    assert_eq!(
        said,
        "2Gi asked for: DiskReservation analytics has 1536Mi left, 512Mi too little; it is served when room appears in it"
    );
    for (name, of) in [("same", "analytics"), ("other", "ops")] {
        cluster.apply_text(&refinement(name, of, "1Mi", "analytics")).await;
        until_reason(&all, name, "NotASubRole").await;
    }

    // The parent stays while something is carved out of it; what is given back is the parent's, and serves who waits.
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
    let (cluster, _agent) = start("1Gi").await;
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
        "1536Mi asked for: n1.default has 512Mi free, 1Gi too little; it is served when room appears"
    );
    until_numbers(&cluster, "eng", ["512Mi", "192Mi", "320Mi"]).await;

    // It was asked to shrink before something came to live in it: what lives in it decides.
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

    // A refinement grows out of its parent, not out of the disk.
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

    // What waits for room gets what a shrinking one gives back.
    cluster.apply_text(&reservation("ops", "ops", "800Mi")).await;
    until_reason(&all, "ops", "NotEnoughRoom").await;
    ask_for(&cluster, "eng", "160Mi").await;
    until_reason(&all, "ops", "Ready").await;
    until_free(&cluster, "64Mi").await;
    cluster.quiet_for(Duration::from_secs(2)).await;
    watch.assert_unbroken();
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_a_limit_is_refused_with_the_numbers_and_takes_in_what_was_there() {
    let (cluster, _agent) = start("6Gi").await;
    let watch = Watch::safety(&cluster);
    let (all, roles) = (cluster.all::<DiskReservation>(), cluster.all::<VolumeRole>());
    cluster.example("13-quota.yaml").await;
    until_reason(&all, "reporting", "Ready").await;
    let said = until_reason(&all, "reporting-archive", "OverQuota").await;
    until("the sentence has the numbers", || async {
        let said = until_reason(&all, "reporting-archive", "OverQuota").await;
        (said
            == "role reporting has 768Mi of its limit of 1Gi reserved, 2Gi asked for is 1792Mi too much; \
                unreserve something or raise the limit of VolumeRole reporting")
            .then_some(())
    })
    .await;
    assert!(said.contains("limit of 1Gi"), "{said}");
    let raised = json!({"spec": {"quota": {"limit": "4Gi"}}});
    roles.patch("reporting", &PatchParams::default(), &Patch::Merge(&raised)).await.unwrap();
    until_reason(&all, "reporting-archive", "Ready").await;

    // A limit for what is there already, and below it: what is there stays.
    cluster.apply_text(&role("archive", "reporting/archive", "quota: {limit: 1Gi}")).await;
    let said = until_reason(&roles, "archive", "OverLimit").await;
    assert!(said.starts_with("role reporting/archive has 2Gi reserved, 1Gi more than its limit"), "{said}");
    cluster.apply_text(&reservation("more", "reporting/archive", "64Mi")).await;
    let said = until_reason(&all, "more", "OverQuota").await;
    assert!(said.contains("has 2Gi of its limit of 1Gi reserved, 64Mi asked for is 64Mi too much"), "{said}");

    // Q1: what moves from a role to its sub-role is charged to the role once, and to the sub-role's own limit.
    let reserved = || async {
        let mut sums = Vec::new();
        for name in ["reporting", "archive"] {
            sums.push(text(&roles.get(name).await.unwrap().status.unwrap().reserved));
        }
        sums
    };
    assert_eq!(reserved().await, ["2816Mi", "2Gi"]);
    cluster.apply_text(&refinement("inner", "reporting/archive", "64Mi", "reporting")).await;
    let said = until_reason(&all, "inner", "OverQuota").await;
    assert!(said.contains("VolumeRole archive"), "{said}");
    gone(&cluster, "more").await;
    gone(&cluster, "reporting-archive").await;
    until_reason(&all, "inner", "Ready").await;
    until("768Mi and 64Mi are charged", || async { (reserved().await == ["768Mi", "64Mi"]).then_some(()) })
        .await;

    // Growth is charged too, and what shrinks is given back.
    ask_for(&cluster, "reporting", "5Gi").await;
    let said = until_resized(&cluster, "reporting", "OverQuota").await;
    assert!(
        said.contains("has 768Mi of its limit of 4Gi reserved, 4352Mi asked for is 1Gi too much"),
        "{said}"
    );
    ask_for(&cluster, "reporting", "1Gi").await;
    until_resized(&cluster, "reporting", "Resized").await;
    until("the growth is charged", || async { (reserved().await[0] == "1Gi").then_some(()) }).await;
    ask_for(&cluster, "reporting", "128Mi").await;
    until_resized(&cluster, "reporting", "Resized").await;
    until("the shrinking is credited", || async { (reserved().await == ["128Mi", "64Mi"]).then_some(()) })
        .await;
    gone(&cluster, "inner").await;
    gone(&cluster, "reporting").await;
    until("nothing is charged", || async { (reserved().await == ["0", "0"]).then_some(()) }).await;
    cluster.quiet_for(Duration::from_secs(2)).await;
    watch.assert_unbroken();
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_a_guarantee_is_kept_from_other_roles_and_from_nobody_else() {
    let (cluster, _agent) = start("1Gi").await;
    let (all, roles) = (cluster.all::<DiskReservation>(), cluster.all::<VolumeRole>());
    cluster.apply_text(&role("ops", "ops", "quota: {guarantee: 512Mi}")).await;
    until_reason(&roles, "ops", "Ready").await;
    cluster.apply_text(&reservation("eng", "eng", "768Mi")).await;
    let said = until_reason(&all, "eng", "Guaranteed").await;
    assert_eq!(
        said,
        "768Mi asked for is 256Mi too much: of 1Gi free on all disks are guaranteed 512Mi to role ops; \
         unreserve something or lower the guarantee of VolumeRole ops"
    );
    cluster.apply_text(&reservation("small", "eng", "512Mi")).await;
    until_reason(&all, "small", "Ready").await;
    ask_for(&cluster, "small", "640Mi").await;
    until_resized(&cluster, "small", "Guaranteed").await;
    ask_for(&cluster, "small", "512Mi").await;
    until_resized(&cluster, "small", "Resized").await;
    cluster.apply_text(&reservation("ops-x", "ops/x", "512Mi")).await;
    until_reason(&all, "ops-x", "Ready").await;
    until_free(&cluster, "0").await;
    // Without the guarantee, and with room again, it is served.
    gone(&cluster, "ops-x").await;
    gone(&cluster, "small").await;
    roles.delete("ops", &DeleteParams::default()).await.unwrap();
    until_reason(&all, "eng", "Ready").await;
}

/// Names of those that are served, in the order in which that was seen.
fn order_of_service(watch: &mut Watch, cluster: &Cluster) -> std::sync::Arc<std::sync::Mutex<Vec<String>>> {
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = order.clone();
    watch.each(cluster.all::<DiskReservation>(), move |reservation| {
        let placed = reservation.status.as_ref().is_some_and(|s| s.node_disk.is_some());
        let mut noted = noted.lock().unwrap();
        if placed && !noted.contains(&reservation.name_any()) {
            noted.push(reservation.name_any());
        }
        Ok(())
    });
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_room_goes_to_the_lowest_share_then_the_oldest_and_nobody_starves() {
    let (cluster, _agent) = start("1Gi").await;
    let all = cluster.all::<DiskReservation>();
    let mut watch = Watch::safety(&cluster);
    let order = order_of_service(&mut watch, &cluster);
    for (name, of, size) in [("eng-0", "eng", "512Mi"), ("ops-0", "ops", "256Mi"), ("dev-0", "dev", "256Mi")]
    {
        cluster.apply_text(&reservation(name, of, size)).await;
        until_reason(&all, name, "Ready").await;
    }
    // Nothing is free. The ones that ask next are of different seconds, the unit of an age.
    let waiting = [("eng-1", "eng", "128Mi"), ("dev-1", "dev", "128Mi"), ("ops-1", "ops", "128Mi")];
    for (name, of, size) in waiting {
        cluster.apply_text(&reservation(name, of, size)).await;
        until_reason(&all, name, "NotEnoughRoom").await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    // Of 512Mi, 256Mi and 256Mi that the roles have, those of eng are the most, and dev asked before ops. What ops gives
    // back makes its share the lowest: ops, then dev, and eng is last though it is the oldest.
    gone(&cluster, "ops-0").await;
    for name in ["dev-1", "ops-1"] {
        until_reason(&all, name, "Ready").await;
    }
    let said = until_reason(&all, "eng-1", "NotEnoughRoom").await;
    assert!(said.contains("n1.default has 0 free, 128Mi too little"), "{said}");

    // One that asks for much is not overtaken for ever by those that ask for little.
    cluster.apply_text(&reservation("big", "ops", "384Mi")).await;
    until_reason(&all, "big", "NotEnoughRoom").await;
    cluster.apply_text(&reservation("huge", "new", "2Gi")).await;
    until_reason(&all, "huge", "NotEnoughRoom").await;
    gone(&cluster, "eng-1").await;
    gone(&cluster, "dev-1").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for i in 0..4 {
        let name = format!("late-{i}");
        cluster.apply_text(&reservation(&name, "ops", "64Mi")).await;
        let said = until_reason(&all, &name, "NotEnoughRoom").await;
        assert!(
            said.contains(
                "128Mi free on n1.default are kept for reservation big of role ops, which is first in the queue"
            ),
            "{said}"
        );
    }
    gone(&cluster, "dev-0").await;
    until_reason(&all, "big", "Ready").await;
    until_free(&cluster, "0").await;
    gone(&cluster, "big").await;
    for i in 0..4 {
        until_reason(&all, &format!("late-{i}"), "Ready").await;
    }
    let order: Vec<String> = order.lock().unwrap().clone();
    let at = |name: &str| order.iter().position(|n| n == name).unwrap();
    assert!((0..4).all(|i| at("big") < at(&format!("late-{i}"))), "{order:?}");
    cluster.quiet_for(Duration::from_secs(2)).await;
    watch.assert_unbroken();
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_two_controllers_never_go_past_a_limit() {
    let (cluster, _agent) = start("4Gi").await;
    cluster.start_controller().await;
    let all = cluster.all::<DiskReservation>();
    let roles: Api<VolumeRole> = cluster.all();
    cluster.apply_text(&role("eng", "eng", "quota: {limit: 640Mi}")).await;
    cluster.apply_text(&role("ml", "eng/ml", "quota: {limit: 384Mi}")).await;
    for name in ["eng", "ml"] {
        until_reason(&roles, name, "Ready").await;
    }
    let mut watch = Watch::safety(&cluster);
    // The ledger at every revision; and what the reservations themselves say that they have.
    watch.each(roles.clone(), |role| {
        let limit = role.spec.quota.limit.as_ref().unwrap().bytes_or_zero();
        let lines = role.status.clone().unwrap_or_default().reservations;
        let total: u64 = lines.iter().map(|line| line.size.bytes_or_zero()).sum();
        if total > limit { Err(format!("{total} of {limit}")) } else { Ok(()) }
    });
    let mut has = std::collections::BTreeMap::new();
    watch.each(all.clone(), move |reservation| {
        let status = reservation.status.clone().unwrap_or_default();
        let size = status.node_disk.and(status.size).map_or(0, |s| s.bytes_or_zero());
        let gone = reservation.metadata.deletion_timestamp.is_some();
        has.insert(reservation.name_any(), (reservation.spec.role.clone(), if gone { 0 } else { size }));
        let sum = |of: &str| -> u64 {
            has.values().filter(|(role, _)| role.starts_with(of)).map(|(_, size)| size).sum()
        };
        match (sum("eng") > 640 << 20, sum("eng/ml") > 384 << 20) {
            (false, false) => Ok(()),
            _ => Err(format!("more than the limit: {has:?}")),
        }
    });
    let wanted: Vec<String> = (0..16)
        .map(|i| reservation(&format!("r-{i}"), if i % 2 == 0 { "eng" } else { "eng/ml" }, "64Mi"))
        .collect();
    futures::future::join_all(wanted.iter().map(|manifest| cluster.apply_text(manifest))).await;
    let settled = |served: usize| {
        let all = all.clone();
        async move {
            until(&format!("{served} of 16 are served and the rest over the limit"), || async {
                let now = all.list(&Default::default()).await.unwrap();
                let reasons: Vec<String> = now
                    .iter()
                    .filter_map(|r| condition::get(&r.status.as_ref()?.conditions, "Ready"))
                    .map(|c| c.reason.clone())
                    .collect();
                let is = |reason: &str| reasons.iter().filter(|r| *r == reason).count();
                (is("Ready") == served && is("Ready") + is("OverQuota") == now.items.len()).then_some(())
            })
            .await;
        }
    };
    settled(10).await;
    // Some grow, some go, one controller dies in the middle.
    let served: Vec<String> = all
        .list(&Default::default())
        .await
        .unwrap()
        .iter()
        .filter(|r| r.status.as_ref().is_some_and(|s| s.node_disk.is_some()))
        .map(ResourceExt::name_any)
        .collect();
    for name in &served[..4] {
        ask_for(&cluster, name, "128Mi").await;
    }
    for name in &served[4..7] {
        all.delete(name, &DeleteParams::default()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.kill_controller().await;
    cluster.start_controller().await;
    cluster.start_controller().await;
    for name in &served[4..7] {
        until_gone(&all, name).await;
    }
    for name in &served[..4] {
        ask_for(&cluster, name, "64Mi").await;
    }
    settled(10).await;
    for r in all.list(&Default::default()).await.unwrap() {
        all.delete(&r.name_any(), &DeleteParams::default()).await.unwrap();
    }
    until("all is given back", || async {
        let left = all.list(&Default::default()).await.unwrap().items.len();
        let charged: usize = roles
            .list(&Default::default())
            .await
            .unwrap()
            .iter()
            .map(|r| r.status.as_ref().map_or(0, |s| s.reservations.len()))
            .sum();
        (left + charged == 0).then_some(())
    })
    .await;
    until_free(&cluster, "4Gi").await;
    watch.assert_unbroken();
}

/// Reserves, carves out, grows, shrinks and gives back, again and again.
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
            // The line that it gives back is what the next one needs to shrink.
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
async fn s1_the_controller_dies_while_reservations_take_and_give_back() {
    let (cluster, _agent) = start("1Gi").await;
    cluster.apply_text(&role("eng", "eng", "quota: {limit: 768Mi, guarantee: 64Mi}")).await;
    cluster.apply_text(&role("ml", "eng/ml", "quota: {limit: 512Mi}")).await;
    let watch = Watch::safety(&cluster);
    let mut random = Random::new("the controller dies while reservations take and give back");
    let mut deaths = 0;
    let dying = async {
        loop {
            tokio::time::sleep(Duration::from_millis(random.within(30..200))).await;
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

/// Starts the agent anew with these static reservations on its disk.
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
    let (cluster, mut agent) = start("1Gi").await;
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

    // The configuration changes the size; nothing is written when it does not.
    configure(&mut agent, "{role: eng/ml, size: 512Mi}").await;
    until_resized(&cluster, "n1.default.eng.ml", "Resized").await;
    until_gone(&all, &ops).await;
    until_free(&cluster, "512Mi").await;
    cluster.quiet_for(Duration::from_secs(7)).await;

    // What something lives in stays, and the disk says so.
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
