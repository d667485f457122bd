//! The next step of a claim that is being deleted (C6, P4).
//!
//! The order is: the pods end, the PersistentVolumeClaim goes, then the PersistentVolume, then the claim's entry on the list of
//! its volume, then the finalizer. A claim of a class waits for its PersistentVolumeClaim instead, and decides the fate of its
//! volume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    ClaimPhase, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim, VolumeClaimStatus,
};

use super::persistent_volume::is_of_claim;
use super::pvc_provisioner::{Fate, fate, pvc_of};
use super::{LISTED_PODS, bind, debounce, names};

/// What was seen of a claim besides its object.
#[derive(Debug)]
pub struct Seen {
    /// The object is there with our finalizer, read live: the cache may have one that has just gone.
    pub guarded: bool,
    /// Running and pending pods that use its PersistentVolumeClaim, by the cache.
    pub users: Vec<PodRef>,
    /// The name of the volume whose list has the claim, by the cache.
    pub volume: Option<String>,
    /// The time.
    pub now: Timestamp,
    /// The PersistentVolumeClaim of its name, read live; `None` before [`Step::LookAtPvc`].
    pub pvc: Option<Option<PersistentVolumeClaim>>,
    /// The PersistentVolumeClaim was just deleted.
    pub deleted: bool,
    /// The same pods, read live; `None` before [`Step::LookForUsers`].
    pub live_users: Option<Vec<PodRef>>,
    /// The volume that it names and its PersistentVolume, read live; `None` before [`Step::LookAtVolume`].
    pub own: Option<(Option<SharedPersistentVolume>, Option<PersistentVolume>)>,
    /// The name of the volume whose list has the claim, read live; `None` before [`Step::LookForVolume`].
    pub live_volume: Option<Option<String>>,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Read the PersistentVolumeClaim of the claim's name live and decide again.
    LookAtPvc,
    /// Read the pods of the namespace live and decide again.
    LookForUsers,
    /// Read the volume that it names live, then its PersistentVolume, and decide again.
    LookAtVolume,
    /// List the volumes live, for the one whose list has the claim, and decide again.
    LookForVolume,
    /// Retire the very volume that was read, and decide again.
    Retire,
    /// Take the labels of the claim off the very volume that was read, publish that, and decide again.
    Release(String),
    /// Delete the PersistentVolumeClaim that was read, and decide again.
    DeletePvc,
    /// Write the status.
    Report(Box<VolumeClaimStatus>),
    /// Nothing yet: Kubernetes removes the PersistentVolumeClaim within moments.
    Debounce,
    /// Delete the PersistentVolume, take the claim off the list of the volume of that name, remove the finalizer. Kubernetes
    /// may keep the PersistentVolume for a moment: without its PersistentVolumeClaim no pod gets to it.
    End(Option<String>),
    /// Nothing.
    Rest,
}

