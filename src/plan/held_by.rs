//! The processes that hold a volume, in messages (F3).
//!
//! An object of the cluster names all processes: who reads volumes sees the pods of all users anyway. An object of a
//! namespace names the processes of the namespace's own pods, since others are no business of a tenant.

use crate::api::{PodRef, Process};

use super::names;

/// The words of a node about a volume that pods use.
const IN_USE: &str = "is in use by pod";

/// The message about a volume whose data pods use: those of before, if it recovers the data.
pub fn in_use(volume: &str, holder: &str) -> String {
    format!("volume {volume} {IN_USE} {holder}: it goes on when these pods have ended")
}

/// True if the message is that of [`in_use`].
pub fn says_in_use(message: &str) -> bool {
    message.contains(IN_USE)
}

/// The processes, for readers of the volume. `pods` are the known pods.
pub fn by(processes: &[Process], pods: &[PodRef]) -> String {
    if processes.is_empty() {
        return "a process that the agent does not find (without the chart's value agent.hostPID it sees its own alone)"
            .to_owned();
    }
    let words: Vec<String> = processes.iter().map(|process| words(process, pods)).collect();
    names(&words, words.len())
}

/// The processes, for a namespace.
pub fn by_for(namespace: &str, volume: &str, processes: &[Process], pods: &[PodRef]) -> String {
    let own: Vec<PodRef> = pods.iter().filter(|pod| pod.namespace == namespace).cloned().collect();
    let is_own = |process: &&Process| own.iter().any(|pod| Some(&pod.uid) == process.pod_uid.as_ref());
    let told: Vec<Process> = processes.iter().filter(is_own).cloned().collect();
    match told.is_empty() {
        true => {
            format!("a process outside of the namespace's pods, which administrators find at volume {volume}")
        }
        false => by(&told, &own),
    }
}

/// The event on a volume whose mount cannot be removed.
pub fn on_volume(node: &str, processes: &[Process], pods: &[PodRef]) -> String {
    let of = if pods.is_empty() { String::new() } else { format!(" for pod {}", names(pods, pods.len())) };
    format!(
        "node {node} cannot remove the mount{of}, which is held by {}: end that process",
        by(processes, pods)
    )
}

/// The event on an exclusive volume that a pod waits for. `pods` are the other known pods.
pub fn waited_for(node: &str, pod: &PodRef, processes: &[Process], pods: &[PodRef]) -> String {
    let known = [std::slice::from_ref(pod), pods].concat();
    format!(
        "pod {pod} waits for the volume on node {node}, where it is still held by {}: end that process",
        by(processes, &known)
    )
}

/// The event on a pod that no scheduler places while another pod has the volume (M2). The scheduler names neither of them.
pub fn by_pod(volume: &str, pod: &PodRef) -> String {
    format!(
        "volume {volume} is for one pod at a time, and pod {} uses it: end that pod, or wait for its end; a Deployment needs \
         strategy.type Recreate, a CronJob concurrencyPolicy Forbid, and several pods at once need a volume with spec.shared",
        pod.name
    )
}

/// The event on the pod whose mount cannot be removed.
pub fn on_pod(node: &str, volume: &str, processes: &[Process], pod: &PodRef) -> String {
    let pods = std::slice::from_ref(pod);
    format!(
        "node {node} cannot remove the mount of volume {volume}, which is held by {}: the pod goes when that process ends",
        by_for(&pod.namespace, volume, processes, pods)
    )
}

fn words(process: &Process, pods: &[PodRef]) -> String {
    let Process { pid, command, pod_uid, mount } = process;
    let of = pod_uid.as_ref().map(|uid| match pods.iter().find(|pod| pod.uid == *uid) {
        Some(pod) => format!(" of pod {pod}"),
        None => format!(" of a pod with UID {uid}"),
    });
    let with = mount.as_ref().map(|point| format!(" with a mount at {point}"));
    format!("process {pid} ({command}){}{}", of.unwrap_or_default(), with.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    /// F3, and what a namespace is not told.
    #[test]
    fn f3_a_namespace_reads_of_its_own_processes_only() {
        let process = |pid, pod: Option<&str>, mount: Option<&str>| Process {
            pid,
            command: "sleep".into(),
            pod_uid: pod.map(|name| format!("uid-{name}")),
            mount: mount.map(Into::into),
        };
        let pods = [pod("ns", "p"), pod("other", "q")];
        let all = [
            process(7, Some("p"), None),
            process(8, Some("q"), Some("/data")),
            process(9, Some("gone"), None),
            process(10, None, Some("/mnt")),
        ];
        assert_eq!(
            by(&all, &pods),
            "process 7 (sleep) of pod ns/p, process 8 (sleep) of pod other/q with a mount at /data, \
             process 9 (sleep) of a pod with UID uid-gone and 1 more"
        );
        assert_eq!(by_for("ns", "v", &all, &pods), "process 7 (sleep) of pod ns/p");
        let others = by_for("ns", "v", &all[1..], &pods);
        assert!(
            !others.contains("sleep") && !others.contains('q') && others.contains("volume v"),
            "{others}"
        );
        let told = on_pod("n1", "v", &all[1..], &pods[0]);
        assert!(!told.contains("other"), "{told}");
        let told = on_volume("n1", &all[3..], &pods[..1]);
        assert!(
            told.contains("for pod ns/p, which is held by process 10 (sleep) with a mount at /mnt"),
            "{told}"
        );
        let told = waited_for("n1", &pods[0], &all[..2], &pods[1..]);
        assert!(
            told.contains("process 7 (sleep) of pod ns/p and process 8 (sleep) of pod other/q"),
            "{told}"
        );
        assert!(by(&[], &[]).contains("agent.hostPID"));
    }
}
