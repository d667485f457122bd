//! Pods that are older than their ReadOnly claim, on a node without NRI (M3, F2); processes that hold a volume (F3).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use reservoir::api::{NodeDisk, SharedPersistentVolume, VolumeClaim};
use serde_json::{Value, json};

use crate::kept::start;
use crate::support::{CONTROLLER_USER, Cluster, until, until_gone, until_reason};

fn claim(name: &str, mode: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
        spec: {{role: eng, volume: data, mode: {mode}}}}}"
    )
}

/// The spec of a pod of node n1 that uses the claim r.
fn pod_spec() -> Value {
    json!({"nodeName": "n1", "restartPolicy": "Always", "containers": [{"name": "c", "image": "none"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "r"}}],
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0})
}

/// Two pods of a ReplicaSet, one of a Job, and one of nobody.
async fn make_pods(cluster: &Cluster) -> Vec<Pod> {
    let template = json!({"metadata": {"labels": {"app": "rs"}}, "spec": pod_spec()});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs", "namespace": "team"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "rs"}}, "template": template}});
    let mut template = json!({"spec": pod_spec()});
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": "team"},
        "spec": {"backoffLimit": 0, "template": template}});
    let bare = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": "team"},
        "spec": pod_spec()});
    for object in [set, job, bare] {
        let text = serde_json::to_string(&object).unwrap();
        until("the default service account", || async { cluster.try_apply(&text).await.ok() }).await;
    }
    let pods: Api<Pod> = cluster.within("team");
    until("all pods", || async {
        let all = pods.list(&Default::default()).await.unwrap().items;
        (all.len() == 4).then_some(all)
    })
    .await
}

async fn notes(cluster: &Cluster, reason: &str, about: &str) -> Vec<String> {
    let events = Api::<Event>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
    let is = |e: &Event| {
        e.reason.as_deref() == Some(reason)
            && e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(about)
    };
    events.into_iter().filter(is).filter_map(|event| event.note).collect()
}

/// F2, M3.
#[tokio::test(flavor = "multi_thread")]
async fn f2_a_pod_older_than_its_read_only_claim_is_replaced() {
    let (cluster, agent) = start().await;
    let policy =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/reservoir/files/admission-replace-pods.yaml");
    let policy = std::fs::read_to_string(policy).unwrap().replace("CONTROLLER_USER", CONTROLLER_USER);
    cluster.apply_text(&policy).await;
    let older = make_pods(&cluster).await;
    let of_set: Vec<String> =
        older.iter().map(|pod| pod.name_any()).filter(|name| name.starts_with("rs-")).collect();
    let of_job = older.iter().map(|pod| pod.name_any()).find(|name| name.starts_with("job-")).unwrap();
    let [owned, started] = &of_set[..] else { panic!("{of_set:?}") };
    let pods: Api<Pod> = cluster.within("team");
    let ran = json!({"status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"terminated": {"exitCode": 1}}}]}});
    pods.patch_status(started, &PatchParams::default(), &Patch::Strategic(ran)).await.unwrap();
    cluster.apply_text(&claim("r", "ReadOnly")).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "r", "Bound").await;
    let reader = claims.get("r").await.unwrap();
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    // The kubelet tries again and again. A restart of the runtime is waited for.
    until("all refused pods are in the status", || async {
        for pod in &older {
            let refused = agent.publish(&cluster, &reader, pod, false).await.unwrap_err();
            assert!(refused.message().contains("without readOnly: true"), "{refused}");
        }
        let node = volumes.get("data").await.unwrap().status?.node?;
        (node.refused_readers.len() == older.len()).then_some(())
    })
    .await;
    until_gone(&pods, owned).await;
    let said = until("the event", || async { notes(&cluster, "Replaced", owned).await.pop() }).await;
    assert!(said.contains("ReplicaSet rs makes it again"), "{said}");
    let next = until("the ReplicaSet makes a pod that says what it does", || async {
        let all = pods.list(&Default::default()).await.unwrap().items;
        all.into_iter().find(|pod| pod.name_any().starts_with("rs-") && !of_set.contains(&pod.name_any()))
    })
    .await;
    let source =
        next.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].persistent_volume_claim.as_ref().unwrap();
    assert_eq!(source.read_only, Some(true));
    cluster.quiet_for(Duration::from_secs(3)).await;
    for name in [started, &of_job, "bare"] {
        let uid = pods.get(name).await.unwrap().uid();
        assert!(older.iter().any(|pod| pod.uid() == uid), "{name}");
    }

    // The policy alone, for a controller that has lost its mind.
    let options = kube::config::KubeConfigOptions::default();
    let config =
        kube::Config::from_custom_kubeconfig(cluster.controller_kubeconfig(), &options).await.unwrap();
    let controller: Api<Pod> = Api::namespaced(Client::try_from(config).unwrap(), "team");
    for (name, why) in [
        (started.as_str(), "has run"),
        (of_job.as_str(), "no ReplicaSet, StatefulSet, DaemonSet or ReplicationController makes pod"),
        ("bare", "makes pod bare again"),
        (next.name_any().as_str(), "waits for no claim without readOnly"),
    ] {
        let refused = controller.delete(name, &DeleteParams::default()).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    pods.delete("bare", &DeleteParams::default()).await.unwrap();
    until("the doctor can tell", || async {
        let disk = cluster.all::<NodeDisk>().get("n1.default").await.unwrap();
        (disk.status.unwrap().keeps_read_only == Some(false)).then_some(())
    })
    .await;
}

/// Makes the exclusive volume `own` with the bound claim `c`.
async fn claim_exclusive(cluster: &Cluster) -> VolumeClaim {
    let exclusive =
        "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: own},
        spec: {role: eng, size: 32Mi}}";
    cluster.apply_text(exclusive).await;
    cluster.apply_text(&claim("c", "ReadWrite").replace("volume: data", "volume: own")).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "c", "Bound").await;
    claims.get("c").await.unwrap()
}

