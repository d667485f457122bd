//! Data that outlives its object, and new objects under old names, which inherit nothing (C7, X6, X7).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{CustomResourceExt, ResourceExt};
use reservoir::api::condition::{self, DISK_HEALTHY};
use reservoir::api::{
    ClaimBinding, DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim,
    VolumeOffer,
};
use serde_json::json;

use crate::faults::{CLAIMED, CLAIMS, OBJECTS, all_goes, bound, claim, served};
use crate::support::{
    Agent, CONTROLLER_USER, Cluster, Watch, one_node, strip_and_delete, until, until_gone, until_reason,
};

/// A team with a reservation, a shared volume in it, and a subscription.
pub const TEAM: &str = "
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

pub const CLAIM: &str =
    "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team},
    spec: {role: eng, volume: data}}";

pub async fn start() -> (Cluster, Agent) {
    let (cluster, agent) = one_node("128Mi").await;
    cluster.apply_text(TEAM).await;
    until_reason(&cluster.all::<SharedPersistentVolume>(), "data", "Ready").await;
    (cluster, agent)
}

async fn bindings(cluster: &Cluster) -> Vec<ClaimBinding> {
    cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().status.unwrap().claims
}

/// C7, S8.
#[tokio::test(flavor = "multi_thread")]
async fn c7_an_object_remade_under_an_old_name_is_new() {
    let (cluster, agent) = start().await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    cluster.apply_text(CLAIM).await;
    until_reason(&claims, "data", "Bound").await;
    let old = claims.get("data").await.unwrap();

    // The controller misses the deletion of the claim and the creation of a new one.
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

    // A new namespace of the same name inherits nothing, not even a subscription.
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

/// X6, X7, S14, L8. harvester 11128: a garbage collector would have deleted live data.
#[tokio::test(flavor = "multi_thread")]
async fn x6_harvester_11128_orphans_are_kept_and_reported() {
    let (cluster, agent) = start().await;
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

    // Nobody else gets the orphan's space: the reservation keeps it, and the orphan keeps the reservation.
    let reservations: Api<DiskReservation> = cluster.all();
    let refused = reservations.delete("eng", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("reservation eng holds 1 volume: data"), "{refused}");
    // A volume of the same name is another volume.
    cluster.apply_text(TEAM).await;
    until_reason(&volumes, "data", "Ready").await;
    let mut both = vec![uid, volumes.get("data").await.unwrap().uid().unwrap()];
    both.sort();
    assert_eq!(agent.backings(), both);
}

/// X9, X6: an administrator deletes the kind of volumes on purpose, without a DELETE of any volume. The data stays,
/// and comes back with the kind.
#[tokio::test(flavor = "multi_thread")]
async fn x9_data_outlives_the_kind_of_its_volume() {
    let (cluster, agent) = start().await;
    let (volumes, claims): (Api<SharedPersistentVolume>, Api<VolumeClaim>) =
        (cluster.all(), cluster.within("team"));
    cluster.apply_text(CLAIM).await;
    write_as_pod(&cluster, &agent).await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    let uid = volumes.get("data").await.unwrap().uid().unwrap();

    let kinds: Api<CustomResourceDefinition> = cluster.all();
    let kind = SharedPersistentVolume::crd_name();
    let allow = json!({"metadata": {"annotations": {"reservoir.dev/allow-deletion": "true"}}});
    kinds.patch(kind, &PatchParams::default(), &Patch::Merge(&allow)).await.unwrap();
    kinds.delete(kind, &DeleteParams::default()).await.unwrap();
    until_gone(&kinds, kind).await;
    assert_eq!(agent.backings(), std::slice::from_ref(&uid), "nothing is erased");

    kinds.create(&Default::default(), &SharedPersistentVolume::crd()).await.unwrap();
    let found = orphans(&cluster, 1).await;
    assert_eq!(found[0].uid, uid);
    until("its manifest is taken", || async { cluster.try_apply(&recover(&cluster)).await.ok() }).await;
    until_reason(&volumes, "data", "Ready").await;
    cluster.apply_text(CLAIM).await;
    read_as_pod(&cluster, &agent).await;
    orphans(&cluster, 0).await;
}

/// X9, V6: data outlives the kind of claims, and the namespace of a claim.
#[tokio::test(flavor = "multi_thread")]
async fn x9_data_outlives_the_kind_and_namespace_of_claims() {
    let (cluster, agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    cluster.apply_text(CLAIM).await;
    write_as_pod(&cluster, &agent).await;
    let kinds: Api<CustomResourceDefinition> = cluster.all();
    let kind = VolumeClaim::crd_name();
    let allow = json!({"metadata": {"annotations": {"reservoir.dev/allow-deletion": "true"}}});
    kinds.patch(kind, &PatchParams::default(), &Patch::Merge(&allow)).await.unwrap();
    kinds.delete(kind, &DeleteParams::default()).await.unwrap();
    until_gone(&kinds, kind).await;
    kinds.create(&Default::default(), &VolumeClaim::crd()).await.unwrap();
    until("the kind is served", || async { cluster.try_apply(CLAIM).await.ok() }).await;
    read_as_pod(&cluster, &agent).await;

    let namespaces: Api<Namespace> = cluster.all();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    until_gone(&namespaces, "team").await;
    until("no claim is left on the volume", || async { bindings(&cluster).await.is_empty().then_some(()) })
        .await;
    cluster.quiet_for(Duration::from_secs(2)).await;
    let volume = volumes.get("data").await.unwrap();
    assert!(!volume.spec.retire && volume.metadata.deletion_timestamp.is_none());
    assert_eq!(agent.backings(), [volume.uid().unwrap()]);
}

/// A pod of the claim `data` writes a file, and ends.
pub async fn write_as_pod(cluster: &Cluster, agent: &Agent) {
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "data", "Bound").await;
    let claim = claims.get("data").await.unwrap();
    let pod = cluster.pod("team", "writer", &["data"]).await;
    let target = agent.publish(cluster, &claim, &pod, false).await.unwrap();
    std::fs::write(target.join("file"), "kept").unwrap();
    agent.unpublish(&claim, &pod).await.unwrap();
    cluster.end_pod("team", "writer").await;
}

/// Another pod of the claim `data` reads the file.
pub async fn read_as_pod(cluster: &Cluster, agent: &Agent) {
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "data", "Bound").await;
    let claim = claims.get("data").await.unwrap();
    let pod = cluster.pod("team", "reader", &["data"]).await;
    let target = agent.publish(cluster, &claim, &pod, true).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "kept");
    agent.unpublish(&claim, &pod).await.unwrap();
}

