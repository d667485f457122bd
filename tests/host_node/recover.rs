//! The start of an agent after any end of the previous agent.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use reservoir::host::Recovery;
use serde_json::json;

use crate::support::*;

/// M5.
#[test]
fn pods_keep_their_io_when_the_agent_is_replaced() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let request = node.request(&uid(1), "p", 0, false);
        host.publish(&request).unwrap();
        let mut file = File::create(request.target.join("log")).unwrap();
        file.write_all(b"line\n").unwrap();
        drop(host);
        file.write_all(b"nobody serves\n").unwrap();
        let host = node.host();
        let recovered = host.recover();
        assert_eq!(recovered, [(uid(1), Ok(Recovery { dropped: vec![], in_use: true }))]);
        file.write_all(b"line\n").unwrap();
        file.sync_all().unwrap();
        host.publish(&request).unwrap();
        assert_eq!(node.mounts().len(), 1);
        drop(file);
        host.unpublish(&request.target).unwrap();
        node.assert_base_line();
    });
}

/// M5.
#[test]
fn m5_mounts_lost_in_a_reboot_are_dropped() {
    on_a_node(|node| {
        let host = node.host();
        for i in [1, 2] {
            host.create("d", &ext4(i)).unwrap();
            host.publish(&node.request(&uid(i), "p", i, false)).unwrap();
        }
        drop(host);
        // Mounts and loop devices are gone, and one pod's directory, too.
        for i in [1, 2] {
            node.unmount_lazily(&node.target("p", i));
        }
        std::fs::remove_dir(node.target("p", 2)).unwrap();
        node.assert_base_line();
        let host = node.host();
        for (uid, recovery) in host.recover() {
            let recovery = recovery.unwrap();
            assert_eq!((recovery.dropped.len(), recovery.in_use), (1, false));
            assert_eq!(node.record(&uid)["publishes"], json!({}));
        }
        host.publish(&node.request(&uid(1), "p", 1, false)).unwrap();
        host.unpublish(&node.target("p", 1)).unwrap();
        node.assert_base_line();
    });
}

/// M4, M5, L3.
#[test]
fn a_publish_that_was_interrupted_is_finished_or_dropped() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &exclusive(1)).unwrap();
        let journalled = |pod: &str| {
            let target = node.target(pod, 0).to_str().unwrap().to_owned();
            let pod = json!({"uid": format!("uid-of-{pod}"), "namespace": "team", "name": pod});
            let entry = json!({"pod": pod, "claimUid": "claim", "readOnly": false});
            node.edit(&uid(1), |record| record["publishes"][target] = entry);
        };
        // The kubelet repeats the publish.
        journalled("p");
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        host.unpublish(&node.target("p", 0)).unwrap();
        // The kubelet unpublishes.
        journalled("q");
        host.unpublish(&node.target("q", 0)).unwrap();
        assert_eq!(node.record(&uid(1))["publishes"], json!({}));
        // The kubelet does neither.
        journalled("r");
        std::fs::create_dir(node.target("r", 0)).unwrap();
        assert_eq!(host.recover()[0].1.as_ref().unwrap().dropped.len(), 1);
        host.publish(&node.request(&uid(1), "s", 0, false)).unwrap();
        host.unpublish(&node.target("s", 0)).unwrap();
        node.assert_base_line();
    });
}

/// M4, L3.
#[test]
fn an_unpublish_that_was_interrupted_is_finished() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let target = node.target("p", 0);
        // The target is unmounted, and still in the record.
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        node.unmount_lazily(&target);
        host.unpublish(&target).unwrap();
        assert!(!target.exists());
        // The target is mounted, and no longer in the record.
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        node.edit(&uid(1), |record| record["publishes"] = json!({}));
        host.unpublish(&target).unwrap();
        assert!(!target.exists());
        node.assert_base_line();
    });
}

/// M5, S16.
#[test]
fn only_our_loop_devices_are_detached() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        let foreign = node.dir().join("foreign");
        std::fs::write(&foreign, vec![0; 1 << 20]).unwrap();
        let (ours, theirs) = (attach_by_hand(&node.data(&uid(1))), attach_by_hand(&foreign));
        assert_eq!(loops(node.dir()).len(), 2);
        // The agent uses an existing loop device, and makes no second one.
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        assert_eq!(loops(node.dir()).len(), 2);
        let recovery = host.recover().remove(0).1.unwrap();
        assert!(recovery.in_use && recovery.dropped.is_empty());
        assert!(loops(node.dir()).contains(&ours));
        node.unmount_lazily(&node.target("p", 0));
        assert!(!host.recover().remove(0).1.unwrap().in_use);
        eventually("ours is left", || loops(node.dir()) == [theirs.clone()]);
        assert!(Command::new("losetup").arg("-d").arg(format!("/dev/{theirs}")).status().unwrap().success());
    });
}