/// M2. A pod without a node reaches no agent that could tell it.
#[tokio::test(flavor = "multi_thread")]
async fn m2_a_pod_that_waits_for_another_is_told_which() {
    let (cluster, _agent) = start().await;
    claim_exclusive(&cluster).await;
    cluster.pod("team", "holds", &["c"]).await;
    cluster.pod("team", "waits", &["c"]).await;
    let pods: Api<Pod> = cluster.within("team");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "holds"}, "target": {"kind": "Node", "name": "n1"}});
    pods.create_subresource::<_, serde_json::Value>("binding", "holds", &Default::default(), &binding)
        .await
        .unwrap();
    let said = until("the event", || async { notes(&cluster, "VolumeHeld", "waits").await.pop() }).await;
    assert!(said.contains("volume own is for one pod at a time, and pod holds uses it"), "{said}");
    assert_eq!(notes(&cluster, "VolumeHeld", "holds").await, [""; 0]);
}

/// F3, C6.
#[tokio::test(flavor = "multi_thread")]
async fn f3_a_process_that_holds_a_volume_is_named_to_administrators() {
    let (cluster, agent) = start().await;
    let bound = claim_exclusive(&cluster).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    let user = cluster.pod("team", "p", &["c"]).await;
    let target = agent.publish(&cluster, &bound, &user, false).await.unwrap();
    let mut sleep = Command::new("sleep").arg("300").current_dir(&target).spawn().unwrap();
    let process = format!("process {} (sleep)", sleep.id());

    // The kubelet tries again, and the second refusal is told: on the volume all, on the pod not what is not its own.
    for _ in 0..2 {
        assert!(agent.unpublish(&bound, &user).await.is_err());
    }
    let said =
        until("the volume's event", || async { notes(&cluster, "MountHeld", "own").await.pop() }).await;
    assert!(said.contains(&format!("mount for pod team/p, which is held by {process}")), "{said}");
    let said = until("the pod's event", || async { notes(&cluster, "MountHeld", "p").await.pop() }).await;
    assert!(said.contains("outside of the namespace's pods") && !said.contains("sleep"), "{said}");

    // The mount is taken away by force, and the process stays.
    assert!(Command::new("umount").arg("-l").arg(&target).status().unwrap().success());
    agent.unpublish(&bound, &user).await.unwrap();
    cluster.end_pod("team", "p").await;
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    let said = until_reason(&claims, "c", "InUse").await;
    assert!(said.contains("in use by a process outside") && said.contains("volume own"), "{said}");
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let node = volumes.get("own").await.unwrap().status.unwrap().node.unwrap();
    assert_eq!((node.held_by[0].pid, &*node.held_by[0].command), (sleep.id(), "sleep"));
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    until_gone(&claims, "c").await;
    until("the report is taken back", || async {
        volumes.get("own").await.unwrap().status?.node?.held_by.is_empty().then_some(())
    })
    .await;
}
