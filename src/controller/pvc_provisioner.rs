//! PersistentVolumeClaims of a StorageClass of ours: each gets a volume and a PersistentVolume (P1–P3, P6).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::condition::reason;
use crate::api::{
    ANNOTATION_DECIDED_BY, ANNOTATION_MADE_FOR, ClaimBinding, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID,
    SharedPersistentVolume, Size, volume_for_pvc,
};
use crate::cluster::{self, Name};
use crate::plan::namesake::{self, Earlier};
use crate::plan::pvc_provisioner::placement::{Mate, PLACE_FOUND};
use crate::plan::pvc_provisioner::{
    REFUSED_AGAIN, Reschedule, SELECTED_NODE, Seen, Step, class, growth, is_settled, is_unsettled, next,
    refused_again, waits_empty, waits_for_volume,
};
use crate::plan::transition::LASTING;
use crate::plan::{node_lifetime, own_pvc, persistent_volume, pv_binding, refs};

use super::claim::apply_binding;
use super::context::Context;
use super::stores::MADE_FOR;
use super::{Again, Error, storage_capacity};

/// The pause before free space on the nodes that a class allows is looked for again. Most changes of a reservation make no
/// space there.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The reason and the topic of the event of a PersistentVolumeClaim that gets no volume.
const FAILED: &str = "ProvisioningFailed";
/// The topic of such an event for which no node has a place. It ends before the volume is made.
const NO_PLACE: &str = "NoPlace";
/// The topic of the event of a PersistentVolumeClaim that waits while there is data of an earlier one of its name (F5).
const OLD_DATA: &str = "OldData";
/// The reason and the topic of the event of a PersistentVolumeClaim whose size cannot be granted.
const RESIZE_FAILED: &str = "VolumeResizeFailed";

/// The most other PersistentVolumeClaims of a pod that are placed together with one: each is a live read.
const MOST_MATES: usize = 64;

/// Reconciles a PersistentVolumeClaim by namespace and name.
///
/// 1. Gather: the object, its volume and its PersistentVolume. An unbound object, and an object that is to grow, are read live.
/// 2. Decide: [`next`].
/// 3. Apply: one step, and the event of a refusal. A step of a growth or a binding is followed by another decision.
pub(super) async fn reconcile(name: Name, ctx: &Context) -> Result<Again, Error> {
    let Some(mut seen) = gather(&name, ctx).await? else { return Ok(None) };
    let mut step = next(&seen);
    loop {
        match step {
            Step::Growth(growing) => {
                if !grow(growing, &mut seen, ctx).await? {
                    return Ok(seen.refused.is_some().then_some(REFUSED_AGAIN));
                }
            }
            Step::Bind(binding) => bind(&binding, &mut seen, ctx).await?,
            _ => break,
        }
        step = next(&seen);
    }
    let settled = is_settled(&seen, &step);
    let topic = if matches!(step, Step::Wait(..) | Step::TellPlaces(..)) { NO_PLACE } else { FAILED };
    if let (Some(pvc), Step::Rest | Step::Refuse(_) | Step::Wait(..) | Step::Reschedule(_)) =
        (&seen.pvc, &step)
        && let Some((reason, why)) = earlier(pvc, None, &seen, ctx).filter(|_| waits_empty(&seen, pvc))
    {
        ctx.events.warn_if_it_lasts(pvc, OLD_DATA, ("Provision", reason, &why), LASTING);
    }
    let (event, again) = match apply(step, &seen, ctx).await {
        Ok(done) => done,
        // A permission is missing, or the schema of volumes refuses a field.
        Err(error) if seen.pvc.is_some() => (Some(error.refusal().ok_or(error)?), Some(refused_again(&seen))),
        Err(error) => return Err(error),
    };
    match (&seen.pvc, event) {
        (Some(pvc), Some(event)) => warn(pvc, topic, &event, ctx),
        (Some(pvc), None) if settled => {
            ctx.events.settle(pvc, FAILED);
            ctx.events.settle(pvc, NO_PLACE);
        }
        _ => {}
    }
    Ok(again)
}

