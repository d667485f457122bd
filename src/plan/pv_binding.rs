//! The steps that give a bound claim its PersistentVolume and PersistentVolumeClaim (C5, D3, V7).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{
    ANNOTATION_MADE_FOR, LABEL_CLAIM_UID, LABEL_MANAGED_BY, MANAGED_BY, SharedPersistentVolume, VolumeClaim,
};

use super::own_pvc::{bind_to, provision, pvc_of};
use super::persistent_volume::{
    bound_to, is_of_claim, is_on_node_of, name as pv_name, name_for, persistent_volume,
    persistent_volume_claim,
};
use super::resize::size_now;
use super::{kept, seal, verify};

/// The state of the claim's two objects.
#[derive(Debug, Default)]
pub struct Seen {
    /// The claim's PersistentVolumeClaim in the cache.
    pub cached: Option<Pvc>,
    /// The object with the PersistentVolumeClaim's name, read live unless the cached one [`is_made`].
    pub pvc: Option<PersistentVolumeClaim>,
    /// The PersistentVolume of the [`earlier_claim`] of that object, if it [`is_left_over`].
    pub earlier: Option<PersistentVolume>,
    /// Number of other PersistentVolumeClaims of the namespace that Kubernetes has yet to bind, by the cache.
    pub pending: usize,
    /// The StorageClass of that object, from the cache.
    pub class: Option<Arc<StorageClass>>,
    /// The claim's PersistentVolume, read live unless the cached PersistentVolumeClaim [`is_made`].
    pub pv: Option<PersistentVolume>,
    /// Why the claim waits after its last step: a deletion was requested, or the API server [`refused`] a write.
    pub waits: Option<Verdict>,
}

/// The cached fields of a PersistentVolumeClaim.
#[derive(Clone, Copy, Debug)]
pub struct Pvc {
    /// True if Kubernetes has bound the PersistentVolumeClaim.
    pub bound: bool,
    /// Capacity in the status, in bytes.
    pub capacity: Option<u64>,
    /// The time of the DELETE, if somebody deletes the PersistentVolumeClaim.
    pub deleted_at: Option<Timestamp>,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Create the PersistentVolume, or read the existing one, and decide again.
    CreatePv(Box<PersistentVolume>),
    /// Create the PersistentVolumeClaim and decide again.
    CreatePvc(Box<PersistentVolumeClaim>),
    /// Write the volume's size to both objects and decide again, so that users see the change (V7).
    ShowSize,
    /// Delete the PersistentVolume that was read, and decide again.
    DeletePv(Verdict),
    /// Delete the PersistentVolumeClaim that was read, and decide again.
    DeletePvc(Verdict),
    /// Delete the PersistentVolume of an earlier claim that was read, and decide again.
    DeleteEarlierPv(Verdict),
    /// Wait, for the reason in the condition.
    Wait(Verdict),
    /// Both objects are complete.
    Done,
}

