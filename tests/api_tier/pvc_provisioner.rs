//! PersistentVolumeClaims of a StorageClass of Reservoir (P1–P6). The real API server binds, and the test plays
//! scheduler and kubelet.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use reservoir::api::{
    ClaimBinding, DRIVER, DiskReservation, FINALIZER, FsType, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID,
    SharedPersistentVolume, Size, TOPOLOGY_NODE, UidRef, VolumeClaim,
};
use reservoir::plan::pvc_provisioner::SELECTED_NODE;
use reservoir::plan::{bind, own_pvc, persistent_volume};
use serde_json::{Value, json};

use crate::ask::Ask;
use crate::plugin::does;
use crate::support::{
    Agent, CONTROLLER_USER, Cluster, Watch, one_node, strip_and_delete, until, until_gone, until_reason,
};

/// A cluster with a node, its agent, 2Gi for role analytics, and the classes of the example.
async fn start() -> (Cluster, Agent) {
    let (cluster, agent) = one_node("4Gi").await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team-a}}").await;
    cluster.apply_text("{apiVersion: v1, kind: Namespace, metadata: {name: team-b}}").await;
    cluster.example("01-reservation.yaml").await;
    until_reason(&cluster.all::<DiskReservation>(), "analytics", "Ready").await;
    cluster.example("19-storage-class.yaml").await;
    (cluster, agent)
}

fn pvc(name: &str, class: &str, mode: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"storageClassName": class, "accessModes": [mode], "resources": {"requests": {"storage": size}}}})
}

/// A class like `analytics`, with the fields of `but` instead.
fn class(name: &str, but: Value) -> Value {
    let mut class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": DRIVER, "parameters": {"role": "analytics"}, "volumeBindingMode": "Immediate"});
    class.as_object_mut().unwrap().extend(but.as_object().unwrap().clone());
    class
}

/// The status of a PersistentVolumeClaim, in bytes; 0: absent.
#[derive(Debug)]
struct Growth {
    capacity: u64,
    allocated: u64,
    phase: Option<String>,
    conditions: Vec<String>,
}

/// The claim of which the PersistentVolume of a PersistentVolumeClaim is made, for its mounts.
fn claim_of(pvc: &PersistentVolumeClaim, volume: &SharedPersistentVolume) -> VolumeClaim {
    let binding = own_pvc::listed(volume).expect("the volume lists its PersistentVolumeClaim");
    let mut claim = own_pvc::claim(binding, pvc, volume);
    claim.status.as_mut().unwrap().volume =
        Some(UidRef { name: volume.name_any(), uid: volume.uid().unwrap() });
    claim
}

struct Story<'a> {
    cluster: &'a Cluster,
    pvcs: Api<PersistentVolumeClaim>,
    pvs: Api<PersistentVolume>,
    volumes: Api<SharedPersistentVolume>,
}

impl<'a> Story<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        Self { cluster, pvcs: cluster.within("team-a"), pvs: cluster.all(), volumes: cluster.all() }
    }

    /// Makes the PersistentVolumeClaim. It waits for the moment in which its grant takes effect.
    async fn make(&self, pvc: Value) -> PersistentVolumeClaim {
        let name = pvc["metadata"]["name"].as_str().unwrap().to_owned();
        self.cluster.apply_text(&pvc.to_string()).await;
        self.pvcs.get(&name).await.unwrap()
    }

    /// Makes a PersistentVolumeClaim on n1. A pod has written a file into its volume and ended.
    async fn written(&self, agent: &Agent, name: &str) -> (PersistentVolume, SharedPersistentVolume) {
        self.make(pvc(name, "analytics", "ReadWriteOnce", "64Mi")).await;
        self.select(name, "n1").await;
        let (pv, volume, claim) = self.bound(name).await;
        let pod = self.cluster.pod("team-a", "writer", &[name]).await;
        let target = agent.publish(self.cluster, &claim, &pod, false).await.unwrap();
        std::fs::write(target.join("file"), "kept").unwrap();
        agent.unpublish(&claim, &pod).await.unwrap();
        self.cluster.end_pod("team-a", "writer").await;
        (pv, volume)
    }

    /// A pod in the namespace of another claim reads the same file.
    async fn read_by(&self, agent: &Agent, claim: &VolumeClaim) {
        let namespace = claim.namespace().unwrap();
        let pod = self.cluster.pod(&namespace, "reader", &[&claim.name_any()]).await;
        let target = agent.publish(self.cluster, claim, &pod, false).await.unwrap();
        assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "kept");
        agent.unpublish(claim, &pod).await.unwrap();
        self.cluster.end_pod(&namespace, "reader").await;
    }

    /// Writes the annotation with which the scheduler names the node of the first pod.
    async fn select(&self, name: &str, node: &str) {
        let selected = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        self.pvcs.patch(name, &PatchParams::default(), &Patch::Merge(&selected)).await.unwrap();
    }

    async fn bound(&self, name: &str) -> (PersistentVolume, SharedPersistentVolume, VolumeClaim) {
        let pvc = until(&format!("PersistentVolumeClaim {name} is bound"), || async {
            let pvc = self.pvcs.get(name).await.unwrap();
            (pvc.status.as_ref()?.phase.as_deref() == Some("Bound")).then_some(pvc)
        })
        .await;
        let pv = self.pvs.get(&pvc.spec.as_ref().unwrap().volume_name.clone().unwrap()).await.unwrap();
        let volume = self.volumes.get(&format!("pvc-{}", pvc.uid().unwrap())).await.unwrap();
        let claim = claim_of(&pvc, &volume);
        (pv, volume, claim)
    }

    /// Waits for an event of the PersistentVolumeClaim that contains `what`; returns its note.
    async fn said(&self, name: &str, what: &str) -> String {
        let events: Api<Event> = self.cluster.within("team-a");
        until(&format!("an event of {name} with {what}"), || async {
            let all = events.list(&Default::default()).await.unwrap();
            let notes = all.iter().filter(|e| {
                [
                    "ProvisioningFailed",
                    "PlaceFound",
                    "VolumeResizeFailed",
                    "OldDataKept",
                    "PersistentVolumeLeft",
                ]
                .contains(&e.reason.as_deref().unwrap_or_default())
                    && e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name)
            });
            notes.filter_map(|e| e.note.clone()).find(|note| note.contains(what))
        })
        .await
    }

    /// Changes the request of a PersistentVolumeClaim.
    async fn ask(&self, name: &str, size: &str) {
        let asked = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        self.pvcs.patch(name, &PatchParams::default(), &Patch::Merge(&asked)).await.unwrap();
    }

    /// What the PersistentVolumeClaim reports about its growth.
    async fn growth(&self, name: &str) -> Growth {
        let status = self.pvcs.get(name).await.unwrap().status.unwrap();
        let storage = |all: Option<BTreeMap<String, Quantity>>| {
            Size::written(all.and_then(|all| all.get("storage").cloned()).unwrap_or_default().0)
                .bytes_or_zero()
        };
        Growth {
            capacity: storage(status.capacity),
            allocated: storage(status.allocated_resources),
            phase: status.allocated_resource_statuses.and_then(|all| all.get("storage").cloned()),
            conditions: status.conditions.unwrap_or_default().into_iter().map(|c| c.type_).collect(),
        }
    }

    /// Waits until the capacity is that many Mi, with nothing left to report.
    async fn grown(&self, name: &str, mi: u64) {
        until(&format!("{name} has {mi}Mi"), || async {
            let growth = self.growth(name).await;
            let settled = growth.phase.is_none() && growth.conditions.is_empty();
            (growth.capacity == mi << 20 && settled).then_some(())
        })
        .await;
    }

    /// Waits until the CSIStorageCapacity of the class and node has the given size.
    async fn free_space(&self, class: &str, node: &str, size: &str) {
        let said: Api<CSIStorageCapacity> = self.cluster.within("default");
        until(&format!("{size} are there for {class}"), || async {
            let all = said.list(&Default::default()).await.unwrap();
            let mut found = all.iter().filter(|said| {
                let labels = said.node_topology.as_ref().and_then(|t| t.match_labels.as_ref());
                said.storage_class_name == class
                    && labels.and_then(|l| l.get("topology.reservoir.dev/node")).map(String::as_str)
                        == Some(node)
            });
            let said = found.next()?;
            let bytes = |q: &Option<Quantity>| q.as_ref().map(|q| Size::written(q.0.clone()).bytes_or_zero());
            let size = Some(Size::written(size).bytes_or_zero());
            (bytes(&said.capacity) == size && bytes(&said.maximum_volume_size) == size).then_some(())
        })
        .await;
    }
}

