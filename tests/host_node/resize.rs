//! Volumes that grow and shrink (V7), and never lose a byte.

use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reservoir::host::{ErasePolicy, Error, FsType, Host, VolumeSpec, VolumeUid};
use serde_json::{Value, json};

use crate::assert_error;
use crate::support::*;

/// Bytes that differ by seed and position.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let word =
        |i: usize| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).wrapping_mul(0x2545_f491_4f6c_dd1d);
    (0..length / 8).flat_map(|i| word(i).to_le_bytes()).collect()
}

/// True if this process has CAP_SYS_RESOURCE, which the kernel requires for the growth of a mounted ext4.
fn may_grow_ext4() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(effective, 16).unwrap() & 1 << 24 != 0
}

/// Fills a mounted filesystem; returns the bytes written.
fn fill(mount: &Path) -> u64 {
    let path = mount.join("fill");
    let file = std::fs::File::create(&path).unwrap();
    let (chunk, mut offset) = (vec![7; 1 << 16], 0);
    let full = loop {
        match file.write_at(&chunk, offset) {
            Ok(written) => offset += written as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    drop(file);
    std::fs::remove_file(path).unwrap();
    offset
}

/// Asserts that the volume's file has this length, and that every block of it is allocated.
fn assert_allocated(node: &Node, uid: &VolumeUid, size: u64) {
    let found = std::fs::metadata(node.data(uid)).unwrap();
    assert_eq!(found.len(), size);
    assert!(found.blocks() * 512 >= size, "{} blocks for {size} bytes", found.blocks());
    assert_eq!(node.record(uid)["sizeBytes"], json!(size));
    assert_eq!(node.record(uid)["resizing"], Value::Null);
    assert!(!node.volume(uid).join("data.new").exists());
}

#[test]
fn v7_a_volume_grows_while_pods_write() {
    on_a_node(|node| {
        let host = node.host();
        for (spec, larger) in [(ext4(1), 160 * MIB), (xfs(31), 420 * MIB)] {
            let uid = &spec.uid;
            host.create("d", &spec).unwrap();
            let (writes, reads) = (node.target("w", 0), node.target("r", 0));
            host.publish(&node.request(uid, "w", 0, false)).unwrap();
            host.publish(&node.request(uid, "r", 0, true)).unwrap();
            let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
            let mut grown = false;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let round = rounds.fetch_add(1, Ordering::Relaxed);
                        let (name, text) = (format!("f{}", round % 8), pattern(round, 256 << 10));
                        std::fs::write(writes.join(&name), &text).unwrap();
                        assert!(std::fs::read(reads.join(&name)).unwrap() == text);
                    }
                });
                let go_on = |more| {
                    let now = rounds.load(Ordering::Relaxed);
                    eventually("nobody writes", || rounds.load(Ordering::Relaxed) >= now + more);
                };
                go_on(3);
                let resized = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    for size in [spec.size_bytes + 4 * MIB, larger, larger] {
                        match host.resize(uid, size) {
                            Err(Error::Busy { what }) if spec.fs_type == FsType::Ext4 && !may_grow_ext4() => {
                                println!("this machine denies CAP_SYS_RESOURCE to us: {what} stays as it is");
                                assert!(what.contains("CAP_SYS_RESOURCE"));
                                assert_eq!(node.record(uid)["sizeBytes"], json!(spec.size_bytes));
                                go_on(3);
                                return false;
                            }
                            result => result.unwrap(),
                        }
                        assert_allocated(node, uid, size);
                        go_on(3);
                    }
                    true
                }));
                stop.store(true, Ordering::Relaxed);
                grown = resized.unwrap();
            });
            if !grown {
                // The volume grows after its last pod has ended, and keeps its files.
                for target in [&writes, &reads] {
                    host.unpublish(target).unwrap();
                }
                host.resize(uid, larger).unwrap();
                assert_allocated(node, uid, larger);
                host.publish(&node.request(uid, "w", 0, false)).unwrap();
                host.publish(&node.request(uid, "r", 0, true)).unwrap();
            }
            assert!(host.usage(uid).unwrap().total_bytes > larger * 7 / 10);
            let filled = fill(&writes);
            assert!(filled > larger * 6 / 10 && filled < larger, "ENOSPC at the new size, not at {filled}");
            let last = rounds.load(Ordering::Relaxed) - 1;
            assert!(std::fs::read(reads.join(format!("f{}", last % 8))).unwrap() == pattern(last, 256 << 10));
            assert_eq!(node.mounts().len(), 2, "no mount is left behind");
            for target in [&writes, &reads] {
                host.unpublish(target).unwrap();
            }
            // The unused volume grows once more.
            host.resize(uid, larger + 8 * MIB).unwrap();
            assert_allocated(node, uid, larger + 8 * MIB);
            host.create("d", &VolumeSpec { size_bytes: larger + 8 * MIB, ..spec.clone() }).unwrap();
            node.assert_base_line();
        }
    });
}

