//! Undivided disks, of kind `Mount` or `Block`: a request names the least size, and gets all bytes (D2).
//!
//! The status of a reservation or a volume names the kind of its disk, so their size can be decided without the disk.

use crate::api::condition::{Verdict, reason};
use crate::api::{
    AccessMode, DiskKind, DiskReservation, ErasePolicy, LABEL_PVC_UID, NodeDisk, SharedPersistentVolume,
    Size, VolumeMode,
};
use kube::ResourceExt;

use super::allocatable;

/// True if a disk of that kind is given as a whole.
pub fn is_undivided(kind: DiskKind) -> bool {
    match kind {
        DiskKind::Path => false,
        DiskKind::Mount | DiskKind::Block => true,
    }
}

/// `asked`, or for an undivided disk the larger of `asked` and `all`.
fn all_or(kind: Option<DiskKind>, asked: u64, all: u64) -> u64 {
    if kind.is_some_and(is_undivided) { asked.max(all) } else { asked }
}

/// True if the reservation has a whole disk: no other size changes what it takes.
pub fn has_whole_disk(reservation: &DiskReservation) -> bool {
    reservation.status.as_ref().and_then(|status| status.disk_kind).is_some_and(is_undivided)
}

/// Bytes that a reservation takes of a disk for a request of `asked` bytes.
pub fn of_disk(disk: &NodeDisk, asked: u64) -> u64 {
    all_or(Some(disk.spec.kind), asked, allocatable::of_disk(disk))
}

/// Bytes that a volume or a refinement takes of a reservation for a request of `asked` bytes. A reservation of a whole
/// disk itself requests no less.
pub fn of_reservation(reservation: &DiskReservation, asked: u64) -> u64 {
    let status = reservation.status.as_ref();
    let all = status.and_then(|s| s.size.as_ref()).map_or(0, Size::bytes_or_zero);
    all_or(status.and_then(|s| s.disk_kind), asked, all)
}

/// Bytes that a volume requests. A volume with a whole disk requests no less than its present size.
pub fn of_volume(volume: &SharedPersistentVolume, asked: u64) -> u64 {
    let status = volume.status.as_ref();
    let all = status.and_then(|s| s.size.as_ref()).map_or(0, Size::bytes_or_zero);
    all_or(status.and_then(|s| s.disk_kind), asked, all)
}

/// Refuses a volume that cannot be made on the kind of disk of the reservation, with the next step.
pub fn suits(volume: &SharedPersistentVolume, reservation: &DiskReservation) -> Result<(), Verdict> {
    let kind = reservation.status.as_ref().and_then(|s| s.disk_kind).unwrap_or_default();
    let name = reservation.name_any();
    let refuse = |message: String| Err(Verdict::no(reason::WRONG_DISK, message));
    match (kind, volume.spec.volume_mode, volume.spec.erase_policy) {
        (DiskKind::Path | DiskKind::Mount, VolumeMode::Block, _) => refuse(format!(
            "volumeMode Block needs a raw device, and DiskReservation {name} is on a {kind:?} disk: \
             reserve a Block disk, or {} with volumeMode Filesystem",
            match volume.labels().contains_key(LABEL_PVC_UID) {
                true => "make the PersistentVolumeClaim anew",
                false => "create the volume",
            }
        )),
        (DiskKind::Mount, _, ErasePolicy::Zero) => refuse(format!(
            "DiskReservation {name} is on a Mount disk, whose file system cannot be overwritten to the last block: \
             set erasePolicy to Discard, or reserve a Path or Block disk"
        )),
        _ => Ok(()),
    }
}

/// Refuses a claim to the volume in that mode, with the next step. The kernel permits writes to a device through a
/// read-only mount of its device node, so ReadOnly could not be enforced (M3).
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
    fn d2_an_undivided_disk_is_given_as_one_piece() {
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
    fn m3_a_raw_device_is_claimed_read_write_only() {
        let mut v = volume("v", "eng", 1);
        assert!(claimable(&v, AccessMode::ReadOnly).is_ok());
        v.spec.volume_mode = VolumeMode::Block;
        assert!(claimable(&v, AccessMode::ReadWrite).is_ok());
        assert_eq!(claimable(&v, AccessMode::ReadOnly).unwrap_err().reason, reason::ALWAYS_WRITABLE);
    }

    #[test]
    fn d2_a_disk_refuses_volumes_that_it_cannot_make() {
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
        let mut made = volume("pvc-u", "eng", 1);
        made.spec.volume_mode = VolumeMode::Block;
        made.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let why = suits(&made, &reserved("r", "eng", 10, &[])).unwrap_err().message;
        assert!(why.ends_with("or make the PersistentVolumeClaim anew with volumeMode Filesystem"), "{why}");
    }
}
