//! The next step of a claim that is being deleted (C6).
//!
//! The order is: no new pod starts → the pods end → PersistentVolumeClaim and PersistentVolume are deleted → the node
//! reports that nothing is mounted → the entry in the volume's list is removed → the finalizer is removed.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    ClaimPhase, PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim, VolumeClaimStatus,
};

use super::unbind::{still_mounted, unbind};
use super::{LISTED_PODS, debounce, foreign_finalizer, names};

/// The finalizer by which Kubernetes keeps a PersistentVolumeClaim for scheduled pods of any phase that name it. See
/// `podUsesPVCForDeletion` of the PVC protection controller.
pub const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The pause before another look at pods that have ended, which no cache has.
const AGAIN: Duration = Duration::from_secs(30);

/// The state around a claim's object.
#[derive(Debug)]
pub struct Seen {
    /// True if the claim exists with our finalizer, by a live read: the cache may be behind.
    pub guarded: bool,
    /// The claim's PersistentVolumeClaim, read live.
    pub pvc: Option<PersistentVolumeClaim>,
    /// Running and pending pods that name the PersistentVolumeClaim, by the cache. They serve the report only:
    /// Kubernetes itself keeps a PersistentVolumeClaim that a pod uses.
    pub users: Vec<PodRef>,
    /// Ended pods that name the PersistentVolumeClaim, read live; `None` before [`Step::LookForEnded`].
    pub ended: Option<Vec<PodRef>>,
    /// The API server's words, if it refused [`Step::DeletePvc`].
    pub refused: Option<String>,
    /// The name of the volume that lists the claim.
    pub volume: Option<String>,
    /// The status of that volume after [`Step::Leave`]; `None` before.
    pub left: Option<SharedPersistentVolumeStatus>,
    /// Pods that run on the volume's node, read live with [`Seen::left`] if the node reports processes of pods.
    pub holder_pods: Vec<PodRef>,
    /// The end of the data, if the volume ends with its last use.
    pub fate: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Delete the PersistentVolumeClaim that was read, and decide again. Kubernetes removes the object after its last
    /// use by a pod.
    DeletePvc,
    /// List the ended pods that name the PersistentVolumeClaim, and decide again.
    LookForEnded,
    /// Write the status; reconcile again after that time.
    Report(Box<VolumeClaimStatus>, Option<Duration>),
    /// Wait: Kubernetes removes the PersistentVolumeClaim, or the node reports, within moments.
    Debounce,
    /// Delete the PersistentVolume, then [`unbind`] the claim, and decide again. Kubernetes may keep the
    /// PersistentVolume for a moment, but without its PersistentVolumeClaim no pod can use it.
    Leave,
    /// Remove the finalizer.
    End,
    /// Nothing to do.
    Rest,
}

/// The next step.
pub fn next(claim: &VolumeClaim, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Rest;
    }
    let name = claim.name_any();
    let Some(pvc) = &seen.pvc else { return leave(claim, seen) };
    // Kubernetes keeps the PersistentVolumeClaim for the pods that use it, and lets no new pod start with it.
    if pvc.metadata.deletion_timestamp.is_none() {
        let Some(words) = &seen.refused else { return Step::DeletePvc };
        let why = format!(
            "PersistentVolumeClaim {name} cannot be deleted: {words}; have it allowed, and Reservoir tries again by itself"
        );
        return report(claim, seen.users.clone(), Verdict::no(reason::REFUSED, why), seen);
    }
    if let Some(why) = held(seen) {
        return report(claim, seen.users.clone(), why, seen);
    }
    // A finalizer of others keeps only the object: the namespace's editor could hold the volume with it for ever.
    if !pvc.finalizers().iter().any(|finalizer| finalizer == PVC_PROTECTION) {
        return leave(claim, seen);
    }
    if debounce::is_passing(claim.metadata.deletion_timestamp.as_ref(), seen.now) {
        return Step::Debounce;
    }
    let Some(ended) = &seen.ended else { return Step::LookForEnded };
    let why = kept_by_ended(&name, ended, seen).unwrap_or_else(|| {
        let why = format!("PersistentVolumeClaim {name} and its PersistentVolume are being removed");
        Verdict::no(reason::RELEASING, why)
    });
    report(claim, ended.clone(), why, seen)
}

/// The next step of a claim that no new pod can use.
fn leave(claim: &VolumeClaim, seen: &Seen) -> Step {
    let Some(left) = &seen.left else { return Step::Leave };
    if left.claims.iter().any(|binding| Some(&binding.uid) == claim.metadata.uid.as_ref()) {
        let (namespace, volume) = (claim.namespace().unwrap_or_default(), seen.volume.as_deref());
        let of = (&*namespace, volume.unwrap_or("?"));
        return report(
            claim,
            seen.users.clone(),
            still_mounted(of, left, &seen.users, &seen.holder_pods, data(seen)),
            seen,
        );
    }
    end(claim, seen)
}