/// The output of `reservoir recover`, run with an administrator's rights.
fn recover(cluster: &Cluster) -> String {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, serde_json::to_vec(&cluster.server.kubeconfig().unwrap()).unwrap()).unwrap();
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_reservoir"))
        .arg("recover")
        .env("KUBECONFIG", &kubeconfig)
        .env("RUST_LOG", "error")
        .output()
        .unwrap();
    assert!(program.status.success(), "{program:?}");
    String::from_utf8(program.stdout).unwrap()
}

async fn orphans(cluster: &Cluster, how_many: usize) -> Vec<reservoir::api::Orphan> {
    let disks: Api<NodeDisk> = cluster.all();
    until(&format!("{how_many} orphans are reported"), || async {
        let status = disks.get_opt("n1.default").await.unwrap()?.status?;
        (status.orphans.len() == how_many).then_some(status.orphans)
    })
    .await
}

const LOST: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng, labels: {tier: gold}},
 spec: {role: eng, size: 320Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: ml},
 spec: {role: eng/ml, size: 96Mi, parent: eng}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data, labels: {set: one}},
 spec: {role: eng, size: 128Mi, reservation: eng, shared: {}, gid: 4321, mountOptions: [noexec], erasePolicy: Zero}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: model},
 spec: {role: eng/ml, size: 64Mi, reservation: ml}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team}, spec: {role: eng, volume: data}}
