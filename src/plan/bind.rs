//! ACCEPT: the volume for a claim (C1–C4).

use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{
    ClaimBinding, ClaimPhase, Role, RoleSubscription, SharedPersistentVolume, Size, UidRef, VolumeClaim,
    VolumeClaimStatus, VolumeMode,
};

use super::list_share::{Full, MOST_ENTRIES, full};
use super::offer::{self, covers, offered, open_to};
use super::resize::size_now;
use super::{names, own_pvc, seal, selects, undivided};

/// The claim's entry in the volume's list of bindings.
pub fn binding(claim: &VolumeClaim) -> ClaimBinding {
    ClaimBinding {
        namespace: claim.namespace().unwrap_or_default(),
        name: claim.name_any(),
        uid: claim.uid().unwrap_or_default(),
        pvc_uid: None,
        mode: claim.spec.mode,
        ending: false,
    }
}

/// True if the volume's list has an entry of the claim.
pub fn is_bound(volume: &SharedPersistentVolume, claim: &VolumeClaim) -> bool {
    let uid = claim.uid().unwrap_or_default();
    volume.status.as_ref().is_some_and(|s| s.claims.iter().any(|b| b.uid == uid))
}

/// True if an entry in the volume's list still belongs to the claim. The entry may belong to an earlier claim of the
/// same name. Two leaders may have put one claim into the lists of two volumes. A claim that names the volume never
/// chose between volumes, and other users can write its status. So for such a claim the status does not count.
pub fn is_of(binding: &ClaimBinding, claim: &VolumeClaim, volume: &SharedPersistentVolume) -> bool {
    let bound =
        claim.status.as_ref().filter(|s| s.phase == ClaimPhase::Bound).and_then(|s| s.volume.as_ref());
    let elsewhere = bound.is_some_and(|bound| Some(&bound.uid) != volume.metadata.uid.as_ref());
    claim.uid().as_ref() == Some(&binding.uid) && (claim.spec.volume == volume.metadata.name || !elsewhere)
}

/// The volume in the claim's status, either chosen by a selector or bound. Other users can write the status of an
/// unbound claim. So before the binding, a claim that names its volume is decided by that name alone (L1).
pub fn noted(claim: &VolumeClaim) -> Option<&UidRef> {
    let decides = |s: &&VolumeClaimStatus| claim.spec.volume.is_none() || s.phase == ClaimPhase::Bound;
    claim.status.as_ref().filter(decides).and_then(|s| s.volume.as_ref())
}

