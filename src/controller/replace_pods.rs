//! Pods that are older than their ReadOnly claim, on nodes without NRI (M3, F2).

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use crate::api::{AccessMode, SharedPersistentVolume};
use crate::cluster;
use crate::plan::{refs, replace_pod};

use super::Error;
use super::context::Context;

/// Deletes the pods that the volume's node refused and that their controllers make again, if the chart's value
/// `replacePods` gives the right to do so.
///
/// 1. Gather: the bound ReadOnly claims, and each refused pod, read live.
/// 2. Decide: `plan::replace_pod`.
/// 3. Apply: the deletion of exactly the pod that was read, and an event.
pub(super) async fn reconcile(volume: &SharedPersistentVolume, ctx: &Context) -> Result<(), Error> {
    let Some(status) = volume.status.as_ref().filter(|_| ctx.replaces_pods) else { return Ok(()) };
    for refused in status.node.iter().flat_map(|node| &node.refused_readers) {
        let pods: Api<Pod> = cluster::namespaced(&ctx.client, &refused.namespace);
        let by_name = ListParams::default().fields(&format!("metadata.name={}", refused.name));
        let found = cluster::list(&pods, &by_name).await?;
        let Some(pod) = found.into_iter().find(|pod| pod.metadata.uid.as_ref() == Some(&refused.uid)) else {
            continue;
        };
        let readers = status.claims.iter().filter(|claim| {
            claim.mode == AccessMode::ReadOnly && !claim.ending && claim.namespace == refused.namespace
        });
        let claims: Vec<_> =
            readers.filter_map(|claim| ctx.stores.claims.get_in(&claim.namespace, &claim.name)).collect();
        if let Some(why) = replace_pod::replaced(volume, &refs(&claims), &pod) {
            cluster::delete_seen(&pods, &pod).await?;
            ctx.events.publish(&pod, None, true, "Replace", "Replaced", &why).await;
        }
    }
    Ok(())
}
