//! Tenants: the namespace or role on whose behalf an object is reconciled. Tenants take turns (A9).

use kube::ResourceExt;

use crate::api::{LABEL_CLAIM_NAMESPACE, LABEL_PVC_UID, SharedPersistentVolume};

/// The tenant of an object with a role: the first component of the role. The owner of a role can create any number of
/// sub-roles, which must not bring more turns.
pub fn of_role(role: &str) -> &str {
    role.split('/').next().unwrap_or_default()
}

/// The namespace of the PersistentVolumeClaim that the volume is made for. Anybody may write the label of the namespace
/// alone.
pub fn namespace_of(volume: &SharedPersistentVolume) -> Option<&String> {
    volume.labels().get(LABEL_CLAIM_NAMESPACE).filter(|_| volume.labels().contains_key(LABEL_PVC_UID))
}

/// The tenant of a volume: the namespace of its PersistentVolumeClaim, if made for one, else the tenant of its role.
pub fn of_volume(volume: &SharedPersistentVolume) -> &str {
    namespace_of(volume).map_or_else(|| of_role(&volume.spec.role), String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::ready_volume;

    #[test]
    fn a9_a_volume_waits_with_its_namespace_or_role() {
        let mut volume = ready_volume("v", "eng/ml/1", true);
        assert_eq!(of_volume(&volume), "eng");
        let label = |key: &str| (key.to_owned(), "team".to_owned());
        volume.metadata.labels = Some([label(LABEL_CLAIM_NAMESPACE)].into());
        assert_eq!(of_volume(&volume), "eng");
        volume.metadata.labels = Some([label(LABEL_CLAIM_NAMESPACE), label(LABEL_PVC_UID)].into());
        assert_eq!(of_volume(&volume), "team");
    }
}
