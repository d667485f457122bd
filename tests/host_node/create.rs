//! Creation of volumes, which happens at most once.

use std::os::unix::fs::{FileExt, MetadataExt};

use reservoir::host::{Error, FsType, Host, State, VolumeSpec};
use serde_json::json;

use crate::assert_error;
use crate::support::*;

fn state(host: &Host, i: u32) -> State {
    let volumes = host.volumes();
    volumes.iter().find(|volume| volume.uid == uid(i)).unwrap().record.as_ref().unwrap().state
}

/// V5, V9, S13.
#[test]
fn v9_a_repeated_creation_changes_nothing() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(21)] {
            host.create("d", &spec).unwrap();
            let before = std::fs::metadata(node.data(&spec.uid)).unwrap();
            assert_eq!(before.len(), spec.size_bytes);
            assert!(before.blocks() * 512 >= spec.size_bytes, "preallocated");
            let report = host.volumes().into_iter().find(|volume| volume.uid == spec.uid).unwrap();
            assert_eq!(report.allocated, before.blocks() * 512);
            host.create("d", &spec).unwrap();
            let after = std::fs::metadata(node.data(&spec.uid)).unwrap();
            assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
        }
        assert_eq!((state(&host, 1), state(&host, 21)), (State::Ready, State::Ready));
        node.assert_base_line();
    });
}

/// F4. initdb, mysqld and Kafka refuse a directory with a `lost+found` in it.
#[test]
fn f4_a_new_volume_is_an_empty_directory() {
    on_a_node(|node| {
        let host = node.host();
        let modes = [(None, 0o777, 0o777), (Some(4000), 0o2770, 0o2770)];
        for (i, (gid, mode, found)) in modes.into_iter().enumerate() {
            for spec in [ext4(i as u32), xfs(20 + i as u32)] {
                host.create("d", &VolumeSpec { gid, mode: Some(mode), ..spec.clone() }).unwrap();
                host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
                let target = node.target("p", 0);
                let root = std::fs::metadata(&target).unwrap();
                assert_eq!((root.gid(), root.mode() & 0o7777), (gid.unwrap_or(0), found));
                assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0, "{} {gid:?}", spec.fs_type);
                host.unpublish(&target).unwrap();
            }
        }
        node.assert_base_line();
    });
}

#[test]
fn a_ready_volume_keeps_its_size_and_gets_new_labels() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        for other in [
            VolumeSpec { size_bytes: 64 * MIB, ..ext4(1) },
            VolumeSpec { shared: false, ..ext4(1) },
            VolumeSpec { fs_type: FsType::Xfs, size_bytes: 304 * MIB, ..ext4(1) },
        ] {
            assert_error!(host.create("d", &other), Error::Conflict(_));
        }
        let labels = [("tier".to_owned(), "gold".to_owned())].into();
        host.create("d", &VolumeSpec { labels, ..ext4(1) }).unwrap();
        assert_eq!(node.record(&uid(1))["labels"], json!({"tier": "gold"}));
        assert_error!(host.create("nowhere", &ext4(2)), Error::NotFound(_));
    });
}

#[test]
fn unknown_fields_of_a_record_are_carried_along() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        node.edit(&uid(1), |record| record["tomorrow"] = json!({"a": 1}));
        host.fence(&uid(1)).unwrap();
        assert_eq!(node.record(&uid(1))["tomorrow"], json!({"a": 1}));
        assert_eq!(node.record(&uid(1))["fenced"], json!(true));
    });
}

/// V10.
#[test]
fn a_creation_without_free_space_leaves_nothing() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let free = host.disks()[0].free;
        let size_bytes = (free + 1024 * MIB) / 4096 * 4096;
        let spec = VolumeSpec { size_bytes, ..ext4(2) };
        assert_error!(host.create("d", &spec), Error::NoSpace { needed, .. } if needed == size_bytes);
        assert!(!node.volume(&uid(2)).exists());
        // After the refusal a smaller volume can be made.
        host.create("d", &ext4(2)).unwrap();
        host.create("d", &ext4(1)).unwrap();
    });
}

/// V10.
#[test]
fn a_failed_mkfs_leaves_nothing() {
    on_a_node(|node| {
        let host = node.host();
        // No disk of a test has space for this.
        let spec = VolumeSpec { size_bytes: 1 << 62, ..ext4(1) };
        assert!(host.create("d", &spec).is_err());
        // mkfs is missing: the directories of programs are empty.
        let empty = node.dir().join("empty");
        std::fs::create_dir(&empty).unwrap();
        for path in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
            rustix::mount::mount_bind(&empty, path).unwrap();
        }
        assert_error!(host.create("d", &ext4(1)), Error::ProgramMissing(_));
        assert!(!node.volume(&uid(1)).exists());
    });
}

