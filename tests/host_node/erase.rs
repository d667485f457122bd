//! The end of a volume.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use reservoir::host::{ErasePolicy, Error};
use serde_json::json;

use crate::assert_error;
use crate::support::*;

/// X3, X4, S10.
#[test]
fn only_a_fenced_and_unused_volume_is_erased() {
    on_a_node(|node| {
        let host = node.host();
        for (spec, policy) in [(ext4(1), ErasePolicy::Discard), (xfs(23), ErasePolicy::Zero)] {
            host.create("d", &spec).unwrap();
            host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
            assert_error!(host.erase(&spec.uid, policy), Error::NotFenced(_));
            host.fence(&spec.uid).unwrap();
            assert_error!(host.erase(&spec.uid, policy), Error::InUse { holder, .. } if holder == "team/p");
            write(&node.target("p", 0), "f", "nothing was erased");
            host.unpublish(&node.target("p", 0)).unwrap();
            let free = host.disks()[0].free;
            let receipt = host.erase(&spec.uid, policy).unwrap();
            assert_eq!((receipt.bytes, receipt.policy), (spec.size_bytes, policy));
            assert!(!node.volume(&spec.uid).exists());
            assert!(free > 0);
            // A repeated call returns the same receipt.
            assert_eq!(host.erase(&spec.uid, policy).unwrap().bytes, spec.size_bytes);
            assert_error!(host.fence(&spec.uid), Error::NotFound(_));
            // A new volume may have the same UID, and is empty.
            host.create("d", &spec).unwrap();
            host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
            assert!(!node.target("p", 0).join("f").exists());
            host.unpublish(&node.target("p", 0)).unwrap();
        }
        node.assert_base_line();
    });
}

/// X3, S10.
#[test]
fn a_volume_mounted_elsewhere_is_not_erased() {
    on_a_node(|node| {
        let host = node.host();
        for spec in [ext4(1), xfs(24)] {
            host.create("d", &spec).unwrap();
            host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
            write(&node.target("p", 0), "f", "x");
            let lingering = Elsewhere::new(node, &node.target("p", 0));
            host.unpublish(&node.target("p", 0)).unwrap();
            assert_eq!(node.mounts(), [], "gone, as far as this namespace can see");
            let report = host.fence(&spec.uid).unwrap();
            assert!(report.users.is_empty() && report.in_use);
            for _ in 0..2 {
                assert_error!(host.erase(&spec.uid, ErasePolicy::Discard), Error::Busy { .. });
            }
            assert_eq!(node.record(&spec.uid)["state"], json!("Ready"));
            drop(lingering);
            eventually("still in use", || !host.fence(&spec.uid).unwrap().in_use);
            assert_eq!(host.erase(&spec.uid, ErasePolicy::Discard).unwrap().bytes, spec.size_bytes);
            node.assert_base_line();
        }
    });
}

/// X3, S10.
#[test]
fn a_volume_with_an_open_file_is_not_erased() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let target = node.target("p", 0);
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        let open = File::create(target.join("f")).unwrap();
        node.unmount_lazily(&target);
        host.unpublish(&target).unwrap();
        host.fence(&uid(1)).unwrap();
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::Busy { .. });
        // The same holds if the volume's file is gone, and only the loop device's label identifies the volume.
        std::fs::remove_file(node.data(&uid(1))).unwrap();
        assert!(host.fence(&uid(1)).unwrap().in_use);
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::Busy { .. });
        drop(open);
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        node.assert_base_line();
    });
}

/// S11, L5.
#[test]
fn erasing_goes_on_after_a_crash_at_any_point() {
    on_a_node(|node| {
        let host = node.host();
        for i in 1..=4 {
            host.create("d", &ext4(i)).unwrap();
            host.fence(&uid(i)).unwrap();
            node.edit(&uid(i), |record| record["state"] = json!("Erasing"));
        }
        File::options().write(true).open(node.data(&uid(2))).unwrap().set_len(0).unwrap();
        std::fs::remove_file(node.data(&uid(3))).unwrap();
        // Only the directory remains.
        std::fs::remove_file(node.data(&uid(4))).unwrap();
        std::fs::remove_file(node.volume(&uid(4)).join("record.json")).unwrap();
        drop(host);
        let host = node.host();
        assert!(host.recover().iter().all(|(_, result)| result.is_ok()));
        for i in 1..=3 {
            assert!(node.volume(&uid(i)).exists(), "nothing is erased without being asked");
            assert_error!(host.unfence(&uid(i)), Error::Fenced(_));
            assert_error!(host.create("d", &ext4(i)), Error::Fenced(_));
            assert_error!(host.publish(&node.request(&uid(i), "p", i, false)), Error::Fenced(_));
            assert_eq!(host.erase(&uid(i), ErasePolicy::Zero).unwrap().bytes, ext4(i).size_bytes);
            assert!(!node.volume(&uid(i)).exists());
        }
        assert_error!(host.erase(&uid(4), ErasePolicy::Discard), Error::NotFound(_));
        host.create("d", &ext4(4)).unwrap();
    });
}

