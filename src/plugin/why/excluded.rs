//! The nodes that a pod's own spec excludes, as the scheduler reads it: by labels, taints, and pods that it keeps away from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use crate::cluster;
use crate::plan::selects;
use crate::plugin::snapshot::Snapshot;
use crate::plugin::taints;

type Labels = BTreeMap<String, String>;

/// True if the pod may not run on the node. Of a node that the caller may not see nothing is known.
pub(super) fn excludes(snapshot: &Snapshot, pod: &Pod, node: &str) -> bool {
    let (Some(spec), Some(node)) = (&pod.spec, snapshot.node(node)) else { return false };
    let selected = spec.node_selector.as_ref().is_none_or(|wanted| selects(wanted, node.labels()));
    let affinity = spec.affinity.as_ref();
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let asked = required.is_none_or(|of| of.node_selector_terms.iter().any(|term| is_met(term, node)));
    let tolerated = taints::of(node).all(|taint| taints::is_tolerated(taint, spec.tolerations.as_ref()));
    !(selected && asked && tolerated) || kept_from(snapshot, pod, &node.name_any()).is_some()
}

/// The pod on, or near, the node that the pod's own anti-affinity keeps it away from.
pub(super) fn kept_from<'a>(snapshot: &'a Snapshot, pod: &Pod, node: &str) -> Option<&'a Pod> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.pod_anti_affinity.as_ref()?;
    let mut terms = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
    terms.find_map(|term| {
        let place = domain(snapshot, &term.topology_key, node)?;
        let is_near = |other: &&Pod| {
            let on = other.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            on.and_then(|on| domain(snapshot, &term.topology_key, on)).is_some_and(|of| of == place)
        };
        snapshot.pods.iter().filter(is_near).find(|other| keeps_away(pod, term, other))
    })
}

/// The value of a label of a node. For a caller who may not see nodes, only the label with the node's name is known.
fn domain<'a>(snapshot: &'a Snapshot, key: &str, node: &'a str) -> Option<&'a str> {
    match snapshot.node(node) {
        Some(found) => found.labels().get(key).map(String::as_str),
        None => (key == HOSTNAME && snapshot.nodes.is_empty()).then_some(node),
    }
}

/// The label of a node with its name.
const HOSTNAME: &str = "kubernetes.io/hostname";

fn is_met(term: &NodeSelectorTerm, node: &Node) -> bool {
    let by_label =
        |of: &NodeSelectorRequirement| fits(&of.operator, of.values.as_deref(), node.labels().get(&of.key));
    // Kubernetes has the one field metadata.name.
    let by_field =
        |of: &NodeSelectorRequirement| fits(&of.operator, of.values.as_deref(), node.metadata.name.as_ref());
    let (labels, fields) = (term.match_expressions.as_ref(), term.match_fields.as_ref());
    let is_empty = labels.is_none_or(Vec::is_empty) && fields.is_none_or(Vec::is_empty);
    !is_empty && labels.into_iter().flatten().all(by_label) && fields.into_iter().flatten().all(by_field)
}

/// True if the term keeps the pod away from the other one. A term by labels of namespaces is not looked at.
fn keeps_away(pod: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
    let named = term.namespaces.as_ref().filter(|named| !named.is_empty());
    let namespace = other.namespace().unwrap_or_default();
    let is_in = match named {
        Some(named) => named.contains(&namespace),
        None => other.metadata.namespace == pod.metadata.namespace,
    };
    let mut same = term.match_label_keys.iter().flatten();
    is_in
        && term.namespace_selector.is_none()
        && other.uid() != pod.uid()
        && !cluster::is_terminal(other)
        && term.label_selector.as_ref().is_some_and(|of| is_selected(of, other.labels()))
        && same.all(|key| pod.labels().get(key) == other.labels().get(key))
}

fn is_selected(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut expressions = selector.match_expressions.iter().flatten();
    selector.match_labels.as_ref().is_none_or(|wanted| selects(wanted, labels))
        && expressions.all(|of| fits(&of.operator, of.values.as_deref(), labels.get(&of.key)))
}

/// True if the value of a label, or its absence, is what the operator asks for.
fn fits(operator: &str, values: Option<&[String]>, value: Option<&String>) -> bool {
    let values = values.unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    let both = || number(value).zip(number(values.first()));
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => both().is_some_and(|(has, than)| has > than),
        "Lt" => both().is_some_and(|(has, than)| has < than),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::why::testing::from;

    /// P2: what the pod's spec excludes, and nothing else.
    #[test]
    fn p2_a_pods_spec_excludes_nodes() {
        let node = |name: &str, taints: Value| -> Node {
            let labels = json!({"kubernetes.io/hostname": name, "pool": name, "cores": "8"});
            from(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}))
        };
        let pod = |name: &str, spec: Value| -> Pod {
            from(
                json!({"metadata": {"namespace": "team", "name": name, "uid": name, "labels": {"app": "db"}}, "spec": spec}),
            )
        };
        let nodes = vec![node("n1", json!([])), node("n2", json!([{"key": "gpu", "effect": "NoSchedule"}]))];
        let pods = vec![pod("db-0", json!({"containers": [], "nodeName": "n1"}))];
        let snapshot = Snapshot { nodes, pods, ..Snapshot::default() };
        let needs = |expression: Value| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}]}}})
        };
        let apart = |labels: Value| {
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}]}})
        };
        let field = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}});
        for (affinity, selector, expected) in [
            (json!({}), json!({}), false),
            (json!({}), json!({"pool": "n1"}), false),
            (json!({}), json!({"pool": "n2"}), true),
            (needs(json!({"key": "pool", "operator": "In", "values": ["n1"]})), json!({}), false),
            (needs(json!({"key": "pool", "operator": "NotIn", "values": ["n1"]})), json!({}), true),
            (needs(json!({"key": "cores", "operator": "Gt", "values": ["8"]})), json!({}), true),
            (needs(json!({"key": "ssd", "operator": "DoesNotExist"})), json!({}), false),
            (field, json!({}), true),
            (apart(json!({"app": "db"})), json!({}), true),
            (apart(json!({"app": "web"})), json!({}), false),
        ] {
            let spec = json!({"containers": [], "affinity": affinity, "nodeSelector": selector});
            let found = excludes(&snapshot, &pod("db-1", spec.clone()), "n1");
            assert_eq!(found, expected, "{spec}");
        }
        let plain = |spec: Value| excludes(&snapshot, &pod("db-1", spec), "n2");
        assert!(plain(json!({"containers": []})), "the taint");
        assert!(!plain(json!({"containers": [], "tolerations": [{"key": "gpu", "operator": "Exists"}]})));
        assert!(
            !excludes(&snapshot, &pod("db-1", json!({"containers": [], "nodeSelector": {"a": "b"}})), "n3"),
            "unseen"
        );
    }
}
