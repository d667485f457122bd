//! The output of a command: text for people, or JSON or YAML for programs.

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
