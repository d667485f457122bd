//! Kept data that no reservation lists: its DiskReservation was made anew, for example from `reservoir recover` (X8).
//!
//! Nothing ends such data by itself, since nobody takes its bytes back. A person brings it back or erases it.

use kube::ResourceExt;
use serde_json::Value;

use crate::api::{DiskReservation, Kept, LedgerEntry, NodeDisk, Orphan, SharedPersistentVolume};

use super::orphans::is_of;

/// Kept data on a disk, beside the ledgers of the reservations.
#[derive(Debug)]
pub struct Unlisted<'a> {
    /// The disk.
    pub disk: &'a NodeDisk,
    /// Name of the reservation that the data lived in; empty if the node does not know.
    pub reservation_name: String,
    /// The reservation of that name and role, on that disk.
    pub reservation: Option<&'a DiskReservation>,
    /// The entry that the reservation would have.
    pub entry: LedgerEntry,
    /// Why the data cannot be recovered.
    pub problem: Option<String>,
}

impl<'a> Unlisted<'a> {
    /// The reservation for a volume that brings the data back, or erases it.
    pub fn reservation(&self) -> Result<&'a DiskReservation, String> {
        let (name, uid, of) = (&self.entry.name, &self.entry.uid, &self.reservation_name);
        match (&self.problem, self.reservation) {
            (Some(problem), _) => {
                Err(format!("the data of volume {name} cannot be recovered, and stays: {problem}"))
            }
            (None, Some(reservation)) => Ok(reservation),
            (None, None) => Err(format!(
                "the data of volume {name} was in DiskReservation {of}, which is lost: apply what kubectl reservoir recover {uid} \
                 prints, and the volume is back; delete it to remove the data"
            )),
        }
    }
}

/// Kept data that no reservation lists, by disk. Data of a disk that was declared gone is given up (D4). Data that a volume is
/// recovering is that volume's.
pub fn unlisted<'a>(
    disks: &'a [NodeDisk],
    reservations: &'a [DiskReservation],
    volumes: &[SharedPersistentVolume],
) -> Vec<Unlisted<'a>> {
    // An agent's report may be half a minute old, and list data of which a volume was kept since that had recovered it.
    let is_listed = |uid: &String| {
        let mut entries = reservations.iter().flat_map(|r| r.status.iter().flat_map(|s| &s.volumes));
        entries.any(|entry| {
            entry.uid == *uid
                || entry.kept.as_ref().is_some_and(|kept| kept.spec["recover"]["uid"] == uid.as_str())
        })
    };
    let has_heir = |orphan: &Orphan| {
        volumes.iter().any(|volume| {
            let recovers = volume.spec.recover.as_ref().is_some_and(|recover| recover.uid == orphan.uid);
            recovers && orphan.spec["role"] == volume.spec.role.as_str()
        })
    };
    let of = |disk: &'a NodeDisk| {
        let orphans = disk.status.iter().flat_map(|status| &status.orphans);
        let data = orphans.filter(|orphan| !is_listed(&orphan.uid) && !has_heir(orphan));
        data.filter_map(move |orphan| Unlisted::of(disk, orphan, reservations))
    };
    disks.iter().filter(|disk| !disk.spec.gone).flat_map(of).collect()
}

impl<'a> Unlisted<'a> {
    fn of(disk: &'a NodeDisk, orphan: &Orphan, reservations: &'a [DiskReservation]) -> Option<Self> {
        let on_disk = orphan.kept.as_ref()?;
        let lived_in = orphan.reservations.first();
        let is_it = |r: &&DiskReservation| {
            let on = r.status.as_ref().and_then(|status| status.node_disk.as_ref());
            lived_in.is_some_and(|of| is_of(of, r)) && on == disk.metadata.name.as_ref()
        };
        let mut spec = orphan.spec.clone();
        let role = spec["role"].as_str().unwrap_or_default().to_owned();
        if let Value::Object(fields) = &mut spec {
            ["role", "reservation", "recover"].into_iter().for_each(|field| drop(fields.remove(field)));
        }
        let kept = Kept {
            since: on_disk.since.clone(),
            until: on_disk.until.clone(),
            made_for: orphan.made_for.clone(),
            labels: orphan.labels.clone(),
            spec,
        };
        let entry = LedgerEntry {
            name: orphan.name.clone(),
            uid: orphan.uid.clone(),
            role,
            size: orphan.size.clone(),
            kept: Some(Box::new(kept)),
            ..Default::default()
        };
        Some(Self {
            disk,
            reservation_name: lived_in.map(|of| of.name.clone()).unwrap_or_default(),
            reservation: reservations.iter().find(is_it),
            entry,
            problem: orphan.problem.clone(),
        })
    }

