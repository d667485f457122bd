//! The nodes on which a pod can run: that of its volumes, and those with free space for what it waits for.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodCondition, Taint};
use kube::ResourceExt;

use super::copy_labels;
use super::events::last_event;
use super::excluded::{self, excludes};
use super::owners::{again, daemon_set_of, taken_name};
use super::report::Report;
use super::space::{has_free, space_step};
use super::target::Target;
use crate::api::condition::{self, READY};
use crate::api::{DiskReservation, NodeDisk, Role, SharedPersistentVolume, TOPOLOGY_NODE};
use crate::cluster;
use crate::plan::candidate::is_cordoned;
use crate::plan::enlarge::new_name;
use crate::plan::node_labels::serves_new_pods;
use crate::plan::pvc_provisioner::class;
use crate::plan::{advice, holder, names, startup_taint};
use crate::plugin::kind::{DISK, PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;
use crate::plugin::taints;

/// The reason of a pod that asks for another node than its volume's, or has volumes on several nodes.
pub(super) const OTHER_NODE: &str = "OtherNode";

/// The reason of a pod that the scheduler cannot place on the node of its volume.
pub(super) const VOLUME_NODE: &str = "VolumeNode";

/// The time after which the scheduler has tried a pod again for which space was reserved, or whose StorageClass was made.
const SCHEDULED_WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// The report of a pod that cannot run on the node of its volume. `message` is that of the scheduler.
pub(super) fn report(snapshot: &Snapshot, target: &Target, pod: &Pod, message: &str) -> Option<Report> {
    let place = other_node(snapshot, pod)?;
    let Placed { volume, node, copies_on, is_unsure, .. } = &place.own;
    let places = match &**copies_on {
        [] if *is_unsure => {
            format!("its volume {volume}, whose copies may not be seen with your rights, is on node {node}")
        }
        [] => format!("its volume {volume} is on node {node}"),
        nodes if *is_unsure => {
            let nodes = names(nodes, nodes.len());
            format!(
                "its volume {volume}, whose other copies may not be seen with your rights, is on node {node}, and has complete copies on {nodes}"
            )
        }
        nodes => {
            let nodes = names(nodes, nodes.len());
            format!("its volume {volume} is on node {node}, and has complete copies on {nodes}")
        }
    };
    let on = match copies_on.is_empty() || !place.is_shut {
        true => places.clone(),
        false => format!("{places}; the pod can start on none of them now: not on node {}", place.at),
    };
    let taint = place
        .taint
        .as_ref()
        .map(|taint| format!(", whose taint {} it does not tolerate", taints::text(taint)));
    let apart = place.kept_from.map(|other| {
        format!(", where its podAntiAffinity keeps it away from pod {}", cluster::pod_ref(other))
    });
    let lacks = space_beside(snapshot, pod).and_then(|(pvc, _)| {
        let role = snapshot.wanted(pvc)?.spec.role;
        let pvc = pvc.name_any();
        Some(format!(", where role {role} has too little free space for its PersistentVolumeClaim {pvc}"))
    });
    let why = match (&place.other, &place.asked) {
        (Some((volume, node)), _) => {
            format!("{places}, and its volume {volume} on node {node}: no node has both")
        }
        (None, None) if place.is_cordoned => format!("{on}, which is cordoned"),
        (None, Some(asked)) => {
            let lacks = copy_labels::missing(snapshot, volume, asked).unwrap_or_default();
            match daemon_set_of(pod) {
                Some(of) => {
                    format!("{places}, and the pod is that of DaemonSet {of} for node {asked}{lacks}")
                }
                None => format!("{places}, and the pod asks for node {asked}{lacks}"),
            }
        }
        (None, None) => format!("{on}{}: {message}", taint.or(apart).or(lacks).unwrap_or_default()),
    };
    let elsewhere = place.other.is_some() || place.asked.is_some();
    Some(Report::of(target.title(), if elsewhere { OTHER_NODE } else { VOLUME_NODE }, why, true))
}

/// Why a pod is on no node with its volume.
struct Place<'a> {
    own: Placed,
    /// Another volume of the pod on another node, and that node.
    other: Option<(String, String)>,
    /// The other node that the pod's spec asks for.
    asked: Option<String>,
    /// True if the nodes of the volume and of its copies refuse the pod.
    is_shut: bool,
    /// The first of these nodes that nothing but a cordon keeps the pod from, or else the volume's.
    at: String,
    /// True if that node is cordoned.
    is_cordoned: bool,
    /// The first taint of that node that the pod does not tolerate.
    taint: Option<&'a Taint>,
    /// The pod there that its anti-affinity keeps it away from.
    kept_from: Option<&'a Pod>,
}

