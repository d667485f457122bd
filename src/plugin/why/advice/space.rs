//! The steps towards free space for a volume.

use kube::ResourceExt;

use super::About;
use super::anew::{AS_SAID, anew, in_size};
use crate::api::{ANNOTATION_MADE_FOR, DiskReservation, NodeDisk, Role, SharedPersistentVolume, Size};
use crate::plan::candidate::is_ready;
use crate::plan::enlarge::{Way, new_name, way};
use crate::plan::own_pvc::pvc_of;
use crate::plan::{advice, holder, resize, undivided};

impl<'a> About<'a> {
    /// The step for a volume that its reservation cannot hold, or let grow.
    pub(super) fn reservation_full(&self) -> String {
        let Some(volume) = self.volume else { return advice::look_again() };
        let may_use = |r: &&DiskReservation| Role::name_covers(&r.spec.role, self.role) && holder::serves(r);
        let reservations: Vec<&DiskReservation> = match self.reservation {
            Some(own) => vec![own],
            None => self.snapshot.reservations.iter().filter(may_use).collect(),
        };
        if reservations.is_empty() {
            return advice::look_again();
        }
        if let Some(step) = self.of_ending_pvc(volume) {
            return step;
        }
        let is_ending = |r: &&DiskReservation| r.metadata.deletion_timestamp.is_some();
        if let Some(ending) = self.reservation.filter(is_ending) {
            return match self.made_for(volume) {
                // Kubernetes takes no request back to the present size.
                Some(_) => advice::retire_beside(self.role, ending.name_any()),
                None => advice::take_size_back(self.name, self.present_size()),
            };
        }
        let placed = volume.status.as_ref().is_some_and(|s| s.reservation.is_some());
        if reservations.iter().all(|r| undivided::has_whole_disk(r)) && self.made_for(volume).is_none() {
            return match placed {
                true => advice::take_size_back(self.name, self.present_size()),
                false => self.reserve_another_disk(volume, reservations[0]),
            };
        }
        let has = if placed { resize::size_now(volume).bytes_or_zero() } else { 0 };
        let disks: Vec<&NodeDisk> = self.snapshot.disks.iter().collect();
        let found =
            way(volume.spec.size.bytes_or_zero(), has, &reservations, &disks, self.reservation.is_none());
        match (found, self.made_for(volume)) {
            (Way::AskFor(most, _), Some((pvc, namespace))) if !placed => {
                self.ask_anew(&pvc, &namespace, Size::from_bytes(most))
            }
            (Way::AskFor(most, within), made_for) => self.ask_for(most, within, made_for),
            (Way::Nothing, _) if placed => self.free_own_disk(),
            (found, _) => self.way_to_space(found, self.role, &volume.spec.size),
        }
    }

    /// The step for a volume in a reservation of a whole disk, which another volume has (D2).
    fn reserve_another_disk(&self, volume: &SharedPersistentVolume, full: &DiskReservation) -> String {
        let size = volume.spec.size.bytes_or_zero();
        let is_free = |disk: &&NodeDisk| {
            let free = disk.status.as_ref().and_then(|status| status.free.as_ref());
            is_ready(disk) && free.is_some_and(|free| free.bytes_or_zero() >= size)
        };
        let name = new_name(self.role, &self.snapshot.reservations);
        match (self.snapshot.disks.iter().any(|disk| is_free(&disk)), &volume.spec.reservation) {
            (true, Some(asked)) => {
                let anew = self.create_anew(self.role, Some(&name));
                advice::create_in_new_reservation(
                    name,
                    self.role,
                    &volume.spec.size,
                    anew,
                    asked,
                    "a whole disk, with one volume and no other size",
                )
            }
            (true, None) => advice::reserve_for_role(name, self.role, &volume.spec.size),
            (false, _) => advice::retire_for_whole_disk(self.role, full.name_any()),
        }
    }

    /// The step of a way for what is not made yet.
    pub fn way_to_space(&self, found: Way<'_>, role: &str, size: &Size) -> String {
        match found {
            Way::Enlarge(reservation, size) => self.enlarge(reservation, Size::from_bytes(size)),
            Way::Reserve if let Some(step) = self.raise_limit(role, None, size) => step,
            Way::Reserve => advice::reserve_for_role(new_name(role, &self.snapshot.reservations), role, size),
            Way::AskFor(..) | Way::Nothing => advice::make_free_space(),
        }
    }

    /// The step for an object that does not leave its disk, of which nothing is free.
    pub(super) fn free_own_disk(&self) -> String {
        self.disk.as_ref().map_or_else(advice::make_free_space, advice::free_own_disk)
    }

    /// The command that gives a volume the most that there is, after one for its reservation.
    fn ask_for(
        &self,
        most: u64,
        within: Option<(&DiskReservation, u64)>,
        made_for: Option<(String, String)>,
    ) -> String {
        let size = Size::from_bytes(most);
        let has = |r: &DiskReservation| r.status.as_ref().map_or(0, holder::size);
        let of_pvc = made_for.map(|(pvc, namespace)| advice::resize_pvc(pvc, namespace, &size));
        match within {
            // It asks for as much already, and waits for something else.
            Some((reservation, larger))
                if larger > has(reservation) && reservation.spec.size.bytes_or_zero() == larger =>
            {
                advice::ask_why(format!("dr/{}", reservation.name_any()))
            }
            Some((reservation, larger)) if larger > has(reservation) => {
                let plain = || format!("kubectl reservoir resize spv/{} {size}", self.name);
                let resize = of_pvc.as_deref().map(|step| advice::command(step).to_owned());
                let larger = Size::from_bytes(larger);
                if let Some(step) = self.raise_limit(&reservation.spec.role, Some(reservation), &larger) {
                    return step;
                }
                self.resize_elsewhere(Some(reservation), larger.clone()).unwrap_or_else(|| {
                    advice::grow_both(reservation.name_any(), larger, resize.unwrap_or_else(plain))
                })
            }
            _ => of_pvc.unwrap_or_else(|| advice::fit_reservation(self.name, size, self.role)),
        }
    }

    /// The step for a PersistentVolumeClaim that asks for more than there is.
    pub fn ask_anew(&self, pvc: &str, namespace: &str, most: Size) -> String {
        anew(self.snapshot, pvc, namespace, &in_size(&most))
    }

    /// Name and namespace of the PersistentVolumeClaim that the volume was made for.
    pub(super) fn made_for(&self, volume: &SharedPersistentVolume) -> Option<(String, String)> {
        let seen = self.pvc_with(volume).map(|pvc| (pvc.name_any(), pvc.namespace().unwrap_or_default()));
        let noted = || {
            let (namespace, name) = volume.annotations().get(ANNOTATION_MADE_FOR)?.split_once('/')?;
            Some((name.to_owned(), namespace.to_owned()))
        };
        pvc_of(volume).and_then(|_| seen.or_else(noted))
    }

    /// The step for a volume of a PersistentVolumeClaim that can only be made anew. `by_class` is true if its StorageClass has
    /// what is wrong. The controller would make the same volume again.
    pub(super) fn made_anew(&self, by_class: bool) -> Option<String> {
        let volume = self.volume?;
        let (pvc, namespace) = self.made_for(volume)?;
        let seen = self.pvc_with(volume);
        let class = seen.and_then(|pvc| pvc.spec.as_ref()?.storage_class_name.as_deref());
        Some(match class.filter(|_| by_class) {
            Some(class) => advice::make_both_anew(class, pvc, namespace),
            None => anew(self.snapshot, &pvc, &namespace, AS_SAID),
        })
    }
}
