//! Why pods of the installation are missing or not ready, and why a node has no agent.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Node, Pod, PodSpec, Taint};
use kube::ResourceExt;

use crate::plan::advice;
use crate::plan::startup_taint::TAINT;
use crate::plugin::{taints, why};

/// A DaemonSet or Deployment of the installation.
pub(super) struct Workload<'a> {
    /// `daemonset/reservoir-agent`.
    pub object: String,
    pub namespace: String,
    /// Name of the Helm release.
    pub release: String,
    /// Number of pods that are to be there.
    pub wanted: i32,
    pub pods: Vec<&'a Pod>,
    /// What the API server answered to the last pod that could not be made.
    pub refusal: Option<String>,
    /// Warnings of the namespace.
    pub events: &'a [Event],
}

/// A cause, in the words of Kubernetes, and the next step.
pub(super) type Cause = (String, String);

impl Workload<'_> {
    /// The cause of missing or unready pods; `None`: Kubernetes reports none.
    pub fn cause(&self) -> Option<Cause> {
        let missing = self.pods.len() < usize::try_from(self.wanted).unwrap_or(0);
        let refused = self.refusal.as_deref().filter(|_| missing).map(|said| self.refused(said));
        let unready = self.pods.iter().find(|pod| !is_ready(pod));
        refused.or_else(|| self.unready(unready?))
    }

    /// The API server makes no pod.
    fn refused(&self, said: &str) -> Cause {
        let said = said.strip_prefix("Error creating: ").unwrap_or(said);
        let namespace = &self.namespace;
        if let Some((_, level)) = said.split_once("violates PodSecurity ") {
            let level = level.split('"').nth(1).unwrap_or_default();
            let why = format!("namespace {namespace} has Pod Security {level}, which refuses its pods");
            return (why, advice::label_namespace(namespace));
        }
        let step = if said.contains("quota") || said.contains("per Container") || said.contains("per Pod") {
            advice::change_quota(namespace, "it goes on by itself")
        } else if said.contains("serviceaccount") || said.contains("service account") {
            advice::install_chart(&self.release, namespace, "")
        } else if said.contains("PriorityClass") {
            advice::correct_priority(&self.release, namespace)
        } else {
            advice::find_refuser(&self.object, namespace)
        };
        (format!("the API server refuses its pods: {said}"), step)
    }

    fn unready(&self, pod: &Pod) -> Option<Cause> {
        let (name, namespace) = (pod.name_any(), &self.namespace);
        let status = pod.status.clone().unwrap_or_default();
        let of = |why: String, step: String| Some((format!("pod {name}: {why}"), step));
        if let Some(unplaced) = why::unscheduled(pod) {
            return of(unplaced.message.clone().unwrap_or_default(), advice::fit_pod(&name, namespace));
        }
        if let Some((container, reason)) = why::stopped_container(pod) {
            let ended = why::container_ended(container);
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let said = ended.filter(|ended| ended.reason.as_deref() == Some(reason));
            let said = said.and_then(|ended| ended.message.clone());
            let said = said.or(waiting.and_then(|waiting| waiting.message.clone()));
            let message = said.unwrap_or_else(|| reason.to_owned());
            return match (reason, ended) {
                (why::CRASHES, ended) => {
                    let end = ended.map(|ended| format!(": it {}", why::container_end(ended)));
                    let end = end.unwrap_or_default();
                    let is_oom = ended.and_then(|ended| ended.reason.as_deref()) == Some("OOMKilled");
                    of(
                        format!("its container {} ends again and again{end}", container.name),
                        match is_oom {
                            true => advice::raise_memory(&self.release, namespace),
                            false => advice::read_crash_log(namespace, &name),
                        },
                    )
                }
                _ if reason.contains("Image") || reason.contains("Registry") => of(
                    format!("its image {} cannot be had: {message}", container.image),
                    advice::correct_image(&self.release, namespace),
                ),
                _ => of(
                    format!("its container {} is not started: {message}", container.name),
                    advice::describe_pod(&name, namespace),
                ),
            };
        }
        let event = last_warning(self.events, "Pod", &name);
        let is_pending = status.phase.as_deref() == Some("Pending");
        match event.or(is_pending.then(|| "it is Pending".to_owned())) {
            // The kubelet's words for a directory or device of the node that is not there.
            Some(said) if said.contains("hostPath type check failed") => {
                of(said, advice::correct_path(&self.release, namespace))
            }
            Some(said) => of(said, advice::describe_pod(&name, namespace)),
            None => of("it is not ready".to_owned(), advice::read_agent_log(namespace, &name)),
        }
    }
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The message of the last warning about an object.
pub(super) fn last_warning(events: &[Event], kind: &str, name: &str) -> Option<String> {
    let of = |event: &&Event| {
        event.involved_object.kind.as_deref() == Some(kind)
            && event.involved_object.name.as_deref() == Some(name)
            && event.type_.as_deref() == Some("Warning")
    };
    let time = |event: &&Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|time| time.0);
        series.max(last).max(event.event_time.as_ref().map(|time| time.0))
    };
    events.iter().filter(of).max_by_key(time).and_then(|event| event.message.clone())
}

