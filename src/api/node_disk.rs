//! `NodeDisk`: one disk of one node (D1).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LedgerEntry, Reserved, Size};

/// What a disk is and where; written by the agent of its node.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "reservoir.dev",
    version = "v1alpha1",
    kind = "NodeDisk",
    plural = "nodedisks",
    shortname = "nd",
    category = "reservoir",
    status = "NodeDiskStatus",
    derive = "PartialEq",
    doc = "One disk of one node: what it has, what is reserved on it and for whom. Made by the node's agent.",
    selectable = ".spec.nodeName",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Gone", type_ = "boolean", json_path = ".spec.gone", priority = 1),
    printcolumn(name = "Backing", type_ = "string", json_path = ".spec.backing", priority = 1),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.enforcement.state", priority = 1),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".status.capacity"),
    printcolumn(name = "System", type_ = "string", json_path = ".status.systemReserved", priority = 1),
    printcolumn(name = "Allocatable", type_ = "string", json_path = ".status.allocatable"),
    printcolumn(name = "Reserved", type_ = "string", json_path = ".status.reserved"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!(has(oldSelf.gone) && oldSelf.gone) || has(self.gone) && self.gone")
        .message("a disk that was declared gone stays gone: give the agent a new one under another name")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeDiskSpec {
    /// Name of the node that the disk is in now.
    pub node_name: String,
    /// Name of the disk in the agent's configuration.
    pub disk_name: String,
    /// Identity of the disk, stored on the disk itself; it decides whose volumes these are (D3).
    #[x_kube(validation = Rule::new("self == oldSelf").message("a disk is its ID: delete this NodeDisk, and let the agent make one for the other disk"))]
    #[schemars(rename = "diskID")]
    #[serde(rename = "diskID")]
    pub disk_id: String,
    /// What is handed out of it.
    pub kind: DiskKind,
    /// How volumes are made on it, and so how their size is enforced.
    pub backing: BackingKind,
    /// Where it is on the node.
    pub path: String,
    /// Directories beneath which a volume may adopt one that holds data (V8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopt_roots: Vec<String>,
    /// There may be volumes on it whose size is not enforced: adopted directories, and all of them if the disk turns out
    /// to enforce no size (D5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unenforced: bool,
    /// An administrator's word that the disk, or its node, will never come back; it cannot be taken back. What was on
    /// it is lost: its volumes and reservations can be deleted then (D4).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// What kind of thing a disk is (D1, D2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DiskKind {
    /// A directory on a file system, or a volume group; divisible.
    #[default]
    Path,
    /// A whole file system; reserved and created whole, never divided.
    Mount,
    /// A raw device; reserved and created whole, never divided.
    Block,
}

/// How volumes are made on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackingKind {
    /// One preallocated file per volume with a file system of its own: a hard limit on any kernel.
    Loop,
    /// A subvolume per volume, of a btrfs that nobody else uses: the kernel's simple quotas are the limit, with nothing in
    /// between. Linux 6.7 or newer.
    Btrfs,
    /// A directory of a file system that nobody else uses: its own size is the limit.
    Mount,
    /// A raw device: its own size is the limit.
    Block,
    /// A directory per volume with a project quota on ext4 or xfs: bare file system speed. A limit, and no reservation
    /// against others who write to that file system; the owner of a file can leave its project unless his pod has
    /// `hostUsers: false`.
    Quota,
    /// A logical volume per volume, of an LVM volume group, with a file system of its own: thick, so its bytes are there.
    Lvm,
}

/// What a role has on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleOnDisk {
    /// The role, as its reservations name it; what was carved out of these for a sub-role is in it.
    pub role: String,
    /// Sum of its reservations on this disk.
    pub reserved: Size,
    /// How many these are.
    pub reservations: u32,
}

/// Whether the size of volumes is enforced on a disk (D5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// What came of trying it.
    pub state: EnforcementState,
    /// How that is known, in a sentence.
    pub message: String,
}

/// What came of trying whether a writer is stopped at the limit of his volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnforcementState {
    /// He was.
    Proven,
    /// The disk is handed out whole: it is the limit itself.
    Whole,
    /// There was no room to try; no volume is made before there is.
    Untried,
    /// He was not. Such a disk is refused, unless `spec.allowUnenforced` says that it may be used.
    Broken,
}

/// What is known of a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeDiskStatus {
    /// Size of the disk (agent).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Size>,
    /// Held back for the system (agent).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_reserved: Option<Size>,
    /// Capacity less what is held back: the sum of all reservations never exceeds it (S1; agent).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Size>,
    /// The ledger: every reservation on this disk. This list, changed by compare-and-swap, decides R1 (controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<LedgerEntry>,
    /// Sum of the ledger (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Size>,
    /// Allocatable less reserved (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// What each role reserved on this disk: the ledger, summed up (controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleOnDisk>,
    /// Whether the size of volumes is enforced, and how that is known (D5; agent).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// Data on it that no object has any more; the room of it is kept (X6, S14; agent).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<Orphan>,
    /// `Ready` (controller) and `DiskHealthy` (agent).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Data without an object, with all that its node knows of it: `reservoir recover` makes manifests of this (X6).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// UID that its volume had.
    pub uid: String,
    /// How large it is.
    pub size: Size,
    /// Why no more is known of it than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Name that its volume had.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Labels that its volume had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The reservation that its volume lived in, then those which that one was carved out of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reserved>,
    /// The spec of its volume.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schemars(schema_with = "any_object")]
    pub spec: Value,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
