//! The writes and reads of controller and agent in a volume's whole life do not creep back (docs/performance.md).

use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use reservoir::api::{SharedPersistentVolume, VolumeClaim};
use serde_json::json;

use crate::support::{
    Cluster, DataSets, Order, Tally, claim_lives, class_lives, one_node, own_reads, own_writes,
    prepare_claims, prepare_class, until_gone,
};

/// Counts the writes and reads of so many lives, once nothing of them is left. On a slow machine states last longer, so more of
/// them are reported, and more live reads come before a decision: the bounds of reads have space for a third more than at rest, and one
/// of three turns has to be within the bounds.
async fn at_most(writes: usize, reads: usize, of: usize, cluster: &Cluster, lives: impl AsyncFn()) {
    let mut said = String::new();
    for _ in 0..3 {
        match counted(writes, reads, of, cluster, &lives).await {
            Ok(()) => return,
            Err(more) => said.push_str(&more),
        }
    }
    panic!("{said}");
}

/// Counts them once. The error has what is more than wanted.
async fn counted(
    writes: usize,
    reads: usize,
    of: usize,
    cluster: &Cluster,
    lives: impl AsyncFnOnce(),
) -> Result<(), String> {
    cluster.quiet_for(Duration::from_secs(3)).await;
    let before = (own_writes(cluster).len(), own_reads(cluster).len());
    lives().await;
    cluster.quiet_for(Duration::from_secs(3)).await;
    let (written, read) = (own_writes(cluster).split_off(before.0), own_reads(cluster).split_off(before.1));
    for (what, requests, most) in [("writes", written, writes), ("reads", read, reads)] {
        let tally = Tally::of(&requests);
        let lines = tally.per_life(of).into_iter().map(|(what, each)| format!("{each:>7.2}  {what}\n"));
        let all = tally.total() as f64 / of as f64;
        let said = format!("{all:.1} {what} per life, {of} at a time:\n{}", lines.collect::<String>());
        println!("{said}");
        if tally.total() > most * of {
            return Err(format!("at most {most} are wanted, and there are {said}{requests:#?}\n"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pvc_of_a_class_has_few_writes_in_its_life() {
    let (cluster, agent) = one_node("4Gi").await;
    prepare_class(&cluster).await;
    at_most(12, 46, 1, &cluster, async || class_lives(&cluster, 1, async |_| {}).await).await;
    // On a busy machine some writes meet others, and are repeated.
    at_most(13, 40, 20, &cluster, async || class_lives(&cluster, 20, async |_| {}).await).await;
    agent.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_and_its_claim_have_few_writes_in_their_life() {
    let (cluster, agent) = one_node("4Gi").await;
    prepare_claims(&cluster).await;
    for (order, alone, each_of_20) in [(Order::OneByOne, 30, 24), (Order::Together, 26, 21)] {
        at_most(alone, 64, 1, &cluster, async || claim_lives(&cluster, 1, order, async |_| {}).await).await;
        at_most(each_of_20, 46, 20, &cluster, async || claim_lives(&cluster, 20, order, async |_| {}).await)
            .await;
    }
    agent.nothing_left().await;
}

/// E2. A copy is made, gets its entry, place and source, is filled and sealed, and is Ready. Its node gets a label and an offer. A
/// copy that waits for its turn gets its source later, and the original counts its copies.
#[tokio::test(flavor = "multi_thread")]
async fn e2_a_copy_has_few_writes_until_it_is_ready() {
    let cluster = Cluster::start().await;
    let sets = DataSets::seal(&cluster, (2, 4), 4, false).await;
    // Eight writes are wanted. A busy machine repeats some, as above.
    counted(9, 26, 8, &cluster, async || sets.copy(&cluster).await).await.unwrap();
    for name in &sets.names {
        delete_claim(&cluster, name).await;
        let volumes: Api<SharedPersistentVolume> = cluster.all();
        volumes.delete(name, &DeleteParams::default()).await.unwrap();
        until_gone(&volumes, name).await;
    }
    for agent in &sets.agents {
        agent.nothing_left().await;
    }
}

async fn delete_claim(cluster: &Cluster, name: &str) {
    let claims: Api<VolumeClaim> = cluster.within("team");
    claims.delete(name, &DeleteParams::default()).await.unwrap();
    until_gone(&claims, name).await;
}

/// P4, X5: the end that a controller of an earlier version began goes on by its rules.
#[tokio::test(flavor = "multi_thread")]
async fn p4_a_volume_of_a_pvc_that_retires_already_ends() {
    let (cluster, agent) = one_node("4Gi").await;
    prepare_class(&cluster).await;
    let volumes: Api<SharedPersistentVolume> = cluster.all();
    let retire = async |_: &'static str| {
        let retire = Patch::Merge(json!({"spec": {"retire": true}}));
        for volume in volumes.list(&ListParams::default()).await.unwrap() {
            volumes.patch(&volume.name_any(), &PatchParams::default(), &retire).await.unwrap();
        }
    };
    class_lives(&cluster, 2, retire).await;
    agent.nothing_left().await;
}

const EARLIER: &str = "
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: earlier}, spec: {
  matchConstraints: {resourceRules: [{apiGroups: [reservoir.dev], apiVersions: [v1alpha1], operations: [DELETE],
    resources: [sharedpersistentvolumes]}]},
  validations: [{expression: 'oldObject.?status.claims.orValue([]).size() == 0', reason: Forbidden,
    message: the policy of an earlier version}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: earlier},
 spec: {policyName: earlier, validationActions: [Deny]}}
";

/// P4: an upgrade may bring the controller before the policies, which then refuse the DELETE of a volume with a claim.
#[tokio::test(flavor = "multi_thread")]
async fn p4_a_volume_of_a_pvc_ends_under_earlier_policies() {
    let (cluster, agent) = one_node("4Gi").await;
    prepare_class(&cluster).await;
    cluster.apply_text(EARLIER).await;
    // A policy is in force after a moment.
    tokio::time::sleep(Duration::from_secs(3)).await;
    class_lives(&cluster, 2, async |_| {}).await;
    let writes = own_writes(&cluster);
    let refused = writes.iter().any(|w| w.code == 403 || w.code == 422);
    assert!(refused, "the policy is in force");
    agent.nothing_left().await;
}
