//! Claims: ACCEPT, and the PersistentVolume and PersistentVolumeClaim of a bound claim (C1–C5).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{RoleSubscription, SharedPersistentVolume, VolumeClaim};
use crate::cluster;
use crate::plan::candidate::is_cordoned;
use crate::plan::claim::{Offers, Seen, Step, has, next, volume_gone};
use crate::plan::debounce::DEBOUNCE;
use crate::plan::own_pvc::pvc_of;
use crate::plan::{bind, node_lifetime, persistent_volume, pv_binding, refs};

use super::context::Context;
use super::stores::{CLAIM, LEFT, QUEUE, queue_of};
use super::volume_users::counted;
use super::{Again, Error, take_over, unclaim};

/// Reconciles a claim that is not being deleted. [`unclaim::reconcile`] is for the others, and [`take_over::reconcile`] for claims
/// that an earlier version made for PersistentVolumeClaims.
///
/// 1. Gather: its volume, or the offers; its PersistentVolumeClaim, read live if the cache has none.
/// 2. Decide: [`next`].
/// 3. Apply: one step. Every step before the last is followed by another decision.
pub(super) async fn reconcile(claim: Arc<VolumeClaim>, ctx: &Context) -> Result<Again, Error> {
    let namespace = claim.namespace().unwrap_or_default();
    let api: Api<VolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
    if pvc_of(&*claim).is_some() {
        return take_over::reconcile(&api, &claim, ctx).await;
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return unclaim::reconcile(&api, &claim, ctx).await;
    }
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, &namespace);
    let mut seen = gather(&claim, &pvcs, ctx).await?;
    let mut failed = None;
    loop {
        match next(&claim, &seen) {
            Step::Guard => cluster::set_finalizer(&api, &*claim, true).await?,
            Step::Note(status) => ctx.commit(&api, &*claim, &status).await?,
            Step::Bind(name) => {
                let decide = |volume: &SharedPersistentVolume| {
                    seen.offers.bind(&claim, volume).map(|status| Some(counted(volume, status, ctx)))
                };
                match ctx.batchers.volumes.update(&volumes, &name, decide).await? {
                    Some(Ok(())) => return Ok(None),
                    Some(Err(why)) => seen.refused = Some(why),
                    None => seen.refused = Some(volume_gone(&name)),
                }
                continue;
            }
            Step::Binding(step, volume) => {
                let applied = apply_binding(&step, &claim, &volume, &pvcs, &mut seen.binding, ctx).await;
                if let Err(error) = applied {
                    let words = error.refusal().ok_or_else(|| error.clone())?;
                    seen.binding.waits = pv_binding::refused(&step, &claim, &words);
                    failed = Some(error);
                }
                continue;
            }
            Step::Report(status, again) => {
                ctx.commit(&api, &*claim, &status).await?;
                // The work queue repeats a failure with growing pauses.
                return failed.map_or(Ok(again), Err);
            }
            Step::Debounce => return Ok(Some(DEBOUNCE)),
        }
        return Ok(None);
    }
}

async fn gather(
    claim: &VolumeClaim,
    pvcs: &Api<PersistentVolumeClaim>,
    ctx: &Context,
) -> Result<Seen, Error> {
    let volume = volume(claim, ctx).await?;
    let bound = volume.as_ref().filter(|volume| has(volume, claim));
    let (keeping, lost_on) = match (bound, claim.spec.volume.as_deref().unwrap_or_default()) {
        (Some(_), _) => Default::default(),
        (None, name) => {
            let keeping = ctx.stores.reservations.by(LEFT, name);
            let mut disks = ctx.stores.disks.by(LEFT, name);
            let on = keeping.iter().filter_map(|r| r.status.as_ref()?.node_disk.as_deref());
            let on: BTreeSet<&str> =
                on.filter(|on| disks.iter().all(|disk| disk.name_any() != *on)).collect();
            disks.extend(on.into_iter().filter_map(|on| ctx.stores.disks.get(on)));
            (keeping, disks)
        }
    };
    let heirs = match keeping.is_empty() && lost_on.is_empty() {
        true => vec![],
        false => ctx.stores.volumes_for(&claim.spec.role),
    };
    let mut binding = pv_binding::Seen { cached: cached_pvc(claim, ctx), ..Default::default() };
    let is_made = bound.is_some_and(|volume| {
        pv_binding::is_made(claim, volume, binding.cached) && !node_lifetime::has_ended(volume)
    });
    if !is_made {
        binding.pending = ctx.stores.pvcs.pending_in(&claim.namespace().unwrap_or_default());
    }
    let waits = pv_binding::waits_its_turn(claim, binding.cached, binding.pending);
    if !is_made && !waits && bound.is_some() {
        let pvc = cluster::get(pvcs, &claim.name_any()).await?;
        if let Some((pvc, earlier)) = pvc.as_ref().zip(pvc.as_ref().and_then(pv_binding::earlier_claim))
            && !persistent_volume::is_of_claim(pvc, claim)
        {
            let pvs = Api::all(ctx.client.clone());
            let found = cluster::get(&pvs, &persistent_volume::name_for(earlier)).await?;
            binding.earlier = found.filter(|pv| pv_binding::is_left_over(pv, pvc));
        }
        binding.pvc = pvc;
        binding.pv = cluster::get(&Api::all(ctx.client.clone()), &persistent_volume::name(claim)).await?;
    }
    Ok(Seen {
        guarded: cluster::finalizer_present(claim),
        offers: match bound {
            Some(_) => Offers { subscriptions: subscriptions(claim, ctx), ..Default::default() },
            None => offers(claim, ctx),
        },
        volume,
        refused: None,
        binding,
        keeping,
        lost_on,
        heirs,
        node_missing: claim
            .status
            .as_ref()
            .and_then(|status| status.node_name.as_ref())
            .is_some_and(|node| ctx.stores.nodes.get(node).is_none()),
        now: (ctx.now)(),
    })
}

