//! PersistentVolumeClaims of a StorageClass of ours: each gets a volume and a VolumeClaim, until its deletion (P1–P6).
//!
//! The names of both objects derive from the PersistentVolumeClaim, so an interrupted controller repeats the same
//! writes. The claim is created before the volume, since the end of the claim ends the volume.

pub mod class;
pub mod growth;
pub mod placement;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Resource, ResourceExt};

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    ClaimBinding, DRIVER, DiskReservation, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, NodeDisk, PV_PREFIX,
    STORAGE_PROVISIONER, SharedPersistentVolume, VolumeClaim,
};

use super::crowding::Crowded;
use super::transition::LASTING;
use placement::Mate;
pub use placement::SELECTED_NODE;

/// Annotation of a PersistentVolume with the driver that deletes the volume on behalf of Kubernetes.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// The UID of the PersistentVolumeClaim that a volume or a claim was made for.
pub fn pvc_of<K: Resource>(object: &K) -> Option<&str> {
    object.labels().get(LABEL_PVC_UID).map(String::as_str)
}

/// True if volume and claim were made for the same PersistentVolumeClaim. Such a claim needs no subscription, and no
/// other claim may use such an exclusive volume.
pub fn is_own(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> bool {
    pvc_of(claim).is_some()
        && pvc_of(claim) == pvc_of(volume)
        && claim.namespace().as_ref() == volume.labels().get(LABEL_CLAIM_NAMESPACE)
}

/// Refuses an exclusive volume that was made for a PersistentVolumeClaim to every claim but its own.
pub fn held(volume: &SharedPersistentVolume) -> Option<Verdict> {
    let held = volume.spec.shared.is_none() && pvc_of(volume).is_some();
    held.then(|| {
        let name = volume.name_any();
        let why = format!("volume {name} is exclusive, and was made for a PersistentVolumeClaim that has it");
        Verdict::no(reason::VOLUME_HELD, why)
    })
}

/// The state of one PersistentVolumeClaim and its objects.
#[derive(Debug)]
pub struct Seen {
    /// UID of the PersistentVolumeClaim, from the cache.
    pub uid: String,
    /// True if Kubernetes has bound the PersistentVolumeClaim, by the cache.
    pub bound: bool,
    /// The PersistentVolumeClaim, read live if unbound or if [`is_unsettled`].
    pub pvc: Option<PersistentVolumeClaim>,
    /// The StorageClass of the PersistentVolumeClaim, from the cache.
    pub class: Option<Arc<StorageClass>>,
    /// The object with the volume's name, read live if the PersistentVolumeClaim is unbound.
    pub volume: Option<Arc<SharedPersistentVolume>>,
    /// The VolumeClaim with the PersistentVolumeClaim's name, read live while there is no volume.
    pub claim: Option<Arc<VolumeClaim>>,
    /// All reservations in the cache.
    pub reservations: Vec<Arc<DiskReservation>>,
    /// All disks in the cache.
    pub disks: Vec<Arc<NodeDisk>>,
    /// All Nodes in the cache, if the class has `allowedTopologies`.
    pub nodes: Vec<Arc<Node>>,
    /// True if a pod uses the PersistentVolumeClaim, by the cache.
    pub used: bool,
    /// The other PersistentVolumeClaims of the pods, if a scheduler chooses the node.
    pub mates: Vec<Mate>,
    /// The API server's refusal of the last write of a bound PersistentVolumeClaim's volume.
    pub refused: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// The two objects of a PersistentVolumeClaim.
pub type Objects = Box<(VolumeClaim, SharedPersistentVolume)>;

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Create the VolumeClaim, after a dry run of the volume's creation. The watch of VolumeClaims causes the next step. The
    /// step shows free space: without it there would be no claim.
    CreateClaim(Objects),
    /// Create the volume, which completes the objects.
    CreateVolume(Box<SharedPersistentVolume>),
    /// A step of the growth of the volume that was read (P3).
    Growth(growth::Step),
    /// Publish the reason for the missing volume; the next change causes the next attempt.
    Refuse(String),
    /// Publish the reason for the missing volume, and try again after a while. The reason shows free space. So the objects
    /// must first pass a dry run of their creation.
    Wait(String, Objects),
    /// Delete the unplaced volume that was read, and make the scheduler choose another node.
    Reschedule(Box<Reschedule>),
    /// Nothing.
    Rest,
}

/// The changes that make the scheduler choose another node.
#[derive(Debug, Default, PartialEq)]
pub struct Reschedule {
    /// The reason, to be published. It shows free space.
    pub why: String,
    /// The objects that pass the dry run of [`Step::Wait`], if they do not exist.
    pub asked: Option<Objects>,
    /// The other PersistentVolumeClaims of the pod for which the node is chosen again.
    pub others: Vec<PersistentVolumeClaim>,
    /// The node that has no space for all of them.
    pub crowded: Option<Crowded>,
}

/// The next step for a PersistentVolumeClaim.
pub fn next(seen: &Seen) -> Step {
    let is_same = |pvc: &&PersistentVolumeClaim| pvc.metadata.uid.as_ref() == Some(&seen.uid);
    let pvc = seen.pvc.as_ref().filter(is_same).filter(|pvc| pvc.metadata.deletion_timestamp.is_none());
    if seen.bound {
        let grow = |(pvc, volume)| growth::next(pvc, volume, seen.refused.as_deref(), seen.now);
        return pvc.zip(seen.volume.as_deref()).map_or(Step::Rest, |both| Step::Growth(grow(both)));
    }
    let Some((pvc, class)) = pvc.zip(seen.class.as_ref().filter(|class| class::is_ours(class))) else {
        return Step::Rest;
    };
    let is_delayed = class::is_delayed(class);
    let selected = pvc.annotations().get(SELECTED_NODE).filter(|_| is_delayed);
    // Kubernetes writes the provisioner when a volume is to be made.
    let is_unchosen = selected.is_none() && is_delayed;
    if !is_unchosen && !pvc.annotations().contains_key(STORAGE_PROVISIONER) {
        return Step::Rest;
    }
    let mut wanted = match class::volume(pvc, class) {
        Ok(wanted) => wanted,
        Err(why) => return Step::Refuse(why),
    };
    // Kubernetes never binds such a PersistentVolumeClaim to another PersistentVolume, as in a restored backup.
    let pv = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    if let Some(pv) = pv.filter(|_| seen.volume.is_none()) {
        return Step::Refuse(format!(
            "spec.volumeName is {pv}, and Kubernetes binds the PersistentVolumeClaim to no other PersistentVolume, so no \
             volume is made: delete the PersistentVolumeClaim, and make it again without spec.volumeName"
        ));
    }
    if is_unchosen {
        return unchosen(seen, pvc, class, wanted);
    }
    if let Some(why) = seen.claim.as_ref().and_then(|claim| in_the_way(claim, pvc)) {
        return Step::Refuse(why);
    }
    if let Some(volume) = &seen.volume {
        return match pvc_of(&**volume) == pvc_of(&wanted) {
            true => follow(volume, selected),
            false => Step::Refuse(format!(
                "SharedPersistentVolume {} was made by somebody else and is in the way: make this PersistentVolumeClaim anew, which gets a \
                 volume of another name; or delete the volume, if nobody needs its data",
                volume.name_any()
            )),
        };
    }
    let (reservations, disks) = (super::refs(&seen.reservations), super::refs(&seen.disks));
    let objects = |wanted| objects(pvc, wanted);
    if let Some(node) = selected {
        match placement::place_together(&wanted, class, &seen.mates, node, &reservations, &disks) {
            Ok(reservation) => wanted.spec.reservation = Some(reservation),
            Err(no_place) => {
                return Step::Reschedule(Box::new(Reschedule {
                    why: placement::rescheduled(node, &no_place.why, &seen.mates),
                    asked: Some(objects(wanted)),
                    others: seen.mates.iter().filter_map(|mate| mate.to_reschedule(node)).cloned().collect(),
                    crowded: no_place.crowded,
                }));
            }
        }
    } else if class.allowed_topologies.is_some() {
        match placement::place(&wanted, |node| is_allowed(seen, class, node), &reservations, &disks) {
            Ok(reservation) => wanted.spec.reservation = Some(reservation),
            Err(why) => {
                return Step::Wait(placement::on_allowed(class, &seen.nodes, &why), objects(wanted));
            }
        }
    }
    match &seen.claim {
        None => Step::CreateClaim(objects(wanted)),
        Some(_) => Step::CreateVolume(Box::new(wanted)),
    }
}

/// The step before the scheduler has chosen a node. To a pod that fits nowhere the scheduler reports a lack of storage, and
/// no more.
fn unchosen(
    seen: &Seen,
    pvc: &PersistentVolumeClaim,
    class: &StorageClass,
    wanted: SharedPersistentVolume,
) -> Step {
    if !seen.used || seen.volume.is_some() {
        return Step::Rest;
    }
    let (reservations, disks) = (super::refs(&seen.reservations), super::refs(&seen.disks));
    let allowed = |node: &str| class.allowed_topologies.is_none() || is_allowed(seen, class, node);
    match placement::place_emptied(&wanted, allowed, &reservations, &disks) {
        Ok(()) => Step::Rest,
        Err(why) if class.allowed_topologies.is_some() => {
            Step::Wait(placement::on_allowed(class, &seen.nodes, &why), objects(pvc, wanted))
        }
        Err(why) => Step::Wait(placement::nowhere(&wanted, &why), objects(pvc, wanted)),
    }
}

fn objects(pvc: &PersistentVolumeClaim, wanted: SharedPersistentVolume) -> Objects {
    Box::new((class::claim(pvc, &wanted), wanted))
}

/// True if the class allows volumes on the node of that name.
fn is_allowed(seen: &Seen, class: &StorageClass, name: &str) -> bool {
    seen.nodes.iter().any(|node| node.name_any() == name && placement::allows(class, node))
}

/// The longest pause before a refused write is repeated. The controller does not watch the namespace's permissions, whose
/// change may allow the write.
pub const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// The pause before the objects that were refused are asked for again. The grant is often applied just after the
/// PersistentVolumeClaim, as Helm does (F2), so the pause begins short and is as long as the wait so far.
pub fn refused_again(seen: &Seen) -> Duration {
    let since = seen.pvc.as_ref().and_then(|pvc| pvc.metadata.creation_timestamp.as_ref());
    let waited = since.map(|since| seen.now.duration_since(since.0));
    let waited = waited.and_then(|waited| Duration::try_from(waited).ok()).unwrap_or_default();
    waited.clamp(LASTING, REFUSED_AGAIN)
}

/// True if a step ends the wait for a volume. The pause in which the scheduler chooses another node ends none.
pub fn is_settled(seen: &Seen, step: &Step) -> bool {
    let placed =
        seen.volume.as_ref().is_some_and(|v| v.status.as_ref().is_some_and(|s| s.reservation.is_some()));
    seen.bound || placed || matches!(step, Step::CreateClaim(_) | Step::CreateVolume(_))
}

/// The next step once the volume exists.
fn follow(volume: &SharedPersistentVolume, selected: Option<&String>) -> Step {
    let status = volume.status.clone().unwrap_or_default();
    let placed = status.reservation.is_some() || volume.metadata.deletion_timestamp.is_some();
    let refused = condition::get(&status.conditions, READY).filter(|c| c.reason != reason::CREATING);
    match (selected, refused) {
        (None, Some(why)) if !placed => Step::Refuse(why.message.clone()),
        // Another volume took the last bytes of the node.
        (Some(_), Some(why)) if !placed => {
            let why = format!("another node is looked for: {}", why.message);
            Step::Reschedule(Box::new(Reschedule { why, ..Default::default() }))
        }
        _ => Step::Rest,
    }
}

/// Why the existing VolumeClaim is not the one for the PersistentVolumeClaim; `None`: the VolumeClaim is the right one.
fn in_the_way(claim: &VolumeClaim, pvc: &PersistentVolumeClaim) -> Option<String> {
    let name = claim.name_any();
    let ours = pvc_of(claim).is_some() && pvc_of(claim) == pvc.metadata.uid.as_deref();
    match (ours, claim.metadata.deletion_timestamp.is_some()) {
        (true, false) => None,
        (true, true) => Some(format!(
            "VolumeClaim {name}, which goes with this PersistentVolumeClaim alone, was deleted: delete this one too, and make it \
             anew"
        )),
        (false, false) if pvc_of(claim).is_none() => Some(format!(
            "a VolumeClaim {name} that is another's is in the way: give this PersistentVolumeClaim another name, or delete the \
                 VolumeClaim, whose data stays"
        )),
        (false, _) => Some(format!(
            "VolumeClaim {name} of a deleted PersistentVolumeClaim is still being deleted; provisioning goes on afterwards"
        )),
    }
}

/// True if the PersistentVolumeClaim of that UID is bound to its own volume, and is to be read live.
pub fn is_unsettled(uid: &str, pvc: growth::Cached, volume: &SharedPersistentVolume) -> bool {
    pvc_of(volume) == Some(uid) && !growth::is_settled(pvc, volume)
}

/// Adapts a claim's PersistentVolume to the existing PersistentVolumeClaim. Kubernetes compares class, access modes and
/// UID, and leaves the deletion of the volume to the driver in the annotation.
pub(super) fn provision(
    pv: &mut PersistentVolume,
    pvc: &PersistentVolumeClaim,
    claim: &VolumeClaim,
    class: Option<&StorageClass>,
) {
    let asked = pvc.spec.clone().unwrap_or_default();
    pv.annotations_mut().insert(PROVISIONED_BY.to_owned(), DRIVER.to_owned());
    let Some(spec) = &mut pv.spec else { return };
    // A second PersistentVolume retains the data, since a user may have set `Retain` on the first one.
    let is_first = claim.status.as_ref().is_none_or(|status| status.persistent_volume.is_none());
    let policy = class.filter(|_| is_first).and_then(|class| class.reclaim_policy.clone());
    spec.persistent_volume_reclaim_policy = policy.or_else(|| Some("Retain".to_owned()));
    spec.storage_class_name = asked.storage_class_name;
    spec.access_modes = asked.access_modes;
    if let Some(claim_ref) = &mut spec.claim_ref {
        claim_ref.uid = pvc.uid();
    }
}

/// The fate of a volume whose PersistentVolumeClaim is gone (P4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Destroy the volume: nobody else has it, and its node still says when the last mount is gone (X3).
    Destroy,
    /// Destroy the volume after its last use by other claims, with the protection of all volumes (X5).
    Retire,
    /// Turn the volume into an ordinary volume; the text is the message of the event.
    Keep(String),
    /// An earlier step has decided the fate.
    Decided,
    /// The volume is being destroyed, which ends the binding too ([`is_over`]).
    Destroyed,
}

