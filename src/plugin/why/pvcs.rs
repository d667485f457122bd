//! Reports about PersistentVolumeClaims, and their next steps.

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::advice::{
    AS_SAID, About, UNNAMED, anew, by_template, claim_after_lost, of_class, refusal, template,
};
use super::events::{GRANT, last_event, message_of, message_with_age, time_of};
use super::owners::{ephemeral, pod_of};
use super::report::{LOST, PROVISIONING_FAILED, Report, TERMINATING};
use super::space::{Apart, space_step};
use super::target::Target;
use super::{ending_pvc, growth, lost_pvc, named_volume, old_data, placing};
use crate::api::{
    ANNOTATION_MADE_FOR, DRIVER, DiskReservation, Role, SharedPersistentVolume, volume_for_pvc,
};
use crate::cluster;
use crate::plan::candidate::{is_cordoned, is_ready};
use crate::plan::persistent_volume::name_for;
use crate::plan::pvc_provisioner::class;
use crate::plan::pvc_provisioner::placement::PLACE_FOUND;
use crate::plan::{advice, create, holder, left_data};
use crate::plugin::kind::{CLAIM, POD, PVC, SUBSCRIPTION, did_you_mean, nearest};
use crate::plugin::snapshot::Snapshot;

/// The report of a PersistentVolumeClaim that no VolumeClaim made. `None`: the PersistentVolumeClaim does not exist.
pub(super) fn pvc_report(snapshot: &Snapshot, target: &Target) -> Option<Report> {
    let report =
        |trouble, reason: &str, message: String| Some(Report::of(target.title(), reason, message, trouble));
    let pvc = target.find_pvc(snapshot)?;
    if pvc.metadata.deletion_timestamp.is_some() {
        return report(true, TERMINATING, ending_pvc::explain(snapshot, pvc).0);
    }
    let phase = pvc.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    if let Some(volume) = snapshot.made_for(pvc) {
        return made_report(snapshot, target, phase, volume);
    }
    if let Some(pv) =
        pvc.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()).filter(|_| phase == "Pending")
    {
        let why = format!(
            "spec.volumeName is {pv}, so it waits for that PersistentVolume, and no volume is made for it"
        );
        return report(true, NAMES_VOLUME, why);
    }
    if phase == LOST || phase == "Bound" && lost_pvc::has_no_volume(snapshot, pvc) {
        let report = lost_pvc::report(snapshot, target, pvc);
        if report.is_some() {
            return report;
        }
    }
    if phase != "Pending" {
        // A PersistentVolumeClaim may be seen where its volume may not.
        let named = named_volume::volume(snapshot, pvc).filter(|_| phase == LOST);
        let whose = match (snapshot.is_ours(pvc), named) {
            (true, _) => {
                "its volume may not be seen with your rights, and whether pods may use it now".into()
            }
            (false, Some(volume)) => {
                format!("spec.volumeName is that of another claim to volume {}", volume.name_any())
            }
            (false, None) => "its volume is not Reservoir's".into(),
        };
        return report(phase != "Bound", phase, whose);
    }
    // An event is about some time ago: a class may have been made anew since, and numbers change.
    if let Some(class) = missing_class(snapshot, target) {
        return report(true, PROVISIONING_FAILED, format!("there is no StorageClass {class}"));
    }
    let apart = || Apart::find(snapshot, pvc).map(|apart| apart.message());
    let refused = snapshot.refused(pvc).map(|(_, why)| why);
    if let Some(why) = refused.or_else(apart).or_else(|| snapshot.no_place(pvc)) {
        return report(true, PROVISIONING_FAILED, why);
    }
    if waits_for_pod(snapshot, pvc) {
        return report(true, FIRST_POD, "its StorageClass waits for the first pod that uses it".into());
    }
    // Kubernetes repeats events that only say that it waits.
    let last = |warning| last_event(snapshot, &PVC, target, warning).filter(|event| !lacked_class(event));
    let warning = last(true);
    let found = place_found(snapshot, target).filter(|found| {
        !snapshot.sees_space() && warning.is_none_or(|warning| time_of(warning) <= time_of(found))
    });
    if let Some(found) = found {
        return report(true, UNSCHEDULED, message_of(found));
    }
    match warning.or_else(|| last(false)) {
        Some(event) => {
            let said = snapshot.places_now(pvc, event).unwrap_or_else(|| message_with_age(event));
            report(true, event.reason.as_deref().unwrap_or("Pending"), said)
        }
        None => report(true, "Pending", UNCAUSED.into()),
    }
}

