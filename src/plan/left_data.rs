//! The data of volumes that are gone: kept for an undo (X8), or on a disk without an object (X6).

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use super::{bind, kept, kept_on_disk, orphans, selects};
use crate::api::{
    ANNOTATION_MADE_FOR, DiskReservation, LedgerEntry, NodeDisk, Orphan, Role, SharedPersistentVolume,
    VolumeClaim,
};

/// Data of a volume that is gone.
#[derive(Debug)]
pub enum LeftData<'a> {
    /// Kept data of a reservation. `undelete` brings it back.
    Kept(Cow<'a, LedgerEntry>, &'a DiskReservation),
    /// Data on a disk without an object. `recover` brings it back.
    Lost(Cow<'a, Orphan>, &'a NodeDisk),
}

use LeftData::{Kept, Lost};

impl LeftData<'_> {
    /// Name of the volume.
    pub fn name(&self) -> &str {
        match self {
            Kept(entry, _) => &entry.name,
            Lost(orphan, _) => &orphan.name,
        }
    }

    /// UID of the data.
    pub fn uid(&self) -> &str {
        match self {
            Kept(entry, _) => &entry.uid,
            Lost(orphan, _) => &orphan.uid,
        }
    }

    fn role(&self) -> &str {
        match self {
            Kept(entry, _) => &entry.role,
            Lost(orphan, _) => orphan.spec["role"].as_str().unwrap_or_default(),
        }
    }

    /// The labels of the volume, and the PersistentVolumeClaim that it was made for.
    fn made(&self) -> (Option<&BTreeMap<String, String>>, Option<&String>) {
        match self {
            Kept(entry, _) => {
                let kept = entry.kept.as_deref();
                (kept.map(|kept| &kept.labels), kept.and_then(|kept| kept.made_for.as_ref()))
            }
            Lost(orphan, _) => (Some(&orphan.labels), orphan.made_for.as_ref()),
        }
    }

    /// The time of the destruction, for kept data.
    fn since(&self) -> Option<Timestamp> {
        match self {
            Kept(entry, _) => entry.kept.as_ref().map(|kept| kept.since.0),
            Lost(..) => None,
        }
    }

    /// The end of kept data.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Kept(entry, _) => entry.kept.as_ref().map(|kept| kept.until.0),
            Lost(..) => None,
        }
    }

    /// The volume that would have the data again; `None`: another version wrote its spec.
    pub fn volume(&self) -> Option<SharedPersistentVolume> {
        let orphan = match self {
            Kept(entry, reservation) => return kept::undeleted(&entry.name, entry, reservation).ok(),
            Lost(orphan, _) => orphan,
        };
        let spec = serde_json::from_value(orphan.spec.clone()).ok()?;
        let mut volume = SharedPersistentVolume::new(&orphan.name, spec);
        volume.metadata.labels = Some(orphan.labels.clone());
        let made_for = orphan.made_for.iter().map(|of| (ANNOTATION_MADE_FOR.to_owned(), of.clone()));
        volume.metadata.annotations = Some(made_for.collect());
        Some(volume)
    }

    /// True if the claim names the volume, or selects it, and may use its role.
    fn fits(&self, claim: &VolumeClaim) -> bool {
        let is_wanted = || match (&claim.spec.volume, &claim.spec.selector) {
            (Some(named), _) => self.name() == named,
            (None, Some(selector)) => {
                let wanted = selector.match_labels.as_ref();
                wanted.is_none_or(|wanted| self.made().0.is_some_and(|labels| selects(wanted, labels)))
                    && self.volume().is_some_and(|volume| bind::fits(claim, &volume))
            }
            (None, None) => false,
        };
        Role::name_covers(self.role(), &claim.spec.role) && is_wanted()
    }
}

/// The data that the reservations keep, and that the disks have without an object. The data of a disk that was declared gone is given
/// up (D4).
fn listed<'a, D: Borrow<NodeDisk>, R: Borrow<DiskReservation>>(
    disks: &'a [D],
    reservations: &'a [R],
) -> Vec<LeftData<'a>> {
    let disks = disks.iter().map(Borrow::borrow);
    let is_given_up = |r: &DiskReservation| {
        let on = r.status.as_ref().and_then(|status| status.node_disk.as_ref());
        disks.clone().any(|disk| disk.spec.gone && disk.metadata.name.as_ref() == on)
    };
    let reservations = reservations.iter().map(Borrow::borrow).filter(|r| !is_given_up(r));
    let kept = reservations.flat_map(|r| {
        let entries = r.status.iter().flat_map(kept::entries);
        entries.map(move |(entry, _)| Kept(Cow::Borrowed(entry), r))
    });
    let lost = disks.clone().flat_map(|disk| {
        let orphans = orphans::lost(disk).filter(|orphan| orphan.problem.is_none());
        orphans.map(move |orphan| Lost(Cow::Borrowed(orphan), disk))
    });
    kept.chain(lost).collect()
}

