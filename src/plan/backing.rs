//! The volumes that the backing of a disk can hold (D1).

use kube::ResourceExt;

use crate::api::condition::{Verdict, reason};
use crate::api::{
    BackingKind, DiskReservation, ErasePolicy, FsType, LABEL_PVC_UID, NodeDisk, SharedPersistentVolume,
};

/// Refuses a volume that the backing of a reservation's disk cannot hold, with the next step. If `disks` lacks the
/// disk, the node's agent decides.
pub fn suits(
    volume: &SharedPersistentVolume,
    reservation: &DiskReservation,
    disks: &[&NodeDisk],
) -> Result<(), Verdict> {
    let on = reservation.status.as_ref().and_then(|s| s.node_disk.as_deref()).unwrap_or("?");
    let Some(disk) = disks.iter().find(|disk| disk.name_any() == on) else { return Ok(()) };
    let refuse = |why: &str| {
        let name = reservation.name_any();
        Err(Verdict::no(reason::WRONG_DISK, format!("DiskReservation {name} is on NodeDisk {on}, {why}")))
    };
    // The StorageClass decides about the file system of its volumes.
    let anew = match volume.labels().contains_key(LABEL_PVC_UID) {
        true => "make the PersistentVolumeClaim anew, of a StorageClass with",
        false => "create the volume with",
    };
    match (disk.spec.backing, volume.spec.fs_type, volume.spec.erase_policy) {
        (BackingKind::Btrfs, FsType::Btrfs, ErasePolicy::Zero) => refuse(
            "a btrfs, where nothing can be overwritten for certain: create the volume with erasePolicy Discard, or reserve \
             another disk",
        ),
        (BackingKind::Btrfs, FsType::Btrfs, ErasePolicy::Discard) => Ok(()),
        (BackingKind::Btrfs, FsType::Ext4 | FsType::Xfs, _) => refuse(&format!(
            "which gives out parts of its own btrfs: {anew} fsType btrfs, or reserve another disk"
        )),
        (BackingKind::Quota, FsType::Ext4 | FsType::Xfs, ErasePolicy::Zero) => refuse(
            "whose volumes share one file system, where nothing can be overwritten for certain: create the volume with \
             erasePolicy Discard, or reserve another disk",
        ),
        (_, FsType::Btrfs, _) => refuse(&format!(
            "whose backing is not Btrfs: {anew} fsType ext4 or xfs, or reserve a disk with that backing"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn d1_btrfs_volumes_go_to_btrfs_disks_and_nowhere_else() {
        let mut btrfs = disk("n1.b", "n1", 10, &[]);
        btrfs.spec.backing = BackingKind::Btrfs;
        let mut quota = disk("n1.q", "n1", 10, &[]);
        quota.spec.backing = BackingKind::Quota;
        let mut lvm = disk("n1.l", "n1", 10, &[]);
        lvm.spec.backing = BackingKind::Lvm;
        let disks = [&disk("n1.a", "n1", 10, &[]), &btrfs, &quota, &lvm];
        for (on, fs_type, erase_policy, said) in [
            ("n1.a", FsType::Ext4, ErasePolicy::Zero, None),
            ("n1.b", FsType::Btrfs, ErasePolicy::Discard, None),
            ("n1.b", FsType::Btrfs, ErasePolicy::Zero, Some("erasePolicy Discard")),
            ("n1.b", FsType::Ext4, ErasePolicy::Discard, Some("with fsType btrfs")),
            ("n1.a", FsType::Btrfs, ErasePolicy::Discard, Some("reserve a disk with that backing")),
            ("n1.l", FsType::Xfs, ErasePolicy::Zero, None),
            ("n1.l", FsType::Btrfs, ErasePolicy::Discard, Some("ext4 or xfs")),
            ("n1.q", FsType::Xfs, ErasePolicy::Discard, None),
            ("n1.q", FsType::Xfs, ErasePolicy::Zero, Some("erasePolicy Discard")),
            ("n1.q", FsType::Btrfs, ErasePolicy::Discard, Some("reserve a disk with that backing")),
            ("n1.c", FsType::Btrfs, ErasePolicy::Discard, None),
        ] {
            let (mut volume, mut home) = (volume("v", "eng", 1), reserved("r", "eng", 10, &[]));
            (volume.spec.fs_type, volume.spec.erase_policy) = (fs_type, erase_policy);
            home.status.as_mut().unwrap().node_disk = Some(on.to_owned());
            match (suits(&volume, &home, &disks), said) {
                (Ok(()), None) => {}
                (Err(verdict), Some(said)) => {
                    assert_eq!(verdict.reason, "WrongDisk");
                    assert!(verdict.message.contains(said), "{}", verdict.message);
                }
                (got, said) => panic!("{on} {fs_type:?}: {got:?}, not {said:?}"),
            }
        }
        let mut made = volume("pvc-u", "eng", 1);
        made.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        made.spec.fs_type = FsType::Btrfs;
        let why = suits(&made, &reserved("r", "eng", 10, &[]), &disks).unwrap_err().message;
        assert!(
            why.contains("make the PersistentVolumeClaim anew, of a StorageClass with fsType ext4"),
            "{why}"
        );
    }
}
