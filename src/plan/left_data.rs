//! The data of volumes that are gone: kept for an undo (X8), or on a disk without an object (X6).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{bind, kept, kept_on_disk, orphans};
use crate::api::{
    ANNOTATION_MADE_FOR, DiskReservation, LedgerEntry, NodeDisk, Orphan, Role, SharedPersistentVolume,
    VolumeClaim,
};

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

/// The end of the sentence about a claim that waits for a volume, while data of such a volume is kept, or is on a disk without an
/// object. The data of other namespaces' PersistentVolumeClaims, and of roles that the claim's role may not use, is not told.
pub fn told(claim: &VolumeClaim, kept: &[&DiskReservation], lost: &[&NodeDisk]) -> Option<String> {
    let (named, namespace) = (claim.spec.volume.as_deref(), claim.namespace().unwrap_or_default());
    let may_know = |role: &str, made_for: Option<&String>| {
        let is_own = made_for.and_then(|of| of.split_once('/')).is_none_or(|(of, _)| of == namespace);
        is_own && Role::name_covers(role, &claim.spec.role)
    };
    let all = kept.iter().flat_map(|r| {
        let entries = r.status.iter().flat_map(kept::entries);
        entries.map(move |(entry, kept)| (*r, entry, kept))
    });
    let newest = all
        .filter(|(r, entry, kept)| {
            let fits = |volume: SharedPersistentVolume| bind::fits(claim, &volume);
            may_know(&entry.role, kept.made_for.as_ref())
                && match named {
                    Some(named) => entry.name == named,
                    None => kept::undeleted(&entry.name, entry, r).is_ok_and(fits),
                }
        })
        .max_by_key(|(_, entry, kept)| (kept.since.0, &entry.uid));
    if let Some((reservation, entry, kept)) = newest {
        return Some(format!(
            "; DiskReservation {} keeps the data of volume {} until {}: kubectl reservoir undelete {} brings it back, with the verbs create \
             and recover on role {}",
            reservation.name_any(),
            entry.name,
            kept.until.0,
            entry.uid,
            entry.role
        ));
    }
    let all = lost.iter().flat_map(|disk| orphans::lost(disk).map(move |orphan| (disk, orphan)));
    let is_it = |(_, orphan): &(&&NodeDisk, &Orphan)| {
        let role = orphan.spec["role"].as_str();
        named == Some(&orphan.name) && role.is_some_and(|role| may_know(role, orphan.made_for.as_ref()))
    };
    let (disk, orphan) = all.filter(is_it).min_by_key(|(_, orphan)| &orphan.uid)?;
    Some(format!(
        "; NodeDisk {} has the data of volume {} without an object: have an administrator apply what kubectl reservoir recover {} prints",
        disk.name_any(),
        orphan.name,
        orphan.uid
    ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    /// X8, X6: a tenant sees neither reservations nor disks, and its claim has the words.
    #[test]
    fn x8_a_claim_is_told_of_data_that_it_may_know_of() {
        let mut reservation = with_kept(&[("a", 0, 60), ("a", 5, 65)]);
        let mut on = disk("n1.a", "n1", 10, &[]);
        let orphan = json!({"uid": "u", "size": "2Gi", "name": "x", "spec": {"role": "eng"}});
        on.status.as_mut().unwrap().orphans = vec![serde_json::from_value(orphan).unwrap()];
        let said = |claim: &VolumeClaim, r: &DiskReservation, on: &NodeDisk| told(claim, &[r], &[on]);
        let mut named = claim("ns", "c", "a");
        let kept = "; DiskReservation r keeps the data of volume a until 1970-01-01T00:01:05Z: kubectl reservoir undelete uid-a-5 brings it \
                    back, with the verbs create and recover on role eng";
        assert_eq!(said(&named, &reservation, &on).as_deref(), Some(kept));
        let mut selects = named.clone();
        (selects.spec.volume, selects.spec.selector) = (None, Some(Default::default()));
        assert_eq!(said(&selects, &reservation, &on).as_deref(), Some(kept));
        let selector = selects.spec.selector.as_mut().unwrap();
        selector.match_labels = Some(BTreeMap::from([("app".to_owned(), "b".to_owned())]));
        assert_eq!(said(&selects, &reservation, &on), None);

        named.spec.volume = Some("x".into());
        let lost = "; NodeDisk n1.a has the data of volume x without an object: have an administrator apply what kubectl reservoir recover u \
                    prints";
        assert_eq!(said(&named, &reservation, &on).as_deref(), Some(lost));
        on.status.as_mut().unwrap().orphans[0].made_for = Some("other/data".into());
        assert_eq!(said(&named, &reservation, &on), None, "another namespace's");
        on.status.as_mut().unwrap().orphans[0].made_for = Some("ns/data".into());
        assert_eq!(said(&named, &reservation, &on).as_deref(), Some(lost));

        named.spec.volume = Some("a".into());
        for entry in &mut reservation.status.as_mut().unwrap().volumes {
            entry.kept.as_mut().unwrap().made_for = Some("other/data".into());
        }
        assert_eq!(said(&named, &reservation, &on), None, "another namespace's");
        named.spec.role = "ops".into();
        assert_eq!(said(&named, &with_kept(&[("a", 0, 60)]), &on), None, "another role's");
    }
}
