//! The configuration of a kind cluster.

use std::path::Path;

use serde_json::{Value, json};

/// The path of the audit log on the control plane's node.
pub(super) const AUDIT_LOG: &str = "/var/log/kubernetes/audit.log";

const AUDIT_DIR: &str = "/var/log/kubernetes";
const AUDIT_POLICY: &str = "/etc/kubernetes/audit-policy.yaml";

/// The configuration of a cluster of `nodes` nodes. The first node has the control plane, and takes pods, too.
///
/// A composed image lacks kind's network plug-in. Its machine may lack kernel features that kubelets and kube-proxy use by
/// default.
pub(super) fn kind_config(nodes: usize, audit_policy: &Path, composed: bool) -> Value {
    let control_plane = json!({
        "role": "control-plane",
        "extraMounts": [{"hostPath": audit_policy, "containerPath": AUDIT_POLICY, "readOnly": true}],
        "kubeadmConfigPatches": patches(&[
            control_plane_taints(),
            // kind writes the form of kubeadm's release, and takes the patch of that.
            api_server_audit(
                "v1beta4",
                &json!([
                    {"name": "audit-policy-file", "value": AUDIT_POLICY},
                    {"name": "audit-log-path", "value": AUDIT_LOG},
                ]),
            ),
            api_server_audit(
                "v1beta3",
                &json!({"audit-policy-file": AUDIT_POLICY, "audit-log-path": AUDIT_LOG}),
            ),
        ]),
    });
    let workers = (1..nodes).map(|_| json!({"role": "worker"}));
    let mut config = json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": std::iter::once(control_plane).chain(workers).collect::<Vec<_>>(),
    });
    if composed {
        config["networking"] = json!({"disableDefaultCNI": true, "kubeProxyMode": "iptables"});
        config["kubeadmConfigPatches"] = patches(&[
            json!({
                "kind": "KubeletConfiguration",
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "failCgroupV1": false,
                "oomScoreAdj": 0,
                "localStorageCapacityIsolation": false,
            }),
            json!({
                "kind": "KubeProxyConfiguration",
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "conntrack": {"maxPerCore": 0},
                "oomScoreAdj": 0,
            }),
        ]);
    }
    config
}

fn control_plane_taints() -> Value {
    json!({"kind": "InitConfiguration", "nodeRegistration": {"taints": []}})
}

fn api_server_audit(version: &str, arguments: &Value) -> Value {
    let volume = |name: &str, path: &str, kind: &str, read_only: bool| json!({"name": name, "hostPath": path, "mountPath": path, "pathType": kind, "readOnly": read_only});
    json!({
        "apiVersion": format!("kubeadm.k8s.io/{version}"),
        "kind": "ClusterConfiguration",
        "apiServer": {
            // A merge replaces the whole list. kind's own entry is empty, so nothing is lost.
            "extraArgs": arguments,
            "extraVolumes": [
                volume("audit-policy", AUDIT_POLICY, "File", true),
                volume("audit-log", AUDIT_DIR, "DirectoryOrCreate", false),
            ],
        },
    })
}

/// kind takes each patch as text.
fn patches(patches: &[Value]) -> Value {
    patches.iter().map(Value::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_control_plane_and_the_rest_workers() {
        let config = kind_config(3, Path::new("/audit.yaml"), false);
        let roles: Vec<_> =
            config["nodes"].as_array().unwrap().iter().map(|node| node["role"].clone()).collect();
        assert_eq!(roles, ["control-plane", "worker", "worker"]);
        assert_eq!(config.get("networking"), None);
        assert_eq!(kind_config(1, Path::new("/audit.yaml"), true)["networking"]["disableDefaultCNI"], true);
    }
}
