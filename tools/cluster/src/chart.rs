//! The chart's manifests, as Helm renders them.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::command::Cmd;
use crate::programs;
use crate::tools;
use crate::tour::NAMESPACE;

/// The directory of the chart.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/reservoir")
}

/// The chart's manifests with these values, as in `--set`; an error if the chart refuses the values. Blocks.
pub fn render(values: &[&str]) -> anyhow::Result<String> {
    render_on(&[], values)
}

/// The same for a cluster that these arguments describe: `--kube-version`, `--api-versions`.
pub fn render_on(cluster: &[&str], values: &[&str]) -> anyhow::Result<String> {
    let helm = Cmd::new(tools::helm()?).args(["template", "reservoir"]).arg(path()).args(cluster);
    helm.args(["--namespace", NAMESPACE]).args(values.iter().flat_map(|value| ["--set", value])).run()
}

/// Lets Helm look for mistakes in it; also what it only advises against is an error.
pub fn lint() -> anyhow::Result<()> {
    Cmd::new(tools::helm()?).args(["lint", "--strict"]).arg(path()).stdout_in_errors().run().map(drop)
}

/// The CustomResourceDefinitions of the Prometheus Operator's kinds that the chart may make, as YAML.
pub fn operator_kinds() -> anyhow::Result<Vec<String>> {
    let sources = programs::prometheus_operator_sources()?.join("example/prometheus-operator-crd");
    let read = |kind: &str| {
        let file = sources.join(format!("monitoring.coreos.com_{kind}.yaml"));
        std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))
    };
    ["podmonitors", "prometheusrules"].into_iter().map(read).collect()
}