/// Why no DaemonSet has a pod for these nodes, by the first one; `None`: one has to have a pod there, or Kubernetes does not say.
pub(super) fn keeps_away(alike: &[&Node], agents: &[DaemonSet]) -> Option<Cause> {
    let (node, all) =
        (*alike.first()?, alike.iter().map(|node| node.name_any()).collect::<Vec<_>>().join(" "));
    let specs = agents.iter().filter_map(|agents| agents.spec.as_ref()?.template.spec.as_ref());
    let (fitting, others): (Vec<&PodSpec>, Vec<&PodSpec>) =
        specs.partition(|spec| lacks(node, spec).is_none());
    if fitting.is_empty() {
        let (key, value) = lacks(node, others.first()?)?;
        if key == "kubernetes.io/os" {
            return Some((format!("agents run on {value} alone"), advice::nothing_to_do()));
        }
        // The label leads more than agents to the node.
        let (why, step) = match node.labels().get(&key) {
            Some(other) => (format!("there its value is {other}"), advice::run_on_node()),
            None => ("no such label is there".to_owned(), advice::label_node(&all, &key, &value)),
        };
        return Some((format!("the agents' nodes have the label {key}={value}, and {why}"), step));
    }
    let untolerated = |spec: &&PodSpec| {
        taints::of(node).find(|taint| {
            !is_for_each_daemon_set(taint) && !taints::is_tolerated(taint, spec.tolerations.as_ref())
        })
    };
    let taint = fitting.iter().map(untolerated).collect::<Option<Vec<_>>>()?.first().copied()?;
    let why = format!("the taint {} is not tolerated", taints::text(taint));
    let step = match taint.key.as_str() {
        TAINT => advice::have_startup_taint_removed(),
        // Kubernetes and cloud providers take their own off.
        key if key.contains("kubernetes.io/") => advice::ready_node(&all),
        key => advice::tolerate(key, &taint.effect),
    };
    Some((why, step))
}

/// The first label of the pod's node selector that the node lacks.
fn lacks(node: &Node, spec: &PodSpec) -> Option<(String, String)> {
    let selector = spec.node_selector.iter().flatten();
    let missing = |(key, value): &(&String, &String)| node.labels().get(*key) != Some(*value);
    selector.into_iter().find(missing).map(|(key, value)| (key.clone(), value.clone()))
}

/// Taints that Kubernetes has every DaemonSet tolerate, with their effects.
const FOR_EACH_DAEMON_SET: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

