//! Each wait ends although controller and agents lose the event that ends it (L1). docs/design.md, "What ends each wait", has
//! the same reasons.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use kube::core::DynamicObject;
use reservoir::api::{NodeDisk, condition};
use serde_json::json;

use crate::plugin::Shell;
use crate::support::{Agent, Cluster, until_reason};

/// A wait and its end. For words see [`words`].
struct Row {
    /// The word of the wait.
    wait: &'static str,
    /// The object that waits: a kind's short name, and a name.
    object: &'static str,
    /// The objects that are applied first, see [`manifests`].
    setup: &'static str,
    /// A command that makes the object wait, and the object and its word before the command.
    then: Option<(&'static str, &'static str, &'static str)>,
    /// The command that ends the wait.
    end: &'static str,
    /// The word of the object after the end.
    word: &'static str,
}

/// The reasons without a row.
const WITHOUT_ROW: &[(&str, &str)] = &[
    ("AgentSilent", "each disk of this test begins with it"),
    ("Creating", "each volume of this test begins with it"),
    ("Resizing", "the growth of a PersistentVolumeClaim here has it"),
    ("Releasing", "each deletion of a claim here has it"),
    ("DiskRefused", "needs no event: the agent looks at its disks periodically (tests/api_tier/disks.rs)"),
    ("SpaceTaken", "as DiskRefused"),
    ("BackingFailed", "needs no event: the agent tries again each 15 seconds (tests/api_tier/disks.rs)"),
    ("BackingLost", "as BackingFailed"),
    ("ResizeFailed", "as BackingFailed"),
    ("HasWriters", "needs no event: the agent looks again each 2 seconds (tests/api_tier/sealed.rs)"),
    ("Sealing", "as HasWriters; the end of the reading causes a look"),
    ("SealFailed", "as BackingFailed"),
    ("VerifyFailed", "as BackingFailed"),
    ("Copying", "the node's report, as with Creating (tests/api_tier/copies.rs)"),
    ("CopyFailed", "as BackingFailed"),
    ("CopiesMissing", "a copy that is made, or a reservation with space, as with ReservationFull"),
    ("NotSealed", "the end of the reading, as with Sealing"),
    ("NoNodeSelected", "another label of a Node, as with NoSuchDisk"),
    ("CopiesOff", "its NodeDisk, as with NodeUnreachable"),
    ("VolumeSealed", "a volume on offer again, as with VolumeRetiring"),
    ("DigestDiffers", "a volume on offer, as with NoMatch (tests/api_tier/sealed.rs)"),
    ("BelowUsed", "the API server refuses it, so a race must have left it; its own change ends it"),
    ("WrongDisk", "an unplaced volume, as with NoReservation"),
    ("NoOrphan", "an unplaced volume, as with NoReservation"),
    ("TooManyReservations", "a ledger with a place again, as with NotEnoughRoom"),
    ("TooManyVolumes", "a ledger with a place again, as with ReservationFull"),
    ("TooManyClaims", "a list with a place again, as with VolumeHeld"),
    ("ShareTaken", "a ledger or list with a place again"),
    ("TemplateWaits", "a reservation that waits itself, as with NotEnoughRoom"),
    ("NodeCordoned", "the end of a cordon is a change of the NodeDisk (tests/api_tier/cordon.rs)"),
    ("DiskNotReady", "its NodeDisk, as with NodeUnreachable"),
    ("Terminating", "the end of its PersistentVolumeClaim, as with Binding"),
    ("GuaranteeTooLarge", "another quota, as with OverQuota"),
    ("NodeGone", "tests/api_tier/nodes.rs has all its steps"),
];

/// The reasons of objects at rest, and of objects that only a change of their own, or their deletion, leads on.
const NO_WAIT: &[&str] = &[
    "Ready",
    "DiskHealthy",
    "Resized",
    "Backed",
    "RetireWithdrawn",
    "Bound",
    "Subscribed",
    "Offered",
    "Invalid",
    "DiskGone",
    "DiskMoved",
    "NotASubRole",
    "VolumeGone",
    "CannotShrink",
    "RoleNotAllowed",
    "AlwaysWritable",
    "Sealed",
    "SealRefused",
    "SealedSize",
    "VolumeLost",
    "Verified",
    "CopyDiffers",
    "Copied",
    // The agent measures each volume in use, and no event of another object concerns it.
    "NearlyFull",
    // Events only.
    "MountHeld",
    "SealWithdrawn",
];

const PEOPLE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: full}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: no-pvcs, namespace: full},
 spec: {hard: {persistentvolumeclaims: '0'}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: pvcs}, rules: [
  {apiGroups: [reservoir.dev], resources: [volumeroles], resourceNames: [space, grow, late], verbs: [create, use, resize]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: pvcs},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pvcs},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:team'}]}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: space}, provisioner: csi.reservoir.dev,
 parameters: {role: space}, volumeBindingMode: Immediate}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: grow}, provisioner: csi.reservoir.dev,
 parameters: {role: grow}, volumeBindingMode: Immediate, allowVolumeExpansion: true}
