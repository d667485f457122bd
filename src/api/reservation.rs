//! `DiskReservation`: bytes of one disk, for one role (R1).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DiskKind, LedgerEntry, Size, UidRef};

/// What is to be reserved.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "reservoir.dev",
    version = "v1alpha1",
    kind = "DiskReservation",
    plural = "diskreservations",
    shortname = "dr",
    category = "reservoir",
    status = "DiskReservationStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeDisk",
    doc = "Bytes of one disk, reserved for one role: atomically, and never more than is free.",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Disk", type_ = "string", json_path = ".status.nodeDisk", priority = 1),
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.size"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.used"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("[has(self.nodeDisk), has(self.nodeName), has(self.nodeSelector), has(self.parent)].filter(b, b).size() <= 1")
        .message("give at most one of nodeDisk, nodeName, nodeSelector and parent"),
    validation = Rule::new("has(self.nodeDisk) == has(oldSelf.nodeDisk) && has(self.nodeName) == has(oldSelf.nodeName) && has(self.nodeSelector) == has(oldSelf.nodeSelector) && has(self.parent) == has(oldSelf.parent)")
        .message("where a reservation is cannot be changed: delete it and reserve anew"),
    validation = Rule::new("!has(oldSelf.principal) || has(self.principal)").message("who made it cannot be changed"),
    validation = Rule::new("has(self.static) == has(oldSelf.static)").message("whether a reservation is static cannot be changed")
)]
#[serde(rename_all = "camelCase")]
pub struct DiskReservationSpec {
    /// Role that the bytes are for; its sub-roles may use them too (R3).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(super::role::RULE).message(super::role::MESSAGE),
        validation = Rule::new("self == oldSelf").message("the role of a reservation cannot be changed: delete it and reserve anew")
    )]
    pub role: String,
    /// How many bytes. It may grow while its disk has room, and shrink to what lives in it (R6).
    #[x_kube(
        validation = Rule::new(super::size::RULE).message(super::size::MESSAGE)
    )]
    pub size: Size,
    /// Name of the NodeDisk to take them from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("where a reservation is cannot be changed: delete it and reserve anew"))]
    pub node_disk: Option<String>,
    /// Name of the node whose disks may serve it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("where a reservation is cannot be changed: delete it and reserve anew"))]
    pub node_name: Option<String>,
    /// Labels of the nodes whose disks may serve it; the controller takes the disk with the most room.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("where a reservation is cannot be changed: delete it and reserve anew"))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Name of the reservation that the bytes are carved out of, for a strict sub-role of its role; they go back to it
    /// when this one goes (R4).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("where a reservation is cannot be changed: delete it and reserve anew"))]
    pub parent: Option<String>,
    /// It comes from the agent's configuration: nobody else can make, change or delete it (R2).
    #[serde(default, rename = "static", skip_serializing_if = "std::ops::Not::not")]
    #[schemars(rename = "static")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("whether a reservation is static cannot be changed"))]
    pub is_static: bool,
    /// Who made it, as the API server knew the caller: written at admission, never by the caller (R5, A3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("who made it cannot be changed"))]
    pub principal: Option<String>,
}

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReservationPhase {
    /// Not served yet; the condition says what is missing where.
    #[default]
    Pending,
    /// In the ledger of its disk.
    Reserved,
    /// Being deleted.
    Releasing,
}

/// What is known of a reservation; all of it is the controller's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DiskReservationStatus {
    /// Where it stands.
    pub phase: ReservationPhase,
    /// The NodeDisk that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_disk: Option<String>,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The kind of that disk: one that is not `Path` is reserved whole (D2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_kind: Option<DiskKind>,
    /// What was reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The ledger: every volume in it. This list, changed by compare-and-swap, decides V1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<LedgerEntry>,
    /// The ledger's other half: the reservations carved out of it (R4).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refinements: Vec<LedgerEntry>,
    /// The reservation that it was carved out of (R4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<UidRef>,
    /// Sum of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Size>,
    /// Size less used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// `Ready`, and `Resized` once its size was changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
