//! Disks that were exchanged, and disks that are unreachable (D3, D4).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use reservoir::api::condition::{self, READY};
use reservoir::api::{
    BackingState, DiskReservation, EnforcementState, NodeDisk, NodeDiskSpec, SharedPersistentVolume,
    VolumeClaim, VolumeOffer,
};
use reservoir::plan::silence::SILENT_AFTER;
use reservoir_cluster::api::ApiOptions;
use serde_json::json;

use crate::faults::{CLAIMED, CLAIMS, OBJECTS, VOLUMES, all_goes, bound, delete, served};
use crate::support::{Agent, Cluster, agent_kubeconfig, until, until_gone, until_reason};

/// D1, D5.
#[tokio::test(flavor = "multi_thread")]
async fn d3_another_disk_in_a_known_place_is_refused() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "4Gi").await;
    let disks: Api<NodeDisk> = cluster.all();
    let reservations: Api<DiskReservation> = cluster.all();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    let id = disks.get("n1.default").await.unwrap().spec.disk_id;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: r}, \
             spec: {role: eng, size: 1Gi}}\n---\n\
             {apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: v}, \
             spec: {role: eng, size: 64Mi, shared: {}}}",
        )
        .await;
    until_reason(&volumes, "v", "Ready").await;
    let status = disks.get("n1.default").await.unwrap().status.unwrap();
    assert_eq!(status.enforcement.unwrap().state, EnforcementState::Proven);
    let roles: Vec<_> =
        status.roles.iter().map(|r| (r.role.as_str(), r.reserved.as_str(), r.reservations)).collect();
    assert_eq!(roles, [("eng", "1Gi", 1)]);

    // A disk that is no longer in the agent's configuration is marked, not forgotten.
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: NodeDisk, metadata: {name: n1.old}, spec: {nodeName: n1, \
             diskName: old, diskID: 00112233-4455-6677-8899-aabbccddeeff, kind: Path, backing: Loop, path: /old}}",
        )
        .await;
    let said = until_reason(&disks, "n1.old", "DiskRefused").await;
    assert!(said.contains("not in the agent's configuration, which has no old at /old"), "{said}");

    // D3: nobody moves a disk that is served by an edit.
    let moved = json!({"spec": {"nodeName": "n2"}});
    let refused = disks.patch("n1.default", &Default::default(), &Patch::Merge(moved)).await.unwrap_err();
    assert!(refused.to_string().contains("is served by the agent of node n1"), "{refused}");

    let data = agent.data_file(&volumes.get("v").await.unwrap().metadata.uid.unwrap());

    // The expected file system was not mounted.
    agent.kill().await;
    let (place, away) = (agent.dir.join("disk"), agent.dir.join("away"));
    std::fs::rename(&place, &away).unwrap();
    std::fs::create_dir(&place).unwrap();
    agent.run();
    let said = until_reason(&disks, "n1.default", "DiskRefused").await;
    assert!(said.contains("is another one (ID ") && said.contains("mount the right disk"), "{said}");
    assert_eq!(disks.get("n1.default").await.unwrap().spec.disk_id, id);

    // A missing volume does not count as erased.
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    until("the volume cannot be fenced", || async {
        let status = volumes.get("v").await.unwrap().status.unwrap();
        assert_eq!(status.node.unwrap().backing, BackingState::Made);
        let backed = status.conditions.into_iter().find(|c| c.type_ == "Backed").unwrap();
        (backed.reason == "BackingFailed" && backed.message.contains("not the expected disk")).then_some(())
    })
    .await;

    // The right disk is back, and the running agent finds it. The destruction continues, and has a true receipt.
    std::fs::rename(&place, agent.dir.join("wrong")).unwrap();
    std::fs::rename(&away, &place).unwrap();
    until_reason(&disks, "n1.default", "Ready").await;
    until_gone(&volumes, "v").await;
    assert!(!data.exists());
    assert_eq!(reservations.get("r").await.unwrap().status.unwrap().volumes, []);
    until("the receipt is in an event", || async {
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(cluster.client.clone());
        let events = events.list(&Default::default()).await.unwrap().items;
        events.iter().any(|e| e.note.as_ref().is_some_and(|n| n.contains("64Mi erased"))).then_some(())
    })
    .await;
    let receipts = agent.dir.join("disk/receipts");
    until("the receipt is not kept for ever", || async {
        std::fs::read_dir(&receipts).unwrap().next().is_none().then_some(())
    })
    .await;
}