/// The volume to bind to, or why no volume can be bound now.
///
/// For each exclusive volume, `rivals` has the oldest claim that names the volume and could have it; that claim comes
/// first (C3). A claim that could not have the volume blocks no other claim (L7).
pub fn choose<'a>(
    claim: &VolumeClaim,
    subscriptions: &[&RoleSubscription],
    volumes: &[&'a SharedPersistentVolume],
    rivals: &[&VolumeClaim],
) -> Result<&'a SharedPersistentVolume, Verdict> {
    if let Some(bound) = volumes.iter().find(|v| is_bound(v, claim)) {
        return Ok(bound);
    }
    match &claim.spec.volume {
        Some(name) => {
            // A namespace must not learn about volumes of a role that the namespace neither may use nor is subscribed
            // to.
            let knows = |v: &SharedPersistentVolume| {
                let role = &v.spec.role;
                Role::name_covers(role, &claim.spec.role) || subscriptions.iter().any(|s| covers(s, role))
            };
            let named = |v: &&&SharedPersistentVolume| v.name_any() == *name && knows(v);
            let volume = volumes.iter().find(named).ok_or_else(|| {
                let role = &claim.spec.role;
                let why = format!(
                    "there is no SharedPersistentVolume {name} for role {role}; the claim waits for it"
                );
                Verdict::no(reason::NO_SUCH_VOLUME, why)
            })?;
            may_have(claim, subscriptions, volume).map_err(|why| with_holder(why, volume))?;
            match older_rival(volume, claim, rivals) {
                None => Ok(volume),
                Some(first) => Err(Verdict::no(
                    reason::VOLUME_HELD,
                    format!("volume {name} is exclusive, and claim {} is older", binding(first)),
                )),
            }
        }
        None => {
            let fitting = volumes.iter().filter(|v| fits(claim, v));
            let has_place =
                |v: &SharedPersistentVolume| offered(v, subscriptions).and_then(|()| in_share(claim, v));
            let open = fitting.filter(|v| has_place(v).is_ok() && older_rival(v, claim, rivals).is_none());
            let distance = |v: &SharedPersistentVolume| claim.spec.role.len() - v.spec.role.len();
            open.min_by_key(|v| (distance(v), size_now(v).bytes_or_zero(), v.name_any())).copied().ok_or_else(|| {
                if let Some(unrelated) = unrelated(claim, subscriptions) {
                    return unrelated;
                }
                let mut selected: Vec<_> = volumes.iter().filter(|v| is_selected(claim, v)).collect();
                // Caches have no order. A message in varying order would cause a write each time.
                selected.sort_by_key(|v| v.name_any());
                // The selector finds a volume, which is closed to the claim now.
                let refused = selected.into_iter().filter_map(|v| match has_place(v) {
                    Ok(()) => seal::claimable(v, &claim.spec).err(),
                    Err(why) => Some(with_holder(why, v)).filter(|why| CLOSED.contains(&why.reason)),
                });
                refused.into_iter().next().unwrap_or_else(|| {
                    let namespace = claim.namespace().unwrap_or_default();
                    let why = format!(
                        "no volume on offer to namespace {namespace} {}; see `kubectl get volumeoffers -n {namespace}`",
                        wanted(claim)
                    );
                    Verdict::no(reason::NO_MATCH, why)
                })
            })
        }
    }
}

/// Reasons that a claim gives for a volume that its selector finds: another volume would not have the data. A volume that is being
/// destroyed is as good as none, and of others' volumes nothing is told.
const CLOSED: [&str; 6] = [
    reason::NO_CAPABILITY,
    reason::VOLUME_NOT_READY,
    reason::VOLUME_RETIRING,
    reason::VOLUME_HELD,
    reason::TOO_MANY_CLAIMS,
    reason::SHARE_TAKEN,
];

/// The first volume that the selector of a claim finds, and that is closed for that reason.
pub fn closed<'a>(
    claim: &VolumeClaim,
    volumes: &'a [SharedPersistentVolume],
    why: &str,
) -> Option<&'a SharedPersistentVolume> {
    let is_it = |v: &&SharedPersistentVolume| {
        is_selected(claim, v) && offer::available(v).is_err_and(|closed| closed.reason == why)
    };
    volumes.iter().filter(is_it).min_by_key(|v| v.name_any())
}

/// Refuses a claim of a role that no volume is for which these subscriptions are ever offered: they have no ancestor in common.
fn unrelated(claim: &VolumeClaim, subscriptions: &[&RoleSubscription]) -> Option<Verdict> {
    let first = |role: &str| role.split('/').next().map(str::to_owned);
    let role = &claim.spec.role;
    let mut roles = subscriptions.iter().flat_map(|s| &s.spec.roles);
    let is_related = roles.any(|subscribed| first(subscribed) == first(role));
    let why = format!("this namespace is not subscribed to role {role}; make a RoleSubscription");
    (!is_related).then(|| Verdict::no(reason::NO_SUBSCRIPTION, why))
}

/// `has the labels kind=st and has at least 5Gi`: what the selector and the digest of a claim ask for.
fn wanted(claim: &VolumeClaim) -> String {
    let Some(selector) = &claim.spec.selector else { return "fits".to_owned() };
    let labels: Vec<String> =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    let labels = (!labels.is_empty()).then(|| format!("has the labels {}", names(&labels, labels.len())));
    let size = selector.min_size.as_ref().map(|size| format!("has at least {size}"));
    let digest = claim.spec.digest.as_ref().map(|digest| format!("has the digest {digest}"));
    let all: Vec<String> = labels.into_iter().chain(size).chain(digest).collect();
    if all.is_empty() { "fits the selector".to_owned() } else { all.join(" and ") }
}

