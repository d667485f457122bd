//! The volume record: everything that the agent remembers about one volume, in the volume's own directory.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::host::error::{Error, Result};
use crate::host::types::seal::Seal;
use crate::host::types::spec::VolumeSpec;
use crate::host::types::uid::VolumeUid;

/// The version of the record's layout. A new version is needed only if older agents must not touch the record. Older
/// agents preserve unknown fields, so a new field needs no new version.
const VERSION: u32 = 1;

/// The progress of a volume. The agent records each state before the change that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Allocation and formatting are under way; no pod has ever mounted the volume.
    Creating,
    /// Made. From now on the volume is never formatted again (V9).
    Ready,
    /// Erase under way; it cannot be undone.
    Erasing,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// UID of the pod.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
}

/// One use of a volume: a mount that the kubelet asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The pod that uses the volume.
    pub pod: Pod,
    /// UID of the pod's claim.
    pub claim_uid: String,
    /// The mount is read-only.
    pub read_only: bool,
    /// It is so because the volume is sealed or was being sealed: the pod's claim is for writing (E1).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_seal: bool,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The end of a volume whose data is kept for an undo (X8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Time of the record, by the node's clock.
    pub since: Timestamp,
    /// The data is kept until then, by the node's clock.
    pub until: Timestamp,
}

