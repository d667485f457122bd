//! Reports about pods, and their next steps.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, PersistentVolumeClaim, Pod, PodCondition, Volume};
use kube::ResourceExt;

use super::containers;
use super::events::{last_event, message_of};
use super::report::{Report, TERMINATING};
use super::target::Target;
use crate::api::condition::reason::{NODE_UNREACHABLE, VOLUME_HELD};
use crate::api::condition::{self, READY};
use crate::api::{AccessMode, DRIVER, DiskReservation, NodeDisk, Role, Size};
use crate::cluster;
use crate::plan::candidate::{is_cordoned, is_ready};
use crate::plan::enlarge::new_name;
use crate::plan::persistent_volume::ONE_POD;
use crate::plan::{advice, holder, publish::is_for_one_pod};
use crate::plugin::kind::{CLAIM, DISK, POD, PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// The reports of a pod. First a cause that no condition of Reservoir's objects has, then the phase with the message
/// of the scheduler, the container runtime or the kubelet.
pub(super) fn pod_reports(snapshot: &Snapshot, target: &Target, pod: &Pod) -> Vec<Report> {
    let report = |reason: &str, message: String| vec![Report::of(target.title(), reason, message, true)];
    let off = lost_disk(snapshot, target).and(pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()));
    if let Some(since) = pod.metadata.deletion_timestamp.as_ref() {
        let off = off.map(|node| format!(", and node {node} is not Ready")).unwrap_or_default();
        return report(TERMINATING, format!("it is being deleted since {}{off}", since.0));
    }
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_else(|| "Pending".into());
    let unscheduled = unscheduled(pod);
    if phase == FAILED {
        return report(FAILED, status.message.or(status.reason).unwrap_or_else(|| exit(pod)));
    }
    if let Some(node) = off.filter(|_| phase == "Running") {
        return report(&phase, format!("but node {node} is not Ready, so nothing is known of it now"));
    }
    if let Some(report) = containers::report(target, pod) {
        return vec![report];
    }
    let containers = status.container_statuses.iter().flatten();
    let waiting = containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref()).next();
    let trouble = !["Running", "Succeeded"].contains(&phase.as_str());
    let warning = last_event(snapshot, &POD, target, true).filter(|_| trouble).map(message_of);
    let message = unscheduled.and_then(|c| c.message.clone()).or(warning);
    let message =
        message.or(waiting.and_then(|w| w.message.clone().or(w.reason.clone()))).unwrap_or_default();
    let held = holder(snapshot, pod).filter(|_| trouble).map(|(claim, volume, other)| {
        let why = format!("its volume {volume} is exclusive, and pod {} uses it", cluster::pod_ref(other));
        Report::of(claim, VOLUME_HELD, why, true)
    });
    let inline = inline_volume(pod).filter(|_| trouble).map(|name| {
        let why = format!("its volume {name} is an inline CSI volume, which Reservoir does not make");
        Report::of(target.title(), INLINE_VOLUME, why, true)
    });
    let elsewhere = other_node(snapshot, pod).filter(|_| trouble).map(|place| {
        let on = format!("its volume {} is on node {}", place.volume, place.node);
        let why = match (&place.other, &place.asked) {
            (Some((volume, node)), _) => {
                format!("{on}, and its volume {volume} on node {node}: no node has both")
            }
            (None, None) if place.is_cordoned => format!("{on}, which is cordoned"),
            (None, Some(asked)) => match daemon_set_of(pod) {
                Some(of) => format!("{on}, and the pod is that of DaemonSet {of} for node {asked}"),
                None => format!("{on}, and the pod asks for node {asked}"),
            },
            (None, None) => format!("{on}: {message}"),
        };
        let elsewhere = place.other.is_some() || place.asked.is_some();
        Report::of(target.title(), if elsewhere { OTHER_NODE } else { VOLUME_NODE }, why, true)
    });
    let cause = held.or(inline).or(elsewhere);
    // The cause has the scheduler's words already.
    let message =
        if cause.as_ref().is_some_and(|cause| cause.message.ends_with(&message)) { "" } else { &message };
    let own = Report::of(target.title(), &phase, message.to_owned(), trouble);
    cause.into_iter().chain([own]).collect()
}

/// The phase of a pod that has ended in failure, and waits for nothing.
pub(super) const FAILED: &str = "Failed";

/// The exit code of the first container that has failed.
fn exit(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    });
    let failed = |c: &ContainerStatus| {
        let ended = c.state.as_ref()?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some(format!("container {} ended with exit code {}", c.name, ended.exit_code))
    };
    all.into_iter().find_map(failed).unwrap_or_default()
}

