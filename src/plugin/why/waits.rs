//! Reports of Kubernetes about pods, PersistentVolumeClaims without a VolumeClaim, and workloads.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::advice::{About, pod_of};
use super::report::Report;
use super::target::Target;
use super::{containers, ending_pvc};
use crate::api::condition::reason::{NEARLY_FULL, NODE_UNREACHABLE, VOLUME_HELD};
use crate::api::condition::{self, READY};
use crate::api::{DRIVER, DiskReservation, NodeDisk, Role, SharedPersistentVolume, Size};
use crate::cluster;
use crate::plan::candidate::{is_cordoned, is_ready};
use crate::plan::enlarge::{self, Way};
use crate::plan::persistent_volume::ONE_POD;
use crate::plan::{advice, create, holder, publish::is_for_one_pod};
use crate::plugin::kind::{CLAIM, Kind, POD, PVC, did_you_mean, nearest};
use crate::plugin::snapshot::Snapshot;

fn last_event<'a>(snapshot: &'a Snapshot, kind: &Kind, target: &Target, warning: bool) -> Option<&'a Event> {
    let of = |event: &&Event| {
        let object = &event.involved_object;
        object.kind.as_deref() == Some(kind.name)
            && object.name.as_deref() == Some(&target.name)
            && object.namespace == target.namespace
            && (!warning || event.type_.as_deref() == Some("Warning"))
            // No pod waits for that.
            && event.reason.as_deref() != Some(NEARLY_FULL)
    };
    let time = |event: &&Event| -> Option<Timestamp> {
        let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
        series.max(event.last_timestamp.as_ref().map(|t| t.0)).max(event.event_time.as_ref().map(|t| t.0))
    };
    snapshot.events.iter().filter(of).max_by_key(time)
}

fn message_of(event: &Event) -> String {
    event.message.clone().unwrap_or_default()
}

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
    let unscheduled =
        status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
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

/// True for a cause that lies in the pod itself: no other object's trouble leads to it.
pub(super) fn is_own_cause(reason: &str) -> bool {
    [VOLUME_HELD, INLINE_VOLUME, OTHER_NODE, VOLUME_NODE].contains(&reason)
}

/// The reason of a pod or PersistentVolumeClaim that is being deleted.
pub(in crate::plugin) const TERMINATING: &str = "Terminating";

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
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unscheduled = conditions.find(|c| c.type_ == "PodScheduled" && c.status == "False");
    let says = |part: &str| {
        unscheduled.and_then(|c| c.message.as_ref()).is_some_and(|message| message.contains(part))
    };
    let by_volume = says("PersistentVolume's node affinity");
    let claims = cluster::claims_of(pod);
    let volumes = claims.iter().filter_map(|(namespace, name)| {
        let volume = snapshot.volume_of(namespace, name)?;
        Some((volume, volume.status.as_ref()?.node_name.clone()?))
    });
    let volumes: Vec<_> = volumes.collect();
    volumes.iter().find_map(|(volume, node)| {
        let asked = asked.filter(|asked| *asked != node).cloned();
        let other = volumes.iter().find(|(_, other)| other != node);
        let other = other.map(|(volume, node)| (volume.name_any(), node.clone()));
        let is_on_it = |disk: &&NodeDisk| {
            disk.metadata.name == volume.status.as_ref().and_then(|status| status.node_disk.clone())
        };
        // A caller without the right to see disks has the scheduler's words.
        let is_cordoned = match snapshot.disks.iter().find(is_on_it) {
            Some(disk) => unscheduled.is_some() && is_cordoned(disk),
            None => by_volume && says("were unschedulable"),
        };
        let place = || Place {
            volume: volume.name_any(),
            node: node.clone(),
            other: other.clone(),
            asked: asked.clone(),
            is_cordoned,
        };
        (asked.is_some() || other.is_some() || by_volume || is_cordoned).then(place)
    })
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
        let volume = snapshot.volume_of(&namespace, &name)?;
        let has = |other: &&Pod| {
            other.uid() != pod.uid() && other.spec.as_ref().is_some_and(|s| s.node_name.is_some())
        };
        let pvc = snapshot
            .pvcs
            .iter()
            .find(|pvc| pvc.name_any() == name && pvc.namespace().as_ref() == Some(&namespace));
        let modes = pvc.and_then(|pvc| pvc.spec.as_ref()?.access_modes.as_ref());
        let several_pods = modes.is_some_and(|modes| !modes.iter().any(|mode| mode == ONE_POD));
        let other = snapshot.pods_of(&namespace, &name).find(has)?;
        if !is_for_one_pod(volume, several_pods) {
            return None;
        }
        let of_class = pvc.is_some_and(|pvc| snapshot.made_for(pvc).is_some());
        let kind = if of_class { "PersistentVolumeClaim" } else { "VolumeClaim" };
        Some((format!("{kind} {namespace}/{name}"), volume.name_any(), other))
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

