//! `kubectl reservoir doctor` about pods that a real API server refuses (T4).

use crate::plugin::{Shell, run};
use crate::support::{Cluster, until};

/// Agents as the chart has them, as far as an API server refuses pods.
const AGENTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: sys, labels: {pod-security.kubernetes.io/enforce: baseline}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: reservoir-agent, namespace: sys,
 labels: {app.kubernetes.io/name: reservoir, app.kubernetes.io/component: agent, app.kubernetes.io/instance: r}},
 spec: {selector: {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent,
 app.kubernetes.io/name: reservoir, app.kubernetes.io/component: agent}},
 spec: {automountServiceAccountToken: false, containers: [{name: agent, image: none, securityContext: {privileged: true}}]}}}}
";

/// A controller of two pods in a namespace for none.
const CONTROLLER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: small}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: small}, spec: {hard: {pods: '0'}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: reservoir-controller, namespace: small,
 labels: {app.kubernetes.io/name: reservoir, app.kubernetes.io/component: controller, app.kubernetes.io/instance: r}},
 spec: {replicas: 2, selector: {matchLabels: {app: controller}}, template: {metadata: {labels: {app: controller}},
 spec: {automountServiceAccountToken: false, containers: [{name: controller, image: none}]}}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn t4_the_doctor_says_who_refuses_the_pods() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    cluster.apply_text(AGENTS).await;
    cluster.apply_text(CONTROLLER).await;
    let says = async |what: &str| {
        until(what, || async {
            let found = run(&cluster, "doctor").out;
            let next = found.lines().skip_while(|line| !line.contains(what)).nth(1)?;
            Some(next.trim().to_owned())
        })
        .await
    };
    // Nodes of this tier have no kubelet, and keep the taint of new ones.
    let young =
        says("no agent runs on node n1: the taint node.kubernetes.io/not-ready:NoSchedule is not tolerated")
            .await;
    assert!(young.starts_with("kubectl describe node n1"), "{young}");
    let shell = Shell::new(&cluster).await;
    shell.run("kubectl patch node n1 --type=merge -p '{\"spec\":{\"taints\":null}}'");
    let refused =
        "0 of 1 agents (sys/reservoir-agent) are ready: namespace sys has Pod Security baseline:latest";
    let step = says(refused).await;
    assert!(step.starts_with("kubectl label namespace sys"), "{step}");
    let beyond =
        says("0 of 2 controllers (small/reservoir-controller) are ready: the API server refuses its pods")
            .await;
    assert!(beyond.starts_with("kubectl get resourcequotas,limitranges -n small"), "{beyond}");

    // The step leads on: the pod is there, and waits for a kubelet, which this tier does not have.
    shell.run(step.split("   #").next().unwrap());
    until("the pod is made", || async {
        let found = run(&cluster, "doctor").out;
        (!found.contains("Pod Security") && found.contains("0 of 1 agents (sys/reservoir-agent)"))
            .then_some(())
    })
    .await;
}