async fn gather(name: &Name, ctx: &Context) -> Result<Option<Seen>, Error> {
    let stores = &ctx.stores;
    let Some((namespace, pvc)) = name.split_once('/') else { return Ok(None) };
    let Some((uid, cached)) = stores.provisioned(name) else { return Ok(None) };
    let volume = volume_for_pvc(&uid);
    let mut seen = Seen {
        uid,
        bound: cached.bound,
        pvc: None,
        class: None,
        volume: stores.volumes.get(&volume),
        binding: pv_binding::Seen::default(),
        reservations: vec![],
        disks: vec![],
        nodes: vec![],
        used: false,
        without_storage: None,
        told_no_place: false,
        mates: vec![],
        refused: None,
        now: (ctx.now)(),
    };
    let cached_growth = growth::Cached {
        requested: cached.requested,
        capacity: cached.capacity,
        allocated: cached.allocated,
        resizing: cached.resizing,
        attributes_class: cached.attributes_class,
    };
    // The volume is read before the PersistentVolumeClaim, see `plan::pvc_provisioner::growth`.
    let unsettled = |volume: &Arc<SharedPersistentVolume>| is_unsettled(&seen.uid, cached_growth, volume);
    let waits_for =
        |volume: &Arc<SharedPersistentVolume>| waits_for_volume(&seen.uid, cached.requested, volume);
    // The change that it waits for enqueues it.
    if !cached.bound && (cached.chosen || seen.volume.as_ref().is_some_and(waits_for)) {
        return Ok(Some(seen));
    }
    let has_ended = seen.volume.as_deref().is_some_and(node_lifetime::has_ended);
    if !cached.bound || has_ended || seen.volume.as_ref().is_some_and(unsettled) {
        let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, namespace);
        seen.pvc = cluster::get(&pvcs, pvc).await?;
    }
    if !cached.bound {
        seen.class = seen.pvc.as_ref().and_then(|pvc| class_of(pvc, ctx));
        seen.told_no_place = seen.pvc.as_ref().is_some_and(|pvc| ctx.events.has_warning(pvc, NO_PLACE));
        (seen.reservations, seen.disks) = (stores.reservations.all(), stores.disks.all());
        let is_known = seen.volume.is_some();
        if !is_known {
            gather_placement(namespace, pvc, &mut seen, ctx).await?;
        }
        // A volume of the cache that needs nothing now is not read live: its change enqueues the PersistentVolumeClaim. The
        // creation of a volume fails if there is one. Only the volume itself says where its PersistentVolume has to lead.
        let is_decided = |step| match step {
            Step::Rest => true,
            Step::CreateVolume(_) => !is_known,
            _ => false,
        };
        if !is_decided(next(&seen)) {
            seen.volume = cluster::get(&Api::all(ctx.client.clone()), &volume).await?.map(Arc::new);
            if is_known && seen.volume.is_none() {
                gather_placement(namespace, pvc, &mut seen, ctx).await?;
            }
        }
        if let Some(binding) = seen.volume.as_deref().and_then(own_pvc::listed) {
            let pv = persistent_volume::name_for(&binding.uid);
            seen.binding = pv_binding::Seen {
                class: seen.class.clone(),
                pvc: seen.pvc.clone(),
                pv: cluster::get(&Api::all(ctx.client.clone()), &pv).await?,
                ..Default::default()
            };
        }
    }
    Ok(Some(seen))
}

/// Gathers what the choice of a node depends on, for a PersistentVolumeClaim without a volume.
async fn gather_placement(namespace: &str, pvc: &str, seen: &mut Seen, ctx: &Context) -> Result<(), Error> {
    let (stores, Some(class)) = (&ctx.stores, seen.class.clone()) else { return Ok(()) };
    if class.allowed_topologies.is_some() {
        seen.nodes = stores.nodes.all();
    }
    if class::is_delayed(&class) {
        seen.used = !stores.pods.users(namespace, pvc).is_empty();
        seen.without_storage = stores.pods.without_storage(namespace, pvc);
        for mate in stores.pods.mates(namespace, pvc).iter().take(MOST_MATES) {
            seen.mates.extend(gather_mate(mate, ctx).await?);
        }
    }
    Ok(())
}

