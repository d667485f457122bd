//! PersistentVolumeClaims of a StorageClass of ours: each gets a volume and a VolumeClaim (P1–P3, P6).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, SharedPersistentVolume, volume_for_pvc};
use crate::cluster::{self, Name};
use crate::plan::pvc_provisioner::{SELECTED_NODE, Seen, Step, asks_for_more, next};

use super::context::Context;
use super::{Again, Error};

/// The pause before a refused write is retried. The controller does not watch the namespace's permissions, whose change
/// may allow the write.
const RETRY: Duration = Duration::from_secs(60);

/// Reconciles a PersistentVolumeClaim by namespace and name.
///
/// 1. Gather: the object, its volume and its claim. An unbound object, and an object that is to grow, are read live.
/// 2. Decide: [`next`].
/// 3. Apply: one step, and the event of a refusal.
pub(super) async fn reconcile(name: Name, ctx: &Context) -> Result<Again, Error> {
    let Some(seen) = gather(&name, ctx).await? else { return Ok(None) };
    let (event, again) = match apply(next(&seen), &seen, ctx).await {
        Ok(event) => (event, None),
        // A permission is missing, or the schema of volumes refuses a field.
        Err(error) if seen.pvc.is_some() => (Some(error.refusal().ok_or(error)?), Some(RETRY)),
        Err(error) => return Err(error),
    };
    if let (Some(pvc), Some(event)) = (&seen.pvc, event) {
        ctx.events.publish(pvc, None, false, "Provision", "ProvisioningFailed", &event).await;
    }
    Ok(again)
}

async fn gather(name: &Name, ctx: &Context) -> Result<Option<Seen>, Error> {
    let stores = &ctx.stores;
    let Some((namespace, pvc)) = name.split_once('/') else { return Ok(None) };
    let Some((uid, cached)) = stores.pvcs.provisioned(name) else { return Ok(None) };
    let volume = volume_for_pvc(&uid);
    let mut seen = Seen {
        uid,
        bound: cached.bound,
        pvc: None,
        class: None,
        volume: stores.volumes.get(&volume),
        claim: stores.claims.get_in(namespace, pvc),
        reservations: vec![],
        disks: vec![],
    };
    let asks = |volume: &Arc<SharedPersistentVolume>| {
        asks_for_more(&seen.uid, cached.requested, cached.attributes_class, volume)
    };
    if !cached.bound || seen.volume.as_ref().is_some_and(asks) {
        let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, namespace);
        seen.pvc = cluster::get(&pvcs, pvc).await?;
    }
    if !cached.bound {
        let class = seen.pvc.as_ref().and_then(|pvc| pvc.spec.as_ref()?.storage_class_name.as_deref());
        seen.class = class.and_then(|class| stores.classes.get(class));
        seen.volume = cluster::get(&Api::all(ctx.client.clone()), &volume).await?.map(Arc::new);
        if seen.volume.is_none() && seen.claim.is_some() {
            // The volume is created only beside an existing claim, since the end of the claim ends the volume.
            let claims = cluster::namespaced(&ctx.client, namespace);
            seen.claim = cluster::get(&claims, pvc).await?.map(Arc::new);
        }
        (seen.reservations, seen.disks) = (stores.reservations.all(), stores.disks.all());
    }
    Ok(Some(seen))
}

/// Applies the step; returns the reason of a refusal.
async fn apply(step: Step, seen: &Seen, ctx: &Context) -> Result<Option<String>, Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    match step {
        Step::CreateClaim(claim) => {
            let namespace = claim.namespace().unwrap_or_default();
            cluster::create(&cluster::namespaced(&ctx.client, &namespace), &*claim).await?;
        }
        Step::CreateVolume(volume) => {
            cluster::create(&volumes, &*volume).await?;
        }
        Step::Grow(size) => {
            if let Some(volume) = &seen.volume {
                cluster::merge_seen(&volumes, &**volume, json!({ "spec": { "size": size } })).await?;
            }
        }
        Step::Refuse(event) => return Ok(Some(event)),
        Step::Reschedule(event, asked) => {
            if let Some((claim, volume)) = asked {
                let claims = cluster::namespaced(&ctx.client, &claim.namespace().unwrap_or_default());
                cluster::may_create(&claims, &*claim).await?;
                cluster::may_create(&volumes, &*volume).await?;
            }
            if let Some(unplaced) = &seen.volume {
                cluster::delete_seen(&volumes, &**unplaced).await?;
            }
            if let Some(pvc) = &seen.pvc {
                let pvcs = cluster::namespaced(&ctx.client, &pvc.namespace().unwrap_or_default());
                let unselect = json!({ "metadata": { "annotations": { SELECTED_NODE: null } } });
                cluster::merge_seen(&pvcs, pvc, unselect).await?;
            }
            return Ok(Some(event));
        }
        Step::Rest => {}
    }
    Ok(None)
}

/// Turns the volume that was seen into an ordinary volume, and publishes an event (P4).
pub(super) async fn release(
    volume: &SharedPersistentVolume,
    event: &str,
    ctx: &Context,
) -> Result<(), Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let labels = json!({ LABEL_PVC_UID: null, LABEL_CLAIM_NAMESPACE: null });
    cluster::merge_seen(&volumes, volume, json!({ "metadata": { "labels": labels } })).await?;
    ctx.events.publish(volume, None, true, "Release", "Retained", event).await;
    Ok(())
}
