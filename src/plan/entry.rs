//! The entries of a reservation in the ledgers of other objects: its disk or its parent, and the VolumeRoles whose
//! quota counts the reservation (R1, R4, Q2).
//!
//! An entry is written before the status of the reservation, and carries the reservation's UID. So after a crash in
//! between, the next controller finds the entry. An entry with too many bytes is cut later, by any controller.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{DiskReservation, LedgerEntry, Role, SharedPersistentVolume, Size, UidRef};

use super::holder::{Holder, is_parent, size, used};
use super::undivided;

/// The entry for the size in the reservation's spec.
pub fn entry(reservation: &DiskReservation) -> Result<LedgerEntry, Verdict> {
    let invalid = |error: String| Verdict::no(reason::INVALID, error);
    Role::parse(&reservation.spec.role).map_err(|e| invalid(e.to_string()))?;
    let asked = reservation.spec.size.bytes().map_err(|e| invalid(e.to_string()))?;
    Ok(entry_of(reservation, undivided::of_reservation(reservation, asked)))
}

/// An entry of the reservation with so many bytes.
pub fn entry_of(reservation: &DiskReservation, bytes: u64) -> LedgerEntry {
    LedgerEntry {
        kept: None,
        namespace: None,
        name: reservation.name_any(),
        uid: reservation.uid().unwrap_or_default(),
        role: reservation.spec.role.clone(),
        size: Size::from_bytes(bytes),
        generation: reservation.metadata.generation,
    }
}

/// True if the entry was taken for the present spec of the reservation, not for an earlier one.
pub fn is_current(entry: &LedgerEntry, reservation: &DiskReservation) -> bool {
    entry.generation >= reservation.metadata.generation
}

/// True if the reservation is being deleted, and nothing is in it.
pub fn goes(reservation: &DiskReservation) -> bool {
    let is_deleted = reservation.metadata.deletion_timestamp.is_some();
    is_deleted && reservation.status.as_ref().is_none_or(|status| used(status) == 0)
}

/// Bytes that the reservation requests beyond its present size.
pub fn asked(reservation: &DiskReservation) -> Result<u64, Verdict> {
    let has = reservation.status.as_ref().filter(|s| s.node_disk.is_some()).map_or(0, size);
    Ok(entry(reservation)?.size.bytes_or_zero().saturating_sub(has))
}

/// True if the reservation has its bytes.
pub fn is_placed(reservation: &DiskReservation) -> bool {
    reservation.status.as_ref().is_some_and(|s| s.node_disk.is_some())
}

/// Reservations by name.
pub struct ByName<'a>(HashMap<&'a str, &'a DiskReservation>);

impl<'a> ByName<'a> {
    /// Indexes the reservations by name.
    pub fn new(all: impl IntoIterator<Item = &'a DiskReservation>) -> Self {
        Self(all.into_iter().filter_map(|r| Some((r.metadata.name.as_deref()?, r))).collect())
    }

    /// The role of the reservation that `refinement` is, or is to be, carved out of.
    pub fn parent_role(&self, refinement: &DiskReservation) -> Option<&'a str> {
        let parent = self.0.get(refinement.spec.parent.as_deref()?).filter(|p| is_parent(p, refinement))?;
        Some(&parent.spec.role)
    }

    /// The entries of a ledger whose reservation is gone, has shrunk, or is placed elsewhere.
    pub fn unsettled<H: Holder<DiskReservation>>(&self, holder: &H) -> Vec<LedgerEntry> {
        let owner = |entry: &LedgerEntry| {
            self.0.get(&*entry.name).filter(|r| r.metadata.uid.as_ref() == Some(&entry.uid))
        };
        let is_settled =
            |entry: &LedgerEntry| owner(entry).is_some_and(|r| fits(holder, r, self.parent_role(r)));
        holder.ledger().entries().iter().filter(|entry| !is_settled(entry)).cloned().collect()
    }
}

