//! Nodes on which the volumes of one pod do not fit together (P2).
//!
//! The scheduler compares each PersistentVolumeClaim with the storage capacity for itself, so it would choose the same node
//! again. For a moment the capacity of that node is told as too small for the largest of them. That costs other pods
//! little: their smaller volumes are placed there meanwhile, and a pause follows (Q5).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

/// The time for which a node is told as too small. Kubernetes tries a pod again within ten seconds.
const TOLD: Duration = Duration::from_secs(30);

/// The time from one such moment of a class and node to the next.
const CYCLE: Duration = Duration::from_secs(90);

/// A volume that does not fit on a node beside the other volumes of its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded {
    /// Name of the StorageClass of the largest volume.
    pub class: String,
    /// Name of the node.
    pub node: String,
    /// Size of the largest volume in bytes.
    pub bytes: u64,
}

/// The crowded nodes, in the memory of one controller: another one finds out by itself.
#[derive(Debug, Default)]
pub struct Crowding(HashMap<(String, String), (u64, Timestamp)>);

impl Crowding {
    /// Notes a crowded node, unless its last moment was a short time ago. True if the storage capacity changes.
    pub fn note(&mut self, crowded: Crowded, now: Timestamp) -> bool {
        self.0.retain(|_, (_, since)| elapsed(*since, now) < CYCLE);
        let key = (crowded.class, crowded.node);
        let is_new = !self.0.contains_key(&key);
        self.0.entry(key).or_insert((crowded.bytes, now));
        is_new
    }

    /// The size in bytes that a volume of the class may not reach on each crowded node, and the time until that ends.
    pub fn limits(&self, class: &str, now: Timestamp) -> (BTreeMap<String, u64>, Option<Duration>) {
        let told = self.0.iter().filter(|((of, _), (_, since))| of == class && elapsed(*since, now) < TOLD);
        let mut limits = BTreeMap::new();
        let mut end = None;
        for ((_, node), (bytes, since)) in told {
            limits.insert(node.clone(), *bytes);
            end = end.max(Some(TOLD.saturating_sub(elapsed(*since, now))));
        }
        (limits, end)
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q5_a_node_is_told_as_too_small_for_a_moment() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let crowded = |bytes| Crowded { class: "fast".into(), node: "n1".into(), bytes };
        let limit = |bytes| [("n1".to_owned(), bytes)].into();
        let mut crowding = Crowding::default();
        assert_eq!(crowding.limits("fast", at(0)), (BTreeMap::new(), None));
        assert!(crowding.note(crowded(7), at(0)));
        assert!(!crowding.note(crowded(1), at(10)), "who asks again does not make it longer, or smaller");
        assert_eq!(crowding.limits("fast", at(10)), (limit(7), Some(Duration::from_secs(20))));
        assert_eq!(crowding.limits("slow", at(10)).0, BTreeMap::new());
        assert_eq!(crowding.limits("fast", at(30)), (BTreeMap::new(), None));
        assert!(!crowding.note(crowded(1), at(89)), "others have their turn");
        assert!(crowding.note(crowded(5), at(90)));
        assert_eq!(crowding.limits("fast", at(91)).0, limit(5));
    }
}
