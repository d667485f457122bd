//! The kubelet's thresholds for the free space of its file systems, below which it evicts pods and deletes images.

use std::path::Path;

use serde_yaml::Value;

/// The percentage of free space that a kubelet without a readable configuration wants: 15 for images.
const DEFAULT: u64 = 15;

/// The percentage of free space that the kubelet wants on its file systems. Blocks.
pub(super) fn eviction_percent(kubelet_dir: &Path) -> u64 {
    std::fs::read_to_string(kubelet_dir.join("config.yaml")).map_or(DEFAULT, |text| in_config(&text))
}

/// The largest threshold of a KubeletConfiguration. Inodes have no threshold here, since volumes allocate none of the
/// file system's inodes but a few each.
fn in_config(text: &str) -> u64 {
    let Ok(config) = serde_yaml::from_str::<Value>(text) else { return DEFAULT };
    let gc = config.get("imageGCHighThresholdPercent").and_then(Value::as_u64).unwrap_or(100 - DEFAULT);
    let evictions = ["evictionHard", "evictionSoft"].iter().filter_map(|list| config.get(list)?.as_mapping());
    let signals = evictions.flatten().filter(|(signal, _)| {
        signal.as_str().is_some_and(|signal| matches!(signal, "nodefs.available" | "imagefs.available"))
    });
    // A threshold in bytes is no part of the disk that is known here.
    let percent = |value: &Value| {
        let number = value.as_str()?.strip_suffix('%')?.parse::<f64>().ok()?;
        Some(number.clamp(0.0, 100.0).ceil() as u64)
    };
    let largest = signals.map(|(_, value)| percent(value).unwrap_or(DEFAULT)).max();
    let without_list = if config.get("evictionHard").is_some() { 0 } else { DEFAULT };
    largest.unwrap_or(without_list).max(without_list).max(100u64.saturating_sub(gc))
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
            assert_eq!(in_config(text), percent, "{text}");
        }
        assert_eq!(eviction_percent(Path::new("/no/such/directory")), 15);
    }
}
