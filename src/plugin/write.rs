//! What is written: an object of its own kind or a field of one, as whom, for real or not, and waiting until it is done.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

use super::cli::{Claim, Create, DryRun, Reserve, Write};
use super::item::{self, Kind, did_you_mean};
use super::world::explain;
use crate::api::GROUP;

/// What the API server notes as the writer of the fields.
const MANAGER: &str = "kubectl-reservoir";

/// When it is done.
pub(super) enum Done {
    /// When that condition is true for the spec that was written.
    True(&'static str),
    /// When there is no such object any more.
    Gone,
}

/// An object with those of the fields that are given.
fn manifest(kind: &Kind, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let given = |spec: Value| match spec {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    let metadata = given(json!({"name": name, "namespace": namespace}));
    json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": kind.name, "metadata": metadata, "spec": given(spec)})
}

fn pairs(pairs: &[(String, String)]) -> Option<Map<String, Value>> {
    let map = pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    Some(map).filter(|map: &Map<_, _>| !map.is_empty())
}

/// The reservation that the command line describes.
pub(super) fn reservation(args: &Reserve) -> Value {
    let spec = json!({"role": args.role, "size": args.size, "nodeDisk": args.disk, "nodeName": args.node,
        "nodeSelector": pairs(&args.node_selector), "parent": args.parent});
    manifest(&item::RESERVATION, None, &args.name, spec)
}

/// The volume.
pub(super) fn volume(args: &Create) -> Value {
    let fs_type = (!args.block && args.adopt.is_none()).then_some(&args.fs_type);
    let spec = json!({"role": args.role, "size": args.size, "reservation": args.reservation,
        "shared": (!args.exclusive).then(|| json!({})), "fsType": fs_type,
        "volumeMode": args.block.then_some("Block"), "gid": args.gid,
        "adopt": args.adopt.as_ref().map(|path| json!({"path": path}))});
    let mut manifest = manifest(&item::VOLUME, None, &args.name, spec);
    if let Some(labels) = pairs(&args.label) {
        manifest["metadata"]["labels"] = labels.into();
    }
    manifest
}

/// The claim.
pub(super) fn claim(args: &Claim, namespace: &str) -> Value {
    let selector = args.volume.is_none().then(|| {
        let mut selector = Map::new();
        selector.extend(pairs(&args.selector).map(|labels| ("matchLabels".to_owned(), labels.into())));
        selector.extend(args.min_size.as_ref().map(|size| ("minSize".to_owned(), json!(size))));
        selector
    });
    let spec = json!({"role": args.role, "volume": args.volume, "selector": selector,
        "mode": if args.read_only { "ReadOnly" } else { "ReadWrite" }});
    manifest(&item::CLAIM, Some(namespace), &args.name, spec)
}

/// The subscription, called after its first role if it has no name.
pub(super) fn subscription(roles: &[String], name: Option<&str>, namespace: &str) -> Value {
    let called =
        || roles.first().map(|role| role.to_lowercase().replace(['/', '_'], "-")).unwrap_or_default();
    let spec = json!({"roles": roles, "capabilities": ["SHARED_RESOURCES"]});
    manifest(&item::SUBSCRIPTION, Some(namespace), &name.map_or_else(called, str::to_owned), spec)
}

fn api(client: &Client, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1alpha1", kind.name), kind.plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Creates the object and waits for it, if that was asked for.
pub(super) async fn create(client: &Client, kind: &Kind, object: Value, write: &Write) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let api = api(client, kind, object.metadata.namespace.as_deref());
    let params = PostParams { dry_run: write.dry_run.is_some(), field_manager: Some(MANAGER.into()) };
    let made = match write.dry_run {
        Some(DryRun::Client) => object,
        _ => api.create(&params, &object).await.map_err(|error| explain(&error))?,
    };
    told(kind, &made, "created", write)?;
    wait(&api, kind, &made, write, &Done::True("Ready")).await
}

/// Changes one field of the spec.
pub(super) async fn change(
    client: &Client,
    kind: &Kind,
    name: &str,
    (field, value): (&str, Value),
    (what, done): (&str, Option<Done>),
    write: &Write,
) -> anyhow::Result<()> {
    let api = api(client, kind, None);
    let Some(mut before) = api.get_opt(name).await.map_err(|error| explain(&error))? else {
        let there = api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default();
        let names: Vec<String> = there.iter().map(ResourceExt::name_any).collect();
        bail!("there is no {} {name}{}", kind.name, did_you_mean(name, names.iter().map(String::as_str)));
    };
    let params = PatchParams {
        dry_run: write.dry_run.is_some(),
        field_manager: Some(MANAGER.into()),
        ..Default::default()
    };
    let changed = match write.dry_run {
        Some(DryRun::Client) => {
            before.data["spec"][field] = value;
            before.clone()
        }
        _ => {
            let patch = json!({"spec": {field: value}});
            api.patch(name, &params, &Patch::Merge(&patch)).await.map_err(|error| explain(&error))?
        }
    };
    if write.dry_run.is_none() && before.resource_version() == changed.resource_version() {
        return told(kind, &changed, "is so already", write);
    }
    told(kind, &changed, what, write)?;
    match done {
        Some(done) => wait(&api, kind, &changed, write, &done).await,
        None => Ok(()),
    }
}

/// `diskreservation.reservoir.dev/eng created`, or the object.
fn told(kind: &Kind, object: &DynamicObject, what: &str, write: &Write) -> anyhow::Result<()> {
    let dry = match write.dry_run {
        Some(DryRun::Client) => " (dry run)",
        Some(DryRun::Server) => " (server dry run)",
        None => "",
    };
    let mut object = object.clone();
    object.metadata.managed_fields = None;
    let singular = kind.name.to_lowercase();
    super::print(&write.output, &object, || format!("{singular}.{GROUP}/{} {what}{dry}\n", object.name_any()))
}

/// Waits, and tells each change of the condition on standard error.
async fn wait(
    api: &Api<DynamicObject>,
    kind: &Kind,
    written: &DynamicObject,
    write: &Write,
    done: &Done,
) -> anyhow::Result<()> {
    if !write.wait || write.dry_run.is_some() {
        return Ok(());
    }
    let (started, name) = (Instant::now(), written.name_any());
    let mut last = String::new();
    let watched = watch_object(api.clone(), &name).default_backoff();
    futures::pin_mut!(watched);
    let asked = format!("{}/{name}", kind.short);
    let asked = written.namespace().map_or(asked.clone(), |namespace| format!("{asked} -n {namespace}"));
    loop {
        let left = write.timeout.saturating_sub(started.elapsed());
        let Ok(seen) = tokio::time::timeout(left, watched.next()).await else {
            bail!(
                "it is not done after {} s ({last}), and goes on: kubectl reservoir why {asked}",
                write.timeout.as_secs()
            );
        };
        match seen.context("the watch ended")? {
            // The watch begins anew by itself.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(None) if matches!(done, Done::Gone) => {
                eprintln!("{:>4} s  gone", started.elapsed().as_secs());
                return Ok(());
            }
            Ok(None) => bail!("somebody deleted {} {name} meanwhile", kind.name),
            Ok(Some(object)) if object.uid() != written.uid() => {
                bail!("somebody made another {} {name} meanwhile", kind.name)
            }
            Ok(Some(object)) => {
                let said = standing(&object, done, written.metadata.generation);
                if let Some((_, said)) = said.as_ref().filter(|(_, said)| *said != last) {
                    eprintln!("{:>4} s  {said}", started.elapsed().as_secs());
                    last.clone_from(said);
                }
                if said.is_some_and(|(done, _)| done) {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether it is done, and what the condition says of the spec that was written.
fn standing(object: &DynamicObject, done: &Done, generation: Option<i64>) -> Option<(bool, String)> {
    let type_ = match done {
        Done::True(type_) => type_,
        Done::Gone if object.metadata.deletion_timestamp.is_some() => "Ready",
        Done::Gone => "Retiring",
    };
    let conditions = object.data["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|c| c["type"] == type_)?;
    if condition["observedGeneration"].as_i64() < generation {
        return None;
    }
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let done = matches!(done, Done::True(_)) && condition["status"] == "True";
    Some((done, format!("{}: {}", text("reason"), text("message"))))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::plugin::cli::{Cli, Command};

    /// The manifest that a line stands for.
    fn spec(line: &str) -> Value {
        let args = line.split(' ');
        match Cli::try_parse_from(["kubectl-reservoir"].into_iter().chain(args)).unwrap().command {
            Command::Reserve(args) => reservation(&args),
            Command::Create(args) => volume(&args),
            Command::Claim(args) => claim(&args, "team"),
            Command::Subscribe { roles, name, .. } => subscription(&roles, name.as_deref(), "team"),
            _ => unreachable!(),
        }
    }

    #[test]
    fn t4_a_line_is_the_manifest() {
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
            assert_eq!(spec(line)["spec"], wanted, "{line}");
        }
        assert_eq!(spec("subscribe eng/ml")["metadata"], json!({"name": "eng-ml", "namespace": "team"}));
        assert_eq!(spec("create v --role r --size 1Gi -l a=b")["metadata"]["labels"], json!({"a": "b"}));
    }

    #[test]
    fn t4_what_an_older_spec_came_to_is_not_waited_for() {
        let object = |generation: i64, status: &str| {
            let made = json!({"apiVersion": "reservoir.dev/v1alpha1", "kind": "DiskReservation", "metadata": {"name": "r"},
                "status": {"conditions": [{"type": "Resized", "status": status, "reason": "Why", "message": "said",
                    "observedGeneration": generation}]}});
            serde_json::from_value::<DynamicObject>(made).unwrap()
        };
        let seen = |object| standing(&object, &Done::True("Resized"), Some(2));
        assert_eq!(seen(object(1, "True")), None);
        assert_eq!(seen(object(2, "False")), Some((false, "Why: said".into())));
        assert_eq!(seen(object(3, "True")), Some((true, "Why: said".into())));
        assert_eq!(standing(&object(2, "True"), &Done::True("Ready"), Some(2)), None);
    }
}
