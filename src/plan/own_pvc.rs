//! A PersistentVolumeClaim of a StorageClass as the claim to its volume: the binding, its end, and the fate of the volume (P1, P4).
//!
//! There is no VolumeClaim beside it. The entry in the volume's list has the PersistentVolumeClaim's UID, and is written
//! together with the first report of Ready, before the PersistentVolume.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Resource, ResourceExt};

use crate::api::condition::{Verdict, reason};
use crate::api::{
    ANNOTATION_MADE_FOR, AccessMode, ClaimBinding, DRIVER, LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, PV_PREFIX,
    PodRef, SharedPersistentVolume, SharedPersistentVolumeStatus, VolumeClaim, VolumeClaimSpec,
    VolumeClaimStatus, VolumePhase,
};

/// Annotation of a PersistentVolume with the driver that deletes the volume on behalf of Kubernetes.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// The UID of the PersistentVolumeClaim that a volume was made for, or that an earlier version made a VolumeClaim for.
pub fn pvc_of<K: Resource>(object: &K) -> Option<&str> {
    object.labels().get(LABEL_PVC_UID).map(String::as_str)
}

/// Refuses an exclusive volume that was made for a PersistentVolumeClaim to every claim but its own.
pub fn held(volume: &SharedPersistentVolume) -> Option<Verdict> {
    let held = volume.spec.shared.is_none() && pvc_of(volume).is_some();
    held.then(|| {
        let name = volume.name_any();
        let why = format!("volume {name} is exclusive, and was made for a PersistentVolumeClaim that has it");
        Verdict::no(reason::VOLUME_HELD, why)
    })
}

/// The entry of a PersistentVolumeClaim in the list of its volume.
pub fn binding(namespace: &str, name: &str, uid: &str) -> ClaimBinding {
    ClaimBinding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        pvc_uid: Some(uid.to_owned()),
        mode: AccessMode::ReadWrite,
        ending: false,
    }
}

/// True if the entry is that of the PersistentVolumeClaim that the volume was made for.
pub fn is_own(binding: &ClaimBinding, volume: &SharedPersistentVolume) -> bool {
    pvc_of(volume) == Some(binding.pvc_uid.as_ref().unwrap_or(&binding.uid))
}

/// The entry of the PersistentVolumeClaim that the volume was made for, if the volume lists it.
pub fn listed(volume: &SharedPersistentVolume) -> Option<&ClaimBinding> {
    let claims = volume.status.as_ref().map_or(&[][..], |status| &status.claims);
    claims.iter().find(|binding| is_own(binding, volume))
}

/// Adds the entry to the list; false if an exclusive volume has another claim (C3). An entry of the same name is that of the
/// VolumeClaim of an earlier version, which somebody removed by force: it is handed over, as in [`taken_over`].
pub fn list(
    own: &ClaimBinding,
    volume: &SharedPersistentVolume,
    status: &mut SharedPersistentVolumeStatus,
) -> bool {
    match status.claims.first_mut().filter(|_| volume.spec.shared.is_none()) {
        Some(left) if (&left.namespace, &left.name) == (&own.namespace, &own.name) => {
            left.pvc_uid.clone_from(&own.pvc_uid);
        }
        Some(_) => return false,
        None => status.claims.push(own.clone()),
    }
    true
}

/// The claim of the entry, as PersistentVolumes are made for. No such object is stored.
pub fn claim(
    binding: &ClaimBinding,
    pvc: &PersistentVolumeClaim,
    volume: &SharedPersistentVolume,
) -> VolumeClaim {
    let spec = VolumeClaimSpec {
        role: volume.spec.role.clone(),
        volume: Some(volume.name_any()),
        ..Default::default()
    };
    let mut claim = VolumeClaim::new(&pvc.name_any(), spec);
    claim.metadata.namespace = pvc.namespace();
    claim.metadata.uid = Some(binding.uid.clone());
    claim.metadata.labels = pvc.uid().map(|uid| [(LABEL_PVC_UID.to_owned(), uid)].into());
    claim.status = Some(VolumeClaimStatus {
        persistent_volume: pvc.spec.as_ref().and_then(|spec| spec.volume_name.clone()),
        ..Default::default()
    });
    claim
}

