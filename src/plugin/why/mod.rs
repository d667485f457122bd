//! The command `why`: the causes of a wait, root first, then the holders and the next step.

mod advice;
mod chain;
mod containers;
mod copy_labels;
mod ending_pod;
mod ending_pvc;
mod events;
mod excluded;
mod growth;
mod holders;
mod lost_pvc;
mod named_volume;
mod old_data;
mod owners;
mod placing;
mod pods;
mod pvcs;
mod report;
mod space;
mod steps;
mod target;
mod workloads;

use serde::Serialize;

pub(super) use advice::refusal_of_command;
pub(super) use chain::NOT_LOOKED_AT;
pub(super) use containers::{
    CRASHES, end as container_end, ended as container_ended, stopped as stopped_container,
};
pub(super) use ending_pvc::{explain as explain_ending, find as find_ending};
pub(super) use growth::growth;
pub(super) use placing::unscheduled;
pub(super) use report::{PROVISIONING_FAILED, TERMINATING};
pub(super) use steps::resize_instead;
pub(super) use target::Target;

use super::kind::{CLAIM, POD, PVC, RESERVATION, VOLUME};
use super::paint::Paint;
use super::snapshot::Snapshot;
use crate::api::condition::reason::{COPY_DIFFERS, SPACE_TAKEN};
use crate::api::volume_for_pvc;
use crate::plan::advice as advised;
use chain::{chain, may_cause, reports};
use holders::{holders, keeps_pods_off, told_step};
use report::Report;
use steps::{deletion_step, full_step, step_for, subscription_step};

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Why {
    pub object: String,
    /// Reason and message of the object, in one line.
    #[serde(rename = "stands")]
    pub summary: String,
    pub ready: bool,
    /// The causes of the wait, from the root to the object itself.
    pub because: Vec<Report>,
    /// Holders, content, and earlier reservations in the queue.
    #[serde(rename = "held")]
    pub holders: Vec<String>,
    /// Next steps.
    pub next: Vec<String>,
}

/// Explains an object. The error for an unknown object has the most similar name.
pub(super) fn why(snapshot: &Snapshot, target: &Target) -> Result<Why, String> {
    let mut why = answer_about(snapshot, target)?;
    if let Some(namespace) =
        snapshot.ending_namespace.as_ref().filter(|of| target.namespace.as_ref() == Some(of))
    {
        why.holders.insert(
            0,
            format!("namespace {namespace} is being deleted, with all that is in it, and takes no new pod"),
        );
        let leave = advised::leave_ending_namespace(namespace);
        why.next.retain(|step| *step != leave);
        why.next.insert(0, leave);
    }
    if let Some(leaderless) = &snapshot.leaderless {
        why.holders
            .insert(0, format!("{leaderless}; nothing of Reservoir changes, and this may be out of date"));
        let waits = || chain(snapshot, target).pop().is_some_and(|root| is_by_controller(snapshot, &root));
        if !why.ready && waits() {
            why.next.retain(|step| ![advised::check_controller(), advised::look_again()].contains(step));
            why.next.insert(0, advised::check_controller());
        }
    }
    Ok(why)
}

/// True for an object that gets on by the controller alone.
fn is_by_controller(snapshot: &Snapshot, target: &Target) -> bool {
    match target.kind {
        kind if kind == &POD || kind.workload => false,
        kind if kind == &PVC => target.find_pvc(snapshot).is_some_and(|pvc| snapshot.is_ours(pvc)),
        _ => true,
    }
}

