//! OFFER: what a subscription may claim, node by node (O1–O7, S5).

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    Capability, DiskReservation, OfferedReservation, OfferedVolume, ReservationPhase, Role, RoleSubscription,
    SharedPersistentVolume, Size, VolumeOfferSpec,
};

use super::{create, pvc_provisioner, resize};

/// Whether one of the subscription's roles may use what belongs to `role`.
pub fn covers(subscription: &RoleSubscription, role: &str) -> bool {
    subscription.spec.roles.iter().any(|subscribed| Role::name_covers(role, subscribed))
}

/// Whether the volume is on offer to a namespace with these subscriptions; else why not, and what to do (C4).
///
/// For a volume that is held it does not say who holds it: that is for the claim to say.
pub fn offered(volume: &SharedPersistentVolume, subscriptions: &[&RoleSubscription]) -> Result<(), Verdict> {
    let (name, role) = (volume.name_any(), &volume.spec.role);
    if let Some(held) = pvc_provisioner::held(volume) {
        return Err(held);
    }
    let covering: Vec<&&RoleSubscription> = subscriptions.iter().filter(|s| covers(s, role)).collect();
    if covering.is_empty() {
        return Err(Verdict::no(
            reason::NO_SUBSCRIPTION,
            format!(
                "volume {name} is for role {role}, to which this namespace is not subscribed; make a RoleSubscription"
            ),
        ));
    }
    let capable = |s: &&&RoleSubscription| s.spec.capabilities.contains(&Capability::SharedResources);
    if volume.spec.shared.is_some() && !covering.iter().any(capable) {
        return Err(Verdict::no(
            reason::NO_CAPABILITY,
            format!(
                "volume {name} is shared; add SHARED_RESOURCES to the capabilities of RoleSubscription {}",
                covering[0].name_any()
            ),
        ));
    }
    available(volume)
}

/// Whether the volume can be claimed by somebody who may; else why not.
pub fn available(volume: &SharedPersistentVolume) -> Result<(), Verdict> {
    let name = volume.name_any();
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(Verdict::no(
            reason::VOLUME_DESTROYING,
            format!("volume {name} is being destroyed; claim another one"),
        ));
    }
    if volume.spec.retire {
        return Err(Verdict::no(
            reason::VOLUME_RETIRING,
            format!("volume {name} is being retired and takes no new claim; claim another one"),
        ));
    }
    let conditions = volume.status.as_ref().map_or(&[][..], |s| &s.conditions);
    if !condition::is_true(conditions, READY) {
        let why = condition::get(conditions, READY).map_or("it was not looked at yet", |c| &c.message);
        return Err(Verdict::no(
            reason::VOLUME_NOT_READY,
            format!("volume {name} is not ready, the claim waits for it: {why}"),
        ));
    }
    let in_use = volume.status.as_ref().is_some_and(|s| !s.claims.is_empty() || s.user_count > 0);
    if volume.spec.shared.is_none() && in_use {
        return Err(Verdict::no(reason::VOLUME_HELD, format!("volume {name} is exclusive and in use")));
    }
    Ok(())
}

