//! Volumes in pods: modes, repetition, exclusiveness.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::time::Duration;

use reservoir::host::{Error, MountOption, Publish, VolumeSpec};
use serde_json::json;

use crate::assert_error;
use crate::support::*;

/// M4, S16, L3. spiffe-csi 331: mounts doubled at every publish.
#[test]
fn spiffe_csi_331_repeated_publishes_mount_once() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(25)] {
            host.create("d", &spec).unwrap();
            let request = node.request(&spec.uid, "p", 0, false);
            for _ in 0..3 {
                host.publish(&request).unwrap();
            }
            assert_eq!(node.mounts().len(), 1, "never stacked");
            assert_eq!(loops(node.dir()).len(), 1);
            write(&request.target, "f", "kept");
            for _ in 0..3 {
                host.unpublish(&request.target).unwrap();
            }
            assert!(!request.target.exists());
            node.assert_base_line();
            host.publish(&request).unwrap();
            assert_eq!(read(&request.target, "f"), "kept");
            host.unpublish(&request.target).unwrap();
            assert_eq!(node.record(&spec.uid)["publishes"], json!({}));
        }
        host.unpublish(&node.target("never", 0)).unwrap();
        host.unpublish(&node.kubelet().join("pods/no/such/pod")).unwrap();
    });
}

/// V4, V12, M1, M3, S9.
#[test]
fn readers_and_writers_share_a_volume_in_any_order() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(26)] {
            host.create("d", &spec).unwrap();
            let publish = |pod: &str, read_only| {
                let request = node.request(&spec.uid, pod, 0, read_only);
                host.publish(&request).unwrap();
                request.target
            };
            let before = publish("reader-before", true);
            let writer = publish("writer", false);
            let between = publish("reader-between", true);
            let writer_2 = publish("writer-2", false);
            write(&writer, "a", "1");
            write(&writer_2, "b", "2");
            let after = publish("reader-after", true);
            for reader in [&before, &between, &after] {
                assert_eq!((read(reader, "a"), read(reader, "b")), ("1".into(), "2".into()));
                let refused = std::fs::write(reader.join("c"), "3").unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
                node.assert_locked(reader);
            }
            host.unpublish(&writer).unwrap();
            assert_eq!(read(&before, "a"), "1");
            let writer_3 = publish("writer-3", false);
            write(&writer_3, "d", "4");
            for (path, options) in node.mounts() {
                let has = |option: &str| options.split(',').any(|o| o == option);
                assert!(has("nosuid") && has("nodev"), "{options}");
                assert_eq!(has("ro"), path.to_str().unwrap().contains("reader"), "{path:?} {options}");
            }
            for target in [before, between, after, writer_2, writer_3] {
                host.unpublish(&target).unwrap();
            }
            node.assert_base_line();
        }
    });
}

/// Bidirectional propagation: the kubelet outside has to see the mounts of an agent in a container. M3, S9.
#[test]
fn m3_mounts_propagate_to_the_machine_and_back() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let step = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // A copy of this namespace. The two share the kubelet's directory.
                new_namespace();
                step.wait();
                step.wait();
                let seen = node.mounts();
                step.wait();
                step.wait();
                assert_eq!(seen.len(), 2);
                for (path, options) in seen {
                    let read_only = options.split(',').any(|option| option == "ro");
                    assert_eq!(read_only, path == node.target("reader", 0), "{options}");
                }
                assert_eq!(node.mounts(), []);
            });
            step.wait();
            host.publish(&node.request(&uid(1), "reader", 0, true)).unwrap();
            host.publish(&node.request(&uid(1), "writer", 0, false)).unwrap();
            step.wait();
            step.wait();
            for pod in ["reader", "writer"] {
                host.unpublish(&node.target(pod, 0)).unwrap();
            }
            step.wait();
        });
        node.assert_base_line();
    });
}

/// M1, V4.
#[test]
fn one_pod_may_mount_a_volume_in_both_modes() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &exclusive(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        host.publish(&node.request(&uid(1), "p", 1, true)).unwrap();
        write(&node.target("p", 0), "f", "x");
        assert_eq!(read(&node.target("p", 1), "f"), "x");
        assert!(std::fs::write(node.target("p", 1).join("g"), "x").is_err());
        // One target has one mode.
        assert_error!(host.publish(&node.request(&uid(1), "p", 0, true)), Error::Conflict(_));
        assert_eq!(node.mounts().len(), 2);
        host.unpublish(&node.target("p", 0)).unwrap();
        host.unpublish(&node.target("p", 1)).unwrap();
        node.assert_base_line();
    });
}