    /// Name of the disk.
    pub fn disk_name(&self) -> String {
        self.disk.name_any()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{KeptOnDisk, Recover, Reserved};
    use crate::plan::kept;
    use crate::plan::testing::*;

    fn disk_with_kept(problem: Option<&str>) -> NodeDisk {
        let mut disk = disk("n1.a", "n1", 10, &[("r", 10)]);
        let (since, until) = (some_time().unwrap(), later().unwrap());
        disk.status.as_mut().unwrap().orphans = vec![Orphan {
            uid: "uid-a-0".into(),
            name: "a".into(),
            size: gi(1),
            problem: problem.map(str::to_owned),
            made_for: Some("ns/data".into()),
            labels: [("app".to_owned(), "a".to_owned())].into(),
            reservations: vec![Reserved { name: "r".into(), role: "eng".into(), ..Default::default() }],
            spec: json!({"role": "eng/ml", "size": "1Gi", "reservation": "r", "shared": {},
                "recover": {"uid": "uid-a-0"}, "keepFor": "60s"}),
            kept: Some(KeptOnDisk { since, until, over: false }),
        }];
        disk
    }

    #[test]
    fn x8_kept_data_of_a_reservation_made_anew_is_found() {
        let (disks, anew) = ([disk_with_kept(None)], reserved("r", "eng", 10, &[]));
        let listed = with_kept(&[("a", 0, 60)]);
        assert!(unlisted(&disks, &[listed], &[]).is_empty(), "the reservation has it");
        let mut heir = with_kept(&[("b", 0, 60)]);
        heir.status.as_mut().unwrap().volumes[0].kept.as_mut().unwrap().spec["recover"] =
            json!({"uid": "uid-a-0"});
        assert!(unlisted(&disks, &[heir], &[]).is_empty(), "it came back, and is kept under another UID");
        let reservations = [anew];
        let found = &unlisted(&disks, &reservations, &[])[0];
        let reservation = found.reservation().unwrap();
        let back = kept::undeleted("b", &found.entry, reservation).unwrap();
        let spec = &back.spec;
        assert_eq!((spec.role.as_str(), spec.reservation.as_deref()), ("eng/ml", Some("r")));
        assert_eq!(spec.recover, Some(Recover { uid: "uid-a-0".into() }));
        assert_eq!((spec.keep_for.as_deref(), back.labels().len()), (Some("60s"), 1));
        assert_eq!(back.annotations()["reservoir.dev/made-for"], "ns/data");
        let erasing = kept::erasing(&found.entry, reservation, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert!(kept::is_erasing(&erasing));
        assert!(unlisted(&disks, &reservations, &[back]).is_empty(), "a volume has it");
        let mut gone = disk_with_kept(None);
        gone.spec.gone = true;
        assert!(unlisted(&[gone], &reservations, &[]).is_empty(), "D4");
    }

    #[test]
    fn x8_kept_data_without_its_reservation_says_what_brings_it_back() {
        let disks = [disk_with_kept(None)];
        let mut elsewhere = reserved("r", "eng", 10, &[]);
        elsewhere.status.as_mut().unwrap().node_disk = Some("n2.a".into());
        for reservations in [vec![], vec![elsewhere], vec![reserved("r", "ops", 10, &[])]] {
            let why = unlisted(&disks, &reservations, &[])[0].reservation().unwrap_err();
            assert!(
                why.contains(
                    "DiskReservation r, which is lost: apply what kubectl reservoir recover uid-a-0"
                ),
                "{why}"
            );
        }
        let disks = [disk_with_kept(Some("its record is unreadable"))];
        let why = unlisted(&disks, &[], &[])[0].reservation().unwrap_err();
        assert!(why.ends_with("and stays: its record is unreadable"), "{why}");
    }
}
