//! Disks: identity, lock, failures.

use std::process::Command;
use std::time::{Duration, Instant};

use reservoir::host::{DiskConfig, ErasePolicy, Error, Host, HostConfig};

use crate::assert_error;
use crate::support::*;

/// D3.
#[test]
fn a_disk_keeps_its_identity() {
    on_a_node(|node| {
        let host = node.host();
        let id = host.disks()[0].id.clone().unwrap();
        drop(host);
        // D3: the disk is the same under another name and path.
        let moved = node.dir().join("moved");
        std::fs::rename(node.disk(), &moved).unwrap();
        let disks = vec![node.disk_config("other", moved.clone())];
        let host = Host::open(HostConfig { disks, ..node.config() }).unwrap();
        assert_eq!(host.disks()[0].id, Some(id));
        host.create("other", &ext4(1)).unwrap();
        drop(host);
        // A damaged or missing identity is not replaced, because with a new one all volumes would lose their owner.
        for damage in [Some("{}"), Some("no json"), Some("{\"id\": \"../x\"}"), None] {
            match damage {
                Some(text) => std::fs::write(moved.join("disk.json"), text).unwrap(),
                None => std::fs::remove_file(moved.join("disk.json")).unwrap(),
            }
            let disks = vec![node.disk_config("other", moved.clone())];
            let host = Host::open(HostConfig { disks, ..node.config() }).unwrap();
            assert!(host.disks()[0].error.is_some(), "{damage:?}");
            assert_eq!(host.disks()[0].id, None);
        }
    });
}

/// D3.
#[test]
fn an_unexpected_disk_is_not_touched() {
    on_a_node(|node| {
        let host = node.host();
        let id = host.disks()[0].id.clone().unwrap();
        for i in [1, 2] {
            host.create("d", &ext4(i)).unwrap();
        }
        host.fence(&uid(2)).unwrap();
        drop(host);
        // The mount point is there, but not the disk's filesystem.
        let away = node.dir().join("away");
        std::fs::rename(node.disk(), &away).unwrap();
        std::fs::create_dir(node.disk()).unwrap();
        let host = node.host();
        host.expect("d", Some(&id), None).unwrap();
        let report = host.disks().remove(0);
        assert!(report.error.unwrap().contains("not the expected disk"));
        assert!(report.id.is_some_and(|other| other != id));
        assert_error!(host.create("d", &ext4(3)), Error::DiskUnavailable { .. });
        assert_error!(host.look("d", &uid(1)), Error::DiskUnavailable { .. });
        assert_error!(host.fence(&uid(1)), Error::DiskUnavailable { .. });
        assert_error!(host.erase(&uid(2), ErasePolicy::Discard), Error::DiskUnavailable { .. });
        assert_eq!(host.volumes(), []);
        // With the filesystem back, the same agent serves the disk again.
        std::fs::rename(node.disk(), node.dir().join("wrong")).unwrap();
        std::fs::rename(&away, node.disk()).unwrap();
        assert_eq!(host.disks()[0].error, None);
        assert_eq!(host.look("d", &uid(1)).unwrap().unwrap().spec.uid, uid(1));
        assert_eq!(host.look("d", &uid(3)).unwrap(), None);
        assert_eq!(host.erase(&uid(2), ErasePolicy::Discard).unwrap().bytes, ext4(2).size_bytes);
    });
}

/// D1.
#[test]
fn d1_capacity_and_allocatable_are_reported() {
    on_a_node(|node| {
        let capacity = Some(1024 * MIB);
        let disk = DiskConfig { capacity, system_reserved: 24 * MIB, ..node.disk_config("d", node.disk()) };
        let host = Host::open(HostConfig { disks: vec![disk], ..node.config() }).unwrap();
        let report = host.disks().remove(0);
        assert_eq!((report.capacity, report.allocatable), (1024 * MIB, 1000 * MIB));
        assert!(report.free > 0);
        assert!(node.host_error().contains("another agent"));
    });
}

/// D6: beneath the mount point of a missing disk nothing is made or served. A mount that comes later is served by the same
/// agent, at the path or right above.
#[test]
fn d6_a_disk_is_served_where_its_file_system_is_mounted() {
    for below in ["", "reservoir"] {
        on_a_node(move |node| {
            let (mount_point, image) = (node.dir().join("late"), node.dir().join("image"));
            std::fs::create_dir(&mount_point).unwrap();
            std::fs::File::create(&image).unwrap().set_len(256 * MIB).unwrap();
            assert!(Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap().success());
            let disk = node.disk_config("d", mount_point.join(below));
            let disk = DiskConfig { require_mount: true, make_directory: true, ..disk };
            let host = Host::open(HostConfig { disks: vec![disk], ..node.config() }).unwrap();
            let report = host.disks().remove(0);
            let why = report.error.unwrap();
            assert!(why.contains("has no file system of its own") && report.id.is_none(), "{why}");
            assert_eq!(std::fs::read_dir(&mount_point).unwrap().count(), 0, "nothing is made");
            let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount_point).status();
            assert!(mounted.unwrap().success());
            let report = host.disks().remove(0);
            assert_eq!(report.error, None);
            assert!(report.capacity < 256 * MIB, "{}", report.capacity);
        });
    }
    on_a_node(|node| {
        let missing = node.dir().join("no/such");
        let disk = DiskConfig { make_directory: true, ..node.disk_config("d", missing.clone()) };
        let host = Host::open(HostConfig { disks: vec![disk], ..node.config() }).unwrap();
        assert!(host.disks()[0].error.is_some() && !missing.parent().unwrap().exists());
    });
}

