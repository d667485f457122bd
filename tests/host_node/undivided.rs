//! Disks of kind Mount: an undivided filesystem (D2).

use std::fs::File;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use reservoir::host::{BackingKind, DiskConfig, ErasePolicy, Error, FsType, Host, HostConfig, VolumeSpec};

use crate::assert_error;
use crate::support::*;

/// A filesystem that is mounted at the disk's path.
pub struct Undivided<'a> {
    node: &'a Node,
    pub path: PathBuf,
}

impl<'a> Undivided<'a> {
    pub fn new(node: &'a Node, fs_type: FsType) -> Self {
        let (path, image) = (node.dir().join("whole"), node.dir().join("image"));
        std::fs::create_dir(&path).unwrap();
        File::create(&image).unwrap().set_len(400 * MIB).unwrap();
        let mkfs = format!("mkfs.{fs_type}");
        assert!(Command::new(mkfs).arg("-q").arg(&image).status().unwrap().success());
        assert!(
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path).status().unwrap().success()
        );
        Self { node, path }
    }

    pub fn config(&self) -> HostConfig {
        let disk = self.node.disk_config("w", self.path.clone());
        HostConfig { disks: vec![DiskConfig { backing: BackingKind::Mount, ..disk }], ..self.node.config() }
    }

    pub fn host(&self) -> Host {
        let host = Host::open(self.config()).unwrap();
        assert_eq!(host.disks()[0].error, None);
        host
    }

    pub fn data(&self, i: u32) -> PathBuf {
        self.path.join("volumes").join(uid(i).as_str()).join("data")
    }
}

fn why_refused(config: HostConfig) -> String {
    Host::open(config).unwrap().disks()[0].error.clone().unwrap()
}

#[test]
fn d2_an_undivided_filesystem_has_one_volume() {
    for fs_type in [FsType::Ext4, FsType::Xfs] {
        on_a_node(move |node| {
            let undivided = Undivided::new(node, fs_type);
            let host = undivided.host();
            let report = host.disks().remove(0);
            assert_eq!(report.allocatable, report.capacity);
            let spec = VolumeSpec { fs_type, size_bytes: report.capacity, mode: Some(0o777), ..ext4(1) };
            let too_large = VolumeSpec { size_bytes: report.capacity + 1, ..spec.clone() };
            assert_error!(host.create("w", &too_large), Error::NoSpace { .. });
            let other = if fs_type == FsType::Ext4 { FsType::Xfs } else { FsType::Ext4 };
            let other = VolumeSpec { fs_type: other, ..spec.clone() };
            assert_error!(host.create("w", &other), Error::Unsupported(why) if why.contains("create the volume with fsType"));
            assert!(host.volumes().is_empty());

            host.create("w", &spec).unwrap();
            host.create("w", &spec).unwrap();
            let second = VolumeSpec { uid: uid(2), size_bytes: 304 * MIB, ..spec.clone() };
            assert_error!(host.create("w", &second), Error::Conflict(why) if why.contains("handed out whole, and volume"));

            // M3, V12: a reader before and after a writer.
            let mounts = [("r", 0, true), ("w", 1, false), ("r", 2, true)];
            for (pod, i, read_only) in mounts {
                let request = node.request(&spec.uid, pod, i, read_only);
                host.publish(&request).unwrap();
                host.publish(&request).unwrap();
            }
            let (writer, reader) = (node.target("w", 1), node.target("r", 0));
            write(&writer, "f", "hello");
            assert_eq!(read(&reader, "f"), "hello");
            assert_eq!(std::fs::write(reader.join("g"), "").unwrap_err().raw_os_error(), Some(30), "EROFS");
            node.assert_locked(&reader);
            assert_eq!(std::fs::metadata(&writer).unwrap().mode() & 0o777, 0o777);
            assert!(!writer.join("../record.json").exists() && !writer.join("disk.json").exists());
            let seen = node.mounts();
            assert_eq!(seen.len(), 3);
            assert!(seen.iter().all(|(_, options)| options.contains("nosuid,nodev")), "{seen:?}");

            // V5: the filesystem's own size is the limit.
            let full = std::fs::write(writer.join("fill"), vec![1; 450 << 20]).unwrap_err();
            assert_eq!(full.raw_os_error(), Some(28), "ENOSPC");
            let usage = host.usage(&spec.uid).unwrap();
            assert!(usage.available_bytes < 16 * MIB && usage.total_bytes <= report.capacity, "{usage:?}");
            // L3: on a full disk a pod can end, and another pod can start.
            while std::fs::write(writer.join(rand()), vec![1; 1 << 10]).is_ok() {}
            for (pod, i, _) in mounts {
                host.unpublish(&node.target(pod, i)).unwrap();
            }
            host.publish(&node.request(&spec.uid, "w", 1, false)).unwrap();
            host.unpublish(&node.target("w", 1)).unwrap();
            host.fence(&spec.uid).unwrap();
            assert_eq!(host.erase(&spec.uid, ErasePolicy::Discard).unwrap().bytes, spec.size_bytes);
            assert!(!undivided.data(1).exists());
            host.create("w", &second).unwrap();
            node.assert_no_mounts();
        });
    }
}

