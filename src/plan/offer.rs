//! OFFER: for each node, the free reserved space and the volumes that a subscription may claim (O1–O7, S5).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    Capability, DiskReservation, LABEL_MANAGED_BY, MANAGED_BY, OfferedReservation, OfferedVolume, Role,
    RoleSubscription, RoleSubscriptionStatus, SharedPersistentVolume, Size, SubRoles, VolumeOffer,
    VolumeOfferSpec, VolumeOfferStatus, stable_hash,
};

use super::holder::serves;
use super::list_share::MOST_ENTRIES;
use super::{kept, names, own_pvc, resize};

/// The most volumes and the most reservations in one offer. With the longest names, such an object stays below 1 MB, and
/// etcd accepts 1.5 MB (A8).
const MOST_VOLUMES: usize = 1000;
const MOST_RESERVATIONS: usize = 400;

/// The words of a subscription without an offer.
const NOTHING: &str = "; nothing of that is on offer now";

/// True if the status changes by these words alone. Each volume that comes or goes may change them, and the offers, which
/// are written at once, say the same.
pub fn is_small(before: &RoleSubscriptionStatus, now: &RoleSubscriptionStatus) -> bool {
    let without = |status: &RoleSubscriptionStatus| {
        let mut status = status.clone();
        status.conditions.iter_mut().for_each(|c| c.message = c.message.replace(NOTHING, ""));
        status
    };
    before != now && without(before) == without(now)
}

/// True if the offer says less free space than before and nothing else. Volumes that are being made are offered soon, and that
/// write has both. Ledgers decide on free space, whatever an offer says.
pub fn has_less_space(before: &VolumeOfferSpec, now: &VolumeOfferSpec) -> bool {
    let mut like_now = before.clone();
    let mut is_less = true;
    for (told, has) in like_now.reservations.iter_mut().zip(&now.reservations) {
        is_less &= has.free.bytes_or_zero() <= told.free.bytes_or_zero();
        told.free.clone_from(&has.free);
    }
    is_less && before != now && like_now == *now
}

/// True if the offer says more than before, and takes back no volume and no reservation.
pub fn has_more(before: &VolumeOfferSpec, now: &VolumeOfferSpec) -> bool {
    let volumes: BTreeSet<&str> = now.volumes.iter().map(|volume| volume.uid.as_str()).collect();
    let reservations: BTreeSet<&str> = now.reservations.iter().map(|of| of.name.as_str()).collect();
    before != now
        && before.volumes.iter().all(|volume| volumes.contains(volume.uid.as_str()))
        && before.reservations.iter().all(|of| reservations.contains(of.name.as_str()))
}

/// True if one of the subscription's roles may use objects of `role`.
pub fn covers(subscription: &RoleSubscription, role: &str) -> bool {
    subscription.spec.roles.iter().any(|subscribed| Role::name_covers(role, subscribed))
}

/// True if claims of `role` can bind to the volume: claims of the volume's role, and of sub-roles unless denied (R3).
pub fn open_to(volume: &SharedPersistentVolume, role: &str) -> bool {
    match volume.spec.sub_roles {
        SubRoles::Allow => Role::name_covers(&volume.spec.role, role),
        SubRoles::Deny => volume.spec.role == role,
    }
}

/// Refuses a volume that is not on offer to a namespace with these subscriptions, with the next step (C4). The refusal
/// of an exclusive volume in use names no user. The condition of the claim names the user.
pub fn offered(volume: &SharedPersistentVolume, subscriptions: &[&RoleSubscription]) -> Result<(), Verdict> {
    if let Some(held) = own_pvc::held(volume) {
        return Err(held);
    }
    entitled(volume, subscriptions)?;
    available(volume)
}

/// Refuses a volume that no namespace with only these subscriptions is ever offered, whatever the volume's state.
pub fn entitled(volume: &SharedPersistentVolume, subscriptions: &[&RoleSubscription]) -> Result<(), Verdict> {
    let (name, role) = (volume.name_any(), &volume.spec.role);
    let covers = |s: &&&RoleSubscription| s.spec.roles.iter().any(|role| open_to(volume, role));
    let covering: Vec<&&RoleSubscription> = subscriptions.iter().filter(covers).collect();
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
    Ok(())
}

