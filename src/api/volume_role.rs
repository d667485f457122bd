//! `VolumeRole`: what a role has (Q1).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LedgerEntry, Size};

/// A role. It needs no such object to be used: with one, what it has is summed up in one place.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
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
    printcolumn(name = "Limit", type_ = "string", json_path = ".spec.quota.limit"),
    printcolumn(name = "Guarantee", type_ = "string", json_path = ".spec.quota.guarantee"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight", priority = 1),
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
    /// How much the role and its sub-roles may reserve, and how much room they are sure of (Q2).
    #[serde(default)]
    #[x_kube(
        validation = Rule::new(concat!("!has(self.limit) || !has(self.guarantee) || (type(self.limit) == int || ", super::size::is_quantity!("self.limit"), ") && (type(self.guarantee) == int || ", super::size::is_quantity!("self.guarantee"), ") && quantity(string(self.guarantee)).compareTo(quantity(string(self.limit))) <= 0"))
            .message("the guarantee of a role is not more than its limit")
    )]
    pub quota: Quota,
    /// When room is scarce, a role of weight 2 gets twice as much as one of weight 1 (Q3).
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// What a role may have at most, and is sure of at least (Q2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// The reservations of the role and its sub-roles are never more than this together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(super::size::RULE).message(super::size::MESSAGE))]
    pub limit: Option<Size>,
    /// Room that other roles cannot reserve away, as long as this role has not reserved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(super::size::RULE).message(super::size::MESSAGE))]
    pub guarantee: Option<Size>,
}

/// What a role has; all of it is the controller's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeRoleStatus {
    /// The ledger of a role that has a quota: every reservation of the role and its sub-roles that was not carved out of
    /// another one of these. This list, changed by compare-and-swap, decides the limit (Q2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<LedgerEntry>,
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
