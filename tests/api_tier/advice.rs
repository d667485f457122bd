//! Each piece of advice of `kubectl reservoir` is run as printed, and leads to Ready or does what it says (T4).

use std::collections::BTreeSet;

use reservoir::api::{NodeDisk, condition::reason};
use serde_json::Value;

use crate::plugin::{Shell, does, parsed, run};
use crate::support::{Agent, Cluster, until, until_reason};

/// The outcome of following the advice.
enum Outcome {
    /// The object is Ready, and has nothing to complain of.
    Ready,
    /// That other object is Ready.
    ReadyOf(&'static str),
    /// The object is gone.
    Gone,
    /// Nothing by itself: the command shows what to decide on, and succeeds.
    Shows,
}
use Outcome::{Gone, Ready, ReadyOf, Shows};

/// The reasons whose advice is not run here, and why not.
const ELSEWHERE: &[(&str, &str)] = &[
    ("Invalid", "kubectl edit is for a person; objects of today are refused before (bad_input)"),
    ("AgentSilent", "a look at the log of an agent's pod, which the api tier does not have (e2e)"),
    ("DiskRefused", "as AgentSilent"),
    ("BackingFailed", "as AgentSilent"),
    ("ResizeFailed", "as AgentSilent"),
    ("SpaceTaken", "a person removes files; disks.rs does"),
    ("DiskGone", "a look at the tree; disks.rs deletes what it shows"),
    ("VolumeGone", "the command of VolumeLost; disks.rs"),
    ("BackingLost", "a person looks for the disk; restored.rs deletes the volume"),
    ("NoOrphan", "a look at kubectl reservoir orphans; plugin.rs runs it"),
    ("InUse", "a look at the tree, as with OverLimit; lost_events.rs ends the pods"),
    ("MountHeld", "an event only; a person ends the process (readers.rs)"),
    ("BelowUsed", "the API server refuses it before (guards.rs); the command is that of NotEnoughRoom"),
    ("DiskMoved", "the command of WrongDisk, for a reservation"),
    ("AlwaysWritable", "the command of RoleNotAllowed; needs a raw device (whole_disks.rs)"),
    ("TooManyReservations", "a look at the tree, as with OverLimit"),
    ("TooManyVolumes", "a look at the tree, as with OverLimit"),
    ("TooManyClaims", "a look, as with VolumeHeld"),
    ("ShareTaken", "a look at the tree, as with OverLimit"),
    ("Creating", "to wait, which each row of a volume does"),
    ("ParentNotReserved", "to wait: the advice is the parent's"),
    ("Resizing", "to wait"),
    ("Binding", "to wait"),
    ("Releasing", "to wait"),
    ("VolumeDestroying", "the advice is the volume's, Destroying"),
];

/// The reasons of objects at rest: there is nothing to do.
const FINE: &[&str] =
    &["Ready", "DiskHealthy", "Resized", "Backed", "RetireWithdrawn", "Bound", "Subscribed", "Offered"];

const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: solo}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: full}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: full}, spec: {hard: {persistentvolumeclaims: '0'}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: old, namespace: solo}, spec: {roles: [eng]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: taken, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: other, resources: {requests: {storage: 1Mi}}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: ops}, spec: {role: ops, quota: {limit: 64Mi}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: waits},
 spec: {role: waits, size: 20Mi, deletionPolicy: Wait}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: outer},
 spec: {role: outer, size: 2Mi, deletionPolicy: Wait}}
---
{apiVersion: v1, kind: Pod, metadata: {name: user, namespace: team}, spec: {terminationGracePeriodSeconds: 0,
 automountServiceAccountToken: false, containers: [{name: c, image: none}],
 volumes: [{name: v, persistentVolumeClaim: {claimName: used}}]}}
";

