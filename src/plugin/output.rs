//! The output of a command: text for people, or JSON or YAML for programs.

use std::io::{IsTerminal, Write as _};

use anyhow::bail;
use serde::Serialize;

use super::cli::{Format, Output};

pub(super) fn print(output: &Output, view: &impl Serialize, text: impl Fn() -> String) -> anyhow::Result<()> {
    print!("{}", render(output, view, text)?);
    Ok(())
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
