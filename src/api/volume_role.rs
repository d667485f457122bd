//! `VolumeRole`: quota and weight of a role, and its consumption (Q1–Q3).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LedgerEntry, Size};

/// Quota and weight of a role. A role can be used without a VolumeRole; it has no quota then, and weight 1.
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
    doc = "Quota and weight of a role, and its reserved and used bytes on all disks.",
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
    printcolumn(
        name = "Templated",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Templated\")].status"
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
pub struct VolumeRoleSpec {
    /// Name of the role. It cannot be changed.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(super::role::RULE).message(super::role::MESSAGE),
        validation = Rule::new("self == oldSelf").message("the role of a VolumeRole cannot be changed: create another VolumeRole")
    )]
    pub role: String,
    /// Limit and guarantee of the reservations of the role and its sub-roles (Q2).
    #[serde(default)]
    #[x_kube(
        validation = Rule::new(concat!("!has(self.limit) || !has(self.guarantee) || (type(self.limit) == int || ", super::size::is_quantity!("self.limit"), ") && (type(self.guarantee) == int || ", super::size::is_quantity!("self.guarantee"), ") && quantity(string(self.guarantee)).compareTo(quantity(string(self.limit))) <= 0"))
            .message("the guarantee of a role is not more than its limit")
    )]
    pub quota: Quota,
    /// Weight of the role among the roles with the same parent, in the queue of pending reservations: a role of
    /// weight 2 gets twice as much as a role of weight 1 (Q3). 1 to 1000.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Reservations that the controller makes for the role, each on the disk of every node of a selector, also of nodes
    /// that come later (R7). At most 8. A change needs the verbs `reserve` and `unreserve` on the role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub reservation_templates: Vec<ReservationTemplate>,
}

fn one() -> u32 {
    1
}

/// A reservation on the disk of each node of a selector (R7). Each is a DiskReservation named
/// `<VolumeRole>.<template>.<NodeDisk>`, which follows the template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservationTemplate {
    /// Name of the template, a DNS label.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("the name of a template has lower-case letters, digits and inner hyphens"))]
    pub name: String,
    /// Size on each node in bytes, as a quantity such as 100Gi; at least 1Mi. A change resizes the reservations, none below
    /// its used bytes (R6).
    #[x_kube(
        validation = Rule::new(super::size::RULE).message(super::size::MESSAGE),
        validation = Rule::new(super::size::LEAST_RULE).message(super::size::LEAST_MESSAGE)
    )]
    pub size: Size,
    /// Name of the disk in the agents' configuration. `default` if absent, as in the chart.
    #[serde(default = "default_disk")]
    #[schemars(length(min = 1, max = 63))]
    pub disk_name: String,
    /// Labels of the nodes; if absent, all nodes with such a disk. At most 64, of 4096 characters together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::refs::selector_schema")]
    pub node_selector: Option<BTreeMap<String, String>>,
}

fn default_disk() -> String {
    "default".into()
}

/// The reservations of a template, counted (R7).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateStatus {
    /// Name of the template.
    pub name: String,
    /// Number of the disks that the template selects.
    pub disks: u32,
    /// Number of the reservations on them that are `Ready`.
    pub ready: u32,
}

/// Limit and guarantee of a role, in bytes, as quantities (Q2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Largest sum of the reservations of the role and its sub-roles. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(super::size::RULE).message(super::size::MESSAGE))]
    pub limit: Option<Size>,
    /// Storage capacity that other roles cannot reserve, as long as this role has not reserved as much. Not
    /// more than `limit`. No guarantee if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(super::size::RULE).message(super::size::MESSAGE))]
    pub guarantee: Option<Size>,
}

/// Consumption of a role. The controller writes every field. Sizes are in bytes, as quantities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeRoleStatus {
    /// The ledger of a role with a quota: one entry for each reservation of the role and its sub-roles that
    /// was not carved out of another of these, at most 1000. Changes by compare-and-swap of this list decide the
    /// limit (Q2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<LedgerEntry>,
    /// Sum of the reservations of the role and its sub-roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Size>,
    /// Sum of the volumes in these reservations. A shared volume counts once, for any number of users (Q1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Size>,
    /// The reservations of the templates, counted (R7).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub reservation_templates: Vec<TemplateStatus>,
    /// The condition `Ready`, and `Templated` of a role with templates (T1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
