//! Volumes that are logical volumes. The tests need a kernel with device-mapper: `make test-qemu` runs them.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reservoir::host::{
    BackingKind, DiskConfig, Enforcement, ErasePolicy, Error, Host, HostConfig, State, VolumeSpec,
};
use serde_json::{Value, json};

use crate::assert_error;
use crate::support::*;

/// Bytes of the group including its records; the rest is for volumes.
const SIZE: u64 = 1600 * MIB;

/// The environment variable with the group of a killed agent.
const GROUP: &str = "RESERVOIR_TEST_GROUP";

/// False, with a message, without device-mapper in the kernel. In the guest, device-mapper is required.
pub(crate) fn has_device_mapper() -> bool {
    if std::fs::read_to_string("/proc/devices").unwrap().contains("device-mapper") {
        return true;
    }
    assert!(std::env::var_os("RESERVOIR_TEST_GUEST").is_none(), "the guest has device-mapper");
    println!("this kernel has no device-mapper: `make test-qemu` runs this test on one that has");
    false
}

/// An unused name of a volume group.
pub(crate) fn new_group() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Deactivates and removes a volume group, if it exists.
pub(crate) fn remove_group(name: &str) {
    for command in [&["vgchange", "--activate", "n"][..], &["vgremove", "--force", "--force", "--yes"]] {
        let _ = Command::new("lvm").args(command).args(["--config", CONFIG]).arg(name).output();
    }
}

/// A volume group on a file.
struct Group<'a> {
    node: &'a Node,
    name: String,
    loop_device: String,
}

impl<'a> Group<'a> {
    /// `None` without device-mapper.
    fn new(node: &'a Node) -> Option<Self> {
        if !has_device_mapper() {
            return None;
        }
        let image = node.dir().join("pv");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let loop_device = attach_by_hand(&image);
        let group = Self { node, name: new_group(), loop_device };
        lvm(&["vgcreate", &group.name, &format!("/dev/{}", group.loop_device)]);
        Some(group)
    }

    fn config(&self) -> HostConfig {
        config(self.node, &self.name)
    }

    fn host(&self) -> Host {
        let host = Host::open(self.config()).unwrap();
        assert_eq!(host.disks()[0].error, None);
        host
    }

    fn error(&self) -> String {
        Host::open(self.config()).unwrap().disks()[0].error.clone().unwrap()
    }

    fn of(&self, lv: &str) -> String {
        format!("{}/{lv}", self.name)
    }

    fn names(&self) -> Vec<String> {
        let said = lvm(&["lvs", "--noheadings", "--options", "lv_name", &self.name]);
        let mut names: Vec<String> = said.lines().map(|line| line.trim().to_owned()).collect();
        names.sort();
        names
    }

    /// Makes a foreign logical volume.
    fn make(&self, lv: &str, extents: &str) -> PathBuf {
        lvm(&["lvcreate", "--yes", "--extents", extents, "--name", lv, &self.name]);
        PathBuf::from(format!("/dev/{}/{lv}", self.name))
    }

    /// Fills the free extents with old content.
    fn soil(&self) {
        let path = self.make("soil", "100%FREE");
        let file = File::options().write(true).open(path).unwrap();
        let bytes = vec![0xa5; MIB as usize];
        let mut offset = 0;
        while file.write_all_at(&bytes, offset).is_ok() {
            offset += MIB;
        }
        file.sync_all().unwrap();
        assert!(offset > SIZE / 4);
        drop(file);
        lvm(&["lvremove", "--yes", &self.of("soil")]);
    }

