//! The taint of a node whose agent does not serve yet, so that no pod with a volume comes too early (F7).
//!
//! The kubelet of a fresh node registers with the taint. The controller takes off this taint and no other (policy
//! `reservoir-nodes`).

use k8s_openapi::api::core::v1::{Node, Taint};

/// The key of the taint.
pub const TAINT: &str = "reservoir.dev/agent-not-ready";

/// The taints that a Node keeps, if its taint is to be taken off. `serves` is true if the node's agent serves.
pub fn remaining(node: &Node, serves: bool) -> Option<Vec<&Taint>> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).filter(|_| serves)?;
    let others: Vec<&Taint> = taints.iter().filter(|taint| taint.key != TAINT).collect();
    (others.len() < taints.len()).then_some(others)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn f7_only_the_agents_taint_goes_when_the_agent_serves() {
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        let node =
            |taints: serde_json::Value| -> Node { from_value(json!({"spec": {"taints": taints}})).unwrap() };
        let both = node(json!([taint(TAINT), taint("other")]));
        let kept = remaining(&both, true).unwrap();
        assert_eq!(kept.iter().map(|taint| taint.key.as_str()).collect::<Vec<_>>(), ["other"]);
        assert_eq!(remaining(&both, false), None);
        assert_eq!(remaining(&node(json!([taint("other")])), true), None);
        assert_eq!(remaining(&Node::default(), true), None);
    }
}
