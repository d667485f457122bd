//! Disks: the ledger, its sums, and the condition `Ready` (D1, D4); the end of a disk that goes with its node (D7).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{NodeDisk, PodRef};
use crate::cluster;
use crate::plan::disk_identity::answer;
use crate::plan::summary::{DiskSeen, Step, next_for_disk};
use crate::plan::{node_lifetime, startup_taint};

use super::context::Context;
use super::ledger_entries::{owners, settle};
use super::stores::DISK;
use super::{Again, Error, sooner};

/// Reconciles a disk.
///
/// 1. Gather: the disk's Node, its agent and the reservations in its ledger, from the caches. A request to take the disk over is
///    answered first, and the disk reported all the same: requests may come without end.
/// 2. Decide: [`node_lifetime::next`], and [`next_for_disk`].
/// 3. Apply: declare the disk gone, or delete a placeholder; or the status, and take the startup taint off the node; or settle
///    entries, and decide again. A NodeDisk that has gone with its node is deleted once nothing is reserved on it.
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
    let silent_again = silent_after.filter(|left| !left.is_zero());
    let missing = is_missing(&disk, found.as_deref(), ctx).await?;
    let api: Api<NodeDisk> = Api::all(ctx.client.clone());
    let again = match node_lifetime::next(&disk, missing, now) {
        node_lifetime::Step::GiveUp => {
            return cluster::merge_seen(&api, &*disk, json!({"spec": {"gone": true}})).await.map(|_| None);
        }
        node_lifetime::Step::Delete => return cluster::delete_seen(&api, &*disk).await.map(|()| None),
        node_lifetime::Step::LookAgain(left) => sooner(silent_again, left),
        node_lifetime::Step::Rest => silent_again,
    };
    if node_lifetime::may_be_deleted(&disk) {
        return cluster::delete_seen(&api, &*disk).await.map(|()| None);
    }
    let mut seen = DiskSeen {
        owners: owners(&*disk, ctx),
        node_ready: found.as_deref().map(is_ready),
        cordoned: found.as_deref().is_some_and(is_cordoned),
        silent: silent_after.is_some() && silent_again.is_none(),
        missing,
        users: users(&disk, ctx),
        settled: false,
        now,
        disk,
    };
    loop {
        match next_for_disk(&seen) {
            Step::Report(status) => {
                ctx.commit(&api, &*seen.disk, &status).await?;
                return untaint(found.as_deref(), ctx).await.map(|()| again);
            }
            Step::Settle(entries) => {
                let Some(now) = settle(&seen.disk.name_any(), &entries, ctx).await? else { return Ok(None) };
                (seen.disk, seen.settled) = (Arc::new(now), true);
            }
        }
    }
}

/// The pods that use volumes of a disk that was declared gone.
fn users(disk: &NodeDisk, ctx: &Context) -> Vec<PodRef> {
    let volumes = if disk.spec.gone { ctx.stores.volumes.by(DISK, &disk.name_any()) } else { vec![] };
    let users: BTreeSet<PodRef> =
        volumes.iter().flat_map(|volume| &volume.status).flat_map(|status| status.users.clone()).collect();
    users.into_iter().collect()
}

/// Takes the startup taint off a node whose agent serves, after all that concerns the disk itself (F7).
async fn untaint(node: Option<&Node>, ctx: &Context) -> Result<(), Error> {
    let Some(node) = node.filter(|_| ctx.untaints_nodes) else { return Ok(()) };
    if let Some(taints) = startup_taint::remaining(node, ctx.stores.has_agent(&node.name_any())) {
        let nodes: Api<Node> = Api::all(ctx.client.clone());
        cluster::merge_seen(&nodes, node, json!({ "spec": { "taints": taints } })).await?;
    }
    Ok(())
}

/// Answers a request to take over the NodeDisk.
///
/// 1. Gather: the NodeDisk and its Node, live.
/// 2. Decide: [`answer`].
/// 3. Apply: move the NodeDisk to the other node, or remove the request. Returns the NodeDisk as it was written.
async fn answer_request(name: &str, ctx: &Context) -> Result<Option<NodeDisk>, Error> {
    let api: Api<NodeDisk> = Api::all(ctx.client.clone());
    let Some(disk) = cluster::get(&api, name).await? else { return Ok(None) };
    let Some(request) = &disk.spec.take_over else { return Ok(Some(disk)) };
    let is_there = live_node_uid(&disk.spec.node_name, ctx).await?.is_some();

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

/// True if the Node of a disk that goes with it is missing: by the cache, and then by a live read.
async fn is_missing(disk: &NodeDisk, cached: Option<&Node>, ctx: &Context) -> Result<bool, Error> {
    if !node_lifetime::is_missing(disk, cached.and_then(|node| node.metadata.uid.as_deref())) {
        return Ok(false);
    }
    let uid = live_node_uid(&disk.spec.node_name, ctx).await?;
    Ok(node_lifetime::is_missing(disk, uid.as_deref()))
}

/// The UID of the Node of that name, by a live read.
async fn live_node_uid(name: &str, ctx: &Context) -> Result<Option<String>, Error> {
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    let of_name = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(cluster::list_metadata(&nodes, &of_name).await?.first().and_then(ResourceExt::uid))
}

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    node.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
