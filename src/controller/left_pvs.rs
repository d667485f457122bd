//! PersistentVolumes that nothing removes any more (C6).

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::{LABEL_MANAGED_BY, MANAGED_BY, SharedPersistentVolume, VolumeClaim};
use crate::cluster;
use crate::plan::persistent_volume::{claim_of, is_held_by, is_left, left_event};
use crate::telemetry;

use super::Error;
use super::context::Context;

const PAUSE: Duration = Duration::from_secs(600);

/// Looks again and again.
pub(super) async fn remove_repeatedly(ctx: &Context) {
    loop {
        if let Err(error) = remove(ctx).await {
            let error = telemetry::chain(&error);
            tracing::warn!(error, "failed to look for PersistentVolumes without a claim");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Removes what is left.
///
/// 1. Gather: the PersistentVolumes whose claim no cache has; then claim, volume and PersistentVolumeClaim of each, live.
/// 2. Decide: [`is_left`].
/// 3. Apply: the deletion. Kubernetes keeps a PersistentVolume for as long as its PersistentVolumeClaim is there, so the
///    PersistentVolumeClaim has an event.
async fn remove(ctx: &Context) -> Result<(), Error> {
    let pvs: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let ours = ListParams::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let listed = cluster::list_metadata(&pvs, &ours).await?;
    let mut known: HashSet<String> = ctx.stores.claims.all().iter().filter_map(|c| c.uid()).collect();
    for volume in ctx.stores.volumes.all() {
        known.extend(volume.status.iter().flat_map(|s| &s.claims).map(|binding| binding.uid.clone()));
    }
    let suspects = listed.iter().filter(|pv| pv.metadata.deletion_timestamp.is_none());
    for pv in suspects.filter(|pv| claim_of(*pv).is_some_and(|uid| !known.contains(uid))) {
        let Some(pv) = cluster::get(&pvs, &pv.name_any()).await? else { continue };
        let spec = pv.spec.clone().unwrap_or_default();
        let (of, csi) = (spec.claim_ref.unwrap_or_default(), spec.csi.unwrap_or_default());
        let namespace = of.namespace.unwrap_or_default();
        let claims: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
        let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
        let (claim, pvc) = match of.name {
            Some(name) => (cluster::get(&claims, &name).await?, cluster::get(&pvcs, &name).await?),
            None => (None, None),
        };
        let volume = match csi.volume_attributes.and_then(|mut attributes| attributes.remove("volume")) {
            Some(name) => cluster::get(&volumes, &name).await?,
            None => None,
        };
        if is_left(&pv, claim.as_ref(), volume.as_ref()) {
            let persistent_volume = pv.name_any();
            tracing::info!(persistent_volume, "deleted a PersistentVolume whose claim is gone");
            cluster::delete(&pvs, &persistent_volume, pv.uid()).await?;
            if let Some(pvc) = pvc.filter(|pvc| is_held_by(&pv, pvc)) {
                let event = left_event(&pv, volume.as_ref());
                ctx.events.publish(&pvc, None, false, "Bind", "PersistentVolumeLeft", &event).await;
            }
        }
    }
    Ok(())
}
