//! Sealing of volumes: admission, waits, claims and the digest in the status (E1).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use reservoir::api::condition::{self, INTACT, READY, RESIZED, SEALED};
use reservoir::api::{SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim};
use serde_json::json;

use crate::kept::start;
use crate::plugin::{fails, program};
use crate::support::{Agent, Cluster, one_node, until, until_reason, until_said};

fn claim(name: &str, mode: &str) -> String {
    format!(
        "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
        spec: {{role: eng, volume: data, mode: {mode}}}}}"
    )
}

async fn status(cluster: &Cluster) -> SharedPersistentVolumeStatus {
    cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().status.unwrap()
}

/// A bound claim for writing, with a pod that has it mounted at the path.
async fn write_on(cluster: &Cluster, agent: &Agent) -> (VolumeClaim, Pod, PathBuf) {
    let claims: Api<VolumeClaim> = cluster.within("team");
    cluster.apply_text(&claim("w", "ReadWrite")).await;
    until_reason(&claims, "w", "Bound").await;
    let bound = claims.get("w").await.unwrap();
    let writer = cluster.pod("team", "writer", &["w"]).await;
    let target = agent.publish(cluster, &bound, &writer, false).await.unwrap();
    (bound, writer, target)
}

async fn events(cluster: &Cluster, reason: &str) -> usize {
    let events = Api::<Event>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
    events.iter().filter(|event| event.reason.as_deref() == Some(reason)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn e1_only_files_of_its_own_are_sealed() {
    let (cluster, _agent) = one_node("64Mi").await;
    for (rest, why) in [
        (
            "",
            "a volume that its node has not made has no files to seal (E1): leave sealed out, write the files",
        ),
        ("volumeMode: Block", "a raw device has no files to seal (E1): leave sealed out, or volumeMode"),
        (
            "adopt: {path: /srv/data}",
            "so it cannot be sealed (E1): copy its files into a volume without adopt",
        ),
    ] {
        let volume = format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {{name: no}},
            spec: {{role: eng, size: 32Mi, sealed: true, {rest}}}}}"
        );
        let refused = cluster.try_create(&volume).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    // It waits for a reservation.
    let waits = "{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: waits}, spec: {role: eng, size: 32Mi}}";
    cluster.apply_text(waits).await;
    let refused = cluster.change_volume("waits", json!({"sealed": true})).await.unwrap_err().to_string();
    assert!(refused.contains("a volume that its node has not made has no files to seal"), "{refused}");
    cluster.change_volume("waits", json!({"keepFor": "1h"})).await.unwrap();
}

