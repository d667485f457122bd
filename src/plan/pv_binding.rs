//! The next step until a bound claim has its PersistentVolume and PersistentVolumeClaim (C5, D3, V7).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{SharedPersistentVolume, VolumeClaim};

use super::persistent_volume::{
    bound_to, is_of_claim, is_on_node_of, persistent_volume, persistent_volume_claim,
};
use super::pvc_provisioner::{provision, pvc_of};
use super::resize::size_now;

/// The state of the claim's two objects.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its PersistentVolumeClaim in the cache.
    pub cached: Option<Pvc>,
    /// The class of its PersistentVolumeClaim, if that was there before the claim (P1).
    pub class: Option<Arc<StorageClass>>,
    /// The PersistentVolumeClaim of its name, read live; `None` before [`Step::LookAtPvc`].
    pub pvc: Option<Option<PersistentVolumeClaim>>,
    /// Its PersistentVolume, read live; `None` before [`Step::LookAtPv`].
    pub pv: Option<Option<PersistentVolume>>,
    /// The reason of a deletion that was just requested, which the claim waits for.
    pub deleted: Option<Verdict>,
}

/// A PersistentVolumeClaim as far as the cache has it.
#[derive(Clone, Copy, Debug)]
pub struct Pvc {
    /// Kubernetes has bound it.
    pub bound: bool,
    /// Bytes that its status shows.
    pub capacity: Option<u64>,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Read the PersistentVolumeClaim live and decide again.
    LookAtPvc,
    /// Read the PersistentVolume live and decide again.
    LookAtPv,
    /// Create the PersistentVolume and decide again; one of its name may be there already.
    CreatePv(Box<PersistentVolume>),
    /// Create the PersistentVolumeClaim and decide again.
    CreatePvc(Box<PersistentVolumeClaim>),
    /// Show the volume's size in both and decide again: users see there that it changed (V7).
    ShowSize,
    /// Delete the PersistentVolume that was read, and decide again.
    DeletePv(Verdict),
    /// Delete the PersistentVolumeClaim that was read, and decide again.
    DeletePvc(Verdict),
    /// Wait, for the reason that the condition gives.
    Wait(Verdict),
    /// Both are there.
    Done,
}

/// The next step. `moved`: the volume is on another node than before (D3). A PersistentVolume's node never changes, so both
/// objects are made anew. Kubernetes keeps the old ones while a running pod uses them.
pub fn next(claim: &VolumeClaim, volume: &SharedPersistentVolume, moved: bool, seen: &Seen) -> Step {
    if let Some(why) = &seen.deleted {
        return Step::Wait(why.clone());
    }
    if moved {
        match &seen.pv {
            None => return Step::LookAtPv,
            Some(Some(pv)) if !is_on_node_of(pv, volume) => return move_to_node(claim, volume, seen),
            Some(_) => {}
        }
    }
    // The PersistentVolume of an unbound PersistentVolumeClaim may be missing, or bound to a deleted one of that name.
    if let Some(pvc) = seen.cached.as_ref().filter(|pvc| pvc.bound && !moved) {
        let resized = pvc.capacity.is_some_and(|bytes| bytes != size_now(volume).bytes_or_zero());
        return if resized { Step::ShowSize } else { Step::Done };
    }
    let name = claim.name_any();
    let Some(pvc) = &seen.pvc else { return Step::LookAtPvc };
    if pvc.as_ref().is_some_and(|pvc| !is_of_claim(pvc, claim)) {
        let why = format!(
            "a PersistentVolumeClaim {name} that Reservoir did not make is in the way; delete it, or claim under another name"
        );
        return Step::Wait(Verdict::no(reason::NAME_TAKEN, why));
    }
    let mut wanted = persistent_volume(claim, volume);
    match pvc {
        Some(pvc) if pvc_of(claim).is_some() => provision(&mut wanted, pvc, claim, seen.class.as_deref()),
        None if pvc_of(claim).is_some() => {
            let why = format!("PersistentVolumeClaim {name} has just gone; the claim goes with it");
            return Step::Wait(Verdict::no(reason::BINDING, why));
        }
        _ => {}
    }
    match (&seen.pv, pvc) {
        (None, Some(_)) => Step::LookAtPv,
        (None | Some(None), _) => Step::CreatePv(Box::new(wanted)),
        (Some(Some(pv)), _) if is_useless(pv, pvc.as_ref()) => {
            // Kubernetes never binds a PersistentVolume to a second PersistentVolumeClaim.
            let why = format!("PersistentVolumeClaim {name} was deleted and is being made anew");
            Step::DeletePv(Verdict::no(reason::BINDING, why))
        }
        (Some(Some(_)), None) => Step::CreatePvc(Box::new(persistent_volume_claim(claim, volume))),
        (Some(Some(_)), Some(_)) => Step::Done,
    }
}