/// The volume in the claim's status, else the volume in its spec. The cache may be behind. So a volume from the status
/// is read live if the cached object does not list the claim.
async fn volume(claim: &VolumeClaim, ctx: &Context) -> Result<Option<Arc<SharedPersistentVolume>>, Error> {
    let noted = bind::noted(claim).map(|volume| &volume.name);
    let Some(name) = noted.or(claim.spec.volume.as_ref()) else { return Ok(None) };
    let cached = ctx.stores.volumes.get(name);
    if noted.is_none() || cached.as_ref().is_some_and(|volume| has(volume, claim)) {
        return Ok(cached);
    }
    Ok(cluster::get(&Api::all(ctx.client.clone()), name).await?.map(Arc::new))
}

/// The claim's PersistentVolumeClaim in the cache.
fn cached_pvc(claim: &VolumeClaim, ctx: &Context) -> Option<pv_binding::Pvc> {
    let (namespace, uid) = (claim.namespace().unwrap_or_default(), claim.uid().unwrap_or_default());
    let pvc = ctx.stores.pvcs.made_for(&namespace, &claim.name_any(), &uid)?;
    Some(pv_binding::Pvc { bound: pvc.bound, capacity: pvc.capacity, deleted_at: pvc.deleted_at })
}

/// The volumes that the claim may use, and the claims that compete for them.
pub(super) fn offers(claim: &VolumeClaim, ctx: &Context) -> Offers {
    let mut volumes = match &claim.spec.volume {
        Some(name) => Vec::from_iter(ctx.stores.volumes.get(name)),
        None => ctx.stores.volumes_for(&claim.spec.role),
    };
    volumes.extend(ctx.stores.volumes.by(CLAIM, &bind::binding(claim).to_string()));
    let contested = volumes.iter().filter(|v| v.spec.shared.is_none());
    let rivals = contested.filter_map(|volume| {
        let is_entitled =
            |rival: &VolumeClaim| bind::is_entitled(rival, &refs(&subscriptions(rival, ctx)), volume);
        ctx.stores.claims.first(QUEUE, &queue_of(&volume.name_any()), is_entitled)
    });
    let on_cordoned = volumes.iter().filter(|v| ctx.disk_of(v).is_some_and(|disk| is_cordoned(&disk)));
    Offers {
        subscriptions: subscriptions(claim, ctx),
        rivals: rivals.collect(),
        cordoned: on_cordoned.map(|volume| volume.name_any()).collect(),
        volumes,
    }
}

/// The subscriptions of the claim's namespace.
fn subscriptions(claim: &VolumeClaim, ctx: &Context) -> Vec<Arc<RoleSubscription>> {
    ctx.subscriptions_in(&claim.namespace().unwrap_or_default())
}

/// Applies a step for the claim's PersistentVolume and PersistentVolumeClaim, and stores the outcome in `seen`. After a
/// refused [`pv_binding::Step::ShowSize`], the claim goes on without.
pub(super) async fn apply_binding(
    step: &pv_binding::Step,
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
    pvcs: &Api<PersistentVolumeClaim>,
    seen: &mut pv_binding::Seen,
    ctx: &Context,
) -> Result<(), Error> {
    let pvs: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let (pv, pvc) = (persistent_volume::name(claim), claim.name_any());
    match step {
        pv_binding::Step::CreatePv(wanted) => {
            seen.pv = match cluster::create(&pvs, &**wanted).await? {
                Some(made) => Some(made),
                None => cluster::get(&pvs, &pv).await?,
            };
        }
        pv_binding::Step::CreatePvc(wanted) => {
            seen.pvc = cluster::create(pvcs, &**wanted).await?.or_else(|| Some((**wanted).clone()));
        }
        pv_binding::Step::ShowSize => {
            let capacity = persistent_volume::storage(volume);
            seen.cached.iter_mut().for_each(|cached| cached.capacity = None);
            cluster::merge(&pvs, &pv, &json!({ "spec": { "capacity": capacity } })).await?;
            cluster::merge_status(pvcs, &pvc, &json!({ "status": { "capacity": capacity } })).await?;
        }
        pv_binding::Step::DeletePv(why) => {
            let uid = seen.pv.as_ref().and_then(ResourceExt::uid);
            cluster::delete(&pvs, &pv, uid).await?;
            seen.waits = Some(why.clone());
        }
        pv_binding::Step::DeletePvc(why) => {
            let uid = seen.pvc.as_ref().and_then(ResourceExt::uid);
            cluster::delete(pvcs, &pvc, uid).await?;
            seen.waits = Some(why.clone());
        }
        pv_binding::Step::DeleteEarlierPv(_) => {
            if let Some(earlier) = seen.earlier.take() {
                cluster::delete(&pvs, &earlier.name_any(), earlier.uid()).await?;
            }
        }
        pv_binding::Step::Wait(_) | pv_binding::Step::Done => {}
    }
    Ok(())
}
