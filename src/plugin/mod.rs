//! `kubectl reservoir` (T4): reads what there is, turns it into a view, and writes what was asked for.
//!
//! What is shown is decided by functions without a client, a file each; `World::read` gathers what they look at.

mod advice;
mod cli;
mod complete;
mod doctor;
mod item;
mod paint;
mod status;
mod tree;
mod watch;
mod why;
mod world;
mod write;

use std::ffi::OsString;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::json;

use cli::{Cli, Command, Connection, Format, Output};
use item::Kind;
use paint::Paint;
use tree::Filter;
use watch::Changes;
use why::Target;
use world::World;
use write::Done;

use crate::api::Orphan;
use crate::api::condition::RESIZED;
use crate::plan::{self, recover::Document};

/// Runs the command line; errors are one line on standard error.
pub async fn run(args: Vec<OsString>) -> ExitCode {
    let called = args.first().map(PathBuf::from).unwrap_or_default();
    if called.file_name().is_some_and(|name| name == "kubectl_complete-reservoir") {
        return completed(args).await;
    }
    match done(Cli::parse_from(args)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The cluster, and the namespace that things are in where none is named.
async fn connect(connection: &Connection) -> anyhow::Result<(Client, String)> {
    let options = KubeConfigOptions { context: connection.context.clone(), ..Default::default() };
    let kubeconfig = match &connection.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let config = match kubeconfig {
        Ok(kubeconfig) => {
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(anyhow::Error::from)
        }
        Err(_) if connection.kubeconfig.is_none() && connection.context.is_none() => {
            Config::incluster().context("there is no kubeconfig: name one with --kubeconfig or KUBECONFIG")
        }
        Err(error) => Err(error.into()),
    };
    let mut config = config.context("the kubeconfig cannot be used")?;
    if connection.as_user.is_some() {
        config.auth_info.impersonate = connection.as_user.clone();
        config.auth_info.impersonate_groups = Some(connection.as_group.clone());
    }
    let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    Ok((Client::try_from(config).context("the kubeconfig cannot be used")?, namespace))
}

async fn done(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "kubectl-reservoir", &mut script);
        // clap_complete 4.6 calls a program with a hyphen in two ways in its script for bash, of which one finds nothing.
        let script = String::from_utf8(script)?.replace("kubectl__subcmd__reservoir", "kubectl__reservoir");
        print!("{script}");
        return Ok(ExitCode::SUCCESS);
    }
    let only = cli.connection.namespace.as_deref();
    let (client, home) = connect(&cli.connection).await?;
    let paint = Paint::stdout();
    match cli.command {
        Command::Status { show } => {
            let view = |world: &World| {
                let status = status::status(world);
                rendered(&show.output, &status, || status::text(&status, paint))
            };
            shown(&client, (only, &home), show.watch, view).await?;
        }
        Command::Tree { role, show } => {
            let view = |world: &World| {
                let tree = tree::tree(world, &Filter { role: role.as_deref(), namespace: only });
                rendered(&show.output, &tree, || tree::text(&tree, paint))
            };
            shown(&client, (only, &home), show.watch, view).await?;
        }
        Command::Why { object, output } => {
            let target = target(&object, &home)?;
            let world = seen(World::read(&client, None, &home).await?);
            let why = why::why(&world, &target).map_err(anyhow::Error::msg)?;
            print(&output, &why, || why::text(&why, paint))?;
        }
        Command::Reserve(args) => {
            write::create(&client, &item::RESERVATION, write::reservation(&args), &args.write).await?;
        }
        Command::Create(args) => {
            write::create(&client, &item::VOLUME, write::volume(&args), &args.write).await?;
        }
        Command::Claim(args) => {
            write::create(&client, &item::CLAIM, write::claim(&args, &home), &args.write).await?;
        }
        Command::Subscribe { roles, name, write } => {
            let object = write::subscription(&roles, name.as_deref(), &home);
            write::create(&client, &item::SUBSCRIPTION, object, &write).await?;
        }
        Command::Retire { volume, write } => {
            let field = ("retire", json!(true));
            write::change(
                &client,
                &item::VOLUME,
                &volume,
                field,
                ("is being retired", Some(Done::Gone)),
                &write,
            )
            .await?;
        }
        Command::Unretire { volume, write } => {
            let field = ("retire", json!(false));
            write::change(&client, &item::VOLUME, &volume, field, ("is kept", None), &write).await?;
        }
        Command::Resize { object, size, write } => {
            let (kind, name) = object.split_once('/').unwrap_or(("spv", &object));
            let kind = Kind::parse(kind).map_err(anyhow::Error::msg)?;
            if kind != &item::VOLUME && kind != &item::RESERVATION {
                bail!("a {} has no size: resize spv/NAME or dr/NAME", kind.name);
            }
            let field = ("size", json!(size));
            let done = ("is being resized", Some(Done::True(RESIZED)));
            write::change(&client, kind, name, field, done, &write).await?;
        }
        Command::Orphans { output } => {
            let world = seen(World::read(&client, only, &home).await?);
            let orphans = orphans(&world);
            print(&output, &orphans, || orphans_text(&orphans))?;
        }
        Command::Recover { data, output } => return recover(&client, &data, &output).await,
        Command::Doctor { output } => {
            let facts = doctor::Facts::gather(&client, &home).await?;
            let findings = doctor::findings(&facts, env!("CARGO_PKG_VERSION"));
            print(&output, &findings, || doctor::text(&findings, paint))?;
            if findings.iter().any(|finding| finding.level == doctor::Level::Problem) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a view of what there is, and with `watch` again whenever it is another one.
async fn shown(
    client: &Client,
    (only, home): (Option<&str>, &str),
    watch: bool,
    view: impl Fn(&World) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let mut changes = watch.then(|| Changes::follow(client, only));
    let mut last = None;
    loop {
        let text = view(&seen(World::read(client, only, home).await?))?;
        if last.as_ref() != Some(&text) {
            let mut out = std::io::stdout();
            match last {
                Some(_) if out.is_terminal() => write!(out, "\x1b[H\x1b[2J{text}")?,
                Some(_) => write!(out, "---\n{text}")?,
                None => write!(out, "{text}")?,
            }
            out.flush()?;
            last = Some(text);
        }
        match &mut changes {
            Some(changes) => changes.next().await,
            None => return Ok(()),
        }
    }
}

/// Data without an object, each with the disk that it is on.
#[derive(Serialize)]
struct OrphanOn<'a> {
    disk: String,
    #[serde(flatten)]
    orphan: &'a Orphan,
}

fn orphans(world: &World) -> Vec<OrphanOn<'_>> {
    let mut all = Vec::new();
    for disk in &world.disks {
        let orphans = disk.status.iter().flat_map(|status| &status.orphans);
        all.extend(orphans.map(|orphan| OrphanOn { disk: disk.name_any(), orphan }));
    }
    all
}

fn orphans_text(orphans: &[OrphanOn]) -> String {
    if orphans.is_empty() {
        return "no data is without an object\n".into();
    }
    let mut rows = vec![["UID", "NAME", "SIZE", "ROLE", "DISK", "PROBLEM"].map(str::to_owned).to_vec()];
    for OrphanOn { disk, orphan } in orphans {
        let role = orphan.reservations.first().map(|r| r.role.clone()).unwrap_or_default();
        let problem = orphan.problem.clone().unwrap_or_default();
        let size = paint::human(orphan.size.bytes_or_zero());
        rows.push(vec![orphan.uid.clone(), orphan.name.clone(), size, role, disk.clone(), problem]);
    }
    let next = "kubectl reservoir recover prints the manifests that bring it back";
    format!("{}\n{next}\n", paint::table(&rows))
}

/// Prints the manifests, of all data or of what is named.
async fn recover(client: &Client, data: &[String], output: &Output) -> anyhow::Result<ExitCode> {
    let world = World::read(client, None, "default").await?;
    if let Some(unseen) = world.unseen.first() {
        bail!("{unseen}");
    }
    let named =
        |orphan: &Orphan| data.is_empty() || data.contains(&orphan.uid) || data.contains(&orphan.name);
    let mut disks = world.disks.clone();
    for status in disks.iter_mut().filter_map(|disk| disk.status.as_mut()) {
        status.orphans.retain(named);
    }
    let found: Vec<&Orphan> =
        disks.iter().filter_map(|d| d.status.as_ref()).flat_map(|s| &s.orphans).collect();
    let is = |name: &&String| found.iter().any(|o| o.uid == **name || o.name == **name);
    if let Some(unknown) = data.iter().find(|name| !is(name)) {
        bail!("no data without an object is called {unknown}: kubectl reservoir orphans lists what there is");
    }
    let documents = plan::recover::documents(&disks, &world.reservations, &world.volumes);
    let mut items = Vec::new();
    for document in &documents {
        match document {
            Document::Reservation(manifest) => items.push(serde_json::to_value(manifest)?),
            Document::Volume(manifest) => items.push(serde_json::to_value(manifest)?),
            Document::Said(why) if output.output.is_some() => eprintln!("note: {why}"),
            Document::Said(_) => {}
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let text = plan::recover::text(&documents)?;
    print(output, &list, || text.clone())?;
    Ok(ExitCode::SUCCESS)
}

/// kubectl asks what can follow.
async fn completed(args: Vec<OsString>) -> ExitCode {
    let words: Vec<String> = args.into_iter().skip(1).filter_map(|word| word.into_string().ok()).collect();
    let next = match complete::next(&words) {
        complete::Next::Words(words) => words,
        complete::Next::Names(kind, prefix) => {
            let names = tokio::time::timeout(Duration::from_secs(3), names(&words, kind)).await;
            // Who cannot be answered in time goes on typing.
            let names = names.ok().and_then(Result::ok).unwrap_or_default();
            names.into_iter().map(|name| format!("{prefix}{name}")).collect()
        }
    };
    for word in next {
        println!("{word}");
    }
    // No file names, and no space after what ends in a slash.
    println!(":6");
    ExitCode::SUCCESS
}

/// The names that objects of a kind have where the words that were typed look.
async fn names(words: &[String], kind: &Kind) -> anyhow::Result<Vec<String>> {
    let after = |flag: &[&str]| {
        let at = words.iter().position(|word| flag.contains(&word.as_str()))?;
        words.get(at + 1).cloned()
    };
    let connection = Connection {
        namespace: after(&["-n", "--namespace"]),
        context: after(&["--context"]),
        kubeconfig: after(&["--kubeconfig"]).map(PathBuf::from),
        as_user: None,
        as_group: vec![],
    };
    let (client, home) = connect(&connection).await?;
    let world = World::read(&client, Some(&home), &home).await?;
    Ok(match kind {
        kind if kind == &item::POD => world.pods.iter().map(ResourceExt::name_any).collect(),
        kind => {
            let kind = if kind == &item::PVC { &item::CLAIM } else { kind };
            world.items().into_iter().filter(|item| item.kind == kind).map(|item| item.name).collect()
        }
    })
}

/// Tells what could not be seen, apart from what is printed.
fn seen(world: World) -> World {
    for unseen in &world.unseen {
        eprintln!("note: {unseen}");
    }
    world
}

/// `KIND/NAME` or `KIND NAME`.
fn target(object: &[String], home: &str) -> anyhow::Result<Target> {
    let (kind, name) = match object {
        [both] => {
            both.split_once('/').with_context(|| format!("`{both}`: write KIND/NAME, such as pod/{both}"))?
        }
        [kind, name] => (kind.as_str(), name.as_str()),
        _ => bail!("write KIND/NAME, such as pod/web-0"),
    };
    let kind = Kind::parse(kind).map_err(anyhow::Error::msg)?;
    Ok(Target { kind, namespace: kind.namespaced.then(|| home.to_owned()), name: name.to_owned() })
}

fn print(output: &Output, view: &impl Serialize, text: impl Fn() -> String) -> anyhow::Result<()> {
    print!("{}", rendered(output, view, text)?);
    Ok(())
}

fn rendered(output: &Output, view: &impl Serialize, text: impl Fn() -> String) -> anyhow::Result<String> {
    Ok(match output.output {
        Some(Format::Json) => format!("{}\n", serde_json::to_string_pretty(view)?),
        Some(Format::Yaml) => serde_yaml::to_string(view)?,
        None => text(),
    })
}
