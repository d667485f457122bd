//! The next step for each reason of a condition: a command, or a person to ask.

use crate::api::condition::reason::*;

/// The template of the next step. Its placeholders are `{name}`, `{namespace}`, `{role}`, `{node}`, `{disk}`,
/// `{volume}`, `{reservation}`, and `{ref}` for the argument of `kubectl reservoir why`.
pub(super) fn step_template(reason: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(of, _)| *of == reason).map(|(_, template)| *template)
}

const FINE: &str = "there is nothing to do";
const LOOK_AGAIN: &str = "wait a few seconds; if the state stays the same: kubectl reservoir doctor";
const AGENT_LOG: &str = "kubectl get pods -A -l app.kubernetes.io/component=agent --field-selector=spec.nodeName={node}   # then read its log";
const ENLARGE: &str = "kubectl reservoir resize dr/{reservation} SIZE   # enlarge the reservation, or retire a volume in it: kubectl reservoir tree --role {role}";
const OTHER_VOLUME: &str = "kubectl get volumeoffers -n {namespace}   # the volumes on offer";
const DELETE_IT: &str = "kubectl delete {ref}";

const ADVICE: &[(&str, &str)] = &[
    (READY, FINE),
    (INVALID, "kubectl edit {ref}   # correct the field that the message names"),
    (AGENT_SILENT, AGENT_LOG),
    (
        NODE_UNREACHABLE,
        "kubectl describe node {node}   # bring it back; if it is lost for good: kubectl patch nodedisk {disk} --type=merge -p '{\"spec\":{\"gone\":true}}'",
    ),
    (
        DISK_GONE,
        "kubectl reservoir tree   # delete the volumes and reservations of NodeDisk {disk}, then the NodeDisk",
    ),
    (DISK_REFUSED, AGENT_LOG),
    (SPACE_TAKEN, "remove foreign files from the disk on node {node}; no new volume is made there before"),
    (DISK_HEALTHY, FINE),
    (
        NOT_ENOUGH_ROOM,
        "kubectl reservoir status   # free space or add a disk, or ask for less: kubectl reservoir resize dr/{name} SIZE",
    ),
    (NO_SUCH_DISK, "kubectl get nodedisks   # reserve anew on one of these: kubectl delete dr/{name}"),
    (HAS_VOLUMES, "kubectl reservoir retire VOLUME   # for each volume in it; their data is erased"),
    (
        HAS_REFINEMENTS,
        "kubectl delete diskreservation NAME   # for each reservation that was carved out of it",
    ),
    (
        OVER_QUOTA,
        "ask an administrator for a larger spec.quota.limit of the VolumeRole of {role}, or for less: kubectl reservoir resize dr/{name} SIZE",
    ),
    (
        GUARANTEED,
        "kubectl get volumeroles   # wait for free space, or have an administrator lower another role's guarantee",
    ),
    (
        NO_PARENT,
        "kubectl get diskreservations   # create the parent, or delete this reservation and reserve anew: kubectl delete dr/{name}",
    ),
    (PARENT_NOT_RESERVED, LOOK_AGAIN),
    (
        NOT_A_SUB_ROLE,
        "kubectl delete dr/{name}   # then carve it out of a reservation of an ancestor of role {role}",
    ),
    (
        PARENT_FULL,
        "kubectl reservoir resize dr/PARENT SIZE   # enlarge the parent, or ask for less: kubectl reservoir resize dr/{name} SIZE",
    ),
    (RESIZED, FINE),
    (
        BELOW_USED,
        "kubectl reservoir tree --role {role}   # retire a volume in it, or ask for more: kubectl reservoir resize dr/{name} SIZE",
    ),
    (NO_RESERVATION, "kubectl reservoir reserve NAME --role {role} --size SIZE"),
    (RESERVATION_FULL, ENLARGE),
    (NO_ORPHAN, "kubectl reservoir orphans   # lists the data without an object"),
    (
        WRONG_DISK,
        "kubectl delete {ref}   # then create it in a reservation on a suitable disk: kubectl get nodedisks -o wide",
    ),
    (CREATING, LOOK_AGAIN),
    (BACKED, FINE),
    (BACKING_FAILED, AGENT_LOG),
    (
        BACKING_LOST,
        "look for the disk and its data on node {node}; if the data is lost for good: kubectl delete {ref}",
    ),
    (VOLUME_GONE, DELETE_IT),
    (RESIZING, LOOK_AGAIN),
    (RESIZE_FAILED, AGENT_LOG),
    (
        CANNOT_SHRINK,
        "kubectl reservoir resize spv/{name} SIZE   # back to the present size; or copy the data into a smaller volume",
    ),
    (
        SHRINK_IN_USE,
        "end the pods that use the volume, or keep its size: kubectl reservoir resize spv/{name} SIZE",
    ),
    (
        RETIRING,
        "kubectl reservoir unretire {name}   # keeps the volume; else delete the claims that are bound to it",
    ),
    (RETIRE_WITHDRAWN, FINE),
    (
        DESTROYING,
        "delete the claims and end the pods that use the volume; its destruction then goes on by itself",
    ),
    (NO_SUBSCRIPTION, "kubectl reservoir subscribe {role} -n {namespace}"),
    (
        NO_CAPABILITY,
        "kubectl edit rolesubscription -n {namespace}   # add SHARED_RESOURCES to spec.capabilities",
    ),
    (
        ROLE_NOT_ALLOWED,
        "kubectl delete {ref}   # then claim for the role of the volume, or for a role beneath it",
    ),
    (
        NO_SUCH_VOLUME,
        "kubectl reservoir create {volume} --role {role} --size SIZE   # or claim a volume on offer: kubectl get volumeoffers -n {namespace}",
    ),
    (NO_MATCH, OTHER_VOLUME),
    (VOLUME_NOT_READY, "kubectl reservoir why spv/{volume}"),
    (VOLUME_RETIRING, OTHER_VOLUME),
    (ALWAYS_WRITABLE, "kubectl delete {ref}   # then claim the volume without --read-only"),
    (VOLUME_DESTROYING, OTHER_VOLUME),
    (
        VOLUME_HELD,
        "have the claim that holds the volume deleted, or claim another volume: kubectl get volumeoffers -n {namespace}",
    ),
    (BOUND, FINE),
    (BINDING, LOOK_AGAIN),
    (
        NAME_TAKEN,
        "kubectl delete pvc {name} -n {namespace}   # if it is not needed; else claim under another name",
    ),
    (
        VOLUME_LOST,
        "kubectl delete {ref}   # then claim another volume; data without an object: kubectl reservoir orphans",
    ),
    (IN_USE, "end the pods that use the claim: kubectl reservoir tree -n {namespace}"),
    (RELEASING, LOOK_AGAIN),
    (SUBSCRIBED, FINE),
    (OFFERED, FINE),
    (ROLE_TAKEN, DELETE_IT),
    (OVER_LIMIT, "kubectl reservoir tree --role {role}   # delete reservations, or raise spec.quota.limit"),
];

/// Every reason.
#[cfg(test)]
pub(super) fn reasons() -> impl Iterator<Item = &'static str> {
    ADVICE.iter().map(|(reason, _)| *reason)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// T4: the table has every reason, once, and nothing else.
    #[test]
    fn t4_every_reason_has_exactly_one_next_step() {
        let source = include_str!("../../api/condition.rs");
        let reasons = source.split_once("pub mod reason {").unwrap().1.split_once("\n}\n").unwrap().0;
        let constants = reasons.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
        let reasons: BTreeSet<&str> = constants.map(|line| line.split('"').nth(1).unwrap()).collect();
        assert!(reasons.len() > 50, "only {} reasons were found", reasons.len());
        let advised: Vec<&str> = super::reasons().collect();
        assert_eq!(advised.iter().copied().collect::<BTreeSet<_>>(), reasons);
        assert_eq!(advised.len(), reasons.len(), "a reason occurs twice");
        assert!(ADVICE.iter().all(|(_, step)| step.len() > 10));
    }
}