fn class_of(pvc: &PersistentVolumeClaim, ctx: &Context) -> Option<Arc<StorageClass>> {
    ctx.stores.classes.get(pvc.spec.as_ref()?.storage_class_name.as_deref()?)
}

/// The PersistentVolumeClaim of that name, unless another driver provisions it.
async fn gather_mate(name: &Name, ctx: &Context) -> Result<Option<Mate>, Error> {
    let Some((namespace, pvc)) = name.split_once('/') else { return Ok(None) };
    let Some((uid, cached)) = ctx.stores.provisioned(name) else { return Ok(None) };
    let pvcs: Api<PersistentVolumeClaim> = cluster::namespaced(&ctx.client, namespace);
    let pvc = if cached.bound { None } else { cluster::get(&pvcs, pvc).await? };
    let class = pvc.as_ref().and_then(|pvc| class_of(pvc, ctx));
    Ok(Some(Mate { pvc, class, volume: ctx.stores.volumes.get(&volume_for_pvc(&uid)) }))
}

/// Applies the step; returns the reason of a refusal, and the pause before the next attempt.
async fn apply(step: Step, seen: &Seen, ctx: &Context) -> Result<(Option<String>, Again), Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    match step {
        Step::CreateVolume(volume) => {
            let made = cluster::create(&volumes, &ctx.signed(&volume).await?).await?;
            if let (Some(made), Some(pvc)) = (made, &seen.pvc) {
                ctx.events.settle(pvc, OLD_DATA);
                if let Some((reason, why)) = earlier(pvc, Some(&made), seen, ctx) {
                    ctx.events.publish(pvc, None, false, "Provision", reason, &why).await;
                }
            }
        }
        Step::EndPvc(event) => {
            if let Some(pvc) = &seen.pvc {
                ctx.events.publish(pvc, None, true, "Release", reason::NODE_GONE, &event).await;
                let pvcs: Api<PersistentVolumeClaim> =
                    cluster::namespaced(&ctx.client, &pvc.namespace().unwrap_or_default());
                cluster::delete(&pvcs, &pvc.name_any(), pvc.uid()).await?;
            }
        }
        Step::WaitForPv(event) => return Ok((Some(event), Some(LOOK_AGAIN))),
        Step::Refuse(event) => return Ok((Some(event), None)),
        Step::Wait(event, asked) => {
            ensure_may_create(&asked, ctx).await?;
            // Schedulers look by themselves.
            let delayed = seen.class.as_ref().is_some_and(|class| class::is_delayed(class));
            return Ok((Some(event), (!delayed).then_some(LOOK_AGAIN)));
        }
        Step::TellPlaces(event, asked) => {
            ensure_may_create(&asked, ctx).await?;
            if let Some(pvc) = seen.pvc.as_ref().filter(|pvc| ctx.events.settle_published(*pvc, NO_PLACE)) {
                ctx.events.publish(pvc, None, true, "Provision", PLACE_FOUND, &event).await;
            }
        }
        Step::Reschedule(step) => {
            let Reschedule { why: event, asked, others, crowded } = *step;
            if let Some(asked) = asked {
                ensure_may_create(&asked, ctx).await?;
            }
            // The scheduler looks at the storage capacity as soon as it is to choose again.
            let class = crowded.as_ref().and_then(|crowded| ctx.stores.classes.get(&crowded.class));
            let is_new = crowded.is_some_and(|crowded| ctx.crowding().note(crowded, (ctx.now)()));
            let own = seen.class.clone().filter(|class| ctx.postponed().waits(&class.name_any()));
            for class in class.filter(|_| is_new).into_iter().chain(own) {
                storage_capacity::tell_exactly(class, ctx).await?;
            }
            if let Some(unplaced) = &seen.volume {
                cluster::delete_seen(&volumes, &**unplaced).await?;
            }
            for pvc in &others {
                unselect(pvc, ctx).await?;
                warn(pvc, FAILED, &event, ctx);
            }
            if let Some(pvc) = &seen.pvc {
                unselect(pvc, ctx).await?;
            }
            return Ok((Some(event), None));
        }
        Step::Growth(_) | Step::Bind(_) | Step::Rest => {}
    }
    Ok((None, None))
}

