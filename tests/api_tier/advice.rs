//! The advice of `kubectl reservoir why`, run as printed, leads to Ready (T4).

use std::process::Command;

use reservoir::api::NodeDisk;
use serde_json::Value;

use crate::plugin::{PLUGIN, does, parsed, run};
use crate::support::{Agent, Cluster, until, until_reason};

const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: solo}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: old, namespace: solo}, spec: {roles: [eng]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: taken, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: other, resources: {requests: {storage: 1Mi}}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: ops}, spec: {role: ops, quota: {limit: 64Mi}}}
";

/// T4: each row makes a mistake, gets the advice and follows it. The last column is the object that is Ready
/// afterwards, if it is another object, or `none`.
#[tokio::test(flavor = "multi_thread")]
async fn t4_advice_that_is_followed_leads_to_ready() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let _agent = Agent::start(&cluster, "n1", "512Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(OBJECTS).await;
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(PLUGIN, bin.path().join("kubectl-reservoir")).unwrap();
    let kubectl = tokio::task::spawn_blocking(reservoir_cluster::tools::kubectl).await.unwrap().unwrap();
    std::os::unix::fs::symlink(kubectl, bin.path().join("kubectl")).unwrap();
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());

    let table = [
        ("reserve eng --role eng --size 100Mi --disk n1.defalt", "dr/eng", "NoSuchDisk", ""),
        ("create data --role egn --size 32Mi", "spv/data", "NoReservation", ""),
        ("claim c --role eng --volume data -n team", "vclaim/c -n team", "NoSubscription", ""),
        ("claim c --role eng --volume data -n solo", "vclaim/c -n solo", "NoCapability", ""),
        ("claim d --role eng --volume dta --read-only -n team", "vclaim/d -n team", "NoSuchVolume", ""),
        (
            "claim taken --role eng --volume data -n team",
            "vclaim/taken -n team",
            "NameTaken",
            "vclaim/taken-shared -n team",
        ),
        ("subscribe lab -n team", "", "", ""),
        ("claim g --role lab --volume data -n team", "vclaim/g -n team", "RoleNotAllowed", ""),
        ("create wide --role eng --size 80Mi", "spv/wide", "ReservationFull", ""),
        ("reserve sub --role eng/ml --size 50Mi --parent egn", "dr/sub", "NoParent", "none"),
        ("", "dr/sub", "ParentFull", ""),
        ("reserve much --role ops --size 100Mi", "dr/much", "OverQuota", ""),
        ("reserve big --role lab --size 5Gi", "dr/big", "NotEnoughRoom", ""),
    ];
    for (mistake, object, reason, result) in table {
        if !mistake.is_empty() {
            does(&cluster, mistake);
        }
        if reason.is_empty() {
            continue;
        }
        let step = until(&format!("{object} is {reason}"), || async {
            let why: Value =
                serde_json::from_str(&run(&cluster, &format!("why {object} -o json")).out).ok()?;
            let told = why["because"].as_array()?.iter().any(|report| report["reason"] == reason);
            told.then(|| why["next"][0].as_str().unwrap().to_owned())
        })
        .await;
        let command = step.split("   #").next().unwrap();
        println!("$ {command}");
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", &path).env("KUBECONFIG", cluster.server.kubeconfig_path());
        let done = shell.output().unwrap();
        assert!(done.status.success(), "{step}: {}", String::from_utf8_lossy(&done.stderr));
        if result == "none" {
            continue;
        }
        let object = if result.is_empty() { object } else { result };
        until(&format!("{object} is ready after: {command}"), || async {
            (parsed(&cluster, &format!("why {object}"))["ready"] == true).then_some(())
        })
        .await;
    }
}
