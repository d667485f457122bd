//! The trial of size limits before a disk is served (D5).

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use reservoir::host::{BackingKind, DiskConfig, Enforcement, Error, FsType, Host, HostConfig};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::assert_error;
use crate::support::*;
use crate::undivided::Undivided;

fn enforcement(host: &Host) -> Enforcement {
    host.disks().remove(0).enforcement.unwrap()
}

#[test]
fn d5_a_proven_limit_leaves_no_scratch_volume() {
    on_a_node(|node| {
        let started = Instant::now();
        let host = node.host();
        println!("opened, proven and looked at in {:?}", started.elapsed());
        assert_eq!(enforcement(&host), Enforcement::Proven("ENOSPC"));
        assert!(host.volumes().is_empty() && host.recover().is_empty() && host.erased().is_empty());
        let mut names: Vec<_> =
            std::fs::read_dir(node.disk()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["disk.json", "receipts", "volumes"]);
        node.assert_base_line();
        // A start tries only once: another attempt would fail now.
        std::fs::write(node.disk().join("proof"), "in the way").unwrap();
        assert_eq!(enforcement(&host), Enforcement::Proven("ENOSPC"));
        drop(host);
        let host = node.next_host();
        let refused = host.disks().remove(0);
        assert!(refused.error.unwrap().contains("does not enforce the size of volumes"));
        assert!(refused.id.is_some() && matches!(refused.enforcement, Some(Enforcement::Broken(_))));
        assert_error!(host.create("d", &ext4(1)), Error::DiskUnavailable { .. });
        // Each report of a refused disk tries again.
        std::fs::remove_file(node.disk().join("proof")).unwrap();
        assert_eq!(host.disks()[0].error, None);
        host.create("d", &ext4(1)).unwrap();
    });
}

#[test]
fn d5_the_scratch_volume_of_a_killed_agent_is_removed() {
    on_a_node(|node| {
        let left = node.disk().join("proof");
        for name in ["data", "data.new"] {
            std::fs::create_dir_all(&left).unwrap();
            write(&left, name, "torn");
            assert_eq!(enforcement(&node.next_host()), Enforcement::Proven("ENOSPC"), "{name}");
            assert!(!left.exists());
        }
    });
}

#[test]
fn d5_an_undivided_disk_is_its_own_limit() {
    on_a_node(|node| {
        assert_eq!(enforcement(&Undivided::new(node, FsType::Ext4).host()), Enforcement::Undivided);
    });
}

#[test]
fn d5_a_full_disk_is_served_without_new_volumes() {
    on_a_node(|node| {
        let undivided = Undivided::new(node, FsType::Ext4);
        let disk = DiskConfig { backing: BackingKind::Loop, ..node.disk_config("w", undivided.path.clone()) };
        let config = HostConfig { disks: vec![disk], ..node.config() };
        let host = Host::open(config.clone()).unwrap();
        host.create("w", &ext4(1)).unwrap();
        drop(host);
        let fill = undivided.path.join("fill");
        let free = rustix::fs::statvfs(&undivided.path).unwrap();
        let most = free.f_bavail * free.f_frsize - 40 * MIB;
        rustix::fs::fallocate(File::create(&fill).unwrap(), FallocateFlags::empty(), 0, most).unwrap();
        let host = Host::open(config).unwrap();
        assert_eq!(host.disks()[0].error, None);
        assert_eq!(enforcement(&host), Enforcement::Untried);
        let request = node.request(&uid(1), "p", 0, false);
        host.publish(&request).unwrap();
        host.unpublish(&request.target).unwrap();
        host.create("w", &ext4(1)).unwrap();
        assert_error!(host.create("w", &ext4(2)), Error::NoSpace { .. });
        std::fs::remove_file(fill).unwrap();
        assert_eq!(
            enforcement(&host),
            Enforcement::Proven("ENOSPC"),
            "the disk is tried once it has free space"
        );
        host.create("w", &ext4(2)).unwrap();
    });
}

/// D8: a kernel without loop devices for now, and a container whose /dev is older than the module.
#[test]
fn d8_a_node_without_loop_devices_says_so_for_as_long() {
    on_a_node(|node| {
        let device = |path: &Path, minor| {
            mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(10, minor))
                .unwrap();
        };
        let is_free = |minor: &u32| {
            let known = std::fs::read_to_string("/proc/misc").unwrap();
            !known.lines().any(|line| line.trim_start().starts_with(&format!("{minor} ")))
        };
        let no_driver = node.dir().join("no-driver");
        device(&no_driver, (1..255).rev().find(is_free).unwrap());
        mount_bind(&no_driver, "/dev/loop-control").unwrap();
        let host = Host::open(node.config()).unwrap();
        let refused = host.disks().remove(0).error.unwrap();
        assert!(refused.contains("no loop devices: load its module loop (modprobe loop"), "{refused}");
        unmount("/dev/loop-control", UnmountFlags::DETACH).unwrap();
        assert_eq!(host.disks()[0].error, None, "the next look");
        host.create("d", &ext4(1)).unwrap();
        drop(host);

        mount("none", "/dev", "tmpfs", MountFlags::empty(), None).unwrap();
        mknodat(CWD, "/dev/null", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 3)).unwrap();
        let host = Host::open(node.config()).unwrap();
        assert_eq!(host.disks()[0].error, None, "an old /dev");
        host.create("d", &ext4(2)).unwrap();
    });
}
