//! Waits of claims that others cause, and the events of waits (F2, F3).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use reservoir::api::{RoleSubscription, VolumeClaim, VolumeOffer};
use serde_json::json;

use crate::kept::start;
use crate::support::{CONTROLLER_AGENT, Cluster, one_node, until, until_gone, until_reason};

const CLAIM: &str =
    "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: c, namespace: team},
 spec: {role: eng, volume: data}}";

/// The reasons and messages of warnings about objects of Reservoir.
async fn warnings(cluster: &Cluster) -> Vec<String> {
    let events = Api::<Event>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
    let ours = |e: &&Event| e.reporting_controller.as_deref() == Some("reservoir-controller");
    let warns = events.iter().filter(ours).filter(|e| e.type_.as_deref() == Some("Warning"));
    let about = |e: &Event| e.regarding.as_ref().and_then(|r| r.name.clone()).unwrap_or_default();
    warns
        .map(|e| {
            format!(
                "{} {}: {}",
                about(e),
                e.reason.clone().unwrap_or_default(),
                e.note.clone().unwrap_or_default()
            )
        })
        .collect()
}

const QUOTA: &str = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: no-pvcs, namespace: team},
 spec: {hard: {persistentvolumeclaims: '0'}}}";
const LIMIT: &str = "{apiVersion: v1, kind: LimitRange, metadata: {name: large-only, namespace: team},
 spec: {limits: [{type: PersistentVolumeClaim, min: {storage: 10Gi}}]}}";

/// F3, C4: a namespace's quota or limits refuse the PersistentVolumeClaim of a claim.
#[tokio::test(flavor = "multi_thread")]
async fn f3_a_refused_pvc_is_told_with_its_words_and_tried_seldom() {
    const WATCHED: Duration = Duration::from_secs(16);
    let (cluster, _agent) = start().await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    for (obstacle, path, named) in [
        (QUOTA, "/api/v1/namespaces/team/resourcequotas/no-pvcs", "no-pvcs"),
        (
            LIMIT,
            "/api/v1/namespaces/team/limitranges/large-only",
            "minimum storage usage per PersistentVolumeClaim is 10Gi",
        ),
    ] {
        cluster.apply_text(obstacle).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.apply_text(CLAIM).await;
        let message = until_reason(&claims, "c", "Refused").await;
        assert!(
            message.starts_with("PersistentVolumeClaim c cannot be made: ") && message.contains(named),
            "{message}"
        );
        let tries = || {
            let creates = |w: &&crate::support::Request| w.what == "create persistentvolumeclaims team c";
            cluster
                .writes()
                .iter()
                .filter(|w| w.user_agent == CONTROLLER_AGENT && w.code == 403)
                .filter(creates)
                .count()
        };
        let before = tries();
        tokio::time::sleep(WATCHED).await;
        assert!((1..=5).contains(&(tries() - before)), "{} tries in {WATCHED:?}", tries() - before);
        let told = warnings(&cluster)
            .await
            .into_iter()
            .filter(|w| w.starts_with("c Refused") && w.contains(named))
            .count();
        assert_eq!(told, 1, "T2: once, for all tries");
        let request = http::Request::delete(path).body(vec![]).unwrap();
        cluster.client.request::<serde_json::Value>(request).await.unwrap();
        until_reason(&claims, "c", "Bound").await;
        claims.delete("c", &DeleteParams::default()).await.unwrap();
        until_gone(&claims, "c").await;
    }
}

const NO_OFFERS: &str = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: no-offers, namespace: team},
 spec: {hard: {count/volumeoffers.reservoir.dev: '0'}}}";

/// F3: claims bind on the volume itself, so they go on without the offer.
#[tokio::test(flavor = "multi_thread")]
async fn f3_a_refused_offer_is_told_on_its_subscription() {
    let (cluster, _agent) = start().await;
    let (offers, subscriptions): (Api<VolumeOffer>, Api<RoleSubscription>) =
        (cluster.within("team"), cluster.within("team"));
    cluster.apply_text(NO_OFFERS).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    until("an offer is missing", || async {
        let all = offers.list(&Default::default()).await.unwrap().items;
        for offer in &all {
            let name = offer.metadata.name.clone().unwrap();
            let _ = offers.delete(&name, &DeleteParams::default()).await;
        }
        all.is_empty().then_some(())
    })
    .await;
    let message = until_reason(&subscriptions, "eng", "Refused").await;
    assert!(
        message.contains("exceeded quota: no-offers") || message.contains("for quota: no-offers"),
        "{message}"
    );
    cluster.apply_text(CLAIM).await;
    until_reason(&cluster.within::<VolumeClaim>("team"), "c", "Bound").await;
}

