//! Writing commands: creation of an object or change of a field, with `--dry-run`, `--wait` and `--output`.

use anyhow::bail;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
    ValidationDirective,
};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::cli::{DryRun, Write};
use super::errors::explain_api_error;
use super::kind::{self, Kind};
use super::output::{note, print};
use super::snapshot::Snapshot;
use super::wait::{Until, bytes_of, wait_until};
use super::why::{Target, refusal_of_command};
use crate::api::{GROUP, SharedPersistentVolume};
use crate::cluster;
use crate::plan::{advice, namesake};

/// Field manager of the plug-in's writes.
pub(super) const MANAGER: &str = "kubectl-reservoir";

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
            .map_err(|error| refused(&error, kind, &object))?,
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

/// Prints a note about the data of an earlier volume of the name, which the new volume does not have (X6, X8). A caller who may not see
/// that data is told nothing. A dry run of the client sends no request.
pub(super) async fn note_old_data(client: &Client, manifest: &Value, write: &Write) -> anyhow::Result<()> {
    if write.dry_run == Some(DryRun::Client) {
        return Ok(());
    }
    let volume: SharedPersistentVolume = serde_json::from_value(manifest.clone())?;
    let reservations = cluster::list(&Api::all(client.clone()), &ListParams::default()).await;
    let disks = cluster::list(&Api::all(client.clone()), &ListParams::default()).await;
    let (reservations, disks) = (reservations.unwrap_or_default(), disks.unwrap_or_default());
    let kept = namesake::kept_beside(&volume, &reservations.iter().collect::<Vec<_>>());
    let old = kept.or_else(|| namesake::orphaned(&volume, &disks.iter().collect::<Vec<_>>()));
    old.into_iter().for_each(note);
    Ok(())
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
fn refused(error: &kube::Error, kind: &Kind, object: &DynamicObject) -> anyhow::Error {
    let explained = explain_api_error(error);
    let kube::Error::Api(status) = error else { return explained };
    if status.reason != "AlreadyExists" {
        let step =
            refusal_of_command(&status.message, object.metadata.namespace.as_deref().unwrap_or("default"));
        return step.map_or(explained, |step| anyhow::anyhow!("{}: {step}", status.message));
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
    kind: &'static Kind,
    name: &str,
    (field, value): (&str, Value),
    (result, until): (&str, Option<Until>),
    write: &Write,
) -> anyhow::Result<()> {
    let api = api_of(client, kind, None);
    let Some(mut before) = api.get_opt(name).await.map_err(|error| explain_api_error(&error))? else {
        let snapshot = Snapshot::read(client, None, "default").await?;
        // A size is that of a reservation, too.
        let is_size = field == "size" && kind == &kind::VOLUME;
        if is_size && snapshot.find(&kind::RESERVATION, None, name).is_some() {
            bail!("there is no {} {name}; there is DiskReservation {name}: dr/{name}", kind.name);
        }
        bail!(Target::new(kind, None, name.to_owned()).not_found(&snapshot));
    };
    too_late(kind, &before, field, &value)?;
    is_no_copy(&before, field)?;
    keeps_size(&before, field, &value)?;
    let result = result_of(kind, &before, field, &value).unwrap_or(result);
    if let Some(losses) = note_losses(kind, &before, field, &value) {
        note(format!("note: {losses}"));
    }
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

/// The result of a change that comes to something else than its command says.
fn result_of(kind: &Kind, before: &DynamicObject, field: &str, value: &Value) -> Option<&'static str> {
    let status = &before.data["status"];
    let has = if kind == &kind::VOLUME { &status["node"]["size"] } else { &status["size"] };
    match field {
        _ if before.metadata.deletion_timestamp.is_some() => Some("is being destroyed already"),
        "retire" if retires_unused(before, field, value) => Some("is to be destroyed: nobody uses it"),
        // Its node has not made the volume, or the reservation has no bytes.
        "size" if has.is_null() => Some("is to be made in that size"),
        "size" if bytes_of(value) == bytes_of(has) => Some("keeps the size that it has"),
        "verify" if status["digest"].is_null() => Some("is verified once it is sealed"),
        _ => None,
    }
}

/// Fails for another size of a volume that is sealed, or is being sealed: such a volume keeps the one that it has (E1).
fn keeps_size(before: &DynamicObject, field: &str, value: &Value) -> anyhow::Result<()> {
    let (spec, status) = (&before.data["spec"], &before.data["status"]);
    let Some(has) = status["node"]["size"].as_str().filter(|_| field == "size") else { return Ok(()) };
    if bytes_of(value) == bytes_of(&status["node"]["size"]) {
        return Ok(());
    }
    let name = before.name_any();
    match (status["digest"].is_string(), spec["sealed"] == json!(true)) {
        (true, _) => bail!(
            "volume {name} is sealed, so it keeps its {has}: for another size copy its files into another volume"
        ),
        (false, true) => bail!(
            "volume {name} is being sealed, so it keeps its {has}: {}",
            advice::ask_why(kind::VOLUME.argument(&name, None))
        ),
        (false, false) => Ok(()),
    }
}

/// Fails for the retirement of a copy, and for its end: the controller decides on both by `spec.copies` of the original (E2).
fn is_no_copy(before: &DynamicObject, field: &str) -> anyhow::Result<()> {
    match before.data["spec"]["copyOf"]["name"].as_str().filter(|_| field == "retire") {
        Some(original) => {
            let name = before.name_any();
            bail!(
                "volume {name} is a copy of volume {original}, and nothing was changed: {}",
                advice::ask_why(kind::VOLUME.argument(&name, None))
            )
        }
        None => Ok(()),
    }
}

/// The note about a loss that the change causes: a smaller reservation has less kept data (X8).
fn note_losses(kind: &Kind, before: &DynamicObject, field: &str, value: &Value) -> Option<String> {
    let status = &before.data["status"];
    let is_less = field == "size" && bytes_of(value) < bytes_of(&status["used"]);
    let kept = status["kept"].as_str().filter(|_| kind == &kind::RESERVATION && is_less)?;
    Some(format!(
        "{kept} of the reservation are kept data of destroyed volumes, which is erased as far as the smaller size needs: {}",
        advice::see_kept()
    ))
}

fn is_retirement(field: &str, value: &Value) -> bool {
    field == "retire" && *value == json!(true)
}

/// True for the retirement of a volume without a claim or a pod, also of its copies.
fn retires_unused(before: &DynamicObject, field: &str, value: &Value) -> bool {
    let status = &before.data["status"];
    let is_none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let is_unused = is_none(&status["claims"])
        && is_none(&status["users"])
        && status["copies"]["used"].as_u64().unwrap_or(0) == 0;
    is_retirement(field, value) && is_unused
}

/// Fails for a change that comes too late for an object that is being deleted.
fn too_late(kind: &Kind, object: &DynamicObject, field: &str, value: &Value) -> anyhow::Result<()> {
    let name = object.name_any();
    if object.metadata.deletion_timestamp.is_none() || is_retirement(field, value) {
        return Ok(());
    }
    let keep_for = object.data["spec"]["keepFor"].as_str().filter(|_| kind == &kind::VOLUME);
    let next = match keep_for {
        Some(time) => format!("; its data is kept for {time} after that: {}", advice::bring_back(&name)),
        None => format!(": {}", advice::ask_why(kind.argument(&name, None))),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// T4: an object that is ending is not there, and cannot be made; what is there is left alone.
    #[test]
    fn t4_a_name_that_is_taken_leads_to_the_object() {
        let object: DynamicObject =
            serde_json::from_value(json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "VolumeClaim",
                "metadata": {"name": "data", "namespace": "team"}}))
            .unwrap();
        let said = |message: &str, reason: &str| {
            let status = kube::core::Status::failure(message, reason).with_code(409);
            refused(&kube::Error::Api(status.boxed()), &kind::CLAIM, &object).to_string()
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

    /// T4, X9: whose creation is refused since a kind, a namespace or a quota lets nothing in, has a next step.
    #[test]
    fn t4_x9_a_refused_creation_has_a_step() {
        let object: DynamicObject = serde_json::from_value(json!({"apiVersion": "reservoir.dev/v1alpha1",
            "kind": "VolumeClaim", "metadata": {"name": "data", "namespace": "team"}}))
        .unwrap();
        for (message, step) in [
            ("create not allowed while custom resource definition is terminating", advice::see_kind_out()),
            (
                "unable to create new content in namespace team because it is being terminated",
                advice::leave_ending_namespace("team"),
            ),
            ("exceeded quota: few", advice::change_quota("team", "run the command again")),
        ] {
            let status = kube::core::Status::failure(message, "").with_code(405);
            let said = refused(&kube::Error::Api(status.boxed()), &kind::CLAIM, &object).to_string();
            assert_eq!(said, format!("{message}: {step}"));
        }
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
        let back = of(&kept, "retire", json!(false)).unwrap_err();
        assert!(back.ends_with("is kept for 72h after that: kubectl reservoir undelete v"), "{back}");
        assert_eq!(of(&gone, "retire", json!(true)), Ok(()));
        let mut there = volume(Value::Null, json!({}));
        assert_eq!(of(&there, "retire", json!(false)), Ok(()));
        assert!(retires_unused(&there, "retire", &json!(true)));
        for used in [json!({"claims": [{"name": "c"}]}), json!({"copies": {"used": 1}})] {
            there.data["status"] = used;
            assert!(!retires_unused(&there, "retire", &json!(true)));
        }
    }

    /// T4, E1, X8: a change says what it does, and what it does not.
    #[test]
    fn t4_a_change_of_size_says_what_comes_of_it() {
        let object = |spec: Value, status: Value| -> DynamicObject {
            let object = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "SharedPersistentVolume",
                "metadata": {"name": "v"}, "spec": spec, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let made = json!({"node": {"size": "32Mi"}, "digest": "blake3:00"});
        let sealed = object(json!({"sealed": true}), made.clone());
        let refused = |object: &DynamicObject, size: &str| {
            keeps_size(object, "size", &json!(size)).map_err(|error| error.to_string())
        };
        assert!(
            refused(&sealed, "48Mi").unwrap_err().starts_with("volume v is sealed, so it keeps its 32Mi")
        );
        assert_eq!(refused(&sealed, "32768Ki"), Ok(()), "a wish is taken back");
        let closing = object(json!({"sealed": true}), json!({"node": {"size": "32Mi"}}));
        assert!(refused(&closing, "48Mi").unwrap_err().contains("being sealed"));
        assert_eq!(refused(&object(json!({}), json!({"node": {"size": "32Mi"}})), "48Mi"), Ok(()));
        let placed = object(json!({}), json!({"size": "64Mi"}));
        let result = |kind, object: &DynamicObject, size| result_of(kind, object, "size", &json!(size));
        assert_eq!(result(&kind::VOLUME, &placed, "1Gi"), Some("is to be made in that size"));
        assert_eq!(result(&kind::RESERVATION, &placed, "1Gi"), None);
        assert_eq!(result(&kind::RESERVATION, &placed, "65536Ki"), Some("keeps the size that it has"));
        assert_eq!(result(&kind::RESERVATION, &sealed, "1Gi"), Some("is to be made in that size"));
        let verify = |object| result_of(&kind::VOLUME, object, "verify", &json!("now"));
        assert_eq!((verify(&sealed), verify(&closing)), (None, Some("is verified once it is sealed")));
        let kept = object(json!({}), json!({"size": "64Mi", "used": "48Mi", "kept": "32Mi"}));
        let note =
            |object: &DynamicObject, field, value| note_losses(&kind::RESERVATION, object, field, &value);
        assert!(
            note(&kept, "size", json!("16Mi")).unwrap().starts_with("32Mi of the reservation are kept data")
        );
        assert_eq!(note(&kept, "size", json!("48Mi")), None);
        let copy = object(json!({"copyOf": {"name": "data", "node": "n2"}}), json!({}));
        assert!(
            is_no_copy(&copy, "retire")
                .unwrap_err()
                .to_string()
                .contains("a copy of volume data, and nothing")
        );
        assert!(is_no_copy(&copy, "verify").is_ok() && is_no_copy(&sealed, "retire").is_ok());
    }

    /// T4: kinds of an earlier release drop what they do not know.
    #[test]
    fn t4_a_field_that_was_dropped_is_named() {
        let asked = json!({"role": "eng", "shared": {}, "keepFor": "72h"});
        assert_eq!(dropped(&asked, &asked), None);
        assert_eq!(dropped(&asked, &json!({"role": "eng", "shared": {}, "fsType": "ext4"})), Some("keepFor"));
    }
}
