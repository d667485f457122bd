//! `VolumeOffer`: what one subscription may claim on one node (O2).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Size;

/// What is on offer; written by the controller, and only when its content changes.
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
    doc = "The free reserved disk and the volumes that a subscription may claim on one node; Mesos' Offer. Made by the controller.",
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
    /// The RoleSubscription that it answers.
    pub subscription: String,
    /// The node that all of it is on.
    pub node_name: String,
    /// Reservations with room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<OfferedReservation>,
    /// Volumes that a claim of this namespace may name now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<OfferedVolume>,
}

/// A reservation with room for volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedReservation {
    /// Name of the DiskReservation.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its NodeDisk.
    pub node_disk: String,
    /// Bytes that a new volume may take.
    pub free: Size,
}

/// A volume that may be claimed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedVolume {
    /// Name of the SharedPersistentVolume.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its role.
    pub role: String,
    /// Its size.
    pub size: Size,
    /// Whether others may use it at the same time.
    pub shared: bool,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Whether the offer stands; part of the object itself, so that an offer is one write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeOfferStatus {
    /// What all its reservations have left, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<Size>,
    /// The names of its volumes, for people: the first three, and how many more.
    pub volumes: String,
    /// `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