/// The answer by the objects as they are.
fn answer_about(snapshot: &Snapshot, target: &Target) -> Result<Why, String> {
    let claim = Target { kind: &CLAIM, ..target.clone() };
    // A claim says Bound until its PersistentVolumeClaim is gone.
    let ending = ending_pvc::find(snapshot, target.namespace.as_deref(), &target.name);
    if let Some(pvc) = ending.filter(|_| target.kind == &CLAIM) {
        let answer = answer_about(snapshot, &ending_pvc::target(pvc))?;
        let holders = answer.holders.into_iter().filter(|line| !line.starts_with(BELONGS)).collect();
        let summary = format!("its PersistentVolumeClaim is {}", answer.summary);
        return Ok(Why { object: target.title(), summary, holders, ..answer });
    }
    let is_of_class = target.is_made_of_class(snapshot);
    let is_taken = snapshot.is_name_taken(target.namespace.as_deref(), &target.name);
    if is_of_class || target.kind == &PVC && !is_taken && reports(snapshot, &claim).is_some() {
        // A claim's PersistentVolumeClaim has the name of the claim, and waits for the claim.
        let mut answer = explain(snapshot, if is_of_class { target } else { &claim })?;
        if !is_of_class {
            answer.holders.insert(0, format!("{BELONGS} {}", claim.title()));
        }
        answer.holders.extend(old_data::event(snapshot, target));
        let deleted = target.find_pvc(snapshot).is_some_and(|pvc| pvc.metadata.deletion_timestamp.is_some());
        // The condition of the claim names the deletion alone, and not what keeps the object.
        let by_deletion = answer.ready || answer.summary.starts_with(TERMINATING);
        if let Some(report) = pvcs::pvc_report(snapshot, target).filter(|_| deleted && by_deletion) {
            let (summary, next) = (
                format!("{}: {}", report.reason, report.message),
                vec![step_for(snapshot, target, &report.reason)],
            );
            let because = vec![report];
            return Ok(Why { object: target.title(), summary, ready: false, because, next, ..answer });
        }
        if let Some(report) = growth::coming(snapshot, target).filter(|_| answer.ready) {
            add_coming(&mut answer, report, snapshot, target);
        }
        return Ok(Why { object: target.title(), ..answer });
    }
    let mut answer = explain(snapshot, target)?;
    let pod = target.find_pod(snapshot).filter(|_| target.kind == &POD);
    if let Some(step) = pod.and_then(|pod| ending_pod::force_step(snapshot, pod)) {
        answer.next = vec![step];
    }
    if !answer.ready {
        let (events, step) = old_data::look(snapshot, target);
        answer.next.splice(..0, step);
        answer.holders.extend(events);
    }
    if answer.ready
        && let Some((pvc, report)) = growth::of_users(snapshot, target)
    {
        // The pod goes on meanwhile.
        let summary = format!("{}; {} is {}: {}", answer.summary, pvc.title(), report.reason, report.message);
        add_coming(&mut answer, report, snapshot, &pvc);
        if target.kind != &PVC {
            answer.summary = summary;
        }
    }
    Ok(answer)
}

/// The begin of the line that names the claim of a PersistentVolumeClaim.
const BELONGS: &str = "it belongs to";

