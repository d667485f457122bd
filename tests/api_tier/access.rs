//! The group, the permissions and the mount options of a volume, from its object to the node and to the kubelet (V11, V12),
//! and the containers that would pass by them (M3, S9).

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use reservoir::api::{RoleSubscription, SharedPersistentVolume, VolumeClaim};
use serde_json::{Value, json};

use crate::ask::{self, Ask};
use crate::support::{one_node, until, until_reason};

const MANIFESTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 128Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: grouped},
 spec: {role: eng, size: 32Mi, shared: {}, gid: 4321}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: narrow},
 spec: {role: eng, size: 32Mi, shared: {}, permissions: '0750', mountOptions: [noexec, noatime]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: grouped, namespace: team},
 spec: {role: eng, volume: grouped}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: narrow, namespace: team},
 spec: {role: eng, volume: narrow}}
";

/// V11, V12, M5. A step of the tour shows that the kubelet gives the group to pods.
#[tokio::test(flavor = "multi_thread")]
async fn v11_v12_group_and_mount_options_reach_the_mount() {
    let (cluster, mut agent) = one_node("256Mi").await;
    cluster.apply_text(MANIFESTS).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    for name in ["grouped", "narrow"] {
        until_reason(&volumes, name, "Ready").await;
    }
    until_reason(&cluster.within::<RoleSubscription>("team"), "eng", "Subscribed").await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    let mut targets = Vec::new();
    for (name, gid) in [("grouped", Some("4321")), ("narrow", None)] {
        until_reason(&claims, name, "Bound").await;
        let claim = claims.get(name).await.unwrap();
        let pv = claim.status.as_ref().unwrap().persistent_volume.clone().unwrap();
        let annotations = cluster.all::<PersistentVolume>().get(&pv).await.unwrap().metadata.annotations;
        let said = annotations.unwrap_or_default().get("pv.beta.kubernetes.io/gid").cloned();
        assert_eq!(said.as_deref(), gid, "{name}");
        let pod = cluster.pod("team", name, &[name]).await;
        targets.push((agent.publish(&cluster, &claim, &pod, false).await.unwrap(), claim, pod));
    }

    // V11: members of the group share files, whatever their user. Other users do not even enter.
    let grouped = &targets[0].0;
    let root = std::fs::metadata(grouped).unwrap();
    assert_eq!((root.gid(), root.permissions().mode() & 0o7777), (4321, 0o2770));
    let by = |uid: u32, gid: u32, script: &str| {
        let mut shell = Command::new("/bin/sh");
        let script = format!("umask 002; {script}");
        shell.args(["-c", &script]).current_dir("/").env("V", grouped).uid(uid).gid(gid);
        shell.output().unwrap()
    };
    // The parent directories are the test's own. The kubelet's directories are open to all.
    for parent in grouped.ancestors().skip(1).take_while(|path| path.starts_with(&agent.dir)) {
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    // A pod's main group is its own. The volume's group is an additional group, and a file's owner check treats both
    // alike.
    let done = by(1001, 4321, "echo one > $V/file && mkdir $V/dir");
    assert!(done.status.success(), "{done:?}");
    let done = by(1002, 4321, "echo two >> $V/file && echo three > $V/dir/other && cat $V/file");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "one\ntwo\n", "{done:?}");
    for (path, uid) in [("file", 1001), ("dir/other", 1002)] {
        let made = std::fs::metadata(grouped.join(path)).unwrap();
        assert_eq!((made.uid(), made.gid()), (uid, 4321), "{path}");
    }
    // Root with another main group: the directory's group wins.
    std::fs::write(grouped.join("roots"), "").unwrap();
    assert_eq!(std::fs::metadata(grouped.join("roots")).unwrap().gid(), 4321);
    assert!(!by(1003, 1003, "cat $V/file").status.success());

    // V12.
    let narrow = &targets[1].0;
    let root = std::fs::metadata(narrow).unwrap();
    assert_eq!((root.gid(), root.permissions().mode() & 0o7777), (0, 0o750));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(narrow.to_str().unwrap())).unwrap();
    let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
    for option in ["rw", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(options.contains(&option), "{option} is not among {options:?}");
    }
    let script = narrow.join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(&script, Some(0), Some(0)).unwrap();
    assert_eq!(Command::new(&script).status().unwrap_err().raw_os_error(), Some(13), "EACCES: noexec");

    // The group stays the volume's as long as the volume exists: the next agent neither removes nor changes it.
    for (_, claim, pod) in &targets {
        agent.unpublish(claim, pod).await.unwrap();
    }
    agent.kill().await;
    agent.run();
    let claim = &targets[0].1;
    let pod = cluster.pod("team", "again", &["grouped"]).await;
    let grouped =
        until("the next agent serves", || async { agent.publish(&cluster, claim, &pod, false).await.ok() })
            .await;
    let root = std::fs::metadata(&grouped).unwrap();
    assert_eq!((root.gid(), root.permissions().mode() & 0o7777), (4321, 0o2770));
    let file = std::fs::metadata(grouped.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1001, 4321));
    agent.unpublish(claim, &pod).await.unwrap();
}

