//! The holders of an object, its content, and its position in the queue.

use kube::ResourceExt;

use super::target::Target;
use crate::api::condition::{self, NEARLY_FULL, TEMPLATED};
use crate::api::{LedgerEntry, NodeDisk, SharedPersistentVolume, VolumeRole};
use crate::cluster;
use crate::plan::candidate::{self, Candidate};
use crate::plan::template::UNSELECTED;
use crate::plan::{self, share};
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
    if target.kind == &PVC {
        let pvc = snapshot.pvc(target.namespace.as_deref(), &target.name);
        if pvc.and_then(|pvc| snapshot.made_for(pvc)).is_none() {
            return lines;
        }
        let users = snapshot.pods_of(target.namespace.as_deref().unwrap_or_default(), &target.name);
        let users: Vec<String> = users.map(|p| cluster::pod_ref(p).to_string()).collect();
        add("used by pod", all_names(&users));
    } else if target.kind == &CLAIM {
        let claim = snapshot.claim(target.namespace.as_deref(), &target.name);
        let users = snapshot.pods_of(target.namespace.as_deref().unwrap_or_default(), &target.name);
        let users: Vec<String> = users.map(|p| cluster::pod_ref(p).to_string()).collect();
        add("used by pod", all_names(&users));
        let bound = snapshot.volume_of(target.namespace.as_deref().unwrap_or_default(), &target.name);
        let ends = |v: &&SharedPersistentVolume| v.metadata.deletion_timestamp.is_some() || v.spec.retire;
        if let Some(ending) = bound.filter(ends) {
            add("its volume", format!("{} is destroyed after its last use", ending.name_any()));
        }
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
        let status =
            snapshot.volumes.iter().find(|v| v.name_any() == target.name).and_then(|v| v.status.as_ref());
        if let Some(status) = status {
            let claims: Vec<String> = status.claims.iter().map(|c| format!("{c} ({:?})", c.mode)).collect();
            add("claimed by", all_names(&claims));
            let users: Vec<String> = status.users.iter().map(ToString::to_string).collect();
            if !users.is_empty() {
                add("used by pod", plan::names(&users, status.user_count as usize));
            }
        }
    } else if target.kind == &RESERVATION {
        let reservation = snapshot.reservations.iter().find(|r| r.name_any() == target.name);
        let status = reservation.and_then(|r| r.status.clone()).unwrap_or_default();
        if let Some(of) = reservation.and_then(|r| r.spec.template.as_ref()) {
            let has = |role: &&VolumeRole| role.spec.reservation_templates.iter().any(|t| t.name == of.name);
            let role = snapshot.roles.iter().find(|role| role.name_any() == of.volume_role).filter(has);
            let templated =
                role.and_then(|role| condition::get(&role.status.as_ref()?.conditions, TEMPLATED));
            let is_unselected = templated.is_some_and(|templated| {
                templated.message.contains(UNSELECTED) && templated.message.contains(&target.name)
            });
            let end = match (role, is_unselected) {
                (None, _) => ", which is gone: it ends with its last volume",
                (_, true) => ", which does not select its node any more: it ends with its last volume",
                _ => "",
            };
            add("it is of template", format!("{} of VolumeRole {}{end}", of.name, of.volume_role));
        }
        if reservation.is_some_and(|r| r.spec.is_static) {
            add("it is static,", "from the agents' configuration".into());
        }
        let on = snapshot.disks.iter().find(|disk| Some(disk.name_any()) == status.node_disk);
        if let Some(disk) = on.filter(|disk| candidate::is_cordoned(disk)) {
            add("nothing new is placed in it, since it is on cordoned node", disk.spec.node_name.clone());
        }
        add("holds volume", entries(&status.volumes));
        add("holds reservation", entries(&status.refinements));
        let all: Vec<_> = snapshot.reservations.iter().collect();
        let candidates: Vec<_> =
            snapshot.disks.iter().map(|disk| Candidate { disk, node_labels: None }).collect();
        // Free space of a disk that is away is no space to wait for.
        let ready: Vec<NodeDisk> =
            snapshot.disks.iter().filter(|disk| candidate::is_ready(disk)).cloned().collect();
        let queue: Vec<String> =
            share::in_order(&all, &candidates, &snapshot.roles.iter().collect::<Vec<_>>())
                .into_iter()
                .filter(|r| candidate::waits_for_space(r, &ready))
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
        let disk =
            snapshot.disks.iter().find(|d| d.name_any() == target.name).and_then(|d| d.status.as_ref());
        add("holds reservation", disk.map(|s| entries(&s.reservations)).unwrap_or_default());
        let orphans: Vec<String> = disk
            .iter()
            .flat_map(|s| plan::orphans::lost(s))
            .map(|o| format!("{} ({})", o.uid, o.name))
            .collect();
        add("has data without an object:", all_names(&orphans));
        let unlisted = disk.and_then(|s| s.unlisted_orphans.as_ref()).map(|others| others.count.to_string());
        add("has more data without an object, volumes:", unlisted.unwrap_or_default());
    } else if target.kind == &ROLE {
        let role =
            snapshot.roles.iter().find(|r| r.name_any() == target.name).and_then(|r| r.status.as_ref());
        add("has reserved", role.map(|s| entries(&s.reservations)).unwrap_or_default());
    }
    lines
}

/// The volumes of a claim or of a pod of which nearly all is taken, and the messages.
pub(super) fn full_volumes<'a>(
    snapshot: &'a Snapshot,
    target: &Target,
) -> Vec<(&'a SharedPersistentVolume, String)> {
    let claims = match target.find_pod(snapshot).filter(|_| target.kind == &POD) {
        Some(pod) => cluster::claims_of(pod),
        None if [&CLAIM, &PVC].contains(&target.kind) => {
            vec![(target.namespace.clone().unwrap_or_default(), target.name.clone())]
        }
        None => vec![],
    };
    let full = claims.iter().filter_map(|(namespace, name)| {
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

fn all_names(items: &[String]) -> String {
    if items.is_empty() { String::new() } else { plan::names(items, items.len()) }
}
