//! Offers: one per subscription and node, written only when its content changes (O1–O7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::{Api, Resource, ResourceExt};

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    CONTROLLER_MANAGER, LABEL_MANAGED_BY, MANAGED_BY, RoleSubscription, Size, VolumeOffer, VolumeOfferSpec,
    VolumeOfferStatus, stable_hash,
};
use crate::cluster;
use crate::plan::{names, offer};

use super::Error;
use super::context::{Context, OWNER, ready, refs};

pub(super) async fn reconcile(subscription: Arc<RoleSubscription>, ctx: &Context) -> Result<(), Error> {
    let namespace = subscription.namespace().unwrap_or_default();
    let offers: Api<VolumeOffer> = cluster::namespaced(&ctx.client, &namespace);
    let wanted = match subscription.metadata.deletion_timestamp {
        None => wanted(&subscription, ctx),
        Some(_) => BTreeMap::new(),
    };
    let uid = subscription.uid().unwrap_or_default();
    let mut there = ctx.stores.offers.by(OWNER, &uid);
    there.retain(|o| o.namespace().as_ref() == Some(&namespace));
    // Rescinding comes first (O6), also of what somebody else wrote in the subscription's name.
    for old in &there {
        if !wanted.contains_key(&old.spec.node_name) || !is_offer_of(old, &subscription) {
            cluster::delete(&offers, &old.name_any(), old.uid()).await?;
        }
    }
    for (node, spec) in &wanted {
        let old = there.iter().find(|o| o.spec.node_name == *node && is_offer_of(o, &subscription));
        if old.is_none_or(|old| old.spec != *spec) {
            cluster::apply(
                &offers,
                &make(&subscription, spec.clone(), old.map(AsRef::as_ref)),
                CONTROLLER_MANAGER,
            )
            .await?;
        }
    }
    let mut status = subscription.status.clone().unwrap_or_default();
    let said = format!("subscribed to {}", subscription.spec.roles.join(", "));
    status.conditions =
        ready(&status.conditions, Verdict::yes(reason::SUBSCRIBED, said), subscription.metadata.generation);
    let api: Api<RoleSubscription> = cluster::namespaced(&ctx.client, &namespace);
    Ok(ctx.commit(&api, &*subscription, &status).await?)
}

/// Whether that is the subscription's offer of its node, and not what somebody else calls so.
pub(super) fn is_offer_of(offer: &VolumeOffer, subscription: &RoleSubscription) -> bool {
    let owned =
        offer.owner_references().iter().any(|owner| Some(&owner.uid) == subscription.metadata.uid.as_ref());
    owned
        && offer.spec.subscription == subscription.name_any()
        && offer.name_any() == name(&offer.spec.subscription, &offer.spec.node_name)
}

/// What is to be offered to a subscription, by node.
fn wanted(subscription: &RoleSubscription, ctx: &Context) -> BTreeMap<String, VolumeOfferSpec> {
    let roles: BTreeSet<&String> = subscription.spec.roles.iter().collect();
    let mut volumes: Vec<_> = roles.iter().flat_map(|role| ctx.stores.volumes_for(role)).collect();
    volumes.sort_by_key(|volume| volume.name_any());
    volumes.dedup_by_key(|volume| volume.name_any());
    let reservations = ctx.stores.reservations.all();
    offer::offers(subscription, &refs(&volumes), &refs(&reservations), |disk| ctx.stores.disk_ready(disk))
}

fn make(subscription: &RoleSubscription, spec: VolumeOfferSpec, old: Option<&VolumeOffer>) -> VolumeOffer {
    let mut offer = VolumeOffer::new(&name(&spec.subscription, &spec.node_name), spec);
    offer.metadata.namespace = subscription.namespace();
    offer.metadata.owner_references = subscription.controller_owner_ref(&()).map(|owner| vec![owner]);
    offer.metadata.labels = Some([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned())].into());
    let mut conditions = old.and_then(|o| o.status.clone()).unwrap_or_default().conditions;
    let verdict = Verdict::yes(reason::OFFERED, "what it lists can be claimed");
    condition::set(&mut conditions, READY, verdict, None, Timestamp::now());
    let volumes: Vec<&str> = offer.spec.volumes.iter().map(|v| v.name.as_str()).collect();
    let volumes = if volumes.is_empty() { String::new() } else { names(&volumes, volumes.len()) };
    let free = offer.spec.reservations.iter().map(|r| r.free.bytes_or_zero()).fold(0, u64::saturating_add);
    offer.status = Some(VolumeOfferStatus { free: Some(Size::from_bytes(free)), volumes, conditions });
    offer
}

/// `<subscription>.<node>`; with a hash where that could be another pair's name or is too long for one.
fn name(subscription: &str, node: &str) -> String {
    let plain = format!("{subscription}.{node}");
    if !subscription.contains('.') && plain.len() <= 253 {
        return plain;
    }
    let hash = stable_hash(&format!("{subscription}/{node}"));
    let start: String = plain.chars().take(230).collect();
    format!("{}-{hash:016x}", start.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_of_offers_are_apart_and_fit() {
        assert_eq!(name("sub", "node-1.example"), "sub.node-1.example");
        assert_ne!(name("a.b", "c"), name("a", "b.c"));
        assert_ne!(name("a.b", "c"), name("a", "b.c"));
        assert!(name(&"s".repeat(253), &"n".repeat(253)).len() <= 253);
    }
}
