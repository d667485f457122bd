//! The data of a lost object passes to another volume (X6), but never by chance (S4).

use reservoir::host::{ErasePolicy, Error, Host, State, VolumeSpec};
use serde_json::json;

use crate::assert_error;
use crate::support::*;

/// A volume that recovers the data of the first one.
fn heir(i: u32) -> VolumeSpec {
    VolumeSpec { recover: Some(uid(1)), ..ext4(i) }
}

/// The first volume, with data in it.
fn lost(node: &Node, host: &Host, spec: &VolumeSpec) {
    host.create("d", spec).unwrap();
    use_it(node, host, &spec.uid, |node| write(&node.target("p", 0), "keeps", "data"));
}

fn use_it(node: &Node, host: &Host, uid: &reservoir::host::VolumeUid, then: impl FnOnce(&Node)) {
    host.publish(&node.request(uid, "p", 0, false)).unwrap();
    then(node);
    host.unpublish(&node.target("p", 0)).unwrap();
}

fn has_the_data(node: &Node, host: &Host, i: u32) {
    use_it(node, host, &uid(i), |node| assert_eq!(read(&node.target("p", 0), "keeps"), "data"));
}

#[test]
fn x6_one_heir_gets_the_data_of_a_lost_object() {
    on_a_node(|node| {
        let host = node.host();
        lost(node, &host, &ext4(1));
        host.fence(&uid(1)).unwrap();
        for (wrong, said) in [
            (VolumeSpec { role: "ops".into(), ..heir(2) }, "belongs to role eng: recover it for that role"),
            (VolumeSpec { size_bytes: 48 * MIB, ..heir(2) }, "has 33554432 bytes of ext4, shared"),
            (VolumeSpec { shared: false, ..heir(2) }, "recover it as what it is"),
        ] {
            let Err(Error::Conflict(why)) = host.create("d", &wrong) else { panic!("{wrong:?} was made") };
            assert!(why.contains(said), "{why}");
        }
        // Without the data to recover no volume is made.
        assert_error!(host.create("d", &VolumeSpec { recover: Some(uid(9)), ..ext4(2) }), Error::NotFound(_));
        assert_eq!(host.volumes().len(), 1);
        assert_eq!(host.look("d", &uid(1)).unwrap().unwrap().heir, None, "a refusal changes nothing");

        host.create("d", &heir(2)).unwrap();
        host.create("d", &heir(2)).unwrap();
        assert!(!node.volume(&uid(1)).exists());
        let record = host.look("d", &uid(2)).unwrap().unwrap();
        assert_eq!(
            (record.state, record.fenced, record.made_as, record.heir),
            (State::Ready, false, Some(uid(1)), None)
        );
        has_the_data(node, &host, 2);
        // S4: one of two heirs gets the data, and a later request of the other one fails, too.
        assert_error!(host.create("d", &heir(3)), Error::NotFound(_));
        // The heir's object is lost, too, and its data is recovered.
        host.create("d", &VolumeSpec { recover: Some(uid(2)), ..ext4(4) }).unwrap();
        assert_eq!(host.look("d", &uid(4)).unwrap().unwrap().made_as, Some(uid(1)));
        drop(host);
        let host = node.next_host();
        host.recover();
        has_the_data(node, &host, 4);
        host.resize(&uid(4), 48 * MIB).unwrap();
        has_the_data(node, &host, 4);

        // X4: the volume is destroyed like any other.
        host.fence(&uid(4)).unwrap();
        assert_eq!(host.erase(&uid(4), ErasePolicy::Discard).unwrap().bytes, 48 * MIB);
        assert!(host.volumes().is_empty());
        node.assert_base_line();
    });
}

#[test]
fn x6_an_inherited_xfs_keeps_its_uuid() {
    on_a_node(|node| {
        let host = node.host();
        lost(node, &host, &xfs(1));
        host.create("d", &VolumeSpec { recover: Some(uid(1)), ..xfs(2) }).unwrap();
        has_the_data(node, &host, 2);
    });
}

#[test]
fn x6_a_volume_in_use_is_not_inherited() {
    on_a_node(|node| {
        let host = node.host();
        lost(node, &host, &ext4(1));
        host.publish(&node.request(&uid(1), "old", 0, false)).unwrap();
        assert_error!(host.create("d", &heir(2)), Error::InUse { .. });
        // A use that only the kernel shows counts, too.
        let elsewhere = Elsewhere::new(node, &node.target("old", 0));
        node.unmount_lazily(&node.target("old", 0));
        assert_error!(host.create("d", &heir(2)), Error::Busy { .. });
        drop(elsewhere);
        eventually("it can be recovered", || host.create("d", &heir(2)).is_ok());
        has_the_data(node, &host, 2);
    });
}

/// X6, S4. `tests/host_faults.rs` kills the agent at every system call of an inheritance, and fails every call.
#[test]
fn x6_an_interrupted_inheritance_has_one_heir() {
    on_a_node(|node| {
        let host = node.host();
        lost(node, &host, &ext4(1));
        drop(host);
        // The agent was killed after the record had the heir. Nothing else has changed, so another volume may
        // inherit.
        node.edit(&uid(1), |record| record["heir"] = json!(uid(2).as_str()));
        let host = node.next_host();
        host.recover();
        has_the_data(node, &host, 1);
        host.create("d", &heir(3)).unwrap();
        assert_error!(host.create("d", &heir(2)), Error::NotFound(_));
        drop(host);
        // The agent was killed after the rename of the directory. The data is the heir's, although the record is old.
        node.edit(&uid(3), |record| record["heir"] = json!(uid(4).as_str()));
        std::fs::rename(node.volume(&uid(3)), node.volume(&uid(4))).unwrap();
        let host = node.next_host();
        for (uid, recovered) in host.recover() {
            recovered.unwrap_or_else(|error| panic!("{uid}: {error}"));
        }
        has_the_data(node, &host, 4);
        let next = VolumeSpec { recover: Some(uid(3)), ..ext4(4) };
        host.create("d", &next).unwrap();
        has_the_data(node, &host, 4);
        assert_error!(host.create("d", &VolumeSpec { recover: Some(uid(3)), ..ext4(5) }), Error::NotFound(_));
        // An unfinished creation continues. A volume under erase gets no new users, and is erased.
        node.edit(&uid(4), |record| record["state"] = json!("Erasing"));
        let after = VolumeSpec { recover: Some(uid(4)), ..ext4(6) };
        assert_error!(host.create("d", &after), Error::Fenced(_));
        host.fence(&uid(6)).unwrap();
        host.erase(&uid(6), ErasePolicy::Discard).unwrap();
        assert!(host.volumes().is_empty());
    });
}

/// X6, L3. The object was lost during its destruction.
#[test]
fn x6_l3_the_heir_is_not_fenced() {
    on_a_node(|node| {
        let host = node.host();
        lost(node, &host, &ext4(1));
        host.fence(&uid(1)).unwrap();
        drop(host);
        // The agent was killed after the rename of the directory.
        node.edit(&uid(1), |record| record["heir"] = json!(uid(2).as_str()));
        std::fs::rename(node.volume(&uid(1)), node.volume(&uid(2))).unwrap();
        let host = node.next_host();
        host.create("d", &heir(2)).unwrap();
        has_the_data(node, &host, 2);
        host.fence(&uid(2)).unwrap();
        assert_error!(host.publish(&node.request(&uid(2), "p", 0, false)), Error::Fenced(_));
    });
}
