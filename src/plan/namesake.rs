//! Old data under the name of something new, which starts empty: told in an event, never in silence (F5).

use kube::ResourceExt;

use crate::api::{
    ANNOTATION_MADE_FOR, DiskReservation, Kept, LedgerEntry, NodeDisk, Orphan, SharedPersistentVolume,
};

use super::own_pvc::pvc_of;
use super::{kept, orphans};

/// The event of a new volume while a disk has data without an object under the same name. The volume's own data, which a
/// restored etcd has without its place, is not of an earlier one (X9).
pub fn orphaned(volume: &SharedPersistentVolume, disks: &[&NodeDisk]) -> Option<String> {
    let name = volume.name_any();
    let is_earlier =
        |orphan: &Orphan| orphan.name == name && volume.metadata.uid.as_ref() != Some(&orphan.uid);
    let has = |disk: &&&NodeDisk| orphans::lost(disk).any(is_earlier);
    let disk = disks.iter().find(has).filter(|_| volume.spec.recover.is_none())?;
    Some(format!(
        "volume {name} starts empty, while NodeDisk {} has data of an earlier volume of this name without an object: to have \
         that data, delete this volume, if nobody has written to it, and apply what `kubectl reservoir recover {name}` prints",
        disk.name_any()
    ))
}

/// The event of a new volume while the data of an earlier volume of its name is kept for an undo.
pub fn kept_beside(volume: &SharedPersistentVolume, reservations: &[&DiskReservation]) -> Option<String> {
    let all = kept::of_namesakes(volume, reservations.iter().copied());
    let same = |entry: &LedgerEntry| entry.name == volume.name_any() && volume.spec.recover.is_none();
    let (of, entry, kept) = all.into_iter().rfind(|(_, entry, _)| same(entry))?;
    Some(format!("volume {} starts empty: {}", volume.name_any(), stays(of, entry, kept)))
}

/// Kept data of a namesake, with the commands that end this state.
pub fn stays(reservation: &DiskReservation, entry: &LedgerEntry, kept: &Kept) -> String {
    format!(
        "DiskReservation {} keeps the data of an earlier one of its name until {}, and does not erase it for this one: to have it, delete \
         this one, if nobody has written to it, and run kubectl reservoir undelete {uid}; if it is not needed: kubectl reservoir erase {uid}",
        reservation.name_any(),
        kept.until.0,
        uid = entry.uid
    )
}

/// Data of earlier PersistentVolumeClaims.
#[derive(Debug)]
pub struct Earlier<'a> {
    /// The volumes that were made for PersistentVolumeClaims of the name.
    pub volumes: &'a [&'a SharedPersistentVolume],
    /// All disks.
    pub disks: &'a [&'a NodeDisk],
    /// All reservations.
    pub reservations: &'a [&'a DiskReservation],
}