    /// True if these bytes are somewhere on the devices of the group.
    fn holds(&self, text: &[u8]) -> bool {
        let file = File::open(format!("/dev/{}", self.loop_device)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let (mut bytes, mut offset) = (vec![0; 4 << 20], 0);
        while offset < SIZE {
            let read = file.read_at(&mut bytes, offset).unwrap();
            if memchr(&bytes[..read], text) {
                return true;
            }
            offset += (read as u64).max(1);
        }
        false
    }

    /// The record of volume `i`, by a mount of the logical volume with the records.
    fn in_journals<T>(&self, i: u32, edit: impl FnOnce(&Path) -> T) -> T {
        let at = self.node.dir().join("journals");
        std::fs::create_dir_all(&at).unwrap();
        let device = format!("/dev/{}/reservoir", self.name);
        assert!(Command::new("mount").arg(device).arg(&at).status().unwrap().success());
        let result = edit(&at.join("volumes").join(uid(i).as_str()));
        assert!(Command::new("umount").arg(&at).status().unwrap().success());
        result
    }

    fn note(&self, i: u32) -> Value {
        self.in_journals(i, |volume| {
            serde_json::from_slice(&std::fs::read(volume.join("logical-volumes.json")).unwrap()).unwrap()
        })
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        remove_group(&self.name);
        let _ = Command::new("losetup").args(["-d", &format!("/dev/{}", self.loop_device)]).status();
    }
}

/// The guest has no udev.
const CONFIG: &str = "backup{backup=0 archive=0} activation{udev_sync=0 udev_rules=0 monitoring=0} \
                      devices{hints=\"none\" obtain_device_list_from_udev=0}";

pub(crate) fn lvm(arguments: &[&str]) -> String {
    let output = Command::new("lvm").args(arguments).args(["--config", CONFIG]).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn memchr(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn config(node: &Node, group: &str) -> HostConfig {
    let disk = node.disk_config("l", format!("/dev/{group}").into());
    HostConfig { disks: vec![DiskConfig { backing: BackingKind::Lvm, ..disk }], ..node.config() }
}

fn on_a_group(test: impl FnOnce(&Group<'_>) + Send + 'static) {
    on_a_node(|node| {
        if let Some(group) = Group::new(node) {
            test(&group);
        }
    });
}

fn lv(i: u32) -> String {
    format!("reservoir-{}", uid(i))
}

/// Fills a mounted filesystem until the kernel refuses; returns the bytes written.
fn fill(mount: &Path) -> u64 {
    let file = File::create(mount.join("fill")).unwrap();
    let (chunk, mut offset) = (vec![7; 1 << 18], 0);
    let error = loop {
        match file.write_at(&chunk, offset) {
            Ok(written) => offset += written as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    offset
}

/// V5, D1, D5, M3, M6, V12, S17.
#[test]
fn v5_d5_a_logical_volume_has_its_bytes_and_its_limit() {
    on_a_group(|group| {
        let theirs = group.make("theirs", "10");
        std::fs::write(&theirs, "not ours").unwrap();
        group.soil();
        let (host, node) = (group.host(), group.node);
        let before = host.disks()[0].clone();
        assert_eq!(before.enforcement, Some(Enforcement::Proven("ENOSPC")));
        // Foreign logical volumes, and the records, are not part of the capacity.
        assert!((SIZE - 180 * MIB..SIZE - 168 * MIB).contains(&before.capacity), "{before:?}");
        assert_eq!(before.free, before.capacity);
        let (ext4, xfs) = (VolumeSpec { size_bytes: 33 * MIB + 4096, ..ext4(1) }, xfs(9_101));
        let volumes = [(1, ext4.clone()), (9_101, xfs)];
        for (i, spec) in volumes.clone() {
            host.create("l", &spec).unwrap();
            host.create("l", &spec).unwrap();
            host.publish(&node.request(&uid(i), "w", i, false)).unwrap();
            host.publish(&node.request(&uid(i), "w", i, false)).unwrap();
        }
        assert_eq!(group.names(), ["reservoir", &lv(1), &lv(9_101), "theirs"]);
        let after = host.disks()[0].clone();
        // Volumes take whole extents.
        assert_eq!((after.capacity, after.free), (before.capacity, before.free - (36 + 304) * MIB));
        host.publish(&node.request(&uid(1), "r", 0, true)).unwrap();
        write(&node.target("w", 1), "f", "hello");
        assert_eq!(read(&node.target("r", 0), "f"), "hello");
        assert!(std::fs::write(node.target("r", 0).join("g"), "").is_err());
        node.assert_locked(&node.target("r", 0));
        assert!(node.mounts().iter().all(|(_, options)| options.contains("nosuid,nodev")));
        for (i, spec) in &volumes {
            let usage = host.usage(&uid(*i)).unwrap();
            assert!(usage.total_bytes <= spec.size_bytes, "{usage:?}");
            let filled = fill(&node.target("w", *i));
            assert!((spec.size_bytes / 2..spec.size_bytes).contains(&filled), "{filled}");
        }
        assert_eq!(host.disks()[0].free, after.free, "what is written was there before");
        let large = VolumeSpec { uid: uid(3), size_bytes: 2 * SIZE, ..ext4 };
        assert_error!(host.create("l", &large), Error::NoSpace { .. });
        assert_eq!(host.volumes().len(), 2);
        assert_eq!(group.names().len(), 4);
        for (pod, i) in [("w", 1), ("w", 9_101), ("r", 0)] {
            host.unpublish(&node.target(pod, i)).unwrap();
        }
        for i in [1, 9_101] {
            host.fence(&uid(i)).unwrap();
            host.erase(&uid(i), ErasePolicy::Discard).unwrap();
        }
        assert_eq!(group.names(), ["reservoir", "theirs"]);
        assert_eq!(host.disks()[0].free, before.free);
        assert!(std::fs::read(&theirs).unwrap().starts_with(b"not ours"));
        node.assert_no_mounts();
    });
}

/// X3, X4.
#[test]
fn x3_x4_an_unused_logical_volume_is_erased() {
    on_a_group(|group| {
        let (host, node) = (group.host(), group.node);
        for (i, policy) in [(1, ErasePolicy::Discard), (2, ErasePolicy::Zero)] {
            let secret = format!("the secret of volume {i}").into_bytes();
            host.create("l", &ext4(i)).unwrap();
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
            let target = node.target("p", i);
            std::fs::write(target.join("f"), &secret).unwrap();
            let elsewhere = Elsewhere::new(node, &target);
            host.unpublish(&target).unwrap();
            assert!(host.fence(&uid(i)).unwrap().in_use);
            assert_error!(host.erase(&uid(i), policy), Error::Busy { .. });
            assert!(group.holds(&secret), "nothing was erased");
            drop(elsewhere);
            eventually("it stays in use", || !host.fence(&uid(i)).unwrap().in_use);
            let receipt = host.erase(&uid(i), policy).unwrap();
            assert_eq!(receipt.bytes, ext4(i).size_bytes);
            assert_eq!(host.erase(&uid(i), policy).unwrap().bytes, receipt.bytes);
            assert!(!group.holds(&secret), "{policy:?}");
        }
        assert_eq!(group.names(), ["reservoir"]);
    });
}

/// X4. The erase includes replaced images, and images of a killed agent.
#[test]
fn x4_a_smaller_volume_leaves_nothing_of_the_larger_one() {
    on_a_group(|group| {
        let (host, node) = (group.host(), group.node);
        let mut secret = b"the secret of a volume".to_vec();
        secret.resize(4096, 0);
        let count = |path: &str| {
            let file = File::open(path).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let (mut bytes, mut offset, mut found) = (vec![0; 4 << 20], 0, 0);
            loop {
                match file.read_at(&mut bytes, offset).unwrap() {
                    0 => return found,
                    read => {
                        found += bytes[..read].chunks(4096).filter(|block| **block == secret).count();
                        offset += read as u64;
                    }
                }
            }
        };
        let on_devices = || count(&format!("/dev/{}", group.loop_device));
        let erase_policy = Some(ErasePolicy::Zero);
        host.create("l", &VolumeSpec { size_bytes: 64 * MIB, erase_policy, ..ext4(1) }).unwrap();
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        std::fs::write(node.target("p", 1).join("f"), secret.repeat(2048)).unwrap();
        host.unpublish(&node.target("p", 1)).unwrap();
        assert_eq!(on_devices(), 2048);
        host.resize(&uid(1), 40 * MIB).unwrap();
        let now = format!("{}+", lv(1));
        assert_eq!(group.names(), ["reservoir", &now]);
        let inside = count(&format!("/dev/{}/{now}", group.name));
        assert!(inside >= 2048);
        assert_eq!(on_devices(), inside);

        // The agent was killed after making a copy. The volume is erased before the resize is repeated.
        drop(host);
        let left = group.make("left", "10");
        std::fs::write(&left, secret.repeat(100)).unwrap();
        File::open(&left).unwrap().sync_all().unwrap();
        assert_eq!(on_devices(), inside + 100);
        lvm(&["lvchange", "--addtag", "reservoir", &group.of("left")]);
        group.in_journals(1, |volume| {
            let note = json!({"data": now, "spare": "left"});
            std::fs::write(volume.join("logical-volumes.json"), note.to_string()).unwrap();
        });
        let host = group.host();
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Zero).unwrap();
        assert_eq!(group.names(), ["reservoir"]);
        assert_eq!(on_devices(), 0);
    });
}

/// V9, S13, S14, X6. The same holds after a crash at any step.
#[test]
fn v9_s13_an_installed_image_is_never_made_again() {
    on_a_group(|group| {
        let (host, node) = (group.host(), group.node);
        host.create("l", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        write(&node.target("p", 1), "f", "kept");
        host.unpublish(&node.target("p", 1)).unwrap();
        assert_eq!(group.note(1), json!({"data": lv(1)}));
        drop(host);

        // The agent was killed before the record was Ready.
        let state = |i: u32, state: &str, note: Value| {
            group.in_journals(i, |volume| {
                let path = volume.join("record.json");
                let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                record["state"] = json!(state);
                std::fs::write(path, record.to_string()).unwrap();
                std::fs::write(volume.join("logical-volumes.json"), note.to_string()).unwrap();
            });
        };
        state(1, "Creating", json!({"data": lv(1)}));
        let host = group.host();
        host.create("l", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        assert_eq!(read(&node.target("p", 1), "f"), "kept");
        host.unpublish(&node.target("p", 1)).unwrap();

        // The agent was killed during mkfs. The next one removes the unfinished image and makes another.
        host.create("l", &ext4(2)).unwrap();
        drop(host);
        state(2, "Creating", json!({"spare": lv(2)}));
        let host = group.host();
        host.create("l", &ext4(2)).unwrap();
        assert_eq!(group.names(), ["reservoir", &lv(1), &lv(2)]);
        drop(host);

        // The agent neither removes nor uses a foreign logical volume with one of its names.
        state(2, "Creating", json!({"spare": lv(3)}));
        let theirs = group.make(&lv(3), "2");
        std::fs::write(&theirs, "not ours").unwrap();
        let host = group.host();
        assert_error!(host.create("l", &ext4(2)), Error::Conflict(_));
        host.create("l", &ext4(3)).unwrap();
        assert!(std::fs::read(&theirs).unwrap().starts_with(b"not ours"));
        assert_eq!(group.names(), ["reservoir", &lv(1), &lv(2), &lv(3), &format!("{}+", lv(3))]);
        drop(host);
        state(2, "Ready", json!({"data": lv(2)}));

        // One filesystem is damaged, and one logical volume is missing.
        let superblock = |i: u32| {
            let path = format!("/dev/{}/{}", group.name, lv(i));
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(&[0; 4096], 0).unwrap();
            file.sync_all().unwrap();
        };
        superblock(1);
        lvm(&["lvremove", "--yes", &group.of(&lv(2))]);
        let host = group.host();
        assert_error!(host.publish(&node.request(&uid(1), "p", 1, false)), Error::Corrupt { .. });
        assert_error!(host.publish(&node.request(&uid(2), "p", 2, false)), Error::BackingLost { .. });
        assert_error!(host.create("l", &ext4(2)), Error::BackingLost { .. });
        assert_eq!(group.names(), ["reservoir", &lv(1), &lv(3), &format!("{}+", lv(3))]);
        drop(host);

        // Without the records the data has no owner.
        lvm(&["lvrename", &group.name, "reservoir", "hidden"]);
        assert!(group.error().contains("although there is"), "{}", group.error());
        lvm(&["lvrename", &group.name, "hidden", "reservoir"]);
        assert_eq!(group.host().volumes().len(), 3);
    });
}

/// V7, S17. The free extents are full of old content.
#[test]
fn v7_a_logical_volume_keeps_its_files_when_resized() {
    on_a_group(|group| {
        group.soil();
        let (host, node) = (group.host(), group.node);
        let contents =
            |i: u32| -> Vec<u8> { (0..20 * MIB).map(|at| (at * 31 + u64::from(i)) as u8).collect() };
        for (i, spec, larger) in [(1, ext4(1), 70 * MIB), (9_102, xfs(9_102), 330 * MIB)] {
            host.create("l", &spec).unwrap();
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
            let target = node.target("p", i);
            std::fs::write(target.join("f"), contents(i)).unwrap();
            let before = host.usage(&uid(i)).unwrap().total_bytes;
            host.resize(&uid(i), larger).unwrap();
            host.resize(&uid(i), larger).unwrap();
            let more = host.usage(&uid(i)).unwrap().total_bytes - before;
            // In xfs and ext4 alike, the filesystem's own tables take a part of new space.
            assert!(
                (larger - spec.size_bytes - 2 * MIB..=larger - spec.size_bytes).contains(&more),
                "{more}"
            );
            assert_error!(host.resize(&uid(i), 4 * SIZE), Error::NoSpace { .. });
            assert_eq!(host.look("l", &uid(i)).unwrap().unwrap().spec.size_bytes, larger);
            host.unpublish(&target).unwrap();
        }
        assert_error!(host.resize(&uid(9_102), 304 * MIB), Error::Unsupported(_));
        assert_error!(host.resize(&uid(1), 17 * MIB), Error::TooSmall { .. });
        host.resize(&uid(1), 42 * MIB).unwrap();
        assert_eq!(group.names(), ["reservoir", &format!("{}+", lv(1)), &lv(9_102)]);
        let check = |name: &str| {
            let device = format!("/dev/{}/{name}", group.name);
            let output = Command::new("e2fsck").args(["-f", "-n", &device]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        check(&format!("{}+", lv(1)));
        // An inherited logical volume keeps its name.
        let heir = VolumeSpec { recover: Some(uid(1)), size_bytes: 42 * MIB, ..ext4(7) };
        host.create("l", &heir).unwrap();
        host.resize(&uid(7), 30 * MIB).unwrap();
        assert_eq!(group.names(), ["reservoir", &lv(7), &lv(9_102)]);
        check(&lv(7));
        for i in [7, 9_102] {
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
            let wrote = if i == 7 { 1 } else { i };
            assert!(std::fs::read(node.target("p", i).join("f")).unwrap() == contents(wrote));
            host.unpublish(&node.target("p", i)).unwrap();
        }
        // The agent was killed after the installation of the smaller image, before the removal of the larger one.
        drop(host);
        let left = group.in_journals(7, |volume| {
            let note = json!({"data": lv(7), "spare": format!("{}+", lv(7))});
            std::fs::write(volume.join("logical-volumes.json"), note.to_string()).unwrap();
            let path = volume.join("record.json");
            let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            record["resizing"] = json!(30 * MIB);
            std::fs::write(path, record.to_string()).unwrap();
            format!("{}+", lv(7))
        });
        lvm(&["lvcreate", "--yes", "--extents", "3", "--addtag", "reservoir", "--name", &left, &group.name]);
        let host = group.host();
        host.resize(&uid(7), 30 * MIB).unwrap();
        assert_eq!(group.names(), ["reservoir", &lv(7), &lv(9_102)]);
    });
}

/// D3, X6, M5. The node restarts, and another group has the same name.
#[test]
fn d3_a_volume_group_keeps_its_identity() {
    on_a_group(|group| {
        let (host, node) = (group.host(), group.node);
        let id = host.disks()[0].id.clone().unwrap();
        host.create("l", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        write(&node.target("p", 1), "f", "kept");
        assert!(group.error().contains("another agent, or another disk"), "{}", group.error());
        // A pod keeps its mount after the agent's end, and the next agent finds both.
        drop(host);
        let host = group.host();
        assert!(host.recover()[0].1.as_ref().unwrap().in_use);
        assert_eq!(read(&node.target("p", 1), "f"), "kept");
        host.unpublish(&node.target("p", 1)).unwrap();
        drop(host);
        // The machine restarts: no logical volume is active, and the group has another name.
        lvm(&["vgchange", "--activate", "n", &group.name]);
        let renamed = format!("{}-renamed", group.name);
        lvm(&["vgrename", &group.name, &renamed]);
        assert!(group.error().contains("vgcreate"), "{}", group.error());
        let host = Host::open(config(node, &renamed)).unwrap();
        assert_eq!(host.disks()[0].id.as_deref(), Some(&*id));
        assert_eq!(host.volumes()[0].allocated, 32 * MIB);
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        assert_eq!(read(&node.target("p", 1), "f"), "kept");
        host.unpublish(&node.target("p", 1)).unwrap();
        // An administrator deactivated the logical volume.
        lvm(&["lvchange", "--activate", "n", &format!("{renamed}/{}", lv(1))]);
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        host.unpublish(&node.target("p", 1)).unwrap();
        lvm(&["vgrename", &renamed, &group.name]);
        assert!(host.create("l", &ext4(2)).is_err(), "the agent has the group's old name");
        drop(host);
        assert_eq!(group.host().disks()[0].id, Some(id));
    });
}

/// The work of the agent that is going to be killed.
#[test]
#[ignore = "it is the process that the next test kills"]
fn victim() {
    if let (Some(node), Ok(group)) = (Node::of_victim(), std::env::var(GROUP)) {
        let config = HostConfig { lock_timeout: Duration::from_secs(10), ..config(&node, &group) };
        let host = Host::open(config).unwrap();
        host.recover();
        loop {
            host.create("l", &ext4(2)).unwrap();
            host.resize(&uid(2), 48 * MIB).unwrap();
            host.resize(&uid(2), 24 * MIB).unwrap();
            host.fence(&uid(2)).unwrap();
            host.erase(&uid(2), ErasePolicy::Discard).unwrap();
        }
    }
}

/// L3, S13, V9.
#[test]
fn l3_an_agent_may_be_killed_at_any_moment() {
    on_a_group(|group| {
        let node = group.node;
        let host = group.host();
        host.create("l", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        write(&node.target("p", 1), "f", "kept");
        drop(host);
        for i in 0..12u64 {
            node.kill_with(
                "lvm::victim",
                Duration::from_millis(400 + i * i * 7919 % 9_000),
                &[(GROUP, &group.name)],
            );
            let config = HostConfig { lock_timeout: Duration::from_secs(10), ..group.config() };
            let host = Host::open(config).unwrap();
            assert_eq!(host.disks()[0].error, None);
            assert!(host.recover().iter().all(|(_, recovered)| recovered.is_ok()));
            assert_eq!(read(&node.target("p", 1), "f"), "kept");
            let state = host.look("l", &uid(2)).unwrap().map(|record| record.state);
            println!("killed in state {state:?}, with {:?}", group.names());
            match state {
                Some(State::Creating) => host.create("l", &ext4(2)).unwrap(),
                Some(State::Ready) => host
                    .resize(&uid(2), 40 * MIB)
                    .or_else(|error| match error {
                        Error::Fenced(_) => Ok(()),
                        error => Err(error),
                    })
                    .unwrap(),
                _ => {}
            }
            if state.is_some() {
                host.fence(&uid(2)).unwrap();
            }
            match host.erase(&uid(2), ErasePolicy::Discard) {
                Ok(_) => {}
                Err(error) => assert!(state.is_none() && matches!(error, Error::NotFound(_)), "{error}"),
            }
            host.forget(&uid(2)).unwrap();
            assert_eq!(group.names(), ["reservoir", &lv(1)]);
        }
        group.host().unpublish(&node.target("p", 1)).unwrap();
    });
}

/// D5. The test needs no device-mapper.
#[test]
fn d5_a_missing_volume_group_is_refused() {
    on_a_node(|node| {
        let host = Host::open(config(node, "no-such-group")).unwrap();
        let said = host.disks()[0].error.clone().unwrap();
        let without_lvm = !["/usr/sbin/lvm", "/sbin/lvm"].iter().any(|path| Path::new(path).exists());
        let step = if without_lvm { "install the package lvm2" } else { "vgcreate no-such-group DEVICE" };
        assert!(said.contains(step), "{said}");
    });
}

/// V10. A writer to another device of the node can put a group of the same name on it.
#[test]
fn v10_a_forged_group_of_the_same_name_is_not_seen() {
    on_a_group(|group| {
        let detach = |device: &str| {
            assert!(Command::new("losetup").arg("-d").arg(device).status().unwrap().success());
        };
        let image = group.node.dir().join("forged");
        File::create(&image).unwrap().set_len(64 * MIB).unwrap();
        let forged = format!("/dev/{}", attach_by_hand(&image));
        lvm(&["vgcreate", "--devices", &forged, &group.name, &forged]);
        detach(&forged);
        let host = group.host();
        host.create("l", &ext4(1)).unwrap();
        // The forged group appears while the real group is served.
        let forged = format!("/dev/{}", attach_by_hand(&image));
        let created = host.create("l", &ext4(2));
        let error = host.disks().remove(0).error;
        // A starting agent looks at no device that its configuration gives to pods.
        drop(host);
        let mut config = HostConfig { lock_timeout: Duration::from_secs(10), ..group.config() };
        config.disks[0].foreign_devices = vec![forged.clone().into()];
        let next = Host::open(config).unwrap().disks().remove(0).error;
        detach(&forged);
        created.unwrap();
        assert_eq!((error, next), (None, None));
    });
}