";

fn rows() -> Vec<Row> {
    let row = |wait, object, setup, end, word| Row { wait, object, setup, then: None, end, word };
    let after = |then, row: Row| Row { then: Some(then), ..row };
    vec![
        after(
            ("dr all", "Ready", "kubectl reservoir reserve much --role much --size 32Mi --disk n2.default"),
            row(
                "NotEnoughRoom",
                "dr much",
                "dr all full 64Mi {nodeDisk: n2.default}",
                "kubectl delete dr all --wait=false",
                "Ready",
            ),
        ),
        row(
            "NoSuchDisk",
            "dr zoned",
            "dr zoned zoned 1Mi {nodeSelector: {zone: a}}",
            "kubectl label node n1 zone=a",
            "Ready",
        ),
        row(
            "OverQuota",
            "dr quota",
            "vrole quota quota {quota: {limit: 16Mi}}
dr quota quota 32Mi {nodeDisk: n1.default}",
            r#"kubectl patch vrole quota --type=merge -p '{"spec":{"quota":{"limit":"64Mi"}}}'"#,
            "Ready",
        ),
        row(
            "NoParent",
            "dr orphan",
            "dr orphan par/ent 1Mi {parent: par}",
            "kubectl reservoir reserve par --role par --size 2Mi --disk n1.default",
            "Ready",
        ),
        row(
            "ParentNotReserved",
            "dr early",
            "dr above above 2Mi {nodeSelector: {row: b}}
dr early above/sub 1Mi {parent: above}",
            "kubectl label node n1 row=b",
            "Ready",
        ),
        row(
            "ParentFull",
            "dr inner",
            "dr outer outer 2Mi {nodeDisk: n1.default}
dr inner outer/in 4Mi {parent: outer}",
            "kubectl reservoir resize dr/outer 8Mi",
            "Ready",
        ),
        after(
            ("spv leaves", "Ready", "kubectl delete dr leaves --wait=false"),
            row(
                "HasVolumes",
                "dr leaves",
                "dr leaves leaves 20Mi {nodeDisk: n1.default, deletionPolicy: Wait}
spv leaves leaves 16Mi",
                "kubectl delete spv leaves --wait=false",
                "gone",
            ),
        ),
        after(
            ("dr under", "Ready", "kubectl delete dr over --wait=false"),
            row(
                "HasRefinements",
                "dr over",
                "dr over over 4Mi {nodeDisk: n1.default, deletionPolicy: Wait}
dr under over/sub 2Mi {parent: over}",
                "kubectl delete dr under --wait=false",
                "gone",
            ),
        ),
        after(
            ("spv keeps", "Ready", "kubectl delete spv keeps --wait=false"),
            row(
                "kept",
                "dr keeps",
                "dr keeps keeps 20Mi {nodeDisk: n1.default}
spv keeps keeps 16Mi {keepFor: 8s}",
                "true",
                "unkept",
            ),
        ),
        row(
            "NoReservation",
            "spv first",
            "spv first first 16Mi",
            "kubectl reservoir reserve first --role first --size 20Mi --disk n1.default",
            "Ready",
        ),
        row(
            "ReservationFull",
            "spv fat",
            "dr thin thin 16Mi {nodeDisk: n1.default}
spv fat thin 20Mi",
            "kubectl reservoir resize dr/thin 24Mi",
            "Ready",
        ),
        after(
            ("spv used", "users=1", "kubectl reservoir resize spv/used 16Mi"),
            row(
                "ShrinkInUse",
                "spv used",
                "dr used used 24Mi {nodeDisk: n1.default}
spv used used 24Mi {shared: {}}
rsub team/used used {capabilities: [SHARED_RESOURCES]}
vclaim team/used used {volume: used}
pod team/used used",
                "kubectl delete pod used -n team --force --wait=false",
                "Resized",
            ),
        ),
        row(
            "users=1",
            "spv seen",
            "dr seen seen 24Mi {nodeDisk: n1.default}
spv seen seen 16Mi {shared: {}}
rsub team/seen seen {capabilities: [SHARED_RESOURCES]}
vclaim team/seen seen {volume: seen}
pod team/seen seen",
            "kubectl delete pod seen -n team --force --wait=false",
            "users=0",
        ),
        after(
            ("vclaim team/tired", "Bound", "kubectl reservoir retire tired"),
            row(
                "Retiring",
                "spv tired",
                "dr tired tired 24Mi {nodeDisk: n1.default}
spv tired tired 16Mi {shared: {}}
rsub team/tired tired {capabilities: [SHARED_RESOURCES]}
vclaim team/tired tired {volume: tired}",
                "kubectl delete vclaim tired -n team --wait=false",
                "gone",
            ),
        ),
        after(
            ("vclaim team/dies", "Bound", "kubectl delete spv dies --wait=false"),
            row(
                "Destroying",
                "spv dies",
                "dr dies dies 24Mi {nodeDisk: n1.default}
spv dies dies 16Mi {deletionPolicy: Wait}
rsub team/dies dies {capabilities: [SHARED_RESOURCES]}
vclaim team/dies dies {volume: dies}",
                "kubectl delete vclaim dies -n team --wait=false",
                "gone",
            ),
        ),
        after(
            (
                "spv far",
                "Ready",
                r#"kubectl patch node n3 --subresource=status --type=merge -p '{"status":{"conditions":[{"type":"Ready","status":"False","reason":"Test"}]}}'"#,
            ),
            row(
                "NodeUnreachable",
                "spv far",
                "dr far far 20Mi {nodeDisk: n3.default}
spv far far 16Mi",
                r#"kubectl patch node n3 --subresource=status --type=merge -p '{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Test"}]}}'"#,
                "Ready",
            ),
        ),
        row(
            "NoSubscription",
            "vclaim team/sub",
            "dr sub sub 24Mi {nodeDisk: n1.default}
spv sub sub 16Mi {shared: {}}
vclaim team/sub sub {volume: sub}",
            "kubectl reservoir subscribe sub -n team",
            "Bound",
        ),
        row(
            "NoCapability",
            "vclaim team/cap",
            "dr cap cap 24Mi {nodeDisk: n1.default}
spv cap cap 16Mi {shared: {}}
rsub team/cap cap
vclaim team/cap cap {volume: cap}",
            r#"kubectl patch rsub cap -n team --type=merge -p '{"spec":{"capabilities":["SHARED_RESOURCES"]}}'"#,
            "Bound",
        ),
        row(
            "NoSuchVolume",
            "vclaim team/none",
            "dr none none 24Mi {nodeDisk: n1.default}
rsub team/none none {capabilities: [SHARED_RESOURCES]}
vclaim team/none none {volume: none}",
            "kubectl reservoir create none --role none --size 16Mi",
            "Bound",
        ),
        row(
            "NoMatch",
            "vclaim team/pick",
            "dr pick pick 24Mi {nodeDisk: n1.default}
spv pick pick 16Mi {shared: {}}
rsub team/pick pick {capabilities: [SHARED_RESOURCES]}
vclaim team/pick pick {selector: {matchLabels: {tier: hot}}}",
            "kubectl label spv pick tier=hot",
            "Bound",
        ),
        row(
            "VolumeNotReady",
            "vclaim team/soon",
            "spv soon soon 16Mi {shared: {}}
rsub team/soon soon {capabilities: [SHARED_RESOURCES]}
vclaim team/soon soon {volume: soon}",
            "kubectl reservoir reserve soon --role soon --size 20Mi --disk n1.default",
            "Bound",
        ),
        after(
            (
                "vclaim team/stays",
                "Bound",
                "kubectl reservoir retire stays; kubectl reservoir claim stays2 --role stays --volume stays -n team",
            ),
            row(
                "VolumeRetiring",
                "vclaim team/stays2",
                "dr stays stays 24Mi {nodeDisk: n1.default}
spv stays stays 16Mi {shared: {}}
rsub team/stays stays {capabilities: [SHARED_RESOURCES]}
vclaim team/stays stays {volume: stays}",
                "kubectl reservoir unretire stays",
                "Bound",
            ),
        ),
        after(
            ("vclaim team/one", "Bound", "kubectl reservoir claim one2 --role one --volume one -n team"),
            row(
                "VolumeHeld",
                "vclaim team/one2",
                "dr one one 24Mi {nodeDisk: n1.default}
spv one one 16Mi
rsub team/one one {capabilities: [SHARED_RESOURCES]}
vclaim team/one one {volume: one}",
                "kubectl delete vclaim one -n team --wait=false",
                "Bound",
            ),
        ),
        after(
            (
                "vclaim team/ends",
                "Bound",
                "kubectl delete spv ends --wait=false; kubectl reservoir claim ends2 --role ends --volume ends -n team",
            ),
            row(
                "VolumeDestroying",
                "vclaim team/ends2",
                "dr ends ends 24Mi {nodeDisk: n1.default}
spv ends ends 16Mi {shared: {}, deletionPolicy: Wait}
rsub team/ends ends {capabilities: [SHARED_RESOURCES]}
vclaim team/ends ends {volume: ends}",
                "kubectl delete vclaim ends -n team --wait=false",
                "NoSuchVolume",
            ),
        ),
        row(
            "NameTaken",
            "vclaim team/taken",
            "pvc team/taken other 1Mi
dr taken taken 24Mi {nodeDisk: n1.default}
spv taken taken 16Mi {shared: {}}
rsub team/taken taken {capabilities: [SHARED_RESOURCES]}
vclaim team/taken taken {volume: taken}",
            "kubectl delete pvc taken -n team --wait=false",
            "Bound",
        ),
        after(
            ("vclaim team/busy", "Bound", "kubectl delete vclaim busy -n team --wait=false"),
            row(
                "InUse",
                "vclaim team/busy",
                "dr busy busy 24Mi {nodeDisk: n1.default}
spv busy busy 16Mi {shared: {}}
rsub team/busy busy {capabilities: [SHARED_RESOURCES]}
vclaim team/busy busy {volume: busy}
pod team/busy busy",
                "kubectl delete pod busy -n team --force --wait=false",
                "gone",
            ),
        ),
        after(
            ("vclaim team/anew", "Bound", "kubectl delete pvc anew -n team --wait=false"),
            row(
                "Binding",
                "vclaim team/anew",
                "dr anew anew 24Mi {nodeDisk: n1.default}
spv anew anew 16Mi {shared: {}}
rsub team/anew anew {capabilities: [SHARED_RESOURCES]}
vclaim team/anew anew {volume: anew}
pod team/anew anew",
                "kubectl delete pod anew -n team --force --wait=false",
                "Bound",
            ),
        ),
        row(
            "Refused",
            "vclaim full/refused",
            "dr refused refused 24Mi {nodeDisk: n1.default}
spv refused refused 16Mi {shared: {}}
rsub full/refused refused {capabilities: [SHARED_RESOURCES]}
vclaim full/refused refused {volume: refused}",
            "kubectl delete resourcequota no-pvcs -n full --wait=false",
            "Bound",
        ),
        after(
            ("offer team/shown", "Offered", "kubectl delete offer -n team --all --wait=false"),
            row(
                "Subscribed",
                "offer team/shown",
                "dr shown shown 24Mi {nodeDisk: n1.default}
spv shown shown 16Mi {shared: {}}
rsub team/shown shown {capabilities: [SHARED_RESOURCES]}",
                "true",
                "anew",
            ),
        ),
        row(
            "RoleTaken",
            "vrole twice",
            "vrole once twice
vrole twice twice",
            "kubectl delete vrole once --wait=false",
            "Ready",
        ),
        after(
            (
                "dr limited",
                "Ready",
                r#"kubectl patch vrole limited --type=merge -p '{"spec":{"quota":{"limit":"1Mi"}}}'"#,
            ),
            row(
                "OverLimit",
                "vrole limited",
                "vrole limited limited
dr limited limited 2Mi {nodeDisk: n1.default}",
                "kubectl delete dr limited --wait=false",
                "Ready",
            ),
        ),
        row(
            "Pending",
            "pvc team/space",
            "pvc team/space space 16Mi",
            "kubectl reservoir reserve space --role space --size 20Mi --disk n1.default",
            "Bound",
        ),
        row(
            "Pending",
            "pvc team/class",
            "dr late late 20Mi {nodeDisk: n1.default}
pvc team/class later 16Mi",
            r#"echo "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: later}, provisioner: csi.reservoir.dev, parameters: {role: late}, volumeBindingMode: Immediate}" | kubectl apply -f -"#,
            "Bound",
        ),
        after(
            (
                "pvc team/grow",
                "Bound",
                r#"kubectl patch pvc grow -n team --type=merge -p '{"spec":{"resources":{"requests":{"storage":"32Mi"}}}}'"#,
            ),
            row(
                "16Mi",
                "pvc team/grow",
                "dr grow grow 20Mi {nodeDisk: n1.default}
pvc team/grow grow 16Mi",
                "kubectl reservoir resize dr/grow 40Mi",
                "32Mi",
            ),
        ),
    ]
}

