//! A data set that is sealed once, copied to each node of a pool, and read there through one claim (E1–E5).

use anyhow::{Context, ensure};

use super::Tour;

/// Text in the data set by which a byte of it is found on the disk.
const MARK: &str = "a mark of the data set";

/// Writes so many bytes and the mark through a claim of its own.
const FILL: &str = r#"
apiVersion: reservoir.dev/v1alpha1
kind: VolumeClaim
metadata: {name: fill, namespace: team-a}
spec: {role: models, volume: llama, mode: ReadWrite}
---
apiVersion: batch/v1
kind: Job
metadata: {name: fill, namespace: team-a}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: fill
          image: localhost/reservoir-test:dev
          command:
            - sh
            - -c
            - head -c BYTES /dev/urandom > /model/weights && echo 'MARK' > /model/words && cat /model/* | sha256sum
          volumeMounts: [{name: model, mountPath: /model}]
      volumes: [{name: model, persistentVolumeClaim: {claimName: fill}}]
"#;

impl Tour {
    /// E1 to E5, X1.
    pub(super) fn every_node(&self) -> anyhow::Result<()> {
        let nodes = self.field(&["nodes"], "{.items[*].metadata.name}")?;
        let nodes: Vec<&str> = nodes.split_whitespace().collect();
        let [home, other, ..] = nodes[..] else { anyhow::bail!("two nodes are needed: {nodes:?}") };

        self.title("A data set is filled once, and sealed")?;
        let sum = self.data_set(home, 200 << 20)?;

        self.title("Another node joins the pool and gets a copy, though its agent is killed meanwhile")?;
        // Slow enough to be caught in the middle.
        let slow = r#"{"spec": {"copies": {"bytesPerSecond": "16Mi"}}}"#;
        self.show(&["patch", "spv", "llama", "--type=merge", "-p", slow])?;
        self.show(&["label", "node", other, "pool=gpu", "--overwrite"])?;
        let copy = self.until("a copy that is being filled", || {
            let said = self.of_copies("{range .items[*]}{.metadata.name} {.status.source.name}{end}")?;
            Ok(said.strip_suffix(" llama").map(str::to_owned).ok_or(said.clone()))
        })?;
        // Some of its 200 MiB arrive.
        std::thread::sleep(std::time::Duration::from_secs(3));
        self.replace_agent(other)?;
        self.copied(1)?;
        self.show(&["get", "spv", "llama", &copy])?;

        self.title("One claim serves pods on each of these nodes, from the copy of the node")?;
        self.readers()?;
        self.show(&["-n", "team-a", "get", "pods", "-o", "wide"])?;
        for node in [home, other] {
            self.reads(node, &sum)?;
        }
        let said = self.refused(&["delete", "spv", "llama"])?;
        ensure!(said.contains("team-a/sidecars-"), "it names no pod: {said}");

        if self.cluster.docker().is_ok() {
            self.flip(other, &copy)?;
        }
        self.no_data_set()
    }

    /// Makes the data set of the examples on the node `home`, fills it with so many bytes, and seals it; returns the sum of its files.
    pub(super) fn data_set(&self, home: &str, bytes: u32) -> anyhow::Result<String> {
        self.show(&["label", "node", home, "pool=gpu", "--overwrite"])?;
        self.apply("29-data-set.yaml")?;
        self.ready(&["spv/llama"])?;
        self.apply_subscription()?;
        let fill = FILL.replace("MARK", MARK).replace("BYTES", &bytes.to_string());
        print!("{}", self.cluster.apply(&fill)?);
        self.show(&["-n", "team-a", "wait", "--for=condition=Complete", "job/fill", "--timeout=120s"])?;
        let sum = self.quietly(&["-n", "team-a", "logs", "job/fill"])?.trim().to_owned();
        self.show(&["-n", "team-a", "delete", "job/fill", "vclaim/fill", "--timeout=120s"])?;
        let sealed = r#"{"spec": {"sealed": true}}"#;
        self.show(&["patch", "spv", "llama", "--type=merge", "-p", sealed])?;
        self.show(&["wait", "--for=condition=Sealed", "spv/llama", "--timeout=120s"])?;
        println!("{}", self.field(&["spv", "llama"], "{.status.files} files, {.status.digest}")?);
        Ok(sum)
    }

    /// Waits until so many nodes are to have a copy, and have it.
    pub(super) fn copied(&self, nodes: u32) -> anyhow::Result<()> {
        self.until("all selected nodes to have a copy", || {
            let path = "{.status.copies.ready} of {.status.copies.wanted}";
            let said = self.field(&["spv", "llama"], path)?;
            Ok(if said == format!("{nodes} of {nodes}") { Ok(()) } else { Err(said) })
        })
    }

    /// The nodes to which the data set's label leads pods.
    pub(super) fn labelled(&self) -> anyhow::Result<String> {
        let uid = self.field(&["spv", "llama"], "{.metadata.uid}")?;
        let label = format!("copies.reservoir.dev/{uid}=ready");
        self.quietly(&["get", "nodes", "-l", &label, "-o", "name"])
    }

    /// Fields of the copies.
    pub(super) fn of_copies(&self, path: &str) -> anyhow::Result<String> {
        let uid = self.field(&["spv", "llama"], "{.metadata.uid}")?;
        self.field(&["spv", "-l", &format!("reservoir.dev/copy-of={uid}")], path)
    }

    /// A byte that flips on the disk is found, and the copy is made anew once nobody reads it.
    fn flip(&self, node: &str, copy: &str) -> anyhow::Result<()> {
        self.title(
            "A byte of the copy flips on the disk; a verification finds it, and the copy is made anew",
        )?;
        let uid = self.field(&["spv", copy], "{.metadata.uid}")?;
        let file = format!("/var/lib/reservoir/volumes/{uid}/data");
        let flip = format!(
            "at=$(grep -abo '{MARK}' {file} | head -n 1 | cut -d : -f 1) && \
             printf X | dd of={file} bs=1 seek=$at conv=notrunc,fsync 2>&1"
        );
        self.cluster.exec(node, &["sh", "-c", &flip]).context("the mark is not on the disk")?;
        let directory = self.plugin_directory()?;
        let verify = self.plugin(&directory, &["verify", copy]);
        println!("{}", verify?);
        let said = self.reason(&["spv", copy], "CopyDiffers")?;
        ensure!(said.contains("words"), "it does not name the file: {said}");
        self.until("the node to lose its label", || {
            let nodes = self.labelled()?;
            Ok(if nodes.contains(node) { Err(nodes) } else { Ok(()) })
        })?;
        self.no_readers()?;
        self.until("the copy to be made anew", || {
            let now = self.field(&["spv", copy, "--ignore-not-found"], "{.metadata.uid}")?;
            Ok(if now.is_empty() || now == uid { Err(now) } else { Ok(()) })
        })?;
        self.copied(1)?;
        self.readers()?;
        let said = self.on_node(node, "cat /model/words")?;
        ensure!(said.trim() == MARK, "the new copy has {said}");
        Ok(())
    }

    /// The DaemonSet's pod of a node reads the files with that sum, and writes none.
    pub(super) fn reads(&self, node: &str, sum: &str) -> anyhow::Result<()> {
        let said = self.on_node(node, "cat /model/* | sha256sum; touch /model/new || true")?;
        println!("{node}: {said}");
        ensure!(said.starts_with(sum), "other files than were written, which have {sum}");
        Ok(())
    }

    /// Runs a command in the DaemonSet's pod of a node.
    fn on_node(&self, node: &str, command: &str) -> anyhow::Result<String> {
        let there = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        let pod =
            self.field(&["-n", "team-a", "pods", "-l", "app=sidecars", &there], "{.items[0].metadata.name}")?;
        self.quietly(&["-n", "team-a", "exec", &pod, "--", "sh", "-c", command])
    }

    /// Starts the readers of the examples.
    pub(super) fn readers(&self) -> anyhow::Result<()> {
        self.apply("30-every-node.yaml")?;
        self.ready(&["-n", "team-a", "vclaim/llama"])?;
        for workload in ["deployment/servers", "daemonset/sidecars"] {
            self.show(&["-n", "team-a", "rollout", "status", workload, "--timeout=120s"])?;
        }
        Ok(())
    }

    /// Ends the readers. The namespace is that of other steps, too.
    fn no_readers(&self) -> anyhow::Result<()> {
        let all = ["deployment/servers", "daemonset/sidecars", "vclaim/llama", "rolesubscription/models"];
        self.show(&[&["-n", "team-a", "delete", "--timeout=120s"], &all[..]].concat()).map(drop)
    }

    /// Ends the readers and deletes the data set, whose copies go first.
    pub(super) fn no_data_set(&self) -> anyhow::Result<()> {
        self.no_readers()?;
        self.show(&["delete", "spv", "llama", "--timeout=120s"])?;
        let left = self.quietly(&["get", "spv", "-l", "reservoir.dev/copy-of", "-o", "name"])?;
        ensure!(left.is_empty(), "these copies are left: {left}");
        self.unapply("29-data-set.yaml")?;
        self.show(&["label", "nodes", "-l", "pool=gpu", "pool-"]).map(drop)
    }

    /// The namespace and its subscription, which the claim that fills needs before the readers are there.
    fn apply_subscription(&self) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(self.repository.join("examples/30-every-node.yaml"))?;
        let first: Vec<&str> = text.split("\n---\n").take(2).collect();
        print!("{}", self.cluster.apply(&first.join("\n---\n"))?);
        self.ready(&["-n", "team-a", "rolesubscription/models"])
    }
}