/// The answer by the object's own conditions, and those of what it waits for.
fn explain(snapshot: &Snapshot, target: &Target) -> Result<Why, String> {
    let chain = chain(snapshot, target);
    let mut because = Vec::new();
    let mut next = Vec::new();
    for (i, link) in chain.iter().enumerate().rev() {
        let reports = reports(snapshot, link);
        if i == 0 && reports.is_none() {
            return Err(target.not_found(snapshot));
        }
        let reports = reports.unwrap_or_else(|| vec![pvcs::missing_claim(snapshot, link)]);
        // A volume that could not shrink, or that retires, serves meanwhile: it delays its claims by nothing else.
        let matters = |report: &Report| i == 0 || report.trouble && !(report.beside && link.kind == &VOLUME);
        let cause = chain.get(i + 1);
        let (begin, is_caused) = (because.len(), |reason: &str| {
            cause.is_some_and(|cause| may_cause(cause.kind, link.kind, reason))
        });
        for mut report in reports.into_iter().filter(matters) {
            // The phase of a pod comes of the pod's own cause, too.
            report.caused = is_caused(&report.reason) || link.kind == &POD && because.len() > begin;
            // The step for the root cause is enough: its effects end by themselves. A pod has one cause at a time.
            if report.trouble && (next.is_empty() || i + 1 == chain.len() && link.kind != &POD) {
                let step = step_for(snapshot, link, &report.reason);
                next.extend(Some(step).filter(|step| !next.contains(step)));
            }
            because.push(report);
        }
    }
    if next.len() > 1 {
        next.retain(|step| *step != advised::look_again());
    }
    let ready = next.is_empty();
    let mut holders = holders(snapshot, target);
    if ready {
        let end = deletion_step(snapshot, target).filter(|_| !holders.is_empty());
        let (cordoned, uncordon) = keeps_pods_off(snapshot, target).unzip();
        holders.extend(cordoned);
        let step = subscription_step(snapshot, target)
            .or_else(|| full_step(snapshot, target))
            .or_else(|| told_step(snapshot, target))
            .or_else(|| workloads::failed_step(snapshot, target));
        next.extend(step.or(uncordon).or(end));
    }
    let own = because.iter().rfind(|report| !report.beside).or(because.last());
    let mut summary = match own {
        Some(own) if because.len() > 1 => format!("{}, for the reasons below", own.reason),
        Some(own) if own.message.is_empty() => own.reason.clone(),
        Some(own) => format!("{}: {}", own.reason, own.message),
        None => "no condition is reported".into(),
    };
    if !ready && let Some(own) = because.pop_if(|own| !own.trouble) {
        // The object's own condition is no consequence of the causes.
        let cause = match because.as_slice() {
            [cause] => format!(": {} is {}: {}", cause.object, cause.reason, cause.message),
            _ => ", for the reasons below".to_owned(),
        };
        let end = match target.kind == &RESERVATION {
            // Its volumes have their bytes, and so may new ones.
            true if because.iter().any(|cause| cause.reason == SPACE_TAKEN) => {
                "what is made in it may find no space"
            }
            true => "nothing can be made in it now",
            // Its pods go on, and new ones start.
            false if because.iter().all(|cause| cause.reason == COPY_DIFFERS) => "its files are not intact",
            false => "not of use now",
        };
        summary = format!("{}, but {end}{cause}", own.reason);
    }
    if ready {
        because.clear();
        if let Some((said, step)) = pods::unmounted(snapshot, target) {
            summary = format!("{summary}, but not of use now: {said}");
            return Ok(Why {
                object: target.title(),
                summary,
                ready: false,
                because,
                holders,
                next: vec![step],
            });
        }
    }
    Ok(Why { object: target.title(), summary, ready, because, holders, next })
}

/// Adds the end of a PersistentVolumeClaim, or the growth that it waits for, to the answer of its healthy claim.
fn add_coming(answer: &mut Why, report: Report, snapshot: &Snapshot, target: &Target) {
    let volume = || {
        let uid = target.find_pvc(snapshot).and_then(|pvc| pvc.metadata.uid.clone()).unwrap_or_default();
        answer_about(snapshot, &Target::new(&VOLUME, None, volume_for_pvc(&uid))).ok()
    };
    // A PersistentVolumeClaim that ends waits for its pods, and not for its volume.
    let grows = report.reason != TERMINATING;
    let cause = grows.then(volume).flatten().filter(|volume| !volume.ready);
    answer.summary = format!("{}: {}", report.reason, report.message);
    answer.next = match &cause {
        Some(cause) => cause.next.clone(),
        None => vec![step_for(snapshot, target, &report.reason)],
    };
    answer.because = cause.map(|cause| cause.because).unwrap_or_default();
    answer.because.push(Report { caused: true, ..report });
    answer.ready = false;
}

/// The answer as text.
pub(super) fn text(why: &Why, paint: Paint) -> String {
    let summary = if why.ready { paint.good(&why.summary) } else { paint.warn(&why.summary) };
    let mut text = format!("{}: {summary}\n", paint.bold(&why.object));
    // The first line already has a single cause.
    for (i, report) in why.because.iter().enumerate().filter(|_| why.because.len() > 1) {
        let also = i > 0 && why.because[i - 1].object == report.object && report.beside;
        let word = match (i, report.caused && !also) {
            (0, _) => "because",
            (_, true) => "so",
            (_, false) => "and",
        };
        let message = if report.message.is_empty() { String::new() } else { format!(": {}", report.message) };
        text.push_str(&format!("  {word} {} is {}{message}\n", report.object, paint.bold(&report.reason)));
    }
    for line in &why.holders {
        text.push_str(&format!("  {line}\n"));
    }
    for step in &why.next {
        text.push_str(&format!("{} {step}\n", paint.bold("next:")));
    }
    text
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
