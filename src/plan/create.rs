//! CREATE: the reservation that gives a volume its bytes (V1, S2).

use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, Kept, LedgerEntry, NodeDisk, ReservationPhase, Role,
    SharedPersistentVolume, Size,
};

use super::holder::Holder;
use super::ledger::{Ledger, Refused};
use super::list_share::{Entry, Full, full_for};
use super::own_pvc::pvc_of;
use super::{adopt, backing, candidate, holder, kept, ledger, names, orphans, tenant, turn, undivided};

/// The volume's entry in the ledger of its reservation.
pub fn entry(volume: &SharedPersistentVolume) -> Result<LedgerEntry, Verdict> {
    let invalid = |error: String| Verdict::no(reason::INVALID, error);
    let role = Role::parse(&volume.spec.role).map_err(|e| invalid(e.to_string()))?;
    let size = volume.spec.size.bytes().map_err(|e| invalid(e.to_string()))?;
    let size = undivided::of_volume(volume, size);
    Ok(LedgerEntry {
        name: volume.name_any(),
        uid: volume.uid().unwrap_or_default(),
        role: role.to_string(),
        namespace: tenant::namespace_of(volume).cloned(),
        size: Size::from_bytes(size),
        generation: None,
        kept: None,
    })
}

/// True if a reservation may hold volumes of `role`: its phase is `Reserved`, and its role is `role` or an ancestor.
fn may_hold(reservation: &DiskReservation, role: &str) -> bool {
    let reserved = reservation.status.as_ref().is_some_and(|s| s.phase == ReservationPhase::Reserved);
    let covers = Role::name_covers(&reservation.spec.role, role);
    reserved && covers && reservation.metadata.deletion_timestamp.is_none()
}

/// True if the volume takes the place of the entry of the data that it recovers (X6, X8). That also works in a
/// reservation that is being deleted, since the entry holds the reservation already.
pub fn inherits(volume: &SharedPersistentVolume, reservation: &DiskReservation) -> bool {
    let entries = reservation.status.as_ref().map_or(&[][..], |status| &status.volumes);
    others(volume, entries).len() < entries.len()
        && Role::name_covers(&reservation.spec.role, &volume.spec.role)
}

/// Bytes of a reservation that a new volume may take.
pub fn free(reservation: &DiskReservation) -> u64 {
    reservation.status.as_ref().map_or(0, holder::free)
}

/// The entries that stay in the reservation beside the volume's entry. A volume that recovers data replaces the entry
/// of the lost object (X6).
fn others(volume: &SharedPersistentVolume, entries: &[LedgerEntry]) -> Vec<LedgerEntry> {
    let recovered = volume.spec.recover.as_ref().map(|recover| recover.uid.as_str());
    let lost = |e: &&LedgerEntry| recovered == Some(e.uid.as_str()) && e.role == volume.spec.role;
    entries.iter().filter(|entry| !lost(entry)).cloned().collect()
}

/// Refuses a reservation whose disk cannot hold the volume, with the next step.
fn suits(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
) -> Result<(), Verdict> {
    undivided::suits(volume, reservation)
        .and_then(|()| adopt::suits(volume, reservation, disks))
        .and_then(|()| backing::suits(volume, reservation, disks))
        .and_then(|()| has_data(volume, reservation, disks))
}

/// Refuses a reservation without the volume's data. Another disk would have to make the volume, and a place is for good
/// (X6). Data of a volume that recovers nothing is there if a restored etcd is from before the volume's placement (X9).
fn has_data(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
) -> Result<(), Verdict> {
    let on = reservation.status.as_ref().and_then(|status| status.node_disk.as_ref());
    let has = |disk: &&&NodeDisk| orphans::has_data_for(volume, disk);
    if inherits(volume, reservation) || disks.iter().filter(has).any(|disk| disk.metadata.name.as_ref() == on)
    {
        return Ok(());
    }
    let Some(disk) = disks.iter().find(has) else {
        return volume.spec.recover.as_ref().map_or(Ok(()), |recover| Err(no_data(&recover.uid)));
    };
    let (disk, name) = (disk.name_any(), reservation.name_any());
    let message = match &volume.spec.recover {
        Some(recover) => format!(
            "data {} is on NodeDisk {disk}, and DiskReservation {name} is not: create the volume in a reservation there",
            recover.uid
        ),
        None => format!(
            "its data is on NodeDisk {disk}, as etcd was restored from before its placement, and DiskReservation {name} is \
             not: make a DiskReservation there for role {}",
            volume.spec.role
        ),
    };
    Err(Verdict::no(reason::NO_ORPHAN, message))
}