";

/// X6, S4, S14.
#[tokio::test(flavor = "multi_thread")]
async fn x6_one_command_rebuilds_a_lost_cluster_from_its_disks() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "384Mi").await;
    let (disks, reservations): (Api<NodeDisk>, Api<DiskReservation>) = (cluster.all(), cluster.all());
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&disks, "n1.default", "Ready").await;
    cluster.apply_text(LOST).await;
    for name in ["data", "model"] {
        until_reason(&volumes, name, "Ready").await;
    }
    write_as_pod(&cluster, &agent).await;
    let lost = volumes.get("data").await.unwrap();
    assert_eq!(recover(&cluster), "", "there is nothing to recover");

    // All of Reservoir's objects are gone at once, as after a loss of etcd. The agent meets the new cluster as at its
    // start.
    cluster.kill_controller().await;
    agent.kill().await;
    strip_and_delete(&claims, "data").await;
    let forget = json!({"status": {"volumes": null, "refinements": null, "reservations": null, "claims": null,
        "claimCount": 0, "userCount": 0}});
    for name in ["data", "model"] {
        volumes.patch_status(name, &PatchParams::default(), &Patch::Merge(&forget)).await.unwrap();
        strip_and_delete(&volumes, name).await;
    }
    for name in ["ml", "eng"] {
        reservations.patch_status(name, &PatchParams::default(), &Patch::Merge(&forget)).await.unwrap();
        strip_and_delete(&reservations, name).await;
    }
    disks.patch_status("n1.default", &PatchParams::default(), &Patch::Merge(&forget)).await.unwrap();
    strip_and_delete(&disks, "n1.default").await;
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    pvcs.delete("data", &DeleteParams::default()).await.ok();
    until_gone(&pvcs, "data").await;
    let backings = agent.backings();
    assert_eq!(backings.len(), 2);
    cluster.start_controller().await;
    agent.run();
    let found = orphans(&cluster, 2).await;
    assert!(found.iter().any(|orphan| Some(&orphan.uid) == lost.metadata.uid.as_ref()));

    // S14: space of an orphan is never given away, however long the orphan waits for its object.
    until_reason(&disks, "n1.default", "Ready").await;
    let greedy = "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: greedy}, spec: {role: ops, size: 256Mi}}";
    cluster.apply_text(greedy).await;
    let said = until_reason(&reservations, "greedy", "NotEnoughRoom").await;
    assert!(said.contains("n1.default has 192Mi free, 64Mi too little"), "{said}");
    assert_eq!(agent.backings(), backings);

    let watch = Watch::safety(&cluster);
    let manifests = recover(&cluster);
    println!("{manifests}");
    cluster.apply_text(&manifests).await;
    for name in ["data", "model"] {
        until_reason(&volumes, name, "Ready").await;
    }
    let (eng, ml) = (reservations.get("eng").await.unwrap(), reservations.get("ml").await.unwrap());
    assert_eq!((eng.spec.role.as_str(), eng.spec.size.as_str()), ("eng", "320Mi"), "{manifests}");
    assert_eq!(eng.labels().get("tier").map(String::as_str), Some("gold"));
    assert_eq!((ml.spec.size.as_str(), ml.spec.parent.as_deref()), ("96Mi", Some("eng")));
    let data = volumes.get("data").await.unwrap();
    let mut spec = data.spec.clone();
    assert_eq!(spec.recover.take().map(|recover| recover.uid), lost.uid());
    (spec.permissions, spec.principal) = (lost.spec.permissions.clone(), lost.spec.principal.clone());
    assert_eq!(spec, lost.spec, "nothing is guessed and nothing lost");
    assert_eq!(data.labels(), lost.labels());
    assert_ne!(data.uid(), lost.uid());
    let mut uids: Vec<_> =
        [&data, &volumes.get("model").await.unwrap()].iter().map(|v| v.uid().unwrap()).collect();
    uids.sort();
    assert_eq!(agent.backings(), uids, "S4: the data is where its UID says");
    orphans(&cluster, 0).await;
    assert!(recover(&cluster).is_empty());

    // Pods have the data again.
    cluster.apply_text(CLAIM).await;
    read_as_pod(&cluster, &agent).await;
    watch.assert_unbroken();

    // To remove an orphan, a person recovers it and destroys the volume, with all checks of a destruction.
    volumes.delete("model", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "model").await;
    assert_eq!(agent.backings(), [data.uid().unwrap()]);
}