/// True for a cause that lies in the pod itself: no other object's trouble leads to it.
pub(super) fn is_own_cause(reason: &str) -> bool {
    [VOLUME_HELD, INLINE_VOLUME, OTHER_NODE, VOLUME_NODE, FAILED].contains(&reason)
}

/// A disk of the pod's node, if that node is unreachable.
pub(super) fn lost_disk(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let pod = target.find_pod(snapshot).filter(|pod| target.kind == &POD && !cluster::is_terminal(pod))?;
    let node = pod.spec.as_ref()?.node_name.as_ref()?;
    let is_lost = |disk: &&NodeDisk| {
        let ready = disk.status.as_ref().and_then(|status| condition::get(&status.conditions, READY));
        disk.spec.node_name == *node && ready.is_some_and(|ready| ready.reason == NODE_UNREACHABLE)
    };
    snapshot.disks.iter().find(is_lost).map(ResourceExt::name_any)
}

/// A disk that is not ready, with a volume of a pod that is being deleted: the kubelet waits for its unmount.
pub(super) fn disk_of_ending(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let claims = cluster::claims_of(pod);
    let disks = claims.iter().filter_map(|(namespace, name)| {
        let on = snapshot.volume_of(namespace, name)?.status.as_ref()?.node_disk.clone()?;
        snapshot.disks.iter().find(|disk| disk.name_any() == on)
    });
    disks.into_iter().find(|disk| !is_ready(disk)).map(ResourceExt::name_any)
}

/// The step for a pod that is being deleted and has a volume of a disk that was declared gone: its agent serves the disk no more,
/// and unmounts nothing.
pub(super) fn force_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let name = disk_of_ending(snapshot, target.find_pod(snapshot).filter(|_| target.kind == &POD)?)?;
    snapshot.disks.iter().find(|disk| disk.name_any() == name && disk.spec.gone)?;
    Some(advice::force_pod(&target.name, target.namespace.as_deref().unwrap_or("default"), name))
}

/// The read-only claim of a pod in which a container wants to make something.
pub(super) fn read_only_claim(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let said =
        |c: &ContainerStatus| Some(c.state.as_ref()?.waiting.as_ref()?.message.clone()?.to_lowercase());
    let is_it = |said: String| {
        said.contains("read-only file system") || said.contains("failed to create subpath directory")
    };
    all.into_iter().filter_map(said).any(is_it).then_some(())?;
    let reads = |(namespace, name): &(String, String)| {
        let is_sealed = snapshot.volume_of(namespace, name).is_some_and(|volume| volume.spec.sealed);
        let mode = snapshot.claim(Some(namespace), name).map(|claim| claim.spec.mode);
        is_sealed || mode == Some(AccessMode::ReadOnly)
    };
    cluster::claims_of(pod).into_iter().find(reads).map(|(_, name)| name)
}

/// The reason of a pod that asks for another node than its volume's, or has volumes on several nodes.
pub(super) const OTHER_NODE: &str = "OtherNode";

/// The reason of a pod that the scheduler cannot place on the node of its volume.
pub(super) const VOLUME_NODE: &str = "VolumeNode";

/// True if a pod is on its node, and waits for the mount of a volume of Reservoir, or nobody reports what it waits for.
pub(super) fn is_silent(snapshot: &Snapshot, target: &Target) -> bool {
    let pod = target.find_pod(snapshot);
    let is_placed = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
    let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
    // The PersistentVolumes of claims are called so, and the driver, too.
    let is_mount = |event: &Event| message_of(event).contains("reservoir");
    is_placed && phase == Some("Pending") && last_event(snapshot, &POD, target, true).is_none_or(is_mount)
}

/// The step for such a pod.
pub(super) fn mount_step(snapshot: &Snapshot, target: &Target) -> String {
    let pod = target.find_pod(snapshot);
    let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()).unwrap_or_default();
    match (snapshot.sees(&DISK), lacks_driver(snapshot, target)) {
        (true, _) => advice::look_at_installation(),
        (false, true) => advice::have_agent_looked_for(node),
        (false, false) => advice::have_mount_looked_at(node),
    }
}

/// Why a pod of a claim waits for an agent, and the step, for a caller who may not see the claim's volume.
pub(super) fn unmounted(snapshot: &Snapshot, claim: &Target) -> Option<(String, String)> {
    if ![&CLAIM, &PVC].contains(&claim.kind) || snapshot.sees(&VOLUME) {
        return None;
    }
    let namespace = claim.namespace.as_deref()?;
    let pods = snapshot.pods_of(namespace, &claim.name);
    let mut pods = pods.map(|pod| Target::new(&POD, pod.namespace(), pod.name_any()));
    let pod = pods.find(|pod| is_silent(snapshot, pod) && lacks_driver(snapshot, pod))?;
    let why = format!("pod {} waits, since its node has no agent of Reservoir", pod.name);
    Some((why, mount_step(snapshot, &pod)))
}

