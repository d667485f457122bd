//! The PersistentVolume and the PersistentVolumeClaim of a bound claim, by which ordinary pods use the volume (C5).
//!
//! These functions are pure and infallible: the schemas of claim and volume have checked all fields that are read here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
    VolumeNodeAffinity, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::api::{
    AccessMode, DRIVER, LABEL_CLAIM_NAMESPACE, LABEL_CLAIM_UID, LABEL_MANAGED_BY, LABEL_VOLUME_UID,
    MANAGED_BY, PV_PREFIX, SharedPersistentVolume, Size, TOPOLOGY_NODE, VolumeClaim, VolumeMode,
};

use super::node_labels;
use super::own_pvc::pvc_of;
use super::resize::size_now;

/// The annotation of a PersistentVolume with a group. The kubelet adds the group to every pod that mounts the
/// PersistentVolume, for any driver and access mode (V11). See `getPVVolumeGidAnnotationValue` and
/// `GetExtraSupplementalGroupsForPod`.
const GID: &str = "pv.beta.kubernetes.io/gid";

/// The access mode of a volume for one pod at a time. A scheduler, too, places no second one.
pub const ONE_POD: &str = "ReadWriteOncePod";

/// The file system in the PersistentVolume. With a name there and the access mode ReadWriteOnce or ReadWriteOncePod, the
/// kubelet gives all files to the `fsGroup` of a pod. So shared and adopted volumes have no name there, and volumes with
/// a group of their own have none (V11).
fn fs_type(volume: &SharedPersistentVolume) -> Option<String> {
    let spec = &volume.spec;
    let keeps_owners = spec.shared.is_some() || spec.adopt.is_some() || spec.gid.is_some();
    let changes = spec.volume_mode == VolumeMode::Filesystem && !keeps_owners;
    changes.then(|| spec.fs_type.name().to_owned())
}

/// Name of the PersistentVolume for the claim with that UID.
pub fn name_for(claim_uid: &str) -> String {
    format!("{PV_PREFIX}{claim_uid}")
}

/// Name of the claim's PersistentVolume.
pub fn name(claim: &VolumeClaim) -> String {
    name_for(&claim.uid().unwrap_or_default())
}

/// True if the PersistentVolumeClaim was made for the claim, or the claim for the PersistentVolumeClaim (P1). Users may
/// write any label; the name of the PersistentVolume never changes.
pub fn is_of_claim(pvc: &PersistentVolumeClaim, claim: &VolumeClaim) -> bool {
    match pvc_of(claim) {
        Some(uid) => pvc.metadata.uid.as_deref() == Some(uid),
        None => pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) == Some(&name(claim)),
    }
}

/// True if the PersistentVolume sends pods to the volume's node. That of an earlier version says nothing of copies.
pub fn is_on_node_of(pv: &PersistentVolume, volume: &SharedPersistentVolume) -> bool {
    let required = pv.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    let terms = required.into_iter().flat_map(|required| &required.node_selector_terms);
    let mut expressions = terms.flat_map(|term| term.match_expressions.iter().flatten());
    expressions.any(|expression| *expression == on_node_of(volume))
}

/// The UID of the claim that the PersistentVolume is of; `None`: Reservoir did not make it.
pub fn claim_of<K: Resource<DynamicType = ()>>(pv: &K) -> Option<&String> {
    let uid = pv.meta().labels.as_ref()?.get(LABEL_CLAIM_UID)?;
    (pv.meta().name.as_ref() == Some(&name_for(uid))).then_some(uid)
}

/// True if nothing will remove the PersistentVolume of a claim: the claim is gone, and no volume lists the claim. A claim
/// that loses its finalizers while the controller makes its PersistentVolume leaves such a one (C6). The PersistentVolume
/// names `claim` and `volume`.
pub fn is_left(
    pv: &PersistentVolume,
    claim: Option<&VolumeClaim>,
    volume: Option<&SharedPersistentVolume>,
) -> bool {
    let driver = pv.spec.as_ref().and_then(|spec| spec.csi.as_ref()).map(|csi| &*csi.driver);
    let Some(uid) = claim_of(pv).filter(|_| driver == Some(DRIVER)) else { return false };
    let lists = |volume: &SharedPersistentVolume| {
        volume.status.iter().flat_map(|status| &status.claims).any(|binding| binding.uid == *uid)
    };
    claim.and_then(|claim| claim.metadata.uid.as_ref()) != Some(uid) && !volume.is_some_and(lists)
}

