//! The kubelet's thresholds for the free space and inodes of its file systems, below which it evicts pods and deletes
//! images.

use std::path::Path;

use serde_yaml::Value;

/// The percentage of free space that a kubelet without a readable configuration wants: 15 for images.
const DEFAULT: u64 = 15;

/// The free part of its file systems that the kubelet wants, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub space: u64,
    /// Only volumes that are directories take inodes of the file system; the others take a few each.
    pub inodes: u64,
}

/// The thresholds of the node's kubelet. Blocks.
pub(super) fn thresholds(kubelet_dir: &Path) -> Thresholds {
    in_config(&std::fs::read_to_string(kubelet_dir.join("config.yaml")).unwrap_or_default())
}

/// The largest thresholds of a KubeletConfiguration.
fn in_config(text: &str) -> Thresholds {
    let config: Value = serde_yaml::from_str(text).unwrap_or_default();
    let gc = config.get("imageGCHighThresholdPercent").and_then(Value::as_u64).unwrap_or(100 - DEFAULT);
    let evictions = || {
        let lists = ["evictionHard", "evictionSoft"].iter();
        lists.filter_map(|list| config.get(list)?.as_mapping()).flatten()
    };
    // A threshold in bytes or inodes is no part of the disk that is known here.
    let percent = |value: &Value| {
        let number = value.as_str()?.strip_suffix('%')?.parse::<f64>().ok()?;
        Some(number.clamp(0.0, 100.0).ceil() as u64)
    };
    let without_list = if config.get("evictionHard").is_some() { 0 } else { DEFAULT };
    let largest = |wanted: &str| {
        let of = |signal: &Value| {
            signal.as_str().is_some_and(
                |s| matches!(s.split_once('.'), Some(("nodefs" | "imagefs", kind)) if kind == wanted),
            )
        };
        let signals = evictions().filter(|(signal, _)| of(signal));
        signals.map(|(_, value)| percent(value).unwrap_or(DEFAULT)).max().unwrap_or(0).max(without_list)
    };
    Thresholds { space: largest("available").max(100u64.saturating_sub(gc)), inodes: largest("inodesFree") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D6. kind's kubelet evicts nothing, kubeadm's has the kubelet's own defaults.
    #[test]
    fn d6_the_largest_threshold_of_the_kubelet_counts() {
        for (text, percent) in [
            ("kind: KubeletConfiguration", 15),
            (
                "{evictionHard: {nodefs.available: 0%, imagefs.available: 0%}, imageGCHighThresholdPercent: 100}",
                0,
            ),
            ("{evictionHard: {nodefs.available: 5%}, imageGCHighThresholdPercent: 95}", 5),
            ("{evictionHard: {nodefs.available: 5%}, imageGCHighThresholdPercent: 80}", 20),
            ("{evictionHard: {imagefs.available: 12.5%}, imageGCHighThresholdPercent: 90}", 13),
            ("{evictionHard: {nodefs.available: 1%}, evictionSoft: {nodefs.available: 30%}}", 30),
            ("{evictionHard: {nodefs.available: 1Gi}, imageGCHighThresholdPercent: 100}", 15),
            ("{evictionHard: {memory.available: 99%}, imageGCHighThresholdPercent: 100}", 0),
            ("- no\n- mapping", 15),
            ("{", 15),
        ] {
            assert_eq!(in_config(text).space, percent, "{text}");
        }
        assert_eq!(thresholds(Path::new("/no/such/directory")), Thresholds { space: 15, inodes: 15 });
        for (text, percent) in [
            ("{evictionHard: {nodefs.available: 1%, imagefs.inodesFree: 20%}}", 20),
            ("{evictionHard: {nodefs.inodesFree: 1000}}", 15),
            ("{evictionHard: {nodefs.available: 20%}}", 0),
        ] {
            assert_eq!(in_config(text).inodes, percent, "{text}");
        }
    }
}
