//! The output of a command: text for people, or JSON or YAML for programs.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{IsTerminal, Write as _};

use anyhow::bail;
use serde::Serialize;

use super::cli::{Format, Output};

tokio::task_local! {
    /// The output of a command that a program runs.
    static HEARD: RefCell<String>;
}

/// Runs a command, and returns its output beside its result.
pub(super) async fn heard<T>(command: impl Future<Output = T>) -> (T, String) {
    let command = async { (command.await, HEARD.with(RefCell::take)) };
    HEARD.scope(RefCell::default(), command).await
}

/// Prints to standard output. A reader that went away is an error.
pub(super) fn say(text: impl Display) -> std::io::Result<()> {
    match HEARD.try_with(|heard| heard.borrow_mut().push_str(&text.to_string())) {
        Ok(()) => Ok(()),
        Err(_) => write!(std::io::stdout(), "{text}"),
    }
}

/// Prints a line to standard error. Programs read the output alone.
pub(super) fn note(line: impl Display) {
    if HEARD.try_with(|_| ()).is_err() {
        eprintln!("{line}");
    }
}

pub(super) fn print(output: &Output, view: &impl Serialize, text: impl Fn() -> String) -> anyhow::Result<()> {
    Ok(say(render(output, view, text)?)?)
}

pub(super) fn render(
    output: &Output,
    view: &impl Serialize,
    text: impl Fn() -> String,
) -> anyhow::Result<String> {
    Ok(match output.output {
        Some(Format::Json) => format!("{}\n", serde_json::to_string_pretty(view)?),
        Some(Format::Yaml) => serde_yaml::to_string(view)?,
        None => text(),
    })
}

/// Asks the question on a terminal, and fails unless the answer is yes. Without a terminal only `--yes` is an answer.
pub(super) fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nothing was changed, since nobody can be asked here: add --yes");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}
