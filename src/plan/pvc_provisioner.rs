//! PersistentVolumeClaims of a StorageClass of ours: each gets a volume, and is the claim to it, until its deletion (P1–P6).
//!
//! The name of the volume derives from the PersistentVolumeClaim, so an interrupted controller repeats the same writes.

pub mod class;
pub mod growth;
pub mod placement;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::api::condition::{self, READY, reason};
use crate::api::{DiskReservation, NodeDisk, STORAGE_PROVISIONER, SharedPersistentVolume};

use super::crowding::Crowded;
use super::own_pvc::{self, pvc_of};
use super::transition::LASTING;
use super::{birth, node_lifetime, offer, pv_binding};
pub use crate::api::SELECTED_NODE;
use placement::Mate;

/// The state of one PersistentVolumeClaim and its objects.
#[derive(Debug)]
pub struct Seen {
    /// UID of the PersistentVolumeClaim, from the cache.
    pub uid: String,
    /// True if Kubernetes has bound the PersistentVolumeClaim, by the cache.
    pub bound: bool,
    /// The PersistentVolumeClaim, read live if unbound, if [`is_unsettled`], or if its volume has ended with its node.
    pub pvc: Option<PersistentVolumeClaim>,
    /// The StorageClass of the PersistentVolumeClaim, from the cache.
    pub class: Option<Arc<StorageClass>>,
    /// The object with the volume's name, read live if the PersistentVolumeClaim is unbound.
    pub volume: Option<Arc<SharedPersistentVolume>>,
    /// The PersistentVolume of an unbound PersistentVolumeClaim that its volume lists.
    pub binding: pv_binding::Seen,
    /// All reservations in the cache.
    pub reservations: Vec<Arc<DiskReservation>>,
    /// All disks in the cache.
    pub disks: Vec<Arc<NodeDisk>>,
    /// All Nodes in the cache, if the class has `allowedTopologies`.
    pub nodes: Vec<Arc<Node>>,
    /// True if a pod uses the PersistentVolumeClaim, by the cache.
    pub used: bool,
    /// A pod that the scheduler has placed nowhere, for want of storage capacity on some node, by the cache.
    pub without_storage: Option<String>,
    /// True if people were told that no node has a place for it.
    pub told_no_place: bool,
    /// The other PersistentVolumeClaims of the pods, if a scheduler chooses the node.
    pub mates: Vec<Mate>,
    /// The API server's refusal of the last write of a bound PersistentVolumeClaim's volume.
    pub refused: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Create the volume.
    CreateVolume(Box<SharedPersistentVolume>),
    /// Apply this step for the PersistentVolume of the PersistentVolumeClaim, and decide again.
    Bind(pv_binding::Step),
    /// Delete the PersistentVolumeClaim that was read, and publish the event: the volume's node is gone (D7).
    EndPvc(String),
    /// A step of the growth of the volume that was read (P3).
    Growth(growth::Step),
    /// Publish the reason for the missing volume; the next change causes the next attempt.
    Refuse(String),
    /// Publish the reason for the missing volume, and try again after a while. The reason shows free space. So the volume
    /// must first pass a dry run of its creation.
    Wait(String, Box<SharedPersistentVolume>),
    /// Publish that nodes have a place by now, and that the scheduler chooses. As with [`Step::Wait`], the volume must first pass a
    /// dry run of its creation.
    TellPlaces(String, Box<SharedPersistentVolume>),
    /// Publish the reason for the missing PersistentVolume, and look again after a while.
    WaitForPv(String),
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
    /// The volume that passes the dry run of [`Step::Wait`], if it does not exist.
    pub asked: Option<Box<SharedPersistentVolume>>,
    /// The other PersistentVolumeClaims of the pod for which the node is chosen again.
    pub others: Vec<PersistentVolumeClaim>,
    /// The node that has no space for all of them.
    pub crowded: Option<Crowded>,
}

