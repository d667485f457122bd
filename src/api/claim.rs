//! `VolumeClaim`: the request of a namespace for a volume (C1–C7).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AccessMode, PodRef, Size, UidRef};

/// The volume that the namespace asks for, and the access to it. The spec cannot be changed.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "reservoir.dev",
    version = "v1alpha1",
    kind = "VolumeClaim",
    plural = "volumeclaims",
    shortname = "vclaim",
    category = "reservoir",
    namespaced,
    status = "VolumeClaimStatus",
    derive = "PartialEq",
    doc = "The request of a namespace for a volume on offer. A bound claim has a PersistentVolumeClaim of the same name, for ordinary pods.",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role", priority = 1),
    printcolumn(name = "Volume", type_ = "string", json_path = ".status.volume.name"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.volume) != has(self.selector)").message("give either volume or selector"),
    validation = Rule::new("self == oldSelf").message("the spec of a claim cannot be changed: create another claim")
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimSpec {
    /// Role of the claim. The volume belongs to this role or to an ancestor (C4). The creator of the claim
    /// needs the verb `use` on the role, or `use-readonly` for a ReadOnly claim (A1, A2).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(super::role::RULE).message(super::role::MESSAGE))]
    pub role: String,
    /// Name of the SharedPersistentVolume; an alternative to `selector` (C1).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub volume: Option<String>,
    /// Properties of the volume; an alternative to `volume`. Of the fitting volumes on offer, the claim binds
    /// to one of the nearest role, and among these to the smallest (C1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<ClaimSelector>,
    /// Access of the claim's pods to the volume (M3).
    #[serde(default)]
    pub mode: AccessMode,
    /// Digest of the content that the claim demands: it binds only to a sealed volume with this `status.digest` (E4).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80), regex(pattern = "^blake3:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// Properties of a volume; a volume fits if it has all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSelector {
    /// Labels that the volume must have; at most 64, of 4096 characters together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::refs::selector_schema")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Smallest size of the volume, in bytes, as a quantity such as 10Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(super::size::RULE).message(super::size::MESSAGE))]
    pub min_size: Option<Size>,
}

/// Phase of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClaimPhase {
    /// Not bound; the condition `Ready` has the reason.
    #[default]
    Pending,
    /// Bound to its volume, permanently.
    Bound,
    /// Being deleted.
    Releasing,
}

/// Observed state of a claim. The controller writes every field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeClaimStatus {
    /// Phase of the claim; `Pending` at first.
    pub phase: ClaimPhase,
    /// The bound volume by name and UID; written once (C1, S8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<UidRef>,
    /// Name of the node of the volume; the claim's pods run there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Name of the claim's PersistentVolume. The PersistentVolumeClaim has the name of the claim (C5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume: Option<String>,
    /// During the deletion of the claim: the first 16 pods that still use it (C6).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<PodRef>,
    /// The condition `Ready` (T1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
