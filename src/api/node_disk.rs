//! `NodeDisk`: one disk of one node (D1).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LedgerEntry, Reserved, Size, refs};

/// Properties and location of a disk. The agent of its node writes every field, except `gone`.
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
    doc = "One disk of one node, with its storage capacity and its reservations. The node's agent makes it.",
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
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"False\")].message",
        priority = 1
    )
)]
#[x_kube(
    validation = Rule::new("!(has(oldSelf.gone) && oldSelf.gone) || has(self.gone) && self.gone")
        .message("a disk that was declared gone stays gone: give the agent a new disk under another name")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeDiskSpec {
    /// Name of the node that the disk is in now (D1).
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// Name of the disk in the agent's configuration.
    #[schemars(length(min = 1, max = 63))]
    pub disk_name: String,
    /// Identity of the disk, stored on the disk itself. It decides which volumes belong to the disk (D3). `unknown`
    /// while the agent cannot open the disk, or may not serve it as any NodeDisk: then nothing is reserved on it (D8).
    #[x_kube(validation = Rule::new("self == oldSelf || oldSelf == 'unknown'").message("the ID of a disk cannot be changed: delete this NodeDisk, and let the agent make one for the other disk"))]
    #[schemars(rename = "diskID", length(min = 1, max = 253))]
    #[serde(rename = "diskID")]
    pub disk_id: String,
    /// Kind of the disk: divisible, or reserved as a whole (D1, D2).
    pub kind: DiskKind,
    /// Backing of the disk's volumes, which also decides the enforcement of their size (V5).
    pub backing: BackingKind,
    /// Absolute path on the node: a directory, a mount point, or a device.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// Absolute paths of directories on the node. A volume may adopt a directory beneath one of them (V8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub adopt_roots: Vec<String>,
    /// Permits volumes without an enforced size: adopted directories, and every volume if the disk enforces
    /// no size (D5). False if absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unenforced: bool,
    /// Public key of the disk, hexadecimal. The private key is on the disk. The agent makes both, and makes new ones
    /// after the disk has moved to another node (A7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key: Option<String>,
    /// Signature of the names of NodeDisk, node and disk and of the ID, with the private key on the disk, hexadecimal. A
    /// NodeDisk without it is not taken for the one of a disk in another node (A7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub key_proof: Option<String>,
    /// Request of the agent of another node, which found the disk there. The controller moves the NodeDisk if
    /// the request is signed with the key of the disk (D3, A7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_over: Option<TakeOver>,
    /// `Node`: the disk goes with its Node. When the Node has been missing for the grace period, the controller declares the
    /// disk gone; its volumes and claims end, and its reservations are placed anew (D7). `Disk` if absent: nothing ends
    /// because a Node is missing (D4).
    #[serde(default, skip_serializing_if = "Lifetime::is_disk")]
    pub lifetime: Lifetime,
    /// The grace period of `lifetime: Node`, in seconds. 300 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_grace_seconds: Option<u32>,
    /// With `lifetime: Node`, UID of the Node whose agent found the disk.
    #[schemars(rename = "nodeUID", length(max = 64))]
    #[serde(default, rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,
    /// Declares that the disk, or its node, will never come back. An administrator sets it, and it cannot be
    /// unset. The data of the disk is lost, and its volumes and reservations can be deleted (D4). Refused for a disk that
    /// is served. The controller sets it for a disk with `lifetime: Node` (D7). False if absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// The ID of a configured disk that the agent could not open yet, or may not serve (D8). The IDs on disks are UUIDs, so
/// no disk has it.
pub const UNKNOWN_DISK: &str = "unknown";

/// A request to take over a NodeDisk (D3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TakeOver {
    /// Name of the node that the disk is in now.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// Name of the disk in the configuration of the agent there.
    #[schemars(length(min = 1, max = 63))]
    pub disk_name: String,
    /// The `keyProof` of the NodeDisk with these names, hexadecimal.
    #[schemars(length(max = 128))]
    pub proof: String,
}

/// The end of a disk (D4, D7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Lifetime {
    /// The disk outlasts its Node. An administrator declares it gone.
    #[default]
    Disk,
    /// The disk goes with its Node.
    Node,
}