/// The next step for a PersistentVolumeClaim.
pub fn next(seen: &Seen) -> Step {
    let is_same = |pvc: &&PersistentVolumeClaim| pvc.metadata.uid.as_ref() == Some(&seen.uid);
    let pvc = seen.pvc.as_ref().filter(is_same);
    let is_going = |pvc: &PersistentVolumeClaim| pvc.metadata.deletion_timestamp.is_some();
    let listed =
        seen.volume.as_deref().and_then(|volume| own_pvc::listed(volume).map(|binding| (binding, volume)));
    if let Some((pvc, (binding, volume))) = pvc.zip(listed) {
        if node_lifetime::has_ended(volume) {
            return if is_going(pvc) { Step::Rest } else { Step::EndPvc(node_lifetime::pvc_ended(volume)) };
        }
        if !seen.bound {
            // Pods come with the PersistentVolume.
            let is_first =
                seen.binding.pv.is_none() && pvc.spec.as_ref().is_some_and(|s| s.volume_name.is_none());
            if let Some(Err(why)) = is_first.then(|| offer::ready(volume)) {
                return Step::WaitForPv(why.message);
            }
            return match pv_binding::next(&own_pvc::claim(binding, pvc, volume), volume, &seen.binding) {
                pv_binding::Step::Done => Step::Rest,
                pv_binding::Step::Wait(why) => Step::WaitForPv(why.message),
                step => Step::Bind(step),
            };
        }
    }
    let pvc = pvc.filter(|pvc| !is_going(pvc));
    if seen.bound {
        let grow = |(pvc, volume)| growth::next(pvc, volume, seen.refused.as_deref(), seen.now);
        return pvc.zip(seen.volume.as_deref()).map_or(Step::Rest, |both| Step::Growth(grow(both)));
    }
    let Some((pvc, class)) = pvc.zip(seen.class.as_ref().filter(|class| class::is_ours(class))) else {
        return Step::Rest;
    };
    // Kubernetes never binds such a PersistentVolumeClaim to another PersistentVolume, as in a restored backup.
    let pv = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    if let Some(pv) = pv.filter(|_| seen.volume.is_none()) {
        return Step::Refuse(format!(
            "spec.volumeName is {pv}, and Kubernetes binds the PersistentVolumeClaim to no other PersistentVolume, so no \
             volume is made: delete the PersistentVolumeClaim, and make it again without spec.volumeName"
        ));
    }
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
    if is_unchosen {
        return unchosen(seen, class, wanted);
    }
    if let Some(volume) = &seen.volume {
        return match pvc_of(&**volume) == pvc_of(&wanted) {
            true => match &seen.refused {
                Some(why) => Step::Refuse(why.clone()),
                None => follow(volume, &wanted, selected),
            },
            false => Step::Refuse(format!(
                "SharedPersistentVolume {} was made by somebody else and is in the way: make this PersistentVolumeClaim anew, which gets a \
                 volume of another name; or delete the volume, if nobody needs its data",
                volume.name_any()
            )),
        };
    }
    let (reservations, disks) = (super::refs(&seen.reservations), super::refs(&seen.disks));
    if let Some(node) = selected {
        match placement::place_together(&wanted, class, &seen.mates, node, &reservations, &disks) {
            Ok(reservation) => wanted = birth::born_in(wanted, reservation, &reservations),
            Err(no_place) => {
                return Step::Reschedule(Box::new(Reschedule {
                    why: placement::rescheduled(node, &no_place.why, &seen.mates),
                    asked: Some(Box::new(wanted)),
                    others: seen.mates.iter().filter_map(|mate| mate.to_reschedule(node)).cloned().collect(),
                    crowded: no_place.crowded,
                }));
            }
        }
    } else if class.allowed_topologies.is_some() {
        match placement::place(&wanted, |node| is_allowed(seen, class, node), &reservations, &disks) {
            Ok(reservation) => wanted = birth::born_in(wanted, reservation, &reservations),
            Err(why) => {
                return Step::Wait(placement::on_allowed(class, &seen.nodes, &why), Box::new(wanted));
            }
        }
    }
    Step::CreateVolume(Box::new(wanted))
}

/// The step before the scheduler has chosen a node. To a pod that fits nowhere the scheduler reports a lack of storage, and
/// no more.
fn unchosen(seen: &Seen, class: &StorageClass, wanted: SharedPersistentVolume) -> Step {
    if !seen.used || seen.volume.is_some() {
        return Step::Rest;
    }
    let (reservations, disks) = (super::refs(&seen.reservations), super::refs(&seen.disks));
    let allowed = |node: &str| class.allowed_topologies.is_none() || is_allowed(seen, class, node);
    match placement::place_emptied(&wanted, allowed, &reservations, &disks) {
        Ok(()) => {
            let places = || placement::places(&wanted, class, &seen.mates, allowed, &reservations, &disks);
            let pod = seen.without_storage.as_ref().map(|pod| (pod, places()));
            // Without any place for all volumes of the pod the scheduler chooses again ([`Step::Reschedule`]).
            match pod.filter(|(_, places)| !places.is_empty()) {
                Some((pod, places)) => {
                    Step::Wait(placement::elsewhere(&wanted, pod, &places), Box::new(wanted))
                }
                None if seen.told_no_place => {
                    Step::TellPlaces(placement::found(&wanted, &places()), Box::new(wanted))
                }
                None => Step::Rest,
            }
        }
        Err(why) if class.allowed_topologies.is_some() => {
            Step::Wait(placement::on_allowed(class, &seen.nodes, &why), Box::new(wanted))
        }
        Err(why) => Step::Wait(placement::nowhere(&wanted, &why), Box::new(wanted)),
    }
}

