//! The holders of an object, its content, and its position in the queue.

use std::collections::BTreeSet;
use std::fmt::Display;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;

use super::events::{message_of, time_of};
use super::placing;
use super::target::Target;
use crate::api::condition::reason::{BACKING_LOST, COPY_DIFFERS, NEARLY_FULL, SEAL_WITHDRAWN, VOLUME_SEALED};
use crate::api::condition::{self, TEMPLATED};
use crate::api::{
    AccessMode, ClaimBinding, DiskReservation, LedgerEntry, NodeDisk, PodRef, SharedPersistentVolume,
    SharedPersistentVolumeStatus, VolumeRole,
};
use crate::cluster;
use crate::plan::candidate::{self, Candidate};
use crate::plan::{self, advice, node_disk, seal, share, template, verify};
use crate::plugin::kind::{CLAIM, DISK, POD, PVC, RESERVATION, ROLE, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// One line for each kind of holder, for the content, and for the reservations that are served earlier.
pub(super) fn holders(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |relation: &str, names: String| {
        if !names.is_empty() {
            lines.push(format!("{relation} {names}"));
        }
    };
    for (volume, message) in full_volumes(snapshot, target) {
        add(&format!("its volume {} is NearlyFull:", volume.name_any()), message);
    }
    for (volume, word) in closed_volumes(snapshot, target) {
        add(&format!("its volume {volume} is {word}:"), "no new pod writes to it".into());
    }
    for event in told(snapshot, target) {
        let of = event.involved_object.name.as_deref().unwrap_or_default();
        add(
            &format!("event {} of pod {of}:", event.reason.as_deref().unwrap_or_default()),
            message_of(event),
        );
    }
    for (volume, disk) in lost_volumes(snapshot, target) {
        add(
            &format!("its volume {volume} is on NodeDisk {disk},"),
            "which was declared gone: its data is given up".into(),
        );
    }
    if target.kind == &PVC {
        let pvc = snapshot.pvc(target.namespace.as_deref(), &target.name);
        if pvc.and_then(|pvc| snapshot.made_for(pvc)).is_none() {
            return lines;
        }
        let users = snapshot.pods_of(target.namespace.as_deref().unwrap_or_default(), &target.name);
        let users: Vec<String> = users.map(|p| cluster::pod_ref(p).to_string()).collect();
        add("used by pod", all_names(&users));
        add("its volume", ending(pvc.and_then(|pvc| snapshot.made_for(pvc))));
    } else if target.kind == &CLAIM {
        let claim = snapshot.claim(target.namespace.as_deref(), &target.name);
        let users = snapshot.users_of(target.namespace.as_deref().unwrap_or_default(), &target.name);
        let users: Vec<String> = users.map(|p| cluster::pod_ref(p).to_string()).collect();
        add("used by pod", all_names(&users));
        let bound = snapshot.volume_of(target.namespace.as_deref().unwrap_or_default(), &target.name);
        add("its volume", ending(bound));
        let volume = claim.and_then(|c| c.spec.volume.as_ref());
        let volume =
            snapshot.volumes.iter().find(|v| Some(&v.name_any()) == volume && v.spec.shared.is_none());
        let uid = claim.and_then(|c| c.metadata.uid.as_deref());
        if let Some(status) = volume.and_then(|v| v.status.as_ref()) {
            let others: Vec<String> = status
                .claims
                .iter()
                .filter(|b| Some(b.uid.as_str()) != uid)
                .map(ToString::to_string)
                .collect();
            add("its volume is held by claim", all_names(&others));
            let users: Vec<String> = status.users.iter().map(ToString::to_string).collect();
            if !others.is_empty() && !users.is_empty() {
                add("and used by pod", plan::names(&users, status.user_count as usize));
            }
        }
    } else if target.kind == &VOLUME {
        let volume = snapshot.volumes.iter().find(|v| v.name_any() == target.name);
        if let Some(of) = volume.and_then(|volume| volume.spec.copy_of.as_ref()) {
            add("it is a copy of volume", format!("{}, for node {}", of.name, of.node));
        }
        if let Some(status) = volume.and_then(|volume| volume.status.as_ref()) {
            let claims: Vec<String> = status.claims.iter().map(|c| format!("{c} ({:?})", c.mode)).collect();
            add("claimed by", all_names(&claims));
            let listed = status.users.iter().filter(|user| !has_anothers(snapshot, status, user));
            let users: Vec<String> = listed.map(ToString::to_string).collect();
            if !users.is_empty() {
                let others = status.users.len() - users.len();
                add("used by pod", plan::names(&users, status.user_count as usize - others));
            }
        }
    } else if target.kind == &RESERVATION {
        let reservation = snapshot.reservations.iter().find(|r| r.name_any() == target.name);
        let status = reservation.and_then(|r| r.status.clone()).unwrap_or_default();
        if let Some((reservation, of)) = reservation.and_then(|r| Some((r, r.spec.template.as_ref()?))) {
            let end = left_by_template(snapshot, reservation).unwrap_or_default();
            add("it is of template", format!("{} of VolumeRole {}{end}", of.name, of.volume_role));
        }
        if let Some(reservation) = reservation.filter(|r| r.spec.is_static) {
            let from = match is_unconfigured(snapshot, reservation) {
                true => "and not in the agents' configuration any more: it ends with its last volume",
                false => "from the agents' configuration",
            };
            add("it is static,", from.into());
        }
        let cordoned = cordoned_node(snapshot, status.node_disk.as_ref()).unwrap_or_default();
        add("nothing new is placed in it, since it is on cordoned node", cordoned);
        add("holds volume", entries(&status.volumes));
        add("holds reservation", entries(&status.refinements));
        let queue: Vec<String> = queue(snapshot)
            .iter()
            .map(|r| format!("{} ({}, {})", r.name_any(), r.spec.role, r.spec.size))
            .collect();
        let position = queue.iter().position(|entry| entry.starts_with(&format!("{} (", target.name)));
        match position {
            Some(0) => add("it is first in the queue for free space,", "by the shares of the roles".into()),
            Some(position) => {
                add("before it in the queue, by the shares of the roles:", all_names(&queue[..position]));
            }
            None => {}
        }
    } else if target.kind == &DISK {
        let disk = snapshot.disks.iter().find(|d| d.name_any() == target.name);
        let status = disk.and_then(|disk| disk.status.as_ref());
        add("holds reservation", status.map(|s| entries(&s.reservations)).unwrap_or_default());
        let users = users_of_disk(snapshot, &target.name);
        add("its volumes are used by pod", all_names(&users));
        let orphans = disk.into_iter().flat_map(|disk| snapshot.lost(disk));
        let orphans: Vec<String> = orphans.map(|o| format!("{} ({})", o.uid, o.name)).collect();
        add("has data without an object:", all_names(&orphans));
        let unlisted = disk.and_then(plan::orphans::unlisted).map(|others| others.count.to_string());
        add("has more data without an object, volumes:", unlisted.unwrap_or_default());
    } else if target.kind == &ROLE {
        let role =
            snapshot.roles.iter().find(|r| r.name_any() == target.name).and_then(|r| r.status.as_ref());
        add("has reserved", role.map(|s| entries(&s.reservations)).unwrap_or_default());
    }
    lines
}

/// The line and the step about a volume, or the one of a claim, on a cordoned node, if pods on no other node can use it.
pub(super) fn keeps_pods_off(snapshot: &Snapshot, target: &Target) -> Option<(String, String)> {
    let of = || claims(snapshot, target).into_iter().find_map(|(of, name)| snapshot.volume_of(&of, &name));
    let volume = match target.kind {
        kind if kind == &VOLUME => snapshot.volumes.iter().find(|v| v.name_any() == target.name),
        kind if kind == &POD => None,
        _ => of(),
    };
    let is_alone = |volume: &&SharedPersistentVolume| {
        volume.spec.copy_of.is_none() && placing::copies_on(snapshot, volume).is_empty()
    };
    let alone = volume.filter(is_alone)?;
    let node = cordoned_node(snapshot, alone.status.as_ref()?.node_disk.as_ref())?;
    let line = format!("it is on node {node}, which is cordoned");
    Some((line, advice::uncordon(&node, alone.name_any())))
}

/// The node of a disk, if that is cordoned.
fn cordoned_node(snapshot: &Snapshot, disk: Option<&String>) -> Option<String> {
    let on = snapshot.disks.iter().find(|of| disk.is_some() && of.metadata.name.as_ref() == disk);
    on.filter(|disk| candidate::is_cordoned(disk)).map(|disk| disk.spec.node_name.clone())
}

/// The sentence about a volume that is being destroyed; empty for any other volume.
fn ending(volume: Option<&SharedPersistentVolume>) -> String {
    let ending = volume.filter(|volume| volume.is_ending());
    ending.map_or_else(String::new, |volume| format!("{} is destroyed after its last use", volume.name_any()))
}

/// Why the template of a reservation does not make it anew.
pub(super) fn left_by_template(snapshot: &Snapshot, reservation: &DiskReservation) -> Option<&'static str> {
    let of = reservation.spec.template.as_ref()?;
    let has = |role: &&VolumeRole| role.spec.reservation_templates.iter().any(|t| t.name == of.name);
    let role = snapshot.roles.iter().find(|role| role.name_any() == of.volume_role).filter(has);
    let templated = role.and_then(|role| condition::get(&role.status.as_ref()?.conditions, TEMPLATED));
    // The condition names the first ones alone, and not every caller sees nodes.
    let disks: Vec<&NodeDisk> = snapshot.disks.iter().collect();
    let nodes = template::labels(&snapshot.nodes);
    let is_unselected = role.is_some_and(|role| template::is_left(role, reservation, &disks, &nodes))
        || templated
            .is_some_and(|templated| template::says_unselected(&templated.message, &reservation.name_any()));
    match (role, is_unselected) {
        (None, _) => Some(", which is gone: it ends with its last volume"),
        (_, true) => Some(", which does not select its node any more: it ends with its last volume"),
        _ => None,
    }
}

