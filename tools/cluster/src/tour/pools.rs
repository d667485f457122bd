//! A node of a second pool joins the cluster and leaves it for good, while a pod of another node writes.

use anyhow::{Context, ensure};

use super::{NAMESPACE, Tour};

/// The chart's values of the pool. Its directory is a part of the node's root file system on purpose.
const POOL: [&str; 10] = [
    "removeStartupTaint=true",
    "agent.pools[0].name=cache",
    "agent.pools[0].nodeSelector.pool=cache",
    "agent.pools[0].disks[0].name=cache",
    "agent.pools[0].disks[0].path=/var/lib/reservoir-cache",
    "agent.pools[0].disks[0].requireMount=false",
    "agent.pools[0].disks[0].capacity=2Gi,agent.pools[0].disks[0].systemReserved=0",
    "agent.pools[0].disks[0].lifetime=Node,agent.pools[0].disks[0].nodeGraceSeconds=10",
    // LVM reads the node's /etc/lvm, which is missing there and cannot be made.
    "agent.pools[0].disks[1].name=group,agent.pools[0].disks[1].path=/dev/no-such-group,agent.pools[0].disks[1].backing=Lvm",
    "agent.pools[0].disks[1].lifetime=Node,agent.pools[0].disks[1].nodeGraceSeconds=10",
];

/// The arguments that the kubelets of the pool get from their node group.
const KUBELET: &str =
    "--node-labels=pool=cache --register-with-taints=reservoir.dev/agent-not-ready=:NoSchedule";

/// The label of the nodes by which the cluster autoscaler asks for free space on a node that it could add.
const TEMPLATE_NODE: &str = "cluster-autoscaler.kubernetes.io/template-node";

/// A second template of the data set's role, for the disks of the pool.
const TEMPLATE: &str = r#"[{"op": "add", "path": "/spec/reservationTemplates/-", "value":
    {"name": "pool", "size": "512Mi", "diskName": "cache", "nodeSelector": {"pool": "cache"}}}]"#;
/// The data set's copies are for the nodes of the pool.
const COPIES: &str = r#"{"spec": {"copies": {"nodeSelector": {"pool": "cache"}}}}"#;
/// Its readers run on these nodes.
const READERS: &str = r#"{"spec": {"template": {"spec": {"nodeSelector": {"pool": "cache"}}}}}"#;

