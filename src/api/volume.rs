//! `SharedPersistentVolume`: a volume out of a reservation, which many pods may use at once (V1–V12).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::{self, READY};
use super::copies::{Copies, CopiesStatus, CopyOf};
use super::{ClaimBinding, DeletionPolicy, DiskKind, PodRef, Reserved, Size, UidRef, keep};

/// The size of the smallest volumes, in bytes and as text. mkfs.xfs has a minimum of its own since xfsprogs 5.19.
#[rustfmt::skip]
macro_rules! smallest {
    (any, bytes) => { 16777216 };
    (any, text) => { "16Mi" };
    (xfs, bytes) => { 314572800 };
    (xfs, text) => { "300Mi" };
}

/// Requested volume.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "reservoir.dev",
    version = "v1alpha1",
    kind = "SharedPersistentVolume",
    plural = "sharedpersistentvolumes",
    shortname = "spv",
    category = "reservoir",
    status = "SharedPersistentVolumeStatus",
    derive = "PartialEq",
    doc = "A volume on one node's disk, made out of a reservation. Many pods use it at once. A volume in use cannot be destroyed.",
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.digest) || !has(oldSelf.spec.sealed) || !oldSelf.spec.sealed || has(self.spec.sealed) && self.spec.sealed")
        .message("a sealed volume stays sealed (E1): to change its files, copy them into another volume"),
    validation = Rule::new("!has(self.spec.sealed) || !self.spec.sealed || has(self.spec.recover) || has(self.spec.copyOf) || oldSelf.hasValue() && (has(oldSelf.value().spec.sealed) && oldSelf.value().spec.sealed || has(oldSelf.value().status) && has(oldSelf.value().status.node) && has(oldSelf.value().status.node.backing) && oldSelf.value().status.node.backing == 'Made')")
        .optional_old_self(true)
        .message("a volume that its node has not made has no files to seal (E1): leave sealed out, write the files, and set sealed to true then"),
    selectable = ".spec.role",
    selectable = ".status.nodeName",
    selectable = ".status.nodeDisk",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.node.size"),
    printcolumn(name = "Access", type_ = "string", json_path = ".status.access"),
    printcolumn(name = "Claims", type_ = "integer", json_path = ".status.claimCount"),
    printcolumn(name = "Users", type_ = "integer", json_path = ".status.userCount"),
    printcolumn(
        name = "Reservation",
        type_ = "string",
        json_path = ".status.reservation.name",
        priority = 1
    ),
    printcolumn(name = "FS", type_ = "string", json_path = ".spec.fsType", priority = 1),
    printcolumn(name = "Wished", type_ = "string", json_path = ".spec.size", priority = 1),
    printcolumn(name = "Retire", type_ = "boolean", json_path = ".spec.retire", priority = 1),
    printcolumn(
        name = "Sealed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Sealed\")].status",
        priority = 1
    ),
    printcolumn(
        name = "Nearly Full",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"NearlyFull\")].status",
        priority = 1
    ),
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
    validation = Rule::new("has(self.shared) == has(oldSelf.shared)")
        .message("the sharing of a volume cannot be changed after its creation (V2): create another volume"),
    validation = Rule::new("has(self.reservation) == has(oldSelf.reservation)")
        .message("the reservation of a volume cannot be changed: create another volume"),
    validation = Rule::new("!has(oldSelf.principal) || has(self.principal)").message(super::principal::missing()),
    validation = Rule::new("has(self.adopt) == has(oldSelf.adopt)")
        .message("the adopted directory of a volume cannot be changed: create another volume"),
    validation = Rule::new("!has(self.adopt) || self.volumeMode == 'Filesystem'")
        .message("an adopted directory is no raw device: leave volumeMode out"),
    validation = Rule::new("!has(self.adopt) || self.erasePolicy == 'Discard'")
        .message("an adopted directory is released as it is and never overwritten: leave erasePolicy out"),
    validation = Rule::new("!has(self.adopt) || self.size == oldSelf.size")
        .message("a volume with an adopted directory cannot be resized: delete the volume, and adopt the directory with another size"),
    validation = Rule::new("has(self.gid) == has(oldSelf.gid) && has(self.permissions) == has(oldSelf.permissions) && has(self.mountOptions) == has(oldSelf.mountOptions)")
        .message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"),
    validation = Rule::new("has(self.recover) == has(oldSelf.recover)")
        .message("the recovered data of a volume cannot be changed: create another volume"),
    validation = Rule::new("self.volumeMode == 'Filesystem' || !has(self.gid) && !has(self.permissions) && !has(self.mountOptions)")
        .message("a raw device is not mounted: leave gid, permissions and mountOptions out, or volumeMode"),
    validation = Rule::new("!has(self.adopt) || !has(self.keepFor)")
        .message("an adopted directory stays as it is when its volume is destroyed: leave keepFor out"),
    validation = Rule::new("!has(self.sealed) || !self.sealed || self.volumeMode == 'Filesystem'")
        .message("a raw device has no files to seal (E1): leave sealed out, or volumeMode"),
    validation = Rule::new("!has(self.sealed) || !self.sealed || !has(self.adopt)")
        .message("others than pods may write in an adopted directory, so it cannot be sealed (E1): copy its files into a volume without adopt, and seal that"),
    validation = Rule::new("!has(self.verify) || has(self.sealed) && self.sealed")
        .message("only a sealed volume has a digest to compare its files with (E4): seal it first, or leave verify out"),
    validation = Rule::new("has(self.copyOf) == has(oldSelf.copyOf)")
        .message("a volume is made as a copy, or is none (E2): leave copyOf as it is"),
    validation = Rule::new("!has(self.copies) || has(self.shared) && !has(self.adopt) && self.volumeMode == 'Filesystem' && !has(self.copyOf)")
        .message("copies are of a shared volume with files of its own (E2): leave copies out, or adopt, volumeMode and copyOf, and write shared: {}"),
    validation = Rule::new("!has(self.adopt) || !has(self.permissions)")
        .message("an adopted directory keeps its permissions: leave permissions out"),
    validation = Rule::new(concat!("self.fsType != 'xfs' || (type(self.size) == int ? int(self.size) >= ", smallest!(xfs, bytes), " : !(", super::size::is_quantity!("self.size"), ") || quantity(string(self.size)).compareTo(quantity('", smallest!(xfs, text), "')) >= 0)"))
        .message(concat!("an xfs volume has at least ", smallest!(xfs, text), ": ask for more, or for fsType ext4"))
)]
#[serde(rename_all = "camelCase")]
pub struct SharedPersistentVolumeSpec {
    /// Role of the volume. It cannot be changed (V1).
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(super::role::RULE).message(super::role::MESSAGE),
        validation = Rule::new("self == oldSelf").message("the role of a volume cannot be changed: create another volume")
    )]
    pub role: String,
    /// Size of the volume in bytes, as a quantity such as 10Gi; the tables of its file system are included.
    /// At least 16Mi, and 300Mi with xfs. A volume may grow, even in use, into the free space of its
    /// reservation. An unused volume may shrink if its file system can (V7).
    #[x_kube(
        validation = Rule::new(super::size::RULE).message(super::size::MESSAGE),
        validation = Rule::new(concat!("type(self) == int ? int(self) >= ", smallest!(any, bytes), " : !(", super::size::is_quantity!("self"), ") || quantity(string(self)).compareTo(quantity('", smallest!(any, text), "')) >= 0")).message(concat!("a volume has at least ", smallest!(any, text)))
    )]
    pub size: Size,
    /// Name of the DiskReservation of the volume. If absent, the controller chooses a reservation that fits
    /// (V1).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the reservation of a volume cannot be changed: create another volume"))]
    pub reservation: Option<String>,
    /// If present, many claims and pods use the volume at once. If absent, one claim and one pod at a time
    /// (V2). The value is an empty object: `shared: {}`, not `shared: true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
    /// Claims of sub-roles: with `Deny`, the volume is offered and bound to its own role alone (R3).
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("subRoles of a volume cannot be changed: create another volume"))]
    pub sub_roles: SubRoles,
    /// Form of the volume in a pod: a mounted file system, or a raw device, which needs a disk of kind
    /// `Block`.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the mode of a volume cannot be changed: create another volume"))]
    pub volume_mode: VolumeMode,
    /// File system of the volume (V12). It has no meaning with `volumeMode: Block` or `adopt`.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the file system of a volume cannot be changed: create another volume"))]
    pub fs_type: FsType,
    /// An existing directory that becomes the volume as it is, with its data. The directory stays after the
    /// destruction of the volume (V8).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the adopted directory of a volume cannot be changed: create another volume"))]
    pub adopt: Option<Adopt>,
    /// Data of a lost volume, which becomes the data of this volume (X6). The creator needs the verb
    /// `recover` on the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the recovered data of a volume cannot be changed: create another volume"))]
    pub recover: Option<Recover>,
    /// Supplemental group of every pod that uses the volume. The root directory belongs to the group and is
    /// setgid, so new files belong to the group too (V11). An adopted directory is not changed. No group if
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2147483647))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"))]
    pub gid: Option<i64>,
    /// Permissions of the new volume's root directory, octal, at most `3777`. `0777` if absent, or `2770`
    /// with a `gid` (V12).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"), validation = Rule::new("self.matches('^[0-3]?[0-7]{3}$')").message("permissions are octal and at most 3777, such as 0750 or 2770"))]
    #[schemars(length(max = 4))]
    pub permissions: Option<String>,
    /// Options of every mount of the volume: `noatime`, `nodiratime`, `strictatime`, `noexec`, `nosymfollow`.
    /// `nosuid` and `nodev` are always on (V12). None if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), inner(length(max = 16)))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"), 
        validation = Rule::new("self.all(option, option in ['noatime', 'nodiratime', 'strictatime', 'noexec', 'nosymfollow'])")
            .message("mount options are limited to noatime, nodiratime, strictatime, noexec, nosymfollow; nosuid and nodev are always on"),
        validation = Rule::new("!('noatime' in self && 'strictatime' in self)").message("noatime and strictatime exclude each other: leave one out")
    )]
    pub mount_options: Vec<String>,
    /// Erasure of the volume's bytes at its destruction (X4).
    #[serde(default)]
    pub erase_policy: ErasePolicy,
    /// Time for which the data is kept after the destruction of the volume, such as `72h`, at most a year.
    /// `kubectl reservoir undelete` brings the volume back. The data is erased earlier if its reservation
    /// needs the bytes, the oldest first (X8). Nothing is kept if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new(keep::RULE).message(keep::MESSAGE))]
    pub keep_for: Option<String>,
    /// Declares the content complete: the volume has readers only from then on, and the node writes a manifest of its
    /// files and reports the digest (E1). Sealing waits until no pod has the volume mounted for writing; no new one
    /// gets it meanwhile. Setting it back to false cancels the request as long as `status.digest` is absent. False if absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Requests that the node reads the files of a sealed volume again and compares them with its digest, once for each new
    /// value (E4). `kubectl reservoir verify` writes the time. `status.verified` and the condition `Intact` have the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub verify: Option<String>,
    /// Copies of the sealed volume on other nodes, each a volume of its own in a reservation of the role there (E2). They are made
    /// once the volume is sealed, and end when their node is not selected any more and nobody uses them. A change needs the
    /// verbs `create` and `destroy` on the role. None if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<Copies>,
    /// Present if the volume is a copy of another one (E2). Only the controller makes such volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a volume is made as a copy, or is none (E2): leave copyOf as it is"))]
    pub copy_of: Option<CopyOf>,
    /// Requests the destruction of the volume after its last use. Bound claims go on, and no new claim binds.
    /// Setting it back to false cancels the request until the last user is gone; then the volume is being
    /// destroyed (X5). False if absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retire: bool,
    /// A `DELETE` of the volume while claims and pods use it: `Refuse` or `Wait` (F5). A change needs the verb `destroy`
    /// on the role. `Refuse` if absent.
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

