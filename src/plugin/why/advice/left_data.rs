//! Steps towards data that has no volume, before an empty volume takes its place (X6, X8).

use kube::ResourceExt;

use super::{About, word};
use crate::api::{LedgerEntry, Role, SharedPersistentVolume};
use crate::plan::candidate::is_ready;
use crate::plan::left_data::{self, LeftData};
use crate::plan::own_pvc::pvc_of;
use crate::plan::volume::has_data_of;
use crate::plan::{advice, kept};
use crate::plugin::kind::{DISK, RESERVATION, VOLUME};
use crate::plugin::snapshot::Snapshot;

impl About<'_> {
    /// The newest data that is wanted.
    pub fn left_data(&self, is_wanted: impl Fn(&SharedPersistentVolume) -> bool) -> Option<LeftData<'_>> {
        let Snapshot { disks, reservations, volumes, .. } = self.snapshot;
        let fits = |data: &LeftData| data.volume().is_some_and(|volume| is_wanted(&volume));
        left_data::newest(left_data::all(disks, reservations, volumes), volumes, self.namespace, fits)
    }

    /// True if the caller sees all data that a claim could have.
    pub(super) fn sees_old_data(&self) -> bool {
        [&VOLUME, &RESERVATION, &DISK].into_iter().all(|kind| self.snapshot.sees(kind))
    }

    /// The step that brings back data which a claim could have. `create` makes an empty volume instead.
    pub(super) fn old_data(
        &self,
        is_wanted: impl Fn(&SharedPersistentVolume) -> bool,
        create: &str,
    ) -> Option<String> {
        let bare = advice::command(create);
        let Some(data) = self.left_data(&is_wanted) else {
            let (disk, volume) = self.unseen_data(is_wanted)?;
            return Some(advice::await_data_for_claim(disk, volume, bare));
        };
        let (name, uid) = (data.name(), data.uid());
        let is_taken = self.snapshot.volumes.iter().any(|volume| volume.name_any() == name);
        // That of a PersistentVolumeClaim has another name than the claim asks for.
        let asked = self.claim.and_then(|claim| claim.spec.volume.as_ref()).filter(|asked| **asked != name);
        Some(match data.until() {
            None => advice::recover_for_claim(uid, name, bare),
            Some(until) => {
                let data = match asked {
                    Some(asked) => format!("{uid} --name {}", word(asked)),
                    None if is_taken => format!("{uid} --name {name}-undeleted"),
                    None => uid.to_owned(),
                };
                advice::undelete_for_claim(data, name, until, bare)
            }
        })
    }

    /// A disk that is not ready, and a volume that a reservation on it lists and that has no object: somebody removed that by force. Its
    /// labels are on the disk alone.
    fn unseen_data(&self, is_wanted: impl Fn(&SharedPersistentVolume) -> bool) -> Option<(&str, &str)> {
        let selects = self.claim.is_some_and(|claim| claim.spec.selector.is_some());
        let has_object =
            |uid: &str| self.snapshot.volumes.iter().any(|v| v.metadata.uid.as_deref() == Some(uid));
        let may_be_wanted = |entry: &&LedgerEntry| {
            let mut volume = SharedPersistentVolume::new(&entry.name, Default::default());
            volume.spec.role.clone_from(&entry.role);
            let fits = is_wanted(&volume) || selects && Role::name_covers(&entry.role, self.role);
            fits && entry.kept.is_none() && !has_object(&entry.uid)
        };
        self.snapshot.reservations.iter().find_map(|reservation| {
            let status = reservation.status.as_ref()?;
            let disk = status.node_disk.as_deref()?;
            let on = self.snapshot.disks.iter().find(|on| on.metadata.name.as_deref() == Some(disk))?;
            let entry =
                status.volumes.iter().filter(|_| !on.spec.gone && !is_ready(on)).find(may_be_wanted)?;
            Some((disk, entry.name.as_str()))
        })
    }

    /// The step for a volume without a place, while the data of an earlier volume of its name is kept.
    pub(super) fn undelete_instead(&self) -> Option<String> {
        let volume = self.volume.filter(|volume| self.claim.is_none() && pvc_of(*volume).is_none())?;
        let placed = volume.status.as_ref().is_some_and(|status| status.reservation.is_some());
        let of_namesakes = kept::of_namesakes(volume, &self.snapshot.reservations);
        let (_, entry, kept) =
            of_namesakes.into_iter().rfind(|(_, entry, _)| !placed && entry.name == self.name)?;
        Some(advice::undelete_instead(&self.argument, &entry.name, &entry.uid, kept.until.0))
    }

    /// The step for a volume whose data is not where it looks for it, or is another volume's.
    pub(super) fn no_orphan(&self) -> String {
        let own = self.volume.filter(|volume| pvc_of(*volume).is_none());
        let Some((volume, recover)) = own.and_then(|volume| Some((volume, volume.spec.recover.as_ref()?)))
        else {
            return advice::list_orphans(self.to_delete());
        };
        let snapshot = self.snapshot;
        let has = |other: &&SharedPersistentVolume| {
            other.name_any() != self.name && has_data_of(other, &recover.uid)
        };
        if let Some(owner) = snapshot.volumes.iter().find(has) {
            let name = owner.name_any();
            return match owner.metadata.deletion_timestamp {
                Some(_) => advice::ask_why(format!("spv/{name}")),
                None => advice::leave_data_to_owner(&self.argument, name, &owner.spec.role),
            };
        }
        let all = left_data::all(&snapshot.disks, &snapshot.reservations, &[]);
        let placed = volume.status.as_ref().is_some_and(|status| status.reservation.is_some());
        match all.iter().find(|data| data.uid() == recover.uid) {
            Some(_) if placed => advice::list_orphans(&self.argument),
            Some(data) => match data.until() {
                Some(until) => advice::undelete_instead(&self.argument, data.name(), data.uid(), until),
                None => advice::recover_as_it_is(&self.argument, data.uid()),
            },
            None => match snapshot.disks.iter().find(|disk| !disk.spec.gone && !is_ready(disk)) {
                Some(disk) => advice::await_disk_of_data(disk.name_any(), &self.argument),
                None => {
                    let reservation = volume.spec.reservation.as_deref();
                    advice::create_without_data(self.create(self.role, reservation, false))
                }
            },
        }
    }
}
