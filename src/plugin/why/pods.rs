//! Reports about pods, and their next steps.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, Volume};
use kube::ResourceExt;

use super::events::{last_event, message_of};
use super::report::{Report, TERMINATING};
use super::target::Target;
use super::{containers, owners, placing};
use crate::api::condition::reason::{MOUNT_HELD, NAME_TAKEN, NODE_UNREACHABLE, VOLUME_HELD};
use crate::api::condition::{self, READY};
use crate::api::{AccessMode, DRIVER, MADE_BY_RESERVOIR, NodeDisk};
use crate::cluster;
use crate::plan::advice;
use crate::plan::persistent_volume::ONE_POD;
use crate::plan::publish::is_for_one_pod;
use crate::plugin::kind::{CLAIM, DISK, POD, PVC, VOLUME};
use crate::plugin::snapshot::Snapshot;

/// The reports of a pod. First a cause that no condition of Reservoir's objects has, then the phase with the message
/// of the scheduler, the container runtime or the kubelet.
pub(super) fn pod_reports(snapshot: &Snapshot, target: &Target, pod: &Pod) -> Vec<Report> {
    let report = |reason: &str, message: String| vec![Report::of(target.title(), reason, message, true)];
    let off = lost_disk(snapshot, target).and(pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()));
    if let Some(since) = pod.metadata.deletion_timestamp.as_ref() {
        let off = match off {
            Some(node) => format!(", and node {node} is not Ready"),
            None if is_node_lost(snapshot, target) => ", and its node is not Ready".to_owned(),
            None => String::new(),
        };
        let held = mount_held(snapshot, target).map(|said| format!(": {said}")).unwrap_or_default();
        return report(TERMINATING, format!("it is being deleted since {}{off}{held}", since.0));
    }
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_else(|| "Pending".into());
    let unscheduled = placing::unscheduled(pod);
    if phase == FAILED {
        return report(FAILED, status.message.or(status.reason).unwrap_or_else(|| exit(pod)));
    }
    if let Some(node) = off.filter(|_| phase == "Running") {
        return report(&phase, format!("but node {node} is not Ready, so nothing is known of it now"));
    }
    if phase == "Running" && is_node_lost(snapshot, target) {
        return report(&phase, "but its node is not Ready, so nothing is known of it now".into());
    }
    if let Some(report) = containers::report(target, pod) {
        return vec![report];
    }
    let containers = status.container_statuses.iter().flatten();
    let waiting = containers.filter_map(|c| c.state.as_ref()?.waiting.as_ref()).next();
    let trouble = !["Running", "Succeeded"].contains(&phase.as_str());
    let warning = last_event(snapshot, &POD, target, true).filter(|_| trouble).map(message_of);
    let message = unscheduled.and_then(|c| c.message.clone()).or(warning);
    let init = containers::running_init(pod).filter(|_| trouble);
    let message = message.or(init.map(|name| format!("its init container {name} has not ended yet")));
    let message =
        message.or(waiting.and_then(|w| w.message.clone().or(w.reason.clone()))).unwrap_or_default();
    let lacks_volumes = trouble && !containers::has_begun(pod);
    let held = holder(snapshot, pod).filter(|_| lacks_volumes).map(|(claim, volume, other)| {
        let why = format!("its volume {volume} is exclusive, and pod {} uses it", cluster::pod_ref(other));
        Report::of(claim, VOLUME_HELD, why, true)
    });
    let inline = inline_volume(pod).filter(|_| trouble).map(|name| {
        let why = format!("its volume {name} is an inline CSI volume, which Reservoir does not make");
        Report::of(target.title(), INLINE_VOLUME, why, true)
    });
    let taken = owners::taken_name(snapshot, pod).filter(|_| trouble).map(|(volume, pvc)| {
        let why = format!("its ephemeral volume {volume} needs the name of PersistentVolumeClaim {pvc}, which is not its own");
        Report::of(target.title(), NAME_TAKEN, why, true)
    });
    let elsewhere = placing::report(snapshot, target, pod, &message).filter(|_| trouble);
    // A pod that asks for a node without the volume would not run there after the end of the pod that has it.
    let cause = match &elsewhere {
        Some(report) if report.reason == placing::OTHER_NODE => elsewhere,
        _ => held.or(inline).or(taken).or(elsewhere),
    };
    // The cause has the scheduler's words already.
    let message =
        if cause.as_ref().is_some_and(|cause| cause.message.ends_with(&message)) { "" } else { &message };
    let own = Report::of(target.title(), &phase, message.to_owned(), trouble);
    cause.into_iter().chain([own]).collect()
}

/// The event of the node about a mount of the pod that a process holds (F3).
pub(super) fn mount_held(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let uid = target.uid(snapshot)?;
    let is_it = |event: &&Event| {
        event.reason.as_deref() == Some(MOUNT_HELD) && event.involved_object.uid.as_deref() == Some(uid)
    };
    snapshot.events.iter().rfind(is_it).map(message_of)
}

/// The node of a pod whose containers have ended, and which waits for the unmount of a volume of Reservoir.
pub(super) fn unmounting<'a>(snapshot: &Snapshot, pod: &'a Pod) -> Option<&'a str> {
    let is_ours = |(namespace, name): (String, String)| {
        let pvc = snapshot.pvc(Some(&namespace), &name);
        snapshot.claim(Some(&namespace), &name).is_some() || pvc.is_some_and(|pvc| snapshot.is_ours(pvc))
    };
    let waits = cluster::is_terminal(pod) && pod.finalizers().is_empty();
    (waits && cluster::claims_of(pod).into_iter().any(is_ours)).then_some(())?;
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The phase of a pod that has ended in failure, and waits for nothing.
pub(super) const FAILED: &str = "Failed";

