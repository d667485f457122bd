//! The labels of Nodes by which pods find copies (E3).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::SharedPersistentVolume;
use crate::cluster;
use crate::plan::node_labels::{DataSet, changes, has};

use super::context::Context;
use super::stores::{COPY_OF, DISK};
use super::{Again, Error};

/// Reconciles the labels of a Node.
///
/// 1. Gather: the data sets with a volume on the node, from the caches.
/// 2. Decide: [`changes`].
/// 3. Apply: the labels of exactly the Node that was read.
pub(super) async fn reconcile(node: Arc<Node>, ctx: &Context) -> Result<Again, Error> {
    if !ctx.labels_nodes {
        return Ok(None);
    }
    let labels = changes(&node, &data_sets(&node.name_any(), ctx));
    if !labels.is_empty() {
        let nodes: Api<Node> = Api::all(ctx.client.clone());
        cluster::merge_seen(&nodes, &*node, json!({ "metadata": { "labels": labels } })).await?;
    }
    Ok(None)
}

fn data_sets(node: &str, ctx: &Context) -> Vec<DataSet> {
    let volumes = &ctx.stores.volumes;
    let disks = ctx.stores.disks.all();
    let here = disks.iter().filter(|disk| disk.spec.node_name == node);
    let mut originals: BTreeMap<String, Arc<SharedPersistentVolume>> = BTreeMap::new();
    for volume in here.flat_map(|disk| volumes.by(DISK, &disk.name_any())) {
        let original = match &volume.spec.copy_of {
            None => Some(volume),
            Some(of) => volumes.get(&of.name).filter(|found| found.metadata.uid.as_ref() == Some(&of.uid)),
        };
        originals.extend(original.and_then(|original| Some((original.uid()?, original))));
    }
    let sets =
        originals.into_iter().map(|(uid, original)| DataSet { original, copies: volumes.by(COPY_OF, &uid) });
    sets.filter(|set| !set.copies.is_empty()).collect()
}

/// True if the node of a copy still has the label, by the cache.
pub(super) fn is_labelled(copy: &SharedPersistentVolume, ctx: &Context) -> bool {
    let node = copy.status.as_ref().and_then(|status| ctx.stores.nodes.get(status.node_name.as_ref()?));
    copy.spec.copy_of.as_ref().zip(node).is_some_and(|(of, node)| has(&node, &of.uid))
}