/// P1, P2, P3, P4, T2: the PersistentVolumeClaim of a StatefulSet, from its creation to its end.
#[tokio::test(flavor = "multi_thread")]
async fn p1_p3_p4_a_volume_is_made_grows_and_goes_with_its_pvc() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    story.free_space("analytics", "n1", "2Gi").await;
    let plain = story.make(pvc("data-db-0", "analytics", "ReadWriteOnce", "64Mi")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(story.volumes.list(&Default::default()).await.unwrap().items.is_empty(), "nobody wants it yet");

    let pod = cluster.pod("team-a", "db-0", &["data-db-0"]).await;
    story.select("data-db-0", "n1").await;
    let (pv, volume, claim) = story.bound("data-db-0").await;
    let spec = pv.spec.clone().unwrap();
    assert_eq!(spec.claim_ref.unwrap().uid, plain.uid());
    assert_eq!(spec.access_modes.unwrap(), ["ReadWriteOnce"]);
    assert_eq!(spec.csi.unwrap().fs_type.as_deref(), Some("ext4"), "V11: so the kubelet applies fsGroup");
    assert_eq!(spec.storage_class_name.as_deref(), Some("analytics"));
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    assert_eq!(pv.annotations()["pv.kubernetes.io/provisioned-by"], DRIVER);
    assert!(serde_json::to_string(&spec.node_affinity).unwrap().contains("\"n1\""));
    assert_eq!((volume.spec.role.as_str(), volume.spec.shared), ("analytics", None));
    assert_eq!(volume.spec.principal.as_deref(), Some(crate::support::CONTROLLER_USER), "A3: who made it");
    story.free_space("analytics", "n1", "1984Mi").await;
    let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    std::fs::write(target.join("file"), "kept").unwrap();

    // The volume grows. The machine decides if the growth works while the pod runs (V7).
    story.ask("data-db-0", "128Mi").await;
    agent.unpublish(&claim, &pod).await.unwrap();
    story.grown("data-db-0", 128).await;
    // Kubernetes' volume-expand tests want this number (VerifyRecoveryRelatedFields).
    assert_eq!(story.growth("data-db-0").await.allocated, 128 << 20);
    let capacity = story.pvs.get(&pv.name_any()).await.unwrap().spec.unwrap().capacity.unwrap();
    assert_eq!(capacity["storage"].0, "128Mi");
    story.free_space("analytics", "n1", "1920Mi").await;
    let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "kept");

    // In a settled cluster nothing is written.
    cluster.quiet_for(Duration::from_secs(5)).await;

    // P1: the PersistentVolumeClaim is the claim.
    let claims: Api<VolumeClaim> = cluster.within("team-a");
    assert!(claims.list(&Default::default()).await.unwrap().items.is_empty());
    let status = volume.status.clone().unwrap();
    assert_eq!(status.claims, [own_pvc::binding("team-a", "data-db-0", &plain.uid().unwrap())], "S8");
    // The volume has the guard of all volumes.
    let refused = story.volumes.delete(&volume.name_any(), &Default::default()).await.unwrap_err();
    assert!(refused.to_string().contains("is in use by 1 pod: team-a/db-0"), "X1: {refused}");
    agent.unpublish(&claim, &pod).await.unwrap();
    cluster.end_pod("team-a", "db-0").await;
    story.pvcs.delete("data-db-0", &Default::default()).await.unwrap();
    until_gone(&story.pvcs, "data-db-0").await;
    until_gone(&story.volumes, &volume.name_any()).await;
    until_gone(&story.pvs, &pv.name_any()).await;
    agent.nothing_left().await;
    story.free_space("analytics", "n1", "2Gi").await;
}

/// P4: the reclaim policy of the PersistentVolume counts. A retained volume is like any other volume.
#[tokio::test(flavor = "multi_thread")]
async fn p4_a_retained_volume_can_be_claimed_again() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    let (pv, volume) = story.written(&agent, "kept").await;

    // No other claim gets a volume of a PersistentVolumeClaim, whatever the namespace subscribes to.
    cluster.example("04-subscriptions.yaml").await;
    let name = volume.name_any();
    let other = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
        "metadata": {"name": "other", "namespace": "team-b"}, "spec": {"role": "analytics", "volume": name}});
    cluster.apply_text(&other.to_string()).await;
    let others: Api<VolumeClaim> = cluster.within("team-b");
    until_reason(&others, "other", "VolumeHeld").await;

    let retain = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    story.pvs.patch(&pv.name_any(), &PatchParams::default(), &Patch::Merge(&retain)).await.unwrap();
    story.pvcs.delete("kept", &Default::default()).await.unwrap();
    until_gone(&story.pvs, &pv.name_any()).await;
    until_reason(&others, "other", "Bound").await;
    let volume = story.volumes.get(&name).await.unwrap();
    assert!(!volume.spec.retire && !volume.labels().contains_key(LABEL_PVC_UID));
    story.read_by(&agent, &others.get("other").await.unwrap()).await;
}

