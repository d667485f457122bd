//! The next step of a claim that is not being deleted: ACCEPT, then its PersistentVolume and PersistentVolumeClaim
//! (C1–C7).
//!
//! The list of claims in the volume's status decides about bindings, by compare-and-swap on the volume. A binding is
//! written once, by UID, and never moves to another volume. A claim that selects notes the chosen volume first. After an
//! interruption, and with an old cache, the claim goes on with that volume, so no two volumes list the claim (S8).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    ClaimPhase, RoleSubscription, SharedPersistentVolume, SharedPersistentVolumeStatus, UidRef, VolumeClaim,
    VolumeClaimStatus,
};

use super::persistent_volume::{self, is_of_claim};
use super::pvc_provisioner::pvc_of;
use super::{bind, debounce, node_lifetime, offer, pv_binding, refs};

/// The pause before another look at an object without a watch: an object that blocks the claim, or a PersistentVolume.
const RETRY: Duration = Duration::from_secs(5);

/// The state around a claim's object.
#[derive(Debug)]
pub struct Seen {
    /// Our finalizer is on the object.
    pub guarded: bool,
    /// The volume in the claim's status, else the volume in the claim's spec. Read live if the cached volume does not
    /// list the claim.
    pub volume: Option<Arc<SharedPersistentVolume>>,
    /// The volumes to choose from; for a bound claim the subscriptions alone.
    pub offers: Offers,
    /// The reason why [`Step::Bind`] did not put the claim into the volume's list.
    pub refused: Option<Verdict>,
    /// The claim's PersistentVolume and PersistentVolumeClaim.
    pub binding: pv_binding::Seen,
    /// True if there is no Node of the name in the claim's status.
    pub node_missing: bool,
    /// The time.
    pub now: Timestamp,
}

/// Volumes, and the claims that compete for them, from the caches.
#[derive(Debug, Default)]
pub struct Offers {
    /// The subscriptions of the claim's namespace.
    pub subscriptions: Vec<Arc<RoleSubscription>>,
    /// Volumes that the claim may use, and volumes whose lists have the claim.
    pub volumes: Vec<Arc<SharedPersistentVolume>>,
    /// For each exclusive volume, the oldest claim that names the volume and could have it.
    pub rivals: Vec<Arc<VolumeClaim>>,
    /// Names of the volumes on cordoned nodes. A claim that selects gets another one, if one fits.
    pub cordoned: BTreeSet<String>,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Add the finalizer.
    Guard,
    /// Delete the claim: its PersistentVolumeClaim is gone (P4).
    Delete,
    /// Delete the PersistentVolumeClaim of a class that was read, and publish the event: the volume's node is gone (D7).
    EndPvc(String),
    /// Write the status with the chosen volume. The watch enqueues the claim again.
    Note(Box<VolumeClaimStatus>),
    /// Put the claim into the list of the volume of that name. The watch of volumes enqueues the claim again. After a
    /// refusal, or if the volume is gone, decide again.
    Bind(String),
    /// Apply this step for the claim's PersistentVolume and PersistentVolumeClaim, with that volume, and decide again.
    Binding(pv_binding::Step, Arc<SharedPersistentVolume>),
    /// Write the status; reconcile again after that time.
    Report(Box<VolumeClaimStatus>, Option<Duration>),
    /// Wait: Kubernetes binds the PersistentVolumeClaim within moments.
    Debounce,
}