/// M3, S9. The value admission.denySysAdminWithReadOnlyClaims: who may remount a volume for writing gets no ReadOnly claim.
#[tokio::test(flavor = "multi_thread")]
async fn m3_s9_no_sys_admin_beside_a_read_only_claim() {
    let cluster = ask::cluster().await;
    let policy =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/files/admission-sys-admin.yaml");
    let policy = std::fs::read_to_string(policy).unwrap().replace("RELEASE_NAMESPACE", "reservoir-system");
    cluster.apply_text(&policy).await;
    for (name, mode) in [("reader", "ReadOnly"), ("writer", "ReadWrite")] {
        let mut claim = ask::claim("eng", mode);
        claim["metadata"]["name"] = json!(name);
        Ask::create(&claim).of(&cluster.client).await.unwrap();
    }
    cluster.pod("team", "there", &["reader"]).await;
    let pods: Api<Pod> = cluster.within("team");
    let container =
        |name: &str, security: Value| json!({"name": name, "image": "none", "securityContext": security});
    let plain = || json!([container("c", json!({}))]);
    let adds = |capability: &str| json!([container("c", json!({"capabilities": {"add": [capability]}}))]);
    let privileged = |name: &str| json!([container(name, json!({"privileged": true}))]);
    let create = async |claim: &str, spec: Value| {
        let mut pod = json!({"metadata": {"name": "new"}, "spec": {"automountServiceAccountToken": false,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim, "readOnly": claim == "reader"}}]}});
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let dry = PostParams { dry_run: true, ..Default::default() };
        pods.create(&dry, &serde_json::from_value(pod).unwrap()).await.map_err(|e| e.to_string())
    };
    let bare = json!({"containers": privileged("c")});
    until("the policy is in force", || async { create("reader", bare.clone()).await.err() }).await;
    for (claim, spec, refused) in [
        ("reader", bare.clone(), Some("c")),
        ("reader", json!({"containers": adds("SYS_ADMIN")}), Some("c")),
        ("reader", json!({"containers": adds("cap_sys_admin")}), Some("c")),
        ("reader", json!({"containers": adds("ALL")}), Some("c")),
        ("reader", json!({"containers": plain(), "initContainers": privileged("first")}), Some("first")),
        ("reader", json!({"containers": plain()}), None),
        ("reader", json!({"containers": adds("NET_ADMIN")}), None),
        ("reader", json!({"containers": privileged("c"), "hostUsers": false}), None),
        ("writer", bare.clone(), None),
    ] {
        match (create(claim, spec.clone()).await, refused) {
            (Ok(_), None) => {}
            (Err(said), Some(name)) => {
                let sentence = format!(
                    "container {name} has CAP_SYS_ADMIN, with which it could write to VolumeClaim reader, which is \
                     ReadOnly: set spec.hostUsers: false in the pod"
                );
                assert!(said.contains(&sentence), "{said}");
            }
            (answer, _) => panic!("{claim} {spec}: {answer:?}"),
        }
    }

    // kubectl debug.
    let debug = async |containers: Value| {
        let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": containers}}));
        let answer = pods.patch_ephemeral_containers("there", &PatchParams::default(), &patch).await;
        answer.map_err(|e| e.to_string())
    };
    let said = debug(privileged("debugger")).await.unwrap_err();
    assert!(said.contains("container debugger has CAP_SYS_ADMIN"), "{said}");
    debug(json!([container("debugger", json!({}))])).await.unwrap();
}