/// P5, A5, F2: the PersistentVolumeClaim may be older than its grant, and its class.
#[tokio::test(flavor = "multi_thread")]
async fn p5_a_namespace_without_the_verbs_waits_for_its_grant() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("mine", "analytics", "ReadWriteOnce", "64Mi")).await;
    let mut theirs = pvc("theirs", "analytics", "ReadWriteOnce", "64Mi");
    theirs["metadata"]["namespace"] = json!("team-b");
    theirs["metadata"]["annotations"] = json!({SELECTED_NODE: "n1"});
    let uri = "/api/v1/namespaces/team-b/persistentvolumeclaims";
    let request = http::Request::post(uri).header("content-type", "application/json");
    let answer =
        cluster.client.send(request.body(theirs.to_string().into_bytes().into()).unwrap()).await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    let warnings: Vec<_> = answer.headers().get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
    let warned = warnings.join(" ");
    for part in [
        "the service accounts of namespace team-b lack the verb create on volumeroles.reservoir.dev/analytics",
        "the service accounts of namespace team-b lack the verb use on volumeroles.reservoir.dev/analytics",
        "which StorageClass analytics takes; the PersistentVolumeClaim waits until an administrator runs",
        "--to group system:serviceaccounts:team-b",
    ] {
        assert!(warned.contains(part), "{part}: {warned}");
    }
    // A class that is younger than its PersistentVolumeClaim needs the same verbs when the volume is made.
    let mut younger = theirs.clone();
    younger["metadata"]["name"] = json!("younger");
    younger["spec"]["storageClassName"] = json!("later");
    cluster.apply_text(&younger.to_string()).await;
    cluster.apply_text(&class("later", json!({})).to_string()).await;
    let events: Api<Event> = cluster.within("team-b");
    let lacks = "the service accounts of namespace team-b lack the verb create on volumeroles.reservoir.dev/analytics";
    for name in ["theirs", "younger"] {
        until("the refusal is reported", || async {
            let all = events.list(&Default::default()).await.unwrap();
            let of = |e: &&Event| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name);
            all.iter()
                .filter(of)
                .any(|e| e.note.as_ref().is_some_and(|note| note.contains(lacks)))
                .then_some(())
        })
        .await;
    }
    assert_eq!(story.volumes.list(&Default::default()).await.unwrap().items.len(), 0);
    cluster
        .apply_text(
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: later},
              roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: analytics-volumes},
              subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:team-b'}]}",
        )
        .await;
    for name in ["theirs", "younger"] {
        until(&format!("PersistentVolumeClaim {name} is bound"), || async {
            let pvc = cluster.within::<PersistentVolumeClaim>("team-b").get(name).await.unwrap();
            (pvc.status?.phase.as_deref() == Some("Bound")).then_some(())
        })
        .await;
    }

    // Nobody can make a volume or a claim look like that of a PersistentVolumeClaim.
    let uid = story.pvcs.get("mine").await.unwrap().uid().unwrap();
    for (kind, namespace, spec) in [
        ("SharedPersistentVolume", None, json!({"role": "analytics", "size": "64Mi"})),
        ("VolumeClaim", Some("team-a"), json!({"role": "analytics", "volume": format!("pvc-{uid}")})),
    ] {
        let forged = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": {"name": format!("pvc-{uid}"), "namespace": namespace, "labels": {LABEL_PVC_UID: uid}}});
        let said = cluster.try_apply(&forged.to_string()).await.unwrap_err().to_string();
        assert!(said.contains("is the controller's alone"), "{said}");
    }
    // Nobody can move the volume to another namespace: no PersistentVolumeClaim there would ever delete it.
    story.select("mine", "n1").await;
    story.bound("mine").await;
    let labels = Patch::Merge(json!({"metadata": {"labels": {LABEL_CLAIM_NAMESPACE: "team-b"}}}));
    let moved = story.volumes.patch(&format!("pvc-{uid}"), &PatchParams::default(), &labels).await;
    let said = moved.unwrap_err().to_string();
    assert!(said.contains("with reservoir.dev/claim-namespace, is the controller's alone"), "{said}");
}

/// P5, P6, F1, A5: an editor of the namespace asks for more bytes without the verb on the role.
#[tokio::test(flavor = "multi_thread")]
async fn p5_a_pvc_grows_only_with_the_verb_resize() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("mine", "analytics", "ReadWriteOnce", "67108863.5")).await;
    cluster.pod("team-a", "mine", &["mine"]).await;
    story.select("mine", "n1").await;
    let (_, volume, _) = story.bound("mine").await;
    assert_eq!(volume.spec.size.as_str(), "64Mi", "F1: rounded up");
    let grants = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: analytics-volumes},
        rules: [{apiGroups: [reservoir.dev], resources: [volumeroles], resourceNames: [analytics], verbs: [VERBS]}]}";
    cluster.apply_text(&grants.replace("VERBS", "create, use")).await;
    // The API server's authorizer uses a grant only after a moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    story.ask("mine", "128Mi").await;
    let said = story.said("mine", "lack the verb resize").await;
    assert!(
        said.contains("the service accounts of namespace team-a lack the verb resize on volumeroles")
            && said.contains(" --verbs create,use,resize --to group system:serviceaccounts:team-a"),
        "P5, one list for all that a class needs: {said}"
    );
    assert_eq!(story.volumes.get(&volume.name_any()).await.unwrap().spec.size.as_str(), "64Mi");
    assert_eq!(story.growth("mine").await.allocated, 0, "no quota counts what is refused");
    story.ask("mine", "9Ei").await;
    story.said("mine", "is larger than the 8Ei - 2 bytes").await;
    let growth = story.growth("mine").await;
    assert_eq!(growth.phase.as_deref(), Some("ControllerResizeInfeasible"), "{growth:?}");
    cluster.quiet_for(Duration::from_secs(5)).await;

    // A5: a user without the verbs changes the selected node again and again, to find out the node's free space.
    story.make(pvc("curious", "analytics", "ReadWriteOnce", "3Gi")).await;
    cluster.apply_text(&grants.replace("VERBS", "use")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    story.select("curious", "n1").await;
    let said = story.said("curious", "").await;
    assert!(said.contains("lack the verb create"), "{said}");
}

/// P5, A5: a namespace without a verb asks of one node after another, by the annotation of the scheduler. It gets one answer,
/// whatever is free there.
#[tokio::test(flavor = "multi_thread")]
async fn p5_a5_rights_are_asked_for_before_free_space() {
    let (cluster, _agent) = start().await;
    cluster.example("04-subscriptions.yaml").await;
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team-b");
    let delayed = json!({"volumeBindingMode": "WaitForFirstConsumer"});
    // A class that is younger than its PersistentVolumeClaims, which are admitted for that.
    for (lacking, verbs) in [("use", "create"), ("create", "use")] {
        let class_name = format!("lacks-{lacking}");
        let grant = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "team-b"}, "rules": [{"apiGroups": ["reservoir.dev"], "resources": ["volumeroles"],
                "resourceNames": ["analytics"], "verbs": [verbs]}]});
        cluster.apply_text(&grant.to_string()).await;
        crate::ask::bind(&cluster, "team-b", "Group", "system:serviceaccounts:team-b").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let names =
            [("fits", "64Mi"), ("large", "3Gi")].map(|(name, size)| (format!("{name}-{lacking}"), size));
        for (name, size) in &names {
            let mut pvc = pvc(name, &class_name, "ReadWriteOnce", size);
            pvc["metadata"]["namespace"] = json!("team-b");
            cluster.apply_text(&pvc.to_string()).await;
        }
        cluster.apply_text(&class(&class_name, delayed.clone()).to_string()).await;
        let mut answers = Vec::new();
        for node in ["n1", "n2", "n1"] {
            for (name, _) in &names {
                let selected = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                pvcs.patch(name, &PatchParams::default(), &Patch::Merge(&selected)).await.unwrap();
            }
            // The time of an event, and of a further choice of the scheduler.
            tokio::time::sleep(Duration::from_secs(8)).await;
            for (name, _) in &names {
                let now = pvcs.get(name).await.unwrap();
                assert_eq!(now.annotations().get(SELECTED_NODE).map(String::as_str), Some(node), "{name}");
            }
            let volumes: Api<SharedPersistentVolume> = cluster.all();
            assert!(volumes.list(&Default::default()).await.unwrap().items.is_empty(), "A5");
        }
        for (name, _) in &names {
            let events: Api<Event> = cluster.within("team-b");
            let all = until("the refusal is reported", || async {
                let mut notes: Vec<String> = events
                    .list(&Default::default())
                    .await
                    .unwrap()
                    .into_iter()
                    .filter(|e| e.reporting_controller.as_deref() == Some("reservoir-controller"))
                    .filter(|e| e.regarding.as_ref().and_then(|r| r.name.as_ref()) == Some(name))
                    .filter_map(|e| e.note)
                    .collect();
                notes.sort();
                notes.dedup();
                (!notes.is_empty()).then_some(notes)
            })
            .await;
            answers.push(all);
        }
        assert_eq!(answers[0].len(), 1, "{answers:?}");
        let words = |notes: &[String]| notes[0].replace(&names[0].0, "NAME").replace(&names[1].0, "NAME");
        assert!(answers[0][0].contains(&format!("lack the verb {lacking} ")), "{answers:?}");
        assert_eq!(answers[1].len(), 1, "{answers:?}");
        // The name of the object that is refused has a UID.
        let sentence = |notes: &[String]| {
            let words = words(notes);
            words[words.find("the service accounts").unwrap()..].to_owned()
        };
        assert_eq!(sentence(&answers[0]), sentence(&answers[1]));
    }
}

