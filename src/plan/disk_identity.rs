//! The NodeDisk of a disk, found by the ID that is stored on the disk. Names of node and path do not count (D3).

use kube::ResourceExt;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::api::{NodeDisk, TakeOver, UNKNOWN_DISK};

/// The NodeDisk of a configured disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity<'a> {
    /// This node has a NodeDisk of that disk name already. A wrong disk is refused later, when the IDs are compared.
    Known(&'a NodeDisk),
    /// The disk's ID is new: make a NodeDisk of this name.
    New(String),
    /// The disk was in another node, or had another name in this node. A disk that is still in the old node may be a
    /// copy. So the API server refuses the request while the old Node exists (`reservoir-agent-takes-over`).
    TakeOver(&'a NodeDisk),
    /// The disk is not served, for the given reason.
    Refused(String),
}

/// Decides the NodeDisk of the disk that is named `disk` in the configuration of `node`. `id` is the ID stored on the
/// disk, or the error of reading the ID. `configured` lists the names of all disks of the node.
pub fn identify<'a>(
    node: &str,
    disk: &str,
    configured: &[&str],
    id: Result<&str, String>,
    all: &'a [NodeDisk],
) -> Identity<'a> {
    // The existing NodeDisk comes first: another disk at the same path is refused, not adopted.
    let is_it = |d: &&NodeDisk| d.spec.node_name == node && d.spec.disk_name == disk;
    if let Some(known) = all.iter().filter(is_it).find(|d| !is_placeholder(d)) {
        return Identity::Known(known);
    }
    let id = match id {
        Ok(id) => id,
        Err(why) => return Identity::Refused(why),
    };
    // Every process can read the ID, so another node may have copied it.
    let same = all.iter().filter(|object| object.spec.disk_id == id);
    let Some(found) = same.min_by_key(|object| object.creation_timestamp()) else {
        let name = format!("{node}.{disk}");
        // A disk that had this name may be in another node now. The disk's own placeholder becomes its NodeDisk.
        let taken =
            all.iter().any(|object| object.name_any() == name && !(is_placeholder(object) && is_it(&object)));
        return Identity::New(if taken { format!("{name}-{}", id.get(..8).unwrap_or(id)) } else { name });
    };
    // A disk that was declared gone under another node or name is gone here too (D4).
    if let Some(why) = declared_gone(found) {
        return Identity::Refused(why);
    }
    let (name, spec) = (found.name_any(), &found.spec);
    if spec.node_name == node && configured.contains(&spec.disk_name.as_str()) {
        return Identity::Refused(format!(
            "by its ID it is NodeDisk {name}, which the agent's configuration has as disk {}: correct the paths there",
            spec.disk_name
        ));
    }
    Identity::TakeOver(found)
}

/// True for the NodeDisk of a configured disk that the agent could not open yet, or may not serve. The object only shows
/// the reason (D8). It belongs to no disk, so it is never reserved on, moved or compared with a disk.
pub fn is_placeholder(object: &NodeDisk) -> bool {
    object.spec.disk_id == UNKNOWN_DISK
}

/// The name of a placeholder for the disk that is named `disk` in the configuration of `node`.
pub fn placeholder_name(node: &str, disk: &str, all: &[NodeDisk]) -> String {
    let name = format!("{node}.{disk}");
    let is_taken = all.iter().any(|object| object.name_any() == name && !is_placeholder(object));
    if is_taken { format!("{name}-{UNKNOWN_DISK}") } else { name }
}

/// Refuses a disk that an administrator declared gone; `None` for any other disk.
pub fn declared_gone(object: &NodeDisk) -> Option<String> {
    let name = object.name_any();
    object.spec.gone.then(|| {
        format!(
            "NodeDisk {name}, which it is by its ID, was declared gone: all that is on it is kept and nothing of it is \
             served; give the agent an empty directory under another disk name, or delete NodeDisk {name} when nothing \
             is reserved on it any more"
        )
    })
}

/// The event on a NodeDisk whose take-over the API server refused, because a disk of another node has the same ID.
pub fn copy_refused(node: &str, why: &str) -> String {
    format!("node {node} has a disk with the ID of this one: {why}")
}

/// The text that an agent signs with the key of a disk, to take over the disk's NodeDisk (A7).
pub fn take_over_text(object: &NodeDisk, node: &str, disk: &str) -> String {
    format!("NodeDisk {} is disk {disk} of node {node}", object.uid().unwrap_or_default())
}

/// The refusal of a disk that has a NodeDisk on another node and no key as a proof.
pub fn without_key(object: &NodeDisk) -> String {
    let (name, node) = (object.name_any(), &object.spec.node_name);
    format!(
        "by its ID it is NodeDisk {name} of node {node}, and no agent has served it since disks have a key to prove that: \
         set spec.nodeName and spec.diskName of NodeDisk {name} if the disk is here for good"
    )
}

