//! Errors of the API server as messages for people.

use crate::cluster::Error;
use crate::plan::advice;

/// The API server's message with the next step.
pub(super) fn explain_cluster_error(error: &Error) -> anyhow::Error {
    match error {
        Error::Api { source, .. } => explain_api_error(source),
        Error::Conflict(_) => anyhow::anyhow!("{error}: try again"),
    }
}

/// The API server's message, or the cause of its silence with the next step.
pub(super) fn explain_api_error(error: &kube::Error) -> anyhow::Error {
    match error {
        // A 404 for a missing object quotes its name. Without a quotation the API server does not serve the
        // path.
        kube::Error::Api(status) if status.code == 404 && !status.message.contains('"') => anyhow::anyhow!(
            "this cluster does not have Reservoir's kinds: name another cluster with --context, or install the chart: {}",
            advice::install_chart("reservoir", "reservoir-system")
        ),
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        other => {
            let mut chain = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(deeper) = source {
                if !chain.contains(&deeper.to_string()) {
                    chain = format!("{chain}: {deeper}");
                }
                source = deeper.source();
            }
            anyhow::anyhow!("the cluster does not answer ({chain}): check --context and --kubeconfig")
        }
    }
}