/// True for the event of Kubernetes about a StorageClass that is not there. A class that was made since is found within seconds.
fn lacked_class(event: &Event) -> bool {
    let said = event.message.as_deref().unwrap_or_default();
    said.starts_with("storageclass.storage.k8s.io ") && said.ends_with(" not found")
}

/// The event that some node has a place by now, for who may not see that otherwise.
fn place_found<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a Event> {
    let uid = target.uid(snapshot);
    let is_it = |event: &&Event| {
        event.reason.as_deref() == Some(PLACE_FOUND) && event.involved_object.uid.as_deref() == uid
    };
    snapshot.events.iter().filter(is_it).max_by_key(|event| time_of(event))
}

/// The pod that the scheduler has placed nowhere, if the PersistentVolumeClaim waits for nothing else.
pub(super) fn unscheduled_pod<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a Pod> {
    let pvc = target.find_pvc(snapshot)?;
    let report = pvc_report(snapshot, target)?;
    let is_waiting = [FIRST_POD, UNSCHEDULED].contains(&report.reason.as_str());
    let mut users = snapshot.pods_of(pvc.namespace().as_deref().unwrap_or_default(), &pvc.name_any());
    users.find(|_| is_waiting)
}

/// The message of a PersistentVolumeClaim without an event.
const UNCAUSED: &str = "Kubernetes has reported no cause yet";

/// The step after a refusal of the API server that the event of a PersistentVolumeClaim quotes.
fn refusal_step(said: &str, namespace: &str) -> Option<String> {
    if let Some((_, command)) = said.split_once(GRANT) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let [role, "--verbs", verbs, "--to", kind, name, ..] = words.as_slice() else { return None };
        let name = name.trim_end_matches([';', ',', '.']);
        return Some(advice::have_granted(advice::grant(role, verbs, format!("{kind} {name}"))));
    }
    refusal(said, namespace)
}

/// The reason of a PersistentVolumeClaim whose StorageClass waits for the first pod, as Kubernetes calls it.
const FIRST_POD: &str = "WaitForFirstConsumer";

/// The reason of a PersistentVolumeClaim whose pod is on no node yet, as Kubernetes calls it.
const UNSCHEDULED: &str = "WaitForPodScheduled";

/// True if the volume is made only for a pod, and no pod uses the PersistentVolumeClaim.
fn waits_for_pod(snapshot: &Snapshot, pvc: &PersistentVolumeClaim) -> bool {
    let mut users = snapshot.pods_of(pvc.namespace().as_deref().unwrap_or_default(), &pvc.name_any());
    let is_delayed = snapshot.our_class(pvc).is_some_and(class::is_delayed);
    is_delayed && snapshot.sees(&POD) && users.next().is_none()
}

/// The report of a PersistentVolumeClaim with its volume.
fn made_report(
    snapshot: &Snapshot,
    target: &Target,
    phase: &str,
    volume: &SharedPersistentVolume,
) -> Option<Report> {
    let report =
        |trouble, reason: &str, message: String| Some(Report::of(target.title(), reason, message, trouble));
    let (name, event) = (volume.name_any(), last_event(snapshot, &PVC, target, true));
    let failed = event.filter(|e| [Some(PROVISIONING_FAILED), Some(MOVED)].contains(&e.reason.as_deref()));
    match (phase, failed) {
        ("Bound", Some(event)) if event.reason.as_deref() == Some(MOVED) => {
            report(true, MOVED, message_of(event))
        }
        ("Bound", _) => report(false, phase, format!("pods may use it; its volume is {name}")),
        ("Pending", Some(event)) if volume.is_ready() => report(true, PROVISIONING_FAILED, message_of(event)),
        ("Pending", _) => report(true, "Pending", format!("it waits for its volume {name}")),
        _ => {
            let fate = if volume.is_ending() { "is destroyed after its last use" } else { "stays" };
            report(true, phase, format!("its PersistentVolume is gone; the data of its volume {name} {fate}"))
        }
    }
}

/// The reason of a PersistentVolumeClaim whose volume has moved to another node with its disk.
const MOVED: &str = "VolumeMoved";