/// The answer to a request to take over a NodeDisk: the changes of the NodeDisk, and the reason of a refusal (D3, A7).
/// `node_is_there` is a live read of the disk's former Node.
pub fn answer(object: &NodeDisk, request: &TakeOver, node_is_there: bool) -> (Value, Option<String>) {
    let TakeOver { node_name: node, disk_name: disk, proof } = request;
    let text = take_over_text(object, node, disk);
    let is_signed = || {
        let key = UnparsedPublicKey::new(&ED25519, bytes(object.spec.key.as_deref()?)?);
        key.verify(text.as_bytes(), &bytes(proof)?).ok()
    };
    let refused = if node_is_there {
        Some(format!(
            "Node {} is still there: delete it if its disk is in node {node} now",
            object.spec.node_name
        ))
    } else if let Some(why) = declared_gone(object) {
        Some(why)
    } else {
        is_signed().is_none().then(|| format!("node {node} has not signed it with the key of the disk"))
    };
    match refused {
        None => (json!({"spec": {"nodeName": node, "diskName": disk, "takeOver": null, "key": null}}), None),
        Some(why) => (json!({"spec": {"takeOver": null}}), Some(why)),
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let byte = |i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    fn object(name: &str, node: &str, disk: &str) -> NodeDisk {
        let mut object = testing::disk(name, node, 10, &[]);
        object.spec.disk_name = disk.into();
        object
    }

    fn refused(identity: Identity<'_>, part: &str) -> bool {
        matches!(identity, Identity::Refused(why) if why.contains(part))
    }

    #[test]
    fn d3_a_disk_is_its_id_whatever_its_node_is_called() {
        let all = [object("n1.a", "n1", "a"), object("n2.a", "n2", "a"), object("n3.a", "old", "a")];
        let ask = |node, disk, id| identify(node, disk, &["a", "b"], Ok(id), &all);
        assert_eq!(
            ask("n1", "a", "id-n2.a"),
            Identity::Known(&all[0]),
            "another disk there is refused later"
        );
        assert_eq!(ask("n1", "b", "new-id-of-b"), Identity::New("n1.b".into()));
        assert_eq!(ask("n1", "b", "id-n2.a"), Identity::TakeOver(&all[1]));
        assert_eq!(ask("n3", "a", "new-id-of-a"), Identity::New("n3.a-new-id-o".into()), "the name is taken");
        assert!(refused(ask("n1", "b", "id-n1.a"), "has as disk a: correct the paths"));
        assert!(refused(identify("n1", "b", &["b"], Err("it is not readable".into()), &all), "not readable"));
        let renamed = identify("n1", "b", &["b"], Ok("id-n1.a"), &all);
        assert_eq!(renamed, Identity::TakeOver(&all[0]), "the configuration calls it otherwise now");
    }

    #[test]
    fn d8_a_placeholder_becomes_the_disk_and_is_taken_for_none() {
        let mut all = [object("n1.a", "n1", "a"), object("n2.a", "n2", "a")];
        all[0].spec.disk_id = UNKNOWN_DISK.into();
        let ask = |disk, id| identify("n1", disk, &["a", "b"], id, &all);
        assert!(refused(ask("a", Err("no such directory".into())), "no such directory"));
        assert_eq!(ask("a", Ok("id-of-a")), Identity::New("n1.a".into()));
        assert_eq!(ask("a", Ok("id-n2.a")), Identity::TakeOver(&all[1]), "the disk came from another node");
        let name = |disk| placeholder_name("n1", disk, &all);
        assert_eq!((name("a"), name("b")), ("n1.a".into(), "n1.b".into()));
        all[0].spec = object("n1.a", "n3", "a").spec;
        assert_eq!(placeholder_name("n1", "a", &all), "n1.a-unknown", "the disk of that name moved");
    }

    #[test]
    fn d4_a_disk_that_was_declared_gone_stays_gone_elsewhere() {
        let mut gone = object("n1.a", "n1", "a");
        gone.spec.gone = true;
        let all = [gone];
        assert!(refused(
            identify("n2", "a", &["a"], Ok("id-n1.a"), &all),
            "NodeDisk n1.a, which it is by its ID"
        ));
        assert_eq!(identify("n1", "a", &["a"], Ok("id-n1.a"), &all), Identity::Known(&all[0]));
        assert!(declared_gone(&all[0]).is_some() && declared_gone(&object("n1.b", "n1", "b")).is_none());
    }

    #[test]
    fn a7_a_disk_moves_only_with_the_signature_of_its_key() {
        use ring::signature::{Ed25519KeyPair, KeyPair};
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let key = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let mut disk = object("n1.a", "n1", "a");
        disk.spec.key = Some(hex(key(1).public_key().as_ref()));
        let request = |by: u8, of: &NodeDisk, signed_for: &str| TakeOver {
            node_name: "n2".into(),
            disk_name: "b".into(),
            proof: hex(key(by).sign(take_over_text(of, signed_for, "b").as_bytes()).as_ref()),
        };
        let moves = |disk: &NodeDisk, request: &TakeOver, there| answer(disk, request, there).1.is_none();
        let good = request(1, &disk, "n2");
        let (fields, refused) = answer(&disk, &good, false);
        assert_eq!((fields["spec"]["nodeName"].as_str(), refused), (Some("n2"), None));
        assert!(!moves(&disk, &good, true), "D3: a copy, perhaps");
        assert!(!moves(&disk, &request(2, &disk, "n2"), false), "the key of another disk");
        assert!(!moves(&disk, &request(1, &disk, "n3"), false), "another node's proof");
        assert!(!moves(&disk, &request(1, &object("n1.b", "n1", "b"), "n2"), false), "another disk's proof");
        assert!(!moves(&disk, &TakeOver { proof: "é".into(), ..good.clone() }, false));
        let (mut gone, mut old) = (disk.clone(), disk.clone());
        (gone.spec.gone, old.spec.key) = (true, None);
        assert!(!moves(&gone, &good, false), "D4");
        assert!(!moves(&old, &good, false), "a NodeDisk of an earlier version has no key");
    }
}