/// V9, S13.
#[test]
fn lost_data_is_never_made_anew() {
    on_a_node(|node| {
        let host = node.host();
        for i in [1, 2] {
            host.create("d", &ext4(i)).unwrap();
        }
        std::fs::remove_file(node.data(&uid(1))).unwrap();
        std::fs::File::options().write(true).open(node.data(&uid(2))).unwrap().set_len(MIB).unwrap();
        for i in [1, 2] {
            assert_error!(host.create("d", &ext4(i)), Error::BackingLost { .. });
            assert_error!(host.publish(&node.request(&uid(i), "p", i, false)), Error::BackingLost { .. });
            assert_eq!(node.record(&uid(i))["publishes"], json!({}));
        }
        assert!(!node.data(&uid(1)).exists());
        assert_eq!(std::fs::metadata(node.data(&uid(2))).unwrap().len(), MIB);
        node.assert_base_line();
    });
}

/// V9, V10, S13.
#[test]
fn a_damaged_or_foreign_superblock_is_never_formatted() {
    on_a_node(|node| {
        let host = node.host();
        for i in [1, 2] {
            host.create("d", &ext4(i)).unwrap();
        }
        let file = std::fs::File::options().write(true).open(node.data(&uid(1))).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        // A copy of another volume is in its place.
        std::fs::copy(node.data(&uid(1)), node.data(&uid(2))).unwrap();
        host.create("d", &ext4(3)).unwrap();
        std::fs::copy(node.data(&uid(3)), node.data(&uid(2))).unwrap();
        for i in [1, 2] {
            assert_error!(host.publish(&node.request(&uid(i), "p", i, false)), Error::Corrupt { .. });
            node.edit(&uid(i), |record| record["state"] = json!("Creating"));
            let before = std::fs::read(node.data(&uid(i))).unwrap();
            assert_error!(host.create("d", &ext4(i)), Error::Corrupt { .. });
            assert!(before == std::fs::read(node.data(&uid(i))).unwrap(), "untouched");
        }
        host.publish(&node.request(&uid(3), "p", 3, false)).unwrap();
        host.unpublish(&node.target("p", 3)).unwrap();
    });
}

/// L1, S13.
#[test]
fn creation_goes_on_after_a_crash_at_any_point() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(9)).unwrap();
        let record = |i: u32| {
            let mut record = node.record(&uid(9));
            record["uid"] = json!(uid(i));
            record["state"] = json!("Creating");
            record.to_string()
        };
        let crashed = |i: u32, files: &[(&str, &[u8])]| {
            std::fs::create_dir(node.volume(&uid(i))).unwrap();
            for (name, content) in files {
                std::fs::write(node.volume(&uid(i)).join(name), content).unwrap();
            }
        };
        crashed(1, &[]);
        crashed(2, &[("record.json.new", b"{\"vers")]);
        crashed(3, &[("record.json", record(3).as_bytes())]);
        crashed(4, &[("record.json", record(4).as_bytes()), ("data.new", b"")]);
        let half_made = std::fs::read(node.data(&uid(9))).unwrap();
        crashed(5, &[("record.json", record(5).as_bytes()), ("data.new", &half_made[..half_made.len() / 2])]);
        for i in [1, 2] {
            assert!(host.volumes().iter().all(|volume| volume.uid != uid(i)), "{i} does not exist yet");
            assert_error!(host.fence(&uid(i)), Error::NotFound(_));
        }
        for i in 3..=5 {
            assert_error!(host.publish(&node.request(&uid(i), "p", i, false)), Error::NotReady(_));
        }
        drop(host);
        let host = node.host();
        for i in 1..=5 {
            host.create("d", &ext4(i)).unwrap();
            assert!(!node.volume(&uid(i)).join("data.new").exists());
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
            write(&node.target("p", i), "f", "hello");
            host.unpublish(&node.target("p", i)).unwrap();
        }
        node.assert_base_line();
    });
}

/// The worst case of V9: the restored record is older than the volume's first use. S13.
#[test]
fn an_old_record_costs_no_data() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(22)] {
            let target = node.target("p", 0);
            host.create("d", &spec).unwrap();
            host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
            write(&target, "precious", "data");
            host.unpublish(&target).unwrap();
            node.edit(&spec.uid, |record| record["state"] = json!("Creating"));
            host.create("d", &spec).unwrap();
            host.publish(&node.request(&spec.uid, "p", 0, true)).unwrap();
            assert_eq!(read(&target, "precious"), "data");
            host.unpublish(&target).unwrap();
        }
    });
}

#[test]
fn v11_the_root_directory_has_group_and_mode() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &VolumeSpec { gid: Some(4711), ..ext4(1) }).unwrap();
        host.create("d", &VolumeSpec { mode: Some(0o1777), ..ext4(2) }).unwrap();
        node.assert_base_line();
        let seen = |i: u32| {
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
            let found = std::fs::metadata(node.target("p", i)).unwrap();
            host.unpublish(&node.target("p", i)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(seen(1), (4711, 0o2775));
        assert_eq!(seen(2), (0, 0o1777));
    });
}

/// S13.
#[test]
fn concurrent_creations_make_each_volume_once() {
    on_a_node(|node| {
        let host = node.host();
        std::thread::scope(|scope| {
            for i in 0..16 {
                let host = &host;
                scope.spawn(move || host.create("d", &ext4(i % 8)).unwrap());
            }
        });
        assert_eq!(host.volumes().len(), 8);
        assert!((0..8).all(|i| state(&host, i) == State::Ready));
        node.assert_base_line();
    });
}
