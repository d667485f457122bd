//! Whether a pod may mount a volume (S7, X2).

use kube::ResourceExt;

use crate::api::{AccessMode, ClaimBinding, SharedPersistentVolume};

/// Why a pod may not mount a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The object under this name is not the volume that the claim was bound to (S4, C7).
    #[error(
        "volume {0} was destroyed and made again; this claim was bound to the old one: delete it and claim anew"
    )]
    OtherVolume(String),
    /// The volume lives elsewhere; the scheduler keeps pods from getting here.
    #[error("volume {volume} is on node {node}, not on this one")]
    OtherNode {
        /// Name of the volume.
        volume: String,
        /// Where it is.
        node: String,
    },
    /// The volume's side of the binding does not have the claim, or the pod is of another namespace than that: somebody
    /// made, or changed, a PersistentVolume by hand.
    #[error("volume {0} is not bound to this claim any more: delete the claim and claim anew")]
    NotBound(String),
    /// The tombstone is set.
    #[error("volume {0} is destroyed")]
    Destroyed(String),
    /// The container runtime makes its own mount from ours and would clear the read-only flag of a mount that the
    /// pod does not itself call read-only, so such a pod is not started at all (M3).
    #[error(
        "claim {0} is ReadOnly: set readOnly: true in the pod's persistentVolumeClaim volume; the admission policy \
         of the chart does this by itself"
    )]
    SayReadOnly(ClaimBinding),
}

/// The binding under which the pod mounts the volume, and whether the mount is read-only.
pub fn authorise<'a>(
    volume: &'a SharedPersistentVolume,
    volume_uid: &str,
    claim_uid: &str,
    node: &str,
    namespace: &str,
    pod_says_read_only: bool,
) -> Result<(&'a ClaimBinding, bool), Refusal> {
    let name = volume.name_any();
    if volume.uid().as_deref() != Some(volume_uid) {
        return Err(Refusal::OtherVolume(name));
    }
    let Some(status) = &volume.status else { return Err(Refusal::NotBound(name)) };
    if status.node_name.as_deref() != Some(node) {
        let node = status.node_name.clone().unwrap_or_default();
        return Err(Refusal::OtherNode { volume: name, node });
    }
    if status.destroy.as_ref().is_some_and(|d| d.tombstone.is_some()) {
        return Err(Refusal::Destroyed(name));
    }
    let binding = status.claims.iter().find(|b| b.uid == claim_uid && b.namespace == namespace);
    let binding = binding.ok_or(Refusal::NotBound(name))?;
    if binding.mode == AccessMode::ReadOnly && !pod_says_read_only {
        return Err(Refusal::SayReadOnly(binding.clone()));
    }
    Ok((binding, pod_says_read_only))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn s7_bound_here_and_authorised_or_not_at_all() {
        let mut v = ready_volume("v", "eng", true);
        v.status.as_mut().unwrap().claims = vec![
            ClaimBinding { mode: AccessMode::ReadOnly, ..bound_by("ns", "r", "c-ro") },
            bound_by("ns", "w", "c-rw"),
        ];
        let uid = v.uid().unwrap();
        let ask =
            |claim, node, ro| authorise(&v, &uid, claim, node, "ns", ro).map(|(b, ro)| (b.name.clone(), ro));
        assert_eq!(ask("c-rw", "n1", false), Ok(("w".into(), false)));
        assert_eq!(ask("c-rw", "n1", true), Ok(("w".into(), true)));
        assert_eq!(ask("c-ro", "n1", true), Ok(("r".into(), true)));
        assert!(matches!(ask("c-ro", "n1", false), Err(Refusal::SayReadOnly(_))), "M3");
        assert!(matches!(ask("c-xx", "n1", true), Err(Refusal::NotBound(_))));
        assert!(matches!(ask("c-rw", "n2", true), Err(Refusal::OtherNode { .. })));
        assert!(matches!(authorise(&v, "other", "c-rw", "n1", "ns", true), Err(Refusal::OtherVolume(_))));
        let foreign = authorise(&v, &uid, "c-rw", "n1", "other", false);
        assert!(matches!(foreign, Err(Refusal::NotBound(_))), "the claim is another namespace's");
    }

    #[test]
    fn x2_after_the_tombstone_no_mount_succeeds() {
        let mut v = ready_volume("v", "eng", true);
        let status = v.status.as_mut().unwrap();
        status.claims = vec![bound_by("ns", "w", "c")];
        status.destroy = Some(crate::api::Destroy { in_use: false, tombstone: some_time() });
        let uid = v.uid().unwrap();
        assert!(matches!(authorise(&v, &uid, "c", "n1", "ns", false), Err(Refusal::Destroyed(_))));
    }
}
