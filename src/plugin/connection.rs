//! The connection to the cluster, by kubectl's own flags and kubeconfig.

use anyhow::Context;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use super::cli::Connection;

/// Returns a client, and the namespace for commands that name none.
pub(super) async fn connect(connection: &Connection) -> anyhow::Result<(Client, String)> {
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