/// Refuses a volume that pods cannot use yet.
pub fn ready(volume: &SharedPersistentVolume) -> Result<(), Verdict> {
    let conditions = volume.status.as_ref().map_or(&[][..], |s| &s.conditions);
    if condition::is_true(conditions, READY) {
        return Ok(());
    }
    let why = condition::get(conditions, READY).map_or("it was not reconciled yet", |c| &c.message);
    let why = format!("volume {} is not ready, the claim waits for it: {why}", volume.name_any());
    Err(Verdict::no(reason::VOLUME_NOT_READY, why))
}

/// Refuses a volume that nobody can claim now.
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
    ready(volume)?;
    let in_use = volume.status.as_ref().is_some_and(|s| !s.claims.is_empty() || s.user_count > 0);
    if volume.spec.shared.is_none() && in_use {
        return Err(Verdict::no(reason::VOLUME_HELD, format!("volume {name} is exclusive and in use")));
    }
    if volume.status.as_ref().is_some_and(|s| s.claims.len() >= MOST_ENTRIES) {
        let why = format!(
            "volume {name} has {MOST_ENTRIES} claims, which is the most; this claim is bound when another one is deleted"
        );
        return Err(Verdict::no(reason::TOO_MANY_CLAIMS, why));
    }
    Ok(())
}

/// The writes for one subscription. Deletions come first, since rescinding precedes everything else (O6).
pub struct Changes<'a> {
    /// Offers to delete, including offers that another writer made in the subscription's name.
    pub delete: Vec<&'a VolumeOffer>,
    /// Offers to apply: new offers and changed offers.
    pub apply: Vec<VolumeOffer>,
    /// The status of the subscription.
    pub status: RoleSubscriptionStatus,
}

/// The status of a subscription after the API server refused the write of an offer, with its words (F3).
pub fn refused(
    subscription: &RoleSubscription,
    mut status: RoleSubscriptionStatus,
    offer: &str,
    words: &str,
    now: Timestamp,
) -> RoleSubscriptionStatus {
    let why = format!(
        "VolumeOffer {offer} cannot be written: {words}; claims go on without it; have it allowed, and Reservoir tries again \
         by itself"
    );
    let verdict = Verdict::no(reason::REFUSED, why);
    condition::set(&mut status.conditions, READY, verdict, subscription.metadata.generation, now);
    status
}

/// The writes that turn `there`, the present offers in the subscription's name, into the correct offers.
pub fn changes<'a>(
    subscription: &RoleSubscription,
    there: &[&'a VolumeOffer],
    volumes: &[&SharedPersistentVolume],
    reservations: &[&DiskReservation],
    disk_ready: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Changes<'a> {
    let wanted = wanted(subscription, volumes, reservations, disk_ready);
    let stays =
        |old: &VolumeOffer| wanted.contains_key(&old.spec.node_name) && is_offer_of(old, subscription);
    let (kept, delete): (Vec<&VolumeOffer>, Vec<&VolumeOffer>) = there.iter().partition(|old| stays(old));
    let has_nothing = wanted.is_empty();
    let changed = wanted.into_iter().filter_map(|(node, spec)| {
        let old = kept.iter().copied().find(|old| old.spec.node_name == node);
        old.is_none_or(|old| old.spec != spec).then(|| object(subscription, spec, old, now))
    });
    let apply = changed.collect();
    let mut status = subscription.status.clone().unwrap_or_default();
    let mut message = format!("subscribed to {}", subscription.spec.roles.join(", "));
    if volumes.iter().any(|volume| lacks_capability(volume, subscription)) {
        message.push_str("; shared volumes are not offered: add SHARED_RESOURCES to spec.capabilities");
    } else if has_nothing {
        message.push_str(NOTHING);
    }
    let verdict = Verdict::yes(reason::SUBSCRIBED, message);
    condition::set(&mut status.conditions, READY, verdict, subscription.metadata.generation, now);
    Changes { delete, apply, status }
}