#[test]
fn v7_an_unused_volume_shrinks_with_its_files() {
    on_a_node(|node| {
        let host = node.host();
        let (uid, target) = (&uid(1), node.target("p", 0));
        host.create("d", &VolumeSpec { size_bytes: 160 * MIB, mode: Some(0o1777), ..ext4(1) }).unwrap();
        host.publish(&node.request(uid, "p", 0, false)).unwrap();
        // Data is at both ends: the files in the middle are removed.
        for i in 0..14 {
            std::fs::write(target.join(format!("f{i}")), pattern(i, 8 << 20)).unwrap();
        }
        for i in 1..12 {
            std::fs::remove_file(target.join(format!("f{i}"))).unwrap();
        }
        std::fs::hard_link(target.join("f13"), target.join("link")).unwrap();
        std::os::unix::fs::symlink("f13", target.join("symlink")).unwrap();
        rustix::fs::setxattr(target.join("f0"), "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
        assert_error!(host.resize(uid, 64 * MIB), Error::Busy { .. });
        let elsewhere = Elsewhere::new(node, &target);
        host.unpublish(&target).unwrap();
        assert_error!(host.resize(uid, 64 * MIB), Error::Busy { .. });
        drop(elsewhere);
        eventually("the other namespace stays", || host.resize(uid, 64 * MIB).is_ok());
        assert_allocated(node, uid, 64 * MIB);
        host.resize(uid, 64 * MIB).unwrap();

        assert_error!(host.resize(uid, 20 * MIB), Error::TooSmall { needed, .. } if needed > 24 * MIB);
        assert_error!(host.resize(uid, 26 * MIB), Error::TooSmall { needed, wanted, .. } if needed > wanted);
        assert_error!(host.resize(uid, MIB), Error::InvalidArgument(_));
        host.fence(uid).unwrap();
        assert_error!(host.resize(uid, 32 * MIB), Error::Fenced(_));
        host.unfence(uid).unwrap();
        assert_allocated(node, uid, 64 * MIB);

        host.publish(&node.request(uid, "p", 0, false)).unwrap();
        for i in [0, 12, 13] {
            assert!(std::fs::read(target.join(format!("f{i}"))).unwrap() == pattern(i, 8 << 20), "f{i}");
        }
        let ino = |name| std::fs::metadata(target.join(name)).unwrap().ino();
        assert_eq!((ino("link"), ino("symlink")), (ino("f13"), ino("f13")));
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(target.join("f0"), "user.k", &mut value).unwrap();
        assert_eq!(&value[..length], b"v");
        assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o7777, 0o1777);
        assert!(fill(&target) < 40 * MIB, "ENOSPC at the new size");
        host.unpublish(&target).unwrap();
        node.assert_base_line();
    });
}

