//! The command `uninstall`: Reservoir leaves a cluster, with the data kept or erased (F5).
//!
//! # Guarantees
//! - `--keep-data` erases nothing, even if a controller runs unseen. Each object is gone at once by a compare-and-swap, and
//!   is never seen as being deleted; so its data becomes an orphan (X6).
//! - `--erase` erases by ordinary deletions, with the guards of the policies (X1, R6).

mod next;

use std::time::{Duration, Instant};

use anyhow::bail;
use jiff::Timestamp;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Client, ResourceExt};
use serde_json::json;

use self::next::{Data, Installed, Object, Step, next};
use super::cli::Uninstall;
use super::doctor::Facts;
use super::errors::{explain_api_error, explain_cluster_error};
use super::kind::Kind;
use super::output::confirm;
use super::snapshot::Snapshot;
use crate::api::FINALIZER;
use crate::cluster;
use crate::plan::{advice, resize};

/// The pause between two looks at an object.
const PAUSE: Duration = Duration::from_millis(500);
/// The time in which a deleted policy stops to be in force.
const POLICIES_END: Duration = Duration::from_secs(30);

pub(super) async fn uninstall(client: &Client, args: &Uninstall, namespace: &str) -> anyhow::Result<()> {
    let data = fate(args)?;
    let mut asked = args.yes || args.dry_run;
    loop {
        let installed = gather(client, namespace).await?;
        let step = next(data, &installed, Timestamp::now());
        if let Step::EraseKept(volumes) = &step {
            let verb = if args.dry_run { "would erase" } else { "erases" };
            for volume in volumes {
                let of = volume.spec.recover.as_ref().map_or("?", |recover| &recover.uid);
                let reservation = volume.spec.reservation.as_deref().unwrap_or("?");
                println!("{verb} the kept data {of} of DiskReservation {reservation}");
            }
            if !asked {
                confirm(question(data), false)?;
                asked = true;
            }
        }
        if let Step::Delete(objects) | Step::Remove(objects) = &step
            && !objects.is_empty()
        {
            let verb = if args.dry_run { "would remove" } else { "removes" };
            objects.iter().for_each(|object| println!("{verb} {object}"));
            if !asked {
                confirm(question(data), false)?;
                asked = true;
            }
        }
        match step {
            Step::First(why) => bail!("{why}"),
            Step::Then(next) => {
                println!("{next}");
                return Ok(());
            }
            Step::Delete(_) | Step::EraseKept(_) if args.dry_run => {
                let first = if let Step::Delete(first) = step { first } else { vec![] };
                for object in next::erased(&installed).into_iter().flatten() {
                    if !first.contains(&object) {
                        println!("and then {object}{}", size_of(&installed, &object));
                    }
                }
                println!("and then Reservoir's kinds");
                return Ok(());
            }
            Step::Remove(_) if args.dry_run => return Ok(()),
            Step::Delete(objects) => delete(client, &objects, args.timeout).await?,
            Step::EraseKept(volumes) => {
                let api = Api::all(client.clone());
                for volume in &volumes {
                    api.create(&PostParams::default(), volume)
                        .await
                        .map_err(|error| explain_api_error(&error))?;
                }
                let started = Instant::now();
                let objects: Vec<Object> = volumes.iter().map(next::object).collect();
                until_gone(client, &objects, started, args.timeout).await?;
            }
            Step::Remove(objects) => {
                for object in &objects {
                    remove(client, object).await?;
                }
                println!("{}", farewell(data));
                return Ok(());
            }
        }
    }
}

/// The fate of the data, which nobody guesses.
fn fate(args: &Uninstall) -> anyhow::Result<Data> {
    match (args.keep_data, args.erase) {
        (true, _) => Ok(Data::Keep),
        (false, true) => Ok(Data::Erase),
        (false, false) => {
            bail!("say what becomes of the data: --keep-data leaves it on the disks, and --erase erases it")
        }
    }
}

/// ` of 1Gi`; empty for an object without a size.
fn size_of(installed: &Installed, object: &Object) -> String {
    let Snapshot { volumes, reservations, .. } = &installed.facts.snapshot;
    let sizes = volumes.iter().map(|v| (next::object(v), resize::size_now(v)));
    let mut sizes = sizes.chain(reservations.iter().map(|r| (next::object(r), &r.spec.size)));
    sizes.find(|(of, _)| of == object).map(|(_, size)| format!(" of {size}")).unwrap_or_default()
}

fn question(data: Data) -> &'static str {
    match data {
        Data::Keep => "Remove these objects? The data stays on the disks.",
        Data::Erase => "Erase the data of all volumes? Nobody can bring it back.",
    }
}

fn farewell(data: Data) -> &'static str {
    match data {
        Data::Keep => {
            "Reservoir's kinds and objects are gone, and the data is on the disks: install the chart again, and run \
             `kubectl reservoir recover` to have it back"
        }
        Data::Erase => {
            "Reservoir's kinds and objects are gone; the directories of its disks have no volume any more"
        }
    }
}

/// A missing right with the next step.
fn for_administrators(error: cluster::Error) -> anyhow::Error {
    let explained = explain_cluster_error(&error);
    match error.is_forbidden() {
        true => explained.context("this is for an administrator of the cluster (ClusterRole cluster-admin)"),
        false => explained,
    }
}