/// Adapts a claim's PersistentVolume to the existing PersistentVolumeClaim. Kubernetes compares class, access modes and
/// UID, and leaves the deletion of the volume to the driver in the annotation.
pub fn provision(
    pv: &mut PersistentVolume,
    pvc: &PersistentVolumeClaim,
    claim: &VolumeClaim,
    class: Option<&StorageClass>,
) {
    let asked = pvc.spec.clone().unwrap_or_default();
    pv.annotations_mut().insert(PROVISIONED_BY.to_owned(), DRIVER.to_owned());
    let Some(spec) = &mut pv.spec else { return };
    // A second PersistentVolume retains the data, since a user may have set `Retain` on the first one.
    let is_first = claim.status.as_ref().is_none_or(|status| status.persistent_volume.is_none());
    let policy = class.filter(|_| is_first).and_then(|class| class.reclaim_policy.clone());
    spec.persistent_volume_reclaim_policy = policy.or_else(|| Some("Retain".to_owned()));
    spec.storage_class_name = asked.storage_class_name;
    spec.access_modes = asked.access_modes;
    bind_to(pv, pvc);
}

/// Binds the PersistentVolume to that very PersistentVolumeClaim.
pub fn bind_to(pv: &mut PersistentVolume, pvc: &PersistentVolumeClaim) {
    if let Some(claim_ref) = pv.spec.as_mut().and_then(|spec| spec.claim_ref.as_mut()) {
        claim_ref.uid = pvc.uid();
    }
}

/// The PersistentVolumeClaim that a volume was made for.
#[derive(Debug)]
pub enum Own {
    /// It is there: its entry for the list of the volume that has none, and the pods that wait for it.
    There(ClaimBinding, Vec<PodRef>),
    /// It is gone, by a live read. A UID never comes back.
    Gone(Gone),
}

/// The traces of a PersistentVolumeClaim that is gone.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    /// The reclaim policy of its PersistentVolume, read live after that.
    pub policy: Option<String>,
    /// Running and pending pods that name it, by the cache.
    pub users: Vec<PodRef>,
    /// True if the API server refused [`Fate::Destroy`]: a policy of an earlier version does, or one of others.
    pub is_refused: bool,
}

/// The fate of a volume whose PersistentVolumeClaim is gone (P4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Destroy the volume: nobody else has it, and its node still says when the last mount is gone (X3).
    Destroy,
    /// Destroy the volume after its last use by others, with the protection of all volumes (X5).
    Retire,
    /// Turn the volume into an ordinary volume; the text is the message of the event.
    Keep(String),
    /// An earlier step has decided the fate.
    Decided,
}

/// The fate of the volume. The reclaim policy of the PersistentVolume decides, since users can change it there. Without a
/// PersistentVolume the data is kept, unless no pod can have used the volume.
pub fn fate(volume: &SharedPersistentVolume, gone: &Gone) -> Fate {
    if pvc_of(volume).is_none() || volume.spec.retire {
        return Fate::Decided;
    }
    let (own, status) = (listed(volume), volume.status.clone().unwrap_or_default());
    let is_unused = own.is_none() && [VolumePhase::Pending, VolumePhase::Creating].contains(&status.phase);
    let may_end = gone.policy.as_ref().map_or(is_unused, |policy| policy == "Delete");
    if !may_end {
        return Fate::Keep(kept(volume, own));
    }
    let is_alone = status.claims.iter().all(|binding| is_own(binding, volume));
    // X1: a pod may outlive a PersistentVolumeClaim whose finalizer somebody took off.
    let is_free = is_alone && gone.users.is_empty() && !gone.is_refused;
    if is_free { Fate::Destroy } else { Fate::Retire }
}

fn kept(volume: &SharedPersistentVolume, own: Option<&ClaimBinding>) -> String {
    let noted = || volume.annotations().get(ANNOTATION_MADE_FOR).cloned();
    let named = own.map(ToString::to_string).or_else(noted).unwrap_or_default();
    let of_namespace = volume.labels().get(LABEL_CLAIM_NAMESPACE).map_or("", String::as_str);
    let (namespace, name) = named.split_once('/').unwrap_or((of_namespace, "data"));
    let (role, volume) = (&volume.spec.role, volume.name_any());
    format!(
        "PersistentVolumeClaim {namespace}/{name} is gone and its data stays: claim volume {volume} with a VolumeClaim, after \
         a RoleSubscription of the namespace to role {role}, by: kubectl reservoir claim {name} --role {role} --volume \
         {volume} -n {namespace}; or delete it"
    )
}