/// True if the volume is on another node than the node of the claim's PersistentVolume (D3).
pub fn is_moved(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> bool {
    let node = claim.status.as_ref().and_then(|s| s.node_name.as_ref());
    node.is_some() && node != volume.status.as_ref().and_then(|s| s.node_name.as_ref())
}

/// True if both objects exist, by the cache. Until the PersistentVolumeClaim is bound, the PersistentVolume may be
/// missing, or bound to a deleted PersistentVolumeClaim of the same name.
pub fn is_made(claim: &VolumeClaim, volume: &SharedPersistentVolume, cached: Option<Pvc>) -> bool {
    !is_moved(claim, volume) && cached.is_some_and(|pvc| pvc.bound)
}

/// The most PersistentVolumeClaims of a namespace that Kubernetes has to bind at a time. Its controller binds those of all
/// namespaces in one queue, with 20 writes a second by default.
const MOST_PENDING: usize = 16;

/// True if the claim waits for Kubernetes, which binds other PersistentVolumeClaims of the namespace first (A9).
pub fn waits_its_turn(claim: &VolumeClaim, cached: Option<Pvc>, pending: usize) -> bool {
    pvc_of(claim).is_none() && cached.is_none() && pending >= MOST_PENDING
}

/// The next step. The node of a PersistentVolume never changes, so both objects of a moved volume are made anew.
/// Kubernetes keeps the old objects while a running pod uses them.
pub fn next(claim: &VolumeClaim, volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    if let Some(why) = &seen.waits {
        return Step::Wait(why.clone());
    }
    if let Some(pvc) = seen.cached.filter(|_| is_made(claim, volume, seen.cached)) {
        // The PersistentVolumeClaim of a class reports its growth itself.
        let differs = pvc.capacity.is_some_and(|bytes| bytes != size_now(volume).bytes_or_zero());
        return if differs && pvc_of(claim).is_none() { Step::ShowSize } else { Step::Done };
    }
    let (name, provisioned) = (claim.name_any(), pvc_of(claim).is_some());
    let pvc = seen.pvc.as_ref();
    // That of a class has a PersistentVolume by which Kubernetes is yet to bind it.
    let may_differ = provisioned || is_moved(claim, volume);
    if may_differ && seen.pv.as_ref().is_some_and(|pv| !is_on_node_of(pv, volume)) {
        return move_to_node(claim, volume, pvc);
    }
    if let Some(pvc) = pvc.filter(|pvc| !is_of_claim(pvc, claim)) {
        return in_the_way(claim, volume, pvc, seen.earlier.as_ref());
    }
    if pvc.is_none() && waits_its_turn(claim, seen.cached, seen.pending) {
        let why = format!(
            "PersistentVolumeClaim {name} is made after {} others of its namespace, which Kubernetes binds first",
            seen.pending
        );
        return Step::Wait(Verdict::no(reason::BINDING, why));
    }
    let Some(pv) = &seen.pv else {
        let mut wanted = persistent_volume(claim, volume);
        match pvc {
            Some(pvc) if provisioned => provision(&mut wanted, pvc, claim, seen.class.as_deref()),
            Some(pvc) => bind_to(&mut wanted, pvc),
            None => {}
        }
        return Step::CreatePv(Box::new(wanted));
    };
    if pv.metadata.deletion_timestamp.is_some() {
        let why = format!(
            "an earlier PersistentVolume of PersistentVolumeClaim {name} is being deleted, and is made anew then"
        );
        return Step::Wait(Verdict::no(reason::BINDING, why));
    }
    if bound_to(pv).is_some_and(|uid| pvc.and_then(|pvc| pvc.metadata.uid.as_ref()) != Some(uid)) {
        // Kubernetes never binds a PersistentVolume to a second PersistentVolumeClaim.
        let why = format!("PersistentVolumeClaim {name} was deleted and is being made anew");
        return Step::DeletePv(Verdict::no(reason::BINDING, why));
    }
    match pvc {
        None => Step::CreatePvc(Box::new(persistent_volume_claim(claim, volume))),
        Some(pvc) if is_lost(pvc) && bound_to(pv).is_none() => {
            let why = format!("PersistentVolume {} was deleted, and is being made anew", pv.name_any());
            Step::DeletePv(Verdict::no(reason::BINDING, why))
        }
        Some(_) => Step::Done,
    }
}

/// The phase of a PersistentVolumeClaim whose PersistentVolume is gone. Only a PersistentVolume with the UID of the
/// PersistentVolumeClaim binds it again.
pub const LOST: &str = "Lost";

fn is_lost(pvc: &PersistentVolumeClaim) -> bool {
    pvc.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some(LOST))
}

/// The next step while the name of the PersistentVolumeClaim is taken. A restored backup brings that of an earlier claim of
/// the same name, with its PersistentVolume. Both lead nowhere, and are replaced (C7).
fn in_the_way(
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
    pvc: &PersistentVolumeClaim,
    earlier: Option<&PersistentVolume>,
) -> Step {
    let name = claim.name_any();
    if pvc_of(claim).is_none() && takes_old_data(claim, volume, pvc) {
        let why = format!(
            "PersistentVolumeClaim {name} is in the way: it {WAITS_EMPTY}, while volume {} has the data of the earlier one of its name; end \
             its pods, those of a StatefulSet by scaling it down, and delete it: the name is this claim's then",
            volume.name_any()
        );
        return Step::Wait(Verdict::no(reason::NAME_TAKEN, why));
    }
    if pvc_of(claim).is_some() || earlier_claim(pvc).is_none() {
        let why = format!(
            "a PersistentVolumeClaim {name} that Reservoir did not make is in the way; claim under another name, or delete it, if nobody \
             needs its data"
        );
        return Step::Wait(Verdict::no(reason::NAME_TAKEN, why));
    }
    let why = format!(
        "PersistentVolumeClaim {name} is that of an earlier claim of this name, as a backup has it, and is made anew; it stays \
         as long as pods name it: delete these"
    );
    let why = Verdict::no(reason::BINDING, why);
    match (earlier, pvc.metadata.deletion_timestamp.is_some()) {
        (Some(_), _) => Step::DeleteEarlierPv(why),
        (None, false) => Step::DeletePvc(why),
        (None, true) => Step::Wait(why),
    }
}

