//! Writing commands: creation of an object or change of a field, with `--dry-run`, `--wait` and `--output`.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
    ValidationDirective,
};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

use super::cli::{Claim, Create, DryRun, Reserve, Write};
use super::errors::explain_api_error;
use super::kind::{self, Kind, did_you_mean};
use super::output::print;
use crate::api::condition::reason::*;
use crate::api::condition::{INTACT, RESIZED, SEALED};
use crate::api::{GROUP, Size};
use crate::cluster;
use crate::plan::advice;

/// Field manager of the plug-in's writes.
pub(super) const MANAGER: &str = "kubectl-reservoir";

/// Reasons that end a wait, because only another spec or another person can end the state. Such a state may pass in a
/// moment: the controller may not have seen new objects yet.
const FINAL: &[&str] = &[
    INVALID,
    NO_SUCH_DISK,
    NOT_A_SUB_ROLE,
    CANNOT_SHRINK,
    SHRINK_IN_USE,
    HAS_WRITERS,
    REFUSED,
    ROLE_NOT_ALLOWED,
    ALWAYS_WRITABLE,
    NO_SUBSCRIPTION,
    NO_CAPABILITY,
    ROLE_TAKEN,
    NAME_TAKEN,
    VOLUME_LOST,
    VOLUME_GONE,
    DISK_GONE,
    DISK_MOVED,
    WRONG_DISK,
    BACKING_LOST,
    NO_ORPHAN,
    VOLUME_RETIRING,
    VOLUME_DESTROYING,
    VOLUME_SEALED,
    SEALED_SIZE,
    SEAL_REFUSED,
    COPY_DIFFERS,
    COPIES_OFF,
    NO_NODE_SELECTED,
];

/// Time after which such a state counts as lasting.
const STUCK: Duration = Duration::from_secs(3);
/// The same for a failed resize, which the node tries again after fifteen seconds.
const FAILED_AGAIN: Duration = Duration::from_secs(20);