/// The first volume of the pod on another node than the pod asks for, or one that the scheduler cannot place the pod at, for
/// example a cordoned one.
fn other_node<'a>(snapshot: &'a Snapshot, pod: &Pod) -> Option<Place<'a>> {
    // No scheduler looks for a node.
    let spec = pod.spec.as_ref().filter(|_| gate(pod).is_none())?;
    let selected = spec.node_selector.as_ref().and_then(|labels| labels.get("kubernetes.io/hostname"));
    let bound = asked_by_affinity(pod);
    let asked = spec.node_name.as_ref().or(selected).or(bound.as_ref());
    let unscheduled = unscheduled(pod);
    let says = |part: &str| {
        unscheduled.and_then(|c| c.message.as_ref()).is_some_and(|message| message.contains(part))
    };
    let by_volume = says("PersistentVolume's node affinity");
    let claims = cluster::claims_of(pod);
    let volumes: Vec<_> =
        claims.iter().filter_map(|(namespace, name)| placed(snapshot, namespace, name)).collect();
    volumes.iter().find_map(|placed| {
        let Placed { node, disk, .. } = placed;
        let asked = asked.filter(|asked| !placed.is_on(asked)).cloned();
        let other = volumes.iter().filter(|other| !placed.is_unsure && !other.is_unsure);
        let other = other.into_iter().find(|other| !placed.nodes().any(|node| other.is_on(node)));
        let other = other.map(|other| (other.volume.clone(), other.node.clone()));
        let cordons =
            |on: &str| snapshot.disks.iter().any(|disk| disk.spec.node_name == on && is_cordoned(disk));
        let taint_of = |on: &str| {
            let is_hard = |taint: &&Taint| !taints::is_tolerated(taint, spec.tolerations.as_ref());
            snapshot.node(on).and_then(|node| taints::of(node).find(is_hard))
        };
        let kept_from = |on: &str| excluded::kept_from(snapshot, pod, on);
        let refuses = |on: &str| cordons(on) || taint_of(on).is_some() || kept_from(on).is_some();
        let is_shut = unscheduled.is_some() && placed.nodes().all(|on| refuses(on));
        let is_only_cordoned = |on: &&String| taint_of(on).is_none() && kept_from(on).is_none();
        let at = is_shut.then(|| placed.nodes().find(is_only_cordoned)).flatten().unwrap_or(node);
        // A caller without the right to see disks has the scheduler's words.
        let is_cordoned = match snapshot.sees(&DISK) && disk.is_some() {
            true => is_shut && cordons(at),
            false => unscheduled.and_then(|c| c.message.as_deref()).is_some_and(names_cordoned_alone),
        };
        let taint = taint_of(at).filter(|_| is_shut);
        let kept_from = kept_from(at).filter(|_| is_shut);
        let is_kept = taint.is_some() || kept_from.is_some();
        let place = || Place {
            own: placed.clone(),
            other: other.clone(),
            asked: asked.clone(),
            is_shut,
            at: at.clone(),
            is_cordoned,
            taint,
            kept_from,
        };
        (asked.is_some() || other.is_some() || by_volume || is_cordoned || is_kept).then(place)
    })
}

/// True if the scheduler names nothing but cordoned nodes and the places of volumes. With another reason, that may be the one of the
/// volume's node.
fn names_cordoned_alone(message: &str) -> bool {
    let (_, reasons) = message.split_once(" nodes are available: ").unwrap_or_default();
    let mut reasons = reasons.split(". ").next().unwrap_or_default().split(", ");
    let is_known = |reason: &str| {
        ["were unschedulable", "didn't match PersistentVolume's node affinity"]
            .iter()
            .any(|known| reason.contains(known))
    };
    message.contains("PersistentVolume's node affinity")
        && message.contains("were unschedulable")
        && reasons.all(is_known)
}

/// A volume with its place, as the caller may see it.
#[derive(Clone)]
struct Placed {
    volume: String,
    node: String,
    disk: Option<String>,
    /// The nodes with a complete copy of the volume (E3).
    copies_on: Vec<String>,
    /// True if the volume is to have copies.
    has_copies: bool,
    /// True if the volume may have copies that the caller may not see.
    is_unsure: bool,
}

