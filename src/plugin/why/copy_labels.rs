//! The labels that a node lacks for a copy of a data set (E2).

use kube::ResourceExt;

use crate::plan::advice;
use crate::plugin::snapshot::Snapshot;

/// A label by which a volume's copies select nodes, and which a node has not.
struct Lack {
    label: String,
    /// True if the node has no other value of it.
    is_absent: bool,
}

/// The end of a sentence about the node, with the labels. `None`: it is to have a copy, or may not be seen.
pub(super) fn missing(snapshot: &Snapshot, volume: &str, node: &str) -> Option<String> {
    let labels = lacks(snapshot, volume, node)?.into_iter().map(|lack| lack.label);
    let labels = labels.collect::<Vec<_>>().join(",");
    Some(format!(", which has not the labels that spec.copies of the volume selects: {labels}"))
}

/// The step towards a copy on the node.
pub(super) fn step(snapshot: &Snapshot, volume: &str, node: &str) -> String {
    match lacks(snapshot, volume, node) {
        Some(lacks) if lacks.iter().all(|lack| lack.is_absent) => {
            let labels: Vec<&str> = lacks.iter().map(|lack| lack.label.as_str()).collect();
            advice::label_for_copy(node, labels.join(" "), volume)
        }
        // Another value has its own reason.
        Some(_) => advice::select_nodes(volume),
        None => advice::ask_why(format!("spv/{volume}")),
    }
}

fn lacks(snapshot: &Snapshot, volume: &str, node: &str) -> Option<Vec<Lack>> {
    let volume = snapshot.volumes.iter().find(|of| of.metadata.name.as_deref() == Some(volume))?;
    let selector = volume.spec.copies.as_ref()?.node_selector.as_ref()?;
    let node = snapshot.node(node)?;
    let lacking = selector.iter().filter(|(key, value)| node.labels().get(*key) != Some(*value));
    let lacks: Vec<Lack> = lacking
        .map(|(key, value)| Lack {
            label: format!("{key}={value}"),
            is_absent: !node.labels().contains_key(key),
        })
        .collect();
    (!lacks.is_empty()).then_some(lacks)
}
