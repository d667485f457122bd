//! Hostile or damaged links, files, mounts and records.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reservoir::host::{ErasePolicy, Error, FsType, VolumeSpec};

use crate::assert_error;
use crate::support::*;

/// M5, M7, S12.
#[test]
fn a_foreign_target_is_refused_and_left() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let request = node.request(&uid(1), "p", 0, false);
        let outside = node.dir().join("outside");
        std::fs::create_dir(&outside).unwrap();

        symlink(&outside, &request.target).unwrap();
        assert_error!(host.publish(&request), Error::Conflict(_));
        assert_error!(host.unpublish(&request.target), Error::Conflict(_));
        assert!(request.target.is_symlink());
        std::fs::remove_file(&request.target).unwrap();

        std::fs::write(&request.target, "a file").unwrap();
        assert_error!(host.publish(&request), Error::Conflict(_));
        assert_error!(host.unpublish(&request.target), Error::Conflict(_));
        assert_eq!(std::fs::read_to_string(&request.target).unwrap(), "a file");
        std::fs::remove_file(&request.target).unwrap();

        std::fs::create_dir(&request.target).unwrap();
        rustix::mount::mount_bind(&outside, &request.target).unwrap();
        assert_error!(host.publish(&request), Error::Conflict(_));
        assert_error!(host.unpublish(&request.target), Error::Conflict(_));
        assert_eq!(node.mounts().len(), 1, "it is not ours to unmount");
        node.unmount_lazily(&request.target);

        std::fs::write(request.target.join("file"), "").unwrap();
        assert!(host.unpublish(&request.target).is_err(), "never removed with its content");
        assert!(request.target.join("file").exists());
        node.assert_base_line();
    });
}

/// M7, S12. CVE-2025-62878 of local-path: user-supplied paths led out of the directory.
#[test]
fn cve_2025_62878_a_link_to_the_target_is_not_followed() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let outside = node.dir().join("outside");
        std::fs::create_dir(&outside).unwrap();
        for (name, to) in [("absolute", outside.as_path()), ("relative", Path::new("../../../outside"))] {
            std::fs::create_dir_all(node.kubelet().join("pods/evil")).unwrap();
            symlink(to, node.kubelet().join("pods/evil").join(name)).unwrap();
            let target = node.kubelet().join("pods/evil").join(name).join("mount");
            let mut request = node.request(&uid(1), "p", 0, false);
            request.target = target.clone();
            assert_error!(host.publish(&request), Error::Conflict(_));
            assert_error!(host.unpublish(&target), Error::Conflict(_));
        }
        for target in [outside.join("t"), node.kubelet().join("../outside/t"), "pods/x".into(), "/".into()] {
            let mut request = node.request(&uid(1), "p", 0, false);
            request.target = target.clone();
            assert_error!(host.publish(&request), Error::InvalidArgument(_));
            assert_error!(host.unpublish(&target), Error::InvalidArgument(_));
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        node.assert_base_line();
    });
}

/// S16. rawfile-localpv 370: the driver parsed the output of `mount` instead of mountinfo.
#[test]
fn rawfile_370_odd_target_names_are_published() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        for name in ["a b", "tab\tnew\nline", "back\\slash\\040", "ünï#", "-rf", "$(x)"] {
            let parent = node.kubelet().join("pods").join(name);
            std::fs::create_dir_all(&parent).unwrap();
            let mut request = node.request(&uid(1), "p", 0, true);
            request.target = parent.join(name);
            host.publish(&request).unwrap();
            host.publish(&request).unwrap();
            assert_eq!(node.mounts().len(), 1);
            assert!(host.recover()[0].1.as_ref().unwrap().dropped.is_empty());
            host.unpublish(&request.target).unwrap();
            assert!(!request.target.exists());
        }
        node.assert_base_line();
    });
}

/// V9, V10.
#[test]
fn an_unreadable_record_is_kept() {
    on_a_node(|node| {
        let host = node.host();
        for i in [1, 2] {
            host.create("d", &ext4(i)).unwrap();
        }
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        let path = node.volume(&uid(1)).join("record.json");
        let other_uid = node.record(&uid(2)).to_string();
        for text in ["", "{", "[]", "null", "{\"version\": 1}", &other_uid] {
            std::fs::write(&path, text).unwrap();
            for result in [
                host.create("d", &ext4(1)),
                host.publish(&node.request(&uid(1), "q", 0, false)),
                host.fence(&uid(1)).map(drop),
                host.unfence(&uid(1)),
                host.erase(&uid(1), ErasePolicy::Discard).map(drop),
                host.usage(&uid(1)).map(drop),
            ] {
                assert_error!(result, Error::Corrupt { .. });
            }
            let report = host.volumes().into_iter().find(|volume| volume.uid == uid(1)).unwrap();
            assert_error!(report.record, Error::Corrupt { .. });
            assert_error!(&host.recover()[0].1, Error::Corrupt { .. });
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert!(node.data(&uid(1)).exists());
        // The volume's pod can end all the same, and other volumes are served.
        host.unpublish(&node.target("p", 0)).unwrap();
        host.publish(&node.request(&uid(2), "p", 0, false)).unwrap();
        host.unpublish(&node.target("p", 0)).unwrap();
        // Data without a record does not count as an absent volume either.
        std::fs::remove_file(&path).unwrap();
        assert_error!(host.create("d", &ext4(1)), Error::Corrupt { .. });
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::Corrupt { .. });
        assert!(node.data(&uid(1)).exists());
        node.assert_base_line();
    });
}