/// The end of the wait of `--wait`.
pub(super) enum Until {
    /// The condition of this type is true for the written spec.
    Condition(&'static str),
    Deleted,
}

/// A manifest without the fields that are null.
fn manifest(kind: &Kind, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let given = |spec: Value| match spec {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    let metadata = given(json!({"name": name, "namespace": namespace}));
    json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": kind.name, "metadata": metadata, "spec": given(spec)})
}

fn map_of(pairs: &[(String, String)]) -> Option<Map<String, Value>> {
    let map = pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    Some(map).filter(|map: &Map<_, _>| !map.is_empty())
}

/// Builds the manifest of a DiskReservation.
pub(super) fn reservation_manifest(args: &Reserve) -> Value {
    let spec = json!({"role": args.role, "size": args.size, "nodeDisk": args.disk, "nodeName": args.node,
        "nodeSelector": map_of(&args.node_selector), "parent": args.parent});
    manifest(&kind::RESERVATION, None, &args.name, spec)
}

/// Builds the manifest of a SharedPersistentVolume.
pub(super) fn volume_manifest(args: &Create) -> Value {
    let fs_type = (!args.block && args.adopt.is_none()).then_some(&args.fs_type);
    let spec = json!({"role": args.role, "size": args.size, "reservation": args.reservation,
        "shared": (!args.exclusive).then(|| json!({})), "fsType": fs_type,
        "volumeMode": args.block.then_some("Block"), "gid": args.gid,
        "keepFor": args.keep_for, "adopt": args.adopt.as_ref().map(|path| json!({"path": path}))});
    let mut manifest = manifest(&kind::VOLUME, None, &args.name, spec);
    if let Some(labels) = map_of(&args.label) {
        manifest["metadata"]["labels"] = labels.into();
    }
    manifest
}

/// Builds the manifest of a VolumeClaim.
pub(super) fn claim_manifest(args: &Claim, namespace: &str) -> Value {
    let selector = args.volume.is_none().then(|| {
        let mut selector = Map::new();
        selector.extend(map_of(&args.selector).map(|labels| ("matchLabels".to_owned(), labels.into())));
        selector.extend(args.min_size.as_ref().map(|size| ("minSize".to_owned(), json!(size))));
        selector
    });
    let spec = json!({"role": args.role, "volume": args.volume, "selector": selector,
        "mode": if args.read_only { "ReadOnly" } else { "ReadWrite" }, "digest": args.digest});
    manifest(&kind::CLAIM, Some(namespace), &args.name, spec)
}

/// Builds the manifest of a RoleSubscription. Its default name is its first role.
pub(super) fn subscription_manifest(roles: &[String], name: Option<&str>, namespace: &str) -> Value {
    let default =
        || roles.first().map(|role| role.to_lowercase().replace(['/', '_'], "-")).unwrap_or_default();
    let spec = json!({"roles": roles, "capabilities": ["SHARED_RESOURCES"]});
    manifest(&kind::SUBSCRIPTION, Some(namespace), &name.map_or_else(default, str::to_owned), spec)
}

/// Parameters of a POST or PUT.
pub(super) fn post_params(dry_run: Option<DryRun>) -> PostParams {
    PostParams { dry_run: dry_run.is_some(), field_manager: Some(MANAGER.into()) }
}

/// Parameters of the DELETE of the very object that was read.
pub(super) fn delete_params(dry_run: Option<DryRun>, preconditions: Preconditions) -> DeleteParams {
    DeleteParams { dry_run: dry_run.is_some(), preconditions: Some(preconditions), ..Default::default() }
}

/// The end of an output line about a write.
pub(super) fn dry_run_suffix(dry_run: Option<DryRun>) -> &'static str {
    match dry_run {
        Some(DryRun::Client) => " (dry run)",
        Some(DryRun::Server) => " (server dry run)",
        None => "",
    }
}

pub(super) fn api_of(client: &Client, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1alpha1", kind.name), kind.plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Creates an object. With `--wait` it waits for the condition `Ready`.
pub(super) async fn create_object(
    client: &Client,
    kind: &Kind,
    object: Value,
    write: &Write,
) -> anyhow::Result<()> {
    let mut object: DynamicObject = serde_json::from_value(object)?;
    // Before Kubernetes 1.36 nobody else writes the principal (R5, A3). A dry run of the client sends no request.
    if [&kind::RESERVATION, &kind::VOLUME].contains(&kind)
        && !matches!(write.dry_run, Some(DryRun::Client))
        && let Ok(user) = cluster::username(client).await
    {
        object.data["spec"]["principal"] = user.into();
    }
    let api = api_of(client, kind, object.metadata.namespace.as_deref());
    let created = match write.dry_run {
        Some(DryRun::Client) => object.clone(),
        _ => api
            .create(&post_params(write.dry_run), &object)
            .await
            .map_err(|error| already_there(&error, kind, &object))?,
    };
    if let Some(field) = dropped(&object.data["spec"], &created.data["spec"]) {
        let (name, doctor) = (created.name_any(), advice::see_older_kinds());
        bail!(
            "{} {name} was made without spec.{field}, which the kinds in the cluster do not have: {doctor}",
            kind.name
        );
    }
    print_result(kind, &created, "created", write)?;
    wait_until(&api, kind, &created, write, &Until::Condition("Ready")).await
}

/// The first field that the API server dropped: kinds of an earlier release have not every field.
fn dropped<'a>(asked: &'a Value, made: &Value) -> Option<&'a str> {
    let mut fields = asked.as_object()?.keys();
    fields.find(|field| made.get(field.as_str()).is_none()).map(String::as_str)
}

/// The refusal of a field that the cluster does not have.
fn unknown_field(field: &str) -> anyhow::Error {
    let doctor = advice::see_older_kinds();
    anyhow::anyhow!("the kinds in the cluster have no spec.{field}, and nothing was changed: {doctor}")
}