impl Placed {
    /// The nodes on which a pod can use the volume.
    fn nodes(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.node).chain(&self.copies_on)
    }

    fn is_on(&self, node: &str) -> bool {
        self.nodes().any(|own| own == node)
    }
}

/// The nodes with a complete copy of the volume.
pub(super) fn copies_on(snapshot: &Snapshot, volume: &SharedPersistentVolume) -> Vec<String> {
    let is_copy = |copy: &&SharedPersistentVolume| {
        let of = copy.spec.copy_of.as_ref();
        of.is_some_and(|of| Some(&of.uid) == volume.metadata.uid.as_ref()) && serves_new_pods(copy)
    };
    let copies = snapshot.volumes.iter().filter(is_copy);
    copies.filter_map(|copy| copy.status.as_ref()?.node_name.clone()).collect()
}

/// The place of a claim's volume. Its claim shows volume and node to callers without the right to see volumes.
fn placed(snapshot: &Snapshot, namespace: &str, name: &str) -> Option<Placed> {
    if let Some(volume) = snapshot.volume_of(namespace, name) {
        let status = volume.status.as_ref()?;
        let (node, disk) = (status.node_name.clone()?, status.node_disk.clone());
        let copies_on = copies_on(snapshot, volume);
        let has_copies = volume.spec.copies.is_some();
        return Some(Placed {
            volume: volume.name_any(),
            node,
            disk,
            copies_on,
            has_copies,
            is_unsure: false,
        });
    }
    let status =
        snapshot.claim(Some(namespace), name).filter(|_| !snapshot.sees(&VOLUME))?.status.as_ref()?;
    let (volume, node) = (status.volume.as_ref()?.name.clone(), status.node_name.clone()?);
    // A shared volume, as the access modes have it.
    let pvc = snapshot.pvc(Some(namespace), name).and_then(|pvc| pvc.spec.as_ref()?.access_modes.as_ref());
    let is_unsure = pvc.is_some_and(|modes| modes.iter().any(|mode| mode.ends_with("Many")));
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let pods = snapshot.pods_of(namespace, name).filter(|pod| is_unsure && runs(pod));
    let on = pods.filter_map(|pod| pod.spec.as_ref()?.node_name.clone());
    let copies_on: BTreeSet<String> = on.filter(|on| *on != node).collect();
    let copies_on = copies_on.into_iter().collect();
    Some(Placed { volume, node, disk: None, copies_on, has_copies: false, is_unsure })
}

/// The PersistentVolumeClaims of the pod without a volume that may be Reservoir's.
fn unplaced<'a>(snapshot: &'a Snapshot, pod: &Pod) -> Vec<&'a PersistentVolumeClaim> {
    let is_it = |pvc: &&PersistentVolumeClaim| {
        let is_empty = pvc.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none());
        is_empty && snapshot.made_for(pvc).is_none() && (snapshot.classes_unseen || snapshot.is_ours(pvc))
    };
    let claims = cluster::claims_of(pod);
    claims.iter().filter_map(|(namespace, name)| snapshot.pvc(Some(namespace), name)).filter(is_it).collect()
}

/// The step for a pod with a PersistentVolumeClaim whose volume is made on the node that the pod is placed on, and that no
/// scheduler has placed.
pub(super) fn schedule_step(snapshot: &Snapshot, pod: &Pod) -> String {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    gate_step(pod)
        .or_else(|| taken_step(snapshot, pod))
        .or_else(|| by_node_name(snapshot, pod))
        .or_else(|| to_space(snapshot, pod))
        .unwrap_or_else(|| advice::have_pod_scheduled(name, namespace))
}

/// The step for a pod with an ephemeral volume whose PersistentVolumeClaim would have the name of another one.
pub(super) fn taken_step(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let (_, pvc) = taken_name(snapshot, pod)?;
    Some(advice::rename_ephemeral_volume(again(snapshot, pod), pvc))
}

/// The step for a pod whose spec names its node, so that no scheduler chooses the node of its volume.
pub(super) fn by_node_name(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let node = pod.spec.as_ref()?.node_name.as_ref()?;
    let is_chosen =
        |pvc: &&PersistentVolumeClaim| pvc.annotations().contains_key("volume.kubernetes.io/selected-node");
    let is_delayed = |pvc: &&PersistentVolumeClaim| match snapshot.classes_unseen {
        // A caller who may not see the class has Kubernetes' words.
        true => {
            let target = Target::new(&PVC, pvc.namespace(), pvc.name_any());
            let last = last_event(snapshot, &PVC, &target, false).and_then(|event| event.reason.as_deref());
            ["WaitForFirstConsumer", "WaitForPodScheduled"].iter().any(|waits| last == Some(waits))
        }
        false => snapshot.our_class(pvc).is_some_and(class::is_delayed),
    };
    let mut waiting = unplaced(snapshot, pod).into_iter().filter(|pvc| is_delayed(pvc) && !is_chosen(pvc));
    waiting.next()?;
    Some(advice::pin_by_selector(again(snapshot, pod), node))
}

