//! For each reason that a condition can have, the next step: a command, or whom to ask.

use crate::api::condition::reason::*;

/// The next step. `{name}`, `{namespace}`, `{role}`, `{node}`, `{disk}`, `{volume}` and `{reservation}` are what the object
/// has to do with; `{ref}` is the object as it is asked about.
pub(super) fn next(reason: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(of, _)| *of == reason).map(|(_, next)| *next)
}

const FINE: &str = "nothing is in its way";
const LOOK_AGAIN: &str = "this takes moments; if it stays, look at `kubectl reservoir doctor`";
const AGENT_LOG: &str = "kubectl get pods -A -l app.kubernetes.io/component=agent --field-selector=spec.nodeName={node}   # then its log";
const MORE_ROOM: &str = "kubectl reservoir resize dr/{reservation} SIZE   # enlarge the reservation, or retire a volume in it: kubectl reservoir tree --role {role}";
const OTHER_VOLUME: &str = "kubectl get volumeoffers -n {namespace}   # what else can be claimed";
const DELETE_IT: &str = "kubectl delete {ref}";

const ADVICE: &[(&str, &str)] = &[
    (READY, FINE),
    (INVALID, "kubectl edit {ref}   # correct the field that the message names"),
    (AGENT_SILENT, AGENT_LOG),
    (
        NODE_UNREACHABLE,
        "kubectl describe node {node}   # bring it back; if it never comes back: kubectl patch nodedisk {disk} --type=merge -p '{\"spec\":{\"gone\":true}}'",
    ),
    (
        DISK_GONE,
        "kubectl reservoir tree   # delete the volumes and reservations that were on NodeDisk {disk}, then the NodeDisk",
    ),
    (DISK_REFUSED, AGENT_LOG),
    (
        SPACE_TAKEN,
        "remove what others wrote to the disk on node {node}; until then no new volume is made there",
    ),
    (DISK_HEALTHY, FINE),
    (
        NOT_ENOUGH_ROOM,
        "kubectl reservoir status   # free room or add a disk, or ask for less: kubectl reservoir resize dr/{name} SIZE",
    ),
    (NO_SUCH_DISK, "kubectl get nodedisks   # reserve anew on one that is there: kubectl delete dr/{name}"),
    (HAS_VOLUMES, "kubectl reservoir retire VOLUME   # for each volume in it; their data goes with them"),
    (HAS_REFINEMENTS, "kubectl delete diskreservation NAME   # for each that was carved out of it"),
    (
        OVER_QUOTA,
        "ask an administrator for a larger spec.quota.limit of the VolumeRole of {role}, or for less: kubectl reservoir resize dr/{name} SIZE",
    ),
    (
        GUARANTEED,
        "kubectl get volumeroles   # wait for room, or have an administrator lower another role's guarantee",
    ),
    (
        NO_PARENT,
        "kubectl get diskreservations   # make the parent, or delete this one and reserve anew: kubectl delete dr/{name}",
    ),
    (PARENT_NOT_RESERVED, LOOK_AGAIN),
    (NOT_A_SUB_ROLE, "kubectl delete dr/{name}   # and carve it out of a reservation of a role above {role}"),
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
    (RESERVATION_FULL, MORE_ROOM),
    (NO_ORPHAN, "kubectl reservoir orphans   # which data has no object"),
    (
        WRONG_DISK,
        "kubectl delete {ref}   # and create it in a reservation on a disk that can do that: kubectl get nodedisks -o wide",
    ),
    (CREATING, LOOK_AGAIN),
    (BACKED, FINE),
    (BACKING_FAILED, AGENT_LOG),
    (
        BACKING_LOST,
        "look for the disk or its contents on node {node}; if the data is lost for good: kubectl delete {ref}",
    ),
    (VOLUME_GONE, DELETE_IT),
    (RESIZING, LOOK_AGAIN),
    (RESIZE_FAILED, AGENT_LOG),
    (
        CANNOT_SHRINK,
        "kubectl reservoir resize spv/{name} SIZE   # back to the size that it has, or copy into a smaller volume",
    ),
    (SHRINK_IN_USE, "end the pods that use it, or keep its size: kubectl reservoir resize spv/{name} SIZE"),
    (RETIRING, "kubectl reservoir unretire {name}   # to keep it; else delete the claims that have it"),
    (RETIRE_WITHDRAWN, FINE),
    (DESTROYING, "delete the claims and end the pods that use it; it goes by itself then"),
    (NO_SUBSCRIPTION, "kubectl reservoir subscribe {role} -n {namespace}"),
    (
        NO_CAPABILITY,
        "kubectl edit rolesubscription -n {namespace}   # add SHARED_RESOURCES to spec.capabilities",
    ),
    (
        ROLE_NOT_ALLOWED,
        "kubectl delete {ref}   # and claim it for the role of the volume, or for one beneath it",
    ),
    (
        NO_SUCH_VOLUME,
        "kubectl reservoir create {volume} --role {role} --size SIZE   # or claim one that is there: kubectl get volumeoffers -n {namespace}",
    ),
    (NO_MATCH, OTHER_VOLUME),
    (VOLUME_NOT_READY, "kubectl reservoir why spv/{volume}"),
    (VOLUME_RETIRING, OTHER_VOLUME),
    (ALWAYS_WRITABLE, "kubectl delete {ref}   # and claim it without --read-only"),
    (VOLUME_DESTROYING, OTHER_VOLUME),
    (
        VOLUME_HELD,
        "have the claim that holds it deleted, or claim another one: kubectl get volumeoffers -n {namespace}",
    ),
    (BOUND, FINE),
    (BINDING, LOOK_AGAIN),
    (
        NAME_TAKEN,
        "kubectl delete pvc {name} -n {namespace}   # if it is not needed, or claim under another name",
    ),
    (
        VOLUME_LOST,
        "kubectl delete {ref}   # and claim another volume; what it had is told by: kubectl reservoir orphans",
    ),
    (IN_USE, "end the pods that use it: kubectl reservoir tree -n {namespace}"),
    (RELEASING, LOOK_AGAIN),
    (SUBSCRIBED, FINE),
    (OFFERED, FINE),
    (ROLE_TAKEN, DELETE_IT),
    (
        OVER_LIMIT,
        "kubectl reservoir tree --role {role}   # unreserve what is too much, or raise spec.quota.limit",
    ),
];

/// Every reason that there is.
#[cfg(test)]
pub(super) fn reasons() -> impl Iterator<Item = &'static str> {
    ADVICE.iter().map(|(reason, _)| *reason)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// T4: every reason that there is has a next step, once, and what has one is a reason.
    #[test]
    fn t4_every_reason_has_a_next_step() {
        let source = include_str!("../api/condition.rs");
        let reasons = source.split_once("pub mod reason {").unwrap().1.split_once("\n}\n").unwrap().0;
        let constants = reasons.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
        let reasons: BTreeSet<&str> = constants.map(|line| line.split('"').nth(1).unwrap()).collect();
        assert!(reasons.len() > 50, "{} reasons were found", reasons.len());
        let told: Vec<&str> = super::reasons().collect();
        assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), reasons);
        assert_eq!(told.len(), reasons.len(), "one each");
        assert!(ADVICE.iter().all(|(_, next)| next.len() > 10));
    }
}