/// The reason of a PersistentVolumeClaim of an ephemeral volume that was not made.
const NOT_MADE: &str = "NotMade";

/// The reason of a PersistentVolumeClaim that waits for the PersistentVolume in its spec.
const NAMES_VOLUME: &str = "NamesVolume";

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
        pod.namespace() == target.namespace && ephemeral(pod).any(|(_, name)| name == target.name)
    };
    snapshot.pods.iter().find(is_it)
}

/// The next step for a PersistentVolumeClaim without a VolumeClaim.
pub(super) fn pvc_step(snapshot: &Snapshot, target: &Target, reason: &str) -> String {
    let (name, namespace) = (&target.name, target.namespace.as_deref().unwrap_or("default"));
    match reason {
        "Missing" => missing_step(snapshot, target, namespace),
        NOT_MADE => not_made_step(snapshot, target, namespace),
        growth::RESIZING => match growth::refusal(snapshot, target) {
            Some(said) => refusal_step(&said, namespace).unwrap_or_else(advice::follow_event),
            None => advice::look_again(),
        },
        _ if growth::has_failed(reason) => match growth::refusal(snapshot, target) {
            Some(said) if let Some(step) = refusal_step(&said, namespace) => step,
            _ if snapshot.sees_space() => advice::follow_event(),
            _ => advice::have_growth_made(name, namespace),
        },
        FIRST_POD | UNSCHEDULED => match unscheduled_pod(snapshot, target) {
            Some(pod) => placing::schedule_step(snapshot, pod),
            None => advice::start_pod(name),
        },
        NAMES_VOLUME => {
            let pvc = target.find_pvc(snapshot);
            let pv = pvc.and_then(|pvc| pvc.spec.as_ref()?.volume_name.as_deref()).unwrap_or_default();
            // The volume whose PersistentVolume had that name has the data.
            let earlier = pv.strip_prefix(&*name_for("")).map(volume_for_pvc);
            let is_its = |of: &&SharedPersistentVolume| Some(of.name_any()) == earlier && !of.is_ending();
            if let Some(of) = snapshot.volumes.iter().find(is_its) {
                return claim_after_lost(snapshot, name, namespace, of);
            }
            if let Some(step) = pvc.and_then(|pvc| named_volume::step(snapshot, pvc)) {
                return step;
            }
            let made = pvc.and_then(|pvc| by_template(snapshot, pvc, UNNAMED));
            made.unwrap_or_else(|| advice::leave_volume_name(pv, name, namespace))
        }
        LOST => lost_pvc::step(snapshot, target, name, namespace),
        // The events only say that nobody has made the volume.
        "ExternalProvisioning" if target.find_pvc(snapshot).is_some_and(|pvc| snapshot.is_ours(pvc)) => {
            known_step(snapshot, target, name, namespace).unwrap_or_else(|| match snapshot.sees_space() {
                true => advice::check_controller(),
                false => advice::have_administrator_ask(target.argument()),
            })
        }
        TERMINATING => target
            .find_pvc(snapshot)
            .map_or_else(advice::look_again, |pvc| ending_pvc::explain(snapshot, pvc).1),
        _ => class_step(snapshot, target, name, namespace),
    }
}

/// The step for a claim that a pod names and that does not exist: to the volume of that name, or to the data of an earlier
/// PersistentVolumeClaim of it.
fn missing_step(snapshot: &Snapshot, target: &Target, namespace: &str) -> String {
    let name = &target.name;
    let is_named = |volume: &&SharedPersistentVolume| volume.name_any() == *name && !volume.is_ending();
    if let Some(volume) = snapshot.volumes.iter().find(is_named) {
        return advice::claim_volume_of_name(name, &volume.spec.role, namespace);
    }
    if let Some(left) = old_data::left_volume(snapshot, namespace, name) {
        return advice::claim_old_data(name, &left.spec.role, left.name_any(), namespace);
    }
    let about = About::new(snapshot, target);
    // A volume of a role to which the namespace is not subscribed is another team's, unless a PersistentVolumeClaim here had it.
    let may_use = |role: &str| {
        !snapshot.sees(&SUBSCRIPTION) || about.subscribed().any(|own| Role::name_covers(role, own))
    };
    let is_its = |volume: &SharedPersistentVolume| {
        let is_made_here = volume.annotations().contains_key(ANNOTATION_MADE_FOR);
        left_data::is_called(volume, namespace, name) && (is_made_here || may_use(&volume.spec.role))
    };
    match about.left_data(is_its) {
        None => advice::make_claim(namespace),
        Some(data) => match data.until() {
            Some(until) => advice::undelete_for_pod(data.uid(), data.name(), name, until),
            None => advice::recover_orphan(data.uid()),
        },
    }
}