fn rand() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

#[test]
fn d2_a_part_of_a_filesystem_is_refused() {
    on_a_node(|node| {
        let undivided = Undivided::new(node, FsType::Ext4);
        let config = |path: &Path| {
            let mut config = undivided.config();
            config.disks[0].path = path.to_owned();
            config
        };
        assert!(why_refused(config(&node.disk())).contains("is not where a whole filesystem is mounted"));
        // A directory that a container sees as a mount.
        let part = undivided.path.join("part");
        std::fs::create_dir(&part).unwrap();
        let bound = node.dir().join("bound");
        std::fs::create_dir(&bound).unwrap();
        rustix::mount::mount_bind(&part, &bound).unwrap();
        assert!(why_refused(config(&bound)).contains("is not where a whole filesystem is mounted"));
        assert!(why_refused(config(Path::new("/dev/shm"))).contains("neither ext4 nor xfs"));
        // V9, X6: the agent does not take over a filesystem with files.
        assert!(why_refused(undivided.config()).contains("holds files"));
        assert_eq!(std::fs::read_dir(&undivided.path).unwrap().count(), 2, "nothing was made there");
        std::fs::remove_dir(&part).unwrap();
        undivided.host();
        // A disk keeps its backing.
        let divided =
            HostConfig { disks: vec![node.disk_config("w", undivided.path.clone())], ..node.config() };
        assert!(why_refused(divided).contains("backing Mount, which cannot become Loop"));
    });
}

/// A process that has a file open as its standard input.
fn holder(file: &Path) -> Child {
    Command::new("sleep").arg("60").stdin(File::open(file).unwrap()).spawn().unwrap()
}

#[test]
fn x3_a_directory_in_use_is_not_erased() {
    on_a_node(|node| {
        let undivided = Undivided::new(node, FsType::Ext4);
        let host = undivided.host();
        let spec = VolumeSpec { shared: false, ..ext4(1) };
        host.create("w", &spec).unwrap();
        let target = node.target("p", 0);
        let busy = |host: &Host| {
            let report = host.fence(&spec.uid).unwrap();
            assert!(report.users.is_empty());
            assert_eq!(
                report.in_use,
                matches!(host.erase(&spec.uid, ErasePolicy::Discard), Err(Error::Busy { .. }))
            );
            report.in_use
        };
        // A container in its own namespace has a mount that outlives the pod.
        host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
        write(&target, "f", "still here");
        std::fs::create_dir(target.join("sub")).unwrap();
        let lingering = [Elsewhere::new(node, &target.join("sub"))];
        host.unpublish(&target).unwrap();
        node.assert_no_mounts();
        assert!(busy(&host));
        host.unfence(&spec.uid).unwrap();
        // M2: meanwhile no other pod gets the exclusive volume.
        assert_error!(host.publish(&node.request(&spec.uid, "q", 1, false)), Error::Busy { .. });
        drop(lingering);
        // A process' open file outlives its mount.
        host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
        let mut process = holder(&target.join("f"));
        node.unmount_lazily(&target);
        host.unpublish(&target).unwrap();
        assert!(busy(&host));
        process.kill().unwrap();
        process.wait().unwrap();
        // A file of the volume behind a loop device.
        let inner = undivided.data(1).join("inner");
        File::create(&inner).unwrap().set_len(MIB).unwrap();
        let device = attach_by_hand(&inner);
        assert!(busy(&host));
        assert!(Command::new("losetup").arg("-d").arg(format!("/dev/{device}")).status().unwrap().success());
        assert_eq!(std::fs::read_to_string(undivided.data(1).join("f")).unwrap(), "still here");
        eventually("still in use", || !host.fence(&spec.uid).unwrap().in_use);
        host.erase(&spec.uid, ErasePolicy::Discard).unwrap();
        assert!(!undivided.data(1).exists());
    });
}

