//! `kubectl reservoir` (T4): reads what there is, turns it into a view, and writes what was asked for.
//!
//! What is shown is decided by functions without a client, a file each; `World::read` gathers what they look at.

mod advice;
mod cli;
mod item;
mod paint;
mod status;
mod tree;
mod why;
mod world;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde::Serialize;

use cli::{Cli, Command, Connection, Format, Output};
use item::Kind;
use paint::Paint;
use tree::Filter;
use why::Target;
use world::World;

/// Runs the command line; errors are one line on standard error.
pub async fn run(args: Vec<OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    match done(cli).await {
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
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(anyhow::Error::from),
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
        clap_complete::generate(shell, &mut Cli::command(), "kubectl-reservoir", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let only = cli.connection.namespace.as_deref();
    let (client, home) = connect(&cli.connection).await?;
    let paint = Paint::stdout();
    match cli.command {
        Command::Status { show } => {
            let world = seen(World::read(&client, only, &home).await?);
            let status = status::status(&world);
            print(&show.output, &status, || status::text(&status, paint))?;
        }
        Command::Tree { role, show } => {
            let world = seen(World::read(&client, only, &home).await?);
            let tree = tree::tree(&world, &Filter { role: role.as_deref(), namespace: only });
            print(&show.output, &tree, || tree::text(&tree, paint))?;
        }
        Command::Why { object, output } => {
            let target = target(&object, &home)?;
            let world = seen(World::read(&client, None, &home).await?);
            let why = why::why(&world, &target).map_err(anyhow::Error::msg)?;
            print(&output, &why, || why::text(&why, paint))?;
        }
        _ => bail!("not yet"),
    }
    Ok(ExitCode::SUCCESS)
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
        [both] => both.split_once('/').with_context(|| format!("`{both}`: write KIND/NAME, such as pod/{both}"))?,
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