/// The step for a PersistentVolumeClaim of an ephemeral volume that was not made.
fn not_made_step(snapshot: &Snapshot, target: &Target, namespace: &str) -> String {
    let Some(pod) = ephemeral_in(snapshot, target) else { return advice::look_again() };
    let said = refused_binding(snapshot, pod).unwrap_or_default();
    refusal_step(&said, namespace).unwrap_or_else(|| advice::describe_pod(pod.name_any(), namespace))
}

/// The message of Kubernetes about the refused PersistentVolumeClaim of an ephemeral volume of the pod. The scheduler's later
/// events only say that there is none.
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

/// The next step for a PersistentVolumeClaim that waits for its StorageClass: its own, or that of the quoted event.
fn class_step(snapshot: &Snapshot, target: &Target, name: &str, namespace: &str) -> String {
    if let Some(step) = known_step(snapshot, target, name, namespace) {
        return step;
    }
    let pvc = target.find_pvc(snapshot);
    let said = pvc_report(snapshot, target).map(|report| report.message).unwrap_or_default();
    match pvc.is_some_and(|pvc| snapshot.is_ours(pvc)) {
        // The event that was quoted is the last word of Reservoir.
        true if !said.is_empty() && said != UNCAUSED && snapshot.sees_space() => advice::follow_event(),
        // A caller who may not see the cause cannot tell whether the cause or the PersistentVolumeClaim is to be mended.
        true if !said.is_empty() && said != UNCAUSED => {
            let made = pvc.and_then(|pvc| template(snapshot, pvc)).unwrap_or_else(|| "it".to_owned());
            advice::have_event_followed(name, namespace, made)
        }
        true => advice::read_events(name, namespace),
        // An annotation names the driver only after the first pod.
        false if snapshot.classes_unseen => advice::read_unknown_events(name, namespace),
        false => match pvc.and_then(|pvc| mistyped_driver(snapshot, pvc)) {
            Some(class) => advice::make_class_of_driver(class.name_any(), &class.provisioner, DRIVER),
            None => advice::read_foreign_events(name, namespace),
        },
    }
}

/// The next step for a PersistentVolumeClaim that waits for its StorageClass, by more than the words of an event. `None`: nothing
/// more is known.
fn known_step(snapshot: &Snapshot, target: &Target, name: &str, namespace: &str) -> Option<String> {
    let pvc = target.find_pvc(snapshot);
    let remade = |how: &str| anew(snapshot, name, namespace, how);
    let made = || {
        let made = pvc.and_then(|pvc| template(snapshot, pvc));
        made.unwrap_or_else(|| "the PersistentVolumeClaim".to_owned())
    };
    if let Some(class) = missing_class(snapshot, target) {
        return Some(match nearest(class, all_classes(snapshot)) {
            Some(near) => remade(&of_class(near)),
            None => advice::see_classes(class, made()),
        });
    }
    match pvc.and_then(|pvc| snapshot.refused(pvc)) {
        Some((Some(class), _)) => return Some(advice::make_class_as_said(class)),
        Some((None, _)) => return Some(remade(AS_SAID)),
        None => {}
    }
    if let Some(apart) = pvc.and_then(|pvc| Apart::find(snapshot, pvc)) {
        return Some(apart.step(&made()));
    }
    let said = pvc_report(snapshot, target).map(|report| report.message).unwrap_or_default();
    let ended = || Some(advice::end_finished_pod(finished_pod(snapshot, pvc?)?, namespace));
    // A right on a mistyped role would be of no use.
    let mistyped = |grant: &str| {
        let (class, wanted) = (snapshot.our_class(pvc?)?, snapshot.wanted(pvc?)?);
        let near = snapshot.near_role(&wanted.spec.role)?;
        Some(advice::make_class_for_role(class.name_any(), near, advice::command(grant)))
    };
    let step = refusal_step(&said, namespace).map(|step| match said.contains(GRANT) {
        true => mistyped(&step).unwrap_or(step),
        false => step,
    });
    let step = step.or_else(|| space_step(snapshot, target).and_then(|step| ended().or(Some(step))));
    let elsewhere = || {
        let mut pods = snapshot.pods_of(namespace, name);
        pods.find_map(|pod| placing::to_space(snapshot, pod))
    };
    if let Some(step) = step.or_else(|| place_step(snapshot, pvc?)).or_else(elsewhere) {
        return Some(step);
    }
    if pvc.is_some_and(|pvc| class::is_refused_itself(pvc, &said)) {
        return Some(remade(AS_SAID));
    }
    let names_none = |pvc: &&PersistentVolumeClaim| {
        pvc.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_none() && spec.volume_name.is_none())
    };
    pvc.filter(names_none)?;
    snapshot.classes.first().map(|first| remade(&of_class(first)))
}