/// True for a static reservation that was taken out of the agent's configuration, and is in use.
pub(super) fn is_unconfigured(snapshot: &Snapshot, reservation: &DiskReservation) -> bool {
    let on = snapshot.disks.iter().find(|disk| disk.metadata.name == reservation.spec.node_disk);
    let names = on.and_then(node_disk::not_configured).map(|(_, names)| names).unwrap_or_default();
    reservation.spec.is_static && names.contains(&reservation.name_any().as_str())
}

/// True if another one's PersistentVolumeClaim has the name of each claim by which the pod would use the volume.
fn has_anothers(snapshot: &Snapshot, status: &SharedPersistentVolumeStatus, user: &PodRef) -> bool {
    let Some(pod) = snapshot.pods.iter().find(|pod| pod.metadata.uid.as_ref() == Some(&user.uid)) else {
        return false;
    };
    let named = cluster::claims_of(pod);
    let is_its = |claim: &&ClaimBinding| {
        named.iter().any(|(namespace, name)| claim.namespace == *namespace && claim.name == *name)
    };
    let mut claims = status.claims.iter().filter(is_its).peekable();
    let is_taken = |claim: &ClaimBinding| {
        claim.pvc_uid.is_none() && snapshot.is_name_taken(Some(&claim.namespace), &claim.name)
    };
    claims.peek().is_some() && claims.all(is_taken)
}