/// The words for a PersistentVolumeClaim in the way of a claim to the data of the earlier one of its name, as a StatefulSet makes it.
pub const WAITS_EMPTY: &str = "waits for a new volume, and has none yet";

/// True if the claim is to the volume of an earlier PersistentVolumeClaim of the name, and the present one has no volume.
fn takes_old_data(claim: &VolumeClaim, volume: &SharedPersistentVolume, pvc: &PersistentVolumeClaim) -> bool {
    let own = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
    let has_volume = pvc.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
    volume.annotations().get(ANNOTATION_MADE_FOR) == Some(&own) && !has_volume
}

/// The UID of the claim for which Reservoir made the PersistentVolumeClaim, by labels and name of its PersistentVolume.
pub fn earlier_claim(pvc: &PersistentVolumeClaim) -> Option<&str> {
    let uid = pvc.labels().get(LABEL_CLAIM_UID)?;
    let ours = pvc.labels().get(LABEL_MANAGED_BY).is_some_and(|by| by == MANAGED_BY);
    let named = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) == Some(&name_for(uid));
    (ours && named).then_some(uid)
}

/// True if the PersistentVolume leads to no other PersistentVolumeClaim than this one, and is not being deleted yet. Anybody
/// who may make a PersistentVolumeClaim can write the name of another one's PersistentVolume.
pub fn is_left_over(pv: &PersistentVolume, pvc: &PersistentVolumeClaim) -> bool {
    let of = pv.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let is_its = |of: &ObjectReference| {
        of.namespace == pvc.metadata.namespace
            && of.name == pvc.metadata.name
            && of.uid.as_ref().is_none_or(|uid| pvc.metadata.uid.as_ref() == Some(uid))
    };
    pv.metadata.deletion_timestamp.is_none() && of.is_some_and(is_its)
}

/// The next step if the PersistentVolume names the node from which the volume has moved.
fn move_to_node(
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
    pvc: Option<&PersistentVolumeClaim>,
) -> Step {
    let node = volume.status.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    let name = claim.name_any();
    let wait = |why: String| Verdict::no(reason::BINDING, why);
    if pvc_of(claim).is_some() {
        return Step::Wait(wait(moved(&name, node, volume)));
    }
    let why =
        wait(format!("its volume is on node {node} now; PersistentVolumeClaim {name} is made anew for that"));
    match pvc.filter(|pvc| is_of_claim(pvc, claim)) {
        Some(pvc) if pvc.metadata.deletion_timestamp.is_none() => Step::DeletePvc(why),
        Some(_) => Step::Wait(why),
        None => Step::DeletePv(why),
    }
}

/// The report of a user's PersistentVolumeClaim, which stays bound to one PersistentVolume for good, when its volume has moved
/// to that node.
pub fn moved(pvc: &str, node: &str, volume: &SharedPersistentVolume) -> String {
    let name = volume.name_any();
    // No reclaim policy keeps a volume that retires (X5).
    let first =
        if volume.spec.retire { format!("kubectl reservoir unretire {name}, ") } else { String::new() };
    format!(
        "its volume is on node {node} now, where its PersistentVolume does not lead: {first}set the reclaim policy of the \
         PersistentVolume to Retain, delete PersistentVolumeClaim {pvc}, and claim volume {name} with a VolumeClaim"
    )
}