/// The row that is tried alone: a guarantee is kept from all other roles.
fn guarantee() -> Row {
    let lower = r#"kubectl patch vrole lord --type=merge -p '{"spec":{"quota":null}}'"#;
    let setup = "vrole lord lord {quota: {guarantee: 100Gi}}\ndr serf serf 1Mi";
    Row { wait: "Guaranteed", object: "dr serf", setup, then: None, end: lower, word: "Ready" }
}

/// The manifests of objects that are written as kind, name, and the main fields of the spec, one on each line.
fn manifests(short: &str) -> String {
    let each = |line: &str| {
        let (head, more) = line.split_once(" {").unwrap_or((line, "}"));
        let mut fields = head.split(' ');
        let (kind, name) = (fields.next().unwrap(), fields.next().unwrap());
        let (first, second) = (fields.next().unwrap(), fields.next().unwrap_or_default());
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let (api, kind) = kind_of(kind);
        let spec = match kind {
            "DiskReservation" | "SharedPersistentVolume" => format!("role: {first}, size: {second}"),
            "VolumeClaim" | "VolumeRole" => format!("role: {first}"),
            "RoleSubscription" => format!("roles: [{first}]"),
            "PersistentVolumeClaim" => format!(
                "storageClassName: {first}, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: {second}}}}}"
            ),
            _ => format!(
                "terminationGracePeriodSeconds: 0, automountServiceAccountToken: false, containers: [{{name: c, image: none}}], \
                 volumes: [{{name: v, persistentVolumeClaim: {{claimName: {first}}}}}]"
            ),
        };
        let namespace =
            if namespace.is_empty() { String::new() } else { format!(", namespace: {namespace}") };
        format!(
            "{{apiVersion: {api}, kind: {kind}, metadata: {{name: {name}{namespace}}}, spec: {{{spec}, {more}}}"
        )
    };
    short.lines().map(each).collect::<Vec<_>>().join("\n---\n")
}