/// X6, S4, V3.
#[tokio::test(flavor = "multi_thread")]
async fn x6_an_orphan_is_recovered_once_and_by_its_own_role() {
    let (cluster, agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    let recovering = |name: &str, more: &str| {
        format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: {name}}}, \
             spec: {{size: 32Mi, shared: {{}}, recover: {{uid: {uid}}}, {more}}}}}"
        )
    };
    cluster.apply_text(&recovering("thief", "role: eng")).await;
    let said = until_reason(&volumes, "thief", "NoOrphan").await;
    assert!(said.contains("is that of volume data, which is there: claim that one"), "{said}");
    let ledger = cluster.all::<DiskReservation>().get("eng").await.unwrap().status.unwrap().volumes;
    assert_eq!(ledger.iter().map(|line| &line.uid).collect::<Vec<_>>(), [&uid], "the line stays whose it is");
    let changed = recovering("thief", "role: eng").replace(&uid, "00112233-4455-6677-8899-aabbccddeeff");
    let refused = cluster.try_apply(&changed).await.unwrap_err().to_string();
    assert!(refused.contains("the recovered data of a volume cannot be changed"), "{refused}");
    let path = recovering("path", "role: eng").replace(&uid, "../../../../etc/00000000000000000000");
    let refused = cluster.try_apply(&path).await.unwrap_err().to_string();
    assert!(refused.contains("a UID, in lower case"), "{refused}");
    volumes.delete("thief", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "thief").await;
    assert_eq!(agent.backings(), std::slice::from_ref(&uid), "destroying it took nothing");

    strip_and_delete(&volumes, "data").await;
    orphans(&cluster, 1).await;
    cluster.apply_text(&recovering("sub", "role: eng/ml")).await;
    let said = until_reason(&volumes, "sub", "BackingFailed").await;
    assert!(said.contains("belongs to role eng: recover it for that role"), "{said}");
    volumes.delete("sub", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "sub").await;

    // The orphan fills the reservation. Its ledger entry passes to the volume that recovers it.
    let reservations: Api<DiskReservation> = cluster.all();
    let small = json!({"spec": {"size": "32Mi"}});
    reservations.patch("eng", &PatchParams::default(), &Patch::Merge(&small)).await.unwrap();
    cluster.apply_text(&recovering("data", "role: eng, reservation: eng")).await;
    until_reason(&volumes, "data", "Ready").await;
    let now = volumes.get("data").await.unwrap().uid().unwrap();
    let ledger = reservations.get("eng").await.unwrap().status.unwrap().volumes;
    assert_eq!(ledger.iter().map(|line| &line.uid).collect::<Vec<_>>(), [&now]);
    assert_eq!(agent.backings(), [now]);
    cluster.apply_text(&recovering("late", "role: eng")).await;
    let said = until_reason(&volumes, "late", "NoOrphan").await;
    assert!(said.contains("is that of volume data, which is there: claim that one"), "{said}");

    // Data that no disk has is waited for, and no disk has to try.
    let absent = "00112233-4455-6677-8899-aabbccddeeff";
    let larger = json!({"spec": {"size": "64Mi"}});
    reservations.patch("eng", &PatchParams::default(), &Patch::Merge(&larger)).await.unwrap();
    cluster.apply_text(&recovering("absent", "role: eng").replace(&uid, absent)).await;
    let said = until_reason(&volumes, "absent", "NoOrphan").await;
    assert!(said.contains(&format!("no NodeDisk reports data {absent} without an object")), "{said}");
}