/// The refusal of a creation. For an object of that name, which may be ending, `why` has what to do.
fn already_there(error: &kube::Error, kind: &Kind, object: &DynamicObject) -> anyhow::Error {
    let explained = explain_api_error(error);
    let kube::Error::Api(status) = error else { return explained };
    if status.reason != "AlreadyExists" {
        return explained;
    }
    let name = object.name_any();
    let why = advice::ask_why(kind.argument(&name, object.metadata.namespace.as_deref()));
    match status.message.starts_with("object is being deleted") {
        true => anyhow::anyhow!(
            "{} {name} is being deleted, and can be made again when it is gone: {why}",
            kind.name
        ),
        false => anyhow::anyhow!("{} {name} already exists, and nothing was changed: {why}", kind.name),
    }
}

/// Changes one field of the spec. With `--wait` it waits until `until`.
pub(super) async fn change_field(
    client: &Client,
    kind: &Kind,
    name: &str,
    (field, value): (&str, Value),
    (result, until): (&str, Option<Until>),
    write: &Write,
) -> anyhow::Result<()> {
    let api = api_of(client, kind, None);
    let Some(mut before) = api.get_opt(name).await.map_err(|error| explain_api_error(&error))? else {
        let all = api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        let near = did_you_mean(name, names.iter().map(String::as_str));
        // A size is that of a reservation, too.
        let other = api_of(client, &kind::RESERVATION, None).get_opt(name).await.ok().flatten();
        let other = other.filter(|_| field == "size" && near.is_empty() && kind != &kind::RESERVATION);
        let near = other.map_or(near, |_| format!("; there is DiskReservation {name}: dr/{name}"));
        bail!("there is no {} {name}{near}", kind.name);
    };
    too_late(kind, &before, field, &value)?;
    let result = match before.metadata.deletion_timestamp {
        Some(_) => "is being destroyed already",
        None if retires_unused(&before, field, &value) => UNUSED,
        None => result,
    };
    let is_as_before = match &before.data["spec"][field] {
        Value::Null => value == json!(false),
        there => *there == value,
    };
    let params = PatchParams {
        dry_run: write.dry_run.is_some(),
        field_manager: Some(MANAGER.into()),
        // Kinds of an earlier release have not every field, and would drop it in silence.
        field_validation: Some(ValidationDirective::Strict),
        ..Default::default()
    };
    let changed = match write.dry_run {
        Some(DryRun::Client) => {
            before.data["spec"][field] = value.clone();
            before.clone()
        }
        _ => {
            let patch = json!({"spec": {field: value}});
            api.patch(name, &params, &Patch::Merge(&patch)).await.map_err(|error| match &error {
                kube::Error::Api(status) if status.message.contains("unknown field") => unknown_field(field),
                error => explain_api_error(error),
            })?
        }
    };
    // The deletion may have come in between.
    too_late(kind, &changed, field, &value)?;
    let is_same = before.metadata.deletion_timestamp.is_none() && is_as_before
        || write.dry_run.is_none() && before.resource_version() == changed.resource_version();
    print_result(kind, &changed, if is_same { "unchanged" } else { result }, write)?;
    match until {
        Some(until) => wait_until(&api, kind, &changed, write, &until).await,
        None => Ok(()),
    }
}

/// The result of `retire` for a volume that nobody uses.
const UNUSED: &str = "is being destroyed: nobody uses it";

/// True for the retirement of a volume without a claim or a pod, also of its copies.
fn retires_unused(before: &DynamicObject, field: &str, value: &Value) -> bool {
    let status = &before.data["status"];
    let is_none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let is_unused = is_none(&status["claims"])
        && is_none(&status["users"])
        && status["copies"]["used"].as_u64().unwrap_or(0) == 0;
    field == "retire" && *value == json!(true) && is_unused
}