/// F1: every quantity of Kubernetes is a size, rounded up to a byte, for its own kinds and for Reservoir's.
#[tokio::test(flavor = "multi_thread")]
async fn f1_fractions_of_a_byte_are_rounded_up() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    cluster.apply_text(&class("now", json!({"allowVolumeExpansion": true})).to_string()).await;
    let fraction = story.make(pvc("fraction", "now", "ReadWriteOnce", "0.3Gi")).await;
    let stored = fraction.spec.unwrap().resources.unwrap().requests.unwrap();
    assert_eq!(stored["storage"].0, "322122547200m");
    let (_, volume, _) = story.bound("fraction").await;
    assert_eq!(volume.spec.size.bytes(), Ok(322_122_548));
    assert_eq!(story.growth("fraction").await.capacity, 322_122_548);

    story.make(pvc("whole", "now", "ReadWriteOnce", "64Mi")).await;
    story.bound("whole").await;
    story.ask("whole", "0.1Gi").await;
    until("it has 0.1Gi", || async {
        let growth = story.growth("whole").await;
        (growth.capacity == 107_374_183 && growth.allocated == 107_374_183).then_some(())
    })
    .await;

    for (i, (size, bytes)) in
        [("0.02Gi", 21_474_837), ("33554432500m", 33_554_433), ("2e7", 20_000_000), ("+20M", 20_000_000)]
            .into_iter()
            .enumerate()
    {
        let name = format!("own-{i}");
        let own = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
            "metadata": {"name": name}, "spec": {"role": "analytics", "size": size}});
        cluster.apply_text(&own.to_string()).await;
        until_reason(&story.volumes, &name, "Ready").await;
        let status = story.volumes.get(&name).await.unwrap().status.unwrap();
        assert_eq!(status.size.unwrap().bytes(), Ok(bytes), "{size}");
    }
    let reservations: Api<DiskReservation> = cluster.all();
    let more = json!({"spec": {"size": "2.0000000001Gi"}});
    reservations.patch("analytics", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
    until("the reservation has it", || async {
        let size = reservations.get("analytics").await.unwrap().status?.size?;
        (size.bytes() == Ok((2 << 30) + 1)).then_some(())
    })
    .await;
}

/// P3, F1: KEP-1790.
#[tokio::test(flavor = "multi_thread")]
async fn p3_a_growth_without_space_is_told_and_taken_back() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("mistake", "analytics-shared", "ReadWriteMany", "64Mi")).await;
    story.select("mistake", "n1").await;
    let (pv, volume, _) = story.bound("mistake").await;
    story.ask("mistake", "500Gi").await;
    let said = story.said("mistake", "500Gi wished").await;
    assert!(
        said.contains("reservation analytics has 1984Mi left: enlarge the reservation, or request less"),
        "{said}"
    );
    until("the status has the failure", || async {
        let growth = story.growth("mistake").await;
        let told =
            growth.conditions == ["Resizing", "ControllerResizeError"] && growth.allocated == 500 << 30;
        (told && growth.phase.as_deref() == Some("ControllerResizeInfeasible")).then_some(())
    })
    .await;
    cluster.quiet_for(Duration::from_secs(5)).await;

    // T4: who sees neither volumes nor classes has it in the list, and in the answer.
    let tenant = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "tina", "namespace": "team-a"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tina"}]});
    cluster.apply_text(&tenant.to_string()).await;
    for (line, title) in [
        (
            "status -n team-a --as tina",
            "PersistentVolumeClaim team-a/mistake ControllerResizeError: 500Gi wished",
        ),
        ("why pvc/mistake -n team-a --as tina", "ControllerResizeError: 500Gi wished"),
    ] {
        let told = does(&cluster, line);
        assert!(told.contains(title), "{line}: {told}");
    }

    // The size is the PersistentVolumeClaim's.
    let by_hand = Patch::Merge(json!({"spec": {"size": "96Mi"}}));
    let refused =
        story.volumes.patch(&volume.name_any(), &PatchParams::default(), &by_hand).await.unwrap_err();
    let sentence = "has the size that its PersistentVolumeClaim team-a/mistake requests: change \
                    spec.resources.requests.storage there, which its StorageClass has to allow";
    assert!(refused.to_string().contains(sentence), "{refused}");

    story.ask("mistake", "128Mi").await;
    story.grown("mistake", 128).await;
    until("no quota counts the mistake", || async {
        (story.growth("mistake").await.allocated == 128 << 20).then_some(())
    })
    .await;
    let volume = story.volumes.get(&volume.name_any()).await.unwrap();
    assert_eq!(volume.spec.size.as_str(), "128Mi");
    let capacity = story.pvs.get(&pv.name_any()).await.unwrap().spec.unwrap().capacity.unwrap();
    assert_eq!(capacity["storage"].0, "128Mi");
    cluster.quiet_for(Duration::from_secs(5)).await;
    drop(agent);
}

/// F1: a request that becomes smaller at any moment of a growth, with a controller that dies at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn f1_a_quota_counts_what_a_volume_has() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    let hard = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "storage", "namespace": "team-a"},
        "spec": {"hard": {"requests.storage": "2Gi"}}});
    cluster.apply_text(&hard.to_string()).await;
    cluster.apply_text(&class("now", json!({"allowVolumeExpansion": true})).to_string()).await;
    story.make(pvc("race", "now", "ReadWriteOnce", "64Mi")).await;
    let (_, volume, _) = story.bound("race").await;
    let quotas: Api<ResourceQuota> = cluster.within("team-a");
    for (i, (large, small)) in [(200, 80), (300, 210), (400, 310), (500, 410)].into_iter().enumerate() {
        story.ask("race", &format!("{large}Mi")).await;
        tokio::time::sleep(Duration::from_millis(60 * i as u64)).await;
        if i % 2 == 1 {
            cluster.kill_controller().await;
        }
        // Refused once the volume has as much.
        let asked = json!({"spec": {"resources": {"requests": {"storage": format!("{small}Mi")}}}});
        drop(story.pvcs.patch("race", &PatchParams::default(), &Patch::Merge(&asked)).await);
        if i % 2 == 1 {
            cluster.start_controller().await;
        }
        let has = until("the growth ends", || async {
            let before = story.pvcs.get("race").await.unwrap();
            let volume = story.volumes.get(&volume.name_any()).await.unwrap();
            let (growth, pvc) = (story.growth("race").await, story.pvcs.get("race").await.unwrap());
            let status = volume.status?;
            let parts =
                [Some(volume.spec.size), status.size, status.node.clone()?.size, status.node?.growing];
            let most = parts.into_iter().flatten().map(|size| size.bytes_or_zero()).max()?;
            let asked = pvc.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?["storage"].0.clone();
            let asked = Size::written(asked).bytes_or_zero();
            // The three objects are of one moment.
            if before.resource_version() == pvc.resource_version() {
                let counted = asked.max(growth.allocated);
                assert!(counted >= most, "{growth:?}, asked {asked}, the volume may have {most}");
            }
            let ended = growth.capacity >= asked && growth.allocated == growth.capacity;
            (ended && growth.phase.is_none() && growth.conditions.is_empty()).then_some(growth.capacity)
        })
        .await;
        until("the quota counts it", || async {
            let used = quotas.get("storage").await.unwrap().status?.used?;
            (Size::written(&*used["requests.storage"].0).bytes_or_zero() == has).then_some(())
        })
        .await;
    }
}

