//! An agent that is killed at any moment.

use std::time::Duration;

use reservoir::host::{ErasePolicy, Error, State};

use crate::support::*;

/// The work of the agent that is going to be killed: every call, over and over.
fn live(node: &Node) {
    let host = node.next_host();
    host.recover();
    for round in 0.. {
        let target = node.target("p", 0);
        host.create("d", &ext4(1)).unwrap();
        host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
        let keeps = target.join("keeps");
        assert!(round > 0 || keeps.exists() || std::fs::write(&keeps, "data").is_ok());
        host.publish(&node.request(&uid(1), "q", 0, true)).unwrap();
        host.unpublish(&target).unwrap();
        host.unpublish(&node.target("q", 0)).unwrap();

        host.create("d", &ext4(2)).unwrap();
        host.fence(&uid(2)).unwrap();
        host.erase(&uid(2), ErasePolicy::Discard).unwrap();
    }
}

#[test]
#[ignore = "it is the process that the next test kills"]
fn victim() {
    if let Some(node) = Node::of_victim() {
        live(&node);
    }
}

/// M5, S13, S16, L3.
#[test]
fn an_agent_may_be_killed_at_any_moment() {
    on_a_node(|node| {
        let mut kept = false;
        for i in 0..60u64 {
            node.kill_after("crash::victim", Duration::from_micros(5_000 + i * i * 7919 % 90_000));

            let host = node.next_host();
            for (uid, recovered) in host.recover() {
                recovered.unwrap_or_else(|error| panic!("{uid}: {error}"));
            }
            for pod in ["p", "q"] {
                host.unpublish(&node.target(pod, 0)).unwrap();
            }
            node.assert_base_line();
            // A volume that was ready keeps its data.
            let ready = host
                .volumes()
                .iter()
                .any(|volume| volume.uid == uid(1) && volume.record.as_ref().unwrap().state == State::Ready);
            assert!(ready || !kept);
            host.create("d", &ext4(1)).unwrap();
            host.publish(&node.request(&uid(1), "p", 0, false)).unwrap();
            let keeps = node.target("p", 0).join("keeps");
            if kept {
                assert_eq!(std::fs::read_to_string(&keeps).unwrap(), "data");
            }
            std::fs::write(&keeps, "data").unwrap();
            kept = true;
            host.unpublish(&node.target("p", 0)).unwrap();
            if host.volumes().iter().any(|volume| volume.uid == uid(2)) {
                host.fence(&uid(2)).unwrap();
            }
            match host.erase(&uid(2), ErasePolicy::Discard) {
                Ok(receipt) => assert_eq!(receipt.bytes, ext4(2).size_bytes),
                Err(error) => assert!(matches!(error, Error::NotFound(_)), "{error}"),
            }
            assert_eq!(host.volumes().len(), 1);
            node.assert_base_line();
        }
    });
}