/// C4, T2. The writer's pod is named, its claim reads afterwards, and new ReadWrite claims are refused.
#[tokio::test(flavor = "multi_thread")]
async fn e1_a_volume_is_sealed_after_its_last_writer() {
    let (cluster, agent) = start().await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    let (bound, writer, target) = write_on(&cluster, &agent).await;
    std::fs::write(target.join("weights"), "12345").unwrap();

    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    let message = until_said(&cluster, "data", SEALED, "HasWriters").await;
    assert!(message.contains("when this pod has ended: team/writer"), "{message}");
    std::fs::write(target.join("more"), "67").unwrap();
    cluster.apply_text(&claim("late", "ReadWrite")).await;
    let message = until_reason(&claims, "late", "VolumeSealed").await;
    assert_eq!(
        message,
        "volume data is being sealed, so nobody writes to it any more: claim it with mode ReadOnly"
    );
    cluster.apply_text(&claim("r", "ReadOnly")).await;
    until_reason(&claims, "r", "Bound").await;
    let second = cluster.pod("team", "second", &["w"]).await;
    let refused = agent.publish(&cluster, &bound, &second, false).await.unwrap_err();
    assert!(refused.message().contains("volume data is being sealed, so pods may only read it"), "{refused}");

    agent.unpublish(&bound, &writer).await.unwrap();
    let message = until_said(&cluster, "data", SEALED, "Sealed").await;
    let sealed = status(&cluster).await;
    let digest = sealed.digest.clone().unwrap();
    assert_eq!((sealed.files, sealed.bytes.unwrap().bytes()), (Some(2), Ok(7)));
    assert_eq!(message, format!("it has readers only, and 2 files of 7 bytes: {digest}"));
    until("the event", || async { (events(&cluster, "Sealed").await == 1).then_some(()) }).await;

    // The claim of before reads, without a word of it in the pod. Both are told.
    let target = agent.publish(&cluster, &bound, &second, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("more")).unwrap(), "67");
    let written = std::fs::write(target.join("never"), "").unwrap_err();
    assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let of_pods = Api::<Event>::namespaced(cluster.client.clone(), "team");
    let of_pods = || async {
        let events = of_pods.list(&Default::default()).await.unwrap();
        let mut of_pods = events
            .iter()
            .filter(|event| event.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some("second"));
        of_pods.any(|event| event.reason.as_deref() == Some("VolumeSealed")).then_some(())
    };
    until("the pod's event", of_pods).await;
    let said = until_reason(&claims, "w", "Bound").await;
    assert!(
        said.starts_with(
            "pods may read PersistentVolumeClaim w, and no new pod writes: volume data is sealed"
        ),
        "{said}"
    );

    let refused = cluster.change_volume("data", json!({"sealed": false})).await.unwrap_err();
    assert!(refused.contains("a sealed volume stays sealed (E1)"), "{refused}");
    cluster.change_volume("data", json!({"size": "48Mi"})).await.unwrap();
    let message = until_said(&cluster, "data", RESIZED, "SealedSize").await;
    assert!(message.contains("set spec.size back to 32Mi"), "{message}");
    cluster.change_volume("data", json!({"size": "32Mi"})).await.unwrap();
    until_said(&cluster, "data", RESIZED, "Resized").await;
    assert_eq!(status(&cluster).await.digest, Some(digest));
    assert_eq!(events(&cluster, "Sealed").await, 1);
    agent.unpublish(&bound, &second).await.unwrap();
}

/// A refusal names the file, and the request can be taken back.
#[tokio::test(flavor = "multi_thread")]
async fn e1_a_refused_seal_is_taken_back() {
    let (cluster, agent) = start().await;
    let (bound, writer, target) = write_on(&cluster, &agent).await;
    let program = target.join("program");
    std::fs::write(&program, "").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    agent.unpublish(&bound, &writer).await.unwrap();

    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    let message = until_said(&cluster, "data", SEALED, "SealRefused").await;
    assert_eq!(
        message,
        "program has a set-user-ID or set-group-ID bit, which no volume honours: remove it, or replace it; for that, set \
         spec.sealed back to false"
    );
    // A pod that comes meanwhile reads, and goes on to read. It is told so.
    let meanwhile = cluster.pod("team", "meanwhile", &["w"]).await;
    let reads = agent.publish(&cluster, &bound, &meanwhile, false).await.unwrap();
    cluster.change_volume("data", json!({"sealed": false})).await.unwrap();
    until("the event", || async { (events(&cluster, "SealWithdrawn").await == 1).then_some(()) }).await;
    assert!(std::fs::write(reads.join("never"), "").is_err());
    agent.unpublish(&bound, &meanwhile).await.unwrap();
    until("the condition goes", || async {
        condition::get(&status(&cluster).await.conditions, SEALED).is_none().then_some(())
    })
    .await;
    let target = agent.publish(&cluster, &bound, &writer, false).await.unwrap();
    std::fs::set_permissions(target.join("program"), PermissionsExt::from_mode(0o755)).unwrap();
    agent.unpublish(&bound, &writer).await.unwrap();
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    assert_eq!(status(&cluster).await.files, Some(1));
}

