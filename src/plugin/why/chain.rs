//! The chain of causes: the conditions of an object, and the objects that it may wait for.

use kube::ResourceExt;

use super::owners::taken_name;
use super::report::{Report, TERMINATING};
use super::target::Target;
use super::{ending_pod, pods, pvcs, workloads};
use crate::api::condition::reason::*;
use crate::api::{DiskReservation, Role, SharedPersistentVolume};
use crate::cluster;
use crate::plan::own_pvc::pvc_of;
use crate::plan::{bind, destroy, node_disk};
use crate::plugin::item::Item;
use crate::plugin::kind::{CLAIM, DISK, Kind, POD, PVC, RESERVATION, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// The object, the object that it waits for, and so on; the root of the wait is last. A running pod or workload waits
/// for nothing.
pub(super) fn chain(snapshot: &Snapshot, target: &Target) -> Vec<Target> {
    let mut chain = vec![target.clone()];
    if (target.kind == &POD || target.kind.workload) && !has_trouble(snapshot, target) {
        return chain;
    }
    while let Some(next) =
        upstream(snapshot, &chain[chain.len() - 1]).into_iter().find(|t| !chain.contains(t))
    {
        chain.push(next);
    }
    chain
}

/// The reports of an object that matter for its wait. `None`: the object does not exist.
pub(super) fn reports(snapshot: &Snapshot, target: &Target) -> Option<Vec<Report>> {
    let report = |trouble, reason: &str, message: &str| {
        Report::of(target.title(), reason, message.to_owned(), trouble)
    };
    if target.kind == &POD {
        return Some(pods::pod_reports(snapshot, target, target.find_pod(snapshot)?));
    }
    if target.kind == &PVC {
        return pvcs::pvc_report(snapshot, target).map(|report| vec![report]);
    }
    if target.kind.workload {
        return workloads::workload_report(snapshot, target).map(|report| vec![report]);
    }
    let item = snapshot.find(target.kind, target.namespace.as_deref(), &target.name)?;
    let beside = |reason: &str, message: &str| Report { beside: true, ..report(true, reason, message) };
    let mut besides: Vec<Report> = item.beside().map(|c| beside(&c.reason, &c.message)).collect();
    besides.extend(unseen(snapshot, target, &item).map(|message| beside(NOT_LOOKED_AT, &message)));
    let disk = snapshot.disks.iter().find(|disk| target.kind == &DISK && disk.name_any() == target.name);
    let told = disk.and_then(node_disk::not_as_configured);
    besides.extend(told.map(|told| beside(NOT_AS_CONFIGURED, told)));
    let own = match item.ready() {
        // A true condition Ready is no cause of a wait, beside a failed resize or a retirement.
        Some(ready) if ready.status == "True" && !besides.is_empty() => None,
        Some(ready) if ready.status == "True" && item.deleting => {
            Some(report(true, DELETING, "it is being deleted"))
        }
        Some(ready) => Some(report(ready.status != "True", &ready.reason, &ready.message)),
        None => Some(report(
            true,
            NOT_LOOKED_AT,
            "the controller has reported no condition: is the controller running? `kubectl reservoir doctor` checks it",
        )),
    };
    Some(own.into_iter().chain(besides).collect())
}

/// The reason of an object that the controller has not seen, or not since its last change.
pub(in crate::plugin) const NOT_LOOKED_AT: &str = "NotLookedAt";

/// The reason of a disk with a static reservation that the API server refused.
pub(super) const NOT_AS_CONFIGURED: &str = "NotAsConfigured";

/// The report that the controller owes about the object by now.
fn unseen(snapshot: &Snapshot, target: &Target, item: &Item<'_>) -> Option<String> {
    if item.is_outdated() {
        return Some(Item::OUTDATED.into());
    }
    let volume = snapshot.volumes.iter().find(|v| target.kind == &VOLUME && v.name_any() == target.name)?;
    let uid = pvc_of(volume).filter(|_| snapshot.sees_all(&PVC) && !item.deleting && !volume.spec.retire)?;
    let is_there = snapshot.pvcs.iter().any(|pvc| pvc.metadata.uid.as_deref() == Some(uid));
    (!is_there).then(|| "its PersistentVolumeClaim is gone, and the controller has not ended it since".into())
}

/// The reason of an object that is being deleted, and whose conditions do not say so yet.
pub(super) const DELETING: &str = "Deleting";

/// Reasons of a claim, and the kind of object whose trouble causes them. A claim to a volume that ends never gets that volume,
/// whatever its present users do.
static OF_CLAIM: &[(&[&str], &Kind)] = &[(&[VOLUME_NOT_READY, NODE_GONE, BINDING, RELEASING], &VOLUME)];

/// The same of a volume.
static OF_VOLUME: &[(&[&str], &Kind)] = &[
    (&[NO_RESERVATION, RESERVATION_FULL, NODE_CORDONED], &RESERVATION),
    (
        &[
            NODE_UNREACHABLE,
            DISK_NOT_READY,
            VOLUME_GONE,
            NODE_GONE,
            NODE_CORDONED,
            CREATING,
            RESIZING,
            SEALING,
            SEAL_FAILED,
            VERIFY_FAILED,
            BACKING_FAILED,
            BACKING_LOST,
            DESTROYING,
        ],
        &DISK,
    ),
];

/// The same of a reservation. A limit, a guarantee and a full list have their own numbers.
static OF_RESERVATION: &[(&[&str], &Kind)] = &[
    (&[PARENT_NOT_RESERVED, PARENT_FULL], &RESERVATION),
    (&[NOT_ENOUGH_ROOM, NODE_CORDONED, DISK_GONE, DISK_MOVED, NODE_GONE], &DISK),
];

/// True if trouble of an object of kind `cause` may be the cause of this reason. What the kubelet or the scheduler reports is
/// about what the pod uses.
pub(super) fn may_cause(cause: &Kind, kind: &Kind, reason: &str) -> bool {
    let known = match kind.name {
        "VolumeClaim" => OF_CLAIM,
        "SharedPersistentVolume" => OF_VOLUME,
        "DiskReservation" => OF_RESERVATION,
        "Pod" if reason == TERMINATING => return cause == &DISK,
        "Pod" => return !pods::is_own_cause(reason),
        _ => return true,
    };
    known.iter().any(|(reasons, of)| *of == cause && reasons.contains(&reason))
}

/// Reasons of an object that waits for a larger reservation.
const SPACE: &[&str] = &[NO_RESERVATION, RESERVATION_FULL, NO_PARENT, PARENT_NOT_RESERVED, PARENT_FULL];

/// True if the reservation is being deleted. It gives nothing more to what is in it, whatever ends there.
fn is_ending(snapshot: &Snapshot, reservation: &str) -> bool {
    let is_it = |r: &&DiskReservation| r.name_any() == reservation && r.metadata.deletion_timestamp.is_some();
    snapshot.reservations.iter().any(|r| is_it(&r))
}

fn has_trouble(snapshot: &Snapshot, target: &Target) -> bool {
    reports(snapshot, target).is_some_and(|reports| reports.iter().any(|report| report.trouble))
}

/// The objects with trouble that the object may wait for, nearest first.
fn upstream(snapshot: &Snapshot, target: &Target) -> Vec<Target> {
    let namespace = target.namespace.as_deref();
    let own: Vec<Report> = reports(snapshot, target).unwrap_or_default();
    let own: Vec<&str> =
        own.iter().filter(|report| report.trouble).map(|report| report.reason.as_str()).collect();
    // A healthy claim or pod may have a volume with trouble, and a healthy reservation a disk.
    if own.is_empty() && target.kind == &VOLUME {
        return vec![];
    }
    let causes = |cause: &Target| {
        own.is_empty() || own.iter().any(|reason| may_cause(cause.kind, target.kind, reason))
    };
    let existing = |kind: &'static Kind, namespace: Option<&str>, name: &str| {
        let item = snapshot.find(kind, namespace, name)?;
        Some(Target { kind, namespace: item.namespace, name: item.name })
    };
    let named = |kind: &'static Kind, name: Option<&str>| name.and_then(|name| existing(kind, None, name));
    let candidates: Vec<Option<Target>> = if target.kind.workload {
        workloads::pods_of_workload(snapshot, target)
            .into_iter()
            .map(|pod| Some(Target::new(&POD, pod.namespace(), pod.name_any())))
            .collect()
    } else if pods::is_node_lost(snapshot, target) {
        vec![]
    } else if target.kind == &POD {
        let mut claims = target.find_pod(snapshot).map(cluster::claims_of).unwrap_or_default();
        let taken = target.find_pod(snapshot).and_then(|pod| taken_name(snapshot, pod));
        claims.retain(|(_, name)| taken.as_ref().is_none_or(|(_, taken)| taken != name));
        let of = |(namespace, name): (String, String)| {
            let claim = existing(&CLAIM, Some(&namespace), &name);
            let claim = claim.filter(|_| !snapshot.is_name_taken(Some(&namespace), &name));
            claim.or_else(|| Some(Target::new(&PVC, Some(namespace), name)))
        };
        let ending = target.find_pod(snapshot).and_then(|pod| ending_pod::disk_of(snapshot, pod));
        let disk = pods::lost_disk(snapshot, target).or(ending).map(|disk| Target::new(&DISK, None, disk));
        // The pod is the cause, and its volume is made after it was placed.
        let waits_for_it = |t: &Target| t.kind == &PVC && pvcs::unscheduled_pod(snapshot, t).is_some();
        let claims = claims.into_iter().map(of).map(|t| t.filter(|t| !waits_for_it(t)));
        claims.chain([disk]).collect()
    } else if target.kind == &PVC {
        let volume = target.find_pvc(snapshot).and_then(|pvc| snapshot.made_for(pvc));
        vec![named(&VOLUME, volume.map(ResourceExt::name_any).as_deref())]
    } else if target.kind == &CLAIM {
        let claim = snapshot.claim(namespace, &target.name);
        let bound = claim.and_then(|c| c.status.as_ref()?.volume.as_ref()).map(|v| v.name.as_str());
        let volume = bound.or(claim.and_then(|c| c.spec.volume.as_deref()));
        // A claim that has left its volume waits for others.
        let has_left = |name: &&str| {
            let lists = |v: &SharedPersistentVolume| {
                v.name_any() == *name && claim.is_some_and(|claim| bind::is_bound(v, claim))
            };
            own.contains(&RELEASING) && !snapshot.volumes.iter().any(lists)
        };
        vec![named(&VOLUME, volume.filter(|name| !has_left(name)))]
    } else if target.kind == &VOLUME {
        let Some(volume) = snapshot.volumes.iter().find(|v| v.name_any() == target.name) else {
            return vec![];
        };
        let status = volume.status.as_ref();
        let reservation = status.and_then(|s| s.reservation.as_ref()).map(|r| r.name.as_str());
        // A reservation that is being deleted takes no new volume and gets no larger, and its own wait is no cause.
        let is_lasting = |name: &&str| !is_ending(snapshot, name);
        let (reservation, asked) =
            (reservation.filter(is_lasting), volume.spec.reservation.as_deref().filter(is_lasting));
        let is_usable = |r: &&DiskReservation| {
            r.metadata.deletion_timestamp.is_none() && Role::name_covers(&r.spec.role, &volume.spec.role)
        };
        let usable = snapshot.reservations.iter().find(is_usable).map(ResourceExt::name_any);
        let usable = usable.filter(|_| status.is_none_or(|s| s.node_disk.is_none()));
        let usable = usable.filter(|_| volume.spec.reservation.is_none());
        let reservation = reservation.or(asked).map(str::to_owned).or(usable);
        let disk = status.and_then(|s| s.node_disk.as_deref());
        // Other files take space, and no volume's data.
        let takes_space = |disk: &str| {
            let found = snapshot.find(&DISK, None, disk);
            found.is_some_and(|item| item.ready().is_some_and(|ready| ready.reason == SPACE_TAKEN))
        };
        let disk = disk.filter(|disk| !(own.contains(&BACKING_LOST) && takes_space(disk)));
        vec![named(&RESERVATION, reservation.as_deref()), named(&DISK, disk)]
    } else if target.kind == &RESERVATION {
        let Some(r) = snapshot.reservations.iter().find(|r| r.name_any() == target.name) else {
            return vec![];
        };
        let disk = r.status.as_ref().and_then(|s| s.node_disk.as_deref()).or(r.spec.node_disk.as_deref());
        let parent =
            r.spec.parent.as_deref().filter(|parent| !own.is_empty() && !is_ending(snapshot, parent));
        vec![named(&RESERVATION, parent), named(&DISK, disk)]
    } else {
        vec![]
    };
    let troubled = |t: &Target| {
        if t.kind == &POD || t.kind == &PVC {
            return reports(snapshot, t).is_none_or(|reports| reports.iter().any(|report| report.trouble))
                || t.kind == &PVC && !upstream(snapshot, t).is_empty();
        }
        let serves = |v: &SharedPersistentVolume| v.name_any() == t.name && destroy::serves_users(v);
        if own.is_empty() && t.kind == &VOLUME && snapshot.volumes.iter().any(serves) {
            return false;
        }
        let not_ready =
            snapshot.find(t.kind, t.namespace.as_deref(), &t.name).is_some_and(|item| !item.is_ready());
        not_ready
            // A reservation that is to be larger is Ready meanwhile.
            || t.kind == &RESERVATION && own.iter().any(|r| SPACE.contains(r)) && has_trouble(snapshot, t)
            || t.kind == &CLAIM && !upstream(snapshot, t).is_empty()
    };
    candidates.into_iter().flatten().filter(causes).filter(troubled).collect()
}

#[cfg(test)]
mod tests;