/// Why the claim waits after the API server refused the step, with its words (F3). A size that cannot be shown keeps
/// nobody from the volume.
pub fn refused(step: &Step, claim: &VolumeClaim, words: &str) -> Option<Verdict> {
    let what = match step {
        Step::CreatePv(_) => format!("PersistentVolume {} cannot be made", pv_name(claim)),
        Step::CreatePvc(_) => format!("PersistentVolumeClaim {} cannot be made", claim.name_any()),
        Step::DeletePv(_) => format!("PersistentVolume {} cannot be deleted", pv_name(claim)),
        Step::DeletePvc(_) => format!("PersistentVolumeClaim {} cannot be deleted", claim.name_any()),
        Step::DeleteEarlierPv(_) => {
            format!("the PersistentVolume of an earlier claim {} cannot be deleted", claim.name_any())
        }
        Step::ShowSize | Step::Wait(_) | Step::Done => return None,
    };
    let why = format!("{what}: {words}; have it allowed, and Reservoir tries again by itself");
    Some(Verdict::no(reason::REFUSED, why))
}

/// The condition of a claim that has both objects.
pub fn report(claim: &VolumeClaim, volume: &SharedPersistentVolume, seen: &Seen) -> Verdict {
    let name = claim.name_any();
    let cached = seen.cached.filter(|pvc| pvc.bound);
    match cached.map(|pvc| pvc.deleted_at) {
        Some(None) => {
            let (may, why) = match seal::bound(volume, claim.spec.mode) {
                Some(why) => ("read", why),
                None => ("use", String::new()),
            };
            let of = volume.name_any();
            let differs = volume.status.as_ref().and_then(verify::differs);
            let differs = differs.map(|differs| format!("; {}", verify::on_pod(&of, &differs.message)));
            let ends = kept::fate(volume).map(|fate| format!("; {fate}"));
            let why = [Some(why), differs, ends].into_iter().flatten().collect::<String>();
            Verdict::yes(reason::BOUND, format!("pods may {may} PersistentVolumeClaim {name}{why}"))
        }
        Some(Some(_)) => Verdict::no(
            reason::TERMINATING,
            format!(
                "PersistentVolumeClaim {name} is being deleted, so no new pod may use it; it is made anew when the pods that use \
                 it are gone"
            ),
        ),
        None => Verdict::no(reason::BINDING, format!("PersistentVolumeClaim {name} is being bound")),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaimStatus;

    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn f5_the_pvc_of_a_backup_is_made_anew() {
        let (mut old, volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        let new = old.clone();
        old.metadata.uid = Some("uid-old".into());
        let mut pvc = persistent_volume_claim(&old, &volume);
        pvc.metadata.uid = Some("restored".into());
        let mut pv = persistent_volume(&old, &volume);
        assert!(is_left_over(&pv, &pvc) && earlier_claim(&pvc) == Some("uid-old"));
        let mut seen = Seen { pvc: Some(pvc.clone()), earlier: Some(pv.clone()), ..Default::default() };
        assert!(matches!(next(&new, &volume, &seen), Step::DeleteEarlierPv(_)));
        seen.earlier = None;
        assert!(matches!(next(&new, &volume, &seen), Step::DeletePvc(_)));
        seen.pvc.as_mut().unwrap().metadata.deletion_timestamp = some_time();
        let Step::Wait(why) = next(&new, &volume, &seen) else { panic!() };
        assert!(why.message.contains("that of an earlier claim of this name"), "{}", why.message);
        // The PersistentVolume of another claim, named by a forged PersistentVolumeClaim.
        for (name, uid) in [("other", None), ("c", Some("bound"))] {
            let of = pv.spec.as_mut().unwrap().claim_ref.as_mut().unwrap();
            (of.name, of.uid) = (Some(name.into()), uid.map(str::to_owned));
            assert!(!is_left_over(&pv, &pvc), "{name}");
        }
        pvc.metadata.labels = None;
        seen.pvc = Some(pvc);
        let Step::Wait(why) = next(&new, &volume, &seen) else { panic!() };
        assert_eq!(why.reason, "NameTaken", "C5: that of somebody else");
    }

    /// C5: the StatefulSet's next PersistentVolumeClaim is in the way of the data of the one before.
    #[test]
    fn f5_the_pvc_in_the_way_of_its_old_data_is_told() {
        let (claim, mut volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", false));
        let mut seen = Seen { pvc: Some(PersistentVolumeClaim::default()), ..Default::default() };
        let said = |volume: &SharedPersistentVolume, seen: &Seen| {
            let Step::Wait(why) = next(&claim, volume, seen) else { panic!() };
            assert_eq!(why.reason, "NameTaken");
            why.message.contains(WAITS_EMPTY)
        };
        assert!(!said(&volume, &seen));
        volume.metadata.annotations = Some([(ANNOTATION_MADE_FOR.to_owned(), "ns/c".to_owned())].into());
        assert!(said(&volume, &seen));
        seen.pvc.as_mut().unwrap().spec.get_or_insert_default().volume_name = Some("pv".into());
        assert!(!said(&volume, &seen), "it has a volume of its own");
    }

    #[test]
    fn a9_few_pvcs_of_a_namespace_wait_for_kubernetes() {
        let (mut claim, volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        let mut seen = Seen { pending: MOST_PENDING - 1, ..Default::default() };
        assert!(matches!(next(&claim, &volume, &seen), Step::CreatePv(_)));
        seen.pending = MOST_PENDING;
        let Step::Wait(why) = next(&claim, &volume, &seen) else { panic!() };
        assert!(why.message.contains("after 16 others of its namespace"), "{}", why.message);
        // One that exists is finished.
        seen.pvc = Some(persistent_volume_claim(&claim, &volume));
        assert!(matches!(next(&claim, &volume, &seen), Step::CreatePv(_)));
        let unbound = Pvc { bound: false, capacity: None, deleted_at: None };
        assert!(!waits_its_turn(&claim, Some(unbound), MOST_PENDING));
        // That of a StorageClass exists already.
        claim.labels_mut().insert(crate::api::LABEL_PVC_UID.into(), "uid".into());
        assert!(!waits_its_turn(&claim, None, MOST_PENDING));
    }

    /// X5, D3: who followed the message lost a volume that retires.
    #[test]
    fn d3_a_moved_volume_that_retires_is_kept_first() {
        let mut volume = ready_volume("v", "eng", false);
        assert!(moved("c", "n2", &volume).contains("does not lead: set the reclaim policy"));
        volume.spec.retire = true;
        assert!(moved("c", "n2", &volume).contains("does not lead: kubectl reservoir unretire v, set the"));
    }

    /// L1: a user deleted the first PersistentVolumeClaim while Kubernetes bound it.
    #[test]
    fn l1_a_new_pvc_gets_a_new_persistent_volume() {
        let (claim, volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        let mut pvc = persistent_volume_claim(&claim, &volume);
        pvc.metadata.uid = Some("second".into());
        let unbound = Some(Pvc { bound: false, capacity: None, deleted_at: None });
        let mut seen = Seen { cached: unbound, pvc: Some(pvc), ..Default::default() };
        assert!(!is_made(&claim, &volume, seen.cached), "so both are read live");
        assert!(matches!(next(&claim, &volume, &seen), Step::CreatePv(_)));
        for (uid, useless) in [(None, false), (Some("second"), false), (Some("first"), true)] {
            let mut pv = persistent_volume(&claim, &volume);
            pv.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = uid.map(str::to_owned);
            seen.pv = Some(pv);
            let step = next(&claim, &volume, &seen);
            assert_eq!(matches!(step, Step::DeletePv(_)), useless, "{uid:?}: {step:?}");
        }
        // C5: Kubernetes binds a lost one again to a PersistentVolume with its UID only.
        let lost = PersistentVolumeClaimStatus { phase: Some(LOST.into()), ..Default::default() };
        seen.pvc.as_mut().unwrap().status = Some(lost);
        seen.pv = None;
        let Step::CreatePv(pv) = next(&claim, &volume, &seen) else { panic!() };
        assert_eq!(bound_to(&pv).map(String::as_str), Some("second"));
        seen.pv = Some(persistent_volume(&claim, &volume));
        assert!(matches!(next(&claim, &volume, &seen), Step::DeletePv(_)));
        seen.pv = Some(*pv);
        assert_eq!(next(&claim, &volume, &seen), Step::Done);
        let mut going = persistent_volume(&claim, &volume);
        going.metadata.deletion_timestamp = some_time();
        seen.pv = Some(going);
        assert!(matches!(next(&claim, &volume, &seen), Step::Wait(_)), "Kubernetes binds none that goes");
        seen.cached = Some(Pvc { bound: true, capacity: None, deleted_at: None });
        assert_eq!(next(&claim, &volume, &seen), Step::Done);
    }
}