/// True if the kubelet of the pod's node has found no agent of Reservoir there.
pub(super) fn lacks_driver(snapshot: &Snapshot, target: &Target) -> bool {
    let said = last_event(snapshot, &POD, target, true).map(message_of).unwrap_or_default();
    said.contains(DRIVER) && said.contains("not found in the list of registered CSI drivers")
}

/// The reason of a pod with an inline volume of Reservoir's driver.
pub(super) const INLINE_VOLUME: &str = "InlineVolume";

/// The first inline volume of Reservoir's driver.
fn inline_volume(pod: &Pod) -> Option<&str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let inline = |volume: &&Volume| volume.csi.as_ref().is_some_and(|csi| csi.driver == DRIVER);
    volumes.into_iter().find(inline).map(|volume| volume.name.as_str())
}

/// A volume of a pod, and its node.
struct Place {
    volume: String,
    node: String,
    /// Another volume of the pod on another node, and that node.
    other: Option<(String, String)>,
    /// The other node that the pod's spec asks for.
    asked: Option<String>,
    /// True if the node is cordoned.
    is_cordoned: bool,
}

/// The first volume of the pod on another node than the pod asks for, or one that the scheduler cannot place the pod at, for
/// example a cordoned one.
fn other_node(snapshot: &Snapshot, pod: &Pod) -> Option<Place> {
    let spec = pod.spec.as_ref()?;
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
    volumes.iter().find_map(|Placed { volume, node, disk }| {
        let asked = asked.filter(|asked| *asked != node).cloned();
        let other = volumes.iter().find(|other| other.node != *node);
        let other = other.map(|other| (other.volume.clone(), other.node.clone()));
        let is_on_it = |of: &&NodeDisk| disk.is_some() && of.metadata.name == *disk;
        // A caller without the right to see disks has the scheduler's words.
        let is_cordoned = match snapshot.disks.iter().find(is_on_it) {
            Some(disk) => unscheduled.is_some() && is_cordoned(disk),
            None => by_volume && says("were unschedulable"),
        };
        let place = || Place {
            volume: volume.clone(),
            node: node.clone(),
            other: other.clone(),
            asked: asked.clone(),
            is_cordoned,
        };
        (asked.is_some() || other.is_some() || by_volume || is_cordoned).then(place)
    })
}

/// A volume with its place, as the caller may see it.
struct Placed {
    volume: String,
    node: String,
    disk: Option<String>,
}

/// The place of a claim's volume. Its claim shows volume and node to callers without the right to see volumes.
fn placed(snapshot: &Snapshot, namespace: &str, name: &str) -> Option<Placed> {
    if let Some(volume) = snapshot.volume_of(namespace, name) {
        let status = volume.status.as_ref()?;
        let (node, disk) = (status.node_name.clone()?, status.node_disk.clone());
        return Some(Placed { volume: volume.name_any(), node, disk });
    }
    let status =
        snapshot.claim(Some(namespace), name).filter(|_| !snapshot.sees(&VOLUME))?.status.as_ref()?;
    let (volume, node) = (status.volume.as_ref()?.name.clone(), status.node_name.clone()?);
    Some(Placed { volume, node, disk: None })
}

/// The step for a pod that no node takes for want of free space of its role: on a disk with free space, where the role has none.
/// Who may not see that asks somebody who may. `None`: its scheduler says otherwise, or no disk has it.
pub(super) fn space_elsewhere(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    unscheduled(pod).filter(|condition| cluster::lacks_storage(condition))?;
    let is_empty = |pvc: &&PersistentVolumeClaim| {
        pvc.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none()) && snapshot.made_for(pvc).is_none()
    };
    let claims = cluster::claims_of(pod);
    let unplaced =
        claims.iter().filter_map(|(namespace, name)| snapshot.pvc(Some(namespace), name)).filter(is_empty);
    if !snapshot.sees_space() {
        let may_be_ours = |pvc: &PersistentVolumeClaim| snapshot.classes_unseen || snapshot.is_ours(pvc);
        let namespace = pod.namespace().unwrap_or_default();
        return unplaced
            .into_iter()
            .any(may_be_ours)
            .then(|| advice::have_space_found(pod.name_any(), namespace));
    }
    let wanted = unplaced.into_iter().find_map(|pvc| snapshot.wanted(pvc))?;
    let (role, size) = (&wanted.spec.role, &wanted.spec.size);
    let bytes = size.bytes_or_zero();
    let is_served = |node: &str| {
        let serves = |r: &&DiskReservation| {
            let status = r.status.as_ref();
            Role::name_covers(&r.spec.role, role)
                && status.and_then(|s| s.node_name.as_deref()) == Some(node)
                && status.map_or(0, holder::free) >= bytes
        };
        snapshot.reservations.iter().any(|r| serves(&r))
    };
    let has = |disk: &&NodeDisk| {
        let free =
            disk.status.as_ref().and_then(|status| status.free.as_ref()).map_or(0, Size::bytes_or_zero);
        is_ready(disk) && !is_cordoned(disk) && free >= bytes && !is_served(&disk.spec.node_name)
    };
    let node = &snapshot.disks.iter().find(has)?.spec.node_name;
    let name = new_name(role, &snapshot.reservations);
    Some(advice::reserve_for_pod(name, role, size, node))
}

