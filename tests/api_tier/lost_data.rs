//! Bytes that somebody removes from a disk, while a pod has their volume mounted (V10): a real file system, and its file.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, ResourceExt};
use reservoir::api::condition::{self, READY};
use reservoir::api::{SharedPersistentVolume, VolumeClaim};

use crate::plugin::{parsed, run};
use crate::support::{one_node, until, until_reason};

const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 128Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data},
 spec: {role: eng, size: 32Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team}, spec: {role: eng, volume: data}}
";
const POD: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: team}, spec: {nodeName: n1, terminationGracePeriodSeconds: 0,
 automountServiceAccountToken: false, containers: [{name: c, image: none}],
 volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}
";

/// V10, T2, T4.
#[tokio::test(flavor = "multi_thread")]
async fn v10_removed_bytes_are_told_while_their_pod_has_them() {
    let (cluster, agent) = one_node("512Mi").await;
    cluster.apply_text(OBJECTS).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "data", "Bound").await;
    let claim = claims.get("data").await.unwrap();
    // The namespace gets its service account within moments.
    cluster.pod("team", "first", &[]).await;
    cluster.apply_text(POD).await;
    let pod: Pod = Api::namespaced(cluster.client.clone(), "team").get("web").await.unwrap();
    let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    std::fs::write(target.join("kept"), "of use").unwrap();
    until("the pod is counted", || async {
        (volumes.get("data").await.unwrap().status?.user_count == 1).then_some(())
    })
    .await;

    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    std::fs::remove_file(agent.dir.join(format!("disk/volumes/{uid}/data"))).unwrap();
    let said = until_reason(&volumes, "data", "BackingLost").await;
    assert!(said.contains("a pod that has it mounted may be able to read it until the pod ends"), "{said}");
    assert_eq!(std::fs::read_to_string(target.join("kept")).unwrap(), "of use");
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "team");
    let of_pod = until("an event of the pod", || async {
        let found = events.list(&Default::default()).await.unwrap().items;
        let is_it = |event: &Event| {
            event.reason.as_deref() == Some("BackingLost")
                && event.involved_object.name.as_deref() == Some("web")
        };
        found.into_iter().find(is_it)?.message
    })
    .await;
    assert!(of_pod.contains("copy what is needed"), "{of_pod}");

    let why = parsed(&cluster, "why spv/data");
    let next = why["next"][0].as_str().unwrap();
    assert!(next.starts_with("kubectl exec -it web -n team -- sh   # copy what is needed"), "{why}");
    let found = run(&cluster, "doctor").out;
    assert!(
        found.contains("✗ SharedPersistentVolume data is BackingLost: the data of volume data is lost"),
        "{found}"
    );
    agent.unpublish(&claim, &pod).await.unwrap();
    let status = volumes.get("data").await.unwrap().status.unwrap();
    assert_eq!(condition::get(&status.conditions, READY).unwrap().reason, "BackingLost");
}
