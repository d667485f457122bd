//! The next step of a claim that is being deleted (C6, P4).
//!
//! The order is: the pods end, the PersistentVolumeClaim goes, then the PersistentVolume, then the claim's entry on the
//! list of its volume, then the finalizer. A claim of a class waits for its PersistentVolumeClaim instead, and decides
//! the fate of its volume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    ClaimPhase, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim, VolumeClaimStatus,
};

use super::pvc_provisioner::{Fate, fate, pvc_of};
use super::{LISTED_PODS, bind, debounce, names};

/// The state of a claim besides its object.
#[derive(Debug)]
pub struct Seen {
    /// The object is there with our finalizer, read live: the cache may have one that has just gone.
    pub guarded: bool,
    /// The PersistentVolumeClaim that was made for it, or it for that, read live.
    pub pvc: Option<PersistentVolumeClaim>,
    /// Running and pending pods that use that, by the cache, and if that has none, by a live read.
    pub users: Vec<PodRef>,
    /// Of a claim whose PersistentVolumeClaim is gone: the volume and then the PersistentVolume that were made for
    /// that, read live.
    pub provisioned: Option<(SharedPersistentVolume, Option<PersistentVolume>)>,
    /// The name of the volume whose list has the claim.
    pub volume: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Retire the very volume that was read, and decide again.
    Retire,
    /// Make the very volume that was read one like any other, publish the event, and decide again (P4).
    Release(String),
    /// Delete the PersistentVolumeClaim that was read, and decide again.
    DeletePvc,
    /// Write the status.
    Report(Box<VolumeClaimStatus>),
    /// Nothing yet: Kubernetes removes the PersistentVolumeClaim within moments.
    Debounce,
    /// Delete the PersistentVolume, take the claim off the volume's list, remove the finalizer. Kubernetes may keep the
    /// PersistentVolume for a moment: without its PersistentVolumeClaim no pod gets to it.
    End,
    /// Nothing.
    Rest,
}

/// The next step.
pub fn next(claim: &VolumeClaim, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Rest;
    }
    let name = claim.name_any();
    let Some(pvc) = &seen.pvc else {
        let provisioned = seen.provisioned.as_ref();
        return match provisioned.map(|(v, pv)| fate(claim, v, bind::is_bound(v, claim), pv.as_ref())) {
            Some(Fate::Retire) => Step::Retire,
            Some(Fate::Keep(event)) => Step::Release(event),
            Some(Fate::Decided) | None => Step::End,
        };
    };
    if pvc_of(claim).is_some() {
        let why = format!("it is that of PersistentVolumeClaim {name} and goes with it: delete that one");
        return report(claim, vec![], Verdict::no(reason::IN_USE, why), seen);
    }
    if let Some(why) = held(&seen.users) {
        return report(claim, seen.users.clone(), why, seen);
    }
    if pvc.metadata.deletion_timestamp.is_none() {
        return Step::DeletePvc;
    }
    if debounce::is_passing(claim.metadata.deletion_timestamp.as_ref(), seen.now) {
        return Step::Debounce;
    }
    let why = format!("PersistentVolumeClaim {name} and its PersistentVolume are being removed");
    report(claim, vec![], Verdict::no(reason::RELEASING, why), seen)
}

/// The volume's status without the claim on its list.
pub fn unbind(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> SharedPersistentVolumeStatus {
    let mut status = volume.status.clone().unwrap_or_default();
    status.claims.retain(|binding| Some(&binding.uid) != claim.metadata.uid.as_ref());
    status
}

/// Why the claim stays while these pods use it.
fn held(users: &[PodRef]) -> Option<Verdict> {
    let why = || format!("the claim goes when pod {} has ended; the data stays", names(users, users.len()));
    (!users.is_empty()).then(|| Verdict::no(reason::IN_USE, why()))
}

fn report(claim: &VolumeClaim, mut users: Vec<PodRef>, why: Verdict, seen: &Seen) -> Step {
    let mut status = claim.status.clone().unwrap_or_default();
    users.truncate(LISTED_PODS);
    (status.phase, status.users) = (ClaimPhase::Releasing, users);
    condition::set(&mut status.conditions, READY, why, claim.metadata.generation, seen.now);
    Step::Report(Box::new(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID};
    use crate::plan::persistent_volume::persistent_volume_claim;
    use crate::plan::testing::*;

    fn seen() -> Seen {
        Seen {
            guarded: true,
            pvc: None,
            users: vec![],
            provisioned: None,
            volume: None,
            now: Timestamp::from_second(60).unwrap(),
        }
    }

    fn message(step: Step) -> String {
        match step {
            Step::Report(status) => condition::get(&status.conditions, READY).unwrap().message.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn c6_a_claim_waits_for_its_pods_and_names_them() {
        assert_eq!(held(&[]), None);
        let pods: Vec<PodRef> = (0..5).map(|i| pod("ns", &format!("p{i}"))).collect();
        let said = held(&pods).unwrap().message;
        assert_eq!(said, "the claim goes when pod ns/p0, ns/p1, ns/p2 and 2 more has ended; the data stays");
    }

    #[test]
    fn c6_pods_end_before_the_persistent_volume_claim_goes() {
        let mut c = claim("ns", "c", "v");
        c.metadata.deletion_timestamp = some_time();
        let pvc = persistent_volume_claim(&c, &ready_volume("v", "eng", true));
        let mut s = Seen { pvc: Some(pvc), users: vec![pod("ns", "p")], ..seen() };
        assert!(message(next(&c, &s)).contains("when pod ns/p has ended"));
        s.users.clear();
        assert_eq!(next(&c, &s), Step::DeletePvc);
        s.pvc.as_mut().unwrap().metadata.deletion_timestamp = some_time();
        assert!(message(next(&c, &s)).contains("are being removed"));
        s.now = Timestamp::UNIX_EPOCH;
        assert_eq!(next(&c, &s), Step::Debounce);
        assert_eq!(next(&c, &seen()), Step::End);
        assert_eq!(next(&c, &Seen { guarded: false, ..seen() }), Step::Rest);
    }

    #[test]
    fn s8_a_claim_leaves_the_list_that_has_it() {
        let c = claim("ns", "c", "v");
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "uid-c"), bound_by("ns", "d", "uid-d")];
        assert_eq!(unbind(&c, &v).claims, [bound_by("ns", "d", "uid-d")]);
    }

    #[test]
    fn p4_the_fate_of_the_volume_is_decided_before_its_persistent_volume_goes() {
        let mut c = claim("ns", "c", "v");
        c.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let there = Seen { pvc: Some(PersistentVolumeClaim::default()), ..seen() };
        assert!(message(next(&c, &there)).contains("that of PersistentVolumeClaim c and goes with it"));
        let mut v = ready_volume("v", "eng", true);
        let labels = [(LABEL_PVC_UID, "u"), (LABEL_CLAIM_NAMESPACE, "ns")];
        v.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let own = |v: &SharedPersistentVolume| Seen { provisioned: Some((v.clone(), None)), ..seen() };
        assert_eq!(next(&c, &own(&v)), Step::Retire);
        v.spec.retire = true;
        assert_eq!(next(&c, &own(&v)), Step::End);
        v.spec.retire = false;
        v.status.as_mut().unwrap().claims = vec![bind::binding(&c)];
        assert!(matches!(next(&c, &own(&v)), Step::Release(_)));
    }
}