/// D3, D8. The configuration gives the name of a disk to another one, and then back.
#[tokio::test(flavor = "multi_thread")]
async fn d3_a_disk_whose_name_another_one_had_is_served_again() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let disks: Api<NodeDisk> = cluster.all();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let configured = |name: &str, path: &str| {
        let path = dir.path().join(path);
        format!(
            "[{{name: {name}, path: {}, requireMount: false, capacity: 128Mi, systemReserved: 0}}]",
            path.display()
        )
    };
    let mut agent = Agent::start_with_disks(&cluster, "n1", &configured("default", "one")).await;
    until_reason(&disks, "n1.default", "Ready").await;
    let one = disks.get("n1.default").await.unwrap().spec;
    for (name, path, ready) in
        [("fast", "one", "n1.default"), ("default", "two", "n1.default-2"), ("default", "one", "n1.default")]
    {
        agent.kill().await;
        std::fs::write(agent.dir.join("agent.yaml"), format!("disks: {}", configured(name, path))).unwrap();
        agent.run();
        until(&format!("the disk {name} at {path}"), || async {
            let disk = disks.get_opt(ready).await.unwrap()?;
            let is_ready = condition::is_true(&disk.status?.conditions, READY);
            (is_ready && disk.spec.disk_name == name).then_some(())
        })
        .await;
    }
    assert_eq!(disks.get("n1.default").await.unwrap().spec.disk_id, one.disk_id);
    let said = until_reason(&disks, "n1.default-2", "DiskRefused").await;
    assert!(said.contains(&format!("{}/two; data on it stays", dir.path().display())), "{said}");
    disks.delete("n1.default-2", &DeleteParams::default()).await.unwrap();
    until_gone(&disks, "n1.default-2").await;
}

const POLICY: &str = "
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: deny},
 spec: {failurePolicy: Fail,
  matchConstraints: {resourceRules: [{apiGroups: [reservoir.dev], apiVersions: ['*'], operations: [CREATE, UPDATE],
   resources: [nodedisks]}]},
  validations: [{expression: \"object.spec.diskName != 'denied'\", message: not this one}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: deny},
 spec: {policyName: deny, validationActions: [Deny]}}
";

fn node_disk(name: &str, disk: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: NodeDisk, metadata: {{name: {name}}}, spec: {{nodeName: n1, \
         diskName: {disk}, diskID: 00112233-4455-6677-8899-aabbccddeeff, kind: Path, backing: Loop, path: /old}}}}"
    )
}

/// V10. An agent serves its other disks despite a mistake in one disk's configuration, or a NodeDisk that it cannot
/// write.
#[tokio::test(flavor = "multi_thread")]
async fn v10_one_bad_disk_keeps_no_other_from_being_served() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    cluster.apply_text(POLICY).await;
    until("the policy is in force", || async {
        cluster.try_apply(&node_disk("probe", "denied")).await.is_err().then_some(())
    })
    .await;
    let _ = cluster.all::<NodeDisk>().delete("probe", &DeleteParams::default()).await;
    cluster.apply_text(&node_disk("n1.wrong", "wrong")).await;
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let disks = format!(
        "[{{name: wrong, path: {0}/wrong, systemReserved: 200%}}, {{name: denied, path: {0}/denied, requireMount: false, capacity: 128Mi}}, \
         {{name: default, path: {0}/default, requireMount: false, capacity: 256Mi, systemReserved: 0}}]",
        dir.path().display()
    );
    let mut agent = Agent::start_with_disks(&cluster, "n1", &disks).await;
    let disks: Api<NodeDisk> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    let said = until_reason(&disks, "n1.wrong", "DiskRefused").await;
    assert!(said.contains("its configuration is wrong: systemReserved 200%"), "{said}");
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: r}, \
             spec: {role: eng, size: 64Mi, nodeDisk: n1.default}}\n---\n\
             {apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: v}, \
             spec: {role: eng, size: 32Mi, shared: {}}}",
        )
        .await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&volumes, "v", "Ready").await;
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "v").await;
    assert!(agent.alive());
}

