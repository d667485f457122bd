//! Applications and Reservoir itself are removed in one run (F5).

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ObjectList, PartialObjectMeta};
use reservoir::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeClaim};
use reservoir_cluster::tools;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ask::{Ask, grant, lacks, person, reservation, volume};
use crate::plugin::{does, fails};
use crate::support::{Agent, Cluster, admission_writes, one_node, sign, until, until_gone, until_reason};

/// Runs a program with the cluster's kubeconfig.
fn run(cluster: &Cluster, program: &Path, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, serde_json::to_vec(&cluster.server.kubeconfig().unwrap()).unwrap()).unwrap();
    Command::new(program).args(args).env("KUBECONFIG", kubeconfig).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn start() -> (Cluster, Agent) {
    let (cluster, agent) = one_node("512Mi").await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team-a}}").await;
    (cluster, agent)
}

/// F5, X2, X3: Helm deletes unknown kinds by name, DiskReservation first. One run is enough, although a pod uses the volume;
/// the data is there until that pod's mount is gone.
#[tokio::test(flavor = "multi_thread")]
async fn f5_one_helm_uninstall_removes_an_application() {
    let (cluster, agent) = start().await;
    let chart = tempfile::tempdir().unwrap();
    std::fs::create_dir(chart.path().join("templates")).unwrap();
    std::fs::write(chart.path().join("Chart.yaml"), "{apiVersion: v2, name: shop, version: 0.1.0}").unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/23-application.yaml");
    for (n, document) in serde_yaml::Deserializer::from_reader(File::open(example).unwrap()).enumerate() {
        let mut manifest = Value::deserialize(document).unwrap();
        sign(&cluster.client, &mut manifest, None).await;
        std::fs::write(chart.path().join(format!("templates/{n}.yaml")), manifest.to_string()).unwrap();
    }
    let (helm, path) = (tools::helm().unwrap(), chart.path().display().to_string());
    let installed = run(&cluster, &helm, &["install", "shop", &path, "--namespace", "team-a"]);
    assert!(installed.status.success(), "{}", text(&installed));
    let (claims, pods): (Api<VolumeClaim>, Api<Pod>) = (cluster.within("team-a"), cluster.within("team-a"));
    until_reason(&claims, "shop", "Bound").await;
    let pod = until("the Deployment has a pod", || async {
        pods.list(&Default::default()).await.unwrap().items.into_iter().next()
    })
    .await;
    let claim = claims.get("shop").await.unwrap();
    let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    std::fs::write(target.join("precious"), "x").unwrap();

    let volumes = cluster.all::<SharedPersistentVolume>();
    until("the pod is counted", || async {
        (volumes.get("shop").await.unwrap().status.unwrap().user_count == 1).then_some(())
    })
    .await;
    let removed = run(&cluster, &helm, &["uninstall", "shop", "--namespace", "team-a"]);
    assert!(removed.status.success(), "one run: {}", text(&removed));
    let listed = run(&cluster, &helm, &["list", "--short", "--namespace", "team-a"]);
    assert_eq!(text(&listed).trim(), "");
    // The volume waits, and takes no new claim.
    let late = "{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: late, namespace: team-a},
      spec: {roles: [shop], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: late, namespace: team-a}, spec: {role: shop, volume: shop}}";
    cluster.apply_text(late).await;
    until_reason(&claims, "late", "VolumeDestroying").await;
    until_reason(&cluster.all::<DiskReservation>(), "shop", "HasVolumes").await;
    assert_eq!(std::fs::read_to_string(target.join("precious")).unwrap(), "x", "X3: the kernel has a mount");
    assert_eq!(agent.backings().len(), 1);
    agent.unpublish(&claim, &pod).await.unwrap();
    until_gone(&claims, "shop").await;
    until_gone(&volumes, "shop").await;
    until_gone(&cluster.all::<DiskReservation>(), "shop").await;
    agent.nothing_left().await;
}

