//! `RoleSubscription`: the subscription of a namespace to the offers of roles (O1).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Roles and capabilities of a subscriber.
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
    doc = "The subscription of a namespace to the offers of roles; Mesos' FrameworkInfo.",
    printcolumn(name = "Roles", type_ = "string", json_path = ".spec.roles"),
    printcolumn(name = "Capabilities", type_ = "string", json_path = ".spec.capabilities"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"False\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RoleSubscriptionSpec {
    /// Names of the roles. Reservations and volumes of their ancestors are offered too (R3). 1 to 32 roles.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = Rule::new(super::role::LIST_RULE).message(super::role::MESSAGE))]
    pub roles: Vec<String>,
    /// Capabilities of the namespace's pods; none if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub capabilities: Vec<Capability>,
}

/// A capability of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    /// The pods can use a volume together with other pods. Without it, no shared volume is offered (O3).
    #[serde(rename = "SHARED_RESOURCES")]
    SharedResources,
}

/// Observed state of a subscription. The controller writes every field. The offers themselves are
/// VolumeOffers (O2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleSubscriptionStatus {
    /// The condition `Ready` (T1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