/// D6, D8. A disk that is not there is a NodeDisk that says why, and so does a reservation that names it. The object becomes
/// the disk once that is there, and goes with the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn d8_a_disk_that_cannot_be_opened_says_why() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (late, root) = (dir.path().join("late"), dir.path().join("root"));
    let text = |disks: &str| format!("disks: [{disks}]");
    let late_disk = format!(
        "{{name: late, path: {}/disk, requireMount: false, capacity: 256Mi, systemReserved: 0}}",
        late.display()
    );
    let root_disk = format!("{{name: root, path: {}}}", root.display());
    let mut agent = Agent::start_with_disks(&cluster, "n1", &format!("[{late_disk}, {root_disk}]")).await;
    let disks: Api<NodeDisk> = cluster.all();
    let said = until_reason(&disks, "n1.late", "DiskRefused").await;
    assert!(said.contains("make directory") && said.contains("No such file or directory"), "{said}");
    let said = until_reason(&disks, "n1.root", "DiskRefused").await;
    assert!(said.contains("has no file system of its own") && said.contains("requireMount"), "{said}");
    assert!(!late.exists() && !root.exists(), "nothing is made above a disk, or on the root file system");
    let reservations: Api<DiskReservation> = cluster.all();
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: r}, \
             spec: {role: eng, size: 64Mi, nodeDisk: n1.late}}",
        )
        .await;
    let said = until_reason(&reservations, "r", "NotEnoughRoom").await;
    assert!(said.contains("n1.late is not ready: ") && said.contains("No such file or directory"), "{said}");

    std::fs::create_dir(&late).unwrap();
    until_reason(&disks, "n1.late", "Ready").await;
    until_reason(&reservations, "r", "Ready").await;
    assert_eq!(disks.get("n1.late").await.unwrap().spec.disk_id.len(), 36);
    agent.kill().await;
    std::fs::write(agent.dir.join("agent.yaml"), text(&late_disk)).unwrap();
    agent.run();
    until_gone(&disks, "n1.root").await;
    until_reason(&disks, "n1.late", "Ready").await;
}

const RENAMED: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 128Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: ml},
 spec: {role: eng/ml, size: 64Mi, parent: eng}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data},
 spec: {role: eng, size: 32Mi, shared: {}, reservation: eng}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: doomed},
 spec: {role: eng/ml, size: 16Mi, reservation: ml}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team},
 spec: {role: eng, volume: data}}
";