/// The claims of a pod, or the claim that is asked about.
fn claims(snapshot: &Snapshot, target: &Target) -> Vec<(String, String)> {
    match target.find_pod(snapshot).filter(|_| target.kind == &POD) {
        Some(pod) => cluster::claims_of(pod),
        None if [&CLAIM, &PVC].contains(&target.kind) => {
            vec![(target.namespace.clone().unwrap_or_default(), target.name.clone())]
        }
        None => vec![],
    }
}

/// The volumes to which a pod could write before their seal, and the words for that (E1). A claim says so in its condition.
fn closed_volumes(snapshot: &Snapshot, target: &Target) -> Vec<(String, &'static str)> {
    let closed = |(namespace, name): (String, String)| {
        let writes = snapshot
            .claim(Some(&namespace), &name)
            .is_none_or(|claim| claim.spec.mode == AccessMode::ReadWrite);
        let volume = snapshot.volume_of(&namespace, &name).filter(|_| writes)?;
        Some((volume.name_any(), seal::closed(volume)?))
    };
    let claims = if target.kind == &POD { claims(snapshot, target) } else { vec![] };
    claims.into_iter().filter_map(closed).collect()
}

/// The agent's events about the pods of the target, as far as no object that the caller may see shows the same: the fill of a
/// volume, its seal, bytes that differ or are lost, or that a pod reads on after the seal was taken back. One event for each pod and matter, the last.
fn told<'a>(snapshot: &'a Snapshot, target: &Target) -> Vec<&'a Event> {
    let pods: Vec<&Pod> = match target.find_pod(snapshot).filter(|_| target.kind == &POD) {
        Some(pod) => vec![pod],
        None => claims(snapshot, target)
            .iter()
            .flat_map(|(namespace, name)| snapshot.pods_of(namespace, name))
            .collect(),
    };
    let matters: [&[&str]; 4] =
        [&[NEARLY_FULL], &[VOLUME_SEALED, SEAL_WITHDRAWN], &[COPY_DIFFERS], &[BACKING_LOST]];
    let last = |pod: &&'a Pod, matter: &&[&str]| {
        let of = |event: &&Event| {
            event.involved_object.uid.is_some()
                && event.involved_object.uid == pod.metadata.uid
                && event.reason.as_deref().is_some_and(|reason| matter.contains(&reason))
        };
        snapshot.events.iter().filter(of).max_by_key(|event| time_of(event))
    };
    let events = pods.iter().flat_map(|pod| matters.iter().filter_map(move |matter| last(pod, matter)));
    // Whoever sees the volume is told its present state instead.
    let is_told = |event: &&Event| event.reason.as_deref() == Some(SEAL_WITHDRAWN) || !snapshot.sees(&VOLUME);
    events.filter(is_told).collect()
}