/// The last steps of a claim that has left its volume. Another finalizer may keep the object, so its status must not show a
/// bound claim.
fn end(claim: &VolumeClaim, seen: &Seen) -> Step {
    let Some(foreign) = foreign_finalizer(claim) else { return Step::End };
    let why = format!("the claim has left its volume; its object goes when finalizer {foreign} is removed");
    let conditions = claim.status.as_ref().map_or(&[][..], |status| &status.conditions);
    match condition::get(conditions, READY).is_some_and(|ready| ready.message == why) {
        true => Step::End,
        false => report(claim, vec![], Verdict::no(reason::RELEASING, why), seen),
    }
}

/// The volume's status after the claim has left its list, or is marked to leave.
pub fn left(
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
    disk_gone: bool,
    read_elsewhere: &[String],
) -> SharedPersistentVolumeStatus {
    let mut status = volume.status.clone().unwrap_or_default();
    unbind(&mut status, disk_gone, read_elsewhere, |binding| {
        Some(&binding.uid) == claim.metadata.uid.as_ref()
    });
    status
}

/// Why the claim stays while Kubernetes keeps its PersistentVolumeClaim for these ended pods (F3).
fn kept_by_ended(pvc: &str, ended: &[PodRef], seen: &Seen) -> Option<Verdict> {
    let why = || format!("{}; {}", kept_for_ended(pvc, ended), data(seen));
    (!ended.is_empty()).then(|| Verdict::no(reason::IN_USE, why()))
}

/// What ends the wait for a PersistentVolumeClaim that Kubernetes keeps for these ended pods.
pub fn kept_for_ended(pvc: &str, ended: &[PodRef]) -> String {
    let (are, it) = if ended.len() == 1 { ("is", "that pod") } else { ("are", "those pods") };
    format!(
        "pod {} {are} finished, and Kubernetes keeps PersistentVolumeClaim {pvc} until {it} {are} deleted: delete {it}, or \
         the Job that has {}",
        names(ended, ended.len()),
        if ended.len() == 1 { "it" } else { "them" }
    )
}

/// Why the claim stays while these pods use it.
fn held(seen: &Seen) -> Option<Verdict> {
    let (users, data) = (&seen.users, data(seen));
    let why = || format!("the claim goes after the end of pod {}; {data}", names(users, users.len()));
    (!users.is_empty()).then(|| Verdict::no(reason::IN_USE, why()))
}

/// The fate of the data when a claim has ended.
fn data(seen: &Seen) -> &str {
    seen.fate.as_deref().unwrap_or("the data stays")
}

