//! Limits and guarantees of roles, and the order of waiting reservations (Q1–Q3).

use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use reservoir::api::condition;
use reservoir::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeRole,
};
use serde_json::json;

use crate::reservations::{
    ask_for, gone, refinement, reservation, role, text, until_free, until_resized, volume,
};
use crate::support::{Agent, Cluster, Watch, one_node, until, until_gone, until_reason};

/// Q1, Q2.
#[tokio::test(flavor = "multi_thread")]
async fn q2_a_limit_counts_what_was_reserved_before_it() {
    let (cluster, _agent) = one_node("6Gi").await;
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

    // The limit is below the present use, and the reservations stay.
    cluster.apply_text(&role("archive", "reporting/archive", "quota: {limit: 1Gi}")).await;
    let said = until_reason(&roles, "archive", "OverLimit").await;
    assert!(said.starts_with("role reporting/archive has 2Gi reserved, 1Gi more than its limit"), "{said}");
    cluster.apply_text(&reservation("more", "reporting/archive", "64Mi")).await;
    let said = until_reason(&all, "more", "OverQuota").await;
    assert!(
        said.contains("has 2Gi of its limit of 1Gi reserved, 64Mi asked for is 1088Mi too much"),
        "{said}"
    );

    // Q1: bytes that move from a role to its sub-role are charged to the role once, and to the sub-role's own limit.
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

    // Growth is charged, too, and a shrink gives back.
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
async fn q2_a_guarantee_is_kept_from_other_roles() {
    let (cluster, _agent) = one_node("1Gi").await;
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
    // Without the guarantee, and with free space, the reservation is served.
    gone(&cluster, "ops-x").await;
    gone(&cluster, "small").await;
    roles.delete("ops", &DeleteParams::default()).await.unwrap();
    until_reason(&all, "eng", "Ready").await;
}

/// Names of the served reservations, in the order of service.
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
async fn q3_the_lowest_share_then_the_oldest_is_served() {
    let (cluster, _agent) = one_node("1Gi").await;
    let all = cluster.all::<DiskReservation>();
    let mut watch = Watch::safety(&cluster);
    let order = order_of_service(&mut watch, &cluster);
    for (name, of, size) in [("eng-0", "eng", "512Mi"), ("ops-0", "ops", "256Mi"), ("dev-0", "dev", "256Mi")]
    {
        cluster.apply_text(&reservation(name, of, size)).await;
        until_reason(&all, name, "Ready").await;
    }
    // The disk is full. The next reservations have ages in different seconds, the unit of an age.
    let waiting = [("eng-1", "eng", "128Mi"), ("dev-1", "dev", "128Mi"), ("ops-1", "ops", "128Mi")];
    for (name, of, size) in waiting {
        cluster.apply_text(&reservation(name, of, size)).await;
        until_reason(&all, name, "NotEnoughRoom").await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    // The roles have 512Mi, 256Mi and 256Mi. eng has the most, and dev has asked before ops. The deletion of a
    // reservation makes ops' share the lowest. So the order is ops, dev, eng, although eng is the oldest.
    gone(&cluster, "ops-0").await;
    for name in ["dev-1", "ops-1"] {
        until_reason(&all, name, "Ready").await;
    }
    let said = until_reason(&all, "eng-1", "NotEnoughRoom").await;
    assert!(said.contains("n1.default has 0 free, 128Mi too little"), "{said}");

    // Small reservations cannot overtake a large one for ever.
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
            said.contains("128Mi free on n1.default are kept for reservation big of role ops until "),
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
    let (cluster, _agent) = one_node("4Gi").await;
    cluster.start_controller().await;
    let all = cluster.all::<DiskReservation>();
    let roles: Api<VolumeRole> = cluster.all();
    cluster.apply_text(&role("eng", "eng", "quota: {limit: 640Mi}")).await;
    cluster.apply_text(&role("ml", "eng/ml", "quota: {limit: 384Mi}")).await;
    for name in ["eng", "ml"] {
        until_reason(&roles, name, "Ready").await;
    }
    let mut watch = Watch::safety(&cluster);
    // The sums hold at every revision of the ledger, and of the reservations.
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
    // Some reservations grow, some are deleted, and one controller dies in the middle.
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

/// Q1, Q2. Guarantees are older than the disk and outlive the controller. A sub-role's reservation counts towards its
/// ancestor's guarantee; a refinement counts nowhere. Bytes beyond a role's guarantee take nothing from the
/// guarantees of others. Meanwhile a role without a quota makes volumes in its reservation.
#[tokio::test(flavor = "multi_thread")]
async fn q2_a_guarantee_counts_what_sub_roles_have() {
    let cluster = Cluster::start().await;
    let (all, roles) = (cluster.all::<DiskReservation>(), cluster.all::<VolumeRole>());
    let guarantees =
        [("ops", "512Mi"), ("eng", "256Mi"), ("lab", "128Mi"), ("lab/a", "128Mi"), ("lab/b", "128Mi")];
    for (name, guarantee) in guarantees {
        let object = name.replace('/', "-");
        cluster.apply_text(&role(&object, name, &format!("quota: {{guarantee: {guarantee}}}"))).await;
        until_reason(&roles, &object, "GuaranteeTooLarge").await;
    }
    cluster.kill_controller().await;
    cluster.start_controller().await;
    cluster.node("n1", true).await;
    let _agent = Agent::start(&cluster, "n1", "1280Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    for (name, _) in guarantees {
        until_reason(&roles, &name.replace('/', "-"), "Ready").await;
    }
    // Asks for more bytes than are free of guarantees; returns the message of the refusal.
    let refused = async |size: &str| {
        cluster.apply_text(&reservation("probe", "new", size)).await;
        let message = until_reason(&all, "probe", "Guaranteed").await;
        gone(&cluster, "probe").await;
        message
    };
    let reserve = async |manifest: &str, name: &str| {
        cluster.apply_text(manifest).await;
        until_reason(&all, name, "Ready").await;
    };

    // For lab the sum of its sub-roles counts, which is more than its own guarantee. So 256Mi are guaranteed to
    // nobody.
    let message = refused("257Mi").await;
    let guaranteed = "257Mi asked for is 1Mi too much: of 1280Mi free on all disks are guaranteed 256Mi to role eng, \
                      256Mi to role lab and 512Mi to role ops";
    assert!(message.starts_with(guaranteed), "{message}");
    reserve(&reservation("new", "new", "128Mi"), "new").await;

    // The bytes of eng/ml count towards eng's guarantee, so still 128Mi are guaranteed to nobody.
    reserve(&reservation("ml", "eng/ml", "128Mi"), "ml").await;
    let message = refused("129Mi").await;
    assert!(message.contains("1024Mi free") || message.contains("1Gi free"), "{message}");
    assert!(
        message.contains("129Mi asked for is 1Mi too much") && message.contains("128Mi to role eng"),
        "{message}"
    );
    reserve(&refinement("x", "eng/ml/x", "64Mi", "ml"), "x").await;
    assert_eq!(refused("129Mi").await, message, "what is carved out is on no disk a second time");

    // eng has 128Mi beyond its guarantee. The rest of the disk is guaranteed to ops and lab.
    reserve(&reservation("eng", "eng", "256Mi"), "eng").await;
    let message = refused("1Mi").await;
    let guaranteed = "of 768Mi free on all disks are guaranteed 256Mi to role lab and 512Mi to role ops";
    assert!(message.contains("1Mi asked for is 1Mi too much") && message.contains(guaranteed), "{message}");
    cluster.apply_text(&volume("data", "new", "128Mi", "new")).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    reserve(&reservation("ops", "ops/x", "512Mi"), "ops").await;
    reserve(&reservation("lab", "lab/a", "128Mi"), "lab").await;
    reserve(&reservation("lab-b", "lab/b", "128Mi"), "lab-b").await;
    until_free(&cluster, "0").await;
}

/// Reserved and used bytes of each VolumeRole's role.
async fn consumption(cluster: &Cluster, names: &[&str]) -> Vec<[String; 2]> {
    let mut all = Vec::new();
    for name in names {
        let status = cluster.all::<VolumeRole>().get(name).await.unwrap().status.unwrap_or_default();
        all.push([text(&status.reserved), text(&status.used)]);
    }
    all
}

/// Q1, Q3. A shared volume is charged once, to the role of its reservation, and not to the sub-roles of its claims.
/// The number of claims and pods changes neither the limit nor the order of waiting reservations.
#[tokio::test(flavor = "multi_thread")]
async fn q1_the_users_of_a_shared_volume_change_no_share() {
    let (cluster, agent) = one_node("576Mi").await;
    let all = cluster.all::<DiskReservation>();
    let names = ["eng", "eng-a", "eng-b", "ops"];
    for (name, of) in [("eng-a", "eng/a"), ("eng-b", "eng/b"), ("ops", "ops")] {
        cluster.apply_text(&role(name, of, "weight: 1")).await;
    }
    cluster.apply_text(&role("eng", "eng", "quota: {limit: 288Mi}")).await;
    for (name, of, size) in [("eng", "eng", "256Mi"), ("ops", "ops", "272Mi"), ("dev", "dev", "48Mi")] {
        cluster.apply_text(&reservation(name, of, size)).await;
        until_reason(&all, name, "Ready").await;
    }
    cluster.apply_text(&volume("data", "eng", "128Mi", "eng")).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    let unused = [["256Mi", "128Mi"], ["0", "0"], ["0", "0"], ["272Mi", "0"]];
    until("each role has its reserved bytes", || async {
        (consumption(&cluster, &names).await == unused).then_some(())
    })
    .await;

    // Four claims and eight pods of two sub-roles.
    let users = [("team-a", "eng/a"), ("team-b", "eng/b")];
    let mut pods = Vec::new();
    for (namespace, of) in users {
        cluster
            .apply_text(&format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}\n---\n\
                 {{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {{name: eng, \
                 namespace: {namespace}}}, spec: {{roles: [{of}], capabilities: [SHARED_RESOURCES]}}}}"
            ))
            .await;
        until_reason(&cluster.within::<RoleSubscription>(namespace), "eng", "Subscribed").await;
        let claims = cluster.within::<VolumeClaim>(namespace);
        for name in ["one", "two"] {
            cluster
                .apply_text(&format!(
                    "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, \
                     namespace: {namespace}}}, spec: {{role: {of}, volume: data}}}}"
                ))
                .await;
            until_reason(&claims, name, "Bound").await;
            let claim = claims.get(name).await.unwrap();
            for copy in ["a", "b"] {
                let pod = cluster.pod(namespace, &format!("{name}-{copy}"), &[name]).await;
                agent.publish(&cluster, &claim, &pod, false).await.unwrap();
                pods.push((claim.clone(), pod));
            }
        }
    }
    until("all pods are counted", || async {
        let volume = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap();
        (volume.status.unwrap().user_count == 8).then_some(())
    })
    .await;
    cluster.quiet_for(Duration::from_secs(1)).await;
    assert_eq!(consumption(&cluster, &names).await, unused);

    // The reservation alone decides how far away the limit is.
    cluster.apply_text(&reservation("eng-more", "eng", "64Mi")).await;
    let message = until_reason(&all, "eng-more", "OverQuota").await;
    let numbers = "role eng has 256Mi of its limit of 288Mi reserved, 64Mi asked for is 32Mi too much";
    assert!(message.starts_with(numbers), "{message}");
    gone(&cluster, "eng-more").await;
    // The share of eng is smaller than the share of ops. So eng is served first, although ops asked earlier.
    for (name, of) in [("ops-next", "ops"), ("eng-next", "eng/a")] {
        cluster.apply_text(&reservation(name, of, "32Mi")).await;
        until_reason(&all, name, "NotEnoughRoom").await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    gone(&cluster, "dev").await;
    until_reason(&all, "eng-next", "Ready").await;
    until_reason(&all, "ops-next", "NotEnoughRoom").await;

    // Without users the numbers are as before, plus the served reservations.
    for (claim, pod) in &pods {
        agent.unpublish(claim, pod).await.unwrap();
        cluster.end_pod(&pod.namespace().unwrap(), &pod.name_any()).await;
    }
    for (namespace, _) in users {
        let claims = cluster.within::<VolumeClaim>(namespace);
        for name in ["one", "two"] {
            claims.delete(name, &DeleteParams::default()).await.unwrap();
            until_gone(&claims, name).await;
        }
    }
    cluster.quiet_for(Duration::from_secs(1)).await;
    let after = [["288Mi", "128Mi"], ["32Mi", "0"], ["0", "0"], ["272Mi", "0"]];
    assert_eq!(consumption(&cluster, &names).await, after);
}