/// X2, S11. The synchronization of a written fence fails, and the fence is repeated.
#[test]
fn x2_a_reported_fence_survives_a_power_cut() {
    on_a_node(|node| {
        let disk = RawDisk::new(node, 128 * MIB);
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let mut record = node.record(&uid(1));
        record["fenced"] = json!(true);
        let [name, spare] = ["record.json", "record.json.new"].map(|name| node.volume(&uid(1)).join(name));
        std::fs::write(&spare, record.to_string()).unwrap();
        File::open(&spare).unwrap().sync_all().unwrap();
        let (cwd, how) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, &spare, cwd, &name, how).unwrap();
        assert!(!host.fence(&uid(1)).unwrap().in_use);
        drop(host);
        disk.cut_power();
        let host = node.host();
        assert_eq!(node.record(&uid(1))["fenced"], json!(true));
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        node.assert_base_line();
    });
}

/// X4.
#[test]
fn a_receipt_stays_until_it_is_forgotten() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        host.fence(&uid(1)).unwrap();
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        drop(host);
        let host = node.host();
        assert_eq!(host.erase(&uid(1), ErasePolicy::Discard).unwrap().bytes, ext4(1).size_bytes);
        assert_eq!(host.erased(), [uid(1)]);
        host.forget(&uid(1)).unwrap();
        host.forget(&uid(1)).unwrap();
        assert_eq!(host.erased(), []);
        // A volume that never existed here was not erased; the same holds for one that was removed by hand.
        assert_error!(host.erase(&uid(1), ErasePolicy::Discard), Error::NotFound(_));
    });
}

#[test]
fn a_volume_that_was_never_ready_can_be_erased() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        node.edit(&uid(1), |record| record["state"] = json!("Creating"));
        std::fs::rename(node.data(&uid(1)), node.volume(&uid(1)).join("data.new")).unwrap();
        host.fence(&uid(1)).unwrap();
        assert_error!(host.create("d", &ext4(1)), Error::Fenced(_));
        host.erase(&uid(1), ErasePolicy::Discard).unwrap();
        assert!(!node.volume(&uid(1)).exists());
    });
}

/// V3, S17.
#[test]
fn a_new_volume_shows_nothing_of_an_old_one() {
    on_a_node(|node| {
        let host = node.host();
        let secret = b"a secret of the volume before";
        let shows_it = |i: u32| {
            let bytes = std::fs::read(node.data(&uid(i))).unwrap();
            bytes.windows(secret.len()).any(|window| window == secret)
        };
        for i in 1..4 {
            host.create("d", &ext4(i)).unwrap();
            assert!(!shows_it(i));
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
            let content: Vec<u8> = secret.iter().copied().cycle().take(20 << 20).collect();
            std::fs::write(node.target("p", i).join("f"), content).unwrap();
            host.unpublish(&node.target("p", i)).unwrap();
            assert!(shows_it(i));
            host.fence(&uid(i)).unwrap();
            host.erase(&uid(i), ErasePolicy::Discard).unwrap();
        }
    });
}

/// X4.
#[test]
fn zero_overwrites_every_block() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        std::fs::write(node.target("p", 0).join("f"), vec![0xaa; 4 << 20]).unwrap();
        host.unpublish(&node.target("p", 0)).unwrap();
        host.fence(&uid(1)).unwrap();
        // A hard link shows the content of the erased file's blocks.
        let kept = node.dir().join("kept");
        std::fs::hard_link(node.data(&uid(1)), &kept).unwrap();
        host.erase(&uid(1), ErasePolicy::Zero).unwrap();
        assert_eq!(
            std::fs::metadata(&kept).unwrap().blocks(),
            0,
            "the free space is given back although the file is open"
        );
    });
}
