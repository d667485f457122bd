//! What the key of a disk has signed (A7). The private key is on the disk, and the public key in its NodeDisk.

use kube::ResourceExt;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::api::{NodeDisk, NodeDiskSpec, TakeOver};

use super::disk_identity::declared_gone;

/// The text that an agent signs with the key of a disk: the NodeDisk that has the name and the spec is the disk's.
pub fn text(name: &str, spec: &NodeDiskSpec) -> String {
    text_of(name, &spec.disk_id, &spec.node_name, &spec.disk_name)
}

fn text_of(name: &str, id: &str, node: &str, disk: &str) -> String {
    format!("NodeDisk {name} with ID {id} is disk {disk} of node {node}")
}

/// True if the private key of a public key has signed the NodeDisk.
pub fn has_signed(key: &str, object: &NodeDisk) -> bool {
    let proof = object.spec.key_proof.as_deref();
    proof.and_then(|proof| verifies(key, &text(&object.name_any(), &object.spec), proof)).is_some()
}

/// The public key in a NodeDisk, if its private key has signed the NodeDisk.
pub fn attested(object: &NodeDisk) -> Option<&str> {
    object.spec.key.as_deref().filter(|key| has_signed(key, object))
}

/// The answer to a request to take over a NodeDisk: the changes of the NodeDisk, and the reason of a refusal (D3, A7).
/// `node_is_there` is a live read of the disk's former Node. The NodeDisk has the signature as its own until the agent has
/// made a new key.
pub fn answer(object: &NodeDisk, request: &TakeOver, node_is_there: bool) -> (Value, Option<String>) {
    let TakeOver { node_name: node, disk_name: disk, proof } = request;
    let is_signed = || {
        verifies(
            object.spec.key.as_deref()?,
            &text_of(&object.name_any(), &object.spec.disk_id, node, disk),
            proof,
        )
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
        None => (
            json!({"spec": {"nodeName": node, "diskName": disk, "takeOver": null, "key": null, "keyProof": proof}}),
            None,
        ),
        Some(why) => (json!({"spec": {"takeOver": null}}), Some(why)),
    }
}

fn verifies(key: &str, text: &str, proof: &str) -> Option<()> {
    UnparsedPublicKey::new(&ED25519, bytes(key)?).verify(text.as_bytes(), &bytes(proof)?).ok()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let byte = |i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    #[test]
    fn a7_a_disk_moves_only_with_the_signature_of_its_key() {
        let mut disk = testing::disk("n1.a", "n1", 10, &[]);
        disk.spec.key = Some(testing::disk_public_key(1));
        let request = |by: u8, of: &NodeDisk, signed_for: &str| TakeOver {
            node_name: "n2".into(),
            disk_name: "b".into(),
            proof: testing::disk_signature(by, &text_of(&of.name_any(), &of.spec.disk_id, signed_for, "b")),
        };
        let moves = |disk: &NodeDisk, request: &TakeOver, there| answer(disk, request, there).1.is_none();
        let good = request(1, &disk, "n2");
        let (fields, refused) = answer(&disk, &good, false);
        assert_eq!((fields["spec"]["nodeName"].as_str(), refused), (Some("n2"), None));
        assert!(!moves(&disk, &good, true), "D3: a copy, perhaps");
        assert!(!moves(&disk, &request(2, &disk, "n2"), false), "the key of another disk");
        assert!(!moves(&disk, &request(1, &disk, "n3"), false), "another node's proof");
        assert!(
            !moves(&disk, &request(1, &testing::disk("n1.b", "n1", 10, &[]), "n2"), false),
            "another disk's proof"
        );
        assert!(!moves(&disk, &TakeOver { proof: "é".into(), ..good.clone() }, false));
        let (mut gone, mut old) = (disk.clone(), disk.clone());
        (gone.spec.gone, old.spec.key) = (true, None);
        assert!(!moves(&gone, &good, false), "D4");
        assert!(!moves(&old, &good, false), "a NodeDisk of an earlier version has no key");
    }

    /// D3: until the agent of the new node has made a new key, the NodeDisk is still the disk's, and the old key is not
    /// attested.
    #[test]
    fn a7_a_disk_that_moved_is_known_by_the_request_for_it() {
        let mut disk = testing::disk("n1.a", "n1", 10, &[]);
        let key = testing::disk_public_key(1);
        disk.spec.key = Some(key.clone());
        testing::sign(&mut disk, 1);
        assert_eq!(attested(&disk), Some(&*key));
        let proof = testing::disk_signature(1, &text_of("n1.a", &disk.spec.disk_id, "n2", "b"));
        let request = TakeOver { node_name: "n2".into(), disk_name: "b".into(), proof };
        let (fields, _) = answer(&disk, &request, false);
        let mut object = serde_json::to_value(&disk).unwrap();
        for (field, value) in fields["spec"].as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let moved: NodeDisk = serde_json::from_value(object).unwrap();
        assert_eq!((&*moved.spec.node_name, has_signed(&key, &moved), attested(&moved)), ("n2", true, None));
        disk.spec.disk_name = "c".into();
        assert_eq!(
            (has_signed(&key, &disk), attested(&disk)),
            (false, None),
            "it was signed for another name"
        );
    }
}
