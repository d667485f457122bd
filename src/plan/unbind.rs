//! The end of a binding (C6, X1): a claim leaves the list of its volume after a report of the volume's node.
//!
//! A namespace editor can remove the finalizers of claim and PersistentVolumeClaim while a pod runs. So the controller
//! marks the entry first. From then on the node mounts nothing for the claim, and reports when nothing is mounted any
//! more. The mark stays, since a claim that is being deleted never comes back.

use crate::api::condition::{Verdict, reason};
use crate::api::{BackingState, ClaimBinding, PodRef, SharedPersistentVolumeStatus};

use super::{held_by, names};

/// Marks the entries in the list for which `ends` is true, and removes the marked entries that the node reports as
/// unmounted. With `disk_gone`, the disk was declared gone, so no node will ever report (D4). The volume's node knows nothing of
/// the pods that read a copy on another one (E3): the entries of these claims, by UID in `read_elsewhere`, stay until the pods end.
pub fn unbind(
    status: &mut SharedPersistentVolumeStatus,
    disk_gone: bool,
    read_elsewhere: &[String],
    ends: impl Fn(&ClaimBinding) -> bool,
) {
    let node = status.node.clone().unwrap_or_default();
    let is_mountable = node.backing == BackingState::Made && !disk_gone;
    status.claims.retain_mut(|binding| {
        if !ends(binding) {
            return true;
        }
        binding.ending = true;
        is_mountable && (!node.released.contains(&binding.uid) || read_elsewhere.contains(&binding.uid))
    });
}

/// Why a claim without a PersistentVolumeClaim is still in the list of its volume. `users` are pods that name the claim.
pub fn still_mounted(
    (namespace, volume): (&str, &str),
    status: &SharedPersistentVolumeStatus,
    users: &[PodRef],
    holder_pods: &[PodRef],
    data: &str,
) -> Verdict {
    let node = status.node_name.as_deref().unwrap_or("?");
    // Its pods may read a copy (E3).
    let by = if status.digest.is_some() { "a node".to_owned() } else { format!("node {node}") };
    let held_by = status.node.as_ref().map_or(&[][..], |node| &node.held_by);
    match users {
        [] if !held_by.is_empty() => Verdict::no(
            reason::IN_USE,
            format!(
                "node {node} has the volume in use by {}: the claim goes when that process ends; {data}",
                held_by::by_for(namespace, volume, held_by, holder_pods)
            ),
        ),
        [] => Verdict::no(
            reason::RELEASING,
            format!(
                "the claim goes when node {node} reports that nothing of it is mounted; bring the node back if it is away; \
                 {data}"
            ),
        ),
        pods => Verdict::no(
            reason::IN_USE,
            format!(
                "{by} has the volume mounted for pod {}, though the PersistentVolumeClaim is gone: the claim goes \
                 when nothing has it mounted; {data}",
                names(pods, pods.len())
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn c6_a_binding_ends_when_nothing_is_mounted() {
        let mut status = ready_volume("v", "eng", true).status.unwrap();
        status.claims = vec![bound_by("ns", "a", "uid-a"), bound_by("ns", "b", "uid-b")];
        let leaves = |status: &mut SharedPersistentVolumeStatus, disk_gone| {
            unbind(status, disk_gone, &[], |binding| binding.uid == "uid-a");
            status.claims.iter().map(|b| (b.uid.clone(), b.ending)).collect::<Vec<_>>()
        };
        let stays = ("uid-b".to_owned(), false);
        let asked = [("uid-a".to_owned(), true), stays.clone()];
        assert_eq!(leaves(&mut status, false), asked);
        assert_eq!(leaves(&mut status, false), asked, "the node has not answered");
        let mut gone = status.clone();
        assert_eq!(leaves(&mut gone, true), std::slice::from_ref(&stays), "D4: no node will answer");
        let mut unmade = status.clone();
        unmade.node = None;
        assert_eq!(leaves(&mut unmade, false), std::slice::from_ref(&stays), "nothing was ever mounted");
        status.node.as_mut().unwrap().released = vec!["uid-a".into(), "uid-b".into()];
        assert_eq!(leaves(&mut status, false), [stays]);
    }

    /// A pod that outlives its claim may read a copy on another node, which the volume's node does not see.
    #[test]
    fn c6_a_binding_ends_after_the_readers_of_copies() {
        let mut status = ready_volume("v", "eng", true).status.unwrap();
        (status.claims, status.digest) = (vec![bound_by("ns", "a", "uid-a")], Some("blake3:00".into()));
        status.node.as_mut().unwrap().released = vec!["uid-a".into()];
        unbind(&mut status, false, &["uid-a".into()], |_| true);
        assert_eq!(status.claims.iter().map(|claim| claim.ending).collect::<Vec<_>>(), [true]);
        let said = still_mounted(("ns", "v"), &status, &[pod("ns", "p")], &[], "so").message;
        assert!(said.starts_with("a node has the volume mounted for pod ns/p"), "{said}");
        unbind(&mut status, false, &[], |_| true);
        assert!(status.claims.is_empty());
    }
}
