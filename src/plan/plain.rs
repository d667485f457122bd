//! Plain PersistentVolumeClaims: what a StorageClass of ours makes of one, where, and what becomes of it (P1–P6).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Resource, ResourceExt};

use crate::api::{
    DRIVER, DiskReservation, FsType, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, NodeDisk, Shared,
    SharedPersistentVolume, SharedPersistentVolumeSpec, Size, VolumeClaim, VolumeClaimSpec, VolumeMode,
    volume_for_pvc,
};

use super::create::{self, could_hold, free};
use super::resize::size_now;

/// Annotation by which the scheduler says for which node it wants the volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Whether volumes of the class are ours to make.
pub fn is_ours(class: &StorageClass) -> bool {
    class.provisioner == DRIVER
}

/// Whether a volume of the class is made only when a pod wants it, and for the node that the scheduler chose.
pub fn is_delayed(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The UID of the PersistentVolumeClaim that a volume or a claim was made for.
pub fn pvc_of<K: Resource>(object: &K) -> Option<&str> {
    object.labels().get(LABEL_PVC_UID).map(String::as_str)
}

/// Whether the volume and the claim were made for the same PersistentVolumeClaim: then the claim needs no subscription, and
/// the volume, if it is exclusive, is for nobody else.
pub fn is_own(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> bool {
    pvc_of(claim).is_some()
        && pvc_of(claim) == pvc_of(volume)
        && claim.namespace().as_ref() == volume.labels().get(LABEL_CLAIM_NAMESPACE)
}

/// What every volume of the class is: its spec with no size yet, or what is wrong with the class.
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

/// The volume that is made for a PersistentVolumeClaim, or why none can be.
pub fn volume(pvc: &PersistentVolumeClaim, class: &StorageClass) -> Result<SharedPersistentVolume, String> {
    let mut spec = of_class(class)?;
    let asked = pvc.spec.clone().unwrap_or_default();
    if asked.data_source.is_some() || asked.data_source_ref.is_some() {
        return Err(
            "a new volume is empty: leave dataSource out, and have a pod copy what is to be in it".into()
        );
    }
    if asked.selector.is_some() {
        return Err(
            "a selector chooses among volumes that are there: leave it out, or make a VolumeClaim with one"
                .into(),
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
    let requests = asked.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let asked = Size::written(requests.get("storage").map(|q| q.0.clone()).unwrap_or_default());
    let bytes = asked.bytes().map_err(|error| error.to_string())?;
    spec.size = Size::from_bytes(bytes.max(spec.fs_type.min_bytes()));
    let uid = pvc.uid().unwrap_or_default();
    let mut volume = SharedPersistentVolume::new(&volume_for_pvc(&uid), spec);
    let labels = [(LABEL_PVC_UID, uid), (LABEL_CLAIM_NAMESPACE, pvc.namespace().unwrap_or_default())];
    volume.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
    Ok(volume)
}

/// The claim by which the namespace of the PersistentVolumeClaim has the volume; it has the same name.
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

/// Why a VolumeClaim that has the name of a PersistentVolumeClaim is not the one that is made for it; `None`: it is.
pub fn in_the_way(claim: &VolumeClaim, pvc: &PersistentVolumeClaim) -> Option<String> {
    let name = claim.name_any();
    let ours = pvc_of(claim).is_some() && pvc_of(claim) == pvc.metadata.uid.as_deref();
    match (ours, claim.metadata.deletion_timestamp.is_some()) {
        (true, false) => None,
        (true, true) => Some(format!(
            "VolumeClaim {name}, which goes with this PersistentVolumeClaim alone, was deleted: delete this one too, and make it \
             anew"
        )),
        (false, false) if pvc_of(claim).is_none() => {
            Some(format!("a VolumeClaim {name} that is another's is in the way: delete it"))
        }
        (false, _) => Some(format!("a VolumeClaim {name} from before has not gone yet; it is waited for")),
    }
}

/// What schedulers are told of a node: all that volumes of a class may still take there, and how much one may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// In all reservations together.
    pub total: u64,
    /// In the one that has most.
    pub largest: u64,
}

/// The room for volumes such as this one, whatever its size, on each node where there is a reservation for them.
pub fn rooms(
    volume: &SharedPersistentVolume,
    reservations: &[&DiskReservation],
    disks: &[&NodeDisk],
    disk_ready: impl Fn(&str) -> bool,
) -> BTreeMap<String, Room> {
    let mut rooms: BTreeMap<String, Room> = BTreeMap::new();
    for reservation in reservations.iter().filter(|r| could_hold(volume, r, disks)) {
        let Some(status) = &reservation.status else { continue };
        let (Some(node), Some(disk)) = (&status.node_name, &status.node_disk) else { continue };
        let room = rooms.entry(node.clone()).or_default();
        let free = if disk_ready(disk) { free(reservation) } else { 0 };
        room.total = room.total.saturating_add(free);
        room.largest = room.largest.max(free);
    }
    rooms
}

/// The reservation on the node that the volume is to be taken from, chosen as for any other volume; `None`: none has room.
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

/// The size that a volume is to have because its PersistentVolumeClaim asks for more than it does; it never shrinks by that.
pub fn grown(requested: u64, volume: &SharedPersistentVolume) -> Option<Size> {
    let has = volume.spec.size.bytes_or_zero().max(size_now(volume).bytes_or_zero());
    (requested > has).then(|| Size::from_bytes(requested))
}

/// What becomes of a volume when its PersistentVolumeClaim is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is destroyed as soon as nobody uses it.
    Retire,
    /// It stays, like any other volume.
    Keep,
}

/// The PersistentVolume has the word, so that it can be changed there. If there cannot have been one, no pod ever got to the
/// volume; if there may have been, who knows what it said.
pub fn fate(pv: Option<&PersistentVolume>, may_have_had_one: bool) -> Fate {
    let policy = pv.and_then(|pv| pv.spec.as_ref()?.persistent_volume_reclaim_policy.as_deref());
    match (policy, may_have_had_one) {
        (Some("Delete"), _) | (None, false) => Fate::Retire,
        _ => Fate::Keep,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use super::{claim, volume};
    use crate::plan::testing::{gi, ready_volume, reserved};

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
    fn p1_the_class_says_what_the_volume_is_and_the_claim_how_large() {
        let made =
            volume(&pvc(json!({})), &class(json!({"role": "eng", "fsType": "xfs", "reservation": "r"})))
                .unwrap();
        assert_eq!((made.name_any().as_str(), made.spec.role.as_str()), ("pvc-u", "eng"));
        assert_eq!((made.spec.fs_type, made.spec.shared), (FsType::Xfs, None));
        assert_eq!((made.spec.reservation.as_deref(), made.spec.size.as_str()), (Some("r"), "1Gi"));
        let claim = claim(&pvc(json!({})), &made);
        assert_eq!((claim.name_any().as_str(), claim.spec.volume.as_deref()), ("data", Some("pvc-u")));
        assert!(is_own(&claim, &made));
        let mut elsewhere = claim.clone();
        elsewhere.metadata.namespace = Some("other".into());
        assert!(!is_own(&elsewhere, &made));
        assert!(!is_own(
            &super::claim(&pvc(json!({})), &made),
            &crate::plan::testing::volume("pvc-u", "eng", 1)
        ));
        for (fs_type, least) in [("ext4", "16Mi"), ("xfs", "300Mi")] {
            let asked = json!({"resources": {"requests": {"storage": "1"}}});
            let small = volume(&pvc(asked), &class(json!({"role": "eng", "fsType": fs_type}))).unwrap();
            assert_eq!(small.spec.size.as_str(), least);
        }
    }

    #[test]
    fn p6_a_claim_of_its_name_is_its_own_in_the_way_or_on_its_way_out() {
        let pvc = pvc(json!({}));
        let of = |uid: Option<&str>, deleted: bool| {
            let mut claim = crate::plan::testing::claim("team", "data", "v");
            claim.metadata.labels = uid.map(|uid| [(LABEL_PVC_UID.to_owned(), uid.to_owned())].into());
            claim.metadata.deletion_timestamp = deleted.then(crate::plan::testing::some_time).flatten();
            in_the_way(&claim, &pvc).unwrap_or_default()
        };
        assert_eq!(of(Some("u"), false), "");
        assert!(of(Some("u"), true).contains("delete this one too"));
        assert!(of(None, false).contains("that is another's is in the way: delete it"));
        for (uid, deleted) in [(None, true), (Some("earlier"), false), (Some("earlier"), true)] {
            assert!(of(uid, deleted).contains("it is waited for"), "{uid:?} {deleted}");
        }
    }

    #[test]
    fn p6_what_cannot_be_is_refused_with_the_next_step() {
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

    /// P2.
    #[test]
    fn p2_there_is_room_where_a_reservation_of_the_role_or_above_has_some() {
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
        let gib = |total: u64, largest: u64| Room { total: total << 30, largest: largest << 30 };
        let found = rooms(&wish(1), &all, &[], |_| true);
        assert_eq!(found, [("n1".to_owned(), gib(13, 10)), ("n2".to_owned(), gib(1, 1))].into());
        assert_eq!(
            rooms(&wish(1), &all, &[], |_| false)["n1"],
            gib(0, 0),
            "D4: nothing on a disk that is not there"
        );
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

    #[test]
    fn p3_p4_it_grows_and_goes_as_its_objects_say() {
        let v = ready_volume("v", "eng", true);
        assert_eq!((grown(1 << 30, &v), grown(1 << 29, &v)), (None, None));
        assert_eq!(grown(2 << 30, &v), Some(gi(2)));
        let pv = |policy: &str| -> PersistentVolume {
            from_value(json!({"spec": {"persistentVolumeReclaimPolicy": policy}})).unwrap()
        };
        assert_eq!(fate(Some(&pv("Delete")), true), Fate::Retire);
        assert_eq!(fate(Some(&pv("Retain")), true), Fate::Keep);
        assert_eq!(fate(None, true), Fate::Keep, "when in doubt");
        assert_eq!(fate(None, false), Fate::Retire);
    }
}
