//! A volume of which nearly all is taken says so, at few writes (M6): a real file system, filled through its mount.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use reservoir::api::condition::{self, NEARLY_FULL};
use reservoir::api::{SharedPersistentVolume, VolumeClaim};

use crate::plugin::{Shell, does, parsed};
use crate::support::{AGENT_AGENT, Cluster, Request, one_node, until, until_reason};

const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng}, spec: {role: eng, size: 256Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: eng, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: data},
 spec: {role: eng, size: 64Mi, shared: {}}}
";
const CLAIM: &str = "{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: data, namespace: team}, \
                     spec: {role: eng, volume: data}}";

/// Takes that share of the file system, in percent, and never less on the way.
fn fill(target: &Path, percent: u64) {
    let stat = rustix::fs::statvfs(target).unwrap();
    let file = File::options().create(true).append(true).open(target.join("filler")).unwrap();
    let bytes = stat.f_blocks * stat.f_frsize * percent / 100;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    file.set_len(bytes).unwrap();
}

/// Takes all inodes but a few.
fn fill_inodes(target: &Path) {
    let stat = rustix::fs::statvfs(target).unwrap();
    let many = target.join("many");
    std::fs::create_dir(&many).unwrap();
    (0..stat.f_ffree - 100).for_each(|i| drop(File::create(many.join(i.to_string())).unwrap()));
}

async fn message(cluster: &Cluster) -> Option<String> {
    let status = cluster.all::<SharedPersistentVolume>().get("data").await.unwrap().status.unwrap();
    condition::get(&status.conditions, NEARLY_FULL).map(|full| full.message.clone())
}

/// The agent's writes of the volume's status.
fn writes(cluster: &Cluster) -> usize {
    let of_status = |write: &&Request| {
        write.user_agent == AGENT_AGENT && write.what == "patch sharedpersistentvolumes status data"
    };
    cluster.our_writes().iter().filter(of_status).count()
}

/// M6, T2, T4.
#[tokio::test(flavor = "multi_thread")]
async fn m6_a_nearly_full_volume_says_so_until_space_is_free() {
    let (cluster, agent) = one_node("512Mi").await;
    cluster.apply_text(OBJECTS).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    until_reason(&volumes, "data", "Ready").await;
    cluster.apply_text(CLAIM).await;
    let claims: Api<VolumeClaim> = cluster.within("team");
    until_reason(&claims, "data", "Bound").await;
    let (claim, pod) = (claims.get("data").await.unwrap(), cluster.pod("team", "web", &["data"]).await);
    let target = agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    until("the pod is counted", || async {
        (volumes.get("data").await.unwrap().status?.user_count == 1).then_some(())
    })
    .await;
    assert_eq!(message(&cluster).await, None);

    let before = writes(&cluster);
    fill(&target, 95);
    let said = until("nearly all bytes are taken", || message(&cluster)).await;
    assert!(said.contains("90% of its bytes were taken, and it has not fallen to 80% since"), "{said}");
    assert_eq!(writes(&cluster), before + 1, "a write for the crossing");
    for (namespace, about) in [("default", "data"), ("team", "web")] {
        let events: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
        until(&format!("an event of {about}"), || async {
            let found = events.list(&Default::default()).await.unwrap();
            let is_it = |event: &&Event| {
                event.reason.as_deref() == Some("NearlyFull")
                    && event.involved_object.name.as_deref() == Some(about)
            };
            found.iter().find(is_it).map(drop)
        })
        .await;
    }
    let shell = Shell::new(&cluster).await;
    shell.run("kubectl patch pod web -n team --subresource=status --type=merge -p '{\"status\":{\"phase\":\"Running\"}}'");
    // People ask about the volume, the claim or the pod.
    let status = does(&cluster, "status");
    assert!(
        status.contains("SharedPersistentVolume data NearlyFull: 90% of its bytes were taken"),
        "{status}"
    );
    let enlarge = "kubectl reservoir resize spv/data 80Mi";
    for object in ["spv/data", "vclaim/data -n team", "pvc/data -n team", "pod/web -n team"] {
        let why = parsed(&cluster, &format!("why {object}"));
        assert!(why["next"][0].as_str().unwrap().starts_with(enlarge), "{why}");
        assert!(
            why.to_string().contains("90% of its bytes were taken, and it has not fallen to 80% since"),
            "{why}"
        );
    }
    let wide = shell.run("kubectl get spv data -o wide");
    assert!(wide.contains("NEARLY FULL") && wide.contains("True "), "{wide}");

    // Between the limits nothing is written.
    let before = writes(&cluster);
    fill(&target, 85);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(message(&cluster).await.is_some());
    assert_eq!(writes(&cluster), before, "between the limits");

    // The step leads on: the volume is larger, and enough of it is free. Nothing is mounted, as not every machine lets a
    // mounted ext4 grow.
    agent.unpublish(&claim, &pod).await.unwrap();
    shell.run(&format!("{enlarge} --wait"));
    until("enough is free", || async { message(&cluster).await.is_none().then_some(()) }).await;
    assert_eq!(parsed(&cluster, "why spv/data")["ready"], true);

    agent.publish(&cluster, &claim, &pod, false).await.unwrap();
    std::fs::remove_file(target.join("filler")).unwrap();
    fill_inodes(&target);
    let said = until("nearly all inodes are taken", || message(&cluster)).await;
    assert!(said.contains("90% of its inodes were taken, and it has not fallen to 80% since"), "{said}");
    std::fs::remove_dir_all(target.join("many")).unwrap();
    until("inodes are free", || async { message(&cluster).await.is_none().then_some(()) }).await;
    agent.unpublish(&claim, &pod).await.unwrap();
}