/// All data of volumes that are gone, also kept data that no reservation lists.
pub fn all<'a>(
    disks: &'a [NodeDisk],
    reservations: &'a [DiskReservation],
    volumes: &[SharedPersistentVolume],
) -> Vec<LeftData<'a>> {
    let mut all = listed(disks, reservations);
    for data in kept_on_disk::unlisted(disks, reservations, volumes) {
        let is_lost = data.reservation.is_none() && data.problem.is_none();
        match (data.reservation(), &data.entry.kept) {
            (Ok(reservation), _) => all.push(Kept(Cow::Owned(data.entry), reservation)),
            (Err(_), Some(kept)) if is_lost => {
                let mut spec = kept.spec.clone();
                spec["role"] = json!(data.entry.role);
                let orphan = Orphan {
                    name: data.entry.name.clone(),
                    uid: data.entry.uid.clone(),
                    labels: kept.labels.clone(),
                    made_for: kept.made_for.clone(),
                    spec,
                    ..Default::default()
                };
                all.push(Lost(Cow::Owned(orphan), data.disk));
            }
            _ => {}
        }
    }
    all
}

/// The newest data that `fits` accepts; kept data comes first. Data of another namespace's PersistentVolumeClaim is left out, and data
/// that a volume has or is about to have.
pub fn newest<'a, V: Borrow<SharedPersistentVolume>>(
    mut all: Vec<LeftData<'a>>,
    volumes: &[V],
    namespace: &str,
    fits: impl Fn(&LeftData) -> bool,
) -> Option<LeftData<'a>> {
    let is_own = |data: &LeftData| {
        data.made().1.and_then(|of| of.split_once('/')).is_none_or(|(of, _)| of == namespace)
    };
    let has_heir = |uid: &str| {
        volumes.iter().map(Borrow::borrow).any(|volume| {
            let recovered = volume.spec.recover.as_ref().map(|recover| &*recover.uid);
            recovered == Some(uid) || volume.metadata.uid.as_deref() == Some(uid)
        })
    };
    all.sort_by(|a, b| (a.since(), a.uid()).cmp(&(b.since(), b.uid())));
    all.into_iter().rfind(|data| is_own(data) && fits(data) && !has_heir(data.uid()))
}

/// True if the volume has that name, or was made for the PersistentVolumeClaim of that name.
pub fn is_called(volume: &SharedPersistentVolume, namespace: &str, name: &str) -> bool {
    let made_for = volume.annotations().get(ANNOTATION_MADE_FOR).and_then(|of| of.split_once('/'));
    volume.name_any() == name || made_for == Some((namespace, name))
}

/// The end of the sentence about a claim that waits for a volume, while there is data that the claim could have. Data of roles that the
/// claim's role may not use is not told.
pub fn sentence<D: Borrow<NodeDisk>, R: Borrow<DiskReservation>, V: Borrow<SharedPersistentVolume>>(
    claim: &VolumeClaim,
    disks: &[D],
    reservations: &[R],
    volumes: &[V],
) -> Option<String> {
    let namespace = claim.namespace().unwrap_or_default();
    let data = newest(listed(disks, reservations), volumes, &namespace, |data| data.fits(claim))?;
    let (name, uid, role) = (data.name(), data.uid(), data.role());
    Some(match &data {
        Kept(_, reservation) => format!(
            "; DiskReservation {} keeps the data of volume {name} until {}: kubectl reservoir undelete {uid} brings it back, with the verbs \
             create and recover on role {role}",
            reservation.name_any(),
            data.until().unwrap_or_default(),
        ),
        Lost(_, disk) => format!(
            "; NodeDisk {} has the data of volume {name} without an object: have an administrator apply what kubectl reservoir recover {uid} \
             prints",
            disk.name_any(),
        ),
    })
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
        let none: &[SharedPersistentVolume] = &[];
        let said =
            |claim: &VolumeClaim, r: &DiskReservation, on: &NodeDisk| sentence(claim, &[on], &[r], none);
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

    /// X8, D4: claim and `why` choose the same data, by the time of the destruction.
    #[test]
    fn x8_the_newest_data_that_nobody_has_is_told() {
        // The older data is kept for longer.
        let mut reservation = with_kept(&[("a", 0, 90), ("a", 5, 65)]);
        let mut on = disk("n1.a", "n1", 10, &[("r", 10)]);
        reservation.status.as_mut().unwrap().node_disk = Some("n1.a".into());
        let claim = claim("ns", "c", "a");
        let mut heir = volume("b", "eng", 1);
        let said = |volumes: &[SharedPersistentVolume], on: &NodeDisk| {
            sentence(&claim, &[on], &[&reservation], volumes).unwrap_or_default()
        };
        assert!(said(&[], &on).contains("undelete uid-a-5 "), "{}", said(&[], &on));
        heir.spec.recover = Some(crate::api::Recover { uid: "uid-a-5".into() });
        assert!(said(&[heir], &on).contains("undelete uid-a-0 "), "the newer data is coming back");
        on.spec.gone = true;
        assert_eq!(said(&[], &on), "");
    }

    /// X9: a restored etcd has the volume from before its placement.
    #[test]
    fn x9_the_data_of_a_volume_without_a_place_is_not_left() {
        let mut on = disk("n1.a", "n1", 10, &[]);
        let orphan = json!({"uid": "uid-old", "size": "2Gi", "name": "x", "spec": {"role": "eng"}});
        on.status.as_mut().unwrap().orphans = vec![serde_json::from_value(orphan).unwrap()];
        let none: &[DiskReservation] = &[];
        let said =
            |volumes: &[SharedPersistentVolume]| sentence(&claim("ns", "c", "x"), &[&on], none, volumes);
        let mut owner = volume("renamed", "eng", 2);
        assert!(said(&[owner.clone()]).is_some());
        owner.metadata.uid = Some("uid-old".into());
        assert_eq!(said(&[owner]), None);
    }
}