/// L5, O6: a forged offer in the name of a subscription, made before admission refused this to everybody but the
/// controller (A6).
#[tokio::test(flavor = "multi_thread")]
async fn l5_o6_a_forged_offer_blocks_no_destruction() {
    let (cluster, agent) = start().await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    let subscription = cluster.within::<RoleSubscription>("team").get("eng").await.unwrap();
    let offers: Api<VolumeOffer> = cluster.within("team");
    until("it is offered", || async {
        let offer = offers.get_opt("eng.n1").await.unwrap()?;
        (!offer.spec.volumes.is_empty()).then_some(())
    })
    .await;
    let mut forged = offers.get("eng.n1").await.unwrap();
    assert_eq!(forged.owner_references()[0].uid, subscription.uid().unwrap());
    assert_eq!(forged.spec.volumes[0].uid, uid);
    let owners = forged.metadata.owner_references.take();
    forged.metadata =
        ObjectMeta { name: Some("forged".into()), owner_references: owners, ..Default::default() };
    let before = cluster.server.client_as(CONTROLLER_USER, &["system:masters"]).await.unwrap();
    Api::namespaced(before, "team").create(&Default::default(), &forged).await.unwrap();
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "data").await;
    until_gone(&offers, "forged").await;
    agent.nothing_left().await;
}

/// C6, X1: a user who may write a PersistentVolumeClaim can remove its label.
#[tokio::test(flavor = "multi_thread")]
async fn c6_x1_a_claim_without_its_label_waits_for_its_pods() {
    let (cluster, _agent) = start().await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    cluster.apply_text(CLAIM).await;
    until_reason(&claims, "data", "Bound").await;
    cluster.pod("team", "user", &["data"]).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("the pod is counted", || async {
        volumes.get("data").await.unwrap().status.filter(|status| !status.users.is_empty()).map(drop)
    })
    .await;
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    let bare = json!({"metadata": {"labels": null, "ownerReferences": null}});
    pvcs.patch("data", &PatchParams::default(), &Patch::Merge(&bare)).await.unwrap();
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    let said = until_reason(&claims, "data", "InUse").await;
    assert!(said.contains("pod team/user"), "{said}");
    let refused = volumes.delete("data", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("team/user"), "{refused}");
    cluster.end_pod("team", "user").await;
    until_gone(&claims, "data").await;
    until_gone(&pvcs, "data").await;
}