fn kind_of(short: &str) -> (&'static str, &'static str) {
    match short {
        "dr" => ("reservoir.dev/v1alpha1", "DiskReservation"),
        "spv" => ("reservoir.dev/v1alpha1", "SharedPersistentVolume"),
        "vclaim" => ("reservoir.dev/v1alpha1", "VolumeClaim"),
        "rsub" => ("reservoir.dev/v1alpha1", "RoleSubscription"),
        "vrole" => ("reservoir.dev/v1alpha1", "VolumeRole"),
        "offer" => ("reservoir.dev/v1alpha1", "VolumeOffer"),
        "pvc" => ("v1", "PersistentVolumeClaim"),
        _ => ("v1", "Pod"),
    }
}

/// The words that an object reports: phase, reasons of conditions, number of users, capacity, and `kept` or `unkept` data.
fn words(object: &DynamicObject) -> BTreeSet<String> {
    let status = &object.data["status"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut words: BTreeSet<String> = conditions.filter_map(|c| text(&c["reason"])).collect();
    words.extend(text(&status["phase"]));
    words.extend(text(&status["capacity"]["storage"]));
    words.extend(status["userCount"].as_u64().map(|users| format!("users={users}")));
    words.insert(if status["kept"].is_null() { "unkept" } else { "kept" }.to_owned());
    words
}

/// The object; of offers the one of the subscription of that name.
async fn find(cluster: &Cluster, object: &str) -> Option<DynamicObject> {
    let (kind, name) = object.split_once(' ').unwrap();
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let (api, kind) = kind_of(kind);
    let mut one = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        one["metadata"]["namespace"] = json!(namespace);
    }
    let all = cluster.untyped(&serde_json::from_value(one).unwrap());
    if kind != "VolumeOffer" {
        return all.get_opt(name).await.unwrap();
    }
    all.list(&Default::default()).await.unwrap().into_iter().find(|o| o.data["spec"]["subscription"] == name)
}

