//! A copy, its original and the other copies, and the turns in which copies are filled from one another (E2, L7).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::condition::{self, BACKED, READY, reason};
use crate::api::{DiskReservation, NodeDisk, SharedPersistentVolume, Transfer, UidRef};
use crate::plan::debounce;
use crate::plan::node_labels::is_complete;

/// The most copies that are filled from one volume at once. Twenty nodes are filled in three rounds.
pub(super) const SENT_AT_ONCE: usize = 2;

/// The state around a copy. Everything is from the caches.
#[derive(Debug)]
pub struct Family {
    /// The volume that it is a copy of.
    pub original: Option<Arc<SharedPersistentVolume>>,
    /// All copies of that volume.
    pub copies: Vec<Arc<SharedPersistentVolume>>,
    /// The disks of all these volumes, and the one on which the copy is to be.
    pub disks: Vec<Arc<NodeDisk>>,
    /// The Node of the copy.
    pub node: Option<Arc<Node>>,
    /// The reservation that the copy names.
    pub reservation: Option<Arc<DiskReservation>>,
}

/// The volumes from which a copy can be filled now.
pub(super) fn sources(family: &Family) -> Vec<UidRef> {
    let Some(original) = &family.original else { return vec![] };
    let all = std::iter::once(original).chain(&family.copies);
    all.filter(|volume| can_send(volume, &family.disks)).map(|volume| reference(volume)).collect()
}

/// True for a volume with the content, which its node can send.
pub(super) fn can_send(volume: &SharedPersistentVolume, disks: &[Arc<NodeDisk>]) -> bool {
    let has_content = match &volume.spec.copy_of {
        Some(_) => is_complete(volume),
        None => volume.status.as_ref().is_some_and(|status| status.digest.is_some()),
    };
    let is_live = volume.metadata.deletion_timestamp.is_none();
    has_content && volume.is_ready() && is_live && sends(volume, disks)
}

/// True if the agent of a volume's disk sends volumes.
pub(super) fn sends(volume: &SharedPersistentVolume, disks: &[Arc<NodeDisk>]) -> bool {
    disk_of(volume, disks).is_some_and(|disk| transfer(disk).is_some())
}

/// The volume from which a copy is to be filled now; `None`: it is complete, or waits for its turn.
pub fn source(copy: &SharedPersistentVolume, family: &Family) -> Option<UidRef> {
    let (original, sources) = (family.original.as_ref()?, sources(family));
    let limit = original.spec.copies.as_ref().and_then(|copies| copies.at_once);
    let limit = limit.map_or(usize::MAX, |limit| limit as usize).min(SENT_AT_ONCE * sources.len());

    let mut load: BTreeMap<&str, usize> = sources.iter().map(|source| (&*source.uid, 0)).collect();
    let mut waiting: Vec<&SharedPersistentVolume> = vec![];
    let mut filling = 0;
    // The place of the copy itself may not be written yet.
    let is_it = |one: &SharedPersistentVolume| one.metadata.uid == copy.metadata.uid;
    let copies = family.copies.iter().map(|one| if is_it(one) { copy } else { one.as_ref() });
    for one in copies.filter(|one| can_be_filled(one, &family.disks)) {
        let status = one.status.clone().unwrap_or_default();
        let present = status.source.filter(|source| failed_from(one) != Some(source.uid.as_str()));
        match present.and_then(|source| load.get_mut(&*source.uid).map(|load| (source, load))) {
            Some((source, load)) => {
                *load += 1;
                filling += 1;
                if is_it(one) {
                    return Some(source);
                }
            }
            None => waiting.push(one),
        }
    }
    // One that failed lets the others go first.
    waiting.sort_by_key(|one| (failed_from(one).is_some(), one.name_any()));
    for one in waiting.into_iter().take(limit.saturating_sub(filling)) {
        let failed = failed_from(one);
        let free =
            sources.iter().filter(|source| load.get(&*source.uid).is_some_and(|load| *load < SENT_AT_ONCE));
        let order = |source: &&UidRef| {
            (failed == Some(source.uid.as_str()), load.get(&*source.uid).copied(), source.name.clone())
        };
        let chosen = free.min_by_key(order)?;
        if is_it(one) {
            return Some(chosen.clone());
        }
        *load.entry(&chosen.uid).or_default() += 1;
    }
    None
}

/// True for a new copy whose turn may come within a moment. One write then has its place and its source.
pub fn is_awaited(copy: &SharedPersistentVolume, family: &Family, now: Timestamp) -> bool {
    debounce::is_passing(copy.metadata.creation_timestamp.as_ref(), now) && source(copy, family).is_none()
}

/// True for a copy without content that its node makes and fills once it has a source. A node that does not answer, and one that
/// failed to make the copy, keep no turn from others.
fn can_be_filled(copy: &SharedPersistentVolume, disks: &[Arc<NodeDisk>]) -> bool {
    let status = copy.status.clone().unwrap_or_default();
    let is_there = match &status.reservation {
        Some(_) => disk_of(copy, disks).is_some_and(can_write) && !has_failed(&status.conditions),
        // It is about to be placed, unless there is a reason why not.
        None => condition::get(&status.conditions, READY).is_none(),
    };
    status.digest.is_none() && is_there && !copy.is_ending()
}

/// True for a disk on which a copy can be filled.
fn can_write(disk: &NodeDisk) -> bool {
    let ready = disk.status.as_ref().and_then(|status| condition::get(&status.conditions, READY));
    // The bytes of the copy are allocated already.
    ready.is_some_and(|ready| ready.status == "True" || ready.reason == reason::SPACE_TAKEN)
}

/// True if the node of a volume could not make it.
pub fn has_failed(conditions: &[Condition]) -> bool {
    condition::get(conditions, BACKED).is_some_and(|backed| backed.status != "True")
}

fn failed_from(copy: &SharedPersistentVolume) -> Option<&str> {
    copy.status.as_ref()?.node.as_ref()?.copy_failed_from.as_deref()
}

pub(super) fn reference(volume: &SharedPersistentVolume) -> UidRef {
    UidRef { name: volume.name_any(), uid: volume.uid().unwrap_or_default() }
}

pub(super) fn disk_of<'a>(
    volume: &SharedPersistentVolume,
    disks: &'a [Arc<NodeDisk>],
) -> Option<&'a NodeDisk> {
    let name = volume.status.as_ref().and_then(|status| status.node_disk.as_ref())?;
    disks.iter().map(AsRef::as_ref).find(|disk: &&NodeDisk| disk.metadata.name.as_ref() == Some(name))
}

/// The place where the agent of a disk sends the content of volumes.
pub fn transfer(disk: &NodeDisk) -> Option<&Transfer> {
    disk.status.as_ref().and_then(|status| status.transfer.as_ref())
}
