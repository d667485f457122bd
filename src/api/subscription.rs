//! `RoleSubscription`: a namespace asks for the offers of roles (O1).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which roles, and what the namespace can deal with.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "reservoir.dev",
    version = "v1alpha1",
    kind = "RoleSubscription",
    plural = "rolesubscriptions",
    shortname = "rsub",
    category = "reservoir",
    namespaced,
    status = "RoleSubscriptionStatus",
    derive = "PartialEq",
    doc = "Subscribes a namespace to the offers of roles; Mesos' FrameworkInfo.",
    printcolumn(name = "Roles", type_ = "string", json_path = ".spec.roles"),
    printcolumn(name = "Capabilities", type_ = "string", json_path = ".spec.capabilities"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RoleSubscriptionSpec {
    /// The roles; what is reserved for an ancestor of one is offered too (R3).
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = Rule::new(super::role::LIST_RULE).message(super::role::MESSAGE))]
    pub roles: Vec<String>,
    /// What the namespace can deal with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub capabilities: Vec<Capability>,
}

/// A capability of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    /// It can deal with volumes that others use at the same time; without it, none is offered (O3).
    #[serde(rename = "SHARED_RESOURCES")]
    SharedResources,
}

/// What is known of a subscription; all of it is the controller's. What it is offered is in its VolumeOffers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleSubscriptionStatus {
    /// `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