/// D3, A4.
#[tokio::test(flavor = "multi_thread")]
async fn d3_volumes_follow_their_disk_to_a_renamed_node() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut old = Agent::start(&cluster, "n1", "512Mi").await;
    let disks: Api<NodeDisk> = cluster.all();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&disks, "n1.default", "Ready").await;
    cluster.apply_text(RENAMED).await;
    for name in ["data", "doomed"] {
        until_reason(&volumes, name, "Ready").await;
    }
    until_reason(&claims, "data", "Bound").await;
    let before = claims.get("data").await.unwrap();
    let pod = cluster.pod("team", "writer", &["data"]).await;
    let target = old.publish(&cluster, &before, &pod, false).await.unwrap();
    std::fs::write(target.join("file"), "kept").unwrap();
    old.unpublish(&before, &pod).await.unwrap();
    cluster.end_pod("team", "writer").await;
    let pvcs: Api<PersistentVolumeClaim> = cluster.within("team");
    let pvc_before = pvcs.get("data").await.unwrap().metadata.uid;
    // R2: a reservation from the agent's configuration.
    old.kill().await;
    let config = old.dir.join("agent.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("}]", ", reservations: [{role: ops, size: 16Mi}]}]")).unwrap();
    old.run();
    let reservations: Api<DiskReservation> = cluster.all();
    until_reason(&reservations, "n1.default.ops", "Ready").await;
    let disk = disks.get("n1.default").await.unwrap();

    // The same disk in a node of another name. While the Node of the old name exists, the disk may be a copy. So it
    // is not served, and the status has the reason.
    old.kill().await;
    cluster.node("n2", true).await;
    let at = old.dir.join("disk");
    let same_disk = format!(
        "[{{name: data, path: {}, requireMount: false, capacity: 512Mi, systemReserved: 0, reservations: [{{role: ops, size: 32Mi}}]}}]",
        at.display()
    );
    let mut new = Agent::start_with_disks(&cluster, "n2", &same_disk).await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(cluster.client.clone());
    until("the refusal is an event", || async {
        let events = events.list(&Default::default()).await.unwrap().items;
        let said = events.iter().filter_map(|e| e.note.as_ref()).any(|note| {
            note.starts_with("node n2 has a disk with the ID of this one")
                && note
                    .contains("delete Node n1 if its disk is in node n2 now, or NodeDisk n1.default if nothing is reserved")
        });
        said.then_some(())
    })
    .await;
    assert_eq!(disks.get("n1.default").await.unwrap().spec, disk.spec);
    // D8: the refusal is where people look, on an object that is no disk.
    let said = until_reason(&disks, "n2.data", "DiskRefused").await;
    assert!(said.contains("NodeDisk n1.default is in node n1, which is still there"), "{said}");
    assert_eq!(disks.get("n2.data").await.unwrap().spec.disk_id, "unknown");
    assert!(
        new.publish(&cluster, &before, &pod, false).await.unwrap_err().message().contains("is on node n1")
    );
    // A volume that is deleted meanwhile waits for its disk.
    volumes.delete("doomed", &DeleteParams::default()).await.unwrap();

    // Once the old Node is gone, the volumes follow the disk, without a restart of the agent.
    cluster.all::<Node>().delete("n1", &DeleteParams::default()).await.unwrap();
    until("the disk is taken over", || async {
        (disks.get("n1.default").await.unwrap().spec.node_name == "n2").then_some(())
    })
    .await;
    until_reason(&disks, "n1.default", "Ready").await;
    let now = disks.get("n1.default").await.unwrap();
    assert_eq!((now.spec.disk_name.as_str(), &now.spec.disk_id), ("data", &disk.spec.disk_id));
    let held = |disk: &NodeDisk| {
        let lines = disk.status.clone().unwrap().reservations;
        lines.into_iter().map(|line| line.uid).collect::<Vec<_>>()
    };
    assert_eq!(held(&now), held(&disk), "what is reserved stays reserved");
    until("the new node's configuration sets the size of the static reservation", || async {
        let ops = reservations.get("n1.default.ops").await.unwrap();
        (ops.spec.size.as_str() == "32Mi").then_some(())
    })
    .await;
    until("the volume is on the new node", || async {
        let status = volumes.get("data").await.unwrap().status.unwrap();
        (status.node_name.as_deref() == Some("n2")).then_some(())
    })
    .await;
    until_reason(&volumes, "data", "Ready").await;
    for name in ["eng", "ml"] {
        until("the reservation is on the new node", || async {
            let status = reservations.get(name).await.unwrap().status.unwrap();
            (status.node_name.as_deref() == Some("n2")).then_some(())
        })
        .await;
    }
    until_gone(&volumes, "doomed").await;

    // The claim is the same, and the scheduler sends pods to the new node.
    let claim = until("the claim is bound anew", || async {
        let claim = claims.get("data").await.unwrap();
        let status = claim.status.clone().unwrap();
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == "Bound");
        (status.node_name.as_deref() == Some("n2") && ready).then_some(claim)
    })
    .await;
    assert_eq!(claim.metadata.uid, before.metadata.uid);
    assert_ne!(pvcs.get("data").await.unwrap().metadata.uid, pvc_before);
    let name = claim.status.as_ref().unwrap().persistent_volume.clone().unwrap();
    let pv = cluster.all::<PersistentVolume>().get(&name).await.unwrap();
    let affinity = serde_json::to_string(&pv.spec.unwrap().node_affinity).unwrap();
    assert!(affinity.contains("\"n2\"") && !affinity.contains("\"n1\""), "{affinity}");
    let pod = cluster.pod("team", "again", &["data"]).await;
    let target = new.publish(&cluster, &claim, &pod, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "kept");

    let now = disks.get("n1.default").await.unwrap();

    // Another machine with the old name has its own disk and none of these volumes. A copy of the disk does not
    // change that.
    cluster.node("n1", true).await;
    let other = Agent::start(&cluster, "n1", "128Mi").await;
    let another = until("a NodeDisk for the other disk", || async {
        let all = disks.list(&Default::default()).await.unwrap().items;
        all.into_iter().find(|disk| disk.spec.node_name == "n1")
    })
    .await;
    let name = another.metadata.name.clone().unwrap();
    assert!(name == "n1.default-2" && another.spec.disk_id != disk.spec.disk_id, "{name}");
    until_reason(&disks, &name, "Ready").await;
    assert_eq!(other.backings(), Vec::<String>::new());
    let place = old.dir.join("copy");
    std::fs::create_dir(&place).unwrap();
    std::fs::copy(at.join("disk.json"), place.join("disk.json")).unwrap();
    let copy =
        format!("[{{name: default, path: {}, requireMount: false, systemReserved: 0}}]", place.display());
    let _copy = Agent::start_with_disks(&cluster, "n3", &copy).await;
    cluster.node("n3", true).await;
    until("the copy is refused", || async {
        let events = events.list(&Default::default()).await.unwrap().items;
        events
            .iter()
            .filter_map(|e| e.note.as_ref())
            .any(|note| note.starts_with("node n3 has a disk with the ID of this one"))
            .then_some(())
    })
    .await;
    assert_eq!(disks.get("n1.default").await.unwrap().spec, now.spec);
    until_reason(&volumes, "data", "Ready").await;
    new.unpublish(&claim, &pod).await.unwrap();
    assert!(new.alive());
}

