//! A directory with data becomes a volume (V8), with a real agent.

use std::path::Path;

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use reservoir::api::condition::{self, BACKED};
use reservoir::api::{DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim};

use crate::plugin::does;
use crate::support::{Agent, Cluster, until, until_gone, until_reason};

const SUBSCRIPTION: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: RoleSubscription\nmetadata: {name: archive, namespace: team}\n\
     spec: {roles: [archive], capabilities: [SHARED_RESOURCES]}\n";

fn disks(root: &Path, allowed: &str) -> String {
    let disk = root.join("disk");
    format!("[{{name: default, path: {}, requireMount: false, systemReserved: 0{allowed}}}]", disk.display())
}

fn claim(name: &str, mode: &str) -> String {
    format!(
        "apiVersion: reservoir.dev/v1alpha1\nkind: VolumeClaim\nmetadata: {{name: {name}, namespace: team}}\n\
         spec: {{role: archive, volume: set1, mode: {mode}}}\n"
    )
}

fn volume(name: &str, more: &str) -> String {
    format!(
        "apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {{name: {name}}}\n\
         spec: {{role: archive, size: 64Mi, {more}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn v8_an_adopted_directory_outlives_its_volume() {
    let temp = tempfile::Builder::new().prefix("reservoir-test-").tempdir_in("/var/tmp").unwrap();
    let data = temp.path().join("data");
    std::fs::create_dir_all(data.join("set1")).unwrap();
    std::fs::write(data.join("set1/old"), "data").unwrap();
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start_with_disks(&cluster, "n1", &disks(temp.path(), "")).await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    let example =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/17-adopt.yaml"));
    cluster
        .apply_text(&example.unwrap().replace("path: /srv/data/", &format!("path: {}/", data.display())))
        .await;
    until_reason(&cluster.all::<DiskReservation>(), "archive", "Ready").await;

    // Adoption needs two fields of the agent's configuration: a root, and the permission for volumes without an
    // enforced size.
    let volumes = cluster.all::<SharedPersistentVolume>();
    let said = until_reason(&volumes, "set1", "WrongDisk").await;
    assert!(said.contains("to adoptRoots of the agent's disk"), "{said}");
    let mut allow = async |allowed: &str| {
        agent.kill().await;
        let text = format!("disks: {}", disks(temp.path(), allowed));
        std::fs::write(agent.dir.join("agent.yaml"), text).unwrap();
        agent.run();
    };
    let roots = format!(", adoptRoots: [{}]", data.display());
    allow(&roots).await;
    until("the other refusal", || async {
        let said = until_reason(&volumes, "set1", "WrongDisk").await;
        said.contains("set allowUnenforced on the agent's disk").then_some(())
    })
    .await;
    allow(&format!("{roots}, allowUnenforced: true")).await;
    let said = until_reason(&volumes, "set1", "Ready").await;
    assert!(said.ends_with("64Mi on node n1; its size is not enforced"), "{said}");
    let set1 = volumes.get("set1").await.unwrap();
    let backed = condition::get(&set1.status.as_ref().unwrap().conditions, BACKED).unwrap();
    assert!(backed.message.ends_with("set1 is adopted as it is; its size is not enforced"), "{backed:?}");

    // The API server refuses contradictory fields at once.
    for (more, said) in [
        ("adopt: {path: srv}", "a plain absolute path"),
        ("adopt: {path: /srv/../etc}", "a plain absolute path"),
        ("adopt: {path: /srv//a}", "a plain absolute path"),
        ("adopt: {path: /srv/}", "a plain absolute path"),
        (r#"adopt: {path: "/srv/a\nb"}"#, "no control character"),
        ("adopt: {path: /srv/a}, erasePolicy: Zero", "never overwritten"),
        ("adopt: {path: /srv/a}, volumeMode: Block", "no raw device"),
    ] {
        let error = cluster.try_apply(&volume("wrong", more)).await.unwrap_err().to_string();
        assert!(error.contains(said), "{more}: {error}");
    }
    for more in ["shared: {}, adopt: {path: /srv/a}", "shared: {}"] {
        let error = cluster.try_apply(&volume("set1", more)).await.unwrap_err().to_string();
        assert!(error.contains("the adopted directory of a volume cannot be changed"), "{more}: {error}");
    }
    let larger = format!("shared: {{}}, adopt: {{path: {}}}", data.join("set1").display());
    let larger = volume("set1", &larger).replace("64Mi", "65Mi");
    let error = cluster.try_apply(&larger).await.unwrap_err().to_string();
    assert!(error.contains("cannot be resized"), "{error}");
    // Another volume may not adopt a part of the directory. The node's message says so.
    std::fs::create_dir(data.join("set1/part")).unwrap();
    let part = format!("adopt: {{path: {}}}", data.join("set1/part").display());
    cluster.apply_text(&volume("part", &part)).await;
    let said = until_reason(&volumes, "part", "BackingFailed").await;
    assert!(said.contains("overlaps the directory that volume set1 adopted"), "{said}");
    let why = does(&cluster, "why spv/part");
    assert!(
        why.contains("next: kubectl delete spv/part   # the directory stays; then adopt another path"),
        "{why}"
    );
    volumes.delete("part", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "part").await;

    // Pods share the volume.
    cluster.apply_text(SUBSCRIPTION).await;
    until_reason(&cluster.within::<RoleSubscription>("team"), "archive", "Subscribed").await;
    let claims = cluster.within::<VolumeClaim>("team");
    let mut used = Vec::new();
    for (name, mode) in [("writer", "ReadWrite"), ("reader", "ReadOnly")] {
        cluster.apply_text(&claim(name, mode)).await;
        until_reason(&claims, name, "Bound").await;
        let pod = cluster.pod("team", name, &[name]).await;
        let claim = claims.get(name).await.unwrap();
        let target = agent.publish(&cluster, &claim, &pod, mode == "ReadOnly").await.unwrap();
        used.push((name, target, claim, pod));
    }
    let (writer, reader) = (&used[0].1, &used[1].1);
    assert_eq!(std::fs::read_to_string(reader.join("old")).unwrap(), "data");
    std::fs::write(writer.join("new"), "more").unwrap();
    assert_eq!(std::fs::read_to_string(data.join("set1/new")).unwrap(), "more");
    assert_eq!(std::fs::write(reader.join("no"), "").unwrap_err().raw_os_error(), Some(30), "EROFS");
    for (name, _, claim, pod) in &used {
        agent.unpublish(claim, pod).await.unwrap();
        cluster.end_pod("team", name).await;
        claims.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&claims, name).await;
    }

    // X4: the directory is kept, not erased, and the receipt says so.
    volumes.delete("set1", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "set1").await;
    for (name, text) in [("old", "data"), ("new", "more")] {
        assert_eq!(std::fs::read_to_string(data.join("set1").join(name)).unwrap(), text);
    }
    let reserved = cluster.all::<DiskReservation>().get("archive").await.unwrap().status.unwrap();
    assert!(reserved.volumes.is_empty(), "credited: {reserved:?}");
    let said = format!("it was adopted from {}; its data stays there", data.join("set1").display());
    let events: Api<Event> = Api::all(cluster.client.clone());
    until("the event", || async {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        all.iter().any(|e| e.message.as_ref().is_some_and(|m| m.ends_with(&said))).then_some(())
    })
    .await;
    assert_eq!(std::fs::read_dir(temp.path().join("disk/volumes")).unwrap().count(), 0);
}
