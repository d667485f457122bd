//! The fields about copies of a sealed volume on other nodes (E2).

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Size;

/// Copies of a sealed volume on other nodes (E2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Copies {
    /// Labels of the nodes that get a copy, besides the volume's own node (see `ownNode`). All nodes if absent. At most 64, of 4096 characters
    /// together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::refs::selector_schema")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// True if the volume's own node is selected as others are, for a copy on another disk there. Its pods read that while the volume
    /// itself cannot be used. False if absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_node: bool,
    /// The most copies that are being filled at once. Each volume that is complete sends to two others. No other limit if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub at_once: Option<u32>,
    /// The most bytes that a copy receives in a second, as a quantity such as 100Mi; at least 1Mi. No limit if absent. A copy keeps the
    /// limit with which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new(super::size::RULE).message(super::size::MESSAGE),
        validation = Rule::new(super::size::LEAST_RULE).message("a copy receives at least 1Mi in a second: write more, or leave bytesPerSecond out")
    )]
    pub bytes_per_second: Option<Size>,
}

/// The volume that a copy is of, and its place (E2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyOf {
    /// Name of the original.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID of the original.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Digest of the original's content.
    #[schemars(length(max = 80))]
    pub digest: String,
    /// Name of the node that the copy was made for.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The most bytes that the copy receives in a second. No limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<Size>,
}

/// The copies of a volume, in numbers (E2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopiesStatus {
    /// Number of the selected nodes, without the volume's own unless `ownNode` is true.
    pub wanted: u32,
    /// Number of the selected nodes with a complete copy that can be used.
    pub ready: u32,
    /// Number of the selected nodes without a copy, or with a failed one; the condition `Copied` names the first ones.
    pub failed: u32,
    /// Number of the copies with claims or pods. While there are some, a `DELETE` of the volume is refused (E5).
    pub used: u32,
}