/// The fate of `volume` once the PersistentVolumeClaim of `claim` is gone. `listed` is true if the volume's list has
/// the claim. The reclaim policy of the PersistentVolume decides, since users can change it there. Without a
/// PersistentVolume the data is kept, unless no pod can have used the volume.
pub fn fate(
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
    listed: bool,
    pv: Option<&PersistentVolume>,
) -> Fate {
    if is_own(claim, volume) && volume.metadata.deletion_timestamp.is_some() {
        return Fate::Destroyed;
    }
    if !is_own(claim, volume) || volume.spec.retire {
        return Fate::Decided;
    }
    // The order of writes is: entry in the volume's list, PersistentVolume, name of the PersistentVolume in the claim's
    // status.
    let may_have_had_one =
        listed || claim.status.as_ref().is_some_and(|status| status.persistent_volume.is_some());
    let policy = pv.and_then(|pv| pv.spec.as_ref()?.persistent_volume_reclaim_policy.as_deref());
    let claims = volume.status.as_ref().map_or(&[][..], |status| &status.claims);
    let is_alone = claims.iter().all(|binding| Some(&binding.uid) == claim.metadata.uid.as_ref());
    match (policy, may_have_had_one) {
        (Some("Delete"), _) | (None, false) if is_alone => Fate::Destroy,
        (Some("Delete"), _) | (None, false) => Fate::Retire,
        _ => {
            let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
            let (role, volume) = (&volume.spec.role, volume.name_any());
            Fate::Keep(format!(
                "PersistentVolumeClaim {namespace}/{name} is gone and its data stays: claim volume {volume} with a VolumeClaim, after \
                 a RoleSubscription of the namespace to role {role}, by: kubectl reservoir claim {name} --role {role} --volume \
                 {volume} -n {namespace}; or delete it"
            ))
        }
    }
}