/// F3, C6: Kubernetes keeps a PersistentVolumeClaim for pods that have ended.
#[tokio::test(flavor = "multi_thread")]
async fn f3_a_finished_pod_that_keeps_a_claim_is_named() {
    let (cluster, _agent) = start().await;
    let (claims, pods): (Api<VolumeClaim>, Api<Pod>) = (cluster.within("team"), cluster.within("team"));
    cluster.apply_text(CLAIM).await;
    until_reason(&claims, "c", "Bound").await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: finished, namespace: team}, spec: {nodeName: n1,
      containers: [{name: c, image: none}], volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]}}";
    until("the default service account", || async { cluster.try_apply(pod).await.ok() }).await;
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("finished", &PatchParams::default(), &ended).await.unwrap();
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    let message = until_reason(&claims, "c", "InUse").await;
    assert!(
        message.contains("pod team/finished is finished")
            && message.contains("keeps PersistentVolumeClaim c"),
        "{message}"
    );
    let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    pods.delete("finished", &now).await.unwrap();
    until_gone(&claims, "c").await;
}

/// F3: the object of a released reservation names the finalizer that keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn f3_a_finalizer_of_others_is_named() {
    let cluster = Cluster::start().await;
    let reservation = "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: r,
      finalizers: [example.com/keep]}, spec: {role: eng, size: 1Gi}}";
    cluster.apply_text(reservation).await;
    let reservations = cluster.all::<reservoir::api::DiskReservation>();
    until_reason(&reservations, "r", "NoSuchDisk").await;
    reservations.delete("r", &DeleteParams::default()).await.unwrap();
    let message = until_reason(&reservations, "r", "Releasing").await;
    assert!(message.contains("finalizer example.com/keep"), "{message}");
    let strip = json!({"metadata": {"finalizers": null}});
    reservations.patch("r", &PatchParams::default(), &Patch::Merge(&strip)).await.unwrap();
}

/// F2, T2: all is applied at once, in each order of the kinds; what is served within moments was no warning.
#[tokio::test(flavor = "multi_thread")]
async fn f2_what_is_applied_at_once_warns_of_nothing() {
    let (cluster, _agent) = one_node("2Gi").await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    let mut order = [0, 1, 2, 3];
    let mut orders = vec![order];
    // Heap's algorithm.
    let (mut count, mut i) = ([0; 4], 0);
    while i < 4 {
        if count[i] < i {
            order.swap(if i % 2 == 0 { 0 } else { count[i] }, i);
            orders.push(order);
            count[i] += 1;
            i = 0;
        } else {
            count[i] = 0;
            i += 1;
        }
    }
    assert_eq!(orders.len(), 24);
    for (n, order) in orders.iter().enumerate() {
        let role = format!("r{n}");
        let head = "apiVersion: reservoir.dev/v1alpha1";
        let texts = [
            format!(
                "{{{head}, kind: DiskReservation, metadata: {{name: {role}}}, spec: {{role: {role}, size: 16Mi}}}}"
            ),
            format!(
                "{{{head}, kind: SharedPersistentVolume, metadata: {{name: {role}}}, spec: {{role: {role}, size: 16Mi, shared: {{}}}}}}"
            ),
            format!(
                "{{{head}, kind: RoleSubscription, metadata: {{name: {role}, namespace: team}}, spec: {{roles: [{role}], \
                 capabilities: [SHARED_RESOURCES]}}}}"
            ),
            format!(
                "{{{head}, kind: VolumeClaim, metadata: {{name: {role}, namespace: team}}, spec: {{role: {role}, volume: {role}}}}}"
            ),
        ];
        for i in order {
            cluster.apply_text(&texts[*i]).await;
        }
        until_reason(&claims, &role, "Bound").await;
    }
    // Longer than a wait has to last.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(warnings(&cluster).await, [""; 0]);
    // And what lasts is a warning, with the latest words.
    let late =
        "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: late, namespace: team},
      spec: {role: r0, volume: missing}}";
    cluster.apply_text(late).await;
    until("the wait is told", || async { warnings(&cluster).await.first().cloned() }).await;
    let said = warnings(&cluster).await;
    assert!(
        said.len() == 1
            && said[0].starts_with("late NoSuchVolume: there is no SharedPersistentVolume missing"),
        "{said:?}"
    );
    // Nothing is said of what is gone.
    cluster.apply_text(&late.replace("name: late", "name: brief")).await;
    until_reason(&claims, "brief", "NoSuchVolume").await;
    claims.delete("brief", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(warnings(&cluster).await, said);
}
