//! The data of volumes that are gone: kept for an undo (X8), or on a disk without an object (X6).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{kept, kept_on_disk, orphans};
use crate::api::{ANNOTATION_MADE_FOR, DiskReservation, LedgerEntry, NodeDisk, SharedPersistentVolume};

/// Data of a volume that is gone.
#[derive(Debug)]
pub struct LeftData {
    /// The volume that would have the data again.
    pub volume: SharedPersistentVolume,
    /// UID of the data.
    pub uid: String,
    /// The end of kept data, which `undelete` brings back. Other data comes back by `recover`.
    pub until: Option<Time>,
}

/// All such data that can come back. The data of a disk that was declared gone is given up (D4).
pub fn all(
    disks: &[NodeDisk],
    reservations: &[DiskReservation],
    volumes: &[SharedPersistentVolume],
) -> Vec<LeftData> {
    let is_given_up = |r: &DiskReservation| {
        let on = r.status.as_ref().and_then(|status| status.node_disk.as_ref());
        disks.iter().any(|disk| disk.spec.gone && disk.metadata.name.as_ref() == on)
    };
    let mut all = Vec::new();
    for reservation in reservations.iter().filter(|r| !is_given_up(r)) {
        let entries = reservation.status.as_ref().map(kept::entries).unwrap_or_default();
        all.extend(entries.into_iter().filter_map(|(entry, _)| undeletable(entry, reservation)));
    }
    for data in kept_on_disk::unlisted(disks, reservations, volumes) {
        let (entry, lost) = (&data.entry, data.reservation.is_none() && data.problem.is_none());
        all.extend(match (data.reservation(), &entry.kept) {
            (Ok(reservation), _) => undeletable(entry, reservation),
            (Err(_), Some(kept)) if lost => {
                let mut spec = kept.spec.clone();
                spec["role"] = json!(entry.role);
                recoverable(&entry.name, &entry.uid, (&kept.labels, kept.made_for.as_ref()), spec)
            }
            _ => None,
        });
    }
    let lost = disks.iter().flat_map(orphans::lost);
    let orphans = lost.filter(|orphan| orphan.problem.is_none() && orphans::owner(orphan, volumes).is_none());
    all.extend(
        orphans
            .filter_map(|o| recoverable(&o.name, &o.uid, (&o.labels, o.made_for.as_ref()), o.spec.clone())),
    );
    all
}

fn undeletable(entry: &LedgerEntry, reservation: &DiskReservation) -> Option<LeftData> {
    let until = entry.kept.as_ref().map(|kept| kept.until.clone());
    let volume = kept::undeleted(&entry.name, entry, reservation).ok()?;
    Some(LeftData { volume, uid: entry.uid.clone(), until })
}

/// The data with its labels, and the PersistentVolumeClaim that it was made for.
fn recoverable(
    name: &str,
    uid: &str,
    (labels, made_for): (&BTreeMap<String, String>, Option<&String>),
    spec: Value,
) -> Option<LeftData> {
    let mut volume = SharedPersistentVolume::new(name, serde_json::from_value(spec).ok()?);
    volume.metadata.labels = Some(labels.clone());
    let made_for = made_for.map(|of| (ANNOTATION_MADE_FOR.to_owned(), of.clone()));
    volume.metadata.annotations = Some(made_for.into_iter().collect());
    Some(LeftData { volume, uid: uid.to_owned(), until: None })
}