/// Fails for a change that comes too late for an object that is being deleted.
fn too_late(kind: &Kind, object: &DynamicObject, field: &str, value: &Value) -> anyhow::Result<()> {
    let name = object.name_any();
    if object.metadata.deletion_timestamp.is_none() || field == "retire" && *value == json!(true) {
        return Ok(());
    }
    let is_kept = kind == &kind::VOLUME && object.data["spec"]["keepFor"].is_string();
    let next = match is_kept {
        true => format!("; its data is kept after that: {}", advice::bring_back(&name)),
        false => format!(": {}", advice::ask_why(kind.argument(&name, None))),
    };
    bail!("{} {name} is being deleted, and it is too late for a change{next}", kind.name)
}

/// Prints `diskreservation.reservoir.dev/eng created`, or with `--output` the object.
pub(super) fn print_result(
    kind: &Kind,
    object: &DynamicObject,
    result: &str,
    write: &Write,
) -> anyhow::Result<()> {
    let dry = dry_run_suffix(write.dry_run);
    let mut object = object.clone();
    object.metadata.managed_fields = None;
    let singular = kind.name.to_lowercase();
    print(&write.output, &object, || format!("{singular}.{GROUP}/{} {result}{dry}\n", object.name_any()))
}

/// Waits, and prints each change of the condition on standard error.
pub(super) async fn wait_until(
    api: &Api<DynamicObject>,
    kind: &Kind,
    written: &DynamicObject,
    write: &Write,
    until: &Until,
) -> anyhow::Result<()> {
    if !write.wait || write.dry_run.is_some() {
        return Ok(());
    }
    let (started, name) = (Instant::now(), written.name_any());
    let mut last = String::new();
    let watched = watch_object(api.clone(), &name).default_backoff();
    futures::pin_mut!(watched);
    let argument = kind.argument(&name, written.namespace().as_deref());
    let mut stuck = None;
    loop {
        let left = write.timeout.saturating_sub(started.elapsed());
        let patience = stuck.map_or(left, |stuck| left.min(stuck));
        let Ok(seen) = tokio::time::timeout(patience, watched.next()).await else {
            if patience < left {
                bail!(
                    "{} {name} does not get on by itself ({last}): {}",
                    kind.name,
                    advice::ask_why(&argument)
                );
            }
            let reported =
                if last.is_empty() { ", with no condition yet".into() } else { format!(" ({last})") };
            bail!(
                "{} {name} is not done after {} s{reported}, and goes on: {}",
                kind.name,
                write.timeout.as_secs(),
                advice::ask_why(&argument)
            );
        };
        match seen.context("the watch ended")? {
            // kube-rs restarts a failed watch by itself.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(None) if matches!(until, Until::Deleted) => {
                eprintln!("{:>4} s  gone", started.elapsed().as_secs());
                return Ok(());
            }
            Ok(None) => bail!("{} {name} was deleted during the wait", kind.name),
            Ok(Some(object)) if object.uid() != written.uid() => {
                bail!("{} {name} was replaced by another object during the wait", kind.name)
            }
            Ok(Some(object)) => {
                let progress = progress(&object, until, written.metadata.generation);
                stuck = progress.as_ref().and_then(|(_, text)| lasting_after(text));
                if let Some((_, text)) = progress.as_ref().filter(|(_, text)| *text != last) {
                    eprintln!("{:>4} s  {text}", started.elapsed().as_secs());
                    last.clone_from(text);
                }
                if progress.is_some_and(|(done, _)| done) {
                    return Ok(());
                }
            }
        }
    }
}

/// True if a reservation or volume has the size in its spec, or all of an undivided disk.
fn has_its_size(object: &DynamicObject) -> bool {
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    let bytes = |size: &Value| Size::written(size.as_str()?).bytes().ok();
    let has = bytes(&status["node"]["size"]).or_else(|| bytes(&status["size"]));
    let is_undivided = ["Mount", "Block"].iter().any(|kind| status["diskKind"] == *kind);
    is_undivided || has.is_some() && has == bytes(&spec["size"])
}