/// Refuses a volume that could not be bound to the claim now, even without any older claim.
fn may_have(
    claim: &VolumeClaim,
    subscriptions: &[&RoleSubscription],
    volume: &SharedPersistentVolume,
) -> Result<(), Verdict> {
    fits_role_and_mode(claim, volume)?;
    offered(volume, subscriptions)?;
    in_share(claim, volume)
}

/// Refuses a claim whose namespace has its share of the volume's list. No namespace takes the places of all others (A8, A9).
fn in_share(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> Result<(), Verdict> {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), volume.name_any());
    let claims = volume.status.as_ref().map_or(&[][..], |s| &s.claims);
    match full(&*namespace, claims.iter().map(|claim| &*claim.namespace)) {
        Some(Full::Share(has)) => Err(Verdict::no(
            reason::SHARE_TAKEN,
            format!(
                "volume {name} has {has} claims of namespace {namespace}, and keeps the rest of its {MOST_ENTRIES} for other \
                 namespaces; this claim is bound when another one of the namespace is deleted, or let the pods use one claim"
            ),
        )),
        // A full list is the volume's, for all namespaces.
        Some(Full::List) | None => Ok(()),
    }
}

/// True if the claim could have the volume once the volume is on offer.
pub fn is_entitled(
    claim: &VolumeClaim,
    subscriptions: &[&RoleSubscription],
    volume: &SharedPersistentVolume,
) -> bool {
    fits_role_and_mode(claim, volume).and_then(|()| offer::entitled(volume, subscriptions)).is_ok()
}