/// The owner of an entry, read live after the ledger.
pub enum Owner {
    /// The reservation, and the role of its parent, if any.
    Is(Box<DiskReservation>, Option<String>),
    /// The reservation is gone. With `lived_in`, its finalizer was removed by hand while its bytes were in use (S3).
    Gone {
        /// True if a volume or a refinement is in the reservation.
        lived_in: bool,
    },
}

/// The holder's status, with the entries brought within their bounds.
///
/// The ledger is read before the reservations, and written by compare-and-swap. An entry that has grown since then
/// makes the write fail, so the entry of a growing reservation is never cut.
pub fn settled<H: Holder<DiskReservation>>(holder: &H, owners: &[(LedgerEntry, Owner)]) -> H::Status {
    let mut ledger = holder.ledger();
    for (entry, owner) in owners {
        ledger = match owner {
            Owner::Is(reservation, parent) => {
                let (low, high) = bounds(holder, reservation, parent.as_deref()).into_inner();
                ledger.set_within(entry.clone(), low, high)
            }
            Owner::Gone { lived_in: true } => ledger,
            Owner::Gone { lived_in: false } => ledger.release(&entry.uid),
        };
    }
    holder.with_entries(ledger.into_entries())
}

/// True if the reservation's entry, if any, is within its bounds.
pub fn fits<H: Holder<DiskReservation>>(holder: &H, of: &DiskReservation, parent: Option<&str>) -> bool {
    let held = holder.ledger().get(of.metadata.uid.as_deref().unwrap_or_default()).unwrap_or(0);
    bounds(holder, of, parent).contains(&held)
}

/// The least and the most bytes of the entry. The least is the present size of the reservation, and the most is the
/// requested size. An entry for an earlier spec has nothing beyond the present size: a controller that took the entry
/// writes no status any more, because the reservation has changed since.
pub fn bounds<H: Holder<DiskReservation>>(
    holder: &H,
    reservation: &DiskReservation,
    parent: Option<&str>,
) -> RangeInclusive<u64> {
    let has = reservation.status.as_ref().filter(|s| s.node_disk.is_some()).map(size);
    let is_deleted = reservation.metadata.deletion_timestamp.is_some();
    let ledger = holder.ledger();
    let present = ledger.entries().iter().find(|entry| Some(&entry.uid) == reservation.metadata.uid.as_ref());
    match has {
        _ if !holder.belongs(reservation, parent) => 0..=0,
        None if is_deleted => 0..=0,
        // The entry is released in a separate step, once the reservation is empty. Until then nobody else has the bytes.
        Some(_) if goes(reservation) => 0..=u64::MAX,
        // It grows no more: a status that was written without its deletion in sight meets a conflict.
        Some(has) if is_deleted => has..=has,
        has if present.is_some_and(|entry| !is_current(entry, reservation)) => {
            has.unwrap_or(0)..=has.unwrap_or(0)
        }
        has => {
            let has = has.unwrap_or(0);
            let asked = reservation.spec.size.bytes().unwrap_or(has);
            has..=holder.at_most(reservation, asked.max(has))
        }
    }
}