/// F4. e2fsck makes a `lost+found` where there is none. A volume from an older Reservoir keeps the one that it has.
#[test]
fn f4_a_resize_leaves_lost_and_found_as_it_was() {
    on_a_node(|node| {
        let host = node.host();
        let names = || {
            host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
            let names = std::fs::read_dir(node.target("p", 0)).unwrap();
            let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            host.unpublish(&node.target("p", 0)).unwrap();
            names
        };
        host.create("d", &VolumeSpec { size_bytes: 64 * MIB, ..ext4(1) }).unwrap();
        for size in [32, 96, 64] {
            host.resize(&uid(1), size * MIB).unwrap();
            assert!(names().is_empty(), "{size} MiB");
        }
        assert_error!(host.resize(&uid(1), 16 * MIB - 4096), Error::InvalidArgument(_));
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        std::fs::create_dir(node.target("p", 0).join("lost+found")).unwrap();
        host.unpublish(&node.target("p", 0)).unwrap();
        host.resize(&uid(1), 32 * MIB).unwrap();
        assert_eq!(names(), ["lost+found"]);
        node.assert_base_line();
    });
}

/// V7. Two checks refuse a small size: the number of taken bytes, and resize2fs on the copy.
#[test]
fn v7_a_refused_shrink_names_a_size_that_is_accepted() {
    on_a_node(|node| {
        let host = node.host();
        let (uid, target) = (&uid(1), node.target("p", 0));
        host.create("d", &VolumeSpec { size_bytes: 160 * MIB, ..ext4(1) }).unwrap();
        host.publish(&node.request(uid, "p", 0, false)).unwrap();
        std::fs::write(target.join("f"), pattern(1, 20 << 20)).unwrap();
        // Small files take inodes, whose tables a smaller filesystem has fewer of.
        (0..600).for_each(|i| write(&target, &format!("small-{i}"), "text"));
        host.unpublish(&target).unwrap();
        let mut refused = 0;
        for size in (24..40).step_by(2) {
            match host.resize(uid, size * MIB) {
                Err(Error::TooSmall { needed, wanted, .. }) => {
                    assert!(needed > wanted, "{needed} {wanted}");
                    host.resize(uid, needed).unwrap_or_else(|error| panic!("{size} MiB: {error}"));
                    assert_allocated(node, uid, needed);
                    refused += 1;
                }
                result => result.unwrap(),
            }
            host.resize(uid, 160 * MIB).unwrap();
        }
        assert!(refused > 1);
        host.publish(&node.request(uid, "p", 0, false)).unwrap();
        assert!(std::fs::read(target.join("f")).unwrap() == pattern(1, 20 << 20));
        host.unpublish(&target).unwrap();
        node.assert_base_line();
    });
}

#[test]
fn v7_a_refused_resize_changes_nothing() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &xfs(32)).unwrap();
        assert_error!(host.resize(&uid(32), 302 * MIB), Error::Unsupported(_));
        assert_allocated(node, &uid(32), 304 * MIB);

        host.create("d", &ext4(1)).unwrap();
        let free = host.disks()[0].free;
        assert_error!(host.resize(&uid(1), free + 1024 * MIB), Error::NoSpace { .. });
        assert_allocated(node, &uid(1), 32 * MIB);
        assert_error!(host.resize(&uid(9), 64 * MIB), Error::NotFound(_));

        // The damage is one that `e2fsck -p` does not repair.
        let file = std::fs::File::options().write(true).open(node.data(&uid(1))).unwrap();
        file.write_all_at(&[0xff; 4096], 4096).unwrap();
        file.write_all_at(&vec![0xff; 1 << 20], 1 << 20).unwrap();
        assert_error!(host.resize(&uid(1), 20 * MIB), Error::Command { .. } | Error::TooSmall { .. });
        assert_allocated(node, &uid(1), 32 * MIB);
        node.assert_base_line();
    });
}

/// A volume of 64 MiB with a file in it.
fn with_data(node: &Node, host: &Host, i: u32) {
    host.create("d", &VolumeSpec { size_bytes: 64 * MIB, ..ext4(i) }).unwrap();
    host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
    std::fs::write(node.target("p", i).join("precious"), pattern(u64::from(i), 4 << 20)).unwrap();
    host.unpublish(&node.target("p", i)).unwrap();
}

fn assert_data(node: &Node, host: &Host, i: u32) {
    host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
    let found = std::fs::read(node.target("p", i).join("precious")).unwrap();
    assert!(found == pattern(u64::from(i), 4 << 20), "the data of volume {i}");
    write(&node.target("p", i), "more", "text");
    host.unpublish(&node.target("p", i)).unwrap();
}