#[test]
fn a_record_of_a_newer_version_is_not_touched() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        node.edit(&uid(1), |record| record["version"] = 2.into());
        assert_error!(host.fence(&uid(1)), Error::RecordTooNew { .. });
        assert_error!(host.create("d", &ext4(1)), Error::RecordTooNew { .. });
        assert_eq!(node.record(&uid(1))["version"], 2);
    });
}

/// M7, S12.
#[test]
fn a_replaced_volume_is_neither_mounted_nor_erased() {
    on_a_node(|node| {
        let host = node.host();
        let victim = node.dir().join("victim");
        std::fs::create_dir(&victim).unwrap();
        std::fs::write(victim.join("data"), "precious").unwrap();
        for i in 1..=6 {
            host.create("d", &ext4(i)).unwrap();
            host.fence(&uid(i)).unwrap();
        }
        let replace = |i: u32| {
            std::fs::remove_file(node.data(&uid(i))).unwrap();
            node.data(&uid(i))
        };
        symlink(victim.join("data"), replace(1)).unwrap();
        let made = std::process::Command::new("mkfifo").arg(replace(2)).status().unwrap();
        assert!(made.success());
        std::fs::create_dir(replace(3)).unwrap();
        std::fs::copy(node.volume(&uid(4)).join("record.json"), victim.join("record.json")).unwrap();
        std::fs::rename(node.volume(&uid(4)), node.dir().join("moved")).unwrap();
        symlink(&victim, node.volume(&uid(4))).unwrap();
        std::fs::copy(node.volume(&uid(5)).join("record.json"), victim.join("record.json")).unwrap();
        rustix::mount::mount_bind(&victim, node.volume(&uid(5))).unwrap();
        std::fs::write(node.volume(&uid(6)).join("notes.txt"), "somebody's").unwrap();
        for i in 1..=6 {
            assert!(host.erase(&uid(i), ErasePolicy::Zero).is_err(), "{i}");
        }
        assert_eq!(std::fs::read_to_string(victim.join("data")).unwrap(), "precious");
        assert!(node.data(&uid(6)).exists(), "nothing is erased beside something foreign");
        node.unmount_lazily(&node.volume(&uid(5)));
        host.unfence(&uid(6)).unwrap();
        for i in 1..=3 {
            host.unfence(&uid(i)).ok();
            assert!(host.publish(&node.request(&uid(i), "p", i, false)).is_err(), "{i}");
        }
        node.assert_base_line();
    });
}

/// M7, S12.
#[test]
fn a_volume_with_hostile_files_is_erased() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        let root = node.target("p", 0);
        symlink("/", root.join("slash")).unwrap();
        symlink("../../../../../..", root.join("up")).unwrap();
        let shell = root.join("suid");
        std::fs::copy("/bin/sh", &shell).unwrap();
        std::fs::set_permissions(&shell, PermissionsExt::from_mode(0o4755)).unwrap();
        let mut deep = root.clone();
        for i in 0..200 {
            deep.push(format!("d{}", i % 3));
        }
        std::fs::create_dir_all(deep).unwrap();
        for i in 0..2000 {
            std::fs::write(root.join(format!("\u{1}\n{i}")), "").unwrap();
        }
        host.unpublish(&root).unwrap();
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        assert!(Path::new("/bin/sh").exists());
        node.assert_base_line();
    });
}

/// L5, X3: a freeze by a container with CAP_SYS_ADMIN, also through a read-only mount, ends with its pod. Writers go on, and
/// the volume can be destroyed.
#[test]
fn l5_a_freeze_ends_with_the_pod_that_made_it() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "writer", 0, false)).unwrap();
        host.publish(&node.request(&uid(1), "reader", 1, true)).unwrap();
        let (writer, reader) = (node.target("writer", 0), node.target("reader", 1));
        assert!(fsfreeze("--freeze", &reader));
        let mut write = Command::new("touch").arg(writer.join("data")).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert!(write.try_wait().unwrap().is_none(), "the writer hangs");

        host.unpublish(&reader).unwrap();

        let was_frozen = fsfreeze("--unfreeze", &writer);
        assert!(write.wait().unwrap().success());
        assert!(!was_frozen, "the volume stays frozen without the pod that froze it");
        assert!(fsfreeze("--freeze", &writer));
        host.unpublish(&writer).unwrap();
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        node.assert_base_line();
    });
}