/// F5, A6: the choice needs the verb that deletes, and without it X1 and R6 hold as before.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a6_the_deletion_policy_needs_the_verb_that_deletes() {
    let cluster = crate::ask::cluster().await;
    let waiting = |mut object: serde_json::Value| {
        object["spec"]["deletionPolicy"] = json!("Wait");
        object
    };
    for (makes, ends, object) in
        [("reserve", "unreserve", reservation("new", "eng")), ("create", "destroy", volume("new", "eng"))]
    {
        let (maker, owner) = (format!("{makes}r"), format!("{makes}-owner"));
        grant(&cluster, &maker, &[makes], &["eng"]).await;
        grant(&cluster, &owner, &[makes, ends], &["eng"]).await;
        let (maker_client, owner_client) = (person(&cluster, &maker).await, person(&cluster, &owner).await);
        Ask::create(&object).dry(&maker_client).await.unwrap();
        let said = Ask::create(&waiting(object.clone())).dry(&maker_client).await.unwrap_err();
        assert!(said.contains(&lacks(&maker, ends, "eng")), "{said}");
        Ask::create(&waiting(object.clone())).of(&owner_client).await.unwrap();
        let back = Ask::patch(&object, json!({"spec": {"deletionPolicy": "Refuse"}}));
        let said = back.dry(&maker_client).await.unwrap_err();
        assert!(said.contains(&lacks(&maker, ends, "eng")), "{said}");
        back.dry(&owner_client).await.unwrap();
    }
    // The same states with both choices.
    let used = json!({"userCount": 1, "users": [{"namespace": "team", "name": "p", "uid": "u"}],
        "claims": [{"namespace": "team", "name": "c", "uid": "u", "mode": "ReadWrite"}]});
    let holds = json!({"volumes": [{"name": "v", "uid": "u", "role": "eng", "size": "1Mi"}]});
    for (object, status, refusal) in [
        (
            volume("new", "eng"),
            used,
            "in use by 1 pod: team/p; nothing was changed, delete it when it has ended and the claim is deleted",
        ),
        (
            reservation("new", "eng"),
            holds,
            "holds 1 volume: v; delete what is not needed any more first, or set spec.deletionPolicy: Wait",
        ),
    ] {
        let path = format!("{}/status", crate::ask::path(&object));
        let write = Ask::new("PATCH", crate::ask::MERGE, path, json!({"status": status}));
        write.of(&cluster.client).await.unwrap();
        Ask::delete(&object).dry(&cluster.client).await.unwrap();
        Ask::patch(&object, json!({"spec": {"deletionPolicy": "Refuse"}})).of(&cluster.client).await.unwrap();
        let said = Ask::delete(&object).dry(&cluster.client).await.unwrap_err();
        assert!(said.contains(refusal), "{said}");
    }
}

/// The objects of the team's application: a volume in use by nobody, and what leads to it.
const TEAM_A: &str = "
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 64Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data}, spec: {role: eng, size: 32Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team-a},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team-a}, spec: {role: eng, volume: data}}
";

/// The controller as Helm installs it, for those who look for it. Its pod is not run.
const CONTROLLER: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: reservoir-controller, namespace: team-a,
  labels: {app.kubernetes.io/name: reservoir, app.kubernetes.io/component: controller, app.kubernetes.io/instance: storage}},
  spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}},
    spec: {containers: [{name: c, image: none}]}}}}";

/// The names of Reservoir's kinds and policies in the cluster.
async fn installed(cluster: &Cluster) -> Vec<String> {
    use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let kinds: Api<CustomResourceDefinition> = cluster.all();
    let policies: Api<ValidatingAdmissionPolicy> = cluster.all();
    let kinds = kinds.list(&Default::default()).await.unwrap().items.into_iter().map(|kind| kind.name_any());
    let policies =
        policies.list(&Default::default()).await.unwrap().items.into_iter().map(|policy| policy.name_any());
    let mut names: Vec<String> = kinds.chain(policies).collect();
    if admission_writes() {
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
        let get = http::Request::get(path).body(vec![]).unwrap();
        let mutating: ObjectList<PartialObjectMeta> = cluster.client.request(get).await.unwrap();
        names.extend(mutating.items.into_iter().map(|policy| policy.name_any()));
    }
    names.retain(|name| name.contains("reservoir"));
    names
}