/// The report of a PersistentVolumeClaim that no VolumeClaim made. `None`: the PersistentVolumeClaim does not exist.
pub(super) fn pvc_report(snapshot: &Snapshot, target: &Target) -> Option<Report> {
    let report =
        |trouble, reason: &str, message: String| Some(Report::of(target.title(), reason, message, trouble));
    let pvc = find_pvc(snapshot, target)?;
    if pvc.metadata.deletion_timestamp.is_some() {
        return report(true, TERMINATING, ending_pvc::explain(snapshot, pvc).0);
    }
    let phase = pvc.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if let Some(volume) = snapshot.made_for(pvc) {
        let (name, event) = (volume.name_any(), last_event(snapshot, &PVC, target, true));
        let failed =
            event.filter(|e| [Some(PROVISIONING_FAILED), Some(MOVED)].contains(&e.reason.as_deref()));
        return match (phase, failed) {
            ("Bound", Some(event)) if event.reason.as_deref() == Some(MOVED) => {
                report(true, MOVED, message_of(event))
            }
            ("Bound", _) => report(false, phase, format!("pods may use it; its volume is {name}")),
            ("Pending", Some(event)) if is_volume_ready(volume) => {
                report(true, PROVISIONING_FAILED, message_of(event))
            }
            ("Pending", _) => report(true, "Pending", format!("it waits for its volume {name}")),
            _ => report(
                true,
                phase,
                format!("its PersistentVolume is gone; the data of its volume {name} stays"),
            ),
        };
    }
    if let Some(pv) =
        pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()).filter(|_| phase == "Pending")
    {
        let why = format!(
            "spec.volumeName is {pv}, so it waits for that PersistentVolume, and no volume is made for it"
        );
        return report(true, NAMES_VOLUME, why);
    }
    if phase != "Pending" {
        // Who may see no volumes sees a PersistentVolumeClaim.
        let whose = if snapshot.is_ours(pvc) { "pods may use it" } else { "its volume is not Reservoir's" };
        return report(phase != "Bound", phase, whose.into());
    }
    // The event has the numbers of some time ago.
    if let Some(why) = snapshot.no_place(pvc) {
        return report(true, PROVISIONING_FAILED, why);
    }
    // Kubernetes repeats events that only say that it waits.
    let event =
        last_event(snapshot, &PVC, target, true).or_else(|| last_event(snapshot, &PVC, target, false));
    match event {
        Some(event) => report(true, event.reason.as_deref().unwrap_or("Pending"), message_of(event)),
        None => report(true, "Pending", "Kubernetes has reported no cause yet".into()),
    }
}

fn is_volume_ready(volume: &SharedPersistentVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, READY))
}

/// The reason of a PersistentVolumeClaim for which no volume can be made.
pub(in crate::plugin) const PROVISIONING_FAILED: &str = "ProvisioningFailed";

/// The reason of a PersistentVolumeClaim whose volume has moved to another node with its disk.
const MOVED: &str = "VolumeMoved";

/// The reason of a PersistentVolumeClaim of an ephemeral volume that was not made.
const NOT_MADE: &str = "NotMade";

/// The reason of a PersistentVolumeClaim that waits for the PersistentVolume in its spec.
const NAMES_VOLUME: &str = "NamesVolume";

/// Reason and message of a PersistentVolumeClaim that has less than it requests (P3). Kubernetes' conditions come first.
pub(in crate::plugin) fn growth(pvc: &PersistentVolumeClaim) -> Option<(String, String)> {
    let size = |quantities: Option<&BTreeMap<String, Quantity>>| {
        Some(Size::written(quantities?.get("storage")?.0.clone())).filter(|size| size.bytes().is_ok())
    };
    let requested = size(pvc.spec.as_ref()?.resources.as_ref()?.requests.as_ref())?;
    let status = pvc.status.as_ref()?;
    let capacity = size(status.capacity.as_ref())?;
    if requested.bytes_or_zero() <= capacity.bytes_or_zero() {
        return None;
    }
    let failed = status.conditions.iter().flatten().find(|c| c.type_.ends_with("ResizeError"));
    Some(match failed {
        Some(failed) => (failed.type_.clone(), failed.message.clone().unwrap_or_default()),
        None => ("Resizing".into(), format!("{requested} requested, and its volume has {capacity} now")),
    })
}