fn report(claim: &VolumeClaim, mut users: Vec<PodRef>, why: Verdict, seen: &Seen) -> Step {
    let young = debounce::is_passing(claim.metadata.deletion_timestamp.as_ref(), seen.now);
    if why.reason == reason::RELEASING && young {
        return Step::Debounce;
    }
    let mut status = claim.status.clone().unwrap_or_default();
    users.truncate(LISTED_PODS);
    (status.phase, status.users) = (ClaimPhase::Releasing, users);
    condition::set(&mut status.conditions, READY, why, claim.metadata.generation, seen.now);
    Step::Report(Box::new(status), seen.ended.as_ref().map(|_| AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ClaimBinding, FINALIZER, Process};
    use crate::plan::bind;
    use crate::plan::kept;
    use crate::plan::persistent_volume::persistent_volume_claim;
    use crate::plan::testing::*;

    fn seen() -> Seen {
        Seen {
            guarded: true,
            pvc: None,
            users: vec![],
            ended: None,
            refused: None,
            volume: None,
            left: None,
            holder_pods: vec![],
            fate: None,
            now: Timestamp::from_second(60).unwrap(),
        }
    }

    fn message(step: Step) -> String {
        match step {
            Step::Report(status, _) => condition::get(&status.conditions, READY).unwrap().message.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn c6_a_claim_waits_for_its_pods_and_names_them() {
        assert_eq!(held(&seen()), None);
        let pods: Vec<PodRef> = (0..5).map(|i| pod("ns", &format!("p{i}"))).collect();
        let said = held(&Seen { users: pods, ..seen() }).unwrap().message;
        assert_eq!(
            said,
            "the claim goes after the end of pod ns/p0, ns/p1, ns/p2 and 2 more; the data stays"
        );
    }

    /// X5, F5: nobody is told that the data of such a volume stays.
    #[test]
    fn x5_a_claim_says_that_its_volume_ends() {
        let mut v = ready_volume("v", "eng", true);
        assert_eq!(kept::fate(&v), None);
        v.metadata.deletion_timestamp = some_time();
        assert!(kept::fate(&v).is_some(), "F5");
        (v.metadata.deletion_timestamp, v.spec.retire) = (None, true);
        let mut c = claim("ns", "c", "v");
        c.metadata.deletion_timestamp = some_time();
        let mut pvc = persistent_volume_claim(&c, &v);
        pvc.metadata.deletion_timestamp = some_time();
        pvc.metadata.finalizers = Some(vec![PVC_PROTECTION.into()]);
        let listed =
            SharedPersistentVolumeStatus { claims: vec![bind::binding(&c)], ..v.status.clone().unwrap() };
        let ending = || Seen { fate: kept::fate(&v), ..seen() };
        for seen in [
            Seen { pvc: Some(pvc.clone()), users: vec![pod("ns", "p")], ..ending() },
            Seen { pvc: Some(pvc), ended: Some(vec![pod("ns", "job")]), ..ending() },
            Seen { left: Some(listed), ..ending() },
        ] {
            let said = message(next(&c, &seen));
            assert!(
                said.ends_with("; volume v is destroyed after its last use, and its data with it: copy first what is needed"),
                "{said}"
            );
        }
    }

    #[test]
    fn c6_pods_end_before_the_persistent_volume_claim_goes() {
        let mut c = claim("ns", "c", "v");
        c.metadata.deletion_timestamp = some_time();
        let pvc = persistent_volume_claim(&c, &ready_volume("v", "eng", true));
        let mut s = Seen { pvc: Some(pvc), users: vec![pod("ns", "p")], ..seen() };
        assert_eq!(next(&c, &s), Step::DeletePvc, "no new pod starts with it");
        s.refused = Some("policy x: no".into());
        assert!(message(next(&c, &s)).contains("c cannot be deleted: policy x: no"), "F3");
        s.pvc.as_mut().unwrap().metadata.deletion_timestamp = some_time();
        assert!(message(next(&c, &s)).contains("after the end of pod ns/p"));
        s.users.clear();
        assert_eq!(next(&c, &s), Step::Leave, "no finalizer but those of others keeps the object");
        s.pvc.as_mut().unwrap().metadata.finalizers =
            Some(vec![PVC_PROTECTION.into(), "example.com/keep".into()]);
        assert_eq!(next(&c, &s), Step::LookForEnded);
        s.ended = Some(vec![]);
        assert!(message(next(&c, &s)).contains("are being removed"));
        s.now = Timestamp::UNIX_EPOCH;
        assert_eq!(next(&c, &s), Step::Debounce);
        assert_eq!(next(&c, &seen()), Step::Leave);
        let left = |claims: &[ClaimBinding], users: &[PodRef]| {
            let mut status = ready_volume("v", "eng", true).status.unwrap();
            status.claims = claims.to_vec();
            Seen { left: Some(status), users: users.to_vec(), ..seen() }
        };
        assert_eq!(next(&c, &left(&[], &[])), Step::End);
        let listed = [bind::binding(&c)];
        assert!(
            message(next(&c, &left(&listed, &[])))
                .contains("when node n1 reports that nothing of it is mounted")
        );
        let mut held = left(&listed, &[]);
        let node = held.left.as_mut().unwrap().node.as_mut().unwrap();
        node.held_by =
            vec![Process { pid: 7, command: "sh".into(), pod_uid: Some("uid-q".into()), mount: None }];
        for (namespace, said) in
            [("ns", "in use by process 7 (sh) of pod ns/q"), ("other", "outside of the namespace's pods")]
        {
            held.holder_pods = vec![pod(namespace, "q")];
            assert!(message(next(&c, &held)).contains(said), "F3: {said}");
        }
        let used = message(next(&c, &left(&listed, &[pod("ns", "p")])));
        assert!(used.contains("node n1 has the volume mounted for pod ns/p"), "X1: {used}");
        c.metadata.finalizers = Some(vec![FINALIZER.into(), "example.com/keep".into()]);
        let Step::Report(status, None) = next(&c, &left(&[], &[])) else { panic!() };
        assert_eq!(status.phase, ClaimPhase::Releasing);
        c.status = Some(*status);
        assert_eq!(next(&c, &left(&[], &[])), Step::End, "reported");
        assert_eq!(next(&c, &Seen { guarded: false, ..seen() }), Step::Rest);
    }

    #[test]
    fn f3_finished_pods_that_keep_the_claim_are_named() {
        let mut c = claim("ns", "c", "v");
        c.metadata.deletion_timestamp = some_time();
        let mut pvc = persistent_volume_claim(&c, &ready_volume("v", "eng", true));
        pvc.metadata.deletion_timestamp = some_time();
        pvc.metadata.finalizers = Some(vec![PVC_PROTECTION.into()]);
        let kept = |ended| next(&c, &Seen { pvc: Some(pvc.clone()), ended: Some(ended), ..seen() });
        let Step::Report(status, Some(AGAIN)) = kept(vec![pod("ns", "job-x")]) else { panic!() };
        let ready = condition::get(&status.conditions, READY).unwrap();
        assert_eq!((ready.reason.as_str(), status.users.len()), ("InUse", 1));
        assert_eq!(
            ready.message,
            "pod ns/job-x is finished, and Kubernetes keeps PersistentVolumeClaim c until that pod is deleted: delete that \
             pod, or the Job that has it; the data stays"
        );
        let two = message(kept(vec![pod("ns", "a"), pod("ns", "b")]));
        assert!(two.starts_with("pod ns/a and ns/b are finished"), "{two}");
    }

    #[test]
    fn s8_a_claim_leaves_the_list_that_has_it() {
        let c = claim("ns", "c", "v");
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "uid-c"), bound_by("ns", "d", "uid-d")];
        assert_eq!(left(&c, &v, true, &[]).claims, [bound_by("ns", "d", "uid-d")]);
    }
}
