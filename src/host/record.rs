//! What a volume's journal says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ErasePolicy;
use super::error::{Error, Result};
use super::filesystem::FsType;
use super::options::MountOption;
use super::uid::VolumeUid;

/// The layout of the record that this code writes. It is raised only if older code must not touch what newer code
/// wrote; mere additions keep it, because unknown fields are carried along.
const VERSION: u32 = 1;

/// A volume as it is wanted, and all that is needed to rebuild its Kubernetes object from the disk (X6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// UID of the Kubernetes object; names the volume on the disk (S4).
    pub uid: VolumeUid,
    /// Name of the Kubernetes object. Never a path.
    pub name: String,
    /// The role that it belongs to.
    pub role: String,
    /// Name of the reservation that it lives in.
    pub reservation: String,
    /// That reservation, then those which it was carved out of; carried along, not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reserved>,
    /// Bytes of disk that it may take, no less than [`FsType::min_bytes`]; what is no whole block stays free.
    pub size_bytes: u64,
    /// Its filesystem.
    pub fs_type: FsType,
    /// Whether pods get the device itself, without a filesystem.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// Whether several pods may use it at once (V2); otherwise one pod at a time (M2).
    pub shared: bool,
    /// The directory that it is, data and all, instead of one that is made (V8); an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<String>,
    /// The volume whose data it gets, instead of being made: one that has no object any more (X6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<VolumeUid>,
    /// What its data is to become when it is erased; carried along, not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase_policy: Option<ErasePolicy>,
    /// Carried along, not looked at.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Group that owns the root directory, which is then setgid (V11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Permissions of the root directory (V12), e.g. `0o770`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Mount options from the safe list (V12); nosuid and nodev are always on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_options: Vec<MountOption>,
}

impl VolumeSpec {
    /// Refuses what cannot be made.
    pub(super) fn validate(&self) -> Result<()> {
        let (size, min) = (self.size_bytes, self.fs_type.min_bytes());
        let refusal = if size < min {
            format!("a volume with {} needs at least {min} bytes, {size} were asked for", self.fs_type)
        } else if i64::try_from(size).is_err() {
            format!("a volume has less than 2^63 bytes, {size} were asked for")
        } else if self.mode.is_some_and(|mode| mode & !0o3777 != 0) {
            "a volume's permissions are at most 3777 (octal)".to_owned()
        } else if self.gid.is_some_and(|gid| gid == 0 || i32::try_from(gid).is_err()) {
            "a volume's group is from 1 to 2147483647, as a pod's is".to_owned()
        } else if self.mount_options.contains(&MountOption::Noatime)
            && self.mount_options.contains(&MountOption::Strictatime)
        {
            "noatime and strictatime exclude each other".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::InvalidArgument(refusal))
    }

    /// What can never differ between two specs of one volume, as far as the disk is concerned.
    pub(super) fn same_volume(&self, other: &Self) -> bool {
        (self.size_bytes, self.fs_type, self.raw, self.shared, &self.adopt)
            == (other.size_bytes, other.fs_type, other.raw, other.shared, &other.adopt)
    }
}