/// X10: a volume that was never made goes with its PersistentVolumeClaim, and never comes afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn x10_a_volume_that_was_never_made_goes_with_its_pvc() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    cluster.apply_text(&class("now", json!({"reclaimPolicy": "Delete"})).to_string()).await;
    story.make(pvc("large", "now", "ReadWriteOnce", "100Gi")).await;
    let mut block = pvc("block", "now", "ReadWriteOnce", "32Mi");
    block["spec"]["volumeMode"] = json!("Block");
    story.make(block).await;
    story.make(pvc("first", "now", "ReadWriteOnce", "1100Mi")).await;
    story.bound("first").await;
    story.make(pvc("second", "now", "ReadWriteOnce", "1100Mi")).await;
    for (name, said) in
        [("large", "100Gi asked for"), ("block", "needs a raw device"), ("second", "1100Mi asked for")]
    {
        story.said(name, said).await;
        story.pvcs.delete(name, &Default::default()).await.unwrap();
    }
    until("one volume is left", || async {
        (story.volumes.list(&Default::default()).await.unwrap().items.len() == 1).then_some(())
    })
    .await;
    story.pvcs.delete("first", &Default::default()).await.unwrap();
    until("no volume is left", || async {
        story.volumes.list(&Default::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    agent.nothing_left().await;
}

/// P2: a PersistentVolumeClaim without free space on the node reports that, and the scheduler chooses another node.
#[tokio::test(flavor = "multi_thread")]
async fn p2_p6_a_full_node_is_reported_and_another_one_chosen() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("large", "analytics", "ReadWriteOnce", "3Gi")).await;
    story.select("large", "n1").await;
    let said = story.said("large", "on node n1, which was chosen for the pod: 3Gi asked for").await;
    assert!(
        said.contains("analytics has 2Gi left") && said.ends_with("another node is looked for"),
        "{said}"
    );
    until("the scheduler is to look again", || async {
        let pvc = story.pvcs.get("large").await.unwrap();
        (!pvc.annotations().contains_key(SELECTED_NODE)).then_some(())
    })
    .await;
    assert!(story.volumes.list(&Default::default()).await.unwrap().items.is_empty());

    for (name, but, spec, said) in [
        (
            "typo",
            json!({"parameters": {"role": "analytics", "fstype": "xfs"}}),
            json!({}),
            "has the parameter `fstype`",
        ),
        ("nobody", json!({"parameters": {"shared": "true"}}), json!({}), "names no role"),
        ("slash", json!({"parameters": {"role": "analytics//x"}}), json!({}), "components"),
        (
            "opts",
            json!({"mountOptions": ["suid"]}),
            json!({}),
            "has the mount option `suid`, which is none of",
        ),
        (
            "many",
            json!({}),
            json!({"accessModes": ["ReadWriteMany"]}),
            "are exclusive: ask for ReadWriteOnce",
        ),
        (
            "source",
            json!({}),
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "large"}}),
            "is empty",
        ),
        ("raw", json!({}), json!({"volumeMode": "Block"}), "volumeMode Block needs a raw device"),
    ] {
        cluster.apply_text(&class(name, but).to_string()).await;
        let mut asked = pvc(name, name, "ReadWriteOnce", "64Mi");
        asked["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        story.make(asked).await;
        story.said(name, said).await;
    }

    // A PersistentVolumeClaim of a class without WaitForFirstConsumer waits for free space, and is served later.
    cluster.apply_text(&class("now", json!({"reclaimPolicy": "Delete"})).to_string()).await;
    story.make(pvc("waits", "now", "ReadWriteOnce", "2100Mi")).await;
    story.said("waits", "2100Mi asked for").await;
    let more = json!({"spec": {"size": "3Gi"}});
    let reservations: Api<DiskReservation> = cluster.all();
    reservations.patch("analytics", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
    let (_, volume, _) = story.bound("waits").await;
    // A PersistentVolumeClaim that is deleted during its provisioning leaves nothing.
    story.make(pvc("hasty", "now", "ReadWriteOnce", "64Mi")).await;
    story.pvcs.delete("hasty", &Default::default()).await.unwrap();
    story.pvcs.delete("waits", &Default::default()).await.unwrap();
    until_gone(&story.volumes, &volume.name_any()).await;
    // X10: only the volume of PersistentVolumeClaim raw is left, which cannot be made.
    until("nothing else is left", || async {
        (story.volumes.list(&Default::default()).await.unwrap().items.len() == 1).then_some(())
    })
    .await;
    agent.nothing_left().await;
}

/// P2, P5: the scheduler says of a pod that fits nowhere that there is too little storage, and the PersistentVolumeClaim
/// says the rest, whatever comes first.
#[tokio::test(flavor = "multi_thread")]
async fn p2_a_pod_without_a_node_finds_the_reason_on_its_claim() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("more", "analytics", "ReadWriteOnce", "100Gi")).await;
    cluster.pod("team-a", "more", &["more"]).await;
    let said = story.said("more", "no node has a place for the volume: 100Gi asked for").await;
    assert!(said.contains("analytics has 2Gi left"), "{said}");
    // There is a place later, and the pod may be on no node for reasons of its own.
    story.make(pvc("later", "analytics", "ReadWriteOnce", "2100Mi")).await;
    cluster.pod("team-a", "later", &["later"]).await;
    story.said("later", "no node has a place for the volume: 2100Mi asked for").await;
    let more = json!({"spec": {"size": "3Gi"}});
    let reservations: Api<DiskReservation> = cluster.all();
    reservations.patch("analytics", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
    story.said("later", "2100Mi for role analytics are free on node n1 by now").await;

    // The pod is first, then the PersistentVolumeClaim, then the class. No right is granted, so no free space is shown.
    cluster.pod("team-a", "first", &["first"]).await;
    story.make(pvc("first", "ungranted", "ReadWriteOnce", "64Mi")).await;
    let delayed = json!({"parameters": {"role": "others"}, "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.apply_text(&class("ungranted", delayed).to_string()).await;
    story.said("first", "lack the verb create on volumeroles.reservoir.dev/others").await;
}

/// F5: a backup restores a PersistentVolumeClaim with the name of a PersistentVolume that is gone. Kubernetes calls it Lost
/// for ever, so a volume would only take space.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a_lost_claim_of_a_backup_gets_no_volume() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    let mut restored = pvc("restored", "analytics", "ReadWriteOnce", "64Mi");
    restored["spec"]["volumeName"] = json!("reservoir-of-before");
    restored["metadata"]["annotations"] = json!({SELECTED_NODE: "n1", "pv.kubernetes.io/bind-completed": "yes",
        "volume.kubernetes.io/storage-provisioner": DRIVER});
    story.make(restored).await;
    story.said("restored", "spec.volumeName is reservoir-of-before").await;
    assert!(story.volumes.list(&Default::default()).await.unwrap().items.is_empty());
}

/// F5: a backup restores the PersistentVolume, too. Kubernetes binds both, and no pod can mount the volume.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a_claim_of_a_backup_with_its_persistent_volume_is_told() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    let (mut pv, volume) = story.written(&agent, "data").await;
    let name = pv.name_any();
    let retain = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    story.pvs.patch(&name, &PatchParams::default(), &Patch::Merge(&retain)).await.unwrap();
    story.pvcs.delete("data", &Default::default()).await.unwrap();
    until_gone(&story.pvs, &name).await;
    until("the volume lists nobody", || async {
        let status = story.volumes.get(&volume.name_any()).await.unwrap().status?;
        status.claims.is_empty().then_some(())
    })
    .await;
    // The controller looks when it starts, and then each ten minutes.
    cluster.kill_controller().await;
    pv.metadata =
        kube::api::ObjectMeta { name: Some(name.clone()), labels: pv.metadata.labels, ..Default::default() };
    pv.status = None;
    let of = pv.spec.as_mut().unwrap().claim_ref.as_mut().unwrap();
    (of.uid, of.resource_version) = (None, None);
    story.pvs.create(&Default::default(), &pv).await.unwrap();
    let mut restored = pvc("data", "analytics", "ReadWriteOnce", "64Mi");
    restored["spec"]["volumeName"] = json!(name);
    story.make(restored).await;
    until("both are bound", || async {
        (story.pvcs.get("data").await.unwrap().status?.phase.as_deref() == Some("Bound")).then_some(())
    })
    .await;
    cluster.start_controller().await;
    let said = story.said("data", "no pod can mount it").await;
    let next = format!(
        "claim volume {0} anew, by: kubectl reservoir claim data --role analytics --volume {0} -n team-a",
        volume.name_any()
    );
    assert!(said.contains(&next), "{said}");
}

