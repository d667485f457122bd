//! The labels of Nodes by which pods find a copy of their data set (E3).
//!
//! `copies.reservoir.dev/<UID of the original>: ready` is on each node with a complete copy that can be used, and `away` on the
//! original's own node while the original cannot be used and a copy can. The PersistentVolumes of the original's claims lead
//! to the original's node and to the label. A label places pods and promises nothing: a node mounts what its own record
//! has. A label that goes moves no pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::api::SharedPersistentVolume;

/// The prefix of the labels.
pub const PREFIX: &str = "copies.reservoir.dev/";
/// The value on a node with a complete copy.
pub const READY: &str = "ready";
/// The value on the node of an original that cannot be used, while a copy can.
pub const AWAY: &str = "away";

/// The most such labels of a Node (A8): every kubelet and every scheduler has all Nodes in memory.
pub const MOST: usize = 500;

/// The label of a volume with that UID.
pub fn key(uid: &str) -> String {
    format!("{PREFIX}{uid}")
}

/// A volume and its copies, from the caches.
#[derive(Debug)]
pub struct DataSet {
    /// The original.
    pub original: Arc<SharedPersistentVolume>,
    /// All its copies.
    pub copies: Vec<Arc<SharedPersistentVolume>>,
}

impl DataSet {
    /// The value of its label on a node.
    fn value(&self, node: &str) -> Option<&'static str> {
        let is_here = |volume: &SharedPersistentVolume| {
            volume.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(node)
        };
        let ready = self.copies.iter().filter(|copy| serves_new_pods(copy)).collect::<Vec<_>>();
        if ready.iter().any(|copy| is_here(copy)) {
            return Some(READY);
        }
        let is_away = is_here(&self.original) && !self.original.is_ready() && !ready.is_empty();
        is_away.then_some(AWAY)
    }
}

/// True for a copy with the content of its original.
pub fn is_complete(copy: &SharedPersistentVolume) -> bool {
    let has = copy.status.as_ref().and_then(|status| status.digest.as_ref());
    has.is_some() && has == copy.spec.copy_of.as_ref().map(|of| &of.digest)
}

/// True for a complete copy that can be used, and that nobody is about to take away: a copy that ends loses its label first.
pub fn serves_new_pods(copy: &SharedPersistentVolume) -> bool {
    is_complete(copy) && copy.is_ready() && !copy.is_ending()
}

/// True if a Node has the label of the volume with that UID.
pub fn has(node: &Node, uid: &str) -> bool {
    node.labels().contains_key(&key(uid))
}

/// True if no more copies fit on a Node.
pub fn is_full(node: &Node) -> bool {
    node.labels().keys().filter(|key| key.starts_with(PREFIX)).count() >= MOST
}

