//! Bad input, and the message of each refusal.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use reservoir::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeRole,
};
use serde_json::{Value, json};

use crate::support::{Agent, Cluster, until, until_reason};

mod objects;
mod values;

use objects::{changes, claims, forged, free_space};
use values::{access, fields, names, roles, sizes, types};

/// The expected answer to a manifest.
enum Answer {
    /// The API server refuses the manifest with this message.
    Refused(&'static str),
    /// The manifest is stored. Its `Ready` is `False` with this reason and message.
    Says(&'static str, &'static str),
}
use Answer::{Refused, Says};

struct Row {
    manifest: Value,
    /// The row changes an existing object, instead of making one.
    change: bool,
    answer: Answer,
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn make(&mut self, manifest: Value, answer: Answer) {
        self.0.push(Row { manifest, change: false, answer });
    }

    fn change(&mut self, manifest: Value, answer: Answer) {
        self.0.push(Row { manifest, change: true, answer });
    }
}

fn object(kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn reservation(name: &str, spec: Value) -> Value {
    object("DiskReservation", None, name, spec)
}

fn volume(name: &str, spec: Value) -> Value {
    object("SharedPersistentVolume", None, name, spec)
}

fn claim(namespace: &str, name: &str, spec: Value) -> Value {
    let spec = if spec["role"].is_null() { with(&spec, "role", json!("eng")) } else { spec };
    object("VolumeClaim", Some(namespace), name, spec)
}

fn with(spec: &Value, key: &str, value: Value) -> Value {
    let mut spec = spec.clone();
    spec[key] = value;
    spec
}

fn subscription(name: &str, spec: Value) -> Value {
    object("RoleSubscription", Some("team"), name, spec)
}

/// The name of the object in the table's next row.
fn n(table: &Table) -> String {
    format!("bad-{}", table.0.len())
}

const GOOD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: bare}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: eng},
 spec: {role: eng, size: 256Mi, nodeName: n1}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: DiskReservation, metadata: {name: other}, spec: {role: ops, size: 32Mi}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeRole, metadata: {name: eng}, spec: {role: eng}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: kept},
 spec: {role: eng, size: 32Mi, shared: {}}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: SharedPersistentVolume, metadata: {name: solo},
 spec: {role: eng, size: 16Mi, reservation: eng}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: team, namespace: team},
 spec: {roles: [eng], capabilities: [SHARED_RESOURCES]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: RoleSubscription, metadata: {name: plain, namespace: plain},
 spec: {roles: [eng]}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: kept, namespace: team}, spec: {role: eng, volume: kept}}
---
{apiVersion: reservoir.dev/v1alpha1, kind: VolumeClaim, metadata: {name: solo, namespace: team}, spec: {role: eng, volume: solo}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: mine, namespace: team},
 spec: {accessModes: [ReadWriteOnce], storageClassName: manual, resources: {requests: {storage: 1Mi}}}}
";

/// UID, spec and the deciding parts of the status of the good objects. Bad input must not change them.
async fn standing(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    macro_rules! note {
        ($kind:ty, $api:expr, $names:expr, $fields:expr) => {
            let api: Api<$kind> = $api;
            for name in $names {
                let object = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
                let fields: Vec<Value> =
                    $fields.iter().map(|field| object["status"][field].clone()).collect();
                let kept = json!([object["metadata"]["uid"], object["spec"], fields]);
                all.insert(format!("{} {name}", stringify!($kind)), kept);
            }
        };
    }
    note!(DiskReservation, cluster.all(), ["eng", "other"], ["phase", "volumes", "free", "conditions"]);
    note!(NodeDisk, cluster.all(), ["n1.default"], ["reservations", "free", "conditions"]);
    note!(VolumeRole, cluster.all(), ["eng"], ["reserved", "used", "conditions"]);
    note!(SharedPersistentVolume, cluster.all(), ["solo"], ["claims", "users", "conditions"]);
    note!(SharedPersistentVolume, cluster.all(), ["kept"], ["users", "conditions"]);
    note!(VolumeClaim, cluster.within("team"), ["kept", "solo"], ["volume", "conditions"]);
    note!(RoleSubscription, cluster.within("team"), ["team"], ["offers", "conditions"]);
    note!(PersistentVolumeClaim, cluster.within("team"), ["mine", "kept", "solo"], ["phase"]);
    all
}

async fn answered(cluster: &Cluster, row: &Row) -> Result<(), String> {
    let text = row.manifest.to_string();
    let object: DynamicObject = serde_json::from_value(row.manifest.clone()).unwrap();
    let applied = if row.change { cluster.try_apply(&text).await } else { cluster.try_create(&text).await };
    match (&row.answer, applied) {
        (Refused(sentence), Err(kube::Error::Api(refusal)))
            if refusal.message.contains(sentence)
                && (refusal.code < 500 || refusal.message.contains("not declared in schema")) =>
        {
            Ok(())
        }
        (Refused(sentence), answer) => Err(format!("{text}\n  not refused with `{sentence}`: {answer:?}")),
        (Says(..), Err(error)) => Err(format!("{text}\n  {error}")),
        (Says(reason, sentence), Ok(())) => {
            let api = cluster.untyped(&object);
            let ready = until(&format!("{text} to be {reason}"), || async {
                let now = api.get(&object.name_any()).await.unwrap();
                let conditions = now.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.into_iter().find(|c| c["type"] == "Ready" && c["reason"] == *reason)
            })
            .await;
            let said = ready["message"].as_str().unwrap();
            let fits = said.starts_with(sentence) && ready["status"] == "False";
            fits.then_some(()).ok_or(format!("{text}\n  should say `{sentence}`: {ready}"))
        }
    }
}

