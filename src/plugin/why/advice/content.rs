//! Steps for what is in a reservation that is being deleted.

use kube::ResourceExt;

use super::About;
use crate::api::condition::reason::{HAS_REFINEMENTS, HAS_VOLUMES};
use crate::api::condition::{self, RETIRING};
use crate::api::{DiskReservation, LedgerEntry, SharedPersistentVolume};
use crate::plan::candidate::is_ready;
use crate::plan::copies::{Keeper, keeper};
use crate::plan::{advice, orphans};
use crate::plugin::kind::{DISK, VOLUME};

impl<'a> About<'a> {
    /// The step for the first object in a reservation that is being deleted.
    pub(super) fn content(&self, reason: &str) -> String {
        let Some(status) = self.reservation.and_then(|r| r.status.as_ref()) else {
            return advice::look_again();
        };
        let (kept, live): (Vec<_>, Vec<_>) = status.volumes.iter().partition(|entry| entry.kept.is_some());
        match (reason, live.first(), kept.first(), status.refinements.first()) {
            (HAS_VOLUMES, Some(first), ..) => match live.iter().find(|entry| !self.is_ending_volume(entry)) {
                Some(volume) => self.end_volume(volume),
                None => advice::ask_why(format!("spv/{}", first.name)),
            },
            (HAS_VOLUMES, None, Some(volume), _) => {
                let last = kept.iter().filter_map(|entry| Some(entry.kept.as_ref()?.until.0)).max();
                advice::await_kept(last.unwrap_or_default(), &volume.uid)
            }
            (HAS_REFINEMENTS, .., Some(first)) => {
                let of = |entry: &LedgerEntry| {
                    let uid = Some(entry.uid.as_str());
                    self.snapshot.reservations.iter().find(|r| r.metadata.uid.as_deref() == uid)
                };
                let ends = |r: &DiskReservation| r.metadata.deletion_timestamp.is_some();
                match status.refinements.iter().find(|entry| !of(entry).is_some_and(ends)) {
                    Some(refinement) if of(refinement).is_none() => self.end_content_of_lost(refinement),
                    Some(refinement) => advice::delete_content(&refinement.name),
                    None => advice::ask_why(format!("dr/{}", first.name)),
                }
            }
            _ => advice::look_again(),
        }
    }

    /// The volume of the entry. Another one may have its name by now.
    fn volume_of_entry(&self, entry: &LedgerEntry) -> Option<&'a SharedPersistentVolume> {
        self.snapshot.volumes.iter().find(|volume| volume.metadata.uid.as_ref() == Some(&entry.uid))
    }

    /// True if a person has ended the volume of the entry, and is led to the next.
    fn is_ending_volume(&self, entry: &LedgerEntry) -> bool {
        self.volume_of_entry(entry).is_some_and(|volume| {
            let conditions = volume.status.as_ref().map_or(&[][..], |status| &status.conditions);
            volume.metadata.deletion_timestamp.is_some() || condition::is_true(conditions, RETIRING)
        })
    }

    /// True if a disk has the data of the entry, and no volume has it.
    fn is_orphan(&self, entry: &LedgerEntry) -> bool {
        let mut there = self.snapshot.disks.iter().filter(|disk| !disk.spec.gone);
        there.any(|disk| {
            disk.status.as_ref().is_some_and(|status| status.orphans.iter().any(|of| of.uid == entry.uid))
        })
    }

    /// The step for a volume in the reservation that has no object, so that nobody can delete it.
    pub fn orphan_within(&self) -> Option<String> {
        let mut entries = self.reservation?.status.iter().flat_map(|status| &status.volumes);
        let orphan = entries.find(|entry| entry.kept.is_none() && self.is_orphan(entry))?;
        Some(advice::recover_orphan(&orphan.uid))
    }

    /// The step that ends the volume of the entry, or the data of a volume without an object.
    fn end_volume(&self, entry: &LedgerEntry) -> String {
        let volume = self.volume_of_entry(entry);
        // The command `retire` refuses copies.
        if let Some((copy, of)) = volume.and_then(|volume| Some((volume, volume.spec.copy_of.as_ref()?))) {
            return match keeper(copy, self.snapshot.original(of)) {
                Keeper::Selection => advice::unselect_copy(&of.name, &of.node, &entry.name),
                _ => advice::ask_why(format!("spv/{}", entry.name)),
            };
        }
        if volume.is_some() || !self.snapshot.sees(&VOLUME) {
            return advice::retire_content(&entry.name);
        }
        if !self.snapshot.sees(&DISK) {
            return advice::have_administrator_ask(&self.argument);
        }
        if self.is_orphan(entry) {
            return advice::recover_orphan(&entry.uid);
        }
        match self.disk() {
            None => advice::find_agent(self.node()),
            Some(disk) if !is_ready(disk) => advice::ask_why(format!("nd/{}", disk.name_any())),
            Some(disk) if orphans::unlisted(disk).is_some() => advice::recover_listed(),
            Some(disk) => advice::find_data_of_lost(&entry.name, &entry.uid, disk.name_any()),
        }
    }

    /// The step for a refinement without an object: a volume that is still in it.
    fn end_content_of_lost(&self, refinement: &LedgerEntry) -> String {
        let is_in = |volume: &&SharedPersistentVolume| {
            let of = volume.status.as_ref().and_then(|status| status.reservation.as_ref());
            of.is_some_and(|of| of.uid == refinement.uid)
        };
        let volume = self.snapshot.volumes.iter().find(is_in);
        volume.map_or_else(advice::look_again, |volume| advice::ask_why(format!("spv/{}", volume.name_any())))
    }
}