/// The report of a PersistentVolumeClaim of Reservoir that has less than it requests.
pub(super) fn growth_report(snapshot: &Snapshot, target: &Target) -> Option<Report> {
    let pvc = find_pvc(snapshot, target).filter(|pvc| snapshot.is_ours(pvc))?;
    let (reason, mut message) = growth(pvc)?;
    let failed = |event: &&Event| event.reason.as_deref() == Some("VolumeResizeFailed");
    if let Some(event) = last_event(snapshot, &PVC, target, true).filter(failed) {
        message = message_of(event);
    }
    Some(Report::of(target.title(), &reason, message, true))
}

/// The event about data of an earlier PersistentVolumeClaim of the name (F5).
pub(super) fn old_data(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let of = |event: &&Event| {
        let object = &event.involved_object;
        ["OldDataKept", "OldDataOrphaned"].iter().any(|reason| event.reason.as_deref() == Some(reason))
            && object.name.as_deref() == Some(&target.name)
            && object.namespace == target.namespace
    };
    snapshot.events.iter().rfind(of).map(message_of)
}

pub(super) fn find_pvc<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a PersistentVolumeClaim> {
    snapshot.pvcs.iter().find(|pvc| pvc.name_any() == target.name && pvc.namespace() == target.namespace)
}

/// The report of a PersistentVolumeClaim that a pod names and that does not exist.
pub(super) fn missing_claim(snapshot: &Snapshot, target: &Target) -> Report {
    if let Some(pod) = ephemeral_in(snapshot, target) {
        let said = refused_binding(snapshot, pod);
        let said =
            said.unwrap_or_else(|| "Kubernetes has not made it for the pod's ephemeral volume yet".into());
        return Report::of(target.title(), NOT_MADE, said, true);
    }
    let here = |namespace: Option<String>| namespace == target.namespace;
    let pvcs = snapshot.pvcs.iter().filter(|p| here(p.namespace())).map(ResourceExt::name_any);
    let claims = snapshot.claims.iter().filter(|c| here(c.namespace())).map(ResourceExt::name_any);
    let names: Vec<String> = pvcs.chain(claims).collect();
    let near = did_you_mean(&target.name, names.iter().map(String::as_str));
    let message = match snapshot.sees(&PVC) && snapshot.sees(&CLAIM) {
        true => format!("no claim or PersistentVolumeClaim has this name{near}"),
        false => "it may not be seen with your rights".into(),
    };
    Report::of(target.title(), "Missing", message, true)
}

/// The pod with the ephemeral volume for which Kubernetes makes the PersistentVolumeClaim. A claim of that name by anybody else
/// would be no use to the pod.
fn ephemeral_in<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a Pod> {
    let is_it = |pod: &&Pod| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut names =
            volumes.filter(|v| v.ephemeral.is_some()).map(|v| format!("{}-{}", pod.name_any(), v.name));
        pod.namespace() == target.namespace && names.any(|name| name == target.name)
    };
    snapshot.pods.iter().find(is_it)
}

/// The next step for a PersistentVolumeClaim without a VolumeClaim.
pub(super) fn pvc_step(snapshot: &Snapshot, target: &Target, reason: &str) -> String {
    let (name, namespace) = (&target.name, target.namespace.as_deref().unwrap_or("default"));
    match reason {
        "Missing" => match snapshot.volumes.iter().find(|volume| volume.name_any() == *name) {
            Some(volume) => advice::claim_volume_of_name(name, &volume.spec.role, namespace),
            None => advice::make_claim(namespace),
        },
        NOT_MADE => not_made_step(snapshot, target, namespace),
        "WaitForFirstConsumer" => advice::start_pod(name),
        NAMES_VOLUME => {
            let pv = find_pvc(snapshot, target).and_then(|pvc| pvc.spec.as_ref()?.volume_name.as_deref());
            advice::leave_volume_name(pv.unwrap_or_default(), name, namespace)
        }
        // The events only say that nobody has made the volume.
        "ExternalProvisioning" if find_pvc(snapshot, target).is_some_and(|pvc| snapshot.is_ours(pvc)) => {
            let step = class_step(snapshot, target, name, namespace);
            if step == advice::read_events(name, namespace) { advice::check_controller() } else { step }
        }
        TERMINATING => find_pvc(snapshot, target)
            .map_or_else(advice::look_again, |pvc| ending_pvc::explain(snapshot, pvc).1),
        _ => class_step(snapshot, target, name, namespace),
    }
}