/// A pod that has ended and whose ephemeral volume of the same StorageClass is there still. Kubernetes keeps both until the
/// pod is deleted.
fn finished_pod<'a>(snapshot: &'a Snapshot, pvc: &PersistentVolumeClaim) -> Option<&'a str> {
    let class =
        |pvc: &PersistentVolumeClaim| pvc.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
    let has_ended = |name: &str| {
        let mut pods = snapshot.pods.iter().filter(|pod| pod.metadata.namespace == pvc.metadata.namespace);
        let pod = pods.find(|pod| pod.metadata.name.as_deref() == Some(name));
        pod.and_then(|pod| pod.status.as_ref())
            .is_some_and(|status| cluster::has_ended(status.phase.as_deref()))
    };
    let bound = |other: &&PersistentVolumeClaim| {
        other.metadata.namespace == pvc.metadata.namespace
            && class(other) == class(pvc)
            && other.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some())
    };
    snapshot.pvcs.iter().filter(bound).filter_map(pod_of).find(|pod| has_ended(pod))
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
    // The reservation that the class names is for another role, or on a node that the class excludes.
    let named = reservations.iter().find(|r| r.metadata.name == wanted.spec.reservation);
    let is_of_other = named.is_some_and(|r| !Role::name_covers(&r.spec.role, &wanted.spec.role));
    let is_excluded = class.allowed_topologies.is_some() && !could_hold.is_empty();
    if is_of_other || wanted.spec.reservation.is_some() && is_excluded {
        return Some(advice::make_class_as_said(class.name_any()));
    }
    let suited = || could_hold.iter().filter_map(|r| disk_of(r));
    if let Some(cordoned) = suited().find(|_| suited().all(is_cordoned)) {
        return Some(advice::uncordon_for_new(&cordoned.spec.node_name));
    }
    let unready = could_hold.iter().filter_map(|r| disk_of(r)).find(|disk| !is_ready(disk))?;
    let any_ready = could_hold.iter().filter_map(|r| disk_of(r)).any(is_ready);
    (!any_ready).then(|| advice::ask_why(format!("nd/{}", unready.name_any())))
}

fn all_classes(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    let others = snapshot.other_classes.iter().filter_map(|class| class.metadata.name.as_deref());
    snapshot.classes.iter().map(String::as_str).chain(others)
}

/// The class of the PersistentVolumeClaim, if its provisioner is almost Reservoir's.
fn mistyped_driver<'a>(snapshot: &'a Snapshot, pvc: &PersistentVolumeClaim) -> Option<&'a StorageClass> {
    let name = pvc.spec.as_ref()?.storage_class_name.as_ref()?;
    let class = snapshot.other_classes.iter().find(|class| class.metadata.name.as_ref() == Some(name))?;
    let is_near = class.provisioner.contains("reservoir") || nearest(&class.provisioner, [DRIVER]).is_some();
    is_near.then_some(class)
}

/// The StorageClass that the PersistentVolumeClaim names and that does not exist.
fn missing_class<'a>(snapshot: &'a Snapshot, target: &Target) -> Option<&'a str> {
    let class = target.find_pvc(snapshot)?.spec.as_ref()?.storage_class_name.as_deref()?;
    let exists = all_classes(snapshot).any(|name| name == class);
    // The empty name asks for no class.
    (!exists && !snapshot.classes_unseen && !class.is_empty()).then_some(class)
}

#[cfg(test)]
mod tests;
