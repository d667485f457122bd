//! The objects of an API server or a cache, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::core::object::HasStatus;
use kube::{Resource, ResourceExt};

use super::super::candidate::Candidate;
use super::super::holder::{Holder, is_parent};
use super::super::reservation_seen::Seen;
use super::super::share::{Outcomes, share_out};
use crate::api::{DiskReservation, NodeDisk, SharedPersistentVolume, VolumeRole};

type Objects<K> = BTreeMap<String, Arc<K>>;

/// The objects of an API server or a cache.
#[derive(Clone, Default)]
pub struct Store {
    pub disks: Objects<NodeDisk>,
    pub reservations: Objects<DiskReservation>,
    pub roles: Objects<VolumeRole>,
    pub volumes: Objects<SharedPersistentVolume>,
    pub version: u64,
}

pub trait Stored: HasStatus + Resource<DynamicType = ()> + Clone {
    fn of(store: &Store) -> &Objects<Self>;
    fn of_mut(store: &mut Store) -> &mut Objects<Self>;
}

macro_rules! stored {
    ($($Kind:ident in $field:ident),+) => {
        $(impl Stored for $Kind {
            fn of(store: &Store) -> &Objects<Self> {
                &store.$field
            }
            fn of_mut(store: &mut Store) -> &mut Objects<Self> {
                &mut store.$field
            }
        })+
    };
}

stored!(NodeDisk in disks, DiskReservation in reservations, VolumeRole in roles, SharedPersistentVolume in volumes);

impl Store {
    pub fn get<K: Stored>(&self, name: &str) -> Option<Arc<K>> {
        K::of(self).get(name).cloned()
    }

    pub fn put<K: Stored>(&mut self, mut object: K) -> K {
        self.version += 1;
        object.meta_mut().resource_version = Some(self.version.to_string());
        K::of_mut(self).insert(object.name_any(), Arc::new(object.clone()));
        object
    }

    /// Writes a status by compare-and-swap. An unchanged status causes no write.
    pub fn write<K: Stored<Status: Clone + PartialEq>>(&mut self, seen: &K, status: K::Status) -> Option<K> {
        let now = self.get::<K>(&seen.name_any())?;
        let same = now.uid() == seen.uid() && now.resource_version() == seen.resource_version();
        match same {
            false => None,
            true if now.status() == Some(&status) => Some((*now).clone()),
            true => {
                let mut written = (*now).clone();
                *written.status_mut() = Some(status);
                Some(self.put(written))
            }
        }
    }

    pub fn parent_of(&self, reservation: &DiskReservation) -> Option<Arc<DiskReservation>> {
        let parent = self.get::<DiskReservation>(reservation.spec.parent.as_ref()?)?;
        is_parent(&parent, reservation).then_some(parent)
    }

    /// The reservations in a ledger.
    pub fn owners<H: Holder<DiskReservation>>(&self, holder: &H) -> Vec<Arc<DiskReservation>> {
        holder.ledger().entries().iter().filter_map(|entry| self.get(&entry.name)).collect()
    }

    pub fn seen(&self, reservation: Arc<DiskReservation>) -> Seen {
        let disks: Vec<_> = self.disks.values().cloned().collect();
        let (reservations, roles): (Vec<_>, Vec<_>) = (
            self.reservations.values().map(AsRef::as_ref).collect(),
            self.roles.values().map(AsRef::as_ref).collect(),
        );
        let candidates: Vec<_> = disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
        let mut outcomes =
            share_out(&reservations, &candidates, &roles, &Outcomes::new(), Timestamp::UNIX_EPOCH);
        Seen {
            parent: reservation.spec.parent.as_ref().and_then(|name| self.get(name)),
            refinements: self.owners(&*reservation),
            // No NodeDisk is made anew.
            unlisted: vec![],
            roles: self.roles.values().cloned().collect(),
            outcome: outcomes.remove(&reservation.uid().unwrap()),
            live: false,
            settled: false,
            room_made: false,
            now: Timestamp::UNIX_EPOCH,
            disks,
            reservation,
        }
    }
}