/// The next step.
pub fn next(claim: &VolumeClaim, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Guard;
    }
    let binding = &seen.binding;
    // The PersistentVolumeClaim is neither in the cache nor found by a live read.
    let is_gone = !binding.pvc.as_ref().is_some_and(|pvc| is_of_claim(pvc, claim));
    if pvc_of(claim).is_some() && binding.cached.is_none() && is_gone {
        return Step::Delete;
    }
    let mut status = claim.status.clone().unwrap_or_default();
    let volume = match volume_of(claim, seen) {
        Ok(Ok(volume)) => volume,
        Ok(Err(why)) => return report(claim, status, why, None, seen),
        Err(step) => return step,
    };
    if node_lifetime::has_ended(&volume) {
        let why = node_lifetime::claim_ended(claim);
        let own = binding.pvc.as_ref().filter(|pvc| pvc_of(claim).is_some() && is_of_claim(pvc, claim));
        return match own {
            Some(pvc) if pvc.metadata.deletion_timestamp.is_none() => {
                Step::EndPvc(node_lifetime::pvc_ended(claim))
            }
            _ => report(claim, status, why, None, seen),
        };
    }
    let node = volume.status.as_ref().and_then(|s| s.node_name.clone());
    let outcome = match pv_binding::next(claim, &volume, binding) {
        pv_binding::Step::Wait(why) => Err(why),
        pv_binding::Step::Done => Ok(()),
        step => return Step::Binding(step, volume),
    };
    status.phase = ClaimPhase::Bound;
    status.volume = Some(UidRef { name: volume.name_any(), uid: volume.uid().unwrap_or_default() });
    // The node of the PersistentVolume, which differs for a while from the node of a moved volume.
    if outcome.is_ok() || !pv_binding::is_moved(claim, &volume) {
        status.node_name = node;
    }
    match outcome {
        Ok(()) => {
            status.persistent_volume = Some(persistent_volume::name(claim));
            let mut verdict = pv_binding::report(claim, binding);
            if verdict.ok && is_unsubscribed(claim, &volume, &seen.offers) {
                let role = &volume.spec.role;
                verdict.message.push_str(&format!(
                    "; the namespace is not subscribed to role {role} any more, and the claim goes on until it is deleted"
                ));
            }
            // The binding depends on PersistentVolumes, which have no watch.
            let again = (!verdict.ok).then_some(RETRY);
            report(claim, status, verdict, again, seen)
        }
        Err(why) => report(claim, status, why, Some(RETRY), seen),
    }
}

/// True if the volume of a bound claim is on offer to no subscription of the namespace any more. A claim of a
/// PersistentVolumeClaim needs none (P1).
fn is_unsubscribed(claim: &VolumeClaim, volume: &SharedPersistentVolume, offers: &Offers) -> bool {
    let entitled = || offer::entitled(volume, &refs(&offers.subscriptions));
    pvc_of(claim).is_none() && entitled().is_err_and(|why| why.reason == reason::NO_SUBSCRIPTION)
}

/// The volume whose list has the claim, or why no volume has. The error is the step that may put the claim into a list.
fn volume_of(claim: &VolumeClaim, seen: &Seen) -> Result<Result<Arc<SharedPersistentVolume>, Verdict>, Step> {
    let before = claim.status.clone().unwrap_or_default();
    let noted = bind::noted(claim);
    if let Some(volume) = seen.volume.as_ref().filter(|volume| has(volume, claim)) {
        return Ok(Ok(volume.clone()));
    }
    if let Some(why) = &seen.refused {
        return Ok(Err(why.clone()));
    }
    if let Some(noted) = noted.filter(|_| before.phase == ClaimPhase::Bound) {
        let has_ended =
            condition::get(&before.conditions, READY).is_some_and(|c| c.reason == reason::NODE_GONE);
        if has_ended || seen.node_missing || seen.volume.as_deref().is_some_and(node_lifetime::has_ended) {
            return Ok(Err(node_lifetime::claim_ended(claim)));
        }
        let is_there =
            seen.volume.as_ref().is_some_and(|volume| volume.metadata.uid.as_ref() == Some(&noted.uid));
        let what = match is_there {
            true => "is there with its data, and does not list the claim any more",
            false => "that it was bound to is gone",
        };
        let why = format!("the volume {} {what}; delete this claim and make another one", noted.name);
        return Ok(Err(Verdict::no(reason::VOLUME_LOST, why)));
    }
    let chosen = match seen.offers.choose(claim, &refs(&seen.offers.volumes)) {
        Ok(chosen) => chosen,
        Err(why) => return Ok(Err(why)),
    };
    let chosen = UidRef { name: chosen.name_any(), uid: chosen.uid().unwrap_or_default() };
    if claim.spec.volume.is_none() && noted != Some(&chosen) {
        let status = VolumeClaimStatus { volume: Some(chosen), ..before };
        return Err(Step::Note(Box::new(status)));
    }
    Err(Step::Bind(chosen.name))
}

/// Why a claim is not bound to a volume that was deleted in the meantime.
pub fn volume_gone(name: &str) -> Verdict {
    let why = format!("SharedPersistentVolume {name} was deleted meanwhile; the claim waits for a volume");
    Verdict::no(reason::NO_SUCH_VOLUME, why)
}

/// True if the volume lists the claim, and the claim's status names no other volume.
pub fn has(volume: &SharedPersistentVolume, claim: &VolumeClaim) -> bool {
    bind::noted(claim).is_none_or(|noted| volume.metadata.uid.as_ref() == Some(&noted.uid))
        && bind::is_bound(volume, claim)
}

