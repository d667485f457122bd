//! `SharedPersistentVolume`: bytes out of a reservation that many pods may use at once (V1–V12).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClaimBinding, DiskKind, PodRef, Reserved, Size, UidRef};

/// The smallest volumes, in bytes and as people read it; mkfs.xfs insists on its own since xfsprogs 5.19.
#[rustfmt::skip]
macro_rules! smallest {
    (any, bytes) => { 16777216 };
    (any, text) => { "16Mi" };
    (xfs, bytes) => { 314572800 };
    (xfs, text) => { "300Mi" };
}

/// What the volume is to be.
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
    doc = "A volume on one node's disk, made out of a reservation. Many pods use it at once; while one does, it cannot be destroyed.",
    selectable = ".spec.role",
    selectable = ".status.nodeName",
    selectable = ".status.nodeDisk",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.size"),
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
    validation = Rule::new("has(self.shared) == has(oldSelf.shared)")
        .message("whether a volume is shared never changes after it is created (V2): create another volume"),
    validation = Rule::new("has(self.reservation) == has(oldSelf.reservation)")
        .message("the reservation of a volume cannot be changed: create another volume"),
    validation = Rule::new("!has(oldSelf.principal) || has(self.principal)").message("who made it cannot be changed"),
    validation = Rule::new("has(self.adopt) == has(oldSelf.adopt)")
        .message("what a volume adopts cannot be changed: create another volume"),
    validation = Rule::new("!has(self.adopt) || self.volumeMode == 'Filesystem'")
        .message("a directory that is adopted is no raw device: leave volumeMode out"),
    validation = Rule::new("!has(self.adopt) || self.erasePolicy == 'Discard'")
        .message("a directory that is adopted is let go as it is and never overwritten: leave erasePolicy out"),
    validation = Rule::new("!has(self.adopt) || self.size == oldSelf.size")
        .message("a volume that adopted a directory cannot be resized: let it go, and adopt the directory with another size"),
    validation = Rule::new("has(self.gid) == has(oldSelf.gid) && has(self.permissions) == has(oldSelf.permissions) && has(self.mountOptions) == has(oldSelf.mountOptions)")
        .message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"),
    validation = Rule::new("has(self.recover) == has(oldSelf.recover)")
        .message("what a volume recovers cannot be changed: create another volume"),
    validation = Rule::new("self.volumeMode == 'Filesystem' || !has(self.gid) && !has(self.permissions) && !has(self.mountOptions)")
        .message("a raw device is not mounted: leave gid, permissions and mountOptions out, or volumeMode"),
    validation = Rule::new("!has(self.adopt) || !has(self.permissions)")
        .message("a directory that is adopted keeps the permissions that it has: leave permissions out"),
    validation = Rule::new(concat!("self.fsType != 'xfs' || (type(self.size) == int ? int(self.size) >= ", smallest!(xfs, bytes), " : !(", super::size::is_quantity!("self.size"), ") || quantity(string(self.size)).compareTo(quantity('", smallest!(xfs, text), "')) >= 0)"))
        .message(concat!("an xfs volume has at least ", smallest!(xfs, text), ": ask for more, or for fsType ext4"))
)]
#[serde(rename_all = "camelCase")]
pub struct SharedPersistentVolumeSpec {
    /// Role that the volume belongs to.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(super::role::RULE).message(super::role::MESSAGE),
        validation = Rule::new("self == oldSelf").message("the role of a volume cannot be changed: create another volume")
    )]
    pub role: String,
    /// How many bytes it takes out of the reservation, those of its file system's own tables included. It may grow,
    /// also in use, while the reservation has room; unused, it may shrink where its file system can (V7).
    #[x_kube(
        validation = Rule::new(super::size::RULE).message(super::size::MESSAGE),
        validation = Rule::new(concat!("type(self) == int ? int(self) >= ", smallest!(any, bytes), " : !(", super::size::is_quantity!("self"), ") || quantity(string(self)).compareTo(quantity('", smallest!(any, text), "')) >= 0")).message(concat!("a volume has at least ", smallest!(any, text)))
    )]
    pub size: Size,
    /// Name of the reservation to take them from; without it, any that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the reservation of a volume cannot be changed: create another volume"))]
    pub reservation: Option<String>,
    /// Present: many claims and pods use the volume at once. Absent: one claim and one pod at a time (V2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
    /// How pods get it: with a file system, or as the raw device that only a `Block` disk is.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the mode of a volume cannot be changed: create another volume"))]
    pub volume_mode: VolumeMode,
    /// File system on it; without meaning for `volumeMode: Block` and with `adopt`.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the file system of a volume cannot be changed: create another volume"))]
    pub fs_type: FsType,
    /// The directory that it is, instead of one that is made: it holds data already, is adopted as it is, and stays when
    /// the volume goes (V8).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("what a volume adopts cannot be changed: create another volume"))]
    pub adopt: Option<Adopt>,
    /// The data that it gets, instead of being made new: that of a volume whose object was lost (X6). Admission asks for the
    /// verb `recover` on the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("what a volume recovers cannot be changed: create another volume"))]
    pub recover: Option<Recover>,
    /// Group that every pod which uses the volume is in, besides its own; the root directory belongs to it and is setgid,
    /// so that what is made in it belongs to it too (V11). An adopted directory stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2147483647))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"))]
    pub gid: Option<i64>,
    /// Permissions of the root directory, octal, when the volume is made; without them `0777`, or `2770` with a `gid` (V12).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"), validation = Rule::new("self.matches('^[0-3]?[0-7]{3}$')").message("permissions are octal and at most 3777, such as 0750 or 2770"))]
    #[schemars(length(max = 4))]
    pub permissions: Option<String>,
    /// Options of every mount of it: `noatime`, `nodiratime`, `strictatime`, `noexec`, `nosymfollow`. `nosuid` and `nodev`
    /// are always on (V12).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), inner(length(max = 16)))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gid, permissions and mountOptions of a volume cannot be changed: create another volume"), 
        validation = Rule::new("self.all(option, option in ['noatime', 'nodiratime', 'strictatime', 'noexec', 'nosymfollow'])")
            .message("mount options are of noatime, nodiratime, strictatime, noexec, nosymfollow; nosuid and nodev are always on"),
        validation = Rule::new("!('noatime' in self && 'strictatime' in self)").message("noatime and strictatime exclude each other: leave one out")
    )]
    pub mount_options: Vec<String>,
    /// What becomes of its bytes when it is destroyed (X4).
    #[serde(default)]
    pub erase_policy: ErasePolicy,
    /// It is to be destroyed as soon as nobody uses it: no new claim binds, who has one goes on. Set back to false
    /// before that, all is as before (X5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retire: bool,
    /// Who made it, as the API server knew the caller: written at admission, never by the caller (R5, A3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("who made it cannot be changed"))]
    pub principal: Option<String>,
}

