//! `VolumeOffer`: the volumes of one node that one subscription may claim (O2).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Size;

/// Content of an offer. The controller writes every field, and only after a change of the content.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "reservoir.dev",
    version = "v1alpha1",
    kind = "VolumeOffer",
    plural = "volumeoffers",
    shortname = "offer",
    category = "reservoir",
    namespaced,
    status = "VolumeOfferStatus",
    derive = "PartialEq",
    doc = "The free reserved space and the volumes of one node that a subscription may claim; Mesos' Offer. The controller makes it.",
    printcolumn(name = "Subscription", type_ = "string", json_path = ".spec.subscription"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.free"),
    printcolumn(name = "Volumes", type_ = "string", json_path = ".status.volumes"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeOfferSpec {
    /// Name of the RoleSubscription, in the same namespace.
    pub subscription: String,
    /// Name of the node of all reservations and volumes in this offer.
    pub node_name: String,
    /// Reservations with free space: the first 400 by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<OfferedReservation>,
    /// Volumes that a claim of this namespace may name now (O3–O6): the first 1000 by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<OfferedVolume>,
    /// Number of reservations with free space that are not listed, since etcd limits the size of an object.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted_reservations: u32,
    /// Number of volumes that are not listed. They may be claimed all the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted_volumes: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A reservation with free space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedReservation {
    /// Name of the DiskReservation.
    pub name: String,
    /// Role of the reservation.
    pub role: String,
    /// Name of its NodeDisk.
    pub node_disk: String,
    /// Space for new volumes, in bytes, as a quantity.
    pub free: Size,
}

/// A volume that may be claimed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedVolume {
    /// Name of the SharedPersistentVolume.
    pub name: String,
    /// UID of the volume.
    pub uid: String,
    /// Role of the volume.
    pub role: String,
    /// Size of the volume, in bytes, as a quantity.
    pub size: Size,
    /// True if many claims may bind to the volume at once (V2).
    pub shared: bool,
}

/// Status of an offer. It is part of the object itself, so an offer is one write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeOfferStatus {
    /// Sum of `free` of the offer's reservations, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// Names of the first three volumes and the number of further ones, for people.
    pub volumes: String,
    /// The condition `Ready` (T1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