/// A reservation as it was when that was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How far a volume is. Each state is written before what it announces is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Being allocated and formatted; it has never been mounted for anybody.
    Creating,
    /// Made. From here on it is never formatted again, whatever happens to it (V9).
    Ready,
    /// Being erased; there is no way back.
    Erasing,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// UID of the pod.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One use of a volume: a mount that was promised to the kubelet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The pod that uses it.
    pub pod: Pod,
    /// UID of the claim through which it does.
    pub claim_uid: String,
    /// Whether it may only read.
    pub read_only: bool,
    /// What newer versions wrote here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The journal of one volume: `volumes/<uid>/record.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Layout of this record.
    pub version: u32,
    /// The volume as it was asked for.
    #[serde(flatten)]
    pub spec: VolumeSpec,
    /// How far it is.
    pub state: State,
    /// Whether new users are refused (X2).
    #[serde(default)]
    pub fenced: bool,
    /// It is being made that large or small; what is on the disk may be either (V7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resizing: Option<u64>,
    /// The UID under which its file system was made, if it was another volume's then (X6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<VolumeUid>,
    /// The volume that is about to have its data: it has it as soon as the directory is called by that UID (X6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<VolumeUid>,
    /// Its uses, by target path.
    #[serde(default)]
    pub publishes: BTreeMap<String, Published>,
    /// What newer versions wrote here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Record {
    pub(super) fn new(spec: VolumeSpec) -> Self {
        Self {
            version: VERSION,
            spec,
            state: State::Creating,
            fenced: false,
            resizing: None,
            born: None,
            heir: None,
            publishes: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Reads a record of `uid`; anything else is kept as it is and reported.
    pub(super) fn parse(uid: &VolumeUid, bytes: &[u8]) -> Result<Self> {
        let corrupt = |reason: String| Error::Corrupt { what: format!("the record of volume {uid}"), reason };
        // The version first: a newer layout need not have our fields.
        let value: Value = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version <= u64::from(VERSION) => {}
            Some(version) => {
                return Err(Error::Unsupported(format!(
                    "the record of volume {uid} has version {version}, this agent knows {VERSION}: upgrade it"
                )));
            }
            None => return Err(corrupt("it has no version".to_owned())),
        }
        let mut record: Self = serde_json::from_value(value).map_err(|error| corrupt(error.to_string()))?;
        if record.heir.as_ref() == Some(uid) {
            record.inherit(uid);
        }
        if record.spec.uid != *uid {
            return Err(corrupt(format!("it belongs to volume {}", record.spec.uid)));
        }
        Ok(record)
    }

    /// Makes it the journal of its heir.
    fn inherit(&mut self, heir: &VolumeUid) {
        let before = std::mem::replace(&mut self.spec.uid, heir.clone());
        self.born.get_or_insert(before);
        self.heir = None;
        // Whoever kept new users out went with the object.
        self.fenced = self.state == State::Erasing;
    }

    /// The UUID of its file system.
    pub(super) fn born(&self) -> &VolumeUid {
        self.born.as_ref().unwrap_or(&self.spec.uid)
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|error| Error::Corrupt {
            what: format!("the record of volume {}", self.spec.uid),
            reason: error.to_string(),
        })
    }

    /// The pods that use it, for people: the first three, and how many more.
    pub(super) fn users(&self) -> String {
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

    const UID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn value() -> Value {
        json!({
            "version": 1, "uid": UID, "name": "a", "role": "eng", "reservation": "r", "sizeBytes": 1u64 << 40,
            "fsType": "ext4", "shared": true, "labels": {"k": "v"}, "state": "Ready", "fenced": false,
            "publishes": {"/t": {"pod": {"uid": "p", "namespace": "n", "name": "m"}, "claimUid": "c",
                "readOnly": true, "later": [1]}},
            "invented": {"tomorrow": u64::MAX}
        })
    }

    fn parse(value: &Value) -> Result<Record> {
        Record::parse(&UID.parse().unwrap(), value.to_string().as_bytes())
    }

    #[test]
    fn unknown_fields_come_back() {
        let record = parse(&value()).unwrap();
        let written: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
        assert_eq!(written, value());
    }

    #[test]
    fn what_is_not_a_record_is_an_error() {
        let with = |key: &str, new: Value| {
            let mut value = value();
            value[key] = new;
            parse(&value)
        };
        assert!(matches!(with("version", json!(2)), Err(Error::Unsupported(_))));
        assert!(matches!(with("version", json!(null)), Err(Error::Corrupt { .. })));
        assert!(matches!(with("state", json!("Melting")), Err(Error::Corrupt { .. })));
        assert!(matches!(with("uid", json!(UID.replace('f', "e"))), Err(Error::Corrupt { .. })));
        assert!(matches!(with("uid", json!("../../etc")), Err(Error::Corrupt { .. })));
        assert!(matches!(Record::parse(&UID.parse().unwrap(), b""), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn x6_a_record_is_its_heirs_as_soon_as_the_directory_is() {
        let (heir, other) = (UID.replace('0', "a"), UID.replace('0', "b"));
        let mut dying = value();
        dying["heir"] = json!(heir);
        let read =
            |uid: &str, value: &Value| Record::parse(&uid.parse().unwrap(), value.to_string().as_bytes());
        let before = parse(&dying).unwrap();
        assert_eq!((before.spec.uid.as_str(), before.born().as_str()), (UID, UID));
        let record = read(&heir, &dying).unwrap();
        assert_eq!(
            (record.spec.uid.as_str(), record.born().as_str(), &record.heir),
            (heir.as_str(), UID, &None)
        );
        assert!(matches!(read(&other, &dying), Err(Error::Corrupt { .. })));
        let mut again: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
        again["heir"] = json!(other);
        assert_eq!(
            read(&other, &again).unwrap().born().as_str(),
            UID,
            "the file system keeps its first UUID"
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
    fn users_are_named_once_and_shortly() {
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
                labels, gid: root.0, mode: root.1, mount_options: vec![MountOption::Noexec],
                reservations: vec![], recover: None, erase_policy: None,
            };
            let extra: Map<String, Value> = later.map(|n| ("later".to_owned(), n.into())).into_iter().collect();
            let published = |([uid, namespace, name, claim_uid], read_only): ([String; 4], bool)| {
                Published { pod: Pod { uid, namespace, name }, claim_uid, read_only, extra: extra.clone() }
            };
            let publishes = publishes.into_iter().map(|(at, by)| (at, published(by))).collect();
            let resizing = sizes.1;
            Record { fenced: flags[3], resizing, publishes, extra: extra.clone(), ..Record::new(spec) }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            let read = Record::parse(&record.spec.uid, &record.to_bytes().unwrap());
            prop_assert_eq!(read, Ok(record));
        }

        /// V10, V9.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let read = Record::parse(&UID.parse().unwrap(), &bytes);
            let refused = matches!(read, Err(Error::Corrupt { .. } | Error::Unsupported(_)));
            prop_assert!(refused);
        }

        /// V10, S4: what was damaged is refused, or is still a whole record of this volume.
        #[test]
        fn any_damage_is_survived(
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