/// True if only the capability keeps the subscription from offers of the volume (O3).
fn lacks_capability(volume: &SharedPersistentVolume, subscription: &RoleSubscription) -> bool {
    volume.metadata.deletion_timestamp.is_none()
        && entitled(volume, &[subscription]).is_err_and(|why| why.reason == reason::NO_CAPABILITY)
}

/// True if the offer is the subscription's offer of its node. Another writer's object may have the name of such an
/// offer.
pub fn is_offer_of(offer: &VolumeOffer, subscription: &RoleSubscription) -> bool {
    let uid = subscription.metadata.uid.as_ref();
    offer.owner_references().iter().any(|owner| Some(&owner.uid) == uid)
        && offer.spec.subscription == subscription.name_any()
        && offer.name_any() == object_name(&offer.spec.subscription, &offer.spec.node_name)
}

fn object(
    subscription: &RoleSubscription,
    spec: VolumeOfferSpec,
    old: Option<&VolumeOffer>,
    now: Timestamp,
) -> VolumeOffer {
    let mut conditions = old.and_then(|o| o.status.clone()).unwrap_or_default().conditions;
    let volumes: Vec<&str> = spec.volumes.iter().map(|v| v.name.as_str()).collect();
    let volumes = if volumes.is_empty() {
        String::new()
    } else {
        names(&volumes, volumes.len() + spec.unlisted_volumes as usize)
    };
    let said = match (spec.unlisted_volumes, spec.unlisted_reservations) {
        (0, 0) => "the listed volumes can be claimed".to_owned(),
        (volumes, reservations) => format!(
            "the listed volumes can be claimed, and so can {volumes} volumes and {reservations} reservations more than an offer lists"
        ),
    };
    let verdict = Verdict::yes(reason::OFFERED, said);
    condition::set(&mut conditions, READY, verdict, None, now);
    let free = spec.reservations.iter().map(|r| r.free.bytes_or_zero()).fold(0, u64::saturating_add);
    let status = VolumeOfferStatus { free: Some(Size::from_bytes(free)), volumes, conditions };
    let mut offer = VolumeOffer::new(&object_name(&spec.subscription, &spec.node_name), spec);
    offer.metadata.namespace = subscription.namespace();
    offer.metadata.owner_references = subscription.controller_owner_ref(&()).map(|owner| vec![owner]);
    offer.metadata.labels = Some([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned())].into());
    offer.status = Some(status);
    offer
}

/// `<subscription>.<node>`. A hash is added if another pair could have the same name, or if the name is too long.
fn object_name(subscription: &str, node: &str) -> String {
    let plain = format!("{subscription}.{node}");
    if !subscription.contains('.') && plain.len() <= 253 {
        return plain;
    }
    let hash = stable_hash(&format!("{subscription}/{node}"));
    let start: String = plain.chars().take(230).collect();
    format!("{}-{hash:016x}", start.trim_end_matches(['.', '-']))
}

