//! `VolumeClaim`: a namespace's wish to use a volume (C1–C7).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AccessMode, PodRef, Size, UidRef};

/// Which volume, and how.
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
    doc = "Asks for a volume that is offered to the namespace. Bound, it gives a PersistentVolumeClaim of its own name for ordinary pods.",
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
    validation = Rule::new("self == oldSelf").message("a claim cannot be changed: make another one")
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimSpec {
    /// Role that the claim is made for: the volume is of this role or of an ancestor, and whoever makes the claim has
    /// the verb `use` on it, or `use-readonly` for a ReadOnly claim (A1, A2).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(super::role::RULE).message(super::role::MESSAGE))]
    pub role: String,
    /// Name of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub volume: Option<String>,
    /// What the volume is to be like. Of those on offer that fit, the nearest in role is taken, and of these the
    /// smallest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<ClaimSelector>,
    /// What the claim's pods may do with it.
    #[serde(default)]
    pub mode: AccessMode,
}

/// What a volume is to be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSelector {
    /// Labels that the volume has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Its size at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(super::size::RULE).message(super::size::MESSAGE))]
    pub min_size: Option<Size>,
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClaimPhase {
    /// Not bound; the condition says why.
    #[default]
    Pending,
    /// Bound to its volume, for good.
    Bound,
    /// Being deleted.
    Releasing,
}

/// What is known of a claim; all of it is the controller's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeClaimStatus {
    /// Where it stands.
    pub phase: ClaimPhase,
    /// The volume that it is bound to: written once (S8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<UidRef>,
    /// The node that its pods will run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Name of its PersistentVolume; the PersistentVolumeClaim has the claim's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume: Option<String>,
    /// While it is being deleted: the first 16 pods that still use it (C6).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<PodRef>,
    /// `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
