//! Subscriptions: a `VolumeOffer` for each node, written only when its content changes (O1–O7).

use std::sync::Arc;

use kube::{Api, ResourceExt};

use crate::api::{CONTROLLER_MANAGER, RoleSubscription, SharedPersistentVolume, VolumeOffer};
use crate::cluster::{self, name_of};
use crate::plan::offer::{changes, has_less_space, has_more, is_small, refused};
use crate::plan::postponed::{AFTER, OFFERING};
use crate::plan::refs;

use super::context::Context;
use super::stores::OWNER;
use super::{Again, Error, sooner};

/// Reconciles a subscription.
///
/// 1. Gather: the offers in the subscription's name, the volumes of its roles, and reservations, from the caches.
/// 2. Decide: [`changes`].
/// 3. Apply: deletions first, since rescinding comes first (O6); then applies; then the status. Small changes are applied later.
pub(super) async fn reconcile(subscription: Arc<RoleSubscription>, ctx: &Context) -> Result<Again, Error> {
    let namespace = subscription.namespace().unwrap_or_default();
    let mut there = ctx.stores.offers.by(OWNER, &subscription.uid().unwrap_or_default());
    there.retain(|offer| offer.namespace().as_ref() == Some(&namespace));
    let (volumes, reservations) = (volumes(&subscription, ctx), ctx.stores.reservations.all());

    let changes = changes(
        &subscription,
        &refs(&there),
        &refs(&volumes),
        &refs(&reservations),
        |disk| ctx.stores.disk_ready(disk),
        (ctx.now)(),
    );

    // A failed write for one node does not stop the writes for the other nodes.
    let (mut outcome, mut status, mut again) = (Ok(()), changes.status, None);
    let offers: Api<VolumeOffer> = cluster::namespaced(&ctx.client, &namespace);
    let waits_as = |offer: &VolumeOffer| format!("offer {}", name_of(&namespace, &offer.name_any()));
    let written_as =
        |offer: &VolumeOffer| format!("written offer {}", name_of(&namespace, &offer.name_any()));
    for old in changes.delete {
        ctx.postponed().forget(&waits_as(old));
        ctx.postponed().forget(&written_as(old));
        outcome = cluster::delete(&offers, &old.name_any(), old.uid()).await.and(outcome);
    }
    let left = |offer: &VolumeOffer| ctx.postponed().left(&written_as(offer), OFFERING, (ctx.now)());
    for offer in there.iter().filter(|offer| left(offer).is_none()) {
        ctx.postponed().forget(&written_as(offer));
    }
    for offer in &changes.apply {
        let told = there.iter().find(|told| told.metadata.name == offer.metadata.name);
        if told.is_some_and(|told| has_more(&told.spec, &offer.spec))
            && let Some(left) = left(offer)
        {
            again = sooner(again, left);
            continue;
        }
        if told.is_some_and(|told| has_less_space(&told.spec, &offer.spec))
            && let Some(left) = ctx.postponed().note(&waits_as(offer), AFTER, (ctx.now)())
        {
            again = sooner(again, left);
            continue;
        }
        ctx.postponed().forget(&waits_as(offer));
        ctx.postponed().note(&written_as(offer), OFFERING, (ctx.now)());
        again = sooner(again, OFFERING);
        let applied = cluster::apply(&offers, offer, CONTROLLER_MANAGER).await.map(drop);
        if let Some(words) = applied.as_ref().err().and_then(Error::refusal) {
            status = refused(&subscription, status, &offer.name_any(), &words, (ctx.now)());
        }
        outcome = applied.and(outcome);
    }
    let name = name_of(&namespace, &subscription.name_any());
    if subscription.status.as_ref().is_some_and(|before| is_small(before, &status)) {
        let left = ctx.postponed().note(&name, AFTER, (ctx.now)());
        if let Some(left) = left {
            return outcome.map(|()| sooner(again, left));
        }
    }
    ctx.postponed().forget(&name);
    let api: Api<RoleSubscription> = cluster::namespaced(&ctx.client, &namespace);
    ctx.commit(&api, &*subscription, &status).await.and(outcome).map(|()| again)
}

/// The volumes of the subscription's roles and of their ancestors, without duplicates.
fn volumes(subscription: &RoleSubscription, ctx: &Context) -> Vec<Arc<SharedPersistentVolume>> {
    let roles = subscription.spec.roles.iter();
    let mut volumes: Vec<_> = roles.flat_map(|role| ctx.stores.volumes_for(role)).collect();
    volumes.sort_by_key(|volume| volume.name_any());
    volumes.dedup_by_key(|volume| volume.name_any());
    volumes
}
