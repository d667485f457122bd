//! The report of data without an object (S14, X6).

use jiff::Timestamp;
use serde_json::json;

use crate::api::condition;
use crate::api::{
    Adopt, DeletionPolicy, ErasePolicy, FsType, KeptOnDisk, Orphan, Recover, Reserved, Shared,
    SharedPersistentVolumeSpec, Size, SubRoles, VolumeMode,
};
use crate::host::{self, Record, VolumeReport};

/// The size limit of one orphan's report: all reports of a disk are in one object, and the API server limits an
/// object to 1.5 MiB.
const MOST_BYTES: usize = 8 << 10;

/// The whole record of a volume, so that a recovery does not have to guess. Too many labels are omitted.
pub(super) fn orphan(report: &VolumeReport, now: Timestamp) -> Orphan {
    let mut orphan = whole_orphan(report, now);
    if json!(orphan).to_string().len() > MOST_BYTES {
        orphan.labels.clear();
        orphan.reservations.iter_mut().for_each(|reservation| reservation.labels.clear());
    }
    orphan
}

fn whole_orphan(report: &VolumeReport, now: Timestamp) -> Orphan {
    let uid = report.uid.as_str().to_owned();
    match &report.record {
        Ok(record) => Orphan {
            size: Size::from_bytes(record.spec.size_bytes),
            name: record.spec.name.clone(),
            made_for: record.spec.made_for.clone().filter(|of| of.len() <= 400),
            labels: record.spec.labels.clone(),
            reservations: reservations(record),
            spec: json!(spec(&uid, record)),
            uid,
            problem: None,
            kept: record.kept.map(|kept| KeptOnDisk {
                since: condition::stored(kept.since),
                until: condition::stored(kept.until),
                over: kept.until <= now,
            }),
        },
        Err(error) => Orphan {
            size: Size::from_bytes(report.allocated),
            problem: Some(error.to_string()),
            uid,
            ..Default::default()
        },
    }
}

/// A record of an earlier version has only the name of the reservation. The reservation was at least as large as the
/// volume, and may have had the volume's role.
fn reservations(record: &Record) -> Vec<Reserved> {
    let spec = &record.spec;
    if spec.reservations.is_empty() {
        let size = Size::from_bytes(spec.size_bytes);
        let (name, role) = (spec.reservation.clone(), spec.role.clone());
        return vec![Reserved { name, role, size, ..Default::default() }];
    }
    let reserved = |of: &host::Reserved| Reserved {
        name: of.name.clone(),
        role: of.role.clone(),
        size: Size::from_bytes(of.size_bytes),
        labels: of.labels.clone(),
    };
    spec.reservations.iter().map(reserved).collect()
}

fn spec(uid: &str, record: &Record) -> SharedPersistentVolumeSpec {
    let was = &record.spec;
    let options = was.mount_options.iter().filter_map(|option| json!(option).as_str().map(str::to_owned));
    SharedPersistentVolumeSpec {
        role: was.role.clone(),
        size: Size::from_bytes(was.size_bytes),
        reservation: Some(was.reservation.clone()),
        shared: was.shared.then_some(Shared {}),
        sub_roles: if was.sub_roles_denied { SubRoles::Deny } else { SubRoles::Allow },
        volume_mode: if was.raw { VolumeMode::Block } else { VolumeMode::Filesystem },
        fs_type: match was.fs_type {
            host::FsType::Ext4 => FsType::Ext4,
            host::FsType::Xfs => FsType::Xfs,
            host::FsType::Btrfs => FsType::Btrfs,
        },
        adopt: was.adopt.as_ref().map(|path| Adopt { path: path.clone() }),
        recover: Some(Recover { uid: uid.to_owned() }),
        gid: was.gid.map(i64::from),
        // The permissions of an adopted directory are its own, and a raw device has none.
        permissions: was.mode.filter(|_| was.adopt.is_none() && !was.raw).map(|mode| format!("{mode:04o}")),
        mount_options: options.collect(),
        erase_policy: match was.erase_policy {
            Some(host::ErasePolicy::Zero) => ErasePolicy::Zero,
            Some(host::ErasePolicy::Discard) | None => ErasePolicy::Discard,
        },
        deletion_policy: DeletionPolicy::Refuse,
        verify: None,
        copies: None,
        // The content of a copy is a volume of its own from then on.
        copy_of: None,
        sealed: record.seal.as_ref().is_some_and(|seal| seal.content.is_some()),
        keep_for: was.keep_for.clone(),
        retire: false,
        principal: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X6. The space of an unreadable orphan is kept all the same.
    #[test]
    fn x6_an_unreadable_record_is_an_orphan_with_a_problem() {
        let uid: host::VolumeUid = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        let error = host::Error::NotFound("its record".to_owned());
        let report =
            VolumeReport { disk: "d".into(), disk_id: "i".into(), uid, allocated: 5, record: Err(error) };
        let orphan = orphan(&report, Timestamp::UNIX_EPOCH);
        assert_eq!(
            (orphan.size, orphan.reservations, orphan.name),
            (Size::from_bytes(5), vec![], String::new())
        );
        assert!(orphan.problem.unwrap().contains("its record"));
    }
}