/// The scheduling gate of a pod: no scheduler looks for a node before it is removed.
fn gate(pod: &Pod) -> Option<&str> {
    Some(&pod.spec.as_ref()?.scheduling_gates.iter().flatten().next()?.name)
}

/// The step for a pod that a program holds back from the scheduler, as one that queues workloads does.
pub(super) fn gate_step(pod: &Pod) -> Option<String> {
    Some(advice::await_gate(pod.name_any(), pod.namespace().unwrap_or_default(), gate(pod)?))
}

/// The step for a pod that no scheduler has looked at, if its spec names one that may not be there.
pub(super) fn scheduler_step(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref().filter(|spec| spec.node_name.is_none())?;
    let scheduler = spec.scheduler_name.as_deref().filter(|name| *name != "default-scheduler")?;
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_unseen = conditions.all(|condition| condition.type_ != "PodScheduled");
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    is_unseen.then(|| advice::find_scheduler(name, namespace, scheduler))
}

/// The step for a pod that no node takes for want of free space of its role. `None`: its scheduler says otherwise, or no step
/// helps.
pub(super) fn to_space(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let claims = cluster::claims_of(pod);
    let is_placed = |(namespace, name): &(String, String)| placed(snapshot, namespace, name).is_some();
    match claims.iter().any(is_placed) {
        true => space_beside(snapshot, pod).map(|(_, step)| step),
        false => space_elsewhere(snapshot, pod),
    }
}

/// The PersistentVolumeClaim of a pod for which the node of its other volume has too little free space of the role, and the step.
/// A caller who may not see that asks somebody who may.
fn space_beside<'a>(snapshot: &'a Snapshot, pod: &Pod) -> Option<(&'a PersistentVolumeClaim, String)> {
    unscheduled(pod).filter(|condition| cluster::lacks_storage(condition))?;
    let namespace = pod.namespace().unwrap_or_default();
    let step = |pvc: &PersistentVolumeClaim| match snapshot.sees_space() {
        true => space_step(snapshot, &Target::new(&PVC, pvc.namespace(), pvc.name_any())),
        false => Some(advice::have_space_found(pod.name_any(), &namespace)),
    };
    unplaced(snapshot, pod).into_iter().find_map(|pvc| Some((pvc, step(pvc)?)))
}

/// The step for a pod without a placed volume that no node takes for want of free space of its role: on a disk with free space,
/// where the role has none.
fn space_elsewhere(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    unscheduled(pod).filter(|condition| cluster::lacks_storage(condition))?;
    let unplaced = unplaced(snapshot, pod);
    if !snapshot.sees_space() {
        let namespace = pod.namespace().unwrap_or_default();
        return unplaced.first().map(|_| advice::have_space_found(pod.name_any(), namespace));
    }
    let of = |pvc| Some((snapshot.our_class(pvc)?, snapshot.wanted(pvc)?));
    let (class, wanted) = unplaced.into_iter().find_map(of)?;
    // A new one would be of no use to the class.
    if wanted.spec.reservation.is_some() {
        return None;
    }
    let (role, size) = (&wanted.spec.role, &wanted.spec.size);
    let bytes = size.bytes_or_zero();
    let serves = |r: &&DiskReservation| {
        let free = r.status.as_ref().map_or(0, holder::free);
        Role::name_covers(&r.spec.role, role) && free >= bytes
    };
    let serving: Vec<&DiskReservation> = snapshot.reservations.iter().filter(serves).collect();
    let on = |r: &DiskReservation| r.status.as_ref().and_then(|status| status.node_name.clone());
    let is_open = |r: &DiskReservation| on(r).is_some_and(|node| !excludes(snapshot, pod, &node));
    let is_new = class.creation_timestamp().is_some_and(|made| is_just_now(made.0));
    if serving.iter().any(|r| (is_new || is_just_ready(r)) && is_open(r)) {
        return Some(advice::look_again());
    }
    let is_served = |node: &str| serving.iter().any(|r| on(r).as_deref() == Some(node));
    let has = |disk: &&NodeDisk| {
        let node = &disk.spec.node_name;
        has_free(disk, bytes) && !is_served(node) && !excludes(snapshot, pod, node)
    };
    let node = &snapshot.disks.iter().find(has)?.spec.node_name;
    let name = new_name(role, &snapshot.reservations);
    Some(advice::reserve_for_pod(name, role, size, node))
}