/// The step for a PersistentVolumeClaim of an ephemeral volume that was not made.
fn not_made_step(snapshot: &Snapshot, target: &Target, namespace: &str) -> String {
    let Some(pod) = ephemeral_in(snapshot, target) else { return advice::look_again() };
    let said = refused_binding(snapshot, pod).unwrap_or_default();
    match said.contains("exceeded quota") || said.contains("storage usage per") {
        true => advice::change_quota(namespace),
        false => advice::describe_pod(pod.name_any(), namespace),
    }
}

/// What Kubernetes says about the PersistentVolumeClaim of an ephemeral volume of the pod. The scheduler's later events only say
/// that the PersistentVolumeClaim is not there.
fn refused_binding(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let of = |event: &&Event| {
        let object = &event.involved_object;
        event.reason.as_deref() == Some("FailedBinding")
            && object.kind.as_deref() == Some(POD.name)
            && object.name == pod.metadata.name
            && object.namespace == pod.metadata.namespace
    };
    snapshot.events.iter().rfind(of).map(message_of)
}

/// The next step for a PersistentVolumeClaim that waits for its StorageClass.
fn class_step(snapshot: &Snapshot, target: &Target, name: &str, namespace: &str) -> String {
    if let Some(class) = missing_class(snapshot, target) {
        return match nearest(class, all_classes(snapshot)) {
            Some(near) => advice::use_near_class(name, namespace, near),
            None => advice::see_classes(class),
        };
    }
    match find_pvc(snapshot, target).and_then(|pvc| snapshot.refused(pvc)) {
        Some((Some(class), _)) => return advice::make_class_as_said(class),
        Some((None, _)) => {
            return match find_pvc(snapshot, target).and_then(pod_of) {
                Some(pod) => advice::make_pod_as_said(pod, namespace),
                None => advice::make_pvc_as_said(name, namespace),
            };
        }
        None => {}
    }
    if let Some(step) = space_step(snapshot, target) {
        return step;
    }
    if let Some(step) = find_pvc(snapshot, target).and_then(|pvc| place_step(snapshot, pvc)) {
        return step;
    }
    match find_pvc(snapshot, target).is_some_and(|pvc| snapshot.is_ours(pvc)) {
        true => advice::read_events(name, namespace),
        // An annotation names the driver only after the first pod.
        false if snapshot.classes_unseen => advice::read_unknown_events(name, namespace),
        false => advice::read_foreign_events(name, namespace),
    }
}

/// The step for a PersistentVolumeClaim with enough space in reservations that it cannot have: their disks are not ready, or
/// its StorageClass excludes their nodes.
fn place_step(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> Option<String> {
    let (class, wanted) = (snapshot.our_class(pvc)?, snapshot.wanted(pvc)?);
    let (reservations, disks): (Vec<_>, Vec<_>) =
        (snapshot.reservations.iter().collect(), snapshot.disks.iter().collect());
    let could = |r: &&&DiskReservation| create::could_hold(&wanted, r, &disks) && holder::serves(r);
    let could_hold: Vec<&DiskReservation> = reservations.iter().filter(could).copied().collect();
    let disk_of = |r: &DiskReservation| {
        let name = r.status.as_ref()?.node_disk.as_ref()?;
        snapshot.disks.iter().find(|disk| disk.metadata.name.as_ref() == Some(name))
    };
    // The reservation that the class names is on a node that the class excludes.
    if wanted.spec.reservation.is_some() && class.allowed_topologies.is_some() && !could_hold.is_empty() {
        return Some(advice::make_class_as_said(class.name_any()));
    }
    let unready = could_hold.iter().filter_map(|r| disk_of(r)).find(|disk| !is_ready(disk))?;
    let any_ready = could_hold.iter().filter_map(|r| disk_of(r)).any(is_ready);
    (!any_ready).then(|| advice::ask_why(format!("nd/{}", unready.name_any())))
}

/// The step for a PersistentVolumeClaim for which nothing, or too little, is reserved: on the node of the pod's other volumes,
/// if it has some.
fn space_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let wanted = snapshot.wanted(find_pvc(snapshot, target)?)?;
    let namespace = target.namespace.as_deref().unwrap_or("default");
    let claims = snapshot.pods_of(namespace, &target.name).flat_map(cluster::claims_of);
    let node = claims
        .filter_map(|(namespace, name)| {
            snapshot.volume_of(&namespace, &name)?.status.as_ref()?.node_name.clone()
        })
        .next();
    let may_use = |r: &&DiskReservation| {
        let on = r.status.as_ref().and_then(|status| status.node_name.as_ref());
        Role::name_covers(&r.spec.role, &wanted.spec.role)
            && holder::serves(r)
            && wanted.spec.reservation.as_ref().is_none_or(|name| *name == r.name_any())
            && node.as_ref().is_none_or(|node| on == Some(node))
    };
    let reservations: Vec<&DiskReservation> = snapshot.reservations.iter().filter(may_use).collect();
    let disks =
        snapshot.disks.iter().filter(|disk| node.as_ref().is_none_or(|node| disk.spec.node_name == *node));
    let disks: Vec<&NodeDisk> = disks.collect();
    let (role, size) = (&wanted.spec.role, &wanted.spec.size);
    let asked = size.bytes_or_zero();
    let free = |r: &&DiskReservation| r.status.as_ref().map_or(0, holder::free);
    let is_named = wanted.spec.reservation.is_some();
    if reservations.is_empty() && is_named || reservations.iter().map(free).any(|free| free >= asked) {
        return None;
    }
    let about = About::new(snapshot, target);
    Some(match enlarge::way(asked, 0, &reservations, &disks, !is_named) {
        Way::AskFor(most, _) => about.ask_anew(&target.name, namespace, Size::from_bytes(most)),
        found => about.way_to_space(found, role, size),
    })
}