/// True if the PersistentVolumeClaim is the one that the PersistentVolume is bound to. Another one of the name, as in a restored
/// backup, has another PersistentVolume, and loses nothing.
pub fn is_held_by(pv: &PersistentVolume, pvc: &PersistentVolumeClaim) -> bool {
    let named = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    named.is_some() && named == pv.metadata.name.as_ref() && bound_to(pv) == pvc.metadata.uid.as_ref()
}

/// The event of the PersistentVolumeClaim that is bound to such a PersistentVolume, as in a restored backup (F5). `volume`
/// is the volume to which it led.
pub fn left_event(pv: &PersistentVolume, volume: Option<&SharedPersistentVolume>) -> String {
    let claim_ref = pv.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let (namespace, name) =
        claim_ref.map_or((None, None), |of| (of.namespace.as_deref(), of.name.as_deref()));
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let handle =
        pv.spec.as_ref().and_then(|spec| Some(&*spec.csi.as_ref()?.volume_handle)).unwrap_or_default();
    let is_its =
        |volume: &&SharedPersistentVolume| handle.split('.').next() == volume.metadata.uid.as_deref();
    let next = match volume.filter(is_its) {
        Some(volume) => format!(
            "delete this PersistentVolumeClaim, and claim volume {} anew, by: kubectl reservoir claim {name} --role {} --volume {} -n \
             {namespace}",
            volume.name_any(),
            volume.spec.role,
            volume.name_any()
        ),
        None => "delete this PersistentVolumeClaim, and make it again without spec.volumeName".to_owned(),
    };
    format!(
        "PersistentVolume {}, to which it is bound, is that of a claim that is gone, as a backup has it, and no pod can mount it: \
         {next}",
        pv.name_any()
    )
}

/// The UID of the PersistentVolumeClaim that the PersistentVolume is bound to.
pub fn bound_to(pv: &PersistentVolume) -> Option<&String> {
    pv.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.as_ref())
}

/// The volume's size as capacity and request.
pub fn storage(volume: &SharedPersistentVolume) -> BTreeMap<String, Quantity> {
    BTreeMap::from([("storage".to_owned(), Quantity(Size::as_str(size_now(volume)).to_owned()))])
}

/// The claim's PersistentVolume.
pub fn persistent_volume(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> PersistentVolume {
    let (volume_uid, claim_uid) = (volume.uid().unwrap_or_default(), claim.uid().unwrap_or_default());
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name(claim)),
            labels: Some(labels(claim, volume)),
            annotations: volume.spec.gid.map(|gid| BTreeMap::from([(GID.to_owned(), gid.to_string())])),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(vec![access_mode(claim, volume)]),
            capacity: Some(storage(volume)),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: Some(claim.name_any()),
                namespace: claim.namespace(),
                ..Default::default()
            }),
            csi: Some(CSIPersistentVolumeSource {
                driver: DRIVER.to_owned(),
                fs_type: fs_type(volume),
                // Each claim has its own handle: the kubelet treats two volumes with one handle as the same volume.
                volume_handle: format!("{volume_uid}.{claim_uid}"),
                volume_attributes: Some(BTreeMap::from([("volume".to_owned(), volume.name_any())])),
                ..Default::default()
            }),
            mount_options: Some(volume.spec.mount_options.clone()).filter(|options| !options.is_empty()),
            node_affinity: Some(affinity(volume)),
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            volume_mode: Some(volume_mode(volume)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The claim's PersistentVolumeClaim, which has the name of the claim.
pub fn persistent_volume_claim(
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim.name_any()),
            namespace: claim.namespace(),
            labels: Some(labels(claim, volume)),
            owner_references: claim.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![access_mode(claim, volume)]),
            resources: Some(VolumeResourceRequirements { requests: Some(storage(volume)), limits: None }),
            // Empty, not absent: Kubernetes would set the default class and provision another volume.
            storage_class_name: Some(String::new()),
            volume_mode: Some(volume_mode(volume)),
            volume_name: Some(name(claim)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The nodes on which pods can use the volume: its own, and those with a complete copy. Nobody can change the affinity later
/// (`MutablePVNodeAffinity` is alpha since Kubernetes 1.35), so the PersistentVolume of each volume that may ever have copies
/// names their label (E3).
fn affinity(volume: &SharedPersistentVolume) -> VolumeNodeAffinity {
    let term =
        |expressions: Vec<_>| NodeSelectorTerm { match_expressions: Some(expressions), match_fields: None };
    let here = on_node_of(volume);
    let terms = match may_have_copies(volume) {
        false => vec![term(vec![here])],
        true => {
            let label = node_labels::key(&volume.uid().unwrap_or_default());
            let copies = |operator, value: &str| requirement(&label, operator, value);
            vec![
                term(vec![here, copies("NotIn", node_labels::AWAY)]),
                term(vec![copies("In", node_labels::READY)]),
            ]
        }
    };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: terms }) }
}

