//! What there is in the cluster, as far as the caller may see it.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, Resource};

use crate::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{self, Error, Kind};

/// The objects that the views are made of.
#[derive(Default)]
pub(super) struct World {
    pub disks: Vec<NodeDisk>,
    pub roles: Vec<VolumeRole>,
    pub reservations: Vec<DiskReservation>,
    pub volumes: Vec<SharedPersistentVolume>,
    pub subscriptions: Vec<RoleSubscription>,
    pub offers: Vec<VolumeOffer>,
    pub claims: Vec<VolumeClaim>,
    pub pods: Vec<Pod>,
    /// What the caller may not see; the rest is shown all the same.
    pub unseen: Vec<String>,
}

impl World {
    /// Reads it; what is in namespaces only of `only`, or of all, or, for who may not see all, of `home`.
    pub async fn read(client: &Client, only: Option<&str>, home: &str) -> anyhow::Result<Self> {
        let mut world = Self::default();
        let unseen = &mut world.unseen;
        world.disks = cluster_wide(client, unseen).await?;
        world.roles = cluster_wide(client, unseen).await?;
        world.reservations = cluster_wide(client, unseen).await?;
        world.volumes = cluster_wide(client, unseen).await?;
        world.subscriptions = namespaced(client, only, home, unseen).await?;
        world.offers = namespaced(client, only, home, unseen).await?;
        world.claims = namespaced(client, only, home, unseen).await?;
        world.pods = namespaced(client, only, home, unseen).await?;
        Ok(world)
    }
}

async fn cluster_wide<K>(client: &Client, unseen: &mut Vec<String>) -> anyhow::Result<Vec<K>>
where
    K: Kind + Resource<Scope = k8s_openapi::ClusterResourceScope>,
{
    match cluster::list(&Api::<K>::all(client.clone()), &ListParams::default()).await {
        Err(error) if error.is_forbidden() => {
            unseen.push(format!("you may not list {}: ask for ClusterRole reservoir-viewer", K::plural(&())));
            Ok(vec![])
        }
        other => other.map_err(|error| explained(&error)),
    }
}

async fn namespaced<K>(
    client: &Client,
    only: Option<&str>,
    home: &str,
    unseen: &mut Vec<String>,
) -> anyhow::Result<Vec<K>>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let (all, plural) = (ListParams::default(), K::plural(&()));
    if only.is_none() {
        match cluster::list(&Api::<K>::all(client.clone()), &all).await {
            Err(error) if error.is_forbidden() => {
                unseen.push(format!(
                    "you may not list the {plural} of all namespaces, only {home} is looked at"
                ));
            }
            other => return other.map_err(|error| explained(&error)),
        }
    }
    let namespace = only.unwrap_or(home);
    match cluster::list(&Api::<K>::namespaced(client.clone(), namespace), &all).await {
        Err(error) if error.is_forbidden() => {
            unseen.push(format!(
                "you may not list the {plural} of namespace {namespace}: ask for Kubernetes' ClusterRole view there"
            ));
            Ok(vec![])
        }
        other => other.map_err(|error| explained(&error)),
    }
}

/// What to do about it, for people.
pub(super) fn explained(error: &Error) -> anyhow::Error {
    match error {
        Error::Api { source, .. } => explain(source),
        Error::Conflict(_) => anyhow::anyhow!("{error}: try again"),
    }
}

/// The API server's word, or why there is none, and what to do.
pub(super) fn explain(error: &kube::Error) -> anyhow::Error {
    match error {
        // The path itself is not served, as opposed to an object that is not there.
        kube::Error::Api(status) if status.code == 404 && !status.message.contains('"') => anyhow::anyhow!(
            "this cluster does not know Reservoir's kinds: install the chart (helm install reservoir charts/reservoir), \
             or name another cluster with --context"
        ),
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        other => {
            let mut said = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(deeper) = source {
                if !said.contains(&deeper.to_string()) {
                    said = format!("{said}: {deeper}");
                }
                source = deeper.source();
            }
            anyhow::anyhow!("the cluster does not answer ({said}): look at --context and --kubeconfig")
        }
    }
}