/// True if a binding in the list of a volume that is being destroyed leads no pod to the volume any more: the claim is that
/// of the PersistentVolumeClaim that the volume was made for, or gone, and the PersistentVolumeClaim of its name is another
/// one, or gone. A UID never comes back, so what is over stays over. `claim` and `pvc` have the binding's names, and were
/// read live.
pub fn is_over(
    binding: &ClaimBinding,
    volume: &SharedPersistentVolume,
    claim: Option<&VolumeClaim>,
    pvc: Option<&PersistentVolumeClaim>,
) -> bool {
    let claim = claim.filter(|claim| claim.metadata.uid.as_ref() == Some(&binding.uid));
    let leads_to = |pvc: &PersistentVolumeClaim| {
        let pv = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        pvc.metadata.uid.as_deref() == pvc_of(volume)
            || pv.and_then(|pv| pv.strip_prefix(PV_PREFIX)) == Some(binding.uid.as_str())
    };
    volume.metadata.deletion_timestamp.is_some()
        && pvc_of(volume).is_some()
        && claim.is_none_or(|claim| is_own(claim, volume))
        && !pvc.is_some_and(leads_to)
}

/// True if a volume may have lost its own claim. The claim's finalizer was removed by hand, the retirement was
/// withdrawn, or the volume was created after the end of the claim. No other claim could ever bind to such a volume.
pub fn may_be_abandoned(volume: &SharedPersistentVolume) -> bool {
    let claimed = volume.status.as_ref().is_some_and(|status| !status.claims.is_empty());
    pvc_of(volume).is_some() && !volume.spec.retire && !claimed
}

/// The event of a volume whose own claim is gone.
pub fn abandoned(volume: &SharedPersistentVolume) -> String {
    format!(
        "the VolumeClaim of the PersistentVolumeClaim that it was made for is gone and its data stays: claim volume {} with a \
         VolumeClaim, or delete it",
        volume.name_any()
    )
}

#[cfg(test)]
mod tests;