fn no_data(uid: &str) -> Verdict {
    let message = format!(
        "no NodeDisk reports data {uid} without an object: it was recovered or erased, or its disk is away; \
         kubectl reservoir orphans lists what there is"
    );
    Verdict::no(reason::NO_ORPHAN, message)
}

/// True if the reservation could hold the volume, whatever its free space.
pub fn could_hold(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
) -> bool {
    let named = volume.spec.reservation.as_ref().is_none_or(|name| *name == reservation.name_any());
    named && may_hold(reservation, &volume.spec.role) && suits(volume, reservation, disks).is_ok()
}

/// Chooses the reservation for the volume: the named reservation, or the best of the fitting ones. A reservation on a
/// ready disk comes first (D4), then the nearest role, then a divisible reservation (D2). Of equals, the fullest comes
/// first: this keeps large free spaces in one piece.
pub fn choose<'a>(
    volume: &SharedPersistentVolume,
    reservations: &[&'a DiskReservation],
    disks: &[&NodeDisk],
) -> Result<&'a DiskReservation, Verdict> {
    let wanted = entry(volume)?;
    let bytes = wanted.size.bytes_or_zero();
    let named =
        |r: &DiskReservation| volume.spec.reservation.as_ref().is_none_or(|name| *name == r.name_any());
    let mut holders: Vec<&DiskReservation> = reservations
        .iter()
        .copied()
        .filter(|r| named(r) && (may_hold(r, &wanted.role) || inherits(volume, r)))
        .collect();
    holders.sort_by_key(|r| r.name_any());
    if holders.is_empty() {
        // A reservation does not help if no disk has the data.
        if let Some(recover) = &volume.spec.recover
            && !disks.iter().any(|disk| orphans::has_data_for(volume, disk))
        {
            return Err(no_data(&recover.uid));
        }
        return Err(Verdict::no(reason::NO_RESERVATION, no_reservation(volume, reservations)));
    }
    let (mut suited, refused): (Vec<_>, Vec<_>) =
        holders.into_iter().partition(|r| suits(volume, r, disks).is_ok());
    if let (true, Some(unsuited)) = (suited.is_empty(), refused.first()) {
        suits(volume, unsuited, disks)?;
    }
    // The free space of the others is of no use.
    let holders = suited.clone();
    let distance = |r: &DiskReservation| wanted.role.len() - r.spec.role.len();
    let is_away = |r: &DiskReservation| {
        let on = r.status.as_ref().and_then(|s| s.node_disk.as_ref());
        !disks.iter().any(|disk| disk.metadata.name.as_ref() == on && candidate::is_ready(disk))
    };
    let available = |r: &DiskReservation| {
        let entries = r.status.as_ref().map_or(&[][..], |s| &s.volumes);
        free(r).saturating_add(ledger::total(entries) - ledger::total(&others(volume, entries)))
    };
    suited.retain(|r| available(r) >= undivided::of_reservation(r, bytes));
    let is_cordoned = |r: &DiskReservation| {
        let on = r.status.as_ref().and_then(|s| s.node_disk.as_ref());
        disks.iter().any(|disk| disk.metadata.name.as_ref() == on && candidate::is_cordoned(disk))
    };
    // Data that a volume recovers is on its node already.
    let (cordoned, suited): (Vec<_>, Vec<_>) =
        suited.into_iter().partition(|r| volume.spec.recover.is_none() && is_cordoned(r));
    if suited.is_empty() && !cordoned.is_empty() {
        return Err(Verdict::no(reason::NODE_CORDONED, node_cordoned(volume, &cordoned)));
    }
    let (full, suited): (Vec<_>, Vec<_>) = suited.into_iter().partition(|r| is_full(volume, r).is_some());
    if let (Some(r), true) = (full.first(), suited.is_empty())
        && let Some(full) = is_full(volume, r)
    {
        return Err(too_many(full, volume, r));
    }
    let order =
        |r: &&DiskReservation| (is_away(r), distance(r), undivided::has_whole_disk(r), free(r), r.name_any());
    suited.into_iter().min_by_key(order).ok_or_else(|| {
        let mut left: Vec<String> = holders
            .iter()
            .map(|r| format!("{} has {} left", r.name_any(), Size::from_bytes(free(r))))
            .collect();
        // Caches have no order. A message in varying order would cause a write each time.
        left.sort();
        // A volume with a reservation of its own choice gets no other.
        let more = match &volume.spec.reservation {
            Some(own) => format!("make DiskReservation {own} larger"),
            None => format!("reserve more for role {}", wanted.role),
        };
        let asked = format!("{} asked for, {}", volume.spec.size, names(&left, left.len()));
        // No reservation of a whole disk can be larger (D2).
        let why = match holders.iter().all(|r| undivided::has_whole_disk(r)) {
            true => format!(
                "{asked}: a whole disk has one volume and no other size; reserve another disk, or destroy the volume that has it"
            ),
            false => format!("{asked}; {more} or destroy a volume in it"),
        };
        Verdict::no(reason::RESERVATION_FULL, why)
    })
}

