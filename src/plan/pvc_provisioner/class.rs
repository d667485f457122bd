//! A StorageClass of ours: the volume and the claim for a PersistentVolumeClaim, and the reservation for them (P1, P2,
//! P6).

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::api::{
    DRIVER, DiskReservation, FsType, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, NodeDisk, Shared,
    SharedPersistentVolume, SharedPersistentVolumeSpec, Size, VolumeClaim, VolumeClaimSpec, VolumeMode,
    volume_for_pvc,
};
use crate::plan::create;

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
    let mut spec = SharedPersistentVolumeSpec {
        mount_options: class.mount_options.clone().unwrap_or_default(),
        ..Default::default()
    };
    for (key, value) in class.parameters.iter().flatten() {
        match (key.as_str(), value.as_str()) {
            ("role", role) => spec.role = role.to_owned(),
            ("reservation", reservation) => spec.reservation = Some(reservation.to_owned()),
            ("shared", "true") => spec.shared = Some(Shared {}),
            ("shared", "false") => spec.shared = None,
            ("fsType", "ext4") => spec.fs_type = FsType::Ext4,
            ("fsType", "xfs") => spec.fs_type = FsType::Xfs,
            ("fsType", "btrfs") => spec.fs_type = FsType::Btrfs,
            ("shared", other) => {
                return wrong(format!("says shared `{other}`, which is neither true nor false"));
            }
            ("fsType", other) => {
                return wrong(format!("says fsType `{other}`, which is none of ext4, xfs, btrfs"));
            }
            (other, _) => {
                return wrong(format!(
                    "has the parameter `{other}`, which is none of role, shared, fsType, reservation"
                ));
            }
        }
    }
    if spec.role.is_empty() {
        return wrong("names no role in its parameters".to_owned());
    }
    if class.allowed_topologies.is_some() && !is_delayed(class) {
        return wrong(
            "has allowedTopologies, which count only with volumeBindingMode WaitForFirstConsumer".into(),
        );
    }
    Ok(spec)
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
            (other, _) => {
                return Err(format!(
                    "nobody could write to a new volume that is {other}: ask for ReadWriteMany, and set readOnly in the pods \
                     that only read"
                ));
            }
        }
    }
    if let Some(why) = attributes_refused(pvc) {
        return Err(why);
    }
    spec.size = Size::from_bytes(requested(pvc)?.max(spec.fs_type.min_bytes()));
    let uid = pvc.uid().unwrap_or_default();
    let mut volume = SharedPersistentVolume::new(&volume_for_pvc(&uid), spec);
    let labels = [(LABEL_PVC_UID, uid), (LABEL_CLAIM_NAMESPACE, pvc.namespace().unwrap_or_default())];
    volume.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
    Ok(volume)
}

/// The bytes that a PersistentVolumeClaim requests, or the reason why no volume can have that size.
pub fn requested(pvc: &PersistentVolumeClaim) -> Result<u64, String> {
    let requests = pvc.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let asked =
        requests.and_then(|requests| requests.get("storage")).map(|q| q.0.clone()).unwrap_or_default();
    Size::written(asked)
        .bytes_rounded_up()
        .map_err(|why| format!("spec.resources.requests.storage: {why}; ask for another size"))
}

/// Refuses the VolumeAttributesClass that a PersistentVolumeClaim names.
pub fn attributes_refused(pvc: &PersistentVolumeClaim) -> Option<String> {
    let class = pvc.spec.as_ref()?.volume_attributes_class_name.as_ref()?;
    Some(format!(
        "a volume has no attributes that VolumeAttributesClass {class} could change: leave volumeAttributesClassName out"
    ))
}

/// The claim to the volume, in the namespace and with the name of the PersistentVolumeClaim.
pub fn claim(pvc: &PersistentVolumeClaim, volume: &SharedPersistentVolume) -> VolumeClaim {
    let spec = VolumeClaimSpec {
        role: volume.spec.role.clone(),
        volume: Some(volume.name_any()),
        ..Default::default()
    };
    let mut claim = VolumeClaim::new(&pvc.name_any(), spec);
    claim.metadata.namespace = pvc.namespace();
    claim.metadata.labels = pvc.uid().map(|uid| [(LABEL_PVC_UID.to_owned(), uid)].into());
    claim
}

/// The reservation on the node for the volume, chosen as for any other volume; `None`: no reservation has enough free
/// space.
pub fn place(
    volume: &SharedPersistentVolume,
    node: &str,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
    disk_ready: impl Fn(&str) -> bool,
) -> Option<String> {
    let is_there = |r: &&&DiskReservation| {
        r.status.as_ref().is_some_and(|status| {
            status.node_name.as_deref() == Some(node) && status.node_disk.as_deref().is_some_and(&disk_ready)
        })
    };
    let there: Vec<&DiskReservation> = reservations.iter().filter(is_there).copied().collect();
    create::choose(volume, &there, disks).ok().map(ResourceExt::name_any)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use super::{claim, volume};
    use crate::plan::testing::reserved;

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
        let claim = claim(&pvc(json!({})), &made);
        assert_eq!((claim.name_any().as_str(), claim.spec.volume.as_deref()), ("data", Some("pvc-u")));
        assert!(super::super::is_own(&claim, &made));
        let mut elsewhere = claim.clone();
        elsewhere.metadata.namespace = Some("other".into());
        assert!(!super::super::is_own(&elsewhere, &made));
        assert!(!super::super::is_own(
            &super::claim(&pvc(json!({})), &made),
            &crate::plan::testing::volume("pvc-u", "eng", 1)
        ));
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
            (json!({"role": "eng", "shared": "yes"}), json!({}), Some("neither true nor false")),
            (json!({"role": "eng", "fsType": "zfs"}), json!({}), Some("none of ext4, xfs, btrfs")),
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
            (shared.clone(), json!({"accessModes": ["ReadOnlyMany"]}), Some("set readOnly in the pods")),
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
                (Err(why), Some(said)) => assert!(why.contains(said), "{parameters} {spec}: {why}"),
                _ => panic!("{parameters} {spec}: {done:?}"),
            }
        }
    }

    #[test]
    fn p2_a_volume_is_placed_in_the_nearest_role_with_free_space() {
        let mut far = reserved("far", "eng", 5, &[("x", 4)]);
        far.status.as_mut().unwrap().node_name = Some("n2".into());
        let all = [
            reserved("near", "eng/ml", 4, &[("x", 1)]),
            reserved("above", "eng", 10, &[]),
            reserved("others", "ops", 50, &[]),
            far,
        ];
        let all: Vec<_> = all.iter().collect();
        let wish = |gi| crate::plan::testing::volume("pvc-u", "eng/ml", gi);
        let at = |gi, node: &str| place(&wish(gi), node, &all, &[], |_| true);
        assert_eq!((at(1, "n1").as_deref(), at(4, "n1").as_deref()), (Some("near"), Some("above")));
        assert_eq!((at(11, "n1"), at(1, "n2").as_deref(), at(2, "n2")), (None, Some("far"), None));
        let named = |name: &str| {
            let mut wish = wish(1);
            wish.spec.reservation = Some(name.into());
            place(&wish, "n1", &all, &[], |_| true)
        };
        assert_eq!((named("above").as_deref(), named("others")), (Some("above"), None));
    }
}