/// The next step.
pub fn next(claim: &VolumeClaim, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Rest;
    }
    let name = claim.name_any();
    let Some(pvc) = &seen.pvc else { return Step::LookAtPvc };
    let pvc = pvc.as_ref().filter(|pvc| is_of_claim(pvc, claim));
    match (pvc_of(claim), pvc) {
        (Some(_), Some(_)) => {
            let why = format!("it is that of PersistentVolumeClaim {name} and goes with it: delete that one");
            return report(claim, vec![], Verdict::no(reason::IN_USE, why), seen);
        }
        (Some(_), None) => {
            let Some((volume, pv)) = &seen.own else { return Step::LookAtVolume };
            match volume.as_ref().map(|v| fate(claim, v, bind::is_bound(v, claim), pv.as_ref())) {
                Some(Fate::Retire) => return Step::Retire,
                Some(Fate::Keep(event)) => return Step::Release(event),
                Some(Fate::Decided) | None => {}
            }
        }
        (None, Some(pvc)) => {
            let users = match (seen.users.is_empty(), &seen.live_users) {
                (false, _) => &seen.users,
                (true, Some(users)) => users,
                (true, None) => return Step::LookForUsers,
            };
            if let Some(why) = held(users) {
                return report(claim, users.clone(), why, seen);
            }
            if pvc.metadata.deletion_timestamp.is_none() && !seen.deleted {
                return Step::DeletePvc;
            }
            if debounce::is_passing(claim.metadata.deletion_timestamp.as_ref(), seen.now) {
                return Step::Debounce;
            }
            let why = format!("PersistentVolumeClaim {name} and its PersistentVolume are being removed");
            return report(claim, vec![], Verdict::no(reason::RELEASING, why), seen);
        }
        (None, None) => {}
    }
    let noted = claim.status.as_ref().and_then(|s| s.volume.as_ref()).map(|volume| &volume.name);
    match (seen.volume.as_ref().or(noted).or(claim.spec.volume.as_ref()), &seen.live_volume) {
        (Some(volume), _) => Step::End(Some(volume.clone())),
        // Selected, bound, and deleted before any cache had that.
        (None, None) => Step::LookForVolume,
        (None, Some(volume)) => Step::End(volume.clone()),
    }
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
            users: vec![],
            volume: None,
            now: Timestamp::from_second(60).unwrap(),
            pvc: Some(None),
            deleted: false,
            live_users: None,
            own: None,
            live_volume: None,
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
        let mut s = Seen { pvc: Some(Some(pvc)), users: vec![pod("ns", "p")], ..seen() };
        assert_eq!(next(&c, &Seen { pvc: None, ..seen() }), Step::LookAtPvc);
        assert!(message(next(&c, &s)).contains("when pod ns/p has ended"));
        s.users.clear();
        assert_eq!(next(&c, &s), Step::LookForUsers);
        s.live_users = Some(vec![pod("ns", "q")]);
        assert!(message(next(&c, &s)).contains("when pod ns/q has ended"), "no cache has the pod yet");
        s.live_users = Some(vec![]);
        assert_eq!(next(&c, &s), Step::DeletePvc);
        s.deleted = true;
        assert!(message(next(&c, &s)).contains("are being removed"));
        s.now = Timestamp::UNIX_EPOCH;
        assert_eq!(next(&c, &s), Step::Debounce);
        s.pvc = Some(Some(PersistentVolumeClaim::default()));
        assert_eq!(
            next(&c, &s),
            Step::End(Some("v".into())),
            "C5: another PersistentVolumeClaim is left alone"
        );
        assert_eq!(next(&c, &Seen { guarded: false, ..seen() }), Step::Rest);
    }

    #[test]
    fn s8_a_claim_leaves_the_list_that_has_it() {
        let mut c = claim("ns", "c", "v");
        assert_eq!(next(&c, &Seen { volume: Some("w".into()), ..seen() }), Step::End(Some("w".into())));
        c.spec.volume = None;
        assert_eq!(next(&c, &seen()), Step::LookForVolume);
        assert_eq!(next(&c, &Seen { live_volume: Some(None), ..seen() }), Step::End(None));
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "uid-c"), bound_by("ns", "d", "uid-d")];
        assert_eq!(unbind(&c, &v).claims, [bound_by("ns", "d", "uid-d")]);
    }

    #[test]
    fn p4_the_fate_of_the_volume_is_decided_before_its_persistent_volume_goes() {
        let mut c = claim("ns", "c", "v");
        c.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let pvc = PersistentVolumeClaim {
            metadata: kube::core::ObjectMeta { uid: Some("u".into()), ..Default::default() },
            ..Default::default()
        };
        let there = Seen { pvc: Some(Some(pvc)), ..seen() };
        assert!(message(next(&c, &there)).contains("that of PersistentVolumeClaim c and goes with it"));
        assert_eq!(next(&c, &seen()), Step::LookAtVolume);
        let mut v = ready_volume("v", "eng", true);
        let labels = [(LABEL_PVC_UID, "u"), (LABEL_CLAIM_NAMESPACE, "ns")];
        v.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let own = |v: &SharedPersistentVolume| Seen { own: Some((Some(v.clone()), None)), ..seen() };
        assert_eq!(next(&c, &own(&v)), Step::Retire);
        v.spec.retire = true;
        assert_eq!(next(&c, &own(&v)), Step::End(Some("v".into())));
        v.spec.retire = false;
        v.status.as_mut().unwrap().claims = vec![bind::binding(&c)];
        assert!(matches!(next(&c, &own(&v)), Step::Release(_)));
        assert_eq!(next(&c, &Seen { own: Some((None, None)), ..seen() }), Step::End(Some("v".into())));
    }
}
