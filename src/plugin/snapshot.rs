//! The objects of the cluster that the caller may list.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, Resource};

use super::errors::explain_cluster_error;
use crate::api::{
    DiskReservation, NodeDisk, RoleSubscription, SharedPersistentVolume, VolumeClaim, VolumeOffer, VolumeRole,
};
use crate::cluster::{self, Kind};

/// The input of every view.
#[derive(Default)]
pub(super) struct Snapshot {
    pub disks: Vec<NodeDisk>,
    pub roles: Vec<VolumeRole>,
    pub reservations: Vec<DiskReservation>,
    pub volumes: Vec<SharedPersistentVolume>,
    pub subscriptions: Vec<RoleSubscription>,
    pub offers: Vec<VolumeOffer>,
    pub claims: Vec<VolumeClaim>,
    pub pods: Vec<Pod>,
    /// A message for each kind that the caller may not list.
    pub denied: Vec<String>,
}

impl Snapshot {
    /// Lists every kind. Namespaced kinds are listed in namespace `only`, or else in all namespaces. If the
    /// caller may not list all namespaces, they are listed in `namespace`.
    pub async fn read(client: &Client, only: Option<&str>, namespace: &str) -> anyhow::Result<Self> {
        let mut snapshot = Self::default();
        let denied = &mut snapshot.denied;
        snapshot.disks = list_cluster_wide(client, denied).await?;
        snapshot.roles = list_cluster_wide(client, denied).await?;
        snapshot.reservations = list_cluster_wide(client, denied).await?;
        snapshot.volumes = list_cluster_wide(client, denied).await?;
        snapshot.subscriptions = list_namespaced(client, only, namespace, denied).await?;
        snapshot.offers = list_namespaced(client, only, namespace, denied).await?;
        snapshot.claims = list_namespaced(client, only, namespace, denied).await?;
        snapshot.pods = list_namespaced(client, only, namespace, denied).await?;
        Ok(snapshot)
    }
}

impl Snapshot {
    /// The pods that use a claim and have not ended.
    pub fn pods_of(&self, namespace: &str, claim: &str) -> impl Iterator<Item = &Pod> {
        let named = (namespace.to_owned(), claim.to_owned());
        self.pods
            .iter()
            .filter(move |pod| !cluster::is_terminal(pod) && cluster::claims_of(pod).contains(&named))
    }
}

async fn list_cluster_wide<K>(client: &Client, denied: &mut Vec<String>) -> anyhow::Result<Vec<K>>
where
    K: Kind + Resource<Scope = k8s_openapi::ClusterResourceScope>,
{
    match cluster::list(&Api::<K>::all(client.clone()), &ListParams::default()).await {
        Err(error) if error.is_forbidden() => {
            denied.push(format!("you may not list {}: ask for ClusterRole reservoir-viewer", K::plural(&())));
            Ok(vec![])
        }
        other => other.map_err(|error| explain_cluster_error(&error)),
    }
}

async fn list_namespaced<K>(
    client: &Client,
    only: Option<&str>,
    namespace: &str,
    denied: &mut Vec<String>,
) -> anyhow::Result<Vec<K>>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let (all, plural) = (ListParams::default(), K::plural(&()));
    if only.is_none() {
        match cluster::list(&Api::<K>::all(client.clone()), &all).await {
            Err(error) if error.is_forbidden() => {
                denied.push(format!(
                    "you may not list the {plural} of all namespaces: only namespace {namespace} is shown"
                ));
            }
            other => return other.map_err(|error| explain_cluster_error(&error)),
        }
    }
    let namespace = only.unwrap_or(namespace);
    match cluster::list(&Api::<K>::namespaced(client.clone(), namespace), &all).await {
        Err(error) if error.is_forbidden() => {
            denied.push(format!(
                "you may not list the {plural} of namespace {namespace}: ask for Kubernetes' ClusterRole view there"
            ));
            Ok(vec![])
        }
        other => other.map_err(|error| explain_cluster_error(&error)),
    }
}
