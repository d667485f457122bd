//! References between objects, and entries of ledgers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Size;

/// An entry of a ledger: a holder and its bytes. The UID identifies the holder; the name is for people (C7,
/// S8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerEntry {
    /// Name of the holder.
    pub name: String,
    /// UID of the holder.
    pub uid: String,
    /// Role of the holder.
    pub role: String,
    /// Namespace of the PersistentVolumeClaim for which the holder, a volume, was made (P1). Its share of the list counts (A8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Bytes of the holder, as a quantity.
    pub size: Size,
    /// Generation of the reservation that the entry was taken for. An entry of an earlier generation is cut to the
    /// bytes that the reservation has (R6). Absent in an entry of a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Present if the holder is a destroyed volume whose data is kept for an undo (X8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Box<Kept>>,
}

/// A destroyed volume whose data is kept for an undo (X8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Time of the destruction.
    pub since: Time,
    /// The data is erased after this time, or earlier if the reservation needs the bytes.
    pub until: Time,
    /// Namespace and name of the PersistentVolumeClaim that the volume was made for, if it was made for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<String>,
    /// Labels of the volume.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Spec of the volume, without the fields that the entry and its reservation have.
    #[schemars(schema_with = "any_object")]
    pub spec: Value,
}

/// Schema of a value of any fields.
pub(super) fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A reservation as recorded on the disk of a volume, for the recovery of a lost cluster (X6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    /// Name of the reservation.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Role of the reservation.
    #[schemars(length(max = 253))]
    pub role: String,
    /// Size of the reservation, in bytes, as a quantity.
    pub size: Size,
    /// Labels of the reservation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Schema of a label selector. The API server does not check the labels, so the schema bounds their bytes (A8).
pub(super) fn selector_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "nullable": true,
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 63 },
        "x-kubernetes-validations": [{
            "rule": "self.map(key, key.size() + self[key].size()).sum() <= 4096",
            "message": "a selector has at most 4096 characters in its labels and values: select by fewer or shorter ones"
        }]
    })
}

/// FNV-1a hash of a text, for unique names. The hash is the same in every build.
pub fn stable_hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Reference to an object by name and UID. The UID identifies the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UidRef {
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
}

/// Reference to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Access of a claim to its volume (V4, M3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// The claim's pods may read and write.
    #[default]
    ReadWrite,
    /// The claim's pods may read. The mount is read-only before a pod can see it.
    ReadOnly,
}

/// The volume's side of a binding to a claim; written once, by UID (C1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimBinding {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// UID of the claim.
    pub uid: String,
    /// For the PersistentVolumeClaim of a StorageClass, which is its own claim (P1): its UID. Then `uid` is the same UID, or that
    /// of a VolumeClaim which an earlier version made, and which the PersistentVolume names for good.
    #[serde(default, rename = "pvcUID", skip_serializing_if = "Option::is_none")]
    pub pvc_uid: Option<String>,
    /// Access of the claim's pods.
    pub mode: AccessMode,
    /// True once the claim is being deleted or is gone, for good. The node mounts nothing more for the claim, and
    /// the entry goes once the node reports that nothing of the claim is mounted (C6).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
}

impl std::fmt::Display for ClaimBinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