/// The changes of the Node's labels; `None` stands for a label that goes. `sets` has each data set with a volume on the node.
pub fn changes(node: &Node, sets: &[DataSet]) -> BTreeMap<String, Option<&'static str>> {
    let name = node.name_any();
    let of = |set: &DataSet| Some((key(&set.original.uid()?), set.value(&name)?));
    let mut wanted: Vec<(String, &str)> = sets.iter().filter_map(of).collect();
    // Those that are there stay, so that a full Node is not written again and again.
    wanted.sort_by_key(|(key, _)| (!node.labels().contains_key(key), key.clone()));
    wanted.truncate(MOST);
    let wanted: BTreeMap<String, &str> = wanted.into_iter().collect();
    let there = node.labels().iter().filter(|(key, _)| key.starts_with(PREFIX));
    let gone = there.filter(|(key, _)| !wanted.contains_key(*key)).map(|(key, _)| (key.clone(), None));
    let new =
        wanted.iter().filter(|(key, value)| node.labels().get(*key).map(String::as_str) != Some(**value));
    let new = new.map(|(key, value)| (key.clone(), Some(*value)));
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CopyOf;
    use crate::plan::testing::{ready_volume, set_ready, some_time};

    fn node(name: &str, labels: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        node.metadata.labels = Some(labels.collect());
        node
    }

    fn copy(on: &str) -> SharedPersistentVolume {
        let mut copy = ready_volume(&format!("v-{on}"), "eng", true);
        let digest = "blake3:00".to_owned();
        copy.spec.copy_of =
            Some(CopyOf { uid: "uid-v".into(), digest: digest.clone(), ..Default::default() });
        let status = copy.status.as_mut().unwrap();
        (status.node_name, status.digest) = (Some(on.into()), Some(digest));
        copy
    }

    fn set(copies: Vec<SharedPersistentVolume>) -> DataSet {
        let original = Arc::new(ready_volume("v", "eng", true));
        DataSet { original, copies: copies.into_iter().map(Arc::new).collect() }
    }

    const LABEL: &str = "copies.reservoir.dev/uid-v";

    #[test]
    fn e3_a_node_has_the_label_while_its_copy_can_be_used() {
        let ready = BTreeMap::from([(LABEL.to_owned(), Some(READY))]);
        let gone = BTreeMap::from([(LABEL.to_owned(), None)]);
        let (bare, labelled) = (node("n2", &[("a", "b")]), node("n2", &[("a", "b"), (LABEL, READY)]));
        assert_eq!(changes(&bare, &[set(vec![copy("n2"), copy("n3")])]), ready);
        assert_eq!(changes(&labelled, &[set(vec![copy("n2")])]), BTreeMap::new());
        assert_eq!(changes(&bare, &[set(vec![copy("n3")])]), BTreeMap::new(), "of another node");
        assert_eq!(changes(&labelled, &[]), gone, "the volume is gone");
        for change in [
            (|v| set_ready(&mut v.status.as_mut().unwrap().conditions, false))
                as fn(&mut SharedPersistentVolume),
            |v| v.status.as_mut().unwrap().digest = None,
            |v| v.spec.retire = true,
            |v| v.metadata.deletion_timestamp = some_time(),
        ] {
            let mut copy = copy("n2");
            change(&mut copy);
            assert!(!serves_new_pods(&copy));
            assert_eq!(changes(&labelled, &[set(vec![copy])]), gone);
        }
        let forged = node("n2", &[(LABEL, "no")]);
        assert_eq!(changes(&forged, &[set(vec![copy("n2")])]), ready);
    }

    #[test]
    fn e3_pods_leave_out_an_original_that_cannot_be_used() {
        let away = BTreeMap::from([(LABEL.to_owned(), Some(AWAY))]);
        let (own, marked) = (node("n1", &[]), node("n1", &[(LABEL, AWAY)]));
        let mut lost = set(vec![copy("n2")]);
        set_ready(&mut Arc::make_mut(&mut lost.original).status.as_mut().unwrap().conditions, false);
        assert_eq!(changes(&own, &[lost]), away);
        let mut alone = set(vec![]);
        set_ready(&mut Arc::make_mut(&mut alone.original).status.as_mut().unwrap().conditions, false);
        assert_eq!(changes(&own, &[alone]), BTreeMap::new(), "there is no better place");
        let back = BTreeMap::from([(LABEL.to_owned(), None)]);
        assert_eq!(changes(&marked, &[set(vec![copy("n2")])]), back);
    }

    #[test]
    fn a8_a_node_has_so_many_labels_at_most() {
        let of = |n: usize| {
            let mut set = set(vec![copy("n2")]);
            Arc::make_mut(&mut set.original).metadata.uid = Some(format!("uid-{n:04}"));
            set
        };
        let sets: Vec<DataSet> = (0..MOST + 2).map(of).collect();
        let last = key("uid-0501");
        let node = node("n2", &[(&last, READY)]);
        let new = changes(&node, &sets);
        assert_eq!(new.len(), MOST - 1);
        let mut full = node;
        full.metadata
            .labels
            .as_mut()
            .unwrap()
            .extend(new.into_iter().map(|(key, v)| (key, v.unwrap().into())));
        assert_eq!(changes(&full, &sets), BTreeMap::new(), "nothing is written again");
        assert!(is_full(&full) && has(&full, "uid-0501") && !has(&full, "uid-0500"));
    }
}