impl Node {
    /// The reason why the disk cannot be served.
    fn host_error(&self) -> String {
        Host::open(self.config()).unwrap().disks().remove(0).error.unwrap()
    }
}

#[test]
fn a_second_agent_is_refused_until_the_first_ends() {
    on_a_node(|node| {
        let first = node.host();
        assert!(node.host_error().contains("another agent"));
        let second = Host::open(node.config()).unwrap();
        assert_error!(second.create("d", &ext4(1)), Error::DiskUnavailable { .. });
        assert_error!(second.erase(&uid(1), ErasePolicy::Discard), Error::DiskUnavailable { .. });
        // The new agent waits for the old one to end.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                drop(first);
            });
            let started = Instant::now();
            let config = HostConfig { lock_timeout: Duration::from_secs(20), ..node.config() };
            assert_eq!(Host::open(config).unwrap().disks()[0].error, None);
            assert!(started.elapsed() < Duration::from_secs(10));
        });
        // An agent that did not wait serves the disk at its next report.
        assert_eq!(second.disks()[0].error, None);
        second.create("d", &ext4(1)).unwrap();
    });
}

/// V10.
#[test]
fn a_disk_that_cannot_be_served_stops_no_other() {
    on_a_node(|node| {
        let (missing, shm) = (node.dir().join("missing"), tempfile::tempdir_in("/dev/shm").unwrap());
        let disks = vec![
            node.disk_config("missing", missing.clone()),
            node.disk_config("memory", shm.path().to_owned()),
            node.disk_config("d", node.disk()),
        ];
        let host = Host::open(HostConfig { disks, ..node.config() }).unwrap();
        let errors: Vec<_> = host.disks().into_iter().map(|disk| disk.error).collect();
        assert!(errors[0].is_some() && errors[2].is_none());
        assert!(errors[1].as_ref().unwrap().contains("neither ext4 nor xfs"), "{errors:?}");
        assert_eq!(std::fs::read_dir(shm.path()).unwrap().count(), 0, "nothing is left on a refused disk");
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        host.unpublish(&node.target("p", 0)).unwrap();
        // An unknown volume may be on the unreadable disk, so it is not reported as erased.
        assert_error!(host.erase(&uid(2), ErasePolicy::Discard), Error::DiskUnavailable { .. });
        std::fs::create_dir(missing).unwrap();
        assert_eq!(host.disks()[0].error, None, "it is tried again");
    });
}

/// V10, L3, L5. The filesystem of a served disk shuts down: every call gets EIO.
#[test]
fn v10_a_disk_that_fails_later_stops_no_other() {
    on_a_node(|node| {
        let (bad, image) = (node.dir().join("bad"), node.dir().join("image"));
        std::fs::create_dir(&bad).unwrap();
        std::fs::File::create(&image).unwrap().set_len(400 * MIB).unwrap();
        let run = |program: &str, arguments: &[&str], path: &std::path::Path| {
            let output = std::process::Command::new(program).args(arguments).arg(path).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        run("mkfs.xfs", &["-q"], &image);
        run("mount", &["-o", "loop", image.to_str().unwrap()], &bad);
        let disks = vec![node.disk_config("bad", bad.clone()), node.disk_config("d", node.disk())];
        let host = Host::open(HostConfig { disks, ..node.config() }).unwrap();
        host.create("bad", &ext4(9)).unwrap();
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        run("mount", &["-o", "remount,ro"], &bad);
        let said = host.disks()[0].error.clone().unwrap();
        assert!(said.contains("has become read-only"), "{said}");
        run("mount", &["-o", "remount,rw"], &bad);
        assert_eq!(host.disks()[0].error, None);
        run("xfs_io", &["-x", "-c", "shutdown"], &bad);
        assert!(std::fs::read_dir(&bad).is_err());

        assert!(host.disks()[0].error.is_some(), "the error is reported");
        host.create("d", &ext4(1)).unwrap();
        host.create("d", &ext4(2)).unwrap();
        host.publish(&node.request(&uid(1), "q", 0, true)).unwrap();
        for pod in ["p", "q", "q", "never"] {
            host.unpublish(&node.target(pod, 0)).unwrap();
        }
        host.fence(&uid(1)).unwrap();
        for _ in 0..2 {
            host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        }
        let _ = host.forget(&uid(1));
        assert_eq!(host.erased(), []);
        // An unknown volume may be on the failed disk.
        let absent = host.erase(&uid(8), ErasePolicy::Discard).unwrap_err();
        assert!(!matches!(absent, Error::NotFound(_)), "{absent}");
        // The disk can be unmounted and mounted again. It is served as before afterwards.
        run("umount", &[], &bad);
        run("mount", &["-o", "loop", image.to_str().unwrap()], &bad);
        assert_eq!(host.disks()[0].error, None);
        assert_eq!(host.look("bad", &uid(9)).unwrap().unwrap().spec.uid, uid(9));
        assert_error!(host.erase(&uid(8), ErasePolicy::Discard), Error::NotFound(_));
        drop(host);
        run("umount", &[], &bad);
    });
}

/// Thaws a filesystem at the end of a test, so that waiting threads can end.
struct Frozen<'a>(&'a std::path::Path);