/// The exit code of the first container that has failed.
fn exit(pod: &Pod) -> String {
    let failed = containers::failed(pod);
    failed.map_or_else(String::new, |(c, code)| format!("container {} ended with exit code {code}", c.name))
}

/// True for a cause that lies in the pod itself: no other object's trouble leads to it.
pub(super) fn is_own_cause(reason: &str) -> bool {
    [VOLUME_HELD, INLINE_VOLUME, NAME_TAKEN, placing::OTHER_NODE, placing::VOLUME_NODE, FAILED]
        .contains(&reason)
}

/// True if Kubernetes has told the pod that its node is not Ready, for a caller who may not see disks.
pub(super) fn is_node_lost(snapshot: &Snapshot, target: &Target) -> bool {
    let last = last_event(snapshot, &POD, target, true).and_then(|event| event.reason.as_deref());
    let is_there = |pod: &Pod| !containers::is_ready(pod) && !cluster::is_terminal(pod);
    let is_off = target.find_pod(snapshot).is_some_and(is_there) && last == Some("NodeNotReady");
    is_off && target.kind == &POD && !snapshot.sees(&DISK)
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

/// The read-only claim of a pod in which a container wants to make something.
pub(super) fn read_only_claim(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let said =
        |c: &ContainerStatus| Some(c.state.as_ref()?.waiting.as_ref()?.message.clone()?.to_lowercase());
    let is_it = |said: String| {
        said.contains("read-only file system") || said.contains("failed to create subpath directory")
    };
    containers::all(pod).filter_map(said).any(is_it).then_some(())?;
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let read = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    let read: Vec<&str> =
        read.filter(|of| of.read_only == Some(true)).map(|of| of.claim_name.as_str()).collect();
    let reads = |(namespace, name): &(String, String)| {
        let is_sealed = snapshot.volume_of(namespace, name).is_some_and(|volume| volume.spec.sealed);
        let mode = snapshot.claim(Some(namespace), name).map(|claim| claim.spec.mode);
        is_sealed || mode == Some(AccessMode::ReadOnly) || read.contains(&name.as_str())
    };
    cluster::claims_of(pod).into_iter().find(reads).map(|(_, name)| name)
}

/// True if the node refuses a PersistentVolume of Reservoir's driver that somebody else made.
pub(super) fn has_own_pv(snapshot: &Snapshot, target: &Target) -> bool {
    last_event(snapshot, &POD, target, true)
        .is_some_and(|event| message_of(event).contains(MADE_BY_RESERVOIR))
}

/// True if the agent of the pod's node refuses a volume, and its answer says what to do (S7).
pub(super) fn is_refused(snapshot: &Snapshot, target: &Target) -> bool {
    let refuses = |said: &str| {
        ["NotFound", "InvalidArgument", "FailedPrecondition"]
            .iter()
            .any(|code| said.contains(&format!("rpc error: code = {code} desc = ")))
    };
    let said = last_event(snapshot, &POD, target, true).map(message_of).unwrap_or_default();
    refuses(&said) && said.contains("reservoir") && is_silent(snapshot, target)
}

/// True if a pod is on its node, and waits for the mount of a volume of Reservoir, or nobody reports what it waits for.
pub(super) fn is_silent(snapshot: &Snapshot, target: &Target) -> bool {
    let pod = target.find_pod(snapshot);
    let is_placed = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
    let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
    // The PersistentVolumes of claims are called so, and the driver, too. So may images be.
    let is_mount = |event: &Event| {
        let of_mount =
            ["FailedMount", "FailedMapVolume"].iter().any(|reason| event.reason.as_deref() == Some(reason));
        let is_told = event.reporting_component.as_deref().is_some_and(|by| by.starts_with("reservoir-"));
        of_mount && message_of(event).contains("reservoir") || is_told
    };
    let warning = last_event(snapshot, &POD, target, true);
    let is_silent = warning.map_or_else(|| !pod.is_some_and(containers::has_begun), is_mount);
    is_placed && phase == Some("Pending") && is_silent
}

/// The step for such a pod.
pub(super) fn mount_step(snapshot: &Snapshot, target: &Target) -> String {
    let pod = target.find_pod(snapshot);
    let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()).unwrap_or_default();
    match (snapshot.sees(&DISK), lacks_driver(snapshot, target)) {
        (true, _) => advice::look_at_installation(),
        (false, true) => advice::have_agent_looked_for(node),
        (false, false) => {
            let namespace = target.namespace.as_deref().unwrap_or("default");
            advice::have_mount_looked_at(&target.name, namespace, node)
        }
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
    let Some(pod) = target.find_pod(snapshot) else { return advice::look_again() };
    let Some((.., other)) = holder(snapshot, pod) else { return advice::look_again() };
    let (name, namespace) = (other.name_any(), other.namespace().unwrap_or_default());
    // Its maker has ended it already, as in a drain.
    if other.metadata.deletion_timestamp.is_some() {
        return advice::ask_why(POD.argument(&name, Some(&namespace)));
    }
    let owner = owners::controller(pod);
    match owner.filter(|owner| owners::controller(other).is_some_and(|of| of.uid == owner.uid)) {
        // The owner makes the other pod again after its end.
        Some(owner) => advice::run_one_pod(name, namespace, format!("{} {}", owner.kind, owner.name)),
        None => advice::end_other_pod(name, namespace),
    }
}

#[cfg(test)]
mod tests;