#[test]
fn v7_a_resize_goes_on_after_a_crash_at_any_step() {
    on_a_node(|node| {
        let host = node.host();
        let resizing = |i: u32, size: u64| node.edit(&uid(i), |record| record["resizing"] = json!(size));
        let file = |i: u32| std::fs::File::options().write(true).open(node.data(&uid(i))).unwrap();
        // The remains of a killed agent, and true if the wanted size is larger.
        let steps: [(bool, &dyn Fn(u32)); 6] = [
            (true, &|i| resizing(i, 96 * MIB)),
            (true, &|i| {
                resizing(i, 96 * MIB);
                file(i).set_len(96 * MIB).unwrap();
            }),
            (false, &|i| {
                resizing(i, 32 * MIB);
                std::fs::write(node.volume(&uid(i)).join("data.new"), "half a copy").unwrap();
            }),
            (false, &|i| {
                // The resize is committed, and the copy not yet installed.
                resizing(i, 32 * MIB);
                node.edit(&uid(i), |record| record["sizeBytes"] = json!(32 * MIB));
                std::fs::copy(node.data(&uid(i)), node.volume(&uid(i)).join("data.new")).unwrap();
            }),
            (false, &|i| {
                // The copy is installed, and its holes are not yet filled.
                host.resize(&uid(i), 32 * MIB).unwrap();
                resizing(i, 32 * MIB);
                assert!(
                    Command::new("fallocate").arg("-d").arg(node.data(&uid(i))).status().unwrap().success()
                );
                assert!(std::fs::metadata(node.data(&uid(i))).unwrap().blocks() * 512 < 32 * MIB);
            }),
            (true, &|i| {
                // Everything is done except the last write of the record.
                host.resize(&uid(i), 96 * MIB).unwrap();
                resizing(i, 96 * MIB);
                node.edit(&uid(i), |record| record["sizeBytes"] = json!(64 * MIB));
            }),
        ];
        for (step, (larger, left)) in steps.into_iter().enumerate() {
            // The same size again, the old size, and a third one, always with a pod in between.
            for (way, size) in [if larger { 96 } else { 32 }, 64, 48].into_iter().enumerate() {
                let i = (step * 3 + way) as u32;
                with_data(node, &host, i);
                left(i);
                assert_data(node, &host, i);
                host.resize(&uid(i), size * MIB).unwrap();
                assert_allocated(node, &uid(i), size * MIB);
                assert_data(node, &host, i);
                node.assert_base_line();
                std::fs::remove_dir_all(node.volume(&uid(i))).unwrap();
            }
        }
    });
}

#[test]
#[ignore = "it is the process that the next test kills"]
fn victim() {
    if let Some(node) = Node::of_victim() {
        let host = node.next_host();
        for size in [48, 96, 40, 64].into_iter().cycle() {
            host.resize(&uid(1), size * MIB).unwrap();
        }
    }
}

#[test]
fn v7_an_agent_may_be_killed_while_it_resizes() {
    on_a_node(|node| {
        let host = node.host();
        with_data(node, &host, 1);
        drop(host);
        for i in 0..40u64 {
            node.kill_after("resize::victim", Duration::from_micros(10_000 + i * i * 7919 % 200_000));
            let host = node.next_host();
            host.recover()
                .into_iter()
                .for_each(|(uid, found)| drop(found.unwrap_or_else(|e| panic!("{uid}: {e}"))));
            assert_data(node, &host, 1);
            if i % 3 == 0 {
                host.resize(&uid(1), 80 * MIB).unwrap();
                assert_allocated(node, &uid(1), 80 * MIB);
                assert_data(node, &host, 1);
            }
            node.assert_base_line();
        }
    });
}

/// The beginning of each block of data that must not remain.
const SECRET: &[u8] = b"a secret of the volume";