/// True if a binding in the list of a volume that is being destroyed leads no pod to the volume any more: it is that of the
/// PersistentVolumeClaim that the volume was made for, or its claim is gone, and the PersistentVolumeClaim of its name is
/// another one, or gone. A UID never comes back, so what is over stays over. `claim` and `pvc` have the binding's names, and
/// were read live.
pub fn is_over(
    binding: &ClaimBinding,
    volume: &SharedPersistentVolume,
    claim: Option<&VolumeClaim>,
    pvc: Option<&PersistentVolumeClaim>,
) -> bool {
    let is_there = claim.is_some_and(|claim| claim.metadata.uid.as_ref() == Some(&binding.uid));
    let leads_to = |pvc: &PersistentVolumeClaim| {
        let pv = pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        pvc.metadata.uid.as_deref() == pvc_of(volume)
            || pv.and_then(|pv| pv.strip_prefix(PV_PREFIX)) == Some(binding.uid.as_str())
    };
    volume.metadata.deletion_timestamp.is_some()
        && pvc_of(volume).is_some()
        && (is_own(binding, volume) || !is_there)
        && !pvc.is_some_and(leads_to)
}

/// The status of a volume whose list has the VolumeClaim that an earlier version made for the PersistentVolumeClaim: the entry
/// is that of the PersistentVolumeClaim from then on. It keeps its UID, which the PersistentVolume names. `None`: there is
/// no such entry.
pub fn taken_over(
    claim: &VolumeClaim,
    volume: &SharedPersistentVolume,
) -> Option<SharedPersistentVolumeStatus> {
    let uid = pvc_of(claim).filter(|uid| pvc_of(volume) == Some(uid))?;
    let mut status = volume.status.clone()?;
    let is_its = |binding: &&mut ClaimBinding| {
        claim.metadata.uid.as_ref() == Some(&binding.uid) && binding.pvc_uid.is_none()
    };
    status.claims.iter_mut().find(is_its)?.pvc_uid = Some(uid.to_owned());
    Some(status)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::plan::persistent_volume::name_for;
    use crate::plan::testing::{self, bound_by, pod, ready_volume, some_time};

    /// A volume of the PersistentVolumeClaim with UID `u`, which lists these.
    fn made_for(claims: Vec<ClaimBinding>) -> SharedPersistentVolume {
        let mut volume = ready_volume("pvc-u", "eng", true);
        let labels = [(LABEL_PVC_UID, "u"), (LABEL_CLAIM_NAMESPACE, "team")];
        volume.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        volume.status.as_mut().unwrap().claims = claims;
        volume
    }

    fn with_policy(policy: &str) -> Gone {
        Gone { policy: Some(policy.to_owned()), ..Gone::default() }
    }

    /// The entry of a VolumeClaim of an earlier version, handed over.
    fn handed_over(uid: &str) -> ClaimBinding {
        ClaimBinding { pvc_uid: Some("u".into()), ..bound_by("team", "data", uid) }
    }

    #[test]
    fn p4_the_reclaim_policy_decides_the_fate() {
        let (own, other) = (binding("team", "data", "u"), bound_by("other", "c", "c"));
        let (delete, nothing) = (with_policy("Delete"), Gone::default());
        for (claims, expected) in [
            (vec![], Fate::Destroy),
            (vec![own.clone()], Fate::Destroy),
            (vec![handed_over("claim")], Fate::Destroy),
            (vec![own.clone(), other.clone()], Fate::Retire),
            (vec![other], Fate::Retire),
        ] {
            assert_eq!(fate(&made_for(claims), &delete), expected, "X5");
        }
        let v = made_for(vec![own.clone()]);
        assert_eq!(fate(&v, &Gone { users: vec![pod("team", "p")], ..delete.clone() }), Fate::Retire, "X1");
        assert_eq!(fate(&v, &Gone { is_refused: true, ..delete.clone() }), Fate::Retire);
        let mut retired = v.clone();
        retired.spec.retire = true;
        assert_eq!(fate(&retired, &delete), Fate::Decided);
        assert_eq!(
            fate(&ready_volume("pvc-u", "eng", false), &delete),
            Fate::Decided,
            "it is like any other"
        );
        for gone in [&nothing, &with_policy("Retain")] {
            let Fate::Keep(said) = fate(&v, gone) else { panic!("when in doubt") };
            assert_eq!(
                said,
                "PersistentVolumeClaim team/data is gone and its data stays: claim volume pvc-u with a VolumeClaim, after a \
                 RoleSubscription of the namespace to role eng, by: kubectl reservoir claim data --role eng --volume pvc-u -n \
                 team; or delete it"
            );
        }
        let mut unbound = made_for(vec![]);
        unbound.status.as_mut().unwrap().phase = VolumePhase::Ready;
        assert!(matches!(fate(&unbound, &nothing), Fate::Keep(_)), "a retirement was withdrawn");
        unbound.status.as_mut().unwrap().phase = VolumePhase::Creating;
        assert_eq!(fate(&unbound, &nothing), Fate::Destroy, "no pod can have had it");
    }

    /// P4, S10: what is over stays over, and a binding that may lead a pod to the volume is not.
    #[test]
    fn p4_a_binding_is_over_with_its_pvc() {
        let mut v = made_for(vec![]);
        v.metadata.deletion_timestamp = some_time();
        let pvc = |uid: &str, pv: Option<&str>| -> PersistentVolumeClaim {
            from_value(json!({"metadata": {"name": "data", "uid": uid}, "spec": {"volumeName": pv}})).unwrap()
        };
        let (first, second) = (pvc("u", None), pvc("second", None));
        let led = pvc("second", Some(&name_for("u")));
        let other = testing::claim("team", "data", "pvc-u");
        let (own, old) = (binding("team", "data", "u"), handed_over("uid-old"));
        let others = bound_by("team", "data", "uid-data");
        for (binding, claim, pvc, expected) in [
            (&own, None, Some(&first), false),
            (&own, None, None, true),
            (&own, None, Some(&second), true),
            (&own, None, Some(&led), false),
            (&own, Some(&other), None, true),
            (&old, None, Some(&first), false),
            (&old, None, Some(&second), true),
            (&others, Some(&other), None, false),
            (&others, None, None, true),
        ] {
            assert_eq!(is_over(binding, &v, claim, pvc), expected, "{binding:?} {pvc:?}");
        }
        v.metadata.deletion_timestamp = None;
        assert!(!is_over(&own, &v, None, None), "C6: the node is asked first");
    }

    /// P1, S8: an upgrade while pods write. The entry never leaves the list, and is the one that the PersistentVolume names.
    #[test]
    fn p1_a_claim_of_an_earlier_version_hands_its_entry_over() {
        let mut old = testing::claim("team", "data", "pvc-u");
        let v = made_for(vec![bound_by("other", "c", "c"), bound_by("team", "data", "uid-data")]);
        assert_eq!(taken_over(&old, &v), None, "it is a claim of its own");
        old.metadata.labels = Some([(LABEL_PVC_UID.to_owned(), "u".to_owned())].into());
        let now = taken_over(&old, &v).unwrap();
        assert_eq!(now.claims, [bound_by("other", "c", "c"), handed_over("uid-data")]);
        let mut after = v.clone();
        after.status = Some(now);
        assert_eq!(taken_over(&old, &after), None, "once");
        assert_eq!(listed(&after), Some(&handed_over("uid-data")));
        let mut released = v;
        released.metadata.labels = None;
        assert_eq!(taken_over(&old, &released), None, "P4: it leaves a volume that is like any other");
    }

    /// P1, C3: the VolumeClaim of an earlier version that somebody removed by force before it was handed over.
    #[test]
    fn p1_c3_an_entry_that_an_earlier_version_left_is_handed_over() {
        let own = binding("team", "data", "u");
        let of = |is_shared: bool, claims: Vec<ClaimBinding>| {
            let mut volume = made_for(claims);
            volume.spec.shared = volume.spec.shared.filter(|_| is_shared);
            let mut status = volume.status.clone().unwrap();
            (list(&own, &volume, &mut status), status.claims)
        };
        let left = bound_by("team", "data", "claim");
        assert_eq!(of(false, vec![left.clone()]), (true, vec![handed_over("claim")]));
        assert_eq!(of(false, vec![]), (true, vec![own.clone()]));
        assert_eq!(of(true, vec![left.clone()]), (true, vec![left, own.clone()]), "a user may have made it");
        let other = bound_by("team", "other", "o");
        assert_eq!(of(false, vec![other.clone()]), (false, vec![other]));
    }
}