/// The step for a pod that began to read a volume before its seal was taken back, and reads on.
pub(super) fn reads_on_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let events = told(snapshot, target);
    let event = events.iter().find(|event| event.reason.as_deref() == Some(SEAL_WITHDRAWN))?;
    let pod = event.involved_object.name.as_deref()?;
    Some(advice::make_pod_for_writing(pod, event.involved_object.namespace.as_deref()?))
}

/// The step about such events, or about the words of a claim on files that differ, for a healthy claim or pod.
pub(super) fn told_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let is_trouble = |event: &&Event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        [NEARLY_FULL, COPY_DIFFERS, BACKING_LOST].contains(&reason)
    };
    if told(snapshot, target).iter().any(is_trouble) {
        return Some(advice::have_events_looked_at(target.argument()));
    }
    if let Some(step) = reads_on_step(snapshot, target) {
        return Some(step);
    }
    let says_differs = |(namespace, name): &(String, String)| {
        let status = snapshot.claim(Some(namespace), name).and_then(|claim| claim.status.as_ref());
        let ready = status.and_then(|status| condition::get(&status.conditions, condition::READY));
        ready.is_some_and(|ready| verify::says_differs(&ready.message)) && !snapshot.sees(&VOLUME)
    };
    let claims = claims(snapshot, target);
    let (namespace, name) = claims.iter().find(|of| says_differs(of))?;
    Some(advice::have_administrator_ask(CLAIM.argument(name, Some(namespace))))
}

/// The volumes of a pod on disks that were declared gone, and these.
fn lost_volumes(snapshot: &Snapshot, target: &Target) -> Vec<(String, String)> {
    let claims = if target.kind == &POD { claims(snapshot, target) } else { vec![] };
    let lost = claims.iter().filter_map(|(namespace, name)| {
        let volume = snapshot.volume_of(namespace, name)?;
        let disk = volume.status.as_ref()?.node_disk.clone()?;
        let is_gone = |of: &&NodeDisk| of.spec.gone && of.metadata.name.as_ref() == Some(&disk);
        snapshot.disks.iter().find(is_gone).map(|_| (volume.name_any(), disk.clone()))
    });
    lost.collect()
}

/// The pods that use volumes of a disk.
pub(super) fn users_of_disk<'a>(snapshot: &'a Snapshot, disk: &str) -> Vec<&'a PodRef> {
    let on = snapshot.volumes.iter().flat_map(|volume| &volume.status);
    let on = on.filter(|status| status.node_disk.as_deref() == Some(disk));
    let users: BTreeSet<&PodRef> = on.flat_map(|status| &status.users).collect();
    users.into_iter().collect()
}

/// The volumes of a claim or of a pod of which nearly all is taken, and the messages.
pub(super) fn full_volumes<'a>(
    snapshot: &'a Snapshot,
    target: &Target,
) -> Vec<(&'a SharedPersistentVolume, String)> {
    let full = claims(snapshot, target);
    let full = full.iter().filter_map(|(namespace, name)| {
        let volume = snapshot.volume_of(namespace, name)?;
        let full = condition::get(&volume.status.as_ref()?.conditions, NEARLY_FULL)?;
        Some((volume, full.message.clone()))
    });
    full.collect()
}

fn entries(ledger: &[LedgerEntry]) -> String {
    let each = |entry: &LedgerEntry| match &entry.kept {
        Some(kept) => format!("{} ({}, destroyed, kept until {})", entry.name, entry.size, kept.until.0),
        None => format!("{} ({})", entry.name, entry.size),
    };
    ledger.iter().map(each).collect::<Vec<_>>().join(", ")
}

fn all_names<T: Display>(items: &[T]) -> String {
    if items.is_empty() { String::new() } else { plan::names(items, items.len()) }
}

/// The reservations that wait for free space, in the order of the shares of their roles.
pub(super) fn queue(snapshot: &Snapshot) -> Vec<&DiskReservation> {
    let all: Vec<_> = snapshot.reservations.iter().collect();
    let candidates: Vec<_> =
        snapshot.disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
    // Free space of a disk that is away is no space to wait for.
    let ready: Vec<NodeDisk> =
        snapshot.disks.iter().filter(|disk| candidate::is_ready(disk)).cloned().collect();
    let order = share::in_order(&all, &candidates, &snapshot.roles.iter().collect::<Vec<_>>());
    order.into_iter().filter(|r| candidate::waits_for_space(r, &ready)).collect()
}