#[test]
fn s12_kubelet_102576_an_erase_stays_in_the_volume() {
    on_a_node(|node| {
        let undivided = Undivided::new(node, FsType::Ext4);
        let host = undivided.host();
        host.create("w", &ext4(1)).unwrap();
        let data = undivided.data(1);
        let canary = node.dir().join("canary");
        std::fs::create_dir(&canary).unwrap();
        write(&canary, "f", "alive");
        let beside = undivided.path.join("beside");
        std::fs::write(&beside, "alive").unwrap();
        std::fs::create_dir_all(data.join("a/b/mounted")).unwrap();
        symlink(&canary, data.join("a/b/link")).unwrap();
        std::fs::hard_link(&beside, data.join("a/hard")).unwrap();
        // kubelet 102576: a deletion walked through a mount.
        rustix::mount::mount_bind(&canary, data.join("a/b/mounted")).unwrap();
        host.fence(&uid(1)).unwrap();
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::Busy { .. });
        assert_eq!(read(&canary, "f"), "alive");
        let mounted = node.mounted_beneath(&undivided.path);
        assert_eq!(mounted.len(), 1, "wherever its directory was moved: {mounted:?}");
        node.unmount_lazily(&mounted[0]);
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        assert_eq!(read(&canary, "f"), "alive");
        assert_eq!(std::fs::read_to_string(&beside).unwrap(), "alive");
    });
}

#[test]
fn x4_a_refused_zero_loses_nothing() {
    on_a_node(|node| {
        let undivided = Undivided::new(node, FsType::Ext4);
        let host = undivided.host();
        host.create("w", &ext4(1)).unwrap();
        write(&undivided.data(1), "f", "x");
        let free = host.disks()[0].free;
        host.fence(&uid(1)).unwrap();
        let refused = host.erase(&uid(1), ErasePolicy::Zero);
        assert_error!(refused, Error::Unsupported(why) if why.contains("set erasePolicy to Discard"));
        assert_eq!(read(&undivided.data(1), "f"), "x");
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        assert!(host.disks()[0].free > free, "the free space is given back");
        assert_eq!(host.erased(), [uid(1)]);
    });
}

#[test]
fn m5_d3_a_new_agent_takes_over_its_own_disk_only() {
    on_a_node(|node| {
        let undivided = Undivided::new(node, FsType::Ext4);
        let host = undivided.host();
        host.create("w", &ext4(1)).unwrap();
        let request = node.request(&uid(1), "p", 0, false);
        host.publish(&request).unwrap();
        let id = host.disks()[0].id.clone();
        drop(host);
        write(&request.target, "f", "nobody serves");
        let host = undivided.host();
        assert_eq!(host.disks()[0].id, id);
        let recovery = host.recover().remove(0).1.unwrap();
        assert!(recovery.in_use && recovery.dropped.is_empty());
        host.unpublish(&request.target).unwrap();
        assert!(!host.recover().remove(0).1.unwrap().in_use);
        // V9: lost data is never made again.
        std::fs::remove_dir_all(undivided.data(1)).unwrap();
        assert_error!(host.create("w", &ext4(1)), Error::BackingLost { .. });
        drop(host);
        // After a reboot the filesystem is not mounted, and the bare mount point is no disk.
        node.unmount_lazily(&undivided.path);
        assert!(why_refused(undivided.config()).contains("is not where a whole filesystem is mounted"));
        assert_eq!(std::fs::read_dir(&undivided.path).unwrap().count(), 0);
    });
}
