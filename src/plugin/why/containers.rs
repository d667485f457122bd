//! Containers of a pod that do not run, although its volumes are mounted.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::report::Report;
use super::target::Target;
use crate::cluster;

/// The reason of a pod with a container that ends by itself, again and again.
pub(super) const CRASHES: &str = "CrashLoopBackOff";

/// Reasons of containers that are about to start.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The report of a pod with a container that ends again and again, or, in a running pod, does not start.
pub(super) fn report(target: &Target, pod: &Pod) -> Option<Report> {
    let status = pod.status.as_ref()?;
    let (container, reason) = stopped(pod)?;
    if reason != CRASHES && status.phase.as_deref() != Some("Running") {
        return None;
    }
    let state = container.state.as_ref();
    let ended = state.and_then(|s| s.terminated.as_ref());
    let ended = ended.or_else(|| container.last_state.as_ref().and_then(|last| last.terminated.as_ref()));
    let message = match ended.filter(|_| reason == CRASHES) {
        Some(ended) => format!("container {} ended with exit code {}", container.name, ended.exit_code),
        None => {
            let said = state.and_then(|s| s.waiting.as_ref()?.message.clone()).unwrap_or_default();
            format!("container {}: {said}", container.name)
        }
    };
    Some(Report::of(target.title(), reason, message, true))
}

/// The container that ends again and again.
pub(super) fn crashed(pod: &Pod) -> Option<&str> {
    stopped(pod).filter(|(_, reason)| *reason == CRASHES).map(|(container, _)| container.name.as_str())
}

/// The first container that does not run and is about to be started again, or waits for something else than its start, and the
/// reason. Between two starts a container is `terminated` or waits, by the version of Kubernetes.
fn stopped(pod: &Pod) -> Option<(&ContainerStatus, &str)> {
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
            return (starts_again && !ends).then_some((container, CRASHES));
        }
        let reason = state.waiting.as_ref()?.reason.as_deref()?;
        (!STARTING.contains(&reason)).then_some((container, reason))
    })
}

/// True if each container of the pod has a log: it runs, or has run.
pub(super) fn have_logs(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut containers = containers.peekable();
    let has_log = |container: &ContainerStatus| {
        let now = container.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        now || container.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
    };
    containers.peek().is_some() && containers.all(has_log)
}

/// True if the pod is ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