/// S13.
#[test]
fn impossible_sizes_are_refused() {
    on_a_node(|node| {
        let host = node.host();
        for (fs_type, size_bytes) in [
            (FsType::Ext4, 0),
            (FsType::Ext4, 4096),
            (FsType::Ext4, u64::MAX),
            (FsType::Ext4, 1 << 63),
            (FsType::Xfs, 32 * MIB),
        ] {
            let spec = VolumeSpec { fs_type, size_bytes, ..ext4(1) };
            assert_error!(host.create("d", &spec), Error::InvalidArgument(_));
            assert!(!node.volume(&uid(1)).exists());
        }
        // The smallest size works, and so does an odd number of bytes.
        for (i, fs_type) in [(1, FsType::Ext4), (40, FsType::Xfs)] {
            let spec = VolumeSpec { fs_type, size_bytes: fs_type.min_bytes() + 4095, ..ext4(i) };
            host.create("d", &spec).unwrap();
            assert_eq!(std::fs::metadata(node.data(&uid(i))).unwrap().len(), fs_type.min_bytes());
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
            host.unpublish(&node.target("p", i)).unwrap();
        }
    });
}

/// V10, S13. The file systems of two volumes are damaged in a directory, and then beyond use.
#[test]
fn v10_a_corrupt_file_system_costs_its_own_volume_only() {
    on_a_node(|node| {
        const NAME: &str = "a-name-in-the-directory";
        const START: usize = 8 << 10;
        let host = node.host();
        for spec in [ext4(1), xfs(2), ext4(3)] {
            host.create("d", &spec).unwrap();
        }
        let neighbour = node.request(&uid(3), "p", 3, false);
        host.publish(&neighbour).unwrap();
        let neighbour_works = || {
            write(&neighbour.target, "file", "intact");
            assert_eq!(read(&neighbour.target, "file"), "intact");
            assert_eq!(host.disks()[0].error, None, "the disk serves");
        };
        for i in [1, 2] {
            let request = node.request(&uid(i), "p", i, false);
            let directory = request.target.join("directory");
            host.publish(&request).unwrap();
            std::fs::create_dir(&directory).unwrap();
            write(&directory, NAME, "");
            host.unpublish(&request.target).unwrap();
            eventually("its loop device is there", || loops(node.dir()).len() == 1);

            // The superblocks stay as they are.
            let file = std::fs::File::options().read(true).write(true).open(node.data(&uid(i))).unwrap();
            let mut start = vec![0; 16 << 20];
            file.read_exact_at(&mut start, 0).unwrap();
            let places: Vec<usize> = start
                .windows(NAME.len())
                .enumerate()
                .filter_map(|(at, bytes)| (bytes == NAME.as_bytes()).then_some(at))
                .collect();
            assert!(!places.is_empty());
            for at in places {
                file.write_all_at(&[0xff; NAME.len()], at as u64).unwrap();
            }
            host.publish(&request).unwrap();
            assert!(
                std::fs::read_dir(&directory).and_then(|found| found.collect::<Result<Vec<_>, _>>()).is_err()
            );
            neighbour_works();
            host.unpublish(&request.target).unwrap();
            eventually("its loop device is there", || loops(node.dir()).len() == 1);

            let damage = vec![0xff; 1 << 20];
            file.write_all_at(&damage, START as u64).unwrap();
            for _ in 0..2 {
                assert!(host.publish(&request).is_err(), "the kernel mounts no such file system");
                let mut now = vec![0; damage.len()];
                file.read_exact_at(&mut now, START as u64).unwrap();
                assert!(now == damage, "nothing is made of it");
            }
            assert_eq!(node.mounts().len(), 1, "the neighbour's");
            neighbour_works();
        }
        for i in [1, 2] {
            host.fence(&uid(i)).unwrap();
            host.erase(&uid(i), ErasePolicy::Discard).unwrap();
            assert!(!node.data(&uid(i)).exists());
        }
        neighbour_works();
        host.unpublish(&neighbour.target).unwrap();
        node.assert_base_line();
    });
}

/// V10, L3. Each of two volumes has its own defect.
#[test]
fn v10_a_damaged_volume_stops_no_other_unpublish() {
    on_a_node(|node| {
        let host = node.host();
        for i in [1, 2] {
            host.create("d", &ext4(i)).unwrap();
        }
        host.publish(&node.request(&uid(2), "p", 0, false)).unwrap();
        std::fs::write(node.volume(&uid(2)).join("record.json"), "torn").unwrap();
        std::fs::remove_file(node.data(&uid(1))).unwrap();
        std::fs::create_dir(node.data(&uid(1))).unwrap();
        host.unpublish_likely(&node.target("p", 0), Some(&uid(2))).unwrap();
        node.assert_base_line();
    });
}