/// A mistake, the object whose advice is asked for, its reason, and what the advice brings about.
const MISTAKES: &[(&str, &str, &str, Outcome)] = &[
    ("kubectl reservoir reserve eng --role eng --size 100Mi --disk n1.defalt", "dr/eng", "NoSuchDisk", Ready),
    ("kubectl reservoir create data --role egn --size 32Mi", "spv/data", "NoReservation", Ready),
    (
        "kubectl reservoir claim c --role eng --volume data -n team",
        "vclaim/c -n team",
        "NoSubscription",
        Ready,
    ),
    ("kubectl reservoir claim c --role eng --volume data -n solo", "vclaim/c -n solo", "NoCapability", Ready),
    (
        "kubectl reservoir claim d --role eng --volume dta --read-only -n team",
        "vclaim/d -n team",
        "NoSuchVolume",
        Ready,
    ),
    (
        "kubectl reservoir claim taken --role eng --volume data -n team",
        "vclaim/taken -n team",
        "NameTaken",
        ReadyOf("vclaim/taken-shared -n team"),
    ),
    (
        "kubectl reservoir subscribe lab -n team; kubectl reservoir claim g --role lab --volume data -n team",
        "vclaim/g -n team",
        "RoleNotAllowed",
        Ready,
    ),
    ("kubectl reservoir claim hot --role eng -l tier=hot -n team", "vclaim/hot -n team", "NoMatch", Shows),
    ("kubectl reservoir create wide --role eng --size 80Mi", "spv/wide", "ReservationFull", Ready),
    (
        "kubectl reservoir reserve sub --role eng/ml --size 50Mi --parent egn",
        "dr/sub",
        "NoParent",
        // The parent is too small then.
        Shows,
    ),
    ("true", "dr/sub", "ParentFull", Ready),
    ("kubectl reservoir reserve much --role ops --size 100Mi", "dr/much", "OverQuota", Ready),
    ("kubectl reservoir reserve big --role big --size 5Gi", "dr/big", "NotEnoughRoom", Ready),
    (
        "kubectl delete dr big; kubectl reservoir reserve alien --role alien --size 1Mi --parent eng",
        "dr/alien",
        "NotASubRole",
        Ready,
    ),
    (
        "kubectl reservoir create inside --role waits --size 16Mi --wait; kubectl delete dr waits --wait=false",
        "dr/waits",
        "HasVolumes",
        Gone,
    ),
    (
        "kubectl reservoir reserve inner --role outer/in --size 1Mi --parent outer --wait; kubectl delete dr outer --wait=false",
        "dr/outer",
        "HasRefinements",
        Gone,
    ),
    (
        "kubectl reservoir reserve used --role used --size 40Mi; kubectl reservoir create used --role used --size 32Mi --wait; \
         kubectl reservoir subscribe used -n team; kubectl reservoir claim used --role used --volume used -n team --wait; \
         sleep 2; kubectl reservoir resize used 16Mi",
        "spv/used",
        "ShrinkInUse",
        Ready,
    ),
    ("kubectl reservoir retire used", "spv/used", "Retiring", Ready),
    (
        "kubectl reservoir retire used; sleep 1; kubectl reservoir claim late --role used --volume used -n team",
        "vclaim/late -n team",
        "VolumeRetiring",
        Shows,
    ),
    (
        "kubectl reservoir reserve one --role one --size 20Mi; kubectl reservoir create one --role one --size 16Mi --exclusive --wait; \
         kubectl reservoir subscribe one -n team; kubectl reservoir claim one --role one --volume one -n team --wait; \
         kubectl reservoir claim two --role one --volume one -n team",
        "vclaim/two -n team",
        "VolumeHeld",
        Shows,
    ),
    (
        "kubectl patch spv one --type=merge -p '{\"spec\":{\"deletionPolicy\":\"Wait\"}}'; kubectl delete spv one --wait=false",
        "spv/one",
        "Destroying",
        Shows,
    ),
    (
        "kubectl reservoir create vision --role vision --size 16Mi; kubectl reservoir subscribe vision -n team; \
         kubectl reservoir claim early --role vision --volume vision -n team",
        "vclaim/early -n team",
        "VolumeNotReady",
        Ready,
    ),
    (
        "kubectl patch spv vision --type=merge -p '{\"metadata\":{\"finalizers\":null}}'; \
         kubectl patch spv vision --subresource=status --type=merge -p '{\"status\":{\"claims\":[],\"claimCount\":0}}'; kubectl delete spv vision",
        "vclaim/early -n team",
        "VolumeLost",
        Gone,
    ),
    (
        "kubectl reservoir subscribe eng -n full; kubectl reservoir claim c --role eng --volume data -n full",
        "vclaim/c -n full",
        "Refused",
        Shows,
    ),
    (
        "echo '{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: raw}, spec: {role: eng, size: 16Mi, \
         reservation: eng, volumeMode: Block}}' | kubectl create -f -",
        "spv/raw",
        "WrongDisk",
        Shows,
    ),
    (
        "kubectl reservoir reserve big --role big --size 2Mi --wait; \
         echo '{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: big}, spec: {role: big, quota: {limit: 1Mi}}}' | \
         kubectl create -f -",
        "vrole/big",
        "OverLimit",
        Shows,
    ),
    (
        "sleep 1; echo '{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: twin}, spec: {role: big}}' | kubectl create -f -",
        "vrole/twin",
        "RoleTaken",
        Gone,
    ),
    (
        "echo '{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: lord}, spec: {role: lord, quota: \
         {guarantee: 9Gi}}}' | kubectl create -f -; sleep 1; kubectl reservoir reserve serf --role serf --size 1Mi",
        "dr/serf",
        "Guaranteed",
        Shows,
    ),
    (
        "kubectl patch vrole lord --type=merge -p '{\"spec\":{\"quota\":null}}'; \
         kubectl reservoir reserve xfs --role xfs --size 400Mi --disk n2.default; \
         kubectl reservoir create xfs --role xfs --size 320Mi --fs-type xfs --wait; kubectl reservoir resize xfs 300Mi",
        "spv/xfs",
        "CannotShrink",
        Ready,
    ),
    (
        "kubectl patch node n2 --subresource=status --type=merge -p \
         '{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\",\"reason\":\"Test\"}]}}'",
        "nd/n2.default",
        "NodeUnreachable",
        Shows,
    ),
];

