//! A StorageClass of ours: the volume for a PersistentVolumeClaim (P1, P6, F1).

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::api::{
    ANNOTATION_MADE_FOR, DRIVER, FIXED_MOUNT_OPTIONS, FsType, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID,
    MOUNT_OPTIONS, Role, Shared, SharedPersistentVolume, SharedPersistentVolumeSpec, Size, VolumeMode, keep,
    volume_for_pvc,
};

/// The parameter in which Kubernetes' own provisioner reads the file system.
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";

/// True if the class names our driver as its provisioner.
pub fn is_ours(class: &StorageClass) -> bool {
    class.provisioner == DRIVER
}

/// True if a volume of the class waits for its first pod, and is then made on the node that the scheduler chose.
pub fn is_delayed(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The spec of every volume of the class, without a size; or the error in the class.
pub fn of_class(class: &StorageClass) -> Result<SharedPersistentVolumeSpec, String> {
    let name = class.name_any();
    let wrong = |what: String| Err(format!("StorageClass {name} {what}; make the class anew"));
    let mut spec = SharedPersistentVolumeSpec { mount_options: mount_options(class)?, ..Default::default() };
    let mut fs_types = Vec::new();
    for (key, value) in class.parameters.iter().flatten() {
        match (key.as_str(), value.as_str()) {
            ("role", role) => spec.role = role.to_owned(),
            ("reservation", reservation) => spec.reservation = Some(reservation.to_owned()),
            ("shared", "true") => spec.shared = Some(Shared {}),
            ("shared", "false") => spec.shared = None,
            ("fsType" | FS_TYPE, fs_type) => fs_types.push((key, fs_type)),
            ("keepFor", time) if keep::parse(time).is_some() => spec.keep_for = Some(time.to_owned()),
            ("keepFor", other) => {
                return wrong(format!(
                    "says keepFor `{other}`, which is no duration of at most 8784h, such as 72h"
                ));
            }
            ("shared", other) => {
                return wrong(format!("says shared `{other}`, which is neither true nor false"));
            }
            (other, _) => {
                return wrong(format!(
                    "has the parameter `{other}`, which is none of role, shared, fsType, {FS_TYPE}, reservation, keepFor"
                ));
            }
        }
    }
    for (key, fs_type) in &fs_types {
        let known = [FsType::Ext4, FsType::Xfs, FsType::Btrfs];
        match known.into_iter().find(|known| known.name() == *fs_type) {
            Some(found) => spec.fs_type = found,
            None => return wrong(format!("says {key} `{fs_type}`, which is none of ext4, xfs, btrfs")),
        }
    }
    if let [(_, one), (_, other)] = fs_types[..]
        && one != other
    {
        return wrong(format!("says fsType and {FS_TYPE}, and they differ: `{other}` and `{one}`"));
    }
    if spec.role.is_empty() {
        return wrong("names no role in its parameters".to_owned());
    }
    match Role::parse(&spec.role) {
        Ok(_) => Ok(spec),
        Err(why) => wrong(format!("has no valid role: {why}")),
    }
}

/// The mount options of the class that are not those of every volume, or the reason why no volume can have them.
fn mount_options(class: &StorageClass) -> Result<Vec<String>, String> {
    let mut options = class.mount_options.clone().unwrap_or_default();
    options.retain(|option| !FIXED_MOUNT_OPTIONS.contains(&option.as_str()));
    match options.iter().find(|option| !MOUNT_OPTIONS.contains(&option.as_str())) {
        None => Ok(options),
        Some(other) => Err(format!(
            "StorageClass {} has the mount option `{}`, which is none of {}; make the class anew",
            class.name_any(),
            other.chars().take(64).collect::<String>(),
            MOUNT_OPTIONS.join(", ")
        )),
    }
}

/// The volume for a PersistentVolumeClaim, or the reason why no volume can be made.
pub fn volume(pvc: &PersistentVolumeClaim, class: &StorageClass) -> Result<SharedPersistentVolume, String> {
    let mut spec = of_class(class)?;
    let asked = pvc.spec.clone().unwrap_or_default();
    if asked.data_source.is_some() || asked.data_source_ref.is_some() {
        return Err("a new volume is empty: leave dataSource out, and let a pod copy the data into it".into());
    }
    if asked.selector.is_some() {
        return Err(
            "a selector chooses among existing volumes: leave it out, or make a VolumeClaim with one".into(),
        );
    }
    if asked.volume_mode.as_deref() == Some("Block") {
        spec.volume_mode = VolumeMode::Block;
        spec.mount_options.clear();
    }
    for mode in asked.access_modes.iter().flatten() {
        match (mode.as_str(), spec.shared) {
            ("ReadWriteOnce" | "ReadWriteOncePod", _) | ("ReadWriteMany", Some(_)) => {}
            ("ReadWriteMany", None) => {
                return Err(format!(
                    "volumes of StorageClass {} are exclusive: ask for ReadWriteOnce, or take a class with the parameter \
                     shared: \"true\"",
                    class.name_any()
                ));
            }
            (other, shared) => {
                let ask = match shared {
                    Some(_) => "ask for ReadWriteMany",
                    None => {
                        "ask for ReadWriteOnce, or take a class with the parameter shared: \"true\" and ask for ReadWriteMany"
                    }
                };
                return Err(format!(
                    "nobody could write to a new volume that is {other}: {ask}, and set readOnly in the pods that only read"
                ));
            }
        }
    }
    if let Some(why) = attributes_refused(pvc, "no volume is made") {
        return Err(why);
    }
    spec.size = Size::from_bytes(requested(pvc)?.max(spec.fs_type.min_bytes()));
    let uid = pvc.uid().unwrap_or_default();
    let mut volume = SharedPersistentVolume::new(&volume_for_pvc(&uid), spec);
    let labels = [(LABEL_PVC_UID, uid), (LABEL_CLAIM_NAMESPACE, pvc.namespace().unwrap_or_default())];
    volume.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
    let made_for = format!("{}/{}", pvc.namespace().unwrap_or_default(), pvc.name_any());
    volume.metadata.annotations = Some([(ANNOTATION_MADE_FOR.to_owned(), made_for)].into());
    Ok(volume)
}

/// True if no volume can be made for what the PersistentVolumeClaim itself asks for, by the words of the refusal: its class has no part
/// in them. For a caller who may not see the class.
pub fn is_refused_itself(pvc: &PersistentVolumeClaim, said: &str) -> bool {
    let name = pvc.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
    let faultless = |shared: &str| {
        let mut class = StorageClass { provisioner: DRIVER.to_owned(), ..Default::default() };
        class.metadata.name = Some(name.to_owned());
        let parameters = [("role", "role"), ("shared", shared)];
        class.parameters = Some(parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        class
    };
    ["true", "false"].iter().any(|shared| volume(pvc, &faultless(shared)).is_err_and(|why| why == said))
}

/// The bytes that a PersistentVolumeClaim requests, or the reason why no volume can have that size.
pub fn requested(pvc: &PersistentVolumeClaim) -> Result<u64, String> {
    let requests = pvc.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let asked =
        requests.and_then(|requests| requests.get("storage")).map(|q| q.0.clone()).unwrap_or_default();
    Size::written(asked)
        .bytes()
        .map_err(|why| format!("spec.resources.requests.storage: {why}; ask for another size"))
}

/// Refuses the VolumeAttributesClass that a PersistentVolumeClaim names; `outcome` says what becomes of the volume.
pub fn attributes_refused(pvc: &PersistentVolumeClaim, outcome: &str) -> Option<String> {
    let class = pvc.spec.as_ref()?.volume_attributes_class_name.as_ref()?;
    Some(format!(
        "a volume has no attributes that VolumeAttributesClass {class} could change, and {outcome}: leave \
         volumeAttributesClassName out"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::volume;
    use super::*;

    fn class(parameters: Value) -> StorageClass {
        from_value(json!({"metadata": {"name": "fast"}, "provisioner": DRIVER, "parameters": parameters,
            "volumeBindingMode": "WaitForFirstConsumer"}))
        .unwrap()
    }

    fn pvc(spec: Value) -> PersistentVolumeClaim {
        let mut whole =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        from_value(json!({"metadata": {"name": "data", "namespace": "team", "uid": "u"}, "spec": whole}))
            .unwrap()
    }

    #[test]
    fn p1_the_class_gives_the_spec_and_the_claim_the_size() {
        let made =
            volume(&pvc(json!({})), &class(json!({"role": "eng", "fsType": "xfs", "reservation": "r"})))
                .unwrap();
        assert_eq!((made.name_any().as_str(), made.spec.role.as_str()), ("pvc-u", "eng"));
        assert_eq!((made.spec.fs_type, made.spec.shared), (FsType::Xfs, None));
        assert_eq!((made.spec.reservation.as_deref(), made.spec.size.as_str()), (Some("r"), "1Gi"));
        for (fs_type, smallest) in [("ext4", "16Mi"), ("xfs", "300Mi")] {
            let asked = json!({"resources": {"requests": {"storage": "1"}}});
            let small = volume(&pvc(asked), &class(json!({"role": "eng", "fsType": fs_type}))).unwrap();
            assert_eq!(small.spec.size.as_str(), smallest);
        }
    }

    #[test]
    fn p6_a_refusal_says_the_next_step() {
        let eng = json!({"role": "eng"});
        let shared = json!({"role": "eng", "shared": "true"});
        for (parameters, spec, said) in [
            (json!({}), json!({}), Some("names no role in its parameters; make the class anew")),
            (
                json!({"role": "eng//ml"}),
                json!({}),
                Some("has no valid role: `eng//ml` is not a role name; write"),
            ),
            (json!({"role": "eng", "shared": "yes"}), json!({}), Some("neither true nor false")),
            (json!({"role": "eng", "fsType": "zfs"}), json!({}), Some("none of ext4, xfs, btrfs")),
            (json!({"role": "eng", FS_TYPE: "XFS"}), json!({}), Some("fstype `XFS`, which is none of ext4")),
            (json!({"role": "eng", FS_TYPE: "xfs", "fsType": "ext4"}), json!({}), Some("they differ")),
            (json!({"role": "eng", FS_TYPE: "xfs", "fsType": "xfs"}), json!({}), None),
            (json!({"role": "eng", "keepFor": "3 days"}), json!({}), Some("no duration of at most 8784h")),
            (json!({"role": "eng", "keepFor": "72h"}), json!({}), None),
            (json!({"role": "eng", "Shared": "true"}), json!({}), Some("has the parameter `Shared`")),
            (
                eng.clone(),
                json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}}),
                Some("is empty"),
            ),
            (
                eng.clone(),
                json!({"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "a"}}),
                Some("is empty"),
            ),
            (
                eng.clone(),
                json!({"selector": {"matchLabels": {"a": "b"}}}),
                Some("make a VolumeClaim with one"),
            ),
            (eng.clone(), json!({"accessModes": ["ReadWriteMany"]}), Some("ask for ReadWriteOnce")),
            (
                shared.clone(),
                json!({"accessModes": ["ReadOnlyMany"]}),
                Some("ReadOnlyMany: ask for ReadWriteMany, and set readOnly in the pods"),
            ),
            (
                eng.clone(),
                json!({"accessModes": ["ReadOnlyMany"]}),
                Some("ReadOnlyMany: ask for ReadWriteOnce, or take a class with the parameter shared"),
            ),
            (eng.clone(), json!({"resources": {"requests": {"storage": "8Ei"}}}), Some("larger than")),
            (eng.clone(), json!({"resources": {"requests": {"storage": "0"}}}), Some("positive")),
            (eng.clone(), json!({"resources": {"requests": {"storage": "33554432500m"}}}), None),
            (
                eng.clone(),
                json!({"volumeAttributesClassName": "gold"}),
                Some("leave volumeAttributesClassName out"),
            ),
            (shared.clone(), json!({"accessModes": ["ReadWriteMany", "ReadWriteOnce"]}), None),
            (shared, json!({"accessModes": ["ReadWriteOncePod"]}), None),
            (eng, json!({"volumeMode": "Block"}), None),
        ] {
            let done = volume(&pvc(spec.clone()), &class(parameters.clone()));
            match (&done, said) {
                (Ok(_), None) => {}
                (Err(why), Some(said)) => {
                    assert!(why.contains(said), "{parameters} {spec}: {why}");
                    // A tenant has to know whose the fault is.
                    let of_class = why.starts_with("StorageClass fast ");
                    let mut of_fast = pvc(spec.clone());
                    of_fast.spec.as_mut().unwrap().storage_class_name = Some("fast".into());
                    assert_eq!(is_refused_itself(&of_fast, why), !of_class, "{why}");
                }
                _ => panic!("{parameters} {spec}: {done:?}"),
            }
        }
    }

    #[test]
    fn f1_the_class_says_file_system_and_mount_options() {
        let of = |parameters: Value, options: &[&str]| {
            let mut class = class(parameters);
            class.mount_options = Some(options.iter().map(|option| (*option).to_owned()).collect());
            of_class(&class).map(|spec| (spec.fs_type, spec.mount_options))
        };
        let (eng, xfs) = (json!({"role": "eng"}), json!({"role": "eng", FS_TYPE: "xfs"}));
        assert_eq!(
            of(xfs, &["noexec", "noatime"]).unwrap(),
            (FsType::Xfs, vec!["noexec".into(), "noatime".into()])
        );
        assert_eq!(
            of(eng.clone(), &["nosuid", "nodev"]).unwrap(),
            (FsType::Ext4, vec![]),
            "V12: they are always on"
        );
        for option in ["discard", "suid", "noatime,suid", "", "NOATIME"] {
            let why = of(eng.clone(), &["noatime", option]).unwrap_err();
            assert!(
                why.contains(&format!("mount option `{option}`, which is none of noatime, nodiratime")),
                "{why}"
            );
        }
    }
}