/// A right to write objects is no right to write their status: the chart gives the latter to controller and agents
/// only.
async fn status_is_not_for_users(cluster: &Cluster) {
    let rights = "
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: mallory},
 rules: [{apiGroups: [reservoir.dev], verbs: ['*'], resources: [nodedisks, diskreservations, sharedpersistentvolumes,
   volumeclaims, rolesubscriptions, volumeoffers, volumeroles]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: mallory},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: mallory},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}]}
";
    cluster.apply_text(rights).await;
    let mallory = cluster.server.client_as("mallory", &["system:authenticated"]).await.unwrap();
    let patch = async |path: &str| {
        let request = http::Request::patch(format!("/apis/reservoir.dev/v1alpha1/{path}"))
            .header("Content-Type", "application/merge-patch+json")
            .body(json!({"status": {"phase": "Ready"}}).to_string().into_bytes())
            .unwrap();
        mallory.request::<Value>(request).await.map_err(|e| e.to_string())
    };
    until("mallory may change a role", || async { patch("volumeroles/eng").await.ok() }).await;
    for path in [
        "nodedisks/n1.default",
        "diskreservations/eng",
        "sharedpersistentvolumes/kept",
        "volumeroles/eng",
        "namespaces/team/volumeclaims/kept",
        "namespaces/team/rolesubscriptions/team",
    ] {
        let refused = patch(&format!("{path}/status")).await.unwrap_err();
        assert!(
            refused.contains("is forbidden: User \"mallory\" cannot patch resource"),
            "{path}: {refused}"
        );
    }
}

/// R1, R3, V1, V2, V3, V11, V12, O1, O3, C3, C4, C5, Q2, Q3, L2.
#[tokio::test(flavor = "multi_thread")]
async fn c4_l2_bad_input_gets_one_clear_sentence() {
    let cluster = Cluster::start().await;
    cluster.node("n1", true).await;
    let mut agent = Agent::start(&cluster, "n1", "512Mi").await;
    until_reason(&cluster.all::<NodeDisk>(), "n1.default", "Ready").await;
    cluster.apply_text(GOOD).await;
    for claim in ["kept", "solo"] {
        until_reason(&cluster.within::<VolumeClaim>("team"), claim, "Bound").await;
    }
    let kept = cluster.within::<VolumeClaim>("team").get("kept").await.unwrap();
    let pod = cluster.pod("team", "user", &["kept"]).await;
    let target = agent.publish(&cluster, &kept, &pod, false).await.unwrap();
    std::fs::write(target.join("file"), "kept").unwrap();
    until("the pod is counted", || async {
        let volume = cluster.all::<SharedPersistentVolume>().get("kept").await.unwrap();
        (volume.status.unwrap().user_count == 1).then_some(())
    })
    .await;
    cluster.quiet_for(Duration::from_millis(1500)).await;
    let before = standing(&cluster).await;

    let mut table = Table::default();
    for part in [sizes, names, roles, fields, types, access, changes, free_space, forged, claims] {
        part(&mut table);
    }
    let mut wrong = Vec::new();
    for row in &table.0 {
        if let Err(what) = answered(&cluster, row).await {
            wrong.push(what);
        }
    }
    status_is_not_for_users(&cluster).await;
    println!("{} rows", table.0.len());
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), table.0.len(), wrong.join("\n"));

    // Only accepted objects exist, nothing crashed, no reconcile loops, and the good objects are unchanged.
    let taken = table.0.iter().filter(|row| !row.change && matches!(row.answer, Says(..))).count();
    let there = cluster.all::<DiskReservation>().list(&Default::default()).await.unwrap().items.len()
        + cluster.all::<SharedPersistentVolume>().list(&Default::default()).await.unwrap().items.len()
        + Api::<VolumeClaim>::all(cluster.client.clone())
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .len()
        + cluster.all::<VolumeRole>().list(&Default::default()).await.unwrap().items.len();
    assert_eq!(there, taken + 7);
    cluster.quiet_for(Duration::from_secs(7)).await;
    assert_eq!(cluster.controllers_alive(), 1);
    assert!(agent.alive());
    assert_eq!(standing(&cluster).await, before);
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "kept");

    // No object exists to which Kubernetes could bind the other user's PersistentVolumeClaim.
    let volumes = cluster.all::<PersistentVolume>().list(&Default::default()).await.unwrap();
    assert_eq!(volumes.items.len(), 2, "those of the claims kept and solo");

    // A disk that is declared gone stays gone.
    let lost = json!({"nodeName": "n9", "diskName": "old", "diskID": "x", "kind": "Path", "backing": "Loop", "path": "/x",
        "gone": true});
    cluster.apply_text(&object("NodeDisk", None, "n9.old", lost.clone()).to_string()).await;
    let back = object("NodeDisk", None, "n9.old", with(&lost, "gone", json!(false))).to_string();
    let refused = cluster.try_apply(&back).await.unwrap_err().to_string();
    let said = "a disk that was declared gone stays gone: give the agent a new disk under another name";
    assert!(refused.contains(said), "{refused}");

    // A claim whose name is taken leaves the other user's PersistentVolumeClaim alone, also when the claim is
    // deleted.
    let claims = cluster.within::<VolumeClaim>("team");
    claims.delete("mine", &Default::default()).await.unwrap();
    crate::support::until_gone(&claims, "mine").await;
    let mine = cluster.within::<PersistentVolumeClaim>("team").get("mine").await.unwrap();
    assert_eq!(json!(mine.metadata.uid), before["PersistentVolumeClaim mine"][0]);
    assert!(mine.metadata.deletion_timestamp.is_none());
}