/// Whether a PersistentVolume is going, or is bound to another PersistentVolumeClaim than this one.
fn is_useless(pv: &PersistentVolume, pvc: Option<&PersistentVolumeClaim>) -> bool {
    let other = bound_to(pv).is_some_and(|uid| pvc.and_then(|pvc| pvc.metadata.uid.as_ref()) != Some(uid));
    other || pv.metadata.deletion_timestamp.is_some()
}

/// The next step where the PersistentVolume leads to the node that the volume was on before.
fn move_to_node(claim: &VolumeClaim, volume: &SharedPersistentVolume, seen: &Seen) -> Step {
    let node = volume.status.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    let name = claim.name_any();
    let wait = |why: String| Verdict::no(reason::BINDING, why);
    if pvc_of(claim).is_some() {
        // A user's PersistentVolumeClaim, which stays bound to one PersistentVolume for good.
        return Step::Wait(wait(format!(
            "its volume is on node {node} now, where its PersistentVolume does not lead: set the reclaim policy of the \
             PersistentVolume to Retain, delete PersistentVolumeClaim {name}, and claim volume {} with a VolumeClaim",
            volume.name_any()
        )));
    }
    let why =
        wait(format!("its volume is on node {node} now; PersistentVolumeClaim {name} is made anew for that"));
    let Some(pvc) = &seen.pvc else { return Step::LookAtPvc };
    match pvc.as_ref().filter(|pvc| is_of_claim(pvc, claim)) {
        Some(pvc) if pvc.metadata.deletion_timestamp.is_none() => Step::DeletePvc(why),
        Some(_) => Step::Wait(why),
        None => Step::DeletePv(why),
    }
}

/// The condition of a claim that has both.
pub fn report(claim: &VolumeClaim, seen: &Seen) -> Verdict {
    let name = claim.name_any();
    match seen.cached.is_some_and(|pvc| pvc.bound) {
        true => Verdict::yes(reason::BOUND, format!("pods may use PersistentVolumeClaim {name}")),
        false => Verdict::no(reason::BINDING, format!("PersistentVolumeClaim {name} is being bound")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    /// L1: somebody deleted the first one while Kubernetes bound it.
    #[test]
    fn l1_an_unbound_pvc_whose_pv_has_another_gets_a_new_pv() {
        let (claim, volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        let pvc = persistent_volume_claim(&claim, &volume);
        let mut seen = Seen { cached: Some(Pvc { bound: false, capacity: None }), ..Default::default() };
        assert_eq!(next(&claim, &volume, false, &seen), Step::LookAtPvc);
        let mut second = pvc.clone();
        second.metadata.uid = Some("second".into());
        seen.pvc = Some(Some(second));
        assert_eq!(next(&claim, &volume, false, &seen), Step::LookAtPv);
        let pv = |uid: Option<&str>| {
            let mut pv = persistent_volume(&claim, &volume);
            pv.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = uid.map(str::to_owned);
            Some(Some(pv))
        };
        for (uid, useless) in [(None, false), (Some("second"), false), (Some("first"), true)] {
            seen.pv = pv(uid);
            let step = next(&claim, &volume, false, &seen);
            assert_eq!(matches!(step, Step::DeletePv(_)), useless, "{uid:?}: {step:?}");
        }
        seen.pv = pv(None);
        seen.pv.as_mut().unwrap().as_mut().unwrap().metadata.deletion_timestamp = some_time();
        assert!(
            matches!(next(&claim, &volume, false, &seen), Step::DeletePv(_)),
            "no pod gets to one that goes"
        );
        seen.pv = Some(None);
        assert!(matches!(next(&claim, &volume, false, &seen), Step::CreatePv(_)));
        seen.cached = Some(Pvc { bound: true, capacity: None });
        assert_eq!(next(&claim, &volume, false, &seen), Step::Done);
    }
}