fn all_classes(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    snapshot.classes.iter().chain(&snapshot.other_classes).map(String::as_str)
}

/// The StorageClass that the PersistentVolumeClaim names and that does not exist.
fn missing_class<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a str> {
    let class = find_pvc(snapshot, target)?.spec.as_ref()?.storage_class_name.as_deref()?;
    let exists = all_classes(snapshot).any(|name| name == class);
    // The empty name asks for no class.
    (!exists && !snapshot.classes_unseen && !class.is_empty()).then_some(class)
}

/// The report of a workload: the number of ready pods, or the reason for missing pods.
pub(super) fn workload_report(snapshot: &Snapshot, target: &Target) -> Option<Report> {
    let workload = snapshot.workloads.iter().find(|w| w.name_any() == target.name)?;
    let number = |part: &str, field: &str| workload.data[part][field].as_u64();
    let job = target.kind.name == "Job";
    let conditions = workload.data["status"]["conditions"].as_array();
    let complete = conditions.into_iter().flatten().any(|c| c["type"] == "Complete" && c["status"] == "True");
    let (ready, wanted, what) = match job {
        true => (number("status", "succeeded"), number("spec", "completions"), "pods have succeeded"),
        false => (
            number("status", "readyReplicas").or(number("status", "numberReady")),
            number("spec", "replicas").or(number("status", "desiredNumberScheduled")),
            "pods are ready",
        ),
    };
    let (ready, wanted) = (ready.unwrap_or(0), wanted.unwrap_or(1));
    // During a rollout a Deployment has the pods of before, and waits for the new ones.
    let new = number("status", "unavailableReplicas").filter(|_| ready >= wanted).unwrap_or(0);
    let trouble = !complete && (ready < wanted || new > 0);
    let failed =
        conditions.into_iter().flatten().find(|c| c["type"] == "ReplicaFailure" || c["type"] == "Failed");
    let failed = failed.and_then(|c| c["message"].as_str()).map(str::to_owned);
    let said = failed.or_else(|| last_event(snapshot, target.kind, target, true).map(message_of));
    let said = said.filter(|_| trouble).map(|said| format!(": {said}")).unwrap_or_default();
    let reason = if trouble { "NotReady" } else { "Ready" };
    let new = if new > 0 { format!(", and {new} of its rollout not") } else { String::new() };
    let message = format!("{ready} of {wanted} {what}{new}{said}");
    Some(Report::of(target.title(), reason, message, trouble))
}

/// The pods that a workload's selector matches, by name.
pub(super) fn pods_of_workload<'a>(snapshot: &'a Snapshot, target: &Target) -> Vec<&'a Pod> {
    let workload = snapshot.workloads.iter().find(|w| w.name_any() == target.name);
    let labels = |w: &DynamicObject| w.data["spec"]["selector"]["matchLabels"].as_object().cloned();
    let Some(labels) = workload.and_then(labels) else { return vec![] };
    let chosen = |pod: &&Pod| {
        pod.namespace() == target.namespace
            && labels.iter().all(|(key, value)| pod.labels().get(key).map(String::as_str) == value.as_str())
    };
    let mut pods: Vec<&Pod> = snapshot.pods.iter().filter(chosen).collect();
    pods.sort_by_key(|pod| pod.name_any());
    pods
}

#[cfg(test)]
mod tests;
