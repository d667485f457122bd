//! What stays when its object goes, and what a new object of an old name does not get (C7, X6, X7).

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use reservoir::api::condition::{self, DISK_HEALTHY};
use reservoir::api::{ClaimBinding, DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::support::{Agent, Cluster, until, until_gone, until_reason};

const ROOM: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 64Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data},
 spec: {role: eng, size: 32Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
";

const CLAIM: &str =
    "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team},
    spec: {role: eng, volume: data}}";

async fn room() -> (Cluster, Agent) {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "128Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(ROOM).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    (cluster, agent)
}

/// Has the object go although its finalizer is there to prevent it, as somebody in a hurry does.
async fn strip_and_delete<K>(api: &Api<K>, name: &str)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let strip = json!({"metadata": {"finalizers": null}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&strip)).await.unwrap();
    api.delete(name, &DeleteParams::default()).await.unwrap();
    until_gone(api, name).await;
}

async fn bindings(cluster: &Cluster) -> Vec<ClaimBinding> {
    cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().status.unwrap().claims
}

/// C7, S8.
#[tokio::test(flavor = "multi_thread")]
async fn c7_what_is_made_again_under_an_old_name_is_new() {
    let (cluster, agent) = room().await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    cluster.apply_text(CLAIM).await;
    until_reason(&claims, "data", "Bound").await;
    let old = claims.get("data").await.unwrap();

    // The controller does not see that the claim went and another one came.
    cluster.kill_controller().await;
    strip_and_delete(&claims, "data").await;
    cluster.apply_text(CLAIM).await;
    let new = claims.get("data").await.unwrap();
    assert_ne!(new.uid(), old.uid());
    cluster.start_controller().await;
    let bound = until("the new claim, and it alone, is bound", || async {
        let claim = claims.get("data").await.unwrap();
        let uids: Vec<_> = bindings(&cluster).await.into_iter().map(|b| b.uid).collect();
        (uids == claim.uid().into_iter().collect::<Vec<_>>()).then_some(claim)
    })
    .await;
    assert_eq!(bound.uid(), new.uid());
    until_reason(&claims, "data", "Bound").await;
    let now = claims.get("data").await.unwrap().status.unwrap();
    assert_ne!(now.persistent_volume, old.status.unwrap().persistent_volume, "a handle of its own");
    let pvc = cluster.within::<PersistentVolumeClaim>("team").get("data").await.unwrap();
    assert_eq!(pvc.spec.unwrap().volume_name, now.persistent_volume);

    // Nor is anything of a namespace left for the next of its name: it is not subscribed to anything.
    let namespaces: Api<Namespace> = cluster.all();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    until_gone(&namespaces, "team").await;
    until("no claim is left on the volume", || async { bindings(&cluster).await.is_empty().then_some(()) })
        .await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    cluster.apply_text(CLAIM).await;
    until_reason(&claims, "data", "NoSubscription").await;
    assert_eq!(bindings(&cluster).await, []);
    assert_eq!(agent.backings().len(), 1, "the data is kept");
}

/// X6, X7, S14, L8. harvester 11128: a garbage collector that would have eaten live data.
#[tokio::test(flavor = "multi_thread")]
async fn x6_harvester_11128_data_without_an_object_is_kept_and_reported() {
    let (cluster, agent) = room().await;
    let kinds: Api<CustomResourceDefinition> = cluster.all();
    for crd in reservoir::api::crds() {
        let name = crd.name_any();
        let refused = kinds.delete(&name, &DeleteParams::default()).await.unwrap_err().to_string();
        assert!(
            refused.contains(&format!("deleting {name} deletes all its objects and orphans their data")),
            "{refused}"
        );
    }
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    strip_and_delete(&volumes, "data").await;
    let disks: Api<NodeDisk> = cluster.all();
    until("it is reported", || async {
        let status = disks.get("n1.default").await.unwrap().status.unwrap();
        let said = condition::get(&status.conditions, DISK_HEALTHY).unwrap().message.clone();
        said.contains("one volume on it has no object: it is kept").then_some(())
    })
    .await;
    assert_eq!(agent.backings(), std::slice::from_ref(&uid));

    // Its room is not given away: the reservation holds it, and is held by it.
    let reservations: Api<DiskReservation> = cluster.all();
    let refused = reservations.delete("eng", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("reservation eng holds 1 volume: data"), "{refused}");
    // One of the same name is another one.
    cluster.apply_text(ROOM).await;
    until_reason(&volumes, "data", "Ready").await;
    let mut both = vec![uid, volumes.get("data").await.unwrap().uid().unwrap()];
    both.sort();
    assert_eq!(agent.backings(), both);
}
