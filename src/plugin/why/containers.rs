//! Containers of a pod that do not run, although its volumes are mounted.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::report::Report;
use super::target::Target;
use crate::cluster;

/// The reason of a pod with a container that ends by itself, again and again.
pub(in crate::plugin) const CRASHES: &str = "CrashLoopBackOff";

/// Reasons of containers that never ran: they have no log, and the message of their end has the cause.
const NEVER_RAN: [&str; 2] = ["StartError", "ContainerCannotRun"];

/// Reasons of containers that are about to start.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The report of a pod with a container that ends again and again, or, in a running pod, does not start.
pub(super) fn report(target: &Target, pod: &Pod) -> Option<Report> {
    let status = pod.status.as_ref()?;
    let (container, reason) = stopped(pod)?;
    if reason != CRASHES && status.phase.as_deref() != Some("Running") {
        return None;
    }
    let message = match ended(container) {
        Some(ended) if reason == CRASHES => format!("container {} {}", container.name, end(ended)),
        Some(ended) if NEVER_RAN.contains(&reason) => {
            format!("container {}: {}", container.name, ended.message.as_deref().unwrap_or_default())
        }
        _ => {
            let state = container.state.as_ref();
            let said = state.and_then(|s| s.waiting.as_ref()?.message.clone()).unwrap_or_default();
            format!("container {}: {said}", container.name)
        }
    };
    Some(Report::of(target.title(), reason, message, true))
}

/// The last end of a container.
pub(in crate::plugin) fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let states = container.state.iter().chain(&container.last_state);
    states.into_iter().find_map(|state| state.terminated.as_ref())
}

/// `ended with exit code 137 (OOMKilled)`: Kubernetes has a reason of its own for some ends.
pub(in crate::plugin) fn end(ended: &ContainerStateTerminated) -> String {
    let own = ended.reason.as_deref().filter(|reason| !["Error", "Completed", ""].contains(reason));
    let own = own.map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("ended with exit code {}{own}", ended.exit_code)
}

/// The container that has ended in failure, with a log. A pod with a reason of its own, for example an evicted one, was ended
/// from outside.
pub(super) fn failed_log(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().filter(|status| status.reason.is_none() && status.message.is_none())?;
    let (container, _) = failed(pod)?;
    never_ran(container).is_none().then_some(&container.name)
}

/// The first container that has ended in failure, and its exit code.
pub(super) fn failed(pod: &Pod) -> Option<(&ContainerStatus, i32)> {
    all(pod).find_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some((container, ended.exit_code))
    })
}

/// The containers of a pod, init containers first.
pub(super) fn all(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    })
}

/// The container that ends again and again, and the option for the log of its last run.
pub(super) fn crashed(pod: &Pod) -> Option<(&str, &'static str)> {
    let (container, _) = stopped(pod).filter(|(_, reason)| *reason == CRASHES)?;
    let is_between = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
    Some((&container.name, if is_between { "" } else { " --previous" }))
}

/// The first container that does not run and is about to be started again, or waits for something else than its start, and the
/// reason. Between two starts a container is `terminated` or waits, by the version of Kubernetes.
pub(in crate::plugin) fn stopped(pod: &Pod) -> Option<(&ContainerStatus, &str)> {
    let status = pod.status.as_ref()?;
    let ends = pod.metadata.deletion_timestamp.is_some() || cluster::has_ended(status.phase.as_deref());
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    let init = status.init_container_statuses.iter().flatten().map(|container| (container, true));
    let all = init.chain(status.container_statuses.iter().flatten().map(|container| (container, false)));
    all.into_iter().find_map(|(container, is_init)| {
        let state = container.state.as_ref()?;
        if let Some(ended) = &state.terminated {
            let failed = ended.exit_code != 0;
            let starts_again = policy == "Always" && !is_init || policy != "Never" && failed;
            return (starts_again && !ends).then_some((container, never_ran(container).unwrap_or(CRASHES)));
        }
        let reason = state.waiting.as_ref()?.reason.as_deref()?;
        let never_ran = never_ran(container).filter(|_| reason == CRASHES);
        (!STARTING.contains(&reason)).then_some((container, never_ran.unwrap_or(reason)))
    })
}

/// The reason of a container that could not be started.
fn never_ran(container: &ContainerStatus) -> Option<&str> {
    ended(container)?.reason.as_deref().filter(|reason| NEVER_RAN.contains(reason))
}

/// True if the pod has all its volumes: the kubelet mounts them before it looks at the image of the first container.
pub(super) fn has_begun(pod: &Pod) -> bool {
    all(pod).filter_map(|container| container.state.as_ref()).any(|state| {
        let waits_for = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
        state.running.is_some()
            || state.terminated.is_some()
            || waits_for.is_some_and(|reason| !STARTING.contains(&reason))
    })
}

/// The init container that runs, and that the others wait for. A sidecar lets them start.
pub(super) fn running_init(pod: &Pod) -> Option<&str> {
    let mut init = pod.status.as_ref()?.init_container_statuses.iter().flatten();
    let runs = |c: &&ContainerStatus| {
        c.state.as_ref().is_some_and(|state| state.running.is_some()) && c.started != Some(true)
    };
    init.find(runs).map(|container| container.name.as_str())
}

/// True if each container of the pod has a log: it runs, or has run.
pub(super) fn have_logs(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut containers = containers.peekable();
    let has_log = |container: &ContainerStatus| {
        let now = container.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        let before = container.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
        (now || before) && never_ran(container).is_none()
    };
    containers.peek().is_some() && containers.all(has_log)
}

/// True if the pod is ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
