//! The taints of nodes, the tolerations of pods, and the label by which pods find the volumes of a node.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use kube::ResourceExt;

use crate::api::TOPOLOGY_NODE;

/// True if the node lacks the label that the PersistentVolumes of its volumes select.
pub(super) fn lacks_topology(node: &Node) -> bool {
    node.labels().get(TOPOLOGY_NODE) != node.metadata.name.as_ref()
}

/// The taints of a node that keep pods without a toleration away.
pub(super) fn of(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect != "PreferNoSchedule")
}

/// True if one of the tolerations is for the taint.
pub(super) fn is_tolerated(taint: &Taint, tolerations: Option<&Vec<Toleration>>) -> bool {
    let tolerates = |t: &Toleration| {
        let key = t.key.as_deref().unwrap_or_default();
        let any = t.operator.as_deref() == Some("Exists");
        (key == taint.key || key.is_empty() && any)
            && t.effect.as_ref().is_none_or(|effect| effect.is_empty() || *effect == taint.effect)
            && (any || t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
    };
    tolerations.into_iter().flatten().any(tolerates)
}

/// `gpu=yes:NoSchedule`.
pub(super) fn text(taint: &Taint) -> String {
    let value = taint.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
    format!("{}{value}:{}", taint.key, taint.effect)
}
