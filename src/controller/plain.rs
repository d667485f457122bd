//! Plain PersistentVolumeClaims: a volume and a claim for each, when Kubernetes says that it is time (P1–P3, P6).
//!
//! Everything is named after the PersistentVolumeClaim, so whoever is interrupted does the same again. The claim comes
//! first: with it the volume always has somebody who sees to its end.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;

use crate::api::condition::{self, READY, reason};
use crate::api::{SharedPersistentVolume, VolumeClaim, volume_for_pvc};
use crate::cluster::{self, Name};
use crate::plan::plain::{self, SELECTED_NODE};

use super::context::{Context, refs};
use super::{Again, Error};

/// After what time something is tried again that nobody tells us of when it changes: rights.
const RETRY: Duration = Duration::from_secs(60);

pub(super) async fn reconcile(name: Name, ctx: &Context) -> Result<Again, Error> {
    let Some((uid, seen)) = ctx.stores.pvcs.provisioned(&name) else { return Ok(None) };
    let made = ctx.stores.volumes.get(&volume_for_pvc(&uid));
    if seen.bound {
        if let Some(volume) = made.filter(|volume| plain::pvc_of(&**volume) == Some(&uid))
            && let Some(size) = plain::grown(seen.requested, &volume)
        {
            let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
            cluster::merge_seen(&volumes, &*volume, json!({ "spec": { "size": size } })).await?;
        }
        return Ok(None);
    }
    let Some((namespace, pvc_name)) = name.split_once('/') else { return Ok(None) };
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, namespace);
    let pvc = cluster::get(&pvcs, pvc_name).await?.filter(|pvc| pvc.metadata.deletion_timestamp.is_none());
    let Some(pvc) = pvc.filter(|pvc| pvc.uid().as_ref() == Some(&uid)) else { return Ok(None) };
    let class =
        pvc.spec.as_ref().and_then(|spec| ctx.stores.classes.get(spec.storage_class_name.as_deref()?));
    let Some(class) = class.filter(|class| plain::is_ours(class)) else { return Ok(None) };
    let (said, again) = match provision(&pvcs, &pvc, &class, ctx).await {
        Ok(Ok(())) => return Ok(None),
        Ok(Err(said)) => (said, None),
        // A grant that is missing, or something that the schema of a volume does not take.
        Err(Error::Cluster(error)) if error.refusal().is_some() => {
            (error.refusal().unwrap_or_default(), Some(RETRY))
        }
        Err(error) => return Err(error),
    };
    ctx.events.publish(&pvc, None, false, "Provision", "ProvisioningFailed", &said).await;
    Ok(again)
}

/// Has the claim and the volume there; why they cannot be.
async fn provision(
    pvcs: &Api<PersistentVolumeClaim>,
    pvc: &PersistentVolumeClaim,
    class: &StorageClass,
    ctx: &Context,
) -> Result<Result<(), String>, Error> {
    let mut wanted = match plain::volume(pvc, class) {
        Ok(wanted) => wanted,
        Err(said) => return Ok(Err(said)),
    };
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let selected = pvc.annotations().get(SELECTED_NODE).filter(|_| plain::is_delayed(class));
    if selected.is_none() && plain::is_delayed(class) {
        return Ok(Ok(()));
    }
    let namespace = pvc.namespace().unwrap_or_default();
    let cached = ctx.stores.claims.get_in(&namespace, &pvc.name_any());
    if let Some(said) = cached.and_then(|claim| plain::in_the_way(&claim, pvc)) {
        return Ok(Err(said));
    }
    let name = wanted.name_any();
    if let Some(there) = cluster::get(&volumes, &name).await? {
        if plain::pvc_of(&there) != plain::pvc_of(&wanted) {
            return Ok(Err(format!(
                "SharedPersistentVolume {name} was made by somebody else and is in the way: delete it"
            )));
        }
        let status = there.status.clone().unwrap_or_default();
        let ready = condition::get(&status.conditions, READY).filter(|c| c.reason != reason::CREATING);
        let placed = status.reservation.is_some() || there.metadata.deletion_timestamp.is_some();
        return Ok(match (selected, ready) {
            _ if placed => Ok(()),
            (_, None) => Ok(()),
            // It waits for room like any other volume.
            (None, Some(why)) => Err(why.message.clone()),
            // Somebody was faster. It never had a byte, and goes if that is so still.
            (Some(_), Some(why)) => {
                cluster::delete_seen(&volumes, &there).await?;
                reschedule(pvcs, pvc).await?;
                Err(format!("another node is looked for: {}", why.message))
            }
        });
    }
    if let Some(node) = selected {
        let (reservations, disks) = (ctx.stores.reservations.all(), ctx.stores.disks.all());
        let ready = |disk: &str| ctx.stores.disk_ready(disk);
        let Some(home) = plain::place(&wanted, node, &refs(&reservations), &refs(&disks), ready) else {
            reschedule(pvcs, pvc).await?;
            return Ok(Err(format!(
                "no reservation for role {} on node {node} has {} left, another node is looked for: reserve more for the role",
                wanted.spec.role, wanted.spec.size
            )));
        };
        wanted.spec.reservation = Some(home);
    }
    let claims: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
    let made = cluster::create(&claims, &plain::claim(pvc, &wanted)).await?;
    let claim = match made {
        Some(made) => Some(made),
        None => cluster::get(&claims, &pvc.name_any()).await?,
    };
    // One that has gone in between has us told.
    let Some(claim) = claim else { return Ok(Ok(())) };
    if let Some(said) = plain::in_the_way(&claim, pvc) {
        return Ok(Err(said));
    }
    cluster::create(&volumes, &wanted).await?;
    Ok(Ok(()))
}

/// Has the scheduler look for another node.
async fn reschedule(pvcs: &Api<PersistentVolumeClaim>, pvc: &PersistentVolumeClaim) -> Result<(), Error> {
    let fields = json!({ "metadata": { "annotations": { SELECTED_NODE: null } } });
    Ok(cluster::merge_seen(pvcs, pvc, fields).await?)
}
