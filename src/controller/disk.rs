//! Disks: the ledger, its sums, and the condition `Ready` (D1, D4).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::NodeDisk;
use crate::cluster;
use crate::plan::disk_identity::answer;
use crate::plan::summary::{DiskSeen, Step, next_for_disk};

use super::context::Context;
use super::ledger_entries::{owners, settle};
use super::{Again, Error};

/// Reconciles a disk.
///
/// 1. Gather: the disk's Node, its agent and the reservations in its ledger, from the caches. A request to take the disk over is
///    answered first, and the disk reported all the same: requests may come without end.
/// 2. Decide: [`next_for_disk`].
/// 3. Apply: the status; or settle entries, and decide again.
pub(super) async fn reconcile(disk: Arc<NodeDisk>, ctx: &Context) -> Result<Again, Error> {
    let disk = match disk.spec.take_over {
        Some(_) => match answer_request(&disk.name_any(), ctx).await? {
            Some(answered) => Arc::new(answered),
            None => return Ok(None),
        },
        None => disk,
    };
    let node = &disk.spec.node_name;
    let (found, now) = (ctx.stores.nodes.get(node), (ctx.now)());
    let silent_after = ctx.silence().note(node, found.is_none() || ctx.stores.has_agent(node), now);
    let again = silent_after.filter(|left| !left.is_zero());
    let mut seen = DiskSeen {
        owners: owners(&*disk, ctx),
        node_ready: found.map(|node| is_ready(&node)),
        silent: silent_after.is_some() && again.is_none(),
        settled: false,
        now,
        disk,
    };
    loop {
        match next_for_disk(&seen) {
            Step::Report(status) => {
                ctx.commit(&Api::all(ctx.client.clone()), &*seen.disk, &status).await?;
                return Ok(again);
            }
            Step::Settle(entries) => {
                let Some(now) = settle(&seen.disk.name_any(), &entries, ctx).await? else { return Ok(None) };
                (seen.disk, seen.settled) = (Arc::new(now), true);
            }
        }
    }
}

/// Answers a request to take over the NodeDisk.
///
/// 1. Gather: the NodeDisk and its Node, live.
/// 2. Decide: [`answer`].
/// 3. Apply: move the NodeDisk to the other node, or remove the request. Returns the NodeDisk as it was written.
async fn answer_request(name: &str, ctx: &Context) -> Result<Option<NodeDisk>, Error> {
    let (api, nodes): (Api<NodeDisk>, Api<Node>) =
        (Api::all(ctx.client.clone()), Api::all(ctx.client.clone()));
    let Some(disk) = cluster::get(&api, name).await? else { return Ok(None) };
    let Some(request) = &disk.spec.take_over else { return Ok(Some(disk)) };
    let old = ListParams::default().fields(&format!("metadata.name={}", disk.spec.node_name));
    let is_there = !cluster::list_metadata(&nodes, &old).await?.is_empty();

    let (fields, refused) = answer(&disk, request, is_there);

    if let Some(why) = refused {
        tracing::warn!(
            node_disk = name,
            node = request.node_name,
            why,
            "refused to move a disk to another node"
        );
    }
    cluster::merge_seen(&api, &disk, fields).await
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    node.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