fn fits_role_and_mode(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> Result<(), Verdict> {
    let (ours, theirs) = (&claim.spec.role, &volume.spec.role);
    if !Role::name_covers(theirs, ours) {
        return Err(Verdict::no(
            reason::ROLE_NOT_ALLOWED,
            format!(
                "volume {} is for role {theirs}, which does not cover the claim's role {ours}; claim it for a role that may use it",
                volume.name_any()
            ),
        ));
    }
    if !open_to(volume, ours) {
        return Err(Verdict::no(
            reason::ROLE_NOT_ALLOWED,
            format!(
                "volume {} is for role {theirs} alone (spec.subRoles: Deny); claim it for role {theirs}",
                volume.name_any()
            ),
        ));
    }
    undivided::claimable(volume, claim.spec.mode)?;
    seal::claimable(volume, &claim.spec)
}

/// True if the claim's selector and mode fit the volume.
pub fn fits(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> bool {
    is_selected(claim, volume) && seal::claimable(volume, &claim.spec).is_ok()
}

/// True if the claim's selector fits the volume, whatever its mode.
fn is_selected(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> bool {
    let Some(selector) = &claim.spec.selector else { return false };
    // A claim names a raw device explicitly, since the pod has to use the volume as a device. A claim of the original leads to
    // its copies, too (E3), and one of a copy to this one alone. An exclusive volume of a class is its PersistentVolumeClaim's.
    volume.spec.volume_mode == VolumeMode::Filesystem
        && own_pvc::held(volume).is_none()
        && volume.spec.copy_of.is_none()
        && open_to(volume, &claim.spec.role)
        && selector.match_labels.as_ref().is_none_or(|wanted| selects(wanted, volume.labels()))
        && selector.min_size.as_ref().map_or(0, Size::bytes_or_zero) <= size_now(volume).bytes_or_zero()
}

fn older_rival<'a>(
    volume: &SharedPersistentVolume,
    claim: &VolumeClaim,
    rivals: &[&'a VolumeClaim],
) -> Option<&'a VolumeClaim> {
    let is_contested = volume.spec.shared.is_none();
    let names = |c: &VolumeClaim| c.spec.volume.as_ref().is_some_and(|name| *name == volume.name_any());
    let age = |c: &VolumeClaim| (c.creation_timestamp(), c.uid());
    let older = |c: &&&VolumeClaim| is_contested && names(c) && age(c) < age(claim);
    rivals.iter().filter(older).min_by_key(|c| age(c)).copied()
}

fn with_holder(why: Verdict, volume: &SharedPersistentVolume) -> Verdict {
    let holder = volume.status.as_ref().and_then(|s| s.claims.first());
    let Some(holder) = holder.filter(|_| why.reason == reason::VOLUME_HELD) else { return why };
    let (name, node) = (volume.name_any(), volume.status.as_ref().and_then(|s| s.node_name.as_deref()));
    let why = match holder.ending {
        // It goes with its PersistentVolumeClaim, unless the class retains it.
        _ if own_pvc::held(volume).is_some() => format!(
            "volume {name} is exclusive, and that of PersistentVolumeClaim {holder} alone; claim another volume"
        ),
        false => format!(
            "volume {name} is exclusive and held by claim {holder}; this claim is bound when that one is deleted"
        ),
        true => format!(
            "volume {name} is exclusive, and claim {holder} is being deleted; this claim is bound when node {} reports \
             that nothing of that one is mounted",
            node.unwrap_or("?")
        ),
    };
    Verdict::no(reason::VOLUME_HELD, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ClaimSelector, SubRoles, UidRef, VolumeClaimStatus};
    use crate::plan::testing::*;

    fn pick(
        claim: &VolumeClaim,
        sub: &RoleSubscription,
        vs: &[SharedPersistentVolume],
        others: &[VolumeClaim],
    ) -> Result<String, Verdict> {
        let vs: Vec<_> = vs.iter().collect();
        let entitled = |other: &&VolumeClaim| vs.iter().any(|v| is_entitled(other, &[sub], v));
        let rivals: Vec<_> = others.iter().filter(entitled).collect();
        choose(claim, &[sub], &vs, &rivals).map(|v| v.name_any())
    }

    /// C4.
    #[test]
    fn c1_a_named_volume_is_bound_only_if_offered() {
        let sub = subscription("ns", &["eng"], true);
        let claim = claim("ns", "c", "v");
        assert_eq!(pick(&claim, &sub, &[ready_volume("v", "eng", true)], &[]), Ok("v".into()));
        assert_eq!(pick(&claim, &sub, &[], &[]).unwrap_err().reason, "NoSuchVolume");
        let ops = [ready_volume("v", "ops", true)];
        assert_eq!(
            pick(&claim, &sub, &ops, &[]),
            pick(&claim, &sub, &[], &[]),
            "nothing is told of others' volumes"
        );
        let both = subscription("ns", &["eng", "ops"], true);
        assert_eq!(pick(&claim, &both, &ops, &[]).unwrap_err().reason, "RoleNotAllowed");
        let mut for_ops = claim.clone();
        for_ops.spec.role = "ops".into();
        assert_eq!(pick(&for_ops, &sub, &ops, &[]).unwrap_err().reason, "NoSubscription");
    }

    /// C4. A selector skips such a volume, and the subscription's own rights to the volume do not count.
    #[test]
    fn r3_a_volume_that_denies_sub_roles_binds_to_its_own_role() {
        let sub = subscription("ns", &["eng", "eng/ml"], true);
        let mut volume = ready_volume("v", "eng", true);
        let own = claim("ns", "c", "v");
        let mut below = own.clone();
        below.spec.role = "eng/ml".into();
        let mut selects = below.clone();
        (selects.spec.volume, selects.spec.selector) = (None, Some(ClaimSelector::default()));
        assert_eq!(pick(&below, &sub, std::slice::from_ref(&volume), &[]), Ok("v".into()));
        assert_eq!(pick(&selects, &sub, std::slice::from_ref(&volume), &[]), Ok("v".into()));
        volume.spec.sub_roles = SubRoles::Deny;
        let volumes = [volume];
        assert_eq!(pick(&own, &sub, &volumes, &[]), Ok("v".into()));
        let said = pick(&below, &sub, &volumes, &[]).unwrap_err();
        assert_eq!(said.reason, "RoleNotAllowed");
        assert_eq!(
            said.message,
            "volume v is for role eng alone (spec.subRoles: Deny); claim it for role eng"
        );
        assert_eq!(pick(&selects, &sub, &volumes, &[]).unwrap_err().reason, "NoMatch");
    }

    /// C4, L7.
    #[test]
    fn c3_a_held_volume_names_its_holder_and_the_oldest_is_next() {
        let sub = subscription("ns", &["eng"], true);
        let mut held = ready_volume("v", "eng", false);
        held.status.as_mut().unwrap().claims = vec![bound_by("other", "holder", "u0")];
        let waiting = claim("ns", "c", "v");
        let said = pick(&waiting, &sub, std::slice::from_ref(&held), &[]).unwrap_err();
        assert_eq!(
            said.message,
            "volume v is exclusive and held by claim other/holder; this claim is bound when that one is deleted"
        );
        held.status.as_mut().unwrap().claims[0].ending = true;
        let said = pick(&waiting, &sub, std::slice::from_ref(&held), &[]).unwrap_err().message;
        assert!(said.contains("when node n1 reports that nothing of that one is mounted"), "{said}");
        let free = ready_volume("v", "eng", false);
        let mut younger = claim("ns", "d", "v");
        younger.metadata.creation_timestamp = later();
        assert_eq!(
            pick(&waiting, &sub, std::slice::from_ref(&free), &[waiting.clone(), younger.clone()]),
            Ok("v".into())
        );
        assert_eq!(
            pick(&younger, &sub, &[free], &[waiting, younger.clone()]).unwrap_err().reason,
            "VolumeHeld"
        );
    }

    /// L7: such a claim has a role that does not cover the volume, or a mode that the volume does not support.
    #[test]
    fn l7_an_older_claim_that_cannot_bind_holds_nobody_up() {
        let sub = subscription("ns", &["eng", "ops"], true);
        let mut free = ready_volume("v", "eng", false);
        free.spec.volume_mode = VolumeMode::Block;
        let mut younger = claim("ns", "d", "v");
        younger.metadata.creation_timestamp = later();
        let (mut ops, mut reader) = (claim("ns", "ops", "v"), claim("ns", "reader", "v"));
        (ops.spec.role, reader.spec.mode) = ("ops".into(), crate::api::AccessMode::ReadOnly);
        assert_eq!(pick(&younger, &sub, &[free], &[ops, reader, younger.clone()]), Ok("v".into()));
    }

    #[test]
    fn a9_one_namespace_leaves_places_for_the_claims_of_others() {
        let sub = subscription("ns", &["eng"], true);
        let mut volume = ready_volume("v", "eng", true);
        let claims = |n: usize| (0..n).map(|i| bound_by("flood", "c", &format!("u{i}"))).collect();
        volume.status.as_mut().unwrap().claims = claims(500);
        let volumes = [volume];
        let (mut flood, own) = (claim("flood", "one-more", "v"), claim("ns", "c", "v"));
        let refused = pick(&flood, &sub, &volumes, &[]).unwrap_err();
        assert_eq!(refused.reason, "ShareTaken");
        assert!(
            refused.message.starts_with("volume v has 500 claims of namespace flood"),
            "{}",
            refused.message
        );
        assert_eq!(pick(&own, &sub, &volumes, &[]), Ok("v".into()));
        (flood.spec.volume, flood.spec.selector) = (None, Some(ClaimSelector::default()));
        assert_eq!(pick(&flood, &sub, &volumes, &[]).unwrap_err().reason, "ShareTaken");
        let [mut volume] = volumes;
        volume.status.as_mut().unwrap().claims = claims(1000);
        assert_eq!(pick(&own, &sub, &[volume], &[]).unwrap_err().reason, "TooManyClaims");
    }

    #[test]
    fn e1_a_selector_that_writes_passes_over_sealed_volumes() {
        let sub = subscription("ns", &["eng"], true);
        let (mut sealed, open) = (ready_volume("a", "eng", true), ready_volume("b", "eng", true));
        sealed.spec.sealed = true;
        let volumes = [sealed, open];
        let mut named = claim("ns", "c", "a");
        assert_eq!(pick(&named, &sub, &volumes, &[]).unwrap_err().reason, "VolumeSealed");
        (named.spec.volume, named.spec.selector) = (None, Some(ClaimSelector::default()));
        assert_eq!(pick(&named, &sub, &volumes, &[]), Ok("b".into()));
        let said = pick(&named, &sub, &volumes[..1], &[]).unwrap_err();
        assert_eq!((said.reason, said.message.contains("volume a is being sealed")), ("VolumeSealed", true));
        named.spec.mode = crate::api::AccessMode::ReadOnly;
        assert_eq!(pick(&named, &sub, &volumes, &[]), Ok("a".into()));
    }

    #[test]
    fn e3_a_selector_gets_the_original_and_no_copy() {
        let sub = subscription("ns", &["eng"], true);
        let (mut copy, of) = (ready_volume("a", "eng", true), ready_volume("b", "eng", true));
        copy.spec.copy_of = Some(Default::default());
        let volumes = [copy, of];
        let mut c = claim("ns", "c", "a");
        assert_eq!(pick(&c, &sub, &volumes, &[]), Ok("a".into()), "by its name");
        (c.spec.volume, c.spec.selector) = (None, Some(ClaimSelector::default()));
        assert_eq!(pick(&c, &sub, &volumes, &[]), Ok("b".into()));
        assert_eq!(pick(&c, &sub, &volumes[..1], &[]).unwrap_err().reason, "NoMatch");
    }

    #[test]
    fn c1_a_selector_gets_the_smallest_that_fits() {
        let sub = subscription("ns", &["eng"], true);
        let mut claim = claim("ns", "c", "v");
        claim.spec.volume = None;
        claim.spec.selector =
            Some(ClaimSelector { min_size: Some(Size::written("2Gi")), ..Default::default() });
        let sized = |name: &str, gi: u64| {
            let mut v = ready_volume(name, "eng", true);
            v.status.as_mut().unwrap().size = Some(Size::from_bytes(gi << 30));
            v
        };
        let vs = [sized("big", 9), sized("small", 1), sized("fit", 3)];
        assert_eq!(pick(&claim, &sub, &vs, &[]), Ok("fit".into()));
        claim.spec.selector.as_mut().unwrap().match_labels = Some([("a".into(), "b".into())].into());
        assert_eq!(pick(&claim, &sub, &vs, &[]).unwrap_err().reason, "NoMatch");
    }

    /// C4, T4: a new volume would help neither of them.
    #[test]
    fn c4_a_selector_that_no_volume_can_meet_says_what_is_missing() {
        let mut claim = claim("ns", "c", "v");
        (claim.spec.volume, claim.spec.selector) = (None, Some(ClaimSelector::default()));
        let shared = [ready_volume("v", "eng", true)];
        let said = |roles: &[&str], capable| {
            pick(&claim, &subscription("ns", roles, capable), &shared, &[]).unwrap_err()
        };
        for roles in [&[][..], &["ops"], &["engine"]] {
            let said = said(roles, true);
            assert_eq!(said.reason, "NoSubscription", "{roles:?}");
            assert_eq!(said.message, "this namespace is not subscribed to role eng; make a RoleSubscription");
        }
        let said = said(&["eng"], false);
        assert_eq!(said.reason, "NoCapability");
        assert!(said.message.starts_with("volume v is shared; add SHARED_RESOURCES"), "{}", said.message);
    }

    /// P4, T4: with its PersistentVolumeClaim the volume goes, too.
    #[test]
    fn p4_a_volume_of_a_pvc_is_told_as_that_of_no_other() {
        let (sub, mut volume) = (subscription("ns", &["eng"], true), ready_volume("v", "eng", false));
        volume.metadata.labels = Some([(crate::api::LABEL_PVC_UID.to_owned(), "p".to_owned())].into());
        volume.status.as_mut().unwrap().claims = vec![bound_by("other", "data", "p")];
        let said = pick(&claim("ns", "c", "v"), &sub, &[volume], &[]).unwrap_err();
        assert_eq!(
            (said.reason, &*said.message),
            (
                "VolumeHeld",
                "volume v is exclusive, and that of PersistentVolumeClaim other/data alone; claim another volume"
            )
        );
    }

    /// C4, T4: a new volume would be empty.
    #[test]
    fn c4_a_selector_names_the_volume_that_it_waits_for() {
        let sub = subscription("ns", &["eng"], true);
        let mut claim = claim("ns", "c", "v");
        (claim.spec.volume, claim.spec.selector) = (None, Some(ClaimSelector::default()));
        let (mut away, mut held) = (ready_volume("w", "eng", true), ready_volume("v", "eng", false));
        set_ready(&mut away.status.as_mut().unwrap().conditions, false);
        held.status.as_mut().unwrap().claims = vec![bound_by("other", "holder", "u0")];
        let mut volumes = [away, held];
        let said = pick(&claim, &sub, &volumes, &[]).unwrap_err();
        assert_eq!(
            (said.reason, &*said.message),
            (
                "VolumeHeld",
                "volume v is exclusive and held by claim other/holder; this claim is bound when that one is deleted"
            )
        );
        assert_eq!(closed(&claim, &volumes, said.reason).map(|v| v.name_any()), Some("v".into()));
        let said = pick(&claim, &sub, &volumes[..1], &[]).unwrap_err();
        assert_eq!(said.reason, "VolumeNotReady");
        assert!(
            said.message.starts_with("volume w is not ready, the claim waits for it"),
            "{}",
            said.message
        );
        let ops = subscription("ns", &["eng/ops"], true);
        volumes[0].spec.sub_roles = SubRoles::Deny;
        assert_eq!(
            pick(&claim, &ops, &volumes[..1], &[]).unwrap_err().reason,
            "NoMatch",
            "nothing is told of others'"
        );
        volumes[0].spec.retire = true;
        assert_eq!(
            pick(&claim, &sub, &volumes[..1], &[]).unwrap_err().reason,
            "VolumeRetiring",
            "it may be kept"
        );
    }

    #[test]
    fn s8_an_entry_on_the_list_belongs_to_one_claim() {
        let v = ready_volume("v", "eng", true);
        let mut named = claim("ns", "c", "v");
        let entry = super::binding(&named);
        assert!(is_of(&entry, &named, &v));
        named.status = Some(VolumeClaimStatus {
            phase: ClaimPhase::Bound,
            volume: Some(UidRef { name: "other".into(), uid: "uid-other".into() }),
            ..Default::default()
        });
        assert!(is_of(&entry, &named, &v), "somebody wrote that");
        let mut selects = named.clone();
        selects.spec.volume = None;
        assert!(!is_of(&entry, &selects, &v), "two leaders chose at once");
        named.metadata.uid = Some("uid-later".into());
        assert!(!is_of(&entry, &named, &v));
    }

    #[test]
    fn s8_a_binding_stays_whatever_changes() {
        let mut v = ready_volume("v", "eng", true);
        let c = claim("ns", "c", "v");
        v.status.as_mut().unwrap().claims = vec![super::binding(&c)];
        v.status.as_mut().unwrap().conditions.clear();
        assert_eq!(pick(&c, &subscription("ns", &["ops"], false), &[v], &[]), Ok("v".into()));
    }
}