/// True for a reservation that the scheduler may not know of yet.
fn is_just_ready(reservation: &DiskReservation) -> bool {
    let conditions = reservation.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let ready = condition::get(conditions, READY).filter(|ready| ready.status == "True");
    ready.is_some_and(|ready| is_just_now(ready.last_transition_time.0))
}

fn is_just_now(at: Timestamp) -> bool {
    (SignedDuration::ZERO..SCHEDULED_WITHIN).contains(&Timestamp::now().duration_since(at))
}

/// The scheduler's condition of a pod that it has placed nowhere.
pub(in crate::plugin) fn unscheduled(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|c| c.type_ == "PodScheduled" && c.status == "False")
}

/// True if topology spread constraints keep the pod from a node.
fn is_spread(unscheduled: &PodCondition) -> bool {
    unscheduled.message.as_ref().is_some_and(|message| message.contains("topology spread constraints"))
}

/// The one node that the affinity of a pod asks for, as that of a pod of a DaemonSet does.
fn asked_by_affinity(pod: &Pod) -> Option<String> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let [term] = required.node_selector_terms.as_slice() else { return None };
    let by_field = term.match_fields.iter().flatten().filter(|field| field.key == "metadata.name");
    let by_label =
        term.match_expressions.iter().flatten().filter(|label| label.key == "kubernetes.io/hostname");
    by_field.chain(by_label).filter(|of| of.operator == "In").find_map(|of| match of.values.as_deref() {
        Some([node]) => Some(node.clone()),
        _ => None,
    })
}

/// The next step for a pod that cannot run on the node of its volume.
pub(super) fn other_node_step(snapshot: &Snapshot, target: &Target) -> String {
    let namespace = target.namespace.as_deref().unwrap_or("default");
    let found = target.find_pod(snapshot).and_then(|pod| Some((pod, other_node(snapshot, pod)?)));
    let Some((pod, place)) = found else { return advice::look_again() };
    let Placed { volume, node, has_copies, is_unsure, .. } = place.own;
    match (place.other, place.asked, place.taint) {
        (Some(_), _, _) => advice::gather_volumes(namespace, node),
        // The pod starts where it is to, once there is a copy.
        (None, Some(asked), _) if has_copies => copy_labels::step(snapshot, &volume, &asked),
        (None, Some(_), _) if is_unsure => {
            advice::have_copies_looked_for(&target.name, namespace, volume, node)
        }
        (None, Some(_), _) => match daemon_set_of(pod) {
            Some(of) => advice::pin_daemon_set(of, namespace, node),
            None => advice::leave_other_node(again(snapshot, pod), node),
        },
        (None, None, _) if place.is_cordoned => {
            let step = advice::uncordon(place.at, volume);
            if snapshot.sees(&DISK) { step } else { advice::have_run(step) }
        }
        (None, None, Some(taint)) if taint.key == startup_taint::TAINT => {
            advice::take_startup_taint(place.at, &taint.key)
        }
        // Kubernetes and cloud providers take their own off.
        (None, None, Some(taint)) if !taint.key.contains("kubernetes.io/") => {
            advice::tolerate_taint(again(snapshot, pod), place.at, taints::text(taint))
        }
        (None, None, _) if let Some(other) = place.kept_from => {
            advice::leave_apart(&target.name, namespace, other.name_any(), place.at)
        }
        (None, None, _) if unscheduled(pod).is_some_and(is_spread) => {
            advice::leave_spread(&target.name, namespace, volume)
        }
        (None, None, _) if snapshot.node(&node).is_some_and(taints::lacks_topology) => {
            advice::label_topology(node, TOPOLOGY_NODE)
        }
        (None, None, _) => {
            let space = space_beside(snapshot, pod).map(|(_, step)| step);
            space.unwrap_or_else(|| match snapshot.sees(&DISK) {
                true => advice::fit_node(node, volume),
                false => advice::have_pod_fitted(&target.name, namespace, volume, node),
            })
        }
    }
}

#[cfg(test)]
mod tests;