impl Tour {
    /// D6, D7, E2, E3, F7, R7. `node` is retired, and is lost at the end.
    pub(super) fn pools(&self, node: &str) -> anyhow::Result<()> {
        let mut upgrade = vec!["upgrade", "reservoir", "--reuse-values"];
        upgrade.extend(POOL.iter().flat_map(|value| ["--set", *value]));
        self.replaced(&upgrade, true)?;
        self.apply("25-every-node.yaml")?;
        self.apply("26-cache.yaml")?;
        self.until("the free space of a node that could be added", || {
            let listed = self.quietly(&["-n", NAMESPACE, "get", "csistoragecapacities", "--output=json"])?;
            let listed: serde_json::Value = serde_json::from_str(&listed)?;
            let of_template = |capacity: &&serde_json::Value| {
                capacity["nodeTopology"]["matchLabels"][TEMPLATE_NODE].is_string()
            };
            let found = listed["items"].as_array().and_then(|capacities| capacities.iter().find(of_template));
            let size = found.map_or("none", |found| found["capacity"].as_str().unwrap_or_default());
            Ok(if size == "512Mi" { Ok(()) } else { Err(size.to_owned()) })
        })?;
        self.show(&["-n", NAMESPACE, "get", "csistoragecapacities"])?;
        let scheduled = "{.status.conditions[?(@.type==\"PodScheduled\")].reason}";
        let waits = || {
            let reason = self.field(&["-n", "team-a", "pod/cache-0", "--ignore-not-found"], scheduled)?;
            Ok(if reason == "Unschedulable" { Ok(()) } else { Err(reason) })
        };
        self.until("the pod to wait for a node of the pool", waits)?;

        self.title("A sealed data set is for each node of the pool, which has none yet")?;
        let sum = self.data_set_of_pool()?;

        self.title(
            "A node of the pool joins; its disk, its reservations, the pod's volume and its copy come by themselves",
        )?;
        self.cluster.join(node, KUBELET)?;
        self.show(&["get", "nodes", "-L", "pool"])?;
        let disk = format!("nodedisk/{node}.cache");
        let reservation = format!("diskreservation/cache.each-node.{node}.cache");
        for what in [&disk, &reservation] {
            self.show(&["wait", "--for=create", what, "--timeout=120s"])?;
            self.ready(&[what])?;
        }
        let refused = format!("nodedisk/{node}.group");
        self.show(&[
            "wait",
            "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}=DiskRefused",
            &refused,
        ])?;
        self.show(&["-n", "team-a", "rollout", "status", "statefulset/cache", "--timeout=120s"])?;
        let taints = self.field(&["node", node], "{.spec.taints[*].key}")?;
        ensure!(!taints.contains("agent-not-ready"), "the pod runs, and the node has the taints {taints}");
        let claim = ["-n", "team-a", "pvc", "data-cache-0"];
        let first = self.field(&claim, "{.metadata.uid}")?;
        let volume = self.volume_of("data-cache-0")?;
        self.show(&["get", "spv", &volume])?;
        let copy = self.copied_to(node, &sum)?;

        self.title("The node leaves for good; its disk goes with it, and the StatefulSet gets a new claim")?;
        self.cluster.lose(node)?;
        for what in [&disk, &reservation, &refused, &format!("spv/{volume}"), &format!("spv/{copy}")] {
            self.show(&["wait", "--for=delete", what, "--timeout=120s"])?;
        }
        self.until("a new PersistentVolumeClaim of the StatefulSet", || {
            let now = self.field(&[&claim[..], &["--ignore-not-found"]].concat(), "{.metadata.uid}")?;
            Ok(if now.is_empty() || now == first { Err(now) } else { Ok(()) })
        })?;
        self.until("the new pod to wait for a node of the pool", waits)?;
        let receipts =
            self.show(&["get", "events.events.k8s.io", "-A", "--field-selector=reason=NodeGone"])?;
        for gone in [&volume, &copy] {
            ensure!(receipts.contains(gone.as_str()), "there is no event about {gone}");
        }
        self.copied(0)?;
        self.ready(&["spv/llama"])?;
        self.ready(&["-n", "team-a", "vclaim/llama"])?;
        self.no_data_set()?;
        self.unapply("26-cache.yaml")?;
        self.show(&["-n", "team-a", "delete", "pvc", "data-cache-0", "--timeout=60s"])?;
        self.unapply("25-every-node.yaml")
    }

    /// Makes the data set on a node of the first pool, and starts its readers; returns the sum of its files.
    fn data_set_of_pool(&self) -> anyhow::Result<String> {
        let nodes = self.cluster.node_names()?;
        let sum = self.data_set(nodes.first().context("there is no node")?, 16 << 20)?;
        self.show(&["patch", "volumerole", "models", "--type=json", "-p", TEMPLATE])?;
        self.show(&["patch", "spv", "llama", "--type=merge", "-p", COPIES])?;
        self.readers()?;
        self.show(&["-n", "team-a", "patch", "daemonset", "sidecars", "-p", READERS])?;
        self.copied(0)?;
        Ok(sum)
    }

    /// The node gets its copy, and then the reader of the node starts; returns the name of the copy.
    fn copied_to(&self, node: &str, sum: &str) -> anyhow::Result<String> {
        self.copied(1)?;
        self.show(&["get", "spv", "-l", "reservoir.dev/copy-of", "-o", "wide"])?;
        let labelled = self.labelled()?;
        ensure!(labelled.trim() == format!("node/{node}"), "the label leads to {labelled}");
        let one = "--for=jsonpath={.status.numberReady}=1";
        self.show(&["-n", "team-a", "wait", one, "daemonset/sidecars", "--timeout=120s"])?;
        self.reads(node, sum)?;
        self.of_copies("{.items[*].metadata.name}")
    }
}
