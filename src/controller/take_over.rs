//! VolumeClaims that an earlier version made for PersistentVolumeClaims of a StorageClass, which are their own claims now (P1).

use std::sync::Arc;

use kube::{Api, ResourceExt};

use crate::api::{SharedPersistentVolume, VolumeClaim};
use crate::cluster;
use crate::plan::own_pvc;

use super::context::Context;
use super::{Again, Error};

/// Hands the binding of the VolumeClaim over to its PersistentVolumeClaim, by one compare-and-swap on the volume, and removes the
/// VolumeClaim after that. Each step is repeated until it is done: pods write meanwhile, and the list never lacks the entry.
pub(super) async fn reconcile(
    api: &Api<VolumeClaim>,
    claim: &Arc<VolumeClaim>,
    ctx: &Context,
) -> Result<Again, Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    if let Some(name) = &claim.spec.volume {
        let take_over = |volume: &SharedPersistentVolume| Ok::<_, ()>(own_pvc::taken_over(claim, volume));
        let _ = ctx.batchers.volumes.update(&volumes, name, take_over).await?;
    }
    match claim.metadata.deletion_timestamp {
        None => cluster::delete(api, &claim.name_any(), claim.uid()).await?,
        Some(_) => cluster::set_finalizer(api, &**claim, false).await?,
    }
    Ok(None)
}