/// X1, C6, S6: an editor of a namespace deletes a claim and its PersistentVolumeClaim while a pod uses both, and
/// removes the finalizers.
#[tokio::test(flavor = "multi_thread")]
async fn x1_stripped_finalizers_do_not_pass_the_guard() {
    let (cluster, agent) = start().await;
    let exclusive =
        "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: solo},
        spec: {role: eng, size: 16Mi}}";
    cluster.apply_text(exclusive).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within("team");
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    until_reason(&volumes, "solo", "Ready").await;
    for name in ["data", "solo"] {
        let claim_to = |claim: &str| {
            CLAIM
                .replace("name: data", &format!("name: {claim}"))
                .replace("volume: data", &format!("volume: {name}"))
        };
        cluster.apply_text(&claim_to(name)).await;
        until_reason(&claims, name, "Bound").await;
        let user = cluster.pod("team", name, &[name]).await;
        let old = claims.get(name).await.unwrap();
        let pv = old.status.as_ref().and_then(|status| status.persistent_volume.as_deref()).unwrap();
        let pv = cluster.all::<PersistentVolume>().get(pv).await.unwrap().spec.unwrap();
        let at = agent.publish(&cluster, &old, &user, false).await.unwrap();
        std::fs::write(at.join("file"), "used").unwrap();
        until("the pod is counted", || async {
            (volumes.get(name).await.unwrap().status.unwrap().user_count == 1).then_some(())
        })
        .await;

        claims.delete(name, &DeleteParams::default()).await.unwrap();
        until("the PersistentVolumeClaim is stripped until it is gone", || async {
            let _ = pvcs.delete(name, &DeleteParams::default()).await;
            let strip = json!({"metadata": {"finalizers": null}});
            let _ = pvcs.patch(name, &PatchParams::default(), &Patch::Merge(&strip)).await;
            pvcs.get_opt(name).await.unwrap().is_none().then_some(())
        })
        .await;
        until("the claim waits for the node", || async {
            let said = until_reason(&claims, name, "InUse").await;
            said.contains(&format!("node n1 has the volume mounted for pod team/{name}")).then_some(())
        })
        .await;
        // The editor then removes the claim itself, and the pod's object. The container runs on.
        let strip = json!({"metadata": {"finalizers": null}});
        claims.patch(name, &PatchParams::default(), &Patch::Merge(&strip)).await.unwrap();
        until_gone(&claims, name).await;
        cluster.end_pod("team", name).await;
        cluster.apply_text(&claim_to(&format!("{name}-2"))).await;
        let reason = if name == "solo" { "VolumeHeld" } else { "Bound" };
        until_reason(&claims, &format!("{name}-2"), reason).await;
        cluster.quiet_for(Duration::from_secs(3)).await;
        let listed = volumes.get(name).await.unwrap().status.unwrap().claims;
        assert!(
            listed.iter().any(|binding| Some(&binding.uid) == old.metadata.uid.as_ref() && binding.ending),
            "{listed:?}"
        );
        until_reason(&claims, &format!("{name}-2"), reason).await;
        let refused = volumes.delete(name, &DeleteParams::default()).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("team/{name}")), "{refused}");
        let late = agent.publish_volume(pv, &old, &user, false).await.unwrap_err();
        assert!(late.message().contains("is not bound to the claim of this pod any more"), "{late}");
        assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), "used");
        agent.unpublish(&old, &user).await.unwrap();
        until_reason(&claims, &format!("{name}-2"), "Bound").await;
        until("the ended claim has left the list", || async {
            (volumes.get(name).await.unwrap().status.unwrap().claims.len() == 1).then_some(())
        })
        .await;
    }
}

/// X1, L5.
#[tokio::test(flavor = "multi_thread")]
async fn x1_l5_a_claim_that_was_stripped_blocks_nothing() {
    let (cluster, agent) = one_node("256Mi").await;
    cluster.apply_text(OBJECTS).await;
    served(&cluster).await;
    cluster.apply_text(CLAIMS).await;
    bound(&cluster, &CLAIMED).await;
    let pods: Api<Pod> = cluster.within("team-a");
    let user = cluster.pod("team-a", "user", &["data"]).await;
    let data = claim(&cluster, "team-a", "data").await;
    let at = agent.publish(&cluster, &data, &user, false).await.unwrap();
    std::fs::write(at.join("file"), "used").unwrap();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until("the pod is counted", || async {
        (volumes.get("data").await.unwrap().status.unwrap().user_count == 1).then_some(())
    })
    .await;

    // The controller misses the deletions.
    cluster.kill_controller().await;
    for (namespace, name) in CLAIMED {
        strip_and_delete(&cluster.within::<VolumeClaim>(namespace), name).await;
    }
    cluster.start_controller().await;
    until("only the claim that a pod uses is remembered", || async {
        let all = volumes.list(&Default::default()).await.unwrap();
        let kept = all.iter().map(|v| v.status.as_ref().map_or(9, |s| s.claims.len()));
        (kept.collect::<Vec<_>>() == [1, 0, 0]).then_some(())
    })
    .await;
    let refused = volumes.delete("data", &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("in use by 1 pod: team-a/user"), "{refused}");
    assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), "used");
    agent.unpublish(&data, &user).await.unwrap();
    cluster.end_pod("team-a", "user").await;
    until_gone(&pods, "user").await;
    all_goes(&cluster, &agent).await;
}