/// True if the class allows volumes on the node of that name.
fn is_allowed(seen: &Seen, class: &StorageClass, name: &str) -> bool {
    seen.nodes.iter().any(|node| node.name_any() == name && placement::allows(class, node))
}

/// The longest pause before a refused write is repeated. The controller does not watch the namespace's permissions, whose
/// change may allow the write.
pub const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// The pause before the volume that was refused is asked for again. The grant is often applied just after the
/// PersistentVolumeClaim, as Helm does (F2), so the pause begins short and is as long as the wait so far.
pub fn refused_again(seen: &Seen) -> Duration {
    let since = seen.pvc.as_ref().and_then(|pvc| pvc.metadata.creation_timestamp.as_ref());
    let waited = since.map(|since| seen.now.duration_since(since.0));
    let waited = waited.and_then(|waited| Duration::try_from(waited).ok()).unwrap_or_default();
    waited.clamp(LASTING, REFUSED_AGAIN)
}

/// True if the PersistentVolumeClaim of a class waits, and its volume is yet to be made.
pub fn waits_empty(seen: &Seen, pvc: &PersistentVolumeClaim) -> bool {
    let is_its = pvc.metadata.uid.as_ref() == Some(&seen.uid) && pvc.metadata.deletion_timestamp.is_none();
    let names_none = pvc.spec.as_ref().is_none_or(|spec| spec.volume_name.is_none());
    is_its && names_none && !seen.bound && seen.volume.is_none() && seen.class.is_some()
}

/// True if a step ends the wait for a volume. The pause in which the scheduler chooses another node ends none.
pub fn is_settled(seen: &Seen, step: &Step) -> bool {
    let placed =
        seen.volume.as_ref().is_some_and(|v| v.status.as_ref().is_some_and(|s| s.reservation.is_some()));
    seen.bound || placed || matches!(step, Step::CreateVolume(_))
}

/// The next step once the volume exists.
fn follow(
    volume: &SharedPersistentVolume,
    wanted: &SharedPersistentVolume,
    selected: Option<&String>,
) -> Step {
    let status = volume.status.clone().unwrap_or_default();
    let placed = status.reservation.is_some() || volume.metadata.deletion_timestamp.is_some();
    // Somebody else changed the size. It is that of the PersistentVolumeClaim, as afterwards (P3).
    if !placed && volume.spec.size.bytes_or_zero() != wanted.spec.size.bytes_or_zero() {
        return Step::Growth(growth::Step::Resize(wanted.spec.size.clone()));
    }
    let refused = condition::get(&status.conditions, READY).filter(|c| c.reason != reason::CREATING);
    match (selected, refused) {
        (_, Some(why)) if placed && volume.metadata.deletion_timestamp.is_none() && why.status != "True" => {
            Step::Refuse(format!("volume {} is not ready: {}", volume.name_any(), why.message))
        }
        (None, Some(why)) if !placed => Step::Refuse(why.message.clone()),
        // Another volume took the last bytes of the node.
        (Some(_), Some(why)) if !placed => {
            let why = format!("another node is looked for: {}", why.message);
            Step::Reschedule(Box::new(Reschedule { why, ..Default::default() }))
        }
        _ => Step::Rest,
    }
}

/// True if an unbound PersistentVolumeClaim of that UID, with that request, waits for its volume to be made: nothing is to be
/// done before the next change of the volume.
pub fn waits_for_volume(uid: &str, requested: Option<u64>, volume: &SharedPersistentVolume) -> bool {
    let status = volume.status.clone().unwrap_or_default();
    let is_creating = condition::get(&status.conditions, READY).is_none_or(|c| c.reason == reason::CREATING);
    pvc_of(volume) == Some(uid)
        && own_pvc::listed(volume).is_none()
        && volume.metadata.deletion_timestamp.is_none()
        && is_creating
        && requested == volume.spec.size.bytes().ok()
}

/// True if the PersistentVolumeClaim of that UID is bound to its own volume, and is to be read live.
pub fn is_unsettled(uid: &str, pvc: growth::Cached, volume: &SharedPersistentVolume) -> bool {
    pvc_of(volume) == Some(uid) && !growth::is_settled(pvc, volume)
}

#[cfg(test)]
mod tests;