/// Marks a volume as shared, as in Mesos. It has no fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shared {}

/// Claims of the sub-roles of a volume's role (R3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubRoles {
    /// Claims of the role and of its sub-roles can bind to the volume.
    #[default]
    Allow,
    /// Claims of the role can bind to the volume, and claims of its sub-roles cannot.
    Deny,
}

/// An existing directory with data (V8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopt {
    /// Absolute path on the node, beneath one of the `adoptRoots` of the reservation's disk.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^(/[^/]+)+$') && !(self + '/').contains('/./') && !(self + '/').contains('/../') && !self.matches('[[:cntrl:]]')")
        .message("a plain absolute path: no `.`, no `..`, no `//`, no `/` at its end, no control character"))]
    pub path: String,
}

/// Data without an object (X6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recover {
    /// UID of the lost volume, as listed in `status.orphans` of the NodeDisk.
    #[schemars(length(max = 36))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')").message("a UID, in lower case"))]
    pub uid: String,
}

/// Form of a volume in a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeMode {
    /// A mounted file system.
    #[default]
    Filesystem,
    /// A raw device.
    Block,
}

/// File system of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4.
    #[default]
    Ext4,
    /// XFS; at least 300Mi.
    Xfs,
    /// A subvolume of the disk's own btrfs. Required on a disk with backing `Btrfs`, and impossible
    /// elsewhere.
    Btrfs,
}