/// E4. A byte that changed by itself takes the volume off offer; its pods go on.
#[tokio::test(flavor = "multi_thread")]
async fn e4_a_sealed_volume_is_verified_on_request() {
    let (cluster, agent) = start().await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    let refused = cluster.change_volume("data", json!({"verify": "first"})).await.unwrap_err();
    assert!(
        refused.contains("only a sealed volume has a digest to compare its files with (E4)"),
        "{refused}"
    );
    let (bound, writer, target) = write_on(&cluster, &agent).await;
    for (name, digest) in [("wants-other", "0".repeat(64)), ("wants-none", "F".repeat(64))] {
        let claim = format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: {name}, namespace: team}},
             spec: {{role: eng, volume: data, mode: ReadOnly, digest: 'blake3:{digest}'}}}}"
        );
        assert_eq!(cluster.try_create(&claim).await.is_ok(), name == "wants-other");
    }
    let message = until_reason(&claims, "wants-other", "DigestDiffers").await;
    assert!(message.starts_with("volume data has no digest before it is sealed"), "{message}");
    let content = "all that is to be kept ".repeat(1000);
    std::fs::write(target.join("weights"), &content).unwrap();
    agent.unpublish(&bound, &writer).await.unwrap();
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    let digest = status(&cluster).await.digest.unwrap();
    until("the claim is told the digest", || async {
        let claim = claims.get("wants-other").await.unwrap();
        condition::get(&claim.status?.conditions, READY)
            .filter(|ready| ready.message.contains(&digest))
            .map(drop)
    })
    .await;
    cluster
        .apply_text(&format!(
            "{{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {{name: wants, namespace: team}},
             spec: {{role: eng, selector: {{}}, mode: ReadOnly, digest: '{digest}'}}}}"
        ))
        .await;
    until_reason(&claims, "wants", "Bound").await;
    cluster.quiet_for(std::time::Duration::from_secs(1)).await;

    cluster.change_volume("data", json!({"verify": "first"})).await.unwrap();
    let message = until_said(&cluster, "data", INTACT, "Verified").await;
    assert_eq!(message, "its 1 files were read again, and are what was sealed");
    until("the event", || async { (events(&cluster, "Verified").await == 1).then_some(()) }).await;

    agent.flip(&agent.backings()[0], content.as_bytes());
    let reader = cluster.pod("team", "reader", &["w"]).await;
    agent.publish(&cluster, &bound, &reader, true).await.unwrap();
    cluster.change_volume("data", json!({"verify": "second"})).await.unwrap();
    let message = until_said(&cluster, "data", INTACT, "CopyDiffers").await;
    assert!(
        message.starts_with("its files are not what was sealed: weights has other bytes; no new claim"),
        "{message}"
    );
    assert_eq!(until_said(&cluster, "data", READY, "CopyDiffers").await, message);
    let verified = status(&cluster).await.verified.unwrap();
    assert_eq!((verified.request.as_deref(), verified.differ), (Some("second"), 1));
    // One of the volume, and one of the pod that reads.
    until("the events", || async { (events(&cluster, "CopyDiffers").await == 2).then_some(()) }).await;
    let said = until("the claim is told", || async {
        let claim = claims.get("w").await.unwrap();
        let ready = condition::get(&claim.status?.conditions, READY)?.message.clone();
        ready
            .contains("volume data is not intact: its files are not what was sealed: weights")
            .then_some(ready)
    })
    .await;
    assert!(!said.contains("stay as they are"), "{said}");
    cluster.apply_text(&claim("late", "ReadOnly")).await;
    let message = until_reason(&claims, "late", "VolumeNotReady").await;
    assert!(message.contains("weights has other bytes"), "{message}");
    let second = cluster.pod("team", "second", &["w"]).await;
    agent.publish(&cluster, &bound, &second, true).await.unwrap();
    until("an event of the second pod", || async {
        (events(&cluster, "CopyDiffers").await == 3).then_some(())
    })
    .await;
    cluster.quiet_for(std::time::Duration::from_secs(1)).await;
}