/// A volume of 64 MiB with erase policy Zero and a file of 24 MiB of secrets.
fn with_secrets(node: &Node, host: &Host, i: u32) {
    let erase_policy = Some(ErasePolicy::Zero);
    host.create("d", &VolumeSpec { size_bytes: 64 * MIB, erase_policy, ..ext4(i) }).unwrap();
    host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
    let mut block = vec![0; 4096];
    block[..SECRET.len()].copy_from_slice(SECRET);
    std::fs::write(node.target("p", i).join("secrets"), block.repeat(6 << 10)).unwrap();
    std::fs::write(node.target("p", i).join("precious"), pattern(u64::from(i), 4 << 20)).unwrap();
    host.unpublish(&node.target("p", i)).unwrap();
}

/// Asserts that the secrets are in the volume, and nowhere else on the disk.
fn assert_only_in(node: &Node, disk: &RawDisk, i: u32) {
    let (everywhere, inside) = disk.count(SECRET, &node.data(&uid(i)));
    assert!(
        inside >= 6 << 10 && everywhere == inside,
        "{everywhere} blocks on the disk, {inside} in volume {i}"
    );
}

/// True if a process has a file open beneath a directory.
fn is_open(directory: &Path) -> bool {
    let open = |process: std::fs::DirEntry| {
        let files = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        files
            .map(|file| file.path())
            .any(|file| std::fs::read_link(file).is_ok_and(|at| at.starts_with(directory)))
    };
    std::fs::read_dir("/proc").unwrap().flatten().any(open)
}

#[test]
fn x4_a_smaller_volume_leaves_nothing_of_the_larger_one() {
    on_a_node(|node| {
        let disk = RawDisk::new(node, 320 * MIB);
        let host = node.host();
        with_secrets(node, &host, 1);
        assert_only_in(node, &disk, 1);
        // Some copies are too small; the last one is large enough.
        let sizes = (32..64).map(|size| size * MIB);
        let mut tried = sizes.skip_while(|size| match host.resize(&uid(1), *size) {
            Err(Error::TooSmall { .. }) => {
                assert_only_in(node, &disk, 1);
                true
            }
            result => result.map(|()| false).unwrap(),
        });
        let size = tried.next().unwrap();
        assert_allocated(node, &uid(1), size);
        assert_only_in(node, &disk, 1);
        assert_data(node, &host, 1);

        // A killed agent left another copy. The volume is erased before the resize is repeated.
        host.resize(&uid(1), 64 * MIB).unwrap();
        std::fs::copy(node.data(&uid(1)), node.volume(&uid(1)).join("data.new")).unwrap();
        let (everywhere, inside) = disk.count(SECRET, &node.data(&uid(1)));
        assert_eq!(everywhere, inside * 2);
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Zero).unwrap();
        assert_eq!(disk.count(SECRET, &node.data(&uid(1))), (0, 0));
        node.assert_base_line();
    });
}

#[test]
fn x4_v7_a_killed_resize_leaves_no_secret() {
    on_a_node(|node| {
        let disk = RawDisk::new(node, 512 * MIB);
        let host = node.host();
        with_secrets(node, &host, 1);
        drop(host);
        for i in 0..24u64 {
            node.kill_after("resize::victim", Duration::from_micros(10_000 + i * i * 7919 % 400_000));
            match i % 2 {
                0 => disk.cut_power(),
                // The agent's programs end with the agent's container.
                _ => eventually("a program goes on without its agent", || !is_open(&node.disk())),
            }
            let host = node.next_host();
            host.recover()
                .into_iter()
                .for_each(|(uid, found)| drop(found.unwrap_or_else(|e| panic!("{uid}: {e}"))));
            assert_data(node, &host, 1);
            if i % 4 < 2 {
                host.resize(&uid(1), 80 * MIB).unwrap();
                assert_allocated(node, &uid(1), 80 * MIB);
                assert_only_in(node, &disk, 1);
                assert_data(node, &host, 1);
            }
            node.assert_base_line();
        }
        let host = node.next_host();
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Zero).unwrap();
        assert_eq!(disk.count(SECRET, &node.data(&uid(1))), (0, 0));
        node.assert_base_line();
    });
}