/// The mount options that a volume may have (V12).
pub const MOUNT_OPTIONS: [&str; 5] = ["noatime", "nodiratime", "strictatime", "noexec", "nosymfollow"];

/// The mount options that every volume has (V12).
pub const FIXED_MOUNT_OPTIONS: [&str; 2] = ["nosuid", "nodev"];

impl FsType {
    /// The kernel's name of the file system, as a PersistentVolume has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The size in bytes of the smallest volume with it.
    pub const fn min_bytes(self) -> u64 {
        match self {
            Self::Ext4 | Self::Btrfs => smallest!(any, bytes),
            Self::Xfs => smallest!(xfs, bytes),
        }
    }
}

/// Erasure of the bytes of a destroyed volume (X4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ErasePolicy {
    /// The blocks return to the disk.
    #[default]
    Discard,
    /// The blocks are overwritten with zeroes, then return to the disk.
    Zero,
}

/// Phase of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumePhase {
    /// Not in any reservation yet.
    #[default]
    Pending,
    /// In a reservation; the node's agent is making the volume.
    Creating,
    /// Made, and usable.
    Ready,
    /// The deletion was accepted; the bytes still exist.
    Destroying,
    /// The tombstone is set: no pod can use the volume any more, and its bytes are erased, or kept for an undo
    /// (S11, X8).
    Destroyed,
}