impl<'a> Frozen<'a> {
    fn new(path: &'a std::path::Path) -> Self {
        assert!(fsfreeze("--freeze", path));
        Self(path)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        assert!(fsfreeze("--unfreeze", self.0));
    }
}

/// V10. A writer to a frozen filesystem waits, as with a device that does not answer.
#[test]
fn v10_a_disk_that_hangs_keeps_no_other_waiting() {
    on_a_node(|node| {
        let path = node.dir().join("bad");
        let bad = RawDisk::at(path.clone(), 400 * MIB);
        let open = || {
            let disks = vec![node.disk_config("bad", path.clone()), node.disk_config("d", node.disk())];
            Host::open(HostConfig { disks, patience: Duration::from_secs(5), ..node.config() }).unwrap()
        };
        let host = open();
        host.create("bad", &ext4(9)).unwrap();
        host.create("d", &ext4(1)).unwrap();
        let frozen = Frozen::new(&path);
        // The disk hangs while it is served: removing a receipt is a write.
        host.forget(&uid(7)).unwrap_err();
        assert!(host.disks()[0].error.as_ref().unwrap().contains("does not answer"));
        assert_eq!(host.disks()[1].error, None);
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        drop(frozen);
        eventually("it is not served again", || host.disks()[0].error.is_none());
        drop(host);
        // The disk hangs when an agent starts.
        let frozen = Frozen::new(&path);
        let host = open();
        assert!(host.disks()[0].error.as_ref().unwrap().contains("does not answer"));
        host.create("d", &ext4(2)).unwrap();
        host.unpublish(&node.target("p", 0)).unwrap();
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        drop(frozen);
        eventually("it is not served again", || host.disks()[0].error.is_none());
        assert_eq!(host.look("bad", &uid(9)).unwrap().unwrap().spec.uid, uid(9));
        drop(host);
        eventually("it cannot be unmounted", || bad.unmounted());
    });
}

/// S4.
#[test]
fn a_volume_on_a_second_disk_is_refused() {
    on_a_node(|node| {
        let second = node.dir().join("second");
        std::fs::create_dir(&second).unwrap();
        let disks = vec![node.disk_config("d", node.disk()), node.disk_config("e", second)];
        let host = Host::open(HostConfig { disks: disks.clone(), ..node.config() }).unwrap();
        host.create("d", &ext4(1)).unwrap();
        assert_error!(host.create("e", &ext4(1)), Error::Conflict(_));
        drop(host);
        let twice = vec![disks[0].clone(), disks[0].clone()];
        assert_error!(
            Host::open(HostConfig { disks: twice, ..node.config() }).map(drop),
            Error::InvalidArgument(_)
        );
    });
}

/// D4, M4, L3.
#[test]
fn pods_are_unmounted_from_a_refused_disk() {
    on_a_node(|node| {
        let host = node.host();
        for i in [1, 2] {
            host.create("d", &ext4(i)).unwrap();
        }
        for (pod, i) in [("p", 1), ("q", 1), ("r", 2)] {
            host.publish(&node.request(&uid(i), pod, 0, false)).unwrap();
        }
        write(&node.target("p", 0), "file", "kept");
        drop(host);
        // The node comes back with its pods. Meanwhile the disk was declared gone.
        let host = node.next_host();
        let gone = || Some("it was declared gone".to_owned());
        host.refuse("d", gone()).unwrap();
        let before = [1, 2].map(|i| node.record(&uid(i)));
        assert_error!(host.publish(&node.request(&uid(1), "s", 0, false)), Error::DiskUnavailable { .. });
        host.unpublish(&node.target("p", 0)).unwrap();
        host.unpublish_likely(&node.target("q", 0), Some(&uid(2))).unwrap();
        assert!(host.disks()[0].error.is_some());
        for _ in 0..2 {
            host.unpublish(&node.target("r", 0)).unwrap();
            assert!(!node.target("r", 0).exists());
        }
        node.assert_base_line();
        assert_eq!([1, 2].map(|i| node.record(&uid(i))), before, "what is on the disk stays as it is");
        // When the disk is served again, the records are corrected, and all data is there.
        host.refuse("d", None).unwrap();
        let mut dropped: Vec<_> =
            host.recover().into_iter().flat_map(|(_, recovered)| recovered.unwrap().dropped).collect();
        dropped.sort();
        assert_eq!(dropped, ["p", "q", "r"].map(|pod| node.target(pod, 0).display().to_string()));
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        assert_eq!(read(&node.target("p", 0), "file"), "kept");
        host.unpublish(&node.target("p", 0)).unwrap();
        node.assert_base_line();
    });
}
