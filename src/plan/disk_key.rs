//! The signature of a NodeDisk by the key of its disk (A7). The private key is on the disk, and the public key in its NodeDisk.

use kube::ResourceExt;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::api::{NodeDisk, NodeDiskSpec};

/// The text that an agent signs with the key of a disk: the NodeDisk that has the name and the spec is the disk's.
pub fn text(name: &str, spec: &NodeDiskSpec) -> String {
    text_of(name, &spec.disk_id, &spec.node_name, &spec.disk_name)
}

pub(super) fn text_of(name: &str, id: &str, node: &str, disk: &str) -> String {
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

/// `Some` if the private key of a public key has signed the text.
pub(super) fn verifies(key: &str, text: &str, proof: &str) -> Option<()> {
    UnparsedPublicKey::new(&ED25519, bytes(key)?).verify(text.as_bytes(), &bytes(proof)?).ok()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let byte = |i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}
