//! Disks of kind Block (D2), with a loop device as the raw device.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use reservoir::host::{BackingKind, DiskConfig, ErasePolicy, Error, FsType, Host, HostConfig, VolumeSpec};
use serde_json::json;

use crate::assert_error;
use crate::support::*;

const SIZE: u64 = 320 * MIB;

struct Device<'a> {
    node: &'a Node,
    image: PathBuf,
    path: PathBuf,
}

impl<'a> Device<'a> {
    fn new(node: &'a Node) -> Self {
        Self::named(node, "image")
    }

    fn named(node: &'a Node, name: &str) -> Self {
        let image = node.dir().join(name);
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let path = Path::new("/dev").join(attach_by_hand(&image));
        Self { node, image, path }
    }

    fn config(&self) -> HostConfig {
        let disk = self.node.disk_config("b", self.path.clone());
        let state = Some(self.node.dir().join("state"));
        HostConfig {
            disks: vec![DiskConfig { backing: BackingKind::Block, state, ..disk }],
            ..self.node.config()
        }
    }

    fn host(&self) -> Host {
        let host = Host::open(self.config()).unwrap();
        assert_eq!(host.disks()[0].error, None);
        host
    }

    fn refused(&self) -> String {
        Host::open(self.config()).unwrap().disks()[0].error.clone().unwrap()
    }

    fn is_blank(&self) -> bool {
        let mut file = File::open(&self.image).unwrap();
        let mut chunk = vec![1; 1 << 20];
        (0..SIZE / MIB).all(|_| {
            file.read_exact(&mut chunk).unwrap();
            chunk.iter().all(|&byte| byte == 0)
        })
    }