/// The scheduler's condition of a pod that it has placed nowhere.
pub(in crate::plugin) fn unscheduled(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|c| c.type_ == "PodScheduled" && c.status == "False")
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

/// The DaemonSet that made the pod.
fn daemon_set_of(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.kind == "DaemonSet").map(|owner| owner.name.as_str())
}

/// The next step for a pod that cannot run on the node of its volume.
pub(super) fn other_node_step(snapshot: &Snapshot, target: &Target) -> String {
    let namespace = target.namespace.as_deref().unwrap_or("default");
    let pod = target.find_pod(snapshot);
    match pod.and_then(|pod| other_node(snapshot, pod)) {
        Some(Place { node, other: Some(_), .. }) => advice::gather_volumes(namespace, node),
        Some(Place { node, asked: Some(_), .. }) => match pod.and_then(daemon_set_of) {
            Some(of) => advice::pin_daemon_set(of, namespace, node),
            None => advice::leave_other_node(&target.name, namespace, node),
        },
        Some(Place { volume, node, is_cordoned: true, .. }) => advice::uncordon(node, volume),
        Some(Place { volume, node, .. }) => advice::fit_node(node, volume),
        None => advice::look_again(),
    }
}

/// Claim, volume and pod, if the pod has an exclusive volume that `pod` waits for. At most one pod at a time mounts
/// an exclusive volume (M2).
fn holder<'a>(snapshot: &'a Snapshot, pod: &Pod) -> Option<(String, String, &'a Pod)> {
    let of = |(namespace, name): (String, String)| {
        let has = |other: &&Pod| {
            other.uid() != pod.uid() && other.spec.as_ref().is_some_and(|s| s.node_name.is_some())
        };
        let pvc = snapshot.pvc(Some(&namespace), &name);
        let modes = pvc.and_then(|pvc| pvc.spec.as_ref()?.access_modes.as_ref());
        let several_pods = modes.is_some_and(|modes| !modes.iter().any(|mode| mode == ONE_POD));
        let other = snapshot.pods_of(&namespace, &name).find(has)?;
        let claim = snapshot.claim(Some(&namespace), &name);
        let volume = match snapshot.volume_of(&namespace, &name) {
            Some(volume) if is_for_one_pod(volume, several_pods) => volume.name_any(),
            // Who may not see volumes sees the access mode.
            None if !snapshot.sees(&VOLUME) && modes.is_some() && !several_pods => {
                let bound = claim.and_then(|claim| claim.status.as_ref()?.volume.as_ref());
                let is_ours = bound.is_some() || pvc.is_some_and(|pvc| snapshot.is_ours(pvc));
                let named = pvc.and_then(|pvc| pvc.spec.as_ref()?.volume_name.clone());
                bound.map(|bound| bound.name.clone()).or(named).filter(|_| is_ours)?
            }
            _ => return None,
        };
        let of_class = claim.is_none() || pvc.is_some_and(|pvc| snapshot.made_for(pvc).is_some());
        let kind = if of_class { "PersistentVolumeClaim" } else { "VolumeClaim" };
        Some((format!("{kind} {namespace}/{name}"), volume, other))
    };
    cluster::claims_of(pod).into_iter().find_map(of)
}

/// The next step for a pod whose exclusive volume is mounted in another pod.
pub(super) fn holder_step(snapshot: &Snapshot, target: &Target) -> String {
    match target.find_pod(snapshot).and_then(|pod| holder(snapshot, pod)) {
        Some((.., other)) => advice::end_other_pod(other.name_any(), other.namespace().unwrap_or_default()),
        None => advice::look_again(),
    }
}

#[cfg(test)]
mod tests;
