//! `DiskReservation`: bytes of one disk that are reserved for one role (R1).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeletionPolicy, DiskKind, LedgerEntry, Size, UidRef};

/// Requested reservation. The role and the placement cannot be changed.
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
    selectable = ".status.nodeName",
    doc = "Bytes of one disk, reserved for one role atomically, and never more than the free space.",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Disk", type_ = "string", json_path = ".status.nodeDisk", priority = 1),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Wished", type_ = "string", json_path = ".spec.size", priority = 1),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.used"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free"),
    printcolumn(name = "Kept", type_ = "string", json_path = ".status.kept", priority = 1),
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
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"False\")].message",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("[has(self.nodeDisk), has(self.nodeName), has(self.nodeSelector), has(self.parent)].filter(b, b).size() <= 1")
        .message("give at most one of nodeDisk, nodeName, nodeSelector and parent"),
    validation = Rule::new("has(self.nodeDisk) == has(oldSelf.nodeDisk) && has(self.nodeName) == has(oldSelf.nodeName) && has(self.nodeSelector) == has(oldSelf.nodeSelector) && has(self.parent) == has(oldSelf.parent)")
        .message("the placement of a reservation cannot be changed: delete it and reserve anew"),
    validation = Rule::new("!has(oldSelf.principal) || has(self.principal)").message(super::principal::missing()),
    validation = Rule::new("has(self.static) == has(oldSelf.static)").message("the field static of a reservation cannot be changed"),
    validation = Rule::new("has(self.template) == has(oldSelf.template)").message("the field template of a reservation cannot be changed")
)]
#[serde(rename_all = "camelCase")]
pub struct DiskReservationSpec {
    /// Role of the reservation. Its sub-roles may use the bytes too (R3).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(super::role::RULE).message(super::role::MESSAGE),
        validation = Rule::new("self == oldSelf").message("the role of a reservation cannot be changed: delete it and reserve anew")
    )]
    pub role: String,
    /// Size in bytes, as a quantity such as 100Gi; at least 1Mi. The size may grow into the free space of the disk, and
    /// shrink to the used bytes (R6).
    #[x_kube(
        validation = Rule::new(super::size::RULE).message(super::size::MESSAGE),
        validation = Rule::new(super::size::LEAST_RULE).message(super::size::LEAST_MESSAGE)
    )]
    pub size: Size,
    /// Name of the NodeDisk that serves the reservation. Without a placement, every NodeDisk may serve it
    /// (R1).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the placement of a reservation cannot be changed: delete it and reserve anew"))]
    pub node_disk: Option<String>,
    /// Name of the node whose disks may serve the reservation (R1).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the placement of a reservation cannot be changed: delete it and reserve anew"))]
    pub node_name: Option<String>,
    /// Labels of the nodes whose disks may serve the reservation. The controller chooses the disk with the
    /// most free space (R1). At most 64, of 4096 characters together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::refs::selector_schema")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the placement of a reservation cannot be changed: delete it and reserve anew"))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Name of the parent reservation that the bytes are carved out of. The role must be a strict sub-role of
    /// the parent's role. Deletion returns the bytes to the parent (R4).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the placement of a reservation cannot be changed: delete it and reserve anew"))]
    pub parent: Option<String>,
    /// Marks a reservation of the agent's configuration. Only the agent may make, change or delete it (R2).
    /// False if absent.
    #[serde(default, rename = "static", skip_serializing_if = "std::ops::Not::not")]
    #[schemars(rename = "static")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the field static of a reservation cannot be changed"))]
    pub is_static: bool,
    /// The template that the reservation was made from. Only the controller writes it; size and end of the reservation
    /// follow the template (R7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the field template of a reservation cannot be changed"))]
    pub template: Option<TemplateRef>,
    /// A `DELETE` of the reservation while volumes and reservations are in it: `Refuse` or `Wait` (F5). A change needs
    /// the verb `unreserve` on the role. `Refuse` if absent.
    #[serde(default, skip_serializing_if = "DeletionPolicy::is_refuse")]
    pub deletion_policy: DeletionPolicy,
    /// Username of the creator, from the credentials of the caller; it never changes (R5, A3). Admission writes it. Where
    /// the API server has no MutatingAdmissionPolicy (before Kubernetes 1.36), the creator writes it, and admission
    /// refuses another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(super::principal::changed()))]
    pub principal: Option<String>,
}

/// A template of a VolumeRole (R7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateRef {
    /// Name of the VolumeRole.
    #[schemars(length(min = 1, max = 253))]
    pub volume_role: String,
    /// Name of the template.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Phase of a reservation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReservationPhase {
    /// Not served yet; the condition `Ready` has the missing bytes per disk.
    #[default]
    Pending,
    /// Entered in the ledger of its disk.
    Reserved,
    /// Being deleted.
    Releasing,
}

/// A turn of five minutes, in which free space is held back for a reservation (Q5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CollectingTurn {
    /// Begin of the turn.
    pub since: Time,
    /// The disk whose free space is held back. Without a disk, unguaranteed free space of all disks is
    /// held back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_disk: Option<String>,
}

/// Observed state of a reservation. The controller writes every field. Sizes are in bytes, as quantities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DiskReservationStatus {
    /// Phase of the reservation; `Pending` at first.
    pub phase: ReservationPhase,
    /// Name of the NodeDisk that serves the reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_disk: Option<String>,
    /// Name of the node of that disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Kind of that disk. A disk of another kind than `Path` is reserved as a whole (D2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_kind: Option<DiskKind>,
    /// ID of that disk. A NodeDisk that is missing is made anew with this ID (D3). Absent for a refinement.
    #[schemars(rename = "diskID")]
    #[serde(rename = "diskID", skip_serializing_if = "Option::is_none")]
    pub disk_id: Option<String>,
    /// Name of that disk in the configuration of its agent. Absent for a refinement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_name: Option<String>,
    /// Reserved size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The ledger of the reservation: one entry for each volume, at most 1000. An entry with `kept` is that of a
    /// destroyed volume (X8). Changes by compare-and-swap of this list decide V1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<LedgerEntry>,
    /// The second part of the ledger: one entry for each reservation that was carved out of this one, at most
    /// 1000 (R4).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refinements: Vec<LedgerEntry>,
    /// The parent reservation, by name and UID (R4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<UidRef>,
    /// Sum of both parts of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Size>,
    /// Size less used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// The part of used that the data of destroyed volumes has. It is kept for an undo, until the
    /// reservation needs the bytes (X8). Absent if nothing is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Size>,
    /// The last turn in which free space was held back for the reservation, while it waits (Q5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<CollectingTurn>,
    /// The condition `Ready`, and `Resized` after the first change of the size (T1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