/// The record of one volume: `volumes/<uid>/record.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Layout of this record.
    pub version: u32,
    /// The requested volume.
    #[serde(flatten)]
    pub spec: VolumeSpec,
    /// The volume's progress.
    pub state: State,
    /// New users are refused (X2).
    #[serde(default)]
    pub fenced: bool,
    /// The target of a resize under way; the disk may have either size (V7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resizing: Option<u64>,
    /// The UUID of a filesystem that was made for another volume (X6).
    #[serde(default, rename = "born", skip_serializing_if = "Option::is_none")]
    pub made_as: Option<VolumeUid>,
    /// The volume that is about to inherit the data. The heir has the data once the directory has the heir's UID
    /// (X6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<VolumeUid>,
    /// The volume was destroyed by an accepted DELETE, and its data is kept (X8, X9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// The volume admits no writer any more, and may be sealed (E1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
    /// The volume's uses, by target path.
    #[serde(default)]
    pub publishes: BTreeMap<String, Published>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Record {
    pub(crate) fn new(spec: VolumeSpec) -> Self {
        Self {
            version: VERSION,
            spec,
            state: State::Creating,
            fenced: false,
            resizing: None,
            made_as: None,
            heir: None,
            kept: None,
            seal: None,
            publishes: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Parses a record of `uid`. Anything else is an error, and the file stays unchanged.
    pub(crate) fn parse(uid: &VolumeUid, bytes: &[u8]) -> Result<Self> {
        let corrupt = |reason: String| Error::corrupt(format!("the record of volume {uid}"), reason);
        // The version is read first: a newer layout may lack this version's fields.
        let value: Value = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version <= u64::from(VERSION) => {}
            Some(version) => return Err(Error::RecordTooNew { uid: uid.clone(), version, known: VERSION }),
            None => return Err(corrupt("it has no version".to_owned())),
        }
        let mut record: Self = serde_json::from_value(value).map_err(|error| corrupt(error.to_string()))?;
        if record.heir.as_ref() == Some(uid) {
            record.pass_to(uid);
        }
        if record.spec.uid != *uid {
            return Err(corrupt(format!("it belongs to volume {}", record.spec.uid)));
        }
        Ok(record)
    }

    /// Turns this record into the heir's record.
    fn pass_to(&mut self, heir: &VolumeUid) {
        let before = std::mem::replace(&mut self.spec.uid, heir.clone());
        self.made_as.get_or_insert(before);
        (self.heir, self.kept) = (None, None);
        // The fence belonged to the deletion of the lost object.
        self.fenced = self.state == State::Erasing;
    }

    /// True if the volume is sealed for good (E1).
    pub(crate) fn is_sealed(&self) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.content.is_some())
    }

    /// True if the volume's filesystem itself is read-only, for every mount of it (E1).
    pub(crate) fn is_filesystem_read_only(&self) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.filesystem_read_only)
    }

    /// The UUID of the volume's filesystem.
    pub(crate) fn filesystem_uuid(&self) -> &VolumeUid {
        self.made_as.as_ref().unwrap_or(&self.spec.uid)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|error| {
            Error::corrupt(format!("the record of volume {}", self.spec.uid), error.to_string())
        })
    }

    /// The pods that use the volume, for messages: the first three, and the number of the others.
    pub(crate) fn users(&self) -> String {
        let mut pods: Vec<_> =
            self.publishes.values().map(|p| format!("{}/{}", p.pod.namespace, p.pod.name)).collect();
        pods.sort();
        pods.dedup();
        let more = pods.len().saturating_sub(3);
        pods.truncate(3);
        match more {
            0 => pods.join(", "),
            _ => format!("{} and {more} more", pods.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::host::types::fs_type::FsType;
    use crate::host::types::mount_options::MountOption;

    const UID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn value() -> Value {
        json!({
            "version": 1, "uid": UID, "name": "a", "role": "eng", "reservation": "r", "sizeBytes": 1u64 << 40,
            "fsType": "ext4", "shared": true, "labels": {"k": "v"}, "state": "Ready", "fenced": false, "born": UID,
            "seal": {"filesystemReadOnly": true, "content": {"digest": "blake3:00", "files": 1, "bytes": 2}},
            "publishes": {"/t": {"pod": {"uid": "p", "namespace": "n", "name": "m"}, "claimUid": "c",
                "readOnly": true, "later": [1]}},
            "invented": {"tomorrow": u64::MAX}
        })
    }

    fn parse(value: &Value) -> Result<Record> {
        Record::parse(&UID.parse().unwrap(), value.to_string().as_bytes())
    }

    /// X6: records of an earlier version call the UUID of an inherited filesystem `born`.
    #[test]
    fn x6_the_uuid_of_an_inherited_filesystem_is_called_born() {
        let record = parse(&value()).unwrap();
        assert_eq!(record.made_as, Some(UID.parse().unwrap()));
        assert_eq!(serde_json::to_value(&record).unwrap()["born"], UID);
    }

    #[test]
    fn unknown_fields_come_back() {
        let record = parse(&value()).unwrap();
        let written: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
        assert_eq!(written, value());
    }

    /// V9: whatever is in the file, it is a record of this volume or an error, and what was read is written again.
    #[test]
    fn fuzz_volume_records() {
        let (uid, seed) = (UID.parse().unwrap(), value().to_string());
        let heir = seed.replace("\"born\"", "\"heir\"");
        crate::fuzz::fuzz(
            "volume-records",
            &[seed.as_bytes(), heir.as_bytes()],
            |bytes| match Record::parse(&uid, bytes) {
                Ok(record) => {
                    assert_eq!(record.spec.uid, uid);
                    // Of numbers beyond 64 bits in fields of newer versions, JSON keeps about seventeen digits.
                    let known = |record: &Record| {
                        let mut record = Record { extra: Map::new(), ..record.clone() };
                        record.publishes.values_mut().for_each(|published| published.extra.clear());
                        record
                    };
                    let again = Record::parse(&uid, &record.to_bytes().unwrap()).unwrap();
                    assert_eq!(known(&again), known(&record));
                    assert!(again.extra.keys().eq(record.extra.keys()), "unknown fields come back");
                    let (spec, state) =
                        (record.spec.validate().map_err(crate::fuzz::words), record.state as u8);
                    Ok((spec, state, record.fenced, record.kept.is_some(), record.publishes.len().min(3)))
                }
                Err(error) => Err(crate::fuzz::words(error)),
            },
        );
    }

    #[test]
    fn another_file_is_no_record() {
        let with = |key: &str, new: Value| {
            let mut value = value();
            value[key] = new;
            parse(&value)
        };
        assert!(matches!(with("version", json!(2)), Err(Error::RecordTooNew { .. })));
        assert!(matches!(with("version", json!(null)), Err(Error::Corrupt { .. })));
        assert!(matches!(with("state", json!("Melting")), Err(Error::Corrupt { .. })));
        assert!(matches!(with("uid", json!(UID.replace('f', "e"))), Err(Error::Corrupt { .. })));
        assert!(matches!(with("uid", json!("../../etc")), Err(Error::Corrupt { .. })));
        assert!(matches!(Record::parse(&UID.parse().unwrap(), b""), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn x6_a_record_belongs_to_the_heir_with_the_directory() {
        let (heir, other) = (UID.replace('0', "a"), UID.replace('0', "b"));
        let mut dying = value();
        dying["heir"] = json!(heir);
        let read =
            |uid: &str, value: &Value| Record::parse(&uid.parse().unwrap(), value.to_string().as_bytes());
        let before = parse(&dying).unwrap();
        assert_eq!((before.spec.uid.as_str(), before.filesystem_uuid().as_str()), (UID, UID));
        let record = read(&heir, &dying).unwrap();
        assert_eq!(
            (record.spec.uid.as_str(), record.filesystem_uuid().as_str(), &record.heir),
            (heir.as_str(), UID, &None)
        );
        assert!(matches!(read(&other, &dying), Err(Error::Corrupt { .. })));
        let mut again: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
        again["heir"] = json!(other);
        assert_eq!(
            read(&other, &again).unwrap().filesystem_uuid().as_str(),
            UID,
            "the filesystem keeps its first UUID"
        );
    }

    #[test]
    fn sizes_are_checked() {
        let spec = parse(&value()).unwrap().spec;
        let with = |size_bytes: u64| VolumeSpec { size_bytes, ..spec.clone() }.validate();
        assert!(with(16 << 20).is_ok() && with(1_500_000_000).is_ok());
        for size in [0, 4096, (16 << 20) - 1, 1 << 63, u64::MAX] {
            assert!(matches!(with(size), Err(Error::InvalidArgument(_))), "{size}");
        }
    }

    #[test]
    fn three_pods_are_named_each_once() {
        let mut record = parse(&value()).unwrap();
        assert_eq!(record.users(), "n/m");
        let one = record.publishes["/t"].clone();
        for i in 0..5 {
            let pod = Pod { name: format!("p{i}"), ..one.pod.clone() };
            record.publishes.insert(format!("/{i}"), Published { pod, ..one.clone() });
        }
        assert_eq!(record.users(), "n/m, n/p0, n/p1 and 3 more");
    }

    prop_compose! {
        fn record()(
            sizes in any::<(u64, Option<u64>)>(),
            flags in any::<[bool; 4]>(),
            texts in any::<[String; 3]>(),
            labels in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4),
            root in any::<(Option<u32>, Option<u32>)>(),
            adopt in any::<Option<String>>(),
            publishes in proptest::collection::btree_map(any::<String>(), any::<([String; 4], bool)>(), 0..4),
            later in any::<Option<u64>>(),
        ) -> Record {
            let [name, role, reservation] = texts;
            let spec = VolumeSpec {
                uid: UID.parse().unwrap(), name, role, reservation, size_bytes: sizes.0,
                fs_type: if flags[0] { FsType::Xfs } else { FsType::Ext4 }, raw: flags[1], shared: flags[2], adopt,
                sub_roles_denied: flags[1] != flags[2],
                labels, gid: root.0, mode: root.1, mount_options: vec![MountOption::Noexec],
                reservations: vec![], recover: None, erase_policy: None, keep_for: None, made_for: None,
            };
            let extra: Map<String, Value> = later.map(|n| ("later".to_owned(), n.into())).into_iter().collect();
            let published = |([uid, namespace, name, claim_uid], read_only): ([String; 4], bool)| {
                Published { pod: Pod { uid, namespace, name }, claim_uid, read_only, by_seal: read_only, extra: extra.clone() }
            };
            let publishes = publishes.into_iter().map(|(at, by)| (at, published(by))).collect();
            let resizing = sizes.1;
            Record { fenced: flags[3], resizing, publishes, extra: extra.clone(), ..Record::new(spec) }
        }
    }

    proptest! {
        #[test]
        fn a_written_record_is_read_back(record in record()) {
            let read = Record::parse(&record.spec.uid, &record.to_bytes().unwrap());
            prop_assert_eq!(read, Ok(record));
        }

        /// V10, V9.
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let read = Record::parse(&UID.parse().unwrap(), &bytes);
            let refused = matches!(read, Err(Error::Corrupt { .. } | Error::RecordTooNew { .. }));
            prop_assert!(refused);
        }

        /// V10, S4. A damaged record is refused, or is still a complete record of this volume.
        #[test]
        fn a_damaged_record_is_refused_or_complete(
            record in record(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
        ) {
            let mut bytes = record.to_bytes().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(read) = Record::parse(&record.spec.uid, &bytes) {
                prop_assert!(read.version <= VERSION && read.spec.uid == record.spec.uid);
                prop_assert_eq!(Record::parse(&read.spec.uid, &read.to_bytes().unwrap()), Ok(read));
            }
        }
    }
}
