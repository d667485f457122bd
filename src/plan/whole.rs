//! Disks that are handed out whole: what is asked for is the least that is wanted, what is given is all (D2).
//!
//! A reservation and a volume say in their status on what kind of disk they are, so that whoever looks at them knows
//! that they take the whole of it, without the disk.

use crate::api::condition::{Verdict, reason};
use crate::api::{
    AccessMode, DiskKind, DiskReservation, ErasePolicy, NodeDisk, SharedPersistentVolume, Size, VolumeMode,
};
use kube::ResourceExt;

use super::reserve;

/// Whether a disk of that kind is never divided.
pub fn is_whole(kind: DiskKind) -> bool {
    match kind {
        DiskKind::Path => false,
        DiskKind::Mount | DiskKind::Block => true,
    }
}

/// `asked`, or all that there is where that is enough and is never divided.
fn all_or(kind: Option<DiskKind>, asked: u64, all: u64) -> u64 {
    if kind.is_some_and(is_whole) { asked.max(all) } else { asked }
}

/// Bytes that a reservation takes of a disk when it asks for so many.
pub fn of_disk(disk: &NodeDisk, asked: u64) -> u64 {
    all_or(Some(disk.spec.kind), asked, reserve::allocatable(disk))
}

/// Bytes that something takes of a reservation when it asks for so many; of itself, too: whoever has all of a disk asks
/// for no less.
pub fn of_reservation(reservation: &DiskReservation, asked: u64) -> u64 {
    let status = reservation.status.as_ref();
    let all = status.and_then(|s| s.size.as_ref()).map_or(0, Size::bytes_or_zero);
    all_or(status.and_then(|s| s.disk_kind), asked, all)
}

/// Bytes that a volume asks for: no less than it has, once that is all of a disk.
pub fn of_volume(volume: &SharedPersistentVolume, asked: u64) -> u64 {
    let status = volume.status.as_ref();
    let all = status.and_then(|s| s.size.as_ref()).map_or(0, Size::bytes_or_zero);
    all_or(status.and_then(|s| s.disk_kind), asked, all)
}

/// Whether a volume can be made at all on the kind of disk that a reservation is on; why not, with the next step.
pub fn suits(volume: &SharedPersistentVolume, reservation: &DiskReservation) -> Result<(), Verdict> {
    let kind = reservation.status.as_ref().and_then(|s| s.disk_kind).unwrap_or_default();
    let name = reservation.name_any();
    let refuse = |said: String| Err(Verdict::no(reason::WRONG_DISK, said));
    match (kind, volume.spec.volume_mode, volume.spec.erase_policy) {
        (DiskKind::Path | DiskKind::Mount, VolumeMode::Block, _) => refuse(format!(
            "volumeMode Block needs a raw device, and DiskReservation {name} is on a {kind:?} disk: \
             reserve a Block disk, or create the volume with volumeMode Filesystem"
        )),
        (DiskKind::Mount, _, ErasePolicy::Zero) => refuse(format!(
            "DiskReservation {name} is on a Mount disk, whose file system cannot be overwritten to the last block: \
             set erasePolicy to Discard, or reserve a Path or Block disk"
        )),
        _ => Ok(()),
    }
}

/// Whether a volume can be used in that mode; why not, with the next step. A device is written through whatever mount
/// of its node, so that no mode but ReadWrite could be kept (M3).
pub fn claimable(volume: &SharedPersistentVolume, mode: AccessMode) -> Result<(), Verdict> {
    match (volume.spec.volume_mode, mode) {
        (VolumeMode::Block, AccessMode::ReadOnly) => Err(Verdict::no(
            reason::ALWAYS_WRITABLE,
            format!(
                "volume {} is a raw device, which cannot be read-only for one claim: claim it with mode ReadWrite",
                volume.name_any()
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    const GI: u64 = 1 << 30;

    #[test]
    fn d2_what_is_never_divided_is_given_whole() {
        for (kind, asked, taken) in [
            (DiskKind::Path, 3, 3),
            (DiskKind::Mount, 3, 10),
            (DiskKind::Mount, 10, 10),
            (DiskKind::Mount, 11, 11),
            (DiskKind::Block, 1, 10),
        ] {
            let mut disk = disk("n1.a", "n1", 10, &[]);
            disk.spec.kind = kind;
            assert_eq!(of_disk(&disk, asked * GI), taken * GI, "a reservation of {asked} on {kind:?}");
            let mut reservation = reserved("r", "eng", 10, &[]);
            reservation.status.as_mut().unwrap().disk_kind = Some(kind);
            assert_eq!(
                of_reservation(&reservation, asked * GI),
                taken * GI,
                "a volume of {asked} on {kind:?}"
            );
            let mut volume = ready_volume("v", "eng", true);
            let status = volume.status.as_mut().unwrap();
            (status.disk_kind, status.size) = (Some(kind), Some(gi(10)));
            assert_eq!(of_volume(&volume, asked * GI), taken * GI, "one that is there on {kind:?}");
        }
    }

    #[test]
    fn m3_a_raw_device_is_claimed_to_be_written() {
        let mut v = volume("v", "eng", 1);
        assert!(claimable(&v, AccessMode::ReadOnly).is_ok());
        v.spec.volume_mode = VolumeMode::Block;
        assert!(claimable(&v, AccessMode::ReadWrite).is_ok());
        assert_eq!(claimable(&v, AccessMode::ReadOnly).unwrap_err().reason, reason::ALWAYS_WRITABLE);
    }

    #[test]
    fn d2_not_every_disk_suits_every_volume() {
        use DiskKind::*;
        for (kind, mode, erase, refused) in [
            (Path, VolumeMode::Filesystem, ErasePolicy::Zero, None),
            (Path, VolumeMode::Block, ErasePolicy::Discard, Some("reserve a Block disk")),
            (Mount, VolumeMode::Filesystem, ErasePolicy::Discard, None),
            (Mount, VolumeMode::Filesystem, ErasePolicy::Zero, Some("set erasePolicy to Discard")),
            (Mount, VolumeMode::Block, ErasePolicy::Discard, Some("volumeMode Filesystem")),
            (Block, VolumeMode::Filesystem, ErasePolicy::Zero, None),
            (Block, VolumeMode::Block, ErasePolicy::Zero, None),
        ] {
            let mut reservation = reserved("r", "eng", 10, &[]);
            reservation.status.as_mut().unwrap().disk_kind = Some(kind);
            let mut volume = volume("v", "eng", 1);
            (volume.spec.volume_mode, volume.spec.erase_policy) = (mode, erase);
            match (suits(&volume, &reservation), refused) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) if why.reason == reason::WRONG_DISK && why.message.contains(part) => {}
                (found, _) => panic!("{kind:?}, {mode:?}, {erase:?}: {found:?}"),
            }
        }
    }
}
