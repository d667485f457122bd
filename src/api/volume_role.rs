//! `VolumeRole`: what a role has (Q1).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Size;

/// A role. It needs no such object to be used: with one, what it has is summed up in one place.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "reservoir.dev",
    version = "v1alpha1",
    kind = "VolumeRole",
    plural = "volumeroles",
    shortname = "vrole",
    category = "reservoir",
    status = "VolumeRoleStatus",
    derive = "PartialEq",
    doc = "A role: what it has reserved and used on all disks.",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Reserved", type_ = "string", json_path = ".status.reserved"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.used"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRoleSpec {
    /// The role.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(super::role::RULE).message(super::role::MESSAGE),
        validation = Rule::new("self == oldSelf").message("the role that a VolumeRole speaks for cannot be changed: make another one")
    )]
    pub role: String,
}

/// What a role has; all of it is the controller's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeRoleStatus {
    /// Sum of the reservations of the role and its sub-roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Size>,
    /// Sum of the volumes in them, each counted once however many use it (Q1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Size>,
    /// `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