/// T4: each row makes a mistake, gets the advice and follows it. At the end, so is the advice of `status`.
#[tokio::test(flavor = "multi_thread")]
async fn t4_advice_that_is_followed_leads_to_ready() {
    let cluster = Cluster::start().await;
    let mut agents = Vec::new();
    for (node, capacity) in [("n1", "512Mi"), ("n2", "1Gi")] {
        cluster.node(node, true).await;
        agents.push(Agent::start(&cluster, node, capacity).await);
        until_reason(&cluster.all::<NodeDisk>(), &format!("{node}.default"), "Ready").await;
    }
    until("the default service account", || async { cluster.try_apply(OBJECTS).await.ok() }).await;
    let shell = Shell::new(&cluster).await;
    for (mistake, object, reason, outcome) in MISTAKES {
        shell.run(mistake);
        let step = until(&format!("{object} is {reason}"), || async {
            let why: Value =
                serde_json::from_str(&run(&cluster, &format!("why {object} -o json")).out).ok()?;
            let told = why["because"].as_array()?.iter().any(|report| report["reason"] == *reason);
            told.then(|| why["next"][0].as_str().unwrap().to_owned())
        })
        .await;
        shell.run(step.split("   #").next().unwrap());
        let ready = match outcome {
            Ready => object,
            ReadyOf(other) => other,
            Gone => {
                until(&format!("{object} is gone after: {step}"), || async {
                    let ran = run(&cluster, &format!("why {object}"));
                    (!ran.ok && ran.err.contains("there is no ")).then_some(())
                })
                .await;
                continue;
            }
            Shows => continue,
        };
        until(&format!("{ready} is ready after: {step}"), || async {
            (parsed(&cluster, &format!("why {ready}"))["ready"] == true).then_some(())
        })
        .await;
    }
    let status = does(&cluster, "status");
    let advice: Vec<&str> = status.lines().filter(|line| line.starts_with("  kubectl")).collect();
    assert!(advice.len() > 5, "{status}");
    advice.into_iter().for_each(|command| drop(shell.run(command)));
}

/// T4: each reason's advice has a row, or a reason why it has none.
#[test]
fn t4_each_reason_has_a_row_of_advice() {
    let rows = MISTAKES.iter().map(|(_, _, reason, _)| *reason);
    let all = rows.chain(ELSEWHERE.iter().map(|(reason, _)| *reason)).chain(FINE.iter().copied());
    let mut told = BTreeSet::new();
    all.for_each(|reason| assert!(told.insert(reason), "{reason} is there twice"));
    assert_eq!(told, reason::ALL.iter().map(|(reason, _)| *reason).collect());
}