/// Why no volume is made in these reservations: their nodes are cordoned.
fn node_cordoned(volume: &SharedPersistentVolume, reservations: &[&DiskReservation]) -> String {
    let node_of = |r: &DiskReservation| r.status.as_ref().and_then(|status| status.node_name.clone());
    let places: Vec<(String, String)> =
        reservations.iter().filter_map(|r| Some((r.name_any(), node_of(r)?))).collect();
    let listed: Vec<String> = places.iter().map(|(name, node)| format!("{name} on {node}")).collect();
    let first = places.first().map_or("?", |(_, node)| node);
    // A volume with a reservation of its own choice gets no other, and a copy is for its node.
    let is_bound = volume.spec.reservation.is_some() || volume.spec.copy_of.is_some();
    let or = if is_bound { "" } else { ", or reserve on another node" };
    let listed = names(&listed, listed.len());
    format!("only cordoned nodes have space for it ({listed}): kubectl uncordon {first}{or}")
}

/// Why the reservation lists no further volume of the volume's tenant (A8). A volume that recovers data replaces the
/// entry of the lost volume.
fn is_full(volume: &SharedPersistentVolume, reservation: &DiskReservation) -> Option<Full> {
    let status = reservation.status.as_ref()?;
    let volumes = others(volume, &status.volumes);
    let listed: Vec<Entry<'_>> = volumes.iter().chain(&status.refinements).map(Entry::of).collect();
    full_for(&reservation.spec.role, owner(volume), listed.into_iter())
}

/// The owner of the volume's entry.
fn owner(volume: &SharedPersistentVolume) -> Entry<'_> {
    Entry { role: &volume.spec.role, namespace: tenant::namespace_of(volume).map(String::as_str) }
}

/// The reservation as it would be without the kept data that gives way to the volumes (X8).
pub fn without_kept(reservation: &DiskReservation, volumes: &[&SharedPersistentVolume]) -> DiskReservation {
    let mut emptied = reservation.clone();
    let stays = |entry: &LedgerEntry, of: &Kept| volumes.iter().any(|v| kept::is_of_namesake(entry, of, v));
    if let Some(status) = &mut emptied.status {
        status.volumes.retain(|entry| entry.kept.as_deref().is_none_or(|kept| stays(entry, kept)));
        *status = holder::with_sums(std::mem::take(status));
    }
    emptied
}

/// The reservation that could hold the volume without kept data, and the free space that the volume needs there (X8). Of
/// several, the order of [`choose`] decides.
pub fn room_of_kept<'a>(
    volume: &SharedPersistentVolume,
    reservations: &[&'a DiskReservation],
    disks: &[&NodeDisk],
) -> Option<(&'a DiskReservation, kept::Wanted)> {
    let wanted = entry(volume).ok()?;
    let has_kept = |r: &&DiskReservation| r.status.as_ref().is_some_and(|status| kept::bytes(status) > 0);
    let without = |r: &&'a DiskReservation| has_kept(r).then(|| (*r, without_kept(r, &[volume])));
    let emptied: Vec<(&DiskReservation, DiskReservation)> = reservations.iter().filter_map(without).collect();
    let chosen =
        choose(volume, &emptied.iter().map(|(_, emptied)| emptied).collect::<Vec<_>>(), disks).ok()?;
    let (reservation, _) = emptied.iter().find(|(r, _)| r.metadata.name == chosen.metadata.name)?;
    let bytes = undivided::of_reservation(reservation, wanted.size.bytes_or_zero());
    let place = is_full(volume, reservation).map(|_| wanted.role);
    Some((reservation, kept::Wanted { bytes, place, spared: kept::spared(volume, reservation) }))
}

/// The entries of the ledger with the volume's entry, decided again on the present reservation: the cache may be old.
pub fn take_entry(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
) -> Result<Vec<LedgerEntry>, Verdict> {
    choose(volume, &[reservation], disks)?;
    let (status, entry) = (reservation.status.clone().unwrap_or_default(), entry(volume)?);
    let size = Size::from_bytes(undivided::of_reservation(reservation, entry.size.bytes_or_zero()));
    let others = DiskReservationStatus { volumes: others(volume, &status.volumes), ..status };
    let ledger = holder::volumes(&others).of_role(&reservation.spec.role);
    let taken = ledger.take(LedgerEntry { size, ..entry });
    taken.map(Ledger::into_entries).map_err(|refused| match refused {
        Refused::Short { free, .. } => {
            let left = Size::from_bytes(free);
            Verdict::no(reason::RESERVATION_FULL, format!("{} has {left} left", reservation.name_any()))
        }
        Refused::Full(full) => too_many(full, volume, reservation),
    })
}

