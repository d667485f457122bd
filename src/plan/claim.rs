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
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    ClaimPhase, DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume,
    SharedPersistentVolumeStatus, UidRef, VolumeClaim, VolumeClaimStatus,
};

use super::persistent_volume;
use super::{bind, debounce, left_data, node_lifetime, offer, pv_binding, refs};

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
    /// The reservations that may keep data of a volume for which the claim waits, from the caches.
    pub keeping: Vec<Arc<DiskReservation>>,
    /// The disks of these reservations, and the disks that may have such data without an object.
    pub lost_on: Vec<Arc<NodeDisk>>,
    /// The volumes that may be about to have such data.
    pub heirs: Vec<Arc<SharedPersistentVolume>>,
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
    /// Write the status with the chosen volume. The watch enqueues the claim again.
    Note(Box<VolumeClaimStatus>),
    /// Put the claim into the list of the volume of that name. The watch of volumes enqueues the claim again. After a
    /// refusal, or if the volume is gone, decide again.
    Bind(String),
    /// Apply this step for the claim's PersistentVolume and PersistentVolumeClaim, with that volume, and decide again.
    Binding(pv_binding::Step, Arc<SharedPersistentVolume>),
    /// Write the status; reconcile again after that time.
    Report(Box<VolumeClaimStatus>, Option<Duration>),
    /// Wait: the volume comes, is made, or Kubernetes binds the PersistentVolumeClaim, within moments.
    Debounce,
}

/// The next step.
pub fn next(claim: &VolumeClaim, seen: &Seen) -> Step {
    if !seen.guarded {
        return Step::Guard;
    }
    let binding = &seen.binding;
    let mut status = claim.status.clone().unwrap_or_default();
    let volume = match volume_of(claim, seen) {
        Ok(Ok(volume)) => volume,
        Ok(Err(mut why)) => {
            let waits = [reason::NO_SUCH_VOLUME, reason::NO_MATCH].contains(&why.reason);
            // A volume of a role that the claim may not know of can have the name.
            let is_taken =
                seen.volume.as_ref().is_some_and(|volume| volume.metadata.name == claim.spec.volume);
            if waits
                && !is_taken
                && let Some(sentence) = left_data::sentence(claim, &seen.lost_on, &seen.keeping, &seen.heirs)
            {
                why.message.push_str(&sentence);
            }
            return report(claim, status, why, None, seen);
        }
        Err(step) => return step,
    };
    if node_lifetime::has_ended(&volume) {
        return report(claim, status, node_lifetime::claim_ended(claim), None, seen);
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
            let mut verdict = pv_binding::report(claim, &volume, binding);
            let outage = outage(&volume, seen.now).filter(|_| verdict.ok);
            if verdict.ok && is_unsubscribed(&volume, &seen.offers) {
                let role = &volume.spec.role;
                verdict.message.push_str(&format!(
                    "; the namespace is not subscribed to role {role} any more, and the claim goes on until it is deleted"
                ));
            }
            // The binding depends on PersistentVolumes, which have no watch.
            let mut again = (verdict.reason == reason::BINDING).then_some(RETRY);
            match outage {
                Some(Outage::Lasts(why)) => verdict = why,
                Some(Outage::Young(left)) => again = Some(left),
                None => {}
            }
            report(claim, status, verdict, again, seen)
        }
        Err(why) => report(claim, status, why, Some(RETRY), seen),
    }
}

/// A time in which no pod can begin to use the volume of a bound claim.
enum Outage {
    /// It is told after that time.
    Young(Duration),
    /// It is told.
    Lasts(Verdict),
}

/// The time after which the claims of a volume tell its outage. A node that restarts within it costs no write of a claim.
const TOLD_AFTER: Duration = Duration::from_secs(60);

/// Why no pod can begin to use the volume of a bound claim: for good, if its disk was declared gone, or while its node or its
/// disk does not serve it (D4, D8, V10). The files of a volume that differ from its seal keep nobody from them (E4).
fn outage(volume: &SharedPersistentVolume, now: Timestamp) -> Option<Outage> {
    let ready = condition::get(&volume.status.as_ref()?.conditions, READY)?;
    let name = volume.name_any();
    // Pods begin on the nodes with a copy (E3).
    if volume.status.as_ref()?.copies.is_some_and(|copies| copies.ready > 0) {
        return None;
    }
    if ready.reason == reason::VOLUME_GONE {
        let why = format!(
            "the disk of volume {name} was declared gone, and its data with it: end the pods of this claim, delete the claim, and claim \
             another volume"
        );
        return Some(Outage::Lasts(Verdict::no(reason::VOLUME_GONE, why)));
    }
    let outages =
        [reason::NODE_UNREACHABLE, reason::DISK_NOT_READY, reason::BACKING_FAILED, reason::BACKING_LOST];
    if ready.status == "True" || !outages.contains(&&*ready.reason) {
        return None;
    }
    // A clock that was set back makes it earlier.
    let lasted = Duration::try_from(now.duration_since(ready.last_transition_time.0)).unwrap_or(TOLD_AFTER);
    Some(match TOLD_AFTER.saturating_sub(lasted) {
        Duration::ZERO => {
            let why =
                format!("new pods wait for volume {name}, to which the claim is bound: {}", ready.message);
            Outage::Lasts(Verdict::no(reason::VOLUME_NOT_READY, why))
        }
        left => Outage::Young(left),
    })
}

/// True if the volume of a bound claim is on offer to no subscription of the namespace any more.
fn is_unsubscribed(volume: &SharedPersistentVolume, offers: &Offers) -> bool {
    let entitled = offer::entitled(volume, &refs(&offers.subscriptions));
    entitled.is_err_and(|why| why.reason == reason::NO_SUBSCRIPTION)
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
    let since = claim.metadata.creation_timestamp.as_ref();
    let named = |v: &&Arc<SharedPersistentVolume>| v.metadata.name == claim.spec.volume;
    let volume_since =
        seen.offers.volumes.iter().find(named).and_then(|v| v.metadata.creation_timestamp.as_ref());
    let pvc_since = seen.binding.pvc.as_ref().and_then(|pvc| pvc.metadata.creation_timestamp.as_ref());
    // Without a pod, Kubernetes removes the PersistentVolumeClaim within moments.
    let deleted_at = seen.binding.cached.and_then(|pvc| pvc.deleted_at).map(Time);
    let is_passing = match why.reason {
        // Whoever makes volume and claim together makes one of them first.
        reason::NO_SUCH_VOLUME => debounce::is_passing(since, seen.now),
        reason::VOLUME_NOT_READY => debounce::is_passing(since.max(volume_since), seen.now),
        reason::BINDING => debounce::is_passing(since.max(pvc_since), seen.now),
        reason::TERMINATING => debounce::is_passing(deleted_at.as_ref(), seen.now),
        _ => false,
    };
    if is_passing {
        return Step::Debounce;
    }
    condition::set(&mut status.conditions, READY, why, claim.metadata.generation, seen.now);
    Step::Report(Box::new(status), again)
}

#[cfg(test)]
mod tests;