/// P6: the author of a class looks at the class.
#[tokio::test(flavor = "multi_thread")]
async fn p6_the_mistake_in_a_class_is_an_event_of_the_class() {
    let (cluster, _agent) = start().await;
    for (name, but, said) in [
        ("roleless", json!({"parameters": {"shared": "true"}}), "StorageClass roleless names no role"),
        (
            "mistyped",
            json!({"parameters": {"role": "analytics", "fstype": "xfs"}}),
            "has the parameter `fstype`",
        ),
        ("odd", json!({"mountOptions": ["suid"]}), "StorageClass odd has the mount option `suid`"),
    ] {
        cluster.apply_text(&class(name, but).to_string()).await;
        let events: Api<Event> = cluster.within("default");
        until(said, || async {
            let all = events.list(&Default::default()).await.unwrap();
            let is = |e: &Event| {
                e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name)
                    && e.reason.as_deref() == Some("InvalidStorageClass")
                    && e.note.as_ref().is_some_and(|note| note.contains(said))
            };
            all.iter().any(is).then_some(())
        })
        .await;
    }
}

/// F2: free space that changes makes no second event of a PersistentVolumeClaim that waits.
#[tokio::test(flavor = "multi_thread")]
async fn f2_other_sizes_make_no_new_event() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    cluster.apply_text(&class("now", json!({})).to_string()).await;
    story.make(pvc("more", "now", "ReadWriteOnce", "100Gi")).await;
    story.said("more", "analytics has 2Gi left").await;
    for (name, size) in [("one", "64Mi"), ("two", "32Mi")] {
        let volume = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
            "metadata": {"name": name}, "spec": {"role": "analytics", "size": size}});
        cluster.apply_text(&volume.to_string()).await;
        until_reason(&story.volumes, name, "Ready").await;
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    let all = cluster.within::<Event>("team-a").list(&Default::default()).await.unwrap();
    let of = |e: &&Event| {
        e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some("more")
            && e.reason.as_deref() == Some("ProvisioningFailed")
    };
    let notes: Vec<_> = all.iter().filter(of).filter_map(|e| e.note.clone()).collect();
    assert_eq!(notes.len(), 1, "{notes:#?}");
}

/// F1, V12: what a class says besides its parameters.
#[tokio::test(flavor = "multi_thread")]
async fn f1_file_system_mount_options_and_nodes_are_the_classs() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    let of = |node: &str| {
        json!({"parameters": {"role": "analytics", "csi.storage.k8s.io/fstype": "xfs"}, "mountOptions": ["noatime"],
            "allowedTopologies": [{"matchLabelExpressions": [{"key": TOPOLOGY_NODE, "values": [node]}]}]})
    };
    cluster.apply_text(&class("there", of("n1")).to_string()).await;
    story.make(pvc("data", "there", "ReadWriteOnce", "320Mi")).await;
    let (pv, volume, claim) = story.bound("data").await;
    let spec = pv.spec.unwrap();
    assert_eq!(spec.mount_options.unwrap(), ["noatime"]);
    assert_eq!(spec.csi.unwrap().fs_type.as_deref(), Some("xfs"));
    assert_eq!((volume.spec.fs_type, volume.spec.reservation.as_deref()), (FsType::Xfs, Some("analytics")));
    let pod = cluster.pod("team-a", "reader", &["data"]).await;
    let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(&target.display().to_string())).unwrap();
    assert!(line.contains(" xfs ") && line.contains("noatime"), "{line}");
    // A PersistentVolume that somebody changed is refused.
    let other = json!({"spec": {"mountOptions": ["noatime", "suid"]}});
    story
        .pvs
        .patch(&pv.metadata.name.unwrap(), &PatchParams::default(), &Patch::Merge(&other))
        .await
        .unwrap();
    let second = cluster.pod("team-a", "second", &["data"]).await;
    let refused = agent.publish(&cluster, &claim, &second, false).await.unwrap_err();
    assert!(refused.message().contains("has the mount option suid, and SharedPersistentVolume"), "{refused}");
    agent.unpublish(&claim, &pod).await.unwrap();

    cluster.apply_text(&class("elsewhere", of("n2")).to_string()).await;
    story.make(pvc("waits", "elsewhere", "ReadWriteOnce", "320Mi")).await;
    let said =
        story.said("waits", "no node has the labels in allowedTopologies of StorageClass elsewhere").await;
    assert!(said.contains("make the class anew, or label a node"), "{said}");
    cluster.quiet_for(Duration::from_secs(5)).await;
}

/// F1, M2: a rolling restart starts the new pod of a Deployment before the old one ends.
#[tokio::test(flavor = "multi_thread")]
async fn f1_m2_read_write_once_is_a_node_and_once_pod_a_pod() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    for (name, mode) in [("node", "ReadWriteOnce"), ("pod", "ReadWriteOncePod")] {
        story.make(pvc(name, "analytics", mode, "64Mi")).await;
        story.select(name, "n1").await;
    }
    cluster.example("04-subscriptions.yaml").await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: scratch},
              spec: {role: analytics, size: 64Mi}}",
        )
        .await;
    let claim = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
        "metadata": {"name": "scratch", "namespace": "team-a"}, "spec": {"role": "analytics", "volume": "scratch"}});
    cluster.apply_text(&claim.to_string()).await;
    for (name, together) in [("node", true), ("pod", false), ("scratch", false)] {
        let claim = match name {
            "scratch" => {
                until_reason(&cluster.within::<VolumeClaim>("team-a"), name, "Bound").await;
                cluster.within::<VolumeClaim>("team-a").get(name).await.unwrap()
            }
            _ => story.bound(name).await.2,
        };
        let (old, new) = (format!("{name}-old"), format!("{name}-new"));
        let old = cluster.pod("team-a", &old, &[name]).await;
        let new = cluster.pod("team-a", &new, &[name]).await;
        agent.publish(&cluster, &claim, &old, false).await.unwrap();
        let second = agent.publish(&cluster, &claim, &new, false).await;
        if together {
            second.unwrap();
            agent.unpublish(&claim, &old).await.unwrap();
        } else {
            let volume = claim.status.as_ref().unwrap().volume.as_ref().unwrap().name.clone();
            let refused = second.unwrap_err();
            assert!(
                refused.message().contains(&format!(
                    "volume {volume} is exclusive and pod team-a/{name}-old has it: it is free when that pod is gone; a \
                     Deployment needs strategy.type Recreate"
                )),
                "{refused}"
            );
            agent.unpublish(&claim, &old).await.unwrap();
            agent.publish(&cluster, &claim, &new, false).await.unwrap();
        }
        agent.unpublish(&claim, &new).await.unwrap();
    }
}