/// Observed state of a volume. Sizes are in bytes, as quantities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SharedPersistentVolumeStatus {
    /// Phase of the volume; `Pending` at first. Written by the controller.
    pub phase: VolumePhase,
    /// `Shared` or `Exclusive`, for people. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// The reservation of the volume, by name and UID. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<UidRef>,
    /// The reservation and its ancestors, for the record of the volume on its disk (X6). Written by the
    /// controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Reserved>,
    /// Name of the NodeDisk of the volume. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_disk: Option<String>,
    /// Kind of that disk. On a disk of another kind than `Path` the volume takes the whole disk (D2). Written
    /// by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_kind: Option<DiskKind>,
    /// Name of the node of the volume. The agent there makes, mounts and erases the volume. Written by the
    /// controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Size that the volume may take of its disk. The ledger of the reservation is written first (S2). Written by
    /// the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// True while the ledger of the reservation may still have more than `size`. The volume does not grow
    /// before the ledger has released the difference (V7). Written by the controller.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub credit_due: bool,
    /// The bound claims. Changes by compare-and-swap of this list decide C1, C3 and X2. Written by the
    /// controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimBinding>,
    /// Number of bound claims. Written by the controller.
    pub claim_count: u32,
    /// The first 16 of the running and pending pods that use the volume. Written by the controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<PodRef>,
    /// Number of running and pending pods that use the volume, by the name of a bound claim: also of one whose PersistentVolumeClaim
    /// is another one's by now. Written by the controller.
    pub user_count: u32,
    /// Use of the volume, by namespace (Q4). Written by the controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceUse>,
    /// State of the destruction. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroy: Option<Destroy>,
    /// The node's report. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodePart>,
    /// Digest of the content of a sealed volume: `blake3:` and 64 hexadecimal digits, the hash of its manifest. It is the same
    /// for the same files on every node and file system (E1). Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub digest: Option<String>,
    /// Number of the files of a sealed volume; a file with several names counts once. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes of the files of a sealed volume, as a quantity. Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
    /// The last time that all files of a sealed volume were read again (E4). Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// The copies of the volume, in numbers (E2). Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<CopiesStatus>,
    /// Of a copy that is not complete: the volume that it is being filled from (E2). Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<UidRef>,
    /// The conditions `Ready`, `Resized`, `Retiring` and `Copied`, written by the controller, and `Backed`, `NearlyFull`,
    /// `Sealed` and `Intact`, written by the agent (T1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A finished reading of all files of a sealed volume (E4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// `spec.verify` when the reading began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub request: Option<String>,
    /// The time of its end.
    pub at: Time,
    /// The number of names that differ from the manifest; 0: the content is the one of the digest.
    pub differ: u64,
}