async fn gather(client: &Client, namespace: &str) -> anyhow::Result<Installed> {
    let all = ListParams::default();
    Ok(Installed {
        facts: Facts::gather(client, namespace).await?,
        persistent_volumes: cluster::list(&Api::all(client.clone()), &all)
            .await
            .map_err(for_administrators)?,
        capacities: cluster::list(&Api::all(client.clone()), &all).await.map_err(for_administrators)?,
    })
}

fn api_of(client: &Client, object: &Object) -> Api<DynamicObject> {
    match &object.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &object.resource),
        None => Api::all_with(client.clone(), &object.resource),
    }
}

/// Reads an object; `None`: it is gone, perhaps with its kind.
async fn read(api: &Api<DynamicObject>, object: &Object) -> anyhow::Result<Option<DynamicObject>> {
    api.get_opt(&object.name).await.map_err(|error| explain_api_error(&error))
}

/// Deletes the objects, and waits until they are gone.
async fn delete(client: &Client, objects: &[Object], timeout: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    for object in objects {
        match api_of(client, object).delete(&object.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            done => drop(done.map_err(|error| explain_api_error(&error))?),
        }
    }
    until_gone(client, objects, started, timeout).await
}

async fn until_gone(
    client: &Client,
    objects: &[Object],
    started: Instant,
    timeout: Duration,
) -> anyhow::Result<()> {
    for object in objects {
        let api = api_of(client, object);
        while let Some(waits) = read(&api, object).await? {
            if started.elapsed() > timeout {
                bail!("{}", still_there(object, &waits, timeout));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// The failure of a wait, with what the object says and the step. A PersistentVolumeClaim says nothing itself.
fn still_there(object: &Object, seen: &DynamicObject, timeout: Duration) -> String {
    let conditions = seen.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let said = ready.and_then(|ready| ready["message"].as_str());
    let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
    let kind = Kind::parse(&object.resource.kind);
    let argument = kind.map(|kind| kind.argument(&object.name, object.namespace.as_deref()));
    let step = argument.map(|argument| format!(": {}", advice::ask_why(argument))).unwrap_or_default();
    format!("{object} is still there after {} s{said}{step}", timeout.as_secs())
}

/// Removes an object without an end that anybody carries out: first Reservoir's finalizer goes, then exactly the object
/// without it. A controller that puts the finalizer back makes the deletion fail, and both are repeated.
async fn remove(client: &Client, object: &Object) -> anyhow::Result<()> {
    let (api, started) = (api_of(client, object), Instant::now());
    loop {
        let Some(found) = read(&api, object).await? else { return Ok(()) };
        let foreign: Vec<&String> = found.finalizers().iter().filter(|name| *name != FINALIZER).collect();
        let bare = match foreign.len() == found.finalizers().len() {
            true => Ok(found.clone()),
            false => {
                let metadata = json!({ "finalizers": foreign, "resourceVersion": found.resource_version() });
                let patch = Patch::Merge(json!({ "metadata": metadata }));
                api.patch(&object.name, &PatchParams::default(), &patch).await
            }
        };
        let done = match bare {
            Ok(bare) => {
                let seen = Preconditions { uid: bare.uid(), resource_version: bare.resource_version() };
                let params = DeleteParams { preconditions: Some(seen), ..Default::default() };
                api.delete(&object.name, &params).await.map(drop)
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                if let Some(kept) = foreign.first().filter(|_| object.resource.group == crate::api::GROUP) {
                    eprintln!("note: {object} is kept by finalizer {kept} of somebody else: remove that");
                }
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            // Another writer was first, or a policy that is gone is still in force.
            Err(kube::Error::Api(status))
                if (status.is_conflict() || status.is_forbidden()) && started.elapsed() < POLICIES_END =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(explain_api_error(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::plugin::cli::{Cli, Command};

    /// T4, F3: a finished pod keeps a PersistentVolumeClaim, which itself says nothing of that.
    #[test]
    fn t4_what_is_not_gone_leads_on() {
        let object = |kind: &str, status| {
            let seen: DynamicObject = serde_json::from_value(
                json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "c"}, "status": status}),
            )
            .unwrap();
            let gvk = kube::core::GroupVersionKind::gvk("", "v1", kind);
            let resource = kube::api::ApiResource::from_gvk(&gvk);
            let object = Object { resource, namespace: Some("ns".into()), name: "c".into() };
            still_there(&object, &seen, Duration::from_secs(60))
        };
        assert_eq!(
            object("PersistentVolumeClaim", json!({"phase": "Bound"})),
            "PersistentVolumeClaim ns/c is still there after 60 s: kubectl reservoir why pvc/c -n ns"
        );
        assert_eq!(
            object("VolumeClaim", json!({"conditions": [{"type": "Ready", "message": "said"}]})),
            "VolumeClaim ns/c is still there after 60 s (said): kubectl reservoir why vclaim/c -n ns"
        );
    }

    /// T4: both ways are named, and none is guessed.
    #[test]
    fn t4_uninstall_asks_what_becomes_of_the_data() {
        let of = |line: &str| {
            let words = ["kubectl-reservoir", "uninstall"].into_iter().chain(line.split_whitespace());
            let Command::Uninstall(args) = Cli::try_parse_from(words).ok()?.command else { return None };
            Some(fate(&args).map_err(|error| error.to_string()))
        };
        assert!(matches!(of("--keep-data"), Some(Ok(Data::Keep))));
        assert!(matches!(of("--erase --yes"), Some(Ok(Data::Erase))));
        let Some(Err(asked)) = of("") else { panic!() };
        assert!(asked.contains("--keep-data") && asked.contains("--erase"), "{asked}");
        assert!(of("--erase --keep-data").is_none(), "one of them");
    }
}