/// The offers of one subscription: one per node that has anything for it, in a stable order.
pub fn offers(
    subscription: &RoleSubscription,
    volumes: &[&SharedPersistentVolume],
    reservations: &[&DiskReservation],
    disk_ready: impl Fn(&str) -> bool,
) -> BTreeMap<String, VolumeOfferSpec> {
    let mut by_node: BTreeMap<String, VolumeOfferSpec> = BTreeMap::new();
    let mut offer = |node: &str, add: &mut dyn FnMut(&mut VolumeOfferSpec)| {
        add(by_node.entry(node.to_owned()).or_insert_with(|| VolumeOfferSpec {
            subscription: subscription.name_any(),
            node_name: node.to_owned(),
            reservations: vec![],
            volumes: vec![],
        }));
    };
    for reservation in reservations {
        let Some(status) = &reservation.status else { continue };
        let (Some(node), Some(disk)) = (&status.node_name, &status.node_disk) else { continue };
        let stands =
            status.phase == ReservationPhase::Reserved && reservation.metadata.deletion_timestamp.is_none();
        let free = create::free(reservation);
        if stands && free > 0 && disk_ready(disk) && covers(subscription, &reservation.spec.role) {
            offer(node, &mut |o| {
                o.reservations.push(OfferedReservation {
                    name: reservation.name_any(),
                    role: reservation.spec.role.clone(),
                    node_disk: disk.clone(),
                    free: Size::from_bytes(free),
                });
            });
        }
    }
    for volume in volumes {
        let Some(node) = volume.status.as_ref().and_then(|s| s.node_name.as_ref()) else { continue };
        if offered(volume, &[subscription]).is_ok() {
            offer(node, &mut |o| {
                o.volumes.push(OfferedVolume {
                    name: volume.name_any(),
                    uid: volume.uid().unwrap_or_default(),
                    role: volume.spec.role.clone(),
                    size: resize::size_now(volume).clone(),
                    shared: volume.spec.shared.is_some(),
                    labels: volume.labels().clone(),
                });
            });
        }
    }
    for offer in by_node.values_mut() {
        offer.reservations.sort_by(|a, b| a.name.cmp(&b.name));
        offer.volumes.sort_by(|a, b| a.name.cmp(&b.name));
    }
    by_node
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    fn why(volume: &SharedPersistentVolume, sub: &RoleSubscription) -> &'static str {
        offered(volume, &[sub]).map_or_else(|v| v.reason, |()| "offered")
    }

    /// O1, O3, O6, R3, X2.
    #[test]
    fn s5_offered_only_when_everything_holds() {
        let capable = subscription("ns", &["eng"], true);
        let plain = subscription("ns", &["eng"], false);
        let ready = ready_volume("v", "eng", true);
        assert_eq!(why(&ready, &capable), "offered");
        assert_eq!(why(&ready, &plain), "NoCapability", "O3");
        assert_eq!(why(&ready_volume("v", "eng", false), &plain), "offered");
        assert_eq!(why(&ready_volume("v", "ops", true), &capable), "NoSubscription", "O1");
        assert_eq!(
            why(&ready_volume("v", "eng/ml", true), &capable),
            "NoSubscription",
            "R3: never a sub-role's"
        );
        assert_eq!(why(&ready, &subscription("ns", &["eng/ml"], true)), "offered", "R3: an ancestor's");
        assert_eq!(why(&volume("v", "eng", 1), &capable), "VolumeNotReady", "O6");
        let mut going = ready_volume("v", "eng", true);
        going.metadata.deletion_timestamp = some_time();
        assert_eq!(why(&going, &capable), "VolumeDestroying", "O6");
        let mut retiring = ready_volume("v", "eng", true);
        retiring.spec.retire = true;
        assert_eq!(why(&retiring, &capable), "VolumeRetiring", "X5");
    }

    #[test]
    fn o4_o5_in_use_a_shared_one_stays_and_an_exclusive_one_goes() {
        let sub = subscription("ns", &["eng"], true);
        for (shared, said) in [(true, "offered"), (false, "VolumeHeld")] {
            let mut v = ready_volume("v", "eng", shared);
            v.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "u1")];
            assert_eq!(why(&v, &sub), said);
        }
    }

    #[test]
    fn o2_one_offer_per_node_with_free_disk_and_volumes() {
        let sub = subscription("ns", &["eng"], true);
        let (a, b) = (ready_volume("b", "eng", true), ready_volume("a", "eng", true));
        let r = reserved("r", "eng", 10, &[("x", 4)]);
        let offers_ = offers(&sub, &[&a, &b], &[&r], |_| true);
        let offer = &offers_["n1"];
        assert_eq!(offer.volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(offer.reservations[0].free.as_str(), "6Gi");
        assert!(offers(&sub, &[], &[&r], |_| false).is_empty(), "D4: an unreachable node is in no offer");
    }
}