impl Lifetime {
    /// True for [`Lifetime::Disk`], which is not written.
    pub fn is_disk(&self) -> bool {
        *self == Self::Disk
    }
}

/// Another disk in the place of a known one (D7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OtherDisk {
    /// ID of the other disk.
    #[schemars(rename = "diskID")]
    #[serde(rename = "diskID")]
    pub disk_id: String,
    /// UID of the Node whose agent found it.
    #[schemars(rename = "nodeUID")]
    #[serde(rename = "nodeUID")]
    pub node_uid: String,
}

/// A Node that was found to be missing (D7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingNode {
    /// UID of the Node.
    #[schemars(rename = "nodeUID")]
    #[serde(rename = "nodeUID")]
    pub node_uid: String,
    /// Begin of the grace period.
    pub since: Time,
}

impl NodeDiskSpec {
    /// The disk with that ID, with the defaults of its kind.
    pub fn new(node_name: String, disk_name: String, disk_id: String, kind: DiskKind, path: String) -> Self {
        Self {
            node_name,
            disk_name,
            disk_id,
            kind,
            backing: kind.default_backing(),
            path,
            adopt_roots: Vec::new(),
            allow_unenforced: false,
            key: None,
            key_proof: None,
            take_over: None,
            lifetime: Lifetime::Disk,
            node_grace_seconds: None,
            node_uid: None,
            gone: false,
        }
    }
}

impl DiskKind {
    /// The backing of volumes, unless the configuration has another one.
    pub fn default_backing(self) -> BackingKind {
        match self {
            Self::Path => BackingKind::Loop,
            Self::Mount => BackingKind::Mount,
            Self::Block => BackingKind::Block,
        }
    }
}

/// Kind of a disk (D1, D2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DiskKind {
    /// A directory on a file system, or an LVM volume group; divisible.
    #[default]
    Path,
    /// A whole file system; reserved and used as a whole, never divided.
    Mount,
    /// A raw device; reserved and used as a whole, never divided.
    Block,
}

/// Backing of the volumes of a disk (V5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackingKind {
    /// One preallocated file per volume, with a file system of its own: a hard limit on any kernel.
    Loop,
    /// One subvolume per volume, of a btrfs without other users. The kernel's simple quotas are the limit,
    /// with nothing between pod and file system. Linux 6.7 or newer.
    Btrfs,
    /// A directory of a file system without other users; the size of the file system is the limit.
    Mount,
    /// A raw device; the size of the device is the limit.
    Block,
    /// One directory per volume, with a project quota of ext4 or xfs: the speed of the bare file system. The
    /// quota limits the volume, and reserves nothing against other writers of the file system. The owner of a
    /// file can move the file out of its project, unless the pod has `hostUsers: false`.
    Quota,
    /// One thick logical volume of an LVM volume group per volume, with a file system of its own: its bytes
    /// are allocated.
    Lvm,
}

/// The place where other agents get the content of sealed volumes of a node (E2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// Address and port of the agent.
    #[schemars(length(max = 64))]
    pub address: String,
    /// Public key of the agent, an Ed25519 key of 64 hexadecimal digits. Both sides of a transfer compare the other's key with the
    /// published one.
    #[schemars(length(max = 64))]
    pub key: String,
}

/// Reservations of a role on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleOnDisk {
    /// Name of the role, as in its reservations. Bytes carved out for a sub-role are included (R4).
    pub role: String,
    /// Sum of the role's reservations on this disk, in bytes, as a quantity.
    pub reserved: Size,
    /// Number of these reservations.
    pub reservations: u32,
}

/// Enforcement of the size of volumes on a disk (D5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// Outcome of the agent's test.
    pub state: EnforcementState,
    /// Evidence for the state, in one sentence.
    pub message: String,
}

/// Outcome of the test that writes past the limit of a scratch volume (D5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnforcementState {
    /// The writer was stopped at the limit.
    Proven,
    /// The disk is used as a whole, and its own size is the limit.
    Whole,
    /// The disk had no free space for the test. No volume is made before the test has passed.
    Untried,
    /// The writer was not stopped. The disk is refused, unless `spec.allowUnenforced` is true.
    Broken,
}