    /// The directory of a volume's record.
    fn journal(&self, i: u32) -> PathBuf {
        let state = std::fs::read_dir(self.node.dir().join("state")).unwrap();
        let mut found = state.map(|entry| entry.unwrap().path().join("volumes").join(uid(i).as_str()));
        found.find(|path| path.exists()).unwrap()
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

fn raw(i: u32) -> VolumeSpec {
    VolumeSpec { raw: true, size_bytes: SIZE, ..ext4(i) }
}

#[test]
fn d2_a_block_disk_has_one_formatted_volume() {
    for fs_type in [FsType::Ext4, FsType::Xfs] {
        on_a_node(move |node| {
            let device = Device::new(node);
            let host = device.host();
            let report = host.disks().remove(0);
            assert_eq!((report.capacity, report.allocatable, report.free), (SIZE, SIZE, SIZE));
            let i = if fs_type == FsType::Ext4 { 1 } else { 31 };
            let spec = VolumeSpec { fs_type, size_bytes: SIZE, mode: Some(0o777), ..ext4(i) };
            host.create("b", &spec).unwrap();
            host.create("b", &spec).unwrap();
            assert_error!(host.create("b", &VolumeSpec { uid: uid(2), ..spec.clone() }), Error::Conflict(_));
            for (n, read_only) in [(0, true), (1, false)] {
                host.publish(&node.request(&spec.uid, "p", n, read_only)).unwrap();
            }
            write(&node.target("p", 1), "f", "hello");
            assert_eq!(read(&node.target("p", 0), "f"), "hello");
            assert!(std::fs::write(node.target("p", 0).join("g"), "").is_err());
            node.assert_locked(&node.target("p", 0));
            assert!(node.mounts().iter().all(|(_, options)| options.contains("nosuid,nodev")));
            drop(host);
            let host = device.host();
            assert!(host.recover().remove(0).1.unwrap().in_use);
            assert!(host.usage(&spec.uid).unwrap().total_bytes < SIZE);
            // X3: a mount in another namespace is a use.
            let lingering = Elsewhere::new(node, &node.target("p", 1));
            for n in [0, 1] {
                host.unpublish(&node.target("p", n)).unwrap();
            }
            assert!(host.fence(&spec.uid).unwrap().in_use);
            assert_error!(host.erase(&spec.uid, ErasePolicy::Discard), Error::Busy { .. });
            drop(lingering);
            eventually("still in use", || !host.fence(&spec.uid).unwrap().in_use);
            assert_eq!(host.erase(&spec.uid, ErasePolicy::Discard).unwrap().bytes, SIZE);
            assert!(device.is_blank(), "S17");
            host.create("b", &raw(3)).unwrap();
            node.assert_no_mounts();
        });
    }
}

#[test]
fn d2_a_raw_volume_is_the_device_itself() {
    on_a_node(|node| {
        let device = Device::new(node);
        let host = device.host();
        host.create("b", &raw(1)).unwrap();
        let request = node.request(&uid(1), "p", 0, false);
        assert_error!(
            host.publish(&node.request(&uid(1), "r", 0, true)),
            Error::InvalidArgument(why) if why.contains("claim it with mode ReadWrite")
        );
        host.publish(&request).unwrap();
        host.publish(&request).unwrap();
        assert_eq!(node.mounts().len(), 1);
        let other = node.request(&uid(1), "q", 0, false);
        host.publish(&other).unwrap();
        // Pods get the device itself, and see each other's bytes.
        let metadata = std::fs::metadata(&request.target).unwrap();
        assert!(metadata.file_type().is_block_device());
        assert_eq!(metadata.rdev(), std::fs::metadata(&device.path).unwrap().rdev());
        let mut file = File::options().read(true).write(true).open(&request.target).unwrap();
        file.seek(SeekFrom::Start(100 * MIB)).unwrap();
        file.write_all(b"a secret").unwrap();
        file.sync_all().unwrap();
        drop(file);
        let mut seen = [0; 8];
        let mut file = File::open(&other.target).unwrap();
        file.seek(SeekFrom::Start(100 * MIB)).unwrap();
        file.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"a secret");
        drop(file);
        assert_eq!(host.usage(&uid(1)).unwrap().total_bytes, SIZE);
        drop(host);
        // M5: the next agent finds the records, which are not on the device.
        let host = device.host();
        assert!(host.recover().remove(0).1.unwrap().dropped.is_empty());
        let mut process =
            Command::new("sleep").arg("60").stdin(File::open(&device.path).unwrap()).spawn().unwrap();
        for target in [&request.target, &other.target] {
            host.unpublish(target).unwrap();
            host.unpublish(target).unwrap();
            assert!(!target.exists());
        }
        // X3: a process with an open file is a use, and so is a loop device like the kubelet's.
        assert!(host.fence(&uid(1)).unwrap().in_use);
        process.kill().unwrap();
        process.wait().unwrap();
        let on_top = attach_by_hand(&device.path);
        assert_error!(host.erase(&uid(1), ErasePolicy::Zero), Error::Busy { .. });
        assert!(Command::new("losetup").arg("-d").arg(format!("/dev/{on_top}")).status().unwrap().success());
        eventually("still in use", || !host.fence(&uid(1)).unwrap().in_use);
        host.erase(&uid(1), ErasePolicy::Zero).unwrap();
        assert!(device.is_blank());
        node.assert_no_mounts();
    });
}

#[test]
fn m7_a_device_is_mounted_on_an_empty_file_only() {
    on_a_node(|node| {
        let device = Device::new(node);
        let host = device.host();
        host.create("b", &raw(1)).unwrap();
        let request = node.request(&uid(1), "p", 0, false);
        let canary = node.dir().join("canary");
        std::fs::write(&canary, "alive").unwrap();
        std::os::unix::fs::symlink(&canary, &request.target).unwrap();
        assert_error!(host.publish(&request), Error::Conflict(why) if why.contains("symbolic link"));
        std::fs::remove_file(&request.target).unwrap();
        std::fs::write(&request.target, "somebody's").unwrap();
        assert_error!(host.publish(&request), Error::Conflict(_));
        assert_error!(host.unpublish(&request.target), Error::Conflict(_));
        assert_eq!(std::fs::read_to_string(&request.target).unwrap(), "somebody's");
        std::fs::remove_file(&request.target).unwrap();
        std::fs::create_dir(&request.target).unwrap();
        assert_error!(host.publish(&request), Error::Conflict(why) if why.contains("is a directory"));
        std::fs::remove_dir(&request.target).unwrap();
        host.publish(&request).unwrap();
        host.unpublish(&request.target).unwrap();
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
        // A disk of another kind makes no raw volume.
        drop(host);
        let host = node.host();
        assert_error!(host.create("d", &raw(2)), Error::Unsupported(_));
        assert!(host.volumes().is_empty());
    });
}

#[test]
fn v9_a_device_that_holds_data_is_refused() {
    on_a_node(|node| {
        let device = Device::new(node);
        for offset in [0, SIZE - 512] {
            let mut file = File::options().write(true).open(&device.path).unwrap();
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(b"x").unwrap();
            file.sync_all().unwrap();
            assert!(device.refused().contains("holds data without a record"));
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(b"\0").unwrap();
            file.sync_all().unwrap();
        }
        let mut not_a_device = device.config();
        not_a_device.disks[0].path = device.image.clone();
        let said = Host::open(not_a_device).unwrap().disks()[0].error.clone().unwrap();
        assert!(said.contains("is not a block device"), "{said}");
        // The device had data before.
        let claim = rustix::fs::open(
            &device.path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        assert!(device.refused().contains("is in use"));
        drop(claim);

        let host = device.host();
        let id = host.disks()[0].id.clone();
        host.create("b", &ext4(1)).unwrap();
        drop(host);
        assert_eq!(device.host().disks()[0].id, id, "with a journal it is ours");
        // D3: another device at the same path has another identity.
        let other = Device::named(node, "other");
        let host = Host::open(other.config()).unwrap();
        assert_ne!(host.disks()[0].id, id);
        host.expect("b", id.as_deref(), None).unwrap();
        assert!(host.disks()[0].error.as_ref().unwrap().contains("it is not the expected disk"));
        drop(host);
        // Without the agent's records the data has no owner.
        std::fs::rename(node.dir().join("state"), node.dir().join("lost")).unwrap();
        assert!(device.refused().contains("holds data without a record"));
        std::fs::remove_dir_all(node.dir().join("state")).unwrap();
        std::fs::rename(node.dir().join("lost"), node.dir().join("state")).unwrap();
        device.host().publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        node.unmount_lazily(&node.target("p", 0));
    });
}

#[test]
fn s13_only_an_interrupted_mkfs_is_repeated() {
    on_a_node(|node| {
        let device = Device::new(node);
        let host = device.host();
        host.create("b", &ext4(1)).unwrap();
        let set_state = |state: &str| {
            let path = device.journal(1).join("record.json");
            let mut record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            record["state"] = json!(state);
            std::fs::write(&path, record.to_string()).unwrap();
        };
        let content = || {
            let mut start = vec![0; 1 << 20];
            File::open(&device.path).unwrap().read_exact(&mut start).unwrap();
            start
        };
        let before = content();
        // The agent was killed after mkfs.
        set_state("Creating");
        host.create("b", &ext4(1)).unwrap();
        assert_eq!(content(), before, "not formatted again");
        // The agent was killed during mkfs.
        set_state("Creating");
        let marker = device.journal(1);
        std::fs::rename(marker.join("formatted"), marker.join("formatting")).unwrap();
        host.create("b", &ext4(1)).unwrap();
        assert_ne!(content(), before, "made anew");
        // Another process wrote to the device before mkfs.
        set_state("Creating");
        std::fs::remove_file(marker.join("formatted")).unwrap();
        let before = content();
        assert_error!(host.create("b", &ext4(1)), Error::Corrupt { .. });
        assert_eq!(content(), before);
    });
}

/// S17. The agent examines only both ends of a new device, but a raw volume shows all of it.
#[test]
fn s17_a_raw_volume_shows_nothing_of_the_device_before() {
    on_a_node(|node| {
        let device = Device::new(node);
        let mut file = File::options().write(true).open(&device.path).unwrap();
        file.seek(SeekFrom::Start(100 * MIB)).unwrap();
        file.write_all(b"of somebody else").unwrap();
        file.sync_all().unwrap();
        drop(file);
        let host = device.host();
        host.create("b", &raw(1)).unwrap();
        assert!(device.is_blank());
        // A finished volume is never made blank again (V9).
        let mut file = File::options().write(true).open(&device.path).unwrap();
        file.write_all(b"mine").unwrap();
        file.sync_all().unwrap();
        drop(file);
        host.create("b", &raw(1)).unwrap();
        assert!(!device.is_blank());
    });
}

/// S14, X9. A restore brings back state directory and etcd from before the erase. Meanwhile the device has another
/// owner.
#[test]
fn s14_an_erase_keeps_what_is_not_the_volumes() {
    for later_is_raw in [false, true] {
        on_a_node(move |node| {
            let device = Device::new(node);
            let (state, backup) = (node.dir().join("state"), node.dir().join("backup"));
            let run = |arguments: &[&Path]| {
                assert!(Command::new("cp").arg("-a").args(arguments).status().unwrap().success());
            };
            let host = device.host();
            host.create("b", &ext4(1)).unwrap();
            drop(host);
            run(&[&state, &backup]);
            let host = device.host();
            host.fence(&uid(1)).unwrap();
            host.erase(&uid(1), ErasePolicy::Discard).unwrap();
            host.create("b", &if later_is_raw { raw(2) } else { ext4(2) }).unwrap();
            if later_is_raw {
                let mut file = File::options().write(true).open(&device.path).unwrap();
                file.write_all(b"later").unwrap();
                file.sync_all().unwrap();
            }
            drop(host);
            std::fs::remove_dir_all(&state).unwrap();
            run(&[&backup, &state]);

            let host = device.host();
            host.fence(&uid(1)).unwrap();
            for _ in 0..2 {
                assert_error!(
                    host.erase(&uid(1), ErasePolicy::Discard),
                    Error::Conflict(why) if why.contains("volume-1") && why.contains("blkdiscard")
                );
            }
            assert!(!device.is_blank());
            // An administrator discards the new owner's data.
            let status = Command::new("blkdiscard").args(["--force", "--zeroout"]).arg(&device.path).status();
            assert!(status.unwrap().success());
            host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        });
    }
}

/// S14. The agent died before it changed anything, and another process wrote to the device.
#[test]
fn s14_a_volume_that_was_never_made_erases_nothing() {
    on_a_node(|node| {
        let device = Device::new(node);
        let host = device.host();
        host.create("b", &ext4(1)).unwrap();
        let path = device.journal(1).join("record.json");
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["state"] = json!("Creating");
        std::fs::write(&path, record.to_string()).unwrap();
        std::fs::remove_file(device.journal(1).join("formatted")).unwrap();
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Zero).unwrap();
        assert!(!device.is_blank());
    });
}