/// A7: IDs and public keys are public. A broken node makes a NodeDisk with those of another node's disk, whose own NodeDisk
/// an administrator has deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a7_a_forged_nodedisk_keeps_no_disk_from_its_node() {
    let cluster = Cluster::start().await;
    for node in ["n1", "n2"] {
        cluster.node(node, true).await;
    }
    let mut agent = Agent::start(&cluster, "n1", "128Mi").await;
    let disks: Api<NodeDisk> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    let identity = agent.dir.join("disk/disk.json");
    let attested = || async {
        let text = std::fs::read(&identity).unwrap();
        let stored: serde_json::Value = serde_json::from_slice(&text).unwrap();
        (stored["attested"] == true).then_some(())
    };
    until("the disk has seen its signed NodeDisk", attested).await;
    let signed = disks.get("n1.default").await.unwrap().spec;
    agent.kill().await;
    disks.delete("n1.default", &DeleteParams::default()).await.unwrap();
    until_gone(&disks, "n1.default").await;
    let forged = NodeDisk::new(
        "n2.x",
        NodeDiskSpec { node_name: "n2".to_owned(), disk_name: "x".to_owned(), ..signed.clone() },
    );
    let broken_agent = Client::try_from(
        kube::Config::from_custom_kubeconfig(agent_kubeconfig(&cluster, "n2"), &Default::default())
            .await
            .unwrap(),
    )
    .unwrap();
    Api::<NodeDisk>::all(broken_agent).create(&Default::default(), &forged).await.unwrap();
    agent.run();
    until_reason(&disks, "n1.default", "Ready").await;
    let now = until("the NodeDisk is signed", || async {
        Some(disks.get("n1.default").await.unwrap().spec).filter(|spec| spec.key_proof.is_some())
    })
    .await;
    assert_eq!(
        (&now.disk_id, now.key == signed.key),
        (&signed.disk_id, false),
        "a new NodeDisk has a new key"
    );
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::all(cluster.client.clone());
    until("the other NodeDisk is reported", || async {
        let events = events.list(&Default::default()).await.unwrap().items;
        events
            .iter()
            .filter_map(|event| event.note.as_ref())
            .any(|note| note.contains("has not signed"))
            .then_some(())
    })
    .await;

    // A NodeDisk of an earlier version has no signature. Its agent signs.
    let strip = serde_json::json!({"spec": {"keyProof": null}});
    disks.patch("n1.default", &Default::default(), &Patch::Merge(&strip)).await.unwrap();
    until("it is signed again", || async {
        disks.get("n1.default").await.unwrap().spec.key_proof.is_some().then_some(())
    })
    .await;
    until("the disk has seen its signed NodeDisk", attested).await;
}

/// D3: the disk stays the same under any name in the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn d3_a_disk_renamed_in_the_configuration_is_the_same_disk() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "128Mi").await;
    let disks: Api<NodeDisk> = cluster.all();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    cluster
        .apply_text(
            "{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: r}, \
             spec: {role: eng, size: 64Mi}}\n---\n\
             {apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: v}, \
             spec: {role: eng, size: 32Mi, shared: {}}}",
        )
        .await;
    until_reason(&volumes, "v", "Ready").await;
    agent.kill().await;
    let config = std::fs::read_to_string(agent.dir.join("agent.yaml")).unwrap();
    std::fs::write(agent.dir.join("agent.yaml"), config.replace("name: default", "name: fast")).unwrap();
    agent.run();
    until("it has its new name", || async {
        (disks.get("n1.default").await.unwrap().spec.disk_name == "fast").then_some(())
    })
    .await;
    until_reason(&disks, "n1.default", "Ready").await;
    assert_eq!(disks.list(&Default::default()).await.unwrap().items.len(), 1);
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "v").await;
    agent.nothing_left().await;
}

