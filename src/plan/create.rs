//! CREATE: the reservation that gives a volume its bytes (V1, S2).

use kube::ResourceExt;

use crate::api::condition::{self, READY, Verdict, reason};
use crate::api::{
    DiskReservation, DiskReservationStatus, LedgerEntry, NodeDisk, ReservationPhase, Role,
    SharedPersistentVolume, Size,
};

use super::holder::Holder;
use super::ledger::{Ledger, Refused};
use super::list_share::{Entry, Full, full_for};
use super::{adopt, backing, candidate, holder, kept, ledger, names, orphans, tenant, undivided};

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

/// Refuses a reservation without the data that the volume is to recover. Another disk would have to make the volume, and a
/// place is for good (X6).
fn has_data(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
) -> Result<(), Verdict> {
    let Some(recover) = &volume.spec.recover else { return Ok(()) };
    let on = reservation.status.as_ref().and_then(|status| status.node_disk.as_ref());
    let has = |disk: &&&NodeDisk| orphans::has_data_for(volume, disk);
    if inherits(volume, reservation) || disks.iter().filter(has).any(|disk| disk.metadata.name.as_ref() == on)
    {
        return Ok(());
    }
    let Some(disk) = disks.iter().find(has) else { return Err(no_data(&recover.uid)) };
    let message = format!(
        "data {} is on NodeDisk {}, and DiskReservation {} is not: create the volume in a reservation there",
        recover.uid,
        disk.name_any(),
        reservation.name_any()
    );
    Err(Verdict::no(reason::NO_ORPHAN, message))
}