/// Waits until the object has the word. Two more words are `gone`, and `anew` for an object with another UID than `before`.
async fn until_word(
    cluster: &Cluster,
    object: &str,
    word: &str,
    before: Option<&DynamicObject>,
) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let found = find(cluster, object).await;
        let is_it = match (word, &found) {
            ("gone", found) => found.is_none(),
            ("anew", Some(found)) => before.is_some_and(|before| before.metadata.uid != found.metadata.uid),
            (word, found) => found.as_ref().is_some_and(|found| words(found).contains(word)),
        };
        if is_it {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(90) {
            return Err(format!(
                "{object} is not {word}: {:?}",
                found.map(|found| found.data["status"].to_string())
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn try_row(cluster: &Cluster, shell: &Arc<Shell>, row: Row) -> Result<(), String> {
    let sh = async |command: &'static str| -> Result<String, String> {
        let shell = shell.clone();
        tokio::task::spawn_blocking(move || shell.try_run(command)).await.unwrap()
    };
    cluster.apply_text(&manifests(row.setup)).await;
    let mut before = None;
    if let Some((object, word, command)) = row.then {
        until_word(cluster, object, word, None).await?;
        before = find(cluster, row.object).await;
        sh(command).await?;
    }
    if row.word != "anew" {
        until_word(cluster, row.object, row.wait, None).await?;
    }
    sh(row.end).await?;
    until_word(cluster, row.object, row.word, before.as_ref()).await
}

/// L1: controller and agents lose every event here. Only their slow look at everything, each second here, ends a wait.
#[tokio::test(flavor = "multi_thread")]
async fn l1_each_wait_ends_although_its_event_is_lost() {
    let cluster = Cluster::start_without_events().await;
    let mut agents = Vec::new();
    for (node, capacity) in [("n1", "1Gi"), ("n2", "64Mi"), ("n3", "64Mi")] {
        cluster.node(node, true).await;
        agents.push(Agent::start(&cluster, node, capacity).await);
        until_reason(&cluster.all::<NodeDisk>(), &format!("{node}.default"), "Ready").await;
    }
    cluster.apply_text(PEOPLE).await;
    let shell = Arc::new(Shell::new(&cluster).await);
    let tried = join_all(rows().into_iter().map(|row| async {
        let name = format!("{} ({})", row.wait, row.object);
        (name, try_row(&cluster, &shell, row).await)
    }));
    let mut tried = tried.await;
    tried.push(("Guaranteed".into(), try_row(&cluster, &shell, guarantee()).await));
    let failed: Vec<_> = tried.iter().filter_map(|(row, done)| Some((row, done.as_ref().err()?))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The table of the docs has each reason of a wait, and each is tried here or has a reason why not.
#[test]
fn l1_the_table_of_waits_has_every_reason() {
    let design = include_str!("../../docs/design.md");
    let (_, table) = design.split_once("## What ends each wait").expect("the section");
    let table = table.split("\n## ").next().unwrap();
    let first =
        table.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let told: BTreeSet<&str> = first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let rows: Vec<Row> = rows().into_iter().chain([guarantee()]).collect();
    let tried = rows.iter().map(|row| row.wait).chain(WITHOUT_ROW.iter().map(|(reason, _)| *reason));
    let reasons: BTreeSet<&str> = condition::reason::ALL.iter().map(|(reason, _)| *reason).collect();
    let tried: BTreeSet<&str> =
        tried.filter(|word| reasons.contains(word) && *word != "Subscribed").collect();
    assert_eq!(told, tried);
    let ends_alone: BTreeSet<&str> = NO_WAIT.iter().copied().collect();
    let waits: BTreeSet<&str> = reasons.difference(&ends_alone).copied().collect();
    assert_eq!(told, waits, "a reason is a wait, or in NO_WAIT");
}
