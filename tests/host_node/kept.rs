//! The data of a destroyed volume that is kept for an undo (X8).

use jiff::Timestamp;
use reservoir::host::{ErasePolicy, Error, Host, Kept, State, VolumeSpec};
use serde_json::json;

use crate::assert_error;
use crate::support::*;

fn kept(second: i64) -> Kept {
    let at = |second| Timestamp::from_second(second).unwrap();
    Kept { since: at(second), until: at(second + 60) }
}

/// The volume that gets the data of the first one.
fn heir(i: u32, spec: &VolumeSpec) -> VolumeSpec {
    VolumeSpec { uid: uid(i), recover: Some(spec.uid.clone()), ..spec.clone() }
}

fn use_it(node: &Node, host: &Host, spec: &VolumeSpec, then: impl FnOnce(&Node)) {
    host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
    then(node);
    host.unpublish(&node.target("p", 0)).unwrap();
}

/// X8, X3, X9: the bytes are as they were, whatever step the agent was killed after.
#[test]
fn x8_a_kept_volume_cannot_be_mounted_and_comes_back() {
    on_a_node(|node| {
        let mut host = node.host();
        for (first, spec) in [(2, ext4(1)), (32, xfs(31))] {
            host.create("d", &spec).unwrap();
            use_it(node, &host, &spec, |node| write(&node.target("p", 0), "f", "kept"));
            assert_error!(host.keep(&spec.uid, kept(1)), Error::NotFenced(_));
            host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap();
            host.fence(&spec.uid).unwrap();
            assert_error!(host.keep(&spec.uid, kept(1)), Error::InUse { holder, .. } if holder == "team/p");
            let lingering = Elsewhere::new(node, &node.target("p", 0));
            host.unpublish(&node.target("p", 0)).unwrap();
            assert_error!(host.keep(&spec.uid, kept(1)), Error::Busy { .. });
            drop(lingering);
            eventually("nobody has it open", || host.keep(&spec.uid, kept(1)).is_ok());
            host.keep(&spec.uid, kept(9)).unwrap();
            drop(host);
            host = node.next_host();
            host.recover();
            let record = host.look("d", &spec.uid).unwrap().unwrap();
            assert_eq!((record.kept, record.fenced, record.state), (Some(kept(1)), true, State::Ready));
            let refused = host.publish(&node.request(&spec.uid, "p", 0, false)).unwrap_err();
            assert!(matches!(refused, Error::Fenced(_)), "{refused}");

            // Two heirs want it, and one of them gets it.
            let back = heir(first, &spec);
            host.create("d", &back).unwrap();
            assert_error!(host.create("d", &heir(first + 1, &spec)), Error::NotFound(_));
            let record = host.look("d", &back.uid).unwrap().unwrap();
            assert_eq!((record.kept, record.fenced), (None, false));
            use_it(node, &host, &back, |node| assert_eq!(read(&node.target("p", 0), "f"), "kept"));

            // Kept once more, and erased: by an heir that is destroyed.
            host.fence(&back.uid).unwrap();
            host.keep(&back.uid, kept(2)).unwrap();
            let end = VolumeSpec { uid: uid(first + 2), recover: Some(back.uid.clone()), ..spec.clone() };
            host.create("d", &end).unwrap();
            host.fence(&end.uid).unwrap();
            drop(host);
            host = node.next_host();
            assert_eq!(host.erase(&end.uid, ErasePolicy::Discard).unwrap().bytes, spec.size_bytes);
            assert!(host.volumes().is_empty());
        }
        drop(host);
        node.assert_base_line();
    });
}

/// X9: etcd was restored from a time before the DELETE. S11: an erase that began cannot be kept.
#[test]
fn x9_a_kept_volume_whose_delete_was_undone_is_usable() {
    on_a_node(|node| {
        let host = node.host();
        host.create("d", &ext4(1)).unwrap();
        host.fence(&uid(1)).unwrap();
        host.keep(&uid(1), kept(1)).unwrap();
        host.unfence(&uid(1)).unwrap();
        assert_eq!(host.look("d", &uid(1)).unwrap().unwrap().kept, None);
        use_it(node, &host, &ext4(1), |_| ());
        host.fence(&uid(1)).unwrap();
        node.edit(&uid(1), |record| record["state"] = json!("Erasing"));
        assert_error!(host.keep(&uid(1), kept(1)), Error::Fenced(_));
    });
}
