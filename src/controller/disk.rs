//! Disks: sums of the ledger, and whether the disk can be used (D1, D4).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::api::NodeDisk;
use crate::plan::summary;

use super::context::{Context, ready};
use super::lines::with_ledger;
use super::{Error, lines};

pub(super) async fn reconcile(disk: Arc<NodeDisk>, ctx: &Context) -> Result<(), Error> {
    lines::sweep::<NodeDisk>(&disk, ctx).await?;
    let node = &disk.spec.node_name;
    let mut status = with_ledger(&disk, disk.status.clone().unwrap_or_default());
    let node_ready = ctx.stores.nodes.get(node).map(|n| is_ready(&n));
    let verdict = match disk.spec.gone {
        true => summary::disk_gone(),
        false => summary::disk_standing(&status.conditions, node, node_ready),
    };
    status.conditions = ready(&status.conditions, verdict, disk.metadata.generation);
    Ok(ctx.commit(&Api::all(ctx.client.clone()), &*disk, &status).await?)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    node.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