/// F5, X6: nothing holds a namespace, and the data is there, although a controller runs that the command does not see.
#[tokio::test(flavor = "multi_thread")]
async fn f5_uninstall_keeps_the_data_and_holds_no_namespace() {
    let (cluster, agent) = start().await;
    cluster.apply_text(TEAM_A).await;
    let (claims, volumes) =
        (cluster.within::<VolumeClaim>("team-a"), cluster.all::<SharedPersistentVolume>());
    until_reason(&claims, "data", "Bound").await;
    let uid = volumes.get("data").await.unwrap().uid().unwrap();
    cluster.apply_text(CONTROLLER).await;
    let said = fails(&cluster, "uninstall --keep-data --yes");
    assert!(said.contains("helm uninstall storage --namespace team-a"), "{said}");
    let delete = http::Request::delete("/apis/apps/v1/namespaces/team-a/deployments/reservoir-controller");
    cluster.client.request::<serde_json::Value>(delete.body(vec![]).unwrap()).await.unwrap();
    let dry = does(&cluster, "uninstall --keep-data --dry-run");
    assert!(
        dry.contains("would remove SharedPersistentVolume data")
            && dry.contains("would remove VolumeClaim team-a/data"),
        "{dry}"
    );
    assert!(fails(&cluster, "uninstall --keep-data").contains("add --yes"), "it asks first");
    assert!(volumes.get("data").await.unwrap().metadata.deletion_timestamp.is_none());
    does(&cluster, "uninstall --keep-data --yes");
    until("kinds and policies are gone", || async { installed(&cluster).await.is_empty().then_some(()) })
        .await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = cluster.all();
    namespaces.delete("team-a", &DeleteParams::default()).await.unwrap();
    until_gone(&namespaces, "team-a").await;
    let pvs: Api<k8s_openapi::api::core::v1::PersistentVolume> = cluster.all();
    until("no PersistentVolume is left", || async {
        pvs.list(&Default::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    assert_eq!(agent.backings(), [uid]);
}

/// F5: claims, volumes and reservations end in their order, and then the rest goes.
#[tokio::test(flavor = "multi_thread")]
async fn f5_uninstall_erases_only_when_told() {
    let (cluster, agent) = start().await;
    cluster.apply_text(TEAM_A).await;
    until_reason(&cluster.within::<VolumeClaim>("team-a"), "data", "Bound").await;
    let said = fails(&cluster, "uninstall --erase --yes");
    assert!(said.contains("nobody erases while Reservoir does not run"), "{said}");
    cluster.apply_text(CONTROLLER).await;
    let pod = cluster.pod("team-a", "user", &["data"]).await;
    let said = fails(&cluster, "uninstall --erase --yes");
    assert!(said.contains("volumes are used by pod team-a/user"), "{said}");
    cluster.end_pod("team-a", &pod.name_any()).await;
    let dry = does(&cluster, "uninstall --erase --dry-run");
    assert!(dry.contains("would remove VolumeClaim team-a/data\n"), "{dry}");
    assert!(dry.contains("and then SharedPersistentVolume data of "), "{dry}");
    let said = does(&cluster, "uninstall --erase --yes --timeout 60s");
    let order = [
        "VolumeClaim team-a/data",
        "SharedPersistentVolume data",
        "DiskReservation eng",
        "the data is erased",
    ];
    let found: Vec<_> =
        order.iter().map(|line| said.find(line).unwrap_or_else(|| panic!("{line}: {said}"))).collect();
    assert!(found.is_sorted(), "{said}");
    agent.nothing_left().await;
    let delete = http::Request::delete("/apis/apps/v1/namespaces/team-a/deployments/reservoir-controller");
    cluster.client.request::<serde_json::Value>(delete.body(vec![]).unwrap()).await.unwrap();
    does(&cluster, "uninstall --erase --yes");
    until("kinds and policies are gone", || async { installed(&cluster).await.is_empty().then_some(()) })
        .await;
}

/// F5, C7: a backup brings the PersistentVolumeClaim of the claim that was there before, and perhaps its PersistentVolume.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a_restored_pvc_of_a_claim_is_made_anew() {
    use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
    let (cluster, _agent) = start().await;
    cluster.apply_text(TEAM_A).await;
    let (claims, pvcs): (Api<VolumeClaim>, Api<PersistentVolumeClaim>) =
        (cluster.within("team-a"), cluster.within("team-a"));
    let pvs: Api<PersistentVolume> = cluster.all();
    until_reason(&claims, "data", "Bound").await;
    let (mut pvc, claim) = (pvcs.get("data").await.unwrap(), claims.get("data").await.unwrap());
    let old = claim.status.unwrap().persistent_volume.unwrap();
    let mut pv = pvs.get(&old).await.unwrap();
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    until_gone(&pvs, &old).await;
    for metadata in [&mut pvc.metadata, &mut pv.metadata] {
        metadata.resource_version = None;
        metadata.uid = None;
        metadata.owner_references = None;
        metadata.finalizers = None;
        metadata.managed_fields = None;
    }
    let of = pv.spec.as_mut().unwrap().claim_ref.as_mut().unwrap();
    (of.uid, of.resource_version) = (None, None);
    pvs.create(&Default::default(), &pv).await.unwrap();
    pvcs.create(&Default::default(), &pvc).await.unwrap();
    cluster.apply_text(TEAM_A).await;
    until_reason(&claims, "data", "Bound").await;
    let new = claims.get("data").await.unwrap().status.unwrap().persistent_volume.unwrap();
    assert_eq!(pvcs.get("data").await.unwrap().spec.unwrap().volume_name.unwrap(), new);
    until_gone(&pvs, &old).await;
}

/// F5: what starts empty beside old data of its name says so.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a_new_volume_beside_an_orphan_of_its_name_says_so() {
    use k8s_openapi::api::events::v1::Event;
    let (cluster, _agent) = start().await;
    cluster.apply_text(TEAM_A).await;
    let (volumes, disks) = (cluster.all::<SharedPersistentVolume>(), cluster.all::<NodeDisk>());
    let claims = cluster.within::<VolumeClaim>("team-a");
    until_reason(&claims, "data", "Bound").await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&claims, "data").await;
    crate::support::strip_and_delete(&volumes, "data").await;
    until("the data is an orphan", || async {
        let status = disks.get("n1.default").await.unwrap().status.unwrap_or_default();
        status.orphans.iter().any(|orphan| orphan.name == "data").then_some(())
    })
    .await;
    cluster.apply_text("{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: more}, spec: {role: eng, size: 64Mi}}").await;
    cluster.apply_text(TEAM_A).await;
    until("the new volume says that it is empty", || async {
        let events = Api::<Event>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
        let said = |e: &Event| {
            e.reason.as_deref() == Some("OldDataOrphaned")
                && e.note.as_ref().is_some_and(|n| n.contains("NodeDisk n1.default"))
        };
        events.into_iter().find(said)
    })
    .await;
}

/// F5, P2: the objects of an installation in another namespace would mislead the scheduler for ever.
#[tokio::test(flavor = "multi_thread")]
async fn f5_capacities_of_an_earlier_namespace_go() {
    use k8s_openapi::api::storage::v1::CSIStorageCapacity;
    let (cluster, _agent) = start().await;
    cluster.apply_text("
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast}, provisioner: csi.reservoir.dev,
 parameters: {role: eng}, volumeBindingMode: WaitForFirstConsumer}
---
{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: old, namespace: team-a,
  labels: {app.kubernetes.io/managed-by: reservoir}}, storageClassName: fast, capacity: 9Gi,
  nodeTopology: {matchLabels: {topology.reservoir.dev/node: n1}}}
---
{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: others, namespace: team-a}, storageClassName: fast,
  capacity: 9Gi, nodeTopology: {matchLabels: {topology.reservoir.dev/node: n1}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 64Mi}}
").await;
    let capacities = cluster.within::<CSIStorageCapacity>("team-a");
    until_gone(&capacities, "old").await;
    assert!(capacities.get_opt("others").await.unwrap().is_some(), "without our label it is somebody else's");
}
