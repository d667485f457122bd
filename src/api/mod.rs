//! The kinds of API group `reservoir.dev`, with their conditions and reasons. No I/O.
//!
//! People write every `spec`, except the spec of a [`NodeDisk`], which the agent writes. Reservoir writes
//! every `status`. No field has two writers: the controller and the agent use server-side apply, each with a
//! field manager of its own ([`CONTROLLER_MANAGER`], [`AGENT_MANAGER`]).

#![allow(clippy::duplicated_attributes, reason = "each printer column repeats the names of its fields")]

mod claim;
pub mod condition;
mod copies;
mod crds;
mod deletion;
pub mod keep;
mod node_disk;
mod offer;
mod principal;
pub mod reference;
mod refs;
mod reservation;
mod role;
mod size;
mod subscription;
mod volume;
mod volume_role;

pub use claim::{ClaimPhase, ClaimSelector, VolumeClaim, VolumeClaimSpec, VolumeClaimStatus};
pub use copies::{Copies, CopiesStatus, CopyOf};
pub use crds::{all as crds, file_name as crd_file_name};
pub use deletion::DeletionPolicy;
pub use node_disk::{
    BackingKind, DiskKind, Enforcement, EnforcementState, KeptOnDisk, Lifetime, MAX_DEVICES, MissingNode,
    NodeDevice, NodeDisk, NodeDiskSpec, NodeDiskStatus, Orphan, OtherDisk, RoleOnDisk, TakeOver, Transfer,
    UNKNOWN_DISK, UnlistedOrphans,
};
pub use offer::{OfferedReservation, OfferedVolume, VolumeOffer, VolumeOfferSpec, VolumeOfferStatus};
pub use refs::{AccessMode, ClaimBinding, Kept, LedgerEntry, PodRef, Reserved, UidRef, stable_hash};
pub use reservation::{
    CollectingTurn, DiskReservation, DiskReservationSpec, DiskReservationStatus, ReservationPhase,
    TemplateRef,
};
pub use role::{Role, RoleError};
pub use size::{Size, SizeError};
pub use subscription::{Capability, RoleSubscription, RoleSubscriptionSpec, RoleSubscriptionStatus};
pub use volume::{
    Adopt, BackingState, Destroy, ErasePolicy, FIXED_MOUNT_OPTIONS, FsType, MOUNT_OPTIONS, NamespaceUse,
    NodePart, Process, Recover, Shared, SharedPersistentVolume, SharedPersistentVolumeSpec,
    SharedPersistentVolumeStatus, SubRoles, Verified, VolumeMode, VolumePhase,
};
pub use volume_role::{
    Quota, ReservationTemplate, TemplateStatus, VolumeRole, VolumeRoleSpec, VolumeRoleStatus,
};

/// API group of every kind.
pub const GROUP: &str = "reservoir.dev";
/// Name of the CSI driver, of its `CSIDriver` object, and of the driver in each `PersistentVolume`.
pub const DRIVER: &str = "csi.reservoir.dev";
/// Words about a `PersistentVolume` of the driver that somebody else made.
pub const MADE_BY_RESERVOIR: &str = "Reservoir alone makes the PersistentVolumes of csi.reservoir.dev";
/// Field manager of the controller's writes.
pub const CONTROLLER_MANAGER: &str = "reservoir-controller";
/// Field manager of the agents' writes.
pub const AGENT_MANAGER: &str = "reservoir-agent";
/// Finalizer of reservations, volumes and claims. The controller removes it after the object's bytes are
/// accounted for.
pub const FINALIZER: &str = "reservoir.dev/guard";
/// Topology key of a node. The agent reports it to the kubelet, and a claim's PersistentVolume requires it.
pub const TOPOLOGY_NODE: &str = "topology.reservoir.dev/node";
/// Label on objects that the controller makes for a volume: the UID of the volume.
pub const LABEL_VOLUME_UID: &str = "reservoir.dev/volume-uid";
/// Label on a claim's PersistentVolume and PersistentVolumeClaim: the UID of the claim.
pub const LABEL_CLAIM_UID: &str = "reservoir.dev/claim-uid";
/// Label on a claim's PersistentVolume: the namespace of the claim.
pub const LABEL_CLAIM_NAMESPACE: &str = "reservoir.dev/claim-namespace";
/// Annotation on a volume that was made for a PersistentVolumeClaim of a class: its namespace and name, as `ns/name`. Both
/// stay with the data, after the PersistentVolumeClaim and after the volume.
pub const ANNOTATION_MADE_FOR: &str = "reservoir.dev/made-for";
/// Label on a volume and a claim that were made for a PersistentVolumeClaim of a class: the UID of the
/// PersistentVolumeClaim. Admission allows only the controller to write this label.
pub const LABEL_PVC_UID: &str = "reservoir.dev/pvc-uid";
/// Annotation on such a volume: the resourceVersion of the PersistentVolumeClaim that decided its size.
pub const ANNOTATION_DECIDED_BY: &str = "reservoir.dev/pvc-resource-version";
/// Annotation on such a volume: the node of the reservation in its spec. The agent there may make the volume before its status
/// has a place. Admission allows only the controller to write this annotation.
pub const ANNOTATION_BORN_ON: &str = "reservoir.dev/born-on";
/// Label on a copy: the UID of its original (E2).
pub const LABEL_COPY_OF: &str = "reservoir.dev/copy-of";
/// Prefix of the name of a volume that was made for a PersistentVolumeClaim; the UID of the
/// PersistentVolumeClaim follows.
pub const PVC_PREFIX: &str = "pvc-";
/// Prefix of the name of a claim's PersistentVolume; the UID of the claim follows.
pub const PV_PREFIX: &str = "reservoir-";
/// Annotation of a PersistentVolumeClaim with the name of its provisioner. Kubernetes sets it when
/// provisioning is due.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// Annotation of a PersistentVolumeClaim with the node that the scheduler chose for the volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Kubernetes' recommended label for the manager of an object; its value is [`MANAGED_BY`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] on objects that the controller makes.
pub const MANAGED_BY: &str = "reservoir";

/// Name of the volume for the PersistentVolumeClaim with the given UID.
pub fn volume_for_pvc(uid: &str) -> String {
    format!("{PVC_PREFIX}{uid}")
}