/// The reason and the event of a new PersistentVolumeClaim, whose volume starts empty, while there is data of an earlier
/// one of the same name: a volume that nobody has, data without an object, or data that is kept for an undo. `new` is its volume, if
/// that is made. `of_pod`: it is that of an ephemeral volume, for which Kubernetes takes no other of its name.
pub fn earlier(
    namespace: &str,
    name: &str,
    of_pod: bool,
    new: Option<&SharedPersistentVolume>,
    there: &Earlier<'_>,
) -> Option<(&'static str, String)> {
    let made_for = Some(format!("{namespace}/{name}"));
    // The entry of a PersistentVolumeClaim outlives the label of its volume for a moment.
    let is_left = |old: &&&SharedPersistentVolume| {
        old.annotations().get(ANNOTATION_MADE_FOR) == made_for.as_ref()
            && pvc_of(**old).is_none()
            && new.is_none_or(|new| old.metadata.uid != new.metadata.uid)
            && old.metadata.deletion_timestamp.is_none()
            && old.status.iter().flat_map(|status| &status.claims).all(|binding| binding.pvc_uid.is_some())
    };
    let claim = |role: &str, volume: &str| {
        let name = if of_pod { volume } else { name };
        format!(
            "kubectl reservoir claim {name} --namespace {namespace} --role {role} --volume {volume}, for which the namespace \
             has to be subscribed: kubectl reservoir subscribe {role} --namespace {namespace}"
        )
    };
    let starts = if new.is_some() { "starts empty" } else { "waits, to start empty" };
    let says = |where_: String, do_: String, end: String| {
        // A note of an event has its end cut off, and the shorter way comes first.
        let begin = format!(
            "this PersistentVolumeClaim {starts}, while {where_} has the data of an earlier one of its name (not needed: {end})"
        );
        match of_pod {
            true => format!(
                "{begin}, and an ephemeral volume never has such data: to have it, run {do_}, and name that claim in a pod in place of the \
                 ephemeral volume"
            ),
            false => format!(
                "{begin}: to have that data, end its pods, those of a StatefulSet by scaling it down, delete this one, if nobody has written \
                 to it, and run {do_}"
            ),
        }
    };
    if let Some(old) = there.volumes.iter().find(is_left) {
        let volume = old.name_any();
        let end = format!("kubectl reservoir delete spv/{volume}");
        let event = says(format!("volume {volume}"), claim(&old.spec.role, &volume), end);
        return Some(("OldDataKept", event));
    }
    for disk in there.disks {
        let mut lost = orphans::lost(disk);
        if let Some(orphan) = lost.find(|orphan| orphan.made_for.is_some() && orphan.made_for == made_for) {
            let volume = &orphan.name;
            let where_ = format!("NodeDisk {}, without an object,", disk.name_any());
            let of = orphan.reservations.first().map(|reserved| reserved.role.as_str());
            // The volume's role may be a sub-role of its reservation's.
            let role = orphan.spec["role"].as_str().or(of).unwrap_or_default();
            let do_ = format!(
                "`kubectl reservoir recover {volume}`, apply what it prints, then {}",
                claim(role, volume)
            );
            let end = format!("recover it likewise, then kubectl reservoir delete spv/{volume}");
            return Some(("OldDataOrphaned", says(where_, do_, end)));
        }
    }
    for reservation in there.reservations {
        let kept = reservation.status.as_ref().map(kept::entries).unwrap_or_default();
        let mut old =
            kept.into_iter().filter(|(_, kept)| kept.made_for.is_some() && kept.made_for == made_for);
        if let Some((entry, kept)) = old.next_back() {
            let where_ = format!("DiskReservation {}, until {},", reservation.name_any(), kept.until.0);
            let do_ =
                format!("kubectl reservoir undelete {}, then {}", entry.uid, claim(&entry.role, &entry.name));
            return Some((
                "OldDataKept",
                says(where_, do_, format!("kubectl reservoir erase {}", entry.uid)),
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{LABEL_PVC_UID, Recover};
    use crate::plan::testing::*;

    #[test]
    fn f5_old_data_of_the_same_name_is_told() {
        let (mut new, mut on) = (volume("v", "eng", 1), disk("n1.a", "n1", 10, &[]));
        assert_eq!(orphaned(&new, &[&on]), None);
        on.status.get_or_insert_default().orphans =
            vec![Orphan { uid: "u".into(), size: gi(1), name: "v".into(), ..Default::default() }];
        let said = orphaned(&new, &[&on]).unwrap();
        assert!(said.contains("NodeDisk n1.a has data") && said.contains("recover v"), "{said}");
        assert_eq!(orphaned(&volume("w", "eng", 1), &[&on]), None);
        let uid = new.metadata.uid.replace("u".into());
        assert_eq!(orphaned(&new, &[&on]), None, "X9: its own data");
        new.metadata.uid = uid;
        new.spec.recover = Some(Recover { uid: "u".into() });
        assert_eq!(orphaned(&new, &[&on]), None);
    }

    #[test]
    fn f5_old_data_of_a_pvc_is_told_wherever_it_is() {
        let new = volume("pvc-2", "eng", 1);
        let says = |volumes: &[&SharedPersistentVolume], disk: &NodeDisk, reservation: &DiskReservation| {
            let there = Earlier { volumes, disks: &[disk], reservations: &[reservation] };
            assert_eq!(earlier("other", "data", false, Some(&new), &there), None);
            earlier("ns", "data", false, Some(&new), &there)
        };
        let (mut on, mut kept) = (disk("n1.a", "n1", 10, &[]), with_kept(&[("pvc-0", 0, 60)]));
        assert_eq!(says(&[], &on, &kept), None);
        kept.status.as_mut().unwrap().volumes[0].kept.as_mut().unwrap().made_for = Some("ns/data".into());
        let (reason, said) = says(&[], &on, &kept).unwrap();
        assert!(reason == "OldDataKept" && said.contains("undelete uid-pvc-0-0, then"), "{said}");
        assert!(said.contains("(not needed: kubectl reservoir erase uid-pvc-0-0)"), "{said}");
        on.status.get_or_insert_default().orphans = vec![Orphan {
            uid: "u".into(),
            size: gi(1),
            name: "pvc-1".into(),
            made_for: Some("ns/data".into()),
            ..Default::default()
        }];
        let (reason, said) = says(&[], &on, &kept).unwrap();
        assert!(
            reason == "OldDataOrphaned" && said.contains("NodeDisk n1.a") && said.contains("recover pvc-1"),
            "{said}"
        );
        let mut old = ready_volume("pvc-1", "eng", false);
        let made_for = [(ANNOTATION_MADE_FOR.to_owned(), "ns/data".to_owned())];
        old.metadata.annotations = Some(made_for.into());
        let (_, said) = says(&[&old], &on, &kept).unwrap();
        assert!(
            said.contains("end its pods, those of a StatefulSet by scaling it down, delete this one"),
            "{said}"
        );
        let there = Earlier { volumes: &[&old], disks: &[], reservations: &[] };
        let (_, of_pod) = earlier("ns", "data", true, None, &there).unwrap();
        assert!(
            of_pod.contains("kubectl reservoir claim pvc-1 --namespace ns") && !of_pod.contains("claim data"),
            "{of_pod}"
        );
        let (_, said) = earlier("ns", "data", false, None, &there).unwrap();
        assert!(
            said.starts_with("this PersistentVolumeClaim waits, to start empty, while volume pvc-1 has"),
            "{said}"
        );
        let claim = "claim data --namespace ns --role eng --volume pvc-1, for which the namespace has to be subscribed: kubectl \
                     reservoir subscribe eng --namespace ns";
        assert!(
            said.ends_with(claim) && said.contains("(not needed: kubectl reservoir delete spv/pvc-1)"),
            "{said}"
        );
        let nothing = disk("n1.a", "n1", 10, &[]);
        let none = with_kept(&[]);
        old.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        assert_eq!(says(&[&old], &nothing, &none), None, "its own PersistentVolumeClaim has it");
        old.metadata.labels = None;
        old.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", "u")];
        assert_eq!(says(&[&old], &nothing, &none), None, "somebody has it");
    }
}