impl Offers {
    fn choose<'a>(
        &self,
        claim: &VolumeClaim,
        volumes: &[&'a SharedPersistentVolume],
    ) -> Result<&'a SharedPersistentVolume, Verdict> {
        let of =
            |volumes: &[&'a _]| bind::choose(claim, &refs(&self.subscriptions), volumes, &refs(&self.rivals));
        let is_elsewhere =
            |v: &SharedPersistentVolume| bind::is_bound(v, claim) || !self.cordoned.contains(&v.name_any());
        let elsewhere: Vec<_> = volumes.iter().copied().filter(|v| is_elsewhere(v)).collect();
        match claim.spec.volume {
            None if elsewhere.len() < volumes.len() => of(&elsewhere).or_else(|_| of(volumes)),
            _ => of(volumes),
        }
    }

    /// The volume's status with the claim in its list, decided again on the present volume: the cache may be old.
    pub fn bind(
        &self,
        claim: &VolumeClaim,
        volume: &SharedPersistentVolume,
    ) -> Result<SharedPersistentVolumeStatus, Verdict> {
        let mut status = volume.status.clone().unwrap_or_default();
        if !bind::is_bound(volume, claim) {
            self.choose(claim, &[volume])?;
            status.claims.push(bind::binding(claim));
        }
        Ok(status)
    }
}

