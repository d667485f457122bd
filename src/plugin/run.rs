//! Runs the function of each subcommand.

use std::ffi::OsString;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use jiff::Timestamp;
use kube::Client;
use serde_json::json;

use super::cli::{Cli, Command};
use super::connection::connect;
use super::doctor::{self, Facts, Level};
use super::kind::{self, Kind};
use super::output::{heard, note, print, render, say};
use super::paint::Paint;
use super::snapshot::Snapshot;
use super::tree::{self, Filter};
use super::wait::Until;
use super::watch::Changes;
use super::why::{self, Target};
use super::write;
use super::{
    complete, delete, discover, fill, kept, manifests, orphans, rights, status, subscribe, unclaim,
    uninstall, unsubscribe,
};
use crate::api::condition::{INTACT, RESIZED};
use crate::cluster;

/// Fails unless the words are a command line behind `kubectl reservoir`.
pub fn check(words: &[&str]) -> Result<(), String> {
    match parse(words) {
        Err(error) if error.kind() != ErrorKind::DisplayHelp => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["kubectl-reservoir"].iter().chain(words))
}

/// Runs the words of a command line behind `kubectl reservoir` with a client, and returns the output. The namespace is
/// `default`, unless the words name another one.
pub async fn ask(client: &Client, words: &[&str]) -> anyhow::Result<String> {
    let cli = parse(words)?;
    let namespace = cli.connection.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let (result, output) = heard(execute(cli, client, &namespace, Paint::plain())).await;
    result.map(|_| output)
}

/// Runs the command line. An error is one line on standard error.
pub async fn run(args: Vec<OsString>) -> ExitCode {
    let program = args.first().map(PathBuf::from).unwrap_or_default();
    if program.file_name().is_some_and(|name| name == "kubectl_complete-reservoir") {
        return complete::print_completions(args).await;
    }
    match dispatch(Cli::parse_from(args)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "kubectl-reservoir", &mut script);
        // For a program name with a hyphen, the bash script of clap_complete 4.6 has two spellings of the name. One
        // of them has no match.
        let script = String::from_utf8(script)?.replace("kubectl__subcmd__reservoir", "kubectl__reservoir");
        print!("{script}");
        return Ok(ExitCode::SUCCESS);
    }
    if cli.connection.all_namespaces {
        cli.command.check_all_namespaces().map_err(anyhow::Error::msg)?;
    }
    let (client, namespace) = connect(&cli.connection).await?;
    execute(cli, &client, &namespace, Paint::stdout()).await
}