/// Observed state of a disk. Sizes are in bytes, as quantities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeDiskStatus {
    /// Size of the disk. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Size>,
    /// Part of the capacity that is held back for the system. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_reserved: Option<Size>,
    /// Capacity less `systemReserved`, and less what other files take of it (D1). The sum of all reservations never exceeds it
    /// (S1). Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Size>,
    /// The ledger of the disk: one entry for each reservation, at most 1000. Changes by compare-and-swap of this
    /// list decide R1. Written by the controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<LedgerEntry>,
    /// Sum of the ledger. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Size>,
    /// Allocatable less reserved. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// The ledger, summed up by role: the 100 roles that reserved most. Written by the controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleOnDisk>,
    /// True if a pod of the node may mount a ReadOnly claim without `readOnly`: the kernel locks the mount, and the
    /// container runtime asks the agent (NRI) about each container (M3). Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeps_read_only: Option<bool>,
    /// The place where other agents get the content of sealed volumes of the node (E2). Absent if copies are off. Written by the
    /// agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// Enforcement of the size of volumes, with its evidence (D5). Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// With `lifetime: Node`, another disk that the agent found in the place of this one. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_disk: Option<OtherDisk>,
    /// The node is cordoned: no new volume is placed on the disk, and pods that are not scheduled yet wait. False if absent.
    /// Written by the controller.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// With `lifetime: Node`, the Node that is missing (D7). Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_node: Option<MissingNode>,
    /// Data without an object. Its bytes stay allocated (X6, S14). At most 128 entries. Written by the agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub orphans: Vec<Orphan>,
    /// More data without an object, for which `orphans` has no space. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlisted_orphans: Option<UnlistedOrphans>,
    /// Block devices of the node's hardware, taken or not: at most 64. The first disk of the node's configuration has the
    /// list. Written by the agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub devices: Vec<NodeDevice>,
    /// The conditions `Ready`, written by the controller, and `DiskHealthy`, written by the agent (T1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The largest number of devices in a status.
pub const MAX_DEVICES: usize = 64;

/// A block device of the node's hardware (D6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDevice {
    /// Path of the device, which may be another one's after the next boot.
    #[schemars(length(max = 64))]
    pub path: String,
    /// Size of the device, in bytes, as a quantity.
    pub size: Size,
    /// Model of the device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub model: String,
    /// Serial number or WWID of the device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub serial: String,
    /// True for a spinning disk. False if absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotational: bool,
    /// The reason why no disk can take the device, as a predicate. Absent for a blank device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub obstacle: Option<String>,
    /// Disks of the configuration whose `match` the blank device meets: at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub matched_by: Vec<String>,
}

/// Data without an object that is not listed (X6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnlistedOrphans {
    /// Number of the lost volumes.
    pub count: u32,
    /// Bytes held back for the reservations of this data, beside the ledger, as a quantity.
    pub size: Size,
}

/// Data without an object, with everything that is recorded on its disk. `reservoir recover` prints manifests
/// from it (X6).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// UID of the lost volume.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Size of the data, in bytes, as a quantity.
    pub size: Size,
    /// Cause, if the disk has no readable record of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Name of the lost volume.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,
    /// Namespace and name of the PersistentVolumeClaim that the volume was made for, if it was made for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400))]
    pub made_for: Option<String>,
    /// Labels of the lost volume.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Reservation of the lost volume, followed by the reservation's ancestors (R4).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reserved>,
    /// Spec of the lost volume.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schemars(schema_with = "refs::any_object")]
    pub spec: Value,
    /// Present if the volume was destroyed, and its data is kept for an undo (X8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptOnDisk>,
}

/// The node's record of a destroyed volume whose data is kept, by the clock of the node (X8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptOnDisk {
    /// Time of the record.
    pub since: Time,
    /// The data is kept until then.
    pub until: Time,
    /// True once that time has passed. The controller erases the data when its own clock agrees.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
}
