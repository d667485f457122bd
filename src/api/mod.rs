//! The kinds of API group `reservoir.dev`, with their conditions and reasons. No I/O.
//!
//! Every `spec` is written by people (or, for [`NodeDisk`], by the agent); every `status` by Reservoir.
//! Two writers never own the same field: the controller and the agent each use server-side apply with a
//! field manager of their own ([`CONTROLLER_MANAGER`], [`AGENT_MANAGER`]).

#![allow(clippy::duplicated_attributes, reason = "each printer column repeats the names of its fields")]

mod claim;
pub mod condition;
mod crds;
mod node_disk;
mod offer;
pub mod reference;
mod refs;
mod reservation;
mod role;
mod size;
mod subscription;
mod volume;
mod volume_role;

pub use claim::{ClaimPhase, ClaimSelector, VolumeClaim, VolumeClaimSpec, VolumeClaimStatus};
pub use crds::{all as crds, file_name as crd_file_name};
pub use node_disk::{
    BackingKind, DiskKind, Enforcement, EnforcementState, NodeDisk, NodeDiskSpec, NodeDiskStatus, Orphan,
    RoleOnDisk,
};
pub use offer::{OfferedReservation, OfferedVolume, VolumeOffer, VolumeOfferSpec, VolumeOfferStatus};
pub use refs::{AccessMode, ClaimBinding, LedgerEntry, PodRef, Reserved, UidRef, stable_hash};
pub use reservation::{DiskReservation, DiskReservationSpec, DiskReservationStatus, ReservationPhase};
pub use role::{Role, RoleError};
pub use size::{Size, SizeError};
pub use subscription::{Capability, RoleSubscription, RoleSubscriptionSpec, RoleSubscriptionStatus};
pub use volume::{
    Adopt, BackingState, Destroy, ErasePolicy, FsType, NamespaceUse, NodePart, Recover, Shared,
    SharedPersistentVolume, SharedPersistentVolumeSpec, SharedPersistentVolumeStatus, VolumeMode,
    VolumePhase,
};
pub use volume_role::{Quota, VolumeRole, VolumeRoleSpec, VolumeRoleStatus};

/// API group of every kind.
pub const GROUP: &str = "reservoir.dev";
/// Name of the CSI driver, as in the `CSIDriver` object and in each `PersistentVolume`.
pub const DRIVER: &str = "csi.reservoir.dev";
/// Field manager of the controller's writes.
pub const CONTROLLER_MANAGER: &str = "reservoir-controller";
/// Field manager of the agents' writes.
pub const AGENT_MANAGER: &str = "reservoir-agent";
/// Finalizer on reservations, volumes and claims: nothing goes before its bytes are accounted for.
pub const FINALIZER: &str = "reservoir.dev/guard";
/// Topology key that the agent reports to the kubelet, and that a claim's PersistentVolume requires.
pub const TOPOLOGY_NODE: &str = "topology.reservoir.dev/node";
/// Label on everything that the controller makes: the UID of the volume that it stands for.
pub const LABEL_VOLUME_UID: &str = "reservoir.dev/volume-uid";
/// Label on a claim's PersistentVolume and PersistentVolumeClaim: the UID of the claim.
pub const LABEL_CLAIM_UID: &str = "reservoir.dev/claim-uid";
/// Label on a claim's PersistentVolume: the namespace of the claim.
pub const LABEL_CLAIM_NAMESPACE: &str = "reservoir.dev/claim-namespace";
/// Label on a volume and on a claim that were made for a PersistentVolumeClaim of a class: its UID. Admission lets
/// nobody but the controller write it.
pub const LABEL_PVC_UID: &str = "reservoir.dev/pvc-uid";
/// What the name of a volume that was made for a PersistentVolumeClaim begins with, before the UID of that.
pub const PVC_PREFIX: &str = "pvc-";
/// What the name of a claim's PersistentVolume begins with, before the UID of the claim.
pub const PV_PREFIX: &str = "reservoir-";
/// Annotation by which Kubernetes says whose work it is to make a volume for a PersistentVolumeClaim, once it is time.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The usual label that tells who manages an object; its value here is [`MANAGED_BY`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] on what the controller makes.
pub const MANAGED_BY: &str = "reservoir";

/// Name of the volume that is made for the PersistentVolumeClaim of that UID.
pub fn volume_for_pvc(uid: &str) -> String {
    format!("{PVC_PREFIX}{uid}")
}