fn report(
    claim: &VolumeClaim,
    mut status: VolumeClaimStatus,
    why: Verdict,
    again: Option<Duration>,
    seen: &Seen,
) -> Step {
    let young = debounce::is_passing(claim.metadata.creation_timestamp.as_ref(), seen.now);
    if why.reason == reason::BINDING && young {
        return Step::Debounce;
    }
    condition::set(&mut status.conditions, READY, why, claim.metadata.generation, seen.now);
    Step::Report(Box::new(status), again)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::{from_value, json};

    use super::*;
    use crate::api::{ClaimSelector, LABEL_PVC_UID};
    use crate::plan::persistent_volume::{persistent_volume, persistent_volume_claim};
    use crate::plan::pv_binding::{Pvc, Step as Pv};
    use crate::plan::testing::*;

    fn seen() -> Seen {
        Seen {
            guarded: true,
            volume: None,
            offers: offers(&[]),
            refused: None,
            binding: pv_binding::Seen::default(),
            node_missing: false,
            now: Timestamp::from_second(60).unwrap(),
        }
    }

    fn offers(volumes: &[&SharedPersistentVolume]) -> Offers {
        let volumes = volumes.iter().map(|v| Arc::new((*v).clone())).collect();
        let subscriptions = vec![Arc::new(subscription("ns", &["eng"], true))];
        Offers { subscriptions, volumes, ..Default::default() }
    }

    #[test]
    fn c1_a_claim_that_selects_prefers_nodes_that_are_not_cordoned() {
        let mut claim = claim("ns", "c", "v");
        claim.spec.volume = None;
        claim.spec.selector = Some(Default::default());
        let (a, b) = (ready_volume("a", "eng", true), ready_volume("b", "eng", true));
        let chosen = |cordoned: &[&str], volumes: &[&SharedPersistentVolume]| {
            let cordoned = cordoned.iter().map(|&name| name.to_owned()).collect();
            let offers = Offers { cordoned, ..offers(volumes) };
            offers.choose(&claim, &refs(&offers.volumes)).map(|volume| volume.name_any()).ok()
        };
        assert_eq!(chosen(&[], &[&a, &b]).as_deref(), Some("a"));
        assert_eq!(chosen(&["a"], &[&a, &b]).as_deref(), Some("b"));
        assert_eq!(chosen(&["a"], &[&a]).as_deref(), Some("a"), "its pods wait for the node");
        assert_eq!(chosen(&["a", "b"], &[&a, &b]).as_deref(), Some("a"));
    }

    /// A volume with the claim in its list.
    fn having(claim: &VolumeClaim) -> Arc<SharedPersistentVolume> {
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().claims = vec![bind::binding(claim)];
        Arc::new(v)
    }

    fn reason(step: Step) -> (String, VolumeClaimStatus) {
        match step {
            Step::Report(status, _) => {
                (condition::get(&status.conditions, READY).unwrap().reason.clone(), *status)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn c1_a_named_volume_is_bound_then_given_to_pods() {
        let (c, mut s) = (claim("ns", "c", "v"), seen());
        assert_eq!(next(&c, &Seen { guarded: false, ..seen() }), Step::Guard);
        assert_eq!(reason(next(&c, &s)).0, "NoSuchVolume");
        let free = ready_volume("v", "eng", true);
        s.offers = offers(&[&free]);
        assert_eq!(next(&c, &s), Step::Bind("v".into()));
        let bound = s.offers.bind(&c, &free).unwrap();
        assert_eq!(bound.claims, [bind::binding(&c)]);
        s.volume = Some(having(&c));
        let Step::Binding(Pv::CreatePv(pv), _) = next(&c, &s) else { panic!() };
        s.binding.pv = Some(*pv);
        let Step::Binding(Pv::CreatePvc(pvc), _) = next(&c, &s) else { panic!() };
        s.binding.pvc = Some(*pvc);
        let (said, status) = reason(next(&c, &s));
        assert_eq!((said.as_str(), status.phase), ("Binding", ClaimPhase::Bound));
        assert_eq!(status.persistent_volume.as_deref(), Some("reservoir-uid-c"));
        assert_eq!(next(&c, &Seen { now: Timestamp::UNIX_EPOCH, ..s }), Step::Debounce);
    }

    #[test]
    fn o1_a_bound_claim_says_that_its_namespace_has_unsubscribed() {
        let claim = claim("ns", "c", "v");
        let says = |roles: &[&str]| {
            let subscriptions = vec![Arc::new(subscription("ns", roles, false))];
            let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
            let offers = Offers { subscriptions, ..Default::default() };
            let status =
                reason(next(&claim, &Seen { volume: Some(having(&claim)), offers, binding, ..seen() })).1;
            condition::get(&status.conditions, READY).unwrap().message.clone()
        };
        assert_eq!(says(&["eng"]), "pods may use PersistentVolumeClaim c");
        assert_eq!(
            says(&["ops"]),
            "pods may use PersistentVolumeClaim c; the namespace is not subscribed to role eng any more, and the claim goes \
             on until it is deleted"
        );
    }

    #[test]
    fn c1_a_volume_that_was_lost_to_another_is_reported() {
        let (c, v) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        let refused = Some(volume_gone("v"));
        assert_eq!(reason(next(&c, &Seen { offers: offers(&[&v]), refused, ..seen() })).0, "NoSuchVolume");
    }

    #[test]
    fn s8_a_claim_that_selects_notes_its_volume_first() {
        let (mut c, mut s) = (claim("ns", "c", "v"), seen());
        (c.spec.volume, c.spec.selector) = (None, Some(ClaimSelector::default()));
        let free = ready_volume("v", "eng", true);
        s.offers = offers(&[&free]);
        let Step::Note(status) = next(&c, &s) else { panic!() };
        assert_eq!(status.volume.as_ref().unwrap().name, "v");
        c.status = Some(*status);
        s.volume = Some(Arc::new(free));
        assert_eq!(next(&c, &s), Step::Bind("v".into()));
        s.volume = Some(having(&c));
        assert!(matches!(next(&c, &s), Step::Binding(..)), "it is on the list, though no cache has that");
    }

    #[test]
    fn c7_a_binding_is_never_moved_to_another_volume() {
        let (mut c, mut s) = (claim("ns", "c", "v"), seen());
        let noted = Some(UidRef { name: "v".into(), uid: "uid-old".into() });
        c.status = Some(VolumeClaimStatus { phase: ClaimPhase::Bound, volume: noted, ..Default::default() });
        s.volume = Some(having(&c));
        assert_eq!(reason(next(&c, &s)).0, "VolumeLost", "another volume has the name");
        s.volume = None;
        assert_eq!(reason(next(&c, &s)).0, "VolumeLost");
    }

    fn is_bound(bound: bool) -> Option<Pvc> {
        Some(Pvc { bound, capacity: Some(1 << 30) })
    }

    #[test]
    fn c5_a_bound_claim_reads_and_writes_nothing() {
        let c = claim("ns", "c", "v");
        let binding = pv_binding::Seen { cached: is_bound(true), ..Default::default() };
        let (said, status) = reason(next(&c, &Seen { volume: Some(having(&c)), binding, ..seen() }));
        assert_eq!((said.as_str(), status.node_name.as_deref()), ("Bound", Some("n1")));
    }

    /// The step for the two objects of a bound claim. `node` is the node in the claim's status.
    fn step(c: &VolumeClaim, node: Option<&str>, binding: pv_binding::Seen) -> Step {
        let mut c = c.clone();
        let status = c.status.get_or_insert_default();
        status.node_name = node.map(str::to_owned);
        next(&c, &Seen { volume: Some(having(&c)), binding, ..seen() })
    }

    #[test]
    fn l1_a_deleted_persistent_volume_claim_is_made_anew() {
        let (c, v) = (claim("ns", "c", "v"), having(&claim("ns", "c", "v")));
        let mut old = persistent_volume(&c, &v);
        old.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("old".into());
        let with = |pv| pv_binding::Seen { pv, ..Default::default() };
        let Step::Binding(Pv::DeletePv(why), _) = step(&c, None, with(Some(old.clone()))) else { panic!() };
        assert!(why.message.contains("c was deleted and is being made anew"), "{}", why.message);
        let deleted = pv_binding::Seen { waits: Some(why), ..with(Some(old)) };
        assert!(
            matches!(step(&c, None, deleted), Step::Report(_, Some(RETRY))),
            "no watch has the PersistentVolume"
        );
        assert!(matches!(step(&c, None, with(None)), Step::Binding(Pv::CreatePv(_), _)), "it went meanwhile");
    }

    #[test]
    fn c5_a_persistent_volume_claim_of_others_is_left_alone() {
        let c = claim("ns", "c", "v");
        let binding = pv_binding::Seen { pvc: Some(PersistentVolumeClaim::default()), ..Default::default() };
        assert_eq!(reason(step(&c, None, binding)).0, "NameTaken");
    }

    #[test]
    fn v7_the_size_is_shown_once_kubernetes_has_bound_both() {
        let c = claim("ns", "c", "v");
        for (bound, shown) in [(true, true), (false, false)] {
            let cached = Some(Pvc { bound, capacity: Some(1) });
            let found = step(&c, None, pv_binding::Seen { cached, ..Default::default() });
            assert_eq!(matches!(found, Step::Binding(Pv::ShowSize, _)), shown);
        }
    }

    #[test]
    fn d3_both_are_made_anew_on_the_node_that_the_volume_moved_to() {
        let (c, v) = (claim("ns", "c", "v"), having(&claim("ns", "c", "v")));
        let (pv, mut pvc) = (persistent_volume(&c, &v), persistent_volume_claim(&c, &v));
        let mut old = pv.clone();
        old.spec.as_mut().unwrap().node_affinity = None;
        let with = |pv, pvc| pv_binding::Seen { cached: is_bound(true), pvc, pv, ..Default::default() };
        let moved = |pv, pvc| step(&c, Some("n0"), with(pv, pvc));
        let deletes = |step| match step {
            Step::Binding(Pv::DeletePvc(_), _) => "claim",
            Step::Binding(Pv::DeletePv(_), _) => "volume",
            other => panic!("{other:?}"),
        };
        assert_eq!(deletes(moved(Some(old.clone()), Some(pvc.clone()))), "claim");
        pvc.metadata.deletion_timestamp = some_time();
        let (said, status) = reason(moved(Some(old.clone()), Some(pvc.clone())));
        assert_eq!((said.as_str(), status.node_name.as_deref()), ("Binding", Some("n0")));
        assert_eq!(deletes(moved(Some(old.clone()), None)), "volume");
        assert_eq!(reason(moved(Some(pv), Some(pvc))).1.node_name.as_deref(), Some("n1"));
        let mut provisioned = c.clone();
        provisioned.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let found = step(&provisioned, Some("n0"), with(Some(old), None));
        let Step::Report(status, Some(_)) = found else { panic!("{found:?}") };
        assert!(status.conditions[0].message.contains("claim volume v with a VolumeClaim"));
    }

    #[test]
    fn p4_a_claim_goes_with_its_persistent_volume_claim() {
        let mut c = claim("ns", "c", "v");
        c.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let with = |uid: Option<&str>| {
            let pvc = uid.map(|uid| from_value(json!({"metadata": {"name": "c", "uid": uid}})).unwrap());
            next(&c, &Seen { binding: pv_binding::Seen { pvc, ..Default::default() }, ..seen() })
        };
        assert_eq!((with(None), with(Some("later"))), (Step::Delete, Step::Delete));
        assert_eq!(reason(with(Some("u"))).0, "NoSuchVolume");
    }

    /// L1: another user may have written the status of an unbound claim.
    #[test]
    fn l1_a_forged_status_keeps_no_claim_from_its_volume() {
        let (mut c, mut v) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        v.status.get_or_insert_default().claims = vec![bind::binding(&c)];
        let noted = UidRef { name: "v".into(), uid: "uid-forged".into() };
        c.status = Some(VolumeClaimStatus { volume: Some(noted), ..Default::default() });
        assert!(has(&v, &c), "it names its volume");
        c.status.as_mut().unwrap().phase = ClaimPhase::Bound;
        assert!(!has(&v, &c), "the volume was made anew");
        c.status.as_mut().unwrap().phase = ClaimPhase::Pending;
        c.spec.volume = None;
        assert!(!has(&v, &c), "it chose another one");
    }
}