fn is_for_each_daemon_set(taint: &Taint) -> bool {
    FOR_EACH_DAEMON_SET.contains(&(&taint.key, &taint.effect))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn cause(pods: &[Pod], refusal: Option<&str>, events: &[Event]) -> Option<Cause> {
        let workload = Workload {
            object: "daemonset/agent".into(),
            namespace: "sys".into(),
            release: "r".into(),
            wanted: 1,
            pods: pods.iter().collect(),
            refusal: refusal.map(str::to_owned),
            events,
        };
        workload.cause()
    }

    fn pod(status: Value) -> Pod {
        from(json!({"metadata": {"name": "a-1"}, "status": status}))
    }

    /// T4: pods that the API server does not make have its words, and the step that lets it make them.
    #[test]
    fn t4_refused_pods_have_the_cause_and_its_step() {
        for (said, why, step) in [
            (
                "Error creating: pods \"a-x\" is forbidden: violates PodSecurity \"restricted:latest\": hostPath volumes (volume \
                 \"dev\"), privileged (container \"agent\" must not set it)",
                "namespace sys has Pod Security restricted:latest, which refuses its pods",
                "kubectl label namespace sys --overwrite pod-security.kubernetes.io/enforce=privileged",
            ),
            (
                "pods \"a\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
                "the API server refuses its pods: pods \"a\" is forbidden: exceeded quota: q",
                "kubectl get resourcequotas,limitranges -n sys",
            ),
            (
                "pods \"a\" is forbidden: error looking up service account sys/a: serviceaccount \"a\" not found",
                "the API server refuses its pods: pods \"a\" is forbidden: error looking up service account",
                "helm upgrade --install r charts/reservoir --namespace sys",
            ),
            (
                "pods \"a\" is forbidden: no PriorityClass with name high was found",
                "the API server refuses its pods: pods \"a\" is forbidden: no PriorityClass",
                "helm get values r -n sys --all   # correct agent.priorityClassName",
            ),
            (
                "admission webhook \"x\" denied the request",
                "the API server refuses its pods: admission webhook \"x\" denied",
                "kubectl describe daemonset/agent -n sys",
            ),
        ] {
            let found = cause(&[], Some(said), &[]).unwrap();
            assert!(found.0.starts_with(why) && found.1.starts_with(step), "{found:?}");
        }
        let ready = pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(cause(&[ready], Some("an event of before"), &[]), None);
        assert_eq!(cause(&[], None, &[]), None);
    }

    /// T4: pods that are there and do not run.
    #[test]
    fn t4_unready_pods_have_the_cause_and_its_step() {
        let container = |state: Value| {
            json!({"containerStatuses": [{"name": "agent", "image": "x:1", "imageID": "", "ready": false,
            "restartCount": 3, "state": state, "lastState": {"terminated": {"exitCode": 7}}}]})
        };
        let waiting = |reason: &str, message: &str| {
            container(json!({"waiting": {"reason": reason, "message": message}}))
        };
        for (status, why, step) in [
            (
                waiting("ImagePullBackOff", "Back-off pulling image"),
                "pod a-1: its image x:1 cannot be had: Back-off pulling image",
                "helm get values r -n sys --all   # correct image.repository, image.tag or imagePullSecrets",
            ),
            (
                waiting("CrashLoopBackOff", "back-off"),
                "pod a-1: its container agent ends again and again: it ended with exit code 7",
                "kubectl logs -n sys a-1 --previous --tail=50",
            ),
            // Kubernetes 1.36 has a container between two starts as ended.
            (
                container(json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
                "pod a-1: its container agent ends again and again: it ended with exit code 1",
                "kubectl logs -n sys a-1 --previous --tail=50",
            ),
            (
                container(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}})),
                "pod a-1: its container agent ends again and again: it ended with exit code 137 (OOMKilled)",
                "helm get values r -n sys --all   # raise agent.resources.limits.memory",
            ),
            (
                container(json!({"terminated": {"exitCode": 128, "reason": "StartError",
                    "message": "container init was OOM-killed (memory limit too low?)"}})),
                "pod a-1: its container agent is not started: container init was OOM-killed (memory limit too low?)",
                "kubectl describe pod a-1 -n sys",
            ),
            (
                waiting("CreateContainerConfigError", "configmap \"c\" not found"),
                "pod a-1: its container agent is not started: configmap \"c\" not found",
                "kubectl describe pod a-1 -n sys",
            ),
            (
                waiting("ContainerCreating", ""),
                "pod a-1: MountVolume.SetUp failed",
                "kubectl describe pod a-1 -n sys",
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient memory."}]}),
                "pod a-1: Insufficient memory.",
                "kubectl describe pod a-1 -n sys   # make it fit",
            ),
        ] {
            let event = json!({"metadata": {}, "type": "Warning", "message": "MountVolume.SetUp failed",
                "involvedObject": {"kind": "Pod", "name": "a-1"}});
            let found = cause(&[pod(status)], None, &[from(event)]).unwrap();
            assert!(found.0 == why && found.1.starts_with(step), "{found:?}");
        }
        let no_path = "MountVolume.SetUp failed for volume \"kubelet\" : hostPath type check failed: /var/lib/k0s is not a directory";
        let event = json!({"metadata": {}, "type": "Warning", "message": no_path,
            "involvedObject": {"kind": "Pod", "name": "a-1"}});
        let found = cause(&[pod(json!({"phase": "Pending"}))], None, &[from(event)]).unwrap();
        assert!(found.1.contains("correct kubeletDir"), "{found:?}");
        let found = cause(&[pod(json!({"phase": "Pending"}))], None, &[]).unwrap();
        assert!(
            found.0.ends_with("it is Pending") && found.1.starts_with("kubectl describe pod a-1"),
            "{found:?}"
        );
        let found = cause(&[pod(container(json!({"running": {}})))], None, &[]).unwrap();
        assert_eq!(found.1, "kubectl logs -n sys a-1 --tail=50");
    }

    /// T4: a node without an agent says by what.
    #[test]
    fn t4_a_node_without_an_agent_says_why() {
        let agents = |spec: Value| -> Vec<DaemonSet> {
            vec![from(
                json!({"metadata": {"name": "agent"}, "spec": {"selector": {}, "template": {"spec": spec}}}),
            )]
        };
        let node: Node = from(
            json!({"metadata": {"name": "n1", "labels": {"disk": "fast"}}, "spec": {"taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "soft", "effect": "PreferNoSchedule"}, {"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}),
        );
        let why = |spec: Value| keeps_away(&[&node], &agents(spec));
        let (said, step) = why(json!({"containers": [], "nodeSelector": {"disk": "slow"}})).unwrap();
        assert_eq!(said, "the agents' nodes have the label disk=slow, and there its value is fast");
        assert_eq!(step, advice::run_on_node(), "the label may lead others");
        let (said, step) = why(json!({"containers": [], "nodeSelector": {"pool": "slow"}})).unwrap();
        assert_eq!(said, "the agents' nodes have the label pool=slow, and no such label is there");
        assert!(step.starts_with("kubectl label node n1 pool=slow   #"), "{step}");
        let windows = why(json!({"containers": [], "nodeSelector": {"kubernetes.io/os": "linux"}})).unwrap();
        assert_eq!(windows, ("agents run on linux alone".to_owned(), advice::nothing_to_do()));
        let (said, step) = why(json!({"containers": []})).unwrap();
        assert_eq!(said, "the taint gpu=yes:NoSchedule is not tolerated");
        assert!(step.contains("agent.tolerations") && step.contains("key: gpu, operator: Exists"), "{step}");
        for tolerations in [
            json!([{"operator": "Exists"}]),
            json!([{"key": "gpu", "value": "yes"}]),
            json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]),
        ] {
            assert_eq!(why(json!({"containers": [], "tolerations": tolerations})), None);
        }
        let other = json!([{"key": "gpu", "value": "no"}, {"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]);
        assert!(why(json!({"containers": [], "tolerations": other})).is_some());
        let early: Node = from(json!({"metadata": {"name": "n3"}, "spec": {"taints": [
            {"key": "reservoir.dev/agent-not-ready", "effect": "NoSchedule"}]}}));
        let (_, step) = keeps_away(&[&early], &agents(json!({"containers": []}))).unwrap();
        assert!(step.starts_with("set removeStartupTaint: true"), "{step}");
        let young: Node = from(json!({"metadata": {"name": "n2"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}}));
        let (said, step) = keeps_away(&[&young], &agents(json!({"containers": []}))).unwrap();
        assert_eq!(said, "the taint node.kubernetes.io/not-ready:NoSchedule is not tolerated");
        assert!(step.starts_with("kubectl describe node n2"), "{step}");
    }
}