/// M2, S6.
#[test]
fn m2_an_exclusive_volume_has_one_pod_at_a_time() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &exclusive(1)).unwrap();
        host.publish(&node.request(&uid(1), "first", 0, false)).unwrap();
        assert_error!(
            host.publish(&node.request(&uid(1), "second", 0, true)),
            Error::Held { holder, .. } if holder == "team/first"
        );
        // The first pod is deleted by force. Its container lives on in its own namespace.
        let lingering = Elsewhere::new(node, &node.target("first", 0));
        host.unpublish(&node.target("first", 0)).unwrap();
        assert_error!(host.publish(&node.request(&uid(1), "second", 0, true)), Error::Busy { .. });
        assert_eq!(node.record(&uid(1))["publishes"], json!({}));
        drop(lingering);
        eventually("never free", || host.publish(&node.request(&uid(1), "second", 0, true)).is_ok());
        host.unpublish(&node.target("second", 0)).unwrap();
        node.assert_base_line();
    });
}

/// F1, S6: a Deployment's new pod starts before the old one ends. No pod of another claim comes in.
#[test]
fn f1_the_pods_of_one_node_share_a_claim() {
    on_a_node(|node| {
        let host = node.host();
        let request = |pod: &str, claim: &str, with_others| Publish {
            claim_uid: claim.to_owned(),
            with_others,
            ..node.request(&uid(1), pod, 0, false)
        };
        host.create("d", &exclusive(1)).unwrap();
        host.publish(&request("old", "claim", true)).unwrap();
        for (claim, with_others) in [("another", true), ("claim", false)] {
            assert_error!(host.publish(&request("new", claim, with_others)), Error::Held { .. });
        }
        host.publish(&request("new", "claim", true)).unwrap();
        write(&node.target("old", 0), "f", "x");
        assert_eq!(read(&node.target("new", 0), "f"), "x");
        host.unpublish(&node.target("old", 0)).unwrap();
        let refused = host.publish(&request("late", "another", true)).unwrap_err().to_string();
        assert!(
            refused.contains("pod team/new has it") && refused.contains("strategy.type Recreate"),
            "{refused}"
        );
        // A lingering pod of an earlier claim keeps the volume busy.
        let lingering = Elsewhere::new(node, &node.target("new", 0));
        host.unpublish(&node.target("new", 0)).unwrap();
        assert_error!(host.publish(&request("late", "another", true)), Error::Busy { .. });
        drop(lingering);
        eventually("never free", || host.publish(&request("late", "another", true)).is_ok());
        host.unpublish(&node.target("late", 0)).unwrap();
        node.assert_base_line();
    });
}

/// M1, S16.
#[test]
fn a_shared_volume_is_mounted_beside_a_lingering_pod() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(27)] {
            host.create("d", &spec).unwrap();
            host.publish(&node.request(&spec.uid, "first", 0, false)).unwrap();
            write(&node.target("first", 0), "f", "x");
            let lingering = Elsewhere::new(node, &node.target("first", 0));
            host.unpublish(&node.target("first", 0)).unwrap();
            host.publish(&node.request(&spec.uid, "second", 0, true)).unwrap();
            assert_eq!(read(&node.target("second", 0), "f"), "x");
            assert_eq!(loops(node.dir()).len(), 1, "one device, one superblock");
            host.unpublish(&node.target("second", 0)).unwrap();
            drop(lingering);
            node.assert_base_line();
        }
    });
}

/// M4, L3. lvm-localpv 461: unpublish reported success after EBUSY.
#[test]
fn lvm_localpv_461_unpublish_of_a_busy_mount_fails() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let request = node.request(&uid(1), "p", 0, false);
        host.publish(&request).unwrap();
        let mut open = File::create(request.target.join("open")).unwrap();
        assert_error!(host.unpublish(&request.target), Error::Busy { .. });
        assert_eq!(node.mounts().len(), 1);
        assert_eq!(node.record(&uid(1))["publishes"].as_object().unwrap().len(), 1);
        open.write_all(b"still works").unwrap();
        drop(open);
        host.unpublish(&request.target).unwrap();
        node.assert_base_line();
    });
}