/// The event about data of an earlier PersistentVolumeClaim of the name. `new` is the present one's volume.
fn earlier(
    pvc: &PersistentVolumeClaim,
    new: Option<&SharedPersistentVolume>,
    seen: &Seen,
    ctx: &Context,
) -> Option<(&'static str, String)> {
    let (namespace, name) = (pvc.namespace().unwrap_or_default(), pvc.name_any());
    let volumes = ctx.stores.volumes.by(MADE_FOR, &format!("{namespace}/{name}"));
    let there = Earlier {
        volumes: &refs(&volumes),
        disks: &refs(&seen.disks),
        reservations: &refs(&seen.reservations),
    };
    let of_pod = pvc.owner_references().iter().any(|owner| owner.kind == "Pod");
    namesake::earlier(&namespace, &name, of_pod, new, &there)
}

/// A dry run of the creation: who lacks the rights learns of no free space (P5).
async fn ensure_may_create(volume: &SharedPersistentVolume, ctx: &Context) -> Result<(), Error> {
    cluster::may_create(&Api::all(ctx.client.clone()), &ctx.signed(volume).await?).await
}

/// Applies a step for the PersistentVolume, and stores the outcome in `seen`. A refusal is an event (F3).
async fn bind(step: &pv_binding::Step, seen: &mut Seen, ctx: &Context) -> Result<(), Error> {
    let (Some(volume), Some(pvc)) = (seen.volume.clone(), seen.pvc.clone()) else { return Ok(()) };
    let Some(binding) = own_pvc::listed(&volume) else { return Ok(()) };
    let claim = own_pvc::claim(binding, &pvc, &volume);
    let pvcs = cluster::namespaced(&ctx.client, &binding.namespace);
    if let Err(error) = apply_binding(step, &claim, &volume, &pvcs, &mut seen.binding, ctx).await {
        let words = error.refusal().ok_or(error)?;
        seen.binding.waits = pv_binding::refused(step, &claim, &words);
    }
    Ok(())
}

/// The PersistentVolumeClaim of a binding, as the object of an event.
pub(super) fn regarding(binding: &ClaimBinding) -> PersistentVolumeClaim {
    let mut pvc = PersistentVolumeClaim::default();
    pvc.metadata.namespace = Some(binding.namespace.clone());
    pvc.metadata.name = Some(binding.name.clone());
    pvc.metadata.uid = binding.pvc_uid.clone();
    pvc
}

/// Makes the scheduler choose a node for the PersistentVolumeClaim again.
async fn unselect(pvc: &PersistentVolumeClaim, ctx: &Context) -> Result<(), Error> {
    let pvcs = cluster::namespaced(&ctx.client, &pvc.namespace().unwrap_or_default());
    let unselect = json!({ "metadata": { "annotations": { SELECTED_NODE: null } } });
    cluster::merge_seen(&pvcs, pvc, unselect).await?;
    Ok(())
}

/// Publishes the reason for a missing volume, if it lasts.
fn warn(pvc: &PersistentVolumeClaim, topic: &'static str, event: &str, ctx: &Context) {
    ctx.events.warn_if_it_lasts(pvc, topic, ("Provision", FAILED, event), LASTING);
}