/// The entries of the ledger, with the volume's lost entry restored (S2).
pub fn restore_entry(entry: &LedgerEntry, reservation: &DiskReservation) -> Vec<LedgerEntry> {
    let ledger = Holder::<SharedPersistentVolume>::ledger(reservation);
    ledger.set_within(entry.clone(), entry.size.bytes_or_zero(), u64::MAX).into_entries()
}

/// The reservation's status with so many bytes in the volume's entry (V7).
pub fn resize_entry(uid: &str, bytes: u64, reservation: &DiskReservation) -> DiskReservationStatus {
    let ledger = Holder::<SharedPersistentVolume>::ledger(reservation);
    let entry = ledger.entries().iter().find(|entry| entry.uid == uid).cloned();
    let resized = entry.map(|entry| ledger.clone().set_within(entry, bytes, bytes)).unwrap_or(ledger);
    Holder::<SharedPersistentVolume>::with_entries(reservation, resized.into_entries())
}

fn too_many(full: Full, volume: &SharedPersistentVolume, reservation: &DiskReservation) -> Verdict {
    let object = format!("DiskReservation {}", reservation.name_any());
    let why = full.why(&object, "volumes and reservations", &reservation.spec.role, owner(volume));
    let message = format!("{why}; destroy some that are not needed, or make another reservation");
    Verdict::no(full.reason(reason::TOO_MANY_VOLUMES), message)
}

fn no_reservation(volume: &SharedPersistentVolume, reservations: &[&DiskReservation]) -> String {
    let role = &volume.spec.role;
    let Some(name) = &volume.spec.reservation else {
        let of_role = reservations.iter().filter(|r| Role::name_covers(&r.spec.role, role));
        // A waiting reservation comes first. Sorted: caches have no order.
        let is_placed = |r: &DiskReservation| r.status.as_ref().is_some_and(|s| s.node_disk.is_some());
        let first =
            of_role.min_by_key(|r| (r.metadata.deletion_timestamp.is_some(), is_placed(r), r.name_any()));
        return match first {
            Some(waiting) if waiting.metadata.deletion_timestamp.is_none() => format!(
                "{}; nothing else is reserved for role {role} or an ancestor of it: make another DiskReservation, or wait for this one",
                not_serving(waiting)
            ),
            Some(ending) => format!(
                "DiskReservation {} is being deleted, and takes no new volume, and nothing else is reserved for role {role} or an \
                 ancestor of it; make another DiskReservation",
                ending.name_any()
            ),
            None => {
                format!(
                    "nothing is reserved for role {role} or an ancestor of it; make a DiskReservation first"
                )
            }
        };
    };
    // A user makes no volume of a StorageClass, which names the reservation.
    let is_of_class = pvc_of(volume).is_some();
    match reservations.iter().find(|r| r.name_any() == *name) {
        None => format!(
            "there is no DiskReservation {name}{}",
            if is_of_class {
                ": make it"
            } else {
                "; make it, or make the volume anew without spec.reservation"
            }
        ),
        Some(r) if r.metadata.deletion_timestamp.is_some() => {
            format!(
                "DiskReservation {name} is being deleted, and takes no new volume; {}",
                if is_of_class {
                    "make the StorageClass anew with another one"
                } else {
                    "make this one anew in another"
                }
            )
        }
        Some(r) if may_hold(r, &r.spec.role) => {
            format!("DiskReservation {name} is for role {}, which does not cover role {role}", r.spec.role)
        }
        Some(r) => not_serving(r),
    }
}

/// Why a reservation takes no volume now, without the numbers of its turns.
fn not_serving(reservation: &DiskReservation) -> String {
    let (name, status) = (reservation.name_any(), reservation.status.as_ref());
    let ready = status.and_then(|status| condition::get(&status.conditions, READY));
    match status.filter(|status| status.node_disk.is_some()) {
        None => {
            let why =
                ready.map_or("it has no condition yet", |ready| match turn::changes(reservation, ready) {
                    true => "it waits for space, and its condition Ready says why",
                    false => &ready.message,
                });
            format!("DiskReservation {name} has no disk yet: {why}")
        }
        Some(_) => {
            let why = ready.map_or("it is not ready", |ready| &ready.message);
            format!("DiskReservation {name} serves nobody now: {why}")
        }
    }
}

/// Why no entry was taken in a reservation that was deleted in the meantime.
pub fn reservation_gone() -> Verdict {
    Verdict::no(reason::NO_RESERVATION, "the reservation was just deleted; another one is looked for")
}

#[cfg(test)]
mod tests;