fn on_node_of(volume: &SharedPersistentVolume) -> NodeSelectorRequirement {
    let node = volume.status.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    requirement(TOPOLOGY_NODE, "In", node)
}

fn requirement(key: &str, operator: &str, value: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(vec![value.to_owned()]),
    }
}

/// True if a volume can have copies, as the schema allows them (E2).
fn may_have_copies(volume: &SharedPersistentVolume) -> bool {
    let spec = &volume.spec;
    spec.shared.is_some()
        && spec.adopt.is_none()
        && spec.volume_mode == VolumeMode::Filesystem
        && spec.copy_of.is_none()
}

fn access_mode(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> String {
    match (volume.spec.shared.is_some(), claim.spec.mode) {
        (false, _) => ONE_POD,
        (true, AccessMode::ReadWrite) => "ReadWriteMany",
        (true, AccessMode::ReadOnly) => "ReadOnlyMany",
    }
    .to_owned()
}

fn volume_mode(volume: &SharedPersistentVolume) -> String {
    match volume.spec.volume_mode {
        VolumeMode::Filesystem => "Filesystem",
        VolumeMode::Block => "Block",
    }
    .to_owned()
}

fn labels(claim: &VolumeClaim, volume: &SharedPersistentVolume) -> BTreeMap<String, String> {
    let pairs = [
        (LABEL_MANAGED_BY, MANAGED_BY.to_owned()),
        (LABEL_VOLUME_UID, volume.uid().unwrap_or_default()),
        (LABEL_CLAIM_UID, claim.uid().unwrap_or_default()),
        (LABEL_CLAIM_NAMESPACE, claim.namespace().unwrap_or_default()),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Adopt;
    use crate::plan::testing::{bound_by, claim, ready_volume};

    /// V11, F1.
    #[test]
    fn v11_fs_group_reaches_exclusive_volumes_alone() {
        let named = |change: fn(&mut SharedPersistentVolume)| {
            let mut volume = ready_volume("v", "eng", false);
            change(&mut volume);
            persistent_volume(&claim("ns", "c", "v"), &volume).spec.unwrap().csi.unwrap().fs_type
        };
        assert_eq!(named(|_| ()).as_deref(), Some("ext4"));
        assert_eq!(named(|v| v.spec.fs_type = crate::api::FsType::Xfs).as_deref(), Some("xfs"));
        assert_eq!(named(|v| v.spec.shared = Some(Default::default())), None);
        assert_eq!(named(|v| v.spec.gid = Some(4000)), None);
        assert_eq!(named(|v| v.spec.adopt = Some(Adopt::default())), None);
        assert_eq!(named(|v| v.spec.volume_mode = VolumeMode::Block), None);
    }

    #[test]
    fn e3_a_shared_volume_leads_to_its_node_and_to_copies() {
        let mut volume = ready_volume("v", "eng", true);
        let of = |volume: &_| {
            let pv = persistent_volume(&claim("ns", "c", "v"), volume);
            assert!(is_on_node_of(&pv, volume));
            let required = pv.spec.clone().unwrap().node_affinity.unwrap().required.unwrap();
            let of_term = |term: NodeSelectorTerm| {
                let of = |e: NodeSelectorRequirement| {
                    format!("{} {} {}", e.key, e.operator, e.values.unwrap().join(","))
                };
                term.match_expressions.unwrap().into_iter().map(of).collect::<Vec<_>>().join(" and ")
            };
            (required.node_selector_terms.into_iter().map(of_term).collect::<Vec<_>>().join(" or "), pv)
        };
        let here = "topology.reservoir.dev/node In n1";
        let (both, pv) = of(&volume);
        assert_eq!(
            both,
            format!(
                "{here} and copies.reservoir.dev/uid-v NotIn away or copies.reservoir.dev/uid-v In ready"
            )
        );
        let mut moved = volume.clone();
        moved.status.as_mut().unwrap().node_name = Some("n2".into());
        assert!(!is_on_node_of(&pv, &moved), "D3");
        volume.spec.volume_mode = VolumeMode::Block;
        let (alone, of_earlier_version) = of(&volume);
        assert_eq!(alone, here);
        volume.spec.volume_mode = VolumeMode::Filesystem;
        assert!(is_on_node_of(&of_earlier_version, &volume));
        volume.spec.copy_of = Some(Default::default());
        assert_eq!(of(&volume).0, here, "a copy has none");
        assert_eq!(of(&ready_volume("v", "eng", false)).0, here, "exclusive");
    }

    #[test]
    fn c6_a_persistent_volume_without_claim_and_binding_is_left() {
        let (claim, mut volume) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        let pv = persistent_volume(&claim, &volume);
        assert!(is_left(&pv, None, Some(&volume)) && is_left(&pv, None, None));
        assert!(!is_left(&pv, Some(&claim), Some(&volume)), "it is being made");
        let mut later = claim.clone();
        later.metadata.uid = Some("later".into());
        assert!(is_left(&pv, Some(&later), Some(&volume)));
        volume.status.as_mut().unwrap().claims = vec![bound_by("ns", "c", &claim.uid().unwrap())];
        assert!(!is_left(&pv, None, Some(&volume)), "a pod may use it");
        let changed = |change: fn(&mut PersistentVolume)| {
            let mut pv = pv.clone();
            change(&mut pv);
            is_left(&pv, None, None)
        };
        assert!(!changed(|pv| pv.metadata.name = Some("mine".into())), "of somebody else");
        assert!(!changed(|pv| pv.spec.as_mut().unwrap().csi.as_mut().unwrap().driver = "other".into()));
    }

    #[test]
    fn v12_the_mount_options_are_on_the_persistent_volume() {
        let mut volume = ready_volume("v", "eng", true);
        let options =
            |volume: &_| persistent_volume(&claim("ns", "c", "v"), volume).spec.unwrap().mount_options;
        assert_eq!(options(&volume), None);
        volume.spec.mount_options = vec!["noatime".into()];
        assert_eq!(options(&volume), Some(vec!["noatime".to_owned()]));
    }

    /// F5: a PersistentVolume of a backup is not that of the PersistentVolumeClaim that was made since.
    #[test]
    fn f5_only_the_holder_of_a_left_pv_is_told() {
        let (c, v) = (claim("ns", "c", "v"), ready_volume("v", "eng", true));
        let mut pv = persistent_volume(&c, &v);
        let mut pvc = persistent_volume_claim(&c, &v);
        pvc.metadata.uid = Some("uid-pvc".into());
        let bound = pv.spec.as_mut().unwrap().claim_ref.as_mut().unwrap();
        bound.uid = Some("uid-pvc".into());
        assert!(is_held_by(&pv, &pvc));
        pvc.spec.as_mut().unwrap().volume_name = Some("another".into());
        assert!(!is_held_by(&pv, &pvc), "it has its own");
        pvc.spec.as_mut().unwrap().volume_name = pv.metadata.name.clone();
        pvc.metadata.uid = Some("later".into());
        assert!(!is_held_by(&pv, &pvc), "it was made anew");
    }
}