/// D4, O6.
#[tokio::test(flavor = "multi_thread")]
async fn d8_a_disk_is_ready_while_its_agent_serves() {
    let cluster = Cluster::bare(ApiOptions { controller_manager: false, audit: false }).await;
    cluster.start_controller_with(Some("component=agent")).await;
    cluster.node("n1", true).await;
    let pods: Api<Pod> = cluster.within("default");
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}";
    until("the namespace is there", || async { cluster.try_apply(account).await.ok() }).await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: default, labels: {component: agent}}, \
               spec: {nodeName: n1, containers: [{name: agent, image: agent}]}}";
    let ready = async |status: &str| {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        pods.patch_status("agent", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    };
    cluster.apply_text(pod).await;
    ready("True").await;
    let _agent = Agent::start(&cluster, "n1", "4Gi").await;
    let disks: Api<NodeDisk> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;

    let lasts = async || {
        tokio::time::sleep(SILENT_AFTER - Duration::from_secs(10)).await;
        until_reason(&disks, "n1.default", "Ready").await;
        let said = until_reason(&disks, "n1.default", "AgentSilent").await;
        assert!(said.contains("no agent on node n1 has been Ready for a minute"), "{said}");
    };
    ready("False").await;
    lasts().await;
    ready("True").await;
    until_reason(&disks, "n1.default", "Ready").await;
    pods.delete("agent", &DeleteParams::default().grace_period(0)).await.unwrap();
    lasts().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d4_o6_an_unreachable_node_loses_nothing() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let agent = Agent::start(&cluster, "n1", "256Mi").await;
    let disks: Api<NodeDisk> = cluster.all();
    until_reason(&disks, "n1.default", "Ready").await;
    cluster.apply_text(OBJECTS).await;
    served(&cluster).await;
    let claims = CLAIMS.split("---").next().unwrap();
    cluster.apply_text(claims).await;
    bound(&cluster, &CLAIMED[..1]).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let offers: Api<VolumeOffer> = cluster.within("team-b");
    let nodes: Api<Node> = cluster.all();
    // The offered volumes are the unclaimed exclusive one, and both shared ones, claimed or not.
    let offered = || async {
        let offer = offers.get_opt("ml.n1").await.unwrap()?;
        (offer.spec.volumes.len() == 3).then_some(())
    };
    until("all volumes are offered", offered).await;
    let ledgers = || async {
        let disk = disks.get("n1.default").await.unwrap().status.unwrap();
        let eng = cluster.all::<DiskReservation>().get("eng").await.unwrap().status.unwrap();
        (disk.reservations, disk.reserved, eng.volumes, eng.used)
    };
    let (before, backings) = (ledgers().await, agent.backings());
    for (what, why) in [("is not Ready", "node n1 is not Ready"), ("is not there", "there is no Node n1")] {
        if what == "is not Ready" {
            cluster.node("n1", false).await;
        } else {
            nodes.delete("n1", &DeleteParams::default()).await.unwrap();
        }
        let said = until_reason(&disks, "n1.default", "NodeUnreachable").await;
        assert_eq!(said, format!("{why}; its reservations and data stay"));
        until(&format!("the node {what}: no offer"), || async {
            offers.get_opt("ml.n1").await.unwrap().is_none().then_some(())
        })
        .await;
        for name in VOLUMES {
            let said = until_reason(&volumes, name, "NodeUnreachable").await;
            assert!(said.contains("the data stays on it"), "{said}");
        }
        // A new claim waits. A reservation could be served on another node, but waits in this cluster, too.
        let late = "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim,
            metadata: {name: late, namespace: team-b}, spec: {role: eng/ml, volume: data}}";
        cluster.apply_text(late).await;
        let said = until_reason(&cluster.within::<VolumeClaim>("team-b"), "late", "VolumeNotReady").await;
        assert!(said.contains(why), "{said}");
        cluster.quiet_for(Duration::from_secs(1)).await;
        assert_eq!((ledgers().await, agent.backings()), (before.clone(), backings.clone()));
        let held = volumes.get("data").await.unwrap().status.unwrap();
        assert_eq!((held.claims.len(), held.node_name.as_deref()), (1, Some("n1")));

        cluster.node("n1", true).await;
        until_reason(&disks, "n1.default", "Ready").await;
        served(&cluster).await;
        until("all volumes are offered again", offered).await;
        bound(&cluster, &[("team-a", "data"), ("team-b", "late")]).await;
        delete(&cluster.within::<VolumeClaim>("team-b"), &["late"]).await;
        assert_eq!((ledgers().await, agent.backings()), (before.clone(), backings.clone()));
    }
    all_goes(&cluster, &agent).await;
}