/// E4. An agent with `agent.scrub` reads what nobody has read for an hour, and finds a byte that flipped.
#[tokio::test(flavor = "multi_thread")]
async fn e4_a_scrub_finds_a_byte_that_flipped() {
    let (cluster, mut agent) = start().await;
    let (bound, writer, target) = write_on(&cluster, &agent).await;
    let content = "all that is to be kept ".repeat(1000);
    std::fs::write(target.join("weights"), &content).unwrap();
    agent.unpublish(&bound, &writer).await.unwrap();
    cluster.change_volume("data", json!({"sealed": true})).await.unwrap();
    until_said(&cluster, "data", SEALED, "Sealed").await;
    agent.kill().await;
    let path = agent.dir.join("agent.yaml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{config}\nscrub: {{everyHours: 1, mebibytesPerSecond: 20}}\n")).unwrap();
    agent.run();
    cluster.quiet_for(std::time::Duration::from_secs(1)).await;
    assert_eq!(status(&cluster).await.verified, None, "it was sealed just now");

    // An hour passes, after which the agent looks by itself; one that starts looks at once.
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let long_ago = Patch::Merge(json!({"status": {"verified": {"at": "2020-01-01T00:00:00Z", "differ": 0}}}));
    let passes = async |agent: &mut Agent| {
        agent.kill().await;
        volumes.patch_status("data", &PatchParams::default(), &long_ago).await.unwrap();
        agent.run();
    };
    passes(&mut agent).await;
    until_said(&cluster, "data", INTACT, "Verified").await;
    let first = status(&cluster).await.verified.unwrap();
    assert_eq!((first.request.clone(), first.differ), (None, 0));
    agent.flip(&agent.backings()[0], content.as_bytes());
    agent.kill().await;
    agent.run();
    cluster.quiet_for(std::time::Duration::from_secs(1)).await;
    assert_eq!(status(&cluster).await.verified, Some(first), "not again within the hour");
    passes(&mut agent).await;
    let message = until_said(&cluster, "data", INTACT, "CopyDiffers").await;
    assert!(
        message.starts_with("its files are not what was sealed: weights has other bytes; no new claim"),
        "{message}"
    );
    assert_eq!(until_said(&cluster, "data", READY, "CopyDiffers").await, message);
}

/// The test is the Job's pod.
#[tokio::test(flavor = "multi_thread")]
async fn e6_a_volume_is_filled_by_a_job_and_sealed() {
    let (cluster, agent) = start().await;
    let (bound, writer, target) = write_on(&cluster, &agent).await;
    let fill = "fill w --from http://files.example/one --seal -n team";
    let refused = fails(&cluster, &format!("{fill} --as nobody"));
    assert!(
        refused.contains("volume data cannot be sealed: ") || refused.contains("rights do not allow"),
        "{refused}"
    );
    let refused = fails(&cluster, "fill ww --from http://files.example/one -n team");
    assert!(
        refused.contains("namespace team has no PersistentVolumeClaim ww; kubectl get pvc -n team lists"),
        "{refused}"
    );

    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), "team");
    let running = program(&cluster, fill).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the Job", || async { jobs.get_opt("fill-w").await.unwrap() }).await;
    let other = fails(&cluster, "fill w --from http://files.example/two -n team");
    assert!(
        other.contains("with another source, image or Secret: kubectl delete job/fill-w -n team"),
        "{other}"
    );
    std::fs::write(target.join("one"), "1").unwrap();
    agent.unpublish(&bound, &writer).await.unwrap();
    cluster.all::<SharedPersistentVolume>().get("data").await.map(|v| assert!(!v.spec.sealed)).unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "team");
    let of_job = ListParams::default().labels("job-name=fill-w");
    let pod = until("its pod", || async {
        pods.list(&of_job).await.unwrap().items.pop().and_then(|pod| pod.metadata.name)
    })
    .await;
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status(&pod, &PatchParams::default(), &ended).await.unwrap();
    let ended = tokio::task::spawn_blocking(|| running.wait_with_output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert!(ended.status.success(), "{out}{err}");
    assert_eq!(out, "job.batch/fill-w created\nsharedpersistentvolume.reservoir.dev/data is being sealed\n");
    assert!(
        err.contains("s  filled\n") && err.contains("s  Sealed: it has readers only, and 1 files"),
        "{err}"
    );
    let refused = fails(&cluster, fill);
    assert!(refused.contains("volume data is sealed, so it takes no more files"), "{refused}");
}
