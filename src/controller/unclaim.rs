//! Claims that are being deleted (C6, P4).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{SharedPersistentVolume, VolumeClaim};
use crate::cluster;
use crate::plan::debounce::DEBOUNCE;
use crate::plan::unclaim::{Seen, Step, next, unbind};
use crate::plan::{bind, persistent_volume};

use super::context::{CLAIM, Context};
use super::volume_users::counted;
use super::{Again, Error, pvc_provisioner};

/// A claim that is being deleted.
///
/// 1. Gather: the object by a live read, since the cache may have one that has just gone; its pods and its volume from the
///    caches.
/// 2. Decide: [`next`].
/// 3. Apply: one read or write, and another decision with the outcome.
pub(super) async fn reconcile(
    api: &Api<VolumeClaim>,
    claim: &VolumeClaim,
    ctx: &Context,
) -> Result<Again, Error> {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let pvs: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
    let mut seen = gather(api, claim, ctx).await?;
    loop {
        match next(claim, &seen) {
            Step::LookAtPvc => seen.pvc = Some(cluster::get(&pvcs, &name).await?),
            Step::LookForUsers => {
                let claims = [(namespace.clone(), name.clone())].into();
                seen.live_users = Some(ctx.users_by_quorum(&claims).await?);
            }
            Step::LookAtVolume => {
                let volume = claim.spec.volume.as_deref().unwrap_or_default();
                let volume = cluster::get(&volumes, volume).await?;
                seen.own = Some((volume, cluster::get(&pvs, &persistent_volume::name(claim)).await?));
            }
            Step::LookForVolume => {
                let all = cluster::list(&volumes, &ListParams::default()).await?;
                let bound = all.iter().find(|v| bind::is_bound(v, claim));
                seen.live_volume = Some(bound.map(ResourceExt::name_any));
            }
            Step::Retire => {
                if let Some((Some(volume), _)) = seen.own.replace((None, None)) {
                    let retire = json!({ "spec": { "retire": true } });
                    cluster::merge_seen(&volumes, &volume, retire).await?;
                }
            }
            Step::Release(event) => {
                if let Some((Some(volume), _)) = seen.own.replace((None, None)) {
                    pvc_provisioner::release(&volume, &event, ctx).await?;
                }
            }
            Step::DeletePvc => {
                let uid = seen.pvc.as_ref().and_then(|pvc| pvc.as_ref()?.uid());
                cluster::delete(&pvcs, &name, uid).await?;
                seen.deleted = true;
            }
            Step::Report(status) => {
                ctx.commit(api, claim, &status).await?;
                return Ok(None);
            }
            Step::Debounce => return Ok(Some(DEBOUNCE)),
            Step::End(volume) => {
                cluster::delete(&pvs, &persistent_volume::name(claim), None).await?;
                if let Some(volume) = volume {
                    let leave = |volume: &SharedPersistentVolume| {
                        Ok::<_, ()>(Some(counted(unbind(claim, volume), ctx)))
                    };
                    let _ = ctx.commits.volumes.update(&volumes, &volume, leave).await?;
                }
                cluster::set_finalizer(api, claim, false).await?;
                return Ok(None);
            }
            Step::Rest => return Ok(None),
        }
    }
}

async fn gather(api: &Api<VolumeClaim>, claim: &VolumeClaim, ctx: &Context) -> Result<Seen, Error> {
    let now = cluster::get_same(api, claim).await?;
    let listed = ctx.stores.volumes.by(CLAIM, &bind::binding(claim).to_string());
    Ok(Seen {
        guarded: now.is_some_and(|now| cluster::finalizer_present(&now)),
        users: ctx.stores.pods.users(&claim.namespace().unwrap_or_default(), &claim.name_any()),
        volume: listed.iter().find(|v| bind::is_bound(v, claim)).map(|v| v.name_any()),
        now: Timestamp::now(),
        pvc: None,
        deleted: false,
        live_users: None,
        own: None,
        live_volume: None,
    })
}