/// X2, S10.
#[test]
fn x2_a_fenced_volume_accepts_no_new_user() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        let report = host.fence(&uid(1)).unwrap();
        assert!(report.in_use);
        let users: Vec<_> = report.users.values().map(|user| user.pod.name.as_str()).collect();
        assert_eq!(users, ["p"]);
        assert_error!(host.publish(&node.request(&uid(1), "q", 0, false)), Error::Fenced(_));
        assert_error!(host.publish(&node.request(&uid(1), "p", 1, false)), Error::Fenced(_));
        // The kubelet repeats an earlier publish.
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        host.unfence(&uid(1)).unwrap();
        host.publish(&node.request(&uid(1), "q", 0, false)).unwrap();
        for pod in ["p", "q"] {
            host.unpublish(&node.target(pod, 0)).unwrap();
        }
        let report = host.fence(&uid(1)).unwrap();
        assert!(report.users.is_empty() && !report.in_use);
        // The record loses a use whose mount is gone.
        host.unfence(&uid(1)).unwrap();
        host.publish(&node.request(&uid(1), "r", 0, false)).unwrap();
        node.unmount_lazily(&node.target("r", 0));
        assert!(host.fence(&uid(1)).unwrap().users.is_empty());
        drop(host);
        // The fence outlives the agent.
        assert_error!(node.host().publish(&node.request(&uid(1), "p", 0, false)), Error::Fenced(_));
        node.assert_base_line();
    });
}

/// M1, M4, S16.
#[test]
fn sixteen_concurrent_pods_leave_no_mount() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(0)).unwrap();
        host.create("d", &ext4(1)).unwrap();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for i in 0..16u32 {
                    let host = &host;
                    scope.spawn(move || {
                        let request = node.request(&uid(i % 2), &format!("p{i}"), 0, i % 3 == 0);
                        host.publish(&request).unwrap();
                        host.publish(&request).unwrap();
                        assert_eq!(std::fs::write(request.target.join("f"), "x").is_err(), request.read_only);
                        host.unpublish(&request.target).unwrap();
                    });
                }
            });
            node.assert_base_line();
        }
        // Many publishes at one target: one volume gets the target, and is mounted once.
        let published: usize = std::thread::scope(|scope| {
            let publish = |i: u32| host.publish(&node.request(&uid(i % 2), "p", 0, false)).is_ok();
            let threads: Vec<_> = (0..16u32).map(|i| scope.spawn(move || publish(i))).collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!(published, 8);
        assert_eq!(node.mounts().len(), 1);
        host.unpublish(&node.target("p", 0)).unwrap();
        node.assert_base_line();
        assert_eq!(node.record(&uid(0))["publishes"], json!({}));
        assert_eq!(node.record(&uid(1))["publishes"], json!({}));
    });
}

/// V5.
#[test]
fn v5_a_full_volume_keeps_its_blocks_and_no_others() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        host.create("d", &ext4(2)).unwrap();
        // A new loop device discards. A device that Reservoir has used does not discard any more.
        let device = NewLoop::attach(&node.data(&uid(1)));
        let limit = format!("/sys/block/loop{}/queue/discard_max_bytes", device.number);
        assert_ne!(std::fs::read_to_string(&limit).unwrap().trim(), "0");
        for i in [1, 2] {
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&limit).unwrap().trim(), "0");
        let blocks = || std::fs::metadata(node.data(&uid(1))).unwrap().blocks();
        let (before, full) = (blocks(), node.target("p", 1));
        let mut file = File::create(full.join("big")).unwrap();
        let refused = loop {
            if let Err(error) = file.write_all(&[7; 65536]).and_then(|()| file.sync_data()) {
                break error;
            }
        };
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert!(host.usage(&uid(1)).unwrap().available_bytes < 65536);
        write(&node.target("p", 2), "neighbour", "fine");
        write(&node.dir().join("disk"), "host", "fine");
        drop(file);
        // Free blocks of the volume stay allocated on the disk, also after a discard.
        std::fs::remove_file(full.join("big")).unwrap();
        rustix::fs::syncfs(File::open(&full).unwrap()).unwrap();
        let _ = std::process::Command::new("fstrim").arg(&full).output();
        assert_eq!(blocks(), before);
        for i in [1, 2] {
            host.unpublish(&node.target("p", i)).unwrap();
        }
        host.recover();
        node.assert_base_line();
    });
}

