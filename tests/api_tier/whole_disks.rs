//! Undivided disks (D2), with a real agent on a real file system of its own.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::DeleteParams;
use reservoir::api::{DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim};
use rustix::mount::UnmountFlags;

use crate::support::{Agent, Cluster, until, until_gone, until_reason};

/// An ext4 in a file, mounted.
struct FileSystem {
    path: PathBuf,
    _temp: tempfile::TempDir,
}

impl FileSystem {
    fn new(bytes: u64) -> Self {
        let temp = tempfile::Builder::new().prefix("reservoir-test-").tempdir_in("/var/tmp").unwrap();
        let (path, image) = (temp.path().join("mnt"), temp.path().join("image"));
        std::fs::create_dir(&path).unwrap();
        File::create(&image).unwrap().set_len(bytes).unwrap();
        assert!(Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap().success());
        assert!(
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path).status().unwrap().success()
        );
        Self { path, _temp: temp }
    }

    fn data(&self, volume: &SharedPersistentVolume) -> PathBuf {
        self.path.join("volumes").join(volume.metadata.uid.as_ref().unwrap()).join("data")
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

fn reservation(name: &str, size: &str) -> String {
    format!(
        "apiVersion: reservoir.dev/v1alpha1\nkind: DiskReservation\nmetadata: {{name: {name}}}\n\
         spec: {{role: eng, size: {size}}}\n"
    )
}

fn volume(name: &str, more: &str) -> String {
    format!(
        "apiVersion: reservoir.dev/v1alpha1\nkind: SharedPersistentVolume\nmetadata: {{name: {name}}}\n\
         spec: {{role: eng, size: 64Mi, shared: {{}}{more}}}\n"
    )
}

const SUBSCRIPTION: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n---\n\
     apiVersion: reservoir.dev/v1alpha1\nkind: RoleSubscription\nmetadata: {name: eng, namespace: team}\n\
     spec: {roles: [eng, analytics], capabilities: [SHARED_RESOURCES]}\n";

fn claim(name: &str, volume: &str) -> String {
    format!(
        "apiVersion: reservoir.dev/v1alpha1\nkind: VolumeClaim\nmetadata: {{name: {name}, namespace: team}}\n\
         spec: {{role: eng, volume: {volume}}}\n"
    )
}

fn bytes_used(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_mount_disk_is_handed_out_whole() {
    let file_system = FileSystem::new(400 << 20);
    let before = bytes_used(&file_system.path);
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let disk = format!("[{{name: ssd, kind: Mount, path: {}}}]", file_system.path.display());
    let agent = Agent::start_with_disks(&cluster, "n1", &disk).await;
    let disks = cluster.all::<NodeDisk>();
    until_reason(&disks, "n1.ssd", "Ready").await;
    let status = disks.get("n1.ssd").await.unwrap().status.unwrap();
    let whole = status.allocatable.unwrap();
    assert_eq!(Some(&whole), status.capacity.as_ref(), "nothing is held back");

    // The first reservation gets the whole disk, whatever its size, and the second one gets nothing.
    let reservations = cluster.all::<DiskReservation>();
    cluster.apply_text(&reservation("first", "100Mi")).await;
    until_reason(&reservations, "first", "Ready").await;
    let first = reservations.get("first").await.unwrap().status.unwrap();
    assert_eq!(first.size.as_ref(), Some(&whole));
    cluster.apply_text(&reservation("second", "1Mi")).await;
    let said = until_reason(&reservations, "second", "NotEnoughRoom").await;
    assert_eq!(said, "1Mi asked for: n1.ssd is handed out whole and taken; it is served when space is free");
    reservations.delete("second", &DeleteParams::default()).await.unwrap();

    // A volume that the disk cannot make is refused before any work.
    let volumes = cluster.all::<SharedPersistentVolume>();
    cluster.apply_text(&volume("zeroed", ", erasePolicy: Zero")).await;
    let said = until_reason(&volumes, "zeroed", "WrongDisk").await;
    assert!(said.contains("set erasePolicy to Discard"), "{said}");
    volumes.delete("zeroed", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "zeroed").await;

    // The same holds for volumes: one gets the whole disk.
    cluster.apply_text(&volume("data", "")).await;
    until_reason(&volumes, "data", "Ready").await;
    let data = volumes.get("data").await.unwrap();
    assert_eq!(data.status.as_ref().unwrap().size.as_ref(), Some(&whole));
    cluster.apply_text(&volume("more", "")).await;
    let said = until_reason(&volumes, "more", "ReservationFull").await;
    assert!(said.contains("first has 0 left"), "{said}");
    volumes.delete("more", &DeleteParams::default()).await.unwrap();

    // The volume is shared like any other.
    cluster.apply_text(SUBSCRIPTION).await;
    until_reason(&cluster.within::<RoleSubscription>("team"), "eng", "Subscribed").await;
    let claims = cluster.within::<VolumeClaim>("team");
    let mut targets = Vec::new();
    for name in ["a", "b"] {
        cluster.apply_text(&claim(name, "data")).await;
        until_reason(&claims, name, "Bound").await;
        let pod = cluster.pod("team", name, &[name]).await;
        let claim = claims.get(name).await.unwrap();
        targets.push((agent.publish(&cluster, &claim, &pod, false).await.unwrap(), claim, pod));
    }
    let (one, other) = (&targets[0].0, &targets[1].0);
    std::fs::write(one.join("file"), vec![7; 100 << 20]).unwrap();
    assert_eq!(std::fs::metadata(other.join("file")).unwrap().len(), 100 << 20);
    let full = std::fs::write(other.join("fill"), vec![7; 400 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(28), "V5: ENOSPC");
    for (i, (_, claim, pod)) in targets.iter().enumerate() {
        agent.unpublish(claim, pod).await.unwrap();
        cluster.end_pod("team", ["a", "b"][i]).await;
        claims.delete(["a", "b"][i], &DeleteParams::default()).await.unwrap();
        until_gone(&claims, ["a", "b"][i]).await;
    }

    // X3, X4: the bytes are gone, and then the whole disk is free again.
    let place = file_system.data(&data);
    assert!(place.join("file").exists());
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "data").await;
    assert!(!place.exists());
    let after = bytes_used(&file_system.path);
    assert!(after < before + (1 << 20), "{after} bytes are used, {before} were before");
    reservations.delete("first", &DeleteParams::default()).await.unwrap();
    until_gone(&reservations, "first").await;
    until("the disk is free", || async {
        (disks.get("n1.ssd").await.unwrap().status.unwrap().free.as_ref() == Some(&whole)).then_some(())
    })
    .await;
}

/// A loop device in the place of a raw device.
struct Device {
    path: String,
    image: PathBuf,
    state: PathBuf,
    _temp: tempfile::TempDir,
}

impl Device {
    fn new(bytes: u64) -> Self {
        let temp = tempfile::Builder::new().prefix("reservoir-test-").tempdir_in("/var/tmp").unwrap();
        let (image, state) = (temp.path().join("image"), temp.path().join("state"));
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let output = Command::new("losetup").args(["-f", "--show"]).arg(&image).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let path = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Self { path, image, state, _temp: temp }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_block_disk_is_a_raw_device_in_a_pod() {
    let device = Device::new(64 << 20);
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let disks =
        format!("[{{name: raw, kind: Block, path: {}}}]\nstateDir: {}", device.path, device.state.display());
    let agent = Agent::start_with_disks(&cluster, "n1", &disks).await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.raw", "Ready").await;
    cluster.example("16-whole-disks.yaml").await;
    let reservations = cluster.all::<DiskReservation>();
    until_reason(&reservations, "analytics-device", "Ready").await;
    let reserved = reservations.get("analytics-device").await.unwrap();
    assert_eq!(reserved.status.unwrap().size.unwrap().to_string(), "64Mi");
    let volumes = cluster.all::<SharedPersistentVolume>();
    until_reason(&volumes, "index", "Ready").await;
    cluster.apply_text(SUBSCRIPTION).await;
    until_reason(&cluster.within::<RoleSubscription>("team"), "eng", "Subscribed").await;
    let claims = cluster.within::<VolumeClaim>("team");
    let claim = |name: &str| claim(name, "index").replace("role: eng", "role: analytics");
    cluster.apply_text(&claim("reader").replace("spec: {", "spec: {mode: ReadOnly, ")).await;
    let said = until_reason(&claims, "reader", "AlwaysWritable").await;
    assert!(said.contains("claim it with mode ReadWrite"), "{said}");
    cluster.apply_text(&claim("writer")).await;
    until_reason(&claims, "writer", "Bound").await;
    let bound = claims.get("writer").await.unwrap();
    let pvcs = cluster.within::<PersistentVolumeClaim>("team");
    assert_eq!(pvcs.get("writer").await.unwrap().spec.unwrap().volume_mode.as_deref(), Some("Block"));
    let pod = cluster.pod("team", "writer", &["writer"]).await;
    let target = agent.publish(&cluster, &bound, &pod, false).await.unwrap();
    assert!(std::fs::metadata(&target).unwrap().file_type().is_block_device());
    let mut node = File::options().write(true).open(&target).unwrap();
    node.write_all(b"a pod's own format").unwrap();
    node.sync_all().unwrap();
    drop(node);
    assert!(std::fs::read(&device.image).unwrap().starts_with(b"a pod's own format"));
    agent.unpublish(&bound, &pod).await.unwrap();
    assert!(!target.exists());
    cluster.end_pod("team", "writer").await;
    for name in ["reader", "writer"] {
        claims.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&claims, name).await;
    }
    volumes.delete("index", &DeleteParams::default()).await.unwrap();
    until_gone(&volumes, "index").await;
    assert!(std::fs::read(&device.image).unwrap().iter().all(|&byte| byte == 0), "X4, S17");
}