/// True if a volume or a refinement is in the reservation of that UID.
pub fn is_lived_in(uid: &str, volumes: &[SharedPersistentVolume], reservations: &[DiskReservation]) -> bool {
    let is = |of: Option<&UidRef>| of.is_some_and(|of| of.uid == uid);
    volumes.iter().any(|volume| is(volume.status.as_ref().and_then(|s| s.reservation.as_ref())))
        || reservations.iter().any(|r| is(r.status.as_ref().and_then(|s| s.parent.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DiskKind;
    use crate::plan::testing::*;

    #[test]
    fn r6_an_entry_is_between_what_is_held_and_what_is_asked_for() {
        let (there, mut r) = (disk("n1.a", "n1", 10, &[]), reserved("r", "eng", 4, &[]));
        let range = |r: &DiskReservation| {
            let (low, high) = bounds(&there, r, None).into_inner();
            (low >> 30, high >> 30)
        };
        for (asked, low, high) in [(4, 4, 4), (6, 4, 6), (3, 4, 4)] {
            r.spec.size = gi(asked);
            assert_eq!(range(&r), (low, high), "{asked}");
        }
        let mut waits = reservation("r", "eng", 4);
        assert_eq!(range(&waits), (0, 4));
        waits.metadata.deletion_timestamp = some_time();
        assert_eq!(range(&waits), (0, 0), "nothing is taken for it any more");
        r.metadata.deletion_timestamp = some_time();
        assert_eq!(range(&r), (0, u64::MAX >> 30), "it is released in a step of its own");
        r.status.as_mut().unwrap().volumes = vec![ledger_entry("v", "eng", 1)];
        assert_eq!(range(&r), (4, 4), "S1: a volume is in it, and what it gave back before is free");
        r.status.as_mut().unwrap().node_disk = Some("n2.b".into());
        assert_eq!(range(&r), (0, 0), "elsewhere");
    }

    /// Q2: the quota of a waiting reservation that asks for less, too.
    #[test]
    fn r6_an_entry_of_an_earlier_spec_is_cut_to_what_is_held() {
        let role = with_quota(volume_role("eng", "eng"), Some(20), None, &[("r", 8)]);
        let (there, mut waits, mut grows) =
            (disk("n1.a", "n1", 10, &[("r", 8)]), reservation("r", "eng", 3), reserved("r", "eng", 4, &[]));
        grows.spec.size = gi(9);
        let fit = |of: &DiskReservation| (fits(&there, of, None), fits(&role, of, None));
        assert_eq!((fit(&waits), fit(&grows)), ((false, true), (true, true)));
        waits.metadata.generation = Some(2);
        grows.metadata.generation = Some(2);
        assert_eq!((fit(&waits), fit(&grows)), ((false, false), (false, false)));
        let owner = |of: &DiskReservation| vec![(entry_of(of, 0), Owner::Is(Box::new(of.clone()), None))];
        assert_eq!(settled(&role, &owner(&waits)).reservations, []);
        assert_eq!(settled(&there, &owner(&grows)).reservations[0].size, gi(4));
    }

    #[test]
    fn d2_a_waiting_entry_may_be_as_large_as_an_undivided_disk() {
        let (mut there, waits) = (disk("n1.a", "n1", 10, &[]), reservation("r", "eng", 4));
        there.spec.kind = DiskKind::Mount;
        assert_eq!(*bounds(&there, &waits, None).end() >> 30, 10);
        let role = volume_role("eng", "eng");
        assert_eq!(*bounds(&role, &waits, None).end(), u64::MAX, "the role does not see the disk");
        assert_eq!(*bounds(&role, &reserved("r", "eng", 4, &[]), None).end() >> 30, 4);
    }

    #[test]
    fn s3_the_entry_of_a_lost_reservation_stays_while_in_use() {
        let there = disk("n1.a", "n1", 10, &[("r", 4)]);
        let left = |lived_in| {
            settled(&there, &[(ledger_entry("r", "eng", 0), Owner::Gone { lived_in })]).reservations
        };
        assert_eq!((left(true).len(), left(false).len()), (1, 0));
        let mut volume = volume("v", "eng", 1);
        assert!(!is_lived_in("uid-r", std::slice::from_ref(&volume), &[]));
        let of = UidRef { name: "r".into(), uid: "uid-r".into() };
        volume.status.get_or_insert_default().reservation = Some(of.clone());
        assert!(is_lived_in("uid-r", &[volume], &[]));
        let mut refinement = reserved("ml", "eng/ml", 1, &[]);
        refinement.status.as_mut().unwrap().parent = Some(of);
        assert!(is_lived_in("uid-r", &[], &[refinement]));
    }
}