/// Marks a volume as shared, as in Mesos; it has no fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shared {}

/// A directory that holds data already (V8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adopt {
    /// Its path on the node, beneath one of the `adoptRoots` of the disk that the reservation is on.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^(/[^/]+)+$') && !(self + '/').contains('/./') && !(self + '/').contains('/../')")
        .message("a plain absolute path: no `.`, no `..`, no `//`, no `/` at its end"))]
    pub path: String,
}

/// Data that has no object any more (X6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recover {
    /// UID of the object that it had: `status.orphans` of the NodeDisk tells which there are.
    #[schemars(length(max = 36))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')").message("a UID, in lower case"))]
    pub uid: String,
}

/// How pods get a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeMode {
    /// Mounted, with a file system on it.
    #[default]
    Filesystem,
    /// As a raw device, which they read and write themselves.
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
    /// A part of the disk's own btrfs, on a disk whose backing is `Btrfs`; there it is the only one.
    Btrfs,
}

impl FsType {
    /// The size in bytes of the smallest volume with it.
    pub const fn min_bytes(self) -> u64 {
        match self {
            Self::Ext4 | Self::Btrfs => smallest!(any, bytes),
            Self::Xfs => smallest!(xfs, bytes),
        }
    }
}

/// How a destroyed volume's bytes go (X4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ErasePolicy {
    /// The blocks are given back to the disk.
    #[default]
    Discard,
    /// The blocks are overwritten with zeroes, then given back.
    Zero,
}

/// Where a volume stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumePhase {
    /// Not in any reservation yet.
    #[default]
    Pending,
    /// In a reservation; the node's agent is making it.
    Creating,
    /// Made.
    Ready,
    /// Deletion was accepted; the bytes are still there.
    Destroying,
    /// The tombstone is set: nothing can use it any more, the bytes go or are gone (S11).
    Destroyed,
}

/// What is known of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SharedPersistentVolumeStatus {
    /// Where it stands (controller).
    pub phase: VolumePhase,
    /// `Shared` or `Exclusive`, for people (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// The reservation that it lives in (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<UidRef>,
    /// The same and those which it was carved out of, for its node to write down (X6; controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<Reserved>,
    /// The NodeDisk that it is on (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_disk: Option<String>,
    /// The kind of that disk: of one that is not `Path` the volume takes all (D2; controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_kind: Option<DiskKind>,
    /// The node that it is on; its agent makes, mounts and erases it (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// What it may take of its disk: in the ledger before it is said here (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The ledger of its reservation may still have more than `size`; it does not grow before that is given back (V7;
    /// controller).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub credit_due: bool,
    /// The claims that are bound to it. This list, changed by compare-and-swap, decides C1, C3 and X2 (controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimBinding>,
    /// How many claims are bound to it (controller).
    pub claim_count: u32,
    /// The first 16 of the running and pending pods that use it (controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<PodRef>,
    /// How many running and pending pods use it (controller).
    pub user_count: u32,
    /// Who uses it, namespace by namespace (Q4; controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceUse>,
    /// How far its destruction is (controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroy: Option<Destroy>,
    /// The node's word (agent).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodePart>,
    /// `Ready` (controller) and `Backed` (agent); where there is something to say, `Resized` and `Retiring` (controller).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What one namespace uses of a volume (Q4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceUse {
    /// The namespace.
    pub namespace: String,
    /// How many of its claims are bound to the volume.
    pub claims: u32,
    /// How many of its running and pending pods use it.
    pub pods: u32,
}

/// The controller's side of a destruction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Destroy {
    /// Somebody uses it after all: the agent, which refuses new mounts once the deletion was accepted, allows them again
    /// (X2).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_use: bool,
    /// When it was decided, by compare-and-swap, that nothing uses the volume and nothing ever will (S10, S11).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Time>,
}

/// The node's side of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePart {
    /// What of it is on the disk.
    pub backing: BackingState,
    /// How large it is on the disk now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// It is being made that large; said before it is begun (V7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growing: Option<Size>,
    /// Why it could not be made larger or smaller, last time (V7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize_failed: Option<String>,
    /// The agent refuses new mounts of it; on disk before it is said here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// While fenced: some mount of it, or an entry in the agent's journal, is left.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_use: bool,
    /// While fenced: the first 16 pods that have it mounted, as the agent's journal has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounted_by: Vec<PodRef>,
    /// After erasing: how many bytes went back to the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased: Option<Size>,
}

/// What of a volume is on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackingState {
    /// Not made, or not whole yet.
    #[default]
    Absent,
    /// Made: allocated, formatted, journalled.
    Made,
    /// Erased after the tombstone.
    Erased,
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