/// Applies a step of a growth; returns true if another decision follows at once.
async fn grow(step: growth::Step, seen: &mut Seen, ctx: &Context) -> Result<bool, Error> {
    let (Some(volume), Some(pvc)) = (seen.volume.clone(), seen.pvc.clone()) else { return Ok(false) };
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let pvcs: Api<PersistentVolumeClaim> =
        cluster::namespaced(&ctx.client, &pvc.namespace().unwrap_or_default());
    let resized = |size: &Size| {
        let decided_by = json!({ ANNOTATION_DECIDED_BY: pvc.resource_version() });
        json!({ "metadata": { "annotations": decided_by }, "spec": { "size": size } })
    };
    let refused = match step {
        growth::Step::Allocate(size, report) => {
            match cluster::may_merge_seen(&volumes, &*volume, resized(&size)).await {
                Ok(()) => {
                    seen.pvc = cluster::merge_status_seen(&pvcs, &pvc, report.patch).await?;
                    return Ok(true);
                }
                Err(error) => error,
            }
        }
        growth::Step::Resize(size) => match cluster::merge_seen(&volumes, &*volume, resized(&size)).await {
            Ok(_) => {
                ctx.events.settle(&pvc, RESIZE_FAILED);
                return Ok(false);
            }
            Err(error) => error,
        },
        growth::Step::Report(report) => {
            if let (Some(capacity), Some(pv)) =
                (&report.capacity, pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()))
            {
                let pvs: Api<PersistentVolume> = Api::all(ctx.client.clone());
                let capacity = json!({ "spec": { "capacity": { "storage": capacity } } });
                cluster::merge(&pvs, pv, &capacity).await?;
            }
            let written = cluster::merge_status_seen(&pvcs, &pvc, report.patch).await?;
            if let (Some(pvc), Some(event)) = (written, report.event) {
                ctx.events.publish(&pvc, None, event.ok, "Resize", event.reason, &event.message).await;
            }
            return Ok(false);
        }
        growth::Step::Refuse(why) => {
            let warning = ("Resize", RESIZE_FAILED, why.as_str());
            ctx.events.warn_if_it_lasts(&pvc, RESIZE_FAILED, warning, LASTING);
            return Ok(false);
        }
        growth::Step::Rest => return Ok(false),
    };
    // A permission is missing, or the schema of volumes refuses the size.
    seen.refused = Some(refused.refusal().ok_or(refused)?);
    Ok(true)
}

/// Turns the volume that was seen into an ordinary volume, and publishes an event (P4).
pub(super) async fn release(
    volume: &SharedPersistentVolume,
    event: &str,
    ctx: &Context,
) -> Result<(), Error> {
    let volumes: Api<SharedPersistentVolume> = Api::all(ctx.client.clone());
    let labels = json!({ LABEL_PVC_UID: null, LABEL_CLAIM_NAMESPACE: null });
    let released = cluster::merge_seen(&volumes, volume, json!({ "metadata": { "labels": labels } })).await?;
    ctx.events.publish(volume, None, true, "Release", "Retained", event).await;
    match released {
        Some(released) => tell_namesake(&released, ctx).await,
        None => Ok(()),
    }
}

/// Tells the next PersistentVolumeClaim of the name, if its volume was made before the earlier one was released (F5).
async fn tell_namesake(old: &SharedPersistentVolume, ctx: &Context) -> Result<(), Error> {
    let made_for = old.annotations().get(ANNOTATION_MADE_FOR).map(String::as_str).unwrap_or_default();
    let Some(((namespace, name), (uid, cached))) =
        made_for.split_once('/').zip(ctx.stores.provisioned(made_for))
    else {
        return Ok(());
    };
    let new: Option<SharedPersistentVolume> =
        cluster::get(&Api::all(ctx.client.clone()), &volume_for_pvc(&uid)).await?;
    let there = Earlier { volumes: &[old], disks: &[], reservations: &[] };
    // One that is bound by now has a volume of somebody else.
    let is_told = new.is_some() || !cached.bound;
    if let Some((reason, why)) =
        namesake::earlier(namespace, name, false, new.as_ref(), &there).filter(|_| is_told)
    {
        let pvc = regarding(&own_pvc::binding(namespace, name, &uid));
        ctx.events.publish(&pvc, None, false, "Provision", reason, &why).await;
    }
    Ok(())
}