/// M6.
#[test]
fn m6_usage_is_the_volumes_own() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(28)] {
            host.create("d", &spec).unwrap();
            let idle = host.usage(&spec.uid).unwrap();
            assert!(
                idle.total_bytes > spec.size_bytes / 2 && idle.total_bytes <= spec.size_bytes,
                "{idle:?}"
            );
            node.assert_base_line();
            host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
            std::fs::write(node.target("p", 0).join("f"), vec![1; 4 << 20]).unwrap();
            rustix::fs::syncfs(File::open(node.target("p", 0)).unwrap()).unwrap();
            let used = host.usage(&spec.uid).unwrap();
            assert!(used.used_bytes >= idle.used_bytes + (4 << 20), "{idle:?} {used:?}");
            assert_eq!(used.used_inodes, idle.used_inodes + 1);
            assert_eq!(host.usage_at(&spec.uid, "claim", &node.target("p", 0)).unwrap(), used);
            for elsewhere in [node.target("q", 0), node.dir().to_owned()] {
                assert_error!(host.usage_at(&spec.uid, "claim", &elsewhere), Error::NotFound(_));
            }
            host.unpublish(&node.target("p", 0)).unwrap();
        }
        assert_error!(host.usage(&uid(3)), Error::NotFound(_));
    });
}

/// V12.
#[test]
fn v12_mounts_have_the_volumes_options() {
    on_a_node(|node| {
        let host = node.host();
        let mount_options = vec![MountOption::Noexec, MountOption::Noatime];
        host.create("d", &VolumeSpec { mount_options, ..ext4(1) }).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        let options = node.mounts().remove(0).1;
        for option in ["noexec", "noatime", "nosuid", "nodev", "rw"] {
            assert!(options.split(',').any(|o| o == option), "{options}");
        }
        host.unpublish(&node.target("p", 0)).unwrap();
    });
}

#[test]
fn a_missing_device_node_is_made() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        // A container gets its /dev at its start, without later devices.
        let dev = node.dir().join("dev");
        std::fs::create_dir(&dev).unwrap();
        std::fs::write(dev.join("loop-control"), "").unwrap();
        rustix::mount::mount_bind("/dev/loop-control", dev.join("loop-control")).unwrap();
        std::fs::create_dir(dev.join("shm")).unwrap();
        rustix::mount::mount_bind_recursive(&dev, "/dev").unwrap();
        assert!(!std::fs::exists("/dev/loop0").unwrap());
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        write(&node.target("p", 0), "f", "x");
        let device = loops(node.dir()).remove(0);
        assert!(std::fs::exists(format!("/dev/{device}")).unwrap());
        host.unpublish(&node.target("p", 0)).unwrap();
        assert!(!host.fence(&uid(1)).unwrap().in_use);
        // The agent does not use a device node with another device than its name says.
        host.unfence(&uid(1)).unwrap();
        for i in 0..4096 {
            let _ = std::fs::remove_file(format!("/dev/loop{i}"));
            if !std::fs::exists(format!("/sys/block/loop{i}")).unwrap() {
                break;
            }
            std::fs::write(format!("/dev/loop{i}"), "a file").unwrap();
        }
        assert_error!(host.publish(&node.request(&uid(1), "p", 0, false)), Error::UnusableDevice(_));
        assert_eq!(node.mounts(), []);
    });
}

/// M4, L3. A publish waits for a resize, the kubelet's deadline passes, and the pod is deleted.
#[test]
fn m4_an_unpublish_waits_for_the_publish_before_it() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| host.resize(&uid(1), 24 * MIB).unwrap());
            eventually("it does not begin", || node.record(&uid(1))["resizing"].is_u64());
            let published = scope.spawn(|| host.publish(&node.request(&uid(1), "p", 0, false)));
            std::thread::sleep(Duration::from_millis(20));
            host.unpublish_likely(&node.target("p", 0), Some(&uid(1))).unwrap();
            drop(published.join().unwrap());
        });
        node.assert_base_line();
        assert!(node.record(&uid(1))["publishes"].as_object().unwrap().is_empty());
    });
}
