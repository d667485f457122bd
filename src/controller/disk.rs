//! Disks: the ledger, its sums, and the condition `Ready` (D1, D4).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::api::NodeDisk;
use crate::plan::summary::disk_status;

use super::Error;
use super::context::Context;
use super::ledger_entries::sweep;

/// 1. Gather: the disk's Node, from the cache. Entries of the ledger that do not fit are settled first.
/// 2. Decide: [`disk_status`].
/// 3. Apply: the status.
pub(super) async fn reconcile(disk: Arc<NodeDisk>, ctx: &Context) -> Result<(), Error> {
    sweep(&*disk, ctx).await?;
    let node_ready = ctx.stores.nodes.get(&disk.spec.node_name).map(|node| is_ready(&node));

    let status = disk_status(&disk, node_ready, Timestamp::now());

    ctx.commit(&Api::all(ctx.client.clone()), &*disk, &status).await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    node.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
