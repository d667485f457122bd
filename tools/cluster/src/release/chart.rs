//! The chart as a package, with what Artifact Hub shows of it.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use super::Release;
use crate::command::Cmd;
use crate::{chart, tools};

/// Packages the chart with the release's image into `out`, and lets Helm look for mistakes in it.
pub(super) fn package(out: &Path, release: &Release, changes: &str) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let dir = work.path().join("reservoir");
    // The chart's files/crds is a link out of it.
    Cmd::new("cp").args(["--recursive", "--dereference"]).arg(chart::path()).arg(&dir).run()?;
    let values = dir.join("values.yaml");
    let text = fs::read_to_string(&values)?;
    let repository = "\n  repository: localhost/reservoir\n";
    ensure!(text.matches(repository).count() == 1, "values.yaml of the chart has no `{}`", repository.trim());
    fs::write(&values, text.replace(repository, &format!("\n  repository: {}\n", release.image)))?;
    let description = dir.join("Chart.yaml");
    let text = fs::read_to_string(&description)?;
    ensure!(
        text.trim_end().lines().last().is_some_and(|line| line.starts_with("  ")),
        "Chart.yaml ends with its annotations"
    );
    fs::write(&description, text + &annotations(&dir, release, changes)?)?;
    let helm = || anyhow::Ok(Cmd::new(tools::helm()?).dir(work.path()));
    helm()?.args(["lint", "--strict", "reservoir"]).stdout_in_errors().run()?;
    helm()?.args(["package", "reservoir", "--destination"]).arg(out).run().map(drop)
}

/// The annotations that change with each release. Each is a text of YAML in itself.
fn annotations(dir: &Path, release: &Release, changes: &str) -> anyhow::Result<String> {
    let image = format!("{}:{}", release.image, release.version);
    let mut text = format!("  artifacthub.io/prerelease: \"{}\"\n", release.version.contains('-'));
    text += &format!(
        "  artifacthub.io/images: |\n    - name: reservoir\n      image: {image}\n      platforms: [linux/amd64, linux/arm64]\n"
    );
    text += "  artifacthub.io/crds: |\n";
    let mut files: Vec<_> = fs::read_dir(dir.join("files/crds"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        let crd = fs::read_to_string(&file)?;
        // Only the indentation tells the kind's names from those of its fields.
        let value = |key: &str| {
            let found = crd.lines().find_map(|line| line.strip_prefix(key));
            found.with_context(|| format!("{} has no line `{key}`", file.display()))
        };
        let (kind, version) = (value("    kind: ")?, value("    name: ")?);
        text += &format!(
            "    - kind: {kind}\n      version: {version}\n      name: {}\n      displayName: {kind}\n      description: {kind} of Reservoir\n",
            value("  name: ")?
        );
    }
    text += "  artifacthub.io/changes: |\n";
    for change in items(changes) {
        text += &format!("    - {}\n", serde_json::to_string(&change)?);
    }
    Ok(text)
}

/// The items of a changelog's section, each on one line.
fn items(changes: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for line in changes.lines() {
        match (line.strip_prefix("- "), items.last_mut()) {
            (Some(item), _) => items.push(item.to_owned()),
            (None, Some(item)) if line.starts_with("  ") => *item += &format!(" {}", line.trim()),
            _ => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    #[test]
    fn items_of_a_changelog_are_lines() {
        let items = super::items("# Reservoir 1\n\n### Added\n\n- one\n  and more\n- two\n\n- three\n");
        assert_eq!(items, ["one and more", "two", "three"]);
    }
}