fn no_data(uid: &str) -> Verdict {
    let message = format!(
        "no NodeDisk reports data {uid} without an object: it was recovered or erased, or its disk is away"
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
        holders.iter().copied().partition(|r| suits(volume, r, disks).is_ok());
    if let (true, Some(unsuited)) = (suited.is_empty(), refused.first()) {
        suits(volume, unsuited, disks)?;
    }
    let distance = |r: &DiskReservation| wanted.role.len() - r.spec.role.len();
    let is_whole = |r: &DiskReservation| undivided::of_reservation(r, 0) > 0;
    let is_away = |r: &DiskReservation| {
        let on = r.status.as_ref().and_then(|s| s.node_disk.as_ref());
        !disks.iter().any(|disk| disk.metadata.name.as_ref() == on && candidate::is_ready(disk))
    };
    let available = |r: &DiskReservation| {
        let entries = r.status.as_ref().map_or(&[][..], |s| &s.volumes);
        free(r).saturating_add(ledger::total(entries) - ledger::total(&others(volume, entries)))
    };
    suited.retain(|r| available(r) >= undivided::of_reservation(r, bytes));
    let (full, suited): (Vec<_>, Vec<_>) = suited.into_iter().partition(|r| is_full(volume, r).is_some());
    if let (Some(r), true) = (full.first(), suited.is_empty())
        && let Some(full) = is_full(volume, r)
    {
        return Err(too_many(full, volume, r));
    }
    let order = |r: &&DiskReservation| (is_away(r), distance(r), is_whole(r), free(r), r.name_any());
    suited.into_iter().min_by_key(order).ok_or_else(|| {
        let mut left: Vec<String> = holders
            .iter()
            .map(|r| format!("{} has {} left", r.name_any(), Size::from_bytes(free(r))))
            .collect();
        // Caches have no order. A message in varying order would cause a write each time.
        left.sort();
        Verdict::no(
            reason::RESERVATION_FULL,
            format!(
                "{} asked for, {}; reserve more for role {} or destroy a volume in it",
                volume.spec.size,
                names(&left, left.len()),
                wanted.role
            ),
        )
    })
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

/// The reservation as it would be without kept data (X8).
pub fn without_kept(reservation: &DiskReservation) -> DiskReservation {
    let mut emptied = reservation.clone();
    if let Some(status) = &mut emptied.status {
        status.volumes.retain(|entry| entry.kept.is_none());
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
    let without = |r: &&'a DiskReservation| has_kept(r).then(|| (*r, without_kept(r)));
    let emptied: Vec<(&DiskReservation, DiskReservation)> = reservations.iter().filter_map(without).collect();
    let chosen =
        choose(volume, &emptied.iter().map(|(_, emptied)| emptied).collect::<Vec<_>>(), disks).ok()?;
    let (reservation, _) = emptied.iter().find(|(r, _)| r.metadata.name == chosen.metadata.name)?;
    let bytes = undivided::of_reservation(reservation, wanted.size.bytes_or_zero());
    let place = is_full(volume, reservation).map(|_| wanted.role);
    Some((reservation, kept::Wanted { bytes, place }))
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
        return format!(
            "nothing is reserved for role {role} or an ancestor of it; make a DiskReservation first"
        );
    };
    match reservations.iter().find(|r| r.name_any() == *name) {
        None => format!(
            "there is no DiskReservation {name}; make it, or make the volume anew without spec.reservation"
        ),
        Some(r) if r.metadata.deletion_timestamp.is_some() => {
            format!("DiskReservation {name} is being deleted")
        }
        Some(r) if may_hold(r, &r.spec.role) => {
            format!("DiskReservation {name} is for role {}, which does not cover role {role}", r.spec.role)
        }
        Some(r) => match r.status.as_ref().filter(|s| s.node_disk.is_some()) {
            None => {
                let conditions = r.status.as_ref().map_or(&[][..], |status| &status.conditions);
                let why = condition::get(conditions, READY).map_or("it has no condition yet", |c| &c.message);
                format!("DiskReservation {name} has no disk yet: {why}")
            }
            Some(status) => {
                let why = condition::get(&status.conditions, READY).map_or("it is not ready", |c| &c.message);
                format!("DiskReservation {name} serves nobody now: {why}")
            }
        },
    }
}

/// Why no entry was taken in a reservation that was deleted in the meantime.
pub fn reservation_gone() -> Verdict {
    Verdict::no(reason::NO_RESERVATION, "the reservation was just deleted; another one is looked for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DiskKind, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, VolumeMode};
    use crate::plan::testing::*;

    fn pick(volume: &SharedPersistentVolume, rs: &[DiskReservation]) -> Result<String, (String, String)> {
        let rs: Vec<&DiskReservation> = rs.iter().collect();
        choose(volume, &rs, &[]).map(|r| r.name_any()).map_err(|v| (v.reason.to_owned(), v.message))
    }

    /// X6: a place is for good, so data that is not there yet, or on another disk, is waited for.
    #[test]
    fn x6_a_volume_goes_where_the_data_is_that_it_recovers() {
        let mut disks = [disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 10, &[])];
        let mut rs = [reserved("r", "eng", 2, &[]), reserved("s", "eng", 9, &[])];
        for (reservation, disk) in rs.iter_mut().zip(&disks) {
            reservation.status.as_mut().unwrap().node_disk = disk.metadata.name.clone();
        }
        let mut heir = volume("v", "eng", 1);
        heir.spec.recover = Some(crate::api::Recover { uid: "lost".into() });
        let pick = |heir: &SharedPersistentVolume, rs: &[DiskReservation], disks: &[NodeDisk]| {
            let (rs, disks): (Vec<_>, Vec<_>) = (rs.iter().collect(), disks.iter().collect());
            choose(heir, &rs, &disks)
                .map(|r| r.name_any())
                .map_err(|v| format!("{}: {}", v.reason, v.message))
        };
        let nowhere = "NoOrphan: no NodeDisk reports data lost without an object: it was recovered or erased, or its disk is away";
        assert_eq!(pick(&heir, &rs, &disks), Err(nowhere.into()));
        assert_eq!(pick(&heir, &[], &disks), Err(nowhere.into()), "a reservation would not help");
        let report = |disk: &mut NodeDisk, uid: &str| {
            let orphan = crate::api::Orphan { uid: uid.into(), ..Default::default() };
            disk.status.as_mut().unwrap().orphans = vec![orphan];
        };
        report(&mut disks[1], "lost");
        assert_eq!(pick(&heir, &rs, &disks), Ok("s".into()), "the fuller one is on another disk");
        let elsewhere = "NoOrphan: data lost is on NodeDisk n2.a, and DiskReservation r is not: create the volume in a reservation there";
        assert_eq!(pick(&heir, &rs[..1], &disks), Err(elsewhere.into()));
        report(&mut disks[1], &heir.uid().unwrap());
        assert_eq!(pick(&heir, &rs, &disks), Ok("s".into()), "etcd is older than the recovery");
        disks[1].status.as_mut().unwrap().orphans.clear();
        rs[0].status.as_mut().unwrap().volumes = vec![ledger_entry("lost", "eng", 1)];
        rs[0].status.as_mut().unwrap().volumes[0].uid = "lost".into();
        assert_eq!(pick(&heir, &rs, &disks), Ok("r".into()), "its entry is there, and the report comes");
    }

    #[test]
    fn a8_a_reservation_that_lists_a_thousand_takes_no_volume() {
        let names: Vec<String> = (0..999).map(|i| format!("v{i}")).collect();
        let held: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mut full = reserved("full", "eng", 2000, &held);
        assert!(pick(&volume("v", "eng", 1), std::slice::from_ref(&full)).is_ok());
        full.status.as_mut().unwrap().refinements = vec![ledger_entry("ml", "eng/ml", 1)];
        let (reason, message) = pick(&volume("v", "eng", 1), std::slice::from_ref(&full)).unwrap_err();
        assert_eq!(reason, "TooManyVolumes");
        assert!(message.starts_with("DiskReservation full lists 1000 volumes and reservations"), "{message}");
        let free = [full, reserved("free", "eng", 2, &[])];
        assert_eq!(pick(&volume("v", "eng", 1), &free), Ok("free".into()));
    }

    #[test]
    fn a9_a_sub_role_leaves_places_for_volumes_of_the_owner() {
        let names: Vec<String> = (0..500).map(|i| format!("v{i}")).collect();
        let held: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mut full = reserved("full", "eng", 2000, &held);
        full.status.as_mut().unwrap().volumes.iter_mut().for_each(|entry| entry.role = "eng/ml/x".into());
        let full = [full];
        let (reason, message) = pick(&volume("v", "eng/ml", 1), &full).unwrap_err();
        assert_eq!(reason, "ShareTaken");
        assert!(message.contains("lists 500 volumes and reservations of role eng/ml and its"), "{message}");
        for role in ["eng", "eng/web"] {
            assert_eq!(pick(&volume("v", role, 1), &full), Ok("full".into()), "{role}");
        }
        let taken = |role| take_entry(&volume("v", role, 1), &full[0], &[]).map_err(|why| why.reason);
        assert_eq!(
            (taken("eng").map(|entries| entries.len()), taken("eng/ml")),
            (Ok(501), Err("ShareTaken"))
        );
    }

    /// A8: users make PersistentVolumeClaims of a class without a verb.
    #[test]
    fn a8_a_namespace_leaves_places_for_volumes_of_others() {
        let names: Vec<String> = (0..500).map(|i| format!("v{i}")).collect();
        let held: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mut full = reserved("full", "eng", 2000, &held);
        let of_pvc = |namespace: &str| {
            let labels = [(LABEL_PVC_UID, "u"), (LABEL_CLAIM_NAMESPACE, namespace)];
            let mut volume = volume("v", "eng", 1);
            volume.metadata.labels = Some(labels.map(|(key, value)| (key.into(), value.into())).into());
            volume
        };
        let namespace = entry(&of_pvc("team")).unwrap().namespace;
        assert_eq!(namespace.as_deref(), Some("team"));
        full.status
            .as_mut()
            .unwrap()
            .volumes
            .iter_mut()
            .for_each(|entry| entry.namespace = namespace.clone());
        let taken =
            |volume: &_| take_entry(volume, &full, &[]).map(drop).map_err(|why| (why.reason, why.message));
        let (reason, message) = taken(&of_pvc("team")).unwrap_err();
        assert_eq!(reason, "ShareTaken");
        let whose =
            "lists 500 volumes and reservations for PersistentVolumeClaims of namespace team, and keeps";
        assert!(message.contains(whose), "{message}");
        assert_eq!((taken(&of_pvc("other")), taken(&volume("v", "eng", 1))), (Ok(()), Ok(())));
    }

    /// X8: where the list is full, a new volume takes the place of kept data.
    #[test]
    fn x8_a_volume_beside_a_full_list_wants_a_place() {
        let mut full = with_kept(&[("a", 0, 60)]);
        let others = (1..1000).map(|i| ledger_entry(&format!("v{i}"), "eng", 1));
        let status = full.status.as_mut().unwrap();
        status.size = Some(gi(2000));
        status.volumes.extend(others);
        for (entries, place) in [(1000, Some("eng")), (999, None)] {
            full.status.as_mut().unwrap().volumes.truncate(entries);
            let (_, wanted) = room_of_kept(&volume("v", "eng", 1), &[&full], &[]).unwrap();
            assert_eq!((wanted.bytes, wanted.place.as_deref()), (1 << 30, place));
        }
    }

    /// V1, R3.
    #[test]
    fn v1_the_nearest_role_then_the_fullest() {
        let rs = [
            reserved("wide", "eng", 100, &[]),
            reserved("own", "eng/ml", 50, &[]),
            reserved("own-full", "eng/ml", 50, &[("v", 40)]),
            reserved("child", "eng/ml/x", 100, &[]),
        ];
        assert_eq!(pick(&volume("v1", "eng/ml", 10), &rs), Ok("own-full".into()));
        assert_eq!(pick(&volume("v1", "eng/ml", 50), &rs), Ok("own".into()));
        assert_eq!(
            pick(&volume("v1", "eng/ml", 60), &rs),
            Ok("wide".into()),
            "an ancestor's, never a sub-role's"
        );
    }

    #[test]
    fn d4_an_unreachable_disk_gets_a_volume_as_the_last_resort() {
        let mut rs = [reserved("near", "eng/ml", 10, &[]), reserved("above", "eng", 20, &[])];
        rs[1].status.as_mut().unwrap().node_disk = Some("n2.a".into());
        let (mut away, there) = (disk("n1.a", "n1", 10, &[]), disk("n2.a", "n2", 20, &[]));
        set_ready(&mut away.status.as_mut().unwrap().conditions, false);
        let rs: Vec<&DiskReservation> = rs.iter().collect();
        let v = volume("v", "eng/ml", 1);
        let on = |rs: &[&DiskReservation]| choose(&v, rs, &[&away, &there]).unwrap().name_any();
        assert_eq!((on(&rs), on(&rs[..1])), ("above".into(), "near".into()));
    }

    #[test]
    fn d2_a_whole_disks_reservation_holds_one_volume() {
        let on = |kind, mut reservation: DiskReservation| {
            reservation.status.as_mut().unwrap().disk_kind = Some(kind);
            reservation
        };
        let whole = on(DiskKind::Mount, reserved("whole", "eng", 20, &[]));
        let divided = on(DiskKind::Path, reserved("divided", "eng", 100, &[]));
        assert_eq!(pick(&volume("v", "eng", 5), &[whole.clone(), divided.clone()]), Ok("divided".into()));
        assert_eq!(pick(&volume("v", "eng", 5), std::slice::from_ref(&whole)), Ok("whole".into()));
        let taken = on(DiskKind::Mount, reserved("whole", "eng", 20, &[("w", 20)]));
        assert_eq!(pick(&volume("v", "eng", 5), &[taken]).unwrap_err().0, "ReservationFull");
        let mut raw = volume("v", "eng", 5);
        raw.spec.volume_mode = VolumeMode::Block;
        assert_eq!(pick(&raw, &[whole.clone(), divided.clone()]).unwrap_err().0, "WrongDisk");
        let device = on(DiskKind::Block, reserved("device", "eng", 30, &[]));
        assert_eq!(pick(&raw, &[whole, divided, device]), Ok("device".into()));
    }

    #[test]
    fn v1_more_than_is_left_is_a_clear_refusal() {
        let (reason, message) =
            pick(&volume("v1", "eng", 10), &[reserved("r", "eng", 12, &[("v", 4)])]).unwrap_err();
        assert_eq!(reason, "ReservationFull");
        assert_eq!(
            message,
            "10Gi asked for, r has 8Gi left; reserve more for role eng or destroy a volume in it"
        );
    }

    #[test]
    fn s2_without_a_live_reservation_of_the_role_there_is_no_volume() {
        let mut gone = reserved("r", "eng", 10, &[]);
        gone.metadata.deletion_timestamp = some_time();
        for rs in [vec![], vec![reserved("r", "ops", 10, &[])], vec![gone], vec![reservation("r", "eng", 10)]]
        {
            assert_eq!(pick(&volume("v1", "eng", 1), &rs).unwrap_err().0, "NoReservation");
        }
    }

    /// V1.
    #[test]
    fn a_named_reservation_and_no_other() {
        let rs = [reserved("a", "eng", 10, &[]), reserved("b", "ops", 10, &[])];
        let mut v = volume("v1", "eng", 1);
        for (name, said) in [
            ("b", "DiskReservation b is for role ops, which does not cover role eng"),
            ("c", "there is no DiskReservation c; make it, or make the volume anew without spec.reservation"),
        ] {
            v.spec.reservation = Some(name.into());
            assert_eq!(pick(&v, &rs).unwrap_err(), ("NoReservation".into(), said.into()));
        }
        v.spec.reservation = Some("a".into());
        assert_eq!(pick(&v, &rs), Ok("a".into()));
    }
}
