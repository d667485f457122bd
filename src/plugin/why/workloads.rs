//! Reports about workloads.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::advice::refusal;
use super::containers;
use super::events::{last_event, message_of, time_of};
use super::pods::FAILED;
use super::report::Report;
use super::target::Target;
use crate::cluster;
use crate::plan::advice;
use crate::plugin::snapshot::Snapshot;

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
    // The pods of a Job that run are missing to nobody.
    let active = number("status", "active").filter(|active| job && *active > 0);
    let runs = active.is_some() && active == number("status", "ready");
    let trouble = !complete && !runs && (ready < wanted || new > 0);
    if trouble && workload.data["spec"]["suspend"] == true {
        return Some(Report::of(target.title(), SUSPENDED, "it is suspended, and makes no pod".into(), true));
    }
    let failed =
        conditions.into_iter().flatten().find(|c| c["type"] == "ReplicaFailure" || c["type"] == "Failed");
    let failed = failed.and_then(|c| c["message"].as_str()).map(str::to_owned);
    // A pod that was made since was refused no longer.
    let last = last_event(snapshot, target.kind, target, false);
    let is_over = |warning: &&Event| {
        last.is_some_and(|last| {
            last.reason.as_deref() == Some("SuccessfulCreate") && time_of(last) > time_of(warning)
        })
    };
    let warning = last_event(snapshot, target.kind, target, true).filter(|warning| !is_over(warning));
    let said = failed.or_else(|| warning.map(message_of));
    let said = said.filter(|_| trouble).map(|said| format!(": {said}")).unwrap_or_default();
    let reason = match (trouble, complete) {
        (true, _) => "NotReady",
        (false, false) if runs => "Running",
        (false, _) => "Ready",
    };
    let new = if new > 0 { format!(", and {new} of its rollout not") } else { String::new() };
    let failed = number("status", "failed").filter(|failed| job && !complete && *failed > 0);
    let failed = failed.map(|failed| format!(", and {failed} have failed")).unwrap_or_default();
    let message = format!("{ready} of {wanted} {what}{new}{failed}{said}");
    Some(Report::of(target.title(), reason, message, trouble))
}

/// The reason of a Job that somebody has suspended.
pub(super) const SUSPENDED: &str = "Suspended";

/// The step for a workload that lacks pods.
pub(super) fn step(snapshot: &Snapshot, target: &Target, reason: &str) -> String {
    let (name, namespace) = (&target.name, target.namespace.as_deref().unwrap_or("default"));
    if reason == SUSPENDED {
        return advice::resume_job(name, namespace);
    }
    let of_it = pods_of_workload(snapshot, target);
    if let Some(pod) = of_it.into_iter().find(|pod| !cluster::is_terminal(pod) && !containers::is_ready(pod))
    {
        return advice::describe_pod(pod.name_any(), namespace);
    }
    let refused = workload_report(snapshot, target).and_then(|report| refusal(&report.message, namespace));
    refused.unwrap_or_else(|| advice::read_workload(target.kind.short, name, namespace))
}

/// The step for a Job that goes on after pods of it have failed: the log of the last one.
pub(super) fn failed_step(snapshot: &Snapshot, target: &Target) -> Option<String> {
    let has_failed = |pod: &&Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(FAILED);
    let is_complete = workload_report(snapshot, target).is_none_or(|report| report.reason == "Ready");
    let of_job = if is_complete { vec![] } else { pods_of_workload(snapshot, target) };
    let last = of_job.into_iter().filter(has_failed).max_by_key(|pod| {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        started.map(|time| time.0)
    })?;
    Some(advice::read_failed_log(last.name_any(), target.namespace.as_deref().unwrap_or("default")))
}

/// The pods that a workload's selector matches, by name. Those that are being deleted, as in a drain, come last.
pub(super) fn pods_of_workload<'a>(snapshot: &'a Snapshot, target: &Target) -> Vec<&'a Pod> {
    let workload = snapshot.workloads.iter().find(|w| w.name_any() == target.name);
    let labels = |w: &DynamicObject| w.data["spec"]["selector"]["matchLabels"].as_object().cloned();
    let Some(labels) = workload.and_then(labels) else { return vec![] };
    let chosen = |pod: &&Pod| {
        pod.namespace() == target.namespace
            && labels.iter().all(|(key, value)| pod.labels().get(key).map(String::as_str) == value.as_str())
    };
    let mut pods: Vec<&Pod> = snapshot.pods.iter().filter(chosen).collect();
    pods.sort_by_key(|pod| (pod.metadata.deletion_timestamp.is_some(), pod.name_any()));
    pods
}
