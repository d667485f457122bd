//! What is said of data that has no object any more (S14, X6).

use serde_json::json;

use crate::api::{
    Adopt, ErasePolicy, FsType, Orphan, Recover, Reserved, Shared, SharedPersistentVolumeSpec, Size,
    VolumeMode,
};
use crate::host::{self, Record, VolumeReport};

/// What is told of one takes no more than this: all of them are in one object, which the API server keeps to 1.5 MiB.
const MOST_BYTES: usize = 8 << 10;

/// Everything that its journal knows, so that nothing has to be guessed when it becomes a volume again; without the labels
/// where these are too many.
pub(super) fn orphan(report: &VolumeReport) -> Orphan {
    let mut orphan = told(report);
    if json!(orphan).to_string().len() > MOST_BYTES {
        orphan.labels.clear();
        orphan.reservations.iter_mut().for_each(|reservation| reservation.labels.clear());
    }
    orphan
}

fn told(report: &VolumeReport) -> Orphan {
    let uid = report.uid.as_str().to_owned();
    match &report.record {
        Ok(record) => Orphan {
            size: Size::from_bytes(record.spec.size_bytes),
            name: record.spec.name.clone(),
            labels: record.spec.labels.clone(),
            reservations: reservations(record),
            spec: json!(spec(&uid, record)),
            uid,
            problem: None,
        },
        Err(error) => Orphan {
            size: Size::from_bytes(report.allocated),
            problem: Some(error.to_string()),
            uid,
            ..Default::default()
        },
    }
}

/// A journal of an earlier version has but the name of the reservation: it had the volume's size at least, and may have
/// had the volume's role.
fn reservations(record: &Record) -> Vec<Reserved> {
    let spec = &record.spec;
    if spec.reservations.is_empty() {
        let size = Size::from_bytes(spec.size_bytes);
        let (name, role) = (spec.reservation.clone(), spec.role.clone());
        return vec![Reserved { name, role, size, ..Default::default() }];
    }
    let noted = |of: &host::Reserved| Reserved {
        name: of.name.clone(),
        role: of.role.clone(),
        size: Size::from_bytes(of.size_bytes),
        labels: of.labels.clone(),
    };
    spec.reservations.iter().map(noted).collect()
}

fn spec(uid: &str, record: &Record) -> SharedPersistentVolumeSpec {
    let was = &record.spec;
    let options = was.mount_options.iter().filter_map(|option| json!(option).as_str().map(str::to_owned));
    SharedPersistentVolumeSpec {
        role: was.role.clone(),
        size: Size::from_bytes(was.size_bytes),
        reservation: Some(was.reservation.clone()),
        shared: was.shared.then_some(Shared {}),
        volume_mode: if was.raw { VolumeMode::Block } else { VolumeMode::Filesystem },
        fs_type: match was.fs_type {
            host::FsType::Ext4 => FsType::Ext4,
            host::FsType::Xfs => FsType::Xfs,
            host::FsType::Btrfs => FsType::Btrfs,
        },
        adopt: was.adopt.as_ref().map(|path| Adopt { path: path.clone() }),
        recover: Some(Recover { uid: uid.to_owned() }),
        gid: was.gid.map(i64::from),
        // What an adopted directory has is its own, and a raw device has none.
        permissions: was.mode.filter(|_| was.adopt.is_none() && !was.raw).map(|mode| format!("{mode:04o}")),
        mount_options: options.collect(),
        erase_policy: match was.erase_policy {
            Some(host::ErasePolicy::Zero) => ErasePolicy::Zero,
            Some(host::ErasePolicy::Discard) | None => ErasePolicy::Discard,
        },
        retire: false,
        principal: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X6. What cannot be read is reported all the same, and takes its room.
    #[test]
    fn an_unreadable_journal_is_an_orphan_with_a_problem() {
        let uid: host::VolumeUid = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        let error = host::Error::NotFound("its journal".to_owned());
        let report =
            VolumeReport { disk: "d".into(), disk_id: "i".into(), uid, allocated: 5, record: Err(error) };
        let said = orphan(&report);
        assert_eq!((said.size, said.reservations, said.name), (Size::from_bytes(5), vec![], String::new()));
        assert!(said.problem.unwrap().contains("its journal"));
    }
}