/// The time after which the text of a condition counts as lasting; `None`: the state ends by itself.
fn lasting_after(text: &str) -> Option<Duration> {
    match text.split(':').next()? {
        RESIZE_FAILED => Some(FAILED_AGAIN),
        reason => FINAL.contains(&reason).then_some(STUCK),
    }
}

/// Returns true if the wait is over, with the text of the condition. `None`: the condition refers to an older
/// spec.
fn progress(object: &DynamicObject, until: &Until, generation: Option<i64>) -> Option<(bool, String)> {
    let type_ = match until {
        Until::Condition(type_) => type_,
        Until::Deleted if object.metadata.deletion_timestamp.is_some() => "Ready",
        Until::Deleted => "Retiring",
    };
    let conditions = object.data["status"]["conditions"].as_array()?;
    // An object that was never served has no condition Resized: its first size is that of the spec. A verification follows the seal.
    let is_before = |c: &&Value| match type_ {
        RESIZED => c["type"] == "Ready",
        INTACT => c["type"] == SEALED && c["status"] == "False",
        _ => false,
    };
    let first = conditions.iter().find(is_before);
    let condition = conditions.iter().find(|c| c["type"] == type_).or(first)?;
    if condition["observedGeneration"].as_i64() < generation {
        return None;
    }
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let done = matches!(until, Until::Condition(_)) && condition["status"] == "True";
    // Ready speaks of the size that the object has, which the controller may be about to change.
    let done = done && (type_ != RESIZED || condition["type"] == RESIZED || has_its_size(object));
    Some((done, format!("{}: {}", text("reason"), text("message"))))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::plugin::cli::{Cli, Command};

    /// The manifest that a command line writes.
    fn manifest_of(line: &str) -> Value {
        let args = line.split(' ');
        match Cli::try_parse_from(["kubectl-reservoir"].into_iter().chain(args)).unwrap().command {
            Command::Reserve(args) => reservation_manifest(&args),
            Command::Create(args) => volume_manifest(&args),
            Command::Claim(args) => claim_manifest(&args, "team"),
            Command::Subscribe { roles, name, .. } => subscription_manifest(&roles, name.as_deref(), "team"),
            _ => unreachable!(),
        }
    }

    /// T4: an object that is ending is not there, and cannot be made; what is there is left alone.
    #[test]
    fn t4_a_name_that_is_taken_leads_to_the_object() {
        let object: DynamicObject =
            serde_json::from_value(manifest_of("claim data --role eng --volume data")).unwrap();
        let said = |message: &str, reason: &str| {
            let status = kube::core::Status::failure(message, reason).with_code(409);
            already_there(&kube::Error::Api(status.boxed()), &kind::CLAIM, &object).to_string()
        };
        let taken = "volumeclaims.reservoir.dev \"data\" already exists";
        assert_eq!(
            said(&format!("object is being deleted: {taken}"), "AlreadyExists"),
            "VolumeClaim data is being deleted, and can be made again when it is gone: kubectl reservoir why vclaim/data -n team"
        );
        assert_eq!(
            said(taken, "AlreadyExists"),
            "VolumeClaim data already exists, and nothing was changed: kubectl reservoir why vclaim/data -n team"
        );
        assert_eq!(said("no", "Forbidden"), "no");
    }

    #[test]
    fn t4_a_command_line_writes_its_manifest() {
        let table = [
            ("reserve r --role eng --size 5Gi", json!({"role": "eng", "size": "5Gi"})),
            (
                "reserve r --role eng --size 5Gi --disk n.a",
                json!({"role": "eng", "size": "5Gi", "nodeDisk": "n.a"}),
            ),
            (
                "reserve r --role eng --size 5Gi --node-selector a=b --node-selector c=d",
                json!({"role": "eng", "size": "5Gi", "nodeSelector": {"a": "b", "c": "d"}}),
            ),
            (
                "create v --role eng --size 1Gi",
                json!({"role": "eng", "size": "1Gi", "shared": {}, "fsType": "ext4"}),
            ),
            (
                "create v --role eng --size 1Gi --exclusive --block",
                json!({"role": "eng", "size": "1Gi", "volumeMode": "Block"}),
            ),
            (
                "create v --role eng --size 1Gi --adopt /srv/a --gid 7",
                json!({"role": "eng", "size": "1Gi", "shared": {}, "adopt": {"path": "/srv/a"}, "gid": 7}),
            ),
            (
                "create v --role eng --size 1Gi --keep-for 72h",
                json!({"role": "eng", "size": "1Gi", "shared": {}, "fsType": "ext4", "keepFor": "72h"}),
            ),
            ("claim c --role eng --volume v", json!({"role": "eng", "volume": "v", "mode": "ReadWrite"})),
            (
                "claim c --role eng -l a=b --min-size 1Gi --read-only",
                json!({"role": "eng", "selector": {"matchLabels": {"a": "b"}, "minSize": "1Gi"}, "mode": "ReadOnly"}),
            ),
            (
                "subscribe eng/ml ops",
                json!({"roles": ["eng/ml", "ops"], "capabilities": ["SHARED_RESOURCES"]}),
            ),
        ];
        for (line, wanted) in table {
            assert_eq!(manifest_of(line)["spec"], wanted, "{line}");
        }
        assert_eq!(
            manifest_of("subscribe eng/ml")["metadata"],
            json!({"name": "eng-ml", "namespace": "team"})
        );
        assert_eq!(
            manifest_of("create v --role r --size 1Gi -l a=b")["metadata"]["labels"],
            json!({"a": "b"})
        );
    }

    /// T4, X5: nothing says that it keeps or changes what is being destroyed already.
    #[test]
    fn t4_a_change_of_what_is_being_destroyed_comes_too_late() {
        let volume = |more: Value, spec: Value| {
            let mut object: DynamicObject =
                serde_json::from_value(json!({"apiVersion": "reservoir.dev/v1alpha1",
                "kind": "SharedPersistentVolume", "metadata": {"name": "v"}}))
                .unwrap();
            object.metadata.deletion_timestamp = serde_json::from_value(more).unwrap();
            object.data = json!({ "spec": spec });
            object
        };
        let deleted = || json!("1970-01-01T00:00:00Z");
        let of = |object: &DynamicObject, field, value| {
            too_late(&kind::VOLUME, object, field, &value).map_err(|error| error.to_string())
        };
        let (gone, kept) = (volume(deleted(), json!({})), volume(deleted(), json!({"keepFor": "72h"})));
        let said = "SharedPersistentVolume v is being deleted, and it is too late for a change: kubectl reservoir why spv/v";
        assert_eq!(of(&gone, "retire", json!(false)), Err(said.to_owned()));
        assert_eq!(of(&gone, "size", json!("1Gi")), Err(said.to_owned()));
        assert!(of(&kept, "retire", json!(false)).unwrap_err().ends_with("kubectl reservoir undelete v"));
        assert_eq!(of(&gone, "retire", json!(true)), Ok(()));
        let mut there = volume(Value::Null, json!({}));
        assert_eq!(of(&there, "retire", json!(false)), Ok(()));
        assert!(retires_unused(&there, "retire", &json!(true)));
        for used in [json!({"claims": [{"name": "c"}]}), json!({"copies": {"used": 1}})] {
            there.data["status"] = used;
            assert!(!retires_unused(&there, "retire", &json!(true)));
        }
    }

    /// T4: a wait ends early exactly if the message asks for another spec.
    #[test]
    fn t4_a_wait_ends_on_what_does_not_end_by_itself() {
        for (text, wanted) in [
            ("NoSubscription: subscribe first", Some(STUCK)),
            (
                "VolumeRetiring: volume v is being retired and takes no new claim; claim another one",
                Some(STUCK),
            ),
            ("VolumeDestroying: said", Some(STUCK)),
            ("VolumeSealed: said", Some(STUCK)),
            ("SealedSize: said", Some(STUCK)),
            ("ShrinkInUse: said", Some(STUCK)),
            ("HasWriters: said", Some(STUCK)),
            ("Refused: PersistentVolumeClaim q1 cannot be made: exceeded quota", Some(STUCK)),
            ("ResizeFailed: said", Some(FAILED_AGAIN)),
            ("VolumeNotReady: said", None),
            ("VolumeHeld: said", None),
        ] {
            assert_eq!(lasting_after(text), wanted, "{text}");
        }
    }

    /// T4: kinds of an earlier release drop what they do not know.
    #[test]
    fn t4_a_field_that_was_dropped_is_named() {
        let asked = json!({"role": "eng", "shared": {}, "keepFor": "72h"});
        assert_eq!(dropped(&asked, &asked), None);
        assert_eq!(dropped(&asked, &json!({"role": "eng", "shared": {}, "fsType": "ext4"})), Some("keepFor"));
    }

    /// T4, E4: files are read again once the volume is sealed, so the seal is what the wait shows before.
    #[test]
    fn t4_e4_a_wait_for_files_shows_the_seal_before() {
        let object = |conditions: Value| {
            let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
                "metadata": {"name": "v"}, "status": {"conditions": conditions}});
            serde_json::from_value::<DynamicObject>(object).unwrap()
        };
        let condition = |type_: &str, status: &str, reason: &str| json!({"type": type_, "status": status, "reason": reason, "message": "said", "observedGeneration": 2});
        let seen = |conditions| progress(&object(conditions), &Until::Condition(INTACT), Some(2));
        let waits = json!([condition("Ready", "True", "Ready"), condition(SEALED, "False", "HasWriters")]);
        assert_eq!(seen(waits), Some((false, "HasWriters: said".into())));
        assert_eq!(seen(json!([condition(SEALED, "True", "Sealed")])), None);
        let read = json!([condition(SEALED, "True", "Sealed"), condition(INTACT, "True", "Verified")]);
        assert_eq!(seen(read), Some((true, "Verified: said".into())));
    }

    #[test]
    fn t4_a_wait_ignores_the_condition_of_an_older_spec() {
        let object = |generation: i64, status: &str| {
            let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "DiskReservation", "metadata": {"name": "r"},
                "status": {"conditions": [{"type": "Resized", "status": status, "reason": "Why", "message": "said",
                    "observedGeneration": generation}]}});
            serde_json::from_value::<DynamicObject>(object).unwrap()
        };
        let seen = |object| progress(&object, &Until::Condition("Resized"), Some(2));
        assert_eq!(seen(object(1, "True")), None);
        assert_eq!(seen(object(2, "False")), Some((false, "Why: said".into())));
        assert_eq!(seen(object(3, "True")), Some((true, "Why: said".into())));
        assert_eq!(progress(&object(2, "True"), &Until::Condition("Ready"), Some(2)), None);
        // Without the condition, Ready ends the wait once the size is there.
        for (status, done) in [
            (json!({"size": "32Mi", "node": {"size": "32Mi"}}), false),
            (json!({"size": "40Mi", "node": {"size": "32Mi"}}), false),
            (json!({"size": "40Mi", "node": {"size": "40Mi"}}), true),
            (json!({"size": "40Mi"}), true),
            (json!({"size": "1Gi", "diskKind": "Mount"}), true),
            (json!({}), false),
        ] {
            let mut first = object(2, "True");
            first.data = json!({"spec": {"size": "40Mi"}, "status": status});
            first.data["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "32Mi", "observedGeneration": 2}]);
            assert_eq!(seen(first), Some((done, "Ready: 32Mi".into())), "{status}");
        }
    }
}
