//! PersistentVolumeClaims of a StorageClass of ours: a volume and a VolumeClaim for each (P1–P3, P6).

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use serde_json::json;

use crate::api::{LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, SharedPersistentVolume, VolumeClaim, volume_for_pvc};
use crate::cluster::{self, Name};
use crate::plan::pvc_provisioner::{Live, SELECTED_NODE, Seen, Step, next};

use super::context::Context;
use super::{Again, Error};

/// After this time a refused creation is attempted again: no watch has the rights of namespaces.
const RETRY: Duration = Duration::from_secs(60);

/// A PersistentVolumeClaim by namespace and name.
///
/// 1. Gather: itself, its volume and its claim from the caches.
/// 2. Decide: [`next`].
/// 3. Apply: one read or write. Most steps are followed by another decision, with what was read or written.
pub(super) async fn reconcile(name: Name, ctx: &Context) -> Result<Again, Error> {
    let Some((namespace, name)) = name.split_once('/') else { return Ok(None) };
    let Some(mut seen) = gather(namespace, name, ctx) else { return Ok(None) };
    let (event, again) = match provision(namespace, name, &mut seen, ctx).await {
        Ok(Some(event)) => (event, None),
        Ok(None) => return Ok(None),
        // A grant is missing, or the schema of volumes refuses a field.
        Err(Error::Cluster(error)) => match error.refusal() {
            Some(event) => (event, Some(RETRY)),
            None => return Err(error.into()),
        },
    };
    if let Some(Some((pvc, _))) = &seen.live.pvc {
        ctx.events.publish(pvc, None, false, "Provision", "ProvisioningFailed", &event).await;
    }
    Ok(again)
}

fn gather(namespace: &str, name: &str, ctx: &Context) -> Option<Seen> {
    let stores = &ctx.stores;
    let (uid, pvc) = stores.pvcs.plain(&cluster::name_of(namespace, name))?;
    Some(Seen {
        bound: pvc.bound,
        requested: pvc.requested,
        made: stores.volumes.get(&volume_for_pvc(&uid)),
        claim: stores.claims.get_in(namespace, name),
        // A bound one has its volume, and there are many.
        reservations: if pvc.bound { vec![] } else { stores.reservations.all() },
        disks: if pvc.bound { vec![] } else { stores.disks.all() },
        live: Live::default(),
        uid,
    })
}

/// Takes steps until there is nothing to do, or the reason of a refusal to publish.
async fn provision(
    namespace: &str,
    name: &str,
    seen: &mut Seen,
    ctx: &Context,
) -> Result<Option<String>, Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let claims: Api<VolumeClaim> = cluster::namespaced(&ctx.client, namespace);
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, namespace);
    loop {
        match next(seen) {
            Step::LookAtPvc => {
                let pvc = cluster::get(&pvcs, name).await?;
                seen.live.pvc = Some(pvc.and_then(|pvc| {
                    let class = pvc.spec.as_ref()?.storage_class_name.as_deref()?;
                    let class = ctx.stores.classes.get(class)?;
                    Some((pvc, class))
                }));
            }
            Step::LookAtVolume(name) => seen.live.volume = Some(cluster::get(&volumes, &name).await?),
            Step::CreateClaim(claim) => {
                seen.live.claim = Some(match cluster::create(&claims, &*claim).await? {
                    Some(made) => Some(made),
                    None => cluster::get(&claims, name).await?,
                });
            }
            Step::CreateVolume(volume) => {
                return Ok(cluster::create(&volumes, &*volume).await.map(|_| None)?);
            }
            Step::Grow(size) => {
                if let Some(made) = &seen.made {
                    cluster::merge_seen(&volumes, &**made, json!({ "spec": { "size": size } })).await?;
                }
                return Ok(None);
            }
            Step::Refuse(event) => return Ok(Some(event)),
            Step::Reschedule(event) => {
                if let Some(Some(unplaced)) = &seen.live.volume {
                    cluster::delete_seen(&volumes, unplaced).await?;
                }
                if let Some(Some((pvc, _))) = &seen.live.pvc {
                    let unselect = json!({ "metadata": { "annotations": { SELECTED_NODE: null } } });
                    cluster::merge_seen(&pvcs, pvc, unselect).await?;
                }
                return Ok(Some(event));
            }
            Step::Rest => return Ok(None),
        }
    }
}

/// Makes the very volume that was seen one like any other, and publishes that (P4).
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