async fn execute(cli: Cli, client: &Client, namespace: &str, paint: Paint) -> anyhow::Result<ExitCode> {
    let only = cli.connection.namespace.as_deref();
    match cli.command {
        Command::Status { show } => {
            let view = |snapshot: &Snapshot| {
                let status = status::status(snapshot);
                render(&show.output, &status, || status::text(&status, paint))
            };
            show_view(client, (only, namespace), show.watch, view).await?;
        }
        Command::Tree { role, show } => {
            let view = |snapshot: &Snapshot| {
                let tree = tree::tree(snapshot, &Filter { role: role.as_deref(), namespace: only });
                if tree.is_empty() {
                    role.iter().for_each(|role| snapshot.note_unknown_role(role));
                }
                render(&show.output, &tree, || tree::text(&tree, paint))
            };
            show_view(client, (only, namespace), show.watch, view).await?;
        }
        Command::Why { object, output } => {
            let target = Target::parse(&object, namespace)?;
            let mut snapshot = read_and_report(client, None, namespace).await?;
            snapshot.read_nodes(client).await?;
            if let Some(within) = &target.namespace {
                snapshot.read_namespace(client, within, target.kind).await?;
            }
            let why = why::why(&snapshot, &target).map_err(anyhow::Error::msg)?;
            print(&output, &why, || why::text(&why, paint))?;
        }
        Command::Reserve(args) => {
            let manifest = manifests::reservation_manifest(&args);
            write::create_object(client, &kind::RESERVATION, manifest, &args.write).await?;
        }
        Command::Create(args) => {
            let manifest = manifests::volume_manifest(&args);
            write::note_old_data(client, &manifest, &args.write).await?;
            write::create_object(client, &kind::VOLUME, manifest, &args.write).await?;
        }
        Command::Claim(args) => {
            let manifest = manifests::claim_manifest(&args, namespace);
            write::create_object(client, &kind::CLAIM, manifest, &args.write).await?;
        }
        Command::Subscribe { roles, name, write } => {
            subscribe::subscribe(client, &roles, name.as_deref(), namespace, &write).await?;
        }
        Command::Delete { object, write } => {
            let targets = Target::parse_all(&object, namespace)?;
            let snapshot = read_and_report(client, None, namespace).await?;
            let mut code = ExitCode::SUCCESS;
            for target in &targets {
                if let Err(error) = delete::delete_object(client, &snapshot, target, &write).await {
                    note(format!("error: {error:#}"));
                    code = ExitCode::FAILURE;
                }
            }
            return Ok(code);
        }
        Command::Unsubscribe(args) => unsubscribe::unsubscribe(client, &args, namespace).await?,
        Command::Unclaim(args) => unclaim::unclaim(client, &args, namespace).await?,
        Command::Grant(args) => rights::grant(client, &args, namespace).await?,
        Command::Revoke(args) => rights::revoke(client, &args, (only, namespace)).await?,
        Command::WhoCan { verb, role, output } => rights::who_can(client, verb, &role, &output).await?,
        Command::Retire { volume, write } => {
            let field = ("retire", json!(true));
            let result = ("is being retired", Some(Until::Deleted));
            write::change_field(client, &kind::VOLUME, &volume, field, result, &write).await?;
        }
        Command::Verify { volume, write } => {
            let field = ("verify", json!(Timestamp::now().to_string()));
            let result = ("is being verified", Some(Until::Condition(INTACT)));
            write::change_field(client, &kind::VOLUME, &volume, field, result, &write).await?;
        }
        Command::Unretire { volume, write } => {
            let field = ("retire", json!(false));
            write::change_field(client, &kind::VOLUME, &volume, field, ("is kept", None), &write).await?;
        }
        Command::Resize { object, size, write } => {
            let (kind, name) = object.split_once('/').unwrap_or(("spv", &object));
            let kind = Kind::parse(kind).map_err(anyhow::Error::msg)?;
            if kind != &kind::VOLUME && kind != &kind::RESERVATION {
                let within = kind.namespaced.then(|| namespace.to_owned());
                let target = Target::new(kind, within, name.to_owned());
                let snapshot = Snapshot::read(client, Some(namespace), namespace).await?;
                bail!("{}", why::resize_instead(&snapshot, &target, &size));
            }
            let field = ("size", json!(size));
            let result = ("is being resized", Some(Until::Condition(RESIZED)));
            write::change_field(client, kind, name, field, result, &write).await?;
        }
        Command::Disks { output, .. } => {
            let snapshot = read_and_report(client, only, namespace).await?;
            let devices = discover::list(&snapshot)?;
            print(&output, &devices, || discover::text(&devices))?;
        }
        Command::Orphans { output } => {
            let snapshot = read_and_report(client, only, namespace).await?;
            snapshot.require(&[&kind::DISK])?;
            let (orphans, unseen) = (orphans::list(&snapshot), orphans::unseen(&snapshot));
            if output.output.is_some() {
                unseen.iter().for_each(|sentence| note(format!("note: {sentence}")));
            }
            print(&output, &orphans, || orphans::text(&orphans, &unseen))?;
        }
        Command::Kept { output } => {
            let snapshot = read_and_report(client, only, namespace).await?;
            snapshot.require(&[&kind::RESERVATION])?;
            let kept = kept::list(&snapshot);
            print(&output, &kept, || kept::text(&kept))?;
        }
        Command::Fill(args) => fill::fill(client, &args, namespace).await?,
        Command::Undelete(args) => kept::undelete(client, &args, namespace).await?,
        Command::Erase(args) => kept::erase(client, &args).await?,
        Command::Recover { data, output } => orphans::print_manifests(client, &data, &output).await?,
        Command::Uninstall(args) => uninstall::uninstall(client, &args, namespace).await?,
        Command::Doctor { output } => {
            let facts = Facts::gather(client, namespace).await?;
            let findings = doctor::findings(&facts, env!("CARGO_PKG_VERSION"));
            print(&output, &findings, || doctor::text(&findings, paint))?;
            if findings.iter().any(|finding| finding.level == Level::Problem) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a view of the cluster. With `watch` it prints the view again after each change of the view's text.
async fn show_view(
    client: &Client,
    (only, namespace): (Option<&str>, &str),
    watch: bool,
    view: impl Fn(&Snapshot) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let mut changes = watch.then(|| Changes::watch(client, only));
    let mut last = None;
    loop {
        let text = view(&read_and_report(client, only, namespace).await?)?;
        if last.as_ref() != Some(&text) {
            match last {
                Some(_) if std::io::stdout().is_terminal() => say(format!("\x1b[H\x1b[2J{text}"))?,
                Some(_) => say(format!("---\n{text}"))?,
                None => say(&text)?,
            }
            std::io::stdout().flush()?;
            last = Some(text);
        }
        match &mut changes {
            Some(changes) => changes.wait().await,
            None => return Ok(()),
        }
    }
}

/// Reads a snapshot, and reports on standard error the kinds that the caller may not list.
async fn read_and_report(client: &Client, only: Option<&str>, namespace: &str) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot::read(client, only, namespace).await?;
    snapshot.leaderless = cluster::leaderless(client, cluster::CONTROLLER).await;
    for sentence in snapshot.notes() {
        note(format!("note: {sentence}"));
    }
    if let Some(namespace) = only {
        snapshot.note_unknown_namespace(client, namespace).await;
    }
    Ok(snapshot)
}