/// Use of a volume by one namespace (Q4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceUse {
    /// Name of the namespace.
    pub namespace: String,
    /// Number of the namespace's claims that are bound to the volume.
    pub claims: u32,
    /// Number of the namespace's running and pending pods that use the volume.
    pub pods: u32,
}

/// The controller's part of a destruction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Destroy {
    /// True if a new user won the race against the deletion. The agent, which refuses mounts after an
    /// accepted deletion, allows them again (X2).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_use: bool,
    /// Time of the decision that no pod uses the volume and none ever will. Set by compare-and-swap (S10,
    /// S11).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Time>,
    /// True if the disk was given up, by a person or with its node (D4, D7): the agent erases nothing, also if the disk is there
    /// after all. Once set, it stays.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disk_gone: bool,
    /// The data is kept until then, by the clock of the controller (X8). Set together with the tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Time>,
}

/// The node's report on a volume. The agent writes every field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePart {
    /// State of the volume's bytes on the disk.
    pub backing: BackingState,
    /// Present size on the disk, in bytes, as a quantity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Target size of a resize in progress. The agent reports it before the resize begins (V7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growing: Option<Size>,
    /// Cause of the last failed resize (V7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize_failed: Option<String>,
    /// True while the agent refuses new mounts of the volume. The agent records the refusal on disk before it
    /// reports it here (X2).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// While fenced: true if a mount of the volume, or a publish record of the agent, is left (X3).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_use: bool,
    /// While fenced: the first 16 pods in the agent's publish records of the volume.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounted_by: Vec<PodRef>,
    /// While the volume or a claim of it is ending and still in use without a pod in the records: the first processes
    /// that have the volume mounted or open, at most 4 (F3).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<Process>,
    /// The first 16 pods that the agent refused in the last minutes, since they mount a ReadOnly claim without
    /// `readOnly` and nothing on the node makes the mount read-only in their containers (M3).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused_readers: Vec<PodRef>,
    /// Of a copy that is not complete: UID of the volume from which it could not be filled (E2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_failed_from: Option<String>,
    /// UIDs of claims whose binding is ending, and of which nothing is mounted on the node any more (C6).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<String>,
    /// After the erasure: bytes that returned to the disk, as a quantity (X4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased: Option<Size>,
}

/// A process on a node that uses a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Number of the process on the node.
    pub pid: u32,
    /// Name of the program of the process.
    pub command: String,
    /// UID of the pod that the process runs in.
    #[serde(default, rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Point of the mount that the process sees. Absent for an open file or a working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
}

/// State of the bytes of a volume on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackingState {
    /// Not made, or not complete yet.
    #[default]
    Absent,
    /// Allocated, formatted and recorded.
    Made,
    /// Erased after the tombstone.
    Erased,
    /// Recorded after the tombstone as the data of a destroyed volume, and kept for an undo (X8).
    Kept,
}

impl SharedPersistentVolume {
    /// True if the condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, READY))
    }

    /// True if the volume is destroyed after its last use: it retires, or is being deleted (X5).
    pub fn is_ending(&self) -> bool {
        self.spec.retire || self.metadata.deletion_timestamp.is_some()
    }
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;

    use super::*;

    #[test]
    fn the_schemas_smallest_volume_is_that_of_its_file_system() {
        let schema = serde_json::to_string(&SharedPersistentVolume::crd()).unwrap();
        for (fs_type, quantity) in [(FsType::Ext4, "16Mi"), (FsType::Btrfs, "16Mi"), (FsType::Xfs, "300Mi")] {
            assert_eq!(Size::written(quantity).bytes(), Ok(fs_type.min_bytes()));
            assert!(schema.contains(&format!(">= {}", fs_type.min_bytes())), "{quantity} as a number");
            assert!(schema.contains(&format!("quantity('{quantity}')")), "{quantity}");
        }
    }
}