/// F1: the two PersistentVolumeClaims of one pod, each of which fits on the node, and not both.
#[tokio::test(flavor = "multi_thread")]
async fn f1_the_claims_of_a_pod_are_placed_together() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    let names = ["a", "b"];
    for name in names {
        story.make(pvc(name, "analytics", "ReadWriteOnce", "1200Mi")).await;
    }
    cluster.pod("team-a", "pair", &names).await;
    for name in names {
        // The node may have been given back for both meanwhile.
        story.select(name, "n1").await;
    }
    for name in names {
        let said = story.said(name, "2 PersistentVolumeClaims of one pod do not fit together").await;
        assert!(
            said.contains("analytics has 848Mi left") && said.ends_with("another node is looked for"),
            "{said}"
        );
        until("the scheduler is to look again", || async {
            let pvc = story.pvcs.get(name).await.unwrap();
            (!pvc.annotations().contains_key(SELECTED_NODE)).then_some(())
        })
        .await;
    }
    assert_eq!(story.volumes.list(&Default::default()).await.unwrap().items.len(), 0);
    // The scheduler looks at one PersistentVolumeClaim after the other, and would choose the same node again.
    let capacities: Api<CSIStorageCapacity> = cluster.within("default");
    let told = capacities.list(&Default::default()).await.unwrap();
    let told = told.iter().filter(|told| told.storage_class_name == "analytics");
    let largest: Vec<_> = told.filter_map(|told| told.maximum_volume_size.clone()).collect();
    assert_eq!(largest.len(), 1);
    assert_eq!(Size::written(largest[0].0.clone()).bytes_or_zero(), (1200 << 20) - 1, "for a moment");
    let more = json!({"spec": {"size": "3Gi"}});
    let reservations: Api<DiskReservation> = cluster.all();
    reservations.patch("analytics", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap();
    story.free_space("analytics", "n1", "3Gi").await;
    for name in names {
        story.select(name, "n1").await;
    }
    for name in names {
        story.bound(name).await;
    }
}

/// P1, M1: a shared PersistentVolumeClaim, from its first pod on. The controller dies before each step.
#[tokio::test(flavor = "multi_thread")]
async fn p1_m1_a_shared_pvc_serves_pods_across_controller_deaths() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("together", "analytics-shared", "ReadWriteMany", "64Mi")).await;
    story.select("together", "n1").await;
    let mut last = 0;
    for _ in 0..40 {
        // A new controller takes over after each write.
        until("it writes, or all is done", || async {
            let bound = story.pvcs.get("together").await.unwrap().status?.phase.as_deref() == Some("Bound");
            (bound || cluster.our_writes().len() > last).then_some(())
        })
        .await;
        cluster.kill_controller().await;
        last = cluster.our_writes().len();
        cluster.start_controller().await;
    }
    let (pv, volume, claim) = story.bound("together").await;
    let spec = pv.spec.unwrap();
    assert_eq!(spec.access_modes.unwrap(), ["ReadWriteMany"]);
    assert_eq!(spec.csi.unwrap().fs_type, None, "V11: no pod changes the owners of a shared volume");
    assert_eq!(story.volumes.list(&Default::default()).await.unwrap().items.len(), 1);
    let mut pods = Vec::new();
    for name in ["a", "b", "c"] {
        let pod = cluster.pod("team-a", name, &["together"]).await;
        let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
        std::fs::write(target.join(name), name).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("a")).unwrap(), "a");
        pods.push(pod);
    }
    until("all are counted", || async {
        let status = story.volumes.get(&volume.name_any()).await.unwrap().status?;
        (status.user_count == 3).then_some(())
    })
    .await;
    for pod in pods {
        agent.unpublish(&claim, &pod).await.unwrap();
        cluster.end_pod("team-a", &pod.name_any()).await;
    }
}

/// P4: a controller that does not find the PersistentVolume of a bound volume keeps the data. A controller that was paused does
/// not decide on an old read either (S15).
#[tokio::test(flavor = "multi_thread")]
async fn p4_s15_without_a_persistent_volume_the_data_is_kept() {
    let (cluster, agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("kept", "analytics", "ReadWriteOnce", "64Mi")).await;
    story.select("kept", "n1").await;
    let (pv, volume, claim) = story.bound("kept").await;
    cluster.kill_controller().await;
    let pod = cluster.pod("team-a", "writer", &["kept"]).await;
    agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    agent.unpublish(&claim, &pod).await.unwrap();
    cluster.end_pod("team-a", "writer").await;
    story.pvcs.delete("kept", &Default::default()).await.unwrap();
    until_gone(&story.pvcs, "kept").await;
    strip_and_delete(&story.pvs, &pv.name_any()).await;
    cluster.start_controller().await;
    let now = until("it is like any other", || async {
        let now = story.volumes.get(&volume.name_any()).await.unwrap();
        (!now.labels().contains_key(LABEL_PVC_UID)).then_some(now)
    })
    .await;
    assert!(!now.spec.retire && now.metadata.deletion_timestamp.is_none(), "{now:?}");
    let late =
        reservoir::cluster::merge_seen(&story.volumes, &volume, json!({"spec": {"retire": true}})).await;
    assert!(matches!(late, Err(reservoir::cluster::Error::Conflict(_))), "{late:?}");
}

/// P4: a PersistentVolume that has to be made again may have had another policy than its class.
#[tokio::test(flavor = "multi_thread")]
async fn p4_a_remade_persistent_volume_keeps_the_data() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    story.make(pvc("data", "analytics", "ReadWriteOnce", "64Mi")).await;
    story.select("data", "n1").await;
    let (pv, ..) = story.bound("data").await;
    let retain = json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}});
    story.pvs.patch(&pv.name_any(), &PatchParams::default(), &Patch::Merge(&retain)).await.unwrap();
    strip_and_delete(&story.pvs, &pv.name_any()).await;
    let again =
        until("it is there again", || async { story.pvs.get_opt(&pv.name_any()).await.unwrap() }).await;
    assert_eq!(again.spec.unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
}