/// The content of a subscription's offers, in a stable order: one offer for each node with something to offer.
fn wanted(
    subscription: &RoleSubscription,
    volumes: &[&SharedPersistentVolume],
    reservations: &[&DiskReservation],
    disk_ready: impl Fn(&str) -> bool,
) -> BTreeMap<String, VolumeOfferSpec> {
    let mut by_node: BTreeMap<String, VolumeOfferSpec> = BTreeMap::new();
    if subscription.metadata.deletion_timestamp.is_some() {
        return by_node;
    }
    let mut offer = |node: &str, add: &mut dyn FnMut(&mut VolumeOfferSpec)| {
        add(by_node.entry(node.to_owned()).or_insert_with(|| VolumeOfferSpec {
            subscription: subscription.name_any(),
            node_name: node.to_owned(),
            reservations: vec![],
            volumes: vec![],
            unlisted_reservations: 0,
            unlisted_volumes: 0,
        }));
    };
    for reservation in reservations {
        let Some(status) = &reservation.status else { continue };
        let (Some(node), Some(disk)) = (&status.node_name, &status.node_disk) else { continue };
        let free = kept::available(status);
        if serves(reservation) && free > 0 && disk_ready(disk) && covers(subscription, &reservation.spec.role)
        {
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
                });
            });
        }
    }
    for offer in by_node.values_mut() {
        offer.reservations.sort_by(|a, b| a.name.cmp(&b.name));
        offer.volumes.sort_by(|a, b| a.name.cmp(&b.name));
        let beyond = |listed: usize, most: usize| listed.saturating_sub(most) as u32;
        offer.unlisted_reservations = beyond(offer.reservations.len(), MOST_RESERVATIONS);
        offer.unlisted_volumes = beyond(offer.volumes.len(), MOST_VOLUMES);
        offer.reservations.truncate(MOST_RESERVATIONS);
        offer.volumes.truncate(MOST_VOLUMES);
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

    /// O2: the volume that takes the space is offered soon, and everything else is told at once.
    #[test]
    fn o2_less_space_is_told_later() {
        let reservation = |name: &str, free| OfferedReservation {
            name: name.into(),
            role: "eng".into(),
            node_disk: "n1.a".into(),
            free: gi(free),
        };
        let spec = |of: &[(&str, u64)], volumes: &[&str]| VolumeOfferSpec {
            subscription: "sub".into(),
            node_name: "n1".into(),
            reservations: of.iter().map(|(name, free)| reservation(name, *free)).collect(),
            volumes: volumes
                .iter()
                .map(|name| OfferedVolume {
                    name: (*name).into(),
                    uid: (*name).into(),
                    role: "eng".into(),
                    size: gi(1),
                    shared: true,
                })
                .collect(),
            unlisted_reservations: 0,
            unlisted_volumes: 0,
        };
        let told = spec(&[("a", 4), ("b", 4)], &["v"]);
        for (now, later, soon) in [
            (spec(&[("a", 4), ("b", 3)], &["v"]), true, true),
            (spec(&[("a", 4), ("b", 5)], &["v"]), false, true),
            (spec(&[("a", 3), ("b", 5)], &["v"]), false, true),
            (spec(&[("a", 4)], &["v"]), false, false),
            (spec(&[("a", 4), ("b", 3)], &["v", "w"]), false, true),
            // O6.
            (spec(&[("a", 4), ("b", 3)], &[]), false, false),
            (spec(&[("a", 4), ("b", 4)], &["w"]), false, false),
            (told.clone(), false, false),
        ] {
            assert_eq!((has_less_space(&told, &now), has_more(&told, &now)), (later, soon), "{now:?}");
        }
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
        let mut private = ready.clone();
        private.spec.sub_roles = SubRoles::Deny;
        assert_eq!(why(&private, &capable), "offered");
        assert_eq!(
            why(&private, &subscription("ns", &["eng/ml"], true)),
            "NoSubscription",
            "R3: kept to eng"
        );
        assert_eq!(why(&volume("v", "eng", 1), &capable), "VolumeNotReady", "O6");
        let mut going = ready_volume("v", "eng", true);
        going.metadata.deletion_timestamp = some_time();
        assert_eq!(why(&going, &capable), "VolumeDestroying", "O6");
        let mut retiring = ready_volume("v", "eng", true);
        retiring.spec.retire = true;
        assert_eq!(why(&retiring, &capable), "VolumeRetiring", "X5");
    }

    /// The time of a transition, the generation and every other word count.
    #[test]
    fn o2_only_the_words_about_nothing_on_offer_can_wait() {
        let subscription = subscription("ns", &["eng"], true);
        let status = |volumes: &[&SharedPersistentVolume]| {
            changes(&subscription, &[], volumes, &[], |_| true, Timestamp::UNIX_EPOCH).status
        };
        let (with, without) = (status(&[&ready_volume("v", "eng", true)]), status(&[]));
        assert!(is_small(&with, &without) && is_small(&without, &with));
        assert!(!is_small(&with, &with), "it is no change");
        assert!(!is_small(&RoleSubscriptionStatus::default(), &without), "the first report");
        let mut edited = without.clone();
        edited.conditions[0].observed_generation = Some(2);
        assert!(!is_small(&with, &edited));
        let refused = refused(&subscription, without, "sub.n1", "no", Timestamp::UNIX_EPOCH);
        assert!(!is_small(&with, &refused), "F3");
    }

    #[test]
    fn o3_a_subscription_says_that_shared_volumes_need_the_capability() {
        let says = |capable: bool, volume: &SharedPersistentVolume| {
            let subscription = subscription("ns", &["eng", "ops"], capable);
            let now = Timestamp::UNIX_EPOCH;
            let changes = changes(&subscription, &[], &[volume], &[], |_| true, now);
            condition::get(&changes.status.conditions, READY).unwrap().message.clone()
        };
        let (shared, exclusive) = (volume("v", "eng", 1), ready_volume("v", "eng", false));
        let lacks = "subscribed to eng, ops; shared volumes are not offered: add SHARED_RESOURCES to spec.capabilities";
        assert_eq!(says(false, &shared), lacks);
        assert_eq!(says(false, &exclusive), "subscribed to eng, ops");
        for (capable, volume) in [(true, &shared), (false, &ready_volume("v", "lab", true))] {
            assert_eq!(says(capable, volume), "subscribed to eng, ops; nothing of that is on offer now");
        }
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
        let wanted_ = wanted(&sub, &[&a, &b], &[&r], |_| true);
        let offer = &wanted_["n1"];
        assert_eq!(offer.volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(offer.reservations[0].free.as_str(), "6Gi");
        assert!(wanted(&sub, &[], &[&r], |_| false).is_empty(), "D4: an unreachable node is in no offer");
    }

    #[test]
    fn o6_foreign_and_outdated_offers_are_deleted_and_no_others() {
        let sub = subscription("ns", &["eng"], true);
        let (volume, r) = (ready_volume("v", "eng", true), reserved("r", "eng", 10, &[]));
        let changes_of = |sub: &RoleSubscription, there: &[&VolumeOffer]| {
            let found = changes(sub, there, &[&volume], &[&r], |_| true, Timestamp::UNIX_EPOCH);
            let deleted: Vec<String> = found.delete.iter().map(|offer| offer.name_any()).collect();
            (deleted, found.apply)
        };
        let made = changes_of(&sub, &[]).1.remove(0);
        assert_eq!(made.status.as_ref().unwrap().volumes, "v");
        assert_eq!(changes_of(&sub, &[&made]), (vec![], vec![]));
        let (mut foreign, mut outdated, mut elsewhere) = (made.clone(), made.clone(), made.clone());
        foreign.metadata.name = Some("foreign".into());
        outdated.spec.volumes.clear();
        elsewhere.spec.node_name = "n9".into();
        assert_eq!(changes_of(&sub, &[&foreign, &outdated]).0, ["foreign"]);
        assert_eq!(changes_of(&sub, &[&outdated]).1.len(), 1);
        assert_eq!(changes_of(&sub, &[&elsewhere, &made]), (vec!["sub.n1".into()], vec![]));
        let mut leaving = sub.clone();
        leaving.metadata.deletion_timestamp = some_time();
        assert_eq!(changes_of(&leaving, &[&made]), (vec!["sub.n1".into()], vec![]));
    }

    #[test]
    fn o2_names_of_offers_are_distinct_and_fit() {
        assert_eq!(object_name("sub", "node-1.example"), "sub.node-1.example");
        assert_ne!(object_name("a.b", "c"), object_name("a", "b.c"));
        assert!(object_name(&"s".repeat(253), &"n".repeat(253)).len() <= 253);
    }
}