/// P6, L1: a user who deletes the object in the way, as advised, has to do nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn p6_l1_a_pvc_waits_for_an_object_in_its_way() {
    let (cluster, _agent) = start().await;
    let story = Story::of(&cluster);
    let claim = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
        "metadata": {"name": "taken", "namespace": "team-a"}, "spec": {"role": "analytics", "volume": "none"}});
    cluster.apply_text(&claim.to_string()).await;
    story.make(pvc("taken", "analytics", "ReadWriteOnce", "64Mi")).await;
    story.select("taken", "n1").await;
    // P1: a VolumeClaim of its name is in nobody's way.
    story.bound("taken").await;

    let uid = story.make(pvc("named", "analytics", "ReadWriteOnce", "64Mi")).await.uid().unwrap();
    let mut volume = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
        "metadata": {"name": format!("pvc-{uid}")}, "spec": {"role": "analytics", "size": "64Mi"}});
    let refused = Ask::create(&volume).of(&cluster.client).await.unwrap_err();
    assert!(
        refused.contains("is for the volume of a PersistentVolumeClaim: choose another one"),
        "{refused}"
    );
    // Who recovers a cluster may give a volume that name.
    volume["spec"]["recover"] = json!({"uid": "11111111-2222-3333-4444-555555555555"});
    Ask::create(&volume).of(&cluster.client).await.unwrap();
    story.select("named", "n1").await;
    story
        .said("named", "was made by somebody else and is in the way: make this PersistentVolumeClaim anew")
        .await;
    story.volumes.delete(&format!("pvc-{uid}"), &Default::default()).await.unwrap();
    story.bound("named").await;
}

/// P1, S7, S8: a VolumeClaim that an earlier version made hands its binding over while a pod writes, and its PersistentVolume,
/// which names it for good, leads to the volume as before. The end is that of any PersistentVolumeClaim.
#[tokio::test(flavor = "multi_thread")]
async fn p1_a_claim_of_an_earlier_version_is_taken_over_under_a_pod() {
    let (cluster, agent) = start().await;
    let mut watch = Watch::safety(&cluster);
    let mut was_listed = false;
    watch.each(cluster.all::<SharedPersistentVolume>(), move |volume| {
        let is_listed = volume.status.as_ref().is_some_and(|status| status.claims.len() == 1);
        let is_lost = was_listed && !is_listed && volume.metadata.deletion_timestamp.is_none();
        was_listed |= is_listed;
        if is_lost { Err("its list lacks the entry".into()) } else { Ok(()) }
    });
    let story = Story::of(&cluster);
    let controller = cluster.server.client_as(CONTROLLER_USER, &["system:masters"]).await.unwrap();
    let volumes: Api<SharedPersistentVolume> = Api::all(controller.clone());
    let claims: Api<VolumeClaim> = Api::namespaced(controller.clone(), "team-a");
    // Nobody has chosen a node, so no volume is made for it.
    let uid = story.make(pvc("data", "analytics", "ReadWriteOnce", "64Mi")).await.uid().unwrap();
    let name = format!("pvc-{uid}");
    let made = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
        "metadata": {"name": name}, "spec": {"role": "analytics", "size": "64Mi"}});
    Ask::create(&made).of(&controller).await.unwrap();
    until_reason(&volumes, &name, "Ready").await;
    cluster.kill_controller().await;

    // The objects of an earlier version.
    let now = PatchParams::default();
    let labels = json!({LABEL_PVC_UID: uid, LABEL_CLAIM_NAMESPACE: "team-a"});
    let labelled =
        json!({"metadata": {"labels": labels, "annotations": {"reservoir.dev/made-for": "team-a/data"}}});
    volumes.patch(&name, &now, &Patch::Merge(&labelled)).await.unwrap();
    let old = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
        "metadata": {"name": "data", "namespace": "team-a", "labels": {LABEL_PVC_UID: uid}, "finalizers": [FINALIZER]},
        "spec": {"role": "analytics", "volume": name}});
    Ask::create(&old).of(&controller).await.unwrap();
    let mut old = claims.get("data").await.unwrap();
    let volume = volumes.get(&name).await.unwrap();
    let bound = json!({"status": {"claims": [bind::binding(&old)], "claimCount": 1}});
    volumes.patch_status(&name, &now, &Patch::Merge(&bound)).await.unwrap();
    let pvc = story.pvcs.get("data").await.unwrap();
    let mut pv = persistent_volume::persistent_volume(&old, &volume);
    let spec = pv.spec.as_mut().unwrap();
    spec.claim_ref.as_mut().unwrap().uid = pvc.uid();
    spec.storage_class_name = Some("analytics".into());
    spec.access_modes = Some(vec!["ReadWriteOnce".into()]);
    spec.persistent_volume_reclaim_policy = Some("Delete".into());
    story.pvs.create(&Default::default(), &pv).await.unwrap();
    until("the PersistentVolumeClaim is bound", || async {
        let pvc = story.pvcs.get("data").await.unwrap();
        (pvc.status?.phase.as_deref() == Some("Bound")).then_some(())
    })
    .await;
    let status = old.status.get_or_insert_default();
    status.volume = Some(UidRef { name: name.clone(), uid: volume.uid().unwrap() });
    status.persistent_volume = Some(pv.name_any());
    let pod = cluster.pod("team-a", "writer", &["data"]).await;
    let target = agent.publish(&cluster, &old, &pod, false).await.unwrap();
    std::fs::write(target.join("file"), "kept").unwrap();

    cluster.start_controller().await;
    until_gone(&claims, "data").await;
    let volume = volumes.get(&name).await.unwrap();
    let listed = ClaimBinding { pvc_uid: Some(uid.clone()), ..bind::binding(&old) };
    assert_eq!(volume.status.as_ref().unwrap().claims, [listed]);
    std::fs::write(target.join("file"), "written again").unwrap();
    let reader = cluster.pod("team-a", "reader", &["data"]).await;
    let second = agent.publish(&cluster, &old, &reader, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(second.join("file")).unwrap(), "written again");
    cluster.quiet_for(Duration::from_secs(5)).await;

    for pod in [pod, reader] {
        agent.unpublish(&old, &pod).await.unwrap();
        cluster.end_pod("team-a", &pod.name_any()).await;
    }
    story.pvcs.delete("data", &Default::default()).await.unwrap();
    until_gone(&volumes, &name).await;
    until_gone(&story.pvs, &pv.name_any()).await;
    agent.nothing_left().await;
    watch.assert_unbroken();
}

/// F5, P4: a new PersistentVolumeClaim does not hide the data of an earlier one of its name.
#[tokio::test(flavor = "multi_thread")]
async fn f5_a_pvc_says_that_old_data_of_its_name_is_kept() {
    let (cluster, _agent) = start().await;
    cluster.apply_text(&class("retained", json!({"reclaimPolicy": "Retain"})).to_string()).await;
    let story = Story::of(&cluster);
    story.make(pvc("data", "retained", "ReadWriteOnce", "64Mi")).await;
    let (_, old, _) = story.bound("data").await;
    assert_eq!(old.annotations()["reservoir.dev/made-for"], "team-a/data");
    story.pvcs.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&story.pvcs, "data").await;
    let volume = old.name_any();
    // One that waits for a node has no volume yet.
    let late = json!({"reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.apply_text(&class("late", late).to_string()).await;
    story.make(pvc("data", "late", "ReadWriteOnce", "64Mi")).await;
    let said = story.said("data", "waits, to start empty").await;
    assert!(said.contains(&format!("while volume {volume} has the data")), "{said}");
    story.pvcs.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&story.pvcs, "data").await;
    story.make(pvc("data", "retained", "ReadWriteOnce", "64Mi")).await;
    let said = story.said("data", "starts empty").await;
    assert!(said.contains(&format!("while volume {volume} has the data")), "{said}");
    assert!(said.contains(&format!("--role analytics --volume {volume}, for which")), "{said}");
}
